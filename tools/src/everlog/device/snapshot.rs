//! Taking a stream's snapshot, once what the device had followed of it is no longer kept: page by page, each merged and
//! written down before the next.
//!
//! A snapshot speaks of the keys in their order. A key that is known here, lies between two that a page speaks of, and is
//! not spoken of itself, was deleted since the two sides last agreed. Invariants: a page counts as taken only once the
//! files and what is agreed on are durable, so that a sync that is cut anywhere goes on with the page it was at; a change
//! that was made here outlives a deletion there.

use std::collections::BTreeSet;
use std::ops::Bound;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::pull::{Gathering, settle};
use super::remote::Page;
use super::session::Session;
use super::state::Taken;
use super::word::{Heard, Last, Said};
use everlog_server::failure::Failure;

/// What asks for the first page.
const FIRST: &str = "snapshot";
/// How often a snapshot is begun anew since the stream was cut short meanwhile.
const BEGINS_MAX: u32 = 8;
/// Content that a page may hold: it has little more than a record's.
const HELD_BYTES_MAX: usize = 32 << 20;

/// A snapshot of which nothing was taken yet.
pub fn first() -> Taken {
    Taken { next: FIRST.to_owned(), after: None }
}

/// Takes what is left of the snapshot, and leaves the cursor at its end.
pub fn take(session: &mut Session<'_>) -> Result<Gathering, Failure> {
    let mut begins = 0;
    loop {
        let at = session.state.snapshot.clone().unwrap_or_else(first);
        match session.remote.read(session.collection, &at.next)? {
            Page::Content { stream, .. } if at.next == FIRST && !is_followed(session, stream.as_deref()) => {
                session.state.snapshot = None;
                return Ok(Gathering::Another);
            }
            Page::Content { elements, next, cold, .. } => {
                let page = Spoken::of(session, &elements, &at, &next)?;
                if merge(session, page, next, cold)? {
                    return Ok(Gathering::Taken);
                }
            }
            // What was merged of it stays agreed on, as far as that goes.
            Page::Cut(told) => {
                session.state.snapshot = None;
                return Ok(Gathering::Cut(told, end_of(&at.next).to_owned()));
            }
            Page::Missing { is_rewind } => {
                session.state.snapshot = None;
                return Ok(Gathering::Missing { is_rewind });
            }
            Page::Trimmed if begins < BEGINS_MAX => {
                begins += 1;
                session.state.snapshot = Some(first());
            }
            Page::Trimmed => {
                let cause = format!("the server gives {} up faster than it can be read", session.collection.name);
                return Err(Failure::new(1, cause, "sync again; nothing is lost"));
            }
        }
    }
}

/// Whether it is the stream that this device had followed. Of another one, what is not there was not deleted.
fn is_followed(session: &Session<'_>, stream: Option<&str>) -> bool {
    stream.is_some() && stream == session.state.stream.as_deref()
}

/// The stream's offset that a page's names.
fn end_of(token: &str) -> &str {
    token.split('.').nth(1).unwrap_or(token)
}

/// What one page speaks of.
struct Spoken {
    words: Vec<(String, Last)>,
    /// The known keys that it passes over.
    deleted: BTreeSet<String>,
    /// The last key up to there.
    after: Option<String>,
    /// The stream's end as the snapshot has it, if this is the last page.
    end: Option<String>,
}

#[derive(Deserialize)]
struct Named {
    r#type: Option<String>,
    key: Option<String>,
    headers: Headers,
}

#[derive(Deserialize)]
struct Headers {
    /// Text, where the server gave it: a record is restated as it came if it says one of its own, whatever that is.
    offset: Option<serde_json::Value>,
    control: Option<String>,
}

