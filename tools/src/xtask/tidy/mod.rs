//! `cargo xtask tidy`: the rules of this repository that no compiler knows.
//!
//! It reads source text and documents; what needs types is left to clippy (engine/clippy.toml). Invariant: a rule
//! either fails the run with a place and a sentence, or is a plain warning about size; nothing is fixed silently.

mod format;
mod hygiene;
mod layers;
mod source;

use std::fmt;
use std::path::{Path, PathBuf};

use crate::steps::{Failure, Outcome};
use source::Source;

/// One broken rule, and where.
#[derive(Debug, PartialEq, Eq)]
pub struct Problem {
    file: PathBuf,
    line: usize,
    what: String,
}

impl Problem {
    fn new(file: &Path, line: usize, what: impl Into<String>) -> Self {
        Self { file: file.to_owned(), line, what: what.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file.display(), self.line, self.what)
    }
}

/// Checks everything; sizes are only told.
pub fn check(root: &Path) -> Outcome {
    let sources = sources(root)?;
    let mut problems = layers::check(&sources);
    problems.extend(hygiene::check(&sources));
    problems.extend(hygiene::check_plain(&plain_files(root)?));
    problems.extend(format::check(&document(root)?, &sources));
    let warnings = hygiene::sizes(&sources);
    for warning in &warnings {
        eprintln!("warning: {warning}");
    }
    for problem in &problems {
        eprintln!("error: {problem}");
    }
    eprintln!("{} files, {} warnings, {} errors", sources.len(), warnings.len(), problems.len());
    if problems.is_empty() {
        return Ok(());
    }
    Err(Failure::new(format!("{} rules are broken", problems.len()), "repeat with: cargo xtask tidy"))
}

/// Records in docs/FORMAT.md that it describes the format's code as it is now. The tables must agree already.
pub fn bless(root: &Path) -> Outcome {
    let sources = sources(root)?;
    let blessed = format::blessed(&document(root)?, &sources).map_err(|problem| {
        Failure::new(problem.to_string(), "bring the document up to date with the code first, then repeat")
    })?;
    let path = root.join(format::DOCUMENT);
    std::fs::write(&path, blessed).map_err(|e| cannot("write", &path, &e))?;
    eprintln!("{} now carries the digest of the format's code", format::DOCUMENT);
    Ok(())
}

fn document(root: &Path) -> Result<String, Failure> {
    read(&root.join(format::DOCUMENT))
}

/// Every Rust file of the workspace, by its path from the root, in order.
fn sources(root: &Path) -> Result<Vec<Source>, Failure> {
    let mut files = Vec::new();
    for folder in ["engine", "tools", "benches", "tests", "server"] {
        walk(&root.join(folder), &mut files)?;
    }
    files.retain(|path| path.extension().is_some_and(|e| e == "rs"));
    files.sort();
    let sources = files.iter().map(|path| Ok(Source::new(from_root(root, path), &read(path)?)));
    let mut sources = sources.collect::<Result<Vec<_>, Failure>>()?;
    source::mark_tests(&mut sources);
    Ok(sources)
}

/// The files that are not Rust but are ours: manifests and the script of CI.
fn plain_files(root: &Path) -> Result<Vec<(PathBuf, String)>, Failure> {
    let mut files = Vec::new();
    for folder in ["engine", "tools", "benches", "tests", "server", ".ci"] {
        walk(&root.join(folder), &mut files)?;
    }
    files.retain(|path| path.extension().is_some_and(|e| e == "toml") || path.starts_with(root.join(".ci")));
    files.push(root.join("Cargo.toml"));
    files.iter().map(|path| Ok((from_root(root, path).to_owned(), read(path)?))).collect()
}

fn from_root<'a>(root: &Path, path: &'a Path) -> &'a Path {
    path.strip_prefix(root).expect("it was found below the root")
}

/// Collects the files below `folder`, which may be missing. Build output and foreign items are passed over.
fn walk(folder: &Path, out: &mut Vec<PathBuf>) -> Outcome {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(cannot("list", folder, &e)),
    };
    for entry in entries {
        let entry = entry.map_err(|e| cannot("list", folder, &e))?;
        let (path, name) = (entry.path(), entry.file_name());
        if path.is_dir() {
            if name != "target" && name != "fixtures" {
                walk(&path, out)?;
            }
        } else {
            out.push(path);
        }
    }
    Ok(())
}

fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|e| cannot("read", path, &e))
}

fn cannot(what: &str, path: &Path, e: &std::io::Error) -> Failure {
    Failure::new(format!("cannot {what} {}: {e}", path.display()), "see to the file, then repeat")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().expect("it lies in a folder")).expect("a fresh folder takes folders");
        std::fs::write(path, text).expect("a fresh folder takes files");
    }

    #[test]
    fn a_whole_tree_is_checked_and_blessed() {
        let dir = tempfile::tempdir().expect("there is room for a folder");
        let root = dir.path();
        let format = "//! The frame.\nconst MAGIC_AT: usize = 0;\nconst CRC_AT: usize = MAGIC_AT + 8;\n";
        write(root, "Cargo.toml", "[workspace]\n");
        write(root, "engine/src/lib.rs", "//! The engine.\nmod format;\n");
        write(root, "engine/src/format/mod.rs", "//! The format.\n");
        write(root, "engine/src/format/frame.rs", format);
        let table = "| at | bytes | field |\n|---:|---:|---|\n| 0 | 8 | magic |\n| 8 | 4 | CRC |\n";
        write(root, "docs/FORMAT.md", &format!("# Format\n\n<!-- layout: format/frame.rs -->\n{table}"));

        assert!(check(root).is_err(), "the document carries no digest yet");
        bless(root).expect("the table agrees with the code");
        check(root).expect("now it does");

        write(root, "engine/src/format/frame.rs", &format.replace("+ 8", "+ 4"));
        assert!(check(root).is_err(), "the code moved a field and the document did not");
        assert!(bless(root).is_err(), "a table that is wrong is not blessed");
        write(root, "engine/src/format/frame.rs", &format!("{format}fn decode() {{}}\n"));
        assert!(check(root).is_err(), "the code changed and nobody looked at the document");
        bless(root).expect("somebody did");
        check(root).expect("all is well again");

        write(root, "engine/src/format/frame.rs", &format!("{format}\n\nfn decode() {{}} // why\n"));
        check(root).expect("comments and white space are no change of the format");
    }
}
