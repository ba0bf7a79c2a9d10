//! Where items go that are newer than what the server was taken back to: `.everlog/set-aside/TIME/COLLECTION/NAME`.
//!
//! Nothing there is ever overwritten, pushed or removed: what becomes of it is for the user to say. One item's steps, and
//! what a crash leaves after each:
//!
//! 1. The state says, durably, that the server was taken back (the caller's part): the next sync begins all of this anew.
//! 2. The file's bytes are synced, its new folder is made and synced up to `.everlog`: an empty folder more.
//! 3. The file is renamed, as whatever it is at that moment: it has the one name or the other.
//! 4. The new folder is synced, then the old one: it is set aside. The next sync finds nothing under the old name, which
//!    after a rewind is no deletion, and gives it to the server's version.
//!
//! Invariant: at every moment the bytes have one of the two names, and no other file takes the old one before step 4.

use std::fs::{self, DirBuilder};
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::clock;
use super::disk::{self, failed};
use super::folder::{Done, Folder, rename_new};
use everlog_server::failure::Failure;

/// In the device's own folder.
const NAME: &str = "set-aside";
/// So often one file may be saved anew while it is set aside.
const PLACES_MAX: u32 = 1000;

/// The folder for what this sync sets aside. It is not made yet.
pub fn place(home: &Path) -> PathBuf {
    home.join(NAME).join(clock::now().replace(':', "-"))
}

/// Moves what is under the name to the folder `to`, or to one beside it that is named after it where the name is taken
/// there. Edits that were saved up to this moment go with it.
pub fn put(folder: &Folder, key: &str, to: &Path) -> Result<Done, Failure> {
    match folder.open(key) {
        Ok(Some(file)) => file.sync_all().map_err(failed("syncing", &folder.place(key)))?,
        Ok(None) => return Ok(Done::Refused("something that is no file has its name".into())),
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Done::Changed),
        Err(e) => return folder.refused("set aside", key, e),
    }
    for n in 1..=PLACES_MAX {
        let beside = if n == 1 { String::new() } else { format!("-{n}") };
        let mut name = to.file_name().expect("the folder is named by the time").to_owned();
        name.push(beside);
        let place = made(&to.with_file_name(name), folder.name())?;
        match rename_new(&folder.place(key), &place.join(key)) {
            Ok(()) => {
                disk::sync_folder(&place)?;
                return folder.sync().map(|()| Done::Yes);
            }
            Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Done::Changed),
            Err(e) => return folder.refused("set aside", key, e),
        }
    }
    Ok(Done::Refused("the file goes on changing".into()))
}

/// Makes one collection's folder for what is set aside, and the names that lead there durable.
fn made(to: &Path, collection: &str) -> Result<PathBuf, Failure> {
    let place = to.join(collection);
    DirBuilder::new().mode(0o700).recursive(true).create(&place).map_err(failed("creating", &place))?;
    place.ancestors().skip(1).take(3).try_for_each(disk::sync_folder)?;
    Ok(place)
}

/// How many files there are that were set aside and left there, and where; None if there are none.
pub fn left(home: &Path) -> Result<Option<(usize, PathBuf)>, Failure> {
    let root = home.join(NAME);
    let count = count(&root)?;
    Ok((count > 0).then_some((count, root)))
}

fn count(folder: &Path) -> Result<usize, Failure> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(0),
        Err(e) => return Err(failed("reading", folder)(e)),
    };
    let mut found = 0;
    for entry in entries {
        let entry = entry.map_err(failed("reading", folder))?;
        let is_folder = entry.file_type().map_err(failed("looking at", &entry.path()))?.is_dir();
        found += if is_folder { count(&entry.path())? } else { 1 };
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::collection::ALL;

    #[test]
    fn what_is_set_aside_is_moved_and_overwrites_nothing() {
        let dir = tempfile::tempdir().expect("there is room");
        let home = dir.path().join(".everlog");
        let folder = Folder::new(dir.path(), &home, ALL[3]);
        folder.create().expect("there is room");
        assert_eq!(left(&home).expect("it can be read"), None);
        let to = place(&home);
        for content in ["one", "two", "three"] {
            fs::write(folder.place("a"), content).expect("there is room");
            assert_eq!(put(&folder, "a", &to).expect("there is room"), Done::Yes);
            assert!(!folder.place("a").exists(), "{content}");
        }
        assert_eq!(put(&folder, "a", &to).expect("there is room"), Done::Changed);
        assert_eq!(left(&home).expect("it can be read"), Some((3, home.join(NAME))));
        let time = to.file_name().and_then(|name| name.to_str()).expect("the time");
        for (beside, content) in [("", "one"), ("-2", "two"), ("-3", "three")] {
            let path = home.join(NAME).join(format!("{time}{beside}/notes/a"));
            assert_eq!(fs::read_to_string(path).expect("it was kept"), content);
        }
    }
}
