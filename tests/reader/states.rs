//! The state records of a segment against what follows from the entries up to its end.
//!
//! It computes nothing of its own. Invariant: a segment passes only if each of its logs has the next seq, the place of
//! its state and, in a state record, each group exactly as the entries make them; producers together with the records
//! that the group refers to.

use super::bytes::Bytes;
use super::entry::{LogId, METADATA_BYTES_MAX, NAME_BYTES_MAX, timelines};
use super::fold::{Fold, Producer, Sent, State};
use super::heads::SegmentMeta;
use super::segment::{LastChunk, Segment};
use super::{Fault, Result};
use std::collections::BTreeMap;

const PRODUCERS_MAX: u64 = 1024;
const WINDOW: usize = 64;

/// The producers of one state record: the LSN of the record with the older part, and the numbers by producer.
struct Group {
    older: u64,
    producers: Vec<(Vec<u8>, Producer)>,
}

/// What the segments before said of producers, by log and segment.
#[derive(Default)]
pub struct States {
    groups: BTreeMap<(LogId, u64), Group>,
}

impl States {
    /// `fold` has every entry up to the end of `segment`, and none behind it; `metas` are all segments.
    pub fn check(&mut self, fold: &Fold<'_>, segment: &Segment, metas: &[SegmentMeta]) -> Result<()> {
        for (id, chunk) in &segment.logs {
            let state = fold.logs.get(id).ok_or_else(|| Fault::damaged(&segment.file, 0, "a log without entries"))?;
            let at = chunk.state.as_ref().map_or(0, |record| record.at);
            Checking { segment, metas, at, id: *id, state, groups: &mut self.groups }.log(chunk)?;
        }
        Ok(())
    }
}

struct Checking<'a> {
    segment: &'a Segment,
    metas: &'a [SegmentMeta],
    /// Where the state of the log's stripe begins in the file, if its record is here.
    at: usize,
    id: LogId,
    state: &'a State,
    groups: &'a mut BTreeMap<(LogId, u64), Group>,
}

