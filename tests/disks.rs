//! The rows of real faults that need root and disks of their own, a few times each: `cargo xtask disks`. What they show
//! is in `real/rows/`.

use everlog_tests::real::{Counts, Row, rows};

fn run(name: &str, count: u64) -> Counts {
    Row::named(name).expect("the row is in the table").test(count)
}

#[test]
fn what_was_acknowledged_survives_a_disk_whose_writes_fail() {
    let counts = run("failing-writes", 12);
    assert_eq!(counts.get(rows::failing_disk::STOPPED), 12, "{counts}");
}

#[test]
fn what_was_acknowledged_survives_a_disk_whose_flushes_fail() {
    let counts = run("failing-flushes", 12);
    assert_eq!(counts.get(rows::failing_disk::STOPPED), 12, "{counts}");
}

#[test]
fn a_store_on_a_full_disk_goes_on_when_there_is_room() {
    let counts = run("full-disk", 6);
    assert_eq!(counts.get(rows::full_disk::REFUSED), 6, "{counts}");
}
