//! The state records of a segment against what follows from the entries up to its end.
//!
//! Where a merge left out entries that may have changed a group, the record's word on it is taken over: it must be well
//! formed, and hold what the entries that are there say. Invariant: a segment passes only if each of its logs has the
//! next seq, the place of its state and, in a state record, each other group exactly as the entries make them; producers
//! together with the records that the group refers to.

use super::bytes::Bytes;
use super::entry::{LogId, METADATA_BYTES_MAX, NAME_BYTES_MAX, TimelineId, timelines};
use super::fold::{Fold, Known, Phase, Producer, Sent, State, TIMELINES_MAX, WINDOW};
use super::heads::SegmentMeta;
use super::segment::{LastChunk, Segment};
use super::{Fault, Result};
use std::collections::BTreeMap;

const PRODUCERS_MAX: u64 = 1024;

/// The producers of one state record: the LSN of the record with the older part, and the numbers by producer.
#[derive(Default)]
struct Group {
    older: u64,
    producers: Vec<(Vec<u8>, Producer)>,
}

type Timelines = Vec<(TimelineId, u64)>;

/// What the segments before said of producers and timelines, by log and segment.
#[derive(Default)]
pub struct States {
    groups: BTreeMap<(LogId, u64), Group>,
    timelines: BTreeMap<(LogId, u64), Timelines>,
    /// The LSN of the last change of a log's timelines as of the segment before.
    listed: BTreeMap<LogId, u64>,
}

impl States {
    /// `fold` has every entry up to the end of `segment`, and none behind it; `metas` are all segments.
    pub fn check(&mut self, fold: &mut Fold<'_>, segment: &Segment, metas: &[SegmentMeta]) -> Result<()> {
        for (id, chunk) in &segment.logs {
            let state =
                fold.logs.get_mut(id).ok_or_else(|| Fault::damaged(&segment.file, 0, "a log without entries"))?;
            let at = chunk.state.as_ref().map_or(0, |record| record.at);
            Checking { segment, metas, at, id: *id, state, states: self }.log(chunk)?;
        }
        Ok(())
    }
}

/// The group life of a state record.
#[derive(Debug, PartialEq, Eq)]
struct Life {
    created: u64,
    phase: u8,
    closed: bool,
    /// Trim, deletion and expiry.
    ends: (u64, u64, u64),
    tag: Vec<u8>,
    fork: Option<(LogId, u64)>,
    pinned: u64,
}

impl Life {
    fn read(bytes: &mut Bytes<'_>) -> Result<Self> {
        Ok(Self {
            created: bytes.varint()?,
            phase: bytes.u8()?,
            closed: bytes.flag()?,
            ends: (bytes.varint()?, bytes.varint()?, bytes.varint()?),
            tag: bytes.bytes(256)?.to_vec(),
            fork: if bytes.flag()? { Some((bytes.array()?, bytes.varint()?)) } else { None },
            pinned: bytes.varint()?,
        })
    }

    fn of(state: &State) -> Self {
        Self {
            created: state.created,
            phase: state.phase as u8,
            closed: state.closed,
            ends: (state.trim, state.deleted_at, state.expiry),
            tag: state.tag.clone(),
            fork: state.fork,
            pinned: state.pinned,
        }
    }

    /// What flag 8 of the index tells.
    fn has_end(&self) -> bool {
        self.phase == Phase::Deleted as u8 || self.ends.0 > 0 || self.ends.2 > 0
    }
}

struct Checking<'a> {
    segment: &'a Segment,
    metas: &'a [SegmentMeta],
    /// Where the state of the log's stripe begins in the file, if its record is here.
    at: usize,
    id: LogId,
    state: &'a mut State,
    states: &'a mut States,
}

