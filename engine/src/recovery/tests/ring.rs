//! A journal built frame by frame, on a disk that is a map of files, for the tests of recovery.

use crate::error::Result;
use crate::format::Features;
use crate::format::bytes::Sink as _;
use crate::format::entry::{Entry, Kind, batch_header};
use crate::format::frame::{FLAG_CLOSE, FrameHeader, FrameRef, HEADER_LEN, frame_len};
use crate::format::identity::Identity;
use crate::format::journal::{FIRST_FRAME_AT, JournalHeader};
use crate::io::{AlignedBuf, Done, File, Io, IoQueue, Op};
use crate::journal::names;
use crate::recovery::decide::{Action, decide};
use crate::recovery::scan::{Facts, scan};
use crate::types::{BLOCK, FrameNo, JournalId, LogId, Lsn, ManifestVersion, Seq, StoreId, TimeUs, Timeline};
use parking_lot::Mutex;
use std::any::Any;
use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A disk that keeps what it is told, and counts the bytes of the largest read.
#[derive(Default)]
pub struct MapIo {
    pub files: Mutex<BTreeMap<PathBuf, Vec<u8>>>,
    pub largest_read: Mutex<usize>,
}

impl Io for MapIo {
    fn name(&self) -> &'static str {
        "map"
    }

    fn run(&self, op: Op) -> io::Result<Done> {
        let mut files = self.files.lock();
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        Ok(match op {
            Op::Open { path, mode: crate::io::OpenMode::Create } => {
                if files.insert(path.clone(), Vec::new()).is_some() {
                    return Err(io::ErrorKind::AlreadyExists.into());
                }
                Done::File(File { path: path.into(), inner: Arc::new(()) })
            }
            Op::Open { path, .. } => {
                files.get(&path).ok_or_else(missing)?;
                Done::File(File { path: path.into(), inner: Arc::new(()) })
            }
            Op::Read { file, offset, mut buf } => {
                let bytes = files.get(&*file.path).ok_or_else(missing)?;
                let mut largest = self.largest_read.lock();
                *largest = largest.max(buf.capacity());
                let from = (offset as usize).min(bytes.len());
                let to = (from + buf.capacity()).min(bytes.len());
                buf.clear();
                buf.put(&bytes[from..to]);
                Done::Buf(buf)
            }
            Op::Write { file, offset, buf, .. } => {
                let bytes = files.get_mut(&*file.path).ok_or_else(missing)?;
                let end = offset as usize + buf.len();
                let len = bytes.len().max(end);
                bytes.resize(len, 0);
                bytes[offset as usize..end].copy_from_slice(&buf);
                Done::Buf(buf)
            }
            Op::Len { file } => Done::Len(files.get(&*file.path).ok_or_else(missing)?.len() as u64),
            Op::Rename { from, to } => {
                let bytes = files.remove(&from).ok_or_else(missing)?;
                files.insert(to, bytes);
                Done::Nothing
            }
            Op::Remove { path } => {
                files.remove(&path).ok_or_else(missing)?;
                Done::Nothing
            }
            Op::List { path } => Done::Names(
                files
                    .keys()
                    .filter(|file| file.parent() == Some(&path))
                    .filter_map(|file| Some(file.file_name()?.to_str()?.to_owned()))
                    .collect(),
            ),
            Op::Sync { .. } | Op::SyncDir { .. } | Op::Allocate { .. } | Op::CreateDir { .. } => Done::Nothing,
        })
    }

    fn queue(&self, _: usize) -> io::Result<Box<dyn IoQueue>> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn lock(&self, _: &Path) -> io::Result<Option<Box<dyn Any + Send + Sync>>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// A frame that was written.
#[derive(Clone, Debug)]
pub struct Written {
    pub slot: u16,
    pub header: FrameHeader,
    pub at: FrameRef,
    pub bytes: Vec<u8>,
}

