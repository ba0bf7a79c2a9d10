//! What a world looks at after each opening: all that the store holds, and what its recovery says of itself.
//!
//! Invariant: damage is accepted only after the disk has lied, and then only where it is named.

use super::{World, violation, words};
use crate::oracle::{Fates, Phase, Ticket, Violation};
use crate::sim::disk::Frames;
use everlog::{Error, ErrorKind, ReadLimit, Store};
use std::collections::{BTreeMap, BTreeSet};

impl World {
    /// Reads all that the store holds and puts it before the oracle. False if something is damaged and says so.
    pub(super) fn check_everything(&mut self, store: &Store) -> Result<bool, Violation> {
        let (mut shown, mut damaged) = (BTreeMap::new(), BTreeSet::new());
        for name in self.traffic.logs().to_vec() {
            match words::show(store, &name)? {
                Ok(Some(log)) => {
                    shown.insert(name, log);
                }
                Ok(None) => {}
                Err(e) if e.kind() == ErrorKind::Damaged && self.disk.lied() => {
                    self.check_named(&e)?;
                    self.disk.note(|| format!("log {name}: {e}"));
                    damaged.insert(name);
                }
                Err(e) if self.disk.crashed().is_some() => return violation(format!("crashed while it is read: {e}")),
                Err(e) => return violation(format!("an honest disk, and log {name} is not read: {e}")),
            }
        }
        let fates = match self.disk.lied() {
            false => self.oracle.recovered(&shown)?,
            true => self.oracle.recovered_from_lies(&shown, &damaged, self.proved())?,
        };
        let ended = |name: &str| shown.get(name).is_some_and(|log| log.phase == Phase::Deleted);
        self.tally.expired += self.oracle.lapse(ended);
        self.tally.kept += fates.settled.len() as u64;
        self.tally.lost += fates.lost.len() as u64;
        fates.lost.iter().for_each(|ticket| drop(self.told.remove(ticket)));
        self.check_rolled_back(store, &fates)?;
        self.check_cursors(store, &damaged)?;
        let listed = self.check_list(store, &damaged)?;
        Ok(damaged.is_empty() && listed)
    }

    /// The last batch that was acknowledged before a frame was sealed which the disk has whole: that frame's watermark
    /// speaks for it.
    fn proved(&self) -> Option<Ticket> {
        let proof = self.disk.frames().proof(self.ended_at);
        self.told.iter().filter(|(_, told)| told.fresh && told.at < proof).map(|(ticket, _)| *ticket).max()
    }

    /// What is gone although it was acknowledged is gone visibly: each client that was told of it learns it, now and also
    /// when the log has grown again.
    fn check_rolled_back(&mut self, store: &Store, fates: &Fates) -> Result<(), Violation> {
        for ticket in &fates.rolled_back {
            let Some(told) = self.told.remove(ticket) else { continue };
            self.tally.rolled_back += 1;
            for (log, cursor) in told.cursors {
                // A part that added no record leaves its client where the log still is.
                let still_true = self.oracle.expected().get(&log).is_some_and(|log| log.next >= cursor.seq);
                // Position 0 is everybody's.
                if !still_true && cursor.seq > 0 {
                    self.gone.push((log, cursor));
                }
            }
        }
        for (log, cursor) in &self.gone {
            let known = self.oracle.expected().get(log).map_or(Phase::Absent, |log| log.phase);
            match (store.read(log, *cursor, ReadLimit::default()), known) {
                (Err(e), _) if e.kind() == ErrorKind::Rewound => {}
                (Err(e), Phase::Absent) if e.kind() == ErrorKind::NotFound => {}
                (Err(e), Phase::Deleted) if e.kind() == ErrorKind::Deleted => {}
                (Err(e), _) if e.kind() == ErrorKind::Damaged && self.disk.lied() => {}
                // Nothing is kept there of any history.
                (Err(e), Phase::Live) if e.kind() == ErrorKind::Trimmed && cursor.seq < self.trim_of(log) => {}
                (answer, _) => {
                    let answer = answer.map(|page| page.next_seq);
                    return violation(format!("the history of {cursor} is gone, and {log} answers {answer:?}"));
                }
            }
        }
        Ok(())
    }

