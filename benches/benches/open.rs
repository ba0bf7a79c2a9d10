//! Opening a store: after a clean close with many idle logs, and after a crash with a journal to go through.
//!
//! A crash is a copy of the directory while the store is open: the copy has no clean close. Copying and closing are not
//! measured.
//! Invariant: the opened store has the records that were acknowledged before the copy was made.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use everlog::{Config, Store};
use everlog_benches::{Random, append, append_to_each, dir_on_disk, log_name};
use std::fs::{self, File};
use std::iter::repeat;
use std::path::Path;
use std::time::{Duration, Instant};

const IDLE_LOGS: u64 = 100_000;
const CRASHED_LOGS: u64 = 10_000;
/// Payload in the journal of the crashed store: below what would start a flush.
const UNFLUSHED_BYTES: u64 = 24 << 20;
const PAYLOAD_BYTES: usize = 256;

/// A small ring, so that a copy of the directory is cheap.
fn config() -> Config {
    Config { journal_file_bytes: 16 << 20, ..Config::default() }
}

fn create(path: &Path) -> Store {
    Store::create(path, &config()).expect("an empty directory takes a new store");
    open(path)
}

fn open(path: &Path) -> Store {
    Store::open(path, config()).expect("the store opens")
}

/// One record more in each log.
fn fill(store: &Store, names: &[String], payload: &[u8]) {
    append_to_each(names, &mut repeat(payload), |batch| append(store, batch));
}

fn names(logs: u64) -> Vec<String> {
    (0..logs).map(log_name).collect()
}

fn check(store: &Store, name: &str, records: u64) {
    let info = store.info(name).expect("the log was created");
    assert_eq!(info.next_seq, records, "records of {name}");
}

fn clean(c: &mut Criterion) {
    let dir = dir_on_disk();
    let path = dir.path().join("store");
    let names = names(IDLE_LOGS);
    let store = create(&path);
    fill(&store, &names, &Random::new(1).bytes(PAYLOAD_BYTES));
    store.flush().expect("what is durable can be flushed");
    store.close().expect("a store in use by no one closes");

    c.bench_function(&format!("open/clean/{IDLE_LOGS}_idle_logs"), |b| {
        b.iter_custom(|times| {
            let mut spent = Duration::ZERO;
            for _ in 0..times {
                let start = Instant::now();
                let store = open(&path);
                spent += start.elapsed();
                check(&store, &names[0], 1);
                store.close().expect("a store in use by no one closes");
            }
            spent
        });
    });
}

fn crashed(c: &mut Criterion) {
    let dir = dir_on_disk();
    let path = dir.path().join("store");
    let names = names(CRASHED_LOGS);
    let payload = Random::new(1).bytes(PAYLOAD_BYTES);
    let rounds = UNFLUSHED_BYTES / (CRASHED_LOGS * PAYLOAD_BYTES as u64);
    let store = create(&path);
    for _ in 0..rounds {
        fill(&store, &names, &payload);
    }

    let copy = dir.path().join("copy");
    let mut group = c.benchmark_group("open");
    group.throughput(Throughput::Bytes(rounds * CRASHED_LOGS * PAYLOAD_BYTES as u64));
    group.bench_function("crashed", |b| {
        b.iter_custom(|times| {
            let mut spent = Duration::ZERO;
            for _ in 0..times {
                copy_synced(&path, &copy);
                let start = Instant::now();
                let opened = open(&copy);
                spent += start.elapsed();
                check(&opened, &names[0], rounds);
                opened.close().expect("a store in use by no one closes");
                fs::remove_dir_all(&copy).expect("the copy can be removed");
            }
            spent
        });
    });
    group.finish();
    store.close().expect("a store in use by no one closes");
}

/// Copies a directory and syncs every file, so that the open that follows does not pay for the copy.
fn copy_synced(from: &Path, to: &Path) {
    fs::create_dir(to).expect("the copy's directory can be made");
    for entry in fs::read_dir(from).expect("the store's directory can be listed") {
        let entry = entry.expect("the store's directory can be listed");
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            copy_synced(&source, &target);
        } else {
            fs::copy(&source, &target).expect("a file of the store can be copied");
            File::open(&target).and_then(|file| file.sync_all()).expect("the copy can be synced");
        }
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3));
    targets = clean, crashed
}
criterion_main!(benches);
