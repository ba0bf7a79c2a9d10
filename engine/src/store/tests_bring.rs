//! Restoring where the manifest is gone, listings are old, or several threads fetch.

use super::restore::restore_by;
use super::testing::DIR;
use super::tests_ship::{
    ALL, append, check, cold, config, copy, created, fill, flush, open, payload, read, restored, ship,
};
use crate::RestoreMode;
use crate::cold::ColdStore;
use crate::cold::testing::{Fate, MemCold};
use crate::error::ErrorKind;
use crate::io::Io;
use crate::io::mem::MemIo;
use crate::sync::Arc;
use crate::types::Lsn;
use crate::verify::verify_cold;
use std::collections::BTreeSet;
use std::path::Path;

/// What is there, but for the objects whose keys begin with one of `prefixes`.
fn without(of: &MemCold, prefixes: &[&str]) -> Arc<MemCold> {
    let copy = copy(of);
    copy.objects.lock().retain(|key, _| !prefixes.iter().any(|prefix| key.starts_with(prefix)));
    Arc::new(copy)
}

/// Without any version of the manifest all is restored up to `last`; the restored store takes the cold store over and ships on,
/// and what comes back then is all, too.
fn comes_back(of: &MemCold, last: Lsn, range: std::ops::Range<u32>) {
    let bare = without(of, &["manifest/"]);
    let (io, report) = restored(&bare);
    assert!(report.lost.is_empty() && report.without_manifest, "{report:?}");
    assert!(report.last_lsn >= last, "{} of {last}", report.last_lsn);
    let (store, mut steps) = open(&io, &cold(&[&bare])).expect("restored");
    check(&store, range.clone());
    // Before it came to ship a segment, its first versions are all there is.
    let (again, report) = restored(&bare);
    assert!(report.lost.is_empty() && !report.without_manifest, "{report:?}");
    assert!(report.last_lsn >= last, "{} of {last}", report.last_lsn);
    let (other, _) = open(&again, &cold(&[&Arc::new(copy(&bare))])).expect("restored");
    check(&other, range.clone());
    let more = range.end..range.end + 12;
    let lsn = fill(&store, &mut steps, more.clone());
    ship(&mut steps, 0);
    store.cold(lsn).wait().expect("cold");
    for cold_store in [Arc::new(copy(&bare)), without(&bare, &["manifest/"])] {
        let (io, report) = restored(&cold_store);
        assert!(report.lost.is_empty(), "{report:?}");
        let (again, _) = open(&io, &cold(&[&cold_store])).expect("restored");
        check(&again, range.start..more.end);
    }
}

#[test]
fn without_any_version_all_that_is_cold_comes_back_at_each_moment() {
    let cold_store = Arc::new(MemCold::new("cold"));
    let io = created();
    let (store, mut steps) = open(&io, &cold(&[&cold_store])).expect("a sound disk");
    let mut done = 0;
    for round in 0..14u32 {
        let lsn = fill(&store, &mut steps, done..done + 18);
        done += 18;
        // The tail alone, segments with a tail, segments alone that end where it does.
        if round % 3 == 1 {
            flush(&store, &mut steps);
        }
        ship(&mut steps, 0);
        if round % 3 == 2 {
            flush(&store, &mut steps);
            ship(&mut steps, 0);
        }
        while round > 5 && steps.merge().expect("a sound disk") {
            ship(&mut steps, 0);
        }
        comes_back(&cold_store, lsn, 0..done);
    }
    assert!(store.stats().merges > 0);
}

#[test]
fn without_any_version_all_comes_back_after_restarts_and_take_overs() {
    let cold_store = Arc::new(MemCold::new("cold"));
    let (mut io, mut done) = (created(), 0);
    for round in 0..7u32 {
        let (store, mut steps) = open(&io, &cold(&[&cold_store])).expect("a sound disk");
        let lsn = fill(&store, &mut steps, done..done + 15);
        done += 15;
        if round % 3 == 1 {
            flush(&store, &mut steps);
        }
        ship(&mut steps, 0);
        if round % 2 == 0 {
            steps.close().expect("clean");
        }
        drop(store);
        comes_back(&cold_store, lsn, 0..done);
        if round % 3 == 2 {
            (io, _) = restored(&cold_store);
        }
    }
}

