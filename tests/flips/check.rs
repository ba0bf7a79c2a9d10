//! What a store is asked after one of its bits was flipped, and which answers are right.
//!
//! Invariant: an answer is right only if it is the truth of the intact store, or says "damaged" (or "refused", where the
//! identity is what was flipped).

use super::subject::{Log, Place, Sent, Subject};
use crate::golden::listing::Reads;
use crate::golden::maker::{DIR, in_the_engines_words, small};
use crate::golden::told::{Ask, Op};
use crate::sim::SimClock;
use everlog::io::mem::MemIo;
use everlog::{Batch, ErrorKind, Finding, Receipt, Steps, Store};
use std::path::Path;
use std::slice;
use std::sync::Arc;

/// A log that no store has.
const NEVER: &str = "a/never";

/// What `verify` says is enough for this place.
pub fn verify_says_enough(io: &MemIo, place: Place) -> Result<(), String> {
    let findings = everlog::verify(Arc::new(io.clone()), Path::new(DIR), &mut |_, _| ());
    let findings = match findings {
        Ok(findings) => findings,
        Err(e) => return Err(format!("verify says {:?}: {e}", e.kind())),
    };
    let named = |f: &Finding| f.log.is_some() && f.seqs.is_some();
    let enough = match place {
        Place::Data => findings.iter().any(named),
        Place::Journal => findings.iter().any(|f| named(f) || f.lsns.is_some()),
        _ => !findings.is_empty(),
    };
    if enough { Ok(()) } else { Err(format!("verify says too little: {findings:?}")) }
}

/// Opens the store and asks everything. Whether "damaged" was an answer. What looks a log up first changes from log to
/// log and from `turn` to turn, which is every other bit: that something is asked of it, or that it is appended to. Of
/// places that no answer rests on but that of the open, two logs in turn are asked.
pub fn ask(subject: &Subject, io: &MemIo, place: Place, turn: usize) -> Result<bool, String> {
    let Some((store, _steps)) = open(io)? else { return not_for(place, true) };
    let mut met = judge(&NEVER, Reads::info(&store, NEVER), |answer| matches!(answer, Err(ErrorKind::NotFound)))?;
    let live = || subject.logs.values().map(|log| &log.info).filter(|info| !info.deleted);
    let list = || judge(&"the list", Reads::list(&store), |all| all.as_ref().is_ok_and(|all| all.iter().eq(live())));
    // The list looks up every log that lives.
    let list_first = turn.is_multiple_of(8);
    if list_first {
        met |= list()?;
    }
    let count = if place.is_asked_for() { subject.logs.len() } else { subject.logs.len().min(2) };
    for ((name, log), turn) in
        subject.logs.iter().cycle().skip(turn % subject.logs.len().max(1)).take(count).zip(turn..)
    {
        let append_first = place.is_for_heads() && turn.is_multiple_of(2);
        if append_first {
            met |= appends(&store, name, log, turn / 2)?;
        }
        met |= judge(&format_args!("info of {name}"), Reads::info(&store, name), |info| *info == Ok(log.info.clone()))?;
        met |= records(&store, name, log, turn)?;
        if place.is_for_heads() && !append_first {
            met |= appends(&store, name, log, turn / 2)?;
        }
    }
    if !list_first && place.is_asked_for() {
        met |= list()?;
    }
    not_for(place, met)
}

/// What does no harm by its nature must do none.
fn not_for(place: Place, met: bool) -> Result<bool, String> {
    let harmless = matches!(place, Place::Lookup | Place::OldManifest | Place::JournalHeader);
    if harmless && met { Err("damage that need not matter does".to_owned()) } else { Ok(met) }
}

/// None if it says that it is damaged.
fn open(io: &MemIo) -> Result<Option<(Store, Steps)>, String> {
    let clock = Arc::new(SimClock::default());
    match Store::open_stepped(Arc::new(io.clone()), clock, Path::new(DIR), small()) {
        Ok(opened) => Ok(Some(opened)),
        Err(e) if matches!(e.kind(), ErrorKind::Damaged | ErrorKind::Refused) => Ok(None),
        Err(e) => Err(format!("the open says {:?}: {e}", e.kind())),
    }
}

/// True if the answer is "damaged", false if it is the truth; anything else is wrong.
fn judge<T: std::fmt::Debug>(
    what: &dyn std::fmt::Display, answer: everlog::Result<T>, is_true: impl FnOnce(&Result<T, ErrorKind>) -> bool,
) -> Result<bool, String> {
    match answer.map_err(|e| e.kind()) {
        Err(ErrorKind::Damaged) => Ok(true),
        answer if is_true(&answer) => Ok(false),
        answer => Err(format!("{what}: {answer:?}")),
    }
}

