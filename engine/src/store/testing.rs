//! A disk in memory on which operations go as a test says, and stores on it.
//!
//! It loses nothing and tears nothing: crashes are for the simulated disk. Invariant: without a rule it is a sound disk.

use super::{Steps, Store};
use crate::clock::{Clock, SystemClock};
use crate::commit::{Ack, Batch};
use crate::config::Config;
use crate::error::{ErrorKind, Result};
use crate::io::mem::MemIo;
use crate::io::{AlignedBuf, Completion, Done, File, Io, IoQueue, Op, Wake};
use crate::read::ReadLimit;
use crate::sync::{Arc, AtomicBool, AtomicU64, Mutex, Ordering};
use crate::types::TimeUs;
use std::any::Any;
use std::io;
use std::path::Path;
use std::time::Duration;

pub(super) const DIR: &str = "/store";
pub(super) const EIO: i32 = 5;

/// How an operation goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Well,
    Fails(i32),
    /// A write lands in part; anything else fails.
    Short,
    Panics,
}

type Rule = Box<dyn FnMut(&Op) -> Fate + Send>;
type Call = Box<dyn FnOnce() + Send>;

/// A disk in memory on which operations go as a rule says.
#[derive(Clone, Default)]
pub(super) struct Erring {
    pub(super) mem: MemIo,
    rule: Arc<Mutex<Option<Rule>>>,
    /// The rule is not asked.
    pub(super) paused: Arc<AtomicBool>,
    /// How many completions a poll gives, and whether the latest first; all of them if nothing is said.
    pub(super) gives: Arc<Mutex<Option<(usize, bool)>>>,
    /// The next poll of the queue panics.
    pub(super) poll_panics: Arc<AtomicBool>,
    /// Called by the next poll.
    pub(super) at_poll: Arc<Mutex<Option<Call>>>,
    /// The files are no longer where they were.
    pub(super) moved: Arc<AtomicBool>,
    /// If it has a page cache: what was asked for ahead, and what was read, in that order.
    pub(super) asked: Arc<Mutex<Option<Vec<Asked>>>>,
    /// That has everything.
    pub(super) resident: Arc<AtomicBool>,
}

/// What a page cache was asked for, each with the file's name and the offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    Ahead(String, u64),
    Read(String, u64),
}

impl Asked {
    fn note(self, disk: &Erring) {
        if let Some(asked) = &mut *disk.asked.lock() {
            asked.push(self);
        }
    }
}

fn name(file: &File) -> String {
    file.path.file_name().expect("a file").to_string_lossy().into_owned()
}

impl Erring {
    pub(super) fn set(&self, rule: impl FnMut(&Op) -> Fate + Send + 'static) {
        *self.rule.lock() = Some(Box::new(rule));
    }

    pub(super) fn heal(&self) {
        *self.rule.lock() = None;
    }

    pub(super) fn segments(&self) -> usize {
        self.mem.snapshot().keys().filter(|path| path.extension().is_some_and(|e| e == "seg")).count()
    }
}

impl Io for Erring {
    fn name(&self) -> &'static str {
        "erring"
    }

    fn run(&self, op: Op) -> io::Result<Done> {
        if let Op::Read { file, offset, .. } = &op {
            Asked::Read(name(file), *offset).note(self);
        }
        let asked = !self.paused.load(Ordering::SeqCst);
        let fate = self.rule.lock().as_mut().filter(|_| asked).map_or(Fate::Well, |rule| rule(&op));
        match (fate, op) {
            (Fate::Well, op) => self.mem.run(op),
            (Fate::Panics, _) => panic!("as the test wants it"),
            (Fate::Short, Op::Write { file, offset, buf, durable }) => {
                let part = AlignedBuf::from_slice(&buf[..buf.len() / 2 / 4096 * 4096]);
                self.mem.run(Op::Write { file, offset, buf: part, durable })?;
                Err(io::ErrorKind::WriteZero.into())
            }
            (Fate::Short, _) => Err(io::Error::from_raw_os_error(EIO)),
            (Fate::Fails(code), _) => Err(io::Error::from_raw_os_error(code)),
        }
    }

    fn queue(&self, depth: usize) -> io::Result<Box<dyn IoQueue>> {
        let inner = self.mem.queue(depth)?;
        Ok(Box::new(Queue { inner, disk: self.clone(), completed: Vec::new() }))
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Any + Send + Sync>>> {
        self.mem.lock(path)
    }

    fn is_in_place(&self, _file: &File) -> bool {
        !self.moved.load(Ordering::SeqCst)
    }

    fn reads_ahead(&self) -> bool {
        self.asked.lock().is_some()
    }

    fn will_need(&self, file: &File, offset: u64, _len: usize) {
        Asked::Ahead(name(file), offset).note(self);
    }

    fn read_resident(&self, file: &File, offset: u64, buf: AlignedBuf) -> std::result::Result<AlignedBuf, AlignedBuf> {
        if !self.resident.load(Ordering::SeqCst) {
            return Err(buf);
        }
        match self.mem.run(Op::Read { file: file.clone(), offset, buf }) {
            Ok(Done::Buf(buf)) => Ok(buf),
            other => panic!("a read in memory gives its buffer, not {other:?}"),
        }
    }
}

