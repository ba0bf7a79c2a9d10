//! A cold store that is a folder: each object a file, whose path below the folder is its key.
//!
//! What a crash leaves at each step of a put: a file in `incoming`, which nobody looks at; then that file, whole and synced;
//! then the object under its own name as well, durable once its directory is synced. A name is given by a call that fails if
//! there is a file of that name, so that nothing is ever replaced.
//!
//! Reads go past the page cache where the file system lets them, since what is read back is to prove what is on the disk. A
//! sync that failed is not repeated: its file is dropped and the object written anew.

use super::{ColdStore, PART_BYTES, Part, Put, Source, failed};
use crate::error::{Error, Result};
use crate::io::posix::PosixIo;
use crate::io::{Io, OpenMode};
use crate::types::BLOCK;
use std::fs::{self, File};
use std::io::{ErrorKind as OsKind, Write};
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Where objects lie until they are whole.
const INCOMING: &str = "incoming";
/// The most keys that a listing gives.
const LISTED_MAX: usize = 1000;

/// A folder as a cold store.
#[derive(Debug)]
pub struct DirStore {
    url: String,
    root: PathBuf,
}

impl DirStore {
    /// The folder `root`, an absolute path, which need not exist before something is put.
    #[must_use]
    pub fn new(root: PathBuf) -> Self {
        Self { url: format!("file://{}", root.display()), root }
    }

    fn failed(&self, what: &str, path: &Path, error: &std::io::Error) -> Error {
        failed(&self.url, format!("{what} {}: {error}", path.display()))
    }

    /// Makes a directory below the folder, or the folder itself, durably.
    fn make(&self, dir: &Path) -> Result<()> {
        if dir.is_dir() {
            return Ok(());
        }
        let parent = dir.parent().unwrap_or(Path::new("/"));
        if dir != self.root {
            self.make(parent)?;
        } else {
            fs::create_dir_all(parent).map_err(|e| self.failed("making", parent, &e))?;
        }
        match fs::create_dir(dir) {
            Err(e) if e.kind() != OsKind::AlreadyExists => return Err(self.failed("making", dir, &e)),
            _ => {}
        }
        self.sync(parent)
    }

    fn sync(&self, dir: &Path) -> Result<()> {
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(|e| self.failed("syncing", dir, &e))
    }
}

impl ColdStore for DirStore {
    fn url(&self) -> &str {
        &self.url
    }

    fn put(&self, key: &str, source: &dyn Source) -> Result<Put> {
        let path = self.root.join(key);
        let dir = path.parent().expect("an object lies below the folder");
        if path.symlink_metadata().is_ok() {
            // Whoever put it may not have come to sync its name.
            self.sync(dir)?;
            return Ok(Put::Exists);
        }
        let incoming = self.root.join(INCOMING);
        self.make(&incoming)?;
        self.make(dir)?;
        let mut file =
            tempfile::NamedTempFile::new_in(&incoming).map_err(|e| self.failed("making a file in", &incoming, &e))?;
        let mut at = 0;
        while at < source.len() {
            let part = source.read(at, (source.len() - at).min(PART_BYTES as u64) as usize)?;
            file.write_all(&part).map_err(|e| self.failed("writing", file.path(), &e))?;
            at += part.len() as u64;
        }
        file.as_file().sync_all().map_err(|e| self.failed("syncing", file.path(), &e))?;
        let put = match file.persist_noclobber(&path) {
            Ok(_) => Put::Created,
            Err(e) if e.error.kind() == OsKind::AlreadyExists => Put::Exists,
            Err(e) => return Err(self.failed("naming", &path, &e.error)),
        };
        self.sync(dir)?;
        Ok(put)
    }

    fn get(&self, key: &str, range: Range<u64>) -> Result<Option<Part>> {
        let path = self.root.join(key);
        let range = range.start..range.end.min(range.start.saturating_add(PART_BYTES as u64));
        match read(&PosixIo::new(false), &path, &range) {
            // A file system that reads through the page cache alone.
            Err(e) if e.os_error().is_some_and(|e| e.kind() == OsKind::InvalidInput) => {
                read(&PosixIo::new(true), &path, &range)
            }
            other => other,
        }
        .map_err(|e| failed(&self.url, e))
    }

    fn list(&self, prefix: &str, after: &str) -> Result<Vec<String>> {
        let dir = self.root.join(prefix);
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(e) if e.kind() == OsKind::NotFound => return Ok(Vec::new()),
            Err(e) => return Err(self.failed("listing", &dir, &e)),
        };
        let mut keys = Vec::new();
        for entry in entries {
            let entry = entry.map_err(|e| self.failed("listing", &dir, &e))?;
            let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
            if let (true, Some(name)) = (is_file, entry.file_name().to_str()) {
                keys.push(format!("{prefix}{name}"));
            }
        }
        keys.retain(|key| key.as_str() > after);
        keys.sort_unstable();
        keys.truncate(LISTED_MAX);
        Ok(keys)
    }

    fn depends_on(&self, dir: &Path) -> Result<bool> {
        let device = |path: &Path| {
            let there = path.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
            there.metadata().map(|metadata| metadata.dev()).map_err(|e| Error::io("looking at", there, e))
        };
        Ok(device(&self.root)? == device(dir)?)
    }
}

/// What lies in `range` of the file; None if there is none.
fn read(io: &dyn Io, path: &Path, range: &Range<u64>) -> Result<Option<Part>> {
    let file = match io.open(path, OpenMode::ReadDirect) {
        Err(e) if e.os_error().is_some_and(|e| matches!(e.kind(), OsKind::NotFound | OsKind::NotADirectory)) => {
            return Ok(None);
        }
        opened => opened?,
    };
    let len = io.len(&file)?;
    let end = range.end.min(len);
    let mut bytes = Vec::new();
    if range.start < end {
        let from = range.start / BLOCK as u64 * BLOCK as u64;
        let blocks = (end - from).div_ceil(BLOCK as u64) * BLOCK as u64;
        let buf = io.read_at(&file, from, blocks as usize)?;
        let part = (range.start - from) as usize..(end - from) as usize;
        // A file that was cut since comes short, which whoever asked notices.
        bytes.extend_from_slice(buf.get(part.clone()).or(buf.get(part.start..)).unwrap_or_default());
    }
    Ok(Some(Part { bytes, len }))
}
