//! Tests on real file systems: a store in a process of its own, the victim, to which something happens, and what must
//! hold of it afterwards.
//!
//! A row of the table of faults is a function of this module's `rows`: it does one thing to victims, a number of times,
//! and puts what they hold afterwards before the oracle. The test targets run each row a few times and a soak many
//! times; both go through [`ROWS`]. What this does not do: it simulates nothing, so that a seed repeats when something
//! is meant to happen and not how the machine schedules it.
//!
//! Invariant: whatever a row starts, mounts or creates ends with its handle, also when the row fails or panics.

pub mod content;
pub mod contract;
pub mod disk;
pub mod leftovers;
pub mod line;
pub mod mistake;
pub mod oracle;
pub mod power;
pub mod process;
pub mod rows;

pub use crate::sim::Rng as Random;
pub use rows::ROWS;

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// What a row did, for the reader of a report.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// How often the fault was put before a victim, and the oracle asked afterwards.
    pub runs: u64,
    /// Acknowledgements that were compared with what was there afterwards.
    pub acknowledgements_checked: u64,
    /// What else the row counts, in its own words: "killed with an append in flight".
    pub of: BTreeMap<&'static str, u64>,
}

impl Counts {
    /// Counts `n` more of `what`.
    pub fn add(&mut self, what: &'static str, n: u64) {
        *self.of.entry(what).or_default() += n;
    }

    /// How many of `what` there were.
    #[must_use]
    pub fn get(&self, what: &str) -> u64 {
        self.of.get(what).copied().unwrap_or_default()
    }
}

impl std::ops::AddAssign<&Self> for Counts {
    fn add_assign(&mut self, other: &Self) {
        self.runs += other.runs;
        self.acknowledgements_checked += other.acknowledgements_checked;
        other.of.iter().for_each(|(what, n)| self.add(what, *n));
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} runs, {} acknowledgements checked", self.runs, self.acknowledgements_checked)?;
        self.of.iter().try_for_each(|(what, n)| write!(f, ", {n} {what}"))
    }
}

/// Why a row ended before its time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// What must hold does not: in words, with what is needed to look into it.
    Violation(String),
    /// The machine lacks what the row needs: a sentence with the cause and one with the remedy. A test fails on it too,
    /// since a row that is skipped shows nothing.
    Lacking(String),
}

impl fmt::Display for Stop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Violation(told) => write!(f, "violated: {told}"),
            Self::Lacking(told) => write!(f, "this machine cannot run it: {told}"),
        }
    }
}

impl std::error::Error for Stop {}

/// A row of the table of faults.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// What it is called on a command line and in reports.
    pub name: &'static str,
    /// What it shows, in one line.
    pub shows: &'static str,
    /// What a run of it is, in the plural: "kills".
    pub unit: &'static str,
    /// How often it runs in CI.
    pub ci_count: u64,
    /// Its share of a long run, beside the shares of the others.
    pub weight: u64,
    /// Whether it needs root and programs from the distribution: see [`Stop::Lacking`].
    pub needs_root: bool,
    /// What it counts that must have happened in as many runs as in CI: otherwise it showed less than it says.
    pub at_least_once: &'static [&'static str],
    /// Runs it.
    pub run: RunRow,
}

impl Row {
    /// Every row: those on real file systems, then the simulated worlds, then the parsers.
    pub fn all() -> impl Iterator<Item = &'static Self> {
        ROWS.iter().chain(&crate::sim::row::ROWS).chain(&crate::fuzzed::ROWS)
    }

    /// The row of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        Self::all().find(|row| row.name == name)
    }

    /// Runs it as often as in CI, and sees that everything happened that it is for.
    ///
    /// # Errors
    /// Why it stopped.
    pub fn run_as_in_ci(&self, seed: u64, scratch: &Path, progress: &mut dyn FnMut(&Counts)) -> Result<Counts, Stop> {
        let counts = (self.run)(seed, self.ci_count, scratch, progress)?;
        match self.at_least_once.iter().find(|what| counts.get(what) == 0) {
            Some(what) => {
                Err(Stop::Violation(format!("nothing was {what:?}, so this showed less than it says: {counts}")))
            }
            None => Ok(counts),
        }
    }

    /// Runs it as a test: on a real disk below the target folder, from the seed in EVERLOG_REAL_SEED or one from the
    /// clock, which is printed, as is what was counted. Panics if it stops.
    pub fn test(&self) {
        let seed = match std::env::var("EVERLOG_REAL_SEED") {
            Ok(seed) => seed.parse().expect("EVERLOG_REAL_SEED is a number"),
            Err(_) => SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_nanos() as u64,
        };
        // Past the harness, which would show it for a failure alone.
        let tell = |what: String| drop(writeln!(std::io::stderr(), "{}: {what}", self.name));
        tell(format!("EVERLOG_REAL_SEED={seed}"));
        let scratch = leftovers::folder_on_disk(self.name).expect("room for a folder");
        let counts = self.run_as_in_ci(seed, scratch.path(), &mut |_| {}).unwrap_or_else(|stop| panic!("{stop}"));
        tell(counts.to_string());
    }
}

/// Runs a row: the seed that its chances are drawn from, how often, an empty folder of its own on a real disk, and whom
/// to tell what was counted so far, after each run.
///
/// # Errors
/// Why it stopped. The counts up to there were told.
pub type RunRow = fn(seed: u64, count: u64, scratch: &Path, progress: &mut dyn FnMut(&Counts)) -> Result<Counts, Stop>;
