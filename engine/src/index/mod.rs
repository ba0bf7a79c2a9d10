//! The index: every log's place, from the newest record in memory to the oldest segment.
//!
//! It is read by appends, reads and flushes alike, and written by whoever commits (records that became durable) and the
//! flush (records that went into a segment). It starts no thread and writes no file.
//!
//! Invariant: a durable record is in `mem` of its slot, in a segment of the present snapshot, or in both.

pub mod apply;
pub mod as_of;
pub mod buffers;
pub mod grace;
pub mod heads;
pub mod history;
pub mod memory;
pub mod pool;
pub mod set;
pub mod slot;
#[cfg(all(test, not(everlog_loom)))]
pub(crate) mod testing;

use crate::error::{Error, ErrorKind, Result};
use crate::format::entry::Kind;
use crate::format::identity::Identity;
use crate::metrics::Metrics;
#[cfg(feature = "mutants")]
use crate::mutants::{self, Mutant};
use crate::names;
use crate::sync::{Arc, AtomicBool, AtomicU64, AtomicUsize, Mutex, MutexGuard, Ordering, RwLock, yield_now};
use crate::types::{LogId, Lsn};
use buffers::Buffers;
use heads::Heads;
use memory::MemEntry;
use pool::Pool;
use set::SegmentSet;
use slot::{SLOT_BYTES, Slot, SlotInner, Visible};

/// The index.
#[derive(Debug)]
pub struct Index {
    /// The store's identity, with the key of the log ids.
    pub identity: Identity,
    /// The logs in memory.
    pub heads: Heads<Slot>,
    /// The memory of their records.
    pub pool: Pool,
    /// The memory of frames, between two uses.
    pub buffers: Arc<Buffers>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    set: RwLock<Arc<SegmentSet>>,
    /// The highest LSN known to be durable, all entries up to which are in their slots. Stored with Release by
    /// whoever commits, after a frame's entries are in place; pairs with the Acquire loads of readers.
    watermark: AtomicU64,
    /// Nothing will be published any more, and the last frame may have been published in part. Set once, with Release;
    /// pairs with the Acquire load of a reader who waits.
    halted: AtomicBool,
    /// Bytes of durable entries in memory; only compared with a threshold, so Relaxed.
    mem_bytes: AtomicUsize,
    dirty: Mutex<Vec<Arc<Slot>>>,
    /// Segments that are due to be merged; only compared with bounds, so Relaxed.
    due_segments: AtomicUsize,
    /// Merges under way; only reported, so Relaxed.
    merges_under_way: AtomicUsize,
    /// Whether a merge has the room on the disk that is kept for merges; Relaxed, since whoever sees it late takes room that
    /// the merge then finds missing.
    room_lent: AtomicBool,
}

impl Index {
    /// An index over `set`, without anything in memory.
    #[must_use]
    pub fn new(set: SegmentSet, heads_max: usize, pool_bytes_max: usize, metrics: Arc<Metrics>) -> Self {
        #[cfg(feature = "mutants")]
        mutants::keep(None);
        Self {
            identity: set.manifest.identity,
            heads: Heads::new(heads_max),
            pool: Pool::new(pool_bytes_max),
            buffers: Arc::new(Buffers::new(pool_bytes_max / 2)),
            metrics,
            watermark: AtomicU64::new(set.flushed().0),
            halted: AtomicBool::new(false),
            set: RwLock::new(Arc::new(set)),
            mem_bytes: AtomicUsize::new(0),
            dirty: Mutex::new(Vec::new()),
            due_segments: AtomicUsize::new(0),
            merges_under_way: AtomicUsize::new(0),
            room_lent: AtomicBool::new(false),
        }
    }

    /// The log's key.
    #[must_use]
    pub fn log_id(&self, name: &str) -> LogId {
        names::log_id(&self.identity.key, name)
    }

    /// The segments in force. To be taken after the slot whose log is looked up was installed, and after its records
    /// in memory were looked at.
    #[must_use]
    pub fn set(&self) -> Arc<SegmentSet> {
        Arc::clone(&self.set.read())
    }

    /// Installs the segments of a new manifest version.
    pub fn install(&self, set: SegmentSet) {
        let before = std::mem::replace(&mut *self.set.write(), Arc::new(set));
        #[cfg(feature = "mutants")]
        mutants::keep(Some(Box::new(Arc::clone(&before))));
        drop(before);
    }

