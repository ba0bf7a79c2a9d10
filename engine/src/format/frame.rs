//! The frame: one group commit in the journal. docs/FORMAT.md, "Frame".
//!
//! This file lays out the header and checks it; what a frame's place in the chain means is recovery's business.

use super::bytes::{get_array, get_u16, get_u32, get_u64, put_u16, put_u32, put_u64};
use super::{Decoded, FORMAT_VERSION, Malformed};
use crate::types::{BLOCK, Epoch, FrameNo, JournalId, Lsn, ManifestVersion, StoreId, TimeUs, Timeline};

const MAGIC_AT: usize = 0;
const FORMAT_AT: usize = MAGIC_AT + 8;
const FLAGS_AT: usize = FORMAT_AT + 2;
const HEADER_LEN_AT: usize = FLAGS_AT + 2;
const DEPTH_AT: usize = HEADER_LEN_AT + 2;
const STORE_AT: usize = DEPTH_AT + 2;
const JOURNAL_AT: usize = STORE_AT + 16;
const POSITION_AT: usize = JOURNAL_AT + 8;
const FRAME_NO_AT: usize = POSITION_AT + 8;
const FIRST_LSN_AT: usize = FRAME_NO_AT + 8;
const ENTRIES_AT: usize = FIRST_LSN_AT + 8;
const BATCHES_AT: usize = ENTRIES_AT + 4;
const PAYLOAD_LEN_AT: usize = BATCHES_AT + 4;
const FRAME_LEN_AT: usize = PAYLOAD_LEN_AT + 4;
const EPOCH_AT: usize = FRAME_LEN_AT + 4;
const TIMELINE_AT: usize = EPOCH_AT + 8;
const TIME_AT: usize = TIMELINE_AT + 8;
const WATERMARK_LSN_AT: usize = TIME_AT + 8;
const WATERMARK_FRAME_AT: usize = WATERMARK_LSN_AT + 8;
const MANIFEST_AT: usize = WATERMARK_FRAME_AT + 8;
const PREV_JOURNAL_AT: usize = MANIFEST_AT + 8;
const PREV_POSITION_AT: usize = PREV_JOURNAL_AT + 8;
const PREV_HASH_AT: usize = PREV_POSITION_AT + 8;
const STEADY_AT: usize = PREV_HASH_AT + 16;
const RESERVED_AT: usize = STEADY_AT + 8;
const PAYLOAD_CRC_AT: usize = RESERVED_AT + 16;
const HEADER_CRC_AT: usize = PAYLOAD_CRC_AT + 4;

/// The header's length, in bytes; the payload follows it at once.
pub const HEADER_LEN: usize = HEADER_CRC_AT + 4;

const _: () = assert!(HEADER_LEN == crate::limits::FRAME_HEADER_BYTES);

const MAGIC: &[u8; 8] = b"EVLGFRAM";

/// The frame of an open: the first one a process writes.
pub const FLAG_OPEN: u16 = 1;
/// The frame of a clean close: the last one a process writes.
pub const FLAG_CLOSE: u16 = 2;
/// Every flag this version knows.
const FLAGS_KNOWN: u16 = FLAG_OPEN | FLAG_CLOSE;

/// Where a frame stands and how its header hashes: what its successor must name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameRef {
    /// The use of the journal file it lies in.
    pub journal: JournalId,
    /// Its byte offset in that file.
    pub position: u64,
    /// Its length in bytes, a multiple of [`BLOCK`]. Not part of the chain: a successor does not name it.
    pub frame_len: u32,
    /// Its number.
    pub frame: FrameNo,
    /// The last LSN at or before it.
    pub last_lsn: Lsn,
    /// The first 16 bytes of the BLAKE3 of its header.
    pub hash: [u8; 16],
}

