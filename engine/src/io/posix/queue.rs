//! A queue of blocking operations: as many threads as may be in flight, each executing one at a time.
//!
//! What this file does not do: it knows no operation; a thread gives each to [`PosixIo::run`]. Invariant: each
//! operation taken is executed and gives one completion, also when the queue is dropped meanwhile.
//!
//! Memory ordering of a wake: [`Bell::pending`] is only ever changed by `swap`, so that its changes have one order.
//! A waker's swap either comes before the poller's swap back, which then acquires what the waker released, or after it,
//! and then finds `false` and sends a token that the next blocking poll meets. One token at most is under way.

use super::{PosixIo, check};
use crate::io::{Completion, Done, Io, IoQueue, Op, Wake};
use crate::sync::{AtomicBool, Ordering};
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, unbounded};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

/// What the poller receives.
enum Event {
    Completed(Completion),
    Woken,
}

/// The waker.
struct Bell {
    /// Whether a token is under way. Set by the waker, cleared by the poller that took the token.
    pending: AtomicBool,
    events: Sender<Event>,
}

impl Wake for Bell {
    fn wake(&self) {
        if !self.pending.swap(true, Ordering::AcqRel) {
            // The receiver is gone together with the queue; then nobody is left to wake.
            let _ = self.events.send(Event::Woken);
        }
    }
}

/// The queue.
pub(super) struct PosixQueue {
    /// Present until the drop, whose first act is to end the threads by taking it.
    work: Option<Sender<(u64, Op)>>,
    events: Receiver<Event>,
    bell: Arc<Bell>,
    threads: Vec<JoinHandle<()>>,
    /// A token was taken by a poll that did not block; it belongs to the next one that does.
    woken: bool,
    in_flight: Vec<u64>,
    depth: usize,
}

impl PosixQueue {
    pub(super) fn new(disk: PosixIo, depth: usize) -> io::Result<Self> {
        assert!(depth > 0, "a queue takes at least one operation");
        // Neither channel grows beyond the depth and one token.
        let (work, tasks) = unbounded();
        let (completed, events) = unbounded();
        let bell = Arc::new(Bell { pending: AtomicBool::new(false), events: completed.clone() });
        let mut queue = Self {
            work: Some(work),
            events,
            bell,
            threads: Vec::with_capacity(depth),
            woken: false,
            in_flight: Vec::with_capacity(depth),
            depth,
        };
        for n in 0..depth {
            let (tasks, completed) = (tasks.clone(), completed.clone());
            #[allow(clippy::disallowed_methods, reason = "a blocking call in flight needs a thread to block")]
            let thread = std::thread::Builder::new()
                .name(format!("everlog-io-{n}"))
                .spawn(move || execute(|op| disk.run(op), &tasks, &completed))?;
            queue.threads.push(thread);
        }
        Ok(queue)
    }

    /// Sorts one event: a completion goes to `out`, a token is kept.
    fn take(&mut self, event: Event, out: &mut Vec<Completion>) {
        match event {
            Event::Completed(completion) => {
                let at = self.in_flight.iter().position(|id| *id == completion.id);
                self.in_flight.swap_remove(at.expect("only what is in flight completes"));
                out.push(completion);
            }
            Event::Woken => {
                self.bell.pending.swap(false, Ordering::AcqRel);
                self.woken = true;
            }
        }
    }
}

/// What each thread does until the queue is dropped and nothing is left to do. An operation that panics has failed: its
/// fate is as unknown as that of any other failure, and whoever waits for it hears of it.
fn execute(run: impl Fn(Op) -> io::Result<Done>, tasks: &Receiver<(u64, Op)>, completed: &Sender<Event>) {
    for (id, op) in tasks {
        let result = catch_unwind(AssertUnwindSafe(|| run(op)))
            .unwrap_or_else(|_| Err(io::Error::other("the operation panicked; see the standard error output")));
        // Without a receiver the queue is being dropped: the operation still ran to its end.
        let _ = completed.send(Event::Completed(Completion { id, result }));
    }
}

impl IoQueue for PosixQueue {
    fn submit(&mut self, id: u64, op: Op) {
        assert!(self.in_flight.len() < self.depth, "more operations in flight than the queue was made for");
        assert!(!self.in_flight.contains(&id), "the id {id} is in flight already");
        // Checked here so that a misuse panics on the caller's thread and not on one whose end nobody hears of.
        check(&op);
        self.in_flight.push(id);
        let work = self.work.as_ref().expect("present until the drop");
        work.send((id, op)).expect("the threads take work until the queue is dropped");
    }

    fn poll(&mut self, wait: Option<Duration>, out: &mut Vec<Completion>) -> io::Result<()> {
        let before = out.len();
        while let Ok(event) = self.events.try_recv() {
            self.take(event, out);
        }
        let Some(wait) = wait else { return Ok(()) };
        if out.len() == before && !self.woken {
            match self.events.recv_timeout(wait) {
                Ok(event) => self.take(event, out),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => unreachable!("the queue's own bell holds a sender"),
            }
        }
        self.woken = false;
        Ok(())
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.bell.clone()
    }
}

impl Drop for PosixQueue {
    fn drop(&mut self) {
        self.work = None;
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so; a drop does not panic.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_operation_that_panics_is_a_failure_that_is_heard_of_and_the_thread_goes_on() {
        let (work, tasks) = unbounded();
        let (completed, events) = unbounded();
        let list = || Op::List { path: "/".into() };
        work.send((1, list())).expect("the other half is here");
        work.send((2, list())).expect("the other half is here");
        drop(work);
        let first = std::cell::Cell::new(true);
        let run = |_| if first.replace(false) { panic!("as the test wants it") } else { Ok(Done::Nothing) };
        execute(run, &tasks, &completed);
        drop(completed);
        let told: Vec<(u64, bool)> = events
            .iter()
            .map(|event| match event {
                Event::Completed(completion) => (completion.id, completion.result.is_ok()),
                Event::Woken => unreachable!("nobody rings"),
            })
            .collect();
        assert_eq!(told, [(1, false), (2, true)]);
    }
}
