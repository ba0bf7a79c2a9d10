//! Keeping the bytes past a cut, for a person to look at, before their file is used again.
//!
//! It decides nothing and changes no journal file. Invariant: when [`keep`] returns, each kept tail is durable under
//! its name, or the error says that it is not; called again after a crash it makes the same files again.

use super::disk::WINDOW;
use super::scan::{Facts, FileFacts};
use crate::error::Result;
use crate::io::{Io, OpenMode};
use crate::journal::names;
use crate::types::BLOCK;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Copies what [`FileFacts::torn`] names of each file into a `.torn` file of its own, and returns their paths. Must
/// be called before the header of the new use is written: afterwards a scan takes these bytes for decided.
///
/// # Errors
/// [`crate::ErrorKind::Io`].
pub fn keep(io: &dyn Io, dir: &Path, facts: &Facts) -> Result<Vec<PathBuf>> {
    let mut kept = Vec::new();
    for file in &facts.files {
        let (Some(range), Some(journal)) = (&file.torn, file.journal) else { continue };
        let path = dir.join(names::torn_name(file.slot, journal));
        copy(io, file, range.clone(), &path)?;
        kept.push(path);
    }
    if !kept.is_empty() {
        io.sync_dir(dir)?;
    }
    Ok(kept)
}

/// Copies the range under a temporary name, in windows, so that memory is bounded however large a tail is.
fn copy(io: &dyn Io, file: &FileFacts, range: Range<u64>, to: &Path) -> Result<()> {
    assert!(range.start.is_multiple_of(BLOCK as u64), "torn ranges begin with a frame");
    let mut temporary = to.as_os_str().to_owned();
    temporary.push(".tmp");
    let temporary = PathBuf::from(temporary);
    if let Err(e) = io.remove(&temporary)
        && e.os_error().is_none_or(|e| e.kind() != std::io::ErrorKind::NotFound)
    {
        return Err(e);
    }
    let from = io.open(&file.path, OpenMode::ReadDirect)?;
    let out = io.open(&temporary, OpenMode::Create)?;
    let mut at = range.start;
    while at < range.end {
        let len = (range.end - at).min(WINDOW as u64) as usize;
        let mut part = io.read_at(&from, at, len)?;
        part.set_len(part.len().min(len));
        if part.is_empty() {
            break;
        }
        let read = part.len() as u64;
        io.write_at(&out, at - range.start, part, false)?;
        at += read;
    }
    io.sync(&out)?;
    io.rename(&temporary, to)
}
