//! Whether this store's history has what a cold store has: by timelines, whose random bits no two histories share.

use crate::format::frame::FrameRef;
use crate::format::manifest::{Manifest, TimelineStart};
use crate::types::{Lsn, Timeline};

/// The history of an open store.
#[derive(Clone, Debug)]
pub struct History {
    timelines: Vec<TimelineStart>,
    flushed: FrameRef,
}

impl History {
    /// The history with these timelines, oldest first, the present one last, and what was flushed at its open.
    #[must_use]
    pub fn new(timelines: Vec<TimelineStart>, flushed: FrameRef) -> Self {
        Self { timelines, flushed }
    }

    /// The last frame that was flushed at the open.
    #[must_use]
    pub fn flushed(&self) -> FrameRef {
        self.flushed
    }

    /// The timelines, oldest first.
    #[must_use]
    pub fn timelines(&self) -> &[TimelineStart] {
        &self.timelines
    }

    /// Whether the entry `lsn`, written on `timeline`, is part of it. What was written on the present timeline is, since nobody
    /// else writes on it; so is what comes before all entries, LSN 0, on any of its timelines or on none.
    #[must_use]
    pub fn holds(&self, timeline: Timeline, lsn: Lsn) -> bool {
        let at = self.timelines.iter().position(|start| start.timeline == timeline);
        if lsn == Lsn(0) {
            return timeline == Timeline::default() || at.is_some();
        }
        // The next timeline begins behind the last entry of this one.
        at.is_some_and(|at| self.timelines.get(at + 1).is_none_or(|next| lsn < next.first_lsn))
    }

    /// Whether everything that a manifest says was flushed is part of it.
    #[must_use]
    pub fn holds_all(&self, manifest: &Manifest) -> bool {
        let last = manifest.flushed.last_lsn;
        self.holds(timeline_at(&manifest.timelines, last), last)
    }
}

/// The timeline of the entry `lsn` among `timelines`, oldest first.
#[must_use]
pub fn timeline_at(timelines: &[TimelineStart], lsn: Lsn) -> Timeline {
    timelines.iter().rev().find(|start| start.first_lsn <= lsn).map(|start| start.timeline).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::manifest::TimelineCause;
    use crate::types::TimeUs;

    fn start(random: u32, first_lsn: u64) -> TimelineStart {
        TimelineStart {
            timeline: Timeline { counter: random, random },
            parent: Timeline::default(),
            first_lsn: Lsn(first_lsn),
            began: TimeUs(0),
            cause: TimelineCause::Open,
        }
    }

    #[test]
    fn what_was_written_before_a_cut_or_elsewhere_is_not_part_of_it() {
        let history = History::new(vec![start(1, 1), start(2, 10), start(3, 10), start(4, 20)], FrameRef::default());
        let holds = |random, lsn| history.holds(Timeline { counter: random, random }, Lsn(lsn));
        assert!(holds(1, 1) && holds(1, 9) && !holds(1, 10), "10 was written again on a later timeline");
        assert!(!holds(2, 10), "it began, and nothing that it wrote is left");
        assert!(holds(3, 19) && !holds(3, 20));
        assert!(holds(4, 20) && holds(4, 1000));
        assert!(!holds(9, 5) && !holds(9, 0) && holds(0, 0) && holds(2, 0));
    }
}
