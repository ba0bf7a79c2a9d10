//! Power loss under a store on ext4 and XFS.
//!
//! A chain is a disk: a file system is made, a victim creates a store on it and writes until it is killed, and the
//! oracle is asked about many states that a power failure may have left (`real/power`). One of them becomes the disk of
//! the next generation, whose recovery is logged as well, so that power also fails during recovery and right after it;
//! what the recovered store showed must stay from then on.
//!
//! That this would notice an engine that says "durable" too early is shown by victims that make a mistake: of the states
//! of a chain, one must lack something acknowledged.
//!
//! What this does not do: it does not make the file systems prove themselves. A state that does not mount is reported
//! like a violation, but says so. Invariant: the states follow from the seed and the log, and the log does not: what
//! fails is kept as an image, since the seed alone does not bring it back.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::programs::target_dir;
use crate::real::disk::{FileSystem, Loop, Mount, check_machine};
use crate::real::leftovers;
use crate::real::mistake::Mistake;
use crate::real::oracle::Oracle;
use crate::real::power::generation::{Generation, Plan};
use crate::real::power::states::{Fate, Image, Pieces, States};
use crate::real::process::Setting;
use crate::real::{Counts, Stop};
use crate::sim::rng::Rng;

/// Counted: writes that no flush covered, and that are not on the disk.
pub const LOST: &str = "of them lost";
/// Counted: the same, on the disk in part.
pub const TORN: &str = "of them torn";
/// Counted: states from before anybody was told that there is a store.
pub const IN_CREATION: &str = "cut in a creation";
/// Counted: states from within a recovery.
pub const IN_RECOVERY: &str = "cut in a recovery";
/// mkfs.xfs makes nothing below 300 MB. Nearly all of it is never written, and costs nothing.
const DISK_BYTES: u64 = 320 << 20;
/// States of one generation.
const STATES: u64 = 32;
/// Generations of one disk.
const GENERATIONS: u64 = 2;
/// The chains, in turn.
const CHAINS: &[(FileSystem, &str)] = &[
    (FileSystem::Ext4, "auto"),
    (FileSystem::Xfs, "auto"),
    (FileSystem::Ext4, "posix"),
    (FileSystem::Xfs, "auto"),
    (FileSystem::Ext4, "buffered"),
    (FileSystem::Xfs, "posix"),
    (FileSystem::Ext4, "auto"),
    (FileSystem::Xfs, "buffered"),
];

/// The mistakes, in turn along the chains: each of them meets both file systems and every backend.
const MISTAKES: [Mistake; 4] = [Mistake::Early, Mistake::Early, Mistake::Unsynced, Mistake::Unsynced];

/// The row.
///
/// # Errors
/// Why it stopped.
pub fn run(seed: u64, count: u64, scratch: &Path, progress: &mut dyn FnMut(&Counts)) -> Result<Counts, Stop> {
    check_machine()?;
    let mut rng = Rng::new(seed);
    let mut counts = Counts::default();
    for (system, io) in CHAINS.iter().cycle() {
        if counts.runs >= count {
            break;
        }
        // Images and logs lie in memory: they are what a disk is made of here, and no one's stable storage.
        let memory = leftovers::folder_in_memory("power").map_err(lacking)?;
        let chain = Chain { system: *system, io, mistake: None, seed: rng.draw(), scratch, memory: memory.path() };
        chain.run(count - counts.runs, &mut rng.split(), &mut counts, progress)?;
    }
    Ok(counts)
}

/// The row of victims that make a mistake.
///
/// # Errors
/// Why it stopped: also if the states of a disk show nothing.
pub fn mistakes(seed: u64, count: u64, scratch: &Path, progress: &mut dyn FnMut(&Counts)) -> Result<Counts, Stop> {
    check_machine()?;
    let mut rng = Rng::new(seed);
    let mut counts = Counts::default();
    let cases = CHAINS.iter().zip(MISTAKES.iter().cycle()).cycle();
    for ((system, io), mistake) in cases.take(count as usize) {
        let memory = leftovers::folder_in_memory("power").map_err(lacking)?;
        let (mistake, memory) = (Some(*mistake), memory.path());
        let chain = Chain { system: *system, io, mistake, seed: rng.draw(), scratch, memory };
        let mut states = Counts::default();
        match chain.run(GENERATIONS * STATES, &mut rng.split(), &mut states, &mut |_| progress(&counts)) {
            Err(Stop::Violation(told)) if shows_a_loss(&told) => {}
            Err(stop) => return Err(stop),
            Ok(()) => {
                return Err(Stop::Violation(format!("{chain}: none of {} states showed the mistake", states.runs)));
            }
        }
        counts.runs += 1;
        counts.add("states that showed nothing", states.runs);
        counts.add(system.in_report(), 1);
        progress(&counts);
    }
    Ok(counts)
}

