//! The store as a plain map: what each batch does to it, and what is then read from it.
//!
//! It is written from the promises and shares no code with the engine; it knows no file, no memory limit and no moment
//! at which something becomes durable. Invariant: a state never changes; a batch makes a new one that shares the logs
//! it did not touch, so that the state before it can be looked at for as long as the batch is not durable.

use everlog::types::{Cursor, Lsn, Timeline};
use everlog::{ErrorKind, LogReceipt};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::rc::Rc;

/// How many of a producer's numbers keep their content.
pub const WINDOW: usize = 64;

/// A record's content, shown in short.
#[derive(Clone, PartialEq, Eq)]
pub struct Payload(pub Rc<[u8]>);

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let start = String::from_utf8_lossy(&self.0[..self.0.len().min(30)]);
        write!(f, "{start:?} of {} bytes", self.0.len())
    }
}

/// One thing that a batch does to a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Do {
    Record(Payload),
    Create(Vec<u8>),
    CreateIfMissing,
    Fork { parent: &'static str, at: u64 },
    Undelete,
    Trim(u64),
    Metadata(Vec<u8>),
    Close,
    Delete,
}

/// What a batch holds for one log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    pub log: &'static str,
    pub does: Vec<Do>,
    pub expect_next: Option<u64>,
    pub expect_at: Option<Cursor>,
    pub expect_created: Option<u64>,
    pub tag: Option<Vec<u8>>,
    /// Who sends it: id, epoch, number.
    pub producer: Option<(&'static [u8], u64, u64)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    #[default]
    Absent,
    Live,
    Deleted,
}

#[derive(Debug)]
pub struct Record {
    pub payload: Payload,
    pub lsn: u64,
}

#[derive(Clone, Debug)]
struct Issued {
    number: u64,
    content: Vec<Do>,
    first: u64,
    next: u64,
    lsn: u64,
}

#[derive(Clone, Debug, Default)]
pub struct Producer {
    pub epoch: u64,
    issued: VecDeque<Issued>,
}

impl Producer {
    /// Its last number.
    pub fn last(&self) -> u64 {
        self.issued.back().map_or(0, |issued| issued.number)
    }
}

#[derive(Clone, Debug, Default)]
pub struct Log {
    pub phase: Phase,
    pub closed: bool,
    /// The first seq that is kept.
    pub trim: u64,
    /// The seq that the next record gets.
    pub next: u64,
    pub metadata: Vec<u8>,
    pub tag: Vec<u8>,
    /// Which timelines wrote to it, each with its first seq.
    pub timelines: Vec<(Timeline, u64)>,
    /// The LSN of its creation.
    pub created: u64,
    /// The LSN of its last entry.
    pub last: u64,
    pub forked_at: Option<u64>,
    /// A fork of it pinned it.
    pub pinned: bool,
    /// All that a reader of it was ever able to see, and for a fork what it took over from its parent.
    pub records: BTreeMap<u64, Rc<Record>>,
    pub producers: BTreeMap<&'static [u8], Producer>,
}

/// All logs, and the store's own counters.
#[derive(Clone, Debug, Default)]
pub struct Map {
    pub logs: BTreeMap<&'static str, Rc<Log>>,
    /// The last LSN that was given.
    pub lsn: u64,
    /// The timeline of the present open.
    pub timeline: Timeline,
}

/// The answer to a part of a batch.
#[derive(Clone, Copy, Debug)]
pub struct Answer {
    pub receipt: LogReceipt,
    /// Whether nothing was stored, now or before: then the LSN is no entry's, and only at least that of the log's last.
    pub nothing: bool,
}

impl Answer {
    /// Whether the engine, which has given LSNs up to `given`, may say that.
    pub fn allows(&self, told: &LogReceipt, given: u64) -> bool {
        let lsns = if self.nothing { self.receipt.lsn..=Lsn(given) } else { self.receipt.lsn..=self.receipt.lsn };
        lsns.contains(&told.lsn) && LogReceipt { lsn: told.lsn, ..self.receipt } == *told
    }
}

