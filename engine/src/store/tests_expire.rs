//! Logs that expire: when, what takes it back, and what is left.

use super::tests_reclaim::{GRACE, World, filled, name, noise};
use crate::error::ErrorKind;
use crate::read::ReadLimit;
use crate::types::{AsOf, TimeUs};
use std::time::Duration;

fn secs(seconds: u64) -> Option<Duration> {
    Some(Duration::from_secs(seconds))
}

fn kind(world: &World, log: &str) -> Option<ErrorKind> {
    world.records(log).err().map(|error| error.kind())
}

/// Lets logs 0 to 19 of [`filled`] expire in 100 seconds, in a segment of its own.
fn expiring() -> World {
    let mut world = filled();
    for log in 0..20 {
        world.put(&name(log), |log| _ = log.expire(secs(100))).expect("durable");
    }
    world.flush();
    world
}

#[test]
fn a_log_expires_at_its_time_and_is_as_a_deleted_one() {
    let mut world = expiring();
    world.clock.pass(99);
    assert_eq!(world.store.info(&name(0)).expect("there").expires_in, secs(1));
    assert_eq!(world.store.info(&name(20)).expect("there").expires_in, None);
    // Put off, for ever and for a while; the last word counts.
    world.put(&name(0), |log| _ = log.expire(None)).expect("in time");
    world.put(&name(1), |log| _ = log.record(b"more").expire(secs(50))).expect("in time");
    for log in 0..40 {
        assert_eq!(kind(&world, &name(log)), None, "log {log} expired early");
    }
    world.clock.pass(1);
    for again in 0..3 {
        assert_eq!(world.store.list("", None, 100).expect("listed").len(), 22, "{again}");
        for log in 0..40 {
            let ended = (2..20).contains(&log).then_some(ErrorKind::Deleted);
            assert_eq!(kind(&world, &name(log)), ended, "log {log}");
            assert_eq!(world.store.info(&name(log)).expect("known").deleted, ended.is_some());
            if ended.is_some() {
                let error = world.put(&name(log), |log| _ = log.expire(secs(1000))).expect_err("too late");
                assert!(error.kind() == ErrorKind::Deleted && error.to_string().contains("expired"), "{error}");
                let error = world.put(&name(log), |log| _ = log.record(b"late")).expect_err("too late");
                assert_eq!(error.kind(), ErrorKind::Deleted);
                let error = world.put("fork", |log| _ = log.fork("users/5/log", 2)).expect_err("of nothing");
                assert_eq!(error.kind(), ErrorKind::Deleted);
            }
        }
        world = if again == 0 { world.reopen() } else { world.crash() };
    }
    world.clock.pass(49);
    assert_eq!(kind(&world, &name(1)), Some(ErrorKind::Deleted));
}

#[test]
fn what_expired_is_taken_back_within_the_grace_alone() {
    let mut world = expiring();
    world.clock.pass(100 + GRACE - 1);
    for log in 0..5 {
        world.put(&name(log), |log| _ = log.undelete()).expect("in time");
        let records = world.records(&name(log)).expect("alive");
        assert_eq!(records, (0..4).map(|n| noise(9000, 4 * log + n)).collect::<Vec<_>>());
        assert_eq!(world.store.info(&name(log)).expect("alive").expires_in, None);
    }
    world.clock.pass(1);
    // It is over once the time is on disk with something that came after, and the grace has passed of that.
    world.flush();
    world.put(&name(0), |log| _ = log.record(b"after")).expect("durable");
    world.flush();
    world.merge();
    assert_eq!(world.store.stats().dropped_records, 0);
    world.clock.pass(GRACE);
    for log in 5..20 {
        let error = world.put(&name(log), |log| _ = log.undelete()).expect_err("too late");
        assert_eq!(error.kind(), ErrorKind::Deleted);
    }
    world.merge();
    // More was dead than when it was looked at before, so that it may be more yet.
    world.clock.pass(GRACE / 4);
    world.merge();
    assert_eq!(world.store.stats().dropped_records, 15 * 4);
    for log in 0..5 {
        assert_eq!(world.records(&name(log)).expect("alive").len(), if log == 0 { 5 } else { 4 });
    }
}

#[test]
fn merges_give_back_what_expired_and_no_clock_brings_it_back() {
    let mut world = expiring();
    // Written to after the time was set, in a segment that merges leave alone for now.
    for log in 0..20 {
        world.put(&name(log), |log| _ = log.record(b"later")).expect("in time");
    }
    world.flush();
    outlive(&mut world);
    assert!(world.store.stats().dropped_records >= 20 * 4);
    // The clock goes back to the last stamp on disk, and that is past what was given back.
    for round in 0..3 {
        world = world.crash();
        for log in 0..20 {
            assert_eq!(kind(&world, &name(log)), Some(ErrorKind::Deleted), "log {log}, round {round}");
            let error = world.put(&name(log), |log| _ = log.expire(None)).expect_err("it is gone");
            assert_eq!(error.kind(), ErrorKind::Deleted);
        }
        world.merge();
    }
    for log in 0..20 {
        let receipt = world.put(&name(log), |log| _ = log.create().record(b"anew")).expect("created");
        assert_eq!(receipt.logs[0].first_seq, 6, "no seq is used again");
        assert_eq!(world.records(&name(log)).expect("alive"), [b"anew"]);
    }
    world.outwait();
    world = world.reopen();
    assert_eq!(world.records(&name(7)).expect("alive"), [b"anew"]);
    assert_eq!(world.store.list("", None, 100).expect("listed").len(), 40);
}

