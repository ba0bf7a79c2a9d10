//! A simulated disk, with a file system's page cache above it and a device's cache inside it.
//!
//! # The fault model
//! 1. A file's bytes are **stable** (on the platter), or **cached** and shown to every process, or still **in flight**.
//!    A device writes a sector of 512 bytes whole or not at all, and nothing larger.
//! 2. A durable write (`O_DIRECT` + `RWF_DSYNC`) is stable when it completes, with the file's length as far as it needs
//!    it. Every other write (direct and not durable: the device's cache; buffered: the page cache) and every change of
//!    length is cached until a sync of that file completes.
//! 3. Writes in a queue complete in any order, any number at a time.
//! 4. When the **process** dies, what is cached stays and what was in flight has landed or not, each sector for itself;
//!    what landed lies on the platter or *in the device's cache alone*: the next process reads it, and a loss of power
//!    after that may still take it.
//! 5. When the **power** is lost, any subset of the cached sectors is on the platter, the older or the newer where a
//!    sector was written twice, and any subset of the sectors in flight.
//! 6. Names (create, rename, remove) are shown at once and stable after a sync of their directory. When the power is
//!    lost, a prefix of the changes to each name survives, independently of other names; a rename's halves together.
//! 7. A crash comes before an operation, in the middle of it, or after it and before its caller hears of it. Only
//!    operations that change something are counted. After it every operation fails, also those of handles that outlive
//!    [`SimDisk::reboot`].
//! 8. An operation told to fail ([`SimDisk::fail_at`]) gives `EIO`, a write's sectors having landed or not; a sync that
//!    fails leaves the cache clean and its bytes off the platter, as Linux does (a directory keeps its changes for the
//!    next sync); a sticky failure stays with its file until the next boot. A short write lands a prefix and is an error.
//!    In buffered mode a durable write is a write and a sync, and either may be what failed: after the sync all of it is
//!    shown, some of its sectors are on the platter or none, and the cache of its file counts as clean.
//! 9. A full disk ([`SimDisk::full_during`]) refuses new names and what would make a file longer; without descriptors
//!    ([`SimDisk::no_descriptors_during`]) nothing can be opened. Both end again.
//! 10. While the device stalls ([`SimDisk::stall`]) nothing in a queue completes, unless its owner waits for nothing else.
//! 11. A device may **lie**, once ([`SimDisk::lie_at`]): a write that it calls complete is *lost* (all of its sectors or
//!     some keep what they held), *misdirected* (it lies at another place, of this file or another, and what was there is
//!     gone), or *stale* (it reads well until the next boot, and then the older bytes are back). And what is at rest may
//!     rot: a bit is *flipped* ([`SimDisk::flip`]). A device that never lies never damages what is stable.
//!
//! What it does not do: it has no permissions, and it keeps no time. Invariant: everything follows from the seed and the
//! operations; the same give the same [`SimDisk::trace`].

mod faults;
mod file;
mod frames;
mod names;
mod ops;
mod queue;
#[cfg(test)]
mod tests;

pub use self::faults::{Crash, Fault, Flip, Lie, When};
pub use self::frames::{Frame, Frames};

use self::faults::Faults;
use self::file::{Content, Mood, SECTOR, torn};
use self::names::{Names, Node};
use super::Rng;
use everlog::io::{AlignedBuf, Done, Io, IoQueue, Op, OpenMode};
use parking_lot::Mutex;
use std::any::Any;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The simulated hardware. Clones are the same disk.
#[derive(Clone)]
pub struct SimDisk {
    state: Arc<Mutex<State>>,
}

struct State {
    rng: Rng,
    /// Operations that change something, so far.
    ops: u64,
    /// Counts reboots; a handle of an older boot is dead.
    boot: u64,
    crashed: Option<Crash>,
    /// What is to go wrong, and what has.
    faults: Faults,
    /// The journal's frames, as far as they were written.
    frames: Frames,
    names: Names,
    contents: BTreeMap<u64, Content>,
    contents_made: u64,
    writes_made: u64,
    in_flight: Vec<Flight>,
    /// Locks held, by their path, with the number of who holds them.
    locks: BTreeMap<PathBuf, u64>,
    locks_made: u64,
    trace: Vec<String>,
}

