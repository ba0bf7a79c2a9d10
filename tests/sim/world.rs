//! A world of one store, its clients and its misfortunes, driven by a seed on one thread.
//!
//! A world lives for some generations. In each the store is opened (the machine may crash in the middle of that, more
//! than once), everything it holds is read and put before the oracle, clients that were left without an answer repeat
//! what they sent, a workload runs, and the generation ends: by a crash of the process or of the power at some
//! operation of the disk, or by a clean close. The steps of the engine's background work are the world's to take.
//!
//! It decides nothing about right and wrong but that an honest disk never gives damage, that a store never stops
//! making progress, and that a clean close is found clean. Invariant: the seed alone decides what happens.

use super::traffic::Traffic;
use super::{Crash, Rng, SimClock, SimDisk};
use crate::oracle::{Answer, Creation, Fates, Oracle, Page, Part, Phase, Read, Shown, Then, Ticket, Violation};
use everlog::{Ack, Batch, Config, ErrorKind, LogBatch, ReadLimit, Receipt, Steps, Store, WhenFull};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// Passes after which a store that still owes an answer is stuck.
const PATIENCE: usize = 400;

/// What a world has seen, to show that it was worth something.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Batches that were acknowledged.
    pub acknowledged: u64,
    /// Batches that were refused or repeated.
    pub refused: u64,
    /// Batches turned away at once.
    pub turned_away: u64,
    /// Batches whose fate a recovery decided: they are there.
    pub kept: u64,
    /// Batches whose fate a recovery decided: they are gone.
    pub lost: u64,
    /// Crashes of the process.
    pub process_crashes: u64,
    /// Losses of power.
    pub power_losses: u64,
    /// Of these, while the store was being opened.
    pub in_recovery: u64,
    /// Clean closes.
    pub clean_closes: u64,
    /// Flushes that moved something.
    pub flushes: u64,
}

impl Tally {
    /// Adds another world's.
    pub fn add(&mut self, other: &Self) {
        self.acknowledged += other.acknowledged;
        self.refused += other.refused;
        self.turned_away += other.turned_away;
        self.kept += other.kept;
        self.lost += other.lost;
        self.process_crashes += other.process_crashes;
        self.power_losses += other.power_losses;
        self.in_recovery += other.in_recovery;
        self.clean_closes += other.clean_closes;
        self.flushes += other.flushes;
    }
}

struct Running {
    store: Store,
    steps: Steps,
}

struct World {
    rng: Rng,
    disk: SimDisk,
    clock: Arc<SimClock>,
    oracle: Oracle,
    traffic: Traffic,
    dir: PathBuf,
    waiting: Vec<(Ticket, Ack)>,
    /// How the generation before ended: None if cleanly.
    ended_by: Option<Crash>,
    tally: Tally,
}

/// Runs the world of `seed` on `disk`, which was made from the same seed and keeps the trace.
///
/// # Errors
/// The first promise that was not kept.
pub fn run(seed: u64, disk: &SimDisk) -> Result<Tally, Violation> {
    let mut rng = Rng::new(seed);
    let mut world = World {
        traffic: Traffic::new(rng.split()),
        rng,
        disk: disk.clone(),
        clock: Arc::new(SimClock::default()),
        oracle: Oracle::default(),
        dir: PathBuf::from("/store"),
        waiting: Vec::new(),
        ended_by: None,
        tally: Tally::default(),
    };
    world.create()?;
    for _ in 0..world.rng.between(3, 7) {
        world.generation()?;
    }
    let running = world.open(false)?;
    world.check_everything(&running.store)?;
    Ok(world.tally)
}

fn violation<T>(what: impl Into<String>) -> Result<T, Violation> {
    Err(Violation(what.into()))
}

impl World {
    fn config(&mut self) -> Config {
        let flush_bytes = self.rng.between(12, 64) as usize * 1024;
        Config {
            journal_file_bytes: 64 << 10,
            journal_files_max: self.rng.between(3, 6) as usize,
            memory_pool_bytes: 2 * flush_bytes + self.rng.between(32, 128) as usize * 1024,
            flush_bytes,
            in_flight: self.rng.between(1, 5) as usize,
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
            if attempt == 0 && self.rng.chance(20) {
                self.plan_crash(30);
            }
            let made = Store::create_on(self.disk.io(), self.clock.clone(), &self.dir, &config);
            match made {
                Ok(_) => return Ok(()),
                Err(_) if self.disk.crashed().is_some() => self.reboot(),
                Err(e) => return violation(format!("a store cannot be created: {e}")),
            }
        }
        unreachable!("the second attempt is not disturbed")
    }

