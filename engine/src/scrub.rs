//! The scrub: all segments are read again at rest, past the page cache and within a budget, so that damage is known before
//! somebody asks for what it took.
//!
//! It writes nothing and heals nothing, so that a crash finds nothing of it; the next open begins a new pass. What a reader
//! or a merge makes of a damaged segment is theirs, and does not depend on what was found here.
//!
//! A pass takes the segments of the set in their order, each checked as `everlog verify` checks it. One that a merge
//! replaced meanwhile is left, and what was found in it forgotten; those that are made during a pass wait for the next one.
//! A step reads at most [`STEP_BYTES`], and steps are so far apart that each second has room for those that begin in
//! it; one that reads more, for the sake of a large state record or list of timelines, is paid for afterwards. The blocks that
//! a log is looked up by are touched through the page cache besides, and never in the map, where a bad sector would end the
//! process. In buffered mode all of it is read through the page cache. Reads that fail without a word about the bytes on the
//! device are told and tried again. It does not look at how busy the store is: the budget is small beside what a disk gives.
//!
//! Invariants: what is found is in a segment of the set, or was a moment ago; memory is bounded by a segment's check and
//! [`FINDINGS_MAX`] for each segment.

use crate::clock::Clock;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::finding::Finding;
use crate::index::Index;
use crate::index::set::SegmentSet;
use crate::limits::STEP_BYTES;
use crate::segment::{Check, Segment};
use crate::sync::{Arc, Mutex};
use crate::types::{Lsn, SegmentId, TimeUs};
use std::collections::BTreeMap;
use std::time::Duration;

/// Findings that are listed, of one segment and in all.
const FINDINGS_MAX: usize = 64;
/// How long to wait before it is looked again whether there are segments.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// How long to wait after a read that failed; doubled with each further one.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// The longest such wait.
const PAUSE_MAX: Duration = Duration::from_secs(60);

/// What the scrub did since the store was opened, and what is known to be damaged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ScrubReport {
    /// Bytes that it read.
    pub bytes: u64,
    /// Passes over all segments that it ended.
    pub passes: u64,
    /// When the last of them ended, by the wall clock.
    pub last_ended: Option<TimeUs>,
    /// Bytes of segments that the pass under way has checked; 0 if none is.
    pub pass_bytes_done: u64,
    /// Bytes of segments that it is to check in all; 0 if none is under way.
    pub pass_bytes: u64,
    /// Reads that failed for another reason than damage, and were tried again.
    pub failures: u64,
    /// Why the last of them failed, until one succeeds: the pass goes no further.
    pub error: Option<String>,
    /// Records of the segments in force that were found to be damaged, as far as they can be counted: where an index is
    /// damaged nobody knows how many it lists.
    pub damaged_records: u64,
    /// What was found in the segments in force when each was last checked, the first 64 of it. A segment that is checked
    /// again keeps what was found before until its check has ended.
    pub findings: Vec<Finding>,
    /// How much more was found than is listed.
    pub findings_left_out: u64,
}

/// The scrub of a store.
pub struct Scrubber {
    index: Arc<Index>,
    clock: Arc<dyn Clock>,
    /// How far apart steps are.
    pace: Duration,
    interval: Duration,
    /// By the monotonic clock: nothing is read before.
    not_before: Duration,
    /// Reads that failed in a row.
    failures: u32,
    pass: Option<Pass>,
    found: BTreeMap<SegmentId, Found>,
    report: Arc<Mutex<ScrubReport>>,
}

struct Pass {
    began: Duration,
    /// The newest segment that it checks.
    newest: SegmentId,
    /// Segments that begin at or below this LSN are done with.
    after: Lsn,
    /// Bytes of segments that were checked.
    done: u64,
    check: Option<Checked>,
}

/// A segment's check under way.
struct Checked {
    check: Check,
    /// What it found so far, with logs by their names.
    found: Found,
}

#[derive(Default)]
struct Found {
    findings: Vec<Finding>,
    left_out: u64,
    damaged_records: u64,
}

impl Scrubber {
    /// The scrub of a store with these settings, which tells in `report` what it does; None if they want none.
    #[must_use]
    pub fn new(
        index: Arc<Index>, clock: Arc<dyn Clock>, config: &Config, report: Arc<Mutex<ScrubReport>>,
    ) -> Option<Self> {
        (config.scrub_bytes_per_second > 0).then(|| Self {
            index,
            clock,
            pace: pace(config.scrub_bytes_per_second),
            interval: config.scrub_interval,
            not_before: Duration::ZERO,
            failures: 0,
            pass: None,
            found: BTreeMap::new(),
            report,
        })
    }

    /// One step: reads and checks about a MiB, unless the budget, the interval between passes or a failure has it wait.
    /// True if it did anything.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`] if reading failed for another reason than damage. A later step tries it again.
    pub fn step(&mut self) -> Result<bool> {
        let set = self.index.set();
        self.forget(&set);
        let now = self.clock.monotonic();
        if now < self.not_before {
            return Ok(false);
        }
        if self.pass.is_none() {
            let Some(newest) = set.segments.iter().map(|segment| segment.meta().id).max() else {
                self.not_before = now + LOOK_AGAIN;
                return Ok(false);
            };
            self.pass = Some(Pass { began: now, newest, after: Lsn(0), done: 0, check: None });
        }
        let pass = self.pass.as_mut().expect("begun just now, if not before");
        match pass.next(&set) {
            Some(checked) => {
                let before = checked.check.read();
                let stepped = checked.check.step(STEP_BYTES);
                let read = checked.check.read() - before;
                checked.take(&set, &mut self.found);
                self.report.lock().bytes += read;
                let paid = u32::try_from(read.div_ceil(STEP_BYTES)).unwrap_or(u32::MAX);
                self.not_before = now + self.pace * paid;
                if checked.check.is_done() {
                    pass.end_check(&mut self.found);
                }
                if let Err(error) = stepped {
                    self.tell(&set);
                    return Err(self.failed(now, error));
                }
                if std::mem::take(&mut self.failures) > 0 {
                    self.report.lock().error = None;
                }
            }
            None => {
                self.not_before = now.max(pass.began.saturating_add(self.interval));
                self.pass = None;
                let mut report = self.report.lock();
                report.passes += 1;
                report.last_ended = Some(self.clock.wall());
            }
        }
        self.tell(&set);
        Ok(true)
    }

