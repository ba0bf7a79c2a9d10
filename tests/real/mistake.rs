//! Mistakes that a victim makes when it is told to, so that a row of real faults can show that it would notice them.
//!
//! They are made around the engine and not in it, so that the engine under the victim is the one that ships: it is
//! deceived by its disk, or its word is not waited for. Each is, to whoever listens to the victim and looks at its disk,
//! what an engine would do that has this mistake. (Mistakes within the engine are for simulated worlds:
//! `engine/src/mutants.rs`.) Invariant: a victim that was told nothing does not come by here.

use std::any::Any;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use everlog::io::{AlignedBuf, Completion, Done, File, Io, IoQueue, Map, Op, Wake};

/// A mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Mistake {
    /// An append is acknowledged once it was taken, before it is written.
    Early,
    /// The journal is written and never made durable.
    Unsynced,
}

impl Mistake {
    /// What it is called on the victim's command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Early => "early",
            Self::Unsynced => "unsynced",
        }
    }
}

/// A disk whose durable writes are plain ones. Syncs are carried out, so that segments and manifests are what they are
/// without the mistake.
pub struct Unsynced(pub Arc<dyn Io>);

/// Its queue.
struct Queue(Box<dyn IoQueue>);

/// The operation with the mistake in it.
fn unsynced(op: Op) -> Op {
    match op {
        Op::Write { file, offset, buf, .. } => Op::Write { file, offset, buf, durable: false },
        other => other,
    }
}

impl Io for Unsynced {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn run(&self, op: Op) -> io::Result<Done> {
        self.0.run(unsynced(op))
    }

    fn queue(&self, depth: usize) -> io::Result<Box<dyn IoQueue>> {
        Ok(Box::new(Queue(self.0.queue(depth)?)))
    }

    fn lock(&self, path: &Path) -> io::Result<Option<Box<dyn Any + Send + Sync>>> {
        self.0.lock(path)
    }

    fn lock_dir(&self, path: &Path) -> io::Result<Option<Box<dyn Any + Send + Sync>>> {
        self.0.lock_dir(path)
    }

    fn lock_holder(&self, path: &Path) -> Option<String> {
        self.0.lock_holder(path)
    }

    fn is_in_place(&self, file: &File) -> bool {
        self.0.is_in_place(file)
    }

    fn map(&self, file: &File) -> Option<Arc<dyn Map>> {
        self.0.map(file)
    }

    fn reads_ahead(&self) -> bool {
        self.0.reads_ahead()
    }

    fn will_need(&self, file: &File, offset: u64, len: usize) {
        self.0.will_need(file, offset, len);
    }

    fn read_resident(&self, file: &File, offset: u64, buf: AlignedBuf) -> Result<AlignedBuf, AlignedBuf> {
        self.0.read_resident(file, offset, buf)
    }

    fn buffered(&self) -> bool {
        self.0.buffered()
    }
}

impl IoQueue for Queue {
    fn submit(&mut self, id: u64, op: Op) {
        self.0.submit(id, unsynced(op));
    }

    fn poll(&mut self, wait: Option<Duration>, out: &mut Vec<Completion>) -> io::Result<()> {
        self.0.poll(wait, out)
    }

    fn waker(&self) -> Arc<dyn Wake> {
        self.0.waker()
    }
}
