//! The newest claim and the newest version of the manifest that can be read.

use super::{ColdStore, fetch, keys, search};
use crate::error::Result;
use crate::format::cold::{Version, Whose};
use crate::types::Epoch;

/// The newest claim up to that of `epoch`. One that cannot be read is nobody's.
///
/// # Errors
/// As [`fetch::object`].
pub fn claim(cold: &dyn ColdStore, whose: Whose, epoch: Epoch) -> Result<Option<(Epoch, [u8; 16])>> {
    for epoch in (1..=epoch.0).rev().map(Epoch) {
        if let Some(Ok(claim)) = fetch::claim(cold, whose, epoch)? {
            return Ok(Some((epoch, claim.claim)));
        }
    }
    Ok(None)
}

/// The newest version, of `epoch` or the newest older one that has any, that `accept` takes. It is asked newest first.
///
/// # Errors
/// As [`fetch::object`]; what `accept` says.
pub fn version(
    cold: &dyn ColdStore, whose: Whose, epoch: Epoch, accept: &mut dyn FnMut(&Version) -> Result<bool>,
) -> Result<Option<Version>> {
    for epoch in (1..=epoch.0).rev().map(Epoch) {
        if let Some(version) = version_of(cold, whose, epoch, accept)? {
            return Ok(Some(version));
        }
    }
    Ok(None)
}

/// The newest version of that very epoch that `accept` takes. It is asked newest first.
///
/// # Errors
/// As [`version`].
pub fn version_of(
    cold: &dyn ColdStore, whose: Whose, epoch: Epoch, accept: &mut dyn FnMut(&Version) -> Result<bool>,
) -> Result<Option<Version>> {
    let key = |number| keys::version(epoch, number);
    let begin = search::begin(cold, &keys::versions(epoch), 0, &key)?;
    for number in (0..search::end(cold, begin, &key)?).rev() {
        if let Some(Ok(version)) = fetch::version(cold, whose, epoch, number)?
            && accept(&version)?
        {
            return Ok(Some(version));
        }
    }
    Ok(None)
}
