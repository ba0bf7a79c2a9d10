//! How a store ends that ends otherwise than by [`Store::close`] on a sound disk: threads that cannot be started, a close
//! step by step, writes in flight after a failure, a waker that is the last to hold it.

use super::open::{Opened, open};
use super::threads::{Beside, Spawn, System, Threads};
use super::{Inner, Store};
use crate::clock::SystemClock;
use crate::commit::Batch;
use crate::config::Config;
use crate::error::ErrorKind;
use crate::io::mem::MemIo;
use crate::io::{Completion, Done, Io, IoQueue, Op, Wake};
use crate::read::ReadLimit;
use crate::sync::{Arc, AtomicBool, JoinHandle, Mutex, Ordering};
use std::any::Any;
use std::path::Path;
use std::pin::Pin;
use std::sync::mpsc::channel;
use std::task::{Context, Waker};
use std::thread::{ThreadId, current};
use std::time::{Duration, Instant};

const DIR: &str = "/store";

fn config() -> Config {
    Config { journal_file_bytes: 64 << 10, memory_pool_bytes: 4 << 20, flush_bytes: 1 << 20, ..Config::small() }
}

fn created() -> MemIo {
    let io = MemIo::new();
    Store::create_on(Arc::new(io.clone()), Arc::new(SystemClock::default()), Path::new(DIR), &config())
        .expect("an empty disk");
    io
}

fn parts(io: &(impl Io + Clone)) -> Opened {
    open(Arc::new(io.clone()), Arc::new(SystemClock::default()), Path::new(DIR), &config(), false).expect("a store")
}

fn stepped(io: &MemIo) -> (Store, super::Steps) {
    Store::open_stepped(Arc::new(io.clone()), Arc::new(SystemClock::default()), Path::new(DIR), config())
        .expect("a store, not locked by another")
}

const BESIDE: Beside = Beside { readers: 2, merges: true };

/// A system that has no more than so many threads.
struct Scarce(usize);

impl Spawn for Scarce {
    fn spawn<T: Send + 'static>(
        &mut self, name: &str, body: impl FnOnce() -> T + Send + 'static,
    ) -> std::io::Result<JoinHandle<T>> {
        if self.0 == 0 {
            return Err(std::io::ErrorKind::WouldBlock.into());
        }
        self.0 -= 1;
        System.spawn(name, body)
    }
}

#[test]
fn a_store_whose_threads_cannot_all_be_started_leaves_none_behind_and_no_lock() {
    let io = created();
    for threads in 0..6 {
        let opened = parts(&io);
        let core = Arc::clone(&opened.core);
        let error = Threads::start_by(&mut Scarce(threads), opened, &BESIDE).err().expect("one is missing");
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(error.to_string().contains("cannot be started"), "{error}");
        assert_eq!(Arc::strong_count(&core), 1, "a thread lives on, of {threads}");
        drop(core);
        drop(stepped(&io));
    }
    let opened = parts(&io);
    let core = Arc::clone(&opened.core);
    let threads = Threads::start_by(&mut Scarce(6), opened, &BESIDE).expect("enough");
    threads.stop(&core).expect("clean");
}

#[test]
fn a_close_step_by_step_ends_what_a_close_ends() {
    let io = created();
    let (store, mut steps) = stepped(&io);
    let mut batch = Batch::new();
    batch.log("log").create().record(b"0");
    let ack = store.append(batch).expect("staged");
    while ack.try_get().is_none() {
        steps.commit().expect("a sound disk");
    }
    let subscription = store.subscribe("log").expect("exists");
    steps.close().expect("clean");
    let kinds = [
        store.read("log", 0, ReadLimit::default()).map(drop),
        store.info("log").map(drop),
        store.list("", None, 10).map(drop),
        store.subscribe("log").map(drop),
        store.flush(),
        subscription.wait(1, Duration::from_secs(60)).map(drop),
        subscription.next_seq().map(drop),
    ];
    for (n, result) in kinds.into_iter().enumerate() {
        assert_eq!(result.expect_err("closed").kind(), ErrorKind::ShutDown, "call {n}");
    }
    let (again, _steps) = stepped(&io);
    assert!(again.recovery().clean);
    drop((store, subscription));
}

/// A disk whose first write in a queue fails once `failing` is set, while those behind it stay in flight until the queue
/// is dropped.
#[derive(Clone)]
struct Hanging {
    mem: MemIo,
    failing: Arc<AtomicBool>,
    /// Who dropped a queue with something in flight, and who had used it.
    dropped: Arc<Mutex<Option<[ThreadId; 2]>>>,
}

struct HangingQueue {
    disk: Hanging,
    inner: Box<dyn IoQueue>,
    in_flight: Vec<u64>,
    failed: bool,
    user: Option<ThreadId>,
}

