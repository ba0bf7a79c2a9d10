//! What became of the requests of a bench.
//!
//! Invariant: a request is counted once, as answered or as one of the failures; only the answered ones have a latency.

use hdrhistogram::Histogram;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Instant;

use crate::bench::histogram;

/// Requests by what became of them.
pub struct Tally {
    /// How long each waited that was answered as it should be and begun after warming up.
    pub latencies: Histogram<u64>,
    /// When the last of those was answered.
    pub last_answer: Option<Instant>,
    /// Connections that could not be made, or that broke with a request under way.
    pub broken_connections: u64,
    /// Requests that were still without an answer long after the end.
    pub unanswered: u64,
    statuses: BTreeMap<u16, u64>,
}

/// Answers that were failures.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct StatusCount {
    /// The answer's status.
    pub status: u16,
    /// How many bore it.
    pub count: u64,
}

impl Tally {
    pub fn new() -> Self {
        Self {
            latencies: histogram(),
            last_answer: None,
            broken_connections: 0,
            unanswered: 0,
            statuses: BTreeMap::new(),
        }
    }

    /// A request that was begun at `begun` was answered as it should be.
    pub fn answered(&mut self, begun: Instant) {
        let now = Instant::now();
        let waited = now.saturating_duration_since(begun).as_nanos();
        self.latencies.saturating_record(u64::try_from(waited).unwrap_or(u64::MAX));
        self.last_answer = self.last_answer.max(Some(now));
    }

    /// An answer was a failure.
    pub fn failed(&mut self, status: u16) {
        *self.statuses.entry(status).or_default() += 1;
    }

    /// Failures of every kind.
    pub fn errors(&self) -> u64 {
        self.statuses.values().sum::<u64>() + self.broken_connections + self.unanswered
    }

    /// Failures that had a status.
    pub fn by_status(&self) -> Vec<StatusCount> {
        self.statuses.iter().map(|(status, count)| StatusCount { status: *status, count: *count }).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_never_a_request_that_was_answered() {
        let mut tally = Tally::new();
        tally.answered(Instant::now());
        tally.failed(503);
        tally.failed(503);
        tally.failed(404);
        tally.broken_connections += 1;
        tally.unanswered += 1;
        assert_eq!((tally.latencies.len(), tally.errors()), (1, 5));
        let by_status = [StatusCount { status: 404, count: 1 }, StatusCount { status: 503, count: 2 }];
        assert_eq!(tally.by_status(), by_status);
    }
}
