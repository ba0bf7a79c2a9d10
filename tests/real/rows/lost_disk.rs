//! The disk is lost: a victim that ships its store is killed under load, its directory is taken away, and the store is
//! restored from the cold store, which is a folder or a bucket of SeaweedFS.
//!
//! The kill comes at a random moment at which at least a thousand records were acknowledged and not told to be cold. A
//! round in which fewer were missing in the end is not counted, and another is made instead. After the restore, by the
//! program that an operator uses, another victim opens the store, which takes it over, and proves every record. What was
//! restored goes on as the store of the next round. What this does not show: the loss of a machine with a cold store of
//! its own, since the folder lies on the same one.

use super::hint;
use crate::net::{S3, told};
use crate::programs::Program;
use crate::real::line::Line;
use crate::real::oracle::{Found, found};
use crate::real::process::{Heard, PATIENCE, Running, Setting, was_killed};
use crate::real::{Counts, Random, Stop};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Records that are not shipped at a kill, at least.
const UNSHIPPED_MIN: u64 = 1000;
/// Rounds that one store lives through; the next ones are another's.
const ROUNDS_A_STORE: u64 = 5;
/// For how long a victim appends before the moment of the kill is looked for, at most, in milliseconds.
const LOAD_MS_MAX: u64 = 2_000;
/// What it is given of time behind that moment, at most, in microseconds.
const PAUSE_US_MAX: u64 = 20_000;
/// Rounds in a row in which too little was missing: a bound, so that a broken victim ends in a failure.
const MISSES_MAX: u64 = 10;
/// The victim's load and the sizes of its store: of so many small records in a second, flushed every few tens of
/// thousands.
const LOAD: [&str; 9] = ["--create", "--logs", "24", "--threads", "8", "--batch", "16", "--record-bytes", "100"];
const SIZES: [&str; 8] = [
    "--journal-file-bytes",
    "4194304",
    "--journal-files",
    "4",
    "--memory-bytes",
    "8388608",
    "--flush-bytes",
    "2097152",
];

/// Counted: records that were acknowledged as local alone and did not come back.
pub const UNSHIPPED: &str = "records lost that were not shipped";
/// Counted: records that were told to be cold and came back.
pub const COLD: &str = "records back that were told to be cold";
/// Counted: records that came back though nobody had been told that they are cold.
pub const MORE: &str = "records back beyond those";
/// Counted: rounds whose restore brought segments.
pub const WITH_SEGMENTS: &str = "restores with segments";

/// The row, with a folder. `count` is the number of rounds.
///
/// # Errors
/// As every row.
pub fn folder(seed: u64, count: u64, scratch: &Path, progress: &mut dyn FnMut(&Counts)) -> Result<Counts, Stop> {
    let cold = |store: u64| format!("file://{}", scratch.join(format!("cold-{store}")).display());
    run("lost-disk-folder", (seed, count), scratch, progress, (&cold, &[]))
}

/// The row, with a bucket.
///
/// # Errors
/// As every row.
pub fn bucket(seed: u64, count: u64, scratch: &Path, progress: &mut dyn FnMut(&Counts)) -> Result<Counts, Stop> {
    let s3 = S3::start(scratch).map_err(Stop::Lacking)?;
    let cold = |store: u64| s3.url(&format!("store-{store}"));
    run("lost-disk-bucket", (seed, count), scratch, progress, (&cold, &s3.env()))
}

/// Where each store is shipped, and what the environment has to say of that.
type Where<'a> = (&'a dyn Fn(u64) -> String, &'a [(&'static str, String)]);

fn run(
    row: &str, (seed, count): (u64, u64), scratch: &Path, progress: &mut dyn FnMut(&Counts), (cold, env): Where<'_>,
) -> Result<Counts, Stop> {
    let mut random = Random::new(seed);
    let mut counts = Counts::default();
    while counts.runs < count {
        let until = count.min(counts.runs + ROUNDS_A_STORE);
        let cold = cold(counts.runs);
        let io = if random.below(2) == 0 { "auto" } else { "posix" };
        let mut setting = Setting::new(&scratch.join("store"), io, random.draw(), scratch);
        setting.env = env.to_vec();
        setting.sizes = SIZES.iter().chain(&["--cold", &cold]).map(Into::into).collect();
        let mut world = World { setting, cold, told: Told::default(), random: &mut random, misses: 0 };
        let lived = world.live(until, &mut counts, progress);
        lived.map_err(|told| Stop::Violation(format!("{told}\n{}", hint(row, seed, &counts))))?;
        // Of a store that was not proved, which is kept, this is not reached.
        for gone in [Some(world.setting.data), world.cold.strip_prefix("file://").map(PathBuf::from)] {
            let _ = gone.map(fs::remove_dir_all);
        }
    }
    Ok(counts)
}

/// What `everlog restore --json` prints, as far as it is looked at.
#[derive(Debug, Deserialize)]
struct Report {
    last_lsn: u64,
    local_unknown_after_us: u64,
    segments: u64,
    lost: Vec<serde_json::Value>,
}

