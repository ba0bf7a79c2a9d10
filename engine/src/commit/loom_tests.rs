//! Models of what callers and the committer share: the lane, the watermark, the latch.

use super::ack::{Ack, Pending, Receipt};
use super::lane::{Due, Lane, StagedEntry};
use crate::error::{Error, ErrorKind};
use crate::format::entry::{BATCH_HEADER_LEN, Kind};
use crate::format::frame::HEADER_LEN;
use crate::index::buffers::Buffers;
use crate::poison::Poison;
use crate::sync::{Arc, AtomicU64, Event, Ordering, check, yield_now};
use crate::types::{Lsn, Seq};
use crate::waiter::Wakes;
use loom::thread::spawn;

const FRAME_MAX: usize = 16 << 10;

fn buffers() -> Arc<Buffers> {
    Arc::new(Buffers::new(0))
}

fn receipt() -> Receipt {
    Receipt { logs: Vec::new() }
}

/// Wakes them; true if they are threads alone.
fn wake(wakes: Wakes) -> bool {
    let threads_alone = wakes.targets.is_empty();
    wakes.wake();
    threads_alone
}

/// Stages a batch of one entry.
fn stage(lane: &Lane) -> crate::Result<(Lsn, Ack)> {
    stage_bytes(lane, BATCH_HEADER_LEN)
}

/// Stages a batch of one entry and so many bytes.
fn stage_bytes(lane: &Lane, len: usize) -> crate::Result<(Lsn, Ack)> {
    let mut inner = lane.lock()?;
    inner.room(len, FRAME_MAX, lane.buffers());
    inner.begin_batch(len, 1);
    let end = inner.open().buf.len() + len - BATCH_HEADER_LEN;
    inner.open().buf.resize(end);
    let lsn = inner.note(StagedEntry { at: 0, len: 0, seq: Seq(0), kind: Kind::Record, plain: true });
    let (pending, ack) = Pending::with_others(Ok(receipt()), &inner.open().event);
    inner.open().waiting.push(pending);
    Ok((lsn, ack))
}

/// Two callers stage while the committer takes frames: every entry is taken once, in the order of the LSNs, and every
/// caller is answered.
#[test]
fn loom_what_is_staged_is_taken_once_in_order() {
    check(|| {
        let lane = Arc::new(Lane::new(FRAME_MAX, Lsn(1), buffers()));
        let callers = [0, 1].map(|_| {
            let lane = Arc::clone(&lane);
            spawn(move || {
                let (lsn, ack) = stage(&lane).expect("open");
                ack.wait().expect("answered");
                lsn
            })
        });
        let mut next = Lsn(1);
        while next < Lsn(3) {
            match lane.take(0) {
                Some(staged) => {
                    assert_eq!(staged.first_lsn, next);
                    next = Lsn(next.0 + staged.entries.len() as u64);
                    assert!(wake(Pending::answer_all(staged.waiting, None)), "no task was polled");
                }
                None => yield_now(),
            }
        }
        let mut lsns = callers.map(|caller| caller.join().expect("no panic"));
        lsns.sort_unstable();
        assert_eq!(lsns, [Lsn(1), Lsn(2)]);
    });
}

/// An answer that rests on an LSN is asked for while the watermark reaches it: it is given, at once or by the
/// committer.
#[test]
fn loom_an_answer_that_rests_on_an_lsn_is_not_lost() {
    check(|| {
        let lane = Arc::new(Lane::new(FRAME_MAX, Lsn(2), buffers()));
        let watermark = Arc::new(AtomicU64::new(0));
        let committer = {
            let (lane, watermark) = (Arc::clone(&lane), Arc::clone(&watermark));
            spawn(move || {
                watermark.store(1, Ordering::Release);
                lane.settled(Lsn(1)).into_iter().for_each(Pending::give);
            })
        };
        let (pending, ack) = Pending::new(Ok(receipt()));
        let due = {
            let mut inner = lane.lock().expect("open");
            inner.settle_at(Lsn(1), pending, Lsn(watermark.load(Ordering::Acquire)))
        };
        if let Some(pending) = due {
            pending.give();
        }
        ack.wait().expect("answered");
        committer.join().expect("no panic");
    });
}

