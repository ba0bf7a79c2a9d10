//! Bytes that no compressor makes smaller, and the random numbers they and the benches' choices come from.
//!
//! Records are slices at random places of one random buffer, so that making them costs nothing while it is measured. The
//! buffer is far larger than what is compressed together, so that hardly any two slices there share bytes, and small
//! beside the memory of a store, which it is counted with.

use bytes::Bytes;
use std::ops::Range;

/// splitmix64 (Steele, Lea, Flood, 2014).
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is not 0; the bias for bounds far below 2^64 is of no account here.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

const POOL_BYTES: usize = 4 << 20;

/// The buffer that records are taken from.
pub struct Payloads {
    pool: Bytes,
    record_bytes: usize,
}

impl Payloads {
    pub fn new(record_bytes: usize) -> Self {
        let mut random = Random::new(0x6576_6572_6c6f_6721);
        let mut pool = Vec::with_capacity(POOL_BYTES + record_bytes + 8);
        while pool.len() < POOL_BYTES + record_bytes {
            pool.extend_from_slice(&random.next().to_le_bytes());
        }
        Self { pool: pool.into(), record_bytes }
    }

    /// A record's payload.
    pub fn record(&self, random: &mut Random) -> &[u8] {
        &self.pool[self.place(random)]
    }

    /// The same, to be kept, without a copy.
    pub fn shared_record(&self, random: &mut Random) -> Bytes {
        self.pool.slice(self.place(random))
    }

    fn place(&self, random: &mut Random) -> Range<usize> {
        let at = random.below(POOL_BYTES as u64) as usize;
        at..at + self.record_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_have_their_length_and_no_pattern() {
        for record_bytes in [0, 1, 100, 9 << 20] {
            let payloads = Payloads::new(record_bytes);
            let mut random = Random::new(1);
            for _ in 0..100 {
                assert_eq!(payloads.record(&mut random).len(), record_bytes);
            }
        }
        let payloads = Payloads::new(1 << 20);
        let mut counts = [0_u32; 256];
        payloads.record(&mut Random::new(7)).iter().for_each(|byte| counts[usize::from(*byte)] += 1);
        assert!(counts.iter().all(|count| (3700..4500).contains(count)), "{counts:?}");
    }
}
