//! One merge: from its inputs to a segment that was read back.
//!
//! It commits nothing. Invariant: all entries of its inputs that are to be kept (`reclaim.rs`) are in the merged segment,
//! each log's in the order of their LSNs, since the inputs cover LSNs that follow one another. A log's records are left out
//! from its beginning on, so that it has holes below what is kept alone; a hole anywhere else is damage.

use super::reclaim::{Kept, Reclaim};
use super::state::{Merged, Part, merged, misfit};
use crate::catalog::Catalog;
use crate::error::{Error, Result};
use crate::format::entry::{Entry, Kind};
use crate::format::manifest::{Mark, SegmentMeta};
use crate::format::state::Phase;
use crate::index::history;
use crate::limits::STEP_BYTES;
use crate::segment::{Cursor, Group, Members, Name, Names, Origin, Segment, SegmentWriter, StateRecord};
use crate::sync::Arc;
use crate::types::{LogId, Lsn, SegmentId, Seq, TimeUs};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Names that one step takes over.
const STEP_NAMES: usize = 20_000;

/// What a merge is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// There are enough segments of one size class.
    Size,
    /// Much of its inputs may be left out.
    Dead,
}

/// A merge under way.
pub(super) struct Job {
    inputs: Vec<SegmentId>,
    why: Why,
    level: u32,
    id: SegmentId,
    first_lsn: Lsn,
    last_lsn: Lsn,
    cursors: Vec<Cursor>,
    /// The inputs that have a log left, each by the next one it has: the least log first, and of one log the oldest input.
    next: BinaryHeap<Reverse<(LogId, usize)>>,
    /// None once it was finished.
    writer: Option<SegmentWriter>,
    log: Option<OpenLog>,
    /// What is left out; None if all is kept.
    reclaim: Option<Reclaim>,
    /// The logs of which nothing is kept.
    gone: Members,
    /// Records that were left out so far.
    dropped: u64,
    /// The names, once all logs are written.
    names: Option<MergedNames>,
    /// Which input is being read; None while none is.
    reading: Option<usize>,
}

/// The log that is being merged.
struct OpenLog {
    id: LogId,
    /// The inputs that have it and are still to be read, the next one last.
    inputs: Vec<usize>,
    /// The log's next seq so far.
    next_seq: Option<Seq>,
    /// The time of its last entry so far.
    time: TimeUs,
    /// What is to be kept of it.
    kept: Kept,
    /// Entries below this mean nothing.
    floor: Lsn,
    /// Whether anything of it was written.
    written: bool,
    /// Where the last hole in its seqs ends.
    hole: Seq,
    /// What each input that is done with says of it.
    parts: Vec<Part>,
}

/// What a step brought.
pub(super) struct Progress {
    /// Bytes of chunks, index and state records that were read.
    pub(super) read: u64,
    /// The merged segment, once it is written and read back.
    pub(super) written: Option<SegmentMeta>,
}

impl Job {
    /// Begins the merge of `segments`, which follow one another.
    ///
    /// # Errors
    /// As [`Self::step`]; which input could not be read stands beside it.
    pub(super) fn begin(
        catalog: &Catalog, segments: Vec<Arc<Segment>>, level: u32, why: Why, reclaim: Option<Reclaim>,
    ) -> Result<Self, (Error, Option<SegmentId>)> {
        let lsns = segments[0].meta().first_lsn..=segments[segments.len() - 1].meta().last_lsn;
        let inputs: Vec<_> = segments.iter().map(|segment| segment.meta().id).collect();
        catalog.check_in_place().map_err(|error| (error, None))?;
        let (io, id, first_lsn) = (Arc::clone(catalog.io()), catalog.take_id(), *lsns.start());
        let last_lsn = *lsns.end();
        let abandon = |error, input| {
            catalog.abandon(id);
            (error, input)
        };
        // Before the inputs, which take descriptors that they could do without.
        let writer = SegmentWriter::create(io, catalog.dir(), catalog.identity(), id, lsns);
        let writer = writer.map_err(|error| abandon(error, None))?;
        let open = |segment: Arc<Segment>| {
            let input = segment.meta().id;
            Cursor::new(segment).map_err(|error| abandon(error, Some(input)))
        };
        let cursors = segments.into_iter().map(open).collect::<Result<Vec<_>, _>>()?;
        let (writer, gone) = (Some(writer), Members::default());
        let first = |(n, cursor): (usize, &Cursor)| cursor.log().map(|log| Reverse((log, n)));
        let next = cursors.iter().enumerate().filter_map(first).collect();
        Ok(Self {
            inputs,
            why,
            level,
            id,
            first_lsn,
            last_lsn,
            cursors,
            next,
            writer,
            log: None,
            reclaim,
            gone,
            dropped: 0,
            names: None,
            reading: None,
        })
    }

    /// Another goes before it: gives back what it takes to read ahead.
    pub(super) fn pause(&mut self) {
        self.cursors.iter_mut().for_each(Cursor::pause);
    }

