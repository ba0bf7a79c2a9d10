//! A world of one store, its clients and its misfortunes, driven by a plan on one thread.
//!
//! A world lives for some generations. In each the store is opened (the machine may crash in the middle of that, more
//! than once), everything it holds is read and put before the oracle, clients that were left without an answer repeat
//! what they sent, a workload runs, and the generation ends: by a crash of the process or of the power at some
//! operation of the disk, or by a clean close. The steps of the engine's background work are the world's to take. What
//! else goes wrong is the scenario's business ([`Scenario`]).
//!
//! About right and wrong it knows little beside the oracle: that an honest disk never gives damage, that a store never
//! stops making progress while nothing is wrong, that nothing is acknowledged once the latch is closed and nothing left
//! open before, that a clean close is found clean, and what "possibly acknowledged" has to say. Invariant: the plan alone
//! decides what happens.

mod checks;
mod plan;
mod tally;
mod trouble;
mod words;
mod workload;

pub use plan::{Event, Plan, Scenario, Stage, Step};
pub use tally::Tally;

use super::traffic::Traffic;
use super::{Crash, Rng, SimClock, SimDisk};
use crate::oracle::{Oracle, Ticket, Violation};
use everlog::io::Io;
use everlog::types::{Cursor, Timeline};
use everlog::{Ack, Config, ErrorKind, Steps, Store, WhenFull};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Passes after which a store that still owes an answer is stuck.
const PATIENCE: usize = 400;
/// For how long deletions can be taken back: longer than a world lasts, unless it waits for it.
const GRACE: Duration = Duration::from_secs(4800);
/// Attempts after which a store that does not open will not.
const OPENINGS: usize = 10;

struct Running {
    store: Store,
    steps: Steps,
}

/// What an acknowledged batch left with its client.
struct Told {
    /// Operations of the disk when it was told.
    at: u64,
    /// Whether the batch was stored then; the answer to a repetition rests on an older one.
    fresh: bool,
    /// The position behind the batch, for each of its logs.
    cursors: Vec<(String, Cursor)>,
}

struct World {
    plan: Plan,
    /// The step that is being taken.
    at: Step,
    /// Its chances.
    rng: Rng,
    disk: SimDisk,
    clock: Arc<SimClock>,
    oracle: Oracle,
    traffic: Traffic,
    dir: PathBuf,
    waiting: Vec<(Ticket, Ack, Vec<String>)>,
    told: BTreeMap<Ticket, Told>,
    /// Operations of the disk when the generation before ended. What a recovery writes after that proves nothing of what
    /// clients were told before.
    ended_at: u64,
    /// How the generation before ended: None if cleanly.
    ended_by: Option<Crash>,
    /// Whether the latch was seen closed in this boot.
    poisoned: bool,
    lie_planned: bool,
    /// Whether it was an open that named the damage, and had written something before.
    named_in_writing: bool,
    /// Whether the generation before ended in a close, or was about to.
    closing: bool,
    /// The timelines of the opens so far.
    timelines: BTreeSet<Timeline>,
    /// Positions behind what a lie took: no history leads through them any more.
    gone: Vec<(String, Cursor)>,
    /// Steps for which the device still stands still.
    stalled_for: u64,
    /// The steps that were taken.
    taken: Vec<Step>,
    tally: Tally,
}

/// What came of a world.
#[derive(Debug)]
pub struct Outcome {
    /// What it saw, or the first promise that was not kept.
    pub result: Result<Tally, Violation>,
    /// The steps of its workloads that were taken.
    pub taken: Vec<Step>,
    /// The disk's operations in the creation and the first two generations, their openings included.
    pub operations: [u64; 3],
}

