//! The filter of a stripe: which logs are surely not in it. docs/FORMAT.md, "Lookup".
//!
//! Ten parts, each of which has the logs whose key modulo 10 is its number, as an Xor filter (Graf and Lemire, "Xor Filters:
//! Faster and Smaller Than Bloom and Cuckoo Filters", 2020) with 12 bits of each fingerprint. Each part has a checksum
//! of its own, so that "not here" costs a look at a third of a KiB and not at the whole block. Built by xorf; looked up here, on
//! the borrowed bytes of a block. Invariant: a key that was built in is never denied; what cannot be proved intact gives
//! no answer.

use crate::format::bytes::{Sink, get_u16, get_u32, get_u64, put_u32};
use crate::format::segment::FILTER_PARTS;
use crate::types::{LogId, SegmentId};
use xorf::{BinaryFuse8, Xor16};

const CRC_AT: usize = 0;
const SEED_AT: usize = CRC_AT + 4;
const FINGERPRINTS_AT: usize = SEED_AT + 8;

/// Bits that are kept of a fingerprint.
const FINGERPRINT_BITS: usize = 12;

/// The block that a filter stands in: its segment, and its number there.
pub(super) type At = (SegmentId, u64);

/// A log's key in the filter.
#[must_use]
pub(super) fn key_of(log: LogId) -> u64 {
    get_u64(&log.0, 8)
}

/// The part that has the key if any has.
#[must_use]
pub(super) fn part_of(key: u64) -> usize {
    (key % FILTER_PARTS as u64) as usize
}

/// The filter of the logs with these keys, and where each of its parts ends.
#[must_use]
pub(super) fn build(mut keys: Vec<u64>, at: At) -> (Vec<u8>, [u16; FILTER_PARTS]) {
    keys.sort_unstable_by_key(|key| (part_of(*key), *key));
    keys.dedup();
    let (mut out, mut ends) = (Vec::new(), [0; FILTER_PARTS]);
    for (n, end) in ends.iter_mut().enumerate() {
        let keys: Vec<_> = keys.iter().copied().filter(|key| part_of(*key) == n).collect();
        let begin = out.len();
        out.put(&[0; FINGERPRINTS_AT]);
        if !keys.is_empty() {
            let part = Xor16::from(&keys);
            out[begin + SEED_AT..begin + FINGERPRINTS_AT].copy_from_slice(&part.seed.to_le_bytes());
            out.resize(begin + FINGERPRINTS_AT + bytes_of(part.fingerprints.len()), 0);
            for (i, fingerprint) in part.fingerprints.iter().enumerate() {
                let at = begin + FINGERPRINTS_AT + i * FINGERPRINT_BITS / 8;
                let [low, high] = (kept(*fingerprint) << (i * FINGERPRINT_BITS % 8)).to_le_bytes();
                (out[at], out[at + 1]) = (out[at] | low, out[at + 1] | high);
            }
        }
        let crc = checksum(&out[begin..], n, at);
        put_u32(&mut out, begin + CRC_AT, crc);
        *end = out.len() as u16;
    }
    (out, ends)
}

/// Whether `key` may be in the filter that stands `at` a block, of which this is the key's `part`; false only if it surely
/// is not. None if that cannot be proved.
#[must_use]
pub(super) fn may_contain(part: &[u8], key: u64, at: At) -> Option<bool> {
    let fingerprints = proved(part, part_of(key), at)?;
    let count = fingerprints.len() * 8 / FINGERPRINT_BITS;
    if count == 0 {
        return Some(false);
    }
    let hash = mix(key.wrapping_add(get_u64(part, SEED_AT)));
    let third = count / 3;
    let fingerprint = |n: usize| {
        let place = (u64::from(hash.rotate_left(21 * n as u32) as u32) * third as u64) >> 32;
        let bit = (n * third + place as usize) * FINGERPRINT_BITS;
        get_u16(fingerprints, bit / 8) >> (bit % 8)
    };
    Some(kept((hash ^ (hash >> 32)) as u16 ^ fingerprint(0) ^ fingerprint(1) ^ fingerprint(2)) == 0)
}

/// The fingerprints of part `n` of the filter that stands `at` a block; None if the part cannot be proved intact.
#[must_use]
pub(super) fn proved(part: &[u8], n: usize, at: At) -> Option<&[u8]> {
    if part.len() < FINGERPRINTS_AT || checksum(part, n, at) != get_u32(part, CRC_AT) {
        return None;
    }
    let fingerprints = &part[FINGERPRINTS_AT..];
    let count = fingerprints.len() * 8 / FINGERPRINT_BITS;
    let is_whole = count.is_multiple_of(3) && bytes_of(count) == fingerprints.len();
    let agrees = count > 0 || get_u64(part, SEED_AT) == 0;
    (is_whole && agrees).then_some(fingerprints)
}

/// What is kept of a fingerprint.
fn kept(fingerprint: u16) -> u16 {
    fingerprint & ((1 << FINGERPRINT_BITS) - 1)
}

/// The bytes that so many fingerprints take.
fn bytes_of(fingerprints: usize) -> usize {
    (fingerprints * FINGERPRINT_BITS).div_ceil(8)
}

/// The CRC of a part, which is begun at what says where it stands.
fn checksum(part: &[u8], n: usize, (segment, number): At) -> u32 {
    let place = mix(segment.0 ^ mix(number.wrapping_mul(FILTER_PARTS as u64).wrapping_add(n as u64)));
    let mut crc = crc32fast::Hasher::new_with_initial(place as u32);
    crc.update(&part[SEED_AT..]);
    crc.finalize()
}

