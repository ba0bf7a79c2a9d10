//! How appends are slowed down when the flush or the merges fall behind, so that nobody is stopped at once and no queue
//! grows without bound.
//!
//! Pressure grows from 0 to 1 as the pool fills past [`Pool::bytes_soft`](crate::index::pool::Pool::bytes_soft), or as segments that are due to be merged grow
//! from `soft` to `hard`. From pressure the rate follows at which bytes are let through, and each append waits its turn
//! at that rate. At 1 by segments it waits for merges; at 1 by the pool, for the pool.
//!
//! Invariant: without pressure an append does no more than look at two numbers.

use crate::clock::Clock;
use crate::cold::standing::Standing;
use crate::error::Result;
use crate::index::Index;
use crate::sync::{Arc, AtomicU64, Ordering};
use std::time::Duration;

/// The rate at half of the pressure, in bytes a second.
const RATE: f64 = (64 << 20) as f64;
/// Shorter waits are left to add up.
const WAIT_MIN: Duration = Duration::from_millis(1);
/// No append waits longer than this for its turn.
const WAIT_MAX: Duration = Duration::from_millis(50);
/// How often an append that waits for merges looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// What an append is to do first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nothing.
    Now,
    /// Wait so long, and go.
    After(Duration),
    /// Wait so long, and ask again.
    Full(Duration, Behind),
}

/// What an append waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Behind {
    /// So many segments are due to be merged.
    Merges(usize),
    /// What is durable is not cold for so long.
    Cold(Duration),
}

/// Slows appends down.
pub struct Throttle {
    index: Arc<Index>,
    clock: Arc<dyn Clock>,
    standing: Arc<Standing>,
    /// Segments that are due to be merged from which on appends are slowed down, and at which none is taken.
    soft: usize,
    hard: usize,
    /// When the next append's turn is, in nanoseconds of the monotonic clock. Relaxed: it orders nothing.
    next: AtomicU64,
}

impl Throttle {
    /// A throttle for a store that merges `merge_width` segments at once.
    #[must_use]
    pub fn new(index: Arc<Index>, clock: Arc<dyn Clock>, merge_width: usize, standing: Arc<Standing>) -> Self {
        Self { index, clock, standing, soft: 2 * merge_width, hard: 6 * merge_width, next: AtomicU64::new(0) }
    }

    /// Fails if the store has gone on for too long without its cold store.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Cold`].
    pub(super) fn check_contact(&self) -> Result<()> {
        if self.standing.is_bounded() { self.standing.check_contact(self.clock.monotonic()) } else { Ok(()) }
    }

    /// What every append waits for at this moment, if it does.
    pub(super) fn behind(&self) -> Option<Behind> {
        let due = self.index.due_segments();
        if due >= self.hard {
            return Some(Behind::Merges(due));
        }
        if !self.standing.is_bounded() {
            return None;
        }
        let now = self.clock.monotonic();
        // Who ships may be waiting for an answer, and takes note of nothing meanwhile.
        self.standing.durable(self.index.watermark(), self.index.metrics.frame_bytes.get(), now);
        self.standing.is_behind(now).map(Behind::Cold)
    }

    /// The turn of an append of `bytes`.
    pub(super) fn turn(&self, bytes: usize) -> Turn {
        if let Some(behind) = self.behind() {
            return Turn::Full(LOOK_AGAIN, behind);
        }
        let pressure = self.pressure(self.index.due_segments());
        if pressure <= 0.0 {
            return Turn::Now;
        }
        let rate = RATE * (1.0 - pressure).max(0.01) / pressure;
        let cost = (bytes as f64 / rate * 1e9) as u64;
        let now = u64::try_from(self.clock.monotonic().as_nanos()).unwrap_or(u64::MAX);
        // Time that nobody used is not saved up, and what was let through before its turn is no debt for ever.
        let latest = now + WAIT_MAX.as_nanos() as u64;
        let next = |next: u64| Some(next.clamp(now, latest) + cost);
        let before = self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        let wait = Duration::from_nanos(before.unwrap_or(now).saturating_sub(now));
        if wait < WAIT_MIN { Turn::Now } else { Turn::After(wait.min(WAIT_MAX)) }
    }

    fn pressure(&self, due: usize) -> f64 {
        let of = |is: usize, soft: usize, hard: usize| is.saturating_sub(soft) as f64 / (hard - soft) as f64;
        let pool = &self.index.pool;
        of(due, self.soft, self.hard).max(of(pool.taken_about(), pool.bytes_soft(), pool.bytes_max()))
    }
}

#[cfg(all(test, not(everlog_loom)))]
mod tests {
    use super::*;
    use crate::clock::testing::Hand;
    use crate::index::testing::empty;

    fn throttle() -> (Throttle, Arc<Hand>, Arc<Index>) {
        let (index, clock) = (Arc::new(empty(1000)), Arc::new(Hand::default()));
        (Throttle::new(Arc::clone(&index), clock.clone(), 8, Arc::default()), clock, index)
    }

    #[test]
    fn without_pressure_nobody_waits() {
        let (throttle, _, index) = throttle();
        index.set_due_segments(16);
        assert!(index.pool.try_take(600));
        for _ in 0..1000 {
            assert_eq!(throttle.turn(1 << 30), Turn::Now);
        }
    }

    #[test]
    fn the_more_pressure_the_slower_and_no_faster_than_that() {
        let mut before = f64::INFINITY;
        for (due, taken) in [(17, 0), (24, 0), (0, 800), (40, 0), (47, 0), (0, 999)] {
            let (throttle, clock, index) = throttle();
            index.set_due_segments(due);
            assert!(index.pool.try_take(taken));
            let mut bytes = 0_u64;
            while clock.0.load(Ordering::Relaxed) < 2_000_000_000 {
                match throttle.turn(4096) {
                    Turn::After(wait) => clock.0.fetch_add(wait.as_nanos() as u64, Ordering::Relaxed),
                    turn => {
                        assert_eq!(turn, Turn::Now);
                        0
                    }
                };
                bytes += 4096;
            }
            let rate = bytes as f64 / 2.0;
            assert!(rate <= before * 1.01 && rate > 1e5, "{due} segments, {taken} bytes: {rate} after {before}");
            before = rate;
        }
    }

    #[test]
    fn a_crowd_leaves_no_debt_behind() {
        let (throttle, clock, index) = throttle();
        index.set_due_segments(47);
        for _ in 0..10_000 {
            throttle.turn(1 << 20);
        }
        index.set_due_segments(17);
        clock.0.fetch_add(3_000_000_000, Ordering::Relaxed);
        assert_eq!(throttle.turn(4096), Turn::Now);
    }

    #[test]
    fn nothing_is_taken_when_far_too_many_segments_wait() {
        let (throttle, _, index) = throttle();
        index.set_due_segments(48);
        assert_eq!(throttle.turn(1), Turn::Full(LOOK_AGAIN, Behind::Merges(48)));
        index.set_due_segments(3);
        assert_eq!(throttle.turn(1), Turn::Now);
    }
}
