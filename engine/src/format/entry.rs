//! Entries: records and control operations, and the batches that hold them. docs/FORMAT.md, "Batch" and "Entry".
//!
//! An entry's body is made once, when it is appended, with its own checksum; the flush copies it unchanged. The
//! checksum covers the log's id as well, so that an entry is never read as another log's.

use super::bytes::{Reader, Sink, put_u32, varint_len};
use super::{Decoded, Malformed};
use crate::limits::{METADATA_BYTES_MAX, NAME_BYTES_MAX, PRODUCER_ID_BYTES_MAX, TAG_BYTES_MAX, TIMELINES_PER_LOG_MAX};
use crate::types::{LogId, Seq, TimeUs, Timeline};

/// The length of a batch's header: bytes of its entries (u32), number of entries (u32).
pub const BATCH_HEADER_LEN: usize = 8;
const CRC_LEN: usize = 4;

const FLAG_CIPHER: u8 = 1;
const FLAG_PRODUCER: u8 = 2;
const FLAG_TAG: u8 = 4;
const FLAGS_KNOWN: u8 = FLAG_CIPHER | FLAG_PRODUCER | FLAG_TAG;

/// What an entry is. The numbers are on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A record; its payload is the caller's.
    Record = 1,
    /// The log is created, or created again after it was deleted.
    Create = 2,
    /// The log takes no more records.
    Close = 3,
    /// Records below a seq are given up.
    Trim = 4,
    /// The log is deleted.
    Delete = 5,
    /// The deletion is taken back.
    Undelete = 6,
    /// The log's metadata is replaced.
    Metadata = 7,
    /// The log is created as a fork of another.
    Fork = 8,
    /// A fork of the log is made: from a seq on its records are kept.
    Pin = 9,
    /// When the log expires is set.
    Expire = 10,
}

impl Kind {
    fn from_u8(value: u8) -> Option<Self> {
        Some(match value {
            1 => Self::Record,
            2 => Self::Create,
            3 => Self::Close,
            4 => Self::Trim,
            5 => Self::Delete,
            6 => Self::Undelete,
            7 => Self::Metadata,
            8 => Self::Fork,
            9 => Self::Pin,
            10 => Self::Expire,
            _ => return None,
        })
    }
}

/// A producer's numbers, in the first entry of what it appended to a log in one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerMark<'a> {
    /// The producer's id, opaque.
    pub id: &'a [u8],
    /// Its epoch.
    pub epoch: u64,
    /// The number of the batch within the epoch, from 0.
    pub number: u64,
    /// Entries of the batch for this log, this one included.
    pub entries: u32,
    /// Of these, records.
    pub records: u32,
    /// The first 64 bits of the BLAKE3 of the batch's content for this log.
    pub digest: u64,
}

/// An entry's body, decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// What it is.
    pub kind: Kind,
    /// A record's seq; for a control operation the log's next seq when it was done.
    pub seq: Seq,
    /// Reserved for encryption: 0 is clear.
    pub cipher: u8,
    /// Reserved for encryption.
    pub key_id: u64,
    /// The producer's numbers.
    pub producer: Option<ProducerMark<'a>>,
    /// The log's new opaque tag.
    pub tag: Option<&'a [u8]>,
    /// A record's payload, or a control operation's own fields: see [`Create`], [`ForkOf`], [`first_kept_payload`],
    /// [`expiry_payload`].
    pub payload: &'a [u8],
}

