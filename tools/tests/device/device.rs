//! A device as its user has it: a folder, and the program that syncs it.
//!
//! Invariant: every command is given the time and the surroundings in which it fails fast rather than hangs.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

pub struct Device {
    pub dir: PathBuf,
}

pub fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("there is room for a folder")
}

pub fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("it was ended by a signal: {output:?}"))
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("it prints text")
}

impl Device {
    pub fn new(parent: &Path, name: &str, server: &str) -> Self {
        let device = Self { dir: parent.join(name) };
        let made = device.run("init", &["--server", server, "--user", "alice"]);
        assert_eq!(code(&made), 0, "{}", stderr(&made));
        device
    }

    fn command(&self, command: &str, more: &[&str]) -> Command {
        let mut everlog = Command::new(env!("CARGO_BIN_EXE_everlog"));
        everlog.args(["device", command]).arg(&self.dir).args(more).env_remove("EVERLOG_TOKEN");
        everlog
    }

    pub fn run(&self, command: &str, more: &[&str]) -> Output {
        self.command(command, more).output().expect("the program starts")
    }

    /// A sync that is under way.
    pub fn start_sync(&self) -> Child {
        let mut sync = self.command("sync", &["--retry-seconds", "120"]);
        sync.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts")
    }

    /// A sync on a disk that takes no file beyond a few MiB.
    pub fn sync_in_little_room(&self) -> Output {
        let mut shell = Command::new("sh");
        shell.args(["-c", r#"trap '' XFSZ; ulimit -f 4096; exec "$@""#, "sh", env!("CARGO_BIN_EXE_everlog")]);
        shell.args(["device", "sync"]).arg(&self.dir).env_remove("EVERLOG_TOKEN");
        shell.output().expect("the shell starts")
    }

    /// A sync that ends with this code.
    pub fn sync_to(&self, expected: i32) -> Output {
        // Where the server is to be missed, it need not be missed for long. Where it is not, the machine may stand still.
        let patience = if expected == 1 { "1" } else { "120" };
        let output = self.run("sync", &["--retry-seconds", patience, "--json"]);
        assert_eq!(code(&output), expected, "{} {}", String::from_utf8_lossy(&output.stdout), stderr(&output));
        output
    }

    /// A sync that does all there is to do, and what it did.
    pub fn sync(&self) -> Value {
        serde_json::from_slice(&self.sync_to(0).stdout).expect("one JSON object")
    }

    pub fn status(&self) -> Value {
        let output = self.run("status", &["--json"]);
        assert_eq!(code(&output), 0, "{}", stderr(&output));
        serde_json::from_slice(&output.stdout).expect("one JSON object")
    }

    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        fs::write(self.dir.join(path), content).expect("there is room");
    }

    pub fn remove(&self, path: &str) {
        fs::remove_file(self.dir.join(path)).expect("it is there");
    }

    pub fn read(&self, path: &str) -> String {
        fs::read_to_string(self.dir.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
    }

    pub fn has(&self, path: &str) -> bool {
        self.dir.join(path).exists()
    }

    /// Every file that was set aside, by path without the time.
    pub fn set_aside(&self) -> BTreeMap<String, String> {
        let files = everlog_tests::folders::files(&self.dir.join(".everlog/set-aside"));
        let without_time = |name: &str| name.split_once('/').expect("it lies in a folder").1.to_owned();
        files
            .iter()
            .map(|(name, content)| (without_time(name), String::from_utf8_lossy(content).into_owned()))
            .collect()
    }

    /// Every file outside of `.everlog`, by path.
    pub fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        for folder in ["contacts", "calendar", "todos", "notes", "photos"] {
            for entry in fs::read_dir(self.dir.join(folder)).expect("the folder is there") {
                let entry = entry.expect("it can be read");
                let name = format!("{folder}/{}", entry.file_name().to_string_lossy());
                files.insert(name, fs::read(entry.path()).expect("it can be read"));
            }
        }
        files
    }
}
