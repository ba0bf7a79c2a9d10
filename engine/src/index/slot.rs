//! A log in memory: its state, its records that are not in a segment yet, and who waits for more of them.
//!
//! A slot is born as a placeholder that only stands for its LogId; its base state is looked up in the segments later,
//! under its own lock, so that a page fault delays its own log alone.
//!
//! Invariant: `base` with `mem` applied to it is the durable state; `staged` is that with what is staged or in flight.
//! A slot with entries in `mem` is dirty, stands in the dirty list, and is never evicted.

use super::apply::{Stamp, apply, apply_record};
use super::as_of::Past;
use super::memory::MemEntry;
use super::set::SegmentSet;
use crate::error::{Error, ErrorKind, Result};
use crate::format::entry::{Create, Entry, Kind};
use crate::format::state::{LogState, Phase, has_expired};
use crate::format::{Decoded, Malformed};
use crate::mutants::{self, Mutant};
use crate::sync::{AtomicBool, Mutex, MutexGuard};
use crate::types::{LogId, Lsn, Seq, TimeUs, Timeline};
use crate::waiter::Target;
use smallvec::SmallVec;

/// What a slot takes of memory while it has entries that are in no segment, beside these: itself, its place in the cache,
/// and two states of the log. A round figure of what was measured with glibc's allocator, when both were always copies.
pub const SLOT_BYTES: usize = 768;

/// A log's entries in memory. Most logs have one, which then lies in the slot.
pub type Entries = SmallVec<[MemEntry; 1]>;

/// A log in memory.
#[derive(Debug)]
pub struct Slot {
    /// The log.
    pub id: LogId,
    /// See [`super::heads::Head::touched`].
    pub touched: AtomicBool,
    inner: Mutex<SlotInner>,
}

/// What a slot's lock guards.
#[derive(Debug, Default)]
pub struct SlotInner {
    /// The state as of the last flush; None until it was looked up.
    pub base: Option<LogState>,
    /// The state with everything staged; meaningless while `base` is None. It shares with `base` what did not change since.
    pub staged: LogState,
    /// Durable entries that are not in a segment, by LSN.
    pub mem: Entries,
    /// What a reader may know.
    pub visible: Visible,
    /// Whether the slot stands in the dirty list.
    pub dirty: bool,
    /// Whether [`SLOT_BYTES`] of the pool are taken for it.
    pub pooled: bool,
    /// Who is woken when something new is visible, each under a key of its own.
    pub watchers: Vec<(u64, Target)>,
    /// What was last looked up of its past, so that whoever reads on need not have it looked up again.
    pub past: Option<Box<Past>>,
}

/// The durable state of a log in short: what a reader needs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Visible {
    /// The LSN of the last entry included; a reader waits until the watermark has reached it.
    pub lsn: Lsn,
    /// The log's next seq.
    pub next_seq: Seq,
    /// The first seq that is kept.
    pub trim: Seq,
    /// Never created, live or deleted.
    pub phase: Phase,
    /// Whether it takes no more records.
    pub closed: bool,
    /// The LSN of its creation.
    pub created: Lsn,
    /// The parent and the seq of the fork.
    pub fork: Option<(LogId, Seq)>,
    /// When it expires, by the steady clock; 0 if never.
    pub expiry: TimeUs,
}

impl Visible {
    /// Whether it was to expire at `now` of the steady clock or before.
    #[must_use]
    pub fn has_expired(&self, now: TimeUs) -> bool {
        has_expired(self.expiry, now)
    }

    /// Of a state.
    #[must_use]
    pub fn of(state: &LogState) -> Self {
        Self {
            lsn: state.last_lsn,
            next_seq: state.next_seq,
            trim: state.life.trim,
            phase: state.life.phase,
            closed: state.life.closed,
            created: state.life.created,
            fork: state.life.fork,
            expiry: state.life.expiry,
        }
    }
}

impl Slot {
    /// A placeholder.
    #[must_use]
    pub fn new(id: LogId) -> Self {
        Self { id, touched: AtomicBool::new(false), inner: Mutex::new(SlotInner::default()) }
    }

    /// The slot's content.
    pub fn lock(&self) -> MutexGuard<'_, SlotInner> {
        self.inner.lock()
    }

    /// The slot's content, unless somebody else is at it.
    pub fn try_lock(&self) -> Option<MutexGuard<'_, SlotInner>> {
        self.inner.try_lock()
    }
}

impl SlotInner {
    /// Has `target` woken when something new is visible, instead of what was to be woken under `key` before.
    pub fn watch(&mut self, key: u64, target: Target) {
        match self.watchers.iter_mut().find(|(other, _)| *other == key) {
            Some(watcher) => watcher.1 = target,
            None => self.watchers.push((key, target)),
        }
    }

    /// Has nobody woken under `key`.
    pub fn unwatch(&mut self, key: u64) {
        self.watchers.retain(|(other, _)| *other != key);
    }

    /// Those to be woken, each once.
    pub fn take_watchers(&mut self) -> Vec<Target> {
        std::mem::take(&mut self.watchers).into_iter().map(|(_, target)| target).collect()
    }

