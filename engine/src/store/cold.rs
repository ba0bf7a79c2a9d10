//! The cold stores of an open store: how they are given, asked about and waited for.

use super::bell::Bell;
use super::{Core, Store};
use crate::catalog::Catalog;
use crate::cold::ColdStore;
use crate::cold::history::History;
use crate::cold::standing::{ColdLevel, Standing};
use crate::error::{Error, ErrorKind, Result};
use crate::format::cold::Restored;
use crate::format::manifest::{TimelineCause, TimelineStart};
use crate::index::Index;
use crate::io::Io;
use crate::journal::Journal;
use crate::ship::{EpochFile, SegmentShipper, TailShipper, Tenant, TenantParts};
use crate::sync::{Arc, AtomicBool, Mutex};
use crate::types::{Epoch, Lsn, TimeUs};
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
#[derive(Default)]
pub(super) struct Cold {
    pub standing: Arc<Standing>,
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
            self.poison.set(error.clone());
            self.cold.standing.end(error);
            crate::waiter::wake_all(self.index.take_watchers());
        }
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
    pub epochs: Arc<EpochFile>,
    tenants: Vec<Arc<Tenant>>,
}

/// What is read of EPOCH before anything is written, and why this open's timeline begins.
pub(super) fn epochs(
    io: &Arc<dyn Io>, dir: &Path, index: &Index, config: &ColdConfig,
) -> Result<(Arc<EpochFile>, TimelineCause)> {
    let epochs = EpochFile::load(Arc::clone(io), dir, index.identity)?;
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
        timelines: &[TimelineStart], time: TimeUs,
    ) -> Result<Self> {
        let standing = Arc::new(Standing::default());
        for store in &config.stores {
            let counts = config.allow_dependent || !store.depends_on(dir)?;
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
            time,
            claims: config.stores.iter().map(|_| Mutex::default()).collect(),
        });
        let tenants: Vec<_> = (0..config.stores.len()).map(|n| Arc::new(Tenant::new(Arc::clone(&parts), n))).collect();
        if let Some(authority) = tenants.first()
            && let Err(error) = authority.take()
        {
            if error.kind() != ErrorKind::Cold || epochs.get().restored.is_some() {
                return Err(error);
            }
            tracing::warn!(%error, "the cold store cannot be reached; the store goes on with its last epoch");
            standing.note(0, |level| level.error = Some(error));
        }
        let bells = tenants.iter().map(|_| Default::default()).collect();
        Ok(Self { cold: Cold { standing, bells }, epochs, tenants })
    }

    /// The epoch that frames name: that held in the authority, or the last one held there.
    pub(super) fn epoch(&self) -> Epoch {
        let Some(authority) = self.cold.standing.stores().into_iter().next() else { return Epoch(0) };
        let known = self.epochs.get().tenancies.into_iter().find(|tenancy| tenancy.url == authority.url);
        authority.epoch.max(known.map(|tenancy| tenancy.held.0).unwrap_or_default())
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

    /// What is known of each cold store, the authority first.
    #[must_use]
    pub fn cold_stores(&self) -> Vec<ColdLevel> {
        self.inner.core.cold.standing.stores()
    }
}
