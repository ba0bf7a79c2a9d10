//! Carries a case out on a store and on the map, and compares.
//!
//! The store is driven step by step on one thread, with a disk in memory; batches may be left open for a while, and
//! what is open must not be seen. Invariant: a case's outcome follows from the case alone.

use crate::map::{Answer, Do, Log, Map, Part, Payload, Phase};
use crate::ops::{Op, Settings};
use crate::resolve::{Memory, NAMES, NAMES_PREFIXES, place_of};
use crate::watch::Watch;
use everlog::io::Io;
use everlog::io::mem::MemIo;
use everlog::types::{Lsn, Position};
use everlog::{Ack, Batch, Config, ErrorKind, LogBatch, LogInfo, Page, ReadLimit, ReadOnly, Steps, Store, WhenFull};
use everlog_tests::sim::SimClock;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Passes after which a store that still owes an answer is stuck.
const PATIENCE: usize = 500;

type Check = Result<(), String>;

macro_rules! differ {
    ($($what:tt)*) => { return Err(format!($($what)*)) };
}

/// What the cases have come to.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    acknowledged: u64,
    refused: BTreeMap<String, u64>,
    repeated: u64,
    forks: u64,
    forks_of_forks: u64,
    reads: u64,
    read_refused: BTreeMap<String, u64>,
    reopened: u64,
    flushed: u64,
    woken: u64,
    overloads: u64,
}

impl Tally {
    pub fn add(&mut self, other: &Self) {
        self.acknowledged += other.acknowledged;
        self.repeated += other.repeated;
        self.forks += other.forks;
        self.forks_of_forks += other.forks_of_forks;
        self.reads += other.reads;
        self.reopened += other.reopened;
        self.flushed += other.flushed;
        self.woken += other.woken;
        self.overloads += other.overloads;
        for (mine, others) in [(&mut self.refused, &other.refused), (&mut self.read_refused, &other.read_refused)] {
            for (kind, count) in others {
                *mine.entry(kind.clone()).or_default() += count;
            }
        }
    }

    /// Cases in which nothing happens would prove nothing.
    pub fn assert_varied(&self, cases: u32) {
        if cases < 100 {
            return;
        }
        for kind in [
            "Invalid",
            "NotFound",
            "Deleted",
            "Trimmed",
            "Exists",
            "Closed",
            "Condition",
            "Replaced",
            "ProducerGap",
            "ProducerFenced",
            "ProducerConflict",
        ] {
            assert!(self.refused.contains_key(kind), "no batch was refused as {kind}: {self:?}");
        }
        for kind in ["Invalid", "NotFound", "Deleted", "Trimmed", "Rewound"] {
            assert!(self.read_refused.contains_key(kind), "no read was refused as {kind}: {self:?}");
        }
        let counts = [self.acknowledged, self.repeated, self.forks, self.forks_of_forks, self.reopened, self.flushed];
        assert!(
            counts.iter().chain([&self.woken]).all(|n| *n > u64::from(cases) / 10),
            "too little happened: {self:?}"
        );
    }
}

struct Run {
    disk: MemIo,
    clock: Arc<SimClock>,
    config: Config,
    /// None while it is opened again.
    store: Option<(Store, Steps)>,
    /// With all that was asked for.
    map: Map,
    /// With what is durable.
    seen: Map,
    open: Vec<(Ack, Result<Vec<Answer>, ErrorKind>)>,
    watches: Vec<Watch>,
    memory: Memory,
    tally: Tally,
}

const DIR: &str = "/store";

/// Carries out a case.
///
/// # Errors
/// The first difference, in words.
pub fn run(settings: Settings, ops: &[Op]) -> Result<Tally, String> {
    let disk = MemIo::new();
    let flush_bytes = settings.flush_kib << 10;
    let mut run = Run {
        disk,
        clock: Arc::new(SimClock::default()),
        config: Config {
            journal_file_bytes: 128 << 10,
            journal_files_max: 4,
            memory_pool_bytes: 2 * flush_bytes + (64 << 10),
            flush_bytes,
            in_flight: settings.in_flight,
            heads_max: settings.heads_max,
            when_full: WhenFull::Reject,
            idle_frame_after: Duration::from_millis(10),
            ..Config::default()
        },
        store: None,
        map: Map::default(),
        seen: Map::default(),
        open: Vec::new(),
        watches: Vec::new(),
        memory: Memory::default(),
        tally: Tally::default(),
    };
    Store::create_on(run.io(), run.clock.clone(), Path::new(DIR), &run.config).map_err(|e| e.to_string())?;
    run.start()?;
    for (n, op) in ops.iter().enumerate() {
        run.clock.advance(Duration::from_millis(3));
        run.step(op).and_then(|()| run.hear()).map_err(|what| format!("op {n}: {what}"))?;
    }
    run.check().map_err(|what| format!("at the end: {what}"))?;
    run.reopen(true, true).and_then(|()| run.check()).map_err(|what| format!("after the end: {what}"))?;
    Ok(run.tally)
}