impl Checking<'_> {
    fn same<T: PartialEq + std::fmt::Debug>(&self, what: &str, expected: &T, found: &T) -> Result<()> {
        if expected == found {
            return Ok(());
        }
        let name = self.state.name.escape_ascii();
        let what = format!("log {name} ({:02x?}): {what} is {found:?}, the entries say {expected:?}", self.id);
        Err(Fault::damaged(&self.segment.file, self.at, what))
    }

    fn log(mut self, chunk: &LastChunk) -> Result<()> {
        self.same("the next seq", &self.state.next, &chunk.next_seq)?;
        let changed = &self.state.changed;
        let last = changed.life.max(changed.timelines).max(changed.metadata).max(changed.producers);
        if last >= self.segment.first_lsn {
            self.same("the LSN of the last change", &last, &chunk.changed)?;
        } else {
            self.same("the segment of the last change", &self.covering(last), &self.covering(chunk.changed))?;
        }
        self.same("whether the state is here", &(last >= self.segment.first_lsn), &chunk.state.is_some())?;
        let Some(record) = &chunk.state else { return Ok(()) };
        let mut bytes = Bytes::new(&self.segment.file, record.at, &record.bytes);
        if self.group("life", changed.life, &mut bytes)? {
            self.life(&mut bytes)?;
        }
        if self.group("timelines", changed.timelines, &mut bytes)? {
            let found = timelines(&mut bytes)?;
            self.same("the timelines", &self.state.timelines, &found)?;
        }
        if self.group("metadata", changed.metadata, &mut bytes)? {
            let (name, metadata) = (bytes.bytes(NAME_BYTES_MAX)?.to_vec(), bytes.bytes(METADATA_BYTES_MAX)?.to_vec());
            self.same("the name", &self.state.name, &name)?;
            self.same("the metadata", &self.state.metadata, &metadata)?;
        }
        if self.group("producers", changed.producers, &mut bytes)? {
            self.producers(&mut bytes)?;
        }
        bytes.end()
    }

    /// The id of the segment that covers an LSN.
    fn covering(&self, lsn: u64) -> Option<u64> {
        self.metas.iter().find(|meta| (meta.first_lsn..=meta.last_lsn).contains(&lsn)).map(|meta| meta.id)
    }

    /// Whether a group follows here.
    fn group(&self, what: &str, changed: u64, bytes: &mut Bytes<'_>) -> Result<bool> {
        let mark = bytes.u8()?;
        let before = if mark == 2 { bytes.varint()? } else { 0 };
        let expected = match changed {
            0 => (0, None),
            lsn if lsn >= self.segment.first_lsn => (1, None),
            lsn => (2, self.covering(lsn)),
        };
        let found = (mark, self.covering(before));
        self.same(&format!("the mark of the group {what}, and the segment that has it"), &expected, &found)?;
        Ok(mark == 1)
    }

    fn life(&self, bytes: &mut Bytes<'_>) -> Result<()> {
        let state = self.state;
        let created = bytes.varint()?;
        self.same("the creation", &state.created, &created)?;
        let phase = bytes.u8()?;
        self.same("the phase", &(state.phase as u8), &phase)?;
        let closed = bytes.flag()?;
        self.same("closed", &state.closed, &closed)?;
        let (trim, deleted_at, expiry) = (bytes.varint()?, bytes.varint()?, bytes.varint()?);
        self.same("trim, deletion and expiry", &(state.trim, state.deleted_at, 0), &(trim, deleted_at, expiry))?;
        let tag = bytes.bytes(256)?.to_vec();
        self.same("the tag", &state.tag, &tag)?;
        let fork = if bytes.flag()? { Some((bytes.array()?, bytes.varint()?)) } else { None };
        self.same("the fork", &state.fork, &fork)
    }

    /// The producers that wrote in this segment, with the numbers of this segment; and all of them, with the older
    /// records.
    fn producers(&mut self, bytes: &mut Bytes<'_>) -> Result<()> {
        let all = bytes.varint()?;
        self.same("the number of producers", &(self.state.producers.len() as u64), &all)?;
        let (older, count) = (bytes.varint()?, bytes.varint()?);
        if count > PRODUCERS_MAX {
            return Err(bytes.wrong("too many producers"));
        }
        let mut producers = Vec::new();
        for _ in 0..count {
            let (id, epoch, batches) = (bytes.bytes(256)?.to_vec(), bytes.varint()?, bytes.varint()?);
            let mut sent = Vec::new();
            for _ in 0..batches {
                let (number, digest, lsn) = (bytes.varint()?, bytes.u64()?, bytes.varint()?);
                sent.push(Sent { number, digest, lsn, first: bytes.varint()?, next: bytes.varint()? });
            }
            producers.push((id, Producer { epoch, sent }));
        }
        let here = |sent: &&Sent| sent.lsn >= self.segment.first_lsn;
        let expected = self.state.producers.iter().filter_map(|(id, producer)| {
            let sent: Vec<_> = producer.sent.iter().filter(here).cloned().collect();
            (!sent.is_empty()).then(|| (id.clone(), Producer { epoch: producer.epoch, sent }))
        });
        self.same("the producers of this segment", &expected.collect(), &producers)?;
        let of_segment = (self.id, self.covering(self.segment.first_lsn).expect("it covers itself"));
        self.groups.insert(of_segment, Group { older, producers });
        let gathered = self.gathered(of_segment.1);
        self.same("the producers with the older records", &self.state.producers, &gathered)
    }

    /// What the record of the segment `id` and those that it refers to say together: of a producer the newest epoch,
    /// and of that the newest numbers.
    fn gathered(&self, id: u64) -> BTreeMap<Vec<u8>, Producer> {
        let mut out: BTreeMap<Vec<u8>, Producer> = BTreeMap::new();
        let mut group = self.groups.get(&(self.id, id));
        while let Some(Group { older, producers }) = group {
            for (id, producer) in producers {
                let known =
                    out.entry(id.clone()).or_insert_with(|| Producer { epoch: producer.epoch, sent: Vec::new() });
                if known.epoch == producer.epoch {
                    let room = WINDOW - known.sent.len();
                    let newest = producer.sent.len().saturating_sub(room);
                    known.sent.splice(0..0, producer.sent[newest..].iter().cloned());
                }
            }
            group = self.covering(*older).and_then(|id| self.groups.get(&(self.id, id)));
        }
        out
    }
}
