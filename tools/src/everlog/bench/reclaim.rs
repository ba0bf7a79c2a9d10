//! `bench reclaim`: half of the logs are deleted, and what of the disk comes back once the grace is over, while appends go
//! on.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use everlog::{Batch, Store};
use serde::Serialize;

use super::fill::{self, Filler};
use super::payload::{Payloads, Random};
use super::{Common, log_name, process, ratio};
use crate::output;
use crate::progress::Progress;
use everlog_server::failure::Failure;

pub const EXAMPLES: &str = "Example:
  everlog bench reclaim --data ./scratch --logs 1000000 --records-per-log 3 --grace-seconds 20 --json

Logs are chosen at random, each with an even chance. While the grace passes and merges give space back, one thread appends
to the logs that are left and waits for each acknowledgement.";

/// Deletions under way.
const UNDER_WAY: usize = 4096;
/// Merges have nothing left to do once they stood still for so long, and for half of the grace.
const STILL: Duration = Duration::from_secs(10);

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    common: Common,
    /// Logs to create
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(10..))]
    logs: u64,
    /// Records in each of them
    #[arg(long, value_name = "R", default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    records_per_log: u64,
    /// Bytes of a record
    #[arg(long, value_name = "N", default_value_t = 100)]
    record_bytes: usize,
    /// For how long a deletion can be taken back, in seconds
    #[arg(long, value_name = "S", default_value_t = 20)]
    grace_seconds: u64,
}

#[derive(Serialize)]
struct Report {
    bench: &'static str,
    config: String,
    io: String,
    logs: u64,
    records_per_log: u64,
    record_bytes: usize,
    grace_seconds: u64,
    deleted: u64,
    bytes_full: u64,
    bytes_within_grace: u64,
    bytes_after: u64,
    given_back: f64,
    seconds_after_grace: f64,
    dropped_records: u64,
    appends_meanwhile: u64,
    appends_meanwhile_per_s: f64,
    heap_bytes: Option<u64>,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let dir = &args.common.data;
    let grace = Duration::from_secs(args.grace_seconds);
    let config = everlog::Config { grace, ..args.common.config() };
    Store::create(dir, &config)?;
    let store = Store::open(dir, config)?;
    let settings = fill::Settings {
        logs: args.logs,
        records_per_log: args.records_per_log,
        bytes: args.record_bytes,
        one_owner: false,
    };
    let mut filler = Filler::new(settings, &store);
    filler.rounds()?;
    drop(filler);
    store.flush()?;
    stands_still(&store, "merging", STILL)?;
    let bytes_full = process::data_bytes(dir)?;

    let (stop, appended) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut random = Random::new(7);
    let gone: Vec<bool> = (0..args.logs).map(|_| random.below(2) == 0).collect();
    let report = std::thread::scope(|scope| {
        let appends = scope.spawn(|| go_on(&store, &gone, args.record_bytes, &stop, &appended));
        let began = Instant::now();
        let measured = measure(args, &store, &gone, grace);
        let (meanwhile, passed) = (appended.load(Ordering::Relaxed), began.elapsed());
        stop.store(true, Ordering::Relaxed);
        appends.join().expect("no panic")?;
        let Measured { deleted, within, took } = measured?;
        let bytes_after = process::data_bytes(dir)?;
        Ok::<_, Failure>(Report {
            bench: "reclaim",
            config: args.common.described(),
            io: store.stats().io.to_string(),
            logs: args.logs,
            records_per_log: args.records_per_log,
            record_bytes: args.record_bytes,
            grace_seconds: args.grace_seconds,
            deleted,
            bytes_full,
            bytes_within_grace: within,
            bytes_after,
            given_back: 1.0 - ratio(bytes_after, bytes_full),
            seconds_after_grace: took.as_secs_f64(),
            dropped_records: store.stats().dropped_records,
            appends_meanwhile: meanwhile,
            appends_meanwhile_per_s: meanwhile as f64 / passed.as_secs_f64(),
            heap_bytes: process::memory().heap_bytes,
        })
    })?;
    store.close()?;
    output::print(&report, args.common.json)?;
    Ok(())
}

struct Measured {
    deleted: u64,
    /// Bytes when the grace was about to be over.
    within: u64,
    /// From the end of the grace until the store's size stood still.
    took: Duration,
}

fn measure(args: &Args, store: &Store, gone: &[bool], grace: Duration) -> Result<Measured, Failure> {
    let mut under_way = std::collections::VecDeque::new();
    let mut progress = Progress::new("deleting", args.logs);
    for (log, _) in (0..).zip(gone).filter(|(_, gone)| **gone) {
        let name = log_name(log);
        let mut batch = Batch::new();
        batch.log(&name).delete();
        under_way.push_back(store.append(batch)?);
        if under_way.len() == UNDER_WAY {
            under_way.pop_front().expect("some are under way").wait()?;
            progress.reached(log);
        }
    }
    under_way.into_iter().try_for_each(|ack| ack.wait().map(drop))?;
    drop(progress);
    store.flush()?;
    let over = Instant::now() + grace;
    while let Some(left) = over.checked_duration_since(Instant::now()) {
        sleep(left.min(Duration::from_millis(100)));
    }
    let within = process::data_bytes(&args.common.data)?;
    let deleted = gone.iter().filter(|gone| **gone).count() as u64;
    let took = stands_still(store, "giving space back", STILL.max(grace / 2))?;
    Ok(Measured { deleted, within, took })
}

/// Appends to logs that are not deleted until it is told to stop.
fn go_on(store: &Store, gone: &[bool], bytes: usize, stop: &AtomicBool, appended: &AtomicU64) -> Result<(), Failure> {
    let (payloads, mut random) = (Payloads::new(bytes), Random::new(8));
    while !stop.load(Ordering::Relaxed) {
        let log = random.below(gone.len() as u64);
        if gone[log as usize] {
            continue;
        }
        let name = log_name(log);
        let mut batch = Batch::new();
        batch.log(&name).record(payloads.record(&mut random));
        store.append_and_wait(batch)?;
        appended.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Waits until merges have nothing to do, and gives how long that took, the last stillness not counted.
fn stands_still(store: &Store, what: &'static str, still: Duration) -> Result<Duration, Failure> {
    let (began, mut moved) = (Instant::now(), Instant::now());
    let mut before = (0, 0);
    let mut progress = Progress::new(what, 0);
    while moved.elapsed() < still {
        let stats = store.stats();
        if let Some(error) = stats.merge_error {
            return Err(Failure::new(1, error, "see why merges fail"));
        }
        let now = (stats.merges, stats.merge_bytes_read);
        if now != before || stats.merges_under_way > 0 {
            (before, moved) = (now, Instant::now());
        }
        progress.reached(stats.merge_bytes_written);
        sleep(Duration::from_millis(100));
    }
    Ok(moved - began)
}
