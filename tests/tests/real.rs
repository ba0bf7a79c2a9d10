//! The rows of real faults that need no root, a few times each. What they show is in `real/rows/`.
//!
//! EVERLOG_REAL_SEED repeats what was drawn; the seed is printed at the start.

use everlog_tests::programs::target_dir;
use everlog_tests::real::{Counts, ROWS, rows};
use std::time::{SystemTime, UNIX_EPOCH};

/// Runs the row of that name, on a real disk, and prints what it counted.
fn run(name: &str, count: u64) -> Counts {
    let seed = match std::env::var("EVERLOG_REAL_SEED") {
        Ok(seed) => seed.parse().expect("EVERLOG_REAL_SEED is a number"),
        Err(_) => SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_nanos() as u64,
    };
    eprintln!("{name}: EVERLOG_REAL_SEED={seed}");
    let row = ROWS.iter().find(|row| row.name == name).expect("the row is in the table");
    let scratch = tempfile::Builder::new().prefix(name).tempdir_in(target_dir()).expect("room for a folder");
    let counts = (row.run)(seed, count, scratch.path(), &mut |_| {}).unwrap_or_else(|stop| panic!("{stop}"));
    eprintln!("{name}: {counts}");
    counts
}

#[test]
fn what_was_acknowledged_survives_fifty_kills() {
    let counts = run("kills", 50);
    assert_eq!(counts.runs, 50);
    for kind in [rows::kills::IN_FLIGHT, rows::kills::IN_RECOVERY] {
        assert!(counts.get(kind) > 0, "some were {kind}: {counts}");
    }
}

#[test]
fn a_store_that_can_open_no_file_turns_appends_away_and_goes_on_when_it_can() {
    let counts = run("descriptors", 6);
    assert_eq!(counts.runs, 6);
    assert!(counts.acknowledgements_checked > 0, "{counts}");
}
