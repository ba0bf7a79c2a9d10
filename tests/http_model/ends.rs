//! When streams end by themselves, as far as a client can know.
//!
//! It knows between which moments the server saw a request, and that the server's clock runs at the pace of the monotonic
//! one but falls behind it whenever the server ends: by the time that it is away, and by what was not stamped on disk.
//! Invariant: a stream has not ended before the first of two bounds and has ended from the second one on, whatever the
//! server did in between; only what lies in between is for the server to say.

/// Microseconds since the test began.
pub type Us = i64;

/// By how much the wall clock and the monotonic one may differ in pace.
const WALL_SLACK: Us = 50_000;

/// Between which moments the server saw a request.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    pub sent: Us,
    pub answered: Us,
    /// How far the server's clock had fallen behind at most when the request was sent, since the test began.
    pub lag_before: Us,
    /// The same when it was answered.
    pub lag_after: Us,
    /// The slow clock at the last stamp on disk that is known of, which no end of the server takes back.
    pub stamped: Us,
}

impl Window {
    /// The slow clock when the server saw the request, at least: that clock is behind by all that the server's may be, so
    /// that between two moments no less time passes by the server's.
    fn earliest(&self) -> Us {
        self.sent - self.lag_after
    }

    /// The slow clock then, at most.
    fn latest(&self) -> Us {
        self.answered - self.lag_before
    }
}

/// How long a stream is to live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// So many seconds after its last use.
    Ttl(u64),
    /// Until this moment.
    Until { text: String, at: Us },
}

impl Lifetime {
    /// Whether both mean the same, however it is written.
    pub fn is_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Until { at, .. }, Self::Until { at: other, .. }) => at == other,
            (one, other) => one == other,
        }
    }

    fn ttl(&self) -> Option<Us> {
        match self {
            Self::Ttl(seconds) => {
                Some(Us::try_from(*seconds).map_or(Us::MAX, |seconds| seconds.saturating_mul(1_000_000)))
            }
            Self::Until { .. } => None,
        }
    }
}

/// Whether a stream had ended when the server saw a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    No,
    Yes,
    /// That is for the answer to tell.
    Maybe,
}

/// When a stream ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    lifetime: Lifetime,
    /// Until this moment it has not, however fast the server's clock was.
    not_before: Us,
    /// From this time of the slow clock on it has.
    by: Us,
    /// The same if nobody had used it since it was created.
    unused_by: Us,
}

impl End {
    /// Of a stream that is created.
    pub fn new(lifetime: &Lifetime, window: &Window) -> Self {
        let (not_before, by) = match *lifetime {
            Lifetime::Ttl(_) => (Us::MIN, Us::MIN),
            // What is left until then is known before it is stored, and begins with that. A moment that is past is now.
            Lifetime::Until { at, .. } => {
                let late = window.answered - window.sent + WALL_SLACK;
                (at - WALL_SLACK, (at - window.lag_before + late).max(window.latest()))
            }
        };
        let mut end = Self { lifetime: lifetime.clone(), not_before, by, unused_by: by };
        end.is_used(window, 0);
        end.unused_by = end.by;
        end
    }

    /// The stream was read or written, and its reader waited at least so long.
    pub fn is_used(&mut self, window: &Window, waited: Us) {
        if let Some(ttl) = self.lifetime.ttl() {
            self.not_before = self.not_before.max((window.sent + waited).saturating_add(ttl));
        }
        self.may_be_used(window);
    }

    /// It may have been.
    pub fn may_be_used(&mut self, window: &Window) {
        if let Some(ttl) = self.lifetime.ttl() {
            // It ends an eighth late at most.
            self.by = self.by.max(window.latest().saturating_add(ttl).saturating_add(ttl / 8));
        }
    }

    pub fn at(&self, window: &Window) -> Ended {
        if window.answered < self.not_before {
            Ended::No
        } else if window.earliest() > self.by {
            Ended::Yes
        } else {
            Ended::Maybe
        }
    }

    /// Whether it has ended for good: it stays so also if the server is killed.
    pub fn is_over(&self, window: &Window) -> bool {
        window.stamped > self.by
    }

    /// It was found to have ended. Once the server is killed its clock may be behind that again.
    pub fn is_seen(&mut self, window: &Window) {
        self.by = self.by.min(window.latest());
    }

    /// Whether it would have ended by then if nobody had used it.
    pub fn outlives(&self, window: &Window) -> bool {
        window.earliest() > self.unused_by
    }

    /// When it ends at the latest if nobody uses it, by the slow clock.
    pub fn latest(&self) -> Us {
        self.by
    }

    /// The same if it is used once more at `slow`.
    pub fn latest_if_used(&self, slow: Us) -> Us {
        self.by.max(self.lifetime.ttl().map_or(Us::MIN, |ttl| slow.saturating_add(ttl).saturating_add(ttl / 8)))
    }

    /// Whether it may end while the test runs.
    pub fn is_near(&self, slow: Us) -> bool {
        self.by < slow + 60_000_000
    }

    /// Ends as this one or as the other.
    pub fn or(&mut self, other: &Self) {
        self.not_before = self.not_before.min(other.not_before);
        self.by = self.by.max(other.by);
        self.unused_by = self.unused_by.max(other.unused_by);
    }
}
