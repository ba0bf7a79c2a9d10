//! A segment: every block of it checked, its chunks and its state stream unpacked.
//!
//! It checks what the segment says of itself and what the manifest says of it; whether its state records follow from
//! the entries is for `states`. Invariant: what is given stands under right checksums, at the places and in the order
//! that the document has, and no byte of the file is left unread.

use super::bytes::Bytes;
use super::entry::{self, Entry, Kind, LogId, Place};
use super::heads::{BLOCK, Identity, Manifest, SegmentMeta, Timeline, crc_from, features};
use super::{Fault, Files, Result};
use std::collections::{BTreeMap, BTreeSet};

const BODY: usize = 4064;
const BODY_AT: usize = 32;
const INDEX_ENTRY: usize = 60;
const KEY: usize = 24;
const NOT_HERE: u32 = u32::MAX;
const CHUNK_BYTES_MAX: u64 = (16 << 20) + (64 << 10);

/// Data, index, fence, root, filter, names, state, meta, with the numbers of their kinds of block; data has none.
const SECTIONS: [(&str, Option<u8>); 8] = [
    ("data", None),
    ("index", Some(2)),
    ("fence", Some(3)),
    ("root", Some(4)),
    ("filter", Some(5)),
    ("names", Some(6)),
    ("state", Some(7)),
    ("meta", Some(8)),
];

/// A segment as far as logs are concerned.
pub struct Segment {
    pub file: String,
    pub writable: bool,
    pub first_lsn: u64,
    pub last_lsn: u64,
    /// In the order of their LSNs.
    pub entries: Vec<Entry>,
    /// The last chunk's word on each log.
    pub logs: BTreeMap<LogId, LastChunk>,
    /// The state stream, and where it begins in the file.
    pub state: Vec<u8>,
    pub state_at: usize,
}

/// What the index says of a log on its last chunk.
pub struct LastChunk {
    pub next_seq: u64,
    /// Where its state record is in the state stream.
    pub state: Option<usize>,
    /// The LSN of the last change of its state.
    pub changed: u64,
}

/// A segment under way.
struct Reading<'a> {
    file: &'a str,
    id: u64,
    all: &'a [u8],
    /// First block and number of blocks of each section.
    sections: [(usize, usize); 8],
    data_bytes: usize,
}

/// An entry of the index.
struct Chunk {
    log: LogId,
    first_seq: u64,
    records: u32,
    compressed: bool,
    last: bool,
    controls: bool,
    offset: u64,
    len: usize,
    digest: u64,
    state: u32,
    changed: u64,
}

pub fn read(files: &Files, identity: &Identity, manifest: &Manifest, meta: &SegmentMeta) -> Result<Segment> {
    let name = format!("segments/{:016x}.seg", meta.id);
    let Some((file, all)) = files.get_key_value(&name) else { return Err(Fault::damaged(&name, 0, "it is missing")) };
    let wrong = |what: &str| Fault::damaged(file, 0, what);
    if all.len() as u64 != meta.bytes || all.len() < 2 * BLOCK || !all.len().is_multiple_of(BLOCK) {
        return Err(wrong("its length is not what the manifest says"));
    }
    let mut reading = Reading { file, id: meta.id, all, sections: [(0, 0); 8], data_bytes: 0 };
    let blocks = all.len() / BLOCK;
    let (footer, _) = reading.block(blocks - 1, 9)?;
    let mut footer = Bytes::new(file, (blocks - 1) * BLOCK + BODY_AT, footer);
    if footer.array()? != *b"EVLGSEGF" {
        return Err(wrong("the footer's magic is wrong"));
    }
    let writable = features(file, &mut footer)?;
    let same = (footer.array::<16>()?, footer.u64()?, footer.u64()?, footer.u64()?);
    if same != (identity.store, meta.id, meta.first_lsn, meta.last_lsn) {
        return Err(wrong("store, id or LSNs are not what the manifest says"));
    }
    for sum in meta.sums {
        let found = footer.u64()?;
        footer.expect("a sum of the footer", sum, found)?;
    }
    let mut next = 1;
    for section in &mut reading.sections {
        let (first, count) = (footer.u64()?, footer.u64()?);
        footer.expect("the first block of a section", next as u64, first)?;
        let count = usize::try_from(count).ok().filter(|count| *count < blocks - next);
        *section = (next, count.ok_or_else(|| wrong("a section goes past the footer"))?);
        next += section.1;
    }
    footer.expect("the footer's block", next as u64, blocks as u64 - 1)?;
    let (data_bytes, state_bytes, meta_bytes) = (footer.u64()?, footer.u64()?, footer.u64()?);
    let digest = footer.array::<32>()?;
    footer.end()?;
    if *blake3::hash(&all[..all.len() - BLOCK]).as_bytes() != digest || *blake3::hash(all).as_bytes() != meta.digest {
        return Err(wrong("the BLAKE3 of the file is wrong"));
    }
    let data_blocks = reading.sections[0].1 as u64;
    footer.expect("the blocks of data", data_bytes.div_ceil(BLOCK as u64), data_blocks)?;
    reading.data_bytes = data_bytes as usize;
    reading.header()?;
    let chunks = reading.index()?;
    reading.fences(&chunks)?;
    reading.filter(&chunks)?;
    let entries = reading.entries(&chunks, &manifest.timelines)?;
    reading.names(identity, &entries)?;
    let state = reading.stream(6, state_bytes)?;
    reading.meta(meta_bytes, manifest)?;
    let state_at = reading.sections[6].0 * BLOCK;
    let logs = logs(file, &chunks, &state)?;
    let segment = Segment {
        file: file.clone(),
        writable,
        first_lsn: meta.first_lsn,
        last_lsn: meta.last_lsn,
        entries,
        logs,
        state,
        state_at,
    };
    check_sums(&segment, meta)?;
    Ok(segment)
}

