//! Reads a segment: opening it, its chunks, its state records, its ancestry. Lookups by log are `index.rs`, by name
//! `names.rs`, the check of all of it `verify.rs`.
//!
//! In memory: the footer, the root (72 bytes for each 1,541 chunks), one bit a block, and twelve bits for each log of a small
//! segment that was warmed. Invariant: what is missing was never there; what cannot be proved intact is
//! [`ErrorKind::Damaged`] and names file, offset and what.

use super::chunk::Chunk;
use super::members::Members;
use super::view::{self, Body, View};
use super::{damaged, path};
use crate::error::{Error, ErrorKind, Result};
use crate::format::Features;
use crate::format::block::{BODY_LEN, Section};
use crate::format::bytes::Reader;
use crate::format::chunk::CHUNK_PLAIN_BYTES_MAX;
use crate::format::manifest::SegmentMeta;
use crate::format::segment::{Footer, Header, IndexEntry, Key, Origin, Place, STRIPE_LEN, STRIPES_PER_BLOCK, Stripe};
use crate::format::state::{STATE_RECORD_BYTES_MAX, StateRecord};
use crate::io::{AlignedBuf, File, Io, OpenMode};
use crate::types::{BLOCK, LogId, Lsn, SegmentId, StoreId};
use std::fmt;
use std::path::Path;
use std::sync::Arc;

/// The longest meta stream that is read, in bytes: two million timelines.
const META_BYTES_MAX: u64 = 64 << 20;

/// Reads of at most so many bytes go through the page cache, where what is asked for again is found; larger ones go past it,
/// since they would put much there that is not asked for soon, and gain little. Linux reads little beyond what is asked for
/// where that is no longer than its default of read-ahead, which this is.
const CACHED_BYTES_MAX: usize = 128 << 10;

/// Chunks that one read brings along take so many bytes at most, but for a larger first one.
const RUN_BYTES_MAX: usize = 1 << 20;

/// Chunks that were read at once.
pub struct Run<'a> {
    segment: &'a Segment,
    read: Arc<AlignedBuf>,
    /// Where it begins in the file.
    start: u64,
    /// Whether it comes from the page cache, which may be damaged alone.
    cached: bool,
    /// Whether the disk was waited for.
    pub waited: bool,
}

impl Run<'_> {
    /// One of the chunks.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`] if it is not what was written, naming log and seqs.
    pub fn chunk(&self, entry: &IndexEntry) -> Result<Chunk> {
        let intact = self.open(entry);
        if intact.is_err() && self.cached {
            let past = self.segment.read_chunks(std::slice::from_ref(entry), false)?;
            let chunk = past.open(entry).map_err(|what| self.segment.bad_chunk(entry, what))?;
            let file = self.segment.view.file.path.display();
            tracing::warn!(%file, offset = entry.offset, "a chunk is damaged in the page cache and not on the disk");
            return Ok(chunk);
        }
        intact.map_err(|what| self.segment.bad_chunk(entry, what))
    }

    fn open(&self, entry: &IndexEntry) -> Result<Chunk, &'static str> {
        let at = (entry.offset - self.start) as usize;
        let at = at..at + entry.len as usize;
        if self.read.len() < at.end {
            return Err("the file ends within it");
        }
        Chunk::open(entry, &self.read, at).map_err(|m| m.what)
    }
}

/// A segment, open for reading. Shared by threads.
pub struct Segment {
    pub(super) view: View,
    pub(super) meta: SegmentMeta,
    pub(super) footer: Footer,
    /// Where its stripes lie.
    pub(super) stripes: Vec<Stripe>,
    /// The owner of each one's first log, for a search that touches little memory.
    pub(super) owners: Vec<u64>,
    /// What the filters of its stripes keep of its logs, each with its stripe; if that is held in memory.
    pub(super) members: Option<Members>,
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Segment({})", self.view.file.path.display())
    }
}

impl Segment {
    /// The same segment, for a check of it: each touch of a block is a read.
    pub(super) fn reading(&self) -> Self {
        let Self { view, meta, footer, stripes, owners, .. } = self;
        Self {
            view: view.reading(),
            meta: meta.clone(),
            footer: footer.clone(),
            stripes: stripes.clone(),
            owners: owners.clone(),
            members: None,
        }
    }

