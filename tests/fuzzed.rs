//! The parsers under libFuzzer as a row of the table of faults, for a soak.
//!
//! What must hold for an input is said in tests/inputs, and `cargo xtask` builds the targets; nothing is built here.
//! Invariant: every target ran as often as was asked for, or the row says why not.

use crate::programs::target_dir;
use crate::real::{Counts, Row, Stop};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What the fuzz targets are built by.
const BUILD: &str = "build them with: cargo xtask fuzz";
/// What an input may take, as in `cargo xtask fuzz`.
const LIMITS: [&str; 3] = ["-malloc_limit_mb=128", "-rss_limit_mb=1024", "-timeout=20"];

/// The one row.
pub static ROWS: [Row; 1] = [Row {
    name: "parsers",
    shows: "hostile bytes for each parser, from disk and network",
    unit: "inputs",
    ci_count: 36_000,
    weight: 18,
    needs_root: false,
    at_least_once: &[],
    run,
}];

/// Gives each target its share of `count` inputs.
fn run(seed: u64, count: u64, scratch: &Path, progress: &mut dyn FnMut(&Counts)) -> Result<Counts, Stop> {
    let (targets, mut counts) = (targets()?, Counts::default());
    let share = count.div_ceil(targets.len() as u64);
    for (name, program) in &targets {
        let executed = run_one(name, program, seed, share, scratch)?;
        counts.runs += executed;
        progress(&counts);
    }
    counts.add("parsers", targets.len() as u64);
    Ok(counts)
}

fn lacking(what: impl std::fmt::Display) -> Stop {
    Stop::Lacking(format!("{what}; {BUILD}"))
}

/// The targets that there are, with their programs.
fn targets() -> Result<Vec<(String, PathBuf)>, Stop> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/fuzz_targets");
    let entries = fs::read_dir(&sources).map_err(|e| lacking(format!("{}: {e}", sources.display())))?;
    let names = entries.flatten().filter_map(|entry| Some(entry.path().file_stem()?.to_string_lossy().into_owned()));
    let mut names: Vec<String> = names.collect();
    names.sort();
    names.into_iter().map(|name| Ok((name.clone(), program(&name)?))).collect()
}

/// A target's program: cargo-fuzz builds for a named platform, and a folder is named after it.
fn program(name: &str) -> Result<PathBuf, Stop> {
    let folders = fs::read_dir(target_dir().join("fuzz")).map_err(|e| lacking(format!("no target is built: {e}")))?;
    let mut programs = folders.flatten().map(|entry| entry.path().join("release").join(name));
    programs.find(|path| path.is_file()).ok_or_else(|| lacking(format!("the target {name} is not built")))
}

fn run_one(name: &str, program: &Path, seed: u64, runs: u64, scratch: &Path) -> Result<u64, Stop> {
    let fuzz = target_dir().join("fuzz");
    // What is found is kept from run to run; where there is nothing yet, the fuzzer begins with nothing.
    let (corpus, artifacts) = (fuzz.join("corpus").join(name), fuzz.join("artifacts").join(name));
    for folder in [&corpus, &artifacts] {
        fs::create_dir_all(folder).map_err(|e| Stop::Lacking(format!("{}: {e}", folder.display())))?;
    }
    let told = scratch.join(name);
    let file = fs::File::create(&told).map_err(|e| Stop::Lacking(format!("{}: {e}", told.display())))?;
    let mut command = Command::new(program);
    command.arg(&corpus).args(Some(fuzz.join("seeds").join(name)).filter(|seeds| seeds.is_dir())).args(LIMITS);
    // A seed of zero would be the fuzzer's own choice.
    command.args([format!("-runs={runs}"), format!("-seed={}", seed as u32 | 1), "-print_final_stats=1".to_owned()]);
    command.arg(format!("-artifact_prefix={}/", artifacts.display()));
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file).status();
    let status = status.map_err(|e| lacking(format!("{} does not start: {e}", program.display())))?;
    let told = fs::read_to_string(&told).unwrap_or_default();
    let executed = executed(&told);
    if status.success() && executed > 0 {
        return Ok(executed);
    }
    let lines: Vec<&str> = told.lines().collect();
    let end = lines[lines.len().saturating_sub(30)..].join("\n");
    Err(Stop::Violation(format!("the target {name} failed after {executed} inputs; its last words:\n{end}")))
}

/// How many inputs a run says it had.
fn executed(told: &str) -> u64 {
    let line = told.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    line.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A target that says what it was called with.
    fn script(folder: &Path, body: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = folder.join("target");
        fs::write(&path, format!("#!/bin/sh\n{body}\n")).expect("a fresh folder takes files");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("it is ours");
        path
    }

    #[test]
    fn a_run_counts_what_the_target_says_and_a_failure_is_a_violation() {
        let folder = tempfile::tempdir().expect("room for a folder");
        let run = |body: &str| run_one("row-test", &script(folder.path(), body), 7, 3, folder.path());
        let says = "for arg; do case $arg in -runs=*) n=${arg#-runs=};; esac; done; \
                    echo \"stat::number_of_executed_units: $n\" >&2";
        assert_eq!(run(says), Ok(3));
        assert!(matches!(run("true"), Err(Stop::Violation(_))), "a target that says nothing ran nothing");
        match run(&format!("{says}; echo panicked at >&2; exit 77")) {
            Err(Stop::Violation(told)) => {
                assert!(told.contains("after 3 inputs") && told.contains("panicked"), "{told}")
            }
            other => panic!("{other:?}"),
        }
        let fuzz = target_dir().join("fuzz");
        ["corpus", "artifacts"].iter().for_each(|kind| drop(fs::remove_dir(fuzz.join(kind).join("row-test"))));
    }
}
