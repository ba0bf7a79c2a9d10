//! Many logs in one store: what it costs follows the work done and not the logs that exist.

use everlog::{Ack, Batch, Config, ReadLimit, Store};
use everlog_tests::programs::target_dir;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

const LOGS: u32 = 60_000;
const ROUNDS: u32 = 3;
/// What the store as a whole may have open at once.
const DESCRIPTORS_MAX: usize = 1000;

fn name(n: u32) -> String {
    format!("users/{:08x}/notes", n.wrapping_mul(0x9e37_79b1))
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").expect("the system lists them").count()
}

/// Appends one record to each log, the acknowledgements following behind; gives the most descriptors that were seen.
fn round(store: &Store, number: u32) -> usize {
    let mut most = 0;
    let mut acks: VecDeque<Ack> = VecDeque::new();
    for n in 0..LOGS {
        let (name, payload) = (name(n), blake3::hash(&(n ^ number << 20).to_le_bytes()));
        let mut batch = Batch::new();
        batch.log(&name).create_if_missing().record(payload.as_bytes());
        acks.push_back(store.append(batch).expect("staged"));
        if acks.len() > 1000 {
            acks.pop_front().expect("there are some").wait().expect("durable");
        }
        if n % 512 == 0 {
            most = most.max(descriptors());
        }
    }
    acks.into_iter().for_each(|ack| drop(ack.wait().expect("durable")));
    most
}

#[test]
fn sixty_thousand_logs_take_few_descriptors_and_little_to_open_and_each_lies_in_few_runs() {
    let dir = tempfile::Builder::new().prefix("many").tempdir_in(target_dir()).expect("room for a folder");
    let config = Config { flush_bytes: 2 << 20, merge_width: 4, ..Config::small() };
    Store::create(dir.path(), &config).expect("an empty directory");
    let store = Store::open(dir.path(), config.clone()).expect("a store");
    let most = (0..ROUNDS).map(|number| round(&store, number)).max().expect("rounds");
    assert!(most < DESCRIPTORS_MAX, "{most} descriptors");
    store.flush().expect("flushed");
    let patience = Instant::now() + Duration::from_secs(60);
    while store.stats().due_segments > 0 || store.stats().merges_under_way > 0 {
        assert!(Instant::now() < patience, "merges catch up: {:?}", store.stats());
        std::thread::sleep(Duration::from_millis(20));
    }
    let stats = store.stats();
    // Enough of both that what follows says something; how many depends on how fast merges are beside the appends.
    assert!(stats.flushes > 20 && stats.merges > 3, "{stats:?}");
    assert!(stats.heads < 4 * config.heads_max, "{} heads", stats.heads);
    store.close().expect("clean");

    let store = Store::open(dir.path(), config).expect("a store");
    assert_eq!(store.stats().heads, 0, "no log is looked at by an open");
    let before = store.stats();
    for n in (0..LOGS).step_by(97) {
        let page = store.read(&name(n), 0, ReadLimit::default()).expect("there");
        assert_eq!(page.records.len(), ROUNDS as usize);
        for (number, record) in (0..ROUNDS).zip(&page.records) {
            assert_eq!(record.payload, blake3::hash(&(n ^ number << 20).to_le_bytes()).as_bytes());
        }
    }
    let after = store.stats();
    let runs = (after.read_runs - before.read_runs) as f64 / (after.reads - before.reads) as f64;
    assert!(after.segments <= 24 && runs <= f64::from(ROUNDS), "{runs} runs a log in {} segments", after.segments);
}