#[test]
fn a_log_in_the_place_of_one_that_expired_begins_anew_however_the_clock_goes() {
    let mut world = expiring();
    world.put(&name(0), |log| _ = log.producer(b"phone", 3, 0).record(b"numbered")).expect("durable");
    world.clock.pass(100);
    let make = |log: &mut crate::LogBatch<'_>| _ = log.create().record(b"anew").producer(b"phone", 0, 0);
    let first = world.put(&name(0), make).expect("created");
    assert_eq!((first.logs[0].first_seq, first.logs[0].next_seq), (6, 7));
    // The clock falls behind the time at which the log before it expired.
    world = world.crash();
    for _ in 0..3 {
        let again = world.put(&name(0), make).expect("repeated");
        assert!(again.logs[0].duplicate, "it was created before");
        assert_eq!((again.logs[0].first_seq, again.logs[0].next_seq, again.logs[0].lsn), (6, 7, first.logs[0].lsn));
        assert_eq!(world.records(&name(0)).expect("alive"), [b"anew"]);
        let info = world.store.info(&name(0)).expect("alive");
        assert_eq!((info.first_seq, info.expires_in), (6, None));
        world.outwait();
        world = world.reopen();
    }
}

#[test]
fn the_clock_stands_still_while_closed_and_catches_up_when_somebody_vouches_for_the_wall_clock() {
    let mut world = expiring();
    let clock = world.clock.clone();
    world = world.reopen_after(|| clock.pass(1000));
    assert_eq!(kind(&world, &name(0)), None, "it was closed meanwhile");
    let (before, after) = world.store.catch_up_with_the_wall_clock().expect("open");
    assert_eq!(after.0 - before.0, 1_000_000_000);
    assert_eq!(kind(&world, &name(0)), Some(ErrorKind::Deleted));
    // Nothing on disk says so yet: an end that comes late.
    world = world.crash();
    assert_eq!(kind(&world, &name(0)), None);
    world.store.catch_up_with_the_wall_clock().expect("open");
    world.put(&name(30), |log| _ = log.record(b"whatever")).expect("durable");
    world = world.crash();
    assert_eq!(kind(&world, &name(0)), Some(ErrorKind::Deleted));
    let (before, after) = world.store.catch_up_with_the_wall_clock().expect("open");
    assert_eq!(before, after, "it is not behind");
    world.clock.pass(7);
    assert_eq!(world.store.catch_up_with_the_wall_clock().expect("open").0.0, after.0 + 7_000_000, "nor moved twice");
}

/// Lets what is to expire in 100 seconds expire, something be flushed twice behind it, and the grace of that pass.
fn outlive(world: &mut World) {
    world.clock.pass(100);
    for _ in 0..2 {
        world.put(&name(30), |log| _ = log.record(b"after")).expect("durable");
        world.flush();
        world.clock.pass(GRACE / 32);
    }
    world.outwait();
}

/// Logs that expire and were written to afterwards, in segments of their own, once merges gave them back.
fn given_back() -> World {
    let mut world = expiring();
    for round in 0..2 {
        for log in 0..20 {
            let more = noise(9000, 1000 + 40 * round + log);
            world.put(&name(log), |log| _ = log.record(&more)).expect("in time");
        }
        world.flush();
    }
    outlive(&mut world);
    world.clock.pass(GRACE / 4);
    world.merge();
    world
}

#[test]
fn what_was_appended_after_the_time_was_set_is_given_back_too() {
    let world = given_back();
    assert_eq!(world.store.stats().dropped_records, 20 * (4 + 2));
}

#[test]
fn a_log_that_expired_and_was_given_back_is_deleted_as_of_each_moment_that_can_be_asked_for() {
    let mut world = given_back();
    let now = world.store.stats().watermark;
    for again in 0..2 {
        for log in 0..20 {
            let as_of = AsOf::Lsn(now);
            assert!(world.store.info_as_of(&name(log), as_of).expect("known").deleted, "log {log}, {again}");
            let error = world.store.read_as_of(&name(log), as_of, 0, ReadLimit::default()).expect_err("it is gone");
            assert_eq!(error.kind(), ErrorKind::Deleted, "{error}");
        }
        assert_eq!(world.store.list_as_of(AsOf::Lsn(now), "", None, 100).expect("listed").len(), 20);
        world = world.reopen();
    }
    // Of a time when it was alive nobody knows any more.
    let time = AsOf::Time(TimeUs(1_000_000_000 * 1_000_000 + 50_000_000));
    let error = world.store.info_as_of(&name(3), time).expect_err("too long ago");
    assert_eq!(error.kind(), ErrorKind::Forgotten, "{error}");
}
