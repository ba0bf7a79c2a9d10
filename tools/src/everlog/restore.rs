//! `everlog restore`: brings a store back from a cold store. The same command goes on with one that did not end.
//!
//! What a restore does is the engine's business. Invariant: the exit code is 0 if and only if everything that the cold store
//! has could be read.

use std::path::PathBuf;

use everlog::{Config, RestoreReport};
use everlog_server::failure::Failure;
use serde::Serialize;

use crate::output;
use crate::progress::Progress;

pub const EXAMPLES: &str = "Examples:
  everlog restore --cold file:///mnt/cold --to ./store
  everlog restore --cold file:///mnt/cold --to ./store --json

Begun again, it goes on where it was. What is restored has no owner: its first open, with the same cold store, takes it over,
and whoever owned it before stops. Exits 4 if the cold store holds something that cannot be read; the rest is there then.";

#[derive(clap::Args)]
pub struct Args {
    /// The cold store: file://PATH, s3://BUCKET/PREFIX
    #[arg(long, value_name = "URL")]
    cold: String,
    /// Where to; missing, empty, or a restore of the same store that did not end
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// One JSON object on stdout
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    store: String,
    epoch: u64,
    last_lsn: u64,
    /// What was acknowledged as local after this time is unknown to the cold store.
    local_unknown_after_us: u64,
    segments: u64,
    segment_bytes: u64,
    segment_bytes_there_before: u64,
    frames: u64,
    /// No version of the manifest could be read.
    without_manifest: bool,
    lost: Vec<Lost>,
}

#[derive(Serialize)]
struct Lost {
    first_lsn: Option<u64>,
    last_lsn: Option<u64>,
    /// The object concerned.
    object: Option<String>,
    what: String,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let here = std::env::current_dir()?;
    let cold = everlog::cold::connect(&args.cold, &here)?;
    let mut progress: Option<Progress> = None;
    let mut advance = |done, total| {
        progress.get_or_insert_with(|| Progress::of_bytes("restoring", total)).reached_of(done, total);
    };
    let report = everlog::restore(&*cold, &args.to, &Config::default(), &mut advance)?;
    drop(progress);
    let lost = report.lost.len();
    output::print(&Report::from(report), args.json)?;
    if lost == 0 { Ok(()) } else { Err(Failure::damage(lost)) }
}

impl From<RestoreReport> for Report {
    fn from(report: RestoreReport) -> Self {
        let lost = report.lost.iter().map(|error| {
            let lsns = error.lsn_range();
            Lost {
                first_lsn: lsns.as_ref().map(|lsns| lsns.start),
                last_lsn: lsns.filter(|lsns| lsns.end != u64::MAX).map(|lsns| lsns.end - 1),
                object: error.path().map(|key| key.display().to_string()),
                what: error.message().to_owned(),
            }
        });
        Self {
            store: report.store.to_string(),
            epoch: report.epoch.0,
            last_lsn: report.last_lsn.0,
            local_unknown_after_us: report.time.0,
            segments: report.segments,
            segment_bytes: report.segment_bytes.0,
            segment_bytes_there_before: report.segment_bytes.1,
            frames: report.frames,
            without_manifest: report.without_manifest,
            lost: lost.collect(),
        }
    }
}
