//! A log's state and its encoding in segments. docs/FORMAT.md, "State".
//!
//! How states change is not here, nor where a record lies. Invariant: a [`StateRecord`] holds what changed within its
//! segment, and for the rest the LSN whose segment holds it, so that a merge never has to rewrite an idle log's state.

use super::Decoded;
use super::bytes::{Reader, Sink};
use super::entry::{get_timelines, put_timelines};
use crate::limits::{
    METADATA_BYTES_MAX, NAME_BYTES_MAX, PRODUCER_ID_BYTES_MAX, PRODUCER_WINDOW, PRODUCERS_PER_LOG_MAX, TAG_BYTES_MAX,
    TIMELINES_PER_LOG_MAX,
};
use crate::types::{LogId, Lsn, Seq, TimeUs, Timeline};
use std::collections::{BTreeMap, VecDeque};
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, LazyLock};

/// Everything the store knows of a log beside its records. A copy is cheap: what a record leaves as it is, which is nearly
/// all of it, is shared until one of those who have it changes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogState {
    /// The seq that the next record gets.
    pub next_seq: Seq,
    /// The LSN of the last entry that this state includes; 0 if there is none.
    pub last_lsn: Lsn,
    lasting: Arc<Lasting>,
}

/// What a record without producer and tag leaves as it is, on the timeline of the one before it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lasting {
    /// Creation, end and what else is small.
    pub life: Life,
    /// Which timelines wrote to the log, each with its first seq there.
    pub timelines: Timelines,
    /// The log's name; empty if it was never created. Changes with the metadata.
    pub name: Arc<str>,
    /// The caller's metadata.
    pub metadata: Vec<u8>,
    /// The producers that wrote to the log.
    pub producers: Producers,
    /// For each group, the LSN of its last change; 0 if it was never changed.
    pub changed: Changed,
}

/// What is known of a log that was never created.
static NOTHING: LazyLock<Arc<Lasting>> = LazyLock::new(Arc::default);

impl Default for LogState {
    fn default() -> Self {
        Self { next_seq: Seq(0), last_lsn: Lsn(0), lasting: Arc::clone(&NOTHING) }
    }
}

impl LogState {
    /// The state of a log that has `lasting`.
    #[must_use]
    pub fn new(next_seq: Seq, last_lsn: Lsn, lasting: Lasting) -> Self {
        Self { next_seq, last_lsn, lasting: Arc::new(lasting) }
    }

    /// Says where the older part of the producers is. Most often that is where it was, and nothing is copied.
    pub fn set_older_producers(&mut self, older: Lsn) {
        if self.producers.older != older {
            self.producers.older = older;
        }
    }

    /// The state without what it says of producers.
    #[must_use]
    pub fn without_producers(mut self) -> Self {
        if self.producers != Producers::default() {
            self.producers = Producers::default();
        }
        self
    }
}

impl Deref for LogState {
    type Target = Lasting;

    fn deref(&self) -> &Lasting {
        &self.lasting
    }
}

/// Copies what is shared: not to be asked for where nothing changes.
impl DerefMut for LogState {
    fn deref_mut(&mut self) -> &mut Lasting {
        Arc::make_mut(&mut self.lasting)
    }
}

/// Which timelines wrote to a log, each with its first seq there. Copies of a log's state share it.
pub type Timelines = Arc<[(Timeline, Seq)]>;

/// The LSN of the last change of each group of [`Lasting`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Of [`Lasting::life`].
    pub life: Lsn,
    /// Of [`Lasting::timelines`].
    pub timelines: Lsn,
    /// Of [`Lasting::name`] and [`Lasting::metadata`].
    pub metadata: Lsn,
    /// Of [`Lasting::producers`].
    pub producers: Lsn,
}

impl Changed {
    /// The last change of any group.
    #[must_use]
    pub fn last(&self) -> Lsn {
        self.life.max(self.timelines).max(self.metadata).max(self.producers)
    }
}

/// Where a log stands in its life. The numbers are on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Never created.
    #[default]
    Absent = 0,
    /// Created and not deleted.
    Live = 1,
    /// Deleted.
    Deleted = 2,
}

