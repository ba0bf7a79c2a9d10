//! A bell that has one thread look for work: whoever rings it has the sleeper look again.
//!
//! Invariant: a ring after the sleeper last looked ends its next sleep at once.

use crate::sync::{Condvar, Mutex, wait_for};
use std::time::Duration;

#[derive(Default)]
pub(super) struct Bell {
    rung: Mutex<bool>,
    sleeper: Condvar,
}

impl Bell {
    pub(super) fn ring(&self) {
        *self.rung.lock() = true;
        self.sleeper.notify_one();
    }

    /// Sleeps until it is rung, for `at_most` at most.
    pub(super) fn sleep(&self, at_most: Duration) {
        let mut rung = self.rung.lock();
        if !*rung {
            wait_for(&self.sleeper, &mut rung, at_most);
        }
        *rung = false;
    }
}
