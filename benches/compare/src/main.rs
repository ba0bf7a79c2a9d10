//! everlog and its peers side by side, on the same directory, in turn.
//!
//! This file reads the arguments and goes through the runs; docs/PERFORMANCE.md says what the figures mean.
//! Invariant: nothing is reported of an alternation that was not completed by every engine.

mod child;
mod contender;
mod engines;
mod machine;
mod measure;
mod plot;
mod report;
mod space;
mod workload;

use child::Run;
use clap::{Args, Parser, Subcommand};
use contender::Outcome;
use engines::{Engine, everlog, fio};
use measure::window::FREE_BYTES_MIN;
use measure::{Figure, Measured};
use report::{Alternation, Report, Row};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};
use workload::{Kind, Workload};

const EXAMPLES: &str = "Examples:
  everlog-compare --out docs/performance
  everlog-compare --rows b,c --engines everlog,raft-engine --alternations 3
  everlog-compare --quick";

/// Compares everlog with other storage engines.
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true, after_help = EXAMPLES)]
struct Cli {
    #[command(flatten)]
    compare: Compare,
    #[command(subcommand)]
    command: Option<Hidden>,
}

#[derive(Args)]
struct Compare {
    /// A short look: windows of 2 s, 2 alternations, a tenth of the logs: to see that it works, not to be quoted
    #[arg(long)]
    quick: bool,
    /// Seconds of each window that counts [default: 5]
    #[arg(long, value_name = "S")]
    seconds: Option<f64>,
    /// And of each sustained one [default: 20]
    #[arg(long, value_name = "S")]
    sustained_seconds: Option<f64>,
    /// How many times each engine runs each workload, in turn [default: 5]
    #[arg(long, value_name = "N")]
    alternations: Option<usize>,
    /// Where to put the data; on a disk, not in memory
    #[arg(long, value_name = "DIR", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/target/data"))]
    dir: PathBuf,
    /// The workloads, by letter [default: all]
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    rows: Option<Vec<char>>,
    /// Who takes part, of those that a workload has
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_values_t = Engine::ALL)]
    engines: Vec<Engine>,
    /// Also write the report as README.md, with a plot for each workload, into this folder
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Hidden {
    /// One run, by the program itself
    #[command(hide = true)]
    Run { what: String },
}

