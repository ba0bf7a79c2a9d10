//! The segments in force, as one immutable snapshot, and what is looked up across them.
//!
//! Invariant: a snapshot never changes; a new one is installed after each flush and merge, and by a flush before it takes
//! the records out of memory, so that a reader who looked at memory first and takes the snapshot then misses nothing.

use crate::error::{Error, ErrorKind, Result};
use crate::format::manifest::Manifest;
use crate::format::state::{Changed, Lasting, LogState, Producer};
use crate::segment::{Group, IndexEntry, Segment, StateRecord};
use crate::sync::Arc;
use crate::types::{LogId, Lsn};

/// Segments that are asked for a log at once: most logs that are created are in none of them, and memory is slow.
const AHEAD: usize = 16;

/// The segments of one manifest version, oldest first.
#[derive(Clone, Debug)]
pub struct SegmentSet {
    /// The manifest version.
    pub manifest: Manifest,
    /// Its segments, by first LSN.
    pub segments: Vec<Arc<Segment>>,
}

impl SegmentSet {
    /// Everything up to this LSN lies in the segments.
    #[must_use]
    pub fn flushed(&self) -> Lsn {
        self.manifest.flushed.last_lsn
    }

    /// The log's state as the segments hold it; None if none of them knows the log. The producers are those of the
    /// newest record alone: see [`Self::producer`].
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`].
    pub fn state(&self, log: LogId) -> Result<Option<LogState>> {
        self.state_among(log, self.segments.len())
    }

    /// As [`Self::state`], as the first `count` segments hold it.
    ///
    /// # Errors
    /// As there.
    pub fn state_among(&self, log: LogId, count: usize) -> Result<Option<LogState>> {
        for group in self.segments[..count].rchunks(AHEAD) {
            let mut places = [None; AHEAD];
            places.iter_mut().zip(group).for_each(|(place, segment)| *place = segment.look_ahead(log));
            for (segment, place) in group.iter().zip(&mut places) {
                *place = place.and_then(|place| segment.look_closer(place, log));
            }
            for (segment, place) in group.iter().zip(places).rev() {
                let Some(place) = place else { continue };
                if let Some(entry) = segment.head_at(place, log)? {
                    return self.state_from(log, segment, &entry).map(Some);
                }
            }
        }
        Ok(None)
    }

    fn state_from(&self, log: LogId, segment: &Segment, entry: &IndexEntry) -> Result<LogState> {
        let at = entry.state_lsn;
        let here = entry.state_at.filter(|_| segment.meta().first_lsn <= at);
        let record = match (entry.gone(), here) {
            (Some(gone), _) => gone,
            (None, Some(place)) => segment.state(log, place)?,
            (None, None) => self.record(log, at)?,
        };
        let life = self.group(log, at, record.life, |r| r.life)?;
        let timelines = self.group(log, at, record.timelines, |r| r.timelines)?;
        let metadata = self.group(log, at, record.metadata, |r| r.metadata)?;
        let producers = self.group(log, at, record.producers, |r| r.producers)?;
        let lasting = Lasting {
            changed: Changed { life: life.1, timelines: timelines.1, metadata: metadata.1, producers: producers.1 },
            life: life.0,
            timelines: timelines.0,
            name: metadata.0.name,
            metadata: metadata.0.metadata,
            producers: producers.0,
        };
        Ok(LogState::new(entry.next_seq(), segment.meta().last_lsn, lasting))
    }

    /// A group of the record at `at`, or of the older record it refers to, with the LSN under which it is found again.
    fn group<T: Default>(
        &self, log: LogId, at: Lsn, group: Group<T>, pick: impl Fn(StateRecord) -> Group<T>,
    ) -> Result<(T, Lsn)> {
        match group {
            Group::Empty => Ok((T::default(), Lsn(0))),
            Group::Here(value) => Ok((value, at)),
            Group::At(older) if older < at => match pick(self.record(log, older)?) {
                Group::Here(value) => Ok((value, older)),
                _ => Err(broken(log, older, "a state record refers to one that does not hold the field")),
            },
            Group::At(older) => Err(broken(log, older, "a state record refers to a younger one")),
        }
    }

    /// The log's state record in the segment that covers `at`.
    fn record(&self, log: LogId, at: Lsn) -> Result<StateRecord> {
        let segment = self.covering(at).ok_or_else(|| broken(log, at, "no segment covers a state record"))?;
        let entry = segment.head(log)?.ok_or_else(|| broken(log, at, "a segment lacks a log it should hold"))?;
        if let Some(gone) = entry.gone() {
            return Ok(gone);
        }
        let place = entry.state_at.ok_or_else(|| broken(log, at, "a segment lacks a state record it should hold"))?;
        segment.state(log, place)
    }

    /// The segment that covers `lsn`.
    #[must_use]
    pub fn covering(&self, lsn: Lsn) -> Option<&Arc<Segment>> {
        let after = self.segments.partition_point(|s| s.meta().first_lsn <= lsn);
        self.segments[..after].last().filter(|s| s.meta().last_lsn >= lsn)
    }

    /// The producer with all of its batches that state records from `newest` backwards still hold, its epoch being the
    /// newest one; None if the log never knew it. `enough` ends the walk early.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`].
    pub fn producer(
        &self, log: LogId, newest: Lsn, id: &[u8], enough: impl Fn(&Producer) -> bool,
    ) -> Result<Option<Producer>> {
        let mut found: Option<Producer> = None;
        let mut at = newest;
        while at != Lsn(0) {
            let Group::Here(mut producers) = self.record(log, at)?.producers else {
                return Err(broken(log, at, "a state record lacks the producers it should hold"));
            };
            if producers.older >= at {
                return Err(broken(log, at, "a state record refers to a younger one"));
            }
            match (&mut found, producers.list.remove(id)) {
                (None, part) => found = part,
                (Some(whole), Some(part)) if part.epoch == whole.epoch => {
                    for batch in part.batches.into_iter().rev() {
                        whole.batches.push_front(batch);
                    }
                }
                (Some(_), Some(_)) => break,
                (Some(_), None) => {}
            }
            if found.as_ref().is_some_and(&enough) {
                break;
            }
            at = producers.older;
        }
        Ok(found)
    }
}

fn broken(log: LogId, lsn: Lsn, what: &str) -> Error {
    Error::new(ErrorKind::Damaged, what)
        .log(log.to_string())
        .lsns(lsn.0..lsn.0 + 1)
        .remedy("run everlog verify on the store")
}
