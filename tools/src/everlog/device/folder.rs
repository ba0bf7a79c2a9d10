//! One collection's folder: which items are in it, and changes to it that neither a crash nor the user's own editing at
//! the same moment turns into a loss.
//!
//! It does not know what was agreed on with the server. Invariant: a file is replaced or removed only if it still is
//! the version that the caller's decision was based on, and what takes its place is complete and synced before. A look
//! cannot promise that, because the user may save between it and the change. So what has to go is put aside in one
//! step, looked at there, and put back if it is something else.

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, OFlags, RenameFlags, renameat_with};
use rustix::io::Errno;

use super::collection::{Collection, conflict_name, is_leaving};
use super::digest::Digest;
use super::disk::{self, failed};
use super::merge::Version;
use everlog_server::failure::Failure;

pub struct Folder {
    collection: Collection,
    path: PathBuf,
    /// A folder of the device's own on the same file system.
    scratch: PathBuf,
    /// Another, for what has just lost its place under its own name and may have to be put back, also after a crash.
    aside: PathBuf,
}

/// What a look at all names found.
#[derive(Default)]
pub struct Names {
    pub items: Vec<String>,
    /// What cannot be an item though it looks like one: name and reason.
    pub odd: Vec<(String, &'static str)>,
    /// What the user may take for an item though it is none: name and reason.
    pub others: Vec<(String, &'static str)>,
}

/// What is under one name.
#[derive(PartialEq, Eq, Debug)]
pub enum Found {
    Nothing,
    File(Digest),
    /// Something that is no file, or a file that cannot be read: nothing can be said of the item.
    Unknown(String),
}

/// A whole small file.
pub enum Bytes {
    Nothing,
    Read(Vec<u8>),
    TooLarge,
    Unknown(String),
}

/// What became of a change to the folder.
#[derive(PartialEq, Eq, Debug)]
pub enum Done {
    Yes,
    /// The file is no longer the expected version: decide again.
    Changed,
    /// It cannot be done, for a reason that lies in this one name.
    Refused(String),
}

impl Folder {
    pub fn new(dir: &Path, home: &Path, collection: Collection) -> Self {
        Self {
            collection,
            path: dir.join(collection.name),
            scratch: home.join("tmp"),
            aside: home.join("aside").join(collection.name),
        }
    }

    /// The collection's name.
    pub fn name(&self) -> &'static str {
        self.collection.name
    }

    /// Where an item's file is.
    pub fn place(&self, key: &str) -> PathBuf {
        self.path.join(key)
    }

    pub fn exists(&self) -> bool {
        self.path.is_dir()
    }

    pub fn create(&self) -> Result<(), Failure> {
        fs::create_dir_all(&self.path).map_err(failed("creating", &self.path))
    }

    pub fn missing(&self) -> Failure {
        Failure::new(
            3,
            format!("the folder {} is missing, and its items with it", self.path.display()),
            "put it back, or have all fetched anew with `everlog device reset --keep-files`; nothing was deleted on \
             the server",
        )
    }

    /// What is said of a folder without any item where there were many.
    pub fn emptied(&self, known: usize) -> Failure {
        Failure::new(
            3,
            format!("the folder {} is empty, but {known} items were in it", self.path.display()),
            "put them back (is the disk mounted?), or, if they are to be deleted everywhere, sync with --allow-empty; \
             nothing was deleted on the server",
        )
    }

    /// Looks at all names. Hidden files, folders, links and editors' leavings are no items.
    pub fn names(&self) -> Result<Names, Failure> {
        let mut names = Names::default();
        let entries = fs::read_dir(&self.path).map_err(|e| self.unread(e))?;
        for entry in entries {
            let entry = entry.map_err(|e| self.unread(e))?;
            let is_file = entry.file_type().map_err(failed("looking at", &entry.path()))?.is_file();
            match entry.file_name().into_string() {
                Ok(name) if is_leaving(&name) => {}
                Ok(name) if !is_file => names.others.push((name, "it is no file")),
                Err(_) if !is_file => {}
                Err(name) if name.as_encoded_bytes().starts_with(b".") => {}
                Err(name) => names.odd.push((name.to_string_lossy().into_owned(), "its name is not UTF-8")),
                Ok(name) if !self.collection.takes(&name) => names.others.push((name, self.collection.wants())),
                Ok(name) => match self.collection.refuses(&name) {
                    Some(why) => names.odd.push((name, why)),
                    None => names.items.push(name),
                },
            }
        }
        names.items.sort_unstable();
        Ok(names)
    }

    fn unread(&self, e: io::Error) -> Failure {
        if e.kind() == ErrorKind::NotFound { self.missing() } else { failed("reading", &self.path)(e) }
    }

    /// What is under the name now. A missing folder is a failure, since it says nothing about its items.
    pub fn find(&self, key: &str) -> Result<Found, Failure> {
        match self.open(key) {
            Ok(Some(mut file)) => Ok(match Digest::of_reader(&mut file) {
                Ok((hash, _)) => Found::File(hash),
                Err(e) => Found::Unknown(format!("the file cannot be read: {e}")),
            }),
            Ok(None) => Ok(Found::Unknown("something that is no file has its name".into())),
            Err(e) if e.kind() == ErrorKind::NotFound && self.exists() => Ok(Found::Nothing),
            Err(e) if e.kind() == ErrorKind::NotFound => Err(self.missing()),
            Err(e) => Ok(Found::Unknown(format!("the file cannot be read: {e}"))),
        }
    }

    /// The open file; None if what has the name is no file.
    pub fn open(&self, key: &str) -> io::Result<Option<File>> {
        let path = self.path.join(key);
        if !fs::symlink_metadata(&path)?.is_file() {
            return Ok(None);
        }
        // What took the file's place since may be a link, or a pipe that nobody writes to.
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        let file = File::options().read(true).custom_flags(flags).open(path)?;
        Ok(file.metadata()?.is_file().then_some(file))
    }

    /// The file's bytes, if they are no more than `most`.
    pub fn read(&self, key: &str, most: u64) -> Result<Bytes, Failure> {
        let file = match self.open(key) {
            Ok(Some(file)) => file,
            Ok(None) => return Ok(Bytes::Unknown("something that is no file has its name".into())),
            Err(e) if e.kind() == ErrorKind::NotFound && self.exists() => return Ok(Bytes::Nothing),
            Err(e) if e.kind() == ErrorKind::NotFound => return Err(self.missing()),
            Err(e) => return Ok(Bytes::Unknown(format!("the file cannot be read: {e}"))),
        };
        let mut bytes = Vec::new();
        Ok(match file.take(most + 1).read_to_end(&mut bytes) {
            Ok(_) if bytes.len() as u64 > most => Bytes::TooLarge,
            Ok(_) => Bytes::Read(bytes),
            Err(e) => Bytes::Unknown(format!("the file cannot be read: {e}")),
        })
    }

    /// Puts bytes under the name.
    pub fn write(&self, key: &str, bytes: &[u8], expected: Version) -> Result<Done, Failure> {
        let temporary = self.scratch_file(key);
        write_synced(&temporary, &mut &bytes[..]).map_err(failed("writing", &temporary))?;
        self.adopt(&temporary, key, expected)
    }

    /// Puts a complete and synced file of this file system under the name. It is gone from its old place only if that
    /// succeeds.
    pub fn adopt(&self, file: &Path, key: &str, expected: Version) -> Result<Done, Failure> {
        if let Some(not) = self.differs(key, expected)? {
            return Ok(not);
        }
        match expected {
            Some(hash) => self.exchange(file, key, hash),
            // The kernel itself sees to it that nothing is replaced.
            None => match rename_new(file, &self.path.join(key)) {
                Ok(()) => Ok(Done::Yes),
                Err(e) if e.kind() == ErrorKind::AlreadyExists => Ok(Done::Changed),
                Err(e) => self.refused("written", key, e),
            },
        }
    }

    /// Lets the file and the expected version change places, and looks at what came out.
    fn exchange(&self, file: &Path, key: &str, expected: Digest) -> Result<Done, Failure> {
        let (place, aside) = (self.path.join(key), self.put_aside(key)?);
        if let Ok(old) = fs::symlink_metadata(&place) {
            // Whoever could read the old version can read the new one.
            fs::set_permissions(file, old.permissions()).map_err(failed("writing", file))?;
        }
        let made = fs::symlink_metadata(file).map_err(failed("looking at", file))?;
        fs::rename(file, &aside).map_err(failed("writing", &aside))?;
        if let Err(e) = renameat_with(CWD, &aside, CWD, &place, RenameFlags::EXCHANGE) {
            fs::rename(&aside, file).map_err(failed("writing", file))?;
            return match e {
                Errno::NOENT => Ok(Done::Changed),
                Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP => self.replace(file, key, expected),
                e => self.refused("written", key, e.into()),
            };
        }
        if is_version(&aside, expected) {
            disk::remove(&aside)?;
            return Ok(Done::Yes);
        }
        match renameat_with(CWD, &aside, CWD, &place, RenameFlags::EXCHANGE) {
            Ok(()) if is_untouched(&aside, &made) => fs::rename(&aside, file).map_err(failed("writing", file))?,
            // It was edited even in that moment, or is gone.
            _ => self.put_back(&aside, key)?,
        }
        Ok(Done::Changed)
    }

    /// As `exchange`, in two steps, for a file system that knows no exchange.
    fn replace(&self, file: &Path, key: &str, expected: Digest) -> Result<Done, Failure> {
        let aside = match self.take_out(key, expected)? {
            Ok(aside) => aside,
            Err(not) => return Ok(not),
        };
        match rename_new(file, &self.path.join(key)) {
            Ok(()) => disk::remove(&aside).map(|()| Done::Yes),
            Err(e) if e.kind() == ErrorKind::AlreadyExists => disk::remove(&aside).map(|()| Done::Changed),
            Err(e) => {
                self.put_back(&aside, key)?;
                self.refused("written", key, e)
            }
        }
    }

    pub fn remove(&self, key: &str, expected: Version) -> Result<Done, Failure> {
        if let Some(not) = self.differs(key, expected)? {
            return Ok(not);
        }
        let Some(expected) = expected else { return Ok(Done::Yes) };
        match self.take_out(key, expected)? {
            Ok(aside) => disk::remove(&aside).map(|()| Done::Yes),
            Err(not) => Ok(not),
        }
    }

    /// Puts the expected version aside, and tells where it is.
    fn take_out(&self, key: &str, expected: Digest) -> Result<Result<PathBuf, Done>, Failure> {
        let (place, aside) = (self.path.join(key), self.put_aside(key)?);
        match fs::rename(&place, &aside) {
            Ok(()) if is_version(&aside, expected) => Ok(Ok(aside)),
            Ok(()) => {
                self.put_back(&aside, key)?;
                Ok(Err(Done::Changed))
            }
            Err(e) if e.kind() == ErrorKind::NotFound => Ok(Err(Done::Changed)),
            Err(e) => self.refused("removed", key, e).map(Err),
        }
    }

    /// A place to put a file aside in.
    fn put_aside(&self, key: &str) -> Result<PathBuf, Failure> {
        fs::create_dir_all(&self.aside).map_err(failed("creating", &self.aside))?;
        Ok(self.aside.join(key))
    }

    /// Gives a file its name back, or another if that is taken by now.
    fn put_back(&self, aside: &Path, key: &str) -> Result<(), Failure> {
        let place = self.path.join(key);
        match rename_new(aside, &place) {
            Ok(()) => return Ok(()),
            Err(e) if e.kind() != ErrorKind::AlreadyExists => return Err(failed("writing", &place)(e)),
            Err(_) => {}
        }
        let hash =
            File::open(aside).and_then(|mut file| Digest::of_reader(&mut file)).map_err(failed("reading", aside))?;
        match self.name_second(aside, key, hash.0)? {
            Ok(_) => Ok(()),
            Err(why) => Err(Failure::new(5, why, format!("look into {}, where it is", self.aside.display()))),
        }
    }

    /// Puts back what a crash left aside, except for versions that the caller knows to be kept elsewhere.
    pub fn recover(&self, is_known: impl Fn(&str, Digest) -> bool) -> Result<(), Failure> {
        let entries = match fs::read_dir(&self.aside) {
            Ok(entries) => entries,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(failed("reading", &self.aside)(e)),
        };
        let mut is_changed = false;
        for entry in entries {
            is_changed = true;
            let aside = entry.map_err(failed("reading", &self.aside))?.path();
            let Some(key) = aside.file_name().and_then(|name| name.to_str()).map(str::to_owned) else { continue };
            let hash = File::open(&aside).and_then(|mut file| Digest::of_reader(&mut file));
            let (hash, _) = hash.map_err(failed("reading", &aside))?;
            if is_known(&key, hash) || self.find(&key)? == Found::File(hash) {
                disk::remove(&aside)?;
            } else {
                self.put_back(&aside, &key)?;
            }
        }
        if is_changed { self.sync() } else { Ok(()) }
    }

    /// What an error on one name means.
    pub fn refused(&self, verb: &str, key: &str, e: io::Error) -> Result<Done, Failure> {
        if lies_in_the_name(&e) {
            Ok(Done::Refused(format!("the file cannot be {verb}: {e}")))
        } else {
            Err(failed("changing", &self.path.join(key))(e))
        }
    }

    /// Keeps the expected version under a name of its own as well, made of its hash. If that cannot be, what became of
    /// it instead.
    pub fn keep_both(&self, key: &str, expected: Digest) -> Result<Result<String, Done>, Failure> {
        let temporary = self.scratch_file(key);
        let source = match self.open(key) {
            Ok(Some(mut file)) => write_synced(&temporary, &mut file).map_err(failed("writing", &temporary))?,
            _ => return Ok(Err(Done::Changed)),
        };
        if source != expected {
            disk::remove(&temporary)?;
            return Ok(Err(Done::Changed));
        }
        Ok(self.name_second(&temporary, key, expected)?.map_err(Done::Refused))
    }

    /// Moves a second version of an item to a name of its own, or finds that it is there already. Else why not.
    fn name_second(&self, file: &Path, key: &str, hash: Digest) -> Result<Result<String, String>, Failure> {
        for digits in [8, 16, 32, 64] {
            let name = conflict_name(key, &hash.to_string(), digits);
            let place = self.path.join(&name);
            match rename_new(file, &place) {
                Ok(()) => return Ok(Ok(name)),
                Err(e) if e.kind() == ErrorKind::AlreadyExists => {}
                Err(e) if lies_in_the_name(&e) => return Ok(Err(format!("{name} cannot be written: {e}"))),
                Err(e) => return Err(failed("writing", &place)(e)),
            }
            // It was kept before a crash, or on another device.
            if matches!(self.find(&name)?, Found::File(found) if found == hash) {
                disk::remove(file)?;
                return Ok(Ok(name));
            }
        }
        Ok(Err("every name for a second version of it, with .conflict- in it, is taken".into()))
    }

    /// Makes the names durable. The state may speak of them only after this.
    pub fn sync(&self) -> Result<(), Failure> {
        disk::sync_folder(&self.path)
    }

    fn differs(&self, key: &str, expected: Version) -> Result<Option<Done>, Failure> {
        Ok(match self.find(key)? {
            Found::Nothing if expected.is_none() => None,
            Found::File(hash) if Some(hash) == expected => None,
            Found::Unknown(why) => Some(Done::Refused(why)),
            _ => Some(Done::Changed),
        })
    }

    /// One name at a time is in use, by the one process that holds the device's lock.
    fn scratch_file(&self, key: &str) -> PathBuf {
        self.scratch.join(format!("{}-{}", self.collection.name, &Digest::of(key.as_bytes()).to_string()[..16]))
    }
}

/// Hash by key of all items, and what is to be said of the others.
pub struct Scan {
    pub items: BTreeMap<String, Digest>,
    pub unknown: BTreeMap<String, String>,
    pub odd: Vec<(String, &'static str)>,
    pub others: Vec<(String, &'static str)>,
}

/// Reads everything. `known`: keys whose absence is a deletion, so that it must be certain.
pub fn scan<'a>(folder: &Folder, known: impl Iterator<Item = &'a String>) -> Result<Scan, Failure> {
    let names = folder.names()?;
    let mut scan = Scan { items: BTreeMap::new(), unknown: BTreeMap::new(), odd: names.odd, others: names.others };
    for key in names.items.into_iter().chain(known.cloned()) {
        if scan.items.contains_key(&key) || scan.unknown.contains_key(&key) {
            continue;
        }
        match folder.find(&key)? {
            Found::Nothing => {}
            Found::File(hash) => _ = scan.items.insert(key, hash),
            Found::Unknown(why) => _ = scan.unknown.insert(key, why),
        }
    }
    Ok(scan)
}

/// Copies into a new file and syncs it. The hash of what was copied.
fn write_synced(path: &Path, source: &mut dyn Read) -> io::Result<Digest> {
    let mut file = File::create(path)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let n = match source.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            Err(e) => return Err(e),
        };
        hasher.update(&buffer[..n]);
        file.write_all(&buffer[..n])?;
    }
    file.sync_all()?;
    Ok(Digest::finish(&hasher))
}