#[test]
fn segments_alone_are_enough_where_they_hold_all() {
    let cold_store = Arc::new(MemCold::new("cold"));
    let (store, mut steps) = open(&created(), &cold(&[&cold_store])).expect("a sound disk");
    for round in 0..3 {
        fill(&store, &mut steps, round * 20..round * 20 + 20);
        flush(&store, &mut steps);
        ship(&mut steps, 0);
    }
    let bare = without(&cold_store, &["manifest/", "tail/"]);
    let (io, report) = restored(&bare);
    assert!(report.lost.is_empty(), "{report:?}");
    let (store, mut steps) = open(&io, &cold(&[&bare])).expect("restored");
    check(&store, 0..60);
    let lsn = fill(&store, &mut steps, 60..80);
    ship(&mut steps, 0);
    store.cold(lsn).wait().expect("cold");
    let (io, _) = restored(&bare);
    let (again, _) = open(&io, &cold(&[&Arc::new(copy(&bare))])).expect("restored");
    check(&again, 0..80);
}

#[test]
fn a_segment_that_an_older_owner_puts_late_is_no_part_of_what_comes_back() {
    for flushes in [false, true] {
        let cold_store = Arc::new(MemCold::new("cold"));
        let to = cold(&[&cold_store]);
        let (old, mut old_steps) = open(&created(), &to).expect("a sound disk");
        fill(&old, &mut old_steps, 0..30);
        ship(&mut old_steps, 0);
        // Local alone, and in a segment that is put without a question for the owner.
        fill(&old, &mut old_steps, 100..160);
        let (io, _) = restored(&cold_store);
        let (store, mut steps) = open(&io, &to).expect("taken over");
        let lsn = fill(&store, &mut steps, 30..45);
        if flushes {
            flush(&store, &mut steps);
        }
        ship(&mut steps, 0);
        store.cold(lsn).wait().expect("cold");
        flush(&old, &mut old_steps);
        let before = cold_store.keys("segment/").len();
        // It does not come to see the newer claim.
        cold_store.set(|method, key| {
            let is_claim = method == "get" && key.starts_with("epoch/") && key.ends_with('2');
            if is_claim { Fate::Fails } else { Fate::Well }
        });
        for _ in 0..10 {
            let _ = old_steps.ship(0);
        }
        cold_store.heal();
        assert!(cold_store.keys("segment/").len() > before, "it was put late");
        comes_back(&cold_store, lsn, 0..45);
    }
}

