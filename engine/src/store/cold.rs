//! The cold stores of an open store: how they are given, asked about and waited for.

use super::bell::Bell;
use super::{Core, Store};
use crate::catalog::Catalog;
use crate::clock::Clock;
use crate::cold::ColdStore;
use crate::cold::history::History;
use crate::cold::standing::{Bounds, ColdLevel, Standing};
use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::format::cold::Restored;
use crate::format::manifest::{TimelineCause, TimelineStart};
use crate::index::Index;
use crate::io::Io;
use crate::journal::Journal;
use crate::ship::{EpochFile, SegmentShipper, TailShipper, Tenant, TenantParts};
use crate::sync::{Arc, AtomicBool, Mutex};
use crate::types::{Epoch, Lsn, StoreId};
use crate::waiter::Waiter;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Where a store is shipped.
#[derive(Clone, Default)]
pub struct ColdConfig {
    /// The cold stores. The first one is the authority: its epochs say who owns the store.
    pub stores: Vec<Arc<dyn ColdStore>>,
    /// A folder on the data's own device counts as cold. It shares the data's fate: for tests and toys.
    pub allow_dependent: bool,
    /// One that was written to before and is empty now may have been lost, and is filled anew.
    pub may_be_lost: bool,
    /// How far shipping may fall behind.
    pub bounds: Bounds,
}

impl ColdConfig {
    /// Whether any of them counts as cold for a store in `dir`, which need not be there.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] if that cannot be told.
    pub fn counts_for(&self, dir: &Path) -> Result<bool> {
        let dir = super::absolute(dir)?;
        for store in &self.stores {
            if self.counts(store.as_ref(), &dir)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn counts(&self, store: &dyn ColdStore, dir: &Path) -> Result<bool> {
        Ok(self.allow_dependent || !store.depends_on(dir)?)
    }
}

impl std::fmt::Debug for ColdConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let urls: Vec<&str> = self.stores.iter().map(|store| store.url()).collect();
        f.debug_struct("ColdConfig").field("stores", &urls).field("allow_dependent", &self.allow_dependent).finish()
    }
}

/// Comes back once something is cold: a future, and something a plain thread can wait for. Dropping it cancels nothing.
#[derive(Debug)]
#[must_use = "it says when something is cold"]
pub struct ColdAck(Waiter<Result<()>>);

impl ColdAck {
    /// Blocks the calling thread until it is cold.
    ///
    /// # Errors
    /// [`ErrorKind::Fenced`] if another owner took the store over: it will not be. [`ErrorKind::ShutDown`] if the store was
    /// closed before: it may be. [`ErrorKind::Invalid`] if no cold store counts.
    pub fn wait(self) -> Result<()> {
        self.0.wait()
    }

    /// The answer, if it is there; given once.
    #[must_use]
    pub fn try_get(&self) -> Option<Result<()>> {
        self.0.try_take()
    }
}

impl Future for ColdAck {
    type Output = Result<()>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(context)
    }
}

/// What the core of a store knows of its cold stores.
pub(super) struct Cold {
    pub standing: Arc<Standing>,
    /// What the directory knows of its right to write to them.
    pub epochs: Arc<EpochFile>,
    /// Of each store: rung when there may be something of the tail to ship, and of segments.
    pub bells: Vec<(Bell, Bell)>,
}

impl Cold {
    /// Ends all waits for work.
    pub(super) fn end_bells(&self) {
        for (tail, segments) in &self.bells {
            tail.end();
            segments.end();
        }
    }
}

impl Core {
    /// A step of shipping failed. Only a newer owner stops the store.
    pub(super) fn ship_failed(&self, n: usize, error: &Error) {
        self.cold.standing.note(n, |level| level.error = Some(error.clone()));
        if error.kind() == ErrorKind::Fenced {
            // Nothing is acknowledged from here on, so that what is durable by now is all that was.
            self.poison.set(error.clone());
            self.cold.standing.end(error);
            crate::waiter::wake_all(self.index.take_watchers());
            self.note_fenced();
        }
    }

