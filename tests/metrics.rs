//! What a commit costs, told by the engine's own counters on a real disk: one device write a frame and no sync, and
//! frames that take more batches the more clients there are.

use everlog::{Batch, Config, Stats, Store};
use std::time::{Duration, Instant};

/// Appends from `threads` threads, each waiting for each acknowledgement, for a moment.
fn load(threads: usize) -> Stats {
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the target directory is writable");
    let path = dir.path().join("store");
    let config = Config::small();
    Store::create(&path, &config).expect("a new directory");
    let store = Store::open(&path, config).expect("a new store");
    let end = Instant::now() + Duration::from_millis(400);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let store = store.clone();
            scope.spawn(move || {
                let name = format!("users/u{thread}/log");
                while Instant::now() < end {
                    let mut batch = Batch::new();
                    batch.log(&name).create_if_missing().record(&[7; 100]);
                    store.append(batch).expect("there is room").wait().expect("a sound disk");
                }
            });
        }
    });
    // Behind the close nothing is in flight, not even a frame that says that nothing happens.
    let closed = store.clone();
    store.close().expect("a sound disk");
    closed.stats()
}

fn entries_per_frame(stats: &Stats) -> f64 {
    stats.frame_entries as f64 / (stats.frames - stats.frames_empty) as f64
}

#[test]
fn a_frame_is_one_write_and_no_sync_and_grows_with_the_clients() {
    let loads = [1, 16, 64].map(|threads| (threads, load(threads)));
    for (threads, stats) in &loads {
        let mean = entries_per_frame(stats);
        eprintln!("{threads} threads: {} frames of {mean:.1} entries, {} writes", stats.frames, stats.frame_writes);
        assert!(stats.frames > 20, "{threads} threads wrote {} frames", stats.frames);
        assert_eq!(stats.frames, stats.frame_writes, "{threads} threads: one device write a frame");
        assert_eq!(stats.append_syncs, 0, "{threads} threads: no sync on the way of an append");
    }
    let [one, sixteen, sixty_four] = loads.map(|(_, stats)| entries_per_frame(&stats));
    assert!(one < 2.1, "one client's frames hold its creation or its record, and not {one:.1} entries");
    assert!(sixteen > 2.0 * one, "16 threads: {sixteen:.1} entries a frame, one thread: {one:.1}");
    assert!(sixty_four > 1.5 * sixteen, "64 threads: {sixty_four:.1} entries a frame, 16 threads: {sixteen:.1}");
}
