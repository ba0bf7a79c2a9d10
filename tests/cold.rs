//! Fleets of nodes that ship one store to cold stores, and follow one another as its owner: see `sim/fleet/mod.rs` for what
//! happens to them and what must hold, and `sim/cold.rs` for what may happen to a request.
//!
//! `EVERLOG_SEEDS=n` runs the seeds from 0 to n − 1 instead of the number that stands here, `EVERLOG_SEED=s` the seed s
//! alone. A seed that fails is printed with the end of its trace and the command that runs it again.

use everlog::RestoreMode;
use everlog::types::{AsOf, Lsn};
use everlog_tests::oracle::Violation;
use everlog_tests::sim::Crash;
use everlog_tests::sim::cold::Misfortune;
use everlog_tests::sim::fleet::{self, EVENTS, Fleet, Opening, Tally};
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Seeds that each change to the project is put to.
const SEEDS: u64 = 2000;
/// Lines of a failing seed's trace that are printed.
const TRACE_LINES: usize = 200;

fn seeds() -> Range<u64> {
    let number = |name: &str| -> Option<u64> {
        let text = std::env::var(name).ok()?;
        Some(text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")))
    };
    match number("EVERLOG_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("EVERLOG_SEEDS").unwrap_or(SEEDS),
    }
}

/// Runs the worlds of these seeds on all processors. What they saw, or what is to be said of the lowest that failed
/// before all stopped.
fn run_all(seeds: Range<u64>) -> Result<Tally, String> {
    let (next, failed) = (AtomicU64::new(seeds.start), AtomicBool::new(false));
    let total = Mutex::new((Tally::default(), None::<(u64, String)>));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                while !failed.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let outcome = fleet::run(seed);
                    let mut total = total.lock().expect("nobody panics with it");
                    match outcome.result {
                        Ok(tally) => total.0.add(&tally),
                        Err(violation) => {
                            failed.store(true, Ordering::Relaxed);
                            if total.1.as_ref().is_none_or(|(other, _)| seed < *other) {
                                total.1 = Some((seed, describe(seed, &violation, &outcome.trace)));
                            }
                        }
                    }
                }
            });
        }
    });
    match total.into_inner().expect("nobody panics with it") {
        (tally, None) => Ok(tally),
        (_, Some((_, failure))) => Err(failure),
    }
}

fn describe(seed: u64, violation: &Violation, trace: &[String]) -> String {
    let tail = trace[trace.len().saturating_sub(TRACE_LINES)..].join("\n");
    let again = format!("EVERLOG_SEED={seed} cargo test -p everlog-tests --test cold seeds_hold");
    format!("seed {seed}: {violation}\nthe end of its trace:\n{tail}\nseed {seed}: {violation}\nagain: {again}")
}

/// What a directed scenario goes on with.
#[track_caller]
fn kept<T>(result: Result<T, Violation>) -> T {
    result.unwrap_or_else(|violation| panic!("{violation}"))
}

/// A node that was restored from the cold store `from` and owns the store now.
#[track_caller]
fn taken_over(fleet: &mut Fleet, from: usize) -> usize {
    let at = kept(fleet.restored(from, RestoreMode::Heal, false)).expect("there is a store");
    assert_eq!(kept(fleet.open(at, false)), Opening::Opened);
    at
}

mod simulated {
    use super::*;

