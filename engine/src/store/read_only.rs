//! A look into a store without opening it: for commands that run beside the process that has it open.
//!
//! Keeps no lock, writes nothing, repairs nothing. What the journal holds is recovered into memory as an open would do
//! it. Invariant: of a store that a process has open, only what is proved durable is seen; a tail that is being written
//! at this moment is not.

use super::listing::{LogInfo, info, list};
use super::load::{Loaded, Show, load, load_as, refusal};
use super::lock;
use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::format::cold::Epochs;
use crate::format::identity::Identity;
use crate::format::manifest::{SegmentMeta, TimelineStart};
use crate::io::{self, Io};
use crate::manifest;
use crate::read::{Page, ReadLimit, read};
use crate::recovery::settle::{self, LOOKS_MAX, Proven};
use crate::ship::EpochFile;
use crate::sync::Arc;
use crate::types::{Lsn, ManifestVersion, StoreId, TimeUs};
use std::path::Path;

/// A store as it was when it was looked at.
pub struct ReadOnly {
    pub(super) loaded: Loaded,
    /// None if the file is there and cannot be read.
    epochs: Option<Epochs>,
}

/// A store in numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Its id.
    pub id: StoreId,
    /// When it was created.
    pub created: TimeUs,
    /// The clock that grace and expiry go by, when it was last stamped. It stands still while nobody has the store open.
    pub steady: TimeUs,
    /// The manifest version.
    pub manifest: ManifestVersion,
    /// The last LSN that is in a segment.
    pub flushed: Lsn,
    /// The last LSN that was found; in a store that a process has open, the last one that is proved durable.
    pub end: Lsn,
    /// Frames in the journal that are not flushed.
    pub journal_frames: u64,
    /// Bytes of these frames.
    pub journal_bytes: u64,
    /// Records and control operations in them.
    pub journal_entries: u64,
    /// Files of the journal ring, and their bytes.
    pub journal_files: (usize, u64),
    /// The segments, oldest first.
    pub segments: Vec<SegmentMeta>,
    /// The timelines, oldest first.
    pub timelines: Vec<TimelineStart>,
    /// What the directory knows of its cold stores; None if the file that says so is damaged.
    pub epochs: Option<Epochs>,
}

impl std::fmt::Debug for ReadOnly {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReadOnly").field("id", &self.loaded.manifest.identity.store).finish_non_exhaustive()
    }
}

