//! Clients that nobody here wrote against a freshly built everlogd: the protocol's own for JavaScript and for Python.
//!
//! They are npm and Python packages, pinned with all they need in tests/clients, and are installed under target/, never
//! in the tree. What is done with them is the business of tests/bin/clients.rs. Invariant: nothing is installed but what
//! the lock files name, byte for byte.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::conformance::{copy_and_install, needs_node};
use crate::steps::{Failure, Outcome, call, programs};

const FILES: &[&str] = &["package.json", "package-lock.json", ".npmrc", "client.mjs", "client.py", "requirements.txt"];

pub fn run(root: &Path) -> Outcome {
    needs_node()?;
    let probe = Command::new("python3").args(["-c", "import ensurepip, venv"]).stderr(Stdio::null()).status();
    if !probe.is_ok_and(|status| status.success()) {
        let remedy = "install Python 3.10 or newer with venv, which some systems call python3-venv";
        return Err(Failure::new("python3 is missing, or cannot make an environment", remedy));
    }
    let folder = copy_and_install(root, "clients", FILES)?;
    let python = environment(&folder)?;
    programs(root)?;
    let mut clients = Command::new(root.join("target/debug/clients"));
    clients.arg("--applications").arg(&folder).arg("--python").arg(python);
    call(clients)
}

/// A Python with what the requirements name; what is there since the last run is not fetched again.
fn environment(folder: &Path) -> Result<PathBuf, Failure> {
    let home = folder.join("python");
    let python = home.join("bin/python");
    if !python.exists() {
        let mut venv = Command::new("python3");
        venv.args(["-m", "venv"]).arg(&home);
        call(venv)?;
    }
    let mut pip = Command::new(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes", "-r"]);
    pip.arg(folder.join("requirements.txt"));
    call(pip)?;
    Ok(python)
}
