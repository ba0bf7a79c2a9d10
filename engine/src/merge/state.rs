//! What a merged segment says of a log's state, made of what its inputs say.
//!
//! Pure. A group of state stands in a segment if it changed there, and is otherwise referred to by the LSN of its last
//! change (docs/FORMAT.md, "State"). Invariant: a reference to an LSN that the merged segment covers is followed and its
//! target stands here; one to an older LSN is kept as it is. The record of the oldest input that holds the log can refer only to
//! what is older than all inputs, and is taken over without a look into it.

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

/// Why it cannot be told, and the input to blame.
pub(super) type Blamed = (Error, usize);

/// What a merged segment that begins at `first` says of a log. `parts` are those of the inputs that hold it, oldest first.
///
/// # Errors
/// [`ErrorKind::Damaged`] if they refer to what is not there.
pub(super) fn merged(log: LogId, mut parts: Vec<Part>, first: Lsn) -> Result<Merged, Blamed> {
    let newest = parts.last().expect("a log that is merged is in an input").last;
    let (next_seq, changed) = (newest.next_seq(), newest.state_lsn);
    if changed < first {
        return Ok(Merged { next_seq, changed, record: None, ends: newest.ends() });
    }
    let oldest = &mut parts[0];
    if oldest.lsns.contains(&changed) {
        let record = oldest.state.take().ok_or_else(|| lacking(log, changed, oldest.input))?;
        let ends = oldest.last.ends() || newest.ends();
        return Ok(Merged { next_seq, changed, record: Some(record), ends });
    }
    let parts = Parts { log, parts, first };
    let (record, _) = parts.record(changed)?;
    let merged = StateRecord {
        life: parts.group(record.life, |r| r.life)?,
        timelines: parts.group(record.timelines, |r| r.timelines)?,
        metadata: parts.group(record.metadata, |r| r.metadata)?,
        producers: match parts.group(record.producers, |r| r.producers)? {
            Group::Here(newest) => Group::Here(parts.producers(newest)?),
            other => other,
        },
    };
    // What was said of it before the inputs, the newest of them repeats.
    let said_here = matches!(merged.life, Group::Here(_));
    let ends = if said_here { merged.ends() } else { newest.ends() };
    Ok(Merged { next_seq, changed, record: Some(merged.encoded()), ends })
}

fn lacking(log: LogId, at: Lsn, input: usize) -> Blamed {
    (misfit(log, at, "a segment lacks a state record it should hold"), input)
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
    parts: Vec<Part>,
    first: Lsn,
}

impl Parts {
    /// The log's state record in the input that covers `at`, and which that is.
    fn record(&self, at: Lsn) -> Result<(StateRecord, usize), Blamed> {
        let newest = self.parts.last().expect("a log that is merged is in an input");
        let part = self.parts.iter().find(|part| part.lsns.contains(&at));
        let part = part.ok_or_else(|| lacking(self.log, at, newest.input))?;
        let record = part.state.as_deref().ok_or_else(|| lacking(self.log, at, part.input))?;
        let record = StateRecord::decode(record).map_err(|m| (misfit(self.log, at, m.what), part.input))?;
        Ok((record, part.input))
    }

    fn group<T>(&self, group: Group<T>, pick: impl Fn(StateRecord) -> Group<T>) -> Result<Group<T>, Blamed> {
        match group {
            Group::At(at) if at >= self.first => {
                let (record, input) = self.record(at)?;
                match pick(record) {
                    here @ Group::Here(_) => Ok(here),
                    _ => {
                        let what = "a state record refers to one that does not hold the field";
                        Err((misfit(self.log, at, what), input))
                    }
                }
            }
            other => Ok(other),
        }
    }