/// Runs the world of `plan` on `disk`, which was made from the same seed and keeps the trace.
#[must_use]
pub fn run(plan: &Plan, disk: &SimDisk) -> Outcome {
    let at = Step { generation: 0, number: Step::OPEN };
    let mut rng = Rng::new(plan.seed);
    let mut world = World {
        traffic: Traffic::new(rng.split()),
        plan: plan.clone(),
        at,
        rng,
        disk: disk.clone(),
        clock: Arc::new(SimClock::default()),
        oracle: Oracle::default(),
        dir: PathBuf::from("/store"),
        waiting: Vec::new(),
        told: BTreeMap::new(),
        ended_at: 0,
        ended_by: None,
        poisoned: false,
        lie_planned: false,
        named_in_writing: false,
        closing: false,
        timelines: BTreeSet::new(),
        gone: Vec::new(),
        stalled_for: 0,
        taken: Vec::new(),
        tally: Tally::default(),
    };
    let mut operations = [0; 3];
    let result = world.live(&mut operations).map(|()| world.tally);
    Outcome { result, taken: world.taken, operations }
}

fn violation<T>(what: impl Into<String>) -> Result<T, Violation> {
    Err(Violation(what.into()))
}

impl World {
    fn live(&mut self, operations: &mut [u64; 3]) -> Result<(), Violation> {
        self.arm_event(Stage::Creation);
        self.create()?;
        operations[0] = self.disk.ops();
        let generations = self.rng.between(self.plan.generations.start, self.plan.generations.end);
        for generation in 0..generations {
            let from = self.disk.ops();
            if let Some(stage) = Stage::ALL.get(generation as usize + 1) {
                self.arm_event(*stage);
            }
            let goes_on = self.generation(generation as u32)?;
            if let Some(count) = operations.get_mut(generation as usize + 1) {
                *count = self.disk.ops() - from;
            }
            if !goes_on {
                return self.look_again();
            }
        }
        self.enter(generations as u32, Step::OPEN);
        self.relieve();
        self.tally.short = self.disk.refused().1;
        self.tally.forks = self.traffic.forks;
        let Some(running) = self.open(false)? else { return self.found_damage() };
        let whole = self.check_everything(&running.store)?;
        drop(running);
        self.tally.lies = u64::from(self.disk.lied());
        if whole { Ok(()) } else { self.found_damage().and_then(|()| self.look_again()) }
    }

    /// What is damaged stays so, whoever opens the store once more: nothing is cut away meanwhile. Only where a lie in the
    /// middle of an open ended it, the next one may tell of what was possibly acknowledged instead. The process is another
    /// one, and the power stays: with it a manifest could go whose name was never synced, and the damaged segment that it
    /// alone names; the one before it is whole then, and so is the journal.
    fn look_again(&mut self) -> Result<(), Violation> {
        if self.disk.crashed().is_none() {
            self.disk.crash(Crash::Process);
        }
        self.waiting.clear();
        self.reboot();
        let Some(running) = self.open(false)? else { return Ok(()) };
        let told = self.named_in_writing && running.store.recovery().possibly_acknowledged.is_some();
        let whole = self.check_everything(&running.store)?;
        match whole && !told {
            false => Ok(()),
            true => violation("what was damaged is whole, as if nothing had been there"),
        }
    }

    /// Damage was named, as a lying disk may bring about: nothing is asked of such a store any more.
    fn found_damage(&mut self) -> Result<(), Violation> {
        self.tally.lies = 1;
        self.tally.named = 1;
        match self.disk.lied() {
            true if self.disk.lost_of_segment() => violation("a segment that was lost was not noticed in time"),
            true => Ok(()),
            false => violation("an honest disk, and damage"),
        }
    }

    fn enter(&mut self, generation: u32, number: u32) {
        self.at = Step { generation, number };
        self.rng = self.plan.chances(self.at);
        self.traffic.draw_from(self.rng.split());
    }

    fn io(&self) -> Arc<dyn Io> {
        if self.plan.scenario.is_buffered() { self.disk.io_buffered() } else { self.disk.io() }
    }

    fn config(&mut self) -> Config {
        let flush_bytes = self.rng.between(12, 64) as usize * 1024;
        let in_flight = if self.plan.scenario == Scenario::InFlight { 2..6 } else { 1..5 };
        Config {
            journal_file_bytes: 64 << 10,
            journal_files_max: self.rng.between(3, 6) as usize,
            memory_pool_bytes: 2 * flush_bytes + self.rng.between(32, 128) as usize * 1024,
            flush_bytes,
            merge_width: self.rng.between(2, 5) as usize,
            merge_reserve_bytes: self.rng.between(1, 3) * 4096,
            grace: GRACE,
            scrub_bytes_per_second: u64::MAX,
            scrub_interval: Duration::ZERO,
            in_flight: self.rng.between(in_flight.start, in_flight.end) as usize,
            heads_max: self.rng.between(1, 9) as usize,
            when_full: WhenFull::Reject,
            idle_frame_after: Duration::from_millis(10),
            ..Config::default()
        }
    }

