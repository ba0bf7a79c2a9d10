//! From a caller to the committer and back: whoever sleeps is woken, and what is staged is written.

use super::*;

/// Appends as a caller does who never looks at it before he waits.
fn append_then_wait(core: &Core, log: &str, payload: &[u8]) {
    append(core, &[log], payload).expect("staged").wait().expect("durable");
}

/// Two callers append while the committer falls asleep and wakes up: both are answered.
#[test]
fn loom_a_sleeping_committer_is_woken_by_whoever_stages() {
    let files = created();
    check_to(2, move || {
        let other = |core: &Core| append_then_wait(core, "b", b"second");
        beside_a_committer(files, other, |core, _| append_then_wait(core, "a", b"third"));
    });
}

/// Two callers wait for what they append, and so may write it themselves, while the committer falls asleep and wakes up: both
/// are answered, whoever writes, and what they are told is there.
#[test]
fn loom_callers_who_wait_commit_in_the_committers_place() {
    let files = created();
    check_to(2, move || {
        let other = |core: &Core| append_and_wait(core, "b", b"second").expect("durable");
        let (_, disk, _) = beside_a_committer(files, other, |core, disk| {
            append_and_wait(core, "a", b"third").expect("durable");
            assert!(disk.holds(b"third"), "acknowledged and not there");
        });
        assert!(disk.holds(b"second"), "acknowledged and not there");
    });
}

/// Clients of the last frame come back, most of which were callers who did nothing else, with less than half of what that had:
/// the first of them looks after the other, or the committer does, and both are answered.
#[test]
fn loom_callers_who_come_back_are_looked_after() {
    let files = created();
    check_to(2, move || {
        let mut parts = Parts::open(files);
        parts.put(&["a", "b"], b"first");
        let mut batch = Batch::new();
        batch.log("a").record(&[7; 200]);
        let appender = &parts.core.appender;
        let client = appender.append(&batch).expect("staged");
        let callers = [(); 2].map(|()| appender.append_and_lead(&batch).expect("staged"));
        appender.leader.commit();
        assert!(callers.into_iter().chain([client]).all(|ack| ack.wait().is_ok()));
        let other = |core: &Core| append_and_wait(core, "b", b"second").expect("durable");
        beside_its_committer(parts, other, |core, _| drop(append_and_wait(core, "a", b"third").expect("durable")));
    });
}

/// One caller waits for what it appends, and another does not: the committer is woken for what the one who commits leaves.
#[test]
fn loom_what_is_staged_beside_a_commit_by_a_caller_is_written() {
    let files = created();
    check_to(2, move || {
        let other = |core: &Core| append_then_wait(core, "b", b"second");
        beside_a_committer(files, other, |core, _| drop(append_and_wait(core, "a", b"third").expect("durable")));
    });
}

/// The committer is told to stop while a caller stages: it stops, and what was staged before is written.
#[test]
fn loom_a_committer_that_is_to_stop_does_not_sleep_on() {
    let files = created();
    check(move || {
        let mut parts = Parts::open(files);
        parts.put(&["a"], b"first");
        let Parts { core, committer, .. } = parts;
        let (committer, stop) = commits(&core, committer);
        let ack = append(&core, &["a"], b"second").expect("staged");
        stop.stop();
        let committer = committer.join().expect("no panic").expect("it did not panic");
        assert!(committer.frames().is_idle());
        ack.wait().expect("durable");
    });
}

/// The files of a store whose journal file is full once it was opened, and which has no other.
fn filled() -> &'static Files {
    static FILLED: OnceLock<Files> = OnceLock::new();
    FILLED.get_or_init(|| {
        let files = created();
        alone(move || {
            let tries = (1..30).map(|frames| {
                let mut parts = Parts::open(files);
                (0..frames).for_each(|_| parts.put(&["a"], b"before"));
                parts.committer.frames().close_frame().expect("a sound disk");
                parts.disk.mem.snapshot()
            });
            let is_full = |files: &Files| {
                let parts = Parts::open(files);
                parts.committer.frames().needs_file() && !parts.core.journal.ring.has_spare()
            };
            tries.into_iter().find(is_full).expect("it is full some time")
        })
    })
}

/// The journal file is full and there is no other: the frame is put back, the flush makes a file and wakes the
/// committer, and the frame is written.
#[test]
fn loom_a_frame_that_was_put_back_is_written_once_there_is_a_file() {
    let files = filled();
    check_to(2, move || {
        let Parts { disk, core, committer, flusher, .. } = Parts::open(files);
        let waker = committer.waker();
        let ack = append(&core, &["a"], b"behind").expect("staged");
        let (committer, stop) = commits(&core, committer);
        let (flusher, stop_flush) = flushes(&core, flusher, waker);
        ack.wait().expect("durable");
        assert!(disk.holds(b"behind"));
        stop.stop();
        committer.join().expect("no panic").expect("it did not panic");
        stop_flush.stop();
        flusher.join().expect("no panic").expect("it did not panic");
    });
}

/// A refusal rests on what another caller has staged: it is given once that is durable, and given at all.
#[test]
fn loom_a_refusal_waits_for_what_it_rests_on() {
    let files = created();
    check(move || {
        let mut parts = Parts::open(files);
        parts.put(&["a"], b"first");
        let ack = append(&parts.core, &["a"], b"second").expect("staged");
        let Parts { disk, core, committer, .. } = parts;
        let (committer, stop) = commits(&core, committer);
        let mut batch = Batch::new();
        batch.log("a").expect_next(0).record(b"late");
        let refused = core.appender.append(&batch).expect("it is told through the acknowledgement").wait();
        assert_eq!(refused.expect_err("the log has grown").kind(), ErrorKind::Condition);
        assert!(disk.holds(b"second"), "told of what was not durable");
        ack.wait().expect("durable");
        stop.stop();
        committer.join().expect("no panic").expect("it did not panic");
    });
}
