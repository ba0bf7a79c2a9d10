//! How the flush makes a journal file, or a segment, that nobody waits for yet: what ends its rests.

use super::open::{Opened, open};
use super::testing::{DIR, Erring, Hand, small};
use super::{Batch, Config, Store};
use crate::commit::Ack;
use crate::error::{Error, ErrorKind};
use crate::flush::{Flusher, Rested};
use crate::format::frame::FrameRef;
use crate::sync::Arc;
use crate::types::Timeline;
use std::path::Path;

/// With journal files larger than what is filled without a rest.
fn config() -> Config {
    Config { journal_file_bytes: 8 << 20, memory_pool_bytes: 16 << 20, flush_bytes: 1 << 20, ..small() }
}

fn opened() -> (Erring, Hand, Opened) {
    let (io, hand) = (Erring::default(), Hand::default());
    let clock = || Arc::new(hand.clone());
    Store::create_on(Arc::new(io.clone()), clock(), Path::new(DIR), &config()).expect("an empty disk");
    let mut opened = open(Arc::new(io.clone()), clock(), Path::new(DIR), &config(), false).expect("a sound disk");
    let count = rests(&mut opened.flusher, |_| Rested::AtEase);
    assert!(opened.flusher.step(&*opened.committer.waker()).expect("a sound disk"));
    assert_eq!(*count.lock().expect("no panic"), 0, "the second file is made at once");
    let ring = &opened.core.journal.ring;
    ring.begin(Timeline::default(), FrameRef::default()).expect("a sound disk").expect("a spare");
    (io, hand, opened)
}

fn journals(io: &Erring) -> usize {
    io.mem.snapshot().keys().filter(|path| path.to_string_lossy().contains("journal-")).count()
}

/// Has `flusher` rest by `rest`, which is told how often it did. Gives that number in the end.
fn rests(flusher: &mut Flusher, rest: impl Fn(usize) -> Rested + Send + 'static) -> Arc<std::sync::Mutex<usize>> {
    let count = Arc::new(std::sync::Mutex::new(0));
    let counted = Arc::clone(&count);
    flusher.rest_by(Box::new(move |_| {
        let mut count = counted.lock().expect("no panic");
        *count += 1;
        rest(*count)
    }));
    count
}

#[test]
fn what_nobody_waits_for_is_filled_as_time_passes() {
    let (io, hand, Opened { committer, mut flusher, .. }) = opened();
    let before = journals(&io);
    let count = rests(&mut flusher, move |_| {
        hand.pass(1);
        Rested::AtEase
    });
    assert!(flusher.step(&*committer.waker()).expect("a sound disk"));
    assert_eq!(journals(&io), before + 1);
    assert_eq!(*count.lock().expect("no panic"), 4, "half of the file is filled at once, the rest within 8 s");
}

#[test]
fn who_hurries_it_or_asks_for_a_flush_has_the_rest_filled_at_once() {
    let (io, _hand, Opened { committer, mut flusher, .. }) = opened();
    let before = journals(&io);
    let count = rests(&mut flusher, |rests| if rests < 3 { Rested::AtEase } else { Rested::Hurried });
    assert!(flusher.step(&*committer.waker()).expect("a sound disk"));
    assert_eq!((journals(&io), *count.lock().expect("no panic")), (before + 1, 3));

    let (io, _hand, Opened { core, committer, mut flusher, .. }) = opened();
    let asked = Arc::clone(&core.flush_asked);
    let count = rests(&mut flusher, move |_| {
        asked.store(true, std::sync::atomic::Ordering::SeqCst);
        Rested::AtEase
    });
    assert!(flusher.step(&*committer.waker()).expect("a sound disk"));
    assert_eq!((journals(&io), *count.lock().expect("no panic")), (before + 1, 1));
}

#[test]
fn a_store_that_ends_or_stops_gives_it_up() {
    let (io, _hand, Opened { committer, mut flusher, .. }) = opened();
    let before = journals(&io);
    let count = rests(&mut flusher, |_| Rested::Ending);
    assert!(!flusher.step(&*committer.waker()).expect("a sound disk"));
    assert_eq!((journals(&io), *count.lock().expect("no panic")), (before, 1));

    let (io, _hand, Opened { core, committer, mut flusher, .. }) = opened();
    let count = rests(&mut flusher, move |_| {
        core.poison.set(Error::new(ErrorKind::Io, "a write failed"));
        Rested::AtEase
    });
    assert!(!flusher.step(&*committer.waker()).expect("it is told of at the next pass"));
    assert_eq!((journals(&io), *count.lock().expect("no panic")), (before, 1));
    flusher.step(&*committer.waker()).expect_err("stopped");
}

/// A new store, whose ring has a present file and a spare one.
fn fresh() -> (Erring, Hand, Opened) {
    let (io, hand) = (Erring::default(), Hand::default());
    let clock = || Arc::new(hand.clone());
    let config = Config { journal_files_max: 4, ..config() };
    Store::create_on(Arc::new(io.clone()), clock(), Path::new(DIR), &config).expect("an empty disk");
    let mut opened = open(Arc::new(io.clone()), clock(), Path::new(DIR), &config, false).expect("a sound disk");
    assert!(opened.flusher.step(&*opened.committer.waker()).expect("a sound disk"));
    (io, hand, opened)
}

