//! Restoring a store from one of its cold stores into a directory, as it is or as it was.
//!
//! [`found`] looks for what the cold store has: the newest version of the manifest that counts and the tail behind it,
//! or those of a moment of the past. [`frames`] writes the tail's frames as journal files, each at its own place, so
//! that the open that follows recovers them as it would after a crash. This file brings the segments and puts the rest
//! around them.
//!
//! The steps, and what a crash leaves: a file RESTORE, which says what is being restored, and without which a directory
//! with anything in it is refused; segments, each under its name only once it was proved whole; journal files; EPOCH;
//! the manifest; CARRIED, if the caller carries something over; IDENTITY, which makes it a store; then RESTORE goes. Begun again, it finds which segments are there,
//! and writes the rest anew, also if another moment is wanted by then. A restored store that was never opened is
//! brought up to date in the same way. Nothing is changed in the cold store; what lies past the moment there is left
//! aside by the first open (`ship/tenant.rs`).
//!
//! What cannot be read is named: of a segment that is damaged there, what is sound can be read, if its ends are; a tail ends
//! where it cannot be read on. A store that lacks a whole segment does not open.

mod found;
mod frames;
mod parts;

pub use found::{Found, look};
pub use parts::Together;

use crate::cold::{ColdStore, damaged, failed, keys};
use crate::error::{Error, ErrorKind, Result};
use crate::format::cold::{Epochs, RESTORE_FILE_NAME, Restored, Tenancy};
use crate::format::frame::FrameHeader;
use crate::format::identity::FILE_NAME as IDENTITY;
use crate::format::manifest::{Manifest, SegmentMeta};
use crate::io::{File, Io, OpenMode};
use crate::journal::names;
use crate::segment::ReadBack;
use crate::types::{AsOf, BLOCK, Epoch, Lsn, StoreId, TimeUs};
use crate::{manifest, segment};
use frames::Frames;
use parts::{Fetched, Wanted};
use std::path::Path;

/// What a restore brings, and what devices are to do about what they have and it has not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RestoreMode {
    /// The newest state. Devices are to put back what is missing.
    #[default]
    Heal,
    /// The store as of a moment, or its newest state. Devices are to set aside what is newer, and from the store's
    /// first open on what the cold stores have past it counts no more. An LSN amid a frame stands for the end of the
    /// frame before.
    Rewind(Option<AsOf>),
}

impl RestoreMode {
    /// The moment, if it is one of the past.
    #[must_use]
    pub fn as_of(self) -> Option<AsOf> {
        match self {
            Self::Heal => None,
            Self::Rewind(as_of) => as_of,
        }
    }

    /// How the directory says that.
    fn restored(self) -> Restored {
        match self {
            Self::Heal => Restored::Heal,
            Self::Rewind(_) => Restored::Rewind,
        }
    }
}

/// What a restore brought.
#[derive(Clone, Debug)]
pub struct RestoreReport {
    /// What was to be brought.
    pub mode: RestoreMode,
    /// The store.
    pub store: StoreId,
    /// The epoch of the owner whose work it is.
    pub epoch: Epoch,
    /// The last LSN that is back.
    pub last_lsn: Lsn,
    /// The time of the last frame that is back. Of the newest state: what was acknowledged `local` after it is unknown
    /// to the cold store.
    pub time: TimeUs,
    /// Segments, those that were there from an attempt of before included.
    pub segments: u64,
    /// Bytes of segments, and how many of them were there before.
    pub segment_bytes: (u64, u64),
    /// Frames behind the segments.
    pub frames: u64,
    /// No version of the manifest could be read: it was made again from segments and tails.
    pub without_manifest: bool,
    /// What could not be read, with the LSNs.
    pub lost: Vec<Error>,
}

/// The file in which a caller of a restore leaves what is to be appended to the store at its first open. The engine neither
/// reads nor removes it.
pub const CARRIED_FILE_NAME: &str = "CARRIED";

/// How far a restore is: bytes of segments that are there, of how many. It is told by one thread at a time.
pub type Progress<'a> = dyn FnMut(u64, u64) + Send + 'a;

