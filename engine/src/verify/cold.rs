//! `everlog verify --cold`: reads everything that counts in a cold store again, and says what is wrong.
//!
//! What counts: the store's first object, the claim of the newest owner, the newest version of the manifest of each epoch, the
//! tails as a restore would read them, and each segment that the newest version names, all of it. An object that cannot be read
//! and behind which its writer put what it held again is no damage. What counts no more is counted and not read.
//!
//! It writes nothing, and an owner may go on meanwhile. Invariant: if nothing is found, a restore of the newest state finds
//! nothing wrong either, as long as the objects stay as they were read.

use super::object::Object;
use crate::cold::{ColdStore, fetch, keys, search, segments};
use crate::error::{Error, ErrorKind, Result};
use crate::finding::Finding;
use crate::format::manifest::SegmentMeta;
use crate::restore::{Found, RestoreMode, look};
use crate::segment::Segment;
use crate::sync::Arc;
use crate::types::{Epoch, Lsn, StoreId};
use std::path::Path;

/// What a check of a cold store found.
#[derive(Clone, Debug)]
pub struct ColdReport {
    /// The store.
    pub store: StoreId,
    /// The epoch of the newest claim.
    pub epoch: Epoch,
    /// The last LSN that is there.
    pub last_lsn: Lsn,
    /// Segments that were read, and their bytes.
    pub segments: (u64, u64),
    /// Frames behind them.
    pub frames: u64,
    /// Versions of the manifest that were read.
    pub versions: u64,
    /// Objects that were not read, since they count no more, as far as listings tell.
    pub others: u64,
    /// What is wrong. The file is the object's key.
    pub findings: Vec<Finding>,
}

/// So often it begins anew, if an owner that goes on may be why something is not there.
const LOOKS_MAX: usize = 3;

/// Checks the cold store. `on_progress` gets the bytes of segments read so far, and how many there are.
///
/// # Errors
/// [`ErrorKind::Refused`] if no store lies there, or one of a later version of everlog; [`ErrorKind::Cold`] if it cannot be
/// reached. Damage is no error.
pub fn verify_cold(cold: &Arc<dyn ColdStore>, on_progress: &mut dyn FnMut(u64, u64)) -> Result<ColdReport> {
    let mut found = look(&**cold, RestoreMode::Heal)?;
    for _ in 1..LOOKS_MAX {
        let report = check(cold, &found, on_progress)?;
        if report.findings.is_empty() {
            return Ok(report);
        }
        let now = look(&**cold, RestoreMode::Heal)?;
        if now.is_as(&found) {
            return Ok(report);
        }
        found = now;
    }
    check(cold, &found, on_progress)
}

fn check(cold: &Arc<dyn ColdStore>, found: &Found, on_progress: &mut dyn FnMut(u64, u64)) -> Result<ColdReport> {
    let manifest = &found.base.manifest;
    let mut report = ColdReport {
        store: found.home.identity.store,
        epoch: found.claim.0,
        last_lsn: manifest.flushed.last_lsn,
        segments: (0, 0),
        frames: 0,
        versions: 0,
        others: 0,
        findings: Vec::new(),
    };
    if found.is_made() {
        let mut finding =
            Finding::new("manifest/", "no version of the manifest can be read; segments and tails tell what is there");
        finding.lsns = Some(1..u64::MAX);
        report.findings.push(finding);
    }
    let all: u64 = manifest.segments.iter().map(|meta| meta.bytes).sum();
    for meta in &manifest.segments {
        let mut done = report.segments.1;
        let mut advance = |bytes: u64| {
            done = (done + bytes).min(all);
            on_progress(done, all);
        };
        let damage = segments::prove(&**cold, meta, &mut advance);
        match damage {
            Err(error) if error.kind() == ErrorKind::Damaged => {
                report.findings.extend(within(cold, meta, &error, found)?)
            }
            proved => proved?,
        }
        report.segments = (report.segments.0 + 1, report.segments.1 + meta.bytes);
    }
    on_progress(all, all);
    let mut lost = Vec::new();
    let mut count = |_: &_, _| {
        report.frames += 1;
        Ok(())
    };
    let end = found.frames(&**cold, &mut count, &mut lost)?;
    if let Some((end, _)) = end.last {
        report.last_lsn = end.last_lsn;
    }
    lost.extend(found.unaccounted(&**cold, report.last_lsn));
    report.findings.extend(lost.iter().map(of));
    claims_and_versions(cold, found, &mut report)?;
    report.others = others(&**cold, found, &report)?;
    Ok(report)
}

