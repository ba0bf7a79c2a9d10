//! Creating a store: an explicit act.
//!
//! The steps, and what a crash leaves: the directory; the lock, so that two creations do not mix; `segments/`; one journal file of zeros; manifest version 1; the
//! identity, last. A store is there if and only if the identity is. Without one, what an interrupted creation left (a
//! journal of zeros, a manifest of nothing) is made anew; anything else in the directory refuses the creation.

use super::lock;
use crate::clock::Clock;
use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::format::Features;
use crate::format::frame::FrameRef;
use crate::format::identity::{self, Identity};
use crate::format::manifest::{Manifest, TimelineCause, TimelineStart};
use crate::io::{Io, OpenMode};
use crate::journal::names;
use crate::journal::ring::Ring;
use crate::manifest;
use crate::metrics::Metrics;
use crate::segment;
use crate::sync::Arc;
use crate::types::{JournalId, Lsn, ManifestVersion, StoreId, Timeline};
use std::path::{Path, PathBuf};

/// What is read of a journal file at once when it is checked for zeros.
const PIECE_BYTES: usize = 1 << 20;

pub(super) fn create(io: Arc<dyn Io>, clock: &dyn Clock, dir: &Path, config: &Config) -> Result<StoreId> {
    io.create_dir(dir)?;
    // Looked at twice: a directory that is refused gets no lock file, and another creation may end before this has it.
    leftovers(&*io, dir)?;
    let _lock = lock::take(&*io, dir)?;
    leftovers(&*io, dir)?.iter().try_for_each(|path| io.remove(path))?;
    io.create_dir(&segment::directory(dir))?;
    io.sync_dir(dir)?;
    let identity = Identity {
        features: Features::KNOWN,
        store: StoreId(io.random_bytes()?),
        key: io.random_bytes()?,
        created: clock.wall(),
    };
    let metrics = Arc::new(Metrics::default());
    let ring = Ring::new(
        Arc::clone(&io),
        dir,
        identity,
        metrics,
        config.journal_file_bytes,
        config.journal_files_max,
        JournalId(1),
    );
    ring.prepare(1, &mut |_| true)?;
    let timeline = Timeline { counter: 1, random: u32::from_le_bytes(io.random_bytes()?) };
    let manifest = Manifest {
        timelines: vec![TimelineStart {
            timeline,
            parent: Timeline::default(),
            first_lsn: Lsn(1),
            began: identity.created,
            cause: TimelineCause::Creation,
        }],
        ..manifest::empty(&identity)
    };
    manifest::commit(&*io, dir, &manifest)?;
    io.replace(&dir.join(identity::FILE_NAME), &identity.encode())?;
    if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        io.sync_dir(parent)?;
    }
    Ok(identity.store)
}

/// What an interrupted creation left; refuses anything else.
fn leftovers(io: &dyn Io, dir: &Path) -> Result<Vec<PathBuf>> {
    let mut leftovers = Vec::new();
    for name in io.list(dir)? {
        let path = dir.join(&name);
        let harmless = match &*name {
            identity::FILE_NAME => {
                return Err(refuse(dir, "a store is there already", "open it, or choose another directory"));
            }
            lock::FILE_NAME => continue,
            "segments" if io.list(&path)?.is_empty() => continue,
            _ if is_temporary(&name) => true,
            _ if names::parse(&name).is_some() => is_zeros(io, &path)?,
            _ if name == manifest::file_name(ManifestVersion(1)) => {
                manifest::load(io, dir).is_ok_and(|m| m.segments.is_empty() && m.flushed == FrameRef::default())
            }
            _ => false,
        };
        if !harmless {
            let what = format!("the directory has no identity and is not empty: {name} is there");
            return Err(refuse(dir, &what, "choose another directory, or bring the identity back from a copy"));
        }
        leftovers.push(path);
    }
    Ok(leftovers)
}

/// Whether a creation gives this name to a file that is not finished.
fn is_temporary(name: &str) -> bool {
    let Some(stem) = name.strip_suffix(".tmp") else { return false };
    stem == identity::FILE_NAME || stem == manifest::file_name(ManifestVersion(1)) || names::parse(stem).is_some()
}

fn is_zeros(io: &dyn Io, path: &Path) -> Result<bool> {
    let file = io.open(path, OpenMode::Read)?;
    let len = io.len(&file)?;
    let mut at = 0;
    while at < len {
        let piece = io.read_at(&file, at, PIECE_BYTES)?;
        if piece.is_empty() || piece.iter().any(|b| *b != 0) {
            return Ok(false);
        }
        at += piece.len() as u64;
    }
    Ok(true)
}

fn refuse(dir: &Path, what: &str, remedy: &str) -> Error {
    Error::new(ErrorKind::Refused, what).file(dir).remedy(remedy)
}
