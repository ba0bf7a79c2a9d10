//! Every synchronisation primitive the engine uses, in one place: parking_lot, crossbeam, atomic-wait and the standard
//! library in production (`real.rs`), loom's models of them under `cfg(everlog_loom)` (`model.rs`).
//!
//! The engine's other modules import threads, locks, channels and atomics from here alone, so that a protocol file
//! compiles unchanged against the model checker. What it does not do: it holds no protocol but [`Event`], which is the
//! same code over both.

#[cfg(all(test, everlog_loom))]
mod check;
#[cfg(everlog_loom)]
mod model;
#[cfg(not(everlog_loom))]
mod real;

#[cfg(all(test, everlog_loom))]
pub use self::check::{check, check_to, quiet};
#[cfg(everlog_loom)]
pub use self::model::*;
#[cfg(not(everlog_loom))]
pub use self::real::*;

/// Locks that are no step of a model: for a disk in memory, which stands for a device. In production they are those of
/// everything else.
pub mod plain {
    pub use parking_lot::Mutex;
}

/// An event count: threads sleep on it until its next event, and one call wakes all that sleep.
///
/// A sleeper takes the count before it looks at what it waits for; an event in between then ends its sleep at once.
/// The count's Release in `happen` pairs with the Acquire in `count`.
#[derive(Debug, Default)]
pub struct Event {
    count: AtomicU32,
    bed: Bed,
}

impl Event {
    /// The number of events so far, to be given to [`Self::sleep`].
    #[must_use]
    pub fn count(&self) -> u32 {
        self.count.load(Ordering::Acquire)
    }

    /// Sleeps unless more than `seen` events have happened. It may also return early.
    pub fn sleep(&self, seen: u32) {
        self.bed.sleep(&self.count, seen);
    }

    /// An event happens: all sleepers are woken, in one call to the system.
    pub fn happen(&self) {
        self.count.fetch_add(1, Ordering::Release);
        self.bed.wake_all(&self.count);
    }
}
