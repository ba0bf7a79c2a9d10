//! The filter of a stripe: which logs are surely not in it. docs/FORMAT.md, "Lookup".
//!
//! 16 parts, each of which has the logs whose key begins with its number, as a sorted list of the key's next 21 bits:
//! of each the lower 16 one after another, the upper 5 in unary (Elias 1974, Fano 1971). Each part has a checksum of
//! its own, so that "not here" costs a look at 212 bytes and not at the whole block. Where the parts end, stands
//! before them; wrong ends give bytes whose checksum is wrong. Invariant: a key that was built in is never denied; what
//! cannot be proved intact gives no answer.

use crate::format::bytes::{Sink, get_u16, get_u32, get_u64, put_u16, put_u32};
use crate::types::{LogId, SegmentId};
use std::ops::Range;

const PART_BITS: usize = 4;
const PARTS: usize = 1 << PART_BITS;
const END_LEN: usize = 2;
const ENDS_AT: usize = 0;
const PARTS_AT: usize = ENDS_AT + 32;

const _: () = assert!(PARTS_AT == PARTS * END_LEN);

/// In a part.
const CRC_AT: usize = 0;
const UPPERS_AT: usize = CRC_AT + 4;

const UPPER_BITS: usize = 5;
const UPPERS: usize = 1 << UPPER_BITS;
const LOWER_BITS: usize = 16;
const LOWER_LEN: usize = LOWER_BITS / 8;

/// The block that a filter stands in: its segment, and its number there.
pub(super) type At = (SegmentId, u64);

/// A log's key in the filter.
#[must_use]
pub(super) fn key_of(log: LogId) -> u64 {
    get_u64(&log.0, 8)
}

/// The part that has the key if any has. The highest bits of a key are the last ones of the LogId, by which logs are sorted
/// last: the first ones are nearly the same in all of a stripe if one owner has many logs.
fn part_of(key: u64) -> usize {
    (key >> (64 - PART_BITS)) as usize
}

/// What a part keeps of a key.
fn fingerprint_of(key: u64) -> usize {
    (key << PART_BITS >> (64 - UPPER_BITS - LOWER_BITS)) as usize
}

fn lower_of(fingerprint: usize) -> u16 {
    fingerprint as u16
}

fn upper_of(fingerprint: usize) -> usize {
    fingerprint >> LOWER_BITS
}

/// The filter of the logs with these keys.
#[must_use]
pub(super) fn build(keys: &[u64], at: At) -> Vec<u8> {
    let mut kept: Vec<_> = keys.iter().map(|key| (part_of(*key), fingerprint_of(*key))).collect();
    kept.sort_unstable();
    kept.dedup();
    let (mut out, mut rest) = (vec![0; PARTS_AT], &kept[..]);
    for n in 0..PARTS {
        let (here, behind) = rest.split_at(rest.partition_point(|(part, _)| *part == n));
        let begin = out.len();
        rest = behind;
        out.put(&[0; UPPERS_AT]);
        out.resize(begin + UPPERS_AT + uppers_len(here.len()), 0);
        for (i, (_, fingerprint)) in here.iter().enumerate() {
            let bit = upper_of(*fingerprint) + i;
            out[begin + UPPERS_AT + bit / 8] |= 1 << (bit % 8);
        }
        here.iter().for_each(|(_, fingerprint)| out.put(&lower_of(*fingerprint).to_le_bytes()));
        let (crc, end) = (checksum(&out[begin..], n, at), out.len() as u16);
        put_u32(&mut out, begin + CRC_AT, crc);
        put_u16(&mut out, ENDS_AT + n * END_LEN, end);
    }
    out
}

/// The bytes of the upper bits of so many fingerprints: a 1 for each, and a 0 for each value.
fn uppers_len(fingerprints: usize) -> usize {
    (fingerprints + UPPERS).div_ceil(8)
}

/// Where in a body that begins with a filter it stands where the key's part lies.
#[must_use]
pub(super) fn bounds_of(key: u64) -> Range<usize> {
    let n = part_of(key);
    ENDS_AT + n.saturating_sub(1) * END_LEN..ENDS_AT + (n + 1) * END_LEN
}

/// Where in `body`, which begins with a filter and may be damaged, the key's part lies if it says the truth.
#[must_use]
pub(super) fn place_of(body: &[u8], key: u64) -> Option<Range<usize>> {
    place(body, part_of(key))
}

