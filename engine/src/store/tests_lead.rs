//! Callers who wait and commit in the committer's place; and the committer of a store in which nobody appends.

use super::open::{Opened, open};
use super::testing::{DIR, EIO, Erring, Fate, Hand, append, created, read, running, small, stepped};
use super::{Batch, Core, Steps, Store};
use crate::commit::leader::Leader;
use crate::error::ErrorKind;
use crate::io::Op;
use crate::read::ReadLimit;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

fn opened() -> (Erring, Store, Steps) {
    let io = created(&small());
    let (store, steps) = stepped(&io, &small());
    (io, store, steps)
}

fn batch(payload: &[u8]) -> Batch<'_> {
    let mut batch = Batch::new();
    batch.log("log").create_if_missing().record(payload);
    batch
}

fn is_frame(op: &Op) -> bool {
    matches!(op, Op::Write { file, durable: true, .. } if file.path.to_string_lossy().contains("journal"))
}

#[test]
fn what_is_staged_is_written_and_told_at_once() {
    let (io, store, mut steps) = opened();
    let acks = [append(&store, b"one"), append(&store, b"two")].map(|ack| ack.expect("staged"));
    let before = store.stats().frames;
    steps.lead();
    assert!(acks.into_iter().all(|ack| ack.try_get().is_some_and(|answer| answer.is_ok())));
    assert_eq!((read(&store), store.stats().frames), (vec![b"one".to_vec(), b"two".to_vec()], before + 1));
    steps.lead();
    assert_eq!(store.stats().frames, before + 1, "there is nothing to commit");
    drop((store, steps));
    let (again, _steps) = stepped(&io, &small());
    assert_eq!(read(&again), [b"one", b"two"]);
}

#[test]
fn a_frame_behind_one_in_flight_is_told_once_that_is_durable() {
    let (io, store, mut steps) = opened();
    *io.gives.lock() = Some((0, false));
    let first = append(&store, b"one").expect("staged");
    steps.commit().expect("begun");
    let second = append(&store, &[2; 100]).expect("staged");
    steps.lead();
    assert!(first.try_get().is_none() && second.try_get().is_none(), "told before the first is durable");
    assert!(read(&store).is_empty(), "seen before the first is durable");
    let third = append(&store, b"three").expect("staged");
    let writes = store.stats().frame_writes;
    steps.lead();
    assert_eq!(store.stats().frame_writes, writes, "the second is in flight still");
    *io.gives.lock() = None;
    steps.commit().expect("a sound disk");
    assert!(first.try_get().is_some_and(|answer| answer.is_ok()));
    assert!(second.try_get().is_some_and(|answer| answer.is_ok()));
    while steps.commit().expect("a sound disk") {}
    assert!(third.try_get().is_some_and(|answer| answer.is_ok()));
    assert_eq!(read(&store), [&b"one"[..], &[2; 100], b"three"]);
}

#[test]
fn a_smaller_frame_is_not_begun_behind_one_in_flight() {
    let (io, store, mut steps) = opened();
    *io.gives.lock() = Some((0, false));
    let first = append(&store, b"one that is longer").expect("staged");
    steps.commit().expect("begun");
    let second = append(&store, b"two").expect("staged");
    let writes = store.stats().frame_writes;
    steps.lead();
    assert_eq!(store.stats().frame_writes, writes);
    *io.gives.lock() = None;
    while steps.commit().expect("a sound disk") {}
    assert!([first, second].into_iter().all(|ack| ack.try_get().is_some_and(|answer| answer.is_ok())));
}

