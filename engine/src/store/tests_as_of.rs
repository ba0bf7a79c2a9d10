//! As-of reads: each moment of histories made by chance, asked for in memory, from segments, after merges that gave space
//! back and after reopens, and compared with what was the case then.

use super::testing::{DIR, Hand};
use super::tests_reclaim::{GRACE, Numbers, World, noise};
use super::{LogInfo, ReadOnly, Steps, Store, listing};
use crate::Batch;
use crate::clock::Clock;
use crate::error::{ErrorKind, Result};
use crate::format::manifest::Manifest;
use crate::index::history;
use crate::read::{Page, ReadLimit, Record, read_as_of};
use crate::sync::Arc;
use crate::types::{AsOf, Cursor, Lsn, Position, Seq, TimeUs, Timeline};
use std::cell::RefCell;
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
        store.cutoff(&store.inner.core.index.set().manifest)
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
        assert_eq!(info.tag, [], "{place}: tags are not told");
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

/// A log of four records, trimmed to 2 long ago and deleted just now, in two segments; and the LSN of its fourth record.
fn trimmed_and_deleted() -> (World, Lsn) {
    let mut world = World::new();
    let lsn = world.put("log", |log| _ = log.create().record(b"0").record(b"1").record(b"2").record(b"3"));
    let lsn = lsn.expect("durable").logs[0].lsn;
    world.flush();
    world.put("log", |log| _ = log.trim(2)).expect("durable");
    world.put("log", |log| _ = log.delete()).expect("durable");
    world.flush();
    (world, lsn)
}

/// A cutoff as the store tells it; after it was told for the first time the grace passes, and merges do what they may.
fn amid_a_merge<'a>(store: &'a Store, clock: &'a Hand, steps: Steps) -> impl Fn(&Manifest) -> Lsn + 'a {
    let steps = RefCell::new(Some(steps));
    move |manifest| {
        let cutoff = store.cutoff(manifest);
        if let Some(mut steps) = steps.take() {
            clock.pass(2 * GRACE);
            while steps.merge().expect("a sound disk") {}
            assert!(store.stats().dropped_records > 0, "a merge gave something back");
        }
        cutoff
    }
}

#[test]
fn a_merge_that_commits_meanwhile_takes_nothing_from_a_look_at_a_past_state() {
    let (world, lsn) = trimmed_and_deleted();
    let World { clock, store, steps, .. } = world;
    let cutoff = amid_a_merge(&store, &clock, steps);
    let info = listing::info_as_of(&store.inner.core.index, "log", AsOf::Lsn(lsn), &cutoff).expect("of the set held");
    assert_eq!((info.first_seq, info.next_seq, info.deleted), (0, 4, false));
    let error = store.info_as_of("log", AsOf::Lsn(lsn)).expect_err("afterwards");
    assert_eq!(error.kind(), ErrorKind::Forgotten);
}

#[test]
fn a_read_whose_records_a_merge_gave_back_meanwhile_is_refused_and_not_called_damaged() {
    let (world, lsn) = trimmed_and_deleted();
    let World { clock, store, steps, .. } = world;
    let cutoff = amid_a_merge(&store, &clock, steps);
    let (index, from) = (&store.inner.core.index, Position::Start);
    let error = read_as_of(index, "log", AsOf::Lsn(lsn), &cutoff, from, ReadLimit::default()).expect_err("given back");
    let first = store.inner.core.index.set().manifest.cutoff.lsn;
    assert_eq!((error.kind(), error.expected()), (ErrorKind::Forgotten, Some(first.0)));
}

#[test]
fn a_cursor_of_a_past_moment_is_checked_against_the_history_of_that_moment() {
    let mut world = World::new();
    let put = |world: &mut World, payload: &[u8]| {
        world.put("log", |log| _ = log.create_if_missing().record(payload)).expect("durable").logs[0]
    };
    let first = put(&mut world, b"0");
    world = world.reopen();
    let second = put(&mut world, b"1");
    world.flush();
    for _ in 0..2 {
        let read =
            |as_of: Lsn, from: Cursor| world.store.read_as_of("log", AsOf::Lsn(as_of), from, ReadLimit::default());
        let page = read(second.lsn, first.next()).expect("it leads through it");
        assert_eq!((page.records.len(), page.start, page.next), (1, first.next(), second.next()));
        assert_eq!(read(first.lsn, first.next()).expect("its end").records, []);
        let error = read(first.lsn, second.next()).expect_err("to come");
        assert_eq!((error.kind(), error.cut()), (ErrorKind::Rewound, Some(Cursor::default())));
        world = world.reopen();
    }
}

