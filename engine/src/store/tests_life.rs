//! The store's life beside its records: its end, its lock, those who wait on it, and those who look at it from outside.

use super::subscription::ReadFuture;
use super::tests::{append, fresh};
use crate::{Batch, Config, ErrorKind, ReadLimit, ReadOnly, Store, verify};
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};
use tempfile::TempDir;

fn watchers(store: &Store, log: &str) -> usize {
    let index = &store.inner.core.index;
    index.heads.get(index.log_id(log)).lock().watchers.len()
}

#[test]
fn a_closed_store_answers_nobody_and_keeps_no_lock() {
    let (dir, config) = fresh();
    let store = Store::open(dir.path(), config.clone()).expect("a store");
    append(&store, "log", &[b"0"]);
    let subscription = store.subscribe("log").expect("exists");
    let other = store.clone();
    store.close().expect("clean");
    let kinds = [
        other.read("log", 0, ReadLimit::default()).map(drop),
        other.info("log").map(drop),
        other.list("", None, 10).map(drop),
        other.subscribe("log").map(drop),
        other.flush(),
        subscription.wait(0, Duration::from_secs(20)).map(drop),
        subscription.next_seq().map(drop),
    ];
    for (n, result) in kinds.into_iter().enumerate() {
        assert_eq!(result.expect_err("closed").kind(), ErrorKind::ShutDown, "call {n}");
    }
    let mut context = Context::from_waker(Waker::noop());
    let mut read = other.read_async("log", 0, ReadLimit::default());
    let Poll::Ready(Err(error)) = Pin::new(&mut read).poll(&mut context) else { panic!("a closed store answered") };
    assert_eq!(error.kind(), ErrorKind::ShutDown);
    let again = Store::open(dir.path(), config).expect("the lock was released, whoever lives on");
    assert!(again.recovery().clean);
    drop((other, subscription));
}

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_close_wakes_those_who_wait() {
    let (dir, config) = fresh();
    let store = Store::open(dir.path(), config).expect("a store");
    append(&store, "log", &[b"0"]);
    let subscription = store.subscribe("log").expect("exists");
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut changed = pin!(subscription.changed(1));
    assert!(changed.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    let began = Instant::now();
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| subscription.wait(1, Duration::from_secs(60)));
        while watchers(&store, "log") < 2 {
            std::thread::yield_now();
        }
        store.close().expect("clean");
        let error = waiting.join().expect("no panic").expect_err("closed");
        assert_eq!(error.kind(), ErrorKind::ShutDown);
    });
    assert!(began.elapsed() < Duration::from_secs(30), "it slept to its timeout");
    assert_eq!(woken.0.load(Ordering::SeqCst), 1, "the task was woken");
    assert!(matches!(changed.poll(&mut Context::from_waker(&waker)), Poll::Ready(Err(_))));
}

#[test]
fn a_failure_wakes_those_who_wait() {
    let (dir, config) = fresh();
    let store = Store::open(dir.path(), config).expect("a store");
    append(&store, "log", &[b"0"]);
    let subscription = store.subscribe("log").expect("exists");
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut changed = pin!(subscription.changed(1));
    assert!(changed.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
    let core = Arc::clone(&store.inner.core);
    let failing = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(20));
        core.poison.set(crate::Error::new(ErrorKind::Io, "the disk is gone"));
    });
    let error = subscription.wait(1, Duration::from_secs(60)).expect_err("nothing comes any more");
    assert_eq!(error.kind(), ErrorKind::Poisoned);
    failing.join().expect("no panic");
    let began = Instant::now();
    while woken.0.load(Ordering::SeqCst) == 0 {
        assert!(began.elapsed() < Duration::from_secs(30), "the task was not woken");
        std::thread::yield_now();
    }
    assert_eq!(subscription.wait(0, Duration::ZERO).expect("what is there is still read"), 1);
}

#[test]
fn waits_leave_nothing_behind_on_a_quiet_log() {
    let (dir, config) = fresh();
    let store = Store::open(dir.path(), config).expect("a store");
    append(&store, "log", &[b"0"]);
    let subscription = store.subscribe("log").expect("exists");
    for _ in 0..10 {
        assert_eq!(subscription.wait(1, Duration::from_millis(1)).expect("timed out"), 1);
    }
    assert_eq!(watchers(&store, "log"), 0, "waits that ended");
    let mut context = Context::from_waker(Waker::noop());
    {
        let (mut one, mut two) = (pin!(subscription.changed(1)), pin!(subscription.changed(1)));
        for _ in 0..10 {
            assert!(one.as_mut().poll(&mut context).is_pending());
            assert!(two.as_mut().poll(&mut context).is_pending());
        }
        assert_eq!(watchers(&store, "log"), 2, "one for each future");
    }
    assert_eq!(watchers(&store, "log"), 0, "futures that were dropped");
}

#[test]
fn an_acknowledgement_taken_before_is_not_waited_for() {
    let (dir, config) = fresh();
    let store = Store::open(dir.path(), config).expect("a store");
    let mut batch = Batch::new();
    batch.log("log").create();
    let ack = store.append(batch).expect("staged");
    while ack.try_get().is_none() {
        std::thread::yield_now();
    }
    assert_eq!(ack.wait().expect_err("given before").kind(), ErrorKind::Invalid);
}

