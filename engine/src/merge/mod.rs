//! Merging: neighbouring segments become one, so that the runs that hold a log stay few.
//!
//! The steps, and what a crash at each leaves:
//! 1. The merged segment is written under a new id, synced, and read back as a flush does it. A crash leaves a file that
//!    no manifest names, and whose LSNs are all flushed: the next open removes it. The inputs are as they were.
//! 2. A manifest version that has it in the place of its inputs is committed ([`Catalog::commit_merge`]). A crash before
//!    that is durable leaves step 1; after it, the inputs are files that no manifest names, and are removed by the next
//!    open.
//! 3. The inputs are removed. Whoever reads from an older set has them open.
//!
//! A merge is done in steps of bounded size on the thread of its own, and a smaller one that becomes due meanwhile goes
//! first, so that flushes never outrun it. It leaves out what was deleted or trimmed once the grace is over (`reclaim.rs`);
//! every other entry of its inputs is in what it writes. An input that cannot be read is left alone from then on, in its
//! place, and its healthy logs are served from there. A segment of which much may be left out is rewritten alone.
//!
//! Invariant: a segment is an input of one merge at most, and stays in the set until that is committed.

mod job;
mod pick;
mod reclaim;
mod state;

use crate::catalog::Catalog;
use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::format::manifest::Mark;
use crate::index::Index;
use crate::index::grace::Grace;
use crate::index::set::SegmentSet;
use crate::poison::Poison;
use crate::segment::Segment;
use crate::sync::Arc;
use crate::types::{Lsn, SegmentId};
use job::{Job, Progress};
use pick::{Due, Sizes};
use reclaim::Reclaim;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

/// Merges under way at once, each but the last waiting for a smaller one.
const JOBS_MAX: usize = 4;

/// A segment is rewritten alone once so much of it may be left out.
const DEAD_SHARE: f64 = 0.3;

/// The merges of a store.
pub struct Merger {
    catalog: Arc<Catalog>,
    index: Arc<Index>,
    poison: Arc<Poison>,
    sizes: Sizes,
    /// The last one is worked on; each is of smaller segments than the one before it, which waits.
    jobs: Vec<Job>,
    /// Segments that could not be read.
    unreadable: BTreeSet<SegmentId>,
    grace: Arc<Grace>,
    /// For which cutoff segments were looked at that may be worth rewriting alone.
    looked: BTreeMap<SegmentId, Mark>,
    /// The size class whose last merge failed for another reason. What is due there and above is nothing that appends
    /// have to wait for.
    failing: Option<u32>,
}

impl Merger {
    /// The merges of a store with these settings. Nothing is begun.
    #[must_use]
    pub fn new(
        catalog: Arc<Catalog>, index: Arc<Index>, poison: Arc<Poison>, grace: Arc<Grace>, config: &Config,
    ) -> Self {
        let sizes = Sizes { width: config.merge_width, flushed: config.flush_bytes as u64 };
        Self {
            catalog,
            index,
            poison,
            sizes,
            jobs: Vec::new(),
            unreadable: BTreeSet::new(),
            grace,
            looked: BTreeMap::new(),
            failing: None,
        }
    }

    /// One step: begins a merge if one is due that goes before the one under way, and does a bounded part of it. True
    /// if there was anything to do.
    ///
    /// # Errors
    /// Why the merge under way failed. It is given up; another attempt begins anew, without the input that cannot be
    /// read if that was the reason.
    pub fn step(&mut self) -> Result<bool> {
        self.poison.check()?;
        let begun = self.begin();
        self.index.set_merges_under_way(self.jobs.len());
        // A larger one under way goes on; whatever hinders this one is told once there is nothing else to do.
        let Some(job) = self.jobs.last_mut() else { return begun };
        match job.step(&self.catalog) {
            Ok(Progress { read, dropped, written: None }) => self.count(read, dropped),
            Ok(Progress { read, dropped, written: Some(meta) }) => {
                self.count(read, dropped);
                let job = self.jobs.pop().expect("it was worked on");
                let (id, bytes) = (meta.id, meta.bytes);
                self.index.metrics.merge_bytes.add(bytes);
                if let Err(error) = self.catalog.commit_merge(job.inputs(), meta, job.cutoff()) {
                    self.catalog.abandon(id);
                    self.note_failure(&job);
                    return Err(error);
                }
                self.index.metrics.merges.add(1);
                // What it left is worth another look once the grace is over for more.
                self.looked.insert(id, job.cutoff());
                self.failing = self.failing.filter(|level| job.level() < *level);
            }
            Err(error) => return Err(self.failed(error)),
        }
        Ok(true)
    }