/// Whether a state lacked something acknowledged: the oracle misses it, or the engine says that it is damaged.
fn shows_a_loss(told: &str) -> bool {
    let first = told.lines().next().unwrap_or_default();
    first.ends_with("was acknowledged") || first == "the check ended with exit status: 4"
}

/// What went wrong with the machine and not with the store.
fn lacking(e: impl std::fmt::Display) -> Stop {
    Stop::Lacking(format!("{e}\nSee that there are free loop devices, and some 2 GB of room in /dev/shm."))
}

/// A disk and its generations.
struct Chain<'a> {
    system: FileSystem,
    io: &'static str,
    mistake: Option<Mistake>,
    seed: u64,
    /// On a real disk: what the victims say.
    scratch: &'a Path,
    /// In memory: images and logs.
    memory: &'a Path,
}

impl Chain<'_> {
    fn run(
        &self, states_max: u64, rng: &mut Rng, counts: &mut Counts, progress: &mut dyn FnMut(&Counts),
    ) -> Result<(), Stop> {
        let disk = self.memory.join("disk");
        File::create(&disk).and_then(|file| file.set_len(DISK_BYTES)).map_err(lacking)?;
        self.system.make(&disk).map_err(lacking)?;
        let bench = Bench::new(self).map_err(lacking)?;
        let mut before = Before::default();
        let states_end = counts.runs + states_max;
        for number in 0..GENERATIONS {
            let states = STATES.min(states_end - counts.runs);
            if states == 0 {
                break;
            }
            let first = Image::load(&disk).map_err(lacking)?;
            let lived = self.live(number, &disk, &bench, rng)?;
            let backend = backend(&lived.ready_said);
            let judge = Judge { chain: self, bench: &bench, number, lived: &lived, before: &before };
            let (mut made, mut next) = (States::new(first, &lived.log, Pieces::of(self.system)), None);
            for cut in cuts(&lived, states, rng) {
                let state_seed = rng.draw();
                let found = judge.state(cut, state_seed, &mut made, counts)?;
                counts.runs += 1;
                counts.add(self.system.in_report(), 1);
                counts.add(backend, 1);
                progress(counts);
                // The last state in which the store is there goes on, or one before it.
                if cut >= lived.ready && (next.is_none() || rng.chance(50)) {
                    let again = File::create(&disk).map_err(lacking)?;
                    made.make(cut, &mut Rng::new(state_seed), &again).map_err(lacking)?;
                    next = Some(found);
                }
            }
            let Some(next) = next else { break };
            before = next;
        }
        Ok(())
    }

    fn live(&self, number: u64, disk: &Path, bench: &Bench, rng: &mut Rng) -> Result<Generation, Stop> {
        let scratch = self.memory.join(format!("generation{number}"));
        fs::create_dir(&scratch).map_err(lacking)?;
        let (log_bytes, close) = (rng.between(1 << 20, 12 << 20), rng.chance(10));
        let plan = Plan { system: self.system, log_bytes, close, mistake: self.mistake };
        Generation::live(&plan, disk, &bench.mount_at, &scratch, &self.setting(bench))
            // Nothing is wrong with the disk while it is logged.
            .map_err(|e| Stop::Violation(format!("{self}, generation {number}, before any power was lost: {e}")))
    }

    fn setting(&self, bench: &Bench) -> Setting {
        Setting::new(&bench.mount_at.join("store"), self.io, self.seed, self.scratch)
    }
}

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, backend {}, victim's seed {}", self.system.name(), self.io, self.seed)?;
        self.mistake.map_or(Ok(()), |mistake| write!(f, ", mistake {}", mistake.name()))
    }
}

/// What must hold of the disk that a generation begins with.
#[derive(Default)]
struct Before {
    /// Until its recovery is done.
    recovering: Oracle,
    /// Once it is done: what was found in the same state before has been seen, and recovery finds the same again.
    ready: Oracle,
}

/// In ascending order, the places at which power fails.
fn cuts(lived: &Generation, count: u64, rng: &mut Rng) -> Vec<usize> {
    let below = |n: usize, rng: &mut Rng| rng.below(n as u64 + 1) as usize;
    let cut = |_| match rng.below(10) {
        // While the file system and the store recover or are created.
        0 | 1 => below(lived.ready, rng),
        // Anywhere at all.
        2..5 => below(lived.end, rng),
        // With the last acknowledgement just given.
        _ => lived.after_an_acknowledgement(|n| rng.below(n)).unwrap_or_else(|| below(lived.end, rng)),
    };
    let mut cuts: Vec<usize> = (0..count).map(cut).collect();
    cuts.sort_unstable();
    cuts
}

