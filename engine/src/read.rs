//! Reading a log: from the segments, from memory, and across forks.
//!
//! Memory is looked at first and the snapshot of the segments taken then, so that a concurrent flush hides nothing.
//! Nothing is waited for but the disk.
//!
//! Invariant: what is returned is dense in seq and begins where it was asked for; where a record is missing the read
//! fails as damaged, it is never shortened.

use crate::error::{Error, ErrorKind, Result};
use crate::format::Malformed;
use crate::format::entry::{Entry, Kind};
use crate::format::state::Phase;
use crate::index::as_of::{Cutoff, Past};
use crate::index::memory::MemEntry;
use crate::index::set::SegmentSet;
use crate::index::slot::{SlotInner, Visible};
use crate::index::{Index, history, would_block};
use crate::metrics::Metrics;
use crate::segment::{IndexEntry, Segment};
use crate::types::{AsOf, Cursor, LogId, Lsn, Position, Seq, TimeUs, Timeline};
use std::borrow::Cow;
use std::sync::Arc;

/// A page of fewer records or bytes is a small one.
const SMALL_RECORDS: usize = 32;
const SMALL_BYTES: usize = 32 << 10;

/// How much a read returns at most. At least one record is returned where there is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadLimit {
    /// Records.
    pub records: usize,
    /// Bytes of payload.
    pub bytes: usize,
}

impl ReadLimit {
    /// Whether a page of this size is likely to lie in one segment, so that nothing is asked for ahead.
    fn is_small(&self) -> bool {
        self.records < SMALL_RECORDS || self.bytes < SMALL_BYTES
    }
}

impl Default for ReadLimit {
    fn default() -> Self {
        Self { records: 1000, bytes: 1 << 20 }
    }
}

/// A record as it was appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its position in its log.
    pub seq: u64,
    /// Its position in the order of all.
    pub lsn: Lsn,
    /// When its frame was sealed; advisory.
    pub time: TimeUs,
    /// The caller's bytes.
    pub payload: Vec<u8>,
}

/// A stretch of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// The records, dense in seq.
    pub records: Vec<Record>,
    /// Where it begins.
    pub start: Cursor,
    /// Where the next read goes on.
    pub next_seq: u64,
    /// The same, as a cursor.
    pub next: Cursor,
    /// The log's next seq at that moment: equal to `next_seq` if everything was read.
    pub head: u64,
    /// Whether the log takes no more records.
    pub closed: bool,
    /// The LSN of the log's creation.
    pub created: Lsn,
}

/// Reads the log `name` from `from` on, at `now` of the steady clock.
///
/// # Errors
/// [`ErrorKind::NotFound`], [`ErrorKind::Deleted`], [`ErrorKind::Trimmed`] below the first seq that is kept,
/// [`ErrorKind::Rewound`] for a cursor of another history, [`ErrorKind::Invalid`] for a seq past the log's end,
/// [`ErrorKind::Damaged`].
pub fn read(index: &Index, name: &str, from: Position, limit: ReadLimit, now: TimeUs) -> Result<Page> {
    crate::names::check(name)?;
    let slot = index.heads.get(index.log_id(name));
    let is_whole = matches!(from, Position::Start | Position::Seq(0)) && !limit.is_small();
    let cold = is_whole && slot.lock().base.is_none() && fetch_lookups(&index.set().segments, slot.id);
    let view = {
        let inner = index.resolve_visible(&slot, Some(name))?;
        View { cold, ..View::new(&inner, slot.id, name, from, limit, now)? }
    };
    let chain = ancestors(index, slot.id, &view, limit)?;
    view.page(index, &chain, name, limit)
}

/// As [`read`], of records that all lie in memory.
///
/// # Errors
/// As there, and [`ErrorKind::WouldBlock`] for any others.
pub fn try_read(index: &Index, name: &str, from: Position, limit: ReadLimit, now: TimeUs) -> Result<Page> {
    crate::names::check(name)?;
    let slot = index.heads.get(index.log_id(name));
    let view = {
        let inner = index.try_resolve_visible(&slot, name)?;
        View::new(&inner, slot.id, name, from, limit, now)?
    };
    let end = view.visible.next_seq;
    let inherits = view.visible.fork.is_some_and(|(_, at)| view.from < at);
    if inherits || view.from < view.memory.first.unwrap_or(end).min(end) {
        return Err(would_block());
    }
    let chain = [Level { id: slot.id, end, memory: Cow::Borrowed(&view.memory) }];
    view.page(index, &chain, name, limit)
}

