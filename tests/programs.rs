//! The project's programs, as tests start them.
//!
//! `cargo test --workspace` has just built them; where only this crate was built, one is missing or older than its
//! sources, and is built here. Invariant: no test runs a program that was older than the sources beside it when the test
//! first asked for it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use parking_lot::Mutex;

/// A program of the workspace.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Program {
    /// The server.
    Everlogd,
    /// The operator's and the devices' program.
    Everlog,
    /// The engine's example.
    Import,
    /// The process that tests on real file systems do something to.
    Victim,
}

impl Program {
    /// Its path, in the profile that this test was built in. Builds it where it is missing or old; panics if it does not
    /// build.
    #[must_use]
    pub fn path(self) -> PathBuf {
        // Looked at once: a run of an hour is about the sources that it began with.
        static PATHS: Mutex<BTreeMap<Program, PathBuf>> = Mutex::new(BTreeMap::new());
        PATHS.lock().entry(self).or_insert_with(|| self.find_or_build()).clone()
    }

    fn find_or_build(self) -> PathBuf {
        let profile_dir = profile_dir();
        let (kind, name, sources): (_, _, &[&str]) = match self {
            Self::Everlogd => ("--bin", "everlogd", &["engine/src", "server/src"]),
            Self::Everlog => ("--bin", "everlog", &["engine/src", "server/src", "tools/src/everlog"]),
            Self::Import => ("--example", "import", &["engine/src", "engine/examples"]),
            Self::Victim => ("--bin", "victim", &["engine/src", "tests/bin", "tests/real"]),
        };
        let path = if kind == "--bin" { profile_dir.join(name) } else { profile_dir.join("examples").join(name) };
        let built = fs::metadata(&path).and_then(|meta| meta.modified()).ok();
        let root = root();
        let newest = sources.iter().filter_map(|folder| newest_in(&root.join(folder))).max();
        if built.is_none() || built < newest {
            let profile = profile_dir.file_name().and_then(|name| name.to_str()).expect("a profile has a name");
            let profile = if profile == "debug" { "dev" } else { profile };
            let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
            // With all packages, so that they are built with the features that `cargo test --workspace` builds them with.
            command.args(["build", "--workspace", kind, name, "--profile", profile, "--target-dir"]);
            command.arg(target_dir()).current_dir(&root);
            // Nor with what the cargo that runs this test told it of its own package: build scripts that watch such variables
            // would run again, and all that depends on them be built again, for each caller.
            for (name, _) in std::env::vars_os() {
                if name
                    .to_str()
                    .is_some_and(|name| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_"))
                {
                    command.env_remove(name);
                }
            }
            assert!(command.status().expect("cargo starts").success(), "{name} does not build");
        }
        path
    }
}

/// The repository's root.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in a folder of the repository").to_owned()
}

/// The folder of the profile: programs lie in it, and a test's in `deps` of it.
fn profile_dir() -> PathBuf {
    let program = std::env::current_exe().expect("a process knows its own program");
    let folder = program.parent().expect("a program lies in a folder");
    let folder = if folder.ends_with("deps") { folder.parent().expect("it lies in the profile's") } else { folder };
    folder.to_owned()
}

/// The folder that builds go to; scratch folders are made there, on a real disk.
#[must_use]
pub fn target_dir() -> PathBuf {
    profile_dir().parent().expect("the profile's folder lies in the target folder").to_owned()
}

fn newest_in(folder: &Path) -> Option<SystemTime> {
    let entries = fs::read_dir(folder).expect("the sources are there");
    let times = entries.map(|entry| {
        let path = entry.expect("the sources can be listed").path();
        if path.is_dir() { newest_in(&path) } else { fs::metadata(&path).and_then(|meta| meta.modified()).ok() }
    });
    times.flatten().max()
}
