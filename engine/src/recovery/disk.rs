//! The journal's files as a scan sees them: opened for direct reading, one block or one frame at a time.
//!
//! Nothing here writes, and nothing here knows what a frame means for the chain. Reads go past the page cache, which
//! could hold what the disk does not. Invariant: at most one window of [`WINDOW`] bytes and the frame that is given
//! back are in memory, however large the journal is.

use crate::error::{Error, ErrorKind, Result};
use crate::format::entry::{Entry, split_payload};
use crate::format::frame::{FrameHeader, HEADER_LEN, header_hash};
use crate::format::identity::Identity;
use crate::format::{Decoded, Malformed};
use crate::io::{AlignedBuf, File, Io, OpenMode};
use crate::types::BLOCK;
use std::path::Path;

/// Bytes read at once, where a file has as many.
pub(super) const WINDOW: usize = 1 << 20;

/// One block, as an offset.
pub(super) const STEP: u64 = BLOCK as u64;

/// What stands at a place of a journal file.
pub(super) enum Look {
    /// No frame of any use begins here; why not.
    Nothing(Malformed),
    /// A frame's header, right by its own checksum and at its own place (rules 1 to 7), whose payload is not right; and
    /// the hash of the header.
    HeaderOnly(FrameHeader, [u8; 16]),
    /// A valid frame (rules 1 to 8): its header, the hash of that, all of its bytes.
    Frame(FrameHeader, [u8; 16], AlignedBuf),
}

/// The opened files, and the part of one of them that was read last.
pub(super) struct Disk<'a> {
    io: &'a dyn Io,
    identity: &'a Identity,
    files: Vec<(File, u64)>,
    window: AlignedBuf,
    window_at: (usize, u64),
}

impl<'a> Disk<'a> {
    pub(super) fn new(io: &'a dyn Io, identity: &'a Identity) -> Self {
        Self { io, identity, files: Vec::new(), window: AlignedBuf::with_capacity(BLOCK), window_at: (0, 0) }
    }

    /// Opens one more file; they are numbered from 0. Returns its length in bytes.
    pub(super) fn add(&mut self, path: &Path) -> Result<u64> {
        let file = self.io.open(path, OpenMode::ReadDirect)?;
        let len = self.io.len(&file)?;
        self.files.push((file, len / STEP * STEP));
        Ok(len)
    }

    /// The length of a file in whole blocks, in bytes.
    pub(super) fn len(&self, file: usize) -> u64 {
        self.files[file].1
    }

    /// One block; None past the end of the file.
    pub(super) fn block(&mut self, file: usize, at: u64) -> Result<Option<&[u8]>> {
        assert!(at.is_multiple_of(STEP), "blocks stand at multiples of their size");
        Ok(self.read(file, at)?.map(|bytes| &bytes[..BLOCK]))
    }

    /// What stands at byte `at` of a file: a frame of whichever use, a header, or nothing.
    pub(super) fn look(&mut self, file: usize, at: u64) -> Result<Look> {
        let identity = self.identity;
        let len = self.len(file);
        let Some(block) = self.block(file, at)? else {
            return Ok(Look::Nothing(Malformed { what: "the end of the file", at: 0 }));
        };
        let Some((journal, _)) = FrameHeader::claimed_place(block) else {
            return Ok(Look::Nothing(Malformed { what: "no frame's magic", at: 0 }));
        };
        let salt = identity.salt(journal);
        // What it holds was acknowledged for all that this version can know; it is no torn tail.
        if FrameHeader::is_of_a_later_version(block, identity.store, journal, salt, at) {
            let what = "a frame of the journal has a format or flags that this version does not know";
            return Err(Error::new(ErrorKind::Refused, what)
                .file(&self.files[file].0.path)
                .offset(at)
                .remedy("open the store with the version of everlog that wrote it, or a later one"));
        }
        let header = match FrameHeader::decode(block, identity.store, journal, salt, at) {
            Ok(header) => header,
            Err(why) => return Ok(Look::Nothing(why)),
        };
        let hash = header_hash(block);
        let past = at.checked_add(u64::from(header.frame_len)).is_none_or(|end| end > len);
        if past || header.first_lsn.0.checked_add(u64::from(header.entries)).is_none() {
            return Ok(Look::Nothing(Malformed { what: "a frame longer than its file", at: 0 }));
        }
        let frame = self.bytes(file, at, header.frame_len as usize)?;
        Ok(match header.payload_intact(&frame, salt) && frame.len() >= HEADER_LEN {
            true => Look::Frame(header, hash, frame),
            false => Look::HeaderOnly(header, hash),
        })
    }

    /// The header of a frame at byte `at` of a file that is right but for its place.
    pub(super) fn astray(&mut self, file: usize, at: u64) -> Result<Option<FrameHeader>> {
        let identity = self.identity;
        let Some(block) = self.block(file, at)? else { return Ok(None) };
        let Some((journal, position)) = FrameHeader::claimed_place(block) else { return Ok(None) };
        let header = FrameHeader::decode(block, identity.store, journal, identity.salt(journal), position).ok();
        Ok(header.filter(|_| position != at))
    }

    /// `len` bytes at byte `at`, which lie within the file when it was opened; fewer if it was shortened since.
    pub(super) fn bytes(&mut self, file: usize, at: u64, len: usize) -> Result<AlignedBuf> {
        let mut out = AlignedBuf::with_capacity(len);
        while out.len() < len {
            let Some(part) = self.read(file, at + out.len() as u64)? else { break };
            let take = part.len().min(len - out.len());
            let filled = out.len();
            out.resize(filled + take);
            out[filled..].copy_from_slice(&part[..take]);
        }
        Ok(out)
    }

    /// At least one block from `at` on, as far as the window reaches; None at the end of the file.
    fn read(&mut self, file: usize, at: u64) -> Result<Option<&[u8]>> {
        let len = self.len(file);
        if at >= len {
            return Ok(None);
        }
        let (window_file, start) = self.window_at;
        if window_file != file || at < start || at >= start + self.window.len() as u64 {
            let mut buf = std::mem::replace(&mut self.window, AlignedBuf::with_capacity(BLOCK));
            // A window has to be zeroed and mapped: not more of it than the longest file can fill.
            let longest = self.files.iter().map(|(_, len)| *len).max().unwrap_or_default();
            let window = longest.min(WINDOW as u64) as usize;
            if buf.capacity() < window {
                buf = AlignedBuf::with_capacity(window);
            }
            self.window = self.io.read_into(&self.files[file].0, at, buf)?;
            let whole = self.window.len().min((len - at) as usize) / BLOCK * BLOCK;
            self.window.set_len(whole);
            self.window_at = (file, at);
        }
        let from = (at - self.window_at.1) as usize;
        Ok(self.window.get(from..).filter(|bytes| !bytes.is_empty()))
    }
}

/// Whether the content of a valid frame is what its header counts: it splits into that many entries and batches, and
/// each entry's own checksum is right.
pub(super) fn content(header: &FrameHeader, frame: &[u8]) -> Decoded<()> {
    let entries = split_payload(&frame[HEADER_LEN..HEADER_LEN + header.payload_len as usize])?;
    let batches = entries.last().map_or(0, |last| last.batch + 1);
    if entries.len() as u64 != u64::from(header.entries) || batches != header.batches {
        return Err(Malformed { what: "a frame that does not hold what it counts", at: HEADER_LEN });
    }
    for raw in entries {
        Entry::decode(raw.log, raw.body)
            .map_err(|e| Malformed { what: e.what, at: HEADER_LEN + raw.body_at + e.at })?;
    }
    Ok(())
}
