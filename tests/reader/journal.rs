//! The journal: which frames continue the chain behind the last one flushed, and what proves that more must be there.
//!
//! Every block of every file is looked at for headers, also inside the extent of a valid frame: a record that holds a
//! copy of a frame of its own store at its own place would mislead this reader. Invariant: each frame that is given is
//! valid and continues the chain, in the words of the document.

use super::bytes::Bytes;
use super::entry::{self, Entry, Place, TimelineId};
use super::heads::{BLOCK, FrameRef, Identity, Manifest, Timeline, crc_at_end, crc_from, features};
use super::{Fault, Files, Framed, Result};
use std::collections::BTreeMap;

const HEADER: usize = 192;
const FIRST_OF_OPEN: u16 = 1;
const CLEAN_CLOSE: u16 = 2;

/// A frame of the chain.
pub struct Frame {
    pub place: Framed,
    pub entries: Vec<Entry>,
    timeline: TimelineId,
    first_lsn: u64,
    time: u64,
    opens: bool,
}

/// The frames behind the last one flushed.
pub struct Chain {
    pub frames: Vec<Frame>,
    pub clean: bool,
    pub end: u64,
    pub writable: bool,
    /// The steady time of the last frame; 0 if there is none.
    pub steady: u64,
}

impl Chain {
    /// Adds the timelines that began behind the manifest.
    pub fn begin_timelines(&self, timelines: &mut Vec<Timeline>) {
        for frame in self.frames.iter().filter(|frame| frame.opens) {
            let (counter, random) = frame.timeline;
            let parent = timelines.last().map_or((0, 0), |last| (last.counter, last.random));
            if parent != frame.timeline {
                let (first_lsn, began) = (frame.first_lsn, frame.time);
                timelines.push(Timeline { counter, random, parent, first_lsn, began, cause: 1 });
            }
        }
    }
}

/// The header of a journal file.
struct FileHeader {
    journal: u64,
    left: FrameRef,
    writable: bool,
}

/// A frame's header whose checksum is right, and which names this store.
struct Header {
    /// Where it was found.
    at: usize,
    flags: u16,
    depth: u64,
    journal: u64,
    offset: u64,
    number: u64,
    first_lsn: u64,
    entries: u32,
    batches: u32,
    payload: usize,
    len: usize,
    timeline: TimelineId,
    time: u64,
    durable_lsn: u64,
    durable_frame: u64,
    predecessor: (u64, u64, [u8; 16]),
    steady: u64,
    hash: [u8; 16],
    payload_crc: u32,
}

impl Header {
    fn names(&self, frame: &FrameRef) -> bool {
        self.predecessor == (frame.journal, frame.offset, frame.hash) && self.number == frame.number + 1
    }

    /// The last frame that this header proves durable.
    fn proves(&self) -> u64 {
        let closed = if self.flags & CLEAN_CLOSE == 0 { 0 } else { self.number - 1 };
        self.durable_frame.max(closed).max(self.number.saturating_sub(self.depth))
    }
}

/// A journal file with all headers of frames that stand in it.
struct File<'a> {
    name: &'a str,
    bytes: &'a [u8],
    header: Option<FileHeader>,
    frames: BTreeMap<usize, Header>,
}

