//! Fail-stop: what a store does when its disk fails under it, or a thread of its own.
//!
//! After the first failed write or sync of the journal or of a manifest nothing is acknowledged, whoever waits is told
//! that the outcome is unknown, whoever comes later that the store stopped, and reads go on. The failure of a file that
//! nothing refers to yet stops nothing: it is made up for. Nothing here waits for a time to pass.

use super::testing::{DIR, EIO, Erring, Fate, append, created, read, running, small, stepped};
use super::{Steps, Store};
use crate::commit::Ack;
use crate::config::{Config, WhenFull};
use crate::error::{Error, ErrorKind, Result};
use crate::io::Op;
use crate::sync::{Arc, Mutex, Ordering};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::channel;
use std::time::Duration;

/// Long enough for anything that ends at all.
const PATIENCE: Duration = Duration::from_secs(60);
const ENOSPC: i32 = 28;
const EMFILE: i32 = 24;

/// Runs `body` on a thread of its own, and fails if it does not end.
fn ends<T: Send + 'static>(what: &str, body: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, answer) = channel();
    std::thread::spawn(move || sender.send(body()));
    answer.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{what} does not end"))
}

fn path_of(op: &Op) -> PathBuf {
    match op {
        Op::Open { path, .. }
        | Op::Remove { path }
        | Op::CreateDir { path }
        | Op::SyncDir { path }
        | Op::List { path } => path.clone(),
        Op::Rename { from, .. } => from.clone(),
        Op::Read { file, .. }
        | Op::Write { file, .. }
        | Op::Sync { file }
        | Op::Allocate { file, .. }
        | Op::Len { file } => file.path.to_path_buf(),
    }
}

fn told(op: &Op) -> String {
    let what = format!("{op:?}");
    let what = what.split([' ', '{']).next().unwrap_or_default();
    format!("{what} {}", path_of(op).display())
}

/// Whether a failure of `op` stops the store; `naming` whether a manifest was given its name just before.
fn stops(op: &Op, naming: bool) -> bool {
    let path = path_of(op);
    let name = path.file_name().expect("a file has one").to_string_lossy().into_owned();
    let temporary = name.ends_with(".tmp");
    match op {
        Op::Write { .. } if name.starts_with("journal-") => !temporary,
        Op::SyncDir { .. } if path == Path::new(DIR) => naming,
        // Looking for outdated versions and removing them is nobody's need.
        Op::List { .. } => false,
        _ => name.starts_with("manifest-") && temporary,
    }
}

/// What the scenario saw.
#[derive(Default)]
struct Seen {
    acknowledged: Vec<Vec<u8>>,
    unknown: usize,
    poisoned: usize,
}

/// Appends through several journal files, flushes, closes. Nothing but a failure of the disk can keep it from doing so.
fn scenario(io: &Erring, store: &Store, mut steps: Steps) -> (Seen, Result<()>) {
    let mut seen = Seen::default();
    for n in 0..40_u8 {
        let payload = vec![n; 3000];
        let before = store.failure();
        match append(store, &payload) {
            Ok(ack) => {
                assert!(before.is_none(), "a store that stopped took an append");
                while steps.commit().unwrap_or(false) {}
                for _ in 0..8 {
                    if ack_is_due(store, &mut steps) {
                        break;
                    }
                }
                match ack.try_get() {
                    Some(Ok(_)) => seen.acknowledged.push(payload),
                    Some(Err(error)) => {
                        assert_eq!(error.kind(), ErrorKind::Unknown, "{error}");
                        assert!(store.failure().is_some(), "{error}");
                        assert!(error.advice().is_some_and(|a| a.contains("retry by producer number")), "{error}");
                        seen.unknown += 1;
                    }
                    None => panic!("append {n} is never answered"),
                }
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Poisoned, "{error}");
                assert!(before.is_some(), "{error}");
                seen.poisoned += 1;
            }
        }
        if n % 10 == 9 && store.failure().is_none() {
            store.flush().expect("it only asks");
            // A failure that stops nothing is made up for by the next pass.
            if steps.flush().is_err() && store.failure().is_none() {
                steps.flush().expect("the second attempt succeeds");
            }
        }
        io.paused.store(true, Ordering::SeqCst);
        let read = read(store);
        io.paused.store(false, Ordering::SeqCst);
        assert_eq!(read[..seen.acknowledged.len()], seen.acknowledged, "what was acknowledged is read");
    }
    (seen, steps.close())
}

