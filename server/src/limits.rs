//! How much one device may ask, and one owner may store.
//!
//! Both are counted in memory of a bounded size. Invariants: a limit of 0 costs nothing and refuses nobody; what is
//! forgotten for want of room is counted anew, to the device's gain. What an owner stores is booked before it is stored, and
//! stays booked until it is known what became of it, so that no number of requests at once gets past a limit together.

use crate::auth::Caller;
use crate::config::Settings;
use crate::handlers::BODIES_KIB;
use crate::protocol::answer::Refusal;
use crate::protocol::headers;
use crate::streams::{Owned, Streams};
use everlog::names::owner;
use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use hyper::StatusCode;
use quick_cache::sync::Cache;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Devices whose requests are counted at once, and owners whose streams are; some hundred bytes each.
const DEVICES_MAX: usize = 65_536;
const OWNERS_MAX: usize = 65_536;
/// How long an owner who has reached the limit is refused without counting again: streams may have been deleted meanwhile,
/// or have expired, which is not heard of here.
const COUNT_AGAIN: Duration = Duration::from_secs(1);
/// How long a count is gone on from: what came of a request whose client had gone is in it as if it were stored.
const COUNT_ANYWAY: Duration = Duration::from_secs(60);
/// Memory for all larger answers that are being made, or that their clients have not taken yet, in KiB.
pub const ANSWERS_KIB: usize = 256 << 10;
/// An answer of at most so many bytes takes no share of it.
const SMALL_ANSWER_BYTES: usize = 16 << 10;
/// The part of the memory for large bodies, and of that for answers, that one device may take, where devices are told apart.
const MEMORY_PART: usize = 4;
/// Snapshots' pages, and compactions, of one device that are under way at once, likewise.
const STATES_PART: usize = 1;

/// The limits of a server.
#[derive(Debug)]
pub struct Limits {
    quota: Option<Quota>,
    devices: Cache<String, Arc<DefaultDirectRateLimiter>>,
    parts: Cache<String, Arc<Parts>>,
    answers: Arc<Semaphore>,
    logs_max: u64,
    bytes_max: u64,
    owners: Cache<String, Arc<Account>>,
}

/// What one device may still take of what all share, so that none keeps the others waiting.
#[derive(Debug)]
pub struct Parts {
    /// Of the memory for large bodies, in KiB.
    pub bodies: Arc<Semaphore>,
    /// Of that for answers, in KiB.
    answers: Arc<Semaphore>,
    /// Of the states that pages of snapshots and compactions hold.
    pub states: Arc<Semaphore>,
}

/// What an answer takes of its device's part of the memory, and of all.
#[derive(Debug)]
pub struct Room {
    _part: OwnedSemaphorePermit,
    _share: OwnedSemaphorePermit,
}

/// What an owner has, and is about to have.
#[derive(Debug, Default)]
struct Account {
    state: Mutex<State>,
    /// Held by the one who counts: others wait for the count and make none of their own.
    counting: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Debug, Default)]
struct State {
    /// What was counted and what came since, and when the count ended.
    counted: Option<(Owned, Instant)>,
    booked: Owned,
    /// What was booked and is stored by now, since the present count began: it may be in it, or not.
    since: Owned,
}

/// What is about to be stored for an owner. It goes with the request that stores it; when it is dropped it counts as stored
/// if it was [`kept`](Self::keep), and else is given back.
#[derive(Debug, Default)]
pub struct Booking {
    account: Option<Arc<Account>>,
    more: Owned,
    is_kept: AtomicBool,
}

impl Booking {
    /// It was stored, or may have been.
    pub fn keep(&self) {
        self.is_kept.store(true, Ordering::Relaxed);
    }
}

impl Drop for Booking {
    fn drop(&mut self) {
        let Some(account) = self.account.take() else { return };
        let mut state = account.state();
        state.booked = state.booked.less(self.more);
        if !*self.is_kept.get_mut() {
            return;
        }
        state.since = state.since.plus(self.more);
        if let Some((has, _)) = &mut state.counted {
            *has = has.plus(self.more);
        }
    }
}

impl Account {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What became of an attempt to book.
enum Booked {
    Done(Booking),
    /// There would be too much of this.
    Over(String),
    /// The count is too old to tell.
    Old,
}

impl Limits {
    /// Those of the settings.
    #[must_use]
    pub fn new(settings: &Settings) -> Self {
        let quota = NonZeroU32::new(settings.requests_per_second_max).map(Quota::per_second);
        let (devices, parts, owners) = (Cache::new(DEVICES_MAX), Cache::new(DEVICES_MAX), Cache::new(OWNERS_MAX));
        let (logs_max, bytes_max) = (settings.logs_per_owner_max, settings.bytes_per_owner_max);
        let answers = Arc::new(Semaphore::new(ANSWERS_KIB));
        Self { quota, devices, parts, answers, logs_max, bytes_max, owners }
    }