    fn plan_crash(&mut self, within: u64) {
        let kind = *self.rng.pick(&[Crash::Process, Crash::Power]);
        self.disk.crash_at(self.disk.ops() + 1 + self.rng.below(within), kind);
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
        self.ended_by = kind;
        self.disk.reboot();
    }

    /// Opens the store, if `disturbed` with crashes in the middle of it.
    fn open(&mut self, disturbed: bool) -> Result<Running, Violation> {
        for attempt in 0.. {
            if disturbed && attempt < 4 && self.rng.chance(35) {
                self.plan_crash(20);
            }
            self.disk.note(|| "open".to_owned());
            let config = self.config();
            match Store::open_stepped(self.disk.io(), self.clock.clone(), &self.dir, config) {
                Ok((store, steps)) => {
                    self.disk.no_crash();
                    let clean = store.recovery().clean;
                    if self.ended_by.is_none() && !clean {
                        return violation(format!("closed cleanly, found unclean: {:?}", store.recovery()));
                    }
                    return Ok(Running { store, steps });
                }
                Err(_) if self.disk.crashed().is_some() => {
                    self.tally.in_recovery += 1;
                    self.reboot();
                }
                Err(e) => return violation(format!("an honest disk, and the store does not open: {e}")),
            }
        }
        unreachable!("the last attempt is not disturbed")
    }

    fn generation(&mut self) -> Result<(), Violation> {
        let killed = self.ended_by == Some(Crash::Process);
        let mut running = self.open(true)?;
        let fates = self.check_everything(&running.store)?;
        self.tally.kept += fates.settled.len() as u64;
        self.tally.lost += fates.lost.len() as u64;
        // Clients without an answer repeat what they sent, perhaps the moment before the power goes too.
        let short = killed && self.rng.chance(50);
        if self.rng.chance(70) {
            for part in self.traffic.outbox() {
                if self.traffic.repeatable(self.oracle.expected(), &part) {
                    self.append(&running.store, &[part])?;
                }
            }
        }
        if short {
            self.settle(&mut running)?;
            self.disk.crash(Crash::Power);
        } else {
            let ops = self.rng.between(10, 160);
            if self.rng.chance(70) {
                self.plan_crash(ops);
            }
            self.workload(&mut running, ops)?;
        }
        self.end(running)
    }