    /// What the grace is over for, as far as this merge acts on it.
    pub(super) fn cutoff(&self) -> Mark {
        self.reclaim.as_ref().map_or_else(Mark::default, Reclaim::cutoff)
    }

    /// The segments that are merged.
    pub(super) fn inputs(&self) -> &[SegmentId] {
        &self.inputs
    }

    /// What it is for.
    pub(super) fn why(&self) -> Why {
        self.why
    }

    /// Records that were left out so far.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Their size class.
    pub(super) fn level(&self) -> u32 {
        self.level
    }

    /// The input whose reading failed, if that is why a step did.
    pub(super) fn unreadable(&self) -> Option<SegmentId> {
        self.reading.map(|n| self.inputs[n])
    }

    /// Gives it up, and removes what was written.
    pub(super) fn abandon(self, catalog: &Catalog) {
        let id = self.id;
        // Its writes have ended once it is gone.
        drop(self);
        catalog.abandon(id);
    }

    /// Does a part of it.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Damaged`] or [`crate::ErrorKind::Io`] if an input cannot be read; [`crate::ErrorKind::Io`] if
    /// the merged segment cannot be written, [`crate::ErrorKind::Damaged`] if it does not read back as written. The merge
    /// is then to be given up.
    pub(super) fn step(&mut self, catalog: &Catalog) -> Result<Progress> {
        if self.names.is_some() {
            let written = if self.names()? { Some(self.finish(catalog)?) } else { None };
            return Ok(Progress { read: 0, written });
        }
        let mut read = 0;
        while read < STEP_BYTES {
            if self.log.is_none() {
                let Some((id, inputs)) = self.next_log() else {
                    self.writer().end_logs()?;
                    self.gone.seal();
                    let inputs = std::mem::take(&mut self.cursors).into_iter().map(Cursor::into_segment).collect();
                    self.names = Some(MergedNames::new(inputs));
                    return Ok(Progress { read, written: None });
                };
                self.writer().begin_log(id);
                let kept = self.reclaim.as_mut().map_or(Kept::From(Seq(0)), |reclaim| reclaim.kept(id));
                self.log = Some(OpenLog {
                    id,
                    inputs,
                    next_seq: None,
                    time: TimeUs(0),
                    kept,
                    floor: self.reclaim.as_ref().map_or(Lsn(0), Reclaim::floor),
                    written: false,
                    hole: Seq(0),
                    parts: Vec::new(),
                });
            }
            read += self.read_on()?;
        }
        Ok(Progress { read, written: None })
    }

    /// The least log that is left, and the inputs that have it, the newest first.
    fn next_log(&mut self) -> Option<(LogId, Vec<usize>)> {
        let Reverse((id, first)) = self.next.pop()?;
        let mut inputs = vec![first];
        while self.next.peek().is_some_and(|next| next.0.0 == id) {
            inputs.extend(self.next.pop().map(|next| next.0.1));
        }
        inputs.reverse();
        Some((id, inputs))
    }

    fn writer(&mut self) -> &mut SegmentWriter {
        self.writer.as_mut().expect("it was not finished")
    }

    /// Takes over the next chunk of the log, or ends it. Gives the bytes read.
    fn read_on(&mut self) -> Result<u64> {
        let log = self.log.as_mut().expect("a log was begun");
        let writer = self.writer.as_mut().expect("it was not finished");
        let Some(&input) = log.inputs.last() else {
            self.end_log()?;
            return Ok(0);
        };
        let cursor = &mut self.cursors[input];
        self.reading = Some(input);
        let (id, mut next_seq, mut time, mut written) = (log.id, log.next_seq, log.time, Ok(()));
        let (mut first, mut dropped) = (true, 0);
        let (entry, state) = cursor.next(|entry| {
            let body = Entry::decode_trusted(entry.body).map_err(|m| misfit(id, entry.lsn, m.what))?;
            let skips = next_seq.is_some_and(|next| next < body.seq);
            if next_seq.is_some_and(|next| body.seq < next) || (skips && !first) {
                return Err(misfit(id, entry.lsn, "an entry whose seq is not its log's next"));
            }
            if skips && !matches!(body.kind, Kind::Create | Kind::Fork) {
                log.hole = body.seq;
            }
            if entry.time < time {
                return Err(misfit(id, entry.lsn, "an entry that is older than the one before it"));
            }
            (first, time) = (false, entry.time);
            let is_record = body.kind == Kind::Record;
            next_seq = Some(if is_record { body.seq.next() } else { body.seq });
            let keep = match &log.kept {
                Kept::From(seq) => !is_record || *seq <= body.seq,
                Kept::Nothing(_) => false,
            } && log.floor <= entry.lsn;
            log.written |= keep;
            dropped += u64::from(is_record && !keep);
            if keep && written.is_ok() {
                written = writer.entry(entry.lsn, entry.time, body.kind, body.seq, entry.body);
            }
            Ok(())
        })?;
        if entry.is_hollow() && next_seq < Some(entry.next_seq()) {
            (log.hole, next_seq) = (entry.next_seq(), Some(entry.next_seq()));
        }
        (log.next_seq, log.time) = (next_seq, time);
        if next_seq != Some(entry.next_seq()) {
            return Err(misfit(id, self.first_lsn, "a chunk that does not hold the seqs that the index says"));
        }
        self.reading = None;
        written?;
        if entry.is_last() {
            let lsns = cursor.segment().meta();
            let gone = entry.gone().map(|gone| gone.encoded());
            log.parts.push(Part { input, lsns: lsns.first_lsn..=lsns.last_lsn, last: entry, state: gone.or(state) });
            log.inputs.pop();
            self.next.extend(cursor.log().map(|log| Reverse((log, input))));
        }
        self.dropped += dropped;
        Ok(cursor.take_read())
    }

