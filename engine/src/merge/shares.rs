//! How much of each segment may be left out, as far as it was looked at, and when it is worth rewriting it for that.
//!
//! Pure. A segment is not rewritten while more and more of it dies, as when many logs are deleted one after the other: what
//! is rewritten too early keeps the rest until that is much again. Invariant: of a segment that is more than half dead, or
//! much of which is dead and no more than before, one hears at the next look.

use crate::format::manifest::Mark;
use crate::types::{SegmentId, TimeUs};
use std::collections::BTreeMap;

/// A segment is rewritten once so much of it may be left out, and that does not grow any more.
pub(super) const DEAD_SHARE: f64 = 0.3;
/// It is rewritten in any case once this much may be left out: that gives back more than it copies.
const MOSTLY_DEAD: f64 = 0.5;
/// By so much a share grows, or it stands still.
const GROWTH: f64 = 0.05;

/// What was seen of the segments.
#[derive(Debug, Default)]
pub(super) struct Shares {
    looks: BTreeMap<SegmentId, Look>,
}

#[derive(Clone, Copy, Debug)]
struct Look {
    /// What the grace was over for.
    cutoff: Mark,
    /// The share that may be left out, when it had last grown.
    share: f64,
    /// When that was; None if it was never seen to grow.
    grew: Option<TimeUs>,
    /// Until when it is waited for it to grow on, if it is worth rewriting but for that.
    waits: Option<TimeUs>,
}

impl Shares {
    /// Whether the segment is to be looked at: the grace is over for more than before, or its share has been waited for.
    pub(super) fn is_due(&self, id: SegmentId, cutoff: Mark, now: TimeUs) -> bool {
        self.looks.get(&id).is_none_or(|look| {
            let over = look.waits.is_some_and(|until| until <= now);
            look.cutoff.lsn < cutoff.lsn || look.cutoff.time < cutoff.time || over
        })
    }

    /// Forgets the segments for which `is_there` does not hold.
    pub(super) fn retain(&mut self, is_there: impl Fn(SegmentId) -> bool) {
        self.looks.retain(|id, _| is_there(*id));
    }

    /// Forgets a segment, so that it is looked at again.
    pub(super) fn forget(&mut self, id: SegmentId) {
        self.looks.remove(&id);
    }

    /// At `now`, once the grace was over for `cutoff`, so much of the segment may be left out. True if it is worth rewriting:
    /// if the share has not grown for `patience_us`, or is high.
    pub(super) fn note(&mut self, id: SegmentId, cutoff: Mark, share: f64, now: TimeUs, patience_us: u64) -> bool {
        let (share_then, grew) = match self.looks.get(&id) {
            None => (share, None),
            Some(before) if share < before.share + GROWTH => (before.share, before.grew),
            Some(_) => (share, Some(now)),
        };
        let until = grew.map(|grew| TimeUs(grew.0.saturating_add(patience_us))).filter(|until| now < *until);
        let waits = until.filter(|_| (DEAD_SHARE..MOSTLY_DEAD).contains(&share));
        self.looks.insert(id, Look { cutoff, share: share_then, grew, waits });
        share >= DEAD_SHARE && waits.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE_US: u64 = 100;

    /// Looks at one segment at each time with each share, and gives when it is worth rewriting first.
    fn rewritten(looks: impl IntoIterator<Item = (u64, f64)>) -> Option<(u64, f64)> {
        let mut shares = Shares::default();
        looks
            .into_iter()
            .find(|(now, share)| shares.note(SegmentId(1), Mark::default(), *share, TimeUs(*now), PATIENCE_US))
    }

    #[test]
    fn a_segment_is_rewritten_when_its_dead_share_stands_still_or_is_high() {
        assert_eq!(rewritten([(0, 0.3)]), Some((0, 0.3)), "nothing says that it grows");
        assert_eq!(rewritten((0..9).map(|n| (n * 1000, 0.29))), None);
        // It grows to 40 % in a while, and stays there.
        let bulk = (0..100).map(|n| (10 * n, (n as f64 / 100.0).min(0.4)));
        let (at, share) = rewritten(bulk).expect("it stands still");
        assert!((0.39..=0.4).contains(&share) && at > 400, "{share} at {at}");
        // It never stands still.
        let (_, share) = rewritten((0..100).map(|n| (10 * n, n as f64 / 100.0))).expect("it is high");
        assert!((0.5..0.52).contains(&share), "{share}");
        // It grows so slowly that nothing is won by waiting.
        let (_, share) =
            rewritten((0..100).map(|n| (100 * n, n as f64 / 100.0))).expect("it stands still by and large");
        assert!((0.3..0.32).contains(&share), "{share}");
    }

    #[test]
    fn one_that_was_waited_for_is_looked_at_again_without_news() {
        // The second one reaches the mark by less than counts as growth.
        for shares_seen in [vec![0.0, 0.4], vec![0.0, 0.28, 0.31]] {
            let (mut shares, mut now) = (Shares::default(), 0);
            for share in &shares_seen {
                now += 10;
                assert!(
                    !shares.note(SegmentId(1), Mark::default(), *share, TimeUs(now), PATIENCE_US),
                    "{shares_seen:?}"
                );
            }
            let over = TimeUs(20 + PATIENCE_US);
            assert!(!shares.is_due(SegmentId(1), Mark::default(), TimeUs(over.0 - 1)), "{shares_seen:?}");
            assert!(shares.is_due(SegmentId(1), Mark::default(), over), "{shares_seen:?}");
            let share = shares_seen[shares_seen.len() - 1];
            assert!(shares.note(SegmentId(1), Mark::default(), share, over, PATIENCE_US), "{shares_seen:?}");
        }
    }

    #[test]
    fn one_that_was_forgotten_begins_anew() {
        let mut shares = Shares::default();
        for (now, share) in [(0, 0.0), (10, 0.4)] {
            assert!(!shares.note(SegmentId(1), Mark::default(), share, TimeUs(now), PATIENCE_US));
        }
        shares.forget(SegmentId(1));
        assert!(shares.is_due(SegmentId(1), Mark::default(), TimeUs(11)));
        assert!(shares.note(SegmentId(1), Mark::default(), 0.4, TimeUs(20), PATIENCE_US));
    }
}
