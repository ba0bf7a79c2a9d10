//! A clock moved by hand.
//!
//! It does not run by itself: time passes when the test says so. Invariant: the monotonic clock never goes back, the
//! wall clock goes wherever it is sent.

use everlog::clock::Clock;
use everlog::types::TimeUs;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// A simulated clock. Both atomics are Relaxed: they are numbers, nothing is published through them.
#[derive(Debug)]
pub struct SimClock {
    wall_us: AtomicU64,
    monotonic_us: AtomicU64,
}

impl Default for SimClock {
    /// A clock at a fixed moment of November 2026.
    fn default() -> Self {
        Self { wall_us: AtomicU64::new(1_795_000_000_000_000), monotonic_us: AtomicU64::new(1_000_000) }
    }
}

impl SimClock {
    /// Lets `time` pass on both clocks.
    pub fn advance(&self, time: Duration) {
        let us = u64::try_from(time.as_micros()).expect("a simulation lasts less than half a million years");
        self.wall_us.fetch_add(us, Ordering::Relaxed);
        self.monotonic_us.fetch_add(us, Ordering::Relaxed);
    }

    /// Sets the wall clock, as an operator or a bad time server does; the monotonic one is not moved.
    pub fn set_wall(&self, wall: TimeUs) {
        self.wall_us.store(wall.0, Ordering::Relaxed);
    }

    /// The monotonic clock begins anew, as after a reboot.
    pub fn reboot(&self) {
        self.monotonic_us.store(0, Ordering::Relaxed);
    }
}

impl Clock for SimClock {
    fn wall(&self) -> TimeUs {
        TimeUs(self.wall_us.load(Ordering::Relaxed))
    }

    fn monotonic(&self) -> Duration {
        Duration::from_micros(self.monotonic_us.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_passes_only_when_told_and_only_the_wall_jumps() {
        let clock = SimClock::default();
        let (wall, monotonic) = (clock.wall(), clock.monotonic());
        assert_eq!((clock.wall(), clock.monotonic()), (wall, monotonic));
        clock.advance(Duration::from_millis(3));
        assert_eq!(clock.wall().0, wall.0 + 3000);
        assert_eq!(clock.monotonic(), monotonic + Duration::from_millis(3));
        clock.set_wall(TimeUs(7));
        assert_eq!(clock.wall(), TimeUs(7));
        assert_eq!(clock.monotonic(), monotonic + Duration::from_millis(3));
    }
}
