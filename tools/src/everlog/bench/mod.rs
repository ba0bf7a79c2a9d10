//! `everlog bench`: what the engine, or a server in front of it, does on this machine, as numbers.
//!
//! It measures with the default configuration unless a flag says otherwise, and says which it was. Payloads are
//! incompressible. Invariant: setting up (stores, logs, payloads) lies outside of every measured time.

mod append;
mod crash;
mod fill;
mod http;
mod live;
mod open;
mod payload;
mod process;
mod read;
mod reclaim;

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use everlog::{Config, IoChoice};

use everlog_server::failure::Failure;

#[derive(Subcommand)]
pub enum Command {
    /// Create a store and append to logs chosen at random
    #[command(after_help = append::EXAMPLES)]
    Append(append::Args),
    /// Create a store and fill many logs
    #[command(after_help = fill::EXAMPLES)]
    Fill(fill::Args),
    /// Open a store, read a record, append a record
    #[command(after_help = open::EXAMPLES)]
    Open(open::Args),
    /// Be killed with much in a store's journal that is in no segment
    #[command(after_help = crash::EXAMPLES)]
    Crash(crash::Args),
    /// Read logs chosen at random, each of them wholly
    #[command(after_help = read::EXAMPLES)]
    Read(read::Args),
    /// Create a store, delete half of its logs, and see what comes back of the disk after the grace
    #[command(after_help = reclaim::EXAMPLES)]
    Reclaim(reclaim::Args),
    /// Append to streams of a running server, over HTTP
    #[command(after_help = http::EXAMPLES)]
    Http(http::Args),
    /// Wait at the ends of streams of a running server over many connections, and see what they cost and how soon news come
    #[command(after_help = live::EXAMPLES)]
    Live(live::Args),
}

pub fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::Append(args) => append::run(args),
        Command::Fill(args) => fill::run(args),
        Command::Crash(args) => crash::run(args),
        Command::Open(args) => open::run(args),
        Command::Read(args) => read::run(args),
        Command::Reclaim(args) => reclaim::run(args),
        Command::Http(args) => http::run(args),
        Command::Live(args) => live::run(args),
    }
}

/// What every bench of the engine takes.
#[derive(Args)]
pub struct Common {
    /// The store's directory
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// The backend that talks to the disk
    #[arg(long, value_enum, default_value = "auto")]
    io: Io,
    /// One JSON object on stdout
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Io {
    /// io_uring where the kernel grants it, else posix
    Auto,
    Uring,
    Posix,
    /// Through the page cache, for file systems that refuse direct writes
    Buffered,
}

impl From<Io> for IoChoice {
    fn from(io: Io) -> Self {
        match io {
            Io::Auto => Self::Auto,
            Io::Uring => Self::Uring,
            Io::Posix => Self::Posix,
            Io::Buffered => Self::Buffered,
        }
    }
}

impl Common {
    fn config(&self) -> Config {
        Config { io: self.io.into(), ..Config::default() }
    }

    /// The configuration in words.
    fn described(&self) -> String {
        match self.io {
            Io::Auto => "default".to_owned(),
            io => format!(
                "default, io = {}",
                io.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned())
            ),
        }
    }
}

/// The name of the nth log of a bench.
fn log_name(n: u64) -> String {
    format!("users/{n}/log")
}

/// `part` of `whole`, 0 of nothing.
fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// Latencies in nanoseconds, up to a minute, to three digits.
fn histogram() -> hdrhistogram::Histogram<u64> {
    hdrhistogram::Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("the bounds are well formed")
}

/// A quantile of latencies, in microseconds.
fn quantile_us(latencies: &hdrhistogram::Histogram<u64>, quantile: f64) -> f64 {
    latencies.value_at_quantile(quantile) as f64 / 1e3
}
