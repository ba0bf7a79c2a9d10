//! The store when something is full or fails for good: the disk, the journal's ring, the pool, an old segment. It goes
//! on where it can; where it cannot it says so, promptly and without spinning.

use super::open::{Opened, open};
use super::threads::Threads;
use super::{Inner, Steps, Store};
use crate::clock::{Clock, SystemClock};
use crate::commit::{Ack, Batch};
use crate::config::{Config, WhenFull};
use crate::error::{ErrorKind, Result};
use crate::io::mem::MemIo;
use crate::io::{Completion, Done, Io, IoQueue, Op, OpenMode, Wake};
use crate::read::ReadLimit;
use crate::sync::{Arc, AtomicBool, Mutex, Ordering};
use std::any::Any;
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

const DIR: &str = "/store";
/// Long enough for anything that ends at all.
const PATIENCE: Duration = Duration::from_secs(60);

/// A disk in memory on which some things fail while a switch is set.
#[derive(Clone)]
struct Faulty {
    mem: MemIo,
    switches: Arc<Switches>,
}

#[derive(Default)]
struct Switches {
    /// No room for a new journal file.
    journal_full: AtomicBool,
    /// No room for a new segment.
    segments_full: AtomicBool,
    /// No room for a new manifest.
    manifests_full: AtomicBool,
    /// Manifests cannot be synced.
    manifests_broken: AtomicBool,
    /// The headers of journal files cannot be written.
    headers_broken: AtomicBool,
    /// Queues are broken.
    queue_broken: AtomicBool,
    /// Each attempt to make a segment is told here.
    attempts: Mutex<Option<Sender<()>>>,
    /// How long the committer's queue was asked to wait, each time it was.
    waits: Mutex<Vec<Duration>>,
    /// Whether a queue waits at all.
    no_waits: AtomicBool,
}

struct Queue {
    inner: Box<dyn IoQueue>,
    switches: Arc<Switches>,
}

impl IoQueue for Queue {
    fn submit(&mut self, id: u64, op: Op) {
        self.inner.submit(id, op);
    }

    fn poll(&mut self, wait: Option<Duration>, out: &mut Vec<Completion>) -> std::io::Result<()> {
        self.switches.waits.lock().extend(wait);
        if self.switches.queue_broken.load(Ordering::SeqCst) {
            return Err(std::io::Error::other("the queue is broken"));
        }
        self.inner.poll(wait.filter(|_| !self.switches.no_waits.load(Ordering::SeqCst)), out)
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.inner.waker()
    }
}

impl Io for Faulty {
    fn name(&self) -> &'static str {
        "faulty"
    }

    fn run(&self, op: Op) -> std::io::Result<Done> {
        let full = || Err(std::io::ErrorKind::StorageFull.into());
        match &op {
            Op::Allocate { .. } if self.switches.journal_full.load(Ordering::SeqCst) => return full(),
            Op::Open { path, mode: OpenMode::Create }
                if is_manifest(path) && self.switches.manifests_full.load(Ordering::SeqCst) =>
            {
                return full();
            }
            Op::Sync { file } if is_manifest(&file.path) && self.switches.manifests_broken.load(Ordering::SeqCst) => {
                return Err(std::io::Error::other("the manifest cannot be synced"));
            }
            Op::Write { file, offset: 0, durable: true, .. }
                if is_journal(&file.path) && self.switches.headers_broken.load(Ordering::SeqCst) =>
            {
                return Err(std::io::Error::other("the header cannot be written"));
            }
            Op::Open { path, mode: OpenMode::CreateDirect } if path.extension().is_some_and(|e| e == "seg") => {
                if let Some(attempts) = &*self.switches.attempts.lock() {
                    let _nobody_counts = attempts.send(());
                }
                if self.switches.segments_full.load(Ordering::SeqCst) {
                    return full();
                }
            }
            _ => {}
        }
        self.mem.run(op)
    }

    fn queue(&self, depth: usize) -> std::io::Result<Box<dyn IoQueue>> {
        Ok(Box::new(Queue { inner: self.mem.queue(depth)?, switches: Arc::clone(&self.switches) }))
    }

    fn lock(&self, path: &Path) -> std::io::Result<Option<Box<dyn Any + Send + Sync>>> {
        self.mem.lock(path)
    }
}

fn is_manifest(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("manifest-"))
}

fn is_journal(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("journal-"))
}

fn small() -> Config {
    Config {
        journal_file_bytes: 64 << 10,
        journal_files_max: 3,
        memory_pool_bytes: 16 << 20,
        flush_bytes: 8 << 20,
        idle_frame_after: Duration::from_millis(1),
        ..Config::small()
    }
}

