//! The store's threads: the only place that starts any.
//!
//! One runs the committer, one the flush, one the merges, one the scrub, two ship to each cold store, and a few read for
//! futures; a restore has some of its own for as long as it lasts. A thread that panics poisons the store, so that nobody waits for it for ever.

use super::cold::Shippers;
use super::open::Opened;
use super::{CLOSE_FLUSH_BYTES, Core};
use crate::commit::ack::Pending;
use crate::commit::committer::Committer;
use crate::error::{Error, ErrorKind, Result};
use crate::flush::Flusher;
use crate::io::Wake;
use crate::merge::Merger;
use crate::scrub::Scrubber;
use crate::ship::{SegmentShipper, TailShipper};
use crate::sync::{Arc, AtomicBool, JoinHandle, Ordering, Sender, current, spawn, unbounded};
use crate::waiter::wake_all;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

/// Threads that read for futures.
const READERS: usize = 2;
/// How long the flush pauses after a failure; doubled with each further one.
const PAUSE_MIN: Duration = Duration::from_millis(50);
/// The longest such pause.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// The longest pause of the merges: what one wrote in vain is much.
const MERGE_PAUSE_MAX: Duration = Duration::from_secs(30);
/// How long the merges wait for the sake of appends before they ask again whether they have to.
const MERGE_WAIT_MAX: Duration = Duration::from_millis(100);
/// How long the merges sleep before they look again by themselves.
const MERGE_SLEEP: Duration = Duration::from_secs(1);
/// How long the scrub sleeps at most before it looks which segments there are.
const SCRUB_SLEEP: Duration = Duration::from_secs(1);
/// How long it is until it is looked again whether what somebody waits for of the tail is proved.
const AWAITED_PAUSE: Duration = Duration::from_millis(2);
/// How long it is until it is looked again whether there are segments to ship.
const SEGMENT_SLEEP: Duration = Duration::from_millis(500);
/// The longest pause after failures of a cold store.
const SHIP_PAUSE_MAX: Duration = Duration::from_secs(10);
/// For how long a close ships what is left.
const SHIP_REST: Duration = Duration::from_secs(10);
/// Of so many failures in a row one is told, once the first few were: about one a minute.
const TELL_EVERY: u32 = 64;

type Job = Box<dyn FnOnce() + Send>;

/// The running threads; not all of them while they are being started.
pub(super) struct Threads {
    committer: Option<JoinHandle<Option<Committer>>>,
    flusher: Option<JoinHandle<Option<Flusher>>>,
    merger: Option<JoinHandle<()>>,
    scrubber: Option<JoinHandle<()>>,
    readers: Vec<JoinHandle<()>>,
    /// Those that ship tails, which go on with what is left once the journal is closed.
    tails: Vec<JoinHandle<Option<TailShipper>>>,
    segments: Vec<JoinHandle<()>>,
    /// Present until they are stopped.
    jobs: Option<Sender<Job>>,
    stop_shipping: Arc<AtomicBool>,
    stop_committer: Arc<AtomicBool>,
    stop_flusher: Arc<AtomicBool>,
    stop_merger: Arc<AtomicBool>,
    stop_scrubber: Arc<AtomicBool>,
    waker: Arc<dyn Wake>,
}

/// The threads beside the committer's and the flush's.
pub(super) struct Beside {
    /// How many read for futures.
    pub readers: usize,
    /// Whether one merges.
    pub merges: bool,
}

/// What starts a thread.
pub(super) trait Spawn {
    /// Starts one.
    ///
    /// # Errors
    /// The operating system's.
    fn spawn<T: Send + 'static>(
        &mut self, name: &str, body: impl FnOnce() -> T + Send + 'static,
    ) -> std::io::Result<JoinHandle<T>>;
}

/// The operating system.
pub(super) struct System;

impl Spawn for System {
    #[allow(clippy::disallowed_methods, reason = "the one place that starts threads of a store")]
    fn spawn<T: Send + 'static>(
        &mut self, name: &str, body: impl FnOnce() -> T + Send + 'static,
    ) -> std::io::Result<JoinHandle<T>> {
        spawn(name, body)
    }
}

/// Has `threads` threads do the same work, the calling one among them, and returns once they are through it. Fewer do it if
/// the system has no more.
#[allow(clippy::disallowed_methods, reason = "the one place that starts threads of a store")]
pub(super) fn together(threads: usize, work: &(dyn Fn() + Sync)) {
    std::thread::scope(|scope| {
        for n in 1..threads {
            let name = format!("everlog-restore-{n}");
            let _ = std::thread::Builder::new().name(name).spawn_scoped(scope, work);
        }
        work();
    });
}

