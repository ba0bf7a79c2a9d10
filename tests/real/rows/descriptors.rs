//! A process that may open no further file, in the middle of its work, and later may again.
//!
//! The limit of a running victim is lowered to what it has open. Flushes and new journal files fail from then on, and
//! when memory is full appends must be turned away, while reads go on; nothing is poisoned, since nothing that was
//! written is in doubt. When the limit is lifted, appends must be acknowledged again without anybody's help.

use super::hint;
use crate::real::line::{Line, Order};
use crate::real::oracle::Oracle;
use crate::real::process::{Running, Setting};
use crate::real::{Counts, Random, Stop};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use std::fs;
use std::path::Path;

/// Counted: appends that were turned away.
pub const TURNED_AWAY: &str = "appends turned away";
/// Counted: times that all logs were read while nothing could be opened.
pub const READ: &str = "readings of all logs meanwhile";
/// Acknowledgements that show a store at work.
const AT_WORK: u64 = 200;

/// The row. `count` is how often the limit is lowered, each time for another store.
///
/// # Errors
/// As every row.
pub fn run(seed: u64, count: u64, scratch: &Path, progress: &mut dyn FnMut(&Counts)) -> Result<Counts, Stop> {
    let mut random = Random::new(seed);
    let mut counts = Counts::default();
    for n in 0..count {
        let data = scratch.join(format!("store-{n}"));
        let io = ["auto", "posix", "buffered"][(n % 3) as usize];
        let setting = Setting::new(&data, io, random.draw(), scratch);
        let done = once(&setting, &mut random, &mut counts);
        done.map_err(|told| Stop::Violation(format!("{told}\n{}", hint("descriptors", seed, &counts))))?;
        counts.runs += 1;
        progress(&counts);
        let _ = fs::remove_dir_all(&data);
    }
    Ok(counts)
}

fn once(setting: &Setting, random: &mut Random, counts: &mut Counts) -> Result<(), String> {
    let mut oracle = Oracle::default();
    let mut command = setting.write();
    command.arg("--create");
    let mut victim = setting.start(command)?;
    acknowledged(&mut victim, &mut oracle, 1 + random.below(2 * AT_WORK))?;

    let free = limit(&victim, None)?;
    limit(&victim, Some(Rlimit { current: Some(open_files(&victim)?), maximum: free.maximum }))?;
    let mut wanted = 3;
    let lives = victim.until(|line| {
        oracle.told(line);
        if let Line::TurnedAway(kind) = line {
            counts.add(TURNED_AWAY, 1);
            wanted -= u64::from(kind == "Overloaded");
        }
        wanted == 0
    })?;
    if !lives {
        return Err(victim.ended("the victim ended when it could open no more files"));
    }
    victim.order(Order::Read)?;
    if !victim.until(|line| {
        oracle.told(line);
        matches!(line, Line::ReadsOk(_))
    })? {
        return Err(victim.ended("the victim could not read while it could open no more files"));
    }
    counts.add(READ, 1);

    limit(&victim, Some(free))?;
    acknowledged(&mut victim, &mut oracle, AT_WORK)?;
    victim.finish();
    let status = victim.rest(|line| oracle.told(line))?;
    if !status.success() {
        return Err(victim.ended(&format!("the victim ended with {status}")));
    }
    counts.acknowledgements_checked += setting.ask(&mut oracle)?;
    Ok(())
}

/// Waits for so many acknowledgements.
fn acknowledged(victim: &mut Running, oracle: &mut Oracle, mut wanted: u64) -> Result<(), String> {
    let lives = victim.until(|line| {
        oracle.told(line);
        wanted -= u64::from(matches!(line, Line::Acked { .. }));
        wanted == 0
    })?;
    if lives { Ok(()) } else { Err(victim.ended("the victim ended instead of going on")) }
}

/// Sets the victim's limit of open files, if one is given. Gives the one before.
fn limit(victim: &Running, new: Option<Rlimit>) -> Result<Rlimit, String> {
    let pid = Pid::from_raw(victim.id() as i32).expect("a child has a number");
    let told = |e| format!("the limit of open files of the victim could not be set: {e}");
    match new {
        Some(new) => prlimit(Some(pid), Resource::Nofile, new).map_err(told),
        // Setting it to what it is would be a race with nobody; asking is the same call.
        None => {
            let limits = fs::read_to_string(format!("/proc/{}/limits", victim.id())).map_err(|e| e.to_string())?;
            let line = limits.lines().find(|line| line.starts_with("Max open files")).unwrap_or_default();
            let mut numbers = line.split_whitespace().skip(3).map(|word| word.parse().ok());
            Ok(Rlimit { current: numbers.next().flatten(), maximum: numbers.next().flatten() })
        }
    }
}

/// How many files the victim has open.
fn open_files(victim: &Running) -> Result<u64, String> {
    let entries = fs::read_dir(format!("/proc/{}/fd", victim.id()));
    entries.map(|entries| entries.count() as u64).map_err(|e| format!("the victim's files could not be counted: {e}"))
}
