//! What a run left behind that was killed, and had no chance to undo what it did: mounts, loop devices and folders.
//!
//! A run that ends by itself, by a panic too, undoes everything through its handles; this is for SIGKILL alone. Folders
//! carry the number of their process, and only those whose process is gone are touched, so that runs do not meet.
//! Invariant: nothing is touched that does not lie in a folder of that form.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::mount::{UnmountFlags, unmount};
use tempfile::TempDir;

use crate::programs::target_dir;

/// What disks are made of: memory that shows itself as files.
const MEMORY: &str = "/dev/shm";
const PREFIX: &str = "everlog-";

/// A folder in memory for `purpose`, gone when dropped.
///
/// # Errors
/// There is no such place, or no room.
pub fn folder_in_memory(purpose: &str) -> io::Result<TempDir> {
    folder(Path::new(MEMORY), purpose)
}

/// A folder on disk for `purpose`, gone when dropped.
///
/// # Errors
/// There is no room.
pub fn folder_on_disk(purpose: &str) -> io::Result<TempDir> {
    folder(&target_dir(), purpose)
}

fn folder(place: &Path, purpose: &str) -> io::Result<TempDir> {
    let prefix = format!("{PREFIX}{purpose}-{}-", std::process::id());
    tempfile::Builder::new().prefix(&prefix).tempdir_in(place)
}

/// Undoes what runs left that are gone, and says what.
pub fn sweep() {
    let entries = [PathBuf::from(MEMORY), target_dir()].into_iter().filter_map(|place| fs::read_dir(place).ok());
    let entries = entries.flatten().flatten();
    for folder in entries.map(|entry| entry.path()).filter(|path| is_left(path)) {
        eprintln!("undoing what a killed run left: {}", folder.display());
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        // In the order of mounting; undone in the other one.
        for at in mounts.lines().rev().filter_map(|line| line.split(' ').nth(1)).map(Path::new) {
            if at.starts_with(&folder) {
                let _ = unmount(at, UnmountFlags::DETACH);
            }
        }
        for device in loops_of(&folder) {
            let _ = Command::new("losetup").arg("--detach").arg(device).stderr(Stdio::null()).status();
        }
        if let Err(e) = fs::remove_dir_all(&folder) {
            eprintln!("{} could not be removed: {e}", folder.display());
        }
    }
}

fn is_left(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let process =
        name.strip_prefix(PREFIX).and_then(|rest| rest.split('-').nth(1)).and_then(|id| id.parse::<u32>().ok());
    process.is_some_and(|id| !Path::new("/proc").join(id.to_string()).exists())
}

/// The loop devices whose files lie in `folder`.
fn loops_of(folder: &Path) -> Vec<PathBuf> {
    let blocks = fs::read_dir("/sys/block").into_iter().flatten().flatten();
    let of_folder = blocks.filter(|block| {
        let file = fs::read_to_string(block.path().join("loop/backing_file")).unwrap_or_default();
        Path::new(file.trim_end()).starts_with(folder)
    });
    of_folder.map(|block| Path::new("/dev").join(block.file_name())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_folder_of_a_process_that_is_gone_is_left() {
        let own = folder_in_memory("test").expect("there is room in memory");
        assert!(!is_left(own.path()), "this process is there");
        // Process numbers end at 2^22.
        assert!(is_left(Path::new("/dev/shm/everlog-power-4194305-abcdef")));
        assert!(!is_left(Path::new("/dev/shm/everlog-power")));
        assert!(!is_left(Path::new("/dev/shm/other-power-4194305-abcdef")));
    }
}
