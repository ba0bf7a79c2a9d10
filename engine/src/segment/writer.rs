//! Writes a segment, front to back, as the flush or a merge hands over the logs in the order of their ids.
//!
//! Does not sort, does not interpret entries and starts no thread. In memory: the stripe that is being written, with its
//! index (60 bytes a chunk) and its state records, and 60 bytes for each stripe before it. Invariant: until
//! [`SegmentWriter::finish`] has returned, nothing may refer to the file; after an error it is abandoned and written anew
//! under another id.

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
use crate::format::manifest::SegmentMeta;
use crate::format::segment::{
    ENTRIES_PER_BLOCK, FLAG_COMPRESSED, FLAG_CONTROL, FLAG_ENDS, FLAG_GONE, FLAG_LAST, Footer, Header, INDEX_ENTRY_LEN,
    IndexEntry, KEY_LEN, Key, NameEntry, Origin, Place, Places, STRIPE_ENTRIES, STRIPE_LEN, STRIPES_PER_BLOCK, Stripe,
};
use crate::format::state::STATE_RECORD_BYTES_MAX;
use crate::io::{Io, OpenMode};
use crate::types::{BLOCK, LogId, Lsn, SegmentId, Seq, TimeUs, Timeline};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A stripe ends once its state records take so many bytes.
const STRIPE_STATE_BYTES: usize = 1 << 20;

/// A log that was created in a segment: its name, its id, and the LSN of its last creation there.
pub type Name = (String, LogId, Lsn);

/// Writes one segment. Used in this order: [`Self::begin_log`], [`Self::entry`], [`Self::end_log`] or [`Self::end_gone`], for
/// each log; then [`Self::end_logs`], [`Self::name`] for each log created here, and [`Self::finish`]. A caller that breaks the order, or the order of ids, LSNs or seqs, is stopped by an
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
    stripe: OpenStripe,
    /// The stripes so far, as the root has them.
    root: Vec<u8>,
    data_bytes: u64,
    /// Once the logs are ended.
    behind: Option<Behind>,
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

/// The stripe being written: what follows its chunks.
#[derive(Default)]
struct OpenStripe {
    /// Encoded entries but the open log's last.
    index: Vec<u8>,
    state: Vec<u8>,
}

/// What stands behind the stripes, as far as it is written, and the names' block in hand.
struct Behind {
    stripes: Place,
    root: Place,
    block: Vec<u8>,
    /// The last name.
    previous: String,
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
            stripe: OpenStripe::default(),
            root: Vec::new(),
            data_bytes: 0,
            behind: None,
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
        assert!(dense || log.next_seq < Some(seq), "seqs never go back");

        let needed = body.len() + CHUNK_OVERHEAD;
        let is_open = self.chunk.entries > 0;
        if is_open && (!dense || self.out.buf.len() - self.chunk.start + needed > CHUNK_BYTES) {
            self.end_chunk()?;
        }
        if self.chunk.entries == 0 {
            self.room_in_stripe()?;
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
        self.data_bytes += u64::from(entry.len);
        if let Some(before) = log.pending.replace(entry) {
            self.stripe.index.put(&before.encode());
        }
        self.totals.records += u64::from(chunk.records);
        self.out.settle()
    }

    /// Ends the stripe before another chunk is begun, if it is full. A chunk that is pending is not its log's last then.
    fn room_in_stripe(&mut self) -> Result<()> {
        let log = self.log.as_mut().expect("a log was begun");
        let entries = self.stripe.index.len() / INDEX_ENTRY_LEN + usize::from(log.pending.is_some());
        if entries < STRIPE_ENTRIES && self.stripe.state.len() < STRIPE_STATE_BYTES {
            return Ok(());
        }
        if let Some(before) = log.pending.take() {
            self.stripe.index.put(&before.encode());
        }
        self.end_stripe()
    }

