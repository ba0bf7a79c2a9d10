//! `bench read`: logs chosen at random, each read wholly, and what that costs the device.
//!
//! The sample is chosen in a first pass; then the store is closed, its segments are dropped from the page cache, and
//! it is opened again, so that the reads find nothing warm, unless each was to be read once before.

use std::fs::File;
use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use everlog::{ReadLimit, Store};
use rustix::fs::{Advice, fadvise};
use serde::Serialize;

use super::payload::Random;
use super::{Common, histogram, process, quantile_us, ratio};
use crate::output;
use crate::progress::Progress;
use everlog_server::failure::Failure;

pub const EXAMPLES: &str = "Examples:
  everlog bench read --data ./scratch --sample 1000 --json
  everlog bench read --data ./scratch --sample 1000 --warm";

/// Bytes asked for at once.
const PAGE: ReadLimit = ReadLimit { records: 100_000, bytes: 4 << 20 };

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    common: Common,
    /// Logs to read
    #[arg(long, value_name = "K", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    sample: u64,
    /// Read each of them once before it counts
    #[arg(long)]
    warm: bool,
    /// Chooses the sample; drawn from the clock if it is missing
    #[arg(long)]
    seed: Option<u64>,
}

#[derive(Serialize)]
struct Report {
    bench: &'static str,
    config: String,
    io: String,
    seed: u64,
    sample: u64,
    warm: bool,
    records: u64,
    p50_us: f64,
    p99_us: f64,
    records_per_s: f64,
    device_bytes_per_payload_byte: Option<f64>,
    runs_max: u64,
    device_reads_per_run: f64,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let dir = &args.common.data;
    let seed = args
        .seed
        .unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64));
    let sample = {
        let store = Store::open(dir, args.common.config())?;
        let sample = choose(&store, args.sample, &mut Random::new(seed))?;
        store.close()?;
        sample
    };
    if sample.is_empty() {
        return Err(Failure::new(1, "the store holds no log", "fill it first, with `everlog bench fill`"));
    }
    forget(&dir.join("segments"))?;

    let store = Store::open(dir, args.common.config())?;
    if args.warm {
        let mut progress = Progress::new("warming up", sample.len() as u64);
        for (i, (name, first_seq)) in sample.iter().enumerate() {
            read_log(&store, name, *first_seq)?;
            progress.reached(i as u64);
        }
    }
    let mut latencies = histogram();
    let (mut records, mut payload_bytes, mut runs_max, mut nanos) = (0, 0, 0, 0);
    let device_before = process::device_read_bytes();
    let (mut before, mut progress) = (store.stats(), Progress::new("reading", sample.len() as u64));
    let first = before.clone();
    for (i, (name, first_seq)) in sample.iter().enumerate() {
        let start = Instant::now();
        let (log_records, log_bytes) = read_log(&store, name, *first_seq)?;
        let nanos_here = start.elapsed().as_nanos() as u64;
        latencies.saturating_record(nanos_here);
        nanos += nanos_here;
        records += log_records;
        payload_bytes += log_bytes;
        let after = store.stats();
        runs_max = runs_max.max(after.read_runs - before.read_runs);
        before = after;
        progress.reached(i as u64);
    }
    drop(progress);
    let device = device_before.zip(process::device_read_bytes()).map(|(before, after)| after - before);
    let report = Report {
        bench: "read",
        config: args.common.described(),
        io: before.io.to_string(),
        seed,
        sample: sample.len() as u64,
        warm: args.warm,
        records,
        p50_us: quantile_us(&latencies, 0.5),
        p99_us: quantile_us(&latencies, 0.99),
        records_per_s: ratio(records, nanos) * 1e9,
        device_bytes_per_payload_byte: device.map(|device| ratio(device, payload_bytes)),
        runs_max,
        device_reads_per_run: ratio(before.chunk_reads - first.chunk_reads, before.read_runs - first.read_runs),
    };
    store.close()?;
    output::print(&report, args.common.json)?;
    Ok(())
}

/// `wanted` logs of the store, each with the same chance (reservoir sampling, Vitter's algorithm R), by name and first
/// seq.
fn choose(store: &Store, wanted: u64, random: &mut Random) -> Result<Vec<(String, u64)>, Failure> {
    let mut sample: Vec<(String, u64)> = Vec::new();
    let (mut seen, mut after) = (0_u64, None::<String>);
    loop {
        let logs = store.list("", after.as_deref(), 1000)?;
        let Some(last) = logs.last() else { return Ok(sample) };
        after = Some(last.name.clone());
        for log in logs.into_iter().filter(|log| !log.deleted) {
            seen += 1;
            let item = (log.name, log.first_seq);
            if (sample.len() as u64) < wanted {
                sample.push(item);
            } else {
                let at = random.below(seen);
                if at < wanted {
                    sample[at as usize] = item;
                }
            }
        }
    }
}

/// Records and bytes of payload of a whole log.
fn read_log(store: &Store, name: &str, first_seq: u64) -> Result<(u64, u64), Failure> {
    let (mut next, mut records, mut bytes) = (first_seq, 0, 0);
    loop {
        let page = store.read(name, next, PAGE)?;
        records += page.records.len() as u64;
        bytes += page.records.iter().map(|record| record.payload.len() as u64).sum::<u64>();
        next = page.next_seq;
        if next >= page.head {
            return Ok((records, bytes));
        }
    }
}

/// Drops the files of a folder from the page cache.
fn forget(folder: &Path) -> Result<(), Failure> {
    for entry in std::fs::read_dir(folder)? {
        let file = File::open(entry?.path())?;
        fadvise(&file, 0, None, Advice::DontNeed).map_err(std::io::Error::from)?;
    }
    Ok(())
}
