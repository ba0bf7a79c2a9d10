//! The scrub as the user of a store sees it: what it reads and when, and what it finds.

use super::testing::{DIR, EIO, Erring, Fate, clock};
use super::{Steps, Store};
use crate::clock::testing::Hand;
use crate::commit::Batch;
use crate::config::Config;
use crate::error::ErrorKind;
use crate::io::Op;
use crate::read::ReadLimit;
use crate::scrub::ScrubReport;
use crate::sync::{Arc, Ordering};
use crate::types::BLOCK;
use std::path::{Path, PathBuf};
use std::time::Duration;

const MIB: u64 = 1 << 20;
const ENOMEM: i32 = 12;
const DAY: u64 = 24 * 3600;

/// A store without threads, its disk and its clock.
struct World {
    io: Erring,
    clock: Arc<Hand>,
    config: Config,
    store: Store,
    steps: Steps,
}

/// A scrub that nothing holds up.
fn eager() -> Config {
    Config { scrub_bytes_per_second: u64::MAX, scrub_interval: Duration::ZERO, ..slow() }
}

/// A scrub of 1 MiB a second.
fn slow() -> Config {
    Config {
        journal_file_bytes: 8 << 20,
        memory_pool_bytes: 16 << 20,
        flush_bytes: 8 << 20,
        merge_width: 3,
        scrub_bytes_per_second: MIB,
        ..Config::small()
    }
}

impl World {
    fn new(config: Config) -> Self {
        let (io, clock) = (Erring::default(), Arc::new(Hand::default()));
        Store::create_on(Arc::new(io.clone()), clock.clone(), Path::new(DIR), &config).expect("an empty disk");
        Self::open(io, clock, config)
    }

    fn open(io: Erring, clock: Arc<Hand>, config: Config) -> Self {
        let opened = Store::open_stepped(Arc::new(io.clone()), clock.clone(), Path::new(DIR), config.clone());
        let (store, steps) = opened.expect("a sound disk");
        Self { io, clock, config, store, steps }
    }

    fn open_again(self) -> Self {
        let Self { io, clock, config, store, steps } = self;
        drop(store);
        steps.close().expect("a sound disk");
        Self::open(io, clock, config)
    }

    /// Appends a record of `len` bytes that do not compress to each of the logs, and flushes them.
    fn segment(&mut self, logs: &[&str], len: usize) {
        for log in logs {
            let mut payload = vec![0; len];
            let head = self.store.info(log).map_or(0, |info| info.next_seq);
            blake3::Hasher::new().update(log.as_bytes()).update(&[head as u8]).finalize_xof().fill(&mut payload);
            let mut batch = Batch::new();
            batch.log(log).create_if_missing().record(&payload);
            let ack = self.store.append(batch).expect("staged");
            while ack.try_get().is_none() {
                assert!(self.steps.commit().expect("a sound disk"), "nothing moves");
            }
        }
        self.store.flush().expect("asked");
        self.steps.flush().expect("a sound disk");
    }

    fn pass(&mut self, nanos: u64) {
        self.clock.0.fetch_add(nanos, Ordering::Relaxed);
    }

    fn scrubbed(&self) -> ScrubReport {
        self.store.stats().scrub
    }

    /// Scrubs until a pass has ended.
    fn whole_pass(&mut self) -> ScrubReport {
        let passes = self.scrubbed().passes;
        while self.scrubbed().passes == passes {
            self.pass(1_000_000_000);
            assert!(self.steps.scrub().expect("a sound disk"), "nothing holds it up");
        }
        self.scrubbed()
    }

    fn read(&self, log: &str) -> Result<usize, ErrorKind> {
        let all = ReadLimit { records: usize::MAX, bytes: usize::MAX };
        self.store.read(log, 0, all).map(|page| page.records.len()).map_err(|e| e.kind())
    }