    /// What the device may take of what all share; all of it where devices are not told apart.
    #[must_use]
    pub fn parts(&self, caller: &Caller) -> Arc<Parts> {
        let (part, states) = match caller.device {
            Some(_) => (MEMORY_PART, STATES_PART),
            None => (1, Semaphore::MAX_PERMITS),
        };
        let semaphore = |permits| Arc::new(Semaphore::new(permits));
        let made = || {
            let (bodies, answers) = (semaphore(BODIES_KIB / part), semaphore(ANSWERS_KIB / part));
            let parts = Parts { bodies, answers, states: semaphore(states) };
            Ok::<_, std::convert::Infallible>(Arc::new(parts))
        };
        let Ok(parts) = self.parts.get_or_insert_with(caller.counted_as(), made);
        parts
    }

    /// The memory for an answer with so many bytes of content, unless it is small. It is not waited for, since the content is
    /// in memory by then.
    ///
    /// # Errors
    /// 503 if too much of it is taken.
    pub fn room(&self, device: &Parts, bytes: usize) -> Result<Option<Room>, Refusal> {
        if bytes <= SMALL_ANSWER_BYTES {
            return Ok(None);
        }
        let kib = u32::try_from(bytes.div_ceil(1 << 10)).unwrap_or(u32::MAX);
        let full = |_| {
            Refusal::overloaded("the server has as much under way to clients as it has memory for; come back later")
        };
        let part = Arc::clone(&device.answers).try_acquire_many_owned(kib).map_err(full)?;
        let share = Arc::clone(&self.answers).try_acquire_many_owned(kib).map_err(full)?;
        Ok(Some(Room { _part: part, _share: share }))
    }

    /// Counts a request. A device that was quiet may send a second's requests at once.
    ///
    /// # Errors
    /// 429 with the time after which the next one is taken.
    pub fn request(&self, caller: &Caller) -> Result<(), Refusal> {
        let Some(quota) = self.quota else { return Ok(()) };
        let limiter = || Ok::<_, Refusal>(Arc::new(RateLimiter::direct(quota)));
        let limiter = self.devices.get_or_insert_with(caller.counted_as(), limiter)?;
        limiter.check().map_err(|wait| {
            let seconds = wait.wait_time_from(DefaultClock::default().now()).as_secs_f64().ceil().max(1.0);
            let told = format!("the device sends more than {} requests a second", quota.burst_size());
            Refusal::new(StatusCode::TOO_MANY_REQUESTS, told)
                .header(headers::ERROR, "rate")
                .retry_after(Duration::from_secs_f64(seconds))
        })
    }
}

impl Limits {
    /// Books `more` for the owner of the stream `name`: streams that are not there yet, and bytes of bodies.
    ///
    /// # Errors
    /// 507 if that is more than the owner may have; those of counting.
    pub async fn book(&self, streams: &Streams, name: &str, more: Owned) -> Result<Booking, Refusal> {
        if (self.logs_max, self.bytes_max) == (0, 0) || (more.logs, more.bytes) == (0, 0) {
            return Ok(Booking::default());
        }
        let owner = owner(name);
        let made = || Ok::<_, std::convert::Infallible>(Arc::default());
        let Ok(account) = self.owners.get_or_insert_with(owner, made);
        let full = |what: String| {
            let told = format!("{owner} has {what}, which is as much as one owner may have");
            Refusal::new(StatusCode::INSUFFICIENT_STORAGE, told).header(headers::ERROR, "quota")
        };
        match self.try_book(&account, more, COUNT_ANYWAY, COUNT_AGAIN) {
            Booked::Done(booking) => return Ok(booking),
            Booked::Over(what) => return Err(full(what)),
            Booked::Old => {}
        }
        let asked = Instant::now();
        let counting = Arc::clone(&account.counting).lock_owned().await;
        // Somebody else may have counted meanwhile.
        if account.state().counted.is_none_or(|(_, at)| at < asked) {
            account.state().since = Owned::default();
            let counted = Arc::clone(&account);
            let note = move |has: Owned| {
                let mut state = counted.state();
                state.counted = Some((has.plus(state.since), Instant::now()));
                drop(counting);
            };
            streams.owned(owner, self.bytes_max > 0, note).await?;
        }
        match self.try_book(&account, more, Duration::MAX, Duration::MAX) {
            Booked::Done(booking) => Ok(booking),
            Booked::Over(what) => Err(full(what)),
            Booked::Old => Err(Refusal::overloaded("what the owner has is not counted yet; come back later")),
        }
    }

    /// Books by a count that is no older than `taken` if it fits, and than `refused` if it does not.
    fn try_book(&self, account: &Arc<Account>, more: Owned, taken: Duration, refused: Duration) -> Booked {
        let mut state = account.state();
        let Some((has, at)) = state.counted else { return Booked::Old };
        match self.excess(has.plus(state.booked), more) {
            None if at.elapsed() < taken => {
                state.booked = state.booked.plus(more);
                let account = Some(Arc::clone(account));
                Booked::Done(Booking { account, more, is_kept: AtomicBool::new(false) })
            }
            Some(what) if at.elapsed() < refused => Booked::Over(what),
            _ => Booked::Old,
        }
    }

