//! How fast merges read while appends come in, so that what is appended gets the disk and the processors first.
//!
//! The budget is for when there is time. It gives way where keeping to it would do harm or spare nobody: when another
//! merge is due, since appends are slowed down in the end if merges fall behind, and when nobody has appended for a while.

use crate::types::Lsn;
use std::time::Duration;

/// Appends are taken to go on for so long after one.
const APPENDS_GO_ON: Duration = Duration::from_secs(1);

/// The pace of a store's merges.
pub(super) struct Pace {
    /// Of one merge, in bytes a second; 0: there is no budget.
    budget: u64,
    /// By the monotonic clock: what was read before is paid for then.
    not_before: Duration,
    /// What was durable when it was last asked.
    watermark: Lsn,
    /// By the monotonic clock: when that was first seen; None before anything was appended.
    appended: Option<Duration>,
}

impl Pace {
    pub(super) fn new(budget: u64) -> Self {
        Self { budget, not_before: Duration::ZERO, watermark: Lsn(0), appended: None }
    }

    /// A step that began at `began` read so many bytes, with so many merges under way: those that wait for the smallest of
    /// them lend it their budgets, so that they have to wait the less.
    pub(super) fn spend(&mut self, began: Duration, bytes: u64, merges: usize) {
        let budget = self.budget.saturating_mul(merges as u64);
        let cost = bytes.saturating_mul(1_000_000_000).checked_div(budget).unwrap_or(0);
        self.not_before = self.not_before.max(began) + Duration::from_nanos(cost);
    }

    /// How long the next step has to wait, with so many segments due to be merged beside those that are being merged.
    pub(super) fn wait(&mut self, now: Duration, watermark: Lsn, due: usize) -> Duration {
        if std::mem::replace(&mut self.watermark, watermark) < watermark {
            self.appended = Some(now);
        }
        let is_busy = self.appended.is_some_and(|at| now - at < APPENDS_GO_ON);
        if !is_busy || due > 0 {
            self.not_before = now;
        }
        self.not_before.saturating_sub(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// How long 100 steps of a MiB take that take 1 ms each, with an append before each of so many and so many segments due.
    fn steps(budget: u64, merges: usize, appends: usize, due: usize) -> Duration {
        let (mut pace, mut now, mut watermark) = (Pace::new(budget), Duration::from_secs(5), Lsn(7));
        pace.wait(now, watermark, 0);
        now += APPENDS_GO_ON;
        let start = now;
        for n in 0..100 {
            now += Duration::from_millis(1);
            watermark.0 += u64::from(n % appends == 0);
            pace.spend(now - Duration::from_millis(1), MIB, merges);
            now += pace.wait(now, watermark, due);
        }
        now - start
    }

    #[test]
    fn the_budget_is_kept_while_appends_come_in_and_nothing_else_is_due() {
        assert_eq!(steps(100 * MIB, 1, 1, 0), Duration::from_secs(1));
        assert_eq!(steps(100 * MIB, 1, 50, 0), Duration::from_secs(1), "appends are rarer than steps");
        assert_eq!(steps(100 * MIB, 2, 1, 0), Duration::from_millis(500), "one of two waits");
        assert_eq!(steps(0, 1, 1, 0), Duration::from_millis(100));
        assert_eq!(steps(1000 * MIB, 1, 1, 0), Duration::from_millis(100), "slower than its budget");
        assert_eq!(steps(100 * MIB, 1, 1, 8), Duration::from_millis(100), "others are due");
    }

    #[test]
    fn nothing_is_spared_when_nobody_appends() {
        let (mut pace, begin) = (Pace::new(MIB), Duration::from_secs(5));
        pace.wait(begin, Lsn(7), 0);
        pace.spend(begin, 9 * MIB, 1);
        assert_eq!(pace.wait(begin, Lsn(7), 0), Duration::from_secs(9));
        assert_eq!(pace.wait(begin + APPENDS_GO_ON, Lsn(7), 0), Duration::ZERO);
    }

    #[test]
    fn time_in_which_nothing_was_read_is_not_saved_up_and_a_debt_is_forgiven_when_others_are_due() {
        let mut pace = Pace::new(MIB);
        pace.spend(Duration::from_secs(1), 3 * MIB, 1);
        assert_eq!(pace.wait(Duration::from_secs(2), Lsn(1), 0), Duration::from_secs(2));
        assert_eq!(pace.wait(Duration::from_secs(3), Lsn(2), 8), Duration::ZERO);
        assert_eq!(pace.wait(Duration::from_secs(3), Lsn(3), 0), Duration::ZERO);
        pace.spend(Duration::from_secs(100), MIB, 1);
        assert_eq!(pace.wait(Duration::from_secs(100), Lsn(4), 0), Duration::from_secs(1));
    }
}