impl Io for Hanging {
    fn name(&self) -> &'static str {
        "hanging"
    }

    fn run(&self, op: Op) -> std::io::Result<Done> {
        self.mem.run(op)
    }

    fn queue(&self, depth: usize) -> std::io::Result<Box<dyn IoQueue>> {
        let inner = self.mem.queue(depth)?;
        Ok(Box::new(HangingQueue { disk: self.clone(), inner, in_flight: Vec::new(), failed: false, user: None }))
    }

    fn lock(&self, path: &Path) -> std::io::Result<Option<Box<dyn Any + Send + Sync>>> {
        self.mem.lock(path)
    }
}

impl IoQueue for HangingQueue {
    fn submit(&mut self, id: u64, op: Op) {
        if self.disk.failing.load(Ordering::SeqCst) { self.in_flight.push(id) } else { self.inner.submit(id, op) }
    }

    fn poll(&mut self, wait: Option<Duration>, out: &mut Vec<Completion>) -> std::io::Result<()> {
        self.user = Some(current().id());
        if self.in_flight.len() > 1 && !std::mem::replace(&mut self.failed, true) {
            let id = self.in_flight.remove(0);
            out.push(Completion { id, result: Err(std::io::Error::other("the disk fails")) });
            return Ok(());
        }
        self.inner.poll(wait, out)
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.inner.waker()
    }
}

impl Drop for HangingQueue {
    fn drop(&mut self) {
        if !self.in_flight.is_empty() {
            *self.disk.dropped.lock() = self.user.map(|user| [current().id(), user]);
        }
    }
}

#[test]
fn writes_in_flight_after_a_failure_are_waited_for_by_the_thread_that_began_them() {
    let disk = Hanging { mem: created(), failing: Arc::default(), dropped: Arc::default() };
    let opened = parts(&disk);
    let core = Arc::clone(&opened.core);
    let acks: Vec<_> = (0..6)
        .map(|_| {
            let mut batch = Batch::new();
            batch.log("log").create_if_missing().record(&[7; 7000]);
            core.appender.append(&batch).expect("staged")
        })
        .collect();
    disk.failing.store(true, Ordering::SeqCst);
    let threads = Threads::start(opened).expect("threads");
    let store = Store { inner: Arc::new(Inner { core, threads: Mutex::new(Some(threads)) }) };
    for ack in acks {
        assert_eq!(ack.wait().expect_err("a write failed").kind(), ErrorKind::Unknown);
    }
    assert_eq!(store.close().expect_err("poisoned").kind(), ErrorKind::Poisoned);
    let [dropper, user] = disk.dropped.lock().take().expect("something was in flight");
    assert_eq!(dropper, user, "only the thread that began a write in a ring can wait for its end");
    assert_ne!(dropper, current().id());
}

/// Owns a store, and drops it when it is woken.
struct Owner(Mutex<Option<Store>>, std::sync::mpsc::Sender<ThreadId>);

impl std::task::Wake for Owner {
    fn wake(self: std::sync::Arc<Self>) {
        drop(self.0.lock().take());
        let _nobody_cares = self.1.send(current().id());
    }
}

#[test]
fn a_store_that_a_waker_is_the_last_to_hold_closes_nevertheless() {
    let io = created();
    let opened = parts(&io);
    let core = Arc::clone(&opened.core);
    let mut batch = Batch::new();
    batch.log("log").create().record(b"0");
    let mut ack = core.appender.append(&batch).expect("staged, and not written before the threads start");
    let (told, tells) = channel();
    let owner = std::sync::Arc::new(Owner(Mutex::new(None), told));
    let waker = Waker::from(std::sync::Arc::clone(&owner));
    let polled = Future::poll(Pin::new(&mut ack), &mut Context::from_waker(&waker));
    assert!(polled.is_pending(), "nothing is written yet");
    // Held until the store is where the waker finds it.
    let mut place = owner.0.lock();
    let threads = Threads::start(opened).expect("threads");
    *place = Some(Store { inner: Arc::new(Inner { core, threads: Mutex::new(Some(threads)) }) });
    drop(place);
    let waking = tells.recv_timeout(Duration::from_secs(60)).expect("the waker is called and comes back");
    assert_ne!(waking, current().id(), "by the store's own thread");
    let began = Instant::now();
    let (again, _steps) = loop {
        let clock = Arc::new(SystemClock::default());
        match Store::open_stepped(Arc::new(io.clone()), clock, Path::new(DIR), config()) {
            Ok(opened) => break opened,
            Err(error) if error.kind() == ErrorKind::Locked => {
                assert!(began.elapsed() < Duration::from_secs(60), "it stays locked");
            }
            Err(error) => panic!("{error}"),
        }
    };
    assert!(again.recovery().clean);
    assert_eq!(again.read("log", 0, ReadLimit::default()).expect("there").records.len(), 1);
}
