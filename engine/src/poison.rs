//! The latch that stops acknowledgements after a failed journal or manifest write or sync.
//!
//! Invariant: once [`Poison::set`] has returned, [`Poison::check`] fails for ever, with the first cause. A poisoned
//! store keeps serving reads; only opening it again clears the latch, since only recovery can tell what the disk holds.

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