/// Renames to a name that must be free. Where the file system cannot tell in the same step, a look comes before.
pub fn rename_new(from: &Path, to: &Path) -> io::Result<()> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        Err(Errno::INVAL | Errno::NOSYS) => match fs::symlink_metadata(to) {
            Ok(_) => Err(ErrorKind::AlreadyExists.into()),
            Err(e) if e.kind() == ErrorKind::NotFound => fs::rename(from, to),
            Err(e) => Err(e),
        },
        done => done.map_err(io::Error::from),
    }
}

fn is_version(path: &Path, expected: Digest) -> bool {
    let is_file = fs::symlink_metadata(path).is_ok_and(|found| found.is_file());
    let hash = is_file.then(|| File::open(path).and_then(|mut file| Digest::of_reader(&mut file)));
    hash.is_some_and(|hash| hash.is_ok_and(|(hash, _)| hash == expected))
}

/// Whether nobody has written to the file since.
fn is_untouched(path: &Path, then: &Metadata) -> bool {
    let told = |file: &Metadata| (file.ino(), file.len(), file.mtime(), file.mtime_nsec());
    fs::symlink_metadata(path).is_ok_and(|now| told(&now) == told(then))
}

/// Errors that another item need not meet.
fn lies_in_the_name(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        ErrorKind::InvalidFilename
            | ErrorKind::InvalidInput
            | ErrorKind::IsADirectory
            | ErrorKind::PermissionDenied
            | ErrorKind::AlreadyExists
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::collection::ALL;
    use std::os::unix::ffi::OsStrExt;

    fn sample() -> (tempfile::TempDir, Folder) {
        let dir = tempfile::tempdir().expect("there is room");
        let folder = Folder::new(dir.path(), &dir.path().join(".everlog"), ALL[3]);
        folder.create().expect("there is room");
        fs::create_dir_all(dir.path().join(".everlog/tmp")).expect("there is room");
        (dir, folder)
    }

    fn text(dir: &tempfile::TempDir, name: &str) -> String {
        fs::read_to_string(dir.path().join("notes").join(name)).expect("it is there")
    }

    #[test]
    fn only_files_with_plain_names_are_items() {
        let (dir, folder) = sample();
        let notes = dir.path().join("notes");
        for name in ["b", "a", ".hidden", "a~", "x.tmp", "new\nline"] {
            fs::write(notes.join(name), "x").expect("there is room");
        }
        fs::write(notes.join(std::ffi::OsStr::from_bytes(b"\xff")), "x").expect("there is room");
        fs::create_dir(notes.join("dir")).expect("there is room");
        std::os::unix::fs::symlink("a", notes.join("link")).expect("there is room");
        let mut names = folder.names().expect("it can be read");
        assert_eq!(names.items, ["a", "b"]);
        assert_eq!(names.odd.len(), 2, "{:?}", names.odd);
        names.others.sort_unstable();
        assert_eq!(names.others, [("dir".to_owned(), "it is no file"), ("link".to_owned(), "it is no file")]);
    }

    #[test]
    fn a_file_that_changed_meanwhile_stays() {
        let (dir, folder) = sample();
        let one = Digest::of(b"one");
        assert_eq!(folder.write("a", b"one", None).expect("there is room"), Done::Yes);
        assert_eq!(folder.write("a", b"two", None).expect("there is room"), Done::Changed);
        assert_eq!(folder.write("a", b"two", Some(Digest::of(b"other"))).expect("there is room"), Done::Changed);
        assert_eq!(folder.remove("a", Some(Digest::of(b"other"))).expect("there is room"), Done::Changed);
        assert_eq!(text(&dir, "a"), "one");
        assert_eq!(folder.write("a", b"two", Some(one)).expect("there is room"), Done::Yes);
        assert_eq!(text(&dir, "a"), "two");
        assert_eq!(folder.remove("a", Some(Digest::of(b"two"))).expect("there is room"), Done::Yes);
        assert_eq!(folder.find("a").expect("it can be read"), Found::Nothing);
    }

    #[test]
    fn what_is_no_file_is_left_alone() {
        let (dir, folder) = sample();
        fs::create_dir(dir.path().join("notes/a")).expect("there is room");
        assert!(matches!(folder.find("a").expect("it can be read"), Found::Unknown(_)));
        assert!(matches!(folder.write("a", b"x", None).expect("there is room"), Done::Refused(_)));
    }

    #[test]
    fn a_second_version_is_kept_once() {
        let (dir, folder) = sample();
        let hash = Digest::of(b"one");
        folder.write("a.txt", b"one", None).expect("there is room");
        let name = folder.keep_both("a.txt", hash).expect("there is room").expect("it is that version");
        assert_eq!(name, format!("a.conflict-{}.txt", &hash.to_string()[..8]));
        assert_eq!(folder.keep_both("a.txt", hash).expect("there is room"), Ok(name.clone()));
        fs::write(dir.path().join("notes").join(&name), "edited").expect("there is room");
        let other = folder.keep_both("a.txt", hash).expect("there is room").expect("it is that version");
        assert_ne!(other, name);
        assert_eq!(text(&dir, &other), "one");
        assert_eq!(folder.keep_both("a.txt", Digest::of(b"two")).expect("there is room"), Err(Done::Changed));
        assert_eq!(fs::read_dir(dir.path().join(".everlog/tmp")).expect("it is there").count(), 0);
    }

    #[test]
    fn an_edit_after_the_last_look_is_put_back() {
        let (dir, folder) = sample();
        let looked_at = Digest::of(b"looked at");
        let new = dir.path().join(".everlog/tmp/new");
        let aside = || fs::read_dir(dir.path().join(".everlog/aside/notes")).expect("it is there").count();
        for write in [Folder::exchange, Folder::replace] {
            fs::write(dir.path().join("notes/a"), "saved since").expect("there is room");
            fs::write(&new, "new").expect("there is room");
            assert_eq!(write(&folder, &new, "a", looked_at).expect("there is room"), Done::Changed);
            assert_eq!(
                (text(&dir, "a"), fs::read_to_string(&new).expect("it is there")),
                ("saved since".into(), "new".into())
            );
            assert_eq!(write(&folder, &new, "a", Digest::of(b"saved since")).expect("there is room"), Done::Yes);
            assert_eq!((text(&dir, "a"), new.exists(), aside()), ("new".into(), false, 0));
        }
        assert_eq!(folder.take_out("a", looked_at).expect("there is room"), Err(Done::Changed));
        assert_eq!((text(&dir, "a"), aside()), ("new".into(), 0));
    }

    #[test]
    fn what_a_crash_left_aside_comes_back_unless_it_is_known() {
        let (dir, folder) = sample();
        let aside = dir.path().join(".everlog/aside/notes");
        fs::create_dir_all(&aside).expect("there is room");
        fs::write(dir.path().join("notes/replaced"), "new").expect("there is room");
        for (name, content) in [("replaced", "edited"), ("removed", "edited"), ("known", "agreed on")] {
            fs::write(aside.join(name), content).expect("there is room");
        }
        folder.recover(|_, version| version == Digest::of(b"agreed on")).expect("there is room");
        let copy = conflict_name("replaced", &Digest::of(b"edited").to_string(), 8);
        assert_eq!(folder.names().expect("it can be read").items, ["removed", "replaced", copy.as_str()]);
        assert_eq!((text(&dir, "removed"), text(&dir, &copy)), ("edited".into(), "edited".into()));
        assert_eq!(fs::read_dir(&aside).expect("it is there").count(), 0);
    }

    #[test]
    fn a_new_version_can_be_read_by_whoever_could_read_the_old_one() {
        use std::os::unix::fs::PermissionsExt;
        let (dir, folder) = sample();
        let path = dir.path().join("notes/a");
        fs::write(&path, "one").expect("there is room");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("it is ours");
        assert_eq!(folder.write("a", b"two", Some(Digest::of(b"one"))).expect("there is room"), Done::Yes);
        assert_eq!(fs::metadata(&path).expect("it is there").permissions().mode() & 0o777, 0o640);
    }

    #[test]
    fn a_missing_folder_is_not_an_empty_one() {
        let (dir, folder) = sample();
        fs::remove_dir(dir.path().join("notes")).expect("it is empty");
        assert_eq!(folder.names().map(|_| ()).expect_err("it is missing").code(), 3);
        assert_eq!(folder.find("a").expect_err("it is missing").code(), 3);
    }
}
