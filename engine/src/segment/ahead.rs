//! Asks for what a reader will need of a segment, and waits for nothing that it asks for: a log lies in many segments, and what is asked
//! for in all of them at once comes in the time of one.
//!
//! Hints alone: nothing depends on whether the backend heeds them. What memory tells to be absent is not asked for.

use super::filter;
use super::index::IndexAt;
use super::reader::Segment;
use crate::format::segment::{IndexEntry, Key};
use crate::types::{LogId, Seq};

impl Segment {
    /// Whether the backend heeds any of this.
    pub fn reads_ahead(&self) -> bool {
        self.view.io.reads_ahead()
    }

    /// Asks for the lookup block that tells of the log. True if that was never looked at.
    pub fn fetch_lookup(&self, log: LogId) -> bool {
        let stripe = self.stripe_of(Key::last_of(log)).filter(|stripe| !self.is_absent(*stripe, filter::key_of(log)));
        let Some(number) = stripe.map(|stripe| self.stripes[stripe].lookup) else { return false };
        self.view.fetch(number);
        !self.view.was_touched(number)
    }

    /// Asks for the index block in which the log's chunks begin that hold records at or after `from`. Waits for the lookup
    /// block, if that was not touched.
    pub fn fetch_index(&self, log: LogId, from: Seq) {
        let key = Key { log, first_seq: from };
        let Some(stripe) = self.stripe_of(key) else { return };
        if let Some(n) = self.index_block_of(stripe, key) {
            self.view.fetch(self.index_number(IndexAt { stripe, n }));
        }
    }

    /// Asks for these chunks of one log, where they are read through the page cache.
    pub fn fetch_chunks(&self, mut chunks: &[IndexEntry]) {
        if chunks.iter().any(|chunk| self.check_bounds(chunk).is_err()) {
            return; // The read tells of it.
        }
        while !chunks.is_empty() {
            let count = self.run_len(chunks, usize::MAX, usize::MAX);
            let (start, len) = self.blocks_of(&chunks[..count]);
            if self.goes_through_cache(len) {
                self.view.io.will_need(&self.view.cached, start, len);
            }
            chunks = &chunks[count..];
        }
    }
}
