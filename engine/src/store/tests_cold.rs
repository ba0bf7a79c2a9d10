//! What an open store says of its cold stores, and what it does where it loses them to another owner or out of sight.

use super::testing::{DIR, Hand, clock, small};
use super::{ColdConfig, ReadOnly, Steps, Store, restore_on};
use crate::clock::Clock;
use crate::cold::ColdStore;
use crate::cold::standing::Bounds;
use crate::cold::testing::{Fate, MemCold};
use crate::config::{Config, WhenFull};
use crate::error::{Error, ErrorKind, Result};
use crate::io::Io;
use crate::io::mem::MemIo;
use crate::sync::{Arc, AtomicBool, Ordering};
use crate::types::{Epoch, Lsn};
use crate::{Batch, RestoreMode};
use std::path::Path;
use std::time::{Duration, Instant};

fn config() -> Config {
    Config { idle_frame_after: Duration::ZERO, when_full: WhenFull::Reject, ..small() }
}

fn created() -> (MemIo, Arc<MemCold>) {
    let io = MemIo::new();
    Store::create_on(Arc::new(io.clone()), clock(), Path::new(DIR), &config()).expect("an empty disk");
    (io, Arc::new(MemCold::new("cold")))
}

fn to(cold: &Arc<MemCold>) -> ColdConfig {
    ColdConfig { stores: vec![Arc::clone(cold) as Arc<dyn ColdStore>], ..ColdConfig::default() }
}

fn open(io: &MemIo, clock: Arc<dyn Clock>, cold: &ColdConfig) -> Result<(Store, Steps)> {
    Store::open_stepped_shipping(Arc::new(io.clone()), clock, Path::new(DIR), config(), cold)
}

fn append(store: &Store, steps: &mut Steps) -> Result<Lsn> {
    let mut batch = Batch::new();
    batch.log("a/b").create_if_missing().record(b"record");
    let ack = store.append(batch)?;
    while steps.commit().expect("a sound disk") {}
    Ok(ack.try_get().expect("committed")?.logs[0].lsn)
}

fn ship(steps: &mut Steps) {
    while steps.ship(0).expect("reached") {}
}

#[test]
fn who_was_taken_over_knows_it_without_the_cold_store_and_what_is_orphaned() {
    let (io, cold) = created();
    let (store, mut steps) = open(&io, clock(), &to(&cold)).expect("a sound disk");
    let shipped = append(&store, &mut steps).expect("there is room");
    ship(&mut steps);
    let new: Arc<dyn Io> = Arc::new(MemIo::new());
    restore_on(&new, &*cold, Path::new(DIR), &config(), RestoreMode::default(), &mut |_, _| {}).expect("sound");
    let (_owner, _) =
        Store::open_stepped_shipping(new, clock(), Path::new(DIR), config(), &to(&cold)).expect("taken over");
    append(&store, &mut steps).expect("it does not know yet");
    let told = steps.ship(0).expect_err("taken over");
    assert_eq!(told.kind(), ErrorKind::Fenced);
    assert_eq!(append(&store, &mut steps).expect_err("taken over").kind(), ErrorKind::Fenced);
    drop((store, steps));

    let again = open(&io, clock(), &ColdConfig::default()).expect_err("taken over");
    assert_eq!((again.kind(), again.lsn_range()), (ErrorKind::Fenced, Some(shipped.0 + 1..u64::MAX)));
    let look = ReadOnly::open_on(Arc::new(io.clone()), Path::new(DIR)).expect("it can be looked at");
    assert_eq!(look.summary().epochs.expect("sound").fenced, Some((Epoch(2), shipped)));
    assert_eq!(look.info("a/b").expect("it is there").next_seq, 2, "what is orphaned is kept");

    // Where both the cold store and the new owner are lost it is the best there is.
    cold.objects.lock().clear();
    let lost = ColdConfig { may_be_lost: true, ..to(&cold) };
    let (store, steps) = open(&io, clock(), &lost).expect("it is said");
    steps.close().expect("clean");
    drop(store);
    open(&io, clock(), &to(&cold)).expect("it owns the store again");
}

#[test]
fn a_store_is_not_created_beside_one_that_lies_in_its_cold_store() {
    let (io, cold) = created();
    drop(open(&io, clock(), &to(&cold)).expect("a sound disk"));
    let dir = tempfile::tempdir().expect("a folder");
    let place = dir.path().join("store");
    let refused = Store::create_shipping(&place, &config(), &to(&cold)).expect_err("there is one");
    assert_eq!(refused.kind(), ErrorKind::Refused);
    cold.set(|_, _| Fate::Fails);
    assert_eq!(Store::create_shipping(&place, &config(), &to(&cold)).expect_err("who knows").kind(), ErrorKind::Cold);
    assert!(!place.exists(), "nothing was created");
}

fn bounded(bounds: Bounds) -> (Store, Steps, Arc<MemCold>, Hand) {
    let (io, cold) = created();
    let hand = Hand::default();
    let config = ColdConfig { bounds, ..to(&cold) };
    let (store, mut steps) = open(&io, Arc::new(hand.clone()), &config).expect("a sound disk");
    append(&store, &mut steps).expect("there is room");
    ship(&mut steps);
    (store, steps, cold, hand)
}

