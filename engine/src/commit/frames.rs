//! The sequence of frames: the one being written to, those in flight, and the last that is durable.
//!
//! A frame is sealed and given out as a [`Write`], which somebody has the disk carry out: the committer's queue, or a caller
//! who waits for it ([`super::leader`]). Told how that ended, frames are published in the order of their numbers: entries
//! into their slots, then the watermark, then the acknowledgements ([`super::publish`]).
//!
//! What a crash leaves: before a frame's write completed, nothing, all of it, or any part of it; its checksums tell.
//! After it completed, all of it. A frame's watermark says which frames were complete when it was sealed, and so
//! proves them.
//!
//! Invariants: frame n + in_flight is not begun before frame n is durable; another file is begun only when every frame
//! of the old one is durable; after the first failed write nothing more is acknowledged.

use super::ack::Pending;
use super::lane::{Lane, Staged};
use super::publish::Published;
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::format::frame::{FLAG_CLOSE, FLAG_OPEN, FrameHeader, FrameRef, HEADER_LEN, frame_len};
use crate::index::Index;
use crate::index::grace::Grace;
use crate::io::{AlignedBuf, Completion, Done, Io, Op, Wake};
use crate::journal::Journal;
use crate::journal::ring::Place;
use crate::mutants::{self, Mutant};
use crate::poison::Poison;
use crate::sync::{Arc, Condvar, MutexGuard, wait};
use crate::types::{BLOCK, Epoch, Lsn, TimeUs, Timeline};
use crate::waiter::Wakes;
use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;

/// How long nobody need look at a store in which nothing is due.
pub const SLEEP_MAX: Duration = Duration::from_secs(1);

/// How long nothing was staged or written where a store is at rest: longer than clients pause who come in waves.
const REST_MIN: Duration = Duration::from_secs(10);

/// While something is in flight, it is looked no more often than this whether an idle frame is due.
const LOOK_MIN: Duration = Duration::from_millis(1);

/// So many callers in two frames take turns in writing for one another. For more of them the committer writes, one small frame
/// after the other: it is awake when one ends, and begins the next at once if somebody came meanwhile.
const LED_MAX: usize = 8;

/// A frame of this size is begun behind any other, though not before a write that the committer itself waits for has ended.
pub const OVERLAP_BYTES: usize = 64 << 10;

/// What the commit path shares with the rest of the store.
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

/// The frames of a journal, from the next one back to the last that is durable.
pub struct Frames {
    shared: Shared,
    depth: usize,
    idle_after: Duration,
    timeline: Timeline,
    epoch: Epoch,
    place: Place,
    /// The last frame that was sealed.
    prev: FrameRef,
    prev_time: TimeUs,
    /// The last frame that is durable, with all before it.
    durable: FrameRef,
    /// The highest LSN that a durable frame's watermark names.
    proven: Lsn,
    in_flight: VecDeque<Flight>,
    next_id: u64,
    last_publish: Duration,
    /// The next frame needs another journal file, and there was none: nothing is begun before one is free.
    stalled: bool,
    failed: bool,
    /// A write failed, that of a file's header included, or a publication did not come to its end: nothing is begun or
    /// published any more.
    broken: bool,
    /// Why a close gave up what was staged.
    gave_up: Option<Error>,
    /// Frames that callers are writing.
    led: usize,
    /// Who waits until there are none.
    none_led: Arc<Condvar>,
    /// Of the clients who were answered the committer is to wait a moment for so many to come back.
    expected: usize,
    /// The callers of the last publication, and of the one before it.
    callers: [usize; 2],
}

/// A frame that was begun: what the disk is to do now, and the id to tell its end with.
#[must_use = "a frame that was begun is to be written"]
pub struct Write {
    /// Unique among those in flight.
    pub id: u64,
    /// A durable write.
    pub op: Op,
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

impl Flight {
    /// Header and payload, without what fills the last block.
    fn bytes(&self) -> usize {
        HEADER_LEN + self.header.payload_len as usize
    }
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
    /// The right to write to a cold store that this open holds.
    pub epoch: Epoch,
}

impl Frames {
    /// Frames that go on at `start`, at most `depth` of them in flight.
    #[must_use]
    pub fn new(shared: Shared, start: Start, depth: usize, idle_after: Duration) -> Self {
        Self {
            last_publish: shared.clock.monotonic(),
            shared,
            depth,
            idle_after,
            timeline: start.timeline,
            epoch: start.epoch,
            place: start.place,
            prev: start.prev,
            prev_time: start.prev_time,
            durable: start.prev,
            proven: Lsn(0),
            in_flight: VecDeque::new(),
            next_id: 0,
            stalled: false,
            failed: false,
            broken: false,
            gave_up: None,
            led: 0,
            none_led: Arc::default(),
            expected: 0,
            callers: [0; 2],
        }
    }

    /// The file that is being written, for messages.
    #[must_use]
    pub fn path(&self) -> &Arc<Path> {
        &self.place.file.file.path
    }

    /// Whether nothing is being written.
    #[must_use]
    pub fn is_still(&self) -> bool {
        self.in_flight.is_empty()
    }

