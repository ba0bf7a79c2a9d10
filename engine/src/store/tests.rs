//! The store from end to end on a real directory: what its user sees.

use crate::{Batch, Config, ErrorKind, ReadLimit, Store};
use std::fs;
use std::time::Duration;
use tempfile::TempDir;

pub(super) fn fresh() -> (TempDir, Config) {
    let dir = TempDir::new().expect("a temporary directory");
    let config = Config::small();
    Store::create(dir.path(), &config).expect("an empty directory");
    (dir, config)
}

pub(super) fn append(store: &Store, log: &str, payloads: &[&[u8]]) -> crate::LogReceipt {
    let mut batch = Batch::new();
    let part = batch.log(log).create_if_missing();
    for payload in payloads {
        part.record(payload);
    }
    store.append(batch).expect("staged").wait().expect("durable").logs[0]
}

fn payloads(store: &Store, log: &str) -> Vec<Vec<u8>> {
    let mut out = Vec::new();
    loop {
        let page = store.read(log, out.len() as u64, ReadLimit { records: 7, bytes: 1 << 16 }).expect("readable");
        out.extend(page.records.into_iter().map(|record| record.payload));
        if page.next_seq == page.head {
            return out;
        }
    }
}

#[test]
fn what_was_appended_is_read_again_from_memory_from_segments_and_after_opening() {
    let (dir, config) = fresh();
    let store = Store::open(dir.path(), config.clone()).expect("a store");
    let want: Vec<Vec<u8>> = (0..50u32).map(|n| vec![n as u8; n as usize * 37]).collect();
    for (n, payload) in want.iter().enumerate() {
        let receipt = append(&store, "users/alice/notes", &[payload]);
        assert_eq!((receipt.first_seq, receipt.next_seq), (n as u64, n as u64 + 1));
        if n % 20 == 19 {
            store.flush().expect("flushed");
        }
    }
    assert_eq!(payloads(&store, "users/alice/notes"), want);
    assert!(store.stats().segments == 2, "{:?}", store.stats());
    store.close().expect("clean");
    let store = Store::open(dir.path(), config).expect("a store");
    assert!(store.recovery().clean);
    assert_eq!(payloads(&store, "users/alice/notes"), want);
    let names: Vec<String> = store.list("users/", None, 10).expect("listed").into_iter().map(|i| i.name).collect();
    assert_eq!(names, ["users/alice/notes"]);
}

#[test]
fn what_a_log_takes_is_told_wherever_it_lies() {
    let (dir, config) = fresh();
    let store = Store::open(dir.path(), config).expect("a store");
    let payload =
        |n: u64| (0..1000).map(|at| (blake3::hash(&[n as u8, (at / 16) as u8]).as_bytes())[at % 16]).collect();
    let payloads: Vec<Vec<u8>> = (0..6).map(payload).collect();
    for (n, payload) in payloads.iter().enumerate() {
        append(&store, "users/alice/notes", &[payload]);
        let (bytes, at_least) = (store.stored_bytes("users/alice/notes").expect("told"), 1000 * (n as u64 + 1));
        assert!((at_least..at_least + 100 * (n as u64 + 2)).contains(&bytes), "{n}: {bytes}");
        if n % 2 == 1 {
            store.flush().expect("flushed");
            let flushed = store.stored_bytes("users/alice/notes").expect("told");
            assert!((at_least..at_least + 100 * (n as u64 + 2)).contains(&flushed), "{n}: {flushed}");
        }
    }
    assert_eq!(store.stored_bytes("users/alice/other").expect_err("none").kind(), ErrorKind::NotFound);
}

#[test]
fn a_producer_is_answered_from_memory_and_from_older_segments() {
    let (dir, config) = fresh();
    let store = Store::open(dir.path(), config.clone()).expect("a store");
    append(&store, "log", &[b"before"]);
    let numbered = |store: &Store, id: &[u8], number: u64, payload: &[u8]| {
        let mut batch = Batch::new();
        batch.log("log").producer(id, 0, number).record(payload);
        store.append(batch).expect("staged").wait().map(|receipt| receipt.logs[0])
    };
    for number in 0..10u64 {
        let receipt = numbered(&store, b"phone", number, &[number as u8]).expect("new");
        assert!(!receipt.duplicate);
        assert_eq!(receipt.first_seq, number + 1);
        store.flush().expect("flushed");
    }
    numbered(&store, b"tablet", 0, b"x").expect("new");
    store.close().expect("clean");
    let store = Store::open(dir.path(), config).expect("a store");
    for number in (0..10u64).rev() {
        let receipt = numbered(&store, b"phone", number, &[number as u8]).expect("known");
        assert!(receipt.duplicate, "number {number}");
        assert_eq!((receipt.first_seq, receipt.next_seq), (number + 1, number + 2));
    }
    let kind = |result: crate::Result<crate::LogReceipt>| result.expect_err("refused").kind();
    assert_eq!(kind(numbered(&store, b"phone", 3, b"other")), ErrorKind::ProducerConflict);
    assert_eq!(kind(numbered(&store, b"phone", 11, b"gap")), ErrorKind::ProducerGap);
    assert_eq!(kind(numbered(&store, b"watch", 1, b"gap")), ErrorKind::ProducerGap);
    assert!(!numbered(&store, b"phone", 10, b"next").expect("new").duplicate);
    assert_eq!(payloads(&store, "log").len(), 13);
}

