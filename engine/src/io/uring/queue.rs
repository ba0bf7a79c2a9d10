//! Operations in a ring, from their submission to their completion.
//!
//! Each operation lies with its buffer in a slot of a table until its completion was taken. A slot's index and the
//! number of its uses so far travel through the kernel, so that a completion is matched with the one operation it
//! belongs to.
//!
//! What this file does not do: it goes on after nothing but a read that ended short of the file's end and an
//! operation that was interrupted before it transferred anything. Invariant: no buffer is freed while the kernel may
//! read or write it. The drop waits for what is in flight; if it cannot, because the queue is dropped by a thread that
//! the ring does not belong to or because the ring fails, the buffers are leaked instead.

use super::bell::Bell;
use super::ring::Ring;
use crate::io::posix::{Handle, check};
use crate::io::{AlignedBuf, Completion, Done, File, IoQueue, Op, Wake, short_write};
use io_uring::{cqueue, opcode, squeue, types::Fd, types::FsyncFlags};
use rustix::io::ReadWriteFlags;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The `user_data` of the poll on the bell's eventfd; no slot has this number.
const BELL: u64 = u64::MAX;

/// What a slot's operation does.
enum Kind {
    /// With the number of bytes read so far.
    Read {
        offset: u64,
        buf: AlignedBuf,
        done: usize,
    },
    Write {
        offset: u64,
        buf: AlignedBuf,
        durable: bool,
    },
    Sync,
}

/// An operation in flight. It owns all that the kernel uses: the buffer and the open file.
struct Work {
    id: u64,
    file: File,
    kind: Kind,
}

/// How an operation goes on after the kernel told of it.
enum Settled {
    Completed(Completion),
    Again(Work),
}

impl Work {
    /// The operation, if a ring takes its kind; otherwise the error that it completes with.
    fn new(id: u64, op: Op) -> Result<Self, io::Error> {
        let (file, kind) = match op {
            Op::Read { file, offset, buf } => (file, Kind::Read { offset, buf, done: 0 }),
            Op::Write { file, offset, buf, durable } => (file, Kind::Write { offset, buf, durable }),
            Op::Sync { file } => (file, Kind::Sync),
            other => {
                let what = format!("a queue reads, writes and syncs; {other:?} is run and not queued");
                return Err(io::Error::new(io::ErrorKind::Unsupported, what));
            }
        };
        Ok(Self { id, file, kind })
    }

    /// The entry that tells the kernel. It points to the buffer, which must stay until the completion.
    fn entry(&mut self) -> squeue::Entry {
        let fd = Fd(Handle::of(&self.file).fd.as_raw_fd());
        match &mut self.kind {
            Kind::Read { offset, buf, done } => {
                let len = transfer_len(buf.capacity() - *done);
                buf.set_len(buf.capacity());
                let to = buf[*done..].as_mut_ptr();
                opcode::Read::new(fd, to, len).offset(*offset + *done as u64).build()
            }
            Kind::Write { offset, buf, durable } => {
                let flags = if *durable { ReadWriteFlags::DSYNC } else { ReadWriteFlags::empty() };
                let flags = flags.bits().cast_signed();
                opcode::Write::new(fd, buf.as_ptr(), transfer_len(buf.len())).offset(*offset).rw_flags(flags).build()
            }
            Kind::Sync => opcode::Fsync::new(fd).flags(FsyncFlags::DATASYNC).build(),
        }
    }

    /// Decides by the kernel's result: a negative error number, or how many bytes were transferred.
    fn settle(mut self, result: i32) -> Settled {
        let result = match usize::try_from(result) {
            Ok(n) => n,
            // Interrupted before anything was transferred. A sync is not begun again: it may have told of its failure.
            Err(_) if -result == libc::EINTR && !matches!(self.kind, Kind::Sync) => return Settled::Again(self),
            Err(_) => return self.completed(Err(io::Error::from_raw_os_error(-result))),
        };
        match &mut self.kind {
            Kind::Read { buf, done, .. } => {
                *done += result;
                let at_end = result == 0 || Handle::of(&self.file).ends_after(*done);
                if *done < buf.capacity() && !at_end {
                    return Settled::Again(self);
                }
                buf.set_len(*done);
                self.completed(Ok(()))
            }
            Kind::Write { buf, .. } if result < buf.len() => {
                let short = short_write(result, buf.len());
                self.completed(Err(short))
            }
            Kind::Write { .. } | Kind::Sync => self.completed(Ok(())),
        }
    }

