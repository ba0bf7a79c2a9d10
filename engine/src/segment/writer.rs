//! Writes a segment, front to back, as the flush hands over the logs in the order of their ids.
//!
//! Does not sort, does not interpret entries and starts no thread. In memory until the end: the index (60 bytes a
//! chunk), the state records and the names. Invariant: until [`SegmentWriter::finish`] has returned, nothing may refer to
//! the file; after an error it is abandoned and written anew under another id.

use super::compress::Squeeze;
use super::output::Output;
use super::{ReadBack, filter, path};
use crate::error::{Error, Result};
use crate::format::FORMAT_VERSION;
use crate::format::block::{BODY_LEN, Section};
use crate::format::bytes::Sink;
use crate::format::chunk::{self, CHUNK_BYTES, CHUNK_OVERHEAD, CHUNK_PLAIN_BYTES_MAX};
use crate::format::entry::Kind;
use crate::format::identity::Identity;
use crate::format::manifest::{SegmentMeta, TimelineStart};
use crate::format::segment::{
    ENTRIES_PER_BLOCK, FLAG_COMPRESSED, FLAG_CONTROL, FLAG_LAST, Footer, Header, INDEX_ENTRY_LEN, IndexEntry, KEY_LEN,
    KEYS_PER_BLOCK, Key, NameEntry, Place, Places, encode_meta,
};
use crate::format::state::{LogState, STATE_RECORD_BYTES_MAX, StateRecord};
use crate::io::{Io, OpenMode};
use crate::types::{BLOCK, LogId, Lsn, SegmentId, Seq, TimeUs};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Writes one segment. Used in this order: [`Self::begin_log`], [`Self::entry`] at least once, [`Self::end_log`], for
/// each log; then [`Self::finish`]. A caller that breaks the order, or the order of ids, LSNs or seqs, is stopped by an
/// assertion, since what it would have written could not be read.
pub struct SegmentWriter {
    io: Arc<dyn Io>,
    path: PathBuf,
    header: Header,
    out: Output,
    squeeze: Squeeze,
    log: Option<OpenLog>,
    /// The last log that was ended.
    previous_log: Option<LogId>,
    chunk: OpenChunk,
    /// Encoded entries but the open log's last.
    index: Vec<u8>,
    state: Vec<u8>,
    scratch: Vec<u8>,
    names: Vec<(Box<str>, LogId, Lsn)>,
    totals: SegmentMeta,
}

/// The log being written.
struct OpenLog {
    id: LogId,
    /// The log's next seq; None before its first entry here.
    next_seq: Option<Seq>,
    last_lsn: Lsn,
    last_time: TimeUs,
    /// Its last chunk so far.
    pending: Option<IndexEntry>,
}

/// The chunk being built at the end of the output's buffer.
#[derive(Default)]
struct OpenChunk {
    /// Where it begins in the buffer.
    start: usize,
    entries: u64,
    records: u32,
    first_record: Option<Seq>,
    flags: u16,
}

impl SegmentWriter {
    /// Begins the segment `id`, which will cover `lsns`, in the store's directory `dir`. The file must not exist.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`].
    pub fn create(
        io: Arc<dyn Io>, dir: &Path, identity: &Identity, id: SegmentId, lsns: RangeInclusive<Lsn>,
    ) -> Result<Self> {
        let path = path(dir, id);
        let file = io.open(&path, OpenMode::CreateDirect)?;
        let header = Header {
            format: FORMAT_VERSION,
            features: identity.features,
            store: identity.store,
            id,
            first_lsn: *lsns.start(),
            last_lsn: *lsns.end(),
        };
        let back = ReadBack::begin(&*io, dir, id)?;
        let mut out = Output::new(Arc::clone(&io), file, id, back)?;
        out.block(Section::Header, &header.encode())?;
        let squeeze = Squeeze::new().map_err(|e| Error::io("preparing compression for", &path, e))?;
        Ok(Self {
            io,
            path,
            header,
            out,
            squeeze,
            log: None,
            previous_log: None,
            chunk: OpenChunk::default(),
            index: Vec::new(),
            state: Vec::new(),
            scratch: Vec::new(),
            names: Vec::new(),
            totals: SegmentMeta { id, first_lsn: *lsns.start(), last_lsn: *lsns.end(), ..SegmentMeta::default() },
        })
    }

    /// Begins the next log. The logs come in ascending order of their ids.
    pub fn begin_log(&mut self, log: LogId) {
        assert!(self.log.is_none(), "the log before was ended");
        assert!(self.previous_log.is_none_or(|previous| previous < log), "logs come in ascending order");
        self.log = Some(OpenLog { id: log, next_seq: None, last_lsn: Lsn(0), last_time: TimeUs(0), pending: None });
    }