#[test]
fn without_any_version_what_is_missing_or_damaged_is_named() {
    let cold_store = Arc::new(MemCold::new("cold"));
    let (store, mut steps) = open(&created(), &cold(&[&cold_store])).expect("a sound disk");
    let lsns = [0, 1, 2].map(|round| {
        let lsn = fill(&store, &mut steps, round * 20..round * 20 + 20);
        flush(&store, &mut steps);
        ship(&mut steps, 0);
        lsn
    });
    let keys = cold_store.keys("segment/");
    // The tail has what the last one held.
    let bare = without(&cold_store, &["manifest/", &keys[2]]);
    comes_back(&bare, lsns[2], 0..60);
    bare.objects.lock().insert(keys[2].clone(), vec![7; 8192]);
    let (_, report) = restored(&bare);
    assert_eq!((report.lost.len(), report.last_lsn >= lsns[2]), (1, true), "{report:?}");
    let bare = without(&cold_store, &["manifest/"]);
    bare.objects.lock().get_mut(&keys[2]).expect("it is there")[5000] ^= 1;
    comes_back(&bare, lsns[2], 0..60);
    // Behind one in the middle it goes on with a frame that names one that was passed over.
    let bare = without(&cold_store, &["manifest/", &keys[1]]);
    let (io, report) = restored(&bare);
    let is_named = |lsn: &u64| report.lost.iter().any(|error| error.lsn_range().is_some_and(|lsns| lsns.contains(lsn)));
    assert!(report.last_lsn >= lsns[1] && (report.last_lsn.0 + 1..=lsns[2].0).all(|lsn| is_named(&lsn)), "{report:?}");
    let (store, _) = open(&io, &cold(&[&bare])).expect("restored in part");
    check(&store, 0..40);
    // Nothing has it.
    let bare = without(&cold_store, &["manifest/", "tail/", &keys[1]]);
    let (io, report) = restored(&bare);
    let lost: Vec<_> = report.lost.iter().map(|error| error.lsn_range()).collect();
    assert_eq!(lost, [Some(lsns[0].0 + 1..lsns[2].0 + 1)]);
    let (store, _) = open(&io, &cold(&[&bare])).expect("restored in part");
    check(&store, 0..20);
    // One that is damaged inside is read as far as that goes, if nothing else has what it holds.
    let bare = without(&cold_store, &["manifest/", "tail/"]);
    bare.objects.lock().get_mut(&keys[1]).expect("it is there")[5000] ^= 1;
    let (io, report) = restored(&bare);
    assert_eq!((report.lost.len(), report.last_lsn), (1, lsns[2]), "{report:?}");
    let (store, _) = open(&io, &cold(&[&bare])).expect("its ends are sound");
    assert_eq!(store.read("d", 19, ALL).expect("sound").records.len(), 1);
}

#[test]
fn a_listing_that_is_old_hides_nothing_while_there_is_a_version() {
    let cold_store = Arc::new(MemCold::new("cold"));
    let (mut io, mut done) = (created(), 0);
    for round in 0..5u32 {
        let (store, mut steps) = open(&io, &cold(&[&cold_store])).expect("a sound disk");
        for _ in 0..3 {
            fill(&store, &mut steps, done..done + 10);
            done += 10;
            ship(&mut steps, 0);
        }
        flush(&store, &mut steps);
        ship(&mut steps, 0);
        let lsn = append(&store, &mut steps, ["a/b", "a/c", "d"][done as usize % 3], &payload(done));
        done += 1;
        ship(&mut steps, 0);
        drop((store, steps));
        let (restored_io, report) = restored(&cold_store);
        assert!(report.lost.is_empty() && report.last_lsn >= lsn, "{report:?}");
        let (again, _) = open(&restored_io, &cold(&[&Arc::new(copy(&cold_store))])).expect("restored");
        check(&again, 0..done);
        if round == 0 {
            // From here on nothing that is put is seen in a listing.
            *cold_store.listed.lock() = Some(cold_store.keys("").into_iter().collect::<BTreeSet<_>>());
        }
        (io, _) = restored(&cold_store);
    }
}

#[test]
fn several_threads_bring_what_one_does_and_name_the_same_damage() {
    let cold_store = Arc::new(MemCold::new("cold"));
    let (store, mut steps) = open(&created(), &cold(&[&cold_store])).expect("a sound disk");
    let mut random = 1u64;
    let mut large = Vec::new();
    while large.len() < 240_000 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        large.extend(random.to_le_bytes());
    }
    for n in 0..70 {
        append(&store, &mut steps, "d", &large[n..large.len() - n]);
        flush(&store, &mut steps);
    }
    while steps.merge().expect("a sound disk") {}
    ship(&mut steps, 0);
    let segments = cold_store.keys("segment/");
    let bytes_of = |key: &String| cold_store.objects.lock()[key].len();
    let key = segments.into_iter().max_by_key(bytes_of).expect("some are there");
    let bring = |threads| {
        let (io, mut told) = (MemIo::new(), Vec::new());
        let disk: Arc<dyn Io> = Arc::new(io.clone());
        let mut progress = |done, all| told.push((done, all));
        let report =
            restore_by(&disk, &*cold_store, Path::new(DIR), &config(), RestoreMode::Heal, threads, &mut progress, None);
        (io, report, told)
    };
    for threads in [1, 2, 7] {
        let (io, report, told) = bring(threads);
        let report = report.expect("sound");
        assert!(report.lost.is_empty(), "{report:?}");
        assert!(told.is_sorted() && told.last().is_some_and(|(done, all)| done == all), "{told:?}");
        let (again, _) = open(&io, &cold(&[&Arc::new(copy(&cold_store))])).expect("restored");
        assert!(read(&again, "d") == read(&store, "d"));
    }
    cold_store.objects.lock().get_mut(&key).expect("it is there")[5000] ^= 1;
    for threads in [1, 4] {
        let (_, report, _) = bring(threads);
        assert_eq!(report.expect("the rest is sound").lost.len(), 1, "{threads}");
    }
    for at in [1, 2] {
        let mut parts = 0;
        cold_store.set(move |method, key| {
            parts += u32::from(method == "get" && key.starts_with("segment/"));
            if parts == at { Fate::Fails } else { Fate::Well }
        });
        let (_, report, _) = bring(4);
        assert_eq!(report.expect_err("out of reach").kind(), ErrorKind::Cold);
    }
}

