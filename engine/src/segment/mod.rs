//! Segments: sealed, immutable files that hold the records of many logs, clustered by log. docs/FORMAT.md, "Segment".
//!
//! A segment is written once, front to back ([`SegmentWriter`]), read back by separate code ([`read_back`]), and then
//! only read ([`Segment`]). Which segments make up the store is the manifest's business, and what state records add up
//! to is the store's. Invariant: bytes that cannot be proved intact are never served and never taken for "absent";
//! only a damaged filter block is no damage to a reader, since it merely answers "maybe".

mod chunk;
mod compress;
mod filter;
mod index;
mod names;
mod output;
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
pub use crate::format::segment::IndexEntry;
pub use crate::format::state::{Group, StateRecord};
pub use chunk::Chunk;
pub use reader::Segment;
pub use writer::SegmentWriter;

use crate::error::{Error, ErrorKind, Result};
use crate::format::manifest::SegmentMeta;
use crate::io::pipeline::Pipeline;
use crate::io::{AlignedBuf, Io, OpenMode};
use crate::types::SegmentId;
use std::path::{Path, PathBuf};

/// What is read or written at once, in bytes.
const PIECE_BYTES: usize = 512 << 10;
/// Pieces of a new segment being written at once: the more, the longer the journal's frames wait for the device.
const WRITES_IN_FLIGHT: usize = 3;
/// Pieces being read back at once.
const READS_IN_FLIGHT: usize = 4;

/// The directory of segments in a store's directory.
#[must_use]
pub fn directory(dir: &Path) -> PathBuf {
    dir.join("segments")
}

/// The segment's file in the store's directory `dir`.
#[must_use]
pub fn path(dir: &Path, id: SegmentId) -> PathBuf {
    directory(dir).join(format!("{:016x}.seg", id.0))
}

/// Reads the whole segment from the disk, past the page cache, and compares its length and its digest with `meta`. Done
/// before anything behind the segment is released; shares no code with the writer or the reader.
///
/// # Errors
/// [`ErrorKind::Damaged`] if it is not what was written; [`ErrorKind::Io`].
pub fn read_back(io: &dyn Io, dir: &Path, meta: &SegmentMeta) -> Result<()> {
    let path = path(dir, meta.id);
    let file = io.open(&path, OpenMode::ReadDirect)?;
    let mut hasher = blake3::Hasher::new();
    let mut pipeline = Pipeline::new(io, &file, READS_IN_FLIGHT)?;
    let (mut asked, mut read) = (0, 0);
    let mut spare = Vec::new();
    loop {
        // One piece past the expected end is asked for as well: a file that is too long is noticed.
        while pipeline.room() && asked <= meta.bytes {
            pipeline.read(asked, spare.pop().unwrap_or_else(|| AlignedBuf::with_capacity(PIECE_BYTES)))?;
            asked += PIECE_BYTES as u64;
        }
        let Some(buf) = pipeline.take()? else { break };
        hasher.update(&buf);
        read += buf.len() as u64;
        spare.push(buf);
    }
    if read != meta.bytes {
        return Err(damaged(&path, read, format!("{read} bytes were read back of {} written", meta.bytes)));
    }
    if hasher.finalize() != meta.digest {
        return Err(damaged(&path, 0, "what was read back has another digest than what was written"));
    }
    Ok(())
}

/// Something about the segment `file` that cannot be proved intact.
fn damaged(file: &Path, offset: u64, what: impl Into<String>) -> Error {
    Error::new(ErrorKind::Damaged, what)
        .file(file)
        .offset(offset)
        .remedy("verify the store to see all that is affected, and restore it from a copy")
}
