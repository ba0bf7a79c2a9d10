//! How fast a new journal file is filled, so that those who append get the disk first.
//!
//! The file is wanted once the present one is full. Filled at once it would take the device for the time that tens of
//! mebibytes take, and each frame written meanwhile would wait behind a piece of it.

use std::time::Duration;

/// The filling may be ahead of the present file's use by so many bytes, beside twice what is used.
const AHEAD_BYTES: u64 = 4 << 20;
/// A file is filled within this time in any case, so that it is there some time when nobody appends.
const FILLED_WITHIN: Duration = Duration::from_secs(8);

/// A journal file in use.
#[derive(Clone, Copy, Debug)]
pub struct InUse {
    /// Its size.
    pub bytes: u64,
    /// Bytes of it that are used.
    pub used: u64,
}

/// Whether a new file of `bytes` bytes, of which `filled` are filled, begun so long ago, can wait, beside the present one.
#[must_use]
pub fn can_wait(bytes: u64, filled: u64, present: InUse, since: Duration) -> bool {
    let part = |of: u64, all: u64| (u128::from(bytes) * u128::from(of)).checked_div(u128::from(all)).unwrap_or(0);
    let by_time = part(since.as_millis() as u64, FILLED_WITHIN.as_millis() as u64);
    // A larger one than the present takes as much more.
    let by_use = 2 * part(present.used, present.bytes).max(u128::from(present.used));
    u128::from(filled) > by_time + by_use + u128::from(AHEAD_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn waits(bytes: u64, filled: u64, used: u64, seconds: u64) -> bool {
        let present = InUse { bytes: 64 * MIB, used: used * MIB };
        can_wait(bytes * MIB, filled * MIB, present, Duration::from_secs(seconds))
    }

    #[test]
    fn a_file_is_filled_before_the_present_one_is_full_and_not_much_sooner() {
        assert!(!waits(64, 4, 0, 0) && waits(64, 5, 0, 0));
        assert!((0..64).all(|used| !waits(64, 2 * used, used, 0)));
        assert!(waits(64, 64, 29, 0) && !waits(64, 64, 30, 0));
        assert!(!waits(1024, 1000, 32, 0), "a larger one is filled as much faster");
    }

    #[test]
    fn a_file_is_filled_in_the_end_though_nobody_appends() {
        for bytes in [64, 4096] {
            assert!(waits(bytes, bytes, 0, 7) && !waits(bytes, bytes, 0, 8));
        }
    }
}
