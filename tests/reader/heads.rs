//! The identity and the manifest: which store this is, and which segments make it up.
//!
//! Invariant: what is read here is what the checksums cover, and the manifest belongs to the identity.

use super::bytes::Bytes;
use super::{Fault, Files, Result};

pub const BLOCK: usize = 4096;
const MARKS_MAX: usize = 256;

/// Which store it is.
pub struct Identity {
    pub writable: bool,
    pub store: [u8; 16],
    pub key: [u8; 32],
    pub created: u64,
}

impl Identity {
    /// The salt of a use of a journal file.
    pub fn salt(&self, journal: u64) -> u32 {
        let hash = blake3::keyed_hash(&self.key, &journal.to_le_bytes());
        u32::from_le_bytes(*hash.as_bytes().first_chunk().expect("a hash has 32 bytes"))
    }

    /// The LogId of the log `name`.
    pub fn log_id(&self, name: &[u8]) -> [u8; 16] {
        // The owner is the first two segments of the name, or all of it if there are fewer.
        let slashes = name.iter().enumerate().filter(|(_, byte)| **byte == b'/');
        let owner = slashes.map(|(at, _)| at).nth(1).map_or(name, |second| &name[..second]);
        let half =
            |of: &[u8]| -> [u8; 8] { *blake3::keyed_hash(&self.key, of).as_bytes().first_chunk().expect("32 bytes") };
        let mut id = [0; 16];
        id[..8].copy_from_slice(&half(owner));
        id[8..].copy_from_slice(&half(name));
        id
    }
}

/// Format and feature bits, of bytes whose checksum is right. Gives whether the file may be written, too.
pub fn features(file: &str, bytes: &mut Bytes<'_>) -> Result<bool> {
    let format = bytes.u16()?;
    if format != 0 {
        return Err(Fault::refused(file, format!("it has format {format}")));
    }
    bytes.zeros(6)?;
    let (_compatible, read_only, incompatible) = (bytes.u64()?, bytes.u64()?, bytes.u64()?);
    if incompatible != 0 {
        return Err(Fault::refused(file, format!("it has the incompatible features {incompatible:#x}")));
    }
    Ok(read_only == 0)
}

/// Whether the last four bytes are the CRC of those before them, begun at `salt`.
pub fn crc_at_end(block: &[u8], salt: u32) -> bool {
    let (body, crc) = block.split_at(block.len() - 4);
    crc_from(salt, body) == u32::from_le_bytes(crc.try_into().expect("four bytes"))
}

/// The CRC of `bytes`, begun at `start`.
pub fn crc_from(start: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(start);
    hasher.update(bytes);
    hasher.finalize()
}

pub fn identity(files: &Files) -> Result<Identity> {
    const FILE: &str = "IDENTITY";
    let block = files.get(FILE).ok_or_else(|| Fault::refused(FILE, "there is none"))?;
    if block.len() != BLOCK || !block.starts_with(b"EVLGIDEN") || !crc_at_end(block, 0) {
        return Err(Fault::damaged(FILE, 0, "it is no block with the magic and the right CRC"));
    }
    let mut bytes = Bytes::new(FILE, 8, &block[8..BLOCK - 4]);
    let writable = features(FILE, &mut bytes)?;
    let identity = Identity { writable, store: bytes.array()?, key: bytes.array()?, created: bytes.u64()? };
    bytes.zeros(3996)?;
    bytes.end()?;
    Ok(identity)
}

/// A stretch of history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeline {
    /// Its counter.
    pub counter: u32,
    /// Its random part.
    pub random: u32,
    /// Counter and random part of the one before.
    pub parent: (u32, u32),
    /// The first LSN that belongs to it.
    pub first_lsn: u64,
    /// When it began, in microseconds.
    pub began: u64,
    /// 0: the store's creation; 1: an open.
    pub cause: u8,
}

impl Timeline {
    pub(super) fn read(bytes: &mut Bytes<'_>) -> Result<Self> {
        let (counter, random, parent) = (bytes.u32()?, bytes.u32()?, (bytes.u32()?, bytes.u32()?));
        let (first_lsn, began, cause) = (bytes.u64()?, bytes.u64()?, bytes.u8()?);
        if cause > 1 {
            return Err(bytes.wrong(format!("a timeline of the unknown cause {cause}")));
        }
        Ok(Self { counter, random, parent, first_lsn, began, cause })
    }
}

/// The last frame flushed, or any other that something is said of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameRef {
    pub journal: u64,
    pub offset: u64,
    pub len: u64,
    pub number: u64,
    pub last_lsn: u64,
    pub hash: [u8; 16],
}

/// What the manifest says of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentMeta {
    pub id: u64,
    pub bytes: u64,
    pub first_lsn: u64,
    pub last_lsn: u64,
    /// First time, last time, logs, records, entries, bytes of all entries' bodies: as the footer has them.
    pub sums: [u64; 6],
    /// Index entries of logs that came to an end, in whole or in part: flag 8 or 16.
    pub ends: u64,
    pub digest: [u8; 32],
}

