//! A chunk that was read: entries of one log, dense in seq.
//!
//! Does not decode the entries' bodies; each has a checksum of its own that the caller checks. Invariant: a chunk
//! exists only if its digest was right.

use super::compress;
use crate::format::chunk::{self, ChunkEntries, ChunkEntry};
use crate::format::segment::IndexEntry;
use crate::format::{Decoded, Malformed};
use crate::io::AlignedBuf;
use std::ops::Range;
use std::sync::Arc;

/// A chunk.
#[derive(Debug)]
pub struct Chunk(Bytes);

#[derive(Debug)]
enum Bytes {
    /// Stored as it is, within what was read.
    Direct(Arc<AlignedBuf>, Range<usize>),
    /// Decompressed.
    Expanded(Vec<u8>),
}

impl Chunk {
    /// The chunk that lies at `at` in `read`.
    pub(super) fn open(entry: &IndexEntry, read: &Arc<AlignedBuf>, at: Range<usize>) -> Decoded<Self> {
        let expanded = expand(entry, &read[at.clone()])?;
        Ok(Self(match expanded {
            Some(plain) => Bytes::Expanded(plain),
            None => Bytes::Direct(Arc::clone(read), at),
        }))
    }

    /// The chunk's entries, in order, their bodies not yet decoded. Ends after an error.
    pub fn entries(&self) -> impl Iterator<Item = Decoded<ChunkEntry<'_>>> {
        ChunkEntries::new(match &self.0 {
            Bytes::Direct(read, at) => &read[at.clone()],
            Bytes::Expanded(plain) => plain,
        })
    }
}

/// Checks the digest of a chunk as stored, and decompresses it; None if it is stored as it is.
pub(super) fn expand(entry: &IndexEntry, stored: &[u8]) -> Decoded<Option<Vec<u8>>> {
    if chunk::digest(stored) != entry.digest {
        return Err(Malformed { what: "the chunk's digest is wrong", at: 0 });
    }
    if entry.is_compressed() { compress::expand(stored).map(Some) } else { Ok(None) }
}