/// A store, all that was said of it, and what is drawn.
struct World<'a> {
    setting: Setting,
    cold: String,
    told: Told,
    random: &'a mut Random,
    misses: u64,
}

impl World<'_> {
    fn live(&mut self, until: u64, counts: &mut Counts, progress: &mut dyn FnMut(&Counts)) -> Result<(), String> {
        while counts.runs < until {
            self.kill_writer()?;
            fs::remove_dir_all(&self.setting.data).map_err(|e| format!("the directory cannot be removed: {e}"))?;
            let report = self.restore()?;
            let (found, newest_us) = self.look()?;
            let seen = self.told.check(&found, newest_us, &report)?;
            let is_enough = seen.missing >= UNSHIPPED_MIN;
            counts.runs += u64::from(is_enough);
            self.misses = if is_enough { 0 } else { self.misses + 1 };
            if self.misses > MISSES_MAX {
                return Err(format!("{MISSES_MAX} times in a row fewer than {UNSHIPPED_MIN} records were not shipped"));
            }
            counts.acknowledgements_checked += seen.acknowledgements;
            counts.add(UNSHIPPED, seen.missing);
            counts.add(COLD, seen.cold);
            counts.add(MORE, seen.more);
            counts.add(WITH_SEGMENTS, u64::from(report.segments > 0));
            progress(counts);
        }
        Ok(())
    }

    /// Has a victim append, and kills it while enough is not shipped.
    fn kill_writer(&mut self) -> Result<(), String> {
        let mut command = self.setting.write();
        command.args(LOAD);
        let mut victim = self.setting.start(command)?;
        let load = Duration::from_millis(self.random.below(LOAD_MS_MAX));
        self.listen(&mut victim, load, |told| told.was_ready && told.cold > 0)?;
        self.listen(&mut victim, Duration::ZERO, |told| told.unshipped() >= UNSHIPPED_MIN)?;
        std::thread::sleep(Duration::from_micros(self.random.below(PAUSE_US_MAX)));
        victim.kill();
        // What was said before the kill was told.
        let status = victim.rest(|line| self.told.hear(line))?;
        if was_killed(status) { Ok(()) } else { Err(victim.ended(&format!("the victim ended by itself: {status}"))) }
    }

    /// Listens for as long as that, and until `enough` says so.
    fn listen(&mut self, victim: &mut Running, least: Duration, enough: impl Fn(&Told) -> bool) -> Result<(), String> {
        let began = Instant::now();
        while began.elapsed() < least || !enough(&self.told) {
            match victim.line_within(Duration::from_millis(20))? {
                Heard::Line(line) => self.told.hear(&line),
                Heard::Nothing => {}
                Heard::End => return Err(victim.ended("the victim ended by itself")),
            }
            if began.elapsed() > PATIENCE {
                let told = &self.told;
                let (cold, unshipped) = (told.cold, told.unshipped());
                return Err(victim.ended(&format!("nothing comes to be cold: {cold}, {unshipped} records are not")));
            }
        }
        Ok(())
    }

    /// Restores the store as an operator does.
    fn restore(&self) -> Result<Report, String> {
        let mut command = Command::new(Program::Everlog.path());
        command.args(["restore", "--json", "--cold", &self.cold, "--to"]).arg(&self.setting.data);
        command.envs(self.setting.env.iter().map(|(name, value)| (name, value)));
        let output = command.output().map_err(|e| format!("everlog does not start: {e}"))?;
        if !output.status.success() {
            return Err(format!("the restore failed: {}", told(&output)));
        }
        serde_json::from_slice(&output.stdout).map_err(|e| format!("the restore says {e}: {}", told(&output)))
    }

    /// What the restored store holds, and the time of its newest record. Its open takes the store over.
    fn look(&self) -> Result<(Found, u64), String> {
        let mut running = self.setting.start(self.setting.check())?;
        let mut lines = Vec::new();
        let status = running.rest(|line| lines.push(line.clone()))?;
        if !status.success() {
            return Err(running.ended(&format!("the check ended with {status}")));
        }
        let newest = lines.iter().find_map(|line| if let Line::Newest(us) = line { Some(*us) } else { None });
        Ok((found(&lines), newest.unwrap_or_default()))
    }
}

/// The oracle: what the victim said it sent and was told.
#[derive(Debug, Default)]
struct Told {
    logs: BTreeMap<String, Log>,
    /// Everything up to this LSN was told to be cold.
    cold: u64,
    /// Records of acknowledgements that were not told to be cold, by LSN.
    local: BTreeMap<u64, u64>,
    was_ready: bool,
}

/// What was said of one log since the last check.
#[derive(Debug, Default)]
struct Log {
    /// The next seq at the last check, if everything sent since succeeds, and after what was acknowledged.
    checked: u64,
    sent: u64,
    acknowledged: u64,
    acks: Vec<Acknowledged>,
}

#[derive(Debug)]
struct Acknowledged {
    next: u64,
    records: u64,
    lsn: u64,
    time_us: u64,
}

/// What a check found.
#[derive(Debug, Default)]
struct Seen {
    acknowledgements: u64,
    /// Records: told to be cold and back, back beyond that, acknowledged and missing.
    cold: u64,
    more: u64,
    missing: u64,
}

