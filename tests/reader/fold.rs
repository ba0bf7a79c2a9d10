//! What the logs hold, from every entry that was ever written, in the order of their LSNs.
//!
//! It follows forks into their parents, and keeps what each group of a log's state was last changed by, so that the
//! state records of segments can be compared. Where a merge left records out, what they would have said is unknown until
//! a state record tells it. Invariant: an entry that does not fit the log's state is damage, and so is a hole among seqs
//! that nothing allows.

use super::entry::{Entry, Kind, LogId, Numbered, TimelineId};
use super::heads::Identity;
use super::segment::Segment;
use super::{Fault, Result};
use std::collections::BTreeMap;

pub const TIMELINES_MAX: usize = 4096;
pub const WINDOW: usize = 64;

/// A log as a user of the store sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// It was deleted, or has expired.
    pub deleted: bool,
    /// It is to expire.
    pub expires: bool,
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

/// How much of a log's state follows from the entries of the segment that is being read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Known {
    /// All of it.
    #[default]
    All,
    /// Records were left out here: tag, timelines and producers may be theirs.
    Holed,
    /// It was created in place of one that was gone, or may have been.
    Forgotten,
}

/// A numbered batch that is not over.
#[derive(Debug)]
struct Batch {
    numbered: Numbered,
    /// The LSN of its first entry.
    lsn: u64,
    /// The log's next seq before its records.
    first: u64,
    /// How many entries are to come.
    left: u64,
}

/// A log's state, and all records of it that are there.
#[derive(Debug, Default)]
pub struct State {
    pub name: Vec<u8>,
    pub phase: Phase,
    pub closed: bool,
    pub trim: u64,
    pub next: u64,
    pub created: u64,
    pub deleted_at: u64,
    /// The steady time at which it expires; 0 if never.
    pub expiry: u64,
    /// 0, or 1 + the lowest seq of all pins.
    pub pinned: u64,
    pub tag: Vec<u8>,
    pub fork: Option<(LogId, u64)>,
    pub metadata: Vec<u8>,
    pub timelines: Vec<(TimelineId, u64)>,
    pub producers: BTreeMap<Vec<u8>, Producer>,
    pub changed: Changed,
    /// A merge left out all of it; what is here is what stands for it.
    pub gone: bool,
    pub known: Known,
    /// Records were left out behind the last tag or creation.
    pub tag_unknown: bool,
    /// The timelines of the seqs that are there.
    pub written: BTreeMap<u64, TimelineId>,
    /// Some seqs below this one have no record.
    holed: u64,
    /// The LSNs of trims and of deletions before a creation, with the first seq that was kept.
    cuts: Vec<(u64, u64)>,
    /// The LSN of the last deletion.
    deleted: u64,
    records: BTreeMap<u64, Record>,
    batch: Option<Batch>,
}

/// What is over.
pub struct Time {
    /// The steady time of the last stamp.
    pub now: u64,
    /// Merges left out what was trimmed or deleted up to this LSN.
    pub cutoff: u64,
    /// And what expired up to this steady time.
    pub cutoff_time: u64,
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

    /// The entries of the segment, and what it says of logs that have no entries there.
    pub fn segment(&mut self, segment: &Segment) -> Result<()> {
        let merged = segment.merged.then_some(segment.first_lsn);
        segment.entries.iter().try_for_each(|entry| self.apply(&segment.file, entry, merged))?;
        for (id, last) in &segment.logs {
            let state = self.logs.entry(*id).or_default();
            let told = match last.gone {
                Some(timeline) => state.go(timeline, last.next_seq, last.changed),
                None if segment.merged => state.reach(last.next_seq),
                None => Ok(()),
            };
            told.map_err(|what| Fault::damaged(&segment.file, 0, format!("log {id:02x?}: {what}")))?;
        }
        Ok(())
    }

    /// The next entry, which stands in `file`: the journal, or a segment with `merged` for its first LSN if it was merged.
    pub fn apply(&mut self, file: &str, entry: &Entry, merged: Option<u64>) -> Result<()> {
        if let Kind::Create { name, .. } = &entry.kind
            && self.identity.log_id(name) != entry.log
        {
            return Err(Fault::damaged(file, 0, "a log is created with a name that is not its LogId's"));
        }
        let state = self.logs.entry(entry.log).or_default();
        let applied = state.apply(entry, merged);
        applied.map_err(|what| Fault::damaged(file, 0, format!("the entry with LSN {}: {what}", entry.lsn)))
    }

