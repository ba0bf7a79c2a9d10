//! The victim as a child process: started, listened to, killed.
//!
//! Its lines are read by a thread of their own, so that whoever waits for one can give up, and so that what is noted of a
//! line's moment does not wait for whoever listens. Invariant: the child ends with its handle.

use super::line::{Line, Order};
use super::oracle::{Found, Oracle, found};
use crate::programs::Program;
use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a victim may take to say or to do what is waited for. A machine that is busy with other things takes
/// seconds.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// How victims of a row are started.
#[derive(Clone, Debug)]
pub struct Setting {
    /// The store.
    pub data: PathBuf,
    /// The backend: `auto`, `uring`, `posix` or `buffered`.
    pub io: &'static str,
    /// What the records follow from.
    pub seed: u64,
    /// Where what the victim says on its standard error is gathered: outside the disk that things happen to.
    pub stderr: PathBuf,
    /// More flags of `write` and of `check`: sizes.
    pub sizes: Vec<OsString>,
    /// What their environment has beside this process's own.
    pub env: Vec<(&'static str, String)>,
}

impl Setting {
    /// A store in `data`, with the victim's own sizes. `scratch` is a folder that nothing happens to.
    #[must_use]
    pub fn new(data: &Path, io: &'static str, seed: u64, scratch: &Path) -> Self {
        Self {
            data: data.to_owned(),
            io,
            seed,
            stderr: scratch.join("victim.stderr"),
            sizes: Vec::new(),
            env: Vec::new(),
        }
    }

    /// The command `victim write`, to which flags may be added.
    #[must_use]
    pub fn write(&self) -> Command {
        self.command("write")
    }

    /// The command `victim check`.
    #[must_use]
    pub fn check(&self) -> Command {
        self.command("check")
    }

    fn command(&self, name: &str) -> Command {
        let mut command = Command::new(Program::Victim.path());
        command.arg(name).arg("--data").arg(&self.data).args(["--io", self.io, "--seed", &self.seed.to_string()]);
        command.args(&self.sizes).envs(self.env.iter().map(|(name, value)| (name, value)));
        command
    }

    /// Starts a command of this setting.
    ///
    /// # Errors
    /// It could not be started.
    pub fn start(&self, command: Command) -> Result<Running, String> {
        self.start_noting(command, || 0)
    }

    /// As [`Self::start`], and calls `note` whenever some of its output has arrived; [`Running::noted`] gives the answer.
    ///
    /// # Errors
    /// It could not be started.
    pub fn start_noting(
        &self, command: Command, note: impl FnMut() -> u64 + Send + 'static,
    ) -> Result<Running, String> {
        Running::start(command, &self.stderr, note)
    }

    /// Runs `victim check` to its end, and asks the oracle about what it found.
    ///
    /// # Errors
    /// It did not end well, or the oracle says what is violated.
    pub fn ask(&self, oracle: &mut Oracle) -> Result<u64, String> {
        oracle.check(&self.look(false)?)
    }

    /// Runs `victim check` to its end; without a clean close if `no_close`.
    ///
    /// # Errors
    /// It did not end well.
    pub fn look(&self, no_close: bool) -> Result<Found, String> {
        let mut command = self.check();
        command.args(no_close.then_some("--no-close"));
        let mut running = self.start(command)?;
        let mut lines = Vec::new();
        let status = running.rest(|line| lines.push(line.clone()))?;
        if !status.success() {
            return Err(running.ended(&format!("the check ended with {status}")));
        }
        Ok(found(&lines))
    }
}

/// A victim that was started.
#[derive(Debug)]
pub struct Running {
    child: Child,
    stdin: Option<ChildStdin>,
    /// Each with what was noted when it had arrived.
    lines: Receiver<(u64, String)>,
    noted: u64,
    reader: Option<JoinHandle<()>>,
    stderr: PathBuf,
    shown: String,
}

impl Running {
    fn start(mut command: Command, stderr: &Path, note: impl FnMut() -> u64 + Send + 'static) -> Result<Self, String> {
        let told = |what: &str, e: std::io::Error| format!("{what} failed: {e}");
        let errors = File::options().create(true).append(true).open(stderr).map_err(|e| told("opening a file", e))?;
        let shown = format!("{command:?}");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(errors)
            .spawn()
            .map_err(|e| told("starting the victim", e))?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().expect("it is piped");
        let (sender, lines) = channel();
        let reader = std::thread::spawn(move || {
            let mut stdout = BufReader::new(Noting { output: stdout, note, noted: 0 });
            let mut line = String::new();
            // A line that was cut by a kill was not said.
            while stdout.read_line(&mut line).is_ok_and(|len| len > 0) && line.ends_with('\n') {
                if sender.send((stdout.get_ref().noted, std::mem::take(&mut line))).is_err() {
                    return;
                }
            }
        });
        Ok(Self { child, stdin, lines, noted: 0, reader: Some(reader), stderr: stderr.to_owned(), shown })
    }

