//! The check of a whole segment: every byte is read again past the page cache, and what is wrong is named by log and
//! seqs as far as that can be known.
//!
//! Heals nothing and stops at nothing. The index is walked in its order, which is the order of the data in the file, so
//! that one pass over the file serves digests, chunks and entries. Invariant: any byte that is not what was written
//! gives a finding; one that names a log names it rightly.

use super::chunk;
use super::index::IndexBlock;
use super::reader::Segment;
use super::stream::Stream;
use super::view::message;
use crate::error::Result;
use crate::finding::Finding;
use crate::format::block::{self, BODY_LEN, Section};
use crate::format::chunk::ChunkEntries;
use crate::format::entry::{Entry, Kind};
use crate::format::segment::{Footer, Header, IndexEntry, KEYS_PER_BLOCK};
use crate::types::{BLOCK, LogId, Lsn};
use std::collections::BTreeSet;

/// More findings than these are counted, not listed.
const FINDINGS_MAX: usize = 100_000;
/// Index blocks that are read at once.
const RUN_BLOCKS: u64 = 64;

impl Segment {
    /// Reads the whole file again, past the page cache, and checks all that can be checked: digests, blocks, chunks,
    /// every entry's checksum, and that the parts agree with each other. `on_bytes` is told of bytes as they are read.
    pub fn verify(&self, on_bytes: &mut dyn FnMut(u64)) -> Vec<Finding> {
        let stream = Stream::new(&*self.view.io, &self.view.file, self.meta.bytes, on_bytes);
        let mut check = Check {
            segment: self,
            stream,
            findings: Vec::new(),
            left_out: 0,
            reported: BTreeSet::new(),
            previous: None,
            previous_lsn: Lsn(0),
            next_offset: Some(BLOCK as u64),
            next_state: Some(0),
            counted: Counted::default(),
            complete: true,
        };
        check.header();
        check.index();
        check.blocks();
        check.names();
        check.whole();
        check.findings
    }
}

#[derive(Default, PartialEq, Eq)]
struct Counted {
    logs: u64,
    records: u64,
    entries: u64,
    payload_bytes: u64,
}

struct Check<'a> {
    segment: &'a Segment,
    stream: Stream<'a>,
    findings: Vec<Finding>,
    left_out: u64,
    /// Blocks that have a finding already.
    reported: BTreeSet<u64>,
    /// The index entry before; None at the start and after damage.
    previous: Option<IndexEntry>,
    /// The last LSN of the log in hand.
    previous_lsn: Lsn,
    /// Where the next chunk must begin; None after damage.
    next_offset: Option<u64>,
    /// Where the next state record must begin; None after damage.
    next_state: Option<u64>,
    counted: Counted,
    /// Whether all entries were seen, so that the counts must be right.
    complete: bool,
}

