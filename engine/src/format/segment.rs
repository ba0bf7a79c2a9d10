//! A segment's layout: header, footer, index entries, chunks, names, and the meta stream. docs/FORMAT.md, "Segment".
//!
//! Blocks are `format/block.rs`, state records `format/state.rs`, the filter `segment/filter.rs`. Nothing here knows a
//! file. Invariant: what is decoded is bounded by the bytes given.

use super::block::{BODY_LEN, Section};
use super::bytes::{Reader, Sink, get_array, get_u16, get_u32, get_u64, put_u16, put_u32, put_u64, varint_len};
use super::manifest::{SegmentMeta, TIMELINE_LEN, TimelineStart};
use super::state::StateRecord;
use super::{Decoded, FORMAT_VERSION, Features, Malformed};
use crate::limits::NAME_BYTES_MAX;
use crate::types::{LogId, Lsn, SegmentId, Seq, StoreId, TimeUs, Timeline};

const HEADER_MAGIC: &[u8; 8] = b"EVLGSEGM";
const FOOTER_MAGIC: &[u8; 8] = b"EVLGSEGF";

/// What stands in front of both header and footer: magic, format, zeros, feature bits, store id, segment id, LSNs.
const MAGIC_AT: usize = 0;
const FORMAT_AT: usize = MAGIC_AT + 8;
const ZEROS_AT: usize = FORMAT_AT + 2;
const FEATURES_AT: usize = ZEROS_AT + 6;
const STORE_AT: usize = FEATURES_AT + 24;
const SEGMENT_AT: usize = STORE_AT + 16;
const FIRST_LSN_AT: usize = SEGMENT_AT + 8;
const LAST_LSN_AT: usize = FIRST_LSN_AT + 8;
/// The header's body, in bytes.
pub const HEADER_LEN: usize = LAST_LSN_AT + 8;

const FIRST_TIME_AT: usize = HEADER_LEN;
const LAST_TIME_AT: usize = FIRST_TIME_AT + 8;
const LOGS_AT: usize = LAST_TIME_AT + 8;
const RECORDS_AT: usize = LOGS_AT + 8;
const ENTRIES_AT: usize = RECORDS_AT + 8;
const PAYLOAD_AT: usize = ENTRIES_AT + 8;
const ENDS_AT: usize = PAYLOAD_AT + 8;
const PLACES_AT: usize = ENDS_AT + 8;
const DATA_BYTES_AT: usize = PLACES_AT + 4 * 16;
const META_BYTES_AT: usize = DATA_BYTES_AT + 8;
const DIGEST_AT: usize = META_BYTES_AT + 8;
/// The footer's body, in bytes.
pub const FOOTER_LEN: usize = DIGEST_AT + 32;

const _: () = assert!(HEADER_LEN == 80 && FOOTER_LEN == 248 && FOOTER_LEN <= BODY_LEN);

/// What header and footer both say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The version of the format that the segment is written in.
    pub format: u16,
    /// Feature bits of the store.
    pub features: Features,
    /// The store.
    pub store: StoreId,
    /// The segment.
    pub id: SegmentId,
    /// The first LSN that it covers.
    pub first_lsn: Lsn,
    /// The last LSN that it covers.
    pub last_lsn: Lsn,
}