/// A write in flight.
struct Flight {
    queue: u64,
    id: u64,
    file: Handle,
    offset: u64,
    buf: AlignedBuf,
    durable: bool,
    /// The operation that submitted it.
    submitted: u64,
}

#[derive(Clone)]
struct Handle {
    path: Arc<Path>,
    content: u64,
    boot: u64,
    mode: OpenMode,
    /// Whether it was opened through the page cache, whatever its mode.
    buffered: bool,
}

/// How an operation goes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Course {
    Well,
    /// The crash comes in the middle of it.
    Torn,
    /// It is done, and the crash comes before its caller hears of it.
    Unheard,
    Fails(Fault),
}

/// One boot's view of the disk.
struct SimIo {
    state: Arc<Mutex<State>>,
    boot: u64,
    buffered: bool,
}

impl SimDisk {
    /// An empty disk. Its chances follow from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let state = State {
            rng: Rng::new(seed),
            ops: 0,
            boot: 0,
            crashed: None,
            faults: Faults::default(),
            frames: Frames::default(),
            names: Names::default(),
            contents: BTreeMap::new(),
            contents_made: 0,
            writes_made: 0,
            in_flight: Vec::new(),
            locks: BTreeMap::new(),
            locks_made: 0,
            trace: Vec::new(),
        };
        Self { state: Arc::new(Mutex::new(state)) }
    }

    /// The disk as this boot's process uses it. Dead after a crash.
    #[must_use]
    pub fn io(&self) -> Arc<dyn Io> {
        self.io_of(false)
    }

    /// As [`SimDisk::io`], through the page cache: a durable write is a write and a sync of its range.
    #[must_use]
    pub fn io_buffered(&self) -> Arc<dyn Io> {
        self.io_of(true)
    }

    fn io_of(&self, buffered: bool) -> Arc<dyn Io> {
        let boot = self.state.lock().boot;
        Arc::new(SimIo { state: self.state.clone(), boot, buffered })
    }

    /// Operations so far, of those that change something.
    #[must_use]
    pub fn ops(&self) -> u64 {
        self.state.lock().ops
    }

    /// Crashes now, between operations; nothing happens to a machine that has crashed already.
    pub fn crash(&self, kind: Crash) {
        self.state.lock().crash(kind, "between operations");
    }

    /// Which crash has happened, if one has since the last boot.
    #[must_use]
    pub fn crashed(&self) -> Option<Crash> {
        self.state.lock().crashed
    }

    /// Ends a crash: decides what survived, and lets the next process begin. Panics if there was no crash.
    pub fn reboot(&self) {
        self.state.lock().reboot();
    }

    /// Whether everything that a process can read of `path` would survive a loss of power, its name aside.
    #[must_use]
    pub fn is_stable(&self, path: &Path) -> bool {
        let state = self.state.lock();
        match state.names.get(path) {
            Some(Node::File(content)) => state.contents[&content].is_stable(),
            _ => false,
        }
    }

    /// Puts a line of the caller's into the trace.
    pub fn note(&self, line: impl FnOnce() -> String) {
        let line = line();
        self.state.lock().trace.push(line);
    }

    /// What happened, one line an event.
    #[must_use]
    pub fn trace(&self) -> Vec<String> {
        self.state.lock().trace.clone()
    }
}

/// The error of a machine that has crashed.
fn dead() -> io::Error {
    io::Error::other("the simulated machine has crashed")
}

fn eio() -> io::Error {
    io::Error::from_raw_os_error(5)
}

impl State {
    fn alive(&self, boot: u64) -> io::Result<()> {
        if self.crashed.is_some() || self.boot != boot { Err(dead()) } else { Ok(()) }
    }

