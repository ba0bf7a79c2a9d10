//! The journal's files. What is in their frames is `format`'s business, writing them `commit`'s, and reading them back
//! `recovery`'s.

pub mod names;
pub mod pace;
pub mod ring;

use crate::format::frame::FrameRef;
use crate::sync::{Arc, AtomicU64, Mutex, Ordering};
use crate::types::{ManifestVersion, TimeUs};
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
    /// The manifest version in force, named by each frame. Stored with Release after the version is durable; pairs
    /// with the committer's Acquire load.
    manifest: AtomicU64,
}

impl Journal {
    /// A journal that ends with `end`.
    #[must_use]
    pub fn new(ring: Ring, end: FrameRef, time: TimeUs, manifest: ManifestVersion) -> Arc<Self> {
        Arc::new(Self { ring, published: Mutex::new((end, time)), manifest: AtomicU64::new(manifest.0) })
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
