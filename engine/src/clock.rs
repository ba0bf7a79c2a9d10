//! Time, as the engine sees it: a wall clock for stamps and a monotonic one for intervals.
//!
//! Stamps of the wall clock are advisory: nothing is ordered by them and nothing is deleted by them. What may be given
//! back, and when, follows the steady clock.

use crate::sync::{Arc, AtomicU64, Ordering};
use crate::types::TimeUs;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// A source of time. Replaced in tests and in the simulation.
pub trait Clock: Send + Sync + 'static {
    /// The wall clock. May jump in both directions.
    fn wall(&self) -> TimeUs;
    /// Time since an arbitrary start; never goes back.
    fn monotonic(&self) -> Duration;
}

/// The operating system's clocks.
#[derive(Debug)]
pub struct SystemClock {
    start: Instant,
}

impl Default for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "the one home of the operating system's clocks")]
    fn default() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock for SystemClock {
    #[allow(clippy::disallowed_methods, reason = "the one home of the operating system's clocks")]
    fn wall(&self) -> TimeUs {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        TimeUs(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }
}

/// The steady clock: what grace and expiry follow, so that no jump of the wall clock shortens them.
///
/// It goes on from the last stamp on disk at the pace of the monotonic clock, and stands still while the store is closed:
/// what waits for it may come late, and never early. Its time is that of the wall clock at the store's creation on, and
/// catches up with that only when somebody vouches for it.
pub struct Steady {
    clock: Arc<dyn Clock>,
    base: TimeUs,
    started: Duration,
    /// By how many microseconds it was moved forward. Nothing else is published through it, so Relaxed.
    caught_up: AtomicU64,
}

impl Steady {
    /// The clock that goes on from `base`, the greatest stamp on disk.
    #[must_use]
    pub fn from(clock: Arc<dyn Clock>, base: TimeUs) -> Self {
        let started = clock.monotonic();
        Self { clock, base, started, caught_up: AtomicU64::new(0) }
    }

    /// Now. Never goes back.
    #[must_use]
    pub fn now(&self) -> TimeUs {
        TimeUs(self.kept().0.saturating_add(self.caught_up.load(Ordering::Relaxed)))
    }

    /// The time without what it was moved forward by.
    fn kept(&self) -> TimeUs {
        let passed = self.clock.monotonic().saturating_sub(self.started);
        TimeUs(self.base.0.saturating_add(u64::try_from(passed.as_micros()).unwrap_or(u64::MAX)))
    }

    /// Moves it forward to the wall clock, if it is behind. Gives its time before and after.
    pub fn catch_up(&self) -> (TimeUs, TimeUs) {
        let before = self.now();
        let behind = self.clock.wall().0.saturating_sub(self.kept().0);
        self.caught_up.fetch_max(behind, Ordering::Relaxed);
        (before, self.now().max(before))
    }
}

#[cfg(all(test, not(everlog_loom)))]
pub(crate) mod testing {
    use super::Clock;
    use crate::sync::{AtomicU64, Ordering};
    use crate::types::TimeUs;
    use std::time::Duration;

    /// A monotonic clock that is moved by hand, in nanoseconds; the wall clock stands at 0.
    #[derive(Default)]
    pub(crate) struct Hand(pub(crate) AtomicU64);

    impl Hand {
        pub(crate) fn set_secs(&self, seconds: u64) {
            self.0.store(seconds * 1_000_000_000, Ordering::Relaxed);
        }
    }

    impl Clock for Hand {
        fn wall(&self) -> TimeUs {
            TimeUs(0)
        }

        fn monotonic(&self) -> Duration {
            Duration::from_nanos(self.0.load(Ordering::Relaxed))
        }
    }
}
