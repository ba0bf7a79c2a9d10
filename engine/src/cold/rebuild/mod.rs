//! The newest version of the manifest, made again where none can be read: from segments, which describe themselves, and from
//! tails.
//!
//! Those segments count that are part of the newest owner's history (`cover.rs`): they follow one another from LSN 1 on, and the
//! tail goes on behind the last one (`tails.rs`). Each is read as a whole before it is named, since what no version named
//! may never have been read back. A segment that an older owner put late is known by its timelines, if the newest owner put
//! anything at all behind the place where both part; if not, nothing contradicts it.
//!
//! What cannot be made again: the cutoff, up to which merges may have acted on deletions, trims and expiries, is that of no
//! merge, so that what was deleted is kept as long as ever. A moment of the past before that may lack what merges left out.
//!
//! It writes nothing. Invariants: what it makes names only segments that are there whole, or of which nothing else has the
//! records; what two owners wrote is never mixed.

mod cover;
mod tails;

use super::history::History;
use super::segments::{Described, Listed, list, prove};
use super::{ColdStore, damaged, keys};
use crate::error::{Error, ErrorKind, Result};
use crate::format::cold::{Home, Version};
use crate::format::frame::FrameRef;
use crate::format::manifest::{Manifest, Mark};
use crate::manifest;
use crate::types::{Epoch, Lsn, SegmentId, TimeUs};
use std::collections::BTreeSet;
use tails::{Anchor, Span, Tails};

/// What was made again.
#[derive(Clone, Debug)]
pub struct Rebuilt {
    /// The version: of the newest epoch, under no number of its own.
    pub version: Version,
    /// Segments that count reach up to this LSN.
    pub reaches: Lsn,
    /// Segments that nothing can be known of, which may hold what is nowhere else.
    pub unread: Vec<Error>,
}

/// Makes the newest version again, of the owners up to that of epoch `newest`. None if there is neither a segment nor a tail.
///
/// # Errors
/// [`ErrorKind::Cold`]; [`ErrorKind::Refused`] if a later version of everlog wrote what is there.
pub fn rebuild(cold: &dyn ColdStore, home: &Home, newest: Epoch) -> Result<Option<Rebuilt>> {
    let nothing = Version {
        epoch: Epoch(1),
        number: 0,
        tail_from: (Epoch(1), 0),
        ends: Vec::new(),
        manifest: manifest::empty(&home.identity),
    };
    let Listed { segments, unread } = list(cold, home.identity.store)?;
    let tails = Tails::new(cold, home, newest, &nothing)?;
    let spans = spans(&tails, newest, &segments)?;
    if segments.is_empty() && spans.is_empty() && unread.is_empty() {
        return Ok(None);
    }
    let history = History::new(cover::history(&segments, &spans), FrameRef::default());
    let counting: Vec<&Described> = segments.iter().filter(|segment| cover::is_of(&history, segment)).collect();
    let reaches = counting.iter().map(|segment| segment.meta.last_lsn).max().unwrap_or_default();
    let (chosen, anchor) = choose(cold, &counting, &history, &tails, &spans)?;
    let flushed = anchor.flushed.last_lsn;
    let steady = spans.iter().map(|span| span.last.steady).max().unwrap_or_default().max(home.identity.created);
    let journals = spans.iter().map(|span| span.last.journal).max().unwrap_or_default().max(anchor.flushed.journal);
    let ids = segments.iter().map(|segment| segment.meta.id).chain(unread.iter().map(|(id, _)| *id));
    let manifest = Manifest {
        time: chosen.last().map_or(TimeUs(0), |segment| segment.meta.last_time),
        next_segment: ids.max().unwrap_or_default().next(),
        next_journal: journals.next(),
        flushed: anchor.flushed,
        steady,
        marks: marks(&spans, flushed),
        timelines: history.timelines().iter().filter(|start| start.first_lsn <= flushed.next()).copied().collect(),
        segments: chosen.iter().map(|segment| segment.meta.clone()).collect(),
        ..nothing.manifest
    };
    let known: BTreeSet<SegmentId> =
        segments.iter().flat_map(|segment| segment.origin.merged.iter().chain([&segment.meta.id])).copied().collect();
    let unread = unread.into_iter().filter(|(id, _)| !known.contains(id));
    Ok(Some(Rebuilt {
        version: Version { epoch: newest, number: 0, tail_from: anchor.from, ends: tails.ends, manifest },
        reaches,
        unread: unread.map(|(_, error)| error.lsns(flushed.0 + 1..u64::MAX)).collect(),
    }))
}

