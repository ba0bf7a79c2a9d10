//! What a merge need not keep of a log: what was deleted, expired or trimmed, once its grace is over.
//!
//! What ends a log lies in its newest state, and its records lie in segments of any age. So a merge asks, log by log, all
//! segments from its inputs on whether they say of it that something ended, and only where one does the log's state is
//! looked up, in memory and on disk. Segments older than the inputs need not be asked: what they say, a newer one repeats
//! or takes back: each that has anything of a log that is to expire says so.
//!
//! What is staged may not come to pass. So only what the cutoff covers, which is durable, ends anything; what is staged can
//! only take an end back.
//!
//! Invariants: what cannot be read costs nothing but space; of a log whose deletion may still be taken back, which its
//! slot's lock decides, everything is kept; and a record that is left out lies below what the log's state calls kept, by
//! which every reader begins.

use crate::error::Result;
use crate::format::manifest::Mark;
use crate::format::state::{LogState, Phase};
use crate::index::Index;
use crate::index::set::SegmentSet;
use crate::mutants::{self, Mutant};
use crate::segment::{Ends, IndexEntry, Segment};
use crate::sync::Arc;
use crate::types::{LogId, Lsn, Seq, TimeUs};

/// Index blocks by which the dead share of a segment is estimated.
const SAMPLE_BLOCKS: usize = 16;

/// What is to be kept of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    /// The records from a seq on, and what is no record.
    From(Seq),
    /// Where it ended; it is gone, with this state.
    Nothing(LogState),
}

/// What merges may leave out by now.
pub(super) struct Reclaim {
    index: Arc<Index>,
    cutoff: Mark,
    /// The segments all of whose entries the cutoff covers.
    old: SegmentSet,
    /// Who is asked, from the oldest input on.
    ends: Vec<Ends>,
    /// The first LSN of the newest of them that calls the log gone that was asked for last; 0 if none does.
    floor: Lsn,
}

impl Reclaim {
    /// For merges of segments of `set` from the first one that is not older than `first` on; None if there is nothing to
    /// leave out.
    pub(super) fn new(index: &Arc<Index>, set: &SegmentSet, cutoff: Mark, first: Lsn) -> Option<Self> {
        let all = Mark { lsn: set.flushed(), time: TimeUs(u64::MAX) };
        let cutoff = if mutants::makes(Mutant::DroppedEarly) { all } else { cutoff };
        let asked = set.segments.iter().filter(|segment| first <= segment.meta().first_lsn && segment.meta().ends > 0);
        let ends: Vec<_> = asked.map(|segment| Ends::new(Arc::clone(segment))).collect();
        if cutoff.lsn == Lsn(0) || ends.is_empty() {
            return None;
        }
        let covered = set.segments.iter().take_while(|segment| segment.meta().last_lsn <= cutoff.lsn);
        let old = SegmentSet { manifest: set.manifest.clone(), segments: covered.cloned().collect() };
        Some(Self { index: Arc::clone(index), cutoff, old, ends, floor: Lsn(0) })
    }

    /// What the grace is over for.
    pub(super) fn cutoff(&self) -> Mark {
        self.cutoff
    }

    /// What is to be kept of the log. To be asked in ascending order.
    pub(super) fn kept(&mut self, log: LogId) -> Kept {
        if !self.ended(log) {
            return Kept::From(Seq(0));
        }
        self.look(log).unwrap_or_else(|error| {
            tracing::debug!(%error, "a merge keeps all of a log");
            Kept::From(Seq(0))
        })
    }

    /// Whether any segment says that something of the log ended. One that cannot be read says nothing.
    fn ended(&mut self, log: LogId) -> bool {
        let (mut ended, mut floor) = (false, Lsn(0));
        self.ends.retain_mut(|ends| match ends.has(log) {
            Ok(has) => {
                ended |= has.is_some();
                if has == Some(true) {
                    floor = floor.max(ends.segment().meta().first_lsn);
                }
                true
            }
            Err(error) => {
                let segment = ends.segment().meta().id.0;
                tracing::warn!(%error, segment, "what ended by the word of a segment that cannot be read is kept");
                false
            }
        });
        self.floor = floor;
        ended
    }

