//! Blocking system calls, without `unsafe`: what runs where io_uring is refused, and what executes the operations that
//! io_uring is not needed for.
//!
//! Two modes. Normally files opened `Direct` bypass the page cache and a durable write is one `pwritev2` with
//! RWF_DSYNC. With `buffered`, asked for by name, they go through the page cache and a durable write is `pwrite` and
//! `fdatasync`.
//!
//! What this file does not do: it never retries a sync, and never goes on after a durable direct write that ended
//! short. An interrupted call (EINTR) that transferred nothing is begun again. Invariant: a durable write reported as
//! done was wholly accepted by one write with RWF_DSYNC, or by writes followed by one successful sync.

mod directories;
mod queue;

use super::{Done, File, Io, IoQueue, Map, Op, OpenMode, assert_aligned, short_write, view};
use crate::io::AlignedBuf;
use crate::types::BLOCK;
use directories::Directories;
use rustix::fs::{Advice, AtFlags, CWD, FallocateFlags, FlockOperation, Mode, OFlags};
use rustix::io::{Errno, ReadWriteFlags, retry_on_intr};
use std::any::Any;
use std::io::{self, IoSlice, IoSliceMut};
use std::num::NonZeroU64;
use std::path::Path;
use std::sync::Arc;

/// What a store's files may be used for: by their owner alone, since they hold what users wrote.
const FILE_MODE: Mode = Mode::RUSR.union(Mode::WUSR);
/// As [`FILE_MODE`], for directories.
const DIR_MODE: Mode = Mode::RWXU;

/// The disk, by blocking system calls. Clones share what they keep open.
#[derive(Clone, Debug)]
pub struct PosixIo {
    buffered: bool,
    directories: Arc<Directories>,
}

impl PosixIo {
    /// A disk; `buffered` goes through the page cache also where the engine asks to bypass it.
    #[must_use]
    pub fn new(buffered: bool) -> Self {
        Self { buffered, directories: Arc::default() }
    }
}

/// The open file behind a [`File`] of this backend and of io_uring.
pub(super) struct Handle {
    pub(super) fd: std::fs::File,
    /// Opened in a `Direct` mode: the caller owes alignment.
    aligned: bool,
    /// Opened with O_DIRECT.
    direct: bool,
}

impl Handle {
    /// The handle of a file that this backend opened. Panics on another backend's.
    pub(super) fn of(file: &File) -> &Self {
        file.inner.downcast_ref().expect("a file is used with the backend that opened it")
    }

    /// Whether a read that gave `done` bytes so far has met the end of the file without being told so by a read of
    /// none: past the page cache every read but the last one is a whole number of blocks, and the next would not be
    /// aligned.
    pub(super) fn ends_after(&self, done: usize) -> bool {
        self.direct && !done.is_multiple_of(BLOCK)
    }
}

/// Asserts what the caller of a transfer owes.
pub(super) fn check(op: &Op) {
    match op {
        Op::Read { file, offset, buf } if Handle::of(file).aligned => {
            assert_aligned(&file.path, *offset, buf.capacity());
        }
        Op::Write { file, offset, buf, .. } if Handle::of(file).aligned => {
            assert_aligned(&file.path, *offset, buf.len());
        }
        _ => {}
    }
}

