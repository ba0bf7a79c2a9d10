//! `everlog restore --log`: some logs, in a store of their own with a new id, that no cold store and no device knows.
//!
//! Beside the directory that is asked for stands one with `.partial` behind its name, while it is made. Steps, and what a kill
//! leaves: the whole store is restored into its `whole`, and the same command goes on with that; the logs are copied into
//! a new store, its `store`, which is begun anew; that takes its name, and is there from then on, as a whole; `.partial` goes.
//!
//! Invariants: each record has the seq that it had; nothing is put in the place of what cannot be read, so that such
//! a log ends there.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind as IoErrorKind;
use std::path::{Path, PathBuf};

use everlog::cold::ColdStore;
use everlog::types::Lsn;
use everlog::{Batch, Config, ErrorKind, LogInfo, ReadLimit, ReadOnly, RestoreMode, RestoreReport, Store};
use everlog_server::failure::Failure;
use serde::Serialize;

use super::{Lost, lost, whole};

/// Records are copied in batches of about so many bytes.
const BATCH_BYTES: usize = 1 << 20;
/// And of so many records at most, also of those that hold the places of what was trimmed.
const BATCH_RECORDS: u64 = 4096;

#[derive(Serialize)]
pub struct Report {
    /// The new store.
    store: String,
    /// The one that the logs are of.
    of: String,
    /// They are as they were after this LSN of that store.
    last_lsn: u64,
    /// And at this time.
    time_us: u64,
    pub lost: Vec<Lost>,
    logs: Vec<Copied>,
}

#[derive(Serialize)]
struct Copied {
    log: String,
    first_seq: u64,
    next_seq: u64,
    closed: bool,
}

/// Restores the logs `names`.
pub fn restore(cold: &dyn ColdStore, to: &Path, mode: RestoreMode, names: &[String]) -> Result<Report, Failure> {
    if !is_free(to)? {
        let cause = format!("{}: there is something in it", to.display());
        return Err(Failure::new(3, cause, "name a directory that is missing or empty"));
    }
    let partial = partial(to)?;
    let (all, store) = (partial.join("whole"), partial.join("store"));
    fs::create_dir_all(&partial)?;
    let restored = whole(cold, &all, mode)?;
    remove(&store)?;
    let (from, refusal) = ReadOnly::salvage(&all)?;
    let names: BTreeSet<_> = names.iter().collect();
    let infos = names.into_iter().map(|name| find(&from, name)).collect::<Result<Vec<_>, _>>()?;
    let new = Store::create(&store, &Config::default())?;
    let into = Store::open(&store, Config::default())?;
    let mut failures: Vec<_> = refusal.into_iter().collect();
    let mut logs = Vec::new();
    for info in &infos {
        let next_seq = copy(&from, &into, info, &mut failures)?;
        let closed = info.closed && next_seq == info.next_seq;
        logs.push(Copied { log: info.name.clone(), first_seq: info.first_seq, next_seq, closed });
    }
    into.close()?;
    drop(from);
    fs::rename(&store, to)?;
    if let Some(parent) = to.canonicalize()?.parent() {
        fs::File::open(parent)?.sync_all()?;
    }
    remove(&partial)?;
    let RestoreReport { store: of, last_lsn: Lsn(last_lsn), time, lost: unread, .. } = restored;
    let lost = unread.iter().chain(&failures).map(lost).collect();
    Ok(Report { store: new.to_string(), of: of.to_string(), last_lsn, time_us: time.0, lost, logs })
}

/// The directory beside `to` in which the store is made.
fn partial(to: &Path) -> Result<PathBuf, Failure> {
    let Some(name) = to.file_name() else {
        let cause = format!("{} is no name of a directory", to.display());
        return Err(Failure::new(2, cause, "name one that is missing or empty"));
    };
    let mut partial = OsString::from(name);
    partial.push(".partial");
    Ok(to.with_file_name(partial))
}

fn is_free(to: &Path) -> Result<bool, Failure> {
    match fs::read_dir(to) {
        Ok(mut entries) => Ok(entries.next().is_none()),
        Err(error) if error.kind() == IoErrorKind::NotFound => Ok(true),
        Err(error) => Err(error.into()),
    }
}

fn remove(dir: &Path) -> Result<(), Failure> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != IoErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

fn find(from: &ReadOnly, name: &str) -> Result<LogInfo, Failure> {
    match from.info(name) {
        Ok(info) if info.deleted => {
            let remedy = "name a moment at which it was there (--as-of TIME|LSN)";
            Err(Failure::new(1, format!("the log {name} was deleted, or had expired"), remedy))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let remedy = "see which there are: restore the whole store, and have everlog dump show it";
            Err(Failure::new(1, format!("there is no log {name}"), remedy))
        }
        info => Ok(info?),
    }
}

/// Copies a log; gives the seq at which it ends, before the first record that cannot be read.
fn copy(from: &ReadOnly, into: &Store, info: &LogInfo, failures: &mut Vec<everlog::Error>) -> Result<u64, Failure> {
    let name = &info.name;
    let mut batch = Batch::new();
    batch.log(name).create_with(&info.metadata);
    into.append_and_wait(batch)?;
    let mut next = 0;
    while next < info.first_seq {
        // Something that is trimmed at once holds the places of what was trimmed.
        let end = info.first_seq.min(next + BATCH_RECORDS);
        let mut batch = Batch::new();
        let log = batch.log(name);
        for _ in next..end {
            log.record(b"");
        }
        log.trim(end);
        into.append_and_wait(batch)?;
        next = end;
    }
    let limit = ReadLimit { records: BATCH_RECORDS as usize, bytes: BATCH_BYTES };
    while next < info.next_seq {
        let page = match from.read(name, next, limit) {
            Err(error) if error.kind() == ErrorKind::Damaged => {
                failures.push(error);
                return Ok(next);
            }
            page => page?,
        };
        let mut batch = Batch::new();
        let log = batch.log(name).expect_next(next);
        for record in &page.records {
            log.record(&record.payload);
        }
        into.append_and_wait(batch)?;
        next = page.next_seq;
    }
    let mut batch = Batch::new();
    if !info.tag.is_empty() {
        batch.log(name).tag(&info.tag);
    }
    if info.closed {
        batch.log(name).close();
    }
    if !info.tag.is_empty() || info.closed {
        into.append_and_wait(batch)?;
    }
    Ok(next)
}