impl Header {
    /// The body of the header block.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        self.put(&mut out, HEADER_MAGIC);
        out
    }

    /// Reads the body of the header block. A format or feature that this version does not know is not an error here.
    pub fn decode(body: &[u8]) -> Decoded<Self> {
        if body.len() != HEADER_LEN {
            return Err(Malformed { what: "a header of another length", at: body.len() });
        }
        Self::get(body, HEADER_MAGIC)
    }

    fn put(&self, out: &mut [u8], magic: &[u8; 8]) {
        out[MAGIC_AT..MAGIC_AT + 8].copy_from_slice(magic);
        put_u16(out, FORMAT_AT, self.format);
        self.features.put(out, FEATURES_AT);
        out[STORE_AT..STORE_AT + 16].copy_from_slice(&self.store.0);
        put_u64(out, SEGMENT_AT, self.id.0);
        put_u64(out, FIRST_LSN_AT, self.first_lsn.0);
        put_u64(out, LAST_LSN_AT, self.last_lsn.0);
    }

    fn get(body: &[u8], magic: &[u8; 8]) -> Decoded<Self> {
        if &body[MAGIC_AT..MAGIC_AT + 8] != magic {
            return Err(Malformed { what: "no segment's magic", at: MAGIC_AT });
        }
        if body[ZEROS_AT..FEATURES_AT].iter().any(|b| *b != 0) {
            return Err(Malformed { what: "bytes that should be zero are not", at: ZEROS_AT });
        }
        Ok(Self {
            format: get_u16(body, FORMAT_AT),
            features: Features::get(body, FEATURES_AT),
            store: StoreId(get_array(body, STORE_AT)),
            id: SegmentId(get_u64(body, SEGMENT_AT)),
            first_lsn: Lsn(get_u64(body, FIRST_LSN_AT)),
            last_lsn: Lsn(get_u64(body, LAST_LSN_AT)),
        })
    }

    /// Whether this version can read the segment.
    #[must_use]
    pub fn readable(&self) -> bool {
        self.format == FORMAT_VERSION && self.features.readable()
    }
}

/// Where a part of the file lies, in blocks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Its first block.
    pub first: u64,
    /// How many blocks it has.
    pub blocks: u64,
}

impl Place {
    /// The block after its last.
    #[must_use]
    pub fn end(self) -> u64 {
        self.first + self.blocks
    }
}

/// Where the parts between header and footer lie, in the order of the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// The stripes.
    pub stripes: Place,
    /// Where each of them lies.
    pub root: Place,
    /// The names.
    pub names: Place,
    /// The meta stream.
    pub meta: Place,
}

impl Places {
    /// All of them, in the order of the file.
    #[must_use]
    pub fn all(&self) -> [Place; 4] {
        [self.stripes, self.root, self.names, self.meta]
    }

    /// What block `number`, which lies behind the stripes, belongs to.
    #[must_use]
    pub fn section_of(&self, number: u64) -> Section {
        let sections = [(self.root, Section::Root), (self.names, Section::Names), (self.meta, Section::Meta)];
        sections.iter().find(|(place, _)| number < place.end()).map_or(Section::Footer, |(_, section)| *section)
    }

    fn of([stripes, root, names, meta]: [Place; 4]) -> Self {
        Self { stripes, root, names, meta }
    }
}

/// A stripe as the root has it: some chunks that follow one another, with their index entries, their logs' state records
/// and the lookup block, in this order from behind the chunks on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stripe {
    /// The key of its first index entry.
    pub first: Key,
    /// The number of its lookup block, its last block.
    pub lookup: u64,
    /// Blocks of its index.
    pub index_blocks: u16,
    /// The length of its stream of state records, in bytes.
    pub state_bytes: u32,
}

/// A stripe's length in the root, in bytes. It begins with its key.
pub const STRIPE_LEN: usize = STRIPE_STATE_BYTES_AT + 4;
/// Stripes in a block of the root.
pub const STRIPES_PER_BLOCK: usize = BODY_LEN / STRIPE_LEN;
/// The most index blocks that a stripe has.
pub const STRIPE_INDEX_BLOCKS: usize = 23;
/// The most index entries that a stripe has.
pub const STRIPE_ENTRIES: usize = STRIPE_INDEX_BLOCKS * ENTRIES_PER_BLOCK;

