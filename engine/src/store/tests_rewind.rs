//! Restoring the past, as the user of a store sees it: what comes back is what was there then, here and in the cold
//! stores.

use super::restore::restore_by;
use super::testing::{DIR, Hand};
use super::tests_ship::{append, cold, config, copy, created, fill, flush, open, payload, read, restored, ship};
use super::{Carry, ColdConfig, Steps, Store, restore_on};
use crate::clock::Clock;
use crate::cold::testing::{Fate, MemCold};
use crate::error::{Error, ErrorKind, Result};
use crate::format::manifest::TimelineCause;
use crate::io::Io;
use crate::io::mem::MemIo;
use crate::sync::Arc;
use crate::types::{AsOf, Lsn, TimeUs};
use crate::{Batch, CARRIED_FILE_NAME, RestoreMode, RestoreReport};
use std::path::Path;

/// What is appended after a rewind has numbers from here on.
const ANEW: u32 = 1000;

/// A moment at which all that there was had been shipped.
#[derive(Clone, Copy, Debug)]
struct Moment {
    lsn: Lsn,
    time: TimeUs,
    /// The payloads up to this one.
    done: u32,
}

fn restore(io: &MemIo, cold: &MemCold, mode: RestoreMode) -> Result<RestoreReport> {
    let io: Arc<dyn Io> = Arc::new(io.clone());
    restore_on(&io, cold, Path::new(DIR), &config(), mode, &mut |_, _| {})
}

fn rewound(cold: &MemCold, as_of: AsOf) -> (MemIo, RestoreReport) {
    let io = MemIo::new();
    let report = restore(&io, cold, RestoreMode::Rewind(Some(as_of))).expect("the moment can be had");
    assert!(report.lost.is_empty(), "{report:?}");
    (io, report)
}

/// The store holds these payloads and no others.
fn check(store: &Store, numbers: impl Iterator<Item = u32> + Clone) {
    for (at, log) in ["a/b", "a/c", "d"].into_iter().enumerate() {
        let expected: Vec<_> = numbers.clone().filter(|n| *n as usize % 3 == at).map(payload).collect();
        assert!(read(store, log) == expected, "{log}: {} of {}", read(store, log).len(), expected.len());
    }
}

/// Of how many payloads, from the first on, what a node has that has nothing but a copy of this cold store.
fn held(cold_store: &MemCold) -> u32 {
    let (io, report) = restored(cold_store);
    assert!(report.lost.is_empty(), "{report:?}");
    let (store, _steps) = open(&io, &cold(&[&Arc::new(copy(cold_store))])).expect("restored");
    let held = ["a/b", "a/c", "d"].iter().map(|log| read(&store, log).len() as u32).sum();
    check(&store, 0..held);
    held
}

/// A store that was opened three times, was flushed now and then, and shipped all that it had: its disk, its cold
/// stores, and the moments.
fn past(stores: usize) -> (MemIo, Vec<Arc<MemCold>>, Vec<Moment>) {
    let cold_stores: Vec<_> =
        ["first", "second"].iter().take(stores).map(|name| Arc::new(MemCold::new(name))).collect();
    let (io, hand) = (created(), Hand::default());
    let (mut moments, mut done) = (Vec::new(), 0);
    for epoch in 0..3 {
        let to = cold(&cold_stores.iter().collect::<Vec<_>>());
        let clock: Arc<dyn Clock> = Arc::new(hand.clone());
        let opened = Store::open_stepped_shipping(Arc::new(io.clone()), clock, Path::new(DIR), config(), &to);
        let (store, mut steps) = opened.expect("a sound disk");
        for round in 0..4 {
            hand.pass(60);
            let lsn = fill(&store, &mut steps, done..done + 12);
            done += 12;
            if (epoch + round) % 3 == 1 {
                flush(&store, &mut steps);
            }
            (0..stores).for_each(|n| ship(&mut steps, n));
            moments.push(Moment { lsn, time: hand.wall(), done });
        }
        if epoch == 1 {
            while steps.merge().expect("a sound disk") {}
            steps.close().expect("clean");
        }
    }
    (io, cold_stores, moments)
}

