//! What the logs hold, from every entry that was ever written, in the order of their LSNs.
//!
//! It follows forks into their parents, and keeps what each group of a log's state was last changed by, so that the
//! state records of segments can be compared. Invariant: an entry that does not fit the log's state is damage.

use super::entry::{Entry, Kind, LogId, Numbered, TimelineId};
use super::heads::Identity;
use super::{Fault, Result};
use std::collections::BTreeMap;

const TIMELINES_MAX: usize = 4096;
const WINDOW: usize = 64;

/// A log as a user of the store sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// It was deleted.
    pub deleted: bool,
    /// It takes no more records.
    pub closed: bool,
    /// The first seq kept.
    pub first: u64,
    /// The seq of the next record.
    pub next: u64,
    /// The caller's metadata.
    pub metadata: Vec<u8>,
    /// The tag of the last batch that had one.
    pub tag: Vec<u8>,
    /// The LSN of its creation.
    pub created: u64,
    /// Where it was forked from its parent.
    pub forked_at: Option<u64>,
    /// Counter, random part and first seq of each stretch of history that wrote to it.
    pub timelines: Vec<(u32, u32, u64)>,
    /// The producers by id.
    pub producers: BTreeMap<Vec<u8>, Producer>,
    /// The records from `first` on; none if it was deleted.
    pub records: Vec<Record>,
}

/// A record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its place in the log.
    pub seq: u64,
    /// Its place in the order of all.
    pub lsn: u64,
    /// The time of its frame, in microseconds.
    pub time: u64,
    /// Its content.
    pub payload: Vec<u8>,
}

/// What a log knows of a producer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Producer {
    /// Its epoch.
    pub epoch: u64,
    /// The last batches of that epoch, at most 64.
    pub sent: Vec<Sent>,
}

/// A numbered batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Its number.
    pub number: u64,
    /// The digest of what was asked for.
    pub digest: u64,
    /// The LSN of its last entry for the log.
    pub lsn: u64,
    /// The log's next seq before its records.
    pub first: u64,
    /// The log's next seq after them.
    pub next: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    #[default]
    Absent = 0,
    Live = 1,
    Deleted = 2,
}

/// The LSNs of the last changes of the groups of a log's state; 0 for one that never was changed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Changed {
    pub life: u64,
    pub timelines: u64,
    pub metadata: u64,
    pub producers: u64,
}

/// A log's state, and all records it ever had.
#[derive(Debug, Default)]
pub struct State {
    pub name: Vec<u8>,
    pub phase: Phase,
    pub closed: bool,
    pub trim: u64,
    pub next: u64,
    pub created: u64,
    pub deleted_at: u64,
    pub tag: Vec<u8>,
    pub fork: Option<(LogId, u64)>,
    pub metadata: Vec<u8>,
    pub timelines: Vec<(TimelineId, u64)>,
    pub producers: BTreeMap<Vec<u8>, Producer>,
    pub changed: Changed,
    records: BTreeMap<u64, Record>,
    /// A numbered batch that is not over: the numbers, the first seq, and how many entries and records are to come.
    batch: Option<(Numbered, u64, u64)>,
}

/// All logs.
pub struct Fold<'a> {
    identity: &'a Identity,
    pub logs: BTreeMap<LogId, State>,
}

impl<'a> Fold<'a> {
    pub fn new(identity: &'a Identity) -> Self {
        Self { identity, logs: BTreeMap::new() }
    }

    /// The next entry, which stands in `file`.
    pub fn apply(&mut self, file: &str, entry: &Entry) -> Result<()> {
        if let Kind::Create { name, .. } = &entry.kind
            && self.identity.log_id(name) != entry.log
        {
            return Err(Fault::damaged(file, 0, "a log is created with a name that is not its LogId's"));
        }
        let state = self.logs.entry(entry.log).or_default();
        state.apply(entry).map_err(|what| Fault::damaged(file, 0, format!("the entry with LSN {}: {what}", entry.lsn)))
    }

    /// The logs by name.
    pub fn into_logs(self) -> Result<BTreeMap<String, Log>> {
        let mut out = BTreeMap::new();
        for state in self.logs.values() {
            let name = String::from_utf8(state.name.clone());
            let name = name.map_err(|_| Fault::damaged("", 0, "a name that is no UTF-8"))?;
            let shown = if state.phase == Phase::Deleted { state.next..state.next } else { state.trim..state.next };
            let records = shown.map(|seq| self.record(state, seq)).collect::<Result<Vec<_>>>()?;
            let log = Log {
                deleted: state.phase == Phase::Deleted,
                closed: state.closed,
                first: state.trim,
                next: state.next,
                metadata: state.metadata.clone(),
                tag: state.tag.clone(),
                created: state.created,
                forked_at: state.fork.map(|(_, at)| at).filter(|at| *at >= state.trim),
                timelines: state
                    .timelines
                    .iter()
                    .map(|((counter, random), first)| (*counter, *random, *first))
                    .collect(),
                producers: state.producers.clone(),
                records,
            };
            out.insert(name, log);
        }
        Ok(out)
    }

