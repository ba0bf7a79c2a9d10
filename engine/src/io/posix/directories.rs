//! The directories that were synced, kept open.
//!
//! A sync of a directory comes behind a rename, when nothing can be taken back: a process that may open no further file
//! at that moment would have to call the store broken. A store syncs its directories when it is opened, and from then
//! on needs no descriptor for it.
//!
//! What this file does not do: it never syncs again what failed. Invariant: what is synced is the directory that bore
//! the name at first; that another one bears it now is an error, since what was renamed may lie in either.

use crate::sync::Mutex;
use rustix::fs::{CWD, Mode, OFlags};
use rustix::io::retry_on_intr;
use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{Done, nothing};

/// As many as were ever synced: a store has three, its own, its segments' and the one above.
#[derive(Debug, Default)]
pub(super) struct Directories(Mutex<HashMap<PathBuf, Arc<File>>>);

impl Directories {
    /// Syncs the directory, once.
    pub(super) fn sync(&self, path: &Path) -> io::Result<Done> {
        let directory = self.open(path)?;
        nothing(rustix::fs::fsync(&directory))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<File>> {
        let kept = self.0.lock().get(path).cloned();
        if let Some(kept) = kept {
            let (named, held) = (std::fs::metadata(path)?, kept.metadata()?);
            if (named.dev(), named.ino()) != (held.dev(), held.ino()) {
                return Err(io::Error::other("another directory was put in its place"));
            }
            return Ok(kept);
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = Arc::new(File::from(retry_on_intr(|| rustix::fs::openat(CWD, path, flags, Mode::empty()))?));
        self.0.lock().insert(path.to_owned(), Arc::clone(&opened));
        Ok(opened)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_opened_once_and_another_that_bears_its_name_is_not_synced_for_it() {
        let scratch = tempfile::tempdir().expect("a folder");
        let path = scratch.path().join("store");
        std::fs::create_dir(&path).expect("a new folder");
        let directories = Directories::default();
        directories.sync(&path).expect("it can be synced");
        let first = directories.open(&path).expect("it is there");
        assert!(Arc::ptr_eq(&first, &directories.open(&path).expect("it is there")));

        std::fs::rename(&path, scratch.path().join("away")).expect("it can be moved");
        directories.sync(&path).expect_err("nothing bears the name");
        std::fs::create_dir(&path).expect("a new folder");
        directories.sync(&path).expect_err("it is another one");
        std::fs::remove_dir(&path).expect("it is empty");
        std::fs::rename(scratch.path().join("away"), &path).expect("it can be moved");
        directories.sync(&path).expect("it is the same again");
    }
}