/// Reads the log `name` as it was at a moment, from `from` on. `cutoff` tells what merges may have left out by now.
///
/// # Errors
/// As [`read`], of the log as it was; [`ErrorKind::Invalid`] for an LSN that is not durable yet; [`ErrorKind::Forgotten`].
pub fn read_as_of(
    index: &Index, name: &str, as_of: AsOf, cutoff: Cutoff<'_>, from: Position, limit: ReadLimit,
) -> Result<Page> {
    crate::names::check(name)?;
    let slot = index.heads.get(index.log_id(name));
    let past = Past::look(index, &slot, name, as_of, cutoff)?;
    past.check_live(name)?;
    let (visible, timelines) = (Visible::of(&past.state), past.state.timelines.to_vec());
    let from = start(&visible, &timelines, name, from, TimeUs(0))?;
    // A record once had is where it was, in memory or in a segment of a set that is taken later.
    let memory = in_memory(&slot.lock().mem, from, limit);
    let view = View { visible, timelines, from, memory, cold: false };
    let chain = ancestors(index, slot.id, &view, limit)?;
    let page = view.page(index, &chain, name, limit);
    // First, since a merge may have taken away meanwhile what would be missed otherwise.
    past.check(index, name, cutoff)?;
    page
}

/// Asks for what tells where in these segments the log lies; true if any of that was never looked at.
fn fetch_lookups(segments: &[Arc<Segment>], id: LogId) -> bool {
    segments
        .iter()
        .filter(|segment| segment.reads_ahead())
        .fold(false, |asked, segment| asked | segment.fetch_lookup(id))
}

/// What a read needs of its log, taken under the slot's lock.
struct View {
    visible: Visible,
    timelines: Vec<(Timeline, Seq)>,
    from: Seq,
    memory: InMemory,
    /// Whether the log is likely not to be in memory at all.
    cold: bool,
}

impl View {
    fn new(inner: &SlotInner, id: LogId, name: &str, from: Position, limit: ReadLimit, now: TimeUs) -> Result<Self> {
        let visible = inner.visible;
        // No reader may learn of what is staged, not even by being told where a history parts from the log's.
        let timelines = inner.durable_timelines(id)?;
        let from = start(&visible, &timelines, name, from, now)?;
        Ok(Self { visible, timelines, from, memory: in_memory(&inner.mem, from, limit), cold: false })
    }

    /// Reads the chain of forks that begins with the log itself.
    fn page(&self, index: &Index, chain: &[Level<'_>], name: &str, limit: ReadLimit) -> Result<Page> {
        let mut out = Collector {
            next: self.from,
            limit,
            bytes: 0,
            records: Vec::new(),
            cost: Cost { waited: self.cold, ..Cost::default() },
        };
        out.chain(index, chain).map_err(|e| named(e, chain[0].id, name))?;
        out.cost.count(&index.metrics);
        Ok(Page {
            records: out.records,
            start: history::cursor(&self.timelines, self.from),
            next_seq: out.next.0,
            next: history::cursor(&self.timelines, out.next),
            head: self.visible.next_seq.0,
            closed: self.visible.closed,
            created: self.visible.created,
        })
    }
}

/// The name instead of the id, where an error knows only the id.
fn named(error: Error, id: LogId, name: &str) -> Error {
    if error.log_name() == Some(&*id.to_string()) { error.log(name) } else { error }
}

/// The seq that a read from `from` begins with.
fn start(visible: &Visible, timelines: &[(Timeline, Seq)], name: &str, from: Position, now: TimeUs) -> Result<Seq> {
    let (from, cursor) = match from {
        Position::Start => (visible.trim.0, None),
        Position::Seq(seq) => (seq, None),
        Position::Cursor(cursor) => (cursor.seq, Some(cursor)),
        Position::End => (visible.next_seq.0, None),
    };
    let (kind, what, expected) = match visible.phase {
        Phase::Absent => (ErrorKind::NotFound, "the log does not exist".to_owned(), None),
        Phase::Deleted => (ErrorKind::Deleted, "the log was deleted".to_owned(), None),
        Phase::Live if visible.has_expired(now) => (ErrorKind::Deleted, "the log expired".to_owned(), None),
        // What is missing was lost before it was given up, which its reader has to know.
        Phase::Live if from < visible.trim.0 && cursor.is_some_and(|at| history::is_elsewhere(timelines, at)) => {
            let at = cursor.unwrap_or_default();
            return history::check(timelines, visible.next_seq, at).map(|()| Seq(from)).map_err(|e| e.log(name));
        }
        Phase::Live if from < visible.trim.0 => {
            (ErrorKind::Trimmed, format!("seq {from} lies below what is kept"), Some(visible.trim.0))
        }
        Phase::Live if cursor.is_none() && from > visible.next_seq.0 => {
            (ErrorKind::Invalid, format!("seq {from} lies past the log's end"), Some(visible.next_seq.0))
        }
        Phase::Live => {
            return match cursor {
                Some(cursor) => {
                    history::check(timelines, visible.next_seq, cursor).map(|()| Seq(from)).map_err(|e| e.log(name))
                }
                None => Ok(Seq(from)),
            };
        }
    };
    let error = Error::new(kind, what).log(name);
    Err(match expected {
        Some(expected) => error.expecting(expected),
        None => error,
    })
}

/// What memory holds of a log from some seq on.
#[derive(Clone)]
struct InMemory {
    /// The first record's seq that is in memory at all.
    first: Option<Seq>,
    entries: Vec<MemEntry>,
}

/// The records from `from` on, as many as the limit may need. Seqs never decrease from entry to entry.
fn in_memory(entries: &[MemEntry], from: Seq, limit: ReadLimit) -> InMemory {
    let first = entries.iter().find(|e| e.kind == Kind::Record).map(|e| e.seq);
    let start = entries.partition_point(|e| e.seq < from);
    let mut bytes = 0;
    let mut out = Vec::new();
    for entry in entries[start..].iter().filter(|e| e.kind == Kind::Record) {
        bytes += entry.len as usize;
        out.push(entry.clone());
        if out.len() > limit.records || bytes > limit.bytes.saturating_mul(2) {
            break;
        }
    }
    InMemory { first, entries: out }
}

/// One log of a chain of forks.
struct Level<'a> {
    id: LogId,
    /// Where the log that was forked from it goes on; the log's own end for the log that is read.
    end: Seq,
    memory: Cow<'a, InMemory>,
}

