//! Positions that know their history, and the calls that wait for nothing.

use super::Steps;
use super::tests::{append, fresh};
use crate::types::{Cursor, Position, Timeline};
use crate::{Batch, Config, ErrorKind, ReadLimit, Store};
use std::path::Path;
use std::sync::Arc;

const ALL: ReadLimit = ReadLimit { records: 1000, bytes: 1 << 20 };

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("readable") {
        let entry = entry.expect("readable");
        if entry.file_type().expect("known").is_dir() {
            copy(&entry.path(), &to.join(entry.file_name()));
        } else {
            std::fs::copy(entry.path(), to.join(entry.file_name())).expect("copied");
        }
    }
}

/// A store whose threads are the test's own.
fn stepped(dir: &Path, config: Config) -> (Store, Steps) {
    let clock = Arc::new(crate::clock::SystemClock::default());
    let io = crate::io::choose(config.io).expect("a disk");
    Store::open_stepped(io, clock, dir, config).expect("a store")
}

#[test]
fn a_cursor_survives_a_restart_and_not_the_loss_of_what_it_rests_on() {
    let (dir, config) = fresh();
    let store = Store::open(dir.path(), config.clone()).expect("a store");
    append(&store, "log", &[b"a", b"b"]);
    let kept = store.read("log", Position::Start, ALL).expect("readable").next;
    store.close().expect("clean");

    // The directory as it was is put back later, as from a backup.
    let backup = dir.path().with_extension("backup");
    copy(dir.path(), &backup);
    let store = Store::open(dir.path(), config.clone()).expect("a store");
    let receipt = append(&store, "log", &[b"c", b"d"]);
    let ahead = receipt.next();
    assert_eq!(store.read("log", ahead, ALL).expect("its own").next, ahead);
    assert_eq!(store.read("log", kept, ALL).expect("older").records.len(), 2);
    store.close().expect("clean");

    std::fs::remove_dir_all(dir.path()).expect("removed");
    std::fs::rename(&backup, dir.path()).expect("put back");
    let store = Store::open(dir.path(), config).expect("a store");
    // What comes then overtakes the reader.
    append(&store, "log", &[b"x", b"y", b"z"]);
    let error = store.read("log", ahead, ALL).expect_err("another history");
    assert_eq!((error.kind(), error.cut()), (ErrorKind::Rewound, Some(Cursor::default())), "also after a clean close");
    assert_eq!(store.read("log", kept, ALL).expect("before the loss").records[0].payload, b"x");
    let foreign = Cursor { timeline: Timeline { counter: 9, random: 9 }, seq: 5 };
    let error = store.read("log", foreign, ALL).expect_err("another history");
    assert_eq!((error.kind(), error.cut()), (ErrorKind::Rewound, Some(Cursor::default())), "nothing is known of it");
    assert_eq!(store.read("log", 7, ALL).expect_err("a bare seq").kind(), ErrorKind::Invalid);
    assert_eq!(store.read("log", Position::End, ALL).expect("the end").records, []);
}

#[test]
fn a_cursor_of_a_deleted_log_is_not_one_of_its_successor() {
    let (dir, config) = fresh();
    let store = Store::open(dir.path(), config).expect("a store");
    let old = append(&store, "log", &[b"a", b"b"]).next();
    let created = store.info("log").expect("known").created;
    let mut batch = Batch::new();
    batch.log("log").delete();
    store.append(batch).expect("staged").wait().expect("durable");
    append(&store, "log", &[b"c"]);
    for seq in 0..=old.seq {
        let cursor = Cursor { seq, ..old };
        assert_eq!(store.read("log", cursor, ALL).expect_err("the old log's").kind(), ErrorKind::Trimmed, "{cursor}");
    }
    let page = store.read("log", Position::Start, ALL).expect("the new one");
    assert_eq!((page.start.seq, page.records.len()), (3, 1));

    let mut batch = Batch::new();
    batch.log("log").expect_created(created).record(b"meant for the old one");
    assert_eq!(store.append(batch).expect("staged").wait().expect_err("replaced").kind(), ErrorKind::Replaced);
    let mut batch = Batch::new();
    batch.log("log").expect_created(page.created).expect_at(page.next).record(b"d");
    assert_eq!(store.append(batch.clone()).expect("staged").wait().expect("durable").logs[0].first_seq, 4);
    assert_eq!(store.append(batch).expect("staged").wait().expect_err("moved on").kind(), ErrorKind::Condition);
    // The same seq behind another history is another place.
    let mut batch = Batch::new();
    batch.log("log").expect_at(Cursor { seq: 5, timeline: Timeline { counter: 7, random: 7 } }).record(b"e");
    assert_eq!(store.append(batch).expect("staged").wait().expect_err("elsewhere").kind(), ErrorKind::Condition);
}

