//! Each byte of a small store's segments, manifest and proven journal is damaged in turn: `verify` reports it, naming
//! what it can, and no read gives anything wrong, shortened or absent: the truth, or an error that says "damaged".
//!
//! One bit of each byte is flipped, another one from byte to byte. The places of things are read from the files as
//! docs/FORMAT.md has them, without the engine's code.

use everlog::clock::Clock;
use everlog::io::Io;
use everlog::io::mem::MemIo;
use everlog::{Batch, Config, ErrorKind, ReadLimit, Steps, Store, WhenFull};
use everlog_tests::sim::SimClock;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

const DIR: &str = "/store";
const BLOCK: usize = 4096;
const LOGS: usize = 7;

type Files = BTreeMap<PathBuf, Vec<u8>>;
/// Of each log: whether it was deleted, its metadata, its first seq, its records.
type Truth = BTreeMap<String, (bool, Vec<u8>, u64, Vec<Vec<u8>>)>;

/// Where a byte lies, for what must be said of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// A chunk of records: log and seqs are known.
    Data,
    /// Anything else of a segment.
    Segment,
    /// The manifest in force.
    Manifest,
    /// A frame that a later frame's watermark covers: its LSNs are known, or its logs and seqs.
    Journal,
}

fn config() -> Config {
    Config {
        journal_file_bytes: 64 << 10,
        journal_files_max: 3,
        memory_pool_bytes: 256 << 10,
        flush_bytes: 128 << 10,
        when_full: WhenFull::Reject,
        idle_frame_after: Duration::from_millis(10),
        ..Config::default()
    }
}

fn open(io: &MemIo, clock: &Arc<SimClock>) -> everlog::Result<(Store, Steps)> {
    let clock: Arc<dyn Clock> = clock.clone();
    Store::open_stepped(Arc::new(io.clone()), clock, Path::new(DIR), config())
}

fn name(log: usize) -> String {
    format!("users/u{}/c{log}", log % 3)
}

fn payload(log: usize, i: usize) -> Vec<u8> {
    let mut bytes = format!("record {i} of log {log} ").into_bytes();
    bytes.resize(40 + (log * 131 + i * 57) % 400, b'a' + (i % 26) as u8);
    bytes
}

/// Appends `parts` batches and sees them durable; some with producers.
fn fill(store: &Store, steps: &mut Steps, from: usize, rounds: usize, truth: &mut Truth) {
    for round in from..from + rounds {
        for log in 0..LOGS {
            let (name, metadata, record) = (name(log), format!("about {log}").into_bytes(), payload(log, round));
            let mut batch = Batch::new();
            let part = batch.log(&name);
            if round == 0 {
                part.create_with(&metadata);
            }
            part.record(&record);
            if log % 2 == 0 {
                part.producer(b"device", 1, round as u64);
            }
            let ack = store.append(batch).expect("there is room");
            while !steps.commit().expect("a sound disk") {}
            drop(ack);
            let entry = truth.entry(name).or_insert((false, metadata, 0, Vec::new()));
            entry.3.push(record);
        }
    }
    settle(steps);
}

fn settle(steps: &mut Steps) {
    while steps.commit().expect("a sound disk") {}
}

/// One segment: asks for a flush and takes its steps.
fn flush(store: &Store, steps: &mut Steps) {
    let segments = store.stats().segments;
    store.flush().expect("a sound disk");
    while store.stats().segments == segments {
        steps.flush().expect("a sound disk");
        steps.commit().expect("a sound disk");
    }
}

