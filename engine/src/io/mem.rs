//! A disk in memory, for tests: files by path, and everything durable at once.
//!
//! What this file does not do: it loses nothing and fails nothing by itself (the simulated disk of the tests does); a
//! test damages it with [`MemIo::flip`], makes it full with [`MemIo::limit`], and goes back in time with
//! [`MemIo::snapshot`] and [`MemIo::restore`].
//! Invariant: what a real disk would refuse is refused here too: a misaligned direct transfer panics, a file in a
//! directory that does not exist is not found.

use super::{AlignedBuf, Completion, Done, File, Io, IoQueue, Op, OpenMode, Wake, assert_aligned};
use crate::sync::plain::Mutex;
use crate::sync::{self, Condvar, wait_for};
use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A file's bytes, which outlive its name as long as it is open.
type Content = Arc<Mutex<Vec<u8>>>;

/// The disk. Clones share it.
#[derive(Clone, Default)]
pub struct MemIo {
    disk: Arc<Mutex<Disk>>,
}

#[derive(Default)]
struct Disk {
    files: BTreeMap<PathBuf, Content>,
    dirs: BTreeSet<PathBuf>,
    locked: BTreeSet<PathBuf>,
    /// What all files may take together; None: as much as there is.
    room: Option<u64>,
}

/// An open file.
struct Handle {
    content: Content,
    mode: OpenMode,
}

impl Handle {
    fn of(file: &File) -> &Self {
        file.inner.downcast_ref().expect("a file is used with the backend that opened it")
    }
}

impl MemIo {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// All files as they are now.
    #[must_use]
    pub fn snapshot(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let disk = self.disk.lock();
        disk.files.iter().map(|(path, content)| (path.clone(), content.lock().clone())).collect()
    }

    /// Makes `files` all that there are, and their directories exist. Files open before belong to the past: what is
    /// written to them is not seen any more.
    pub fn restore(&self, files: &BTreeMap<PathBuf, Vec<u8>>) {
        let mut disk = self.disk.lock();
        let parents = files.keys().flat_map(|path| path.ancestors().skip(1).map(Path::to_owned));
        disk.dirs.extend(parents);
        disk.files = files.iter().map(|(path, bytes)| (path.clone(), Arc::new(Mutex::new(bytes.clone())))).collect();
    }

    /// All files together may take so many bytes from now on; what is there already stays. None: as many as there are.
    pub fn limit(&self, room: Option<u64>) {
        self.disk.lock().room = room;
    }

    /// Refuses what would make `file` end at `end`, if there is no room for that.
    fn check_room(&self, file: &File, end: u64) -> io::Result<()> {
        let disk = self.disk.lock();
        let Some(room) = disk.room else { return Ok(()) };
        let used: u64 = disk.files.values().map(|content| content.lock().len() as u64).sum();
        let more = end.saturating_sub(Handle::of(file).content.lock().len() as u64);
        if more > 0 && used + more > room { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
    }

    /// Flips the bits of `mask` in one byte of a file. Panics if there is no such byte.
    pub fn flip(&self, path: impl AsRef<Path>, offset: u64, mask: u8) {
        let path = path.as_ref();
        let content = self.disk.lock().files.get(path).cloned();
        let content = content.unwrap_or_else(|| panic!("there is no file {}", path.display()));
        let mut bytes = content.lock();
        let len = bytes.len();
        let byte = usize::try_from(offset).ok().and_then(|at| bytes.get_mut(at));
        *byte.unwrap_or_else(|| panic!("{} has {len} bytes and none at {offset}", path.display())) ^= mask;
    }
}

impl Disk {
    /// Whether `path` is a directory; the root and the working directory always are.
    fn is_dir(&self, path: &Path) -> bool {
        path.parent().is_none() || self.dirs.contains(path)
    }

