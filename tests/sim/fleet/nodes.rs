//! What becomes of nodes and cold stores: crashes, opens, restores, copies put back, destruction.

use super::*;

/// What becomes of nodes.
impl Fleet {
    /// Ends a node's process, or the power of its machine.
    ///
    /// # Errors
    /// If what it told last is wrong.
    pub fn crash(&mut self, at: usize, kind: Crash) -> Result<(), Violation> {
        self.nodes[at].disk.crash(kind);
        self.after(at)
    }

    pub(super) fn reboot(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        let kind = node.disk.crashed().expect("only a machine that has crashed is booted again");
        node.running = None;
        node.paused = 0;
        if kind == Crash::Power {
            node.clock.reboot();
        }
        node.disk.reboot();
        let (id, ops) = (node.id, node.disk.ops());
        self.tally.count(if kind == Crash::Power { "losses of power" } else { "processes killed" }, 1);
        self.note(|| format!("node {id} is down: {kind:?}, after {ops} operations"));
    }

    /// Takes a node away with its disk.
    pub fn lose(&mut self, at: usize) {
        let node = self.nodes.remove(at);
        node.disk.crash(Crash::Process);
        self.note(|| format!("node {} is gone with its disk", node.id));
    }

    /// Opens the directory of a node that is down; if `disturbed`, the machine may crash meanwhile.
    ///
    /// # Errors
    /// If it does not open without a reason, or holds what it should not, or lacks what it should hold.
    pub fn open(&mut self, at: usize, disturbed: bool) -> Result<Opening, Violation> {
        let config = self.config();
        let node = &self.nodes[at];
        assert!(node.running.is_none(), "a node that runs is not opened");
        if disturbed && self.rng.chance(15) {
            let kind = *self.rng.pick(&[Crash::Process, Crash::Power]);
            node.disk.crash_at(node.disk.ops() + 1 + self.rng.below(25), kind);
        }
        let stores = node.colds.iter().map(|cold| Arc::new(cold.clone()) as Arc<dyn ColdStore>).collect();
        let cold =
            ColdConfig { stores, allow_dependent: false, may_be_lost: self.may_be_lost, ..ColdConfig::default() };
        let id = node.id;
        self.note(|| format!("node {id} opens"));
        let (io, clock) = (node.disk.io(), node.clock.clone());
        let opened = Store::open_stepped_shipping(io, clock, Path::new(DIR), config, &cold);
        if self.is_down(at) {
            drop(opened);
            self.nodes[at].half_opened = true;
            self.reboot(at);
            return Ok(Opening::Crashed);
        }
        self.nodes[at].disk.no_crash();
        match opened {
            Ok((store, steps)) => self.opened(at, store, steps),
            Err(error) => {
                self.note(|| format!("node {id} does not open: {error}"));
                self.not_opened(at, &error)
            }
        }
    }

    pub(super) fn opened(&mut self, at: usize, store: Store, steps: Steps) -> Result<Opening, Violation> {
        let found = self.content(&store)?;
        self.adopt(at, &found)?;
        let levels = vec![Level::default(); self.colds.len()];
        let running = Running { store, steps, waiting: Vec::new(), asked: Vec::new(), levels, stopped: false };
        self.nodes[at].running = Some(running);
        self.observe(at)?;
        let epoch = self.nodes[at].running.as_ref().map_or(0, |running| running.levels[0].epoch);
        self.tally.count(if epoch == 0 { "opened without the authority" } else { "opened again" }, 1);
        let (id, ops) = (self.nodes[at].id, self.nodes[at].disk.ops());
        self.note(|| format!("node {id} is open, epoch {epoch}, {} batches, {ops} operations", found.len()));
        Ok(Opening::Opened)
    }

    pub(super) fn not_opened(&mut self, at: usize, error: &Error) -> Result<Opening, Violation> {
        // Neither goes on without a word from the first cold store: who was restored, and, where that may be lost, who was
        // taken over.
        let needs_authority = matches!(self.nodes[at].origin, Origin::Restored(_)) || self.may_be_lost;
        let of_cold = error.message().contains("of the cold store");
        match error.kind() {
            ErrorKind::Cold if needs_authority && self.is_foul(at) => {
                self.tally.count("opens that need the first cold store and did not reach it", 1);
                Ok(Opening::NotReached)
            }
            // What came back of the first object was not what was put.
            ErrorKind::Damaged if of_cold && self.is_foul(at) => Ok(Opening::NotReached),
            ErrorKind::Refused | ErrorKind::Fenced if self.may_be_refused(at) => {
                self.tally.count("refused at an open", 1);
                Ok(Opening::Refused)
            }
            _ => violation(format!("node {} does not open, without a reason: {error}", self.nodes[at].id)),
        }
    }