    /// Whether the name of a log that was created at `lsn` stands elsewhere, or nowhere since it is gone.
    pub fn named_later(&self, log: &LogId, lsn: u64) -> bool {
        self.logs.get(log).is_some_and(|state| state.gone || state.created > lsn)
    }

    /// The logs by name, but for those that are gone.
    pub fn into_logs(self, time: &Time) -> Result<BTreeMap<String, Log>> {
        let mut out = BTreeMap::new();
        for state in self.logs.values().filter(|state| !state.gone) {
            let wrong = |what| Fault::damaged("", 0, format!("log {}: {what}", state.name.escape_ascii()));
            state.check_holes(time).map_err(wrong)?;
            self.check_parent(state).map_err(wrong)?;
            let name = String::from_utf8(state.name.clone());
            let name = name.map_err(|_| Fault::damaged("", 0, "a name that is no UTF-8"))?;
            let deleted = state.phase == Phase::Deleted || state.has_expired(time.now);
            let shown = if deleted { state.next..state.next } else { state.trim..state.next };
            let records = shown.map(|seq| self.record(state, seq)).collect::<Result<Vec<_>>>()?;
            let log = Log {
                deleted,
                expires: state.expiry > 0,
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

    /// What a fork was forked from is there, and is pinned at or below all that the fork needs of it.
    fn check_parent(&self, state: &State) -> std::result::Result<(), &'static str> {
        let Some((parent, _)) = state.fork else { return Ok(()) };
        match self.logs.get(&parent) {
            Some(parent) if (1..=state.trim.saturating_add(1)).contains(&parent.pinned) => Ok(()),
            _ => Err("its parent is not pinned for it"),
        }
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
    fn apply(&mut self, entry: &Entry, merged: Option<u64>) -> std::result::Result<(), String> {
        if let Kind::Create { fork, .. } = &entry.kind {
            self.resume(entry.seq, fork.as_ref().map_or(0, |fork| fork.at), merged);
        } else if self.gone || (merged.is_some() && self.phase == Phase::Absent) {
            return self.pass_over(entry, merged.is_some());
        } else if merged.is_some() && entry.seq > self.next {
            self.jump(entry.seq)?;
        }
        let may = match entry.kind {
            Kind::Create { .. } => self.phase != Phase::Live,
            Kind::Undelete => self.phase != Phase::Absent,
            Kind::Record(_) => self.phase == Phase::Live && !self.closed,
            _ => self.phase == Phase::Live,
        };
        if !may {
            return Err(format!("a {:?} log takes no such entry", self.phase));
        }
        let (lsn, before) = (entry.lsn, self.next);
        match &entry.kind {
            Kind::Record(payload) => {
                self.written_by(entry.timeline, before, lsn);
                let record = Record { seq: before, lsn, time: entry.time, payload: payload.clone() };
                self.records.insert(before, record);
                self.next += 1;
            }
            Kind::Create { name, metadata, fork } => self.create(entry, name, metadata, fork.as_ref()),
            Kind::Close => self.closed = true,
            Kind::Trim(first) => {
                self.trim = *first;
                self.cuts.push((lsn, *first));
            }
            Kind::Delete => (self.phase, self.deleted_at, self.deleted) = (Phase::Deleted, entry.time, lsn),
            Kind::Undelete if self.phase == Phase::Live && self.expiry == 0 => {
                return Err("an undeletion of what never ended".to_owned());
            }
            Kind::Undelete => (self.phase, self.deleted_at, self.expiry) = (Phase::Live, 0, 0),
            Kind::Expire(at) => self.expiry = *at,
            Kind::Metadata(metadata) => {
                self.metadata.clone_from(metadata);
                self.changed.metadata = lsn;
            }
            Kind::Pin(first) => {
                let pin = first.saturating_add(1);
                self.pinned = if self.pinned == 0 { pin } else { self.pinned.min(pin) };
            }
        }
        if !matches!(entry.kind, Kind::Record(_) | Kind::Metadata(_)) {
            self.changed.life = lsn;
        }
        if let Some(tag) = &entry.tag {
            self.tag.clone_from(tag);
            self.tag_unknown = false;
            self.changed.life = lsn;
        }
        let seq = if entry.is_record() { before } else { self.next };
        if entry.seq != seq {
            return Err(format!("its seq is {}, not {seq}", entry.seq));
        }
        self.number(entry, if matches!(entry.kind, Kind::Create { .. }) { self.next } else { before })
    }

    /// The log is gone as of a segment that holds nothing else of it; `lsn` is that of its last change.
    fn go(&mut self, timeline: TimelineId, next: u64, lsn: u64) -> std::result::Result<(), String> {
        if self.pinned != 0 {
            return Err("it is pinned, and gone".to_owned());
        }
        let last = (timeline != (0, 0)).then_some(timeline);
        if next < self.next || (next == 0 && last.is_some()) {
            return Err(format!("it is gone with the next seq {next}"));
        }
        let written: BTreeMap<_, _> = last.map(|timeline| (next - 1, timeline)).into_iter().collect();
        *self = Self {
            phase: Phase::Deleted,
            gone: true,
            trim: next,
            next,
            timelines: written.iter().map(|(first, timeline)| (*timeline, *first)).collect(),
            written,
            changed: Changed { life: lsn, timelines: lsn, metadata: lsn, producers: lsn },
            ..Self::default()
        };
        Ok(())
    }

    /// An entry of a log that is gone, written before it was.
    fn pass_over(&mut self, entry: &Entry, merged: bool) -> std::result::Result<(), String> {
        if matches!(entry.kind, Kind::Pin(_)) {
            return Err("a log that is gone is pinned".to_owned());
        }
        if entry.seq < self.next || (entry.seq > self.next && !merged) {
            return Err(format!("its seq is {}, not {}", entry.seq, self.next));
        }
        (self.gone, self.phase, self.next) = (true, Phase::Deleted, entry.next_seq());
        Ok(())
    }

    /// The log's next seq at the end of a merged segment is `next`.
    fn reach(&mut self, next: u64) -> std::result::Result<(), String> {
        if self.gone || self.phase == Phase::Absent {
            // All that was written to it by then is gone.
            (self.gone, self.phase, self.next) = (true, Phase::Deleted, self.next.max(next));
            return Ok(());
        }
        if next > self.next { self.jump(next) } else { Ok(()) }
    }

    /// The records up to `seq` were left out, those of a numbered batch that is not over among them.
    fn jump(&mut self, seq: u64) -> std::result::Result<(), String> {
        if let Some(batch) = &mut self.batch {
            let end = batch.first + batch.numbered.records;
            let missing = end.saturating_sub(self.next).min(seq - self.next);
            let left = batch.left.checked_sub(missing);
            batch.left = left.ok_or("a numbered batch with more records than entries")?;
            let over = batch.left == 0;
            if !over && seq > end {
                return Err("entries of a numbered batch are missing that are not records".to_owned());
            }
            // Its last entry was left out: this is the least LSN that it can have.
            let lsn = batch.lsn + batch.numbered.entries - 1;
            (self.next, self.known) = (self.next + missing, self.known.max(Known::Holed));
            if over {
                self.receipt(lsn)?;
            }
        }
        (self.next, self.holed) = (seq, seq);
        (self.known, self.tag_unknown) = (self.known.max(Known::Holed), true);
        Ok(())
    }

    /// A creation with the seq `seq` follows, where `fresh` is that of a log that never was. A merge may have left out
    /// all that it goes on from: a log that is gone has entries in no segment that also has its next creation.
    fn resume(&mut self, seq: u64, fresh: u64, merged: Option<u64>) {
        let missed = match self.phase {
            Phase::Absent => merged.is_some() && seq != fresh,
            Phase::Live => merged.is_some(),
            Phase::Deleted => merged.is_some_and(|first| self.deleted < first),
        };
        if self.pinned != 0 || seq == 0 || !(self.gone || missed) {
            return;
        }
        let next = if merged.is_some() { self.next.max(seq - 1) } else { self.next };
        *self = Self {
            phase: Phase::Deleted,
            known: Known::Forgotten,
            next,
            fork: self.fork,
            timelines: std::mem::take(&mut self.timelines),
            written: if self.gone { std::mem::take(&mut self.written) } else { BTreeMap::new() },
            changed: self.changed,
            ..Self::default()
        };
    }

    fn create(&mut self, entry: &Entry, name: &[u8], metadata: &[u8], fork: Option<&super::entry::Fork>) {
        let again = self.phase == Phase::Deleted;
        let old_next = self.next;
        self.name = name.to_vec();
        (self.phase, self.closed, self.deleted_at, self.expiry) = (Phase::Live, false, 0, 0);
        self.created = entry.lsn;
        self.tag.clear();
        self.tag_unknown = false;
        self.metadata = metadata.to_vec();
        self.changed.metadata = entry.lsn;
        if again {
            if !self.producers.is_empty() {
                self.changed.producers = entry.lsn;
            }
            self.producers.clear();
            // Of what was before, only who wrote the last of it, and what forks of it read.
            if let Some((last, first)) = self.timelines.pop() {
                self.timelines = vec![(last, first.max(old_next - 1))];
                self.written = self.written.split_off(&(old_next - 1));
                self.changed.timelines = entry.lsn;
            }
            if self.pinned == 0 {
                self.fork = None;
            }
            self.written_by(entry.timeline, old_next, entry.lsn);
            (self.next, self.trim) = (old_next + 1, old_next + 1);
            self.cuts.push((self.deleted, self.trim));
        } else if let Some(fork) = fork {
            (self.next, self.trim) = (fork.at, fork.first_kept);
            self.fork = Some((fork.parent, fork.at));
            self.timelines.clone_from(&fork.timelines);
            self.written = fork.timelines.iter().map(|(timeline, first)| (*first, *timeline)).collect();
            self.changed.timelines = entry.lsn;
        }
    }

    /// The seq `seq` belongs to `timeline`.
    fn written_by(&mut self, timeline: TimelineId, seq: u64, lsn: u64) {
        self.written.insert(seq, timeline);
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
            let (numbered, left) = (numbered.clone(), numbered.entries);
            self.batch = Some(Batch { numbered, lsn: entry.lsn, first, left });
            self.changed.producers = entry.lsn;
        }
        // The entries of one whose first was left out are counted by nobody.
        let Some(batch) = &mut self.batch else { return Ok(()) };
        batch.left -= 1;
        if batch.left > 0 { Ok(()) } else { self.receipt(entry.lsn) }
    }

    /// The receipt of the batch, which is over, and has its last entry at `lsn`.
    fn receipt(&mut self, lsn: u64) -> std::result::Result<(), String> {
        let Some(Batch { numbered, first, .. }) = self.batch.take() else { return Ok(()) };
        if self.next - first != numbered.records {
            return Err("a numbered batch with another number of records than it says".to_owned());
        }
        let producer = self.producers.entry(numbered.id).or_default();
        let goes_on = producer.sent.last().map_or(0, |last| last.number + 1);
        // Batches between may be among what was left out.
        let follows = numbered.number == goes_on || (self.known != Known::All && numbered.number > goes_on);
        if producer.epoch != numbered.epoch || producer.sent.is_empty() {
            *producer = Producer { epoch: numbered.epoch, sent: Vec::new() };
        } else if !follows {
            return Err(format!("a producer's number is {}, not {goes_on}", numbered.number));
        }
        if producer.sent.len() == WINDOW {
            producer.sent.remove(0);
        }
        producer.sent.push(Sent { number: numbered.number, digest: numbered.digest, lsn, first, next: self.next });
        Ok(())
    }

    fn has_expired(&self, now: u64) -> bool {
        (1..=now).contains(&self.expiry)
    }

    /// What has no record was trimmed, or deleted, early enough; and no fork needs it.
    fn check_holes(&self, time: &Time) -> std::result::Result<(), &'static str> {
        let deleted = match self.phase {
            Phase::Deleted => self.deleted <= time.cutoff,
            _ => self.has_expired(time.cutoff_time),
        };
        let kept = self.cuts.iter().filter(|(lsn, _)| *lsn <= time.cutoff).map(|(_, first)| *first).max();
        let may = deleted || self.holed <= kept.unwrap_or(0);
        if may && (self.pinned == 0 || self.holed < self.pinned) {
            Ok(())
        } else {
            Err("records are left out that must be there")
        }
    }
}
