//! A large batch, encoded before the lane is locked, which all who append wait for.
//!
//! Under the lock it is copied into the frame, which takes a fraction of the time of encoding it there: the payloads come
//! from all over memory, and the copy does not. Invariant: what is put is what encoding in place would put.

use super::lane::Staged;
use super::plan::Planned;
use crate::format::bytes::Sink;
use crate::format::frame::HEADER_LEN;
use crate::types::LogId;

/// A batch of so many bytes is encoded before; the copy of a smaller one would take as long as encoding it.
pub(super) const FROM_BYTES: usize = 16 << 10;

/// Where an entry's body lies in a frame's payload, in bytes.
pub(super) struct Body {
    /// Where it begins.
    pub(super) at: u32,
    /// Its length.
    pub(super) len: u32,
}

impl Body {
    /// Encodes an entry for `log` behind what `buf` has, whose first `skipped` bytes do not count.
    pub(super) fn encoded(log: LogId, planned: &Planned<'_>, buf: &mut impl Sink, skipped: usize) -> Self {
        let start = buf.bytes().len();
        let at = start + planned.entry().encode(log, buf);
        Self { at: (at - skipped) as u32, len: (buf.bytes().len() - at) as u32 }
    }
}

/// A batch's entries as they stand in a frame. The room in the pool that was taken for the batch counts for them; both copies
/// are there only while the batch is being staged.
pub(super) struct Encoded {
    bytes: Vec<u8>,
    bodies: Vec<Body>,
}

impl Encoded {
    /// Encodes so many entries, of a batch of `len` bytes, in their order.
    pub(super) fn new<'a>(entries: impl Iterator<Item = (LogId, &'a Planned<'a>)>, len: usize, count: usize) -> Self {
        let mut bytes = Vec::with_capacity(len);
        let mut bodies = Vec::with_capacity(count);
        bodies.extend(entries.map(|(log, planned)| Body::encoded(log, planned, &mut bytes, 0)));
        Self { bytes, bodies }
    }

    /// Puts them into the frame. Gives where their bodies lie there, in their order.
    pub(super) fn put<'a>(&'a self, open: &mut Staged) -> impl Iterator<Item = Body> + use<'a> {
        let base = (open.buf.len() - HEADER_LEN) as u32;
        open.buf.put(&self.bytes);
        self.bodies.iter().map(move |body| Body { at: base + body.at, len: body.len })
    }
}
