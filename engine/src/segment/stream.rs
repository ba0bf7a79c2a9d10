//! A pass over a whole file, past the page cache: each byte is read once, hashed, and given out in order.
//!
//! Knows nothing of segments, and holds no file: it is read piece by piece, as the caller likes. Blocks that the device
//! cannot give are given as zeros and noted. Invariant: memory is bounded by a piece and the longest range asked for.

use super::PIECE_BYTES;
use crate::error::Result;
use crate::io::{AlignedBuf, File, Io};
use crate::types::BLOCK;
use std::ops::Range;

pub(super) struct Stream {
    /// The bytes that the file should have: a multiple of a block.
    total: u64,
    hasher: blake3::Hasher,
    /// What was read and may still be asked for, and where it begins in the file.
    window: Vec<u8>,
    start: u64,
}

impl Stream {
    pub(super) fn new(total: u64) -> Self {
        Self { total, hasher: blake3::Hasher::new(), window: Vec::new(), start: 0 }
    }

    /// The first byte that can still be asked for.
    pub(super) fn start(&self) -> u64 {
        self.start
    }

    /// How far the file was read, in bytes.
    pub(super) fn reached(&self) -> u64 {
        self.start + self.window.len() as u64
    }

    /// Reads the next piece of the file, and gives up what lies before `from`. `unreadable` is told of blocks that the
    /// device cannot give: offset and why.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`] for another reason than that: nothing has changed, and it may be asked for again.
    pub(super) fn read_piece(
        &mut self, io: &dyn Io, file: &File, from: u64, unreadable: &mut Vec<(u64, String)>,
    ) -> Result<()> {
        let at = self.reached();
        let from = from.min(at);
        assert!(self.start <= from && at < self.total, "a range to come");
        let len = (self.total - at).min(PIECE_BYTES as u64) as usize;
        let piece = match io.read_at(file, at, len) {
            Ok(piece) if piece.len() == len => piece,
            // So that one bad block does not hide those beside it.
            _ => read_blocks(io, file, at, len, unreadable)?,
        };
        self.hasher.update(&piece);
        self.window.drain(..(from - self.start) as usize);
        self.start = from;
        self.window.extend_from_slice(&piece);
        Ok(())
    }

    /// These bytes of the file, which were read and not given up.
    pub(super) fn get(&self, range: Range<u64>) -> &[u8] {
        assert!(
            self.start <= range.start && range.start <= range.end && range.end <= self.reached(),
            "a range in hand"
        );
        &self.window[(range.start - self.start) as usize..(range.end - self.start) as usize]
    }

    /// The digest of all of the file, which was read to its end.
    pub(super) fn digest(&self) -> [u8; 32] {
        assert_eq!(self.reached(), self.total, "the whole file was read");
        *self.hasher.finalize().as_bytes()
    }
}

fn read_blocks(
    io: &dyn Io, file: &File, at: u64, len: usize, unreadable: &mut Vec<(u64, String)>,
) -> Result<AlignedBuf> {
    let (mut piece, mut bad) = (AlignedBuf::zeroed(len), Vec::new());
    for from in (0..len).step_by(BLOCK) {
        let offset = at + from as u64;
        match io.read_at(file, offset, BLOCK) {
            Ok(block) if block.len() == BLOCK => piece[from..from + BLOCK].copy_from_slice(&block),
            Ok(_) => bad.push((offset, "the file ends before this block".into())),
            Err(e) if e.is_bad_sector() => bad.push((offset, format!("the block cannot be read: {e}"))),
            Err(e) => return Err(e),
        }
    }
    unreadable.append(&mut bad);
    Ok(piece)
}
