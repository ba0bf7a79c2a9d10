//! A log's state as it was at an LSN or a time.
//!
//! What memory holds of the log is carried out on its state as of the last flush, where the moment lies behind that.
//! Where it lies before, the state is looked up in the segments that lie wholly at or before the moment, as at a first touch,
//! and the log's entries of the one segment that the moment falls into are carried out on it, chunk by chunk. A set of
//! segments is held meanwhile, so that no merge takes anything away.
//!
//! Merges left out of those entries what had ended by the cutoff. The moment lies at or behind it, or is refused, so that
//! what is missing had ended by then as well: records below what the log kept, and everything from before a deletion that
//! was final, of which the next creation tells. A log that had expired by the cutoff's time was not there any more either.
//! Anything else that is missing is damage.
//!
//! Times have no cutoff of their own. A time is answered if the log did not change between it and the cutoff: then the
//! answer is that at the cutoff. That is seen by the log's own entries, other than of a log that is gone, of which it is
//! known only that it ended.
//!
//! It reads no records, writes nothing, and keeps no more in memory than a state and a few chunks. Invariant: an answer is
//! that of the moment in full, or an error.

use super::Index;
use super::apply::{Stamp, apply, apply_record};
use super::set::SegmentSet;
use super::slot::{Slot, SlotInner, apply_mem, misfit};
use crate::error::{Error, ErrorKind, Result};
use crate::format::entry::{Entry, Kind};
use crate::format::manifest::{Manifest, Mark, TimelineStart};
use crate::format::state::{Lasting, Life, LogState, Phase};
use crate::format::{Decoded, Malformed};
use crate::segment::{ChunkEntry, Segment};
use crate::types::{AsOf, LogId, Lsn, Seq, Timeline};
use std::sync::Arc as Shared;

/// Tells the LSN up to which merges may have left out what had ended, and the time up to which what had expired, by what is
/// known at this moment.
pub type Cutoff<'a> = &'a dyn Fn(&Manifest) -> Mark;

/// A log as it was.
#[derive(Clone, Debug)]
pub struct Past {
    /// Its state. It says nothing of producers, and of the tag nothing that is to be relied on: these lie in records, and
    /// are given up with them.
    pub state: LogState,
    as_of: AsOf,
    /// The log did not change between the moment and this LSN.
    until: Lsn,
}

impl Past {
    /// Looks up the log of `slot` as of a moment.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`] for an LSN that is not durable yet, [`ErrorKind::Forgotten`] for a moment before the cutoff,
    /// [`ErrorKind::Refused`] for a name whose id is another log's, [`ErrorKind::Damaged`].
    pub fn look(index: &Index, slot: &Slot, name: &str, as_of: AsOf, cutoff: Cutoff<'_>) -> Result<Self> {
        check_durable(index, as_of)?;
        let (until, settled) = {
            let inner = index.resolve_visible(slot, Some(name))?;
            if let Some(past) = inner.past.as_deref().filter(|past| past.as_of == as_of).cloned() {
                drop(inner);
                return past.settle(name, cutoff(&index.set().manifest));
            }
            let count = inner.mem.partition_point(|entry| as_of.covers(entry.lsn, entry.frame.time));
            let next = inner.mem.get(count).map(|entry| entry.lsn);
            let until = match as_of {
                AsOf::Lsn(lsn) => lsn,
                AsOf::Time(_) => next.map_or_else(|| index.watermark(), before),
            };
            if let Some(state) = in_memory(slot.id, &inner, as_of, count)? {
                drop(inner);
                let past = Self { state, as_of, until };
                return past.settle(name, cutoff(&index.set().manifest));
            }
            (until, next.is_some() || matches!(as_of, AsOf::Lsn(_)))
        };
        let set = index.set();
        let cutoff = cutoff(&set.manifest);
        let count = set.segments.iter().position(|s| !as_of.covers(s.meta().last_lsn, s.meta().last_time));
        let count = count.unwrap_or(set.segments.len());
        let (whole, parted) = set.segments.split_at(count);
        // Whatever has not been made by the moment in the segments behind is then not covered by the cutoff.
        if parted.first().is_some_and(|segment| segment.meta().last_lsn <= cutoff.lsn) {
            return Err(forgotten(name, as_of, cutoff.lsn));
        }
        let mut walk = Walk::new(&set, slot.id, whole.len())?;
        let next = match parted.first() {
            Some(segment) => walk.segment(segment, as_of)?,
            None => None,
        };
        let until = if is_lsn(as_of) { until } else { next.map_or(until, |next| before(next).min(until)) };
        // What ended a log that is gone is not known, and lies before the cutoff. A time is behind that if something was
        // written by then that follows a segment which reaches to the cutoff.
        let reaches = whole.last().is_some_and(|segment| cutoff.lsn <= segment.meta().last_lsn);
        let later = parted.first().map_or(set.manifest.time, |segment| segment.meta().first_time);
        let is_behind = match as_of {
            AsOf::Lsn(_) => true,
            AsOf::Time(time) => reaches && later <= time,
        };
        if until < cutoff.lsn || (walk.state.life.is_gone() && !is_behind) {
            return Err(forgotten(name, as_of, cutoff.lsn));
        }
        let past = Self { state: walk.end(&set, whole.len())?, as_of, until };
        if settled || next.is_some() {
            slot.lock().past = Some(Box::new(past.clone()));
        }
        past.settle(name, cutoff)
    }