    /// Its number as a process, until it was waited for.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The next line; none at the end of its output, nor if there is none within `patience`.
    ///
    /// # Errors
    /// It said something that no victim says.
    pub fn line_within(&mut self, patience: Duration) -> Result<Heard, String> {
        match self.lines.recv_timeout(patience) {
            Ok((noted, line)) => {
                self.noted = noted;
                Ok(Heard::Line(line.trim_end_matches('\n').parse()?))
            }
            Err(RecvTimeoutError::Timeout) => Ok(Heard::Nothing),
            Err(RecvTimeoutError::Disconnected) => Ok(Heard::End),
        }
    }

    /// What was noted when the line that [`Self::line_within`] gave last had just arrived: after the victim said it,
    /// however late it was asked for.
    #[must_use]
    pub fn noted(&self) -> u64 {
        self.noted
    }

    /// Listens until `done` says so of a line; each line is told to it. False if the output ended before.
    ///
    /// # Errors
    /// No such line came within [`PATIENCE`], or one that no victim says.
    pub fn until(&mut self, mut done: impl FnMut(&Line) -> bool) -> Result<bool, String> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.line_within(deadline.saturating_duration_since(Instant::now()))? {
                Heard::Line(line) if done(&line) => return Ok(true),
                Heard::Line(_) => {}
                Heard::End => return Ok(false),
                Heard::Nothing => {
                    let told = format!("in {} s the victim did not do what was waited for", PATIENCE.as_secs());
                    return Err(self.ended(&told));
                }
            }
        }
    }

    /// Listens to the end, and waits for the process.
    ///
    /// # Errors
    /// It did not end in time, or said something that no victim says.
    pub fn rest(&mut self, mut each: impl FnMut(&Line)) -> Result<ExitStatus, String> {
        self.until(|line| {
            each(line);
            false
        })?;
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.child.try_wait() {
                Ok(Some(status)) => return Ok(status),
                Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(1)),
                Ok(None) => return Err(self.ended("the victim said its last and does not end")),
                Err(e) => return Err(self.ended(&format!("waiting for the victim failed: {e}"))),
            }
        }
    }

    /// Gives an order.
    ///
    /// # Errors
    /// The victim has ended.
    pub fn order(&mut self, order: Order) -> Result<(), String> {
        let stdin = self.stdin.as_mut().expect("orders come before the end of the input");
        stdin.write_all(format!("{order}\n").as_bytes()).map_err(|e| self.ended(&format!("no order is taken: {e}")))
    }

    /// Ends its input: it closes the store and ends.
    pub fn finish(&mut self) {
        self.stdin = None;
    }

    /// SIGKILL. What it said before can still be listened to.
    pub fn kill(&mut self) {
        // One that has ended by itself was not waited for, so that its number is its own still.
        self.child.kill().expect("a child can be killed");
    }

    /// Whether the victim said this on its standard error.
    #[must_use]
    pub fn told(&self, what: &str) -> bool {
        String::from_utf8_lossy(&std::fs::read(&self.stderr).unwrap_or_default()).contains(what)
    }

    /// What went wrong, with the end of what the victim said on its standard error.
    #[must_use]
    pub fn ended(&self, what: &str) -> String {
        let told = std::fs::read(&self.stderr).unwrap_or_default();
        let told = String::from_utf8_lossy(&told[told.len().saturating_sub(4000)..]).into_owned();
        format!("{what}\ncommand: {}\nthe end of its standard error:\n{told}", self.shown)
    }
}

/// A victim's output, and what was noted when the last piece of it had arrived. Each line that ends in the piece was said
/// before.
struct Noting<N> {
    output: ChildStdout,
    note: N,
    noted: u64,
}

impl<N: FnMut() -> u64> Read for Noting<N> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let len = self.output.read(buf)?;
        self.noted = (self.note)();
        Ok(len)
    }
}

/// What came of listening.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// A line.
    Line(Line),
    /// None yet.
    Nothing,
    /// The output has ended.
    End,
}

/// Whether a victim ended since it was killed.
#[must_use]
pub fn was_killed(status: ExitStatus) -> bool {
    status.signal() == Some(9)
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended, and been waited for; there is nobody to tell then.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    #[test]
    fn what_is_noted_is_of_the_moment_when_a_line_arrives() {
        let mut command = Command::new("sh");
        command.args(["-c", "while read -r _; do echo opening; done"]);
        let stderr = tempfile::NamedTempFile::new().expect("room for a file");
        let (now, (noted, arrived)) = (Arc::new(AtomicU64::new(0)), channel());
        let note = {
            let now = Arc::clone(&now);
            move || {
                let now = now.load(Ordering::SeqCst);
                let _ = noted.send(());
                now
            }
        };
        let mut victim = Running::start(command, stderr.path(), note).expect("there is a shell");
        for asked in (1..200).step_by(2) {
            now.store(asked, Ordering::SeqCst);
            victim.order(Order::Read).expect("it reads");
            arrived.recv_timeout(PATIENCE).expect("it is noted though nobody listens");
            now.store(asked + 1, Ordering::SeqCst);
            assert_eq!(victim.line_within(PATIENCE), Ok(Heard::Line(Line::Opening)));
            assert_eq!(
                victim.noted(),
                asked,
                "neither of when the line was waited for, nor of when it was listened to"
            );
        }
    }
}
