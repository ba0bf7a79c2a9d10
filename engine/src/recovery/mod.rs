//! Recovery: from the bytes of the journal to a store that goes on where its acknowledgements left off.
//!
//! Three parts that do not overlap. [`scan`] only reads: bytes to facts. [`decide`] is a pure table: facts to an
//! action. Repair, and [`torn`] for it, is the one place that writes. [`check`] runs the first two for a person who
//! asks what is wrong, and repairs nothing. [`settle`] tells damage from a store that moves on under a look.
//!
//! What must hold: the journal's tail is cut only where no proof covers it. What a proof covers and cannot be read is
//! corruption, and the open fails with the range of LSNs. Nothing is decided by what a file's name or header says
//! alone: each frame names its store, its use of the file, its place and its predecessor.

mod disk;
mod past;

pub mod check;
pub mod decide;
pub mod repair;
pub mod replay;
pub mod scan;
pub mod settle;
pub mod torn;

#[cfg(test)]
mod tests;

use crate::error::Result;
use crate::format::manifest::Manifest;
use crate::io::Io;
use scan::{Facts, Sink};
use std::path::Path;

/// What the files in `dir` say beside `manifest`: the journal, each accepted frame of which goes to `sink`, in order, and
/// the segments that were never committed. It only reads.
///
/// # Errors
/// As [`scan::scan`]; [`crate::ErrorKind::Io`] if the segments cannot be listed or one of them not opened.
pub fn gather(io: &dyn Io, dir: &Path, manifest: &Manifest, sink: &mut Sink<'_>) -> Result<Facts> {
    let mut facts = scan::scan(io, dir, &manifest.identity, &manifest.flushed, sink)?;
    past::survey_segments(io, dir, manifest, &mut facts)?;
    Ok(facts)
}