#[test]
fn each_moment_of_the_past_comes_back_as_it_was_and_is_the_store_from_then_on() {
    let (_, cold_stores, moments) = past(1);
    for Moment { lsn, time, done } in moments {
        for as_of in [AsOf::Lsn(lsn), AsOf::Time(time), AsOf::Time(TimeUs(time.0 + 30_000_000))] {
            if done == 144 && as_of == AsOf::Time(TimeUs(time.0 + 30_000_000)) {
                continue;
            }
            let cold_store = Arc::new(copy(&cold_stores[0]));
            let (io, report) = rewound(&cold_store, as_of);
            assert_eq!((report.last_lsn, report.time), (lsn, time), "{as_of}");
            assert_eq!(held(&cold_store), 144, "a restore changes nothing there");
            let (store, mut steps) = open(&io, &cold(&[&cold_store])).expect("taken over");
            check(&store, 0..done);
            assert_eq!(held(&cold_store), done, "before anything was shipped");
            let manifest = crate::manifest::load(&io, Path::new(DIR)).expect("sound");
            assert_eq!(manifest.timelines.last().map(|start| start.cause), Some(TimelineCause::Rewind));

            let last = fill(&store, &mut steps, ANEW..ANEW + 12);
            ship(&mut steps, 0);
            store.cold(last).wait().expect("shipped");
            flush(&store, &mut steps);
            ship(&mut steps, 0);
            let (io, report) = restored(&cold_store);
            assert!(report.lost.is_empty() && report.last_lsn >= last, "{report:?}");
            let (again, _steps) = open(&io, &cold(&[&Arc::new(copy(&cold_store))])).expect("restored");
            check(&again, (0..done).chain(ANEW..ANEW + 12));
            // The past of the rewound store is the one that it went on from.
            drop((store, steps));
            let (io, _) = rewound(&cold_store, AsOf::Lsn(lsn));
            let (again, _steps) = open(&io, &cold(&[&cold_store])).expect("taken over");
            check(&again, 0..done);
        }
    }
}

#[test]
fn an_lsn_amid_a_frame_stands_for_the_end_of_the_frame_before() {
    let cold_store = Arc::new(MemCold::new("cold"));
    let (store, mut steps) = open(&created(), &cold(&[&cold_store])).expect("a sound disk");
    let lsn = fill(&store, &mut steps, 0..4);
    let payloads: Vec<_> = (ANEW..ANEW + 5).map(payload).collect();
    let mut batch = Batch::new();
    for payload in &payloads {
        batch.log("a/b").record(payload);
    }
    let ack = store.append(batch).expect("there is room");
    while steps.commit().expect("a sound disk") {}
    let last = ack.try_get().expect("committed").expect("durable").logs[0].lsn;
    ship(&mut steps, 0);
    for amid in lsn.0 + 1..last.0 {
        let (io, report) = rewound(&cold_store, AsOf::Lsn(Lsn(amid)));
        assert_eq!(report.last_lsn, lsn);
        let (again, _steps) = open(&io, &cold(&[&Arc::new(copy(&cold_store))])).expect("taken over");
        check(&again, 0..4);
    }
    let (_, report) = rewound(&cold_store, AsOf::Lsn(last));
    assert_eq!(report.last_lsn, last);
}

#[test]
fn a_moment_that_cannot_be_had_is_refused_with_those_that_can() {
    let cold_store = Arc::new(MemCold::new("cold"));
    let (store, mut steps) = open(&created(), &cold(&[&cold_store])).expect("a sound disk");
    ship(&mut steps, 0);
    let first = fill(&store, &mut steps, 0..6);
    ship(&mut steps, 0);
    // Journal files are used again before they were shipped.
    let mut last = first;
    for n in 0..400 {
        last = append(&store, &mut steps, "e", &payload(n));
        if n % 10 == 0 {
            flush(&store, &mut steps);
        }
    }
    flush(&store, &mut steps);
    for _ in 0..20 {
        ship(&mut steps, 0);
    }
    let refused = |as_of| {
        let io = MemIo::new();
        let error = restore(&io, &cold_store, RestoreMode::Rewind(Some(as_of))).expect_err("it cannot be had");
        assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
        assert!(io.snapshot().is_empty(), "nothing was written");
        error.advice().unwrap_or_default().to_owned()
    };
    for before in [AsOf::Lsn(Lsn(0)), AsOf::Time(TimeUs(1))] {
        assert!(refused(before).contains("or as of LSN"), "{before}");
    }
    for after in [AsOf::Lsn(last.next()), AsOf::Time(TimeUs(u64::MAX))] {
        assert!(refused(after).contains(&format!("as of LSN {last} or an earlier")), "{after}");
    }
    let advice = refused(AsOf::Lsn(Lsn(first.0 + 3)));
    assert!(advice.starts_with(&format!("restore as of LSN {first}, or as of LSN ")), "{advice}");
    let later = advice.split(' ').filter_map(|word| word.parse().ok()).next_back().expect("one is named");
    let (_, report) = rewound(&cold_store, AsOf::Lsn(Lsn(later)));
    assert_eq!(report.last_lsn, Lsn(later));
    let (_, report) = rewound(&cold_store, AsOf::Lsn(first));
    assert_eq!(report.last_lsn, first);
}