    /// Whether as many frames are in flight as may be.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.in_flight.len() == self.depth
    }

    /// Whether an empty frame is due after a while, to carry the watermark to disk.
    #[must_use]
    pub fn awaits_idle_frame(&self) -> bool {
        self.proven < self.durable.last_lsn
    }

    /// How long the committer sleeps at most: until an idle frame is due, or may be once what is in flight is durable. Who
    /// waits for a journal file is woken by the flush once there is one, and can do nothing before.
    #[must_use]
    pub fn patience(&self) -> Duration {
        let due = if self.stalled || !(self.awaits_idle_frame() || self.led > 0) {
            SLEEP_MAX
        } else if self.is_still() {
            self.idle_after.saturating_sub(self.shared.clock.monotonic().saturating_sub(self.last_publish))
        } else {
            self.idle_after.max(LOOK_MIN)
        };
        due.min(SLEEP_MAX)
    }

    /// From how many bytes on the next frame is begun.
    ///
    /// Behind a frame in flight, once it holds as much: clients who wait for their answers then share two frames evenly,
    /// instead of the first to come back filling one alone. Nothing waits longer than for the frame in flight.
    fn bytes_min(&self) -> usize {
        if self.led > 0 && self.are_many() {
            return OVERLAP_BYTES;
        }
        self.in_flight.back().map_or(0, |flight| flight.bytes().min(OVERLAP_BYTES))
    }

