//! The store as it was: records, logs and their state as of an LSN or a time.
//!
//! How a log's past is looked up is `index/as_of.rs`. What is asked here is how far back it is known: in an open store what
//! the grace is over for, since merges may act on that at any moment; in a look at a store what they acted on. Invariant: a
//! moment before that is refused, also where all that it takes is still there.

use super::listing::{self, LogInfo};
use super::{ReadOnly, Store};
#[cfg(doc)]
use crate::error::ErrorKind;
use crate::error::Result;
use crate::format::manifest::{Manifest, Mark};
use crate::read::{Page, ReadLimit, read_as_of};
use crate::types::{AsOf, Position};

impl Store {
    /// Reads the log as it was, from `from` on: its records up to then that were not trimmed at that moment, also those
    /// that were trimmed, or whose log was deleted or created again, since. Blocks for the disk.
    ///
    /// Of [`AsOf::Time`], what was sealed at or before it counts; a time to come is the present. A log that was to expire is
    /// shown as long as it is kept: of a moment it is not known whether it had expired by then.
    ///
    /// # Errors
    /// As [`Self::read`], of the log as it was. [`ErrorKind::NotFound`] if it was not created yet, [`ErrorKind::Deleted`] if
    /// it was deleted at that moment; [`ErrorKind::Invalid`] for an LSN that is not durable yet; [`ErrorKind::Forgotten`] for
    /// a moment so far back that merges may have given up what it takes, with the first LSN that can be asked for.
    pub fn read_as_of(&self, log: &str, as_of: AsOf, from: impl Into<Position>, limit: ReadLimit) -> Result<Page> {
        self.inner.core.check_open()?;
        read_as_of(&self.inner.core.index, log, as_of, &|manifest| self.cutoff(manifest), from.into(), limit)
    }

    /// What there was of the log beside its records. The tag is left empty: tags lie in records, and go with them;
    /// [`LogInfo::changed`] may be too low for the same reason. Of a log that was deleted for longer than the grace nothing is
    /// known but that it was, and its next seq.
    ///
    /// # Errors
    /// As [`Self::read_as_of`]. A log that was deleted at that moment is found, and says so.
    pub fn info_as_of(&self, log: &str, as_of: AsOf) -> Result<LogInfo> {
        self.inner.core.check_open()?;
        listing::info_as_of(&self.inner.core.index, log, as_of, &|manifest| self.cutoff(manifest))
    }

    /// The logs that there were, as [`Self::list`] gives those that there are.
    ///
    /// # Errors
    /// As [`Self::list`] and [`Self::info_as_of`].
    pub fn list_as_of(&self, as_of: AsOf, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<LogInfo>> {
        self.inner.core.check_open()?;
        let info = |name: &str| self.info_as_of(name, as_of);
        listing::list(&self.inner.core.index, prefix, after, limit, &info)
    }

    /// What merges may leave out, by the manifest and by now.
    pub(super) fn cutoff(&self, manifest: &Manifest) -> Mark {
        self.inner.core.appender.grace.cutoff(manifest)
    }
}

impl ReadOnly {
    /// As [`Store::read_as_of`].
    ///
    /// # Errors
    /// As there.
    pub fn read_as_of(&self, log: &str, as_of: AsOf, from: u64, limit: ReadLimit) -> Result<Page> {
        read_as_of(&self.loaded.index, log, as_of, &acted_on, from.into(), limit)
    }

    /// As [`Store::info_as_of`].
    ///
    /// # Errors
    /// As there.
    pub fn info_as_of(&self, log: &str, as_of: AsOf) -> Result<LogInfo> {
        listing::info_as_of(&self.loaded.index, log, as_of, &acted_on)
    }

    /// As [`Store::list_as_of`].
    ///
    /// # Errors
    /// As there.
    pub fn list_as_of(&self, as_of: AsOf, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<LogInfo>> {
        listing::list(&self.loaded.index, prefix, after, limit, &|name| self.info_as_of(name, as_of))
    }
}

/// What the merges acted on whose segments are looked at.
fn acted_on(manifest: &Manifest) -> Mark {
    manifest.cutoff
}
