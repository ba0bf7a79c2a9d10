//! Places in the files of a store, and their checksums made right again after a change: for headers that say what no
//! version has said yet, and for damage where it is wanted.
//!
//! The places are those of docs/FORMAT.md; nothing here uses the engine's code or the second reader's. Invariant: after
//! a change that was sealed no checksum is wrong.

use crate::reader::Files;
use std::ops::Range;

const BLOCK: usize = 4096;
/// Where the body of a checked block begins.
const BODY: usize = 32;

/// A header with format and feature bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// The identity's.
    Identity,
    /// That of the manifest in force.
    Manifest,
    /// Header and footer of the newest segment.
    Segment,
    /// That of the journal file in use.
    Journal,
}

/// A field of a header, by its offset behind the magic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field {
    /// The format.
    Format = 0,
    /// The bits that may be ignored.
    Compatible = 8,
    /// The bits that forbid writing.
    ReadOnly = 16,
    /// The bits that forbid reading.
    Incompatible = 24,
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

/// The name of the manifest in force.
#[must_use]
pub fn manifest(files: &Files) -> String {
    files.keys().filter(|name| name.starts_with("manifest-")).max().expect("a manifest").clone()
}

/// The names of the segments, oldest first.
#[must_use]
pub fn segments(files: &Files) -> Vec<String> {
    files.keys().filter(|name| name.ends_with(".seg")).cloned().collect()
}

/// A frame that stands in the journal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Frame {
    /// Its number.
    pub number: u64,
    /// The file.
    pub file: String,
    /// Its place there.
    pub at: usize,
    /// Its length.
    pub len: usize,
    /// Its first LSN.
    pub first_lsn: u64,
}

/// Every frame that stands in the journal, by number.
#[must_use]
pub fn frames(files: &Files) -> Vec<Frame> {
    let mut frames = Vec::new();
    for (name, bytes) in files.iter().filter(|(name, _)| name.starts_with("journal-") && !name.ends_with(".torn")) {
        for at in (BLOCK..bytes.len()).step_by(BLOCK).filter(|at| bytes[*at..].starts_with(b"EVLGFRAM")) {
            let frame = &bytes[at..];
            let len = u32::from_le_bytes(frame[76..80].try_into().expect("four bytes")) as usize;
            let (number, first_lsn) = (u64_at(frame, 48), u64_at(frame, 56));
            frames.push(Frame { number, file: name.clone(), at, len, first_lsn });
        }
    }
    frames.sort_unstable();
    frames
}

/// A part of a segment between its header and its footer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// The chunks of a stripe.
    Data,
    /// The zeros behind them.
    Zeros,
    /// A stripe's index.
    Index,
    /// A stripe's state records.
    State,
    /// A stripe's lookup block.
    Lookup,
    /// The root.
    Root,
    /// The names.
    Names,
    /// The meta stream.
    Meta,
}

/// The parts of a segment, in the order of the file.
#[must_use]
pub fn parts(segment: &[u8]) -> Vec<(Part, Range<usize>)> {
    let place = |n: usize| {
        let at = segment.len() - BLOCK + BODY + 136 + 16 * n;
        let (first, blocks) = (u64_at(segment, at) as usize, u64_at(segment, at + 8) as usize);
        first * BLOCK..(first + blocks) * BLOCK
    };
    let used = |block: usize| usize::from(u16::from_le_bytes([segment[block + 6], segment[block + 7]]));
    let mut out = Vec::new();
    let mut begin = BLOCK;
    for block in place(1).step_by(BLOCK) {
        for entry in segment[block + BODY..block + BODY + used(block)].chunks_exact(40) {
            let lookup = u64_at(entry, 24) as usize * BLOCK;
            let index_blocks = usize::from(u16::from_le_bytes([entry[32], entry[33]]));
            let state_bytes = u32::from_le_bytes(entry[36..40].try_into().expect("four bytes")) as usize;
            let state = lookup - state_bytes.div_ceil(BLOCK - BODY) * BLOCK;
            let index = state - index_blocks * BLOCK;
            let last = state - BLOCK;
            let last = &segment[last + BODY + used(last) - 60..][..60];
            let offset = (u64_at(last, 28) >> 16) as usize;
            let data_end = offset + u32::from_le_bytes(last[36..40].try_into().expect("four bytes")) as usize;
            out.extend([
                (Part::Data, begin..data_end),
                (Part::Zeros, data_end..index),
                (Part::Index, index..state),
                (Part::State, state..lookup),
                (Part::Lookup, lookup..lookup + BLOCK),
            ]);
            begin = lookup + BLOCK;
        }
    }
    out.extend([(Part::Root, place(1)), (Part::Names, place(2)), (Part::Meta, place(3))]);
    out
}

