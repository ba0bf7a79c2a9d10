//! Whether what a batch holds for a log may be done, and as which entries.
//!
//! Decided on the log's staged state, under its slot's lock. A refusal or a repetition rests on what was staged before
//! it, so its answer waits until that is durable: see [`Verdict`].

use super::batch::{LogBatch, LogOp, Numbered};
use crate::error::{Error, ErrorKind, Result};
use crate::format::entry::{Create, Entry, ForkOf, Kind, ProducerMark, expiry_payload, first_kept_payload};
use crate::format::manifest::Mark;
use crate::format::state::{Issued, Life, LogState, Phase};
use crate::index::set::SegmentSet;
use crate::index::slot::{SlotInner, may_recall, recall_producer};
use crate::index::{history, would_block};
use crate::limits::{PRODUCER_WINDOW, PRODUCERS_PER_LOG_MAX};
use crate::mutants::{self, Mutant};
use crate::types::{LogId, Seq, TimeUs, Timeline};
use smallvec::SmallVec;
use std::borrow::Cow;

/// What is to be done with a log's part of a batch.
#[derive(Debug)]
pub(super) enum Verdict<'a> {
    /// It is appended as these entries; none if a creation was asked for of a log that exists.
    Go(Entries<'a>),
    /// The producer's number was used before for the same content; the highest number of its epoch stands beside.
    Duplicate(Issued, u64),
    /// It cannot be done; said once everything staged for the log is durable.
    Refuse(Error),
}

/// What is to be appended to a log, most often one record.
pub(super) type Entries<'a> = SmallVec<[Planned<'a>; 1]>;

/// An entry to be.
#[derive(Debug)]
pub(super) struct Planned<'a> {
    pub kind: Kind,
    pub seq: Seq,
    pub payload: Cow<'a, [u8]>,
    pub producer: Option<ProducerMark<'a>>,
    pub tag: Option<&'a [u8]>,
}

impl Planned<'_> {
    /// A control operation without fields.
    fn bare(kind: Kind, seq: Seq) -> Self {
        Self { kind, seq, payload: Cow::default(), producer: None, tag: None }
    }

    pub fn entry(&self) -> Entry<'_> {
        Entry {
            kind: self.kind,
            seq: self.seq,
            cipher: 0,
            key_id: 0,
            producer: self.producer,
            tag: self.tag,
            payload: &self.payload,
        }
    }
}

/// The place of the first entry that the batch asked for: a deletion that others follow was put in front of them.
pub(super) fn first_asked(entries: &[Planned<'_>]) -> usize {
    usize::from(entries.len() > 1 && entries[0].kind == Kind::Delete)
}

/// How a log ended that is deleted, or has expired.
fn ended(life: &Life) -> &'static str {
    if life.phase == Phase::Live { "the log expired" } else { "the log was deleted" }
}

/// What a fork needs of its parent.
pub(super) struct Parent {
    pub id: LogId,
    pub state: LogState,
}

/// The time, as far as it decides.
pub(super) struct Now<'a> {
    /// By the steady clock.
    pub time: TimeUs,
    /// What the grace is over for by now.
    pub over: &'a dyn Fn() -> Mark,
}

/// Decides. `parent` is given where the log is to be a fork; `set` unless the disk must not be waited for.
///
/// # Errors
/// [`ErrorKind::Damaged`], and [`ErrorKind::WouldBlock`] without `set`; everything else is a verdict.
pub(super) fn plan<'a>(
    id: LogId, inner: &mut SlotInner, batch: &LogBatch<'a>, parent: Option<&Parent>, set: Option<&SegmentSet>,
    now: &Now<'_>,
) -> Result<Verdict<'a>> {
    let creates = matches!(batch.ops[0], LogOp::Create { .. } | LogOp::Fork { .. });
    if inner.staged.life.phase == Phase::Absent && !creates {
        let error = Error::new(ErrorKind::NotFound, "the log does not exist").log(batch.name);
        return Ok(Verdict::Refuse(error.remedy("create it first")));
    }
    let digest = batch.producer.map(|_| batch.digest());
    if let (Some(numbers), Some(digest)) = (batch.producer, digest) {
        match check_producer(id, inner, batch, numbers, digest, set, now.time)? {
            Numbering::Next => {}
            Numbering::Repeated(issued, highest) => return Ok(Verdict::Duplicate(issued, highest)),
            Numbering::Wrong(error) => return Ok(Verdict::Refuse(error)),
        }
    }
    Ok(match conditions(&inner.staged, batch, now).and_then(|()| entries(&inner.staged, batch, parent, now.time)) {
        Ok(mut entries) => {
            let first = first_asked(&entries);
            let (count, records) = (entries.len() - first, entries.iter().filter(|e| e.kind == Kind::Record).count());
            if let Some(first) = entries.get_mut(first) {
                first.tag = batch.tag;
                first.producer = batch.producer.zip(digest).map(|(p, digest)| ProducerMark {
                    id: p.id,
                    epoch: p.epoch,
                    number: p.number,
                    entries: count as u32,
                    records: records as u32,
                    digest,
                });
            }
            Verdict::Go(entries)
        }
        Err(error) => Verdict::Refuse(error.log(batch.name)),
    })
}

