//! Room that is kept for merges: what is dead on a full disk goes only by writing anew what is not.
//!
//! A file of a fixed size that holds nothing. It is lent by removing it, to a merge that found no room to rewrite what is
//! dead, and made again afterwards; flushes stand back meanwhile, since they would take the room. A store whose segments
//! are few beside it has none. A crash at any step leaves the file, a shorter one, or none: the next open makes it what it
//! must be. Invariant: nothing depends on what the file holds.

use crate::error::Result;
use crate::io::{Io, OpenMode};
use crate::sync::Arc;
use crate::types::BLOCK;
use std::path::{Path, PathBuf};
use std::time::Duration;

const NAME: &str = "reserve";
/// The segments take so many times as much before there is one.
const STORE_TIMES: u64 = 4;
/// When it is tried again to make one.
const TRY_AGAIN: Duration = Duration::from_secs(30);

/// The room.
pub(super) struct Reserve {
    io: Arc<dyn Io>,
    path: PathBuf,
    /// 0: there is none.
    bytes: u64,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// There is none, and it is not tried before this, by the monotonic clock.
    Missing(Duration),
    Kept,
    Lent,
}

impl Reserve {
    /// The reserve of the store in `dir`. Nothing is looked at yet.
    pub(super) fn new(io: Arc<dyn Io>, dir: &Path, bytes: u64) -> Self {
        let bytes = bytes.next_multiple_of(BLOCK as u64);
        Self { io, path: dir.join(NAME), bytes, state: State::Missing(Duration::ZERO) }
    }

    /// Sees to it that there is one, if the segments take so many bytes that there should be, and that it is not lent
    /// any more.
    pub(super) fn keep(&mut self, segment_bytes: u64, now: Duration) {
        if self.state == State::Lent {
            self.state = State::Missing(now);
        }
        let is_wanted = self.bytes > 0 && segment_bytes / STORE_TIMES >= self.bytes;
        if !is_wanted || !matches!(self.state, State::Missing(not_before) if not_before <= now) {
            return;
        }
        self.state = match self.make() {
            Ok(()) => State::Kept,
            Err(error) => {
                let bytes = self.bytes;
                tracing::warn!(%error, bytes, "no room is kept for merges; it will be tried again");
                State::Missing(now + TRY_AGAIN)
            }
        };
    }

    /// Gives the room to a merge. False if there is none to give.
    pub(super) fn lend(&mut self) -> bool {
        if self.state != State::Kept || self.io.remove(&self.path).is_err() {
            return false;
        }
        tracing::info!(bytes = self.bytes, "the disk is full: a merge gets the room that was kept for it");
        self.state = State::Lent;
        true
    }

    /// Whether a merge has it.
    pub(super) fn is_lent(&self) -> bool {
        self.state == State::Lent
    }

    fn make(&self) -> Result<()> {
        if let Ok(file) = self.io.open(&self.path, OpenMode::ReadDirect) {
            if self.io.len(&file)? == self.bytes {
                return Ok(());
            }
            drop(file);
            self.io.remove(&self.path)?;
        }
        let file = self.io.open(&self.path, OpenMode::CreateDirect)?;
        let made = self.io.allocate(&file, self.bytes);
        drop(file);
        made.inspect_err(|_| drop(self.io.remove(&self.path)))
    }
}
