//! `bench append`: threads that append batches to logs chosen at random, and how long each waits for its
//! acknowledgement.

use std::collections::VecDeque;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use everlog::{Ack, Batch, ColdConfig, Stats, Store};
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
  everlog bench append --data ./scratch --logs 1000000 --hot --pipeline 64 --payload-bytes 17179869184 --json
  everlog bench append --data ./scratch --threads 16 --rate 10000 --cold file:///dev/shm/cold --json

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
    /// How long to measure, in seconds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// Measure until so many bytes of payload were appended, however long that takes
    #[arg(long, value_name = "BYTES", conflicts_with = "seconds")]
    payload_bytes: Option<u64>,
    /// Nine appends in ten go to one log in ten
    #[arg(long)]
    hot: bool,
    /// Appends that each thread has under way; 1 waits for each acknowledgement
    #[arg(long, value_name = "W", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=65_536))]
    pipeline: u64,
    /// Appends a second that are asked for, of all threads together, instead of as many as there can be; latencies count from
    /// the moment at which an append was to begin
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), conflicts_with = "pipeline")]
    rate: Option<u64>,
    /// A cold store to ship to meanwhile, empty before; may be repeated
    #[arg(long, value_name = "URL")]
    cold: Vec<String>,
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
    hot: bool,
    pipeline: u64,
    rate: Option<u64>,
    cold: Vec<String>,
    /// How far the slowest cold store was behind at the end.
    cold_lag_ms: f64,
    seconds: f64,
    appends_per_s: f64,
    records_per_s: f64,
    /// In each quarter of the records.
    quarters_records_per_s: Vec<f64>,
    bytes_per_s: f64,
    p50_us: f64,
    p99_us: f64,
    p999_us: f64,
    syncs_per_s: f64,
    device_bytes_per_payload_byte: f64,
    /// The same once everything was flushed and merges had caught up, and how long that took.
    drained_device_bytes_per_payload_byte: f64,
    drained_s: f64,
    segments: usize,
    rss_bytes: Option<u64>,
    heap_bytes: Option<u64>,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let config = args.common.config();
    let here = std::env::current_dir()?;
    let stores = args.cold.iter().map(|url| everlog::cold::connect(url, &here)).collect::<Result<_, _>>()?;
    let cold = ColdConfig { stores, allow_dependent: true, ..ColdConfig::default() };
    Store::create_shipping(&args.common.data, &config, &cold)?;
    let store = Store::open_shipping(&args.common.data, config, &cold)?;
    let names: Vec<String> = (0..args.logs).map(log_name).collect();
    create_logs(&store, &names)?;
    let payloads = Payloads::new(args.record_bytes);

    let before = store.stats();
    let Measured { latencies, elapsed, course } = measure(args, &store, &names, &payloads)?;
    let after = store.stats();
    let lags = store.cold_stores();
    let memory = process::memory();
    let (drained, drained_s) = drain(&store)?;
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
        hot: args.hot,
        pipeline: args.pipeline,
        rate: args.rate,
        cold: args.cold.clone(),
        cold_lag_ms: lags.iter().map(|level| level.lag).max().unwrap_or_default().as_secs_f64() * 1e3,
        seconds: elapsed.as_secs_f64(),
        appends_per_s: per_s(appends),
        records_per_s: per_s(appends * args.batch),
        quarters_records_per_s: quarters(&course),
        bytes_per_s: per_s(appends * args.batch * args.record_bytes as u64),
        p50_us: quantile_us(&latencies, 0.5),
        p99_us: quantile_us(&latencies, 0.99),
        p999_us: quantile_us(&latencies, 0.999),
        syncs_per_s: per_s(syncs(&after) - syncs(&before)),
        device_bytes_per_payload_byte: ratio(
            device_bytes(&after) - device_bytes(&before),
            after.payload_bytes - before.payload_bytes,
        ),
        drained_device_bytes_per_payload_byte: ratio(
            device_bytes(&drained) - device_bytes(&before),
            drained.payload_bytes - before.payload_bytes,
        ),
        drained_s,
        segments: drained.segments,
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
    let journal = stats.frame_bytes + stats.journal_headers * HEADER_BYTES + stats.journal_fill_bytes;
    journal + stats.segment_bytes_written + stats.merge_bytes_written
}

