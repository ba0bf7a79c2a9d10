//! The acknowledgement of an append.
//!
//! Invariant: an [`Ack`] is answered exactly once: with a receipt when everything it rests on is durable, with a
//! refusal at that same point, or with [`ErrorKind::Unknown`] when the store stopped before.

use crate::error::{Error, ErrorKind, Result};
use crate::sync::{Arc, Event};
use crate::types::{Cursor, Lsn, Timeline};
use crate::waiter::{Completer, Waiter, Wakes, pair_on};
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

/// What became of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// Per log, in the order in which the batch named them.
    pub logs: Vec<LogReceipt>,
}

/// What became of a batch's part for one log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LogReceipt {
    /// The seq of the first record; the log's next seq if there was none.
    pub first_seq: u64,
    /// The log's next seq after the batch.
    pub next_seq: u64,
    /// The LSN of the last entry. Where the part stored nothing, as the creation of a log that exists, a place at or
    /// behind its log's last entry.
    pub lsn: Lsn,
    /// Whether the batch had been appended before, so that nothing was stored this time. For a number older than the
    /// last 64 of its producer the seqs are the log's present end.
    pub duplicate: bool,
    /// The timeline of the record before `next_seq`.
    pub timeline: Timeline,
    /// The highest number of the producer, where the batch's part for this log was numbered.
    pub producer_highest: Option<u64>,
}

impl LogReceipt {
    /// The position behind the batch's part for this log.
    #[must_use]
    pub fn next(&self) -> Cursor {
        Cursor { timeline: self.timeline, seq: self.next_seq }
    }
}

/// The acknowledgement of an append: a future, and something a plain thread can wait for. Dropping it cancels nothing.
#[derive(Debug)]
#[must_use = "an append is durable only once its acknowledgement says so"]
pub struct Ack(Waiter<Result<Receipt>>);

impl Ack {
    /// Blocks the calling thread until the batch is durable on this node.
    ///
    /// # Errors
    /// Why the batch was refused; [`crate::ErrorKind::Unknown`] if the store was poisoned before it was known durable.
    pub fn wait(self) -> Result<Receipt> {
        self.0.wait()
    }

    /// The answer, if it is there; given once.
    #[must_use]
    pub fn try_get(&self) -> Option<Result<Receipt>> {
        self.0.try_take()
    }
}

impl Future for Ack {
    type Output = Result<Receipt>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context)
    }
}

/// An acknowledgement to be given, with the answer that holds once it is due. Dropped without having been given, it
/// says that the outcome is unknown, so that nobody waits for ever.
#[derive(Debug)]
pub struct Pending(Option<(Completer<Result<Receipt>>, Result<Receipt>)>);

impl Pending {
    /// An acknowledgement that will say `answer`.
    pub fn new(answer: Result<Receipt>) -> (Self, Ack) {
        Self::with_others(answer, &Arc::default())
    }

    /// As [`Self::new`], for one that is answered with others; see [`Self::answer_all`].
    pub fn with_others(answer: Result<Receipt>, event: &Arc<Event>) -> (Self, Ack) {
        let (completer, waiter) = pair_on(Arc::clone(event));
        (Self(Some((completer, answer))), Ack(waiter))
    }

    /// Answers them all: what each was to say, or `error` instead. Nobody is woken by that: whom it gives is to be.
    pub fn answer_all(all: Vec<Self>, error: Option<&Error>) -> Wakes {
        let mut wakes = Wakes::default();
        for mut pending in all {
            let Some((completer, answer)) = pending.0.take() else { continue };
            wakes.event(completer.event());
            wakes.targets.extend(completer.put(error.map_or(answer, |error| Err(error.clone()))));
        }
        wakes
    }

    /// Says it.
    pub fn give(mut self) {
        if let Some((completer, answer)) = self.0.take() {
            completer.complete(answer);
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some((completer, _)) = self.0.take() {
            let error = Error::new(ErrorKind::Unknown, "the store stopped before this append was known to be durable");
            completer.complete(Err(error.remedy("open the store again and retry by producer number")));
        }
    }
}