    /// Adds the log's next entry, in the order of LSNs. The body is copied as it is, its checksum included.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`]; the segment is then to be abandoned.
    pub fn entry(&mut self, lsn: Lsn, time: TimeUs, kind: Kind, seq: Seq, body: &[u8]) -> Result<()> {
        let log = self.log.as_mut().expect("a log was begun");
        let within = self.header.first_lsn <= lsn && lsn <= self.header.last_lsn;
        assert!(within && log.last_lsn < lsn && log.last_time <= time, "entries come in order, within the segment");
        assert!(body.len() <= CHUNK_PLAIN_BYTES_MAX - CHUNK_OVERHEAD, "an entry fits a chunk");
        let dense = log.next_seq.is_none_or(|next| next == seq);
        assert!(dense || matches!(kind, Kind::Create | Kind::Fork), "seqs are dense but for a new creation");

        let needed = body.len() + CHUNK_OVERHEAD;
        let is_open = self.chunk.entries > 0;
        if is_open && (!dense || self.out.buf.len() - self.chunk.start + needed > CHUNK_BYTES) {
            self.end_chunk()?;
        }
        let log = self.log.as_mut().expect("a log was begun");
        self.out.reserve(needed);
        let buf = &mut self.out.buf;
        let (base_lsn, base_time) = if self.chunk.entries == 0 {
            self.chunk.start = buf.len();
            buf.put_varint(lsn.0);
            buf.put_varint(time.0);
            (lsn, time)
        } else {
            (log.last_lsn, log.last_time)
        };
        buf.put_varint(lsn.0 - base_lsn.0);
        buf.put_varint(time.0 - base_time.0);
        buf.put_bytes(body);
        self.chunk.entries += 1;
        if kind == Kind::Record {
            self.chunk.records += 1;
            self.chunk.first_record.get_or_insert(seq);
            log.next_seq = Some(seq.next());
        } else {
            self.chunk.flags |= FLAG_CONTROL;
            log.next_seq = Some(seq);
        }
        (log.last_lsn, log.last_time) = (lsn, time);
        self.count(time, body.len());
        Ok(())
    }

    fn count(&mut self, time: TimeUs, body_bytes: usize) {
        let totals = &mut self.totals;
        if totals.entries == 0 {
            (totals.first_time, totals.last_time) = (time, time);
        }
        totals.first_time = totals.first_time.min(time);
        totals.last_time = totals.last_time.max(time);
        totals.entries += 1;
        totals.payload_bytes += body_bytes as u64;
    }

    /// Seals the chunk at the end of the buffer, compressed if that gains, and notes it for the index.
    fn end_chunk(&mut self) -> Result<()> {
        let chunk = std::mem::take(&mut self.chunk);
        let log = self.log.as_mut().expect("a chunk belongs to a log");
        let next_seq = log.next_seq.expect("a chunk has an entry");
        let mut flags = chunk.flags;
        let offset = self.out.position() - (self.out.buf.len() - chunk.start) as u64;
        if let Some(smaller) = self.squeeze.squeeze(&self.out.buf[chunk.start..]) {
            self.out.buf.resize(chunk.start);
            self.out.buf.put(smaller);
            flags |= FLAG_COMPRESSED;
        }
        let stored = &self.out.buf[chunk.start..];
        let entry = IndexEntry {
            log: log.id,
            first_seq: chunk.first_record.unwrap_or(next_seq),
            records: chunk.records,
            flags,
            offset,
            len: u32::try_from(stored.len()).expect("a chunk is bounded"),
            digest: chunk::digest(stored),
            state_at: None,
            state_lsn: Lsn(0),
        };
        assert_eq!(entry.next_seq(), next_seq, "a chunk's seqs are dense");
        if let Some(before) = log.pending.replace(entry) {
            self.index.put(&before.encode());
        }
        self.totals.records += u64::from(chunk.records);
        self.out.settle()
    }

    /// Ends the log. `state` is as of its last entry here. If any of it changed within this segment, a state record is
    /// written: what changed, and where the rest is. `name` is given if the log was created in this segment.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`]; the segment is then to be abandoned.
    pub fn end_log(&mut self, state: &LogState, name: Option<&str>) -> Result<()> {
        assert!(self.chunk.entries > 0, "a log in a segment has an entry there");
        self.end_chunk()?;
        let log = self.log.take().expect("a log was begun");
        let mut last = log.pending.expect("its last chunk was ended");
        assert_eq!(last.next_seq(), state.next_seq, "the state is as of the log's last entry here");
        let changed = state.changed.last();
        assert!(changed <= self.header.last_lsn, "the state is as of this segment");
        last.flags |= FLAG_LAST;
        last.state_lsn = changed;
        if changed >= self.header.first_lsn {
            last.state_at = Some(u32::try_from(self.state.len()).expect("a segment's state records fit 4 GiB"));
            self.scratch.clear();
            StateRecord::of(state, self.header.first_lsn).encode(&mut self.scratch);
            assert!(self.scratch.len() <= STATE_RECORD_BYTES_MAX, "every group of a state is bounded");
            self.state.put_bytes(&self.scratch);
        }
        self.index.put(&last.encode());
        if let Some(name) = name {
            self.names.push((name.into(), log.id, state.life.created));
        }
        self.totals.logs += 1;
        self.previous_log = Some(log.id);
        Ok(())
    }

