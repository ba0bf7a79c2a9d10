//! The cache of logs in memory, by LogId.
//!
//! Invariants: at most one slot stands for a LogId; a slot that somebody holds or that is dirty is never evicted, since
//! a state read from segments before a flush could otherwise be installed after it. The cache holds no more than its
//! bound of others, so that nothing grows with the number of idle logs.

use crate::sync::{Arc, AtomicUsize, Mutex, Ordering};
use crate::types::LogId;

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
    /// Whether it holds what is in no segment yet. Asked while nobody else has the slot.
    fn is_dirty(&self) -> bool;
}

impl Head for super::slot::Slot {
    fn placeholder(id: LogId) -> Self {
        Self::new(id)
    }

    fn is_dirty(&self) -> bool {
        self.lock().dirty
    }
}

/// The cache.
#[derive(Debug)]
pub struct Heads<T> {
    shards: Vec<Mutex<Shard<T>>>,
    per_shard_max: usize,
    /// How many stand in all shards; only reported, so Relaxed.
    count: AtomicUsize,
}

#[derive(Debug)]
struct Shard<T> {
    slots: Slots<T>,
    /// At this many slots the next sweep is due; raised where a sweep finds that most are in use.
    sweep_at: usize,
}

impl<T: Head> Heads<T> {
    /// A cache of about `heads_max` logs beside those in use and dirty.
    #[must_use]
    pub fn new(heads_max: usize) -> Self {
        Self {
            shards: (0..SHARDS)
                .map(|_| Mutex::new(Shard { slots: Slots::new(), sweep_at: heads_max.div_ceil(SHARDS) }))
                .collect(),
            per_shard_max: heads_max.div_ceil(SHARDS),
            count: AtomicUsize::new(0),
        }
    }

    fn shard(&self, id: LogId) -> &Mutex<Shard<T>> {
        // The last byte is of the whole name's keyed hash: evenly spread also within one owner.
        &self.shards[usize::from(id.0[15]) % SHARDS]
    }

    /// The log's slot; a placeholder is installed if there is none. While the caller holds it, it stays.
    pub fn get(&self, id: LogId) -> Arc<T> {
        let mut shard = self.shard(id).lock();
        if let Some(slot) = shard.slots.get(&id) {
            return Arc::clone(slot);
        }
        if shard.slots.len() >= shard.sweep_at {
            self.sweep(&mut shard);
        }
        let slot = Arc::new(T::placeholder(id));
        shard.slots.insert(id, Arc::clone(&slot));
        self.count.fetch_add(1, Ordering::Relaxed);
        slot
    }

    /// The log's slot, if there is one.
    pub fn peek(&self, id: LogId) -> Option<Arc<T>> {
        self.shard(id).lock().slots.get(&id).cloned()
    }

    /// Drops what nobody holds and what is not dirty, at least a quarter of the shard where that much is idle. A slot
    /// with one owner is the map's alone, and nobody can get at it while the shard is locked. Costs a look at each slot
    /// once per quarter of the shard that is new.
    fn sweep(&self, shard: &mut Shard<T>) {
        let before = shard.slots.len();
        let mut left = before - self.per_shard_max + self.per_shard_max / 4 + 1;
        shard.slots.retain(|_, slot| {
            let idle = left > 0 && Arc::strong_count(slot) == 1 && !slot.is_dirty();
            left -= usize::from(idle);
            !idle
        });
        let after = shard.slots.len();
        shard.sweep_at = self.per_shard_max.max(after + after / 4 + 1);
        self.count.fetch_sub(before - after, Ordering::Relaxed);
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
        pub dirty: Mutex<bool>,
        /// What was read from the segments.
        #[cfg(everlog_loom)]
        pub loaded: Mutex<Option<u32>>,
    }

    impl Head for Fake {
        fn placeholder(_: LogId) -> Self {
            Self {
                dirty: Mutex::new(false),
                #[cfg(everlog_loom)]
                loaded: Mutex::new(None),
            }
        }

        fn is_dirty(&self) -> bool {
            *self.dirty.lock()
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
                h.get(id(2));
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
