//! What is known to be in cold stores, and who waits for that.
//!
//! Each store has a level of its own: everything up to an LSN was read back from it, and the store's owner was still its
//! owner after that. An acknowledgement means by `cold` that it is in one that counts, and in the first, from which a next owner
//! would go on.
//!
//! Invariant: a level never falls, and whoever waits for an LSN is answered once a level has reached it, or when none will.

use super::lag::Lag;
use crate::error::{Error, ErrorKind, Result};
use crate::sync::{AtomicBool, Mutex, Ordering};
use crate::types::{Epoch, Lsn, TimeUs};
use crate::waiter::{Completer, Waiter, pair};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long the tail waits for more at most before it is shipped, if nobody waits for it.
const SHIP_EVERY: Duration = Duration::from_secs(1);
/// How often the first cold store is asked at least whether the owner still is the owner.
const CONTACT_EVERY: Duration = Duration::from_secs(10);
/// The fewest waiters among whom it is looked who has gone.
const SWEEP_MIN: usize = 64;
/// When to ask again whether the first cold store can be reached.
const CONTACT_RETRY: Duration = Duration::from_secs(1);

/// What is known of a cold store.
#[derive(Clone, Debug)]
pub struct ColdLevel {
    /// Where it is.
    pub url: String,
    /// Whether what is there counts as `cold`: not if it shares its fate with the data.
    pub counts: bool,
    /// Everything up to this LSN was read back there.
    pub verified: Lsn,
    /// The epoch in which it is written to; 0 before this process took one.
    pub epoch: Epoch,
    /// The number of the newest version there.
    pub version: u64,
    /// The time of the last frame that was read back there: what was acknowledged later may not be there.
    pub time: TimeUs,
    /// For how long the first of what is not known to be there is durable here already.
    pub lag: Duration,
    /// How many bytes of frames are not known to be there; of those written since the open.
    pub lag_bytes: u64,
    /// Why the last attempt failed; None after one that did not.
    pub error: Option<Error>,
}

/// How far shipping may fall behind before appends are held back. None: without bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounds {
    /// What is durable here and not cold for so long has appends wait.
    pub lag_max: Option<Duration>,
    /// For so long the store goes on without a word from the first cold store, by which its owner knows that it is its owner.
    pub contact_max: Option<Duration>,
}

/// The levels of all cold stores, and who waits.
#[derive(Debug, Default)]
pub struct Standing {
    bounds: Bounds,
    is_closing: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    stores: Vec<ColdLevel>,
    waiting: BTreeMap<Lsn, Vec<Completer<Result<()>>>>,
    ended: Option<Error>,
    lag: Lag,
    /// When the first one last said who owns the store.
    contact: Duration,
    taken_over: Option<Epoch>,
    /// As many waiters as are to be there before it is looked who has gone.
    sweep_at: usize,
}

impl State {
    /// Forgets those that wait no more, as who gave up does.
    fn sweep(&mut self) {
        self.waiting.retain(|_, waiting| {
            waiting.retain(|completer| !completer.is_abandoned());
            !waiting.is_empty()
        });
    }

    /// Who takes the store over looks at the first one: what is not there is no part of what it goes on with.
    fn level(&self) -> Lsn {
        let Some(authority) = self.stores.first() else { return Lsn(0) };
        let counted = self.stores.iter().filter(|store| store.counts).map(|store| store.verified).max();
        counted.unwrap_or_default().min(authority.verified)
    }
}

impl Standing {
    /// Of no cold store yet, from the time `now` of the monotonic clock on.
    #[must_use]
    pub fn new(bounds: Bounds, now: Duration) -> Self {
        Self { bounds, state: Mutex::new(State { contact: now, ..State::default() }), ..Self::default() }
    }

    /// Takes note of the next cold store, of which nothing is known yet.
    pub fn add(&self, url: &str, counts: bool) {
        self.state.lock().stores.push(ColdLevel {
            url: url.to_owned(),
            counts,
            verified: Lsn(0),
            epoch: Epoch(0),
            version: 0,
            time: TimeUs(0),
            lag: Duration::ZERO,
            lag_bytes: 0,
            error: None,
        });
    }

    /// What is known of each at `now`, in the order in which they were added.
    #[must_use]
    pub fn stores(&self, now: Duration) -> Vec<ColdLevel> {
        let state = self.state.lock();
        let with_lag = |store: &ColdLevel| {
            let (lag, lag_bytes) = state.lag.of(store.verified, now);
            ColdLevel { lag, lag_bytes, ..store.clone() }
        };
        state.stores.iter().map(with_lag).collect()
    }

    /// Where the first one is, and the epoch that is held there; 0 before it is taken.
    #[must_use]
    pub fn authority(&self) -> Option<(String, Epoch)> {
        self.state.lock().stores.first().map(|store| (store.url.clone(), store.epoch))
    }

