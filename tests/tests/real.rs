//! The rows of real faults that need no root, a few times each. What they show is in `real/rows/`.
//!
//! EVERLOG_REAL_SEED repeats what was drawn; the seed is printed at the start.

use everlog_tests::real::{Counts, Row, rows};

fn run(name: &str, count: u64) -> Counts {
    Row::named(name).expect("the row is in the table").test(count)
}

#[test]
fn what_was_acknowledged_survives_fifty_kills() {
    let counts = run("kills", 50);
    assert_eq!(counts.runs, 50);
    for kind in [rows::kills::IN_FLIGHT, rows::kills::IN_RECOVERY, rows::kills::IN_FLUSH] {
        assert!(counts.get(kind) > 0, "some were {kind}: {counts}");
    }
}

#[test]
fn a_store_that_can_open_no_file_turns_appends_away_and_goes_on_when_it_can() {
    let counts = run("descriptors", 6);
    assert_eq!(counts.runs, 6);
    assert!(counts.acknowledgements_checked > 0, "{counts}");
}
