//! Models of a whole store: the real appender, lane, committer, flush, index and threads, over a disk in memory.
//!
//! What they leave out: time, which loom does not have, and the backends of the disk, whose queues have models of their
//! own. The disk's operations are no steps of a model; a frame is written when its completion is taken. Each file here
//! is about one promise. Invariant: a model does the same in the same interleaving, so the clock and the order of all
//! maps are fixed.

mod close;
mod commit;
mod failure;
mod flush;
mod subscribe;
mod visible;

use super::open::{Opened, open};
use super::threads::{Beside, System, Threads, commit_loop, flush_loop, guarded};
use super::{Core, Inner, Store};
use crate::clock::Clock;
use crate::commit::committer::Committer;
use crate::commit::{Ack, Batch, Receipt};
use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::flush::Flusher;
use crate::io::mem::MemIo;
use crate::io::{Completion, Done, Io, IoQueue, Op, Wake};
use crate::merge::Merger;
use crate::read::{Page, ReadLimit, read};
use crate::sync::{
    Arc, AtomicBool, Condvar, Event, JoinHandle, Mutex, Ordering, Thread, check, check_to, current, park, quiet, spawn,
    wait, yield_now,
};
use crate::types::{Position, TimeUs};
use std::any::Any;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool as Switch, AtomicU64 as Count};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

const DIR: &str = "/store";
/// What a panic says that a model makes.
const WANTED: &str = "as a model wants it";
/// Longer than any model's clock runs.
const FOREVER: Duration = Duration::from_secs(1 << 20);

/// The disk of a model.
#[derive(Clone, Default)]
struct Disk {
    mem: MemIo,
    state: Arc<DiskState>,
}

/// Switches, which are not loom's: they order nothing.
#[derive(Default)]
struct DiskState {
    /// Somebody has the directory's lock.
    locked: Switch,
    /// Somebody let go of it.
    unlocked: Event,
    /// The store is open, so that whoever writes must have the lock.
    watched: Switch,
    /// The next durable write through a queue fails.
    fail_write: Switch,
    /// The next attempt to put a manifest in place fails.
    fail_manifest: Switch,
    /// The next poll of a queue panics.
    panic_poll: Switch,
    /// The next attempt to make a segment fails.
    fail_segment: Switch,
    /// Whoever makes a segment panics.
    panic_segment: Switch,
}

impl Disk {
    /// With what `files` holds.
    fn holding(files: &BTreeMap<PathBuf, Vec<u8>>) -> Self {
        let disk = Self::default();
        disk.mem.restore(files);
        let io: &dyn Io = &disk.mem;
        io.create_dir(&crate::segment::directory(Path::new(DIR))).expect("its parent has files");
        disk
    }

    /// Whether any file holds `bytes`.
    fn holds(&self, bytes: &[u8]) -> bool {
        self.mem.snapshot().values().any(|file| file.windows(bytes.len()).any(|window| window == bytes))
    }
}

impl Io for Disk {
    fn name(&self) -> &'static str {
        "model"
    }

    fn run(&self, op: Op) -> std::io::Result<Done> {
        let state = &self.state;
        let writes = !matches!(op, Op::Open { .. } | Op::Read { .. } | Op::Len { .. } | Op::List { .. });
        assert!(
            !writes || !state.watched.load(Ordering::Relaxed) || state.locked.load(Ordering::Relaxed),
            "{op:?} without the lock"
        );
        let broken = || Err(std::io::Error::other("the model's disk fails"));
        match &op {
            Op::Write { file, durable: true, .. } if file.path.to_string_lossy().contains("journal") => {
                if state.fail_write.swap(false, Ordering::Relaxed) {
                    return broken();
                }
            }
            Op::Rename { to, .. } if to.to_string_lossy().contains("manifest") => {
                if state.fail_manifest.swap(false, Ordering::Relaxed) {
                    return broken();
                }
            }
            Op::Open { path, .. } if path.extension().is_some_and(|e| e == "seg") => {
                assert!(!state.panic_segment.load(Ordering::Relaxed), "{WANTED}");
                if state.fail_segment.swap(false, Ordering::Relaxed) {
                    return broken();
                }
            }
            _ => {}
        }
        self.mem.run(op)
    }

    fn queue(&self, _depth: usize) -> std::io::Result<Box<dyn IoQueue>> {
        Ok(Box::new(Queue { disk: self.clone(), submitted: Vec::new(), bell: Arc::default() }))
    }

    fn lock(&self, path: &Path) -> std::io::Result<Option<Box<dyn Any + Send + Sync>>> {
        let Some(held) = self.mem.lock(path)? else { return Ok(None) };
        self.state.locked.store(true, Ordering::Relaxed);
        Ok(Some(Box::new(Held(Some(held), Arc::clone(&self.state)))))
    }
}

