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
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

static CURRENT: Mutex<Option<Child>> = Mutex::new(None);

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
    let child = command.arg("run").arg(json).stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    *current() = Some(child.map_err(|e| format!("starting a run: {e}"))?);

    // Only the first process of a crash ends by a signal, and it must.
    let killed = matches!(workload.kind, Kind::Reopen(_)) && !run.second;
    let began = Instant::now();
    let allowed = Duration::from_secs_f64(run.seconds + run.warm_up) + MARGIN;
    loop {
        thread::sleep(Duration::from_millis(20));
        let mut current = current();
        let child = current.as_mut().ok_or("interrupted")?;
        if let Some(status) = child.try_wait().map_err(|e| format!("waiting for a run: {e}"))? {
            let mut line = String::new();
            let mut stdout = child.stdout.take().ok_or("a run without standard output")?;
            stdout.read_to_string(&mut line).map_err(|e| format!("reading a run's result: {e}"))?;
            *current = None;
            let as_it_should = if killed { status.signal() == Some(Signal::KILL.as_raw()) } else { status.success() };
            if !as_it_should {
                return Err(format!("{} failed in {} ({status})", run.engine, workload.title));
            }
            return serde_json::from_str(&line).map_err(|e| format!("a run's result {line:?}: {e}"));
        }
        if began.elapsed() > allowed {
            drop(current);
            end();
            return Err(format!("{} did not end within {allowed:?} in {}", run.engine, workload.title));
        }
    }
}

/// Ends the run that is under way, and waits until it is gone.
pub fn end() {
    if let Some(mut child) = current().take() {
        // Both fail only for a process that has ended already.
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn current() -> std::sync::MutexGuard<'static, Option<Child>> {
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
        (Kind::Burst(appends), _) => {
            on(dir, appends, WINDOW_BYTES, |engine: &E| burst::measure(engine, dir, appends, run.seed))
        }
        (Kind::Read(written), _) => read::measure::<E>(dir, written.scaled(run.scale), run.seed),
        (Kind::Reopen(written), false) => reopen::fill::<E>(dir, written.scaled(run.scale), run.seed, kill),
        (Kind::Reopen(written), true) => reopen::open::<E>(dir, written.scaled(run.scale)),
        (Kind::Idle(written), false) => idle::fill::<E>(dir, written.scaled(run.scale), run.seed),
        (Kind::Idle(written), true) => idle::open::<E>(dir, written.scaled(run.scale)),
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
fn kill(measured: &Measured) {
    print(measured);
    if let Err(error) = kill_process(getpid(), Signal::KILL) {
        eprintln!("this process could not be killed: {error}");
    }
}

fn print(measured: &Measured) {
    println!("{}", serde_json::to_string(measured).expect("numbers under the names of figures can be written"));
}