    /// Looks the state up in the segments if that was not done yet. The snapshot must have been taken after the slot
    /// was installed.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`].
    pub fn resolve(&mut self, id: LogId, set: &SegmentSet) -> Result<()> {
        if self.base.is_some() {
            return Ok(());
        }
        let mut base = set.state(id)?.unwrap_or_default();
        self.recall_producers(id, &mut base, set)?;
        let mut state = base.clone();
        for entry in &self.mem {
            apply_mem(&mut state, entry).map_err(|e| misfit(id, entry, &e))?;
        }
        self.visible = Visible::of(&state);
        self.staged = if mutants::makes(Mutant::SeqReused) { base.clone() } else { state };
        self.base = Some(base);
        Ok(())
    }

    /// Puts into `base` the producers that entries in memory name and older state records hold.
    fn recall_producers(&self, id: LogId, base: &mut LogState, set: &SegmentSet) -> Result<()> {
        for entry in self.mem.iter().filter(|entry| !entry.plain) {
            let decoded = Entry::decode_trusted(entry.body()).map_err(|e| misfit(id, entry, &e))?;
            if let Some(mark) = decoded.producer {
                recall_producer(id, base, set, mark.id)?;
            }
        }
        Ok(())
    }

    /// The durable state. The state must have been looked up.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`].
    pub fn durable(&self, id: LogId) -> Result<LogState> {
        let mut state = self.base.clone().expect("the state was looked up");
        for entry in &self.mem {
            apply_mem(&mut state, entry).map_err(|e| misfit(id, entry, &e))?;
        }
        Ok(state)
    }

    /// The durable state's timelines. The state must have been looked up.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`].
    pub fn durable_timelines(&self, id: LogId) -> Result<Vec<(Timeline, Seq)>> {
        if self.staged.changed.life > self.visible.lsn {
            // Creating a deleted log again drops what was before.
            return Ok(self.durable(id)?.timelines.to_vec());
        }
        // Records alone add timelines behind the visible end.
        let durable = |(_, first): &&(Timeline, Seq)| *first < self.visible.next_seq;
        Ok(self.staged.timelines.iter().filter(durable).copied().collect())
    }

    /// Compares the log's name with the stored one, if the log exists. Meaningful once the state was looked up.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] if another name has the same id.
    pub fn check_name(&self, name: &str) -> Result<()> {
        let known = &self.staged.name;
        // That of a log that is gone is not known any more.
        if known.is_empty() || **known == *name { Ok(()) } else { Err(collision(name, known)) }
    }

    /// The name in the creation that lies in memory, if one does.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`].
    pub fn created_in_memory(&self, id: LogId) -> Result<Option<String>> {
        let Some(entry) = self.mem.iter().rev().find(|e| matches!(e.kind, Kind::Create | Kind::Fork)) else {
            return Ok(None);
        };
        name_in(entry).map(Some).map_err(|e| misfit(id, entry, &e))
    }
}

/// Two names with one id.
fn collision(name: &str, other: &str) -> Error {
    Error::new(ErrorKind::Refused, format!("the name has the same id as another log's, {other}"))
        .log(name)
        .remedy("use another name")
}

/// Whether older state records may hold the producer, and `base` does not.
#[must_use]
pub fn may_recall(base: &LogState, producer: &[u8]) -> bool {
    !base.producers.list.contains_key(producer) && base.producers.list.len() < base.producers.known as usize
}

/// Puts the producer into `base` if older state records hold it.
///
/// # Errors
/// [`ErrorKind::Damaged`].
pub fn recall_producer(id: LogId, base: &mut LogState, set: &SegmentSet, producer: &[u8]) -> Result<()> {
    if !may_recall(base, producer) {
        return Ok(());
    }
    if let Some(found) = set.producer(id, base.changed.producers, producer, |_| true)? {
        base.producers.list.insert(producer.to_vec(), found);
    }
    Ok(())
}

/// The name that a creation or fork in memory gives.
pub fn name_in(entry: &MemEntry) -> Decoded<String> {
    let payload = Entry::decode_trusted(entry.body())?.payload;
    let name = match entry.kind {
        Kind::Create => Create::decode(payload)?.name,
        Kind::Fork => crate::format::entry::ForkOf::decode(payload)?.create.name,
        _ => return Err(Malformed { what: "no creation", at: 0 }),
    };
    Ok(name.to_owned())
}

/// Carries out an entry in memory on `state`.
pub fn apply_mem(state: &mut LogState, entry: &MemEntry) -> Decoded<()> {
    let stamp = Stamp { lsn: entry.lsn, time: entry.frame.time, timeline: entry.frame.timeline };
    if entry.plain {
        return apply_record(state, entry.seq, stamp);
    }
    apply(state, &Entry::decode_trusted(entry.body())?, stamp)
}

/// An entry whose bytes are intact and whose content is not what this engine writes.
#[must_use]
pub fn misfit(id: LogId, entry: &MemEntry, e: &Malformed) -> Error {
    Error::new(ErrorKind::Damaged, format!("an entry does not fit its log: {e}"))
        .log(id.to_string())
        .seqs(entry.seq.0..entry.seq.0 + 1)
        .lsns(entry.lsn.0..entry.lsn.0 + 1)
        .remedy("run everlog verify on the store")
}
