//! What a reader is told that followed a history which the store was taken back from.

use super::testing::DIR;
use super::tests_ship::{append, cold, config, created, open, ship};
use super::{Steps, Store, restore_on};
use crate::cold::testing::MemCold;
use crate::error::{Error, ErrorKind};
use crate::io::Io;
use crate::io::mem::MemIo;
use crate::read::ReadLimit;
use crate::restore::RestoreMode;
use crate::sync::Arc;
use crate::types::{Cursor, Position};
use std::path::Path;

const ALL: ReadLimit = ReadLimit { records: usize::MAX, bytes: usize::MAX };

/// The end of the log, as its readers know it.
fn end(store: &Store, log: &str) -> Cursor {
    store.read(log, Position::End, ALL).expect("readable").next
}

/// What is restored so, at its first open.
fn taken_over(cold_store: &Arc<MemCold>, mode: RestoreMode) -> (MemIo, Store, Steps) {
    let io = MemIo::new();
    let shared: Arc<dyn Io> = Arc::new(io.clone());
    restore_on(&shared, &**cold_store, Path::new(DIR), &config(), mode, &mut |_, _| {}).expect("sound");
    let (store, steps) = open(&io, &cold(&[cold_store])).expect("taken over");
    (io, store, steps)
}

fn refused(store: &Store, log: &str, cursor: Cursor) -> Error {
    let error = store.read(log, cursor, ALL).expect_err("another history");
    let again = store.try_read(log, cursor, ALL).expect_err("another history");
    assert!(again.kind() == ErrorKind::WouldBlock || again.is_taken_back() == error.is_taken_back());
    error
}

#[test]
fn that_the_store_was_taken_back_is_known_from_the_first_object_of_who_did_it() {
    let cold_store = Arc::new(MemCold::new("cold"));
    let (store, mut steps) = open(&created(), &cold(&[&cold_store])).expect("a sound disk");
    append(&store, &mut steps, "log", b"kept");
    ship(&mut steps, 0);
    append(&store, &mut steps, "log", b"lost");
    let ahead = end(&store, "log");
    // Its machine is lost before it ships anything but what its open put.
    drop(taken_over(&cold_store, RestoreMode::Rewind(None)));
    let (_, store, _) = taken_over(&cold_store, RestoreMode::Heal);
    assert!(refused(&store, "log", ahead).is_taken_back());
}

#[test]
fn a_cursor_of_what_a_restore_took_back_is_told_so_for_ever_after() {
    for (mode, is_rewind) in [(RestoreMode::Heal, false), (RestoreMode::Rewind(None), true)] {
        let cold_store = Arc::new(MemCold::new("cold"));
        let to = cold(&[&cold_store]);
        let (store, mut steps) = open(&created(), &to).expect("a sound disk");
        append(&store, &mut steps, "log", b"kept");
        ship(&mut steps, 0);
        let kept = end(&store, "log");
        // Local alone, so that the restore has neither.
        append(&store, &mut steps, "log", b"lost");
        append(&store, &mut steps, "new", b"lost with its log");
        let (ahead, new) = (end(&store, "log"), end(&store, "new"));

        let (io, store, mut steps) = taken_over(&cold_store, mode);
        append(&store, &mut steps, "log", b"since then");
        ship(&mut steps, 0);
        let since = end(&store, "log");
        let check = |store: &Store| {
            let error = refused(store, "log", ahead);
            assert_eq!((error.kind(), error.cut()), (ErrorKind::Rewound, Some(kept)), "{error}");
            assert_eq!(error.is_taken_back(), is_rewind);
            let error = refused(store, "new", new);
            assert_eq!((error.kind(), error.is_taken_back()), (ErrorKind::NotFound, is_rewind));
            let error = refused(store, "new", Cursor::default());
            assert_eq!(
                (error.kind(), error.is_taken_back()),
                (ErrorKind::NotFound, false),
                "the start is common to all"
            );
            store.read("log", kept, ALL).expect("before the cut");
            store.read("log", since, ALL).expect("behind it");
            let error = refused(store, "log", Cursor { seq: since.seq + 1, ..since });
            assert!(!error.is_taken_back(), "a loss of this history's own");
        };
        check(&store);
        steps.close().expect("clean");
        drop(store);
        let (store, steps) = open(&io, &to).expect("its own");
        check(&store);
        drop((store, steps));
        // Its successor knows it too.
        let (_, store, _steps) = taken_over(&cold_store, RestoreMode::Heal);
        let error = refused(&store, "log", ahead);
        assert_eq!(error.is_taken_back(), is_rewind);
    }
}
