//! The end of a store beside whatever is still going on: everybody is answered, nobody sleeps on, and the directory is
//! let go of after the last write (each write of these models asserts that the lock is held).

use super::*;

fn assert_closed(disk: &Disk) {
    assert!(!disk.state.locked.load(Ordering::Relaxed), "the lock is still held");
}

/// A caller appends by `append` beside a close: it is refused, or it is durable and he is told so.
fn is_refused_or_durable(append: fn(&Core) -> Result<Receipt>) {
    let files = created();
    check_to(2, move || {
        let mut parts = Parts::open(files);
        parts.put(&["a"], b"first");
        let (store, disk) = parts.run();
        let other = {
            let core = Arc::clone(&store.inner.core);
            thread(move || append(&core))
        };
        store.close().expect("clean");
        assert_closed(&disk);
        match other.join().expect("no panic") {
            Ok(_) => assert!(disk.holds(b"second"), "acknowledged and not there"),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::ShutDown);
                assert!(!disk.holds(b"second"), "refused and there");
            }
        }
    });
}

/// The committer writes it.
#[test]
fn loom_an_append_beside_a_close_is_refused_or_durable() {
    is_refused_or_durable(|core| append(core, &["a"], b"second").and_then(Ack::wait));
}

/// He may write it himself, and does not once the lock is let go of.
#[test]
fn loom_a_commit_by_a_caller_beside_a_close_is_refused_or_durable() {
    is_refused_or_durable(|core| append_and_wait(core, "a", b"second"));
}

/// The last clone is dropped while somebody waits for an acknowledgement: he gets it.
#[test]
fn loom_the_drop_of_the_last_clone_leaves_nothing_staged() {
    let files = created();
    check_to(2, move || {
        let mut parts = Parts::open(files);
        parts.put(&["a"], b"first");
        let (store, disk) = parts.run();
        let clone = store.clone();
        let other = thread(move || {
            let ack = append(&clone.inner.core, &["a"], b"second").expect("a clone is there");
            drop(clone);
            ack.wait().expect("durable");
        });
        drop(store);
        other.join().expect("no panic");
        assert!(disk.holds(b"second"));
        assert_closed(&disk);
    });
}

/// A thread subscribes and waits: it is told.
#[test]
fn loom_whoever_subscribes_beside_a_close_is_told() {
    let files = created();
    check_to(2, move || {
        let mut parts = Parts::open(files);
        parts.put(&["a"], b"first");
        let (store, disk) = parts.run();
        let clone = store.clone();
        let other = thread(move || clone.subscribe("a").and_then(|watch| watch.wait(1, FOREVER)));
        store.close().expect("clean");
        assert_closed(&disk);
        assert_eq!(other.join().expect("no panic").expect_err("closed").kind(), ErrorKind::ShutDown);
    });
}

/// A caller waits for memory that nobody will free: he is told.
#[test]
fn loom_whoever_waits_for_memory_beside_a_close_is_told() {
    let files = created();
    check(move || {
        let mut parts = Parts::open(files);
        parts.put(&["a"], b"first");
        let core = parts.core;
        assert!(core.index.pool.try_take(core.index.pool.bytes_max() - core.index.pool.taken()), "it is there");
        let other = {
            let core = Arc::clone(&core);
            thread(move || append(&core, &["a"], b"second").map(drop))
        };
        core.begin_close();
        assert_eq!(other.join().expect("no panic").expect_err("closed").kind(), ErrorKind::ShutDown);
    });
}

/// A read for a future is under way: it is answered.
#[test]
fn loom_a_read_for_a_future_beside_a_close_is_answered() {
    let files = created();
    check_to(2, move || {
        let mut parts = Parts::open(files);
        parts.put(&["a"], b"first");
        let (store, disk) = parts.run_with(1);
        let read = store.read_async("a", 0, ReadLimit::default());
        store.close().expect("clean");
        assert_closed(&disk);
        match block_on(read) {
            Ok(page) => assert_eq!(page.records.len(), 1),
            Err(error) => assert_eq!(error.kind(), ErrorKind::ShutDown),
        }
    });
}

/// Two clones are closed at once: both closes end, and the store is closed once.
#[test]
fn loom_two_closes_at_once_both_end() {
    let files = created();
    check_to(2, move || {
        let mut parts = Parts::open(files);
        parts.put(&["a"], b"first");
        let (store, disk) = parts.run();
        let clone = store.clone();
        let other = thread(move || clone.close());
        store.close().expect("clean");
        other.join().expect("no panic").expect("clean");
        assert_closed(&disk);
    });
}

/// A waker drops the last clone, on the very thread that the close would wait for: the close goes on elsewhere.
#[test]
fn loom_a_waker_that_drops_the_last_clone_closes_the_store() {
    struct Owner(std::sync::Mutex<Option<Store>>);
    impl std::task::Wake for Owner {
        fn wake(self: std::sync::Arc<Self>) {
            drop(self.0.lock().expect("no panic").take());
        }
    }
    let files = created();
    check_to(2, move || {
        let mut parts = Parts::open(files);
        parts.put(&["a"], b"first");
        let (store, disk) = parts.run();
        let mut ack = append(&store.inner.core, &["a"], b"second").expect("staged");
        let owner = std::sync::Arc::new(Owner(std::sync::Mutex::new(Some(store))));
        let waker = Waker::from(std::sync::Arc::clone(&owner));
        if pin!(&mut ack).poll(&mut Context::from_waker(&waker)).is_ready() {
            // Answered before the poll: no waker is called.
            std::task::Wake::wake(owner);
        }
        loop {
            let seen = disk.state.unlocked.count();
            if !disk.state.locked.load(Ordering::Relaxed) {
                break;
            }
            disk.state.unlocked.sleep(seen);
        }
        assert!(disk.holds(b"second"));
    });
}