/// Creation, end and what else is small.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Life {
    /// The LSN of the (last) creation.
    pub created: Lsn,
    /// Never created, live or deleted.
    pub phase: Phase,
    /// Whether it takes no more records.
    pub closed: bool,
    /// The first seq that is kept.
    pub trim: Seq,
    /// When it was deleted.
    pub deleted_at: TimeUs,
    /// When it expires, by the steady clock; 0 if never.
    pub expiry: TimeUs,
    /// The opaque tag of the last batch that had one.
    pub tag: Vec<u8>,
    /// The parent and the seq of the fork.
    pub fork: Option<(LogId, Seq)>,
    /// The first seq that it kept when it was forked first, which forks may read from on; None if it never was.
    pub pinned: Option<Seq>,
}

/// The producers that wrote to a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Producers {
    /// How many the log knows in all, those in older state records included.
    pub known: u32,
    /// The LSN of the state record with the older part; 0 if there is none.
    pub older: Lsn,
    /// Those held here, by id.
    pub list: BTreeMap<Vec<u8>, Producer>,
}

/// One producer of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Producer {
    /// Its epoch.
    pub epoch: u64,
    /// Its last batches, oldest first, at most [`crate::limits::PRODUCER_WINDOW`]; never empty.
    pub batches: VecDeque<Issued>,
}

/// What a producer's batch became.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Issued {
    /// Its number within the epoch.
    pub number: u64,
    /// The digest of its content for this log.
    pub digest: u64,
    /// The LSN of its last entry for this log.
    pub lsn: Lsn,
    /// The log's next seq before it.
    pub first_seq: Seq,
    /// The log's next seq after it.
    pub next_seq: Seq,
}

/// The longest state record that a reader accepts, in bytes: every group at its limit. Bounds what is allocated on the
/// word of a stored length.
pub const STATE_RECORD_BYTES_MAX: usize = 8 << 20;

const ISSUED_BYTES_MAX: usize = 10 + 8 + 3 * 10;
const PRODUCER_BYTES_MAX: usize = 2 + PRODUCER_ID_BYTES_MAX + 10 + 1 + PRODUCER_WINDOW * ISSUED_BYTES_MAX;
const _: () = assert!(
    PRODUCERS_PER_LOG_MAX * PRODUCER_BYTES_MAX
        + TIMELINES_PER_LOG_MAX * 18
        + METADATA_BYTES_MAX
        + NAME_BYTES_MAX
        + TAG_BYTES_MAX
        + 256
        <= STATE_RECORD_BYTES_MAX
);

const EMPTY: u8 = 0;
const HERE: u8 = 1;
const AT: u8 = 2;

/// One group of a log's state, as a segment holds it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Group<T> {
    /// It was never changed.
    #[default]
    Empty,
    /// It changed in this segment, last to this.
    Here(T),
    /// Its last change was at this LSN, before this segment: the log's record in the segment covering it has it.
    At(Lsn),
}

/// A log's name, with its metadata.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// [`Lasting::name`].
    pub name: Arc<str>,
    /// [`Lasting::metadata`].
    pub metadata: Vec<u8>,
}

/// A log's state as one segment holds it: what changed there, and where the rest is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateRecord {
    /// [`Lasting::life`].
    pub life: Group<Life>,
    /// [`Lasting::timelines`].
    pub timelines: Group<Timelines>,
    /// [`Lasting::name`] and [`Lasting::metadata`].
    pub metadata: Group<Named>,
    /// [`Lasting::producers`]: only those that wrote in the segment, with their numbers there.
    pub producers: Group<Producers>,
}

impl<T> Group<T> {
    fn of(changed: Lsn, first_lsn: Lsn, value: impl FnOnce() -> T) -> Self {
        match changed {
            Lsn(0) => Self::Empty,
            at if at < first_lsn => Self::At(at),
            _ => Self::Here(value()),
        }
    }

    fn encode<S: Sink>(&self, out: &mut S, put: impl FnOnce(&T, &mut S)) {
        match self {
            Self::Empty => out.put(&[EMPTY]),
            Self::Here(value) => {
                out.put(&[HERE]);
                put(value, out);
            }
            Self::At(lsn) => {
                out.put(&[AT]);
                out.put_varint(lsn.0);
            }
        }
    }

    fn decode<'a>(reader: &mut Reader<'a>, get: impl FnOnce(&mut Reader<'a>) -> Decoded<T>) -> Decoded<Self> {
        Ok(match reader.u8()? {
            EMPTY => Self::Empty,
            HERE => Self::Here(get(reader)?),
            AT => Self::At(Lsn(reader.varint()?)),
            _ => return Err(reader.malformed("an unknown form of a group of state")),
        })
    }
}

