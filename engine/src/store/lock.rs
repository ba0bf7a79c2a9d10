//! The lock of a store's directory: one process at a time writes.
//!
//! It is the operating system's lock, twice: on the directory itself and on one file in it. Both end with their holder,
//! whatever ends that. The directory's is the one that counts: it stays when the file is removed, and is met by whoever
//! comes by another name, since it belongs to the directory and not to a path. The file's is for file systems that do
//! not lock directories, and for processes of older versions, which know nothing else. The file means nothing by itself
//! and is never removed.
//!
//! Invariant: of two processes that come to one directory at most one has both locks; who is refused has created nothing.

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

/// What the operating system gives for a lock.
type Lock = Box<dyn Any + Send + Sync>;

/// Both locks, held until this is dropped.
pub(super) struct Held {
    _dir: Lock,
    _file: Lock,
}

/// Takes the locks: the directory's first, so that who is refused has not created the file.
///
/// # Errors
/// [`ErrorKind::Locked`] if another process holds one; [`ErrorKind::Io`].
pub(super) fn take(io: &dyn Io, dir: &Path) -> Result<Held> {
    let path = dir.join(FILE_NAME);
    let dir = patiently(io, dir, &path, || io.lock_dir(dir))?;
    let file = patiently(io, &path, &path, || io.lock(&path))?;
    Ok(Held { _dir: dir, _file: file })
}

/// Tries for a while; `locked` is what the lock belongs to, `told` the file that an error names.
fn patiently(
    io: &dyn Io, locked: &Path, told: &Path, lock: impl Fn() -> std::io::Result<Option<Lock>>,
) -> Result<Lock> {
    for attempt in 1..=TRIES {
        match lock() {
            Ok(Some(lock)) => return Ok(lock),
            Ok(None) if attempt < TRIES => park_timeout(BETWEEN_TRIES),
            Ok(None) => {}
            Err(e) => return Err(Error::io("locking", locked, e)),
        }
    }
    let who = io.lock_holder(locked).map_or_else(String::new, |who| format!(" ({who})"));
    Err(Error::new(ErrorKind::Locked, format!("another process{who} has the store open"))
        .file(told)
        .remedy("stop it, or use a read-only command"))
}

/// Whether another process has the store open. The file is not created, and no lock is kept; where they may not
/// even be tried, somebody may have them.
pub(super) fn is_held(io: &dyn Io, dir: &Path) -> Result<bool> {
    if matches!(io.lock_dir(dir), Ok(None)) {
        return Ok(true);
    }
    if !io.list(dir)?.iter().any(|name| name == FILE_NAME) {
        return Ok(false);
    }
    Ok(match io.lock(&dir.join(FILE_NAME)) {
        Ok(lock) => lock.is_none(),
        Err(e) => e.kind() != OsKind::ReadOnlyFilesystem,
    })
}