pub fn read(files: &Files, identity: &Identity, manifest: &Manifest) -> Result<Chain> {
    let is_journal = |name: &str| name.strip_prefix("journal-").is_some_and(|slot| slot.len() == 4);
    let journals = files.iter().filter(|(name, _)| is_journal(name));
    let journals: Vec<File<'_>> = journals.map(|(name, bytes)| scan(name, bytes, identity)).collect::<Result<_>>()?;

    let mut chain =
        Chain { frames: Vec::new(), clean: true, end: manifest.flushed.last_lsn, writable: true, steady: 0 };
    let (mut at, mut time) = (manifest.flushed, manifest.flushed_time);
    // Whether the frame that was flushed last closed the store is known only while its header stands.
    if let Some(flushed) = journals.iter().flat_map(|file| file.frames.values()).find(|frame| frame.hash == at.hash) {
        chain.clean = flushed.flags & CLEAN_CLOSE != 0;
    } else if at.number > 0 {
        chain.clean = false;
    }
    while let Some((file, header)) = next(&journals, &at) {
        let Some(payload) = payload(file, header, identity) else { break };
        if header.first_lsn != at.last_lsn + 1 || header.time < time {
            break;
        }
        let entries = entries(file, header, payload)?;
        let len = header.len as u64;
        let last_lsn = at.last_lsn + u64::from(header.entries);
        let (journal, offset, number, hash) = (header.journal, header.offset, header.number, header.hash);
        at = FrameRef { journal, offset, len, number, last_lsn, hash };
        time = header.time;
        chain.clean = header.flags & CLEAN_CLOSE != 0;
        chain.end = last_lsn;
        chain.steady = header.steady;
        match &file.header {
            Some(of_file) if of_file.journal == journal => chain.writable &= of_file.writable,
            _ => return Err(Fault::damaged(file.name, 0, "the header of a file in use is not this use's")),
        }
        chain.frames.push(Frame {
            place: Framed {
                file: file.name.to_owned(),
                at: header.at,
                len: header.len,
                number,
                proves: header.proves(),
            },
            entries,
            timeline: header.timeline,
            first_lsn: header.first_lsn,
            time,
            opens: header.flags & FIRST_OF_OPEN != 0,
        });
    }
    for file in &journals {
        for (place, header) in &file.frames {
            if header.proves() > at.number || header.durable_lsn > at.last_lsn {
                let what =
                    format!("a proof that frame {} and LSN {} must be there", header.proves(), header.durable_lsn);
                let end = format!("the chain ends with frame {} and LSN {}", at.number, at.last_lsn);
                return Err(Fault::damaged(file.name, *place, format!("{what}, but {end}")));
            }
        }
    }
    Ok(chain)
}

fn scan<'a>(name: &'a str, bytes: &'a [u8], identity: &Identity) -> Result<File<'a>> {
    let header = file_header(name, bytes, identity)?;
    let mut frames = BTreeMap::new();
    for at in (BLOCK..bytes.len()).step_by(BLOCK) {
        if let Some(header) = frame_header(name, bytes, at, identity)? {
            frames.insert(at, header);
        }
    }
    Ok(File { name, bytes, header, frames })
}

fn file_header(name: &str, all: &[u8], identity: &Identity) -> Result<Option<FileHeader>> {
    let Some(block) = all.get(..BLOCK).filter(|block| block.starts_with(b"EVLGJRNL")) else { return Ok(None) };
    let journal = u64::from_le_bytes(*block[56..].first_chunk().expect("a block is longer"));
    if !crc_at_end(block, identity.salt(journal)) {
        return Ok(None);
    }
    let mut bytes = Bytes::new(name, 8, &block[8..BLOCK - 4]);
    let writable = features(name, &mut bytes)?;
    if bytes.array::<16>()? != identity.store {
        return Ok(None);
    }
    bytes.u64()?;
    let size = bytes.u64()?;
    bytes.expect("the size of the file", all.len() as u64, size)?;
    let _timeline = bytes.u64()?;
    let (journal_left, offset, len, number) = (bytes.u64()?, bytes.u64()?, bytes.u64()?, bytes.u64()?);
    let (last_lsn, hash) = (bytes.u64()?, bytes.array()?);
    bytes.zeros(3956)?;
    bytes.end()?;
    let left = FrameRef { journal: journal_left, offset, len, number, last_lsn, hash };
    Ok(Some(FileHeader { journal, left, writable }))
}

