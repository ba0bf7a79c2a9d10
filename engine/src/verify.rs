//! `everlog verify`: reads every byte that the store stands on again, past the page cache, and says what is wrong.
//!
//! It writes nothing, takes no lock and works on a running store: what is replaced or removed while it reads is looked
//! up again in the newest manifest, and what looks like damage at the moving end of the journal counts only once it
//! stays. Invariant: a damaged byte of the identity, of a manifest, of a segment, of the header of a journal file in
//! use, or of a journal frame that is proved and not flushed gives a finding.

mod cold;
mod object;

pub use cold::{ColdReport, verify_cold};

use crate::error::{Error, ErrorKind, Result};
use crate::finding::Finding;
use crate::format::identity::{FILE_NAME as IDENTITY, Identity};
use crate::format::manifest::{Manifest, SegmentMeta};
use crate::format::{FORMAT_VERSION, Malformed};
use crate::io::{Io, OpenMode};
use crate::journal::names;
use crate::manifest;
use crate::recovery::check::check;
use crate::recovery::settle::{self, LOOKS_MAX, Proven};
use crate::segment::Segment;
use crate::sync::Arc;
use crate::types::{BLOCK, LogId, ManifestVersion};
use std::collections::BTreeSet;
use std::io::ErrorKind as OsKind;
use std::path::{Path, PathBuf};

/// Bytes of a small file that are read at once.
const PIECE_BYTES: usize = 1 << 20;

/// Checks the store in `dir`. `on_progress` gets the bytes read so far and the bytes to read in all.
///
/// # Errors
/// [`ErrorKind::Refused`] if there is no store, or one of a format that this version does not know; [`ErrorKind::Io`]
/// if the directory cannot be read; [`ErrorKind::Overloaded`] if a running store changes it faster than it can be read.
/// Damage is no error.
pub fn verify(io: Arc<dyn Io>, dir: &Path, on_progress: &mut dyn FnMut(u64, u64)) -> Result<Vec<Finding>> {
    let mut verify = Verify { io: &io, dir, findings: Vec::new(), done: 0, total: 0, on_progress };
    let identity = verify.identity()?;
    verify.manifests()?;
    let manifest = match manifest::load(&*io, dir) {
        Ok(manifest) => manifest,
        Err(e) if e.kind() == ErrorKind::Damaged => {
            // The segments and the journal's place are known from it alone, so that nothing more can be checked.
            verify.damaged(&e, None);
            return Ok(verify.findings);
        }
        Err(e) => return Err(e),
    };
    if identity.is_some_and(|identity| !identity.is_of(&manifest.identity)) {
        let what = "the identity and the newest manifest are of different stores";
        verify.findings.push(Finding::new(dir.join(IDENTITY), what));
    }
    verify.total += manifest.segments.iter().map(|meta| meta.bytes).sum::<u64>() + verify.journal_bytes()?;
    let mut segments = Vec::new();
    // Merges of a running store put others in the place of what is in the first manifest: these are checked too, until
    // there is none left.
    let (mut checked, mut newest) = (BTreeSet::new(), manifest.clone());
    loop {
        let old = |meta: &&SegmentMeta| meta.first_lsn <= manifest.flushed.last_lsn;
        let new: Vec<_> = newest.segments.iter().filter(old).filter(|meta| checked.insert(meta.id)).cloned().collect();
        if new.is_empty() {
            break;
        }
        for meta in &new {
            segments.extend(verify.segment(&manifest, meta)?);
        }
        newest = manifest::load(&*io, dir)?;
    }
    verify.journal(manifest, &segments)?;
    verify.advance(0);
    Ok(verify.findings)
}

/// Where something is wrong, and what: file, byte offset, first LSN concerned, and the text where it names no LSNs
/// (where it does, it may say how far the store is at this moment).
type Spot = (PathBuf, Option<u64>, Option<u64>, Option<String>);

struct Verify<'a> {
    io: &'a Arc<dyn Io>,
    dir: &'a Path,
    findings: Vec<Finding>,
    done: u64,
    total: u64,
    on_progress: &'a mut dyn FnMut(u64, u64),
}

