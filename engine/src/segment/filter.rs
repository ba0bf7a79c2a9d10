//! The filter of a stripe: which logs are surely not in it. A binary fuse filter with 8-bit fingerprints (Graf and Lemire,
//! "Binary Fuse Filters: Fast and Smaller Than Xor Filters", 2022). docs/FORMAT.md, "Lookup".
//!
//! Built by xorf; looked up here, on the borrowed bytes of a block, because a lookup touches a block once and has no
//! use for a copy. Invariant: a key that was built in is never denied; whatever contradicts itself is a "maybe".

use crate::format::bytes::{Sink, get_u32, get_u64};
use crate::types::LogId;
use xorf::BinaryFuse8;

const SEED_AT: usize = 0;
const SEGMENT_LEN_AT: usize = SEED_AT + 8;
const SEGMENT_MASK_AT: usize = SEGMENT_LEN_AT + 4;
const SEGMENT_COUNT_LEN_AT: usize = SEGMENT_MASK_AT + 4;
const FINGERPRINTS_AT: usize = SEGMENT_COUNT_LEN_AT + 4;
const HEAD_LEN: usize = FINGERPRINTS_AT + 4;

/// A log's key in the filter.
#[must_use]
pub(super) fn key_of(log: LogId) -> u64 {
    get_u64(&log.0, 8)
}

/// The filter of the logs with these keys, of the form in which every key is a maybe if none of them can be built, or
/// none in `room` bytes.
#[must_use]
pub(super) fn build(mut keys: Vec<u64>, room: usize) -> Vec<u8> {
    keys.sort_unstable();
    keys.dedup();
    let mut out = Vec::with_capacity(room);
    let filter = BinaryFuse8::try_from(&keys).ok();
    match filter.filter(|f| HEAD_LEN + f.fingerprints.len() <= room) {
        Some(filter) => {
            let d = &filter.descriptor;
            out.put(&d.seed.to_le_bytes());
            let counts = [d.segment_length, d.segment_length_mask, d.segment_count_length];
            counts.iter().for_each(|n| out.put(&n.to_le_bytes()));
            out.put(&(filter.fingerprints.len() as u32).to_le_bytes());
            out.put(&filter.fingerprints);
        }
        None => {
            out.put(&[0; HEAD_LEN]);
            out.put(&[1]);
        }
    }
    out
}

/// Whether `key` may be among the filter's; false only if it surely is not.
#[must_use]
pub(super) fn may_contain(body: &[u8], key: u64) -> bool {
    if body.len() < HEAD_LEN {
        return true;
    }
    let fingerprints = &body[HEAD_LEN..];
    let count = get_u32(body, FINGERPRINTS_AT) as usize;
    if count == 0 || count != fingerprints.len() {
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

    /// Keys as spread as hashes are.
    fn keys(n: u64, salt: u64) -> Vec<u64> {
        (0..n).map(|i| mix(i.wrapping_add(salt << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect()
    }

    /// What a full stripe leaves of its lookup block.
    const ROOM: usize = BODY_LEN - STRIPE_INDEX_BLOCKS * KEY_LEN;

    #[test]
    fn a_lookup_answers_as_xorf_does() {
        for n in [1, 2, 3, 10, 100, 1000, STRIPE_ENTRIES as u64] {
            let keys_in = keys(n, 1);
            let filter = BinaryFuse8::try_from(&keys_in).expect("distinct keys");
            let body = build(keys_in.clone(), ROOM);
            assert!(keys_in.iter().all(|k| may_contain(&body, *k)), "{n} keys");
            let others = keys(20_000, 2);
            assert!(others.iter().all(|k| may_contain(&body, *k) == filter.contains(k)), "{n} keys");
            let passed = others.iter().filter(|k| may_contain(&body, **k)).count();
            assert!(passed < 200, "{passed} of 20000 keys that are not there were let through");
        }
    }

    #[test]
    fn every_number_of_logs_that_a_stripe_can_have_fits_its_block() {
        let all = keys(STRIPE_ENTRIES as u64, 3);
        for n in (1..200).chain((200..STRIPE_ENTRIES).step_by(31)).chain([STRIPE_ENTRIES]) {
            let body = build(all[..n].to_vec(), ROOM);
            assert!(body.len() <= ROOM && body.len() != HEAD_LEN + 1, "{n} keys");
        }
    }

    #[test]
    fn keys_that_are_equal_are_one_and_what_has_no_room_is_a_maybe() {
        let body = build(vec![7; 100], ROOM);
        assert!(may_contain(&body, 7) && body.len() != HEAD_LEN + 1);
        let body = build(keys(100, 4), 100);
        assert_eq!(body.len(), HEAD_LEN + 1);
        assert!(may_contain(&body, 7));
    }

    #[test]
    fn a_filter_that_contradicts_itself_is_a_maybe() {
        let good = build(keys(10, 6), ROOM);
        for cut in 0..good.len() {
            assert!(may_contain(&good[..cut], 77), "cut at {cut}");
        }
        let mut out_of_range = good;
        out_of_range[SEGMENT_LEN_AT + 3] = 0xff;
        assert!(may_contain(&out_of_range, 77));
    }
}
