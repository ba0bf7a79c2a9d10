//! Random bits of random stores: see `flips/`. No victim and no disk, since what is damaged is bytes.
//!
//! Invariant: as many bits were flipped as were asked for, or it stopped at the first wrong answer.

use super::hint;
use crate::flips::{self, Place};
use crate::oracle::Violation;
use crate::real::{Counts, Stop};
use std::path::Path;

/// Bits of indexes.
pub const IN_INDEXES: &str = "in indexes";
/// Bits of filters.
pub const IN_LOOKUPS: &str = "in lookup blocks";
/// Bits of states.
pub const IN_STATES: &str = "in states";
/// Bits of frames.
pub const IN_FRAMES: &str = "in frames";

/// Flips that are told of at once.
const FLIPS_AT_ONCE: u64 = 1_000;

/// See the module.
///
/// # Errors
/// As [`crate::real::RunRow`].
pub fn run(seed: u64, count: u64, _scratch: &Path, progress: &mut dyn FnMut(&Counts)) -> Result<Counts, Stop> {
    let mut counts = Counts::default();
    while counts.runs < count {
        let flips = FLIPS_AT_ONCE.min(count - counts.runs);
        let flipped = flips::run(seed.wrapping_add(counts.runs), flips, &mut |_| ());
        let flipped =
            flipped.map_err(|Violation(what)| Stop::Violation(format!("{what}\n{}", hint("flips", seed, &counts))))?;
        for (place, (bits, _)) in flipped {
            counts.add(word(place), bits);
        }
        counts.runs += flips;
        progress(&counts);
    }
    Ok(counts)
}

fn word(place: Place) -> &'static str {
    match place {
        Place::Data => "in records of segments",
        Place::Index => IN_INDEXES,
        Place::Root => "in roots",
        Place::Lookup => IN_LOOKUPS,
        Place::Names => "in names",
        Place::State => IN_STATES,
        Place::Segment => "elsewhere in segments",
        Place::Manifest => "in manifests in force",
        Place::OldManifest => "in older manifests",
        Place::Identity => "in identities",
        Place::JournalHeader => "in headers of journal files",
        Place::Journal => IN_FRAMES,
    }
}