/// The log's records: from the first one, or the last one alone.
fn records(store: &Store, name: &str, log: &Log, turn: usize) -> Result<bool, String> {
    let (first, next) = (log.info.first_seq, log.info.next_seq);
    if log.info.deleted {
        let answer = store.page(name, first);
        return judge(&format_args!("a read of {name}"), answer, |page| matches!(page, Err(ErrorKind::Deleted)));
    }
    let mut at = if turn % 4 < 3 { first } else { next.saturating_sub(1).max(first) };
    loop {
        let page = match store.page(name, at) {
            Err(e) if e.kind() == ErrorKind::Damaged => return Ok(true),
            other => other.map_err(|e| format!("a read of {name} from {at}: {e}"))?,
        };
        let expected = &log.records[(at - first) as usize..];
        let right = page.records.iter().zip(at..).all(|(record, seq)| record.seq == seq)
            && page.records.len() <= expected.len()
            && page.records.iter().zip(expected).all(|(record, expected)| record.payload == *expected);
        if !right || (page.head, page.closed) != (next, log.info.closed) {
            return Err(format!("a read of {name} from {at} gives {page:?}"));
        }
        at = page.next_seq;
        if at == next {
            return Ok(false);
        }
        if page.records.is_empty() {
            return Err(format!("a read of {name} from {at} gives nothing"));
        }
    }
}

/// The answer to a batch; None while it waits to be stored, which is the answer to what is new.
fn answer(store: &Store, batch: Batch<'_>) -> everlog::Result<Option<Receipt>> {
    store.append(batch)?.try_get().transpose()
}

/// The log is not taken for missing, and its head for no older one: a repetition, a creation and an append at its end,
/// the first two not in every turn.
fn appends(store: &Store, name: &str, log: &Log, turn: usize) -> Result<bool, String> {
    let mut met = false;
    if let Some(sent) = log.sent.as_ref().filter(|_| turn % 4 < 3) {
        met |= repetition(store, name, log, sent)?;
    }
    if !log.info.deleted && turn.is_multiple_of(2) {
        let mut batch = Batch::new();
        batch.log(name).create();
        let answer = answer(store, batch);
        met |= judge(&format_args!("a creation of {name}"), answer, |a| matches!(a, Err(ErrorKind::Exists)))?;
    }
    // Last, since what is answered after it waits for it.
    let live = !log.info.deleted && !log.info.closed;
    let mut batch = Batch::new();
    batch.log(name).expect_next(log.info.next_seq).record(b"new");
    met |= judge(&format_args!("an append to {name}"), answer(store, batch), |answer| match answer {
        Ok(None) => live,
        Err(ErrorKind::Closed) => log.info.closed,
        Err(ErrorKind::Deleted) => log.info.deleted,
        _ => false,
    })?;
    Ok(met)
}

/// A number that was sent is never taken for new, and the number after the next one always for a gap.
fn repetition(store: &Store, name: &str, log: &Log, sent: &Sent) -> Result<bool, String> {
    let other = Ask::of(name, [Op::Record(b"something else".to_vec())]);
    let ask = sent.ask.clone().unwrap_or(other);
    let ask = Ask { producer: Some((sent.id.clone(), sent.epoch, sent.number)), ..ask };
    let again = |receipt: &Receipt| {
        let told = receipt.logs[0];
        told.duplicate && (told.first_seq, told.next_seq) == sent.seqs
    };
    let answered = answer(store, in_the_engines_words(slice::from_ref(&ask)));
    let mut met = judge(&format_args!("a repetition to {name}"), answered, |answer| match answer {
        Ok(Some(receipt)) => sent.ask.is_some() && again(receipt),
        Err(ErrorKind::ProducerConflict) => sent.ask.is_none(),
        Err(ErrorKind::Deleted) => log.info.deleted,
        _ => false,
    })?;
    let mut batch = Batch::new();
    batch.log(name).producer(&sent.id, sent.epoch, sent.number + 2).record(b"ahead");
    met |= judge(&format_args!("a gap in {name}"), answer(store, batch), |answer| match answer {
        Err(ErrorKind::ProducerGap) => true,
        Err(ErrorKind::Deleted) => log.info.deleted,
        _ => false,
    })?;
    Ok(met)
}