impl ReadOnly {
    /// Looks at the store in `dir`.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] if there is none; [`ErrorKind::Damaged`]; [`ErrorKind::Io`]; [`ErrorKind::Overloaded`] if
    /// the process that has it open changes it faster than it can be read.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        Self::open_on(io::choose(io::IoChoice::Posix)?, &super::absolute(dir.as_ref())?)
    }

    /// [`Self::open`] on another disk.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_on(io: Arc<dyn Io>, dir: &Path) -> Result<Self> {
        match Self::look(io, dir)? {
            (store, None) => Ok(store),
            (_, Some(refusal)) => Err(refusal),
        }
    }

    /// Looks at the store in `dir` also where its journal cannot be trusted: then shows what the segments hold, and what
    /// the journal holds before the place that cannot be read, and gives the refusal beside it. What is shown may lack
    /// what was acknowledged, and may show what was deleted or trimmed since.
    ///
    /// # Errors
    /// As [`Self::open`], but for that.
    pub fn salvage(dir: impl AsRef<Path>) -> Result<(Self, Option<Error>)> {
        Self::look(io::choose(io::IoChoice::Posix)?, &super::absolute(dir.as_ref())?)
    }

    /// Looks at what a restore brought into `dir`, whose lock the caller holds, before it is a store.
    pub(super) fn of_restored(io: &Arc<dyn Io>, dir: &Path, identity: Identity) -> Result<Self> {
        let loaded = load_as(io, dir, identity, &Config::default(), Show::All)?;
        match refusal(&loaded.action, dir, loaded.manifest.version) {
            None => Ok(Self::of(loaded, io, dir)),
            Some(refusal) => Err(refusal),
        }
    }

    fn look(io: Arc<dyn Io>, dir: &Path) -> Result<(Self, Option<Error>)> {
        super::load::identity(&*io, dir)?;
        let mut proven = Proven::default();
        for look in 1.. {
            let before = newest(&*io, dir);
            // Whoever has the store open may have acknowledged no more than what is proved; when nobody has, an open
            // would recover all that stands there.
            let show = if lock::is_held(&*io, dir)? { Show::Proven(proven) } else { Show::All };
            let loaded = load(&io, dir, &Config::default(), show);
            let after = newest(&*io, dir);
            if show == Show::All && lock::is_held(&*io, dir)? {
                // It was opened meanwhile, and what was seen may be frames that are being written.
                if look == LOOKS_MAX {
                    return Err(settle::too_fast(dir));
                }
                settle::pause(look);
                continue;
            }
            let (wrong, refused) = match loaded {
                Ok(loaded) => match refusal(&loaded.action, dir, loaded.manifest.version) {
                    None => return Ok((Self::of(loaded, &io, dir), None)),
                    Some(_) if after.is_some_and(|newest| proven.is_reached(&loaded.facts, newest)) => {
                        return Ok((Self::of(loaded, &io, dir), None));
                    }
                    Some(error) => {
                        proven.note(&loaded.facts);
                        (error, Some(loaded))
                    }
                },
                Err(error) => (error, None),
            };
            // What looks wrong once may be a change. It is believed once it stays while the manifest stays as it is.
            let moved = before.is_none() || before != after;
            if !matches!(wrong.kind(), ErrorKind::Damaged | ErrorKind::Io) || (look > 1 && !moved) {
                return match refused {
                    Some(loaded) => Ok((Self::of(loaded, &io, dir), Some(wrong))),
                    None => Err(wrong),
                };
            }
            if look == LOOKS_MAX {
                return Err(if before.is_none() { wrong } else { settle::too_fast(dir) });
            }
            settle::pause(look);
        }
        unreachable!("the last look returns")
    }

    fn of(loaded: Loaded, io: &Arc<dyn Io>, dir: &Path) -> Self {
        let epochs = EpochFile::load(Arc::clone(io), dir, loaded.manifest.identity);
        Self { loaded, epochs: epochs.ok().map(|file| file.get()) }
    }

    /// As [`super::Store::info`].
    ///
    /// # Errors
    /// As there.
    pub fn info(&self, log: &str) -> Result<LogInfo> {
        info(&self.loaded.index, log, self.now())
    }

    /// As [`super::Store::list`].
    ///
    /// # Errors
    /// As there.
    pub fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<LogInfo>> {
        let index = &self.loaded.index;
        list(index, prefix, after, limit, &|name| info(index, name, self.now()))
    }

    /// As [`super::Store::read`].
    ///
    /// # Errors
    /// As there.
    pub fn read(&self, log: &str, from: u64, limit: ReadLimit) -> Result<Page> {
        read(&self.loaded.index, log, from.into(), limit, self.now())
    }

    /// The time by the steady clock when the store was last written to: what expired by then has expired.
    fn now(&self) -> TimeUs {
        self.loaded.stamped()
    }

    /// The store in numbers.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let Loaded { manifest, facts, shown, timelines, frames, entries, bytes, .. } = &self.loaded;
        Summary {
            id: manifest.identity.store,
            created: manifest.identity.created,
            steady: self.now(),
            manifest: manifest.version,
            flushed: manifest.flushed.last_lsn,
            end: *shown,
            journal_frames: *frames,
            journal_bytes: *bytes,
            journal_entries: *entries,
            journal_files: (facts.files.len(), facts.files.iter().map(|file| file.bytes).sum()),
            segments: manifest.segments.clone(),
            timelines: timelines.clone(),
            epochs: self.epochs.clone(),
        }
    }
}

/// The newest manifest's version; None if there is none that can be read.
fn newest(io: &dyn Io, dir: &Path) -> Option<ManifestVersion> {
    manifest::load(io, dir).ok().map(|manifest| manifest.version)
}
