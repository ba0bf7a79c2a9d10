//! How a fleet ends: all is well again, and everything that was told to be cold is there.

use super::*;

impl Fleet {
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
    pub(super) fn last_owner(&mut self) -> Result<Option<usize>, Violation> {
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
    pub(super) fn last_restored(&mut self) -> Result<Option<usize>, Violation> {
        if let Some(at) = self.restored(0, RestoreMode::Heal, false)? {
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
        let restored = self.restored(1, RestoreMode::Heal, false)?;
        match restored.is_none() && !self.must[1].is_empty() {
            true => violation("what is told cold cannot be restored from the second store"),
            false => Ok(restored),
        }
    }

    /// Every other node that runs learns that it is not the owner.
    pub(super) fn fence_the_others(&mut self, owner: usize) -> Result<(), Violation> {
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
