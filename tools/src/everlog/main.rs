//! `everlog`: what an operator does with a store from the shell, and a device with its server.
//!
//! Commands read arguments, call the engine and print; nothing here knows the format of a file. Invariant: the exit
//! code says what happened (0 done, 1 failed, 2 bad usage, 3 refused, 4 damage, 5 stopped by an I/O error), and an
//! error prints one sentence with the cause and one with the remedy on stderr.
#![forbid(unsafe_code)]

mod bench;
mod clock;
mod device;
mod dump;
mod init;
mod inspect;
mod moment;
mod output;
mod progress;
mod restore;
mod token;
mod verify;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Creates, inspects, verifies and measures everlog stores; syncs devices.
#[derive(Parser)]
#[command(name = "everlog", version, after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Examples:
  everlog init --data ./store
  everlog inspect ./store
  everlog dump ./store --log users/alice/contacts --from 40
  everlog dump ./store --as-of 2026-11-28T14:00:00Z
  everlog verify ./store --json
  everlog restore --cold file:///mnt/cold --to ./store
  everlog restore --cold s3://bucket/store --to ./store --as-of 2026-11-28T14:00:00Z --mode rewind
  everlog clock ./store
  everlog device init ./phone --server http://127.0.0.1:4437 --user alice
  everlog device sync ./phone
  everlog token pair --scope users/alice --device phone
  everlog bench append --data ./scratch --threads 16 --seconds 10

Exit codes: 0 done, 1 failed, 2 bad usage, 3 refused (no store here, locked, newer format), 4 damage found or some
records could not be had, 5 stopped by an I/O error.";

#[derive(Subcommand)]
enum Command {
    /// Create a store in a directory that is missing or empty
    #[command(
        after_help = "Examples:\n  everlog init --data ./store\n  everlog init --data ./store --cold s3://bucket/prefix"
    )]
    Init {
        /// The directory
        #[arg(long, value_name = "DIR")]
        data: PathBuf,
        /// A cold store that it is to be shipped to, which must hold no store yet; may be repeated
        #[arg(long, value_name = "URL")]
        cold: Vec<String>,
    },
    /// Show what a store holds, also a running one, or what a server says of its store
    #[command(after_help = inspect::EXAMPLES)]
    Inspect(inspect::Args),
    /// Print records; works on a running store
    #[command(after_help = dump::EXAMPLES)]
    Dump(dump::Args),
    /// Read everything again and check it; works on a running store
    #[command(after_help = verify::EXAMPLES)]
    Verify(verify::Args),
    /// Bring a store back from a cold store, into a directory that is missing or empty
    #[command(after_help = restore::EXAMPLES)]
    Restore(restore::Args),
    /// Compare the clock that grace and expiry go by with the machine's, and let it catch up
    #[command(after_help = clock::EXAMPLES)]
    Clock(clock::Args),
    /// Make a folder a device, and sync it with a server
    #[command(subcommand, after_help = device::EXAMPLES)]
    Device(device::Command),
    /// Pair devices, and issue, list and revoke their tokens, at a running server
    #[command(subcommand, after_help = token::EXAMPLES)]
    Token(token::Command),
    /// Measure the engine on this machine
    #[command(subcommand)]
    Bench(bench::Command),
}

fn main() -> ExitCode {
    // A mapped file that is cut short under the process ends it with a line that names the file.
    if let Err(e) = everlog::io::view::install_sigbus_handler() {
        eprintln!("the handler for damaged mappings could not be installed: {e}");
    }
    let done = match Cli::parse().command {
        Command::Init { data, cold } => init::run(&data, &cold),
        Command::Inspect(args) => inspect::run(&args),
        Command::Dump(args) => dump::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Restore(args) => restore::run(&args),
        Command::Clock(args) => clock::run(&args),
        Command::Device(command) => device::run(&command),
        Command::Token(command) => token::run(&command),
        Command::Bench(command) => bench::run(&command),
    };
    everlog_server::failure::exit(done)
}
