//! Kill -9, in a loop: with appends in flight, in the middle of a recovery, while a store is being created.
//!
//! Each run kills a writing victim at a random moment, often kills recoveries of what it left, and then has the whole
//! store read. Every kill must have met something: one that found no append in flight and no recovery under way is not
//! counted, and another is made instead. What this does not show: the machine goes on, and with it the page cache and
//! the disk's; the loss of power is another row's.

use super::hint;
use crate::real::line::Line;
use crate::real::oracle::Oracle;
use crate::real::process::{Running, Setting, was_killed};
use crate::real::{Counts, Random, Stop};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

/// Kills that one store lives through; the next ones are another's.
const KILLS_A_STORE: u64 = 50;
/// Appends of a run that are waited for before it is killed, at most.
const APPENDS_MAX: u64 = 300;
/// What a killed victim is given of time behind a line, at most, in microseconds.
const PAUSE_US_MAX: u64 = 3_000;
/// Kills in a row that may meet nothing: a bound, so that a broken victim ends in a failure.
const MISSES_MAX: u64 = 100;

/// Counted: kills that met an append.
pub const IN_FLIGHT: &str = "killed with an append in flight";
/// Counted: kills that met an open of the store.
pub const IN_RECOVERY: &str = "killed in a recovery";
/// Counted: kills that met the creation of a store, or its first open.
pub const IN_CREATION: &str = "killed in a creation";
/// Counted: of those in flight, kills that left a segment which no manifest named yet.
pub const IN_FLUSH: &str = "of them also in a flush";

/// The row. `count` is the number of kills.
///
/// # Errors
/// As every row.
pub fn run(seed: u64, count: u64, scratch: &Path, progress: &mut dyn FnMut(&Counts)) -> Result<Counts, Stop> {
    let mut random = Random::new(seed);
    let mut counts = Counts::default();
    while counts.runs < count {
        let until = count.min(counts.runs + KILLS_A_STORE);
        let data = scratch.join(format!("store-{}", counts.runs));
        let io = if random.below(2) == 0 { "auto" } else { "posix" };
        let mut setting = Setting::new(&data, io, random.draw(), scratch);
        // So small that a flush is under way as often as not.
        setting.sizes = ["--journal-file-bytes", "131072", "--flush-bytes", "16384"].map(Into::into).to_vec();
        let mut world = World { setting, oracle: Oracle::default(), random: &mut random, misses: 0 };
        let lived = world.live(until, &mut counts, progress);
        lived.map_err(|told| Stop::Violation(format!("{told}\n{}", hint("kills", seed, &counts))))?;
        // A store that was proved is only in the way; of one that was not, this is not reached.
        let _ = fs::remove_dir_all(&data);
    }
    Ok(counts)
}

/// A store, all that was said of it, and what is drawn.
struct World<'a> {
    setting: Setting,
    oracle: Oracle,
    random: &'a mut Random,
    misses: u64,
}

impl World<'_> {
    fn live(&mut self, until: u64, counts: &mut Counts, progress: &mut dyn FnMut(&Counts)) -> Result<(), String> {
        // What a creation takes is some milliseconds.
        if self.random.below(2) == 0 && self.kill_opening(true, 5_000)? {
            counts.runs += 1;
            counts.add(IN_CREATION, 1);
        }
        while counts.runs < until {
            let met = self.kill_writer()?;
            let left = self.segments();
            counts.runs += u64::from(met);
            counts.add(IN_FLIGHT, u64::from(met));
            while counts.runs < until && self.random.below(3) > 0 {
                // A recovery of so small a store takes some tens of milliseconds at most.
                let bound = [1_000, 5_000, 30_000][self.random.below(3) as usize];
                let by_writer = self.random.below(2) == 0;
                let met = self.kill_opening(by_writer, bound)?;
                counts.runs += u64::from(met);
                counts.add(IN_RECOVERY, u64::from(met));
            }
            // Sometimes the next recovery finds what a kill leaves, though everything was just recovered.
            let no_close = self.random.below(3) == 0;
            let found = self.setting.look(no_close)?;
            counts.acknowledgements_checked += self.oracle.check(&found)?;
            // What a recovery removes was written and not yet referred to: the kill came in the middle of a flush.
            let in_flush = !left.is_subset(&self.segments());
            counts.add(IN_FLUSH, u64::from(met && in_flush));
            progress(counts);
        }
        Ok(())
    }

    /// Has a victim append, and kills it. Whether an append was in flight at that moment.
    fn kill_writer(&mut self) -> Result<bool, String> {
        let mut command = self.setting.write();
        command.args(["--create", "--logs", "12", "--threads", "4"]);
        command.args(["--record-bytes", &(50 + self.random.below(1500)).to_string()]);
        let mut victim = self.setting.start(command)?;
        let mut left = 1 + self.random.below(APPENDS_MAX);
        let oracle = &mut self.oracle;
        let lives = victim.until(|line| {
            oracle.told(line);
            left -= u64::from(matches!(line, Line::Sent { .. }));
            left == 0
        })?;
        if !lives {
            return Err(victim.ended("the victim ended by itself"));
        }
        std::thread::sleep(Duration::from_micros(self.random.below(PAUSE_US_MAX)));
        self.kill(victim)?;
        self.count(self.oracle.in_flight() > 0)
    }

    /// Kills a victim within `bound_us` after it began to open the store. Whether it was still opening it.
    fn kill_opening(&mut self, by_writer: bool, bound_us: u64) -> Result<bool, String> {
        let mut command = if by_writer { self.setting.write() } else { self.setting.check() };
        command.args(by_writer.then_some("--create"));
        let mut victim = self.setting.start(command)?;
        let oracle = &mut self.oracle;
        if !victim.until(|line| *line == Line::Opening)? {
            return Err(victim.ended("the victim ended before it opened the store"));
        }
        std::thread::sleep(Duration::from_micros(self.random.below(bound_us)));
        let mut ready = false;
        victim.kill();
        let status = victim.rest(|line| {
            oracle.told(line);
            ready |= matches!(line, Line::Ready(_));
        })?;
        // A check may have ended just before.
        if !was_killed(status) && !status.success() {
            return Err(victim.ended(&format!("the victim ended by itself with {status}")));
        }
        self.count(!ready)
    }

    fn kill(&mut self, mut victim: Running) -> Result<(), String> {
        victim.kill();
        // What was said before the kill was told.
        let status = victim.rest(|line| self.oracle.told(line))?;
        if was_killed(status) { Ok(()) } else { Err(victim.ended(&format!("the victim ended by itself: {status}"))) }
    }

    fn count(&mut self, met: bool) -> Result<bool, String> {
        self.misses = if met { 0 } else { self.misses + 1 };
        if self.misses > MISSES_MAX {
            return Err(format!("{MISSES_MAX} kills in a row met neither an append nor a recovery"));
        }
        Ok(met)
    }

    /// The files of segments. A recovery gives the name of one that it removed to the next.
    fn segments(&self) -> BTreeSet<(OsString, SystemTime)> {
        let entries = fs::read_dir(self.setting.data.join("segments")).into_iter().flatten().flatten();
        entries.filter_map(|entry| Some((entry.file_name(), entry.metadata().ok()?.modified().ok()?))).collect()
    }
}