    /// Whether there is one that counts.
    #[must_use]
    pub fn counts(&self) -> bool {
        self.state.lock().stores.iter().any(|store| store.counts)
    }

    /// Everything up to `lsn`, `bytes` of frames since the open, is durable at `now`.
    pub fn durable(&self, lsn: Lsn, bytes: u64, now: Duration) {
        let mut state = self.state.lock();
        let passed = state.stores.iter().map(|store| store.verified).min().unwrap_or(lsn);
        state.lag.note(lsn, bytes, now, passed);
    }

    /// The first one said at `now` that this owner still is the owner.
    pub fn contacted(&self, now: Duration) {
        let mut state = self.state.lock();
        state.contact = state.contact.max(now);
    }

    /// How often it is to be asked at least.
    #[must_use]
    pub fn contact_every(&self) -> Duration {
        self.bounds.contact_max.map_or(CONTACT_EVERY, |most| CONTACT_EVERY.min(most / 3))
    }

    /// For how long what is durable may wait for more to be shipped with it.
    #[must_use]
    pub fn ship_every(&self) -> Duration {
        // A bound of how far shipping may be behind is not to be used up by waiting.
        self.bounds.lag_max.map_or(SHIP_EVERY, |most| SHIP_EVERY.min(most / 4)).min(self.contact_every())
    }

    /// Another owner is known to have taken the store over, in this epoch of the first one.
    pub fn taken_over(&self, epoch: Epoch) {
        let mut state = self.state.lock();
        state.taken_over = state.taken_over.max(Some(epoch));
    }

    /// In which epoch another owner took the store over, if that is known.
    #[must_use]
    pub fn taken_over_in(&self) -> Option<Epoch> {
        self.state.lock().taken_over
    }

    /// Nothing more is to be begun: whatever takes long ends early.
    pub fn close(&self) {
        self.is_closing.store(true, Ordering::SeqCst);
    }

    /// Whether that was said.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.is_closing.load(Ordering::SeqCst)
    }

    /// How long ago that was.
    #[must_use]
    pub fn since_contact(&self, now: Duration) -> Duration {
        now.saturating_sub(self.state.lock().contact)
    }

    /// Whether appends are ever held back; asks no lock.
    #[must_use]
    pub fn is_bounded(&self) -> bool {
        self.bounds != Bounds::default()
    }

    /// How far what is durable is ahead of what is cold, if that is more than may be.
    #[must_use]
    pub fn is_behind(&self, now: Duration) -> Option<Duration> {
        let most = self.bounds.lag_max?;
        let state = self.state.lock();
        if !state.stores.iter().any(|store| store.counts) {
            return None;
        }
        let (lag, _) = state.lag.of(state.level(), now);
        (lag > most).then_some(lag)
    }

    /// Fails if the store has gone on for too long without a word from the first cold store.
    ///
    /// # Errors
    /// [`ErrorKind::Cold`].
    pub fn check_contact(&self, now: Duration) -> Result<()> {
        let Some(most) = self.bounds.contact_max else { return Ok(()) };
        if self.state.lock().stores.is_empty() {
            return Ok(());
        }
        let since = self.since_contact(now);
        if since <= most {
            return Ok(());
        }
        let what = format!("the cold store did not say for {} s who owns the store", since.as_secs());
        Err(Error::new(ErrorKind::Cold, what).retry_in(CONTACT_RETRY).remedy(
            "see that it can be reached; appends are taken again once it is, or with a larger cold_contact_max",
        ))
    }

    /// Everything up to this LSN is in some cold store that counts.
    #[must_use]
    pub fn level(&self) -> Lsn {
        self.state.lock().level()
    }

    /// Everything up to `lsn` was read back from the store `n`, and then its owner was still its owner.
    pub fn verified(&self, n: usize, lsn: Lsn) {
        let reached = {
            let mut state = self.state.lock();
            let store = &mut state.stores[n];
            store.verified = store.verified.max(lsn);
            let level = state.level();
            let beyond = state.waiting.split_off(&level.next());
            std::mem::replace(&mut state.waiting, beyond)
        };
        reached.into_values().flatten().for_each(|waiting| waiting.complete(Ok(())));
    }

    /// Changes what is known of the store `n` beside its level.
    pub fn note(&self, n: usize, change: impl FnOnce(&mut ColdLevel)) {
        change(&mut self.state.lock().stores[n]);
    }

    /// Whether somebody waits.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        let mut state = self.state.lock();
        state.sweep();
        !state.waiting.is_empty()
    }

    /// Comes back once everything up to `lsn` is cold.
    pub fn wait(&self, lsn: Lsn) -> Waiter<Result<()>> {
        let (completer, waiter) = pair();
        let mut state = self.state.lock();
        let answer = match &state.ended {
            _ if lsn <= state.level() => Some(Ok(())),
            Some(error) => Some(Err(error.clone())),
            None if !state.stores.iter().any(|store| store.counts) => {
                Some(Err(Error::new(ErrorKind::Invalid, "the store has no cold store that counts")
                    .remedy("name one that is independent of the data's device")))
            }
            None => None,
        };
        match answer {
            None => {
                state.waiting.entry(lsn).or_default().push(completer);
                if state.waiting.len() >= state.sweep_at.max(SWEEP_MIN) {
                    state.sweep();
                    state.sweep_at = 2 * state.waiting.len();
                }
            }
            Some(answer) => {
                drop(state);
                completer.complete(answer);
            }
        }
        waiter
    }

    /// No level rises any more: whoever waits is told `error`, now and later.
    pub fn end(&self, error: &Error) {
        let waiting = {
            let mut state = self.state.lock();
            state.ended.get_or_insert_with(|| error.clone());
            std::mem::take(&mut state.waiting)
        };
        waiting.into_values().flatten().for_each(|waiting| waiting.complete(Err(error.clone())));
    }
}

