//! Segments, and the versions of the manifest that name them, brought into a cold store.
//!
//! The set of segments in force at one moment is shipped as a whole: each of its segments that is not there yet is put and
//! read back, then a version that names them all. Meanwhile merges may have put others in their place; those come with the
//! next set. The set holds its files open, so that none is lost before it is shipped.
//!
//! Invariant: a version is put only once each segment that it names was read back there.

use super::tenant::Tenant;
use crate::cold::{ColdStore, PART_BYTES, Source, damaged, failed, fetch, keys};
use crate::error::{Error, ErrorKind, Result};
use crate::format::cold::Version;
use crate::format::manifest::SegmentMeta;
use crate::index::Index;
use crate::index::set::SegmentSet;
use crate::segment::Segment;
use crate::sync::{Arc, AtomicBool, Ordering};
use crate::types::SegmentId;
use std::collections::BTreeSet;

/// What ships segments to one cold store.
pub struct SegmentShipper {
    tenant: Arc<Tenant>,
    index: Arc<Index>,
    /// The segments that were read back there, by id and digest.
    proved: BTreeSet<(SegmentId, [u8; 32])>,
    /// The set that is being shipped.
    set: Option<Arc<SegmentSet>>,
    /// The version that is being put.
    version: Option<Version>,
    /// Set to have everything flushed.
    flush_asked: Arc<AtomicBool>,
}

impl SegmentShipper {
    /// What ships the segments of `index` to the cold store of `tenant`.
    #[must_use]
    pub fn new(tenant: Arc<Tenant>, index: Arc<Index>, flush_asked: Arc<AtomicBool>) -> Self {
        Self { tenant, index, proved: BTreeSet::new(), set: None, version: None, flush_asked }
    }

    /// One step: one segment, or a version. True if anything moved.
    ///
    /// # Errors
    /// [`ErrorKind::Cold`], [`ErrorKind::Damaged`], [`ErrorKind::Io`]; [`ErrorKind::Fenced`] if the store is another's by now.
    pub fn step(&mut self) -> Result<bool> {
        // Taken by the tail's.
        let Some(tenure) = self.tenant.tenure() else { return Ok(false) };
        if self.version.as_ref().is_some_and(|version| version.epoch != tenure.epoch) {
            self.version = None;
        }
        if self.set.is_none() {
            let (set, there) = (self.index.set(), &tenure.base.manifest);
            if set.manifest.flushed == there.flushed && set.manifest.segments == there.segments {
                return Ok(false);
            }
            // An old directory put back may hold in its journal what lies in segments there: nothing is taken away from what is
            // covered.
            if set.flushed() < there.flushed.last_lsn {
                self.flush_asked.store(true, Ordering::SeqCst);
                return Ok(false);
            }
            self.proved.extend(there.segments.iter().map(named));
            self.set = Some(set);
        }
        let set = Arc::clone(self.set.as_ref().expect("just taken"));
        for segment in &set.segments {
            if !self.proved.contains(&named(segment.meta())) {
                let is_closing = || self.tenant.standing().is_closing();
                ship(self.tenant.cold(), segment, &is_closing)?;
                self.proved.insert(named(segment.meta()));
                return Ok(true);
            }
        }
        let version = self.version.get_or_insert_with(|| Version {
            epoch: tenure.epoch,
            number: tenure.next_version,
            tail_from: tenure.tail_from(set.manifest.flushed.frame),
            ends: tenure.ends.clone(),
            manifest: set.manifest.clone(),
        });
        let (version, _) = self.tenant.put_version(version.clone())?;
        (self.set, self.version) = (None, None);
        let (epoch, number) = (version.epoch, version.number);
        let (flushed, time) = (version.manifest.flushed, version.manifest.time);
        self.proved = version.manifest.segments.iter().map(named).collect();
        self.tenant.note(epoch, |tenure| tenure.rebase(version));
        self.tenant.standing().note(self.tenant.number(), |level| level.version = number);
        self.tenant.owe(epoch, flushed, time);
        Ok(true)
    }
}

fn named(meta: &SegmentMeta) -> (SegmentId, [u8; 32]) {
    (meta.id, meta.digest)
}

/// Puts a segment, and reads it back. Where what lies there is damaged, it is put under another key.
fn ship(cold: &dyn ColdStore, segment: &Segment, is_closing: &dyn Fn() -> bool) -> Result<()> {
    let meta = segment.meta();
    let go_on = || if is_closing() { Err(closing()) } else { Ok(()) };
    for attempt in 0..keys::SEGMENT_ATTEMPTS {
        let key = keys::segment(meta, attempt);
        cold.put(&key, &OfSegment(segment, &go_on))?;
        let proved = || fetch::proved(cold, &key, meta.bytes, &meta.digest, &mut |_| go_on());
        match proved().or_else(|e| if e.kind() == ErrorKind::Damaged { proved() } else { Err(e) }) {
            Ok(true) => return Ok(()),
            Ok(false) => return Err(failed(cold.url(), format!("{key} was put, and is not there"))),
            // What is damaged here already is not put again and again.
            Err(e) if e.kind() == ErrorKind::Damaged => check(segment)?,
            Err(e) => return Err(e),
        }
    }
    let key = keys::segment(meta, 0);
    Err(damaged(cold.url(), &key, "whatever is put there, something else comes back"))
}

/// Whether the segment is what its digest says, as its file has it now.
fn check(segment: &Segment) -> Result<()> {
    let SegmentMeta { bytes, digest, first_lsn, last_lsn, .. } = *segment.meta();
    let (mut hasher, mut at) = (blake3::Hasher::new(), 0);
    while at < bytes {
        let part = segment.bytes(at, (bytes - at).min(PART_BYTES as u64) as usize)?;
        at += part.len() as u64;
        hasher.update(&part);
    }
    if hasher.finalize() == digest {
        return Ok(());
    }
    let what = format!("the segment {} is damaged here and cannot be shipped", segment.meta().id);
    Err(Error::new(ErrorKind::Damaged, what)
        .lsns(first_lsn.0..last_lsn.0 + 1)
        .remedy("everlog verify tells what is affected; bring the file back from a copy"))
}

/// The error of a segment that is not shipped to its end, since the store closes: it may take longer than anybody waits.
fn closing() -> Error {
    Error::new(ErrorKind::ShutDown, "the store closes").remedy("it is shipped once the store is opened again")
}

/// A segment's bytes, for as long as it may go on.
struct OfSegment<'a>(&'a Segment, &'a dyn Fn() -> Result<()>);

impl Source for OfSegment<'_> {
    fn len(&self) -> u64 {
        self.0.meta().bytes
    }

    fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>> {
        self.1()?;
        self.0.bytes(offset, len)
    }
}
