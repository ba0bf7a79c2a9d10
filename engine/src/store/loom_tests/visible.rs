//! What a reader sees, and when: durable before visible, a batch as a whole, and one's own append once it was answered.

use super::*;
use crate::index::slot::Visible;
use crate::read::try_read;
use crate::types::Lsn;

fn publishes(mut committer: Committer) -> JoinHandle<()> {
    thread(move || {
        while !committer.frames().is_idle() {
            committer.step(false);
        }
    })
}

/// A batch over two logs is published while a reader looks at one and then at the other: having seen it in the first he
/// sees it in the second, and what he sees is on the disk.
#[test]
fn loom_a_batch_over_two_logs_is_seen_whole() {
    let files = created();
    check(move || {
        let mut parts = Parts::open(files);
        parts.put(&["a", "b"], b"first");
        let ack = append(&parts.core, &["a", "b"], b"second").expect("staged");
        let Parts { disk, core, committer, .. } = parts;
        let committer = publishes(committer);
        let one = page(&core, "a").expect("there").records.len();
        assert!(one == 1 || disk.holds(b"second"), "shown before it was durable");
        let two = page(&core, "b").expect("there").records.len();
        assert!(one <= two, "a batch is seen in one log and not in the other");
        committer.join().expect("no panic");
        ack.wait().expect("durable");
        assert_eq!(page(&core, "a").expect("there").records.len(), 2);
    });
}

/// The same with calls that wait for nothing, and turn away whoever comes in between.
#[test]
fn loom_a_look_that_waits_for_nothing_sees_no_half_of_a_batch() {
    let files = created();
    check(move || {
        let mut parts = Parts::open(files);
        parts.put(&["a", "b"], b"first");
        let ack = append(&parts.core, &["a", "b"], b"second").expect("staged");
        let Parts { core, committer, .. } = parts;
        let committer = publishes(committer);
        let look = |log| match try_read(&core.index, log, Position::Start, ReadLimit::default(), core.now()) {
            Ok(page) => Some(page.records.len()),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}");
                None
            }
        };
        if let (Some(one), Some(two)) = (look("a"), look("b")) {
            assert!(one <= two, "a batch is seen in one log and not in the other");
        }
        committer.join().expect("no panic");
        assert_eq!(look("b"), Some(2));
        ack.wait().expect("durable");
    });
}

/// A caller reads as soon as he is answered: he sees what he appended.
#[test]
fn loom_who_was_answered_sees_what_he_appended() {
    let files = created();
    check(move || {
        let mut parts = Parts::open(files);
        parts.put(&["a"], b"first");
        let ack = append(&parts.core, &["a"], b"second").expect("staged");
        let Parts { disk, core, committer, .. } = parts;
        let committer = publishes(committer);
        ack.wait().expect("durable");
        assert!(disk.holds(b"second"), "answered before it was durable");
        let page = try_read(&core.index, "a", Position::Start, ReadLimit::default(), core.now());
        assert_eq!(page.expect("answered, so nobody is at the log").records.len(), 2);
        committer.join().expect("no panic");
    });
}

/// The committer is gone after it showed a part of a frame: a reader of that part is told, and spins no further.
#[test]
fn loom_a_reader_does_not_wait_for_a_committer_that_is_gone() {
    let files = created();
    check(move || {
        let mut parts = Parts::open(files);
        parts.put(&["a"], b"first");
        let core = parts.core;
        let dying = {
            let core = Arc::clone(&core);
            thread(move || {
                let slot = core.index.heads.get(core.index.log_id("a"));
                let visible = slot.lock().visible;
                let beyond = Visible { lsn: Lsn(visible.lsn.0 + 1), ..visible };
                assert!(core.index.publish(&slot, std::iter::empty(), Some(beyond)).is_empty(), "nobody watches");
                core.index.halt();
            })
        };
        match page(&core, "a") {
            Ok(page) => assert_eq!(page.records.len(), 1),
            Err(error) => assert_eq!(error.kind(), ErrorKind::Poisoned, "{error}"),
        }
        dying.join().expect("no panic");
        page(&core, "a").expect_err("shown in part");
    });
}
