//! Each run is a process of its own: the engines then share no heap, and one that panics or hangs ends its run alone.
//!
//! The parent starts this very program with the hidden command `run`, whose standard output is one line of JSON. What is
//! to be seen of an open after a crash, or in a fresh heap, takes two such processes.
//! Invariant: at most one run is under way, and none outlives the parent's handling of a signal.

use crate::contender::{Contender, Outcome};
use crate::engines::{self, Engine};
use crate::measure::window::Span;
use crate::measure::{Measured, burst, idle, read, reopen, window};
use crate::workload::{Appends, Kind, Workload};
use rustix::process::{Signal, getpid, kill_process};
use serde::{Deserialize, Serialize};
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

static CURRENT: Mutex<Current> = Mutex::new(Current { child: None, ended: false });

/// The process that is under way.
struct Current {
    child: Option<Child>,
    /// Set by the handling of a signal: nothing is started any more.
    ended: bool,
}

/// Beyond its span a run may take this long for filling, draining, closing and the check.
const MARGIN: Duration = Duration::from_secs(600);

/// What a run is to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    /// Who.
    pub engine: Engine,
    /// Where.
    pub dir: PathBuf,
    /// The workload's letter.
    pub row: char,
    /// The window, in seconds.
    pub seconds: f64,
    /// What comes before it.
    pub warm_up: f64,
    /// What the logs and payloads come from.
    pub seed: u64,
    /// A store that is filled first holds so many times fewer logs.
    pub scale: u32,
    /// Whether this is the second process of two.
    pub second: bool,
}

/// Runs one engine in a process of its own, or in two, one after the other.
pub fn run(run: &Run, workload: &Workload) -> Outcome<Measured> {
    let mut measured = process(run, workload)?;
    if matches!(workload.kind, Kind::Reopen(_) | Kind::Idle(_)) {
        measured.extend(process(&Run { second: true, ..run.clone() }, workload)?);
    }
    Ok(measured)
}

fn process(run: &Run, workload: &Workload) -> Outcome<Measured> {
    let program = std::env::current_exe().map_err(|e| format!("finding this program: {e}"))?;
    let json = serde_json::to_string(run).map_err(|e| format!("describing a run: {e}"))?;
    let mut command = Command::new(program);
    command.arg("run").arg(json);
    // Only the first process of a crash ends by a signal, and it must.
    let killed = matches!(workload.kind, Kind::Reopen(_)) && !run.second;
    let what = format!("{} in {}", run.engine, workload.title);
    let (line, status) = finished(&mut command, run.seconds + run.warm_up, &what)?;
    let as_it_should = if killed { status.signal() == Some(Signal::KILL.as_raw()) } else { status.success() };
    if !as_it_should {
        return Err(format!("{what} failed ({status})"));
    }
    serde_json::from_str(&line).map_err(|e| format!("a run's result {line:?}: {e}"))
}

/// The standard output of another program, which is to work for so many seconds and to succeed.
pub fn output(command: &mut Command, seconds: f64, what: &str) -> Outcome<String> {
    let (output, status) = finished(command, seconds, what)?;
    if status.success() { Ok(output) } else { Err(format!("{what} failed ({status})")) }
}