    /// Counts an operation and says how it goes; an error if the crash comes before it.
    fn begin(&mut self, what: impl FnOnce() -> String) -> io::Result<Course> {
        self.ops += 1;
        let what = what();
        self.trace.push(format!("{} {what}", self.ops));
        if let Some((kind, when)) = self.faults.crash_due(self.ops) {
            let when = when.unwrap_or_else(|| *self.rng.pick(&[When::Before, When::Middle, When::After]));
            self.crash(kind, when.name());
            return match when {
                When::Before => Err(dead()),
                When::Middle => Ok(Course::Torn),
                When::After => Ok(Course::Unheard),
            };
        }
        Ok(match self.faults.failure_due(self.ops, &what) {
            Some(fault) => {
                self.trace.push(format!("  {fault:?}"));
                Course::Fails(fault)
            }
            None => Course::Well,
        })
    }

    fn crash(&mut self, kind: Crash, when: &str) {
        if self.crashed.is_none() {
            self.trace.push(format!("  CRASH {kind:?}, {when}"));
            self.crashed = Some(kind);
            self.faults.no_crash();
        }
    }

    fn reboot(&mut self) {
        let kind = self.crashed.take().expect("only a machine that has crashed is booted again");
        for flight in std::mem::take(&mut self.in_flight) {
            let landed = torn(&mut self.rng, flight.buf.len().div_ceil(SECTOR));
            let stable = kind == Crash::Power || self.rng.chance(30);
            self.land_torn(&flight, &landed, stable);
            self.frames.cut_off(&flight.frame_place(), &flight.buf, &landed);
        }
        self.bring_back_stale();
        if kind == Crash::Power {
            let mood = Mood::draw(&mut self.rng);
            self.names.lose_power(&mut self.rng, mood);
            for content in self.contents.values_mut() {
                content.lose_power(&mut self.rng, mood);
            }
        }
        let kept = self.names.contents();
        self.contents.retain(|content, _| kept.contains(content));
        self.locks.clear();
        self.faults.reboot();
        self.boot += 1;
        self.trace.push(format!("  BOOT {}", self.boot));
    }

    fn land_torn(&mut self, flight: &Flight, landed: &[bool], stable: bool) {
        let sectors = landed.iter().filter(|landed| **landed).count();
        let where_to = if stable { "stable" } else { "cached" };
        let (path, of) = (flight.file.path.display(), landed.len());
        self.trace.push(format!("  of {path} {}: {sectors} of {of} sectors landed, {where_to}", flight.offset));
        self.writes_made += 1;
        let content = self.contents.get_mut(&flight.file.content).expect("an open file's content is kept");
        content.write_torn(self.writes_made, flight.offset as usize, &flight.buf, landed, stable);
    }

    /// Of a write that went well and whose sync failed, the sectors for which `landed` holds are on the platter, the
    /// others are shown, and no later sync looks for them.
    fn land_unsynced(&mut self, flight: &Flight, landed: &[bool]) {
        self.trace.push("  the write went well, and its sync failed".to_owned());
        self.land_torn(flight, &vec![true; landed.len()], false);
        self.land_torn(flight, landed, true);
        self.contents.get_mut(&flight.file.content).expect("an open file's content is kept").fail_sync();
    }

