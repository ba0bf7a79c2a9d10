//! What the clients of a simulated world ask for: mostly what makes sense, and sometimes what does not.
//!
//! It only makes batches; giving them to a store, and what comes of them, is the world's business. Invariant: a record
//! tells which batch it came from, so that no two batches' records can be taken for each other (unless one repeats the
//! other, or the record is empty).

use super::Rng;
use crate::oracle::{Creation, Log, Part, Phase, State, Then};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::Duration;

/// Batches whose content is kept to be repeated.
const REMEMBERED: usize = 100;
/// Record bytes in one batch at most: the smallest journal's frames hold no more than 16 KiB.
const BATCH_BYTES: u64 = 11_000;
/// Longer than all that passes in a world but when a grace is waited for, and shorter than that.
const EXPIRES_AFTER: Duration = Duration::from_secs(480);

/// A source of batches.
pub struct Traffic {
    rng: Rng,
    logs: Vec<String>,
    /// What producers sent, newest last.
    sent: Vec<Part>,
    made: u64,
    /// Forks that were asked for.
    pub forks: u64,
    /// Whether the grace of aged logs is over for certain.
    pub outwaited: bool,
}

impl Traffic {
    /// Clients whose doings follow from `rng`.
    #[must_use]
    pub fn new(mut rng: Rng) -> Self {
        let count = rng.between(1, 7);
        let logs = (0..count).map(|i| format!("users/u{}/c{i}", i % 3)).collect();
        Self { rng, logs, sent: Vec::new(), made: 0, forks: 0, outwaited: false }
    }

    /// From here on what they do follows from `rng`.
    pub fn draw_from(&mut self, rng: Rng) {
        self.rng = rng;
    }

    /// The names of all logs there may be.
    #[must_use]
    pub fn logs(&self) -> &[String] {
        &self.logs
    }

    /// The name of one of them.
    pub fn any_log(&mut self) -> String {
        self.rng.pick(&self.logs).clone()
    }

    /// A record that no log's state forbids, for whoever wants to know whether the store acknowledges. Its log is one of
    /// its own, and another one once somebody has closed or deleted that.
    pub fn probe(&mut self, state: &State) -> Part {
        let open =
            |log: &Rc<Log>| log.phase == Phase::Absent || log.phase == Phase::Live && !log.closed && !log.lapsing;
        let mut names = (0..).map(|n| format!("users/probe{n}/c"));
        let name = names.find(|name| state.get(name).is_none_or(open)).expect("some name is free");
        if !self.logs.contains(&name) {
            self.logs.push(name.clone());
        }
        self.made += 1;
        let record = Rc::from(format!("probe {}", self.made).into_bytes());
        Part { log: name, create: Some(Creation::IfMissing), records: vec![record], ..Part::default() }
    }

    /// The next batch, given how the store will stand before it.
    pub fn batch(&mut self, state: &State) -> Vec<Part> {
        self.made += 1;
        if self.rng.chance(12) && !self.sent.is_empty() {
            // Rather something recent.
            let back = if self.rng.chance(70) { self.sent.len().min(6) } else { self.sent.len() };
            let part = self.sent[self.sent.len() - 1 - self.rng.below(back as u64) as usize].clone();
            if self.repeatable(state, &part) {
                return vec![part];
            }
        }
        if self.rng.chance(3) && self.logs.len() < 60 {
            self.logs.push(format!("users/new{}/c", self.made));
        }
        let several = if self.rng.chance(25) { self.rng.between(2, 5) } else { 1 };
        let mut room = BATCH_BYTES;
        let mut parts = Vec::new();
        let mut named = BTreeSet::new();
        for _ in 0..several {
            let name = self.any_log();
            if named.insert(name.clone()) {
                parts.push(self.part(&name, state.get(&name).map(|log| &**log), &mut room));
            }
        }
        if let [part] = &mut parts[..]
            && self.rng.chance(30)
        {
            self.fork(part, state);
        }
        if let [part] = &mut parts[..]
            && !matches!(part.create, Some(Creation::Fork(..)))
            && !part.records.is_empty()
            && self.rng.chance(40)
            && (part.create.is_some() || state.get(&part.log).is_none_or(|log| !log.aged))
        {
            self.number(part, state.get(&part.log).map(|log| &**log));
        }
        parts
    }

    /// The newest batches that producers sent, oldest first: what a client repeats that was left without answers.
    #[must_use]
    pub fn outbox(&mut self) -> Vec<Part> {
        let count = self.rng.below(5) as usize;
        self.sent[self.sent.len().saturating_sub(count)..].to_vec()
    }

    /// Whether the log still knows enough to tell this batch from another of its number.
    #[must_use]
    pub fn repeatable(&self, state: &State, part: &Part) -> bool {
        let Some((id, epoch, number)) = &part.producer else { return true };
        if state.get(&part.log).is_some_and(|log| log.aged) {
            return false;
        }
        let known = state.get(&part.log).and_then(|log| log.producers.get(id));
        known.is_none_or(|known| known.epoch != *epoch || *number >= known.oldest())
    }

