//! Every synchronisation primitive the engine uses, in one place: parking_lot, crossbeam, atomic-wait and the standard
//! library in production, loom's models of them under `cfg(everlog_loom)`.
//!
//! The engine's other modules import threads, locks and atomics from here alone, so that a protocol file compiles
//! unchanged against the model checker.

#[cfg(everlog_loom)]
pub use self::model::*;
#[cfg(not(everlog_loom))]
pub use self::real::*;

#[cfg(not(everlog_loom))]
mod real {
    pub use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};
    pub use std::sync::Arc;
    pub use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
    pub use std::thread::{Thread, current, park_timeout, yield_now};

    /// An event count: threads sleep on it until its next event, and one call wakes all that sleep.
    ///
    /// A sleeper takes the count before it looks at what it waits for; an event in between then ends its sleep at once.
    /// The count's Release in `happen` pairs with the Acquire in `count`.
    #[derive(Debug, Default)]
    pub struct Event(AtomicU32);

    impl Event {
        /// The number of events so far, to be given to [`Self::sleep`].
        #[must_use]
        pub fn count(&self) -> u32 {
            self.0.load(Ordering::Acquire)
        }

        /// Sleeps unless more than `seen` events have happened. It may also return early.
        pub fn sleep(&self, seen: u32) {
            atomic_wait::wait(&self.0, seen);
        }

        /// An event happens: all sleepers are woken, in one call to the system.
        pub fn happen(&self) {
            self.0.fetch_add(1, Ordering::Release);
            atomic_wait::wake_all(&self.0);
        }
    }

    /// Waits on `condvar` for at most `timeout`.
    pub fn wait_for<T>(condvar: &Condvar, guard: &mut MutexGuard<'_, T>, timeout: std::time::Duration) {
        let _timed_out = condvar.wait_for(guard, timeout);
    }

    /// Waits on `condvar`.
    pub fn wait<T>(condvar: &Condvar, guard: &mut MutexGuard<'_, T>) {
        condvar.wait(guard);
    }
}

#[cfg(everlog_loom)]
mod model {
    // Not loom's, which cannot hold a trait object. Taking and dropping a reference is no step of a model then; the
    // locks and atomics around it are.
    pub use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
    pub use loom::thread::{Thread, current, park, yield_now};
    pub use std::sync::Arc;

    /// loom has no time: a bounded wait is a wait.
    pub fn park_timeout(_timeout: std::time::Duration) {
        park();
    }

    /// loom's mutex with parking_lot's signature.
    #[derive(Debug, Default)]
    pub struct Mutex<T>(loom::sync::Mutex<T>);

    /// The guard of [`Mutex`]; an option so that a condvar can take and give back the inner guard.
    #[derive(Debug)]
    pub struct MutexGuard<'a, T>(Option<loom::sync::MutexGuard<'a, T>>);

    impl<T> Mutex<T> {
        pub fn new(value: T) -> Self {
            Self(loom::sync::Mutex::new(value))
        }

        pub fn lock(&self) -> MutexGuard<'_, T> {
            MutexGuard(Some(self.0.lock().expect("a model that panics stops there")))
        }

        pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
            self.0.try_lock().ok().map(|guard| MutexGuard(Some(guard)))
        }
    }

    impl<T> std::ops::Deref for MutexGuard<'_, T> {
        type Target = T;
        fn deref(&self) -> &T {
            self.0.as_ref().expect("present outside of a wait")
        }
    }

    impl<T> std::ops::DerefMut for MutexGuard<'_, T> {
        fn deref_mut(&mut self) -> &mut T {
            self.0.as_mut().expect("present outside of a wait")
        }
    }

    /// loom's condvar with parking_lot's signature.
    #[derive(Debug, Default)]
    pub struct Condvar(loom::sync::Condvar);

    impl Condvar {
        pub fn new() -> Self {
            Self(loom::sync::Condvar::new())
        }

        pub fn notify_one(&self) -> bool {
            self.0.notify_one();
            true
        }

        pub fn notify_all(&self) -> usize {
            self.0.notify_all();
            0
        }
    }

    /// The event count, of a mutex and a condvar.
    #[derive(Debug, Default)]
    pub struct Event(Mutex<u32>, Condvar);

    impl Event {
        pub fn count(&self) -> u32 {
            *self.0.lock()
        }

        pub fn sleep(&self, seen: u32) {
            let mut count = self.0.lock();
            while *count == seen {
                wait(&self.1, &mut count);
            }
        }

        pub fn happen(&self) {
            *self.0.lock() += 1;
            self.1.notify_all();
        }
    }

    pub fn wait<T>(condvar: &Condvar, guard: &mut MutexGuard<'_, T>) {
        let inner = guard.0.take().expect("present outside of a wait");
        guard.0 = Some(condvar.0.wait(inner).expect("a model that panics stops there"));
    }

    /// loom has no time: a bounded wait is a wait.
    pub fn wait_for<T>(condvar: &Condvar, guard: &mut MutexGuard<'_, T>, _timeout: std::time::Duration) {
        wait(condvar, guard);
    }

    /// loom's read-write lock with parking_lot's signature.
    #[derive(Debug, Default)]
    pub struct RwLock<T>(loom::sync::RwLock<T>);

    impl<T> RwLock<T> {
        pub fn new(value: T) -> Self {
            Self(loom::sync::RwLock::new(value))
        }

        pub fn read(&self) -> loom::sync::RwLockReadGuard<'_, T> {
            self.0.read().expect("a model that panics stops there")
        }

        pub fn write(&self) -> loom::sync::RwLockWriteGuard<'_, T> {
            self.0.write().expect("a model that panics stops there")
        }
    }
}
