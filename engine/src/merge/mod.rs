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
//! place, and its healthy logs are served from there. A segment of which much may be left out is rewritten, with the
//! neighbours of which that is true as well: what is left of a log then takes one place instead of several. Where there is
//! no room for that, one is rewritten by itself, the one first of which least is left, in the room that is kept for that
//! (`reserve.rs`); one for which that is not enough either is left alone for a while.
//!
//! Invariant: a segment is an input of one merge at most, and stays in the set until that is committed.

mod job;
mod pace;
mod pick;
mod reclaim;
mod reserve;
mod shares;
mod state;

use crate::catalog::Catalog;
use crate::clock::Clock;
use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::format::manifest::{Mark, SegmentMeta};
use crate::index::Index;
use crate::index::grace::Grace;
use crate::index::set::SegmentSet;
use crate::poison::Poison;
use crate::segment::Segment;
use crate::sync::Arc;
use crate::types::{Lsn, SegmentId};
use job::{Job, Progress, Why};
use pace::Pace;
use pick::{Due, Sizes};
use reclaim::Reclaim;
use reserve::Reserve;
use shares::{DEAD_SHARE, Shares};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

/// Merges under way at once, each but the last waiting for a smaller one.
const JOBS_MAX: usize = 4;

/// A segment's dead share stands still if it did not grow for this part of the grace.
const STILL_PART: u64 = 4;

/// After so long it is tried again whether there is room for rewrites; longer each time for one segment.
const CRAMPED_FOR: Duration = Duration::from_secs(600);

/// Between two merges that get the room that is kept: longer than a flush that failed waits.
const LEND_AGAIN: Duration = Duration::from_secs(2);

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
    /// What was seen of segments that may be worth rewriting.
    shares: Shares,
    /// The size class whose last merge failed for another reason. What is due there and above is nothing that appends
    /// have to wait for.
    failing: Option<u32>,
    /// There was no room to rewrite several segments as one: each is rewritten by itself. Until then, by the monotonic
    /// clock, or until a merge succeeds without the room that is kept.
    cramped: Option<Duration>,
    /// Segments that found no room by themselves: how often, and until when they are left alone. From the second time on they
    /// get the room that is kept.
    no_room: BTreeMap<SegmentId, (u32, Duration)>,
    /// No merge gets the room that is kept before this, so that a flush has its turn.
    lend_at: Duration,
    /// The lowest merge that is due failed last: something to rewrite is looked for first.
    dead_first: bool,
    /// Lent to the merge under way, if it is.
    reserve: Reserve,
    clock: Arc<dyn Clock>,
    pace: Pace,
}

impl Merger {
    /// The merges of a store with these settings. Nothing is begun.
    #[must_use]
    pub fn new(
        catalog: Arc<Catalog>, index: Arc<Index>, poison: Arc<Poison>, grace: Arc<Grace>, clock: Arc<dyn Clock>,
        config: &Config,
    ) -> Self {
        let sizes = Sizes { width: config.merge_width, flushed: config.flush_bytes as u64 };
        let reserve = Reserve::new(Arc::clone(catalog.io()), catalog.dir(), config.merge_reserve_bytes);
        Self {
            catalog,
            index,
            poison,
            sizes,
            jobs: Vec::new(),
            unreadable: BTreeSet::new(),
            grace,
            shares: Shares::default(),
            failing: None,
            cramped: None,
            no_room: BTreeMap::new(),
            lend_at: Duration::ZERO,
            dead_first: false,
            reserve,
            clock,
            pace: Pace::new(config.merge_bytes_per_second),
        }
    }

    /// How long to wait before the next step, for the sake of appends.
    pub fn wait(&mut self) -> Duration {
        if self.reserve.is_lent() {
            return Duration::ZERO;
        }
        self.pace.wait(self.clock.monotonic(), self.index.watermark(), self.index.due_segments())
    }

    /// One step: begins a merge if one is due that goes before the one under way, and does a bounded part of it. True
    /// if there was anything to do.
    ///
    /// # Errors
    /// Why the merge under way failed. It is given up; another attempt begins anew, without the input that cannot be
    /// read if that was the reason.
    pub fn step(&mut self) -> Result<bool> {
        self.poison.check()?;
        let result = self.step_on();
        if self.jobs.is_empty() {
            self.take_back();
        }
        result
    }