    /// Ends the log, whose next seq as of this segment is `next_seq`: after its last entry here, or higher if a merge left
    /// records out; it may have left out all of it. `changed` is the LSN of the last change of its state; `record`, where
    /// that lies within this segment, is an encoded [`crate::format::state::StateRecord`]: what changed here and where the rest
    /// is. `ends` if that says so, or if the log is to expire, though that was said before this segment.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`]; the segment is then to be abandoned.
    pub fn end_log(&mut self, next_seq: Seq, changed: Lsn, record: Option<&[u8]>, ends: bool) -> Result<()> {
        let mut last = self.last_entry(next_seq)?;
        let here = self.header.first_lsn <= changed;
        assert!(changed <= self.header.last_lsn && here == record.is_some(), "the state is as of this segment");
        last.flags |= FLAG_LAST;
        last.flags |= if ends { FLAG_ENDS } else { 0 };
        last.state_lsn = changed;
        if let Some(record) = record {
            last.state_at = Some(u32::try_from(self.stripe.state.len()).expect("a stripe's state is bounded"));
            assert!(record.len() <= STATE_RECORD_BYTES_MAX, "every group of a state is bounded");
            self.stripe.state.put_bytes(record);
        }
        self.put_last(&last);
        Ok(())
    }

    /// Ends a log that is gone: none of its entries is kept, but where it ends, `next_seq`, and the timeline of the record
    /// before that. `changed` is an LSN of the segment under which this is found.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`]; the segment is then to be abandoned.
    pub fn end_gone(&mut self, next_seq: Seq, changed: Lsn, last: Timeline) -> Result<()> {
        assert!(self.header.first_lsn <= changed && changed <= self.header.last_lsn, "it is found in this segment");
        let digest = u64::from(last.counter) | u64::from(last.random) << 32;
        let entry = self.last_entry(next_seq)?;
        assert!(entry.is_hollow() && entry.offset == self.out.position(), "nothing is kept of a log that is gone");
        self.put_last(&IndexEntry { flags: FLAG_LAST | FLAG_GONE, digest, state_lsn: changed, ..entry });
        Ok(())
    }

    /// The open log's last index entry: that of its last chunk, or one without a chunk if that does not end at `next_seq`.
    fn last_entry(&mut self, next_seq: Seq) -> Result<IndexEntry> {
        if self.chunk.entries > 0 {
            self.end_chunk()?;
        }
        let pending = |writer: &Self| writer.log.as_ref().expect("a log was begun").pending;
        if let Some(last) = pending(self).filter(|last| last.next_seq() == next_seq) {
            return Ok(last);
        }
        self.room_in_stripe()?;
        if let Some(before) = pending(self) {
            assert!(before.next_seq() < next_seq, "the log ends behind its last entry here");
            self.stripe.index.put(&before.encode());
        }
        Ok(IndexEntry {
            log: self.log.as_ref().expect("a log was begun").id,
            first_seq: next_seq,
            records: 0,
            flags: 0,
            offset: self.out.position(),
            len: 0,
            digest: 0,
            state_at: None,
            state_lsn: Lsn(0),
        })
    }

    fn put_last(&mut self, last: &IndexEntry) {
        self.stripe.index.put(&last.encode());
        self.totals.logs += 1;
        self.totals.ends += u64::from(last.ends());
        self.previous_log = Some(last.log);
        self.log = None;
    }

    /// Writes what is behind the stripe's chunks.
    fn end_stripe(&mut self) -> Result<()> {
        let OpenStripe { index, state } = std::mem::take(&mut self.stripe);
        self.out.pad();
        self.blocks(Section::Index, index.chunks(ENTRIES_PER_BLOCK * INDEX_ENTRY_LEN))?;
        self.blocks(Section::State, state.chunks(BODY_LEN))?;
        let number = self.out.position() / BLOCK as u64;
        let first_keys = first_keys(&index);
        let filter = filter::build(&keys(&index), (self.header.id, number));
        let stripe = Stripe {
            first: Key::get(&index),
            lookup: number,
            index_blocks: (first_keys.len() / KEY_LEN) as u16,
            state_bytes: state.len() as u32,
        };
        self.out.block(Section::Lookup, &[filter, first_keys].concat())?;
        self.root.put(&stripe.encode());
        Ok(())
    }