/// A frame's header.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FrameHeader {
    /// [`FLAG_OPEN`], [`FLAG_CLOSE`].
    pub flags: u16,
    /// How many frames the writer keeps in flight at most: frame n + depth is not begun before n is durable.
    pub depth: u16,
    /// The store.
    pub store: StoreId,
    /// The use of the journal file.
    pub journal: JournalId,
    /// The frame's byte offset in the file.
    pub position: u64,
    /// The frame's number, one more than its predecessor's.
    pub frame: FrameNo,
    /// The LSN of the first entry, or what it would be if there are none.
    pub first_lsn: Lsn,
    /// Entries in the frame; the LSNs are dense.
    pub entries: u32,
    /// Batches in the frame.
    pub batches: u32,
    /// Bytes of payload.
    pub payload_len: u32,
    /// Bytes of the whole frame: header, payload and zeros up to a multiple of [`BLOCK`].
    pub frame_len: u32,
    /// The epoch of the writer; 0 without a cold store.
    pub epoch: Epoch,
    /// The timeline that the entries belong to.
    pub timeline: Timeline,
    /// When the frame was sealed; never less than its predecessor's.
    pub time: TimeUs,
    /// All entries up to this LSN were durable when the frame was sealed.
    pub watermark: Lsn,
    /// All frames up to this one were durable when the frame was sealed.
    pub watermark_frame: FrameNo,
    /// The manifest version in force.
    pub manifest: ManifestVersion,
    /// The predecessor's use of a journal file.
    pub prev_journal: JournalId,
    /// The predecessor's byte offset.
    pub prev_position: u64,
    /// The predecessor's header hash.
    pub prev_hash: [u8; 16],
    /// The steady clock when the frame was sealed: see [`crate::clock::Steady`].
    pub steady: TimeUs,
}

impl FrameHeader {
    /// The last LSN at or before this frame.
    #[must_use]
    pub fn last_lsn(&self) -> Lsn {
        Lsn(self.first_lsn.0 + u64::from(self.entries) - 1)
    }

    /// Writes the header and both checksums into `frame`, which holds the payload from [`HEADER_LEN`] on and zeros
    /// behind it, `frame_len` bytes in all. Returns what a successor must name.
    pub fn seal(&self, frame: &mut [u8], salt: u32) -> FrameRef {
        assert_eq!(frame.len(), self.frame_len as usize, "a frame is sealed at its full length");
        assert!(frame.len().is_multiple_of(BLOCK) && HEADER_LEN + self.payload_len as usize <= frame.len());
        let buf = &mut frame[..HEADER_LEN];
        buf.fill(0);
        buf[MAGIC_AT..MAGIC_AT + 8].copy_from_slice(MAGIC);
        put_u16(buf, FORMAT_AT, FORMAT_VERSION);
        put_u16(buf, FLAGS_AT, self.flags);
        put_u16(buf, HEADER_LEN_AT, HEADER_LEN as u16);
        put_u16(buf, DEPTH_AT, self.depth);
        buf[STORE_AT..STORE_AT + 16].copy_from_slice(&self.store.0);
        put_u64(buf, JOURNAL_AT, self.journal.0);
        put_u64(buf, POSITION_AT, self.position);
        put_u64(buf, FRAME_NO_AT, self.frame.0);
        put_u64(buf, FIRST_LSN_AT, self.first_lsn.0);
        put_u32(buf, ENTRIES_AT, self.entries);
        put_u32(buf, BATCHES_AT, self.batches);
        put_u32(buf, PAYLOAD_LEN_AT, self.payload_len);
        put_u32(buf, FRAME_LEN_AT, self.frame_len);
        put_u64(buf, EPOCH_AT, self.epoch.0);
        put_u32(buf, TIMELINE_AT, self.timeline.counter);
        put_u32(buf, TIMELINE_AT + 4, self.timeline.random);
        put_u64(buf, TIME_AT, self.time.0);
        put_u64(buf, WATERMARK_LSN_AT, self.watermark.0);
        put_u64(buf, WATERMARK_FRAME_AT, self.watermark_frame.0);
        put_u64(buf, MANIFEST_AT, self.manifest.0);
        put_u64(buf, PREV_JOURNAL_AT, self.prev_journal.0);
        put_u64(buf, PREV_POSITION_AT, self.prev_position);
        buf[PREV_HASH_AT..PREV_HASH_AT + 16].copy_from_slice(&self.prev_hash);
        put_u64(buf, STEADY_AT, self.steady.0);
        let payload_crc = salted_crc(salt, &frame[HEADER_LEN..]);
        put_u32(frame, PAYLOAD_CRC_AT, payload_crc);
        let header_crc = salted_crc(salt, &frame[..HEADER_CRC_AT]);
        put_u32(frame, HEADER_CRC_AT, header_crc);
        self.as_ref(header_hash(&frame[..HEADER_LEN]))
    }

