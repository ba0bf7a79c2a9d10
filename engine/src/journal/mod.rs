//! The journal's files. What is in their frames is `format`'s business, writing them `commit`'s, and reading them back
//! `recovery`'s.

pub mod follow;
pub mod names;
pub mod pace;
pub mod ring;

use crate::format::frame::FrameRef;
use crate::sync::{Arc, AtomicU64, Mutex, Ordering};
use crate::types::{FrameNo, ManifestVersion, TimeUs};
use pace::InUse;
use ring::Ring;

/// What the committer, the flush and recovery share of the journal.
#[derive(Debug)]
pub struct Journal {
    /// The files.
    pub ring: Ring,
    /// The last frame whose entries are in place, and its time. Written by whoever commits, before the
    /// watermark moves.
    published: Mutex<(FrameRef, TimeUs)>,
    /// The last frame that a watermark on disk proves durable. Stored with Release behind that frame; pairs with the Acquire
    /// load of who follows the journal.
    proven: AtomicU64,
    /// The manifest version in force, named by each frame. Stored with Release after the version is durable; pairs
    /// with the committer's Acquire load.
    manifest: AtomicU64,
}

impl Journal {
    /// A journal that ends with `end`.
    #[must_use]
    pub fn new(ring: Ring, end: FrameRef, time: TimeUs, manifest: ManifestVersion) -> Arc<Self> {
        Arc::new(Self {
            ring,
            published: Mutex::new((end, time)),
            proven: AtomicU64::new(0),
            manifest: AtomicU64::new(manifest.0),
        })
    }

    /// The last frame whose entries are in place, and its time.
    #[must_use]
    pub fn published(&self) -> (FrameRef, TimeUs) {
        *self.published.lock()
    }

    /// The file that is written, and how much of it is used by what is published.
    #[must_use]
    pub fn in_use(&self) -> InUse {
        let (end, _) = self.published();
        // Of a use in which nothing is published yet, nothing is used.
        let is_present = end.journal.next() == self.ring.next_journal();
        let used = if is_present { end.position + u64::from(end.frame_len) } else { 0 };
        InUse { bytes: self.ring.present_bytes(), used }
    }

    /// A frame's entries are in place.
    pub fn set_published(&self, frame: FrameRef, time: TimeUs) {
        *self.published.lock() = (frame, time);
    }

    /// The last frame that a watermark on disk proves durable, so that no crash cuts it; 0 until this process has proved one.
    #[must_use]
    pub fn proven(&self) -> FrameNo {
        FrameNo(self.proven.load(Ordering::Acquire))
    }

    /// A frame whose watermark names `frame` is durable.
    pub fn set_proven(&self, frame: FrameNo) {
        self.proven.store(frame.0, Ordering::Release);
    }

    /// The manifest version in force.
    #[must_use]
    pub fn manifest(&self) -> ManifestVersion {
        ManifestVersion(self.manifest.load(Ordering::Acquire))
    }

    /// A manifest version is durable.
    pub fn set_manifest(&self, version: ManifestVersion) {
        self.manifest.store(version.0, Ordering::Release);
    }
}
