//! The check of a whole segment: every byte is read again past the page cache, and what is wrong is named by log and
//! seqs as far as that can be known.
//!
//! Heals nothing and stops at nothing. Stripe by stripe the index is read first and walked in its order, which is that of
//! the data in the file, so that one pass over the file serves digests, chunks and entries. Invariant: any byte that is not what was written
//! gives a finding; one that names a log names it rightly.

use super::chunk;
use super::index::{IndexAt, IndexBlock};
use super::reader::Segment;
use super::stream::Stream;
use super::view::message;
use crate::error::Result;
use crate::finding::Finding;
use crate::format::block::{self, BODY_LEN, Section};
use crate::format::chunk::ChunkEntries;
use crate::format::entry::{Entry, Kind};
use crate::format::segment::{Footer, Header, IndexEntry, Key};
use crate::types::{BLOCK, LogId, Lsn};
use std::collections::BTreeSet;

/// More findings than these are counted, not listed.
const FINDINGS_MAX: usize = 100_000;

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
            next_offset: None,
            next_state: None,
            counted: Counted::default(),
            complete: true,
        };
        check.header();
        let mut begin = self.footer.places.stripes.first;
        for stripe in 0..self.stripes.len() {
            check.stripe(stripe, begin);
            begin = self.stripes[stripe].lookup + 1;
        }
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
    data_bytes: u64,
    ends: u64,
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
    /// Where the stripe's next chunk must begin; None after damage.
    next_offset: Option<u64>,
    /// Where the next record in the stripe's state must begin; None after damage.
    next_state: Option<u32>,
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

    /// Checks a stripe that begins at block `begin`: the index, with chunks and state records; what stands behind the
    /// chunks; and each block.
    fn stripe(&mut self, stripe: usize, begin: u64) {
        let segment = self.segment;
        let known = segment.stripes[stripe];
        let (index, state) = (known.index(), known.state());
        (self.next_offset, self.next_state) = (Some(begin * BLOCK as u64), Some(0));
        let index_at = index.first * BLOCK as u64;
        let run = segment.view.io.read_at(&segment.view.file, index_at, index.blocks as usize * BLOCK).ok();
        let mut first_keys = Vec::new();
        for n in 0..index.blocks as usize {
            let at = IndexAt { stripe, n };
            let raw = run.as_ref().and_then(|run| run.get(n * BLOCK..(n + 1) * BLOCK));
            first_keys.extend(self.index_block(at, segment.index_block_on_disk(at, raw)));
        }
        if let Some(next) = self.next_offset {
            if next.div_ceil(BLOCK as u64) != index.first {
                let finding = self.finding(next, "the data goes on after its last chunk");
                self.report(finding);
            } else if self.stream.get(next..index_at).iter().any(|b| *b != 0) {
                let finding = self.finding(next, "the zeros behind the data are not zero");
                self.report(finding);
            }
        }
        if self.next_state.is_some_and(|next| next != known.state_bytes) {
            let at = state.first * BLOCK as u64;
            let finding = self.finding(at, "the state stream has records that no log refers to");
            self.report(finding);
        }
        for number in index.first..=known.lookup {
            let section = match number {
                _ if number < index.end() => Section::Index,
                _ if number < state.end() => Section::State,
                _ => Section::Lookup,
            };
            if let Err(what) = self.block(section, number).map(drop) {
                self.report_block(section, number, what);
            }
        }
        if first_keys.len() == index.blocks as usize
            && let Err(e) = segment.check_lookup(stripe, &first_keys)
        {
            self.report_once(known.lookup, e.message().to_owned());
        }
    }

    /// The body of a block of the stream, if it is intact.
    fn block(&mut self, section: Section, number: u64) -> Result<&[u8], &'static str> {
        let at = number * BLOCK as u64;
        let block = self.stream.get(at..at + BLOCK as u64);
        block::decode(block, section, self.segment.meta.id, number).map_err(|m| m.what)
    }

    /// Checks the entries of an index block; gives its first key.
    fn index_block(&mut self, at: IndexAt, block: Result<IndexBlock<'_>>) -> Option<Key> {
        let number = self.segment.index_number(at);
        let entries = block.map_err(|e| e.message().to_owned()).and_then(|block| {
            let entries = (0..block.len()).map(|i| self.segment.index_entry(at, &block, i));
            entries.collect::<Result<Vec<_>>>().map_err(|e| e.message().to_owned())
        });
        match entries {
            Ok(entries) => {
                entries.iter().for_each(|entry| self.entry(at, entry));
                entries.first().map(IndexEntry::key)
            }
            Err(mut what) => {
                if let (Some(from), to) = self.segment.keys_around(at) {
                    let to = to.map_or("the last".to_owned(), |key| key.log.to_string());
                    what = format!("{what}; it lists chunks of logs from {} up to {to}", from.log);
                }
                self.report_once(number, what);
                (self.previous, self.next_offset, self.next_state) = (None, None, None);
                self.complete = false;
                None
            }
        }
    }

    /// Checks one index entry, found in the block at `at`: against the one before, the filter, its state and its chunk.
    fn entry(&mut self, at: IndexAt, entry: &IndexEntry) {
        let number = self.segment.index_number(at);
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
            self.counted.ends += u64::from(entry.ends());
            if !self.segment.may_hold(entry.log) {
                let mut finding = self.finding(number * BLOCK as u64, "the filter denies a log that is in the index");
                finding.log = Some(entry.log.to_string());
                self.report(finding);
            }
            if let Some(state_at) = entry.state_at {
                self.state(at.stripe, entry.log, state_at, entry.ends());
            }
        }
        self.chunk(at.stripe, entry);
    }

    fn state(&mut self, stripe: usize, log: LogId, at: u32, ends: bool) {
        let wrong = if self.next_state.is_some_and(|next| next != at) {
            Some("the log's state record is not where the one before ends".to_owned())
        } else {
            match self.segment.state_record(stripe, at) {
                Ok((record, end)) => {
                    self.next_state = Some(end);
                    (record.ends() != ends)
                        .then(|| "the index and the log's state record say otherwise of its end".to_owned())
                }
                Err(e) => Some(e.message().to_owned()),
            }
        };
        if let Some(what) = wrong {
            self.next_state = None;
            let block = self.segment.stripes[stripe].state().first + u64::from(at) / BODY_LEN as u64;
            let mut finding = self.finding(block * BLOCK as u64, what);
            finding.log = Some(log.to_string());
            self.report(finding);
        }
    }

    fn chunk(&mut self, stripe: usize, entry: &IndexEntry) {
        if entry.is_hollow() {
            if self.next_offset.is_some_and(|next| next != entry.offset) {
                self.report_chunk(entry, "an entry without a chunk is not where the next chunk begins");
            }
            return;
        }
        if let Err(what) = self.segment.check_bounds(entry) {
            self.next_offset = None;
            return self.report_chunk(entry, what);
        }
        let data_end = self.segment.stripes[stripe].index().first * BLOCK as u64;
        let follows = self.next_offset.is_none_or(|next| next == entry.offset) && entry.offset >= self.stream.start();
        let end = entry.offset + u64::from(entry.len);
        if !follows || end > data_end {
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
                self.counted.data_bytes += u64::from(entry.len);
            }
            Err(what) => self.report_chunk(entry, what),
        }
    }

    /// Checks the blocks behind the stripes.
    fn blocks(&mut self) {
        let footer = &self.segment.footer;
        let last = footer.places.meta.end();
        for number in footer.places.root.first..=last {
            let section = footer.places.section_of(number);
            let body = self.block(section, number);
            let wrong = match body.map(|body| (section, Footer::decode(body, number))) {
                Ok((Section::Footer, Ok(read))) if read == *footer => None,
                Ok((Section::Footer, Ok(_))) => Some("it is not the footer that was opened"),
                Ok((Section::Footer, Err(m))) => Some(m.what),
                Ok(_) => None,
                Err(what) => Some(what),
            };
            if let Some(what) = wrong {
                self.report_block(section, number, what);
            }
        }
        if let Err(e) = self.segment.origin() {
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
            data_bytes: self.segment.footer.data_bytes,
            ends: meta.ends,
        };
        if self.complete && self.counted != said {
            let finding = self
                .finding(0, "logs, records, entries, ends or bytes are not as many as the manifest and the footer say");
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
