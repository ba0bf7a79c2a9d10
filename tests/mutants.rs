//! The tests of the tests: an engine that makes one mistake, and worlds that must find it.
//!
//! Each mutant (`engine/src/mutants.rs`) has to be caught by worlds as chance makes them, in at least two scenarios, within
//! a bounded number of seeds. Invariant: without a mutant the same worlds pass, which the target `worlds` shows.

use everlog::mutants::{Mutant, tell};
use everlog_tests::sim::campaign;
use everlog_tests::sim::world::{Plan, Scenario};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Seeds within which a scenario has to find a mutant.
const SEEDS: u64 = 1000;

/// The first seed of the scenario that finds the mutant.
fn found_by(mutant: Mutant, scenario: Scenario) -> Option<u64> {
    (0..SEEDS).find(|seed| {
        tell(Some(mutant));
        let (outcome, _) = campaign::run(&Plan::random(scenario, *seed));
        tell(None);
        outcome.result.is_err()
    })
}

/// Where each mutant is looked for, the likeliest scenarios first.
fn scenarios(mutant: Mutant) -> Vec<Scenario> {
    let likely = match mutant {
        Mutant::CutBelowProof => vec![Scenario::Lost, Scenario::Flipped],
        Mutant::FilterTrusted => vec![Scenario::LookUp, Scenario::Flipped],
        Mutant::SyncRetried | Mutant::FailureIgnored | Mutant::LatchLeftOpen | Mutant::RecoveredNotRewritten => {
            vec![Scenario::ErrorsBuffered, Scenario::Errors]
        }
        Mutant::RecoveredUnsynced => vec![Scenario::KillThenPower, Scenario::Crash],
        _ => vec![Scenario::Crash, Scenario::KillThenPower],
    };
    let others = Scenario::ALL.into_iter().filter(|scenario| !likely.contains(scenario)).collect::<Vec<_>>();
    likely.into_iter().chain(others).collect()
}

#[test]
fn each_mutant_is_caught_in_two_scenarios() {
    // A panic of a mutant is one way of being caught, and no news.
    std::panic::set_hook(Box::new(|_| {}));
    let (next, missed) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                while let Some(mutant) = Mutant::ALL.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let mut caught = Vec::new();
                    for scenario in scenarios(*mutant) {
                        caught.extend(found_by(*mutant, scenario).map(|seed| (scenario.name(), seed)));
                        if caught.len() == 2 {
                            break;
                        }
                    }
                    eprintln!("{mutant:?} is caught by {caught:?}");
                    if caught.len() < 2 {
                        missed.lock().expect("nobody panics with it").push(*mutant);
                    }
                }
            });
        }
    });
    let _default = std::panic::take_hook();
    let missed = missed.into_inner().expect("nobody panics with it");
    assert!(missed.is_empty(), "not caught in two scenarios within {SEEDS} seeds each: {missed:?}");
}