    /// The segments' files, oldest first, with their contents.
    fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        self.io.mem.snapshot().into_iter().filter(|(path, _)| is_segment(path)).collect()
    }

    /// Flips a bit of the record of the log that was written by [`Self::segment`] with this seq; gives where.
    fn flip_record(&self, log: &str, seq: u8) -> (PathBuf, u64) {
        let mut needle = [0; 64];
        blake3::Hasher::new().update(log.as_bytes()).update(&[seq]).finalize_xof().fill(&mut needle);
        let place = |(path, bytes): (PathBuf, Vec<u8>)| {
            Some((path, bytes.windows(needle.len()).position(|bytes| bytes == needle)?))
        };
        let (path, at) = self.files().into_iter().find_map(place).expect("it is in a segment");
        self.io.mem.flip(&path, at as u64, 4);
        (path, at as u64)
    }
}

#[test]
fn a_pass_reads_all_segments_and_finds_nothing_where_nothing_is_wrong() {
    let mut world = World::new(eager());
    assert!(!world.steps.scrub().expect("a sound disk"), "there is no segment yet");
    assert_eq!(world.scrubbed(), ScrubReport::default());
    world.clock.set_secs(1);
    world.segment(&["users/a/x", "users/b/y"], 300_000);
    world.segment(&["users/a/x", "users/c/z"], 900_000);
    let all = world.store.stats().segment_bytes;
    assert!(world.steps.scrub().expect("a sound disk"));
    let under_way = world.scrubbed();
    assert_eq!((under_way.pass_bytes, under_way.passes), (all, 0));
    assert!((1..all).contains(&under_way.pass_bytes_done) && under_way.last_ended.is_none(), "{under_way:?}");
    let ended = world.whole_pass();
    assert!(ended.bytes >= all && ended.bytes < all + 200_000, "{} of {all} bytes", ended.bytes);
    assert_eq!((ended.passes, ended.last_ended.is_some(), ended.pass_bytes_done, ended.pass_bytes), (1, true, 0, 0));
    assert_eq!((ended.findings, ended.damaged_records, ended.failures), (vec![], 0, 0));
}

#[test]
fn a_damaged_record_is_named_by_log_and_seq_and_the_other_logs_are_read() {
    let mut world = World::new(eager());
    world.segment(&["users/a/x", "users/b/y"], 1000);
    world.segment(&["users/a/x", "users/b/y", "users/c/z"], 1000);
    // Its name stands in the segment before.
    let (path, at) = world.flip_record("users/b/y", 1);
    let found = world.whole_pass();
    let [finding] = &found.findings[..] else { panic!("one finding: {found:?}") };
    assert_eq!((&finding.file, finding.log.as_deref(), finding.seqs.clone()), (&path, Some("users/b/y"), Some(1..2)));
    assert_eq!((found.damaged_records, found.findings_left_out), (1, 0));
    assert_eq!((world.read("users/a/x"), world.read("users/c/z")), (Ok(2), Ok(1)));
    let one = |from: u64| world.store.read("users/b/y", from, ReadLimit { records: 1, bytes: 1 });
    assert!(one(0).is_ok() && one(1).is_err_and(|e| e.kind() == ErrorKind::Damaged), "before the damage, and it");
    assert_eq!(world.whole_pass().findings, found.findings, "once more, and told once");
    world.io.mem.flip(&path, at, 4);
    let mended = world.whole_pass();
    assert_eq!((mended.findings, mended.damaged_records), (vec![], 0));
}

