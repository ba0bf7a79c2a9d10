//! How a reader touches the checked blocks of a segment: the first time through a direct read, later through the map.
//!
//! The first read goes past the page cache, so that what is believed is what the disk holds; later ones may use the map
//! where the backend has one. Each touch checks the block again. Invariant: a body is given only if its block is intact
//! and is the very block asked for.

use super::damaged;
use crate::error::{Error, Result};
use crate::format::Malformed;
use crate::format::block::{self, BODY_AT, Section};
use crate::io::{AlignedBuf, File, Io, Map};
use crate::sync::{AtomicU64, Ordering};
use crate::types::{BLOCK, SegmentId};
use std::ops::{Deref, Range};
use std::sync::Arc;

pub(super) struct View {
    pub(super) io: Arc<dyn Io>,
    pub(super) file: File,
    segment: SegmentId,
    /// What an error names, the end excluded.
    pub(super) lsns: Range<u64>,
    /// One bit for each block from `first` on: whether it was read directly before. Pairs with nothing: a bit that is
    /// seen late costs one more direct read.
    touched: Vec<AtomicU64>,
    first: u64,
    map: Option<Arc<dyn Map>>,
}

/// The body of a checked block.
pub(super) enum Body<'a> {
    /// In the map, or in a larger read.
    Borrowed(&'a [u8]),
    /// In a block that was read, and the body's length.
    Read(AlignedBuf, usize),
}

impl Deref for Body<'_> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Borrowed(body) => body,
            Self::Read(block, len) => &block[BODY_AT..BODY_AT + len],
        }
    }
}

impl View {
    /// A view of the checked blocks of `file` from block `first` on, `blocks` of them.
    pub(super) fn new(
        io: Arc<dyn Io>, file: File, segment: SegmentId, lsns: Range<u64>, first: u64, blocks: u64,
    ) -> Self {
        let map = io.map(&file);
        let touched = (0..blocks.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Self { io, file, segment, lsns, touched, first, map }
    }

    /// The body of block `number`, which belongs to `section`.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Damaged`] naming file, offset and LSNs; [`crate::ErrorKind::Io`].
    pub(super) fn body(&self, section: Section, number: u64) -> Result<Body<'_>> {
        let bit = number - self.first;
        let word = &self.touched[(bit / 64) as usize];
        let mask = 1 << (bit % 64);
        if word.load(Ordering::Relaxed) & mask != 0
            && let Some(body) = self.mapped(section, number)
        {
            return Ok(Body::Borrowed(body));
        }
        let body = read(&*self.io, &self.file, section, self.segment, number).map_err(|e| e.lsns(self.lsns.clone()))?;
        word.fetch_or(mask, Ordering::Relaxed);
        Ok(body)
    }

    #[cfg(test)]
    pub(super) fn set_map(&mut self, map: Arc<dyn Map>) {
        self.map = Some(map);
    }

    /// The body in the map. Where the map has anything but the right block, the disk is asked again.
    fn mapped(&self, section: Section, number: u64) -> Option<&[u8]> {
        let at = usize::try_from(number).ok()?.checked_mul(BLOCK)?;
        let block = self.map.as_ref()?.bytes().get(at..at + BLOCK)?;
        block::decode(block, section, self.segment, number).ok()
    }

    /// An error about what block `number` of `section` holds.
    pub(super) fn damaged(&self, section: Section, number: u64, what: &str) -> Error {
        damaged(&self.file.path, number * BLOCK as u64, message(section, number, what)).lsns(self.lsns.clone())
    }

    /// The error for a body of block `number` that could not be decoded.
    pub(super) fn malformed(&self, section: Section, number: u64) -> impl Fn(Malformed) -> Error + '_ {
        move |m| self.damaged(section, number, m.what)
    }
}

pub(super) fn message(section: Section, number: u64, what: &str) -> String {
    format!("the segment's {} (block {number}) is damaged: {what}", section.name())
}

/// Reads one checked block past the page cache.
pub(super) fn read(
    io: &dyn Io, file: &File, section: Section, segment: SegmentId, number: u64,
) -> Result<Body<'static>> {
    let offset = number * BLOCK as u64;
    let block = io.read_at(file, offset, BLOCK)?;
    match block::decode(&block, section, segment, number) {
        Ok(body) => {
            let len = body.len();
            Ok(Body::Read(block, len))
        }
        Err(m) => Err(damaged(&file.path, offset, message(section, number, m.what))),
    }
}