/// The log itself, and the ancestors that hold seqs of the view below it, whatever became of them since.
fn ancestors<'a>(index: &Index, log: LogId, view: &'a View, limit: ReadLimit) -> Result<Vec<Level<'a>>> {
    let (mut end, from) = (view.visible.next_seq, view.from);
    let mut chain = vec![Level { id: log, end, memory: Cow::Borrowed(&view.memory) }];
    let mut fork = view.visible.fork;
    while let Some((id, at)) = fork.filter(|(_, at)| from < *at) {
        end = end.min(at);
        let slot = index.heads.get(id);
        let inner = index.resolve_visible(&slot, None)?;
        fork = inner.visible.fork;
        chain.push(Level { id, end, memory: Cow::Owned(in_memory(&inner.mem, from, limit)) });
    }
    Ok(chain)
}

struct Collector {
    next: Seq,
    limit: ReadLimit,
    bytes: usize,
    records: Vec<Record>,
    cost: Cost,
}

/// What a page cost the disk.
#[derive(Default)]
struct Cost {
    runs: u64,
    reads: u64,
    bytes: u64,
    /// Whether the disk was waited for.
    waited: bool,
}

impl Cost {
    fn count(&self, metrics: &Metrics) {
        metrics.reads.add(1);
        metrics.read_runs.add(self.runs);
        metrics.chunk_reads.add(self.reads);
        metrics.chunk_bytes.add(self.bytes);
    }
}

impl Collector {
    fn full(&self) -> bool {
        !self.records.is_empty() && (self.records.len() >= self.limit.records || self.bytes >= self.limit.bytes)
    }

    /// Takes a record if it is the next one; false if the page is full.
    fn take(&mut self, id: LogId, lsn: Lsn, time: TimeUs, entry: &Entry<'_>) -> Result<bool> {
        if entry.kind != Kind::Record || entry.seq < self.next {
            return Ok(true);
        }
        let exceeds = !self.records.is_empty() && self.bytes + entry.payload.len() > self.limit.bytes;
        if self.full() || exceeds {
            self.limit.records = self.records.len();
            return Ok(false);
        }
        if entry.seq != self.next {
            return Err(missing(id, self.next, entry.seq));
        }
        self.bytes += entry.payload.len();
        self.records.push(Record { seq: entry.seq.0, lsn, time, payload: entry.payload.to_vec() });
        self.next = entry.seq.next();
        Ok(true)
    }

