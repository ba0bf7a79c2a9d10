//! What recovery puts into memory: the entries of the frames that a scan accepts.
//!
//! States are not looked up here: a log whose entries were replayed is resolved at its first touch, so that the time of
//! an open follows the journal's bytes and not the logs that exist.

use crate::error::{Error, ErrorKind, Result};
use crate::format::entry::{Entry, Kind, split_payload};
use crate::format::frame::{FrameHeader, HEADER_LEN};
use crate::format::manifest::{TimelineCause, TimelineStart};
use crate::index::Index;
use crate::index::memory::{FrameMem, MemEntry};
use crate::io::AlignedBuf;
use crate::sync::Arc;
use crate::types::{FrameNo, JournalId, LogId, Lsn, Seq};
use std::collections::BTreeMap;

/// Where an accepted frame lies.
#[derive(Clone, Copy, Debug)]
pub struct Extent {
    /// The use of a file.
    pub journal: JournalId,
    /// The byte offset in it.
    pub position: u64,
    /// Bytes.
    pub len: u32,
    /// The frame's number.
    pub frame: FrameNo,
}

/// A replay under way.
pub struct Replay<'a> {
    index: &'a Index,
    /// The last accepted frame of each use of a journal file.
    pub last_frames: BTreeMap<JournalId, FrameNo>,
    /// The store's timelines, those that only the journal tells of included.
    pub timelines: Vec<TimelineStart>,
    /// Where the accepted frames lie.
    pub extents: Vec<Extent>,
    /// Frames.
    pub frames: u64,
    /// Entries.
    pub entries: u64,
    /// Bytes of frames.
    pub bytes: u64,
}

struct Found {
    log: LogId,
    at: u32,
    len: u32,
    seq: Seq,
    kind: Kind,
    plain: bool,
}

impl<'a> Replay<'a> {
    /// A replay into `index`, on top of the manifest's `timelines`.
    #[must_use]
    pub fn new(index: &'a Index, timelines: Vec<TimelineStart>) -> Self {
        Self { index, last_frames: BTreeMap::new(), timelines, extents: Vec::new(), frames: 0, entries: 0, bytes: 0 }
    }

    /// Puts an accepted frame's entries in place. `frame` is all of its bytes.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`] if the payload is not what the scan said it is.
    pub fn frame(&mut self, header: &FrameHeader, frame: AlignedBuf) -> Result<()> {
        self.frames += 1;
        self.entries += u64::from(header.entries);
        self.bytes += u64::from(header.frame_len);
        self.last_frames.insert(header.journal, header.frame);
        let FrameHeader { journal, position, frame_len: len, frame: number, .. } = *header;
        self.extents.push(Extent { journal, position, len, frame: number });
        self.note_timeline(header);
        let payload_len = header.payload_len as usize;
        let found = find(&frame[HEADER_LEN..HEADER_LEN + payload_len]).map_err(|what| {
            Error::new(ErrorKind::Damaged, format!("an accepted frame cannot be read: {what}"))
                .lsns(header.first_lsn.0..header.last_lsn().0 + 1)
        })?;
        let (time, timeline) = (header.time, header.timeline);
        let memory = Arc::new(FrameMem::new(frame, HEADER_LEN, payload_len, time, timeline, &self.index.buffers));
        let mut lsn = header.first_lsn.0;
        for group in found.chunk_by(|a, b| a.log == b.log) {
            let slot = self.index.heads.get(group[0].log);
            let entries = group.iter().enumerate().map(|(n, found)| MemEntry {
                lsn: Lsn(lsn + n as u64),
                seq: found.seq,
                frame: Arc::clone(&memory),
                at: found.at,
                len: found.len,
                kind: found.kind,
                plain: found.plain,
            });
            let bytes = group.iter().map(|f| f.len as usize + crate::index::memory::ENTRY_OVERHEAD).sum();
            self.index.pool.take_anyway(bytes);
            let watchers = self.index.publish(&slot, entries, None);
            assert!(watchers.is_empty(), "nobody watches a log before the store is open");
            lsn += group.len() as u64;
        }
        Ok(())
    }

    fn note_timeline(&mut self, header: &FrameHeader) {
        // The manifest may know later ones than that of the frames behind the flushed one: a merge writes all that began.
        let is_known = self.timelines.iter().rev().any(|start| start.timeline == header.timeline);
        if !is_known {
            let last = self.timelines.last().map(|start| start.timeline).unwrap_or_default();
            self.timelines.push(TimelineStart {
                timeline: header.timeline,
                parent: last,
                first_lsn: header.first_lsn,
                began: header.time,
                cause: TimelineCause::Open,
            });
        }
    }
}

fn find(payload: &[u8]) -> std::result::Result<Vec<Found>, crate::format::Malformed> {
    split_payload(payload)?
        .into_iter()
        .map(|raw| {
            let entry = Entry::decode_trusted(raw.body)?;
            let (at, len) = (raw.body_at as u32, raw.body.len() as u32);
            Ok(Found { log: raw.log, at, len, seq: entry.seq, kind: entry.kind, plain: entry.is_plain() })
        })
        .collect()
}
