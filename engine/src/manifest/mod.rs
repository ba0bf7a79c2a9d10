//! The manifest's files: finding the newest version, and putting a new one in its place. docs/FORMAT.md, "Manifest".
//!
//! What a manifest says is `format/manifest.rs`; what to do without a readable one is the store's decision. Invariant:
//! the newest version by number is the only one that counts. An older one is never taken instead of it: segments that
//! the newer one no longer names may be gone, and the journal behind those that it does name may be used again.

use crate::error::{Error, ErrorKind, Result};
use crate::format::FORMAT_VERSION;
use crate::format::frame::FrameRef;
use crate::format::identity::Identity;
use crate::format::manifest::{Manifest, Mark};
use crate::io::Io;
use crate::types::{Epoch, JournalId, ManifestVersion, SegmentId, TimeUs};
use std::io::ErrorKind as OsKind;
use std::path::{Path, PathBuf};

/// The longest manifest that is read, in bytes: about half a million segments.
const MANIFEST_BYTES_MAX: usize = 64 << 20;
/// How often the directory is listed again because the version found in it was gone when it was opened, which happens
/// when another process commits versions at that very moment.
const LISTINGS_MAX: usize = 16;

const PREFIX: &str = "manifest-";

/// The manifest of a store without segments and timelines.
#[must_use]
pub fn empty(identity: &Identity) -> Manifest {
    Manifest {
        identity: *identity,
        version: ManifestVersion(1),
        epoch: Epoch(0),
        time: TimeUs(0),
        next_segment: SegmentId(1),
        next_journal: JournalId(1),
        flushed: FrameRef::default(),
        steady: identity.created,
        cutoff: Mark::default(),
        marks: Vec::new(),
        timelines: Vec::new(),
        segments: Vec::new(),
    }
}

/// The file's name.
#[must_use]
pub fn file_name(version: ManifestVersion) -> String {
    format!("{PREFIX}{:016x}", version.0)
}

/// The version that a file of this name holds; None if it is not a manifest's name.
#[must_use]
pub fn version_of(name: &str) -> Option<ManifestVersion> {
    let digits = name.strip_prefix(PREFIX)?;
    let version = ManifestVersion(u64::from_str_radix(digits, 16).ok()?);
    (file_name(version) == name).then_some(version)
}

/// Reads the newest version in `dir`.
///
/// # Errors
/// [`ErrorKind::Damaged`] if there is none ("no manifest") or the newest cannot be proved intact; never a fall back to
/// an older one. [`ErrorKind::Refused`] if its format or a feature is not known. [`ErrorKind::Io`].
pub fn load(io: &dyn Io, dir: &Path) -> Result<Manifest> {
    let mut listings = 1;
    loop {
        let newest = io.list(dir)?.iter().filter_map(|name| version_of(name)).max();
        let Some(version) = newest else {
            return Err(Error::new(ErrorKind::Damaged, "no manifest")
                .file(dir)
                .remedy("restore the store; segments and journal are left as they are"));
        };
        match read(io, dir, version) {
            Err(e) if e.os_error().is_some_and(|e| e.kind() == OsKind::NotFound) && listings < LISTINGS_MAX => {
                listings += 1;
            }
            other => return other,
        }
    }
}

fn read(io: &dyn Io, dir: &Path, version: ManifestVersion) -> Result<Manifest> {
    let path = dir.join(file_name(version));
    let damaged = |what: &str| {
        Error::new(ErrorKind::Damaged, format!("the manifest is damaged: {what}"))
            .file(&path)
            .remedy("restore the store; an older version must not be put in its place")
    };
    let bytes = io.read_all(&path, MANIFEST_BYTES_MAX).map_err(|e| match e.os_error() {
        Some(os) if matches!(os.kind(), OsKind::NotFound | OsKind::PermissionDenied | OsKind::OutOfMemory) => e,
        Some(os) => damaged(&os.to_string()),
        None => e,
    })?;
    let malformed = |m: crate::format::Malformed| damaged(m.what).offset(m.at as u64);
    let (format, features) = Manifest::peek(&bytes).map_err(malformed)?;
    if format != FORMAT_VERSION || !features.readable() {
        let message = format!("the manifest has format {format} or features that this version does not know");
        return Err(Error::new(ErrorKind::Refused, message)
            .file(&path)
            .remedy("open the store with the version of everlog that wrote it, or a later one"));
    }
    let manifest = Manifest::decode(&bytes).map_err(malformed)?;
    if manifest.version != version {
        return Err(damaged("it holds another version than its name says"));
    }
    Ok(manifest)
}

/// A version that lies beside its place: synced, and in force for nobody.
#[must_use = "it is in force only once it is committed"]
pub struct Prepared {
    temporary: PathBuf,
    path: PathBuf,
    version: ManifestVersion,
}

