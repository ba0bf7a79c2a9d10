//! The grace: for how long what was given up is kept.
//!
//! What was deleted or trimmed can be taken back, and looked at as it was, for the time of the grace; afterwards merges
//! need not keep it. How long ago an LSN was written follows from the marks in the manifest: by which time of the steady
//! clock everything up to some LSN was written.
//!
//! Invariants: a cutoff never goes back, not over a restart with another grace either, since merges may have acted on it; a
//! deletion that a cutoff covers is never taken back, which is decided under the log's lock.

use crate::clock::Steady;
use crate::format::manifest::{MARKS_MAX, Manifest, Mark};
use crate::mutants::{self, Mutant};
use crate::sync::{AtomicU64, Ordering};
use crate::types::{Lsn, TimeUs};
use std::time::Duration;

/// So many marks lie within the grace: what waits for its end waits for this part of it longer at most.
const MARKS_PER_GRACE: u64 = 32;
const _: () = assert!((MARKS_PER_GRACE as usize + 2) * 2 < MARKS_MAX);

/// The grace of an open store.
pub struct Grace {
    steady: Steady,
    period_us: u64,
    /// The greatest cutoff that anybody was told, LSN and time: what was decided by an older version of the manifest stands.
    /// Both are put there with SeqCst, and order against the locks of the logs that are decided on.
    told: (AtomicU64, AtomicU64),
}

impl Grace {
    /// What is given up is kept for `period` of the steady clock.
    #[must_use]
    pub fn new(steady: Steady, period: Duration) -> Self {
        let period_us = u64::try_from(period.as_micros()).unwrap_or(u64::MAX);
        Self { steady, period_us, told: Default::default() }
    }

    /// The grace in microseconds.
    #[must_use]
    pub fn period_us(&self) -> u64 {
        self.period_us
    }

    /// The steady clock.
    #[must_use]
    pub fn now(&self) -> TimeUs {
        let ahead = if mutants::makes(Mutant::ClockAhead) { 3_600_000_000 } else { 0 };
        TimeUs(self.steady.now().0.saturating_add(ahead))
    }

    /// Moves the steady clock forward to the wall clock: [`Steady::catch_up`].
    pub fn catch_up(&self) -> (TimeUs, TimeUs) {
        self.steady.catch_up()
    }

    /// What the grace is over for: deletions and trims up to that LSN, and what expired up to that time. Nothing behind the
    /// LSN had become durable before the time, so that all of it is younger than what expired.
    #[must_use]
    pub fn cutoff(&self, manifest: &Manifest) -> Mark {
        // By this clock alone: after a crash it may be behind what an older cutoff says.
        let time = TimeUs(self.now().0.saturating_sub(self.period_us));
        // What the version says of itself is a mark as well.
        let newest = Mark { lsn: manifest.flushed.last_lsn, time: manifest.steady };
        let mut over = manifest.marks.iter().chain([&newest]).rev().skip_while(|mark| mark.time > time);
        let lsn = over.next().filter(|mark| TimeUs(0) < mark.time).map_or(Lsn(0), |mark| mark.lsn);
        // What lies behind a mark was not durable yet when the flush began that it is of, after the mark before. So nobody
        // but a flush stamps a version: a merge that did could come between the two.
        let time = over.find(|mark| mark.lsn < lsn).map_or(TimeUs(0), |mark| mark.time);
        let (lsn, time) = (lsn.max(manifest.cutoff.lsn), time.max(manifest.cutoff.time));
        let before = (self.told.0.fetch_max(lsn.0, Ordering::SeqCst), self.told.1.fetch_max(time.0, Ordering::SeqCst));
        Mark { lsn: lsn.max(Lsn(before.0)), time: time.max(TimeUs(before.1)) }
    }

    /// To be called with what is about to become a new version of the manifest, before it names what is flushed now: keeps
    /// as a mark what the version before says of itself, if that is needed, and lets go of marks that nobody asks for.
    pub fn mark(&self, manifest: &mut Manifest) {
        let (now, before) = (self.now(), Mark { lsn: manifest.flushed.last_lsn, time: manifest.steady });
        let over = self.cutoff(manifest).lsn;
        // The one before the cutoff tells what had expired.
        let before_over = manifest.marks.partition_point(|mark| mark.lsn < over);
        manifest.marks.drain(..before_over.saturating_sub(1));
        let last = manifest.marks.last().copied().unwrap_or_default();
        let far = last.time.0.saturating_add(self.period_us / MARKS_PER_GRACE) <= before.time.0;
        // What a merge may have been told must be told again.
        let is_over = before.lsn == over;
        if before.lsn > last.lsn && (far || is_over) && manifest.marks.len() < MARKS_MAX {
            manifest.marks.push(before);
        }
        manifest.steady = manifest.steady.max(now);
    }
}