struct Queue {
    /// For its bell alone.
    inner: Box<dyn IoQueue>,
    disk: Erring,
    completed: Vec<Completion>,
}

impl IoQueue for Queue {
    fn submit(&mut self, id: u64, op: Op) {
        let result = self.disk.run(op);
        self.completed.push(Completion { id, result });
    }

    fn poll(&mut self, wait: Option<Duration>, out: &mut Vec<Completion>) -> io::Result<()> {
        assert!(!self.disk.poll_panics.load(Ordering::SeqCst), "as the test wants it");
        if let Some(call) = self.disk.at_poll.lock().take() {
            call();
        }
        let (most, latest_first) = self.disk.gives.lock().unwrap_or((usize::MAX, false));
        for _ in 0..most.min(self.completed.len()) {
            let at = if latest_first { self.completed.len() - 1 } else { 0 };
            out.push(self.completed.remove(at));
        }
        // What completed at once is looked at without a wait.
        self.inner.poll(wait.filter(|_| out.is_empty()), &mut Vec::new())
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.inner.waker()
    }
}

pub(super) fn small() -> Config {
    Config {
        journal_file_bytes: 64 << 10,
        journal_files_max: 3,
        memory_pool_bytes: 1 << 20,
        flush_bytes: 512 << 10,
        // An idle frame would come when the machine is slow, and be another operation to count.
        idle_frame_after: Duration::from_secs(3600),
        ..Config::small()
    }
}

/// A clock that stands still unless it is moved by hand, in seconds.
#[derive(Clone, Default)]
pub(super) struct Hand(Arc<AtomicU64>);

impl Hand {
    pub(super) fn pass(&self, seconds: u64) {
        self.0.fetch_add(seconds, Ordering::SeqCst);
    }
}

impl Clock for Hand {
    fn wall(&self) -> TimeUs {
        TimeUs(self.0.load(Ordering::SeqCst) * 1_000_000)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_secs(self.0.load(Ordering::SeqCst))
    }
}

pub(super) fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock::default())
}

pub(super) fn created(config: &Config) -> Erring {
    let io = Erring::default();
    Store::create_on(Arc::new(io.clone()), clock(), Path::new(DIR), config).expect("an empty disk");
    io
}

pub(super) fn stepped(io: &Erring, config: &Config) -> (Store, Steps) {
    Store::open_stepped(Arc::new(io.clone()), clock(), Path::new(DIR), config.clone()).expect("a sound disk")
}

/// An open store with its threads.
pub(super) fn running(io: &Erring, config: &Config) -> Store {
    Store::open_on(Arc::new(io.clone()), clock(), Path::new(DIR), config.clone()).expect("a sound disk")
}

pub(super) fn append(store: &Store, payload: &[u8]) -> Result<Ack> {
    let mut batch = Batch::new();
    batch.log("log").create_if_missing().record(payload);
    store.append(batch)
}

pub(super) fn read(store: &Store) -> Vec<Vec<u8>> {
    match store.read("log", 0, ReadLimit::default()) {
        Ok(page) => page.records.into_iter().map(|record| record.payload).collect(),
        Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
        Err(error) => panic!("reads go on: {error}"),
    }
}
