//! What a read asks for before it waits for any of it.

use super::Store;
use super::testing::{Asked, EIO, Erring, Fate, append, created, small, stepped};
use crate::io::Op;
use crate::read::ReadLimit;
use crate::types::Position;
use std::sync::atomic::Ordering;

const SEGMENTS: usize = 4;
/// Where the first chunk of a segment lies, which is that of the log with the lowest id.
const FIRST_CHUNK: u64 = 4096;

/// A store opened anew whose log has a record in each of some segments, on a disk with a page cache, which is empty.
fn cold() -> (Erring, Store) {
    let io = created(&small());
    let (store, mut steps) = stepped(&io, &small());
    for n in 0..SEGMENTS {
        drop(append(&store, &[n as u8]).expect("staged"));
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

fn read(store: &Store, from: Position, limit: ReadLimit) -> Vec<u8> {
    let page = store.read("log", from, limit).expect("it is there");
    page.records.into_iter().map(|record| record.payload[0]).collect()
}

/// Of how many segments the first chunk was asked for ahead.
fn chunks(asked: &[Asked]) -> usize {
    asked.iter().filter(|asked| matches!(asked, Asked::Ahead(_, FIRST_CHUNK))).count()
}

#[test]
fn a_cold_log_is_asked_for_in_all_segments_before_any_chunk_is_waited_for() {
    let (io, store) = cold();
    assert_eq!(read(&store, Position::Start, ReadLimit::default()), [0, 1, 2, 3]);
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
    read(&store, Position::Start, ReadLimit::default());
    asked(&io);
    assert_eq!(read(&store, Position::Start, ReadLimit::default()), [0, 1, 2, 3]);
    let all = asked(&io);
    assert!(!all.iter().any(|asked| matches!(asked, Asked::Ahead(..))), "{all:?}");
    // Its state is in memory, and its chunks are not any more: that is seen by the first of them.
    io.resident.store(false, Ordering::SeqCst);
    assert_eq!(read(&store, Position::Start, ReadLimit::default()), [0, 1, 2, 3]);
    assert_eq!(chunks(&asked(&io)), SEGMENTS - 1);
}

#[test]
fn what_a_page_does_not_need_is_not_asked_for() {
    let (io, store) = cold();
    assert_eq!(read(&store, Position::Start, ReadLimit { records: 1, ..ReadLimit::default() }), [0]);
    assert_eq!(chunks(&asked(&io)), 1);
    let (io, store) = cold();
    assert_eq!(read(&store, Position::Seq(3), ReadLimit::default()), [3]);
    let all = asked(&io);
    assert!(!all.iter().any(|asked| matches!(asked, Asked::Ahead(..))), "who reads the end of a log: {all:?}");
}

#[test]
fn what_cannot_be_asked_for_is_told_of_when_it_is_read() {
    let (io, store) = cold();
    let limit = |records| ReadLimit { records, ..ReadLimit::default() };
    assert_eq!(read(&store, Position::Start, limit(1)), [0]);
    let segments = |asked: &Asked| match asked {
        Asked::Read(name, _) | Asked::Ahead(name, _) => name.clone(),
    };
    let last = asked(&io).iter().map(segments).max().expect("they were asked for");
    let is_last = move |op: &Op| matches!(op, Op::Read { file, .. } if file.path.ends_with(&last));
    io.set(move |op| if is_last(op) { Fate::Fails(EIO) } else { Fate::Well });
    assert_eq!(read(&store, Position::Start, limit(3)), [0, 1, 2]);
    store.read("log", 0, limit(4)).expect_err("the last one cannot be read");
}