/// Every alternation has a seed of its own, the same for each engine.
const SEED: u64 = 2009;
const WARM_UP_SECONDS: f64 = 1.0;
/// No run takes more of the disk.
const DISK_BYTES_MAX: u64 = 40 << 30;
/// Between two runs, after the last one's data are removed and that is on the disk.
const PAUSE: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    let outcome = match Cli::parse() {
        Cli { command: Some(Hidden::Run { what }), .. } => child::serve(&what),
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

/// What the arguments ask for.
struct Plan {
    seconds: f64,
    sustained_seconds: f64,
    alternations: usize,
    scale: u32,
    workloads: Vec<Workload>,
}

impl Plan {
    fn of(args: &Compare) -> Outcome<Self> {
        let (seconds, sustained, alternations, scale) = if args.quick { (2.0, 4.0, 2, 10) } else { (5.0, 20.0, 5, 1) };
        let workloads = match &args.rows {
            Some(rows) => rows.iter().map(|row| workload_named(*row)).collect::<Outcome<Vec<_>>>()?,
            None => workload::ALL.to_vec(),
        };
        let plan = Self {
            seconds: args.seconds.unwrap_or(seconds),
            sustained_seconds: args.sustained_seconds.unwrap_or(sustained),
            alternations: args.alternations.unwrap_or(alternations),
            scale,
            workloads,
        };
        let sensible = |seconds: f64| (0.1..=3600.0).contains(&seconds);
        if !sensible(plan.seconds) || !sensible(plan.sustained_seconds) || plan.alternations == 0 {
            return Err("--seconds and --sustained-seconds take 0.1 to 3600, --alternations at least 1".into());
        }
        Ok(plan)
    }

    fn seconds_of(&self, workload: &Workload) -> f64 {
        match workload.kind {
            Kind::Window { sustained: true, .. } => self.sustained_seconds,
            _ => self.seconds,
        }
    }

    fn described(&self) -> String {
        format!(
            "{} alternations, the engines in turn, another one first each time, each run a fresh process and directory; windows of \
             {} s after {WARM_UP_SECONDS} s of warming up, sustained ones of {} s; logs chosen uniformly at random, each \
             appended to by one thread; random payloads{}",
            self.alternations,
            self.seconds,
            self.sustained_seconds,
            if self.scale > 1 { "; a tenth of the logs where the store is filled first" } else { "" }
        )
    }
}

fn workload_named(row: char) -> Outcome<Workload> {
    let letters: Vec<String> = workload::ALL.iter().map(|w| w.id.to_string()).collect();
    Workload::named(row).ok_or_else(|| format!("there is no workload {row:?}; choose among {}", letters.join(", ")))
}

fn compare_all(args: &Compare) -> Outcome<()> {
    let plan = Plan::of(args)?;
    if cfg!(debug_assertions) {
        return Err("this is a debug build, whose figures mean nothing; run it with --release".into());
    }
    let space = space::Space::new(&args.dir, child::end)?;
    machine::refuse_memory(space.path())?;
    let device = machine::Device::under(space.path())?;
    check_room(space.path())?;
    if args.engines.contains(&Engine::Fio) {
        fio::version()?;
    }
    let takes_part = |workload: &Workload| -> Vec<Engine> {
        workload.engines.iter().copied().filter(|engine| args.engines.contains(engine)).collect()
    };
    let runs: usize = plan.workloads.iter().map(|w| takes_part(w).len() * plan.alternations).sum();
    let mut report = Report::begin(&args.engines, space.path(), &device, plan.described());
    let (began, mut done) = (Instant::now(), 0);
    for workload in &plan.workloads {
        let engines = takes_part(workload);
        let mut alternations = Vec::new();
        for n in 0..plan.alternations {
            let mut alternation = Alternation::new();
            for engine in &in_turn(&engines, n) {
                let (id, of) = (workload.id, plan.alternations);
                eprintln!("{id}, alternation {} of {of}: {engine}{}", n + 1, left(began, done, runs));
                let fresh = space.fresh(&format!("{id}{n}-{engine}"))?;
                let run = Run {
                    engine: *engine,
                    dir: fresh.path().to_owned(),
                    row: id,
                    seconds: plan.seconds_of(workload),
                    warm_up: WARM_UP_SECONDS,
                    seed: SEED + n as u64,
                    scale: plan.scale,
                    second: false,
                };
                alternation.insert(*engine, measure(&run, workload, &alternation)?);
                drop(fresh);
                machine::settle(space.path())?;
                std::thread::sleep(PAUSE);
                done += 1;
            }
            alternations.push(alternation);
        }
        report.rows.push(Row { workload: *workload, engines, alternations });
        if let Some(out) = &args.out {
            write(&report, out)?;
        }
    }
    print!("{}", report.to_markdown(false));
    Ok(())
}

/// The engines of alternation `n`: each time another one begins, in case the disk is kinder to whoever comes first. fio
/// comes after everlog, in whose sizes it writes.
fn in_turn(engines: &[Engine], n: usize) -> Vec<Engine> {
    let mut turn: Vec<Engine> = engines.iter().copied().filter(|engine| *engine != Engine::Fio).collect();
    let first = n % turn.len().max(1);
    turn.rotate_left(first);
    if engines.contains(&Engine::Fio) {
        let behind = turn.iter().position(|engine| *engine == Engine::Everlog).map_or(0, |at| at + 1);
        turn.insert(behind, Engine::Fio);
    }
    turn
}

/// One run; fio writes as everlog did in the same alternation.
fn measure(run: &Run, workload: &Workload, alternation: &Alternation) -> Outcome<Measured> {
    if run.engine != Engine::Fio {
        return child::run(run, workload);
    }
    let (Kind::Window { appends, .. } | Kind::Burst { appends, .. }) = workload.kind else {
        return Err("fio only writes".into());
    };
    // A single thread that waits has one write in flight, of one block.
    let alone = appends.threads == 1 && appends.outstanding == 1;
    let written = alternation.get(&Engine::Everlog).and_then(|m| m.get(&Figure::WriteBytes)).copied();
    let bytes = if alone { Some(1.0) } else { written };
    let bytes = bytes.ok_or("fio writes in everlog's sizes: let everlog take part before it")?;
    let depth = if alone { 1 } else { everlog::in_flight() };
    fio::measure(&run.dir, fio::Job { bytes, depth }, run.seconds)
}

/// How long the rest is likely to take.
fn left(began: Instant, done: usize, runs: usize) -> String {
    if done == 0 {
        return format!(" (1 of {runs} runs)");
    }
    let seconds = began.elapsed().as_secs_f64() / done as f64 * (runs - done) as f64;
    format!(" ({} of {runs} runs, about {:.0} min left)", done + 1, (seconds / 60.0).ceil())
}

/// Written after each workload, so that what was measured is not lost with the rest.
fn write(report: &Report, out: &Path) -> Outcome<()> {
    let told = |e: std::io::Error| format!("{}: {e}", out.display());
    std::fs::create_dir_all(out).map_err(told)?;
    for row in &report.rows {
        plot::write(row, &out.join(format!("{}.svg", row.workload.id)))?;
    }
    std::fs::write(out.join("README.md"), report.to_markdown(true)).map_err(told)
}

/// One run's data must fit, since each is removed before the next begins.
fn check_room(dir: &Path) -> Outcome<()> {
    let (free, needed) = (machine::free_bytes(dir)?, DISK_BYTES_MAX + FREE_BYTES_MIN);
    if free < needed {
        return Err(format!(
            "{} has {} GB free, but a run may need {} GB; free some, or measure elsewhere with --dir",
            dir.display(),
            free >> 30,
            needed >> 30
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_engine_begins_each_time_and_fio_follows_everlog() {
        let engines = [Engine::Everlog, Engine::Fio, Engine::RaftEngine, Engine::Redb];
        for (n, first) in [Engine::Everlog, Engine::RaftEngine, Engine::Redb, Engine::Everlog].into_iter().enumerate() {
            let turn = in_turn(&engines, n);
            assert_eq!((turn[0], turn.len()), (first, engines.len()));
            let at = turn.iter().position(|engine| *engine == Engine::Everlog).expect("it takes part");
            assert_eq!(turn[at + 1], Engine::Fio);
        }
    }
}