enum Numbering {
    Next,
    Repeated(Issued, u64),
    Wrong(Error),
}

fn check_producer(
    id: LogId, inner: &mut SlotInner, batch: &LogBatch<'_>, numbers: Numbered<'_>, digest: u64,
    set: Option<&SegmentSet>, now: TimeUs,
) -> Result<Numbering> {
    let base = inner.base.as_ref().expect("planned on a slot whose state was looked up");
    let created_in_memory = inner.staged.life.created != base.life.created;
    if !inner.staged.producers.list.contains_key(numbers.id) && !created_in_memory {
        if may_recall(base, numbers.id) {
            let base = inner.base.as_mut().expect("it is there");
            recall_producer(id, base, set.ok_or_else(would_block)?, numbers.id)?;
        }
        let known = inner.base.as_ref().and_then(|base| base.producers.list.get(numbers.id));
        if let Some(found) = known.cloned() {
            inner.staged.producers.list.insert(numbers.id.to_vec(), found);
        }
    }
    let wrong = |kind, what: String| Error::new(kind, what).log(batch.name);
    let gap = |expected| {
        let what = format!("the producer's number {} leaves a gap", numbers.number);
        Ok(Numbering::Wrong(wrong(ErrorKind::ProducerGap, what).expecting(expected).remedy("send that one first")))
    };
    let newborn = matches!(batch.ops[0], LogOp::Create { .. }) && inner.staged.life.phase_at(now) == Phase::Deleted;
    let Some(producer) = inner.staged.producers.list.get(numbers.id) else {
        if !newborn && inner.staged.producers.known as usize >= PRODUCERS_PER_LOG_MAX {
            let what = format!("the log knows {PRODUCERS_PER_LOG_MAX} producers already, and takes no other");
            let error = wrong(ErrorKind::Invalid, what)
                .remedy("use the ids of devices and not of sessions; a log that is created anew forgets its producers");
            return Ok(Numbering::Wrong(error));
        }
        return if numbers.number == 0 { Ok(Numbering::Next) } else { gap(0) };
    };
    let last = producer.batches.back().copied().unwrap_or_default();
    let (epoch, same_epoch) = (producer.epoch, producer.epoch == numbers.epoch);
    let issued = match producer.batches.iter().find(|issued| same_epoch && issued.number == numbers.number) {
        Some(issued) => Some(*issued),
        None if same_epoch && numbers.number < last.number && !created_in_memory => {
            older_batch(id, inner, numbers, last.number, set.ok_or_else(would_block)?)?
        }
        None => None,
    };
    // A creation in the place of a deleted log begins anew, unless it is the very one that was made before.
    if newborn && issued.is_none_or(|issued| issued.digest != digest) {
        return if numbers.number == 0 { Ok(Numbering::Next) } else { gap(0) };
    }
    if numbers.epoch < epoch {
        let what = format!("epoch {} of the producer was ended by epoch {epoch}", numbers.epoch);
        let error = wrong(ErrorKind::ProducerFenced, what).expecting(epoch);
        return Ok(Numbering::Wrong(error.remedy("stop this producer, or begin a higher epoch")));
    }
    if numbers.epoch > epoch {
        if numbers.number == 0 {
            return Ok(Numbering::Next);
        }
        let what = format!("a new epoch of the producer begins with number {}", numbers.number);
        let error = wrong(ErrorKind::Invalid, what).expecting(0);
        return Ok(Numbering::Wrong(error.remedy("begin it with number 0")));
    }
    if numbers.number > last.number {
        return if numbers.number == last.number + 1 { Ok(Numbering::Next) } else { gap(last.number + 1) };
    }
    Ok(match issued {
        Some(issued) if issued.digest == digest => Numbering::Repeated(issued, last.number),
        Some(issued) => {
            let what = format!("the producer used number {} for other content before", numbers.number);
            let error = wrong(ErrorKind::ProducerConflict, what).expecting(last.number + 1);
            // Where that content ends.
            let error = error.lsns(issued.lsn.0..issued.lsn.0 + 1);
            Numbering::Wrong(error.remedy("begin a higher epoch"))
        }
        None => {
            let next = inner.staged.next_seq;
            let lsn = last.lsn;
            let issued = Issued { number: numbers.number, digest, lsn, first_seq: next, next_seq: next };
            Numbering::Repeated(issued, last.number)
        }
    })
}

