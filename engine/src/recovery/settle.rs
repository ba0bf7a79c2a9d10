//! Looking at a journal that another process may be writing at this moment.
//!
//! A scan reads one file after another; meanwhile the store goes on, so that frames may stand past the end of the chain
//! that prove more than the scan has read. That is damage in a store at rest and none in a running one. What tells them
//! apart is a second look: everything that was proved before it began was on the disk then, so that a chain which
//! reaches that far has lost nothing, whatever was added since. It decides nothing by time.
//!
//! Invariant: in a directory that nobody writes, no look is ever excused.

use super::scan::Facts;
use crate::error::{Error, ErrorKind};
use crate::sync::park_timeout;
use crate::types::{FrameNo, Lsn, ManifestVersion};
use std::path::Path;
use std::time::Duration;

/// How often a store that moves on is looked at.
pub const LOOKS_MAX: u32 = 9;
/// The pause before the second look; before the n-th it is n - 1 times as long.
const PAUSE: Duration = Duration::from_millis(1);

/// What the looks so far have shown to be durable.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Proven {
    /// The frame.
    pub frame: FrameNo,
    /// The LSN.
    pub lsn: Lsn,
}

impl Proven {
    /// Takes note of what a look found.
    pub fn note(&mut self, facts: &Facts) {
        self.frame = self.frame.max(facts.watermark);
        self.lsn = self.lsn.max(facts.watermark_lsn);
    }

    /// Whether the chain of a later look holds all of this, and nothing but younger proof speaks against it. `newest`
    /// is the manifest that stood there when it ended.
    #[must_use]
    pub fn is_reached(&self, facts: &Facts, newest: ManifestVersion) -> bool {
        // Without a proof there is nothing that a look could be measured against.
        *self != Self::default()
            && facts.end.frame >= self.frame
            && facts.end.last_lsn >= self.lsn
            && facts.contradiction.is_none()
            && !facts.is_incomplete()
            && facts.manifest_seen <= newest
    }
}

/// Lets the store go on for a moment after the `looks`-th look.
pub fn pause(looks: u32) {
    park_timeout(PAUSE * looks);
}

/// The error of looks that never held still.
#[must_use]
pub fn too_fast(dir: &Path) -> Error {
    Error::new(ErrorKind::Overloaded, "the store moves on faster than it can be looked at")
        .file(dir)
        .retry_in(Duration::from_secs(1))
        .remedy("try again when it has less to do")
}
