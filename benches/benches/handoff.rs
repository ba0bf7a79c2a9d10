//! How appends are handed to the committer by threads that get in each other's way: the slots, the lane and its lock,
//! the encoding. No thread waits for its acknowledgements one by one.
//!
//! There is no disk; the logs exist before the clock starts, and lie in memory. In `stage` nobody takes the frames while
//! the clock runs: it is the callers' work alone. In `commit` the committer takes them, and memory in the place of a disk
//! has them at once: it is the most that this machine's processors give, whatever the disk.
//! Invariant: what a round appended is durable and flushed before the next one begins, so that all rounds find the same.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use everlog::clock::SystemClock;
use everlog::io::Io;
use everlog::io::mem::MemIo;
use everlog::{Ack, Batch, Config, Store};
use everlog_benches::{On, Random, Stepped, log_name};
use std::path::Path;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

const LOGS: u64 = 1000;
const PAYLOAD_BYTES: usize = 256;
const THREADS: [u64; 3] = [1, 4, 16];
/// Appends between two flushes: they take a small part of the pool, so that nobody is slowed down.
const ROUND: u64 = 32_768;

/// A small ring, since it lies in memory.
fn config() -> Config {
    Config { journal_file_bytes: 16 << 20, ..Config::default() }
}

/// What is appended. It is the same each time and compresses well: segments stay small.
struct Load {
    names: Vec<String>,
    payload: Vec<u8>,
}

impl Load {
    fn new() -> Self {
        Self { names: (0..LOGS).map(log_name).collect(), payload: Random::new(1).bytes(PAYLOAD_BYTES) }
    }

    fn creation(&self) -> Batch<'_> {
        let mut batch = Batch::new();
        for name in &self.names {
            batch.log(name).create();
        }
        batch
    }

    /// `appends` appends, divided evenly among `threads`. Gives the time from the first one's beginning to the end of the
    /// last one, and of each thread the last acknowledgement. With `wait` a thread ends once it has that.
    fn round(&self, store: &Store, threads: u64, appends: u64, wait: bool) -> (Duration, Vec<Ack>) {
        let barrier = Barrier::new(threads as usize);
        std::thread::scope(|scope| {
            let share = |thread: u64| appends / threads + u64::from(thread < appends % threads);
            let start = |thread| {
                let barrier = &barrier;
                scope.spawn(move || {
                    let mut random = Random::new(thread);
                    barrier.wait();
                    let began = Instant::now();
                    let mut last = None;
                    for _ in 0..share(thread) {
                        last = Some(self.append(store, &mut random));
                    }
                    if wait && let Some(ack) = last.take() {
                        ack.wait().expect("an append to a log that exists");
                    }
                    (began, Instant::now(), last)
                })
            };
            let threads: Vec<_> = (0..threads).map(start).collect();
            let ends: Vec<_> = threads.into_iter().map(|thread| thread.join().expect("no panic")).collect();
            let began = ends.iter().map(|(began, ..)| *began).min().expect("there is a thread");
            let ended = ends.iter().map(|(_, ended, _)| *ended).max().expect("there is a thread");
            (ended - began, ends.into_iter().filter_map(|(.., last)| last).collect())
        })
    }

    fn append(&self, store: &Store, random: &mut Random) -> Ack {
        let mut batch = Batch::new();
        batch.log(&self.names[random.below(LOGS) as usize]).record(&self.payload);
        store.append(batch).expect("there is room for the batch")
    }
}

/// `appends` in rounds; gives the time that these took.
fn in_rounds(appends: u64, mut round: impl FnMut(u64) -> Duration) -> Duration {
    let (whole, rest) = (appends / ROUND, appends % ROUND);
    (0..whole).map(|_| ROUND).chain((rest > 0).then_some(rest)).map(&mut round).sum()
}

fn stage(c: &mut Criterion) {
    let mut group = c.benchmark_group("handoff/stage");
    group.throughput(Throughput::Elements(1));
    for threads in THREADS {
        let (load, mut stepped) = (Load::new(), Stepped::new(On::Memory, &config()));
        stepped.append(load.creation());
        let mut appended = 0;
        group.bench_function(format!("{threads}_threads"), |b| {
            b.iter_custom(|appends| {
                appended += appends;
                in_rounds(appends, |appends| {
                    let (time, last) = load.round(&stepped.store, threads, appends, false);
                    stepped.settle(&last);
                    stepped.flush();
                    stepped.merge();
                    time
                })
            });
        });
        assert_eq!(stepped.store.stats().records, appended, "each append was staged, and became durable");
    }
    group.finish();
}

fn commit(c: &mut Criterion) {
    let mut group = c.benchmark_group("handoff/commit");
    group.throughput(Throughput::Elements(1));
    for threads in THREADS {
        let (load, store) = (Load::new(), store_in_memory());
        store.append(load.creation()).and_then(Ack::wait).expect("the logs are new");
        let mut appended = 0;
        group.bench_function(format!("{threads}_threads"), |b| {
            b.iter_custom(|appends| {
                appended += appends;
                in_rounds(appends, |appends| {
                    let (time, _) = load.round(&store, threads, appends, true);
                    store.flush().expect("what is durable can be flushed");
                    time
                })
            });
        });
        assert_eq!(store.stats().records, appended, "each append became durable");
        store.close().expect("a store in use by no one closes");
    }
    group.finish();
}

/// With threads of its own, on a disk in memory.
fn store_in_memory() -> Store {
    let (io, clock): (Arc<dyn Io>, _) = (Arc::new(MemIo::new()), Arc::new(SystemClock::default()));
    let path = Path::new("/store");
    Store::create_on(Arc::clone(&io), clock.clone(), path, &config()).expect("an empty disk takes a new store");
    Store::open_on(io, clock, path, config()).expect("a store just created opens")
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3));
    targets = stage, commit
}
criterion_main!(benches);
