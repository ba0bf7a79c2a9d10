//! The file EPOCH: what a directory knows of its right to write to cold stores. It is replaced as a whole, so that a crash
//! leaves what it said before or what it was to say.

use crate::error::{Error, ErrorKind, Result};
use crate::format::cold::{Epochs, Tenancy, Unsealed};
use crate::format::identity::Identity;
use crate::io::Io;
use crate::sync::{Arc, Mutex};
use crate::types::ColdId;
use std::path::{Path, PathBuf};

/// The file EPOCH of an open store.
pub struct EpochFile {
    io: Arc<dyn Io>,
    path: PathBuf,
    identity: Identity,
    state: Mutex<Epochs>,
}

/// The longest such file, in bytes.
const EPOCH_BYTES_MAX: usize = 1 << 20;

impl EpochFile {
    /// Reads it, if there is one, in the store's directory `dir`.
    ///
    /// # Errors
    /// [`ErrorKind::Damaged`], [`ErrorKind::Refused`], [`ErrorKind::Io`].
    pub fn load(io: Arc<dyn Io>, dir: &Path, identity: Identity) -> Result<Self> {
        let path = dir.join(Epochs::FILE_NAME);
        let state = match io.read_all(&path, EPOCH_BYTES_MAX) {
            Err(e) if e.os_error().is_some_and(|e| e.kind() == std::io::ErrorKind::NotFound) => Epochs::default(),
            read => Epochs::decode(&read?, identity.store).map_err(|why| match why {
                Unsealed::Malformed(_) => Error::new(ErrorKind::Damaged, format!("the file of epochs: {why}"))
                    .file(&path)
                    .remedy("restore the store from its cold store, or bring the file back from a copy"),
                Unsealed::Before | Unsealed::Newer | Unsealed::Foreign(_) => {
                    Error::new(ErrorKind::Refused, format!("the file of epochs: {why}"))
                        .file(&path)
                        .remedy("bring back the directory as a whole, from one copy")
                }
            })?,
        };
        Ok(Self { io, path, identity, state: Mutex::new(state) })
    }

    /// What it says.
    #[must_use]
    pub fn get(&self) -> Epochs {
        self.state.lock().clone()
    }

    /// Changes it, durably when this returns.
    ///
    /// # Errors
    /// [`ErrorKind::Io`]; it says what it said before, or, after a crash, what it was to say.
    pub fn change(&self, change: impl FnOnce(&mut Epochs)) -> Result<()> {
        let mut state = self.state.lock();
        let mut epochs = state.clone();
        change(&mut epochs);
        if epochs != *state {
            self.io.replace(&self.path, &epochs.encode(self.identity.store))?;
            *state = epochs;
        }
        Ok(())
    }

    pub(super) fn tenancy(&self, cold: ColdId) -> Option<Tenancy> {
        self.state.lock().tenancies.iter().find(|tenancy| tenancy.cold == cold).cloned()
    }

    pub(super) fn change_tenancy(&self, tenancy: &Tenancy) -> Result<()> {
        self.change(|epochs| match epochs.tenancies.iter_mut().find(|t| t.cold == tenancy.cold) {
            Some(known) => known.clone_from(tenancy),
            None => epochs.tenancies.push(tenancy.clone()),
        })
    }
}
