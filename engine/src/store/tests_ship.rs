//! Shipping and restoring as the user of a store sees them.

use super::testing::{DIR, clock, small};
use super::{ColdConfig, Steps, Store, restore_on};
use crate::cold::testing::{Fate, MemCold};
use crate::cold::{ColdStore, Part, Put, Source};
use crate::config::Config;
use crate::error::{ErrorKind, Result};
use crate::io::Io;
use crate::io::mem::MemIo;
use crate::read::ReadLimit;
use crate::sync::Arc;
use crate::types::Lsn;
use crate::{Batch, RestoreMode, RestoreReport};
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

pub(super) const ALL: ReadLimit = ReadLimit { records: usize::MAX, bytes: usize::MAX };

pub(super) fn config() -> Config {
    // What a watermark proves is shipped: an empty frame brings it at once.
    Config { idle_frame_after: Duration::ZERO, journal_file_bytes: 1 << 20, memory_pool_bytes: 2 << 20, ..small() }
}

pub(super) fn cold(stores: &[&Arc<MemCold>]) -> ColdConfig {
    let stores = stores.iter().map(|store| Arc::clone(store) as Arc<dyn ColdStore>).collect();
    ColdConfig { stores, ..ColdConfig::default() }
}

pub(super) fn created() -> MemIo {
    let io = MemIo::new();
    Store::create_on(Arc::new(io.clone()), clock(), Path::new(DIR), &config()).expect("an empty disk");
    io
}

pub(super) fn open(io: &MemIo, cold: &ColdConfig) -> Result<(Store, Steps)> {
    Store::open_stepped_shipping(Arc::new(io.clone()), clock(), Path::new(DIR), config(), cold)
}

pub(super) fn restored(cold: &MemCold) -> (MemIo, RestoreReport) {
    let io = MemIo::new();
    let report = restore(&io, cold).expect("sound");
    (io, report)
}

pub(super) fn restore(io: &MemIo, cold: &MemCold) -> Result<RestoreReport> {
    let io: Arc<dyn Io> = Arc::new(io.clone());
    restore_on(&io, cold, Path::new(DIR), &config(), RestoreMode::Heal, &mut |_, _| {})
}

pub(super) fn append(store: &Store, steps: &mut Steps, log: &str, payload: &[u8]) -> Lsn {
    let mut batch = Batch::new();
    batch.log(log).create_if_missing().record(payload);
    let ack = store.append(batch).expect("there is room");
    while steps.commit().expect("a sound disk") {}
    ack.try_get().expect("committed").expect("durable").logs[0].lsn
}

pub(super) fn ship(steps: &mut Steps, n: usize) {
    while steps.ship(n).expect("reached") {}
}

pub(super) fn flush(store: &Store, steps: &mut Steps) {
    store.flush().expect("asked");
    while steps.flush().expect("a sound disk") {}
}

pub(super) fn read(store: &Store, log: &str) -> Vec<Vec<u8>> {
    match store.read(log, 0, ALL) {
        Ok(page) => page.records.into_iter().map(|record| record.payload).collect(),
        Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
        Err(error) => panic!("{error}"),
    }
}

pub(super) fn payload(n: u32) -> Vec<u8> {
    n.to_le_bytes().repeat(1 + n as usize % 200)
}

/// Appends `range` to three logs in turn.
pub(super) fn fill(store: &Store, steps: &mut Steps, range: std::ops::Range<u32>) -> Lsn {
    let mut lsn = Lsn(0);
    for n in range {
        lsn = append(store, steps, ["a/b", "a/c", "d"][n as usize % 3], &payload(n));
    }
    lsn
}

pub(super) fn check(store: &Store, range: std::ops::Range<u32>) {
    for (at, log) in ["a/b", "a/c", "d"].into_iter().enumerate() {
        let expected: Vec<_> = range.clone().filter(|n| *n as usize % 3 == at).map(payload).collect();
        assert!(read(store, log) == expected, "{log}");
    }
}

#[test]
fn what_is_told_to_be_cold_comes_back_from_tails_and_segments() {
    let cold_store = Arc::new(MemCold::new("cold"));
    let io = created();
    let (store, mut steps) = open(&io, &cold(&[&cold_store])).expect("a sound disk");
    let mut done = 0;
    for round in 0..6u32 {
        let lsn = fill(&store, &mut steps, done..done + 40);
        done += 40;
        let ack = store.cold(lsn);
        assert!(ack.try_get().is_none(), "nothing was shipped");
        if round % 2 == 1 {
            flush(&store, &mut steps);
        }
        ship(&mut steps, 0);
        ack.wait().expect("shipped");
        assert!(store.cold_level() >= lsn);
        // Each time a node that has nothing but the cold store.
        let (io, report) = restored(&cold_store);
        assert!(report.last_lsn >= lsn && report.lost.is_empty(), "{report:?}");
        let (again, _steps) = open(&io, &cold(&[&Arc::new(copy(&cold_store))])).expect("restored");
        check(&again, 0..done);
    }
    while steps.merge().expect("a sound disk") {}
    ship(&mut steps, 0);
    let (io, _) = restored(&cold_store);
    let (again, _steps) = open(&io, &cold(&[&Arc::new(copy(&cold_store))])).expect("restored");
    check(&again, 0..done);
}