/// What the footer counts, counted again.
fn check_sums(segment: &Segment, meta: &SegmentMeta) -> Result<()> {
    let entries = &segment.entries;
    let time = |entry: Option<&Entry>| entry.map_or(0, |entry| entry.time);
    let records = entries.iter().filter(|entry| matches!(entry.kind, Kind::Record(_))).count() as u64;
    let bytes = entries.iter().map(|entry| entry.len as u64).sum();
    let (first, last) = (time(entries.first()), time(entries.last()));
    let sums = [first, last, segment.logs.len() as u64, records, entries.len() as u64, bytes];
    if sums != meta.sums {
        let what = format!("times, logs, records, entries and bytes are {sums:?}, not {:?}", meta.sums);
        return Err(Fault::damaged(&segment.file, 0, what));
    }
    if !entries.iter().map(|entry| entry.lsn).eq(segment.first_lsn..=segment.last_lsn) {
        return Err(Fault::damaged(&segment.file, 0, "it does not hold each of its LSNs once"));
    }
    Ok(())
}

/// The last chunks' word on their logs; their state records follow one another in the order of the index.
fn logs(file: &str, chunks: &[Chunk], state: &[u8]) -> Result<BTreeMap<LogId, LastChunk>> {
    let wrong = |what: &str| Fault::damaged(file, 0, what);
    let mut logs = BTreeMap::new();
    let mut ends_at = 0;
    for (n, chunk) in chunks.iter().enumerate() {
        let last = chunks.get(n + 1).is_none_or(|next| next.log != chunk.log);
        if last != chunk.last || (!last && (chunk.state, chunk.changed) != (NOT_HERE, 0)) {
            return Err(wrong("a log's last chunk is not marked as such, or another one is"));
        }
        if !last {
            continue;
        }
        let here = chunk.state != NOT_HERE;
        if here {
            if chunk.state as usize != ends_at {
                return Err(wrong("a state record does not follow the one before"));
            }
            let mut stream = Bytes::new(file, 0, &state[ends_at..]);
            stream.bytes(8 << 20)?;
            ends_at += stream.at();
        }
        let next_seq = chunk.first_seq + u64::from(chunk.records);
        let state = here.then_some(chunk.state as usize);
        logs.insert(chunk.log, LastChunk { next_seq, state, changed: chunk.changed });
    }
    if ends_at != state.len() {
        return Err(wrong("the state stream holds more than the index refers to"));
    }
    Ok(logs)
}

impl<'a> Reading<'a> {
    fn wrong(&self, at: usize, what: impl Into<String>) -> Fault {
        Fault::damaged(self.file, at, what)
    }

    /// The used part of the body of the checked block `number`, and how much is used.
    fn block(&self, number: usize, section: u8) -> Result<(&'a [u8], usize)> {
        let at = number * BLOCK;
        let block = self.all.get(at..at + BLOCK).ok_or_else(|| self.wrong(at, "a block is missing"))?;
        let mut bytes = Bytes::new(self.file, at, block);
        let crc = bytes.u32()?;
        if crc != crc_from(0, &block[4..]) {
            return Err(self.wrong(at, "the CRC of a block is wrong"));
        }
        let kind = bytes.u8()?;
        bytes.expect("the section of a block", u64::from(section), u64::from(kind))?;
        bytes.zeros(1)?;
        let used = usize::from(bytes.u16()?);
        let (id, place) = (bytes.u64()?, bytes.u64()?);
        bytes.expect("the segment of a block", self.id, id)?;
        bytes.expect("the place of a block", number as u64, place)?;
        bytes.zeros(8)?;
        if used > BODY {
            return Err(self.wrong(at, "a block uses more than it has"));
        }
        let body = bytes.take(used)?;
        bytes.zeros(BODY - used)?;
        Ok((body, used))
    }

