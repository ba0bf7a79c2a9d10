//! What objects are called. docs/FORMAT.md, "The cold store". Numbers have 16 hexadecimal digits, so that names sort as
//! numbers do.

use crate::format::manifest::SegmentMeta;
use crate::types::{Epoch, SegmentId};
use std::fmt::Write;

/// Whose cold store it is: the first object.
pub const HOME: &str = "store";
/// Under which claims lie.
pub const CLAIMS: &str = "epoch/";
/// Under which segments lie.
pub const SEGMENTS: &str = "segment/";

/// The claim of an epoch.
#[must_use]
pub fn claim(epoch: Epoch) -> String {
    format!("{CLAIMS}{:016x}", epoch.0)
}

/// Under which an epoch's versions of the manifest lie.
#[must_use]
pub fn versions(epoch: Epoch) -> String {
    format!("manifest/{:016x}/", epoch.0)
}

/// A version of the manifest.
#[must_use]
pub fn version(epoch: Epoch, number: u64) -> String {
    format!("{}{number:016x}", versions(epoch))
}

/// Under which an epoch's tail objects lie.
#[must_use]
pub fn tails(epoch: Epoch) -> String {
    format!("tail/{:016x}/", epoch.0)
}

/// A tail object.
#[must_use]
pub fn tail(epoch: Epoch, number: u64) -> String {
    format!("{}{number:016x}", tails(epoch))
}

/// How often a segment is put under another key where what lies there is damaged.
pub const SEGMENT_ATTEMPTS: u32 = 4;

/// A segment: its id and its digest, since a segment that was written again under an id after a crash is another object; and
/// from the second attempt on which attempt, since nothing that is damaged there is ever replaced.
#[must_use]
pub fn segment(meta: &SegmentMeta, attempt: u32) -> String {
    let mut key = format!("{SEGMENTS}{:016x}-", meta.id.0);
    for byte in meta.digest {
        let _infallible = write!(key, "{byte:02x}");
    }
    if attempt > 0 {
        let _infallible = write!(key, "-{attempt}");
    }
    key
}

/// The id and the digest that the key of a segment has; None if it is no segment's.
#[must_use]
pub fn segment_of(key: &str) -> Option<(SegmentId, [u8; 32])> {
    let (id, rest) = key.strip_prefix(SEGMENTS)?.split_once('-')?;
    let hex = rest.get(..64)?;
    let mut digest = [0; 32];
    for (n, byte) in digest.iter_mut().enumerate() {
        *byte = u8::from_str_radix(hex.get(2 * n..2 * n + 2)?, 16).ok()?;
    }
    let meta = SegmentMeta { id: SegmentId(u64::from_str_radix(id, 16).ok()?), digest, ..SegmentMeta::default() };
    let is_key = |attempt| segment(&meta, attempt) == key;
    (0..SEGMENT_ATTEMPTS).any(is_key).then_some((meta.id, digest))
}

/// The number that the last part of a key is.
#[must_use]
pub fn number(key: &str) -> Option<u64> {
    let digits = key.rsplit('/').next()?;
    let canonical = digits.len() == 16 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    canonical.then(|| u64::from_str_radix(digits, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_as_their_numbers_and_give_them_back() {
        assert!(version(Epoch(2), 9) < version(Epoch(2), 10) && tail(Epoch(1), 255) < tail(Epoch(1), 256));
        assert_eq!(number(&tail(Epoch(3), 77)), Some(77));
        assert_eq!(number(&claim(Epoch(u64::MAX))), Some(u64::MAX));
        for foreign in ["manifest/1", "manifest/000000000000000A", "manifest/", ""] {
            assert_eq!(number(foreign), None, "{foreign}");
        }
        let meta = SegmentMeta { id: SegmentId(16), digest: [0xab; 32], ..SegmentMeta::default() };
        assert_eq!(segment(&meta, 0), format!("segment/0000000000000010-{}", "ab".repeat(32)));
        assert_eq!(segment(&meta, 2), format!("segment/0000000000000010-{}-2", "ab".repeat(32)));
        for attempt in 0..SEGMENT_ATTEMPTS {
            assert_eq!(segment_of(&segment(&meta, attempt)), Some((meta.id, meta.digest)));
        }
        let of = |key: &str| segment_of(&format!("segment/{key}"));
        let digest = "ab".repeat(32);
        assert!(of(&format!("10-{digest}")).is_none() && of(&format!("0000000000000010-{digest}-9")).is_none());
        assert!(
            of("0000000000000010-ab").is_none() && of(&format!("0000000000000010-{}", digest.to_uppercase())).is_none()
        );
    }
}
