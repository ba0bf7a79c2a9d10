//! A segment: every block of it checked, its chunks and the state records of its logs unpacked.
//!
//! It checks what the segment says of itself and what the manifest says of it; whether its state records follow from
//! the entries is for `states`. Invariant: what is given stands under right checksums, at the places and in the order
//! that the document has, and no byte of the file is left unread.

use super::bytes::Bytes;
use super::entry::{self, Entry, Kind, LogId, Place, TimelineId};
use super::filter::Filter;
use super::heads::{BLOCK, Identity, Manifest, SegmentMeta, Timeline, crc_from, features};
use super::{Fault, Files, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

const BODY: usize = 4064;
const BODY_AT: usize = 32;
const INDEX_ENTRY: usize = 60;
const INDEX_ENTRIES_PER_BLOCK: usize = 67;
const INDEX_BLOCKS_MAX: usize = 23;
const ROOT_ENTRY: usize = 40;
const ROOT_ENTRIES_PER_BLOCK: usize = 101;
const KEY: usize = 24;
const NOT_HERE: u32 = u32::MAX;
const CHUNK_BYTES_MAX: u64 = (16 << 20) + (64 << 10);
const STATE_BYTES_MAX: usize = 8 << 20;

/// The numbers of the kinds of checked blocks, with their names.
type Section = (u8, &'static str);
const HEADER: Section = (1, "header");
const INDEX: Section = (2, "index");
const LOOKUP: Section = (3, "lookup block");
const ROOT: Section = (4, "root");
const NAMES: Section = (6, "names");
const STATE: Section = (7, "state");
const META: Section = (8, "meta");
const FOOTER: Section = (9, "footer");

/// A segment as far as logs are concerned.
pub struct Segment {
    pub file: String,
    pub writable: bool,
    pub first_lsn: u64,
    pub last_lsn: u64,
    /// It names segments that it was merged from.
    pub merged: bool,
    /// Logs that were created here and that its names lack, with the LSN of their last creation here.
    pub unnamed: Vec<(LogId, u64)>,
    /// In the order of their LSNs.
    pub entries: Vec<Entry>,
    /// The last chunk's word on each log.
    pub logs: BTreeMap<LogId, LastChunk>,
}

/// What the index says of a log on its last chunk.
pub struct LastChunk {
    pub next_seq: u64,
    /// Its state record, if it is here.
    pub state: Option<StateRecord>,
    /// The LSN of the last change of its state.
    pub changed: u64,
    /// Flag 8: its state record is here and says that it is deleted or trimmed, or expires.
    pub ends: bool,
    /// It is gone; the timeline of the record before its next seq.
    pub gone: Option<TimelineId>,
}

/// A log's state record, without the length in front of it.
pub struct StateRecord {
    /// Where the state of its stripe begins in the file.
    pub at: usize,
    pub bytes: Vec<u8>,
}

/// A segment under way.
struct Reading<'a> {
    file: &'a str,
    id: u64,
    all: &'a [u8],
}

/// What the footer says that the manifest does not.
struct Footer {
    writable: bool,
    /// The blocks of the parts.
    stripes: Range<usize>,
    root: Range<usize>,
    names: Range<usize>,
    meta: Range<usize>,
    /// Bytes of all chunks as stored.
    chunk_bytes: u64,
    /// Length of the meta stream.
    meta_bytes: u64,
}

/// Where a stripe is, as the root has it: the numbers of the first blocks of its parts.
struct Bounds<'a> {
    key: &'a [u8],
    data: usize,
    index: usize,
    state: usize,
    lookup: usize,
    /// Length of its state stream.
    state_bytes: usize,
}

struct Stripe {
    chunks: Vec<Chunk>,
    state: Vec<u8>,
    /// Where the state begins in the file.
    state_at: usize,
}

/// An entry of the index.
struct Chunk {
    log: LogId,
    first_seq: u64,
    records: u32,
    compressed: bool,
    last: bool,
    controls: bool,
    ends: bool,
    gone: bool,
    offset: u64,
    len: usize,
    digest: u64,
    state: u32,
    changed: u64,
}

impl Chunk {
    fn next_seq(&self) -> u64 {
        self.first_seq + u64::from(self.records)
    }

