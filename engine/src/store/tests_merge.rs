//! Merges as the user of a store sees them: nothing changes but the number of segments.

use super::testing::{DIR, Erring, Fate};
use super::{LogInfo, Steps, Store};
use crate::clock::SystemClock;
use crate::config::Config;
use crate::error::{ErrorKind, Result};
use crate::io::mem::MemIo;
use crate::io::{Io, Op};
use crate::read::ReadLimit;
use crate::sync::Arc;
use crate::{Ack, Batch, Page, Receipt};
use std::collections::BTreeMap;
use std::path::Path;

const ALL: ReadLimit = ReadLimit { records: usize::MAX, bytes: usize::MAX };

fn config(merge_width: usize) -> Config {
    Config {
        journal_file_bytes: 1 << 20,
        memory_pool_bytes: 4 << 20,
        flush_bytes: 1 << 17,
        merge_width,
        ..Config::small()
    }
}

fn created(io: &(impl Io + Clone), width: usize) -> (Store, Steps) {
    Store::create_on(Arc::new(io.clone()), Arc::new(SystemClock::default()), Path::new(DIR), &config(width))
        .expect("an empty disk");
    opened(io, width)
}

fn opened(io: &(impl Io + Clone), width: usize) -> (Store, Steps) {
    Store::open_stepped(Arc::new(io.clone()), Arc::new(SystemClock::default()), Path::new(DIR), config(width))
        .expect("a store")
}

fn put<'a>(store: &Store, steps: &mut Steps, make: impl FnOnce(&mut Batch<'a>)) {
    let mut batch = Batch::new();
    make(&mut batch);
    let ack = store.append(batch).expect("staged");
    answer(&ack, steps);
}

fn answer(ack: &Ack, steps: &mut Steps) -> Receipt {
    loop {
        if let Some(answer) = ack.try_get() {
            return answer.expect("durable");
        }
        assert!(steps.commit().expect("a sound disk"), "nothing moves");
    }
}

fn flush(store: &Store, steps: &mut Steps) {
    store.flush().expect("asked");
    steps.flush().expect("a sound disk");
}

/// Bytes that do not compress.
fn noise(len: usize, salt: u8) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&[salt]).finalize_xof().fill(&mut bytes);
    bytes
}

/// One round of everything that can happen to a log, flushed.
fn round(store: &Store, steps: &mut Steps, n: u64) {
    let (number, large) = (n.to_be_bytes(), noise(50_000, n as u8));
    for log in 0..40u64 {
        let name = format!("users/{}/log", log);
        let payload = [log as u8, n as u8].repeat(20 + (log * n) as usize % 200);
        if !(log + n).is_multiple_of(3) {
            put(store, steps, |b| {
                b.log(&name).create_if_missing().record(&payload);
            });
        }
        match (log + 7 * n) % 11 {
            0 => put(store, steps, |b| _ = b.log(&name).create_if_missing().metadata(&payload[..9])),
            1 => put(store, steps, |b| _ = b.log(&name).create_if_missing().tag(&number).record(b"tagged")),
            2 if store.info(&name).is_ok_and(|i| !i.deleted) => put(store, steps, |b| _ = b.log(&name).delete()),
            3 if store.info(&name).is_ok_and(|i| i.deleted) => {
                put(store, steps, |b| _ = b.log(&name).create().metadata(b"again"))
            }
            _ => {}
        }
    }
    put(store, steps, |b| {
        b.log("producer").create_if_missing().record(&number).producer(b"phone", n / 9, n % 9);
    });
    put(store, steps, |b| _ = b.log("large").create_if_missing().record(&large));
    flush(store, steps);
}

type Seen = (BTreeMap<String, (LogInfo, std::result::Result<Page, ErrorKind>)>, Vec<String>);