pub(super) fn copy(of: &MemCold) -> MemCold {
    let copy = MemCold::new("cold");
    copy.objects.lock().clone_from(&of.objects.lock());
    copy
}

#[test]
fn a_store_that_opens_again_goes_on_where_its_tail_ended() {
    let cold_store = Arc::new(MemCold::new("cold"));
    let io = created();
    for round in 0..5u32 {
        let (store, mut steps) = open(&io, &cold(&[&cold_store])).expect("a sound disk");
        fill(&store, &mut steps, round * 30..round * 30 + 30);
        if round == 2 {
            flush(&store, &mut steps);
        }
        ship(&mut steps, 0);
        if round % 2 == 0 {
            steps.close().expect("clean");
        }
        let (io, report) = restored(&cold_store);
        assert!(report.lost.is_empty());
        let (again, _steps) = open(&io, &cold(&[&Arc::new(copy(&cold_store))])).expect("restored");
        check(&again, 0..round * 30 + 30);
    }
    assert_eq!(cold_store.keys("epoch/").len(), 5);
}

#[test]
fn the_older_owner_stops_at_its_next_contact_and_nothing_cold_is_lost() {
    let cold_store = Arc::new(MemCold::new("cold"));
    let (old_io, to) = (created(), cold(&[&cold_store]));
    let (old, mut old_steps) = open(&old_io, &to).expect("a sound disk");
    fill(&old, &mut old_steps, 0..30);
    ship(&mut old_steps, 0);
    // Not shipped: local alone.
    let lsn = fill(&old, &mut old_steps, 30..60);
    let (io, report) = restored(&cold_store);
    assert!(report.last_lsn < lsn);
    let (store, mut steps) = open(&io, &to).expect("taken over");
    check(&store, 0..30);
    let lsn_new = append(&store, &mut steps, "d", &payload(1000));
    ship(&mut steps, 0);
    assert!(store.cold(lsn_new).wait().is_ok());

    let waiting = old.cold(lsn);
    assert_eq!(old_steps.ship(0).expect_err("taken over").kind(), ErrorKind::Fenced);
    assert_eq!(waiting.wait().expect_err("never").kind(), ErrorKind::Fenced);
    let mut batch = Batch::new();
    batch.log("d").record(b"too late");
    assert_eq!(old.append(batch).expect_err("it stopped").kind(), ErrorKind::Fenced);
    drop((old, old_steps));
    assert_eq!(open(&old_io, &to).expect_err("another's").kind(), ErrorKind::Fenced);

    let (io, _) = restored(&cold_store);
    let (again, _steps) = open(&io, &cold(&[&Arc::new(copy(&cold_store))])).expect("restored");
    assert_eq!(read(&again, "d").last(), Some(&payload(1000)));
    assert!(read(&again, "a/b").len() == 10, "what the older one had not shipped is no part of it");
}

#[test]
fn an_old_directory_put_back_is_refused_and_writes_nothing() {
    let cold_store = Arc::new(MemCold::new("cold"));
    let (io, to) = (created(), cold(&[&cold_store]));
    let (store, mut steps) = open(&io, &to).expect("a sound disk");
    fill(&store, &mut steps, 0..30);
    ship(&mut steps, 0);
    let old = MemIo::new();
    old.restore(&io.snapshot());
    fill(&store, &mut steps, 30..60);
    ship(&mut steps, 0);
    steps.close().expect("clean");
    drop(store);
    let objects = cold_store.keys("");
    let error = open(&old, &to).expect_err("it lacks what is cold");
    assert_eq!(error.kind(), ErrorKind::Fenced, "{error}");
    assert_eq!(cold_store.keys(""), objects);
    let (io, _) = restored(&cold_store);
    let (again, _steps) = open(&io, &cold(&[&Arc::new(copy(&cold_store))])).expect("restored");
    check(&again, 0..60);
}