struct Held(Option<Box<dyn Any + Send + Sync>>, Arc<DiskState>);

impl Drop for Held {
    fn drop(&mut self) {
        self.1.locked.store(false, Ordering::Relaxed);
        drop(self.0.take());
        self.1.unlocked.happen();
    }
}

/// A queue that executes what was submitted when it is polled.
struct Queue {
    disk: Disk,
    submitted: Vec<(u64, Op)>,
    bell: Arc<Bell>,
}

/// Whether it was called since a blocking poll last returned.
#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Wake for Bell {
    fn wake(&self) {
        *self.rung.lock() = true;
        self.changed.notify_one();
    }
}

impl IoQueue for Queue {
    fn submit(&mut self, id: u64, op: Op) {
        self.submitted.push((id, op));
    }

    fn poll(&mut self, wait_at_most: Option<Duration>, out: &mut Vec<Completion>) -> std::io::Result<()> {
        assert!(!self.disk.state.panic_poll.swap(false, Ordering::Relaxed), "{WANTED}");
        let any = !self.submitted.is_empty();
        out.extend(self.submitted.drain(..).map(|(id, op)| Completion { id, result: self.disk.run(op) }));
        if wait_at_most.is_some_and(|time| !time.is_zero()) {
            let mut rung = self.bell.rung.lock();
            while !any && !*rung {
                wait(&self.bell.changed, &mut rung);
            }
            *rung = false;
        }
        Ok(())
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.bell.clone()
    }
}

/// A clock on which a moment passes with each look, so that nothing that is timed lasts.
#[derive(Default)]
struct Looks(Count);

impl Clock for Looks {
    fn wall(&self) -> TimeUs {
        TimeUs(1)
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(self.0.fetch_add(1, Ordering::Relaxed))
    }
}

fn config() -> Config {
    Config {
        journal_file_bytes: 64 << 10,
        journal_files_max: 3,
        memory_pool_bytes: 64 << 10,
        flush_bytes: 32 << 10,
        in_flight: 2,
        heads_max: 1,
        idle_frame_after: FOREVER,
        ..Config::small()
    }
}

type Files = BTreeMap<PathBuf, Vec<u8>>;

/// Runs `body` alone, and once.
fn alone<T: Send + 'static>(body: impl Fn() -> T + Send + Sync + 'static) -> T {
    let (out, body) = (Arc::new(std::sync::Mutex::new(None)), Arc::new(body));
    let given = Arc::clone(&out);
    let mut builder = loom::model::Builder::new();
    builder.max_branches = 100_000;
    builder.check(move || {
        let (given, body) = (Arc::clone(&given), Arc::clone(&body));
        let thread = spawn("setup", move || *given.lock().expect("no panic") = Some(body()));
        thread.expect("a thread").join().expect("no panic");
    });
    out.lock().expect("no panic").take().expect("it ran")
}

/// The files of a store that was just created. To be called outside of a model.
fn created() -> &'static Files {
    static CREATED: OnceLock<Files> = OnceLock::new();
    CREATED.get_or_init(|| {
        alone(|| {
            let disk = Disk::default();
            Store::create_on(Arc::new(disk.clone()), Arc::new(Looks::default()), Path::new(DIR), &config())
                .expect("an empty disk");
            disk.mem.snapshot()
        })
    })
}

/// An open store in its parts.
struct Parts {
    disk: Disk,
    core: Arc<Core>,
    committer: Committer,
    flusher: Flusher,
    merger: Merger,
}

impl Parts {
    /// Opens the store that `files` hold.
    fn open(files: &Files) -> Self {
        Self::open_with(files, &config())
    }

    fn open_with(files: &Files, config: &Config) -> Self {
        let disk = Disk::holding(files);
        let opened = open(Arc::new(disk.clone()), Arc::new(Looks::default()), Path::new(DIR), config, false);
        let Opened { core, committer, flusher, merger, .. } = opened.expect("a store");
        disk.state.watched.store(true, Ordering::Relaxed);
        Self { disk, core, committer, flusher, merger }
    }

    /// Makes everything staged durable, with nobody else there.
    fn settle(&mut self) {
        while !self.committer.frames().is_idle() {
            self.committer.step(false);
        }
    }

    /// Appends a record to each log, which is created if it is missing, and makes them durable.
    fn put(&mut self, logs: &[&str], payload: &[u8]) {
        let ack = append(&self.core, logs, payload).expect("staged");
        self.settle();
        ack.wait().expect("durable");
    }

