//! `everlog restore --log`: some logs, in a store of their own with a new id, that no cold store and no device knows.
//!
//! Beside the directory that is asked for stands one with `.partial` behind its name, while it is made ([`Partial`]). Steps, and
//! what a kill leaves: the whole store is restored into its `whole`, and the same command goes on with that; the logs are
//! copied into a new store, its `store`, which is begun anew; that takes its name, and is there from then on, as a whole;
//! `.partial` goes.
//!
//! Invariants: each record has the seq that it had; nothing is put in the place of what cannot be read, so that such a
//! log ends there, and the report says what is missing.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use everlog::cold::ColdStore;
use everlog::limits::BATCH_ENTRIES_MAX;
use everlog::types::Lsn;
use everlog::{Batch, Config, ErrorKind, LogInfo, ReadLimit, ReadOnly, RestoreMode, Store};
use everlog_server::failure::Failure;
use serde::Serialize;

use super::{Lost, lost, whole};

/// As many records are read at once.
const READ: ReadLimit = ReadLimit { records: 4096, bytes: 1 << 20 };

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
    /// What cannot be read of the whole store, these logs included.
    pub lost: Vec<Lost>,
    logs: Vec<Copied>,
}

#[derive(Serialize)]
struct Copied {
    log: String,
    first_seq: u64,
    next_seq: u64,
    closed: bool,
    /// The seqs that are not here, the last one included, since the first of them cannot be read.
    missing_from: Option<u64>,
    missing_to: Option<u64>,
}

/// Restores the logs `names`.
pub fn restore(cold: &dyn ColdStore, to: &Path, mode: RestoreMode, names: &[String]) -> Result<Report, Failure> {
    let names: BTreeSet<_> = names.iter().collect();
    names.iter().try_for_each(|name| everlog::names::check(name))?;
    check_free(to)?;
    let partial = Partial::begin(to)?;
    let (all, store) = (partial.dir.join("whole"), partial.dir.join("store"));
    let restored = match whole(cold, &all, mode) {
        Ok(restored) => restored,
        Err(failure) => {
            partial.remove_if_empty();
            return Err(failure);
        }
    };
    let mut failures = restored.lost;
    let looked = ReadOnly::salvage(&all);
    let (from, refusal) = looked.inspect_err(|_| failures.iter().for_each(|lost| eprintln!("{lost}")))?;
    failures.extend(refusal);
    let mut infos = Vec::new();
    for name in names {
        infos.extend(find(&from, name, &all, &mut failures)?);
    }
    remove(&store)?;
    let new = Store::create(&store, &Config::default())?;
    let into = Store::open(&store, Config::default())?;
    let mut logs = Vec::new();
    for info in &infos {
        let next_seq = copy(&from, &into, info, &mut failures)?;
        let is_whole = next_seq == info.next_seq;
        logs.push(Copied {
            log: info.name.clone(),
            first_seq: info.first_seq,
            next_seq,
            closed: info.closed && is_whole,
            missing_from: (!is_whole).then_some(next_seq),
            missing_to: (!is_whole).then(|| info.next_seq - 1),
        });
    }
    into.close()?;
    drop(from);
    let parent = parent(to);
    fs::rename(&store, to).and_then(|()| File::open(parent)?.sync_all()).map_err(|e| failed(to, &e))?;
    partial.end();
    let (Lsn(last_lsn), lost) = (restored.last_lsn, failures.iter().map(lost).collect());
    let (store, of) = (new.to_string(), restored.store.to_string());
    Ok(Report { store, of, last_lsn, time_us: restored.time.0, lost, logs })
}

/// The directory in which a store is made, beside the one that it is to be in. Only one process works there.
struct Partial {
    dir: PathBuf,
    /// Locked for as long as it is there.
    _lock: File,
}

impl Partial {
    /// What lies in it, the lock first.
    const NAMES: [&str; 3] = ["LOCK", "whole", "store"];

    fn begin(to: &Path) -> Result<Self, Failure> {
        let Some(name) = to.file_name() else {
            let cause = format!("{} is no name of a directory", to.display());
            return Err(Failure::new(2, cause, "name one that is missing or empty"));
        };
        let mut partial = OsString::from(name);
        partial.push(".partial");
        let dir = to.with_file_name(partial);
        fs::create_dir_all(&dir).map_err(|e| failed(&dir, &e))?;
        let there: Vec<_> = names_in(&dir).map_err(|e| failed(&dir, &e))?;
        let is_named = |name: &OsString| Self::NAMES.iter().any(|ours| name == ours);
        let is_ours = there.iter().all(is_named) && there.iter().any(|name| name == Self::NAMES[0]);
        if !there.is_empty() && !is_ours {
            let cause = format!("{} holds something else than a restore that did not end", dir.display());
            return Err(Failure::new(3, cause, "move it away, or name another directory to restore to"));
        }
        let path = dir.join(Self::NAMES[0]);
        let lock = File::create(&path).map_err(|e| failed(&path, &e))?;
        if lock.try_lock().is_err() {
            let cause = format!("another process restores into {}", dir.display());
            return Err(Failure::new(3, cause, "wait until it has ended"));
        }
        Ok(Self { dir, _lock: lock })
    }