#[test]
fn appends_are_held_back_while_the_cold_store_is_too_far_behind() {
    let (store, mut steps, cold, hand) =
        bounded(Bounds { lag_max: Some(Duration::from_secs(10)), ..Bounds::default() });
    hand.pass(3600);
    append(&store, &mut steps).expect("nothing waited to be shipped");
    cold.set(|_, _| Fate::Fails);
    steps.ship(0).expect_err("an outage");
    hand.pass(9);
    append(&store, &mut steps).expect("not for long yet");
    hand.pass(2);
    let level = &store.cold_stores()[0];
    assert!(level.lag == Duration::from_secs(11) && level.lag_bytes > 0 && level.error.is_some(), "{level:?}");
    let error: Error = append(&store, &mut steps).expect_err("for too long");
    assert!(error.kind() == ErrorKind::Overloaded && error.retry_after().is_some(), "{error}");
    assert_eq!(store.stats().held_back, Some(error.to_string()));
    cold.heal();
    ship(&mut steps);
    append(&store, &mut steps).expect("it has caught up");
    assert_eq!(store.stats().held_back, None);
}

#[test]
fn appends_end_where_the_cold_store_does_not_say_for_too_long_who_owns_the_store() {
    let (store, mut steps, cold, hand) =
        bounded(Bounds { contact_max: Some(Duration::from_secs(10)), ..Bounds::default() });
    cold.set(|_, _| Fate::Fails);
    hand.pass(10);
    append(&store, &mut steps).expect("not for long yet");
    steps.ship(0).expect_err("an outage");
    hand.pass(1);
    let error: Error = append(&store, &mut steps).expect_err("for too long");
    assert_eq!(error.kind(), ErrorKind::Cold);
    assert_eq!(store.stats().held_back, Some(error.to_string()));
    cold.heal();
    ship(&mut steps);
    append(&store, &mut steps).expect("it said so");
    assert_eq!(store.stats().held_back, None);
}

#[test]
fn an_owner_at_rest_notices_that_it_was_taken_over_and_a_close_waits_for_no_cold_store() {
    let (io, cold) = created();
    let hand = Hand::default();
    let store =
        Store::open_shipping_on(Arc::new(io.clone()), Arc::new(hand.clone()), Path::new(DIR), config(), &to(&cold))
            .expect("a sound disk");
    let mut batch = Batch::new();
    batch.log("a/b").create_if_missing().record(b"record");
    let lsn = store.append(batch).expect("there is room").wait().expect("durable").logs[0].lsn;
    store.cold(lsn).wait().expect("shipped");
    // From here on each answer is waited for.
    let (asked, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (asked_t, answers_t) = (Arc::clone(&asked), Arc::clone(&answers));
    cold.set(move |_, _| {
        asked_t.store(true, Ordering::SeqCst);
        while !answers_t.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        Fate::Well
    });
    hand.pass(60);
    let until = Instant::now() + Duration::from_secs(60);
    while !asked.load(Ordering::SeqCst) {
        assert!(Instant::now() < until, "it never asks");
        std::thread::yield_now();
    }
    let closes = std::thread::spawn(move || store.close());
    let is_closed = || {
        let copy = MemIo::new();
        copy.restore(&io.snapshot());
        open(&copy, clock(), &ColdConfig::default()).is_ok_and(|(store, _)| store.recovery().clean)
    };
    while !is_closed() {
        assert!(Instant::now() < until, "it waits for the cold store");
        std::thread::yield_now();
    }
    answers.store(true, Ordering::SeqCst);
    closes.join().expect("no panic").expect("clean");
}

#[test]
fn while_appends_go_on_the_tail_is_shipped_about_every_second() {
    // No file of the journal is used again within that time.
    let config = Config { journal_file_bytes: 16 << 20, memory_pool_bytes: 32 << 20, ..config() };
    let (io, cold) = created();
    let store =
        Store::open_shipping_on(Arc::new(io), clock(), Path::new(DIR), config, &to(&cold)).expect("a sound disk");
    // Whenever something is put, there is more by then.
    cold.set(|_, _| {
        std::thread::sleep(Duration::from_millis(5));
        Fate::Well
    });
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(2) {
        let mut batch = Batch::new();
        batch.log("a/b").create_if_missing().record(b"record");
        store.append(batch).expect("there is room").wait().expect("durable");
        std::thread::sleep(Duration::from_millis(1));
    }
    let (tails, seconds) = (cold.keys("tail/").len() as u64, began.elapsed().as_secs());
    assert!((1..=seconds + 2).contains(&tails), "{tails} objects in {seconds} s");
}

#[test]
fn a_close_that_learns_of_another_owner_says_so() {
    let (io, cold) = created();
    let store = Store::open_shipping_on(Arc::new(io.clone()), clock(), Path::new(DIR), config(), &to(&cold))
        .expect("a sound disk");
    let write = |store: &Store| {
        let mut batch = Batch::new();
        batch.log("a/b").create_if_missing().record(b"record");
        store.append(batch)
    };
    let lsn = write(&store).expect("there is room").wait().expect("durable").logs[0].lsn;
    store.cold(lsn).wait().expect("shipped");
    let new: Arc<dyn Io> = Arc::new(MemIo::new());
    restore_on(&new, &*cold, Path::new(DIR), &config(), RestoreMode::default(), &mut |_, _| {}).expect("sound");
    let (_owner, _) =
        Store::open_stepped_shipping(new, clock(), Path::new(DIR), config(), &to(&cold)).expect("taken over");
    // It may have learnt of it by now.
    let _ = write(&store).map(|ack| ack.wait());
    let closed = store.close().expect_err("another owner has the store");
    assert_eq!(closed.kind(), ErrorKind::Fenced, "{closed}");
}
