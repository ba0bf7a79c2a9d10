//! What a caller asks for: a batch of records and control operations over one log or several, all or nothing.
//!
//! This file holds the request and the checks that need no state; whether its conditions hold is `plan`'s business.

use crate::error::{Error, ErrorKind, Result};
use crate::limits::{
    BATCH_ENTRIES_MAX, METADATA_BYTES_MAX, PRODUCER_ID_BYTES_MAX, TAG_BYTES_MAX, batch_bytes_max, record_bytes_max,
};
use crate::names;
use crate::types::{Cursor, Lsn};
use std::collections::HashMap;
use std::time::Duration;

/// Records and control operations that become durable and visible together or not at all.
///
/// ```
/// let mut batch = everlog::Batch::new();
/// batch.log("users/alice/contacts").create_if_missing().record(b"BEGIN:VCARD...");
/// batch.log("users/alice/settings").expect_next(7).record(b"theme=dark");
/// ```
#[derive(Clone, Debug, Default)]
pub struct Batch<'a> {
    pub(crate) logs: Vec<LogBatch<'a>>,
    /// Where each log but the first stands.
    by_name: HashMap<&'a str, usize>,
}

/// What a batch holds for one log, in the order it was asked for.
#[derive(Clone, Debug)]
pub struct LogBatch<'a> {
    pub(crate) name: &'a str,
    pub(crate) ops: Vec<LogOp<'a>>,
    pub(crate) expect_next: Option<u64>,
    pub(crate) expect_at: Option<Cursor>,
    pub(crate) expect_created: Option<Lsn>,
    pub(crate) tag: Option<&'a [u8]>,
    pub(crate) producer: Option<Numbered<'a>>,
}