impl Run {
    fn io(&self) -> Arc<dyn Io> {
        Arc::new(self.disk.clone())
    }

    fn store(&self) -> &Store {
        &self.store.as_ref().expect("it is open between two ops").0
    }

    fn start(&mut self) -> Check {
        let opened = Store::open_stepped(self.io(), self.clock.clone(), Path::new(DIR), self.config.clone());
        let opened = opened.map_err(|e| format!("the store does not open: {e}"))?;
        self.map.timeline = opened.0.recovery().timeline;
        self.seen = self.map.clone();
        self.store = Some(opened);
        Ok(())
    }

    fn step(&mut self, op: &Op) -> Check {
        match op {
            Op::Append { drafts, open, impatient } => {
                let parts = self.memory.parts(&self.map, drafts);
                self.append(&parts, *impatient)?;
                if !open {
                    self.commit()?;
                    parts.iter().try_for_each(|part| self.check_log(part.log))?;
                }
                Ok(())
            }
            Op::Burst { log, producer, batches } => {
                for _ in 0..*batches {
                    let part = self.memory.burst(*log, &self.map, *producer);
                    self.append(&[part], false)?;
                }
                self.commit()
            }
            Op::Read { log, from, records, bytes, impatient } => {
                let position = self.memory.position(NAMES[*log], &self.seen.log(NAMES[*log]), *from);
                let limit = ReadLimit { records: *records, bytes: *bytes };
                self.read(NAMES[*log], position, limit, *impatient).map(drop)
            }
            Op::ReadAll { log, records } => self.read_all(NAMES[*log], *records),
            Op::List { prefix, after, limit } => self.list(NAMES_PREFIXES[*prefix], after.map(|at| NAMES[at]), *limit),
            Op::Subscribe { log, after } => self.subscribe(NAMES[*log], place_of(&self.seen.log(NAMES[*log]), *after)),
            Op::Commit => self.commit(),
            Op::Flush => self.flush(),
            Op::Reopen { clean, look } => self.reopen(*clean, *look),
            Op::Check => self.check(),
        }
    }

    fn append(&mut self, parts: &[Part], impatient: bool) -> Check {
        let (expected, after) = self.map.append(parts);
        let mut batch = Batch::new();
        parts.iter().for_each(|part| ask(batch.log(part.log), part));
        let mut attempts = 0;
        let staged = loop {
            let impatiently = if impatient { Some(self.store().try_append(&batch)) } else { None };
            let staged = match impatiently {
                Some(Err(e)) if e.kind() == ErrorKind::WouldBlock => self.store().append(batch.clone()),
                Some(staged) => staged,
                None => self.store().append(batch.clone()),
            };
            match staged {
                Err(e) if e.kind() == ErrorKind::Overloaded && attempts < PATIENCE => {
                    attempts += 1;
                    self.tally.overloads += 1;
                    // What is answered here was asked for before this batch.
                    self.commit()?;
                    self.flush()?;
                }
                staged => break staged,
            }
        };
        match (staged, &expected) {
            (Ok(ack), _) => {
                if let Ok(answers) = &expected {
                    let new = answers.iter().zip(parts).filter(|(answer, _)| !answer.receipt.duplicate);
                    new.for_each(|(_, part)| self.memory.note(part));
                    self.count(parts);
                }
                self.map = after;
                self.open.push((ack, expected));
            }
            (Err(e), Err(kind)) if e.kind() == *kind => self.refused(*kind),
            (Err(e), expected) => differ!("{parts:?} was not taken: {e}; expected {expected:?}"),
        }
        Ok(())
    }

