//! The filter: which logs are surely not in a segment. Binary fuse filters with 8-bit fingerprints, one for each block
//! (Graf and Lemire, "Binary Fuse Filters: Fast and Smaller Than Xor Filters", 2022). docs/FORMAT.md, "Filter".
//!
//! Built by xorf; looked up here, on the borrowed bytes of a block, because a lookup touches a block once and has no
//! use for a copy. Invariant: a key that was built in is never denied; whatever contradicts itself is a "maybe".

use crate::format::block::BODY_LEN;
use crate::format::bytes::{Sink, get_u32, get_u64};
use crate::types::LogId;
use xorf::BinaryFuse8;

const SEED_AT: usize = 0;
const SEGMENT_LEN_AT: usize = SEED_AT + 8;
const SEGMENT_MASK_AT: usize = SEGMENT_LEN_AT + 4;
const SEGMENT_COUNT_LEN_AT: usize = SEGMENT_MASK_AT + 4;
const FINGERPRINTS_AT: usize = SEGMENT_COUNT_LEN_AT + 4;
const HEAD_LEN: usize = FINGERPRINTS_AT + 4;

/// Keys that a block surely has room for: a test builds filters of every size up to this one.
const KEYS_MAX: usize = 2900;
/// Keys that a block gets on average. The keys are hashes, so that a block's share spreads by about its square root,
/// and the largest of thousands of blocks stays below [`KEYS_MAX`].
const KEYS_WANTED: usize = 2600;

/// A log's key in the filter.
#[must_use]
pub(super) fn key_of(log: LogId) -> u64 {
    get_u64(&log.0, 8)
}

/// Which of `blocks` blocks holds `key`.
#[must_use]
pub(super) fn block_of(key: u64, blocks: u64) -> u64 {
    ((u128::from(key) * u128::from(blocks)) >> 64) as u64
}

/// The bodies of the filter's blocks. No keys, no blocks.
#[must_use]
pub(super) fn build(mut keys: Vec<u64>) -> Vec<Vec<u8>> {
    keys.sort_unstable();
    keys.dedup();
    if keys.is_empty() {
        return Vec::new();
    }
    let mut blocks = keys.len().div_ceil(KEYS_WANTED) as u64;
    // More blocks if one of them got too much; not without end, since keys that are not spread evenly never fit.
    for _ in 0..8 {
        if partition(&keys, blocks).all(|part| part.len() <= KEYS_MAX) {
            break;
        }
        blocks += blocks / 16 + 1;
    }
    partition(&keys, blocks).map(body).collect()
}

/// The sorted `keys` of each block.
fn partition(keys: &[u64], blocks: u64) -> impl Iterator<Item = &[u64]> {
    let mut rest = keys;
    (0..blocks).map(move |block| {
        let (part, others) = rest.split_at(rest.partition_point(|key| block_of(*key, blocks) <= block));
        rest = others;
        part
    })
}

/// A block's body for these keys: of the form in which every key is a maybe if no filter of them can be built.
fn body(keys: &[u64]) -> Vec<u8> {
    let mut out = vec![0; HEAD_LEN];
    if keys.is_empty() {
        return out;
    }
    let filter = (keys.len() <= KEYS_MAX).then(|| BinaryFuse8::try_from(keys).ok()).flatten();
    match filter.filter(|f| HEAD_LEN + f.fingerprints.len() <= BODY_LEN) {
        Some(filter) => {
            out.clear();
            let d = &filter.descriptor;
            out.put(&d.seed.to_le_bytes());
            let counts = [d.segment_length, d.segment_length_mask, d.segment_count_length];
            counts.iter().for_each(|n| out.put(&n.to_le_bytes()));
            out.put(&(filter.fingerprints.len() as u32).to_le_bytes());
            out.put(&filter.fingerprints);
        }
        None => out.put(&[1]),
    }
    out
}

