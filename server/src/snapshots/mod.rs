//! Snapshots of streams of changes: the state that a stream's records come to at one of its ends, built once, kept for a
//! while, and built again from the records whenever it is wanted.
//!
//! A state holds no values: of each key the place of its newest record, about a hundred bytes with the key. It costs one
//! sequential read of the stream, or of what came since a state that is still kept. Invariant: a state follows from the
//! stream's records alone, so that whoever builds it, before a restart or after, gets the same.

pub mod message;
pub mod state;
pub mod token;

use crate::limits::Parts;
use crate::protocol::answer::Refusal;
use crate::streams::Streams;
use everlog::types::{Cursor, Lsn};
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};
use state::State;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Memory for states that are kept, in bytes.
const KEPT_BYTES_MAX: u64 = 128 << 20;
/// States that are kept of one stream: readers who take their time stand at different ends of it.
const ENDS_MAX: usize = 4;
/// States that are being built at once; who wants another one waits.
const BUILDS_MAX: usize = 2;
/// Pages that are being made at once, and compactions under way. Each holds a state, kept or not, so that what all states take
/// is bounded; others wait.
const PAGES_MAX: usize = 4;
const COMPACTIONS_MAX: usize = 2;
/// How long others wait.
const PATIENCE: Duration = Duration::from_secs(30);

/// Which log of a name, and what of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// The LSN of the log's creation.
    pub created: Lsn,
    /// The first seq that it keeps.
    pub first: u64,
    /// The end that is looked at.
    pub end: Cursor,
}

#[derive(Clone, Debug)]
struct ByBytes;

impl Weighter<String, Arc<Vec<Arc<State>>>> for ByBytes {
    fn weight(&self, name: &String, states: &Arc<Vec<Arc<State>>>) -> u64 {
        states.iter().map(|state| state.bytes() as u64).sum::<u64>() + name.len() as u64
    }
}

/// The states that are kept, and leave to build others.
#[derive(Debug)]
pub struct Snapshots {
    /// By stream, the newest first.
    kept: Cache<String, Arc<Vec<Arc<State>>>, ByBytes>,
    builds: Arc<Semaphore>,
    pages: Arc<Semaphore>,
    compactions: Arc<Semaphore>,
}

/// Leave to hold a state: of the device's part, and of all.
pub type Leave = (OwnedSemaphorePermit, OwnedSemaphorePermit);

async fn leave(device: &Parts, all: &Arc<Semaphore>) -> Result<Leave, Refusal> {
    // In this order: who waits for its own part is in nobody's way.
    let acquire = async |semaphore: &Arc<Semaphore>| {
        Arc::clone(semaphore).acquire_owned().await.expect("the semaphore is never closed")
    };
    match timeout(PATIENCE, async { (acquire(&device.states).await, acquire(all).await) }).await {
        Ok(leave) => Ok(leave),
        Err(_) => Err(Refusal::overloaded("the server makes as many snapshots as it can; come back later")),
    }
}

impl Default for Snapshots {
    fn default() -> Self {
        let options = OptionsBuilder::new()
            .estimated_items_capacity(1024)
            .weight_capacity(KEPT_BYTES_MAX)
            // One state may be half of all.
            .shards(1)
            .build()
            .expect("all that has no default is given");
        let kept = Cache::with_options(options, ByBytes, DefaultHashBuilder::default(), DefaultLifecycle::default());
        let leave = |at_once| Arc::new(Semaphore::new(at_once));
        Self { kept, builds: leave(BUILDS_MAX), pages: leave(PAGES_MAX), compactions: leave(COMPACTIONS_MAX) }
    }
}

impl Snapshots {
    /// Leave to hold a state while a page is made.
    ///
    /// # Errors
    /// 503 if others take too long.
    pub async fn page(&self, device: &Parts) -> Result<Leave, Refusal> {
        leave(device, &self.pages).await
    }

    /// Leave to hold a state while a stream is compacted.
    ///
    /// # Errors
    /// 503 if others take too long.
    pub async fn compaction(&self, device: &Parts) -> Result<Leave, Refusal> {
        leave(device, &self.compactions).await
    }

    /// The state of the stream `name` at the end of a stretch of it.
    ///
    /// # Errors
    /// Those of a read of the stream from the stretch's beginning on; 422 for a state that is too large.
    pub async fn at(self: &Arc<Self>, streams: &Streams, name: &str, stretch: Stretch) -> Result<Arc<State>, Refusal> {
        if let Some(state) = self.find(name, stretch) {
            return Ok(state);
        }
        let permit = Arc::clone(&self.builds).acquire_owned().await;
        let permit = permit.expect("the semaphore is never closed");
        let (this, log) = (Arc::clone(self), name.to_owned());
        let built = streams.on_thread(move |store| {
            // The leave goes with the work, also where whoever asked for it has gone.
            let _permit = permit;
            if let Some(state) = this.find(&log, stretch) {
                return Ok(state);
            }
            let state = Arc::new(State::build(store, &log, stretch, this.before(&log, stretch))?);
            this.keep(&log, &state);
            Ok(state)
        });
        built.await?
    }

    fn find(&self, name: &str, stretch: Stretch) -> Option<Arc<State>> {
        self.kept.get(name)?.iter().find(|state| state.stretch == stretch).cloned()
    }

    /// The newest state before the stretch's end that the records up to it can be added to.
    fn before(&self, name: &str, stretch: Stretch) -> Option<Arc<State>> {
        let states = self.kept.get(name)?;
        let is_before = |state: &&Arc<State>| {
            let Stretch { created, first, end } = state.stretch;
            (created, first) == (stretch.created, stretch.first) && end.seq < stretch.end.seq
        };
        states.iter().filter(is_before).max_by_key(|state| state.stretch.end.seq).cloned()
    }

    /// Two that keep a state of one stream at once keep one of them, which costs the other's reader a build.
    fn keep(&self, name: &str, state: &Arc<State>) {
        let before = self.kept.get(name).unwrap_or_default();
        let others = before.iter().filter(|other| other.stretch != state.stretch).take(ENDS_MAX - 1);
        let states = std::iter::once(state).chain(others).cloned().collect();
        self.kept.insert(name.to_owned(), Arc::new(states));
    }
}