fn created(config: &Config) -> Faulty {
    let io = Faulty { mem: MemIo::new(), switches: Arc::default() };
    Store::create_on(Arc::new(io.clone()), clock(), Path::new(DIR), config).expect("an empty disk");
    io
}

fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock::default())
}

fn stepped(io: &Faulty, config: &Config) -> (Store, Steps) {
    Store::open_stepped(Arc::new(io.clone()), clock(), Path::new(DIR), config.clone()).expect("a store")
}

fn parts(io: &Faulty, config: &Config) -> Opened {
    open(Arc::new(io.clone()), clock(), Path::new(DIR), config, false).expect("a store")
}

/// An open store with its threads.
fn running(io: &Faulty, config: &Config) -> Store {
    let opened = parts(io, config);
    let core = Arc::clone(&opened.core);
    let threads = Threads::start(opened).expect("threads");
    Store { inner: Arc::new(Inner { core, threads: Mutex::new(Some(threads)) }) }
}

fn append(store: &Store, payload: &[u8]) -> Result<Ack> {
    let mut batch = Batch::new();
    batch.log("log").create_if_missing().record(payload);
    store.append(batch)
}

fn settle(steps: &mut Steps) {
    while steps.commit().expect("a sound disk") {}
}

/// Appends and sees it durable.
fn put(store: &Store, steps: &mut Steps, payload: &[u8]) {
    let ack = append(store, payload).expect("there is room");
    settle(steps);
    ack.wait().expect("durable");
}

/// Runs `body` on a thread of its own, and fails if it does not end.
fn ends<T: Send + 'static>(what: &str, body: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, answer) = channel();
    std::thread::spawn(move || sender.send(body()));
    answer.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("{what} does not end"))
}

/// Appends more than the ring holds to a store whose flushes fail, and waits for `attempts` of them.
fn overfill(io: &Faulty, store: &Store, attempts: usize) -> Vec<Ack> {
    append(store, b"first").expect("staged").wait().expect("durable");
    let tried: Receiver<()> = {
        let (sender, receiver) = channel();
        *io.switches.attempts.lock() = Some(sender);
        receiver
    };
    io.switches.segments_full.store(true, Ordering::SeqCst);
    let acks = (0..100).map(|_| append(store, &[0; 3000]).expect("staged")).collect();
    for _ in 0..attempts {
        tried.recv_timeout(PATIENCE).expect("the flush is tried again");
    }
    acks
}

#[test]
fn a_full_disk_that_has_no_room_for_a_journal_file_is_flushed_to_nevertheless() {
    let config = Config { journal_files_max: 8, ..small() };
    let io = created(&config);
    let (store, mut steps) = stepped(&io, &config);
    steps.flush().expect("one more journal file");
    io.switches.journal_full.store(true, Ordering::SeqCst);
    for n in 0..200 {
        let ack = append(&store, &[0; 3000]).expect("there is memory");
        for _ in 0..4 {
            settle(&mut steps);
            // It fails while there is nothing to flush and no room for a file.
            let _ = steps.flush();
        }
        assert!(ack.try_get().is_some(), "append {n} waits for a journal file that a flush would free");
    }
    steps.close().expect("clean");
}

#[test]
fn a_store_goes_on_once_there_is_room_however_often_a_file_could_not_be_made() {
    let config = Config { journal_files_max: 8, ..small() };
    let io = created(&config);
    let (store, mut steps) = stepped(&io, &config);
    io.switches.journal_full.store(true, Ordering::SeqCst);
    let acks: Vec<Ack> = (0..60).map(|_| append(&store, &[0; 3000]).expect("there is memory")).collect();
    for _ in 0..usize::from(u16::MAX) + 10 {
        let _ = steps.flush();
    }
    io.switches.journal_full.store(false, Ordering::SeqCst);
    steps.close().expect("clean");
    assert!(acks.into_iter().all(|ack| ack.wait().is_ok()));
}

