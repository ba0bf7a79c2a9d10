//! The reading half of an open: from a directory to an index, and to what recovery has to do. It writes nothing.

use crate::config::Config;
use crate::error::{Error, ErrorKind, Result};
use crate::format::frame::FrameHeader;
use crate::format::identity::{self, Identity};
use crate::format::manifest::{Manifest, TimelineStart};
use crate::format::{FORMAT_VERSION, Features};
use crate::index::Index;
use crate::index::set::SegmentSet;
use crate::io::{AlignedBuf, Io};
use crate::journal::names;
use crate::manifest;
use crate::metrics::Metrics;
use crate::recovery::decide::{Action, decide};
use crate::recovery::gather;
use crate::recovery::replay::{Extent, Replay};
use crate::recovery::scan::{Facts, FileFacts, HeaderFacts};
use crate::recovery::settle::Proven;
use crate::segment::{self, Segment};
use crate::sync::Arc;
use crate::types::{BLOCK, FrameNo, JournalId, Lsn, ManifestVersion, TimeUs};
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};

/// What a directory holds.
pub(super) struct Loaded {
    /// A file that forbids this version to write to the store.
    pub unwritable: Option<PathBuf>,
    pub manifest: Manifest,
    pub index: Arc<Index>,
    pub facts: Facts,
    pub action: Action,
    /// The last LSN that was put into the index.
    pub shown: Lsn,
    pub timelines: Vec<TimelineStart>,
    pub last_frames: BTreeMap<JournalId, FrameNo>,
    pub extents: Vec<Extent>,
    pub frames: u64,
    pub entries: u64,
    pub bytes: u64,
    pub metrics: Arc<Metrics>,
}

impl Loaded {
    /// The greatest time of the steady clock on disk. What merges left out since it had expired has expired then, too.
    pub(super) fn stamped(&self) -> TimeUs {
        self.facts.end_steady.max(self.manifest.steady).max(self.manifest.cutoff.time)
    }
}

/// Which of the frames that the scan accepts are put into the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Show {
    /// All of them: nobody writes.
    All,
    /// Those that were proved durable, by the files or already before. The process that has the store open gives
    /// nothing else out.
    Proven(Proven),
}

/// Reads everything that an open needs.
pub(super) fn load(io: &Arc<dyn Io>, dir: &Path, config: &Config, show: Show) -> Result<Loaded> {
    load_as(io, dir, identity(&**io, dir)?, config, show)
}

/// As [`load`], of a directory whose store has this identity, be that in its file yet or not.
pub(super) fn load_as(io: &Arc<dyn Io>, dir: &Path, identity: Identity, config: &Config, show: Show) -> Result<Loaded> {
    let manifest = manifest::load(&**io, dir)?;
    if !manifest.identity.is_of(&identity) {
        return Err(Error::new(ErrorKind::Refused, "the identity and the manifest are of different stores")
            .file(&dir.join(manifest::file_name(manifest.version)))
            .remedy("bring back the directory as a whole, from one copy"));
    }
    let mut segments = Vec::with_capacity(manifest.segments.len());
    for meta in &manifest.segments {
        segments.push(Arc::new(Segment::open(Arc::clone(io), dir, identity.store, meta)?));
    }
    let metrics = Arc::new(Metrics::default());
    let set = SegmentSet { manifest: manifest.clone(), segments };
    let index = Index::new(set, config.heads_max, config.memory_pool_bytes, Arc::clone(&metrics));
    let mut replay = Replay::new(&index, manifest.timelines.clone());
    let mut gate = Gate { replay: &mut replay, held: VecDeque::new(), shown: manifest.flushed.last_lsn };
    let facts = gather(&**io, dir, &manifest, &mut |header, frame| match show {
        Show::All => gate.replay.frame(header, frame),
        Show::Proven(_) => gate.take(header, frame),
    })
    .map_err(|e| unreadable(e, manifest.flushed.last_lsn))?;
    let shown = match show {
        Show::All => facts.end.last_lsn,
        Show::Proven(before) => {
            gate.open(facts.watermark.max(before.frame))?;
            gate.shown
        }
    };
    let action = decide(&facts, manifest.version);
    index.set_watermark(shown);
    let Replay { last_frames, timelines, extents, frames, entries, bytes, .. } = replay;
    let unwritable = unwritable(dir, &identity, &manifest, &index.set().segments, &facts);
    Ok(Loaded {
        unwritable,
        manifest,
        facts,
        action,
        shown,
        timelines,
        last_frames,
        extents,
        frames,
        entries,
        bytes,
        metrics,
        index: Arc::new(index),
    })
}