#[test]
fn no_request_that_fails_or_whose_answer_is_lost_loses_or_doubles_anything() {
    for fate in [Fate::Fails, Fate::AnswerLost] {
        for at in 0..60 {
            let cold_store = Arc::new(MemCold::new("cold"));
            let io = created();
            let mut requests = 0;
            cold_store.set(move |_, _| {
                requests += 1;
                if requests == at + 1 { fate } else { Fate::Well }
            });
            let (store, mut steps) = open(&io, &cold(&[&cold_store])).expect("it goes on with local alone");
            let lsn = fill(&store, &mut steps, 0..20);
            let ack = store.cold(lsn);
            let level = |steps: &mut Steps| {
                for _ in 0..50 {
                    if matches!(steps.ship(0), Ok(false)) {
                        return;
                    }
                }
                panic!("{fate:?} of request {at}: it does not get level");
            };
            level(&mut steps);
            flush(&store, &mut steps);
            let lsn_last = fill(&store, &mut steps, 20..40);
            level(&mut steps);
            ack.wait().expect("cold in the end");
            store.cold(lsn_last).wait().expect("cold in the end");
            cold_store.heal();
            let (io, report) = restored(&cold_store);
            assert!(report.lost.is_empty());
            let (again, _steps) = open(&io, &cold(&[&cold_store])).expect("restored");
            check(&again, 0..40);
        }
    }
}

#[test]
fn what_is_damaged_there_is_put_again_under_another_name() {
    for prefix in ["tail/", "segment/", "manifest/"] {
        let cold_store = Arc::new(MemCold::new("cold"));
        let io = created();
        let (store, mut steps) = open(&io, &cold(&[&cold_store])).expect("a sound disk");
        fill(&store, &mut steps, 0..20);
        flush(&store, &mut steps);
        // What is put is spoilt as soon as it is there.
        let (spoilt, weak) = (Arc::new(crate::sync::Mutex::new(false)), Arc::downgrade(&cold_store));
        let of = prefix.to_owned();
        cold_store.set(move |method, key| {
            let mut spoilt = spoilt.lock();
            if method == "get"
                && key.starts_with(&of)
                && !*spoilt
                && let Some(cold) = weak.upgrade()
                && let Some(object) = cold.objects.lock().get_mut(key)
                && !key.ends_with("0000000000000001/0000000000000000")
            {
                let at = object.len() / 2;
                object[at] ^= 1;
                *spoilt = true;
            }
            Fate::Well
        });
        for _ in 0..20 {
            let _ = steps.ship(0);
        }
        let lsn = fill(&store, &mut steps, 20..40);
        for _ in 0..20 {
            let _ = steps.ship(0);
        }
        store.cold(lsn).wait().expect("cold in the end");
        cold_store.heal();
        let (io, report) = restored(&cold_store);
        assert!(report.lost.is_empty(), "{prefix}: {report:?}");
        let (again, _steps) = open(&io, &cold(&[&cold_store])).expect("restored");
        check(&again, 0..40);
    }
}

#[test]
fn a_folder_on_the_datas_device_does_not_count() {
    let mut near = MemCold::new("near");
    near.dependent = true;
    let (near, far) = (Arc::new(near), Arc::new(MemCold::new("far")));
    let io = created();
    let (store, mut steps) = open(&io, &cold(&[&near])).expect("a sound disk");
    let lsn = fill(&store, &mut steps, 0..10);
    ship(&mut steps, 0);
    assert_eq!(store.cold_level(), Lsn(0));
    assert!(store.cold_stores()[0].verified >= lsn, "it is shipped all the same");
    assert_eq!(store.cold(lsn).wait().expect_err("none counts").kind(), ErrorKind::Invalid);
    drop((store, steps));

    let (store, mut steps) = open(&io, &cold(&[&near, &far])).expect("a sound disk");
    let ack = store.cold(lsn);
    ship(&mut steps, 0);
    assert!(ack.try_get().is_none());
    ship(&mut steps, 1);
    ack.wait().expect("in one that counts");
}

#[test]
fn either_of_two_cold_stores_is_enough_and_an_outage_of_one_does_not_hold_back_the_other() {
    let (first, second) = (Arc::new(MemCold::new("first")), Arc::new(MemCold::new("second")));
    let io = created();
    let to = cold(&[&first, &second]);
    let (store, mut steps) = open(&io, &to).expect("a sound disk");
    fill(&store, &mut steps, 0..30);
    ship(&mut steps, 0);
    ship(&mut steps, 1);
    second.set(|_, _| Fate::Fails);
    let lsn = fill(&store, &mut steps, 30..60);
    steps.ship(1).expect_err("an outage");
    ship(&mut steps, 0);
    store.cold(lsn).wait().expect("the other has it");
    second.heal();
    flush(&store, &mut steps);
    ship(&mut steps, 1);
    for cold_store in [&first, &second] {
        let (io, report) = restored(cold_store);
        assert!(report.lost.is_empty());
        let (again, _steps) = open(&io, &cold(&[&Arc::new(copy(cold_store))])).expect("restored");
        check(&again, 0..60);
    }
}

