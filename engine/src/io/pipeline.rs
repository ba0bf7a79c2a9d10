//! Reads or writes of one file with several in flight, for those who go through a file from front to back: the flush,
//! its read-back, and merges. It runs on the caller's thread; the queue does the waiting.
//!
//! Invariant: buffers come back in the order in which their operations were begun; after an error nothing more is
//! begun, and dropping the pipeline waits for what is in flight.

use super::{AlignedBuf, Completion, Done, File, Io, IoQueue, Op};
use crate::error::{Error, Result};
use std::collections::BTreeMap;
use std::time::Duration;

/// How long one look at the queue lasts; it is looked at again.
const PATIENCE: Duration = Duration::from_secs(1);

/// A file that is gone through with several operations in flight.
pub struct Pipeline {
    queue: Box<dyn IoQueue>,
    file: File,
    depth: usize,
    begun: u64,
    given: u64,
    ended: BTreeMap<u64, AlignedBuf>,
    completions: Vec<Completion>,
}

impl Pipeline {
    /// A pipeline over `file` with at most `depth` operations in flight.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`] if the disk gives no queue.
    pub fn new(io: &dyn Io, file: &File, depth: usize) -> Result<Self> {
        let queue = io.queue(depth).map_err(|e| Error::io("making a queue for", &file.path, e))?;
        Ok(Self {
            queue,
            file: file.clone(),
            depth,
            begun: 0,
            given: 0,
            ended: BTreeMap::new(),
            completions: Vec::new(),
        })
    }

    /// Begins a write of `buf` at `offset`, not durable. Gives a buffer whose write has ended, if there is one.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`] of any write before it.
    pub fn write(&mut self, offset: u64, buf: AlignedBuf) -> Result<Option<AlignedBuf>> {
        let op = Op::Write { file: self.file.clone(), offset, buf, durable: false };
        self.begin(op)?;
        if self.in_flight() == self.depth { self.take() } else { Ok(None) }
    }

    /// Begins a read into `buf` at `offset`. Not more than there is [`Self::room`] for.
    pub fn read(&mut self, offset: u64, buf: AlignedBuf) -> Result<()> {
        self.begin(Op::Read { file: self.file.clone(), offset, buf })
    }

    /// Whether another operation may be begun.
    #[must_use]
    pub fn room(&self) -> bool {
        self.in_flight() < self.depth
    }

    /// Operations begun and not yet given back.
    fn in_flight(&self) -> usize {
        (self.begun - self.given) as usize
    }

    fn begin(&mut self, op: Op) -> Result<()> {
        assert!(self.room(), "the caller takes one back before it begins another");
        self.queue.submit(self.begun, op);
        self.begun += 1;
        Ok(())
    }

    /// The buffer of the oldest operation, once that has ended; None if none is left.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`] of any operation that ended.
    pub fn take(&mut self) -> Result<Option<AlignedBuf>> {
        if self.given == self.begun {
            return Ok(None);
        }
        loop {
            if let Some(buf) = self.oldest() {
                return Ok(Some(buf));
            }
            self.poll(Some(PATIENCE))?;
        }
    }

    /// The buffer of the oldest operation, if that has ended; does not wait.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`] of any operation that ended.
    pub fn take_ended(&mut self) -> Result<Option<AlignedBuf>> {
        if self.given == self.begun {
            return Ok(None);
        }
        self.poll(None)?;
        Ok(self.oldest())
    }

    fn oldest(&mut self) -> Option<AlignedBuf> {
        let buf = self.ended.remove(&self.given)?;
        self.given += 1;
        Some(buf)
    }

    fn poll(&mut self, wait: Option<Duration>) -> Result<()> {
        let polled = self.queue.poll(wait, &mut self.completions);
        polled.map_err(|e| Error::io("waiting for", &self.file.path, e))?;
        for completion in self.completions.drain(..) {
            match completion.result {
                Ok(Done::Buf(buf)) => drop(self.ended.insert(completion.id, buf)),
                Ok(other) => unreachable!("a read or write gives its buffer, not {other:?}"),
                Err(e) => return Err(Error::io("reading or writing", &self.file.path, e)),
            }
        }
        Ok(())
    }
}
