//! A disk in memory for this folder's tests: whole files, bytes that can be flipped, and a count of reads.
//!
//! Has no crashes and no real queue (an operation is carried out when it is begun); that is what the simulated disk is
//! for.

use crate::io::{Completion, Done, File, Io, IoQueue, Map, Op, OpenMode, Wake};
use crate::types::BLOCK;
use std::any::Any;
use std::collections::BTreeMap;
use std::io::{Error, ErrorKind, Result};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

type Bytes = Arc<Mutex<Vec<u8>>>;

#[derive(Clone, Default)]
pub(crate) struct Disk {
    files: Arc<Mutex<BTreeMap<PathBuf, Bytes>>>,
    /// Reads so far: offset and length.
    reads: Arc<Mutex<Vec<(u64, usize)>>>,
    /// Whether files can be mapped; a map is a copy as of when it was made.
    pub(crate) maps: bool,
    /// Blocks that cannot be read, by their number.
    pub(crate) bad: Arc<Mutex<Vec<u64>>>,
    /// Blocks that come damaged where they are read through the page cache.
    pub(crate) rotten: Arc<Mutex<Vec<u64>>>,
}

/// An open file.
struct Opened {
    bytes: Bytes,
    /// Whether it is read past the page cache.
    direct: bool,
}

struct Copied(Vec<u8>);

impl Map for Copied {
    fn bytes(&self) -> &[u8] {
        &self.0
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no test panics while it holds this")
}

fn opened(file: &File) -> &Opened {
    file.inner.downcast_ref().expect("a file of this disk")
}

fn bytes(file: &File) -> &Bytes {
    &opened(file).bytes
}

impl Disk {
    pub(crate) fn put(&self, path: &Path, content: &[u8]) {
        lock(&self.files).insert(path.to_owned(), Arc::new(Mutex::new(content.to_vec())));
    }

    fn file(&self, path: &Path) -> Result<Bytes> {
        lock(&self.files).get(path).cloned().ok_or_else(|| ErrorKind::NotFound.into())
    }

    pub(crate) fn content(&self, path: &Path) -> Vec<u8> {
        lock(&self.file(path).expect("the file exists")).clone()
    }

    pub(crate) fn flip(&self, path: &Path, at: u64, bits: u8) {
        lock(&self.file(path).expect("the file exists"))[at as usize] ^= bits;
    }

    pub(crate) fn append(&self, path: &Path, more: &[u8]) {
        lock(&self.file(path).expect("the file exists")).extend_from_slice(more);
    }

    pub(crate) fn truncate(&self, path: &Path, len: usize) {
        lock(&self.file(path).expect("the file exists")).truncate(len);
    }

    /// The reads since this was last asked.
    pub(crate) fn take_reads(&self) -> Vec<(u64, usize)> {
        std::mem::take(&mut lock(&self.reads))
    }

    fn open(&self, path: PathBuf, mode: OpenMode) -> Result<Done> {
        let create = matches!(mode, OpenMode::Create | OpenMode::CreateDirect);
        let bytes = if create {
            let mut files = lock(&self.files);
            if files.contains_key(&path) {
                return Err(ErrorKind::AlreadyExists.into());
            }
            Arc::clone(files.entry(path.clone()).or_default())
        } else {
            self.file(&path)?
        };
        let direct = matches!(mode, OpenMode::ReadDirect | OpenMode::WriteDirect | OpenMode::CreateDirect);
        Ok(Done::File(File { path: path.into(), inner: Arc::new(Opened { bytes, direct }) }))
    }
}

struct Queue {
    disk: Disk,
    ended: Vec<Completion>,
}

struct NoWake;

impl Wake for NoWake {
    fn wake(&self) {}
}

impl IoQueue for Queue {
    fn submit(&mut self, id: u64, op: Op) {
        let result = self.disk.run(op);
        self.ended.push(Completion { id, result });
    }

    fn poll(&mut self, _: Option<Duration>, out: &mut Vec<Completion>) -> Result<()> {
        out.append(&mut self.ended);
        Ok(())
    }

    fn waker(&self) -> Arc<dyn Wake> {
        Arc::new(NoWake)
    }
}

impl Io for Disk {
    fn name(&self) -> &'static str {
        "test"
    }

    fn run(&self, op: Op) -> Result<Done> {
        match op {
            Op::Open { path, mode } => self.open(path, mode),
            Op::Read { file, offset, mut buf } => {
                let content = lock(bytes(&file));
                let from = (offset as usize).min(content.len());
                let len = buf.capacity().min(content.len() - from);
                lock(&self.reads).push((offset, len));
                let blocks = offset / BLOCK as u64..(offset + len as u64).div_ceil(BLOCK as u64);
                if lock(&self.bad).iter().any(|bad| blocks.contains(bad)) {
                    return Err(Error::from_raw_os_error(5));
                }
                buf.clear();
                buf.resize(len);
                buf.copy_from_slice(&content[from..from + len]);
                let rotten = lock(&self.rotten);
                for block in rotten.iter().filter(|block| !opened(&file).direct && blocks.contains(block)) {
                    let at = (block * BLOCK as u64).saturating_sub(offset) as usize;
                    buf[at..].iter_mut().take(BLOCK).for_each(|byte| *byte ^= 1);
                }
                Ok(Done::Buf(buf))
            }
            Op::Write { file, offset, buf, .. } => {
                let mut content = lock(bytes(&file));
                let end = offset as usize + buf.len();
                if content.len() < end {
                    content.resize(end, 0);
                }
                content[offset as usize..end].copy_from_slice(&buf);
                Ok(Done::Buf(buf))
            }
            Op::Len { file } => Ok(Done::Len(lock(bytes(&file)).len() as u64)),
            Op::Rename { from, to } => {
                let mut files = lock(&self.files);
                let file = files.remove(&from).ok_or(ErrorKind::NotFound)?;
                files.insert(to, file);
                Ok(Done::Nothing)
            }
            Op::Remove { path } => {
                lock(&self.files).remove(&path).map(|_| Done::Nothing).ok_or_else(|| ErrorKind::NotFound.into())
            }
            Op::List { path } => {
                let files = lock(&self.files);
                let inside = files.keys().filter(|file| file.parent() == Some(&path));
                let names = inside.filter_map(|file| Some(file.file_name()?.to_str()?.to_owned()));
                Ok(Done::Names(names.collect()))
            }
            Op::Sync { .. } | Op::SyncDir { .. } | Op::CreateDir { .. } | Op::Allocate { .. } => Ok(Done::Nothing),
        }
    }

    fn queue(&self, _: usize) -> Result<Box<dyn IoQueue>> {
        Ok(Box::new(Queue { disk: self.clone(), ended: Vec::new() }))
    }

    fn lock(&self, _: &Path) -> Result<Option<Box<dyn Any + Send + Sync>>> {
        Ok(None)
    }

    fn map(&self, file: &File) -> Option<Arc<dyn Map>> {
        self.maps.then(|| Arc::new(Copied(lock(bytes(file)).clone())) as Arc<dyn Map>)
    }
}
