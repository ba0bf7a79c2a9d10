//! The misfortunes of a world, by its scenario: when they come, and what they excuse.
//!
//! Invariant: nothing is excused that the misfortunes so far do not explain.

use super::{Event, Scenario, Stage, World, violation};
use crate::oracle::Violation;
use crate::sim::{Crash, Fault, Flip, Lie};
use everlog::types::TimeUs;
use everlog::{Error, ErrorKind, Store};
use std::time::Duration;

const TEN_YEARS_US: u64 = 10 * 365 * 86_400 * 1_000_000;

impl World {
    /// What is planned for this stage, before it begins.
    pub(super) fn arm_event(&mut self, stage: Stage) {
        let Some((_, op, event)) = self.plan.event.filter(|(planned, ..)| *planned == stage) else { return };
        let op = self.disk.ops().saturating_add(op);
        match event {
            Event::Crash(kind, when) => self.disk.crash_exactly(op, kind, when),
            Event::Fault(fault) => self.disk.fail_at(op, fault),
            Event::Full(ops) => self.disk.full_during(op..op.saturating_add(ops)),
            Event::NoDescriptors(ops) => self.disk.no_descriptors_during(op..op.saturating_add(ops)),
        }
    }

    /// Whether chance has its way in this stage.
    pub(super) fn is_left_to_chance_in(&self, stage: Stage) -> bool {
        self.plan.event.is_none_or(|(planned, ..)| planned != stage)
    }

    /// Whether chance has its way in this generation.
    pub(super) fn is_left_to_chance(&self) -> bool {
        Stage::ALL.get(self.at.generation as usize + 1).is_none_or(|stage| self.is_left_to_chance_in(*stage))
    }

    /// While a store is created or opened.
    pub(super) fn trouble_in_opening(&mut self) {
        let soon = self.disk.ops() + 1 + self.rng.below(25);
        if !self.rng.chance(30) {
            return;
        }
        match self.plan.scenario {
            scenario if scenario.fails() => {
                self.disk.fail_at(soon, *self.rng.pick(&[Fault::Eio, Fault::EioSticky, Fault::Short]));
            }
            Scenario::Full if self.rng.chance(70) => self.disk.full_during(soon..soon + self.rng.between(1, 20)),
            Scenario::Full => self.disk.no_descriptors_during(soon..soon + self.rng.between(1, 20)),
            _ => {}
        }
    }

    /// At the start of a generation's workload, which has so many steps.
    pub(super) fn trouble_ahead(&mut self, steps: u64) {
        let often = match self.plan.scenario {
            Scenario::InFlight => 95,
            Scenario::Crash | Scenario::Buffered | Scenario::KillThenPower => 70,
            Scenario::Clock | Scenario::Stall | Scenario::Full => 40,
            Scenario::Lost | Scenario::Misdirected | Scenario::Stale | Scenario::Flipped | Scenario::LookUp => 30,
            Scenario::Errors | Scenario::ErrorsBuffered => 20,
        };
        if self.rng.chance(often) {
            self.plan_crash(steps);
        }
    }

    pub(super) fn plan_crash(&mut self, within: u64) {
        let kind = match self.plan.scenario {
            Scenario::KillThenPower => Crash::Process,
            Scenario::InFlight if self.rng.chance(95) => Crash::Power,
            _ => *self.rng.pick(&[Crash::Process, Crash::Power]),
        };
        self.disk.crash_at(self.disk.ops() + 1 + self.rng.below(within), kind);
    }

    /// When merges may leave out what is dead.
    pub(super) fn trouble_in_reclaiming(&mut self) {
        if self.plan.scenario == Scenario::Full && !self.disk.is_short() {
            let soon = self.disk.ops() + 1;
            self.disk.full_during(soon..soon + self.rng.between(8, 40));
        }
    }