    /// Writes down that another owner has the store, and from where on what is here may be no part of it.
    fn note_fenced(&self) {
        let (cold, last) = (self.cold.standing.level(), self.index.watermark());
        if last > cold && cold > Lsn(0) {
            tracing::error!(
                first_lsn = cold.0 + 1,
                last_lsn = last.0,
                "orphaned: acknowledged here, not known to be in the cold store when another owner took over; \
                 everlog inspect lists the logs"
            );
        }
        let found = self.cold.standing.taken_over_in();
        let epoch = found.unwrap_or_else(|| self.cold.standing.authority().map_or(Epoch(0), |(_, epoch)| epoch).next());
        // Where it cannot be written, the next open asks the cold store.
        if let Err(error) = self.cold.epochs.change(|epochs| epochs.fenced = Some((epoch, cold))) {
            tracing::warn!(%error, "that another owner took the store over could not be written down");
        }
    }

    /// Takes note of how much is durable at this moment, by which is told how far cold stores are behind.
    pub(super) fn note_durable(&self) {
        let (lsn, bytes) = (self.index.watermark(), self.index.metrics.frame_bytes.get());
        self.cold.standing.durable(lsn, bytes, self.clock.monotonic());
    }

    /// A step of shipping went well.
    pub(super) fn ship_went_well(&self, n: usize) {
        self.cold.standing.note(n, |level| level.error = None);
    }
}

/// What ships to one cold store.
pub(super) struct Shippers {
    pub tail: TailShipper,
    pub segments: SegmentShipper,
}

/// The tenants of a store that is being opened.
pub(super) struct Tenants {
    pub cold: Cold,
    tenants: Vec<Arc<Tenant>>,
}

/// What is read of EPOCH before anything is written, and why this open's timeline begins.
pub(super) fn epochs(
    io: &Arc<dyn Io>, dir: &Path, index: &Index, config: &ColdConfig,
) -> Result<(Arc<EpochFile>, TimelineCause)> {
    let epochs = EpochFile::load(Arc::clone(io), dir, index.identity)?;
    if let Some((epoch, cold)) = epochs.get().fenced.filter(|_| !config.may_be_lost) {
        let what = format!("another owner took the store over, in epoch {epoch} of its first cold store");
        return Err(Error::new(ErrorKind::Fenced, what).file(dir).lsns(cold.0 + 1..u64::MAX).remedy(
            "restore the store from its cold store into an empty directory; what this one holds beyond that is listed by \
             everlog inspect and read by everlog dump",
        ));
    }
    let cause = match epochs.get().restored {
        None => TimelineCause::Open,
        Some(_) if config.stores.is_empty() => {
            return Err(Error::new(ErrorKind::Refused, "the store was restored and has no owner yet").file(dir).remedy(
                "open it with the cold store that it was restored from (--cold): its first open takes the ownership over",
            ));
        }
        Some(Restored::Heal) => TimelineCause::Heal,
        Some(Restored::Rewind) => TimelineCause::Rewind,
    };
    Ok((Arc::new(epochs), cause))
}

impl Tenants {
    /// Takes the right to write to the authority, if it can be reached; to the others it is taken in the background.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`], [`ErrorKind::Fenced`] if the store is another's; [`ErrorKind::Cold`] if the authority cannot be
    /// reached by a restored store.
    pub(super) fn take(
        io: &Arc<dyn Io>, dir: &Path, index: &Index, config: &ColdConfig, epochs: Arc<EpochFile>,
        timelines: &[TimelineStart], clock: &Arc<dyn Clock>,
    ) -> Result<Self> {
        let standing = Arc::new(Standing::new(config.bounds, clock.monotonic()));
        for store in &config.stores {
            let counts = config.counts(store.as_ref(), dir)?;
            if !counts {
                tracing::warn!(
                    cold = store.url(),
                    "this cold store lies on the data's own device: what it holds does not count as cold"
                );
            }
            standing.add(store.url(), counts);
        }
        let parts = Arc::new(TenantParts {
            io: Arc::clone(io),
            identity: index.identity,
            history: History::new(timelines.to_vec(), index.set().manifest.flushed),
            epochs: Arc::clone(&epochs),
            standing: Arc::clone(&standing),
            colds: config.stores.clone(),
            may_be_lost: config.may_be_lost,
            clock: Arc::clone(clock),
            time: clock.wall(),
            claims: config.stores.iter().map(|_| Mutex::default()).collect(),
        });
        let tenants: Vec<_> = (0..config.stores.len()).map(|n| Arc::new(Tenant::new(Arc::clone(&parts), n))).collect();
        if let Some(authority) = tenants.first()
            && let Err(error) = authority.take()
        {
            let known = epochs.get();
            if error.kind() != ErrorKind::Cold || known.restored.is_some() || known.fenced.is_some() {
                return Err(error);
            }
            tracing::warn!(%error, "the cold store cannot be reached; the store goes on with its last epoch");
            standing.note(0, |level| level.error = Some(error));
        }
        let bells = tenants.iter().map(|_| Default::default()).collect();
        Ok(Self { cold: Cold { standing, epochs, bells }, tenants })
    }

