//! What `verify` finds, and what it must not take for damage.

use super::*;
use crate::clock::Clock;
use crate::format::bytes::{get_u32, get_u64};
use crate::io::mem::MemIo;
use crate::io::{Done, IoQueue, Op};
use crate::sync::Mutex;
use crate::types::TimeUs;
use crate::{Batch, Config, Steps, Store, WhenFull};
use std::any::Any;
use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

const DIR: &str = "/store";

#[derive(Default)]
struct Ticks(AtomicU64);

impl Clock for Ticks {
    fn wall(&self) -> TimeUs {
        TimeUs(self.0.load(Ordering::SeqCst))
    }

    fn monotonic(&self) -> Duration {
        Duration::from_micros(self.0.load(Ordering::SeqCst))
    }
}

fn config() -> Config {
    Config {
        journal_file_bytes: 64 << 10,
        memory_pool_bytes: 256 << 10,
        flush_bytes: 128 << 10,
        when_full: WhenFull::Reject,
        merge_width: 2,
        ..Config::default()
    }
}

struct Running {
    io: MemIo,
    clock: Arc<Ticks>,
    store: Store,
    steps: Steps,
    rounds: u64,
}

impl Running {
    /// A store with a segment and, past it, a journal.
    fn new() -> Self {
        let (io, clock) = (MemIo::new(), Arc::new(Ticks::default()));
        let shared: Arc<dyn Io> = Arc::new(io.clone());
        let time = || Arc::clone(&clock) as Arc<dyn Clock>;
        Store::create_on(Arc::clone(&shared), time(), Path::new(DIR), &config()).expect("an empty disk");
        let (store, steps) = Store::open_stepped(shared, time(), Path::new(DIR), config()).expect("a new store");
        let mut running = Self { io, clock, store, steps, rounds: 0 };
        running.fill(2);
        running.flush();
        running.fill(3);
        running
    }

    /// Appends some batches of two records in each of two logs, and lets an idle frame prove them.
    fn fill(&mut self, rounds: u64) {
        for _ in 0..rounds {
            for name in ["users/a/x", "users/b/y"] {
                let payload = format!("record of round {} in {name}", self.rounds);
                let mut batch = Batch::new();
                let log = batch.log(name);
                log.create_if_missing().record(payload.as_bytes()).record(&[b'.'; 300]);
                let ack = self.store.append(batch).expect("there is room");
                self.settle();
                assert!(matches!(ack.try_get(), Some(Ok(_))), "acknowledged");
            }
            self.rounds += 1;
        }
        self.clock.0.fetch_add(50_000, Ordering::SeqCst);
        self.settle();
    }

    fn settle(&mut self) {
        while self.steps.commit().expect("a sound disk") {}
    }

    fn merge(&mut self) {
        while self.steps.merge().expect("a sound disk") {}
    }

    fn flush(&mut self) {
        let flushes = self.store.stats().flushes;
        self.store.flush().expect("it only asks");
        while self.store.stats().flushes == flushes {
            self.steps.flush().expect("a sound disk");
            self.settle();
        }
    }
}

fn run(io: &MemIo) -> Vec<Finding> {
    let (mut last, mut times) = ((0, 0), 0);
    let findings = verify(Arc::new(io.clone()), Path::new(DIR), &mut |done, total| {
        assert!(done >= last.0 && done <= total, "progress goes forward: {done} of {total}");
        last = (done, total);
        times += 1;
    });
    assert!(times > 2 && last.0 == last.1, "it ends with everything read: {last:?}");
    findings.expect("a store that can be listed")
}

/// The valid frames of the journal: file, byte offset, length, number.
fn frames(files: &BTreeMap<PathBuf, Vec<u8>>) -> Vec<(PathBuf, usize, usize, u64)> {
    let mut found = Vec::new();
    for (path, bytes) in files.iter().filter(|(path, _)| path.to_string_lossy().contains("journal-")) {
        for at in (BLOCK..bytes.len()).step_by(BLOCK).filter(|at| bytes[*at..].starts_with(b"EVLGFRAM")) {
            found.push((path.clone(), at, get_u32(bytes, at + 76) as usize, get_u64(bytes, at + 48)));
        }
    }
    found.sort_by_key(|frame| frame.3);
    found
}

fn newest_manifest(files: &BTreeMap<PathBuf, Vec<u8>>) -> Manifest {
    let path = files.keys().filter(|path| path.to_string_lossy().contains("manifest-")).max().expect("a manifest");
    Manifest::decode(&files[path]).expect("intact")
}

#[test]
fn an_intact_store_has_no_findings_running_or_closed() {
    let running = Running::new();
    assert_eq!(run(&running.io), []);
    let Running { io, steps, store, .. } = running;
    drop(store);
    steps.close().expect("a sound disk");
    assert_eq!(run(&io), []);
}

#[test]
fn a_new_store_has_no_findings_and_no_store_is_refused() {
    let io = MemIo::new();
    let none = verify(Arc::new(io.clone()), Path::new("/nowhere"), &mut |_, _| ()).expect_err("nothing is there");
    assert_eq!(none.kind(), ErrorKind::Refused);
    let clock = Arc::new(Ticks::default());
    Store::create_on(Arc::new(io.clone()), clock, Path::new(DIR), &config()).expect("an empty disk");
    assert_eq!(run(&io), []);
}

