//! Files that must survive a crash as a whole: written under another name, synced, renamed, the folder synced.
//!
//! What is in them is the callers' business. Invariant: whoever reads a file written here finds the old bytes or the
//! new ones, never a mixture and never a part.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use everlog_server::failure::Failure;

/// Readable by the owner alone: the token is in one of these files.
const PRIVATE: u32 = 0o600;

/// What an error on a file becomes.
pub fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Failure {
    move |e| {
        Failure::new(
            5,
            format!("{what} {} failed: {e}", path.display()),
            "look after the disk and the folder's permissions, then run the command again; nothing is lost",
        )
    }
}

/// Replaces a file as a whole. Only one process at a time may do so, which the device's lock sees to.
pub fn replace(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let mut name = path.file_name().expect("a file's path has a name").to_owned();
    name.push(".new");
    let temporary = path.with_file_name(name);
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(PRIVATE).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(failed("writing", path))?;
    sync_folder(path.parent().expect("a file lies in a folder"))
}

/// Makes the names in a folder durable.
pub fn sync_folder(folder: &Path) -> Result<(), Failure> {
    File::open(folder).and_then(|dir| dir.sync_all()).map_err(failed("syncing", folder))
}

/// Removes a file if it is there.
pub fn remove(path: &Path) -> Result<(), Failure> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(failed("removing", path)(e)),
        _ => Ok(()),
    }
}
