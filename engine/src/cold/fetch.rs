//! Reading objects back: whole small ones, and long ones past a digest. Shares no code with what puts them.

use super::{ColdStore, PART_BYTES, damaged, failed, keys};
use crate::error::{Error, ErrorKind, Result};
use crate::format::Malformed;
use crate::format::cold::{Claim, Tail, Taken, Unsealed, Version, Whose};
use crate::limits;
use crate::types::Epoch;

/// The longest object that is read whole, in bytes: a tail, which ends with the frame that fills it, or a version of the
/// manifest.
pub const WHOLE_BYTES_MAX: u64 = limits::frame_bytes_max(limits::JOURNAL_FILE_BYTES_MAX) as u64 + (64 << 20);

/// A whole object as `decode` understands it. It is read twice before it is called damaged, since what spoils an answer on its
/// way must not make a sound object count for nothing.
///
/// # Errors
/// [`ErrorKind::Cold`]; [`ErrorKind::Refused`] if it is of another store, or of a later version of everlog.
pub fn object<T>(cold: &dyn ColdStore, key: &str, decode: impl Fn(&[u8]) -> Taken<T>) -> Fetched<T> {
    let Some(bytes) = whole(cold, key, WHOLE_BYTES_MAX)? else { return Ok(None) };
    let malformed = match decode(&bytes) {
        Ok(object) => return Ok(Some(Ok(object))),
        Err(Unsealed::Before) => return Ok(Some(Err(Unsealed::Before))),
        Err(Unsealed::Malformed(malformed)) => malformed,
        Err(why) => return Err(refused(cold, key, &why)),
    };
    if whole(cold, key, WHOLE_BYTES_MAX)? != Some(bytes) {
        return Err(failed(cold.url(), format!("{key} came twice, and not as the same")));
    }
    tracing::warn!(cold = cold.url(), key, why = %malformed, "an object is damaged in its cold store");
    Ok(Some(Err(malformed.into())))
}

/// What became of an object that is to be there under a name: None if there is none; why it counts for nothing, if it is
/// damaged or was there before this cold store was.
pub type Fetched<T> = Result<Option<Taken<T>>>;

/// The claim of an epoch.
///
/// # Errors
/// As [`object`].
pub fn claim(cold: &dyn ColdStore, whose: Whose, epoch: Epoch) -> Fetched<Claim> {
    object(cold, &keys::claim(epoch), |bytes| {
        let claim = Claim::decode(bytes, whose)?;
        named(claim.epoch == epoch, claim)
    })
}

/// A version of the manifest.
///
/// # Errors
/// As [`object`].
pub fn version(cold: &dyn ColdStore, whose: Whose, epoch: Epoch, number: u64) -> Fetched<Version> {
    object(cold, &keys::version(epoch, number), |bytes| {
        let version = Version::decode(bytes, whose)?;
        named((version.epoch, version.number) == (epoch, number), version)
    })
}

/// A tail object.
///
/// # Errors
/// As [`object`].
pub fn tail(cold: &dyn ColdStore, whose: Whose, epoch: Epoch, number: u64) -> Fetched<Tail> {
    object(cold, &keys::tail(epoch, number), |bytes| {
        let tail = Tail::decode(bytes, whose)?;
        named((tail.epoch, tail.number) == (epoch, number), tail)
    })
}

/// An object that says that it is another one was put in the wrong place, or copied there.
fn named<T>(is_so: bool, object: T) -> Taken<T> {
    let misplaced = Malformed { what: "an object of another name", at: 0 };
    if is_so { Ok(object) } else { Err(misplaced.into()) }
}

/// The error of an object that this store must not use.
#[must_use]
pub fn refused(cold: &dyn ColdStore, key: &str, why: &Unsealed) -> Error {
    match why {
        Unsealed::Malformed(_) | Unsealed::Before => damaged(cold.url(), key, why),
        Unsealed::Newer | Unsealed::Foreign(_) => {
            Error::new(ErrorKind::Refused, format!("the object {key} of the cold store {}: {why}", cold.url()))
                .remedy("use the version of everlog that wrote it, and a place of its own for each store")
        }
    }
}

/// A whole object of at most `max` bytes; None if there is none.
///
/// # Errors
/// [`ErrorKind::Cold`]; [`ErrorKind::Damaged`] if it is longer.
pub fn whole(cold: &dyn ColdStore, key: &str, max: u64) -> Result<Option<Vec<u8>>> {
    let mut out: Vec<u8> = Vec::new();
    let mut expected = None;
    loop {
        let at = out.len() as u64;
        let Some(part) = cold.get(key, at..at + PART_BYTES as u64)? else {
            return if at == 0 { Ok(None) } else { Err(failed(cold.url(), format!("{key} went while it was read"))) };
        };
        let len = *expected.get_or_insert(part.len);
        if len > max {
            return Err(damaged(cold.url(), key, format!("it has {len} bytes, and at most {max} were expected")));
        }
        if part.len != len || part.bytes.len() as u64 != (len - at).min(PART_BYTES as u64) {
            return Err(failed(cold.url(), format!("{key} came truncated, or with two lengths")));
        }
        out.extend_from_slice(&part.bytes);
        if out.len() as u64 == len {
            return Ok(Some(out));
        }
    }
}

/// Reads an object of `len` bytes with that BLAKE3 digest, part by part, and gives each part to `take`. False if there is
/// no such object. What `take` got is proved only once this returns true.
///
/// # Errors
/// [`ErrorKind::Damaged`] if it is another object; [`ErrorKind::Cold`]; what `take` says.
pub fn proved(
    cold: &dyn ColdStore, key: &str, len: u64, digest: &[u8; 32], take: &mut dyn FnMut(Vec<u8>) -> Result<()>,
) -> Result<bool> {
    let (mut hasher, mut at) = (blake3::Hasher::new(), 0);
    while at < len || len == 0 {
        let Some(part) = cold.get(key, at..len.min(at + PART_BYTES as u64).max(1))? else {
            return if at == 0 { Ok(false) } else { Err(failed(cold.url(), format!("{key} went while it was read"))) };
        };
        if part.len != len {
            return Err(damaged(cold.url(), key, format!("it has {} bytes instead of {len}", part.len)));
        }
        if part.bytes.len() as u64 != (len - at).min(PART_BYTES as u64) {
            return Err(failed(cold.url(), format!("{key} came truncated")));
        }
        at += part.bytes.len() as u64;
        hasher.update(&part.bytes);
        take(part.bytes)?;
        if len == 0 {
            break;
        }
    }
    if hasher.finalize() != *digest {
        return Err(damaged(cold.url(), key, "it has another digest than its name says"));
    }
    Ok(true)
}