/// The header at `at`, if there is one: conditions 1 to 4 of a valid frame.
fn frame_header(name: &str, all: &[u8], at: usize, identity: &Identity) -> Result<Option<Header>> {
    let Some(head) = all.get(at..at + HEADER).filter(|head| head.starts_with(b"EVLGFRAM")) else { return Ok(None) };
    let journal = u64::from_le_bytes(*head[32..].first_chunk().expect("a header is longer"));
    if !crc_at_end(head, identity.salt(journal)) {
        return Ok(None);
    }
    let mut bytes = Bytes::new(name, at + 8, &head[8..HEADER - 4]);
    let (format, flags, len_of_header, depth) = (bytes.u16()?, bytes.u16()?, bytes.u16()?, bytes.u16()?);
    if format != 0 || flags & !(FIRST_OF_OPEN | CLEAN_CLOSE) != 0 {
        return Ok(None);
    }
    if bytes.array::<16>()? != identity.store || usize::from(len_of_header) != HEADER {
        return Ok(None);
    }
    bytes.u64()?;
    let (offset, number, first_lsn) = (bytes.u64()?, bytes.u64()?, bytes.u64()?);
    let (entries, batches, payload, len) = (bytes.u32()?, bytes.u32()?, bytes.size()?, bytes.size()?);
    let _epoch = bytes.u64()?;
    let (timeline, time) = ((bytes.u32()?, bytes.u32()?), bytes.u64()?);
    let (durable_lsn, durable_frame) = (bytes.u64()?, bytes.u64()?);
    let _manifest = bytes.u64()?;
    let predecessor = (bytes.u64()?, bytes.u64()?, bytes.array()?);
    let steady = bytes.u64()?;
    bytes.zeros(16)?;
    let payload_crc = bytes.u32()?;
    let hash = *blake3::hash(head).as_bytes().first_chunk().expect("a hash has 32 bytes");
    Ok(Some(Header {
        at,
        flags,
        depth: u64::from(depth),
        journal,
        offset,
        number,
        first_lsn,
        entries,
        batches,
        payload,
        len,
        timeline,
        time,
        durable_lsn,
        durable_frame,
        predecessor,
        steady,
        hash,
        payload_crc,
    }))
}

/// The payload of the frame, if it is valid: conditions 5 to 8, the file being that use's by where it is looked for.
fn payload<'a>(file: &File<'a>, header: &Header, identity: &Identity) -> Option<&'a [u8]> {
    let fits = header.len == (HEADER + header.payload).next_multiple_of(BLOCK) && header.len <= file.bytes.len() / 4;
    if !fits || header.offset != header.at as u64 {
        return None;
    }
    let covered = file.bytes.get(header.at + HEADER..header.at + header.len)?;
    let (payload, padding) = covered.split_at(header.payload);
    let right = crc_from(identity.salt(header.journal), covered) == header.payload_crc;
    (right && padding.iter().all(|byte| *byte == 0)).then_some(payload)
}

/// What stands behind the frame `at`, whether it is valid or not.
fn next<'f, 'a>(files: &'f [File<'a>], at: &FrameRef) -> Option<(&'f File<'a>, &'f Header)> {
    // Another file first. The latest use that was begun prevails, and if its first frame cannot be read the chain ends.
    let begun = files.iter().filter_map(|file| {
        let first = file.frames.get(&BLOCK).filter(|first| first.offset == BLOCK as u64);
        if let Some(first) = first.filter(|first| first.names(at) && first.journal > at.journal) {
            return Some((first.journal, file, Some(first)));
        }
        let header = file.header.as_ref().filter(|header| header.left == *at && header.journal > at.journal)?;
        let stands = file.frames.values().any(|frame| frame.journal == header.journal);
        stands.then_some((header.journal, file, None))
    });
    if let Some((_, file, first)) = begun.max_by_key(|(journal, ..)| *journal) {
        return first.map(|first| (file, first));
    }
    let behind = usize::try_from(at.offset + at.len).ok()?;
    let mut same = files.iter().filter_map(|file| Some((file, file.frames.get(&behind)?)));
    same.find(|(_, frame)| frame.journal == at.journal && frame.names(at))
}

fn entries(file: &File<'_>, header: &Header, payload: &[u8]) -> Result<Vec<Entry>> {
    let base = header.at + HEADER;
    let mut bytes = Bytes::new(file.name, base, payload);
    let (mut entries, mut batches) = (Vec::new(), 0);
    while !bytes.is_empty() {
        let (len, count) = (bytes.size()?, bytes.u32()?);
        let batch_at = bytes.at();
        let mut batch = Bytes::new(file.name, base + batch_at, bytes.take(len)?);
        for _ in 0..count {
            let log = batch.array()?;
            let body = batch.bytes(len)?;
            let lsn = header.first_lsn + entries.len() as u64;
            let place = Place { log, lsn, time: header.time, timeline: header.timeline };
            let body_at = base + batch_at + batch.at() - body.len();
            entries.push(entry::read(file.name, body_at, body, place)?);
        }
        batch.end()?;
        batches += 1;
    }
    bytes.expect("the number of batches", u64::from(header.batches), batches)?;
    bytes.expect("the number of entries", u64::from(header.entries), entries.len() as u64)?;
    Ok(entries)
}
