//! As-of reads: each moment of histories made by chance, asked for in memory, from segments, after merges that gave space
//! back and after reopens, and compared with what was the case then.

use super::testing::DIR;
use super::tests_reclaim::{GRACE, Numbers, World, noise};
use super::{LogInfo, ReadOnly};
use crate::Batch;
use crate::clock::Clock;
use crate::error::{ErrorKind, Result};
use crate::index::history;
use crate::read::{Page, ReadLimit, Record};
use crate::sync::Arc;
use crate::types::{AsOf, Cursor, Lsn, Seq, TimeUs, Timeline};
use std::collections::BTreeMap;
use std::path::Path;

const LOGS: u64 = 6;

/// What a log was at some LSN, but for its records.
#[derive(Clone, Debug, Default)]
struct Shape {
    created: Lsn,
    deleted: Option<Lsn>,
    first: u64,
    next: u64,
    closed: bool,
    metadata: Vec<u8>,
    timelines: Vec<(Timeline, Seq)>,
}

/// A log with all of its past.
#[derive(Default)]
struct Log {
    name: String,
    /// All records that ever were, those of its parent included.
    records: BTreeMap<u64, Record>,
    /// What each of its entries made of it.
    past: Vec<(Lsn, TimeUs, Shape)>,
    number: u64,
}

#[derive(Clone)]
enum Op {
    Create(Vec<u8>),
    Fork(usize, u64),
    Record(Vec<u8>),
    Close,
    Trim(u64),
    Delete,
    Undelete,
    Metadata(Vec<u8>),
}

impl Log {
    fn now(&self) -> Shape {
        self.past.last().map(|(.., shape)| shape.clone()).unwrap_or_default()
    }

    fn at(&self, as_of: AsOf) -> Shape {
        let count = self.past.partition_point(|(lsn, time, _)| as_of.covers(*lsn, *time));
        self.past[..count].last().map(|(.., shape)| shape.clone()).unwrap_or_default()
    }
}

/// What is asked: a store, or a look at one.
enum Asked<'a> {
    Open(&'a World),
    Look(&'a ReadOnly),
}

impl Asked<'_> {
    fn info(&self, log: &str, as_of: AsOf) -> Result<LogInfo> {
        match self {
            Asked::Open(world) => world.store.info_as_of(log, as_of),
            Asked::Look(look) => look.info_as_of(log, as_of),
        }
    }

    fn read(&self, log: &str, as_of: AsOf, from: u64, limit: ReadLimit) -> Result<Page> {
        match self {
            Asked::Open(world) => world.store.read_as_of(log, as_of, from, limit),
            Asked::Look(look) => look.read_as_of(log, as_of, from, limit),
        }
    }
}

/// Histories by chance.
struct Play {
    world: World,
    numbers: Numbers,
    logs: Vec<Log>,
    /// The last LSN, and the cutoff.
    end: Lsn,
    /// Moments at which a log could be read, and those that were refused.
    answered: u64,
    refused: u64,
    /// Cursors at the first record whose timeline is not known any more.
    unknown: u64,
}

impl Play {
    fn new(seed: u64) -> Self {
        let logs = (0..LOGS).map(|n| Log { name: format!("users/{n}/log"), ..Log::default() }).collect();
        let (world, numbers) = (World::new(), Numbers(seed));
        Self { world, numbers, logs, end: Lsn(0), answered: 0, refused: 0, unknown: 0 }
    }

    fn cutoff(&self) -> Lsn {
        let store = &self.world.store;
        store.cutoff(&store.inner.core.index.set().manifest).lsn
    }

    fn payload(&mut self) -> Vec<u8> {
        // Now and then one that has a chunk for itself.
        let len = if self.numbers.below(12) == 0 { 40_000 } else { self.numbers.below(200) as usize };
        noise(len, self.end.0)
    }

