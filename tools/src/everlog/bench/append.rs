//! `bench append`: threads that append batches to logs chosen at random, and how long each waits for its
//! acknowledgement.

use std::collections::VecDeque;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use everlog::{Ack, Batch, Stats, Store};
use hdrhistogram::Histogram;
use serde::Serialize;

use super::payload::{Payloads, Random};
use super::{Common, histogram, log_name, process, quantile_us, ratio};
use crate::output;
use crate::progress::Progress;
use everlog_server::failure::Failure;

pub const EXAMPLES: &str = "Examples:
  everlog bench append --data ./scratch --threads 16 --record-bytes 256 --logs 100000 --seconds 10
  everlog bench append --data ./scratch --batch 64 --record-bytes 1024 --threads 16 --json
  everlog bench append --data ./scratch --pipeline 256 --json

Every acknowledgement means: on stable storage.";

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    common: Common,
    /// Threads that append
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    threads: u64,
    /// Records in a batch
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    batch: u64,
    /// Bytes of a record
    #[arg(long, value_name = "N", default_value_t = 256)]
    record_bytes: usize,
    /// Logs, created before the measurement
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    logs: u64,
    /// How long to measure
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Appends that each thread has under way; 1 waits for each acknowledgement
    #[arg(long, value_name = "W", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    pipeline: u64,
}

#[derive(Serialize)]
struct Report {
    bench: &'static str,
    config: String,
    io: String,
    threads: u64,
    batch: u64,
    record_bytes: usize,
    logs: u64,
    pipeline: u64,
    seconds: f64,
    appends_per_s: f64,
    records_per_s: f64,
    bytes_per_s: f64,
    p50_us: f64,
    p99_us: f64,
    p999_us: f64,
    syncs_per_s: f64,
    device_bytes_per_payload_byte: f64,
    rss_bytes: Option<u64>,
    heap_bytes: Option<u64>,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let config = args.common.config();
    Store::create(&args.common.data, &config)?;
    let store = Store::open(&args.common.data, config)?;
    let names: Vec<String> = (0..args.logs).map(log_name).collect();
    create_logs(&store, &names)?;
    let payloads = Payloads::new(args.record_bytes);

    let before = store.stats();
    let (latencies, elapsed) = measure(args, &store, &names, &payloads)?;
    let after = store.stats();
    let memory = process::memory();
    let per_s = |n: u64| n as f64 / elapsed.as_secs_f64();
    let appends = latencies.len();
    let report = Report {
        bench: "append",
        config: args.common.described(),
        io: after.io.to_string(),
        threads: args.threads,
        batch: args.batch,
        record_bytes: args.record_bytes,
        logs: args.logs,
        pipeline: args.pipeline,
        seconds: elapsed.as_secs_f64(),
        appends_per_s: per_s(appends),
        records_per_s: per_s(appends * args.batch),
        bytes_per_s: per_s(appends * args.batch * args.record_bytes as u64),
        p50_us: quantile_us(&latencies, 0.5),
        p99_us: quantile_us(&latencies, 0.99),
        p999_us: quantile_us(&latencies, 0.999),
        syncs_per_s: per_s(syncs(&after) - syncs(&before)),
        device_bytes_per_payload_byte: ratio(
            device_bytes(&after) - device_bytes(&before),
            after.payload_bytes - before.payload_bytes,
        ),
        rss_bytes: memory.rss_bytes,
        heap_bytes: memory.heap_bytes,
    };
    store.close()?;
    output::print(&report, args.common.json)?;
    Ok(())
}

/// Times that the commit path waited for stable storage: past the page cache each write of a frame is one, through it
/// each sync.
fn syncs(stats: &Stats) -> u64 {
    if stats.append_syncs > 0 { stats.append_syncs } else { stats.frame_writes }
}

/// Bytes that were given to the device, whatever for.
fn device_bytes(stats: &Stats) -> u64 {
    const HEADER_BYTES: u64 = 4096;
    stats.frame_bytes + stats.journal_headers * HEADER_BYTES + stats.journal_fill_bytes + stats.segment_bytes_written
}

fn create_logs(store: &Store, names: &[String]) -> Result<(), Failure> {
    const LOGS_PER_BATCH: usize = 1000;
    let mut progress = Progress::new("creating logs", names.len() as u64);
    let mut under_way: VecDeque<Ack> = VecDeque::new();
    for (i, names) in names.chunks(LOGS_PER_BATCH).enumerate() {
        let mut batch = Batch::new();
        for name in names {
            batch.log(name).create();
        }
        under_way.push_back(store.append(batch)?);
        if under_way.len() > 4
            && let Some(ack) = under_way.pop_front()
        {
            ack.wait()?;
        }
        progress.reached((i * LOGS_PER_BATCH) as u64);
    }
    for ack in under_way {
        ack.wait()?;
    }
    Ok(())
}

/// The latency of each append, and the time from the common start to the last acknowledgement.
fn measure(
    args: &Args, store: &Store, names: &[String], payloads: &Payloads,
) -> Result<(Histogram<u64>, Duration), Failure> {
    let length = Duration::from_secs(args.seconds);
    // All threads, and this one, which takes the time.
    let barrier = Barrier::new(args.threads as usize + 1);
    let running = AtomicU64::new(args.threads);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..args.threads)
            .map(|thread| {
                let (barrier, running) = (&barrier, &running);
                scope.spawn(move || {
                    barrier.wait();
                    let result = append(args, store, names, payloads, thread, Instant::now() + length);
                    running.fetch_sub(1, Ordering::Relaxed);
                    result
                })
            })
            .collect();
        barrier.wait();
        let start = Instant::now();
        let mut progress = Progress::new("appending", length.as_millis() as u64);
        while running.load(Ordering::Relaxed) > 0 && start.elapsed() < length {
            std::thread::sleep(Duration::from_millis(100).min(length.saturating_sub(start.elapsed())));
            progress.reached(start.elapsed().as_millis() as u64);
        }
        let mut all = histogram();
        for thread in threads {
            let latencies = thread.join().expect("a thread of the bench does not panic")?;
            all.add(latencies).expect("the histograms have the same bounds");
        }
        Ok((all, start.elapsed()))
    })
}

/// One thread's appends until `end`.
fn append(
    args: &Args, store: &Store, names: &[String], payloads: &Payloads, thread: u64, end: Instant,
) -> Result<Histogram<u64>, Failure> {
    let mut random = Random::new(thread << 32);
    let mut latencies = histogram();
    let mut under_way: VecDeque<(Instant, Ack)> = VecDeque::with_capacity(args.pipeline as usize);
    let mut take = |under_way: &mut VecDeque<(Instant, Ack)>| -> Result<(), Failure> {
        if let Some((begun, ack)) = under_way.pop_front() {
            ack.wait()?;
            latencies.saturating_record(begun.elapsed().as_nanos() as u64);
        }
        Ok(())
    };
    loop {
        let now = Instant::now();
        if now >= end {
            break;
        }
        let mut batch = Batch::new();
        let log = batch.log(&names[random.below(names.len() as u64) as usize]);
        for _ in 0..args.batch {
            log.record(payloads.record(&mut random));
        }
        let begun = Instant::now();
        under_way.push_back((begun, store.append(batch)?));
        if under_way.len() as u64 >= args.pipeline {
            take(&mut under_way)?;
        }
    }
    while !under_way.is_empty() {
        take(&mut under_way)?;
    }
    Ok(latencies)
}
