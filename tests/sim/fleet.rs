//! A fleet: one cold store or two, and nodes that follow one another as the owner of one store, driven on one thread.
//!
//! A node is a simulated disk, a clock and a store driven step by step, which ships to the cold stores; the first of
//! them is the authority. Chance draws what comes next: batches, steps of the engine's background work, crashes, disks
//! that are lost, restores into new nodes that then take the store over, nodes that stand still meanwhile and go on
//! later, old copies of a disk put back, requests to cold stores that go wrong ([`super::cold`]), nodes cut off from
//! them, a cold store destroyed.
//!
//! # What the oracle knows
//! Each batch is known by a number that stands in its records, so that what a store holds can be read as a sequence of
//! batches, in the order of their LSNs. A **line** is such a sequence: what was appended to one directory, on top of
//! what it began with. A directory that was restored begins a line of its own with what it was found to hold, which
//! must be a prefix of some line there was; a copied one begins with its original's. Lines thus share prefixes and
//! nothing else: a batch has one LSN in all of them. Reading a store as a sequence checks that seqs are dense, that no
//! batch is halved, doubled or made up, and that each record is what was appended, in that order.
//!
//! # What must hold
//! 1. A directory that is opened again holds a prefix of its line with all that it acknowledged.
//! 2. For each cold store there is a sequence that **must** be there: what an owner said that it had verified in this
//!    very store ([`everlog::Store::cold_stores`]), as a prefix of its line. Whatever is restored from it afterwards
//!    begins with that. Of the authority it only grows, and each later owner begins with it as well; who says otherwise
//!    is a second owner. An owner whose line lacks some of what must be in the second store was restored from
//!    elsewhere: it leaves that aside there, so that nothing is promised of that store until its new owner has verified
//!    something. Destroying a store ends its promises, and what its owner says of it before the store is opened again
//!    is worth nothing.
//! 3. What is told to be cold is covered by what some cold store has verified.
//! 4. A node's level rises in no cold store once a later epoch was taken by another one; once a node was told that it
//!    is not the owner any more it acknowledges nothing.
//! 5. Who is refused or fenced is not the newest owner; who was restored, or copied, may also lack what others have put
//!    there since. An old copy that is refused has put nothing there.
//! 6. Nothing is lost in a restore, since nothing is damaged at rest but what its writer has put again. What a line has
//!    beyond a restore has a later LSN than the report says.
//! 7. Once all is well the last owner gets level with each cold store in a bounded number of steps, what is restored
//!    from each is what it holds, and whoever else still runs is fenced.
//!
//! What it leaves out: objects that rot at rest, and time limits of requests. Invariant: everything follows from the
//! seed.

use super::cold::{HOME, Misfortune, Odds, SimCold, Trace};
use super::{Crash, Rng, SimClock, SimDisk};
use crate::oracle::Violation;
use everlog::cold::ColdStore;
use everlog::io::Io;
use everlog::{
    Ack, Batch, ColdAck, ColdConfig, Config, Error, ErrorKind, ReadLimit, Record, RestoreReport, Steps, Store,
    WhenFull, restore_on,
};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// The logs that are written to.
const LOGS: [&str; 4] = ["users/a/contacts", "users/a/notes", "users/b/contacts", "shared"];
const DIR: &str = "/store";
/// Nodes at one time.
const NODES_MAX: usize = 3;
/// Copies of disks that are kept at one time.
const COPIES_MAX: usize = 2;
/// Rounds after which a batch without an answer is stuck.
const PATIENCE: usize = 400;
/// Rounds after which a node that is not level will not be.
const LEVEL_ROUNDS: usize = 300;
/// After so long an empty frame carries the watermark.
const IDLE: Duration = Duration::from_millis(10);
/// What stands in front of each record: the batch, and which of its records it is.
const NUMBERS_LEN: usize = 16;

/// What happened in worlds and was not a misfortune of one request.
pub const EVENTS: [&str; 23] = [
    "appended",
    "acknowledged",
    "told cold",
    "processes killed",
    "losses of power",
    "opened again",
    "opened without the authority",
    "epochs taken",
    "take-overs",
    "restores",
    "restores interrupted",
    "restores of the second store",
    "opens of a restored store not reached",
    "fenced",
    "refused at an open",
    "copies put back",
    "copies refused",
    "disks lost",
    "pauses",
    "nodes cut off",
    "cold stores destroyed",
    "histories left aside",
    "drills",
];

/// Counts of what was seen, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally(BTreeMap<&'static str, u64>);

impl Tally {
    /// Adds to one.
    pub fn count(&mut self, what: &'static str, n: u64) {
        *self.0.entry(what).or_default() += n;
    }

    /// Adds another world's.
    pub fn add(&mut self, other: &Self) {
        other.0.iter().for_each(|(what, n)| self.count(what, *n));
    }

    /// One of them.
    #[must_use]
    pub fn of(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or_default()
    }
}

/// How an open ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// The node runs.
    Opened,
    /// It is not the owner, with reason.
    Refused,
    /// A restored store could not reach its cold store; it is to be tried again.
    NotReached,
    /// The machine crashed meanwhile; it is to be tried again.
    Crashed,
}

/// A batch, by its number.
struct Appended {
    /// The log and the records of each part.
    parts: Vec<(usize, Vec<Vec<u8>>)>,
    /// Of its last entry, once that is known.
    lsn: Option<u64>,
    acknowledged: bool,
}

/// Where a directory comes from.
#[derive(Clone)]
enum Origin {
    /// It took an epoch, or is the first.
    Owner,
    /// A copy of that node, made when so many objects were in the authority, in that of its lives.
    Copy { of: usize, stored: u64, life: u64 },
    /// Restored and not opened since.
    Restored(Restored),
}

#[derive(Clone)]
struct Restored {
    from: usize,
    /// What had to be there.
    must: Vec<usize>,
    last_lsn: u64,
    /// Objects of other nodes in the authority when it began, in that of its lives.
    others: u64,
    life: u64,
}

/// What a node says of a cold store.
#[derive(Clone, Copy, Default)]
struct Level {
    verified: u64,
    epoch: u64,
    /// In which of the store's lives the epoch was taken.
    life: u64,
}

struct Running {
    store: Store,
    steps: Steps,
    waiting: Vec<(usize, Ack)>,
    asked: Vec<(u64, ColdAck)>,
    levels: Vec<Level>,
    /// Whether it was told that it is not the owner any more.
    stopped: bool,
}

struct Node {
    id: usize,
    disk: SimDisk,
    clock: Arc<SimClock>,
    colds: Vec<SimCold>,
    /// Its line, and how many batches of that it may not lose.
    line: usize,
    floor: usize,
    origin: Origin,
    /// Whether an open of it was cut off by a crash.
    half_opened: bool,
    /// Whether it was open since it was restored, if it was: what it holds is its own by then.
    was_open: bool,
    running: Option<Running>,
    /// For how many events it stands still.
    paused: u64,
}

/// A copy of a directory that is kept.
struct Shelved {
    disk: SimDisk,
    line: Vec<usize>,
    floor: usize,
    origin: Origin,
}