impl<'a> Entry<'a> {
    /// Whether it is a record that carries nothing but its payload: what it does to its log's state follows from its
    /// seq alone.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.kind == Kind::Record && self.producer.is_none() && self.tag.is_none()
    }

    /// The body's length in bytes, checksum included.
    #[must_use]
    pub fn body_len(&self) -> usize {
        let mut len = 2 + varint_len(self.seq.0) + self.payload.len() + CRC_LEN;
        if self.cipher != 0 {
            len += 1 + varint_len(self.key_id);
        }
        if let Some(p) = &self.producer {
            len += varint_len(p.id.len() as u64) + p.id.len() + varint_len(p.epoch) + varint_len(p.number);
            len += varint_len(u64::from(p.entries)) + varint_len(u64::from(p.records)) + 8;
        }
        if let Some(tag) = self.tag {
            len += varint_len(tag.len() as u64) + tag.len();
        }
        len
    }

    /// The entry's length in a batch: log id, length of the body, body.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        let body = self.body_len();
        16 + varint_len(body as u64) + body
    }

    /// Appends the entry as it stands in a batch. Returns the length of what precedes the body.
    pub fn encode(&self, log: LogId, out: &mut impl Sink) -> usize {
        let body_len = self.body_len();
        out.put(&log.0);
        out.put_varint(body_len as u64);
        let start = out.bytes().len();
        let mut flags = 0;
        flags |= if self.cipher == 0 { 0 } else { FLAG_CIPHER };
        flags |= if self.producer.is_some() { FLAG_PRODUCER } else { 0 };
        flags |= if self.tag.is_some() { FLAG_TAG } else { 0 };
        out.put(&[self.kind as u8, flags]);
        out.put_varint(self.seq.0);
        if self.cipher != 0 {
            out.put(&[self.cipher]);
            out.put_varint(self.key_id);
        }
        if let Some(p) = &self.producer {
            out.put_bytes(p.id);
            out.put_varint(p.epoch);
            out.put_varint(p.number);
            out.put_varint(u64::from(p.entries));
            out.put_varint(u64::from(p.records));
            out.put(&p.digest.to_le_bytes());
        }
        if let Some(tag) = self.tag {
            out.put_bytes(tag);
        }
        out.put(self.payload);
        let crc = body_crc(log, &out.bytes()[start..]);
        out.put(&crc.to_le_bytes());
        16 + varint_len(body_len as u64)
    }

    /// Reads a body and checks its checksum.
    pub fn decode(log: LogId, body: &'a [u8]) -> Decoded<Self> {
        if body.len() < 3 + CRC_LEN {
            return Err(Malformed { what: "an entry too short to be one", at: body.len() });
        }
        let (content, crc) = body.split_at(body.len() - CRC_LEN);
        if crc != body_crc(log, content).to_le_bytes() {
            return Err(Malformed { what: "the entry's checksum is wrong", at: content.len() });
        }
        Self::decode_content(content)
    }

    /// Reads a body whose checksum this process has checked or made already.
    pub fn decode_trusted(body: &'a [u8]) -> Decoded<Self> {
        match body.len().checked_sub(CRC_LEN) {
            Some(len) => Self::decode_content(&body[..len]),
            None => Err(Malformed { what: "an entry too short to be one", at: body.len() }),
        }
    }

    fn decode_content(content: &'a [u8]) -> Decoded<Self> {
        let mut reader = Reader::new(content);
        let kind = Kind::from_u8(reader.u8()?).ok_or_else(|| reader.malformed("an unknown kind of entry"))?;
        let flags = reader.u8()?;
        if flags & !FLAGS_KNOWN != 0 {
            return Err(reader.malformed("an unknown flag of an entry"));
        }
        let seq = Seq(reader.varint()?);
        let (mut cipher, mut key_id) = (0, 0);
        if flags & FLAG_CIPHER != 0 {
            cipher = reader.u8()?;
            key_id = reader.varint()?;
        }
        let producer = if flags & FLAG_PRODUCER != 0 { Some(ProducerMark::decode(&mut reader)?) } else { None };
        let tag = if flags & FLAG_TAG != 0 { Some(reader.bytes(TAG_BYTES_MAX)?) } else { None };
        let payload = reader.take(reader.left())?;
        Ok(Self { kind, seq, cipher, key_id, producer, tag, payload })
    }
}

impl<'a> ProducerMark<'a> {
    fn decode(reader: &mut Reader<'a>) -> Decoded<Self> {
        let id = reader.bytes(PRODUCER_ID_BYTES_MAX)?;
        let (epoch, number) = (reader.varint()?, reader.varint()?);
        let entries = Self::count(reader)?;
        let records = Self::count(reader)?;
        Ok(Self { id, epoch, number, entries, records, digest: reader.u64()? })
    }

    fn count(reader: &mut Reader<'a>) -> Decoded<u32> {
        u32::try_from(reader.varint()?).map_err(|_| reader.malformed("a batch of too many entries"))
    }
}

fn body_crc(log: LogId, content: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&log.0);
    hasher.update(content);
    hasher.finalize()
}

/// The payload of [`Kind::Create`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Create<'a> {
    /// The log's name.
    pub name: &'a str,
    /// Its metadata.
    pub metadata: &'a [u8],
}