#[test]
fn a_read_that_panics_is_answered() {
    let (dir, config) = fresh();
    let store = Store::open(dir.path(), config).expect("a store");
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut context = Context::from_waker(&waker);
    let mut read = ReadFuture::start(store.inner.threads.lock().as_ref(), || panic!("as a test does"));
    let began = Instant::now();
    let error = loop {
        match Pin::new(&mut read).poll(&mut context) {
            Poll::Ready(answer) => break answer.expect_err("it panicked"),
            Poll::Pending => assert!(began.elapsed() < Duration::from_secs(30), "it pends for ever"),
        }
        std::thread::yield_now();
    };
    assert_eq!(error.kind(), ErrorKind::Unknown);
    append(&store, "log", &[b"0"]);
}

#[test]
fn a_creation_needs_the_lock() {
    let dir = TempDir::new().expect("a temporary directory");
    let io = crate::io::choose(crate::IoChoice::Posix).expect("there is always posix");
    let held = super::lock::take(&*io, dir.path()).expect("free");
    let error = Store::create(dir.path(), &Config::small()).expect_err("another creates it");
    assert_eq!(error.kind(), ErrorKind::Locked);
    drop(held);
    Store::create(dir.path(), &Config::small()).expect("free again");
    let other = TempDir::new().expect("a temporary directory");
    std::fs::write(other.path().join("letter"), b"dear").expect("written");
    Store::create(other.path(), &Config::small()).expect_err("not empty");
    assert!(!other.path().join("LOCK").exists(), "a directory that is refused is left as it is");
}

#[test]
fn a_copy_that_lacks_the_empty_directory_of_segments_opens() {
    let (dir, config) = fresh();
    std::fs::remove_dir(dir.path().join("segments")).expect("nothing was flushed");
    ReadOnly::open(dir.path()).expect("nothing is missing");
    let store = Store::open(dir.path(), config).expect("nothing is missing");
    append(&store, "log", &[b"0"]);
    store.flush().expect("the segment finds its place");
    store.close().expect("clean");
}

#[test]
fn a_busy_store_can_be_looked_at_and_has_no_findings() {
    let dir = TempDir::new().expect("a temporary directory");
    let config = Config {
        journal_file_bytes: 256 << 10,
        memory_pool_bytes: 4 << 20,
        flush_bytes: 512 << 10,
        journal_files_max: 4,
        ..Config::small()
    };
    Store::create(dir.path(), &config).expect("an empty directory");
    let store = Store::open(dir.path(), config).expect("a store");
    append(&store, "log", &[b"0"]);
    // Proved, which its acknowledgement alone is not for those outside.
    store.flush().expect("flushed");
    let stop = AtomicBool::new(false);
    let io = crate::io::choose(crate::IoChoice::Posix).expect("there is always posix");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let payload = [7; 5000];
            while !stop.load(Ordering::SeqCst) {
                append(&store, "log", &[&payload]);
            }
        });
        let _stopping = Stopping(&stop);
        for n in 0..20 {
            let before = store.info("log").expect("exists").next_seq;
            let view = ReadOnly::open(dir.path()).unwrap_or_else(|e| panic!("look {n}: {e}"));
            let seen = view.info("log").expect("exists").next_seq;
            let after = store.info("log").expect("exists").next_seq;
            assert!(seen <= after && seen + 100 >= before, "look {n} saw {seen}, between {before} and {after}");
            let findings = verify(Arc::clone(&io), dir.path(), &mut |_, _| ()).expect("it can be checked");
            assert_eq!(findings, [], "check {n}");
        }
    });
}

/// Ends a busy thread even if a look fails.
struct Stopping<'a>(&'a AtomicBool);

impl Drop for Stopping<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn wakers_that_panic_stop_neither_the_store_nor_its_close() {
    let (dir, config) = fresh();
    let store = Store::open(dir.path(), config.clone()).expect("a store");
    append(&store, "log", &[b"a"]);
    let waker = crate::waiter::panicking_waker();
    let mut context = Context::from_waker(&waker);
    let mut acks: Vec<_> = (0..4)
        .map(|_| {
            let mut batch = Batch::new();
            batch.log("log").record(&[7; 100_000]);
            store.append(batch).expect("staged")
        })
        .collect();
    let mut answered = vec![false; acks.len()];
    for (ack, answered) in acks.iter_mut().zip(&mut answered) {
        *answered = Pin::new(ack).poll(&mut context).is_ready();
    }
    append(&store, "log", &[b"b"]);
    for (ack, answered) in acks.into_iter().zip(answered) {
        assert!(answered || ack.wait().is_ok(), "durable before what came after it");
    }
    assert!(!store.stats().poisoned, "a client's own failure");
    let subscription = store.subscribe("log").expect("there");
    let mut changed = subscription.changed(6);
    assert!(Pin::new(&mut changed).poll(&mut context).is_pending());
    drop(changed);
    let mut changed = subscription.changed(6);
    assert!(Pin::new(&mut changed).poll(&mut context).is_pending());
    store.close().expect("clean");
    Store::open(dir.path(), config).expect("the lock was released");
}
