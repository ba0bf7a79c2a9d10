//! The soak: the rows of the table of faults, each many times, with progress on the terminal and a table in the end.
//!
//! The minutes are shared among the rows by weight, and each row runs at least [`TIMES_CI_MIN`] times as often as in CI,
//! however long that takes. A violation stops neither the other rows nor the other seeds of its own; it is counted,
//! shown with the seed that repeats it, and makes the exit code 1. Ctrl-C ends the run as if the time were up.
//!
//! What it does not do: it knows nothing about what a row does. Invariant: the table says what was counted and nothing
//! else; a row that could not run is a failure and never an empty line.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, reason = "the table is what it is for, and goes to standard output")]

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::process::{Command, ExitCode};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Parser;
use everlog::IoChoice;
use everlog_tests::programs::target_dir;
use everlog_tests::real::{Counts, Row, Stop, disk, leftovers};
use signal_hook::consts::{SIGINT, SIGTERM};

/// How many times as often as in CI a row runs at least.
const TIMES_CI_MIN: u64 = 5;
/// After so many violations a row is not run on: each may keep an image of a disk.
const VIOLATIONS_MAX: usize = 3;
/// How often a row shows where it is.
const TELL_EVERY: Duration = Duration::from_secs(5);

/// Runs the rows of the table of faults on real file systems, many times.
#[derive(Parser)]
#[command(name = "cargo xtask soak", bin_name = "cargo xtask soak", after_help = EXAMPLES)]
struct Args {
    /// How long in all, in minutes; each row runs at least five times its number in CI, whatever this says
    #[arg(long, required_unless_present_any = ["ci", "list"])]
    minutes: Option<u64>,
    /// The rows that need root, each as often as in CI; the others are run by `cargo test`
    #[arg(long, conflicts_with = "minutes")]
    ci: bool,
    /// This row alone; may be given more than once
    #[arg(long = "row")]
    rows: Vec<String>,
    /// The first seed of each row, and the following ones behind it; from the clock if it is not given
    #[arg(long)]
    seed: Option<u64>,
    /// Show the rows, and run none
    #[arg(long)]
    list: bool,
}

const EXAMPLES: &str = "Examples:
  cargo xtask soak --list                       the rows
  cargo xtask soak --minutes 60                 all of them, an hour in all
  cargo xtask soak --minutes 10 --row power     one of them
  cargo xtask soak --ci --row power --seed 17   once as in CI: what a failure tells to repeat it with";

fn main() -> ExitCode {
    let args = Args::parse();
    if args.list {
        list();
        return ExitCode::SUCCESS;
    }
    if let Some(unknown) = args.rows.iter().find(|name| Row::named(name).is_none()) {
        eprintln!("There is no row called {unknown}.\nSee them all with: cargo xtask soak --list");
        return ExitCode::from(2);
    }
    let rows: Vec<&Row> = Row::all().filter(|row| args.wants(row)).collect();
    if rows.iter().any(|row| row.needs_root)
        && let Err(lacking) = disk::check_machine()
    {
        eprintln!("{lacking}");
        return ExitCode::from(2);
    }
    let interrupted = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        if let Err(e) = signal_hook::flag::register(signal, Arc::clone(&interrupted)) {
            eprintln!("An interruption would leave mounts behind: {e}.");
            return ExitCode::from(2);
        }
    }
    leftovers::sweep();
    let soak = Soak { args, commit: commit(), interrupted };
    let results = soak.run(&rows);
    let report = soak.report(&results);
    let path = target_dir().join("soak.md");
    println!("{report}");
    match std::fs::write(&path, &report) {
        Ok(()) => eprintln!("written to {}", path.display()),
        Err(e) => eprintln!("{} could not be written: {e}", path.display()),
    }
    if results.iter().all(|result| result.failures.is_empty()) && !soak.interrupted() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn list() {
    for row in Row::all() {
        let needs = if row.needs_root { " (needs root)" } else { "" };
        println!("{:<16}{}{needs}; {} {} in CI", row.name, row.shows, row.ci_count, row.unit);
    }
}

/// What came of a row.
struct Outcome<'a> {
    row: &'a Row,
    counts: Counts,
    failures: Vec<String>,
    took: Duration,
}

impl Args {
    fn wants(&self, row: &Row) -> bool {
        if self.rows.is_empty() { !self.ci || row.needs_root } else { self.rows.iter().any(|name| name == row.name) }
    }
}

/// What a program answers, in one line.
fn said(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).current_dir(env!("CARGO_MANIFEST_DIR")).output();
    let text = output.ok().filter(|output| output.status.success()).map(|output| output.stdout);
    text.map_or("unknown".to_owned(), |text| String::from_utf8_lossy(&text).trim().to_owned())
}

/// The commit that is checked out, and whether anything was changed since.
fn commit() -> String {
    let changed = if said("git", &["status", "--porcelain"]).is_empty() { "" } else { ", with changes" };
    format!("{}{changed}", said("git", &["rev-parse", "--short=12", "HEAD"]))
}

/// A run of the program.
struct Soak {
    args: Args,
    /// Of the sources when it began; they may be changed while it runs.
    commit: String,
    /// Set by Ctrl-C, and looked at by each row's progress; it orders nothing.
    interrupted: Arc<AtomicBool>,
}