/// Lets the background do one more pass of each kind; true once nothing is left to do.
fn ack_is_due(store: &Store, steps: &mut Steps) -> bool {
    let flushed = steps.flush().unwrap_or(store.failure().is_none());
    let mut moved = false;
    while steps.commit().unwrap_or(false) {
        moved = true;
    }
    !flushed && !moved
}

#[test]
fn each_operation_that_fails_stops_the_store_or_is_made_up_for() {
    let config = small();
    let fresh = created(&config);
    let files = fresh.mem.snapshot();
    // How many operations there are, once it goes well.
    let count = Arc::new(Mutex::new(0_usize));
    let (store, steps) = stepped(&fresh, &config);
    let counted = Arc::clone(&count);
    fresh.set(move |_| {
        *counted.lock() += 1;
        Fate::Well
    });
    let (seen, closed) = scenario(&fresh, &store, steps);
    closed.expect("a sound disk");
    assert_eq!((seen.acknowledged.len(), seen.unknown, seen.poisoned), (40, 0, 0));
    drop(store);
    let operations = *count.lock();
    let mut stopped = std::collections::BTreeSet::new();
    let mut went_on = std::collections::BTreeSet::new();
    for failing in 0..operations {
        for fate in [Fate::Fails(EIO), Fate::Short] {
            fresh.heal();
            fresh.mem.restore(&files);
            let (store, steps) = stepped(&fresh, &config);
            let failed: Arc<Mutex<Option<(String, bool)>>> = Arc::default();
            let (mut at, mut naming, out) = (0, false, Arc::clone(&failed));
            fresh.set(move |op| {
                let fate = if at == failing { fate } else { Fate::Well };
                if at == failing {
                    *out.lock() = Some((told(op), stops(op, naming)));
                }
                naming = matches!(op, Op::Rename { .. }) && told(op).contains("manifest-");
                at += 1;
                fate
            });
            let (seen, closed) = scenario(&fresh, &store, steps);
            let (what, stops) = failed.lock().take().expect("the operation was met");
            let poisoned = store.failure().is_some();
            // What fails in a close is reported by the close, which is the end of the store in any case.
            let in_close = closed.is_err() && seen.acknowledged.len() == 40;
            assert!(poisoned == stops || in_close, "{fate:?} of operation {failing}, {what}: stopped is {poisoned}");
            assert_eq!(closed.is_err(), stops, "{fate:?} of operation {failing}, {what}: {closed:?}");
            if poisoned {
                assert!(seen.unknown <= 1 && seen.acknowledged.len() + seen.unknown + seen.poisoned == 40);
                let cause = store.stats().poison_cause.expect("the cause is told");
                assert!(cause.contains("failed"), "{what}: {cause}");
            }
            if stops {
                stopped.insert(what.clone())
            } else {
                went_on.insert(what.clone())
            };
            drop(store);
            fresh.heal();
            let (store, steps) = stepped(&fresh, &config);
            let read = read(&store);
            assert_eq!(read[..seen.acknowledged.len()], seen.acknowledged, "{what}");
            assert!(read.len() <= seen.acknowledged.len() + seen.unknown, "{what}: no append twice, none from nowhere");
            steps.close().expect("a sound disk");
        }
    }
    let some = |set: &std::collections::BTreeSet<String>, what: &str| set.iter().any(|kind| kind.starts_with(what));
    for what in ["Write /store/journal-", "Write /store/manifest-", "Sync /store/manifest-", "SyncDir /store"] {
        assert!(some(&stopped, what), "{what} was never met: {stopped:?}");
    }
    for what in ["Write /store/segments/", "Sync /store/segments/", "Write /store/journal-", "SyncDir /store/segments"]
    {
        assert!(some(&went_on, what), "{what} was never met: {went_on:?}");
    }
}