impl Told {
    fn hear(&mut self, line: &Line) {
        match line {
            Line::Ready(_) => self.was_ready = true,
            Line::Sent { log, next } => self.logs.entry(log.clone()).or_default().sent = *next,
            Line::Local { log, next, lsn, time_us } => {
                let log = self.logs.entry(log.clone()).or_default();
                let records = next - log.acknowledged;
                log.acknowledged = *next;
                log.acks.push(Acknowledged { next: *next, records, lsn: *lsn, time_us: *time_us });
                // Its acknowledgement and the word that it is cold come from two threads.
                if *lsn > self.cold {
                    self.local.insert(*lsn, records);
                }
            }
            Line::Cold { lsn } => {
                self.cold = self.cold.max(*lsn);
                self.local = self.local.split_off(&(self.cold + 1));
            }
            _ => {}
        }
    }

    /// Records that were acknowledged and not told to be cold.
    fn unshipped(&self) -> u64 {
        self.local.values().sum()
    }

    /// Compares what was said with what came back, and begins anew with that.
    fn check(&mut self, found: &Found, newest_us: u64, report: &Report) -> Result<Seen, String> {
        let Report { last_lsn, local_unknown_after_us: after_us, ref lost, .. } = *report;
        if !lost.is_empty() {
            return Err(format!("nothing was damaged, and the restore lost {lost:?}"));
        }
        if newest_us > after_us {
            return Err(format!("a record of {newest_us} is back, and the report ends at {after_us}"));
        }
        if let Some(log) = found.keys().find(|log| !self.logs.contains_key(*log)) {
            return Err(format!("log {log} is there, and nothing was ever sent to it"));
        }
        let mut seen = Seen::default();
        for (name, log) in &mut self.logs {
            let (first, next) = found.get(name).copied().unwrap_or_default();
            if first != 0 || !(log.checked..=log.sent).contains(&next) {
                let (checked, sent) = (log.checked, log.sent);
                return Err(format!("log {name} is back from {first} to {next}, of {sent} sent, {checked} before"));
            }
            for ack in std::mem::take(&mut log.acks) {
                let (is_cold, is_back) = (ack.lsn <= self.cold, ack.next <= next);
                let what = match (is_cold, is_back) {
                    (true, false) => "was told to be cold, and is missing",
                    (false, false) if ack.time_us <= after_us => "is missing, and was acknowledged before",
                    (_, false) if ack.lsn <= last_lsn => "is missing",
                    (_, true) if ack.lsn > last_lsn => "is back",
                    _ => "",
                };
                if !what.is_empty() {
                    let cold = self.cold;
                    return Err(format!(
                        "log {name}, next {next}: {ack:?} {what}; the report ends at LSN {last_lsn}, {after_us}, and up \
                         to {cold} was told cold"
                    ));
                }
                seen.acknowledgements += 1;
                match (is_cold, is_back) {
                    (true, _) => seen.cold += ack.records,
                    (false, true) => seen.more += ack.records,
                    (false, false) => seen.missing += ack.records,
                }
            }
            *log = Log { checked: next, sent: next, acknowledged: next, acks: Vec::new() };
        }
        self.local.clear();
        self.was_ready = false;
        Ok(seen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(lines: &[&str], next: u64, last_lsn: u64, after_us: u64) -> Result<Seen, String> {
        let mut told = Told::default();
        lines.iter().for_each(|line| told.hear(&line.parse().expect("a line of the victim's")));
        let found = Found::from([("a".to_owned(), (0, next))]);
        let report = Report { last_lsn, local_unknown_after_us: after_us, segments: 0, lost: Vec::new() };
        told.check(&found, 10 * next, &report)
    }

    #[test]
    fn what_was_cold_must_be_back_and_what_is_missing_lies_behind_the_report() {
        let lines = ["sent a 2", "local a 2 5 21", "cold 5", "sent a 3", "local a 3 6 31", "sent a 4"];
        let seen = check(&lines, 2, 5, 20).expect("what was not shipped is missing");
        assert_eq!((seen.cold, seen.more, seen.missing, seen.acknowledgements), (2, 0, 1, 2));
        assert_eq!(check(&lines, 3, 6, 30).expect("more is back").more, 1);
        for (next, last_lsn, after_us) in [(1, 4, 10), (2, 6, 20), (2, 5, 31), (2, 4, 20), (5, 9, 50), (3, 6, 29)] {
            check(&lines, next, last_lsn, after_us).expect_err("something of it is not so");
        }
    }

    #[test]
    fn what_is_cold_is_no_longer_counted() {
        let mut told = Told::default();
        let mut hear = |line: &str| {
            told.hear(&line.parse().expect("a line of the victim's"));
            told.unshipped()
        };
        assert_eq!(hear("local a 3 5 21"), 3);
        assert_eq!(hear("local a 4 6 31"), 4);
        assert_eq!(hear("cold 5"), 1);
        assert_eq!(hear("local b 9 4 11"), 1, "it was told to be cold before");
    }
}