    /// Whether it says of `entries` what they are. Behind entries that are no records a merge may have left out some.
    fn holds(&self, entries: &[Entry], merged: bool) -> bool {
        let records: Vec<u64> = entries.iter().filter(|entry| entry.is_record()).map(|entry| entry.seq).collect();
        let follows = |b: &Entry, seq: u64| b.seq == seq && !matches!(b.kind, Kind::Create { .. });
        let dense = entries.windows(2).all(|pair| follows(&pair[1], pair[0].next_seq()));
        let at_end = entries.last().is_some_and(|last| match last.next_seq() {
            next if merged && records.is_empty() => next <= self.next_seq(),
            next => next == self.next_seq(),
        });
        let numbered = records.iter().copied().eq(self.first_seq..self.next_seq());
        dense && at_end && numbered && self.controls == (records.len() < entries.len())
    }
}

pub fn read(files: &Files, identity: &Identity, manifest: &Manifest, meta: &SegmentMeta) -> Result<Segment> {
    let name = format!("segments/{:016x}.seg", meta.id);
    let Some((file, all)) = files.get_key_value(&name) else { return Err(Fault::damaged(&name, 0, "it is missing")) };
    if all.len() as u64 != meta.bytes || all.len() < 2 * BLOCK || !all.len().is_multiple_of(BLOCK) {
        return Err(Fault::damaged(file, 0, "its length is not what the manifest says"));
    }
    let reading = Reading { file, id: meta.id, all };
    let footer = reading.footer(identity, meta)?;
    reading.header()?;
    let stripes = reading.stripes(&footer)?;
    check_order(file, &stripes)?;
    let merged = reading.meta(footer.meta, footer.meta_bytes, manifest)?;
    check_chunkless(file, &stripes, meta, merged.then_some(manifest.cutoff))?;
    let entries = reading.entries(&stripes, &manifest.timelines, merged)?;
    let unnamed = reading.names(footer.names, identity, &entries)?;
    if !merged && !unnamed.is_empty() {
        return Err(Fault::damaged(file, 0, "a log that was created here has no name here"));
    }
    let logs = logs(file, &stripes)?;
    let segment = Segment {
        file: file.clone(),
        writable: footer.writable,
        first_lsn: meta.first_lsn,
        last_lsn: meta.last_lsn,
        merged,
        unnamed,
        entries,
        logs,
    };
    check_sums(&segment, meta)?;
    check_lsns(&segment, manifest.cutoff)?;
    Ok(segment)
}

/// What the footer counts, counted again.
fn check_sums(segment: &Segment, meta: &SegmentMeta) -> Result<()> {
    let entries = &segment.entries;
    let time = |entry: Option<&Entry>| entry.map_or(0, |entry| entry.time);
    let records = entries.iter().filter(|entry| entry.is_record()).count() as u64;
    let bytes = entries.iter().map(|entry| entry.len as u64).sum();
    let (first, last) = (time(entries.first()), time(entries.last()));
    let sums = [first, last, segment.logs.len() as u64, records, entries.len() as u64, bytes];
    let ends = segment.logs.values().filter(|log| log.ends || log.gone.is_some()).count() as u64;
    if (sums, ends) == (meta.sums, meta.ends) {
        return Ok(());
    }
    let told = (meta.sums, meta.ends);
    let what = format!("times, logs, records, entries, bytes and ends are {:?}, not {told:?}", (sums, ends));
    Err(Fault::damaged(&segment.file, 0, what))
}

/// What a flush wrote has each of its LSNs; of what was merged those up to the cutoff may be left out.
fn check_lsns(segment: &Segment, cutoff: u64) -> Result<()> {
    let covered = segment.first_lsn..=segment.last_lsn;
    let optional = if segment.merged { cutoff } else { 0 };
    let lsns = segment.entries.iter().map(|entry| entry.lsn);
    let all_behind = lsns.clone().filter(|lsn| *lsn > optional).eq(covered.clone().filter(|lsn| *lsn > optional));
    let once = segment.entries.is_sorted_by(|a, b| a.lsn < b.lsn);
    let right = once && all_behind && lsns.clone().all(|lsn| covered.contains(&lsn));
    if right { Ok(()) } else { Err(Fault::damaged(&segment.file, 0, "it does not hold each of its LSNs once")) }
}

