//! Reads of one file past the page cache, the next of which is begun before it is asked for: whoever goes through several
//! files by turns then waits for none of them.
//!
//! Invariant: what was begun and is not what is asked for, or failed, is read again; so an error is told by the read that
//! needs the bytes, and by no other.

use crate::error::Result;
use crate::io::pipeline::Pipeline;
use crate::io::{AlignedBuf, File, Io};
use std::sync::Arc;

/// No read of more bytes is begun ahead, so that memory stays within bounds.
pub(super) const AHEAD_BYTES: usize = 256 << 10;

/// The reads of a file.
pub(super) struct ReadAhead {
    io: Arc<dyn Io>,
    file: File,
    /// Made for the first read that is begun ahead.
    pipeline: Option<Pipeline>,
    /// Offset and bytes of the read that was begun.
    begun: Option<(u64, usize)>,
    /// Something was refused or failed: nothing more is begun ahead.
    failed: bool,
}

impl ReadAhead {
    pub(super) fn new(io: Arc<dyn Io>, file: File) -> Self {
        Self { io, file, pipeline: None, begun: None, failed: false }
    }

    /// Reads `len` bytes at `offset`, fewer where the file ends.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`].
    pub(super) fn read(&mut self, offset: u64, len: usize) -> Result<AlignedBuf> {
        if let (Some(begun), Some(pipeline)) = (self.begun.take(), &mut self.pipeline) {
            match pipeline.take() {
                Ok(Some(buf)) if begun == (offset, len) => return Ok(buf),
                Ok(_) => {}
                Err(_) => self.fail(),
            }
        }
        self.io.read_at(&self.file, offset, len)
    }

    /// Begins the read that is likely to be asked for next, unless one is begun.
    pub(super) fn begin(&mut self, offset: u64, len: usize) {
        if self.begun.is_some() || self.failed || len > AHEAD_BYTES {
            return;
        }
        if self.pipeline.is_none() {
            self.pipeline = Pipeline::new(&*self.io, &self.file, 1).ok();
        }
        let read = |pipeline: &mut Pipeline| pipeline.read(offset, AlignedBuf::with_capacity(len)).ok();
        match self.pipeline.as_mut().and_then(read) {
            Some(()) => self.begun = Some((offset, len)),
            None => self.fail(),
        }
    }

    /// Gives back what beginning reads ahead takes, until one is begun again.
    pub(super) fn pause(&mut self) {
        (self.pipeline, self.begun) = (None, None);
    }

    fn fail(&mut self) {
        self.pause();
        self.failed = true;
    }
}
