//! The server that comes and goes, as clients see it: each through a proxy of its own, whose address stays.
//!
//! It also keeps what can be known of the server's clock, which stands still while the server does and, when it is killed,
//! goes on from its last stamp on disk. Invariant: a request that is not answered though neither the server ended nor the
//! client's own proxy broke it is a failure of the server.

use crate::ends::{Us, Window};
use everlog_tests::net::{Answer, Appends, Proxy, try_ask};
use jiff::Timestamp;
use parking_lot::{Condvar, Mutex};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How long a start of the server may take on a slow machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What all threads share.
#[derive(Debug)]
pub struct World {
    /// The same moment by two clocks.
    began: (Instant, Timestamp),
    runs: Mutex<Runs>,
    started: Condvar,
    /// Requests that were begun.
    begun: Mutex<u64>,
    progress: Condvar,
    over: AtomicBool,
}

/// The runs of the server.
#[derive(Clone, Copy, Debug, Default)]
struct Runs {
    /// How often it was started.
    starts: u64,
    /// Whether it is there, and nobody is about to end it.
    is_up: bool,
    /// How far its clock has fallen behind the monotonic one at most, by all its ends.
    lag: Us,
    /// A moment of this run, or just before it, which a stamp on disk is not older than.
    stamped: Us,
}

impl World {
    pub fn new() -> Self {
        Self {
            began: (Instant::now(), Timestamp::now()),
            runs: Mutex::default(),
            started: Condvar::default(),
            begun: Mutex::default(),
            progress: Condvar::default(),
            over: AtomicBool::default(),
        }
    }

    /// Now.
    pub fn now(&self) -> Us {
        Us::try_from(self.began.0.elapsed().as_micros()).expect("the test is over long before")
    }

    /// Now by the slow clock: as if the server's clock had fallen behind as far as it can have.
    pub fn slow(&self) -> Us {
        self.now() - self.runs.lock().lag
    }

    /// What the wall clock says at a moment.
    pub fn wall(&self, at: Us) -> Timestamp {
        let at = Timestamp::from_microsecond(self.began.1.as_microsecond() + at);
        at.expect("tests ask for moments of this century")
    }

    /// The same the other way round.
    pub fn moment(&self, wall: Timestamp) -> Us {
        wall.as_microsecond() - self.began.1.as_microsecond()
    }

    pub fn starts(&self) -> u64 {
        self.runs.lock().starts
    }

    /// The server is about to be ended.
    pub fn ends(&self) {
        self.runs.lock().is_up = false;
    }

    /// The server is up again; `since` is a moment before its process began.
    pub fn started(&self, since: Us) {
        let now = self.now();
        let mut runs = self.runs.lock();
        // Its clock went on from the last stamp, at this moment at the latest.
        runs.lag += if runs.starts > 0 { now - runs.stamped } else { 0 };
        *runs = Runs { starts: runs.starts + 1, is_up: true, stamped: since, ..*runs };
        self.started.notify_all();
    }

    /// Comes back once the server was started more often than that.
    fn until_started_after(&self, starts: u64) {
        let mut runs = self.runs.lock();
        while runs.starts == starts {
            let late = self.started.wait_for(&mut runs, PATIENCE).timed_out();
            assert!(!late, "a request was not answered though the server was there all the time");
        }
    }

    /// Something was stored, and stamped, by a request that was sent at `sent` when the server's runs were as in `before`.
    fn stored(&self, sent: Us, before: &Runs) {
        let mut runs = self.runs.lock();
        // Else it may have been another run's.
        if before.is_up && runs.is_up && runs.starts == before.starts {
            runs.stamped = runs.stamped.max(sent);
        }
    }

    /// Comes back after so many more requests, or once `failed` says that there will be no more.
    pub fn until_begun(&self, more: u64, failed: impl Fn() -> bool) {
        let mut begun = self.begun.lock();
        let enough = *begun + more;
        while *begun < enough && !failed() {
            // Who fails tells nobody, so that it is asked for from time to time.
            self.progress.wait_for(&mut begun, Duration::from_millis(50));
        }
    }

    fn begin(&self) {
        *self.begun.lock() += 1;
        self.progress.notify_one();
    }

    /// No request is to be drawn any more.
    pub fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }

    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Relaxed)
    }
}

/// What became of a request.
#[derive(Debug)]
pub enum Told {
    Answer(Answer),
    /// It was not carried out.
    NotStored,
    /// It may have been.
    Nothing,
}

/// A client's way to the server.
#[derive(Debug)]
pub struct Way<'a> {
    world: &'a World,
    proxy: &'a Proxy,
}

impl<'a> Way<'a> {
    pub fn new(world: &'a World, proxy: &'a Proxy) -> Self {
        Self { world, proxy }
    }

    pub fn world(&self) -> &'a World {
        self.world
    }

    /// Asks once; comes back when there is a server again.
    pub fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8], lost: Appends) -> Told {
        self.ask_within(method, path, headers, body, lost).0
    }

    /// The same, with when the server saw the request.
    pub fn ask_within(
        &self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8], lost: Appends,
    ) -> (Told, Window) {
        let runs = *self.world.runs.lock();
        let sent = self.world.now();
        self.world.begin();
        self.proxy.let_requests(lost);
        let address: SocketAddr = self.proxy.address();
        let told = match try_ask(address, method, path, headers, body) {
            Some(answer) if answer.status == 503 && answer.header("everlog-error") == "shutting-down" => {
                self.world.until_started_after(runs.starts);
                Told::NotStored
            }
            Some(answer) => {
                if stores(&answer) {
                    self.world.stored(sent, &runs);
                }
                Told::Answer(answer)
            }
            None => {
                if lost == Appends::Pass {
                    self.world.until_started_after(runs.starts);
                }
                Told::Nothing
            }
        };
        let (answered, after) = (self.world.now(), *self.world.runs.lock());
        let stamped = after.stamped - after.lag;
        (told, Window { sent, answered, lag_before: runs.lag, lag_after: after.lag, stamped })
    }
}

/// Whether the answer says that something was stored just now, which a repetition's does not.
fn stores(answer: &Answer) -> bool {
    let is_safe = !answer.header("everlog-durability").is_empty();
    is_safe && (answer.status != 204 || answer.header("producer-seq").is_empty())
}