    /// The epoch that frames name: that held in the authority, or the last one held there.
    pub(super) fn epoch(&self) -> Epoch {
        let Some((url, epoch)) = self.cold.standing.authority() else { return Epoch(0) };
        let known = self.cold.epochs.get().tenancies.into_iter().find(|tenancy| tenancy.url == url);
        epoch.max(known.map(|tenancy| tenancy.held.0).unwrap_or_default())
    }

    /// What ships to each.
    pub(super) fn shippers(
        &self, catalog: &Catalog, index: &Arc<Index>, journal: &Arc<Journal>, flush_asked: &Arc<AtomicBool>,
    ) -> Vec<Shippers> {
        self.tenants
            .iter()
            .map(|tenant| Shippers {
                tail: TailShipper::new(
                    Arc::clone(tenant),
                    Arc::clone(catalog.io()),
                    Arc::clone(journal),
                    Arc::clone(index),
                    Arc::clone(flush_asked),
                ),
                segments: SegmentShipper::new(Arc::clone(tenant), Arc::clone(index), Arc::clone(flush_asked)),
            })
            .collect()
    }
}

impl Store {
    /// [`Self::create`] of a store that is to be shipped. A place holds one store: where one lies already, this machine may
    /// only have lost its directory.
    ///
    /// # Errors
    /// As [`Self::create`]; [`ErrorKind::Refused`] also if one of the cold stores holds a store; [`ErrorKind::Cold`] if that
    /// cannot be told.
    pub fn create_shipping(dir: impl AsRef<Path>, config: &Config, cold: &ColdConfig) -> Result<StoreId> {
        for store in &cold.stores {
            if let Some(there) = crate::cold::holds(&**store)? {
                let url = store.url();
                let what = format!("the cold store {url} holds the store {there}; none is created beside it");
                return Err(Error::new(ErrorKind::Refused, what).file(dir.as_ref()).remedy(format!(
                    "bring that one back (everlog restore --cold {url} --to DIR), or give the new one a place of its own"
                )));
            }
        }
        Self::create(dir, config)
    }

    /// Whether there is a cold store that counts, so that something can become cold.
    #[must_use]
    pub fn has_cold(&self) -> bool {
        self.inner.core.cold.standing.counts()
    }

    /// Comes back once everything up to `lsn` is verified in a cold store that counts, and in the first:
    /// [`crate::LogReceipt::lsn`] is that of an append.
    pub fn cold(&self, lsn: Lsn) -> ColdAck {
        let cold = &self.inner.core.cold;
        let ack = ColdAck(cold.standing.wait(lsn));
        cold.bells.iter().for_each(|(tail, _)| tail.ring());
        ack
    }

    /// Everything up to this LSN is verified in a cold store that counts, and in the first.
    #[must_use]
    pub fn cold_level(&self) -> Lsn {
        self.inner.core.cold.standing.level()
    }

    /// Everything up to this LSN is durable here: nothing is behind if that is no more than [`Self::cold_level`].
    #[must_use]
    pub fn durable_level(&self) -> Lsn {
        self.inner.core.index.watermark()
    }

    /// What is known of each cold store, the authority first.
    #[must_use]
    pub fn cold_stores(&self) -> Vec<ColdLevel> {
        let core = &self.inner.core;
        core.note_durable();
        core.cold.standing.stores(core.clock.monotonic())
    }
}