/// The index is sorted over all stripes, and marks the last chunk of each log and no other.
fn check_order(file: &str, stripes: &[Stripe]) -> Result<()> {
    let chunks: Vec<&Chunk> = stripes.iter().flat_map(|stripe| &stripe.chunks).collect();
    let key = |chunk: &Chunk| (chunk.log, chunk.first_seq);
    for (n, chunk) in chunks.iter().enumerate() {
        let next = chunks.get(n + 1);
        let wrong = |what: &str| Fault::damaged(file, chunk.offset as usize, what);
        // The offsets grow from one chunk to the next.
        if next.is_some_and(|next| key(chunk) > key(next) || (key(chunk) == key(next) && chunk.records > 0)) {
            return Err(wrong("the index is out of order"));
        }
        let last = next.is_none_or(|next| next.log != chunk.log);
        let bare = (chunk.state, chunk.changed) == (NOT_HERE, 0) && !chunk.ends && !chunk.gone;
        if last != chunk.last || (!last && !bare) {
            return Err(wrong("a log's last chunk is not marked as such, or another one is"));
        }
    }
    Ok(())
}

/// Entries of the index without a chunk stand in merged segments alone, each last of its log there; that of a log that is
/// gone for the whole of it. A merged segment has a cutoff.
fn check_chunkless(file: &str, stripes: &[Stripe], meta: &SegmentMeta, cutoff: Option<u64>) -> Result<()> {
    let (merged, cutoff) = (cutoff.is_some(), cutoff.unwrap_or(0));
    let mut before = None;
    for chunk in stripes.iter().flat_map(|stripe| &stripe.chunks) {
        let alone = before != Some(chunk.log) && chunk.last;
        before = Some(chunk.log);
        let plain = chunk.records == 0 && !chunk.compressed && !chunk.controls;
        let of_gone = chunk.gone && !chunk.ends && chunk.state == NOT_HERE;
        let changed_here = (meta.first_lsn..=meta.last_lsn.min(cutoff)).contains(&chunk.changed);
        let right = match (chunk.len, chunk.gone) {
            (0, true) => merged && alone && plain && of_gone && changed_here,
            (0, false) => merged && chunk.last && plain && chunk.digest == 0,
            (_, gone) => !gone,
        };
        if !right {
            return Err(Fault::damaged(file, chunk.offset as usize, "an entry of the index without a chunk is wrong"));
        }
    }
    Ok(())
}

/// The last chunks' word on their logs.
fn logs(file: &str, stripes: &[Stripe]) -> Result<BTreeMap<LogId, LastChunk>> {
    let mut logs = BTreeMap::new();
    for stripe in stripes {
        let mut states = Bytes::new(file, stripe.state_at, &stripe.state);
        for chunk in stripe.chunks.iter().filter(|chunk| chunk.last) {
            let state = state_record(chunk, stripe.state_at, &mut states)?;
            let gone = chunk.gone.then_some((chunk.digest as u32, (chunk.digest >> 32) as u32));
            let (next_seq, changed, ends) = (chunk.next_seq(), chunk.changed, chunk.ends);
            logs.insert(chunk.log, LastChunk { next_seq, state, changed, ends, gone });
        }
        states.end()?;
    }
    Ok(logs)
}

/// The state record of a log with this last chunk: the next one of the stripe's stream, if there is one.
fn state_record(chunk: &Chunk, at: usize, states: &mut Bytes<'_>) -> Result<Option<StateRecord>> {
    if chunk.state == NOT_HERE {
        return Ok(None);
    }
    states.expect("the offset of a state record", states.at() as u64, u64::from(chunk.state))?;
    Ok(Some(StateRecord { at, bytes: states.bytes(STATE_BYTES_MAX)?.to_vec() }))
}

impl<'a> Reading<'a> {
    fn wrong(&self, at: usize, what: impl Into<String>) -> Fault {
        Fault::damaged(self.file, at, what)
    }

    /// The used part of the body of the checked block `number`, and where it begins in the file.
    fn block(&self, number: usize, section: Section) -> Result<(usize, &'a [u8])> {
        let at = number * BLOCK;
        let block = self.all.get(at..at + BLOCK).ok_or_else(|| self.wrong(at, "a block is missing"))?;
        let mut bytes = Bytes::new(self.file, at, block);
        let crc = bytes.u32()?;
        if crc != crc_from(0, &block[4..]) {
            return Err(self.wrong(at, format!("the CRC of a block of the {} is wrong", section.1)));
        }
        let kind = bytes.u8()?;
        bytes.expect("the section of a block", u64::from(section.0), u64::from(kind))?;
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
        Ok((at + BODY_AT, body))
    }

    /// The used parts of blocks of a section, each with its place in the file.
    fn blocks(&self, blocks: Range<usize>, section: Section) -> Result<Vec<(usize, &'a [u8])>> {
        blocks.map(|number| self.block(number, section)).collect()
    }

