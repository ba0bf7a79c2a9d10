//! A pass over a whole file, past the page cache: each byte is read once, hashed, and given out in order.
//!
//! Knows nothing of segments. Bytes that cannot be read are given as zeros and noted. Invariant: memory is bounded by a
//! piece and the longest range asked for.

use super::PIECE_BYTES;
use crate::io::{AlignedBuf, File, Io};
use crate::types::BLOCK;
use std::ops::Range;

pub(super) struct Stream<'a> {
    io: &'a dyn Io,
    file: &'a File,
    /// The bytes that the file should have: a multiple of a block.
    total: u64,
    hasher: blake3::Hasher,
    /// What was read and may still be asked for, and where it begins in the file.
    window: Vec<u8>,
    start: u64,
    on_bytes: &'a mut dyn FnMut(u64),
    /// What could not be read: offset and why.
    pub(super) unreadable: Vec<(u64, String)>,
}

impl<'a> Stream<'a> {
    pub(super) fn new(io: &'a dyn Io, file: &'a File, total: u64, on_bytes: &'a mut dyn FnMut(u64)) -> Self {
        let hasher = blake3::Hasher::new();
        Self { io, file, total, hasher, window: Vec::new(), start: 0, on_bytes, unreadable: Vec::new() }
    }

    /// The first byte that can still be asked for.
    pub(super) fn start(&self) -> u64 {
        self.start
    }

    /// These bytes of the file, which begin at or after [`Self::start`]. What is before them is given up.
    pub(super) fn get(&mut self, range: Range<u64>) -> &[u8] {
        assert!(self.start <= range.start && range.start <= range.end && range.end <= self.total, "a range to come");
        while self.start + (self.window.len() as u64) < range.end {
            let gone = ((range.start - self.start) as usize).min(self.window.len());
            self.window.drain(..gone);
            self.start += gone as u64;
            self.read_piece();
        }
        let from = (range.start - self.start) as usize;
        &self.window[from..from + (range.end - range.start) as usize]
    }

    fn read_piece(&mut self) {
        let at = self.start + self.window.len() as u64;
        let len = (self.total - at).min(PIECE_BYTES as u64) as usize;
        let piece = match self.io.read_at(self.file, at, len) {
            Ok(piece) if piece.len() == len => piece,
            // So that one bad block does not hide those beside it.
            _ => self.read_blocks(at, len),
        };
        self.hasher.update(&piece);
        self.window.extend_from_slice(&piece);
        (self.on_bytes)(len as u64);
    }

    fn read_blocks(&mut self, at: u64, len: usize) -> AlignedBuf {
        let mut piece = AlignedBuf::zeroed(len);
        for from in (0..len).step_by(BLOCK) {
            let offset = at + from as u64;
            match self.io.read_at(self.file, offset, BLOCK) {
                Ok(block) if block.len() == BLOCK => piece[from..from + BLOCK].copy_from_slice(&block),
                Ok(_) => self.unreadable.push((offset, "the file ends before this block".into())),
                Err(e) => self.unreadable.push((offset, format!("the block cannot be read: {e}"))),
            }
        }
        piece
    }

    /// Reads what is left and gives the digest of all of the file.
    pub(super) fn finish(&mut self) -> [u8; 32] {
        let total = self.total;
        self.get(total..total);
        *self.hasher.finalize().as_bytes()
    }
}
