//! A merge of as many small segments as make one due: each with records of the same logs, so that each log is gathered
//! from all of them, and each with logs of its own.
//!
//! Each merge has a new store, filled before the clock starts: on a disk, and in memory, where the engine's own work is
//! left. It is done in its steps, one after the other, without the pace that it keeps beside appends. Nothing is left out
//! of it, since no grace is over.
//! Invariant: one merge takes all segments of the same [`PAYLOAD_BYTES`], which do not compress, into one.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use everlog::Config;
use everlog_benches::{On, Random, Stepped, append_to_each, log_name};
use std::time::{Duration, Instant};

const SEGMENTS: usize = 8;
/// Logs in each segment, with one record each.
const LOGS: usize = 8192;
const RECORD_BYTES: usize = 256;
const PAYLOAD_BYTES: usize = SEGMENTS * LOGS * RECORD_BYTES;

/// No flush is due by itself, and all segments are of the same size class.
fn config() -> Config {
    Config { journal_file_bytes: 16 << 20, flush_bytes: 16 << 20, merge_width: SEGMENTS, ..Config::default() }
}

struct Load {
    /// Those of each segment.
    names: Vec<Vec<String>>,
    noise: Vec<u8>,
}

impl Load {
    /// The logs of each segment are numbered from `first` of it.
    fn new(first: impl Fn(u64) -> u64) -> Self {
        let of = |segment| (0..LOGS as u64).map(|log| log_name(first(segment) + log)).collect();
        Self { names: (0..SEGMENTS as u64).map(of).collect(), noise: Random::new(1).bytes(PAYLOAD_BYTES) }
    }

    fn filled(&self, on: On) -> Stepped {
        let mut stepped = Stepped::new(on, &config());
        let mut payloads = self.noise.chunks(RECORD_BYTES);
        for names in &self.names {
            append_to_each(names, &mut payloads, |batch| stepped.append(batch));
            stepped.flush();
        }
        stepped
    }

    fn merge(&self, on: On) -> Duration {
        let mut stepped = self.filled(on);
        assert_eq!(stepped.store.stats().segments, SEGMENTS, "none was flushed or merged unasked");
        let start = Instant::now();
        stepped.merge();
        let spent = start.elapsed();
        let stats = stepped.store.stats();
        assert_eq!((stats.merges, stats.segments, stats.dropped_records), (1, 1, 0), "one merge of all there is");
        assert!(stats.merge_bytes_written >= PAYLOAD_BYTES as u64, "{} bytes", stats.merge_bytes_written);
        spent
    }
}

fn merges(c: &mut Criterion) {
    let same = Load::new(|_| 0);
    let own = Load::new(|segment| segment * LOGS as u64);
    for on in On::ALL {
        let mut group = c.benchmark_group(format!("merge/{}", on.name()));
        group.throughput(Throughput::Bytes(PAYLOAD_BYTES as u64));
        for (load, logs) in [(&same, "same_logs"), (&own, "own_logs")] {
            group.bench_function(format!("{SEGMENTS}_segments/{logs}"), |b| {
                b.iter_custom(|times| (0..times).map(|_| load.merge(on)).sum());
            });
        }
        group.finish();
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(3));
    targets = merges
}
criterion_main!(benches);