impl Threads {
    /// Starts them.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] if the system has no more threads. Those that were started before have ended then.
    pub(super) fn start(opened: Opened) -> Result<Self> {
        Self::start_by(&mut System, opened, &Beside { readers: READERS, merges: true })
    }

    /// As [`Self::start`], by `system` and with what stands beside the committer and the flush.
    pub(super) fn start_by(system: &mut impl Spawn, opened: Opened, beside: &Beside) -> Result<Self> {
        let core = Arc::clone(&opened.core);
        let mut threads = Self {
            committer: None,
            flusher: None,
            merger: None,
            scrubber: None,
            readers: Vec::with_capacity(beside.readers),
            tails: Vec::new(),
            segments: Vec::new(),
            jobs: None,
            stop_shipping: Arc::default(),
            stop_committer: Arc::default(),
            stop_flusher: Arc::default(),
            stop_merger: Arc::default(),
            stop_scrubber: Arc::default(),
            waker: opened.committer.waker(),
        };
        if let Err(error) = threads.start_all(system, opened, beside) {
            // A thread that went on would keep the directory locked, and would work on a store that nobody has.
            drop(threads.join(&core));
            return Err(error);
        }
        Ok(threads)
    }

    fn start_all(&mut self, system: &mut impl Spawn, opened: Opened, beside: &Beside) -> Result<()> {
        let Opened { core, committer, flusher, merger, scrubber, shippers } = opened;
        let core = &core;
        let (core_c, stop) = (Arc::clone(core), Arc::clone(&self.stop_committer));
        let commits = move || {
            let committer = guarded(&core_c, committer, |c| commit_loop(c, &core_c, &stop));
            // After a failure writes may be in flight, whose end only the thread that began them can wait for. It does
            // so here, so that none is left when the store's lock is.
            committer.filter(|_| !core_c.poison.is_set())
        };
        self.committer = Some(start(system, "everlog-commit", commits)?);
        let (core_f, stop, wake) = (Arc::clone(core), Arc::clone(&self.stop_flusher), Arc::clone(&self.waker));
        let flushes = move || {
            let flusher = guarded(&core_f, flusher, |f| flush_loop(f, &core_f, &stop, &*wake));
            core_f.flush_signal.stop();
            flusher
        };
        self.flusher = Some(start(system, "everlog-flush", flushes)?);
        let (core_m, stop) = (Arc::clone(core), Arc::clone(&self.stop_merger));
        let merges = move || drop(guarded(&core_m, merger, |m| merge_loop(m, &core_m, &stop)));
        if beside.merges {
            self.merger = Some(start(system, "everlog-merge", merges)?);
        }
        if let Some(scrubber) = scrubber {
            let (core_s, stop) = (Arc::clone(core), Arc::clone(&self.stop_scrubber));
            let scrubs = move || drop(guarded(&core_s, scrubber, |s| scrub_loop(s, &core_s, &stop)));
            self.scrubber = Some(start(system, "everlog-scrub", scrubs)?);
        }
        for (n, Shippers { tail, segments }) in shippers.into_iter().enumerate() {
            let (core_t, stop) = (Arc::clone(core), Arc::clone(&self.stop_shipping));
            let ships = move || guarded(&core_t, tail, |tail| tail_loop(tail, n, &core_t, &stop));
            self.tails.push(start(system, &format!("everlog-tail-{n}"), ships)?);
            let (core_s, stop) = (Arc::clone(core), Arc::clone(&self.stop_shipping));
            let ships = move || drop(guarded(&core_s, segments, |s| segment_loop(s, n, &core_s, &stop)));
            self.segments.push(start(system, &format!("everlog-ship-{n}"), ships)?);
        }
        let (jobs, queue) = unbounded::<Job>();
        self.jobs = Some(jobs);
        for n in 0..beside.readers {
            let queue = queue.clone();
            let reads = move || {
                for job in queue {
                    // A job that panics drops its completer's partner only; the thread goes on.
                    let _ = catch_unwind(AssertUnwindSafe(job));
                }
            };
            self.readers.push(start(system, &format!("everlog-read-{n}"), reads)?);
        }
        Ok(())
    }

