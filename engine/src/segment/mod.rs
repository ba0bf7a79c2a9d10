//! Segments: sealed, immutable files that hold the records of many logs, clustered by log. docs/FORMAT.md, "Segment".
//!
//! A segment is written once, front to back ([`SegmentWriter`]), read back by separate code ([`ReadBack`]), and then
//! only read ([`Segment`]). Which segments make up the store is the manifest's business, and what state records add up
//! to is the store's. Invariant: bytes that cannot be proved intact are never served and never taken for "absent";
//! only a damaged lookup block is no damage to a reader, since it merely answers "maybe".

mod ahead;
mod chunk;
mod compress;
mod cursor;
mod ends;
mod filter;
mod index;
mod members;
mod names;
mod output;
mod read_ahead;
mod read_back;
mod reader;
mod stream;
mod verify;
mod view;
mod writer;

#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

pub use crate::format::chunk::ChunkEntry;
pub use crate::format::segment::{IndexEntry, Origin};
pub use crate::format::state::{Group, StateRecord};
pub use chunk::Chunk;
pub use cursor::{Cursor, Names};
pub use ends::Ends;
pub use index::IndexPlace;
pub(crate) use members::Members;
pub use read_back::ReadBack;
pub use reader::{Run, Segment, last_lsn};
pub use verify::Check;
pub use writer::{Name, SegmentWriter};

use crate::error::{Error, ErrorKind};
use crate::types::SegmentId;
use std::path::{Path, PathBuf};

/// What is read or written at once, in bytes.
const PIECE_BYTES: usize = 512 << 10;
/// Pieces of a new segment being written at once: the more, the longer the journal's frames wait for the device.
const WRITES_IN_FLIGHT: usize = 3;

/// The directory of segments in a store's directory.
#[must_use]
pub fn directory(dir: &Path) -> PathBuf {
    dir.join("segments")
}

/// The segment's file in the store's directory `dir`.
#[must_use]
pub fn path(dir: &Path, id: SegmentId) -> PathBuf {
    directory(dir).join(file_name(id))
}

fn file_name(id: SegmentId) -> String {
    format!("{:016x}.seg", id.0)
}

/// The segment that a file of this name is; None if it is not a segment's name.
#[must_use]
pub fn id_of(name: &str) -> Option<SegmentId> {
    let id = SegmentId(u64::from_str_radix(name.strip_suffix(".seg")?, 16).ok()?);
    (file_name(id) == name).then_some(id)
}

/// Something about the segment `file` that cannot be proved intact.
fn damaged(file: &Path, offset: u64, what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Damaged, what)
        .file(file)
        .offset(offset)
        .remedy("verify the store to see all that is affected, and restore it from a copy")
}
