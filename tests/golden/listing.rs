//! What a store holds, in a form that is the same wherever it comes from: from the oracle, from either reader, or from
//! a file that is checked in.
//!
//! Contents of records are told by length and hash, and timelines by their counters, since their random halves are drawn
//! anew each time. Invariant: two listings are equal only if the stores cannot be told apart by any call but those that
//! show random numbers.

use crate::reader;
use everlog::{Batch, ErrorKind, LogInfo, Page, ReadLimit, ReadOnly, Store};
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

/// A store.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// The last LSN.
    pub end: u64,
    /// The counters of its timelines.
    pub timelines: Vec<u32>,
    /// Its logs by name, the deleted ones too.
    pub logs: BTreeMap<String, Log>,
    /// Logs that were deleted for longer than the grace once, so that what was before may be known and need not be. Not
    /// told of a store that is checked in, of which it is known what is gone.
    #[serde(skip)]
    pub forgotten: BTreeSet<String>,
}

/// A log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Log {
    /// It was deleted, or has expired.
    pub deleted: bool,
    /// It is to expire.
    #[serde(default)]
    pub expires: bool,
    /// It takes no more records.
    pub closed: bool,
    /// The first seq kept.
    pub first: u64,
    /// The seq of the next record.
    pub next: u64,
    /// The LSN of its creation.
    pub created: u64,
    /// The caller's metadata.
    pub metadata: String,
    /// The tag.
    pub tag: String,
    /// Where it was forked from its parent, as long as that is kept.
    pub forked_at: Option<u64>,
    /// The counters of the timelines that wrote to it, each with its first seq.
    pub timelines: Vec<(u32, u64)>,
    /// Its producers by id.
    pub producers: BTreeMap<String, Producer>,
    /// The records that are kept; none if it is deleted.
    pub records: Vec<Record>,
}

/// A record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its place in its log.
    pub seq: u64,
    /// Its place in the order of all.
    pub lsn: u64,
    /// Its time in microseconds.
    pub time: u64,
    /// Bytes of its content.
    pub len: u64,
    /// The first 16 digits of the content's BLAKE3.
    pub hash: String,
}

/// A producer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Producer {
    /// Its epoch.
    pub epoch: u64,
    /// Its last batches, at most 64.
    pub sent: Vec<Sent>,
}

/// A numbered batch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// Its number.
    pub number: u64,
    /// The digest of what was asked.
    pub digest: String,
    /// The LSN of its last entry for the log.
    pub lsn: u64,
    /// The log's next seq before its records.
    pub first: u64,
    /// The log's next seq after them.
    pub next: u64,
}

/// Bytes as text.
#[must_use]
pub fn text(bytes: &[u8]) -> String {
    bytes.escape_ascii().to_string()
}

impl Record {
    /// A record with this content.
    #[must_use]
    pub fn new(seq: u64, lsn: u64, time: u64, payload: &[u8]) -> Self {
        let hash = blake3::hash(payload).to_hex()[..16].to_owned();
        Self { seq, lsn, time, len: payload.len() as u64, hash }
    }
}

impl Listing {
    /// Without what no call of the engine shows: the producers.
    #[must_use]
    pub fn without_producers(mut self) -> Self {
        self.logs.values_mut().for_each(|log| log.producers.clear());
        self
    }

    /// Where the two differ first, if they do.
    #[must_use]
    pub fn difference(&self, found: &Self) -> Option<String> {
        let ends = |listing: &Self| (listing.end, listing.timelines.clone());
        if ends(self) != ends(found) {
            return Some(format!("end and timelines are {:?}, expected {:?}", ends(found), ends(self)));
        }
        let names = self.logs.keys().chain(found.logs.keys());
        names
            .filter(|name| self.shown(self, name) != self.shown(found, name))
            .map(|name| self.differing(found, name))
            .next()
    }

    /// What counts of a log of `of`: of one that was forgotten, nothing unless it was created again.
    fn shown<'a>(&self, of: &'a Self, name: &str) -> Option<&'a Log> {
        of.logs.get(name).filter(|log| !(log.deleted && self.forgotten.contains(name)))
    }

    fn differing(&self, found: &Self, name: &str) -> String {
        let (Some(expected), Some(found)) = (self.logs.get(name), found.logs.get(name)) else {
            return format!("log {name} is in one of the two alone, expected is {:?}", self.logs.get(name));
        };
        let differ = expected.records.iter().zip(&found.records).find(|(expected, found)| expected != found);
        let count = (expected.records.len(), found.records.len());
        let bare = |log: &Log| Log { records: Vec::new(), ..log.clone() };
        format!(
            "log {name}: expected {:?}, found {:?}; records expected and found: {count:?}, the first that differ: {differ:?}",
            bare(expected),
            bare(found)
        )
    }
}

impl From<&reader::Contents> for Listing {
    fn from(contents: &reader::Contents) -> Self {
        let logs = contents.logs.iter().map(|(name, log)| (name.clone(), Log::from(log)));
        let timelines = contents.timelines.iter().map(|timeline| timeline.counter).collect();
        Self { end: contents.end, timelines, logs: logs.collect(), forgotten: BTreeSet::new() }
    }
}

