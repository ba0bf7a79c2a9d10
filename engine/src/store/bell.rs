//! A bell that has one thread look for work: whoever rings it has the sleeper look again.
//!
//! A pause, after a failure or for the sake of others, is ended by no ring, only by the end of the work.
//!
//! Invariant: a ring after the sleeper last looked ends its next sleep at once.

use crate::sync::{Condvar, Mutex, wait_for};
use std::time::Duration;

#[derive(Default)]
pub(super) struct Bell {
    state: Mutex<State>,
    sleeper: Condvar,
    pauser: Condvar,
}

#[derive(Default)]
struct State {
    rung: bool,
    ended: bool,
}

impl Bell {
    pub(super) fn ring(&self) {
        self.state.lock().rung = true;
        self.sleeper.notify_one();
    }

    /// There is no more work to look for: every sleep and pause ends.
    pub(super) fn end(&self) {
        self.state.lock().ended = true;
        self.sleeper.notify_one();
        self.pauser.notify_one();
    }

    /// Pauses, whoever rings.
    pub(super) fn pause(&self, pause: Duration) {
        let mut state = self.state.lock();
        if !state.ended {
            wait_for(&self.pauser, &mut state, pause);
        }
    }

    /// Sleeps until it is rung, for `at_most` at most.
    pub(super) fn sleep(&self, at_most: Duration) {
        let mut state = self.state.lock();
        if !state.rung && !state.ended {
            wait_for(&self.sleeper, &mut state, at_most);
        }
        state.rung = false;
    }
}