/// A bad sector of the journal is damage: what was acknowledged may lie there, and no later attempt reads it.
fn unreadable(error: Error, flushed: Lsn) -> Error {
    match error.path() {
        Some(path) if error.is_bad_sector() && names::is_journal(path) => {
            Error::new(ErrorKind::Damaged, format!("the journal cannot be read: {error}"))
                .lsns(flushed.0 + 1..u64::MAX)
                .file(path)
                .remedy("check the disk; everlog verify tells what is affected; restore it from a copy")
        }
        _ => error,
    }
}

/// A file with a feature for whose sake this version may read the store and must not write to it.
fn unwritable(
    dir: &Path, identity: &Identity, manifest: &Manifest, segments: &[Arc<Segment>], facts: &Facts,
) -> Option<PathBuf> {
    let of_segment = |segment: &Arc<Segment>| {
        let path = segment::path(dir, segment.meta().id);
        (path, segment.features())
    };
    let of_journal = |file: &FileFacts| match &file.header {
        HeaderFacts::Valid(header) => Some((file.path.clone(), header.features)),
        HeaderFacts::Blank | HeaderFacts::Damaged(_) => None,
    };
    let heads = [
        (dir.join(identity::FILE_NAME), identity.features),
        (dir.join(manifest::file_name(manifest.version)), manifest.identity.features),
    ];
    let files =
        heads.into_iter().chain(segments.iter().map(of_segment)).chain(facts.files.iter().filter_map(of_journal));
    files.filter(|(_, features)| !features.writable()).map(|(path, _)| path).next()
}

/// Holds frames back until something proves them durable: no more than were in flight at once.
struct Gate<'a, 'r> {
    replay: &'a mut Replay<'r>,
    held: VecDeque<(FrameHeader, AlignedBuf)>,
    shown: Lsn,
}

impl Gate<'_, '_> {
    fn take(&mut self, header: &FrameHeader, frame: AlignedBuf) -> Result<()> {
        self.held.push_back((header.clone(), frame));
        self.open(header.watermark_frame)
    }

    /// Lets the frames up to `proven` through.
    fn open(&mut self, proven: FrameNo) -> Result<()> {
        while let Some((header, frame)) = self.held.pop_front_if(|(header, _)| header.frame <= proven) {
            self.shown = header.last_lsn();
            self.replay.frame(&header, frame)?;
        }
        Ok(())
    }
}

/// Reads the identity, and refuses a directory without one, or of a format this version must not read.
pub(super) fn identity(io: &dyn Io, dir: &Path) -> Result<Identity> {
    let path = dir.join(identity::FILE_NAME);
    let bytes = io.read_all(&path, BLOCK).map_err(|e| match e.os_error().map(std::io::Error::kind) {
        Some(std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory) => {
            Error::new(ErrorKind::Refused, "there is no store here")
                .file(dir)
                .remedy("check that the right disk is mounted, or create one with everlog init")
        }
        _ => e,
    })?;
    let (format, identity) = Identity::decode(&bytes).map_err(|e| {
        Error::new(ErrorKind::Damaged, format!("the identity is damaged: {e}"))
            .file(&path)
            .remedy("bring it back from a copy; every manifest holds the same fields")
    })?;
    check_version(&path, format, identity.features)?;
    Ok(identity)
}

fn check_version(path: &Path, format: u16, features: Features) -> Result<()> {
    let what = if format != FORMAT_VERSION {
        format!("the store has format {format}, this version writes format {FORMAT_VERSION}")
    } else if !features.readable() {
        "the store uses features that this version does not know".to_owned()
    } else {
        return Ok(());
    };
    Err(Error::new(ErrorKind::Refused, what).file(path).remedy("open it with the version that wrote it"))
}

/// The error of an open for writing where only reading is allowed.
pub(super) fn read_only(loaded: &Loaded) -> Option<Error> {
    let path = loaded.unwritable.as_ref()?;
    let what = "the store uses features that this version must not write; it may read them";
    Some(Error::new(ErrorKind::Refused, what).file(path).remedy("open it with the version that wrote it"))
}

/// The error of an open that recovery refuses.
pub(super) fn refusal(action: &Action, dir: &Path, manifest: ManifestVersion) -> Option<Error> {
    let Action::Refuse { lsns, why } = action else { return None };
    Some(
        Error::new(ErrorKind::Damaged, format!("the journal cannot be trusted: {why} (manifest version {manifest})"))
            .lsns(lsns.clone())
            .file(dir)
            .remedy("run everlog verify to see what is affected, and restore it from a copy"),
    )
}
