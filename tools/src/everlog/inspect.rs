//! `everlog inspect`: what a store holds, in numbers. Works on a store that is running, since it only reads; or asks the
//! server that has it open, which knows what is not on disk: how far the cold stores are, what failed last.
//!
//! Counting the logs takes a walk over all of them, which a server is not asked for. Invariant: records are those that are kept, not those that were
//! ever written.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::Duration;

use everlog::names::owner;
use everlog::types::{AsOf, Lsn};
use everlog::{ErrorKind, LogInfo, ReadOnly};
use serde::Serialize;
use serde_json::Value;
use ureq::Agent;

use crate::output;
use crate::progress::Progress;
use everlog_server::failure::Failure;

pub const EXAMPLES: &str = "Examples:
  everlog inspect ./store
  everlog inspect ./store --json
  everlog inspect --server http://127.0.0.1:4438

With --server it prints what the server's /status holds, which names no owners and counts no logs. Exits 1 if the server cannot
be asked, or is still opening its store.";

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(clap::Args)]
pub struct Args {
    /// The store
    #[arg(required_unless_present = "server")]
    dir: Option<PathBuf>,
    /// The address of a server's metrics and health (its --admin-listen), instead of a store
    #[arg(long, value_name = "ADDR", conflicts_with = "dir")]
    server: Option<String>,
    /// One JSON object on stdout
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    store: String,
    created_us: u64,
    manifest: u64,
    owners: u64,
    logs: u64,
    closed_logs: u64,
    records: u64,
    payload_bytes_in_segments: u64,
    segment_bytes: u64,
    journal_files: usize,
    journal_file_bytes: u64,
    unflushed_frames: u64,
    unflushed_entries: u64,
    unflushed_bytes: u64,
    flushed_lsn: u64,
    end_lsn: u64,
    /// The epoch of the owner that took the store over from this directory, if one did.
    taken_over_in_epoch: Option<u64>,
    /// What is past this LSN is orphaned then; nothing, if it was not known how much was cold.
    orphaned_after_lsn: Option<u64>,
    timelines: Vec<Timeline>,
    segments: Vec<Segment>,
    cold: Vec<Cold>,
    /// What was acknowledged here alone before another owner took over: no part of the store any more, unless that owner
    /// found it in the cold store.
    orphans: Vec<Orphan>,
}

#[derive(Serialize)]
struct Cold {
    url: String,
    epoch: u64,
}

#[derive(Serialize)]
struct Orphan {
    log: String,
    /// None if that is not known any more.
    first_seq: Option<u64>,
    /// The one behind the last.
    next_seq: u64,
}

#[derive(Serialize)]
struct Timeline {
    timeline: String,
    parent: String,
    first_lsn: u64,
    began_us: u64,
    cause: String,
}

#[derive(Serialize)]
struct Segment {
    segment: String,
    first_lsn: u64,
    last_lsn: u64,
    logs: u64,
    records: u64,
    payload_bytes: u64,
    bytes: u64,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    match (&args.server, &args.dir) {
        (Some(server), _) => Ok(output::print(&status(server)?, args.json)?),
        (None, Some(dir)) => on_disk(dir, args.json),
        (None, None) => unreachable!("one of the two is required"),
    }
}

/// What a running server says of its store.
fn status(server: &str) -> Result<Value, Failure> {
    let base = server.trim_end_matches('/');
    let url = if base.contains("://") { format!("{base}/status") } else { format!("http://{base}/status") };
    let failed = |why: &dyn std::fmt::Display| {
        let remedy = "give the address that everlogd names at its start: metrics and health on http://…";
        Failure::new(1, format!("{url} cannot be had: {why}"), remedy)
    };
    let agent: Agent =
        Agent::config_builder().http_status_as_error(false).timeout_global(Some(PATIENCE)).build().into();
    let mut answer = agent.get(&url).call().map_err(|e| failed(&e))?;
    let told = answer.body_mut().read_to_string().map_err(|e| failed(&e))?;
    if answer.status().as_u16() != 200 {
        return Err(failed(&format_args!("status {}, {}", answer.status().as_u16(), told.trim_end())));
    }
    serde_json::from_str(&told).map_err(|e| failed(&e))
}

