//! The committer: the one that writes frames, in order, and says when they are durable.
//!
//! One pass of [`Committer::step`] begins frames while fewer than `in_flight` are being written, reaps completions, and
//! publishes frames in the order of their numbers: entries into their slots, then the watermark, then the
//! acknowledgements. While a frame is being written the next one fills up; there is no timer. Those who were answered
//! get a moment to come back before the next frame is begun: see [`Committer::gather`].
//!
//! What a crash leaves: before a frame's write completed, nothing, all of it, or any part of it; its checksums tell.
//! After it completed, all of it. A frame's watermark says which frames were complete when it was sealed, and so
//! proves them.
//!
//! Invariants: frame n + in_flight is not begun before frame n is durable; another file is begun only when every frame
//! of the old one is durable; after the first failed write nothing more is acknowledged.

use super::ack::Pending;
use super::lane::{Lane, Staged};
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::format::frame::{FLAG_CLOSE, FLAG_OPEN, FrameHeader, FrameRef, HEADER_LEN, frame_len};
use crate::index::Index;
use crate::index::grace::Grace;
use crate::index::memory::{FrameMem, MemEntry};
use crate::io::{AlignedBuf, Completion, Done, Io, IoQueue, Op, Wake};
use crate::journal::Journal;
use crate::journal::ring::Place;
use crate::mutants::{self, Mutant};
use crate::poison::Poison;
use crate::sync::{Arc, park_timeout, yield_now};
use crate::types::{BLOCK, Epoch, Lsn, TimeUs, Timeline};
use crate::waiter::{Target, wake_all};
use std::collections::VecDeque;
use std::time::Duration;

/// How long a committer with nothing to do sleeps before it looks again by itself.
const SLEEP_MAX: Duration = Duration::from_secs(1);

/// How long a committer pauses that was poisoned and whose queue is broken too.
const BROKEN_PAUSE: Duration = Duration::from_millis(100);

/// A frame of this size is begun behind any other.
const OVERLAP_BYTES: usize = 64 << 10;

/// How often the processor is given away at most while answered clients come back. Measured with 16 clients on two
/// processors: 3 are too few to gather them, 200 cost more than they bring.
const GATHER_YIELDS: usize = 20;
/// After this long no processor is given away any more: on a busy machine each time may cost a whole time slice.
const GATHER_MAX: Duration = Duration::from_micros(100);

/// What the committer shares with the rest of the store.
#[derive(Clone)]
pub struct Shared {
    /// The disk.
    pub io: Arc<dyn Io>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Stamps frames with the steady clock.
    pub grace: Arc<Grace>,
    /// The logs.
    pub index: Arc<Index>,
    /// The journal's files.
    pub journal: Arc<Journal>,
    /// Where batches are staged.
    pub lane: Arc<Lane>,
    /// Closed by the first failed write.
    pub poison: Arc<Poison>,
    /// Ends the flush's sleep: when the commit path needs a journal file, or enough is in memory.
    pub wants_flush: Arc<dyn Wake>,
    /// How much is enough, in bytes.
    pub flush_bytes: usize,
}

/// The committer.
pub struct Committer {
    shared: Shared,
    queue: Box<dyn IoQueue>,
    depth: usize,
    idle_after: Duration,
    timeline: Timeline,
    place: Place,
    /// The last frame that was sealed.
    prev: FrameRef,
    prev_time: TimeUs,
    /// The last frame that is durable, with all before it.
    durable: FrameRef,
    /// The highest LSN that a durable frame's watermark names.
    proven: Lsn,
    in_flight: VecDeque<Flight>,
    completions: Vec<Completion>,
    next_id: u64,
    last_publish: Duration,
    /// The next frame needs another journal file, and there was none: nothing is begun before one is free.
    stalled: bool,
    failed: bool,
    /// Why a close gave up what was staged.
    gave_up: Option<Error>,
}

/// A frame being written.
struct Flight {
    id: u64,
    header: FrameHeader,
    frame: FrameRef,
    staged: Staged,
    buf: Option<AlignedBuf>,
    /// None but in a mutant.
    copy: Option<AlignedBuf>,
}