/// So many keys become one filter.
const PART_KEYS: usize = 1 << 20;

/// A set of logs that takes about nine bits for each, and takes a few others for its own.
#[derive(Default)]
pub(crate) struct Members {
    parts: Vec<BinaryFuse8>,
    /// Those that are not in a filter yet.
    rest: Vec<u64>,
}

impl Members {
    /// Adds a log.
    pub(crate) fn add(&mut self, log: LogId) {
        self.rest.push(key_of(log));
        if self.rest.len() == PART_KEYS {
            self.seal();
        }
    }

    /// To be called once all are added, and before any is asked for.
    pub(crate) fn seal(&mut self) {
        let mut keys = std::mem::take(&mut self.rest);
        keys.sort_unstable();
        keys.dedup();
        match BinaryFuse8::try_from(&keys) {
            _ if keys.is_empty() => {}
            Ok(filter) => self.parts.push(filter),
            // As good a set, only larger.
            Err(_) => self.rest = keys,
        }
    }

    /// Whether the log may have been added; certainly if it was.
    pub(crate) fn may_hold(&self, log: LogId) -> bool {
        let key = key_of(log);
        self.rest.binary_search(&key).is_ok() || self.parts.iter().any(|part| xorf::Filter::contains(part, &key))
    }
}

/// The finalisation of MurmurHash3 (Appleby), which the published filters hash their keys with.
fn mix(mut k: u64) -> u64 {
    k ^= k >> 33;
    k = k.wrapping_mul(0xff51_afd7_ed55_8ccd);
    k ^= k >> 33;
    k = k.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    k ^ (k >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::block::BODY_LEN;
    use crate::format::segment::{KEY_LEN, STRIPE_ENTRIES, STRIPE_INDEX_BLOCKS};
    use xorf::Filter;

    const AT: At = (SegmentId(3), 9);

    /// Keys as spread as hashes are.
    fn keys(n: u64, salt: u64) -> Vec<u64> {
        (0..n).map(|i| mix(i.wrapping_add(salt << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect()
    }

    /// A filter's parts.
    fn parts(keys: Vec<u64>) -> Vec<Vec<u8>> {
        let (bytes, ends) = build(keys, AT);
        let begin = |n: usize| n.checked_sub(1).map_or(0, |n| usize::from(ends[n]));
        (0..FILTER_PARTS).map(|n| bytes[begin(n)..usize::from(ends[n])].to_vec()).collect()
    }

    fn ask(parts: &[Vec<u8>], key: u64) -> Option<bool> {
        may_contain(&parts[part_of(key)], key, AT)
    }

    #[test]
    fn a_lookup_answers_as_xorf_does_on_the_bits_that_are_kept() {
        for n in [1, 2, 3, 10, 100, 1000, STRIPE_ENTRIES as u64] {
            let keys_in = keys(n, 1);
            let filter = parts(keys_in.clone());
            assert!(keys_in.iter().all(|k| ask(&filter, *k) == Some(true)), "{n} keys");
            let others = keys(40_000, 2);
            let passed = others.iter().filter(|k| ask(&filter, **k) != Some(false)).collect::<Vec<_>>();
            assert!(passed.len() < 30, "{} of 40000 keys that are not there were let through", passed.len());
            for part in 0..FILTER_PARTS {
                let of_part = |keys: &[u64]| keys.iter().copied().filter(|k| part_of(*k) == part).collect::<Vec<_>>();
                let keys_in = of_part(&keys_in);
                let xorf = (!keys_in.is_empty()).then(|| Xor16::from(&keys_in));
                let through = |k: &u64| xorf.as_ref().is_some_and(|xorf| xorf.contains(k));
                let denied = of_part(&others).into_iter().find(|k| through(k) && !passed.contains(&k));
                assert_eq!(denied, None, "xorf lets a key through that this does not");
            }
        }
    }

    #[test]
    fn every_number_of_logs_that_a_stripe_can_have_fits_its_block() {
        const ROOM: usize = BODY_LEN - STRIPE_INDEX_BLOCKS * KEY_LEN;
        let all = keys(STRIPE_ENTRIES as u64, 3);
        for n in (1..200).chain((200..STRIPE_ENTRIES).step_by(31)).chain([STRIPE_ENTRIES]) {
            assert!(build(all[..n].to_vec(), AT).0.len() <= ROOM, "{n} keys");
        }
        // However they are spread over the parts.
        let in_one_part = (0..STRIPE_ENTRIES as u64).map(|n| n * FILTER_PARTS as u64).collect();
        assert!(build(in_one_part, AT).0.len() <= ROOM);
    }

    #[test]
    fn keys_that_are_equal_are_one() {
        assert_eq!(build(vec![7; 100], AT), build(vec![7], AT));
    }

    #[test]
    fn each_damaged_byte_and_each_wrong_place_gives_no_answer() {
        let good = parts(keys(100, 6));
        for key in keys(100, 6).into_iter().chain(keys(100, 7)) {
            let part = &good[part_of(key)];
            for at in [(SegmentId(4), 9), (SegmentId(3), 8)] {
                assert_eq!(may_contain(part, key, at), None);
            }
            assert_eq!(may_contain(&good[(part_of(key) + 1) % FILTER_PARTS], key, AT), None);
            for at in 0..part.len() {
                let mut bad = part.clone();
                bad[at] ^= 0x20;
                assert_eq!((may_contain(&bad, key, AT), may_contain(&part[..at], key, AT)), (None, None), "byte {at}");
            }
        }
    }
}
