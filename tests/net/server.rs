//! An everlogd of its own, on a port that the system chose.

use super::http::{Answer, PATIENCE, ask};
use crate::programs::Program;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Instant;

/// A server that serves. Dropped, it is killed.
#[derive(Debug)]
pub struct Server {
    process: Child,
    address: SocketAddr,
    admin_address: SocketAddr,
    log: std::thread::JoinHandle<String>,
}

impl Server {
    /// Starts one on the store in `data`, which is created if it is missing, with more flags; comes back once it is
    /// ready. Panics with what it printed if it does not become so.
    #[must_use]
    pub fn start(data: &Path, flags: &[&str]) -> Self {
        Self::start_under(&[], data, &[&["--init"], flags].concat())
    }

    /// Waits until the operator's question whether it is ready is answered so. Panics if that takes a minute.
    pub fn until_ready_says(&self, status: u16) -> Answer {
        let began = Instant::now();
        loop {
            let answer = ask(self.admin_address, "GET", "/readyz", &[], b"");
            if answer.status == status {
                return answer;
            }
            assert!(began.elapsed() < PATIENCE, "/readyz says {answer:?}");
            std::thread::yield_now();
        }
    }

    /// Starts one through another program, such as a tracer, which has to become the server; on a store that is there.
    #[must_use]
    pub fn start_under(through: &[&str], data: &Path, flags: &[&str]) -> Self {
        let everlogd = Program::Everlogd.path();
        let mut command = match through {
            [] => Command::new(everlogd),
            [program, args @ ..] => {
                let mut command = Command::new(program);
                command.args(args).arg(everlogd);
                command
            }
        };
        if !flags.contains(&"--cold") {
            command.args(["--cold", "none"]);
        }
        command.args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
        command.arg("--data").arg(data).args(flags).stderr(Stdio::piped());
        // Settings of whoever runs the tests are none of theirs.
        command.current_dir(data.parent().expect("a store lies in a folder"));
        let mut process = command.spawn().expect("everlogd starts");
        let mut lines = BufReader::new(process.stderr.take().expect("it is piped")).lines();
        let mut told = String::new();
        let mut admin_address = None;
        let address = loop {
            let Some(Ok(line)) = lines.next() else { panic!("everlogd did not become ready:\n{told}") };
            told = told + &line + "\n";
            if let Some((_, address)) = line.split_once("metrics and health on http://") {
                admin_address = Some(address.parse().expect("an address"));
            }
            if let Some(address) = line.strip_prefix("everlogd ready on http://") {
                break address.parse().expect("an address");
            }
        };
        let admin_address = admin_address.expect("it is told before the ready line");
        let log = std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                told = told + &line + "\n";
            }
            told
        });
        Self { process, address, admin_address, log }
    }

    /// Where devices connect.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where operators connect.
    #[must_use]
    pub fn admin_address(&self) -> SocketAddr {
        self.admin_address
    }

    /// Its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Sends it a signal, by its short name.
    pub fn signal(&self, name: &str) {
        let sent = Command::new("kill").args([&format!("-{name}"), &self.pid().to_string()]).status();
        assert!(sent.expect("kill starts").success(), "it is there");
    }

    /// Waits until it ends by itself; gives how it ended and what it printed.
    pub fn ended(mut self) -> (ExitStatus, String) {
        let status = self.process.wait().expect("it ends");
        (status, self.finish())
    }

    /// Sends it SIGKILL; comes back once it is gone, with what it printed.
    pub fn kill(mut self) -> String {
        self.process.kill().expect("it is there");
        self.process.wait().expect("it ends");
        self.finish()
    }

    /// Asks it to stop; comes back once it has, with how it ended and what it printed.
    pub fn stop(self) -> (ExitStatus, String) {
        self.signal("TERM");
        self.ended()
    }

    fn finish(&mut self) -> String {
        let log = std::mem::replace(&mut self.log, std::thread::spawn(String::new));
        log.join().expect("the log is read to its end")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It is gone already after a kill or a stop.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
