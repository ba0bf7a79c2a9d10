//! The simulated disk's queue: writes wait in it, and a poll lets some of them complete, in any order. Reads are carried
//! out at once and complete at the next poll.
//!
//! Only writes and reads are taken, which is all that [`IoQueue`] promises. Invariant: a write is on the disk before its
//! completion is handed out, and until then a crash decides its fate.

use super::{Course, Fault, Flight, State, dead};
use everlog::io::{AlignedBuf, Completion, Done, File, IoQueue, Op, Wake};
use parking_lot::Mutex;
use std::io;
use std::sync::Arc;
use std::time::Duration;

pub struct SimQueue {
    state: Arc<Mutex<State>>,
    boot: u64,
    depth: usize,
    number: u64,
    /// Completions of operations that ended at once: reads, and what was refused.
    ended: Vec<Completion>,
}

struct NoWake;

impl Wake for NoWake {
    /// Nobody ever sleeps on this queue.
    fn wake(&self) {}
}

impl SimQueue {
    pub fn new(state: Arc<Mutex<State>>, boot: u64, depth: usize) -> Self {
        let number = {
            let mut state = state.lock();
            // Numbers of locks and queues come from one counter: all that matters is that none comes twice.
            state.locks_made += 1;
            state.locks_made
        };
        Self { state, boot, depth, number, ended: Vec::new() }
    }
}

impl State {
    fn queue_write(&mut self, op: Op, boot: u64) -> io::Result<Flight> {
        self.alive(boot)?;
        let Op::Write { file, offset, buf, durable } = op else {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "the simulated queue takes writes and reads alone"));
        };
        let flight = self.check_write(&file, offset, buf, durable)?;
        match self.begin(|| flight.describe("queue"))? {
            Course::Fails(fault) => {
                if fault == Fault::EioSticky {
                    self.faults.break_file(flight.file.content);
                }
                Err(super::eio())
            }
            // Once it is queued, a crash in the middle and one after it are the same: it is in flight.
            Course::Well | Course::Torn | Course::Unheard => Ok(Flight { submitted: self.ops, ..flight }),
        }
    }

    fn queue_read(&mut self, file: &File, offset: u64, buf: AlignedBuf, boot: u64) -> io::Result<AlignedBuf> {
        self.alive(boot)?;
        let handle = self.handle(file)?;
        self.read(handle, offset, buf)
    }

    fn flights_of(&self, queue: u64) -> Vec<usize> {
        (0..self.in_flight.len()).filter(|i| self.in_flight[*i].queue == queue).collect()
    }

    /// Lets one write complete.
    fn complete(&mut self, at: usize) -> io::Result<Completion> {
        let flight = self.in_flight.remove(at);
        let id = flight.id;
        let course = match self.begin(|| flight.describe("landed")) {
            Ok(course) => course,
            Err(e) => {
                self.in_flight.push(flight);
                return Err(e);
            }
        };
        let result = self.land(flight, course).map(Done::Buf);
        if self.crashed.is_some() { Err(dead()) } else { Ok(Completion { id, result }) }
    }
}

impl IoQueue for SimQueue {
    fn submit(&mut self, id: u64, op: Op) {
        let mut state = self.state.lock();
        let queued = state.flights_of(self.number);
        assert!(queued.len() < self.depth, "more than {} operations in flight", self.depth);
        assert!(queued.iter().all(|at| state.in_flight[*at].id != id), "id {id} is in flight already");
        if let Op::Read { file, offset, buf } = op {
            let result = state.queue_read(&file, offset, buf, self.boot).map(Done::Buf);
            self.ended.push(Completion { id, result });
            return;
        }
        match state.queue_write(op, self.boot) {
            Ok(flight) => state.in_flight.push(Flight { queue: self.number, id, ..flight }),
            Err(e) => self.ended.push(Completion { id, result: Err(e) }),
        }
    }

    fn poll(&mut self, wait: Option<Duration>, out: &mut Vec<Completion>) -> io::Result<()> {
        let mut state = self.state.lock();
        state.alive(self.boot)?;
        let ended = self.ended.len();
        out.append(&mut self.ended);
        if state.faults.stalled() && wait.is_none() {
            return Ok(());
        }
        let mut waiting = state.flights_of(self.number).len() as u64;
        let least = u64::from(wait.is_some() && waiting > 0 && ended == 0);
        let mut count = least.max(state.rng.below(waiting + 1));
        while count > 0 {
            let chosen = state.rng.below(waiting) as usize;
            let at = state.flights_of(self.number)[chosen];
            out.push(state.complete(at)?);
            (count, waiting) = (count - 1, waiting - 1);
        }
        Ok(())
    }

    fn waker(&self) -> Arc<dyn Wake> {
        Arc::new(NoWake)
    }
}

impl Drop for SimQueue {
    /// The kernel ends what was submitted, whether or not anybody waits for it.
    fn drop(&mut self) {
        let mut state = self.state.lock();
        while state.alive(self.boot).is_ok()
            && let Some(at) = state.flights_of(self.number).first().copied()
        {
            let _nobody_hears_of_it = state.complete(at);
        }
    }
}
