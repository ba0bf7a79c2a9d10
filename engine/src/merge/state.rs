//! What a merged segment says of a log's state, made of what its inputs say.
//!
//! Pure. A group of state stands in a segment if it changed there, and is otherwise referred to by the LSN of its last
//! change (docs/FORMAT.md, "State"). Invariant: a reference to an LSN that the merged segment covers is followed and its
//! target stands here; one to an older LSN is kept as it is. So a record that refers to nothing within the merged segment
//! is taken over without a look into it.

use crate::error::{Error, ErrorKind, Result};
use crate::format::segment::IndexEntry;
use crate::format::state::{Group, Producers, StateRecord};
use crate::limits::{PRODUCER_WINDOW, PRODUCERS_PER_LOG_MAX};
use crate::types::{LogId, Lsn, Seq};
use std::ops::RangeInclusive;

/// What an input holds of a log.
pub(super) struct Part {
    /// Which input it is.
    pub(super) input: usize,
    /// The LSNs that the input covers.
    pub(super) lsns: RangeInclusive<Lsn>,
    /// The log's last chunk there.
    pub(super) last: IndexEntry,
    /// The log's state record, encoded, if it has one there.
    pub(super) state: Option<Vec<u8>>,
}

impl Part {
    fn record(&self, log: LogId) -> Result<Option<StateRecord>> {
        let decoded = self.state.as_deref().map(StateRecord::decode).transpose();
        decoded.map_err(|m| misfit(log, *self.lsns.start(), m.what))
    }
}

/// What the merged segment says of a log.
pub(super) struct Merged {
    /// Its next seq.
    pub(super) next_seq: Seq,
    /// The LSN of the last change of its state.
    pub(super) changed: Lsn,
    /// Its state record, encoded, if that lies within the segment.
    pub(super) record: Option<Vec<u8>>,
    /// Whether something of it may be given back by the word of this segment.
    pub(super) ends: bool,
}

/// What a merged segment that begins at `first` says of a log. `parts` are those of the inputs that hold it, oldest first.
///
/// # Errors
/// [`ErrorKind::Damaged`] if they refer to what is not there.
pub(super) fn merged(log: LogId, mut parts: Vec<Part>, first: Lsn) -> Result<Merged> {
    let newest = parts.last().expect("a log that is merged is in an input").last;
    let (next_seq, changed) = (newest.next_seq(), newest.state_lsn);
    if changed < first {
        return Ok(Merged { next_seq, changed, record: None, ends: newest.ends() });
    }
    let oldest = &mut parts[0];
    if oldest.lsns.contains(&changed) {
        // What it refers to is older than all inputs.
        let record = Some(oldest.state.take().ok_or_else(|| lacking(log, changed))?);
        return Ok(Merged { next_seq, changed, record, ends: oldest.last.ends() || newest.ends() });
    }
    let records = parts.iter().map(|part| Ok((part.lsns.clone(), part.record(log)?))).collect::<Result<_>>()?;
    let parts = Parts { log, records, first };
    let record = parts.record(changed)?;
    let merged = StateRecord {
        life: parts.group(&record.life, |r| &r.life)?,
        timelines: parts.group(&record.timelines, |r| &r.timelines)?,
        metadata: parts.group(&record.metadata, |r| &r.metadata)?,
        producers: match parts.group(&record.producers, |r| &r.producers)? {
            Group::Here(newest) => Group::Here(parts.producers(newest)?),
            other => other,
        },
    };
    // What was said of it before the inputs, the newest of them repeats.
    let said_here = matches!(merged.life, Group::Here(_));
    let ends = if said_here { merged.ends() } else { newest.ends() };
    Ok(Merged { next_seq, changed, record: Some(merged.encoded()), ends })
}

fn lacking(log: LogId, at: Lsn) -> Error {
    misfit(log, at, "a segment lacks a state record it should hold")
}

/// Intact bytes that do not fit together.
pub(super) fn misfit(log: LogId, lsn: Lsn, what: &str) -> Error {
    Error::new(ErrorKind::Damaged, what)
        .log(log.to_string())
        .lsns(lsn.0..lsn.0 + 1)
        .remedy("run everlog verify on the store")
}

struct Parts {
    log: LogId,
    /// The LSNs that each input covers, and its state record.
    records: Vec<(RangeInclusive<Lsn>, Option<StateRecord>)>,
    first: Lsn,
}

impl Parts {
    /// The log's state record in the input that covers `at`.
    fn record(&self, at: Lsn) -> Result<&StateRecord> {
        let covering = self.records.iter().find(|(lsns, _)| lsns.contains(&at));
        covering.and_then(|(_, record)| record.as_ref()).ok_or_else(|| lacking(self.log, at))
    }

    fn group<T: Clone>(&self, group: &Group<T>, pick: impl Fn(&StateRecord) -> &Group<T>) -> Result<Group<T>> {
        match group {
            Group::At(at) if *at >= self.first => match pick(self.record(*at)?) {
                here @ Group::Here(_) => Ok(here.clone()),
                _ => Err(misfit(self.log, *at, "a state record refers to one that does not hold the field")),
            },
            other => Ok(other.clone()),
        }
    }

    /// `newest` with the older numbers that the inputs hold, of each producer's newest epoch alone.
    fn producers(&self, newest: Producers) -> Result<Producers> {
        let mut all = newest;
        while all.older >= self.first {
            let at = all.older;
            let Group::Here(older) = &self.record(at)?.producers else {
                return Err(misfit(self.log, at, "a state record lacks the producers it should hold"));
            };
            if older.older >= at {
                return Err(misfit(self.log, at, "a state record refers to a younger one"));
            }
            for (id, part) in &older.list {
                let Some(whole) = all.list.get_mut(id) else {
                    all.list.insert(id.clone(), part.clone());
                    continue;
                };
                let room = PRODUCER_WINDOW.saturating_sub(whole.batches.len());
                if whole.epoch == part.epoch {
                    part.batches.iter().rev().take(room).for_each(|batch| whole.batches.push_front(*batch));
                }
            }
            all.older = older.older;
        }
        if all.list.len() > PRODUCERS_PER_LOG_MAX {
            return Err(misfit(self.log, self.first, "more producers than a log can have"));
        }
        Ok(all)
    }
}
