//! The store's threads: the only place that starts any.
//!
//! One runs the committer, one the flush, and a few read for futures. A thread that panics poisons the store, so that
//! nobody waits for it for ever.

use super::{CLOSE_FLUSH_BYTES, Core};
use crate::commit::ack::Pending;
use crate::commit::committer::Committer;
use crate::error::{Error, ErrorKind, Result};
use crate::flush::Flusher;
use crate::io::Wake;
use crate::sync::{Arc, AtomicBool, Condvar, Mutex, Ordering, wait, wait_for};
use crate::waiter::wake_all;
use crossbeam::channel::{Receiver, Sender, unbounded};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::JoinHandle;
use std::time::Duration;

/// Threads that read for futures.
const READERS: usize = 2;
/// How long the flush sleeps before it looks again by itself.
const FLUSH_SLEEP: Duration = Duration::from_millis(200);
/// How long the flush pauses after a failure; doubled with each further one.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// The longest such pause.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Of so many failures in a row one is told, once the first few were: about one a minute.
const TELL_EVERY: u32 = 64;

type Job = Box<dyn FnOnce() + Send>;

/// The running threads.
pub(super) struct Threads {
    committer: JoinHandle<Option<Committer>>,
    flusher: JoinHandle<Option<Flusher>>,
    readers: Vec<JoinHandle<()>>,
    jobs: Sender<Job>,
    stop_committer: Arc<AtomicBool>,
    stop_flusher: Arc<AtomicBool>,
    waker: Arc<dyn Wake>,
}

/// What wakes the flush, and whom the flush wakes.
#[derive(Default)]
pub(super) struct FlushSignal {
    state: Mutex<SignalState>,
    /// The flush waits on it for work.
    work: Condvar,
    /// The flush pauses on it after a failure.
    hurry: Condvar,
    /// Those wait on it who asked for a flush.
    done: Condvar,
}

/// Asks for a flush since the pool is full, and waits for nothing. A failing flush is not hurried by it.
pub(super) struct Pressure {
    /// Has the next pass flush whatever is durable.
    pub asked: Arc<AtomicBool>,
    /// Begins that pass.
    pub signal: Arc<FlushSignal>,
}

impl Wake for Pressure {
    fn wake(&self) {
        self.asked.store(true, Ordering::SeqCst);
        self.signal.wake();
    }
}

#[derive(Default)]
struct SignalState {
    woken: bool,
    /// Somebody waits for the next pass: no pause is made before it.
    hurried: bool,
    /// Passes that ended.
    passes: u64,
    last_error: Option<Error>,
    stopped: bool,
}

impl Wake for FlushSignal {
    fn wake(&self) {
        self.state.lock().woken = true;
        self.work.notify_one();
    }
}

impl FlushSignal {
    /// Asks for a flush of everything durable now and waits for it.
    pub(super) fn flush(&self, core: &Core) -> Result<()> {
        let target = core.journal.published().0.frame;
        loop {
            if core.index.set().manifest.flushed.frame >= target {
                return Ok(());
            }
            core.flush_asked.store(true, Ordering::SeqCst);
            let mut state = self.state.lock();
            if state.stopped {
                // The flush may have ended by itself.
                core.poison.check()?;
                return Err(super::subscription::closed());
            }
            let passes = state.passes;
            // A pass under way may have looked before this call asked: wait for the end of the one after it.
            while state.passes < passes + 2 && !state.stopped {
                if core.index.set().manifest.flushed.frame >= target {
                    return Ok(());
                }
                self.hurry_locked(&mut state);
                wait(&self.done, &mut state);
            }
            // The last pass may have failed after another one had done what was asked.
            if let Some(error) = state.last_error.clone()
                && core.index.set().manifest.flushed.frame < target
            {
                return Err(error);
            }
        }
    }

    /// Has a pass begin at once, also after a failure. Gives the number of passes that ended so far.
    fn hurry(&self) -> u64 {
        let mut state = self.state.lock();
        self.hurry_locked(&mut state);
        state.passes
    }

