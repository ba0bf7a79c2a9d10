//! The victim: a process that appends to a store, or looks at one, while a test does something to it or to its disk.
//!
//! It says what it is about to do and what it was told, line by line (`real/line.rs`), and whoever listens is the
//! oracle. Its records follow from a seed (`real/content.rs`), so that any other victim can check them. The store is
//! small in all its sizes: flushes, new journal files and their reuse happen all the time.
//!
//! What it does not do: it judges nothing but what it reads. Exit codes are the project's: 0 done, 1 something read is
//! not what was appended, 4 damage, 5 the store stopped after a failed write or sync.
#![forbid(unsafe_code)]

mod answer;
mod check;
mod cold;
mod write;

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Parser, Subcommand, ValueEnum};
use everlog::clock::{Clock, SystemClock};
use everlog::io::{self, Io};
use everlog::{ColdConfig, Config, ErrorKind, IoChoice, Store, WhenFull};
use everlog_server::failure::{self, Failure};
use everlog_tests::real::line::Line;
use everlog_tests::real::mistake::{Mistake, Unsynced};

use check::CheckArgs;
use cold::ColdArgs;
use write::WriteArgs;

/// Appends to a store, or checks one, for tests that do something to it meanwhile.
#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Appends until the end of its input, and closes the store
    Write(WriteArgs),
    /// Recovers the store, reads and proves every record, and closes it
    Check(CheckArgs),
    /// Asks a cold store, in which nothing lies, for all that one owes
    Contract(ColdArgs),
    /// Asks a cold store that cannot be had, and says why nothing was to be had
    OutOfReach(ColdArgs),
}

#[derive(Args)]
struct StoreArgs {
    /// The store
    #[arg(long)]
    data: PathBuf,
    /// The backend
    #[arg(long, value_enum, default_value_t = Backend::Auto)]
    io: Backend,
    /// What the records follow from
    #[arg(long)]
    seed: u64,
    #[arg(long, default_value_t = 512 << 10)]
    journal_file_bytes: u64,
    #[arg(long, default_value_t = 3)]
    journal_files: usize,
    #[arg(long, default_value_t = 1 << 20)]
    memory_bytes: usize,
    #[arg(long, default_value_t = 256 << 10)]
    flush_bytes: usize,
    /// Ship the store there; a folder counts on any device
    #[arg(long)]
    cold: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Backend {
    Auto,
    Uring,
    Posix,
    Buffered,
}

impl StoreArgs {
    fn config(&self) -> Config {
        Config {
            journal_file_bytes: self.journal_file_bytes,
            journal_files_max: self.journal_files,
            memory_pool_bytes: self.memory_bytes,
            flush_bytes: self.flush_bytes,
            io: match self.io {
                Backend::Auto => IoChoice::Auto,
                Backend::Uring => IoChoice::Uring,
                Backend::Posix => IoChoice::Posix,
                Backend::Buffered => IoChoice::Buffered,
            },
            // An append that finds no room says so, instead of waiting unseen.
            when_full: WhenFull::Reject,
            ..Config::default()
        }
    }

    /// Opens the store; with `create` it is made if there is none, or if what is there is what a creation left that was
    /// cut short.
    fn open(&self, create: bool, mistake: Option<Mistake>) -> Result<Store, Failure> {
        say(&Line::Opening);
        let config = self.config();
        let mut disk: Arc<dyn Io> = io::choose(config.io)?;
        if mistake == Some(Mistake::Unsynced) {
            disk = Arc::new(Unsynced(disk));
        }
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let stores = self.cold.iter().map(|url| cold::connect(url)).collect::<Result<_, _>>()?;
        let cold = ColdConfig { stores, allow_dependent: true, ..ColdConfig::default() };
        let open = || Store::open_shipping_on(Arc::clone(&disk), Arc::clone(&clock), &self.data, config.clone(), &cold);
        let store = match open() {
            Err(refused) if create && refused.kind() == ErrorKind::Refused => {
                match Store::create_on(Arc::clone(&disk), Arc::clone(&clock), &self.data, &config) {
                    Err(e) if e.kind() == ErrorKind::Refused => return Err(refused.into()),
                    created => created?,
                };
                open()?
            }
            opened => opened?,
        };
        let found = store.recovery();
        let json = serde_json::json!({
            "io": store.stats().io,
            "clean": found.clean,
            "timeline": found.timeline.to_string(),
            "end": found.end.0,
            "frames": found.frames,
            "entries": found.entries,
            "bytes": found.bytes,
            "torn": found.torn.len(),
            "possibly_acknowledged": found.possibly_acknowledged.map(|(first, last)| (first.0, last.map(|lsn| lsn.0))),
            "took_us": found.took.as_micros() as u64,
        });
        say(&Line::Ready(json.to_string()));
        Ok(store)
    }
}

fn main() -> ExitCode {
    if let Err(e) = everlog::io::view::install_sigbus_handler() {
        eprintln!("the handler for damaged mappings could not be installed: {e}");
    }
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    failure::exit(match Cli::parse().command {
        Command::Write(args) => write::write(&args),
        Command::Check(args) => check::check(&args),
        Command::Contract(args) => cold::contract(&args),
        Command::OutOfReach(args) => cold::out_of_reach(&args),
    })
}

/// Says a line, by one system call. Ends the process if nobody listens any more.
fn say(line: &Line) {
    let text = format!("{line}\n");
    let mut out = std::io::stdout().lock();
    if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() {
        std::process::exit(1);
    }
}

/// What was read is not what was appended.
fn wrong(what: impl Into<String>) -> Failure {
    Failure::new(1, what, "this is a defect of the engine or of the disk: keep the store and look into it")
}