    fn step_on(&mut self) -> Result<bool> {
        let (began, begun) = (self.clock.monotonic(), self.begin());
        self.index.set_merges_under_way(self.jobs.len());
        // A larger one under way goes on; whatever hinders this one is told once there is nothing else to do.
        let Some(job) = self.jobs.last_mut() else { return begun };
        match job.step(&self.catalog) {
            Ok(Progress { read, written: None }) => self.count(began, read),
            Ok(Progress { read, written: Some(meta) }) => {
                self.count(began, read);
                let job = self.jobs.pop().expect("it was worked on");
                let (id, bytes) = (meta.id, meta.bytes);
                self.index.metrics.merge_bytes.add(bytes);
                if let Err(error) = self.catalog.commit_merge(job.inputs(), meta, job.cutoff()) {
                    self.catalog.abandon(id);
                    self.note_failure(job.why(), job.level(), job.inputs(), &error);
                    return Err(error);
                }
                self.index.metrics.merges.add(1);
                self.index.metrics.merge_dropped_records.add(job.dropped());
                // What it left is worth another look once the grace is over for more.
                self.cramped = self.cramped.filter(|_| self.reserve.is_lent());
                self.dead_first = false;
                self.note_share(id, job.cutoff(), 0.0);
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
        self.take_back();
    }

    /// Sees to it that room is kept for merges.
    fn keep_reserve(&mut self, set: &SegmentSet) -> Result<()> {
        self.catalog.check_in_place()?;
        let bytes = set.segments.iter().map(|segment| segment.meta().bytes).sum();
        self.reserve.keep(bytes, self.catalog.is_flush_failing(), self.clock.monotonic());
        Ok(())
    }

    /// Takes back the room that was kept, from a merge that is over.
    fn take_back(&mut self) {
        if self.reserve.is_lent() && self.catalog.check_in_place().is_ok() {
            let now = self.clock.monotonic();
            self.reserve.take_back(now);
            self.lend_at = now + LEND_AGAIN;
        }
        self.index.set_room_lent(false);
    }

    /// A merge failed that may succeed another time. Segments that were to be rewritten for what is dead of them are looked
    /// at again.
    fn note_failure(&mut self, why: Why, level: u32, inputs: &[SegmentId], error: &Error) {
        if why == Why::Size {
            (self.failing, self.dead_first) = (Some(level), true);
            return;
        }
        self.dead_first = false;
        inputs.iter().for_each(|id| self.shares.forget(*id));
        if error.is_full_disk() {
            let now = self.clock.monotonic();
            if let [id] = inputs {
                let (tries, until) = self.no_room.entry(*id).or_default();
                // The first time it is tried again at once, in the room that is kept.
                *until = now + CRAMPED_FOR * ((1 << (*tries).min(7)) - 1);
                *tries += 1;
            }
            self.cramped = Some(now + CRAMPED_FOR);
        }
    }

    fn failed(&mut self, error: Error) -> Error {
        let job = self.jobs.pop().expect("it was worked on");
        // A file that cannot be read stays so; what is wanting may come back.
        let input = job.unreadable().filter(|_| !error.is_shortage() && !self.poison.is_set());
        if input.is_none() {
            self.note_failure(job.why(), job.level(), job.inputs(), &error);
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
        if self.jobs.is_empty() {
            self.keep_reserve(&set)?;
        }
        let taken: BTreeSet<_> = self.jobs.iter().flat_map(Job::inputs).chain(&self.unreadable).copied().collect();
        let bytes: Vec<_> =
            set.segments.iter().map(|s| (!taken.contains(&s.meta().id)).then_some(s.meta().bytes)).collect();
        let due = pick::due(&self.sizes, &bytes);
        let hopeful = due.iter().filter(|due| self.failing.is_none_or(|failing| due.level < failing));
        self.index.set_due_segments(hopeful.map(|due| due.members).sum());
        let lowest = due.into_iter().next();
        if (lowest.is_none() || self.dead_first) && self.begin_dead(&set)? {
            return Ok(true);
        }
        let Some(Due { level, range, .. }) = lowest.filter(|_| !self.reserve.is_lent()) else { return Ok(false) };
        self.dead_first = false;
        if self.jobs.len() < JOBS_MAX && self.jobs.last().is_none_or(|job| level < job.level()) {
            self.begin_job(&set, range, level, Why::Size)?;
        }
        Ok(false)
    }

    fn begin_job(&mut self, set: &SegmentSet, range: Range<usize>, level: u32, why: Why) -> Result<()> {
        if let Some(waiting) = self.jobs.last_mut() {
            waiting.pause();
        }
        let inputs = set.segments[range.clone()].to_vec();
        let cutoff = self.grace.cutoff(&set.manifest);
        let reclaim = Reclaim::new(&self.index, set, cutoff, inputs[0].meta().first_lsn);
        match Job::begin(&self.catalog, inputs, level, why, reclaim) {
            Ok(job) => {
                self.jobs.push(job);
                Ok(())
            }
            Err((error, id)) => {
                match id.filter(|_| !error.is_shortage()) {
                    Some(id) => self.set_aside(id, &error),
                    None => {
                        let inputs: Vec<_> = set.segments[range].iter().map(|input| input.meta().id).collect();
                        self.note_failure(why, level, &inputs, &error);
                    }
                }
                Err(error)
            }
        }
    }

    /// Looks at one segment that was not looked at since the grace was over for more, and begins to rewrite it if much of it
    /// may be left out, with those behind it of which that is true as well. Only while nothing else is under way. True if
    /// there was one to look at.
    fn begin_dead(&mut self, set: &SegmentSet) -> Result<bool> {
        let (cutoff, now) = (self.grace.cutoff(&set.manifest), self.grace.now());
        let is_there = |id: SegmentId| set.segments.iter().any(|segment| segment.meta().id == id);
        self.shares.retain(is_there);
        self.no_room.retain(|id, _| is_there(*id));
        let is_new =
            |segment: &Arc<Segment>| segment.meta().entries > 0 && self.shares.is_due(segment.meta().id, cutoff, now);
        if !self.jobs.is_empty() || cutoff.lsn == Lsn(0) {
            return Ok(false);
        }
        let monotonic = self.clock.monotonic();
        self.cramped = self.cramped.filter(|until| *until > monotonic);
        let no_room = self.no_room.clone();
        let finds_none =
            |segment: &Arc<Segment>| no_room.get(&segment.meta().id).is_some_and(|(_, until)| *until > monotonic);
        let left_alone = |segment: &Arc<Segment>| self.unreadable.contains(&segment.meta().id) || finds_none(segment);
        let due = |segment: &Arc<Segment>| !left_alone(segment) && is_new(segment);
        if self.cramped.is_some() {
            let due = set.segments.iter().enumerate().filter(|(_, segment)| due(segment)).map(|(n, _)| n).collect();
            return self.begin_cramped(set, due, cutoff);
        }
        let Some(first) = set.segments.iter().position(due) else { return Ok(false) };
        let segment = &set.segments[first];
        let share = self.dead_share(set, segment, cutoff);
        if !self.note_share(segment.meta().id, cutoff, share) {
            return Ok(true);
        }
        let behind = set.segments[first..].iter().take(self.sizes.width).skip(1);
        let is_dead = |segment: &Arc<Segment>| self.dead_share(set, segment, cutoff) >= DEAD_SHARE;
        let dead = behind.take_while(|segment| !finds_none(segment) && is_dead(segment));
        let range = first..first + 1 + dead.count();
        let level = set.segments[range.clone()].iter().map(|segment| self.sizes.level(segment.meta().bytes)).max();
        self.begin_job(set, range, level.expect("there is one at least"), Why::Dead)?;
        Ok(true)
    }

    /// As [`Self::begin_dead`], where there was no room: of the segments that are worth rewriting, the one of which least is
    /// left, in the room that is kept for that if it is enough.
    fn begin_cramped(&mut self, set: &SegmentSet, due: Vec<usize>, cutoff: Mark) -> Result<bool> {
        let mut least: Option<(u64, usize)> = None;
        for n in due {
            let SegmentMeta { id, bytes, .. } = *set.segments[n].meta();
            let share = self.dead_share(set, &set.segments[n], cutoff);
            if self.note_share(id, cutoff, share) {
                let left = (bytes as f64 * (1.0 - share)) as u64;
                least = Some(least.map_or((left, n), |least| least.min((left, n))));
                // Only one of them is begun.
                self.shares.forget(id);
            }
        }
        let Some((left, n)) = least else { return Ok(false) };
        let wants_room = self.no_room.contains_key(&set.segments[n].meta().id);
        if wants_room && self.reserve.has(left) {
            if self.clock.monotonic() < self.lend_at {
                return Ok(false);
            }
            self.catalog.check_in_place()?;
            // First of all, so that no flush begins in between.
            self.index.set_room_lent(true);
            self.index.metrics.reserve_loans.add(u64::from(self.reserve.lend()));
        }
        self.begin_job(set, n..n + 1, self.sizes.level(set.segments[n].meta().bytes), Why::Dead)?;
        Ok(true)
    }

    /// The part of a segment that may be left out; 0 of one that cannot be read.
    fn dead_share(&self, set: &SegmentSet, segment: &Segment, cutoff: Mark) -> f64 {
        let meta = segment.meta();
        if self.unreadable.contains(&meta.id) {
            return 0.0;
        }
        if meta.entries == 0 {
            // It says of logs that they are gone, which the others say as well then.
            return 1.0;
        }
        let reclaim = Reclaim::new(&self.index, set, cutoff, meta.first_lsn);
        reclaim.and_then(|mut reclaim| reclaim.dead_share(segment).ok()).unwrap_or_default()
    }

    /// Keeps what was seen of a segment. True if it is worth rewriting.
    fn note_share(&mut self, id: SegmentId, cutoff: Mark, share: f64) -> bool {
        self.shares.note(id, cutoff, share, self.grace.now(), self.grace.period_us() / STILL_PART)
    }

    fn count(&mut self, began: Duration, read: u64) {
        self.pace.spend(began, read, self.jobs.len());
        self.index.metrics.merge_read_bytes.add(read);
    }

    /// The segment is an input of no merge any more.
    fn set_aside(&mut self, id: SegmentId, error: &Error) {
        tracing::warn!(%error, segment = id.0, "a segment cannot be read by a merge, and is left as it is");
        self.unreadable.insert(id);
        self.index.metrics.unreadable_segments.add(1);
    }
}