    /// Whether there is a reason to refuse this node.
    pub(super) fn may_be_refused(&self, at: usize) -> bool {
        let node = &self.nodes[at];
        let authority = &self.colds[0];
        let is_others = authority.newest_owner().is_some_and(|owner| owner != node.id);
        match &node.origin {
            Origin::Owner => is_others,
            Origin::Copy { of, stored, life } => {
                let is_others = is_others && authority.newest_owner() != Some(*of);
                is_others || authority.stored() != *stored || self.lives[0] != *life
            }
            Origin::Restored(restored) => {
                let others = authority.stored() - authority.stored_by(node.id);
                restored.from != 0 || others != restored.others || self.lives[0] != restored.life
            }
        }
    }

    /// What was found in a directory becomes its line.
    pub(super) fn adopt(&mut self, at: usize, found: &[usize]) -> Result<(), Violation> {
        let node = &self.nodes[at];
        let (id, line) = (node.id, &self.lines[node.line]);
        match &node.origin {
            Origin::Restored(restored) if !node.was_open => {
                self.check_restored(found, &restored.must, restored.last_lsn)?;
                self.lines[node.line] = found.to_vec();
            }
            _ if !line.starts_with(found) || found.len() < node.floor => {
                let same = common(line, found);
                return violation(format!(
                    "node {id} holds {} batches, {same} of them its own, and had acknowledged {}",
                    found.len(),
                    node.floor
                ));
            }
            _ => self.lines[node.line].truncate(found.len()),
        }
        self.nodes[at].floor = found.len();
        self.nodes[at].was_open = true;
        Ok(())
    }

    /// Whether what came back is what may come back.
    pub(super) fn check_restored(&self, found: &[usize], must: &[usize], last_lsn: u64) -> Result<(), Violation> {
        if !found.starts_with(must) {
            let there = common(found, must);
            return violation(format!("of {} batches that must come back there are {there}", must.len()));
        }
        let mut whole = false;
        for line in self.lines.iter().filter(|line| line.starts_with(found)) {
            whole = true;
            let (back, missing) = line.split_at(found.len());
            let lsn = |batch: &usize| self.appended[*batch].lsn;
            if let Some(lsn) = back.iter().filter_map(lsn).find(|lsn| *lsn > last_lsn) {
                return violation(format!("LSN {lsn} came back, and the report ends at {last_lsn}"));
            }
            if let Some(lsn) = missing.iter().filter_map(lsn).find(|lsn| *lsn <= last_lsn) {
                return violation(format!("LSN {lsn} is missing, and the report ends at {last_lsn}"));
            }
        }
        if whole { Ok(()) } else { violation(format!("what came back was never so: {found:?}")) }
    }

    /// Restores a node with an empty disk, or one that was restored and never opened, from the cold store `from`, as
    /// `mode` says; if `disturbed`, the machine may crash meanwhile, and it is begun again. False if it could not be
    /// reached, or there is nothing.
    ///
    /// # Errors
    /// If it fails without a reason, or something is lost.
    pub fn restore(&mut self, at: usize, from: usize, mode: RestoreMode, disturbed: bool) -> Result<bool, Violation> {
        let id = self.nodes[at].id;
        for attempt in 0..6 {
            let config = self.config();
            let node = &self.nodes[at];
            if disturbed && attempt < 3 && self.rng.chance(40) {
                let kind = *self.rng.pick(&[Crash::Process, Crash::Power]);
                node.disk.crash_at(node.disk.ops() + 1 + self.rng.below(50), kind);
            }
            self.note(|| format!("node {id} is restored from {from}, {mode:?}, attempt {attempt}"));
            let others = self.colds[0].stored() - self.colds[0].stored_by(id);
            let spoilt = self.spoilt_answers(from);
            let (io, cold) = (node.disk.io(), node.colds[from].clone());
            let result = restore_on(&io, &cold, Path::new(DIR), &config, mode, &mut |_, _| {});
            if self.is_down(at) {
                self.tally.count("restores interrupted", 1);
                self.reboot(at);
                continue;
            }
            self.nodes[at].disk.no_crash();
            let report = match result {
                Ok(report) => report,
                Err(error) => {
                    self.note(|| format!("node {id} is not restored: {error}"));
                    self.settle_rewinds();
                    // What was read twice, and was spoilt on its way each time, is taken for damaged.
                    let is_unlucky = self.spoilt_answers(from) >= spoilt + 2;
                    if error.kind() == ErrorKind::Refused && (is_unlucky || self.may_be_past(from, mode, &error)) {
                        self.tally.count("moments refused", 1);
                        return Ok(false);
                    }
                    if self.not_restored(at, from, &error)? {
                        continue;
                    }
                    return Ok(false);
                }
            };
            if !(may_be_lost(&report, &self.colds[from]) || from > 0 && self.contested) {
                // What was read twice, and was spoilt on its way each time, is taken for damaged.
                if self.spoilt_answers(from) < spoilt + 2 {
                    return violation(format!("nothing is damaged, and a restore lost {:?}", report.lost));
                }
                self.colds[from].set_odds(Odds::default());
                continue;
            }
            self.note(|| format!("node {id} is restored: {report:?}"));
            self.tally.count(if from == 0 { "restores" } else { "restores of the second store" }, 1);
            self.settle_rewinds();
            let (last_lsn, life, rewinds) = (report.last_lsn.0, self.lives[0], mode != RestoreMode::Heal);
            let must = self.must_of(from, mode, last_lsn)?;
            self.nodes[at].was_open = false;
            self.nodes[at].origin = Origin::Restored(Restored { from, must, last_lsn, others, life, rewinds });
            if rewinds {
                self.tally.count("restores of the past", 1);
                self.rewinds.push((id, last_lsn));
            }
            return Ok(true);
        }
        Ok(false)
    }