fn on_disk(dir: &Path, json: bool) -> Result<(), Failure> {
    let store = ReadOnly::open(dir)?;
    let counts = Counts::of(&store)?;
    let summary = store.summary();
    let fenced = summary.epochs.as_ref().and_then(|epochs| epochs.fenced);
    let cold = fenced.map(|(_, cold)| cold).filter(|cold| *cold > Lsn(0));
    let orphans = cold.map_or_else(|| Ok(Vec::new()), |cold| orphans(&store, cold))?;
    let report = Report {
        store: summary.id.to_string(),
        created_us: summary.created.0,
        manifest: summary.manifest.0,
        owners: counts.owners.len() as u64,
        logs: counts.logs,
        closed_logs: counts.closed,
        records: counts.records,
        payload_bytes_in_segments: summary.segments.iter().map(|segment| segment.payload_bytes).sum(),
        segment_bytes: summary.segments.iter().map(|segment| segment.bytes).sum(),
        journal_files: summary.journal_files.0,
        journal_file_bytes: summary.journal_files.1,
        unflushed_frames: summary.journal_frames,
        unflushed_entries: summary.journal_entries,
        unflushed_bytes: summary.journal_bytes,
        flushed_lsn: summary.flushed.0,
        end_lsn: summary.end.0,
        taken_over_in_epoch: fenced.map(|(epoch, _)| epoch.0),
        orphaned_after_lsn: cold.map(|cold| cold.0),
        timelines: summary
            .timelines
            .iter()
            .map(|start| Timeline {
                timeline: start.timeline.to_string(),
                parent: start.parent.to_string(),
                first_lsn: start.first_lsn.0,
                began_us: start.began.0,
                cause: format!("{:?}", start.cause),
            })
            .collect(),
        segments: summary
            .segments
            .iter()
            .map(|meta| Segment {
                segment: format!("{:016x}", meta.id.0),
                first_lsn: meta.first_lsn.0,
                last_lsn: meta.last_lsn.0,
                logs: meta.logs,
                records: meta.records,
                payload_bytes: meta.payload_bytes,
                bytes: meta.bytes,
            })
            .collect(),
        cold: summary
            .epochs
            .into_iter()
            .flat_map(|epochs| epochs.tenancies)
            .map(|tenancy| Cold { url: tenancy.url, epoch: tenancy.held.0.0 })
            .collect(),
        orphans,
    };
    output::print(&report, json)?;
    Ok(())
}

/// The logs that have something past `cold`, and what.
fn orphans(store: &ReadOnly, cold: Lsn) -> Result<Vec<Orphan>, Failure> {
    let mut orphans = Vec::new();
    let mut after: Option<String> = None;
    loop {
        let logs = store.list("", after.as_deref(), 1000)?;
        let Some(last) = logs.last() else { return Ok(orphans) };
        for log in &logs {
            let first_seq = match store.info_as_of(&log.name, AsOf::Lsn(cold)) {
                Ok(was) => Some(was.next_seq),
                Err(e) if e.kind() == ErrorKind::NotFound => Some(0),
                Err(e) if e.kind() == ErrorKind::Forgotten => None,
                Err(e) => return Err(e.into()),
            };
            if first_seq.is_none_or(|first_seq| first_seq < log.next_seq) {
                orphans.push(Orphan { log: log.name.clone(), first_seq, next_seq: log.next_seq });
            }
        }
        after = Some(last.name.clone());
    }
}

/// What a walk over the logs adds up to.
#[derive(Default)]
struct Counts {
    /// Hashes of the owners' names: an owner's logs need not be neighbours in the order of names (`a/b`, `a/b-c/d`,
    /// `a/b/e`), and 64 bits tell more owners apart than a machine holds.
    owners: HashSet<u64>,
    logs: u64,
    closed: u64,
    records: u64,
}

impl Counts {
    fn of(store: &ReadOnly) -> Result<Self, Failure> {
        let mut counts = Self::default();
        // Of how many there are is known only what the segments say, and a log may be in several.
        let guess = store.summary().segments.iter().map(|segment| segment.logs).max().unwrap_or(0);
        let mut progress = Progress::new("counting logs", guess);
        let mut after: Option<String> = None;
        loop {
            let logs = store.list("", after.as_deref(), 1000)?;
            let Some(last) = logs.last() else { return Ok(counts) };
            logs.iter().for_each(|log| counts.add(log));
            after = Some(last.name.clone());
            progress.reached(counts.logs);
        }
    }

    fn add(&mut self, log: &LogInfo) {
        let mut hasher = DefaultHasher::new();
        owner(&log.name).hash(&mut hasher);
        self.owners.insert(hasher.finish());
        self.logs += 1;
        self.closed += u64::from(log.closed);
        self.records += log.next_seq - log.first_seq;
    }
}
