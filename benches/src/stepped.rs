//! A store whose background work is done when a bench asks for it and at no other time, on a disk or in memory: so one
//! piece of that work can be measured by itself, and always the same.
//!
//! It is never closed: when it is dropped, its files are gone. Invariant: what [`Stepped::append`] and
//! [`Stepped::settle`] return from is durable, and nothing is flushed or merged but in the calls of that name.

use crate::dir_on_disk;
use everlog::clock::SystemClock;
use everlog::io::mem::MemIo;
use everlog::io::{self, Io};
use everlog::{Ack, Batch, Config, Steps, Store};
use std::path::Path;
use std::sync::Arc;
use tempfile::TempDir;

/// Where a store lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum On {
    /// On a disk, as in production.
    Disk,
    /// In memory: what is left is the engine's own work.
    Memory,
}

impl On {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Disk, Self::Memory];

    /// As it stands in a bench's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Disk => "disk",
            Self::Memory => "memory",
        }
    }
}

/// See the module.
pub struct Stepped {
    /// The store. Others may append to it meanwhile.
    pub store: Store,
    steps: Steps,
    // Dropped last: the store's files lie in it.
    _dir: Option<TempDir>,
}

impl Stepped {
    /// A new store, opened. A flush that becomes due by `config` is made as well: let it ask for more memory than is filled.
    #[must_use]
    pub fn new(on: On, config: &Config) -> Self {
        let dir = (on == On::Disk).then(dir_on_disk);
        let io: Arc<dyn Io> = match on {
            On::Disk => io::choose(config.io).expect("some backend reaches the disk"),
            On::Memory => Arc::new(MemIo::new()),
        };
        let path = dir.as_ref().map_or_else(|| Path::new("/store").to_owned(), |dir| dir.path().join("store"));
        let clock = Arc::new(SystemClock::default());
        Store::create_on(Arc::clone(&io), clock.clone(), &path, config).expect("an empty directory takes a new store");
        let opened = Store::open_stepped(io, clock, &path, config.clone());
        let (store, steps) = opened.expect("a store just created opens");
        Self { store, steps, _dir: dir }
    }

    /// Appends a batch and sees to it that it becomes durable.
    pub fn append(&mut self, batch: Batch<'_>) {
        let ack = self.store.append(batch).expect("there is room for the batch");
        self.settle(&[ack]);
    }

    /// Sees to it that these appends become durable.
    pub fn settle(&mut self, acks: &[Ack]) {
        for ack in acks {
            let answer = loop {
                if let Some(answer) = ack.try_get() {
                    break answer;
                }
                // What does not move waits for the disk, or for a journal file.
                if !self.steps.commit().expect("a sound disk") {
                    self.prepare();
                }
            };
            answer.expect("the logs take the batch");
        }
    }

    /// Makes the journal file that is to be used next, if there is none: a flush would do it first.
    pub fn prepare(&mut self) {
        while self.steps.flush().expect("a sound disk") {}
    }

    /// Puts everything that is durable into a segment.
    pub fn flush(&mut self) {
        self.store.flush().expect("the store is open");
        assert!(self.steps.flush().expect("a sound disk"), "there was something to flush");
    }

    /// Merges until nothing is due.
    pub fn merge(&mut self) {
        while self.steps.merge().expect("a sound disk") {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_flushed_or_merged_unasked() {
        for on in On::ALL {
            let mut stepped = Stepped::new(on, &Config { merge_width: 2, ..Config::small() });
            for (segments, name) in ["a", "b"].into_iter().enumerate() {
                let mut batch = Batch::new();
                batch.log(name).create().record(b"of the same size");
                stepped.append(batch);
                let info = stepped.store.info(name).expect("it is durable");
                assert_eq!((info.next_seq, stepped.store.stats().segments), (1, segments), "{on:?}");
                stepped.flush();
            }
            assert_eq!(stepped.store.stats().segments, 2, "{on:?}");
            stepped.merge();
            assert_eq!((stepped.store.stats().segments, stepped.store.stats().merges), (1, 1), "{on:?}");
        }
    }
}