    /// This frame as its successor names it.
    #[must_use]
    pub fn as_ref(&self, hash: [u8; 16]) -> FrameRef {
        FrameRef {
            journal: self.journal,
            position: self.position,
            frame_len: self.frame_len,
            frame: self.frame,
            last_lsn: self.last_lsn(),
            hash,
        }
    }

    /// Whether it names `before` as its predecessor: rule 10.
    #[must_use]
    pub fn names_as_predecessor(&self, before: &FrameRef) -> bool {
        match before.frame {
            FrameNo(0) => self.prev_journal == JournalId(0),
            _ => {
                self.prev_journal == before.journal
                    && self.prev_position == before.position
                    && self.prev_hash == before.hash
            }
        }
    }

    /// Whether its numbers follow those of `before`: rules 9 and 11.
    #[must_use]
    pub fn is_numbered_after(&self, before: &FrameRef) -> bool {
        self.frame.0 == before.frame.0 + 1 && self.first_lsn.0 == before.last_lsn.0 + 1
    }

    /// Whether it continues a chain that ends with `before`: rules 9 to 11 of "It continues the chain if and only if".
    #[must_use]
    pub fn continues(&self, before: &FrameRef) -> bool {
        self.names_as_predecessor(before) && self.is_numbered_after(before)
    }

    /// The use of a journal file and the offset in it that the bytes at the start of `buf` claim, if they bear a frame's
    /// magic: to be believed only once [`Self::decode`] accepts them under that use's salt.
    #[must_use]
    pub fn claimed_place(buf: &[u8]) -> Option<(JournalId, u64)> {
        let claims = buf.len() >= HEADER_LEN && &buf[MAGIC_AT..MAGIC_AT + 8] == MAGIC;
        claims.then(|| (JournalId(get_u64(buf, JOURNAL_AT)), get_u64(buf, POSITION_AT)))
    }

    /// Whether the bytes at the start of `buf` look like the damaged header of a frame of this store, this use and this
    /// place: three of magic, store, use and position are right, so that one damaged field does not hide the frame.
    #[must_use]
    pub fn resembles(buf: &[u8], store: StoreId, journal: JournalId, position: u64) -> bool {
        let alike = [
            buf.starts_with(MAGIC),
            buf.len() >= HEADER_LEN && get_array::<16>(buf, STORE_AT) == store.0,
            buf.len() >= HEADER_LEN && get_u64(buf, JOURNAL_AT) == journal.0,
            buf.len() >= HEADER_LEN && get_u64(buf, POSITION_AT) == position,
        ];
        alike.iter().filter(|a| **a).count() >= 3
    }

