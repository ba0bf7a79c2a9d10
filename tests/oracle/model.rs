//! The store as a plain map: what a batch does to it, and whether what is seen is what it says.
//!
//! It is written from the promises, not from the engine, and shares no code with it. Invariant: a state never changes;
//! each batch makes a new one that shares the logs it did not touch.

use super::{Page, Read, Shown, Ticket};
use everlog::ErrorKind;
use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::rc::Rc;
use std::time::Duration;

/// How many of a producer's numbers keep their content.
const WINDOW: usize = 64;

/// What a batch does to one log: the conditions, then a creation, the records and an operation, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// The log.
    pub log: String,
    /// It must have this next seq, before the records.
    pub expect_next: Option<u64>,
    /// Who sends it: id, epoch, number.
    pub producer: Option<(Vec<u8>, u64, u64)>,
    /// Kept with the log, and must be greater than the one before.
    pub tag: Option<Vec<u8>>,
    /// Creates the log first.
    pub create: Option<Creation>,
    /// The records.
    pub records: Vec<Rc<[u8]>>,
    /// What comes last.
    pub then: Option<Then>,
}

/// A creation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Creation {
    /// It must not be there; with metadata.
    New(Vec<u8>),
    /// It may be there.
    IfMissing,
    /// It begins with what another log holds below a seq.
    Fork(String, u64),
}

/// A control operation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Then {
    /// No more records.
    Close,
    /// Nothing below this seq.
    Trim(u64),
    /// The log goes.
    Delete,
    /// It comes back.
    Undelete,
    /// New metadata.
    Metadata(Vec<u8>),
    /// It is to end by itself after so long, or never.
    Expire(Option<Duration>),
}

/// The answer for one log of a batch.
#[derive(Clone, PartialEq, Eq)]
pub struct Answer {
    /// The log's next seq before the batch's records.
    pub first: u64,
    /// The log's next seq after them.
    pub next: u64,
    /// The LSN of the batch's last entry for the log, as far as it is known; 0 if not.
    pub lsn: Rc<Cell<u64>>,
    /// Whether this was answered before.
    pub duplicate: bool,
    /// In predictions, whose answer is repeated.
    pub first_ticket: Option<Ticket>,
    /// In predictions, the record whose LSN this is.
    pub last_record: Option<Rc<Record>>,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let again = if self.duplicate { " again" } else { "" };
        write!(f, "seqs {}..{} LSN {}{again}", self.first, self.next, self.lsn.get())
    }
}

/// Why a batch is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The kind of error.
    pub kind: ErrorKind,
    /// The last batch that it follows from.
    pub rests_on: Ticket,
}

/// Where a log stands in its life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Phase {
    /// Never created.
    #[default]
    Absent,
    /// Created.
    Live,
    /// Deleted.
    Deleted,
}

/// A record. Its place and time are learned when it is seen first, and must stay.
#[derive(Debug, PartialEq, Eq)]
pub struct Record {
    payload: Rc<[u8]>,
    lsn: Cell<u64>,
    time: Cell<u64>,
}

/// A batch that a producer sent.
#[derive(Clone, Debug)]
struct Issued {
    number: u64,
    content: (Option<Creation>, Vec<Rc<[u8]>>, Option<Then>),
    answer: Answer,
    ticket: Ticket,
}

/// What a log knows of a producer.
#[derive(Clone, Debug, Default)]
pub struct Producer {
    /// Its epoch.
    pub epoch: u64,
    issued: VecDeque<Issued>,
}

impl Producer {
    /// The number after its last.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.issued.back().map_or(0, |issued| issued.number + 1)
    }

    /// The least number that can be told from a conflicting one.
    #[must_use]
    pub fn oldest(&self) -> u64 {
        self.issued.front().map_or(0, |issued| issued.number)
    }
}