/// What a read from some position is answered with.
pub type Start = Result<u64, (ErrorKind, Option<Cursor>)>;

impl Log {
    /// The timeline of the record before `seq`.
    fn timeline_before(&self, seq: u64) -> Timeline {
        let written = |(_, first): &&(Timeline, u64)| *first < seq;
        self.timelines.iter().rev().find(written).map_or(Timeline::default(), |(timeline, _)| *timeline)
    }

    pub fn cursor(&self, seq: u64) -> Cursor {
        Cursor { timeline: self.timeline_before(seq), seq }
    }

    /// Where a read of a seq begins, or how it is refused.
    pub fn start_at_seq(&self, seq: u64) -> Start {
        match self.phase {
            Phase::Absent => Err((ErrorKind::NotFound, None)),
            Phase::Deleted => Err((ErrorKind::Deleted, None)),
            Phase::Live if seq < self.trim => Err((ErrorKind::Trimmed, None)),
            Phase::Live if seq > self.next => Err((ErrorKind::Invalid, None)),
            Phase::Live => Ok(seq),
        }
    }

    /// The same of a cursor, which is refused with the place where its history and the log's part.
    pub fn start_at_cursor(&self, cursor: Cursor) -> Start {
        let is_known = self.timelines.iter().any(|(_, first)| *first < cursor.seq);
        let is_elsewhere = cursor.seq > 0 && is_known && self.timeline_before(cursor.seq) != cursor.timeline;
        if self.phase != Phase::Live || (cursor.seq < self.trim && !is_elsewhere) {
            return self.start_at_seq(cursor.seq.min(self.next));
        }
        if cursor.seq <= self.next && self.timeline_before(cursor.seq) == cursor.timeline {
            return Ok(cursor.seq);
        }
        let mut cut = Cursor::default();
        if let Some(at) = self.timelines.iter().position(|(timeline, _)| *timeline == cursor.timeline) {
            let end = self.timelines.get(at + 1).map_or(self.next, |(_, first)| *first);
            cut = self.cursor(end.min(self.next).min(cursor.seq));
        }
        Err((ErrorKind::Rewound, Some(cut)))
    }

    /// Whether a subscriber who has seen everything before `after` has something to hear.
    pub fn has_news(&self, after: u64) -> bool {
        self.next > after || self.closed || self.phase != Phase::Live
    }

    /// What a part is told that stores nothing.
    fn at_present(&self, duplicate: bool) -> Answer {
        Answer { nothing: true, ..self.answer(self.next, self.next, self.last, duplicate, None) }
    }

    fn answer(&self, first: u64, next: u64, lsn: u64, duplicate: bool, highest: Option<u64>) -> Answer {
        let receipt = LogReceipt {
            first_seq: first,
            next_seq: next,
            lsn: Lsn(lsn),
            duplicate,
            timeline: self.timeline_before(next),
            producer_highest: highest,
        };
        Answer { receipt, nothing: false }
    }

    fn written_by(&mut self, timeline: Timeline, seq: u64) {
        if self.timelines.last().is_none_or(|(last, _)| *last != timeline) {
            self.timelines.push((timeline, seq));
        }
    }

    fn create(&mut self, metadata: &[u8], lsn: u64, timeline: Timeline) {
        if self.phase == Phase::Deleted {
            // Of what was before, forks alone see anything; the log knows who wrote the last of it.
            let before = self.next.saturating_sub(1);
            self.timelines =
                self.timelines.last().map(|(last, first)| (*last, before.max(*first))).into_iter().collect();
            self.forked_at = self.forked_at.filter(|_| self.pinned);
            // The seq behind the old head has no record, and counts as written now.
            self.written_by(timeline, self.next);
            self.next += 1;
            self.trim = self.next;
        }
        self.phase = Phase::Live;
        self.closed = false;
        self.created = lsn;
        self.metadata = metadata.to_vec();
        self.tag.clear();
        self.producers.clear();
    }