#[test]
fn a_committer_without_a_journal_file_waits_for_the_flush_and_not_for_the_idle_frame() {
    let config = small();
    let io = created(&config);
    let Opened { core, mut committer, mut flusher, .. } = parts(&io, &config);
    io.switches.no_waits.store(true, Ordering::SeqCst);
    let store = Store { inner: Arc::new(Inner { core, threads: Mutex::new(None) }) };
    let acks: Vec<Ack> = (0..100).map(|_| append(&store, &[0; 3000]).expect("there is memory")).collect();
    while !committer.frames().awaits_file() {
        committer.step(false);
    }
    // The idle frame is due by now, and would need a file as well.
    std::thread::sleep(config.idle_frame_after * 2);
    io.switches.waits.lock().clear();
    committer.step(true);
    assert_eq!(*io.switches.waits.lock(), [Duration::from_secs(1)]);
    let waker = committer.waker();
    while !committer.frames().is_idle() {
        flusher.step(&*waker).expect("a sound disk");
        committer.step(false);
    }
    assert!(acks.into_iter().all(|ack| ack.try_get().is_some_and(|answer| answer.is_ok())));
}

#[test]
fn a_committer_looks_for_the_idle_frame_though_a_caller_is_writing() {
    let config = Config { idle_frame_after: Duration::from_millis(20), ..small() };
    let io = created(&config);
    let Opened { core, mut committer, .. } = parts(&io, &config);
    let store = Store { inner: Arc::new(Inner { core, threads: Mutex::new(None) }) };
    let _ack = append(&store, b"written by its caller").expect("there is memory");
    let (write, more) = committer.frames().begin_led().expect("a sound disk").expect("it is staged");
    assert!(!more);
    io.switches.waits.lock().clear();
    committer.step(true);
    assert_eq!(*io.switches.waits.lock(), [config.idle_frame_after]);
    let _not_written = write;
    committer.frames().end_led();
}

#[test]
fn a_failing_flush_is_tried_again_after_growing_pauses_and_wakes_nobody_in_between() {
    let config = small();
    let io = created(&config);
    let store = running(&io, &config);
    let watch = SystemClock::default();
    let acks = overfill(&io, &store, 1);
    let began = watch.monotonic();
    io.switches.waits.lock().clear();
    let tried = {
        let (sender, receiver) = channel();
        *io.switches.attempts.lock() = Some(sender);
        receiver
    };
    for _ in 0..5 {
        tried.recv_timeout(PATIENCE).expect("the flush is tried again");
    }
    // Of the pauses of 50, 100, 200, 400 and 800 ms the first may have begun before.
    assert!(watch.monotonic().saturating_sub(began) >= Duration::from_millis(700));
    let waits = io.switches.waits.lock().len();
    assert!(waits <= 400, "the committer looked {waits} times");
    io.switches.segments_full.store(false, Ordering::SeqCst);
    for ack in acks {
        ends("an append", || ack.wait()).expect("durable once there is room");
    }
    store.close().expect("clean");
}

#[test]
fn a_broken_queue_of_a_poisoned_store_is_not_asked_without_a_pause() {
    let config = small();
    let io = created(&config);
    let Opened { core, mut committer, .. } = parts(&io, &config);
    io.switches.queue_broken.store(true, Ordering::SeqCst);
    committer.step(true);
    assert!(core.poison.is_set());
    let watch = SystemClock::default();
    let began = watch.monotonic();
    for _ in 0..4 {
        committer.step(true);
    }
    assert!(watch.monotonic().saturating_sub(began) >= Duration::from_millis(250));
}

/// The frame that needs the next journal file is in nobody's hands but the committer's when that file fails. Whoever
/// waits for it must not be told before the latch is closed, and must be told why it closed: a client that hears that
/// the store stopped, looks at it and finds nothing wrong would go on.
#[test]
fn who_waits_for_a_frame_whose_journal_file_fails_is_told_the_cause_behind_the_latch() {
    let config = small();
    let io = created(&config);
    let (store, mut steps) = stepped(&io, &config);
    steps.flush().expect("a journal file to go on in");
    io.switches.headers_broken.store(true, Ordering::SeqCst);
    let mut refused = None;
    for _ in 0..100 {
        let Ok(ack) = append(&store, &[0; 3000]) else { break };
        while steps.commit().is_ok_and(|moved| moved) {}
        refused = refused.or(ack.try_get().expect("answered").err());
    }
    let refused = refused.expect("a file of 64 KiB has no room for a hundred of these");
    assert_eq!(refused.kind(), ErrorKind::Unknown, "{refused}");
    assert!(refused.to_string().contains("the header cannot be written"), "{refused}");
    assert!(store.stats().poisoned);
}

