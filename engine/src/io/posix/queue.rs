//! A queue of blocking operations: as many threads as may be in flight, each executing one at a time.
//!
//! What this file does not do: it knows no operation; a thread gives each to [`Io::run`]. Invariant: each operation
//! taken is executed and gives one completion, also when the queue is dropped meanwhile.
//!
//! Memory ordering of a wake: [`Bell::pending`] is only ever changed by `swap`, so that its changes have one order.
//! A waker's swap either comes before the poller's swap back, which then acquires what the waker released, or after it,
//! and then finds `false` and sends a token that the next blocking poll meets. One token at most is under way.

use super::check;
use crate::io::{Completion, Io, IoQueue, Op, Wake};
use crate::sync::{Arc, AtomicBool, JoinHandle, Ordering, Receiver, RecvTimeoutError, Sender, spawn, unbounded};
use std::io;
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
    pub(super) fn new(disk: impl Io + Clone, depth: usize) -> io::Result<Self> {
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
            let (disk, tasks, completed) = (disk.clone(), tasks.clone(), completed.clone());
            #[allow(clippy::disallowed_methods, reason = "a blocking call in flight needs a thread to block")]
            let thread = spawn(&format!("everlog-io-{n}"), move || execute(&disk, &tasks, &completed))?;
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

/// What each thread does until the queue is dropped and nothing is left to do.
fn execute(disk: &impl Io, tasks: &Receiver<(u64, Op)>, completed: &Sender<Event>) {
    for (id, op) in tasks {
        let result = disk.run(op);
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

#[cfg(all(test, everlog_loom))]
mod loom_tests {
    use super::*;
    use crate::io::mem::MemIo;
    use crate::sync::check;
    use std::path::Path;

    /// An operation that leaves a trace.
    fn op(id: u64) -> Op {
        Op::CreateDir { path: format!("/{id}").into() }
    }

    fn executed(disk: &MemIo) -> usize {
        let io: &dyn Io = disk;
        io.list(Path::new("/")).expect("there is always a root").len()
    }

    /// Two wakers publish something and wake; the poller sleeps until it has seen both. A lost wake would be a deadlock,
    /// a missing edge work that is not seen after the last wake.
    #[test]
    fn loom_no_wake_of_a_blocking_queue_is_lost() {
        check(|| {
            let mut queue = PosixQueue::new(MemIo::new(), 1).expect("threads");
            let work = [Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false))];
            let wakers = work.clone().map(|mine| {
                let waker = queue.waker();
                loom::thread::spawn(move || {
                    mine.store(true, Ordering::Relaxed);
                    waker.wake();
                })
            });
            let mut out = Vec::new();
            while !work.iter().all(|done| done.load(Ordering::Relaxed)) {
                queue.poll(Some(Duration::from_secs(1)), &mut out).expect("it works");
            }
            for waker in wakers {
                waker.join().expect("no panic");
            }
        });
    }

    /// A wake while completions come, met by a poll that does not block: the next blocking poll returns all the same,
    /// and each operation completes once.
    #[test]
    fn loom_a_wake_beside_completions_is_kept_for_the_next_sleep() {
        check(|| {
            let disk = MemIo::new();
            let mut queue = PosixQueue::new(disk.clone(), 1).expect("threads");
            let waker = queue.waker();
            let said = Arc::new(AtomicBool::new(false));
            let saying = Arc::clone(&said);
            let other = loom::thread::spawn(move || {
                saying.store(true, Ordering::Relaxed);
                waker.wake();
            });
            let mut out = Vec::new();
            queue.submit(1, op(1));
            queue.poll(None, &mut out).expect("it works");
            while out.is_empty() || !said.load(Ordering::Relaxed) {
                queue.poll(Some(Duration::from_secs(1)), &mut out).expect("it works");
            }
            queue.submit(2, op(2));
            while out.len() < 2 {
                queue.poll(Some(Duration::from_secs(1)), &mut out).expect("it works");
            }
            assert!(out.iter().map(|done| done.id).eq([1, 2]));
            assert_eq!(executed(&disk), 2);
            other.join().expect("no panic");
        });
    }

    /// A queue is dropped with an operation in flight: it was executed when the drop returns.
    #[test]
    fn loom_a_dropped_queue_has_executed_what_it_took() {
        check(|| {
            let disk = MemIo::new();
            let mut queue = PosixQueue::new(disk.clone(), 2).expect("threads");
            queue.submit(1, op(1));
            queue.submit(2, op(2));
            let waker = queue.waker();
            drop(queue);
            assert_eq!(executed(&disk), 2);
            // Nobody is left to wake, which is no error.
            waker.wake();
        });
    }
}