#[test]
fn what_would_have_to_wait_says_so_and_stages_nothing() {
    let (dir, config) = fresh();
    let store = Store::open(dir.path(), config.clone()).expect("a store");
    let kind = |result: crate::Result<()>| result.expect_err("has to wait").kind();
    let mut first = Batch::new();
    first.log("log").create_if_missing().producer(b"phone", 0, 0).record(b"a");
    assert_eq!(kind(store.try_append(&first).map(drop)), ErrorKind::WouldBlock, "nobody looked the log up");
    assert_eq!(kind(store.try_info("log").map(drop)), ErrorKind::WouldBlock);
    assert_eq!(store.info("log").expect_err("no log").kind(), ErrorKind::NotFound);
    assert_eq!(store.try_info("log").expect_err("no log").kind(), ErrorKind::NotFound, "known by now");
    let receipt = store.try_append(&first).expect("in memory").wait().expect("durable").logs[0];
    assert_eq!((receipt.first_seq, receipt.producer_highest), (0, Some(0)));
    assert_eq!(store.try_read("log", 0, ALL).expect("in memory").records.len(), 1);
    assert_eq!(store.try_info("log").expect("in memory").next_seq, 1);
    store.flush().expect("flushed");
    assert_eq!(kind(store.try_read("log", 0, ALL).map(drop)), ErrorKind::WouldBlock, "in a segment");
    assert_eq!(store.try_read("log", Position::End, ALL).expect("nothing to be read").records, []);

    // Another log's records push the producer's out of the newest state record.
    append(&store, "log", &[b"b"]);
    let mut other = Batch::new();
    other.log("log").producer(b"tablet", 0, 0).record(b"c");
    store.append(other).expect("staged").wait().expect("durable");
    store.flush().expect("flushed");
    store.close().expect("clean");
    let store = Store::open(dir.path(), config).expect("a store");
    assert_eq!(store.info("log").expect("known").next_seq, 3);
    assert_eq!(kind(store.try_append(&first).map(drop)), ErrorKind::WouldBlock, "the producer is in a segment");
    assert_eq!(store.info("log").expect("known").next_seq, 3, "nothing was staged");
    let receipt = store.append(first.clone()).expect("staged").wait().expect("known").logs[0];
    assert!(receipt.duplicate);
    let receipt = store.try_append(&first).expect("recalled by now").wait().expect("known").logs[0];
    assert!(receipt.duplicate && receipt.producer_highest == Some(0));
}

#[test]
fn a_full_pool_makes_a_call_that_must_not_wait_say_so() {
    let (dir, config) = fresh();
    let config = Config { memory_pool_bytes: 4 << 20, flush_bytes: 2 << 20, ..config };
    let (store, _steps) = Store::open_stepped(
        crate::io::choose(config.io).expect("a disk"),
        std::sync::Arc::new(crate::clock::SystemClock::default()),
        dir.path(),
        config,
    )
    .expect("a store");
    assert_eq!(store.info("log").expect_err("no log").kind(), ErrorKind::NotFound);
    let payload = vec![7; 1 << 20];
    let mut refused = None;
    for _ in 0..8 {
        let mut batch = Batch::new();
        batch.log("log").create_if_missing().record(&payload);
        match store.try_append(&batch) {
            Ok(ack) => drop(ack),
            Err(error) => refused = refused.or(Some(error.kind())),
        }
    }
    assert_eq!(refused, Some(ErrorKind::Overloaded), "a store without threads rejects, and says when to come back");
}

