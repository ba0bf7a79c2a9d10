//! The latch that stops acknowledgements after a failed journal or manifest write or sync.
//!
//! Invariant: once [`Poison::set`] has returned, [`Poison::check`] fails for ever, with the first cause, nothing is
//! acknowledged (what acknowledges does so within [`Poison::unless_set`]), and whoever awaits [`Failed`] has been woken.
//! A poisoned store keeps serving reads; only opening it again clears the latch, since only recovery can tell what the
//! disk holds.

use crate::error::{Error, ErrorKind, Result};
use crate::sync::{Arc, AtomicBool, Mutex, Ordering};
use crate::waiter::{Target, wake_all};
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// The latch. Shared by everything that may acknowledge.
#[derive(Debug, Default)]
pub struct Poison {
    /// Pairs with itself: the Release store in `set` follows the cause's write, the Acquire load in `check` precedes
    /// its read.
    set: AtomicBool,
    cause: Mutex<Option<Error>>,
    watchers: Mutex<Watchers>,
}

/// The tasks that await the failure, by a key of each.
#[derive(Debug, Default)]
struct Watchers {
    next_key: u64,
    tasks: BTreeMap<u64, Waker>,
}

impl Poison {
    /// Closes the latch; the first cause stays.
    pub fn set(&self, cause: Error) {
        let told = cause.to_string();
        let first = {
            let mut slot = self.cause.lock();
            let first = slot.is_none();
            slot.get_or_insert(cause);
            first
        };
        self.set.store(true, Ordering::Release);
        // A task that registers after this finds the latch closed: both hold this lock.
        let tasks = std::mem::take(&mut self.watchers.lock().tasks);
        wake_all(tasks.into_values().map(Target::Task).collect());
        // Behind the latch: whoever receives the log line may fail.
        if first {
            tracing::error!(cause = told, "poisoned: no append is acknowledged from here on");
        }
    }

    /// Acknowledges, unless the latch is closed; None then. The latch does not close meanwhile, so `acknowledge` waits
    /// for nothing and asks the latch nothing.
    pub fn unless_set<T>(&self, acknowledge: impl FnOnce() -> T) -> Option<T> {
        let cause = self.cause.lock();
        cause.is_none().then(acknowledge)
    }

    /// Whether the latch is closed.
    #[must_use]
    pub fn is_set(&self) -> bool {
        self.set.load(Ordering::Acquire)
    }

    /// The first cause, if the latch is closed.
    #[must_use]
    pub fn cause(&self) -> Option<Error> {
        if self.is_set() { self.cause.lock().clone() } else { None }
    }

    /// Fails if the latch is closed.
    ///
    /// # Errors
    /// [`ErrorKind::Poisoned`] with the first cause; that cause itself, if it is [`ErrorKind::Fenced`].
    pub fn check(&self) -> Result<()> {
        if self.is_set() { Err(self.error()) } else { Ok(()) }
    }

    /// The error for an operation that was refused because the latch is closed.
    #[must_use]
    pub fn error(&self) -> Error {
        self.describe(ErrorKind::Poisoned, "the store stopped taking appends")
    }

    /// The error for an operation that was under way when the latch closed.
    #[must_use]
    pub fn unknown(&self) -> Error {
        self.describe(ErrorKind::Unknown, "it is unknown whether this append is durable")
    }

    fn describe(&self, kind: ErrorKind, what: &str) -> Error {
        let cause = match &*self.cause.lock() {
            Some(cause) if cause.kind() == ErrorKind::Fenced && kind == ErrorKind::Poisoned => return cause.clone(),
            Some(cause) => format!("{what}: {cause}"),
            None => what.to_owned(),
        };
        Error::new(kind, cause).remedy("check the disk, open the store again, and retry by producer number")
    }
}

/// Comes back once the store stopped acknowledging, with [`ErrorKind::Poisoned`] and the cause; never, if it does not. What
/// only opening the store again can end is worth ending a process for, which is what this is for.
#[derive(Debug)]
#[must_use = "a future does nothing unless it is polled"]
pub struct Failed {
    poison: Arc<Poison>,
    key: Option<u64>,
}

impl Failed {
    /// Of this latch.
    pub fn of(poison: &Arc<Poison>) -> Self {
        Self { poison: Arc::clone(poison), key: None }
    }
}

