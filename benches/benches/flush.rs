//! A flush: what is durable in memory becomes a segment, which is written, read back and named in the manifest. Few logs
//! with many records, many with few, and as many logs as records, all of them new.
//!
//! Each flush has a new store, filled before the clock starts: on a disk, and in memory, where the engine's own work is
//! left. Neither the appends nor the making of journal files are measured.
//! Invariant: one flush takes all of the [`PAYLOAD_BYTES`], which do not compress, into one segment.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use everlog::{Batch, Config};
use everlog_benches::{On, Random, Stepped, append_to_each, log_name};
use std::time::{Duration, Instant};

/// What one flush takes, beside what the logs themselves add to that.
const PAYLOAD_BYTES: usize = 16 << 20;
const RECORD_BYTES: usize = 256;
const RECORDS: usize = PAYLOAD_BYTES / RECORD_BYTES;
/// Logs that one batch creates.
const LOGS_AT_ONCE: usize = 1024;

/// No flush is due by itself, and no append is slowed down.
fn config() -> Config {
    Config {
        journal_file_bytes: 16 << 20,
        journal_files_max: 8,
        memory_pool_bytes: 512 << 20,
        flush_bytes: 256 << 20,
        ..Config::default()
    }
}

struct Load {
    names: Vec<String>,
    noise: Vec<u8>,
    /// Whether the logs come into being with the records, and not in a flush before.
    are_new: bool,
}

impl Load {
    fn new(logs: usize, are_new: bool) -> Self {
        let names = (0..logs as u64).map(log_name).collect();
        Self { names, noise: Random::new(1).bytes(PAYLOAD_BYTES), are_new }
    }

    /// A store with [`RECORDS`] records in no segment, appended one for each log in turn.
    fn filled(&self, on: On) -> Stepped {
        let mut stepped = Stepped::new(on, &config());
        if !self.are_new {
            for names in self.names.chunks(LOGS_AT_ONCE) {
                let mut batch = Batch::new();
                names.iter().for_each(|name| _ = batch.log(name).create());
                stepped.append(batch);
            }
            stepped.flush();
        }
        let mut payloads = self.noise.chunks(RECORD_BYTES);
        for _ in 0..RECORDS / self.names.len() {
            append_to_each(&self.names, &mut payloads, |batch| stepped.append(batch));
        }
        stepped.prepare();
        stepped
    }

    fn flush(&self, on: On) -> Duration {
        let mut stepped = self.filled(on);
        let before = stepped.store.stats();
        let start = Instant::now();
        stepped.flush();
        let spent = start.elapsed();
        let after = stepped.store.stats();
        assert_eq!((after.flushes, after.segments), (before.flushes + 1, before.segments + 1), "one flush");
        let written = after.segment_bytes_written - before.segment_bytes_written;
        assert!(written >= PAYLOAD_BYTES as u64 && after.memtable_bytes == 0, "all of it: {written} bytes");
        spent
    }
}

fn flushes(c: &mut Criterion) {
    for on in On::ALL {
        let mut group = c.benchmark_group(format!("flush/{}", on.name()));
        group.throughput(Throughput::Bytes(PAYLOAD_BYTES as u64));
        for (logs, are_new, name) in [(256, false, "logs"), (16_384, false, "logs"), (RECORDS, true, "new_logs")] {
            let load = Load::new(logs, are_new);
            group.bench_function(format!("{logs}_{name}"), |b| {
                b.iter_custom(|times| (0..times).map(|_| load.flush(on)).sum());
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
    targets = flushes
}
criterion_main!(benches);