impl Io for PosixIo {
    fn name(&self) -> &'static str {
        if self.buffered { "posix, buffered" } else { "posix" }
    }

    fn run(&self, op: Op) -> io::Result<Done> {
        check(&op);
        match op {
            Op::Open { path, mode } => open(&path, mode, self.buffered),
            Op::Read { file, offset, buf } => read(Handle::of(&file), offset, buf),
            Op::Write { file, offset, buf, durable } => write(Handle::of(&file), offset, buf, durable),
            Op::Sync { file } => nothing(rustix::fs::fdatasync(&Handle::of(&file).fd)),
            Op::Allocate { file, len } => allocate(Handle::of(&file), len),
            Op::Len { file } => Ok(Done::Len(Handle::of(&file).fd.metadata()?.len())),
            Op::Rename { from, to } => nothing(rustix::fs::renameat(CWD, &from, CWD, &to)),
            Op::Remove { path } => nothing(rustix::fs::unlinkat(CWD, &path, AtFlags::empty())),
            Op::CreateDir { path } => create_dir(&path),
            Op::SyncDir { path } => self.directories.sync(&path),
            Op::List { path } => list(&path),
        }
    }

    fn queue(&self, depth: usize) -> io::Result<Box<dyn IoQueue>> {
        Ok(Box::new(queue::PosixQueue::new(self.clone(), depth)?))
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Any + Send + Sync>>> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        let fd = retry_on_intr(|| rustix::fs::openat(CWD, path, flags, FILE_MODE))?;
        match retry_on_intr(|| rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive)) {
            // The lock belongs to the open file description and ends when this, its only descriptor, is closed.
            Ok(()) => Ok(Some(Box::new(fd))),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    fn lock_dir(&self, path: &Path) -> io::Result<Option<Box<dyn Any + Send + Sync>>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = retry_on_intr(|| rustix::fs::openat(CWD, path, flags, Mode::empty()))?;
        match retry_on_intr(|| rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive)) {
            Ok(()) => Ok(Some(Box::new(fd))),
            Err(Errno::WOULDBLOCK) => Ok(None),
            // Some network file systems lock only what is open for writing, which a directory never is. The lock of the
            // file is all there is then.
            Err(e @ (Errno::BADF | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS)) => {
                tracing::warn!(dir = %path.display(), "this file system does not lock directories: {e}");
                Ok(Some(Box::new(())))
            }
            Err(e) => Err(e.into()),
        }
    }

    fn lock_holder(&self, path: &Path) -> Option<String> {
        let meta = rustix::fs::stat(path).ok()?;
        let place =
            format!("{:02x}:{:02x}:{}", rustix::fs::major(meta.st_dev), rustix::fs::minor(meta.st_dev), meta.st_ino);
        let locks = std::fs::read_to_string("/proc/locks").ok()?;
        let pid = holder(&locks, &place)?;
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        Some(match name.trim() {
            "" => format!("process {pid}"),
            name => format!("process {pid}, {name}"),
        })
    }

    fn is_in_place(&self, file: &File) -> bool {
        let Ok(open) = rustix::fs::fstat(&Handle::of(file).fd) else { return true };
        match rustix::fs::stat(&*file.path) {
            Ok(named) => (named.st_dev, named.st_ino) == (open.st_dev, open.st_ino),
            Err(e) => !matches!(e, Errno::NOENT | Errno::NOTDIR | Errno::STALE),
        }
    }

    fn map(&self, file: &File) -> Option<Arc<dyn Map>> {
        match view::map_file(&Handle::of(file).fd, &file.path) {
            Ok(map) => Some(map),
            Err(e) => {
                tracing::debug!(file = %file.path.display(), "not mapped, read instead: {e}");
                None
            }
        }
    }

    fn reads_ahead(&self) -> bool {
        true
    }

    fn will_need(&self, file: &File, offset: u64, len: usize) {
        // A system that refuses reads when it is asked to read.
        let _ = rustix::fs::fadvise(&Handle::of(file).fd, offset, NonZeroU64::new(len as u64), Advice::WillNeed);
    }

    fn read_resident(&self, file: &File, offset: u64, mut buf: AlignedBuf) -> Result<AlignedBuf, AlignedBuf> {
        buf.set_len(buf.capacity());
        let read = {
            let mut slices = [IoSliceMut::new(&mut buf)];
            rustix::io::preadv2(&Handle::of(file).fd, &mut slices, offset, ReadWriteFlags::NOWAIT)
        };
        if read == Ok(buf.len()) { Ok(buf) } else { Err(buf) }
    }

    fn buffered(&self) -> bool {
        self.buffered
    }
}

/// The process that has the lock of `place` (device and inode as there), by the kernel's table of locks. A line of it:
/// `3: FLOCK  ADVISORY  WRITE 4711 fe:00:131 0 EOF`; one with an arrow is of a process that waits.
fn holder(locks: &str, place: &str) -> Option<u32> {
    locks.lines().find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (kind, _, _, pid, at) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        // A process of another namespace is told as 0 or less.
        (kind == "FLOCK" && at == place).then(|| pid.parse().ok()).flatten().filter(|pid| *pid > 0)
    })
}