impl Future for Failed {
    type Output = Error;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Error> {
        let this = &mut *self;
        // A waker's own code runs outside of the lock: it may come back here.
        let waker = context.waker().clone();
        let mut watchers = this.poison.watchers.lock();
        if this.poison.is_set() {
            drop(watchers);
            return Poll::Ready(this.poison.error());
        }
        let key = *this.key.get_or_insert(watchers.next_key);
        watchers.next_key = watchers.next_key.max(key + 1);
        let before = watchers.tasks.insert(key, waker);
        drop(watchers);
        drop(before);
        Poll::Pending
    }
}

impl Drop for Failed {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            let waker = self.poison.watchers.lock().tasks.remove(&key);
            drop(waker);
        }
    }
}

#[cfg(all(test, not(everlog_loom)))]
mod tests {
    use super::*;
    use crate::sync::AtomicUsize;
    use std::pin::pin;
    use std::task::Wake;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }

    #[test]
    fn whoever_awaits_the_failure_is_woken_and_told_the_first_cause() {
        let poison = Arc::new(Poison::default());
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let (mut one, mut other) = (pin!(Failed::of(&poison)), pin!(Failed::of(&poison)));
        for _ in 0..2 {
            assert!(one.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
            assert!(other.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        }
        let mut gone = Failed::of(&poison);
        assert!(Pin::new(&mut gone).poll(&mut Context::from_waker(&waker)).is_pending());
        drop(gone);
        assert!(poison.cause().is_none());
        poison.set(Error::new(ErrorKind::Io, "the first failure"));
        poison.set(Error::new(ErrorKind::Io, "the second failure"));
        assert_eq!(woken.0.load(Ordering::SeqCst), 2, "each that still waits, once");
        for failed in [one, other] {
            let Poll::Ready(error) = failed.poll(&mut Context::from_waker(Waker::noop())) else { panic!("it failed") };
            assert_eq!(error.kind(), ErrorKind::Poisoned);
            assert!(error.to_string().contains("the first failure"), "{error}");
        }
        let mut late = pin!(Failed::of(&poison));
        assert!(late.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready());
    }

    #[test]
    fn a_closed_latch_acknowledges_nothing_and_keeps_the_first_cause() {
        let poison = Poison::default();
        assert_eq!(poison.unless_set(|| 1), Some(1));
        poison.set(Error::new(ErrorKind::Io, "first"));
        poison.set(Error::new(ErrorKind::Io, "second"));
        assert_eq!(poison.unless_set(|| 1), None);
        assert!(poison.error().to_string().contains("first"));
    }
}

#[cfg(all(test, everlog_loom))]
mod loom_tests {
    use super::*;
    use crate::sync::{Arc, check};
    use loom::thread::spawn;
    use std::sync::atomic::AtomicBool as Switch;

    /// Two threads close the latch while a third acknowledges: once either close has returned, nothing is acknowledged
    /// that was not before, and every check fails with one and the same cause.
    #[test]
    fn loom_a_latch_that_was_closed_stays_closed() {
        check(|| {
            let poison = Arc::new(Poison::default());
            // Not loom's: it is the world outside, which orders nothing.
            let acknowledged = Arc::new(Switch::new(false));
            let acknowledges = {
                let (poison, acknowledged) = (Arc::clone(&poison), Arc::clone(&acknowledged));
                spawn(move || {
                    if let Err(error) = poison.check() {
                        let told = error.to_string();
                        assert!(told.contains("one") || told.contains("other"), "closed without a cause: {told}");
                    }
                    poison.unless_set(|| acknowledged.store(true, Ordering::Relaxed)).is_some()
                })
            };
            let closes = {
                let poison = Arc::clone(&poison);
                spawn(move || {
                    poison.set(Error::new(ErrorKind::Io, "one"));
                    poison.check().expect_err("closed").to_string()
                })
            };
            poison.set(Error::new(ErrorKind::Io, "other"));
            let before = acknowledged.load(Ordering::Relaxed);
            let told = poison.check().expect_err("closed").to_string();
            assert_eq!(acknowledges.join().expect("no panic"), before, "acknowledged behind the latch");
            assert_eq!(acknowledged.load(Ordering::Relaxed), before, "acknowledged behind the latch");
            assert_eq!(closes.join().expect("no panic"), told, "two causes");
        });
    }
}
