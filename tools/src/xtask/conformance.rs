//! The protocol's own conformance suite against a freshly built everlogd.
//!
//! The suite is an npm package, pinned with all it needs by tests/conformance/package-lock.json; it is installed under
//! target/, never in the tree. What the server does not do yet is left out by the names of the suite's groups, below.
//! Invariant: the step passes only if exactly as many tests ran in scope as are counted here, and each of them passed.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use crate::steps::{Failure, Outcome, call, programs};

/// Tests of suite 0.3.6 that are in scope; docs/PROTOCOL-EXTENSIONS.md tells the same number.
const IN_SCOPE: usize = 220;
/// Groups of what is not there yet, by how their names begin.
const GROUPS_LEFT_OUT: &[&str] = &["Fork", "TTL", "Reserved subscription APIs"];
/// Tests of other groups that need expiry.
const TESTS_LEFT_OUT: &[&str] =
    &["should return TTL metadata if configured", "should return Expires-At metadata if configured"];
/// How long a long poll waits while the suite runs; the suite waits for it more than once.
const LONG_POLL_MS: &str = "500";

pub fn run(root: &Path) -> Outcome {
    for tool in ["node", "npm"] {
        let probe = Command::new(tool).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
        if !probe.is_ok_and(|status| status.success()) {
            return Err(Failure::new(format!("{tool} is missing"), "install Node.js 20 or newer, with npm"));
        }
    }
    let suite = install(root)?;
    programs(root)?;
    let server = Server::start(root, &suite)?;
    let results = suite.join("results.json");
    let mut vitest = Command::new(suite.join("node_modules/.bin/vitest"));
    vitest.current_dir(&suite).args(["run", "--reporter=json", "--outputFile=results.json"]);
    vitest.env("EVERLOG_CONFORMANCE_URL", &server.url).env("EVERLOG_CONFORMANCE_LONG_POLL_MS", LONG_POLL_MS);
    // It fails for the groups that are left out as well; the results decide.
    let told = vitest.output().map_err(|e| unreadable("vitest", &e))?;
    drop(server);
    let text = std::fs::read(&results).map_err(|e| {
        let what = format!("the suite left no results ({e}): {}", String::from_utf8_lossy(&told.stderr));
        Failure::new(what, "see what it printed")
    })?;
    let report: Value = serde_json::from_slice(&text).map_err(|e| unreadable("the suite's results", &e))?;
    judge(&report).map(|line| eprintln!("{line}"))
}

fn unreadable(what: &str, e: &dyn std::error::Error) -> Failure {
    Failure::new(format!("{what}: {e}"), "see the error")
}

/// A fresh copy of the suite with all it needs.
fn install(root: &Path) -> Result<PathBuf, Failure> {
    let (from, to) = (root.join("tests/conformance"), root.join("target/conformance"));
    std::fs::create_dir_all(&to).map_err(|e| unreadable("target/conformance", &e))?;
    for name in ["package.json", "package-lock.json", "conformance.test.js"] {
        std::fs::copy(from.join(name), to.join(name)).map_err(|e| unreadable(name, &e))?;
    }
    let stale = to.join("results.json");
    if stale.exists() {
        std::fs::remove_file(stale).map_err(|e| unreadable("the results of the last run", &e))?;
    }
    let mut npm = Command::new("npm");
    call({
        npm.current_dir(&to).args(["ci", "--no-audit", "--no-fund", "--loglevel=error"]);
        npm
    })?;
    Ok(to)
}

/// A server over a fresh store; both are gone once this is dropped.
struct Server {
    process: Child,
    url: String,
    data: PathBuf,
}

impl Server {
    fn start(root: &Path, suite: &Path) -> Result<Self, Failure> {
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
        if GROUPS_LEFT_OUT.iter().any(|name| group.starts_with(name)) || TESTS_LEFT_OUT.contains(&title) {
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
    Ok(format!("{passed} of the protocol's tests passed; {left_out} need what is not there yet"))
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
        let fork = json!({"ancestorTitles": ["Fork - Creation"], "title": "should fork", "status": "failed"});
        judge(&report(IN_SCOPE, &fork)).expect("all in scope passed");
        let skipped = json!({"ancestorTitles": ["JSON Mode"], "title": "should be an array", "status": "skipped"});
        let failure = judge(&report(IN_SCOPE, &skipped)).expect_err("a test that did not run proves nothing");
        assert!(failure.to_string().contains("JSON Mode / should be an array"), "{failure}");
    }

    #[test]
    fn a_suite_that_shrank_proves_nothing() {
        let fork = json!({"ancestorTitles": ["Fork - Creation"], "title": "should fork", "status": "failed"});
        assert!(judge(&report(IN_SCOPE - 1, &fork)).is_err());
        assert!(judge(&report(0, &fork)).is_err());
        assert!(judge(&Value::Null).is_err());
    }
}