    /// Things of one length, so many to a block, all blocks but the last full.
    fn table(
        &self, blocks: Range<usize>, section: Section, len: usize, per_block: usize,
    ) -> Result<Vec<(usize, &'a [u8])>> {
        let blocks = self.blocks(blocks, section)?;
        let mut out = Vec::new();
        for (n, (at, used)) in blocks.iter().enumerate() {
            let full = used.len() == len * per_block;
            if !used.len().is_multiple_of(len) || used.is_empty() || (n + 1 < blocks.len() && !full) {
                return Err(self.wrong(*at, format!("a block of the {} is not as full as it must be", section.1)));
            }
            out.extend(used.chunks(len).enumerate().map(|(i, thing)| (at + i * len, thing)));
        }
        Ok(out)
    }

    fn stream(&self, blocks: Range<usize>, section: Section, len: u64) -> Result<Vec<u8>> {
        let first = blocks.start * BLOCK;
        let blocks = self.blocks(blocks, section)?;
        let mut out = Vec::new();
        for (n, (at, used)) in blocks.iter().enumerate() {
            if used.is_empty() || (n + 1 < blocks.len() && used.len() != BODY) {
                return Err(self.wrong(*at, "a block of a stream is not full"));
            }
            out.extend_from_slice(used);
        }
        if out.len() as u64 == len {
            Ok(out)
        } else {
            Err(self.wrong(first, format!("the {} has {} bytes, not {len}", section.1, out.len())))
        }
    }

    fn footer(&self, identity: &Identity, meta: &SegmentMeta) -> Result<Footer> {
        let last = self.all.len() / BLOCK - 1;
        let (at, body) = self.block(last, FOOTER)?;
        let mut bytes = Bytes::new(self.file, at, body);
        if bytes.array()? != *b"EVLGSEGF" {
            return Err(bytes.wrong("the footer's magic is wrong"));
        }
        let writable = features(self.file, &mut bytes)?;
        let same = (bytes.array::<16>()?, bytes.u64()?, bytes.u64()?, bytes.u64()?);
        if same != (identity.store, meta.id, meta.first_lsn, meta.last_lsn) {
            return Err(bytes.wrong("store, id or LSNs are not what the manifest says"));
        }
        for sum in meta.sums {
            let found = bytes.u64()?;
            bytes.expect("a sum of the footer", sum, found)?;
        }
        let ends = bytes.u64()?;
        bytes.expect("the ends of the footer", meta.ends, ends)?;
        let stripes = part(&mut bytes, 1, last)?;
        let root = part(&mut bytes, stripes.end, last)?;
        let names = part(&mut bytes, root.end, last)?;
        let meta_blocks = part(&mut bytes, names.end, last)?;
        bytes.expect("the footer's block", meta_blocks.end as u64, last as u64)?;
        let (chunk_bytes, meta_bytes) = (bytes.u64()?, bytes.u64()?);
        let digest = bytes.array::<32>()?;
        bytes.end()?;
        let before = &self.all[..last * BLOCK];
        if *blake3::hash(before).as_bytes() != digest || *blake3::hash(self.all).as_bytes() != meta.digest {
            return Err(self.wrong(0, "the BLAKE3 of the file is wrong"));
        }
        Ok(Footer { writable, stripes, root, names, meta: meta_blocks, chunk_bytes, meta_bytes })
    }

    fn header(&self) -> Result<()> {
        let (at, body) = self.block(0, HEADER)?;
        let mut bytes = Bytes::new(self.file, at, body);
        if bytes.array()? != *b"EVLGSEGM" {
            return Err(bytes.wrong("the header's magic is wrong"));
        }
        let (_, in_footer) = self.block(self.all.len() / BLOCK - 1, FOOTER)?;
        if bytes.take(72)? != &in_footer[8..80] {
            return Err(bytes.wrong("header and footer differ"));
        }
        bytes.end()
    }

    /// The stripes, which fill their part of the file.
    fn stripes(&self, footer: &Footer) -> Result<Vec<Stripe>> {
        let mut stripes = Vec::new();
        let mut next = footer.stripes.start;
        for (at, entry) in self.table(footer.root.clone(), ROOT, ROOT_ENTRY, ROOT_ENTRIES_PER_BLOCK)? {
            let bounds = bounds(Bytes::new(self.file, at, entry), next, footer.stripes.end)?;
            stripes.push(self.stripe(&bounds)?);
            next = bounds.lookup + 1;
        }
        if next != footer.stripes.end {
            return Err(self.wrong(next * BLOCK, "blocks of stripes that the root does not have"));
        }
        let lens = stripes.iter().flat_map(|stripe| &stripe.chunks).map(|chunk| chunk.len as u64);
        if lens.sum::<u64>() != footer.chunk_bytes {
            return Err(self.wrong(0, "the chunks have another length in all than the footer says"));
        }
        Ok(stripes)
    }