#[test]
fn a_cold_store_that_was_emptied_is_filled_anew_only_if_that_is_said() {
    let cold_store = Arc::new(MemCold::new("cold"));
    let io = created();
    let (store, mut steps) = open(&io, &cold(&[&cold_store])).expect("a sound disk");
    fill(&store, &mut steps, 0..30);
    flush(&store, &mut steps);
    ship(&mut steps, 0);
    drop((store, steps));
    cold_store.objects.lock().clear();
    let error = open(&io, &cold(&[&cold_store])).expect_err("it may be the wrong one");
    assert_eq!(error.kind(), ErrorKind::Refused);
    let lost = ColdConfig { may_be_lost: true, ..cold(&[&cold_store]) };
    let (store, mut steps) = open(&io, &lost).expect("it is said");
    let lsn = fill(&store, &mut steps, 30..60);
    ship(&mut steps, 0);
    store.cold(lsn).wait().expect("cold");
    let (io, _) = restored(&cold_store);
    let (again, _steps) = open(&io, &cold(&[&Arc::new(copy(&cold_store))])).expect("restored");
    check(&again, 0..60);
}

#[test]
fn one_cold_store_holds_one_store() {
    let cold_store = Arc::new(MemCold::new("cold"));
    let (one, other) = (created(), created());
    drop(open(&one, &cold(&[&cold_store])).expect("a sound disk"));
    assert_eq!(open(&other, &cold(&[&cold_store])).expect_err("another store's").kind(), ErrorKind::Refused);
}

/// What a bucket does whose store does not know the condition of a put.
struct Replacing(MemCold);

impl ColdStore for Replacing {
    fn url(&self) -> &str {
        self.0.url()
    }

    fn put(&self, key: &str, source: &dyn Source) -> Result<Put> {
        self.0.objects.lock().remove(key);
        self.0.put(key, source)
    }

    fn get(&self, key: &str, range: Range<u64>) -> Result<Option<Part>> {
        self.0.get(key, range)
    }

    fn list(&self, prefix: &str, after: &str) -> Result<Vec<String>> {
        self.0.list(prefix, after)
    }
}

#[test]
fn a_cold_store_that_replaces_what_is_there_is_refused() {
    let cold: Arc<dyn ColdStore> = Arc::new(Replacing(MemCold::new("cold")));
    let config = ColdConfig { stores: vec![Arc::clone(&cold)], ..ColdConfig::default() };
    let error = open(&created(), &config).expect_err("it gives an epoch to two owners");
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert!(error.to_string().contains("If-None-Match"), "{error}");
    assert!(cold.list("epoch/", "").expect("reached").is_empty(), "nothing is claimed there");
}

#[test]
fn a_restored_store_needs_its_cold_store_at_its_first_open_and_can_be_brought_up_to_date_before() {
    let cold_store = Arc::new(MemCold::new("cold"));
    let to = cold(&[&cold_store]);
    let io = created();
    let (store, mut steps) = open(&io, &to).expect("a sound disk");
    fill(&store, &mut steps, 0..30);
    ship(&mut steps, 0);
    let (new, _) = restored(&cold_store);
    assert_eq!(open(&new, &ColdConfig::default()).expect_err("no owner").kind(), ErrorKind::Refused);
    cold_store.set(|_, _| Fate::Fails);
    assert_eq!(open(&new, &to).expect_err("not reached").kind(), ErrorKind::Cold);
    cold_store.heal();
    // The older owner goes on meanwhile.
    fill(&store, &mut steps, 30..45);
    flush(&store, &mut steps);
    ship(&mut steps, 0);
    assert_eq!(open(&new, &to).expect_err("it lacks what is cold").kind(), ErrorKind::Fenced);
    drop((store, steps));
    restore(&new, &cold_store).expect("once more");
    let (store, steps) = open(&new, &to).expect("taken over");
    check(&store, 0..45);
    steps.close().expect("clean");
    drop(store);
    assert_eq!(restore(&new, &cold_store).expect_err("it was opened").kind(), ErrorKind::Refused);
}

