//! The fuzz targets of tests/fuzz under libFuzzer: briefly as a step of `ci`, or for as long as one likes.
//!
//! cargo-fuzz builds them, and each is then run by itself, from the seeds that the program makes of what it writes, and
//! from every input that once broke something. What must hold is said in tests/inputs. Invariant: each target that is
//! asked for ran, and how often is told; one that ran never fails the step.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::steps::{Failure, Outcome, call, cargo, tool};

const INSTALL: &str = "cargo install cargo-fuzz --locked --version 0.13.2 --debug";
/// Where everything goes that a run makes, from the root.
const FOLDER: &str = "target/fuzz";
const TARGETS: &str = "tests/fuzz/fuzz_targets";
/// Of a target in `ci`: as many inputs, in as many seconds at most.
const RUNS: u64 = 20_000;
const SECONDS: u64 = 3;
/// What an input may take: memory in MB, in one piece and in all, and seconds.
const LIMITS: [&str; 3] = ["-malloc_limit_mb=128", "-rss_limit_mb=1024", "-timeout=20"];

/// Every target, briefly.
pub fn smoke(root: &Path) -> Outcome {
    let limits = vec![format!("-runs={RUNS}"), format!("-max_total_time={SECONDS}")];
    fuzz(root, None, &limits)
}

/// Each target, or the one of that name, for so many seconds. What is found on the way is kept for the next time.
pub fn run(root: &Path, seconds: u64, target: Option<&str>) -> Outcome {
    fuzz(root, target, &[format!("-max_total_time={seconds}")])
}

fn fuzz(root: &Path, only: Option<&str>, limits: &[String]) -> Outcome {
    let mut targets = targets(root)?;
    if let Some(only) = only {
        targets.retain(|target| target == only);
        if targets.is_empty() {
            return Err(Failure::new(
                format!("there is no target {only}"),
                format!("their names are those in {TARGETS}"),
            ));
        }
    }
    build(root, only)?;
    let mut total = 0;
    for target in &targets {
        let executed = run_one(root, target, limits)?;
        eprintln!("{target:<16}{executed:>12} inputs");
        total += executed;
    }
    eprintln!("{} targets held for {total} inputs", targets.len());
    Ok(())
}

/// Builds all targets, or the one, and makes their seeds.
pub fn build(root: &Path, only: Option<&str>) -> Outcome {
    tool("cargo fuzz", &["fuzz", "--version"], INSTALL)?;
    let seeds = format!("{FOLDER}/seeds");
    call(cargo(root, &["run", "--quiet", "--package", "everlog-inputs", "--bin", "inputs", "--", "seeds", &seeds]))?;
    // Sanitizers need a nightly compiler.
    let mut build = vec!["fuzz", "build", "--fuzz-dir", "tests/fuzz", "--sanitizer", "none", "--target-dir", FOLDER];
    build.extend(only);
    call(cargo(root, &build))
}

fn targets(root: &Path) -> Result<Vec<String>, Failure> {
    let entries = std::fs::read_dir(root.join(TARGETS)).map_err(|e| cannot("list", TARGETS, &e))?;
    let names = entries.map(|entry| {
        let path = entry.map_err(|e| cannot("list", TARGETS, &e))?.path();
        Ok(path.file_stem().unwrap_or_default().to_string_lossy().into_owned())
    });
    let mut names = names.collect::<Result<Vec<_>, Failure>>()?;
    names.sort();
    Ok(names)
}

fn cannot(what: &str, path: &str, e: &std::io::Error) -> Failure {
    Failure::new(format!("cannot {what} {path}: {e}"), "see to it, then repeat")
}

/// Runs a target and gives the number of inputs that it was called with.
fn run_one(root: &Path, target: &str, limits: &[String]) -> Result<u64, Failure> {
    let (corpus, artifacts) = (format!("{FOLDER}/corpus/{target}"), format!("{FOLDER}/artifacts/{target}/"));
    for folder in [&corpus, &artifacts] {
        std::fs::create_dir_all(root.join(folder)).map_err(|e| cannot("make", folder, &e))?;
    }
    let mut command = Command::new(binary(root, target)?);
    command.current_dir(root).arg(&corpus).arg(format!("{FOLDER}/seeds/{target}"));
    let regressions = format!("tests/fuzz/regressions/{target}");
    if root.join(&regressions).is_dir() {
        command.arg(regressions);
    }
    command.args(LIMITS).args(limits).args(["-print_final_stats=1", &format!("-artifact_prefix={artifacts}")]);
    let mut process =
        command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().map_err(|e| cannot("start", target, &e))?;
    let mut told = Vec::new();
    let mut stderr = process.stderr.take().expect("it is piped");
    stderr.read_to_end(&mut told).map_err(|e| cannot("hear", target, &e))?;
    let status = process.wait().map_err(|e| cannot("wait for", target, &e))?;
    judge(target, &String::from_utf8_lossy(&told), status.success())
}

/// The program of a target: cargo-fuzz builds for a named platform, and a folder is named after it.
fn binary(root: &Path, target: &str) -> Result<PathBuf, Failure> {
    let folder = root.join(FOLDER);
    let entries = std::fs::read_dir(&folder).map_err(|e| cannot("list", FOLDER, &e))?;
    let found = entries.flatten().map(|entry| entry.path().join("release").join(target)).find(|path| path.is_file());
    found.ok_or_else(|| Failure::new(format!("cargo fuzz built no {target}"), format!("see what lies in {FOLDER}")))
}

/// What a run's words prove.
fn judge(target: &str, told: &str, success: bool) -> Result<u64, Failure> {
    let executed = told.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:"));
    let executed = executed.and_then(|count| count.trim().parse().ok()).unwrap_or(0);
    if success && executed > 0 {
        return Ok(executed);
    }
    let artifact = told.lines().find_map(|line| line.split("Test unit written to ").nth(1)).unwrap_or("INPUT");
    let end: Vec<&str> = told.lines().rev().take(40).collect();
    let end: Vec<&str> = end.into_iter().rev().collect();
    let what = format!("the target {target} failed after {executed} inputs:\n{}", end.join("\n"));
    let remedy = format!(
        "repeat it without a fuzzer: cargo run --package everlog-inputs -- replay {target} {artifact}\n\
         once it is mended, keep the input in tests/fuzz/regressions/{target}/"
    );
    Err(Failure::new(what, remedy))
}

#[cfg(test)]
mod tests {
    use super::judge;

    const STATS: &str = "stat::number_of_executed_units: 20000\nstat::average_exec_per_sec:     100\n";

    #[test]
    fn a_run_is_told_by_its_inputs() {
        assert_eq!(judge("frame", STATS, true).expect("it held"), 20_000);
    }

    #[test]
    fn a_target_that_never_ran_or_that_broke_fails_and_says_how_to_repeat_it() {
        assert!(judge("frame", "", true).is_err());
        assert!(judge("frame", "stat::number_of_executed_units: 0", true).is_err());
        let told = format!("panicked at\n{STATS}x; Test unit written to target/fuzz/artifacts/frame/crash-1\n");
        let failure = judge("frame", &told, false).expect_err("it broke").to_string();
        assert!(failure.contains("replay frame target/fuzz/artifacts/frame/crash-1"), "{failure}");
        assert!(failure.contains("tests/fuzz/regressions/frame/"), "{failure}");
    }
}
