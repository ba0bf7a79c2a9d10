//! What a node that runs does: it appends, and takes the steps of its background work.

use super::*;

/// What nodes do.
impl Fleet {
    /// Appends a batch on a node that runs.
    ///
    /// # Errors
    /// If it is not taken, and nothing explains that.
    pub fn append(&mut self, at: usize) -> Result<(), Violation> {
        let number = self.appended.len();
        let first = self.rng.below(LOGS.len() as u64) as usize;
        let mut logs = vec![first];
        if self.rng.chance(30) {
            logs.push((first + 1) % LOGS.len());
        }
        let (mut parts, mut place) = (Vec::new(), 0);
        for log in logs {
            let mut records = Vec::new();
            for _ in 0..self.rng.between(1, 4) {
                records.push(record(number, place, self.rng.below(1200) as usize));
                place += 1;
            }
            parts.push((log, records));
        }
        let mut batch = Batch::new();
        for (log, records) in &parts {
            let part = batch.log(LOGS[*log]);
            part.create_if_missing();
            for payload in records {
                part.record(payload);
            }
        }
        let node = &mut self.nodes[at];
        let running = node.running.as_mut().expect("a node that runs");
        let taken = running.store.append(batch);
        let (id, stopped) = (node.id, running.stopped);
        match taken {
            Ok(_) if stopped => violation(format!("node {id} takes a batch, and was told that it is not the owner")),
            Ok(ack) => {
                running.waiting.push((number, ack));
                self.lines[node.line].push(number);
                self.appended.push(Appended { parts, lsn: None, acknowledged: false });
                self.tally.count("appended", 1);
                self.note(|| format!("node {id} appends batch {number}"));
                self.after(at)
            }
            Err(e) if e.kind() == ErrorKind::Overloaded || stopped || node.disk.crashed().is_some() => self.after(at),
            Err(e) => violation(format!("node {id} does not take a batch: {e}")),
        }
    }

    /// A pass of a node's committer.
    ///
    /// # Errors
    /// If it fails, and nothing explains that.
    pub fn commit(&mut self, at: usize) -> Result<(), Violation> {
        let leads = self.rng.chance(8);
        let Some(running) = self.nodes[at].running.as_mut() else { return Ok(()) };
        if leads {
            running.steps.lead();
        }
        let result = running.steps.commit();
        self.sound(at, result, "a pass of the committer")?;
        self.after(at)
    }

    /// A pass of a node's flusher; everything is flushed if `asked`.
    ///
    /// # Errors
    /// If it fails, and nothing explains that.
    pub fn flush(&mut self, at: usize, asked: bool) -> Result<(), Violation> {
        let Some(running) = self.nodes[at].running.as_mut() else { return Ok(()) };
        let result = if asked { running.store.flush() } else { Ok(()) };
        let result = result.and_then(|()| running.steps.flush());
        self.sound(at, result, "a pass of the flusher")?;
        self.after(at)
    }

    /// A step of a node's merges.
    ///
    /// # Errors
    /// If it fails, and nothing explains that.
    pub fn merge(&mut self, at: usize) -> Result<(), Violation> {
        let Some(running) = self.nodes[at].running.as_mut() else { return Ok(()) };
        let result = running.steps.merge();
        self.sound(at, result, "a step of a merge")?;
        self.after(at)
    }

    /// A step of a node's shipping to the cold store `n`. True if anything moved.
    ///
    /// # Errors
    /// If it fails, and nothing explains that.
    pub fn ship(&mut self, at: usize, n: usize) -> Result<bool, Violation> {
        if n > 0 {
            self.leave_aside(at, n);
        }
        let id = self.nodes[at].id;
        self.note(|| format!("node {id} ships to {n}"));
        let Some(running) = self.nodes[at].running.as_mut() else { return Ok(false) };
        let moved = match running.steps.ship(n) {
            Ok(moved) => moved,
            Err(error) => {
                self.note(|| format!("node {id} did not ship to {n}: {error}"));
                self.not_shipped(at, n, &error)?;
                false
            }
        };
        self.after(at)?;
        Ok(moved)
    }

    /// An owner that lacks what must be in the second store is about to leave it aside there.
    pub(super) fn leave_aside(&mut self, at: usize, n: usize) {
        let node = &self.nodes[at];
        let owns = node.running.as_ref().is_some_and(|running| running.levels[0].epoch > 0 && !running.stopped);
        if owns && self.is_top(at) && !self.lines[self.nodes[at].line].starts_with(&self.must[n]) {
            self.must[n].clear();
            self.contested = true;
            self.tally.count("histories left aside", 1);
            let id = self.nodes[at].id;
            self.note(|| format!("node {id} leaves aside what must be in {n}"));
        }
    }