    /// Writes what is behind the data, and makes file and directory durable. `ancestry` is the timelines that led here.
    /// Nothing may refer to the segment before [`ReadBack::finish`] found it to be what was written.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`]; the segment is then to be abandoned.
    pub fn finish(mut self, ancestry: &[TimelineStart]) -> Result<(SegmentMeta, ReadBack)> {
        assert!(self.log.is_none(), "the last log was ended");
        let data_bytes = self.out.position() - BLOCK as u64;
        self.out.pad();
        let data = Place { first: 1, blocks: data_bytes.div_ceil(BLOCK as u64) };

        let index = std::mem::take(&mut self.index);
        let fence = first_keys(&index, ENTRIES_PER_BLOCK * INDEX_ENTRY_LEN);
        let root = first_keys(&fence, KEYS_PER_BLOCK * KEY_LEN);
        let filter = filter::build(last_keys(&index));
        let meta = encode_meta(ancestry);
        let state = std::mem::take(&mut self.state);
        let names = self.name_blocks();
        let places = Places {
            data,
            index: self.section(Section::Index, index.chunks(ENTRIES_PER_BLOCK * INDEX_ENTRY_LEN))?,
            fence: self.section(Section::Fence, fence.chunks(KEYS_PER_BLOCK * KEY_LEN))?,
            root: self.section(Section::Root, root.chunks(KEYS_PER_BLOCK * KEY_LEN))?,
            filter: self.section(Section::Filter, filter.iter().map(Vec::as_slice))?,
            names: self.section(Section::Names, names.iter().map(Vec::as_slice))?,
            state: self.section(Section::State, state.chunks(BODY_LEN))?,
            meta: self.section(Section::Meta, meta.chunks(BODY_LEN))?,
        };
        let footer = Footer {
            header: self.header,
            first_time: self.totals.first_time,
            last_time: self.totals.last_time,
            logs: self.totals.logs,
            records: self.totals.records,
            entries: self.totals.entries,
            payload_bytes: self.totals.payload_bytes,
            places,
            data_bytes,
            state_bytes: state.len() as u64,
            meta_bytes: meta.len() as u64,
            digest: self.out.digest(),
        };
        self.out.block(Section::Footer, &footer.encode())?;
        self.totals.bytes = self.out.position();
        let (digest, back) = self.out.finish()?;
        self.totals.digest = digest;
        self.io.sync_dir(self.path.parent().expect("a segment lies in its directory"))?;
        Ok((self.totals, back))
    }

    /// Writes a section's blocks.
    fn section<'a>(&mut self, section: Section, bodies: impl Iterator<Item = &'a [u8]>) -> Result<Place> {
        let first = self.out.position() / BLOCK as u64;
        for body in bodies {
            self.out.block(section, body)?;
        }
        Ok(Place { first, blocks: self.out.position() / BLOCK as u64 - first })
    }

    /// The bodies of the names' blocks: sorted, none across two blocks.
    fn name_blocks(&mut self) -> Vec<Vec<u8>> {
        self.names.sort_unstable();
        let mut blocks: Vec<Vec<u8>> = Vec::new();
        for (name, log, created) in self.names.drain(..) {
            let entry = NameEntry { name: &name, log, created };
            match blocks.last_mut().filter(|block| block.len() + entry.encoded_len() <= BODY_LEN) {
                Some(block) => entry.encode(block),
                None => {
                    let mut block = Vec::with_capacity(BODY_LEN);
                    entry.encode(&mut block);
                    blocks.push(block);
                }
            }
        }
        blocks
    }
}

/// The key that each block of `block_len` bytes begins with.
fn first_keys(blocks: &[u8], block_len: usize) -> Vec<u8> {
    blocks.chunks(block_len).flat_map(|block| block[..KEY_LEN].iter().copied()).collect()
}

/// The filter's key of each log in the index.
fn last_keys(index: &[u8]) -> Vec<u64> {
    let mut previous = None;
    let logs = index.chunks_exact(INDEX_ENTRY_LEN).map(|entry| Key::get(entry).log);
    logs.filter(|log| previous.replace(*log) != Some(*log)).map(filter::key_of).collect()
}