/// The bytes of the first part of a segment that is of this kind.
#[must_use]
pub fn part(segment: &[u8], wanted: Part) -> Range<usize> {
    parts(segment).into_iter().find(|(part, _)| *part == wanted).expect("a segment with logs has each part").1
}

/// Sets one bit, or the format, of a header, and makes every checksum over it right again.
pub fn set(files: &mut Files, header: Header, field: Field) {
    let value: u64 = if field == Field::Format { 1 } else { 1 << 40 };
    let width = if field == Field::Format { 2 } else { 8 };
    let write = |bytes: &mut [u8], magic_at: usize| {
        let at = magic_at + 8 + field as usize;
        bytes[at..at + width].copy_from_slice(&value.to_le_bytes()[..width]);
    };
    match header {
        Header::Identity => {
            let bytes = files.get_mut("IDENTITY").expect("an identity");
            write(bytes, 0);
            seal_end(bytes, 0);
        }
        Header::Manifest => {
            let name = manifest(files);
            write(files.get_mut(&name).expect("it is there"), 0);
            seal_manifest(files);
        }
        Header::Segment => {
            let name = segments(files).pop().expect("a segment");
            let bytes = files.get_mut(&name).expect("it is there");
            let before = *blake3::hash(bytes).as_bytes();
            let footer = bytes.len() - BLOCK;
            write(bytes, BODY);
            write(bytes, footer + BODY);
            seal_block(bytes, 0);
            let digest = *blake3::hash(&bytes[..footer]).as_bytes();
            bytes[footer + BODY + 216..footer + BODY + 248].copy_from_slice(&digest);
            seal_block(bytes, footer);
            let after = *blake3::hash(bytes).as_bytes();
            let name = manifest(files);
            let bytes = files.get_mut(&name).expect("it is there");
            let at = bytes.windows(32).position(|w| w == before).expect("the manifest has the digest of each segment");
            bytes[at..at + 32].copy_from_slice(&after);
            seal_manifest(files);
        }
        Header::Journal => {
            let name = frames(files).pop().expect("a frame").file;
            let key: [u8; 32] = files["IDENTITY"][56..88].try_into().expect("32 bytes");
            let bytes = files.get_mut(&name).expect("it is there");
            write(bytes, 0);
            let salt = blake3::keyed_hash(&key, &bytes[56..64]);
            let salt = u32::from_le_bytes(*salt.as_bytes().first_chunk().expect("32 bytes"));
            seal_end(&mut bytes[..BLOCK], salt);
        }
    }
}

fn crc(start: u32, bytes: &[u8]) -> [u8; 4] {
    let mut hasher = crc32fast::Hasher::new_with_initial(start);
    hasher.update(bytes);
    hasher.finalize().to_le_bytes()
}

/// The last four bytes are the CRC of those before.
fn seal_end(bytes: &mut [u8], start: u32) {
    let at = bytes.len() - 4;
    let crc = crc(start, &bytes[..at]);
    bytes[at..].copy_from_slice(&crc);
}

/// The first four bytes of the checked block at `at` are the CRC of the rest.
fn seal_block(bytes: &mut [u8], at: usize) {
    let crc = crc(0, &bytes[at + 4..at + BLOCK]);
    bytes[at..at + 4].copy_from_slice(&crc);
}

fn seal_manifest(files: &mut Files) {
    let name = manifest(files);
    let bytes = files.get_mut(&name).expect("it is there");
    let at = bytes.len() - 32;
    let digest = *blake3::hash(&bytes[..at]).as_bytes();
    bytes[at..].copy_from_slice(&digest);
}
