//! The narrow waist between the engine and the disk.
//!
//! Everything the engine asks of a disk is an [`Op`] given to an [`Io`]: executed at once and blocking by
//! [`Io::run`], or queued on an [`IoQueue`], which is what the commit path does. Operations own their buffers until
//! they complete, and give them back. Nothing here retries, and nothing here decides what an error means.
//!
//! Invariant: nothing outside this folder knows which backend runs (`uring`, `posix`, `mem`, or a simulated one).

pub mod buf;
pub mod mem;
pub mod pipeline;
pub mod posix;
#[cfg(target_os = "linux")]
pub mod uring;
pub mod view;

#[cfg(test)]
mod tests;

use std::any::Any;
use std::fmt;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use crate::config::IoChoice;
pub use buf::AlignedBuf;

use crate::error::{Error, ErrorKind, Result};
use crate::mutants::{self, Mutant};
use crate::types::BLOCK;

/// The longest piece of what is read in pieces.
const PIECE_BYTES: usize = 128 << 10;

/// The backend that `choice` names, told by one log line.
///
/// # Errors
/// [`crate::ErrorKind::Io`] if io_uring was asked for by name and the system refuses it.
pub fn choose(choice: IoChoice) -> Result<Arc<dyn Io>> {
    let (io, reason): (Arc<dyn Io>, String) = match choice {
        IoChoice::Auto => match probe() {
            Ok(io) => (io, "the system offers io_uring".to_owned()),
            Err(e) => (Arc::new(posix::PosixIo::new(false)), format!("io_uring is refused: {e}")),
        },
        IoChoice::Uring => match probe() {
            Ok(io) => (io, "asked for by name".to_owned()),
            Err(e) => {
                return Err(Error::new(ErrorKind::Io, format!("io_uring was asked for and is refused: {e}"))
                    .remedy("allow it (containers forbid it by default), or choose the `auto` or `posix` setting"));
            }
        },
        IoChoice::Posix => (Arc::new(posix::PosixIo::new(false)), "asked for by name".to_owned()),
        IoChoice::Buffered => (Arc::new(posix::PosixIo::new(true)), "asked for by name".to_owned()),
    };
    tracing::info!(backend = io.name(), reason, "disk backend chosen");
    Ok(io)
}

#[cfg(target_os = "linux")]
fn probe() -> io::Result<Arc<dyn Io>> {
    uring::UringIo::probe().map(|io| Arc::new(io) as Arc<dyn Io>)
}

#[cfg(not(target_os = "linux"))]
fn probe() -> io::Result<Arc<dyn Io>> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "io_uring exists on Linux alone"))
}

/// An open file. Clones share it; it is closed when the last one is dropped.
#[derive(Clone)]
pub struct File {
    /// Where it was opened, for messages.
    pub path: Arc<Path>,
    /// The backend's own handle.
    pub inner: Arc<dyn Any + Send + Sync>,
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "File({})", self.path.display())
    }
}

/// How a file is opened. `Direct` bypasses the page cache: offsets, lengths and buffers are multiples of 4096 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenMode {
    /// For reading, through the page cache.
    Read,
    /// For reading, bypassing the page cache.
    ReadDirect,
    /// For reading and writing, bypassing the page cache; the file exists.
    WriteDirect,
    /// For reading and writing, bypassing the page cache; fails if the file exists.
    CreateDirect,
    /// For reading and writing through the page cache; fails if the file exists. For small files: identity, manifest.
    Create,
}

impl OpenMode {
    /// Whether offsets, lengths and buffers are multiples of [`BLOCK`]; so also where a backend goes through the page
    /// cache after all.
    #[must_use]
    pub fn is_direct(self) -> bool {
        matches!(self, Self::ReadDirect | Self::WriteDirect | Self::CreateDirect)
    }
}