#[cfg(all(test, not(everlog_loom)))]
mod tests {
    use super::*;

    fn standing(counts: &[bool]) -> Standing {
        let standing = Standing::default();
        counts.iter().for_each(|counts| standing.add("mem://cold", *counts));
        standing
    }

    #[test]
    fn who_waits_is_answered_by_what_counts_and_by_the_first() {
        let standing = standing(&[false, true]);
        let waiters: Vec<_> = [3, 5, 7].map(|lsn| standing.wait(Lsn(lsn))).into();
        standing.verified(0, Lsn(9));
        assert!(waiters.iter().all(|waiter| !waiter.is_done()), "it does not count");
        standing.verified(1, Lsn(5));
        assert_eq!(waiters.iter().map(Waiter::is_done).collect::<Vec<_>>(), [true, true, false]);
        standing.verified(1, Lsn(4));
        assert_eq!(standing.level(), Lsn(5), "a level never falls");
        standing.verified(1, Lsn(10));
        assert_eq!(standing.level(), Lsn(9), "a next owner goes on from the first");
        assert!(standing.wait(Lsn(9)).is_done() && !standing.wait(Lsn(10)).is_done());
    }

    #[test]
    fn when_none_rises_any_more_all_are_told() {
        let standing = standing(&[true]);
        let waiter = standing.wait(Lsn(1));
        standing.end(&Error::new(ErrorKind::Fenced, "another owner"));
        assert_eq!(waiter.wait().expect_err("told").kind(), ErrorKind::Fenced);
        assert_eq!(standing.wait(Lsn(1)).wait().expect_err("told").kind(), ErrorKind::Fenced);
        assert_eq!(standing_without().wait(Lsn(1)).wait().expect_err("none counts").kind(), ErrorKind::Invalid);
    }

    #[test]
    fn bounds_hold_appends_back_until_what_they_wait_for_has_come() {
        let second = Duration::from_secs(1);
        let bounds = Bounds { lag_max: Some(10 * second), contact_max: Some(5 * second) };
        let standing = Standing::new(bounds, second);
        standing.add("mem://cold", true);
        standing.durable(Lsn(7), 100, 2 * second);
        assert_eq!(standing.is_behind(12 * second), None);
        assert_eq!(standing.is_behind(13 * second), Some(11 * second));
        assert_eq!(standing.stores(13 * second)[0].lag_bytes, 100);
        standing.verified(0, Lsn(7));
        assert_eq!(standing.is_behind(99 * second), None);
        assert!(standing.check_contact(6 * second).is_ok(), "it counts from the open");
        assert_eq!(standing.check_contact(7 * second).expect_err("too long").kind(), ErrorKind::Cold);
        standing.contacted(7 * second);
        standing.contacted(6 * second);
        assert!(standing.check_contact(12 * second).is_ok());
    }

    #[test]
    fn bounds_hold_nobody_back_for_what_no_cold_store_can_give() {
        let hour = Duration::from_secs(3600);
        let bounds = Bounds { lag_max: Some(Duration::from_secs(1)), contact_max: Some(Duration::from_secs(1)) };
        let standing = Standing::new(bounds, Duration::ZERO);
        assert!(standing.check_contact(hour).is_ok(), "there is none to ask");
        standing.add("file://near", false);
        standing.durable(Lsn(7), 100, Duration::ZERO);
        assert_eq!(standing.is_behind(hour), None, "nothing becomes cold");
        assert!(standing.contact_every() < Duration::from_secs(1));
        assert!(standing.ship_every() < Duration::from_secs(1) / 3);
    }

    #[test]
    fn who_waits_no_more_is_forgotten() {
        let standing = standing(&[true]);
        let waits = standing.wait(Lsn(1));
        (2..2000).for_each(|lsn| drop(standing.wait(Lsn(lsn))));
        assert!(standing.state.lock().waiting.len() <= SWEEP_MIN);
        drop(waits);
        assert!(!standing.is_awaited());
    }

    fn standing_without() -> Standing {
        standing(&[false])
    }
}