const STRIPE_LOG_AT: usize = 0;
const STRIPE_FIRST_SEQ_AT: usize = STRIPE_LOG_AT + 16;
const STRIPE_LOOKUP_AT: usize = STRIPE_FIRST_SEQ_AT + 8;
const STRIPE_INDEX_BLOCKS_AT: usize = STRIPE_LOOKUP_AT + 8;
const STRIPE_ZEROS_AT: usize = STRIPE_INDEX_BLOCKS_AT + 2;
const STRIPE_STATE_BYTES_AT: usize = STRIPE_ZEROS_AT + 2;

const _: () = assert!(STRIPE_LEN == 40 && STRIPES_PER_BLOCK == 101 && STRIPE_ENTRIES == 1541);

impl Stripe {
    /// Its entry in the root.
    #[must_use]
    pub fn encode(&self) -> [u8; STRIPE_LEN] {
        let mut out = [0; STRIPE_LEN];
        out[STRIPE_LOG_AT..STRIPE_LOG_AT + 16].copy_from_slice(&self.first.log.0);
        put_u64(&mut out, STRIPE_FIRST_SEQ_AT, self.first.first_seq.0);
        put_u64(&mut out, STRIPE_LOOKUP_AT, self.lookup);
        put_u16(&mut out, STRIPE_INDEX_BLOCKS_AT, self.index_blocks);
        put_u32(&mut out, STRIPE_STATE_BYTES_AT, self.state_bytes);
        out
    }

    /// Reads the entry at the start of `buf`, which has at least [`STRIPE_LEN`] bytes, of the stripe that begins at block
    /// `begin`.
    pub fn decode(buf: &[u8], begin: u64) -> Decoded<Self> {
        let stripe = Self {
            first: Key::get(buf),
            lookup: get_u64(buf, STRIPE_LOOKUP_AT),
            index_blocks: get_u16(buf, STRIPE_INDEX_BLOCKS_AT),
            state_bytes: get_u32(buf, STRIPE_STATE_BYTES_AT),
        };
        if get_u16(buf, STRIPE_ZEROS_AT) != 0 {
            return Err(Malformed { what: "bytes that should be zero are not", at: STRIPE_ZEROS_AT });
        }
        let blocks = u64::from(stripe.index_blocks) + stripe.state_blocks();
        let fits = stripe.lookup >= begin && stripe.lookup - begin >= blocks;
        if !fits || !(1..=STRIPE_INDEX_BLOCKS).contains(&usize::from(stripe.index_blocks)) {
            return Err(Malformed { what: "a stripe whose parts do not fit it", at: STRIPE_LOOKUP_AT });
        }
        Ok(stripe)
    }

    /// Blocks of its state.
    #[must_use]
    pub fn state_blocks(&self) -> u64 {
        u64::from(self.state_bytes).div_ceil(BODY_LEN as u64)
    }

    /// Where its state lies.
    #[must_use]
    pub fn state(&self) -> Place {
        Place { first: self.lookup - self.state_blocks(), blocks: self.state_blocks() }
    }

    /// Where its index lies.
    #[must_use]
    pub fn index(&self) -> Place {
        let blocks = u64::from(self.index_blocks);
        Place { first: self.state().first - blocks, blocks }
    }
}

/// The footer: where everything is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Footer {
    /// What the header says as well.
    pub header: Header,
    /// The time of the first entry; 0 if there are none.
    pub first_time: TimeUs,
    /// The time of the last entry; 0 if there are none.
    pub last_time: TimeUs,
    /// Logs.
    pub logs: u64,
    /// Records.
    pub records: u64,
    /// Records and control operations.
    pub entries: u64,
    /// Bytes of the bodies of all entries.
    pub payload_bytes: u64,
    /// Index entries with [`FLAG_ENDS`] or [`FLAG_GONE`].
    pub ends: u64,
    /// Where the parts of the file lie.
    pub places: Places,
    /// Bytes of all chunks as stored.
    pub data_bytes: u64,
    /// Bytes of the meta stream.
    pub meta_bytes: u64,
    /// BLAKE3 of everything before the footer.
    pub digest: [u8; 32],
}