    fn completed(self, result: io::Result<()>) -> Settled {
        let result = result.map(|()| match self.kind {
            Kind::Read { buf, .. } | Kind::Write { buf, .. } => Done::Buf(buf),
            Kind::Sync => Done::Nothing,
        });
        Settled::Completed(Completion { id: self.id, result })
    }
}

/// The length of one transfer as the kernel takes it.
fn transfer_len(len: usize) -> u32 {
    // The kernel moves at most this in one call and would end the rest short.
    const MOST: usize = 0x7fff_f000;
    assert!(len <= MOST, "a transfer of {len} bytes; no frame has as many");
    len as u32
}

/// A place for an operation in flight.
#[derive(Default)]
struct Slot {
    /// How often the place was used.
    uses: u32,
    work: Option<Work>,
}

/// The queue.
pub(super) struct UringQueue {
    ring: Ring,
    /// One per operation that may be in flight.
    slots: Vec<Slot>,
    bell: Arc<Bell>,
    /// The ring polls the bell.
    armed: bool,
    /// Completions that no entry stands for: operations that were never begun.
    refused: Vec<Completion>,
    /// Why the queue can be used no more.
    broken: Option<String>,
}

impl UringQueue {
    pub(super) fn new(depth: usize) -> io::Result<Self> {
        assert!(depth > 0, "a queue takes at least one operation");
        // One more for the poll on the bell.
        let entries = u32::try_from(depth + 1).map_err(|_| io::ErrorKind::InvalidInput)?;
        Ok(Self {
            ring: Ring::new(entries)?,
            slots: (0..depth).map(|_| Slot::default()).collect(),
            bell: Arc::new(Bell::new()?),
            armed: false,
            refused: Vec::new(),
            broken: None,
        })
    }

    fn in_flight(&self) -> usize {
        self.slots.iter().filter(|slot| slot.work.is_some()).count()
    }

    /// Makes the ring this thread's.
    fn claim(&mut self) -> io::Result<()> {
        if let Some(why) = &self.broken {
            return Err(io::Error::other(format!("the io_uring queue is broken: {why}")));
        }
        if self.ring.is_mine() {
            return Ok(());
        }
        if self.in_flight() > 0 {
            return Err(io::Error::other("an io_uring queue was handed to another thread with operations in flight"));
        }
        self.armed = false;
        self.ring.claim()
    }

    /// Remembers that nothing is known any more about what is in flight.
    fn breaks<T>(&mut self, result: io::Result<T>) -> io::Result<T> {
        if let Err(e) = &result {
            self.broken.get_or_insert(e.to_string());
        }
        result
    }

    /// Puts `work` into a slot and its entry into the ring.
    fn push(&mut self, at: usize, work: Work) {
        let slot = &mut self.slots[at];
        slot.uses = slot.uses.wrapping_add(1);
        let entry = slot.work.insert(work).entry().user_data((u64::from(slot.uses) << 32) | at as u64);
        // SAFETY: the slot keeps the buffer, whose memory does not move with it, and the file until the completion was
        // taken; nobody else touches them there. The drop keeps that up.
        unsafe { self.ring.push(&entry) };
    }

    /// Takes all completions there are.
    fn reap(&mut self, out: &mut Vec<Completion>) -> io::Result<()> {
        let mut again = false;
        while let Some(end) = self.ring.pop() {
            again |= self.finish(&end, out)?;
        }
        if again { self.ring.enter() } else { Ok(()) }
    }

    /// Takes one completion; true if its operation goes on.
    fn finish(&mut self, end: &cqueue::Entry, out: &mut Vec<Completion>) -> io::Result<bool> {
        if end.user_data() == BELL {
            self.armed = false;
            self.bell.hush();
            return if end.result() < 0 { Err(io::Error::from_raw_os_error(-end.result())) } else { Ok(false) };
        }
        let at = (end.user_data() & u64::from(u32::MAX)) as usize;
        let uses = (end.user_data() >> 32) as u32;
        let slot = self.slots.get_mut(at).filter(|slot| slot.uses == uses);
        let Some(work) = slot.and_then(|slot| slot.work.take()) else {
            return Err(io::Error::other(format!("a completion of no operation in flight: {:#x}", end.user_data())));
        };
        match work.settle(end.result()) {
            Settled::Completed(completion) => {
                out.push(completion);
                Ok(false)
            }
            Settled::Again(work) => {
                self.push(at, work);
                Ok(true)
            }
        }
    }

