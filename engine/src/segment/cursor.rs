//! Going through a segment from front to back, log by log, as a merge does.
//!
//! Reads past the page cache, in pieces of whole chunks, and each block of chunks, index and state records once, but for one
//! in which two pieces meet. Nothing stays in memory but the stripe's index and state records, a piece of its data, and the
//! piece that follows, which is read meanwhile. Invariant: what is given is intact, and follows what was given before: logs
//! ascend, and within a log seqs and LSNs.

use super::chunk::expand;
use super::damaged;
use super::index::IndexAt;
use super::read_ahead::{AHEAD_BYTES, ReadAhead};
use super::reader::Segment;
use super::writer::Name;
use crate::error::{Error, Result};
use crate::format::block::{self, BODY_LEN, Section};
use crate::format::bytes::Reader;
use crate::format::chunk::{ChunkEntries, ChunkEntry};
use crate::format::segment::{IndexEntry, Key, NameEntry, Stripe};
use crate::format::state::STATE_RECORD_BYTES_MAX;
use crate::io::AlignedBuf;
use crate::types::{BLOCK, LogId, Lsn, TimeUs};
use std::collections::VecDeque;
use std::sync::Arc;

/// Blocks of names read at once.
const NAME_BLOCKS: u64 = 32;

/// A place in a segment: a chunk, or the end.
pub struct Cursor {
    segment: Arc<Segment>,
    /// The stripe in hand; the number of stripes at the end.
    stripe: usize,
    /// Its index.
    entries: Vec<IndexEntry>,
    /// The chunk in hand.
    at: usize,
    /// The stripe's stream of state records.
    state: Vec<u8>,
    reads: ReadAhead,
    /// A piece of the stripe's data, and where it begins in the file.
    piece: AlignedBuf,
    piece_at: u64,
    /// What was read so far, in bytes.
    read: u64,
    /// The last entry of the index before those in hand: its key, and whether it is its log's last.
    before: Option<(Key, bool)>,
    /// The last entry that was given, and of which log it was.
    previous: Option<(LogId, Lsn, TimeUs)>,
}

impl Cursor {
    /// A cursor at the segment's first chunk.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Damaged`], [`crate::ErrorKind::Io`].
    pub fn new(segment: Arc<Segment>) -> Result<Self> {
        let view = &segment.view;
        let mut cursor = Self {
            reads: ReadAhead::new(Arc::clone(&view.io), view.file.clone()),
            segment,
            stripe: 0,
            entries: Vec::new(),
            at: 0,
            state: Vec::new(),
            piece: AlignedBuf::empty(),
            piece_at: 0,
            read: 0,
            before: None,
            previous: None,
        };
        cursor.load()?;
        Ok(cursor)
    }

    /// The segment.
    #[must_use]
    pub fn segment(&self) -> &Segment {
        &self.segment
    }

    /// The segment, once it is no longer gone through.
    #[must_use]
    pub fn into_segment(self) -> Arc<Segment> {
        self.segment
    }

    /// The log of the chunk in hand; None at the end.
    #[must_use]
    pub fn log(&self) -> Option<LogId> {
        self.entries.get(self.at).map(|entry| entry.log)
    }

    /// Gives back what it takes to read ahead, until it goes on.
    pub fn pause(&mut self) {
        self.reads.pause();
    }

    /// Bytes read since this was last asked.
    pub fn take_read(&mut self) -> u64 {
        std::mem::take(&mut self.read)
    }

