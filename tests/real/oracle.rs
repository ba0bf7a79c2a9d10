//! What the victim said it was told, and what must be there afterwards.
//!
//! It lives outside the victim and knows nothing but its lines. That each record found is byte for byte what was
//! appended is checked by whoever reads it (`content`); here it is counted: everything acknowledged is there, seqs are
//! dense from 0, and there is nothing that was not sent. What was seen once must be there from then on, as if it had
//! been acknowledged: a store that shows it has made it durable.

use super::line::Line;
use std::collections::BTreeMap;

/// What was said about one log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Told {
    /// The next seq if everything sent succeeded.
    sent: u64,
    /// The next seq after what was acknowledged, or seen.
    acked: u64,
    /// Acknowledgements since the last check.
    fresh: u64,
}

/// The oracle. A clone knows what was said up to then: for a check of what was on a disk at that moment.
#[derive(Clone, Debug, Default)]
pub struct Oracle {
    logs: BTreeMap<String, Told>,
}

/// What a store holds: the first and the next seq of each log.
pub type Found = BTreeMap<String, (u64, u64)>;

impl Oracle {
    /// Takes note of a line.
    pub fn told(&mut self, line: &Line) {
        match line {
            Line::Sent { log, next } => {
                let told = self.logs.entry(log.clone()).or_default();
                told.sent = told.sent.max(*next);
            }
            Line::Acked { log, next } => {
                let told = self.logs.entry(log.clone()).or_default();
                told.acked = told.acked.max(*next);
                told.fresh += 1;
            }
            _ => {}
        }
    }

    /// Logs with an append that was sent and neither acknowledged nor looked for since.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.logs.values().filter(|told| told.sent > told.acked).count()
    }

    /// Compares what was said with what a store holds after its recovery, and takes what it holds as said from here on.
    /// Gives how many acknowledgements were checked for the first time.
    ///
    /// # Errors
    /// What is violated.
    pub fn check(&mut self, found: &Found) -> Result<u64, String> {
        for (log, told) in &self.logs {
            let (first, next) = found.get(log).copied().unwrap_or_default();
            if first != 0 {
                return Err(format!("log {log} begins at {first}, and nothing was ever trimmed"));
            }
            if next < told.acked {
                return Err(format!("log {log} ends at {next}, and everything below {} was acknowledged", told.acked));
            }
            if next > told.sent {
                return Err(format!("log {log} ends at {next}, and nothing from {} on was ever sent", told.sent));
            }
        }
        if let Some(log) = found.keys().find(|log| !self.logs.contains_key(*log)) {
            return Err(format!("log {log} is there, and nothing was ever sent to it"));
        }
        let mut checked = 0;
        for (log, told) in &mut self.logs {
            checked += told.fresh;
            let (_, next) = found.get(log).copied().unwrap_or_default();
            *told = Told { sent: next, acked: next, fresh: 0 };
        }
        Ok(checked)
    }
}

/// What the lines of a check say that a store holds.
#[must_use]
pub fn found(lines: &[Line]) -> Found {
    let holds = lines.iter().filter_map(|line| match line {
        Line::Holds { log, first, next } => Some((log.clone(), (*first, *next))),
        _ => None,
    });
    holds.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn oracle(lines: &[&str]) -> Oracle {
        let mut oracle = Oracle::default();
        lines.iter().for_each(|line| oracle.told(&line.parse().expect("a line of the victim's")));
        oracle
    }

    fn holds(logs: &[(&str, u64, u64)]) -> Found {
        logs.iter().map(|(log, first, next)| ((*log).to_owned(), (*first, *next))).collect()
    }

    #[test]
    fn what_was_acknowledged_must_be_there_and_what_was_sent_may_be() {
        let told = oracle(&["sent a 2", "acked a 2", "sent a 3", "sent b 1"]);
        assert_eq!(told.in_flight(), 2);
        for (found, allowed) in [
            (holds(&[("a", 0, 2)]), true),
            (holds(&[("a", 0, 3), ("b", 0, 1)]), true),
            (holds(&[("a", 0, 1)]), false),
            (holds(&[("a", 1, 2)]), false),
            (holds(&[("a", 0, 4)]), false),
            (holds(&[("a", 0, 2), ("b", 0, 2)]), false),
            (holds(&[("a", 0, 2), ("c", 0, 1)]), false),
            (holds(&[("b", 0, 1)]), false),
        ] {
            assert_eq!(told.clone().check(&found).is_ok(), allowed, "{found:?}");
        }
        assert_eq!(told.clone().check(&holds(&[("a", 0, 3)])), Ok(1));
    }

    #[test]
    fn what_was_seen_once_must_stay() {
        let mut told = oracle(&["sent a 2", "acked a 2", "sent a 3"]);
        told.check(&holds(&[("a", 0, 3)])).expect("what was sent may be there");
        assert_eq!(told.in_flight(), 0);
        told.clone().check(&holds(&[("a", 0, 2)])).expect_err("it was seen");
        assert_eq!(told.check(&holds(&[("a", 0, 3)])), Ok(0), "no acknowledgement is counted twice");
    }

    #[test]
    fn what_was_not_there_is_not_waited_for() {
        let mut told = oracle(&["sent a 2"]);
        told.check(&holds(&[])).expect("it was not acknowledged");
        told.check(&holds(&[("a", 0, 2)])).expect_err("nobody sent it again");
    }
}
