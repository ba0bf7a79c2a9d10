//! The segments of a cold store as they describe themselves: by their names, their footers and where they come from.
//!
//! Nothing here says that a segment counts, nor that it is whole: its footer and its meta stream bear checksums of their own, the
//! rest is proved by whoever reads all of it. Which ones there are is known from a listing alone, which may be old.

use super::{ColdStore, PART_BYTES, damaged, failed, fetch, keys};
use crate::error::{Error, ErrorKind, Result};
use crate::format::block::{self, Section};
use crate::format::manifest::SegmentMeta;
use crate::format::segment::{Footer, Origin};
use crate::types::{BLOCK, SegmentId, StoreId};
use std::collections::BTreeMap;

/// The longest meta stream that is read, in bytes of the file.
const META_BYTES_MAX: u64 = 64 << 20;

/// A segment that lies in a cold store.
#[derive(Clone, Debug)]
pub struct Described {
    /// What a manifest would say of it.
    pub meta: SegmentMeta,
    /// Where it comes from.
    pub origin: Origin,
}

/// What a listing names.
#[derive(Debug, Default)]
pub struct Listed {
    /// The segments that tell of themselves, by id.
    pub segments: Vec<Described>,
    /// Why others do not.
    pub unread: Vec<(SegmentId, Error)>,
}

/// All segments that lie in `cold`, as far as its listing tells, and are of `store`.
///
/// # Errors
/// [`ErrorKind::Cold`]; [`ErrorKind::Refused`] if a later version of everlog wrote one.
pub fn list(cold: &dyn ColdStore, store: StoreId) -> Result<Listed> {
    let mut named: BTreeMap<(SegmentId, [u8; 32]), Vec<String>> = BTreeMap::new();
    let mut after = String::new();
    loop {
        let page = cold.list(keys::SEGMENTS, &after)?;
        let Some(last) = page.last() else { break };
        after.clone_from(last);
        for key in page {
            if let Some(name) = keys::segment_of(&key) {
                named.entry(name).or_default().push(key);
            }
        }
    }
    let mut listed = Listed::default();
    for ((id, digest), keys) in named {
        let (mut found, mut unread) = (None, None);
        for key in &keys {
            match describe(cold, store, key, id, digest) {
                Ok(None) => continue,
                Ok(described) => {
                    found = described;
                    break;
                }
                Err(error) if error.kind() == ErrorKind::Damaged => drop(unread.get_or_insert(error)),
                Err(error) => return Err(error),
            }
        }
        match (found, unread) {
            (Some(described), _) => listed.segments.push(described),
            (None, Some(error)) => listed.unread.push((id, error)),
            (None, None) => {}
        }
    }
    Ok(listed)
}

/// What the segment under `key` says of itself; None if there is none. It is read twice before it is called damaged.
fn describe(
    cold: &dyn ColdStore, store: StoreId, key: &str, id: SegmentId, digest: [u8; 32],
) -> Result<Option<Described>> {
    let read = || read(cold, store, key, id, digest);
    read().or_else(|error| if error.kind() == ErrorKind::Damaged { read() } else { Err(error) })
}

fn read(cold: &dyn ColdStore, store: StoreId, key: &str, id: SegmentId, digest: [u8; 32]) -> Result<Option<Described>> {
    let wrong = |what| damaged(cold.url(), key, what);
    let Some(head) = cold.get(key, 0..1)? else { return Ok(None) };
    let bytes = head.len;
    if bytes < 3 * BLOCK as u64 || !bytes.is_multiple_of(BLOCK as u64) {
        return Err(wrong("it has a length that no segment has"));
    }
    let number = bytes / BLOCK as u64 - 1;
    let last = part(cold, key, number, 1)?;
    let body = block::decode(&last, Section::Footer, id, number).map_err(|m| wrong(m.what))?;
    let header = Footer::decode_header(body).map_err(|m| wrong(m.what))?;
    if !header.readable() {
        let what = format!("{key} has format {} or features that this version does not know", header.format);
        return Err(Error::new(ErrorKind::Refused, what).remedy("use the version of everlog that wrote it"));
    }
    let footer = Footer::decode(body, number).map_err(|m| wrong(m.what))?;
    if header.store != store {
        return Err(wrong("it is of another store"));
    }
    if header.first_lsn > header.last_lsn || footer.meta_bytes > META_BYTES_MAX {
        return Err(wrong("numbers that contradict each other"));
    }
    let (meta, mut stream) = (footer.places.meta, Vec::new());
    let mut at = meta.first;
    while at < meta.end() {
        let blocks = part(cold, key, at, (meta.end() - at).min(PART_BYTES as u64 / BLOCK as u64))?;
        for block in blocks.chunks(BLOCK) {
            stream.extend_from_slice(block::decode(block, Section::Meta, id, at).map_err(|m| wrong(m.what))?);
            at += 1;
        }
    }
    let origin = Origin::decode(&stream).map_err(|m| wrong(m.what))?;
    let meta = SegmentMeta {
        id,
        bytes,
        first_lsn: header.first_lsn,
        last_lsn: header.last_lsn,
        first_time: footer.first_time,
        last_time: footer.last_time,
        logs: footer.logs,
        records: footer.records,
        entries: footer.entries,
        payload_bytes: footer.payload_bytes,
        ends: footer.ends,
        digest,
    };
    Ok(Some(Described { meta, origin }))
}

/// Blocks of an object that is there.
fn part(cold: &dyn ColdStore, key: &str, number: u64, blocks: u64) -> Result<Vec<u8>> {
    let range = number * BLOCK as u64..(number + blocks) * BLOCK as u64;
    let part = cold.get(key, range)?.ok_or_else(|| failed(cold.url(), format!("{key} went while it was read")))?;
    if part.bytes.len() as u64 != blocks * BLOCK as u64 {
        return Err(failed(cold.url(), format!("{key} came truncated")));
    }
    Ok(part.bytes)
}

/// Reads all of a segment, from a key under which it lies whole; `progress` is told of bytes as they are read.
///
/// # Errors
/// [`ErrorKind::Damaged`] with its LSNs if there is none; [`ErrorKind::Cold`].
pub fn prove(cold: &dyn ColdStore, meta: &SegmentMeta, progress: &mut dyn FnMut(u64)) -> Result<()> {
    let mut damage = None;
    for attempt in 0..keys::SEGMENT_ATTEMPTS {
        let key = keys::segment(meta, attempt);
        let mut take = |part: Vec<u8>| {
            progress(part.len() as u64);
            Ok(())
        };
        // Twice: what spoils an answer on its way is no damage there.
        let mut proved = || fetch::proved(cold, &key, meta.bytes, &meta.digest, &mut take);
        match proved().or_else(|e| if e.kind() == ErrorKind::Damaged { proved() } else { Err(e) }) {
            Ok(true) => return Ok(()),
            Ok(false) if attempt == 0 => drop(damage.get_or_insert(damaged(cold.url(), &key, "it is missing"))),
            Ok(false) => break,
            Err(e) if e.kind() == ErrorKind::Damaged => drop(damage.get_or_insert(e)),
            Err(e) => return Err(e),
        }
    }
    let damage = damage.unwrap_or_else(|| damaged(cold.url(), &keys::segment(meta, 0), "it is missing"));
    Err(damage.lsns(meta.first_lsn.0..meta.last_lsn.0 + 1))
}
