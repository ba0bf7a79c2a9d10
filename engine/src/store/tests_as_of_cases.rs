//! As-of reads where they meet merges: what a merge takes meanwhile, what is gone, what is missing; cursors, lists and times.

use super::testing::Hand;
use super::tests_reclaim::{GRACE, World, noise};
use super::{Steps, Store, listing};
use crate::clock::Clock;
use crate::error::ErrorKind;
use crate::format::manifest::{Manifest, Mark};
use crate::read::{ReadLimit, read_as_of};
use crate::types::{AsOf, Cursor, Lsn, Position, TimeUs};
use std::cell::RefCell;

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
fn amid_a_merge<'a>(store: &'a Store, clock: &'a Hand, steps: Steps) -> impl Fn(&Manifest) -> Mark + 'a {
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
    let info = |lsn| listing::info_as_of(&world.store.inner.core.index, "log", AsOf::Lsn(lsn), &|_| Mark::default());
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
    let error = listing::info_as_of(index, "log", AsOf::Lsn(as_of), &|_| Mark::default())
        .expect_err("as if nothing was given up");
    assert_eq!(error.kind(), ErrorKind::Damaged);
}