#[test]
fn a_write_that_fails_or_panics_stops_the_store() {
    for fate in [Fate::Fails(EIO), Fate::Short, Fate::Panics] {
        let (io, store, mut steps) = opened();
        let kept = append(&store, b"kept").expect("staged");
        steps.lead();
        kept.wait().expect("durable");
        io.set(move |op| if is_frame(op) { fate } else { Fate::Well });
        let lost = append(&store, b"lost").expect("staged");
        steps.lead();
        assert_eq!(append(&store, b"later").map(drop).expect_err("stopped").kind(), ErrorKind::Poisoned, "{fate:?}");
        steps.commit().expect_err("stopped");
        let error = lost.try_get().expect("answered").expect_err("nobody knows");
        assert_eq!(error.kind(), ErrorKind::Unknown, "{fate:?}: {error}");
        assert_eq!(read(&store), [b"kept"], "{fate:?}");
    }
}

#[test]
fn callers_on_many_threads_all_find_what_they_were_told_of() {
    const THREADS: usize = 8;
    const APPENDS: usize = 200;
    let io = created(&small());
    let store = running(&io, &small());
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let store = &store;
            scope.spawn(move || {
                let name = format!("log-{thread}");
                for n in 0..APPENDS {
                    let (mut batch, payload) = (Batch::new(), n.to_le_bytes());
                    batch.log(&name).create_if_missing().record(&payload);
                    // Some do not wait at once, so that the committer has its part.
                    let receipt = match n % 5 {
                        0 => store.append(batch).expect("staged").wait(),
                        _ => store.append_and_wait(batch),
                    };
                    assert_eq!(receipt.expect("durable").logs[0].first_seq, n as u64);
                    assert_eq!(store.info(&name).expect("it is there").next_seq, n as u64 + 1, "told and not seen");
                }
            });
        }
    });
    store.close().expect("clean");
    let (again, _steps) = stepped(&io, &small());
    for thread in 0..THREADS {
        let page = again.read(&format!("log-{thread}"), 0, ReadLimit::default()).expect("it is there");
        let expected = (0..APPENDS).map(|n| n.to_le_bytes().to_vec());
        assert!(page.records.into_iter().map(|record| record.payload).eq(expected));
    }
}

/// Counts how often it is called.
#[derive(Default)]
struct Calls(AtomicUsize);

