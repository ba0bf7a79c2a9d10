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
    check_to(2, move || {
        let Parts { core, mut committer, mut flusher, .. } = Parts::open(files);
        let writer = {
            let core = Arc::clone(&core);
            thread(move || {
                let ack = append(&core, &["a"], b"second").expect("staged");
                while !committer.is_idle() {
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

/// The files of a store with a log that lies in a segment.
fn flushed() -> &'static Files {
    static FLUSHED: OnceLock<Files> = OnceLock::new();
    FLUSHED.get_or_init(|| {
        let files = created();
        alone(move || {
            let mut parts = Parts::open(files);
            parts.put(&["a"], b"first");
            parts.flusher.flush().expect("a sound disk");
            parts.committer.close_frame().expect("a sound disk");
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
        let Parts { core, committer, flusher, .. } = parts;
        let waker = committer.waker();
        let (committer, stop) = commits(&core, committer);
        let (flusher, stop_flush) = flushes(&core, flusher, waker);
        append(&core, &["a"], &large).expect("there was room in the end").wait().expect("durable");
        first.wait().expect("durable");
        stop.stop();
        committer.join().expect("no panic").expect("it did not panic");
        stop_flush.stop();
        flusher.join().expect("no panic").expect("it did not panic");
    });
}
