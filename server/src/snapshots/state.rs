//! The state that a stream's records come to: of each type and key that is there, where its newest record lies.
//!
//! Invariant: the same records give the same state, and a state the same pages, whether it was built at once or from an
//! earlier one; what is beyond its bound is refused and never left out.

use super::Stretch;
use super::message::{self, Message};
use crate::protocol::answer::Refusal;
use crate::protocol::headers;
use everlog::{Page, ReadLimit, Record, Store};
use hyper::StatusCode;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What one state may take of memory.
const BYTES_MAX: usize = 64 << 20;
/// What a key takes beside its own bytes, rounded up, and what a type does, whose keys are a tree of their own.
const KEY_BYTES: usize = 96;
const KIND_BYTES: usize = 512;
/// What is read at a time.
const READ: ReadLimit = ReadLimit { records: 4096, bytes: 1 << 20 };
/// Records that lie no further apart are read at once.
const GAP_MAX: u64 = 8;

/// Where a record lies, and how large it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Its seq.
    pub seq: u64,
    /// Its bytes.
    pub len: u32,
}

type Keys = BTreeMap<Arc<str>, Place>;

/// A state.
#[derive(Clone, Debug)]
pub struct State {
    /// What it is of.
    pub stretch: Stretch,
    live: BTreeMap<Arc<str>, Keys>,
    bytes: usize,
    /// Records that are messages of the protocol, and such as are not.
    messages: u64,
    others: u64,
    /// The first of the latter.
    first_other: Option<u64>,
}

impl State {
    /// Reads the stretch of the log, or what it has beyond `before`. Blocks for the disk.
    ///
    /// # Errors
    /// Those of [`Store::read`]; 422 for a state that is too large.
    pub fn build(store: &Store, name: &str, stretch: Stretch, before: Option<Arc<Self>>) -> Result<Self, Refusal> {
        let mut from = before.as_ref().map_or(stretch.first, |state| state.stretch.end.seq);
        let mut state = match before {
            Some(before) => Self { stretch, ..Arc::unwrap_or_clone(before) },
            None => Self { stretch, live: BTreeMap::new(), bytes: 0, messages: 0, others: 0, first_other: None },
        };
        while from < stretch.end.seq {
            let records = READ.records.min(usize::try_from(stretch.end.seq - from).unwrap_or(usize::MAX));
            let page = read(store, name, &stretch, from, ReadLimit { records, ..READ })?;
            for record in &page.records {
                state.take(record);
                if state.bytes > BYTES_MAX {
                    return Err(too_large());
                }
            }
            from = page.next_seq;
        }
        Ok(state)
    }

    fn take(&mut self, record: &Record) {
        match message::parse(&record.payload) {
            Message::Change { of: (kind, key), is_live } => {
                self.messages += 1;
                let len = u32::try_from(record.payload.len()).expect("a record has at most 8 MiB");
                if is_live { self.put(kind, key, Place { seq: record.seq, len }) } else { self.remove(&kind, &key) }
            }
            Message::Reset => {
                self.messages += 1;
                self.live.clear();
                self.bytes = 0;
            }
            Message::Mark => self.messages += 1,
            Message::Other => {
                self.others += 1;
                self.first_other = self.first_other.or(Some(record.seq));
            }
        }
    }

    fn put(&mut self, kind: String, key: String, place: Place) {
        let keys = match self.live.get_mut(kind.as_str()) {
            Some(keys) => keys,
            None => {
                self.bytes += kind.len() + KIND_BYTES;
                self.live.entry(kind.into()).or_default()
            }
        };
        match keys.get_mut(key.as_str()) {
            Some(known) => *known = place,
            None => {
                self.bytes += key.len() + KEY_BYTES;
                keys.insert(key.into(), place);
            }
        }
    }

    fn remove(&mut self, kind: &str, key: &str) {
        let Some(keys) = self.live.get_mut(kind) else { return };
        if keys.remove(key).is_some() {
            self.bytes -= key.len() + KEY_BYTES;
        }
        if keys.is_empty() {
            self.live.remove(kind);
            self.bytes -= kind.len() + KIND_BYTES;
        }
    }

