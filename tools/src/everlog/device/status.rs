//! `everlog device status`: what the device knows of itself, without asking the server.
//!
//! It changes nothing and takes no lock, so it works beside a sync. Invariant: pending counts every item that is not what
//! the server is known to have, also those that the next sync would leave alone.

use serde::Serialize;

use super::account::Device;
use super::aside;
use super::collection::{ALL, Collection};
use super::folder::{self, Folder};
use super::pull;
use super::push::changed;
use super::state::{self, State};
use crate::output;
use everlog_server::failure::Failure;

#[derive(Serialize)]
struct Report {
    server: String,
    user: String,
    device: String,
    store: Option<String>,
    pending: Option<usize>,
    /// Changes that the server has on its own machine alone, as far as it said; null where it offers nothing else.
    not_cold: Option<usize>,
    /// Files that are newer than what the server was taken back to on purpose, and wait for the user.
    set_aside: usize,
    set_aside_in: Option<String>,
    collections: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    collection: &'static str,
    items: usize,
    /// Null where the folder is missing.
    pending: Option<usize>,
    outbox: usize,
    /// Versions that the server has and this device could not take yet.
    wanted: usize,
    /// Items whose last word on the server nobody can read.
    unreadable: usize,
    cursor: Option<String>,
    level: Option<String>,
    /// As in the report's head.
    not_cold: Option<usize>,
    /// Up to where the stream is in a cold store.
    cold: Option<String>,
    last_sync: Option<String>,
}

pub fn run(device: &Device, json: bool) -> Result<(), Failure> {
    let mut store = None;
    let mut collections = Vec::new();
    for collection in ALL {
        let (folder, state) = look(device, collection)?;
        let not_cold = state.not_cold();
        let pending = if folder.exists() { Some(pending(&folder, &state)?) } else { None };
        store = store.or(state.store);
        collections.push(Row {
            collection: collection.name,
            items: state.items.len(),
            pending,
            outbox: state.outbox.len(),
            wanted: state.wanted.len(),
            unreadable: state.unreadable.len(),
            cursor: state.cursor,
            level: state.level,
            not_cold,
            cold: state.cold,
            last_sync: state.synced,
        });
    }
    let account = &device.account;
    let (set_aside, set_aside_in) = aside::left(&device.home())?.unzip();
    let report = Report {
        server: account.server.clone(),
        user: account.user.clone(),
        device: account.device.clone(),
        store,
        pending: collections.iter().map(|row| row.pending).sum(),
        not_cold: collections.iter().filter_map(|row| row.not_cold).reduce(|all, more| all + more),
        set_aside: set_aside.unwrap_or(0),
        set_aside_in: set_aside_in.map(|path| path.to_string_lossy().into_owned()),
        collections,
    };
    output::print(&report, json)?;
    Ok(())
}

/// A collection's folder and state. One that was never saved is as good as new.
pub fn look(device: &Device, collection: Collection) -> Result<(Folder, State), Failure> {
    let folder = Folder::new(&device.dir, &device.home(), collection);
    let mut state = state::load(&device.home(), collection)?.unwrap_or_else(|| State::new(String::new()));
    if folder.exists() {
        pull::recover(&folder, &mut state)?;
    }
    Ok((folder, state))
}

/// How many items differ from what was agreed on with the server.
pub fn pending(folder: &Folder, state: &State) -> Result<usize, Failure> {
    Ok(changed(state, &folder::scan(folder, state.items.keys())?).len())
}

/// What a sync that was given up leaves to the next one, as a clause. Where even that cannot be told, nothing is said.
pub fn still_pending(device: &Device) -> String {
    let count = |collection| look(device, collection).and_then(|(folder, state)| pending(&folder, &state));
    match ALL.into_iter().map(count).sum::<Result<usize, _>>() {
        Ok(0) => "no change waits here to be pushed".into(),
        Ok(1) => "one change is still pending".into(),
        Ok(many) => format!("{many} changes are still pending"),
        Err(_) => "the next sync goes on from here".into(),
    }
}