/// See the module.
pub struct Fleet {
    rng: Rng,
    colds: Vec<SimCold>,
    /// How often each was destroyed.
    lives: Vec<u64>,
    nodes: Vec<Node>,
    nodes_made: usize,
    copies: Vec<Shelved>,
    elapsed: Duration,
    appended: Vec<Appended>,
    lines: Vec<Vec<usize>>,
    must: Vec<Vec<usize>>,
    /// Whether the second store has a new owner who leaves aside what is there, and has verified nothing yet.
    contested: bool,
    /// The newest epoch that was taken: the authority's life, the epoch, the node.
    top: Option<(u64, u64, usize)>,
    /// The last node that owned the store.
    heir: usize,
    may_be_lost: bool,
    trace: Trace,
    tally: Tally,
}

/// What came of a world.
pub struct Outcome {
    /// What it saw, or the first promise that was not kept.
    pub result: Result<Tally, Violation>,
    /// What happened in it.
    pub trace: Vec<String>,
}

/// Runs the world of a seed.
#[must_use]
pub fn run(seed: u64) -> Outcome {
    let trace = Trace::default();
    let lived = catch_unwind(AssertUnwindSafe(|| -> Result<Tally, Violation> {
        let mut rng = Rng::new(seed);
        let stores = if rng.chance(60) { 2 } else { 1 };
        let mut fleet = Fleet::traced(rng.draw(), stores, &trace)?;
        fleet.live()?;
        fleet.finish()?;
        Ok(fleet.tally())
    }));
    let result = lived.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a message");
        Err(Violation(format!("a panic: {text}")))
    });
    let trace = std::mem::take(&mut *trace.lock());
    Outcome { result, trace }
}

fn violation<T>(what: impl Into<String>) -> Result<T, Violation> {
    Err(Violation(what.into()))
}

/// A record: the batch, its place in that, and bytes that follow from both.
fn record(batch: usize, place: u64, len: usize) -> Vec<u8> {
    let mut bytes = [(batch as u64).to_le_bytes(), place.to_le_bytes()].concat();
    let mut rng = Rng::new(batch as u64 ^ place << 32);
    bytes.resize_with(NUMBERS_LEN + len, || rng.draw() as u8);
    bytes
}

/// The batch of a record.
fn batch_of(payload: &[u8]) -> Option<usize> {
    let numbers = payload.get(..NUMBERS_LEN)?;
    usize::try_from(u64::from_le_bytes(*numbers.first_chunk()?)).ok()
}

/// All records of a log; none if there is no such log.
fn records(store: &Store, log: &str) -> Result<Vec<Record>, Violation> {
    let mut records = Vec::new();
    loop {
        let page = match store.read(log, records.len() as u64, ReadLimit::default()) {
            Ok(page) => page,
            Err(e) if e.kind() == ErrorKind::NotFound && records.is_empty() => return Ok(records),
            Err(e) => return violation(format!("log {log} is not read: {e}")),
        };
        let head = page.head;
        if page.records.is_empty() && head > records.len() as u64 {
            return violation(format!("log {log} ends at {head}, and reading stops at {}", records.len()));
        }
        records.extend(page.records);
        if records.len() as u64 >= head {
            return Ok(records);
        }
    }
}

/// Brings a directory as it is read from one disk to another.
fn copy_dir(from: &dyn Io, to: &dyn Io, dir: &Path) -> everlog::Result<()> {
    to.create_dir(dir)?;
    for name in from.list(dir)? {
        let path = dir.join(&name);
        match &*name {
            "LOCK" => {}
            "segments" => copy_dir(from, to, &path)?,
            _ => to.replace(&path, &from.read_all(&path, 4 << 20)?)?,
        }
    }
    to.sync_dir(dir)
}

/// How much of both is the same from the start on.
/// Whether nothing is called lost, or what was in an object that was spoilt on its way, of which nobody can know what it was.
fn may_be_lost(report: &RestoreReport, cold: &SimCold) -> bool {
    let is_unknown = |error: &Error| error.lsn_range().is_some_and(|lsns| lsns.end == u64::MAX);
    report.lost.iter().all(is_unknown) && (report.lost.is_empty() || cold.holds_spoilt_tail())
}

