//! Where the tails of older epochs end, as their successors found it.

use super::{ColdStore, fetch, newest};
use crate::error::Result;
use crate::format::cold::{TailEnd, Version, Whose};
use crate::types::Epoch;

/// The ends that are known behind the version `base`, of epochs from that on in which its tails begin, by epoch; epochs
/// up to `newest` have spoken, in versions and in tail objects. Who named one in a newer epoch is believed: it knew
/// what the one before had to say, and what that one says later does not count.
///
/// # Errors
/// [`crate::ErrorKind::Cold`], [`crate::ErrorKind::Refused`].
pub fn known(cold: &dyn ColdStore, whose: Whose, base: &Version, newest: Epoch) -> Result<Vec<TailEnd>> {
    let first = base.tail_from.0;
    let mut ends: Vec<TailEnd> = Vec::new();
    let mut hear = |named: Vec<TailEnd>| {
        ends.retain(|end| named.iter().all(|newer| newer.epoch != end.epoch));
        ends.extend(named.into_iter().filter(|end| end.epoch >= first));
    };
    for epoch in (first.0 + 1..base.epoch.0).map(Epoch) {
        hear(first_tail(cold, whose, epoch)?);
    }
    hear(base.ends.clone());
    for epoch in (base.epoch.0 + 1..=newest.0).map(Epoch) {
        let version = newest::version_of(cold, whose, epoch, &mut |_| Ok(true))?;
        hear(version.map(|version| version.ends).unwrap_or_default());
        hear(first_tail(cold, whose, epoch)?);
    }
    ends.sort_unstable_by_key(|end| end.epoch);
    Ok(ends)
}

/// What the epoch's first tail object that can be read says.
fn first_tail(cold: &dyn ColdStore, whose: Whose, epoch: Epoch) -> Result<Vec<TailEnd>> {
    for number in 0.. {
        match fetch::tail(cold, whose, epoch, number)? {
            Some(Ok(tail)) => return Ok(tail.ends),
            Some(Err(_)) => {}
            None => break,
        }
    }
    Ok(Vec::new())
}
