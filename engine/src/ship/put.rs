//! Putting an object and proving that it is there, by reading it back through other code.

use crate::cold::{ColdStore, failed, fetch};
use crate::error::Result;

/// What lies under the key now.
#[derive(Debug, PartialEq, Eq)]
pub enum There {
    /// What was to be put.
    This,
    /// Something else.
    Other(Vec<u8>),
}

/// Puts `bytes` under `key`, unless something is there, and reads back what is.
///
/// # Errors
/// [`crate::ErrorKind::Cold`]: whether it is there, or will be, is unknown; the same is to be put again.
/// [`crate::ErrorKind::Damaged`] if what is there is too long for anything of ours.
pub fn put(cold: &dyn ColdStore, key: &str, bytes: &[u8]) -> Result<There> {
    cold.put(key, &bytes)?;
    match fetch::whole(cold, key, fetch::WHOLE_BYTES_MAX)? {
        None => Err(failed(cold.url(), format!("{key} was put, and is not there"))),
        Some(there) if there == bytes => Ok(There::This),
        Some(other) => Ok(There::Other(other)),
    }
}
