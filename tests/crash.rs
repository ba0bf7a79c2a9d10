//! Many small worlds, each with its own crashes: of the process and of the power, at every kind of operation, also
//! while a recovery is under way. See `sim/world.rs` for what happens in one and `oracle/` for what must hold.
//!
//! `EVERLOG_SEEDS=n` runs seeds 0..n (1,000 if it is not set), `EVERLOG_SEED=s` that one alone.

use everlog_tests::oracle::Violation;
use everlog_tests::sim::SimDisk;
use everlog_tests::sim::world::{self, Tally};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Lines of a failing world's trace that are printed.
const TRACE_LINES: usize = 150;

fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is a number, not {text:?}")))
}

/// Runs one world; a failure as text, with the end of its trace.
fn run(seed: u64) -> Result<Tally, String> {
    let disk = SimDisk::new(seed);
    let outcome = catch_unwind(AssertUnwindSafe(|| world::run(seed, &disk)));
    let what = match outcome {
        Ok(Ok(tally)) => return Ok(tally),
        Ok(Err(Violation(what))) => what,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a message");
            format!("a panic: {text}")
        }
    };
    let trace = disk.trace();
    let tail = trace[trace.len().saturating_sub(TRACE_LINES)..].join("\n");
    let again = format!("EVERLOG_SEED={seed} cargo test -p everlog-tests --test crash");
    Err(format!("seed {seed}: {what}\nthe end of its trace:\n{tail}\nseed {seed}: {what}\nto run it again: {again}"))
}

#[test]
fn no_crash_takes_what_was_acknowledged_or_leaves_what_was_not_whole() {
    let (from, to) = match setting("EVERLOG_SEED") {
        Some(seed) => (seed, seed + 1),
        None => (0, setting("EVERLOG_SEEDS").unwrap_or(1000)),
    };
    let (next, failed) = (AtomicU64::new(from), AtomicBool::new(false));
    let total = Mutex::new((Tally::default(), Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= to || failed.load(Ordering::Relaxed) {
                        return;
                    }
                    let outcome = run(seed);
                    let mut total = total.lock().expect("nobody panics with it");
                    match outcome {
                        Ok(tally) => total.0.add(&tally),
                        Err(what) => {
                            failed.store(true, Ordering::Relaxed);
                            total.1.push(what);
                        }
                    }
                }
            });
        }
    });
    let (tally, failures) = total.into_inner().expect("nobody panics with it");
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
    eprintln!("{} seeds: {tally:?}", to - from);
    if to - from >= 100 {
        // Worlds in which nothing happens would prove nothing.
        let least = to - from;
        for (what, count) in [
            ("acknowledged", tally.acknowledged),
            ("refused", tally.refused),
            ("kept", tally.kept),
            ("lost", tally.lost),
            ("crashes of the process", tally.process_crashes),
            ("losses of power", tally.power_losses),
            ("crashes in recovery", tally.in_recovery),
            ("flushes", tally.flushes),
        ] {
            assert!(count >= least / 4, "only {count} × {what} in {least} worlds: {tally:?}");
        }
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    for seed in [1, 2, 3] {
        let traces = [0, 1].map(|_| {
            let disk = SimDisk::new(seed);
            let tally = world::run(seed, &disk).map_err(|v| v.0);
            (tally, disk.trace())
        });
        let differ = traces[0].1.iter().zip(&traces[1].1).position(|(a, b)| a != b);
        assert!(
            traces[0] == traces[1],
            "seed {seed}, line {differ:?}: {:?}",
            differ.map(|i| (&traces[0].1[i], &traces[1].1[i]))
        );
    }
}