/// Has everything flushed, and waits until merges have caught up. Gives how long that took, in seconds.
fn drain(store: &Store) -> Result<(Stats, f64), Failure> {
    let began = Instant::now();
    store.flush()?;
    let (mut progress, mut most) = (Progress::new("merging", 0), 1);
    // The merges look for work when they are told of the flush, within a moment.
    let mut idle_since = Instant::now();
    loop {
        let stats = store.stats();
        most = most.max(stats.due_segments);
        progress.reached_of((most - stats.due_segments) as u64, most as u64);
        if stats.due_segments > 0 || stats.merges_under_way > 0 {
            idle_since = Instant::now();
        } else if idle_since.elapsed() > Duration::from_millis(1500) {
            return Ok((stats, began.elapsed().as_secs_f64()));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Records a second in each quarter of the records, by the times at which so many were there.
fn quarters(course: &[(Duration, u64)]) -> Vec<f64> {
    let all = course.last().map_or(0, |(_, records)| *records);
    let reached = |wanted: u64| {
        let after = course.partition_point(|(_, records)| *records < wanted);
        let (to_at, to) = course[after.min(course.len() - 1)];
        let (from_at, from) = if after == 0 { (Duration::ZERO, 0) } else { course[after - 1] };
        let part = ratio(wanted - from, to - from);
        from_at.as_secs_f64() + (to_at.saturating_sub(from_at)).as_secs_f64() * part
    };
    let times: Vec<f64> = (0..=4).map(|n| reached(all * n / 4)).collect();
    times.windows(2).map(|pair| all as f64 / 4.0 / (pair[1] - pair[0]).max(1e-9)).collect()
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

/// What was measured.
struct Measured {
    /// Of each append.
    latencies: Histogram<u64>,
    /// From the common start to the last acknowledgement.
    elapsed: Duration,
    /// How many records were acknowledged after how long, at the end too.
    course: Vec<(Duration, u64)>,
}

fn measure(args: &Args, store: &Store, names: &[String], payloads: &Payloads) -> Result<Measured, Failure> {
    let length = Duration::from_secs(args.seconds);
    // All threads, and this one, which takes the time.
    let barrier = Barrier::new(args.threads as usize + 1);
    let (running, records) = (AtomicU64::new(args.threads), AtomicU64::new(0));
    let records_max = args.payload_bytes.map(|bytes| bytes / args.record_bytes.max(1) as u64);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..args.threads)
            .map(|thread| {
                let (barrier, running, records) = (&barrier, &running, &records);
                scope.spawn(move || {
                    barrier.wait();
                    let end = match records_max {
                        Some(most) => End::Records(most),
                        None => End::At(Instant::now() + length),
                    };
                    let result = append(args, store, names, payloads, thread, end, records);
                    running.fetch_sub(1, Ordering::Relaxed);
                    result
                })
            })
            .collect();
        barrier.wait();
        let start = Instant::now();
        let whole = records_max.unwrap_or(length.as_millis() as u64);
        let mut progress = Progress::new("appending", whole);
        let mut course = Vec::new();
        while running.load(Ordering::Relaxed) > 0 {
            let left = if records_max.is_some() { length } else { length.saturating_sub(start.elapsed()) };
            std::thread::sleep(Duration::from_millis(100).min(left.max(Duration::from_millis(1))));
            let there = records.load(Ordering::Relaxed);
            course.push((start.elapsed(), there));
            progress.reached(if records_max.is_some() { there } else { start.elapsed().as_millis() as u64 });
        }
        let mut latencies = histogram();
        for thread in threads {
            let more = thread.join().expect("a thread of the bench does not panic")?;
            latencies.add(more).expect("the histograms have the same bounds");
        }
        let elapsed = start.elapsed();
        course.push((elapsed, records.load(Ordering::Relaxed)));
        Ok(Measured { latencies, elapsed, course })
    })
}

/// When a thread stops.
#[derive(Clone, Copy)]
enum End {
    At(Instant),
    /// Once all threads together have appended so many.
    Records(u64),
}

/// One thread's appends until `end`; `records` counts what is acknowledged.
fn append(
    args: &Args, store: &Store, names: &[String], payloads: &Payloads, thread: u64, end: End, records: &AtomicU64,
) -> Result<Histogram<u64>, Failure> {
    let mut random = Random::new(thread << 32);
    let mut latencies = histogram();
    let mut pace = Pace::new(args, thread);
    let mut under_way: VecDeque<(Instant, Ack)> = VecDeque::with_capacity(args.pipeline as usize);
    let mut take = |under_way: &mut VecDeque<(Instant, Ack)>| -> Result<(), Failure> {
        if let Some((begun, ack)) = under_way.pop_front() {
            ack.wait()?;
            latencies.saturating_record(begun.elapsed().as_nanos() as u64);
            records.fetch_add(args.batch, Ordering::Relaxed);
        }
        Ok(())
    };
    loop {
        let ended = match end {
            End::At(end) => Instant::now() >= end,
            End::Records(most) => records.load(Ordering::Relaxed) >= most,
        };
        if ended {
            break;
        }
        let due = pace.due();
        let mut batch = Batch::new();
        let log = batch.log(&names[choose(args, names.len() as u64, &mut random) as usize]);
        for _ in 0..args.batch {
            log.record(payloads.record(&mut random));
        }
        let begun = due.unwrap_or_else(Instant::now);
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

/// When one thread's appends are to begin, where that is asked for.
struct Pace(Option<(Instant, Duration)>);

impl Pace {
    fn new(args: &Args, thread: u64) -> Self {
        Self(args.rate.map(|rate| {
            let each = Duration::from_secs(1) / u32::try_from(rate).unwrap_or(u32::MAX);
            // The threads take turns.
            (Instant::now() + each * thread as u32, each * args.threads as u32)
        }))
    }

    /// Waits until the next append is to begin; gives when it was to have begun, if that was before.
    fn due(&mut self) -> Option<Instant> {
        let (next, every) = self.0.as_mut()?;
        let due = *next;
        *next += *every;
        match due.checked_duration_since(Instant::now()) {
            Some(left) => {
                std::thread::sleep(left);
                None
            }
            None => Some(due),
        }
    }
}

/// The log of the next append, of so many.
fn choose(args: &Args, logs: u64, random: &mut Random) -> u64 {
    let hot = logs.div_ceil(10);
    if args.hot && random.below(10) > 0 { random.below(hot) } else { random.below(logs) }
}
