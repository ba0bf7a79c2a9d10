//! `everlog verify`: reads everything again, past the page cache, and lists what is damaged. Works on a store that is
//! running, since it only reads.
//!
//! What is checked is the engine's business. Invariant: the exit code is 0 if and only if nothing was found.

use std::path::Path;

use everlog::{Finding, IoChoice};
use serde::Serialize;

use crate::output;
use crate::progress::Progress;
use everlog_server::failure::Failure;

#[derive(Serialize)]
struct Report {
    intact: bool,
    bytes_read: u64,
    damaged: Vec<Damage>,
}

/// One place. The seqs and LSNs are inclusive; null where they cannot be known.
#[derive(Serialize)]
struct Damage {
    log: Option<String>,
    first_seq: Option<u64>,
    last_seq: Option<u64>,
    first_lsn: Option<u64>,
    last_lsn: Option<u64>,
    file: String,
    offset: Option<u64>,
    what: String,
}

pub fn run(dir: &Path, json: bool) -> Result<(), Failure> {
    let mut progress: Option<Progress> = None;
    let mut bytes_read = 0;
    let mut advance = |done, total| {
        bytes_read = done;
        progress.get_or_insert_with(|| Progress::new("verifying", total)).reached_of(done, total);
    };
    let findings = everlog::verify(everlog::io::choose(IoChoice::Posix)?, dir, &mut advance)?;
    drop(progress);
    let damaged: Vec<_> = findings.iter().map(Damage::from).collect();
    let report = Report { intact: damaged.is_empty(), bytes_read, damaged };
    output::print(&report, json)?;
    if findings.is_empty() { Ok(()) } else { Err(Failure::damage(findings.len())) }
}

impl From<&Finding> for Damage {
    fn from(finding: &Finding) -> Self {
        // An end that is not known stands as the greatest number.
        let last = |range: &std::ops::Range<u64>| (range.end != u64::MAX).then(|| range.end.saturating_sub(1));
        Self {
            log: finding.log.clone(),
            first_seq: finding.seqs.as_ref().map(|seqs| seqs.start),
            last_seq: finding.seqs.as_ref().and_then(last),
            first_lsn: finding.lsns.as_ref().map(|lsns| lsns.start),
            last_lsn: finding.lsns.as_ref().and_then(last),
            file: finding.file.display().to_string(),
            offset: finding.offset,
            what: finding.what.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_told_with_their_last_number() {
        let mut finding = Finding::new("store/segments/1.seg", "a chunk is damaged");
        finding.seqs = Some(3..7);
        finding.lsns = Some(10..u64::MAX);
        let damage = Damage::from(&finding);
        assert_eq!((damage.first_seq, damage.last_seq), (Some(3), Some(6)));
        assert_eq!((damage.first_lsn, damage.last_lsn), (Some(10), None));
        assert_eq!((damage.log, damage.offset), (None, None));
    }
}