fn seen(store: &Store) -> Seen {
    let names = (0..40).map(|n| format!("users/{n}/log")).chain(["producer".into(), "large".into()]);
    let logs = names.filter_map(|name| {
        let info = store.info(&name).ok()?;
        let first = info.first_seq;
        let page = store.read(&name, first, ALL).map_err(|e| e.kind());
        Some((name, (info, page)))
    });
    let listed = store.list("", None, 1000).expect("listed").into_iter().map(|info| info.name).collect();
    (logs.collect(), listed)
}

fn merge_all(steps: &mut Steps) -> Result<()> {
    while steps.merge()? {}
    Ok(())
}

fn segments(io: &MemIo) -> usize {
    io.snapshot().keys().filter(|path| path.extension().is_some_and(|e| e == "seg")).count()
}

#[test]
fn merges_change_nothing_but_the_number_of_segments() {
    let io = MemIo::new();
    let (store, mut steps) = created(&io, 3);
    for n in 0..30 {
        round(&store, &mut steps, n);
        if n % 7 == 6 {
            let before = seen(&store);
            merge_all(&mut steps).expect("a sound disk");
            assert!(seen(&store) == before, "after round {n}");
        }
    }
    merge_all(&mut steps).expect("a sound disk");
    let (stats, before) = (store.stats(), seen(&store));
    assert!(
        stats.segments < 9 && stats.merges > 6 && stats.merge_bytes_read > stats.merge_bytes_written / 2,
        "{stats:?}"
    );
    assert_eq!(segments(&io), stats.segments, "the inputs are gone");
    steps.close().expect("clean");
    drop(store);
    assert_eq!(crate::verify(Arc::new(io.clone()), Path::new(DIR), &mut |_, _| {}).expect("readable"), []);

    // What is looked up anew comes from merged segments alone.
    let (store, mut steps) = opened(&io, 3);
    assert_eq!(seen(&store).0.len(), before.0.len());
    for (name, (info, page)) in seen(&store).0 {
        let (known, records) = &before.0[&name];
        // What is told of the last change is less exact of a log that was looked up.
        assert!(info.last >= known.last, "{name}: a bound is never below what it bounds");
        assert_eq!(LogInfo { changed: known.changed, last: known.last, ..info }, *known);
        assert!(page == *records, "{name}");
    }
    // A number of the producer's from 20 segments ago is known still.
    let (mut batch, number) = (Batch::new(), 28u64.to_be_bytes());
    batch.log("producer").create_if_missing().record(&number).producer(b"phone", 3, 1);
    let ack = store.append(batch).expect("staged");
    assert!(answer(&ack, &mut steps).logs[0].duplicate);
}

#[test]
fn a_small_merge_goes_before_a_large_one_that_is_under_way() {
    let io = MemIo::new();
    let (store, mut steps) = created(&io, 2);
    let large = |store: &Store, steps: &mut Steps, n: u8| {
        for log in 0..40 {
            let (name, payload) = (format!("log{log}"), noise(20_000, n));
            put(store, steps, |b| _ = b.log(&name).create_if_missing().record(&payload));
        }
        flush(store, steps);
    };
    for n in 0..2 {
        large(&store, &mut steps, 2 * n);
        large(&store, &mut steps, 2 * n + 1);
        while store.stats().segments > usize::from(n) + 1 {
            assert!(steps.merge().expect("a sound disk"));
        }
    }
    // The merge of the two large ones is under way, and two flushes come in between.
    assert!(steps.merge().expect("a sound disk"));
    let merges = store.stats().merges;
    large(&store, &mut steps, 4);
    large(&store, &mut steps, 5);
    while store.stats().merges == merges {
        assert!(steps.merge().expect("a sound disk"));
    }
    let stats = store.stats();
    assert_eq!(stats.segments, 3, "the two small ones are one, the large ones still two");
    merge_all(&mut steps).expect("a sound disk");
    assert_eq!(store.stats().segments, 2);
    assert_eq!(store.read("log7", 0, ALL).expect("there").records.len(), 6);
}

