//! The engine as the connections' tasks see it: every call a future, none of which waits for a disk on the thread that
//! polls it.
//!
//! Each call is tried at once, which most need; what would have to wait runs on a thread that may. What a stream was
//! created with is kept in a bounded cache, so that an append looks nothing up. Invariant: an append is bound to the
//! very log whose configuration it was checked against (`expect_created`), so that a stale entry of the cache can make
//! an append come back, and never store it wrongly.

use crate::protocol::content::StreamConfig;
use crate::protocol::request::{Durability, Producer};
use bytes::Bytes;
use everlog::cold::standing::ColdLevel;
use everlog::types::{AsOf, Cursor, Lsn, Position, StoreId, Timeline};
use everlog::{
    Ack, Batch, Error, ErrorKind, LogInfo, LogReceipt, Page, ReadLimit, RecoveryReport, Result, Stats, Store,
    Subscription,
};
use quick_cache::sync::Cache;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Streams whose configuration is kept in memory; an entry takes a few hundred bytes, its name of up to 1 KiB included.
const KNOWN_MAX: usize = 65_536;
/// How long an append waits for memory before it is turned away.
const OVERLOAD_PATIENCE: Duration = Duration::from_secs(5);
/// What one answer holds at most, unless a single record is larger.
const PAGE: ReadLimit = ReadLimit { records: 16_384, bytes: 1 << 20 };

/// The streams of a store.
#[derive(Debug)]
pub struct Streams {
    store: Store,
    append_patience: Duration,
    known: Cache<String, Known>,
}

/// A live stream's configuration, and which log of that name it is.
#[derive(Clone, Debug)]
pub struct Known {
    /// The LSN of the log's creation.
    pub created: Lsn,
    /// What it was created with.
    pub config: Arc<StreamConfig>,
}

/// What is to be put into one log, all or nothing.
#[derive(Debug, Default)]
pub struct Request {
    /// The log.
    pub name: String,
    /// The metadata to create the log with.
    pub create: Option<Vec<u8>>,
    /// The log that is meant, of those that had this name.
    pub created: Option<Lsn>,
    /// The end that it must have.
    pub end: Option<Cursor>,
    /// The content.
    pub body: Bytes,
    /// Its parts that become records.
    pub records: Vec<Range<usize>>,
    /// Its number.
    pub producer: Option<Producer>,
    /// The writer's opaque number.
    pub tag: Option<String>,
    /// Whether the log is closed behind it.
    pub close: bool,
    /// Whether the log is deleted.
    pub delete: bool,
    /// How safe it is to be before it is answered.
    pub durability: Durability,
}

impl Request {
    fn batch(&self) -> Batch<'_> {
        let mut batch = Batch::new();
        let log = batch.log(&self.name);
        if let Some(metadata) = &self.create {
            log.create_with(metadata);
        }
        if let Some(created) = self.created {
            log.expect_created(created);
        }
        if let Some(end) = self.end {
            log.expect_at(end);
        }
        for range in &self.records {
            log.record(&self.body[range.clone()]);
        }
        if let Some(producer) = &self.producer {
            log.producer(producer.id.as_bytes(), producer.epoch, producer.number);
        }
        if let Some(tag) = &self.tag {
            log.tag(tag.as_bytes());
        }
        if self.close {
            log.close();
        }
        if self.delete {
            log.delete();
        }
        batch
    }
}

/// Runs `work`, which may wait, on a thread that may.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(e) => Err(Error::new(ErrorKind::ShutDown, format!("the server is stopping: {e}"))),
    }
}

/// Whether an append is not carried out for what is stored already.
fn contradicts(kind: ErrorKind) -> bool {
    use ErrorKind::{Closed, Condition, Exists, ProducerConflict, ProducerFenced, ProducerGap};
    matches!(kind, Exists | Closed | Condition | ProducerGap | ProducerConflict | ProducerFenced)
}

/// Whether the engine would have had to wait.
fn must_wait<T>(result: &Result<T>) -> bool {
    result.as_ref().is_err_and(|e| e.kind() == ErrorKind::WouldBlock)
}

