//! Rules for each file alone: a head that says what it is for, unsafe code at home only, nothing left undone, and
//! sizes that a reader can take in.
//!
//! Whether a head says something true is for people. Invariant: sizes warn and never fail, since the right cut of a
//! file is a judgement.

use std::path::{Path, PathBuf};

use super::Problem;
use super::source::{Source, behind_braces, words};

/// Where unsafe code may stand: calls into the kernel, memory given to it, files mapped into memory. A prefix of the
/// path, up to a full stop, a slash or an underscore.
const UNSAFE_HOMES: &[&str] = &["engine/src/io/uring", "engine/src/io/buf", "engine/src/io/view"];

/// Marks of things left undone. Spelled in halves, so that this file does not break its own rule.
const UNDONE: &[&str] =
    &[concat!("TO", "DO"), concat!("FIX", "ME"), concat!("unimple", "mented!"), concat!("to", "do!")];

const FILE_LINES_MAX: usize = 600;
const FUNCTION_LINES_MAX: usize = 70;

/// What must hold for every Rust file.
pub fn check(sources: &[Source]) -> Vec<Problem> {
    let mut problems = Vec::new();
    for source in sources {
        if !source.text.trim_start_matches("#!/").trim_start().starts_with("//!") {
            problems.push(Problem::new(
                &source.path,
                1,
                "it must open with //!: purpose, what it leaves out, invariant",
            ));
        }
        if !at_home(&source.path) {
            for at in words(&source.code, "unsafe") {
                let what = format!("unsafe code outside of its homes: {}", UNSAFE_HOMES.join(", "));
                problems.push(Problem::new(&source.path, source.line(at), what));
            }
        }
        problems.extend(undone(&source.path, &source.text));
    }
    problems
}

/// What must hold for the other files.
pub fn check_plain(files: &[(PathBuf, String)]) -> Vec<Problem> {
    files.iter().flat_map(|(path, text)| undone(path, text)).collect()
}

/// Files and functions that are longer than they should be.
pub fn sizes(sources: &[Source]) -> Vec<Problem> {
    let mut warnings = Vec::new();
    for source in sources {
        let lines = source.text.lines().count();
        if lines > FILE_LINES_MAX {
            let what = format!("{lines} lines: a file has one role and rarely passes {FILE_LINES_MAX}");
            warnings.push(Problem::new(&source.path, 1, what));
        }
        for (name, first, lines) in functions(source) {
            if lines > FUNCTION_LINES_MAX {
                let what = format!("{name} has {lines} lines: a function rarely passes {FUNCTION_LINES_MAX}");
                warnings.push(Problem::new(&source.path, first, what));
            }
        }
    }
    warnings
}

fn at_home(path: &Path) -> bool {
    let path = path.to_string_lossy();
    UNSAFE_HOMES.iter().any(|home| path.strip_prefix(home).is_some_and(|rest| rest.starts_with(['.', '/', '_'])))
}

fn undone(path: &Path, text: &str) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (i, line) in text.lines().enumerate() {
        for mark in UNDONE {
            if words(line, mark).next().is_some() {
                problems.push(Problem::new(
                    path,
                    i + 1,
                    format!("{mark}: finish it, or say in words what does not exist"),
                ));
            }
        }
    }
    problems
}

/// Each function with a body: name, first line, number of lines.
fn functions(source: &Source) -> Vec<(&str, usize, usize)> {
    let code = &source.code;
    let mut found = Vec::new();
    for at in words(code, "fn") {
        let rest = code[at + 2..].trim_start();
        let name = rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default();
        // A type such as fn(u32) has no name; a declaration in a trait ends before any brace.
        let (Some(open), end) = (code[at..].find('{'), code[at..].find(';')) else { continue };
        if name.is_empty() || declared_only(&code[at..], open, end) {
            continue;
        }
        let first = source.line(at);
        let last = source.line(behind_braces(code, at + open).saturating_sub(1));
        found.push((name, first, last - first + 1));
    }
    found
}

/// Whether the semicolon ends the declaration; one inside of brackets belongs to an array's type.
fn declared_only(code: &str, open: usize, end: Option<usize>) -> bool {
    end.is_some_and(|end| {
        let head = &code[..end];
        end < open && head.matches('[').count() == head.matches(']').count()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(path: &str, text: &str) -> Vec<String> {
        check(&[Source::new(Path::new(path), text)]).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn unsafe_code_has_a_home() {
        let text = "//! x\nfn a() {\n    unsafe { b() }\n}\n";
        assert!(told("engine/src/commit/mod.rs", text)[0].starts_with("engine/src/commit/mod.rs:3: unsafe"));
        assert_eq!(told("tools/src/xtask/main.rs", text).len(), 1);
        assert_eq!(told("engine/src/io/uringlike.rs", text).len(), 1);
        for home in [
            "engine/src/io/uring.rs",
            "engine/src/io/uring/slots.rs",
            "engine/src/io/uring_probe.rs",
            "engine/src/io/view.rs",
        ] {
            assert_eq!(told(home, text), Vec::<String>::new());
        }
        assert_eq!(told("engine/src/read.rs", "//! unsafe\n#![forbid(unsafe_code)] // unsafe\n"), Vec::<String>::new());
    }

    #[test]
    fn a_file_opens_with_its_purpose() {
        assert_eq!(told("engine/src/read.rs", "use std::fmt;\n").len(), 1);
        assert_eq!(told("engine/src/read.rs", "// A comment.\n").len(), 1);
        assert_eq!(told("engine/src/read.rs", "\n//! Reads.\n"), Vec::<String>::new());
    }

    #[test]
    fn nothing_is_left_undone() {
        for mark in UNDONE {
            assert_eq!(told("engine/src/read.rs", &format!("//! x\n// {mark} later\n")).len(), 1, "{mark}");
            assert_eq!(check_plain(&[("Cargo.toml".into(), format!("# {mark}\n"))]).len(), 1, "{mark}");
        }
        assert_eq!(told("engine/src/read.rs", "//! x\nconst FOLDER: &str = \"todos\";\n"), Vec::<String>::new());
    }

    #[test]
    fn long_files_and_functions_are_told() {
        let long = format!("//! x\nfn short() {{\n}}\nfn long(a: [u8; 3]) -> u8 {{\n{}}}\n", "    a();\n".repeat(70));
        let warnings = sizes(&[Source::new(Path::new("engine/src/read.rs"), &long)]);
        assert_eq!(warnings.len(), 1, "{warnings:?}");
        assert!(warnings[0].to_string().starts_with("engine/src/read.rs:4: long has 72 lines"), "{warnings:?}");

        let file = "//! x\n".repeat(601);
        assert_eq!(sizes(&[Source::new(Path::new("engine/src/read.rs"), &file)]).len(), 1);
    }

    #[test]
    fn declarations_and_types_are_no_functions() {
        let text = format!(
            "//! x\ntrait T {{\n    fn a(&self);\n    type F = fn(u8);\n}}\nstruct S {{\n{}}}\n",
            "    x: u8,\n".repeat(80)
        );
        assert_eq!(sizes(&[Source::new(Path::new("engine/src/read.rs"), &text)]), Vec::new());
    }
}
