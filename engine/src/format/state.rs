//! A log's state and its encoding in segments. docs/FORMAT.md, "State".

use crate::types::{LogId, Lsn, Seq, TimeUs, Timeline};
use std::collections::{BTreeMap, VecDeque};

/// Everything the store knows of a log beside its records.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogState {
    /// The seq that the next record gets.
    pub next_seq: Seq,
    /// The LSN of the last entry that this state includes; 0 if there is none.
    pub last_lsn: Lsn,
    /// Creation, end and what else is small.
    pub life: Life,
    /// Which timelines wrote to the log, each with its first seq there.
    pub timelines: Vec<(Timeline, Seq)>,
    /// The caller's metadata.
    pub metadata: Vec<u8>,
    /// The producers that wrote to the log.
    pub producers: Producers,
    /// For each group, the LSN of its last change; 0 if it was never changed.
    pub changed: Changed,
}

/// The LSN of the last change of each group of [`LogState`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Of [`LogState::life`].
    pub life: Lsn,
    /// Of [`LogState::timelines`].
    pub timelines: Lsn,
    /// Of [`LogState::metadata`].
    pub metadata: Lsn,
    /// Of [`LogState::producers`].
    pub producers: Lsn,
}

impl Changed {
    /// The last change of any group.
    #[must_use]
    pub fn last(&self) -> Lsn {
        self.life.max(self.timelines).max(self.metadata).max(self.producers)
    }
}

/// Where a log stands in its life. The numbers are on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Phase {
    /// Never created.
    #[default]
    Absent = 0,
    /// Created and not deleted.
    Live = 1,
    /// Deleted.
    Deleted = 2,
}

/// Creation, end and what else is small.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Life {
    /// The LSN of the (last) creation.
    pub created: Lsn,
    /// Never created, live or deleted.
    pub phase: Phase,
    /// Whether it takes no more records.
    pub closed: bool,
    /// The first seq that is kept.
    pub trim: Seq,
    /// When it was deleted.
    pub deleted_at: TimeUs,
    /// Reserved for expiry: 0.
    pub expiry: TimeUs,
    /// The opaque tag of the last batch that had one.
    pub tag: Vec<u8>,
    /// The parent and the seq of the fork.
    pub fork: Option<(LogId, Seq)>,
}

/// The producers that wrote to a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Producers {
    /// How many the log knows in all, those in older state records included.
    pub known: u32,
    /// The LSN of the state record with the older part; 0 if there is none.
    pub older: Lsn,
    /// Those held here, by id.
    pub list: BTreeMap<Vec<u8>, Producer>,
}

/// One producer of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Producer {
    /// Its epoch.
    pub epoch: u64,
    /// Its last batches, oldest first, at most [`crate::limits::PRODUCER_WINDOW`]; never empty.
    pub batches: VecDeque<Issued>,
}

/// What a producer's batch became.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Issued {
    /// Its number within the epoch.
    pub number: u64,
    /// The digest of its content for this log.
    pub digest: u64,
    /// The LSN of its last entry for this log.
    pub lsn: Lsn,
    /// The log's next seq before it.
    pub first_seq: Seq,
    /// The log's next seq after it.
    pub next_seq: Seq,
}