    /// Gives the entries of the chunk in hand to `each`, and then has the next chunk in hand. Returns the chunk's place in
    /// the index, and with a log's last chunk the log's state record, encoded, where it has one here. Not to be called at the
    /// end.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Damaged`], [`crate::ErrorKind::Io`], naming log and seqs; and any error of `each`.
    pub fn next(
        &mut self, mut each: impl FnMut(ChunkEntry<'_>) -> Result<()>,
    ) -> Result<(IndexEntry, Option<Vec<u8>>)> {
        let entry = self.entries[self.at];
        if !entry.is_hollow() {
            self.chunk(&entry, &mut each)?;
        }
        let state = entry.state_at.map(|at| self.state(&entry, at)).transpose()?;
        self.at += 1;
        if self.at == self.entries.len() {
            self.stripe += 1;
            self.load()?;
        }
        Ok((entry, state))
    }

    fn chunk(&mut self, entry: &IndexEntry, each: &mut impl FnMut(ChunkEntry<'_>) -> Result<()>) -> Result<()> {
        let named = |e: Error| e.log(entry.log.to_string()).seqs(entry.first_seq.0..entry.next_seq().0);
        let at = self.piece(entry).map_err(named)?;
        let stored = &self.piece[at..at + entry.len as usize];
        let path = &self.segment.view.file.path;
        let wrong =
            |what: &str| named(damaged(path, entry.offset, format!("a chunk of the segment is damaged: {what}")));
        let expanded = expand(entry, stored).map_err(|m| wrong(m.what))?;
        for read in ChunkEntries::new(expanded.as_deref().unwrap_or(stored)) {
            let read = read.map_err(|m| wrong(m.what))?;
            let lsns = &self.segment.view.lsns;
            let follows = match self.previous {
                Some((log, lsn, time)) if log == entry.log => lsn < read.lsn && time <= read.time,
                _ => true,
            };
            if !follows || !lsns.contains(&read.lsn.0) {
                return Err(wrong("its entries do not follow those before"));
            }
            self.previous = Some((entry.log, read.lsn, read.time));
            each(read)?;
        }
        Ok(())
    }

    fn state(&self, entry: &IndexEntry, at: u32) -> Result<Vec<u8>> {
        let number = self.segment.stripes[self.stripe].state().first + u64::from(at) / BODY_LEN as u64;
        let wrong = |what| self.segment.view.damaged(Section::State, number, what).log(entry.log.to_string());
        let stream = self.state.get(at as usize..).ok_or_else(|| wrong("a state record beyond the stream"))?;
        let record = Reader::new(stream).bytes(STATE_RECORD_BYTES_MAX);
        record.map(<[u8]>::to_vec).map_err(|m| wrong(m.what))
    }

    /// Reads the index and the state records of the stripe in hand.
    fn load(&mut self) -> Result<()> {
        (self.entries, self.at) = (Vec::new(), 0);
        let Some(stripe) = self.segment.stripes.get(self.stripe).copied() else {
            (self.state, self.piece) = (Vec::new(), AlignedBuf::empty());
            self.reads.pause();
            let (before, stripes) = (self.before, self.segment.stripes.len());
            return match stripes.checked_sub(1).filter(|_| before.is_some_and(|(_, last)| !last)) {
                Some(stripe) => {
                    let n = usize::from(self.segment.stripes[stripe].index_blocks) - 1;
                    Err(self.segment.bad_index(IndexAt { stripe, n }, "a log without a last chunk"))
                }
                None => Ok(()),
            };
        };
        let (index, state) = (stripe.index(), stripe.state());
        let segment = &self.segment;
        let (offset, len) = index_run(&stripe);
        let run = self.reads.read(offset, len)?;
        self.read += run.len() as u64;
        let raw = |n: usize| run.get(n * BLOCK..(n + 1) * BLOCK);
        for n in 0..index.blocks as usize {
            let at = IndexAt { stripe: self.stripe, n };
            let block = segment.index_block_on_disk(at, raw(n))?;
            for i in 0..block.len() {
                let entry = segment.index_entry(at, &block, i)?;
                let before = self.before.replace((entry.key(), entry.is_last()));
                if before.is_some_and(|(key, last)| key > entry.key() || last == (key.log == entry.log)) {
                    return Err(segment.bad_index(at, "entries that do not follow one another"));
                }
                self.entries.push(entry);
            }
        }
        self.state.clear();
        for n in 0..state.blocks {
            let number = state.first + n;
            let raw = raw((index.blocks + n) as usize).unwrap_or_default();
            let body = block::decode(raw, Section::State, segment.meta.id, number);
            self.state.extend_from_slice(body.map_err(segment.view.malformed(Section::State, number))?);
        }
        if self.state.len() != stripe.state_bytes as usize {
            return Err(segment.view.damaged(Section::State, state.first, "a stream of another length"));
        }
        self.begin_next(0);
        Ok(())
    }

    /// Sees to it that the chunk is in the piece; gives where it begins there.
    fn piece(&mut self, entry: &IndexEntry) -> Result<usize> {
        let wrong = |what| {
            let path = &self.segment.view.file.path;
            damaged(path, entry.offset, format!("a chunk of the segment is damaged: {what}"))
        };
        let end = entry.offset + u64::from(entry.len);
        let inside = self.piece_at <= entry.offset && end <= self.piece_at + self.piece.len() as u64;
        if !inside {
            let (begin, len) = self.piece_of(self.at).map_err(wrong)?;
            // Given back before more is asked for.
            self.piece = AlignedBuf::empty();
            (self.piece, self.piece_at) = (self.reads.read(begin, len)?, begin);
            self.read += self.piece.len() as u64;
            let reached = begin + self.piece.len() as u64;
            if reached < end {
                return Err(damaged(&self.segment.view.file.path, end, "the file ends within a chunk"));
            }
            self.begin_next(reached);
        }
        Ok((entry.offset - self.piece_at) as usize)
    }

    /// The piece that begins with chunk `at` of the stripe, whole chunks all of them: where it begins, and its bytes. A
    /// longer chunk is one by itself.
    fn piece_of(&self, at: usize) -> Result<(u64, usize), &'static str> {
        let data_end = self.segment.stripes[self.stripe].index().first * BLOCK as u64;
        let end_of = |entry: &IndexEntry| {
            self.segment.check_bounds(entry)?;
            let end = entry.offset + u64::from(entry.len);
            if end > data_end { Err("it goes on behind the stripe's data") } else { Ok(end) }
        };
        let mut end = end_of(&self.entries[at])?;
        let begin = self.entries[at].offset / BLOCK as u64 * BLOCK as u64;
        for entry in self.entries[at + 1..].iter().filter(|entry| !entry.is_hollow()) {
            // Of what is wrong with others nothing is told before they are asked for.
            match end_of(entry) {
                Ok(next) if entry.offset == end && next - begin <= AHEAD_BYTES as u64 => end = next,
                _ => break,
            }
        }
        Ok((begin, (end - begin).next_multiple_of(BLOCK as u64) as usize))
    }

    /// Begins what is read next, the data being read up to byte `reached` of the file.
    fn begin_next(&mut self, reached: u64) {
        let behind = |entry: &IndexEntry| !entry.is_hollow() && entry.offset + u64::from(entry.len) > reached;
        let next = match self.entries[self.at..].iter().position(behind) {
            // What cannot be read is told of when it is asked for.
            Some(n) => self.piece_of(self.at + n).ok(),
            None => self.segment.stripes.get(self.stripe + 1).map(index_run),
        };
        if let Some((offset, len)) = next {
            self.reads.begin(offset, len);
        }
    }
}

/// Where the index and the state records of a stripe begin, and their bytes.
fn index_run(stripe: &Stripe) -> (u64, usize) {
    let (index, state) = (stripe.index(), stripe.state());
    (index.first * BLOCK as u64, (index.blocks + state.blocks) as usize * BLOCK)
}

/// The names of a segment, from the first to the last.
pub struct Names {
    segment: Arc<Segment>,
    /// The next block, counted from 0.
    block: u64,
    names: VecDeque<Name>,
    /// The last name that was read.
    last: String,
}

impl Names {
    /// All names of `segment`.
    #[must_use]
    pub fn new(segment: Arc<Segment>) -> Self {
        Self { segment, block: 0, names: VecDeque::new(), last: String::new() }
    }