#[test]
fn a_look_at_a_log_shows_nothing_that_is_only_staged() {
    let (dir, config) = fresh();
    let (store, mut steps) = stepped(dir.path(), config);
    let mut batch = Batch::new();
    batch.log("log").create_with(b"first").record(b"a");
    let ack = store.append(batch).expect("staged");
    let unseen = |result: crate::Result<()>| assert_eq!(result.expect_err("unseen").kind(), ErrorKind::NotFound);
    unseen(store.info("log").map(drop));
    unseen(store.try_info("log").map(drop));
    unseen(store.subscribe("log").map(drop));
    while ack.try_get().is_none() {
        steps.commit().expect("a sound disk");
    }
    let before = store.info("log").expect("durable");
    let mut batch = Batch::new();
    batch.log("log").record(b"b").record(b"c");
    let records = store.append(batch).expect("staged");
    assert_eq!(store.info("log").expect("known"), before, "records alone");
    assert_eq!(store.try_info("log").expect("known"), before);
    assert_eq!(store.try_read("log", before.end(), ALL).expect("the end").records, []);
    let mut batch = Batch::new();
    batch.log("log").metadata(b"second").close();
    let change = store.append(batch).expect("staged");
    assert_eq!(store.info("log").expect("known"), before, "and what changes the log itself");
    while change.try_get().is_none() {
        steps.commit().expect("a sound disk");
    }
    assert!(records.try_get().is_some_and(|answer| answer.is_ok()));
    let after = store.info("log").expect("known");
    assert_eq!((after.next_seq, after.closed, &after.metadata[..]), (3, true, &b"second"[..]));
}

#[test]
fn the_place_where_histories_part_shows_nothing_that_is_only_staged() {
    let (dir, config) = fresh();
    let store = Store::open(dir.path(), config.clone()).expect("a store");
    append(&store, "log", &[b"a"]);
    store.close().expect("clean");
    let (store, mut steps) = stepped(dir.path(), config);
    let ahead = Cursor { timeline: store.recovery().timeline, seq: 5 };
    let cut = || store.read("log", ahead, ALL).expect_err("past the end").cut();
    let mut batch = Batch::new();
    batch.log("log").record(b"b");
    let ack = store.append(batch).expect("staged");
    assert_eq!(cut(), Some(Cursor::default()), "the log has nothing of this timeline yet");
    while ack.try_get().is_none() {
        steps.commit().expect("a sound disk");
    }
    assert_eq!(cut(), Some(Cursor { seq: 2, ..ahead }), "now it has");
}

/// A creation behind a deletion drops what the log's list of timelines had; neither is durable yet.
#[test]
fn a_cursor_stays_one_of_its_log_while_another_creation_is_only_staged() {
    let (dir, config) = fresh();
    let (store, mut steps) = stepped(dir.path(), config);
    let mut batch = Batch::new();
    batch.log("log").create().record(b"a").record(b"b");
    let ack = store.append(batch).expect("staged");
    while ack.try_get().is_none() {
        steps.commit().expect("a sound disk");
    }
    let before = store.read("log", 0, ReadLimit { records: 1, bytes: 1 }).expect("readable");
    let info = store.info("log").expect("known");
    let mut batch = Batch::new();
    batch.log("log").delete();
    let deleted = store.append(batch).expect("staged");
    let mut batch = Batch::new();
    batch.log("log").create();
    let created = store.append(batch).expect("staged");
    assert_eq!(store.read("log", 0, ReadLimit { records: 1, bytes: 1 }).expect("as before"), before);
    assert_eq!(store.try_read("log", 0, ReadLimit { records: 1, bytes: 1 }).expect("as before"), before);
    assert_eq!(store.read("log", before.next, ALL).expect("its own cursor").records.len(), 1);
    assert_eq!(store.info("log").expect("known"), info);
    while created.try_get().is_none() {
        steps.commit().expect("a sound disk");
    }
    assert!(deleted.try_get().is_some_and(|answer| answer.is_ok()));
    assert_eq!(store.read("log", before.next, ALL).expect_err("of its predecessor").kind(), ErrorKind::Trimmed);
}
