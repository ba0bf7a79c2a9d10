//! Many worlds: run on all processors, counted, and the first that fails made small and told so that it can be run again.
//!
//! What happens in a world is [`super::world`]'s business. Invariant: a failure that is reported names a plan that fails,
//! and the trace printed is that plan's.

use super::SimDisk;
use super::world::{self, Event, Outcome, Plan, Scenario, Stage, Step, Tally};
use super::{Crash, Fault, When};
use crate::oracle::Violation;
use std::collections::BTreeSet;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Lines of a failing world's trace that are printed.
const TRACE_LINES: usize = 150;
/// Worlds that are run at most to make a failing one smaller.
const SHRINK_RUNS: usize = 1000;

/// A world that did not keep a promise.
#[derive(Debug)]
pub struct Failure {
    /// The plan it was found with.
    pub plan: Plan,
    /// The smallest plan that fails too.
    pub smallest: Plan,
    /// What is wrong in that.
    pub what: String,
    /// What happened in it.
    pub trace: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (scenario, seed) = (self.plan.scenario.name(), self.plan.seed);
        writeln!(f, "{scenario}, seed {seed}: {}", self.what)?;
        let skipped = self.smallest.skipped.len();
        writeln!(f, "{skipped} steps are left out; the end of the trace of what remains:")?;
        for line in &self.trace[self.trace.len().saturating_sub(TRACE_LINES)..] {
            writeln!(f, "{line}")?;
        }
        writeln!(f, "{scenario}, seed {seed}: {}", self.what)?;
        match self.plan.event {
            None => write!(f, "to run it again: cargo xtask sim --scenario {scenario} --seed {seed}"),
            Some((stage, op, event)) => {
                let (stage, event) = (stage.name(), describe(event));
                write!(f, "to run it again: cargo xtask sim --scenario {scenario} --seed {seed}")?;
                write!(f, " --stage {stage} --at {op} --event {event}")
            }
        }
    }
}

/// An event's name on a command line.
#[must_use]
pub fn describe(event: Event) -> String {
    match event {
        Event::Crash(kind, when) => format!("{kind:?}-{when:?}").to_lowercase(),
        Event::Fault(fault) => format!("{fault:?}").to_lowercase(),
        Event::Full(ops) => format!("full-{ops}"),
        Event::NoDescriptors(ops) => format!("nodescriptors-{ops}"),
    }
}

/// The events that may happen at one operation of a scenario.
#[must_use]
pub fn events(scenario: Scenario) -> Vec<Event> {
    match scenario {
        Scenario::Errors | Scenario::ErrorsBuffered => {
            [Fault::Eio, Fault::EioSticky, Fault::Short].map(Event::Fault).to_vec()
        }
        Scenario::Full => vec![Event::Full(1), Event::Full(20), Event::NoDescriptors(1), Event::NoDescriptors(20)],
        _ => {
            let whens = [When::Before, When::Middle, When::After];
            let kinds = [Crash::Process, Crash::Power];
            kinds.into_iter().flat_map(|kind| whens.map(|when| Event::Crash(kind, when))).collect()
        }
    }
}

/// Runs one world; also gives the trace.
#[must_use]
pub fn run(plan: &Plan) -> (Outcome, Vec<String>) {
    let disk = SimDisk::new(plan.seed);
    let outcome = catch_unwind(AssertUnwindSafe(|| world::run(plan, &disk)));
    let outcome = outcome.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a message");
        // Every step may have been taken; those that were not change nothing when they are left out.
        let all = |generation| (1..plan.steps.end as u32).map(move |number| Step { generation, number });
        let taken = (0..plan.generations.end as u32).flat_map(all).collect();
        Outcome { result: Err(Violation(format!("a panic: {text}"))), taken, operations: [0; 3] }
    });
    (outcome, disk.trace())
}

/// Runs all of `plans`, and gives what they saw, or the first that failed. `done` hears how many were run.
///
/// # Errors
/// The first failure, made small.
pub fn run_all(plans: &[Plan], done: &(dyn Fn(u64) + Sync)) -> Result<Tally, Box<Failure>> {
    let (next, failed) = (AtomicU64::new(0), AtomicBool::new(false));
    let total = Mutex::new((Tally::default(), None));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                while !failed.load(Ordering::Relaxed)
                    && let Some(plan) = plans.get(next.fetch_add(1, Ordering::Relaxed) as usize)
                {
                    let (outcome, _) = run(plan);
                    let mut total = total.lock().expect("nobody panics with it");
                    match outcome.result {
                        Ok(tally) => total.0.add(&tally),
                        Err(_) => {
                            failed.store(true, Ordering::Relaxed);
                            total.1.get_or_insert_with(|| plan.clone());
                        }
                    }
                    drop(total);
                    done(1);
                }
            });
        }
    });
    match total.into_inner().expect("nobody panics with it") {
        (tally, None) => Ok(tally),
        (_, Some(plan)) => Err(Box::new(shrink(&plan))),
    }
}

/// Worlds of a scenario, one for each seed, as chance makes them.
///
/// # Errors
/// The first failure, made small.
pub fn random(scenario: Scenario, seeds: std::ops::Range<u64>) -> Result<Tally, Box<Failure>> {
    let plans: Vec<_> = seeds.map(|seed| Plan::random(scenario, seed)).collect();
    run_all(&plans, &|_| {})
}

/// Short worlds, one for each operation of each seed's creation, first and second generation and each event that may
/// happen there. Also gives how many.
///
/// # Errors
/// The first failure, made small.
pub fn each_operation(scenario: Scenario, seeds: std::ops::Range<u64>) -> Result<(Tally, u64), Box<Failure>> {
    let mut plans = Vec::new();
    for seed in seeds {
        for (n, stage) in Stage::ALL.into_iter().enumerate() {
            let undisturbed = Plan::exact(scenario, seed, stage, None);
            let (outcome, _) = run(&undisturbed);
            if outcome.result.is_err() {
                return Err(Box::new(shrink(&undisturbed)));
            }
            for op in 1..=outcome.operations[n] {
                let events = events(scenario).into_iter();
                plans.extend(events.map(|event| Plan::exact(scenario, seed, stage, Some((op, event)))));
            }
        }
    }
    run_all(&plans, &|_| {}).map(|tally| (tally, plans.len() as u64))
}

/// Leaves out as many steps of a failing world as it can (delta debugging: Zeller and Hildebrandt, 2002).
#[must_use]
pub fn shrink(plan: &Plan) -> Failure {
    let (mut smallest, (mut outcome, mut trace)) = (plan.clone(), run(plan));
    let mut runs = 0;
    let mut size = outcome.taken.len().div_ceil(2);
    while size > 0 && runs < SHRINK_RUNS {
        let mut smaller = false;
        for chunk in outcome.taken.clone().chunks(size) {
            let mut skipped: BTreeSet<Step> = smallest.skipped.clone();
            skipped.extend(chunk);
            let candidate = Plan { skipped, ..smallest.clone() };
            let (result, lines) = run(&candidate);
            runs += 1;
            if result.result.is_err() {
                (smallest, outcome, trace, smaller) = (candidate, result, lines, true);
            }
            if runs == SHRINK_RUNS {
                break;
            }
        }
        size = if smaller { size.min(outcome.taken.len()) } else { size / 2 };
    }
    let what = outcome.result.err().map_or_else(|| "it does not fail a second time".to_owned(), |v| v.0);
    Failure { plan: plan.clone(), smallest, what, trace }
}
