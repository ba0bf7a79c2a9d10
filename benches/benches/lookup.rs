//! Where a log is, by its name, as every first touch of one asks: of a log in the cache of heads, of one that only a
//! segment knows, and of one that does not exist; in a small store, and in a large one of several segments.
//!
//! What is measured is `Store::info`, which reads no record. No log but those of `cached` is in the cache when it is asked
//! for. All that look-ups touch was touched before the clock starts: it is the engine that is measured, and not the disk.
//! Nothing is merged or scrubbed meanwhile.
//! Invariant: each look-up consults the segments, or none of them does, as the engine's own counter tells.

use criterion::{Criterion, criterion_group, criterion_main};
use everlog::{Config, ErrorKind, Store};
use everlog_benches::{Random, append, append_to_each, dir_on_disk, log_name};
use std::iter::repeat;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;

const SMALL: u64 = 10_000;
const LARGE: u64 = 500_000;
const LARGE_SEGMENTS: u64 = 8;
/// Logs in the cache of heads, where they are to be found there.
const CACHED: u64 = 1000;
/// Names that are asked for in turn.
const NAMES: u64 = 32_768;
/// The numbers of the logs that are asked for lie so far apart: prime to the numbers of logs, so that each comes up once
/// before one comes up again.
const STRIDE: u64 = 618_033;
const PAYLOAD_BYTES: usize = 100;

// The numbers of logs have no prime factors but 2 and 5.
const _: () = assert!(!STRIDE.is_multiple_of(2) && !STRIDE.is_multiple_of(5));

/// No flush is due by itself, and no merge.
fn config(heads_max: usize) -> Config {
    Config {
        memory_pool_bytes: 512 << 20,
        flush_bytes: 256 << 20,
        merge_width: 2 * LARGE_SEGMENTS as usize,
        scrub_bytes_per_second: 0,
        heads_max,
        ..Config::default()
    }
}

struct Fixture {
    path: PathBuf,
    logs: u64,
    // Dropped last: the store's files lie in it.
    _dir: TempDir,
}

impl Fixture {
    /// A closed store of `logs` logs of one record each in `segments` segments.
    fn new(logs: u64, segments: u64) -> Self {
        let dir = dir_on_disk();
        let path = dir.path().join("store");
        let heads_max = Config::default().heads_max;
        Store::create(&path, &config(heads_max)).expect("an empty directory takes a new store");
        let store = open(&path, heads_max);
        let payload = Random::new(1).bytes(PAYLOAD_BYTES);
        for segment in 0..segments {
            create(&store, segment * logs / segments..(segment + 1) * logs / segments, &payload);
            store.flush().expect("what is durable can be flushed");
        }
        assert_eq!(store.stats().segments as u64, segments, "none was flushed or merged unasked");
        store.close().expect("a store in use by no one closes");
        Self { path, logs, _dir: dir }
    }

    /// Measures look-ups of logs that are in no cache: what the store has and, by numbers behind these, what it has not.
    fn measure(&self, c: &mut Criterion) {
        let store = open(&self.path, 1);
        let mut group = c.benchmark_group(format!("lookup/{}_logs", self.logs));
        for (bench, first, found) in [("hit", 0, true), ("miss", self.logs, false)] {
            let number = |n: u64| first + n * STRIDE % self.logs;
            let names: Vec<String> = (0..NAMES.min(self.logs)).map(|n| log_name(number(n))).collect();
            names.iter().for_each(|name| look_up(&store, name, found));
            let (before, mut asked) = (store.stats().head_loads, 0);
            let mut names = names.iter().cycle();
            group.bench_function(bench, |b| {
                b.iter(|| {
                    asked += 1;
                    look_up(&store, names.next().expect("it goes on for ever"), found);
                });
            });
            assert_eq!(store.stats().head_loads - before, asked, "each one consults the segments");
        }
        group.finish();
        store.close().expect("a store in use by no one closes");
    }

    /// Measures look-ups of logs that are in the cache.
    fn measure_cached(&self, c: &mut Criterion) {
        let store = open(&self.path, Config::default().heads_max);
        let names: Vec<String> = (0..CACHED).map(log_name).collect();
        names.iter().for_each(|name| look_up(&store, name, true));
        let before = store.stats().head_loads;
        let mut random = Random::new(2);
        c.bench_function("lookup/cached", |b| {
            b.iter(|| look_up(&store, &names[random.below(CACHED) as usize], true));
        });
        assert_eq!(store.stats().head_loads, before, "none consults a segment");
        store.close().expect("a store in use by no one closes");
    }
}

fn open(path: &Path, heads_max: usize) -> Store {
    Store::open(path, config(heads_max)).expect("the store opens")
}

/// Creates the logs of these numbers, with one record each.
fn create(store: &Store, numbers: std::ops::Range<u64>, payload: &[u8]) {
    let names: Vec<String> = numbers.map(log_name).collect();
    append_to_each(&names, &mut repeat(payload), |batch| append(store, batch));
}

fn look_up(store: &Store, name: &str, found: bool) {
    match store.info(name) {
        Ok(info) => assert!(found && info.next_seq == 1, "{name} has one record"),
        Err(error) => assert!(!found && error.kind() == ErrorKind::NotFound, "{name}: {error}"),
    }
}

fn lookups(c: &mut Criterion) {
    let small = Fixture::new(SMALL, 1);
    small.measure_cached(c);
    small.measure(c);
    Fixture::new(LARGE, LARGE_SEGMENTS).measure(c);
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(2));
    targets = lookups
}
criterion_main!(benches);