/// Whether what expires at `expiry` (0: never) has expired at `now`, both of the steady clock.
#[must_use]
pub fn has_expired(expiry: TimeUs, now: TimeUs) -> bool {
    (1..=now.0).contains(&expiry.0)
}

impl Life {
    /// Whether something of the log may be given back: it is deleted, trimmed, or will expire.
    #[must_use]
    pub fn ends(&self) -> bool {
        self.phase == Phase::Deleted || self.trim > Seq(0) || self.expiry > TimeUs(0)
    }

    /// Where the log stands at `now` of the steady clock: one that has expired is as one that was deleted.
    #[must_use]
    pub fn phase_at(&self, now: TimeUs) -> Phase {
        if self.phase == Phase::Live && self.has_expired(now) { Phase::Deleted } else { self.phase }
    }

    /// Whether the log was to expire at `now` of the steady clock or before.
    #[must_use]
    pub fn has_expired(&self, now: TimeUs) -> bool {
        has_expired(self.expiry, now)
    }

    /// Whether it is that of a log of which nothing but its end is known: see [`StateRecord::gone`].
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.phase == Phase::Deleted && self.created == Lsn(0)
    }
}

impl StateRecord {
    /// What is kept of a log that is gone: that it was, where it ended, and who wrote the last of it.
    #[must_use]
    pub fn gone(next_seq: Seq, last: Timeline) -> Self {
        let before = Seq(next_seq.0.saturating_sub(1));
        let timelines: &[_] = if last == Timeline::default() { &[] } else { &[(last, before)] };
        Self {
            life: Group::Here(Life { phase: Phase::Deleted, trim: next_seq, ..Life::default() }),
            timelines: Group::Here(timelines.into()),
            metadata: Group::Here(Named::default()),
            producers: Group::Here(Producers::default()),
        }
    }

    /// Whether something of the log may be given back, as [`Life::ends`], on the word of this record alone.
    #[must_use]
    pub fn ends(&self) -> bool {
        matches!(&self.life, Group::Here(life) if life.ends())
    }

    /// What a segment that begins at `first_lsn` holds of `state`.
    #[must_use]
    pub fn of(state: &LogState, first_lsn: Lsn) -> Self {
        let changed = &state.changed;
        Self {
            life: Group::of(changed.life, first_lsn, || state.life.clone()),
            timelines: Group::of(changed.timelines, first_lsn, || state.timelines.clone()),
            metadata: Group::of(changed.metadata, first_lsn, || Named {
                name: state.name.clone(),
                metadata: state.metadata.clone(),
            }),
            producers: Group::of(changed.producers, first_lsn, || state.producers.since(first_lsn)),
        }
    }

    /// Appends the record, without a length in front of it.
    pub fn encode(&self, out: &mut impl Sink) {
        self.life.encode(out, Life::encode);
        self.timelines.encode(out, |list, out| put_timelines(out, list));
        self.metadata.encode(out, |named, out| {
            out.put_bytes(named.name.as_bytes());
            out.put_bytes(&named.metadata);
        });
        self.producers.encode(out, Producers::encode);
    }

    /// The record, without a length in front of it.
    #[must_use]
    pub fn encoded(&self) -> Vec<u8> {
        let mut out = Vec::new();
        self.encode(&mut out);
        out
    }

    /// Reads a record that fills all of `bytes`.
    pub fn decode(bytes: &[u8]) -> Decoded<Self> {
        let mut reader = Reader::new(bytes);
        let record = Self {
            life: Group::decode(&mut reader, Life::decode)?,
            timelines: Group::decode(&mut reader, |reader| get_timelines(reader).map(Timelines::from))?,
            metadata: Group::decode(&mut reader, Named::decode)?,
            producers: Group::decode(&mut reader, Producers::decode)?,
        };
        reader.end()?;
        Ok(record)
    }
}

impl Named {
    fn decode(reader: &mut Reader<'_>) -> Decoded<Self> {
        let name = std::str::from_utf8(reader.bytes(NAME_BYTES_MAX)?);
        let name = name.map_err(|_| reader.malformed("a name that is not UTF-8"))?.into();
        Ok(Self { name, metadata: reader.bytes(METADATA_BYTES_MAX)?.to_vec() })
    }
}

