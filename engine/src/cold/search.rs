//! Finding the end of what is numbered without a gap: by asking for the next one, never by a listing.
//!
//! A listing may be an hour old, so that it can only say where to begin to ask. The numbers are dense, so that from one that
//! is there the end is found by doubling steps and then halving them.

use super::{ColdStore, failed, keys};
use crate::error::Result;

/// The first number from `from` on under which nothing lies, where everything below it down to `from` is there. `key_of`
/// names the object of a number.
///
/// # Errors
/// [`crate::ErrorKind::Cold`].
pub fn end(cold: &dyn ColdStore, from: u64, key_of: &dyn Fn(u64) -> String) -> Result<u64> {
    let there = |number: u64| Ok::<bool, crate::error::Error>(cold.get(&key_of(number), 0..1)?.is_some());
    if !there(from)? {
        return Ok(from);
    }
    // `low` is there, `high` is not.
    let (mut low, mut step) = (from, 1);
    let mut high = loop {
        let next = low + step;
        if !there(next)? {
            break next;
        }
        low = next;
        step *= 2;
    };
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if there(middle)? {
            low = middle;
        } else {
            high = middle;
        }
    }
    // What answers with an error as if it were the object is not to be believed: a gap would hide what comes behind it.
    if there(low)? { Ok(high) } else { Err(failed(cold.url(), format!("{} was there, and is not", key_of(low)))) }
}

/// A number to begin to ask at: the greatest that a listing of `prefix` names and that is there, else `first`.
///
/// # Errors
/// [`crate::ErrorKind::Cold`].
pub fn begin(cold: &dyn ColdStore, prefix: &str, first: u64, key_of: &dyn Fn(u64) -> String) -> Result<u64> {
    let (mut greatest, mut after) = (None, String::new());
    loop {
        let listed = cold.list(prefix, &after)?;
        let Some(last) = listed.last() else { break };
        greatest = listed.iter().filter_map(|key| keys::number(key)).max().or(greatest).max(greatest);
        after.clone_from(last);
    }
    match greatest {
        Some(number) if number > first && cold.get(&key_of(number), 0..1)?.is_some() => Ok(number),
        _ => Ok(first),
    }
}