/// A copy of a frame for those mutants that do without the one that was written.
fn copy_for_mutants(buf: &AlignedBuf) -> Option<AlignedBuf> {
    let wanted = mutants::makes(Mutant::WatermarkEarly) || mutants::makes(Mutant::FailureIgnored);
    wanted.then(|| AlignedBuf::from_slice(buf))
}

/// Where the journal goes on.
pub struct Start {
    /// The place of the next frame.
    pub place: Place,
    /// The frame before it, durable.
    pub prev: FrameRef,
    /// Its time.
    pub prev_time: TimeUs,
    /// The timeline of this open.
    pub timeline: Timeline,
}

impl Committer {
    /// A committer that goes on at `start`, with at most `depth` frames in flight.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] if the disk gives no queue.
    pub fn new(shared: Shared, start: Start, depth: usize, idle_after: Duration) -> Result<Self> {
        let queue =
            shared.io.queue(depth).map_err(|e| Error::io("making a queue for", &start.place.file.file.path, e))?;
        Ok(Self {
            last_publish: shared.clock.monotonic(),
            shared,
            queue,
            depth,
            idle_after,
            timeline: start.timeline,
            place: start.place,
            prev: start.prev,
            prev_time: start.prev_time,
            durable: start.prev,
            proven: Lsn(0),
            in_flight: VecDeque::new(),
            completions: Vec::new(),
            next_id: 0,
            stalled: false,
            failed: false,
            gave_up: None,
        })
    }

    /// What ends the committer's sleep.
    #[must_use]
    pub fn waker(&self) -> Arc<dyn Wake> {
        self.queue.waker()
    }

    /// One pass. With `may_sleep` it sleeps while there is nothing to do, until something is staged or completes. True
    /// if anything moved.
    pub fn step(&mut self, may_sleep: bool) -> bool {
        if self.shared.poison.is_set() {
            let moved = self.fail();
            if may_sleep {
                // What is in flight is still awaited, so that its buffers are freed; its outcome no longer matters.
                if self.queue.poll(Some(SLEEP_MAX), &mut self.completions).is_err() {
                    // It did not wait then.
                    park_timeout(BROKEN_PAUSE);
                }
                self.completions.clear();
            }
            return moved;
        }
        let result = self.pass(may_sleep);
        result.unwrap_or_else(|error| {
            self.shared.poison.set(error);
            self.fail()
        })
    }

    fn pass(&mut self, may_sleep: bool) -> Result<bool> {
        let mut moved = false;
        while self.in_flight.len() < self.depth && self.begin_next()? {
            moved = true;
        }
        let wait = (may_sleep && (!moved || self.in_flight.len() == self.depth)).then(|| self.patience());
        self.reap(wait)?;
        let retired = self.retire();
        // A device that has much to move is given it before the clients of the last frame are woken.
        while self.in_flight.len() < self.depth && self.begin_staged(OVERLAP_BYTES)? {
            moved = true;
        }
        let mut woken = 0;
        for flight in retired {
            woken += self.publish(flight);
            moved = true;
        }
        if may_sleep && woken > 0 {
            self.gather(woken);
        }
        Ok(moved)
    }

    /// Lets clients who were just answered come back before the next frame is taken, if nothing else is being written:
    /// they then share one frame, instead of the first to come back filling one alone while the others wait for it. It
    /// gives the processor away a few times, sets no timer, and ends at once when enough is staged; where nobody comes
    /// back, that takes microseconds.
    fn gather(&self, woken: usize) {
        let until = self.shared.clock.monotonic() + GATHER_MAX;
        for _ in 0..GATHER_YIELDS {
            let enough = self.shared.lane.holds(woken, OVERLAP_BYTES);
            if enough || !self.in_flight.is_empty() || self.shared.clock.monotonic() >= until {
                return;
            }
            yield_now();
        }
    }

    /// How long to sleep at most: until an idle frame is due, if one is. Who waits for a journal file is woken by the
    /// flush once there is one, and can do nothing before.
    fn patience(&self) -> Duration {
        if !self.stalled && self.in_flight.is_empty() && self.proven < self.durable.last_lsn {
            let idle = self.shared.clock.monotonic().saturating_sub(self.last_publish);
            self.idle_after.saturating_sub(idle)
        } else {
            SLEEP_MAX
        }
    }

