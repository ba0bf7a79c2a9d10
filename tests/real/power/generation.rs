//! One life of a store on a logged device: mounted, recovered or created, written to, killed; and all that was said,
//! tied to places in the log.
//!
//! Why a place in the log can be compared with an acknowledgement: when a line arrives, the thread that reads the pipe
//! notes how long the log is then. The victim says "acked" after the engine said so, which is after the kernel completed
//! the write and the flush that the acknowledgement rests on, which is after the device completed them, and an entry is
//! in the log before the device completes it. So all that the acknowledgement rests on stands before the noted place. A
//! state cut at that place or later must hold the record. A place noted earlier, while the thread still waits for the
//! line, may lie before the flush; one noted later, once the line was passed on, only weakens what is checked. What was
//! sent is not tied to a place: a record may be in the log before the harness hears of it, so any state may hold whatever
//! was sent until the end.
//!
//! What this does not do: it makes no states and judges nothing. Invariant: of what was said, nothing is claimed earlier
//! than it was heard.

use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use super::blocklog::BlockLog;
use super::device::Logged;
use crate::real::disk::{FileSystem, Mount};
use crate::real::line::Line;
use crate::real::mistake::Mistake;
use crate::real::oracle::Oracle;
use crate::real::process::{Heard, PATIENCE, Setting, was_killed};

/// A victim whose device's log does not grow is stopped after this long all the same.
const WRITES_FOR_MAX: Duration = Duration::from_secs(30);

/// What a generation left behind.
#[derive(Debug)]
pub struct Generation {
    /// The requests.
    pub log: BlockLog,
    /// How many entries were complete when the victim was dead. What follows is the file system's unmounting.
    pub end: usize,
    /// How many entries were complete when the victim said that the store is open.
    pub ready: usize,
    /// The line it said so with.
    pub ready_said: String,
    /// What was said, each with how many entries were complete when it arrived, in that order.
    said: Vec<(usize, Line)>,
}

/// How a generation is to go.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// What the store lies on.
    pub system: FileSystem,
    /// The victim is stopped once the log has grown by this much after its store was open.
    pub log_bytes: u64,
    /// It is told to close the store, instead of being killed.
    pub close: bool,
    /// It is told to make this mistake.
    pub mistake: Option<Mistake>,
}

impl Generation {
    /// Lives it, on what the file `image` holds, which changes. The store of `setting` lies below `mount_at`, an empty
    /// folder; `scratch` is another one, for the device's files.
    ///
    /// # Errors
    /// The machine failed, or the victim did what no victim does.
    pub fn live(plan: &Plan, image: &Path, mount_at: &Path, scratch: &Path, setting: &Setting) -> Result<Self, String> {
        let told = |what: &str, e: io::Error| format!("{what}: {e}");
        let path = scratch.join("log");
        let logged = Logged::start(image, &path, scratch).map_err(|e| told("the logged device", e))?;
        let mounted = Mount::new(plan.system, logged.device(), mount_at)?;
        let said = said_by_a_victim(plan, setting, &logged)?;
        // From here on the file system alone writes.
        let log_bytes = logged.log_bytes();
        let end = log_bytes();
        mounted.end()?;
        drop(logged);
        let log = BlockLog::read(&path).map_err(|e| told("reading the log", e))?;
        fs::remove_file(&path).map_err(|e| told("removing the log", e))?;
        let said = said.into_iter().map(|(at, line)| (log.complete_at(at), line)).collect::<Vec<_>>();
        let ready = said.iter().find_map(|(at, line)| match line {
            Line::Ready(told) => Some((*at, told.clone())),
            _ => None,
        });
        let (ready, ready_said) = ready.ok_or("the victim never said that its store is open")?;
        Ok(Self { end: log.complete_at(end), log, ready, ready_said, said })
    }

    /// What must hold of a state that was cut after `cut` entries, if `before` must hold of the state that this began
    /// with.
    #[must_use]
    pub fn told_by(&self, cut: usize, before: &Oracle) -> Oracle {
        let mut oracle = before.clone();
        for (at, line) in &self.said {
            if matches!(line, Line::Sent { .. }) || *at <= cut {
                oracle.told(line);
            }
        }
        oracle
    }

    /// A place right behind an acknowledgement that `draw` chooses out of so many; none if there are none.
    pub fn after_an_acknowledgement(&self, draw: impl FnOnce(u64) -> u64) -> Option<usize> {
        let acked = |(_, line): &&(usize, Line)| matches!(line, Line::Acked { .. });
        let count = self.said.iter().filter(acked).count() as u64;
        (count > 0).then(|| {
            let chosen = draw(count) as usize;
            let (at, _) = self.said.iter().filter(acked).nth(chosen).expect("the choice is below their number");
            (*at).min(self.end)
        })
    }
}

/// Runs a victim to the end that the plan has for it. Gives all it said, with the length of the log when it arrived.
fn said_by_a_victim(plan: &Plan, setting: &Setting, logged: &Logged) -> Result<Vec<(u64, Line)>, String> {
    let mut command = setting.write();
    command.arg("--create");
    command.args(plan.mistake.iter().flat_map(|mistake| ["--mistake", mistake.name()]));
    let mut victim = setting.start_noting(command, logged.log_bytes())?;
    let started = Instant::now();
    let (mut said, mut stop_at, mut stopped) = (Vec::new(), None, false);
    loop {
        let heard = victim.line_within(PATIENCE)?;
        let at = victim.noted();
        match heard {
            Heard::Line(Line::Failed { kind, message }) => {
                return Err(victim.ended(&format!("an append failed on a disk that works: {kind}, {message}")));
            }
            Heard::Line(line) => {
                if matches!(line, Line::Ready(_)) {
                    stop_at = Some(at + plan.log_bytes);
                }
                said.push((at, line));
            }
            Heard::End => break,
            Heard::Nothing => return Err(victim.ended("the victim hangs")),
        }
        let enough = stop_at.is_some_and(|stop_at| at >= stop_at || started.elapsed() > WRITES_FOR_MAX);
        if enough && !stopped {
            stopped = true;
            if plan.close { victim.finish() } else { victim.kill() }
        }
    }
    let status = victim.rest(|_| {})?;
    let as_planned = stopped && if plan.close { status.success() } else { was_killed(status) };
    if as_planned { Ok(said) } else { Err(victim.ended(&format!("the victim ended with {status}"))) }
}