    /// True if the restore is to be tried again.
    pub(super) fn not_restored(&self, at: usize, from: usize, error: &Error) -> Result<bool, Violation> {
        let (id, nothing) = (self.nodes[at].id, self.must[from].is_empty());
        match error.kind() {
            ErrorKind::Cold if self.is_foul(at) => Ok(true),
            // It was begun, and nobody came to put a version of the manifest.
            ErrorKind::Damaged if nothing => Ok(false),
            ErrorKind::Refused if !self.colds[from].holds(HOME) => Ok(false),
            _ => violation(format!("node {id} is not restored from {from}, without a reason: {error}")),
        }
    }

    pub(super) fn spoilt_answers(&self, from: usize) -> u64 {
        [Misfortune::Flipped, Misfortune::Truncated].map(|kind| self.colds[from].met(kind)).iter().sum()
    }

    /// A new node, restored from the cold store `from`, as `mode` says, and not opened. None if that could not be.
    ///
    /// # Errors
    /// As [`Self::restore`].
    pub fn restored(&mut self, from: usize, mode: RestoreMode, disturbed: bool) -> Result<Option<usize>, Violation> {
        let at = self.new_node(Vec::new(), Origin::Owner);
        if self.restore(at, from, mode, disturbed)? {
            return Ok(Some(at));
        }
        self.lose(at);
        Ok(None)
    }

    /// Keeps a copy of a node's directory as it is now.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn copy(&mut self, at: usize) -> Result<(), Violation> {
        let disk = SimDisk::new(self.rng.draw());
        let node = &self.nodes[at];
        let (from, to) = (node.disk.io(), disk.io());
        let copied = copy_dir(&*from, &*to, Path::new(DIR)).and_then(|()| to.sync_dir(Path::new("/")));
        if let Err(e) = copied {
            return violation(format!("a sound directory cannot be copied: {e}"));
        }
        let origin = match &node.origin {
            Origin::Owner => Origin::Copy { of: node.id, stored: self.colds[0].stored(), life: self.lives[0] },
            other => other.clone(),
        };
        let copy = Shelved { disk, line: self.lines[node.line].clone(), floor: node.floor, origin };
        let id = node.id;
        self.note(|| format!("node {id} is copied"));
        self.copies.push(copy);
        Ok(())
    }

    /// Makes a node of the copy that was kept first, and opens it. None if there is no copy.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn put_back(&mut self) -> Result<Option<(usize, Opening)>, Violation> {
        if self.copies.is_empty() {
            return Ok(None);
        }
        let Shelved { disk, line, floor, origin } = self.copies.remove(0);
        let at = self.new_node(line, origin);
        let node = &mut self.nodes[at];
        (node.disk, node.floor) = (disk, floor);
        let id = node.id;
        self.note(|| format!("node {id} is an old copy put back"));
        self.tally.count("copies put back", 1);
        let is_foul = self.is_foul(at);
        let opening = self.open(at, false)?;
        if opening == Opening::Refused {
            self.tally.count("copies refused", 1);
            // In foul weather a copy may have found itself in order at first.
            if !is_foul && self.colds[0].stored_by(id) > 0 {
                return violation(format!("node {id} is an old copy and refused, and has put something there"));
            }
        }
        Ok(Some((at, opening)))
    }

    /// Destroys a cold store. From here on nodes are opened with the word that one may have been lost. Of the authority
    /// it ends all nodes but the last owner, whose process is ended.
    ///
    /// # Errors
    /// If what a node told last is wrong.
    pub fn wipe(&mut self, n: usize) -> Result<(), Violation> {
        self.note(|| format!("the cold store {n} is destroyed"));
        self.tally.count("cold stores destroyed", 1);
        self.colds[n].wipe();
        self.lives[n] += 1;
        self.must[n].clear();
        self.may_be_lost = true;
        if n > 0 {
            self.contested = false;
            return Ok(());
        }
        self.told.clear();
        self.copies.clear();
        let heir = self.heir;
        while let Some(at) = self.nodes.iter().position(|node| node.id != heir) {
            self.lose(at);
        }
        match self.place(heir) {
            Some(at) if self.nodes[at].running.is_some() => self.crash(at, Crash::Process),
            _ => Ok(()),
        }
    }
}
