//! What is written down of tokens, deletions and opens: one JSON record for each in the system's log [`crate::system::AUDIT`].
//!
//! Only where callers are told apart. Invariant: the record of a change lies in the batch of that change, so that there is
//! none without the other after any crash.

use serde::Serialize;
use std::time::{SystemTime, UNIX_EPOCH};

/// What was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Action {
    /// A token was issued.
    #[serde(rename = "token.issue")]
    TokenIssue,
    /// A token was revoked.
    #[serde(rename = "token.revoke")]
    TokenRevoke,
    /// A stream was deleted.
    #[serde(rename = "stream.delete")]
    StreamDelete,
    /// The store was opened.
    #[serde(rename = "store.open")]
    StoreOpen,
    /// The store was taken back to an earlier moment; this is the first record behind those that were carried over.
    #[serde(rename = "store.restore")]
    StoreRestore,
}

#[derive(Serialize)]
struct Record<'a> {
    time_us: u64,
    actor: &'a str,
    action: Action,
    target: &'a str,
    outcome: &'a str,
}

/// The record: who did what to what, and how it came out.
#[must_use]
pub fn record(actor: &str, action: Action, target: &str, outcome: &str) -> Vec<u8> {
    let record = Record { time_us: now_us(), actor, action, target, outcome };
    serde_json::to_vec(&record).expect("the fields are text and a number")
}

/// The wall clock's time, which is advisory.
#[must_use]
pub fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