    fn fork(parent: &Log, at: u64, lsn: u64) -> Log {
        Log {
            phase: Phase::Live,
            trim: parent.trim,
            next: at,
            metadata: parent.metadata.clone(),
            timelines: parent.timelines.iter().copied().filter(|(_, first)| *first < at).collect(),
            created: lsn,
            forked_at: Some(at),
            records: parent.records.range(parent.trim..at).map(|(seq, record)| (*seq, Rc::clone(record))).collect(),
            ..Log::default()
        }
    }
}

/// What is to be done with a part of a batch.
enum Verdict {
    /// These are done.
    Go(Vec<Do>),
    Repeated(Answer),
    Refused(ErrorKind),
}

impl Map {
    pub fn log(&self, name: &str) -> Rc<Log> {
        self.logs.get(name).cloned().unwrap_or_default()
    }

    /// What a batch is answered, and what the store then is.
    pub fn append(&self, parts: &[Part]) -> (Result<Vec<Answer>, ErrorKind>, Map) {
        if let Some(kind) = parts.iter().find_map(malformed) {
            return (Err(kind), self.clone());
        }
        // Other metadata changes nothing that a fork has of its parent.
        let changes = |part: &Part| !part.does.iter().all(|what| matches!(what, Do::Metadata(_)));
        let forks_another_part = |part: &Part| match part.does[0] {
            Do::Fork { parent, .. } => {
                parts.iter().any(|other| other.log == parent && other.log != part.log && changes(other))
            }
            _ => false,
        };
        if parts.iter().any(forks_another_part) {
            return (Err(ErrorKind::Invalid), self.clone());
        }
        let verdicts: Vec<Verdict> = parts.iter().map(|part| self.judge(part)).collect();
        if verdicts.iter().any(|verdict| matches!(verdict, Verdict::Repeated(_))) {
            let answers = verdicts.into_iter().zip(parts).map(|(verdict, part)| self.repeat(verdict, part));
            return (answers.collect(), self.clone());
        }
        let mut after = self.clone();
        let (mut answers, mut forks) = (Vec::new(), Vec::new());
        for (verdict, part) in verdicts.into_iter().zip(parts) {
            match verdict {
                Verdict::Go(does) => {
                    answers.push(self.carry_out(&mut after, part, &does));
                    forks.extend(does.iter().filter_map(|what| match what {
                        Do::Fork { parent, at } => Some((*parent, *at)),
                        _ => None,
                    }));
                }
                Verdict::Refused(kind) => return (Err(kind), self.clone()),
                Verdict::Repeated(_) => unreachable!("looked for just now"),
            }
        }
        forks.into_iter().for_each(|(parent, at)| after.pin(parent, at));
        (Ok(answers), after)
    }

    /// The log that is forked at a seq is pinned, unless it is already, or another one is read there, which is.
    fn pin(&mut self, parent: &'static str, at: u64) {
        let log = Rc::make_mut(self.logs.get_mut(parent).expect("what is forked is there"));
        if !log.pinned && log.forked_at.is_none_or(|forked_at| forked_at < at) {
            self.lsn += 1;
            (log.pinned, log.last) = (true, self.lsn);
        }
    }

    fn judge(&self, part: &Part) -> Verdict {
        let log = self.log(part.log);
        let creates = matches!(part.does[0], Do::Create(_) | Do::CreateIfMissing | Do::Fork { .. });
        if log.phase == Phase::Absent && !creates {
            return Verdict::Refused(ErrorKind::NotFound);
        }
        match numbering(&log, part) {
            Ok(None) => {}
            Ok(Some(answer)) => return Verdict::Repeated(answer),
            Err(kind) => return Verdict::Refused(kind),
        }
        if log.phase == Phase::Deleted && !creates && part.does[0] != Do::Undelete {
            return Verdict::Refused(ErrorKind::Deleted);
        }
        if part.expect_created.is_some_and(|created| created != log.created) {
            return Verdict::Refused(ErrorKind::Replaced);
        }
        let tagged_anew = log.phase != Phase::Live && creates;
        if part.expect_at.is_some_and(|cursor| cursor != log.cursor(log.next))
            || part.expect_next.is_some_and(|seq| seq != log.next)
            || part.tag.as_ref().is_some_and(|tag| !tagged_anew && *tag <= log.tag)
        {
            return Verdict::Refused(ErrorKind::Condition);
        }
        match self.allowed(&log, part) {
            Ok(does) => Verdict::Go(does),
            Err(kind) => Verdict::Refused(kind),
        }
    }

