//! The one bounded pool of memory for records: staged, in flight, and durable but not yet in a segment.
//!
//! Invariant: what is taken never passes the bound, but for what recovery found in the journal, which was bounded when
//! it was taken the first time.

use crate::sync::{AtomicBool, AtomicUsize, Condvar, Mutex, Ordering, wait, wait_for};
use std::time::Duration;

/// The part that may be taken before appends are slowed down, in hundredths.
const SOFT: usize = 60;

#[derive(Debug, Default)]
struct State {
    taken: usize,
    /// Callers who wait for room.
    waiting: usize,
}

/// The pool.
#[derive(Debug)]
pub struct Pool {
    bytes_max: usize,
    state: Mutex<State>,
    freed: Condvar,
    /// Those wait on it who only wait for time to pass.
    closing: Condvar,
    /// What is taken, for those who do not need to know it exactly: Relaxed.
    about: AtomicUsize,
    /// Set once when the store stops. Pairs with the loads in `take`, made under the mutex.
    closed: AtomicBool,
}

impl Pool {
    /// A pool of `bytes_max` bytes.
    #[must_use]
    pub fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            state: Mutex::new(State::default()),
            freed: Condvar::new(),
            closing: Condvar::new(),
            about: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
        }
    }

    /// Takes `bytes` if they are there at this moment.
    pub fn try_take(&self, bytes: usize) -> bool {
        let mut state = self.state.lock();
        let fits = state.taken + bytes <= self.bytes_max;
        if fits {
            self.set(&mut state, bytes as isize);
        }
        fits
    }

    /// Takes `bytes`, waiting until they are there; before it waits, and once [`Self::is_short`] tells of it, it calls
    /// `short`. False if the store stopped meanwhile.
    pub fn take(&self, bytes: usize, short: impl FnOnce()) -> bool {
        if self.try_take(bytes) {
            return true;
        }
        self.state.lock().waiting += 1;
        short();
        let mut state = self.state.lock();
        while state.taken + bytes > self.bytes_max && !self.closed.load(Ordering::Acquire) {
            wait(&self.freed, &mut state);
        }
        state.waiting -= 1;
        let fits = state.taken + bytes <= self.bytes_max;
        if fits {
            self.set(&mut state, bytes as isize);
        }
        fits
    }

    /// Whether anybody waits for room. Only a flush gives room back, so that one is due then, however little it finds.
    #[must_use]
    pub fn is_short(&self) -> bool {
        self.state.lock().waiting > 0
    }

    /// Takes `bytes` beyond the bound if need be: for what recovery found.
    pub fn take_anyway(&self, bytes: usize) {
        self.set(&mut self.state.lock(), bytes as isize);
    }

    /// Gives `bytes` back.
    pub fn give(&self, bytes: usize) {
        let mut state = self.state.lock();
        self.set(&mut state, -(bytes as isize));
        drop(state);
        self.freed.notify_all();
    }

    fn set(&self, state: &mut State, more: isize) {
        state.taken = state.taken.checked_add_signed(more).expect("only what was taken is given back");
        self.about.store(state.taken, Ordering::Relaxed);
    }

    /// Waits for `pause`; false if the store stopped meanwhile.
    pub fn pause(&self, pause: Duration) -> bool {
        let mut state = self.state.lock();
        if !self.closed.load(Ordering::Acquire) {
            wait_for(&self.closing, &mut state, pause);
        }
        !self.closed.load(Ordering::Acquire)
    }

    /// Ends every wait for ever.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Release);
        drop(self.state.lock());
        self.freed.notify_all();
        self.closing.notify_all();
    }

    /// The bound in bytes.
    #[must_use]
    pub fn bytes_max(&self) -> usize {
        self.bytes_max
    }

    /// Bytes that may be taken before appends are slowed down.
    #[must_use]
    pub fn bytes_soft(&self) -> usize {
        self.bytes_max / 100 * SOFT
    }

    /// Bytes taken a moment ago; waits for nobody.
    #[must_use]
    pub fn taken_about(&self) -> usize {
        self.about.load(Ordering::Relaxed)
    }

    /// Bytes taken.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.state.lock().taken
    }
}

#[cfg(all(test, everlog_loom))]
mod loom_tests {
    use super::*;
    use crate::sync::{Arc, check};
    use loom::thread::spawn;

    /// Two callers wait for more than half of the pool: each gets it once the other, or the first owner, gives it back.
    #[test]
    fn loom_whoever_waits_for_room_gets_it_once_it_is_there() {
        check(|| {
            let pool = Arc::new(Pool::new(3));
            assert!(pool.try_take(2), "it is empty");
            let callers = [0, 1].map(|_| {
                let pool = Arc::clone(&pool);
                spawn(move || {
                    assert!(pool.take(2, || assert!(pool.is_short(), "told before it is to be seen")));
                    assert!(pool.taken() <= 3, "beyond the bound");
                    pool.give(2);
                })
            });
            pool.give(2);
            for caller in callers {
                caller.join().expect("no panic");
            }
            assert!(!pool.is_short() && pool.taken() == 0);
        });
    }

    /// Of two who wait, only one finds enough when a little is given back: it gets it, whoever came first.
    #[test]
    fn loom_whoever_needs_little_does_not_wait_for_whoever_needs_much() {
        check(|| {
            let pool = Arc::new(Pool::new(3));
            assert!(pool.try_take(3), "it is empty");
            let [much, little] = [3, 1].map(|bytes| {
                let pool = Arc::clone(&pool);
                spawn(move || {
                    assert!(pool.take(bytes, || ()));
                    pool.give(bytes);
                })
            });
            pool.give(1);
            little.join().expect("no panic");
            pool.give(2);
            much.join().expect("no panic");
        });
    }

    /// The store stops while a caller waits for room that never comes.
    #[test]
    fn loom_a_close_ends_every_wait_for_room() {
        check(|| {
            let pool = Arc::new(Pool::new(1));
            assert!(pool.try_take(1), "it is empty");
            let callers = [0, 1].map(|_| {
                let pool = Arc::clone(&pool);
                spawn(move || assert!(!pool.take(1, || ()), "there was never room"))
            });
            pool.close();
            for caller in callers {
                caller.join().expect("no panic");
            }
            assert_eq!(pool.taken(), 1);
        });
    }
}