    /// What is to be done with a log next.
    fn ops(&mut self, n: usize) -> Vec<Op> {
        let now = self.logs[n].now();
        let mut ops = Vec::new();
        if now.deleted.is_some() {
            match self.numbers.below(6) {
                0 => return vec![Op::Undelete],
                1 | 2 => ops.push(Op::Create(noise(4, self.end.0))),
                _ => return ops,
            }
        } else if now.created == Lsn(0) {
            let parent = self.numbers.below(LOGS) as usize;
            let of = self.logs[parent].now();
            if parent != n && of.created > Lsn(0) && of.deleted.is_none() && self.numbers.below(2) == 0 {
                return vec![Op::Fork(parent, of.first + self.numbers.below(of.next - of.first + 1))];
            }
            ops.push(Op::Create(noise(3, self.end.0)));
        } else {
            match self.numbers.below(16) {
                0 => ops.push(Op::Metadata(noise(5, self.end.0))),
                1 | 2 => return vec![Op::Trim(now.first + self.numbers.below(now.next - now.first + 1))],
                3 => return vec![Op::Delete],
                4 if self.numbers.below(4) == 0 => return vec![Op::Close],
                _ => {}
            }
        }
        if !now.closed || matches!(ops.first(), Some(Op::Create(_))) {
            for _ in 0..self.numbers.below(4) {
                ops.push(Op::Record(self.payload()));
            }
            if self.numbers.below(10) == 0 && !ops.is_empty() {
                ops.push(Op::Delete);
            }
        }
        ops
    }

    fn step(&mut self) {
        let n = self.numbers.below(LOGS) as usize;
        let ops = self.ops(n);
        if ops.is_empty() {
            return;
        }
        let (name, before) = (self.logs[n].name.clone(), self.logs[n].now());
        let tag = (self.numbers.below(5) == 0).then(|| self.end.0.to_be_bytes());
        let created = matches!(ops[0], Op::Create(_) | Op::Fork(..));
        let number = if created { 0 } else { self.logs[n].number };
        let numbered = self.numbers.below(3) == 0;
        let parents: Vec<_> = self.logs.iter().map(|log| log.name.clone()).collect();
        let mut batch = Batch::new();
        let log = batch.log(&name);
        for op in &ops {
            match op {
                Op::Create(metadata) => log.create_with(metadata),
                Op::Fork(parent, at) => log.fork(&parents[*parent], *at),
                Op::Record(payload) => log.record(payload),
                Op::Close => log.close(),
                Op::Trim(first) => log.trim(*first),
                Op::Delete => log.delete(),
                Op::Undelete => log.undelete(),
                Op::Metadata(metadata) => log.metadata(metadata),
            };
        }
        if let Some(tag) = &tag {
            log.tag(tag);
        }
        if numbered {
            log.producer(b"device", 0, number);
        }
        let receipt = match self.world.append(batch) {
            Ok(receipt) => receipt.logs[0],
            Err(error) => {
                let late = before.deleted.is_some_and(|lsn| lsn <= self.cutoff());
                assert!(late && error.kind() == ErrorKind::Deleted, "{error}");
                return;
            }
        };
        self.logs[n].number = number + u64::from(numbered);
        let timelines = self.world.store.info(&name).expect("it exists").timelines;
        let time = self.world.clock.wall();
        let mut shape = before;
        for (i, op) in ops.iter().enumerate() {
            let lsn = Lsn(receipt.lsn.0 + 1 + i as u64 - ops.len() as u64);
            match op {
                Op::Create(metadata) => {
                    let next = if shape.deleted.is_some() { shape.next + 1 } else { 0 };
                    shape = Shape { created: lsn, first: next, next, metadata: metadata.clone(), ..Shape::default() };
                }
                Op::Fork(parent, at) => {
                    let of = self.logs[*parent].now();
                    let records = self.logs[*parent].records.range(..at);
                    self.logs[n].records = records.map(|(seq, record)| (*seq, record.clone())).collect();
                    shape = Shape { created: lsn, next: *at, closed: false, ..of };
                }
                Op::Record(payload) => {
                    let record = Record { seq: shape.next, lsn, time, payload: payload.clone() };
                    self.logs[n].records.insert(shape.next, record);
                    shape.next += 1;
                }
                Op::Close => shape.closed = true,
                Op::Trim(first) => shape.first = *first,
                Op::Delete => shape.deleted = Some(lsn),
                Op::Undelete => shape.deleted = None,
                Op::Metadata(metadata) => shape.metadata = metadata.clone(),
            }
            shape.timelines = timelines.iter().filter(|(_, first)| first.0 < shape.next).copied().collect();
            self.logs[n].past.push((lsn, time, shape.clone()));
        }
        self.end = self.world.store.inner.core.index.watermark();
    }

