//! `bench crash`: fills a store's journal faster than it is flushed, and has the process killed in the middle of it, so that
//! `bench open` has something to recover.
//!
//! Invariant: it prints before it is killed, and ends by no other way.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use everlog::{Batch, Store};
use rustix::process::{Signal, getpid, kill_process};
use serde::Serialize;

use super::payload::{Payloads, Random};
use super::{Common, log_name};
use crate::output;
use everlog_server::failure::Failure;

pub const EXAMPLES: &str = "Example:
  everlog bench crash --data ./scratch --logs 1000000 --json; everlog bench open --data ./scratch --json

The store is one that another bench made, with so many logs. The process ends by SIGKILL.";

/// Whoever has not got so far by then never will.
const PATIENCE: Duration = Duration::from_secs(60);
const THREADS: u64 = 4;
/// Records of a batch.
const BATCH: u64 = 16;
/// Batches that a thread has under way.
const UNDER_WAY: usize = 8;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    common: Common,
    /// Logs that the store holds
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..))]
    logs: u64,
    /// Bytes of a record
    #[arg(long, value_name = "N", default_value_t = 16384)]
    record_bytes: usize,
    /// MiB that are to be in the journal and in no segment; half of the journal ring if it is missing
    #[arg(long, value_name = "MIB")]
    unflushed: Option<u64>,
}

#[derive(Serialize)]
struct Report {
    bench: &'static str,
    config: String,
    io: String,
    journal_bytes: u64,
    unflushed_bytes: u64,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let config = args.common.config();
    let ring = config.journal_files_max as u64 * config.journal_file_bytes;
    let wanted = args.unflushed.map_or(ring / 2, |mib| mib << 20);
    let store = Store::open(&args.common.data, config)?;
    let (began, stop) = (Instant::now(), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let (store, stop) = (&store, &stop);
        let threads: Vec<_> = (0..THREADS).map(|n| scope.spawn(move || append(args, store, n, stop))).collect();
        while began.elapsed() < PATIENCE && threads.iter().all(|thread| !thread.is_finished()) {
            let unflushed = store.stats().memtable_bytes as u64;
            if unflushed >= wanted {
                let io = store.stats().io.to_string();
                let config = args.common.described();
                let report = Report { bench: "crash", config, io, journal_bytes: ring, unflushed_bytes: unflushed };
                output::print(&report, args.common.json)?;
                kill_process(getpid(), Signal::KILL).map_err(std::io::Error::from)?;
            }
        }
        stop.store(true, Ordering::Relaxed);
        threads.into_iter().try_for_each(|thread| thread.join().expect("no panic"))?;
        let what = format!("the flush kept up: there were never {wanted} bytes that are in no segment");
        Err(Failure::new(1, what, "ask for less with --unflushed"))
    })
}

fn append(args: &Args, store: &Store, thread: u64, stop: &AtomicBool) -> Result<(), Failure> {
    let (payloads, mut random) = (Payloads::new(args.record_bytes), Random::new(thread));
    let mut under_way = std::collections::VecDeque::with_capacity(UNDER_WAY);
    while !stop.load(Ordering::Relaxed) {
        let name = log_name(random.below(args.logs));
        let mut batch = Batch::new();
        let log = batch.log(&name).create_if_missing();
        for _ in 0..BATCH {
            log.record(payloads.record(&mut random));
        }
        under_way.push_back(store.append(batch)?);
        if under_way.len() == UNDER_WAY {
            under_way.pop_front().expect("some are under way").wait()?;
        }
    }
    under_way.into_iter().try_for_each(|ack| ack.wait().map(drop))?;
    Ok(())
}
