//! Synced appends through the public API: group commit by the number of threads and by the size of a batch, and one
//! producer that keeps many acknowledgements under way.
//!
//! Each bench has a store of its own, on a disk, with the default configuration; the logs exist before the clock starts.
//! The figures are the disk's as much as the engine's: compare them within one run alone.
//! Invariant: an append counts once its acknowledgement is there.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use everlog::{Ack, Batch, Config, Store};
use everlog_benches::{Random, dir_on_disk, log_name};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const LOGS: u64 = 1000;
/// Acknowledgements that the one producer keeps under way.
const UNDER_WAY: usize = 1024;

struct Fixture {
    store: Store,
    names: Vec<String>,
    payload: Vec<u8>,
    // Dropped last: the store's files lie in it.
    _dir: TempDir,
}

impl Fixture {
    fn new(payload_len: usize) -> Self {
        let dir = dir_on_disk();
        let path = dir.path().join("store");
        Store::create(&path, &Config::default()).expect("an empty directory takes a new store");
        let store = Store::open(&path, Config::default()).expect("a store just created opens");
        let names: Vec<String> = (0..LOGS).map(log_name).collect();
        let mut batch = Batch::new();
        for name in &names {
            batch.log(name).create();
        }
        append(&store, batch).wait().expect("the logs are new");
        Self { store, names, payload: Random::new(1).bytes(payload_len), _dir: dir }
    }

    fn batch(&self, random: &mut Random, records: usize) -> Batch<'_> {
        let mut batch = Batch::new();
        let log = batch.log(&self.names[random.below(LOGS) as usize]);
        for _ in 0..records {
            log.record(&self.payload);
        }
        batch
    }

    /// `appends` appends, divided among `threads` as they get to them.
    fn wait_for_each(&self, threads: u64, records: usize, appends: u64) -> Duration {
        let begun = AtomicU64::new(0);
        let start = Instant::now();
        std::thread::scope(|scope| {
            for thread in 0..threads {
                let begun = &begun;
                scope.spawn(move || {
                    let mut random = Random::new(thread);
                    while begun.fetch_add(1, Ordering::Relaxed) < appends {
                        let ack = append(&self.store, self.batch(&mut random, records));
                        ack.wait().expect("an append to a log that exists");
                    }
                });
            }
        });
        start.elapsed()
    }

    /// `appends` appends from one thread, which waits for the oldest when [`UNDER_WAY`] are under way.
    fn pipelined(&self, appends: u64) -> Duration {
        let mut random = Random::new(0);
        let mut acks: VecDeque<Ack> = VecDeque::with_capacity(UNDER_WAY);
        let start = Instant::now();
        for _ in 0..appends {
            if acks.len() == UNDER_WAY {
                wait_for_oldest(&mut acks);
            }
            acks.push_back(append(&self.store, self.batch(&mut random, 1)));
        }
        while !acks.is_empty() {
            wait_for_oldest(&mut acks);
        }
        start.elapsed()
    }

    fn close(self) {
        self.store.close().expect("a store in use by no one closes");
    }
}

fn append(store: &Store, batch: Batch<'_>) -> Ack {
    store.append(batch).expect("a batch within the limits")
}

fn wait_for_oldest(acks: &mut VecDeque<Ack>) {
    if let Some(ack) = acks.pop_front() {
        ack.wait().expect("an append to a log that exists");
    }
}

fn group_commit(c: &mut Criterion) {
    let mut group = c.benchmark_group("append");
    for (threads, records, bytes) in [(1, 1, 256), (16, 1, 256), (256, 1, 256), (1, 64, 1024), (16, 64, 1024)] {
        let fixture = Fixture::new(bytes);
        group.throughput(Throughput::Elements(records as u64));
        group.bench_function(format!("{threads}_threads/{records}x{bytes}"), |b| {
            b.iter_custom(|appends| fixture.wait_for_each(threads, records, appends));
        });
        fixture.close();
    }
    let fixture = Fixture::new(256);
    group.throughput(Throughput::Elements(1));
    group.bench_function("pipelined/1x256", |b| b.iter_custom(|appends| fixture.pipelined(appends)));
    fixture.close();
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3));
    targets = group_commit
}
criterion_main!(benches);