    #[test]
    fn seeds_hold() {
        let seeds = seeds();
        let count = seeds.end - seeds.start;
        let tally = run_all(seeds).unwrap_or_else(|failure| panic!("{failure}"));
        eprintln!("{count} fleets: {tally:?}");
        // Worlds in which nothing happens would prove nothing.
        let seen = EVENTS.into_iter().chain(Misfortune::ALL.map(Misfortune::name));
        let missing: Vec<&str> = seen.filter(|what| tally.of(what) == 0).collect();
        assert!(count < SEEDS || missing.is_empty(), "never seen in {count} fleets: {missing:?}: {tally:?}");
        for what in ["acknowledged", "told cold", "restores", "take-overs", "drills"] {
            assert!(count < 100 || tally.of(what) >= count / 4, "{what}: {} in {count} fleets", tally.of(what));
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_trace() {
        for seed in 0..12 {
            let [one, other] = [fleet::run(seed), fleet::run(seed)].map(|outcome| outcome.trace);
            let differ = one.iter().zip(&other).position(|(a, b)| a != b);
            let lines = differ.map(|line| [&one[line], &other[line]]);
            assert!(one == other, "seed {seed}, line {differ:?}: {lines:?}");
        }
    }

    #[test]
    fn an_owner_that_comes_back_behind_another_ones_take_over_is_fenced_and_takes_nothing_with_it() {
        for stores in [1, 2] {
            let mut fleet = kept(Fleet::new(1, stores));
            let old = fleet.id(0);
            kept(fleet.write(0, 6));
            kept(fleet.level(0));
            // It stands still with something that was not shipped.
            kept(fleet.write(0, 2));
            let at = taken_over(&mut fleet, 0);
            kept(fleet.write(at, 3));
            kept(fleet.level(at));
            let promised = fleet.promised(0);
            // It goes on: what it appends is local alone, until it ships the next time.
            let zombie = fleet.place(old).expect("it stands still");
            kept(fleet.write(zombie, 1));
            kept(fleet.ask(zombie));
            kept(fleet.ship(zombie, 0));
            assert!(!fleet.is_live(zombie), "it was told");
            assert_eq!((fleet.tally().of("fenced"), fleet.promised(0)), (1, promised));
            // What it put there before it was told stands in nobody's way.
            kept(fleet.crash(at, Crash::Power));
            assert_eq!(kept(fleet.open(at, false)), Opening::Opened);
            assert_eq!(kept(fleet.drill(0)).map(|batches| batches.len()), Some(9));
            kept(fleet.finish());
        }
    }

    #[test]
    fn an_owner_that_opens_again_behind_another_ones_take_over_is_refused() {
        let mut fleet = kept(Fleet::new(2, 1));
        let old = fleet.id(0);
        kept(fleet.write(0, 4));
        kept(fleet.level(0));
        kept(fleet.crash(0, Crash::Process));
        let at = taken_over(&mut fleet, 0);
        kept(fleet.write(at, 2));
        let zombie = fleet.place(old).expect("it is down");
        assert_eq!(kept(fleet.open(zombie, false)), Opening::Refused);
        kept(fleet.finish());
    }

    #[test]
    fn an_old_copy_put_back_is_refused_and_the_right_directory_still_opens() {
        let mut fleet = kept(Fleet::new(3, 1));
        kept(fleet.write(0, 5));
        kept(fleet.level(0));
        kept(fleet.copy(0));
        kept(fleet.write(0, 5));
        kept(fleet.level(0));
        kept(fleet.crash(0, Crash::Process));
        let (copy, opening) = kept(fleet.put_back()).expect("a copy is kept");
        assert_eq!(opening, Opening::Refused);
        fleet.lose(copy);
        assert_eq!(kept(fleet.open(0, false)), Opening::Opened);
        assert_eq!(kept(fleet.drill(0)).map(|batches| batches.len()), Some(10));
        kept(fleet.finish());
    }

    #[test]
    fn an_old_copy_put_back_while_the_owner_runs_does_not_stop_it() {
        let mut fleet = kept(Fleet::new(4, 1));
        kept(fleet.write(0, 5));
        kept(fleet.copy(0));
        kept(fleet.write(0, 5));
        kept(fleet.level(0));
        let (copy, opening) = kept(fleet.put_back()).expect("a copy is kept");
        assert_eq!(opening, Opening::Refused);
        fleet.lose(copy);
        kept(fleet.write(0, 2));
        kept(fleet.level(0));
        kept(fleet.finish());
    }

    #[test]
    fn a_cold_store_that_was_destroyed_is_filled_anew_and_is_enough_then() {
        for n in [0, 1] {
            let mut fleet = kept(Fleet::new(5, 2));
            kept(fleet.write(0, 8));
            kept(fleet.flush(0, true));
            kept(fleet.level(0));
            if n == 1 {
                // The owner does not know yet, and goes on putting things there.
                kept(fleet.wipe(1));
                kept(fleet.write(0, 3));
                for _ in 0..10 {
                    kept(fleet.ship(0, 0));
                    kept(fleet.ship(0, 1));
                }
                kept(fleet.crash(0, Crash::Process));
            } else {
                kept(fleet.wipe(0));
            }
            assert_eq!(kept(fleet.open(0, false)), Opening::Opened);
            kept(fleet.write(0, 2));
            kept(fleet.level(0));
            let all = if n == 1 { 13 } else { 10 };
            for cold in [0, 1] {
                assert_eq!(kept(fleet.drill(cold)).map(|batches| batches.len()), Some(all), "{cold}, {n} destroyed");
            }
            kept(fleet.finish());
        }
    }

    #[test]
    fn with_the_disk_and_one_cold_store_destroyed_the_other_gives_back_all_that_it_was_told() {
        for (n, other) in [(0, 1), (1, 0)] {
            let mut fleet = kept(Fleet::new(6, 2));
            kept(fleet.write(0, 7));
            kept(fleet.level(0));
            kept(fleet.write(0, 2));
            let promised = fleet.promised(other);
            assert_eq!(promised, 7);
            fleet.lose(0);
            kept(fleet.wipe(n));
            let at = taken_over(&mut fleet, other);
            kept(fleet.write(at, 2));
            kept(fleet.level(at));
            for cold in [0, 1] {
                let back = kept(fleet.drill(cold)).map(|batches| batches.len());
                assert_eq!(back, Some(promised + 2), "{cold}, {n} destroyed");
            }
            kept(fleet.finish());
        }
    }

    #[test]
    fn a_store_that_was_put_back_is_what_it_was_and_its_owner_of_before_is_fenced() {
        for stores in [1, 2] {
            let mut fleet = kept(Fleet::new(8, stores));
            let old = fleet.id(0);
            kept(fleet.write(0, 4));
            kept(fleet.level(0));
            let moment = Lsn(fleet.verified());
            kept(fleet.write(0, 3));
            kept(fleet.flush(0, true));
            kept(fleet.level(0));
            assert_eq!(fleet.promised(0), 7);
            let mode = RestoreMode::Rewind(Some(AsOf::Lsn(moment)));
            let at = kept(fleet.restored(0, mode, false)).expect("it was verified");
            assert_eq!(kept(fleet.drill(0)).map(|batches| batches.len()), Some(7));
            assert_eq!(kept(fleet.open(at, false)), Opening::Opened);
            assert_eq!((kept(fleet.drill(0)).map(|batches| batches.len()), fleet.promised(0)), (Some(4), 4));
            let zombie = fleet.place(old).expect("it goes on");
            kept(fleet.write(zombie, 1));
            kept(fleet.ship(zombie, 0));
            assert!(!fleet.is_live(zombie), "it was told");
            kept(fleet.write(at, 2));
            kept(fleet.level(at));
            for cold in 0..stores {
                assert_eq!(kept(fleet.drill(cold)).map(|batches| batches.len()), Some(6));
            }
            kept(fleet.finish());
        }
    }

    #[test]
    fn a_node_that_opens_while_the_authority_is_out_of_reach_acknowledges_and_catches_up() {
        let mut fleet = kept(Fleet::new(7, 2));
        kept(fleet.write(0, 3));
        kept(fleet.level(0));
        kept(fleet.crash(0, Crash::Process));
        let id = fleet.id(0);
        fleet.cold(0).cut_off(id, true);
        assert_eq!(kept(fleet.open(0, false)), Opening::Opened);
        assert_eq!(fleet.tally().of("opened without the authority"), 1);
        kept(fleet.write(0, 3));
        kept(fleet.ask(0));
        for n in [0, 1] {
            kept(fleet.ship(0, n));
        }
        assert_eq!((fleet.tally().of("told cold"), fleet.promised(0)), (0, 3));
        fleet.cold(0).cut_off(id, false);
        kept(fleet.level(0));
        assert_eq!((fleet.tally().of("told cold"), fleet.promised(0)), (1, 6));
        kept(fleet.finish());
    }
}