    /// What it takes of memory, about.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes + size_of::<Self>()
    }

    /// How many keys there are.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.live.values().map(|keys| keys.len() as u64).sum()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.live.is_empty()
    }

    /// Refuses a stream of records that are something else altogether: of these nothing is to be said.
    ///
    /// # Errors
    /// 409.
    pub fn check(&self) -> Result<(), Refusal> {
        if self.messages == 0 { self.check_whole() } else { Ok(()) }
    }

    /// Refuses a stream with any record that its state says nothing of.
    ///
    /// # Errors
    /// 409.
    pub fn check_whole(&self) -> Result<(), Refusal> {
        let Some(first) = self.first_other else { return Ok(()) };
        let told = format!(
            "{} of the stream's records are no messages of the State Protocol, the first of them record {first}; read the \
             stream instead",
            self.others
        );
        Err(Refusal::conflict(told).header(headers::ERROR, "no-state"))
    }

    /// The places of the records from the key number `at` on, by type and key, as many as fit: one at least, if there is
    /// one.
    #[must_use]
    pub fn places(&self, at: u64, limit: ReadLimit) -> Vec<Place> {
        let mut bytes = 0;
        let skip = usize::try_from(at).unwrap_or(usize::MAX);
        let all = self.live.values().flat_map(BTreeMap::values).skip(skip).take(limit.records);
        let fits = |place: &&Place| {
            let is_first = bytes == 0;
            bytes += place.len as usize;
            is_first || bytes <= limit.bytes
        };
        all.take_while(fits).copied().collect()
    }

    /// The records at `places`, in that order. Blocks for the disk.
    ///
    /// # Errors
    /// Those of [`Store::read`].
    pub fn records(&self, store: &Store, name: &str, places: &[Place]) -> Result<Vec<Record>, Refusal> {
        let mut order: Vec<(u64, usize)> = places.iter().zip(0..).map(|(place, n)| (place.seq, n)).collect();
        order.sort_unstable();
        let mut found: Vec<Option<Record>> = vec![None; places.len()];
        let mut rest = order.as_slice();
        while let Some(&(first, _)) = rest.first() {
            // What lies close together is read at once, as far as a page of the log goes.
            let run = 1 + rest.windows(2).take_while(|pair| pair[1].0 - pair[0].0 <= GAP_MAX).count();
            let records = usize::try_from(rest[run - 1].0 - first + 1).unwrap_or(usize::MAX);
            let page = read(store, name, &self.stretch, first, ReadLimit { records, ..READ })?;
            let had = rest[..run].iter().take_while(|(seq, _)| *seq < page.next_seq).count();
            let mut wanted = rest[..had].iter().peekable();
            for record in page.records {
                if let Some((_, n)) = wanted.next_if(|(seq, _)| *seq == record.seq) {
                    found[*n] = Some(record);
                }
            }
            rest = &rest[had..];
        }
        Ok(found.into_iter().map(|record| record.expect("a read gives one record at least, in order")).collect())
    }
}

/// Reads, as long as the log is the one whose stretch it is and keeps it.
fn read(store: &Store, name: &str, stretch: &Stretch, from: u64, limit: ReadLimit) -> Result<Page, Refusal> {
    let page = store.read(name, from, limit)?;
    if page.created == stretch.created { Ok(page) } else { Err(gone()) }
}

/// The refusal of what a stream has given up meanwhile.
fn gone() -> Refusal {
    let told = "what the snapshot was of has been given up since; begin another with offset=snapshot";
    Refusal::new(StatusCode::GONE, told).header(headers::ERROR, "trimmed")
}

fn too_large() -> Refusal {
    let told = format!("the stream's keys take more than {BYTES_MAX} bytes of memory; read the stream instead");
    Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, told).header(headers::ERROR, "snapshot-too-large")
}
