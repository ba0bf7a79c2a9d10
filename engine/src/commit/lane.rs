//! The staging lane: where appends are encoded into the next frame while earlier ones are being written.
//!
//! A batch is encoded under the lane's lock, or copied in if it is large, which gives it its LSNs; the slots of its logs
//! are locked by the caller, so that within a log the order of seqs is that of LSNs. Memory is bounded by the pool from
//! which the caller took room before: the lane itself never waits.
//!
//! Invariant: what was staged is either handed to the committer once, in LSN order, or refused because the lane was
//! closed; nothing is dropped.

use super::ack::Pending;
use crate::error::{Error, Result};
use crate::format::bytes::Sink;
use crate::format::entry::{BATCH_HEADER_LEN, Kind};
use crate::format::frame::HEADER_LEN;
use crate::index::buffers::{BUFFER_MAX, BUFFER_MIN, Buffers};
use crate::index::slot::{Slot, Visible};
use crate::io::AlignedBuf;
use crate::sync::{Arc, Event, Mutex, MutexGuard};
use crate::types::{Lsn, Seq};
use std::collections::VecDeque;
use std::ops::Range;

/// A frame is handed on rather than grown past this, unless one batch is larger: the disk gains nothing beyond.
const FRAME_TARGET: usize = 1 << 20;

const _: () = assert!(FRAME_TARGET <= BUFFER_MAX);

/// A frame in the making.
#[derive(Debug)]
pub struct Staged {
    /// Room for the header, then the payload.
    pub buf: AlignedBuf,
    /// The entries, by LSN.
    pub entries: Vec<StagedEntry>,
    /// Which entries belong to which log, batch by batch.
    pub groups: Vec<Group>,
    /// Who waits for the frame.
    pub waiting: Vec<Pending>,
    /// How many of them are callers who do nothing else meanwhile.
    pub callers: usize,
    /// What they wait on.
    pub event: Arc<Event>,
    /// Batches.
    pub batches: u32,
    /// Bytes of records' payloads.
    pub payload_bytes: u64,
    /// Records.
    pub records: u64,
    /// The first entry's LSN.
    pub first_lsn: Lsn,
}

/// An entry in a frame in the making.
#[derive(Clone, Copy, Debug)]
pub struct StagedEntry {
    /// Its body's byte offset in the payload.
    pub at: u32,
    /// Its body's length in bytes.
    pub len: u32,
    /// Its seq.
    pub seq: Seq,
    /// What it is.
    pub kind: Kind,
    /// Whether it is a record without producer and tag.
    pub plain: bool,
}

/// The entries of one batch for one log.
#[derive(Debug)]
pub struct Group {
    /// The log.
    pub slot: Arc<Slot>,
    /// Its entries in [`Staged::entries`].
    pub entries: Range<usize>,
    /// The log's state once they are durable.
    pub visible: Visible,
}

/// The lane.
#[derive(Debug)]
pub struct Lane {
    frame_max: usize,
    buffers: Arc<Buffers>,
    inner: Mutex<LaneInner>,
}

/// What the lane's lock guards.
#[derive(Debug)]
pub struct LaneInner {
    open: Staged,
    sealed: VecDeque<Staged>,
    /// Who waits for an LSN that was staged already, for an answer that rests on it.
    settling: Vec<(Lsn, Pending)>,
    next_lsn: Lsn,
    closed: Option<Error>,
    /// There were less than this many bytes in the open frame: whoever brings it to as many sees to it that it is begun.
    awaited: Option<usize>,
    /// So many clients are expected, and nobody looks after them: the first is told. No batch is staged.
    untended: Option<usize>,
}

/// What whoever stages has to see to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing.
    Nothing,
    /// What is staged is to be begun.
    Begin,
    /// So many batches are likely to be there in a moment, this one included; what is there by then is to be begun.
    Tend(usize),
}

impl Staged {
    fn new(mut buf: AlignedBuf, first_lsn: Lsn) -> Self {
        buf.clear();
        buf.resize(HEADER_LEN);
        Self {
            buf,
            entries: Vec::new(),
            groups: Vec::new(),
            waiting: Vec::new(),
            callers: 0,
            event: Arc::default(),
            batches: 0,
            payload_bytes: 0,
            records: 0,
            first_lsn,
        }
    }