    /// Lets the ring watch the bell.
    fn arm(&mut self) {
        if !self.armed {
            let poll = opcode::PollAdd::new(Fd(self.bell.fd()), u32::from(libc::POLLIN.cast_unsigned()));
            // SAFETY: a poll refers to no memory, and the kernel holds the eventfd itself.
            unsafe { self.ring.push(&poll.build().user_data(BELL)) };
            self.armed = true;
        }
    }

    /// Waits in the kernel until there is a completion, the bell rings, or `wait` is over.
    fn sleep(&mut self, wait: Duration, out: &mut Vec<Completion>) -> io::Result<()> {
        #[allow(clippy::disallowed_methods, reason = "a wait with an end needs the time that has passed")]
        let now = Instant::now;
        let deadline = now().checked_add(wait);
        let before = out.len();
        while self.bell.lie_down() {
            self.arm();
            let left = deadline.map_or(Duration::MAX, |deadline| deadline.saturating_duration_since(now()));
            let waited = self.ring.enter_and_wait(left);
            let rung = self.bell.get_up();
            waited?;
            self.reap(out)?;
            if rung || out.len() > before || deadline.is_some_and(|deadline| deadline <= now()) {
                break;
            }
        }
        Ok(())
    }

    /// Waits until nothing is in flight.
    fn drain(&mut self) -> io::Result<()> {
        if self.in_flight() == 0 {
            return Ok(());
        }
        self.claim()?;
        let mut out = Vec::new();
        loop {
            self.reap(&mut out)?;
            if self.in_flight() == 0 {
                return Ok(());
            }
            self.ring.enter_and_wait(Duration::MAX)?;
        }
    }
}

impl IoQueue for UringQueue {
    fn submit(&mut self, id: u64, op: Op) {
        check(&op);
        let taken = |work: &Work| work.id == id;
        assert!(
            !self.slots.iter().any(|slot| slot.work.as_ref().is_some_and(taken)),
            "the id {id} is in flight already"
        );
        let free = self.slots.iter().position(|slot| slot.work.is_none());
        let at = free.expect("no more operations in flight than the queue was made for");
        match self.claim().and_then(|()| Work::new(id, op)) {
            Ok(work) => {
                self.push(at, work);
                // An error is told by the next poll.
                let entered = self.ring.enter();
                let _ = self.breaks(entered);
            }
            Err(e) => self.refused.push(Completion { id, result: Err(e) }),
        }
    }

    fn poll(&mut self, wait: Option<Duration>, out: &mut Vec<Completion>) -> io::Result<()> {
        self.claim()?;
        let before = out.len();
        out.append(&mut self.refused);
        let entered = if self.ring.has_work() { self.ring.enter() } else { Ok(()) };
        let reaped = entered.and_then(|()| self.reap(out));
        self.breaks(reaped)?;
        let Some(wait) = wait else { return Ok(()) };
        if out.len() > before {
            // The caller returns to its work anyhow, which uses a ring of the bell up.
            self.bell.get_up();
            return Ok(());
        }
        let slept = self.sleep(wait, out);
        self.breaks(slept)
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.bell.clone()
    }
}