    fn count(&mut self, parts: &[Part]) {
        for part in parts {
            if let Do::Fork { parent, .. } = part.does[0] {
                self.tally.forks += 1;
                self.tally.forks_of_forks += u64::from(self.map.log(parent).forked_at.is_some());
            }
        }
    }

    fn refused(&mut self, kind: ErrorKind) {
        *self.tally.refused.entry(format!("{kind:?}")).or_default() += 1;
    }

    /// Takes steps until every batch has its answer.
    fn commit(&mut self) -> Check {
        for _ in 0..PATIENCE {
            while let Some((ack, _)) = self.open.first() {
                let Some(answer) = ack.try_get() else { break };
                let (_, expected) = self.open.remove(0);
                self.answered(&expected, answer)?;
            }
            if self.open.is_empty() {
                self.seen = self.map.clone();
                return Ok(());
            }
            let (_, steps) = self.store.as_mut().expect("it is open between two ops");
            if self.open.len() % 2 == 1 {
                steps.lead();
            }
            let moved = steps.commit().map_err(|e| format!("a pass of the committer: {e}"))?;
            if !moved {
                steps.flush().map_err(|e| format!("a pass of the flusher: {e}"))?;
            }
        }
        differ!("{} batches have no answer after {PATIENCE} passes", self.open.len())
    }

    fn answered(
        &mut self, expected: &Result<Vec<Answer>, ErrorKind>, answer: everlog::Result<everlog::Receipt>,
    ) -> Check {
        match (expected, answer) {
            (Ok(expected), Ok(receipt))
                if expected.len() == receipt.logs.len()
                    && expected.iter().zip(&receipt.logs).all(|(answer, told)| answer.allows(told, self.map.lsn)) =>
            {
                self.tally.acknowledged += 1;
                self.tally.repeated += u64::from(expected.iter().any(|answer| answer.receipt.duplicate));
                Ok(())
            }
            (Err(kind), Err(e)) if e.kind() == *kind => {
                self.refused(*kind);
                Ok(())
            }
            (expected, answer) => differ!("answered {answer:?}, expected {expected:?}"),
        }
    }

    fn flush(&mut self) -> Check {
        let (store, steps) = self.store.as_mut().expect("it is open between two ops");
        store.flush().map_err(|e| format!("a flush was refused: {e}"))?;
        let moved = steps.flush().map_err(|e| format!("a flush failed: {e}"))?;
        self.tally.flushed += u64::from(moved);
        Ok(())
    }

    fn reopen(&mut self, clean: bool, look: bool) -> Check {
        if !clean {
            // What is open when a process is killed is there or not; here it is always known.
            self.commit()?;
        }
        let (store, steps) = self.store.take().expect("it is open between two ops");
        self.watches.clear();
        if clean {
            steps.close().map_err(|e| format!("the store does not close: {e}"))?;
        } else {
            drop(steps);
        }
        drop(store);
        for (ack, expected) in std::mem::take(&mut self.open) {
            let Some(answer) = ack.try_get() else { differ!("a batch has no answer after a clean close") };
            self.answered(&expected, answer)?;
        }
        self.seen = self.map.clone();
        if look {
            self.look()?;
        }
        self.start()?;
        if self.store().recovery().clean != clean {
            differ!("closed cleanly: {clean}; found: {:?}", self.store().recovery());
        }
        self.tally.reopened += 1;
        Ok(())
    }

    /// A look at the store that nobody has open, and a verification.
    fn look(&self) -> Check {
        let shown = ReadOnly::open_on(self.io(), Path::new(DIR)).map_err(|e| format!("no look at the store: {e}"))?;
        for name in NAMES {
            let log = self.seen.log(name);
            self.check_info(&log, name, shown.info(name))?;
            let limit = ReadLimit { records: 20, bytes: 1 << 20 };
            self.check_page(&log, Position::Seq(log.trim), limit, shown.read(name, log.trim, limit))
                .map_err(|what| format!("log {name}: {what}"))?;
        }
        let found = everlog::verify(self.io(), Path::new(DIR), &mut |_, _| ());
        match found {
            Ok(found) if found.is_empty() => Ok(()),
            other => differ!("nothing is damaged, and verify says {other:?}"),
        }
    }