    /// Reads the header at the start of `buf`, which was found at byte `position` of a journal file. `buf` may go on
    /// past the header; the payload is not looked at. Rules 1 to 7 of "A frame is valid if and only if".
    pub fn decode(buf: &[u8], store: StoreId, journal: JournalId, salt: u32, position: u64) -> Decoded<Self> {
        let wrong = |what, at| Err(Malformed { what, at });
        if buf.len() < HEADER_LEN || &buf[MAGIC_AT..MAGIC_AT + 8] != MAGIC {
            return wrong("no frame's magic", MAGIC_AT);
        }
        if get_u32(buf, HEADER_CRC_AT) != salted_crc(salt, &buf[..HEADER_CRC_AT]) {
            return wrong("the header's checksum is wrong", HEADER_CRC_AT);
        }
        if get_u16(buf, FORMAT_AT) != FORMAT_VERSION || get_u16(buf, FLAGS_AT) & !FLAGS_KNOWN != 0 {
            return wrong("a format that this version does not know", FORMAT_AT);
        }
        if get_array::<16>(buf, STORE_AT) != store.0 {
            return wrong("a frame of another store", STORE_AT);
        }
        if get_u64(buf, JOURNAL_AT) != journal.0 {
            return wrong("a frame of another use of the file", JOURNAL_AT);
        }
        if get_u64(buf, POSITION_AT) != position {
            return wrong("a frame of another place", POSITION_AT);
        }
        let header = Self {
            flags: get_u16(buf, FLAGS_AT),
            depth: get_u16(buf, DEPTH_AT),
            store,
            journal,
            position,
            frame: FrameNo(get_u64(buf, FRAME_NO_AT)),
            first_lsn: Lsn(get_u64(buf, FIRST_LSN_AT)),
            entries: get_u32(buf, ENTRIES_AT),
            batches: get_u32(buf, BATCHES_AT),
            payload_len: get_u32(buf, PAYLOAD_LEN_AT),
            frame_len: get_u32(buf, FRAME_LEN_AT),
            epoch: Epoch(get_u64(buf, EPOCH_AT)),
            timeline: Timeline { counter: get_u32(buf, TIMELINE_AT), random: get_u32(buf, TIMELINE_AT + 4) },
            time: TimeUs(get_u64(buf, TIME_AT)),
            watermark: Lsn(get_u64(buf, WATERMARK_LSN_AT)),
            watermark_frame: FrameNo(get_u64(buf, WATERMARK_FRAME_AT)),
            manifest: ManifestVersion(get_u64(buf, MANIFEST_AT)),
            prev_journal: JournalId(get_u64(buf, PREV_JOURNAL_AT)),
            prev_position: get_u64(buf, PREV_POSITION_AT),
            prev_hash: get_array(buf, PREV_HASH_AT),
            steady: TimeUs(get_u64(buf, STEADY_AT)),
        };
        let fits = (header.frame_len as usize).is_multiple_of(BLOCK)
            && HEADER_LEN as u64 + u64::from(header.payload_len) <= u64::from(header.frame_len)
            && usize::from(get_u16(buf, HEADER_LEN_AT)) == HEADER_LEN;
        // A successor has a number and an LSN of its own.
        let counts = header.frame.0 < u64::MAX && header.first_lsn.0.checked_add(u64::from(header.entries)).is_some();
        if !fits || !counts || header.frame.0 == 0 || header.first_lsn.0 == 0 || header.depth == 0 {
            return wrong("lengths or numbers that contradict each other", ENTRIES_AT);
        }
        if buf[RESERVED_AT..PAYLOAD_CRC_AT].iter().any(|b| *b != 0) {
            return wrong("bytes that should be zero are not", RESERVED_AT);
        }
        Ok(header)
    }

    /// Whether `buf` begins with a frame's header that is right in all that each version has in its place (magic,
    /// checksum, store, use and position), and has a format or a flag that this one does not know: a later version wrote
    /// it, and it is neither torn nor damaged.
    #[must_use]
    pub fn is_of_a_later_version(buf: &[u8], store: StoreId, journal: JournalId, salt: u32, position: u64) -> bool {
        buf.len() >= HEADER_LEN
            && &buf[MAGIC_AT..MAGIC_AT + 8] == MAGIC
            && get_u32(buf, HEADER_CRC_AT) == salted_crc(salt, &buf[..HEADER_CRC_AT])
            && (get_u16(buf, FORMAT_AT) != FORMAT_VERSION || get_u16(buf, FLAGS_AT) & !FLAGS_KNOWN != 0)
            && get_array::<16>(buf, STORE_AT) == store.0
            && get_u64(buf, JOURNAL_AT) == journal.0
            && get_u64(buf, POSITION_AT) == position
    }