fn nothing(result: rustix::io::Result<()>) -> io::Result<Done> {
    result.map(|()| Done::Nothing).map_err(io::Error::from)
}

fn open(path: &Path, mode: OpenMode, buffered: bool) -> io::Result<Done> {
    let direct = mode.is_direct() && !buffered;
    let mut flags = OFlags::CLOEXEC
        | match mode {
            OpenMode::Read | OpenMode::ReadDirect => OFlags::RDONLY,
            OpenMode::WriteDirect => OFlags::RDWR,
            OpenMode::CreateDirect | OpenMode::Create => OFlags::RDWR | OFlags::CREATE | OFlags::EXCL,
        };
    if direct {
        flags |= OFlags::DIRECT;
    }
    match retry_on_intr(|| rustix::fs::openat(CWD, path, flags, FILE_MODE)) {
        Ok(fd) => {
            let handle = Handle { fd: fd.into(), aligned: mode.is_direct(), direct };
            Ok(Done::File(File { path: path.into(), inner: Arc::new(handle) }))
        }
        Err(Errno::INVAL) if direct => {
            if mode == OpenMode::CreateDirect {
                // The kernel makes the file before it asks the file system about O_DIRECT. It is ours, since an older
                // one would have failed O_EXCL; left behind, it would make the next attempt fail for another reason.
                let _ = rustix::fs::unlinkat(CWD, path, AtFlags::empty());
            }
            Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "this file system refuses O_DIRECT; put the store on another one, or choose the `buffered` setting, \
                 which is slower and trusts the page cache",
            ))
        }
        Err(e) => Err(e.into()),
    }
}

fn read(handle: &Handle, offset: u64, mut buf: AlignedBuf) -> io::Result<Done> {
    buf.set_len(buf.capacity());
    let mut done = 0;
    while done < buf.len() {
        let part = &mut buf[done..];
        let n = retry_on_intr(|| rustix::io::pread(&handle.fd, &mut *part, offset + done as u64))?;
        done += n;
        if n == 0 || handle.ends_after(done) {
            break;
        }
    }
    buf.set_len(done);
    Ok(Done::Buf(buf))
}

fn write(handle: &Handle, offset: u64, buf: AlignedBuf, durable: bool) -> io::Result<Done> {
    if durable && handle.direct {
        let slices = [IoSlice::new(&buf)];
        let n = retry_on_intr(|| rustix::io::pwritev2(&handle.fd, &slices, offset, ReadWriteFlags::DSYNC))?;
        if n < buf.len() {
            return Err(short_write(n, buf.len()));
        }
        return Ok(Done::Buf(buf));
    }
    let mut done = 0;
    while done < buf.len() {
        let n = retry_on_intr(|| rustix::io::pwrite(&handle.fd, &buf[done..], offset + done as u64))?;
        if n == 0 {
            return Err(short_write(done, buf.len()));
        }
        done += n;
    }
    if durable {
        // Once only: after a failed sync the kernel calls the lost pages clean, and the next sync succeeds over them.
        rustix::fs::fdatasync(&handle.fd)?;
    }
    Ok(Done::Buf(buf))
}

fn allocate(handle: &Handle, len: u64) -> io::Result<Done> {
    if len == 0 {
        return Ok(Done::Nothing);
    }
    nothing(retry_on_intr(|| rustix::fs::fallocate(&handle.fd, FallocateFlags::empty(), 0, len)))
}

fn create_dir(path: &Path) -> io::Result<Done> {
    match rustix::fs::mkdirat(CWD, path, DIR_MODE) {
        Err(Errno::EXIST) if path.is_dir() => Ok(Done::Nothing),
        result => nothing(result),
    }
}

fn list(path: &Path) -> io::Result<Done> {
    // A name that is no UTF-8 is none of ours; it is shown as well as it can be.
    let mut names = std::fs::read_dir(path)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect::<io::Result<Vec<_>>>()?;
    names.sort_unstable();
    Ok(Done::Names(names))
}