pub struct Manifest {
    pub file: String,
    pub writable: bool,
    pub flushed_time: u64,
    pub flushed: FrameRef,
    /// What was deleted or trimmed at or before this LSN may be left out.
    pub cutoff: u64,
    /// What expired up to this steady time may be left out, too.
    pub cutoff_time: u64,
    /// The steady time of this version.
    pub steady: u64,
    pub timelines: Vec<Timeline>,
    pub segments: Vec<SegmentMeta>,
}

/// The manifest in force. The older ones that are there are checked, too.
pub fn manifest(files: &Files, identity: &Identity) -> Result<Manifest> {
    let version = |file: &str| {
        let digits = file.strip_prefix("manifest-").filter(|digits| digits.len() == 16)?;
        u64::from_str_radix(digits, 16).ok()
    };
    let mut newest = None;
    for (file, bytes) in files {
        if let Some(version) = version(file) {
            // The names have one length and are sorted, so the last is the newest.
            newest = Some(read_manifest(file, bytes, version, identity)?);
        }
    }
    newest.ok_or_else(|| Fault::damaged("manifest", 0, "there is none"))
}

fn read_manifest(file: &str, all: &[u8], version: u64, identity: &Identity) -> Result<Manifest> {
    let body = all.len().checked_sub(32).filter(|_| all.starts_with(b"EVLGMNFT"));
    let body = body.filter(|len| blake3::hash(&all[..*len]).as_bytes()[..] == all[*len..]);
    let body = body.ok_or_else(|| Fault::damaged(file, 0, "the magic or the BLAKE3 is wrong"))?;
    let mut bytes = Bytes::new(file, 8, &all[8..body]);
    let writable = features(file, &mut bytes)?;
    let same = bytes.array::<16>()? == identity.store && bytes.array::<32>()? == identity.key;
    if !same || bytes.u64()? != identity.created {
        return Err(bytes.wrong("it is another store's than the identity"));
    }
    let found = bytes.u64()?;
    bytes.expect("the version", version, found)?;
    let epoch = bytes.u64()?;
    bytes.expect("the epoch", 0, epoch)?;
    let (flushed_time, next_segment, _next_journal) = (bytes.u64()?, bytes.u64()?, bytes.u64()?);
    let flushed = FrameRef {
        journal: bytes.u64()?,
        offset: bytes.u64()?,
        len: u64::from(bytes.u32()?),
        number: bytes.u64()?,
        last_lsn: bytes.u64()?,
        hash: bytes.array()?,
    };
    let (steady, cutoff, cutoff_time) = cutoff(&mut bytes)?;
    let count = bytes.size()?;
    let timelines = (0..count).map(|_| Timeline::read(&mut bytes)).collect::<Result<Vec<_>>>()?;
    if !timelines.is_sorted_by(|a, b| a.counter < b.counter && a.first_lsn <= b.first_lsn) || timelines.is_empty() {
        return Err(bytes.wrong("the timelines are out of order"));
    }
    let count = bytes.size()?;
    let mut segments: Vec<SegmentMeta> = Vec::new();
    for _ in 0..count {
        let (id, len, first_lsn, last_lsn) = (bytes.u64()?, bytes.u64()?, bytes.u64()?, bytes.u64()?);
        let mut sums = [0; 6];
        for sum in &mut sums {
            *sum = bytes.u64()?;
        }
        let meta =
            SegmentMeta { id, bytes: len, first_lsn, last_lsn, sums, ends: bytes.u64()?, digest: bytes.array()? };
        let behind = segments.last().is_none_or(|before| before.last_lsn < first_lsn);
        if !behind || first_lsn > last_lsn || id >= next_segment || last_lsn > flushed.last_lsn {
            return Err(bytes.wrong("a segment overlaps another one, or what is not flushed, or has a new id"));
        }
        segments.push(meta);
    }
    bytes.end()?;
    Ok(Manifest {
        file: file.to_owned(),
        writable,
        flushed_time,
        flushed,
        cutoff,
        cutoff_time,
        steady,
        timelines,
        segments,
    })
}

/// Steady time, cutoff and marks. Gives the steady time, and the cutoff's LSN and time.
fn cutoff(bytes: &mut Bytes<'_>) -> Result<(u64, u64, u64)> {
    let (steady, cutoff, cutoff_time) = (bytes.u64()?, bytes.u64()?, bytes.u64()?);
    let count = bytes.size()?;
    let marks = (0..count).map(|_| Ok((bytes.u64()?, bytes.u64()?))).collect::<Result<Vec<_>>>()?;
    if count > MARKS_MAX || !marks.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1) {
        return Err(bytes.wrong("the marks of the steady time are out of order, or too many"));
    }
    Ok((steady, cutoff, cutoff_time))
}