    /// Begins the next frame, if there is one to begin.
    fn begin_next(&mut self) -> Result<bool> {
        // Behind a frame in flight, the next one is begun once it holds as much: clients who wait for their answers
        // then share two frames evenly, instead of the first to come back filling one alone. Nothing waits longer than
        // for the frame in flight.
        let bytes_min = self
            .in_flight
            .back()
            .map_or(0, |flight| (HEADER_LEN + flight.header.payload_len as usize).min(OVERLAP_BYTES));
        Ok(self.begin_staged(bytes_min)? || self.begin_idle()?)
    }

    /// Begins the next frame, if there is one of at least `bytes_min` bytes.
    fn begin_staged(&mut self, bytes_min: usize) -> Result<bool> {
        if self.awaits_file() {
            return Ok(false);
        }
        match self.shared.lane.take(bytes_min) {
            Some(staged) => self.begin(staged, 0),
            None => Ok(false),
        }
    }

    /// Begins an empty frame if the watermark has waited long enough to be carried to disk.
    fn begin_idle(&mut self) -> Result<bool> {
        let due = self.in_flight.is_empty()
            && self.proven < self.durable.last_lsn
            && self.shared.clock.monotonic().saturating_sub(self.last_publish) >= self.idle_after
            // Nothing is begun in front of a frame that was put back for want of a journal file.
            && self.shared.lane.is_empty();
        if !due {
            return Ok(false);
        }
        self.begin(self.shared.lane.empty(self.prev.last_lsn.next()), 0)
    }

    fn begin(&mut self, mut staged: Staged, flags: u16) -> Result<bool> {
        let payload_len = staged.buf.len() - HEADER_LEN;
        let len = frame_len(payload_len);
        if len as u64 > self.place.left() {
            let next = self.next_file();
            if !matches!(next, Ok(true)) {
                // Also where it failed: who waits for this frame is told with all others, once the latch is closed.
                self.shared.lane.put_back(staged);
                return next;
            }
        }
        if staged.buf.capacity() < len {
            staged.buf.grow(len);
        }
        staged.buf.resize(len);
        let (header, frame) = self.seal(&mut staged, payload_len, flags);
        self.place.position += len as u64;
        self.prev = frame;
        self.prev_time = header.time;
        let id = self.next_id;
        self.next_id += 1;
        let copy = copy_for_mutants(&staged.buf);
        let buf = std::mem::replace(&mut staged.buf, AlignedBuf::empty());
        let op = Op::Write { file: self.place.file.file.clone(), offset: header.position, buf, durable: true };
        let metrics = &self.shared.index.metrics;
        metrics.frame_writes.add(1);
        metrics.frame_bytes.add(len as u64);
        if self.shared.io.buffered() {
            metrics.append_syncs.add(1);
        }
        self.queue.submit(id, op);
        let (buf, copy) = if mutants::makes(Mutant::WatermarkEarly) { (copy, None) } else { (None, copy) };
        self.in_flight.push_back(Flight { id, header, frame, staged, buf, copy });
        Ok(true)
    }

    fn seal(&self, staged: &mut Staged, payload_len: usize, flags: u16) -> (FrameHeader, FrameRef) {
        let journal = &self.shared.journal;
        let header = FrameHeader {
            flags,
            depth: self.depth as u16,
            store: self.shared.index.identity.store,
            journal: self.place.journal,
            position: self.place.position,
            frame: self.prev.frame.next(),
            first_lsn: staged.first_lsn,
            entries: staged.entries.len() as u32,
            batches: staged.batches,
            payload_len: payload_len as u32,
            frame_len: staged.buf.len() as u32,
            epoch: Epoch(0),
            timeline: self.timeline,
            time: self.shared.clock.wall().max(self.prev_time),
            watermark: self.durable.last_lsn,
            watermark_frame: self.durable.frame,
            manifest: journal.manifest(),
            prev_journal: self.prev.journal,
            prev_position: self.prev.position,
            prev_hash: self.prev.hash,
            steady: self.shared.grace.now(),
        };
        assert_eq!(staged.first_lsn, self.prev.last_lsn.next(), "LSNs are dense from frame to frame");
        let frame = header.seal(&mut staged.buf, self.place.salt);
        (header, frame)
    }