    /// Asks for every `apart`th moment of every log.
    fn check(&mut self, apart: u64) {
        let (cutoff, end) = (self.cutoff(), self.end);
        let skip = self.numbers.below(apart);
        let error = self.world.store.info_as_of("users/0/log", AsOf::Lsn(end.next())).expect_err("to come");
        assert_eq!((error.kind(), error.expected()), (ErrorKind::Invalid, Some(end.0)));
        let look = ReadOnly::open_on(Arc::new(self.world.io.clone()), Path::new(DIR)).expect("a store");
        let shown = look.summary().end;
        for lsn in (skip..=end.0).step_by(apart as usize).map(Lsn) {
            for n in 0..LOGS as usize {
                let as_of = AsOf::Lsn(lsn);
                if lsn >= cutoff {
                    self.exact(n, as_of, &Asked::Open(&self.world));
                    if lsn <= shown {
                        self.exact(n, as_of, &Asked::Look(&look));
                    }
                    self.answered += 1;
                    continue;
                }
                self.refused += 1;
                let (store, name) = (&self.world.store, &self.logs[n].name);
                let error = store.info_as_of(name, as_of).expect_err("it lies before the cutoff");
                assert_eq!((error.kind(), error.expected()), (ErrorKind::Forgotten, Some(cutoff.0)));
                let error = store.read_as_of(name, as_of, 0, ReadLimit::default()).expect_err("it too");
                assert_eq!((error.kind(), error.expected()), (ErrorKind::Forgotten, Some(cutoff.0)));
            }
        }
        let mut times: Vec<_> = self.logs.iter().flat_map(|log| log.past.iter().map(|(_, time, _)| *time)).collect();
        times.sort_unstable();
        times.dedup();
        for time in times.iter().skip(skip as usize).step_by(apart as usize) {
            for as_of in [AsOf::Time(TimeUs(time.0 - 1)), AsOf::Time(*time)] {
                (0..LOGS as usize).for_each(|n| self.at_time(n, as_of, cutoff));
            }
        }
        self.unknown += self.logs.iter().map(|log| self.unknown_of(log)).sum::<u64>();
    }

    /// Asks for a time: the answer is exact, or refused where the cutoff leaves open what it is.
    fn at_time(&self, n: usize, as_of: AsOf, cutoff: Lsn) {
        let log = &self.logs[n];
        match self.world.store.info_as_of(&log.name, as_of) {
            Err(error) if error.kind() == ErrorKind::Forgotten => {
                let all = self.logs.iter().flat_map(|log| &log.past);
                let last = all.filter(|(lsn, time, _)| as_of.covers(*lsn, *time)).map(|(lsn, ..)| *lsn).max();
                // A pin is no entry of the model's.
                let early = last.unwrap_or_default().0 + 2 < cutoff.0;
                let gone = log.at(as_of).deleted.is_some_and(|lsn| lsn <= cutoff);
                assert!(early || gone || last < Some(cutoff), "{} as of {as_of} is refused: {error}", log.name);
            }
            _ => self.exact(n, as_of, &Asked::Open(&self.world)),
        }
    }