    fn end(&mut self, running: Running) -> Result<(), Violation> {
        if self.disk.crashed().is_none() && self.rng.chance(60) {
            let kind = *self.rng.pick(&[Crash::Process, Crash::Power]);
            self.disk.crash(kind);
        }
        let Running { store, steps } = running;
        if self.disk.crashed().is_some() {
            drop((store, steps));
        } else {
            self.disk.note(|| "close".to_owned());
            match steps.close() {
                Ok(()) => {}
                Err(_) if self.disk.crashed().is_some() => {}
                Err(e) => return violation(format!("an honest disk, and the store does not close: {e}")),
            }
            drop(store);
        }
        self.disk.no_crash();
        self.collect()?;
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

    fn workload(&mut self, running: &mut Running, ops: u64) -> Result<(), Violation> {
        for _ in 0..ops {
            if self.disk.crashed().is_some() {
                return Ok(());
            }
            match self.rng.below(100) {
                0..45 => {
                    let parts = self.traffic.batch(self.oracle.expected());
                    self.append(&running.store, &parts)?;
                }
                45..75 => self.commit(running)?,
                75..85 => self.flush(running)?,
                85..94 => self.read_something(&running.store)?,
                94..98 => self.clock.advance(Duration::from_millis(self.rng.below(25))),
                _ => self.settle(running)?,
            }
        }
        Ok(())
    }

    fn append(&mut self, store: &Store, parts: &[Part]) -> Result<(), Violation> {
        let ticket = self.oracle.submit(parts);
        let mut batch = Batch::new();
        parts.iter().for_each(|part| ask(batch.log(&part.log), part));
        match store.append(batch) {
            Ok(ack) => {
                self.disk.note(|| format!("append {ticket:?} {:?}", sketch(parts)));
                self.waiting.push((ticket, ack));
                self.collect()
            }
            Err(e) if e.kind() == ErrorKind::Overloaded || self.disk.crashed().is_some() => {
                self.tally.turned_away += 1;
                self.oracle.turned_away(ticket);
                Ok(())
            }
            Err(e) => violation(format!("{ticket:?} {:?} was not taken: {e}", sketch(parts))),
        }
    }

    /// Hears the answers that are there.
    fn collect(&mut self) -> Result<(), Violation> {
        let mut i = 0;
        while i < self.waiting.len() {
            let (ticket, ack) = &self.waiting[i];
            let Some(answer) = ack.try_get() else {
                i += 1;
                continue;
            };
            let ticket = *ticket;
            drop(self.waiting.remove(i));
            let answer = match answer {
                Ok(receipt) => Ok(answers(&receipt)),
                Err(e) if unknown(e.kind()) && self.disk.crashed().is_some() => continue,
                Err(e) => Err(e.kind()),
            };
            self.disk.note(|| format!("answer {ticket:?} {answer:?}"));
            match &answer {
                Ok(logs) if logs.iter().all(|log| !log.duplicate) => self.tally.acknowledged += 1,
                _ => self.tally.refused += 1,
            }
            self.oracle.answered(ticket, &answer)?;
        }
        Ok(())
    }

    fn commit(&mut self, running: &mut Running) -> Result<(), Violation> {
        let result = running.steps.commit();
        self.collect()?;
        self.sound(result, "a pass of the committer").map(drop)
    }

    fn flush(&mut self, running: &mut Running) -> Result<(), Violation> {
        if self.rng.chance(10) {
            // In a stepped store this only asks; a poisoned one refuses, which the next line tells too.
            let _asked = running.store.flush();
        }
        let result = running.steps.flush();
        self.collect()?;
        let moved = self.sound(result, "a pass of the flusher")?;
        self.tally.flushes += u64::from(moved);
        Ok(())
    }

    fn sound(&self, result: everlog::Result<bool>, what: &str) -> Result<bool, Violation> {
        match result {
            Ok(moved) => Ok(moved),
            Err(_) if self.disk.crashed().is_some() => Ok(false),
            Err(e) => violation(format!("an honest disk, and {what} failed: {e}")),
        }
    }

    /// Takes steps until every batch has its answer.
    fn settle(&mut self, running: &mut Running) -> Result<(), Violation> {
        for _ in 0..PATIENCE {
            if self.waiting.is_empty() || self.disk.crashed().is_some() {
                return Ok(());
            }
            self.commit(running)?;
            if self.rng.chance(30) {
                self.flush(running)?;
            }
        }
        violation(format!("{} batches have no answer after {PATIENCE} passes", self.waiting.len()))
    }

    fn read_something(&mut self, store: &Store) -> Result<(), Violation> {
        let name = self.traffic.any_log();
        let head = self.oracle.expected().get(&name).map_or(0, |log| log.next);
        let from = self.rng.below(head + 2);
        let limit =
            ReadLimit { records: self.rng.between(1, 40) as usize, bytes: self.rng.between(1, 20_000) as usize };
        let page = match store.read(&name, from, limit) {
            Ok(page) => Ok(as_seen(page)),
            Err(e) if e.kind() == ErrorKind::Damaged => return violation(format!("an honest disk, and {e}")),
            Err(e) => Err(e.kind()),
        };
        if page == Err(ErrorKind::Io) && self.disk.crashed().is_some() {
            return Ok(());
        }
        self.oracle.read(&name, from, &page)
    }

    /// Reads all that the store holds and puts it before the oracle.
    fn check_everything(&mut self, store: &Store) -> Result<Fates, Violation> {
        let mut shown = BTreeMap::new();
        for name in self.traffic.logs().to_vec() {
            if let Some(log) = show(store, &name)? {
                shown.insert(name, log);
            }
        }
        let fates = self.oracle.recovered(&shown)?;
        self.check_list(store)?;
        Ok(fates)
    }

    /// Every live log is listed, and nothing that was never there.
    fn check_list(&self, store: &Store) -> Result<(), Violation> {
        let listed = match store.list("", None, 1000) {
            Ok(logs) => logs.into_iter().filter(|log| !log.deleted).map(|log| log.name).collect::<Vec<_>>(),
            Err(e) => return violation(format!("an honest disk, and no list: {e}")),
        };
        let live = self.oracle.expected().iter().filter(|(_, log)| log.phase == Phase::Live);
        let expected: Vec<String> = live.map(|(name, _)| name.clone()).collect();
        if listed == expected { Ok(()) } else { violation(format!("listed {listed:?}, live are {expected:?}")) }
    }
}

/// All that can be seen of a log; None if there is none.
fn show(store: &Store, name: &str) -> Result<Option<Shown>, Violation> {
    let info = match store.info(name) {
        Ok(info) => info,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return violation(format!("an honest disk, and no word of log {name}: {e}")),
    };
    if !info.timelines.is_sorted_by(|a, b| a.0.counter < b.0.counter && a.1 <= b.1) {
        return violation(format!("log {name}: timelines out of order: {:?}", info.timelines));
    }
    let phase = if info.deleted { Phase::Deleted } else { Phase::Live };
    let mut records = Vec::new();
    let mut at = info.first_seq;
    while phase == Phase::Live && at < info.next_seq {
        let page = store.read(name, at, ReadLimit::default());
        let page = page.or_else(|e| violation(format!("an honest disk, and log {name} is not read from {at}: {e}")))?;
        if page.next_seq <= at || page.records.is_empty() {
            return violation(format!("log {name}: reading from {at} does not get on"));
        }
        at = page.next_seq;
        records.extend(as_seen(page).records);
    }
    Ok(Some(Shown {
        phase,
        first: info.first_seq,
        next: info.next_seq,
        closed: info.closed,
        metadata: info.metadata,
        records: (phase == Phase::Live).then_some(records),
    }))
}

/// Kinds that leave it open whether the batch is durable.
fn unknown(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Unknown | ErrorKind::Poisoned | ErrorKind::Io | ErrorKind::ShutDown)
}