    /// The highest durable LSN.
    #[must_use]
    pub fn watermark(&self) -> Lsn {
        Lsn(self.watermark.load(Ordering::Acquire))
    }

    /// Everything up to `lsn` is durable and in its slot.
    pub fn set_watermark(&self, lsn: Lsn) {
        self.watermark.store(lsn.0, Ordering::Release);
    }

    /// The committer is gone, perhaps in the middle of a publication: nobody waits for the rest of it.
    pub fn halt(&self) {
        self.halted.store(true, Ordering::Release);
    }

    /// Bytes of durable entries in memory.
    #[must_use]
    pub fn mem_bytes(&self) -> usize {
        self.mem_bytes.load(Ordering::Relaxed)
    }

    /// Segments that are due to be merged, when that was last looked at.
    #[must_use]
    pub fn due_segments(&self) -> usize {
        self.due_segments.load(Ordering::Relaxed)
    }

    /// Merges under way.
    #[must_use]
    pub fn merges_under_way(&self) -> usize {
        self.merges_under_way.load(Ordering::Relaxed)
    }

    /// So many segments are due to be merged.
    pub fn set_due_segments(&self, count: usize) {
        self.due_segments.store(count, Ordering::Relaxed);
    }

    /// So many merges are under way.
    pub fn set_merges_under_way(&self, count: usize) {
        self.merges_under_way.store(count, Ordering::Relaxed);
    }

    /// Whether a merge has the room on the disk that is kept for merges: nobody else is to take any.
    #[must_use]
    pub fn is_room_lent(&self) -> bool {
        self.room_lent.load(Ordering::Relaxed)
    }

    /// A merge has the room that is kept for merges, or not any more.
    pub fn set_room_lent(&self, lent: bool) {
        self.room_lent.store(lent, Ordering::Relaxed);
    }

