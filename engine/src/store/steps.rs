//! A store's background work, driven step by step by one thread: for simulations and tests.

use super::Core;
use super::cold::Shippers;
use super::open::Opened;
use crate::commit::committer::Committer;
use crate::error::{Error, ErrorKind, Result};
use crate::flush::Flusher;
use crate::io::Wake;
use crate::merge::Merger;
use crate::scrub::Scrubber;
use crate::sync::Arc;

/// Passes without progress after which a drain gives up.
const IDLE_PASSES_MAX: usize = 10_000;

/// The background work of a store opened with [`super::Store::open_stepped`].
pub struct Steps {
    core: Arc<Core>,
    committer: Committer,
    flusher: Flusher,
    merger: Merger,
    scrubber: Option<Scrubber>,
    shippers: Vec<Shippers>,
    waker: Arc<dyn Wake>,
}

impl std::fmt::Debug for Steps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Steps").finish_non_exhaustive()
    }
}

impl Steps {
    pub(super) fn new(opened: Opened) -> Self {
        let Opened { core, committer, flusher, merger, scrubber, shippers } = opened;
        let waker = committer.waker();
        Self { core, committer, flusher, merger, scrubber, shippers, waker }
    }

    /// One pass of the committer: begins frames, reaps completions, publishes what is durable. True if anything moved.
    ///
    /// # Errors
    /// [`ErrorKind::Poisoned`] once a write has failed.
    pub fn commit(&mut self) -> Result<bool> {
        let moved = self.committer.step(false);
        self.core.poison.check()?;
        Ok(moved)
    }

    /// A commit as a caller of [`super::Store::append_and_wait`] makes it: a frame of what is staged, written at once, and
    /// published with all before it, if it need not wait for one in flight. Poisons the store if the write fails.
    pub fn lead(&mut self) {
        self.core.appender.leader.commit();
    }

    /// One pass of the flush: a spare journal file if there is none, a flush if one is due or was asked for. True if
    /// anything moved.
    ///
    /// # Errors
    /// Why it failed; it is tried again at the next pass unless the store is poisoned.
    pub fn flush(&mut self) -> Result<bool> {
        self.flusher.step(&*self.waker)
    }

    /// One step of a merge, if one is due or under way. True if there was anything to do.
    ///
    /// # Errors
    /// Why it failed; it is begun anew at a later step unless the store is poisoned.
    pub fn merge(&mut self) -> Result<bool> {
        self.merger.step()
    }

    /// One step of the scrub: reads about a MiB of segments again, if its budget and the interval between passes allow it at
    /// this moment. True if it did anything. What it found is in [`super::Stats`].
    ///
    /// # Errors
    /// Why reading failed, where that says nothing of the bytes on the device; it is tried again at a later step.
    pub fn scrub(&mut self) -> Result<bool> {
        self.scrubber.as_mut().map_or(Ok(false), Scrubber::step)
    }

    /// One step of shipping to the cold store `n`: of the tail, and of segments. True if anything moved.
    ///
    /// # Errors
    /// Why it failed; it is tried again at a later step. [`ErrorKind::Fenced`] and, in the first cold store,
    /// [`ErrorKind::Refused`] stop the store.
    pub fn ship(&mut self, n: usize) -> Result<bool> {
        self.core.poison.check()?;
        self.core.note_durable();
        let Shippers { tail, segments } = &mut self.shippers[n];
        let shipped = tail.step().and_then(|moved| Ok(segments.step()? | moved));
        match &shipped {
            Ok(_) => self.core.ship_went_well(n),
            Err(error) => self.core.ship_failed(n, error),
        }
        shipped
    }

    /// Makes everything staged durable and writes the close frame. As [`super::Store::close`] it lets go of the lock, and
    /// the store and its subscriptions fail from here on with [`ErrorKind::ShutDown`].
    ///
    /// # Errors
    /// Why the close is not clean. What was staged is answered in any case.
    pub fn close(mut self) -> Result<()> {
        self.core.begin_close();
        let result = self.finish();
        let core = Arc::clone(&self.core);
        // What is in flight ends with the committer; only then may another process write.
        drop(self);
        core.end_shipping();
        core.end_close();
        result
    }

    fn finish(&mut self) -> Result<()> {
        self.merger.stop();
        let mut idle = 0;
        while !self.committer.frames().is_idle() {
            let mut moved = self.commit()?;
            let mut stuck = None;
            match self.flush() {
                Ok(flushed) => moved |= flushed,
                Err(error) if self.committer.frames().awaits_file() => stuck = Some(error),
                // What is staged may be written nevertheless; a poisoned store tells at the next pass.
                Err(_) => {}
            }
            idle = if moved { 0 } else { idle + 1 };
            if idle == IDLE_PASSES_MAX {
                stuck = Some(Error::new(ErrorKind::Io, "what is staged cannot be written"));
            }
            if let Some(error) = stuck {
                let wakes = self.committer.frames().give_up(&error);
                wakes.wake();
                break;
            }
        }
        super::threads::finish(&self.core, &mut self.committer, &mut self.flusher)
    }
}