    /// Whether the payload and padding of the whole `frame` match its checksum: rule 8.
    #[must_use]
    pub fn payload_intact(&self, frame: &[u8], salt: u32) -> bool {
        frame.len() == self.frame_len as usize
            && get_u32(frame, PAYLOAD_CRC_AT) == salted_crc(salt, &frame[HEADER_LEN..])
    }
}

/// The bytes of a frame that carries `payload_len` bytes of payload: up to the next multiple of [`BLOCK`].
#[must_use]
pub const fn frame_len(payload_len: usize) -> usize {
    (HEADER_LEN + payload_len).next_multiple_of(BLOCK)
}

/// The hash that a successor names: the first 16 bytes of the BLAKE3 of the header.
#[must_use]
pub fn header_hash(header: &[u8]) -> [u8; 16] {
    get_array(blake3::hash(&header[..HEADER_LEN]).as_bytes(), 0)
}

/// CRC-32 of `bytes`, begun at `salt`.
#[must_use]
pub fn salted_crc(salt: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(salt);
    hasher.update(bytes);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> (FrameHeader, Vec<u8>) {
        let header = FrameHeader {
            flags: FLAG_OPEN,
            depth: 2,
            store: StoreId([1; 16]),
            journal: JournalId(7),
            position: 8192,
            frame: FrameNo(3),
            first_lsn: Lsn(10),
            entries: 2,
            batches: 1,
            payload_len: 100,
            frame_len: 4096,
            watermark: Lsn(9),
            watermark_frame: FrameNo(2),
            steady: TimeUs(4),
            ..FrameHeader::default()
        };
        let mut frame = vec![0; 4096];
        frame[HEADER_LEN..HEADER_LEN + 100].fill(0xab);
        header.seal(&mut frame, 99);
        (header, frame)
    }

    #[test]
    fn a_header_comes_back_and_each_damaged_byte_is_noticed() {
        let (header, mut frame) = sample();
        let read = |frame: &[u8]| FrameHeader::decode(frame, StoreId([1; 16]), JournalId(7), 99, 8192);
        assert_eq!(read(&frame), Ok(header.clone()));
        assert!(header.payload_intact(&frame, 99));
        for at in 0..frame.len() {
            frame[at] ^= 1;
            assert!(read(&frame).is_err() || !header.payload_intact(&frame, 99), "byte {at}");
            frame[at] ^= 1;
        }
    }

    #[test]
    fn another_salt_place_use_or_store_is_refused() {
        let (_, frame) = sample();
        let (store, journal) = (StoreId([1; 16]), JournalId(7));
        assert!(FrameHeader::decode(&frame, store, journal, 98, 8192).is_err());
        assert!(FrameHeader::decode(&frame, store, journal, 99, 4096).is_err());
        assert!(FrameHeader::decode(&frame, store, JournalId(8), 99, 8192).is_err());
        assert!(FrameHeader::decode(&frame, StoreId([2; 16]), journal, 99, 8192).is_err());
    }
    #[test]
    fn a_frame_after_which_nothing_can_be_counted_is_refused() {
        let (header, mut frame) = sample();
        let read = |frame: &[u8]| FrameHeader::decode(frame, StoreId([1; 16]), JournalId(7), 99, 8192);
        for (number, first_lsn, taken) in
            [(u64::MAX, 10, false), (u64::MAX - 1, 10, true), (3, u64::MAX - 1, false), (3, u64::MAX - 2, true)]
        {
            let header = FrameHeader { frame: FrameNo(number), first_lsn: Lsn(first_lsn), ..header.clone() };
            // Sealed by hand: what a frame is known by to its successor cannot be told of each of these.
            put_u64(&mut frame, FRAME_NO_AT, number);
            put_u64(&mut frame, FIRST_LSN_AT, first_lsn);
            let crc = salted_crc(99, &frame[..HEADER_CRC_AT]);
            put_u32(&mut frame, HEADER_CRC_AT, crc);
            assert_eq!(read(&frame).ok(), taken.then_some(header), "frame {number}, LSN {first_lsn}");
        }
    }
}
