//! What merges give back, and what they must not: trimmed, deleted, taken back, created again and forked logs, before and
//! after the grace.

use super::testing::{DIR, Hand};
use super::{Steps, Store};
use crate::config::Config;
use crate::error::{ErrorKind, Result};
use crate::io::mem::MemIo;
use crate::read::ReadLimit;
use crate::sync::Arc;

use crate::types::{Cursor, Position};
use crate::{Ack, Batch, LogBatch, Receipt};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

const ALL: ReadLimit = ReadLimit { records: usize::MAX, bytes: usize::MAX };
pub(super) const GRACE: u64 = 1000;

/// A store that is driven step by step, on a disk in memory and a clock moved by hand.
pub(super) struct World {
    pub(super) io: MemIo,
    pub(super) clock: Hand,
    pub(super) store: Store,
    pub(super) steps: Steps,
}

fn config() -> Config {
    Config {
        journal_file_bytes: 4 << 20,
        memory_pool_bytes: 8 << 20,
        flush_bytes: 4 << 20,
        merge_width: 3,
        merge_reserve_bytes: 300 << 10,
        grace: Duration::from_secs(GRACE),
        ..Config::small()
    }
}

impl World {
    pub(super) fn new() -> Self {
        let (io, clock) = (MemIo::new(), Hand::default());
        clock.pass(1_000_000_000);
        Store::create_on(Arc::new(io.clone()), Arc::new(clock.clone()), Path::new(DIR), &config())
            .expect("an empty disk");
        let (store, steps) = opened(&io, &clock);
        Self { io, clock, store, steps }
    }

    pub(super) fn reopen(self) -> Self {
        self.reopen_after(|| {})
    }

    /// Something happens while it is closed.
    pub(super) fn reopen_after(self, meanwhile: impl FnOnce()) -> Self {
        let Self { io, clock, store, steps } = self;
        steps.close().expect("clean");
        drop(store);
        meanwhile();
        assert_eq!(crate::verify(Arc::new(io.clone()), Path::new(DIR), &mut |_, _| {}).expect("readable"), []);
        let (store, steps) = opened(&io, &clock);
        Self { io, clock, store, steps }
    }

    pub(super) fn put<'a>(&mut self, log: &'a str, make: impl FnOnce(&mut LogBatch<'a>)) -> Result<Receipt> {
        let mut batch = Batch::new();
        make(batch.log(log));
        self.append(batch)
    }

    pub(super) fn append(&mut self, batch: Batch<'_>) -> Result<Receipt> {
        let ack = self.store.append(batch)?;
        self.answer(&ack)
    }

    fn answer(&mut self, ack: &Ack) -> Result<Receipt> {
        loop {
            if let Some(answer) = ack.try_get() {
                return answer;
            }
            assert!(self.steps.commit().expect("a sound disk"), "nothing moves");
        }
    }

    /// Ends the process without a clean close.
    pub(super) fn crash(self) -> Self {
        let Self { io, clock, store, steps } = self;
        drop((store, steps));
        let (store, steps) = opened(&io, &clock);
        Self { io, clock, store, steps }
    }

    pub(super) fn flush(&mut self) {
        self.store.flush().expect("asked");
        self.steps.flush().expect("a sound disk");
    }

    pub(super) fn merge(&mut self) {
        while self.steps.merge().expect("a sound disk") {}
    }

    /// Lets the grace of everything so far pass, and merges.
    pub(super) fn outwait(&mut self) {
        self.flush();
        self.clock.pass(GRACE + GRACE / 8);
        self.merge();
    }

    pub(super) fn records(&self, log: &str) -> Result<Vec<Vec<u8>>> {
        let first = self.store.info(log)?.first_seq;
        Ok(self.store.read(log, first, ALL)?.records.into_iter().map(|record| record.payload).collect())
    }
}

fn opened(io: &MemIo, clock: &Hand) -> (Store, Steps) {
    Store::open_stepped(Arc::new(io.clone()), Arc::new(clock.clone()), Path::new(DIR), config()).expect("a store")
}

