//! What a read asks for before it waits for any of it.

use super::Store;
use super::testing::{Asked, EIO, Erring, Fate, append, created, small, stepped};
use crate::io::Op;
use crate::read::ReadLimit;
use std::sync::atomic::Ordering;

const SEGMENTS: usize = 4;
/// Of each.
const RECORDS: usize = 16;
/// More than there are.
const ALL: usize = 1000;
/// Where the first chunk of a segment lies, which is that of the log with the lowest id.
const FIRST_CHUNK: u64 = 4096;

/// A store opened anew whose log has records in each of some segments, on a disk with a page cache, which is empty.
fn cold() -> (Erring, Store) {
    let io = created(&small());
    let (store, mut steps) = stepped(&io, &small());
    for n in 0..SEGMENTS {
        (0..RECORDS).for_each(|i| drop(append(&store, &[(n * RECORDS + i) as u8]).expect("staged")));
        while steps.commit().expect("a sound disk") {}
        store.inner.core.flush_asked.store(true, Ordering::SeqCst);
        assert!(steps.flush().expect("a sound disk"));
    }
    drop((store, steps));
    let store = stepped(&io, &small()).0;
    *io.asked.lock() = Some(Vec::new());
    (io, store)
}

fn asked(io: &Erring) -> Vec<Asked> {
    std::mem::take(io.asked.lock().as_mut().expect("there is a page cache"))
}

/// Reads up to so many records, and finds those that are there.
fn read(store: &Store, from: usize, records: usize) {
    let page = store.read("log", from as u64, limit(records)).expect("it is there");
    let expected = from..(SEGMENTS * RECORDS).min(from + records);
    assert!(page.records.into_iter().map(|record| usize::from(record.payload[0])).eq(expected));
}

fn limit(records: usize) -> ReadLimit {
    ReadLimit { records, ..ReadLimit::default() }
}

/// Of how many segments the first chunk was asked for ahead.
fn chunks(asked: &[Asked]) -> usize {
    asked.iter().filter(|asked| matches!(asked, Asked::Ahead(_, FIRST_CHUNK))).count()
}

#[test]
fn a_cold_log_is_asked_for_in_all_segments_before_any_chunk_is_waited_for() {
    let (io, store) = cold();
    read(&store, 0, ALL);
    let all = asked(&io);
    let lookups = all.iter().take_while(|asked| matches!(asked, Asked::Ahead(..))).count();
    assert_eq!(lookups, SEGMENTS, "each segment's lookup block: {all:?}");
    let first = all.iter().position(|asked| matches!(asked, Asked::Read(_, FIRST_CHUNK))).expect("it was read");
    assert_eq!((chunks(&all[..first]), chunks(&all[first..])), (SEGMENTS, 0), "{all:?}");
}

#[test]
fn what_is_in_memory_is_not_asked_for() {
    let (io, store) = cold();
    io.resident.store(true, Ordering::SeqCst);
    read(&store, 0, ALL);
    asked(&io);
    read(&store, 0, ALL);
    let all = asked(&io);
    assert!(!all.iter().any(|asked| matches!(asked, Asked::Ahead(..))), "{all:?}");
    // Its state is in memory, and its chunks are not any more: that is seen by the first of them.
    io.resident.store(false, Ordering::SeqCst);
    read(&store, 0, ALL);
    assert_eq!(chunks(&asked(&io)), SEGMENTS - 1);
}

#[test]
fn what_a_page_does_not_need_is_not_asked_for() {
    let (io, store) = cold();
    read(&store, 0, 2 * RECORDS);
    assert_eq!(chunks(&asked(&io)), 2);
    let (io, store) = cold();
    read(&store, 0, 1);
    let all = asked(&io);
    assert!(!all.iter().any(|asked| matches!(asked, Asked::Ahead(..))), "a small page: {all:?}");
    let (io, store) = cold();
    read(&store, 3 * RECORDS, ALL);
    let all = asked(&io);
    assert!(!all.iter().any(|asked| matches!(asked, Asked::Ahead(..))), "who reads the end of a log: {all:?}");
}

#[test]
fn what_cannot_be_asked_for_is_told_of_when_it_is_read() {
    let (io, store) = cold();
    read(&store, 0, ALL);
    let segments = |asked: &Asked| match asked {
        Asked::Read(name, _) | Asked::Ahead(name, _) => name.clone(),
    };
    let last = asked(&io).iter().map(segments).max().expect("they were asked for");
    let is_last = move |op: &Op| matches!(op, Op::Read { file, .. } if file.path.ends_with(&last));
    io.set(move |op| if is_last(op) { Fate::Fails(EIO) } else { Fate::Well });
    read(&store, 0, 3 * RECORDS);
    store.read("log", 0, limit(ALL)).expect_err("the last one cannot be read");
}
