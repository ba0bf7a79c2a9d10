//! The lock of a store's directory: one process at a time writes.
//!
//! It is the operating system's lock on one file, so that it ends with its holder whatever ends that. The file means
//! nothing by itself and is never removed.

use crate::error::{Error, ErrorKind, Result};
use crate::io::Io;
use crate::sync::park_timeout;
use std::any::Any;
use std::io::ErrorKind as OsKind;
use std::path::Path;
use std::time::Duration;

/// The lock's file name.
pub(super) const FILE_NAME: &str = "LOCK";
/// How often a lock that is held is tried, for half a second in all: [`is_held`] in another process holds it for a moment,
/// and so does a child of this one between its fork and its exec, or a process that was killed and is not gone yet.
const TRIES: usize = 50;
const BETWEEN_TRIES: Duration = Duration::from_millis(10);

/// A lock that is held until this is dropped.
pub(super) type Held = Box<dyn Any + Send + Sync>;

/// Takes the lock.
///
/// # Errors
/// [`ErrorKind::Locked`] if another process holds it; [`ErrorKind::Io`].
pub(super) fn take(io: &dyn Io, dir: &Path) -> Result<Held> {
    let path = dir.join(FILE_NAME);
    for attempt in 1..=TRIES {
        match io.lock(&path) {
            Ok(Some(lock)) => return Ok(lock),
            Ok(None) if attempt < TRIES => park_timeout(BETWEEN_TRIES),
            Ok(None) => {}
            Err(e) => return Err(Error::io("locking", &path, e)),
        }
    }
    Err(Error::new(ErrorKind::Locked, "another process has the store open")
        .file(&path)
        .remedy("stop it, or use a read-only command"))
}

/// Whether another process has the store open. The file is not created, and the lock is not kept; where it may not
/// even be tried, somebody may have it.
pub(super) fn is_held(io: &dyn Io, dir: &Path) -> Result<bool> {
    if !io.list(dir)?.iter().any(|name| name == FILE_NAME) {
        return Ok(false);
    }
    Ok(match io.lock(&dir.join(FILE_NAME)) {
        Ok(lock) => lock.is_none(),
        Err(e) => e.kind() != OsKind::ReadOnlyFilesystem,
    })
}
