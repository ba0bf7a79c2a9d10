//! Models of what callers and the committer share: the lane, the watermark, the latch.

use super::ack::{Ack, Pending, Receipt};
use super::lane::{Lane, StagedEntry};
use crate::error::{Error, ErrorKind};
use crate::format::entry::{BATCH_HEADER_LEN, Kind};
use crate::index::buffers::Buffers;
use crate::poison::Poison;
use crate::sync::{Arc, AtomicU64, Ordering, yield_now};
use crate::types::{Lsn, Seq};
use loom::thread::spawn;

const FRAME_MAX: usize = 16 << 10;

fn buffers() -> Arc<Buffers> {
    Arc::new(Buffers::new(0))
}

fn receipt() -> Receipt {
    Receipt { logs: Vec::new() }
}

/// Stages a batch of one entry.
fn stage(lane: &Lane) -> crate::Result<(Lsn, Ack)> {
    let mut inner = lane.lock()?;
    inner.room(BATCH_HEADER_LEN, FRAME_MAX, lane.buffers());
    inner.begin_batch(BATCH_HEADER_LEN, 1);
    let lsn = inner.note(StagedEntry { at: 0, len: 0, seq: Seq(0), kind: Kind::Record, plain: true });
    let (pending, ack) = Pending::with_others(Ok(receipt()), &inner.open().event);
    inner.open().waiting.push(pending);
    Ok((lsn, ack))
}

/// Two callers stage while the committer takes frames: every entry is taken once, in the order of the LSNs, and every
/// caller is answered.
#[test]
fn loom_what_is_staged_is_taken_once_in_order() {
    loom::model(|| {
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
                    assert!(Pending::answer_all(staged.waiting, None).is_empty(), "no task was polled");
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
    loom::model(|| {
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
    loom::model(|| {
        let lane = Arc::new(Lane::new(FRAME_MAX, Lsn(1), buffers()));
        let poison = Arc::new(Poison::default());
        let committer = {
            let (lane, poison) = (Arc::clone(&lane), Arc::clone(&poison));
            spawn(move || {
                poison.set(Error::new(ErrorKind::Io, "a write failed"));
                let tasks = Pending::answer_all(lane.close(poison.error()), Some(&poison.unknown()));
                assert!(tasks.is_empty(), "no task was polled");
            })
        };
        let outcome = poison.check().and_then(|()| stage(&lane)).and_then(|(_, ack)| ack.wait());
        let kind = outcome.expect_err("nothing is acknowledged").kind();
        assert!(matches!(kind, ErrorKind::Poisoned | ErrorKind::Unknown), "{kind:?}");
        committer.join().expect("no panic");
    });
}