/// One operation.
#[derive(Debug)]
pub enum Op {
    /// Opens `path`. Done: [`Done::File`].
    Open {
        /// The file.
        path: PathBuf,
        /// How.
        mode: OpenMode,
    },
    /// Reads up to `buf.capacity()` bytes at `offset`; fewer only at the end of the file.
    /// Done: [`Done::Buf`], its length the number of bytes read.
    Read {
        /// The file.
        file: File,
        /// The byte offset.
        offset: u64,
        /// Where to.
        buf: AlignedBuf,
    },
    /// Writes all of `buf` at `offset`. With `durable` it completes only when the bytes are on stable storage, as with
    /// RWF_DSYNC; a write that ends short is an error. Done: [`Done::Buf`].
    Write {
        /// The file.
        file: File,
        /// The byte offset.
        offset: u64,
        /// What.
        buf: AlignedBuf,
        /// Whether it completes only when the bytes are on stable storage.
        durable: bool,
    },
    /// Makes the file's content and size durable. Done: [`Done::Nothing`].
    Sync {
        /// The file.
        file: File,
    },
    /// Reserves space so that the file has `len` bytes. Done: [`Done::Nothing`].
    Allocate {
        /// The file.
        file: File,
        /// The file's new length in bytes.
        len: u64,
    },
    /// The file's length. Done: [`Done::Len`].
    Len {
        /// The file.
        file: File,
    },
    /// Renames a file, replacing what is there. Durable after [`Op::SyncDir`]. Done: [`Done::Nothing`].
    Rename {
        /// From.
        from: PathBuf,
        /// To.
        to: PathBuf,
    },
    /// Removes a file. Durable after [`Op::SyncDir`]. Done: [`Done::Nothing`].
    Remove {
        /// The file.
        path: PathBuf,
    },
    /// Creates a directory; one that exists is no error. Done: [`Done::Nothing`].
    CreateDir {
        /// The directory.
        path: PathBuf,
    },
    /// Makes the directory's entries durable. Done: [`Done::Nothing`].
    SyncDir {
        /// The directory.
        path: PathBuf,
    },
    /// The names of the directory's entries, sorted. Done: [`Done::Names`].
    List {
        /// The directory.
        path: PathBuf,
    },
}

/// What an operation gave.
#[derive(Debug)]
pub enum Done {
    /// An open file.
    File(File),
    /// The buffer, given back.
    Buf(AlignedBuf),
    /// A length in bytes.
    Len(u64),
    /// Names.
    Names(Vec<String>),
    /// Nothing.
    Nothing,
}

/// The end of a queued operation.
#[derive(Debug)]
pub struct Completion {
    /// The id it was submitted with.
    pub id: u64,
    /// What it gave, or why not.
    pub result: io::Result<Done>,
}

/// Ends a blocking [`IoQueue::poll`] from any thread. Cheap when nobody waits.
pub trait Wake: Send + Sync {
    /// Makes the present or the next blocking poll return, whatever polls that do not block come between. What the
    /// caller wrote before is visible to the poller after that return.
    fn wake(&self);
}

/// A queue of operations in flight. Used by one thread at a time, and handed to another one only while nothing is in
/// flight. Dropping it waits for what is in flight.
pub trait IoQueue: Send {
    /// Begins `op`. `id` comes back with its completion and is unique among those in flight.
    /// Only [`Op::Write`] and [`Op::Read`] are promised to be taken. Panics beyond the queue's depth.
    fn submit(&mut self, id: u64, op: Op);

    /// Appends the completions there are to `out`. With a `wait` it returns when there is one, when [`Wake::wake`] was
    /// called since the last poll, or after that time.
    ///
    /// # Errors
    /// If the queue itself is broken; the fate of what was in flight is then unknown.
    fn poll(&mut self, wait: Option<Duration>, out: &mut Vec<Completion>) -> io::Result<()>;

    /// What ends a blocking poll.
    fn waker(&self) -> Arc<dyn Wake>;
}

