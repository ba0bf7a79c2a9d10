//! What a world does while nothing ends it: clients append and read, and the engine's background work takes its steps.
//!
//! Invariant: every answer goes before the oracle, and none is expected that an excuse covers.

use super::{GRACE, PATIENCE, Running, Scenario, Told, World, violation, words};
use crate::oracle::{Part, Violation};
use crate::sim::disk::Crash;
use everlog::{Batch, Error, ErrorKind, Finding, ReadLimit, Store};
use std::path::Path;
use std::time::Duration;

impl World {
    pub(super) fn workload(&mut self, running: &mut Running) -> Result<(), Violation> {
        let steps = self.rng.between(self.plan.steps.start, self.plan.steps.end);
        if self.is_left_to_chance() {
            self.trouble_ahead(steps);
        }
        for number in 1..=steps as u32 {
            if self.disk.crashed().is_some() {
                return Ok(());
            }
            self.enter(self.at.generation, number);
            if self.plan.skipped.contains(&self.at) {
                continue;
            }
            self.taken.push(self.at);
            if self.is_left_to_chance() {
                self.trouble();
            }
            self.step(running)?;
            self.look_at_latch(&running.store)?;
        }
        Ok(())
    }

    fn step(&mut self, running: &mut Running) -> Result<(), Violation> {
        match self.rng.below(100) {
            0..45 => {
                let parts = self.traffic.batch(self.oracle.expected());
                self.append(&running.store, &parts)
            }
            45..72 => self.commit(running),
            72..80 => self.flush(running),
            80..85 => self.merge(running),
            85..92 => self.read_something(&running.store),
            92..94 => self.scrub(running),
            94..97 => {
                self.clock.advance(Duration::from_millis(self.rng.below(25)));
                Ok(())
            }
            99 if self.rng.chance(30) => {
                // What expired in the first goes with the second.
                (0..self.rng.between(1, 4)).try_for_each(|_| self.outwait(running))
            }
            _ => self.settle(running),
        }
    }

    /// Lets the grace pass of all that was deleted or trimmed, and merges. Whether it is over is certain only if all of
    /// that had been flushed; and not tried where a disk that lies may bring it back, or where all is about frames in flight.
    fn outwait(&mut self, running: &mut Running) -> Result<(), Violation> {
        self.settle(running)?;
        use Scenario::{InFlight, Lost, Misdirected, Stale};
        if matches!(self.plan.scenario, Lost | Misdirected | Stale | InFlight)
            || self.disk.crashed().is_some()
            || self.poisoned
            || !self.waiting.is_empty()
        {
            return Ok(());
        }
        let asked = running.store.flush().is_ok();
        self.flush_step(running)?;
        self.look_at_latch(&running.store)?;
        if self.oracle.open() > 0 || self.disk.crashed().is_some() {
            return Ok(());
        }
        let all_flushed = asked && running.store.stats().memtable_bytes == 0;
        self.clock.advance(GRACE + GRACE / 8);
        self.disk.note(|| "waited for the grace".to_owned());
        self.oracle.age();
        self.oracle.let_lapse();
        if !self.has_time_on_disk(running)? {
            return Ok(());
        }
        self.traffic.outwaited = all_flushed;
        self.tally.outwaited += u64::from(self.traffic.outwaited);
        self.trouble_in_reclaiming();
        for _ in 0..self.rng.below(30) {
            if self.disk.crashed().is_none() {
                self.merge(running)?;
            }
        }
        Ok(())
    }

    /// Has the time put on disk with a batch: what ended by itself by then has ended for good. If that fails the process
    /// ends, since what ended in its eyes may not have for the next one.
    fn has_time_on_disk(&mut self, running: &mut Running) -> Result<bool, Violation> {
        let stamp = self.traffic.probe(self.oracle.expected());
        self.append(&running.store, &[stamp])?;
        let taken = !self.waiting.is_empty();
        self.settle(running)?;
        let durable = taken && self.waiting.is_empty() && self.oracle.open() == 0 && !self.poisoned;
        if durable && self.disk.crashed().is_none() {
            self.tally.expired += self.oracle.lapse(|_| true);
            return Ok(true);
        }
        if self.disk.crashed().is_none() {
            self.disk.crash(Crash::Process);
        }
        Ok(false)
    }

