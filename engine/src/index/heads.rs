//! The cache of logs in memory, by LogId.
//!
//! Invariants: at most one slot stands for a LogId; a slot that somebody holds or that is dirty is never evicted, since
//! a state read from segments before a flush could otherwise be installed after it. The cache holds about as many others as
//! its bound says, so that nothing grows with the number of idle logs; what is beyond goes as others come.

use crate::sync::{Arc, AtomicBool, AtomicUsize, Mutex, Ordering};
use crate::types::LogId;
use std::collections::VecDeque;

/// How many slots are looked at for one to evict, at most: where all are in use, looking on would only cost time.
const LOOKS_MAX: usize = 4;
/// How many owners a slot has that nobody uses: its place by LogId, and its place in the order.
const OWN: usize = 2;

#[cfg(not(everlog_loom))]
const SHARDS: usize = 64;
#[cfg(everlog_loom)]
const SHARDS: usize = 1;

#[cfg(not(everlog_loom))]
type Slots<T> = std::collections::HashMap<LogId, Arc<T>>;
/// A model must do the same each time, and a hash map's order is another each time.
#[cfg(everlog_loom)]
type Slots<T> = std::collections::BTreeMap<LogId, Arc<T>>;

/// What the cache asks of what it holds.
pub trait Head {
    /// A placeholder for the log.
    fn placeholder(id: LogId) -> Self;
    /// The log.
    fn id(&self) -> LogId;
    /// Whether it holds what is in no segment yet. Asked while nobody else has the slot.
    fn is_dirty(&self) -> bool;
    /// Whether somebody asked for it since it was last considered for eviction; Relaxed, and only changed under the lock of
    /// its shard.
    fn touched(&self) -> &AtomicBool;
}

impl Head for super::slot::Slot {
    fn placeholder(id: LogId) -> Self {
        Self::new(id)
    }

    fn id(&self) -> LogId {
        self.id
    }

    fn is_dirty(&self) -> bool {
        self.lock().dirty
    }

    fn touched(&self) -> &AtomicBool {
        &self.touched
    }
}

/// The cache.
#[derive(Debug)]
pub struct Heads<T> {
    shards: Vec<Mutex<Shard<T>>>,
    per_shard_max: usize,
    /// How many stand in all shards; only reported, so Relaxed.
    count: AtomicUsize,
    /// How many of them are dirty; only for the bound, so Relaxed.
    dirty: AtomicUsize,
}

#[derive(Debug)]
struct Shard<T> {
    slots: Slots<T>,
    /// All of them once, those to be looked at for eviction next in front.
    order: VecDeque<Arc<T>>,
}

impl<T: Head> Shard<T> {
    /// Looks at the next slots for one to let go of, by second chance (Corbató's clock): what was asked for since the last
    /// look stays until the next. True if it found one. A slot with no owner but the shard is nobody's, and nobody can get
    /// at it while the shard is locked.
    fn evict(&mut self) -> bool {
        for _ in 0..LOOKS_MAX.min(self.order.len()) {
            let slot = self.order.pop_front().expect("it is not empty");
            let was_touched = slot.touched().swap(false, Ordering::Relaxed);
            if !was_touched && Arc::strong_count(&slot) == OWN && !slot.is_dirty() {
                self.slots.remove(&slot.id());
                return true;
            }
            self.order.push_back(slot);
        }
        false
    }
}

impl<T: Head> Heads<T> {
    /// A cache of about `heads_max` logs beside those in use and dirty.
    #[must_use]
    pub fn new(heads_max: usize) -> Self {
        let shard = || Shard { slots: Slots::new(), order: VecDeque::new() };
        Self {
            shards: (0..SHARDS).map(|_| Mutex::new(shard())).collect(),
            per_shard_max: heads_max.div_ceil(SHARDS),
            count: AtomicUsize::new(0),
            dirty: AtomicUsize::new(0),
        }
    }

    fn shard(&self, id: LogId) -> &Mutex<Shard<T>> {
        // The last byte is of the whole name's keyed hash: evenly spread also within one owner.
        &self.shards[usize::from(id.0[15]) % SHARDS]
    }

    /// The log's slot; a placeholder is installed if there is none. While the caller holds it, it stays. Past the bound up
    /// to two others are let go of for it, so that what was in use and no longer is goes bit by bit.
    pub fn get(&self, id: LogId) -> Arc<T> {
        let mut shard = self.shard(id).lock();
        if let Some(slot) = shard.slots.get(&id) {
            slot.touched().store(true, Ordering::Relaxed);
            return Arc::clone(slot);
        }
        let bound = self.per_shard_max + self.dirty.load(Ordering::Relaxed) / SHARDS;
        let mut evicted = 0;
        while evicted < 2 && shard.slots.len() >= bound && shard.evict() {
            evicted += 1;
        }
        let slot = Arc::new(T::placeholder(id));
        shard.slots.insert(id, Arc::clone(&slot));
        shard.order.push_back(Arc::clone(&slot));
        self.count.fetch_add(1, Ordering::Relaxed);
        self.count.fetch_sub(evicted, Ordering::Relaxed);
        slot
    }

    /// The log's slot, if there is one.
    pub fn peek(&self, id: LogId) -> Option<Arc<T>> {
        self.shard(id).lock().slots.get(&id).cloned()
    }