fn common(a: &[usize], b: &[usize]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

impl Fleet {
    /// A fleet of one node, open, with so many empty cold stores that are sound.
    ///
    /// # Errors
    /// If it does not open.
    pub fn new(seed: u64, stores: usize) -> Result<Self, Violation> {
        Self::traced(seed, stores, &Trace::default())
    }

    fn traced(seed: u64, stores: usize, trace: &Trace) -> Result<Self, Violation> {
        let mut rng = Rng::new(seed);
        let colds = ["authority", "second"].iter().take(stores);
        let colds: Vec<_> = colds.map(|name| SimCold::new(name, rng.draw(), trace)).collect();
        let mut fleet = Self {
            rng,
            lives: vec![0; colds.len()],
            must: vec![Vec::new(); colds.len()],
            colds,
            nodes: Vec::new(),
            nodes_made: 0,
            copies: Vec::new(),
            elapsed: Duration::ZERO,
            appended: Vec::new(),
            lines: Vec::new(),
            contested: false,
            top: None,
            heir: 0,
            may_be_lost: false,
            trace: Arc::clone(trace),
            tally: Tally::default(),
        };
        let at = fleet.new_node(Vec::new(), Origin::Owner);
        let config = fleet.config();
        let node = &fleet.nodes[at];
        if let Err(e) = Store::create_on(node.disk.io(), node.clock.clone(), Path::new(DIR), &config) {
            return violation(format!("a store cannot be created: {e}"));
        }
        match fleet.open(at, false)? {
            Opening::Opened => Ok(fleet),
            other => violation(format!("a new store does not open: {other:?}")),
        }
    }

    /// What was seen.
    #[must_use]
    pub fn tally(&self) -> Tally {
        let mut tally = self.tally.clone();
        for kind in Misfortune::ALL {
            tally.count(kind.name(), self.colds.iter().map(|cold| cold.met(kind)).sum());
        }
        tally
    }

    /// What happened.
    #[must_use]
    pub fn trace(&self) -> Vec<String> {
        self.trace.lock().clone()
    }

    /// A cold store, as nobody in particular reaches it.
    #[must_use]
    pub fn cold(&self, n: usize) -> &SimCold {
        &self.colds[n]
    }

    /// Batches that must be in a cold store.
    #[must_use]
    pub fn promised(&self, n: usize) -> usize {
        self.must[n].len()
    }

    /// Where the node with this id is among the nodes.
    #[must_use]
    pub fn place(&self, id: usize) -> Option<usize> {
        self.nodes.iter().position(|node| node.id == id)
    }

    /// The id of a node.
    #[must_use]
    pub fn id(&self, at: usize) -> usize {
        self.nodes[at].id
    }

    /// Whether a node runs and was not told that it is not the owner any more.
    #[must_use]
    pub fn is_live(&self, at: usize) -> bool {
        self.nodes[at].running.as_ref().is_some_and(|running| !running.stopped)
    }

    fn note(&self, line: impl FnOnce() -> String) {
        let line = line();
        self.trace.lock().push(line);
    }

    fn config(&mut self) -> Config {
        let flush_bytes = self.rng.between(12, 64) as usize * 1024;
        Config {
            journal_file_bytes: 64 << 10,
            journal_files_max: self.rng.between(3, 6) as usize,
            memory_pool_bytes: 2 * flush_bytes + self.rng.between(32, 128) as usize * 1024,
            flush_bytes,
            merge_width: self.rng.between(2, 5) as usize,
            merge_bytes_per_second: 0,
            merge_reserve_bytes: 0,
            scrub_bytes_per_second: 0,
            in_flight: self.rng.between(1, 5) as usize,
            heads_max: self.rng.between(1, 9) as usize,
            when_full: WhenFull::Reject,
            idle_frame_after: IDLE,
            ..Config::default()
        }
    }

    /// A node with an empty disk, whose line begins with this.
    fn new_node(&mut self, line: Vec<usize>, origin: Origin) -> usize {
        let (id, floor) = (self.nodes_made, line.len());
        self.nodes_made += 1;
        self.lines.push(line);
        let clock = Arc::new(SimClock::default());
        clock.advance(self.elapsed);
        self.nodes.push(Node {
            id,
            disk: SimDisk::new(self.rng.draw()),
            clock,
            colds: self.colds.iter().map(|cold| cold.handle(id)).collect(),
            line: self.lines.len() - 1,
            floor,
            origin,
            half_opened: false,
            was_open: false,
            running: None,
            paused: 0,
        });
        self.nodes.len() - 1
    }

    /// Whether this node's requests may go wrong.
    fn is_foul(&self, at: usize) -> bool {
        let id = self.nodes[at].id;
        self.colds.iter().any(|cold| cold.is_foul() || cold.is_cut_off(id))
    }

    fn is_down(&self, at: usize) -> bool {
        self.nodes[at].disk.crashed().is_some()
    }

    fn is_stopped(&self, at: usize) -> bool {
        self.nodes[at].running.as_ref().is_some_and(|running| running.stopped)
    }
}

/// What nodes do.
impl Fleet {
    /// Appends a batch on a node that runs.
    ///
    /// # Errors
    /// If it is not taken, and nothing explains that.
    pub fn append(&mut self, at: usize) -> Result<(), Violation> {
        let number = self.appended.len();
        let first = self.rng.below(LOGS.len() as u64) as usize;
        let mut logs = vec![first];
        if self.rng.chance(30) {
            logs.push((first + 1) % LOGS.len());
        }
        let (mut parts, mut place) = (Vec::new(), 0);
        for log in logs {
            let mut records = Vec::new();
            for _ in 0..self.rng.between(1, 4) {
                records.push(record(number, place, self.rng.below(1200) as usize));
                place += 1;
            }
            parts.push((log, records));
        }
        let mut batch = Batch::new();
        for (log, records) in &parts {
            let part = batch.log(LOGS[*log]);
            part.create_if_missing();
            for payload in records {
                part.record(payload);
            }
        }
        let node = &mut self.nodes[at];
        let running = node.running.as_mut().expect("a node that runs");
        let taken = running.store.append(batch);
        let (id, stopped) = (node.id, running.stopped);
        match taken {
            Ok(_) if stopped => violation(format!("node {id} takes a batch, and was told that it is not the owner")),
            Ok(ack) => {
                running.waiting.push((number, ack));
                self.lines[node.line].push(number);
                self.appended.push(Appended { parts, lsn: None, acknowledged: false });
                self.tally.count("appended", 1);
                self.note(|| format!("node {id} appends batch {number}"));
                self.after(at)
            }
            Err(e) if e.kind() == ErrorKind::Overloaded || stopped || node.disk.crashed().is_some() => self.after(at),
            Err(e) => violation(format!("node {id} does not take a batch: {e}")),
        }
    }

    /// A pass of a node's committer.
    ///
    /// # Errors
    /// If it fails, and nothing explains that.
    pub fn commit(&mut self, at: usize) -> Result<(), Violation> {
        let leads = self.rng.chance(8);
        let Some(running) = self.nodes[at].running.as_mut() else { return Ok(()) };
        if leads {
            running.steps.lead();
        }
        let result = running.steps.commit();
        self.sound(at, result, "a pass of the committer")?;
        self.after(at)
    }

    /// A pass of a node's flusher; everything is flushed if `asked`.
    ///
    /// # Errors
    /// If it fails, and nothing explains that.
    pub fn flush(&mut self, at: usize, asked: bool) -> Result<(), Violation> {
        let Some(running) = self.nodes[at].running.as_mut() else { return Ok(()) };
        let result = if asked { running.store.flush() } else { Ok(()) };
        let result = result.and_then(|()| running.steps.flush());
        self.sound(at, result, "a pass of the flusher")?;
        self.after(at)
    }

    /// A step of a node's merges.
    ///
    /// # Errors
    /// If it fails, and nothing explains that.
    pub fn merge(&mut self, at: usize) -> Result<(), Violation> {
        let Some(running) = self.nodes[at].running.as_mut() else { return Ok(()) };
        let result = running.steps.merge();
        self.sound(at, result, "a step of a merge")?;
        self.after(at)
    }

    /// A step of a node's shipping to the cold store `n`. True if anything moved.
    ///
    /// # Errors
    /// If it fails, and nothing explains that.
    pub fn ship(&mut self, at: usize, n: usize) -> Result<bool, Violation> {
        if n > 0 {
            self.leave_aside(at, n);
        }
        let id = self.nodes[at].id;
        self.note(|| format!("node {id} ships to {n}"));
        let Some(running) = self.nodes[at].running.as_mut() else { return Ok(false) };
        let moved = match running.steps.ship(n) {
            Ok(moved) => moved,
            Err(error) => {
                self.note(|| format!("node {id} did not ship to {n}: {error}"));
                self.not_shipped(at, n, &error)?;
                false
            }
        };
        self.after(at)?;
        Ok(moved)
    }

    /// An owner that lacks what must be in the second store is about to leave it aside there.
    fn leave_aside(&mut self, at: usize, n: usize) {
        let node = &self.nodes[at];
        let owns = node.running.as_ref().is_some_and(|running| running.levels[0].epoch > 0 && !running.stopped);
        if owns && self.is_top(at) && !self.lines[self.nodes[at].line].starts_with(&self.must[n]) {
            self.must[n].clear();
            self.contested = true;
            self.tally.count("histories left aside", 1);
            let id = self.nodes[at].id;
            self.note(|| format!("node {id} leaves aside what must be in {n}"));
        }
    }

    fn not_shipped(&mut self, at: usize, n: usize, error: &Error) -> Result<(), Violation> {
        if self.is_down(at) || self.is_stopped(at) {
            return Ok(());
        }
        let id = self.nodes[at].id;
        let told = match error.kind() {
            ErrorKind::Cold => return Ok(()),
            ErrorKind::Damaged if self.is_foul(at) => return Ok(()),
            ErrorKind::Fenced if self.colds[0].newest_owner() != Some(id) => "fenced",
            // It finds behind its claim what it lacks.
            ErrorKind::Fenced if n == 0 && self.may_be_refused(at) => "fenced by what it lacks",
            ErrorKind::Refused if n > 0 && self.lives[n] > 0 => return Ok(()),
            _ => return violation(format!("node {id} ships to {n} without a reason to fail: {error}")),
        };
        self.tally.count(told, 1);
        self.nodes[at].running.as_mut().expect("it ships").stopped = true;
        Ok(())
    }

    /// Asks a node when all that it has acknowledged is cold.
    ///
    /// # Errors
    /// If the answer is there and wrong.
    pub fn ask(&mut self, at: usize) -> Result<(), Violation> {
        let line = &self.lines[self.nodes[at].line];
        let known = line.iter().rev().map(|batch| &self.appended[*batch]).find(|batch| batch.acknowledged);
        let Some(lsn) = known.and_then(|batch| batch.lsn) else { return Ok(()) };
        if let Some(running) = self.nodes[at].running.as_mut() {
            running.asked.push((lsn, running.store.cold(everlog::types::Lsn(lsn))));
        }
        self.after(at)
    }

    /// Lets time pass for all.
    pub fn pass(&mut self, time: Duration) {
        self.elapsed += time;
        self.nodes.iter().for_each(|node| node.clock.advance(time));
    }

    /// Takes a node's steps until each batch has its answer and a watermark on disk proves it.
    ///
    /// # Errors
    /// If that does not come to its end.
    pub fn settle(&mut self, at: usize) -> Result<(), Violation> {
        let waits = |fleet: &Self| fleet.nodes[at].running.as_ref().is_some_and(|running| !running.waiting.is_empty());
        for _ in 0..PATIENCE {
            if !self.is_live(at) || !waits(self) {
                break;
            }
            self.commit(at)?;
            if self.rng.chance(30) {
                self.flush(at, false)?;
            }
        }
        if self.is_live(at) && waits(self) {
            return violation(format!("node {} does not answer in {PATIENCE} passes", self.nodes[at].id));
        }
        self.pass(IDLE + Duration::from_millis(1));
        // The queue of a disk may take some polls to say that the frame is written.
        for _ in 0..8 {
            self.commit(at)?;
        }
        Ok(())
    }

    /// Appends so many batches, each acknowledged before the next, which needs a node that is not disturbed.
    ///
    /// # Errors
    /// If one is not acknowledged.
    pub fn write(&mut self, at: usize, batches: usize) -> Result<(), Violation> {
        for _ in 0..batches {
            let before = self.lines[self.nodes[at].line].len();
            for _ in 0..PATIENCE {
                self.append(at)?;
                if self.lines[self.nodes[at].line].len() > before || !self.is_live(at) {
                    break;
                }
                self.commit(at)?;
                self.flush(at, true)?;
            }
            self.settle(at)?;
            let node = &self.nodes[at];
            if self.lines[node.line].len() == before || node.floor < self.lines[node.line].len() {
                return violation(format!("node {} does not acknowledge", node.id));
            }
        }
        Ok(())
    }

    /// Takes a node's steps until all that it holds is in each cold store.
    ///
    /// # Errors
    /// If that does not come to its end.
    pub fn level(&mut self, at: usize) -> Result<(), Violation> {
        for _ in 0..LEVEL_ROUNDS {
            self.settle(at)?;
            self.flush(at, false)?;
            self.merge(at)?;
            let mut moved = false;
            for n in 0..self.colds.len() {
                moved |= self.ship(at, n)?;
            }
            if !self.is_live(at) {
                return violation(format!("node {} stops before it is level", self.nodes[at].id));
            }
            if !moved && self.is_level(at) {
                return Ok(());
            }
        }
        let told = self.nodes[at]
            .running
            .as_ref()
            .map(|running| (running.store.cold_stores(), running.store.stats().watermark));
        violation(format!("node {} does not get level in {LEVEL_ROUNDS} rounds: {told:?}", self.nodes[at].id))
    }

    fn is_level(&self, at: usize) -> bool {
        let node = &self.nodes[at];
        let last = self.lines[node.line].last().and_then(|batch| self.appended[*batch].lsn).unwrap_or_default();
        let running = node.running.as_ref().expect("a node that runs");
        running.levels.iter().zip(&self.lives).all(|(level, life)| level.verified >= last && level.life == *life)
    }

    /// What a node's background work may end in.
    fn sound<T>(&self, at: usize, result: everlog::Result<T>, what: &str) -> Result<(), Violation> {
        match result {
            Err(e) if !self.is_down(at) && !self.is_stopped(at) => {
                violation(format!("node {}: {what} failed on a sound disk: {e}", self.nodes[at].id))
            }
            _ => Ok(()),
        }
    }
}

/// What becomes of nodes.
impl Fleet {
    /// Ends a node's process, or the power of its machine.
    ///
    /// # Errors
    /// If what it told last is wrong.
    pub fn crash(&mut self, at: usize, kind: Crash) -> Result<(), Violation> {
        self.nodes[at].disk.crash(kind);
        self.after(at)
    }

    fn reboot(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let kind = node.disk.crashed().expect("only a machine that has crashed is booted again");
        node.running = None;
        node.paused = 0;
        if kind == Crash::Power {
            node.clock.reboot();
        }
        node.disk.reboot();
        let (id, ops) = (node.id, node.disk.ops());
        self.tally.count(if kind == Crash::Power { "losses of power" } else { "processes killed" }, 1);
        self.note(|| format!("node {id} is down: {kind:?}, after {ops} operations"));
    }

    /// Takes a node away with its disk.
    pub fn lose(&mut self, at: usize) {
        let node = self.nodes.remove(at);
        node.disk.crash(Crash::Process);
        self.note(|| format!("node {} is gone with its disk", node.id));
    }

    /// Opens the directory of a node that is down; if `disturbed`, the machine may crash meanwhile.
    ///
    /// # Errors
    /// If it does not open without a reason, or holds what it should not, or lacks what it should hold.
    pub fn open(&mut self, at: usize, disturbed: bool) -> Result<Opening, Violation> {
        let config = self.config();
        let node = &self.nodes[at];
        assert!(node.running.is_none(), "a node that runs is not opened");
        if disturbed && self.rng.chance(15) {
            let kind = *self.rng.pick(&[Crash::Process, Crash::Power]);
            node.disk.crash_at(node.disk.ops() + 1 + self.rng.below(25), kind);
        }
        let stores = node.colds.iter().map(|cold| Arc::new(cold.clone()) as Arc<dyn ColdStore>).collect();
        let cold = ColdConfig { stores, allow_dependent: false, may_be_lost: self.may_be_lost };
        let id = node.id;
        self.note(|| format!("node {id} opens"));
        let (io, clock) = (node.disk.io(), node.clock.clone());
        let opened = Store::open_stepped_shipping(io, clock, Path::new(DIR), config, &cold);
        if self.is_down(at) {
            drop(opened);
            self.nodes[at].half_opened = true;
            self.reboot(at);
            return Ok(Opening::Crashed);
        }
        self.nodes[at].disk.no_crash();
        match opened {
            Ok((store, steps)) => self.opened(at, store, steps),
            Err(error) => {
                self.note(|| format!("node {id} does not open: {error}"));
                self.not_opened(at, &error)
            }
        }
    }

    fn opened(&mut self, at: usize, store: Store, steps: Steps) -> Result<Opening, Violation> {
        let found = self.content(&store)?;
        self.adopt(at, &found)?;
        let levels = vec![Level::default(); self.colds.len()];
        let running = Running { store, steps, waiting: Vec::new(), asked: Vec::new(), levels, stopped: false };
        self.nodes[at].running = Some(running);
        self.observe(at)?;
        let epoch = self.nodes[at].running.as_ref().map_or(0, |running| running.levels[0].epoch);
        self.tally.count(if epoch == 0 { "opened without the authority" } else { "opened again" }, 1);
        let (id, ops) = (self.nodes[at].id, self.nodes[at].disk.ops());
        self.note(|| format!("node {id} is open, epoch {epoch}, {} batches, {ops} operations", found.len()));
        Ok(Opening::Opened)
    }

    fn not_opened(&mut self, at: usize, error: &Error) -> Result<Opening, Violation> {
        let is_restored = matches!(self.nodes[at].origin, Origin::Restored(_));
        let of_cold = error.message().contains("of the cold store");
        match error.kind() {
            ErrorKind::Cold if is_restored && self.is_foul(at) => {
                self.tally.count("opens of a restored store not reached", 1);
                Ok(Opening::NotReached)
            }
            // What came back of the first object was not what was put.
            ErrorKind::Damaged if of_cold && self.is_foul(at) => Ok(Opening::NotReached),
            ErrorKind::Refused | ErrorKind::Fenced if self.may_be_refused(at) => {
                self.tally.count("refused at an open", 1);
                Ok(Opening::Refused)
            }
            _ => violation(format!("node {} does not open, without a reason: {error}", self.nodes[at].id)),
        }
    }

    /// Whether there is a reason to refuse this node.
    fn may_be_refused(&self, at: usize) -> bool {
        let node = &self.nodes[at];
        let authority = &self.colds[0];
        let is_others = authority.newest_owner().is_some_and(|owner| owner != node.id);
        match &node.origin {
            Origin::Owner => is_others,
            Origin::Copy { of, stored, life } => {
                let is_others = is_others && authority.newest_owner() != Some(*of);
                is_others || authority.stored() != *stored || self.lives[0] != *life
            }
            Origin::Restored(restored) => {
                let others = authority.stored() - authority.stored_by(node.id);
                restored.from != 0 || others != restored.others || self.lives[0] != restored.life
            }
        }
    }

    /// What was found in a directory becomes its line.
    fn adopt(&mut self, at: usize, found: &[usize]) -> Result<(), Violation> {
        let node = &self.nodes[at];
        let (id, line) = (node.id, &self.lines[node.line]);
        match &node.origin {
            Origin::Restored(restored) if !node.was_open => {
                self.check_restored(found, &restored.must, restored.last_lsn)?;
                self.lines[node.line] = found.to_vec();
            }
            _ if !line.starts_with(found) || found.len() < node.floor => {
                let same = common(line, found);
                return violation(format!(
                    "node {id} holds {} batches, {same} of them its own, and had acknowledged {}",
                    found.len(),
                    node.floor
                ));
            }
            _ => self.lines[node.line].truncate(found.len()),
        }
        self.nodes[at].floor = found.len();
        self.nodes[at].was_open = true;
        Ok(())
    }

    /// Whether what came back is what may come back.
    fn check_restored(&self, found: &[usize], must: &[usize], last_lsn: u64) -> Result<(), Violation> {
        if !found.starts_with(must) {
            let there = common(found, must);
            return violation(format!("of {} batches that must come back there are {there}", must.len()));
        }
        let mut whole = false;
        for line in self.lines.iter().filter(|line| line.starts_with(found)) {
            whole = true;
            let (back, missing) = line.split_at(found.len());
            let lsn = |batch: &usize| self.appended[*batch].lsn;
            if let Some(lsn) = back.iter().filter_map(lsn).find(|lsn| *lsn > last_lsn) {
                return violation(format!("LSN {lsn} came back, and the report ends at {last_lsn}"));
            }
            if let Some(lsn) = missing.iter().filter_map(lsn).find(|lsn| *lsn <= last_lsn) {
                return violation(format!("LSN {lsn} is missing, and the report ends at {last_lsn}"));
            }
        }
        if whole { Ok(()) } else { violation(format!("what came back was never so: {found:?}")) }
    }

    /// Restores a node with an empty disk, or one that was restored and never opened, from the cold store `from`; if
    /// `disturbed`, the machine may crash meanwhile, and it is begun again. False if it could not be reached, or there
    /// is nothing.
    ///
    /// # Errors
    /// If it fails without a reason, or something is lost.
    pub fn restore(&mut self, at: usize, from: usize, disturbed: bool) -> Result<bool, Violation> {
        let id = self.nodes[at].id;
        for attempt in 0..6 {
            let config = self.config();
            let node = &self.nodes[at];
            if disturbed && attempt < 3 && self.rng.chance(40) {
                let kind = *self.rng.pick(&[Crash::Process, Crash::Power]);
                node.disk.crash_at(node.disk.ops() + 1 + self.rng.below(50), kind);
            }
            self.note(|| format!("node {id} is restored from {from}, attempt {attempt}"));
            let others = self.colds[0].stored() - self.colds[0].stored_by(id);
            let spoilt = self.spoilt_answers(from);
            let (io, cold) = (node.disk.io(), node.colds[from].clone());
            let result = restore_on(&io, &cold, Path::new(DIR), &config, &mut |_, _| {});
            if self.is_down(at) {
                self.tally.count("restores interrupted", 1);
                self.reboot(at);
                continue;
            }
            self.nodes[at].disk.no_crash();
            let report = match result {
                Ok(report) => report,
                Err(error) => {
                    self.note(|| format!("node {id} is not restored: {error}"));
                    if self.not_restored(at, from, &error)? {
                        continue;
                    }
                    return Ok(false);
                }
            };
            if !(may_be_lost(&report, &self.colds[from]) || from > 0 && self.contested) {
                // What was read twice, and was spoilt on its way each time, is taken for damaged.
                if self.spoilt_answers(from) < spoilt + 2 {
                    return violation(format!("nothing is damaged, and a restore lost {:?}", report.lost));
                }
                self.colds[from].set_odds(Odds::default());
                continue;
            }
            self.note(|| format!("node {id} is restored: {report:?}"));
            self.tally.count(if from == 0 { "restores" } else { "restores of the second store" }, 1);
            let (must, last_lsn, life) = (self.must[from].clone(), report.last_lsn.0, self.lives[0]);
            self.nodes[at].was_open = false;
            self.nodes[at].origin = Origin::Restored(Restored { from, must, last_lsn, others, life });
            return Ok(true);
        }
        Ok(false)
    }

    /// True if the restore is to be tried again.
    fn not_restored(&self, at: usize, from: usize, error: &Error) -> Result<bool, Violation> {
        let (id, nothing) = (self.nodes[at].id, self.must[from].is_empty());
        match error.kind() {
            ErrorKind::Cold if self.is_foul(at) => Ok(true),
            // It was begun, and nobody came to put a version of the manifest.
            ErrorKind::Damaged if nothing => Ok(false),
            ErrorKind::Refused if !self.colds[from].holds(HOME) => Ok(false),
            _ => violation(format!("node {id} is not restored from {from}, without a reason: {error}")),
        }
    }

    fn spoilt_answers(&self, from: usize) -> u64 {
        [Misfortune::Flipped, Misfortune::Truncated].map(|kind| self.colds[from].met(kind)).iter().sum()
    }

    /// A new node, restored from the cold store `from` and not opened. None if that could not be.
    ///
    /// # Errors
    /// As [`Self::restore`].
    pub fn restored(&mut self, from: usize, disturbed: bool) -> Result<Option<usize>, Violation> {
        let at = self.new_node(Vec::new(), Origin::Owner);
        if self.restore(at, from, disturbed)? {
            return Ok(Some(at));
        }
        self.lose(at);
        Ok(None)
    }

    /// Keeps a copy of a node's directory as it is now.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn copy(&mut self, at: usize) -> Result<(), Violation> {
        let disk = SimDisk::new(self.rng.draw());
        let node = &self.nodes[at];
        let (from, to) = (node.disk.io(), disk.io());
        let copied = copy_dir(&*from, &*to, Path::new(DIR)).and_then(|()| to.sync_dir(Path::new("/")));
        if let Err(e) = copied {
            return violation(format!("a sound directory cannot be copied: {e}"));
        }
        let origin = match &node.origin {
            Origin::Owner => Origin::Copy { of: node.id, stored: self.colds[0].stored(), life: self.lives[0] },
            other => other.clone(),
        };
        let copy = Shelved { disk, line: self.lines[node.line].clone(), floor: node.floor, origin };
        let id = node.id;
        self.note(|| format!("node {id} is copied"));
        self.copies.push(copy);
        Ok(())
    }

    /// Makes a node of the copy that was kept first, and opens it. None if there is no copy.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn put_back(&mut self) -> Result<Option<(usize, Opening)>, Violation> {
        if self.copies.is_empty() {
            return Ok(None);
        }
        let Shelved { disk, line, floor, origin } = self.copies.remove(0);
        let at = self.new_node(line, origin);
        let node = &mut self.nodes[at];
        (node.disk, node.floor) = (disk, floor);
        let id = node.id;
        self.note(|| format!("node {id} is an old copy put back"));
        self.tally.count("copies put back", 1);
        let is_foul = self.is_foul(at);
        let opening = self.open(at, false)?;
        if opening == Opening::Refused {
            self.tally.count("copies refused", 1);
            // In foul weather a copy may have found itself in order at first.
            if !is_foul && self.colds[0].stored_by(id) > 0 {
                return violation(format!("node {id} is an old copy and refused, and has put something there"));
            }
        }
        Ok(Some((at, opening)))
    }

    /// Destroys a cold store. From here on nodes are opened with the word that one may have been lost. Of the authority
    /// it ends all nodes but the last owner, whose process is ended.
    ///
    /// # Errors
    /// If what a node told last is wrong.
    pub fn wipe(&mut self, n: usize) -> Result<(), Violation> {
        self.note(|| format!("the cold store {n} is destroyed"));
        self.tally.count("cold stores destroyed", 1);
        self.colds[n].wipe();
        self.lives[n] += 1;
        self.must[n].clear();
        self.may_be_lost = true;
        if n > 0 {
            self.contested = false;
            return Ok(());
        }
        self.copies.clear();
        let heir = self.heir;
        while let Some(at) = self.nodes.iter().position(|node| node.id != heir) {
            self.lose(at);
        }
        match self.place(heir) {
            Some(at) if self.nodes[at].running.is_some() => self.crash(at, Crash::Process),
            _ => Ok(()),
        }
    }
}