    /// The used parts of a section's blocks, each with its place in the file.
    fn blocks(&self, section: usize) -> Result<Vec<(usize, &'a [u8])>> {
        let (first, count) = self.sections[section];
        let kind = SECTIONS[section].1.expect("data has no checked blocks");
        let one = |number: usize| Ok((number * BLOCK + BODY_AT, self.block(number, kind)?.0));
        (first..first + count).map(one).collect()
    }

    /// Things of one length, so many to a block, all blocks but the last full.
    fn table(&self, section: usize, len: usize, per_block: usize) -> Result<Vec<(usize, &'a [u8])>> {
        let blocks = self.blocks(section)?;
        let mut out = Vec::new();
        for (n, (at, used)) in blocks.iter().enumerate() {
            let full = used.len() == len * per_block;
            if !used.len().is_multiple_of(len) || used.is_empty() || (n + 1 < blocks.len() && !full) {
                return Err(
                    self.wrong(*at, format!("a block of the {} is not as full as it must be", SECTIONS[section].0))
                );
            }
            out.extend(used.chunks(len).enumerate().map(|(i, thing)| (at + i * len, thing)));
        }
        Ok(out)
    }

    fn stream(&self, section: usize, len: u64) -> Result<Vec<u8>> {
        let blocks = self.blocks(section)?;
        let mut out = Vec::new();
        for (n, (at, used)) in blocks.iter().enumerate() {
            if used.is_empty() || (n + 1 < blocks.len() && used.len() != BODY) {
                return Err(self.wrong(*at, "a block of a stream is not full"));
            }
            out.extend_from_slice(used);
        }
        if out.len() as u64 == len { Ok(out) } else { Err(self.wrong(0, "a stream is not as long as the footer says")) }
    }

    fn header(&self) -> Result<()> {
        let (body, _) = self.block(0, 1)?;
        let mut bytes = Bytes::new(self.file, BODY_AT, body);
        if bytes.array()? != *b"EVLGSEGM" {
            return Err(bytes.wrong("the header's magic is wrong"));
        }
        let (in_footer, _) = self.block(self.all.len() / BLOCK - 1, 9)?;
        if bytes.take(72)? != &in_footer[8..80] {
            return Err(bytes.wrong("header and footer differ"));
        }
        bytes.end()
    }

    fn index(&self) -> Result<Vec<Chunk>> {
        let mut chunks: Vec<Chunk> = Vec::new();
        let mut next = BLOCK as u64;
        for (at, entry) in self.table(1, INDEX_ENTRY, 67)? {
            let mut bytes = Bytes::new(self.file, at, entry);
            let (log, first_seq, records, flags) = (bytes.array()?, bytes.u64()?, bytes.u32()?, bytes.u16()?);
            let mut offset = [0; 8];
            offset[..6].copy_from_slice(bytes.take(6)?);
            let offset = u64::from_le_bytes(offset);
            let (len, digest, state, changed) = (bytes.size()?, bytes.u64()?, bytes.u32()?, bytes.u64()?);
            bytes.end()?;
            if flags > 7 {
                return Err(bytes.wrong(format!("a chunk with the flags {flags:#x}")));
            }
            bytes.expect("the offset of a chunk", next, offset)?;
            next += len as u64;
            let (compressed, last, controls) = (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0);
            let chunk =
                Chunk { log, first_seq, records, compressed, last, controls, offset, len, digest, state, changed };
            let key = |chunk: &Chunk| (chunk.log, chunk.first_seq, chunk.offset);
            if let Some(before) = chunks.last() {
                let same = (before.log, before.first_seq) == (log, first_seq);
                if key(before) >= key(&chunk) || (same && before.records > 0) {
                    return Err(bytes.wrong("the index is out of order"));
                }
            }
            chunks.push(chunk);
        }
        if next != (BLOCK + self.data_bytes) as u64 {
            return Err(self.wrong(0, "the chunks are not all of the data"));
        }
        let padding = &self.all[BLOCK + self.data_bytes..self.sections[1].0 * BLOCK];
        Bytes::new(self.file, BLOCK + self.data_bytes, padding).zeros(padding.len())?;
        Ok(chunks)
    }