#[cfg(all(test, not(everlog_loom)))]
mod tests {
    use super::*;
    use crate::clock::testing::Hand;
    use crate::format::manifest::tests::sample;
    use crate::sync::Arc;

    #[test]
    fn what_was_told_by_an_older_version_stands() {
        let clock = Arc::new(Hand::default());
        let grace = Grace::new(Steady::from(clock.clone(), TimeUs(1)), Duration::from_secs(100));
        let older = Manifest { steady: TimeUs(1), cutoff: Mark::default(), marks: Vec::new(), ..sample() };
        clock.set_secs(99);
        let mut newer = older.clone();
        newer.marks = vec![Mark { lsn: Lsn(3), time: TimeUs(1) }];
        newer.flushed.last_lsn = Lsn(30);
        newer.steady = grace.now();
        clock.set_secs(101);
        assert_eq!(grace.cutoff(&older).lsn, older.flushed.last_lsn);
        assert_eq!(grace.cutoff(&newer).lsn, older.flushed.last_lsn);
    }

    #[test]
    fn a_clock_that_fell_behind_a_cutoff_begins_anew() {
        let clock = Arc::new(Hand::default());
        let grace = Grace::new(Steady::from(clock.clone(), TimeUs(1)), Duration::from_secs(100));
        let cutoff = Mark { lsn: Lsn(2), time: TimeUs(1 << 40) };
        let manifest = Manifest { steady: TimeUs(2), cutoff, marks: Vec::new(), ..sample() };
        assert_eq!(grace.cutoff(&manifest).lsn, Lsn(2), "what was written since is not older than the grace");
        clock.set_secs(101);
        assert_eq!(grace.cutoff(&manifest).lsn, manifest.flushed.last_lsn);
    }

    #[test]
    fn a_cutoff_is_never_early_never_goes_back_and_comes_within_a_part_of_the_grace() {
        const GRACE: u64 = 3200;
        let clock = Arc::new(Hand::default());
        let base = TimeUs(1_000_000_000);
        let grace = Grace::new(Steady::from(clock.clone(), base), Duration::from_secs(GRACE));
        let mut manifest = Manifest { steady: base, cutoff: Mark::default(), marks: Vec::new(), ..sample() };
        manifest.flushed.last_lsn = Lsn(0);
        // An LSN a second, flushed now and then, with a long rest in the middle.
        let (mut now, mut told, mut most) = (0u64, Lsn(0), 0);
        for step in 0..4000u64 {
            now += match step {
                2000 => 20 * GRACE,
                _ => 1 + step * 7919 % 40,
            };
            clock.set_secs(now);
            for flush in [false, true] {
                if flush && step % 3 == 0 {
                    grace.mark(&mut manifest);
                    manifest.flushed.last_lsn = Lsn(now);
                }
                let Mark { lsn: cutoff, time } = grace.cutoff(&manifest);
                let written = base.0 + (cutoff.0 + 1) * 1_000_000;
                assert!(time.0 <= written, "at {now}: {time:?} is later than what lies behind {cutoff}");
                assert!(cutoff.0 + GRACE <= now || cutoff == Lsn(0), "at {now}: {cutoff}");
                assert!(told <= cutoff, "at {now}: {cutoff} after {told}");
                if now > 2 * GRACE && step % 2000 > 500 {
                    assert!(cutoff.0 + GRACE + GRACE / 16 + 200 >= now, "at {now}: {cutoff} is late");
                }
                told = cutoff;
            }
            most = most.max(manifest.marks.len());
        }
        assert!(most <= 40, "{most} marks");
        // With a longer grace what a merge may have acted on stands.
        manifest.cutoff.lsn = told;
        let longer = Grace::new(Steady::from(clock, base), Duration::from_secs(9 * GRACE));
        assert_eq!(longer.cutoff(&manifest).lsn, told);
    }
}