/// Two frames in flight behind one that is durable, of which the nth fails; nothing of them is heard of yet.
fn two_in_flight(failing: usize) -> (Erring, Store, Steps, [Ack; 2]) {
    let config = small();
    let io = created(&config);
    let (store, mut steps) = stepped(&io, &config);
    let first = append(&store, b"there").expect("staged");
    while steps.commit().expect("a sound disk") {}
    first.wait().expect("durable");
    let mut writes = 0;
    io.set(move |op| {
        let frame = matches!(op, Op::Write { .. });
        writes += usize::from(frame);
        if frame && writes == failing + 1 { Fate::Fails(EIO) } else { Fate::Well }
    });
    *io.gives.lock() = Some((0, false));
    let acks = [1, 2].map(|n| {
        let ack = append(&store, &[n; 7000]).expect("staged");
        steps.commit().expect("nothing was heard of yet");
        ack
    });
    assert_eq!(store.stats().frame_writes, 4, "two are in flight, behind that of the open and the first one");
    assert!(acks.iter().all(|ack| ack.try_get().is_none()));
    (io, store, steps, acks)
}

#[test]
fn of_two_frames_in_flight_nothing_from_the_failed_one_on_is_acknowledged() {
    // Which of them fails; whether the other one is heard of before; whether the first one is acknowledged.
    for (failing, heard, acknowledged) in [(0, false, false), (0, true, false), (1, false, false), (1, true, true)] {
        let (io, store, mut steps, acks) = two_in_flight(failing);
        if heard {
            *io.gives.lock() = Some((1, failing == 0));
            steps.commit().expect("this one went well");
        }
        *io.gives.lock() = None;
        assert_eq!(steps.commit().expect_err("a write failed").kind(), ErrorKind::Poisoned);
        let mut shown = vec![b"there".to_vec()];
        for (n, ack) in acks.into_iter().enumerate() {
            match ack.try_get().expect("answered") {
                Ok(_) => shown.push(vec![n as u8 + 1; 7000]),
                Err(error) => assert_eq!(error.kind(), ErrorKind::Unknown, "frame {n}, {failing} failed: {error}"),
            }
        }
        assert_eq!(shown.len(), 1 + usize::from(acknowledged), "{failing} failed, heard of the other: {heard}");
        assert_eq!(append(&store, b"later").expect_err("stopped").kind(), ErrorKind::Poisoned);
        assert_eq!(read(&store), shown, "what is unknown is not shown");
        assert_eq!(steps.close().expect_err("not clean").kind(), ErrorKind::Poisoned);
        drop(store);
        io.heal();
        let (store, _steps) = stepped(&io, &small());
        assert_eq!(read(&store)[..shown.len()], shown, "what was acknowledged is there");
    }
}

#[test]
fn a_write_that_ends_short_stops_the_store_and_its_rest_is_never_written() {
    let config = small();
    let io = created(&config);
    let (store, mut steps) = stepped(&io, &config);
    let writes = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&writes);
    io.set(move |op| match op {
        Op::Write { .. } => {
            *counted.lock() += 1;
            Fate::Short
        }
        _ => Fate::Well,
    });
    let ack = append(&store, &[7; 7900]).expect("staged");
    steps.commit().expect_err("the write ended short");
    assert_eq!(ack.try_get().expect("answered").expect_err("it ended short").kind(), ErrorKind::Unknown);
    for _ in 0..3 {
        steps.commit().expect_err("stopped");
        steps.flush().expect_err("stopped");
    }
    assert_eq!(*writes.lock(), 1, "nothing more is written");
    drop((store, steps));
    io.heal();
    let (store, _steps) = stepped(&io, &config);
    assert_eq!(store.info("log").expect_err("half a frame is none").kind(), ErrorKind::NotFound);
}

