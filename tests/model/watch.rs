//! Subscriptions as a task holds them: a future that is polled only when its waker was called.
//!
//! Invariant: a watch that has news is never found asleep: a wake-up that got lost is a failure here, and not a task
//! that hangs.

use everlog::{ErrorKind, Subscription};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// How often a future may ask to be polled again at once.
const POLLS_MAX: usize = 1000;

type Outcome = Result<u64, ErrorKind>;

/// Whether somebody called. Relaxed: everything here is one thread's.
#[derive(Debug, Default)]
struct Bell(AtomicBool);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Somebody who waits for more of a log than it had before `after`.
pub struct Watch {
    pub log: &'static str,
    pub after: u64,
    future: Pin<Box<dyn Future<Output = Outcome>>>,
    bell: Arc<Bell>,
}

impl Watch {
    pub fn new(log: &'static str, after: u64, subscription: Subscription) -> Self {
        let future = Box::pin(async move { subscription.changed(after).await.map_err(|e| e.kind()) });
        let bell = Arc::new(Bell::default());
        // A task is polled once to begin with.
        bell.0.store(true, Ordering::Relaxed);
        Self { log, after, future, bell }
    }

    /// What the task hears, if it was woken and there is something.
    pub fn hear(&mut self) -> Result<Option<Outcome>, String> {
        for _ in 0..POLLS_MAX {
            if !self.bell.0.swap(false, Ordering::Relaxed) {
                return Ok(None);
            }
            let waker = Waker::from(Arc::clone(&self.bell));
            if let Poll::Ready(outcome) = self.future.as_mut().poll(&mut Context::from_waker(&waker)) {
                return Ok(Some(outcome));
            }
        }
        Err(format!("the watch of {} asks to be polled again and again", self.log))
    }
}