/// What nodes say, and what is there.
impl Fleet {
    /// Hears what a node has to say; if its machine has crashed it is booted again, and down.
    fn after(&mut self, at: usize) -> Result<(), Violation> {
        self.observe(at)?;
        if self.is_down(at) {
            self.reboot(at);
        }
        Ok(())
    }

    fn observe(&mut self, at: usize) -> Result<(), Violation> {
        let Some(mut running) = self.nodes[at].running.take() else { return Ok(()) };
        let heard = self.hear(at, &mut running);
        self.nodes[at].running = Some(running);
        heard
    }

    fn hear(&mut self, at: usize, running: &mut Running) -> Result<(), Violation> {
        self.hear_acks(at, running)?;
        for (n, told) in running.store.cold_stores().into_iter().enumerate() {
            let level = &mut running.levels[n];
            if told.epoch.0 != level.epoch {
                (level.epoch, level.life) = (told.epoch.0, self.lives[n]);
                if n == 0 {
                    self.took_over(at, told.epoch.0)?;
                }
            }
            if told.verified.0 > level.verified {
                level.verified = told.verified.0;
                self.rose(at, n, *level)?;
            }
        }
        let levels: Vec<u64> = running.levels.iter().map(|level| level.verified).collect();
        for (lsn, ack) in std::mem::take(&mut running.asked) {
            match ack.try_get() {
                None => running.asked.push((lsn, ack)),
                Some(Ok(())) if levels.iter().any(|verified| *verified >= lsn) => self.tally.count("told cold", 1),
                Some(Ok(())) => {
                    return violation(format!("LSN {lsn} is told cold, and verified are {levels:?}"));
                }
                Some(Err(_)) if running.stopped || self.is_down(at) => {}
                Some(Err(e)) => return violation(format!("nobody is told whether LSN {lsn} is cold: {e}")),
            }
        }
        Ok(())
    }