#[test]
fn a_close_frame_that_fails_is_reported_by_the_close() {
    let config = small();
    let io = created(&config);
    let store = running(&io, &config);
    append(&store, b"kept").expect("staged").wait().expect("durable");
    io.set(|op| if matches!(op, Op::Write { .. }) { Fate::Fails(EIO) } else { Fate::Well });
    let error = ends("close", || store.close()).expect_err("its frame cannot be written");
    assert_eq!((error.kind(), error.os_error().and_then(io::Error::raw_os_error)), (ErrorKind::Io, Some(EIO)));
    io.heal();
    let (store, steps) = stepped(&io, &config);
    assert!(!store.recovery().clean, "the close is not taken for a clean one");
    assert_eq!(read(&store), [b"kept"]);
    steps.close().expect("a sound disk");
}

#[test]
fn nothing_is_acknowledged_after_a_manifest_failed_while_a_frame_was_written() {
    let config = small();
    let io = created(&config);
    let (store, mut steps) = stepped(&io, &config);
    let ack = append(&store, b"written").expect("staged");
    let core = Arc::clone(&store.inner.core);
    // As the flush does it on its own thread, at the moment when the committer sleeps for the completion.
    *io.at_poll.lock() = Some(Box::new(move || core.poison.set(Error::new(ErrorKind::Io, "the manifest failed"))));
    steps.commit().expect_err("stopped");
    let error = ack.try_get().expect("answered").expect_err("the store had stopped");
    assert_eq!(error.kind(), ErrorKind::Unknown, "{error}");
    assert!(error.message().contains("the manifest failed"), "{error}");
}

#[test]
fn space_or_files_that_run_out_before_a_manifest_has_its_name_stop_nothing() {
    for (code, creates) in [(ENOSPC, true), (ENOSPC, false), (EMFILE, true)] {
        let config = small();
        let io = created(&config);
        let (store, mut steps) = stepped(&io, &config);
        let ack = append(&store, b"kept").expect("staged");
        while steps.commit().expect("a sound disk") {}
        ack.wait().expect("durable");
        io.set(move |op| {
            let temporary = path_of(op).display().to_string();
            let meant = if creates { matches!(op, Op::Open { .. }) } else { matches!(op, Op::Write { .. }) };
            if meant && temporary.contains("/manifest-") { Fate::Fails(code) } else { Fate::Well }
        });
        for _ in 0..5 {
            store.flush().expect("it only asks");
            let error = steps.flush().expect_err("no manifest can be made");
            assert_eq!(error.os_error().and_then(io::Error::raw_os_error), Some(code), "{error}");
            assert!(store.failure().is_none(), "nothing is unknown: {error}");
            assert_eq!(io.segments(), 0, "what no manifest names is removed");
        }
        let ack = append(&store, b"taken").expect("staged");
        while steps.commit().expect("a sound disk") {}
        ack.wait().expect("appends go on");
        io.heal();
        steps.flush().expect("there is room again");
        assert_eq!((store.stats().segments, io.segments()), (1, 1));
        steps.close().expect("clean");
        drop(store);
        let (store, _steps) = stepped(&io, &config);
        assert_eq!(read(&store), [b"kept".to_vec(), b"taken".to_vec()]);
    }
}

#[test]
fn a_directory_that_is_taken_away_stops_the_store_before_it_writes_into_another() {
    let config = small();
    let io = created(&config);
    let (store, mut steps) = stepped(&io, &config);
    let ack = append(&store, b"kept").expect("staged");
    while steps.commit().expect("a sound disk") {}
    ack.wait().expect("durable");
    let before = io.mem.snapshot();
    io.moved.store(true, Ordering::SeqCst);
    store.flush().expect("it only asks");
    let error = steps.flush().expect_err("the files are elsewhere");
    assert!(error.message().contains("removed, moved or replaced"), "{error}");
    assert_eq!(append(&store, b"later").expect_err("stopped").kind(), ErrorKind::Poisoned);
    assert_eq!(read(&store), [b"kept"]);
    steps.close().expect_err("not clean");
    assert!(io.mem.snapshot() == before, "nothing was written");
}

