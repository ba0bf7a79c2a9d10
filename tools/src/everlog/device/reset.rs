//! `everlog device reset`: forgets the items and the state but not the account, as a phone does that lost its battery.
//!
//! The next sync brings all back. Invariant: the state is forgotten before the first file goes, because files that are
//! gone while the state still knows them would be deletions, and the next sync would push them.

use std::fs;
use std::io::Write;

use super::account::{Device, random_id};
use super::collection::ALL;
use super::disk::{self, failed};
use super::folder::{Folder, Found};
use super::merge::Version;
use super::state::{self, State};
use super::status;
use everlog_server::failure::Failure;

pub fn run(device: &mut Device, force: bool, json: bool) -> Result<(), Failure> {
    let _lock = device.lock()?;
    if !force {
        refuse_if_unsaved(device)?;
    }
    let home = device.home();
    device.account.device = random_id()?;
    for collection in ALL {
        state::save(&home, collection, &State::new(device.account.device.clone()))?;
    }
    device.save()?;
    let mut removed = 0;
    for collection in ALL {
        removed += empty(&Folder::new(&device.dir, &home, collection))?;
    }
    for folder in [home.join("tmp"), home.join("partial")] {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries {
            disk::remove(&entry.map_err(failed("reading", &folder))?.path())?;
        }
    }
    let mut out = std::io::stdout();
    if json {
        writeln!(out, "{}", serde_json::json!({ "removed": removed, "device": device.account.device }))?;
    } else {
        writeln!(out, "removed {removed} items; the next sync brings them back")?;
    }
    Ok(())
}

/// What the server never acknowledged is only here.
fn refuse_if_unsaved(device: &Device) -> Result<(), Failure> {
    for collection in ALL {
        let (folder, state) = status::look(device, collection)?;
        // A folder that is gone has nothing left to lose.
        let pending = if folder.exists() { status::pending(&folder, &state)? } else { 0 };
        if pending > 0 || !state.outbox.is_empty() {
            let (count, verb) =
                if pending == 1 { ("one change".into(), "was") } else { (format!("{pending} changes"), "were") };
            let cause = match pending {
                0 => format!("the server has not acknowledged the last batch of {}", collection.name),
                _ => format!("{count} in {} {verb} never acknowledged by the server", collection.name),
            };
            return Err(Failure::new(3, cause, "sync first, or give them up with --force"));
        }
    }
    Ok(())
}

/// Removes the item files. What is no item stays.
fn empty(folder: &Folder) -> Result<u64, Failure> {
    if !folder.exists() {
        folder.create()?;
        return Ok(0);
    }
    let mut removed = 0;
    for name in folder.names()?.items {
        let version: Version = match folder.find(&name)? {
            Found::File(hash) => Some(hash),
            Found::Nothing | Found::Unknown(_) => continue,
        };
        folder.remove(&name, version)?;
        removed += 1;
    }
    folder.sync()?;
    Ok(removed)
}