    /// Opens the segment that the manifest calls `meta`, in the store's directory `dir`. Reads footer and root.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`] if the file is missing, or footer or root cannot be proved intact or are not those of
    /// `meta`;
    /// [`ErrorKind::Refused`] if the segment has a format or a feature that this version does not know;
    /// [`ErrorKind::Io`].
    pub fn open(io: Arc<dyn Io>, dir: &Path, store: StoreId, meta: &SegmentMeta) -> Result<Self> {
        let path = path(dir, meta.id);
        let lsns = meta.first_lsn.0..meta.last_lsn.0.saturating_add(1);
        let file = io.open(&path, OpenMode::ReadDirect).map_err(|e| match e.os_error() {
            Some(os) if os.kind() == std::io::ErrorKind::NotFound => {
                damaged(&path, 0, "a segment of the store is missing").lsns(lsns.clone())
            }
            _ => e,
        })?;
        let footer = read_footer(&*io, &file, store, meta)?;
        let view = View::new(io, file, meta.id, lsns, footer.places.meta.end())?;
        let (stripes, owners) = (Vec::new(), Vec::new());
        let mut segment = Self { view, meta: meta.clone(), footer, stripes, owners, members: None };
        segment.stripes = segment.read_root()?;
        segment.owners = segment.stripes.iter().map(|stripe| stripe.first.log.owner()).collect();
        Ok(segment)
    }

    /// What the manifest says of it.
    #[must_use]
    pub fn meta(&self) -> &SegmentMeta {
        &self.meta
    }

    /// `len` bytes of the file at byte `offset`, all of which lie in it, past the page cache.
    ///
    /// # Errors
    /// [`ErrorKind::Io`]; [`ErrorKind::Damaged`] if the file is shorter than the manifest says.
    pub fn bytes(&self, offset: u64, len: usize) -> Result<Vec<u8>> {
        let from = offset / BLOCK as u64 * BLOCK as u64;
        let skipped = (offset - from) as usize;
        let View { io, file, lsns, .. } = &self.view;
        let mut bytes = io.read_in_pieces(file, from, (skipped + len).next_multiple_of(BLOCK))?;
        if bytes.len() < skipped + len {
            return Err(damaged(&file.path, from, "the segment ends before its length").lsns(lsns.clone()));
        }
        bytes.truncate(skipped + len);
        bytes.drain(..skipped);
        Ok(bytes)
    }

    /// Its feature bits.
    #[must_use]
    pub fn features(&self) -> Features {
        self.footer.header.features
    }

    /// Where the segment comes from.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`], [`ErrorKind::Io`].
    pub fn origin(&self) -> Result<Origin> {
        let (place, len) = (self.footer.places.meta, self.footer.meta_bytes);
        let malformed = self.view.malformed(Section::Meta, place.first);
        if len > META_BYTES_MAX {
            return Err(self.view.damaged(Section::Meta, place.first, "a stream beyond its bound"));
        }
        let mut stream = Vec::with_capacity(len as usize);
        for n in 0..place.blocks {
            stream.extend_from_slice(&self.stream_block(Section::Meta, place, len, n)?);
        }
        Origin::decode(&stream).map_err(malformed)
    }

    /// Reads a chunk.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`] if it is not what was written; [`ErrorKind::Io`]. Both name log and seqs.
    pub fn chunk(&self, entry: &IndexEntry) -> Result<Chunk> {
        self.read_run(std::slice::from_ref(entry))?.chunk(entry)
    }

    /// The first of `entries`, which are chunks of one log in their order, with those behind it that one read brings along:
    /// that lie behind one another in the file, as many as are needed for `records` and `bytes`, within bounds. Gives how
    /// many they are.
    ///
    /// # Errors
    /// As [`Self::chunk`], of the first of them.
    pub fn run(&self, entries: &[IndexEntry], records: usize, bytes: usize) -> Result<(Run<'_>, usize)> {
        let count = self.run_len(entries, records, bytes);
        match self.read_run(&entries[..count]) {
            // What can be read of it is had chunk by chunk.
            Err(_) if count > 1 => Ok((self.read_run(&entries[..1])?, 1)),
            run => Ok((run?, count)),
        }
    }

    /// How many of `entries` one read brings along.
    pub(super) fn run_len(&self, entries: &[IndexEntry], records: usize, bytes: usize) -> usize {
        let (mut count, mut has, mut len) = (0, 0, 0);
        for entry in entries {
            let follows = count == 0 || entries[count - 1].offset + u64::from(entries[count - 1].len) == entry.offset;
            if !follows || (count > 0 && (has >= records || len >= bytes || len + entry.len as usize > RUN_BYTES_MAX)) {
                break;
            }
            (count, has, len) = (count + 1, has + entry.records as usize, len + entry.len as usize);
        }
        count
    }