    /// Whether the log takes all of it, one after the other; without what is done already.
    fn allowed(&self, log: &Log, part: &Part) -> Result<Vec<Do>, ErrorKind> {
        let live = log.phase == Phase::Live;
        let (mut next, mut closed) = (log.next, log.closed && live);
        let mut does = Vec::new();
        for what in &part.does {
            match what {
                Do::CreateIfMissing if live => continue,
                Do::Create(_) if live => return Err(ErrorKind::Exists),
                Do::Create(_) | Do::CreateIfMissing => next += u64::from(log.phase == Phase::Deleted),
                Do::Fork { parent, at } => {
                    self.may_fork(log, parent, *at)?;
                    next = *at;
                }
                Do::Undelete if live => return Err(ErrorKind::Exists),
                Do::Undelete => closed = log.closed,
                Do::Record(_) if closed => return Err(ErrorKind::Closed),
                Do::Record(_) => next += 1,
                Do::Trim(first) if *first > next => return Err(ErrorKind::Invalid),
                Do::Close => closed = true,
                Do::Trim(_) | Do::Metadata(_) | Do::Delete => {}
            }
            does.push(what.clone());
        }
        Ok(does)
    }

    fn may_fork(&self, log: &Log, parent: &str, at: u64) -> Result<(), ErrorKind> {
        match log.phase {
            Phase::Absent => self.log(parent).start_at_seq(at).map(drop).map_err(|(kind, _)| kind),
            Phase::Live => Err(ErrorKind::Exists),
            Phase::Deleted => Err(ErrorKind::Deleted),
        }
    }

    /// Does it. What is forked is the parent as it was before the batch.
    fn carry_out(&self, after: &mut Map, part: &Part, does: &[Do]) -> Answer {
        let (mut lsn, timeline) = (after.lsn, after.timeline);
        let log = Rc::make_mut(after.logs.entry(part.log).or_default());
        let mut first = None;
        let mut records = 0;
        for what in does {
            lsn += 1;
            match what {
                Do::Create(metadata) => log.create(metadata, lsn, timeline),
                Do::CreateIfMissing => log.create(b"", lsn, timeline),
                Do::Fork { parent, at } => *log = Log::fork(&self.log(parent), *at, lsn),
                Do::Undelete => log.phase = Phase::Live,
                Do::Record(payload) => {
                    log.written_by(timeline, log.next);
                    first.get_or_insert(log.next);
                    records += 1;
                    log.records.insert(log.next, Rc::new(Record { payload: payload.clone(), lsn }));
                    log.next += 1;
                }
                Do::Trim(seq) => log.trim = log.trim.max(*seq),
                Do::Metadata(metadata) => log.metadata.clone_from(metadata),
                Do::Close => log.closed = true,
                Do::Delete => log.phase = Phase::Deleted,
            }
            first.get_or_insert(log.next);
            log.last = lsn;
        }
        let first = first.unwrap_or(log.next);
        if let (Some(tag), false) = (&part.tag, does.is_empty()) {
            log.tag.clone_from(tag);
        }
        if let (Some((id, epoch, number)), false) = (part.producer, does.is_empty()) {
            let producer = log.producers.entry(id).or_default();
            if producer.epoch != epoch {
                *producer = Producer { epoch, ..Producer::default() };
            }
            if producer.issued.len() == WINDOW {
                producer.issued.pop_front();
            }
            let content = contents(&part.does);
            producer.issued.push_back(Issued { number, content, first, next: first + records, lsn });
        }
        after.lsn = lsn;
        let highest = part.producer.map(|(_, _, number)| number);
        let log = &after.logs[part.log];
        Answer { nothing: does.is_empty(), ..log.answer(first, log.next, log.last, false, highest) }
    }