#[test]
fn frames_whose_journal_file_was_used_again_are_cold_with_their_segments() {
    let cold_store = Arc::new(MemCold::new("cold"));
    let io = created();
    let (store, mut steps) = open(&io, &cold(&[&cold_store])).expect("a sound disk");
    ship(&mut steps, 0);
    let mut lsn = Lsn(0);
    for n in 0..400 {
        lsn = append(&store, &mut steps, "d", &payload(n));
        if n % 10 == 0 {
            flush(&store, &mut steps);
        }
    }
    let ack = store.cold(lsn);
    for _ in 0..200 {
        let _ = steps.flush().expect("a sound disk");
        let _ = steps.ship(0).expect("reached");
    }
    ack.try_get().expect("shipped").expect("cold");
    let (io, report) = restored(&cold_store);
    assert!(report.lost.is_empty());
    let (again, _steps) = open(&io, &cold(&[&Arc::new(copy(&cold_store))])).expect("restored");
    assert!(read(&again, "d") == (0..400).map(payload).collect::<Vec<_>>());
}

/// A cold store with three tail objects of ten records each, behind no segment, and the LSN of the last one of each.
fn three_tails() -> (Arc<MemCold>, [Lsn; 3]) {
    let cold_store = Arc::new(MemCold::new("cold"));
    let (store, mut steps) = open(&created(), &cold(&[&cold_store])).expect("a sound disk");
    ship(&mut steps, 0);
    let lsns = [0, 10, 20].map(|first| {
        let lsn = fill(&store, &mut steps, first..first + 10);
        ship(&mut steps, 0);
        lsn
    });
    assert_eq!(cold_store.keys("tail/").len(), 3);
    (cold_store, lsns)
}

#[test]
fn a_tail_object_that_rots_or_goes_is_named_with_what_it_may_have_held() {
    type Harm = fn(&MemCold, &[String]);
    let rots = |cold: &MemCold, key: &str| cold.objects.lock().get_mut(key).expect("it is there")[99] ^= 1;
    let last: Harm = |cold, keys| cold.objects.lock().get_mut(&keys[2]).expect("it is there")[99] ^= 1;
    let middle_gone: Harm = |cold, keys| drop(cold.objects.lock().remove(&keys[1]));
    for (harm, whole) in [(last, 1), (middle_gone, 0)] {
        let (cold_store, lsns) = three_tails();
        harm(&cold_store, &cold_store.keys("tail/"));
        let (_, report) = restored(&cold_store);
        assert_eq!(report.last_lsn, lsns[whole]);
        let lost: Vec<_> = report.lost.iter().map(|error| error.lsn_range()).collect();
        assert_eq!(lost, [Some(lsns[whole].0 + 1..u64::MAX)], "what is lost is unknown, and said to be");
    }
    let (cold_store, lsns) = three_tails();
    let keys = cold_store.keys("tail/");
    rots(&cold_store, &keys[1]);
    let (_, report) = restored(&cold_store);
    assert_eq!(
        report.lost.iter().map(|error| error.lsn_range()).collect::<Vec<_>>(),
        [Some(lsns[0].0 + 1..lsns[1].0 + 1)]
    );

    // An older epoch's, whose end its successor named.
    let (cold_store, lsns) = three_tails();
    let (io, _) = restored(&cold_store);
    let (_store, mut steps) = open(&io, &cold(&[&cold_store])).expect("taken over");
    let keys = cold_store.keys("tail/");
    // Before the segment of the take-over covers it.
    cold_store.objects.lock().get_mut(&keys[2]).expect("it is there")[99] ^= 1;
    let (_, report) = restored(&cold_store);
    assert_eq!(
        report.lost.iter().map(|error| error.lsn_range()).collect::<Vec<_>>(),
        [Some(lsns[1].0 + 1..lsns[2].0 + 1)]
    );
    ship(&mut steps, 0);
    let (_, report) = restored(&cold_store);
    assert!(report.lost.is_empty() && report.last_lsn >= lsns[2], "{report:?}");
}

#[test]
fn an_object_in_the_place_of_another_one_counts_for_nothing() {
    let (cold_store, lsns) = three_tails();
    let keys = cold_store.keys("tail/");
    let claim = cold_store.objects.lock().get("epoch/0000000000000001").cloned().expect("claimed");
    let first = cold_store.objects.lock().get(&keys[0]).cloned().expect("it is there");
    cold_store.objects.lock().insert(keys[2].clone(), first);
    cold_store.objects.lock().insert("epoch/0000000000000002".into(), claim);
    let (io, report) = restored(&cold_store);
    assert_eq!((report.last_lsn, report.lost.len()), (lsns[1], 1));
    let (store, _steps) = open(&io, &cold(&[&cold_store])).expect("nobody claimed the second epoch");
    check(&store, 0..20);
    assert_eq!(store.cold_stores()[0].epoch.0, 3);
}
