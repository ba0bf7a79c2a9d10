//! An index for tests of what stands above it.

use super::Index;
use super::set::SegmentSet;
use crate::format::manifest::tests::sample;
use crate::metrics::Metrics;
use crate::sync::Arc;

/// An index without segments, and with a pool of so many bytes.
pub(crate) fn empty(pool_bytes: usize) -> Index {
    let mut manifest = sample();
    manifest.segments.clear();
    let set = SegmentSet { manifest, segments: Vec::new() };
    Index::new(set, 16, pool_bytes, Arc::new(Metrics::default()))
}
