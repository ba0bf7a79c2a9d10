//! Load far beyond what the disk takes, on the engine and on the server: memory stays bounded, what is turned away is told
//! so, what was acknowledged is there afterwards, and service goes on.
//!
//! Each test offers its load for EVERLOG_OVERLOAD_SECONDS, 30 if it is not set; the one of the engine ends before that if
//! a GiB was taken. What this does not do: it measures no speed.

use everlog::{Batch, Config, ErrorKind, ReadLimit, Store, WhenFull};
use everlog_tests::net::{Server, ask, try_ask};
use everlog_tests::programs::target_dir;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

/// One test at a time: each measures memory.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    // A test that failed before is no reason for this one to.
    ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// Set once the engine's test has the process for itself.
static ENGINE_BEGAN: AtomicBool = AtomicBool::new(false);

/// The engine's test goes first, if it is run: the hundreds of clients of the other leave the allocator's memory in pieces,
/// and what fills these again would count as the engine's.
fn alone_after_the_engine() -> MutexGuard<'static, ()> {
    let until = Instant::now() + Duration::from_secs(5);
    while !ENGINE_BEGAN.load(Ordering::SeqCst) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(10));
    }
    alone()
}

fn seconds() -> Duration {
    let seconds = std::env::var("EVERLOG_OVERLOAD_SECONDS").map_or(30, |s| s.parse().expect("a number"));
    Duration::from_secs(seconds)
}

/// Resident memory of a process, in bytes.
fn rss(pid: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is there");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("every process has it");
    let kib: u64 = line.split_whitespace().nth(1).expect("a number").parse().expect("a number");
    kib << 10
}

/// A payload that says which it is, and from end to end.
fn payload(n: u64, bytes: usize) -> Vec<u8> {
    n.to_le_bytes().repeat(bytes / 8)
}

/// The numbers of the records of a closed store's log; each is whole, and none is there twice.
fn numbers(data: &Path, log: &str, bytes: usize) -> BTreeSet<u64> {
    let store = Store::open(data, Config::small()).expect("a sound store");
    let (mut found, mut from) = (BTreeSet::new(), 0);
    loop {
        let page = store.read(log, from, ReadLimit { records: 64, bytes: 8 << 20 }).expect("readable");
        for record in page.records {
            let n = u64::from_le_bytes(record.payload[..8].try_into().expect("eight bytes"));
            assert!(record.payload == payload(n, bytes), "record {n} is whole");
            assert!(found.insert(n), "record {n} is there twice");
        }
        from = page.next_seq;
        if from == page.head {
            return found;
        }
    }
}

#[test]
fn an_engine_under_ten_times_its_load_turns_away_and_keeps_what_it_acknowledged() {
    let _alone = alone();
    ENGINE_BEGAN.store(true, Ordering::SeqCst);
    const BYTES: usize = 16 << 10;
    let dir = tempfile::Builder::new().prefix("overload").tempdir_in(target_dir()).expect("room for a folder");
    let config = Config { when_full: WhenFull::Reject, ..Config::small() };
    // Buffers may be twice as long as what they hold, half as many may be kept, and a flush holds a segment's tables.
    let bound = rss("self") + config.memory_pool_bytes as u64 * 5 / 2 + (64 << 20);
    Store::create(dir.path(), &config).expect("an empty folder");
    let store = Store::open(dir.path(), config).expect("a new store");
    let (next, until) = (AtomicU64::new(0), Instant::now() + seconds());
    let (taken, turned_away, highest) = (AtomicU64::new(0), AtomicU64::new(0), AtomicU64::new(0));
    // The disk is given no more than the first GiB; from there on everything is load.
    let acknowledged: Vec<u64> = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let (mut acks, mut acknowledged) = (Vec::new(), Vec::new());
                    while Instant::now() < until && taken.load(Ordering::Relaxed) < (1 << 30) / BYTES as u64 {
                        let n = next.fetch_add(1, Ordering::Relaxed);
                        let bytes = payload(n, BYTES);
                        let mut batch = Batch::new();
                        batch.log("log").create_if_missing().record(&bytes);
                        match store.append(batch) {
                            Ok(ack) => {
                                taken.fetch_add(1, Ordering::Relaxed);
                                acks.push((n, ack));
                            }
                            Err(error) => {
                                assert_eq!(error.kind(), ErrorKind::Overloaded, "{error}");
                                assert!(error.retry_after().is_some(), "{error}");
                                turned_away.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                        acks.retain(|(n, ack)| match ack.try_get() {
                            None => true,
                            Some(answer) => {
                                answer.expect("what was taken becomes durable");
                                acknowledged.push(*n);
                                false
                            }
                        });
                    }
                    for (n, ack) in acks {
                        ack.wait().expect("what was taken becomes durable");
                        acknowledged.push(n);
                    }
                    acknowledged
                })
            })
            .collect();
        while clients.iter().any(|client| !client.is_finished()) {
            highest.fetch_max(rss("self"), Ordering::Relaxed);
            std::thread::yield_now();
        }
        clients.into_iter().flat_map(|client| client.join().expect("no panic")).collect()
    });
    let (taken, turned_away) = (taken.into_inner(), turned_away.into_inner());
    let highest = highest.into_inner();
    eprintln!("taken {taken}, turned away {turned_away}, at most {} MiB", highest >> 20);
    assert_eq!(acknowledged.len() as u64, taken);
    assert_eq!(store.stats().overloads, turned_away);
    assert!(turned_away > 10 * taken / 2, "the load was far beyond: {turned_away} turned away of {taken} taken");
    assert!(highest < bound, "{} MiB of at most {} MiB", highest >> 20, bound >> 20);
    store.close().expect("clean");
    let found = numbers(dir.path(), "log", BYTES);
    assert!(acknowledged.iter().all(|n| found.contains(n)), "what was acknowledged is there");
    assert_eq!(found.len(), acknowledged.len(), "what was turned away is not");
}