#[test]
fn a_segment_that_cannot_be_read_is_left_alone_and_its_other_logs_are_served() {
    let io = MemIo::new();
    let (store, mut steps) = created(&io, 3);
    for n in 0..3 {
        round(&store, &mut steps, n);
    }
    steps.close().expect("clean");
    drop(store);
    let files = io.snapshot();
    let (path, mut bytes) = files
        .iter()
        .find(|(path, _)| path.ends_with("0000000000000002.seg"))
        .map(|(p, b)| (p.clone(), b.clone()))
        .expect("the second");
    let at = bytes.windows(9).rposition(|w| *w == [1, 1].repeat(5)[..9]).expect("a payload");
    bytes[at] ^= 1;
    io.restore(&files.into_iter().chain([(path, bytes)]).collect());
    let (store, mut steps) = opened(&io, 3);
    assert_eq!(steps.merge().expect_err("damaged").kind(), ErrorKind::Damaged);
    assert!(!steps.merge().expect("it is left alone"));
    let stats = store.stats();
    assert_eq!((stats.segments, stats.unreadable_segments, segments(&io)), (3, 1, 3));
    assert_eq!(store.read("users/1/log", 0, ALL).expect_err("a record is damaged").kind(), ErrorKind::Damaged);
    assert!(store.read("large", 0, ALL).is_ok());
    // Behind it merging goes on.
    for n in 3..6 {
        round(&store, &mut steps, n);
    }
    merge_all(&mut steps).expect("a sound disk");
    assert!(store.stats().segments <= 4, "{:?}", store.stats().segments);
}

#[test]
fn what_a_merge_cannot_write_is_abandoned_and_written_anew() {
    let io = Erring::default();
    let (store, mut steps) = created(&io, 3);
    for n in 0..3 {
        round(&store, &mut steps, n);
    }
    let before = seen(&store);
    io.set(|op| match op {
        Op::Open { path, .. } if path.extension().is_some_and(|e| e == "seg") => Fate::Fails(24),
        _ => Fate::Well,
    });
    for _ in 0..2 {
        assert_eq!(steps.merge().expect_err("no descriptors").kind(), ErrorKind::Io);
    }
    assert_eq!(store.stats().due_segments, 0, "appends wait for nothing that cannot be merged");
    io.set(|op| match op {
        Op::Write { .. } => Fate::Fails(28),
        _ => Fate::Well,
    });
    assert_eq!(merge_all(&mut steps).expect_err("no room").kind(), ErrorKind::Io);
    assert_eq!(segments(&io.mem), 3, "what was begun is gone");
    assert!(store.failure().is_none());
    io.heal();
    merge_all(&mut steps).expect("there is room");
    assert_eq!((store.stats().segments, segments(&io.mem)), (1, 1));
    assert!(seen(&store) == before);
}

#[test]
fn a_timeline_that_a_merge_wrote_down_is_not_noted_again_behind_what_was_not_flushed() {
    let io = MemIo::new();
    let (store, mut steps) = created(&io, 2);
    let record = |store: &Store, steps: &mut Steps, n: u8| {
        let payload = [n];
        put(store, steps, |b| _ = b.log("log").create_if_missing().record(&payload));
    };
    for n in 0..2 {
        record(&store, &mut steps, n);
        flush(&store, &mut steps);
    }
    record(&store, &mut steps, 2);
    drop((store, steps));
    let (store, mut steps) = opened(&io, 2);
    merge_all(&mut steps).expect("a sound disk");
    assert_eq!(store.stats().merges, 1);
    record(&store, &mut steps, 3);
    drop((store, steps));
    let (store, mut steps) = opened(&io, 2);
    flush(&store, &mut steps);
    let io: Arc<dyn Io> = Arc::new(io);
    let timelines = crate::manifest::load(&*io, Path::new(DIR)).expect("intact").timelines;
    let counters: Vec<u32> = timelines.iter().map(|start| start.timeline.counter).collect();
    assert_eq!(counters, [1, 2, 3, 4], "each once, oldest first");
}