    /// Reads a chain of forks, the log itself first, the oldest ancestor last: from the oldest on, each up to where the
    /// next one begins to differ.
    fn chain(&mut self, index: &Index, chain: &[Level<'_>]) -> Result<()> {
        for level in chain.iter().rev() {
            self.level(index, level)?;
            if self.next < level.end {
                // The page is full, or memory was not asked for more.
                return Ok(());
            }
        }
        Ok(())
    }

    /// Reads one log of the chain up to its end.
    fn level(&mut self, index: &Index, level: &Level<'_>) -> Result<()> {
        let Level { id, end, memory } = level;
        let in_memory_from = memory.first.unwrap_or(*end);
        if self.next < in_memory_from.min(*end) && !self.full() {
            let set = index.set();
            self.segments(&set, *id, in_memory_from.min(*end))?;
        }
        for entry in &memory.entries {
            if self.full() || entry.seq >= *end {
                return Ok(());
            }
            if entry.seq >= self.next {
                let decoded = Entry::decode(*id, entry.body()).map_err(|e| unreadable(*id, entry.seq, &e))?;
                if !self.take(*id, entry.lsn, entry.frame.time, &decoded)? {
                    return Ok(());
                }
            }
        }
        // What memory was not asked for is read another time; anything else that is missing is damage.
        if self.full() || self.next >= *end || !memory.entries.is_empty() {
            return Ok(());
        }
        Err(missing(*id, self.next, *end))
    }

    fn segments(&mut self, set: &SegmentSet, id: LogId, end: Seq) -> Result<()> {
        let mut is_ahead = false;
        for (n, segment) in set.segments.iter().enumerate() {
            if self.cost.waited && !std::mem::replace(&mut is_ahead, true) {
                self.fetch(&set.segments[n..], id, end);
            }
            let reads_before = self.cost.reads;
            while self.next < end && !self.full() {
                let chunks = segment.chunks(id, self.next)?;
                let before = self.next;
                self.chunks(segment, id, &chunks, end)?;
                if self.next == before {
                    break;
                }
            }
            self.cost.runs += u64::from(self.cost.reads > reads_before);
        }
        if self.next < end && !self.full() { Err(missing(id, self.next, end)) } else { Ok(()) }
    }

    /// Asks for what the page needs of these segments, all at once: since the disk was waited for, it is likely to be again.
    fn fetch(&self, segments: &[Arc<Segment>], id: LogId, end: Seq) {
        if self.full() || self.limit.is_small() || segments.len() < 2 || !segments[0].reads_ahead() {
            return;
        }
        fetch_lookups(segments, id);
        segments.iter().for_each(|segment| segment.fetch_index(id, self.next));
        let (mut records, mut bytes) =
            (self.limit.records.saturating_sub(self.records.len()), self.limit.bytes.saturating_sub(self.bytes));
        for segment in segments {
            if records == 0 || bytes == 0 {
                return;
            }
            // What cannot be read is told of when its turn comes.
            let Ok(chunks) = segment.chunks(id, self.next) else { return };
            let is_wanted = |chunk: &&IndexEntry| {
                let is_wanted = records > 0 && bytes > 0 && chunk.first_seq < end;
                records = records.saturating_sub(chunk.records as usize);
                bytes = bytes.saturating_sub(chunk.len as usize);
                is_wanted
            };
            let wanted = chunks.iter().take_while(is_wanted).count();
            segment.fetch_chunks(&chunks[..wanted]);
        }
    }

    /// Reads chunks that follow one another, up to the log's `end` or the page's.
    fn chunks(&mut self, segment: &Segment, id: LogId, chunks: &[IndexEntry], end: Seq) -> Result<()> {
        let mut rest = chunks;
        while !self.full() && rest.first().is_some_and(|at| at.first_seq < end) {
            let records = self.limit.records.saturating_sub(self.records.len());
            let (run, count) = segment.run(rest, records, self.limit.bytes.saturating_sub(self.bytes))?;
            self.cost.reads += 1;
            self.cost.waited |= run.waited;
            self.cost.bytes += rest[..count].iter().map(|at| u64::from(at.len)).sum::<u64>();
            for at in rest[..count].iter().take_while(|at| at.first_seq < end) {
                for entry in run.chunk(at)?.entries() {
                    let entry = entry.map_err(|e| unreadable(id, self.next, &e))?;
                    let decoded = Entry::decode(id, entry.body).map_err(|e| unreadable(id, self.next, &e))?;
                    if decoded.seq >= end && decoded.kind == Kind::Record {
                        break;
                    }
                    if !self.take(id, entry.lsn, entry.time, &decoded)? {
                        return Ok(());
                    }
                }
                if self.full() {
                    return Ok(());
                }
            }
            rest = &rest[count..];
        }
        Ok(())
    }
}

fn missing(id: LogId, from: Seq, to: Seq) -> Error {
    Error::new(ErrorKind::Damaged, "records are missing")
        .log(id.to_string())
        .seqs(from.0..to.0)
        .remedy("run everlog verify on the store")
}

fn unreadable(id: LogId, seq: Seq, e: &Malformed) -> Error {
    Error::new(ErrorKind::Damaged, format!("a record is damaged: {e}"))
        .log(id.to_string())
        .seqs(seq.0..seq.0 + 1)
        .remedy("run everlog verify on the store")
}