/// Whether the block with this body may hold `key`; false only if it surely does not.
#[must_use]
pub(super) fn may_contain(body: &[u8], key: u64) -> bool {
    if body.len() < HEAD_LEN {
        return true;
    }
    let fingerprints = &body[HEAD_LEN..];
    let count = get_u32(body, FINGERPRINTS_AT) as usize;
    if count == 0 {
        return !fingerprints.is_empty();
    }
    if count != fingerprints.len() {
        return true;
    }
    let hash = mix(key.wrapping_add(get_u64(body, SEED_AT)));
    let (segment_len, mask) = (get_u32(body, SEGMENT_LEN_AT), get_u32(body, SEGMENT_MASK_AT));
    let segment_count_len = get_u32(body, SEGMENT_COUNT_LEN_AT);
    let h0 = ((u128::from(hash) * u128::from(segment_count_len)) >> 64) as u32;
    let h1 = h0.wrapping_add(segment_len) ^ ((hash >> 18) as u32 & mask);
    let h2 = h0.wrapping_add(segment_len.wrapping_mul(2)) ^ (hash as u32 & mask);
    let at = |h: u32| fingerprints.get(h as usize);
    match (at(h0), at(h1), at(h2)) {
        (Some(a), Some(b), Some(c)) => (hash ^ (hash >> 32)) as u8 == a ^ b ^ c,
        _ => true,
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
    use xorf::Filter;

    /// Keys as spread as hashes are.
    fn keys(n: u64, salt: u64) -> Vec<u64> {
        (0..n).map(|i| mix(i.wrapping_add(salt << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect()
    }

    #[test]
    fn a_lookup_answers_as_xorf_does() {
        for n in [1, 2, 3, 10, 100, 1000, KEYS_MAX as u64] {
            let keys_in = keys(n, 1);
            let filter = BinaryFuse8::try_from(&keys_in).expect("distinct keys");
            let body = body(&keys_in);
            assert!(keys_in.iter().all(|k| may_contain(&body, *k)), "{n} keys");
            let others = keys(20_000, 2);
            assert!(others.iter().all(|k| may_contain(&body, *k) == filter.contains(k)), "{n} keys");
        }
    }

    #[test]
    fn every_number_of_keys_up_to_the_bound_fits_a_block() {
        let all = keys(KEYS_MAX as u64, 3);
        for n in (0..200).chain((200..KEYS_MAX).step_by(61)).chain([KEYS_MAX]) {
            let body = body(&all[..n]);
            assert!(body.len() <= BODY_LEN && body.len() != HEAD_LEN + 1, "{n} keys");
        }
    }

    #[test]
    fn few_others_are_let_through_and_no_key_is_denied() {
        let keys_in = keys(50_000, 4);
        let blocks = build(keys_in.clone());
        assert!((19..=22).contains(&blocks.len()), "{} blocks", blocks.len());
        let maybe = |key: &u64| may_contain(&blocks[block_of(*key, blocks.len() as u64) as usize], *key);
        assert!(keys_in.iter().all(maybe));
        let passed = keys(100_000, 5).iter().filter(|key| maybe(key)).count();
        assert!(passed < 1000, "{passed} of 100000 keys that are not there were let through");
    }

    #[test]
    fn keys_that_lie_together_are_maybes_and_not_lost() {
        let keys_in: Vec<u64> = (0..10_000).collect();
        let blocks = build(keys_in.clone());
        assert!(keys_in.iter().all(|k| may_contain(&blocks[block_of(*k, blocks.len() as u64) as usize], *k)));
        assert!(!may_contain(blocks.last().expect("some"), u64::MAX), "a block without keys denies every key");
    }

    #[test]
    fn a_body_that_contradicts_itself_is_a_maybe() {
        let good = body(&keys(10, 6));
        for cut in 0..good.len() {
            assert!(cut == HEAD_LEN || may_contain(&good[..cut], 77), "cut at {cut}");
        }
        let mut out_of_range = good;
        out_of_range[SEGMENT_LEN_AT + 3] = 0xff;
        assert!(may_contain(&out_of_range, 77));
    }
}
