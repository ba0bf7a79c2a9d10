//! Cold stores: independent places for objects, each written once and never changed.
//!
//! [`ColdStore`] is the narrow waist: `dir` keeps objects as files, `bucket` (behind features) in an object store, and
//! simulations in memory. What the objects are called is [`keys`]; reading one whole, and proving it, is [`fetch`];
//! finding the end of what is numbered is [`search`]; whether it is part of a history is [`history`]. What is put when
//! is the business of `ship`.
//!
//! Invariants: nothing here takes the answer to a put for a proof that the object is there; nothing decides by a listing
//! alone, which may be old.

#[cfg(any(feature = "s3", feature = "gcs", feature = "azure"))]
mod bucket;
mod connect;
mod dir;
pub mod ends;
pub mod fetch;
pub mod history;
pub mod keys;
pub mod lag;
pub mod newest;
pub mod rebuild;
pub mod search;
pub mod segments;
pub mod standing;

#[cfg(all(test, not(everlog_loom)))]
pub(crate) mod testing;
#[cfg(all(test, not(everlog_loom)))]
mod tests;

pub use connect::connect;
pub use dir::DirStore;

use crate::error::{Error, ErrorKind, Result};
use crate::format::cold::Home;
use crate::types::StoreId;
use std::ops::Range;
use std::path::Path;

/// Bytes of an object that are sent or asked for at once.
pub const PART_BYTES: usize = 8 << 20;

/// What became of a put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Put {
    /// The store says that it has the object now.
    Created,
    /// There is an object of that name already, this one or another.
    Exists,
}

/// What there is of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// The bytes asked for, fewer only at the object's end.
    pub bytes: Vec<u8>,
    /// The length of the whole object, in bytes.
    pub len: u64,
}

/// The bytes of an object to be put, which may be more than memory is to hold.
pub trait Source {
    /// The object's length, in bytes.
    fn len(&self) -> u64;

    /// Whether it holds nothing.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// `len` bytes at `offset`, all of which lie within the object.
    ///
    /// # Errors
    /// Why they cannot be had.
    fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>>;
}

impl Source for &[u8] {
    fn len(&self) -> u64 {
        <[u8]>::len(self) as u64
    }

    fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>> {
        let at = offset as usize;
        Ok(self[at..at + len].to_vec())
    }
}

/// An independent store of objects. Keys are made of `a`–`z`, `0`–`9`, `-` and `/`, and none goes on behind
/// another one and a slash.
///
/// Calls block, for as long as the store's own time-outs and retries allow, and may come from several threads at once. Each
/// holds a few times [`PART_BYTES`] at most.
pub trait ColdStore: Send + Sync {
    /// Where it is, for people: without credentials.
    fn url(&self) -> &str;

    /// Puts an object under a key that nothing bears yet. An object that is there already is never changed.
    ///
    /// # Errors
    /// [`ErrorKind::Cold`]: whether the object is there is unknown, and it may still come to be there later. What
    /// `source` says.
    fn put(&self, key: &str, source: &dyn Source) -> Result<Put>;

    /// The bytes of an object in `range`, at most [`PART_BYTES`] of them; None if there is no such object. A range that
    /// begins at or past the object's end gives no bytes.
    ///
    /// # Errors
    /// [`ErrorKind::Cold`].
    fn get(&self, key: &str, range: Range<u64>) -> Result<Option<Part>>;

    /// Keys that begin with `prefix`, which ends with `/`, and come after `after` in bytewise order: the first thousand or
    /// so, in that order, and none only if there are none. It may be old: what was put or removed lately may be missing or
    /// still be there.
    ///
    /// # Errors
    /// [`ErrorKind::Cold`].
    fn list(&self, prefix: &str, after: &str) -> Result<Vec<String>>;

    /// Whether it shares its fate with what lies in `dir`, as a folder on the same device does.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] if that cannot be told.
    fn depends_on(&self, dir: &Path) -> Result<bool> {
        let _ = dir;
        Ok(false)
    }
}

/// The store that a cold store holds; None if there is none.
///
/// # Errors
/// [`ErrorKind::Cold`]; [`ErrorKind::Damaged`] if what says so cannot be read; [`ErrorKind::Refused`] if a later version of
/// everlog wrote it.
pub fn holds(cold: &dyn ColdStore) -> Result<Option<StoreId>> {
    let Some(home) = fetch::object(cold, keys::HOME, Home::decode)? else { return Ok(None) };
    home.map(|home| Some(home.identity.store)).map_err(|why| damaged(cold.url(), keys::HOME, why))
}

/// A request that failed, or whose outcome is unknown. It is tried again.
#[must_use]
pub fn failed(store: &str, what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Cold, format!("the cold store {store}: {what}"))
        .remedy("see that it can be reached; it is tried again")
}

/// An object that is not what its name says. The error names it as its file.
#[must_use]
pub fn damaged(store: &str, key: &str, what: impl std::fmt::Display) -> Error {
    Error::new(ErrorKind::Damaged, format!("an object of the cold store {store}: {what}"))
        .file(Path::new(key))
        .remedy("bring it back from another cold store or an older version of the object")
}