/// Bytes that do not compress.
pub(super) fn noise(len: usize, salt: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&salt.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

pub(super) fn name(n: u64) -> String {
    format!("users/{n}/log")
}

/// Fills 40 logs of 4 records, in two segments.
pub(super) fn filled() -> World {
    let mut world = World::new();
    for round in 0..2 {
        for log in 0..40 {
            let (name, a, b) = (name(log), noise(9000, 4 * log + 2 * round), noise(9000, 4 * log + 2 * round + 1));
            world.put(&name, |log| _ = log.create_if_missing().record(&a).record(&b)).expect("durable");
        }
        world.flush();
    }
    world
}

/// Leaves the disk without any room, on which so many of 40 logs are dead.
fn fill_disk(world: &mut World, dead: u64) {
    for log in 0..dead {
        world.put(&name(log), |log| _ = log.delete()).expect("durable");
    }
    world.flush();
    world.clock.pass(GRACE + GRACE / 8);
    let used = world.io.snapshot().values().map(|bytes| bytes.len() as u64).sum();
    world.io.limit(Some(used));
}

/// The same, where one record waits for a flush.
fn full_disk_with_dead_logs(mut world: World) -> World {
    fill_disk(&mut world, 26);
    let waits = noise(100_000, 0);
    world.put("waiting", |log| _ = log.create().record(&waits)).expect("the journal has room");
    world.store.flush().expect("asked");
    let error = world.steps.flush().expect_err("the disk is full");
    assert!(error.is_full_disk(), "{error}");
    world
}

/// Merges until there is nothing to do, and counts the steps that failed and those that had the room that is kept.
fn merge_on_full_disk(world: &mut World) -> (u64, u64) {
    let (mut failed, mut lent, mut waits) = (0, 0, 0);
    loop {
        if !world.io.snapshot().contains_key(&Path::new(DIR).join("reserve")) {
            lent += 1;
            match world.steps.flush() {
                Ok(moved) => assert!(!moved, "it takes the merge's room"),
                Err(error) => assert!(error.to_string().contains("a merge has the last room"), "{error}"),
            }
        }
        match world.steps.merge() {
            Ok(true) => {}
            // It may be that a flush has its turn.
            Ok(false) if waits < 5 => {
                waits += 1;
                world.clock.pass(3);
            }
            Ok(false) => return (failed, lent),
            Err(_) => failed += 1,
        }
        assert!(failed < 20, "it is tried without end");
    }
}

fn reserved(world: &World) -> Option<usize> {
    world.io.snapshot().get(&Path::new(DIR).join("reserve")).map(Vec::len)
}

#[test]
fn on_a_full_disk_what_is_dead_is_given_back_in_the_room_that_is_kept_for_that() {
    let mut world = filled();
    // Whole again after a crash while it was lent, or made.
    for left in [None, Some(vec![0; 4096])] {
        let mut files = world.io.snapshot();
        let path = Path::new(DIR).join("reserve");
        files.remove(&path);
        files.extend(left.map(|bytes| (path, bytes)));
        world.io.restore(&files);
        world = world.crash();
        world.merge();
        assert_eq!(reserved(&world), Some(300 << 10));
    }
    let mut world = full_disk_with_dead_logs(world);
    let full = world.store.stats().segment_bytes;
    let (failed, lent) = merge_on_full_disk(&mut world);
    assert!((1..5).contains(&failed) && lent > 0, "{failed} merges failed, {lent} steps had the room");
    let stats = world.store.stats();
    assert!(stats.segment_bytes * 2 < full, "{} of {full} bytes are left", stats.segment_bytes);
    assert_eq!((stats.dropped_records, reserved(&world)), (26 * 4, Some(300 << 10)));
    assert!(world.steps.flush().expect("there is room again"));
    assert!((26..40).all(|log| world.records(&name(log)).expect("alive").len() == 4));
}

#[test]
fn a_larger_merge_that_finds_no_room_hinders_no_rewrite() {
    // A third segment of the size class of the others: the three are due to be merged.
    let mut world = filled();
    world.merge();
    for log in 26..40 {
        let (name, more) = (name(log), noise(52_000, 1000 + log));
        world.put(&name, |log| _ = log.record(&more)).expect("durable");
    }
    let mut world = full_disk_with_dead_logs(world);
    assert!(world.store.stats().segments >= 3);
    let (failed, lent) = merge_on_full_disk(&mut world);
    assert!(failed > 1 && lent > 0, "{failed} merges failed, {lent} steps had the room");
    let dropped = world.store.stats().dropped_records;
    assert_eq!((dropped, reserved(&world)), (26 * 4, Some(300 << 10)));
    assert!((26..40).all(|log| world.records(&name(log)).expect("alive").len() == 5));
}

#[test]
fn what_fits_into_no_room_is_left_alone_for_a_while_and_no_flush_waits_for_it() {
    let mut world = filled();
    world.merge();
    fill_disk(&mut world, 14);
    let (failed, _) = merge_on_full_disk(&mut world);
    assert!((1..8).contains(&failed), "{failed}");
    assert_eq!((world.store.stats().dropped_records, reserved(&world)), (0, Some(300 << 10)));
    let loans = world.store.stats().reserve_loans;
    assert!(loans <= 1, "only what the deletions themselves are in fits");
    // There is room.
    world.io.limit(None);
    world.merge();
    assert_eq!(world.store.stats().dropped_records, 0, "not at once");
    world.clock.pass(700);
    world.merge();
    assert_eq!(world.store.stats().dropped_records, 14 * 4);
}

#[test]
fn what_is_deleted_is_kept_for_the_grace_and_then_given_back() {
    let mut world = filled();
    let full = world.store.stats().segment_bytes;
    let old_head: Cursor = world.store.read(&name(0), 0, ALL).expect("there").next;
    for log in (0..40).step_by(2) {
        world.put(&name(log), |log| _ = log.delete()).expect("durable");
    }
    world.flush();
    world.clock.pass(GRACE - 1);
    world.merge();
    assert_eq!(world.store.stats().dropped_records, 0, "the grace is not over");
    // Taken back in time, wholly.
    world.put(&name(38), |log| _ = log.undelete()).expect("in time");
    world.outwait();
    let stats = world.store.stats();
    assert_eq!(stats.dropped_records, 19 * 4);
    assert!(stats.segment_bytes * 10 < full * 6, "{} of {full} bytes are left", stats.segment_bytes);
    for again in 0..2 {
        for log in 0..40 {
            let name = name(log);
            if log % 2 == 1 || log == 38 {
                let records = world.records(&name).expect("alive");
                assert_eq!(records, (0..4).map(|n| noise(9000, 4 * log + n)).collect::<Vec<_>>(), "{name}");
                continue;
            }
            assert!(world.store.info(&name).expect("where it ended is known").deleted);
            assert_eq!(world.store.read(&name, 0, ALL).expect_err("deleted").kind(), ErrorKind::Deleted);
            let error = world.put(&name, |log| _ = log.undelete()).expect_err("too late");
            assert_eq!(error.kind(), ErrorKind::Deleted);
            let error = world.put(&name, |log| _ = log.record(b"late")).expect_err("deleted");
            assert_eq!(error.kind(), ErrorKind::Deleted);
        }
        assert_eq!(world.store.list("", None, 100).expect("listed").len(), 21);
        world = world.reopen();
        world.outwait();
        assert_eq!(world.store.stats().dropped_records, 0, "once more, {again}");
    }
    // A log in its place goes on behind it, and no cursor into what is gone is taken for one into it.
    let receipt = world.put(&name(0), |log| _ = log.create_with(b"new").record(b"anew")).expect("created");
    assert_eq!(receipt.logs[0].first_seq, 5);
    for _ in 0..2 {
        let read = |position: Position| world.store.read(&name(0), position, ALL).map(|page| page.records.len());
        let kinds = [ErrorKind::Trimmed, ErrorKind::Rewound];
        assert!(kinds.contains(&read(old_head.into()).expect_err("it is gone").kind()));
        assert_eq!(world.store.info(&name(0)).expect("there").first_seq, 5);
        assert_eq!(world.records(&name(0)).expect("there"), [b"anew"]);
        world.outwait();
        world = world.reopen();
    }
    assert_eq!(world.store.list("", None, 100).expect("listed").len(), 22);
}

#[test]
fn neighbours_of_which_much_is_dead_become_one_segment() {
    let mut world = filled();
    for log in 0..30 {
        world.put(&name(log), |log| _ = log.delete()).expect("durable");
    }
    world.flush();
    assert_eq!(world.store.stats().segments, 3);
    world.outwait();
    let stats = world.store.stats();
    assert_eq!((stats.segments, stats.merges, stats.dropped_records), (1, 1, 30 * 4));
    for log in 30..40 {
        assert_eq!(world.records(&name(log)).expect("alive").len(), 4);
    }
}

#[test]
fn a_creation_that_is_not_durable_ends_nothing() {
    let mut world = filled();
    for log in 0..30 {
        world.put(&name(log), |log| _ = log.delete()).expect("durable");
    }
    world.flush();
    world.clock.pass(GRACE - 10);
    for log in 0..30 {
        world.put(&name(log), |log| _ = log.undelete()).expect("in time");
        world.put(&name(log), |log| _ = log.delete()).expect("durable");
    }
    world.clock.pass(20);
    // The grace of the first deletions is over, which were taken back; that of the second ones is not.
    for log in 0..30 {
        let (mut batch, name) = (Batch::new(), name(log));
        batch.log(&name).create();
        drop(world.store.append(batch).expect("staged"));
    }
    world.merge();
    // The creations are in memory alone.
    world = world.crash();
    for log in 0..30 {
        world.put(&name(log), |log| _ = log.undelete()).expect("in time");
        assert_eq!(world.records(&name(log)).expect("alive").len(), 4);
    }
}

#[test]
fn a_grace_that_is_made_longer_takes_nothing_back() {
    let mut world = filled();
    world.put(&name(0), |log| _ = log.delete()).expect("durable");
    for log in 1..30 {
        world.put(&name(log), |log| _ = log.delete()).expect("durable");
    }
    world.outwait();
    assert!(world.store.stats().dropped_records > 0);
    let World { io, clock, store, steps } = world;
    steps.close().expect("clean");
    drop(store);
    let longer = Config { grace: Duration::from_secs(100 * GRACE), ..config() };
    let (store, steps) =
        Store::open_stepped(Arc::new(io.clone()), Arc::new(clock.clone()), Path::new(DIR), longer).expect("a store");
    let mut world = World { io, clock, store, steps };
    for log in 0..30 {
        let error = world.put(&name(log), |log| _ = log.undelete()).expect_err("it is gone");
        assert_eq!(error.kind(), ErrorKind::Deleted);
    }
}

#[test]
fn what_is_trimmed_is_given_back_and_the_rest_reads_on() {
    let mut world = filled();
    let full = world.store.stats().segment_bytes;
    for log in 0..40 {
        world.put(&name(log), |log| _ = log.trim(3)).expect("durable");
    }
    world.outwait();
    let stats = world.store.stats();
    assert_eq!(stats.dropped_records, 40 * 3);
    assert!(stats.segment_bytes * 2 < full, "{} of {full} bytes are left", stats.segment_bytes);
    for round in 0..6 {
        for log in 0..40 {
            let records = world.records(&name(log)).expect("alive");
            assert_eq!(records[0], noise(9000, 4 * log + 3));
            assert_eq!(records.len() as u64, 1 + round);
            let error = world.store.read(&name(log), 2, ALL).expect_err("trimmed");
            assert_eq!(error.kind(), ErrorKind::Trimmed);
            let more = noise(300, round);
            world.put(&name(log), |log| _ = log.record(&more)).expect("durable");
        }
        world.outwait();
        world = world.reopen();
    }
    // All of a log, its end included.
    for log in 0..40 {
        world.put(&name(log), |log| _ = log.trim(10)).expect("durable");
    }
    world.outwait();
    world = world.reopen();
    for log in 0..40 {
        assert_eq!(world.records(&name(log)).expect("alive"), [] as [Vec<u8>; 0]);
        let receipt = world.put(&name(log), |log| _ = log.record(b"next")).expect("durable");
        assert_eq!(receipt.logs[0].first_seq, 10);
    }
}

#[test]
fn a_fork_keeps_what_it_reads_of_its_parent() {
    let mut world = filled();
    for log in 0..20 {
        let child = format!("{}/child", name(log));
        let parent = name(log);
        world.put(&child, |log| _ = log.fork(&parent, 3)).expect("durable");
        let grandchild = format!("{}/grandchild", name(log));
        let at = if log % 2 == 0 { 2 } else { 3 };
        world.put(&grandchild, |log| _ = log.fork(&child, at)).expect("durable");
    }
    for log in 0..40 {
        world.put(&name(log), |log| _ = log.delete()).expect("durable");
        if log < 20 {
            world.put(&format!("{}/child", name(log)), |log| _ = log.delete()).expect("durable");
        }
    }
    world.outwait();
    assert_eq!(world.store.stats().dropped_records, 20 * 4, "of those that nobody forked");
    world = world.reopen();
    for log in 0..20 {
        let records = world.records(&format!("{}/grandchild", name(log))).expect("alive");
        let want = if log % 2 == 0 { 2 } else { 3 };
        assert_eq!(records, (0..want).map(|n| noise(9000, 4 * log + n)).collect::<Vec<_>>(), "log {log}");
    }
}

#[test]
fn a_batch_does_not_fork_a_log_that_it_changes() {
    let mut world = filled();
    let mut batch = Batch::new();
    batch.log("child").fork("users/1/log", 2);
    batch.log("users/1/log").record(b"more");
    assert_eq!(world.append(batch).expect_err("two batches are needed").kind(), ErrorKind::Invalid);
    // Other metadata is no change of what the fork reads, and may come before the fork or behind it in the batch.
    for (n, before) in [true, false].into_iter().enumerate() {
        let (child, count) = (format!("counted/{n}"), format!("forks: {n}"));
        let mut batch = Batch::new();
        if before {
            batch.log("users/2/log").metadata(count.as_bytes());
        }
        batch.log(&child).fork("users/2/log", 2).metadata(b"of its own").record(b"more");
        batch.log("users/2/log").metadata(count.as_bytes());
        world.append(batch).expect("durable");
        world = world.reopen();
        assert_eq!(world.store.info("users/2/log").expect("there").metadata, count.as_bytes());
        assert_eq!(world.store.info(&child).expect("there").metadata, b"of its own");
        assert_eq!(world.records(&child).expect("alive").len(), 3);
        world.put("users/2/log", |log| _ = log.metadata(b"")).expect("durable");
    }
    // Two forks of one log are one pin.
    let mut batch = Batch::new();
    batch.log("a").fork("users/1/log", 2);
    batch.log("b").fork("users/1/log", 4);
    world.append(batch).expect("durable");
}

/// A small generator: the same numbers each time.
pub(super) struct Numbers(pub(super) u64);

impl Numbers {
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// What a log must be: its records that are kept by seq, its next seq, when it expires, and when it ended.
#[derive(Clone, Default)]
struct Model {
    records: BTreeMap<u64, Vec<u8>>,
    next: u64,
    expires: Option<u64>,
    deleted: Option<u64>,
}

impl Model {
    /// It is `now`. Whether the log expired.
    fn pass(&mut self, now: u64) -> bool {
        let expires = self.deleted.is_none() && self.expires.is_some_and(|at| at <= now);
        if expires {
            self.deleted = self.expires.take();
        }
        expires
    }
}

#[test]
fn logs_live_and_end_by_chance_and_nothing_is_lost_or_comes_back() {
    let ends: Vec<_> = (0..12).map(by_chance).collect();
    let [undeleted, refused, expired] = [0, 1, 2].map(|n| ends.iter().map(|counts| counts[n]).sum::<u64>());
    assert!(
        undeleted > 100 && refused > 10 && expired > 100,
        "{undeleted} taken back, {refused} refused, {expired} expired"
    );
}

/// Gives how many ends were taken back, how many were not any more, and how many logs expired.
fn by_chance(seed: u64) -> [u64; 3] {
    let (mut world, mut numbers) = (World::new(), Numbers(seed));
    let mut model: BTreeMap<String, Model> = BTreeMap::new();
    let (mut now, mut undeleted, mut refused, mut expired) = (0, 0, 0, 0);
    for step in 0..900 {
        let name = name(numbers.below(15));
        expired += model.values_mut().map(|log| u64::from(log.pass(now))).sum::<u64>();
        let log = model.entry(name.clone()).or_default();
        let payload = noise(20 + numbers.below(400) as usize, step);
        match (log.next, log.deleted, numbers.below(20)) {
            (0, None, _) => {
                world.put(&name, |log| _ = log.create().record(&payload)).expect("durable");
                log.records.insert(0, payload);
                log.next = 1;
            }
            (_, None, 0) => {
                world.put(&name, |log| _ = log.delete()).expect("durable");
                log.deleted = Some(now);
            }
            (next, None, 1 | 2) => {
                let kept = next - numbers.below(next + 1).min(3);
                world.put(&name, |log| _ = log.trim(kept)).expect("durable");
                log.records.retain(|seq, _| *seq >= kept);
            }
            (_, None, 3) => {
                let after = Some(numbers.below(GRACE)).filter(|after| after % 4 > 0);
                world.put(&name, |log| _ = log.expire(after.map(Duration::from_secs))).expect("durable");
                log.expires = after.map(|after| now + after);
            }
            (next, None, _) => {
                let receipt = world.put(&name, |log| _ = log.record(&payload)).expect("durable");
                assert_eq!(receipt.logs[0].first_seq, next);
                log.records.insert(next, payload);
                log.next += 1;
            }
            (_, Some(at), 0..=4) => match world.put(&name, |log| _ = log.undelete()) {
                Ok(_) => (log.deleted, log.expires, undeleted) = (None, None, undeleted + 1),
                Err(error) => {
                    assert!(error.kind() == ErrorKind::Deleted && at + GRACE <= now, "{error} at {now}, since {at}");
                    refused += 1;
                }
            },
            (next, Some(_), 5..=7) => {
                let receipt = world.put(&name, |log| _ = log.create().record(&payload)).expect("durable");
                assert_eq!(receipt.logs[0].first_seq, next + 1);
                *log = Model { records: BTreeMap::from([(next + 1, payload)]), next: next + 2, ..Model::default() };
            }
            _ => {}
        }
        match numbers.below(12) {
            0 => world.flush(),
            1 => (0..numbers.below(4)).for_each(|_| _ = world.steps.merge().expect("a sound disk")),
            2 => {
                let passed = numbers.below(GRACE / 3);
                world.clock.pass(passed);
                now += passed;
            }
            3 if step % 5 == 0 => world = world.reopen(),
            _ => {}
        }
        if step % 50 == 49 {
            world.merge();
            expired += model.values_mut().map(|log| u64::from(log.pass(now))).sum::<u64>();
            for (name, log) in &model {
                match world.records(name) {
                    Ok(records) => {
                        assert!(log.deleted.is_none(), "{name} came back at step {step}");
                        assert!(records.iter().eq(log.records.values()), "{name} at step {step}");
                    }
                    Err(error) => {
                        let kind = if log.next == 0 { ErrorKind::NotFound } else { ErrorKind::Deleted };
                        assert!(error.kind() == kind && (log.next == 0 || log.deleted.is_some()), "{name}: {error}");
                    }
                }
            }
        }
    }
    [undeleted, refused, expired]
}