#[test]
fn logs_that_were_deleted_since_are_listed_as_of_a_moment_at_which_they_were_there() {
    let mut world = World::new();
    let before = world.put("a", |log| _ = log.create().record(b"0")).expect("durable").logs[0].lsn;
    let both = world.put("b", |log| _ = log.create()).expect("durable").logs[0].lsn;
    world.put("a", |log| _ = log.delete()).expect("durable");
    for _ in 0..2 {
        let names = |lsn| -> Vec<_> {
            let logs = world.store.list_as_of(AsOf::Lsn(lsn), "", None, 10).expect("listed");
            logs.into_iter().map(|log| log.name).collect()
        };
        assert_eq!((names(before), names(both)), (vec!["a".to_owned()], vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(names(both.next()), ["b"]);
        world.flush();
    }
}

#[test]
fn a_time_to_come_is_the_present() {
    let mut world = World::new();
    let time = AsOf::Time(TimeUs(u64::MAX));
    for n in 1..4 {
        world.put("log", |log| _ = log.create_if_missing().record(b"more")).expect("durable");
        assert_eq!(world.store.info_as_of("log", time).expect("there").next_seq, n);
        world.flush();
        assert_eq!(
            world.store.read_as_of("log", time, 0, ReadLimit::default()).expect("there").records.len() as u64,
            n
        );
    }
}

#[test]
fn what_is_missing_that_the_log_had_not_given_up_at_the_moment_is_damage() {
    let mut world = World::new();
    world.put("log", |log| _ = log.create()).expect("durable");
    world.flush();
    let lsn = world.put("log", |log| _ = log.record(b"0").record(b"1").record(b"2")).expect("durable").logs[0].lsn;
    let trim = world.put("log", |log| _ = log.trim(2)).expect("durable").logs[0].lsn;
    world.outwait();
    world.put("log", |log| _ = log.record(b"3")).expect("durable");
    world.outwait();
    assert_eq!(world.store.stats().dropped_records, 2);
    // As if the cutoff had been forgotten that merges acted on.
    let info = |lsn| listing::info_as_of(&world.store.inner.core.index, "log", AsOf::Lsn(lsn), &|_| Lsn(0));
    let error = info(lsn).expect_err("two records are missing");
    assert_eq!((error.kind(), error.log_name().is_some()), (ErrorKind::Damaged, true));
    assert_eq!(info(trim).expect("they were given up by then").next_seq, 3);
}

/// Appends a record to another log and flushes, `count` times: so many small segments. Gives the LSN of the last one.
fn small_segments(world: &mut World, count: usize) -> Lsn {
    let mut last = Lsn(0);
    for _ in 0..count {
        last = world.put("beside", |log| _ = log.create_if_missing().record(b"-")).expect("durable").logs[0].lsn;
        world.flush();
    }
    last
}

/// A segment so large that it is not merged with those beside it, of what is in memory and much else.
fn large_segment(world: &mut World) {
    for n in 0..60 {
        let (name, payload) = (format!("large/{n}"), noise(9000, n));
        world.put(&name, |log| _ = log.create_if_missing().record(&payload)).expect("durable");
    }
    world.flush();
}

/// A store with a large segment, which holds the log with one record.
fn with_large_segment() -> (World, Cursor) {
    let mut world = World::new();
    let first = world.put("log", |log| _ = log.create().record(b"0")).expect("durable").logs[0];
    large_segment(&mut world);
    (world, first.next())
}

/// The moment falls into the newest of two segments, the older of which knows nothing of what merges gave back.
fn assert_parted(world: &World, lsn: Lsn) {
    let set = world.store.inner.core.index.set();
    let lsns: Vec<_> = set.segments.iter().map(|s| s.meta().first_lsn.0..=s.meta().last_lsn.0).collect();
    assert!(lsns.len() == 2 && lsns[1].contains(&lsn.0) && lsns[1].end() > &lsn.0, "{lsns:?} and {lsn}");
}

#[test]
fn a_log_that_was_gone_before_it_was_created_again_is_deleted_in_between() {
    let (mut world, _) = with_large_segment();
    let while_alive = AsOf::Time(world.clock.wall());
    world.clock.pass(1);
    world.put("log", |log| _ = log.record(b"1").delete()).expect("durable");
    small_segments(&mut world, 3);
    world.outwait();
    let between = small_segments(&mut world, 1);
    let while_gone = AsOf::Time(world.clock.wall());
    world.clock.pass(1);
    let again = world.put("log", |log| _ = log.create().record(b"3")).expect("durable").logs[0].lsn;
    small_segments(&mut world, 1);
    world.merge();
    assert_parted(&world, between);
    for _ in 0..2 {
        let info = world.store.info_as_of("log", AsOf::Lsn(between)).expect("known");
        assert_eq!((info.deleted, info.next_seq), (true, 2));
        let error = world.store.read_as_of("log", AsOf::Lsn(between), 0, ReadLimit::default()).expect_err("deleted");
        assert_eq!(error.kind(), ErrorKind::Deleted);
        // It is not known when it was deleted.
        for as_of in [while_alive, while_gone] {
            assert_eq!(world.store.info_as_of("log", as_of).expect_err("unknown").kind(), ErrorKind::Forgotten);
        }
        let info = world.store.info_as_of("log", AsOf::Lsn(again)).expect("known");
        assert_eq!((info.deleted, info.first_seq, info.next_seq), (false, 3, 4));
        world = world.reopen();
    }
}

#[test]
fn who_wrote_the_record_before_the_first_one_is_known_though_it_was_given_back() {
    let (mut world, first) = with_large_segment();
    world = world.reopen();
    let second = world.put("log", |log| _ = log.record(b"1")).expect("durable").logs[0].next();
    small_segments(&mut world, 1);
    world = world.reopen();
    world.put("log", |log| _ = log.record(b"2").trim(2)).expect("durable");
    small_segments(&mut world, 2);
    world.outwait();
    assert_eq!(world.store.stats().dropped_records, 1, "the second one; the large segment stays as it is");
    let as_of = small_segments(&mut world, 1);
    world.put("log", |log| _ = log.record(b"3")).expect("durable");
    small_segments(&mut world, 1);
    world.merge();
    assert_parted(&world, as_of);
    let info = world.store.info_as_of("log", AsOf::Lsn(as_of)).expect("known");
    assert_eq!((info.first_seq, info.next_seq, info.cursor(2), info.cursor(1)), (2, 3, second, first));
    let page = world.store.read_as_of("log", AsOf::Lsn(as_of), second, ReadLimit::default()).expect("known");
    assert_eq!(page.records.iter().map(|record| record.seq).collect::<Vec<_>>(), [2]);
}

#[test]
fn a_log_that_is_gone_by_the_word_of_the_segment_that_the_moment_falls_into_is_deleted() {
    let (mut world, _) = with_large_segment();
    world.put("log", |log| _ = log.record(b"1").delete()).expect("durable");
    small_segments(&mut world, 3);
    world.outwait();
    let as_of = small_segments(&mut world, 1);
    small_segments(&mut world, 1);
    world.merge();
    // Memory knows of the deletion no more.
    world = world.reopen();
    assert_parted(&world, as_of);
    let info = world.store.info_as_of("log", AsOf::Lsn(as_of)).expect("known");
    assert_eq!((info.deleted, info.next_seq), (true, 2));
}

#[test]
fn a_time_at_which_a_log_that_is_gone_may_have_been_alive_is_refused() {
    let (mut world, _) = with_large_segment();
    world.clock.pass(10);
    small_segments(&mut world, 2);
    world.clock.pass(10);
    let alive = AsOf::Time(world.clock.wall());
    world.clock.pass(10);
    world.put("log", |log| _ = log.delete()).expect("durable");
    world.outwait();
    let after = AsOf::Time(world.clock.wall());
    for _ in 0..2 {
        // At first nothing was written behind that segment, later something was.
        assert_eq!(world.store.info_as_of("log", alive).expect_err("unknown").kind(), ErrorKind::Forgotten);
        assert!(world.store.info_as_of("log", after).expect("known").deleted);
        small_segments(&mut world, 1);
    }
}

#[test]
fn a_time_to_come_is_the_present_of_the_question_and_not_of_what_is_given_back_meanwhile() {
    let mut world = World::new();
    world.put("log", |log| _ = log.create().record(b"0").record(b"1")).expect("durable");
    let store = world.store.clone();
    let world = RefCell::new(Some(world));
    let cutoff = |manifest: &Manifest| {
        let cutoff = store.cutoff(manifest);
        if let Some(mut world) = world.take() {
            world.flush();
            world.put("log", |log| _ = log.trim(1).record(b"2")).expect("durable");
            world.outwait();
            assert_eq!(store.stats().dropped_records, 1);
        }
        cutoff
    };
    let (index, time) = (&store.inner.core.index, AsOf::Time(TimeUs(u64::MAX)));
    let read = |limit| read_as_of(index, "log", time, &cutoff, Position::Start, limit);
    assert_eq!(read(ReadLimit::default()).expect_err("given back").kind(), ErrorKind::Forgotten);
    assert_eq!(read(ReadLimit::default()).expect("asked again").records.len(), 2);
}

#[test]
fn records_missing_at_a_logs_end_that_it_had_not_given_up_at_the_moment_are_damage() {
    let (mut world, _) = with_large_segment();
    world.put("log", |log| _ = log.record(b"1").record(b"2")).expect("durable");
    let as_of = small_segments(&mut world, 2);
    small_segments(&mut world, 1);
    world.put("log", |log| _ = log.trim(3)).expect("durable");
    large_segment(&mut world);
    world.outwait();
    assert_eq!(world.store.stats().dropped_records, 2);
    let index = &world.store.inner.core.index;
    let error =
        listing::info_as_of(index, "log", AsOf::Lsn(as_of), &|_| Lsn(0)).expect_err("as if nothing was given up");
    assert_eq!(error.kind(), ErrorKind::Damaged);
}