/// Where states are mounted.
struct Bench {
    // Dropped first: the file is the device's.
    device: Loop,
    state: File,
    mount_at: PathBuf,
}

impl Bench {
    fn new(chain: &Chain<'_>) -> io::Result<Self> {
        let (path, mount_at) = (chain.memory.join("state"), chain.memory.join("mounted"));
        let state = File::options().read(true).write(true).create_new(true).open(&path)?;
        state.set_len(DISK_BYTES)?;
        fs::create_dir(&mount_at)?;
        Ok(Self { device: Loop::attach(&path).map_err(io::Error::other)?, state, mount_at })
    }
}

/// What a generation's states are held against.
struct Judge<'a> {
    chain: &'a Chain<'a>,
    bench: &'a Bench,
    number: u64,
    lived: &'a Generation,
    before: &'a Before,
}

impl Judge<'_> {
    /// Makes a state, mounts and recovers it, and asks the oracle. Gives what must hold if the disk goes on from there.
    fn state(&self, cut: usize, seed: u64, made: &mut States<'_>, counts: &mut Counts) -> Result<Before, Stop> {
        let fate = made.make(cut, &mut Rng::new(seed), &self.bench.state).map_err(lacking)?;
        self.bench.device.forget().map_err(lacking)?;
        let recovering = cut < self.lived.ready;
        let before = if recovering { &self.before.recovering } else { &self.before.ready };
        let told = self.lived.told_by(cut, before);
        let mut seen = told.clone();
        match self.ask(recovering, seed, &mut seen) {
            Ok(checked) => counts.acknowledgements_checked += checked,
            Err(what) => return Err(self.violated(&what, cut, seed, made, fate)),
        }
        counts.add("writes that no flush covered", fate.open as u64);
        counts.add(LOST, fate.lost as u64);
        counts.add(TORN, fate.torn as u64);
        if recovering {
            counts.add(if self.number == 0 { IN_CREATION } else { IN_RECOVERY }, 1);
        }
        Ok(Before { recovering: told, ready: seen })
    }

    fn ask(&self, recovering: bool, seed: u64, oracle: &mut Oracle) -> Result<u64, String> {
        let system = self.chain.system;
        let mounted = Mount::new(system, &self.bench.device.device, &self.bench.mount_at)
            .map_err(|e| format!("the file system does not mount, whatever the store does: {e}"))?;
        let setting = self.chain.setting(self.bench);
        if recovering && self.number == 0 {
            // Nobody was told that there is a store; that it can be created now is all that must hold.
            let mut command = setting.write();
            command.args(["--create", "--appends", "0"]);
            let mut victim = setting.start(command)?;
            let status = victim.rest(|_| {})?;
            if !status.success() {
                return Err(victim.ended(&format!("the store cannot be created: {status}")));
            }
        }
        let found = setting.look(seed.is_multiple_of(2))?;
        mounted.end()?;
        oracle.check(&found)
    }

    /// Keeps the state, so that it can be looked into.
    fn violated(&self, what: &str, cut: usize, seed: u64, made: &mut States<'_>, fate: Fate) -> Stop {
        let Judge { chain, number, lived, .. } = self;
        if chain.mistake.is_some() {
            // This is what it is for.
            return Stop::Violation(format!("{what}\n{chain}"));
        }
        let kept = target_dir().join(format!("power-{}-{number}-{cut}.img", chain.seed));
        let mut keep = || made.make(cut, &mut Rng::new(seed), &File::create(&kept)?);
        let kept = match keep() {
            Ok(_) => format!("the disk is kept in {}", kept.display()),
            Err(e) => format!("the disk could not be kept in {}: {e}", kept.display()),
        };
        Stop::Violation(format!(
            "{what}
{chain}, generation {number}, power lost after {cut} of {} requests (the store was open after {}):              of {} writes that no flush covered {} were lost and {} torn
{kept}",
            lived.end, lived.ready, fate.open, fate.lost, fate.torn
        ))
    }
}

/// The backend that a victim said it uses, as it is counted.
fn backend(ready: &str) -> &'static str {
    if ready.contains("io_uring") {
        "on io_uring"
    } else if ready.contains("buffered") {
        "on posix, buffered"
    } else {
        "on posix"
    }
}