    /// Moves to another file, once every frame of this one is durable. False if that has to wait: for frames in
    /// flight, or for a spare file.
    fn next_file(&mut self) -> Result<bool> {
        if !self.in_flight.is_empty() {
            return Ok(false);
        }
        match self.shared.journal.ring.begin(self.timeline, self.prev)? {
            Some(place) => {
                self.place = place;
                self.stalled = false;
                self.shared.wants_flush.wake();
                Ok(true)
            }
            None => {
                if !std::mem::replace(&mut self.stalled, true) {
                    self.shared.wants_flush.wake();
                }
                Ok(false)
            }
        }
    }

    /// Whether nothing can be begun, nor is anything in flight, for want of a journal file.
    #[must_use]
    pub fn awaits_file(&self) -> bool {
        self.stalled && !self.shared.journal.ring.has_spare()
    }

    fn reap(&mut self, wait: Option<Duration>) -> Result<()> {
        let broken = |e| Error::io("waiting for writes to", &self.place.file.file.path, e);
        self.queue.poll(wait, &mut self.completions).map_err(broken)?;
        for completion in self.completions.drain(..) {
            if mutants::makes(Mutant::WatermarkEarly) {
                continue;
            }
            let flight = self
                .in_flight
                .iter_mut()
                .find(|flight| flight.id == completion.id)
                .expect("a completion has the id of a write in flight");
            match completion.result {
                Ok(Done::Buf(buf)) => flight.buf = Some(buf),
                Ok(other) => unreachable!("a write gives its buffer, not {other:?}"),
                Err(_) if mutants::makes(Mutant::FailureIgnored) => flight.buf = flight.copy.take(),
                Err(e) => {
                    let at = flight.header.position;
                    return Err(Error::io("writing a frame to the journal", &self.place.file.file.path, e).offset(at));
                }
            }
        }
        Ok(())
    }

    /// Takes the frames out of flight that are durable, with all before them.
    fn retire(&mut self) -> Vec<Flight> {
        let mut retired = Vec::new();
        while let Some(flight) = self.in_flight.pop_front_if(|flight| flight.buf.is_some()) {
            self.durable = flight.frame;
            retired.push(flight);
        }
        retired
    }

    /// Publishes a frame that is durable, with all before it published. Gives how many were waiting for it.
    fn publish(&mut self, flight: Flight) -> usize {
        let Flight { header, frame, mut staged, buf, .. } = flight;
        let buf = buf.expect("called with a frame that is durable");
        let Shared { index, journal, lane, poison, .. } = &self.shared;
        let payload_len = header.payload_len as usize;
        let (time, timeline) = (header.time, header.timeline);
        let memory = Arc::new(FrameMem::new(buf, HEADER_LEN, payload_len, time, timeline, &index.buffers));
        let mut watchers: Vec<Target> = Vec::new();
        for group in std::mem::take(&mut staged.groups) {
            let entries = group.entries.clone().map(|at| {
                let entry = staged.entries[at];
                MemEntry {
                    lsn: staged.lsn(at),
                    seq: entry.seq,
                    frame: Arc::clone(&memory),
                    at: entry.at,
                    len: entry.len,
                    kind: entry.kind,
                    plain: entry.plain,
                }
            });
            watchers.append(&mut index.publish(&group.slot, entries, Some(group.visible)));
        }
        let metrics = &index.metrics;
        metrics.frames.add(1);
        metrics.frames_empty.add(u64::from(header.entries == 0));
        metrics.frame_entries.add(u64::from(header.entries));
        metrics.records.add(staged.records);
        metrics.payload_bytes.add(staged.payload_bytes);
        journal.set_published(frame, header.time);
        index.set_watermark(frame.last_lsn);
        // Stalled: the flush may have looked before these frames could be flushed.
        if self.stalled || index.mem_bytes() >= self.shared.flush_bytes || index.pool.is_short() {
            self.shared.wants_flush.wake();
        }
        self.proven = header.watermark;
        self.last_publish = self.shared.clock.monotonic();
        let woken = staged.waiting.len();
        let mut waiting = staged.waiting;
        waiting.append(&mut lane.settled(frame.last_lsn));
        #[cfg(feature = "mutants")]
        if mutants::makes(Mutant::LatchLeftOpen) && mutants::kept::<Error>().is_some() {
            wake_all(Pending::answer_all(std::mem::take(&mut waiting), Some(&poison.unknown())));
        }
        // The flush may close the latch at any moment; nothing is acknowledged behind that.
        let mut tasks = poison
            .unless_set(|| Pending::answer_all(std::mem::take(&mut waiting), None))
            .unwrap_or_else(|| Pending::answer_all(waiting, Some(&poison.unknown())));
        tasks.extend(watchers);
        wake_all(tasks);
        woken
    }