impl crate::io::Wake for Calls {
    fn wake(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_committer_that_sleeps_is_woken_once_for_the_idle_frames_and_for_what_is_left() {
    let io = Arc::new(created(&small()));
    let opened = open(io, Arc::new(Hand::default()), Path::new(DIR), &small(), false).expect("a sound disk");
    let calls = Arc::new(Calls::default());
    let leader = Leader { waker: Arc::clone(&calls) as Arc<dyn crate::io::Wake>, ..opened.committer.leader() };
    let core = opened.core;
    let lead = |expected: usize, why: &str| {
        let ack = core.appender.append(&batch(b"record")).expect("staged");
        leader.commit();
        ack.wait().expect("durable");
        assert_eq!(calls.0.load(Ordering::SeqCst), expected, "{why}");
    };
    lead(1, "it knows of no idle frame, and sleeps for long");
    lead(1, "it looks for the idle frame of the first before it is due");
    leader.commit();
    assert_eq!(calls.0.load(Ordering::SeqCst), 2, "there was nothing to commit here");
}

/// A store whose last frame was that of three clients, two of them callers who do nothing else, and whose committer sleeps.
fn behind_callers() -> (Erring, Opened, Leader, Arc<Calls>) {
    let io = created(&small());
    let mut opened =
        open(Arc::new(io.clone()), Arc::new(Hand::default()), Path::new(DIR), &small(), false).expect("a sound disk");
    let calls = Arc::new(Calls::default());
    let waker = Arc::clone(&calls) as Arc<dyn crate::io::Wake>;
    let leader = Leader { waker: Arc::clone(&waker), ..opened.committer.leader() };
    let core = Arc::get_mut(&mut opened.core).expect("nobody else has it yet");
    core.appender.leader = leader.clone();
    stage_of_callers(&opened.core);
    leader.commit();
    calls.0.store(0, Ordering::SeqCst);
    (io, opened, leader, calls)
}

/// Has a frame staged of which two of three clients are callers who do nothing else, and nobody begin it.
fn stage_of_callers(core: &Core) {
    drop(core.appender.append(&batch(b"record")).expect("staged"));
    (0..2).for_each(|_| drop(core.appender.append_and_lead(&batch(b"record")).expect("staged")));
}

#[test]
fn the_first_of_the_callers_who_come_back_looks_after_the_others() {
    let (_io, opened, _leader, calls) = behind_callers();
    let appender = &opened.core.appender;
    // It is less than half of what the last frame had, and nobody else comes.
    let ack = appender.append_and_lead(&batch(b"x")).expect("staged");
    assert!(ack.try_get().expect("it was committed").is_ok());
    assert_eq!(calls.0.load(Ordering::SeqCst), 0, "the committer slept on");
}

#[test]
fn where_the_first_to_come_does_not_wait_the_committer_is_woken() {
    let (_io, opened, _leader, calls) = behind_callers();
    let appender = &opened.core.appender;
    let first = appender.append(&batch(b"x")).expect("staged");
    assert_eq!(calls.0.load(Ordering::SeqCst), 1, "nobody else looks after it");
    let second = appender.append_and_lead(&batch(b"x")).expect("staged");
    assert!(first.try_get().is_none() && second.try_get().is_none(), "the committer is awake for both");
    assert_eq!(calls.0.load(Ordering::SeqCst), 1);
}

#[test]
fn the_committer_is_woken_for_what_came_before_the_frame_was_published() {
    let (io, opened, leader, calls) = behind_callers();
    let core = Arc::clone(&opened.core);
    stage_of_callers(&core);
    io.set(move |op| {
        if is_frame(op) {
            drop(core.appender.append_and_lead(&batch(b"x")).expect("staged"));
        }
        Fate::Well
    });
    calls.0.store(0, Ordering::SeqCst);
    leader.commit();
    assert_eq!(calls.0.load(Ordering::SeqCst), 1, "nobody may come any more");
}

/// As [`behind_callers`], of nine callers.
fn behind_many() -> (Erring, Opened, Leader, Arc<Calls>) {
    let (io, opened, leader, calls) = behind_callers();
    let appender = &opened.core.appender;
    drop(appender.append(&batch(b"x")).expect("staged"));
    (0..9).for_each(|_| drop(appender.append_and_lead(&batch(b"x")).expect("staged")));
    calls.0.store(0, Ordering::SeqCst);
    leader.commit();
    (io, opened, leader, calls)
}

#[test]
fn many_callers_leave_the_frames_to_the_committer() {
    let (_io, opened, leader, calls) = behind_many();
    let appender = &opened.core.appender;
    assert_eq!(calls.0.load(Ordering::SeqCst), 1, "it is woken, and looks after those who come back");
    let acks = [0; 8].map(|_| appender.append_and_lead(&batch(b"x")).expect("staged"));
    assert!(acks.iter().all(|ack| ack.try_get().is_none()), "the committer is awake for them");
    assert_eq!(calls.0.load(Ordering::SeqCst), 1);
    leader.commit();
    assert!(acks.into_iter().all(|ack| ack.try_get().is_some_and(|answer| answer.is_ok())));
    // A small frame between two of many does not end that.
    (0..2).for_each(|_| drop(appender.append_and_lead(&batch(b"x")).expect("staged")));
    leader.commit();
    let ack = appender.append_and_lead(&batch(b"x")).expect("staged");
    assert!(ack.try_get().is_none(), "two of ten are back");
    // A caller alone does.
    leader.commit();
    assert!(ack.try_get().expect("it was committed").is_ok());
    let ack = appender.append_and_lead(&batch(b"x")).expect("staged");
    assert!(ack.try_get().expect("it committed by itself").is_ok());
}

#[test]
fn of_many_callers_none_begins_a_frame_behind_another() {
    let (io, mut opened, leader, _calls) = behind_many();
    let core = Arc::clone(&opened.core);
    let writes = || core.index.metrics.frame_writes.get();
    *io.gives.lock() = Some((0, false));
    drop(core.appender.append(&batch(b"x")).expect("staged"));
    assert!(opened.committer.step(false));
    let before = writes();
    drop(core.appender.append(&batch(&[2; 100])).expect("staged"));
    leader.commit();
    assert_eq!(writes(), before, "the first is in flight still");
    *io.gives.lock() = None;
    while opened.committer.step(false) {}

    // Nor does the committer behind one that a caller writes.
    let (_io, opened, _leader, _calls) = behind_many();
    drop(opened.core.appender.append(&batch(b"x")).expect("staged"));
    let mut frames = opened.committer.frames();
    assert!(frames.begin_led().expect("a sound disk").is_some());
    drop(opened.core.appender.append(&batch(&[2; 100])).expect("staged"));
    let second = frames.begin_next();
    // Otherwise the committer's end would wait for the first.
    frames.end_led();
    drop(frames);
    assert!(second.expect("a sound disk").is_none());
}

#[test]
fn the_committer_writes_small_frames_of_callers_as_they_would() {
    let (io, mut opened, _leader, _calls) = behind_callers();
    // What the queue has does not end: as many frames as may be are in flight.
    let stuck = || *io.gives.lock() = Some((0, false));
    stuck();
    for _ in 0..small().in_flight {
        drop(opened.core.appender.append(&batch(b"x")).expect("staged"));
        opened.committer.step(false);
    }
    let ack = opened.core.appender.append_and_lead(&batch(b"x")).expect("staged");
    *io.gives.lock() = None;
    assert!(opened.committer.step(false) && ack.try_get().is_none(), "those before it are durable");
    stuck();
    assert!(opened.committer.step(true));
    assert!(ack.try_get().expect("it was written by the committer itself").is_ok());
}

/// Closes the store when it is called.
struct Closes(Store, AtomicBool);

impl Wake for Closes {
    fn wake(self: Arc<Self>) {
        if !self.1.swap(true, Ordering::SeqCst) {
            // On the committer's thread it says that it goes on elsewhere.
            let closed = self.0.clone().close();
            assert!(closed.err().is_none_or(|error| error.kind() == ErrorKind::Unknown));
        }
    }
}

#[test]
fn a_waker_that_closes_the_store_may_be_called_by_a_caller_who_commits() {
    let io = created(&small());
    let store = running(&io, &small());
    store.append_and_wait(batch(b"first")).expect("durable");
    let subscription = store.subscribe("log").expect("it is there");
    let waker = Waker::from(Arc::new(Closes(store.clone(), AtomicBool::new(false))));
    let mut changed = std::pin::pin!(subscription.changed(1));
    assert!(matches!(changed.as_mut().poll(&mut Context::from_waker(&waker)), Poll::Pending));
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || sender.send(store.append_and_wait(batch(b"second")).map(drop)));
    let outcome = receiver.recv_timeout(PATIENCE).expect("it ends");
    outcome.expect("it was durable before anybody was woken");
}

#[test]
fn a_store_at_rest_keeps_no_buffers() {
    let (io, hand) = (Arc::new(created(&small())), Hand::default());
    let opened = Store::open_stepped(io, Arc::new(hand.clone()), Path::new(DIR), small());
    let (store, mut steps) = opened.expect("a sound disk");
    let ack = append(&store, &[7; 7000]).expect("staged");
    steps.lead();
    ack.wait().expect("durable");
    let kept = || store.inner.core.index.buffers.kept_bytes();
    steps.commit().expect("a sound disk");
    hand.pass(2);
    steps.commit().expect("a sound disk");
    assert!(kept() > 0, "the frame's buffer waits for the next");
    hand.pass(9);
    steps.commit().expect("a sound disk");
    assert_eq!(kept(), 0);
}
