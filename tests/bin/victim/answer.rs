//! Acknowledgements that a thread waits for only so long.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake};
use std::thread::Thread;
use std::time::{Duration, Instant};

use everlog::{Ack, Receipt};

/// An acknowledgement, and what it said.
pub struct Answer {
    ack: Ack,
    /// None before it is there.
    pub result: Option<everlog::Result<Receipt>>,
}

/// Ends the sleep of a thread.
struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

impl Answer {
    /// Nothing is known of it yet.
    pub fn new(ack: Ack) -> Self {
        Self { ack, result: None }
    }

    /// Whether the answer is there.
    fn is_ready(&self) -> bool {
        self.result.is_some()
    }

    /// Looks for the answer, and waits for it: for ever, or so long. Whether it is there.
    pub fn wait(&mut self, patience: Option<Duration>) -> bool {
        let waker = Arc::new(Unpark(std::thread::current())).into();
        let until = patience.map(|patience| Instant::now() + patience);
        while self.result.is_none() {
            if let Poll::Ready(result) = Pin::new(&mut self.ack).poll(&mut Context::from_waker(&waker)) {
                self.result = Some(result);
            } else if let Some(until) = until {
                match until.checked_duration_since(Instant::now()) {
                    Some(left) if !left.is_zero() => std::thread::park_timeout(left),
                    _ => break,
                }
            } else {
                std::thread::park();
            }
        }
        self.is_ready()
    }
}
