//! What chance draws.

use super::*;

/// What chance draws.
impl Fleet {
    pub(super) fn live(&mut self) -> Result<(), Violation> {
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
    pub(super) fn event(&mut self, at: usize) -> Result<(), Violation> {
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
    pub(super) fn strike(&mut self, at: usize) -> Result<(), Violation> {
        let kind = *self.rng.pick(&[Crash::Process, Crash::Power]);
        if self.rng.chance(50) {
            return self.crash(at, kind);
        }
        let disk = &self.nodes[at].disk;
        disk.crash_at(disk.ops() + 1 + self.rng.below(40), kind);
        Ok(())
    }

    /// Opens a node that is down, or lets one go on that stands still, or restores a new one if there is none.
    pub(super) fn revive(&mut self) -> Result<(), Violation> {
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
    pub(super) fn bring_up(&mut self, at: usize) -> Result<(), Violation> {
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
        if from > 0 || self.rng.chance(30) || !self.restore(at, 0, RestoreMode::Heal, true)? {
            self.lose(at);
            return Ok(());
        }
        self.open(at, true).map(drop)
    }

    /// A new node is restored and opens, perhaps later.
    pub(super) fn take_over(&mut self) -> Result<(), Violation> {
        if self.nodes.len() >= NODES_MAX {
            // What has stopped makes room.
            match (0..self.nodes.len()).find(|at| self.is_stopped(*at)) {
                Some(at) => self.lose(at),
                None => return Ok(()),
            }
        }
        let second = self.colds.len() > 1 && self.colds[1].holds(HOME);
        let from = usize::from(second && (!self.colds[0].holds(HOME) || self.rng.chance(15)));
        let mode = self.draw_mode(from);
        match self.restored(from, mode, true)? {
            Some(at) if self.rng.chance(75) => self.bring_up(at),
            _ => Ok(()),
        }
    }

    pub(super) fn cut(&mut self, at: usize, n: usize) {
        let (id, node) = (self.nodes[at].id, &self.nodes[at]);
        let is_cut_off = !node.colds[n].is_cut_off(id);
        self.tally.count("nodes cut off", u64::from(is_cut_off));
        node.colds[n].cut_off(id, is_cut_off);
        if self.rng.chance(30) {
            node.colds.iter().for_each(|cold| cold.cut_off(id, is_cut_off));
        }
    }

    pub(super) fn change_weather(&mut self) {
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
    pub(super) fn shelve(&mut self, at: usize) -> Result<(), Violation> {
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
    pub(super) fn destroy(&mut self, n: usize) -> Result<(), Violation> {
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
}
