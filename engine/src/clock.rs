//! Time, as the engine sees it: a wall clock for stamps and a monotonic one for intervals.
//!
//! Stamps are advisory. Nothing is ordered by them and nothing is deleted by them.

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