    /// Makes the store. A crash in the middle leaves a store or none; a second attempt goes to another directory.
    fn create(&mut self) -> Result<(), Violation> {
        for attempt in 0.. {
            self.dir = PathBuf::from(format!("/store{attempt}"));
            let config = self.config();
            if attempt == 0 && self.is_left_to_chance_in(Stage::Creation) && self.rng.chance(20) {
                self.plan_crash(30);
            }
            if attempt == 0 && self.is_left_to_chance_in(Stage::Creation) {
                self.trouble_in_opening();
            }
            let made = Store::create_on(self.io(), self.clock.clone(), &self.dir, &config);
            match made {
                Ok(_) => break,
                Err(_) if self.disk.crashed().is_some() => self.reboot(),
                Err(e) if self.excuses(&e) => {
                    self.relieve();
                    self.disk.crash(Crash::Process);
                    self.reboot();
                }
                Err(e) => return violation(format!("a store cannot be created: {e}")),
            }
        }
        self.relieve();
        self.disk.no_failures();
        self.disk.no_crash();
        self.ended_by = None;
        Ok(())
    }

    fn reboot(&mut self) {
        let kind = self.disk.crashed();
        match kind {
            Some(Crash::Process) => self.tally.process_crashes += 1,
            Some(Crash::Power) => {
                self.tally.power_losses += 1;
                self.clock.reboot();
            }
            None => unreachable!("only a machine that has crashed is booted again"),
        }
        self.tally.failed += self.disk.failed();
        self.ended_by = kind;
        self.poisoned = false;
        self.stalled_for = 0;
        self.disk.reboot();
    }

    /// Opens the store, if `disturbed` with crashes in the middle of it. None if it is damaged and says so, as it may
    /// after a lie.
    fn open(&mut self, disturbed: bool) -> Result<Option<Running>, Violation> {
        self.ended_at = self.disk.ops();
        // The steady clock goes on from the last stamp on disk, so that the grace may not be over yet.
        self.traffic.outwaited = false;
        for attempt in 0.. {
            if disturbed && self.is_left_to_chance() && attempt < 4 {
                if self.rng.chance(35) {
                    self.plan_crash(20);
                }
                self.trouble_in_opening();
            }
            if attempt > OPENINGS {
                return violation(format!("the store does not open in {OPENINGS} attempts, though nothing is wrong"));
            }
            self.disk.note(|| "open".to_owned());
            let config = self.config();
            let (frames, before) = (self.disk.frames(), self.disk.ops());
            match Store::open_stepped(self.io(), self.clock.clone(), &self.dir, config) {
                Ok((store, steps)) => {
                    if self.is_left_to_chance() {
                        self.disk.no_crash();
                    }
                    let report = store.recovery();
                    self.disk.note(|| {
                        let (clean, end, possibly) = (report.clean, report.end, &report.possibly_acknowledged);
                        format!(
                            "opened: clean {clean}, {} frames, ends at LSN {end}, possibly {possibly:?}",
                            report.frames
                        )
                    });
                    let direct = attempt == 0;
                    self.check_report(&store, &frames, direct)?;
                    return Ok(Some(Running { store, steps }));
                }
                Err(_) if self.disk.crashed().is_some() => {
                    self.tally.in_recovery += 1;
                    self.reboot();
                }
                Err(e) if matches!(e.kind(), ErrorKind::Damaged | ErrorKind::Refused) && self.disk.lied() => {
                    self.named_in_writing = self.disk.ops() > before;
                    return self.check_named(&e).map(|()| None);
                }
                Err(e) if self.excuses(&e) => {
                    // What failed stays so until the process is another one.
                    self.relieve();
                    self.disk.crash(Crash::Process);
                    self.reboot();
                }
                Err(e) => return violation(format!("an honest disk, and the store does not open: {e}")),
            }
        }
        unreachable!("the last attempt is not disturbed")
    }