/// Asserts that one transfer on a file opened `Direct` is aligned, on our side of the crossing to the disk.
fn assert_aligned(path: &Path, offset: u64, len: usize) {
    let block = BLOCK as u64;
    assert!(
        offset.is_multiple_of(block) && (len as u64).is_multiple_of(block),
        "direct transfers are multiples of {BLOCK} bytes, not {len} bytes at {offset} of {}",
        path.display()
    );
}

/// The error of a write that ended short, which is never silently gone on with once durability was asked for.
fn short_write(written: usize, expected: usize) -> io::Error {
    io::Error::new(io::ErrorKind::WriteZero, format!("a write ended short: {written} of {expected} bytes were written"))
}

/// A file mapped for reading.
pub trait Map: Send + Sync {
    /// All of its bytes.
    fn bytes(&self) -> &[u8];

    /// Says that these bytes are about to be read, so that they can be on their way. Nothing depends on it.
    fn prefetch(&self, _part: Range<usize>) {}
}

/// A disk.
pub trait Io: Send + Sync + 'static {
    /// The backend's name, for the log line at open and for `stats`.
    fn name(&self) -> &'static str;

    /// Executes `op` and waits for its end.
    ///
    /// # Errors
    /// The operating system's.
    fn run(&self, op: Op) -> io::Result<Done>;

    /// A queue for at most `depth` operations in flight.
    ///
    /// # Errors
    /// The operating system's.
    fn queue(&self, depth: usize) -> io::Result<Box<dyn IoQueue>>;

    /// Takes the exclusive lock that `path` stands for, creating the file; None if another process holds it. Held
    /// until the value is dropped.
    ///
    /// # Errors
    /// The operating system's.
    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Any + Send + Sync>>>;

    /// Takes the exclusive lock that belongs to the directory itself, whatever it is called and whatever happens to the
    /// files in it; None if another process holds it. Held until the value is dropped. A backend in which no process
    /// can take a file away from another needs none.
    ///
    /// # Errors
    /// The operating system's.
    fn lock_dir(&self, path: &Path) -> io::Result<Option<Box<dyn Any + Send + Sync>>> {
        let _ = path;
        Ok(Some(Box::new(())))
    }

    /// Who holds the lock of the file or directory `path`, where the system tells: for a message.
    fn lock_holder(&self, path: &Path) -> Option<String> {
        let _ = path;
        None
    }

    /// Whether the file's path still names it. False once it was removed, moved or replaced, or a directory above it
    /// was; true where that cannot be told.
    fn is_in_place(&self, file: &File) -> bool {
        let _ = file;
        true
    }

    /// Maps the file for reading, where the backend can; None where it cannot.
    fn map(&self, file: &File) -> Option<Arc<dyn Map>> {
        let _ = file;
        None
    }

    /// Whether it heeds [`Self::will_need`] and [`Self::read_resident`].
    fn reads_ahead(&self) -> bool {
        false
    }

    /// Has `len` bytes at `offset` of a file opened `Read` brought into the page cache, and waits for nothing: a hint.
    fn will_need(&self, file: &File, offset: u64, len: usize) {
        let _ = (file, offset, len);
    }

    /// Fills `buf` with what stands at `offset` of a file opened `Read`, if all of that is in the page cache; never waits for
    /// the disk. Gives the buffer back as an error otherwise.
    fn read_resident(&self, file: &File, offset: u64, buf: AlignedBuf) -> std::result::Result<AlignedBuf, AlignedBuf> {
        let _ = (file, offset);
        Err(buf)
    }

    /// Whether a durable write goes through the page cache and a sync instead of past it.
    fn buffered(&self) -> bool {
        false
    }

    /// Fills `bytes` with random ones, for ids and keys: the operating system's, but in a simulation, where everything
    /// follows from a seed.
    ///
    /// # Errors
    /// What the system says.
    #[allow(clippy::disallowed_methods, reason = "the one home of randomness")]
    fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        getrandom::fill(bytes).map_err(|e| io::Error::other(e.to_string()))
    }
}