/// The claims that hold, and the versions. Each epoch's newest one stands for it.
fn claims_and_versions(cold: &Arc<dyn ColdStore>, found: &Found, report: &mut ColdReport) -> Result<()> {
    let (cold, whose) = (&**cold, found.home.whose());
    for epoch in (1..=found.claim.0.0).map(Epoch) {
        let key = |number| keys::version(epoch, number);
        let begin = search::begin(cold, &keys::versions(epoch), 0, &key)?;
        let mut unread = None;
        let end = search::end(cold, begin, &key)?;
        for number in 0..end {
            unread = match fetch::version(cold, whose, epoch, number)? {
                Some(Err(why)) => Some((key(number), why)),
                Some(Ok(_)) => {
                    report.versions += 1;
                    None
                }
                None => unread,
            };
        }
        if let Some((key, why)) = unread {
            report.findings.push(Finding::new(key, format!("the version of the manifest cannot be read: {why}")));
        }
        // Who put a version held the epoch, so that its claim was read back.
        if end > 0
            && let Some(Err(why)) = fetch::claim(cold, whose, epoch)?
        {
            report.findings.push(Finding::new(keys::claim(epoch), format!("the claim cannot be read: {why}")));
        }
    }
    Ok(())
}

/// What is damaged within a segment that is not whole there: by log and seqs, as far as it tells.
fn within(cold: &Arc<dyn ColdStore>, meta: &SegmentMeta, error: &Error, found: &Found) -> Result<Vec<Finding>> {
    let mut findings = vec![of(error)];
    let key = keys::segment(meta, 0);
    let object = Arc::new(Object::new(Arc::clone(cold), key.clone()));
    match Segment::open(object, Path::new(""), found.home.identity.store, meta) {
        Ok(segment) => {
            let name_of = |id| segment.name_of(id).ok().flatten();
            let inside = segment.verify(&mut |_| ()).into_iter().map(|finding| finding.named(name_of));
            findings.extend(inside.map(|finding| Finding { file: key.clone().into(), ..finding }));
        }
        Err(error) if error.kind() == ErrorKind::Damaged => {
            findings.push(Finding { file: key.into(), ..of(&error) });
        }
        Err(error) if error.kind() == ErrorKind::Io => {}
        Err(error) => return Err(error),
    }
    Ok(findings)
}

/// Objects beside those that were read.
fn others(cold: &dyn ColdStore, found: &Found, report: &ColdReport) -> Result<u64> {
    let (first, from) = found.base.tail_from;
    let mut others = listed(cold, keys::SEGMENTS, "")?.saturating_sub(report.segments.0);
    for epoch in (1..=found.claim.0.0).map(Epoch) {
        let before = if epoch == first { from } else { 0 };
        let all = listed(cold, &keys::tails(epoch), "")?;
        let read = if before == 0 { all } else { listed(cold, &keys::tails(epoch), &keys::tail(epoch, before - 1))? };
        others += if epoch < first { all } else { all - read.min(all) };
    }
    Ok(others)
}

/// Keys under `prefix` that come after `after`.
fn listed(cold: &dyn ColdStore, prefix: &str, after: &str) -> Result<u64> {
    let (mut count, mut after) = (0, after.to_owned());
    loop {
        let page = cold.list(prefix, &after)?;
        let Some(last) = page.last() else { return Ok(count) };
        count += page.len() as u64;
        after.clone_from(last);
    }
}

/// The finding that an error about an object is.
fn of(error: &Error) -> Finding {
    Finding {
        log: error.log_name().map(str::to_owned),
        seqs: error.seq_range(),
        lsns: error.lsn_range(),
        ..Finding::new(error.path().unwrap_or(Path::new("")), error.message())
    }
}