impl Footer {
    /// The body of the footer block.
    #[must_use]
    pub fn encode(&self) -> [u8; FOOTER_LEN] {
        let mut out = [0; FOOTER_LEN];
        self.header.put(&mut out, FOOTER_MAGIC);
        put_u64(&mut out, FIRST_TIME_AT, self.first_time.0);
        put_u64(&mut out, LAST_TIME_AT, self.last_time.0);
        put_u64(&mut out, LOGS_AT, self.logs);
        put_u64(&mut out, RECORDS_AT, self.records);
        put_u64(&mut out, ENTRIES_AT, self.entries);
        put_u64(&mut out, PAYLOAD_AT, self.payload_bytes);
        put_u64(&mut out, ENDS_AT, self.ends);
        for (i, place) in self.places.all().iter().enumerate() {
            put_u64(&mut out, PLACES_AT + 16 * i, place.first);
            put_u64(&mut out, PLACES_AT + 16 * i + 8, place.blocks);
        }
        put_u64(&mut out, DATA_BYTES_AT, self.data_bytes);
        put_u64(&mut out, META_BYTES_AT, self.meta_bytes);
        out[DIGEST_AT..DIGEST_AT + 32].copy_from_slice(&self.digest);
        out
    }

    /// Reads what the footer shares with the header, so that a format that is not known can be told from damage.
    pub fn decode_header(body: &[u8]) -> Decoded<Header> {
        if body.len() < HEADER_LEN {
            return Err(Malformed { what: "a footer too short to be one", at: body.len() });
        }
        Header::get(body, FOOTER_MAGIC)
    }

    /// Reads the body of the footer block, which is block `number` of the file.
    pub fn decode(body: &[u8], number: u64) -> Decoded<Self> {
        let header = Self::decode_header(body)?;
        if body.len() != FOOTER_LEN {
            return Err(Malformed { what: "a footer of another length", at: body.len() });
        }
        let mut places = [Place::default(); 4];
        let mut at = 1;
        for (i, place) in places.iter_mut().enumerate() {
            let field = PLACES_AT + 16 * i;
            *place = Place { first: get_u64(body, field), blocks: get_u64(body, field + 8) };
            if place.first != at || place.blocks > number.saturating_sub(at) {
                return Err(Malformed { what: "parts that do not follow one another", at: field });
            }
            at = place.end();
        }
        let footer = Self {
            header,
            first_time: TimeUs(get_u64(body, FIRST_TIME_AT)),
            last_time: TimeUs(get_u64(body, LAST_TIME_AT)),
            logs: get_u64(body, LOGS_AT),
            records: get_u64(body, RECORDS_AT),
            entries: get_u64(body, ENTRIES_AT),
            payload_bytes: get_u64(body, PAYLOAD_AT),
            ends: get_u64(body, ENDS_AT),
            places: Places::of(places),
            data_bytes: get_u64(body, DATA_BYTES_AT),
            meta_bytes: get_u64(body, META_BYTES_AT),
            digest: get_array(body, DIGEST_AT),
        };
        let fits = at == number
            && footer.meta_bytes.div_ceil(BODY_LEN as u64) == footer.places.meta.blocks
            && (footer.places.stripes.blocks == 0) == (footer.places.root.blocks == 0)
            && (footer.logs == 0) == (footer.places.root.blocks == 0);
        if fits { Ok(footer) } else { Err(Malformed { what: "lengths that contradict each other", at: PLACES_AT }) }
    }

    /// Whether the manifest says the same of the segment.
    #[must_use]
    pub fn agrees(&self, meta: &SegmentMeta) -> bool {
        let h = &self.header;
        (h.id, h.first_lsn, h.last_lsn) == (meta.id, meta.first_lsn, meta.last_lsn)
            && (self.first_time, self.last_time) == (meta.first_time, meta.last_time)
            && (self.logs, self.records, self.entries) == (meta.logs, meta.records, meta.entries)
            && (self.payload_bytes, self.ends) == (meta.payload_bytes, meta.ends)
    }
}