#[test]
fn a_close_into_a_directory_that_was_taken_away_is_not_clean() {
    let config = small();
    let io = created(&config);
    let (_store, steps) = stepped(&io, &config);
    io.moved.store(true, Ordering::SeqCst);
    assert_eq!(steps.close().expect_err("the files are elsewhere").kind(), ErrorKind::Io);
}

/// A store a thread of which panics while appends, a reader and a flush are under way: everybody is answered. `early` and
/// `late` bring the panic about, before the memory is full and after.
fn survives(early: impl FnOnce(&Erring), late: impl FnOnce(&Erring)) {
    let config = Config { when_full: WhenFull::Wait, ..small() };
    let io = created(&config);
    let store = running(&io, &config);
    append(&store, b"kept").expect("staged").wait().expect("durable");
    let subscription = store.subscribe("log").expect("it exists");
    *io.gives.lock() = Some((0, false));
    let waiting = append(&store, b"in flight").expect("staged");
    let reader = std::thread::spawn(move || subscription.wait(1, PATIENCE));
    early(&io);
    // More than the pool holds: the last of them waits for room.
    let filler = store.clone();
    let blocked = std::thread::spawn(move || {
        let mut results = Vec::new();
        while results.last().is_none_or(Result::is_ok) {
            results.push(append(&filler, &[9; 7000]));
        }
        results
    });
    while !store.inner.core.index.pool.is_short() && store.failure().is_none() {
        let ended = blocked.is_finished() && store.failure().is_none();
        assert!(!ended, "the memory fills up before an append is turned away");
        std::thread::yield_now();
    }
    late(&io);
    let flusher = store.clone();
    // It may have been done before the panic.
    if let Err(error) = ends("a flush", move || flusher.flush()) {
        assert_eq!(error.kind(), ErrorKind::Poisoned, "{error}");
    }
    let error = ends("an append in flight", || waiting.wait()).expect_err("unknown");
    assert_eq!(error.kind(), ErrorKind::Unknown, "{error}");
    let waited = ends("a subscription", || reader.join()).expect("no panic").expect_err("nothing comes any more");
    assert_eq!(waited.kind(), ErrorKind::Poisoned, "{waited}");
    let results = ends("an append that waits for memory", || blocked.join()).expect("no panic");
    for result in results {
        match result {
            Ok(ack) => {
                let error = ends("an append", || ack.wait()).expect_err("unknown");
                assert_eq!(error.kind(), ErrorKind::Unknown, "{error}");
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::Poisoned, "{error}"),
        }
    }
    assert_eq!(append(&store, b"later").expect_err("stopped").kind(), ErrorKind::Poisoned);
    assert_eq!(store.flush().expect_err("stopped").kind(), ErrorKind::Poisoned);
    assert_eq!(read(&store), [b"kept"], "reads go on");
    assert!(store.failure().is_some_and(|error| error.message().contains("panicked")));
    assert_eq!(ends("close", || store.close()).expect_err("not clean").kind(), ErrorKind::Poisoned);
    io.heal();
    io.poll_panics.store(false, Ordering::SeqCst);
    *io.gives.lock() = None;
    let (store, _steps) = stepped(&io, &config);
    assert_eq!(read(&store)[0], b"kept", "and the directory is free again");
}

#[test]
fn a_committer_that_panics_leaves_nobody_waiting() {
    survives(|_| {}, |io| io.poll_panics.store(true, Ordering::SeqCst));
}

#[test]
fn a_flush_that_panics_leaves_nobody_waiting() {
    let panics = |io: &Erring| {
        io.set(|op| match op {
            Op::Open { path, .. } if path.extension().is_some_and(|e| e == "seg") => Fate::Panics,
            _ => Fate::Well,
        });
    };
    survives(panics, |_| {});
}