    /// Leaves nothing behind of a restore that brought nothing.
    fn remove_if_empty(self) {
        // A directory that holds something stays.
        let _ = fs::remove_dir(self.dir.join("whole"));
        if names_in(&self.dir).is_ok_and(|there| there.len() == 1) {
            let _ = fs::remove_file(self.dir.join(Self::NAMES[0]));
            let _ = fs::remove_dir(&self.dir);
        }
    }

    fn end(self) {
        let gone = remove(&self.dir.join("whole")).and_then(|()| {
            let path = self.dir.join(Self::NAMES[0]);
            fs::remove_file(path).and_then(|()| fs::remove_dir(&self.dir)).map_err(|e| failed(&self.dir, &e))
        });
        if let Err(failure) = gone {
            eprintln!("The logs are there, and {} can be removed: {failure}", self.dir.display());
        }
    }
}

fn names_in(dir: &Path) -> io::Result<Vec<OsString>> {
    fs::read_dir(dir)?.map(|entry| Ok(entry?.file_name())).collect()
}

fn parent(to: &Path) -> &Path {
    to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Refuses a place that a directory cannot be given the name of in the end.
fn check_free(to: &Path) -> Result<(), Failure> {
    let refused = |what: &str| {
        let cause = format!("{}: {what}", to.display());
        Err(Failure::new(3, cause, "name a directory that is missing, or empty and no mount point"))
    };
    let there = match fs::symlink_metadata(to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        there => there.map_err(|e| failed(to, &e))?,
    };
    if !there.is_dir() {
        return refused("it is no directory");
    }
    if fs::metadata(parent(to)).is_ok_and(|parent| parent.dev() != there.dev()) {
        return refused("another file system is mounted there");
    }
    if !names_in(to).map_err(|e| failed(to, &e))?.is_empty() {
        return refused("there is something in it");
    }
    Ok(())
}

fn remove(dir: &Path) -> Result<(), Failure> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(dir, &error)),
        _ => Ok(()),
    }
}

fn failed(path: &Path, error: &io::Error) -> Failure {
    Failure::new(5, format!("{}: {error}", path.display()), "see to that directory, and begin again: it goes on")
}

/// What there is of a log; None if that cannot be read.
fn find(
    from: &ReadOnly, name: &str, all: &Path, failures: &mut Vec<everlog::Error>,
) -> Result<Option<LogInfo>, Failure> {
    match from.info(name) {
        Ok(info) if info.deleted => {
            let cause = format!("the log {name} was deleted, or had expired");
            Err(Failure::new(1, cause, "name a moment at which it was there (--as-of TIME|LSN)"))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let remedy = format!("everlog dump {} shows which there are", all.display());
            Err(Failure::new(1, format!("there is no log {name}"), remedy))
        }
        Err(error) if error.kind() == ErrorKind::Damaged => {
            failures.push(error);
            Ok(None)
        }
        info => Ok(Some(info?)),
    }
}

/// Copies a log; gives the seq at which it ends, which is that of the first record that cannot be read.
fn copy(from: &ReadOnly, into: &Store, info: &LogInfo, failures: &mut Vec<everlog::Error>) -> Result<u64, Failure> {
    let name = &info.name;
    let mut batch = Batch::new();
    batch.log(name).create_with(&info.metadata);
    into.append_and_wait(batch)?;
    let mut next = 0;
    while next < info.first_seq {
        // Something that is trimmed at once holds the places of what was trimmed.
        let end = info.first_seq.min(next + BATCH_ENTRIES_MAX as u64 - 1);
        let mut batch = Batch::new();
        let log = batch.log(name);
        for _ in next..end {
            log.record(b"");
        }
        log.trim(end);
        into.append_and_wait(batch)?;
        next = end;
    }
    let mut limit = READ;
    while next < info.next_seq {
        let page = match from.read(name, next, limit) {
            // A page with something damaged in it is none: what comes before that can be had with less.
            Err(error) if error.kind() == ErrorKind::Damaged && limit.records > 1 => {
                limit.records /= 2;
                continue;
            }
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
    // A tag is taken by an operation. It is not to stand behind less than it stood behind.
    let log = batch.log(name).metadata(&info.metadata);
    if !info.tag.is_empty() {
        log.tag(&info.tag);
    }
    if info.closed {
        log.close();
    }
    into.append_and_wait(batch)?;
    Ok(next)
}