impl Checking<'_> {
    fn wrong(&self, what: &str) -> Fault {
        let what = format!("log {} ({:02x?}): {what}", self.state.name.escape_ascii(), self.id);
        Fault::damaged(&self.segment.file, self.at, what)
    }

    fn same<T: PartialEq + std::fmt::Debug>(&self, what: &str, expected: &T, found: &T) -> Result<()> {
        if expected == found {
            return Ok(());
        }
        Err(self.wrong(&format!("{what} is {found:?}, the entries say {expected:?}")))
    }

    fn log(mut self, chunk: &LastChunk) -> Result<()> {
        self.same("the next seq", &self.state.next, &chunk.next_seq)?;
        if chunk.gone.is_some() {
            self.remember_gone();
            return Ok(());
        }
        self.last_change(chunk)?;
        let mut has_end = false;
        if let Some(record) = &chunk.state {
            let mut bytes = Bytes::new(&self.segment.file, record.at, &record.bytes);
            has_end = self.life(&mut bytes)?;
            self.timelines(&mut bytes)?;
            self.metadata(&mut bytes)?;
            self.producers(&mut bytes)?;
            bytes.end()?;
        }
        // Of a log that is to expire each segment says so; of one that is gone by now nobody knows whether it was to.
        let expires = self.state.expiry > 0 || (self.state.gone && chunk.ends);
        self.same("flag 8 of the index", &(has_end || expires), &chunk.ends)?;
        (self.state.known, self.state.tag_unknown) = (Known::All, false);
        self.states.listed.insert(self.id, self.state.changed.timelines);
        Ok(())
    }

    /// What a reference to an entry of the index finds that says that its log is gone.
    fn remember_gone(&mut self) {
        let key = (self.id, self.here());
        self.states.groups.insert(key, Group::default());
        self.states.timelines.insert(key, self.state.timelines.clone());
        self.states.listed.insert(self.id, self.state.changed.timelines);
    }

    fn last_change(&self, chunk: &LastChunk) -> Result<()> {
        let changed = &self.state.changed;
        // Where records were left out, the first that is there of a timeline need not be the first that was.
        let sure = changed.life.max(changed.metadata).max(changed.producers);
        let last = sure.max(changed.timelines);
        let here = self.covering(chunk.changed) == Some(self.here());
        self.same("whether the state is here", &here, &chunk.state.is_some())?;
        if self.state.gone {
            return Ok(());
        }
        if self.state.known == Known::All && last >= self.segment.first_lsn {
            return self.same("the LSN of the last change", &last, &chunk.changed);
        }
        if self.state.known != Known::All && here {
            return self.same("the LSN of the last change", &chunk.changed.max(sure), &chunk.changed);
        }
        self.same("the segment of the last change", &self.covering(last), &self.covering(chunk.changed))
    }

    /// The id of this segment.
    fn here(&self) -> u64 {
        self.covering(self.segment.first_lsn).expect("it covers itself")
    }

    /// The id of the segment that covers an LSN.
    fn covering(&self, lsn: u64) -> Option<u64> {
        self.metas.iter().find(|meta| (meta.first_lsn..=meta.last_lsn).contains(&lsn)).map(|meta| meta.id)
    }

    /// A group's mark, and the LSN that it refers to, 0 if none: in a segment before this one.
    fn mark(&self, bytes: &mut Bytes<'_>) -> Result<(u8, u64)> {
        match bytes.u8()? {
            mark @ (0 | 1) => Ok((mark, 0)),
            2 => match bytes.varint()? {
                lsn if (1..self.segment.first_lsn).contains(&lsn) => Ok((2, lsn)),
                lsn => Err(bytes.wrong(format!("a group refers to the LSN {lsn}"))),
            },
            mark => Err(bytes.wrong(format!("a group with the mark {mark}"))),
        }
    }

    /// Whether a group follows here. It was last changed at the LSN `changed`, if not by what is `unknown`.
    fn group(&self, what: &str, changed: u64, unknown: bool, bytes: &mut Bytes<'_>) -> Result<bool> {
        let (mark, before) = self.mark(bytes)?;
        let expected = match changed {
            0 => (0, None),
            lsn if lsn >= self.segment.first_lsn => (1, None),
            lsn => (2, self.covering(lsn)),
        };
        let taken_over = self.state.gone || (unknown && mark == 1);
        if !taken_over {
            let found = (mark, self.covering(before));
            self.same(&format!("the mark of the group {what}, and the segment that has it"), &expected, &found)?;
        }
        Ok(mark == 1)
    }

    /// Gives whether the group is here and says that the log is deleted or trimmed.
    fn life(&mut self, bytes: &mut Bytes<'_>) -> Result<bool> {
        if !self.group("life", self.state.changed.life, self.state.tag_unknown, bytes)? {
            return Ok(false);
        }
        let found = Life::read(bytes)?;
        if self.state.gone {
            return Ok(found.has_end());
        }
        let changed = &mut self.state.changed.life;
        *changed = self.segment.first_lsn.max(*changed);
        if self.state.tag_unknown {
            self.state.tag.clone_from(&found.tag);
        }
        if self.state.known == Known::Forgotten && found.fork.is_none() {
            self.state.fork = None;
        }
        self.same("the life", &Life::of(self.state), &found)?;
        Ok(found.has_end())
    }

    fn timelines(&mut self, bytes: &mut Bytes<'_>) -> Result<()> {
        let key = (self.id, self.here());
        if self.state.known == Known::All && !self.state.gone {
            if self.group("timelines", self.state.changed.timelines, false, bytes)? {
                let found = timelines(bytes)?;
                self.same("the timelines", &self.state.timelines, &found)?;
                self.states.timelines.insert(key, found);
            }
            return Ok(());
        }
        let (mark, before) = self.mark(bytes)?;
        let listed = self.states.listed.get(&self.id).copied().unwrap_or(0);
        if self.state.known == Known::Holed && mark != 1 {
            self.same("the segment that has the timelines", &self.covering(listed), &self.covering(before))?;
        }
        let (found, changed) = match mark {
            1 => (timelines(bytes)?, self.segment.first_lsn),
            0 => (Timelines::new(), 0),
            _ => {
                let of_before = self.covering(before).and_then(|id| self.states.timelines.get(&(self.id, id)));
                let found = of_before.or(self.state.gone.then_some(&self.state.timelines));
                (found.cloned().ok_or_else(|| bytes.wrong("no timelines are where it refers to"))?, before)
            }
        };
        if mark == 1 {
            self.states.timelines.insert(key, found.clone());
        }
        if !self.state.gone {
            self.check_timelines(&found)?;
        }
        (self.state.timelines, self.state.changed.timelines) = (found, changed);
        Ok(())
    }

    /// They are in order, each another than the one before it, and every seq that is there has its own.
    fn check_timelines(&self, found: &Timelines) -> Result<()> {
        let in_order = found.is_sorted_by(|a, b| a.0 != b.0 && a.1 < b.1);
        let within = found.last().is_none_or(|(_, first)| *first < self.state.next);
        if !in_order || !within || found.len() > TIMELINES_MAX {
            return Err(self.wrong("the timelines are out of order"));
        }
        for (seq, timeline) in &self.state.written {
            let of_seq = found.partition_point(|(_, first)| first <= seq).checked_sub(1).map(|n| found[n].0);
            if of_seq.is_some() || found.len() < TIMELINES_MAX {
                self.same(&format!("the timeline of {seq}"), &Some(*timeline), &of_seq)?;
            }
        }
        Ok(())
    }

    fn metadata(&mut self, bytes: &mut Bytes<'_>) -> Result<()> {
        if self.group("metadata", self.state.changed.metadata, false, bytes)? {
            let (name, metadata) = (bytes.bytes(NAME_BYTES_MAX)?.to_vec(), bytes.bytes(METADATA_BYTES_MAX)?.to_vec());
            if !self.state.gone {
                self.same("the name", &self.state.name, &name)?;
                self.same("the metadata", &self.state.metadata, &metadata)?;
            }
        }
        Ok(())
    }

    /// The producers that wrote in this segment, with the numbers of this segment; and all of them, with the older
    /// records.
    fn producers(&mut self, bytes: &mut Bytes<'_>) -> Result<()> {
        let (known, changed) = (self.state.known, self.state.changed.producers);
        let here = if known == Known::Forgotten && changed < self.segment.first_lsn {
            // The creation forgot all there were, if any; if none had to be, the older record is wherever this says.
            let (mark, before) = self.mark(bytes)?;
            self.state.changed.producers = before;
            mark == 1
        } else {
            self.group("producers", changed, known != Known::All, bytes)?
        };
        if !here {
            return Ok(());
        }
        let all = bytes.varint()?;
        let group = self.read_producers(bytes)?;
        let expected = self.of_segment();
        if known == Known::All && !self.state.gone {
            self.same("the producers of this segment", &expected, &group.producers)?;
        }
        self.states.groups.insert((self.id, self.here()), group);
        if self.state.gone {
            return Ok(());
        }
        let gathered = self.gathered(self.here());
        self.same("the number of producers", &all, &(gathered.len() as u64))?;
        if known == Known::All {
            return self.same("the producers with the older records", &self.state.producers, &gathered);
        }
        if !self.holds(&gathered) {
            return Err(self.wrong("the producers are not those that the entries tell of"));
        }
        self.state.producers = gathered;
        self.state.changed.producers = changed.max(self.segment.first_lsn);
        Ok(())
    }

    /// The numbers of this segment as the entries have them.
    fn of_segment(&self) -> Vec<(Vec<u8>, Producer)> {
        let here = |sent: &&Sent| sent.lsn >= self.segment.first_lsn;
        let producers = self.state.producers.iter().filter_map(|(id, producer)| {
            let sent: Vec<_> = producer.sent.iter().filter(here).cloned().collect();
            (!sent.is_empty()).then(|| (id.clone(), Producer { epoch: producer.epoch, sent }))
        });
        producers.collect()
    }

    /// The group behind the number of all producers: sorted, each with numbers of this segment that follow one another.
    fn read_producers(&self, bytes: &mut Bytes<'_>) -> Result<Group> {
        let (older, count) = (bytes.varint()?, bytes.varint()?);
        if count > PRODUCERS_MAX || older >= self.segment.first_lsn {
            return Err(bytes.wrong("too many producers, or older ones that are not older"));
        }
        let mut producers: Vec<(Vec<u8>, Producer)> = Vec::new();
        for _ in 0..count {
            let (id, epoch, batches) = (bytes.bytes(256)?.to_vec(), bytes.varint()?, bytes.varint()?);
            if !(1..=WINDOW as u64).contains(&batches) || producers.last().is_some_and(|(before, _)| *before >= id) {
                return Err(bytes.wrong("producers out of order, or one with too many batches or none"));
            }
            let mut sent: Vec<Sent> = Vec::new();
            for _ in 0..batches {
                let (number, digest, lsn) = (bytes.varint()?, bytes.u64()?, bytes.varint()?);
                let next = Sent { number, digest, lsn, first: bytes.varint()?, next: bytes.varint()? };
                let covered = (self.segment.first_lsn..=self.segment.last_lsn).contains(&lsn);
                let follows = sent.last().is_none_or(|last| follows(last, &next));
                if !covered || !follows || next.first > next.next || next.next > self.state.next {
                    return Err(bytes.wrong("a producer's batch that does not follow, or is not of this segment"));
                }
                sent.push(next);
            }
            producers.push((id, Producer { epoch, sent }));
        }
        Ok(Group { older, producers })
    }

    /// What the record of the segment `id` and those that it refers to say together: of a producer the newest epoch,
    /// and of that the newest numbers.
    fn gathered(&self, id: u64) -> BTreeMap<Vec<u8>, Producer> {
        let mut out: BTreeMap<Vec<u8>, Producer> = BTreeMap::new();
        let mut group = self.states.groups.get(&(self.id, id));
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
            group = self.covering(*older).and_then(|id| self.states.groups.get(&(self.id, id)));
        }
        out
    }

    /// Whether `gathered` has every batch that the entries tell of, unless newer ones took its place, and no other one
    /// but of this segment.
    fn holds(&self, gathered: &BTreeMap<Vec<u8>, Producer>) -> bool {
        let from = self.segment.first_lsn;
        // The last entry of a batch may have been left out: its LSN is then at least what is known.
        let same = |known: &Sent, found: &Sent| {
            let lsn = if known.lsn < from { known.lsn } else { found.lsn.max(known.lsn) };
            *found == Sent { lsn, ..known.clone() }
        };
        let has = |of: &Producer, known: &Sent| of.sent.iter().any(|found| same(known, found));
        let told = |id: &Vec<u8>, producer: &Producer, found: &Sent| {
            let known = self.state.producers.get(id).filter(|known| known.epoch == producer.epoch);
            known.is_some_and(|known| known.sent.iter().any(|known| same(known, found)))
        };
        let kept = self.state.producers.iter().all(|(id, known)| {
            gathered.get(id).is_some_and(|found| {
                let oldest = found.sent.first().map_or(0, |sent| sent.number);
                found.epoch != known.epoch || known.sent.iter().all(|sent| sent.number < oldest || has(found, sent))
            })
        });
        let mut found = gathered.iter().flat_map(|(id, of)| of.sent.iter().map(move |sent| (id, of, sent)));
        kept && found.all(|(id, of, sent)| sent.lsn >= from || told(id, of, sent))
    }
}

/// Whether a producer's batch follows on the one before it.
fn follows(last: &Sent, next: &Sent) -> bool {
    next.number == last.number + 1 && last.lsn < next.lsn && last.next <= next.first
}
