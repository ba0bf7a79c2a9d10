//! `everlog device sync`: brings a device and its server together, collection by collection.
//!
//! The steps are in files of their own; here is their order, and what must be so before any of them. Invariant: whatever
//! is refused is refused before anything is sent or changed.

use std::fs;
use std::time::Duration;

use super::account::{Device, random_id};
use super::collection::{ALL, Collection};
use super::disk::{self, failed};
use super::folder::Folder;
use super::http::Http;
use super::push::{self, EMPTIED_MAX, Pushed};
use super::remote::Remote;
use super::report::{self, Report};
use super::session::Session;
use super::state::{self, State};
use super::{clock, photos, pull, status};
use everlog_server::failure::Failure;

/// How often other devices may come before this one's changes.
const ROUNDS_MAX: u32 = 100;

/// How a sync goes about its work.
#[derive(Clone, Copy)]
pub struct Manner {
    /// How long a server that does not answer is waited for.
    pub patience: Duration,
    /// A folder without items is the wish to delete them all.
    pub allow_empty: bool,
}

pub fn run(device: &Device, manner: Manner, json: bool) -> Result<(), Failure> {
    let _lock = device.lock()?;
    let (report, failure) = sync(device, manner)?;
    report.print(json)?;
    failure.map_or_else(|| report.verdict(), Err)
}

/// Syncs everything that can be synced: what was done, and the first failure that ended one collection's sync and not
/// the others'. The caller holds the lock.
pub fn sync(device: &Device, manner: Manner) -> Result<(Report, Option<Failure>), Failure> {
    let states = load(device, manner.allow_empty)?;
    let store = states.iter().find_map(|(_, _, state)| state.store.clone());
    clear_scratch(device)?;
    let http = Http::new(&device.account.server, device.account.token.as_deref(), manner.patience, store);
    let remote = Remote::new(http, &device.account.user);
    let mut report = Report::default();
    match sync_all(device, &remote, states, &mut report, manner.allow_empty) {
        Ok(failure) => Ok((report, failure)),
        Err(failure) if remote.http().gave_up() => Err(report::and(&failure, &status::still_pending(device))),
        Err(failure) => Err(failure),
    }
}

/// The states of all collections, each with its folder. A folder that is gone or empty while its items are known is a
/// disk that is not mounted, or a mistake, and not the wish to delete everything.
fn load(device: &Device, allow_empty: bool) -> Result<Vec<(Collection, Folder, State)>, Failure> {
    let mut states = Vec::new();
    for collection in ALL {
        let folder = Folder::new(&device.dir, &device.home(), collection);
        let mut state = match state::load(&device.home(), collection)? {
            Some(state) => state,
            // Somebody removed it. Numbers under the device's name may have been used already.
            None => State::new(random_id()?),
        };
        let knows_items = !state.items.is_empty() || !state.outbox.is_empty();
        if knows_items && !folder.exists() {
            return Err(folder.missing());
        }
        if folder.exists() {
            folder.recover(|key, version| state.knows(key, version))?;
            pull::recover(&folder, &mut state)?;
        }
        let known = state.items.len();
        // A folder that cannot be read says so when its turn comes.
        let is_empty = || folder.names().is_ok_and(|names| names.items.is_empty() && names.odd.is_empty());
        if known > EMPTIED_MAX && !allow_empty && is_empty() {
            return Err(folder.emptied(known));
        }
        states.push((collection, folder, state));
    }
    Ok(states)
}

/// Removes what a crash left half-written. The folder is created where it is missing.
fn clear_scratch(device: &Device) -> Result<(), Failure> {
    for name in ["tmp", "partial"] {
        let folder = device.home().join(name);
        fs::create_dir_all(&folder).map_err(failed("creating", &folder))?;
    }
    let scratch = device.home().join("tmp");
    for entry in fs::read_dir(&scratch).map_err(failed("reading", &scratch))? {
        disk::remove(&entry.map_err(failed("reading", &scratch))?.path())?;
    }
    Ok(())
}

/// Syncs one collection after the other. One whose records the server finds damaged, or whose folder cannot be used,
/// does not keep the others waiting; the first such failure is given back.
fn sync_all(
    device: &Device, remote: &Remote, states: Vec<(Collection, Folder, State)>, report: &mut Report, allow_empty: bool,
) -> Result<Option<Failure>, Failure> {
    remote.greet(ALL[0])?;
    let mut first = None;
    for (collection, folder, mut state) in states {
        state.store = remote.http().store();
        let home = device.home();
        let mut session = Session::new(collection, remote, &home, &folder, report, state, allow_empty);
        match sync_one(&mut session) {
            Ok(()) => {}
            Err(failure) if matches!(failure.code(), 4 | 5) => first = first.or(Some(failure)),
            Err(failure) => return Err(failure),
        }
    }
    Ok(first)
}

fn sync_one(session: &mut Session<'_>) -> Result<(), Failure> {
    if !session.folder.exists() {
        session.folder.create()?;
    }
    if session.state.cursor.is_none() {
        session.remote.create(session.collection)?;
    }
    push::resend(session)?;
    for _ in 0..ROUNDS_MAX {
        pull::pull(session)?;
        if push::push(session)? == Pushed::All {
            if session.collection.is_photos() {
                let wanted = session.state.wanted.values().filter_map(|wanted| wanted.hash);
                let wanted = wanted.map(|hash| hash.to_string()).collect();
                photos::discard_all_but(&session.home.join("partial"), &wanted)?;
            }
            session.state.synced = Some(clock::now());
            return session.save();
        }
    }
    let cause = format!("other devices changed {} faster than this one could", session.collection.name);
    Err(Failure::new(1, cause, "sync again; nothing is lost"))
}
