//! `everlog device reset`: forgets the items and the state but not the account, as a phone does that lost its battery.
//!
//! The next sync brings all back. What was set aside after a rewind stays. Invariants: unless everything is given up, a file
//! goes only if a sync has just ended after which the server has this very version, and has it in its cold store where it
//! has one that counts; and the state is forgotten before the first file goes, because files
//! that are gone while the state still knows them would be deletions, and the next sync would push them.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use super::account::{Device, random_id};
use super::collection::ALL;
use super::digest::Digest;
use super::disk::{self, failed};
use super::folder::{Done, Folder, Found};
use super::http::Http;
use super::remote::Remote;
use super::report;
use super::state::{self, State};
use super::status;
use super::sync::{self, Manner};
use everlog_server::failure::Failure;

/// A server ships about every second.
const COLD_PAUSE: Duration = Duration::from_millis(200);

/// What goes besides the state.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The files that the server has.
    Safe,
    /// All files.
    Everything,
    /// Nothing.
    State,
}

/// The files of one folder that are to go, each with the version in which it may.
struct Doomed {
    folder: Folder,
    files: BTreeMap<String, Digest>,
}

/// `reached`: the device as the call's flags want it, for the sync alone.
pub fn run(device: &mut Device, reached: &Device, scope: Scope, patience: Duration, json: bool) -> Result<(), Failure> {
    let _lock = device.lock()?;
    let doomed = match scope {
        Scope::Safe => prove_safe(reached, patience)?,
        Scope::Everything => find_all(device)?,
        Scope::State => Vec::new(),
    };
    let home = device.home();
    device.account.device = random_id()?;
    for collection in ALL {
        state::save(&home, collection, &State::new(device.account.device.clone()))?;
        let folder = Folder::new(&device.dir, &home, collection);
        if !folder.exists() {
            folder.create()?;
        }
    }
    device.save()?;
    let (mut removed, mut kept) = (0, 0);
    for Doomed { folder, files } in doomed {
        for (name, version) in &files {
            // What was edited since, or deleted and made anew, is no longer what the server has.
            if folder.remove(name, Some(*version))? == Done::Yes {
                removed += 1;
            }
        }
        folder.sync()?;
        kept += folder.names()?.items.len();
    }
    for folder in [home.join("tmp"), home.join("partial")] {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries {
            disk::remove(&entry.map_err(failed("reading", &folder))?.path())?;
        }
    }
    tell(device, scope, removed, kept, json)
}

fn tell(device: &Device, scope: Scope, removed: u64, kept: usize, json: bool) -> Result<(), Failure> {
    let mut out = std::io::stdout();
    if json {
        let done = serde_json::json!({ "removed": removed, "kept": kept, "device": device.account.device });
        writeln!(out, "{done}")?;
    } else if scope == Scope::State {
        writeln!(out, "forgot the state; the next sync merges the files with what the server has")?;
    } else {
        writeln!(out, "removed {removed} items; the next sync brings them back")?;
    }
    if kept == 0 {
        return Ok(());
    }
    let cause = format!("{kept} of the files changed while the others were removed, and stay");
    Err(Failure::new(3, cause, "sync, which pushes them, then reset again"))
}

/// Syncs, and comes back with all files and their versions only if the server has each of them.
fn prove_safe(device: &Device, patience: Duration) -> Result<Vec<Doomed>, Failure> {
    let (report, failure) = sync::sync(device, Manner { patience, allow_empty: false }).map_err(|failure| {
        // A server that cannot be asked is a reason to refuse like any other.
        if failure.code() == 1 { refuse(&report::cause(&failure)) } else { failure }
    })?;
    if let Some(failure) = failure {
        return Err(refuse(&report::cause(&failure)));
    }
    if let Some(left_out) = report.left_out() {
        return Err(refuse(&left_out));
    }
    let not_cold = wait_until_cold(device, patience).map_err(|failure| refuse(&report::cause(&failure)))?;
    if not_cold > 0 {
        return Err(refuse(&format!(
            "changes that are not in its cold store yet, but on its own disk alone: {not_cold}"
        )));
    }
    let mut doomed = Vec::new();
    for collection in ALL {
        let (folder, state) = status::look(device, collection)?;
        let pending = status::pending(&folder, &state)?;
        if pending + state.outbox.len() + state.wanted.len() + state.unreadable.len() > 0 {
            return Err(refuse(&format!("{} changed while it was synced", collection.name)));
        }
        let files = state.items.into_iter().map(|(key, item)| (key, item.hash)).collect();
        doomed.push(Doomed { folder, files });
    }
    Ok(doomed)
}

/// Waits until what was synced is in the server's cold store, if it has one that counts. So many changes are not after that
/// time: were they removed here, one machine would hold the only copy.
fn wait_until_cold(device: &Device, patience: Duration) -> Result<usize, Failure> {
    let (home, account, begun) = (device.home(), &device.account, Instant::now());
    let mut states = Vec::new();
    for collection in ALL {
        states.extend(state::load(&home, collection)?.map(|state| (collection, state)));
    }
    let store = states.iter().find_map(|(_, state)| state.store.clone());
    let remote = Remote::new(Http::new(&account.server, account.token.as_deref(), patience, store), &account.user);
    loop {
        let mut left = 0;
        for (collection, state) in &mut states {
            if state.not_cold().is_some_and(|count| count > 0) {
                state.cold = remote.cold(*collection)?;
                left += state.not_cold().unwrap_or(0);
                state::save(&home, *collection, state)?;
            }
        }
        if left == 0 || begun.elapsed() > patience {
            return Ok(left);
        }
        thread::sleep(COLD_PAUSE);
    }
}

fn refuse(why: &str) -> Failure {
    Failure::new(
        3,
        format!("nothing was removed, because the server is not known to have everything: {why}"),
        "try again once a sync leaves nothing out, forget only the state with --keep-files, or give all up with --force",
    )
}

/// Every item file in whatever version it is. What is no item stays.
fn find_all(device: &Device) -> Result<Vec<Doomed>, Failure> {
    let mut doomed = Vec::new();
    for collection in ALL {
        let folder = Folder::new(&device.dir, &device.home(), collection);
        if !folder.exists() {
            continue;
        }
        let mut files = BTreeMap::new();
        for name in folder.names()?.items {
            if let Found::File(hash) = folder.find(&name)? {
                files.insert(name, hash);
            }
        }
        doomed.push(Doomed { folder, files });
    }
    Ok(doomed)
}