    fn hurry_locked(&self, state: &mut SignalState) {
        state.woken = true;
        state.hurried = true;
        self.work.notify_one();
        self.hurry.notify_one();
    }

    /// Why the last pass failed, if it did and it began after [`Self::hurry`] had given `passes`.
    fn failed_since(&self, passes: u64) -> Option<Error> {
        let state = self.state.lock();
        // The first that ended since may have been under way.
        if state.passes >= passes + 2 { state.last_error.clone() } else { None }
    }

    fn sleep(&self) {
        let mut state = self.state.lock();
        if !state.woken {
            wait_for(&self.work, &mut state, FLUSH_SLEEP);
        }
        state.woken = false;
        state.hurried = false;
    }

    /// Sleeps for `pause` whatever wakes the flush, unless somebody waits for it.
    fn pause(&self, pause: Duration) {
        let mut state = self.state.lock();
        if !state.hurried {
            wait_for(&self.hurry, &mut state, pause);
        }
        state.woken = false;
        state.hurried = false;
    }

    fn passed(&self, result: Result<bool>) -> bool {
        let mut state = self.state.lock();
        state.passes += 1;
        let moved = match result {
            Ok(moved) => {
                state.last_error = None;
                moved
            }
            Err(error) => {
                state.last_error = Some(error);
                false
            }
        };
        self.done.notify_all();
        moved
    }

    /// Why the last pass failed, if it did.
    pub(super) fn last_error(&self) -> Option<Error> {
        self.state.lock().last_error.clone()
    }

    fn stop(&self) {
        self.state.lock().stopped = true;
        self.done.notify_all();
    }
}

impl Threads {
    /// Starts them.
    pub(super) fn start(core: &Arc<Core>, committer: Committer, flusher: Flusher) -> Result<Self> {
        let (stop_committer, stop_flusher) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let waker = committer.waker();
        let (core_c, stop) = (Arc::clone(core), Arc::clone(&stop_committer));
        let committer =
            spawn("everlog-commit", move || guarded(&core_c, committer, |c| commit_loop(c, &core_c, &stop)))?;
        let (core_f, stop, wake) = (Arc::clone(core), Arc::clone(&stop_flusher), Arc::clone(&waker));
        let flusher = spawn("everlog-flush", move || {
            let signal = Arc::clone(&core_f.flush_signal);
            let flusher = guarded(&core_f, flusher, |f| flush_loop(f, &core_f, &stop, &*wake));
            signal.stop();
            // After a panic it may have frames in flight, whose callers are to be told.
            wake.wake();
            flusher
        });
        let flusher = match flusher {
            Ok(flusher) => flusher,
            Err(error) => {
                stop_committer.store(true, Ordering::SeqCst);
                waker.wake();
                let _ = committer.join();
                return Err(error);
            }
        };
        let (jobs, queue) = unbounded::<Job>();
        let mut threads = Self { committer, flusher, readers: Vec::new(), jobs, stop_committer, stop_flusher, waker };
        for n in 0..READERS {
            match reader(n, &queue) {
                Ok(reader) => threads.readers.push(reader),
                // Those that run hold the directory's lock.
                Err(error) => return threads.stop(core).and(Err(error)),
            }
        }
        Ok(threads)
    }

    /// Has a reader thread run the job.
    pub(super) fn read(&self, job: Job) {
        self.jobs.send(job).expect("the readers live as long as this sender");
    }

    /// Ends them, in the order that lets the committer finish: it may need the flush to free a journal file.
    pub(super) fn stop(self, core: &Core) -> Result<()> {
        self.stop_committer.store(true, Ordering::SeqCst);
        self.waker.wake();
        let committer = self.committer.join().ok().flatten();
        self.stop_flusher.store(true, Ordering::SeqCst);
        core.flush_signal.hurry();
        let flusher = self.flusher.join().ok().flatten();
        drop(self.jobs);
        for reader in self.readers {
            let _ = reader.join();
        }
        match (committer, flusher) {
            (Some(mut committer), Some(mut flusher)) => finish(core, &mut committer, &mut flusher),
            _ => Err(core.poison.error()),
        }
    }
}

