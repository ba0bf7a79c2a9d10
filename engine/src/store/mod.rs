//! The store: the composition root, and what the user of the library holds.
//!
//! Everything below is put together in `open`; threads are started in `threads` and nowhere else. Without them the same
//! parts are driven step by step ([`Steps`]), which is what simulations do.

mod create;
mod listing;
mod load;
mod open;
mod read_only;
mod report;
mod steps;
mod subscription;
mod threads;

#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_full;

pub use listing::LogInfo;
pub use read_only::{ReadOnly, Summary};
pub use report::{RecoveryReport, Stats};
pub use steps::Steps;
pub use subscription::{ReadFuture, Subscription};

use crate::clock::{Clock, SystemClock};
use crate::commit::append::Appender;
use crate::commit::lane::Lane;
use crate::commit::{Ack, Batch};
use crate::config::{Config, WhenFull};
use crate::error::{Error, ErrorKind, Result};
use crate::index::Index;
use crate::io::{self, Io};
use crate::journal::Journal;
use crate::poison::Poison;
use crate::read::{Page, ReadLimit, read};
use crate::sync::{Arc, AtomicBool, Mutex, Ordering};
use crate::types::StoreId;
use std::any::Any;
use std::path::Path;
use threads::{FlushSignal, Threads};

/// Unflushed bytes above which a close flushes, so that the next open has little to read.
const CLOSE_FLUSH_BYTES: usize = 1 << 20;

/// An open store. Clones share it; the last one dropped closes it, [`Store::close`] closes it and reports.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    core: Arc<Core>,
    /// None once closed, and in a store that is driven step by step.
    threads: Mutex<Option<Threads>>,
}

/// What every part of an open store shares.
struct Core {
    index: Arc<Index>,
    journal: Arc<Journal>,
    lane: Arc<Lane>,
    poison: Arc<Poison>,
    appender: Appender,
    report: RecoveryReport,
    io: Arc<dyn Io>,
    flush_asked: Arc<AtomicBool>,
    flush_signal: Arc<FlushSignal>,
    stepped: bool,
    /// Held until the last part of the store is gone.
    _lock: Box<dyn Any + Send + Sync>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store").field("id", &self.id()).finish_non_exhaustive()
    }
}

impl Store {
    /// Creates a store in `dir`, which is missing or empty. It is opened with [`Self::open`] afterwards.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] if there is something in the directory; [`ErrorKind::Io`].
    pub fn create(dir: impl AsRef<Path>, config: &Config) -> Result<StoreId> {
        config.check()?;
        Self::create_on(io::choose(config.io)?, Arc::new(SystemClock::default()), dir.as_ref(), config)
    }

