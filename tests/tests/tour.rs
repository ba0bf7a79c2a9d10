//! The README's tour, run as it is written: each command of its `console` blocks in one shell, and what it prints
//! compared with what the README shows.
//!
//! Two things differ from a reader's terminal: the server is this test's own, on other ports, which the commands are
//! given instead; and the programs are those that were just built. What is drawn at random, numbers of 16 hexadecimal
//! digits or more, is compared as such.

use everlog_tests::net::Server;
use everlog_tests::programs::{Program, target_dir};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

/// Where the tested part begins and ends in the README.
const BEGIN: &str = "<!-- The commands from here to the end of the section are run by tests/tests/tour.rs. -->";
const END: &str = "\n## ";
/// Ends the output of each command.
const MARK: &str = "--- the next command ---";

/// A command, and what it is shown to print.
#[derive(Debug, PartialEq, Eq)]
struct Step {
    command: String,
    shown: String,
}

/// The commands of the text's `console` blocks. A line that ends in a backslash goes on in the next one.
fn steps(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for block in text.split("```console\n").skip(1) {
        let block = block.split("```").next().expect("a split gives at least one part");
        let mut goes_on = false;
        for line in block.lines() {
            match (line.strip_prefix("$ "), goes_on) {
                (Some(command), false) => steps.push(Step { command: command.to_owned(), shown: String::new() }),
                (_, true) => {
                    let step = steps.last_mut().expect("a command goes on");
                    step.command.push('\n');
                    step.command.push_str(line);
                }
                (None, false) => {
                    let step = steps.last_mut().expect("a block begins with a command");
                    step.shown.push_str(line);
                    step.shown.push('\n');
                }
            }
            let in_command = line.starts_with("$ ") || goes_on;
            goes_on = in_command && line.ends_with('\\');
        }
    }
    steps
}

/// What is drawn at random is replaced by its length.
fn without_chance(text: &str) -> String {
    let mut out = String::new();
    let mut digits = String::new();
    for c in text.chars().chain(['\n']) {
        if matches!(c, '0'..='9' | 'a'..='f') {
            digits.push(c);
            continue;
        }
        // A position's number is not drawn at random, and begins with zeros.
        if digits.len() >= 16 && !digits.starts_with("000000000000") {
            out.push_str(&format!("<{} digits>", digits.len()));
        } else {
            out.push_str(&digits);
        }
        digits.clear();
        out.push(c);
    }
    out.trim_end().to_owned()
}

#[test]
fn the_readmes_tour_prints_what_it_shows() {
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let readme = fs::read_to_string(readme).expect("the README is there");
    let tour = readme.split(BEGIN).nth(1).expect("the tour is marked").split(END).next().expect("one part at least");
    let steps = steps(tour);
    assert!(steps.len() > 20, "the tour is there: {steps:?}");

    let scratch = tempfile::Builder::new().prefix("tour").tempdir_in(target_dir()).expect("room for a folder");
    let server = Server::start(&scratch.path().join("everlog-data"), &[]);
    let programs = Program::Everlog.path().parent().expect("a program lies in a folder").to_owned();
    let mut script = String::new();
    for step in &steps {
        let command = step.command.replace("127.0.0.1:4437", &server.address().to_string());
        let command = command.replace("127.0.0.1:4438", &server.admin_address().to_string());
        // A command that fails ends the tour, as it would end a reader's patience.
        script.push_str(&format!("{command} || exit 1\nprintf '\\n{MARK}\\n'\n"));
    }
    let path = std::env::var("PATH").unwrap_or_default();
    let mut shell = Command::new("bash");
    shell.arg("-c").arg(&script).current_dir(scratch.path()).env("PATH", format!("{}:{path}", programs.display()));
    let output = shell.stdin(Stdio::null()).output().expect("bash is there");
    let printed = String::from_utf8_lossy(&output.stdout);
    let told = || format!("{printed}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "a command failed; curl 7.83 or newer is needed:\n{}", told());
    let printed: Vec<&str> = printed.split(MARK).collect();
    assert_eq!(printed.len(), steps.len() + 1, "{}", told());
    for (step, printed) in steps.iter().zip(printed) {
        let (printed, shown) = (without_chance(printed.trim_start_matches('\n')), without_chance(&step.shown));
        assert_eq!(printed, shown, "$ {}", step.command);
    }
}

#[test]
fn a_tour_is_read_as_it_is_written() {
    let text = "text\n```console\n$ one \\\n    more\nprinted\n$ two\n```\n```rust\n$ no\n```\n```console\n$ three\na\nb\n```\n";
    let step = |command: &str, shown: &str| Step { command: command.into(), shown: shown.into() };
    assert_eq!(steps(text), [step("one \\\n    more", "printed\n"), step("two", ""), step("three", "a\nb\n")]);
    assert_eq!(without_chance("x a1f4ba93b923d911 0000000000000002 12"), "x <16 digits> 0000000000000002 12");
}