#[test]
fn a_check_of_a_cold_store_names_what_a_restore_would_miss() {
    let cold_store = Arc::new(MemCold::new("cold"));
    let (store, mut steps) = open(&created(), &cold(&[&cold_store])).expect("a sound disk");
    fill(&store, &mut steps, 0..30);
    ship(&mut steps, 0);
    flush(&store, &mut steps);
    ship(&mut steps, 0);
    let lsn = fill(&store, &mut steps, 30..60);
    ship(&mut steps, 0);
    let verified = |cold_store: &Arc<MemCold>| {
        let (cold_store, mut told) = (Arc::clone(cold_store) as Arc<dyn ColdStore>, (0, 0));
        let report = verify_cold(&cold_store, &mut |done, all| told = (done, all)).expect("reached");
        assert_eq!((told.0, told.0), (told.1, report.segments.1));
        report
    };
    let report = verified(&cold_store);
    assert!(report.findings.is_empty() && report.last_lsn >= lsn && report.others >= 1, "{report:?}");
    // Each byte of what counts; in steps, since a segment has many.
    let (home, tail) = ("store".to_owned(), cold_store.keys("tail/").pop().expect("shipped"));
    let (segment, version) = (cold_store.keys("segment/").pop(), cold_store.keys("manifest/").pop());
    for (key, step) in [(tail, 61), (segment.expect("flushed"), 257), (version.expect("put"), 61)] {
        let len = cold_store.objects.lock()[&key].len();
        for at in (0..len).step_by(step) {
            let bare = Arc::new(copy(&cold_store));
            bare.objects.lock().get_mut(&key).expect("it is there")[at] ^= 4;
            let report = verified(&bare);
            let named = |finding: &crate::Finding| finding.file == Path::new(&key);
            assert!(report.findings.iter().any(named), "byte {at} of {key}: {report:?}");
        }
    }
    let bare = Arc::new(copy(&cold_store));
    let segment = cold_store.keys("segment/").pop().expect("flushed");
    bare.objects.lock().get_mut(&segment).expect("it is there")[4096] ^= 1;
    let in_log = verified(&bare).findings.into_iter().find(|finding| finding.seqs.is_some()).expect("a chunk");
    assert!(in_log.log.is_some_and(|log| ["a/b", "a/c", "d"].contains(&log.as_str())), "by its name");
    bare.objects.lock().remove(&segment);
    let is_named = |finding: &crate::Finding| finding.lsns.as_ref().is_some_and(|lsns| lsns.contains(&1));
    assert!(verified(&bare).findings.iter().any(is_named));
    bare.objects.lock().get_mut(&home).expect("it is there")[99] ^= 1;
    let bare = Arc::clone(&bare) as Arc<dyn ColdStore>;
    assert_eq!(verify_cold(&bare, &mut |_, _| {}).expect_err("whose it is").kind(), ErrorKind::Damaged);
}