/// Brings what `found` is into `dir`, all but what makes that a store ([`complete`]). The directory is missing, empty, or holds a
/// restore of the same store that did not end or was never opened. The caller holds the directory's lock. New journal files are of `journal_file_bytes`. Those whom
/// `together` has work side by side fetch segments.
///
/// # Errors
/// [`ErrorKind::Refused`] if there is anything else in `dir`; [`ErrorKind::Cold`] if the cold store cannot be reached;
/// [`ErrorKind::Io`]. In the last two cases it can be begun again.
pub fn bring_all(
    io: &dyn Io, cold: &dyn ColdStore, found: &Found, dir: &Path, journal_file_bytes: u64, together: &Together<'_>,
    progress: &mut Progress<'_>,
) -> Result<RestoreReport> {
    let identity = found.home.identity;
    prepare(io, dir, found)?;
    let mut report = RestoreReport {
        mode: found.mode,
        store: identity.store,
        epoch: found.claim.0,
        last_lsn: found.base.manifest.flushed.last_lsn,
        time: found.base.manifest.time,
        segments: 0,
        segment_bytes: (0, 0),
        frames: 0,
        without_manifest: found.is_made(),
        lost: Vec::new(),
    };
    let all: u64 = found.base.manifest.segments.iter().map(|meta| meta.bytes).sum();
    for meta in &found.base.manifest.segments {
        progress(report.segment_bytes.0, all);
        let before = is_there(io, dir, meta)?;
        if before {
            report.segment_bytes.1 += meta.bytes;
        } else {
            let mut done = report.segment_bytes.0;
            // What is fetched again counts once more.
            let mut advance = |bytes: u64| {
                done = (done + bytes).min(all);
                progress(done, all);
            };
            match bring(io, cold, dir, meta, together, &mut advance) {
                Err(error) if error.kind() != ErrorKind::Damaged => return Err(error),
                brought => report.lost.extend(brought.err()),
            }
        }
        report.segments += 1;
        report.segment_bytes.0 += meta.bytes;
    }
    progress(report.segment_bytes.0, all);
    io.sync_dir(&segment::directory(dir))?;
    let mut frames = Frames::new(io, dir, &found.base.manifest, journal_file_bytes);
    // Frames name the version that was in force, which may never have come to the cold store.
    let mut version = found.base.manifest.version;
    let mut take = |header: &FrameHeader, bytes: Vec<u8>| {
        version = version.max(header.manifest);
        frames.take(header, bytes)
    };
    let end = found.frames(cold, &mut take, &mut report.lost)?;
    report.frames = frames.finish()?;
    if let Some((end, time)) = end.last {
        (report.last_lsn, report.time) = (end.last_lsn, time);
    }
    // What lies past the moment was not asked for.
    let is_wanted = |error: &Error| {
        found.mode.as_of().is_none() || error.lsn_range().is_none_or(|lsns| lsns.start <= report.last_lsn.0)
    };
    let unaccounted = found.unaccounted(cold, report.last_lsn).filter(is_wanted);
    report.lost.extend(unaccounted.collect::<Vec<_>>());
    let tenancy = Tenancy { url: cold.url().to_owned(), cold: found.home.cold, held: found.claim, pending: Vec::new() };
    let restored = Some(found.mode.restored());
    let epochs = Epochs { restored, fenced: None, tenancies: vec![tenancy] };
    io.replace(&dir.join(Epochs::FILE_NAME), &epochs.encode(identity.store))?;
    let mut manifest = Manifest { version, ..found.base.manifest.clone() };
    // It may tell of those that began behind what was flushed, and what they wrote is not here.
    manifest.timelines.retain(|start| start.first_lsn <= report.last_lsn.next());
    manifest::commit(io, dir, &manifest)?;
    Ok(report)
}

/// Makes a directory the store that was brought into it, with what its caller carries over.
///
/// # Errors
/// [`ErrorKind::Io`].
pub fn complete(io: &dyn Io, dir: &Path, found: &Found, carried: Option<&[u8]>) -> Result<()> {
    if let Some(carried) = carried {
        io.replace(&dir.join(CARRIED_FILE_NAME), carried)?;
    }
    io.replace(&dir.join(IDENTITY), &found.home.identity.encode())?;
    io.remove(&dir.join(RESTORE_FILE_NAME))?;
    io.sync_dir(dir)?;
    if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        io.sync_dir(parent)?;
    }
    Ok(())
}