    fn stripe(&self, bounds: &Bounds<'_>) -> Result<Stripe> {
        let chunks = self.index(bounds)?;
        self.lookup(bounds, &chunks)?;
        let state = self.stream(bounds.state..bounds.lookup, STATE, bounds.state_bytes as u64)?;
        Ok(Stripe { chunks, state, state_at: bounds.state * BLOCK })
    }

    /// The chunks follow one another from the stripe's beginning on, and fill its blocks of data.
    fn index(&self, bounds: &Bounds<'_>) -> Result<Vec<Chunk>> {
        let mut chunks = Vec::new();
        let mut next = (bounds.data * BLOCK) as u64;
        for (at, entry) in self.table(bounds.index..bounds.state, INDEX, INDEX_ENTRY, INDEX_ENTRIES_PER_BLOCK)? {
            let mut bytes = Bytes::new(self.file, at, entry);
            let chunk = chunk(&mut bytes)?;
            bytes.expect("the offset of a chunk", next, chunk.offset)?;
            next += chunk.len as u64;
            chunks.push(chunk);
        }
        let end = (bounds.index * BLOCK) as u64;
        if next.next_multiple_of(BLOCK as u64) != end {
            return Err(self.wrong(bounds.data * BLOCK, "the chunks are not all of a stripe's data"));
        }
        let padding = &self.all[next as usize..end as usize];
        Bytes::new(self.file, next as usize, padding).zeros(padding.len())?;
        Ok(chunks)
    }

    /// The keys are those of the index blocks, the first one the root's too; and every log of the stripe is a maybe.
    fn lookup(&self, bounds: &Bounds<'_>, chunks: &[Chunk]) -> Result<()> {
        let (at, body) = self.block(bounds.lookup, LOOKUP)?;
        let mut bytes = Bytes::new(self.file, at, body);
        let filter = Filter::read(&mut bytes, self.id, bounds.lookup)?;
        let key = |chunk: &Chunk| [&chunk.log[..], &chunk.first_seq.to_le_bytes()].concat();
        let keys: Vec<_> = chunks.iter().step_by(INDEX_ENTRIES_PER_BLOCK).map(key).collect();
        if bytes.take(keys.len() * KEY)? != keys.concat() || keys[0] != bounds.key {
            return Err(self.wrong(at, "keys are not those of the blocks of the index"));
        }
        bytes.end()?;
        for chunk in chunks {
            let key = u64::from_le_bytes(*chunk.log.last_chunk().expect("a LogId has 16 bytes"));
            if !filter.may_hold(key) {
                return Err(self.wrong(at, "the filter denies a log that is there"));
            }
        }
        Ok(())
    }