impl From<&reader::Log> for Log {
    fn from(log: &reader::Log) -> Self {
        let sent = |sent: &reader::Sent| Sent {
            number: sent.number,
            digest: format!("{:016x}", sent.digest),
            lsn: sent.lsn,
            first: sent.first,
            next: sent.next,
        };
        let producer = |producer: &reader::Producer| Producer {
            epoch: producer.epoch,
            sent: producer.sent.iter().map(sent).collect(),
        };
        Self {
            deleted: log.deleted,
            expires: log.expires,
            closed: log.closed,
            first: log.first,
            next: log.next,
            created: log.created,
            metadata: text(&log.metadata),
            tag: text(&log.tag),
            forked_at: log.forked_at,
            timelines: log.timelines.iter().map(|(counter, _, first)| (*counter, *first)).collect(),
            producers: log.producers.iter().map(|(id, sent)| (text(id), producer(sent))).collect(),
            records: log.records.iter().map(|r| Record::new(r.seq, r.lsn, r.time, &r.payload)).collect(),
        }
    }
}

/// A store open for reading, in one way or the other.
pub trait Reads {
    /// What is durable of a log.
    ///
    /// # Errors
    /// As the engine's.
    fn info(&self, log: &str) -> everlog::Result<LogInfo>;
    /// Records of a log.
    ///
    /// # Errors
    /// As the engine's.
    fn page(&self, log: &str, from: u64) -> everlog::Result<Page>;
    /// All logs that are not deleted.
    ///
    /// # Errors
    /// As the engine's.
    fn list(&self) -> everlog::Result<Vec<LogInfo>>;
}

macro_rules! reads {
    ($store:ty) => {
        impl Reads for $store {
            fn info(&self, log: &str) -> everlog::Result<LogInfo> {
                <$store>::info(self, log)
            }

            fn page(&self, log: &str, from: u64) -> everlog::Result<Page> {
                self.read(log, from, ReadLimit::default())
            }

            fn list(&self) -> everlog::Result<Vec<LogInfo>> {
                <$store>::list(self, "", None, 10_000)
            }
        }
    };
}
reads!(Store);
reads!(ReadOnly);

/// What the engine finds in a store that is looked at, without producers.
///
/// # Errors
/// As [`shown`].
pub fn looked_at(look: &ReadOnly, expected: &Listing) -> everlog::Result<Listing> {
    let summary = look.summary();
    let timelines = summary.timelines.iter().map(|start| start.timeline.counter).collect();
    shown(look, expected, summary.end.0, timelines)
}

/// Where a store that is open differs from `expected`, if it does. Its open began a timeline of its own.
///
/// # Errors
/// As [`shown`].
pub fn opened_differs(store: &Store, expected: &Listing) -> everlog::Result<Option<String>> {
    let report = store.recovery();
    let found = shown(store, expected, report.end.0, expected.timelines.clone())?;
    if let Some(difference) = expected.clone().without_producers().difference(&found) {
        return Ok(Some(difference));
    }
    for (name, log) in expected.logs.iter().filter(|(_, log)| !log.deleted && !log.closed) {
        for (id, producer) in &log.producers {
            if let Some(what) = producer_differs(store, name, id, producer)? {
                return Ok(Some(format!("log {name}, producer {id}: {what}")));
            }
        }
    }
    Ok(None)
}

/// A number far ahead is refused, and the refusal says which one is next; nothing is stored.
fn producer_differs(store: &Store, log: &str, id: &str, expected: &Producer) -> everlog::Result<Option<String>> {
    let next = expected.sent.last().map_or(0, |sent| sent.number + 1);
    let mut batch = Batch::new();
    batch.log(log).record(b"ahead").producer(id.as_bytes(), expected.epoch, next + 1);
    let answer = match store.append(batch)?.try_get() {
        Some(Err(e)) if e.kind() == ErrorKind::Damaged => return Err(e),
        other => other,
    };
    let gap = |e: &everlog::Error| e.kind() == ErrorKind::ProducerGap && e.expected() == Some(next);
    let right = matches!(&answer, Some(Err(e)) if gap(e));
    Ok((!right).then(|| format!("next is {next}, the store says {answer:?}")))
}

/// What the engine shows of the logs of `expected`, without their producers; and that it lists those that live.
///
/// # Errors
/// The first error, and the log it was about.
pub fn shown(store: &impl Reads, expected: &Listing, end: u64, timelines: Vec<u32>) -> everlog::Result<Listing> {
    let mut logs = BTreeMap::new();
    for name in expected.logs.keys() {
        if let Some(log) = log(store, name)? {
            logs.insert(name.clone(), log);
        }
    }
    // Names that are listed and not expected are shown, too, so that they are a difference.
    for info in store.list()? {
        if !logs.contains_key(&info.name)
            && let Some(log) = log(store, &info.name)?
        {
            logs.insert(info.name, log);
        }
    }
    Ok(Listing { end, timelines, logs, forgotten: BTreeSet::new() })
}

/// What the engine shows of a log, without its producers; None if it says that there is none.
///
/// # Errors
/// The engine's.
pub fn log(store: &impl Reads, name: &str) -> everlog::Result<Option<Log>> {
    let info = match store.info(name) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let mut records = Vec::new();
    let mut at = info.first_seq;
    while !info.deleted && at < info.next_seq {
        let page = store.page(name, at)?;
        assert!(page.next_seq > at, "log {name}: reading from {at} gets on");
        at = page.next_seq;
        records.extend(page.records.iter().map(|r| Record::new(r.seq, r.lsn.0, r.time.0, &r.payload)));
    }
    Ok(Some(Log {
        deleted: info.deleted,
        expires: info.expires_in.is_some(),
        closed: info.closed,
        first: info.first_seq,
        next: info.next_seq,
        created: info.created.0,
        metadata: text(&info.metadata),
        tag: text(&info.tag),
        forked_at: info.forked_at,
        timelines: info.timelines.iter().map(|(timeline, first)| (timeline.counter, first.0)).collect(),
        producers: BTreeMap::new(),
        records,
    }))
}