/// The store of this test as a process left it that was killed: two segments, and a journal whose last frame is an
/// empty one that proves all the others.
fn build() -> (Files, Truth) {
    let (io, clock) = (MemIo::new(), Arc::new(SimClock::default()));
    let shared: Arc<dyn Io> = Arc::new(io.clone());
    Store::create_on(shared, clock.clone(), Path::new(DIR), &config()).expect("an empty disk");
    let (store, mut steps) = open(&io, &clock).expect("a new store");
    let mut truth = Truth::new();
    fill(&store, &mut steps, 0, 3, &mut truth);
    flush(&store, &mut steps);
    fill(&store, &mut steps, 3, 2, &mut truth);
    let deleted = name(1);
    let mut batch = Batch::new();
    batch.log(&deleted).delete();
    let mut trimmed = Batch::new();
    let trim = name(3);
    trimmed.log(&trim).trim(2);
    let acks = [batch, trimmed].map(|batch| store.append(batch).expect("there is room"));
    settle(&mut steps);
    flush(&store, &mut steps);
    truth.get_mut(&deleted).expect("it was filled").0 = true;
    let kept = truth.get_mut(&trim).expect("it was filled");
    kept.2 = 2;
    kept.3.drain(..2);
    drop(acks);
    for (log, round) in (0..4).flat_map(|round| [0, 2, 3].map(|log| (log, 10 + round))) {
        let (name, record) = (name(log), payload(log, round));
        let mut batch = Batch::new();
        batch.log(&name).record(&record);
        let ack = store.append(batch).expect("there is room");
        settle(&mut steps);
        assert!(matches!(ack.try_get(), Some(Ok(_))), "acknowledged");
        truth.get_mut(&name).expect("it was filled").3.push(record);
    }
    clock.advance(Duration::from_millis(50));
    settle(&mut steps);
    let files = io.snapshot();
    assert_eq!(store.stats().segments, 2);
    (files, truth)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes")) as usize
}

/// All places where damage must be found.
fn places(files: &Files) -> Vec<(PathBuf, usize, Place)> {
    let mut out = Vec::new();
    let newest = files.keys().filter(|path| file_name(path).starts_with("manifest-")).max().expect("a manifest");
    let manifest = &files[newest];
    out.extend((0..manifest.len()).map(|at| (newest.clone(), at, Place::Manifest)));
    // Header: magic 8, format 8, features 24, store and key 48, created 8, version, epoch, time, two lower bounds;
    // then the frame reference: journal id, offset, length (u32), frame number.
    let flushed = u64_at(manifest, 8 + 8 + 24 + 48 + 8 + 5 * 8 + 20);
    for (path, bytes) in files {
        if path.extension().is_some_and(|e| e == "seg") {
            // In the footer's body, behind 96 bytes, the sections' first blocks and numbers of blocks, data first;
            // behind the eight of them the bytes of data.
            let footer = bytes.len() - BLOCK + 32;
            let data = u64_at(bytes, footer + 96) as usize * BLOCK;
            let data = data..data + u64_at(bytes, footer + 96 + 8 * 16) as usize;
            let place = |at: usize| if data.contains(&at) { Place::Data } else { Place::Segment };
            out.extend((0..bytes.len()).map(|at| (path.clone(), at, place(at))));
        }
    }
    let mut frames = Vec::new();
    for (path, bytes) in files.iter().filter(|(path, _)| file_name(path).starts_with("journal-")) {
        let starts = (BLOCK..bytes.len()).step_by(BLOCK).filter(|at| bytes[*at..].starts_with(b"EVLGFRAM"));
        frames.extend(starts.map(|at| (u64_at(bytes, at + 48), path.clone(), at, u32_at(bytes, at + 76))));
    }
    frames.sort();
    let last = frames.last().expect("a frame").0;
    for (_, path, at, len) in frames.into_iter().filter(|frame| flushed < frame.0 && frame.0 < last) {
        out.extend((at..at + len).map(|at| (path.clone(), at, Place::Journal)));
    }
    out
}

fn file_name(path: &Path) -> std::borrow::Cow<'_, str> {
    path.file_name().expect("a file has a name").to_string_lossy()
}

/// What `verify` says, or the failure.
fn check_verify(io: &MemIo, place: Place) -> Result<(), String> {
    let findings = everlog::verify(std::sync::Arc::new(io.clone()), Path::new(DIR), &mut |_, _| ())
        .expect("the directory is listed");
    let named = |f: &&everlog::Finding| f.log.is_some() && f.seqs.is_some();
    let enough = match place {
        Place::Data => findings.iter().any(|f| named(&f)),
        Place::Journal => findings.iter().any(|f| named(&f) || f.lsns.is_some()),
        Place::Segment | Place::Manifest => !findings.is_empty(),
    };
    if enough { Ok(()) } else { Err(format!("verify says too little: {findings:?}")) }
}

