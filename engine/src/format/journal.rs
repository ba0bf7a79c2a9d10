//! The header of a journal file: one block, written when a use of the file begins. docs/FORMAT.md, "Journal file".
//!
//! Recovery does not depend on it: each frame names the use, the store and its predecessor as well.

use super::bytes::{get_array, get_u16, get_u32, get_u64, put_u16, put_u32, put_u64};
use super::frame::{FrameRef, salted_crc};
use super::{Decoded, FORMAT_VERSION, Features, Malformed};
use crate::types::{BLOCK, FrameNo, JournalId, Lsn, StoreId, Timeline};

const MAGIC_AT: usize = 0;
const FORMAT_AT: usize = MAGIC_AT + 8;
const FORMAT_ZEROS_AT: usize = FORMAT_AT + 2;
const FEATURES_AT: usize = FORMAT_ZEROS_AT + 6;
const STORE_AT: usize = FEATURES_AT + 24;
const JOURNAL_AT: usize = STORE_AT + 16;
const FILE_BYTES_AT: usize = JOURNAL_AT + 8;
const TIMELINE_AT: usize = FILE_BYTES_AT + 8;
const LEFT_JOURNAL_AT: usize = TIMELINE_AT + 8;
const LEFT_POSITION_AT: usize = LEFT_JOURNAL_AT + 8;
const LEFT_LEN_AT: usize = LEFT_POSITION_AT + 8;
const LEFT_FRAME_AT: usize = LEFT_LEN_AT + 8;
const LEFT_LSN_AT: usize = LEFT_FRAME_AT + 8;
const LEFT_HASH_AT: usize = LEFT_LSN_AT + 8;
const ZEROS_AT: usize = LEFT_HASH_AT + 16;
const CRC_AT: usize = BLOCK - 4;

const MAGIC: &[u8; 8] = b"EVLGJRNL";

/// The first frame's byte offset in a journal file.
pub const FIRST_FRAME_AT: u64 = BLOCK as u64;

/// A journal file's header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalHeader {
    /// Feature bits of the store.
    pub features: Features,
    /// The store.
    pub store: StoreId,
    /// This use of the file.
    pub journal: JournalId,
    /// The file's size in bytes.
    pub file_bytes: u64,
    /// The timeline of its frames.
    pub timeline: Timeline,
    /// The frame after which the journal goes on here; frame 0 if the journal begins here.
    pub left: FrameRef,
}

impl JournalHeader {
    /// The block.
    #[must_use]
    pub fn encode(&self, salt: u32) -> [u8; BLOCK] {
        let mut out = [0; BLOCK];
        out[MAGIC_AT..MAGIC_AT + 8].copy_from_slice(MAGIC);
        put_u16(&mut out, FORMAT_AT, FORMAT_VERSION);
        self.features.put(&mut out, FEATURES_AT);
        out[STORE_AT..STORE_AT + 16].copy_from_slice(&self.store.0);
        put_u64(&mut out, JOURNAL_AT, self.journal.0);
        put_u64(&mut out, FILE_BYTES_AT, self.file_bytes);
        put_u32(&mut out, TIMELINE_AT, self.timeline.counter);
        put_u32(&mut out, TIMELINE_AT + 4, self.timeline.random);
        put_u64(&mut out, LEFT_JOURNAL_AT, self.left.journal.0);
        put_u64(&mut out, LEFT_POSITION_AT, self.left.position);
        put_u64(&mut out, LEFT_LEN_AT, u64::from(self.left.frame_len));
        put_u64(&mut out, LEFT_FRAME_AT, self.left.frame.0);
        put_u64(&mut out, LEFT_LSN_AT, self.left.last_lsn.0);
        out[LEFT_HASH_AT..LEFT_HASH_AT + 16].copy_from_slice(&self.left.hash);
        let crc = salted_crc(salt, &out[..CRC_AT]);
        put_u32(&mut out, CRC_AT, crc);
        out
    }

