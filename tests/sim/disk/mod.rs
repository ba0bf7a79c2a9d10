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
//!    fails leaves the cache clean and its bytes off the platter, as Linux does; a sticky failure stays with its file
//!    until the next boot. A short write lands a prefix and is an error. A full disk ([`SimDisk::set_space`]) refuses
//!    what would make a file longer.
//!
//! What it does not do: it never damages what is stable, it has no permissions, and it keeps no time. Invariant:
//! everything follows from the seed and the operations; the same give the same [`SimDisk::trace`].

mod file;
mod names;
mod queue;
#[cfg(test)]
mod tests;

use self::file::{Content, Mood, SECTOR, torn};
use self::names::{Names, Node};
use super::Rng;
use everlog::io::{AlignedBuf, Done, File, Io, IoQueue, Op, OpenMode};
use everlog::sync::{Arc, Mutex};
use everlog::types::BLOCK;
use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

/// What happens to the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// The process ends; caches stay.
    Process,
    /// Everything ends; caches are lost.
    Power,
}

/// What goes wrong with one operation while the machine runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails with `EIO`.
    Eio,
    /// It fails with `EIO`, and so does every later write or sync of the same file in this boot.
    EioSticky,
    /// If it is a write, only a prefix is written; else it fails with `EIO`.
    Short,
}

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
    crash_at: Option<(u64, Crash)>,
    crashed: Option<Crash>,
    faults: BTreeMap<u64, Fault>,
    /// Files whose writes and syncs fail until the next boot.
    broken: BTreeSet<u64>,
    /// Bytes by which files may still grow; None: no limit.
    space: Option<u64>,
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
}

#[derive(Clone)]
struct Handle {
    path: Arc<Path>,
    content: u64,
    boot: u64,
    mode: OpenMode,
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
            crash_at: None,
            crashed: None,
            faults: BTreeMap::new(),
            broken: BTreeSet::new(),
            space: None,
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

    /// Lets the machine crash at operation `op` (the first is 1) or at the first after it.
    pub fn crash_at(&self, op: u64, kind: Crash) {
        self.state.lock().crash_at = Some((op, kind));
    }

    /// Takes back what [`SimDisk::crash_at`] planned.
    pub fn no_crash(&self) {
        self.state.lock().crash_at = None;
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

    /// Lets operation `op` fail.
    pub fn fail_at(&self, op: u64, fault: Fault) {
        self.state.lock().faults.insert(op, fault);
    }

    /// Lets files grow by `bytes` in all from here on; None lifts the limit.
    pub fn set_space(&self, bytes: Option<u64>) {
        self.state.lock().space = bytes;
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
        self.trace.push(format!("{} {}", self.ops, what()));
        if let Some((op, kind)) = self.crash_at
            && self.ops >= op
        {
            self.crash_at = None;
            return match self.rng.below(3) {
                0 => {
                    self.crash(kind, "before it");
                    Err(dead())
                }
                1 => {
                    self.crash(kind, "in the middle of it");
                    Ok(Course::Torn)
                }
                _ => {
                    self.crash(kind, "after it");
                    Ok(Course::Unheard)
                }
            };
        }
        Ok(match self.faults.remove(&self.ops) {
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
            self.crash_at = None;
        }
    }

    fn reboot(&mut self) {
        let kind = self.crashed.take().expect("only a machine that has crashed is booted again");
        for flight in std::mem::take(&mut self.in_flight) {
            let landed = torn(&mut self.rng, flight.buf.len().div_ceil(SECTOR));
            let stable = kind == Crash::Power || self.rng.chance(30);
            self.land_torn(&flight, &landed, stable);
        }
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
        self.broken.clear();
        self.faults.clear();
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

    /// A write's end. Its buffer comes back unless it failed.
    fn land(&mut self, flight: Flight, course: Course) -> io::Result<AlignedBuf> {
        let course = match course {
            Course::Well if self.broken.contains(&flight.file.content) => Course::Fails(Fault::EioSticky),
            course => course,
        };
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
                    self.broken.insert(flight.file.content);
                }
                let landed = torn(&mut self.rng, sectors);
                self.land_torn(&flight, &landed, false);
                Err(eio())
            }
        }
    }

