//! The protocol's own conformance suite against a freshly built everlogd.
//!
//! The suite is an npm package, pinned with all it needs by tests/conformance/package-lock.json; it is installed under
//! target/, never in the tree.
//! Invariant: the step passes only if exactly as many tests ran in scope as are counted here, and each of them passed.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::steps::{Failure, Outcome, call, programs};

/// Tests of suite 0.3.6 that are in scope; docs/PROTOCOL-EXTENSIONS.md tells the same number.
const IN_SCOPE: usize = 332;
/// What a server may leave out, which the suite asks only of those that say they have it.
const GROUP_LEFT_OUT: &str = "Reserved subscription APIs";
/// How long a long poll waits while the suite runs; the suite waits for it more than once.
const LONG_POLL_MS: &str = "500";
/// What the suite's token reaches, and what the one that is refused does.
const SCOPE: &str = "users/alice";
const FOREIGN_SCOPE: &str = "users/alicia";

/// The backends of the server's disk, and how often the suite runs against each where time is no matter.
const BACKENDS: [&str; 3] = ["uring", "posix", "buffered"];
const TIMES: usize = 3;

pub fn run(root: &Path) -> Outcome {
    against(root, &["auto"], 1)
}

/// As often as a soak has it: several times on each backend.
pub fn soak(root: &Path) -> Outcome {
    against(root, &BACKENDS, TIMES)
}

fn against(root: &Path, backends: &[&str], times: usize) -> Outcome {
    needs_node()?;
    let suite = install(root)?;
    programs(root)?;
    for (backend, _) in backends.iter().flat_map(|backend| (0..times).map(move |n| (backend, n))) {
        for auth in [false, true] {
            let line = suite_against(root, &suite, backend, auth)?;
            eprintln!("{}, --io {backend}: {line}", if auth { "a token for one owner" } else { "everybody let in" });
        }
    }
    Ok(())
}

/// Runs the suite against a server of its own: one that lets everybody in, or one where the suite has one owner's token and
/// another owner's is refused for each of its requests.
fn suite_against(root: &Path, suite: &Path, backend: &str, auth: bool) -> Result<String, Failure> {
    let server = Server::start(root, suite, backend, auth)?;
    let results = suite.join("results.json");
    if results.exists() {
        std::fs::remove_file(&results).map_err(|e| unreadable("the results of the last run", &e))?;
    }
    let mut vitest = Command::new(suite.join("node_modules/.bin/vitest"));
    vitest.current_dir(suite).args(["run", "--reporter=json", "--outputFile=results.json"]);
    vitest.env("EVERLOG_CONFORMANCE_URL", &server.url).env("EVERLOG_CONFORMANCE_LONG_POLL_MS", LONG_POLL_MS);
    if auth {
        vitest.env("EVERLOG_CONFORMANCE_SCOPE", SCOPE);
        vitest.env("EVERLOG_CONFORMANCE_TOKEN", server.token(root, SCOPE)?);
        vitest.env("EVERLOG_CONFORMANCE_FOREIGN_TOKEN", server.token(root, FOREIGN_SCOPE)?);
    }
    // It fails for the group that is left out as well; the results decide.
    let told = vitest.output().map_err(|e| unreadable("vitest", &e))?;
    drop(server);
    let text = std::fs::read(&results).map_err(|e| {
        let what = format!("the suite left no results ({e}): {}", String::from_utf8_lossy(&told.stderr));
        Failure::new(what, "see what it printed")
    })?;
    let report: Value = serde_json::from_slice(&text).map_err(|e| unreadable("the suite's results", &e))?;
    judge(&report)
}

fn unreadable(what: &str, e: &dyn std::error::Error) -> Failure {
    Failure::new(format!("{what}: {e}"), "see the error")
}

/// Fails with a remedy if there is no Node.js.
pub fn needs_node() -> Outcome {
    for tool in ["node", "npm"] {
        let probe = Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if !probe.is_ok_and(|status| status.success()) {
            return Err(Failure::new(format!("{tool} is missing"), "install Node.js 20 or newer, with npm"));
        }
    }
    Ok(())
}

/// A fresh copy of the suite with all it needs.
fn install(root: &Path) -> Result<PathBuf, Failure> {
    copy_and_install(root, "conformance", &["package.json", "package-lock.json", "conformance.test.js"])
}

/// Copies files of a folder of tests/ to one of the same name in target/, and installs there what its lock file names.
pub fn copy_and_install(root: &Path, folder: &str, files: &[&str]) -> Result<PathBuf, Failure> {
    let (from, to) = (root.join("tests").join(folder), root.join("target").join(folder));
    std::fs::create_dir_all(&to).map_err(|e| unreadable(&format!("target/{folder}"), &e))?;
    for name in files {
        std::fs::copy(from.join(name), to.join(name)).map_err(|e| unreadable(name, &e))?;
    }
    let mut npm = Command::new("npm");
    npm.current_dir(&to).args(["ci", "--no-audit", "--no-fund", "--loglevel=error"]);
    call(npm)?;
    Ok(to)
}

/// A server over a fresh store; both are gone once this is dropped.
struct Server {
    process: Child,
    url: String,
    data: PathBuf,
}