    pub(super) fn not_shipped(&mut self, at: usize, n: usize, error: &Error) -> Result<(), Violation> {
        if self.is_down(at) || self.is_stopped(at) {
            return Ok(());
        }
        let id = self.nodes[at].id;
        let told = match error.kind() {
            ErrorKind::Cold => return Ok(()),
            ErrorKind::Damaged if self.is_foul(at) => return Ok(()),
            ErrorKind::Fenced if self.colds[0].newest_owner() != Some(id) => "fenced",
            // It finds behind its claim what it lacks.
            ErrorKind::Fenced if n == 0 && self.may_be_refused(at) => "fenced by what it lacks",
            ErrorKind::Refused if n > 0 && self.lives[n] > 0 => return Ok(()),
            _ => return violation(format!("node {id} ships to {n} without a reason to fail: {error}")),
        };
        self.tally.count(told, 1);
        self.nodes[at].running.as_mut().expect("it ships").stopped = true;
        Ok(())
    }

    /// Asks a node when all that it has acknowledged is cold.
    ///
    /// # Errors
    /// If the answer is there and wrong.
    pub fn ask(&mut self, at: usize) -> Result<(), Violation> {
        let line = &self.lines[self.nodes[at].line];
        let known = line.iter().rev().map(|batch| &self.appended[*batch]).find(|batch| batch.acknowledged);
        let Some(lsn) = known.and_then(|batch| batch.lsn) else { return Ok(()) };
        if let Some(running) = self.nodes[at].running.as_mut() {
            running.asked.push((lsn, running.store.cold(everlog::types::Lsn(lsn))));
        }
        self.after(at)
    }

    /// Lets time pass for all.
    pub fn pass(&mut self, time: Duration) {
        self.elapsed += time;
        self.nodes.iter().for_each(|node| node.clock.advance(time));
    }

    /// Takes a node's steps until each batch has its answer and a watermark on disk proves it.
    ///
    /// # Errors
    /// If that does not come to its end.
    pub fn settle(&mut self, at: usize) -> Result<(), Violation> {
        let waits = |fleet: &Self| fleet.nodes[at].running.as_ref().is_some_and(|running| !running.waiting.is_empty());
        for _ in 0..PATIENCE {
            if !self.is_live(at) || !waits(self) {
                break;
            }
            self.commit(at)?;
            if self.rng.chance(30) {
                self.flush(at, false)?;
            }
        }
        if self.is_live(at) && waits(self) {
            return violation(format!("node {} does not answer in {PATIENCE} passes", self.nodes[at].id));
        }
        self.pass(IDLE + Duration::from_millis(1));
        // The queue of a disk may take some polls to say that the frame is written.
        for _ in 0..8 {
            self.commit(at)?;
        }
        Ok(())
    }

    /// Appends so many batches, each acknowledged before the next, which needs a node that is not disturbed.
    ///
    /// # Errors
    /// If one is not acknowledged.
    pub fn write(&mut self, at: usize, batches: usize) -> Result<(), Violation> {
        for _ in 0..batches {
            let before = self.lines[self.nodes[at].line].len();
            for _ in 0..PATIENCE {
                self.append(at)?;
                if self.lines[self.nodes[at].line].len() > before || !self.is_live(at) {
                    break;
                }
                self.commit(at)?;
                self.flush(at, true)?;
            }
            self.settle(at)?;
            let node = &self.nodes[at];
            if self.lines[node.line].len() == before || node.floor < self.lines[node.line].len() {
                return violation(format!("node {} does not acknowledge", node.id));
            }
        }
        Ok(())
    }

    /// Takes a node's steps until all that it holds is in each cold store.
    ///
    /// # Errors
    /// If that does not come to its end.
    pub fn level(&mut self, at: usize) -> Result<(), Violation> {
        for _ in 0..LEVEL_ROUNDS {
            self.settle(at)?;
            self.flush(at, false)?;
            self.merge(at)?;
            let mut moved = false;
            for n in 0..self.colds.len() {
                moved |= self.ship(at, n)?;
            }
            if !self.is_live(at) {
                return violation(format!("node {} stops before it is level", self.nodes[at].id));
            }
            if !moved && self.is_level(at) {
                return Ok(());
            }
        }
        let told = self.nodes[at]
            .running
            .as_ref()
            .map(|running| (running.store.cold_stores(), running.store.stats().watermark));
        violation(format!("node {} does not get level in {LEVEL_ROUNDS} rounds: {told:?}", self.nodes[at].id))
    }

    pub(super) fn is_level(&self, at: usize) -> bool {
        let node = &self.nodes[at];
        let last = self.lines[node.line].last().and_then(|batch| self.appended[*batch].lsn).unwrap_or_default();
        let running = node.running.as_ref().expect("a node that runs");
        running.levels.iter().zip(&self.lives).all(|(level, life)| level.verified >= last && level.life == *life)
    }

    /// What a node's background work may end in.
    pub(super) fn sound<T>(&self, at: usize, result: everlog::Result<T>, what: &str) -> Result<(), Violation> {
        match result {
            Err(e) if !self.is_down(at) && !self.is_stopped(at) => {
                violation(format!("node {}: {what} failed on a sound disk: {e}", self.nodes[at].id))
            }
            _ => Ok(()),
        }
    }
}