/// Writes `manifest` under a temporary name in `dir`.
///
/// # Errors
/// [`ErrorKind::Io`]; the version before it is in force, whatever happens.
pub fn prepare(io: &dyn Io, dir: &Path, manifest: &Manifest) -> Result<Prepared> {
    let path = dir.join(file_name(manifest.version));
    let temporary = io.write_aside(&path, &manifest.encode())?;
    Ok(Prepared { temporary, path, version: manifest.version })
}

/// Makes `manifest` the newest version in `dir`: [`prepare`] and [`Prepared::commit`].
///
/// # Errors
/// [`ErrorKind::Io`]; whether the version is in place is then unknown.
pub fn commit(io: &dyn Io, dir: &Path, manifest: &Manifest) -> Result<()> {
    prepare(io, dir, manifest)?.commit(io)
}

impl Prepared {
    /// Puts it in its place as the newest version, durable when this returns, then removes those older than the one
    /// before it. A removal that fails is tried again with the next version.
    ///
    /// # Errors
    /// [`ErrorKind::Io`]; whether the version is in place is then unknown.
    pub fn commit(self, io: &dyn Io) -> Result<()> {
        let Self { temporary, path, version } = self;
        io.put_in_place(temporary, &path)?;
        remove_outdated(io, path.parent().expect("a manifest lies in a directory"), version);
        Ok(())
    }
}

fn remove_outdated(io: &dyn Io, dir: &Path, version: ManifestVersion) {
    let Ok(names) = io.list(dir) else { return };
    let kept_from = version.0.saturating_sub(1);
    let outdated = names.iter().filter(|name| version_of(name).is_some_and(|v| v.0 < kept_from));
    for name in outdated {
        if let Err(e) = io.remove(&dir.join(name)) {
            tracing::debug!(error = %e, "an outdated manifest cannot be removed; the next commit tries again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::manifest::tests::sample;
    use crate::segment::testing::Disk;

    fn committed(versions: std::ops::RangeInclusive<u64>) -> (Disk, Manifest) {
        let disk = Disk::default();
        let mut manifest = sample();
        for version in versions {
            manifest.version = ManifestVersion(version);
            commit(&disk, Path::new("store"), &manifest).expect("a disk without faults");
        }
        (disk, manifest)
    }

    #[test]
    fn the_newest_version_counts_and_two_are_kept() {
        let (disk, newest) = committed(9..=17);
        let dir = Path::new("store");
        assert_eq!(load(&disk, dir).expect("intact"), newest);
        let names = (&disk as &dyn Io).list(dir).expect("a directory");
        assert_eq!(names, ["manifest-0000000000000010", "manifest-0000000000000011"]);
    }

    #[test]
    fn each_damaged_byte_is_damage_and_never_an_older_version() {
        let (disk, newest) = committed(1..=2);
        let path = Path::new("store").join(file_name(newest.version));
        for at in 0..newest.encode().len() {
            disk.flip(&path, at as u64, 1);
            let error = load(&disk, Path::new("store")).expect_err("one byte is wrong");
            assert_eq!((error.kind(), error.path()), (ErrorKind::Damaged, Some(&*path)), "byte {at}: {error}");
            disk.flip(&path, at as u64, 1);
        }
        disk.truncate(&path, 0);
        assert_eq!(load(&disk, Path::new("store")).expect_err("an empty file").kind(), ErrorKind::Damaged);
    }

    #[test]
    fn none_and_a_misplaced_one_are_damage_and_a_newer_format_is_refused() {
        let dir = Path::new("store");
        let disk = Disk::default();
        disk.put("store/manifest-1.tmp".as_ref(), b"x");
        disk.put("store/manifest-000000000000000G".as_ref(), b"x");
        let error = load(&disk, dir).expect_err("no manifest");
        assert_eq!((error.kind(), error.message()), (ErrorKind::Damaged, "no manifest"));

        let bytes = sample().encode();
        disk.put(&dir.join(file_name(ManifestVersion(5))), &bytes);
        assert_eq!(load(&disk, dir).expect_err("version 4 as 5").kind(), ErrorKind::Damaged);

        for (at, what) in [(8, "format"), (32, "incompatible feature")] {
            let mut newer = bytes[..bytes.len() - 32].to_vec();
            newer[at] = 1;
            let digest = *blake3::hash(&newer).as_bytes();
            newer.extend_from_slice(&digest);
            disk.put(&dir.join(file_name(ManifestVersion(6))), &newer);
            assert_eq!(load(&disk, dir).expect_err(what).kind(), ErrorKind::Refused, "{what}");
        }
    }
}