    /// The LSN of entry `at`.
    #[must_use]
    pub fn lsn(&self, at: usize) -> Lsn {
        Lsn(self.first_lsn.0 + at as u64)
    }
}

impl Lane {
    /// An empty lane whose first entry gets `next_lsn`, for frames of at most `frame_max` bytes.
    #[must_use]
    pub fn new(frame_max: usize, next_lsn: Lsn, buffers: Arc<Buffers>) -> Self {
        let inner = LaneInner {
            open: Staged::new(buffers.take(BUFFER_MIN), next_lsn),
            sealed: VecDeque::new(),
            settling: Vec::new(),
            next_lsn,
            closed: None,
            awaited: None,
            untended: None,
        };
        Self { frame_max, buffers, inner: Mutex::new(inner) }
    }

    /// Locks the lane to stage one batch.
    ///
    /// # Errors
    /// Why the lane was closed.
    pub fn lock(&self) -> Result<MutexGuard<'_, LaneInner>> {
        let inner = self.inner.lock();
        match &inner.closed {
            Some(error) => Err(error.clone()),
            None => Ok(inner),
        }
    }

    /// The next frame to be written, if anything is staged, and the open one only if it has at least `bytes_min`. Where it has
    /// not, whoever brings it to that is told; but where clients are expected, what was said of them stays.
    #[must_use]
    pub fn take(&self, bytes_min: usize) -> Option<Staged> {
        let mut inner = self.inner.lock();
        if let Some(staged) = inner.sealed.pop_front() {
            inner.awaited = None;
            return Some(staged);
        }
        if inner.untended.is_some() {
            return None;
        }
        if inner.open.batches == 0 || inner.open.buf.len() < bytes_min {
            inner.awaited = Some(bytes_min);
            return None;
        }
        inner.awaited = None;
        let hint = inner.open.buf.len().min(FRAME_TARGET);
        Some(inner.turn_over(&self.buffers, hint))
    }

    /// Has whoever brings the open frame to `bytes` told to see to it; true if it holds as many already, and nobody is told.
    pub fn awaits(&self, bytes: usize) -> bool {
        let mut inner = self.inner.lock();
        let due = inner.holds(bytes);
        inner.awaited = (!due).then_some(bytes);
        inner.untended = None;
        due
    }

    /// As [`Self::awaits`], of so many clients who are expected in a moment: the first of them is told as well, to begin what
    /// there is after that. False if something is staged already, for which that is too late.
    pub fn awaits_clients(&self, clients: usize, bytes: usize) -> bool {
        let mut inner = self.inner.lock();
        if inner.closed.is_some() || !inner.sealed.is_empty() || inner.open.batches > 0 {
            return false;
        }
        inner.awaited = Some(bytes);
        inner.untended = Some(clients);
        true
    }

    /// Whether it takes nothing more.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.inner.lock().closed.is_some()
    }

    /// A frame without entries, in front of the entry `first_lsn`.
    #[must_use]
    pub fn empty(&self, first_lsn: Lsn) -> Staged {
        Staged::new(self.buffers.take(BUFFER_MIN), first_lsn)
    }

    /// Whether so many batches or bytes are staged, or a frame is full.
    #[must_use]
    pub fn holds(&self, batches: usize, bytes: usize) -> bool {
        let inner = self.inner.lock();
        !inner.sealed.is_empty() || inner.open.batches as usize >= batches || inner.open.buf.len() >= bytes
    }

    /// Whether what is staged is one frame of less than `bytes`, all of whose clients are callers who do nothing else.
    #[must_use]
    pub fn is_of_callers(&self, bytes: usize) -> bool {
        let inner = self.inner.lock();
        let open = &inner.open;
        inner.sealed.is_empty() && open.callers > 0 && open.callers == open.waiting.len() && open.buf.len() < bytes
    }

    /// Puts a frame back that could not be begun, to be taken first.
    pub fn put_back(&self, staged: Staged) {
        self.inner.lock().sealed.push_front(staged);
    }

    /// Whether anything is staged.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let inner = self.inner.lock();
        inner.sealed.is_empty() && inner.open.batches == 0
    }

    /// The waiters whose answers rest on LSNs up to `watermark`.
    #[must_use]
    pub fn settled(&self, watermark: Lsn) -> Vec<Pending> {
        let mut inner = self.inner.lock();
        if inner.settling.is_empty() {
            return Vec::new();
        }
        let (ready, rest) = std::mem::take(&mut inner.settling).into_iter().partition(|(lsn, _)| *lsn <= watermark);
        inner.settling = rest;
        let ready: Vec<(Lsn, Pending)> = ready;
        ready.into_iter().map(|(_, pending)| pending).collect()
    }

    /// Closes the lane: nothing more is staged. Gives everybody who waits on what was staged and not taken.
    #[must_use]
    pub fn close(&self, why: Error) -> Vec<Pending> {
        let mut inner = self.inner.lock();
        inner.closed.get_or_insert(why);
        let mut waiting: Vec<Pending> = inner.settling.drain(..).map(|(_, pending)| pending).collect();
        for mut staged in std::mem::take(&mut inner.sealed) {
            waiting.append(&mut staged.waiting);
        }
        waiting.append(&mut inner.open.waiting);
        inner.open.batches = 0;
        waiting
    }

    /// Refuses further batches with `why`; what is staged stays.
    pub fn refuse(&self, why: Error) {
        self.inner.lock().closed.get_or_insert(why);
    }

    /// The buffers that frames are made in.
    #[must_use]
    pub fn buffers(&self) -> &Buffers {
        &self.buffers
    }

    /// The largest frame in bytes.
    #[must_use]
    pub fn frame_max(&self) -> usize {
        self.frame_max
    }
}