    /// Refuses a path whose directory does not exist.
    fn in_dir(&self, path: &Path) -> io::Result<()> {
        match path.parent() {
            Some(parent) if self.is_dir(parent) => Ok(()),
            _ => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn open(&mut self, path: PathBuf, mode: OpenMode) -> io::Result<Done> {
        self.in_dir(&path)?;
        let content = match (self.files.get(&path), mode) {
            (Some(_), OpenMode::Create | OpenMode::CreateDirect) => return Err(io::ErrorKind::AlreadyExists.into()),
            (Some(content), _) => content.clone(),
            (None, OpenMode::Create | OpenMode::CreateDirect) => self.files.entry(path.clone()).or_default().clone(),
            (None, _) => return Err(io::ErrorKind::NotFound.into()),
        };
        Ok(Done::File(File { path: path.into(), inner: Arc::new(Handle { content, mode }) }))
    }

    fn rename(&mut self, from: &Path, to: PathBuf) -> io::Result<Done> {
        self.in_dir(&to)?;
        let content = self.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
        self.files.insert(to, content);
        Ok(Done::Nothing)
    }

    fn create_dir(&mut self, path: PathBuf) -> io::Result<Done> {
        if self.is_dir(&path) {
            return Ok(Done::Nothing);
        }
        self.in_dir(&path)?;
        if self.files.contains_key(&path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        self.dirs.insert(path);
        Ok(Done::Nothing)
    }

    fn list(&self, path: &Path) -> io::Result<Done> {
        if !self.is_dir(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let children = self.files.keys().chain(&self.dirs).filter(|child| child.parent() == Some(path));
        let mut names: Vec<_> =
            children.filter_map(|child| child.file_name()).map(|name| name.to_string_lossy().into_owned()).collect();
        names.sort_unstable();
        Ok(Done::Names(names))
    }
}

fn read(file: &File, offset: u64, mut buf: AlignedBuf) -> Done {
    let handle = Handle::of(file);
    if handle.mode.is_direct() {
        assert_aligned(&file.path, offset, buf.capacity());
    }
    let bytes = handle.content.lock();
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
    let end = start.saturating_add(buf.capacity()).min(bytes.len());
    buf.set_len(end - start);
    buf.copy_from_slice(&bytes[start..end]);
    Done::Buf(buf)
}

fn write(file: &File, offset: u64, buf: AlignedBuf) -> io::Result<Done> {
    let handle = Handle::of(file);
    if handle.mode.is_direct() {
        assert_aligned(&file.path, offset, buf.len());
    }
    if matches!(handle.mode, OpenMode::Read | OpenMode::ReadDirect) {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "the file is open for reading alone"));
    }
    let mut bytes = handle.content.lock();
    let start = usize::try_from(offset).map_err(|_| io::ErrorKind::FileTooLarge)?;
    let end = start.checked_add(buf.len()).ok_or(io::ErrorKind::FileTooLarge)?;
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[start..end].copy_from_slice(&buf);
    Ok(Done::Buf(buf))
}

fn allocate(file: &File, len: u64) -> io::Result<Done> {
    let mut bytes = Handle::of(file).content.lock();
    let len = usize::try_from(len).map_err(|_| io::ErrorKind::StorageFull)?;
    if bytes.len() < len {
        bytes.resize(len, 0);
    }
    Ok(Done::Nothing)
}

impl Io for MemIo {
    fn name(&self) -> &'static str {
        "mem"
    }

    fn run(&self, op: Op) -> io::Result<Done> {
        match op {
            Op::Open { path, mode } => self.disk.lock().open(path, mode),
            Op::Read { file, offset, buf } => Ok(read(&file, offset, buf)),
            Op::Write { file, offset, buf, durable: _ } => {
                self.check_room(&file, offset.saturating_add(buf.len() as u64))?;
                write(&file, offset, buf)
            }
            Op::Sync { file } => {
                Handle::of(&file);
                Ok(Done::Nothing)
            }
            Op::Allocate { file, len } => {
                self.check_room(&file, len)?;
                allocate(&file, len)
            }
            Op::Len { file } => Ok(Done::Len(Handle::of(&file).content.lock().len() as u64)),
            Op::Rename { from, to } => self.disk.lock().rename(&from, to),
            Op::Remove { path } => match self.disk.lock().files.remove(&path) {
                Some(_) => Ok(Done::Nothing),
                None => Err(io::ErrorKind::NotFound.into()),
            },
            Op::CreateDir { path } => self.disk.lock().create_dir(path),
            Op::SyncDir { path } if self.disk.lock().is_dir(&path) => Ok(Done::Nothing),
            Op::SyncDir { .. } => Err(io::ErrorKind::NotFound.into()),
            Op::List { path } => self.disk.lock().list(&path),
        }
    }

    fn queue(&self, depth: usize) -> io::Result<Box<dyn IoQueue>> {
        assert!(depth > 0, "a queue takes at least one operation");
        Ok(Box::new(MemQueue { disk: self.clone(), depth, completed: Vec::new(), bell: Arc::default() }))
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Any + Send + Sync>>> {
        let mut disk = self.disk.lock();
        disk.in_dir(path)?;
        disk.files.entry(path.to_owned()).or_default();
        if !disk.locked.insert(path.to_owned()) {
            return Ok(None);
        }
        Ok(Some(Box::new(Locked { disk: self.disk.clone(), path: path.to_owned() })))
    }
}

/// A lock that is held.
struct Locked {
    disk: Arc<Mutex<Disk>>,
    path: PathBuf,
}

impl Drop for Locked {
    fn drop(&mut self) {
        self.disk.lock().locked.remove(&self.path);
    }
}

/// A queue that executes each operation when it is submitted and tells of it at the next poll.
struct MemQueue {
    disk: MemIo,
    depth: usize,
    completed: Vec<Completion>,
    bell: Arc<Bell>,
}

/// The waker: whether it was called since a blocking poll last returned.
#[derive(Default)]
struct Bell {
    rung: sync::Mutex<bool>,
    changed: Condvar,
}

impl Wake for Bell {
    fn wake(&self) {
        *self.rung.lock() = true;
        self.changed.notify_one();
    }
}

impl IoQueue for MemQueue {
    fn submit(&mut self, id: u64, op: Op) {
        assert!(self.completed.len() < self.depth, "more operations in flight than the queue was made for");
        assert!(self.completed.iter().all(|done| done.id != id), "the id {id} is in flight already");
        let result = self.disk.run(op);
        self.completed.push(Completion { id, result });
    }

    fn poll(&mut self, wait: Option<Duration>, out: &mut Vec<Completion>) -> io::Result<()> {
        let any = !self.completed.is_empty();
        out.append(&mut self.completed);
        let Some(wait) = wait else { return Ok(()) };
        let mut rung = self.bell.rung.lock();
        if !any {
            #[allow(clippy::disallowed_methods, reason = "a wait with an end needs the time that has passed")]
            let now = Instant::now;
            let deadline = now().checked_add(wait);
            while !*rung {
                let left = deadline.map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(now()));
                if left.is_zero() {
                    break;
                }
                wait_for(&self.bell.changed, &mut rung, left);
            }
        }
        *rung = false;
        Ok(())
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.bell.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::BLOCK;

    fn disk() -> (MemIo, Arc<dyn Io>) {
        let disk = MemIo::new();
        (disk.clone(), Arc::new(disk))
    }

    #[test]
    fn a_snapshot_is_restored_and_a_flip_is_seen() {
        let (disk, io) = disk();
        let path = Path::new("/store/a");
        io.create_dir(Path::new("/store")).expect("the root exists");
        let file = io.open(path, OpenMode::Create).expect("its directory exists");
        io.write_at(&file, 0, AlignedBuf::from_slice(b"before"), true).expect("memory takes it");
        let snapshot = disk.snapshot();
        disk.flip(path, 1, 0x20);
        assert_eq!(io.read_all(path, 100).expect("it is there"), b"bEfore");
        io.remove(path).expect("it is there");

        disk.restore(&snapshot);
        assert_eq!(io.read_all(path, 100).expect("it is back"), b"before");
        io.write_at(&file, 0, AlignedBuf::from_slice(b"AFTER"), true).expect("an open file stays usable");
        assert_eq!(disk.snapshot(), snapshot, "but belongs to the past");
        assert_eq!(MemIo::new().snapshot(), BTreeMap::new());
    }

    #[test]
    fn what_a_real_disk_refuses_is_refused() {
        let (_, io) = disk();
        let refused = io.open(Path::new("/nowhere/a"), OpenMode::Create).expect_err("no such directory");
        assert_eq!(refused.os_error().map(io::Error::kind), Some(io::ErrorKind::NotFound));
        let file = io.open(Path::new("/a"), OpenMode::Create).expect("the root exists");
        io.allocate(&file, 2 * BLOCK as u64).expect("memory takes it");
        let file = io.open(Path::new("/a"), OpenMode::ReadDirect).expect("it was created");
        io.write_at(&file, 0, AlignedBuf::zeroed(BLOCK), false).expect_err("open for reading");
    }
}