/// What index entries are sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// The log.
    pub log: LogId,
    /// The first seq.
    pub first_seq: Seq,
}

/// A key's length, in bytes.
pub const KEY_LEN: usize = 24;
/// An index entry's length, in bytes. It begins with its key.
pub const INDEX_ENTRY_LEN: usize = ENTRY_STATE_LSN_AT + 8;
/// Entries in an index block.
pub const ENTRIES_PER_BLOCK: usize = BODY_LEN / INDEX_ENTRY_LEN;

const ENTRY_LOG_AT: usize = 0;
const ENTRY_FIRST_SEQ_AT: usize = ENTRY_LOG_AT + 16;
const ENTRY_RECORDS_AT: usize = ENTRY_FIRST_SEQ_AT + 8;
const ENTRY_FLAGS_AT: usize = ENTRY_RECORDS_AT + 4;
const ENTRY_OFFSET_AT: usize = ENTRY_FLAGS_AT + 2;
const ENTRY_LEN_AT: usize = ENTRY_OFFSET_AT + 6;
const ENTRY_DIGEST_AT: usize = ENTRY_LEN_AT + 4;
const ENTRY_STATE_AT_AT: usize = ENTRY_DIGEST_AT + 8;
const ENTRY_STATE_LSN_AT: usize = ENTRY_STATE_AT_AT + 4;

const _: () = assert!(INDEX_ENTRY_LEN == 60 && ENTRIES_PER_BLOCK == 67);

/// The chunk is compressed.
pub const FLAG_COMPRESSED: u16 = 1;
/// It is the last chunk of the log in this segment.
pub const FLAG_LAST: u16 = 2;
/// It holds entries that are not records.
pub const FLAG_CONTROL: u16 = 4;
/// The log's state record is here and says that the log is deleted or trimmed; or the log is to expire, wherever that is
/// said.
pub const FLAG_ENDS: u16 = 8;
/// The log is gone: it has no chunk, and [`IndexEntry::gone`] is all that is known of it.
pub const FLAG_GONE: u16 = 16;
const FLAGS_KNOWN: u16 = FLAG_COMPRESSED | FLAG_LAST | FLAG_CONTROL | FLAG_ENDS | FLAG_GONE;

/// "The state record is not in this segment."
const STATE_ELSEWHERE: u32 = u32::MAX;

impl Key {
    /// The last key that a chunk of the log can have.
    #[must_use]
    pub fn last_of(log: LogId) -> Self {
        Self { log, first_seq: Seq(u64::MAX) }
    }

    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; KEY_LEN] {
        let mut out = [0; KEY_LEN];
        out[ENTRY_LOG_AT..ENTRY_LOG_AT + 16].copy_from_slice(&self.log.0);
        put_u64(&mut out, ENTRY_FIRST_SEQ_AT, self.first_seq.0);
        out
    }

    /// Reads the key at the start of `buf`.
    #[must_use]
    pub fn get(buf: &[u8]) -> Self {
        Self { log: LogId(get_array(buf, ENTRY_LOG_AT)), first_seq: Seq(get_u64(buf, ENTRY_FIRST_SEQ_AT)) }
    }
}

