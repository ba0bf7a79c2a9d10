//! The committer: the thread that has frames written, and says when they are durable.
//!
//! One pass of [`Committer::step`] begins frames while fewer than `in_flight` are being written, reaps completions, and
//! publishes what is durable. While a frame is being written the next one fills up; there is no timer. Those who were
//! answered get a moment to come back before the next frame is begun: see [`gather`].
//!
//! Invariant: while frames are written it holds no lock, so that a caller can commit in its place ([`super::leader`]).

use super::frames::{Frames, OVERLAP_BYTES, SLEEP_MAX, Shared};
use super::leader::Leader;
use crate::error::{Error, Result};
use crate::io::{Completion, IoQueue, Wake};
use crate::sync::{Arc, Mutex, MutexGuard, park_timeout, yield_now};
use std::time::Duration;

/// How long a committer pauses that was poisoned and whose queue is broken too.
const BROKEN_PAUSE: Duration = Duration::from_millis(100);

/// How often the processor is given away at most while answered clients come back. Measured with 16 clients on two
/// processors: 3 are too few to gather them, 200 cost more than they bring.
const GATHER_YIELDS: usize = 20;
/// After this long no processor is given away any more: on a busy machine each time may cost a whole time slice.
const GATHER_MAX: Duration = Duration::from_micros(100);

/// The committer.
pub struct Committer {
    /// What it shares with callers who commit in its place; it commits by that itself what they staged.
    leader: Leader,
    queue: Box<dyn IoQueue>,
    /// Writes that the queue has.
    queued: usize,
    completions: Vec<Completion>,
}

impl Committer {
    /// The committer of `frames`, with at most `depth` in flight.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`] if the disk gives no queue.
    pub fn new(shared: Shared, frames: Frames, depth: usize) -> Result<Self> {
        let queue = shared.io.queue(depth).map_err(|e| Error::io("making a queue for", frames.path(), e))?;
        let leader = Leader { shared, frames: Arc::new(Mutex::new(frames)), waker: queue.waker() };
        Ok(Self { leader, queue, queued: 0, completions: Vec::new() })
    }

    /// What ends the committer's sleep.
    #[must_use]
    pub fn waker(&self) -> Arc<dyn Wake> {
        Arc::clone(&self.leader.waker)
    }

    /// The frames, locked.
    pub fn frames(&self) -> MutexGuard<'_, Frames> {
        self.leader.frames.lock()
    }

    /// What commits in its place while it sleeps.
    #[must_use]
    pub fn leader(&self) -> Leader {
        self.leader.clone()
    }

    /// One pass. With `may_sleep` it sleeps while there is nothing to do, until something is staged or completes. True
    /// if anything moved.
    pub fn step(&mut self, may_sleep: bool) -> bool {
        if self.leader.shared.poison.is_set() {
            let moved = self.fail();
            if may_sleep {
                // What is in flight is still awaited, so that its buffers are freed; its outcome no longer matters.
                if self.queue.poll(Some(SLEEP_MAX), &mut self.completions).is_err() {
                    // It did not wait then.
                    park_timeout(BROKEN_PAUSE);
                }
                self.completions.clear();
            }
            return moved;
        }
        let result = self.pass(may_sleep);
        result.unwrap_or_else(|error| {
            self.leader.shared.poison.set(error);
            self.fail()
        })
    }

    fn fail(&mut self) -> bool {
        let (moved, wakes) = self.leader.frames.lock().fail();
        wakes.wake();
        moved
    }

    fn pass(&mut self, may_sleep: bool) -> Result<bool> {
        let mut moved = false;
        let mut frames = self.leader.frames.lock();
        let expected = frames.take_expected();
        // Of many some may be there already, while others are still on their way: two frames then take turns by themselves.
        let waits = expected > 0 && (!frames.are_many() || self.leader.shared.lane.is_empty());
        if may_sleep && waits && frames.is_still() {
            drop(frames);
            gather(&self.leader.shared, &self.leader.frames, || self.leader.shared.lane.holds(expected, OVERLAP_BYTES));
            frames = self.leader.frames.lock();
        }
        // A blocking write of its own beside that of a caller is faster than one that the queue has.
        if may_sleep && self.queued == 0 && self.leader.shared.lane.is_of_callers(OVERLAP_BYTES) {
            drop(frames);
            if self.leader.try_commit()? || self.leader.shared.poison.is_set() {
                return Ok(true);
            }
            frames = self.leader.frames.lock();
        }
        while let Some(write) = frames.begin_next()? {
            self.queue.submit(write.id, write.op);
            self.queued += 1;
            moved = true;
        }
        let wait = (may_sleep && (!moved || frames.is_full())).then(|| frames.patience());
        let path = Arc::clone(frames.path());
        drop(frames);
        let polled = self.queue.poll(wait, &mut self.completions);
        polled.map_err(|e| Error::io("waiting for writes to", &path, e))?;
        let mut frames = self.leader.frames.lock();
        self.queued -= self.completions.len();
        self.completions.drain(..).try_for_each(|completion| frames.complete(completion))?;
        let published = frames.publish();
        // A device that has much to move is given it before the clients of the last frame are woken.
        while let Some(write) = frames.begin_staged(OVERLAP_BYTES)? {
            self.queue.submit(write.id, write.op);
            self.queued += 1;
            moved = true;
        }
        if !published.is_empty() {
            frames.go_on(&published);
        } else if frames.is_at_rest() {
            self.leader.shared.index.buffers.let_go();
        }
        drop(frames);
        moved |= !published.is_empty();
        published.wakes.wake();
        Ok(moved)
    }
}

/// Lets clients who were just answered come back before the next frame is begun, if nothing else is being written:
/// they then share one or two frames, instead of the first to come back filling one alone while the others wait for it. It
/// gives the processor away a few times, sets no timer, and ends at once when that is enough, or when a frame is
/// begun; where nobody comes back, that takes microseconds.
pub(super) fn gather(shared: &Shared, frames: &Mutex<Frames>, is_enough: impl Fn() -> bool) {
    let until = shared.clock.monotonic() + GATHER_MAX;
    for _ in 0..GATHER_YIELDS {
        let is_still = frames.try_lock().is_some_and(|frames| frames.is_still());
        if is_enough() || !is_still || shared.clock.monotonic() >= until {
            return;
        }
        yield_now();
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        // Callers may be writing in its place: whoever lets go of the store's lock next must find no write under way. The
        // frames live on with those callers, so that who waits for them is answered here, under no lock.
        drop(Frames::end(self.leader.frames.lock()));
    }
}