    fn subscribe(&mut self, name: &'static str, after: u64) -> Check {
        let log = self.seen.log(name);
        let subscription = self.store().subscribe(name);
        match (log.phase, subscription) {
            (Phase::Absent, Err(e)) if e.kind() == ErrorKind::NotFound => Ok(()),
            (Phase::Live | Phase::Deleted, Ok(subscription)) => {
                let head = subscription.next_seq().map_err(|e| e.to_string())?;
                if head != log.next {
                    differ!("log {name} has next seq {head} for a subscriber, expected {}", log.next);
                }
                self.watches.push(Watch::new(name, after, subscription));
                Ok(())
            }
            (phase, subscription) => differ!("log {name} is {phase:?}, and a subscription {subscription:?}"),
        }
    }

    /// Lets every task run that was woken.
    fn hear(&mut self) -> Check {
        for mut watch in std::mem::take(&mut self.watches) {
            let log = self.seen.log(watch.log);
            match (log.has_news(watch.after), watch.hear()?) {
                (true, Some(Ok(next))) if next == log.next => self.tally.woken += 1,
                (false, None) => self.watches.push(watch),
                (news, heard) => differ!(
                    "a watch of {} after {}: heard {heard:?}, though its next seq is {} (news: {news})",
                    watch.log,
                    watch.after,
                    log.next
                ),
            }
        }
        Ok(())
    }

    fn read(
        &mut self, name: &'static str, from: Position, limit: ReadLimit, impatient: bool,
    ) -> Result<Option<Page>, String> {
        let log = self.seen.log(name);
        let mut page =
            if impatient { self.store().try_read(name, from, limit) } else { self.store().read(name, from, limit) };
        if impatient && page.as_ref().is_err_and(|e| e.kind() == ErrorKind::WouldBlock) {
            page = self.store().read(name, from, limit);
        }
        self.tally.reads += 1;
        match &page {
            Ok(page) => {
                self.memory.give(name, page.start);
                self.memory.give(name, page.next);
            }
            Err(e) => *self.tally.read_refused.entry(format!("{:?}", e.kind())).or_default() += 1,
        }
        let kept = page.as_ref().ok().cloned();
        self.check_page(&log, from, limit, page)
            .map_err(|what| format!("log {name} from {from:?}, {limit:?}: {what}"))?;
        Ok(kept)
    }

    fn check_page(&self, log: &Log, from: Position, limit: ReadLimit, page: everlog::Result<Page>) -> Check {
        let start = match from {
            Position::Start => log.start_at_seq(log.trim),
            Position::End => log.start_at_seq(log.next),
            Position::Seq(seq) => log.start_at_seq(seq),
            Position::Cursor(cursor) => log.start_at_cursor(cursor),
        };
        let (start, page) = match (start, page) {
            (Ok(start), Ok(page)) => (start, page),
            (Err((kind, cut)), Err(e)) if e.kind() == kind && e.cut() == cut => return Ok(()),
            (start, page) => {
                differ!("expected {start:?}, got {:?}", page.map(|page| (page.start, page.records.len(), page.next)))
            }
        };
        let expected = log.records.range(start..log.next);
        let mut bytes = 0;
        let mut time = 0;
        for (record, (seq, known)) in page.records.iter().zip(expected) {
            if (record.seq, record.lsn.0, &record.payload[..]) != (*seq, known.lsn, &known.payload.0[..]) {
                let got = (record.seq, record.lsn, Payload(record.payload[..].into()));
                differ!("got {got:?}, expected {:?}", (seq, known.lsn, &known.payload));
            }
            if record.time.0 < time {
                differ!("record {seq} is older than the one before");
            }
            time = record.time.0;
            bytes += record.payload.len();
        }
        let (count, next) = (page.records.len(), start + page.records.len() as u64);
        let too_many = count > 1 && (count > limit.records || bytes > limit.bytes);
        let too_few = count == 0 && start < log.next;
        if too_many || too_few || next > log.next {
            differ!("{count} records of {bytes} bytes from {start} on, in a log that ends at {}", log.next);
        }
        let shown = (page.start, page.next_seq, page.next, page.head, page.closed, page.created);
        let known = (log.cursor(start), next, log.cursor(next), log.next, log.closed, Lsn(log.created));
        if shown != known {
            differ!("start, next seq, next, head, closed and created are {shown:?}, expected {known:?}");
        }
        Ok(())
    }