    fn hear_acks(&mut self, at: usize, running: &mut Running) -> Result<(), Violation> {
        let id = self.nodes[at].id;
        for (number, ack) in std::mem::take(&mut running.waiting) {
            match ack.try_get() {
                None => running.waiting.push((number, ack)),
                Some(Ok(_)) if running.stopped => {
                    return violation(format!("node {id} acknowledges batch {number}, and is not the owner"));
                }
                Some(Ok(receipt)) => {
                    let batch = &mut self.appended[number];
                    batch.lsn = receipt.logs.iter().map(|log| log.lsn.0).max();
                    batch.acknowledged = true;
                    self.tally.count("acknowledged", 1);
                    let node = &mut self.nodes[at];
                    let place = self.lines[node.line].iter().position(|batch| *batch == number);
                    node.floor = node.floor.max(place.expect("it was appended there") + 1);
                }
                Some(Err(_)) if running.stopped || self.is_down(at) => {}
                Some(Err(e)) => return violation(format!("node {id} does not say what became of batch {number}: {e}")),
            }
        }
        Ok(())
    }

    fn is_top(&self, at: usize) -> bool {
        self.top.is_some_and(|(life, _, id)| life == self.lives[0] && id == self.nodes[at].id)
    }

    /// A node has taken an epoch of the authority.
    fn took_over(&mut self, at: usize, epoch: u64) -> Result<(), Violation> {
        let (id, life) = (self.nodes[at].id, self.lives[0]);
        if let Some((top_life, top_epoch, owner)) = self.top
            && (top_life, top_epoch) >= (life, epoch)
        {
            return violation(format!("node {id} takes epoch {epoch}, and node {owner} took {top_epoch} before"));
        }
        self.tally.count("epochs taken", 1);
        self.tally.count("take-overs", u64::from(self.top.is_some_and(|(.., owner)| owner != id)));
        self.top = Some((life, epoch, id));
        self.heir = id;
        let (line, must) = (&self.lines[self.nodes[at].line], &self.must[0]);
        if !line.starts_with(must) {
            let there = common(line, must);
            return violation(format!("node {id} owns the store, and has {there} of {} batches told cold", must.len()));
        }
        self.nodes[at].origin = Origin::Owner;
        Ok(())
    }