/// What the tails of the newest epochs hold, newest first, back to one whose history segments tell of.
fn spans(tails: &Tails<'_>, newest: Epoch, segments: &[Described]) -> Result<Vec<Span>> {
    let mut spans = Vec::new();
    for epoch in (1..=newest.0).rev().map(Epoch) {
        let Some(span) = tails.span(epoch)? else { continue };
        let timeline = span.last.timeline;
        spans.push(span);
        if segments.iter().any(|segment| segment.origin.ancestry.iter().any(|start| start.timeline == timeline)) {
            break;
        }
    }
    Ok(spans)
}

/// The segments that make up the store, each read as a whole, and where the tail goes on. One that is damaged is passed over if
/// others and the tail have what it holds.
fn choose<'a>(
    cold: &dyn ColdStore, counting: &[&'a Described], history: &History, tails: &Tails<'_>, spans: &[Span],
) -> Result<(Vec<&'a Described>, Anchor)> {
    let end = |chosen: &[&Described]| chosen.last().map_or(Lsn(0), |segment| segment.meta.last_lsn);
    let all = cover::cover(counting.iter().copied());
    let (mut sound, mut broken): (BTreeSet<_>, BTreeSet<_>) = Default::default();
    let name = |segment: &Described| (segment.meta.id, segment.meta.digest);
    let chosen = loop {
        let chosen = cover::cover(counting.iter().copied().filter(|segment| !broken.contains(&name(segment))));
        let Some(next) = chosen.iter().find(|segment| !sound.contains(&name(segment))) else { break chosen };
        match prove(cold, &next.meta, &mut |_| ()) {
            Ok(()) => sound.insert(name(next)),
            Err(error) if error.kind() == ErrorKind::Damaged => {
                tracing::warn!(%error, "a segment is damaged in its cold store");
                broken.insert(name(next))
            }
            Err(error) => return Err(error),
        };
    };
    let anchor = tails.anchor(end(&chosen), history, spans)?;
    let last = spans.first().map_or(Lsn(0), |span| span.last.last_lsn()).max(end(&all));
    if end(&chosen) == end(&all) || (anchor.is_known && tails.reach(&anchor)? >= last) {
        return Ok((chosen, anchor));
    }
    let anchor = tails.anchor(end(&all), history, spans)?;
    Ok((all, anchor))
}

/// By when entries were written, as far as tails tell.
fn marks(spans: &[Span], flushed: Lsn) -> Vec<Mark> {
    let mut marks: Vec<Mark> = Vec::new();
    for span in spans.iter().rev() {
        let mark = Mark { lsn: span.last.last_lsn(), time: span.last.steady };
        let last = marks.last().copied().unwrap_or_default();
        if mark.lsn < flushed && last.lsn < mark.lsn && last.time <= mark.time {
            marks.push(mark);
        }
    }
    let from = marks.len().saturating_sub(MARKS_KEPT);
    marks.split_off(from)
}

/// So many marks are enough; more come with the flushes behind.
const MARKS_KEPT: usize = 64;

/// What a restore that this was made for has lost, if it came to `last` and no further.
#[must_use]
pub fn lost(cold: &dyn ColdStore, reaches: Lsn, last: Lsn) -> Option<Error> {
    let what = "what lies between these segments and what comes before is missing";
    (last < reaches).then(|| damaged(cold.url(), keys::SEGMENTS, what).lsns(last.0 + 1..reaches.0 + 1))
}
