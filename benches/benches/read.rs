//! Reads of one log among many: from a segment, and from what is not in a segment yet.
//!
//! The logs are written in turn, so that the records of one lie far apart in the journal, and together only where a
//! flush has put them. The page cache is warm: what is measured is the engine, not the disk.
//! Invariant: every page has the records asked for.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use everlog::{Config, ReadLimit, Store};
use everlog_benches::{Random, append, append_to_each, dir_on_disk, log_name};
use std::iter::repeat;
use std::time::Duration;

const LOGS: u64 = 1000;
const RECORDS: u64 = 100;
const PAYLOAD_BYTES: usize = 256;
const PAGE: u64 = 10;

/// Appends [`RECORDS`] records to each log.
fn fill(store: &Store, names: &[String]) {
    let payload = Random::new(1).bytes(PAYLOAD_BYTES);
    for _ in 0..RECORDS {
        append_to_each(names, &mut repeat(&payload[..]), |batch| append(store, batch));
    }
}

fn read(store: &Store, name: &str, from: u64, records: u64) {
    let limit = ReadLimit { records: records as usize, bytes: usize::MAX };
    let page = store.read(name, from, limit).expect("the log exists and is intact");
    assert_eq!(page.records.len() as u64, records, "the log has more records than are asked for");
}

fn reads(c: &mut Criterion) {
    let dir = dir_on_disk();
    let path = dir.path().join("store");
    Store::create(&path, &Config::default()).expect("an empty directory takes a new store");
    let store = Store::open(&path, Config::default()).expect("a store just created opens");
    let names: Vec<String> = (0..LOGS).map(log_name).collect();
    fill(&store, &names);
    measure(c, &store, &names, "unflushed");
    store.flush().expect("what is durable can be flushed");
    measure(c, &store, &names, "segment");
    store.close().expect("a store in use by no one closes");
}

fn measure(c: &mut Criterion, store: &Store, names: &[String], from: &str) {
    let mut group = c.benchmark_group(format!("read/{from}"));
    let mut random = Random::new(2);
    let mut any = |bound: u64| random.below(bound);
    group.throughput(Throughput::Elements(RECORDS));
    group.bench_function("whole_log", |b| {
        b.iter(|| read(store, &names[any(LOGS) as usize], 0, RECORDS));
    });
    group.throughput(Throughput::Elements(PAGE));
    group.bench_function("page", |b| {
        b.iter(|| read(store, &names[any(LOGS) as usize], any(RECORDS - PAGE + 1), PAGE));
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(20)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(2));
    targets = reads
}
criterion_main!(benches);