#[test]
fn a_close_that_cannot_write_what_is_staged_says_so_and_answers_everybody() {
    let config = small();
    let io = created(&config);
    let store = running(&io, &config);
    let acks = overfill(&io, &store, 2);
    let error = ends("close", move || store.close()).expect_err("no segment can be made");
    assert_eq!(error.os_error().map(std::io::Error::kind), Some(std::io::ErrorKind::StorageFull), "{error}");
    let answers: Vec<_> = acks.into_iter().map(|ack| ends("an append", || ack.wait())).collect();
    let durable = answers.iter().filter(|answer| answer.is_ok()).count();
    assert!(durable < answers.len());
    for error in answers.into_iter().filter_map(Result::err) {
        assert_eq!(error.kind(), ErrorKind::Unknown, "{error}");
    }
    io.switches.segments_full.store(false, Ordering::SeqCst);
    let (store, _steps) = stepped(&io, &config);
    let head = store.read("log", 0, ReadLimit::default()).expect("there").head;
    assert!(head > durable as u64, "{head} records are left of {durable} and the first");
}

#[test]
fn a_stepped_close_that_cannot_write_what_is_staged_answers_everybody() {
    let config = small();
    let io = created(&config);
    let (store, steps) = stepped(&io, &config);
    io.switches.segments_full.store(true, Ordering::SeqCst);
    let acks: Vec<Ack> = (0..100).map(|_| append(&store, &[0; 3000]).expect("there is memory")).collect();
    steps.close().expect_err("no segment can be made");
    let unknown = |ack: &Ack| ack.try_get().expect("answered").is_err_and(|e| e.kind() == ErrorKind::Unknown);
    assert!(acks.last().is_some_and(unknown));
}

/// A disk often has room for the segment and none for the manifest behind it. Nothing refers to either then, and no
/// doubt is left that calls for a recovery.
#[test]
fn a_manifest_for_which_there_is_no_room_is_made_again_once_there_is() {
    let io = created(&small());
    let (store, mut steps) = stepped(&io, &small());
    put(&store, &mut steps, b"first");
    io.switches.manifests_full.store(true, Ordering::SeqCst);
    for _ in 0..3 {
        store.flush().expect("asked for");
        let error = steps.flush().expect_err("there is no room for a manifest");
        assert_eq!(error.kind(), ErrorKind::Io, "{error}");
        let left = (&io as &dyn Io).list(&crate::segment::directory(Path::new(DIR))).expect("a directory");
        assert!(left.is_empty(), "what no manifest names takes no room: {left:?}");
    }
    assert!(!store.stats().poisoned);
    put(&store, &mut steps, b"second");

    io.switches.manifests_full.store(false, Ordering::SeqCst);
    assert!(steps.flush().expect("there is room"));
    assert_eq!(store.stats().segments, 1);
    assert_eq!(store.read("log", 0, ReadLimit::default()).expect("intact").records.len(), 2);
}

#[test]
fn a_manifest_that_cannot_be_synced_poisons() {
    let io = created(&small());
    let (store, mut steps) = stepped(&io, &small());
    put(&store, &mut steps, b"first");
    io.switches.manifests_broken.store(true, Ordering::SeqCst);
    store.flush().expect("asked for");
    steps.flush().expect_err("the sync fails");
    assert!(store.stats().poisoned);
}

/// Without that, whoever appends would be accepted and hear nothing for as long as the disk stays full.
#[test]
fn a_caller_who_does_not_wait_is_turned_away_while_the_journal_is_full() {
    let io = created(&small());
    let (store, mut steps) = stepped(&io, &small());
    put(&store, &mut steps, b"first");
    io.switches.segments_full.store(true, Ordering::SeqCst);
    let mut acks = Vec::new();
    let turned_away = (0..100).find_map(|_| {
        settle(&mut steps);
        // The flush fails as soon as the ring wants one.
        let _flushed = steps.flush();
        append(&store, &[0; 3000]).map(|ack| acks.push(ack)).err()
    });
    let error = turned_away.expect("the ring is full long before memory is");
    assert_eq!(error.kind(), ErrorKind::Overloaded, "{error}");
    assert!(error.message().contains("journal"), "{error}");
    assert!(!store.stats().poisoned);

    io.switches.segments_full.store(false, Ordering::SeqCst);
    while steps.flush().expect("there is room") {}
    settle(&mut steps);
    for ack in acks {
        ack.wait().expect("what was accepted becomes durable once there is room");
    }
    put(&store, &mut steps, b"last");
}

/// Settings under which [`crowd`] finds no room behind two times `half`, though those are too little for a flush.
fn pool() -> (Config, Vec<u8>) {
    let config =
        Config { journal_file_bytes: 1 << 20, memory_pool_bytes: 512 << 10, flush_bytes: 256 << 10, ..small() };
    (config, vec![1; 100 << 10])
}

