//! The rows of real faults that need no root, as often as in CI. What they show is in `real/rows/`.
//!
//! EVERLOG_REAL_SEED repeats what was drawn; the seed is printed at the start.

use everlog_tests::real::Row;

fn run(name: &str) {
    Row::named(name).expect("the row is in the table").test();
}

#[test]
fn what_was_acknowledged_survives_fifty_kills() {
    run("kills");
}

#[test]
fn a_store_that_can_open_no_file_turns_appends_away_and_goes_on_when_it_can() {
    run("descriptors");
}

#[test]
fn what_was_told_to_be_cold_is_back_from_a_folder_after_the_disk_was_lost() {
    run("lost-disk-folder");
}

#[test]
fn what_was_told_to_be_cold_is_back_from_a_bucket_after_the_disk_was_lost() {
    run("lost-disk-bucket");
}
