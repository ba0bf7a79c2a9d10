//! What an entry does to its log's state: the one place, for appends, recovery and flush alike.
//!
//! Whether an entry may be made at all is decided before, in `commit`; here it is only carried out.

use crate::format::entry::{Create, Entry, ForkOf, Kind, ProducerMark, decode_expiry, decode_first_kept};
use crate::format::state::{Issued, LogState, Phase, Producers};
use crate::format::{Decoded, Malformed};
use crate::limits::{PRODUCER_WINDOW, TIMELINES_PER_LOG_MAX};
use crate::types::{Lsn, Seq, TimeUs, Timeline};
use std::sync::Arc;

/// Where an entry stands in the order of all.
#[derive(Clone, Copy, Debug)]
pub struct Stamp {
    /// Its LSN.
    pub lsn: Lsn,
    /// Its frame's time.
    pub time: TimeUs,
    /// Its frame's timeline.
    pub timeline: Timeline,
}

/// Carries out `entry` on `state`.
///
/// # Errors
/// If the entry does not fit the state: the bytes are intact but not what this engine writes.
pub fn apply(state: &mut LogState, entry: &Entry<'_>, stamp: Stamp) -> Decoded<()> {
    match entry.kind {
        Kind::Record => apply_record(state, entry.seq, stamp)?,
        Kind::Create => create(state, Create::decode(entry.payload)?, entry.seq, stamp),
        Kind::Fork => {
            let fork = ForkOf::decode(entry.payload)?;
            create(state, fork.create, entry.seq, stamp);
            state.life.fork = Some((fork.parent, fork.at));
            state.life.trim = fork.trim;
            state.timelines = fork.timelines.into();
            state.changed.timelines = stamp.lsn;
        }
        Kind::Close => state.life.closed = true,
        Kind::Trim => state.life.trim = state.life.trim.max(decode_first_kept(entry.payload)?),
        Kind::Pin => {
            let kept = decode_first_kept(entry.payload)?;
            state.life.pinned = Some(state.life.pinned.map_or(kept, |before| before.min(kept)));
        }
        Kind::Delete => {
            state.life.phase = Phase::Deleted;
            state.life.deleted_at = stamp.time;
        }
        Kind::Undelete => {
            state.life.phase = Phase::Live;
            state.life.deleted_at = TimeUs(0);
            // Otherwise it could be over again in the same moment.
            state.life.expiry = TimeUs(0);
        }
        Kind::Expire => state.life.expiry = decode_expiry(entry.payload)?,
        Kind::Metadata => {
            state.metadata = entry.payload.to_vec();
            state.changed.metadata = stamp.lsn;
        }
    }
    if !matches!(entry.kind, Kind::Record | Kind::Metadata) {
        state.changed.life = stamp.lsn;
    }
    if let Some(tag) = entry.tag {
        state.life.tag = tag.to_vec();
        state.changed.life = stamp.lsn;
    }
    if let Some(mark) = &entry.producer {
        note_producer(&mut state.producers, mark, entry.seq, stamp.lsn);
        state.changed.producers = stamp.lsn;
    }
    state.last_lsn = stamp.lsn;
    Ok(())
}

/// Carries out a record that bears neither producer nor tag; of others this is a part.
///
/// # Errors
/// As [`apply`].
pub fn apply_record(state: &mut LogState, seq: Seq, stamp: Stamp) -> Decoded<()> {
    if seq != state.next_seq {
        return Err(Malformed { what: "a record whose seq is not its log's next", at: 0 });
    }
    note_timeline(state, seq, stamp);
    state.next_seq = seq.next();
    state.last_lsn = stamp.lsn;
    Ok(())
}

fn create(state: &mut LogState, create: Create<'_>, next_seq: Seq, stamp: Stamp) {
    if state.life.phase == Phase::Deleted {
        // Of what was before, only who wrote the last record, and what forks of it read: it is as if it were gone.
        if let Some((last, first)) = state.timelines.last().copied() {
            state.timelines = Arc::new([(last, first.max(Seq(state.next_seq.0.saturating_sub(1))))]);
            state.changed.timelines = stamp.lsn;
        }
        if state.life.pinned.is_none() {
            state.life.fork = None;
        }
        // The skipped seq counts as written by the present timeline, so that a cursor at the old head is invalid.
        note_timeline(state, state.next_seq, stamp);
        state.life.trim = next_seq;
    }
    state.next_seq = next_seq;
    state.life.created = stamp.lsn;
    state.life.phase = Phase::Live;
    state.life.closed = false;
    state.life.deleted_at = TimeUs(0);
    state.life.expiry = TimeUs(0);
    state.life.tag.clear();
    if *state.name != *create.name {
        state.name = create.name.into();
    }
    state.metadata = create.metadata.to_vec();
    state.changed.metadata = stamp.lsn;
    if state.producers != Producers::default() {
        state.producers = Producers::default();
        state.changed.producers = stamp.lsn;
    }
}

fn note_timeline(state: &mut LogState, seq: Seq, stamp: Stamp) {
    if state.timelines.last().is_none_or(|(last, _)| *last != stamp.timeline) {
        let left_out = usize::from(state.timelines.len() == TIMELINES_PER_LOG_MAX);
        let kept = state.timelines[left_out..].iter().copied();
        state.timelines = kept.chain([(stamp.timeline, seq)]).collect();
        state.changed.timelines = stamp.lsn;
    }
}

fn note_producer(producers: &mut Producers, mark: &ProducerMark<'_>, first_seq: Seq, first_lsn: Lsn) {
    let producer = match producers.list.get_mut(mark.id) {
        Some(producer) => producer,
        None => {
            producers.known += 1;
            producers.list.entry(mark.id.to_vec()).or_default()
        }
    };
    if producer.epoch != mark.epoch {
        producer.epoch = mark.epoch;
        producer.batches.clear();
    }
    if producer.batches.len() == PRODUCER_WINDOW {
        producer.batches.pop_front();
    }
    // The mark stands in the first entry of what the batch holds for the log; a creation or deletion can only be the
    // first or the last of them, so the seqs in between are dense.
    producer.batches.push_back(Issued {
        number: mark.number,
        digest: mark.digest,
        lsn: Lsn(first_lsn.0 + u64::from(mark.entries.saturating_sub(1))),
        first_seq,
        next_seq: Seq(first_seq.0 + u64::from(mark.records)),
    });
}
