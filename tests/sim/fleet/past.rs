//! Putting the store back to what it was.

use super::*;

/// What a restore of the past may be refused with.
const NOT_HAD: [&str; 3] = ["lies before everything", "lies past LSN", "is in no tail object"];

impl Fleet {
    /// What is restored next from the cold store `from`: mostly what is there.
    pub(super) fn draw_mode(&mut self, from: usize) -> RestoreMode {
        self.settle_rewinds();
        // An authority that has something can only be put back to what it has.
        if from > 0 && self.colds[0].holds(HOME) || self.rng.chance(70) {
            return RestoreMode::Heal;
        }
        let known: Vec<u64> = match from == 0 && self.rng.chance(50) {
            true => self.told.clone(),
            false => self.appended.iter().filter_map(|batch| batch.lsn).collect(),
        };
        if known.is_empty() || self.rng.chance(10) {
            return RestoreMode::Rewind(None);
        }
        RestoreMode::Rewind(Some(AsOf::Lsn(Lsn(*self.rng.pick(&known)))))
    }

    /// Of the batches that must be in the cold store `from` those that must come back in this mode, where what came
    /// back ends with `last_lsn`.
    ///
    /// # Errors
    /// If it ends too early or too late.
    pub(super) fn must_of(&self, from: usize, mode: RestoreMode, last_lsn: u64) -> Result<Vec<usize>, Violation> {
        let RestoreMode::Rewind(Some(AsOf::Lsn(Lsn(moment)))) = mode else { return Ok(self.must[from].clone()) };
        if last_lsn > moment {
            return violation(format!("LSN {last_lsn} came back as of LSN {moment}"));
        }
        let told = self.told.iter().filter(|lsn| from == 0 && **lsn <= moment).max();
        if let Some(told) = told.filter(|told| **told > last_lsn) {
            return violation(format!("LSN {last_lsn} came back as of LSN {moment}, and {told} was verified"));
        }
        Ok(self.up_to(&self.must[from], last_lsn))
    }

    /// The batches of a line up to an LSN.
    fn up_to(&self, line: &[usize], lsn: u64) -> Vec<usize> {
        let is_back = |batch: &&usize| self.appended[**batch].lsn.is_some_and(|last| last <= lsn);
        line.iter().take_while(is_back).copied().collect()
    }

    /// Whether there is a reason to refuse this moment.
    pub(super) fn may_be_past(&self, from: usize, mode: RestoreMode, error: &Error) -> bool {
        let RestoreMode::Rewind(Some(AsOf::Lsn(Lsn(moment)))) = mode else { return false };
        let was_told = from == 0 && self.told.contains(&moment);
        !was_told && NOT_HAD.iter().any(|what| error.message().contains(what))
    }

    /// What lies past a moment ends once the node that is to put the store back has put a version there.
    pub(super) fn settle_rewinds(&mut self) {
        for (id, last_lsn) in std::mem::take(&mut self.rewinds) {
            if self.colds[0].holds_version_of(id) {
                self.note(|| format!("the authority is put back to LSN {last_lsn} by node {id}"));
                self.must[0] = self.up_to(&self.must[0], last_lsn);
                self.told.retain(|lsn| *lsn <= last_lsn);
                self.tally.count("rewinds", 1);
                continue;
            }
            let origin = self.place(id).map(|at| &self.nodes[at].origin);
            let is_still_to = matches!(origin, Some(Origin::Restored(restored)) if restored.rewinds);
            if is_still_to || self.colds[0].awaits_version_of(id) {
                self.rewinds.push((id, last_lsn));
            }
        }
    }
}