#[test]
fn a_log_created_again_goes_on_behind_its_old_records() {
    let (dir, config) = fresh();
    let store = Store::open(dir.path(), config.clone()).expect("a store");
    append(&store, "log", &[b"a", b"b"]);
    let mut batch = Batch::new();
    batch.log("log").delete();
    store.append(batch).expect("staged").wait().expect("durable");
    assert_eq!(store.read("log", 0, ReadLimit::default()).expect_err("deleted").kind(), ErrorKind::Deleted);
    let receipt = append(&store, "log", &[b"c"]);
    assert_eq!((receipt.first_seq, receipt.next_seq), (3, 4), "the seq behind the old head is skipped");
    for _ in 0..2 {
        assert_eq!(store.read("log", 2, ReadLimit::default()).expect_err("trimmed").kind(), ErrorKind::Trimmed);
        assert_eq!(store.read("log", 3, ReadLimit::default()).expect("kept").records[0].payload, b"c");
        store.flush().expect("flushed");
    }
}

#[test]
fn a_fork_reads_its_parents_records() {
    let (dir, config) = fresh();
    let store = Store::open(dir.path(), config).expect("a store");
    append(&store, "parent", &[b"0", b"1", b"2"]);
    let mut batch = Batch::new();
    batch.log("child").fork("parent", 2).record(b"2'");
    store.append(batch).expect("staged").wait().expect("durable");
    let mut batch = Batch::new();
    batch.log("parent").delete();
    store.append(batch).expect("staged").wait().expect("durable");
    for _ in 0..2 {
        assert_eq!(payloads(&store, "child"), [b"0".to_vec(), b"1".to_vec(), b"2'".to_vec()]);
        store.flush().expect("flushed");
    }
}

/// Entries of all kinds that a batch can have, for several logs, in one that is encoded before it has a place in a frame.
#[test]
fn a_large_batch_over_logs_is_stored_as_a_small_one_is() {
    let (dir, config) = fresh();
    let store = Store::open(dir.path(), config.clone()).expect("a store");
    append(&store, "parent", &[b"0", b"1"]);
    append(&store, "there", &[]);
    let (large, other) = (vec![b'x'; 20_000], vec![b'y'; 3000]);
    let mut batch = Batch::new();
    batch.log("new").create().tag(b"a tag").record(&large).record(b"short").record(&other);
    // Nothing new: in the middle, where the next log's entries follow the first one's.
    batch.log("there").create_if_missing();
    batch.log("child").fork("parent", 1).record(&other).record(b"");
    let receipt = store.append(batch).expect("staged").wait().expect("durable");
    assert_eq!(receipt.logs.iter().map(|log| log.next_seq).collect::<Vec<_>>(), [3, 0, 3]);
    let mut batch = Batch::new();
    batch.log("parent").delete();
    store.append(batch).expect("staged").wait().expect("durable");
    let mut store = store;
    for round in 0..3 {
        assert_eq!(payloads(&store, "new"), [large.clone(), b"short".to_vec(), other.clone()]);
        assert_eq!(payloads(&store, "child"), [b"0".to_vec(), other.clone(), b"".to_vec()], "its parent is pinned");
        assert_eq!(payloads(&store, "there"), [] as [Vec<u8>; 0]);
        if round == 0 {
            store.close().expect("clean");
            store = Store::open(dir.path(), config.clone()).expect("its journal is intact");
        } else {
            store.flush().expect("flushed");
        }
    }
}