#[test]
fn what_the_older_owner_ships_past_the_moment_stands_in_nobodys_way_and_it_is_fenced() {
    for mode in [false, true] {
        let cold_store = Arc::new(MemCold::new("cold"));
        let to = cold(&[&cold_store]);
        let (old, mut old_steps) = open(&created(), &to).expect("a sound disk");
        let moment = fill(&old, &mut old_steps, 0..12);
        ship(&mut old_steps, 0);
        let as_of = if mode {
            fill(&old, &mut old_steps, 12..24);
            ship(&mut old_steps, 0);
            Some(AsOf::Lsn(moment))
        } else {
            None
        };
        let io = MemIo::new();
        restore(&io, &cold_store, RestoreMode::Rewind(as_of)).expect("sound");
        // In tails and in segments.
        fill(&old, &mut old_steps, 24..36);
        ship(&mut old_steps, 0);
        flush(&old, &mut old_steps);
        fill(&old, &mut old_steps, 36..48);
        ship(&mut old_steps, 0);
        let (store, mut steps) = open(&io, &to).expect("taken over");
        check(&store, 0..12);
        fill(&old, &mut old_steps, 48..60);
        assert_eq!(old_steps.ship(0).expect_err("taken over").kind(), ErrorKind::Fenced);
        assert_eq!(held(&cold_store), 12);
        fill(&store, &mut steps, 12..24);
        ship(&mut steps, 0);
        assert_eq!(held(&cold_store), 24);
    }
}

/// Has the request `at` of a cold store meet `fate`, and all later ones fail, as where a process dies.
fn die_at(cold_store: &MemCold, at: u32, fate: Fate) {
    let mut requests = 0;
    cold_store.set(move |_, _| {
        requests += 1;
        match requests.cmp(&(at + 1)) {
            std::cmp::Ordering::Less => Fate::Well,
            std::cmp::Ordering::Equal => fate,
            std::cmp::Ordering::Greater => Fate::Fails,
        }
    });
}

#[test]
fn a_first_open_that_dies_anywhere_leaves_the_store_whole_or_rewound_and_goes_on_the_next_time() {
    let (_, cold_stores, moments) = past(1);
    for moment in [moments[1], moments[4], moments[7]] {
        for fate in [Fate::Fails, Fate::AnswerLost] {
            let (mut whole, mut gone) = (0, 0);
            for at in 0.. {
                let cold_store = Arc::new(copy(&cold_stores[0]));
                let to = cold(&[&cold_store]);
                let (io, _) = rewound(&cold_store, AsOf::Lsn(moment.lsn));
                die_at(&cold_store, at, fate);
                let died = open(&io, &to).is_err();
                cold_store.heal();
                match held(&cold_store) {
                    144 => whole += 1,
                    held => {
                        assert_eq!(held, moment.done, "{fate:?} of request {at}");
                        gone += 1;
                    }
                }
                let (store, steps) = open(&io, &to).expect("once more");
                check(&store, 0..moment.done);
                assert_eq!(held(&cold_store), moment.done);
                drop((store, steps));
                if !died {
                    break;
                }
            }
            assert!(whole > 3 && gone > 1, "{whole} and {gone}");
        }
    }
}

#[test]
fn a_second_cold_store_is_rewound_by_one_object_as_well() {
    let (_, cold_stores, moments) = past(2);
    for moment in [moments[0], moments[4], moments[6], moments[9]] {
        for at in 0.. {
            let [first, second] = [0, 1].map(|n| Arc::new(copy(&cold_stores[n])));
            let to = cold(&[&first, &second]);
            let (io, _) = rewound(&first, AsOf::Lsn(moment.lsn));
            let (store, mut steps) = open(&io, &to).expect("taken over");
            die_at(&second, at, Fate::AnswerLost);
            let died = steps.ship(1).is_err();
            second.heal();
            let held_there = held(&second);
            assert!(held_there == 144 || held_there == moment.done, "request {at}: {held_there}");
            let last = fill(&store, &mut steps, moment.done..moment.done + 12);
            ship(&mut steps, 0);
            ship(&mut steps, 1);
            store.cold(last).wait().expect("shipped");
            assert_eq!((held(&first), held(&second)), (moment.done + 12, moment.done + 12));
            if !died {
                break;
            }
        }
    }
}

