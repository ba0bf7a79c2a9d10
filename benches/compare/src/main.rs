//! everlog and raft-engine side by side: synced appends on the same directory, in turn.
//!
//! This file reads the arguments and goes through the runs. It says nothing about reading, recovery or memory over
//! time; docs/PERFORMANCE.md says what the figures mean.
//! Invariant: nothing is reported of an alternation that was not completed by every engine.

mod child;
mod contender;
mod drive;
mod ever;
mod machine;
mod raft;
mod report;
mod space;
mod workload;

use clap::{Args, Parser, Subcommand, ValueEnum};
use contender::Outcome;
use drive::Span;
use report::{Report, Row};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use workload::Workload;

/// Compares synced appends of everlog and raft-engine.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(flatten)]
    compare: Compare,
    #[command(subcommand)]
    command: Option<Hidden>,
}

#[derive(Args)]
struct Compare {
    /// A short look: windows of 2 s and 2 alternations, unless these are given
    #[arg(long)]
    quick: bool,
    /// Seconds of each window that counts [default: 5]
    #[arg(long, value_name = "S")]
    seconds: Option<f64>,
    /// How many times each engine runs each workload, in turn [default: 5]
    #[arg(long, value_name = "N")]
    alternations: Option<usize>,
    /// Where to put the data; on a disk, not in memory
    #[arg(long, value_name = "DIR", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/target/data"))]
    dir: PathBuf,
    /// The workloads
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "a,b,c,d")]
    rows: Vec<char>,
    /// The engines, in the order of their turns
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_values_t = Engine::ALL)]
    engines: Vec<Engine>,
    /// Also write the report to this file
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Hidden {
    /// One run, by the program itself
    #[command(hide = true)]
    Run { engine: Engine, dir: PathBuf, row: char, seconds: f64, warm_up: f64, seed: u64 },
}

/// Who takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Engine {
    /// everlog.
    Everlog,
    /// raft-engine.
    RaftEngine,
}

impl Engine {
    const ALL: &[Self] = &[Self::Everlog, Self::RaftEngine];

    /// As it is written on the command line and in the report.
    pub fn name(self) -> &'static str {
        match self {
            Self::Everlog => "everlog",
            Self::RaftEngine => "raft-engine",
        }
    }

    /// Its version and its settings, in words.
    pub fn settings(self, commit: &str) -> String {
        match self {
            Self::Everlog => format!("everlog at commit {commit}: {}", ever::SETTINGS),
            Self::RaftEngine => {
                format!("raft-engine {} (commit {commit} of the driver): {}", raft::VERSION, raft::SETTINGS)
            }
        }
    }
}

impl std::fmt::Display for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// Every alternation has a seed of its own, the same for each engine.
const SEED: u64 = 2009;
const WARM_UP_SECONDS: f64 = 1.0;
/// No engine here is expected to write faster than this, over a whole run.
const BYTES_A_SECOND_MAX: f64 = 2.0e9;
/// Between two runs, after the last one's data are removed and that is on the disk.
const PAUSE: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    let outcome = match Cli::parse() {
        Cli { command: Some(Hidden::Run { engine, dir, row, seconds, warm_up, seed }), .. } => {
            workload_named(row).and_then(|w| child::serve(engine, &dir, w, Span { seconds, warm_up }, seed))
        }
        Cli { compare, .. } => compare_all(&compare),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("everlog-compare: {message}");
            ExitCode::FAILURE
        }
    }
}

fn workload_named(row: char) -> Outcome<Workload> {
    Workload::named(row).ok_or_else(|| format!("there is no workload {row:?}; choose among a, b, c and d"))
}

fn compare_all(args: &Compare) -> Outcome<()> {
    let (seconds, alternations) = if args.quick { (2.0, 2) } else { (5.0, 5) };
    let span = Span { seconds: args.seconds.unwrap_or(seconds), warm_up: WARM_UP_SECONDS };
    let alternations = args.alternations.unwrap_or(alternations);
    if !(span.seconds >= 0.1 && span.seconds <= 3600.0) || alternations == 0 || args.engines.is_empty() {
        return Err("--seconds takes 0.1 to 3600, --alternations at least 1, --engines at least one engine".into());
    }
    if cfg!(debug_assertions) {
        return Err("this is a debug build, whose figures mean nothing; run it with --release".into());
    }
    let workloads = args.rows.iter().map(|row| workload_named(*row)).collect::<Outcome<Vec<_>>>()?;

    let space = space::Space::new(&args.dir, child::end)?;
    machine::refuse_memory(space.path())?;
    let device = machine::Device::under(space.path())?;
    check_room(space.path(), span)?;
    let mut report = Report::begin(&args.engines, space.path(), &device, span, alternations);
    for workload in workloads {
        let mut row = Row { workload, alternations: Vec::new() };
        for n in 0..alternations {
            let mut measured = Vec::new();
            for engine in &args.engines {
                eprintln!("{}, alternation {} of {alternations}: {engine}", workload.title(), n + 1);
                let dir = space.fresh(&format!("{}{n}-{engine}", workload.id))?;
                measured.push(child::run(*engine, dir.path(), workload, span, SEED + n as u64)?);
                drop(dir);
                machine::settle(space.path())?;
                std::thread::sleep(PAUSE);
            }
            row.alternations.push(measured);
        }
        report.rows.push(row);
    }
    let text = report.to_markdown();
    print!("{text}");
    if let Some(out) = &args.out {
        std::fs::write(out, &text).map_err(|e| format!("{}: {e}", out.display()))?;
    }
    Ok(())
}

/// One run's data must fit, since each is removed before the next begins.
fn check_room(dir: &Path, span: Span) -> Outcome<()> {
    let needed = ((span.seconds + span.warm_up) * BYTES_A_SECOND_MAX) as u64 + drive::FREE_BYTES_MIN;
    let free = machine::free_bytes(dir)?;
    if free < needed {
        return Err(format!(
            "{} has {} GB free, but a run may need {} GB; measure for fewer seconds, or elsewhere with --dir",
            dir.display(),
            free >> 30,
            needed >> 30
        ));
    }
    Ok(())
}
