//! A process that changes its working directory while a store is open that it named relative to it. Alone in its program:
//! the working directory is every thread's.

use everlog::{Batch, Config, ReadLimit, ReadOnly, Store};
use everlog_tests::programs::target_dir;

#[test]
fn a_process_that_changes_its_directory_keeps_its_store() {
    let scratch = tempfile::Builder::new().prefix("directory").tempdir_in(target_dir()).expect("room for a folder");
    let elsewhere = scratch.path().join("elsewhere");
    std::fs::create_dir(&elsewhere).expect("a new folder");
    std::env::set_current_dir(scratch.path()).expect("it is there");
    Store::create("store", &Config::small()).expect("an empty folder");
    let store = Store::open("store", Config::small()).expect("a new store");
    let shown = ReadOnly::open("store").expect("a store is there");

    std::env::set_current_dir(&elsewhere).expect("it is there");
    let mut batch = Batch::new();
    batch.log("log").create_if_missing().record(b"one");
    store.append(batch).expect("taken").wait().expect("durable");
    store.flush().expect("the segment and the manifest find their places");
    assert_eq!(store.read("log", 0, ReadLimit::default()).expect("it is there").records.len(), 1);
    store.close().expect("the close frame finds its file");
    drop(shown);

    let again = Store::open(scratch.path().join("store"), Config::small()).expect("it was closed");
    assert_eq!(again.read("log", 0, ReadLimit::default()).expect("it is there").records.len(), 1);
    assert_eq!(std::fs::read_dir(&elsewhere).expect("it is there").count(), 0, "nothing was put elsewhere");
}
