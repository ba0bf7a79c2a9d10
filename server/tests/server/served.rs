//! A server over a store of its own that can be stopped, killed and started again, and its answers in parts.
//!
//! Nothing here sleeps. Invariant: a server that was stopped ended cleanly.

use crate::program::{Program, QUIET, ask, everlogd};
use std::collections::HashMap;
use std::path::PathBuf;

/// A server.
pub struct Served {
    scratch: tempfile::TempDir,
    program: Option<Program>,
    /// Where it listens at present.
    pub address: String,
}

/// An answer in its parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    headers: HashMap<String, String>,
    pub body: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub fn next(&self) -> String {
        self.header("stream-next-offset").to_owned()
    }
}

impl Served {
    /// On a new store, with more settings.
    pub fn new(settings: &str) -> Self {
        // On the disk that the build is on, and not in a memory file system that refuses direct writes.
        let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("there is room for a folder");
        std::fs::write(scratch.path().join("everlog.toml"), settings).expect("written");
        let mut served = Self { scratch, program: None, address: String::new() };
        served.start();
        served
    }

    pub fn data(&self) -> PathBuf {
        self.scratch.path().join("store")
    }

    pub fn start(&mut self) {
        let mut command = everlogd(self.scratch.path());
        let mut program = Program::start(command.args(QUIET).args(["--init", "--data", "store"]));
        self.address = program.line_with("everlogd ready on http://");
        self.program = Some(program);
    }

    pub fn stop(&mut self) {
        let program = self.program.take().expect("it runs");
        program.terminate();
        let ended = program.ended();
        assert_eq!(ended.code, 0, "{}", ended.stderr);
    }

    pub fn kill(&mut self) {
        drop(self.program.take().expect("it runs"));
    }

    pub fn restart(&mut self) {
        self.stop();
        self.start();
    }

    pub fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        ask_at(&self.address, method, path, headers, body)
    }

    pub fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], "")
    }

    /// Creates a stream of messages.
    pub fn create(&self, path: &str) -> Answer {
        self.ask("PUT", path, &[("Content-Type", "application/json")], "")
    }

    /// Appends messages.
    pub fn append(&self, path: &str, body: &str) -> Answer {
        self.ask("POST", path, &[("Content-Type", "application/json")], body)
    }
}

/// Asks for what lies at `path` below `/v1/`.
pub fn ask_at(address: &str, method: &str, path: &str, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Answer {
    let body = body.as_ref();
    let mut request = format!("{method} /v1/{path} HTTP/1.1\r\nContent-Length: {}\r\n", body.len());
    headers.iter().for_each(|(name, value)| request += &format!("{name}: {value}\r\n"));
    let answer = ask(address, [request.as_bytes(), b"\r\n", body].concat());
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("an answer: {answer}"));
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok());
    let headers =
        lines.filter_map(|line| line.split_once(": ")).map(|(name, value)| (name.to_owned(), value.to_owned()));
    Answer { status: status.expect("a status"), headers: headers.collect(), body: body.to_owned() }
}

/// Numbers that look random, from a seed that is told.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Self {
        eprintln!("seed {seed}");
        Self(seed.wrapping_mul(2) + 1)
    }

    /// Below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}
