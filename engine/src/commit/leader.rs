//! A commit by a caller who waits for it anyway: nobody need be woken to write what was staged, nor to tell the caller.
//!
//! Who brings the open frame to what is awaited, and would have to wake the committer for that, writes it on its own thread
//! instead if it waits for its acknowledgement. With one caller, two wake-ups an append took longer than all but the disk;
//! with a few, they take turns in two groups, each of which the last to come back leads. Should some not come back, the first
//! that did commits what there is. The committer is woken for what was staged before they were expected, and does all for
//! those who do not wait, and for many who do: it need not be woken between two frames.
//!
//! What a crash leaves is what [`super::frames`] says, whoever writes. Invariants: behind a commit here the committer is
//! awake if anything is left to be done; while a frame is written nobody holds the frames' lock, and nobody is woken under it.

use super::committer::gather;
use super::frames::{Frames, OVERLAP_BYTES, Shared, Write};
use crate::error::{Error, ErrorKind, Result};
use crate::io::{Completion, Wake};
use crate::sync::{Arc, Mutex};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// What it takes to commit in the committer's place.
#[derive(Clone)]
pub struct Leader {
    /// What the commit path shares.
    pub shared: Shared,
    /// The frames.
    pub frames: Arc<Mutex<Frames>>,
    /// Ends the committer's sleep.
    pub waker: Arc<dyn Wake>,
}

impl Leader {
    /// Commits a frame of what is staged, on the calling thread; wakes the committer where that cannot be done here, and for
    /// what is left. For whoever would have to wake it otherwise, and holds no lock.
    pub fn commit(&self) {
        match catch_unwind(AssertUnwindSafe(|| self.try_commit())) {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => self.waker.wake(),
            Ok(Err(error)) => self.fail(error),
            Err(_) => {
                // A frame may have been shown in part: nobody is to wait for the rest of it.
                self.shared.index.halt();
                self.fail(Error::new(ErrorKind::Io, "a commit panicked; see the standard error output"));
            }
        }
    }

    /// Commits what is staged a moment from now, or once so many clients are back, unless somebody begins it before. For the
    /// first of those who are expected, who holds no lock.
    pub fn tend(&self, clients: usize) {
        let is_begun = || self.shared.lane.is_empty();
        gather(&self.shared, &self.frames, || is_begun() || self.shared.lane.holds(clients, OVERLAP_BYTES));
        // Behind a frame in flight its end sees to it.
        if !is_begun() && self.frames.lock().is_still() {
            self.commit();
        }
    }

    /// Stops the store. Who waits is answered here: the committer may have ended by now.
    fn fail(&self, error: Error) {
        self.shared.poison.set(error);
        let (_, wakes) = self.frames.lock().fail();
        wakes.wake();
        // It tells those who watch a log.
        self.waker.wake();
    }

    /// False if the committer is to be woken.
    pub(super) fn try_commit(&self) -> Result<bool> {
        let mut frames = self.frames.lock();
        if self.shared.poison.is_set() {
            return Ok(false);
        }
        // Otherwise it sleeps for longer than until the idle frame that follows this one.
        let knows_of_idle_frame = frames.awaits_idle_frame();
        let Some((Write { id, op }, more)) = frames.begin_led()? else { return Ok(false) };
        drop(frames);
        if more {
            self.waker.wake();
        }
        let written = catch_unwind(AssertUnwindSafe(|| self.shared.io.run(op)));
        let result = written.unwrap_or_else(|_| Err(io::Error::other("the write panicked")));
        let mut frames = self.frames.lock();
        frames.end_led();
        if self.shared.poison.is_set() {
            return Ok(false);
        }
        frames.complete(Completion { id, result })?;
        let published = frames.publish();
        let is_done = !frames.go_on(&published) && knows_of_idle_frame;
        drop(frames);
        if !is_done {
            // Before the wakers of tasks, which may take their time.
            self.waker.wake();
        }
        published.wakes.wake();
        Ok(true)
    }
}
