//! A store under construction, on a disk in memory and by a clock that is moved by hand: what is asked for, when a
//! process ends and how, and when it flushes.
//!
//! It refuses nothing and repeats nothing: a batch that the store does not take is a mistake of the test. Invariant: the
//! oracle is told exactly what was acknowledged.

use super::listing::Listing;
use super::told::{Ask, Op, Told};
use crate::reader::Files;
use crate::sim::SimClock;
use everlog::clock::Clock;
use everlog::io::Io;
use everlog::io::mem::MemIo;
use everlog::{Ack, Batch, Config, Steps, Store, WhenFull};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// The directory of stores on a disk in memory.
pub const DIR: &str = "/store";
/// So many passes move whatever can be moved.
const PASSES_MAX: usize = 1000;

/// The smallest store.
#[must_use]
pub fn small() -> Config {
    Config {
        journal_file_bytes: 64 << 10,
        journal_files_max: 3,
        memory_pool_bytes: 512 << 10,
        flush_bytes: 128 << 10,
        heads_max: 64,
        when_full: WhenFull::Reject,
        idle_frame_after: Duration::from_millis(10),
        ..Config::default()
    }
}

/// See the module.
pub struct Maker {
    io: MemIo,
    clock: Arc<SimClock>,
    config: Config,
    open: Option<(Store, Steps)>,
    told: Told,
}

impl Maker {
    /// A store that was created and never opened.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let (io, clock) = (MemIo::new(), Arc::new(SimClock::default()));
        Store::create_on(Arc::new(io.clone()), clock.clone(), Path::new(DIR), &config).expect("an empty disk");
        Self { io, clock, config, open: None, told: Told::created() }
    }

    /// A process opens the store.
    pub fn open(&mut self) {
        let (io, clock): (Arc<dyn Io>, Arc<dyn Clock>) = (Arc::new(self.io.clone()), self.clock.clone());
        self.clock.advance(Duration::from_millis(1));
        let opened = Store::open_stepped(io, clock, Path::new(DIR), self.config.clone()).expect("nothing is damaged");
        self.told.opened(opened.0.recovery().timeline.counter);
        self.open = Some(opened);
        self.settle();
    }

    /// The process is killed.
    pub fn kill(&mut self) {
        self.open = None;
    }

    /// The process closes the store and ends.
    pub fn close(&mut self) {
        let (store, steps) = self.open.take().expect("it is open");
        self.clock.advance(Duration::from_millis(1));
        steps.close().expect("a sound disk");
        drop(store);
    }

    /// One batch, durable and acknowledged.
    pub fn append(&mut self, batch: &[Ask]) {
        let (ack, time) = self.submit(batch);
        let receipt = ack.try_get().expect("it was given time enough").expect("the store takes it");
        self.told.acknowledged(batch, time, &receipt);
    }

    /// One batch that the process that asked for it hears nothing of.
    pub fn append_unheard(&mut self, batch: &[Ask]) {
        drop(self.submit(batch));
    }

    fn submit(&mut self, batch: &[Ask]) -> (Ack, u64) {
        self.clock.advance(Duration::from_millis(1));
        let store = &self.open.as_ref().expect("it is open").0;
        let ack = store.append(in_the_engines_words(batch)).expect("there is room");
        let time = self.clock.wall().0;
        self.settle();
        (ack, time)
    }

    fn settle(&mut self) {
        let steps = &mut self.open.as_mut().expect("it is open").1;
        let moved = (0..PASSES_MAX).find(|_| !steps.commit().expect("a sound disk"));
        assert!(moved.is_some(), "the commits come to an end");
    }

    /// Nothing is asked for, until an empty frame proves all that was.
    pub fn idle(&mut self) {
        self.clock.advance(Duration::from_millis(50));
        self.settle();
    }

    /// All that is durable goes into a segment, or more than one.
    pub fn flush(&mut self) {
        let (store, steps) = self.open.as_mut().expect("it is open");
        let segments = store.stats().segments;
        store.flush().expect("a sound disk");
        for _ in 0..PASSES_MAX {
            let moved = steps.flush().expect("a sound disk") | steps.commit().expect("a sound disk");
            if !moved && store.stats().segments > segments {
                return;
            }
        }
        panic!("a flush that was asked for is not done");
    }

    /// A flush that is due by the settings, if one is.
    pub fn flush_if_due(&mut self) {
        let steps = &mut self.open.as_mut().expect("it is open").1;
        let moved =
            (0..PASSES_MAX).find(|_| !(steps.flush().expect("a sound disk") | steps.commit().expect("a sound disk")));
        assert!(moved.is_some(), "the flushes come to an end");
    }

    /// All that is durable goes into a segment, the grace passes, and merges do what they can.
    pub fn outwait(&mut self) {
        self.flush();
        self.clock.advance(self.config.grace + self.config.grace / 8);
        let steps = &mut self.open.as_mut().expect("it is open").1;
        while steps.merge().expect("a sound disk") {}
        // A segment of which more is dead than before waits for a part of the grace, since that may grow on.
        self.clock.advance(self.config.grace / 4);
        while steps.merge().expect("a sound disk") {}
        self.told.outwaited();
    }

    /// What the store was told and answered so far.
    #[must_use]
    pub fn told(&self) -> &Told {
        &self.told
    }

    /// What must be found in it.
    #[must_use]
    pub fn listing(&self) -> Listing {
        self.told.listing()
    }

    /// The bytes of its files.
    #[must_use]
    pub fn files(&self) -> Files {
        let name = |path: PathBuf| path.strip_prefix(DIR).expect("all is in the directory").to_str().map(str::to_owned);
        self.io.snapshot().into_iter().map(|(path, bytes)| (name(path).expect("a plain name"), bytes)).collect()
    }

    /// Changes the bytes on the disk, while no process has the store open.
    pub fn change(&mut self, change: impl FnOnce(&mut Files)) {
        assert!(self.open.is_none(), "nobody has it open");
        let mut files = self.files();
        change(&mut files);
        self.io.restore(&on_disk(&files));
    }
}

/// The store that `files` are, on a disk in memory.
#[must_use]
pub fn in_memory(files: &Files) -> MemIo {
    let io = MemIo::new();
    let disk: &dyn Io = &io;
    for dir in [DIR.into(), Path::new(DIR).join("segments")] {
        disk.create_dir(&dir).expect("an empty disk");
    }
    io.restore(&on_disk(files));
    io
}

/// The paths of a disk in memory for `files`.
fn on_disk(files: &Files) -> std::collections::BTreeMap<PathBuf, Vec<u8>> {
    files.iter().map(|(name, bytes)| (Path::new(DIR).join(name), bytes.clone())).collect()
}

/// The batch for the engine.
#[must_use]
pub fn in_the_engines_words(batch: &[Ask]) -> Batch<'_> {
    let mut out = Batch::new();
    for ask in batch {
        let log = out.log(&ask.log);
        for op in &ask.ops {
            match op {
                Op::Create(metadata) => log.create_with(metadata),
                Op::Fork(parent, at) => log.fork(parent, *at),
                Op::Record(payload) => log.record(payload),
                Op::Close => log.close(),
                Op::Trim(first) => log.trim(*first),
                Op::Delete => log.delete(),
                Op::Undelete => log.undelete(),
                Op::Metadata(metadata) => log.metadata(metadata),
                Op::Expire(after) => log.expire(*after),
            };
        }
        if let Some((id, epoch, number)) = &ask.producer {
            log.producer(id, *epoch, *number);
        }
        if let Some(tag) = &ask.tag {
            log.tag(tag);
        }
    }
    out
}
