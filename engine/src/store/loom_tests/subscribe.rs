//! Watching a log: no wake-up is lost between a look and the wait, whatever comes: a record, a close, a failure.

use super::*;
use crate::store::Subscription;

/// A record is published while a thread looks and lies down.
#[test]
fn loom_a_thread_that_watches_is_woken_by_a_record() {
    let files = created();
    check(move || {
        let mut parts = Parts::open(files);
        parts.put(&["a"], b"first");
        let ack = append(&parts.core, &["a"], b"second").expect("staged");
        let Parts { core, committer, .. } = parts;
        let watch = Subscription::new(&core, "a");
        let (committer, stop) = commits(&core, committer);
        assert_eq!(watch.wait(1, FOREVER).expect("open"), 2);
        ack.wait().expect("durable");
        stop.stop();
        committer.join().expect("no panic").expect("it did not panic");
    });
}

/// The same for a task, beside another one that gives up.
#[test]
fn loom_a_task_that_watches_is_woken_by_a_record() {
    let files = created();
    check(move || {
        let mut parts = Parts::open(files);
        parts.put(&["a"], b"first");
        let ack = append(&parts.core, &["a"], b"second").expect("staged");
        let Parts { core, committer, .. } = parts;
        let watch = Subscription::new(&core, "a");
        let (committer, stop) = commits(&core, committer);
        {
            let mut given_up = pin!(watch.changed(5));
            assert!(given_up.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        assert_eq!(block_on(watch.changed(1)).expect("open"), 2);
        ack.wait().expect("durable");
        stop.stop();
        committer.join().expect("no panic").expect("it did not panic");
    });
}

/// The store closes while a thread looks and lies down.
#[test]
fn loom_a_thread_that_watches_is_woken_by_a_close() {
    let files = created();
    check(move || {
        let mut parts = Parts::open(files);
        parts.put(&["a"], b"first");
        let core = parts.core;
        let closing = {
            let core = Arc::clone(&core);
            thread(move || core.begin_close())
        };
        let watch = Subscription::new(&core, "a");
        assert_eq!(watch.wait(1, FOREVER).expect_err("closed").kind(), ErrorKind::ShutDown);
        closing.join().expect("no panic");
    });
}

/// The store closes while a task looks and lies down, with a log of its own that nobody knew before.
#[test]
fn loom_a_task_that_watches_is_woken_by_a_close() {
    let files = created();
    check(move || {
        let mut parts = Parts::open(files);
        parts.put(&["a"], b"first");
        let core = parts.core;
        let closing = {
            let core = Arc::clone(&core);
            thread(move || core.begin_close())
        };
        let watch = Subscription::new(&core, "a");
        assert_eq!(block_on(watch.changed(1)).expect_err("closed").kind(), ErrorKind::ShutDown);
        closing.join().expect("no panic");
    });
}

/// The flush cannot put a manifest in place, which closes the latch, while the committer sleeps: those who watch are
/// told.
#[test]
fn loom_a_thread_that_watches_is_woken_by_a_failure() {
    let files = created();
    check_to(2, move || {
        let mut parts = Parts::open(files);
        parts.put(&["a"], b"first");
        parts.disk.state.fail_manifest.store(true, Ordering::Relaxed);
        let Parts { core, committer, flusher, .. } = parts;
        core.flush_asked.store(true, Ordering::SeqCst);
        let waker = committer.waker();
        let (committer, stop) = commits(&core, committer);
        let (flusher, stop_flush) = flushes(&core, flusher, waker);
        let watch = Subscription::new(&core, "a");
        assert_eq!(watch.wait(1, FOREVER).expect_err("nothing can come").kind(), ErrorKind::Poisoned);
        stop.stop();
        committer.join().expect("no panic");
        stop_flush.stop();
        flusher.join().expect("no panic");
    });
}
