//! `bench fill`: many logs filled from one thread, in rounds over all logs or log after log.

use std::collections::VecDeque;
use std::time::Instant;

use clap::ValueEnum;
use everlog::{Ack, Batch, Store};
use serde::Serialize;

use super::payload::{Payloads, Random};
use super::{Common, log_name, process};
use crate::output;
use crate::progress::Progress;
use everlog_server::failure::Failure;

pub const EXAMPLES: &str = "Examples:
  everlog bench fill --data ./scratch --logs 1000000 --records-per-log 10 --record-bytes 100
  everlog bench fill --data ./scratch --logs 100000 --records-per-log 100 --order by-log --json

A log is created together with its first record. Each append is for one log; many are under way at once.";

/// Appends under way.
const UNDER_WAY: usize = 4096;
/// Records of a log in one append when the order is by log.
const RECORDS_PER_APPEND: u64 = 64;

#[derive(clap::Args)]
pub struct Args {
    #[command(flatten)]
    common: Common,
    /// Logs to create
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(10..))]
    logs: u64,
    /// Records in each of them
    #[arg(long, value_name = "R", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    records_per_log: u64,
    /// Bytes of a record
    #[arg(long, value_name = "N", default_value_t = 100)]
    record_bytes: usize,
    /// One record for each log in turn, or all records of a log before the next log
    #[arg(long, value_enum, default_value = "rounds")]
    order: Order,
    /// All logs are one owner's, instead of each being another one's
    #[arg(long)]
    one_owner: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Order {
    Rounds,
    ByLog,
}

#[derive(Serialize)]
struct Report {
    bench: &'static str,
    config: String,
    io: String,
    logs: u64,
    records_per_log: u64,
    record_bytes: usize,
    order: Order,
    one_owner: bool,
    logs_created_per_s: Vec<f64>,
    seconds: f64,
    data_bytes: u64,
    rss_bytes: Option<u64>,
    heap_bytes: Option<u64>,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let config = args.common.config();
    Store::create(&args.common.data, &config)?;
    let store = Store::open(&args.common.data, config)?;
    let settings = Settings {
        logs: args.logs,
        records_per_log: args.records_per_log,
        bytes: args.record_bytes,
        one_owner: args.one_owner,
    };
    let mut filler = Filler::new(settings, &store);
    let start = Instant::now();
    match args.order {
        Order::Rounds => filler.rounds()?,
        Order::ByLog => {
            for log in 0..args.logs {
                for first in (0..args.records_per_log).step_by(RECORDS_PER_APPEND as usize) {
                    filler.append(log, first, RECORDS_PER_APPEND.min(args.records_per_log - first))?;
                }
            }
        }
    }
    filler.settle(0)?;
    let seconds = start.elapsed().as_secs_f64();
    let memory = process::memory();
    let rates = filler.rates(start);
    drop(filler);
    let io = store.stats().io.to_string();
    store.close()?;
    let report = Report {
        bench: "fill",
        config: args.common.described(),
        io,
        logs: args.logs,
        records_per_log: args.records_per_log,
        record_bytes: args.record_bytes,
        order: args.order,
        one_owner: args.one_owner,
        logs_created_per_s: rates,
        seconds,
        data_bytes: process::data_bytes(&args.common.data)?,
        rss_bytes: memory.rss_bytes,
        heap_bytes: memory.heap_bytes,
    };
    output::print(&report, args.common.json)?;
    Ok(())
}

/// What is filled in.
#[derive(Clone, Copy)]
pub(super) struct Settings {
    pub(super) logs: u64,
    pub(super) records_per_log: u64,
    /// Of a record.
    pub(super) bytes: usize,
    pub(super) one_owner: bool,
}

/// Appends, and notes when each tenth of the logs existed.
pub(super) struct Filler<'a> {
    store: &'a Store,
    settings: Settings,
    payloads: Payloads,
    random: Random,
    under_way: VecDeque<(bool, Ack)>,
    created: u64,
    tenths: Vec<(u64, Instant)>,
    appended: u64,
    progress: Progress,
}

impl<'a> Filler<'a> {
    pub(super) fn new(settings: Settings, store: &'a Store) -> Self {
        Self {
            store,
            settings,
            payloads: Payloads::new(settings.bytes),
            random: Random::new(1),
            under_way: VecDeque::with_capacity(UNDER_WAY),
            created: 0,
            tenths: Vec::with_capacity(10),
            appended: 0,
            progress: Progress::new("filling", settings.logs * settings.records_per_log),
        }
    }

    /// One record for each log in turn, as often as each is to have records.
    pub(super) fn rounds(&mut self) -> Result<(), Failure> {
        for round in 0..self.settings.records_per_log {
            for log in 0..self.settings.logs {
                self.append(log, round, 1)?;
            }
        }
        self.settle(0)
    }

    /// Appends `records` records to a log, whose first one creates it.
    fn append(&mut self, log: u64, first: u64, records: u64) -> Result<(), Failure> {
        let name = if self.settings.one_owner { format!("users/one/{log}") } else { log_name(log) };
        let mut batch = Batch::new();
        let entry = batch.log(&name);
        if first == 0 {
            entry.create();
        }
        for _ in 0..records {
            entry.record(self.payloads.record(&mut self.random));
        }
        let ack = self.store.append(batch)?;
        self.under_way.push_back((first == 0, ack));
        self.settle(UNDER_WAY)?;
        self.appended += records;
        if self.appended % 1024 < records {
            self.progress.reached(self.appended);
        }
        Ok(())
    }

    /// Takes the acknowledgements there are, and waits until at most `left` are missing.
    fn settle(&mut self, left: usize) -> Result<(), Failure> {
        while let Some((creates, ack)) = self.under_way.pop_front() {
            match ack.try_get() {
                Some(result) => result?,
                None if self.under_way.len() < left => {
                    self.under_way.push_front((creates, ack));
                    break;
                }
                None => ack.wait()?,
            };
            if creates {
                self.created += 1;
                if self.created == self.settings.logs * (self.tenths.len() as u64 + 1) / 10 {
                    self.tenths.push((self.created, Instant::now()));
                }
            }
        }
        Ok(())
    }

    /// Logs created per second in each tenth of them.
    fn rates(&self, start: Instant) -> Vec<f64> {
        let mut before = (0, start);
        let rate = |tenth: &(u64, Instant)| {
            let rate = (tenth.0 - before.0) as f64 / (tenth.1 - before.1).as_secs_f64().max(1e-9);
            before = *tenth;
            rate
        };
        self.tenths.iter().map(rate).collect()
    }
}