impl Spoken {
    fn of(session: &mut Session<'_>, elements: &[Box<RawValue>], at: &Taken, next: &str) -> Result<Self, Failure> {
        let collection = session.collection;
        let (mut after, mut is_last) = (at.after.clone(), false);
        let (mut words, mut heard, mut held) = (Vec::new(), BTreeSet::new(), 0_usize);
        for element in elements {
            let named: Named = serde_json::from_str(element.get()).map_err(|_| odd("holds what is no message"))?;
            is_last = named.headers.control.as_deref() == Some("snapshot-end");
            let (Some(key), false) = (named.key, named.headers.control.is_some()) else { continue };
            if named.r#type.as_deref() != Some(collection.kind) {
                session.report.damaged(collection, &key, "its type is none of the collection's");
                continue;
            }
            if after.as_ref().is_some_and(|after| key <= *after) {
                return Err(odd("is out of order"));
            }
            after = Some(key.clone());
            heard.insert(key.clone());
            if let Some(why) = collection.refuses(&key) {
                session.report.damaged(collection, &key, why.to_owned());
                continue;
            }
            let said = Heard::of(collection, element, HELD_BYTES_MAX.saturating_sub(held));
            let said = match said {
                Ok(Heard::Of(_, said)) => said,
                Ok(Heard::Nothing | Heard::Reset) => return Err(odd("holds what is no change")),
                // It stands in the stream as it came, and what lies here under that key stays.
                Err(why) => Said::Unreadable(why),
            };
            if let Said::File { bytes: Some(bytes), .. } = &said {
                held += bytes.len();
            }
            let offset = named.headers.offset.as_ref().and_then(serde_json::Value::as_str);
            let offset = offset.unwrap_or_else(|| end_of(&at.next)).to_owned();
            words.push((key, Last { said, offset, page: at.next.clone(), was_put_back: false }));
        }
        let end = is_last.then(|| next.to_owned());
        if end.is_some() == next.starts_with(FIRST) || (end.is_none() && next == at.next) {
            return Err(odd("has no end"));
        }
        let to = if is_last { Bound::Unbounded } else { after.as_deref().map_or(Bound::Excluded(""), Bound::Included) };
        let from = at.after.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let state = &session.state;
        let deleted = known_between(state, from, to).filter(|key| !heard.contains(*key)).cloned().collect();
        Ok(Self { words, deleted, after, end })
    }
}

/// The keys that this device takes the server to have, in a stretch of their order.
fn known_between<'s>(
    state: &'s super::state::State, from: Bound<&'s str>, to: Bound<&'s str>,
) -> impl Iterator<Item = &'s String> {
    let within = move |key: &&String| {
        let is_behind = match from {
            Bound::Excluded(from) => key.as_str() > from,
            Bound::Included(_) | Bound::Unbounded => true,
        };
        is_behind
            && match to {
                Bound::Included(to) => key.as_str() <= to,
                Bound::Excluded(to) => key.as_str() < to,
                Bound::Unbounded => true,
            }
    };
    state.items.keys().chain(state.wanted.keys()).chain(state.unreadable.keys()).filter(within)
}

/// Merges a page, and writes down that it was taken. Whether it was the last one.
fn merge(session: &mut Session<'_>, page: Spoken, next: String, cold: Option<String>) -> Result<bool, Failure> {
    let Spoken { mut words, deleted, after, end } = page;
    let seen = end.clone().unwrap_or_else(|| end_of(&next).to_owned());
    for key in deleted {
        let (offset, page) = (seen.clone(), seen.clone());
        words.push((key, Last { said: Said::Deleted, offset, page, was_put_back: false }));
    }
    // What is agreed on from here on speaks of the stream as far as that.
    session.state.hear(&seen);
    session.state.cursor = None;
    settle(session, words, None)?;
    session.state.snapshot = end.is_none().then_some(Taken { next, after });
    if let Some(end) = end {
        session.state.mark(&end);
        session.state.cursor = Some(end);
        session.state.cold = cold;
    }
    session.save()?;
    Ok(session.state.snapshot.is_none())
}

fn odd(what: &str) -> Failure {
    let cause = format!("the snapshot that the server gives {what}");
    Failure::new(1, cause, "look into the server's log; what was merged so far is sound")
}