impl LaneInner {
    /// Makes room for a batch of `len` bytes in the open frame, or in a new one.
    pub fn room(&mut self, len: usize, frame_max: usize, buffers: &Buffers) {
        let used = self.open.buf.len();
        assert!(HEADER_LEN + len <= frame_max, "a batch is checked against the frame's limit before it is staged");
        if self.open.batches > 0 && used + len > FRAME_TARGET.min(frame_max) {
            let full = self.turn_over(buffers, used.min(FRAME_TARGET).max(HEADER_LEN + len));
            self.sealed.push_back(full);
        }
        let needed = self.open.buf.len() + len;
        if needed > self.open.buf.capacity() {
            let mut larger = buffers.take(needed);
            larger.put(&self.open.buf);
            buffers.give(std::mem::replace(&mut self.open.buf, larger));
        }
    }

    /// Puts an empty frame with a buffer of about `hint` bytes in place of the open one.
    fn turn_over(&mut self, buffers: &Buffers, hint: usize) -> Staged {
        let mut fresh = Staged::new(buffers.take(hint), self.next_lsn);
        // The next frame is likely to hold as much as this one.
        fresh.entries.reserve(self.open.entries.len());
        fresh.groups.reserve(self.open.groups.len());
        fresh.waiting.reserve(self.open.waiting.len());
        std::mem::replace(&mut self.open, fresh)
    }

    /// The frame in the making.
    pub fn open(&mut self) -> &mut Staged {
        &mut self.open
    }

    /// Begins a batch of `entries` entries, `len` bytes of them.
    pub fn begin_batch(&mut self, len: usize, entries: usize) {
        let header = crate::format::entry::batch_header((len - BATCH_HEADER_LEN) as u32, entries as u32);
        self.open.buf.put(&header);
        self.open.batches += 1;
    }

    /// Notes an entry that was just encoded; gives its LSN.
    pub fn note(&mut self, entry: StagedEntry) -> Lsn {
        let lsn = self.next_lsn;
        self.open.entries.push(entry);
        self.next_lsn = lsn.next();
        lsn
    }

    /// Whether there is a frame to be begun, the open one only if it has at least `bytes_min`.
    fn holds(&self, bytes_min: usize) -> bool {
        !self.sealed.is_empty() || self.open.batches > 0 && self.open.buf.len() >= bytes_min
    }

    /// What is to be seen to now that something more is staged: told once. Nothing while as many frames are in flight as may be.
    pub fn due(&mut self) -> Due {
        let untended = self.untended.take();
        if self.awaited.is_some_and(|bytes| self.holds(bytes)) {
            self.awaited = None;
            Due::Begin
        } else {
            untended.map_or(Due::Nothing, Due::Tend)
        }
    }

    /// Has `pending` answered once `lsn` is durable; gives it back if that is so already.
    pub fn settle_at(&mut self, lsn: Lsn, pending: Pending, watermark: Lsn) -> Option<Pending> {
        if lsn <= watermark {
            return Some(pending);
        }
        self.settling.push((lsn, pending));
        None
    }
}