#[test]
fn an_end_that_an_owner_named_past_what_a_later_one_has_is_named_anew() {
    let [first, second] = ["first", "second"].map(|name| Arc::new(MemCold::new(name)));
    let (io, to) = (created(), cold(&[&first, &second]));
    let (store, mut steps) = open(&io, &to).expect("a sound disk");
    fill(&store, &mut steps, 0..12);
    (0..2).for_each(|n| ship(&mut steps, n));
    first.set(|_, _| Fate::Fails);
    fill(&store, &mut steps, 12..24);
    while steps.ship(1).is_ok() {}
    first.heal();
    drop((store, steps));
    // It names in the second one where the tail ended, and ships nothing to the first.
    let (store, mut steps) = open(&io, &to).expect("a sound disk");
    ship(&mut steps, 1);
    drop((store, steps));
    assert_eq!((held(&first), held(&second)), (12, 24));

    let (io, _) = restored(&first);
    let (store, mut steps) = open(&io, &to).expect("taken over");
    second.set(|method, key| if method == "put" && key.starts_with("segment/") { Fate::Fails } else { Fate::Well });
    fill(&store, &mut steps, 12..15);
    for _ in 0..4 {
        let _ = steps.ship(1);
    }
    assert_eq!(held(&second), 15);
    second.heal();
    ship(&mut steps, 1);
    assert_eq!(held(&second), 15);
}

#[test]
fn a_restore_that_was_begun_is_begun_anew_where_another_moment_is_wanted() {
    let (_, cold_stores, moments) = past(1);
    let modes = [
        RestoreMode::Rewind(Some(AsOf::Lsn(moments[3].lsn))),
        RestoreMode::Rewind(Some(AsOf::Lsn(moments[9].lsn))),
        RestoreMode::Heal,
    ];
    let done = [moments[3].done, moments[9].done, 144];
    for (begun, wanted) in [(0, 1), (1, 0), (2, 0), (0, 2)] {
        for at in [3, 12, 24, 40, u32::MAX - 1] {
            let cold_store = Arc::new(copy(&cold_stores[0]));
            let io = MemIo::new();
            die_at(&cold_store, at, Fate::Fails);
            let _ = restore(&io, &cold_store, modes[begun]);
            cold_store.heal();
            let report = restore(&io, &cold_store, modes[wanted]).expect("begun anew");
            assert_eq!((report.mode, report.lost.len()), (modes[wanted], 0));
            let (store, _steps): (Store, Steps) = open(&io, &cold(&[&cold_store])).expect("taken over");
            check(&store, 0..done[wanted]);
            assert_eq!(held(&cold_store), done[wanted]);
        }
    }
}

#[test]
fn a_rewound_store_needs_its_cold_store_at_its_first_open() {
    let (_, cold_stores, moments) = past(1);
    let (io, _) = rewound(&cold_stores[0], AsOf::Lsn(moments[2].lsn));
    assert_eq!(open(&io, &ColdConfig::default()).expect_err("no owner").kind(), ErrorKind::Refused);
}

#[test]
fn what_a_rewind_carries_over_is_of_the_newest_state_and_there_before_the_store_is() {
    let (_, cold_stores, moments) = past(1);
    let Moment { lsn, done, .. } = moments[4];
    let (io, carried) = (MemIo::new(), Path::new(DIR).join(CARRIED_FILE_NAME));
    let disk: Arc<dyn Io> = Arc::new(io.clone());
    let restore = |mode, carry: &mut Carry<'_>| {
        restore_by(&disk, &*cold_stores[0], Path::new(DIR), &config(), mode, 1, &mut |_, _| {}, Some(carry))
    };
    let rewind = RestoreMode::Rewind(Some(AsOf::Lsn(lsn)));
    let refused = restore(rewind, &mut |_| Err(Error::new(ErrorKind::Damaged, "it cannot be gathered")));
    assert_eq!(refused.expect_err("the caller says so").kind(), ErrorKind::Damaged);
    assert!(open(&io, &cold(&[&cold_stores[0]])).is_err(), "the newest state alone is no store");
    for _ in 0..2 {
        let mut seen = 0;
        let report = restore(rewind, &mut |newest| {
            seen = ["a/b", "a/c", "d"]
                .iter()
                .map(|log| newest.info(log).map(|info| info.next_seq))
                .sum::<Result<u64>>()?;
            Ok(Some(b"what is past it".to_vec()))
        });
        assert_eq!((seen, report.expect("the moment can be had").last_lsn), (144, lsn));
        assert_eq!(disk.read_all(&carried, 100).expect("it is there"), b"what is past it");
    }
    restore(RestoreMode::Heal, &mut |_| panic!("nothing is past the newest state")).expect("it was not opened");
    assert!(disk.read_all(&carried, 100).is_err(), "nothing is carried into what it is of");
    restore(rewind, &mut |_| Ok(Some(b"once more".to_vec()))).expect("it was not opened");
    let (store, _steps) = open(&io, &cold(&[&cold_stores[0]])).expect("taken over");
    check(&store, 0..done);
    assert_eq!(disk.read_all(&carried, 100).expect("it is the caller's"), b"once more");
}