    fn exact(&self, n: usize, as_of: AsOf, asked: &Asked<'_>) {
        let (log, want) = (&self.logs[n], self.logs[n].at(as_of));
        let place = format!("{} as of {as_of}, cutoff {}", log.name, self.cutoff());
        let info = asked.info(&log.name, as_of);
        let read = |from: u64, limit| asked.read(&log.name, as_of, from, limit);
        if want.created == Lsn(0) {
            assert_eq!(info.expect_err("not yet").kind(), ErrorKind::NotFound, "{place}");
            assert_eq!(read(0, ReadLimit::default()).expect_err("not yet").kind(), ErrorKind::NotFound, "{place}");
            return;
        }
        let info = info.unwrap_or_else(|error| panic!("{place}: {error}"));
        assert_eq!((info.deleted, info.next_seq), (want.deleted.is_some(), want.next), "{place}");
        assert!(info.tag.is_empty(), "{place}: tags are not told");
        if want.deleted.is_none_or(|lsn| lsn > self.cutoff()) {
            assert_eq!((info.first_seq, info.closed, info.created), (want.first, want.closed, want.created), "{place}");
            assert_eq!(info.metadata, want.metadata, "{place}");
        }
        if want.deleted.is_some() {
            assert_eq!(read(want.first, ReadLimit::default()).expect_err("deleted").kind(), ErrorKind::Deleted);
            return;
        }
        for seq in want.first..=want.next {
            let (cursor, known) = (history::cursor(&want.timelines, Seq(seq)), info.cursor(seq));
            let forgotten = seq == want.first && known == Cursor { timeline: Timeline::default(), seq };
            assert!(known == cursor || forgotten, "{place}: {known} instead of {cursor}");
        }
        let limit = ReadLimit { records: 1 + (want.next % 5) as usize, bytes: 30_000 };
        let (mut next, mut got) = (want.first, Vec::new());
        while next < want.next {
            let page = read(next, limit).unwrap_or_else(|error| panic!("{place}, from {next}: {error}"));
            let bytes: usize = page.records.iter().map(|record| record.payload.len()).sum();
            assert!(page.records.len() <= limit.records && (bytes <= limit.bytes || page.records.len() == 1));
            assert_eq!((page.head, page.closed, page.created), (want.next, want.closed, want.created), "{place}");
            next = page.next_seq;
            got.extend(page.records);
        }
        assert!(got.iter().eq(log.records.range(want.first..want.next).map(|(_, record)| record)), "{place}");
        assert_eq!(read(want.next + 1, limit).expect_err("past the end").kind(), ErrorKind::Invalid, "{place}");
        if let Some(below) = want.first.checked_sub(1) {
            assert_eq!(read(below, limit).expect_err("trimmed").kind(), ErrorKind::Trimmed, "{place}");
        }
    }

    /// The log's moments at which the timeline before its first record is not known any more.
    fn unknown_of(&self, log: &Log) -> u64 {
        let cutoff = self.cutoff();
        let moments = log.past.iter().filter(|(lsn, _, shape)| *lsn >= cutoff && shape.deleted.is_none());
        let unknown = moments.filter(|(lsn, _, shape)| {
            let info = self.world.store.info_as_of(&log.name, AsOf::Lsn(*lsn)).expect("exact");
            shape.first > 0 && info.cursor(shape.first).timeline == Timeline::default()
        });
        unknown.count() as u64
    }
}

fn play(seed: u64, steps: u64) -> Play {
    let mut play = Play::new(seed);
    for step in 0..steps {
        play.step();
        match play.numbers.below(14) {
            0 | 1 => play.world.flush(),
            2 => (0..play.numbers.below(4)).for_each(|_| _ = play.world.steps.merge().expect("a sound disk")),
            3 => play.world.clock.pass(play.numbers.below(GRACE / 4)),
            4 | 5 => play.world.clock.pass(play.numbers.below(3)),
            6 if step % 4 == 0 => play.world = play.world.reopen(),
            _ => {}
        }
        if step % 40 == 39 {
            play.check(19);
        }
    }
    play
}

#[test]
fn every_moment_is_told_as_it_was_in_memory_in_segments_and_after_a_reopen() {
    let (mut answered, mut refused, mut unknown, mut dropped) = (0, 0, 0, 0);
    for seed in 0..60 {
        let mut play = play(seed, 160);
        play.check(9);
        play.world.flush();
        play.check(9);
        play.world.merge();
        play.check(9);
        dropped += play.world.store.stats().dropped_records;
        play.world = play.world.reopen();
        play.check(9);
        play.world.clock.pass(GRACE / 2);
        play.world.merge();
        play.check(3);
        (answered, refused) = (answered + play.answered, refused + play.refused);
        (unknown, dropped) = (unknown + play.unknown, dropped + play.world.store.stats().dropped_records);
    }
    assert!(answered > 25_000 && refused > 5_000, "{answered} answered, {refused} refused");
    assert!(dropped > 100, "{dropped} records were left out");
    assert!(unknown * 300 < answered, "{unknown} of {answered} cursors are not known any more");
}
