//! How fast a flush goes that nobody waits for, so that those who append get the disk and the processors first.
//!
//! Written and read back at once, what fills the memtable takes the device for a tenth of a second and more, in which
//! each frame waits behind pieces of it. There is time until the pool is so full that appends are slowed down.

use super::Rested;
use std::time::Duration;

/// It may be ahead of the pool's use by so many bytes, beside twice that use.
const AHEAD_BYTES: usize = 1 << 20;
/// It takes no longer than this in any case: what nobody appends to is to lie in a segment soon, too.
const FLUSHED_WITHIN: Duration = Duration::from_secs(2);

/// The pace of one flush.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// What is to be written: bytes as the pool counts them.
    pub bytes: usize,
    /// What the pool held when it began,
    pub taken: usize,
    /// and may hold before appends are slowed down.
    pub taken_max: usize,
    /// By the monotonic clock.
    pub began: Duration,
    /// Whether there was time so far.
    pub rested: Rested,
}

impl Pace {
    /// Whether it can wait, `written` bytes of it being written, while the pool holds `taken`.
    #[must_use]
    pub fn can_wait(&self, written: usize, taken: usize, now: Duration) -> bool {
        let room = self.taken_max.saturating_sub(self.taken);
        let part = |of: f64, all: f64| if all > 0.0 { of / all } else { f64::INFINITY };
        let by_use = 2.0 * part(taken.saturating_sub(self.taken) as f64, room as f64);
        let by_time = now.saturating_sub(self.began).as_secs_f64() / FLUSHED_WITHIN.as_secs_f64();
        let ahead = part(written.saturating_sub(AHEAD_BYTES) as f64, self.bytes as f64);
        room > 0 && ahead > by_use + by_time
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: usize = 1 << 20;
    const PACE: Pace = Pace {
        bytes: 64 * MIB,
        taken: 70 * MIB,
        taken_max: 110 * MIB,
        began: Duration::from_secs(5),
        rested: Rested::AtEase,
    };

    fn waits(written: usize, taken: usize, millis: u64) -> bool {
        PACE.can_wait(written * MIB, taken * MIB, PACE.began + Duration::from_millis(millis))
    }

    #[test]
    fn it_is_done_when_half_of_the_room_is_used_and_goes_no_faster() {
        assert!(!waits(1, 70, 0) && waits(2, 70, 0), "it begins at once");
        assert!(waits(34, 80, 0) && !waits(33, 80, 0), "half of it at a quarter of the room");
        assert!(!waits(64, 90, 0) && !waits(64, 110, 0) && !waits(64, 500, 0));
    }

    #[test]
    fn it_ends_in_two_seconds_though_nobody_appends() {
        assert!(waits(64, 70, 1900) && !waits(64, 70, 2000) && !waits(32, 70, 1000));
    }

    #[test]
    fn there_is_no_time_where_there_is_no_room() {
        let full = Pace { taken: 110 * MIB, ..PACE };
        assert!(!full.can_wait(64 * MIB, 110 * MIB, PACE.began));
        assert!(!full.can_wait(64 * MIB, 60 * MIB, PACE.began));
    }
}