    /// `newest` with the older numbers that the inputs hold, of each producer's newest epoch alone.
    fn producers(&self, newest: Producers) -> Result<Producers, Blamed> {
        let mut all = newest;
        while all.older >= self.first {
            let at = all.older;
            let (record, input) = self.record(at)?;
            let wrong = |what| (misfit(self.log, at, what), input);
            let Group::Here(older) = record.producers else {
                return Err(wrong("a state record lacks the producers it should hold"));
            };
            if older.older >= at {
                return Err(wrong("a state record refers to a younger one"));
            }
            for (id, part) in older.list {
                let Some(whole) = all.list.get_mut(&id) else {
                    all.list.insert(id, part);
                    continue;
                };
                let room = PRODUCER_WINDOW.saturating_sub(whole.batches.len());
                if whole.epoch == part.epoch {
                    part.batches.iter().rev().take(room).for_each(|batch| whole.batches.push_front(*batch));
                }
            }
            all.older = older.older;
            if all.list.len() > PRODUCERS_PER_LOG_MAX {
                return Err(wrong("more producers than a log can have"));
            }
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::segment::{FLAG_ENDS, FLAG_LAST};
    use crate::format::state::{Life, Named, Phase};

    const LOG: LogId = LogId([7; 16]);

    /// What input number `input`, which covers ten LSNs from `10 * input` on, says of the log.
    fn part(input: usize, flags: u16, state_lsn: u64, state: Option<&StateRecord>) -> Part {
        let first = 10 * input as u64;
        let last = IndexEntry {
            log: LOG,
            first_seq: Seq(first),
            records: 1,
            flags: FLAG_LAST | flags,
            offset: 0,
            len: 1,
            digest: 0,
            state_at: None,
            state_lsn: Lsn(state_lsn),
        };
        let state = state.map(StateRecord::encoded);
        Part { input, lsns: Lsn(first)..=Lsn(first + 9), last, state }
    }

    fn life(trim: u64) -> Group<Life> {
        Group::Here(Life { created: Lsn(11), phase: Phase::Live, trim: Seq(trim), ..Life::default() })
    }

    fn record(life: Group<Life>, metadata: Group<Named>) -> StateRecord {
        StateRecord { life, timelines: Group::Empty, metadata, producers: Group::Empty }
    }

    fn named() -> Group<Named> {
        Group::Here(Named { name: "a".into(), metadata: vec![1, 2] })
    }

    #[test]
    fn what_the_oldest_input_says_is_taken_over_and_what_a_younger_one_refers_to_as_well() {
        // Created and trimmed in the first; records alone in the second.
        let first = record(life(3), named());
        let parts = vec![part(1, FLAG_ENDS, 12, Some(&first)), part(2, 0, 12, None)];
        let found = merged(LOG, parts, Lsn(10)).expect("they fit");
        assert_eq!((found.next_seq, found.changed, found.ends), (Seq(21), Lsn(12), true));
        assert_eq!(found.record, Some(first.encoded()));

        // Trimmed in the second, which refers to the first for its name.
        let created = record(life(0), named());
        let trimmed = record(life(5), Group::At(Lsn(12)));
        let parts = vec![part(1, 0, 12, Some(&created)), part(2, FLAG_ENDS, 25, Some(&trimmed)), part(3, 0, 25, None)];
        let found = merged(LOG, parts, Lsn(10)).expect("they fit");
        assert_eq!((found.next_seq, found.changed, found.ends), (Seq(31), Lsn(25), true));
        assert_eq!(found.record, Some(record(life(5), named()).encoded()));

        // The same where the first is no input.
        let parts = vec![part(2, FLAG_ENDS, 25, Some(&trimmed)), part(3, 0, 25, None)];
        let found = merged(LOG, parts, Lsn(20)).expect("they fit");
        assert_eq!((found.changed, found.ends, found.record), (Lsn(25), true, Some(trimmed.encoded())));

        // All of it is older than the inputs, and it is to expire.
        let parts = vec![part(4, FLAG_ENDS, 25, None), part(5, FLAG_ENDS, 25, None)];
        let found = merged(LOG, parts, Lsn(40)).expect("they fit");
        assert_eq!((found.changed, found.ends, found.record), (Lsn(25), true, None));
    }

    #[test]
    fn the_input_that_cannot_be_understood_is_blamed() {
        let blamed = |parts| merged(LOG, parts, Lsn(10)).err().map(|(_, input)| input);
        let (created, later) = (record(life(0), named()), record(life(5), Group::At(Lsn(12))));
        let mut broken = part(1, 0, 12, Some(&created));
        broken.state.as_mut().expect("it has one").pop();
        assert_eq!(blamed(vec![broken, part(2, 0, 25, Some(&later)), part(3, 0, 25, None)]), Some(1));
        assert_eq!(blamed(vec![part(1, 0, 12, None), part(2, 0, 25, Some(&later))]), Some(1), "a record is not there");
        assert_eq!(blamed(vec![part(1, 0, 12, None), part(2, 0, 12, None)]), Some(1), "nor where it is taken over");
        let parts = vec![part(1, 0, 12, Some(&created)), part(2, 0, 25, None), part(3, 0, 25, None)];
        assert_eq!(blamed(parts), Some(2), "the change itself");
    }
}
