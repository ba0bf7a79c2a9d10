//! What a store must hold, from what it was asked for and what it answered.
//!
//! It is an oracle: it sees batches and receipts, and no file. It counts LSNs itself and holds every receipt against its
//! own count. Invariant: what is told here follows from the promises alone, so that a listing that is checked in stays
//! right whatever becomes of the readers.

use super::listing::{self, Listing};
use everlog::Receipt;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// One operation on a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Creates it, with metadata.
    Create(Vec<u8>),
    /// Forks it from a log at a seq.
    Fork(String, u64),
    /// A record.
    Record(Vec<u8>),
    /// No more records.
    Close,
    /// Nothing below this seq.
    Trim(u64),
    /// It goes.
    Delete,
    /// It comes back.
    Undelete,
    /// New metadata.
    Metadata(Vec<u8>),
    /// It is to end after so long, or never.
    Expire(Option<Duration>),
}

/// What a batch holds for one log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ask {
    /// The log.
    pub log: String,
    /// What is done to it.
    pub ops: Vec<Op>,
    /// Id, epoch and number of a producer.
    pub producer: Option<(Vec<u8>, u64, u64)>,
    /// A tag.
    pub tag: Option<Vec<u8>>,
}

impl Ask {
    /// Something for a log.
    #[must_use]
    pub fn of(log: &str, ops: impl IntoIterator<Item = Op>) -> Self {
        Self { log: log.to_owned(), ops: ops.into_iter().collect(), ..Self::default() }
    }

    /// Records for a log.
    #[must_use]
    pub fn records<'a>(log: &str, records: impl IntoIterator<Item = &'a [u8]>) -> Self {
        Self::of(log, records.into_iter().map(|record| Op::Record(record.to_vec())))
    }

    /// The same, numbered.
    #[must_use]
    pub fn by(mut self, producer: &str, epoch: u64, number: u64) -> Self {
        self.producer = Some((producer.as_bytes().to_vec(), epoch, number));
        self
    }

    /// The same, with a tag.
    #[must_use]
    pub fn tagged(mut self, tag: &str) -> Self {
        self.tag = Some(tag.as_bytes().to_vec());
        self
    }

    /// The digest of what is asked, as the format has it.
    fn digest(&self) -> u64 {
        let mut hasher = blake3::Hasher::new();
        for op in &self.ops {
            let (kind, argument): (u8, Vec<u8>) = match op {
                Op::Record(payload) => (1, payload.clone()),
                Op::Create(metadata) => (2, metadata.clone()),
                Op::Close => (3, Vec::new()),
                Op::Trim(first) => (4, first.to_le_bytes().to_vec()),
                Op::Delete => (5, Vec::new()),
                Op::Undelete => (6, Vec::new()),
                Op::Metadata(metadata) => (7, metadata.clone()),
                Op::Fork(parent, at) => (8, [&at.to_le_bytes(), parent.as_bytes()].concat()),
                Op::Expire(after) => (9, after.map_or(Vec::new(), |after| after.as_nanos().to_le_bytes().to_vec())),
            };
            hasher.update(&[kind]);
            hasher.update(&(argument.len() as u64).to_le_bytes());
            hasher.update(&argument);
        }
        u64::from_le_bytes(*hasher.finalize().as_bytes().first_chunk().expect("a hash has 32 bytes"))
    }
}

/// A log as it stands, with every record it ever had.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// What is shown of it; its records are put there at the end.
    pub shown: listing::Log,
    /// Its records by seq, a parent's too.
    records: BTreeMap<u64, listing::Record>,
    fork: Option<u64>,
    /// A fork of it pinned it.
    pinned: bool,
    /// It was deleted or has expired, and the grace is over: nothing is certain but where it ended.
    pub over: bool,
    /// It has expired, and may count as deleted or not: another entry may say so before it is created again.
    lapsed: bool,
}

/// All that a store was asked for and answered.
#[derive(Clone, Debug, Default)]
pub struct Told {
    logs: BTreeMap<String, Log>,
    end: u64,
    timelines: Vec<u32>,
    /// The logs that once were over.
    forgotten: BTreeSet<String>,
}

impl Told {
    /// The store was created, and has its first timeline.
    #[must_use]
    pub fn created() -> Self {
        Self { timelines: vec![1], ..Self::default() }
    }

    /// The store was opened, and said that its timeline is the one with this counter.
    pub fn opened(&mut self, timeline: u32) {
        if self.timelines.last() != Some(&timeline) {
            self.timelines.push(timeline);
        }
    }

    /// The logs as they stand.
    #[must_use]
    pub fn logs(&self) -> &BTreeMap<String, Log> {
        &self.logs
    }