    /// Locks the slot with its state looked up and its name compared.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Damaged`]; [`crate::ErrorKind::Refused`] for a name whose id is another log's.
    pub fn resolve<'a>(&self, slot: &'a Slot, name: Option<&str>) -> Result<MutexGuard<'a, SlotInner>> {
        let mut inner = slot.lock();
        if inner.base.is_none() {
            let set = self.set();
            #[cfg(feature = "mutants")]
            let set = mutants::kept().filter(|_| mutants::makes(Mutant::StaleHead)).unwrap_or(set);
            self.metrics.head_loads.add(1);
            inner.resolve(slot.id, &set)?;
        }
        if let Some(name) = name {
            inner.check_name(name)?;
        }
        Ok(inner)
    }

    /// As [`Self::resolve`], of a log whose state is in memory and that nobody else is at.
    ///
    /// # Errors
    /// [`crate::ErrorKind::WouldBlock`] for any other; [`crate::ErrorKind::Refused`] as there.
    pub fn try_resolve<'a>(&self, slot: &'a Slot, name: &str) -> Result<MutexGuard<'a, SlotInner>> {
        let Some(inner) = slot.try_lock().filter(|inner| inner.base.is_some()) else { return Err(would_block()) };
        inner.check_name(name)?;
        Ok(inner)
    }

    /// As [`Self::resolve_visible`], of a log whose state is in memory and that nobody else is at.
    ///
    /// # Errors
    /// As [`Self::try_resolve`].
    pub fn try_resolve_visible<'a>(&self, slot: &'a Slot, name: &str) -> Result<MutexGuard<'a, SlotInner>> {
        let inner = self.try_resolve(slot, name)?;
        if inner.visible.lsn <= self.watermark() { Ok(inner) } else { Err(would_block()) }
    }

    /// As [`Self::resolve`], once everything in the slot is visible. Publication of a frame takes microseconds; a
    /// reader that comes in between waits for its end, so that batches over several logs are seen whole.
    ///
    /// # Errors
    /// As [`Self::resolve`]; [`crate::ErrorKind::Poisoned`] if that end will never come.
    pub fn resolve_visible<'a>(&self, slot: &'a Slot, name: Option<&str>) -> Result<MutexGuard<'a, SlotInner>> {
        loop {
            let inner = self.resolve(slot, name)?;
            if inner.visible.lsn <= self.watermark() {
                return Ok(inner);
            }
            drop(inner);
            if self.halted.load(Ordering::Acquire) {
                return Err(Error::new(
                    ErrorKind::Poisoned,
                    "the store stopped while it showed the log's newest records",
                )
                .remedy("open the store again"));
            }
            yield_now();
        }
    }

    /// Puts durable entries of one log in place, in LSN order. They are seen once the watermark has passed them.
    pub fn publish(
        &self, slot: &Arc<Slot>, entries: impl Iterator<Item = MemEntry>, visible: Option<Visible>,
    ) -> Vec<crate::waiter::Target> {
        let mut inner = slot.lock();
        let mut bytes = 0;
        inner.mem.extend(entries.inspect(|e| bytes += e.pool_bytes()));
        if let Some(visible) = visible {
            inner.visible = visible;
        }
        if !inner.dirty {
            inner.dirty = true;
            bytes += SLOT_BYTES;
            self.heads.note_dirty();
            self.dirty.lock().push(Arc::clone(slot));
        }
        self.mem_bytes.fetch_add(bytes, Ordering::Relaxed);
        inner.take_watchers()
    }

    /// Everybody who waits for any log, to be woken: there is news that is no log's own.
    #[must_use]
    pub fn take_watchers(&self) -> Vec<crate::waiter::Target> {
        self.heads.all().iter().flat_map(|slot| slot.lock().take_watchers()).collect()
    }

    /// The slots with entries in memory, by LogId. They stay dirty until [`Self::drain`].
    #[must_use]
    pub fn take_dirty(&self) -> Vec<Arc<Slot>> {
        let mut dirty = std::mem::take(&mut *self.dirty.lock());
        dirty.sort_unstable_by_key(|slot| slot.id);
        dirty
    }

    /// Puts slots back that a flush took and could not write.
    pub fn put_back_dirty(&self, slots: Vec<Arc<Slot>>) {
        self.dirty.lock().extend(slots);
    }

    /// Takes the slot's entries up to `lsn` out of memory: they are in a segment of the present snapshot. Gives the
    /// bytes that the caller is to give back to the pool.
    #[must_use]
    pub fn drain(&self, slot: &Arc<Slot>, lsn: Lsn) -> usize {
        let mut inner = slot.lock();
        let inner = &mut *inner;
        let count = inner.mem.partition_point(|e| e.lsn <= lsn);
        let base = inner.base.as_mut().expect("a flush looked the state up");
        let before = base.changed.producers;
        let created = base.life.created;
        let mut bytes: usize = inner.mem[..count].iter().map(MemEntry::pool_bytes).sum();
        let all = inner.mem.last().is_some_and(|last| last.lsn == inner.staged.last_lsn && last.lsn <= lsn);
        // When it was deleted is told by the entry alone.
        if all && inner.mem.iter().all(|entry| entry.kind != Kind::Delete) {
            // Everything staged is flushed: that is the state.
            inner.mem.clear();
            let older = base.producers.older;
            let state = &mut inner.staged;
            let is_same = state.changed.producers == before;
            state.set_older_producers(if is_same { older } else { older_producers(state, created, before) });
            *base = state.clone();
        } else {
            for entry in inner.mem.drain(..count) {
                slot::apply_mem(base, &entry).expect("the flush carried out the same entries");
            }
            base.set_older_producers(older_producers(base, created, before));
        }
        if inner.mem.is_empty() {
            // Room for a few is kept.
            if inner.mem.capacity() > 4 {
                inner.mem.shrink_to_fit();
            }
            inner.dirty = false;
            self.heads.note_clean();
            self.mem_bytes.fetch_sub(SLOT_BYTES, Ordering::Relaxed);
        } else {
            self.dirty.lock().push(Arc::clone(slot));
        }
        self.mem_bytes.fetch_sub(bytes, Ordering::Relaxed);
        if !inner.dirty && inner.pooled && inner.staged.last_lsn <= lsn {
            inner.pooled = false;
            bytes += SLOT_BYTES;
        }
        bytes
    }
}

/// The answer to a call that must not wait, where it would have to.
#[must_use]
pub fn would_block() -> Error {
    Error::new(ErrorKind::WouldBlock, "this has to wait for the disk, for memory or for another caller")
        .remedy("use the call that blocks, on a thread that may")
}

/// Where the older part of the producers is found once `state` is written: behind the record that was the last one
/// `before`, unless the log was created again since.
#[must_use]
pub fn older_producers(state: &crate::format::state::LogState, created_before: Lsn, before: Lsn) -> Lsn {
    if state.changed.producers == before {
        state.producers.older
    } else if state.life.created != created_before {
        Lsn(0)
    } else {
        before
    }
}
