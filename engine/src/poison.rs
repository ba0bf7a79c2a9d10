//! The latch that stops acknowledgements after a failed journal or manifest write or sync.
//!
//! Invariant: once [`Poison::set`] has returned, [`Poison::check`] fails for ever, with the first cause, and nothing is
//! acknowledged: what acknowledges does so within [`Poison::unless_set`]. A poisoned store keeps serving reads; only
//! opening it again clears the latch, since only recovery can tell what the disk holds.

use crate::error::{Error, ErrorKind, Result};
use crate::sync::{AtomicBool, Mutex, Ordering};

/// The latch. Shared by everything that may acknowledge.
#[derive(Debug, Default)]
pub struct Poison {
    /// Pairs with itself: the Release store in `set` follows the cause's write, the Acquire load in `check` precedes
    /// its read.
    set: AtomicBool,
    cause: Mutex<Option<Error>>,
}

impl Poison {
    /// Closes the latch; the first cause stays.
    pub fn set(&self, cause: Error) {
        let told = cause.to_string();
        let first = {
            let mut slot = self.cause.lock();
            let first = slot.is_none();
            slot.get_or_insert(cause);
            first
        };
        self.set.store(true, Ordering::Release);
        // Behind the latch: whoever receives the log line may fail.
        if first {
            tracing::error!(cause = told, "poisoned: no append is acknowledged from here on");
        }
    }

    /// Acknowledges, unless the latch is closed; None then. The latch does not close meanwhile, so `acknowledge` waits
    /// for nothing and asks the latch nothing.
    pub fn unless_set<T>(&self, acknowledge: impl FnOnce() -> T) -> Option<T> {
        let cause = self.cause.lock();
        cause.is_none().then(acknowledge)
    }

    /// Whether the latch is closed.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.set.load(Ordering::Acquire)
    }

    /// Fails if the latch is closed.
    ///
    /// # Errors
    /// [`ErrorKind::Poisoned`] with the first cause.
    pub fn check(&self) -> Result<()> {
        if self.is_set() { Err(self.error()) } else { Ok(()) }
    }

    /// The error for an operation that was refused because the latch is closed.
    #[must_use]
    pub fn error(&self) -> Error {
        self.describe(ErrorKind::Poisoned, "the store stopped taking appends")
    }

    /// The error for an operation that was under way when the latch closed.
    #[must_use]
    pub fn unknown(&self) -> Error {
        self.describe(ErrorKind::Unknown, "it is unknown whether this append is durable")
    }

    fn describe(&self, kind: ErrorKind, what: &str) -> Error {
        let cause = match &*self.cause.lock() {
            Some(cause) => format!("{what}: {cause}"),
            None => what.to_owned(),
        };
        Error::new(kind, cause).remedy("check the disk, open the store again, and retry by producer number")
    }
}

#[cfg(all(test, not(everlog_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_closed_latch_acknowledges_nothing_and_keeps_the_first_cause() {
        let poison = Poison::default();
        assert_eq!(poison.unless_set(|| 1), Some(1));
        poison.set(Error::new(ErrorKind::Io, "first"));
        poison.set(Error::new(ErrorKind::Io, "second"));
        assert_eq!(poison.unless_set(|| 1), None);
        assert!(poison.error().to_string().contains("first"));
    }
}

#[cfg(all(test, everlog_loom))]
mod loom_tests {
    use super::*;
    use crate::sync::{Arc, check};
    use loom::thread::spawn;
    use std::sync::atomic::AtomicBool as Switch;

    /// Two threads close the latch while a third acknowledges: once either close has returned, nothing is acknowledged
    /// that was not before, and every check fails with one and the same cause.
    #[test]
    fn loom_a_latch_that_was_closed_stays_closed() {
        check(|| {
            let poison = Arc::new(Poison::default());
            // Not loom's: it is the world outside, which orders nothing.
            let acknowledged = Arc::new(Switch::new(false));
            let acknowledges = {
                let (poison, acknowledged) = (Arc::clone(&poison), Arc::clone(&acknowledged));
                spawn(move || {
                    if let Err(error) = poison.check() {
                        let told = error.to_string();
                        assert!(told.contains("one") || told.contains("other"), "closed without a cause: {told}");
                    }
                    poison.unless_set(|| acknowledged.store(true, Ordering::Relaxed)).is_some()
                })
            };
            let closes = {
                let poison = Arc::clone(&poison);
                spawn(move || {
                    poison.set(Error::new(ErrorKind::Io, "one"));
                    poison.check().expect_err("closed").to_string()
                })
            };
            poison.set(Error::new(ErrorKind::Io, "other"));
            let before = acknowledged.load(Ordering::Relaxed);
            let told = poison.check().expect_err("closed").to_string();
            assert_eq!(acknowledges.join().expect("no panic"), before, "acknowledged behind the latch");
            assert_eq!(acknowledged.load(Ordering::Relaxed), before, "acknowledged behind the latch");
            assert_eq!(closes.join().expect("no panic"), told, "two causes");
        });
    }
}