impl Life {
    fn encode(&self, out: &mut impl Sink) {
        out.put_varint(self.created.0);
        out.put(&[self.phase as u8, u8::from(self.closed)]);
        out.put_varint(self.trim.0);
        out.put_varint(self.deleted_at.0);
        out.put_varint(self.expiry.0);
        out.put_bytes(&self.tag);
        out.put(&[u8::from(self.fork.is_some())]);
        if let Some((parent, at)) = &self.fork {
            out.put(&parent.0);
            out.put_varint(at.0);
        }
        out.put_varint(self.pinned.map_or(0, |seq| seq.next().0));
    }

    fn decode(reader: &mut Reader<'_>) -> Decoded<Self> {
        let created = Lsn(reader.varint()?);
        let phase = match reader.u8()? {
            0 => Phase::Absent,
            1 => Phase::Live,
            2 => Phase::Deleted,
            _ => return Err(reader.malformed("an unknown phase of a log")),
        };
        Ok(Self {
            created,
            phase,
            closed: flag(reader)?,
            trim: Seq(reader.varint()?),
            deleted_at: TimeUs(reader.varint()?),
            expiry: TimeUs(reader.varint()?),
            tag: reader.bytes(TAG_BYTES_MAX)?.to_vec(),
            fork: if flag(reader)? { Some((LogId(reader.array()?), Seq(reader.varint()?))) } else { None },
            pinned: reader.varint()?.checked_sub(1).map(Seq),
        })
    }
}

fn flag(reader: &mut Reader<'_>) -> Decoded<bool> {
    match reader.u8()? {
        0 => Ok(false),
        1 => Ok(true),
        _ => Err(reader.malformed("neither yes nor no")),
    }
}

/// A varint count of at most `max` items, each of which takes at least `item_len_min` of the bytes left.
fn bounded(reader: &mut Reader<'_>, max: usize, item_len_min: usize) -> Decoded<usize> {
    let count = reader.varint()?;
    if count > max.min(reader.left() / item_len_min) as u64 {
        return Err(reader.malformed("a count beyond its bound"));
    }
    Ok(count as usize)
}

impl Producers {
    /// Those that wrote at or after `first_lsn`, each with its batches from there on.
    fn since(&self, first_lsn: Lsn) -> Self {
        let list = self.list.iter().filter_map(|(id, producer)| {
            let batches: VecDeque<_> = producer.batches.iter().filter(|b| b.lsn >= first_lsn).copied().collect();
            (!batches.is_empty()).then(|| (id.clone(), Producer { epoch: producer.epoch, batches }))
        });
        Self { known: self.known, older: self.older, list: list.collect() }
    }

    fn encode(&self, out: &mut impl Sink) {
        assert!(self.list.len() <= PRODUCERS_PER_LOG_MAX, "a log's producers are capped when they appear");
        out.put_varint(u64::from(self.known));
        out.put_varint(self.older.0);
        out.put_varint(self.list.len() as u64);
        for (id, producer) in &self.list {
            assert!((1..=PRODUCER_WINDOW).contains(&producer.batches.len()), "a producer has 1 to 64 batches");
            out.put_bytes(id);
            out.put_varint(producer.epoch);
            out.put_varint(producer.batches.len() as u64);
            for batch in &producer.batches {
                out.put_varint(batch.number);
                out.put(&batch.digest.to_le_bytes());
                out.put_varint(batch.lsn.0);
                out.put_varint(batch.first_seq.0);
                out.put_varint(batch.next_seq.0);
            }
        }
    }

    fn decode(reader: &mut Reader<'_>) -> Decoded<Self> {
        let known = u32::try_from(reader.varint()?).map_err(|_| reader.malformed("more producers than can be"))?;
        let older = Lsn(reader.varint()?);
        let mut list = BTreeMap::new();
        for _ in 0..bounded(reader, PRODUCERS_PER_LOG_MAX, 15)? {
            let id = reader.bytes(PRODUCER_ID_BYTES_MAX)?.to_vec();
            let epoch = reader.varint()?;
            let batches = bounded(reader, PRODUCER_WINDOW, 12)?;
            let batches = (0..batches).map(|_| Issued::decode(reader)).collect::<Decoded<VecDeque<_>>>()?;
            if batches.is_empty() || list.insert(id, Producer { epoch, batches }).is_some() {
                return Err(reader.malformed("a producer without a batch, or named twice"));
            }
        }
        Ok(Self { known, older, list })
    }
}

