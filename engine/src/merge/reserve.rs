//! Room that is kept for merges: what is dead on a full disk goes only by writing anew what is not.
//!
//! A file of a fixed size that holds nothing. It is lent by removing it, to a merge that rewrites what is dead and found no
//! other room, and made again afterwards; flushes stand back meanwhile, since they would take the room. One is made once the
//! segments take several times as much, and not while a flush fails, which needs what there is itself. A crash at any step
//! leaves the file, a shorter one, or none: the next open takes what there is, and makes it whole when it can. Invariant:
//! nothing depends on what the file holds.

use crate::error::{Error, Result};
use crate::io::{Io, OpenMode};
use crate::sync::Arc;
use crate::types::BLOCK;
use std::path::{Path, PathBuf};
use std::time::Duration;

const NAME: &str = "reserve";
/// The segments take so many times as much before one is made.
const STORE_TIMES: u64 = 4;
/// When it is tried again to make one.
const TRY_AGAIN: Duration = Duration::from_secs(600);
/// The same after a merge had it: what that gave back may be free only once nobody reads it any more.
const TRY_AGAIN_SOON: Duration = Duration::from_secs(5);

/// The room.
pub(super) struct Reserve {
    io: Arc<dyn Io>,
    path: PathBuf,
    /// 0: there is to be none.
    bytes: u64,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Nobody has looked whether there is one.
    Unknown,
    /// There is none, and it is not tried before this, by the monotonic clock.
    Missing(Duration),
    Kept,
    Lent,
}

impl Reserve {
    /// The reserve of the store in `dir`. Nothing is looked at yet.
    pub(super) fn new(io: Arc<dyn Io>, dir: &Path, bytes: u64) -> Self {
        let bytes = bytes.div_ceil(BLOCK as u64).saturating_mul(BLOCK as u64);
        Self { io, path: dir.join(NAME), bytes, state: State::Unknown }
    }

    /// Sees to it that there is one, if the segments take so many bytes that there should be, and nobody else is short of
    /// room. One that is there stays, however few they are.
    pub(super) fn keep(&mut self, segment_bytes: u64, is_short: bool, now: Duration) {
        if self.state == State::Unknown {
            self.state = self.found();
        }
        let is_wanted = !is_short && self.bytes > 0 && segment_bytes / STORE_TIMES >= self.bytes;
        if is_wanted && matches!(self.state, State::Missing(not_before) if not_before <= now) {
            self.make(now + TRY_AGAIN);
        }
    }

    /// What there is of it from before. It may be shorter, or a copy that has the length and takes no room.
    fn found(&self) -> State {
        match self.io.open(&self.path, OpenMode::WriteDirect) {
            Ok(file) if self.bytes == 0 => {
                drop(file);
                self.told(self.io.remove(&self.path));
                State::Missing(Duration::ZERO)
            }
            Ok(file) if self.io.allocate(&file, self.bytes).is_ok() => State::Kept,
            Err(error) if !is_missing(&error) => State::Unknown,
            _ => State::Missing(Duration::ZERO),
        }
    }

    fn make(&mut self, again: Duration) {
        let made = match self.io.open(&self.path, OpenMode::WriteDirect) {
            Ok(file) => self.io.allocate(&file, self.bytes),
            Err(error) if is_missing(&error) => self.create(),
            Err(error) => Err(error),
        };
        self.state = if made.is_ok() { State::Kept } else { State::Missing(again) };
        self.told(made);
    }

    fn create(&self) -> Result<()> {
        let file = self.io.open(&self.path, OpenMode::CreateDirect)?;
        let made = self.io.allocate(&file, self.bytes);
        drop(file);
        // What it got of the disk is of no use to a merge, and may be to a flush.
        made.inspect_err(|_| drop(self.io.remove(&self.path)))
    }

    fn told(&self, result: Result<()>) {
        if let Err(error) = result {
            tracing::warn!(%error, bytes = self.bytes, "no room, or less, is kept for merges; it will be tried again");
        }
    }

    /// Whether there is room for a merge that needs about so many bytes.
    pub(super) fn has(&self, needed: u64) -> bool {
        self.state == State::Kept && needed <= self.bytes
    }

    /// Gives the room to a merge; false if it is not there any more.
    pub(super) fn lend(&mut self) -> bool {
        match self.io.remove(&self.path) {
            Ok(()) => {
                tracing::info!(bytes = self.bytes, "the disk is full: a merge gets the room that is kept for it");
                self.state = State::Lent;
            }
            Err(error) if is_missing(&error) => self.state = State::Missing(Duration::ZERO),
            Err(error) => self.told(Err(error)),
        }
        self.is_lent()
    }

    /// Whether a merge has it.
    pub(super) fn is_lent(&self) -> bool {
        self.state == State::Lent
    }

    /// The merge that had it is over.
    pub(super) fn take_back(&mut self, now: Duration) {
        if self.is_lent() {
            self.make(now + TRY_AGAIN_SOON);
        }
    }
}

fn is_missing(error: &Error) -> bool {
    error.os_error().is_some_and(|e| e.kind() == std::io::ErrorKind::NotFound)
}