#[test]
fn a_flipped_byte_in_any_block_of_a_segment_is_found() {
    let mut world = World::new(eager());
    world.segment(&["users/a/x", "users/b/y", "users/c/z"], 2000);
    let [(path, bytes)] = &world.files()[..] else { panic!("one segment") };
    // Header, data, index, state, lookup, root, names, meta, footer.
    assert!(bytes.len() / BLOCK >= 9, "{} bytes", bytes.len());
    for block in (0..bytes.len()).step_by(BLOCK) {
        for at in [block + 5, block + 40, block + BLOCK - 1] {
            world.io.mem.flip(path, at as u64, 1);
            let found = world.whole_pass();
            assert!(found.findings.iter().all(|finding| finding.file == *path));
            assert!(!found.findings.is_empty(), "byte {at} of {}", bytes.len());
            world.io.mem.flip(path, at as u64, 1);
        }
    }
    assert_eq!(world.whole_pass().findings, []);
}

#[test]
fn only_so_many_findings_are_listed_and_all_are_counted() {
    let mut world = World::new(eager());
    let logs: Vec<_> = (0..100).map(|n| format!("users/{n}/log")).collect();
    world.segment(&logs.iter().map(String::as_str).collect::<Vec<_>>(), 1000);
    logs.iter().for_each(|log| drop(world.flip_record(log, 0)));
    let found = world.whole_pass();
    assert_eq!((found.findings.len(), found.findings_left_out, found.damaged_records), (64, 36, 100));
}

#[test]
fn no_second_has_more_than_the_budget_and_a_pass_takes_no_longer_than_that() {
    let mut world = World::new(Config { scrub_bytes_per_second: 3 * MIB, ..slow() });
    let logs: Vec<_> = (0..40).map(|n| format!("users/{n}/log")).collect();
    for n in 1..5 {
        world.segment(&logs.iter().map(String::as_str).take(n * 10).collect::<Vec<_>>(), 150_000);
    }
    let mut read = vec![0];
    while world.scrubbed().passes == 0 {
        while world.steps.scrub().expect("a sound disk") {}
        read.push(world.scrubbed().bytes);
        world.pass(10_000_000);
    }
    let bytes = world.scrubbed().bytes;
    for second in read.windows(101) {
        assert!(second[100] - second[0] <= 3 * MIB, "{} bytes in a second", second[100] - second[0]);
    }
    // A step reads one piece of 512 KiB at least where the segment does not end.
    let seconds = read.len() as f64 / 100.0;
    assert!(seconds < bytes as f64 / (1.5 * MIB as f64) + 4.0 * 0.4, "{bytes} bytes took {seconds} s");
    assert!(world.steps.scrub().is_ok_and(|moved| !moved), "the next pass waits");
}

#[test]
fn a_large_chunk_does_not_break_the_budget() {
    let mut world = World::new(Config { journal_file_bytes: 32 << 20, flush_bytes: 32 << 20, ..roomy() });
    world.segment(&["users/a/x"], 6 << 20);
    let mut before = 0;
    while world.scrubbed().passes == 0 {
        while world.steps.scrub().expect("a sound disk") {}
        let bytes = world.scrubbed().bytes;
        assert!(bytes - before <= MIB, "{} bytes at once", bytes - before);
        before = bytes;
        world.pass(1_000_000_000);
    }
    assert!(before > 6 << 20);
}

fn roomy() -> Config {
    Config { memory_pool_bytes: 64 << 20, ..slow() }
}

#[test]
fn a_pass_begins_a_day_after_the_one_before_and_what_is_new_waits_for_it() {
    let mut world = World::new(slow());
    world.segment(&["users/a/x"], 1_500_000);
    world.segment(&["users/b/y"], 1000);
    let old = world.store.stats().segment_bytes;
    assert!(world.steps.scrub().expect("a sound disk"));
    world.segment(&["users/c/z"], 1000);
    world.flip_record("users/c/z", 0);
    while world.scrubbed().passes == 0 {
        world.pass(1_000_000_000);
        world.steps.scrub().expect("a sound disk");
        assert!(world.scrubbed().pass_bytes <= old);
    }
    assert_eq!(world.scrubbed().findings, []);
    let bytes = world.scrubbed().bytes;
    world.clock.set_secs(DAY - 1);
    assert!(!world.steps.scrub().expect("a sound disk"));
    assert_eq!(world.scrubbed().bytes, bytes);
    world.clock.set_secs(DAY);
    while world.scrubbed().passes == 1 {
        world.steps.scrub().expect("a sound disk");
        world.pass(1_000_000_000);
    }
    let findings = world.scrubbed().findings;
    assert_eq!(findings.iter().map(|f| f.log.as_deref()).collect::<Vec<_>>(), [Some("users/c/z")]);
}