/// One log.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// Where it stands in its life.
    pub phase: Phase,
    /// Takes no more records.
    pub closed: bool,
    /// The first seq kept.
    pub trim: u64,
    /// The seq that the next record gets.
    pub next: u64,
    /// Its metadata.
    pub metadata: Vec<u8>,
    /// Its tag.
    pub tag: Vec<u8>,
    /// It was deleted, and the grace may be over: only where it ended is certain to be known, and by asking for it to be
    /// taken back one learns whether it was in time. See [`super::Oracle::age`].
    pub aged: bool,
    /// It is to end by itself.
    pub expires: bool,
    /// So long has passed that it may have ended. See [`super::Oracle::let_lapse`].
    pub lapsing: bool,
    /// It ended by itself, and nobody knows for how long that can be taken back.
    pub lapsed: bool,
    /// Its producers, by id.
    pub producers: BTreeMap<Vec<u8>, Producer>,
    /// The records from `base` on, `base` being the trim point of the last creation.
    records: Vec<Rc<Record>>,
    base: u64,
    /// The last batch that changed it.
    touched: Option<Ticket>,
}

/// All logs.
pub type State = BTreeMap<String, Rc<Log>>;

impl Log {
    fn record(&self, seq: u64) -> &Rc<Record> {
        &self.records[(seq - self.base) as usize]
    }

    /// The first seq since the last creation.
    #[must_use]
    pub fn base(&self) -> u64 {
        self.base
    }

    fn fork(&mut self, phase: Phase, parent: &Log, at: u64) -> Result<(), ErrorKind> {
        match (phase, parent.phase) {
            (Phase::Live, _) => return Err(ErrorKind::Exists),
            (Phase::Deleted, _) | (_, Phase::Deleted) => return Err(ErrorKind::Deleted),
            (_, Phase::Absent) => return Err(ErrorKind::NotFound),
            (_, Phase::Live) if at > parent.next => return Err(ErrorKind::Invalid),
            (_, Phase::Live) if at < parent.trim => return Err(ErrorKind::Trimmed),
            (_, Phase::Live) => {}
        }
        *self = Log {
            phase: Phase::Live,
            trim: parent.trim,
            next: at,
            base: parent.trim,
            records: (parent.trim..at).map(|seq| parent.record(seq).clone()).collect(),
            metadata: parent.metadata.clone(),
            touched: self.touched,
            ..Log::default()
        };
        Ok(())
    }

    fn create(&mut self, metadata: &[u8]) {
        let next = if self.phase == Phase::Deleted { self.next + 1 } else { 0 };
        *self = Log {
            phase: Phase::Live,
            trim: next,
            next,
            base: next,
            metadata: metadata.to_vec(),
            touched: self.touched,
            ..Log::default()
        };
    }
}

/// What `parts` do to `state`, and the answer.
pub(super) fn predict(state: &State, parts: &[Part], ticket: Ticket) -> (Result<Vec<Answer>, Refusal>, State) {
    let mut after = state.clone();
    let mut outcomes = Vec::new();
    for part in parts {
        let parent = match &part.create {
            Some(Creation::Fork(parent, _)) => Some(state.get(parent).cloned().unwrap_or_default()),
            _ => None,
        };
        let log = after.entry(part.log.clone()).or_default();
        let touched = [Some(&*log), parent.as_ref()].into_iter().flatten().filter_map(|log| log.touched);
        let rests_on = touched.max().unwrap_or(Ticket(0));
        let outcome = carry_out(Rc::make_mut(log), part, parent.as_deref(), ticket);
        outcomes.push(outcome.map_err(|kind| Refusal { kind, rests_on }));
    }
    if outcomes.iter().flatten().any(|answer| answer.duplicate) {
        let answers = outcomes.into_iter().zip(parts).map(|(outcome, part)| repetition(state, part, outcome));
        return (answers.collect(), state.clone());
    }
    match outcomes.into_iter().collect() {
        Ok(answers) => (Ok(answers), after),
        Err(refusal) => (Err(refusal), state.clone()),
    }
}