impl Check<'_> {
    fn report(&mut self, finding: Finding) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        } else {
            self.left_out += 1;
        }
    }

    fn finding(&self, offset: u64, what: impl Into<String>) -> Finding {
        Finding { offset: Some(offset), ..Finding::new(&*self.segment.view.file.path, what) }
    }

    fn report_block(&mut self, section: Section, number: u64, what: &str) {
        self.report_once(number, message(section, number, what));
    }

    fn report_once(&mut self, number: u64, what: String) {
        if self.reported.insert(number) {
            let mut finding = self.finding(number * BLOCK as u64, what);
            finding.lsns = Some(self.segment.view.lsns.clone());
            self.report(finding);
        }
    }

    fn report_chunk(&mut self, entry: &IndexEntry, what: &str) {
        let mut finding = self.finding(entry.offset, format!("a chunk of the segment is damaged: {what}"));
        finding.log = Some(entry.log.to_string());
        finding.seqs = Some(entry.first_seq.0..entry.next_seq().0);
        self.report(finding);
        self.complete = false;
    }

    fn header(&mut self) {
        let footer = &self.segment.footer;
        let body = block::decode(self.stream.get(0..BLOCK as u64), Section::Header, self.segment.meta.id, 0);
        match body.and_then(Header::decode) {
            Ok(header) if header == footer.header => {}
            Ok(_) => self.report_block(Section::Header, 0, "the footer says otherwise"),
            Err(m) => self.report_block(Section::Header, 0, m.what),
        }
    }

    fn index(&mut self) {
        let segment = self.segment;
        let place = segment.footer.places.index;
        for first in (0..place.blocks).step_by(RUN_BLOCKS as usize) {
            let count = RUN_BLOCKS.min(place.blocks - first) as usize;
            let offset = (place.first + first) * BLOCK as u64;
            let run = segment.view.io.read_at(&segment.view.file, offset, count * BLOCK).ok();
            for (i, n) in (first..first + count as u64).enumerate() {
                let raw = run.as_ref().and_then(|run| run.get(i * BLOCK..(i + 1) * BLOCK));
                let block = segment.index_block_on_disk(n, raw);
                self.index_block(n, block);
            }
        }
        let data_end = BLOCK as u64 + segment.footer.data_bytes;
        if self.next_offset.is_some_and(|next| next != data_end) {
            let finding = self.finding(data_end, "the data goes on after its last chunk");
            self.report(finding);
        }
        if self.next_state.is_some_and(|next| next != segment.footer.state_bytes) {
            let at = segment.footer.places.state.first * BLOCK as u64;
            let finding = self.finding(at, "the state stream has records that no log refers to");
            self.report(finding);
        }
    }

    fn index_block(&mut self, n: u64, block: Result<IndexBlock<'_>>) {
        let number = self.segment.footer.places.index.first + n;
        let fence = self.segment.fence_key(n);
        let entries = block.map_err(|e| e.message().to_owned()).and_then(|block| {
            let entries = (0..block.len()).map(|i| self.segment.index_entry(n, &block, i));
            entries.collect::<Result<Vec<_>>>().map_err(|e| e.message().to_owned())
        });
        match entries {
            Ok(entries) => {
                match fence {
                    Ok(key) if key == entries[0].key() => {}
                    Ok(_) => self.report_block(Section::Index, number, "it does not begin with its fence key"),
                    Err(e) => {
                        let fence_number = self.segment.footer.places.fence.first + n / KEYS_PER_BLOCK as u64;
                        self.report_once(fence_number, e.message().to_owned());
                    }
                }
                entries.iter().for_each(|entry| self.entry(number, entry));
            }
            Err(mut what) => {
                if let (Ok(from), Ok(to)) = (fence, self.segment.fence_key_after(n)) {
                    let to = to.map_or("the last".to_owned(), |key| key.log.to_string());
                    what = format!("{what}; it lists chunks of logs from {} up to {to}", from.log);
                }
                self.report_once(number, what);
                (self.previous, self.next_offset, self.next_state) = (None, None, None);
                self.complete = false;
            }
        }
    }

    /// Checks one index entry, found in block `number`: against the one before, the filter, its state and its chunk.
    fn entry(&mut self, number: u64, entry: &IndexEntry) {
        let starts = match &self.previous {
            Some(before) if before.log == entry.log => {
                if before.is_last() || before.next_seq() > entry.first_seq {
                    self.report_block(Section::Index, number, "chunks of a log that do not follow one another");
                }
                false
            }
            Some(before) => {
                if before.log > entry.log || !before.is_last() {
                    self.report_block(Section::Index, number, "logs that do not follow one another");
                }
                true
            }
            None => true,
        };
        if starts {
            self.previous_lsn = Lsn(0);
        }
        self.previous = Some(*entry);
        if entry.is_last() {
            self.counted.logs += 1;
            if !self.segment.may_hold(entry.log) {
                let mut finding = self.finding(number * BLOCK as u64, "the filter denies a log that is in the index");
                finding.log = Some(entry.log.to_string());
                self.report(finding);
            }
            if let Some(at) = entry.state_at {
                self.state(entry.log, u64::from(at));
            }
        }
        self.chunk(entry);
    }

    fn state(&mut self, log: LogId, at: u64) {
        let wrong = if self.next_state.is_some_and(|next| next != at) {
            Some("the log's state record is not where the one before ends".to_owned())
        } else {
            match self.segment.state_record(at) {
                Ok((_, end)) => {
                    self.next_state = Some(end);
                    None
                }
                Err(e) => Some(e.message().to_owned()),
            }
        };
        if let Some(what) = wrong {
            self.next_state = None;
            let first = self.segment.footer.places.state.first * BLOCK as u64;
            let mut finding = self.finding(first + at / BODY_LEN as u64 * BLOCK as u64, what);
            finding.log = Some(log.to_string());
            self.report(finding);
        }
    }

    fn chunk(&mut self, entry: &IndexEntry) {
        if let Err(what) = self.segment.check_bounds(entry) {
            self.next_offset = None;
            return self.report_chunk(entry, what);
        }
        let follows = self.next_offset.is_none_or(|next| next == entry.offset) && entry.offset >= self.stream.start();
        let end = entry.offset + u64::from(entry.len);
        if !follows {
            self.next_offset = None;
            return self.report_chunk(entry, "it does not follow the chunk before");
        }
        self.next_offset = Some(end);
        let stored = self.stream.get(entry.offset..end);
        let read = match chunk::expand(entry, stored) {
            Ok(Some(plain)) => entries(entry, &plain, self.previous_lsn),
            Ok(None) => entries(entry, stored, self.previous_lsn),
            Err(m) => Err(m.what),
        };
        match read {
            Ok(Read { last_lsn, entries, payload_bytes }) => {
                let lsns = &self.segment.view.lsns;
                if last_lsn.0 >= lsns.end || last_lsn.0 < lsns.start {
                    self.report_chunk(entry, "it holds an LSN that the segment does not cover");
                }
                self.previous_lsn = last_lsn;
                self.counted.records += u64::from(entry.records);
                self.counted.entries += entries;
                self.counted.payload_bytes += payload_bytes;
            }
            Err(what) => self.report_chunk(entry, what),
        }
    }

    /// Checks what is behind the chunks: zeros up to the next block, then every block up to the footer.
    fn blocks(&mut self) {
        let footer = &self.segment.footer;
        let (data_end, blocks_at) = (BLOCK as u64 + footer.data_bytes, footer.places.index.first * BLOCK as u64);
        if self.stream.get(data_end..blocks_at).iter().any(|b| *b != 0) {
            let finding = self.finding(data_end, "the zeros behind the data are not zero");
            self.report(finding);
        }
        let last = footer.places.meta.end();
        for number in footer.places.index.first..=last {
            let section = footer.places.section_of(number);
            let at = number * BLOCK as u64;
            let block = self.stream.get(at..at + BLOCK as u64);
            let body = block::decode(block, section, self.segment.meta.id, number);
            let body = if section == Section::Footer {
                body.and_then(|body| Footer::decode(body, number)).map(|read| read == *footer)
            } else {
                body.map(|_| true)
            };
            match body {
                Ok(true) => {}
                Ok(false) => self.report_block(section, number, "it is not the footer that was opened"),
                Err(m) => self.report_block(section, number, m.what),
            }
        }
        if let Err(e) = self.segment.ancestry() {
            self.report_once(footer.places.meta.first, e.message().to_owned());
        }
    }

    fn names(&mut self) {
        let place = self.segment.footer.places.names;
        let mut previous = String::new();
        for n in 0..place.blocks {
            let mut sorted = true;
            let read = self.segment.each_name(n, |entry| {
                sorted &= *previous < *entry.name;
                entry.name.clone_into(&mut previous);
            });
            match read {
                Ok(()) if sorted => {}
                Ok(()) => self.report_block(Section::Names, place.first + n, "names out of order"),
                Err(e) => self.report_once(place.first + n, e.message().to_owned()),
            }
        }
    }

    /// Checks the file as a whole: its length, that it could be read, its digest, its counts.
    fn whole(&mut self) {
        let digest = self.stream.finish();
        for (offset, what) in std::mem::take(&mut self.stream.unreadable) {
            let finding = self.finding(offset, what);
            self.report(finding);
        }
        let meta = &self.segment.meta;
        match self.segment.view.io.len(&self.segment.view.file) {
            Ok(len) if len == meta.bytes => {}
            Ok(len) => {
                let finding =
                    self.finding(len.min(meta.bytes), format!("the file has {len} bytes instead of {}", meta.bytes));
                self.report(finding);
            }
            Err(e) => {
                let finding = self.finding(0, e.to_string());
                self.report(finding);
            }
        }
        let said = Counted {
            logs: meta.logs,
            records: meta.records,
            entries: meta.entries,
            payload_bytes: meta.payload_bytes,
        };
        if self.complete && self.counted != said {
            let finding = self.finding(0, "logs, records or entries are not as many as the manifest says");
            self.report(finding);
        }
        // A wrong digest says nothing new where a part of the file is known to be wrong.
        if digest != meta.digest && self.findings.is_empty() {
            let finding = self.finding(0, "the file's digest is not the one in the manifest");
            self.report(finding);
        }
        if self.left_out > 0 {
            let what = format!("{} more findings are not listed", self.left_out);
            self.findings.push(Finding::new(&*self.segment.view.file.path, what));
        }
    }
}

/// What a chunk holds.
struct Read {
    last_lsn: Lsn,
    entries: u64,
    payload_bytes: u64,
}

/// Checks the entries of a chunk: each one's checksum, that their seqs are dense from the first, and their LSNs ascend.
fn entries(index: &IndexEntry, plain: &[u8], previous_lsn: Lsn) -> Result<Read, &'static str> {
    let mut read = Read { last_lsn: previous_lsn, entries: 0, payload_bytes: 0 };
    let (mut next_seq, mut records) = (index.first_seq, 0);
    for entry in ChunkEntries::new(plain) {
        let entry = entry.map_err(|m| m.what)?;
        let body = Entry::decode(index.log, entry.body).map_err(|m| m.what)?;
        if entry.lsn <= read.last_lsn {
            return Err("its LSNs do not ascend");
        }
        if body.seq != next_seq {
            return Err("its seqs are not dense");
        }
        if body.kind == Kind::Record {
            next_seq = next_seq.next();
            records += 1;
        }
        read.last_lsn = entry.lsn;
        read.entries += 1;
        read.payload_bytes += entry.body.len() as u64;
    }
    if records == index.records && read.entries > 0 { Ok(read) } else { Err("it has another number of records") }
}