impl Issued {
    fn decode(reader: &mut Reader<'_>) -> Decoded<Self> {
        Ok(Self {
            number: reader.varint()?,
            digest: reader.u64()?,
            lsn: Lsn(reader.varint()?),
            first_seq: Seq(reader.varint()?),
            next_seq: Seq(reader.varint()?),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn issued() -> impl Strategy<Value = Issued> {
        (any::<u64>(), any::<u64>(), 1u64..200, any::<u64>(), any::<u64>()).prop_map(|(number, digest, lsn, a, b)| {
            Issued { number, digest, lsn: Lsn(lsn), first_seq: Seq(a), next_seq: Seq(b) }
        })
    }

    prop_compose! {
        fn states()(
            life in (any::<u64>(), 0u8..3, any::<bool>(), any::<u64>(), any::<u64>()),
            tag in proptest::collection::vec(any::<u8>(), 0..20),
            fork in proptest::option::of((any::<[u8; 16]>(), any::<u64>())),
            pinned in proptest::option::of(0..u64::MAX),
            timelines in proptest::collection::vec((any::<u32>(), any::<u32>(), any::<u64>()), 0..5),
            name in "[a-z/]{0,9}",
            metadata in proptest::collection::vec(any::<u8>(), 0..50),
            known: u32, older: u64,
            producers in proptest::collection::btree_map(
                proptest::collection::vec(any::<u8>(), 0..5),
                (any::<u64>(), proptest::collection::vec_deque(issued(), 1..5)), 0..5),
            changed in (0u64..200, 0u64..200, 0u64..200, 0u64..200),
        ) -> LogState {
            let phase = [Phase::Absent, Phase::Live, Phase::Deleted][usize::from(life.1)];
            LogState::new(Seq(0), Lsn(0), Lasting {
                life: Life {
                    created: Lsn(life.0), phase, closed: life.2, trim: Seq(life.3), deleted_at: TimeUs(life.4),
                    expiry: TimeUs(0), tag, fork: fork.map(|(id, at)| (LogId(id), Seq(at))),
                    pinned: pinned.map(Seq),
                },
                timelines: timelines.into_iter()
                    .map(|(counter, random, first)| (Timeline { counter, random }, Seq(first))).collect(),
                name: name.into(),
                metadata,
                producers: Producers {
                    known, older: Lsn(older),
                    list: producers.into_iter().map(|(id, (epoch, batches))| (id, Producer { epoch, batches })).collect(),
                },
                changed: Changed {
                    life: Lsn(changed.0), timelines: Lsn(changed.1), metadata: Lsn(changed.2), producers: Lsn(changed.3),
                },
            })
        }
    }

    proptest! {
        #[test]
        fn a_record_comes_back_with_what_changed_since(state in states()) {
            let first = Lsn(100);
            let record = StateRecord::of(&state, first);
            let mut bytes = Vec::new();
            record.encode(&mut bytes);
            prop_assert_eq!(StateRecord::decode(&bytes), Ok(record.clone()));
            match (&record.life, state.changed.life) {
                (Group::Empty, Lsn(0)) => {}
                (Group::At(at), lsn) => prop_assert!(*at == lsn && lsn < first && lsn.0 != 0),
                (Group::Here(life), lsn) => prop_assert!(*life == state.life && lsn >= first),
                (Group::Empty, _) => prop_assert!(false, "a group that changed is never empty"),
            }
            if let Group::Here(producers) = &record.producers {
                let all = state.producers.list.values().flat_map(|p| &p.batches).filter(|b| b.lsn >= first).count();
                let kept: Vec<_> = producers.list.values().flat_map(|p| &p.batches).collect();
                prop_assert_eq!(kept.len(), all);
                prop_assert!(kept.iter().all(|b| b.lsn >= first));
                prop_assert_eq!((producers.known, producers.older), (state.producers.known, state.producers.older));
            }
            for cut in 0..bytes.len() {
                prop_assert!(StateRecord::decode(&bytes[..cut]).is_err(), "cut at {}", cut);
            }
        }

        #[test]
        fn a_decoder_never_panics(bytes: Vec<u8>) {
            let _ = StateRecord::decode(&bytes);
        }
    }
}