/// The answer to a part of a batch of which some part was sent before: nothing of it may be new, but a creation of what
/// is there.
fn repetition(state: &State, part: &Part, outcome: Result<Answer, Refusal>) -> Result<Answer, Refusal> {
    let bare = part.records.is_empty() && part.then.is_none() && part.producer.is_none();
    let live = state.get(&part.log).filter(|log| log.phase == Phase::Live);
    match (outcome, live) {
        (Ok(answer), _) if answer.duplicate => Ok(answer),
        (Ok(_), Some(log)) if bare && part.create == Some(Creation::IfMissing) => Ok(log.at_present()),
        (Err(refusal), Some(log)) if bare && part.create.is_some() && refusal.kind == ErrorKind::Exists => {
            Ok(log.at_present())
        }
        (Err(refusal), _) => Err(refusal),
        (Ok(_), _) => Err(Refusal { kind: ErrorKind::ProducerConflict, rests_on: Ticket(0) }),
    }
}

impl Log {
    /// What a part is told that stores nothing.
    fn at_present(&self) -> Answer {
        let (first, next) = (self.next, self.next);
        Answer { first, next, lsn: Rc::default(), duplicate: true, first_ticket: self.touched, last_record: None }
    }
}

fn carry_out(log: &mut Log, part: &Part, parent: Option<&Log>, ticket: Ticket) -> Result<Answer, ErrorKind> {
    if let Some(answer) = repeated(log, part)? {
        return Ok(answer);
    }
    let undeletes = part.then == Some(Then::Undelete) && part.records.is_empty();
    match (&part.create, log.phase) {
        (None, Phase::Absent) => return Err(ErrorKind::NotFound),
        (None, Phase::Deleted) if !undeletes => return Err(ErrorKind::Deleted),
        _ => {}
    }
    if undeletes && log.phase == Phase::Deleted && log.aged {
        return Err(ErrorKind::Deleted);
    }
    if part.expect_next.is_some_and(|seq| seq != log.next) {
        return Err(ErrorKind::Condition);
    }
    if (log.phase == Phase::Live || undeletes) && part.tag.as_ref().is_some_and(|tag| *tag <= log.tag) {
        return Err(ErrorKind::Condition);
    }
    match (&part.create, log.phase) {
        (Some(Creation::New(_)), Phase::Live) => return Err(ErrorKind::Exists),
        (None, Phase::Live) if undeletes => return Err(ErrorKind::Exists),
        (Some(Creation::New(metadata)), _) => log.create(metadata),
        (Some(Creation::IfMissing), Phase::Absent | Phase::Deleted) => log.create(&[]),
        (Some(Creation::Fork(_, at)), phase) => log.fork(phase, parent.expect("a fork has one"), *at)?,
        _ => {}
    }
    if log.closed && !part.records.is_empty() {
        return Err(ErrorKind::Closed);
    }
    let first = log.next;
    for payload in &part.records {
        let record = Record { payload: payload.clone(), lsn: Cell::new(0), time: Cell::new(0) };
        log.records.push(Rc::new(record));
        log.next += 1;
    }
    if let Some(tag) = &part.tag {
        log.tag.clone_from(tag);
    }
    match &part.then {
        None => {}
        Some(Then::Close) => log.closed = true,
        Some(Then::Trim(seq)) => log.trim = log.trim.max(*seq),
        Some(Then::Delete) => log.phase = Phase::Deleted,
        Some(Then::Undelete) => (log.phase, log.expires) = (Phase::Live, false),
        Some(Then::Expire(after)) => log.expires = after.is_some(),
        Some(Then::Metadata(metadata)) => log.metadata.clone_from(metadata),
    }
    let last_record = if part.then.is_none() { log.records.last().filter(|_| log.next > first).cloned() } else { None };
    let answer =
        Answer { first, next: log.next, lsn: Rc::default(), duplicate: false, first_ticket: None, last_record };
    remember(log, part, &answer, ticket);
    log.touched = Some(ticket);
    Ok(answer)
}

