//! A set of logs in memory that takes about twelve bits for each, of which one look touches 32 bytes.
//!
//! A Bloom filter in blocks of 256 bits: a key sets one bit in each of a block's eight words (Putze, Sanders and Singler,
//! "Cache-, Hash- and Space-Efficient Bloom Filters", 2007; the form and the factors are those of the Parquet format's
//! split block filters). Invariant: what was added is never denied.

use super::filter::{key_of, mix};
use crate::io::view::prefetch;
use crate::types::LogId;

/// So many keys become one filter.
const PART_KEYS: usize = 1 << 20;
/// Keys for which there is a block.
const KEYS_PER_BLOCK: usize = 21;

const WORDS: usize = 8;
const FACTORS: [u32; WORDS] =
    [0x47b6_137b, 0x4497_4d91, 0x8824_ad5b, 0xa2b7_289d, 0x7054_95c7, 0x2df1_424b, 0x9efc_4947, 0x5c6b_fb31];

/// A block, within one line of the processor's cache.
#[derive(Clone, Copy, Default)]
#[repr(align(32))]
struct Block([u32; WORDS]);

impl Block {
    /// The bit of each word that a hash sets.
    fn bits(hash: u64) -> [u32; WORDS] {
        FACTORS.map(|factor| 1 << ((hash as u32).wrapping_mul(factor) >> 27))
    }
}

/// A set of logs that takes a few others for its own.
#[derive(Default)]
pub(crate) struct Members {
    parts: Vec<Vec<Block>>,
    /// Those that are not in a filter yet.
    rest: Vec<u64>,
}

impl Members {
    /// Adds a log.
    pub(crate) fn add(&mut self, log: LogId) {
        self.add_key(key_of(log));
    }

    /// Adds a log by another key than its own.
    pub(super) fn add_key(&mut self, key: u64) {
        self.rest.push(key);
        if self.rest.len() == PART_KEYS {
            self.seal();
        }
    }

    /// To be called once all are added, and before any is asked for.
    pub(crate) fn seal(&mut self) {
        let keys = std::mem::take(&mut self.rest);
        if keys.is_empty() {
            return;
        }
        let mut blocks = vec![Block::default(); keys.len().div_ceil(KEYS_PER_BLOCK)];
        for hash in keys.into_iter().map(mix) {
            let place = place(hash, blocks.len());
            blocks[place].0.iter_mut().zip(Block::bits(hash)).for_each(|(word, bit)| *word |= bit);
        }
        self.parts.push(blocks);
    }

    /// Whether the log may have been added; certainly if it was.
    pub(crate) fn may_hold(&self, log: LogId) -> bool {
        self.may_hold_key(key_of(log))
    }

    /// Has what [`Self::may_hold_key`] looks at brought from memory, and does not wait for it.
    pub(super) fn prefetch(&self, key: u64) {
        let hash = mix(key);
        self.parts.iter().for_each(|blocks| prefetch(&blocks[place(hash, blocks.len())]));
    }

    /// As [`Self::may_hold`], of a log that was added by `key`.
    pub(super) fn may_hold_key(&self, key: u64) -> bool {
        assert!(self.rest.is_empty(), "it was sealed");
        let hash = mix(key);
        self.parts.iter().any(|blocks| {
            let block = &blocks[place(hash, blocks.len())];
            // Without a way out in between, so that many are compared at once.
            block.0.iter().zip(Block::bits(hash)).fold(true, |all, (word, bit)| all & (word & bit != 0))
        })
    }
}

/// Which of so many blocks a hash falls into.
fn place(hash: u64, blocks: usize) -> usize {
    (((hash >> 32) * blocks as u64) >> 32) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_added_is_never_denied_and_what_was_not_nearly_always() {
        for n in [0, 1, 20, 1000, PART_KEYS as u64 + 1000] {
            let mut members = Members::default();
            // As like each other as a segment's are.
            let key = |n: u64| (n / 1541) << 32 | (n % 1541) << 13;
            (0..n).for_each(|n| members.add_key(key(n)));
            members.seal();
            assert!((0..n).all(|n| members.may_hold_key(key(n))), "{n} keys");
            let passed = (n..n + 100_000).filter(|n| members.may_hold_key(key(*n))).count();
            assert!(passed < 1500, "{passed} of 100000 keys that are not there were let through, of {n}");
        }
    }
}