    /// The store took a batch at `time` and acknowledged it. Panics if the receipt is not what follows.
    pub fn acknowledged(&mut self, batch: &[Ask], time: u64, receipt: &Receipt) {
        let timeline = *self.timelines.last().expect("a store has a timeline");
        for (ask, receipt) in batch.iter().zip(&receipt.logs) {
            let parent = ask.ops.iter().find_map(|op| match op {
                Op::Fork(parent, _) => Some(self.logs[parent].clone()),
                _ => None,
            });
            let log = self.logs.entry(ask.log.clone()).or_default();
            let mut first = None;
            let counted = self.end + ask.ops.len() as u64;
            if log.lapsed && matches!(ask.ops[0], Op::Create(_)) && receipt.lsn.0 == counted + 1 {
                self.end += 1;
            }
            for op in &ask.ops {
                self.end += 1;
                log.apply(op, self.end, time, timeline, parent.as_ref());
                if matches!(op, Op::Create(_) | Op::Fork(..)) {
                    first = Some(log.shown.next);
                } else if first.is_none() {
                    first = Some(log.shown.next - u64::from(matches!(op, Op::Record(_))));
                }
            }
            let first = first.expect("a batch holds something for each of its logs");
            let expected = (first, log.shown.next, self.end, false);
            let told = (receipt.first_seq, receipt.next_seq, receipt.lsn.0, receipt.duplicate);
            assert_eq!(told, expected, "the receipt for {ask:?}");
            if let Some(tag) = &ask.tag {
                log.shown.tag = listing::text(tag);
            }
            log.sent(ask, first, self.end);
        }
        for (parent, at) in batch.iter().flat_map(|ask| &ask.ops).filter_map(|op| match op {
            Op::Fork(parent, at) => Some((parent, *at)),
            _ => None,
        }) {
            let parent = self.logs.get_mut(parent).expect("a fork has a parent");
            if !parent.pinned && parent.fork.is_none_or(|forked_at| forked_at < at) {
                parent.pinned = true;
                self.end += 1;
            }
        }
    }

    /// The grace is over for all that was deleted so far, and for all that was to expire: what nobody forked may be gone.
    pub fn outwaited(&mut self) {
        for log in self.logs.values_mut().filter(|log| log.shown.expires && !log.shown.deleted) {
            (log.shown.deleted, log.lapsed) = (true, true);
        }
        for (name, log) in self.logs.iter_mut().filter(|(_, log)| log.shown.deleted) {
            log.over = true;
            if !log.pinned {
                self.forgotten.insert(name.clone());
            }
        }
    }

    /// What must be found.
    #[must_use]
    pub fn listing(&self) -> Listing {
        let logs = self.logs.iter().filter(|(_, log)| !log.over || log.pinned).map(|(name, log)| {
            let mut shown = log.shown.clone();
            if !shown.deleted {
                shown.records = log.records.range(shown.first..).map(|(_, record)| record.clone()).collect();
            }
            shown.forked_at = log.fork.filter(|at| *at >= shown.first);
            (name.clone(), shown)
        });
        let (timelines, forgotten) = (self.timelines.clone(), self.forgotten.clone());
        Listing { end: self.end, timelines, logs: logs.collect(), forgotten }
    }
}

impl Log {
    fn apply(&mut self, op: &Op, lsn: u64, time: u64, timeline: u32, parent: Option<&Log>) {
        let shown = &mut self.shown;
        match op {
            Op::Create(metadata) => {
                (self.over, self.lapsed) = (false, false);
                if shown.deleted {
                    if !self.pinned {
                        self.fork = None;
                    }
                    self.forget();
                    // The skipped seq is never used for anything, and counts as written now.
                    self.written_by(timeline);
                    self.shown.next += 1;
                }
                let shown = &mut self.shown;
                shown.first = shown.next;
                shown.metadata = listing::text(metadata);
                self.begin(lsn);
            }
            Op::Fork(_, at) => {
                let parent = parent.expect("a fork has a parent");
                (shown.first, shown.next) = (parent.shown.first, *at);
                shown.timelines = parent.shown.timelines.iter().filter(|(_, first)| first < at).copied().collect();
                self.records = parent.records.range(..at).map(|(seq, record)| (*seq, record.clone())).collect();
                self.fork = Some(*at);
                shown.metadata.clone_from(&parent.shown.metadata);
                self.begin(lsn);
            }
            Op::Record(payload) => {
                self.written_by(timeline);
                let seq = self.shown.next;
                self.records.insert(seq, listing::Record::new(seq, lsn, time, payload));
                self.shown.next += 1;
            }
            Op::Close => shown.closed = true,
            Op::Trim(first) => shown.first = shown.first.max(*first),
            Op::Delete => shown.deleted = true,
            Op::Undelete => (shown.deleted, shown.expires) = (false, false),
            Op::Expire(after) => shown.expires = after.is_some(),
            Op::Metadata(metadata) => shown.metadata = listing::text(metadata),
        }
    }

    /// Of the timelines, only the last record's is of any use.
    fn forget(&mut self) {
        let shown = &mut self.shown;
        let before = shown.next.saturating_sub(1);
        shown.timelines = shown.timelines.last().map(|(last, first)| (*last, before.max(*first))).into_iter().collect();
    }

    fn begin(&mut self, lsn: u64) {
        let shown = &mut self.shown;
        shown.tag.clear();
        (shown.created, shown.closed, shown.deleted, shown.expires) = (lsn, false, false, false);
        shown.producers.clear();
    }

    fn written_by(&mut self, timeline: u32) {
        let shown = &mut self.shown;
        if shown.timelines.last().is_none_or(|(last, _)| *last != timeline) {
            shown.timelines.push((timeline, shown.next));
        }
    }

    fn sent(&mut self, ask: &Ask, first: u64, lsn: u64) {
        let Some((id, epoch, number)) = &ask.producer else { return };
        let producer = self.shown.producers.entry(listing::text(id)).or_default();
        if producer.epoch != *epoch {
            *producer = listing::Producer { epoch: *epoch, sent: Vec::new() };
        }
        if producer.sent.len() == 64 {
            producer.sent.remove(0);
        }
        let digest = format!("{:016x}", ask.digest());
        producer.sent.push(listing::Sent { number: *number, digest, lsn, first, next: self.shown.next });
    }
}