    /// What it comes to where merges may have left out what `cutoff` covers. A log that had expired by then had expired at
    /// every LSN that can be asked for; of a time that is not known.
    ///
    /// # Errors
    /// [`ErrorKind::Forgotten`].
    fn settle(mut self, name: &str, cutoff: Mark) -> Result<Self> {
        let life = &self.state.life;
        let expired = life.phase == Phase::Live && life.has_expired(cutoff.time);
        if self.until < cutoff.lsn || (expired && !is_lsn(self.as_of)) {
            return Err(forgotten(name, self.as_of, cutoff.lsn));
        }
        if expired {
            self.state.life.phase = Phase::Deleted;
        }
        Ok(self)
    }

    /// Whether the log can still be read, after what its records are made of was: what merges left out by then had ended at
    /// the moment.
    ///
    /// # Errors
    /// [`ErrorKind::Forgotten`], [`ErrorKind::Deleted`].
    pub fn check(&self, index: &Index, name: &str, cutoff: Cutoff<'_>) -> Result<()> {
        self.clone().settle(name, cutoff(&index.set().manifest))?.check_live(name)
    }

    /// The log existed, though perhaps it was deleted.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`].
    pub fn check_created(&self, name: &str) -> Result<()> {
        match self.state.life.phase {
            Phase::Absent => {
                let what = format!("as of {} the log did not exist yet", self.as_of);
                Err(Error::new(ErrorKind::NotFound, what).log(name).remedy("ask for a later moment"))
            }
            Phase::Live | Phase::Deleted => Ok(()),
        }
    }

    /// The log could be read.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], [`ErrorKind::Deleted`].
    pub fn check_live(&self, name: &str) -> Result<()> {
        self.check_created(name)?;
        if self.state.life.phase == Phase::Live {
            return Ok(());
        }
        let what = format!("as of {} the log was deleted, or had expired", self.as_of);
        Err(Error::new(ErrorKind::Deleted, what).log(name).remedy("ask for an earlier moment"))
    }
}

fn is_lsn(as_of: AsOf) -> bool {
    matches!(as_of, AsOf::Lsn(_))
}

fn before(lsn: Lsn) -> Lsn {
    Lsn(lsn.0.saturating_sub(1))
}

fn check_durable(index: &Index, as_of: AsOf) -> Result<()> {
    match (as_of, index.watermark()) {
        (AsOf::Lsn(lsn), durable) if durable < lsn => {
            let what = format!("LSN {lsn} lies past what is durable");
            Err(Error::new(ErrorKind::Invalid, what).expecting(durable.0).remedy("ask for that one at most"))
        }
        _ => Ok(()),
    }
}

fn forgotten(name: &str, as_of: AsOf, cutoff: Lsn) -> Error {
    Error::new(ErrorKind::Forgotten, format!("{as_of} lies further back than history is kept"))
        .log(name)
        .expecting(cutoff.0)
        .remedy("ask for that LSN or a later moment; the setting grace rules how far back history is kept")
}

/// The state, if all of the log's entries up to the moment are in the state as of the last flush or in memory; `count` of
/// the latter are.
fn in_memory(log: LogId, inner: &SlotInner, as_of: AsOf, count: usize) -> Result<Option<LogState>> {
    let base = inner.base.as_ref().expect("the state was looked up just now");
    let behind = match as_of {
        AsOf::Lsn(lsn) => base.last_lsn <= lsn,
        AsOf::Time(_) => count > 0,
    };
    if !behind {
        return Ok(None);
    }
    let mut state = base.clone().without_producers();
    for entry in &inner.mem[..count] {
        apply_mem(&mut state, entry).map_err(|e| misfit(log, entry, &e))?;
    }
    Ok(Some(state))
}

/// Carries out what a segment holds of a log.
struct Walk<'a> {
    log: LogId,
    timelines: &'a [TimelineStart],
    state: LogState,
    /// Where the last hole in its seqs ends.
    hole: Seq,
    /// Timelines may be missing from its list.
    is_list_short: bool,
}

impl<'a> Walk<'a> {
    /// Begins with the log's state as the first `count` segments hold it.
    fn new(set: &'a SegmentSet, log: LogId, count: usize) -> Result<Self> {
        let state = set.state_among(log, count)?.unwrap_or_default().without_producers();
        let timelines = &set.manifest.timelines;
        Ok(Self { log, timelines, state, hole: Seq(0), is_list_short: false })
    }