    /// The store with its threads, and without readers, merges and a scrub: loom has few threads.
    fn run(self) -> (Store, Disk) {
        self.run_with(0)
    }

    fn run_with(self, readers: usize) -> (Store, Disk) {
        let Self { disk, core, committer, flusher, merger } = self;
        let shippers = Vec::new();
        let opened = Opened { core: Arc::clone(&core), committer, flusher, merger, scrubber: None, shippers };
        let threads = Threads::start_by(&mut System, opened, &Beside { readers, merges: false });
        let inner = Inner { core, threads: Mutex::new(Some(threads.expect("threads"))) };
        (Store { inner: Arc::new(inner) }, disk)
    }
}

/// A thread of a model.
fn thread<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    spawn("beside", body).expect("a thread of the model")
}

/// A thread that commits, as in a store; the flag stops it.
fn commits(core: &Arc<Core>, committer: Committer) -> (JoinHandle<Option<Committer>>, Stop) {
    let stop = Stop { flag: Arc::default(), waker: committer.waker() };
    let (core, flag) = (Arc::clone(core), Arc::clone(&stop.flag));
    (thread(move || guarded(&core, committer, |c| commit_loop(c, &core, &flag))), stop)
}

/// In a store with the logs a and b, beside a thread that commits: `other` on a thread of its own, and `here`. All of them end.
fn beside_a_committer<T: Send + 'static>(
    files: &Files, other: impl FnOnce(&Core) -> T + Send + 'static, here: impl FnOnce(&Core, &Disk),
) -> (Arc<Core>, Disk, T) {
    let mut parts = Parts::open(files);
    parts.put(&["a", "b"], b"first");
    beside_its_committer(parts, other, here)
}

/// As [`beside_a_committer`], in the store of these parts.
fn beside_its_committer<T: Send + 'static>(
    parts: Parts, other: impl FnOnce(&Core) -> T + Send + 'static, here: impl FnOnce(&Core, &Disk),
) -> (Arc<Core>, Disk, T) {
    let Parts { disk, core, committer, .. } = parts;
    let (committer, stop) = commits(&core, committer);
    let other = {
        let core = Arc::clone(&core);
        thread(move || other(&core))
    };
    here(&core, &disk);
    let told = other.join().expect("no panic");
    stop.stop();
    committer.join().expect("no panic").expect("it did not panic");
    (core, disk, told)
}

/// A thread that flushes, as in a store.
fn flushes(core: &Arc<Core>, flusher: Flusher, committer: Arc<dyn Wake>) -> (JoinHandle<Option<Flusher>>, StopFlush) {
    let stop = StopFlush { flag: Arc::default(), core: Arc::clone(core) };
    let (core, flag) = (Arc::clone(core), Arc::clone(&stop.flag));
    let body = move || {
        let flusher = guarded(&core, flusher, |f| flush_loop(f, &core, &flag, &*committer));
        core.flush_signal.stop();
        flusher
    };
    (thread(body), stop)
}

struct Stop {
    flag: Arc<AtomicBool>,
    waker: Arc<dyn Wake>,
}

impl Stop {
    fn stop(&self) {
        self.flag.store(true, Ordering::SeqCst);
        self.waker.wake();
    }
}

struct StopFlush {
    flag: Arc<AtomicBool>,
    core: Arc<Core>,
}

impl StopFlush {
    fn stop(&self) {
        self.flag.store(true, Ordering::SeqCst);
        self.core.flush_signal.hurry();
    }
}

/// Wakes the thread that polls.
struct Unpark(Thread);

impl std::task::Wake for Unpark {
    fn wake(self: std::sync::Arc<Self>) {
        self.0.unpark();
    }
}

/// Polls `future` whenever its waker says so.
fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(std::sync::Arc::new(Unpark(current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => {
                // It may have woken itself, to look again once another thread has gone on.
                yield_now();
                park();
            }
        }
    }
}

/// Appends a record to the log as a caller does who waits, and waits.
fn append_and_wait(core: &Core, log: &str, payload: &[u8]) -> Result<Receipt> {
    let mut batch = Batch::new();
    batch.log(log).create_if_missing().record(payload);
    core.appender.append_and_lead(&batch)?.wait()
}

/// Stages one record for each log.
fn append(core: &Core, logs: &[&str], payload: &[u8]) -> Result<Ack> {
    let mut batch = Batch::new();
    for log in logs {
        batch.log(log).create_if_missing().record(payload);
    }
    core.appender.append(&batch)
}

/// The whole log.
fn page(core: &Core, log: &str) -> Result<Page> {
    read(&core.index, log, Position::Start, ReadLimit::default(), core.now())
}