    /// Gives up what is under way.
    pub fn stop(&mut self) {
        for job in self.jobs.drain(..) {
            job.abandon(&self.catalog);
        }
    }

    /// A merge failed that may succeed another time. A segment that was to be rewritten alone is looked at again.
    fn note_failure(&mut self, job: &Job) {
        match job.inputs() {
            [alone] => _ = self.looked.remove(alone),
            _ => self.failing = Some(job.level()),
        }
    }

    fn failed(&mut self, error: Error) -> Error {
        let job = self.jobs.pop().expect("it was worked on");
        // A file that cannot be read stays so; what is wanting may come back.
        let input = job.unreadable().filter(|_| !error.is_shortage() && !self.poison.is_set());
        if input.is_none() {
            self.note_failure(&job);
        }
        job.abandon(&self.catalog);
        if let Some(id) = input {
            self.set_aside(id, &error);
        }
        if error.kind() == ErrorKind::Damaged && input.is_none() {
            self.index.metrics.segment_rewrites.add(1);
        }
        error
    }

    /// Begins the smallest merge that is due, if it goes before those under way. True if anything was done.
    fn begin(&mut self) -> Result<bool> {
        let set = self.index.set();
        let taken: BTreeSet<_> = self.jobs.iter().flat_map(Job::inputs).chain(&self.unreadable).copied().collect();
        let bytes: Vec<_> =
            set.segments.iter().map(|s| (!taken.contains(&s.meta().id)).then_some(s.meta().bytes)).collect();
        let due = pick::due(&self.sizes, &bytes);
        let hopeful = due.iter().filter(|due| self.failing.is_none_or(|failing| due.level < failing));
        self.index.set_due_segments(hopeful.map(|due| due.members).sum());
        let Some(Due { level, range, .. }) = due.into_iter().next() else { return self.begin_alone(&set) };
        if self.jobs.len() < JOBS_MAX && self.jobs.last().is_none_or(|job| level < job.level()) {
            self.begin_job(&set, range, level)?;
        }
        Ok(false)
    }

    fn begin_job(&mut self, set: &SegmentSet, range: Range<usize>, level: u32) -> Result<()> {
        let inputs = set.segments[range].to_vec();
        let (first, segments) = (inputs[0].meta().id, inputs.len());
        let cutoff = self.grace.cutoff(&set.manifest);
        let reclaim = Reclaim::new(&self.index, set, cutoff, inputs[0].meta().first_lsn);
        match Job::begin(&self.catalog, inputs, level, reclaim) {
            Ok(job) => {
                self.jobs.push(job);
                Ok(())
            }
            Err((error, id)) => {
                match id.filter(|_| !error.is_shortage()) {
                    Some(id) => self.set_aside(id, &error),
                    None if segments == 1 => _ = self.looked.remove(&first),
                    None => self.failing = Some(level),
                }
                Err(error)
            }
        }
    }

    /// Looks at one segment that was not looked at since the grace was over for more, and begins to rewrite it alone if much
    /// of it may be left out. Only while nothing else is to be done. True if there was one to look at.
    fn begin_alone(&mut self, set: &SegmentSet) -> Result<bool> {
        let cutoff = self.grace.cutoff(&set.manifest);
        self.looked.retain(|id, _| set.segments.iter().any(|segment| segment.meta().id == *id));
        let is_new = |segment: &Arc<Segment>| {
            let meta = segment.meta();
            meta.entries > 0
                && !self.unreadable.contains(&meta.id)
                && self.looked.get(&meta.id).is_none_or(|looked| self.grace.is_news(*looked, cutoff))
        };
        if !self.jobs.is_empty() || cutoff.lsn == Lsn(0) {
            return Ok(false);
        }
        let Some(n) = set.segments.iter().position(is_new) else { return Ok(false) };
        let segment = &set.segments[n];
        self.looked.insert(segment.meta().id, cutoff);
        let Some(mut reclaim) = Reclaim::new(&self.index, set, cutoff, segment.meta().first_lsn) else {
            return Ok(true);
        };
        if reclaim.dead_share(segment).is_ok_and(|share| share >= DEAD_SHARE) {
            let level = self.sizes.level(segment.meta().bytes);
            self.begin_job(set, n..n + 1, level)?;
        }
        Ok(true)
    }

    fn count(&self, read: u64, dropped: u64) {
        self.index.metrics.merge_read_bytes.add(read);
        self.index.metrics.merge_dropped_records.add(dropped);
    }

    /// The segment is an input of no merge any more.
    fn set_aside(&mut self, id: SegmentId, error: &Error) {
        tracing::warn!(%error, segment = id.0, "a segment cannot be read by a merge, and is left as it is");
        self.unreadable.insert(id);
        self.index.metrics.unreadable_segments.add(1);
    }
}