    /// Has a reader thread run the job.
    pub(super) fn read(&self, job: Job) {
        let jobs = self.jobs.as_ref().expect("present until the threads are stopped");
        jobs.send(job).expect("the readers live as long as this sender");
    }

    /// Whether the calling thread is one of them.
    pub(super) fn is_own(&self) -> bool {
        let here = current().id();
        self.committer.iter().any(|thread| thread.thread().id() == here)
            || self.flusher.iter().any(|thread| thread.thread().id() == here)
            || self.merger.iter().any(|thread| thread.thread().id() == here)
            || self.scrubber.iter().any(|thread| thread.thread().id() == here)
            || self.readers.iter().chain(&self.segments).any(|thread| thread.thread().id() == here)
            || self.tails.iter().any(|thread| thread.thread().id() == here)
    }

    /// Ends them; then what is left to be done on disk.
    pub(super) fn stop(mut self, core: &Core) -> Result<()> {
        self.stop_shipping.store(true, Ordering::SeqCst);
        core.cold.standing.close();
        core.cold.end_bells();
        let finished = match self.join(core) {
            (Some(mut committer), Some(mut flusher)) => finish(core, &mut committer, &mut flusher),
            _ => Err(core.poison.error()),
        };
        // Only now: a cold store that does not answer holds up the end of the process, and not the close.
        let tails = self.join_shippers();
        finished.and_then(|()| ship_rest(core, tails))
    }

    /// Waits for those that ship; gives what ships tails.
    fn join_shippers(&mut self) -> Vec<TailShipper> {
        let tails = self.tails.drain(..).filter_map(|thread| thread.join().ok().flatten()).collect();
        for thread in self.segments.drain(..) {
            let _ = thread.join();
        }
        tails
    }

    /// Ends them on a thread of its own, since one of them asks for it and cannot wait for itself: a waker was the last
    /// to hold the store.
    pub(super) fn stop_elsewhere(self, core: &Arc<Core>) -> Result<()> {
        let stop =
            [&self.stop_committer, &self.stop_flusher, &self.stop_merger, &self.stop_scrubber, &self.stop_shipping]
                .map(Arc::clone);
        let (waker, core_e) = (Arc::clone(&self.waker), Arc::clone(core));
        let stops = move || {
            if let Err(error) = self.stop(&core_e) {
                tracing::warn!(%error, "the store did not close cleanly");
            }
            core_e.end_shipping();
            core_e.end_close();
        };
        match start(&mut System, "everlog-close", stops) {
            Ok(_detached) => {
                let what = "the store closes on another thread, since one of its own was asked to";
                Err(Error::new(ErrorKind::Unknown, what).remedy("close it outside of wakers to learn how that went"))
            }
            Err(error) => {
                // They end by themselves, and the last of them lets go of the lock.
                stop.iter().for_each(|stop| stop.store(true, Ordering::SeqCst));
                waker.wake();
                core.merge_bell.end();
                core.scrub_bell.end();
                core.cold.end_bells();
                core.flush_signal.end();
                core.end_shipping();
                Err(error)
            }
        }
    }

    /// Ends them, in the order that lets the committer finish: it may need the flush to free a journal file.
    fn join(&mut self, core: &Core) -> (Option<Committer>, Option<Flusher>) {
        self.stop_merger.store(true, Ordering::SeqCst);
        self.stop_scrubber.store(true, Ordering::SeqCst);
        core.merge_bell.end();
        core.scrub_bell.end();
        for thread in self.merger.take().into_iter().chain(self.scrubber.take()) {
            let _ = thread.join();
        }
        self.stop_committer.store(true, Ordering::SeqCst);
        self.waker.wake();
        let committer = self.committer.take().and_then(|thread| thread.join().ok().flatten());
        self.stop_flusher.store(true, Ordering::SeqCst);
        core.flush_signal.end();
        let flusher = self.flusher.take().and_then(|thread| thread.join().ok().flatten());
        self.jobs = None;
        for reader in self.readers.drain(..) {
            let _ = reader.join();
        }
        (committer, flusher)
    }
}

fn start<T: Send + 'static>(
    system: &mut impl Spawn, name: &str, body: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>> {
    system.spawn(name, body).map_err(|e| {
        Error::new(ErrorKind::Io, format!("the thread {name} cannot be started: {e}"))
            .remedy("raise the limit of threads")
    })
}

