//! One entry: a record or a control operation, as it stands in a frame and, unchanged, in a segment's chunk.
//!
//! Invariant: an entry that is given had the right checksum, over the LogId too.

use super::Result;
use super::bytes::Bytes;
use super::heads::crc_from;

pub const NAME_BYTES_MAX: usize = 1024;
pub const METADATA_BYTES_MAX: usize = 4096;
const MARK_BYTES_MAX: usize = 256;

pub type LogId = [u8; 16];
/// Counter and random part of a timeline.
pub type TimelineId = (u32, u32);

/// An entry and what is known of it from where it stands.
#[derive(Clone, Debug)]
pub struct Entry {
    pub log: LogId,
    pub lsn: u64,
    pub time: u64,
    pub timeline: TimelineId,
    pub kind: Kind,
    pub seq: u64,
    pub producer: Option<Numbered>,
    pub tag: Option<Vec<u8>>,
    /// Bytes of the body.
    pub len: usize,
}

impl Entry {
    pub fn is_record(&self) -> bool {
        matches!(self.kind, Kind::Record(_))
    }

    /// The log's next seq after this entry.
    pub fn next_seq(&self) -> u64 {
        self.seq + u64::from(self.is_record())
    }
}

#[derive(Clone, Debug)]
pub enum Kind {
    Record(Vec<u8>),
    Create {
        name: Vec<u8>,
        metadata: Vec<u8>,
        fork: Option<Fork>,
    },
    Close,
    Trim(u64),
    Delete,
    Undelete,
    Metadata(Vec<u8>),
    Pin(u64),
    /// When the log expires, by the steady clock in microseconds; 0 if never.
    Expire(u64),
}

/// Where a fork comes from.
#[derive(Clone, Debug)]
pub struct Fork {
    pub parent: LogId,
    pub at: u64,
    pub first_kept: u64,
    pub timelines: Vec<(TimelineId, u64)>,
}

/// What a producer said of its batch.
#[derive(Clone, Debug)]
pub struct Numbered {
    pub id: Vec<u8>,
    pub epoch: u64,
    pub number: u64,
    pub entries: u64,
    pub records: u64,
    pub digest: u64,
}

/// Where an entry stands.
#[derive(Clone, Copy)]
pub struct Place {
    pub log: LogId,
    pub lsn: u64,
    pub time: u64,
    pub timeline: TimelineId,
}

/// The entry of `body`, which stands at `base` of `file`.
pub fn read(file: &str, base: usize, body: &[u8], place: Place) -> Result<Entry> {
    let mut bytes = Bytes::new(file, base, body);
    let (inner, crc) = body.split_at_checked(body.len().wrapping_sub(4)).ok_or_else(|| bytes.wrong("no entry"))?;
    if crc_from(crc_from(0, &place.log), inner) != u32::from_le_bytes(crc.try_into().expect("four bytes")) {
        return Err(bytes.wrong(format!("the CRC of the entry with LSN {} is wrong", place.lsn)));
    }
    bytes = Bytes::new(file, base, inner);
    let (kind, flags, seq) = (bytes.u8()?, bytes.u8()?, bytes.varint()?);
    if flags & !(2 | 4) != 0 {
        return Err(bytes.wrong(format!("an entry with the flags {flags:#x}")));
    }
    let producer = if flags & 2 == 0 { None } else { Some(numbered(&mut bytes)?) };
    let tag = if flags & 4 == 0 { None } else { Some(bytes.bytes(MARK_BYTES_MAX)?.to_vec()) };
    let kind = match kind {
        1 => Kind::Record(bytes.rest().to_vec()),
        2 | 8 => {
            let (name, metadata) = (bytes.bytes(NAME_BYTES_MAX)?.to_vec(), bytes.bytes(METADATA_BYTES_MAX)?.to_vec());
            Kind::Create { name, metadata, fork: if kind == 8 { Some(fork(&mut bytes)?) } else { None } }
        }
        3 => Kind::Close,
        4 => Kind::Trim(bytes.varint()?),
        5 => Kind::Delete,
        6 => Kind::Undelete,
        7 if bytes.at() + METADATA_BYTES_MAX >= inner.len() => Kind::Metadata(bytes.rest().to_vec()),
        9 => Kind::Pin(bytes.varint()?),
        10 => Kind::Expire(bytes.varint()?),
        other => return Err(bytes.wrong(format!("an entry of kind {other}"))),
    };
    bytes.end()?;
    let Place { log, lsn, time, timeline } = place;
    Ok(Entry { log, lsn, time, timeline, kind, seq, producer, tag, len: body.len() })
}

fn numbered(bytes: &mut Bytes<'_>) -> Result<Numbered> {
    Ok(Numbered {
        id: bytes.bytes(MARK_BYTES_MAX)?.to_vec(),
        epoch: bytes.varint()?,
        number: bytes.varint()?,
        entries: bytes.varint()?,
        records: bytes.varint()?,
        digest: bytes.u64()?,
    })
}

fn fork(bytes: &mut Bytes<'_>) -> Result<Fork> {
    let (parent, at, first_kept) = (bytes.array()?, bytes.varint()?, bytes.varint()?);
    Ok(Fork { parent, at, first_kept, timelines: timelines(bytes)? })
}

/// A log's timelines, each with its first seq.
pub fn timelines(bytes: &mut Bytes<'_>) -> Result<Vec<(TimelineId, u64)>> {
    let count = bytes.varint()?;
    (0..count).map(|_| Ok(((bytes.u32()?, bytes.u32()?), bytes.varint()?))).collect()
}