/// The first answer, if the part's producer sent this number before.
fn repeated(log: &Log, part: &Part) -> Result<Option<Answer>, ErrorKind> {
    let Some((id, epoch, number)) = &part.producer else { return Ok(None) };
    if log.phase == Phase::Absent && part.create.is_none() {
        return Err(ErrorKind::NotFound);
    }
    let known = log.producers.get(id).filter(|known| known.epoch >= *epoch);
    let issued = known
        .filter(|known| known.epoch == *epoch)
        .and_then(|known| known.issued.iter().find(|issued| issued.number == *number));
    let same = |issued: &&Issued| issued.content == (part.create.clone(), part.records.clone(), part.then.clone());
    if let Some(issued) = issued.filter(same) {
        let first_ticket = Some(issued.ticket);
        return Ok(Some(Answer { duplicate: true, first_ticket, last_record: None, ..issued.answer.clone() }));
    }
    let next = match known {
        // Whoever creates a deleted log anew begins anew; only a repetition is still one.
        _ if log.phase == Phase::Deleted && part.create.is_some() => 0,
        Some(known) if *epoch < known.epoch => return Err(ErrorKind::ProducerFenced),
        Some(_) if issued.is_some() => return Err(ErrorKind::ProducerConflict),
        Some(known) => {
            assert!(*number >= known.next(), "nobody asks for a number that has left the window");
            known.next()
        }
        // A new epoch that does not begin at 0 is no gap that another request could fill.
        None if *number != 0 && log.producers.contains_key(id) => return Err(ErrorKind::Invalid),
        None => 0,
    };
    if *number == next { Ok(None) } else { Err(ErrorKind::ProducerGap) }
}

fn remember(log: &mut Log, part: &Part, answer: &Answer, ticket: Ticket) {
    let Some((id, epoch, number)) = &part.producer else { return };
    let producer = log.producers.entry(id.clone()).or_default();
    if producer.epoch != *epoch {
        *producer = Producer { epoch: *epoch, ..Producer::default() };
    }
    if producer.issued.len() == WINDOW {
        producer.issued.pop_front();
    }
    let content = (part.create.clone(), part.records.clone(), part.then.clone());
    producer.issued.push_back(Issued { number: *number, content, answer: answer.clone(), ticket });
}

/// Compares a predicted answer with the one given, and learns the LSNs.
pub(super) fn differing(expected: &[Answer], given: &[Answer]) -> Option<String> {
    let same = |e: &Answer, g: &Answer| {
        let lsn_fits = e.lsn.get() == 0 || e.lsn.get() == g.lsn.get();
        (e.first, e.next, e.duplicate) == (g.first, g.next, g.duplicate) && lsn_fits && g.lsn.get() != 0
    };
    if expected.len() != given.len() || !expected.iter().zip(given).all(|(e, g)| same(e, g)) {
        return Some(format!("expected {expected:?}, got {given:?}"));
    }
    for (expected, given) in expected.iter().zip(given) {
        expected.lsn.set(given.lsn.get());
        if let Some(record) = &expected.last_record {
            if record.lsn.get() != 0 && record.lsn.get() != given.lsn.get() {
                return Some(format!("acknowledged with LSN {}, shown with {}", given.lsn.get(), record.lsn.get()));
            }
            record.lsn.set(given.lsn.get());
        }
    }
    None
}

/// What is wrong with `page` if the log stands like `log`.
pub(super) fn check_page(log: Option<&Log>, from: u64, page: &Result<Page, ErrorKind>) -> Option<String> {
    let absent = Log::default();
    let log = log.unwrap_or(&absent);
    let refused = match log.phase {
        Phase::Absent => Some(ErrorKind::NotFound),
        Phase::Deleted => Some(ErrorKind::Deleted),
        Phase::Live if from < log.trim => Some(ErrorKind::Trimmed),
        Phase::Live if from > log.next => Some(ErrorKind::Invalid),
        Phase::Live => None,
    };
    match (refused, page) {
        (Some(expected), Err(given)) if expected == *given => None,
        (None, Ok(page)) => {
            if (page.head, page.closed) != (log.next, log.closed) {
                let shown = (page.head, page.closed);
                return Some(format!("head and closed are {shown:?}, expected {:?}", (log.next, log.closed)));
            }
            if page.records.is_empty() && from < log.next {
                return Some(format!("no record, though there are some up to {}", log.next));
            }
            check_records(log, from, &page.records)
        }
        (expected, given) => Some(format!(
            "expected {}, got {given:?}",
            match expected {
                Some(kind) => format!("{kind:?}"),
                None => format!("records {from}..{}", log.next),
            }
        )),
    }
}