/// Opens the store and reads everything: the truth or "damaged".
fn check_reads(io: &MemIo, truth: &Truth) -> Result<bool, String> {
    let store = match open(io, &Arc::new(SimClock::default())) {
        Ok((store, _steps)) => store,
        Err(e) if matches!(e.kind(), ErrorKind::Damaged | ErrorKind::Refused) => return Ok(true),
        Err(e) => return Err(format!("the open says {:?}: {e}", e.kind())),
    };
    let mut damaged = false;
    for (name, log) in truth {
        match check_log(&store, name, log) {
            Ok(()) => {}
            Err(Some(e)) if e.kind() == ErrorKind::Damaged => damaged = true,
            Err(Some(e)) => return Err(format!("log {name}: {:?}: {e}", e.kind())),
            Err(None) => return Err(format!("log {name} is not what was written")),
        }
    }
    match store.list("", None, 100) {
        Ok(logs) => {
            let listed: Vec<&String> = logs.iter().filter(|log| !log.deleted).map(|log| &log.name).collect();
            let live: Vec<&String> = truth.iter().filter(|(_, log)| !log.0).map(|(name, _)| name).collect();
            if listed != live {
                return Err(format!("listed are {listed:?}"));
            }
        }
        Err(e) if e.kind() == ErrorKind::Damaged => damaged = true,
        Err(e) => return Err(format!("the list: {:?}: {e}", e.kind())),
    }
    Ok(damaged)
}

/// An error as it came, or None where the store gave something wrong.
fn check_log(
    store: &Store, name: &str, truth: &(bool, Vec<u8>, u64, Vec<Vec<u8>>),
) -> Result<(), Option<everlog::Error>> {
    let (deleted, metadata, first, records) = truth;
    let info = store.info(name).map_err(Some)?;
    let next = first + records.len() as u64;
    let shown = (info.deleted, &info.metadata, info.next_seq);
    if shown != (*deleted, metadata, next) || (!deleted && info.first_seq != *first) {
        return Err(None);
    }
    if *deleted {
        return Ok(());
    }
    let mut at = *first;
    while at < next {
        let page = store.read(name, at, ReadLimit::default()).map_err(Some)?;
        for record in &page.records {
            let expected = records.get((record.seq - first) as usize);
            if record.seq != at || expected.is_none_or(|expected| *expected != *record.payload) {
                return Err(None);
            }
            at += 1;
        }
        if page.records.is_empty() || page.head != next {
            return Err(None);
        }
    }
    Ok(())
}

fn run(files: &Files, truth: &Truth, places: &[(PathBuf, usize, Place)]) -> (BTreeMap<Place, (u64, u64)>, Vec<String>) {
    let (io, mut counts, mut failures) = (MemIo::new(), BTreeMap::new(), Vec::new());
    for (path, at, place) in places {
        io.restore(files);
        // Another bit from byte to byte, and from block to block.
        io.flip(path, *at as u64, 1 << ((at + at / BLOCK) % 8));
        let outcome = check_verify(&io, *place).and_then(|()| check_reads(&io, truth));
        let count = counts.entry(*place).or_insert((0, 0));
        count.0 += 1;
        match outcome {
            Ok(damaged) => count.1 += u64::from(damaged),
            Err(what) => failures.push(format!("{} byte {at} ({place:?}): {what}", path.display())),
        }
        if failures.len() >= 10 {
            break;
        }
    }
    (counts, failures)
}

#[test]
fn each_damaged_byte_is_found_and_none_is_served() {
    let (files, truth) = build();
    let intact = MemIo::new();
    intact.restore(&files);
    let findings = everlog::verify(std::sync::Arc::new(intact.clone()), Path::new(DIR), &mut |_, _| ())
        .expect("the directory is listed");
    assert!(findings.is_empty(), "an intact store: {findings:?}");
    assert_eq!(check_reads(&intact, &truth), Ok(false), "an intact store is read");
    let places = places(&files);
    let halves = places.split_at(places.len() / 2);
    let results = std::thread::scope(|scope| {
        let (files, truth) = (&files, &truth);
        let threads = [halves.0, halves.1].map(|half| scope.spawn(move || run(files, truth, half)));
        threads.map(|thread| thread.join().expect("the thread's panics are printed"))
    });
    let mut counts: BTreeMap<Place, (u64, u64)> = BTreeMap::new();
    let mut failures = Vec::new();
    for (part, failed) in results {
        for (place, (bytes, noticed)) in part {
            let count = counts.entry(place).or_default();
            *count = (count.0 + bytes, count.1 + noticed);
        }
        failures.extend(failed);
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    for place in [Place::Data, Place::Segment, Place::Manifest, Place::Journal] {
        let (bytes, noticed) = counts[&place];
        eprintln!("{place:?}: {bytes} bytes, all reported by verify; {noticed} met by opening or reading");
    }
    eprintln!("{} bytes in all", places.len());
}
