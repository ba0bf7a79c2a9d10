//! Which logs a segment calls deleted, trimmed, to expire or gone, as a merge asks that goes through other segments.
//!
//! Reads index blocks alone, past the page cache and a stripe at once; nothing stays in memory but what a stripe has of
//! such logs.

use super::index::IndexAt;
use super::reader::Segment;
use crate::error::Result;
use crate::format::segment::IndexEntry;
use crate::types::{BLOCK, LogId};
use std::sync::Arc;

/// A place in a segment's index.
pub struct Ends {
    segment: Arc<Segment>,
    /// The next stripe to be looked at.
    next: usize,
    /// What the one before has, in ascending order, and whether it is gone.
    logs: Vec<(LogId, bool)>,
    at: usize,
}

impl Ends {
    /// The beginning of a segment.
    #[must_use]
    pub fn new(segment: Arc<Segment>) -> Self {
        Self { segment, next: 0, logs: Vec::new(), at: 0 }
    }

    /// The segment.
    #[must_use]
    pub fn segment(&self) -> &Segment {
        &self.segment
    }

    /// Whether the segment says of the log that something of it may be given back; and then, whether that it is gone. To be
    /// asked for logs in ascending order.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Damaged`], [`crate::ErrorKind::Io`].
    pub fn has(&mut self, log: LogId) -> Result<Option<bool>> {
        loop {
            self.at += self.logs[self.at..].iter().take_while(|(other, _)| *other < log).count();
            if let Some((next, gone)) = self.logs.get(self.at) {
                return Ok((*next == log).then_some(*gone));
            }
            let stripes = &self.segment.stripes;
            while stripes.get(self.next + 1).is_some_and(|after| after.first.log < log) {
                self.next += 1;
            }
            if stripes.get(self.next).is_none_or(|stripe| stripe.first.log > log) {
                return Ok(None);
            }
            (self.logs, self.at) = (self.stripe(self.next)?, 0);
            self.next += 1;
        }
    }

    fn stripe(&self, stripe: usize) -> Result<Vec<(LogId, bool)>> {
        let (view, place) = (&self.segment.view, self.segment.stripes[stripe].index());
        let run = view.io.read_at(&view.file, place.first * BLOCK as u64, place.blocks as usize * BLOCK)?;
        let mut logs = Vec::new();
        for n in 0..place.blocks as usize {
            let at = IndexAt { stripe, n };
            let block = self.segment.index_block_on_disk(at, run.get(n * BLOCK..(n + 1) * BLOCK))?;
            for i in 0..block.len() {
                let entry = self.segment.index_entry(at, &block, i)?;
                if entry.ends() {
                    logs.push((entry.log, entry.gone().is_some()));
                }
            }
        }
        Ok(logs)
    }
}

impl Segment {
    /// The index entries of about `blocks` blocks of the index, spread evenly over it.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Damaged`], [`crate::ErrorKind::Io`].
    pub fn sample(&self, blocks: usize) -> Result<Vec<IndexEntry>> {
        let all: usize = self.stripes.iter().map(|stripe| usize::from(stripe.index_blocks)).sum();
        let apart = all.div_ceil(blocks).max(1);
        let mut entries = Vec::new();
        let mut skip = apart / 2 % all.max(1);
        for (stripe, blocks) in self.stripes.iter().map(|stripe| usize::from(stripe.index_blocks)).enumerate() {
            while skip < blocks {
                let at = IndexAt { stripe, n: skip };
                let block = self.index_block_on_disk(at, None)?;
                for i in 0..block.len() {
                    entries.push(self.index_entry(at, &block, i)?);
                }
                skip += apart;
            }
            skip -= blocks;
        }
        Ok(entries)
    }
}