impl<'a> Create<'a> {
    /// The payload.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.name.len() + self.metadata.len() + 4);
        out.put_bytes(self.name.as_bytes());
        out.put_bytes(self.metadata);
        out
    }

    /// Reads the payload.
    pub fn decode(payload: &'a [u8]) -> Decoded<Self> {
        let mut reader = Reader::new(payload);
        let create = Self::read(&mut reader)?;
        reader.end()?;
        Ok(create)
    }

    fn read(reader: &mut Reader<'a>) -> Decoded<Self> {
        let name = std::str::from_utf8(reader.bytes(NAME_BYTES_MAX)?)
            .map_err(|_| reader.malformed("a name that is not UTF-8"))?;
        Ok(Self { name, metadata: reader.bytes(METADATA_BYTES_MAX)? })
    }
}

/// The payload of [`Kind::Fork`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForkOf<'a> {
    /// The new log.
    pub create: Create<'a>,
    /// The log it is a fork of.
    pub parent: LogId,
    /// The seq at which it begins to differ.
    pub at: Seq,
    /// The first seq that the parent kept.
    pub trim: Seq,
    /// Which timelines wrote the parent's records below `at`, each with its first seq.
    pub timelines: Vec<(Timeline, Seq)>,
}

impl<'a> ForkOf<'a> {
    /// The payload.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = self.create.encode();
        out.put(&self.parent.0);
        out.put_varint(self.at.0);
        out.put_varint(self.trim.0);
        put_timelines(&mut out, &self.timelines);
        out
    }

    /// Reads the payload.
    pub fn decode(payload: &'a [u8]) -> Decoded<Self> {
        let mut reader = Reader::new(payload);
        let create = Create::read(&mut reader)?;
        let parent = LogId(reader.array()?);
        let at = Seq(reader.varint()?);
        let trim = Seq(reader.varint()?);
        let timelines = get_timelines(&mut reader)?;
        reader.end()?;
        Ok(Self { create, parent, at, trim, timelines })
    }
}

/// Appends a list of (timeline, first seq): a varint count, then per item counter and random (u32) and a varint seq.
pub fn put_timelines(out: &mut impl Sink, list: &[(Timeline, Seq)]) {
    out.put_varint(list.len() as u64);
    for (timeline, first) in list {
        out.put(&timeline.counter.to_le_bytes());
        out.put(&timeline.random.to_le_bytes());
        out.put_varint(first.0);
    }
}

/// Reads a list that [`put_timelines`] wrote.
pub fn get_timelines(reader: &mut Reader<'_>) -> Decoded<Vec<(Timeline, Seq)>> {
    let count = reader.varint()?;
    if count > TIMELINES_PER_LOG_MAX as u64 || count > reader.left() as u64 / 9 {
        return Err(reader.malformed("a list of timelines beyond its bound"));
    }
    (0..count)
        .map(|_| Ok((Timeline { counter: reader.u32()?, random: reader.u32()? }, Seq(reader.varint()?))))
        .collect()
}

/// The payload of [`Kind::Trim`] and of [`Kind::Pin`]: the first seq that is kept, as a varint.
#[must_use]
pub fn first_kept_payload(first_kept: Seq) -> Vec<u8> {
    let mut out = Vec::with_capacity(10);
    out.put_varint(first_kept.0);
    out
}

/// Reads the payload of [`Kind::Trim`] and of [`Kind::Pin`].
pub fn decode_first_kept(payload: &[u8]) -> Decoded<Seq> {
    let mut reader = Reader::new(payload);
    let seq = Seq(reader.varint()?);
    reader.end()?;
    Ok(seq)
}

/// The payload of [`Kind::Expire`]: when the log expires, in microseconds of the steady clock, as a varint; 0 if never.
#[must_use]
pub fn expiry_payload(expiry: TimeUs) -> Vec<u8> {
    first_kept_payload(Seq(expiry.0))
}

/// Reads the payload of [`Kind::Expire`].
pub fn decode_expiry(payload: &[u8]) -> Decoded<TimeUs> {
    decode_first_kept(payload).map(|Seq(expiry)| TimeUs(expiry))
}

/// A batch's header: the length of its entries in bytes, and how many there are.
#[must_use]
pub fn batch_header(entries_len: u32, entries: u32) -> [u8; BATCH_HEADER_LEN] {
    let mut out = [0; BATCH_HEADER_LEN];
    put_u32(&mut out, 0, entries_len);
    put_u32(&mut out, 4, entries);
    out
}

