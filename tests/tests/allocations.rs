//! How often an append asks the allocator for memory, once its log and its frames are known: no more than the batch itself
//! and its answer take, also where it is the first to its log behind a flush.
//!
//! The counts are those of the thread that appends; what the committer does for it counts elsewhere.

use everlog::{Ack, Batch, Config, Store};
use everlog_tests::programs::target_dir;

const APPENDS: usize = 1000;
/// Each is appended to once, so that each append is the first to its log.
const LOGS: usize = APPENDS;
/// The batch's list of logs, and the log's of operations.
const FOR_THE_BATCH: u64 = 2;
/// The cell that the acknowledgement and the committer share, and the receipt in it.
const FOR_THE_ANSWER: u64 = 2;
/// A frame that holds more than the one before it has longer lists made, and larger buffers; how many frames there are is
/// the disk's affair. One allocation more for each append would be twice this.
const FOR_FRAMES: u64 = APPENDS as u64 / 2;

#[test]
fn an_append_to_a_known_log_allocates_for_its_batch_and_its_answer_alone() {
    let dir = tempfile::Builder::new().prefix("allocations").tempdir_in(target_dir()).expect("room for a folder");
    let path = dir.path().join("store");
    Store::create(&path, &Config::small()).expect("a new folder");
    let store = Store::open(&path, Config::small()).expect("a new store opens");
    let names: Vec<String> = (0..LOGS).map(|n| format!("users/{n}/notes")).collect();
    let payload = [7; 256];
    let append = |n: usize, acks: &mut Vec<Ack>| {
        let mut batch = Batch::new();
        batch.log(&names[n % LOGS]).record(&payload);
        acks.push(store.append(batch).expect("a log that exists takes a record"));
    };
    let mut acks = Vec::with_capacity(APPENDS);
    for name in &names {
        let mut batch = Batch::new();
        batch.log(name).create();
        acks.push(store.append(batch).expect("a new log"));
    }
    for _ in 0..2 {
        acks.drain(..).for_each(|ack| drop(ack.wait().expect("durable")));
        (0..APPENDS).for_each(|n| append(n, &mut acks));
    }
    acks.drain(..).for_each(|ack| drop(ack.wait().expect("durable")));
    store.flush().expect("a sound disk");
    let counted = allocation_counter::measure(|| (0..APPENDS).for_each(|n| append(n, &mut acks)));
    acks.drain(..).for_each(|ack| drop(ack.wait().expect("durable")));
    store.close().expect("a store in use by no one closes");
    let allowed = (FOR_THE_BATCH + FOR_THE_ANSWER) * APPENDS as u64 + FOR_FRAMES;
    assert!(counted.count_total <= allowed, "{} allocations for {APPENDS} appends", counted.count_total);
    assert!(counted.count_total >= APPENDS as u64, "nothing was counted: {}", counted.count_total);
}