    /// Whether nothing has been staged or written for a while.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        self.is_idle() && self.shared.clock.monotonic().saturating_sub(self.last_publish) >= REST_MIN
    }

    /// Whether there are so many callers that the committer writes for them.
    #[must_use]
    pub fn are_many(&self) -> bool {
        self.callers.iter().sum::<usize>() > LED_MAX
    }

    /// Begins the next frame, if there is one to begin and not too many are in flight.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] if another journal file cannot be begun.
    pub fn begin_next(&mut self) -> Result<Option<Write>> {
        let staged = self.begin_staged(self.bytes_min())?;
        if staged.is_some() { Ok(staged) } else { self.begin_idle() }
    }

    /// Begins the next frame for a caller to write, who then owes [`Self::end_led`]. Also whether there is another to be
    /// begun by the committer.
    ///
    /// # Errors
    /// As [`Self::begin_next`].
    pub fn begin_led(&mut self) -> Result<Option<(Write, bool)>> {
        // Of those that are large the disk gets as many as it takes, which no caller sees to who waits for one. And a sync
        // of the page cache that a signal to the caller's thread interrupts is one that failed.
        let is_large = || self.shared.lane.holds(usize::MAX, OVERLAP_BYTES);
        if self.shared.io.buffered() || !self.is_still() && (self.are_many() || is_large()) {
            return Ok(None);
        }
        let Some(write) = self.begin_staged(self.bytes_min())? else { return Ok(None) };
        self.led += 1;
        let more = !self.is_full() && self.shared.lane.awaits(self.bytes_min());
        Ok(Some((write, more)))
    }

    /// A caller's write is over.
    pub fn end_led(&mut self) {
        self.led -= 1;
        if self.led == 0 {
            self.none_led.notify_all();
        }
    }

    /// Waits until no caller writes. Gives those who wait for what is in flight still, whom nobody will answer.
    pub fn end(mut frames: MutexGuard<'_, Self>) -> Vec<Pending> {
        let none_led = Arc::clone(&frames.none_led);
        while frames.led > 0 {
            wait(&none_led, &mut frames);
        }
        frames.in_flight.iter_mut().flat_map(|flight| std::mem::take(&mut flight.staged.waiting)).collect()
    }

    /// Begins the next frame, if there is one of at least `bytes_min` bytes and not too many are in flight.
    ///
    /// # Errors
    /// As [`Self::begin_next`].
    pub fn begin_staged(&mut self, bytes_min: usize) -> Result<Option<Write>> {
        if self.broken || self.is_full() || self.awaits_file() {
            return Ok(None);
        }
        match self.shared.lane.take(bytes_min) {
            Some(staged) => self.begin(staged, 0),
            None => Ok(None),
        }
    }

    /// Begins an empty frame if the watermark has waited long enough to be carried to disk.
    fn begin_idle(&mut self) -> Result<Option<Write>> {
        let due = !self.broken
            && self.is_still()
            && self.awaits_idle_frame()
            && self.shared.clock.monotonic().saturating_sub(self.last_publish) >= self.idle_after
            // Nothing is begun in front of a frame that was put back for want of a journal file.
            && self.shared.lane.is_empty();
        if !due {
            return Ok(None);
        }
        self.begin(self.shared.lane.empty(self.prev.last_lsn.next()), 0)
    }

    fn begin(&mut self, mut staged: Staged, flags: u16) -> Result<Option<Write>> {
        let payload_len = staged.buf.len() - HEADER_LEN;
        let len = frame_len(payload_len);
        if len as u64 > self.place.left() {
            let next = self.next_file();
            if !matches!(next, Ok(true)) {
                // Also where it failed: who waits for this frame is told with all others, once the latch is closed.
                self.shared.lane.put_back(staged);
                return next.map(|_| None);
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
        let (buf, copy) = if mutants::makes(Mutant::WatermarkEarly) { (copy, None) } else { (None, copy) };
        self.in_flight.push_back(Flight { id, header, frame, staged, buf, copy });
        Ok(Some(Write { id, op }))
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

    fn mark(&mut self, flag: u16) -> Result<()> {
        assert!(self.is_idle(), "an open or a close stands alone");
        let staged = self.shared.lane.empty(self.prev.last_lsn.next());
        match self.begin(staged, flag)? {
            Some(Write { id, op }) => {
                let result = self.shared.io.run(op);
                self.complete(Completion { id, result })?;
                self.publish().wakes.wake();
                Ok(())
            }
            None => Err(Error::new(ErrorKind::Io, "no journal file is free for the frame of an open or a close")
                .file(self.path())
                .remedy("free space, and open the store again")),
        }
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
            epoch: self.epoch,
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
        let begun = self.shared.journal.ring.begin(self.timeline, self.prev);
        self.broken |= begun.is_err();
        match begun? {
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

    /// A write has ended.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] if it failed, which ends the journal: what became of it is unknown.
    pub fn complete(&mut self, completion: Completion) -> Result<()> {
        if mutants::makes(Mutant::WatermarkEarly) {
            return Ok(());
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
                self.broken = true;
                let at = flight.header.position;
                return Err(Error::io("writing a frame to the journal", self.path(), e).offset(at));
            }
        }
        Ok(())
    }

    /// Takes the frames out of flight that are durable with all before them, and publishes them. Nobody is woken yet.
    pub fn publish(&mut self) -> Published {
        let mut published = Published::default();
        while !self.broken
            && let Some(flight) = self.in_flight.pop_front_if(|flight| flight.buf.is_some())
        {
            let Flight { header, frame, staged, buf, .. } = flight;
            let buf = buf.expect("it was taken because of that");
            self.durable = frame;
            self.broken = true;
            published.add(&self.shared, &header, frame, staged, buf);
            self.broken = false;
            self.proven = header.watermark;
            self.shared.journal.set_proven(header.watermark_frame);
            self.last_publish = self.shared.clock.monotonic();
            let Shared { index, wants_flush, flush_bytes, .. } = &self.shared;
            // Stalled: the flush may have looked before these frames could be flushed.
            if self.stalled || index.mem_bytes() >= *flush_bytes || index.pool.is_short() {
                wants_flush.wake();
            }
        }
        published
    }

    /// Says who is to come next, and when, now that `published` was. True if the committer is to look at once.
    pub fn go_on(&mut self, published: &Published) -> bool {
        if !published.is_empty() {
            self.callers = [published.callers, self.callers[0]];
        }
        if self.is_full() {
            return false;
        }
        if self.is_still() && published.clients > 1 {
            self.expected = published.clients;
            if 2 * published.callers > published.clients {
                // They come back one by one. With half of them a frame is begun, so that from then on two take turns.
                self.expected = published.clients.div_ceil(2);
                if !self.are_many() {
                    let half = (HEADER_LEN + published.bytes.saturating_sub(HEADER_LEN) / 2).min(OVERLAP_BYTES);
                    if self.shared.lane.awaits_clients(self.expected, half) {
                        self.expected = 0;
                        return false;
                    }
                    // Some came already, and nobody looks after them.
                    self.shared.lane.awaits(half);
                }
            }
            return true;
        }
        self.shared.lane.awaits(self.bytes_min()) || self.shared.lane.is_closed()
    }

    /// For how many clients to come back the committer is to wait a moment.
    pub fn take_expected(&mut self) -> usize {
        std::mem::take(&mut self.expected)
    }

    /// Answers everybody who waits that the outcome is unknown. What is in flight is left to the disk. Gives whether that is
    /// news to anybody, and whom to wake, under no lock.
    pub fn fail(&mut self) -> (bool, Wakes) {
        let Shared { lane, poison, index, .. } = &self.shared;
        let mut waiting = lane.close(poison.error());
        for flight in &mut self.in_flight {
            waiting.append(&mut flight.staged.waiting);
        }
        let moved = !waiting.is_empty() || !self.failed;
        index.pool.close();
        self.failed = true;
        (moved, Pending::answer_all(waiting, Some(&poison.unknown())))
    }

    /// Ends a close that cannot write what is staged, since no journal file can be had: everybody who waits is told that
    /// the outcome is unknown. Gives whom to wake, under no lock.
    pub fn give_up(&mut self, cause: &Error) -> Wakes {
        let closed = Error::new(ErrorKind::ShutDown, "the store is closed");
        let unknown =
            Error::new(ErrorKind::Unknown, format!("the store closed before this append was durable: {cause}"))
                .remedy("open the store again and retry by producer number");
        let waiting = self.shared.lane.close(closed);
        self.shared.index.pool.close();
        self.gave_up = Some(cause.clone());
        Pending::answer_all(waiting, Some(&unknown))
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

    /// Whether the next frame, however short, needs another journal file.
    #[must_use]
    pub fn needs_file(&self) -> bool {
        self.place.left() < BLOCK as u64
    }
}