/// An entry as it stands in a frame's payload, its body not yet decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawEntry<'a> {
    /// The log.
    pub log: LogId,
    /// The body, checksum included.
    pub body: &'a [u8],
    /// The body's byte offset in the payload.
    pub body_at: usize,
    /// The number of its batch in the frame, from 0.
    pub batch: u32,
}

/// Splits a frame's payload into its entries, in the order of their LSNs.
pub fn split_payload(payload: &[u8]) -> Decoded<Vec<RawEntry<'_>>> {
    let mut reader = Reader::new(payload);
    let mut out = Vec::new();
    let mut batch = 0;
    while reader.left() > 0 {
        let len = reader.u32()? as usize;
        let count = reader.u32()?;
        let end = reader.at() + len;
        if len > reader.left() {
            return Err(reader.malformed("a batch longer than its frame"));
        }
        for _ in 0..count {
            let log = LogId(reader.array()?);
            let body = reader.bytes(end.saturating_sub(reader.at()))?;
            out.push(RawEntry { log, body, body_at: reader.at() - body.len(), batch });
        }
        if reader.at() != end {
            return Err(reader.malformed("a batch whose entries do not fill it"));
        }
        batch += 1;
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn an_entry_comes_back(
            seq: u64, payload: Vec<u8>, with_producer: bool, with_tag: bool, epoch: u64, number: u64, cipher: u8,
        ) {
            let log = LogId([4; 16]);
            let mark = ProducerMark { id: b"phone", epoch, number, entries: 3, records: 2, digest: 5 };
            let entry = Entry {
                kind: Kind::Record,
                seq: Seq(seq),
                cipher,
                key_id: if cipher == 0 { 0 } else { number },
                producer: with_producer.then_some(mark),
                tag: with_tag.then_some(&b"tag"[..]),
                payload: &payload,
            };
            let mut out = Vec::new();
            let body_at = entry.encode(log, &mut out);
            prop_assert_eq!(out.len(), entry.encoded_len());
            prop_assert_eq!(Entry::decode(log, &out[body_at..]), Ok(entry));
            prop_assert!(Entry::decode(LogId([5; 16]), &out[body_at..]).is_err(), "another log's entry");
        }

        #[test]
        fn decoders_never_panic(bytes: Vec<u8>) {
            let _ = Entry::decode(LogId::default(), &bytes);
            let _ = split_payload(&bytes);
            let _ = ForkOf::decode(&bytes);
            let _ = Create::decode(&bytes);
        }
    }

    #[test]
    fn a_payload_splits_into_its_entries() {
        let record = |seq, payload| Entry {
            kind: Kind::Record,
            seq: Seq(seq),
            cipher: 0,
            key_id: 0,
            producer: None,
            tag: None,
            payload,
        };
        let mut payload = Vec::new();
        for batch in [&[(1, b"a" as &[u8])][..], &[(2, b"bb"), (3, b"")]] {
            let mut entries = Vec::new();
            for (seq, bytes) in batch {
                record(*seq, bytes).encode(LogId([1; 16]), &mut entries);
            }
            payload.put(&batch_header(entries.len() as u32, batch.len() as u32));
            payload.put(&entries);
        }
        let entries = split_payload(&payload).expect("well formed");
        assert_eq!(entries.iter().map(|e| e.batch).collect::<Vec<_>>(), [0, 1, 1]);
        for (raw, want) in entries.iter().zip([b"a" as &[u8], b"bb", b""]) {
            assert_eq!(Entry::decode(raw.log, raw.body).expect("intact").payload, want);
            assert_eq!(&payload[raw.body_at..raw.body_at + raw.body.len()], raw.body);
        }
        payload.truncate(payload.len() - 1);
        assert!(split_payload(&payload).is_err());
    }

    #[test]
    fn a_fork_comes_back() {
        let fork = ForkOf {
            create: Create { name: "a/b", metadata: b"m" },
            parent: LogId([9; 16]),
            at: Seq(4),
            trim: Seq(1),
            timelines: vec![(Timeline { counter: 1, random: 2 }, Seq(0))],
        };
        assert_eq!(ForkOf::decode(&fork.encode()), Ok(fork.clone()));
    }
}