    /// Takes the room that a file of `len` bytes needs beyond what it has.
    fn grow(&mut self, file: &Handle, len: u64) -> io::Result<()> {
        let more = len.saturating_sub(self.contents[&file.content].shown().len() as u64);
        if let Some(space) = &mut self.space {
            *space = space.checked_sub(more).ok_or_else(|| io::Error::from_raw_os_error(28))?;
        }
        Ok(())
    }

    fn sync(&mut self, file: &Handle, course: Course) {
        let broken = self.broken.contains(&file.content);
        let content = self.contents.get_mut(&file.content).expect("an open file's content is kept");
        match course {
            // A sync that was cut off has made some of it stable, which is what a loss of power decides anyway.
            Course::Torn => {}
            Course::Fails(fault) => {
                content.fail_sync();
                if fault == Fault::EioSticky {
                    self.broken.insert(file.content);
                }
            }
            _ if broken => content.fail_sync(),
            Course::Well | Course::Unheard => content.sync(),
        }
    }

    fn open(&mut self, path: &Path, mode: OpenMode, boot: u64) -> io::Result<Handle> {
        let creates = matches!(mode, OpenMode::Create | OpenMode::CreateDirect);
        let content = match (self.names.get(path), creates) {
            (Some(Node::File(content)), false) => content,
            (Some(Node::Dir), false) => return Err(io::ErrorKind::IsADirectory.into()),
            (Some(_), true) => return Err(io::ErrorKind::AlreadyExists.into()),
            (None, false) => return Err(io::ErrorKind::NotFound.into()),
            (None, true) => self.create_file(path)?,
        };
        Ok(Handle { path: Arc::from(path), content, boot, mode })
    }

    fn create_file(&mut self, path: &Path) -> io::Result<u64> {
        if !self.names.has_parent(path) {
            return Err(io::ErrorKind::NotFound.into());
        }
        let course = self.begin(|| format!("create {}", path.display()))?;
        self.contents_made += 1;
        let content = self.contents_made;
        self.name_change(course, |names| names.create(path, Node::File(content)))?;
        self.contents.insert(content, Content::default());
        Ok(content)
    }

    /// A change of names is done wholly or not at all, also when it is cut off.
    fn name_change(&mut self, course: Course, change: impl FnOnce(&mut Names)) -> io::Result<()> {
        match course {
            Course::Well => change(&mut self.names),
            Course::Unheard => {
                change(&mut self.names);
                // The file may be empty, and it is there: its content has to exist although nobody has it open.
                for content in self.names.contents() {
                    self.contents.entry(content).or_default();
                }
                return Err(dead());
            }
            Course::Torn => return Err(dead()),
            Course::Fails(_) => return Err(eio()),
        }
        Ok(())
    }