/// Runs a process to its end; gives its standard output and how it ended.
fn finished(command: &mut Command, seconds: f64, what: &str) -> Outcome<(String, ExitStatus)> {
    let mut stdout = {
        let mut current = current();
        if current.ended {
            return Err("interrupted".into());
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut child = child.map_err(|e| format!("starting {what}: {e}"))?;
        let stdout = child.stdout.take();
        current.child = Some(child);
        stdout.ok_or("a process without standard output")?
    };
    // What does not fit the pipe would otherwise keep the process from ending.
    let reading = thread::spawn(move || {
        let mut text = String::new();
        stdout.read_to_string(&mut text).map(|_| text)
    });
    let began = Instant::now();
    let allowed = Duration::from_secs_f64(seconds) + MARGIN;
    let status = loop {
        thread::sleep(Duration::from_millis(20));
        let mut current = current();
        let child = current.child.as_mut().ok_or("interrupted")?;
        if let Some(status) = child.try_wait().map_err(|e| format!("waiting for {what}: {e}"))? {
            current.child = None;
            break status;
        }
        if began.elapsed() > allowed {
            stop(&mut current);
            return Err(format!("{what} did not end within {allowed:?}"));
        }
    };
    let text = reading.join().map_err(|_| "the reading thread panicked")?;
    Ok((text.map_err(|e| format!("reading the output of {what}: {e}"))?, status))
}

/// Ends the run that is under way, waits until it is gone, and has no other begin.
pub fn end() {
    let mut current = current();
    current.ended = true;
    stop(&mut current);
}

fn stop(current: &mut Current) {
    if let Some(mut child) = current.child.take() {
        // Both fail only for a process that has ended already.
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn current() -> MutexGuard<'static, Current> {
    CURRENT.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The other side: does the run and prints its result.
pub fn serve(run: &str) -> Outcome<()> {
    let run: Run = serde_json::from_str(run).map_err(|e| format!("what to run: {e}"))?;
    let workload = Workload::named(run.row).ok_or("there is no such workload")?;
    print(&match run.engine {
        Engine::Everlog => measure::<engines::everlog::Everlog>(&run, &workload)?,
        Engine::RaftEngine => measure::<engines::raft::Raft<false>>(&run, &workload)?,
        Engine::RaftEngineTuned => measure::<engines::raft::Raft<true>>(&run, &workload)?,
        Engine::Fjall => measure::<engines::fjall::Fjall>(&run, &workload)?,
        Engine::Redb => measure::<engines::redb::Redb>(&run, &workload)?,
        #[cfg(feature = "rocksdb")]
        Engine::Rocksdb => measure::<engines::rocksdb::Rocksdb>(&run, &workload)?,
        Engine::Bare => measure::<engines::bare::Bare>(&run, &workload)?,
        Engine::Fio => return Err("fio is a program of its own".into()),
    });
    Ok(())
}

fn measure<E: Contender>(run: &Run, workload: &Workload) -> Outcome<Measured> {
    let dir = &run.dir;
    match (workload.kind, run.second) {
        (Kind::Window { appends, sustained }, _) => {
            let span = Span { seconds: run.seconds, warm_up: run.warm_up };
            on(
                dir,
                appends,
                if sustained { run.seconds * SUSTAINED_BYTES_A_SECOND } else { WINDOW_BYTES },
                |engine: &E| window::measure(engine, dir, appends, span, run.seed, sustained),
            )
        }
        (Kind::Burst { appends, bytes }, _) => {
            on(dir, appends, WINDOW_BYTES, |engine: &E| burst::measure(engine, dir, appends, bytes, run.seed))
        }
        (Kind::Read(written), _) => read::measure::<E>(dir, written.scaled(run.scale), run.seed),
        (Kind::Reopen(written), false) => reopen::fill::<E>(dir, written.scaled(run.scale), run.seed, kill),
        // Some logs got more before the end.
        (Kind::Reopen(written), true) => reopen::open::<E>(dir, written.scaled(run.scale), written.records..),
        (Kind::Idle(written), false) => idle::fill::<E>(dir, written.scaled(run.scale), run.seed),
        (Kind::Idle(written), true) => {
            reopen::open::<E>(dir, written.scaled(run.scale), written.records..=written.records)
        }
    }
}

/// What an engine that makes its files beforehand makes for a window of some seconds.
const WINDOW_BYTES: f64 = 1e9;
/// And for each second of a sustained load.
const SUSTAINED_BYTES_A_SECOND: f64 = 0.45e9;

/// On a new store.
fn on<E: Contender>(
    dir: &Path, appends: Appends, bytes: f64, measure: impl FnOnce(&E) -> Outcome<Measured>,
) -> Outcome<Measured> {
    let engine = E::open(dir, appends.logs, bytes as u64)?;
    let measured = measure(&engine)?;
    engine.close()?;
    Ok(measured)
}

/// Prints the result, and ends this process as a crash would.
fn kill(measured: &Measured) -> ! {
    print(measured);
    let outcome = kill_process(getpid(), Signal::KILL);
    // Ended in another way, the run counts for nothing.
    eprintln!("this process could not be killed: {outcome:?}");
    std::process::abort()
}

fn print(measured: &Measured) {
    println!("{}", serde_json::to_string(measured).expect("numbers under the names of figures can be written"));
}