/// The end of a clean close: a flush if there is much, then the close frame.
pub(super) fn finish(core: &Core, committer: &mut Committer, flusher: &mut Flusher) -> Result<()> {
    core.poison.check()?;
    // A close into a directory that nobody finds again would be no clean one.
    core.journal.ring.check_in_place()?;
    if let Some(error) = committer.gave_up() {
        return Err(error.clone());
    }
    if core.index.mem_bytes() > CLOSE_FLUSH_BYTES {
        flusher.flush()?;
    }
    if committer.needs_file() {
        flusher.make_room()?;
    }
    committer.close_frame()
}

/// Starts a thread that runs jobs until nobody can give it any more.
fn reader(n: usize, queue: &Receiver<Job>) -> Result<JoinHandle<()>> {
    let queue = queue.clone();
    spawn(&format!("everlog-read-{n}"), move || {
        for job in queue {
            // A job that panics drops its completer's partner only; the thread goes on.
            let _ = catch_unwind(AssertUnwindSafe(job));
        }
    })
}

#[allow(clippy::disallowed_methods, reason = "the one place that starts threads")]
fn spawn<T: Send + 'static>(name: &str, body: impl FnOnce() -> T + Send + 'static) -> Result<JoinHandle<T>> {
    std::thread::Builder::new().name(name.to_owned()).spawn(body).map_err(|e| {
        Error::new(ErrorKind::Io, format!("the thread {name} cannot be started: {e}"))
            .remedy("raise the limit of threads")
    })
}

/// Runs a thread's loop on `part`; a panic poisons, and `part` is gone then.
fn guarded<T>(core: &Core, mut part: T, body: impl FnOnce(&mut T)) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(|| body(&mut part))) {
        Ok(()) => Some(part),
        Err(_) => {
            core.poison.set(Error::new(ErrorKind::Io, "a background thread panicked; see the standard error output"));
            // What it was about to answer is answered as unknown. Should that panic, the others are answered nevertheless.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(part)));
            let mut tasks = Pending::answer_all(core.lane.close(core.poison.error()), Some(&core.poison.unknown()));
            core.index.pool.close();
            tasks.extend(core.index.take_watchers());
            wake_all(tasks);
            None
        }
    }
}

fn commit_loop(committer: &mut Committer, core: &Core, stop: &AtomicBool) {
    let mut told = false;
    // The passes of the flush when the committer was first seen to wait for a journal file after the stop.
    let mut stuck = None;
    loop {
        if stop.load(Ordering::SeqCst) {
            if committer.is_settled() {
                return;
            }
            if committer.awaits_file() {
                let passes = core.flush_signal.hurry();
                let since = *stuck.get_or_insert(passes);
                // Asked once more, since a file may have come between the two questions.
                if let Some(error) = core.flush_signal.failed_since(since)
                    && committer.awaits_file()
                {
                    committer.give_up(&error);
                    return;
                }
            } else {
                stuck = None;
            }
        }
        committer.step(true);
        if !told && core.poison.is_set() {
            told = true;
            wake_all(core.index.take_watchers());
        }
    }
}

fn flush_loop(flusher: &mut Flusher, core: &Core, stop: &AtomicBool, committer: &dyn Wake) {
    let mut failures: u32 = 0;
    while !stop.load(Ordering::SeqCst) {
        let result = flusher.step(committer);
        failures = if result.is_ok() { 0 } else { failures.saturating_add(1) };
        core.index.metrics.flush_failures.add(u64::from(failures > 0));
        if let Err(error) = &result
            && !core.poison.is_set()
            && (failures.is_power_of_two() && failures < TELL_EVERY || failures.is_multiple_of(TELL_EVERY))
        {
            tracing::warn!(%error, failures, "a flush failed; it will be tried again");
        }
        let moved = core.flush_signal.passed(result);
        if failures > 0 {
            // It may be poisoned now, or closing and waiting for this very answer.
            committer.wake();
            core.flush_signal.pause((PAUSE_MIN * (1 << (failures - 1).min(8))).min(PAUSE_MAX));
        } else if !moved {
            core.flush_signal.sleep();
        }
    }
}