    fn run(&mut self, op: Op, boot: u64) -> io::Result<Done> {
        self.alive(boot)?;
        match op {
            Op::Open { path, mode } => {
                let handle = self.open(&path, mode, boot)?;
                Ok(Done::File(File { path: handle.path.clone(), inner: Arc::new(handle) }))
            }
            Op::Read { file, offset, buf } => self.read(self.handle(&file)?, offset, buf).map(Done::Buf),
            Op::Write { file, offset, buf, durable } => {
                let flight = self.check_write(&file, offset, buf, durable)?;
                let course = self.begin(|| flight.describe("write"))?;
                self.land(flight, course).map(Done::Buf)
            }
            Op::Sync { file } => {
                let file = self.handle(&file)?;
                let course = self.begin(|| format!("sync {}", file.path.display()))?;
                let broken = self.broken.contains(&file.content);
                self.sync(&file, course);
                nothing(course).and_then(|done| if broken { Err(eio()) } else { Ok(done) })
            }
            Op::Allocate { file, len } => {
                let file = self.handle(&file)?;
                let course = self.begin(|| format!("allocate {} {len}", file.path.display()))?;
                if matches!(course, Course::Well | Course::Unheard) {
                    self.grow(&file, len)?;
                    let content = self.contents.get_mut(&file.content).expect("an open file's content is kept");
                    content.lengthen(len as usize);
                }
                nothing(course)
            }
            Op::Len { file } => Ok(Done::Len(self.contents[&self.handle(&file)?.content].shown().len() as u64)),
            Op::List { path } => match self.names.get(&path) {
                Some(Node::Dir) => Ok(Done::Names(self.names.list(&path))),
                Some(Node::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
                None => Err(io::ErrorKind::NotFound.into()),
            },
            op => self.run_on_names(&op),
        }
    }

    fn run_on_names(&mut self, op: &Op) -> io::Result<Done> {
        match op {
            Op::Rename { from, to } => {
                if from.parent() != to.parent() {
                    return Err(io::ErrorKind::CrossesDevices.into());
                }
                self.expect_file(from)?;
                let course = self.begin(|| format!("rename {} {}", from.display(), to.display()))?;
                self.name_change(course, |names| names.rename(from, to))?;
            }
            Op::Remove { path } => {
                self.expect_file(path)?;
                let course = self.begin(|| format!("remove {}", path.display()))?;
                self.name_change(course, |names| names.remove(path))?;
            }
            Op::CreateDir { path } => match self.names.get(path) {
                Some(Node::Dir) => {}
                Some(Node::File(_)) => return Err(io::ErrorKind::AlreadyExists.into()),
                None if !self.names.has_parent(path) => return Err(io::ErrorKind::NotFound.into()),
                None => {
                    let course = self.begin(|| format!("create {}/", path.display()))?;
                    self.name_change(course, |names| names.create(path, Node::Dir))?;
                }
            },
            Op::SyncDir { path } => {
                if self.names.get(path) != Some(Node::Dir) {
                    return Err(io::ErrorKind::NotFound.into());
                }
                let course = self.begin(|| format!("sync {}/", path.display()))?;
                if matches!(course, Course::Well | Course::Unheard) {
                    self.names.sync(path);
                }
                return nothing(course);
            }
            op => unreachable!("{op:?} does not change names"),
        }
        Ok(Done::Nothing)
    }

    fn expect_file(&self, path: &Path) -> io::Result<()> {
        match self.names.get(path) {
            Some(Node::File(_)) => Ok(()),
            Some(Node::Dir) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn handle(&self, file: &File) -> io::Result<Handle> {
        let handle = file.inner.downcast_ref::<Handle>().expect("a file of this disk was opened on it");
        self.alive(handle.boot)?;
        Ok(handle.clone())
    }

    fn read(&self, file: Handle, offset: u64, mut buf: AlignedBuf) -> io::Result<AlignedBuf> {
        if file.mode.is_direct() && !offset.is_multiple_of(BLOCK as u64) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let shown = self.contents[&file.content].shown();
        let at = (offset as usize).min(shown.len());
        let end = (at + buf.capacity()).min(shown.len());
        buf.set_len(end - at);
        buf.copy_from_slice(&shown[at..end]);
        Ok(buf)
    }

    /// What the kernel would refuse at once.
    fn check_write(&self, file: &File, offset: u64, buf: AlignedBuf, durable: bool) -> io::Result<Flight> {
        let file = self.handle(file)?;
        let aligned = offset.is_multiple_of(BLOCK as u64) && buf.len().is_multiple_of(BLOCK);
        match file.mode {
            OpenMode::Read | OpenMode::ReadDirect => return Err(io::ErrorKind::PermissionDenied.into()),
            mode if mode.is_direct() && !aligned => return Err(io::ErrorKind::InvalidInput.into()),
            _ => {}
        }
        let place = offset..offset + buf.len() as u64;
        let overlaps = |f: &Flight| {
            f.file.content == file.content && f.offset < place.end && place.start < f.offset + f.buf.len() as u64
        };
        assert!(
            !self.in_flight.iter().any(overlaps),
            "two writes in flight to one place have no order: {} {place:?}",
            file.path.display()
        );
        Ok(Flight { queue: 0, id: 0, file, offset, buf, durable })
    }
}

fn nothing(course: Course) -> io::Result<Done> {
    match course {
        Course::Well => Ok(Done::Nothing),
        Course::Torn | Course::Unheard => Err(dead()),
        Course::Fails(_) => Err(eio()),
    }
}

impl Flight {
    fn describe(&self, what: &str) -> String {
        let durable = if self.durable { " durable" } else { "" };
        format!("{what} {} {}+{}{durable}", self.file.path.display(), self.offset, self.buf.len())
    }
}

trait Direct {
    fn is_direct(self) -> bool;
}

impl Direct for OpenMode {
    fn is_direct(self) -> bool {
        matches!(self, OpenMode::ReadDirect | OpenMode::WriteDirect | OpenMode::CreateDirect)
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
        self.state.lock().run(op, self.boot)
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
}
