//! The simulated worlds as rows of the table of faults, for a soak: other seeds at each run.
//!
//! What a world is and what must hold is said elsewhere. Invariant: the same seed and count give the same worlds.

use super::campaign::{self, Failure};
use super::world::{Plan, Scenario, Tally};
use crate::real::{Counts, Row, RunRow, Stop};
use std::path::Path;

/// Worlds that are run between two words to whoever watches.
const AT_ONCE: u64 = 50;

/// One row for each scenario, and one for each that is disturbed at every operation.
pub static ROWS: [Row; 18] = [
    worlds("sim-crash", "simulated: crash of process or power at any operation", Scenario::Crash, random::<0>),
    worlds("sim-buffered", "simulated: the same through the page cache", Scenario::Buffered, random::<1>),
    worlds(
        "sim-kill-then-power",
        "simulated: killed, recovered, repeated, power lost",
        Scenario::KillThenPower,
        random::<2>,
    ),
    worlds("sim-in-flight", "simulated: frames that complete in any order", Scenario::InFlight, random::<3>),
    worlds("sim-errors", "simulated: writes and syncs fail, once or for good", Scenario::Errors, random::<4>),
    worlds("sim-errors-buffered", "simulated: the same through the page cache", Scenario::ErrorsBuffered, random::<5>),
    worlds("sim-full", "simulated: no room, no descriptors", Scenario::Full, random::<6>),
    worlds("sim-stall", "simulated: the device stands still", Scenario::Stall, random::<7>),
    worlds("sim-clock", "simulated: the clock jumps by ten years", Scenario::Clock, random::<8>),
    worlds("sim-lost", "simulated: a write is lost", Scenario::Lost, random::<9>),
    worlds("sim-misdirected", "simulated: a write goes astray", Scenario::Misdirected, random::<10>),
    worlds("sim-stale", "simulated: older bytes come back", Scenario::Stale, random::<11>),
    worlds("sim-flipped", "simulated: a bit flips", Scenario::Flipped, random::<12>),
    worlds("sim-look-up", "simulated: bits flip where logs are looked up", Scenario::LookUp, random::<13>),
    disturbed("sim-each-crash", "simulated: a crash at each operation", Scenario::Crash, each::<0>),
    disturbed("sim-each-error", "simulated: a failure of each operation", Scenario::Errors, each::<4>),
    disturbed(
        "sim-each-error-buffered",
        "simulated: the same through the page cache",
        Scenario::ErrorsBuffered,
        each::<5>,
    ),
    disturbed("sim-each-shortage", "simulated: no room or descriptors at each operation", Scenario::Full, each::<6>),
];

const fn worlds(name: &'static str, shows: &'static str, scenario: Scenario, run: RunRow) -> Row {
    let ci_count = super::seeds_in_ci(scenario);
    Row { name, shows, unit: "worlds", ci_count, weight: 1, needs_root: false, at_least_once: &[], run }
}

const fn disturbed(name: &'static str, shows: &'static str, scenario: Scenario, run: RunRow) -> Row {
    let ci_count = super::disturbed_in_ci(scenario);
    Row { name, shows, unit: "worlds", ci_count, weight: 1, needs_root: false, at_least_once: &[], run }
}

fn random<const N: usize>(
    seed: u64, count: u64, _scratch: &Path, progress: &mut dyn FnMut(&Counts),
) -> Result<Counts, Stop> {
    let (from, mut counts) = (seed.wrapping_mul(count), Counts::default());
    let mut done = 0;
    while done < count {
        let seeds = done..(done + AT_ONCE).min(count);
        done = seeds.end;
        let plans: Vec<_> = seeds.clone().map(|n| Plan::random(Scenario::ALL[N], from.wrapping_add(n))).collect();
        let tally = campaign::run_all(&plans, &|_| {}).map_err(|failure| violated(&failure))?;
        add(&mut counts, plans.len() as u64, &tally);
        progress(&counts);
    }
    Ok(counts)
}

fn each<const N: usize>(
    seed: u64, count: u64, _scratch: &Path, progress: &mut dyn FnMut(&Counts),
) -> Result<Counts, Stop> {
    let (from, mut counts) = (seed.wrapping_mul(count), Counts::default());
    for seed in from..from.wrapping_add(count) {
        let done = campaign::each_operation(Scenario::ALL[N], seed..seed + 1);
        let (tally, worlds) = done.map_err(|failure| violated(&failure))?;
        add(&mut counts, 1, &tally);
        counts.add("disturbed at one operation", worlds);
        progress(&counts);
    }
    Ok(counts)
}

fn violated(failure: &Failure) -> Stop {
    Stop::Violation(failure.to_string())
}

fn add(counts: &mut Counts, worlds: u64, tally: &Tally) {
    counts.runs += worlds;
    counts.acknowledgements_checked += tally.acknowledged;
    for (what, n) in [
        ("processes killed", tally.process_crashes),
        ("losses of power", tally.power_losses),
        ("crashes in recovery", tally.in_recovery),
        ("repetitions answered before the power went", tally.repeated),
        ("reports of what was possibly acknowledged", tally.possibly),
        ("operations failed", tally.failed),
        ("operations refused", tally.short),
        ("stores poisoned", tally.poisoned),
        ("stalls", tally.stalls),
        ("jumps of the clock", tally.jumps),
        ("disks that lied", tally.lies),
        ("times damage was named", tally.named),
    ] {
        if n > 0 {
            counts.add(what, n);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rows_worlds_are_of_the_scenario_that_its_name_says() {
        for (row, scenario) in ROWS.iter().zip(Scenario::ALL) {
            assert_eq!(row.name, format!("sim-{}", scenario.name()));
        }
        for (row, scenario) in ROWS[14..].iter().zip([0, 4, 5, 6].map(|n| Scenario::ALL[n])) {
            assert!(row.name.starts_with("sim-each-"), "{} for {}", row.name, scenario.name());
        }
        let mut told = 0;
        let counts = (ROWS[0].run)(3, 4, Path::new("/none"), &mut |_| told += 1).expect("every promise is kept");
        assert_eq!((counts.runs, told), (4, 1));
        assert!(counts.acknowledgements_checked > 0);
    }
}
