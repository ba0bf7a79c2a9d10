//! Which segments make up the store, and the one place that changes it: a flush adds one, a merge replaces some by one.
//!
//! It writes no segment and reads none but what opening one takes. Commits are made one after another, each on the set
//! that the one before installed, so that a flush and a merge need not know of one another.
//!
//! Invariants: a set is installed once its manifest is durable; a failed commit poisons, since what the disk holds is
//! unknown then, other than for want of room before the version has its name (docs/adr/0006-a-full-disk-does-not-poison.md).

use crate::error::Result;
use crate::format::frame::FrameRef;
use crate::format::identity::Identity;
use crate::format::manifest::{Manifest, Mark, SegmentMeta, TimelineStart};
use crate::index::Index;
use crate::index::grace::Grace;
use crate::index::set::SegmentSet;
use crate::io::Io;
use crate::journal::Journal;
use crate::manifest;
use crate::poison::Poison;
use crate::segment::{self, Segment};
use crate::sync::{Arc, Mutex};
use crate::types::{SegmentId, TimeUs};
use std::path::{Path, PathBuf};

/// The store's segments and their manifest.
pub struct Catalog {
    parts: CatalogParts,
    /// Held while a version is committed, and for a moment to take an id.
    state: Mutex<State>,
}

/// What a catalog is made of.
pub struct CatalogParts {
    /// The disk.
    pub io: Arc<dyn Io>,
    /// The store's directory.
    pub dir: PathBuf,
    /// Where sets are installed.
    pub index: Arc<Index>,
    /// The journal's files, and the version in force.
    pub journal: Arc<Journal>,
    /// Marks the time in each version.
    pub grace: Arc<Grace>,
    /// Closed by a failed manifest.
    pub poison: Arc<Poison>,
    /// The timelines of the store, this open's included; each version names them all.
    pub timelines: Vec<TimelineStart>,
    /// A number no segment has.
    pub next_segment: SegmentId,
}

struct State {
    next_segment: SegmentId,
}

impl Catalog {
    /// A catalog that goes on from the set in force.
    #[must_use]
    pub fn new(parts: CatalogParts) -> Self {
        let state = Mutex::new(State { next_segment: parts.next_segment });
        Self { parts, state }
    }

    /// The disk.
    #[must_use]
    pub fn io(&self) -> &Arc<dyn Io> {
        &self.parts.io
    }

    /// The store's directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.parts.dir
    }

    /// The store's identity.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.parts.index.identity
    }

    /// The timelines that led here, oldest first.
    #[must_use]
    pub fn timelines(&self) -> &[TimelineStart] {
        &self.parts.timelines
    }

    /// An id for a new segment, which is never given again.
    #[must_use]
    pub fn take_id(&self) -> SegmentId {
        let mut state = self.state.lock();
        let id = state.next_segment;
        state.next_segment = id.next();
        id
    }

    /// Nothing is made or named in a directory that is not the store's any more: that poisons.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Refused`] if another directory bears the store's name.
    pub fn check_in_place(&self) -> Result<()> {
        self.parts.journal.ring.check_in_place().inspect_err(|error| self.parts.poison.set(error.clone()))
    }

    /// Whether the last flush failed, so that it needs what room there is.
    #[must_use]
    pub fn is_flush_failing(&self) -> bool {
        self.parts.journal.ring.is_flush_failing()
    }

    /// Removes a segment that no manifest names. Once poisoned nobody knows whether one does, and in a directory that is
    /// not the store's any more another store's manifest does.
    pub fn abandon(&self, id: SegmentId) {
        let Self { parts: CatalogParts { io, dir, journal, poison, .. }, .. } = self;
        if !poison.is_set() && journal.ring.check_in_place().is_ok() {
            let _ = io.remove(&segment::path(dir, id));
        }
    }

    /// Everything up to the frame `end`, which was sealed at `time`, is flushed: into `segment`, or without one if there
    /// was nothing to flush but empty frames.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Io`]; it poisons, other than for want of room or descriptors.
    pub fn commit_flush(&self, segment: Option<SegmentMeta>, end: FrameRef, time: TimeUs) -> Result<()> {
        let opened = segment.as_ref().map(|meta| self.open(meta)).transpose()?;
        let bytes = segment.as_ref().map_or(0, |meta| meta.bytes);
        let grace = &self.parts.grace;
        self.commit(|manifest, segments| {
            grace.mark(manifest);
            manifest.flushed = end;
            manifest.time = time;
            manifest.segments.extend(segment);
            segments.extend(opened);
        })?;
        self.parts.index.metrics.segment_bytes.add(bytes);
        Ok(())
    }

    /// `merged` takes the place of the segments `inputs`, which follow one another in the set; it left out what `cutoff`
    /// covers. Their files are removed; one that cannot be removed is swept at the next open.
    ///
    /// # Errors
    /// As [`Self::commit_flush`].
    pub fn commit_merge(&self, inputs: &[SegmentId], merged: SegmentMeta, cutoff: Mark) -> Result<()> {
        let opened = self.open(&merged)?;
        self.commit(|manifest, segments| {
            let first = manifest.segments.iter().position(|meta| Some(&meta.id) == inputs.first());
            let first = first.expect("only a merge takes segments out of the set");
            let range = first..first + inputs.len();
            assert!(
                manifest.segments[range.clone()].iter().map(|meta| &meta.id).eq(inputs),
                "a merge is of neighbours"
            );
            let before = manifest.cutoff;
            manifest.cutoff = Mark { lsn: before.lsn.max(cutoff.lsn), time: before.time.max(cutoff.time) };
            manifest.segments.splice(range.clone(), [merged]);
            segments.splice(range, [opened]);
        })?;
        inputs.iter().for_each(|id| self.abandon(*id));
        Ok(())
    }

    fn open(&self, meta: &SegmentMeta) -> Result<Arc<Segment>> {
        let io = Arc::clone(&self.parts.io);
        let mut segment = Segment::open(io, &self.parts.dir, self.identity().store, meta)?;
        segment.warm();
        Ok(Arc::new(segment))
    }

    fn commit(&self, change: impl FnOnce(&mut Manifest, &mut Vec<Arc<Segment>>)) -> Result<()> {
        let CatalogParts { io, dir, index, journal, poison, timelines, .. } = &self.parts;
        let state = self.state.lock();
        let before = index.set();
        let mut manifest = Manifest {
            version: before.manifest.version.next(),
            next_segment: state.next_segment,
            next_journal: journal.ring.next_journal(),
            timelines: timelines.clone(),
            ..before.manifest.clone()
        };
        let mut segments = before.segments.clone();
        change(&mut manifest, &mut segments);
        self.check_in_place()?;
        let prepared = manifest::prepare(&**io, dir, &manifest).inspect_err(|error| {
            if !error.is_shortage() {
                poison.set(error.clone());
            }
        })?;
        prepared.commit(&**io).inspect_err(|error| poison.set(error.clone()))?;
        journal.set_manifest(manifest.version);
        index.install(SegmentSet { manifest, segments });
        index.metrics.manifests.add(1);
        Ok(())
    }
}