    /// Entries below this LSN mean nothing of the log that [`Self::kept`] was asked for last: it is gone by the word of a
    /// segment that begins there.
    pub(super) fn floor(&self) -> Lsn {
        self.floor
    }

    /// What is to be kept of a log of which something ended.
    fn look(&self, log: LogId) -> Result<Kept> {
        let state = self.state(log)?;
        let pinned = state.life.pinned;
        let over = match state.life.phase {
            Phase::Deleted => state.life.is_gone() || state.changed.life <= self.cutoff.lsn,
            // A time that is only staged may not come to pass. One that passed cannot be put off any more.
            Phase::Live => state.life.has_expired(self.cutoff.time) && state.changed.life <= self.index.watermark(),
            Phase::Absent => false,
        };
        if over {
            return Ok(pinned.map_or(Kept::Nothing(state), Kept::From));
        }
        let Some(old) = self.old.state(log)? else { return Ok(Kept::From(Seq(0))) };
        // A creation in the place of a deleted log ended for good what was there. Only one that the cutoff covers counts:
        // what is staged may not come to pass, and of what was deleted again before it the grace is not over.
        let recreated = old.life.phase == Phase::Deleted
            && state.life.created > old.changed.life
            && state.life.created <= self.cutoff.lsn;
        let from = if recreated { old.next_seq } else { old.life.trim };
        Ok(Kept::From(from.min(state.life.trim).min(pinned.unwrap_or(from))))
    }

    /// The log's state at this moment, with what is staged. A log that is not in memory has nothing staged; the segments
    /// are taken after that was seen.
    pub(super) fn state(&self, log: LogId) -> Result<LogState> {
        match self.index.heads.peek(log) {
            Some(slot) => Ok(self.index.resolve(&slot, None)?.staged.clone()),
            None => Ok(self.index.set().state(log)?.unwrap_or_default()),
        }
    }

    /// Whether the name of a log goes as well of whose creation at `created` nothing may have been kept: it was gone since
    /// then, is gone, or was created again since and is named where it was. A name too many does no harm.
    pub(super) fn is_unnamed(&self, log: LogId, created: Lsn, last: Lsn) -> bool {
        let calls_it_gone = |segment: &Segment| matches!(segment.head(log), Ok(Some(entry)) if entry.gone().is_some());
        let mut later = self.ends.iter().map(Ends::segment).filter(|segment| created < segment.meta().first_lsn);
        let flushed = self.index.set().flushed();
        later.any(calls_it_gone)
            || self.state(log).is_ok_and(|state| {
                let named_later = last < state.life.created && state.life.created <= flushed;
                named_later || matches!(self.look(log), Ok(Kept::Nothing(_)))
            })
    }

    /// The part of the segment's chunks, by their bytes, that a merge would leave out, as a sample of them tells.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Damaged`], [`crate::ErrorKind::Io`].
    pub(super) fn dead_share(&mut self, segment: &Segment) -> Result<f64> {
        let (mut dead, mut all) = (0, 0);
        let mut last = None;
        for entry in segment.sample(SAMPLE_BLOCKS)? {
            let IndexEntry { log, len, .. } = entry;
            let kept = match &last {
                Some((before, kept)) if *before == log => Kept::clone(kept),
                _ => self.kept(log),
            };
            let left_out = match &kept {
                Kept::From(seq) => seq.0.saturating_sub(entry.first_seq.0).min(u64::from(entry.records)),
                Kept::Nothing(_) => u64::from(entry.records.max(1)),
            };
            dead += u64::from(len) * left_out / u64::from(entry.records.max(1));
            all += u64::from(len);
            last = Some((log, kept));
        }
        Ok(if all == 0 { 0.0 } else { dead as f64 / all as f64 })
    }
}