/// A batch that takes more of the pool than what is not durable of it, by its many records.
fn crowd(store: &Store) -> Result<Ack> {
    let mut batch = Batch::new();
    let log = batch.log("log");
    for _ in 0..4000 {
        log.record(b"");
    }
    store.append(batch)
}

#[test]
fn a_caller_turned_away_by_a_full_pool_has_it_flushed() {
    let (config, half) = pool();
    let io = created(&config);
    let (store, mut steps) = stepped(&io, &config);
    for _ in 0..2 {
        put(&store, &mut steps, &half);
    }
    steps.flush().expect("nothing is due but a journal file");
    assert_eq!(store.stats().segments, 0);
    assert_eq!(crowd(&store).expect_err("the pool is full").kind(), ErrorKind::Overloaded);
    assert!(steps.flush().expect("a sound disk"), "the next pass flushes");
    assert_eq!(store.stats().segments, 1);
    let ack = crowd(&store).expect("there is room now");
    steps.close().expect("clean");
    ack.wait().expect("durable");
}

#[test]
fn a_caller_who_waits_for_room_is_served_though_no_flush_is_due() {
    let (config, half) = pool();
    let config = Config { when_full: WhenFull::Wait, ..config };
    let io = created(&config);
    let store = running(&io, &config);
    for _ in 0..10 {
        for _ in 0..2 {
            append(&store, &half).expect("staged").wait().expect("durable");
        }
        let waits = store.clone();
        ends("an append", move || crowd(&waits)).expect("staged").wait().expect("durable");
    }
    ends("close", || store.close()).expect("clean");
}

#[test]
fn a_full_pool_of_a_closed_store_answers_that_it_is_closed() {
    let (config, half) = pool();
    let io = created(&config);
    let (store, mut steps) = stepped(&io, &config);
    while append(&store, &half).is_ok() {
        settle(&mut steps);
    }
    assert_eq!(append(&store, &half).expect_err("full").kind(), ErrorKind::Overloaded);
    steps.close().expect("clean");
    assert_eq!(append(&store, &half).expect_err("closed").kind(), ErrorKind::ShutDown);
}

#[test]
fn a_flush_that_finds_an_older_head_damaged_poisons() {
    let config = small();
    let io = created(&config);
    let (store, mut steps) = stepped(&io, &config);
    for n in 0..2 {
        put(&store, &mut steps, &[n; 100]);
        if n == 0 {
            store.flush().expect("asked");
            steps.flush().expect("a sound disk");
            assert_eq!(store.stats().segments, 1);
        }
    }
    steps.close().expect("clean");
    drop(store);
    let sound = io.mem.snapshot();
    let (path, bytes) = sound.iter().find(|(path, _)| path.extension().is_some_and(|e| e == "seg")).expect("flushed");
    let mut poisoned = 0;
    for offset in (0..bytes.len() as u64).step_by(64) {
        io.mem.restore(&sound);
        io.mem.flip(path, offset, 0xff);
        let opened = Store::open_stepped(Arc::new(io.clone()), clock(), Path::new(DIR), config.clone());
        let Ok((store, mut steps)) = opened else { continue };
        store.flush().expect("asked");
        let Err(error) = steps.flush() else { continue };
        assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
        poisoned += 1;
        let mut batch = Batch::new();
        batch.log("other").create().record(b"x");
        assert_eq!(store.append(batch).expect_err("poisoned").kind(), ErrorKind::Poisoned);
        steps.commit().expect_err("poisoned");
    }
    assert!(poisoned > 0, "no damage was met by a flush first");
}

#[test]
fn a_short_file_with_the_name_of_a_journal_file_is_refused_until_it_is_gone() {
    let config = small();
    let io = created(&config);
    let sound = io.mem.snapshot();
    let mut files = sound.clone();
    files.insert(Path::new(DIR).join("journal-0009"), Vec::new());
    io.mem.restore(&files);
    let opened = Store::open_stepped(Arc::new(io.clone()), clock(), Path::new(DIR), config.clone());
    let error = opened.map(drop).expect_err("it may have held anything");
    assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
    assert!(error.to_string().contains("journal-0009 was cut short"), "{error}");
    assert_eq!(io.mem.snapshot().len(), files.len(), "it is left alone");
    files = sound;
    files.insert(Path::new(DIR).join("journal-ffff"), vec![0; 64 << 10]);
    io.mem.restore(&files);
    let (store, mut steps) = stepped(&io, &config);
    put(&store, &mut steps, &[1; 3000]);
    steps.close().expect("clean");
}
