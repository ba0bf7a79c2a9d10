//! How a reader touches the checked blocks of a segment: the first time through a read, later through the map.
//!
//! The first touch is a read, so that a block that the disk does not give is an error and no signal; it goes through the
//! page cache, so that later touches, which use the map where the backend has one, need not ask the disk again. What is
//! in the page cache of a segment was read from the disk: segments are written past it. Each touch checks the block
//! again. Invariant: a body is given only if its block is intact and is the very block asked for, but by `unchecked`, whose
//! caller checks the part that it uses.

use super::damaged;
use crate::error::{Error, Result};
use crate::format::Malformed;
use crate::format::block::{self, BODY_AT, Section};
use crate::io::{AlignedBuf, File, Io, Map, OpenMode};
use crate::sync::{AtomicU64, Ordering};
use crate::types::{BLOCK, SegmentId};
use std::ops::{Deref, Range};
use std::sync::Arc;

pub(super) struct View {
    pub(super) io: Arc<dyn Io>,
    /// Reads past the page cache.
    pub(super) file: File,
    /// Reads through it.
    pub(super) cached: File,
    segment: SegmentId,
    /// What an error names, the end excluded.
    pub(super) lsns: Range<u64>,
    /// One bit for each block: whether it was read before. Pairs with nothing: a bit that is seen late costs one more
    /// read.
    touched: Vec<AtomicU64>,
    map: Option<Arc<dyn Map>>,
    /// Every touch is a read.
    pub(super) only_reads: bool,
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
    /// A view of the first `blocks` blocks of `file`.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`].
    pub(super) fn new(io: Arc<dyn Io>, file: File, segment: SegmentId, lsns: Range<u64>, blocks: u64) -> Result<Self> {
        let map = io.map(&file);
        let cached = io.open(&file.path, OpenMode::Read)?;
        let touched = (0..blocks.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        Ok(Self { io, file, cached, segment, lsns, touched, map, only_reads: false })
    }

    /// Another view of the file, of which every touch is a read: what cannot be read is an error and never a signal. For who
    /// goes looking for damage.
    pub(super) fn reading(&self) -> Self {
        Self {
            io: Arc::clone(&self.io),
            file: self.file.clone(),
            cached: self.cached.clone(),
            segment: self.segment,
            lsns: self.lsns.clone(),
            touched: Vec::new(),
            map: None,
            only_reads: true,
        }
    }

    /// The body of block `number`, which belongs to `section`.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Damaged`] naming file, offset and LSNs; [`crate::ErrorKind::Io`].
    pub(super) fn body(&self, section: Section, number: u64) -> Result<Body<'_>> {
        if self.only_reads {
            let body = read(&*self.io, &self.cached, section, self.segment, number);
            return body.or_else(|_| self.read(section, number));
        }
        let word = &self.touched[(number / 64) as usize];
        let mask = 1 << (number % 64);
        if word.load(Ordering::Relaxed) & mask != 0 {
            if let Some(body) = self.mapped(section, number) {
                return Ok(Body::Borrowed(body));
            }
        } else if let Ok(body) = read(&*self.io, &self.cached, section, self.segment, number) {
            word.fetch_or(mask, Ordering::Relaxed);
            return Ok(body);
        }
        self.read(section, number)
    }

    /// Reads it past the page cache, since what memory holds may be damaged alone.
    fn read(&self, section: Section, number: u64) -> Result<Body<'_>> {
        read(&*self.io, &self.file, section, self.segment, number).map_err(|e| e.lsns(self.lsns.clone()))
    }

    #[cfg(test)]
    pub(super) fn set_map(&mut self, map: Arc<dyn Map>) {
        self.map = Some(map);
    }

    /// The body in the map; None where the map has anything but the right block.
    fn mapped(&self, section: Section, number: u64) -> Option<&[u8]> {
        block::decode(self.raw(number)?, section, self.segment, number).ok()
    }

    /// What the map has where block `number` stands.
    fn raw(&self, number: u64) -> Option<&[u8]> {
        let at = usize::try_from(number).ok()?.checked_mul(BLOCK)?;
        self.map.as_ref()?.bytes().get(at..at + BLOCK)
    }

    /// What the map has where the body of block `number` stands, **unchecked**: for who checks a part of it. None before the
    /// first touch of the block.
    pub(super) fn unchecked(&self, number: u64) -> Option<&[u8]> {
        self.raw(number).filter(|_| self.was_touched(number)).map(|block| &block[BODY_AT..])
    }

    /// Has a part of the body of block `number` brought from memory, where the map has it, and does not wait for it.
    pub(super) fn prefetch(&self, number: u64, part: Range<usize>) {
        if let Some(map) = self.map.as_ref().filter(|_| self.unchecked(number).is_some()) {
            let body = number as usize * BLOCK + BODY_AT;
            map.prefetch(body + part.start..body + part.end);
        }
    }

    /// Has block `number` brought into memory, and does not wait for it.
    pub(super) fn fetch(&self, number: u64) {
        self.io.will_need(&self.cached, number * BLOCK as u64, BLOCK);
    }

    /// Whether block `number` was touched before.
    pub(super) fn was_touched(&self, number: u64) -> bool {
        let word = self.touched.get((number / 64) as usize).map_or(0, |word| word.load(Ordering::Relaxed));
        word & (1 << (number % 64)) != 0
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

/// Reads one checked block.
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
