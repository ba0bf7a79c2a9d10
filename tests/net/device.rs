//! A folder that `everlog device` syncs, as its user sees it.

use crate::folders::files;
use crate::programs::Program;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

/// The folders of items.
pub const COLLECTIONS: [&str; 5] = ["contacts", "calendar", "todos", "notes", "photos"];

/// A device.
#[derive(Clone, Debug)]
pub struct Device {
    dir: PathBuf,
}

impl Device {
    /// Makes `dir` a device of `user`. Panics if that is refused.
    #[must_use]
    pub fn init(dir: PathBuf, server: &str, user: &str) -> Self {
        let device = Self { dir };
        let mut command = device.command("init");
        let output = command.args(["--server", server, "--user", user]).output().expect("everlog starts");
        assert!(output.status.success(), "{}", told(&output));
        device
    }

    /// Its folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The items, by collection and file name.
    #[must_use]
    pub fn items(&self) -> BTreeMap<String, Vec<u8>> {
        let mut items = BTreeMap::new();
        for collection in COLLECTIONS {
            let found = files(&self.dir.join(collection));
            items.extend(found.into_iter().map(|(name, content)| (format!("{collection}/{name}"), content)));
        }
        items
    }

    /// Puts an item there, as its user would.
    pub fn write(&self, item: &str, content: impl AsRef<[u8]>) {
        fs::write(self.dir.join(item), content).expect("the item is written");
    }

    /// Takes one away.
    pub fn remove(&self, item: &str) {
        fs::remove_file(self.dir.join(item)).expect("the item was there");
    }

    /// A command on it, to be started.
    #[must_use]
    pub fn command(&self, name: &str) -> Command {
        let mut command = Command::new(Program::Everlog.path());
        command.args(["device", name]).arg(&self.dir);
        command
    }

    /// Starts a sync.
    #[must_use]
    pub fn begin_sync(&self) -> Child {
        let mut command = self.command("sync");
        command.args(["--retry-seconds", "60"]).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("everlog starts")
    }

    /// Syncs. Panics if anything was left undone.
    pub fn sync(&self) {
        let output = self.begin_sync().wait_with_output().expect("it ends");
        assert!(output.status.success(), "{}: {}", self.dir.display(), told(&output));
    }

    /// Syncs with a server that answers only in part. Panics if it does not give up.
    pub fn sync_in_vain(&self) {
        let output = self.command("sync").args(["--retry-seconds", "1"]).output().expect("everlog starts");
        assert_eq!(output.status.code(), Some(1), "{}: {}", self.dir.display(), told(&output));
    }

    /// What it knows of itself.
    #[must_use]
    pub fn status(&self) -> serde_json::Value {
        let output = self.command("status").arg("--json").output().expect("everlog starts");
        assert!(output.status.success(), "{}", told(&output));
        serde_json::from_slice(&output.stdout).expect("one JSON object")
    }

    /// Forgets items and state. Panics if that is refused.
    pub fn reset(&self) {
        let output = self.command("reset").output().expect("everlog starts");
        assert!(output.status.success(), "{}", told(&output));
    }
}

/// What a program printed, and how it ended.
#[must_use]
pub fn told(output: &Output) -> String {
    format!("{}\n{}{}", output.status, String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
