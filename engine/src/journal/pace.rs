//! How fast a new journal file is filled, so that those who append get the disk first.
//!
//! The file is wanted once the present one is full. Filled at once it would take the device for the time that tens of
//! mebibytes take, and each frame written meanwhile would wait behind a piece of it.

use std::time::Duration;

/// The filling is ahead of the present file's use by so many bytes at most, beside twice what is used.
const AHEAD_BYTES: u64 = 4 << 20;
/// Bytes a second that are filled in any case, so that a file is there some time when nobody appends.
const BYTES_PER_SECOND_MIN: u64 = 16 << 20;

/// Whether a file of which `filled` bytes are filled, begun so long ago, can wait: of the present one `used` bytes are.
#[must_use]
pub fn can_wait(filled: u64, used: u64, since: Duration) -> bool {
    let due = u64::try_from(since.as_millis()).unwrap_or(u64::MAX).saturating_mul(BYTES_PER_SECOND_MIN / 1000);
    filled > due.saturating_add(2 * used + AHEAD_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_file_is_filled_before_the_present_one_is_full_and_not_much_sooner() {
        let now = Duration::ZERO;
        assert!(!can_wait(4 * MIB, 0, now) && can_wait(5 * MIB, 0, now));
        assert!((0..64).all(|used| !can_wait(2 * used * MIB, used * MIB, now)));
        assert!(can_wait(64 * MIB, 29 * MIB, now) && !can_wait(64 * MIB, 30 * MIB, now));
    }

    #[test]
    fn a_file_is_filled_in_the_end_though_nobody_appends() {
        assert!(can_wait(64 * MIB, 0, Duration::from_secs(3)));
        assert!(!can_wait(64 * MIB, 0, Duration::from_secs(4)));
    }
}