    /// Carries out what the segment holds of the log up to the moment. Gives the LSN of the first entry behind it, if the
    /// segment has one.
    fn segment(&mut self, segment: &Segment, as_of: AsOf) -> Result<Option<Lsn>> {
        let Some(head) = segment.head(self.log)? else { return Ok(None) };
        if head.gone().is_some() {
            self.has_ended(head.next_seq());
            return Ok(None);
        }
        let mut place = None;
        loop {
            let (chunks, rest) = segment.all_chunks(self.log, place)?;
            let mut left = &chunks[..];
            while !left.is_empty() {
                let (run, count) = segment.run(left, usize::MAX, usize::MAX)?;
                for at in &left[..count] {
                    for entry in run.chunk(at)?.entries() {
                        let entry = entry.map_err(|e| broken(self.log, self.state.last_lsn, &e))?;
                        if !self.entry(&entry, as_of).map_err(|e| broken(self.log, entry.lsn, &e))? {
                            return Ok(Some(entry.lsn));
                        }
                    }
                }
                left = &left[count..];
            }
            place = rest;
            if place.is_none() {
                self.skip(head.next_seq(), segment.meta().last_lsn);
                return Ok(None);
            }
        }
    }

    /// Carries out an entry; false if it lies behind the moment.
    fn entry(&mut self, entry: &ChunkEntry<'_>, as_of: AsOf) -> Decoded<bool> {
        let body = Entry::decode_trusted(entry.body)?;
        if body.kind == Kind::Create && body.seq > Seq(0) {
            // In the place of a deleted log, and perhaps nothing was kept of the deletion.
            let end = Seq(body.seq.0 - 1);
            if self.state.life.phase != Phase::Deleted || self.state.next_seq != end {
                self.has_ended(end);
            }
        }
        if !as_of.covers(entry.lsn, entry.time) {
            return Ok(false);
        }
        if !matches!(body.kind, Kind::Create | Kind::Fork) {
            self.skip(body.seq, entry.lsn);
        }
        let stamp = Stamp { lsn: entry.lsn, time: entry.time, timeline: self.timeline(entry.lsn) };
        if body.seq < self.state.next_seq {
            return Err(Malformed { what: "an entry whose seq lies below its log's next", at: 0 });
        }
        if body.is_plain() {
            apply_record(&mut self.state, body.seq, stamp)?;
        } else {
            apply(&mut self.state, &Entry { producer: None, ..body }, stamp)?;
        }
        Ok(true)
    }

    /// The log was deleted for good, with `next_seq`.
    fn has_ended(&mut self, next_seq: Seq) {
        let life = Life { phase: Phase::Deleted, trim: next_seq, ..Life::default() };
        self.state = LogState::new(next_seq, Lsn(0), Lasting { life, ..Lasting::default() });
        (self.hole, self.is_list_short) = (Seq(0), true);
    }

    /// Records up to `seq` were left out, before the entry at `lsn`.
    fn skip(&mut self, seq: Seq, lsn: Lsn) {
        if seq <= self.state.next_seq {
            return;
        }
        (self.hole, self.state.next_seq) = (seq, seq);
        if self.state.timelines.last().is_none_or(|(last, _)| *last != self.timeline(lsn)) {
            // Who wrote which of them is not known here.
            self.is_list_short = true;
            self.state.timelines = Shared::default();
        }
    }

    /// The timeline that wrote the entry with this LSN.
    fn timeline(&self, lsn: Lsn) -> Timeline {
        let after = self.timelines.partition_point(|start| start.first_lsn <= lsn);
        self.timelines[..after].last().map(|start| start.timeline).unwrap_or_default()
    }

    /// The state, once the moment is reached; `count` segments lie wholly before it.
    fn end(mut self, set: &SegmentSet, count: usize) -> Result<LogState> {
        let life = &self.state.life;
        if self.hole > life.trim && life.phase == Phase::Live {
            let e = Malformed { what: "records are missing that it had not given up", at: 0 };
            return Err(broken(self.log, self.state.last_lsn, &e));
        }
        if self.is_list_short {
            // What the log's list became later begins with what it was, unless it was created anew in between. Then what
            // is not known stays so: a cursor there is refused.
            let later = set.state_among(self.log, (count + 1).min(set.segments.len()))?.unwrap_or_default();
            if later.life.created == life.created {
                let then = |(_, first): &&(Timeline, Seq)| *first < self.state.next_seq;
                self.state.timelines = later.timelines.iter().filter(then).copied().collect();
            }
        }
        Ok(self.state)
    }
}

fn broken(log: LogId, lsn: Lsn, e: &Malformed) -> Error {
    Error::new(ErrorKind::Damaged, format!("an entry does not fit its log: {e}"))
        .log(log.to_string())
        .lsns(lsn.0..lsn.0 + 1)
        .remedy("run everlog verify on the store")
}