    /// All entries, in the order of their LSNs.
    fn entries(&self, stripes: &[Stripe], timelines: &[Timeline], merged: bool) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for chunk in stripes.iter().flat_map(|stripe| &stripe.chunks).filter(|chunk| chunk.len > 0) {
            let at = chunk.offset as usize;
            let stored = &self.all[at..at + chunk.len];
            if twox_hash::XxHash3_64::oneshot_with_seed(0, stored) != chunk.digest {
                return Err(self.wrong(at, "the digest of a chunk is wrong"));
            }
            let unpacked = if chunk.compressed { self.decompress(at, stored)? } else { stored.to_vec() };
            let from_here = self.chunk(chunk, &unpacked, timelines, merged)?;
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

    fn chunk(&self, chunk: &Chunk, unpacked: &[u8], timelines: &[Timeline], merged: bool) -> Result<Vec<Entry>> {
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
        if chunk.holds(&entries, merged) {
            Ok(entries)
        } else {
            Err(bytes.wrong("a chunk does not hold what the index says"))
        }
    }

    /// The names of the logs that were created here, each of them its LogId's. Gives the logs whose names are missing.
    fn names(&self, blocks: Range<usize>, identity: &Identity, entries: &[Entry]) -> Result<Vec<(LogId, u64)>> {
        let mut found: Vec<(Vec<u8>, LogId, u64)> = Vec::new();
        let first = blocks.start * BLOCK;
        for (at, used) in self.blocks(blocks, NAMES)? {
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
        if found.into_iter().all(|(name, log, lsn)| created.remove(&name) == Some((log, lsn))) {
            Ok(created.into_values().collect())
        } else {
            Err(self.wrong(first, "a name that is not that of a log created here"))
        }
    }

    /// The ancestry is the manifest's, as far as it went then. Gives whether the segment was merged from others, none
    /// of which the manifest has any more.
    fn meta(&self, blocks: Range<usize>, len: u64, manifest: &Manifest) -> Result<bool> {
        let at = blocks.start * BLOCK;
        let stream = self.stream(blocks, META, len)?;
        let mut bytes = Bytes::new(self.file, at, &stream);
        let count = bytes.varint()?;
        let ancestry = (0..count).map(|_| Timeline::read(&mut bytes)).collect::<Result<Vec<_>>>()?;
        let count = bytes.varint()?;
        let replaced = (0..count).map(|_| bytes.u64()).collect::<Result<Vec<_>>>()?;
        bytes.end()?;
        let known: BTreeSet<_> =
            manifest.timelines.iter().map(|timeline| (timeline.counter, timeline.random)).collect();
        if ancestry.is_empty() || !manifest.timelines.starts_with(&ancestry) {
            let what = format!("the ancestry is {ancestry:?}, of {known:?}");
            return Err(self.wrong(at, what));
        }
        if manifest.segments.iter().any(|segment| replaced.contains(&segment.id)) {
            return Err(self.wrong(at, "it was merged from a segment that the manifest has"));
        }
        Ok(!replaced.is_empty())
    }
}

/// The blocks of a part, which begins at the block `start`; the footer is the block `last`.
fn part(bytes: &mut Bytes<'_>, start: usize, last: usize) -> Result<Range<usize>> {
    let (first, count) = (bytes.u64()?, bytes.u64()?);
    bytes.expect("the first block of a part", start as u64, first)?;
    let count = usize::try_from(count).ok().filter(|count| *count <= last - start);
    Ok(start..start + count.ok_or_else(|| bytes.wrong("a part goes past the footer"))?)
}

/// An entry of the root: of a stripe that begins at the block `data`, and ends at or before the block `end`.
fn bounds(mut bytes: Bytes<'_>, data: usize, end: usize) -> Result<Bounds<'_>> {
    let key = bytes.take(KEY)?;
    let (lookup, index_blocks) = (bytes.u64()?, usize::from(bytes.u16()?));
    bytes.zeros(2)?;
    let state_bytes = bytes.size()?;
    bytes.end()?;
    if !(1..=INDEX_BLOCKS_MAX).contains(&index_blocks) {
        return Err(bytes.wrong(format!("a stripe with {index_blocks} blocks of index")));
    }
    let lookup = usize::try_from(lookup).ok().filter(|lookup| *lookup < end);
    let lookup = lookup.ok_or_else(|| bytes.wrong("a stripe goes past its part of the file"))?;
    let state = lookup.checked_sub(state_bytes.div_ceil(BODY));
    let index = state.and_then(|state| state.checked_sub(index_blocks)).filter(|index| data <= *index);
    let index = index.ok_or_else(|| bytes.wrong("a stripe without room for its data"))?;
    Ok(Bounds { key, data, index, state: index + index_blocks, lookup, state_bytes })
}

/// An entry of the index.
fn chunk(bytes: &mut Bytes<'_>) -> Result<Chunk> {
    let (log, first_seq, records, flags) = (bytes.array()?, bytes.u64()?, bytes.u32()?, bytes.u16()?);
    let mut offset = [0; 8];
    offset[..6].copy_from_slice(bytes.take(6)?);
    let offset = u64::from_le_bytes(offset);
    let (len, digest, state, changed) = (bytes.size()?, bytes.u64()?, bytes.u32()?, bytes.u64()?);
    bytes.end()?;
    if flags > 31 {
        return Err(bytes.wrong(format!("a chunk with the flags {flags:#x}")));
    }
    let (compressed, last, controls) = (flags & 1 != 0, flags & 2 != 0, flags & 4 != 0);
    let (ends, gone) = (flags & 8 != 0, flags & 16 != 0);
    Ok(Chunk { log, first_seq, records, compressed, last, controls, ends, gone, offset, len, digest, state, changed })
}
