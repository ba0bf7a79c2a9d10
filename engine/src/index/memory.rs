//! The memory that durable records live in until a flush: the very buffers that were written to the journal, but for
//! short frames, which are copied out of them.

use super::buffers::Buffers;
use crate::format::bytes::Sink;
use crate::format::entry::Kind;
use crate::io::AlignedBuf;
use crate::sync::Arc;
use crate::types::{Lsn, Seq, TimeUs, Timeline};

/// Payloads shorter than this are copied into memory of their exact size, so that the padding of a quiet hour's sparse
/// frames does not fill the pool; longer ones stay in a buffer of at most twice their size.
const COMPACT_BELOW: usize = 64 << 10;

/// What an entry costs in the pool beside its bytes: its place in the index of its log.
pub const ENTRY_OVERHEAD: usize = 64;

/// One durable frame's payload, with what all its entries share.
#[derive(Debug)]
pub struct FrameMem {
    bytes: Bytes,
    buffers: Arc<Buffers>,
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
    /// Takes over a frame whose payload starts at `payload_at` and is `payload_len` long. Its buffer goes back to
    /// `buffers`, at once where the payload was copied out of it, else once nobody needs the payload any more.
    #[must_use]
    pub fn new(
        frame: AlignedBuf, payload_at: usize, payload_len: usize, time: TimeUs, timeline: Timeline,
        buffers: &Arc<Buffers>,
    ) -> Self {
        let payload = &frame[payload_at..payload_at + payload_len];
        let bytes = if payload_len < COMPACT_BELOW {
            Bytes::Exact(payload.into())
        } else if Buffers::is_wasteful(frame.capacity(), payload_len) {
            let mut smaller = buffers.take(payload_len);
            smaller.put(payload);
            Bytes::Frame(smaller, 0)
        } else {
            return Self { bytes: Bytes::Frame(frame, payload_at), time, timeline, buffers: Arc::clone(buffers) };
        };
        buffers.give(frame);
        Self { bytes, time, timeline, buffers: Arc::clone(buffers) }
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

impl Drop for FrameMem {
    fn drop(&mut self) {
        if let Bytes::Frame(buf, _) = &mut self.bytes {
            self.buffers.give(std::mem::replace(buf, AlignedBuf::empty()));
        }
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
    /// Whether it is a record without producer and tag, whose body need not be looked at to carry it out.
    pub plain: bool,
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
