//! Every limit as its user meets it: an error of a kind that says what to do, the limit and what was asked in numbers, a
//! remedy; what is at the limit is taken, and so is what comes after a refusal.

use super::tests::{append, fresh};
use crate::limits::{
    BATCH_ENTRIES_MAX, METADATA_BYTES_MAX, NAME_BYTES_MAX, PRODUCER_ID_BYTES_MAX, PRODUCERS_PER_LOG_MAX, TAG_BYTES_MAX,
    batch_bytes_max, record_bytes_max,
};
use crate::{Batch, Config, Error, ErrorKind, ReadLimit, Store, WhenFull};

fn small_files() -> (tempfile::TempDir, Store) {
    let dir = tempfile::TempDir::new().expect("a temporary directory");
    let config = Config { journal_file_bytes: 1 << 20, ..Config::small() };
    Store::create(dir.path(), &config).expect("an empty directory");
    let store = Store::open(dir.path(), config).expect("a store");
    (dir, store)
}

fn try_append(store: &Store, batch: Batch<'_>) -> Result<crate::Receipt, Error> {
    store.append(batch)?.wait()
}

/// That the error is of this kind, names both numbers, and has a remedy.
#[track_caller]
fn told(error: &Error, kind: ErrorKind, asked: usize, limit: usize) {
    assert_eq!(error.kind(), kind, "{error}");
    for number in [asked, limit] {
        assert!(error.message().contains(&number.to_string()), "{number} in: {error}");
    }
    assert!(error.advice().is_some(), "{error}");
}

#[test]
fn what_is_too_long_for_its_place_is_refused_with_both_numbers() {
    let (_dir, store) = small_files();
    let record = record_bytes_max(1 << 20);
    /// One more byte, or as many as fit.
    type Make = for<'a> fn(&mut Batch<'a>, &'a str, &'a [u8]);
    let cases: [(&str, usize, Make); 5] = [
        ("a name", NAME_BYTES_MAX, |batch, name, _| {
            batch.log(name).create_if_missing().record(b"x");
        }),
        ("a record", record, |batch, _, bytes| {
            batch.log("record").create_if_missing().record(bytes);
        }),
        ("metadata", METADATA_BYTES_MAX, |batch, _, bytes| {
            batch.log("metadata").create_with(bytes);
        }),
        ("a tag", TAG_BYTES_MAX, |batch, _, bytes| {
            batch.log("tag").create_if_missing().tag(bytes).record(b"x");
        }),
        ("a producer's id", PRODUCER_ID_BYTES_MAX, |batch, _, bytes| {
            batch.log("producer").create_if_missing().producer(bytes, 0, 0).record(b"x");
        }),
    ];
    for (what, limit, make) in cases {
        for len in [limit + 1, limit] {
            let (name, bytes) = ("n".repeat(len), vec![1; len]);
            let mut batch = Batch::new();
            make(&mut batch, &name, &bytes);
            match try_append(&store, batch) {
                Ok(_) => assert_eq!(len, limit, "{what}"),
                Err(error) => {
                    assert_eq!(len, limit + 1, "{what}: {error}");
                    told(&error, ErrorKind::Invalid, len, limit);
                    assert_eq!(error.limit().is_some(), what == "a record", "{what}");
                }
            }
        }
    }
}

#[test]
fn a_batch_of_too_many_entries_or_bytes_is_refused_whole() {
    let (_dir, store) = small_files();
    append(&store, "log", &[b"before"]);
    let mut batch = Batch::new();
    for _ in 0..=BATCH_ENTRIES_MAX {
        batch.log("log").record(b"");
    }
    let error = try_append(&store, batch).expect_err("one too many");
    told(&error, ErrorKind::Invalid, BATCH_ENTRIES_MAX + 1, BATCH_ENTRIES_MAX);
    assert_eq!(error.limit(), Some((BATCH_ENTRIES_MAX as u64 + 1, BATCH_ENTRIES_MAX as u64)));

    let limit = batch_bytes_max(1 << 20);
    let half = vec![2; limit / 2];
    let mut batch = Batch::new();
    batch.log("log").record(&half).record(&half);
    let error = try_append(&store, batch).expect_err("too many bytes");
    let (asked, told_limit) = error.limit().expect("both numbers");
    told(&error, ErrorKind::Invalid, asked as usize, limit);
    assert_eq!(told_limit, limit as u64);
    assert_eq!(store.read("log", 0, ReadLimit::default()).expect("there").head, 1, "nothing of them is there");
    assert_eq!(append(&store, "log", &[b"after"]).first_seq, 1);
}