/// The end of a clean close: a flush if there is much, then the close frame.
pub(super) fn finish(core: &Core, committer: &mut Committer, flusher: &mut Flusher) -> Result<()> {
    core.poison.check()?;
    // A close into a directory that nobody finds again would be no clean one.
    core.journal.ring.check_in_place()?;
    if let Some(error) = committer.frames().gave_up() {
        return Err(error.clone());
    }
    if core.index.mem_bytes() > CLOSE_FLUSH_BYTES {
        flusher.flush()?;
    }
    if committer.frames().needs_file() {
        flusher.make_room()?;
    }
    committer.frames().close_frame()
}

/// Ships what is left once the journal is closed, as far as that goes in a while.
///
/// # Errors
/// [`crate::ErrorKind::Fenced`] if another owner has the store by now.
fn ship_rest(core: &Core, tails: Vec<TailShipper>) -> Result<()> {
    let until = core.clock.monotonic() + SHIP_REST;
    for (n, mut tail) in tails.into_iter().enumerate() {
        while !tail.is_level() && core.clock.monotonic() < until {
            match tail.step() {
                Ok(true) => {}
                Ok(false) => break,
                Err(error) => {
                    tracing::warn!(%error, n, "not everything could be shipped before the store closed");
                    core.ship_failed(n, &error);
                    if error.kind() == ErrorKind::Fenced {
                        return Err(error);
                    }
                    break;
                }
            }
        }
    }
    Ok(())
}

/// Runs a thread's loop on `part`; a panic poisons, and `part` is gone then.
pub(super) fn guarded<T>(core: &Core, mut part: T, body: impl FnOnce(&mut T)) -> Option<T> {
    match catch_unwind(AssertUnwindSafe(|| body(&mut part))) {
        Ok(()) => Some(part),
        Err(_) => {
            core.poison.set(Error::new(ErrorKind::Io, "a background thread panicked; see the standard error output"));
            // A frame may have been shown in part: nobody is to wait for the rest of it.
            core.index.halt();
            // What it was about to answer is answered as unknown. Should that panic, the others are answered nevertheless.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(part)));
            let mut wakes = Pending::answer_all(core.lane.close(core.poison.error()), Some(&core.poison.unknown()));
            core.index.pool.close();
            wakes.targets.extend(core.index.take_watchers());
            wakes.wake();
            None
        }
    }
}

