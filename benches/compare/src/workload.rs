//! The workloads, and the pool of bytes that their payloads are cut from.
//!
//! Invariant: the same seed gives every engine the same logs and the same payloads in the same order on each thread.

use crate::contender::Payload;
use std::ops::Range;

/// What one measurement does.
#[derive(Clone, Copy, Debug)]
pub struct Workload {
    /// The letter that selects it.
    pub id: char,
    /// Threads, each of which appends, waits for the acknowledgement, and appends again.
    pub threads: u32,
    /// Records in one append, all for one log.
    pub records: usize,
    /// Bytes of a record's payload.
    pub bytes: usize,
    /// Logs, divided among the threads.
    pub logs: u32,
}

const LOGS: u32 = 100_000;

/// Every workload.
pub const ALL: [Workload; 4] = [
    Workload { id: 'a', threads: 16, records: 1, bytes: 256, logs: LOGS },
    Workload { id: 'b', threads: 16, records: 64, bytes: 1024, logs: LOGS },
    Workload { id: 'c', threads: 1, records: 1, bytes: 256, logs: LOGS },
    Workload { id: 'd', threads: 256, records: 1, bytes: 256, logs: LOGS },
];

/// Logs that are created in one batch before the measurement.
pub const CREATED_AT_ONCE: u32 = 256;

impl Workload {
    /// The workload called `id`.
    pub fn named(id: char) -> Option<Self> {
        ALL.into_iter().find(|w| w.id == id)
    }

    /// The logs that belong to one thread alone.
    pub fn logs_of(&self, thread: u32) -> Range<u32> {
        let bound = |n: u32| (u64::from(self.logs) * u64::from(n) / u64::from(self.threads)) as u32;
        bound(thread)..bound(thread + 1)
    }

    /// Payload bytes of one append.
    pub fn append_bytes(&self) -> u64 {
        (self.records * self.bytes) as u64
    }

    /// In words.
    pub fn title(&self) -> String {
        let threads = if self.threads == 1 { "1 thread".into() } else { format!("{} threads", self.threads) };
        match self.records {
            1 => format!("{}: {threads} × {} B", self.id, self.bytes),
            n => format!("{}: {threads} × batches of {n} × {} KiB", self.id, self.bytes >> 10),
        }
    }
}

/// SplitMix64: no secret, only bytes that do not compress and choices that can be repeated.
pub struct Random(u64);

impl Random {
    /// A stream of numbers of its own for each (seed, stream).
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut random = Self(seed ^ stream.wrapping_mul(0xd134_2543_de82_ef95));
        random.bits();
        random
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, uniform but for a bias of bound / 2^64.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(bound)) >> 64) as u64
    }
}

/// Random bytes, made once; payloads are slices of them at random places.
#[derive(Clone, Copy)]
pub struct Pool(Payload);

impl Pool {
    /// Far more than a compressor's window, so that two slices that overlap rarely meet in it.
    const BYTES: usize = 64 << 20;

    /// Fills the pool. It is never freed: the process measures once and ends.
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed, u64::MAX);
        let mut bytes = Vec::with_capacity(Self::BYTES);
        while bytes.len() < Self::BYTES {
            bytes.extend_from_slice(&random.bits().to_le_bytes());
        }
        Self(bytes.leak())
    }

    /// A slice of `len` bytes.
    pub fn slice(&self, random: &mut Random, len: usize) -> Payload {
        let at = random.below((Self::BYTES - len) as u64) as usize;
        &self.0[at..at + len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_log_belongs_to_exactly_one_thread() {
        for workload in ALL {
            let mut next = 0;
            for thread in 0..workload.threads {
                let logs = workload.logs_of(thread);
                assert_eq!(logs.start, next);
                assert!(!logs.is_empty());
                next = logs.end;
            }
            assert_eq!(next, workload.logs);
        }
    }

    #[test]
    fn random_numbers_stay_below_their_bound_and_repeat() {
        let (mut a, mut b) = (Random::new(1, 2), Random::new(1, 2));
        for _ in 0..1000 {
            let n = a.below(10);
            assert!(n < 10);
            assert_eq!(n, b.below(10));
        }
        assert_ne!(Random::new(1, 2).bits(), Random::new(1, 3).bits());
    }
}