    /// Before each step.
    pub(super) fn trouble(&mut self) {
        let soon = self.disk.ops() + 1 + self.rng.below(20);
        let luck = self.rng.below(100);
        let lie = match self.plan.scenario {
            Scenario::Errors | Scenario::ErrorsBuffered if luck < 5 => {
                let fault = *self.rng.pick(&[Fault::Eio, Fault::EioSticky, Fault::Short]);
                self.disk.fail_at(soon, fault);
                return;
            }
            Scenario::Full if luck < 12 && !self.disk.is_short() => {
                let ops = soon..soon + self.rng.between(1, 40);
                match self.rng.chance(70) {
                    true => self.disk.full_during(ops),
                    false => self.disk.no_descriptors_during(ops),
                }
                return;
            }
            Scenario::Stall => return self.stall(luck),
            Scenario::Clock if luck < 15 => return self.jump(),
            Scenario::Flipped if luck < 1 && !self.disk.lied() => {
                self.disk.flip(Flip::Anything);
                return;
            }
            Scenario::LookUp if luck < 2 => {
                self.disk.flip(Flip::LookUp);
                return;
            }
            Scenario::Lost => Lie::Lost,
            Scenario::Misdirected => Lie::Misdirected,
            Scenario::Stale => Lie::Stale,
            _ => return,
        };
        if luck < 10 && !self.lie_planned {
            self.lie_planned = true;
            self.disk.lie_at(soon, lie);
        }
    }

    /// Between a generation's end and the next opening.
    pub(super) fn trouble_at_rest(&mut self) {
        match self.plan.scenario {
            Scenario::Flipped if self.at.generation > 1 && self.rng.chance(40) && !self.disk.lied() => {
                self.disk.flip(Flip::Anything);
            }
            Scenario::LookUp if self.rng.chance(60) => {
                self.disk.flip(Flip::LookUp);
            }
            Scenario::Clock if self.rng.chance(60) => self.jump(),
            _ => {}
        }
    }

    fn stall(&mut self, luck: u64) {
        if self.stalled_for > 0 {
            self.stalled_for -= 1;
            // From 10 ms to 30 s in all, as chance has it.
            self.clock.advance(Duration::from_millis(self.rng.between(10, 1500)));
            if self.stalled_for == 0 {
                self.disk.stall(false);
            }
        } else if luck < 8 {
            self.tally.stalls += 1;
            self.stalled_for = self.rng.between(1, 21);
            self.disk.stall(true);
        }
    }

    fn jump(&mut self) {
        self.tally.jumps += 1;
        let now = everlog::clock::Clock::wall(&*self.clock).0;
        let wall = if self.rng.chance(50) { now + TEN_YEARS_US } else { now.saturating_sub(TEN_YEARS_US) };
        self.disk.note(|| format!("the wall clock jumps from {now} to {wall}"));
        self.clock.set_wall(TimeUs(wall));
    }

    /// What was in short supply is there again.
    pub(super) fn relieve(&mut self) {
        self.disk.plenty();
        self.disk.stall(false);
        self.stalled_for = 0;
    }

    /// Whether the misfortunes so far explain this error.
    pub(super) fn excuses(&self, error: &Error) -> bool {
        let kind = error.kind();
        let failed = matches!(kind, ErrorKind::Io | ErrorKind::Poisoned | ErrorKind::Unknown | ErrorKind::ShutDown);
        if self.disk.crashed().is_some() {
            return true;
        }
        if self.disk.lied() {
            return failed || matches!(kind, ErrorKind::Damaged | ErrorKind::Refused);
        }
        let short = self.disk.refused().0 > 0 && matches!(kind, ErrorKind::Io | ErrorKind::Overloaded);
        failed && self.disk.failed() > 0 || short
    }

    /// Whether they explain that an append gets this error. Where nothing is damaged they do so only by the latch: as long
    /// as that is open on a machine that runs, every append is owed an answer.
    pub(super) fn excuses_to_client(&self, error: &Error, store: &Store) -> bool {
        let stopped = self.disk.crashed().is_some() || store.failure().is_some();
        let damaged = matches!(error.kind(), ErrorKind::Damaged | ErrorKind::Refused);
        (stopped || damaged) && self.excuses(error)
    }

    /// Looks whether the latch has closed, and whether it had to.
    pub(super) fn look_at_latch(&mut self, store: &Store) -> Result<(), Violation> {
        if self.poisoned || !store.stats().poisoned {
            return Ok(());
        }
        self.poisoned = true;
        if self.disk.crashed().is_some() || self.disk.lied() {
            return Ok(());
        }
        self.tally.poisoned += 1;
        let harmless = |what: &String| {
            let making = what.contains(".tmp") && what.contains("/journal-") && !what.contains("rename");
            what.contains("/segments/") || making
        };
        match self.disk.failures() {
            failures if failures.iter().all(harmless) => {
                violation(format!("poisoned, and all that failed is what nothing refers to: {failures:?}"))
            }
            _ => Ok(()),
        }
    }
}
