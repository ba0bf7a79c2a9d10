//! Publication: a durable frame becomes visible and is acknowledged.
//!
//! It is called under the frames' lock, in the order of the frames. Invariants: the watermark moves once all entries of a
//! frame are in their slots, and answers are given behind that; nobody is woken here, since what is woken may want that lock.

use super::ack::Pending;
use super::frames::Shared;
use super::lane::Staged;
#[cfg(feature = "mutants")]
use crate::error::Error;
use crate::format::frame::{FrameHeader, FrameRef, HEADER_LEN};
use crate::index::memory::{FrameMem, MemEntry};
use crate::io::AlignedBuf;
#[cfg(feature = "mutants")]
use crate::mutants::{self, Mutant};
use crate::sync::Arc;
use crate::waiter::Wakes;

/// What was published.
#[derive(Default)]
pub struct Published {
    /// How many waited for its frames.
    pub clients: usize,
    /// How many of them are callers who did nothing else.
    pub callers: usize,
    /// Bytes of its frames.
    pub bytes: usize,
    /// Whom to wake, under no lock.
    pub wakes: Wakes,
}

impl Published {
    /// Whether no frame was.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Publishes a frame that is durable, with all before it published.
    pub(super) fn add(
        &mut self, shared: &Shared, header: &FrameHeader, frame: FrameRef, mut staged: Staged, buf: AlignedBuf,
    ) {
        let Shared { index, journal, lane, poison, .. } = shared;
        let payload_len = header.payload_len as usize;
        let memory =
            Arc::new(FrameMem::new(buf, HEADER_LEN, payload_len, header.time, header.timeline, &index.buffers));
        for group in std::mem::take(&mut staged.groups) {
            let entries = group.entries.clone().map(|at| {
                let entry = staged.entries[at];
                MemEntry {
                    lsn: staged.lsn(at),
                    seq: entry.seq,
                    frame: Arc::clone(&memory),
                    at: entry.at,
                    len: entry.len,
                    kind: entry.kind,
                    plain: entry.plain,
                }
            });
            self.wakes.targets.append(&mut index.publish(&group.slot, entries, Some(group.visible)));
        }
        let metrics = &index.metrics;
        metrics.frames.add(1);
        metrics.frames_empty.add(u64::from(header.entries == 0));
        metrics.frame_entries.add(u64::from(header.entries));
        metrics.records.add(staged.records);
        metrics.payload_bytes.add(staged.payload_bytes);
        journal.set_published(frame, header.time);
        index.set_watermark(frame.last_lsn);
        self.clients += staged.waiting.len();
        self.callers += staged.callers;
        self.bytes += header.frame_len as usize;
        let mut waiting = staged.waiting;
        waiting.append(&mut lane.settled(frame.last_lsn));
        #[cfg(feature = "mutants")]
        if mutants::makes(Mutant::LatchLeftOpen) && mutants::kept::<Error>().is_some() {
            self.wakes.append(Pending::answer_all(std::mem::take(&mut waiting), Some(&poison.unknown())));
        }
        // The flush may close the latch at any moment; nothing is acknowledged behind that.
        let wakes = poison
            .unless_set(|| Pending::answer_all(std::mem::take(&mut waiting), None))
            .unwrap_or_else(|| Pending::answer_all(waiting, Some(&poison.unknown())));
        self.wakes.append(wakes);
    }
}
