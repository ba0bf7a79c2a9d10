//! What the check of a segment looks at in each part of the file.
//!
//! The order and the reading are `mod.rs`'s. Invariant: what can fail for another reason than damage comes first in each
//! part, so that a part which failed can be checked again as if nothing had been.

use super::super::chunk;
use super::super::index::IndexAt;
use super::{Check, Counted, verdict};
use crate::error::Result;
use crate::format::block::{self, BODY_LEN, Section};
use crate::format::bytes::Reader;
use crate::format::chunk::ChunkEntries;
use crate::format::entry::{Entry, Kind};
use crate::format::segment::{Footer, Header, IndexEntry, NameEntry};
use crate::format::state::{Group, StateRecord};
use crate::types::{BLOCK, Lsn};
use std::ops::Range;

impl Check {
    pub(super) fn header(&mut self) {
        let body = block::decode(self.stream.get(0..BLOCK as u64), Section::Header, self.segment.meta.id, 0);
        match body.and_then(Header::decode) {
            Ok(header) if header == self.segment.footer.header => {}
            Ok(_) => self.report_block(Section::Header, 0, "the footer says otherwise"),
            Err(m) => self.report_block(Section::Header, 0, m.what),
        }
    }

    /// Reads the index of a stripe, which begins behind the lookup block of the one before it.
    pub(super) fn stripe(&mut self, stripe: usize) -> Result<()> {
        let segment = &self.segment;
        let index = segment.stripes[stripe].index();
        let bytes = index.blocks as usize * BLOCK;
        self.index = match segment.view.io.read_at(&segment.view.file, index.first * BLOCK as u64, bytes) {
            Ok(index) => Some(index),
            // Block by block, then.
            Err(e) if e.is_bad_sector() => None,
            Err(e) => return Err(e),
        };
        self.read += bytes as u64;
        let begin = match stripe {
            0 => segment.footer.places.stripes.first,
            _ => segment.stripes[stripe - 1].lookup + 1,
        };
        (self.next_offset, self.next_state, self.state_blocks) = (Some(begin * BLOCK as u64), Some(0), 0);
        self.first_keys.clear();
        self.reported.clear();
        Ok(())
    }

    /// Takes the entries of an index block in hand.
    pub(super) fn index_block(&mut self, at: IndexAt) -> Result<()> {
        let segment = &self.segment;
        let raw = self.index.as_ref().and_then(|index| index.get(at.n * BLOCK..(at.n + 1) * BLOCK));
        let entries = segment
            .index_block_on_disk(at, raw)
            .and_then(|block| (0..block.len()).map(|i| segment.index_entry(at, &block, i)).collect::<Result<Vec<_>>>());
        match verdict(entries)? {
            Ok(entries) => {
                self.first_keys.extend(entries.first().map(IndexEntry::key));
                self.entries = entries.into_iter();
            }
            Err(mut what) => {
                if let (Some(from), to) = segment.keys_around(at) {
                    let to = to.map_or("the last".to_owned(), |key| key.log.to_string());
                    what = format!("{what}; it lists chunks of logs from {} up to {to}", from.log);
                }
                self.report_once(segment.index_number(at), what);
                (self.previous, self.next_offset, self.next_state) = (None, None, None);
                self.complete = false;
            }
        }
        Ok(())
    }

