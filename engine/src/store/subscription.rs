//! Waiting for what comes: new records of a log, and reads that wait for the disk elsewhere.
//!
//! Invariant: each wait stands in its log's list of watchers at most once, and not at all once it has ended.

use super::Core;
use super::threads::Threads;
use crate::error::{Error, ErrorKind, Result};
use crate::format::state::Phase;
use crate::index::slot::{Slot, SlotInner};
use crate::read::Page;
use crate::sync::{Arc, MutexGuard, Ordering, park_timeout};
use crate::waiter::{Target, Waiter, pair};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

/// How long a wait sleeps before it looks again by itself.
const PARK_MAX: Duration = Duration::from_millis(100);

/// A watch on one log. It keeps the log's head in memory and holds no records.
pub struct Subscription {
    core: Arc<Core>,
    slot: Arc<Slot>,
    name: String,
}

impl std::fmt::Debug for Subscription {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Subscription").field("log", &self.name).finish_non_exhaustive()
    }
}

/// What a look at the log's head finds.
struct Head {
    next_seq: u64,
    /// Closed, deleted or expired: there is nothing to wait for.
    ended: bool,
}

impl Subscription {
    pub(super) fn new(core: &Arc<Core>, name: &str) -> Self {
        let slot = core.index.heads.get(core.index.log_id(name));
        Self { core: Arc::clone(core), slot, name: name.to_owned() }
    }

    /// Fails if the log was never created; without waiting, if `now`. From then on its state stays in memory.
    pub(super) fn check_exists(&self, now: bool) -> Result<()> {
        let index = &self.core.index;
        let inner = if now {
            index.try_resolve_visible(&self.slot, &self.name)?
        } else {
            index.resolve_visible(&self.slot, Some(&self.name))?
        };
        match inner.visible.phase {
            Phase::Absent => Err(Error::new(ErrorKind::NotFound, "the log does not exist").log(&*self.name)),
            Phase::Live | Phase::Deleted => Ok(()),
        }
    }

    /// The log's next seq at this moment.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`], [`ErrorKind::ShutDown`].
    pub fn next_seq(&self) -> Result<u64> {
        self.core.check_open()?;
        self.look(None, 0).map(|head| head.next_seq)
    }

    /// Waits until the log's next seq is greater than `after`, the log was closed or deleted, or `timeout` has passed;
    /// gives the next seq then. That the log expires meanwhile does not end the wait.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`]; [`ErrorKind::ShutDown`] once the store is closed; [`ErrorKind::Poisoned`] once nothing
    /// can come any more.
    #[allow(clippy::disallowed_methods, reason = "a wait on the caller's own thread, by the caller's own clock")]
    pub fn wait(&self, after: u64, timeout: Duration) -> Result<u64> {
        let until = Instant::now() + timeout;
        let mut watch = Watch::new(self);
        loop {
            let head = watch.look(after)?;
            let left = until.saturating_duration_since(Instant::now());
            if head.next_seq > after || head.ended || left.is_zero() {
                return Ok(head.next_seq);
            }
            park_timeout(left.min(PARK_MAX));
        }
    }

    /// [`Self::wait`] as a future without a timeout.
    pub fn changed(&self, after: u64) -> Changed<'_> {
        Changed { watch: Watch::new(self), after }
    }

    /// [`Self::look`] without waiting, for a task.
    fn try_look(&self, key: u64, waker: &Waker, after: u64) -> Result<Head> {
        let inner = self.core.index.try_resolve_visible(&self.slot, &self.name)?;
        Ok(self.head(inner, Some((key, Target::Task(waker.clone()))), after))
    }

    /// The head as it is visible; with a `target` to wake once it is past `after`, if it is not now.
    fn look(&self, target: Option<(u64, Target)>, after: u64) -> Result<Head> {
        let inner = self.core.index.resolve_visible(&self.slot, Some(&self.name))?;
        Ok(self.head(inner, target, after))
    }

    fn head(&self, mut inner: MutexGuard<'_, SlotInner>, target: Option<(u64, Target)>, after: u64) -> Head {
        let visible = inner.visible;
        let ended = visible.closed || visible.phase != Phase::Live || visible.has_expired(self.core.now());
        if visible.next_seq.0 <= after
            && !ended
            && let Some((key, target)) = target
        {
            inner.watch(key, target);
        }
        Head { next_seq: visible.next_seq.0, ended }
    }
}

/// One wait: its place in the log's list of watchers, which it leaves when it ends.
#[derive(Debug)]
struct Watch<'a> {
    subscription: &'a Subscription,
    key: u64,
    registered: bool,
}

impl<'a> Watch<'a> {
    fn new(subscription: &'a Subscription) -> Self {
        Self { subscription, key: subscription.core.end.next_wait.fetch_add(1, Ordering::Relaxed), registered: false }
    }

    /// The head; if it is not past `after`, this thread is woken once that may have changed.
    fn look(&mut self, after: u64) -> Result<Head> {
        self.subscription.core.check_open()?;
        self.registered = true;
        let head = self.subscription.look(Some((self.key, Target::this_thread())), after)?;
        self.still(head, after)
    }

    /// [`Self::look`] for a task, without waiting.
    fn try_look(&mut self, waker: &Waker, after: u64) -> Result<Head> {
        self.subscription.core.check_open()?;
        self.registered = true;
        let head = self.subscription.try_look(self.key, waker, after)?;
        self.still(head, after)
    }

    /// What was seen, unless nothing can come any more.
    fn still(&self, head: Head, after: u64) -> Result<Head> {
        let core = &self.subscription.core;
        if head.next_seq <= after && !head.ended {
            // Behind the registration, so that a close or a failure is either seen here or wakes the target.
            core.check_open()?;
            core.poison.check()?;
        }
        Ok(head)
    }
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        if self.registered
            // Somebody at the log may be reading the disk, which is not to be waited for here. What then stays registered
            // is woken once, to no effect, with the next record.
            && let Some(mut inner) = self.subscription.slot.try_lock()
        {
            inner.unwatch(self.key);
        }
    }
}

/// The future of [`Subscription::changed`].
#[derive(Debug)]
pub struct Changed<'a> {
    watch: Watch<'a>,
    after: u64,
}

impl Future for Changed<'_> {
    type Output = Result<u64>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let after = self.after;
        match self.watch.try_look(context.waker(), after) {
            Ok(head) if head.next_seq > after || head.ended => Poll::Ready(Ok(head.next_seq)),
            Ok(_) => Poll::Pending,
            // Somebody is at the log, or a frame of it is being published; neither takes long.
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                context.waker().wake_by_ref();
                Poll::Pending
            }
            Err(error) => Poll::Ready(Err(error)),
        }
    }
}

/// The future of [`super::Store::read_async`].
#[derive(Debug)]
pub struct ReadFuture(Waiter<Result<Page>>);

impl ReadFuture {
    /// Begins the read on a thread of the store's; on this one, where the store has none.
    pub(super) fn start(threads: Option<&Threads>, read: impl FnOnce() -> Result<Page> + Send + 'static) -> Self {
        let (completer, waiter) = pair();
        match threads {
            Some(threads) => threads.read(Box::new(move || completer.complete(read()))),
            None => completer.complete(read()),
        }
        Self(waiter)
    }
}

impl Future for ReadFuture {
    type Output = Result<Page>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context)
    }
}

/// The error for what is asked of a store that was closed.
pub(super) fn closed() -> Error {
    Error::new(ErrorKind::ShutDown, "the store is closed")
}