/// A batch is staged while the store is poisoned: it is refused, or its caller is told that the outcome is unknown;
/// nobody is acknowledged and nobody waits for ever.
#[test]
fn loom_no_append_is_acknowledged_once_the_latch_is_closed() {
    check(|| {
        let lane = Arc::new(Lane::new(FRAME_MAX, Lsn(1), buffers()));
        let poison = Arc::new(Poison::default());
        let committer = {
            let (lane, poison) = (Arc::clone(&lane), Arc::clone(&poison));
            spawn(move || {
                poison.set(Error::new(ErrorKind::Io, "a write failed"));
                let wakes = Pending::answer_all(lane.close(poison.error()), Some(&poison.unknown()));
                assert!(wake(wakes), "no task was polled");
            })
        };
        let outcome = poison.check().and_then(|()| stage(&lane)).and_then(|(_, ack)| ack.wait());
        let kind = outcome.expect_err("nothing is acknowledged").kind();
        assert!(matches!(kind, ErrorKind::Poisoned | ErrorKind::Unknown), "{kind:?}");
        committer.join().expect("no panic");
    });
}

/// The committer waits for as much as two batches and sleeps meanwhile: whoever stages the second of them wakes it.
#[test]
fn loom_a_committer_that_waits_for_more_is_woken_once_it_is_there() {
    check(|| {
        let lane = Arc::new(Lane::new(FRAME_MAX, Lsn(1), buffers()));
        let bell = Arc::new(Event::default());
        let callers = [0, 1].map(|_| {
            let (lane, bell) = (Arc::clone(&lane), Arc::clone(&bell));
            spawn(move || {
                let (_, ack) = stage(&lane).expect("open");
                if lane.lock().expect("open").due() == Due::Begin {
                    bell.happen();
                }
                ack.wait().expect("answered");
            })
        });
        let staged = loop {
            let seen = bell.count();
            match lane.take(HEADER_LEN + 2 * BATCH_HEADER_LEN) {
                Some(staged) => break staged,
                None => bell.sleep(seen),
            }
        };
        assert_eq!(staged.batches, 2);
        assert!(wake(Pending::answer_all(staged.waiting, None)), "no task was polled");
        for caller in callers {
            caller.join().expect("no panic");
        }
    });
}

/// A frame is taken and put back while others are staged and filled: it is taken first the next time, and the LSNs stay
/// dense.
#[test]
fn loom_a_frame_that_was_put_back_is_taken_first() {
    /// Two do not fit into one frame.
    const LARGE: usize = 9 << 10;
    check(|| {
        let lane = Arc::new(Lane::new(FRAME_MAX, Lsn(1), buffers()));
        let (_, first) = stage_bytes(&lane, LARGE).expect("open");
        let caller = {
            let lane = Arc::clone(&lane);
            spawn(move || {
                let acks = [0, 1].map(|_| stage_bytes(&lane, LARGE).expect("open").1);
                for ack in acks {
                    ack.wait().expect("answered");
                }
            })
        };
        let staged = lane.take(0).expect("staged before");
        assert_eq!(staged.first_lsn, Lsn(1));
        lane.put_back(staged);
        assert!(!lane.is_empty());
        let mut next = Lsn(1);
        while next < Lsn(4) {
            let Some(staged) = lane.take(0) else {
                yield_now();
                continue;
            };
            assert_eq!(staged.first_lsn, next, "another frame came before it");
            next = Lsn(next.0 + staged.entries.len() as u64);
            assert!(wake(Pending::answer_all(staged.waiting, None)), "no task was polled");
        }
        first.wait().expect("answered");
        caller.join().expect("no panic");
    });
}

/// The lane is told to refuse while a batch is staged: either the caller is refused, or the committer finds the batch.
#[test]
fn loom_what_was_staged_before_a_refusal_is_found_after_it() {
    check(|| {
        let lane = Arc::new(Lane::new(FRAME_MAX, Lsn(1), buffers()));
        let caller = {
            let lane = Arc::clone(&lane);
            spawn(move || stage(&lane).map(|(_, ack)| ack.wait().expect("answered")))
        };
        lane.refuse(Error::new(ErrorKind::ShutDown, "the store is closed"));
        let found = lane.take(0).map(|staged| wake(Pending::answer_all(staged.waiting, None))).is_some();
        assert!(lane.is_empty());
        let outcome = caller.join().expect("no panic");
        assert_eq!(outcome.is_ok(), found, "{outcome:?}");
        stage(&lane).map(drop).expect_err("refused for good");
    });
}