    /// A node says that more is verified in the cold store `n`.
    fn rose(&mut self, at: usize, n: usize, level: Level) -> Result<(), Violation> {
        if level.life != self.lives[n] {
            return Ok(());
        }
        let id = self.nodes[at].id;
        if !self.is_top(at) {
            return violation(format!("node {id} verifies in {n}, and the owner is {:?}", self.top));
        }
        let covered = |batch: &&usize| self.appended[**batch].lsn.is_some_and(|lsn| lsn <= level.verified);
        let told: Vec<usize> = self.lines[self.nodes[at].line].iter().take_while(covered).copied().collect();
        let must = &mut self.must[n];
        if common(&told, must) < told.len().min(must.len()) {
            return violation(format!("node {id} verifies in {n} another history than the one that was told cold"));
        }
        if told.len() > must.len() {
            *must = told;
        }
        if n > 0 {
            self.contested = false;
        }
        Ok(())
    }

    /// What a store holds, as the sequence of its batches.
    fn content(&mut self, store: &Store) -> Result<Vec<usize>, Violation> {
        let (mut logs, mut ends) = (Vec::new(), BTreeMap::<usize, u64>::new());
        for name in LOGS {
            let found = records(store, name)?;
            for record in &found {
                match batch_of(&record.payload).filter(|batch| *batch < self.appended.len()) {
                    Some(batch) => {
                        let end = ends.entry(batch).or_default();
                        *end = record.lsn.0.max(*end);
                    }
                    None => return violation(format!("record {} of log {name} is made up", record.seq)),
                }
            }
            logs.push(found);
        }
        let mut order: Vec<(u64, usize)> = ends.into_iter().map(|(batch, lsn)| (lsn, batch)).collect();
        order.sort_unstable();
        for (log, found) in logs.iter().enumerate() {
            let batches = order.iter().flat_map(|(_, batch)| &self.appended[*batch].parts);
            let expected: Vec<&Vec<u8>> =
                batches.filter(|(at, _)| *at == log).flat_map(|(_, records)| records).collect();
            let differs = found.iter().zip(&expected).position(|(found, expected)| found.payload != **expected);
            let is_dense = found.iter().enumerate().all(|(seq, record)| record.seq == seq as u64);
            let is_in_order = found.is_sorted_by(|a, b| a.lsn < b.lsn && a.time <= b.time);
            if differs.is_some() || found.len() != expected.len() || !is_dense || !is_in_order {
                let (name, there, wanted) = (LOGS[log], found.len(), expected.len());
                return violation(format!("log {name} has {there} records of {wanted}, and differs at {differs:?}"));
            }
        }
        for (lsn, batch) in &order {
            let known = self.appended[*batch].lsn.get_or_insert(*lsn);
            if *known != *lsn {
                return violation(format!("batch {batch} is at LSN {lsn}, and was at {known}"));
            }
        }
        let listed = store.list("", None, 100).map_err(|e| Violation(format!("no list: {e}")))?;
        let listed: Vec<String> = listed.into_iter().map(|log| log.name).collect();
        let mut expected: Vec<&str> =
            (0..LOGS.len()).filter(|log| !logs[*log].is_empty()).map(|log| LOGS[log]).collect();
        expected.sort_unstable();
        if listed != expected {
            return violation(format!("listed are {listed:?}, and there are {expected:?}"));
        }
        Ok(order.into_iter().map(|(_, batch)| batch).collect())
    }