/// An older batch of the producer within its window, gathered from state records.
fn older_batch(
    id: LogId, inner: &SlotInner, numbers: Numbered<'_>, last: u64, set: &SegmentSet,
) -> Result<Option<Issued>> {
    if last - numbers.number >= PRODUCER_WINDOW as u64 {
        return Ok(None);
    }
    let newest = inner.base.as_ref().map(|base| base.changed.producers).unwrap_or_default();
    let found = set.producer(id, newest, numbers.id, |p| {
        p.epoch == numbers.epoch && p.batches.front().is_some_and(|oldest| oldest.number <= numbers.number)
    })?;
    let batches = found.filter(|p| p.epoch == numbers.epoch).map(|p| p.batches).unwrap_or_default();
    Ok(batches.into_iter().find(|issued| issued.number == numbers.number))
}

/// Whether the log's end can no longer be taken back. To be asked under the log's lock, so that no merge sees it as ended
/// for good and somebody else as taken back.
fn is_over(state: &LogState, over: Mark) -> bool {
    match state.life.phase {
        Phase::Deleted => state.life.is_gone() || state.changed.life <= over.lsn,
        Phase::Live | Phase::Absent => state.life.has_expired(over.time),
    }
}

fn conditions(state: &LogState, batch: &LogBatch<'_>, now: &Now<'_>) -> Result<()> {
    let creates = matches!(batch.ops[0], LogOp::Create { .. } | LogOp::Fork { .. });
    let phase = state.life.phase_at(now.time);
    if phase == Phase::Deleted && !creates && batch.ops[0] != LogOp::Undelete {
        let what = ended(&state.life);
        return Err(Error::new(ErrorKind::Deleted, what).remedy("undelete it, or create it again"));
    }
    if phase == Phase::Deleted
        && batch.ops[0] == LogOp::Undelete
        && is_over(state, (now.over)())
        && !mutants::makes(Mutant::GraceForgotten)
    {
        let what = format!("{} longer ago than can be taken back", ended(&state.life));
        return Err(Error::new(ErrorKind::Deleted, what).remedy("create it again"));
    }
    if let Some(created) = batch.expect_created
        && created != state.life.created
    {
        return Err(Error::new(ErrorKind::Replaced, "the log is not the one that was created at that LSN")
            .remedy("look it up anew, and decide"));
    }
    if let Some(cursor) = batch.expect_at
        && cursor != history::cursor(&state.timelines, state.next_seq)
    {
        return Err(Error::new(ErrorKind::Condition, format!("the log's end is not {cursor}"))
            .expecting(state.next_seq.0)
            .remedy("read what came in between, and decide"));
    }
    if let Some(expected) = batch.expect_next
        && expected != state.next_seq.0
    {
        return Err(Error::new(ErrorKind::Condition, format!("the log's next seq is not {expected}"))
            .expecting(state.next_seq.0)
            .remedy("read what came in between, and decide"));
    }
    if let Some(tag) = batch.tag
        && (phase == Phase::Live || !creates)
        && tag <= &state.life.tag[..]
    {
        return Err(Error::new(ErrorKind::Condition, "the tag is not greater than the log's")
            .remedy("read what came in between, and decide"));
    }
    Ok(())
}