/// One chunk, as the index knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    /// The log.
    pub log: LogId,
    /// The seq of its first record; without records, the log's next seq.
    pub first_seq: Seq,
    /// Its records.
    pub records: u32,
    /// [`FLAG_COMPRESSED`], [`FLAG_LAST`], [`FLAG_CONTROL`], [`FLAG_ENDS`], [`FLAG_GONE`].
    pub flags: u16,
    /// The chunk's byte offset in the file, below 2^48.
    pub offset: u64,
    /// The chunk's length as stored, in bytes; 0 if there is no chunk, where a merge had to keep nothing of the log but
    /// its state.
    pub len: u32,
    /// XXH3-64 of the chunk as stored; of a log that is gone, the timeline of its last record.
    pub digest: u64,
    /// On the last chunk: the offset of the log's state record in the stripe's state stream, if it is in this
    /// segment.
    pub state_at: Option<u32>,
    /// On the last chunk: the LSN of the log's last change of state; the state record lies in the segment covering it.
    pub state_lsn: Lsn,
}

impl IndexEntry {
    /// The seq after its last record; on the last chunk, the log's next seq as of this segment.
    #[must_use]
    pub fn next_seq(&self) -> Seq {
        Seq(self.first_seq.0 + u64::from(self.records))
    }

    /// Whether it is the last chunk of the log in this segment.
    #[must_use]
    pub fn is_last(&self) -> bool {
        self.flags & FLAG_LAST != 0
    }

    /// Whether there is no chunk.
    #[must_use]
    pub fn is_hollow(&self) -> bool {
        self.len == 0
    }

    /// What is known of the log, if it is gone.
    #[must_use]
    pub fn gone(&self) -> Option<StateRecord> {
        let last = Timeline { counter: self.digest as u32, random: (self.digest >> 32) as u32 };
        (self.flags & FLAG_GONE != 0).then(|| StateRecord::gone(self.next_seq(), last))
    }

    /// Whether something of the log may be given back.
    #[must_use]
    pub fn ends(&self) -> bool {
        self.flags & (FLAG_ENDS | FLAG_GONE) != 0
    }

    /// Whether the chunk is compressed.
    #[must_use]
    pub fn is_compressed(&self) -> bool {
        self.flags & FLAG_COMPRESSED != 0
    }

    /// What it is sorted by.
    #[must_use]
    pub fn key(&self) -> Key {
        Key { log: self.log, first_seq: self.first_seq }
    }

    fn is_consistent(&self) -> bool {
        let has = |flag| self.flags & flag != 0;
        let hollow = self.records == 0 && self.is_last() && self.flags & (FLAG_COMPRESSED | FLAG_CONTROL) == 0;
        let gone = self.is_hollow() && self.state_at.is_none() && !has(FLAG_ENDS);
        (!self.is_hollow() || (hollow && (has(FLAG_GONE) || self.digest == 0)))
            && (!has(FLAG_GONE) || gone)
            && (!has(FLAG_ENDS) || self.is_last())
    }

    /// The entry's bytes. Panics on a state offset of 2^32 − 1, and on an offset of 2^48 or more.
    #[must_use]
    pub fn encode(&self) -> [u8; INDEX_ENTRY_LEN] {
        assert!(self.offset < 1 << 48 && self.state_at != Some(STATE_ELSEWHERE), "places fit their fields");
        let mut out = [0; INDEX_ENTRY_LEN];
        out[ENTRY_LOG_AT..ENTRY_LOG_AT + 16].copy_from_slice(&self.log.0);
        put_u64(&mut out, ENTRY_FIRST_SEQ_AT, self.first_seq.0);
        put_u32(&mut out, ENTRY_RECORDS_AT, self.records);
        put_u16(&mut out, ENTRY_FLAGS_AT, self.flags);
        out[ENTRY_OFFSET_AT..ENTRY_OFFSET_AT + 6].copy_from_slice(&self.offset.to_le_bytes()[..6]);
        put_u32(&mut out, ENTRY_LEN_AT, self.len);
        put_u64(&mut out, ENTRY_DIGEST_AT, self.digest);
        put_u32(&mut out, ENTRY_STATE_AT_AT, self.state_at.unwrap_or(STATE_ELSEWHERE));
        put_u64(&mut out, ENTRY_STATE_LSN_AT, self.state_lsn.0);
        out
    }