#[test]
fn a_subscriber_is_woken_and_a_batch_over_logs_is_one() {
    let (dir, config) = fresh();
    let store = Store::open(dir.path(), config).expect("a store");
    append(&store, "a", &[b"0"]);
    let subscription = store.subscribe("a").expect("exists");
    let other = store.clone();
    let thread = std::thread::spawn(move || {
        let mut batch = Batch::new();
        batch.log("a").expect_next(1).record(b"1");
        batch.log("b").create().record(b"1");
        other.append(batch).expect("staged").wait().expect("durable")
    });
    assert_eq!(subscription.wait(1, Duration::from_secs(20)).expect("woken"), 2);
    thread.join().expect("no panic");
    let mut batch = Batch::new();
    batch.log("a").record(b"2");
    batch.log("missing").record(b"2");
    let refused = store.append(batch).expect("staged").wait().expect_err("one log is missing");
    assert_eq!(refused.kind(), ErrorKind::NotFound);
    assert_eq!(payloads(&store, "a").len(), 2, "all or nothing");
}

#[test]
fn each_open_starts_a_timeline_and_a_second_one_beside_it_is_refused() {
    let (dir, config) = fresh();
    let store = Store::open(dir.path(), config.clone()).expect("a store");
    let first = store.recovery().timeline;
    assert_eq!(Store::open(dir.path(), config.clone()).expect_err("locked").kind(), ErrorKind::Locked);
    store.close().expect("clean");
    let store = Store::open(dir.path(), config).expect("a store");
    assert_eq!(store.recovery().timeline.counter, first.counter + 1, "also after a clean close");
    assert!(store.recovery().clean);
    assert_eq!(Store::create(dir.path(), &Config::small()).expect_err("there").kind(), ErrorKind::Refused);
}

#[test]
fn a_store_that_was_wiped_or_copied_before_anything_was_written_is_on_another_timeline() {
    let (dir, config) = fresh();
    let copy = TempDir::new().expect("a temporary directory");
    fs::create_dir(copy.path().join("segments")).expect("a directory");
    for file in fs::read_dir(dir.path()).expect("the store's directory").map(|entry| entry.expect("an entry").path()) {
        if file.is_file() {
            fs::copy(&file, copy.path().join(file.file_name().expect("a name"))).expect("a copy");
        }
    }
    let store = Store::open(dir.path(), config.clone()).expect("a store");
    let seen = append(&store, "log", &[b"seen"]).next();
    drop(store);
    let journal = dir.path().join("journal-0000");
    let len = fs::metadata(&journal).expect("a journal file").len();
    fs::write(&journal, vec![0; len as usize]).expect("zeros");
    for other in [copy.path(), dir.path()] {
        let store = Store::open(other, config.clone()).expect("nothing tells it from a new one");
        append(&store, "log", &[b"another"]);
        let refused = store.read("log", seen, ReadLimit::default()).expect_err("another history");
        assert_eq!(refused.kind(), ErrorKind::Rewound, "{refused}");
    }
}

#[test]
fn a_missing_or_empty_directory_is_never_a_new_store() {
    let dir = TempDir::new().expect("a temporary directory");
    let missing = dir.path().join("missing");
    for path in [dir.path(), &missing] {
        let error = Store::open(path, Config::small()).expect_err("no store");
        assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    }
    assert!(!missing.exists(), "nothing was written");
}

