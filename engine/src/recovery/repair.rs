//! The last part of recovery: the one place that writes. It makes durable what was accepted, keeps what was cut, and
//! clears away what nothing refers to.
//!
//! A crash within leaves the journal as it was: the accepted frames are synced or written again as the same bytes, the
//! bytes past the cut are copied and not touched, and the files removed are named by nothing. The next open scans the
//! same bytes, decides the same, and does the rest.

use super::replay::Extent;
use super::scan::Facts;
use super::torn;
use crate::error::{Error, ErrorKind, Result};
use crate::format::cold::{Epochs, RESTORE_FILE_NAME};
use crate::format::frame::FrameHeader;
use crate::format::identity::{self, Identity};
use crate::format::manifest::Manifest;
use crate::io::{Io, OpenMode};
use crate::journal::names;
use crate::manifest;
use crate::mutants::{self, Mutant};
use crate::segment;
use crate::types::SegmentId;
use std::path::{Path, PathBuf};

/// Makes durable what recovery rests on, before anything of it is visible. First the directories: a process killed in a
/// commit may have renamed its manifest and not synced that, and journal frames written from now on name that version.
/// Then every accepted frame: a killed process may have left it in the page cache or in the device's, where it can be
/// read and still be lost with the power.
///
/// A sync alone does not do: where an earlier one failed, by the process before or by an open that gave up there, the
/// bytes may be lost, go on being read, and count as clean, so that the next sync succeeds over nothing. So the frames
/// are written again, the same bytes: those that no watermark proves, whose write nobody saw complete; and through the
/// page cache all of them. A crash in the middle leaves each sector as it was. What is read for it is looked at once
/// more: a disk that gives other bytes at the second time would have them put over the good ones.
///
/// # Errors
/// [`ErrorKind::Io`], or [`ErrorKind::Damaged`] if an accepted frame does not read back: nothing may be opened.
pub fn make_durable(io: &dyn Io, dir: &Path, identity: &Identity, facts: &Facts, extents: &[Extent]) -> Result<()> {
    if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        io.sync_dir(parent)?;
    }
    let segments = segment::directory(dir);
    if let Err(e) = io.sync_dir(&segments) {
        if e.os_error().is_none_or(|e| e.kind() != std::io::ErrorKind::NotFound) {
            return Err(e);
        }
        // Many a copy leaves out directories that are empty; a segment that is missing was damage before this.
        io.create_dir(&segments)?;
        io.sync_dir(&segments)?;
    }
    io.sync_dir(dir)?;
    let extents = if mutants::makes(Mutant::RecoveredNotRewritten) { &[] } else { extents };
    for file in &facts.files {
        let Some(journal) = file.in_chain_of else { continue };
        let open = io.open(&file.path, OpenMode::WriteDirect)?;
        if mutants::makes(Mutant::RecoveredUnsynced) {
            continue;
        }
        let unsure = |extent: &&Extent| extent.journal == journal && (io.buffered() || extent.frame > facts.watermark);
        for extent in extents.iter().filter(unsure) {
            let mut frame = io.read_at(&open, extent.position, extent.len as usize)?;
            frame.set_len(frame.len().min(extent.len as usize));
            if !is_as_accepted(&frame, extent, identity) {
                return Err(Error::new(ErrorKind::Damaged, "an accepted frame reads differently a second time")
                    .file(&file.path)
                    .offset(extent.position)
                    .remedy(
                        "check the disk and the memory, and open the store again; what stood there was not changed",
                    ));
            }
            io.write_at(&open, extent.position, frame, !io.buffered())?;
        }
        io.sync(&open)?;
    }
    Ok(())
}

/// Whether this is the frame of that number, whole.
fn is_as_accepted(frame: &[u8], extent: &Extent, identity: &Identity) -> bool {
    let salt = identity.salt(extent.journal);
    let header = FrameHeader::decode(frame, identity.store, extent.journal, salt, extent.position);
    header.is_ok_and(|header| {
        (header.frame, header.frame_len) == (extent.frame, extent.len) && header.payload_intact(frame, salt)
    })
}

/// Keeps the bytes past the cut as `.torn` files; gives their paths.
///
/// # Errors
/// [`crate::ErrorKind::Io`].
pub fn keep_torn(io: &dyn Io, dir: &Path, facts: &Facts) -> Result<Vec<PathBuf>> {
    torn::keep(io, dir, facts)
}

/// Removes files under way to their names, and segments that the manifest does not name: a flush or a creation died
/// before it committed them, and recovery has asked the segments what they prove. What cannot be removed stays and does no
/// harm, and so does what has a name that the engine gives to no file.
///
/// # Errors
/// [`crate::ErrorKind::Io`] if the directory cannot be listed.
pub fn sweep(io: &dyn Io, dir: &Path, manifest: &Manifest) -> Result<()> {
    for name in io.list(dir)?.iter().filter(|name| is_temporary(name)) {
        let _ = io.remove(&dir.join(name));
    }
    let named: Vec<PathBuf> = manifest.segments.iter().map(|meta| segment::path(dir, meta.id)).collect();
    let segments = segment::directory(dir);
    for name in io.list(&segments)? {
        let path = segments.join(&name);
        if segment::id_of(&name).is_some() && !named.contains(&path) {
            tracing::info!(file = %path.display(), "removed a segment that was never committed");
            let _ = io.remove(&path);
        }
    }
    Ok(())
}

/// Whether a file of the directory has this name until it is whole.
fn is_temporary(name: &str) -> bool {
    let Some(whole) = name.strip_suffix(".tmp") else { return false };
    whole == identity::FILE_NAME
        || whole == Epochs::FILE_NAME
        || whole == RESTORE_FILE_NAME
        || names::parse(whole).is_some()
        || names::is_torn(whole)
        || manifest::version_of(whole).is_some()
}

/// The first segment id that is free: past what the manifest says, and past any file that is there.
///
/// # Errors
/// [`crate::ErrorKind::Io`] if the directory cannot be listed.
pub fn next_segment(io: &dyn Io, dir: &Path, manifest: &Manifest) -> Result<SegmentId> {
    let highest =
        io.list(&segment::directory(dir))?.iter().filter_map(|name| segment::id_of(name)).max().unwrap_or(SegmentId(0));
    Ok(manifest.next_segment.max(highest.next()))
}