    /// Restores a copy of a cold store on a machine of its own, and looks at what comes back. None if there is nothing
    /// yet.
    ///
    /// # Errors
    /// If what must be there is not, or what is there was never so.
    pub fn drill(&mut self, n: usize) -> Result<Option<Vec<usize>>, Violation> {
        self.note(|| format!("a drill of {n}"));
        let copy = self.colds[n].copy();
        let (disk, clock) = (SimDisk::new(self.rng.draw()), Arc::new(SimClock::default()));
        clock.advance(self.elapsed);
        let (config, io) = (self.config(), disk.io());
        let report: RestoreReport = match restore_on(&io, &copy, Path::new(DIR), &config, &mut |_, _| {}) {
            Ok(report) => report,
            Err(e) if matches!(e.kind(), ErrorKind::Refused | ErrorKind::Damaged) && self.must[n].is_empty() => {
                return Ok(None);
            }
            Err(e) => return violation(format!("a drill of {n}: {e}")),
        };
        if !may_be_lost(&report, &copy) {
            if n > 0 && self.contested {
                return Ok(None);
            }
            return violation(format!("nothing is damaged, and a drill of {n} lost {:?}", report.lost));
        }
        let cold = ColdConfig { stores: vec![Arc::new(copy)], ..ColdConfig::default() };
        let opened = Store::open_stepped_shipping(io, clock, Path::new(DIR), config, &cold);
        let (store, _steps) =
            opened.map_err(|e| Violation(format!("what a drill of {n} restored does not open: {e}")))?;
        let found = self.content(&store)?;
        self.check_restored(&found, &self.must[n], report.last_lsn.0)
            .map_err(|Violation(why)| Violation(format!("a drill of {n}: {why}")))?;
        self.tally.count("drills", 1);
        Ok(Some(found))
    }
}

/// What chance draws.
impl Fleet {
    fn live(&mut self) -> Result<(), Violation> {
        for _ in 0..self.rng.between(40, 160) {
            self.nodes.iter_mut().for_each(|node| node.paused = node.paused.saturating_sub(1));
            let going = |node: &Node| node.running.is_some() && node.paused == 0;
            let running: Vec<usize> = (0..self.nodes.len()).filter(|at| going(&self.nodes[*at])).collect();
            match running.is_empty() {
                true => self.revive()?,
                false => {
                    let at = *self.rng.pick(&running);
                    self.event(at)?;
                }
            }
        }
        Ok(())
    }

    /// What comes next, where it happens to a node that runs.
    fn event(&mut self, at: usize) -> Result<(), Violation> {
        let n = self.rng.below(self.colds.len() as u64) as usize;
        match self.rng.below(100) {
            0..25 => self.append(at),
            25..33 => self.commit(at),
            33..46 => self.settle(at),
            46..50 => {
                let millis = self.rng.below(25);
                self.pass(Duration::from_millis(millis));
                Ok(())
            }
            50..70 => self.ship(at, n).map(drop),
            70..75 => {
                let asked = self.rng.chance(40);
                self.flush(at, asked)
            }
            75..78 => (0..self.rng.between(1, 6)).try_for_each(|_| self.merge(at)),
            78..83 => self.ask(at),
            83..86 => self.strike(at),
            86..89 => self.revive(),
            89..92 => self.take_over(),
            92 => {
                self.tally.count("pauses", 1);
                self.nodes[at].paused = self.rng.between(5, 60);
                Ok(())
            }
            93 => {
                self.cut(at, n);
                Ok(())
            }
            94..96 => {
                self.change_weather();
                Ok(())
            }
            96 => self.shelve(at),
            97 => self.drill(n).map(drop),
            98 => {
                if self.rng.chance(50) {
                    self.tally.count("disks lost", 1);
                    self.lose(at);
                }
                Ok(())
            }
            _ if self.rng.chance(25) => self.destroy(n),
            _ => Ok(()),
        }
    }

    /// A crash of the node, at once or at one of the next operations of its disk.
    fn strike(&mut self, at: usize) -> Result<(), Violation> {
        let kind = *self.rng.pick(&[Crash::Process, Crash::Power]);
        if self.rng.chance(50) {
            return self.crash(at, kind);
        }
        let disk = &self.nodes[at].disk;
        disk.crash_at(disk.ops() + 1 + self.rng.below(40), kind);
        Ok(())
    }

    /// Opens a node that is down, or lets one go on that stands still, or restores a new one if there is none.
    fn revive(&mut self) -> Result<(), Violation> {
        let down: Vec<usize> = (0..self.nodes.len()).filter(|at| self.nodes[*at].running.is_none()).collect();
        if !down.is_empty() {
            let at = *self.rng.pick(&down);
            return self.bring_up(at);
        }
        if self.nodes.is_empty() {
            return self.take_over();
        }
        if let Some(node) = self.nodes.iter_mut().find(|node| node.paused > 0) {
            node.paused = 0;
        }
        Ok(())
    }

    /// Opens a node that is down. One that is refused is gone, but one that was restored may be brought up to date.
    fn bring_up(&mut self, at: usize) -> Result<(), Violation> {
        if self.open(at, true)? != Opening::Refused {
            return Ok(());
        }
        let node = &self.nodes[at];
        let from = match &node.origin {
            Origin::Restored(restored) if !node.half_opened => restored.from,
            _ => {
                self.lose(at);
                return Ok(());
            }
        };
        if from > 0 || self.rng.chance(30) || !self.restore(at, 0, true)? {
            self.lose(at);
            return Ok(());
        }
        self.open(at, true).map(drop)
    }