    /// The fence is made of the index, and the root of the fence.
    fn fences(&self, chunks: &[Chunk]) -> Result<()> {
        let key = |chunk: &Chunk| [&chunk.log[..], &chunk.first_seq.to_le_bytes()].concat();
        let fence: Vec<Vec<u8>> = chunks.iter().step_by(67).map(key).collect();
        let root: Vec<Vec<u8>> = fence.iter().step_by(169).cloned().collect();
        for (section, expected) in [(2, fence), (3, root)] {
            let found = self.table(section, KEY, 169)?;
            if !found.iter().map(|(_, key)| *key).eq(expected.iter().map(|key| &key[..])) {
                return Err(self.wrong(self.sections[section].0 * BLOCK, "keys are not those of the blocks below"));
            }
        }
        Ok(())
    }

    /// Every log of the segment is a maybe.
    fn filter(&self, chunks: &[Chunk]) -> Result<()> {
        let blocks = self.blocks(4)?;
        if blocks.is_empty() != chunks.is_empty() {
            return Err(self.wrong(0, "a filter without logs, or logs without a filter"));
        }
        let filters = blocks.iter().map(|(at, body)| Filter::read(Bytes::new(self.file, *at, body)));
        let filters = filters.collect::<Result<Vec<_>>>()?;
        for chunk in chunks {
            let key = u64::from_le_bytes(*chunk.log.last_chunk().expect("a LogId has 16 bytes"));
            let block = (u128::from(key) * filters.len() as u128) >> 64;
            let at = blocks[block as usize].0;
            if !filters[block as usize].may_hold(key).ok_or_else(|| self.wrong(at, "a filter contradicts itself"))? {
                return Err(self.wrong(at, "the filter denies a log that is there"));
            }
        }
        Ok(())
    }

    /// All entries, in the order of their LSNs.
    fn entries(&self, chunks: &[Chunk], timelines: &[Timeline]) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for chunk in chunks {
            let at = chunk.offset as usize;
            let stored = &self.all[at..at + chunk.len];
            if twox_hash::XxHash3_64::oneshot_with_seed(0, stored) != chunk.digest {
                return Err(self.wrong(at, "the digest of a chunk is wrong"));
            }
            let unpacked = if chunk.compressed { self.decompress(at, stored)? } else { stored.to_vec() };
            let from_here = self.chunk(chunk, &unpacked, timelines)?;
            entries.extend(from_here);
        }
        entries.sort_by_key(|entry| entry.lsn);
        Ok(entries)
    }

    fn decompress(&self, at: usize, stored: &[u8]) -> Result<Vec<u8>> {
        let mut bytes = Bytes::new(self.file, at, stored);
        let len = bytes.varint()?;
        if len > CHUNK_BYTES_MAX {
            return Err(bytes.wrong("a chunk that is too long"));
        }
        let out = zstd::bulk::decompress(bytes.rest(), len as usize);
        let out = out.map_err(|e| self.wrong(at, format!("a chunk does not decompress: {e}")))?;
        bytes.expect("the length of a chunk", len, out.len() as u64)?;
        Ok(out)
    }

    fn chunk(&self, chunk: &Chunk, unpacked: &[u8], timelines: &[Timeline]) -> Result<Vec<Entry>> {
        let base = chunk.offset as usize;
        let mut bytes = Bytes::new(self.file, base, unpacked);
        let (mut lsn, mut time) = (bytes.varint()?, bytes.varint()?);
        let mut entries: Vec<Entry> = Vec::new();
        while !bytes.is_empty() {
            let step = (bytes.varint()?, bytes.varint()?);
            if (step.0 == 0) != entries.is_empty() {
                return Err(bytes.wrong("an LSN that does not follow"));
            }
            lsn += step.0;
            time += step.1;
            let timeline = timelines.iter().rev().find(|timeline| timeline.first_lsn <= lsn);
            let timeline = timeline.ok_or_else(|| bytes.wrong("an entry from before the first timeline"))?;
            let timeline = (timeline.counter, timeline.random);
            let body = bytes.bytes(unpacked.len())?;
            entries.push(entry::read(self.file, base, body, Place { log: chunk.log, lsn, time, timeline })?);
        }
        let records: Vec<u64> =
            entries.iter().filter(|entry| matches!(entry.kind, Kind::Record(_))).map(|entry| entry.seq).collect();
        let next = chunk.first_seq + u64::from(chunk.records);
        let dense = records.iter().copied().eq(chunk.first_seq..next);
        let at_end = entries.last().is_some_and(|last| matches!(last.kind, Kind::Record(_)) || last.seq == next);
        if !dense || !at_end || chunk.controls != (records.len() < entries.len()) {
            return Err(bytes.wrong("a chunk does not hold what the index says"));
        }
        Ok(entries)
    }

    /// The names of the logs that were created here, each of them its LogId's.
    fn names(&self, identity: &Identity, entries: &[Entry]) -> Result<()> {
        let mut found: Vec<(Vec<u8>, LogId, u64)> = Vec::new();
        for (at, used) in self.blocks(5)? {
            let mut bytes = Bytes::new(self.file, at, used);
            while !bytes.is_empty() {
                let (name, log, lsn) = (bytes.bytes(1024)?.to_vec(), bytes.array()?, bytes.varint()?);
                if identity.log_id(&name) != log || found.last().is_some_and(|(before, ..)| *before >= name) {
                    return Err(bytes.wrong("names are out of order, or not their logs'"));
                }
                found.push((name, log, lsn));
            }
        }
        let mut created = BTreeMap::new();
        for entry in entries {
            if let Kind::Create { name, .. } = &entry.kind {
                created.insert(name.clone(), (entry.log, entry.lsn));
            }
        }
        let created = created.into_iter().map(|(name, (log, lsn))| (name, log, lsn));
        if found.iter().cloned().eq(created) {
            Ok(())
        } else {
            Err(self.wrong(self.sections[5].0 * BLOCK, "the names are not those of the logs created here"))
        }
    }

    /// The ancestry is the manifest's, as far as it went then.
    fn meta(&self, len: u64, manifest: &Manifest) -> Result<()> {
        let stream = self.stream(7, len)?;
        let at = self.sections[7].0 * BLOCK;
        let mut bytes = Bytes::new(self.file, at, &stream);
        let count = bytes.varint()?;
        let ancestry = (0..count).map(|_| Timeline::read(&mut bytes)).collect::<Result<Vec<_>>>()?;
        let replaced = bytes.varint()?;
        bytes.expect("the number of replaced segments", 0, replaced)?;
        bytes.end()?;
        let known: BTreeSet<_> =
            manifest.timelines.iter().map(|timeline| (timeline.counter, timeline.random)).collect();
        if ancestry.is_empty() || !manifest.timelines.starts_with(&ancestry) {
            let what = format!("the ancestry is {ancestry:?}, of {known:?}");
            return Err(self.wrong(at, what));
        }
        Ok(())
    }
}

