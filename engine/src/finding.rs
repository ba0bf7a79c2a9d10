//! What a check of stored bytes found to be wrong: where, and what is affected by it, as far as that can be known.
//!
//! A finding decides nothing. Invariant: it names nothing that is known to be intact; what cannot be known is left out.

use crate::types::LogId;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file.
    pub file: PathBuf,
    /// The byte offset in the file, where it is known.
    pub offset: Option<u64>,
    /// What is wrong, without a full stop.
    pub what: String,
    /// The log concerned: its name, or its id in hexadecimal where the name is not known.
    pub log: Option<String>,
    /// The seqs concerned, the end excluded.
    pub seqs: Option<Range<u64>>,
    /// The LSNs concerned, the end excluded.
    pub lsns: Option<Range<u64>>,
}

impl Finding {
    /// Something wrong with `file`; the rest is not known yet.
    #[must_use]
    pub fn new(file: impl Into<PathBuf>, what: impl Into<String>) -> Self {
        Self { file: file.into(), offset: None, what: what.into(), log: None, seqs: None, lsns: None }
    }

    /// Names the log by its name, if it stands here by its id and `name_of` knows it.
    #[must_use]
    pub(crate) fn named(mut self, name_of: impl FnOnce(LogId) -> Option<String>) -> Self {
        let id = self.log.as_deref().and_then(log_id);
        if let Some(name) = id.and_then(name_of) {
            self.log = Some(name);
        }
        self
    }
}

/// The log id of 32 hexadecimal digits.
fn log_id(digits: &str) -> Option<LogId> {
    let number = u128::from_str_radix(digits, 16).ok()?;
    (digits.len() == 32).then(|| LogId(number.to_be_bytes()))
}

impl fmt::Display for Finding {
    /// One line: file, offset, what, log, seqs, LSNs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some(offset) = self.offset {
            write!(f, " at byte {offset}")?;
        }
        write!(f, ": {}", self.what)?;
        if let Some(log) = &self.log {
            write!(f, ", log {log}")?;
        }
        for (name, range) in [("seqs", &self.seqs), ("LSNs", &self.lsns)] {
            match range {
                Some(r) if r.end == u64::MAX => write!(f, ", {name} {}–unknown", r.start)?,
                Some(r) if r.is_empty() => write!(f, ", no {name}")?,
                Some(r) => write!(f, ", {name} {}–{}", r.start, r.end - 1)?,
                None => {}
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_is_one_line_that_says_what_is_affected() {
        let mut finding = Finding::new("segments/7.seg", "a chunk's digest is wrong");
        assert_eq!(finding.to_string(), "segments/7.seg: a chunk's digest is wrong");
        finding.offset = Some(4096);
        finding.log = Some("users/alice".into());
        finding.seqs = Some(3..6);
        finding.lsns = Some(10..u64::MAX);
        assert_eq!(
            finding.to_string(),
            "segments/7.seg at byte 4096: a chunk's digest is wrong, log users/alice, seqs 3–5, LSNs 10–unknown"
        );
        finding.seqs = Some(3..3);
        assert!(finding.to_string().contains("no seqs"));
    }
}