    pub(super) fn append(&mut self, store: &Store, parts: &[Part]) -> Result<(), Violation> {
        let ticket = self.oracle.submit(parts);
        let mut batch = Batch::new();
        parts.iter().for_each(|part| words::ask(batch.log(&part.log), part));
        match store.append(batch) {
            Ok(ack) => {
                self.disk.note(|| format!("append {ticket:?} {:?}", words::sketch(parts)));
                self.waiting.push((ticket, ack, parts.iter().map(|part| part.log.clone()).collect()));
                self.collect(store)
            }
            Err(e) if e.kind() == ErrorKind::Overloaded || self.excuses_to_client(&e, store) => {
                self.tally.turned_away += 1;
                self.oracle.turned_away(ticket);
                Ok(())
            }
            Err(e) => violation(format!("{ticket:?} {:?} was not taken: {e}", words::sketch(parts))),
        }
    }

    /// Hears the answers that are there.
    pub(super) fn collect(&mut self, store: &Store) -> Result<(), Violation> {
        let mut i = 0;
        while i < self.waiting.len() {
            let (ticket, ack, _) = &self.waiting[i];
            let Some(answer) = ack.try_get() else {
                i += 1;
                continue;
            };
            let ticket = *ticket;
            let (_, _, logs) = self.waiting.remove(i);
            let answer = match answer {
                Ok(_) if self.poisoned => {
                    return violation(format!("{ticket:?} acknowledged once the latch was closed"));
                }
                Ok(receipt) => {
                    let cursors = logs.into_iter().zip(&receipt.logs).map(|(log, told)| (log, told.next())).collect();
                    let fresh = receipt.logs.iter().all(|log| !log.duplicate);
                    self.told.insert(ticket, Told { at: self.disk.ops(), fresh, cursors });
                    Ok(words::answers(&receipt))
                }
                Err(e) if self.leaves_open(&e, store) => continue,
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

    /// Whether this answer says that nobody knows what became of the batch, and with reason.
    fn leaves_open(&self, error: &Error, store: &Store) -> bool {
        let kind = error.kind();
        let unknown = matches!(kind, ErrorKind::Unknown | ErrorKind::Poisoned | ErrorKind::Io | ErrorKind::ShutDown);
        (unknown || kind == ErrorKind::Damaged) && self.excuses_to_client(error, store)
    }

    pub(super) fn commit(&mut self, running: &mut Running) -> Result<(), Violation> {
        if self.rng.chance(4) {
            // As a caller who waits does, who may find a frame in flight; the next pass tells of a failure.
            running.steps.lead();
            self.collect(&running.store)?;
        }
        let result = running.steps.commit();
        self.collect(&running.store)?;
        self.sound(result, "a pass of the committer").map(drop)
    }

    pub(super) fn flush(&mut self, running: &mut Running) -> Result<(), Violation> {
        if self.rng.chance(10) {
            // In a stepped store this only asks; a poisoned one refuses, which the next line tells too.
            let _asked = running.store.flush();
        }
        let moved = self.flush_step(running)?;
        self.tally.flushes += u64::from(moved);
        Ok(())
    }

    /// A pass of the flusher. If it stands back for a merge, that gets on.
    fn flush_step(&mut self, running: &mut Running) -> Result<bool, Violation> {
        let result = running.steps.flush();
        self.collect(&running.store)?;
        if result.is_err() && running.store.stats().room_lent {
            self.merge(running)?;
            return Ok(false);
        }
        self.sound(result, "a pass of the flusher")
    }

    /// A step of a merge. One that has stopped at a file that cannot be read leaves it alone from then on.
    fn merge(&mut self, running: &mut Running) -> Result<(), Violation> {
        let before = running.store.stats();
        let result = running.steps.merge();
        self.sound(result, "a step of a merge")?;
        let after = running.store.stats();
        self.tally.merges += after.merges - before.merges;
        self.tally.dropped += after.dropped_records - before.dropped_records;
        self.tally.loans += after.reserve_loans - before.reserve_loans;
        Ok(())
    }

    /// Some steps of the scrub, which finds nothing on an honest disk.
    fn scrub(&mut self, running: &mut Running) -> Result<(), Violation> {
        for _ in 0..self.rng.below(12) {
            self.scrub_step(running)?;
        }
        Ok(())
    }

    fn scrub_step(&mut self, running: &mut Running) -> Result<(), Violation> {
        // Without time there is no budget.
        self.clock.advance(Duration::from_micros(1));
        let before = running.store.stats().scrub.passes;
        let result = running.steps.scrub();
        self.sound(result, "a step of the scrub")?;
        let scrub = running.store.stats().scrub;
        self.tally.scrubs += scrub.passes - before;
        let explained = self.disk.lied() || self.disk.failed() > 0 || self.disk.crashed().is_some();
        match scrub.findings.first().filter(|_| !explained) {
            Some(finding) => violation(format!("an honest disk, and the scrub finds: {finding}")),
            None => Ok(()),
        }
    }

    /// After bits have flipped at rest a whole pass of the scrub finds each segment that is damaged.
    pub(super) fn scrub_finds(&mut self, running: &mut Running) -> Result<(), Violation> {
        let flips = matches!(self.plan.scenario, Scenario::Flipped | Scenario::LookUp);
        if !flips || !self.disk.lied() {
            return Ok(());
        }
        // It looks for segments once a second as long as there are none.
        self.clock.advance(Duration::from_secs(1));
        // The pass under way may be past a segment that was damaged since.
        let passes = running.store.stats().scrub.passes + 2;
        for _ in 0..PATIENCE {
            let stats = running.store.stats();
            if self.disk.crashed().is_some() || stats.segments == 0 {
                return Ok(());
            }
            if stats.scrub.passes == passes {
                let found = |file: &Path| stats.scrub.findings.iter().any(|finding| finding.file == file);
                let verified = everlog::verify(self.io(), &self.dir, &mut |_, _| ()).unwrap_or_default();
                let damaged = |finding: &&Finding| finding.file.extension().is_some_and(|e| e == "seg");
                let missed = verified.iter().filter(damaged).find(|finding| !found(&finding.file));
                self.tally.flips_scrubbed += u64::from(!stats.scrub.findings.is_empty());
                return match missed.filter(|_| self.disk.crashed().is_none()) {
                    Some(finding) => violation(format!("no pass of the scrub finds: {finding}")),
                    None => Ok(()),
                };
            }
            self.scrub_step(running)?;
        }
        violation(format!("the scrub does not get through in {PATIENCE} steps"))
    }

    fn sound(&self, result: everlog::Result<bool>, what: &str) -> Result<bool, Violation> {
        match result {
            Ok(moved) => Ok(moved),
            Err(e) if self.excuses(&e) => Ok(false),
            Err(e) => violation(format!("an honest disk, and {what} failed: {e}")),
        }
    }

    /// Takes steps until every batch has its answer.
    pub(super) fn settle(&mut self, running: &mut Running) -> Result<(), Violation> {
        self.relieve();
        for _ in 0..PATIENCE {
            if self.waiting.is_empty() || self.disk.crashed().is_some() {
                return Ok(());
            }
            self.commit(running)?;
            if self.rng.chance(30) {
                self.flush(running)?;
            }
            self.look_at_latch(&running.store)?;
            if self.poisoned {
                return Ok(());
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
            Ok(page) => Ok(words::as_seen(page)),
            Err(e) if matches!(e.kind(), ErrorKind::Damaged | ErrorKind::Io) => {
                let dead = self.disk.crashed().is_some();
                let short = e.kind() == ErrorKind::Io && self.disk.is_short();
                // A store that is poisoned goes on reading.
                if dead || short {
                    return Ok(());
                }
                if self.disk.lied() && e.kind() == ErrorKind::Damaged {
                    return self.check_named(&e);
                }
                return violation(format!("an honest disk, and {e}"));
            }
            Err(e) => Err(e.kind()),
        };
        self.oracle.read(&name, from, &page)
    }
}