impl Verify<'_> {
    fn advance(&mut self, bytes: u64) {
        self.done += bytes;
        self.total = self.total.max(self.done);
        (self.on_progress)(self.done, self.total);
    }

    /// Makes a finding of an error about damage; one that the damage was reported under already is left out.
    fn damaged(&mut self, error: &Error, lsns: Option<std::ops::Range<u64>>) {
        let file = error.path().unwrap_or(self.dir).to_owned();
        if lsns.is_none() && self.findings.iter().any(|finding| finding.file == file) {
            return;
        }
        let mut finding = Finding::new(file, error.to_string());
        finding.lsns = error.lsn_range().or(lsns);
        finding.seqs = error.seq_range();
        finding.log = error.log_name().map(str::to_owned);
        self.findings.push(finding);
    }

    /// The whole of a small file, past the page cache; None if there is none.
    fn read(&mut self, path: &Path) -> Result<Option<Vec<u8>>> {
        let bytes = match read_direct(&**self.io, path) {
            Err(e) if os_kind(&e) == Some(OsKind::NotFound) => return Ok(None),
            other => other?,
        };
        self.advance(bytes.len() as u64);
        Ok(Some(bytes))
    }

    fn identity(&mut self) -> Result<Option<Identity>> {
        let path = self.dir.join(IDENTITY);
        let no_store = |e: &Error| matches!(os_kind(e), Some(OsKind::NotFound | OsKind::NotADirectory));
        let names = match self.io.list(self.dir) {
            Err(e) if no_store(&e) => Vec::new(),
            other => other?,
        };
        let belongs = |name: &String| names::parse(name).is_some() || version_of(name).is_some();
        if !names.iter().any(|name| name == IDENTITY) {
            if !names.iter().any(belongs) {
                return Err(Error::new(ErrorKind::Refused, "there is no store here")
                    .file(self.dir)
                    .remedy("check that the right disk is mounted"));
            }
            self.findings.push(Finding::new(path, "the identity is missing, though files of a store are here"));
            return Ok(None);
        }
        let bytes = match self.read(&path) {
            Ok(bytes) => bytes.unwrap_or_default(),
            Err(e) => {
                self.damaged(&e, None);
                return Ok(None);
            }
        };
        match Identity::decode(&bytes) {
            Ok((format, identity)) if format == FORMAT_VERSION && identity.features.readable() => Ok(Some(identity)),
            Ok((format, _)) => {
                let what = format!("the store has format {format} or features that this version does not know");
                Err(Error::new(ErrorKind::Refused, what)
                    .file(&path)
                    .remedy("check it with the version of everlog that wrote it, or a later one"))
            }
            Err(Malformed { what, at }) => {
                let offset = Some(at as u64);
                self.findings.push(Finding { offset, ..Finding::new(path, what) });
                Ok(None)
            }
        }
    }

    /// Every version of the manifest that is kept.
    fn manifests(&mut self) -> Result<()> {
        for name in self.io.list(self.dir)? {
            let Some(version) = version_of(&name) else { continue };
            let path = self.dir.join(&name);
            let wrong = match self.read(&path) {
                // A newer version was committed, and this one removed.
                Ok(None) => continue,
                Ok(Some(bytes)) => match Manifest::decode(&bytes) {
                    Ok(manifest) if manifest.version == version => continue,
                    Ok(_) => Malformed { what: "the manifest holds another version than its name says", at: 0 },
                    Err(why) => why,
                },
                Err(e) => {
                    self.damaged(&e, None);
                    continue;
                }
            };
            let what = format!("the manifest is damaged: {}", wrong.what);
            self.findings.push(Finding { offset: Some(wrong.at as u64), ..Finding::new(path, what) });
        }
        Ok(())
    }

    fn journal_bytes(&self) -> Result<u64> {
        let mut bytes = 0;
        for name in self.io.list(self.dir)?.iter().filter(|name| names::parse(name).is_some()) {
            let file = self.io.open(&self.dir.join(name), OpenMode::ReadDirect)?;
            bytes += self.io.len(&file)?;
        }
        Ok(bytes)
    }

    /// One segment of `manifest`; gives it back if it could be opened, for its names.
    fn segment(&mut self, manifest: &Manifest, meta: &SegmentMeta) -> Result<Option<Arc<Segment>>> {
        match Segment::open(Arc::clone(self.io), self.dir, manifest.identity.store, meta).map(Arc::new) {
            Ok(segment) => {
                let (mut done, total) = (self.done, self.total);
                let progress = &mut *self.on_progress;
                let found = segment.verify(&mut |bytes| {
                    done += bytes;
                    progress(done.min(total), total);
                });
                self.done += meta.bytes;
                let name_of = |id| segment.name_of(id).ok().flatten();
                self.findings.extend(found.into_iter().map(|finding| finding.named(name_of)));
                Ok(Some(segment))
            }
            Err(error) if error.kind() == ErrorKind::Refused => Err(error),
            Err(error) => {
                // A running store may have merged it with others since the manifest was read.
                if manifest::load(&**self.io, self.dir)?.segments.contains(meta) {
                    self.damaged(&error, Some(meta.first_lsn.0..meta.last_lsn.0 + 1));
                }
                self.done += meta.bytes;
                Ok(None)
            }
        }
    }

    /// The journal, until what is wrong with it is found twice at the same places: damage stays where it is, and a
    /// running store moves on.
    fn journal(&mut self, mut manifest: Manifest, segments: &[Arc<Segment>]) -> Result<()> {
        let mut name_of = |log: LogId| segments.iter().rev().find_map(|segment| segment.name_of(log).ok().flatten());
        let mut before: Option<Vec<Spot>> = None;
        let mut proven = Proven::default();
        for look in 1.. {
            let checked = check(&**self.io, self.dir, &manifest, &mut name_of)?;
            let newest = manifest::load(&**self.io, self.dir)?;
            let reached = checked.facts.as_ref().is_some_and(|facts| proven.is_reached(facts, newest.version));
            let mut found = checked.headers;
            let refused = !reached && !checked.refusal.is_empty();
            if refused {
                found.extend(checked.refusal);
            }
            let spots: Vec<Spot> = found.iter().map(spot).collect();
            // A chain may end early because a flush let its files go meanwhile.
            let moved = refused && newest.version != manifest.version;
            let stays = before.as_ref() == Some(&spots) && !moved;
            if found.is_empty() || stays {
                self.findings.extend(found);
                break;
            }
            if look == LOOKS_MAX {
                // What else was found is worth more than the news that the journal does not hold still.
                if self.findings.is_empty() {
                    return Err(settle::too_fast(self.dir));
                }
                break;
            }
            checked.facts.iter().for_each(|facts| proven.note(facts));
            before = Some(spots);
            manifest = newest;
            settle::pause(look);
        }
        let read = self.total.saturating_sub(self.done);
        self.advance(read);
        Ok(())
    }
}

fn spot(finding: &Finding) -> Spot {
    let lsn = finding.lsns.as_ref().map(|lsns| lsns.start);
    (finding.file.clone(), finding.offset, lsn, lsn.is_none().then(|| finding.what.clone()))
}

fn version_of(name: &str) -> Option<ManifestVersion> {
    let digits = name.strip_prefix("manifest-")?;
    let version = ManifestVersion(u64::from_str_radix(digits, 16).ok()?);
    (manifest::file_name(version) == name).then_some(version)
}

fn os_kind(error: &Error) -> Option<OsKind> {
    error.os_error().map(std::io::Error::kind)
}

fn read_direct(io: &dyn Io, path: &Path) -> Result<Vec<u8>> {
    let file = io.open(path, OpenMode::ReadDirect)?;
    let len = io.len(&file)?;
    let mut out = Vec::new();
    while (out.len() as u64) < len {
        let left = usize::try_from(len - out.len() as u64).unwrap_or(usize::MAX);
        let part = io.read_at(&file, out.len() as u64, left.min(PIECE_BYTES))?;
        out.extend_from_slice(&part);
        if part.is_empty() || !part.len().is_multiple_of(BLOCK) {
            break;
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests;
