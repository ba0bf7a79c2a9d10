//! Restoring a store from a cold store, into a directory that nobody else writes to meanwhile.

use super::{ReadOnly, absolute, lock, threads};
use crate::cold::ColdStore;
use crate::config::Config;
use crate::error::Result;
use crate::io::{self, Io};
#[cfg(doc)]
use crate::restore::CARRIED_FILE_NAME;
use crate::restore::{self, Found, Progress, RestoreMode, RestoreReport, Together, look};
use crate::sync::Arc;
use std::path::Path;

/// So many threads fetch at once: while some wait for the cold store, others write, and one hashes.
const THREADS: usize = 4;
/// So often what was damaged is looked for in what an owner that goes on put there meanwhile.
const PASSES_MAX: usize = 8;

/// Looks at the newest state, and gives what of it is to be carried over, if anything is.
pub type Carry<'a> = dyn FnMut(&ReadOnly) -> Result<Option<Vec<u8>>> + 'a;

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
    restore_by(&io::choose(config.io)?, cold, &absolute(dir.as_ref())?, config, mode, THREADS, progress, None)
}

/// As [`restore`], and has `carry` look at the newest state before the store is restored as it was at a moment of the past.
/// What it gives stands in the file [`CARRIED_FILE_NAME`] of the restored directory before that is a store, for its caller to
/// append at the first open, so that a rewind need not take everything back. The newest state is brought for it first, into
/// the same directory, and of that what belongs to the moment stays. Without a moment `carry` is not asked.
///
/// # Errors
/// As [`restore`]; those of the newest state; what `carry` says.
pub fn restore_carrying(
    cold: &dyn ColdStore, dir: impl AsRef<Path>, config: &Config, mode: RestoreMode, progress: &mut Progress<'_>,
    carry: &mut Carry<'_>,
) -> Result<RestoreReport> {
    let (io, dir) = (io::choose(config.io)?, absolute(dir.as_ref())?);
    restore_by(&io, cold, &dir, config, mode, THREADS, progress, Some(carry))
}

/// [`restore`] on another disk, by the calling thread alone.
///
/// # Errors
/// As there.
pub fn restore_on(
    io: &Arc<dyn Io>, cold: &dyn ColdStore, dir: &Path, config: &Config, mode: RestoreMode, progress: &mut Progress<'_>,
) -> Result<RestoreReport> {
    restore_by(io, cold, dir, config, mode, 1, progress, None)
}

/// As [`restore_on`], by so many threads.
#[expect(clippy::too_many_arguments, reason = "each is what one of the three ways to here chooses")]
pub(super) fn restore_by(
    io: &Arc<dyn Io>, cold: &dyn ColdStore, dir: &Path, config: &Config, mode: RestoreMode, threads: usize,
    progress: &mut Progress<'_>, carry: Option<&mut Carry<'_>>,
) -> Result<RestoreReport> {
    config.check()?;
    let together = |work: &(dyn Fn() + Sync)| threads::together(threads, work);
    let found = look(cold, mode)?;
    io.create_dir(dir)?;
    let _lock = lock::take(&**io, dir)?;
    let mut passes = |found| passes(&**io, cold, dir, config, found, &together, progress);
    let (mut carried, mut before) = (None, u64::MAX);
    if let Some(carry) = carry.filter(|_| mode.as_of().is_some()) {
        let (newest, report) = passes(look(cold, RestoreMode::Heal)?)?;
        before = report.segment_bytes.1;
        // What is carried over would lack what cannot be read, and nobody would be told.
        if let Some(lost) = report.lost.first() {
            let what =
                format!("the newest state, of which something is to be carried over, cannot be read whole: {lost:?}");
            return Err(crate::Error::new(crate::ErrorKind::Damaged, what));
        }
        carried = carry(&ReadOnly::of_restored(io, dir, newest.home.identity)?)?;
    }
    let (found, mut report) = passes(found)?;
    // What was brought a moment ago was not there before.
    report.segment_bytes.1 = report.segment_bytes.1.min(before);
    restore::complete(&**io, dir, &found, carried.as_deref())?;
    Ok(report)
}

/// Brings what was found, or what there is in its place by now, if not all of that can be read.
fn passes(
    io: &dyn Io, cold: &dyn ColdStore, dir: &Path, config: &Config, mut found: Found, together: &Together<'_>,
    progress: &mut Progress<'_>,
) -> Result<(Found, RestoreReport)> {
    for pass in 1.. {
        let report = restore::bring_all(io, cold, &found, dir, config.journal_file_bytes, together, progress)?;
        if report.lost.is_empty() || pass == PASSES_MAX {
            return Ok((found, report));
        }
        // An owner that goes on meanwhile puts what the tail lacks into segments of a newer version.
        let now = look(cold, found.mode)?;
        if now.is_as(&found) {
            return Ok((found, report));
        }
        found = now;
    }
    unreachable!("the last pass returns")
}