    /// [`Self::create`] on another disk and clock.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub fn create_on(io: Arc<dyn Io>, clock: Arc<dyn Clock>, dir: &Path, config: &Config) -> Result<StoreId> {
        config.check()?;
        create::create(io, &*clock, dir, config)
    }

    /// Opens the store in `dir`: recovers what the journal holds, makes it durable, and takes appends.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] if there is no store, or one that this version must not write; [`ErrorKind::Locked`] if
    /// another process has it open; [`ErrorKind::Damaged`] if something acknowledged cannot be read;
    /// [`ErrorKind::Io`].
    pub fn open(dir: impl AsRef<Path>, config: Config) -> Result<Self> {
        config.check()?;
        let io = io::choose(config.io)?;
        let opened = open::open(io, Arc::new(SystemClock::default()), dir.as_ref(), &config, false)?;
        let threads = Threads::start(&opened.core, opened.committer, opened.flusher)?;
        Ok(Self { inner: Arc::new(Inner { core: opened.core, threads: Mutex::new(Some(threads)) }) })
    }

    /// Opens the store without threads, on any disk and clock: what happens in the background happens in the calls of
    /// [`Steps`]. Appends never wait; they are turned away as [`ErrorKind::Overloaded`] instead.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_stepped(io: Arc<dyn Io>, clock: Arc<dyn Clock>, dir: &Path, config: Config) -> Result<(Self, Steps)> {
        config.check()?;
        let config = Config { when_full: WhenFull::Reject, ..config };
        let opened = open::open(io, clock, dir, &config, true)?;
        let store = Self { inner: Arc::new(Inner { core: Arc::clone(&opened.core), threads: Mutex::new(None) }) };
        Ok((store, Steps::new(opened)))
    }

    /// Appends a batch. It returns once the batch is staged: after the first touch of its logs, and after a wait for
    /// memory if that is full. The acknowledgement comes when it is durable.
    ///
    /// # Errors
    /// Nothing was staged: [`ErrorKind::Invalid`], [`ErrorKind::Overloaded`], [`ErrorKind::Poisoned`],
    /// [`ErrorKind::Damaged`], [`ErrorKind::ShutDown`]. What rests on the logs' state comes through the [`Ack`].
    pub fn append(&self, batch: Batch<'_>) -> Result<Ack> {
        self.inner.core.appender.append(&batch)
    }

    /// Reads the log from seq `from` on. Blocks for the disk.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], [`ErrorKind::Deleted`], [`ErrorKind::Trimmed`] below what is kept,
    /// [`ErrorKind::Invalid`] past the log's end, [`ErrorKind::Damaged`].
    pub fn read(&self, log: &str, from: u64, limit: ReadLimit) -> Result<Page> {
        read(&self.inner.core.index, log, from, limit)
    }

    /// [`Self::read`] as a future; the disk is waited for on a thread of the store's.
    pub fn read_async(&self, log: &str, from: u64, limit: ReadLimit) -> ReadFuture {
        let (index, log) = (Arc::clone(&self.inner.core.index), log.to_owned());
        ReadFuture::start(self.inner.threads.lock().as_ref(), move || read(&index, &log, from, limit))
    }

    /// Watches the log for new records.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`], [`ErrorKind::NotFound`], [`ErrorKind::Damaged`].
    pub fn subscribe(&self, log: &str) -> Result<Subscription> {
        self.info(log)?;
        Ok(Subscription::new(&self.inner.core, log))
    }

    /// What is durable of the log beside its records.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`], [`ErrorKind::NotFound`], [`ErrorKind::Damaged`]. A deleted log is found, and says so.
    pub fn info(&self, log: &str) -> Result<LogInfo> {
        listing::info(&self.inner.core.index, log)
    }

    /// The logs whose names begin with `prefix`, by name, those behind `after` alone if it is given, at most `limit`.
    /// Deleted logs are left out.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`], [`ErrorKind::Io`].
    pub fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<LogInfo>> {
        listing::list(&self.inner.core.index, prefix, after, limit)
    }

    /// Has everything that is durable now put into a segment, and waits for it. In a store that is driven step by
    /// step it only asks, and the next [`Steps::flush`] does it.
    ///
    /// # Errors
    /// Why the flush failed.
    pub fn flush(&self) -> Result<()> {
        let core = &self.inner.core;
        core.poison.check()?;
        if core.stepped {
            core.flush_asked.store(true, Ordering::SeqCst);
            return Ok(());
        }
        core.flush_signal.flush(core)
    }

    /// Closes the store: what is staged becomes durable, a close frame says that all of it is, the lock is released.
    /// Other clones fail from here on.
    ///
    /// # Errors
    /// Why the close is not clean. Everything acknowledged is durable nevertheless.
    pub fn close(self) -> Result<()> {
        self.inner.shut_down()
    }

    /// What the store did and holds.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats::of(&self.inner.core)
    }

    /// What the open found.
    #[must_use]
    pub fn recovery(&self) -> &RecoveryReport {
        &self.inner.core.report
    }

    /// The store's id.
    #[must_use]
    pub fn id(&self) -> StoreId {
        self.inner.core.index.identity.store
    }
}

impl Inner {
    fn shut_down(&self) -> Result<()> {
        let Some(threads) = self.threads.lock().take() else { return Ok(()) };
        self.core.lane.refuse(Error::new(ErrorKind::ShutDown, "the store is closed"));
        self.core.index.pool.close();
        threads.stop(&self.core)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Err(error) = self.shut_down() {
            tracing::warn!(%error, "the store did not close cleanly");
        }
    }
}