    fn record(&self, state: &State, seq: u64) -> Result<Record> {
        if let Some(record) = state.records.get(&seq) {
            return Ok(record.clone());
        }
        let parent = state.fork.filter(|(_, at)| seq < *at).and_then(|(parent, _)| self.logs.get(&parent));
        match parent {
            Some(parent) => self.record(parent, seq),
            None => Err(Fault::damaged("", 0, format!("record {seq} of {} is missing", state.name.escape_ascii()))),
        }
    }
}

impl State {
    fn apply(&mut self, entry: &Entry) -> std::result::Result<(), String> {
        let (lsn, before) = (entry.lsn, self.next);
        let may = match entry.kind {
            Kind::Create { .. } => self.phase != Phase::Live,
            Kind::Undelete => self.phase == Phase::Deleted,
            Kind::Record(_) => self.phase == Phase::Live && !self.closed,
            _ => self.phase == Phase::Live,
        };
        if !may {
            return Err(format!("a {:?} log takes no such entry", self.phase));
        }
        match &entry.kind {
            Kind::Record(payload) => {
                self.written_by(entry.timeline, before, lsn);
                let record = Record { seq: before, lsn, time: entry.time, payload: payload.clone() };
                self.records.insert(before, record);
                self.next += 1;
            }
            Kind::Create { name, metadata, fork } => self.create(entry, name, metadata, fork.as_ref()),
            Kind::Close => self.closed = true,
            Kind::Trim(first) => self.trim = *first,
            Kind::Delete => (self.phase, self.deleted_at) = (Phase::Deleted, entry.time),
            Kind::Undelete => (self.phase, self.deleted_at) = (Phase::Live, 0),
            Kind::Metadata(metadata) => {
                self.metadata.clone_from(metadata);
                self.changed.metadata = lsn;
            }
        }
        if !matches!(entry.kind, Kind::Record(_) | Kind::Metadata(_)) {
            self.changed.life = lsn;
        }
        if let Some(tag) = &entry.tag {
            self.tag.clone_from(tag);
            self.changed.life = lsn;
        }
        let seq = if matches!(entry.kind, Kind::Record(_)) { before } else { self.next };
        if entry.seq != seq {
            return Err(format!("its seq is {}, not {seq}", entry.seq));
        }
        self.number(entry, if matches!(entry.kind, Kind::Create { .. }) { self.next } else { before })
    }

    fn create(&mut self, entry: &Entry, name: &[u8], metadata: &[u8], fork: Option<&super::entry::Fork>) {
        let again = self.phase == Phase::Deleted;
        let old_next = self.next;
        self.name = name.to_vec();
        (self.phase, self.closed, self.deleted_at) = (Phase::Live, false, 0);
        self.created = entry.lsn;
        self.tag.clear();
        self.metadata = metadata.to_vec();
        self.changed.metadata = entry.lsn;
        if again {
            if !self.producers.is_empty() {
                self.changed.producers = entry.lsn;
            }
            self.producers.clear();
            self.written_by(entry.timeline, old_next, entry.lsn);
            (self.next, self.trim) = (old_next + 1, old_next + 1);
        } else if let Some(fork) = fork {
            (self.next, self.trim) = (fork.at, fork.first_kept);
            self.fork = Some((fork.parent, fork.at));
            self.timelines.clone_from(&fork.timelines);
            self.changed.timelines = entry.lsn;
        }
    }

    /// The seq `seq` belongs to `timeline`.
    fn written_by(&mut self, timeline: TimelineId, seq: u64, lsn: u64) {
        if self.timelines.last().is_none_or(|(last, _)| *last != timeline) {
            self.timelines.push((timeline, seq));
            if self.timelines.len() > TIMELINES_MAX {
                self.timelines.remove(0);
            }
            self.changed.timelines = lsn;
        }
    }

    /// Keeps the receipt of a numbered batch once it is over.
    fn number(&mut self, entry: &Entry, first: u64) -> std::result::Result<(), String> {
        if let Some(numbered) = &entry.producer {
            if self.batch.is_some() || numbered.entries == 0 {
                return Err("a numbered batch begins within another".to_owned());
            }
            self.batch = Some((numbered.clone(), first, numbered.entries));
            self.changed.producers = entry.lsn;
        }
        let Some((numbered, first, left)) = &mut self.batch else { return Ok(()) };
        *left -= 1;
        if *left > 0 {
            return Ok(());
        }
        if self.next - *first != numbered.records {
            return Err("a numbered batch with another number of records than it says".to_owned());
        }
        let producer = self.producers.entry(numbered.id.clone()).or_default();
        let goes_on = producer.sent.last().map_or(0, |last| last.number + 1);
        if producer.epoch != numbered.epoch || producer.sent.is_empty() {
            *producer = Producer { epoch: numbered.epoch, sent: Vec::new() };
        } else if numbered.number != goes_on {
            return Err(format!("a producer's number is {}, not {goes_on}", numbered.number));
        }
        if producer.sent.len() == WINDOW {
            producer.sent.remove(0);
        }
        let (number, digest, first, next) = (numbered.number, numbered.digest, *first, self.next);
        producer.sent.push(Sent { number, digest, lsn: entry.lsn, first, next });
        self.batch = None;
        Ok(())
    }
}