    /// Reads the entry at the start of `buf`, which has at least [`INDEX_ENTRY_LEN`] bytes.
    pub fn decode(buf: &[u8]) -> Decoded<Self> {
        let Key { log, first_seq } = Key::get(buf);
        let mut offset = [0; 8];
        offset[..6].copy_from_slice(&buf[ENTRY_OFFSET_AT..ENTRY_OFFSET_AT + 6]);
        let state_at = get_u32(buf, ENTRY_STATE_AT_AT);
        let entry = Self {
            log,
            first_seq,
            records: get_u32(buf, ENTRY_RECORDS_AT),
            flags: get_u16(buf, ENTRY_FLAGS_AT),
            offset: u64::from_le_bytes(offset),
            len: get_u32(buf, ENTRY_LEN_AT),
            digest: get_u64(buf, ENTRY_DIGEST_AT),
            state_at: (state_at != STATE_ELSEWHERE).then_some(state_at),
            state_lsn: Lsn(get_u64(buf, ENTRY_STATE_LSN_AT)),
        };
        if entry.flags & !FLAGS_KNOWN != 0 {
            return Err(Malformed { what: "an unknown flag of a chunk", at: ENTRY_FLAGS_AT });
        }
        if first_seq.0.checked_add(u64::from(entry.records)).is_none() {
            return Err(Malformed { what: "a seq beyond the last", at: ENTRY_FIRST_SEQ_AT });
        }
        if !entry.is_last() && (entry.state_at.is_some() || entry.state_lsn != Lsn(0)) {
            return Err(Malformed { what: "a state on a chunk that is not the log's last", at: ENTRY_STATE_AT_AT });
        }
        if !entry.is_consistent() {
            return Err(Malformed { what: "flags that contradict the rest", at: ENTRY_FLAGS_AT });
        }
        Ok(entry)
    }
}

/// A name in the names section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameEntry<'a> {
    /// The log's name.
    pub name: &'a str,
    /// The log.
    pub log: LogId,
    /// The LSN of its creation.
    pub created: Lsn,
}

impl<'a> NameEntry<'a> {
    /// Its length in bytes.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        varint_len(self.name.len() as u64) + self.name.len() + 16 + varint_len(self.created.0)
    }

    /// Appends it.
    pub fn encode(&self, out: &mut impl Sink) {
        out.put_bytes(self.name.as_bytes());
        out.put(&self.log.0);
        out.put_varint(self.created.0);
    }

    /// Reads the next one.
    pub fn decode(reader: &mut Reader<'a>) -> Decoded<Self> {
        let name = std::str::from_utf8(reader.bytes(NAME_BYTES_MAX)?)
            .map_err(|_| reader.malformed("a name that is not UTF-8"))?;
        Ok(Self { name, log: LogId(reader.array()?), created: Lsn(reader.varint()?) })
    }
}

/// Where a segment comes from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The timelines that led here, oldest first.
    pub ancestry: Vec<TimelineStart>,
    /// The segments that it was merged from, in the order of their LSNs; none if a flush wrote it.
    pub merged: Vec<SegmentId>,
}

