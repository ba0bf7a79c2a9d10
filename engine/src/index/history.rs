//! A log's history as its list of timelines tells it: which timeline a position belongs to, and where a cursor and the
//! log part.
//!
//! Pure. Invariant: a cursor is valid if and only if its seq is not past the log's end and the record before it was
//! written by its timeline; the position before the first record belongs to timeline zero and is always valid.

use crate::error::{Error, ErrorKind, Result};
use crate::format::manifest::{TimelineCause, TimelineStart};
use crate::types::{Cursor, Lsn, Seq, Timeline};

/// The timeline of the record before `seq`; None if it is so old that the list does not tell.
fn timeline_before(timelines: &[(Timeline, Seq)], seq: Seq) -> Option<Timeline> {
    let Some(before) = seq.0.checked_sub(1) else { return Some(Timeline::default()) };
    timelines.iter().rev().find(|(_, first)| first.0 <= before).map(|(timeline, _)| *timeline)
}

/// The cursor at `seq`. Where the list no longer tells the timeline, it is the zero one, which is valid at 0 alone.
#[must_use]
pub fn cursor(timelines: &[(Timeline, Seq)], seq: Seq) -> Cursor {
    Cursor { timeline: timeline_before(timelines, seq).unwrap_or_default(), seq: seq.0 }
}

/// Checks `cursor` against a log that ends at `end`.
///
/// # Errors
/// [`ErrorKind::Rewound`], with the cut.
pub fn check(timelines: &[(Timeline, Seq)], end: Seq, cursor: Cursor) -> Result<()> {
    if cursor.seq <= end.0 && timeline_before(timelines, Seq(cursor.seq)) == Some(cursor.timeline) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Rewound, format!("the log's history does not lead through {cursor}"))
        .cut_at(cut(timelines, end, cursor))
        .remedy("go on from the cut, and append again what is missing behind it"))
}

/// Whether `cursor` is known to be of another history, of a log that keeps nothing before it any more: the list reaches
/// back so far, and tells another timeline.
#[must_use]
pub fn is_elsewhere(timelines: &[(Timeline, Seq)], cursor: Cursor) -> bool {
    cursor.seq > 0 && timeline_before(timelines, Seq(cursor.seq)).is_some_and(|timeline| timeline != cursor.timeline)
}

/// Whether a store with these timelines, oldest first, has all that was durable up to `lsn` when that was told on
/// `timeline`: nothing has cut it off since.
#[must_use]
pub fn leads_through(timelines: &[TimelineStart], timeline: Timeline, lsn: Lsn) -> bool {
    let Some(at) = timelines.iter().position(|start| start.timeline == timeline) else { return false };
    timelines[at + 1..].iter().all(|later| lsn < later.first_lsn)
}

/// Where the history of `cursor` and the log's part: where its timeline ends in the log. If the log has nothing of it,
/// its first record is all that can be said: the counters of two histories grow alike, so that they tell neither which
/// timelines were before it nor which of the log's own are among them.
fn cut(timelines: &[(Timeline, Seq)], end: Seq, cursor: Cursor) -> Cursor {
    let Some(at) = timelines.iter().position(|(timeline, _)| *timeline == cursor.timeline) else {
        return Cursor::default();
    };
    let seq = timelines.get(at + 1).map_or(end, |(_, first)| *first).min(end).min(Seq(cursor.seq));
    self::cursor(timelines, seq)
}

