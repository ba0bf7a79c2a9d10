//! Restoring a store from a cold store, into a directory that nobody else writes to meanwhile.

use super::{absolute, lock, threads};
use crate::cold::ColdStore;
use crate::config::Config;
use crate::error::Result;
use crate::io::{self, Io};
use crate::restore::{Progress, RestoreMode, RestoreReport, look};
use crate::sync::Arc;
use std::path::Path;

/// So many threads fetch at once: while some wait for the cold store, others write, and one hashes.
const THREADS: usize = 4;
/// So often what was damaged is looked for in what an owner that goes on put there meanwhile.
const PASSES_MAX: usize = 8;

/// Restores the store that `cold` holds, as `mode` says, into `dir`, which is missing, empty, or holds a restore that
/// did not end or was never opened; `progress` is told bytes of segments that are there, and of how many. The store's
/// first open, with the same cold store, takes the ownership over.
///
/// # Errors
/// [`crate::ErrorKind::Refused`] if there is something else in `dir`, or no store in `cold`, or the moment
/// cannot be had from it, with the next ones that can; [`crate::ErrorKind::Locked`]; [`crate::ErrorKind::Cold`],
/// [`crate::ErrorKind::Io`]: it can be begun again; [`crate::ErrorKind::Damaged`] if nothing can be restored. What is
/// damaged in part stands in the report.
pub fn restore(
    cold: &dyn ColdStore, dir: impl AsRef<Path>, config: &Config, mode: RestoreMode, progress: &mut Progress<'_>,
) -> Result<RestoreReport> {
    restore_by(&io::choose(config.io)?, cold, &absolute(dir.as_ref())?, config, mode, THREADS, progress)
}

/// [`restore`] on another disk, by the calling thread alone.
///
/// # Errors
/// As there.
pub fn restore_on(
    io: &Arc<dyn Io>, cold: &dyn ColdStore, dir: &Path, config: &Config, mode: RestoreMode, progress: &mut Progress<'_>,
) -> Result<RestoreReport> {
    restore_by(io, cold, dir, config, mode, 1, progress)
}

/// As [`restore_on`], by so many threads.
pub(super) fn restore_by(
    io: &Arc<dyn Io>, cold: &dyn ColdStore, dir: &Path, config: &Config, mode: RestoreMode, threads: usize,
    progress: &mut Progress<'_>,
) -> Result<RestoreReport> {
    config.check()?;
    let together = |work: &(dyn Fn() + Sync)| threads::together(threads, work);
    let mut found = look(cold, mode)?;
    io.create_dir(dir)?;
    let _lock = lock::take(&**io, dir)?;
    for pass in 1.. {
        let report = crate::restore::restore(&**io, cold, &found, dir, config.journal_file_bytes, &together, progress)?;
        if report.lost.is_empty() || pass == PASSES_MAX {
            return Ok(report);
        }
        // An owner that goes on meanwhile puts what the tail lacks into segments of a newer version.
        let now = look(cold, mode)?;
        if now.is_as(&found) {
            return Ok(report);
        }
        found = now;
    }
    unreachable!("the last pass returns")
}
