//! The bell beside a sleeping poller's bed: [`Wake::wake`] rings it, and pays for a system call only if it must.
//!
//! One word holds what both sides need, and is changed by nothing but read-modify-write operations, which have one
//! order. The poller goes AWAKE → ASLEEP before it waits in the kernel, and back to AWAKE after. A waker makes it RUNG.
//! - The waker comes before the poller lies down: the poller finds RUNG, acquires what the waker released, and does not
//!   sleep.
//! - It comes after: it finds ASLEEP and writes to the eventfd, which the ring polls; the poller wakes up and finds
//!   RUNG.
//! - It comes when the poller has got up: RUNG stays for the next blocking poll.
//!
//! So no wake is lost, and no fence is needed: with a single location there is nothing to reorder. (Two flags would
//! need sequential consistency on both sides.) A waker that found ASLEEP may write to the eventfd only after the poller
//! has got up for another reason; the next sleep then ends early, and whoever sleeps looks at the word again and lies
//! down again. Invariant: RUNG is left only by the poller, on its way out of a blocking poll.

use crate::io::Wake;
use crate::sync::{AtomicU32, Ordering};
use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

const AWAKE: u32 = 0;
const ASLEEP: u32 = 1;
const RUNG: u32 = 2;

/// The word of the protocol.
struct Word(AtomicU32);

impl Word {
    fn new() -> Self {
        Self(AtomicU32::new(AWAKE))
    }

    /// The waker's step. True if the poller must be fetched from the kernel.
    fn ring(&self) -> bool {
        self.0.swap(RUNG, Ordering::AcqRel) == ASLEEP
    }

    /// The poller's first step. False if the bell was rung, which is then used up; otherwise [`Word::get_up`] is owed.
    fn lie_down(&self) -> bool {
        if self.0.compare_exchange(AWAKE, ASLEEP, Ordering::AcqRel, Ordering::Acquire).is_ok() {
            return true;
        }
        self.0.swap(AWAKE, Ordering::AcqRel);
        false
    }

    /// The poller's last step. True if the bell was rung, which is then used up.
    fn get_up(&self) -> bool {
        self.0.swap(AWAKE, Ordering::AcqRel) == RUNG
    }

    /// Whether the poller lies down.
    #[cfg(test)]
    fn asleep(&self) -> bool {
        self.0.load(Ordering::Acquire) == ASLEEP
    }
}

/// The bell.
pub(super) struct Bell {
    word: Word,
    /// Readable once a waker met a sleeper.
    event: OwnedFd,
}

impl Bell {
    pub(super) fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { word: Word::new(), event })
    }

    /// What the ring polls.
    pub(super) fn fd(&self) -> RawFd {
        self.event.as_raw_fd()
    }

    /// Announces that the poller is about to sleep. False if it must not, since the bell was rung since the last time;
    /// otherwise [`Bell::get_up`] is owed.
    pub(super) fn lie_down(&self) -> bool {
        self.word.lie_down()
    }

    /// Takes the announcement back, if there was one. True if the bell was rung, which is then used up.
    pub(super) fn get_up(&self) -> bool {
        self.word.get_up()
    }

    /// Makes the eventfd unreadable again.
    pub(super) fn hush(&self) {
        // It does not block; with nothing to read there is nothing to do.
        let _ = rustix::io::read(&self.event, &mut [0; 8]);
    }

    /// Whether the poller sleeps or is about to.
    #[cfg(test)]
    pub(super) fn asleep(&self) -> bool {
        self.word.asleep()
    }
}

impl Wake for Bell {
    fn wake(&self) {
        if self.word.ring() {
            // It cannot fail: the counter is far from its end, being reset at each sleep.
            let _ = rustix::io::write(&self.event, &1_u64.to_ne_bytes());
        }
    }
}

#[cfg(all(test, not(everlog_loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_ring_before_lying_down_forbids_sleep_once() {
        let word = Word::new();
        assert!(!word.ring(), "nobody sleeps");
        assert!(!word.ring(), "rung twice is rung once");
        assert!(!word.lie_down(), "rung before");
        assert!(word.lie_down(), "used up");
        assert!(!word.get_up(), "not rung since");
    }

    #[test]
    fn a_sleeper_is_fetched_once() {
        let word = Word::new();
        assert!(word.lie_down());
        assert!(word.ring(), "the first waker fetches the sleeper");
        assert!(!word.ring(), "the second one need not");
        assert!(word.get_up());
        assert!(word.lie_down(), "used up");
    }
}

#[cfg(all(test, everlog_loom))]
mod loom_tests {
    use super::*;
    use crate::sync::{Arc, AtomicBool, Condvar, Mutex, check, wait};

    /// Two wakers publish something and ring; the poller sleeps until it has seen both. The eventfd is a condvar here.
    /// A lost wake would show as a deadlock, a missing edge as work not seen after the last wake.
    #[test]
    fn loom_no_wake_of_a_ring_is_lost() {
        check(|| {
            let word = Arc::new(Word::new());
            let event = Arc::new((Mutex::new(false), Condvar::new()));
            let work = [Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false))];
            let wakers = work.clone().map(|mine| {
                let (word, event) = (word.clone(), event.clone());
                loom::thread::spawn(move || {
                    mine.store(true, Ordering::Relaxed);
                    if word.ring() {
                        *event.0.lock() = true;
                        event.1.notify_one();
                    }
                })
            });
            while !work.iter().all(|done| done.load(Ordering::Relaxed)) {
                if word.lie_down() {
                    let mut readable = event.0.lock();
                    while !*readable {
                        wait(&event.1, &mut readable);
                    }
                    *readable = false;
                    drop(readable);
                    word.get_up();
                }
            }
            for waker in wakers {
                waker.join().expect("a waker does not panic");
            }
        });
    }
}
