//! A fleet: one cold store or two, and nodes that follow one another as the owner of one store, driven on one thread.
//!
//! A node is a simulated disk, a clock and a store driven step by step, which ships to the cold stores; the first of
//! them is the authority. Chance draws what comes next: batches, steps of the engine's background work, crashes, disks
//! that are lost, restores into new nodes that then take the store over, as it is or as it was, nodes that stand still
//! meanwhile and go on later, old copies of a disk put back, requests to cold stores that go wrong ([`super::cold`]),
//! nodes cut off from them, a cold store destroyed.
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
//!    is worth nothing. A node that was restored as of a moment ends the authority's promises of what lies past that,
//!    and no others, with the first version that it puts there, whenever that comes to be there: before, everything is
//!    there, from then on nothing past the moment is.
//! 3. What is told to be cold is covered by what some cold store has verified.
//! 4. A node's level rises in no cold store once a later epoch was taken by another one; once a node was told that it
//!    is not the owner any more it acknowledges nothing.
//! 5. Who is refused or fenced is not the newest owner; who was restored, or copied, may also lack what others have put
//!    there since. An old copy that is refused has put nothing there.
//! 6. Nothing is lost in a restore, since nothing is damaged at rest but what its writer puts again; until it has, what the
//!    spoilt object held is called unknown. What a line has beyond a restore has a later LSN than the report says.
//! 7. The end of whatever an owner said that it had verified in the authority is a moment to which the store can be put
//!    back exactly, unless an earlier one has been gone back to. Other moments are had to the end of the frame before,
//!    or refused.
//! 8. Once all is well the last owner gets level with each cold store in a bounded number of steps, what is restored
//!    from each is what it holds, and whoever else still runs is fenced.
//!
//! What it leaves out: objects that rot at rest, and time limits of requests. Invariant: everything follows from the
//! seed.

mod chance;
mod checks;
mod end;
mod nodes;
mod past;
mod steps;

use super::cold::{HOME, Misfortune, Odds, SimCold, Trace};
use super::{Crash, Rng, SimClock, SimDisk};
use crate::oracle::Violation;
use everlog::cold::ColdStore;
use everlog::io::Io;
use everlog::types::{AsOf, Lsn};
use everlog::{
    Ack, Batch, ColdAck, ColdConfig, Config, Error, ErrorKind, ReadLimit, Record, RestoreMode, RestoreReport, Steps,
    Store, WhenFull, restore_on,
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
pub const EVENTS: [&str; 26] = [
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
    "opens that need the first cold store and did not reach it",
    "fenced",
    "refused at an open",
    "copies put back",
    "copies refused",
    "disks lost",
    "pauses",
    "nodes cut off",
    "cold stores destroyed",
    "histories left aside",
    "restores of the past",
    "moments refused",
    "rewinds",
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
    /// Whether what lies past it in the cold stores is to count no more.
    rewinds: bool,
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
    /// LSNs up to which the authority was said to have verified everything, in what is its history now.
    told: Vec<u64>,
    /// Nodes that are to put the store back, and have put no version there yet, with the last LSN of each.
    rewinds: Vec<(usize, u64)>,
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
        let mut fleet = Self::unopened(seed, stores, trace)?;
        match fleet.open(0, false)? {
            Opening::Opened => Ok(fleet),
            other => violation(format!("a new store does not open: {other:?}")),
        }
    }

    /// A fleet of one node that was never opened.
    ///
    /// # Errors
    /// If its store cannot be created.
    pub fn unopened(seed: u64, stores: usize, trace: &Trace) -> Result<Self, Violation> {
        let mut rng = Rng::new(seed);
        let colds = ["authority", "second"].iter().take(stores);
        let colds: Vec<_> = colds.map(|name| SimCold::new(name, rng.draw(), trace)).collect();
        let mut fleet = Self {
            rng,
            lives: vec![0; colds.len()],
            must: vec![Vec::new(); colds.len()],
            told: Vec::new(),
            rewinds: Vec::new(),
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
        Ok(fleet)
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

    /// The last LSN that was said to be verified in the authority.
    #[must_use]
    pub fn verified(&self) -> u64 {
        self.told.last().copied().unwrap_or_default()
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