    /// A write's end. Its buffer comes back unless it failed.
    fn land(&mut self, flight: Flight, course: Course) -> io::Result<AlignedBuf> {
        let course = match course {
            Course::Well if self.faults.is_broken(flight.file.content) => Course::Fails(Fault::EioSticky),
            course => course,
        };
        if course == Course::Well
            && let Some(lie) = self.faults.lie_due(self.ops)
        {
            return self.lie(flight, lie);
        }
        let sectors = flight.buf.len().div_ceil(SECTOR);
        match course {
            Course::Well | Course::Unheard => {
                self.grow(&flight.file, flight.offset + flight.buf.len() as u64)?;
                self.writes_made += 1;
                let content = self.contents.get_mut(&flight.file.content).expect("an open file's content is kept");
                match flight.durable {
                    true => content.write_stable(flight.offset as usize, &flight.buf),
                    false => content.write(self.writes_made, flight.offset as usize, &flight.buf),
                }
                self.frames.landed(&flight.frame_place(), &flight.buf);
                if course == Course::Well { Ok(flight.buf) } else { Err(dead()) }
            }
            Course::Torn => {
                // Its fate is decided with the others', once it is known what comes after the crash.
                self.in_flight.push(flight);
                Err(dead())
            }
            Course::Fails(Fault::Short) => {
                let cut = self.rng.below(sectors as u64) as usize;
                let landed: Vec<bool> = (0..sectors).map(|i| i < cut).collect();
                self.land_torn(&flight, &landed, false);
                Err(io::ErrorKind::WriteZero.into())
            }
            Course::Fails(fault) => {
                if fault == Fault::EioSticky {
                    self.faults.break_file(flight.file.content);
                }
                let landed = torn(&mut self.rng, sectors);
                if flight.durable && flight.file.buffered && self.rng.chance(50) {
                    self.land_unsynced(&flight, &landed);
                } else {
                    self.land_torn(&flight, &landed, false);
                }
                Err(eio())
            }
        }
    }

    /// Takes the room that a file of `len` bytes needs beyond what it has.
    fn grow(&mut self, file: &Handle, len: u64) -> io::Result<()> {
        let grows = len > self.contents[&file.content].shown().len() as u64;
        if grows { self.faults.check_space(self.ops) } else { Ok(()) }
    }

    fn sync(&mut self, file: &Handle, course: Course) {
        let broken = self.faults.is_broken(file.content);
        let content = self.contents.get_mut(&file.content).expect("an open file's content is kept");
        match course {
            // A sync that was cut off has made some of it stable, which is what a loss of power decides anyway.
            Course::Torn => {}
            Course::Fails(fault) => {
                content.fail_sync();
                if fault == Fault::EioSticky {
                    self.faults.break_file(file.content);
                }
            }
            _ if broken => content.fail_sync(),
            Course::Well | Course::Unheard => content.sync(),
        }
    }
}

impl Flight {
    fn frame_place(&self) -> frames::Place {
        frames::Place { content: self.file.content, offset: self.offset, submitted: self.submitted }
    }

    fn describe(&self, what: &str) -> String {
        let durable = if self.durable { " durable" } else { "" };
        format!("{what} {} {}+{}{durable}", self.file.path.display(), self.offset, self.buf.len())
    }
}

/// Frees a lock when it is dropped, unless a crash freed it before.
struct Lock {
    state: Arc<Mutex<State>>,
    path: PathBuf,
    number: u64,
}

impl Drop for Lock {
    fn drop(&mut self) {
        let mut state = self.state.lock();
        if state.locks.get(&self.path) == Some(&self.number) {
            state.locks.remove(&self.path);
        }
    }
}

impl Io for SimIo {
    fn name(&self) -> &'static str {
        "sim"
    }

    fn run(&self, op: Op) -> io::Result<Done> {
        // A file's last handle or a buffer may be dropped with the operation; neither takes the lock.
        self.state.lock().run(op, self.boot, self.buffered)
    }

    fn queue(&self, depth: usize) -> io::Result<Box<dyn IoQueue>> {
        self.state.lock().alive(self.boot)?;
        Ok(Box::new(queue::SimQueue::new(self.state.clone(), self.boot, depth)))
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Any + Send + Sync>>> {
        let mut state = self.state.lock();
        state.alive(self.boot)?;
        if state.locks.contains_key(path) {
            return Ok(None);
        }
        if state.names.get(path).is_none() {
            state.create_file(path)?;
        }
        state.locks_made += 1;
        let number = state.locks_made;
        state.locks.insert(path.to_owned(), number);
        Ok(Some(Box::new(Lock { state: self.state.clone(), path: path.to_owned(), number })))
    }

    fn buffered(&self) -> bool {
        self.buffered
    }

    fn random(&self, bytes: &mut [u8]) -> io::Result<()> {
        let mut state = self.state.lock();
        bytes.iter_mut().for_each(|byte| *byte = state.rng.draw() as u8);
        Ok(())
    }
}
