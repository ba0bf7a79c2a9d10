//! Runs one simulated world again, made small, and prints what happened in it.
//!
//! It finds nothing by itself: the seeds come from a test that failed. Invariant: what it prints is the trace of the plan
//! that it names.
#![allow(clippy::print_stdout, reason = "the trace is what it is for")]

use clap::Parser;
use everlog_tests::sim::campaign;
use everlog_tests::sim::world::{Plan, Scenario, Stage};
use std::process::ExitCode;

/// Runs one simulated world again and prints its trace.
#[derive(Parser)]
#[command(name = "cargo xtask sim", bin_name = "cargo xtask sim", after_help = EXAMPLES)]
struct Cli {
    /// What goes wrong in the world
    #[arg(long, default_value = "crash", value_parser = scenario)]
    scenario: Scenario,
    /// Where its chances come from
    #[arg(long)]
    seed: u64,
    /// The stage in which --event happens: creation, first or second
    #[arg(long, default_value = "first", value_parser = stage)]
    stage: Stage,
    /// The operation of that stage at which --event happens
    #[arg(long, requires = "event")]
    at: Option<u64>,
    /// What happens there, as a failing test names it
    #[arg(long, requires = "at")]
    event: Option<String>,
    /// Leave nothing out of a world that fails
    #[arg(long)]
    whole: bool,
}

const EXAMPLES: &str = "Examples:
  cargo xtask sim --seed 17                                        a world that crashes
  cargo xtask sim --scenario lost --seed 17                        one whose disk loses a write
  cargo xtask sim --seed 3 --at 41 --event crash-power-middle      a crash in the middle of the 41st operation";

fn scenario(name: &str) -> Result<Scenario, String> {
    let known = || Scenario::ALL.map(Scenario::name).join(", ");
    Scenario::named(name).ok_or_else(|| format!("the scenarios are {}", known()))
}

fn stage(name: &str) -> Result<Stage, String> {
    Stage::named(name).copied().ok_or_else(|| format!("the stages are {}", Stage::ALL.map(Stage::name).join(", ")))
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let plan = match (cli.at, &cli.event) {
        (Some(at), Some(name)) => {
            let events = campaign::events(cli.scenario);
            let Some(event) = events.iter().find(|event| campaign::describe(**event) == *name) else {
                let known: Vec<_> = events.iter().map(|event| campaign::describe(*event)).collect();
                eprintln!("no such event: {name}\nthose of this scenario are {}", known.join(", "));
                return ExitCode::from(2);
            };
            Plan::exact(cli.scenario, cli.seed, cli.stage, Some((at, *event)))
        }
        _ => Plan::random(cli.scenario, cli.seed),
    };
    let (outcome, trace) = campaign::run(&plan);
    match outcome.result {
        Ok(tally) => {
            trace.iter().for_each(|line| println!("{line}"));
            println!("every promise was kept: {tally:?}");
            ExitCode::SUCCESS
        }
        Err(violation) if cli.whole => {
            trace.iter().for_each(|line| println!("{line}"));
            println!("{violation}");
            ExitCode::FAILURE
        }
        Err(_) => {
            println!("{}", campaign::shrink(&plan));
            ExitCode::FAILURE
        }
    }
}
