//! One value handed from one thread to another, awaited by a task or a plain thread.
//!
//! A [`Waiter`] is both a future and something a thread can block on; the other half, [`Completer`], fills it once and
//! wakes that one waiter by name. Dropping the waiter cancels nothing. No async runtime is involved.
//!
//! Invariant: a value that was put is never lost and the waiter that registered before or after is woken or sees it.

use crate::sync::{Arc, AtomicBool, Mutex, Ordering, Thread, current, park};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

#[derive(Debug)]
struct Cell<T> {
    /// Set with Release after the value is in place; pairs with the Acquire loads in `Waiter`.
    done: AtomicBool,
    inner: Mutex<Inner<T>>,
}

#[derive(Debug)]
struct Inner<T> {
    value: Option<T>,
    target: Option<Target>,
}

/// Who is to be woken.
#[derive(Debug)]
pub enum Target {
    /// A thread that parked.
    Thread(Thread),
    /// A task that was polled.
    Task(Waker),
}

impl Target {
    /// The calling thread.
    #[must_use]
    pub fn this_thread() -> Self {
        Self::Thread(current())
    }

    /// Wakes it.
    pub fn wake(self) {
        match self {
            Self::Thread(thread) => thread.unpark(),
            Self::Task(waker) => waker.wake(),
        }
    }
}

/// The half that waits.
#[derive(Debug)]
pub struct Waiter<T>(Arc<Cell<T>>);

/// The half that gives the value.
#[derive(Debug)]
pub struct Completer<T>(Arc<Cell<T>>);

/// A pair.
#[must_use]
pub fn pair<T>() -> (Completer<T>, Waiter<T>) {
    let inner = Inner { value: None, target: None };
    let cell = Arc::new(Cell { done: AtomicBool::new(false), inner: Mutex::new(inner) });
    (Completer(Arc::clone(&cell)), Waiter(cell))
}

impl<T> Completer<T> {
    /// Gives the value and wakes the waiter.
    pub fn complete(self, value: T) {
        let target = {
            let mut inner = self.0.inner.lock();
            inner.value = Some(value);
            self.0.done.store(true, Ordering::Release);
            inner.target.take()
        };
        if let Some(target) = target {
            target.wake();
        }
    }
}

impl<T> Waiter<T> {
    /// Whether the value is there.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.0.done.load(Ordering::Acquire)
    }

    /// Blocks the calling thread until the value is there.
    #[must_use]
    pub fn wait(self) -> T {
        loop {
            if let Some(value) = self.take_or_register(Target::this_thread) {
                return value;
            }
            while !self.is_done() {
                park();
            }
        }
    }

    /// The value, if it is there; taken at most once.
    #[must_use]
    pub fn try_take(&self) -> Option<T> {
        if self.is_done() { self.0.inner.lock().value.take() } else { None }
    }

    fn take_or_register(&self, target: impl FnOnce() -> Target) -> Option<T> {
        let mut inner = self.0.inner.lock();
        let value = inner.value.take();
        if value.is_none() {
            inner.target = Some(target());
        }
        value
    }
}

impl<T> Future for Waiter<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        match self.take_or_register(|| Target::Task(context.waker().clone())) {
            Some(value) => Poll::Ready(value),
            None => Poll::Pending,
        }
    }
}

#[cfg(all(test, not(everlog_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_value_reaches_a_thread_before_and_after_it_waits() {
        let (completer, waiter) = pair();
        completer.complete(5);
        assert_eq!(waiter.wait(), 5);
        let (completer, waiter) = pair();
        let thread = std::thread::spawn(move || waiter.wait());
        completer.complete(6);
        assert_eq!(thread.join().expect("no panic"), 6);
    }

    #[test]
    fn a_dropped_waiter_cancels_nothing() {
        let (completer, waiter) = pair();
        drop(waiter);
        completer.complete(1);
    }

    #[test]
    fn a_task_is_woken() {
        let (completer, mut waiter) = pair();
        let mut context = Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut waiter).poll(&mut context).is_pending());
        completer.complete(7);
        assert_eq!(Pin::new(&mut waiter).poll(&mut context), Poll::Ready(7));
    }
}

#[cfg(all(test, everlog_loom))]
mod loom_tests {
    use super::*;

    #[test]
    fn loom_a_waiter_is_never_left_asleep() {
        loom::model(|| {
            let (completer, waiter) = pair();
            let giver = loom::thread::spawn(move || completer.complete(3));
            assert_eq!(waiter.wait(), 3);
            giver.join().expect("no panic");
        });
    }
}