    /// How long a step from now on has nothing to do.
    #[must_use]
    pub fn wait(&self) -> Duration {
        self.not_before.saturating_sub(self.clock.monotonic())
    }

    fn failed(&mut self, now: Duration, error: Error) -> Error {
        self.failures = self.failures.saturating_add(1);
        self.not_before = self.not_before.max(now + pause(self.failures));
        let mut report = self.report.lock();
        report.failures += 1;
        report.error = Some(error.to_string());
        error
    }

    /// Leaves what a merge has replaced.
    fn forget(&mut self, set: &SegmentSet) {
        let is_there = |id: SegmentId| set.segments.iter().any(|segment| segment.meta().id == id);
        let before = self.found.len();
        self.found.retain(|id, _| is_there(*id));
        let pass = self.pass.as_mut();
        let left = pass.and_then(|pass| pass.check.take_if(|checked| !is_there(checked.check.segment().meta().id)));
        if left.is_some() || self.found.len() < before {
            self.tell(set);
        }
    }

    /// Brings the report up to date.
    fn tell(&self, set: &SegmentSet) {
        let (done, all) = self.pass.as_ref().map_or((0, 0), |pass| pass.progress(set));
        let all_findings = || self.found.values().flat_map(|found| &found.findings);
        let left_out: u64 = self.found.values().map(|found| found.left_out).sum();
        let mut report = self.report.lock();
        (report.pass_bytes_done, report.pass_bytes) = (done, all);
        report.damaged_records = self.found.values().map(|found| found.damaged_records).sum();
        report.findings = all_findings().take(FINDINGS_MAX).cloned().collect();
        report.findings_left_out = left_out + all_findings().skip(FINDINGS_MAX).count() as u64;
    }
}

impl Pass {
    /// Whether it has still to check the segment from its beginning.
    fn is_to_check(&self, segment: &Segment) -> bool {
        segment.meta().id <= self.newest && segment.meta().first_lsn > self.after
    }

    /// The check that goes on: the one under way, or that of the next segment; None if there is none left.
    fn next(&mut self, set: &SegmentSet) -> Option<&mut Checked> {
        if self.check.is_none() {
            let segment = set.segments.iter().find(|segment| self.is_to_check(segment))?;
            self.after = segment.meta().last_lsn;
            self.check = Some(Checked::begin(segment));
        }
        self.check.as_mut()
    }

    /// What the check that has ended found takes the place of what was found in the segment before.
    fn end_check(&mut self, all: &mut BTreeMap<SegmentId, Found>) {
        let Checked { check, found } = self.check.take().expect("it has ended");
        let meta = check.segment().meta();
        self.done += meta.bytes;
        all.remove(&meta.id);
        if !found.findings.is_empty() {
            all.insert(meta.id, found);
        }
    }

    /// Bytes of segments that were checked, and that there are to check, those included.
    fn progress(&self, set: &SegmentSet) -> (u64, u64) {
        let under_way = self.check.as_ref().map(|checked| &checked.check);
        let done = self.done + under_way.map_or(0, Check::done);
        let left = under_way.map_or(0, |check| check.segment().meta().bytes - check.done());
        let to_come: u64 =
            set.segments.iter().filter(|segment| self.is_to_check(segment)).map(|segment| segment.meta().bytes).sum();
        (done, done + left + to_come)
    }
}

impl Checked {
    fn begin(segment: &Arc<Segment>) -> Self {
        Self { check: Check::new(segment, FINDINGS_MAX), found: Found::default() }
    }

    /// Adds what the last step found to what is known of the segment, and warns of what is new.
    fn take(&mut self, set: &SegmentSet, all: &mut BTreeMap<SegmentId, Found>) {
        let segment = self.check.segment();
        self.found.left_out = self.check.left_out();
        self.found.damaged_records = self.check.damaged_records();
        let new = &self.check.findings()[self.found.findings.len()..];
        if new.is_empty() {
            return;
        }
        let known = all.entry(segment.meta().id).or_default();
        known.left_out = known.left_out.max(self.found.left_out);
        known.damaged_records = known.damaged_records.max(self.found.damaged_records);
        for finding in new {
            let name_of = |log| match set.state(log) {
                Ok(Some(state)) if !state.name.is_empty() => Some(state.name.to_string()),
                _ => segment.name_of(log).ok().flatten(),
            };
            let finding = finding.clone().named(name_of);
            if !known.findings.contains(&finding) {
                tracing::warn!(%finding, "the scrub found damage");
                known.findings.push(finding.clone());
            }
            self.found.findings.push(finding);
        }
    }
}

/// How far apart steps are, so that a second has as many as `bytes_per_second` are enough for: at least one.
fn pace(bytes_per_second: u64) -> Duration {
    Duration::from_nanos(1_000_000_000_u64.div_ceil(bytes_per_second / STEP_BYTES))
}

/// How long to wait after so many failures in a row.
fn pause(failures: u32) -> Duration {
    (PAUSE_MIN * (1 << (failures - 1).min(10))).min(PAUSE_MAX)
}
