//! The steps of `cargo xtask ci`: what each of them runs, and how a run is timed and reported.
//!
//! A step decides nothing about what it checks: that is the business of the command it runs. Invariant: a step that
//! lacks a tool fails and says how to install it; no step is ever skipped.

use std::fmt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::{clients, conformance, fuzz, posix, readme, tidy};

/// Why a step failed: what happened, and what to do about it.
#[derive(Debug)]
pub struct Failure {
    what: String,
    remedy: String,
}

impl Failure {
    pub fn new(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { what: what.into(), remedy: remedy.into() }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}", self.what, self.remedy)
    }
}

pub type Outcome = Result<(), Failure>;

struct Step {
    name: &'static str,
    run: fn(&Path) -> Outcome,
}

/// In the order of `ci`: what is quick and fails often comes first.
const STEPS: &[Step] = &[
    Step { name: "fmt", run: fmt },
    Step { name: "tidy", run: tidy::check },
    Step { name: "deny", run: deny },
    Step { name: "clippy", run: clippy },
    Step { name: "test", run: test },
    Step { name: "mutants", run: mutants },
    Step { name: "posix", run: posix::run },
    Step { name: "conformance", run: conformance::run },
    Step { name: "clients", run: clients::run },
    Step { name: "readme", run: readme::run },
    Step { name: "doc", run: doc },
    Step { name: "loom", run: loom },
    Step { name: "fuzz", run: fuzz::smoke },
    Step { name: "benches", run: benches },
    Step { name: "examples", run: examples },
    // Last, since a machine may have all that the others need and no right to this.
    Step { name: "disks", run: disks },
];

/// Runs every step, stops at the first failure, and ends with how long each of them took.
pub fn run_all(root: &Path) -> Outcome {
    let mut times = Vec::new();
    for step in STEPS {
        times.push((step.name, run(step, root)?));
    }
    eprintln!("\nall steps passed:");
    for (name, time) in &times {
        eprintln!("  {name:<10}{:>8.1} s", time.as_secs_f64());
    }
    let total: Duration = times.iter().map(|(_, time)| *time).sum();
    eprintln!("  {:<10}{:>8.1} s", "total", total.as_secs_f64());
    Ok(())
}

/// Runs the step of that name.
pub fn run_one(name: &str, root: &Path) -> Outcome {
    let step = STEPS.iter().find(|step| step.name == name).expect("every command names a step");
    run(step, root).map(drop)
}

fn run(step: &Step, root: &Path) -> Result<Duration, Failure> {
    eprintln!("==== {}", step.name);
    let start = Instant::now();
    let outcome = (step.run)(root);
    let time = start.elapsed();
    match outcome {
        Ok(()) => {
            eprintln!("==== {}: passed in {:.1} s", step.name, time.as_secs_f64());
            Ok(time)
        }
        Err(failure) => {
            let what = format!("==== {}: failed after {:.1} s: {}", step.name, time.as_secs_f64(), failure.what);
            let remedy = format!("{}\nthe step alone: cargo xtask {}", failure.remedy, step.name);
            Err(Failure { what, remedy })
        }
    }
}

const COMPARE: &str = "benches/compare";
/// Workspaces of their own.
const APART: [&str; 2] = [COMPARE, "tests/fuzz"];

fn fmt(root: &Path) -> Outcome {
    tool("cargo fmt", &["fmt", "--version"], "rustup component add rustfmt")?;
    call(cargo(root, &["fmt", "--all", "--check"]))?;
    APART.iter().try_for_each(|folder| call(cargo(&root.join(folder), &["fmt", "--check"])))
}