impl dyn Io {
    /// Opens a file.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`].
    pub fn open(&self, path: &Path, mode: OpenMode) -> Result<File> {
        match self.run(Op::Open { path: path.to_owned(), mode }) {
            Ok(Done::File(file)) => Ok(file),
            Ok(other) => unreachable!("open gives a file, not {other:?}"),
            Err(e) => Err(Error::io("opening", path, e)),
        }
    }

    /// Reads up to `len` bytes at `offset`, fewer only at the end of the file. With a direct file both are multiples
    /// of 4096.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`].
    pub fn read_at(&self, file: &File, offset: u64, len: usize) -> Result<AlignedBuf> {
        self.read_into(file, offset, AlignedBuf::with_capacity(len))
    }

    /// As `read_at`, in pieces, so that no write that comes meanwhile waits long behind it.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`].
    pub fn read_in_pieces(&self, file: &File, offset: u64, len: usize) -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(len);
        while bytes.len() < len {
            let want = PIECE_BYTES.min(len - bytes.len());
            let piece = self.read_at(file, offset + bytes.len() as u64, want)?;
            bytes.extend_from_slice(&piece);
            if piece.len() < want {
                break;
            }
        }
        Ok(bytes)
    }

    /// Reads up to `buf.capacity()` bytes at `offset` into `buf`.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`].
    pub fn read_into(&self, file: &File, offset: u64, buf: AlignedBuf) -> Result<AlignedBuf> {
        match self.run(Op::Read { file: file.clone(), offset, buf }) {
            Ok(Done::Buf(buf)) => Ok(buf),
            Ok(other) => unreachable!("read gives its buffer, not {other:?}"),
            Err(e) => Err(Error::io("reading", &file.path, e).offset(offset)),
        }
    }

    /// Writes all of `buf` at `offset` and gives it back.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`].
    pub fn write_at(&self, file: &File, offset: u64, buf: AlignedBuf, durable: bool) -> Result<AlignedBuf> {
        match self.run(Op::Write { file: file.clone(), offset, buf, durable }) {
            Ok(Done::Buf(buf)) => Ok(buf),
            Ok(other) => unreachable!("write gives its buffer, not {other:?}"),
            Err(e) => Err(Error::io("writing", &file.path, e).offset(offset)),
        }
    }

    /// Makes the file's content durable.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`].
    pub fn sync(&self, file: &File) -> Result<()> {
        let mut done = self.run(Op::Sync { file: file.clone() });
        if mutants::makes(Mutant::SyncRetried) && done.is_err() {
            done = self.run(Op::Sync { file: file.clone() });
        }
        done.map(drop).map_err(|e| Error::io("syncing", &file.path, e))
    }

    /// Reserves `len` bytes for the file.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`].
    pub fn allocate(&self, file: &File, len: u64) -> Result<()> {
        let op = Op::Allocate { file: file.clone(), len };
        self.run(op).map(drop).map_err(|e| Error::io("reserving space", &file.path, e))
    }

    /// The file's length in bytes.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`].
    pub fn len(&self, file: &File) -> Result<u64> {
        match self.run(Op::Len { file: file.clone() }) {
            Ok(Done::Len(len)) => Ok(len),
            Ok(other) => unreachable!("len gives a length, not {other:?}"),
            Err(e) => Err(Error::io("asking the length", &file.path, e)),
        }
    }

    /// Renames a file, replacing what is there.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`].
    pub fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        let op = Op::Rename { from: from.to_owned(), to: to.to_owned() };
        self.run(op).map(drop).map_err(|e| Error::io("renaming", from, e))
    }

    /// Removes a file.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`].
    pub fn remove(&self, path: &Path) -> Result<()> {
        self.run(Op::Remove { path: path.to_owned() }).map(drop).map_err(|e| Error::io("removing", path, e))
    }

    /// Removes a file, if it is there.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`].
    pub fn remove_if_there(&self, path: &Path) -> Result<()> {
        match self.remove(path) {
            Err(e) if e.os_error().is_some_and(|e| e.kind() == io::ErrorKind::NotFound) => Ok(()),
            removed => removed,
        }
    }

    /// `N` random bytes, for an id or a key.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`].
    pub fn random_bytes<const N: usize>(&self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.random(&mut bytes)
            .map_err(|e| Error::new(ErrorKind::Io, format!("the operating system gave no random bytes: {e}")))?;
        Ok(bytes)
    }

    /// Creates a directory; one that exists is no error.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`].
    pub fn create_dir(&self, path: &Path) -> Result<()> {
        self.run(Op::CreateDir { path: path.to_owned() }).map(drop).map_err(|e| Error::io("creating", path, e))
    }

    /// Makes the directory's entries durable.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`].
    pub fn sync_dir(&self, path: &Path) -> Result<()> {
        self.run(Op::SyncDir { path: path.to_owned() }).map(drop).map_err(|e| Error::io("syncing", path, e))
    }

    /// The names of the directory's entries, sorted.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`].
    pub fn list(&self, path: &Path) -> Result<Vec<String>> {
        match self.run(Op::List { path: path.to_owned() }) {
            Ok(Done::Names(names)) => Ok(names),
            Ok(other) => unreachable!("list gives names, not {other:?}"),
            Err(e) => Err(Error::io("listing", path, e)),
        }
    }

    /// Reads a whole small file, of at most `max` bytes.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`], also if the file is longer.
    pub fn read_all(&self, path: &Path, max: usize) -> Result<Vec<u8>> {
        let file = self.open(path, OpenMode::Read)?;
        let len = self.len(&file)?;
        if len > max as u64 {
            let e = io::Error::other(format!("it has {len} bytes, at most {max} were expected"));
            return Err(Error::io("reading", path, e));
        }
        let mut out = Vec::with_capacity(len as usize);
        while out.len() < len as usize {
            let part = self.read_at(&file, out.len() as u64, (len as usize - out.len()).min(1 << 20))?;
            if part.is_empty() {
                return Err(Error::io("reading", path, io::ErrorKind::UnexpectedEof.into()));
            }
            out.extend_from_slice(&part);
        }
        Ok(out)
    }

    /// Writes a whole small file so that after any crash `path` holds either what it held before or all of `bytes`:
    /// a temporary name beside it, sync, rename, sync of the directory.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`]; the temporary file may stay and is replaced by the next attempt.
    pub fn replace(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        self.put_in_place(self.write_aside(path, bytes)?, path)
    }

    /// The first half of `replace`: writes and syncs the file under a temporary name, which it gives. Nothing
    /// refers to that yet.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`]; `path` is what it was.
    pub fn write_aside(&self, path: &Path, bytes: &[u8]) -> Result<PathBuf> {
        let mut temporary = path.as_os_str().to_owned();
        temporary.push(".tmp");
        let temporary = PathBuf::from(temporary);
        self.remove_if_there(&temporary)?;
        let file = self.open(&temporary, OpenMode::Create)?;
        self.write_at(&file, 0, AlignedBuf::from_slice(bytes), false)?;
        self.sync(&file)?;
        Ok(temporary)
    }

    /// The second half: rename and sync of the directory.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`]; which of the two `path` holds after a crash is then unknown.
    pub fn put_in_place(&self, temporary: PathBuf, path: &Path) -> Result<()> {
        let dir = path.parent().expect("a store's file lies in its directory");
        self.rename(&temporary, path)?;
        if mutants::makes(Mutant::ManifestNameUnsynced) { Ok(()) } else { self.sync_dir(dir) }
    }
}
