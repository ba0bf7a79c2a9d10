//! Each run is a process of its own: the engines then share no heap, and one that panics or hangs ends its run alone.
//!
//! The parent starts this very program with the hidden command `run`, whose standard output is one line of JSON.
//! Invariant: at most one run is under way, and none outlives the parent's handling of a signal.

use crate::contender::Outcome;
use crate::drive::{Measured, Span};
use crate::workload::Workload;
use crate::{Engine, raft};
use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

static CURRENT: Mutex<Option<Child>> = Mutex::new(None);

/// Beyond its span a run may take this long for creating the logs, closing and the check.
const MARGIN: Duration = Duration::from_secs(180);

/// Runs one engine in a process of its own.
pub fn run(engine: Engine, dir: &Path, workload: Workload, span: Span, seed: u64) -> Outcome<Measured> {
    let program = std::env::current_exe().map_err(|e| format!("finding this program: {e}"))?;
    let mut command = Command::new(program);
    command.arg("run").arg(engine.name()).arg(dir);
    command.args([workload.id.to_string(), span.seconds.to_string(), span.warm_up.to_string(), seed.to_string()]);
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    *current() = Some(child.map_err(|e| format!("starting a run: {e}"))?);

    let began = Instant::now();
    let allowed = Duration::from_secs_f64(span.seconds + span.warm_up) + MARGIN;
    loop {
        thread::sleep(Duration::from_millis(20));
        let mut current = current();
        let child = current.as_mut().ok_or("interrupted")?;
        if let Some(status) = child.try_wait().map_err(|e| format!("waiting for a run: {e}"))? {
            let mut line = String::new();
            let mut stdout = child.stdout.take().ok_or("a run without standard output")?;
            stdout.read_to_string(&mut line).map_err(|e| format!("reading a run's result: {e}"))?;
            *current = None;
            if !status.success() {
                return Err(format!("{} failed in {} ({status})", engine.name(), workload.title()));
            }
            return serde_json::from_str(&line).map_err(|e| format!("a run's result {line:?}: {e}"));
        }
        if began.elapsed() > allowed {
            drop(current);
            end();
            return Err(format!("{} did not end within {allowed:?} in {}", engine.name(), workload.title()));
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
pub fn serve(engine: Engine, dir: &Path, workload: Workload, span: Span, seed: u64) -> Outcome<()> {
    let measured = match engine {
        Engine::Everlog => crate::drive::measure::<crate::ever::Ever>(dir, workload, span, seed)?,
        Engine::RaftEngine => crate::drive::measure::<raft::Raft>(dir, workload, span, seed)?,
    };
    let line = serde_json::to_string(&measured).map_err(|e| format!("writing the result: {e}"))?;
    println!("{line}");
    Ok(())
}
