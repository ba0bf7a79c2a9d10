//! What became of each frame of the journal that was written: what the oracle needs to know of the disk.
//!
//! A frame is recognised by its first bytes (docs/FORMAT.md, "Frame") and nothing else of the engine's is understood here.
//! Invariant: a frame is listed as whole only while every byte of it is where the engine wrote it.

use super::SimDisk;
use super::file::SECTOR;
use std::ops::Range;

const MAGIC: &[u8] = b"EVLGFRAM";
const FIRST_LSN_AT: usize = 56;
const ENTRIES_AT: usize = 64;

/// Where and when something was written.
#[derive(Clone, Copy)]
pub(super) struct Place {
    pub content: u64,
    pub offset: u64,
    /// The operation that submitted it.
    pub submitted: u64,
}

/// One frame.
#[derive(Clone, Debug)]
pub struct Frame {
    content: u64,
    bytes: Range<u64>,
    /// The operation that submitted it.
    pub submitted: u64,
    /// The LSN of its last entry; of the entry before it, if it holds none.
    pub last_lsn: u64,
    /// Whether all of it has landed.
    pub whole: bool,
    /// Whether its header has.
    pub header: bool,
}

/// The frames that may be on the disk, in the order in which they were submitted.
#[derive(Clone, Debug, Default)]
pub struct Frames(Vec<Frame>);

impl Frames {
    /// All of them.
    #[must_use]
    pub fn all(&self) -> &[Frame] {
        &self.0
    }

    /// The last operation, up to `until`, that submitted a frame which is whole: whatever was acknowledged before it is
    /// proved by it.
    #[must_use]
    pub fn proof(&self, until: u64) -> u64 {
        let frames = self.0.iter().filter(|frame| frame.whole && frame.submitted <= until);
        frames.map(|frame| frame.submitted).max().unwrap_or(0)
    }

    /// What the frames say of those past the last one that a recovery can accept: the last LSN named by a header there,
    /// if there is any. `accepted` is the last LSN that was accepted.
    #[must_use]
    pub fn possibly_acknowledged(&self, accepted: u64) -> Option<u64> {
        let past = self.0.iter().skip_while(|frame| frame.whole);
        past.filter(|frame| frame.header).map(|frame| frame.last_lsn).max().filter(|last| *last > accepted)
    }

    pub(super) fn landed(&mut self, place: &Place, bytes: &[u8]) {
        self.put(place, bytes, true, true);
    }

    /// The machine crashed while it was being written.
    pub(super) fn cut_off(&mut self, place: &Place, bytes: &[u8], landed: &[bool]) {
        let header = landed.first() == Some(&true);
        self.put(place, bytes, landed.iter().all(|landed| *landed), header);
    }

    /// These bytes are no longer what the engine wrote.
    pub(super) fn overwritten(&mut self, content: u64, bytes: Range<u64>) {
        self.0.retain(|f| f.content != content || f.bytes.end <= bytes.start || bytes.end <= f.bytes.start);
    }

    /// Whether a whole frame lies at this place, which was written honestly.
    pub(super) fn whole_at(&self, content: u64, bytes: Range<u64>) -> bool {
        self.0.iter().any(|f| f.content == content && f.bytes.start < bytes.end && bytes.start < f.bytes.end)
    }

    fn put(&mut self, place: &Place, bytes: &[u8], whole: bool, header: bool) {
        let range = place.offset..place.offset + bytes.len() as u64;
        if header || whole {
            self.overwritten(place.content, range.clone());
        }
        if !bytes.starts_with(MAGIC) || bytes.len() < SECTOR {
            return;
        }
        let number = |at: usize, len: usize| bytes[at..at + len].iter().rev().fold(0, |n, b| n << 8 | u64::from(*b));
        let last_lsn = number(FIRST_LSN_AT, 8) + number(ENTRIES_AT, 4) - 1;
        let (content, submitted) = (place.content, place.submitted);
        let at = self.0.partition_point(|frame| frame.submitted < submitted);
        self.0.insert(at, Frame { content, bytes: range, submitted, last_lsn, whole, header });
    }

    /// The frames that were not whole are past: a recovery has accepted all that is left.
    pub(super) fn settle(&mut self) {
        self.0.retain(|frame| frame.whole);
    }
}

impl SimDisk {
    /// What became of the journal's frames.
    #[must_use]
    pub fn frames(&self) -> Frames {
        self.state.lock().frames.clone()
    }

    /// A recovery has decided what becomes of the frames that were cut off.
    pub fn frames_settled(&self) {
        self.state.lock().frames.settle();
    }
}