#[test]
fn a_pass_goes_on_over_a_merge_and_forgets_what_is_merged_away() {
    let mut world = World::new(Config { scrub_interval: Duration::from_secs(DAY), ..eager() });
    for _ in 0..2 {
        world.segment(&["users/a/x", "users/b/y"], 2_000_000);
    }
    // A filter is nothing that a merge reads.
    let (path, bytes) = world.files().swap_remove(0);
    let lookup = bytes.chunks(BLOCK).rposition(|block| block[4] == 3).expect("a lookup block");
    world.io.mem.flip(&path, (lookup * BLOCK + 100) as u64, 1);
    while world.scrubbed().findings.is_empty() {
        world.pass(1);
        assert!(world.steps.scrub().expect("a sound disk"), "it is to be found");
    }
    let before = world.scrubbed();
    assert!(before.passes == 0 && before.pass_bytes_done < before.pass_bytes, "{before:?}");
    world.segment(&["users/a/x", "users/b/y"], 2_000_000);
    while world.steps.merge().expect("a filter is not asked") {}
    assert!(world.store.stats().merges > 0);
    world.pass(1_000_000_000);
    world.steps.scrub().expect("a sound disk");
    assert_eq!(world.scrubbed().findings, [], "it is gone");
    if world.scrubbed().passes == 0 {
        world.whole_pass();
    }
    let ended = world.scrubbed();
    assert_eq!((ended.passes, ended.findings, ended.failures), (1, vec![], 0));
    assert_eq!(world.read("users/a/x"), Ok(3));
}

#[test]
fn an_open_begins_a_new_pass() {
    let mut world = World::new(slow());
    world.segment(&["users/a/x"], 1_500_000);
    world.flip_record("users/a/x", 0);
    while world.scrubbed().passes == 0 {
        world.steps.scrub().expect("a sound disk");
        world.pass(1_000_000_000);
    }
    let found = world.scrubbed().findings;
    assert_eq!(found.len(), 1);
    let mut world = world.open_again();
    assert_eq!(world.scrubbed(), ScrubReport::default());
    while world.scrubbed().passes == 0 {
        world.steps.scrub().expect("a sound disk");
        world.pass(1_000_000_000);
    }
    assert_eq!(world.scrubbed().findings, found);
}

#[test]
fn a_read_that_fails_for_want_of_memory_is_told_and_is_no_damage() {
    let mut world = World::new(slow());
    world.segment(&["users/a/x", "users/b/y"], 700_000);
    // At each read of the pass.
    let mut n = 0;
    loop {
        let mut left = n;
        world.io.set(move |op| {
            let counts = matches!(op, Op::Read { file, .. } if is_segment(&file.path));
            left -= i64::from(counts);
            // A piece is tried again block by block, a block of the page cache past it.
            if counts && (-4..0).contains(&left) { Fate::Fails(ENOMEM) } else { Fate::Well }
        });
        let (passes, failures) = (world.scrubbed().passes, world.scrubbed().failures);
        while world.scrubbed().passes == passes {
            match world.steps.scrub() {
                Ok(moved) => assert!(!moved || world.scrubbed().error.is_none()),
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Io);
                    assert!(world.scrubbed().error.is_some_and(|told| told == error.to_string()));
                    assert!(!world.steps.scrub().expect("it waits"), "it is not tried again at once");
                }
            }
            assert_eq!(world.scrubbed().findings, [], "no damage");
            world.pass(1_000_000_000);
        }
        if world.scrubbed().failures == failures {
            break;
        }
        world.pass(DAY * 1_000_000_000);
        n += 1;
    }
    assert!(n > 4, "{n} reads failed");
}

