//! loom's models of the primitives, with the signatures of those of production.
//!
//! What it does not do: it models no time. A wait with an end is a wait without one, so that a wake-up that is lost, and
//! that production would only be late for, is a deadlock here.

// Not loom's, which cannot hold a trait object. Taking and dropping a reference is no step of a model then; the locks
// and atomics around it are.
pub use crossbeam::channel::RecvTimeoutError;
pub use loom::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
pub use loom::thread::{JoinHandle, yield_now};
pub use std::sync::Arc;

use std::collections::VecDeque;
use std::time::Duration;

/// Words of stack that a thread of a model gets. loom's own choice is too little for a whole store.
const STACK_WORDS: usize = 1 << 16;

/// A thread, to be woken by name. Not loom's, whose unpark is forgotten if the thread waits for a lock before it parks.
#[derive(Clone, Debug)]
pub struct Thread(Arc<Parker>);

#[derive(Debug)]
struct Parker {
    id: loom::thread::ThreadId,
    unparked: Mutex<bool>,
    changed: Condvar,
}

loom::thread_local! {
    static CURRENT: Thread = Thread(Arc::new(Parker {
        id: loom::thread::current().id(),
        unparked: Mutex::new(false),
        changed: Condvar::new(),
    }));
}

/// The calling thread.
pub fn current() -> Thread {
    CURRENT.with(Thread::clone)
}

impl Thread {
    pub fn id(&self) -> loom::thread::ThreadId {
        self.0.id
    }

    pub fn unpark(&self) {
        *self.0.unparked.lock() = true;
        self.0.changed.notify_one();
    }
}

pub fn park() {
    let parker = current().0;
    let mut unparked = parker.unparked.lock();
    while !*unparked {
        wait(&parker.changed, &mut unparked);
    }
    *unparked = false;
}

/// loom has no time: a bounded wait is a wait.
pub fn park_timeout(_timeout: Duration) {
    park();
}

/// Starts a thread of the model.
///
/// # Errors
/// None; the signature is that of production.
pub fn spawn<T: Send + 'static>(
    name: &str, body: impl FnOnce() -> T + Send + 'static,
) -> std::io::Result<JoinHandle<T>> {
    loom::thread::Builder::new().name(name.to_owned()).stack_size(STACK_WORDS).spawn(body)
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
        MutexGuard(Some(unpoisoned(self.0.lock())))
    }

    pub fn try_lock(&self) -> Option<MutexGuard<'_, T>> {
        match self.0.try_lock() {
            Err(std::sync::TryLockError::WouldBlock) => None,
            Err(std::sync::TryLockError::Poisoned(e)) => Some(MutexGuard(Some(e.into_inner()))),
            Ok(guard) => Some(MutexGuard(Some(guard))),
        }
    }
}

/// What was locked, also after a thread panicked with it, as with parking_lot's locks.
fn unpoisoned<G>(locked: std::sync::LockResult<G>) -> G {
    locked.unwrap_or_else(std::sync::PoisonError::into_inner)
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

pub fn wait<T>(condvar: &Condvar, guard: &mut MutexGuard<'_, T>) {
    let inner = guard.0.take().expect("present outside of a wait");
    guard.0 = Some(unpoisoned(condvar.0.wait(inner)));
}

/// loom has no time: a bounded wait is a wait.
pub fn wait_for<T>(condvar: &Condvar, guard: &mut MutexGuard<'_, T>, _timeout: Duration) {
    wait(condvar, guard);
}

/// A futex: the kernel compares the word and lies the thread down in one step, under the lock of the word's bucket.
#[derive(Debug, Default)]
pub(super) struct Bed {
    bucket: Mutex<()>,
    sleepers: Condvar,
}

impl Bed {
    pub(super) fn sleep(&self, word: &AtomicU32, seen: u32) {
        let mut bucket = self.bucket.lock();
        if word.load(Ordering::Relaxed) == seen {
            wait(&self.sleepers, &mut bucket);
        }
    }

    pub(super) fn wake_all(&self, _word: &AtomicU32) {
        let _bucket = self.bucket.lock();
        self.sleepers.notify_all();
    }
}

/// loom's read-write lock with parking_lot's signature.
#[derive(Debug, Default)]
pub struct RwLock<T>(loom::sync::RwLock<T>);

impl<T> RwLock<T> {
    pub fn new(value: T) -> Self {
        Self(loom::sync::RwLock::new(value))
    }

    pub fn read(&self) -> loom::sync::RwLockReadGuard<'_, T> {
        unpoisoned(self.0.read())
    }

    pub fn write(&self) -> loom::sync::RwLockWriteGuard<'_, T> {
        unpoisoned(self.0.write())
    }
}

/// A channel of a mutex and a condvar, with crossbeam's signature.
#[derive(Debug)]
struct Channel<T> {
    state: Mutex<ChannelState<T>>,
    changed: Condvar,
}

#[derive(Debug)]
struct ChannelState<T> {
    queue: VecDeque<T>,
    senders: usize,
    receivers: usize,
}

/// crossbeam's sender.
#[derive(Debug)]
pub struct Sender<T>(Arc<Channel<T>>);

/// crossbeam's receiver.
#[derive(Debug)]
pub struct Receiver<T>(Arc<Channel<T>>);

pub fn unbounded<T>() -> (Sender<T>, Receiver<T>) {
    let state = ChannelState { queue: VecDeque::new(), senders: 1, receivers: 1 };
    let channel = Arc::new(Channel { state: Mutex::new(state), changed: Condvar::new() });
    (Sender(Arc::clone(&channel)), Receiver(channel))
}

impl<T> Sender<T> {
    /// Fails once no receiver is left.
    pub fn send(&self, value: T) -> Result<(), crossbeam::channel::SendError<T>> {
        let mut state = self.0.state.lock();
        if state.receivers == 0 {
            return Err(crossbeam::channel::SendError(value));
        }
        state.queue.push_back(value);
        self.0.changed.notify_one();
        Ok(())
    }
}

impl<T> Receiver<T> {
    pub fn try_recv(&self) -> Result<T, crossbeam::channel::TryRecvError> {
        let mut state = self.0.state.lock();
        match state.queue.pop_front() {
            Some(value) => Ok(value),
            None if state.senders == 0 => Err(crossbeam::channel::TryRecvError::Disconnected),
            None => Err(crossbeam::channel::TryRecvError::Empty),
        }
    }

    /// loom has no time: it never ends by itself.
    pub fn recv_timeout(&self, _timeout: Duration) -> Result<T, RecvTimeoutError> {
        self.recv().ok_or(RecvTimeoutError::Disconnected)
    }

    fn recv(&self) -> Option<T> {
        let mut state = self.0.state.lock();
        loop {
            if let Some(value) = state.queue.pop_front() {
                return Some(value);
            }
            if state.senders == 0 {
                return None;
            }
            wait(&self.0.changed, &mut state);
        }
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.state.lock().senders += 1;
        Self(Arc::clone(&self.0))
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        self.0.state.lock().senders -= 1;
        self.0.changed.notify_all();
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        self.0.state.lock().receivers += 1;
        Self(Arc::clone(&self.0))
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let rest = {
            let mut state = self.0.state.lock();
            state.receivers -= 1;
            if state.receivers == 0 { std::mem::take(&mut state.queue) } else { VecDeque::new() }
        };
        // What nobody can receive any more is dropped, without the lock.
        drop(rest);
    }
}

impl<T> Iterator for &Receiver<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        self.recv()
    }
}

impl<T> Iterator for Receiver<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        self.recv()
    }
}
