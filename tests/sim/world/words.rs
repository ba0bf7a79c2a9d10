//! Between the words of the oracle and those of the engine: requests, answers, and what readers are shown.
//!
//! It decides nothing. Invariant: nothing that the engine says is left out on the way to the oracle.

use super::violation;
use crate::oracle::{Answer, Creation, Page, Part, Phase, Read, Shown, Then, Violation};
use everlog::{Error, ErrorKind, LogBatch, ReadLimit, Receipt, Store};
use std::cell::Cell;
use std::rc::Rc;

/// All that can be seen of a log; None if there is none.
///
/// # Errors
/// Why it cannot be seen, or what is wrong with what is.
pub fn show(store: &Store, name: &str) -> Result<Result<Option<Shown>, Error>, Violation> {
    let info = match store.info(name) {
        Ok(info) => info,
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(Ok(None)),
        Err(e) => return Ok(Err(e)),
    };
    if !info.timelines.is_sorted_by(|a, b| a.0.counter < b.0.counter && a.1 <= b.1) {
        return violation(format!("log {name}: timelines out of order: {:?}", info.timelines));
    }
    let phase = if info.deleted { Phase::Deleted } else { Phase::Live };
    let mut records = Vec::new();
    let mut at = info.first_seq;
    while phase == Phase::Live && at < info.next_seq {
        let page = match store.read(name, at, ReadLimit::default()) {
            Ok(page) => page,
            Err(e) => return Ok(Err(e)),
        };
        if page.next_seq <= at || page.records.is_empty() {
            return violation(format!("log {name}: reading from {at} does not get on"));
        }
        at = page.next_seq;
        records.extend(as_seen(page).records);
    }
    Ok(Ok(Some(Shown {
        phase,
        first: info.first_seq,
        next: info.next_seq,
        closed: info.closed,
        metadata: info.metadata,
        expires: info.expires_in.is_some(),
        records: (phase == Phase::Live).then_some(records),
    })))
}

/// A page as the oracle knows it.
pub fn as_seen(page: everlog::Page) -> Page {
    let read = |r: everlog::Record| Read { seq: r.seq, lsn: r.lsn.0, time: r.time.0, payload: r.payload.to_vec() };
    Page { records: page.records.into_iter().map(read).collect(), head: page.head, closed: page.closed }
}

/// A receipt as the oracle knows it.
pub fn answers(receipt: &Receipt) -> Vec<Answer> {
    let answer = |log: &everlog::LogReceipt| Answer {
        first: log.first_seq,
        next: log.next_seq,
        lsn: Rc::new(Cell::new(log.lsn.0)),
        duplicate: log.duplicate,
        first_ticket: None,
        last_record: None,
    };
    receipt.logs.iter().map(answer).collect()
}

/// Puts a part into the engine's words.
pub fn ask<'a>(log: &mut LogBatch<'a>, part: &'a Part) {
    if let Some(seq) = part.expect_next {
        log.expect_next(seq);
    }
    if let Some((id, epoch, number)) = &part.producer {
        log.producer(id, *epoch, *number);
    }
    if let Some(tag) = &part.tag {
        log.tag(tag);
    }
    match &part.create {
        Some(Creation::New(metadata)) => log.create_with(metadata),
        Some(Creation::IfMissing) => log.create_if_missing(),
        Some(Creation::Fork(parent, at)) => log.fork(parent, *at),
        None => log,
    };
    for record in &part.records {
        log.record(record);
    }
    match &part.then {
        None => log,
        Some(Then::Close) => log.close(),
        Some(Then::Trim(seq)) => log.trim(*seq),
        Some(Then::Delete) => log.delete(),
        Some(Then::Undelete) => log.undelete(),
        Some(Then::Metadata(metadata)) => log.metadata(metadata),
        Some(Then::Expire(after)) => log.expire(*after),
    };
}

/// Parts in short, for the trace.
pub fn sketch(parts: &[Part]) -> Vec<String> {
    let one = |part: &Part| {
        let bytes: usize = part.records.iter().map(|r| r.len()).sum();
        let producer = part.producer.as_ref().map(|(id, epoch, number)| (String::from_utf8_lossy(id), epoch, number));
        let (log, n, create, then) = (&part.log, part.records.len(), &part.create, &part.then);
        format!("{log}: {n} records of {bytes} bytes, {create:?} {then:?} {producer:?} expect {:?}", part.expect_next)
    };
    parts.iter().map(one).collect()
}