impl Written {
    pub fn range(&self) -> Range<usize> {
        self.header.position as usize..self.header.position as usize + self.bytes.len()
    }
}

/// A journal and the writer of it.
pub struct Ring {
    pub io: MapIo,
    pub identity: Identity,
    pub file_bytes: u64,
    pub written: Vec<Written>,
    /// The manifest in force, as frames name it.
    pub manifest: ManifestVersion,
    pub slot: u16,
    pub journal: JournalId,
    pub last: FrameRef,
    pub next_at: u64,
    /// The frame and the LSN that the next frames say are durable.
    pub watermark: (FrameNo, Lsn),
    /// The highest frame that any frame ever said is durable.
    pub claimed: FrameNo,
    /// Whether the watermark follows each frame at once.
    pub settled: bool,
    timeline: Timeline,
    next_seq: u64,
}

pub const DEPTH: u16 = 2;

impl Ring {
    /// `files` files of `blocks` blocks of zeros.
    pub fn new(files: u16, blocks: usize) -> Self {
        let io = MapIo::default();
        for slot in 0..files {
            io.files.lock().insert(path(slot), vec![0; blocks * BLOCK]);
        }
        let identity =
            Identity { features: Features::KNOWN, store: StoreId([7; 16]), key: [9; 32], created: TimeUs(1) };
        Self {
            io,
            identity,
            file_bytes: (blocks * BLOCK) as u64,
            written: Vec::new(),
            manifest: ManifestVersion(1),
            slot: 0,
            journal: JournalId(0),
            last: FrameRef::default(),
            next_at: 0,
            watermark: Default::default(),
            claimed: FrameNo(0),
            settled: true,
            timeline: Timeline { counter: 1, random: 5 },
            next_seq: 0,
        }
    }

    /// Goes on in another file, as a full file or a cut makes the writer do.
    pub fn begin(&mut self, slot: u16) {
        self.journal = self.journal.next();
        self.slot = slot;
        self.next_at = FIRST_FRAME_AT;
        let header = JournalHeader {
            features: Features::KNOWN,
            store: self.identity.store,
            journal: self.journal,
            file_bytes: self.file_bytes,
            timeline: self.timeline,
            left: self.last,
        };
        let block = header.encode(self.identity.salt(self.journal));
        self.patch(slot, 0, &block);
    }

    /// Goes back to `end`, as an unclean open does that accepts no frame past it, and goes on in `slot`.
    pub fn cut_to(&mut self, end: FrameRef, slot: u16) {
        self.written.retain(|w| w.at.frame <= end.frame);
        self.last = end;
        self.watermark = (end.frame, end.last_lsn);
        self.timeline.counter += 1;
        self.begin(slot);
    }

    /// Writes the next frame, one batch with a record for each payload.
    pub fn frame(&mut self, payloads: &[&[u8]]) -> FrameRef {
        self.frame_with(payloads, 0)
    }

    pub fn close(&mut self) -> FrameRef {
        self.frame_with(&[], FLAG_CLOSE)
    }

    pub fn frame_with(&mut self, payloads: &[&[u8]], flags: u16) -> FrameRef {
        let mut entries = Vec::new();
        for payload in payloads {
            let entry = Entry {
                kind: Kind::Record,
                seq: Seq(self.next_seq),
                cipher: 0,
                key_id: 0,
                producer: None,
                tag: None,
                payload,
            };
            entry.encode(LogId([3; 16]), &mut entries);
            self.next_seq += 1;
        }
        let mut payload = Vec::new();
        if !payloads.is_empty() {
            payload.put(&batch_header(entries.len() as u32, payloads.len() as u32));
            payload.put(&entries);
        }
        self.frame_of(&payload, payloads.len() as u32, flags)
    }

