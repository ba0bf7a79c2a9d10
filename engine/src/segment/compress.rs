//! Compression of chunks: zstd, and only where it gains. docs/FORMAT.md, "Data".
//!
//! Much of what is stored is compressed already (photos) or too short, so that trying costs more than it brings; a
//! cheap look at a part of the chunk comes first, and after failures in a row only now and then. Invariant: a chunk
//! that could not be made clearly smaller is stored as it is.

use crate::format::bytes::{Reader, Sink};
use crate::format::chunk::CHUNK_PLAIN_BYTES_MAX;
use crate::format::{Decoded, Malformed};
use std::cell::RefCell;
use zstd::bulk::{Compressor, Decompressor};

const LEVEL: i32 = 1;
/// Shorter chunks are not worth it.
const PLAIN_BYTES_MIN: usize = 512;
/// The part of a longer chunk that is tried first.
const SAMPLE_BYTES: usize = 4 << 10;
/// After so many failures in a row only every [`RETRY_EVERY`]-th chunk is tried.
const MISSES_MAX: u32 = 4;
const RETRY_EVERY: u32 = 16;

/// Compresses chunks, remembering whether it has gained of late.
pub(super) struct Squeeze {
    compressor: Compressor<'static>,
    out: Vec<u8>,
    misses: u32,
    skipped: u32,
}

impl Squeeze {
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self { compressor: Compressor::new(LEVEL)?, out: Vec::new(), misses: 0, skipped: 0 })
    }

    /// The chunk as stored compressed, where that is smaller by a sixteenth at least.
    pub(super) fn squeeze(&mut self, plain: &[u8]) -> Option<&[u8]> {
        if plain.len() < PLAIN_BYTES_MIN {
            return None;
        }
        if self.misses >= MISSES_MAX {
            self.skipped = (self.skipped + 1) % RETRY_EVERY;
            if self.skipped != 0 {
                return None;
            }
        }
        let len = self.attempt(plain);
        self.misses = if len.is_some() { 0 } else { self.misses.saturating_add(1) };
        len.map(|len| &self.out[..len])
    }

    fn attempt(&mut self, plain: &[u8]) -> Option<usize> {
        if plain.len() > 2 * SAMPLE_BYTES {
            let middle = (plain.len() - SAMPLE_BYTES) / 2;
            self.compress(&plain[middle..middle + SAMPLE_BYTES])?;
        }
        self.compress(plain)
    }

    /// The length of length and zstd frame in `out`; None if it did not gain. A failure of the compressor is no gain.
    fn compress(&mut self, plain: &[u8]) -> Option<usize> {
        let room = plain.len() - plain.len() / 16;
        let mut head = Vec::with_capacity(10);
        head.put_varint(plain.len() as u64);
        if self.out.len() < room {
            self.out.resize(room, 0);
        }
        let (front, rest) = self.out[..room].split_at_mut(head.len());
        front.copy_from_slice(&head);
        let len = self.compressor.compress_to_buffer(plain, rest).ok()?;
        Some(head.len() + len)
    }
}

thread_local! {
    /// A decompressor's tables are larger than most chunks; making them anew for each would cost more than the work.
    static DECOMPRESSOR: RefCell<Option<Decompressor<'static>>> = const { RefCell::new(None) };
}

/// The chunk that is stored compressed as `stored`.
pub(super) fn expand(stored: &[u8]) -> Decoded<Vec<u8>> {
    let mut reader = Reader::new(stored);
    let len = reader.varint()?;
    if len > CHUNK_PLAIN_BYTES_MAX as u64 {
        return Err(reader.malformed("a chunk larger than a chunk can be"));
    }
    let frame = &stored[reader.at()..];
    let plain = DECOMPRESSOR.with_borrow_mut(|slot| -> std::io::Result<Vec<u8>> {
        let decompressor = match slot {
            Some(decompressor) => decompressor,
            None => slot.insert(Decompressor::new()?),
        };
        decompressor.decompress(frame, len as usize)
    });
    match plain {
        Ok(plain) if plain.len() as u64 == len => Ok(plain),
        _ => Err(Malformed { what: "the chunk cannot be decompressed", at: reader.at() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    #[test]
    fn what_compresses_comes_back_and_noise_is_left_alone() {
        let mut squeeze = Squeeze::new().expect("memory for it");
        for len in [512, 5000, 65_536, 300_000] {
            let text: Vec<u8> = (0..len).map(|i| (i / 7) as u8).collect();
            let stored = squeeze.squeeze(&text).expect("it gains").to_vec();
            assert!(stored.len() < text.len());
            assert_eq!(expand(&stored), Ok(text));
        }
        assert!(squeeze.squeeze(&[0; PLAIN_BYTES_MIN - 1]).is_none(), "too short");
        for _ in 0..MISSES_MAX {
            assert!(squeeze.squeeze(&noise(20_000)).is_none());
        }
        let zeros = [0; 4096];
        let gained = (0..RETRY_EVERY).filter(|_| squeeze.squeeze(&zeros).is_some()).count();
        assert_eq!(gained, 1, "after failures only one of sixteen is tried");
        assert!(squeeze.squeeze(&zeros).is_some(), "after a success each is");
    }

    #[test]
    fn a_length_that_lies_is_refused_before_memory_is_taken() {
        let mut huge = Vec::new();
        huge.put_varint(u64::MAX);
        assert!(expand(&huge).is_err());
        let mut squeeze = Squeeze::new().expect("memory for it");
        let mut stored = squeeze.squeeze(&[7; 1000]).expect("it gains").to_vec();
        stored[0] ^= 1;
        assert!(expand(&stored).is_err());
    }
}
