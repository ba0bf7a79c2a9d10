//! The primitives of production. What it does not do: it adds nothing to them but the signatures that a model can have
//! too.

pub use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, unbounded};
pub use parking_lot::{Condvar, Mutex, MutexGuard, RwLock};
pub use std::sync::Arc;
pub use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
pub use std::thread::{JoinHandle, Thread, current, park_timeout, yield_now};

/// Where threads sleep on a word, in the kernel (a futex). Nothing by itself: the word's address is the place.
#[derive(Debug, Default)]
pub(super) struct Bed;

impl Bed {
    /// Sleeps unless `word` is another than `seen`. It may also return early.
    pub(super) fn sleep(&self, word: &AtomicU32, seen: u32) {
        atomic_wait::wait(word, seen);
    }

    /// Wakes all who sleep on `word`, in one call to the system.
    pub(super) fn wake_all(&self, word: &AtomicU32) {
        atomic_wait::wake_all(word);
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

/// Starts a thread.
///
/// # Errors
/// The operating system's: it may have no more threads.
pub fn spawn<T: Send + 'static>(
    name: &str, body: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<JoinHandle<T>> {
    #[allow(clippy::disallowed_methods, reason = "the one way to a thread; who may go it is said in clippy.toml")]
    std::thread::Builder::new().name(name.to_owned()).spawn(body)
}