fn apply(store: &Store, build: impl FnOnce(&mut Batch<'static>)) -> crate::Result<crate::Receipt> {
    let mut batch = Batch::new();
    build(&mut batch);
    store.append(batch).expect("staged").wait()
}

#[test]
fn a_listing_is_complete_however_many_logs_are_in_memory() {
    let (dir, config) = fresh();
    let store = Store::open(dir.path(), config).expect("a store");
    let names: Vec<String> = (0..1500).map(|n| format!("users/u{n:04}")).collect();
    for (n, name) in names.iter().enumerate() {
        append(&store, name, &[b"x"]);
        if n == 700 {
            store.flush().expect("flushed");
        }
    }
    let all: Vec<String> = store.list("", None, 5000).expect("listed").into_iter().map(|i| i.name).collect();
    assert_eq!(all, names);
    for name in &names[..1400] {
        let mut batch = Batch::new();
        batch.log(name).delete();
        store.append(batch).expect("staged").wait().expect("durable");
    }
    let left: Vec<String> = store.list("", None, 10).expect("listed").into_iter().map(|i| i.name).collect();
    assert_eq!(left, names[1400..1410], "deleted logs do not count");
}

#[test]
fn a_fork_of_a_fork_survives_the_middle_one() {
    let (dir, config) = fresh();
    let store = Store::open(dir.path(), config).expect("a store");
    append(&store, "g", &(0..10u8).map(|_| &b"g"[..]).collect::<Vec<_>>());
    apply(&store, |b| {
        b.log("p").fork("g", 5).record(b"p").record(b"p").record(b"p").record(b"p");
    })
    .expect("forked");
    apply(&store, |b| {
        b.log("c").fork("p", 8);
    })
    .expect("forked");
    apply(&store, |b| {
        b.log("p").delete();
    })
    .expect("deleted");
    apply(&store, |b| {
        b.log("p").create();
    })
    .expect("created again");
    for _ in 0..2 {
        assert_eq!(payloads(&store, "c").concat(), b"gggggppp");
        assert_eq!(store.info("p").expect("exists").forked_at, None);
        store.flush().expect("flushed");
    }
}

#[test]
fn a_fork_begins_where_its_parent_was_trimmed() {
    let (dir, config) = fresh();
    let store = Store::open(dir.path(), config).expect("a store");
    append(&store, "p", &[b"0", b"1", b"2", b"3", b"4"]);
    apply(&store, |b| {
        b.log("p").trim(3);
    })
    .expect("trimmed");
    apply(&store, |b| {
        b.log("c").fork("p", 5);
    })
    .expect("forked");
    assert_eq!(store.read("c", 0, ReadLimit::default()).expect_err("given up").kind(), ErrorKind::Trimmed);
    assert_eq!(store.read("c", 3, ReadLimit::default()).expect("kept").records.len(), 2);
    apply(&store, |b| {
        b.log("p").delete();
    })
    .expect("deleted");
    append(&store, "p", &[b"6"]);
    apply(&store, |b| {
        b.log("d").fork("p", 7);
    })
    .expect("forked");
    assert_eq!(store.info("d").expect("exists").first_seq, 6, "nothing of the life before shows");
    assert_eq!(store.read("d", 6, ReadLimit::default()).expect("kept").records[0].payload, b"6");
}

#[test]
fn small_pages_of_a_fork_are_pages_and_no_damage() {
    let (dir, config) = fresh();
    let store = Store::open(dir.path(), config).expect("a store");
    append(&store, "p", &[&b"x"[..]; 50]);
    apply(&store, |b| {
        b.log("c").fork("p", 50).record(b"y");
    })
    .expect("forked");
    let (mut from, mut pages) = (0, 0);
    while from < 51 {
        let page = store.read("c", from, ReadLimit { records: 100, bytes: 16 }).expect("no damage");
        assert!(page.next_seq > from);
        (from, pages) = (page.next_seq, pages + 1);
    }
    assert!(pages > 1);
}

#[test]
fn a_deep_chain_of_forks_is_read_on_a_small_stack() {
    let (dir, config) = fresh();
    let store = Store::open(dir.path(), config).expect("a store");
    append(&store, "fork0", &[b"0"]);
    let depth = 3000u64;
    for n in 1..=depth {
        let (name, parent) = (format!("fork{n}"), format!("fork{}", n - 1));
        let mut batch = Batch::new();
        batch.log(&name).fork(&parent, n).record(b"n");
        let ack = store.append(batch).expect("staged");
        if n % 100 == 0 {
            ack.wait().expect("durable");
        }
    }
    let reader = store.clone();
    let read = move || reader.read(&format!("fork{depth}"), 0, ReadLimit { records: 5000, bytes: 1 << 20 });
    let thread = std::thread::Builder::new().stack_size(256 << 10).spawn(read).expect("a thread");
    assert_eq!(thread.join().expect("no overflow").expect("readable").records.len() as u64, depth + 1);
}

#[test]
fn the_exact_repetition_of_a_batch_over_logs_is_known() {
    let (dir, config) = fresh();
    let store = Store::open(dir.path(), config).expect("a store");
    let send = |create: bool| {
        apply(&store, |b| {
            let index = b.log("index");
            if create {
                index.create()
            } else {
                index.create_if_missing()
            };
            b.log("a").create_if_missing().producer(b"phone", 0, 0).record(b"x");
        })
    };
    let first = send(true).expect("new");
    for create in [true, false] {
        let again = send(create).expect("known");
        assert_eq!((again.logs[1].first_seq, again.logs[1].duplicate), (first.logs[1].first_seq, true));
    }
    assert_eq!(payloads(&store, "a").len(), 1);
}

#[test]
fn a_tag_never_goes_back_not_even_with_an_undeletion() {
    let (dir, config) = fresh();
    let store = Store::open(dir.path(), config).expect("a store");
    apply(&store, |b| {
        b.log("a").create().tag(b"9");
    })
    .expect("created");
    apply(&store, |b| {
        b.log("a").delete();
    })
    .expect("deleted");
    let refused = apply(&store, |b| {
        b.log("a").undelete().tag(b"1");
    })
    .expect_err("lower");
    assert_eq!(refused.kind(), ErrorKind::Condition);
}
