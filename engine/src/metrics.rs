//! Counters of what the engine did, in base units, read by [`crate::Stats`].
//!
//! All are Relaxed: they order nothing and are only reported.

use std::sync::atomic::{AtomicU64, Ordering};

/// A counter that only grows.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`.
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    /// The present count.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Everything the engine counts.
#[derive(Debug, Default)]
pub struct Metrics {
    /// Frames that became durable, idle ones included.
    pub frames: Counter,
    /// Of these, frames without an entry.
    pub frames_empty: Counter,
    /// Records and control operations in durable frames.
    pub frame_entries: Counter,
    /// Device writes issued by the commit path for frames.
    pub frame_writes: Counter,
    /// Bytes of these writes.
    pub frame_bytes: Counter,
    /// Headers written when the commit path moved to another journal file.
    pub journal_headers: Counter,
    /// Bytes written to fill new journal files with zeros.
    pub journal_fill_bytes: Counter,
    /// Sync calls on journal files on the append path. Stays zero unless the store is buffered.
    pub append_syncs: Counter,
    /// Payload bytes of durable records.
    pub payload_bytes: Counter,
    /// Records that became durable.
    pub records: Counter,
    /// Flushes that ended in a committed segment.
    pub flushes: Counter,
    /// Passes of the flush that failed.
    pub flush_failures: Counter,
    /// Bytes written to segments.
    pub segment_bytes: Counter,
    /// Segments whose read-back did not match and that were written anew.
    pub segment_rewrites: Counter,
    /// Merges that ended in a committed segment.
    pub merges: Counter,
    /// Steps of merges that failed.
    pub merge_failures: Counter,
    /// Bytes that merges read.
    pub merge_read_bytes: Counter,
    /// Bytes that merges wrote into segments.
    pub merge_bytes: Counter,
    /// Records that merges left out.
    pub merge_dropped_records: Counter,
    /// Merges that got the room that is kept for them.
    pub reserve_loans: Counter,
    /// Segments that a merge could not read.
    pub unreadable_segments: Counter,
    /// Manifest versions committed.
    pub manifests: Counter,
    /// Appends turned away because memory or the journal was full, or merges behind.
    pub overloads: Counter,
    /// Waits of appends that were slowed down because the flush or merges are behind.
    pub slowed: Counter,
    /// Log heads looked up in segments.
    pub head_loads: Counter,
    /// Pages read.
    pub reads: Counter,
    /// Segments that such a page took chunks from.
    pub read_runs: Counter,
    /// Reads for chunks of pages, from the device or the page cache.
    pub chunk_reads: Counter,
    /// Their bytes as stored.
    pub chunk_bytes: Counter,
}
