//! What nodes say, and what must hold of it.

use super::*;

/// What nodes say, and what is there.
impl Fleet {
    /// Hears what a node has to say; if its machine has crashed it is booted again, and down.
    pub(super) fn after(&mut self, at: usize) -> Result<(), Violation> {
        self.observe(at)?;
        if self.is_down(at) {
            self.reboot(at);
        }
        Ok(())
    }

    pub(super) fn observe(&mut self, at: usize) -> Result<(), Violation> {
        let Some(mut running) = self.nodes[at].running.take() else { return Ok(()) };
        let heard = self.hear(at, &mut running);
        self.nodes[at].running = Some(running);
        heard
    }

    pub(super) fn hear(&mut self, at: usize, running: &mut Running) -> Result<(), Violation> {
        self.hear_acks(at, running)?;
        for (n, told) in running.store.cold_stores().into_iter().enumerate() {
            let level = &mut running.levels[n];
            if told.epoch.0 != level.epoch {
                (level.epoch, level.life) = (told.epoch.0, self.lives[n]);
                if n == 0 {
                    self.took_over(at, told.epoch.0)?;
                }
            }
            if told.verified.0 > level.verified {
                level.verified = told.verified.0;
                self.rose(at, n, *level)?;
            }
        }
        let levels: Vec<u64> = running.levels.iter().map(|level| level.verified).collect();
        for (lsn, ack) in std::mem::take(&mut running.asked) {
            match ack.try_get() {
                None => running.asked.push((lsn, ack)),
                Some(Ok(())) if levels.iter().any(|verified| *verified >= lsn) => self.tally.count("told cold", 1),
                Some(Ok(())) => {
                    return violation(format!("LSN {lsn} is told cold, and verified are {levels:?}"));
                }
                Some(Err(_)) if running.stopped || self.is_down(at) => {}
                Some(Err(e)) => return violation(format!("nobody is told whether LSN {lsn} is cold: {e}")),
            }
        }
        Ok(())
    }

    pub(super) fn hear_acks(&mut self, at: usize, running: &mut Running) -> Result<(), Violation> {
        let id = self.nodes[at].id;
        for (number, ack) in std::mem::take(&mut running.waiting) {
            match ack.try_get() {
                None => running.waiting.push((number, ack)),
                Some(Ok(_)) if running.stopped => {
                    return violation(format!("node {id} acknowledges batch {number}, and is not the owner"));
                }
                Some(Ok(receipt)) => {
                    let batch = &mut self.appended[number];
                    batch.lsn = receipt.logs.iter().map(|log| log.lsn.0).max();
                    batch.acknowledged = true;
                    self.tally.count("acknowledged", 1);
                    let node = &mut self.nodes[at];
                    let place = self.lines[node.line].iter().position(|batch| *batch == number);
                    node.floor = node.floor.max(place.expect("it was appended there") + 1);
                }
                Some(Err(_)) if running.stopped || self.is_down(at) => {}
                Some(Err(e)) => return violation(format!("node {id} does not say what became of batch {number}: {e}")),
            }
        }
        Ok(())
    }

    pub(super) fn is_top(&self, at: usize) -> bool {
        self.top.is_some_and(|(life, _, id)| life == self.lives[0] && id == self.nodes[at].id)
    }

    /// A node has taken an epoch of the authority.
    pub(super) fn took_over(&mut self, at: usize, epoch: u64) -> Result<(), Violation> {
        let (id, life) = (self.nodes[at].id, self.lives[0]);
        if let Some((top_life, top_epoch, owner)) = self.top
            && (top_life, top_epoch) >= (life, epoch)
        {
            return violation(format!("node {id} takes epoch {epoch}, and node {owner} took {top_epoch} before"));
        }
        self.tally.count("epochs taken", 1);
        self.tally.count("take-overs", u64::from(self.top.is_some_and(|(.., owner)| owner != id)));
        self.top = Some((life, epoch, id));
        self.heir = id;
        self.settle_rewinds();
        let (line, must) = (&self.lines[self.nodes[at].line], &self.must[0]);
        if !line.starts_with(must) {
            let there = common(line, must);
            return violation(format!("node {id} owns the store, and has {there} of {} batches told cold", must.len()));
        }
        self.nodes[at].origin = Origin::Owner;
        Ok(())
    }

    /// A node says that more is verified in the cold store `n`.
    pub(super) fn rose(&mut self, at: usize, n: usize, level: Level) -> Result<(), Violation> {
        if level.life != self.lives[n] {
            return Ok(());
        }
        let id = self.nodes[at].id;
        if !self.is_top(at) {
            return violation(format!("node {id} verifies in {n}, and the owner is {:?}", self.top));
        }
        self.settle_rewinds();
        if n == 0 {
            self.told.push(level.verified);
        }
        let covered = |batch: &&usize| self.appended[**batch].lsn.is_some_and(|lsn| lsn <= level.verified);
        let told: Vec<usize> = self.lines[self.nodes[at].line].iter().take_while(covered).copied().collect();
        let must = &mut self.must[n];
        if common(&told, must) < told.len().min(must.len()) {
            return violation(format!("node {id} verifies in {n} another history than the one that was told cold"));
        }
        if told.len() > must.len() {
            *must = told;
        }
        if n > 0 {
            self.contested = false;
        }
        Ok(())
    }

