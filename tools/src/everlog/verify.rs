//! `everlog verify`: reads everything again, past the page cache, and lists what is damaged. Works on a store that is
//! running, since it only reads. With `--cold` it reads what counts in a cold store, without the store itself.
//!
//! What is checked is the engine's business. Invariant: the exit code is 0 if and only if nothing was found.

use std::path::{Path, PathBuf};

use everlog::{Finding, IoChoice};
use serde::Serialize;

use crate::output;
use crate::progress::Progress;
use everlog_server::failure::Failure;

pub const EXAMPLES: &str = "Examples:
  everlog verify ./store
  everlog verify ./store --json
  everlog verify --cold file:///mnt/cold
  everlog verify --cold s3://bucket/prefix --json

With --cold all that a restore would read is read: the newest version of the manifest, the segments that it names, and the tail.
Objects that count no more are counted and not read. Exits 4 if damage is found.";

#[derive(clap::Args)]
pub struct Args {
    /// The store
    #[arg(required_unless_present = "cold", conflicts_with = "cold")]
    dir: Option<PathBuf>,
    /// A cold store instead: file://PATH, s3://BUCKET/PREFIX
    #[arg(long, value_name = "URL")]
    cold: Option<String>,
    /// One JSON object on stdout
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct ColdReport {
    intact: bool,
    store: String,
    epoch: u64,
    last_lsn: u64,
    segments: u64,
    segment_bytes: u64,
    frames: u64,
    versions: u64,
    objects_that_count_no_more: u64,
    damaged: Vec<Damage>,
}

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

pub fn run(args: &Args) -> Result<(), Failure> {
    match (&args.dir, &args.cold) {
        (_, Some(url)) => verify_cold(url, args.json),
        (Some(dir), None) => verify(dir, args.json),
        (None, None) => unreachable!("clap wants one of both"),
    }
}

fn verify_cold(url: &str, json: bool) -> Result<(), Failure> {
    let cold = everlog::cold::connect(url, &std::env::current_dir()?)?;
    let mut progress: Option<Progress> = None;
    let mut advance = |done, total| {
        progress.get_or_insert_with(|| Progress::of_bytes("verifying", total)).reached_of(done, total);
    };
    let report = everlog::verify_cold(&cold, &mut advance)?;
    drop(progress);
    let damaged: Vec<_> = report.findings.iter().map(Damage::from).collect();
    let found = damaged.len();
    let report = ColdReport {
        intact: damaged.is_empty(),
        store: report.store.to_string(),
        epoch: report.epoch.0,
        last_lsn: report.last_lsn.0,
        segments: report.segments.0,
        segment_bytes: report.segments.1,
        frames: report.frames,
        versions: report.versions,
        objects_that_count_no_more: report.others,
        damaged,
    };
    output::print(&report, json)?;
    if found == 0 { Ok(()) } else { Err(Failure::damage(found)) }
}

fn verify(dir: &Path, json: bool) -> Result<(), Failure> {
    let mut progress: Option<Progress> = None;
    let mut bytes_read = 0;
    let mut advance = |done, total| {
        bytes_read = done;
        progress.get_or_insert_with(|| Progress::of_bytes("verifying", total)).reached_of(done, total);
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