/// Makes the directory one in which a restore of this store is under way, and takes away what is written anew.
fn prepare(io: &dyn Io, dir: &Path, found: &Found) -> Result<()> {
    let home = found.home.encode();
    let names = io.list(dir)?;
    // Where there is a store, what says that a restore is under way was left by one that ended.
    let is_there = |name: &str| names.iter().any(|there| there == name);
    let is_under_way =
        is_there(RESTORE_FILE_NAME) && !is_there(IDENTITY) && io.read_all(&dir.join(RESTORE_FILE_NAME), BLOCK)? == home;
    let is_unopened = || -> Result<bool> {
        let path = dir.join(Epochs::FILE_NAME);
        let Ok(bytes) = io.read_all(&path, 1 << 20) else { return Ok(false) };
        let epochs = Epochs::decode(&bytes, found.home.identity.store).ok();
        Ok(epochs.is_some_and(|epochs| epochs.restored.is_some()))
    };
    let is_harmless = |name: &str| name == "LOCK" || name == format!("{RESTORE_FILE_NAME}.tmp");
    if !is_under_way && !names.iter().all(|name| is_harmless(name)) && !is_unopened()? {
        let what = "the directory is not empty, and no restore of this store is under way there";
        return Err(Error::new(ErrorKind::Refused, what)
            .file(dir)
            .remedy("restore into a directory that is missing or empty"));
    }
    io.replace(&dir.join(RESTORE_FILE_NAME), &home)?;
    // In this order, so that what is left is never a store.
    let mut names = io.list(dir)?;
    names.sort_by_key(|name| name != IDENTITY);
    for name in names {
        let is_ours = name == IDENTITY
            || name == Epochs::FILE_NAME
            || name == CARRIED_FILE_NAME
            || manifest::version_of(&name).is_some()
            || names::parse(&name).is_some()
            || name.ends_with(".tmp");
        if is_ours {
            io.remove(&dir.join(&name))?;
            if name == IDENTITY {
                io.sync_dir(dir)?;
            }
        }
    }
    let segments = segment::directory(dir);
    io.create_dir(&segments)?;
    for name in io.list(&segments)? {
        let is_named = |meta: &SegmentMeta| segment::id_of(&name) == Some(meta.id);
        if !found.base.manifest.segments.iter().any(is_named) {
            io.remove(&segments.join(&name))?;
        }
    }
    io.sync_dir(&segments)?;
    io.sync_dir(dir)
}

/// Whether the segment lies there whole.
fn is_there(io: &dyn Io, dir: &Path, meta: &SegmentMeta) -> Result<bool> {
    match ReadBack::begin(io, dir, meta.id).and_then(|back| back.finish(meta)) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::Damaged => Ok(false),
        Err(e) if e.os_error().is_some_and(|e| e.kind() == std::io::ErrorKind::NotFound) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Fetches a segment, and gives it its name once it is proved and synced.
fn bring(
    io: &dyn Io, cold: &dyn ColdStore, dir: &Path, meta: &SegmentMeta, together: &Together<'_>,
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<()> {
    let path = segment::path(dir, meta.id);
    let temporary = path.with_extension("seg.tmp");
    let lsns = meta.first_lsn.0..meta.last_lsn.0 + 1;
    let keep = |file: &File| {
        io.sync(file)?;
        io.rename(&temporary, &path)
    };
    let mut damage = None;
    // Each twice: what spoils an answer on its way is no damage there.
    for (attempt, again) in (0..keys::SEGMENT_ATTEMPTS).flat_map(|attempt| [(attempt, false), (attempt, true)]) {
        let key = keys::segment(meta, attempt);
        io.remove_if_there(&temporary)?;
        let file = io.open(&temporary, OpenMode::CreateDirect)?;
        let wanted = Wanted { io, cold, key: &key, meta, file: &file };
        let fetched = parts::fetch(&wanted, together, progress).inspect_err(|_| {
            let _ = io.remove(&temporary);
        })?;
        match fetched {
            Fetched::Proved => return keep(&file),
            Fetched::Absent if attempt == 0 => {
                damage.get_or_insert(damaged(cold.url(), &key, "it is missing").lsns(lsns.clone()));
            }
            Fetched::Absent => break,
            Fetched::Damaged(..) if !again => {}
            Fetched::Damaged(error, is_whole) => {
                damage.get_or_insert(error.lsns(lsns.clone()));
                // What of it is sound can be read: each block and chunk has its own checksum.
                if is_whole {
                    keep(&file)?;
                }
            }
        }
    }
    let _ = io.remove_if_there(&temporary);
    Err(damage.unwrap_or_else(|| failed(cold.url(), "a segment cannot be had")))
}
