//! `cargo xtask`: everything this repository checks about itself, as one command and as single steps.
//!
//! It checks and reports; what it writes are the digest in docs/FORMAT.md and the golden stores, and only when asked to.
//! Invariant: `ci` is exactly the steps below in their order, so that what fails there can be repeated alone.
#![forbid(unsafe_code)]

mod clients;
mod conformance;
mod fuzz;
mod posix;
mod readme;
mod steps;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Checks the repository.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "Examples:
  cargo xtask ci              everything, in the order below; stops at the first failure
  cargo xtask tidy            the rules that no compiler knows
  cargo xtask tidy --bless    after docs/FORMAT.md was brought up to date with the format's code
  cargo xtask sim --seed 17   the simulated world of seed 17 again, with its trace
  cargo xtask fuzz --seconds 3600 --target frame   one parser for an hour
  cargo xtask posix           the tests once more, on a kernel that refuses io_uring
  cargo xtask soak --minutes 60    every fault on real file systems, for an hour
  cargo xtask golden          after the format was changed: the golden stores, made anew";

#[derive(Subcommand)]
enum Command {
    /// Every step below, in this order
    Ci,
    /// The code is formatted
    Fmt,
    /// No warning of the compiler or of clippy, in any target
    Clippy,
    /// Layers, homes of unsafe code, docs/FORMAT.md against the code, nothing left undone
    Tidy {
        /// Record in docs/FORMAT.md that it describes the format's code as it is now
        #[arg(long)]
        bless: bool,
    },
    /// Licences, banned and doubled crates, sources of crates
    Deny,
    /// All tests
    Test,
    /// All tests once more while the kernel refuses io_uring, so that the posix backend runs them
    Posix,
    /// The protocol's own suite against everlogd; needs node, npm and a network
    Conformance {
        /// Three times on each backend of the disk, as a soak does
        #[arg(long)]
        soak: bool,
    },
    /// The protocol's own clients for JavaScript and Python against everlogd; needs node, npm, python3 and a network
    Clients,
    /// The README's first command, as it is written
    Readme,
    /// Mistakes made in the engine on purpose: the simulated worlds have to find each of them
    Mutants,
    /// Runs a simulated world again and prints its trace; --help says how
    #[command(disable_help_flag = true)]
    Sim {
        /// What the program `sim` takes
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// The rows of the table of faults on real file systems, for as long as given; --help says how
    #[command(disable_help_flag = true)]
    Soak {
        /// What the program `soak` takes
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// The documentation builds without a warning
    Doc,
    /// The concurrency protocols under the model checker
    Loom,
    /// Every parser under a fuzzer, briefly; needs cargo-fuzz and a C++ compiler
    Fuzz {
        /// For so many seconds a target, instead
        #[arg(long)]
        seconds: Option<u64>,
        /// One target alone
        #[arg(long)]
        target: Option<String>,
    },
    /// The benches compile, and each of them runs once
    Benches,
    /// The examples compile
    Examples,
    /// Stores on disks that fail, are full or lose power, as often as in CI; needs root
    Disks,
    /// Make the golden stores anew, in the place of those in tests/golden; no step of ci
    Golden,
}

/// Of one target that is asked for by name without a time.
const FUZZ_SECONDS: u64 = 60;

fn main() -> ExitCode {
    let root = root();
    let done = match Cli::parse().command {
        Command::Ci => steps::run_all(&root),
        Command::Fmt => steps::run_one("fmt", &root),
        Command::Clippy => steps::run_one("clippy", &root),
        Command::Tidy { bless: false } => steps::run_one("tidy", &root),
        Command::Tidy { bless: true } => tidy::bless(&root),
        Command::Deny => steps::run_one("deny", &root),
        Command::Test => steps::run_one("test", &root),
        Command::Posix => steps::run_one("posix", &root),
        Command::Conformance { soak: false } => steps::run_one("conformance", &root),
        Command::Conformance { soak: true } => conformance::soak(&root),
        Command::Clients => steps::run_one("clients", &root),
        Command::Readme => steps::run_one("readme", &root),
        Command::Mutants => steps::run_one("mutants", &root),
        Command::Sim { args } => steps::sim(&root, &args),
        Command::Soak { args } => steps::soak(&root, &args),
        Command::Doc => steps::run_one("doc", &root),
        Command::Loom => steps::run_one("loom", &root),
        Command::Fuzz { seconds: None, target: None } => steps::run_one("fuzz", &root),
        Command::Fuzz { seconds, target } => fuzz::run(&root, seconds.unwrap_or(FUZZ_SECONDS), target.as_deref()),
        Command::Benches => steps::run_one("benches", &root),
        Command::Examples => steps::run_one("examples", &root),
        Command::Disks => steps::run_one("disks", &root),
        Command::Golden => steps::golden(&root),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

/// The repository's root: this crate lies one folder below it.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in a folder of the repository").to_owned()
}