/// What everlogd takes at most with its default settings: 256 MiB for bodies, the pool of 128 MiB in buffers that may be
/// twice as long, half of it kept for later, and 128 MiB for everything else.
const SERVER_RSS_MAX: u64 = (256 + 2 * 128 + 64 + 128) << 20;

mod traced {
    use super::*;

    #[test]
    fn a_server_on_a_slow_disk_turns_away_and_keeps_what_it_acknowledged() {
        let _alone = alone_after_the_engine();
        const BYTES: usize = 1 << 20;
        const STREAM: &str = "/v1/stream/users/a/notes";
        const TYPE: [(&str, &str); 1] = [("Content-Type", "application/octet-stream")];
        let dir = tempfile::Builder::new().prefix("overload").tempdir_in(target_dir()).expect("room for a folder");
        let data = dir.path().join("store");
        Store::create(&data, &Config::default()).expect("a new folder");
        let log = dir.path().join("strace");
        // A disk that takes a quarter of a second for each frame.
        let through = [
            "strace",
            "-D",
            "-f",
            "--seccomp-bpf",
            "-qqq",
            "-e",
            "signal=none",
            "-o",
            log.to_str().expect("a plain path"),
            "-e",
            "trace=pwritev2",
            "-e",
            "inject=pwritev2:delay_enter=250000",
        ];
        let server = Server::start_under(&through, &data, &["--io", "posix"]);
        let address = server.address();
        assert_eq!(ask(address, "PUT", STREAM, &TYPE, b"").status, 201);
        let (next, until, over) = (AtomicU64::new(0), Instant::now() + seconds(), AtomicBool::new(false));
        let (acknowledged, turned_away) = (Mutex::new(BTreeSet::new()), AtomicU64::new(0));
        let mut highest = 0;
        std::thread::scope(|scope| {
            for _ in 0..320 {
                scope.spawn(|| {
                    while Instant::now() < until {
                        let n = next.fetch_add(1, Ordering::Relaxed);
                        let answer = try_ask(address, "POST", STREAM, &TYPE, &payload(n, BYTES)).expect("an answer");
                        match answer.status {
                            204 => {
                                acknowledged.lock().expect("no panic").insert(n);
                            }
                            429 => {
                                assert_eq!(answer.header("everlog-error"), "overloaded");
                                assert_eq!(answer.header("retry-after"), "1");
                                turned_away.fetch_add(1, Ordering::Relaxed);
                            }
                            _ => panic!("{answer:?}"),
                        }
                    }
                });
            }
            scope.spawn(|| {
                // Reads go on all the while.
                while Instant::now() < until {
                    assert_eq!(ask(address, "HEAD", STREAM, &[], b"").status, 200);
                    assert_eq!(ask(server.admin_address(), "GET", "/healthz", &[], b"").status, 200);
                }
                over.store(true, Ordering::Relaxed);
            });
            while !over.load(Ordering::Relaxed) {
                highest = highest.max(rss(&server.pid().to_string()));
                std::thread::yield_now();
            }
        });
        let acknowledged = acknowledged.into_inner().expect("no panic");
        let turned_away = turned_away.into_inner();
        eprintln!("acknowledged {}, turned away {turned_away}, at most {} MiB", acknowledged.len(), highest >> 20);
        assert!(!acknowledged.is_empty() && turned_away > 0, "{} and {turned_away}", acknowledged.len());
        assert!(highest < SERVER_RSS_MAX, "{} MiB of at most {} MiB", highest >> 20, SERVER_RSS_MAX >> 20);
        let last = next.fetch_add(1, Ordering::Relaxed);
        assert_eq!(ask(address, "POST", STREAM, &TYPE, &payload(last, BYTES)).status, 204, "service goes on");
        let (status, log) = server.stop();
        assert_eq!(status.code(), Some(0), "{log}");
        let found = numbers(&data, "users/a/notes", BYTES);
        assert!(acknowledged.iter().chain([&last]).all(|n| found.contains(n)), "what was acknowledged is there");
        assert_eq!(found.len(), acknowledged.len() + 1, "what was turned away is not");
    }
}