    /// Format and features of a block that is a journal file's header by magic and checksum, whatever else it holds.
    pub fn peek(buf: &[u8], salt_of: impl Fn(JournalId) -> u32) -> Option<(u16, Features)> {
        if buf.len() < BLOCK || &buf[MAGIC_AT..MAGIC_AT + 8] != MAGIC {
            return None;
        }
        let salt = salt_of(JournalId(get_u64(buf, JOURNAL_AT)));
        let intact = get_u32(buf, CRC_AT) == salted_crc(salt, &buf[..CRC_AT]);
        intact.then(|| (get_u16(buf, FORMAT_AT), Features::get(buf, FEATURES_AT)))
    }

    /// Reads the block. `salt_of` gives the salt of the use that the block claims.
    pub fn decode(buf: &[u8], store: StoreId, salt_of: impl Fn(JournalId) -> u32) -> Decoded<Self> {
        let wrong = |what, at| Err(Malformed { what, at });
        if buf.len() < BLOCK || &buf[MAGIC_AT..MAGIC_AT + 8] != MAGIC {
            return wrong("no journal's magic", MAGIC_AT);
        }
        let journal = JournalId(get_u64(buf, JOURNAL_AT));
        if get_u32(buf, CRC_AT) != salted_crc(salt_of(journal), &buf[..CRC_AT]) {
            return wrong("the header's checksum is wrong", CRC_AT);
        }
        if get_u16(buf, FORMAT_AT) != FORMAT_VERSION {
            return wrong("a format that this version does not know", FORMAT_AT);
        }
        if get_array::<16>(buf, STORE_AT) != store.0 {
            return wrong("a journal of another store", STORE_AT);
        }
        let zeros = [&buf[FORMAT_ZEROS_AT..FEATURES_AT], &buf[ZEROS_AT..CRC_AT]];
        if zeros.into_iter().flatten().any(|b| *b != 0) {
            return wrong("bytes that should be zero are not", ZEROS_AT);
        }
        let Ok(left_len) = u32::try_from(get_u64(buf, LEFT_LEN_AT)) else {
            return wrong("a frame longer than a frame can be", LEFT_LEN_AT);
        };
        Ok(Self {
            features: Features::get(buf, FEATURES_AT),
            store,
            journal,
            file_bytes: get_u64(buf, FILE_BYTES_AT),
            timeline: Timeline { counter: get_u32(buf, TIMELINE_AT), random: get_u32(buf, TIMELINE_AT + 4) },
            left: FrameRef {
                journal: JournalId(get_u64(buf, LEFT_JOURNAL_AT)),
                position: get_u64(buf, LEFT_POSITION_AT),
                frame_len: left_len,
                frame: FrameNo(get_u64(buf, LEFT_FRAME_AT)),
                last_lsn: Lsn(get_u64(buf, LEFT_LSN_AT)),
                hash: get_array(buf, LEFT_HASH_AT),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_damaged_byte_is_noticed() {
        let header = JournalHeader {
            features: Features::KNOWN,
            store: StoreId([5; 16]),
            journal: JournalId(2),
            file_bytes: 1 << 20,
            timeline: Timeline { counter: 1, random: 77 },
            left: FrameRef { journal: JournalId(1), position: 4096, frame: FrameNo(1), ..FrameRef::default() },
        };
        let good = header.encode(1234);
        let read = |buf: &[u8]| JournalHeader::decode(buf, StoreId([5; 16]), |_| 1234);
        assert_eq!(read(&good), Ok(header));
        for at in 0..good.len() {
            let mut bad = good;
            bad[at] ^= 4;
            assert!(read(&bad).is_err(), "byte {at}");
        }
    }
    #[test]
    fn what_should_be_zero_is_checked_even_under_a_right_checksum() {
        let header = JournalHeader {
            features: Features::KNOWN,
            store: StoreId([5; 16]),
            journal: JournalId(2),
            file_bytes: 1 << 20,
            timeline: Timeline::default(),
            left: FrameRef::default(),
        };
        for at in (FORMAT_ZEROS_AT..FEATURES_AT).chain([ZEROS_AT, CRC_AT - 1]) {
            let mut bad = header.encode(1234);
            bad[at] = 1;
            let crc = salted_crc(1234, &bad[..CRC_AT]);
            put_u32(&mut bad, CRC_AT, crc);
            assert!(JournalHeader::decode(&bad, StoreId([5; 16]), |_| 1234).is_err(), "byte {at}");
        }
    }
}
