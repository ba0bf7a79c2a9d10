//! When something fails for good: nothing is acknowledged any more, and nobody is left waiting.

use super::*;

fn assert_stopped(kind: ErrorKind) {
    assert!(matches!(kind, ErrorKind::Poisoned | ErrorKind::Unknown), "{kind:?}");
}

fn assert_unanswered(outcome: Result<Ack>) {
    assert_stopped(outcome.and_then(Ack::wait).expect_err("nothing is acknowledged").kind());
}

/// The write of a frame fails while a second caller appends and a third waits for memory: none of them is acknowledged,
/// none waits for ever.
#[test]
fn loom_a_failed_write_acknowledges_nobody() {
    let files = created();
    check_to(2, move || {
        let mut parts = Parts::open(files);
        parts.put(&["a", "b"], b"first");
        parts.disk.state.fail_write.store(true, Ordering::Relaxed);
        let first = append(&parts.core, &["b"], b"second");
        let Parts { core, committer, .. } = parts;
        let room = core.index.pool.bytes_max() - core.index.pool.taken();
        assert!(core.index.pool.try_take(room - 1000), "it is there");
        let (committer, stop) = commits(&core, committer);
        let other = {
            let core = Arc::clone(&core);
            thread(move || assert_unanswered(append(&core, &["b"], &[7; 5000])))
        };
        assert_unanswered(append(&core, &["a"], b"second"));
        assert_unanswered(first);
        other.join().expect("no panic");
        stop.stop();
        committer.join().expect("no panic");
        for log in ["a", "b"] {
            assert_eq!(page(&core, log).expect("what is there is still read").records.len(), 1);
        }
    });
}

/// The write of a caller who commits in the committer's place fails, or that of another: it is not acknowledged, nobody waits
/// for ever, and the committer ends once no caller writes.
#[test]
fn loom_a_write_of_a_caller_that_fails_acknowledges_nobody() {
    let files = created();
    check_to(2, move || {
        let mut outcome = Ok(());
        let other = |core: &Core| append_and_wait(core, "b", b"second").map(drop);
        let (core, _, others) = beside_a_committer(files, other, |core, disk| {
            disk.state.fail_write.store(true, Ordering::Relaxed);
            outcome = append_and_wait(core, "a", b"third").map(drop);
        });
        // The one whose write failed, and any behind it: what came before may be durable.
        let failed = [outcome, others].into_iter().filter_map(Result::err);
        assert!(failed.inspect(|error| assert_stopped(error.kind())).count() > 0, "both were acknowledged");
        assert!(core.poison.is_set());
    });
}

/// The latch is closed while a frame is being published: what is not answered by then is not acknowledged later.
#[test]
fn loom_nothing_is_acknowledged_once_the_latch_is_closed() {
    let files = created();
    check(move || {
        let mut parts = Parts::open(files);
        parts.put(&["a"], b"first");
        let ack = Arc::new(append(&parts.core, &["a"], b"second").expect("staged"));
        let Parts { core, committer, .. } = parts;
        let (committer, stop) = commits(&core, committer);
        core.poison.set(Error::new(ErrorKind::Io, "a manifest could not be written"));
        let told = ack.try_get();
        append(&core, &["a"], b"third").map(drop).expect_err("the latch is closed");
        stop.stop();
        committer.join().expect("no panic");
        if told.is_none() {
            let later = ack.try_get().expect("answered in the end");
            assert_eq!(later.expect_err("acknowledged behind the latch").kind(), ErrorKind::Unknown);
        }
    });
}

/// A manifest cannot be put in place while a caller appends: whoever asked for the flush is told, and so is the caller,
/// unless he was acknowledged before.
#[test]
fn loom_a_failed_manifest_stops_appends() {
    let files = created();
    check_to(2, move || {
        let mut parts = Parts::open(files);
        parts.put(&["a"], b"first");
        parts.disk.state.fail_manifest.store(true, Ordering::Relaxed);
        let ack = append(&parts.core, &["a"], b"second");
        let Parts { core, committer, flusher, .. } = parts;
        let waker = committer.waker();
        let (committer, stop) = commits(&core, committer);
        let (flusher, stop_flush) = flushes(&core, flusher, waker);
        core.flush_signal.flush(&core).expect_err("no manifest can be written");
        assert_eq!(append(&core, &["a"], b"third").map(drop).expect_err("poisoned").kind(), ErrorKind::Poisoned);
        if let Err(error) = ack.and_then(Ack::wait) {
            assert_stopped(error.kind());
        }
        stop.stop();
        committer.join().expect("no panic");
        stop_flush.stop();
        flusher.join().expect("no panic");
    });
}

/// The committer panics: a caller who waits for an answer and one who waits for memory are told.
#[test]
fn loom_a_committer_that_panics_leaves_no_append_waiting() {
    quiet(WANTED);
    let files = created();
    check_to(2, move || {
        let mut parts = Parts::open(files);
        parts.put(&["a"], b"first");
        parts.disk.state.panic_poll.store(true, Ordering::Relaxed);
        let Parts { core, committer, .. } = parts;
        let room = core.index.pool.bytes_max() - core.index.pool.taken();
        assert!(core.index.pool.try_take(room), "it is there");
        let (committer, _stop) = commits(&core, committer);
        let other = {
            let core = Arc::clone(&core);
            thread(move || assert_unanswered(append(&core, &["a"], &[7; 5000])))
        };
        // This is room for one, and not for the other.
        core.index.pool.give(1000);
        assert_unanswered(append(&core, &["a"], b"third"));
        other.join().expect("no panic");
        assert!(committer.join().expect("caught").is_none());
    });
}

/// The committer panics: a task and a thread that watch a log are told.
#[test]
fn loom_a_committer_that_panics_wakes_those_who_watch() {
    quiet(WANTED);
    let files = created();
    check(move || {
        let mut parts = Parts::open(files);
        parts.put(&["a"], b"first");
        parts.disk.state.panic_poll.store(true, Ordering::Relaxed);
        let Parts { core, committer, .. } = parts;
        let (committer, _stop) = commits(&core, committer);
        let watch = super::super::Subscription::new(&core, "a");
        let error = watch.wait(1, FOREVER).expect_err("nothing can come any more");
        assert_eq!(error.kind(), ErrorKind::Poisoned);
        assert!(committer.join().expect("caught").is_none());
    });
}

/// The flush panics: whoever asked for it is told, and no append is acknowledged behind that.
#[test]
fn loom_a_flush_that_panics_leaves_nobody_waiting() {
    quiet(WANTED);
    let files = created();
    check_to(2, move || {
        let mut parts = Parts::open(files);
        parts.put(&["a"], b"first");
        parts.disk.state.panic_segment.store(true, Ordering::Relaxed);
        let Parts { core, committer, flusher, .. } = parts;
        let waker = committer.waker();
        let (committer, stop) = commits(&core, committer);
        let (flusher, _stop_flush) = flushes(&core, flusher, waker);
        let ack = append(&core, &["a"], b"second");
        let error = core.flush_signal.flush(&core).expect_err("it panicked");
        assert_eq!(error.kind(), ErrorKind::Poisoned, "{error}");
        if let Err(error) = ack.and_then(Ack::wait) {
            assert_stopped(error.kind());
        }
        assert!(flusher.join().expect("caught").is_none());
        stop.stop();
        committer.join().expect("no panic");
    });
}