    /// A new node is restored and opens, perhaps later.
    fn take_over(&mut self) -> Result<(), Violation> {
        if self.nodes.len() >= NODES_MAX {
            // What has stopped makes room.
            match (0..self.nodes.len()).find(|at| self.is_stopped(*at)) {
                Some(at) => self.lose(at),
                None => return Ok(()),
            }
        }
        let second = self.colds.len() > 1 && self.colds[1].holds(HOME);
        let from = usize::from(second && (!self.colds[0].holds(HOME) || self.rng.chance(15)));
        match self.restored(from, true)? {
            Some(at) if self.rng.chance(75) => self.bring_up(at),
            _ => Ok(()),
        }
    }

    fn cut(&mut self, at: usize, n: usize) {
        let (id, node) = (self.nodes[at].id, &self.nodes[at]);
        let is_cut_off = !node.colds[n].is_cut_off(id);
        self.tally.count("nodes cut off", u64::from(is_cut_off));
        node.colds[n].cut_off(id, is_cut_off);
        if self.rng.chance(30) {
            node.colds.iter().for_each(|cold| cold.cut_off(id, is_cut_off));
        }
    }

    fn change_weather(&mut self) {
        let mut odds = Odds::default();
        if self.rng.chance(60) {
            for kind in Misfortune::ALL {
                odds = odds.with(kind, *self.rng.pick(&[0, 0, 3, 10, 25]));
            }
        }
        let n = self.rng.below(self.colds.len() as u64) as usize;
        self.note(|| format!("the weather at {n} is {odds:?}"));
        self.colds[n].set_odds(odds);
    }

    /// A copy of the node is kept, or one of before put back.
    fn shelve(&mut self, at: usize) -> Result<(), Violation> {
        if self.copies.len() < COPIES_MAX && self.rng.chance(50) {
            return self.copy(at);
        }
        if self.nodes.len() >= NODES_MAX {
            return Ok(());
        }
        if let Some((at, Opening::Refused)) = self.put_back()? {
            self.lose(at);
        }
        Ok(())
    }

    /// Destroys a cold store, if the store is not lost with it; perhaps the owner's disk as well, where the other has
    /// it all.
    fn destroy(&mut self, n: usize) -> Result<(), Violation> {
        let other = self.colds.len() > 1 && !self.must[1 - n].is_empty() && !(n == 0 && self.contested);
        let heir = self.place(self.heir);
        if heir.is_none() && !other {
            return Ok(());
        }
        if n > 0
            && self.rng.chance(50)
            && let Some(at) = heir.filter(|at| self.nodes[*at].running.is_some())
        {
            self.crash(at, Crash::Process)?;
        }
        self.wipe(n)?;
        if other
            && self.rng.chance(40)
            && let Some(at) = self.place(self.heir)
        {
            self.tally.count("disks lost", 1);
            self.lose(at);
        }
        Ok(())
    }

    /// All is well again: the last owner gets level, what is restored from each cold store is what it holds, and
    /// whoever else runs is fenced.
    ///
    /// # Errors
    /// If one of this does not come about.
    pub fn finish(&mut self) -> Result<(), Violation> {
        self.note(|| "all is well again".to_owned());
        self.colds.iter().for_each(SimCold::heal);
        for node in &mut self.nodes {
            node.paused = 0;
            node.disk.no_crash();
        }
        let Some(id) = self.last_owner()? else { return Ok(()) };
        let at = self.place(id).expect("it was just found");
        self.write(at, 1)?;
        self.ask(at)?;
        self.level(at)?;
        self.ask(at)?;
        if self.nodes[at].running.as_ref().is_some_and(|running| !running.asked.is_empty()) {
            return violation(format!("node {id} is level, and somebody waits for what is cold"));
        }
        self.fence_the_others(id)?;
        let at = self.place(id).expect("it runs");
        self.observe(at)?;
        let running = self.nodes[at].running.take().expect("it runs");
        let held = self.content(&running.store)?;
        self.nodes[at].running = Some(running);
        if held != self.lines[self.nodes[at].line] {
            return violation(format!("node {id} does not hold its line"));
        }
        for n in 0..self.colds.len() {
            let back = self.drill(n)?;
            if back.as_ref() != Some(&held) {
                let (there, all) = (back.map(|back| back.len()), held.len());
                return violation(format!("node {id} is level, and of {all} batches {there:?} come back from {n}"));
            }
        }
        Ok(())
    }

    /// The node that is to own the store in the end, running; None if nothing is left of the store.
    fn last_owner(&mut self) -> Result<Option<usize>, Violation> {
        for _ in 0..6 {
            let wanted = self.colds[0].newest_owner().unwrap_or(self.heir);
            let Some(at) = self.place(wanted) else {
                let Some(at) = self.last_restored()? else { return Ok(None) };
                if self.open(at, false)? == Opening::Opened {
                    return Ok(Some(self.nodes[at].id));
                }
                self.lose(at);
                continue;
            };
            if let Some(running) = &self.nodes[at].running {
                let owns = running.levels[0].epoch > 0 && self.is_live(at);
                // A store that was destroyed is filled anew only by who was opened since.
                let mut levels = running.levels.iter().zip(&self.lives);
                if owns && levels.all(|(level, life)| *life == 0 || level.epoch > 0 && level.life == *life) {
                    return Ok(Some(wanted));
                }
                self.crash(at, Crash::Process)?;
            }
            match self.open(at, false)? {
                Opening::Opened if self.is_top(at) => return Ok(Some(wanted)),
                Opening::Opened => return violation(format!("node {wanted} is open, and does not take an epoch")),
                // Another one has put there what it lacks, and can do so no more.
                Opening::Refused => self.lose(at),
                other => return violation(format!("all is well, and node {wanted} does not open: {other:?}")),
            }
        }
        violation("nobody comes to own the store")
    }

    /// A new node, restored from the authority, or from the second store if that has nothing. None if nothing is left.
    fn last_restored(&mut self) -> Result<Option<usize>, Violation> {
        if let Some(at) = self.restored(0, false)? {
            return Ok(Some(at));
        }
        if !self.must[0].is_empty() {
            return violation("what is told cold cannot be restored from the authority");
        }
        if self.colds.len() == 1 {
            return Ok(None);
        }
        // It was claimed by a node that is gone, and nothing else was put there: somebody has to take that away.
        if self.colds[0].holds(HOME) {
            self.wipe(0)?;
        }
        let restored = self.restored(1, false)?;
        match restored.is_none() && !self.must[1].is_empty() {
            true => violation("what is told cold cannot be restored from the second store"),
            false => Ok(restored),
        }
    }

    /// Every other node that runs learns that it is not the owner.
    fn fence_the_others(&mut self, owner: usize) -> Result<(), Violation> {
        let others: Vec<usize> = self.nodes.iter().map(|node| node.id).filter(|id| *id != owner).collect();
        for id in others {
            let at = self.place(id).expect("nobody is lost here");
            if self.nodes[at].running.is_none() {
                continue;
            }
            for _ in 0..LEVEL_ROUNDS {
                if !self.is_live(at) {
                    break;
                }
                self.append(at)?;
                self.settle(at)?;
                self.flush(at, false)?;
                self.ship(at, 0)?;
            }
            if self.is_live(at) {
                return violation(format!("node {id} is never told that node {owner} owns the store"));
            }
        }
        Ok(())
    }
}
