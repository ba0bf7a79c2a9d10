//! A second reader of the format on disk, written from docs/FORMAT.md alone and sharing no code with the engine.
//!
//! It reads a whole store from the bytes of its files, checks everything that the document lets it check, and gives
//! what the logs hold. Where both readers agree, the document says what the engine does. It is no tool: it keeps the
//! store in memory, knows nothing of a store that moves, writes nothing, and stops at the first thing that is wrong.
//!
//! Invariant: contents are given only if every byte that the store stands on was checked: the identity, every manifest,
//! every block of every segment, every frame of the journal behind the last one flushed, and the header of its file.
//! What the entries say and what the segments' state records say are computed apart and must agree.

mod bytes;
mod entry;
mod filter;
mod fold;
mod heads;
mod journal;
mod segment;
mod states;

pub use fold::{Log, Producer, Record, Sent};
pub use heads::Timeline;

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// The bytes of every file, by its path from the store's directory.
pub type Files = BTreeMap<String, Vec<u8>>;

/// Why a store is not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It is no store, or one of a format or feature that the document does not know.
    Refused {
        /// The file.
        file: String,
        /// What is not known.
        what: String,
    },
    /// Something is not as the document says.
    Damaged {
        /// The file.
        file: String,
        /// The byte offset.
        at: u64,
        /// What is wrong there.
        what: String,
    },
}

impl Fault {
    fn refused(file: &str, what: impl Into<String>) -> Self {
        Self::Refused { file: file.to_owned(), what: what.into() }
    }

    fn damaged(file: &str, at: usize, what: impl Into<String>) -> Self {
        Self::Damaged { file: file.to_owned(), at: at as u64, what: what.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused { file, what } => write!(f, "refused: {file}: {what}"),
            Self::Damaged { file, at, what } => write!(f, "damaged: {file} at byte {at}: {what}"),
        }
    }
}

/// The result of reading.
pub type Result<T> = std::result::Result<T, Fault>;

/// What a store holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contents {
    /// Whether this reader's format may also be written here: no unknown bit of the second kind is set.
    pub writable: bool,
    /// Whether the last process that had it open closed it, or none ever had.
    pub clean: bool,
    /// The last LSN.
    pub end: u64,
    /// The stretches of history, oldest first.
    pub timelines: Vec<Timeline>,
    /// Segments.
    pub segments: usize,
    /// Frames of the journal that are not flushed.
    pub frames: Vec<Framed>,
    /// Bytes that a cut left aside: the files that keep them.
    pub torn: Vec<String>,
    /// The logs by name, the deleted ones too unless they are gone.
    pub logs: BTreeMap<String, Log>,
}

/// Where a frame of the journal stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Framed {
    /// The file.
    pub file: String,
    /// Its place there.
    pub at: usize,
    /// Its length in bytes.
    pub len: usize,
    /// Its number.
    pub number: u64,
    /// The last frame that it proves durable.
    pub proves: u64,
}

/// Reads the store that `files` are.
///
/// # Errors
/// The first thing that is not as the document says.
pub fn read(files: &Files) -> Result<Contents> {
    let identity = heads::identity(files)?;
    let manifest = heads::manifest(files, &identity)?;
    let chain = journal::read(files, &identity, &manifest)?;
    let mut timelines = manifest.timelines.clone();
    chain.begin_timelines(&mut timelines);

    let (mut fold, mut states) = (fold::Fold::new(&identity), states::States::default());
    let mut writable = identity.writable && manifest.writable && chain.writable;
    let (mut next_lsn, mut unnamed) = (1, Vec::new());
    for meta in &manifest.segments {
        let segment = segment::read(files, &identity, &manifest, meta)?;
        writable &= segment.writable;
        if segment.first_lsn != next_lsn {
            return Err(Fault::damaged(&segment.file, 0, format!("LSN {next_lsn} is in no segment")));
        }
        next_lsn = segment.last_lsn + 1;
        fold.segment(&segment)?;
        states.check(&mut fold, &segment, &manifest.segments)?;
        unnamed.extend(segment.unnamed.iter().map(|(log, lsn)| (segment.file.clone(), *log, *lsn)));
    }
    if next_lsn != manifest.flushed.last_lsn + 1 {
        return Err(Fault::damaged(&manifest.file, 0, format!("LSN {next_lsn} is flushed and in no segment")));
    }
    for frame in &chain.frames {
        frame.entries.iter().try_for_each(|entry| fold.apply(&frame.place.file, entry, None))?;
    }
    if let Some((file, ..)) = unnamed.iter().find(|(_, log, lsn)| !fold.named_later(log, *lsn)) {
        return Err(Fault::damaged(file, 0, "a log that was created here is named nowhere"));
    }
    let torn = files.keys().filter(|name| name.ends_with(".torn")).cloned().collect();
    Ok(Contents {
        writable,
        clean: chain.clean,
        end: chain.end,
        timelines,
        segments: manifest.segments.len(),
        frames: chain.frames.into_iter().map(|frame| frame.place).collect(),
        torn,
        logs: fold.into_logs(&fold::Time {
            now: manifest.steady.max(chain.steady).max(manifest.cutoff_time),
            cutoff: manifest.cutoff,
            cutoff_time: manifest.cutoff_time,
        })?,
    })
}

/// The files of the store in `dir`. Panics if they cannot be read.
#[must_use]
pub fn files_of(dir: &Path) -> Files {
    crate::folders::files(dir)
}