    /// Ends the logs: writes the last stripe and the root. The names follow.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`]; the segment is then to be abandoned.
    pub fn end_logs(&mut self) -> Result<()> {
        assert!(self.log.is_none() && self.behind.is_none(), "the last log was ended, and the logs are ended once");
        if !self.stripe.index.is_empty() {
            self.end_stripe()?;
        }
        let stripes = Place { first: 1, blocks: self.out.position() / BLOCK as u64 - 1 };
        let root = std::mem::take(&mut self.root);
        let root = self.blocks(Section::Root, root.chunks(STRIPES_PER_BLOCK * STRIPE_LEN))?;
        self.behind = Some(Behind { stripes, root, block: Vec::with_capacity(BODY_LEN), previous: String::new() });
        Ok(())
    }

    /// Adds the name of a log that was created here. They come sorted, each once, after [`Self::end_logs`].
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`]; the segment is then to be abandoned.
    pub fn name(&mut self, (name, log, created): &Name) -> Result<()> {
        let behind = self.behind.as_mut().expect("the logs were ended");
        assert!(*behind.previous < **name, "names come sorted, each once");
        let entry = NameEntry { name, log: *log, created: *created };
        if behind.block.len() + entry.encoded_len() > BODY_LEN {
            self.out.block(Section::Names, &behind.block)?;
            behind.block.clear();
        }
        entry.encode(&mut behind.block);
        name.clone_into(&mut behind.previous);
        Ok(())
    }

    /// Writes what is behind the names, and makes file and directory durable. Nothing may refer to the segment before
    /// [`ReadBack::finish`] found it to be what was written.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`]; the segment is then to be abandoned.
    pub fn finish(mut self, origin: &Origin) -> Result<(SegmentMeta, ReadBack)> {
        let Behind { stripes, root, block, .. } = self.behind.take().expect("the logs were ended");
        if !block.is_empty() {
            self.out.block(Section::Names, &block)?;
        }
        let names = Place { first: root.end(), blocks: self.out.position() / BLOCK as u64 - root.end() };
        let meta = origin.encode();
        let places = Places { stripes, root, names, meta: self.blocks(Section::Meta, meta.chunks(BODY_LEN))? };
        let footer = Footer {
            header: self.header,
            first_time: self.totals.first_time,
            last_time: self.totals.last_time,
            logs: self.totals.logs,
            records: self.totals.records,
            entries: self.totals.entries,
            payload_bytes: self.totals.payload_bytes,
            ends: self.totals.ends,
            places,
            data_bytes: self.data_bytes,
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

    /// Writes blocks with these bodies.
    fn blocks<'a>(&mut self, section: Section, bodies: impl Iterator<Item = &'a [u8]>) -> Result<Place> {
        let first = self.out.position() / BLOCK as u64;
        for body in bodies {
            self.out.block(section, body)?;
        }
        Ok(Place { first, blocks: self.out.position() / BLOCK as u64 - first })
    }
}

/// The key that each block of these index entries begins with.
fn first_keys(index: &[u8]) -> Vec<u8> {
    index.chunks(ENTRIES_PER_BLOCK * INDEX_ENTRY_LEN).flat_map(|block| block[..KEY_LEN].iter().copied()).collect()
}

/// The filter's key of each log in the index.
fn keys(index: &[u8]) -> Vec<u64> {
    let mut previous = None;
    let logs = index.chunks_exact(INDEX_ENTRY_LEN).map(|entry| Key::get(entry).log);
    logs.filter(|log| previous.replace(*log) != Some(*log)).map(filter::key_of).collect()
}
