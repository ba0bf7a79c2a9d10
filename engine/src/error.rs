//! The engine's one error type. Its kind says what the caller must do; its text says what happened, where, and the
//! remedy.

use crate::types::Cursor;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The engine's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, named by what the caller must do about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// Fix the request: a limit, a name or an argument is wrong.
    Invalid,
    /// The log does not exist; create it.
    NotFound,
    /// The log was deleted; undelete it, or create it again.
    Deleted,
    /// The position lies below the log's trim point.
    Trimmed,
    /// The moment lies further back than the grace keeps history: ask for the LSN [`Error::expected`] or a later one.
    Forgotten,
    /// The cursor lies on a stretch of history that the log does not have: the store was restored or lost its end. Go on
    /// from the cut ([`Error::cut`]), and append again what is missing, or set it aside ([`Error::is_taken_back`]).
    Rewound,
    /// The log exists already.
    Exists,
    /// The log is closed and takes no more records.
    Closed,
    /// A condition of the batch (next seq, cursor, tag) does not hold; read the log and decide.
    Condition,
    /// The log was deleted and created again since; look it up anew.
    Replaced,
    /// The producer's number leaves a gap; send the expected one first ([`Error::expected`]).
    ProducerGap,
    /// A newer epoch of the producer exists; stop this one.
    ProducerFenced,
    /// The producer used this number for other content before.
    ProducerConflict,
    /// It cannot be done without waiting for the disk, for memory or for another caller; use the call that blocks.
    WouldBlock,
    /// Back off and retry ([`Error::retry_after`]): memory or the journal is full at this moment.
    Overloaded,
    /// The fate of the operation is unknown: open the store again and repeat it with its producer number.
    Unknown,
    /// The store stopped acknowledging after a failed write or sync; open it again once the disk is sound.
    Poisoned,
    /// Stored bytes cannot be proved intact; restore what the error names.
    Damaged,
    /// The store is wrong here (identity, format, missing or present where it must not be); nothing was written.
    Refused,
    /// Another process has the store open.
    Locked,
    /// A cold store cannot be reached, or did not do what was asked of it; it is tried again.
    Cold,
    /// Another owner has taken the store over in its cold store: this one acknowledges nothing any more.
    Fenced,
    /// The operating system refused an operation.
    Io,
    /// The store is closed.
    ShutDown,
}

/// What happened, where, and what to do next.
#[derive(Debug, thiserror::Error)]
pub struct Error {
    inner: Box<Inner>,
}

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    message: String,
    remedy: Option<String>,
    log: Option<String>,
    seqs: Option<Range<u64>>,
    lsns: Option<Range<u64>>,
    file: Option<PathBuf>,
    offset: Option<u64>,
    expected: Option<u64>,
    cut: Option<Cursor>,
    is_taken_back: bool,
    beyond: Option<(u64, u64)>,
    retry_after: Option<Duration>,
    source: Option<std::io::Error>,
}

