//! Beside a flush: what is in memory and what is in segments together are all there is, a log never goes back, whoever
//! asks for a flush or waits for memory is served.

use super::*;

/// Two callers ask for a flush: both are told when it is done.
#[test]
fn loom_a_flush_that_was_asked_for_is_done_and_told() {
    let files = created();
    check_to(2, move || {
        let mut parts = Parts::open(files);
        parts.put(&["a"], b"first");
        let Parts { core, committer, flusher, .. } = parts;
        let (flusher, stop) = flushes(&core, flusher, committer.waker());
        let other = {
            let core = Arc::clone(&core);
            thread(move || core.flush_signal.flush(&core).expect("flushed"))
        };
        core.flush_signal.flush(&core).expect("flushed");
        assert!(core.index.set().flushed() >= core.index.watermark());
        other.join().expect("no panic");
        stop.stop();
        flusher.join().expect("no panic").expect("it did not panic");
    });
}

/// A flush is asked for while the store stops: it is done, or the caller is told that there is none any more.
#[test]
fn loom_whoever_waits_for_a_flush_learns_that_there_will_be_none() {
    let files = created();
    check(move || {
        let mut parts = Parts::open(files);
        parts.put(&["a"], b"first");
        let Parts { core, committer, flusher, .. } = parts;
        let (flusher, stop) = flushes(&core, flusher, committer.waker());
        let asking = {
            let core = Arc::clone(&core);
            thread(move || core.flush_signal.flush(&core))
        };
        stop.stop();
        if let Err(error) = asking.join().expect("no panic") {
            assert_eq!(error.kind(), ErrorKind::ShutDown);
        }
        flusher.join().expect("no panic").expect("it did not panic");
    });
}

/// A flush is asked for while a pass is ending that failed: the caller is not told of that failure, which is over, but of
/// the pass that begins after he asked.
#[test]
fn loom_whoever_asks_behind_a_failure_is_not_told_of_it() {
    let files = created();
    check(move || {
        let mut parts = Parts::open(files);
        parts.put(&["a"], b"first");
        parts.disk.state.fail_segment.store(true, Ordering::Relaxed);
        let Parts { disk, core, committer, flusher, .. } = parts;
        core.flush_asked.store(true, Ordering::SeqCst);
        let (flusher, stop) = flushes(&core, flusher, committer.waker());
        // The flush begins, and sets this once it has failed: a look at it lets the model go on here at that very moment.
        yield_now();
        let _asked_again = core.flush_asked.load(Ordering::SeqCst);
        let over = !disk.state.fail_segment.load(Ordering::Relaxed);
        let told = core.flush_signal.flush(&core);
        assert!(!over || told.is_ok(), "{told:?}");
        stop.stop();
        flusher.join().expect("no panic").expect("it did not panic");
    });
}

/// A log is read while its records go from memory into a segment: they are all there at each look.
#[test]
fn loom_a_flush_hides_nothing_from_a_reader() {
    let files = created();
    check(move || {
        let mut parts = Parts::open(files);
        parts.put(&["a"], b"first");
        parts.put(&["a"], b"second");
        let Parts { core, mut flusher, .. } = parts;
        let flush = thread(move || flusher.flush().expect("a sound disk"));
        for _ in 0..2 {
            assert_eq!(page(&core, "a").expect("there").records.len(), 2);
        }
        flush.join().expect("no panic");
        assert_eq!(core.index.mem_bytes(), 0, "it was flushed");
        assert_eq!(page(&core, "a").expect("there").records.len(), 2);
    });
}

/// A log is appended to, flushed and evicted while another thread touches it first: that thread sees the log as it was
/// before or as it is after, and nobody sees an older state later.
#[test]
fn loom_a_log_never_goes_back_in_time() {
    let files = flushed();
    check(move || {
        let Parts { core, mut committer, mut flusher, .. } = Parts::open(files);
        let writer = {
            let core = Arc::clone(&core);
            thread(move || {
                let ack = append(&core, &["a"], b"second").expect("staged");
                while !committer.frames().is_idle() {
                    committer.step(false);
                }
                ack.wait().expect("durable");
                flusher.flush().expect("a sound disk");
                // The cache holds one log beside those in use.
                for other in ["x", "y"] {
                    drop(core.index.heads.get(core.index.log_id(other)));
                }
            })
        };
        let before = page(&core, "a").expect("there").records.len();
        let after = page(&core, "a").expect("there").records.len();
        assert!((1..=2).contains(&before) && before <= after && after <= 2, "{before}, then {after}");
        writer.join().expect("no panic");
        assert_eq!(page(&core, "a").expect("there").records.len(), 2);
        let receipt = {
            let mut batch = Batch::new();
            batch.log("a").expect_next(2).record(b"third");
            core.appender.append(&batch)
        };
        drop(receipt.expect("staged"));
        assert_eq!(core.index.heads.get(core.index.log_id("a")).lock().staged.next_seq.0, 3);
    });
}

/// Two callers append to a log, one of whom has the cache evict what nobody uses: there is one state of the log, and
/// their records get different places.
#[test]
fn loom_a_log_that_is_in_use_has_one_state() {
    let files = flushed();
    check(move || {
        let Parts { core, mut committer, .. } = Parts::open(files);
        let other = {
            let core = Arc::clone(&core);
            thread(move || {
                for other in ["x", "y"] {
                    drop(core.index.heads.get(core.index.log_id(other)));
                }
                append(&core, &["a"], b"second").expect("staged")
            })
        };
        let acks = [append(&core, &["a"], b"second").expect("staged"), other.join().expect("no panic")];
        while !committer.frames().is_idle() {
            committer.step(false);
        }
        let mut seqs = acks.map(|ack| ack.wait().expect("durable").logs[0].first_seq);
        seqs.sort_unstable();
        assert_eq!(seqs, [1, 2]);
    });
}

/// The files of a store with a log that lies in a segment.
fn flushed() -> &'static Files {
    static FLUSHED: OnceLock<Files> = OnceLock::new();
    FLUSHED.get_or_init(|| {
        let files = created();
        alone(move || {
            let mut parts = Parts::open(files);
            parts.put(&["a"], b"first");
            parts.flusher.flush().expect("a sound disk");
            parts.committer.frames().close_frame().expect("a sound disk");
            parts.disk.mem.snapshot()
        })
    })
}

/// Memory is full of what is not even durable: whoever waits for room has the next frame flushed, and gets it.
#[test]
fn loom_whoever_waits_for_memory_has_a_flush_begin() {
    let files = created();
    check_to(2, move || {
        let config = Config { memory_pool_bytes: 12 << 10, flush_bytes: 1 << 30, ..config() };
        let mut parts = Parts::open_with(files, &config);
        parts.put(&["a"], b"first");
        let large = vec![7; 7 << 10];
        let first = append(&parts.core, &["a"], &large).expect("staged");
        let Parts { core, mut committer, flusher, .. } = parts;
        let (flusher, stop_flush) = flushes(&core, flusher, committer.waker());
        let committer = thread(move || {
            while !committer.frames().is_idle() {
                committer.step(false);
            }
        });
        // As an append does.
        let room = core.index.pool.take(large.len(), || core.appender.pressure.wake());
        assert!(room, "the store is open");
        first.wait().expect("durable");
        committer.join().expect("no panic");
        stop_flush.stop();
        flusher.join().expect("no panic").expect("it did not panic");
    });
}