    /// Writes the next frame with this very payload, said to hold so many entries in one batch.
    pub fn frame_of(&mut self, payload: &[u8], entries: u32, flags: u16) -> FrameRef {
        let mut bytes = vec![0; frame_len(payload.len())];
        bytes[HEADER_LEN..HEADER_LEN + payload.len()].copy_from_slice(payload);
        let header = FrameHeader {
            flags,
            depth: DEPTH,
            store: self.identity.store,
            journal: self.journal,
            position: self.next_at,
            frame: self.last.frame.next(),
            first_lsn: self.last.last_lsn.next(),
            entries,
            batches: u32::from(entries > 0),
            payload_len: payload.len() as u32,
            frame_len: bytes.len() as u32,
            timeline: self.timeline,
            time: TimeUs(self.last.frame.0),
            watermark: self.watermark.1,
            watermark_frame: self.watermark.0,
            manifest: self.manifest,
            prev_journal: self.last.journal,
            prev_position: self.last.position,
            prev_hash: self.last.hash,
            ..FrameHeader::default()
        };
        self.claimed = self.claimed.max(self.watermark.0);
        let at = header.seal(&mut bytes, self.identity.salt(self.journal));
        self.patch(self.slot, self.next_at, &bytes);
        self.next_at += bytes.len() as u64;
        self.last = at;
        if self.settled {
            self.watermark = (at.frame, at.last_lsn);
        }
        self.written.push(Written { slot: self.slot, header, at, bytes });
        at
    }

    /// Overwrites bytes of a file.
    pub fn patch(&self, slot: u16, at: u64, bytes: &[u8]) {
        let mut files = self.io.files.lock();
        let file = files.get_mut(&path(slot)).expect("a file of the ring");
        file[at as usize..at as usize + bytes.len()].copy_from_slice(bytes);
    }

    /// Changes one byte of a file.
    pub fn flip(&self, slot: u16, at: u64) {
        let mut files = self.io.files.lock();
        files.get_mut(&path(slot)).expect("a file of the ring")[at as usize] ^= 0x20;
    }

    /// Changes one byte of a written frame.
    pub fn flip_in(&self, frame: usize, at: usize) {
        let written = &self.written[frame];
        self.flip(written.slot, written.header.position + at as u64);
    }

    /// Makes a written frame's place zeros from its byte `from` on.
    pub fn erase(&self, frame: usize, from: usize) {
        let written = &self.written[frame];
        let zeros = vec![0; written.bytes.len() - from];
        self.patch(written.slot, written.header.position + from as u64, &zeros);
    }

    /// Scans with nothing flushed.
    pub fn scan(&self) -> Scanned {
        self.scan_from(&FrameRef::default())
    }

    pub fn scan_from(&self, flushed: &FrameRef) -> Scanned {
        let mut accepted = Vec::new();
        let mut sink = |_: &FrameHeader, frame: AlignedBuf| -> Result<()> {
            accepted.push(frame.to_vec());
            Ok(())
        };
        let before = self.io.files.lock().clone();
        let facts = scan(&self.io, Path::new("/s"), &self.identity, flushed, &mut sink).expect("this disk fails never");
        assert_eq!(*self.io.files.lock(), before, "a scan only reads");
        let action = decide(&facts, self.manifest);
        Scanned { facts, accepted, action }
    }
}

/// What a scan gave.
#[derive(Debug)]
pub struct Scanned {
    pub facts: Facts,
    pub accepted: Vec<Vec<u8>>,
    pub action: Action,
}

impl Scanned {
    /// Asserts that the accepted frames are the `count` written ones from index `from` on.
    pub fn is(&self, ring: &Ring, from: usize, count: usize) {
        let want: Vec<_> = ring.written[from..from + count].iter().map(|w| w.bytes.clone()).collect();
        assert!(self.accepted == want, "accepted {} frames, wanted {count}: {:?}", self.accepted.len(), self.facts);
        if count > 0 {
            assert_eq!(self.facts.end, ring.written[from + count - 1].at);
        }
    }
}

pub fn path(slot: u16) -> PathBuf {
    Path::new("/s").join(names::file_name(slot))
}
