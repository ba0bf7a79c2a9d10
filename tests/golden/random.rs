//! Stores of every kind that chance brings about: for comparing the two readers.
//!
//! Only what the store accepts is asked for. Invariant: the seed alone decides what is asked for and when.

use super::listing::Listing;
use super::maker::{Maker, small};
use super::told::{Ask, Op};
use crate::reader::Files;
use crate::sim::Rng;
use std::time::Duration;

/// Bytes of records in one batch: frames of the smallest journal hold no more than 16 KiB.
const BATCH_BYTES: u64 = 7_000;
/// Records flushed at once at most, so that a segment's log has more than one chunk now and then.
const STEPS: u64 = 60;
/// Longer than a process lasts, and shorter than what passes when a grace is waited for.
const EXPIRES_AFTER: Duration = Duration::from_secs(3600);

/// The files of the store of `seed`, and what must be found there.
#[must_use]
pub fn store(seed: u64) -> (Files, Listing) {
    let mut rng = Rng::new(seed);
    let mut config = small();
    config.flush_bytes = rng.between(8, 128) as usize * 1024;
    let mut made = Making { maker: Maker::new(config), names: names(&mut rng), rng, count: 0 };
    if made.rng.chance(3) {
        return (made.maker.files(), made.maker.listing());
    }
    for _ in 0..made.rng.between(1, 5) {
        made.process();
    }
    (made.maker.files(), made.maker.listing())
}

fn names(rng: &mut Rng) -> Vec<String> {
    let count = if rng.chance(20) { rng.between(70, 200) } else { rng.between(1, 9) };
    let depth = |n: u64| ["", "/a", "/a/b", "/ü/…/ż"][n as usize % 4];
    (0..count).map(|n| format!("owner{}/log{n}{}", n % 3, depth(n))).collect()
}

struct Making {
    maker: Maker,
    rng: Rng,
    names: Vec<String>,
    count: u64,
}

impl Making {
    /// One process has the store open for a while.
    fn process(&mut self) {
        self.maker.open();
        for _ in 0..self.rng.below(STEPS) {
            match self.rng.below(100) {
                0..4 if self.maker.listing().end > 0 => self.flush(),
                4..8 => self.maker.idle(),
                8..10 if self.maker.listing().end > 0 => {
                    self.batch();
                    self.maker.outwait();
                    // Its frame has the time on disk: otherwise a kill would take it back.
                    self.batch();
                }
                _ => self.batch(),
            }
            self.maker.flush_if_due();
        }
        if self.rng.chance(40) { self.maker.close() } else { self.maker.kill() }
    }

    fn flush(&mut self) {
        // A flush with nothing to do makes no segment; one more record gives it something.
        self.batch();
        self.maker.flush();
    }

    fn batch(&mut self) {
        let mut room = BATCH_BYTES;
        let mut batch: Vec<Ask> = Vec::new();
        for _ in 0..if self.rng.chance(20) { self.rng.between(2, 6) } else { 1 } {
            let name = self.rng.pick(&self.names).clone();
            if batch.iter().all(|ask| ask.log != name) {
                let ask = self.ask(&name, &mut room);
                // Whether a fork sees what its own batch does to the parent is not this test's question.
                let parent = |ask: &Ask, of: &str| matches!(ask.ops.first(), Some(Op::Fork(parent, _)) if parent == of);
                if batch.iter().all(|other| !parent(&ask, &other.log) && !parent(other, &ask.log)) {
                    batch.push(ask);
                }
            }
        }
        self.maker.append(&batch);
    }

    fn ask(&mut self, name: &str, room: &mut u64) -> Ask {
        self.count += 1;
        let logs = self.maker.told().logs();
        let (known, over) = logs.get(name).map_or((None, false), |log| (Some(log.shown.clone()), log.over));
        let live: Vec<_> = logs
            .iter()
            .filter(|(_, log)| !log.shown.deleted)
            .map(|(name, log)| (name.clone(), log.shown.clone()))
            .collect();
        let mut ops = Vec::new();
        let chance = self.rng.below(100);
        match &known {
            None if !live.is_empty() && chance < 30 => {
                let (parent, log) = self.rng.pick(&live).clone();
                ops.push(Op::Fork(parent, log.first + self.rng.below(log.next - log.first + 1)));
            }
            None => ops.push(Op::Create(self.word(30))),
            Some(log) if log.deleted && !over && chance < 30 => ops.push(Op::Undelete),
            Some(log) if log.deleted => ops.push(Op::Create(self.word(30))),
            Some(_) => {}
        }
        let created = matches!(ops.first(), Some(Op::Create(_) | Op::Fork(..)));
        let closed = known.as_ref().is_some_and(|log| log.closed) && !created;
        if !closed && self.rng.chance(90) {
            self.records(&mut ops, room);
        }
        // A trim of what has just been created is left to chance elsewhere.
        if let Some(log) = known.as_ref().filter(|_| !created) {
            match self.rng.below(40) {
                0 => ops.push(Op::Close),
                1..4 => ops.push(Op::Trim(log.first + self.rng.below(log.next - log.first + 1))),
                4..6 => ops.push(Op::Metadata(self.word(300))),
                6..8 => ops.push(Op::Delete),
                8..10 => ops.push(Op::Expire(Some(EXPIRES_AFTER).filter(|_| self.rng.chance(80)))),
                _ => {}
            }
        }
        if ops.is_empty() {
            ops.push(Op::Metadata(self.word(20)));
        }
        let mut ask = Ask::of(name, ops);
        if self.rng.chance(30) {
            let (id, raised) = (format!("device-{}", self.rng.below(3)), self.rng.chance(5));
            let sender = known.filter(|_| !created).and_then(|log| log.producers.get(&id).cloned()).unwrap_or_default();
            let next = sender.sent.last().map_or(0, |last| last.number + 1);
            ask = if raised { ask.by(&id, sender.epoch + 1, 0) } else { ask.by(&id, sender.epoch, next) };
        }
        if self.rng.chance(15) { ask.tagged(&format!("{:08}", self.count)) } else { ask }
    }

    fn records(&mut self, ops: &mut Vec<Op>, room: &mut u64) {
        let longest = *self.rng.pick(&[20, 300, 5000]);
        for _ in 0..self.rng.between(1, 8) {
            let len = self.rng.below(longest).min(*room);
            *room -= len;
            let record: Vec<u8> = if self.rng.chance(50) {
                b"a text that is repeated; ".iter().copied().cycle().take(len as usize).collect()
            } else {
                (0..len).map(|_| self.rng.draw() as u8).collect()
            };
            ops.push(Op::Record(record));
        }
    }

    fn word(&mut self, len_max: u64) -> Vec<u8> {
        (0..self.rng.below(len_max)).map(|_| b'a' + self.rng.below(26) as u8).collect()
    }
}