impl Server {
    fn start(root: &Path, suite: &Path, backend: &str, auth: bool) -> Result<Self, Failure> {
        let data = suite.join("store");
        if data.exists() {
            std::fs::remove_dir_all(&data).map_err(|e| unreadable("the store of the last run", &e))?;
        }
        let settings = suite.join("everlog.toml");
        let text = format!("long_poll_ms = {LONG_POLL_MS}\ncold = [\"none\"]\n");
        std::fs::write(&settings, text).map_err(|e| unreadable("everlog.toml", &e))?;
        let mut command = Command::new(root.join("target/debug/everlogd"));
        command.args(["--init", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
        command.arg("--data").arg(&data).arg("--config").arg(&settings);
        command.args(["--io", backend, "--auth", if auth { "tokens" } else { "off" }]);
        let mut process = command.stderr(Stdio::piped()).spawn().map_err(|e| unreadable("everlogd", &e))?;
        let lines = BufReader::new(process.stderr.take().expect("it is piped"));
        let mut server = Self { process, url: String::new(), data };
        let mut told = String::new();
        let mut lines = lines.lines();
        for line in lines.by_ref().map_while(Result::ok) {
            if let Some(url) = line.strip_prefix("everlogd ready on ") {
                server.url = url.to_owned();
                // Read on, so that the server never waits for a reader.
                std::thread::spawn(move || lines.for_each(drop));
                return Ok(server);
            }
            told.push_str(&line);
            told.push('\n');
        }
        Err(Failure::new(format!("everlogd did not start:\n{told}"), "see what it printed"))
    }
}

impl Server {
    /// A token of the server's for all below `scope`.
    fn token(&self, root: &Path, scope: &str) -> Result<String, Failure> {
        let mut command = Command::new(root.join("target/debug/everlog"));
        command.args(["token", "issue", "--scope", scope, "--device", "suite", "--data"]).arg(&self.data);
        let output = command.output().map_err(|e| unreadable("everlog token", &e))?;
        let told = String::from_utf8_lossy(&output.stdout);
        let token = told.split_whitespace().find(|word| word.starts_with("evl_"));
        token.map(str::to_owned).ok_or_else(|| {
            let what = format!("no token was issued: {}", String::from_utf8_lossy(&output.stderr));
            Failure::new(what, "see what it printed")
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself, and the results tell that well enough.
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = std::fs::remove_dir_all(&self.data);
    }
}

/// What the results prove.
fn judge(report: &Value) -> Result<String, Failure> {
    let (mut passed, mut left_out, mut failed) = (0, 0, Vec::new());
    let files = report["testResults"].as_array().map(Vec::as_slice).unwrap_or_default();
    for test in files.iter().filter_map(|file| file["assertionResults"].as_array()).flatten() {
        let group = test["ancestorTitles"][0].as_str().unwrap_or_default();
        let title = test["title"].as_str().unwrap_or_default();
        if group.starts_with(GROUP_LEFT_OUT) {
            left_out += 1;
        } else if test["status"] == "passed" {
            passed += 1;
        } else {
            let message = test["failureMessages"][0].as_str().unwrap_or_default().lines().next().unwrap_or_default();
            failed.push(format!("{group} / {title}: {message}"));
        }
    }
    if !failed.is_empty() {
        let what = format!("{} of the protocol's tests failed:\n{}", failed.len(), failed.join("\n"));
        return Err(Failure::new(what, "the tests are in target/conformance/node_modules/@durable-streams"));
    }
    if passed != IN_SCOPE {
        let what = format!("{passed} of the protocol's tests ran in scope, and {IN_SCOPE} are counted");
        return Err(Failure::new(what, "see whether the suite changed, and count anew"));
    }
    Ok(format!("{passed} of the protocol's tests passed; {left_out} are of what a server may leave out"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn report(count: usize, last: &Value) -> Value {
        let test = |n: usize| json!({"ancestorTitles": ["SSE Mode"], "title": format!("test {n}"), "status": "passed"});
        let mut tests: Vec<Value> = (0..count).map(test).collect();
        tests.push(last.clone());
        json!({"testResults": [{"assertionResults": tests}]})
    }

    #[test]
    fn what_is_out_of_scope_may_fail_and_nothing_else() {
        let other = json!({"ancestorTitles": [GROUP_LEFT_OUT], "title": "should subscribe", "status": "skipped"});
        judge(&report(IN_SCOPE, &other)).expect("all in scope passed");
        let skipped = json!({"ancestorTitles": ["JSON Mode"], "title": "should be an array", "status": "skipped"});
        let failure = judge(&report(IN_SCOPE, &skipped)).expect_err("a test that did not run proves nothing");
        assert!(failure.to_string().contains("JSON Mode / should be an array"), "{failure}");
    }

    #[test]
    fn a_suite_that_shrank_proves_nothing() {
        let other = json!({"ancestorTitles": [GROUP_LEFT_OUT], "title": "should subscribe", "status": "skipped"});
        assert!(judge(&report(IN_SCOPE - 1, &other)).is_err());
        assert!(judge(&report(0, &other)).is_err());
        assert!(judge(&Value::Null).is_err());
    }
}