    /// What there would be too much of.
    fn excess(&self, has: Owned, more: Owned) -> Option<String> {
        if self.logs_max > 0 && more.logs > 0 && has.logs + more.logs > self.logs_max {
            return Some(format!("{} streams", has.logs));
        }
        let is_too_large = self.bytes_max > 0 && has.bytes.saturating_add(more.bytes) > self.bytes_max;
        is_too_large.then(|| format!("{} bytes in its streams", has.bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Cli;
    use clap::Parser;

    fn limits(requests_per_second_max: u32) -> Limits {
        let settings = Cli::parse_from(["everlogd"]).settings().expect("the defaults");
        Limits::new(&Settings { requests_per_second_max, ..settings })
    }

    #[test]
    fn a_device_is_held_back_and_no_other() {
        let limits = limits(3);
        let device = |name: &str| {
            let mut caller = Caller::anybody();
            caller.actor = name.to_owned();
            caller
        };
        for _ in 0..3 {
            limits.request(&device("a")).expect("within the limit");
        }
        let refusal = limits.request(&device("a")).expect_err("one too many");
        assert_eq!(refusal.status(), StatusCode::TOO_MANY_REQUESTS);
        let answer = refusal.answer();
        assert_eq!(
            (&answer.headers()["retry-after"], &answer.headers()[headers::ERROR]),
            (&"1".parse().expect("text"), &"rate".parse().expect("text"))
        );
        limits.request(&device("b")).expect("another device");
    }

    #[test]
    fn what_is_booked_counts_until_it_is_given_back() {
        let limits = Limits { bytes_max: 10, ..limits(0) };
        let account = Arc::new(Account::default());
        let book = |bytes| limits.try_book(&account, Owned { logs: 0, bytes }, COUNT_ANYWAY, COUNT_AGAIN);
        assert!(matches!(book(1), Booked::Old), "nothing was counted yet");
        account.state().counted = Some((Owned { logs: 1, bytes: 4 }, Instant::now()));
        let Booked::Done(first) = book(6) else { panic!("it fits") };
        assert!(matches!(book(1), Booked::Over(_)), "two at once do not share the same room");
        drop(first);
        let Booked::Done(second) = book(5) else { panic!("it fits again") };
        second.keep();
        assert!(matches!(book(2), Booked::Over(_)), "what is kept is booked until its request ends");
        drop(second);
        assert!(matches!(book(2), Booked::Over(_)), "and is stored then");
        assert!(matches!(book(1), Booked::Done(_)));
        let long_ago = Instant::now().checked_sub(COUNT_AGAIN).expect("this machine runs for longer");
        account.state().counted = Some((Owned { logs: 1, bytes: 10 }, long_ago));
        assert!(matches!(book(1), Booked::Old), "there may be room by now");
    }

    #[test]
    fn one_device_takes_a_part_of_what_all_share() {
        let limits = limits(0);
        let device = |device: &str| {
            let mut caller = Caller::anybody();
            (caller.actor, caller.device) = (device.to_owned(), Some(device.to_owned()));
            limits.parts(&caller)
        };
        let bodies = |device: &Parts, kib| Arc::clone(&device.bodies).try_acquire_many_owned(kib);
        let _all = bodies(&device("a"), (BODIES_KIB / MEMORY_PART) as u32).expect("its part");
        assert!(bodies(&device("a"), 1).is_err());
        assert!(bodies(&device("b"), 1).is_ok());
        let most = (ANSWERS_KIB / MEMORY_PART) << 10;
        assert!(limits.room(&device("a"), most + 1).is_err(), "it is more than one part");
        let _answer = limits.room(&device("a"), most).expect("its part");
        assert!(limits.room(&device("a"), SMALL_ANSWER_BYTES + 1).is_err());
        assert!(limits.room(&device("a"), SMALL_ANSWER_BYTES).expect("it is small").is_none());
        assert!(limits.room(&device("b"), SMALL_ANSWER_BYTES + 1).is_ok());
        let _state = Arc::clone(&device("a").states).try_acquire_owned().expect("its part");
        assert!(device("a").states.try_acquire().is_err());
        assert!(device("b").states.try_acquire().is_ok());
        let anybody = limits.parts(&Caller::anybody());
        assert_eq!(anybody.bodies.available_permits(), BODIES_KIB, "nobody is told apart");
        assert_eq!(anybody.states.available_permits(), Semaphore::MAX_PERMITS);
    }

    #[test]
    fn without_a_limit_nothing_is_counted() {
        let limits = limits(0);
        (0..1000).for_each(|_| limits.request(&Caller::anybody()).expect("no limit"));
        assert_eq!(limits.devices.len(), 0);
    }
}
