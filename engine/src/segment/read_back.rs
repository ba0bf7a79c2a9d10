//! Reading a segment back from the disk, past the page cache, while it is still being written and once it is whole.
//!
//! A flush may let go of records only when their segment was read and found to be what was written. What has been made
//! durable so far can be read while the rest is written, so that the flush need not wait for all of it at its end.
//! Shares no code with the writer or the reader of segments. Invariant: only bytes that a sync covered are read, each
//! once, in order; the verdict is about the whole file, its length included.

use super::{PIECE_BYTES, damaged, path};
use crate::error::Result;
use crate::format::manifest::SegmentMeta;
use crate::io::pipeline::Pipeline;
use crate::io::{AlignedBuf, Io, OpenMode};
use crate::types::SegmentId;
use std::path::{Path, PathBuf};

/// Pieces being read at once.
const READS_IN_FLIGHT: usize = 4;

/// A segment being read back.
pub struct ReadBack {
    path: PathBuf,
    pipeline: Pipeline,
    hasher: blake3::Hasher,
    /// The offset of the next piece to be asked for.
    asked: u64,
    /// Bytes read and hashed.
    read: u64,
    spare: Vec<AlignedBuf>,
}

impl ReadBack {
    /// Begins with the segment `id` in the store's directory `dir`. Nothing is read yet.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`].
    pub fn begin(io: &dyn Io, dir: &Path, id: SegmentId) -> Result<Self> {
        let path = path(dir, id);
        let file = io.open(&path, OpenMode::ReadDirect)?;
        let pipeline = Pipeline::new(io, &file, READS_IN_FLIGHT)?;
        Ok(Self { path, pipeline, hasher: blake3::Hasher::new(), asked: 0, read: 0, spare: Vec::new() })
    }

    /// Reads on in what is durable up to byte `durable`, as far as that goes without waiting.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`].
    pub fn advance(&mut self, durable: u64) -> Result<()> {
        while let Some(buf) = self.pipeline.take_ended()? {
            self.hash(buf);
        }
        while self.pipeline.room() && self.asked + PIECE_BYTES as u64 <= durable {
            self.ask()?;
        }
        Ok(())
    }

    /// Reads the rest, all of it being durable, and compares length and digest with `meta`.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Damaged`] if it is not what was written; [`crate::ErrorKind::Io`].
    pub fn finish(mut self, meta: &SegmentMeta) -> Result<()> {
        loop {
            // One piece past the expected end is asked for as well: a file that is too long is noticed.
            while self.pipeline.room() && self.asked <= meta.bytes {
                self.ask()?;
            }
            let Some(buf) = self.pipeline.take()? else { break };
            self.hash(buf);
        }
        if self.read != meta.bytes {
            let what = format!("{} bytes were read back of {} written", self.read, meta.bytes);
            return Err(damaged(&self.path, self.read, what));
        }
        if self.hasher.finalize() != meta.digest {
            return Err(damaged(&self.path, 0, "what was read back has another digest than what was written"));
        }
        Ok(())
    }

    fn ask(&mut self) -> Result<()> {
        let buf = self.spare.pop().unwrap_or_else(|| AlignedBuf::with_capacity(PIECE_BYTES));
        self.pipeline.read(self.asked, buf)?;
        self.asked += PIECE_BYTES as u64;
        Ok(())
    }

    fn hash(&mut self, buf: AlignedBuf) {
        self.hasher.update(&buf);
        self.read += buf.len() as u64;
        self.spare.push(buf);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::segment::testing::Disk;

    const PIECE: u64 = PIECE_BYTES as u64;

    #[test]
    fn what_is_durable_is_read_before_the_rest_is_there_and_nothing_beyond_it() {
        let (disk, dir, id) = (Disk::default(), Path::new("store"), SegmentId(3));
        let content: Vec<u8> = (0..3 * PIECE_BYTES + 4096).map(|at| (at / 97) as u8).collect();
        disk.put(&path(dir, id), &content[..2 * PIECE_BYTES + 4096]);
        let mut back = ReadBack::begin(&disk, dir, id).expect("the file exists");
        back.advance(PIECE - 1).expect("reads");
        assert_eq!(disk.take_reads(), [], "no piece is durable");
        back.advance(2 * PIECE + 4096).expect("reads");
        assert_eq!(disk.take_reads(), [(0, PIECE_BYTES), (PIECE, PIECE_BYTES)]);
        // The file as this sees it stays the one it was opened on, so the rest is written there.
        disk.append(&path(dir, id), &content[2 * PIECE_BYTES + 4096..]);
        let meta = SegmentMeta {
            id,
            bytes: content.len() as u64,
            digest: *blake3::hash(&content).as_bytes(),
            ..SegmentMeta::default()
        };
        back.finish(&meta).expect("as written");

        let mut back = ReadBack::begin(&disk, dir, id).expect("the file exists");
        back.advance(PIECE).expect("reads");
        disk.flip(&path(dir, id), 2 * PIECE, 1);
        assert_eq!(back.finish(&meta).expect_err("damaged behind what was read").kind(), ErrorKind::Damaged);
    }
}