    /// A slot has become dirty: the bound is beside it.
    pub fn note_dirty(&self) {
        self.dirty.fetch_add(1, Ordering::Relaxed);
    }

    /// A slot is dirty no more.
    pub fn note_clean(&self) {
        self.dirty.fetch_sub(1, Ordering::Relaxed);
    }

    /// How many logs are in memory.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// The slots of all logs in memory at this moment.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<T>> {
        self.shards.iter().flat_map(|s| s.lock().slots.values().cloned().collect::<Vec<_>>()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub struct Fake {
        id: LogId,
        pub dirty: Mutex<bool>,
        touched: AtomicBool,
        /// What was read from the segments.
        #[cfg(everlog_loom)]
        pub loaded: Mutex<Option<u32>>,
    }

    impl Head for Fake {
        fn placeholder(id: LogId) -> Self {
            Self {
                id,
                dirty: Mutex::new(false),
                touched: AtomicBool::new(false),
                #[cfg(everlog_loom)]
                loaded: Mutex::new(None),
            }
        }

        fn id(&self) -> LogId {
            self.id
        }

        fn is_dirty(&self) -> bool {
            *self.dirty.lock()
        }

        fn touched(&self) -> &AtomicBool {
            &self.touched
        }
    }

    fn id(n: u8) -> LogId {
        LogId([n; 16])
    }

    #[cfg(not(everlog_loom))]
    #[test]
    fn what_is_held_or_dirty_stays_and_the_rest_is_bounded() {
        let heads = Heads::<Fake>::new(64);
        let held = heads.get(id(0));
        *heads.get(id(64)).dirty.lock() = true;
        for n in 1..=255 {
            heads.get(LogId([n, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]));
        }
        assert!(heads.count() <= 64 + 64, "{}", heads.count());
        assert!(Arc::ptr_eq(&held, &heads.get(id(0))));
        assert!(*heads.get(id(64)).dirty.lock());
    }

    /// Neither what is dirty nor what once was takes the place of others.
    #[cfg(not(everlog_loom))]
    #[test]
    fn as_many_stay_beside_what_is_dirty_and_go_once_it_is_not() {
        let name = |n: u64| LogId(((u128::from(n) << 64) | u128::from(n % 256)).to_be_bytes());
        let heads = Heads::<Fake>::new(256);
        let idle: Vec<_> = (0..128).map(|n| Arc::downgrade(&heads.get(name(n)))).collect();
        let dirtied = |n| {
            let slot = heads.get(name(n));
            *slot.dirty.lock() = true;
            heads.note_dirty();
            slot
        };
        let dirty: Vec<_> = (1000..2024).map(dirtied).collect();
        (3000..3128).for_each(|n| drop(heads.get(name(n))));
        assert!(idle.iter().all(|slot| slot.strong_count() == OWN), "one was let go of");
        for slot in dirty {
            *slot.dirty.lock() = false;
            heads.note_clean();
        }
        (4000..6000).for_each(|n| drop(heads.get(name(n))));
        assert!(heads.count() <= 256 + SHARDS, "{}", heads.count());
    }

    /// Logs that are asked for all the time, beside as many as fit that are asked for once.
    #[cfg(not(everlog_loom))]
    #[test]
    fn what_is_asked_for_again_stays_beside_what_is_not() {
        let name = |n: u64| LogId(((u128::from(n) << 64) | u128::from(n % 251)).to_be_bytes());
        let heads = Heads::<Fake>::new(1024);
        let hot: Vec<_> = (0..100).map(name).collect();
        let kept: Vec<_> = hot.iter().map(|id| Arc::downgrade(&heads.get(*id))).collect();
        for n in 0..10_000 {
            heads.get(name(1000 + n));
            heads.get(hot[n as usize % hot.len()]);
        }
        assert!(kept.iter().all(|slot| slot.strong_count() == OWN), "one was let go of");
        assert!(heads.count() <= 1024 + SHARDS, "{}", heads.count());
    }

    /// A log is appended to, flushed and evicted while another thread touches it first: the second thread must see the
    /// flushed state or the slot itself, never an older one.
    #[cfg(everlog_loom)]
    #[test]
    fn loom_a_head_read_before_a_flush_is_not_installed_after_it() {
        crate::sync::check(|| {
            let heads = Arc::new(Heads::<Fake>::new(1));
            let segments = Arc::new(Mutex::new(0u32));
            let (h, s) = (Arc::clone(&heads), Arc::clone(&segments));
            let writer = loom::thread::spawn(move || {
                let slot = h.get(id(1));
                *slot.dirty.lock() = true;
                *slot.loaded.lock() = Some(1);
                // The flush: the segment first, then the slot is clean.
                *s.lock() = 1;
                *slot.dirty.lock() = false;
                drop(slot);
                // The first may only find that it was asked for, the second takes it if it may.
                h.get(id(2));
                h.get(id(3));
            });
            let slot = heads.get(id(1));
            let seen = {
                let mut loaded = slot.loaded.lock();
                *loaded.get_or_insert_with(|| *segments.lock())
            };
            writer.join().expect("no panic");
            drop(slot);
            let slot = heads.get(id(1));
            let now = *slot.loaded.lock().get_or_insert_with(|| *segments.lock());
            assert!(now == 1 && seen <= 1, "a log went back from 1 to {now}");
        });
    }
}
