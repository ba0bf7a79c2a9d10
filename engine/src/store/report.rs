//! What a store says of itself: what its open found, and what it did since.

use super::Core;
use super::load::Loaded;
use crate::recovery::decide::Action;
use crate::scrub::ScrubReport;
use crate::types::{Lsn, ManifestVersion, Timeline};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What an open found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecoveryReport {
    /// Whether the store had been closed cleanly, or was never open.
    pub clean: bool,
    /// The timeline of this open.
    pub timeline: Timeline,
    /// The last LSN that was recovered.
    pub end: Lsn,
    /// LSNs that may have been acknowledged and are not there: the first, and the last where it is known. Only where
    /// bytes of a frame stood past the last intact one, or what no crash leaves there.
    pub possibly_acknowledged: Option<(Lsn, Option<Lsn>)>,
    /// Where the bytes past the cut are kept.
    pub torn: Vec<PathBuf>,
    /// Frames read from the journal.
    pub frames: u64,
    /// Records and control operations in them.
    pub entries: u64,
    /// Bytes of these frames.
    pub bytes: u64,
    /// How long the open took.
    pub took: Duration,
}

impl RecoveryReport {
    pub(super) fn new(loaded: &Loaded, timeline: Timeline, torn: Vec<PathBuf>, took: Duration) -> Self {
        let possibly_acknowledged = match loaded.action {
            Action::Cut { possibly_acknowledged } => possibly_acknowledged,
            _ => None,
        };
        Self {
            clean: matches!(loaded.action, Action::Begin | Action::GoOn),
            timeline,
            end: loaded.facts.end.last_lsn,
            possibly_acknowledged,
            torn,
            frames: loaded.frames,
            entries: loaded.entries,
            bytes: loaded.bytes,
            took,
        }
    }

    pub(super) fn log(&self, dir: &Path, io: &str) {
        tracing::info!(
            dir = %dir.display(),
            io,
            clean = self.clean,
            timeline = %self.timeline,
            end = self.end.0,
            frames = self.frames,
            bytes = self.bytes,
            took_ms = self.took.as_millis() as u64,
            "opened"
        );
        if let Some((first, last)) = self.possibly_acknowledged {
            let last = last.map_or_else(|| "unknown".to_owned(), |last| last.to_string());
            tracing::warn!(
                torn = ?self.torn,
                "possibly acknowledged and not there: LSN {first}–{last}; the timeline is a new one, so that readers notice"
            );
        }
    }
}

/// What a store did since it was opened, and what it holds. Bytes and counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// The backend that talks to the disk.
    pub io: &'static str,
    /// The highest durable LSN.
    pub watermark: Lsn,
    /// The manifest version in force.
    pub manifest: ManifestVersion,
    /// Whether the store stopped acknowledging.
    pub poisoned: bool,
    /// Why, if it did.
    pub poison_cause: Option<String>,
    /// Segments.
    pub segments: usize,
    /// Bytes of segments.
    pub segment_bytes: u64,
    /// Files of the journal ring.
    pub journal_files: usize,
    /// Whether nothing can be written for want of a journal file, and the last attempts to make or to free one failed.
    pub journal_full: bool,
    /// Durable bytes in memory.
    pub memtable_bytes: usize,
    /// Bytes taken from the memory pool.
    pub pool_bytes: usize,
    /// Its bound.
    pub pool_bytes_max: usize,
    /// Log heads in memory.
    pub heads: usize,
    /// Log heads looked up in segments.
    pub head_loads: u64,
    /// Frames that became durable, empty ones included.
    pub frames: u64,
    /// Of these, empty ones.
    pub frames_empty: u64,
    /// Records and control operations in durable frames.
    pub frame_entries: u64,
    /// Device writes for frames.
    pub frame_writes: u64,
    /// Bytes of these writes.
    pub frame_bytes: u64,
    /// Headers of journal files written.
    pub journal_headers: u64,
    /// Bytes of zeros written into new journal files.
    pub journal_fill_bytes: u64,
    /// Syncs on the append path.
    pub append_syncs: u64,
    /// Records that became durable.
    pub records: u64,
    /// Their payload bytes.
    pub payload_bytes: u64,
    /// Flushes.
    pub flushes: u64,
    /// Passes of the flush that failed and were tried again.
    pub flush_failures: u64,
    /// Why the last pass failed, if it did: until one succeeds, records stay in memory and in the journal.
    pub flush_error: Option<String>,
    /// Bytes written to segments.
    pub segment_bytes_written: u64,
    /// Segments written anew because they did not read back.
    pub segment_rewrites: u64,
    /// Merges that ended in a committed segment.
    pub merges: u64,
    /// Steps of merges that failed and were tried again.
    pub merge_failures: u64,
    /// Why the last merge failed, until one succeeds: what it was to merge stays in more segments.
    pub merge_error: Option<String>,
    /// Bytes that merges read.
    pub merge_bytes_read: u64,
    /// Bytes that merges wrote to segments.
    pub merge_bytes_written: u64,
    /// Records that merges left out: they were trimmed or deleted, and their grace was over.
    pub dropped_records: u64,
    /// Times that a merge found no room and got what is kept for that ([`crate::Config::merge_reserve_bytes`]).
    pub reserve_loans: u64,
    /// Whether a merge has that room at this moment: no flush is made meanwhile.
    pub room_lent: bool,
    /// Segments that a merge could not read and that are left as they are: run everlog verify.
    pub unreadable_segments: u64,
    /// Manifest versions committed.
    pub manifests: u64,
    /// Segments that are due to be merged.
    pub due_segments: usize,
    /// Merges under way.
    pub merges_under_way: usize,
    /// Appends turned away, for want of memory, of room in the journal, or since merges are behind.
    pub overloads: u64,
    /// Waits of appends that were slowed down because the flush or merges are behind.
    pub slowed: u64,
    /// Why no append is taken at this moment: merges or a cold store are too far behind, or the cold store did not answer
    /// for too long.
    pub held_back: Option<String>,
    /// Pages read.
    pub reads: u64,
    /// Segments that such a page took chunks from, each counted for each page.
    pub read_runs: u64,
    /// Reads for chunks of pages, from the device or the page cache; one brings along what follows.
    pub chunk_reads: u64,
    /// Their bytes as stored.
    pub chunk_bytes: u64,
    /// What the scrub did and found.
    pub scrub: ScrubReport,
}