#[test]
fn damage_anywhere_is_found() {
    let running = Running::new();
    let files = running.io.snapshot();
    let flushed = newest_manifest(&files).flushed;
    let frames = frames(&files);
    let last = frames.last().expect("frames").3;
    let mut places: Vec<(PathBuf, usize)> = Vec::new();
    for (path, bytes) in &files {
        let name = path.file_name().expect("a file").to_string_lossy().into_owned();
        let is_small = name == "IDENTITY" || name.starts_with("manifest-") || name.ends_with(".seg");
        let in_use = frames.iter().any(|(file, _, _, number)| file == path && *number > flushed.frame.0);
        let range = match () {
            () if is_small => 0..bytes.len(),
            () if in_use => 0..BLOCK,
            () => continue,
        };
        places.extend(range.step_by(61).map(|at| (path.clone(), at)));
    }
    let proven = frames.iter().filter(|frame| frame.3 > flushed.frame.0 && frame.3 < last);
    for (path, at, len, _) in proven {
        places.extend((*at..at + len).step_by(61).map(|at| (path.clone(), at)));
        places.extend((*at..at + 192).map(|at| (path.clone(), at)));
    }
    assert!(places.len() > 1000);
    for (path, at) in places {
        running.io.flip(&path, at as u64, 1 << (at % 8));
        let findings = run(&running.io);
        assert!(findings.iter().any(|f| f.file == path), "{} byte {at}: {findings:?}", path.display());
        running.io.flip(&path, at as u64, 1 << (at % 8));
    }
    assert_eq!(run(&running.io), []);
}

#[test]
fn a_damaged_record_of_the_journal_is_named() {
    let running = Running::new();
    let files = running.io.snapshot();
    let needle = b"record of round 3 in users/b/y";
    let (path, at) = files
        .iter()
        .filter(|(path, _)| path.to_string_lossy().contains("journal-"))
        .find_map(|(path, bytes)| Some((path, bytes.windows(needle.len()).position(|w| w == needle)?)))
        .expect("it is in the journal");
    running.io.flip(path, at as u64 + 5, 1);
    let findings = run(&running.io);
    let range = &findings[0];
    assert!(range.lsns.as_ref().is_some_and(|lsns| lsns.end != u64::MAX && !lsns.is_empty()), "{range}");
    let named: Vec<_> = findings[1..].iter().map(|f| (f.what.contains("intact"), &f.log, f.seqs.clone())).collect();
    // The log was created before the flush, so that a segment knows its name; record 6 of it is damaged, 7 intact.
    let log = Some("users/b/y".to_owned());
    assert_eq!(named, [(true, &log, Some(7..8)), (false, &log, Some(6..7))], "{findings:#?}");
    let lsn = range.lsns.as_ref().expect("as above").start;
    assert_eq!(findings[2].lsns, Some(lsn..lsn + 1));
    assert_eq!(findings[1].lsns, Some(lsn + 1..lsn + 2));
}

#[test]
fn what_a_damaged_frame_header_hides_is_named_by_its_entries() {
    let running = Running::new();
    let files = running.io.snapshot();
    let flushed = newest_manifest(&files).flushed.frame.0;
    let all = frames(&files);
    let (path, at, ..) = all.iter().find(|frame| frame.3 == flushed + 2).expect("a frame past the flushed one");
    for byte in [0, 20, 40, 60, 72, 100, 188] {
        running.io.flip(path, (at + byte) as u64, 4);
        let findings = run(&running.io);
        let named: Vec<_> = findings.iter().filter_map(|f| Some((f.log.clone()?, f.seqs.clone()?))).collect();
        assert_eq!(named.len(), 1, "byte {byte}: {findings:#?}");
        assert_eq!(named[0].1.end - named[0].1.start, 2);
        running.io.flip(path, (at + byte) as u64, 4);
    }
}

#[test]
fn a_missing_segment_a_missing_journal_and_a_missing_identity_are_found() {
    let running = Running::new();
    let files = running.io.snapshot();
    for part in [".seg", "journal-", "IDENTITY"] {
        let mut fewer = files.clone();
        fewer.retain(|path, _| !path.to_string_lossy().contains(part));
        running.io.restore(&fewer);
        let findings = run(&running.io);
        assert_eq!(findings.len(), 1, "{part}: {findings:?}");
    }
}

/// A disk on which the store runs on while it is being read: before one operation, the store appends, flushes
/// and merges.
struct Moving {
    disk: MemIo,
    running: Mutex<Option<Running>>,
    left: AtomicU64,
    again: u64,
}

impl Io for Moving {
    fn name(&self) -> &'static str {
        "moving"
    }

    fn run(&self, op: Op) -> io::Result<Done> {
        if self.left.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.left.store(self.again, Ordering::SeqCst);
            let mut running = self.running.lock();
            let running = running.as_mut().expect("it runs");
            running.fill(4);
            running.flush();
            running.merge();
            running.fill(9);
        }
        self.disk.run(op)
    }

    fn queue(&self, depth: usize) -> io::Result<Box<dyn IoQueue>> {
        self.disk.queue(depth)
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Any + Send + Sync>>> {
        self.disk.lock(path)
    }
}

#[test]
fn a_store_that_moves_on_meanwhile_has_no_findings() {
    // Once before each operation, and again and again at several paces.
    let plans = (1..=60).map(|at| (at, 1 << 40)).chain((3..=40).map(|every| (every, every)));
    let mut never_still = Vec::new();
    for (at, again) in plans {
        let running = Running::new();
        let moving =
            Moving { disk: running.io.clone(), running: Mutex::new(Some(running)), left: AtomicU64::new(at), again };
        match verify(Arc::new(moving), Path::new(DIR), &mut |_, _| ()) {
            Ok(findings) => assert_eq!(findings, [], "moved before operation {at}, again after {again}"),
            Err(error) if error.kind() == ErrorKind::Overloaded => never_still.push(again),
            Err(error) => panic!("moved before operation {at}, again after {again}: {error}"),
        }
    }
    assert!(never_still.iter().all(|again| *again < 12), "a look of one pass is given up at {never_still:?}");
}