impl Soak {
    fn interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    fn run<'a>(&self, rows: &[&'a Row]) -> Vec<Outcome<'a>> {
        let first_seed = self
            .args
            .seed
            .unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_secs());
        let end = self.args.minutes.map(|minutes| Instant::now() + Duration::from_secs(60 * minutes));
        let mut outcomes = Vec::new();
        for (n, row) in rows.iter().enumerate() {
            if self.interrupted() {
                break;
            }
            let weights: u64 = rows[n..].iter().map(|row| row.weight).sum();
            // What earlier rows left over, or took too much, is shared by the later ones.
            let share = end
                .map(|end| end.saturating_duration_since(Instant::now()).mul_f64(row.weight as f64 / weights as f64));
            outcomes.push(self.run_row(row, first_seed, share));
        }
        outcomes
    }

    /// Runs a row for its share of the time, or once without one.
    fn run_row<'a>(&self, row: &'a Row, first_seed: u64, share: Option<Duration>) -> Outcome<'a> {
        let start = Instant::now();
        let mut outcome = Outcome { row, counts: Counts::default(), failures: Vec::new(), took: Duration::ZERO };
        eprintln!("{}: {}", row.name, row.shows);
        for seed in first_seed.. {
            let line = |counts: &Counts| {
                let left = share.map_or(Duration::ZERO, |share| share.saturating_sub(start.elapsed()));
                eprintln!("{}: seed {seed}, {counts}; {} s left", row.name, left.as_secs());
            };
            let before = outcome.counts.clone();
            let (counts, failure) = self.run_seed(row, seed, &before, &line);
            outcome.counts = counts;
            if self.interrupted() {
                // It reached the row's processes as well, so that what they did says nothing.
                break;
            }
            if let Some(failure) = failure {
                let told = format!(
                    "row {}: {failure}\nrepeat with: cargo xtask soak --ci --row {} --seed {seed}",
                    row.name, row.name
                );
                eprintln!("{told}");
                outcome.failures.push(told);
            }
            outcome.took = start.elapsed();
            line(&outcome.counts);
            let enough =
                share.is_none_or(|share| outcome.counts.runs >= TIMES_CI_MIN * row.ci_count && outcome.took >= share);
            if enough || outcome.failures.len() >= VIOLATIONS_MAX {
                break;
            }
        }
        outcome.took = start.elapsed();
        outcome
    }

    /// Runs a row as often as in CI. Gives what was counted, with what was counted `before`.
    fn run_seed(&self, row: &Row, seed: u64, before: &Counts, line: &dyn Fn(&Counts)) -> (Counts, Option<String>) {
        let mut counts = before.clone();
        let mut told_at = Instant::now();
        let mut progress = |new: &Counts| {
            counts = before.clone();
            counts += new;
            if self.interrupted() {
                // The row ends its handles on the way, and with them mounts and processes. No message: this is no fault.
                resume_unwind(Box::new("interrupted"));
            }
            if told_at.elapsed() >= TELL_EVERY {
                line(&counts);
                told_at = Instant::now();
            }
        };
        let ran = match leftovers::folder_on_disk(row.name) {
            Ok(scratch) => catch_unwind(AssertUnwindSafe(|| row.run_as_in_ci(seed, scratch.path(), &mut progress))),
            Err(e) => Ok(Err(Stop::Lacking(format!("a folder in {}: {e}", target_dir().display())))),
        };
        match ran {
            Ok(Ok(new)) => {
                let mut counts = before.clone();
                counts += &new;
                (counts, None)
            }
            Ok(Err(stop)) => (counts, Some(stop.to_string())),
            Err(panic) => {
                let told = panic.downcast_ref::<String>().map(String::as_str);
                let told = told.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without words");
                (counts, Some(format!("the row panicked: {told}")))
            }
        }
    }

    /// The table, as it stands in docs/TESTING.md.
    fn report(&self, outcomes: &[Outcome<'_>]) -> String {
        let kernel = rustix::system::uname().release().to_string_lossy().into_owned();
        let backend = everlog::io::choose(IoChoice::Auto).map_or("unknown", |io| io.name());
        let asked = self.args.minutes.map_or("as in CI".to_owned(), |minutes| format!("{minutes} minutes"));
        let mut text = format!(
            "{}, commit {}, Linux {kernel}, backend {backend} where the row does not choose one, {asked}\n\n\
         | fault | runs | acknowledgements checked | violations | seconds |\n|---|---|---|---|---|\n",
            said("date", &["-u", "+%Y-%m-%d %H:%M UTC"]),
            self.commit,
        );
        for Outcome { row, counts, failures, took } in outcomes {
            let Counts { runs, acknowledgements_checked: checked, .. } = counts;
            let line = format!(
                "| {}: {} | {runs} {} | {checked} | {} | {} |\n",
                row.name,
                row.shows,
                row.unit,
                failures.len(),
                took.as_secs()
            );
            text.push_str(&line);
        }
        text.push('\n');
        for Outcome { row, counts, failures, .. } in outcomes {
            let of: Vec<String> = counts.of.iter().map(|(what, n)| format!("{n} {what}")).collect();
            if !of.is_empty() {
                text.push_str(&format!("- {}: {}\n", row.name, of.join(", ")));
            }
            for failure in failures {
                text.push_str(&format!("\n```\n{failure}\n```\n"));
            }
        }
        if self.interrupted() {
            text.push_str("\nIt was interrupted.\n");
        }
        text
    }
}