    /// Answers everybody who waits that the outcome is unknown. What is in flight is left to the disk.
    fn fail(&mut self) -> bool {
        let Shared { lane, poison, index, .. } = &self.shared;
        let mut waiting = lane.close(poison.error());
        for flight in &mut self.in_flight {
            waiting.append(&mut flight.staged.waiting);
        }
        let moved = !waiting.is_empty() || !self.failed;
        index.pool.close();
        self.failed = true;
        wake_all(Pending::answer_all(waiting, Some(&poison.unknown())));
        moved
    }

    /// Ends a close that cannot write what is staged, since no journal file can be had: everybody who waits is told that
    /// the outcome is unknown.
    pub fn give_up(&mut self, cause: &Error) {
        let closed = Error::new(ErrorKind::ShutDown, "the store is closed");
        let unknown =
            Error::new(ErrorKind::Unknown, format!("the store closed before this append was durable: {cause}"))
                .remedy("open the store again and retry by producer number");
        let waiting = self.shared.lane.close(closed);
        self.shared.index.pool.close();
        self.gave_up = Some(cause.clone());
        wake_all(Pending::answer_all(waiting, Some(&unknown)));
    }

    /// Why a close gave up what was staged, if it did.
    #[must_use]
    pub fn gave_up(&self) -> Option<&Error> {
        self.gave_up.as_ref()
    }

    /// Whether nothing is staged or being written.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.in_flight.is_empty() && self.shared.lane.is_empty()
    }

    /// Whether nothing is staged or being written, or the store is poisoned and everybody was told.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.failed || self.is_idle()
    }

    /// Writes the frame of an open, durable, before anything recovered is visible.
    ///
    /// # Errors
    /// [`ErrorKind::Io`].
    pub fn open_frame(&mut self) -> Result<()> {
        self.mark(FLAG_OPEN)
    }

    /// Writes the frame of a clean close, durable. Nothing may be staged or in flight.
    ///
    /// # Errors
    /// [`ErrorKind::Io`], [`ErrorKind::Poisoned`]: the next open will find an unclean end.
    pub fn close_frame(&mut self) -> Result<()> {
        self.shared.poison.check()?;
        self.mark(FLAG_CLOSE)
    }

    /// Whether the next frame, however short, needs another journal file.
    #[must_use]
    pub fn needs_file(&self) -> bool {
        self.place.left() < BLOCK as u64
    }

    fn mark(&mut self, flag: u16) -> Result<()> {
        assert!(self.is_idle(), "an open or a close stands alone");
        let staged = self.shared.lane.empty(self.prev.last_lsn.next());
        if !self.begin(staged, flag)? {
            return Err(Error::new(ErrorKind::Io, "no journal file is free for the frame of an open or a close")
                .file(&self.place.file.file.path)
                .remedy("free space, and open the store again"));
        }
        while self.in_flight.front().is_some_and(|flight| flight.buf.is_none()) {
            self.reap(Some(SLEEP_MAX))?;
        }
        for flight in self.retire() {
            self.publish(flight);
        }
        Ok(())
    }
}
