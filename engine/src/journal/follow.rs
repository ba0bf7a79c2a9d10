//! Reading the journal behind the commit path: the frames that are proved durable, in their order, as bytes.
//!
//! It reads past the page cache from files that are being written to and used again meanwhile, and takes no lock for that:
//! each frame is believed only if it is valid and continues the chain, so that a part of a later use is never taken for a
//! frame. Of two frames that continue the chain the one in another file prevails, as in recovery.
//!
//! Invariant: no frame is given that a watermark on disk does not prove, so that a crash never takes back what was given.

use super::Journal;
use super::ring::RingFile;
use crate::error::Result;
use crate::format::frame::{FrameHeader, FrameRef, HEADER_LEN, header_hash};
use crate::format::identity::Identity;
use crate::format::journal::FIRST_FRAME_AT;
use crate::io::Io;
use crate::sync::Arc;
use crate::types::BLOCK;

/// Bytes read at once, if no frame is longer.
const WINDOW_BYTES: usize = 128 << 10;

/// A place in the chain, and what follows it.
pub struct Follower {
    io: Arc<dyn Io>,
    journal: Arc<Journal>,
    identity: Identity,
    at: FrameRef,
}

/// What follows.
#[derive(Debug)]
pub enum Followed {
    /// These frames: at least one.
    Frames(Vec<FollowedFrame>),
    /// No frame that is proved.
    Nothing,
    /// A frame that is proved is no longer in the journal: its file was used again after a flush, or is damaged.
    Gone,
}

/// A frame that was read from the journal.
#[derive(Debug)]
pub struct FollowedFrame {
    /// Its header.
    pub header: FrameHeader,
    /// How its successor names it.
    pub frame: FrameRef,
    /// Header and payload, without the zeros behind.
    pub bytes: Vec<u8>,
}

/// The part of a file that was read last.
struct Window {
    file: RingFile,
    at: u64,
    bytes: Vec<u8>,
}

impl Follower {
    /// Follows the journal from behind the frame `at`.
    #[must_use]
    pub fn new(io: Arc<dyn Io>, journal: Arc<Journal>, identity: Identity, at: FrameRef) -> Self {
        Self { io, journal, identity, at }
    }

    /// The last frame that was given, or passed over.
    #[must_use]
    pub fn at(&self) -> FrameRef {
        self.at
    }

    /// Goes on behind `frame`, which lies further on.
    pub fn pass_over(&mut self, frame: FrameRef) {
        assert!(frame.frame >= self.at.frame, "the journal is followed forwards");
        self.at = frame;
    }

    /// The next frames, about `bytes_max` bytes of them or one that is larger.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`].
    pub fn next(&mut self, bytes_max: usize) -> Result<Followed> {
        let proven = self.journal.proven();
        if self.at.frame >= proven {
            return Ok(Followed::Nothing);
        }
        // Every frame that is proved lay in one of these files by then, if it is there at all.
        let files = self.journal.ring.files_from(self.at.journal);
        let firsts = files.iter().map(|file| self.header(file)).collect::<Result<Vec<_>>>()?;
        let (mut frames, mut bytes, mut window) = (Vec::new(), 0, None);
        while self.at.frame < proven && bytes < bytes_max {
            // A later use that goes on from here is the record of a cut.
            let cut = firsts.iter().rposition(|first| first.as_ref().is_some_and(|first| first.continues(&self.at)));
            let present = files.iter().rposition(|file| file.journal == self.at.journal);
            let behind = self.at.position + u64::from(self.at.frame_len);
            let place = cut.map(|n| (n, FIRST_FRAME_AT)).or(present.map(|n| (n, behind)));
            let next = place.map_or(Ok(None), |(n, position)| self.read_at(&files[n], position, &mut window))?;
            let Some(next) = next else { break };
            bytes += next.bytes.len();
            self.at = next.frame;
            frames.push(next);
        }
        Ok(if frames.is_empty() { Followed::Gone } else { Followed::Frames(frames) })
    }

    /// The header of the first frame of a file's present use.
    fn header(&self, file: &RingFile) -> Result<Option<FrameHeader>> {
        let block = self.io.read_at(&file.file, FIRST_FRAME_AT, BLOCK)?;
        let salt = self.identity.salt(file.journal);
        Ok(FrameHeader::decode(&block, self.identity.store, file.journal, salt, FIRST_FRAME_AT).ok())
    }

    /// The frame at byte `position` of `file`, if it is valid and continues the chain.
    fn read_at(&self, file: &RingFile, position: u64, window: &mut Option<Window>) -> Result<Option<FollowedFrame>> {
        let salt = self.identity.salt(file.journal);
        let Some(head) = self.bytes(file, position, BLOCK, window)? else { return Ok(None) };
        let Ok(header) = FrameHeader::decode(&head, self.identity.store, file.journal, salt, position) else {
            return Ok(None);
        };
        if !header.continues(&self.at) || position + u64::from(header.frame_len) > file.bytes {
            return Ok(None);
        }
        let Some(mut bytes) = self.bytes(file, position, header.frame_len as usize, window)? else { return Ok(None) };
        if !header.payload_intact(&bytes, salt) {
            return Ok(None);
        }
        let frame = header.as_ref(header_hash(&bytes));
        bytes.truncate(HEADER_LEN + header.payload_len as usize);
        Ok(Some(FollowedFrame { header, frame, bytes }))
    }

    /// `len` bytes at byte `at`, which are a multiple of a block; None past the end of the file.
    fn bytes(&self, file: &RingFile, at: u64, len: usize, window: &mut Option<Window>) -> Result<Option<Vec<u8>>> {
        let end = at + len as u64;
        if end > file.bytes {
            return Ok(None);
        }
        let covers = |w: &Window| {
            w.file.slot == file.slot
                && w.file.journal == file.journal
                && w.at <= at
                && end <= w.at + w.bytes.len() as u64
        };
        if !window.as_ref().is_some_and(covers) {
            let want = (WINDOW_BYTES.max(len) as u64).min(file.bytes - at) as usize / BLOCK * BLOCK;
            let bytes = self.io.read_in_pieces(&file.file, at, want)?;
            *window = Some(Window { file: file.clone(), at, bytes });
        }
        let part = window.as_ref().and_then(|w| w.bytes.get((at - w.at) as usize..(end - w.at) as usize));
        Ok(part.map(<[u8]>::to_vec))
    }
}