/// Whether `key` may be in the filter that `body` begins with, which stands `at` a block; false only if it surely is not.
/// None if that cannot be proved.
#[must_use]
pub(super) fn may_contain(body: &[u8], key: u64, at: At) -> Option<bool> {
    let (part, wanted) = (proved(body, part_of(key), at)?, fingerprint_of(key));
    // Without a way out in between, so that many are compared at once.
    let is_wanted = |lower: &[u8]| get_u16(lower, 0) == lower_of(wanted);
    let any = part.lowers.chunks_exact(LOWER_LEN).fold(false, |any, lower| any | is_wanted(lower));
    if !any {
        return Some(false);
    }
    for (i, lower) in part.lowers.chunks_exact(LOWER_LEN).enumerate() {
        if is_wanted(lower) && part.upper_bits().nth(i)? == upper_of(wanted) {
            return Some(true);
        }
    }
    Some(false)
}

/// What the filter that `body` begins with keeps of a key, as one number.
#[must_use]
pub(super) fn kept_of(key: u64) -> u64 {
    (part_of(key) << (UPPER_BITS + LOWER_BITS) | fingerprint_of(key)) as u64
}

/// What the filter that `body` begins with keeps of its keys, in ascending order; None if a part cannot be proved intact.
#[must_use]
pub(super) fn kept(body: &[u8], at: At) -> Option<Vec<u64>> {
    let mut out = Vec::new();
    for n in 0..PARTS {
        // As it may say "not here" for the filter, a part must be one that the filter itself goes by.
        let part = proved(body, n, at).filter(Part::is_sorted)?;
        out.extend(part.fingerprints().map(|fingerprint| (n << (UPPER_BITS + LOWER_BITS) | fingerprint) as u64));
    }
    Some(out)
}

/// Whether `filter` is one of which every part can be proved intact, and nothing else.
#[must_use]
pub(super) fn is_intact(filter: &[u8], at: At) -> bool {
    (0..PARTS).all(|n| proved(filter, n, at).is_some_and(|part| part.is_sorted()))
        && place(filter, PARTS - 1).is_some_and(|l| l.end == filter.len())
}

fn place(body: &[u8], n: usize) -> Option<Range<usize>> {
    let end = |n: usize| usize::from(get_u16(body, ENDS_AT + n * END_LEN));
    (body.len() >= PARTS_AT).then(|| n.checked_sub(1).map_or(PARTS_AT, end)..end(n))
}

/// The fingerprints of a part.
struct Part<'a> {
    uppers: &'a [u8],
    lowers: &'a [u8],
}

impl<'a> Part<'a> {
    /// The upper bits of the fingerprints, in their order: as many zeros stand before the 1 for each.
    fn upper_bits(&self) -> impl Iterator<Item = usize> + use<'a> {
        let uppers = self.uppers;
        let ones = (0..uppers.len() * 8).filter(|bit| uppers[bit / 8] & (1 << (bit % 8)) != 0);
        ones.enumerate().map(|(i, bit)| bit - i)
    }

    fn fingerprints(&self) -> impl Iterator<Item = usize> + use<'a> {
        let lowers = self.lowers.chunks_exact(LOWER_LEN).map(|lower| usize::from(get_u16(lower, 0)));
        self.upper_bits().zip(lowers).map(|(upper, lower)| upper << LOWER_BITS | lower)
    }

    fn is_sorted(&self) -> bool {
        self.upper_bits().count() == self.lowers.len() / LOWER_LEN
            && self.fingerprints().is_sorted_by(|a, b| a < b)
            && self.fingerprints().last().is_none_or(|last| upper_of(last) < UPPERS)
    }
}

/// Part `n`; None if it cannot be proved intact.
fn proved(body: &[u8], n: usize, at: At) -> Option<Part<'_>> {
    let part = body.get(place(body, n)?)?;
    if part.len() < UPPERS_AT || checksum(part, n, at) != get_u32(part, CRC_AT) {
        return None;
    }
    // Eight fingerprints take two bytes each and one for their upper bits; the rest two each and one for all.
    let fingerprints = part.len().checked_sub(UPPERS_AT + UPPERS / 8)?;
    let (eights, rest) = (fingerprints / (8 * LOWER_LEN + 1), fingerprints % (8 * LOWER_LEN + 1));
    let count = 8 * eights + rest / LOWER_LEN;
    let (uppers, lowers) = part[UPPERS_AT..].split_at_checked(uppers_len(count))?;
    (lowers.len() == count * LOWER_LEN).then_some(Part { uppers, lowers })
}

/// The CRC of a part, which is begun at what says where it stands.
fn checksum(part: &[u8], n: usize, (segment, number): At) -> u32 {
    let place = mix(segment.0 ^ mix(number.wrapping_mul(PARTS as u64).wrapping_add(n as u64)));
    let mut crc = crc32fast::Hasher::new_with_initial(place as u32);
    crc.update(&part[UPPERS_AT..]);
    crc.finalize()
}