/// The entries, each checked against what those before it leave.
fn entries<'a>(state: &LogState, batch: &LogBatch<'a>, parent: Option<&Parent>, now: TimeUs) -> Result<Entries<'a>> {
    let mut next = state.next_seq;
    let phase = state.life.phase_at(now);
    let mut closed = state.life.closed && phase == Phase::Live;
    let mut out = Entries::with_capacity(batch.ops.len());
    for op in &batch.ops {
        let (kind, payload) = match *op {
            LogOp::Create { if_missing: true, .. } if phase == Phase::Live => continue,
            LogOp::Create { metadata, .. } => {
                if phase == Phase::Live {
                    return Err(Error::new(ErrorKind::Exists, "the log exists").expecting(next.0));
                }
                if phase != state.life.phase {
                    // From here on something rests on its having expired, which no clock must be able to take back.
                    out.push(Planned::bare(Kind::Delete, next));
                }
                // The seq behind a deleted log's head is skipped, so that a cursor there is known to be an old one.
                next = if phase == Phase::Deleted { next.next() } else { next };
                (Kind::Create, Create { name: batch.name, metadata }.encode().into())
            }
            LogOp::Fork { at, .. } => {
                let parent = parent.expect("the caller looked the parent up");
                next = Seq(at);
                (Kind::Fork, fork(state, batch.name, parent, Seq(at), now)?.into())
            }
            LogOp::Record(_) if closed => {
                return Err(Error::new(ErrorKind::Closed, "the log is closed").expecting(next.0));
            }
            LogOp::Record(payload) => (Kind::Record, payload.into()),
            LogOp::Close => {
                closed = true;
                (Kind::Close, Cow::default())
            }
            LogOp::Trim(first) if first > next.0 => {
                return Err(Error::new(ErrorKind::Invalid, format!("a trim to {first}, past the log's end"))
                    .expecting(next.0)
                    .remedy("trim to the next seq at most"));
            }
            LogOp::Trim(first) => (Kind::Trim, first_kept_payload(Seq(first)).into()),
            LogOp::Delete => (Kind::Delete, Cow::default()),
            LogOp::Undelete if phase == Phase::Live => {
                return Err(Error::new(ErrorKind::Exists, "the log is not deleted"));
            }
            LogOp::Undelete => {
                closed = state.life.closed;
                (Kind::Undelete, Cow::default())
            }
            LogOp::Metadata(metadata) => (Kind::Metadata, metadata.into()),
            LogOp::Expire(after) => {
                let after = after.map(|after| u64::try_from(after.as_micros()).unwrap_or(u64::MAX));
                let expiry = after.map_or(TimeUs(0), |after| TimeUs(now.0.saturating_add(after).max(1)));
                (Kind::Expire, expiry_payload(expiry).into())
            }
        };
        out.push(Planned { kind, seq: next, payload, producer: None, tag: None });
        if kind == Kind::Record {
            next = next.next();
        }
    }
    Ok(out)
}

fn fork(state: &LogState, name: &str, parent: &Parent, at: Seq, now: TimeUs) -> Result<Vec<u8>> {
    match state.life.phase_at(now) {
        Phase::Absent => {}
        Phase::Live => return Err(Error::new(ErrorKind::Exists, "the log exists")),
        Phase::Deleted => {
            return Err(Error::new(ErrorKind::Deleted, "a fork cannot take the place of a deleted log")
                .remedy("fork to another name"));
        }
    }
    let refuse = |kind, what: &str| Err(Error::new(kind, format!("the log to fork {what}")));
    match parent.state.life.phase_at(now) {
        Phase::Absent => return refuse(ErrorKind::NotFound, "does not exist"),
        Phase::Deleted => return refuse(ErrorKind::Deleted, "was deleted, or has expired"),
        Phase::Live if at > parent.state.next_seq => return refuse(ErrorKind::Invalid, "ends before that seq"),
        Phase::Live if at < parent.state.life.trim => return refuse(ErrorKind::Trimmed, "was trimmed past that seq"),
        Phase::Live => {}
    }
    let timelines: Vec<(Timeline, Seq)> =
        parent.state.timelines.iter().copied().filter(|(_, first)| *first < at).collect();
    let create = Create { name, metadata: &parent.state.metadata };
    // A fork below the point where its parent is itself a fork is one of the grandparent, so that chains stay short.
    let id = match parent.state.life.fork {
        Some((grandparent, forked_at)) if at <= forked_at => grandparent,
        _ => parent.id,
    };
    Ok(ForkOf { create, parent: id, at, trim: parent.state.life.trim, timelines }.encode())
}
