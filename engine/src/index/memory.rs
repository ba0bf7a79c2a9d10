//! The memory that durable records live in until a flush: the very buffers that were written to the journal.

use crate::format::entry::Kind;
use crate::io::AlignedBuf;
use crate::sync::Arc;
use crate::types::{Lsn, Seq, TimeUs, Timeline};

/// Frames shorter than this are copied into memory of their exact size, so that the padding of a quiet hour's sparse
/// frames does not fill the pool; longer ones keep their buffer.
const COMPACT_BELOW: usize = 64 << 10;

/// What an entry costs in the pool beside its bytes: its place in the index of its log.
pub const ENTRY_OVERHEAD: usize = 64;

/// One durable frame's payload, with what all its entries share.
#[derive(Debug)]
pub struct FrameMem {
    bytes: Bytes,
    /// When the frame was sealed.
    pub time: TimeUs,
    /// The timeline its entries belong to.
    pub timeline: Timeline,
}

#[derive(Debug)]
enum Bytes {
    Frame(AlignedBuf, usize),
    Exact(Box<[u8]>),
}

impl FrameMem {
    /// Takes over a frame whose payload starts at `payload_at` and is `payload_len` long. Gives the buffer back where
    /// the payload was copied out of it.
    #[must_use]
    pub fn new(
        frame: AlignedBuf, payload_at: usize, payload_len: usize, time: TimeUs, timeline: Timeline,
    ) -> (Self, Option<AlignedBuf>) {
        if frame.capacity() < COMPACT_BELOW || payload_len < frame.capacity() / 2 {
            let bytes = Bytes::Exact(frame[payload_at..payload_at + payload_len].into());
            (Self { bytes, time, timeline }, Some(frame))
        } else {
            (Self { bytes: Bytes::Frame(frame, payload_at), time, timeline }, None)
        }
    }

    /// `len` bytes at `at` of the payload.
    #[must_use]
    pub fn slice(&self, at: u32, len: u32) -> &[u8] {
        let (bytes, base) = match &self.bytes {
            Bytes::Frame(frame, payload_at) => (&frame[..], *payload_at),
            Bytes::Exact(bytes) => (&bytes[..], 0),
        };
        &bytes[base + at as usize..base + at as usize + len as usize]
    }
}

/// One entry in memory.
#[derive(Clone, Debug)]
pub struct MemEntry {
    /// Its position in the order of all.
    pub lsn: Lsn,
    /// A record's seq, or the log's next seq after a control operation.
    pub seq: Seq,
    /// The frame it lies in.
    pub frame: Arc<FrameMem>,
    /// Its body's byte offset in the frame's payload.
    pub at: u32,
    /// Its body's length in bytes.
    pub len: u32,
    /// What it is.
    pub kind: Kind,
}

impl MemEntry {
    /// The entry's body, checksum included.
    #[must_use]
    pub fn body(&self) -> &[u8] {
        self.frame.slice(self.at, self.len)
    }

    /// What the entry takes of the pool, in bytes.
    #[must_use]
    pub fn pool_bytes(&self) -> usize {
        self.len as usize + ENTRY_OVERHEAD
    }
}