    /// One generation. False if the world ends with it.
    fn generation(&mut self, generation: u32) -> Result<bool, Violation> {
        self.enter(generation, Step::OPEN);
        self.trouble_at_rest();
        let killed = self.ended_by == Some(Crash::Process);
        let Some(mut running) = self.open(true)? else { return self.found_damage().map(|()| false) };
        if !self.check_everything(&running.store)? {
            return self.found_damage().map(|()| false);
        }
        // Clients without an answer repeat what they sent, perhaps the moment before the power goes too.
        let twice = self.plan.scenario == Scenario::KillThenPower;
        let short = killed && (twice || self.rng.chance(50));
        let before = self.tally.refused;
        if twice || self.rng.chance(70) {
            for part in self.traffic.outbox() {
                if self.traffic.repeatable(self.oracle.expected(), &part) {
                    self.append(&running.store, &[part])?;
                }
            }
        }
        if short {
            self.settle(&mut running)?;
            self.tally.repeated += self.tally.refused - before;
            self.disk.crash(Crash::Power);
        } else {
            self.workload(&mut running)?;
        }
        self.enter(generation, Step::END);
        self.end(running)?;
        Ok(true)
    }

    fn end(&mut self, mut running: Running) -> Result<(), Violation> {
        self.relieve();
        self.probe(&mut running)?;
        self.scrub_finds(&mut running)?;
        self.closing = false;
        if self.disk.crashed().is_none() && self.is_left_to_chance() && self.rng.chance(60) {
            let kind = match self.plan.scenario {
                Scenario::KillThenPower => Crash::Process,
                _ => *self.rng.pick(&[Crash::Process, Crash::Power]),
            };
            self.disk.crash(kind);
        }
        let Running { store, steps } = running;
        if self.disk.crashed().is_some() {
            drop(steps);
        } else {
            self.disk.note(|| "close".to_owned());
            self.closing = true;
            match steps.close() {
                Ok(()) if self.poisoned => return violation("poisoned, and closed cleanly"),
                Ok(()) => {}
                Err(e) if self.excuses(&e) => self.disk.crash(Crash::Process),
                Err(e) => return violation(format!("an honest disk, and the store does not close: {e}")),
            }
        }
        self.disk.no_crash();
        self.disk.no_failures();
        self.collect(&store)?;
        drop(store);
        let open = std::mem::take(&mut self.waiting).len();
        if self.disk.crashed().is_some() {
            self.reboot();
            return Ok(());
        }
        if open > 0 {
            return violation(format!("closed cleanly, and {open} batches have no answer"));
        }
        self.tally.clean_closes += 1;
        self.ended_by = None;
        if self.rng.chance(50) {
            self.disk.crash(Crash::Power);
            self.reboot();
            self.ended_by = None;
        }
        Ok(())
    }

    /// Nothing is wrong any more: the store takes an append and acknowledges it, or its latch is closed.
    fn probe(&mut self, running: &mut Running) -> Result<(), Violation> {
        let passing = self.plan.scenario.fails()
            || matches!(self.plan.scenario, Scenario::Full | Scenario::Stall | Scenario::Clock);
        if !passing || self.disk.crashed().is_some() {
            return Ok(());
        }
        self.disk.no_failures();
        self.settle(running)?;
        for _ in 0..PATIENCE {
            self.look_at_latch(&running.store)?;
            if self.poisoned || self.disk.crashed().is_some() {
                return Ok(());
            }
            let part = self.traffic.probe(self.oracle.expected());
            let Tally { turned_away, acknowledged, .. } = self.tally;
            self.append(&running.store, &[part])?;
            if self.tally.turned_away == turned_away {
                self.settle(running)?;
                self.look_at_latch(&running.store)?;
                let told = self.tally.acknowledged > acknowledged;
                return match told || self.poisoned || self.disk.crashed().is_some() {
                    true => Ok(()),
                    false => violation("nothing is wrong any more, and an append is not acknowledged"),
                };
            }
            self.commit(running)?;
            self.flush(running)?;
        }
        violation(format!("nothing is wrong any more, and an append is turned away {PATIENCE} times"))
    }
}
