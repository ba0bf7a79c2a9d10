//! What the benches share: bytes that do not compress, a directory on a disk, how logs are filled, and a store that is
//! driven step by step.
//!
//! Nothing here measures: each bench says itself how it uses the engine.
//! Invariant: the same seed gives the same bytes and choices, so that two runs of a bench do the same work.

mod stepped;

pub use stepped::{On, Stepped};

use everlog::{Batch, Store};
use std::path::PathBuf;
use tempfile::TempDir;

/// SplitMix64.
pub struct Random(u64);

impl Random {
    /// A stream of numbers that `seed` fixes.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(bound)) >> 64) as u64
    }

    /// Bytes that do not compress.
    pub fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = Vec::with_capacity(len + 8);
        while bytes.len() < len {
            bytes.extend_from_slice(&self.bits().to_le_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}

/// A directory that is removed when the answer is dropped. It lies in `EVERLOG_BENCH_DIR` if that is set, else in the
/// build's own directory: /tmp is often kept in memory, where a sync costs nothing and O_DIRECT may be refused.
#[must_use]
pub fn dir_on_disk() -> TempDir {
    let parent = std::env::var_os("EVERLOG_BENCH_DIR")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../target")), PathBuf::from);
    std::fs::create_dir_all(&parent).expect("the parent of the bench's directory can be made");
    TempDir::with_prefix_in("everlog-bench-", parent).expect("a directory for the bench can be made")
}

/// Logs that one batch of [`append_to_each`] appends to.
const LOGS_AT_ONCE: usize = 1000;

/// A record in each log, which is created if it is missing: the next one of `payloads`, in batches for `append`.
pub fn append_to_each<'a>(
    names: &'a [String], payloads: &mut impl Iterator<Item = &'a [u8]>, mut append: impl FnMut(Batch<'a>),
) {
    for names in names.chunks(LOGS_AT_ONCE) {
        let mut batch = Batch::new();
        for (name, payload) in names.iter().zip(&mut *payloads) {
            batch.log(name).create_if_missing().record(payload);
        }
        append(batch);
    }
}

/// Appends a batch and waits until it is durable.
pub fn append(store: &Store, batch: Batch<'_>) {
    let ack = store.append(batch).expect("a batch within the limits");
    ack.wait().expect("the logs take the batch");
}

/// The name of a log, one to a user.
#[must_use]
pub fn log_name(number: u64) -> String {
    format!("users/{number:07}/contacts")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_fixes_the_bytes_and_their_length_is_as_asked() {
        for len in [0, 1, 8, 13] {
            let bytes = Random::new(7).bytes(len);
            assert_eq!(bytes.len(), len);
            assert_eq!(bytes, Random::new(7).bytes(len));
        }
        assert_ne!(Random::new(7).bytes(16), Random::new(8).bytes(16));
    }

    #[test]
    fn a_bench_directory_goes_with_its_guard() {
        let dir = dir_on_disk();
        let path = dir.path().to_owned();
        assert!(path.is_dir());
        drop(dir);
        assert!(!path.exists());
    }
}