    /// What a store holds, as the sequence of its batches.
    pub(super) fn content(&mut self, store: &Store) -> Result<Vec<usize>, Violation> {
        let (mut logs, mut ends) = (Vec::new(), BTreeMap::<usize, u64>::new());
        for name in LOGS {
            let found = records(store, name)?;
            for record in &found {
                match batch_of(&record.payload).filter(|batch| *batch < self.appended.len()) {
                    Some(batch) => {
                        let end = ends.entry(batch).or_default();
                        *end = record.lsn.0.max(*end);
                    }
                    None => return violation(format!("record {} of log {name} is made up", record.seq)),
                }
            }
            logs.push(found);
        }
        let mut order: Vec<(u64, usize)> = ends.into_iter().map(|(batch, lsn)| (lsn, batch)).collect();
        order.sort_unstable();
        for (log, found) in logs.iter().enumerate() {
            let batches = order.iter().flat_map(|(_, batch)| &self.appended[*batch].parts);
            let expected: Vec<&Vec<u8>> =
                batches.filter(|(at, _)| *at == log).flat_map(|(_, records)| records).collect();
            let differs = found.iter().zip(&expected).position(|(found, expected)| found.payload != **expected);
            let is_dense = found.iter().enumerate().all(|(seq, record)| record.seq == seq as u64);
            let is_in_order = found.is_sorted_by(|a, b| a.lsn < b.lsn && a.time <= b.time);
            if differs.is_some() || found.len() != expected.len() || !is_dense || !is_in_order {
                let (name, there, wanted) = (LOGS[log], found.len(), expected.len());
                return violation(format!("log {name} has {there} records of {wanted}, and differs at {differs:?}"));
            }
        }
        for (lsn, batch) in &order {
            let known = self.appended[*batch].lsn.get_or_insert(*lsn);
            if *known != *lsn {
                return violation(format!("batch {batch} is at LSN {lsn}, and was at {known}"));
            }
        }
        let listed = store.list("", None, 100).map_err(|e| Violation(format!("no list: {e}")))?;
        let listed: Vec<String> = listed.into_iter().map(|log| log.name).collect();
        let mut expected: Vec<&str> =
            (0..LOGS.len()).filter(|log| !logs[*log].is_empty()).map(|log| LOGS[log]).collect();
        expected.sort_unstable();
        if listed != expected {
            return violation(format!("listed are {listed:?}, and there are {expected:?}"));
        }
        Ok(order.into_iter().map(|(_, batch)| batch).collect())
    }

    /// Restores a copy of a cold store on a machine of its own, and looks at what comes back. None if there is nothing
    /// yet.
    ///
    /// # Errors
    /// If what must be there is not, or what is there was never so.
    pub fn drill(&mut self, n: usize) -> Result<Option<Vec<usize>>, Violation> {
        self.note(|| format!("a drill of {n}"));
        self.settle_rewinds();
        let copy = self.colds[n].copy();
        let (disk, clock) = (SimDisk::new(self.rng.draw()), Arc::new(SimClock::default()));
        clock.advance(self.elapsed);
        let (config, io) = (self.config(), disk.io());
        let report: RestoreReport =
            match restore_on(&io, &copy, Path::new(DIR), &config, RestoreMode::Heal, &mut |_, _| {}) {
                Ok(report) => report,
                Err(e) if matches!(e.kind(), ErrorKind::Refused | ErrorKind::Damaged) && self.must[n].is_empty() => {
                    return Ok(None);
                }
                Err(e) => return violation(format!("a drill of {n}: {e}")),
            };
        if !may_be_lost(&report, &copy) {
            if n > 0 && self.contested {
                return Ok(None);
            }
            return violation(format!("nothing is damaged, and a drill of {n} lost {:?}", report.lost));
        }
        let cold = ColdConfig { stores: vec![Arc::new(copy)], ..ColdConfig::default() };
        let opened = Store::open_stepped_shipping(io, clock, Path::new(DIR), config, &cold);
        let (store, _steps) =
            opened.map_err(|e| Violation(format!("what a drill of {n} restored does not open: {e}")))?;
        let found = self.content(&store)?;
        self.check_restored(&found, &self.must[n], report.last_lsn.0)
            .map_err(|Violation(why)| Violation(format!("a drill of {n}: {why}")))?;
        self.tally.count("drills", 1);
        Ok(Some(found))
    }
}
