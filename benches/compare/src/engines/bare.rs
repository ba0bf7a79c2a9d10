//! A bare write path: what an engine with one journal and one write in flight has to do, and nothing else. It shows what is left
//! once an engine's own work is taken away: no state of a log, no checksum, no memory of what was written, no read, no flush.
//!
//! Appends are copied into one buffer under a lock. One thread writes what has gathered there, with O_DIRECT and DSYNC over a
//! file that was written before, while the next ones gather in the other buffer, and then wakes each that waits by name.
//! Invariant: an append is acknowledged only after the write that holds it. What it says that a log holds is what it was given.

use crate::contender::{Contender, Outcome, Payload};
use ::everlog::format::bytes::Sink;
use ::everlog::io::AlignedBuf;
use rustix::fs::{Advice, OFlags};
use rustix::io::ReadWriteFlags;
use std::fs::{File, OpenOptions};
use std::io::{IoSlice, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

/// What is told about it.
pub const SETTINGS: &str = "no engine but the write path of one: appends are copied into one buffer under a lock, and one thread \
     writes it with `pwritev2` (O_DIRECT, DSYNC) over a file of 256 MiB that was written before, while the next one fills, and \
     wakes by name who waits; system allocator";

const FILE_BYTES: u64 = 256 << 20;
/// What stands before each record: as many bytes as a log's id and a length take.
const HEADER: [u8; 24] = [0; 24];
const BLOCK: usize = 4096;
/// How often who waits looks whether the writing thread is still there.
const LOOK: Duration = Duration::from_secs(1);
/// Bytes of a buffer at first.
const BUFFER_BYTES: usize = 1 << 20;

/// The write path.
pub struct Bare {
    shared: Arc<Shared>,
    committer: JoinHandle<Outcome<()>>,
    held: Vec<AtomicU64>,
}

struct Shared {
    open: Mutex<Open>,
    changed: Condvar,
    writes: AtomicU64,
    bytes: AtomicU64,
}

/// What has gathered.
struct Open {
    buf: AlignedBuf,
    waiting: Vec<Pending>,
    ended: bool,
}

/// An append that is under way: who waits for it, and whether it is durable.
#[derive(Clone)]
pub struct Pending {
    thread: Thread,
    done: Arc<AtomicBool>,
}

impl Shared {
    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes what gathers until the end.
    fn commit(&self, file: &File) -> Outcome<()> {
        let (mut frame, mut waiting) = (AlignedBuf::with_capacity(BUFFER_BYTES), Vec::new());
        let mut at = 0;
        loop {
            {
                let mut open = self.open();
                while open.waiting.is_empty() {
                    if open.ended {
                        return Ok(());
                    }
                    open = self.changed.wait(open).unwrap_or_else(PoisonError::into_inner);
                }
                std::mem::swap(&mut open.buf, &mut frame);
                std::mem::swap(&mut open.waiting, &mut waiting);
            }
            let len = frame.len().next_multiple_of(BLOCK);
            frame.resize(len);
            if at + len as u64 > FILE_BYTES {
                at = 0;
            }
            let written = rustix::io::pwritev2(file, &[IoSlice::new(&frame)], at, ReadWriteFlags::DSYNC);
            let written = written.map_err(|e| format!("bare: writing: {e}"))?;
            if written != len {
                return Err(format!("bare: {written} of {len} bytes were written"));
            }
            at += len as u64;
            frame.clear();
            self.writes.fetch_add(1, Ordering::Relaxed);
            self.bytes.fetch_add(len as u64, Ordering::Relaxed);
            for pending in waiting.drain(..) {
                pending.done.store(true, Ordering::Release);
                pending.thread.unpark();
            }
        }
    }
}

impl Contender for Bare {
    /// The last append that was loaded: once it is durable, so are those before it.
    type Session = Option<Pending>;
    type Pending = Pending;

    fn open(dir: &Path, logs: u32, _bytes: u64) -> Outcome<Self> {
        let path = dir.join("frames");
        let told = |e: std::io::Error| format!("{}: {e}", path.display());
        let mut filled = File::create(&path).map_err(told)?;
        let zeros = vec![0; 1 << 20];
        (0..FILE_BYTES >> 20).try_for_each(|_| filled.write_all(&zeros)).map_err(told)?;
        filled.sync_all().map_err(told)?;
        // What is written past the page cache would otherwise have to take out of it what is there.
        rustix::fs::fadvise(&filled, 0, None, Advice::DontNeed).map_err(|e| told(e.into()))?;
        let direct = OFlags::DIRECT.bits() as i32;
        let file = OpenOptions::new().write(true).custom_flags(direct).open(&path).map_err(told)?;
        let open = Open { buf: AlignedBuf::with_capacity(BUFFER_BYTES), waiting: Vec::new(), ended: false };
        let (changed, writes, bytes) = (Condvar::new(), AtomicU64::new(0), AtomicU64::new(0));
        let shared = Arc::new(Shared { open: Mutex::new(open), changed, writes, bytes });
        let commits = Arc::clone(&shared);
        let committer = thread::spawn(move || commits.commit(&file));
        let held = (0..logs).map(|_| AtomicU64::new(0)).collect();
        Ok(Self { shared, committer, held })
    }

    fn session(&self) -> Option<Pending> {
        None
    }

    fn begin(
        &self, _session: &mut Option<Pending>, log: u32, _held: u64, payloads: &[Payload], _waits: bool,
    ) -> Outcome<Pending> {
        if self.committer.is_finished() {
            return Err("bare: it stopped writing".into());
        }
        let pending = Pending { thread: thread::current(), done: Arc::default() };
        let is_first = {
            let mut open = self.shared.open();
            let needed = open.buf.len() + payloads.iter().map(|payload| HEADER.len() + payload.len()).sum::<usize>();
            if needed > open.buf.capacity() {
                open.buf.grow(2 * needed);
            }
            for payload in payloads {
                open.buf.put(&HEADER);
                open.buf.put(payload);
            }
            open.waiting.push(pending.clone());
            open.waiting.len() == 1
        };
        if is_first {
            self.shared.changed.notify_one();
        }
        self.held[log as usize].fetch_add(payloads.len() as u64, Ordering::Relaxed);
        Ok(pending)
    }

    fn wait(&self, pending: Pending) -> Outcome<()> {
        while !pending.done.load(Ordering::Acquire) {
            if self.committer.is_finished() && !pending.done.load(Ordering::Acquire) {
                return Err("bare: it stopped writing".into());
            }
            thread::park_timeout(LOOK);
        }
        Ok(())
    }

    fn load(&self, session: &mut Option<Pending>, log: u32, held: u64, payloads: &[Payload]) -> Outcome<()> {
        let pending = self.begin(session, log, held, payloads, false)?;
        *session = Some(pending);
        Ok(())
    }

    fn sync(&self, session: &mut Option<Pending>) -> Outcome<()> {
        session.take().map_or(Ok(()), |pending| self.wait(pending))
    }

    fn drain(&self) -> Outcome<Instant> {
        Ok(Instant::now())
    }

    fn read(&self, _log: u32, _records: u64) -> Outcome<(u64, u64)> {
        Err("bare: nothing is read".into())
    }

    fn held(&self, log: u32) -> Outcome<u64> {
        Ok(self.held[log as usize].load(Ordering::Relaxed))
    }

    fn log_writes(&self) -> Option<(u64, u64)> {
        Some((self.shared.writes.load(Ordering::Relaxed), self.shared.bytes.load(Ordering::Relaxed)))
    }

    fn close(self) -> Outcome<()> {
        self.shared.open().ended = true;
        self.shared.changed.notify_one();
        self.committer.join().map_err(|_| "bare: its thread panicked")?
    }
}