impl Error {
    /// An error of `kind`; `message` says what happened, without a full stop.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            inner: Box::new(Inner {
                kind,
                message: message.into(),
                remedy: None,
                log: None,
                seqs: None,
                lsns: None,
                file: None,
                offset: None,
                expected: None,
                cut: None,
                is_taken_back: false,
                beyond: None,
                retry_after: None,
                source: None,
            }),
        }
    }

    /// An operating system error on `file`.
    pub fn io(what: &str, file: &Path, source: std::io::Error) -> Self {
        let mut error = Self::new(ErrorKind::Io, format!("{what} failed")).file(file);
        error.inner.remedy = match source.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => {
                Some("free space on that file system".to_owned())
            }
            std::io::ErrorKind::ReadOnlyFilesystem => Some("mount that file system for writing".to_owned()),
            std::io::ErrorKind::PermissionDenied => Some("give this user the right to it".to_owned()),
            _ => None,
        };
        error.inner.source = Some(source);
        error
    }

    /// Says what to do next.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.inner.remedy = Some(remedy.into());
        self
    }

    /// Names the log.
    #[must_use]
    pub fn log(mut self, log: impl Into<String>) -> Self {
        self.inner.log = Some(log.into());
        self
    }

    /// Names the seqs concerned, the end excluded.
    #[must_use]
    pub fn seqs(mut self, seqs: Range<u64>) -> Self {
        self.inner.seqs = Some(seqs);
        self
    }

    /// Names the LSNs concerned, the end excluded.
    #[must_use]
    pub fn lsns(mut self, lsns: Range<u64>) -> Self {
        self.inner.lsns = Some(lsns);
        self
    }

    /// Names the file.
    #[must_use]
    pub fn file(mut self, file: &Path) -> Self {
        self.inner.file = Some(file.to_owned());
        self
    }

    /// Names the byte offset in the file.
    #[must_use]
    pub fn offset(mut self, offset: u64) -> Self {
        self.inner.offset = Some(offset);
        self
    }

    /// The number that would have been accepted (next seq, producer number).
    #[must_use]
    pub fn expecting(mut self, expected: u64) -> Self {
        self.inner.expected = Some(expected);
        self
    }

    /// Where the history that was asked for and the log's part.
    #[must_use]
    pub fn cut_at(mut self, cut: Cursor) -> Self {
        self.inner.cut = Some(cut);
        self
    }

    /// The store was taken back on purpose since what was asked for.
    #[must_use]
    pub fn taken_back(mut self) -> Self {
        self.inner.is_taken_back = true;
        self.inner.remedy = Some("set aside what is newer, and go on with what the store has".to_owned());
        self
    }

    /// What was asked for is larger than it may be: bytes, and the limit.
    #[must_use]
    pub fn beyond_limit(mut self, asked: u64, limit: u64) -> Self {
        self.inner.beyond = Some((asked, limit));
        self
    }

    /// When a retry may succeed.
    #[must_use]
    pub fn retry_in(mut self, after: Duration) -> Self {
        self.inner.retry_after = Some(after);
        self
    }

    /// What the caller must do.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.inner.kind
    }

    /// The log concerned: its name, or its id in hexadecimal where the name is not known.
    #[must_use]
    pub fn log_name(&self) -> Option<&str> {
        self.inner.log.as_deref()
    }

    /// The seqs concerned, the end excluded.
    #[must_use]
    pub fn seq_range(&self) -> Option<Range<u64>> {
        self.inner.seqs.clone()
    }

    /// The LSNs concerned, the end excluded.
    #[must_use]
    pub fn lsn_range(&self) -> Option<Range<u64>> {
        self.inner.lsns.clone()
    }

    /// The file concerned.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.inner.file.as_deref()
    }

    /// The number that would have been accepted.
    #[must_use]
    pub fn expected(&self) -> Option<u64> {
        self.inner.expected
    }

    /// Where the history that was asked for and the log's part: everything before is common to both.
    #[must_use]
    pub fn cut(&self) -> Option<Cursor> {
        self.inner.cut
    }

    /// Whether the position is of a history that the store was taken back from on purpose ([`ErrorKind::Rewound`]), or of
    /// a log that it has not ([`ErrorKind::NotFound`], [`ErrorKind::Deleted`]) and may have had then: what is newer is to
    /// be set aside, where it is to be appended again otherwise.
    #[must_use]
    pub fn is_taken_back(&self) -> bool {
        self.inner.is_taken_back
    }

    /// Where a record or a batch is too large: its bytes, and how many fit.
    #[must_use]
    pub fn limit(&self) -> Option<(u64, u64)> {
        self.inner.beyond
    }

    /// When a retry may succeed.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        self.inner.retry_after
    }

    /// The operating system's error, where there is one.
    #[must_use]
    pub fn os_error(&self) -> Option<&std::io::Error> {
        self.inner.source.as_ref()
    }

    /// Whether room or descriptors are wanting: it passes once there are some, and says nothing about the disk.
    pub(crate) fn is_shortage(&self) -> bool {
        const ENFILE: i32 = 23;
        const EMFILE: i32 = 24;
        let code = self.os_error().and_then(std::io::Error::raw_os_error);
        self.is_full_disk() || matches!(code, Some(ENFILE | EMFILE))
    }

    /// Whether room on the disk is wanting.
    pub(crate) fn is_full_disk(&self) -> bool {
        use std::io::ErrorKind::{QuotaExceeded, StorageFull};
        self.os_error().is_some_and(|e| matches!(e.kind(), StorageFull | QuotaExceeded))
    }

    /// Whether the device says of the place itself that it cannot be read, so that no later attempt reads it: EIO, and
    /// ENODATA and EILSEQ, as which Linux passes on a medium's error and a wrong checksum past the page cache.
    pub(crate) fn is_bad_sector(&self) -> bool {
        const EIO: i32 = 5;
        const ENODATA: i32 = 61;
        const EILSEQ: i32 = 84;
        matches!(self.os_error().and_then(std::io::Error::raw_os_error), Some(EIO | ENODATA | EILSEQ))
    }

    /// What to do next, where something can be done.
    #[must_use]
    pub fn advice(&self) -> Option<&str> {
        self.inner.remedy.as_deref()
    }

    /// What happened, alone.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.inner.message
    }
}

impl Clone for Error {
    fn clone(&self) -> Self {
        let i = &*self.inner;
        Self {
            inner: Box::new(Inner {
                kind: i.kind,
                message: i.message.clone(),
                remedy: i.remedy.clone(),
                log: i.log.clone(),
                seqs: i.seqs.clone(),
                lsns: i.lsns.clone(),
                file: i.file.clone(),
                offset: i.offset,
                expected: i.expected,
                cut: i.cut,
                is_taken_back: i.is_taken_back,
                beyond: i.beyond,
                retry_after: i.retry_after,
                source: i.source.as_ref().map(|e| match e.raw_os_error() {
                    Some(code) => std::io::Error::from_raw_os_error(code),
                    None => std::io::Error::new(e.kind(), e.to_string()),
                }),
            }),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let i = &*self.inner;
        f.write_str(&i.message)?;
        if let Some(log) = &i.log {
            write!(f, ", log {log}")?;
        }
        if let Some(seqs) = &i.seqs {
            write!(f, ", seqs {}–{}", seqs.start, seqs.end.saturating_sub(1))?;
        }
        if let Some(lsns) = &i.lsns {
            if lsns.end == u64::MAX {
                write!(f, ", LSN {}–unknown", lsns.start)?;
            } else {
                write!(f, ", LSN {}–{}", lsns.start, lsns.end.saturating_sub(1))?;
            }
        }
        if let Some(expected) = i.expected {
            write!(f, ", expected {expected}")?;
        }
        if let Some(cut) = i.cut {
            write!(f, ", common up to {cut}")?;
        }
        if let Some(file) = &i.file {
            write!(f, ", file {}", file.display())?;
        }
        if let Some(offset) = i.offset {
            write!(f, ", offset {offset}")?;
        }
        if let Some(source) = &i.source {
            write!(f, ": {source}")?;
        }
        if let Some(remedy) = &i.remedy {
            write!(f, "; {remedy}")?;
        }
        Ok(())
    }
}