impl Drop for UringQueue {
    fn drop(&mut self) {
        let Err(e) = self.drain() else { return };
        // What the kernel never took, it never will once the ring is gone; but which entries those are is not worth
        // knowing here. Leaking is safe for all of them.
        let slots = std::mem::take(&mut self.slots);
        let left = slots.iter().filter(|slot| slot.work.is_some()).count();
        std::mem::forget(slots);
        tracing::error!(
            left,
            unsubmitted = self.ring.unsubmitted(),
            "an io_uring queue ended with operations in flight: {e}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::uring::UringIo;
    use crate::io::{Io, OpenMode};
    use crate::types::BLOCK;

    /// A queue and a file to write to; None where io_uring is refused, which the shared suite's tests say aloud.
    fn queue(dir: &std::path::Path) -> Option<(UringQueue, File)> {
        let io: Arc<dyn Io> = Arc::new(UringIo::probe().ok()?);
        let file = io.open(&dir.join("file"), OpenMode::CreateDirect).expect("a file system with O_DIRECT");
        Some((UringQueue::new(2).expect("the probe made a ring too"), file))
    }

    fn write(file: &File, offset: u64) -> Op {
        Op::Write { file: file.clone(), offset, buf: AlignedBuf::zeroed(BLOCK), durable: true }
    }

    const LONG: Option<Duration> = Some(Duration::from_secs(60));

    #[test]
    fn a_sleeper_is_woken_in_the_kernel() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let Some((mut queue, _file)) = queue(dir.path()) else { return };
        let bell = queue.bell.clone();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !bell.asleep() {
                    std::thread::yield_now();
                }
                bell.wake();
            });
            let began = Instant::now();
            queue.poll(LONG, &mut Vec::new()).expect("the ring works");
            assert!(began.elapsed() < Duration::from_secs(30), "the wake was lost");
        });
    }

    #[test]
    fn a_late_write_to_the_eventfd_ends_no_later_sleep() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let Some((mut queue, _file)) = queue(dir.path()) else { return };
        // As a waker would leave it that found the poller asleep and wrote after it had got up by itself.
        assert!(queue.bell.lie_down());
        queue.bell.wake();
        assert!(queue.bell.get_up());
        let began = Instant::now();
        let wait = Duration::from_millis(30);
        queue.poll(Some(wait), &mut Vec::new()).expect("the ring works");
        assert!(began.elapsed() >= wait, "the sleep ended after {:?}", began.elapsed());
    }

    #[test]
    fn an_idle_queue_may_change_threads_and_a_busy_one_says_no() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let Some((mut queue, file)) = queue(dir.path()) else { return };
        let mut out = Vec::new();
        queue.submit(1, write(&file, 0));
        queue.poll(LONG, &mut out).expect("the ring works");
        let thread = std::thread::spawn(move || {
            let mut out = Vec::new();
            queue.submit(2, write(&file, 0));
            queue.poll(LONG, &mut out).expect("idle, so handed over");
            assert!(matches!(out[..], [Completion { id: 2, result: Ok(_) }]), "{out:?}");
            queue.submit(3, write(&file, 0));
            queue
        });
        let mut queue = thread.join().expect("no assertion failed there");
        let refused = queue.poll(None, &mut out).expect_err("operation 3 belongs to the other thread");
        assert!(refused.to_string().contains("another thread"), "{refused}");
        // Dropped by the wrong thread: the buffer is leaked and nothing is freed under the kernel's hands.
        drop(queue);
    }

    #[test]
    fn results_of_the_kernel_are_judged() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let Some((_queue, file)) = queue(dir.path()) else { return };
        let work = |kind| Work { id: 9, file: file.clone(), kind };
        let write = || work(Kind::Write { offset: 0, buf: AlignedBuf::zeroed(2 * BLOCK), durable: true });
        let read = || work(Kind::Read { offset: 0, buf: AlignedBuf::with_capacity(2 * BLOCK), done: 0 });
        let error = |settled| match settled {
            Settled::Completed(Completion { id: 9, result: Err(e) }) => e,
            _ => panic!("an error was expected"),
        };
        let short = error(write().settle(BLOCK as i32));
        assert_eq!(short.kind(), io::ErrorKind::WriteZero);
        assert!(short.to_string().contains("4096 of 8192"), "{short}");
        assert_eq!(error(write().settle(-libc::EIO)).raw_os_error(), Some(libc::EIO));
        assert!(matches!(write().settle(-libc::EINTR), Settled::Again(_)));
        assert_eq!(error(work(Kind::Sync).settle(-libc::EINTR)).raw_os_error(), Some(libc::EINTR));
        assert!(matches!(
            read().settle(BLOCK as i32),
            Settled::Again(Work { kind: Kind::Read { done: BLOCK, .. }, .. })
        ));
        match read().settle(100) {
            Settled::Completed(Completion { result: Ok(Done::Buf(buf)), .. }) => assert_eq!(buf.len(), 100),
            _ => panic!("a direct read of part of a block has met the file's end"),
        }
    }
}
