//! Reads of one file past the page cache, the next of which is begun before it is asked for: whoever goes through several
//! files by turns then waits for none of them.
//!
//! Invariant: what was begun and is not what is asked for, or failed, is read again; so an error is told by the read that
//! needs the bytes, and by no other.

use crate::error::Result;
use crate::io::pipeline::Pipeline;
use crate::io::{AlignedBuf, File, Io};
use std::sync::Arc;

/// The reads of a file.
pub(super) struct ReadAhead {
    io: Arc<dyn Io>,
    file: File,
    /// Made for the first read that is begun ahead.
    pipeline: Option<Pipeline>,
    /// Offset and bytes of the read that was begun.
    begun: Option<(u64, usize)>,
}

impl ReadAhead {
    pub(super) fn new(io: Arc<dyn Io>, file: File) -> Self {
        Self { io, file, pipeline: None, begun: None }
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
                // Nothing more can be begun there.
                Err(_) => self.pipeline = None,
            }
        }
        self.io.read_at(&self.file, offset, len)
    }

    /// Begins the read that is likely to be asked for next, if none is begun.
    pub(super) fn begin(&mut self, offset: u64, len: usize) {
        if self.begun.is_some() {
            return;
        }
        if self.pipeline.is_none() {
            self.pipeline = Pipeline::new(&*self.io, &self.file, 1).ok();
        }
        if let Some(pipeline) = &mut self.pipeline {
            self.begun = pipeline.read(offset, AlignedBuf::with_capacity(len)).ok().map(|()| (offset, len));
        }
    }
}
