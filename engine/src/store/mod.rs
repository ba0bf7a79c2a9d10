//! The store: the composition root, and what the user of the library holds.
//!
//! Everything below is put together in `open`; threads are started in `threads` and nowhere else. Without them the same
//! parts are driven step by step ([`Steps`]), which is what simulations do.

mod as_of;
mod bell;
mod cold;
mod create;
mod flush_signal;
mod listing;
mod load;
mod lock;
mod open;
mod read_only;
mod report;
mod restore;
mod steps;
mod subscription;
mod threads;

#[cfg(all(test, everlog_loom))]
mod loom_tests;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
#[cfg(all(test, not(everlog_loom)))]
mod tests_ahead;
#[cfg(test)]
mod tests_as_of;
#[cfg(test)]
mod tests_as_of_cases;
#[cfg(all(test, not(everlog_loom)))]
mod tests_bring;
#[cfg(all(test, not(everlog_loom)))]
mod tests_cold;
#[cfg(test)]
mod tests_cursor;
#[cfg(test)]
mod tests_end;
#[cfg(test)]
mod tests_expire;
#[cfg(test)]
mod tests_full;
#[cfg(all(test, not(everlog_loom)))]
mod tests_lead;
#[cfg(test)]
mod tests_life;
#[cfg(test)]
mod tests_limits;
#[cfg(test)]
mod tests_merge;
#[cfg(test)]
mod tests_open;
#[cfg(test)]
mod tests_reclaim;
#[cfg(all(test, not(everlog_loom)))]
mod tests_rest;
#[cfg(all(test, not(everlog_loom)))]
mod tests_rewind;
#[cfg(all(test, not(everlog_loom)))]
mod tests_rewound;
#[cfg(all(test, not(everlog_loom)))]
mod tests_scrub;
#[cfg(all(test, not(everlog_loom)))]
mod tests_ship;
#[cfg(test)]
mod tests_stop;

pub use cold::{ColdAck, ColdConfig};
pub use listing::LogInfo;
pub use read_only::{ReadOnly, Summary};
pub use report::{RecoveryReport, Stats};
pub use restore::{Carry, restore, restore_carrying, restore_on};
pub use steps::Steps;
pub use subscription::{ReadFuture, Subscription};

use crate::clock::{Clock, SystemClock};
use crate::commit::append::Appender;
use crate::commit::lane::Lane;
use crate::commit::{Ack, Batch, Receipt};
use crate::config::{Config, WhenFull};
use crate::error::{Error, ErrorKind, Result};
use crate::format::manifest::TimelineStart;
use crate::index::{Index, history};
use crate::io::{self, Io};
use crate::journal::Journal;
use crate::poison::{Failed, Poison};
use crate::read::{Page, ReadLimit, read, try_read};
use crate::scrub::ScrubReport;
use crate::sync::{Arc, AtomicBool, AtomicU64, Mutex, Ordering};
use crate::types::{Cursor, Lsn, Position, StoreId, TimeUs, Timeline};
use bell::Bell;
use flush_signal::FlushSignal;
use std::path::{Path, PathBuf};
use threads::Threads;

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
    /// The timelines that led to this open's, oldest first, and that one.
    timelines: Vec<TimelineStart>,
    io: Arc<dyn Io>,
    flush_asked: Arc<AtomicBool>,
    flush_signal: Arc<FlushSignal>,
    /// Rung when there may be something to merge.
    merge_bell: Bell,
    /// Why the last merge failed, until one succeeds.
    merge_error: Mutex<Option<Error>>,
    /// Ends the sleep of the scrub.
    scrub_bell: Bell,
    scrub: Arc<Mutex<ScrubReport>>,
    cold: cold::Cold,
    clock: Arc<dyn Clock>,
    stepped: bool,
    end: End,
}

/// What ends with the store, though clones and subscriptions may live on.
struct End {
    /// Set once, by a close; pairs with itself: what follows a close that returned sees it.
    closed: AtomicBool,
    /// None once the store is closed.
    lock: Mutex<Option<lock::Held>>,
    /// The key of the next wait that it ends; keys only differ from one another, so Relaxed.
    next_wait: AtomicU64,
}

impl End {
    fn new(lock: lock::Held) -> Self {
        Self { closed: AtomicBool::new(false), lock: Mutex::new(Some(lock)), next_wait: AtomicU64::new(1) }
    }
}

impl Core {
    /// Fails once the store is closed: its files may be another process's by then.
    fn check_open(&self) -> Result<()> {
        if self.end.closed.load(Ordering::Acquire) { Err(subscription::closed()) } else { Ok(()) }
    }

