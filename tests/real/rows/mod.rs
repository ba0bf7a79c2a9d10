//! The rows of the table of faults that a soak repeats, one file each; most are shown on real file systems.

pub mod descriptors;
pub mod failing_disk;
pub mod flips;
pub mod full_disk;
pub mod kills;
pub mod lost_disk;
pub mod power;

use super::{Counts, Row};

/// All of them, in the order in which they are run.
pub const ROWS: &[Row] = &[
    Row {
        name: "kills",
        shows: "kill -9 with appends in flight, in recoveries and in creations",
        unit: "kills",
        ci_count: 50,
        weight: 4,
        needs_root: false,
        at_least_once: &[kills::IN_FLIGHT, kills::IN_RECOVERY, kills::IN_FLUSH],
        run: kills::run,
    },
    Row {
        name: "descriptors",
        shows: "no further file can be opened, and later one can again",
        unit: "victims",
        ci_count: 6,
        weight: 1,
        needs_root: false,
        at_least_once: &[],
        run: descriptors::run,
    },
    Row {
        name: "lost-disk-folder",
        shows: "killed and its directory removed under load, restored from a folder: all that was cold is back",
        unit: "restores",
        ci_count: 5,
        weight: 2,
        needs_root: false,
        at_least_once: &[lost_disk::UNSHIPPED, lost_disk::COLD],
        run: lost_disk::folder,
    },
    Row {
        name: "lost-disk-bucket",
        shows: "the same, restored from a bucket of SeaweedFS",
        unit: "restores",
        ci_count: 5,
        weight: 2,
        needs_root: false,
        at_least_once: &[lost_disk::UNSHIPPED, lost_disk::COLD],
        run: lost_disk::bucket,
    },
    Row {
        name: "flips",
        shows: "no flipped bit is served, unnoticed, or hides a log or its newest state",
        unit: "bits",
        ci_count: 2_000,
        weight: 2,
        needs_root: false,
        at_least_once: &[flips::IN_INDEXES, flips::IN_LOOKUPS, flips::IN_STATES, flips::IN_FRAMES],
        run: flips::run,
    },
    Row {
        name: "failing-writes",
        shows: "a disk whose writes fail, on ext4 and XFS",
        unit: "victims",
        ci_count: 12,
        weight: 2,
        needs_root: true,
        at_least_once: &[failing_disk::STOPPED, failing_disk::READ],
        run: failing_disk::writes,
    },
    Row {
        name: "failing-flushes",
        shows: "a disk whose flushes fail and that loses what was not flushed, on ext4 and XFS",
        unit: "victims",
        ci_count: 12,
        weight: 2,
        needs_root: true,
        at_least_once: &[failing_disk::STOPPED, failing_disk::READ],
        run: failing_disk::flushes,
    },
    Row {
        name: "full-disk",
        shows: "a disk that fills up and has room again, and one too full for a store",
        unit: "disks",
        ci_count: 6,
        weight: 2,
        needs_root: true,
        at_least_once: &[full_disk::REFUSED],
        run: full_disk::run,
    },
    Row {
        name: "power",
        shows: "power lost on ext4 and XFS, also in creations and recoveries",
        unit: "states",
        ci_count: 512,
        weight: 6,
        needs_root: true,
        at_least_once: &[power::LOST, power::TORN, power::IN_CREATION, power::IN_RECOVERY],
        run: power::run,
    },
    Row {
        name: "power-mistakes",
        shows: "the states of power notice a victim that acknowledges too early, and one that makes nothing durable",
        unit: "victims",
        ci_count: 8,
        weight: 1,
        needs_root: true,
        at_least_once: &[],
        run: power::mistakes,
    },
];

/// What a violation says beside what happened: how far the row was, and what repeats it.
fn hint(row: &str, seed: u64, counts: &Counts) -> String {
    format!("row {row}, seed {seed}, after {counts}")
}