/// The finalisation of MurmurHash3 (Appleby).
pub(super) fn mix(mut k: u64) -> u64 {
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

    const AT: At = (SegmentId(3), 9);

    /// Keys as spread as hashes are.
    fn keys(n: u64, salt: u64) -> Vec<u64> {
        (0..n).map(|i| mix(i.wrapping_add(salt << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect()
    }

    fn ask(filter: &[u8], key: u64) -> Option<bool> {
        may_contain(filter, key, AT)
    }

    #[test]
    fn what_is_there_is_never_denied_and_what_is_not_nearly_always() {
        for n in [1, 2, 3, 10, 100, 1000, STRIPE_ENTRIES as u64] {
            // Of many owners; and of one with so many logs that all of a stripe have the same three bytes first.
            for same in [0, 3] {
                let of = |salt, n| {
                    let log = |key: u64| {
                        let mut log = LogId([7; 16]);
                        log.0[8 + same..].copy_from_slice(&key.to_be_bytes()[same..]);
                        key_of(log)
                    };
                    keys(n, salt).into_iter().map(log).collect::<Vec<_>>()
                };
                let there = of(1, n);
                let filter = build(&there, AT);
                assert!(there.iter().all(|k| ask(&filter, *k) == Some(true)), "{n} keys");
                let passed = of(2, 40_000).iter().filter(|k| ask(&filter, **k) != Some(false)).count();
                assert!(passed < 8, "{passed} of 40000 keys that are not there were let through");
            }
        }
    }

    #[test]
    fn as_many_logs_as_a_stripe_can_have_fit_its_block() {
        const ROOM: usize = BODY_LEN - STRIPE_INDEX_BLOCKS * KEY_LEN;
        assert!(build(&keys(STRIPE_ENTRIES as u64, 3), AT).len() <= ROOM);
        // However they are spread over the parts.
        let spread = |parts: u64| (0..STRIPE_ENTRIES as u64).map(move |n| (n % parts) << 60 | n << 40);
        for parts in 1..=PARTS as u64 {
            assert!(build(&spread(parts).collect::<Vec<_>>(), AT).len() <= ROOM, "{parts} parts");
        }
    }

    #[test]
    fn what_is_kept_is_what_was_built_in_and_nothing_is_of_a_part_that_contradicts_itself() {
        let all = keys(300, 8);
        let mut expected: Vec<_> = all.iter().map(|key| kept_of(*key)).collect();
        expected.sort_unstable();
        let good = build(&all, AT);
        assert_eq!(kept(&good, AT), Some(expected));
        // One fingerprint has no upper bits, under a right checksum.
        let part = place_of(&good, 0).expect("it has bounds");
        let mut bad = good;
        let byte = bad[part.clone()].iter().skip(UPPERS_AT).position(|byte| *byte != 0).expect("a fingerprint's");
        let at = part.start + UPPERS_AT + byte;
        bad[at] &= bad[at] - 1;
        let crc = checksum(&bad[part.clone()], 0, AT);
        put_u32(&mut bad, part.start + CRC_AT, crc);
        assert!(proved(&bad, 0, AT).is_some());
        assert_eq!((kept(&bad, AT), is_intact(&bad, AT)), (None, false));
    }

    #[test]
    fn keys_that_are_equal_are_one() {
        assert_eq!(build(&[7; 100], AT), build(&[7], AT));
    }

    #[test]
    fn each_damaged_byte_and_each_wrong_place_gives_no_answer() {
        let good = build(&keys(100, 6), AT);
        assert!(is_intact(&good, AT) && !is_intact(&[&good[..], &[0]].concat(), AT));
        for key in keys(100, 6).into_iter().chain(keys(100, 7)) {
            for at in [(SegmentId(4), 9), (SegmentId(3), 8)] {
                assert_eq!(may_contain(&good, key, at), None);
            }
            let part = place_of(&good, key).expect("it has bounds");
            let bounds = if part_of(key) == 0 { 0..END_LEN } else { bounds_of(key) };
            for at in part.clone().chain(bounds) {
                for bit in 0..8 {
                    let mut bad = good.clone();
                    bad[at] ^= 1 << bit;
                    assert_eq!((ask(&bad, key), is_intact(&bad, AT)), (None, false), "byte {at}");
                }
            }
            assert!((0..part.end).all(|len| ask(&good[..len], key).is_none()));
        }
    }
}