pub(super) fn commit_loop(committer: &mut Committer, core: &Core, stop: &AtomicBool) {
    let mut told = false;
    // The passes of the flush when the committer was first seen to wait for a journal file after the stop.
    let mut stuck = None;
    loop {
        if stop.load(Ordering::SeqCst) {
            if committer.frames().is_settled() {
                return;
            }
            if committer.frames().awaits_file() {
                let passes = core.flush_signal.hurry();
                let since = *stuck.get_or_insert(passes);
                if let Some(error) = core.flush_signal.failed_since(since) {
                    // Asked once more, since a file may have come between the two questions.
                    let mut frames = committer.frames();
                    if frames.awaits_file() {
                        let wakes = frames.give_up(&error);
                        drop(frames);
                        wakes.wake();
                        return;
                    }
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

pub(super) fn flush_loop(flusher: &mut Flusher, core: &Core, stop: &AtomicBool, committer: &dyn Wake) {
    let mut failures: u32 = 0;
    while !stop.load(Ordering::SeqCst) {
        let result = flusher.step(committer);
        failures = if result.is_ok() { 0 } else { failures.saturating_add(1) };
        core.index.metrics.flush_failures.add(u64::from(failures > 0));
        if let Err(error) = &result
            && !core.poison.is_set()
            && is_told(failures)
        {
            tracing::warn!(%error, failures, "a flush failed; it will be tried again");
        }
        let moved = core.flush_signal.passed(result);
        if moved {
            core.merge_bell.ring();
        }
        if failures > 0 {
            // It may be poisoned now, or closing and waiting for this very answer.
            committer.wake();
            core.flush_signal.pause(pause(failures, PAUSE_MAX));
        } else if !moved {
            core.flush_signal.sleep();
        }
    }
}

pub(super) fn merge_loop(merger: &mut Merger, core: &Core, stop: &AtomicBool) {
    let mut failures: u32 = 0;
    while !stop.load(Ordering::SeqCst) && !core.poison.is_set() {
        let wait = merger.wait().min(MERGE_WAIT_MAX);
        if wait > Duration::ZERO {
            core.merge_bell.pause(wait);
            continue;
        }
        let merges = core.index.metrics.merges.get();
        match merger.step() {
            Ok(true) if core.index.metrics.merges.get() > merges => {
                failures = 0;
                *core.merge_error.lock() = None;
            }
            Ok(true) => {}
            Ok(false) => core.merge_bell.sleep(MERGE_SLEEP),
            Err(error) => {
                failures = failures.saturating_add(1);
                core.index.metrics.merge_failures.add(1);
                if is_told(failures) && !core.poison.is_set() {
                    tracing::warn!(%error, failures, "a merge failed; it will be tried again");
                }
                *core.merge_error.lock() = Some(error);
                core.merge_bell.pause(pause(failures, MERGE_PAUSE_MAX));
            }
        }
    }
    // On this thread, since a queue of the disk belongs to the thread that made it.
    merger.stop();
}

pub(super) fn scrub_loop(scrubber: &mut Scrubber, core: &Core, stop: &AtomicBool) {
    let mut failures: u32 = 0;
    while !stop.load(Ordering::SeqCst) && !core.poison.is_set() {
        match scrubber.step() {
            Ok(true) => failures = 0,
            Ok(false) => {}
            Err(error) => {
                failures = failures.saturating_add(1);
                if is_told(failures) {
                    tracing::warn!(%error, failures, "the scrub could not read a segment; it will try again");
                }
            }
        }
        core.scrub_bell.pause(scrubber.wait().min(SCRUB_SLEEP));
    }
}

pub(super) fn tail_loop(tail: &mut TailShipper, n: usize, core: &Core, stop: &AtomicBool) {
    let (bell, mut failures) = (&core.cold.bells[n].0, 0);
    while !stop.load(Ordering::SeqCst) && !core.poison.is_set() {
        core.note_durable();
        let mut shipped = tail.step();
        // Who has nothing to ship is to notice as well that another one took the store over.
        let standing = &core.cold.standing;
        let is_due = || standing.since_contact(core.clock.monotonic()) > standing.contact_every();
        if n == 0 && matches!(shipped, Ok(false)) && is_due() {
            shipped = tail.check_owner().map(|()| false);
        }
        if let Some(pause) = shipped_pause(core, n, &shipped, &mut failures) {
            bell.pause(pause);
        } else if core.cold.standing.is_awaited() {
            // What they wait for may have to be proved by the next frame first.
            if !matches!(shipped, Ok(true)) {
                bell.pause(AWAITED_PAUSE);
            }
        } else if !tail.is_behind() || !matches!(shipped, Ok(true)) {
            bell.sleep(core.cold.standing.ship_every());
        }
    }
    if core.poison.is_set() {
        // Nothing becomes cold any more.
        core.cold.standing.end(&core.poison.error());
    }
}

pub(super) fn segment_loop(segments: &mut SegmentShipper, n: usize, core: &Core, stop: &AtomicBool) {
    let (bell, mut failures) = (&core.cold.bells[n].1, 0);
    while !stop.load(Ordering::SeqCst) && !core.poison.is_set() {
        let shipped = segments.step();
        if let Some(pause) = shipped_pause(core, n, &shipped, &mut failures) {
            bell.pause(pause);
        } else if !matches!(shipped, Ok(true)) {
            bell.sleep(SEGMENT_SLEEP);
        }
    }
}

/// Takes note of how a step of shipping ended. How long to pause, if it failed.
fn shipped_pause(core: &Core, n: usize, shipped: &Result<bool>, failures: &mut u32) -> Option<Duration> {
    match shipped {
        Ok(_) => {
            *failures = 0;
            core.ship_went_well(n);
            None
        }
        Err(error) => {
            *failures = failures.saturating_add(1);
            if error.kind() != ErrorKind::ShutDown && is_told(*failures) {
                tracing::warn!(%error, failures, n, "shipping to a cold store failed; it will be tried again");
            }
            core.ship_failed(n, error);
            Some(pause(*failures, SHIP_PAUSE_MAX))
        }
    }
}

/// Whether this one of so many failures in a row is told.
fn is_told(failures: u32) -> bool {
    failures.is_power_of_two() && failures < TELL_EVERY || failures.is_multiple_of(TELL_EVERY)
}

/// How long to pause after so many failures in a row.
fn pause(failures: u32, most: Duration) -> Duration {
    (PAUSE_MIN * (1 << (failures - 1).min(10))).min(most)
}