    /// Checks one index entry, found in the block at `at`: against the one before, the filter, its state and its chunk.
    pub(super) fn entry(&mut self, at: IndexAt, entry: &IndexEntry) -> Result<()> {
        let state_at = entry.state_at.filter(|_| entry.is_last());
        let state = state_at.map(|from| verdict(self.segment.state_record(at.stripe, from))).transpose()?;
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
            if let (Some(from), Some(state)) = (state_at, state) {
                self.state(at.stripe, entry, from, state);
            }
        }
        self.chunk(at.stripe, entry);
        Ok(())
    }

    /// Checks the state record at `from` of a stripe's stream, which was read and ends where it says.
    fn state(&mut self, stripe: usize, entry: &IndexEntry, from: u32, read: Result<(StateRecord, u32), String>) {
        let wrong = match read {
            _ if self.next_state.is_some_and(|next| next != from) => {
                Some("the log's state record is not where the one before ends".to_owned())
            }
            Ok((record, end)) => {
                let blocks = u64::from(end).div_ceil(BODY_LEN as u64);
                self.read += blocks.saturating_sub(self.state_blocks) * BLOCK as u64;
                self.state_blocks = self.state_blocks.max(blocks);
                self.next_state = Some(end);
                // Of a log that is to expire the flag is repeated where its state does not say so again.
                let said_here = matches!(record.life, Group::Here(_));
                (said_here && record.ends() != entry.ends())
                    .then(|| "the index and the log's state record say otherwise of its end".to_owned())
            }
            Err(what) => Some(what),
        };
        if let Some(what) = wrong {
            self.next_state = None;
            let block = self.segment.stripes[stripe].state().first + u64::from(from) / BODY_LEN as u64;
            let mut finding = self.finding(block * BLOCK as u64, what);
            finding.log = Some(entry.log.to_string());
            self.report(finding);
        }
    }

    /// Where the entry's chunk lies in the file; why it cannot lie there.
    pub(super) fn place(&self, stripe: usize, entry: &IndexEntry) -> Result<Range<u64>, &'static str> {
        if entry.is_hollow() {
            let follows = self.next_offset.is_none_or(|next| next == entry.offset);
            let nowhere = self.stream.start()..self.stream.start();
            return if follows {
                Ok(nowhere)
            } else {
                Err("an entry without a chunk is not where the next chunk begins")
            };
        }
        self.segment.check_bounds(entry)?;
        let data_end = self.segment.stripes[stripe].index().first * BLOCK as u64;
        let follows = self.next_offset.is_none_or(|next| next == entry.offset) && entry.offset >= self.stream.start();
        let end = entry.offset + u64::from(entry.len);
        if follows && end <= data_end { Ok(entry.offset..end) } else { Err("it does not follow the chunk before") }
    }

    fn chunk(&mut self, stripe: usize, entry: &IndexEntry) {
        let place = match self.place(stripe, entry) {
            Ok(_) if entry.is_hollow() => return,
            Ok(place) => place,
            Err(what) => {
                if !entry.is_hollow() {
                    self.next_offset = None;
                }
                return self.report_chunk(entry, what);
            }
        };
        self.next_offset = Some(place.end);
        let stored = self.stream.get(place);
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

    /// The zeros behind the last chunk of a stripe; None where that is not known, or more than a block away from the index.
    pub(super) fn padding(&self, stripe: usize) -> Option<Range<u64>> {
        let index = self.segment.stripes[stripe].index().first;
        let next = self.next_offset.filter(|next| next.div_ceil(BLOCK as u64) == index)?;
        Some(next..index * BLOCK as u64)
    }

    /// Checks what stands behind the chunks of a stripe, and behind the state records of its logs.
    pub(super) fn end_of_entries(&mut self, stripe: usize) {
        let known = self.segment.stripes[stripe];
        match (self.padding(stripe), self.next_offset) {
            (Some(zeros), _) if self.stream.get(zeros.clone()).iter().any(|b| *b != 0) => {
                let finding = self.finding(zeros.start, "the zeros behind the data are not zero");
                self.report(finding);
            }
            (None, Some(next)) => {
                let finding = self.finding(next, "the data goes on after its last chunk");
                self.report(finding);
            }
            _ => {}
        }
        if self.next_state.is_some_and(|next| next != known.state_bytes) {
            let at = known.state().first * BLOCK as u64;
            let finding = self.finding(at, "the state stream has records that no log refers to");
            self.report(finding);
        }
    }

    /// Checks a block of a stripe's index, state or lookup.
    pub(super) fn stripe_block(&mut self, stripe: usize, number: u64) {
        let known = &self.segment.stripes[stripe];
        let section = match number {
            _ if number < known.index().end() => Section::Index,
            _ if number < known.state().end() => Section::State,
            _ => Section::Lookup,
        };
        if let Err(what) = self.block(section, number).map(drop) {
            self.report_block(section, number, what);
        }
    }

    /// Checks the lookup block of a stripe: the block, and its keys.
    pub(super) fn lookup_block(&mut self, stripe: usize, number: u64) -> Result<()> {
        let all = self.first_keys.len() == usize::from(self.segment.stripes[stripe].index_blocks);
        let keys = if all { verdict(self.segment.check_lookup(stripe, &self.first_keys))? } else { Ok(()) };
        self.read += BLOCK as u64;
        self.stripe_block(stripe, number);
        if let Err(what) = keys {
            self.report_once(number, what);
        }
        Ok(())
    }

    /// The body of a block of the stream, if it is intact.
    fn block(&self, section: Section, number: u64) -> Result<&[u8], &'static str> {
        let at = number * BLOCK as u64;
        let block = self.stream.get(at..at + BLOCK as u64);
        block::decode(block, section, self.segment.meta.id, number).map_err(|m| m.what)
    }

    /// Checks a block behind the stripes.
    pub(super) fn tail_block(&mut self, number: u64) {
        let footer = &self.segment.footer;
        let section = footer.places.section_of(number);
        if number <= footer.places.meta.first {
            self.reported.clear();
        }
        let wrong = match (section, self.block(section, number)) {
            (_, Err(what)) => Some(what),
            (Section::Footer, Ok(body)) => match Footer::decode(body, number) {
                Ok(read) if read == *footer => None,
                Ok(_) => Some("it is not the footer that was opened"),
                Err(m) => Some(m.what),
            },
            (Section::Names, Ok(body)) => {
                let (last, wrong) = names(body, &self.previous_name);
                self.previous_name = last;
                wrong
            }
            (_, Ok(_)) => None,
        };
        if let Some(what) = wrong {
            self.report_block(section, number, what);
        }
    }

    /// Checks the file as a whole: its length, its ancestry, its digest, its counts.
    pub(super) fn whole(&mut self) -> Result<()> {
        let origin = verdict(self.segment.origin())?;
        let len = self.segment.view.io.len(&self.segment.view.file)?;
        let (meta, footer) = (&self.segment.meta, &self.segment.footer);
        let (first, bytes, digest) = (footer.places.meta.first, meta.bytes, meta.digest);
        let said = Counted {
            logs: meta.logs,
            records: meta.records,
            entries: meta.entries,
            payload_bytes: meta.payload_bytes,
            data_bytes: footer.data_bytes,
            ends: meta.ends,
        };
        self.read += footer.places.meta.blocks * BLOCK as u64;
        if let Err(what) = origin {
            self.report_once(first, what);
        }
        if len != bytes {
            let finding = self.finding(len.min(bytes), format!("the file has {len} bytes instead of {bytes}"));
            self.report(finding);
        }
        if self.complete && self.counted != said {
            let finding = self
                .finding(0, "logs, records, entries, ends or bytes are not as many as the manifest and the footer say");
            self.report(finding);
        }
        // A wrong digest says nothing new where a part of the file is known to be wrong.
        if self.stream.digest() != digest && self.findings.is_empty() {
            let finding = self.finding(0, "the file's digest is not the one in the manifest");
            self.report(finding);
        }
        Ok(())
    }
}

/// The last name of a block of names, whose first one comes after `previous`, and what is wrong with the block.
fn names(body: &[u8], previous: &str) -> (String, Option<&'static str>) {
    let (mut reader, mut previous, mut sorted) = (Reader::new(body), previous, true);
    while reader.left() > 0 {
        match NameEntry::decode(&mut reader) {
            Ok(entry) => {
                sorted &= previous < entry.name;
                previous = entry.name;
            }
            Err(m) => return (previous.to_owned(), Some(m.what)),
        }
    }
    (previous.to_owned(), (!sorted).then_some("names out of order"))
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