fn as_seen(page: everlog::Page) -> Page {
    let read = |r: everlog::Record| Read { seq: r.seq, lsn: r.lsn.0, time: r.time.0, payload: r.payload.to_vec() };
    Page { records: page.records.into_iter().map(read).collect(), head: page.head, closed: page.closed }
}

fn answers(receipt: &Receipt) -> Vec<Answer> {
    let answer = |log: &everlog::LogReceipt| Answer {
        first: log.first_seq,
        next: log.next_seq,
        lsn: Rc::new(Cell::new(log.lsn.0)),
        duplicate: log.duplicate,
        first_ticket: None,
        last_record: None,
    };
    receipt.logs.iter().map(answer).collect()
}

/// Puts a part into the engine's words.
fn ask<'a>(log: &mut LogBatch<'a>, part: &'a Part) {
    if let Some(seq) = part.expect_next {
        log.expect_next(seq);
    }
    if let Some((id, epoch, number)) = &part.producer {
        log.producer(id, *epoch, *number);
    }
    if let Some(tag) = &part.tag {
        log.tag(tag);
    }
    match &part.create {
        Some(Creation::New(metadata)) => log.create_with(metadata),
        Some(Creation::IfMissing) => log.create_if_missing(),
        None => log,
    };
    for record in &part.records {
        log.record(record);
    }
    match &part.then {
        None => log,
        Some(Then::Close) => log.close(),
        Some(Then::Trim(seq)) => log.trim(*seq),
        Some(Then::Delete) => log.delete(),
        Some(Then::Undelete) => log.undelete(),
        Some(Then::Metadata(metadata)) => log.metadata(metadata),
    };
}

/// Parts in short, for the trace.
fn sketch(parts: &[Part]) -> Vec<String> {
    let one = |part: &Part| {
        let bytes: usize = part.records.iter().map(|r| r.len()).sum();
        let producer = part.producer.as_ref().map(|(id, epoch, number)| (String::from_utf8_lossy(id), epoch, number));
        let (log, n, create, then) = (&part.log, part.records.len(), &part.create, &part.then);
        format!("{log}: {n} records of {bytes} bytes, {create:?} {then:?} {producer:?} expect {:?}", part.expect_next)
    };
    parts.iter().map(one).collect()
}