    /// Ends the log in the merged segment.
    fn end_log(&mut self) -> Result<()> {
        let log = self.log.take().expect("a log was begun");
        if log.floor > Lsn(0) || matches!(log.kept, Kept::Nothing(_)) {
            self.gone.add(log.id);
        }
        let newest = log.parts.last().expect("a log that is merged is in an input");
        self.reading = Some(newest.input);
        let newest = &newest.last;
        if let (false, Some(StateRecord { timelines: Group::Here(timelines), .. })) = (log.written, newest.gone()) {
            // It may have been created again since, but not in any of these.
            self.reading = None;
            let last = timelines.last().map(|(last, _)| *last).unwrap_or_default();
            return self.writer().end_gone(newest.next_seq(), newest.state_lsn, last);
        }
        let merged = merged(log.id, log.parts, self.first_lsn).map_err(|(error, input)| {
            self.reading = Some(input);
            error
        });
        let Merged { next_seq, changed, record, ends } = merged?;
        if let Kept::Nothing(state) = &log.kept {
            self.reading = None;
            let last = history::cursor(&state.timelines, next_seq).timeline;
            let changed = changed.max(self.first_lsn);
            return self.writer().end_gone(next_seq, changed, last);
        }
        if let Some(reclaim) = self.reclaim.as_ref().filter(|_| log.hole > Seq(0))
            && reclaim.state(log.id).is_ok_and(|state| state.life.phase == Phase::Live && state.life.trim < log.hole)
        {
            return Err(misfit(log.id, changed, "records are missing that its log has not given up"));
        }
        self.reading = None;
        self.writer().end_log(next_seq, changed, record.as_deref(), ends)
    }

    /// Takes over some names; true once there is none left.
    fn names(&mut self) -> Result<bool> {
        let writer = self.writer.as_mut().expect("it was not finished");
        let names = self.names.as_mut().expect("the logs were ended");
        for _ in 0..STEP_NAMES {
            let next = names.next();
            self.reading = names.failed;
            let Some(name) = next.transpose()? else { return Ok(true) };
            let left_out = self.gone.may_hold(name.1)
                && self.reclaim.as_ref().is_some_and(|reclaim| reclaim.is_unnamed(name.1, name.2, self.last_lsn));
            if !left_out {
                writer.name(&name)?;
            }
        }
        Ok(false)
    }

    fn finish(&mut self, catalog: &Catalog) -> Result<SegmentMeta> {
        let origin = Origin { ancestry: catalog.timelines().to_vec(), merged: self.inputs.clone() };
        let (meta, back) = self.writer.take().expect("it is finished once").finish(&origin)?;
        back.finish(&meta)?;
        Ok(meta)
    }
}

/// The names of all inputs, sorted; of a log that was created in several, the last creation.
struct MergedNames {
    /// Each input's next name, and those behind it.
    inputs: Vec<(Option<Result<Name>>, Names)>,
    /// The input whose names cannot be read.
    failed: Option<usize>,
}

impl MergedNames {
    fn new(inputs: Vec<Arc<Segment>>) -> Self {
        let start = |segment| {
            let mut names = Names::new(segment);
            (names.next(), names)
        };
        Self { inputs: inputs.into_iter().map(start).collect(), failed: None }
    }

    fn take(&mut self, n: usize) -> Option<Result<Name>> {
        let (next, rest) = &mut self.inputs[n];
        std::mem::replace(next, rest.next())
    }

    /// The next name of an input, if it has one.
    fn name(&self, n: usize) -> Option<&str> {
        self.inputs[n].0.as_ref().and_then(|next| next.as_ref().ok()).map(|(name, ..)| &**name)
    }
}

impl Iterator for MergedNames {
    type Item = Result<Name>;

    fn next(&mut self) -> Option<Self::Item> {
        self.failed = self.inputs.iter().position(|(next, _)| matches!(next, Some(Err(_))));
        if let Some(n) = self.failed {
            return self.take(n);
        }
        let named = (0..self.inputs.len()).filter_map(|n| Some((self.name(n)?, n)));
        let mut least = self.take(named.min()?.1);
        for n in 0..self.inputs.len() {
            let same = matches!(&least, Some(Ok((name, ..))) if self.name(n) == Some(name));
            if same {
                least = self.take(n);
            }
        }
        least
    }
}
