//! Which of the segments that lie in a cold store make up a store: pure functions.

use super::tails::Span;
use crate::cold::history::{History, timeline_at};
use crate::cold::segments::Described;
use crate::format::manifest::{TimelineCause, TimelineStart};
use crate::types::{Lsn, Timeline};
use std::cmp::{Ordering, Reverse};
use std::collections::BTreeMap;

/// The history that the newest owner's tails and segments tell of: timelines, oldest first. `spans` are those of the newest
/// epochs, newest first.
///
/// Tails tell which history is the newest one's, by their epochs. Where they leave it open, a history that begins behind a
/// restore prevails over one that went on beside it, since whoever is restored takes the store over; then the later one.
#[must_use]
pub fn history(segments: &[Described], spans: &[Span]) -> Vec<TimelineStart> {
    let agrees = |segment: &&Described| {
        spans.iter().flat_map(|span| &span.turns).all(|turn| {
            segment.meta.last_lsn < turn.first_lsn
                || timeline_at(&segment.origin.ancestry, turn.first_lsn) == turn.timeline
        })
    };
    let told = segments.iter().filter(agrees).map(|segment| &segment.origin.ancestry);
    let mut timelines = told.max_by(|a, b| newer(a, b)).cloned().unwrap_or_default();
    for turn in spans.iter().rev().flat_map(|span| span.turns.iter().rev()) {
        if timelines.iter().any(|start| start.timeline == turn.timeline) {
            continue;
        }
        timelines.retain(|start| start.first_lsn < turn.first_lsn);
        let parent = timelines.last().map(|start| start.timeline).unwrap_or_default();
        timelines.push(TimelineStart {
            timeline: turn.timeline,
            parent,
            first_lsn: turn.first_lsn,
            began: turn.time,
            cause: TimelineCause::Open,
        });
    }
    timelines
}

/// Which of two histories is the newer one.
fn newer(a: &[TimelineStart], b: &[TimelineStart]) -> Ordering {
    let key = |start: &TimelineStart| {
        let is_restored = matches!(start.cause, TimelineCause::Heal | TimelineCause::Rewind);
        (is_restored, start.began, start.timeline.counter, start.timeline.random)
    };
    let parted = a.iter().zip(b).find(|(a, b)| a.timeline != b.timeline);
    parted.map_or(a.len().cmp(&b.len()), |(a, b)| key(a).cmp(&key(b)))
}

/// Whether all that a segment holds is part of the history.
#[must_use]
pub fn is_of(history: &History, segment: &Described) -> bool {
    let last = segment.meta.last_lsn;
    let timeline = timeline_at(&segment.origin.ancestry, last);
    timeline != Timeline::default() && history.holds(timeline, last)
}

/// Segments of one history that follow one another from LSN 1 on and reach as far as any do; of several ways the one that
/// merges left last.
#[must_use]
pub fn cover<'a>(segments: impl Iterator<Item = &'a Described>) -> Vec<&'a Described> {
    let mut segments: Vec<_> = segments.collect();
    segments.sort_by_key(|segment| Reverse(segment.meta.first_lsn));
    // By the first LSN: how far one comes from there, and by which segment.
    let mut best: BTreeMap<Lsn, (Lsn, &Described)> = BTreeMap::new();
    for segment in segments {
        let (first, last) = (segment.meta.first_lsn, segment.meta.last_lsn);
        let reach = best.get(&last.next()).map_or(last, |(reach, _)| *reach);
        let rank = |reach, segment: &Described| (reach, segment.meta.last_lsn, segment.meta.id);
        if best.get(&first).is_none_or(|(before, by)| rank(reach, segment) > rank(*before, by)) {
            best.insert(first, (reach, segment));
        }
    }
    let (mut cover, mut at) = (Vec::new(), Lsn(1));
    while let Some((_, segment)) = best.get(&at) {
        cover.push(*segment);
        at = segment.meta.last_lsn.next();
    }
    cover
}