    fn trim_of(&self, log: &str) -> u64 {
        self.oracle.expected().get(log).map_or(0, |log| log.trim)
    }

    /// What was acknowledged and is there is where its client was told: no cursor is refused that the history leads
    /// through.
    fn check_cursors(&self, store: &Store, damaged: &BTreeSet<String>) -> Result<(), Violation> {
        for (log, cursor) in self.told.values().rev().take(10).flat_map(|told| &told.cursors) {
            let Some(now) = self.oracle.expected().get(log).filter(|now| now.phase == Phase::Live) else { continue };
            if damaged.contains(log) || cursor.seq <= now.trim || cursor.seq <= now.base() || cursor.seq > now.next {
                continue;
            }
            match store.read(log, *cursor, ReadLimit { records: 1, bytes: 1 }) {
                Ok(_) => {}
                Err(e) if e.kind() == ErrorKind::Damaged && self.disk.lied() => {}
                Err(e) => return violation(format!("{log} is where {cursor} leads, and says: {e}")),
            }
        }
        Ok(())
    }

    /// Every live log is listed, and nothing that was never there. False if the list is damaged and says so.
    fn check_list(&self, store: &Store, damaged: &BTreeSet<String>) -> Result<bool, Violation> {
        let listed = match store.list("", None, 1000) {
            Ok(logs) => logs.into_iter().filter(|log| !log.deleted).map(|log| log.name),
            Err(e) if e.kind() == ErrorKind::Damaged && self.disk.lied() => {
                return self.check_named(&e).map(|()| false);
            }
            Err(e) => return violation(format!("an honest disk, and no list: {e}")),
        };
        let listed: Vec<String> = listed.filter(|name| !damaged.contains(name)).collect();
        let live = self.oracle.expected().iter().filter(|(_, log)| log.phase == Phase::Live);
        let expected: Vec<String> =
            live.map(|(name, _)| name).filter(|name| !damaged.contains(*name)).cloned().collect();
        match listed == expected {
            true => Ok(true),
            false => violation(format!("listed {listed:?}, live are {expected:?}")),
        }
    }

    /// Damage says where it is: the file that is wrong, a log, or LSNs.
    pub(super) fn check_named(&self, error: &Error) -> Result<(), Violation> {
        let by_file = error.path().is_some_and(|path| self.disk.is_wrong(path));
        let named = by_file || error.lsn_range().is_some() || error.log_name().is_some();
        if named { Ok(()) } else { violation(format!("damage without its place: {error}")) }
    }

    /// What the recovery says of itself, given what the journal held before it. `direct`: it follows the end of a
    /// generation, and no other recovery.
    pub(super) fn check_report(&mut self, store: &Store, frames: &Frames, direct: bool) -> Result<(), Violation> {
        let report = store.recovery();
        if self.ended_by.is_none() && !report.clean && !self.disk.lied() {
            return violation(format!("closed cleanly, found unclean: {report:?}"));
        }
        // A lie about the frame of an open may bring the clean close before it back.
        let closed_before = report.clean && report.end.0 > 0 && !self.disk.lied();
        if self.ended_by.is_some() && direct && !self.closing && closed_before {
            return violation(format!("it crashed, and counts as closed: {report:?}"));
        }
        if !self.timelines.insert(report.timeline) {
            return violation(format!("an open goes on on the timeline of an earlier one: {report:?}"));
        }
        self.disk.frames_settled();
        let lies = self.disk.lied() || self.plan.scenario.is_buffered();
        if !direct || lies || self.tally.failed > 0 {
            return Ok(());
        }
        let expected = frames.possibly_acknowledged(report.end.0).map(|last| (report.end.0 + 1, Some(last)));
        let said = report.possibly_acknowledged.map(|(first, last)| (first.0, last.map(|lsn| lsn.0)));
        self.tally.possibly += u64::from(said.is_some());
        if said != expected {
            return violation(format!("possibly acknowledged are {expected:?}, the recovery says {said:?}"));
        }
        Ok(())
    }
}
