//! Where a segment's bytes go while it is being written: one buffer, written past the page cache in pieces, hashed on
//! the way. Every [`SYNC_BYTES`] what is written is made durable, and reading it back begins.
//!
//! Knows nothing of what the bytes mean but what a checked block is. Invariant: the hasher has seen exactly what was
//! written, in order; what is in the buffer follows it.

use super::{PIECE_BYTES, ReadBack, WRITES_IN_FLIGHT};
use crate::error::Result;
use crate::format::block::{self, Section};
use crate::format::bytes::Sink;
use crate::format::chunk::{CHUNK_BYTES, CHUNK_OVERHEAD};
use crate::io::pipeline::Pipeline;
use crate::io::{AlignedBuf, File, Io};
use crate::mutants::{self, Mutant};
use crate::types::{BLOCK, SegmentId};
use std::sync::Arc;

/// How much is written before it is made durable, so that it can be read back while the rest is written.
const SYNC_BYTES: u64 = 16 << 20;

pub(super) struct Output {
    io: Arc<dyn Io>,
    file: File,
    segment: SegmentId,
    /// What is not written yet. A chunk is built in place at its end.
    pub(super) buf: AlignedBuf,
    /// Writes in flight.
    pipeline: Pipeline,
    /// Room that a fresh buffer has, in bytes.
    room: usize,
    /// Bytes written: a multiple of a block.
    written: u64,
    /// Of these, durable.
    durable: u64,
    back: ReadBack,
    /// Buffers that are not in use.
    spare: Vec<AlignedBuf>,
    hasher: blake3::Hasher,
}

impl Output {
    pub(super) fn new(io: Arc<dyn Io>, file: File, segment: SegmentId, back: ReadBack) -> Result<Self> {
        let room = PIECE_BYTES + CHUNK_BYTES + CHUNK_OVERHEAD + BLOCK;
        Ok(Self {
            pipeline: Pipeline::new(&*io, &file, WRITES_IN_FLIGHT)?,
            io,
            file,
            segment,
            buf: AlignedBuf::with_capacity(room),
            room,
            written: 0,
            durable: 0,
            back,
            spare: Vec::new(),
            hasher: blake3::Hasher::new(),
        })
    }

    /// The byte offset in the file of the next byte.
    pub(super) fn position(&self) -> u64 {
        self.written + self.buf.len() as u64
    }

    /// Makes sure that `bytes` more fit the buffer.
    pub(super) fn reserve(&mut self, bytes: usize) {
        self.buf.grow(self.buf.len() + bytes);
    }

    /// Writes what fills whole blocks, once there is enough for a piece.
    pub(super) fn settle(&mut self) -> Result<()> {
        if self.buf.len() >= PIECE_BYTES { self.write() } else { Ok(()) }
    }

    /// Appends zeros up to the next block.
    pub(super) fn pad(&mut self) {
        let padded = self.buf.len().next_multiple_of(BLOCK);
        self.buf.grow(padded);
        self.buf.resize(padded);
    }

    /// Appends a checked block.
    pub(super) fn block(&mut self, section: Section, body: &[u8]) -> Result<()> {
        assert!(self.buf.len().is_multiple_of(BLOCK), "a block begins at a block");
        let number = self.position() / BLOCK as u64;
        self.reserve(BLOCK);
        self.buf.put(&block::encode(section, self.segment, number, body));
        self.settle()
    }

    /// BLAKE3 of everything so far.
    pub(super) fn digest(&self) -> [u8; 32] {
        let mut hasher = self.hasher.clone();
        hasher.update(&self.buf);
        *hasher.finalize().as_bytes()
    }

    /// Writes the rest, which fills whole blocks, and makes the file durable. Gives the digest of all of it, and who
    /// reads it back.
    pub(super) fn finish(mut self) -> Result<([u8; 32], ReadBack)> {
        self.write()?;
        assert!(self.buf.is_empty(), "a segment ends at a block");
        self.sync()?;
        Ok((*self.hasher.finalize().as_bytes(), self.back))
    }

    /// Makes durable what is written.
    fn sync(&mut self) -> Result<()> {
        while let Some(buf) = self.pipeline.take()? {
            self.spare.push(buf);
        }
        if !mutants::makes(Mutant::SegmentUnsynced) {
            self.io.sync(&self.file)?;
        }
        self.durable = self.written;
        Ok(())
    }

    /// Writes the whole blocks of the buffer; what is behind them stays. After a failure the file is to be abandoned.
    fn write(&mut self) -> Result<()> {
        let whole = self.buf.len() / BLOCK * BLOCK;
        let tail = self.buf[whole..].to_vec();
        self.buf.resize(whole);
        self.hasher.update(&self.buf);
        let full = std::mem::replace(&mut self.buf, AlignedBuf::empty());
        let next = self.pipeline.write(self.written, full)?;
        self.buf = next.or_else(|| self.spare.pop()).unwrap_or_else(|| AlignedBuf::with_capacity(self.room));
        self.buf.clear();
        self.buf.grow(tail.len());
        self.buf.put(&tail);
        self.written += whole as u64;
        if self.written - self.durable >= SYNC_BYTES {
            self.sync()?;
        }
        self.back.advance(self.durable)
    }
}
