//! The program everlogd as whoever starts it sees it: its lines, its addresses, its end.
//!
//! Nothing here sleeps: a start is over at the ready line, an end at the end of stderr, and both have a deadline.

use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Duration;

/// How long a start or a refusal may take on a slow machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a program left behind.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code.
    pub code: i32,
    /// All it printed there.
    pub stdout: String,
    /// The same, of its errors and its log.
    pub stderr: String,
}

/// A program that runs; it is killed if it is forgotten.
pub struct Program {
    child: Child,
    lines: Receiver<String>,
    seen: String,
}

/// The arguments that every server of a test has.
pub const QUIET: [&str; 6] = ["--cold", "none", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];

/// everlogd, in a directory without settings and without any in its environment.
pub fn everlogd(scratch: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_everlogd"));
    plain(&mut command, scratch);
    command
}

/// Takes away what the tests' own surroundings may hold of settings.
pub fn plain(command: &mut Command, scratch: &Path) {
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("EVERLOG_")) {
        command.env_remove(name);
    }
    command.current_dir(scratch);
}

impl Program {
    /// Starts it.
    pub fn start(command: &mut Command) -> Self {
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|e| panic!("{:?} starts: {e}", command.get_program()));
        let stderr = BufReader::new(child.stderr.take().expect("it is piped"));
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in stderr.lines() {
                // Whoever is told no more has failed already.
                let _ = sender.send(line.expect("it prints text"));
            }
        });
        Self { child, lines, seen: String::new() }
    }

    /// The rest of the first line that begins so, leading log fields aside.
    pub fn line_with(&mut self, what: &str) -> String {
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => {
                    self.seen += &format!("{line}\n");
                    if let Some((_, rest)) = line.split_once(what) {
                        return rest.to_owned();
                    }
                }
                Err(e) => panic!("it never said \"{what}\" ({e}), but:\n{}", self.seen),
            }
        }
    }

    /// Its memory: the most that was resident at once, in bytes.
    pub fn peak_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the kernel counts it");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("a child that was not waited for is there");
    }

    /// Asks it to end.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Has it read its files again.
    pub fn hang_up(&self) {
        kill_process(Pid::from_child(&self.child), Signal::HUP).expect("a child that was not waited for is there");
    }

    /// Waits for its end.
    pub fn ended(self) -> Ended {
        self.ended_within(PATIENCE)
    }

    /// Waits for its end, which has to come soon.
    pub fn ended_within(mut self, patience: Duration) -> Ended {
        let deadline = std::time::Instant::now() + patience;
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(std::time::Instant::now())) {
                Ok(line) => self.seen += &format!("{line}\n"),
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => panic!("it still ran after {patience:?}:\n{}", self.seen),
            }
        }
        let status = self.child.wait().expect("the child is ours");
        let mut stdout = String::new();
        let pipe = self.child.stdout.as_mut().expect("it is piped");
        pipe.read_to_string(&mut stdout).expect("it prints text");
        let code = status.code().unwrap_or_else(|| panic!("it was ended by a signal: {status}\n{}", self.seen));
        Ended { code, stdout, stderr: std::mem::take(&mut self.seen) }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection on which `request` was sent.
pub fn send(address: &str, request: impl AsRef<[u8]>) -> TcpStream {
    let mut stream = TcpStream::connect(address).expect("the server listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a patience that is not zero");
    stream.write_all(request.as_ref()).expect("the server reads");
    stream
}

/// The whole answer to a request that ends its connection.
pub fn ask(address: &str, request: impl AsRef<[u8]>) -> String {
    let request = request.as_ref();
    let line = request.windows(2).position(|pair| pair == b"\r\n").expect("a request has a first line");
    let request = [&request[..line], b"\r\nHost: test\r\nConnection: close", &request[line..]].concat();
    let mut answer = Vec::new();
    send(address, request).read_to_end(&mut answer).expect("an answer");
    String::from_utf8_lossy(&answer).into_owned()
}