/// The filter of one block.
struct Filter<'a> {
    seed: u64,
    segment_len: u32,
    mask: u32,
    count_len: u32,
    /// None where every key is a maybe.
    fingerprints: Option<&'a [u8]>,
}

impl<'a> Filter<'a> {
    fn read(mut bytes: Bytes<'a>) -> Result<Self> {
        let (seed, segment_len, mask, count_len) = (bytes.u64()?, bytes.u32()?, bytes.u32()?, bytes.u32()?);
        let count = bytes.size()?;
        let rest = bytes.rest();
        let fingerprints = match (count, rest) {
            (0, [1]) => None,
            (count, rest) if rest.len() == count => Some(rest),
            _ => return Err(bytes.wrong("a filter with other fingerprints than it says")),
        };
        Ok(Self { seed, segment_len, mask, count_len, fingerprints })
    }

    /// None if the filter contradicts itself.
    fn may_hold(&self, key: u64) -> Option<bool> {
        let Some(fingerprints) = self.fingerprints else { return Some(true) };
        if fingerprints.is_empty() {
            return Some(false);
        }
        let hash = murmur_finaliser(key.wrapping_add(self.seed));
        let low = hash as u32;
        let first = ((u128::from(hash) * u128::from(self.count_len)) >> 64) as u32;
        let second = first.wrapping_add(self.segment_len);
        let third = second.wrapping_add(self.segment_len);
        let places = [first, second ^ ((low >> 18) & self.mask), third ^ (low & self.mask)];
        let mut fingerprint = (hash ^ (hash >> 32)) as u8;
        for place in places {
            fingerprint ^= fingerprints.get(place as usize)?;
        }
        Some(fingerprint == 0)
    }
}

/// The end of MurmurHash3 for 64 bits (Appleby).
fn murmur_finaliser(mut h: u64) -> u64 {
    h ^= h >> 33;
    h = h.wrapping_mul(0xff51_afd7_ed55_8ccd);
    h ^= h >> 33;
    h = h.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^ (h >> 33)
}