    /// The answer to a part of a batch of which some part was sent before: nothing of it may be new, but a creation of
    /// what is there.
    fn repeat(&self, verdict: Verdict, part: &Part) -> Result<Answer, ErrorKind> {
        let only_creates = matches!(part.does[..], [Do::Create(_) | Do::CreateIfMissing]);
        match verdict {
            Verdict::Repeated(answer) => Ok(answer),
            Verdict::Go(does) if does.is_empty() => Ok(self.log(part.log).at_present(true)),
            Verdict::Refused(ErrorKind::Exists) if only_creates => Ok(self.log(part.log).at_present(true)),
            Verdict::Refused(kind) => Err(kind),
            Verdict::Go(_) => Err(ErrorKind::ProducerConflict),
        }
    }
}

/// What is wrong with a part whatever the log is.
fn malformed(part: &Part) -> Option<ErrorKind> {
    let opens = |what: &Do| matches!(what, Do::Create(_) | Do::CreateIfMissing | Do::Fork { .. } | Do::Undelete);
    let carries_nothing = part.does == [Do::CreateIfMissing] && (part.tag.is_some() || part.producer.is_some());
    let last = part.does.len().saturating_sub(1);
    let misplaced =
        part.does.iter().enumerate().any(|(n, what)| (n > 0 && opens(what)) || (n < last && *what == Do::Delete));
    (part.does.is_empty() || carries_nothing || misplaced).then_some(ErrorKind::Invalid)
}

/// What a repetition is recognised by: two ways to create a log without metadata ask for the same.
fn contents(does: &[Do]) -> Vec<Do> {
    let same = |what: &Do| if *what == Do::CreateIfMissing { Do::Create(Vec::new()) } else { what.clone() };
    does.iter().map(same).collect()
}

/// None if the part's number is the next one or it has none; the first answer if it is a repetition.
fn numbering(log: &Log, part: &Part) -> Result<Option<Answer>, ErrorKind> {
    let Some((id, epoch, number)) = part.producer else { return Ok(None) };
    let first_of_all = || if number == 0 { Ok(None) } else { Err(ErrorKind::ProducerGap) };
    let Some(known) = log.producers.get(id) else { return first_of_all() };
    let issued = known.issued.iter().find(|issued| known.epoch == epoch && issued.number == number);
    let same = issued.filter(|issued| issued.content == contents(&part.does));
    let anew = matches!(part.does[0], Do::Create(_) | Do::CreateIfMissing) && log.phase == Phase::Deleted;
    let last = known.last();
    if let Some(issued) = same {
        return Ok(Some(log.answer(issued.first, issued.next, issued.lsn, true, Some(last))));
    }
    if anew {
        // Whoever creates a deleted log anew begins anew; only the very creation that was made is a repetition.
        return first_of_all();
    }
    match epoch.cmp(&known.epoch) {
        std::cmp::Ordering::Less => Err(ErrorKind::ProducerFenced),
        std::cmp::Ordering::Greater if number == 0 => Ok(None),
        std::cmp::Ordering::Greater => Err(ErrorKind::Invalid),
        std::cmp::Ordering::Equal if number == last + 1 => Ok(None),
        std::cmp::Ordering::Equal if number > last => Err(ErrorKind::ProducerGap),
        std::cmp::Ordering::Equal if issued.is_some() => Err(ErrorKind::ProducerConflict),
        // So old that its content is not known any more.
        std::cmp::Ordering::Equal => {
            let lsn = known.issued.back().map_or(0, |issued| issued.lsn);
            Ok(Some(log.answer(log.next, log.next, lsn, true, Some(last))))
        }
    }
}