fn clippy(root: &Path) -> Outcome {
    tool("cargo clippy", &["clippy", "--version"], "rustup component add clippy")?;
    call(cargo(root, &["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    // The fuzz targets are built by a step of their own.
    let args = ["clippy", "--locked", "--target-dir", "../../target/compare", "--", "-D", "warnings"];
    call(cargo(&root.join(COMPARE), &args))
}

fn deny(root: &Path) -> Outcome {
    tool("cargo deny", &["deny", "--version"], "cargo install cargo-deny --locked --version 0.20.2")?;
    call(cargo(root, &["deny", "--workspace", "check", "bans", "licenses", "sources"]))
}

fn test(root: &Path) -> Outcome {
    call(cargo(root, &["test", "--workspace"]))
}

fn mutants(root: &Path) -> Outcome {
    call(cargo(
        root,
        &["test", "--package", "everlog-tests", "--features", "mutants", "--test", "mutants", "--", "--nocapture"],
    ))
}

/// Runs the program that runs a simulated world again; not a step of `ci`.
pub fn sim(root: &Path, args: &[String]) -> Outcome {
    let mut command = cargo(root, &["run", "--quiet", "--package", "everlog-tests", "--bin", "sim", "--"]);
    command.args(args);
    call(command)
}

fn doc(root: &Path) -> Outcome {
    let mut command = cargo(root, &["doc", "--workspace", "--no-deps"]);
    command.env("RUSTDOCFLAGS", "-D warnings");
    call(command)
}

fn loom(root: &Path) -> Outcome {
    const ARGS: &[&str] = &["test", "--package", "everlog", "--lib", "--release", "--target-dir", "target/loom"];
    let command = |last: &[&str]| {
        let mut command = cargo(root, &[ARGS, last].concat());
        // A model checker wants optimised code, but nothing gains from optimising across crates here.
        command.env("CARGO_PROFILE_RELEASE_LTO", "off");
        command.env("RUSTFLAGS", "--cfg everlog_loom").env("LOOM_MAX_PREEMPTIONS", "3");
        command
    };
    // Each model prints how many interleavings it went through.
    call(command(&["loom_", "--", "--nocapture"]))?;
    // A filter that matches nothing passes as well; that must not look like a model that was checked.
    let output = command(&["loom_", "--", "--list"]).stderr(Stdio::null()).output();
    let list = output.map_err(|e| Failure::new(format!("listing the models failed: {e}"), "see the error"))?;
    let models = String::from_utf8_lossy(&list.stdout).lines().filter(|line| line.ends_with(": test")).count();
    if models == 0 {
        return Err(Failure::new("no test's name begins with loom_", "name the engine's model tests loom_…"));
    }
    eprintln!("{models} models checked");
    Ok(())
}

/// It is shown that they run, not how fast they are: in the profile of the tests, for which all is built by now.
fn benches(root: &Path) -> Outcome {
    call(cargo(root, &["test", "--workspace", "--bench", "*", "--", "--test"]))
}

fn examples(root: &Path) -> Outcome {
    call(cargo(root, &["build", "--workspace", "--examples"]))
}

/// Builds the workspace's programs. With its examples, which take what the tests take of their dependencies: so nothing is
/// compiled again that was for the tests.
pub fn programs(root: &Path) -> Outcome {
    call(cargo(root, &["build", "--workspace", "--bins", "--examples"]))
}

fn disks(root: &Path) -> Outcome {
    soak(root, &["--ci".to_owned()])
}

/// Runs the rows of real faults; what the machine lacks, the program tells before it begins.
pub fn soak(root: &Path, args: &[String]) -> Outcome {
    // The victims of the rows as well.
    programs(root)?;
    let (named, whole) = (args.iter().any(|arg| arg == "--row"), args.iter().any(|arg| arg == "--minutes"));
    if args.iter().any(|arg| arg == "parsers") || (whole && !named) {
        fuzz::build(root, None)?;
    }
    let mut soak = Command::new(root.join("target/debug/soak"));
    soak.current_dir(root).args(args);
    call(soak)?;
    if whole && !named { conformance::soak(root) } else { Ok(()) }
}

/// Makes the golden stores anew: no check, and so no step.
pub fn golden(root: &Path) -> Outcome {
    call(cargo(root, &["run", "--package", "everlog-tests", "--example", "golden"]))
}

/// The cargo that runs this program, or the one on the path.
pub fn cargo(root: &Path, args: &[&str]) -> Command {
    let mut command = untold(Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into())));
    command.current_dir(root).args(args);
    command
}

/// The command without what the cargo that started this program told it of its own package: build scripts that watch such
/// variables would run again for each caller, and most of the workspace be built again.
pub fn untold(mut command: Command) -> Command {
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_")) {
            command.env_remove(name);
        }
    }
    command
}

/// Runs `command` with this program's own output, and fails with the command to repeat.
pub fn call(mut command: Command) -> Outcome {
    let shown = show(&command);
    eprintln!("$ {shown}");
    let repeat = format!("repeat with: {shown}");
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(Failure::new(status.to_string(), repeat)),
        Err(e) => Err(Failure::new(format!("it could not be started: {e}"), repeat)),
    }
}

/// Fails with the way to install a cargo subcommand if it is missing.
pub fn tool(name: &str, probe: &[&str], install: &str) -> Outcome {
    let mut command = cargo(Path::new("."), probe);
    match command.stdout(Stdio::null()).stderr(Stdio::null()).status() {
        Ok(status) if status.success() => Ok(()),
        _ => Err(Failure::new(format!("{name} is missing"), format!("install it with: {install}"))),
    }
}

/// The command as one would type it in the repository's root.
fn show(command: &Command) -> String {
    let mut words = Vec::new();
    for (key, value) in command.get_envs() {
        if let Some(value) = value {
            words.push(format!("{}={}", key.to_string_lossy(), quoted(&value.to_string_lossy())));
        }
    }
    let program = Path::new(command.get_program());
    words.push(program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned());
    words.extend(command.get_args().map(|arg| quoted(&arg.to_string_lossy())));
    words.join(" ")
}

fn quoted(word: &str) -> String {
    if word.chars().all(|c| c.is_ascii_alphanumeric() || "-_./=:,".contains(c)) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_command_is_told_as_it_can_be_repeated() {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "exit 3"]).env("RUSTFLAGS", "--cfg x");
        let failure = call(command).expect_err("the command exits with 3");
        assert!(failure.what.contains('3'), "{failure}");
        assert_eq!(failure.remedy, "repeat with: RUSTFLAGS='--cfg x' sh -c 'exit 3'");
    }

    #[test]
    fn a_missing_tool_is_named_with_its_remedy() {
        let failure = tool("cargo nonesuch", &["nonesuch-tool", "--version"], "cargo install nonesuch")
            .expect_err("there is no such subcommand");
        assert!(failure.to_string().contains("cargo nonesuch is missing"), "{failure}");
        assert!(failure.to_string().contains("cargo install nonesuch"), "{failure}");
    }

    #[test]
    fn a_failing_step_names_itself_and_its_command() {
        let step = Step { name: "sample", run: |_| Err(Failure::new("exit status: 1", "repeat with: false")) };
        let failure = run(&step, Path::new(".")).expect_err("the step fails");
        let told = failure.to_string();
        assert!(told.contains("sample: failed after"), "{told}");
        assert!(told.ends_with("repeat with: false\nthe step alone: cargo xtask sample"), "{told}");
    }
}
