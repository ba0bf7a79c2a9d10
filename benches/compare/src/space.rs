//! The directory that the runs use: made fresh, and removed however the program ends, as far as a program can see to
//! that (not after SIGKILL).
//!
//! Invariant: only a directory that this process made is ever removed.

use crate::contender::Outcome;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// A directory of this process alone.
pub struct Space {
    root: Arc<Mutex<Option<PathBuf>>>,
    path: PathBuf,
}

impl Space {
    /// Makes `run-{process id}` in `parent`. On SIGINT, SIGTERM and SIGHUP the process calls `quiet`, after which nothing
    /// may write there any more, removes the directory and ends.
    pub fn new(parent: &Path, quiet: fn()) -> Outcome<Self> {
        fs::create_dir_all(parent).map_err(|e| format!("{}: {e}", parent.display()))?;
        let parent = fs::canonicalize(parent).map_err(|e| format!("{}: {e}", parent.display()))?;
        let path = parent.join(format!("run-{}", std::process::id()));
        fs::create_dir(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        let root = Arc::new(Mutex::new(Some(path.clone())));
        let space = Self { root: Arc::clone(&root), path };
        let handler = move || {
            quiet();
            remove(&root);
            std::process::exit(130);
        };
        ctrlc::set_handler(handler).map_err(|e| format!("a handler of signals: {e}"))?;
        Ok(space)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// An empty directory for one run; it is removed when the answer is dropped.
    pub fn fresh(&self, name: &str) -> Outcome<Fresh> {
        let path = self.path.join(name);
        fs::create_dir(&path).map_err(|e| format!("{}: {e}", path.display()))?;
        Ok(Fresh(path))
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        remove(&self.root);
    }
}

/// The lock is held throughout, so that neither of two threads ends the process while the other still removes.
fn remove(root: &Mutex<Option<PathBuf>>) {
    let mut root = root.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(path) = root.take() {
        remove_tree(&path);
    }
}

fn remove_tree(path: &Path) {
    if let Err(error) = fs::remove_dir_all(path)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        eprintln!("{} could not be removed: {error}; remove it by hand", path.display());
    }
}

/// The directory of one run.
pub struct Fresh(PathBuf);

impl Fresh {
    /// The directory.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        remove_tree(&self.0);
    }
}
