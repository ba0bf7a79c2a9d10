//! Frames as journal files: each frame at the place that it names, in a file for the use that it names.
//!
//! What a crash leaves is no matter: the files are written anew. They are synced before the directory becomes a store.

use crate::error::Result;
use crate::format::Features;
use crate::format::frame::{FrameHeader, FrameRef, header_hash};
use crate::format::journal::JournalHeader;
use crate::format::manifest::Manifest;
use crate::io::{AlignedBuf, File, Io, OpenMode};
use crate::journal::names;
use crate::limits;
use crate::types::{BLOCK, JournalId, Timeline};
use std::path::Path;

/// Bytes of zeros written at a time.
const FILL_BYTES: u64 = 1 << 20;

/// Journal files being written.
pub struct Frames<'a> {
    io: &'a dyn Io,
    dir: &'a Path,
    manifest: &'a Manifest,
    file_bytes: u64,
    slot: u16,
    at: FrameRef,
    frames: u64,
    open: Option<Open>,
}

struct Open {
    file: File,
    journal: JournalId,
    /// Its length so far, all of it written.
    bytes: u64,
    header: JournalHeader,
}

impl<'a> Frames<'a> {
    /// Begins behind what `manifest` says is flushed.
    #[must_use]
    pub fn new(io: &'a dyn Io, dir: &'a Path, manifest: &'a Manifest, file_bytes: u64) -> Self {
        Self { io, dir, manifest, file_bytes, slot: 0, at: manifest.flushed, frames: 0, open: None }
    }

    /// The next frame, all of its bytes.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`].
    pub fn take(&mut self, header: &FrameHeader, bytes: Vec<u8>) -> Result<()> {
        if self.open.as_ref().is_none_or(|open| open.journal != header.journal) {
            self.close()?;
            self.begin(header.journal, header.timeline)?;
        }
        let open = self.open.as_mut().expect("just begun");
        let end = header.position + u64::from(header.frame_len);
        fill(self.io, &open.file, &mut open.bytes, end)?;
        let hash = header_hash(&bytes);
        self.io.write_at(&open.file, header.position, AlignedBuf::from_slice(&bytes), false)?;
        self.at = header.as_ref(hash);
        self.frames += 1;
        Ok(())
    }

    /// Ends the last file; makes one if there was no frame, which ties the journal to what is flushed. Gives the number of
    /// frames.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`].
    pub fn finish(mut self) -> Result<u64> {
        if self.slot == 0 && self.open.is_none() {
            self.begin(self.manifest.next_journal, Timeline::default())?;
            self.close()?;
            // The first open takes this one, so that a crash amid its header leaves the tie.
            let file = self.io.open(&names::path(self.dir, self.slot), OpenMode::CreateDirect)?;
            fill(self.io, &file, &mut 0, self.file_bytes)?;
            self.io.sync(&file)?;
        }
        self.close()?;
        self.io.sync_dir(self.dir)?;
        Ok(self.frames)
    }

    fn begin(&mut self, journal: JournalId, timeline: Timeline) -> Result<()> {
        let file = self.io.open(&names::path(self.dir, self.slot), OpenMode::CreateDirect)?;
        let header = JournalHeader {
            features: Features::KNOWN,
            store: self.manifest.identity.store,
            journal,
            file_bytes: self.file_bytes,
            timeline,
            left: self.at,
        };
        let mut bytes = 0;
        fill(self.io, &file, &mut bytes, self.file_bytes)?;
        self.open = Some(Open { file, journal, bytes, header });
        self.slot += 1;
        Ok(())
    }

    fn close(&mut self) -> Result<()> {
        let Some(Open { file, journal, bytes, mut header }) = self.open.take() else { return Ok(()) };
        debug_assert!(limits::is_journal_file_bytes(bytes), "a journal file is of whole blocks");
        header.file_bytes = bytes;
        let block = header.encode(self.manifest.identity.salt(journal));
        self.io.write_at(&file, 0, AlignedBuf::from_slice(&block), false)?;
        self.io.sync(&file)
    }
}

/// Fills the file with zeros up to `end`.
fn fill(io: &dyn Io, file: &File, bytes: &mut u64, end: u64) -> Result<()> {
    while *bytes < end {
        let piece = (end - *bytes).min(FILL_BYTES) as usize;
        debug_assert!(piece.is_multiple_of(BLOCK), "frames end at blocks");
        io.write_at(file, *bytes, AlignedBuf::zeroed(piece), false)?;
        *bytes += piece as u64;
    }
    Ok(())
}