/// What is wrong with `records`, read from `from` on.
fn check_records(log: &Log, from: u64, records: &[Read]) -> Option<String> {
    let mut before = (0, 0);
    for (seq, read) in (from..).zip(records) {
        if read.seq != seq {
            return Some(format!("seq {} where {seq} belongs", read.seq));
        }
        if seq >= log.next {
            return Some(format!("record {seq} is made up, the log ends at {}", log.next));
        }
        let record = log.record(seq);
        if *record.payload != *read.payload {
            let (expected, got) = (sketch(&record.payload), sketch(&read.payload));
            return Some(format!("record {seq} is {got}, expected {expected}"));
        }
        for (what, known, shown) in [("LSN", record.lsn.get(), read.lsn), ("time", record.time.get(), read.time)] {
            if known != 0 && known != shown {
                return Some(format!("record {seq} has {what} {shown}, it was {known} before"));
            }
        }
        if read.lsn <= before.0 || read.time < before.1 {
            let now = (read.lsn, read.time);
            return Some(format!("record {seq} has LSN and time {now:?}, the one before it {before:?}"));
        }
        before = (read.lsn, read.time);
    }
    None
}

/// Learns the places and times of records that were found right.
pub(super) fn stamp(log: &Log, records: &[Read]) {
    for read in records {
        let record = log.record(read.seq);
        record.lsn.set(read.lsn);
        record.time.set(read.time);
    }
}

/// What is wrong with what is shown if the store stands like `state`.
pub(super) fn check_all(state: &State, shown: &BTreeMap<String, Shown>) -> Option<String> {
    let unknown = shown.iter().find(|(name, shown)| shown.phase != Phase::Absent && !state.contains_key(*name));
    if let Some((name, _)) = unknown {
        return Some(format!("log {name} is made up"));
    }
    state.iter().find_map(|(name, log)| check_log(log, shown.get(name)).map(|why| format!("log {name}: {why}")))
}

fn check_log(log: &Log, shown: Option<&Shown>) -> Option<String> {
    let phase = shown.map_or(Phase::Absent, |shown| shown.phase);
    let lapsed = log.lapsing && phase == Phase::Deleted;
    if phase != log.phase && !lapsed {
        return Some(format!("it is {phase:?}, expected {:?}", log.phase));
    }
    let shown = shown.filter(|_| phase != Phase::Absent)?;
    if log.aged || lapsed {
        return (shown.next != log.next).then(|| format!("it ended at {}, expected {}", shown.next, log.next));
    }
    let (expected, got) = ((log.trim, log.next, log.closed), (shown.first, shown.next, shown.closed));
    if expected != got {
        return Some(format!("first seq, next seq and closed are {got:?}, expected {expected:?}"));
    }
    if shown.expires != log.expires {
        return Some(format!("it is {}to end by itself", if shown.expires { "" } else { "not " }));
    }
    if shown.metadata != log.metadata {
        return Some(format!("the metadata is {}, expected {}", sketch(&shown.metadata), sketch(&log.metadata)));
    }
    match &shown.records {
        Some(records) if records.len() as u64 != log.next - log.trim => {
            Some(format!("{} records, expected {}", records.len(), log.next - log.trim))
        }
        Some(records) => check_records(log, log.trim, records),
        None if phase == Phase::Live => Some("its records cannot be read".to_owned()),
        None => None,
    }
}

fn sketch(bytes: &[u8]) -> String {
    let start: String = String::from_utf8_lossy(&bytes[..bytes.len().min(24)]).into_owned();
    format!("{start:?} of {} bytes", bytes.len())
}