impl Stats {
    pub(super) fn of(core: &Core) -> Self {
        let (index, metrics) = (&core.index, &core.index.metrics);
        let set = index.set();
        Self {
            io: core.io.name(),
            watermark: index.watermark(),
            manifest: set.manifest.version,
            poisoned: core.poison.is_set(),
            poison_cause: core.poison.cause().map(|cause| cause.to_string()),
            segments: set.segments.len(),
            segment_bytes: set.manifest.segments.iter().map(|meta| meta.bytes).sum(),
            journal_files: core.journal.ring.files(),
            journal_full: core.journal.ring.is_full(),
            memtable_bytes: index.mem_bytes(),
            pool_bytes: index.pool.taken(),
            pool_bytes_max: index.pool.bytes_max(),
            heads: index.heads.count(),
            head_loads: metrics.head_loads.get(),
            frames: metrics.frames.get(),
            frames_empty: metrics.frames_empty.get(),
            frame_entries: metrics.frame_entries.get(),
            frame_writes: metrics.frame_writes.get(),
            frame_bytes: metrics.frame_bytes.get(),
            journal_headers: metrics.journal_headers.get(),
            journal_fill_bytes: metrics.journal_fill_bytes.get(),
            append_syncs: metrics.append_syncs.get(),
            records: metrics.records.get(),
            payload_bytes: metrics.payload_bytes.get(),
            flushes: metrics.flushes.get(),
            flush_failures: metrics.flush_failures.get(),
            flush_error: core.flush_signal.last_error().map(|error| error.to_string()),
            segment_bytes_written: metrics.segment_bytes.get(),
            segment_rewrites: metrics.segment_rewrites.get(),
            merges: metrics.merges.get(),
            merge_failures: metrics.merge_failures.get(),
            merge_error: core.merge_error.lock().as_ref().map(ToString::to_string),
            merge_bytes_read: metrics.merge_read_bytes.get(),
            merge_bytes_written: metrics.merge_bytes.get(),
            dropped_records: metrics.merge_dropped_records.get(),
            reserve_loans: metrics.reserve_loans.get(),
            room_lent: index.is_room_lent(),
            unreadable_segments: metrics.unreadable_segments.get(),
            manifests: metrics.manifests.get(),
            due_segments: index.due_segments(),
            merges_under_way: index.merges_under_way(),
            overloads: metrics.overloads.get(),
            slowed: metrics.slowed.get(),
            held_back: core.appender.held_back().map(|error| error.to_string()),
            reads: metrics.reads.get(),
            read_runs: metrics.read_runs.get(),
            chunk_reads: metrics.chunk_reads.get(),
            chunk_bytes: metrics.chunk_bytes.get(),
            scrub: core.scrub.lock().clone(),
        }
    }
}