    /// Where the blocks begin in which these chunks lie, and their bytes.
    pub(super) fn blocks_of(&self, chunks: &[IndexEntry]) -> (u64, usize) {
        let (first, last) = (&chunks[0], &chunks[chunks.len() - 1]);
        let start = first.offset / BLOCK as u64 * BLOCK as u64;
        (start, ((last.offset + u64::from(last.len) - start) as usize).next_multiple_of(BLOCK))
    }

    /// Whether a read of so many bytes goes through the page cache.
    pub(super) fn goes_through_cache(&self, len: usize) -> bool {
        !self.view.only_reads && len <= CACHED_BYTES_MAX
    }

    fn read_run(&self, entries: &[IndexEntry]) -> Result<Run<'_>> {
        for entry in entries {
            self.check_bounds(entry).map_err(|what| self.bad_chunk(entry, what))?;
        }
        let cached = self.goes_through_cache(self.blocks_of(entries).1);
        match self.read_chunks(entries, cached) {
            // Several chunks are had one by one then.
            Err(_) if cached && entries.len() == 1 => self.read_chunks(entries, false),
            read => read,
        }
    }

    /// Reads the chunks, through the page cache or past it.
    fn read_chunks(&self, chunks: &[IndexEntry], cached: bool) -> Result<Run<'_>> {
        let (first, last) = (&chunks[0], &chunks[chunks.len() - 1]);
        let (start, len) = self.blocks_of(chunks);
        let View { io, cached: through, file: past, .. } = &self.view;
        let (file, buf) = (if cached { through } else { past }, AlignedBuf::with_capacity(len));
        let resident = if cached { io.read_resident(file, start, buf) } else { Err(buf) };
        let waited = resident.is_err();
        let read = resident.or_else(|buf| io.read_into(file, start, buf));
        let read = read.map_err(|e| e.log(first.log.to_string()).seqs(first.first_seq.0..last.next_seq().0))?;
        Ok(Run { segment: self, read: Arc::new(read), start, cached, waited })
    }

    fn bad_chunk(&self, entry: &IndexEntry, what: &str) -> Error {
        damaged(&self.view.file.path, entry.offset, format!("a chunk of the segment is damaged: {what}"))
            .log(entry.log.to_string())
            .seqs(entry.first_seq.0..entry.next_seq().0)
    }

    /// Whether the chunk lies within the stripes and is of a size that a chunk can have.
    pub(super) fn check_bounds(&self, entry: &IndexEntry) -> Result<(), &'static str> {
        let end = entry.offset + u64::from(entry.len);
        if entry.offset < BLOCK as u64 || end > self.footer.places.stripes.end() * BLOCK as u64 || entry.len == 0 {
            return Err("it does not lie within the data");
        }
        if entry.len as usize > CHUNK_PLAIN_BYTES_MAX {
            return Err("it is larger than a chunk can be");
        }
        Ok(())
    }

    /// The log's state record at `at` in its stripe's state stream, as the log's last index entry has it.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`] naming the log; [`ErrorKind::Io`].
    pub fn state(&self, log: LogId, at: u32) -> Result<StateRecord> {
        let stripe = self.stripe_of(Key::last_of(log)).expect("the log's last index entry lies in a stripe");
        self.state_record(stripe, at).map(|(record, _)| record).map_err(|e| e.log(log.to_string()))
    }

    /// The state record at `at` of a stripe's stream, and where it ends.
    pub(super) fn state_record(&self, stripe: usize, at: u32) -> Result<(StateRecord, u32)> {
        let (place, total) = (self.stripes[stripe].state(), u64::from(self.stripes[stripe].state_bytes));
        let (at, body_len) = (u64::from(at), BODY_LEN as u64);
        let number = place.first + (at / body_len).min(place.blocks.saturating_sub(1));
        let wrong = |what| self.view.damaged(Section::State, number, what);
        if at >= total {
            return Err(wrong("a state record beyond the stream"));
        }
        let mut bytes = Vec::new();
        for n in at / body_len..place.blocks {
            let body = self.stream_block(Section::State, place, total, n)?;
            bytes.extend_from_slice(if bytes.is_empty() { &body[(at % body_len) as usize..] } else { &body });
            let mut reader = Reader::new(&bytes);
            let Ok(len) = reader.varint() else { continue };
            if len > STATE_RECORD_BYTES_MAX as u64 {
                return Err(wrong("a state record larger than one can be"));
            }
            let end = reader.at() + len as usize;
            if end <= bytes.len() {
                let record = StateRecord::decode(&bytes[reader.at()..end]).map_err(|m| wrong(m.what))?;
                return Ok((record, (at + end as u64) as u32));
            }
        }
        Err(wrong("a state record that goes on beyond the stream"))
    }

    /// The body of block `n` of a stream of `total` bytes: full but for the last.
    fn stream_block(&self, section: Section, place: Place, total: u64, n: u64) -> Result<Body<'_>> {
        let body = self.view.body(section, place.first + n)?;
        if body.len() as u64 != (total - n * BODY_LEN as u64).min(BODY_LEN as u64) {
            return Err(self.view.damaged(section, place.first + n, "a part of a stream of another length"));
        }
        Ok(body)
    }

    fn read_root(&self) -> Result<Vec<Stripe>> {
        let place = self.footer.places.root;
        let mut stripes: Vec<Stripe> = Vec::new();
        let mut begin = self.footer.places.stripes.first;
        for number in place.first..place.end() {
            let wrong = |what| self.view.damaged(Section::Root, number, what);
            let body = self.view.body(Section::Root, number)?;
            let full = body.len() == STRIPES_PER_BLOCK * STRIPE_LEN;
            if body.is_empty() || !body.len().is_multiple_of(STRIPE_LEN) || !(full || number + 1 == place.end()) {
                return Err(wrong("a block of another length"));
            }
            for bytes in body.chunks_exact(STRIPE_LEN) {
                let stripe = Stripe::decode(bytes, begin).map_err(|m| wrong(m.what))?;
                let inside = stripe.lookup < self.footer.places.stripes.end();
                if !inside || stripes.last().is_some_and(|before| before.first > stripe.first) {
                    return Err(wrong("stripes that do not follow one another"));
                }
                begin = stripe.lookup + 1;
                stripes.push(stripe);
            }
        }
        if begin != self.footer.places.stripes.end() {
            return Err(self.view.damaged(Section::Root, place.first, "stripes that are not all of them"));
        }
        Ok(stripes)
    }
}