    /// An error of a read from a cursor, which says whether the store was taken back on purpose since.
    fn explained(&self, error: Error, from: Position) -> Error {
        // The start of a log belongs to every history.
        let Position::Cursor(Cursor { seq: 1.., timeline }) = from else { return error };
        let is_of_history = matches!(error.kind(), ErrorKind::Rewound | ErrorKind::NotFound | ErrorKind::Deleted);
        if is_of_history && history::was_taken_back(&self.timelines, timeline) { error.taken_back() } else { error }
    }

    /// The time by the steady clock.
    fn now(&self) -> TimeUs {
        self.appender.grace.now()
    }

    /// Refuses every call from here on, and wakes all who wait for a log.
    fn begin_close(&self) {
        self.end.closed.store(true, Ordering::Release);
        self.lane.refuse(subscription::closed());
        self.index.pool.close();
        crate::waiter::wake_all(self.index.take_watchers());
    }

    /// Nothing is shipped any more.
    fn end_shipping(&self) {
        self.cold.standing.end(&subscription::closed());
    }

    /// Lets another process have the directory: there is no write any more. Clones do not keep it locked.
    fn end_close(&self) {
        drop(self.end.lock.lock().take());
    }
}

/// The path as it is from everywhere: a process that changes its directory must not lose its store with it.
fn absolute(dir: &Path) -> Result<PathBuf> {
    std::path::absolute(dir).map_err(|e| Error::io("finding", dir, e))
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
    /// [`ErrorKind::Refused`] if there is something in the directory; [`ErrorKind::Locked`] if another process creates
    /// or has a store there; [`ErrorKind::Io`].
    pub fn create(dir: impl AsRef<Path>, config: &Config) -> Result<StoreId> {
        let dir = absolute(dir.as_ref())?;
        Self::create_on(io::choose(config.io)?, Arc::new(SystemClock::default()), &dir, config)
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
        let dir = absolute(dir.as_ref())?;
        Self::open_on(io::choose(config.io)?, Arc::new(SystemClock::default()), &dir, config)
    }

    /// [`Self::open`] on another disk and clock.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_on(io: Arc<dyn Io>, clock: Arc<dyn Clock>, dir: &Path, config: Config) -> Result<Self> {
        Self::open_shipping_on(io, clock, dir, config, &ColdConfig::default())
    }

    /// [`Self::open`], and ships what is durable to cold stores from then on. What a cold store cannot take at a moment is
    /// tried again and stops nothing.
    ///
    /// # Errors
    /// As [`Self::open`]; [`ErrorKind::Refused`] and [`ErrorKind::Fenced`] also if a cold store holds another store, or the
    /// store has another owner by now; [`ErrorKind::Cold`] if a store that was restored cannot reach the first one.
    pub fn open_shipping(dir: impl AsRef<Path>, config: Config, cold: &ColdConfig) -> Result<Self> {
        let dir = absolute(dir.as_ref())?;
        Self::open_shipping_on(io::choose(config.io)?, Arc::new(SystemClock::default()), &dir, config, cold)
    }

    /// [`Self::open_shipping`] on another disk and clock.
    ///
    /// # Errors
    /// As there.
    pub fn open_shipping_on(
        io: Arc<dyn Io>, clock: Arc<dyn Clock>, dir: &Path, config: Config, cold: &ColdConfig,
    ) -> Result<Self> {
        config.check()?;
        let opened = open::open_to(io, clock, dir, &config, cold, false)?;
        let core = Arc::clone(&opened.core);
        let threads = Threads::start(opened)?;
        Ok(Self { inner: Arc::new(Inner { core, threads: Mutex::new(Some(threads)) }) })
    }

    /// Opens the store without threads, on any disk and clock: what happens in the background happens in the calls of
    /// [`Steps`]. Appends never wait; they are turned away as [`ErrorKind::Overloaded`] instead.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_stepped(io: Arc<dyn Io>, clock: Arc<dyn Clock>, dir: &Path, config: Config) -> Result<(Self, Steps)> {
        Self::open_stepped_shipping(io, clock, dir, config, &ColdConfig::default())
    }

    /// [`Self::open_stepped`] of a store that is shipped, in the calls of [`Steps::ship`].
    ///
    /// # Errors
    /// As [`Self::open_shipping`].
    pub fn open_stepped_shipping(
        io: Arc<dyn Io>, clock: Arc<dyn Clock>, dir: &Path, config: Config, cold: &ColdConfig,
    ) -> Result<(Self, Steps)> {
        config.check()?;
        let config = Config { when_full: WhenFull::Reject, ..config };
        let opened = open::open_to(io, clock, dir, &config, cold, true)?;
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

    /// [`Self::append`], and waits until the batch is durable. Faster than waiting for the [`Ack`], since the calling thread
    /// may write what it and others staged, where a thread of the store would have to be woken for that.
    ///
    /// # Errors
    /// As [`Self::append`], and as [`Ack::wait`]; [`ErrorKind::Invalid`] in a store that is driven step by step.
    pub fn append_and_wait(&self, batch: Batch<'_>) -> Result<Receipt> {
        if self.inner.core.stepped {
            let what = "nobody commits while this call waits: the store is driven step by step";
            return Err(Error::new(ErrorKind::Invalid, what).remedy("use append, and Steps::commit"));
        }
        self.inner.core.appender.append_and_lead(&batch)?.wait()
    }

    /// [`Self::append`] without waiting for the disk, for memory or for another caller, as on a thread that runs many
    /// tasks. Most appends to logs that were touched lately need no wait.
    ///
    /// # Errors
    /// As [`Self::append`], and [`ErrorKind::WouldBlock`] where it would have to wait.
    pub fn try_append(&self, batch: &Batch<'_>) -> Result<Ack> {
        self.inner.core.appender.try_append(batch)
    }

    /// Reads the log from `from` on: a seq, a [`crate::types::Cursor`], or another [`Position`]. Blocks for the disk.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`], [`ErrorKind::Deleted`], [`ErrorKind::Trimmed`] below what is kept,
    /// [`ErrorKind::Rewound`] for a cursor that the log's history does not lead through, [`ErrorKind::Invalid`] for a seq
    /// past the log's end, [`ErrorKind::Damaged`].
    pub fn read(&self, log: &str, from: impl Into<Position>, limit: ReadLimit) -> Result<Page> {
        self.inner.core.check_open()?;
        let (core, from) = (&self.inner.core, from.into());
        read(&core.index, log, from, limit, core.now()).map_err(|error| core.explained(error, from))
    }

    /// [`Self::read`] of records that lie in memory, as those appended lately do; waits for nothing.
    ///
    /// # Errors
    /// As [`Self::read`], and [`ErrorKind::WouldBlock`] where it would have to wait.
    pub fn try_read(&self, log: &str, from: impl Into<Position>, limit: ReadLimit) -> Result<Page> {
        self.inner.core.check_open()?;
        let (core, from) = (&self.inner.core, from.into());
        try_read(&core.index, log, from, limit, core.now()).map_err(|error| core.explained(error, from))
    }

    /// [`Self::read`] as a future; the disk is waited for on a thread of the store's.
    pub fn read_async(&self, log: &str, from: impl Into<Position>, limit: ReadLimit) -> ReadFuture {
        let (core, log, from) = (Arc::clone(&self.inner.core), log.to_owned(), from.into());
        ReadFuture::start(self.inner.threads.lock().as_ref(), move || {
            core.check_open()?;
            read(&core.index, &log, from, limit, core.now()).map_err(|error| core.explained(error, from))
        })
    }

    /// Watches the log for new records.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`], [`ErrorKind::NotFound`], [`ErrorKind::Damaged`].
    pub fn subscribe(&self, log: &str) -> Result<Subscription> {
        // Taken first: what is in use keeps its state in memory, so that no look of the subscription waits for the disk.
        self.inner.core.check_open()?;
        crate::names::check(log)?;
        let subscription = Subscription::new(&self.inner.core, log);
        subscription.check_exists(false)?;
        Ok(subscription)
    }

    /// [`Self::subscribe`] to a log whose state is in memory; waits for nothing.
    ///
    /// # Errors
    /// As [`Self::subscribe`], and [`ErrorKind::WouldBlock`] where it would have to wait.
    pub fn try_subscribe(&self, log: &str) -> Result<Subscription> {
        self.inner.core.check_open()?;
        crate::names::check(log)?;
        let subscription = Subscription::new(&self.inner.core, log);
        subscription.check_exists(true)?;
        Ok(subscription)
    }

    /// What is durable of the log beside its records.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`], [`ErrorKind::NotFound`], [`ErrorKind::Damaged`]. A deleted log is found, and says so.
    pub fn info(&self, log: &str) -> Result<LogInfo> {
        self.inner.core.check_open()?;
        listing::info(&self.inner.core.index, log, self.inner.core.now())
    }

    /// [`Self::info`] of a log whose state is in memory; waits for nothing.
    ///
    /// # Errors
    /// As [`Self::info`], and [`ErrorKind::WouldBlock`] where it would have to wait.
    pub fn try_info(&self, log: &str) -> Result<LogInfo> {
        self.inner.core.check_open()?;
        listing::try_info(&self.inner.core.index, log, self.inner.core.now())
    }

    /// The bytes that the log's records and control operations take, as they are stored; a fork's are those of its own. Blocks
    /// for the disk, a few index blocks for each segment that has something of the log.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`], [`ErrorKind::NotFound`], [`ErrorKind::Damaged`].
    pub fn stored_bytes(&self, log: &str) -> Result<u64> {
        self.inner.core.check_open()?;
        listing::stored_bytes(&self.inner.core.index, log)
    }

    /// The logs whose names begin with `prefix`, by name, those behind `after` alone if it is given, at most `limit`.
    /// Logs that are deleted or have expired are left out.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`], [`ErrorKind::Io`].
    pub fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<LogInfo>> {
        self.inner.core.check_open()?;
        let (index, now) = (&self.inner.core.index, self.inner.core.now());
        listing::list(index, prefix, after, limit, &|name| listing::info(index, name, now))
    }

    /// As [`Self::list`]; logs that were deleted or have expired are among them, for as long as anything is kept of them.
    ///
    /// # Errors
    /// As [`Self::list`].
    pub fn list_with_deleted(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<LogInfo>> {
        self.inner.core.check_open()?;
        let (index, now) = (&self.inner.core.index, self.inner.core.now());
        listing::list_which(index, prefix, after, limit, &|name| listing::info(index, name, now), &|_| true)
    }

    /// Whether a listing with what was deleted, made before this is asked, has every log that changed after `lsn`, which
    /// was durable when it was told on `timeline`: those whose [`LogInfo::last`] is past it.
    ///
    /// # Errors
    /// [`ErrorKind::Rewound`] if what was durable then has been cut off since, or is not known; [`ErrorKind::Forgotten`] if
    /// deletions since may not be known any more, with the first LSN that can be asked for.
    pub fn check_since(&self, timeline: Timeline, lsn: Lsn) -> Result<()> {
        let core = &self.inner.core;
        core.check_open()?;
        if !history::leads_through(&core.timelines, timeline, lsn) || lsn > core.index.watermark() {
            let what = format!("the store's history does not lead through LSN {lsn} of timeline {timeline}");
            return Err(Error::new(ErrorKind::Rewound, what).remedy("list all logs"));
        }
        let cutoff = self.cutoff(&core.index.set().manifest).lsn;
        if lsn < cutoff {
            let what = format!("deletions since LSN {lsn} may not be known any more");
            return Err(Error::new(ErrorKind::Forgotten, what).expecting(cutoff.0).remedy("list all logs"));
        }
        Ok(())
    }

    /// Has everything that is durable now put into a segment, and waits for it. In a store that is driven step by
    /// step it only asks, and the next [`Steps::flush`] does it.
    ///
    /// # Errors
    /// Why the flush failed.
    pub fn flush(&self) -> Result<()> {
        let core = &self.inner.core;
        core.check_open()?;
        core.poison.check()?;
        if core.stepped {
            core.flush_asked.store(true, Ordering::SeqCst);
            return Ok(());
        }
        core.flush_signal.flush(core)
    }

    /// Closes the store: what is staged becomes durable, a close frame says that all of it is, the lock is released.
    /// Other clones and subscriptions fail from here on with [`ErrorKind::ShutDown`]; who waits is woken.
    ///
    /// A thread of the store's own that gets here, in a waker, cannot wait for itself: the close goes on on another one.
    ///
    /// # Errors
    /// Why the close is not clean. Everything acknowledged is durable nevertheless. [`ErrorKind::Unknown`] where the
    /// close goes on elsewhere.
    pub fn close(self) -> Result<()> {
        self.inner.shut_down()
    }

    /// Moves the clock that grace and expiry go by forward to the wall clock, for whose rightness the caller vouches. It
    /// stands still while a store is closed, so that what is to end ends late; a wall clock that is ahead of the truth would
    /// end it early. Gives the clock's time before and after. It is on disk with the next frame, at the latest with a clean
    /// close.
    ///
    /// # Errors
    /// [`ErrorKind::ShutDown`], [`ErrorKind::Poisoned`].
    pub fn catch_up_with_the_wall_clock(&self) -> Result<(TimeUs, TimeUs)> {
        self.inner.core.check_open()?;
        self.inner.core.poison.check()?;
        Ok(self.inner.core.appender.grace.catch_up())
    }

    /// Why the store stopped acknowledging ([`ErrorKind::Poisoned`], with the cause), if it did. Reads go on; nothing but
    /// opening it again ends that.
    #[must_use]
    pub fn failure(&self) -> Option<Error> {
        self.inner.core.poison.check().err()
    }

    /// [`Self::failure`] as a future, which comes back once there is one.
    pub fn failed(&self) -> Failed {
        Failed::of(&self.inner.core.poison)
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
        self.core.begin_close();
        if threads.is_own() {
            return threads.stop_elsewhere(&self.core);
        }
        let result = threads.stop(&self.core);
        self.core.end_shipping();
        self.core.end_close();
        result
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Err(error) = self.shut_down() {
            tracing::warn!(%error, "the store did not close cleanly");
        }
    }
}
