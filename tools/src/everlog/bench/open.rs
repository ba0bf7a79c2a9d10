//! `bench open`: how long a store takes to open, to its first read and to its first append.

use std::time::Instant;

use everlog::{Batch, ReadLimit, Store};
use serde::Serialize;

use super::{Common, process};
use crate::output;
use everlog_server::failure::Failure;

pub const EXAMPLES: &str = "Examples:
  everlog bench open --data ./scratch --json
  everlog bench open --data ./scratch --log users/4711/log";

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    common: Common,
    /// The log that a record is appended to, created if it is missing
    #[arg(long, value_name = "NAME", default_value = "everlog-bench/open")]
    log: String,
}

#[derive(Serialize)]
struct Report {
    bench: &'static str,
    config: String,
    io: String,
    open_ms: f64,
    first_read_ms: Option<f64>,
    first_append_ms: f64,
    journal_bytes_replayed: u64,
    rss_bytes: Option<u64>,
    heap_bytes: Option<u64>,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let start = Instant::now();
    let store = Store::open(&args.common.data, args.common.config())?;
    let open_ms = ms(start);
    let memory = process::memory();

    let log = store.list("", None, 1)?.into_iter().next();
    let start = Instant::now();
    let first_read_ms = match log {
        Some(log) => {
            store.read(&log.name, log.first_seq, ReadLimit { records: 1, ..ReadLimit::default() })?;
            Some(ms(start))
        }
        None => None,
    };

    let mut batch = Batch::new();
    batch.log(&args.log).create_if_missing().record(b"opened");
    let start = Instant::now();
    store.append_and_wait(batch)?;
    let report = Report {
        bench: "open",
        config: args.common.described(),
        io: store.stats().io.to_string(),
        open_ms,
        first_read_ms,
        first_append_ms: ms(start),
        journal_bytes_replayed: store.recovery().bytes,
        rss_bytes: memory.rss_bytes,
        heap_bytes: memory.heap_bytes,
    };
    store.close()?;
    output::print(&report, args.common.json)?;
    Ok(())
}

fn ms(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e3
}
