//! The engine as the connections' tasks see it: every call a future, none of which waits for a disk on the thread that
//! polls it.
//!
//! Each call is tried at once, which most need; what would have to wait runs on a thread that may. What a stream was
//! created with is kept in a bounded cache, so that an append looks nothing up. Invariant: an append is bound to the
//! very log whose configuration it was checked against (`expect_created`), so that a stale entry of the cache can make
//! an append come back, and never store it wrongly.

mod request;

pub use request::{Other, Request};

use crate::feeds::Feeds;
use crate::protocol::content::StreamConfig;
use crate::protocol::request::Durability;
use everlog::cold::standing::ColdLevel;
use everlog::types::{AsOf, Cursor, Lsn, Position, StoreId, Timeline};
use everlog::{
    Ack, Error, ErrorKind, LogInfo, LogReceipt, Page, ReadLimit, RecoveryReport, Result, Stats, Store, Subscription,
};
use quick_cache::sync::Cache;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::sync::{OwnedRwLockWriteGuard, RwLock, RwLockReadGuard};
use tokio::time::{Instant, timeout};

/// Streams whose configuration is kept in memory; an entry takes a few hundred bytes, its name of up to 1 KiB included.
const KNOWN_MAX: usize = 65_536;
/// How long an append waits for memory before it is turned away.
const OVERLOAD_PATIENCE: Duration = Duration::from_secs(5);
/// What one answer holds at most, unless a single record is larger.
pub const PAGE: ReadLimit = ReadLimit { records: 16_384, bytes: 1 << 20 };

/// Logs of an owner that are looked up at a time.
const OWNED_AT_ONCE: usize = 256;

/// The streams of a store.
#[derive(Debug)]
pub struct Streams {
    store: Store,
    append_patience: Duration,
    known: Arc<Cache<String, Known>>,
    forks: Arc<RwLock<()>>,
    feeds: Arc<Feeds>,
}

/// A live stream's configuration, and which log of that name it is.
#[derive(Clone, Debug)]
pub struct Known {
    /// The LSN of the log's creation.
    pub created: Lsn,
    /// What it was created with.
    pub config: Arc<StreamConfig>,
}

/// What an owner has.
#[derive(Clone, Copy, Debug, Default)]
pub struct Owned {
    /// Logs.
    pub logs: u64,
    /// Bytes that they take.
    pub bytes: u64,
}

impl Owned {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self { logs: self.logs.saturating_add(other.logs), bytes: self.bytes.saturating_add(other.bytes) }
    }

    /// What is left without the other.
    #[must_use]
    pub fn less(self, other: Self) -> Self {
        Self { logs: self.logs.saturating_sub(other.logs), bytes: self.bytes.saturating_sub(other.bytes) }
    }
}

/// An append that is staged. Once it is durable those who watch its owner are told, also if nobody waits for it any more:
/// its client may have gone, or it may have taken too long.
struct Staged {
    /// None once it is answered.
    ack: Option<Ack>,
    request: Arc<Request>,
    feeds: Arc<Feeds>,
    known: Arc<Cache<String, Known>>,
}

impl Future for Staged {
    type Output = Result<LogReceipt>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let ack = self.ack.as_mut().expect("it is not polled once it was answered");
        let answer = ready!(Pin::new(ack).poll(context));
        self.ack = None;
        let receipt = answer.map(|receipt| receipt.logs[0]);
        tell(&self.feeds, &self.known, &self.request, &receipt);
        Poll::Ready(receipt)
    }
}

impl Drop for Staged {
    fn drop(&mut self) {
        let Some(ack) = self.ack.take() else { return };
        let (request, feeds, known) = (Arc::clone(&self.request), Arc::clone(&self.feeds), Arc::clone(&self.known));
        // Without a runtime the server has ended, and everybody who watched with it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { tell(&feeds, &known, &request, &ack.await.map(|receipt| receipt.logs[0])) });
        }
    }
}

