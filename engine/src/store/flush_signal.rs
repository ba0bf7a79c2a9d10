//! How the flush is woken, by whom it is waited for, and how it tells that it is done.
//!
//! Three kinds of callers: those who only tell that a flush may be due ([`FlushSignal::wake`], [`Pressure`]), those who
//! wait until what is durable now lies in a segment ([`FlushSignal::flush`]), and a close that needs a pass to begin at
//! once ([`FlushSignal::hurry`]) and in the end none to take its time ([`FlushSignal::end`]). What this file does not do:
//! it flushes nothing and decides not what is due.
//!
//! Invariant: whoever told of work after the flush last looked for some has it look again, and whoever waits for a
//! flush is woken when one has ended that began after it was asked for, or when there will be none any more.

use super::Core;
use super::subscription::closed;
use crate::error::{Error, Result};
use crate::flush::Rested;
use crate::io::Wake;
use crate::sync::{Arc, AtomicBool, Condvar, Mutex, Ordering, wait, wait_for};
use std::time::Duration;

/// How long the flush sleeps before it looks again by itself.
const FLUSH_SLEEP: Duration = Duration::from_millis(200);

/// What wakes the flush, and whom the flush wakes.
#[derive(Default)]
pub(super) struct FlushSignal {
    state: Mutex<SignalState>,
    /// The flush waits on it for work.
    work: Condvar,
    /// The flush pauses on it after a failure, and rests on it between pieces of what nobody waits for.
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
    /// The store ends.
    ending: bool,
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
                core.poison.check()?;
                return Err(closed());
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
    pub(super) fn hurry(&self) -> u64 {
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
    pub(super) fn failed_since(&self, passes: u64) -> Option<Error> {
        let state = self.state.lock();
        // The first that ended since may have been under way.
        if state.passes >= passes + 2 { state.last_error.clone() } else { None }
    }

    /// Sleeps until there may be work.
    pub(super) fn sleep(&self) {
        let mut state = self.state.lock();
        if !state.woken {
            wait_for(&self.work, &mut state, FLUSH_SLEEP);
        }
        state.woken = false;
        state.hurried = false;
    }

    /// Sleeps for `pause` whatever wakes the flush, unless somebody waits for it or the store ends.
    pub(super) fn pause(&self, pause: Duration) -> Rested {
        let mut state = self.state.lock();
        if !state.hurried && !state.ending {
            wait_for(&self.hurry, &mut state, pause);
        }
        state.woken = false;
        let hurried = std::mem::take(&mut state.hurried);
        if state.ending {
            Rested::Ending
        } else if hurried {
            Rested::Hurried
        } else {
            Rested::AtEase
        }
    }

    /// The store ends: there is no pause any more.
    pub(super) fn end(&self) {
        let mut state = self.state.lock();
        state.ending = true;
        self.hurry_locked(&mut state);
    }

    /// A pass has ended. Gives whether it moved anything.
    pub(super) fn passed(&self, result: Result<bool>) -> bool {
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

    /// There will be no pass any more.
    pub(super) fn stop(&self) {
        self.state.lock().stopped = true;
        self.done.notify_all();
    }
}