    fn load(&mut self) -> Result<()> {
        let place = self.segment.footer.places.names;
        let view = &self.segment.view;
        let count = NAME_BLOCKS.min(place.blocks - self.block);
        let first = place.first + self.block;
        let run = view.io.read_at(&view.file, first * BLOCK as u64, count as usize * BLOCK)?;
        for n in 0..count {
            let number = first + n;
            let malformed = view.malformed(Section::Names, number);
            let raw = run.get(n as usize * BLOCK..(n as usize + 1) * BLOCK).unwrap_or_default();
            let mut reader =
                Reader::new(block::decode(raw, Section::Names, self.segment.meta.id, number).map_err(&malformed)?);
            while reader.left() > 0 {
                let NameEntry { name, log, created } = NameEntry::decode(&mut reader).map_err(&malformed)?;
                if *self.last >= *name {
                    return Err(view.damaged(Section::Names, number, "names out of order"));
                }
                name.clone_into(&mut self.last);
                self.names.push_back((name.to_owned(), log, created));
            }
        }
        self.block += count;
        Ok(())
    }
}

impl Iterator for Names {
    type Item = Result<Name>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.names.is_empty()
            && self.block < self.segment.footer.places.names.blocks
            && let Err(error) = self.load()
        {
            self.block = self.segment.footer.places.names.blocks;
            return Some(Err(error));
        }
        self.names.pop_front().map(Ok)
    }
}