/// Settles what was booked for an append, tells those who watch what became of it, and has looked up anew what is another stream, or none, by now.
fn tell(feeds: &Feeds, known: &Cache<String, Known>, request: &Request, answer: &Result<LogReceipt>) {
    let is_stored = match answer {
        Ok(receipt) => !receipt.duplicate,
        Err(e) => e.kind() == ErrorKind::Unknown,
    };
    if is_stored {
        request.booking.keep();
    }
    if answer.is_ok() {
        if request.delete || request.hides() {
            known.remove(&request.name);
        }
        request.others.iter().for_each(|other| drop(known.remove(&other.name)));
    }
    if let Ok(receipt) = answer
        && !receipt.duplicate
        && !request.only_renews()
    {
        feeds.changed(&request.name, receipt, request.close, request.delete || request.hides());
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

/// The error of what waited for a fork, or the deletion of one, that does not become durable.
fn busy() -> Error {
    Error::new(ErrorKind::Overloaded, "a fork, or the deletion of one, takes too long; nothing was stored")
        .remedy("come back later; if it goes on, see to the disk")
}

/// Whether the engine would have had to wait.
fn must_wait<T>(result: &Result<T>) -> bool {
    result.as_ref().is_err_and(|e| e.kind() == ErrorKind::WouldBlock)
}

impl Streams {
    /// The streams of `store`, whose appends wait so long to be durable.
    #[must_use]
    pub fn new(store: Store, append_patience: Duration) -> Self {
        let (known, forks, feeds) = (Arc::new(Cache::new(KNOWN_MAX)), Arc::default(), Arc::default());
        Self { store, append_patience, known, forks, feeds }
    }

    /// Who watches which owner.
    #[must_use]
    pub fn feeds(&self) -> &Feeds {
        &self.feeds
    }

    /// Everything up to this LSN is durable.
    #[must_use]
    pub fn durable_level(&self) -> Lsn {
        self.store.durable_level()
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

    /// Whether there is a cold store that counts.
    #[must_use]
    pub fn has_cold(&self) -> bool {
        self.store.has_cold()
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
        // What is forgotten while it is looked up is not kept: the look may have been too early.
        self.known.get_or_insert_async(name, async { Ok(Self::know(&self.info(name).await?)) }).await
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

    /// Finds that a stream with a lifetime has not ended, and puts its end off where it lives for as long as it is used. It
    /// is on disk then, so that no crash ends the stream too early.
    ///
    /// # Errors
    /// Those of [`Self::info`], for a stream that has ended: what is known of a stream does not tell.
    pub async fn renew(&self, name: &str, known: &Known) -> Result<()> {
        let Some(lifetime) = &known.config.lifetime else { return Ok(()) };
        let info = self.info(name).await?;
        let Some(expires_in) = info.expires_in.and_then(|left| lifetime.renewed(left)) else { return Ok(()) };
        let renewal = Request {
            name: name.to_owned(),
            created: Some(known.created),
            expires_in: Some(expires_in),
            ..Request::default()
        };
        match self.append_here(renewal).await {
            Ok(_) => Ok(()),
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Deleted) => Err(e),
            // It is another one by now, which the caller finds out; or nothing can be written, and reads go on.
            Err(e) => {
                tracing::debug!(error = %e, name, "a stream's end is not put off");
                Ok(())
            }
        }
    }

    /// Keeps what forks make of streams as it is: for a look at a stream before it is deleted.
    ///
    /// # Errors
    /// [`ErrorKind::Overloaded`] if a change of it takes too long.
    pub async fn hold_forks(&self) -> Result<RwLockReadGuard<'_, ()>> {
        timeout(self.append_patience, self.forks.read()).await.map_err(|_| busy())
    }

    /// Has what forks make of streams to itself: for a fork, and for a deletion that it has to do with. It goes with the
    /// request, so that the next one counts from what became of this one, however late that is known.
    ///
    /// # Errors
    /// As [`Self::hold_forks`].
    pub async fn change_forks(&self) -> Result<OwnedRwLockWriteGuard<()>> {
        timeout(self.append_patience, Arc::clone(&self.forks).write_owned()).await.map_err(|_| busy())
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
    /// [`ErrorKind::Unknown`] if it takes too long, or the store ends before; [`ErrorKind::Invalid`] without a cold store.
    pub async fn cold(&self, lsn: Lsn) -> Result<()> {
        let why = match timeout(self.append_patience, self.store.cold(lsn)).await {
            Ok(Ok(())) => return Ok(()),
            // There is none to wait for.
            Ok(Err(error)) if error.kind() == ErrorKind::Invalid => return Err(error),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("it took longer than {} ms", self.append_patience.as_millis()),
        };
        // Whatever the cause says of other appends, this one is stored.
        Err(Error::new(ErrorKind::Unknown, format!("what is stored here was not verified in a cold store: {why}"))
            .remedy("ask again: an append with the same producer number, a creation as it was; or ask for local"))
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
        if info.last <= level {
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
                Ok(staged) => {
                    let answer = timeout(self.append_patience, staged).await;
                    return answer.map_err(|_| self.late())?;
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

    async fn stage(&self, request: &Arc<Request>) -> Result<Staged> {
        let (request, feeds, known) = (Arc::clone(request), Arc::clone(&self.feeds), Arc::clone(&self.known));
        let ack = self.store.try_append(&request.batch());
        if !must_wait(&ack) {
            return ack.map(|ack| Staged { ack: Some(ack), request, feeds, known });
        }
        let store = self.store.clone();
        // What comes of it is dropped there, and told there, if nobody waits for it here any more.
        blocking(move || {
            let ack = store.append(request.batch())?;
            Ok(Staged { ack: Some(ack), request, feeds, known })
        })
        .await
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

    /// Does work on the store that may wait, on a thread that may.
    ///
    /// # Errors
    /// [`ErrorKind::ShutDown`].
    pub async fn on_thread<T: Send + 'static>(&self, work: impl FnOnce(&Store) -> T + Send + 'static) -> Result<T> {
        let store = self.store.clone();
        blocking(move || Ok(work(&store))).await
    }

    /// How many logs an owner has, and with `bytes` how many bytes they take: told to `counted`, also where the caller
    /// has gone meanwhile.
    ///
    /// # Errors
    /// Those of [`Store::list`] and [`Store::stored_bytes`].
    pub async fn owned(&self, owner: &str, bytes: bool, counted: impl FnOnce(Owned) + Send + 'static) -> Result<()> {
        let (store, owner) = (self.store.clone(), owner.to_owned());
        blocking(move || {
            let mut owned = Owned::default();
            let mut add = |name: &str| {
                owned.logs += 1;
                if bytes {
                    owned.bytes += match store.stored_bytes(name) {
                        // What is damaged, or was deleted since, is not to keep its owner from storing anything else.
                        Err(e) if matches!(e.kind(), ErrorKind::Damaged | ErrorKind::NotFound) => 0,
                        bytes => bytes?,
                    };
                }
                Ok(())
            };
            match store.info(&owner) {
                Ok(info) if !info.deleted => add(&owner)?,
                Err(e) if e.kind() != ErrorKind::NotFound => return Err(e),
                _ => {}
            }
            let (prefix, mut last) = (format!("{owner}/"), None);
            loop {
                let page = store.list(&prefix, last.as_deref(), OWNED_AT_ONCE)?;
                page.iter().try_for_each(|info| add(&info.name))?;
                if page.len() < OWNED_AT_ONCE {
                    counted(owned);
                    return Ok(());
                }
                last = page.into_iter().next_back().map(|info| info.name);
            }
        })
        .await
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