/// Whether a store with these timelines, oldest first, was taken back on purpose after `timeline`, so that what was written
/// on that one past its end, or on one that followed, is not wanted any more. Of two restores in a row, either may be the
/// one that did it.
///
/// A timeline that the store does not know was cut off by one whose counter is no higher, as both began with the same
/// ones. The newest restore among those is taken for it: one before that the unknown timeline may as well come from.
#[must_use]
pub fn was_taken_back(timelines: &[TimelineStart], timeline: Timeline) -> bool {
    let is_restore = |start: &TimelineStart| matches!(start.cause, TimelineCause::Heal | TimelineCause::Rewind);
    let may_cut_off = |start: &TimelineStart| start.timeline.counter <= timeline.counter && is_restore(start);
    let first = match timelines.iter().position(|start| start.timeline == timeline) {
        Some(at) => at + 1,
        None => timelines.iter().rposition(may_cut_off).unwrap_or(0),
    };
    timelines[first..].iter().any(|start| start.cause == TimelineCause::Rewind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Lsn, TimeUs};

    fn line(counter: u32, random: u32) -> Timeline {
        Timeline { counter, random }
    }

    fn at(counter: u32, random: u32, seq: u64) -> Cursor {
        Cursor { timeline: line(counter, random), seq }
    }

    /// Seqs 0–4 by 1, 5–9 by 3, 10 and 11 by 4.
    fn history() -> Vec<(Timeline, Seq)> {
        vec![(line(1, 10), Seq(0)), (line(3, 30), Seq(5)), (line(4, 40), Seq(10))]
    }

    #[test]
    fn a_position_belongs_to_the_timeline_of_the_record_before_it() {
        let list = history();
        for (seq, expected) in [
            (0, Timeline::default()),
            (1, line(1, 10)),
            (5, line(1, 10)),
            (6, line(3, 30)),
            (10, line(3, 30)),
            (12, line(4, 40)),
        ] {
            assert_eq!(cursor(&list, Seq(seq)), Cursor { timeline: expected, seq });
            check(&list, Seq(12), Cursor { timeline: expected, seq }).expect("a cursor of the log's own");
        }
    }

    #[test]
    fn a_cursor_of_another_history_gets_the_place_where_they_part() {
        let list = history();
        for (cursor, cut) in [
            // Timeline 1 went on to 8, and all but its first five records are gone.
            (at(1, 10, 8), at(1, 10, 5)),
            // Past the end of the newest one.
            (at(4, 40, 13), at(4, 40, 12)),
            // Nothing of it is left, so that nobody knows what was before it; also where a counter was drawn twice.
            (at(2, 20, 7), Cursor::default()),
            (at(3, 31, 9), Cursor::default()),
            (at(9, 90, 40), Cursor::default()),
            (at(0, 0, 3), Cursor::default()),
        ] {
            let error = check(&list, Seq(12), cursor).expect_err("another history");
            assert_eq!((error.kind(), error.cut()), (ErrorKind::Rewound, Some(cut)), "{cursor}");
            check(&list, Seq(12), cut).expect("the cut is a cursor of the log's own");
        }
    }

    #[test]
    fn of_what_is_given_up_only_another_history_is_told_apart() {
        let list = &history()[1..];
        for (cursor, expected) in [
            (at(3, 30, 7), false),
            (at(3, 31, 7), true),
            (at(4, 40, 7), true),
            // So old that the list does not tell, and where every history begins.
            (at(9, 90, 5), false),
            (at(9, 90, 0), false),
        ] {
            assert_eq!(is_elsewhere(list, cursor), expected, "{cursor}");
        }
    }

    #[test]
    fn what_was_durable_is_there_unless_a_later_timeline_began_before_it() {
        let mut starts = began(&[TimelineCause::Creation, TimelineCause::Open, TimelineCause::Heal]);
        for (start, first) in starts.iter_mut().zip([1, 10, 15]) {
            start.first_lsn = Lsn(first);
        }
        for (timeline, lsn, expected) in [
            (line(1, 10), 9, true),
            (line(1, 10), 10, false),
            (line(2, 20), 9, true),
            (line(2, 20), 14, true),
            (line(2, 20), 15, false),
            (line(3, 30), 99, true),
            (line(2, 21), 3, false),
        ] {
            assert_eq!(leads_through(&starts, timeline, Lsn(lsn)), expected, "{timeline} {lsn}");
        }
    }

    #[test]
    fn a_list_that_lost_its_beginning_validates_nothing_there() {
        let list = &history()[1..];
        assert!(check(list, Seq(12), at(1, 10, 3)).is_err());
        assert!(check(list, Seq(12), at(0, 0, 3)).is_err());
        check(list, Seq(12), at(3, 30, 7)).expect("known");
    }

    #[test]
    fn an_empty_log_has_one_cursor() {
        check(&[], Seq(0), Cursor::default()).expect("the start");
        let error = check(&[], Seq(0), at(2, 20, 4)).expect_err("another history");
        assert_eq!(error.cut(), Some(Cursor::default()));
    }

    /// Timelines that began so, with the counters 1, 2, … and ten times that as random bits.
    fn began(causes: &[TimelineCause]) -> Vec<TimelineStart> {
        let start = |(counter, cause): (u32, &TimelineCause)| TimelineStart {
            timeline: line(counter, counter * 10),
            parent: Timeline::default(),
            first_lsn: Lsn(0),
            began: TimeUs(0),
            cause: *cause,
        };
        (1..).zip(causes).map(start).collect()
    }

    #[test]
    fn the_restore_that_cut_a_history_off_tells_what_becomes_of_it() {
        use TimelineCause::{Creation, Heal, Open, Rewind};
        let healed = began(&[Creation, Open, Heal, Open]);
        let rewound = began(&[Creation, Open, Rewind, Open, Open]);
        let both = began(&[Creation, Rewind, Open, Heal, Open]);
        for (history, timeline, expected) in [
            (&healed, line(2, 20), false),
            (&healed, line(3, 31), false),
            (&rewound, line(2, 20), true),
            // The server went on for some opens before it was taken back.
            (&rewound, line(3, 31), true),
            (&rewound, line(4, 41), true),
            (&rewound, line(9, 90), true),
            // What began after that is cut off by nothing.
            (&rewound, line(3, 30), false),
            (&rewound, line(5, 50), false),
            // A loss long before it.
            (&rewound, line(1, 11), true),
            // Two restores: the newer one cut off what was written between them, both what was before.
            (&both, line(1, 10), true),
            (&both, line(3, 30), false),
            (&both, line(4, 41), false),
            (&both, line(2, 21), true),
        ] {
            assert_eq!(was_taken_back(history, timeline), expected, "{timeline}");
        }
        assert!(!was_taken_back(&[], line(1, 10)));
    }
}
