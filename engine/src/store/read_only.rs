//! A look into a store without opening it: for commands that run beside the process that has it open.
//!
//! Takes no lock, writes nothing, repairs nothing. What the journal holds is recovered into memory as an open would do
//! it; a tail that is being written at this moment is not seen.

use super::listing::{LogInfo, info, list};
use super::load::{Loaded, load, refusal};
use crate::config::Config;
use crate::error::{ErrorKind, Result};
use crate::format::manifest::{SegmentMeta, TimelineStart};
use crate::io::{self, Io};
use crate::read::{Page, ReadLimit, read};
use crate::sync::Arc;
use crate::types::{Lsn, ManifestVersion, StoreId, TimeUs};
use std::path::Path;

/// How often a look is taken anew because the store moved on under it.
const ATTEMPTS: usize = 5;

/// A store as it was when it was looked at.
pub struct ReadOnly {
    loaded: Loaded,
}

/// A store in numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Its id.
    pub id: StoreId,
    /// When it was created.
    pub created: TimeUs,
    /// The manifest version.
    pub manifest: ManifestVersion,
    /// The last LSN that is in a segment.
    pub flushed: Lsn,
    /// The last LSN that was found.
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
    /// [`ErrorKind::Refused`] if there is none; [`ErrorKind::Damaged`]; [`ErrorKind::Io`].
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        Self::open_on(io::choose(io::IoChoice::Posix)?, dir.as_ref())
    }

    /// [`Self::open`] on another disk.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_on(io: Arc<dyn Io>, dir: &Path) -> Result<Self> {
        let mut attempt = 1;
        loop {
            // A process that has the store open moves on while its files are read one after another: what looks like
            // damage may be a change, and is believed once it stays.
            let result = load(&io, dir, &Config::default()).and_then(|loaded| {
                match refusal(&loaded.action, dir, loaded.manifest.version) {
                    Some(error) => Err(error),
                    None => Ok(Self { loaded }),
                }
            });
            match result {
                Err(error) if attempt < ATTEMPTS && matches!(error.kind(), ErrorKind::Damaged | ErrorKind::Io) => {
                    attempt += 1;
                }
                result => return result,
            }
        }
    }

    /// As [`super::Store::info`].
    ///
    /// # Errors
    /// As there.
    pub fn info(&self, log: &str) -> Result<LogInfo> {
        info(&self.loaded.index, log)
    }

    /// As [`super::Store::list`].
    ///
    /// # Errors
    /// As there.
    pub fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<LogInfo>> {
        list(&self.loaded.index, prefix, after, limit)
    }

    /// As [`super::Store::read`].
    ///
    /// # Errors
    /// As there.
    pub fn read(&self, log: &str, from: u64, limit: ReadLimit) -> Result<Page> {
        read(&self.loaded.index, log, from, limit)
    }

    /// The store in numbers.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let Loaded { manifest, facts, timelines, frames, entries, bytes, .. } = &self.loaded;
        Summary {
            id: manifest.identity.store,
            created: manifest.identity.created,
            manifest: manifest.version,
            flushed: manifest.flushed.last_lsn,
            end: facts.end.last_lsn,
            journal_frames: *frames,
            journal_bytes: *bytes,
            journal_entries: *entries,
            journal_files: (facts.files.len(), facts.files.iter().map(|file| file.bytes).sum()),
            segments: manifest.segments.clone(),
            timelines: timelines.clone(),
        }
    }
}
