//! How far cold stores are behind: what became durable here when, in marks of about a second.
//!
//! Invariants: there are a bounded number of marks, however long a cold store is away; a lag is never told longer than it is,
//! and at most by the time between two marks too short.

use crate::types::Lsn;
use std::collections::VecDeque;
use std::time::Duration;

/// Beyond so many, every second mark is given up.
const MARKS_MAX: usize = 4096;

/// When how much was durable.
#[derive(Debug, Default)]
pub struct Lag {
    marks: VecDeque<Mark>,
}

#[derive(Clone, Copy, Debug)]
struct Mark {
    lsn: Lsn,
    /// Of frames, since the open.
    bytes: u64,
    at: Duration,
}

impl Lag {
    /// Everything up to `lsn`, `bytes` of frames since the open, is durable at `now`, by the monotonic clock. Cold stores
    /// have all up to `passed`.
    pub fn note(&mut self, lsn: Lsn, bytes: u64, now: Duration, passed: Lsn) {
        if self.marks.back().is_some_and(|mark| mark.lsn >= lsn) {
            return;
        }
        // One that is passed stays, to count from.
        while self.marks.get(1).is_some_and(|mark| mark.lsn <= passed) {
            self.marks.pop_front();
        }
        if self.marks.len() == MARKS_MAX {
            let mut n = 0;
            self.marks.retain(|_| {
                n += 1;
                n % 2 == 1
            });
        }
        // Who looked before another one may come behind it.
        let bytes = bytes.max(self.marks.back().map_or(0, |mark| mark.bytes));
        self.marks.push_back(Mark { lsn, bytes, at: now });
    }

    /// How long the first of what is durable and not in a cold store that has all up to `verified` is durable at `now`, and
    /// how many bytes of frames that is.
    #[must_use]
    pub fn of(&self, verified: Lsn, now: Duration) -> (Duration, u64) {
        let first = self.marks.partition_point(|mark| mark.lsn <= verified);
        let (Some(mark), Some(last)) = (self.marks.get(first), self.marks.back()) else { return Default::default() };
        let passed = first.checked_sub(1).map_or(0, |before| self.marks[before].bytes);
        (now.saturating_sub(mark.at), last.bytes - passed)
    }
}

#[cfg(all(test, not(everlog_loom)))]
mod tests {
    use super::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    #[test]
    fn what_is_behind_is_told_in_time_and_bytes() {
        let mut lag = Lag::default();
        assert_eq!(lag.of(Lsn(0), seconds(9)), (Duration::ZERO, 0));
        for n in 1..=5 {
            lag.note(Lsn(10 * n), 100 * n, seconds(n), Lsn(0));
        }
        assert_eq!(lag.of(Lsn(0), seconds(7)), (seconds(6), 500));
        assert_eq!(lag.of(Lsn(20), seconds(7)), (seconds(4), 300));
        assert_eq!(lag.of(Lsn(25), seconds(7)), (seconds(4), 300));
        assert_eq!(lag.of(Lsn(50), seconds(7)), (Duration::ZERO, 0));
        lag.note(Lsn(50), 500, seconds(8), Lsn(50));
        assert_eq!(lag.of(Lsn(50), seconds(60)), (Duration::ZERO, 0), "nothing came since");
        lag.note(Lsn(51), 600, seconds(60), Lsn(50));
        assert_eq!(lag.of(Lsn(50), seconds(61)), (seconds(1), 100));
    }

    #[test]
    fn marks_are_bounded_and_the_first_of_what_is_behind_stays() {
        let mut lag = Lag::default();
        for n in 1..=100_000 {
            lag.note(Lsn(n), n, seconds(n), Lsn(0));
            assert!(lag.marks.len() <= MARKS_MAX);
        }
        assert_eq!(lag.of(Lsn(0), seconds(100_000)), (seconds(99_999), 100_000));
        lag.note(Lsn(100_001), 100_001, seconds(100_001), Lsn(100_000));
        assert_eq!(lag.marks.len(), 2);
    }
}