    /// Reads a log by pages, each from where the one before ended.
    fn read_all(&mut self, name: &'static str, records: usize) -> Check {
        let log = self.seen.log(name);
        let mut at = Position::Start;
        loop {
            let limit = ReadLimit { records, bytes: 4000 };
            let Some(page) = self.read(name, at, limit, false)? else { return Ok(()) };
            if page.next_seq == log.next {
                return Ok(());
            }
            at = Position::Cursor(page.next);
        }
    }

    fn check_info(&self, log: &Log, name: &str, info: everlog::Result<LogInfo>) -> Check {
        let info = match (log.phase, info) {
            (Phase::Absent, Err(e)) if e.kind() == ErrorKind::NotFound => return Ok(()),
            (Phase::Live | Phase::Deleted, Ok(info)) => info,
            (phase, info) => differ!("log {name} is {phase:?}, and its info {info:?}"),
        };
        let known = LogInfo {
            name: name.to_owned(),
            first_seq: log.trim,
            next_seq: log.next,
            expires_in: None,
            closed: log.closed,
            deleted: log.phase == Phase::Deleted,
            metadata: log.metadata.clone(),
            tag: log.tag.clone(),
            timelines: log.timelines.iter().map(|(timeline, first)| (*timeline, everlog::types::Seq(*first))).collect(),
            created: Lsn(log.created),
            // Advisory: how exactly it is known depends on where the log's state lies.
            changed: info.changed,
            last: info.last,
            forked_at: log.forked_at.filter(|at| *at >= log.trim),
        };
        if info != known {
            differ!("log {name} is {info:?}, expected {known:?}");
        }
        if info.last.0 < log.last {
            differ!("log {name} was changed last at {}, and says {}", log.last, info.last);
        }
        if info.changed < info.created || info.changed.0 > log.last {
            differ!("log {name}, of LSNs {} to {}, was last changed at {}", log.created, log.last, info.changed);
        }
        Ok(())
    }

    fn check_log(&mut self, name: &'static str) -> Check {
        let log = self.seen.log(name);
        self.check_info(&log, name, self.store().info(name))?;
        if log.phase == Phase::Absent {
            return Ok(());
        }
        self.memory.give(name, log.cursor(log.next));
        let from = log.next.saturating_sub(3).max(log.trim);
        self.read(name, Position::Seq(from), ReadLimit::default(), false).map(drop)
    }

    fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Check {
        let listed = self.store().list(prefix, after, limit).map_err(|e| format!("no list: {e}"))?;
        let live = self.seen.logs.iter().filter(|(name, log)| {
            log.phase == Phase::Live && name.starts_with(prefix) && after.is_none_or(|after| **name > after)
        });
        let expected: Vec<&str> = live.map(|(name, _)| *name).take(limit).collect();
        let names: Vec<&str> = listed.iter().map(|info| &*info.name).collect();
        if names != expected {
            differ!("listed {names:?} for {prefix:?} after {after:?}, at most {limit}; expected {expected:?}");
        }
        listed.into_iter().try_for_each(|info| {
            let name = info.name.clone();
            self.check_info(&self.seen.log(&name), &name, Ok(info))
        })
    }

    /// Looks at everything.
    fn check(&mut self) -> Check {
        self.commit()?;
        for name in NAMES {
            let log = self.seen.log(name);
            self.check_info(&log, name, self.store().info(name))?;
            self.read_all(name, 16)?;
        }
        self.list("", None, 100)
    }
}

/// Puts a part into the engine's words.
fn ask<'a>(log: &mut LogBatch<'a>, part: &'a Part) {
    if let Some(seq) = part.expect_next {
        log.expect_next(seq);
    }
    if let Some(cursor) = part.expect_at {
        log.expect_at(cursor);
    }
    if let Some(created) = part.expect_created {
        log.expect_created(Lsn(created));
    }
    if let Some(tag) = &part.tag {
        log.tag(tag);
    }
    if let Some((id, epoch, number)) = part.producer {
        log.producer(id, epoch, number);
    }
    for what in &part.does {
        match what {
            Do::Record(payload) => log.record(&payload.0),
            Do::Create(metadata) => log.create_with(metadata),
            Do::CreateIfMissing => log.create_if_missing(),
            Do::Fork { parent, at } => log.fork(parent, *at),
            Do::Undelete => log.undelete(),
            Do::Trim(seq) => log.trim(*seq),
            Do::Metadata(metadata) => log.metadata(metadata),
            Do::Close => log.close(),
            Do::Delete => log.delete(),
        };
    }
}
