//! What the steps of one collection's sync share: its state, its folder, its stream, and the report.
//!
//! The steps themselves are elsewhere. Invariant: the state is saved only after the folder's names are durable, so that
//! it never speaks of a file that a crash could take away.

use std::collections::BTreeSet;
use std::path::Path;

use super::account::random_id;
use super::collection::Collection;
use super::digest::Digest;
use super::folder::Folder;
use super::remote::Remote;
use super::report::Report;
use super::state::{self, State};
use everlog_server::failure::Failure;

/// As many changes as one batch may have. Photos are few, so that the first of them are there for the other devices
/// before the last has been uploaded.
const BATCH_CHANGES_MAX: usize = 500;
const BATCH_PHOTOS_MAX: usize = 16;

pub struct Session<'a> {
    pub collection: Collection,
    pub remote: &'a Remote,
    pub home: &'a Path,
    pub folder: &'a Folder,
    pub report: &'a mut Report,
    pub state: State,
    pub batch_changes_max: usize,
    /// A folder without items is the wish to delete them all.
    pub allow_empty: bool,
    /// Keys of items that the server found too large.
    pub too_large: BTreeSet<String>,
    /// Photos whose bytes are known to be on the server.
    pub verified: BTreeSet<Digest>,
}

impl<'a> Session<'a> {
    pub fn new(
        collection: Collection, remote: &'a Remote, home: &'a Path, folder: &'a Folder, report: &'a mut Report,
        state: State, allow_empty: bool,
    ) -> Self {
        let batch_changes_max = if collection.is_photos() { BATCH_PHOTOS_MAX } else { BATCH_CHANGES_MAX };
        Self {
            collection,
            remote,
            home,
            folder,
            report,
            state,
            batch_changes_max,
            allow_empty,
            too_large: BTreeSet::new(),
            verified: BTreeSet::new(),
        }
    }

    pub fn save(&self) -> Result<(), Failure> {
        self.folder.sync()?;
        state::save(self.home, self.collection, &self.state)
    }

    /// Goes on under a name that the server has never heard, after it has lost or has never had what this device wrote
    /// under the old one.
    pub fn become_another(&mut self) -> Result<(), Failure> {
        self.state.become_another(random_id()?);
        Ok(())
    }
}