impl Origin {
    /// The meta stream.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.ancestry.len() * TIMELINE_LEN + self.merged.len() * 8 + 4);
        out.put_varint(self.ancestry.len() as u64);
        self.ancestry.iter().for_each(|t| t.encode(&mut out));
        out.put_varint(self.merged.len() as u64);
        self.merged.iter().for_each(|id| out.put(&id.0.to_le_bytes()));
        out
    }

    /// Reads the meta stream.
    pub fn decode(stream: &[u8]) -> Decoded<Self> {
        let mut reader = Reader::new(stream);
        let count = reader.varint()?;
        if count > (reader.left() / TIMELINE_LEN) as u64 {
            return Err(reader.malformed("more timelines than there are bytes for"));
        }
        let ancestry = (0..count).map(|_| TimelineStart::decode(&mut reader)).collect::<Decoded<_>>()?;
        let count = reader.varint()?;
        if count > (reader.left() / 8) as u64 {
            return Err(reader.malformed("more segments than there are bytes for"));
        }
        let merged = (0..count).map(|_| Ok(SegmentId(reader.u64()?))).collect::<Decoded<_>>()?;
        reader.end()?;
        Ok(Self { ancestry, merged })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn decoders_never_panic(bytes: Vec<u8>, number: u64) {
            let _ = Header::decode(&bytes);
            let _ = Footer::decode(&bytes, number);
            let _ = NameEntry::decode(&mut Reader::new(&bytes));
            let _ = Origin::decode(&bytes);
        }

        #[test]
        fn an_index_entry_comes_back(
            log: [u8; 16], first: u32, records: u32, flags in 0u16..32, offset in 0u64..1 << 48, len: u32, digest: u64,
            at: Option<u16>, lsn: u64,
        ) {
            let last = flags & FLAG_LAST != 0;
            let entry = IndexEntry {
                log: LogId(log), first_seq: Seq(u64::from(first)), records, flags, offset, len, digest,
                state_at: at.filter(|_| last).map(u32::from), state_lsn: Lsn(if last { lsn } else { 0 }),
            };
            let read = IndexEntry::decode(&entry.encode());
            prop_assert_eq!(read.is_ok(), entry.is_consistent());
            prop_assert!(read.is_err() || read == Ok(entry));
            prop_assert_eq!(Key::get(&entry.encode()), entry.key());
        }
    }

    #[test]
    fn a_stripe_comes_back_and_its_parts_must_fit_it() {
        let first = Key { log: LogId([7; 16]), first_seq: Seq(8) };
        let stripe = Stripe { first, lookup: 20, index_blocks: 3, state_bytes: BODY_LEN as u32 + 1 };
        let bytes = stripe.encode();
        assert_eq!(Stripe::decode(&bytes, 15), Ok(stripe));
        assert_eq!((stripe.index(), stripe.state().end()), (Place { first: 15, blocks: 3 }, 20));
        assert!(Stripe::decode(&bytes, 16).is_err() && Stripe::decode(&bytes, 21).is_err());
        for index_blocks in [0, STRIPE_INDEX_BLOCKS as u16 + 1] {
            let wrong = Stripe { index_blocks, lookup: 2000, ..stripe };
            assert!(Stripe::decode(&wrong.encode(), 1).is_err());
        }
    }

    #[test]
    fn a_footer_comes_back_and_its_sections_must_follow_one_another() {
        let mut first = 1;
        let mut places = [Place::default(); 4];
        for (i, place) in places.iter_mut().enumerate() {
            *place = Place { first, blocks: if i == 3 { 1 } else { 1 + i as u64 } };
            first = place.end();
        }
        let footer = Footer {
            header: Header {
                format: FORMAT_VERSION,
                features: Features::KNOWN,
                store: StoreId([1; 16]),
                id: SegmentId(3),
                first_lsn: Lsn(4),
                last_lsn: Lsn(9),
            },
            first_time: TimeUs(5),
            last_time: TimeUs(6),
            logs: 1,
            records: 2,
            entries: 3,
            payload_bytes: 4,
            ends: 1,
            places: Places::of(places),
            data_bytes: 0,
            meta_bytes: 2,
            digest: [8; 32],
        };
        let body = footer.encode();
        assert_eq!(Footer::decode(&body, first), Ok(footer.clone()));
        assert!(Footer::decode(&body, first + 1).is_err(), "the footer is the last block");
        let mut moved = footer.clone();
        moved.places.root.first += 1;
        assert!(Footer::decode(&moved.encode(), first).is_err());
        let mut longer = footer;
        longer.meta_bytes = BODY_LEN as u64 + 1;
        assert!(Footer::decode(&longer.encode(), first).is_err());
    }
}