#[test]
fn a_third_journal_file_is_made_once_nobody_appends_and_no_fourth() {
    let (io, hand, mut opened) = fresh();
    let count = rests(&mut opened.flusher, |_| Rested::AtEase);
    assert_eq!(journals(&io), 2);
    let waker = opened.committer.waker();
    for _ in 0..3 {
        drop(stage(&opened));
        while opened.committer.step(false) {}
        hand.pass(1);
        assert!(!opened.flusher.step(&*waker).expect("a sound disk"), "somebody appended since the last pass");
    }
    hand.pass(1);
    assert!(opened.flusher.step(&*waker).expect("a sound disk"));
    assert_eq!(journals(&io), 3);
    assert_eq!(*count.lock().expect("no panic"), 31, "it asks behind each piece, and takes no time");
    hand.pass(10);
    assert!(!opened.flusher.step(&*waker).expect("a sound disk"));
    assert_eq!(journals(&io), 3);
}

#[test]
fn who_comes_while_the_third_journal_file_is_made_ahead_has_it_given_up() {
    let (io, hand, mut opened) = fresh();
    let waker = opened.committer.waker();
    let journal = Arc::clone(&opened.core.journal);
    for (at, rested) in [(3, Rested::AtEase), (5, Rested::Hurried), (7, Rested::Ending)] {
        let appending = Arc::clone(&journal);
        let count = rests(&mut opened.flusher, move |rests| {
            if rests < at {
                return Rested::AtEase;
            }
            if rested == Rested::AtEase {
                let (mut end, time) = appending.published();
                end.last_lsn = end.last_lsn.next();
                appending.set_published(end, time);
            }
            rested
        });
        hand.pass(1);
        assert!(!opened.flusher.step(&*waker).expect("a sound disk"));
        assert_eq!((journals(&io), *count.lock().expect("no panic")), (2, at), "{rested:?}");
    }
    rests(&mut opened.flusher, |_| Rested::AtEase);
    hand.pass(1);
    assert!(opened.flusher.step(&*waker).expect("a sound disk"));
    assert_eq!(journals(&io), 3, "at the next rest");
}

/// Bytes of a record that is to be flushed.
const RECORD: usize = 256 << 10;

/// A store with 4 MiB to be flushed, and a spare journal file.
fn due() -> (Erring, Hand, Opened) {
    let (io, hand) = (Erring::default(), Hand::default());
    let clock = || Arc::new(hand.clone());
    let config = Config { journal_file_bytes: 16 << 20, memory_pool_bytes: 32 << 20, ..config() };
    Store::create_on(Arc::new(io.clone()), clock(), Path::new(DIR), &config).expect("an empty disk");
    let mut opened = open(Arc::new(io.clone()), clock(), Path::new(DIR), &config, false).expect("a sound disk");
    assert!(opened.flusher.step(&*opened.committer.waker()).expect("a sound disk"));
    (0..16).for_each(|_| drop(stage(&opened)));
    while opened.committer.step(false) {}
    (io, hand, opened)
}

fn stage(opened: &Opened) -> Ack {
    let mut batch = Batch::new();
    batch.log("log").create_if_missing().record(&[7; RECORD]);
    opened.core.appender.append(&batch).expect("there is room")
}

fn flush(opened: &mut Opened) {
    assert!(opened.flusher.step(&*opened.committer.waker()).expect("a sound disk"));
    let set = opened.core.index.set();
    assert_eq!((set.segments.len(), opened.core.index.mem_bytes()), (1, 0), "all of it is flushed");
}

#[test]
fn what_nobody_waits_for_is_flushed_as_time_passes() {
    let (_io, hand, mut opened) = due();
    let count = rests(&mut opened.flusher, move |_| {
        hand.pass(1);
        Rested::AtEase
    });
    flush(&mut opened);
    assert_eq!(*count.lock().expect("no panic"), 2, "a quarter of it at once, the rest within 2 s");
}

#[test]
fn who_hurries_a_flush_or_ends_the_store_has_it_done_at_once() {
    for rested in [Rested::Hurried, Rested::Ending] {
        let (_io, _hand, mut opened) = due();
        let count = rests(&mut opened.flusher, move |_| rested);
        flush(&mut opened);
        assert_eq!(*count.lock().expect("no panic"), 1, "{rested:?}");
    }
}

#[test]
fn a_flush_that_is_asked_for_does_not_rest() {
    let (_io, _hand, mut opened) = due();
    let count = rests(&mut opened.flusher, |_| Rested::AtEase);
    opened.core.flush_asked.store(true, std::sync::atomic::Ordering::SeqCst);
    flush(&mut opened);
    assert_eq!(*count.lock().expect("no panic"), 0);

    let (_io, _hand, mut opened) = due();
    let asked = Arc::clone(&opened.core.flush_asked);
    let count = rests(&mut opened.flusher, move |_| {
        asked.store(true, std::sync::atomic::Ordering::SeqCst);
        Rested::AtEase
    });
    flush(&mut opened);
    assert_eq!(*count.lock().expect("no panic"), 1);
}

#[test]
fn a_flush_does_not_rest_while_the_pool_fills() {
    let (_io, _hand, mut opened) = due();
    let index = Arc::clone(&opened.core.index);
    let room = index.pool.bytes_soft() - index.pool.taken();
    let count = rests(&mut opened.flusher, move |_| {
        assert!(index.pool.try_take(room / 8));
        Rested::AtEase
    });
    flush(&mut opened);
    let rests = *count.lock().expect("no panic");
    assert!((2..=4).contains(&rests), "it is done with half of the room: {rests} eighths");
}
