//! `everlog restore`: brings a store back from a cold store, or some logs ([`logs`]). The same command goes on with one that
//! did not end.
//!
//! What a restore does is the engine's business. Invariants: the exit code is 0 if and only if everything that was
//! asked for of what the cold store has could be read; the past is restored only where devices are told to set aside
//! what is newer.

mod logs;

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use everlog::cold::ColdStore;
use everlog::types::AsOf;
use everlog::{Config, ErrorKind, ReadOnly, RestoreMode, RestoreReport};
use everlog_server::carried;
use everlog_server::failure::Failure;
use serde::Serialize;

use crate::moment;
use crate::output;
use crate::progress::Progress;

pub const EXAMPLES: &str = "Examples:
  everlog restore --cold file:///mnt/cold --to ./store
  everlog restore --cold file:///mnt/cold --to ./store --json
  everlog restore --cold s3://bucket/store --to ./store --as-of 2026-11-28T14:00:00Z --mode rewind
  everlog restore --cold s3://bucket/store --to ./store --as-of 4711 --mode rewind
  everlog restore --cold file:///mnt/cold --to ./alice --log users/alice/contacts --log users/alice/events
  everlog restore --cold file:///mnt/cold --to ./alice --log users/alice/contacts --as-of 2026-11-28T14:00:00Z

Begun again, it goes on where it was. What is restored has no owner: its first open, with the same cold store, takes it over,
and whoever owned it before stops. Exits 4 if the cold store holds something that cannot be read; the rest is there then.

With --mode heal, devices put back what they have and the store has not. With --mode rewind they set it aside, and from
the first open on the cold store holds what was restored and nothing later. --as-of restores the store as it was at that
moment, or is refused with the nearest moments that can be had; the report says which LSN and time it went to. Tokens and the
audit log are not taken back: what was revoked since stays so. For that the newest state is fetched first; --tokens-too does
without, and takes them back.

With --log, these logs alone come back, each record under its seq, in a store of its own with a new id, which knows no cold
store (serve it with --cold none) and takes nothing over; producers' numbers and expiries stay behind. Meanwhile the whole
store is restored beside it, into DIR.partial, and needs that much space.";

#[derive(clap::Args)]
pub struct Args {
    /// The cold store: file://PATH, s3://BUCKET/PREFIX
    #[arg(long, value_name = "URL")]
    cold: String,
    /// Where to; missing, empty, or a restore of the same store that did not end
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// As it was then: an LSN, or a time such as 2026-11-28T14:00:00Z; with --mode rewind or --log alone
    #[arg(long, value_name = "TIME|LSN", value_parser = moment::parse)]
    as_of: Option<AsOf>,
    /// What devices do with what they have and the restored store has not
    #[arg(long, value_enum, default_value_t = Mode::Heal)]
    mode: Mode,
    /// Take the server's tokens and audit log back as well: what was revoked since that moment opens again
    #[arg(long, requires = "as_of", conflicts_with = "logs")]
    tokens_too: bool,
    /// This log alone, into a store of its own; may be repeated
    #[arg(long = "log", value_name = "NAME")]
    logs: Vec<String>,
    /// One JSON object on stdout
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Mode {
    /// They put it back
    Heal,
    /// They set it aside
    Rewind,
}

impl Args {
    fn mode(&self) -> Result<RestoreMode, Failure> {
        match (self.mode, self.as_of) {
            (Mode::Heal, None) => Ok(RestoreMode::Heal),
            (Mode::Rewind, as_of) => Ok(RestoreMode::Rewind(as_of)),
            // No device knows the store that single logs come back in.
            (Mode::Heal, as_of) if !self.logs.is_empty() => Ok(RestoreMode::Rewind(as_of)),
            (Mode::Heal, Some(_)) => Err(Failure::new(
                2,
                "--as-of without --mode rewind: devices would put back what is newer than that moment",
                "add --mode rewind, so that they set it aside, or leave out --as-of",
            )),
        }
    }
}

#[derive(Serialize)]
struct Report {
    mode: Mode,
    store: String,
    epoch: u64,
    last_lsn: u64,
    /// Of the last frame that is back.
    time_us: u64,
    /// What was acknowledged as local after this time is unknown to the cold store. Nobody asks for that of a moment of
    /// the past.
    #[serde(skip_serializing_if = "Option::is_none")]
    local_unknown_after_us: Option<u64>,
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
    let mode = args.mode()?;
    let here = std::env::current_dir()?;
    let cold = everlog::cold::connect(&args.cold, &here)?;
    let lost = if args.logs.is_empty() {
        let report = if args.tokens_too { whole(&*cold, &args.to, mode) } else { carrying(&*cold, &args.to, mode) }?;
        output::print(&Report::from(&report), args.json)?;
        report.lost.len()
    } else {
        let report = logs::restore(&*cold, &args.to, mode, &args.logs)?;
        output::print(&report, args.json)?;
        report.lost.len()
    };
    if lost == 0 { Ok(()) } else { Err(Failure::damage(lost)) }
}

/// Restores the whole store, and shows how far it is.
fn whole(cold: &dyn ColdStore, to: &Path, mode: RestoreMode) -> Result<RestoreReport, Failure> {
    Ok(everlog::restore(cold, to, &Config::default(), mode, &mut shown())?)
}

/// Shows how far a restore is.
fn shown() -> impl FnMut(u64, u64) + Send {
    let mut progress: Option<Progress> = None;
    move |done, total| {
        progress.get_or_insert_with(|| Progress::of_bytes("restoring", total)).reached_of(done, total);
    }
}

/// As [`whole`], but for the server's own logs, which are not taken back.
fn carrying(cold: &dyn ColdStore, to: &Path, mode: RestoreMode) -> Result<RestoreReport, Failure> {
    let mut carry = |newest: &ReadOnly| mode.as_of().map_or(Ok(None), |moment| carried::gather(newest, moment));
    let mut shown = shown();
    let report = everlog::restore_carrying(cold, to, &Config::default(), mode, &mut shown, &mut carry);
    report.map_err(|error| match (error.kind(), mode.as_of()) {
        (ErrorKind::Damaged, Some(_)) => {
            let cause = format!("whether tokens were revoked since that moment cannot be read: {error}");
            Failure::new(4, cause, "say --tokens-too to take tokens back as well, and revoke again what has to be")
        }
        _ => error.into(),
    })
}

/// How the report tells of something that cannot be read.
fn lost(error: &everlog::Error) -> Lost {
    let lsns = error.lsn_range();
    Lost {
        first_lsn: lsns.as_ref().map(|lsns| lsns.start),
        last_lsn: lsns.filter(|lsns| lsns.end != u64::MAX).map(|lsns| lsns.end - 1),
        object: error.path().map(|key| key.display().to_string()),
        what: error.message().to_owned(),
    }
}

impl From<&RestoreReport> for Report {
    fn from(report: &RestoreReport) -> Self {
        Self {
            mode: match report.mode {
                RestoreMode::Heal => Mode::Heal,
                RestoreMode::Rewind(_) => Mode::Rewind,
            },
            store: report.store.to_string(),
            epoch: report.epoch.0,
            last_lsn: report.last_lsn.0,
            time_us: report.time.0,
            local_unknown_after_us: report.mode.as_of().is_none().then_some(report.time.0),
            segments: report.segments,
            segment_bytes: report.segment_bytes.0,
            segment_bytes_there_before: report.segment_bytes.1,
            frames: report.frames,
            without_manifest: report.without_manifest,
            lost: report.lost.iter().map(lost).collect(),
        }
    }
}
