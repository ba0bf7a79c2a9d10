//! The README's first command, as it is written: it builds the server, creates a store and serves it.
//!
//! Only where the store lies and which ports it takes is given by the environment, so that a store of whoever runs this
//! is left alone. The README's second command is the step `test`, which runs exactly that. Invariant: the step passes
//! only if the server became ready and stopped with 0 when it was asked to.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::steps::{Failure, Outcome, untold};

/// The README's two commands.
const COMMANDS: [&str; 2] = ["cargo run --release --bin everlogd -- --init", "cargo test --workspace"];

pub fn run(root: &Path) -> Outcome {
    let failed = |what: String| Failure::new(what, format!("repeat with: {}", COMMANDS[0]));
    let readme = std::fs::read_to_string(root.join("README.md")).map_err(|e| failed(format!("README.md: {e}")))?;
    if first_commands(&readme) != COMMANDS {
        let what = "the README's first block of commands is not what is checked here".to_owned();
        return Err(Failure::new(what, format!("it should be: {COMMANDS:?}")));
    }
    let store = root.join("target/readme-store");
    if store.exists() {
        std::fs::remove_dir_all(&store).map_err(|e| failed(format!("the store of the last run: {e}")))?;
    }
    eprintln!("$ {}", COMMANDS[0]);
    let mut command = untold(Command::new("sh"));
    // The shell becomes cargo, and cargo becomes the server, so that the signal reaches it.
    command.args(["-c", &format!("exec {}", COMMANDS[0])]).current_dir(root).stderr(Stdio::piped());
    command.env("EVERLOG_DATA", &store);
    command.env("EVERLOG_LISTEN", "127.0.0.1:0").env("EVERLOG_ADMIN_LISTEN", "127.0.0.1:0");
    let mut server = command.spawn().map_err(|e| failed(format!("it could not be started: {e}")))?;
    let mut told = String::new();
    let mut ready = false;
    for line in BufReader::new(server.stderr.take().expect("it is piped")).lines().map_while(Result::ok) {
        told = told + &line + "\n";
        if line.starts_with("everlogd ready on http://") {
            ready = true;
            let asked = kill_process(Pid::from_child(&server), Signal::TERM);
            asked.map_err(|e| failed(format!("the server cannot be asked to stop: {e}")))?;
        }
    }
    let status = server.wait().map_err(|e| failed(format!("it cannot be waited for: {e}")))?;
    let removed = std::fs::remove_dir_all(&store);
    if !ready || !status.success() {
        return Err(failed(format!("the server did not become ready and stop ({status}):\n{told}")));
    }
    removed.map_err(|e| failed(format!("the store cannot be removed: {e}")))?;
    eprintln!("it was ready, and stopped when it was asked to");
    Ok(())
}

/// The commands of the first `console` block.
fn first_commands(readme: &str) -> Vec<&str> {
    let block = readme.split("```console\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap_or_default();
    block.lines().filter_map(|line| line.strip_prefix("$ ")).collect()
}

#[cfg(test)]
mod tests {
    use super::first_commands;

    #[test]
    fn the_first_block_counts() {
        let text = "# x\n```rust\n$ no\n```\n```console\n$ a b\nprinted\n$ c\n```\n```console\n$ d\n```\n";
        assert_eq!(first_commands(text), ["a b", "c"]);
        assert!(first_commands("none").is_empty());
    }
}