    fn part(&mut self, name: &str, log: Option<&Log>, room: &mut u64) -> Part {
        let mut part = Part { log: name.to_owned(), ..Part::default() };
        let absent = Log::default();
        let log = log.unwrap_or(&absent);
        let chance = self.rng.below(100);
        match (log.phase, chance) {
            (Phase::Absent, 0..80) | (Phase::Deleted, 0..40) | (Phase::Live, 0..3) => {
                part.create = Some(Creation::New(self.word(20)));
                part.records = self.records(0, room);
            }
            (Phase::Absent, 80..95) | (Phase::Deleted, 40..60) | (Phase::Live, 3..10) => {
                part.create = Some(Creation::IfMissing);
                part.records = self.records(1, room);
            }
            (Phase::Deleted, 60..75) if !log.aged || (self.outwaited && !log.lapsed) => {
                part.then = Some(Then::Undelete)
            }
            (Phase::Live, 10..11) => part.then = Some(Then::Undelete),
            (Phase::Live, 11..17) => part.then = Some(Then::Trim(log.trim + self.rng.below(log.next - log.trim + 1))),
            (Phase::Live, 17..21) => part.then = Some(Then::Delete),
            (Phase::Live, 21..25) => part.then = Some(Then::Metadata(self.word(200))),
            (Phase::Live, 45..49) => {
                part.then = Some(Then::Expire(Some(EXPIRES_AFTER).filter(|_| self.rng.chance(80))))
            }
            (Phase::Live, 25..27) => {
                part.then = Some(Then::Close);
                part.records = self.records(0, room);
            }
            (Phase::Live, 27..45) if log.closed => part.then = Some(Then::Delete),
            _ => {
                part.records = self.records(1, room);
                if self.rng.chance(20) {
                    part.expect_next = Some(log.next + u64::from(self.rng.chance(20)));
                }
                if self.rng.chance(10) {
                    let back = if self.rng.chance(10) { self.made.min(40) } else { 0 };
                    part.tag = Some(format!("{:08}", self.made - back).into_bytes());
                }
            }
        }
        part
    }

    /// Makes a creation of a log that never was one of a fork, if there is a log to fork.
    fn fork(&mut self, part: &mut Part, state: &State) {
        let is_new = part.create.is_some() && state.get(&part.log).is_none_or(|log| log.phase == Phase::Absent);
        let parents: Vec<_> = state.iter().filter(|(_, log)| log.phase == Phase::Live).collect();
        if is_new && !parents.is_empty() {
            let (name, parent) = *self.rng.pick(&parents);
            let at = parent.trim + self.rng.below(parent.next - parent.trim + 1) + u64::from(self.rng.chance(3));
            part.create = Some(Creation::Fork(name.clone(), at));
            (part.expect_next, part.tag) = (None, None);
            self.forks += 1;
        }
    }

    /// Numbers the part as one of the log's producers would, or wrongly.
    fn number(&mut self, part: &mut Part, log: Option<&Log>) {
        let id = format!("device-{}", self.rng.below(3)).into_bytes();
        let known = log.filter(|log| log.phase == Phase::Live).and_then(|log| log.producers.get(&id));
        let (epoch, next) = known.map_or((self.rng.below(3), 0), |known| (known.epoch, known.next()));
        let oldest = known.map_or(0, |known| known.oldest());
        let (epoch, number) = match self.rng.below(20) {
            0 => (epoch + 1, 0),
            1 => (epoch.saturating_sub(1), next),
            2 => (epoch, next + 1 + self.rng.below(3)),
            3 if next > oldest => (epoch, self.rng.between(oldest, next)),
            _ => (epoch, next),
        };
        part.producer = Some((id, epoch, number));
        if self.sent.len() == REMEMBERED {
            self.sent.remove(0);
        }
        self.sent.push(part.clone());
    }

    fn records(&mut self, least: u64, room: &mut u64) -> Vec<Rc<[u8]>> {
        let count = self.rng.between(least, 6);
        let longest = *self.rng.pick(&[40, 300, 3000]);
        let mut records = Vec::new();
        for i in 0..count {
            let mut bytes = format!("{}.{i} ", self.made).into_bytes();
            let len = self.rng.below(longest).max(bytes.len() as u64);
            if self.rng.chance(4) {
                bytes.clear();
            } else if self.rng.chance(50) {
                bytes.resize(len as usize, b'.');
            } else {
                while (bytes.len() as u64) < len {
                    bytes.extend(self.rng.draw().to_le_bytes());
                }
            }
            if i < least {
                bytes.truncate((*room).max(40) as usize);
            }
            if *room >= bytes.len() as u64 || i < least {
                *room = room.saturating_sub(bytes.len() as u64);
                records.push(Rc::from(bytes));
            }
        }
        records
    }

    fn word(&mut self, len_max: u64) -> Vec<u8> {
        (0..self.rng.below(len_max)).map(|_| b'a' + self.rng.below(26) as u8).collect()
    }
}
