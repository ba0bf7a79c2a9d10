//! The layout of a decompressed chunk: entries of one log, with differences of LSN and time. docs/FORMAT.md, "Data".
//!
//! Where a chunk lies and its compression are not here; the writer builds it in place. Invariant: an entry
//! is given only if all of it lies within the chunk.

use super::Decoded;
use super::bytes::Reader;
use crate::limits::RECORD_BYTES_MAX;
use crate::types::{Lsn, TimeUs};

/// Entries are gathered into chunks of about this many bytes; one larger entry has its own chunk.
pub const CHUNK_BYTES: usize = 64 << 10;
/// The largest chunk, decompressed, that a reader accepts. Bounds what is allocated on the word of a stored length.
pub const CHUNK_PLAIN_BYTES_MAX: usize = (16 << 20) + CHUNK_BYTES;
/// What a chunk needs beside an entry's body at most: base LSN and time, the entry's differences, its length.
pub const CHUNK_OVERHEAD: usize = 45;

const _: () = assert!(2 * RECORD_BYTES_MAX <= CHUNK_PLAIN_BYTES_MAX - CHUNK_BYTES);

/// The digest that an index entry holds of its chunk: XXH3-64 of the bytes as stored. It is there to notice damage,
/// which it does as surely as 64 bits of a cryptographic hash, at a fraction of the work; the proof of a whole segment
/// is the BLAKE3 in its footer and in the manifest.
#[must_use]
pub fn digest(stored: &[u8]) -> u64 {
    twox_hash::XxHash3_64::oneshot(stored)
}

/// An entry as it stands in a chunk, its body not yet decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChunkEntry<'a> {
    /// Its position in the order of all.
    pub lsn: Lsn,
    /// The time of its frame.
    pub time: TimeUs,
    /// The body, as in the journal: see [`super::entry::Entry::decode`].
    pub body: &'a [u8],
}

/// Splits a decompressed chunk into its entries. Ends after the first error.
#[derive(Clone, Debug)]
pub struct ChunkEntries<'a> {
    reader: Reader<'a>,
    /// The previous entry's LSN and time; None until the base is read.
    previous: Option<(u64, u64)>,
}

impl<'a> ChunkEntries<'a> {
    /// Starts at the first entry of the decompressed chunk.
    #[must_use]
    pub fn new(plain: &'a [u8]) -> Self {
        Self { reader: Reader::new(plain), previous: None }
    }

    fn entry(&mut self) -> Decoded<ChunkEntry<'a>> {
        let reader = &mut self.reader;
        let (lsn, time) = match self.previous {
            Some(previous) => previous,
            None => (reader.varint()?, reader.varint()?),
        };
        let add = |reader: &mut Reader<'_>, base: u64| {
            let more = reader.varint()?;
            base.checked_add(more).ok_or_else(|| reader.malformed("a number beyond 64 bits"))
        };
        let (lsn, time) = (add(reader, lsn)?, add(reader, time)?);
        self.previous = Some((lsn, time));
        Ok(ChunkEntry { lsn: Lsn(lsn), time: TimeUs(time), body: reader.bytes(CHUNK_PLAIN_BYTES_MAX)? })
    }
}

impl<'a> Iterator for ChunkEntries<'a> {
    type Item = Decoded<ChunkEntry<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.reader.left() == 0 {
            return None;
        }
        let entry = self.entry();
        if entry.is_err() {
            self.reader = Reader::new(&[]);
        }
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::super::bytes::Sink;
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn entries_never_panic_and_end_after_an_error(bytes: Vec<u8>) {
            let entries: Vec<_> = ChunkEntries::new(&bytes).collect();
            let good = entries.iter().take_while(|e| e.is_ok()).count();
            prop_assert!(entries.len() <= good + 1);
        }
    }

    #[test]
    fn differences_add_up_and_not_beyond_64_bits() {
        let mut bytes = Vec::new();
        for number in [u64::MAX - 1, 7, 0, 0] {
            bytes.put_varint(number);
        }
        bytes.put_bytes(b"a");
        for (lsn, time) in [(1, 3), (1, 0)] {
            bytes.put_varint(lsn);
            bytes.put_varint(time);
            bytes.put_bytes(b"b");
        }
        let entries: Vec<_> = ChunkEntries::new(&bytes).collect();
        assert_eq!(entries[0], Ok(ChunkEntry { lsn: Lsn(u64::MAX - 1), time: TimeUs(7), body: b"a" }));
        assert_eq!(entries[1], Ok(ChunkEntry { lsn: Lsn(u64::MAX), time: TimeUs(10), body: b"b" }));
        assert!(entries[2].is_err() && entries.len() == 3);
    }
}