impl Streams {
    /// The streams of `store`, whose appends wait so long to be durable.
    #[must_use]
    pub fn new(store: Store, append_patience: Duration) -> Self {
        Self { store, append_patience, known: Cache::new(KNOWN_MAX) }
    }

    /// The store's id.
    #[must_use]
    pub fn store_id(&self) -> StoreId {
        self.store.id()
    }

    /// The timeline of this open.
    #[must_use]
    pub fn timeline(&self) -> Timeline {
        self.store.recovery().timeline
    }

    /// What the open found.
    #[must_use]
    pub fn recovery(&self) -> &RecoveryReport {
        self.store.recovery()
    }

    /// What the store did and holds.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.store.stats()
    }

    /// Why the store stopped acknowledging, if it did.
    #[must_use]
    pub fn failure(&self) -> Option<Error> {
        self.store.failure()
    }

    /// What is known of each cold store.
    #[must_use]
    pub fn cold_stores(&self) -> Vec<ColdLevel> {
        self.store.cold_stores()
    }

    /// What is durable of a log beside its records; one that was deleted is not found.
    ///
    /// # Errors
    /// Those of [`Store::info`]; [`ErrorKind::Deleted`].
    pub async fn info(&self, name: &str) -> Result<LogInfo> {
        let mut info = self.store.try_info(name);
        if must_wait(&info) {
            let (store, name) = (self.store.clone(), name.to_owned());
            info = blocking(move || store.info(&name)).await;
        }
        match info {
            Ok(info) if info.deleted => Err(Error::new(ErrorKind::Deleted, "the stream was deleted").log(name)),
            other => other,
        }
    }

    /// What a stream was created with.
    ///
    /// # Errors
    /// As [`Self::info`].
    pub async fn known(&self, name: &str) -> Result<Known> {
        if let Some(known) = self.known.get(name) {
            return Ok(known);
        }
        let known = Self::know(&self.info(name).await?);
        self.known.insert(name.to_owned(), known.clone());
        Ok(known)
    }

    /// The same, of what was looked up just now.
    #[must_use]
    pub fn know(info: &LogInfo) -> Known {
        Known { created: info.created, config: Arc::new(StreamConfig::of_metadata(&info.metadata)) }
    }

    /// Has the stream looked up anew.
    pub fn forget(&self, name: &str) {
        self.known.remove(name);
    }

    /// What the log that was created at `created` was created with, if that is the one of this name by now.
    ///
    /// # Errors
    /// As [`Self::info`].
    pub async fn known_as(&self, name: &str, created: Lsn) -> Result<Option<Known>> {
        let known = self.known(name).await?;
        if known.created == created {
            return Ok(Some(known));
        }
        self.forget(name);
        Ok(Some(self.known(name).await?).filter(|known| known.created == created))
    }

    /// Carries `request` out, and comes back once it is as safe as was asked. So is what speaks against it, if something
    /// does. Where memory is full it waits a while, as a task.
    ///
    /// # Errors
    /// Those of [`Store::append`] and of its acknowledgement; those of [`Self::cold`].
    pub async fn append(&self, request: Request) -> Result<LogReceipt> {
        if request.durability == Durability::Local {
            return self.append_here(request).await;
        }
        if !self.store.has_cold() {
            return Err(Error::new(ErrorKind::Invalid, "the server has no cold store that counts")
                .remedy("ask for local, or give the server an independent cold store"));
        }
        let appended = self.append_here(request).await;
        match &appended {
            Ok(receipt) => self.cold(receipt.lsn).await?,
            Err(e) if contradicts(e.kind()) => self.cold(self.store.stats().watermark).await?,
            Err(_) => {}
        }
        appended
    }

    /// Comes back once everything up to `lsn` is cold.
    ///
    /// # Errors
    /// [`ErrorKind::Unknown`] if it takes too long; [`ErrorKind::Fenced`], [`ErrorKind::ShutDown`].
    pub async fn cold(&self, lsn: Lsn) -> Result<()> {
        let in_time = tokio::time::timeout(self.append_patience, self.store.cold(lsn)).await;
        in_time.map_err(|_| {
            let waited = self.append_patience.as_millis();
            let what = format!("it is stored here and was not verified in a cold store after {waited} ms");
            Error::new(ErrorKind::Unknown, what)
                .remedy("ask again: an append with the same producer number, a creation as it was; or ask for local")
        })?
    }

    /// Up to where the stream that was created at `created` is verified in a cold store; None if no cold store counts. Never
    /// too far: where it cannot be told, nothing is.
    pub async fn cold_end(&self, name: &str, created: Lsn) -> Option<Cursor> {
        if !self.store.has_cold() {
            return None;
        }
        // In this order: what comes meanwhile is past the level, and what is told here is durable by the last question.
        let level = self.store.cold_level();
        let info = self.info(name).await.ok().filter(|info| info.created == created)?;
        if self.store.durable_level() <= level {
            return Some(info.end());
        }
        let (store, log) = (self.store.clone(), name.to_owned());
        match blocking(move || store.info_as_of(&log, AsOf::Lsn(level))).await {
            Ok(was) if was.created == created => Some(was.end()),
            // It was created since, or what it was then is not known any more.
            Ok(_) => Some(Cursor::default()),
            Err(e) => {
                if !matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Deleted | ErrorKind::Forgotten) {
                    tracing::warn!(error = %e, name, "up to where a stream is in a cold store cannot be told");
                }
                Some(Cursor::default())
            }
        }
    }

    async fn append_here(&self, request: Request) -> Result<LogReceipt> {
        let request = Arc::new(request);
        let until = Instant::now() + OVERLOAD_PATIENCE;
        loop {
            match self.stage(&request).await {
                Ok(ack) => {
                    let answer = tokio::time::timeout(self.append_patience, ack).await;
                    return Ok(answer.map_err(|_| self.late())??.logs[0]);
                }
                Err(e) if e.kind() == ErrorKind::Overloaded && Instant::now() < until => {
                    tokio::time::sleep(e.retry_after().unwrap_or_default().max(Duration::from_millis(5))).await;
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// What is said of an append that is staged and has not become durable in time, as on a disk that is full or stands
    /// still. It may yet.
    fn late(&self) -> Error {
        let why = self.store.stats().flush_error.map_or_else(String::new, |error| format!(": {error}"));
        let waited = self.append_patience.as_millis();
        Error::new(
            ErrorKind::Unknown,
            format!("the append was not durable after {waited} ms and may yet become so{why}"),
        )
        .remedy("free space or mend the disk, and send it again with the same producer number")
    }

    async fn stage(&self, request: &Arc<Request>) -> Result<Ack> {
        let ack = self.store.try_append(&request.batch());
        if !must_wait(&ack) {
            return ack;
        }
        let (store, request) = (self.store.clone(), Arc::clone(request));
        blocking(move || store.append(request.batch())).await
    }

    /// Reads a page.
    ///
    /// # Errors
    /// Those of [`Store::read`].
    pub async fn read(&self, name: &str, from: Position) -> Result<Page> {
        let page = self.store.try_read(name, from, PAGE);
        if must_wait(&page) { self.store.read_async(name, from, PAGE).await } else { page }
    }

    /// Reads exactly so many records that are known to be there.
    ///
    /// # Errors
    /// Those of [`Store::read`].
    pub async fn read_some(&self, name: &str, from: Position, records: usize) -> Result<Page> {
        self.store.read_async(name, from, ReadLimit { records, bytes: usize::MAX }).await
    }

    /// Watches a log for more.
    ///
    /// # Errors
    /// Those of [`Store::subscribe`].
    pub async fn subscribe(&self, name: &str) -> Result<Subscription> {
        let subscription = self.store.try_subscribe(name);
        if !must_wait(&subscription) {
            return subscription;
        }
        let (store, name) = (self.store.clone(), name.to_owned());
        blocking(move || store.subscribe(&name)).await
    }
}
