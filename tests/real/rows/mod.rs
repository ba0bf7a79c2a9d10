//! The rows of the table of faults that are shown on real file systems, one file each.

pub mod descriptors;
pub mod failing_disk;
pub mod full_disk;
pub mod kills;

use super::{Counts, Row};

/// All of them, in the order in which they are run.
pub const ROWS: &[Row] = &[
    Row {
        name: "kills",
        shows: "kill -9 with appends in flight, in recoveries and in creations",
        needs_root: false,
        run: kills::run,
    },
    Row {
        name: "descriptors",
        shows: "no further file can be opened, and later one can again",
        needs_root: false,
        run: descriptors::run,
    },
    Row {
        name: "failing-writes",
        shows: "a disk whose writes fail, on ext4 and XFS",
        needs_root: true,
        run: failing_disk::writes,
    },
    Row {
        name: "failing-flushes",
        shows: "a disk whose flushes fail and that loses what was not flushed, on ext4 and XFS",
        needs_root: true,
        run: failing_disk::flushes,
    },
    Row {
        name: "full-disk",
        shows: "a disk that fills up and has room again, and one too full for a store",
        needs_root: true,
        run: full_disk::run,
    },
];

/// What a violation says beside what happened: how far the row was, and what repeats it.
fn hint(row: &str, seed: u64, counts: &Counts) -> String {
    format!("row {row}, seed {seed}, after {counts}")
}
