//! The one bounded pool of memory for records: staged, in flight, and durable but not yet in a segment.
//!
//! Invariant: what is taken never passes the bound, but for what recovery found in the journal, which was bounded when
//! it was taken the first time.

use crate::sync::{AtomicBool, Condvar, Mutex, Ordering, wait};

/// The pool.
#[derive(Debug)]
pub struct Pool {
    bytes_max: usize,
    taken: Mutex<usize>,
    freed: Condvar,
    /// Set once when the store stops. Pairs with the loads in `take`, made under the mutex.
    closed: AtomicBool,
}

impl Pool {
    /// A pool of `bytes_max` bytes.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self { bytes_max, taken: Mutex::new(0), freed: Condvar::new(), closed: AtomicBool::new(false) }
    }

    /// Takes `bytes` if they are there at this moment.
    pub fn try_take(&self, bytes: usize) -> bool {
        let mut taken = self.taken.lock();
        let fits = *taken + bytes <= self.bytes_max;
        if fits {
            *taken += bytes;
        }
        fits
    }

    /// Takes `bytes`, waiting until they are there. False if the store stopped meanwhile.
    pub fn take(&self, bytes: usize) -> bool {
        let mut taken = self.taken.lock();
        while *taken + bytes > self.bytes_max {
            if self.closed.load(Ordering::Acquire) {
                return false;
            }
            wait(&self.freed, &mut taken);
        }
        *taken += bytes;
        true
    }

    /// Takes `bytes` beyond the bound if need be: for what recovery found.
    pub fn take_anyway(&self, bytes: usize) {
        *self.taken.lock() += bytes;
    }

    /// Gives `bytes` back.
    pub fn give(&self, bytes: usize) {
        let mut taken = self.taken.lock();
        *taken = taken.checked_sub(bytes).expect("only what was taken is given back");
        drop(taken);
        self.freed.notify_all();
    }

    /// Ends every wait for ever.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        drop(self.taken.lock());
        self.freed.notify_all();
    }

    /// The bound in bytes.
    #[must_use]
    pub fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Bytes taken.
    #[must_use]
    pub fn taken(&self) -> usize {
        *self.taken.lock()
    }
}