#[test]
fn a_sector_that_the_device_cannot_read_is_found_with_the_records_in_it() {
    let mut world = World::new(eager());
    world.segment(&["users/a/x", "users/b/y"], 30_000);
    let (_, bytes) = world.files().remove(0);
    let mut needle = [0; 64];
    blake3::Hasher::new().update(b"users/b/y").update(&[0]).finalize_xof().fill(&mut needle);
    let bad = bytes.windows(64).position(|bytes| bytes == needle).expect("there") as u64 / 4096 * 4096;
    world.io.set(move |op| match op {
        Op::Read { file, offset, buf } if is_segment(&file.path) => {
            let hit = (*offset..offset + buf.capacity() as u64).contains(&bad);
            if hit { Fate::Fails(EIO) } else { Fate::Well }
        }
        _ => Fate::Well,
    });
    let found = world.whole_pass();
    assert!(found.findings.iter().any(|f| f.offset == Some(bad) && f.what.contains("cannot be read")), "{found:?}");
    let named = found.findings.iter().any(|f| f.log.as_deref() == Some("users/b/y") && f.seqs == Some(0..1));
    assert!(named && found.error.is_none(), "{found:?}");
}

#[test]
fn a_store_that_wants_no_scrub_has_none() {
    let mut world = World::new(Config { scrub_bytes_per_second: 0, ..eager() });
    world.segment(&["users/a/x"], 1000);
    assert!(!world.steps.scrub().expect("nothing is read"));
    assert_eq!(world.scrubbed(), ScrubReport::default());
    for (bytes, is_right) in [(1, false), (MIB - 1, false), (MIB, true)] {
        let config = Config { scrub_bytes_per_second: bytes, ..eager() };
        assert_eq!(config.check().is_ok(), is_right, "{bytes}");
    }
}

/// Closes the store of a world, and opens it with its threads and a clock that runs.
fn run(world: World) -> Store {
    let World { io, config, store, steps, .. } = world;
    drop(store);
    steps.close().expect("a sound disk");
    Store::open_on(Arc::new(io), clock(), Path::new(DIR), config).expect("a sound disk")
}

#[test]
fn a_thread_scrubs_and_ends_with_the_store() {
    let mut world = World::new(Config { scrub_interval: Duration::from_secs(DAY), ..eager() });
    world.segment(&["users/a/x", "users/b/y"], 1000);
    world.flip_record("users/b/y", 0);
    let store = run(world);
    while store.stats().scrub.passes == 0 {
        std::thread::yield_now();
    }
    assert_eq!(store.stats().scrub.damaged_records, 1);
    assert!(store.failure().is_none(), "damage stops no appends");
    store.close().expect("clean");
}

#[test]
fn a_scrub_that_panics_poisons() {
    let mut world = World::new(eager());
    world.segment(&["users/a/x"], 1000);
    // What reads from a segment at offset 0 is the scrub alone.
    world.io.set(|op| match op {
        Op::Read { file, offset: 0, .. } if is_segment(&file.path) => Fate::Panics,
        _ => Fate::Well,
    });
    let store = run(world);
    while store.failure().is_none() {
        std::thread::yield_now();
    }
    assert_eq!(store.close().expect_err("a thread panicked").kind(), ErrorKind::Poisoned);
}

fn is_segment(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "seg")
}

#[test]
fn an_interval_without_end_ends_no_store() {
    let mut world = World::new(Config { scrub_interval: Duration::MAX, ..eager() });
    world.segment(&["users/a/x"], 1000);
    world.whole_pass();
    world.pass(1_000_000_000);
    assert!(!world.steps.scrub().expect("a sound disk"), "one pass is all");
    assert_eq!(world.scrubbed().passes, 1);
}