/// The last LSN that the segment `id` covers by its header, which is written before all else; None if that is not there,
/// not intact, or of a version that this one does not know.
///
/// # Errors
/// [`ErrorKind::Io`] if the file cannot be opened or read: what it proves is unknown then.
pub fn last_lsn(io: &dyn Io, dir: &Path, store: StoreId, id: SegmentId) -> Result<Option<Lsn>> {
    let file = match io.open(&path(dir, id), OpenMode::ReadDirect) {
        Err(e) if e.os_error().is_some_and(|e| e.kind() == std::io::ErrorKind::NotFound) => return Ok(None),
        file => file?,
    };
    let body = match view::read(io, &file, Section::Header, id, 0) {
        Err(e) if e.kind() == ErrorKind::Damaged => return Ok(None),
        body => body?,
    };
    let header = Header::decode(&body).ok().filter(|h| h.readable() && h.store == store && h.id == id);
    Ok(header.map(|header| header.last_lsn))
}

fn read_footer(io: &dyn Io, file: &File, store: StoreId, meta: &SegmentMeta) -> Result<Footer> {
    let len = io.len(file)?;
    if len != meta.bytes || len < 3 * BLOCK as u64 || !len.is_multiple_of(BLOCK as u64) {
        let what = format!("the segment has {len} bytes, {} were written", meta.bytes);
        return Err(damaged(&file.path, len.min(meta.bytes), what));
    }
    let number = len / BLOCK as u64 - 1;
    let body = view::read(io, file, Section::Footer, meta.id, number)?;
    let wrong = |what| damaged(&file.path, number * BLOCK as u64, view::message(Section::Footer, number, what));
    let header = Footer::decode_header(&body).map_err(|m| wrong(m.what))?;
    if !header.readable() {
        let message = format!("the segment has format {} or features that this version does not know", header.format);
        return Err(Error::new(ErrorKind::Refused, message)
            .file(&file.path)
            .remedy("open the store with the version of everlog that wrote it, or a later one"));
    }
    let footer = Footer::decode(&body, number).map_err(|m| wrong(m.what))?;
    if header.store != store {
        return Err(wrong("it belongs to another store"));
    }
    if !footer.agrees(meta) {
        return Err(wrong("the manifest says otherwise of the segment"));
    }
    Ok(footer)
}