/// One operation on a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogOp<'a> {
    Create { metadata: &'a [u8], if_missing: bool },
    Fork { parent: &'a str, at: u64 },
    Record(&'a [u8]),
    Close,
    Trim(u64),
    Delete,
    Undelete,
    Metadata(&'a [u8]),
    Expire(Option<Duration>),
}

/// A producer's numbers as the caller gives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Numbered<'a> {
    pub id: &'a [u8],
    pub epoch: u64,
    pub number: u64,
}

impl<'a> Batch<'a> {
    /// A batch of nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What the batch holds for the log `name`.
    pub fn log(&mut self, name: &'a str) -> &mut LogBatch<'a> {
        let next = self.logs.len();
        let at = if self.logs.first().is_none_or(|first| first.name == name) {
            0
        } else {
            *self.by_name.entry(name).or_insert(next)
        };
        if at == next {
            self.logs.push(LogBatch::new(name));
        }
        &mut self.logs[at]
    }

    /// The checks that need no state, for journal files of `journal_file_bytes`.
    pub(crate) fn check(&self, journal_file_bytes: u64) -> Result<()> {
        let entries: usize = self.logs.iter().map(|log| log.ops.len()).sum();
        if entries == 0 {
            return Err(Error::new(ErrorKind::Invalid, "the batch is empty").remedy("add a record or an operation"));
        }
        if entries > BATCH_ENTRIES_MAX {
            let what = format!("the batch has {entries} entries, at most {BATCH_ENTRIES_MAX} fit");
            return Err(Error::new(ErrorKind::Invalid, what)
                .beyond_limit(entries as u64, BATCH_ENTRIES_MAX as u64)
                .remedy("split it"));
        }
        self.logs.iter().try_for_each(|log| log.check(record_bytes_max(journal_file_bytes)))?;
        let bytes: usize = self.logs.iter().map(LogBatch::encoded_max).sum();
        let max = batch_bytes_max(journal_file_bytes);
        if bytes > max {
            return Err(Error::new(ErrorKind::Invalid, format!("the batch takes {bytes} bytes, at most {max} fit"))
                .beyond_limit(bytes as u64, max as u64)
                .remedy("split it, or create the store with larger journal files"));
        }
        Ok(())
    }
}

impl<'a> LogBatch<'a> {
    fn new(name: &'a str) -> Self {
        Self {
            name,
            ops: Vec::new(),
            expect_next: None,
            expect_at: None,
            expect_created: None,
            tag: None,
            producer: None,
        }
    }

    /// Creates the log; it must not exist. A deleted log is created again and goes on behind its old records.
    pub fn create(&mut self) -> &mut Self {
        self.create_with(b"")
    }

    /// Creates the log with metadata of at most 4 KiB.
    pub fn create_with(&mut self, metadata: &'a [u8]) -> &mut Self {
        self.ops.push(LogOp::Create { metadata, if_missing: false });
        self
    }

    /// Creates the log unless it exists.
    pub fn create_if_missing(&mut self) -> &mut Self {
        self.ops.push(LogOp::Create { metadata: b"", if_missing: true });
        self
    }

    /// Creates the log as a fork of `parent`: it begins with the parent's records below `at`.
    pub fn fork(&mut self, parent: &'a str, at: u64) -> &mut Self {
        self.ops.push(LogOp::Fork { parent, at });
        self
    }

    /// Appends a record, of at most 8 MiB with journal files of the default size.
    pub fn record(&mut self, payload: &'a [u8]) -> &mut Self {
        self.ops.push(LogOp::Record(payload));
        self
    }

    /// Closes the log: it takes no more records, for ever.
    pub fn close(&mut self) -> &mut Self {
        self.ops.push(LogOp::Close);
        self
    }

    /// Gives up the records below `first_kept`. Their space comes back after [`crate::Config::grace`].
    pub fn trim(&mut self, first_kept: u64) -> &mut Self {
        self.ops.push(LogOp::Trim(first_kept));
        self
    }

    /// Deletes the log. [`Self::undelete`] takes it back for as long as [`crate::Config::grace`] lasts; then its space comes
    /// back, and only where it ended stays known.
    pub fn delete(&mut self) -> &mut Self {
        self.ops.push(LogOp::Delete);
        self
    }

    /// Takes a deletion back, or that the log expired; it does not expire then. After [`crate::Config::grace`] it is refused
    /// as [`ErrorKind::Deleted`].
    pub fn undelete(&mut self) -> &mut Self {
        self.ops.push(LogOp::Undelete);
        self
    }

    /// Has the log expire in `after`, whatever was said of that before; never if it is None. A log that has expired is as a
    /// deleted one: its grace begins then. Time is that of a clock which stands still while the store is closed, and goes
    /// back to its last stamp on disk if that was not closed cleanly: a log may expire late, and never early.
    pub fn expire(&mut self, after: Option<Duration>) -> &mut Self {
        self.ops.push(LogOp::Expire(after));
        self
    }

    /// Replaces the log's metadata, at most 4 KiB.
    pub fn metadata(&mut self, metadata: &'a [u8]) -> &mut Self {
        self.ops.push(LogOp::Metadata(metadata));
        self
    }

    /// The batch holds only if the log's next seq is `seq`.
    pub fn expect_next(&mut self, seq: u64) -> &mut Self {
        self.expect_next = Some(seq);
        self
    }

    /// The batch holds only if the log's end is `cursor`: the same seq, behind a record of the same timeline.
    pub fn expect_at(&mut self, cursor: Cursor) -> &mut Self {
        self.expect_at = Some(cursor);
        self
    }

    /// The batch holds only if the log is the one created at `lsn` ([`crate::LogInfo::created`]), and not one created
    /// again under the same name since.
    pub fn expect_created(&mut self, lsn: Lsn) -> &mut Self {
        self.expect_created = Some(lsn);
        self
    }

    /// The batch holds only if `tag` is greater, bytewise, than the log's; it then becomes the log's.
    pub fn tag(&mut self, tag: &'a [u8]) -> &mut Self {
        self.tag = Some(tag);
        self
    }

    /// Numbers what the batch holds for this log, so that a repetition is answered and not stored again. The numbers
    /// of an epoch begin at 0 and have no gaps; a higher epoch ends the lower ones.
    pub fn producer(&mut self, id: &'a [u8], epoch: u64, number: u64) -> &mut Self {
        self.producer = Some(Numbered { id, epoch, number });
        self
    }

    fn check(&self, record_max: usize) -> Result<()> {
        names::check(self.name)?;
        let refuse =
            |what: String, remedy: &str| Err(Error::new(ErrorKind::Invalid, what).log(self.name).remedy(remedy));
        if self.ops.is_empty() {
            return refuse("the batch names the log and holds nothing for it".into(), "add a record or an operation");
        }
        let only_if_missing = matches!(self.ops[..], [LogOp::Create { if_missing: true, .. }]);
        if only_if_missing && (self.producer.is_some() || self.tag.is_some()) {
            return refuse("a producer or tag with nothing to carry it".into(), "add a record");
        }
        let unfit = |len: usize, max: usize| len == 0 || len > max;
        if let Some(tag) = self.tag.filter(|tag| unfit(tag.len(), TAG_BYTES_MAX)) {
            return refuse(format!("a tag of {} bytes; it has 1 to {TAG_BYTES_MAX}", tag.len()), "choose another");
        }
        if let Some(producer) = self.producer.filter(|p| unfit(p.id.len(), PRODUCER_ID_BYTES_MAX)) {
            let what = format!("a producer's id of {} bytes; it has 1 to {PRODUCER_ID_BYTES_MAX}", producer.id.len());
            return refuse(what, "choose another");
        }
        for (at, op) in self.ops.iter().enumerate() {
            match op {
                LogOp::Record(payload) if payload.len() > record_max => {
                    let what = format!("a record of {} bytes, at most {record_max} fit", payload.len());
                    let larger = |e: Error| e.beyond_limit(payload.len() as u64, record_max as u64);
                    return refuse(what, "split it, or create the store with larger journal files").map_err(larger);
                }
                LogOp::Create { metadata, .. } | LogOp::Metadata(metadata) if metadata.len() > METADATA_BYTES_MAX => {
                    return refuse(
                        format!("metadata of {} bytes, at most {METADATA_BYTES_MAX} fit", metadata.len()),
                        "shorten it",
                    );
                }
                LogOp::Create { .. } | LogOp::Fork { .. } | LogOp::Undelete if at > 0 => {
                    return refuse("a creation, fork or undeletion that is not the first".into(), "put it first");
                }
                LogOp::Delete if at + 1 < self.ops.len() => {
                    return refuse("a deletion that is not the last".into(), "put it last");
                }
                LogOp::Fork { parent, .. } => names::check(parent)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// A bound of the encoded bytes, entries' overhead in memory not included; a fork's timelines neither.
    pub(crate) fn encoded_max(&self) -> usize {
        const ENTRY: usize = 16 + 5 + 2 + 10 + 4;
        let marks =
            self.tag.map_or(0, |tag| tag.len() + 2) + self.producer.map_or(0, |p| p.id.len() + 2 + 10 + 10 + 5 + 5 + 8);
        let ops: usize = self
            .ops
            .iter()
            .map(|op| match op {
                // In the place of a log that expired, a deletion goes first.
                LogOp::Create { metadata, .. } => 2 * ENTRY + self.name.len() + metadata.len() + 4,
                LogOp::Fork { .. } => ENTRY + self.name.len() + 4 + 16 + 10 + 2,
                LogOp::Record(payload) | LogOp::Metadata(payload) => ENTRY + payload.len(),
                LogOp::Trim(_) | LogOp::Expire(_) => ENTRY + 10,
                LogOp::Close | LogOp::Delete | LogOp::Undelete => ENTRY,
            })
            .sum();
        crate::format::entry::BATCH_HEADER_LEN + marks + ops
    }

    /// The first 64 bits of the BLAKE3 of what the batch holds for this log, as the caller gave it.
    pub(crate) fn digest(&self) -> u64 {
        let mut hasher = blake3::Hasher::new();
        for op in &self.ops {
            let made: Vec<u8>;
            let (kind, argument): (u8, &[u8]) = match op {
                LogOp::Record(payload) => (1, payload),
                LogOp::Create { metadata, .. } => (2, metadata),
                LogOp::Close => (3, b""),
                LogOp::Trim(at) => {
                    made = at.to_le_bytes().to_vec();
                    (4, &made)
                }
                LogOp::Delete => (5, b""),
                LogOp::Undelete => (6, b""),
                LogOp::Metadata(metadata) => (7, metadata),
                LogOp::Expire(after) => {
                    made = after.map_or(Vec::new(), |after| after.as_nanos().to_le_bytes().to_vec());
                    (9, &made)
                }
                LogOp::Fork { parent, at } => {
                    made = [&at.to_le_bytes(), parent.as_bytes()].concat();
                    (8, &made)
                }
            };
            hasher.update(&[kind]);
            hasher.update(&(argument.len() as u64).to_le_bytes());
            hasher.update(argument);
        }
        u64::from_le_bytes(*hasher.finalize().as_bytes().first_chunk().expect("BLAKE3 gives 32 bytes"))
    }
}