#[test]
fn a_batch_that_no_memory_would_hold_is_invalid_and_not_overloaded() {
    let dir = tempfile::TempDir::new().expect("a temporary directory");
    let config = Config { memory_pool_bytes: 4 << 20, flush_bytes: 2 << 20, ..Config::small() };
    Store::create(dir.path(), &config).expect("an empty directory");
    let store = Store::open(dir.path(), config).expect("a store");
    let mut batch = Batch::new();
    let log = batch.log("log").create();
    // Few bytes, and more of their overhead than the pool has.
    for _ in 0..52_000 {
        log.record(b"");
    }
    let error = store.append(batch).expect_err("it would wait for ever");
    let (asked, limit) = error.limit().expect("both numbers");
    assert_eq!(limit, 4 << 20);
    told(&error, ErrorKind::Invalid, asked as usize, 4 << 20);
}

#[test]
fn a_full_pool_is_told_with_its_numbers_and_taken_again_once_there_is_room() {
    let (dir, config) = fresh();
    let config = Config { when_full: WhenFull::Reject, ..config };
    let store = Store::open(dir.path(), config.clone()).expect("a store");
    let payload = vec![3; 1 << 20];
    let mut taken: Vec<crate::Ack> = Vec::new();
    let error = loop {
        let mut batch = Batch::new();
        batch.log("log").create_if_missing().record(&payload);
        match store.append(batch) {
            Ok(ack) => taken.push(ack),
            Err(error) => break error,
        }
        assert!(taken.len() < 100_000, "the disk is faster than memory");
    };
    assert_eq!(error.kind(), ErrorKind::Overloaded);
    assert!(error.message().contains(&config.memory_pool_bytes.to_string()), "{error}");
    assert!(error.retry_after().is_some() && error.advice().is_some());
    assert_eq!(store.stats().overloads, 1);
    let acknowledged = taken.into_iter().map(crate::Ack::wait).filter(Result::is_ok).count();
    store.flush().expect("a sound disk");
    append(&store, "log", &[b"and on"]);
    let head = store.read("log", 0, ReadLimit { records: 1, bytes: 1 }).expect("there").head;
    assert_eq!(head as usize, acknowledged + 1, "what was taken is there, what was refused is not");
}

#[test]
fn a_log_takes_so_many_producers_and_no_more_and_those_it_knows_go_on() {
    let (_dir, store) = small_files();
    let numbered = |producer: usize, number: u64| {
        let id = producer.to_le_bytes();
        let mut batch = Batch::new();
        batch.log("log").create_if_missing().producer(&id, 0, number).record(b"x");
        try_append(&store, batch)
    };
    for producer in 0..PRODUCERS_PER_LOG_MAX {
        numbered(producer, 0).expect("there is room");
        if producer == PRODUCERS_PER_LOG_MAX / 2 {
            store.flush().expect("a sound disk");
        }
    }
    for _ in 0..2 {
        let error = numbered(PRODUCERS_PER_LOG_MAX, 0).expect_err("one too many");
        told(&error, ErrorKind::Invalid, PRODUCERS_PER_LOG_MAX, PRODUCERS_PER_LOG_MAX);
        assert!(numbered(7, 0).expect("known").logs[0].duplicate, "a repetition is still one");
        store.flush().expect("a sound disk");
    }
    numbered(7, 1).expect("known");
    append(&store, "log", &[b"without a number"]);
}
