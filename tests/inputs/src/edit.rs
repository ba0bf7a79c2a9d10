//! Damage and forgery as an input asks for them, so that a few bytes of input reach any place of a large file.
//!
//! Invariant: damage never writes bytes of the input's choosing, only flips bits, or moves, repeats or takes away what
//! is there, so that a checksum of 32 bits notices it however clever the fuzzer is. Forgery writes what it likes.

use arbitrary::{Arbitrary, Unstructured};

/// More edits than these say nothing new.
const EDITS_MAX: usize = 8;
const SECTOR: usize = 512;
const BLOCK: usize = 4096;

#[derive(Arbitrary, Debug)]
enum Damage {
    Flip { at: u32, mask: u8 },
    Zero { sector: u16, sectors: u8 },
    CopySector { from: u16, to: u16 },
    CopyBlock { from: u8, to: u8 },
    Truncate { at: u32 },
    Lengthen { blocks: u8 },
}

/// An offset into `len` bytes.
fn within(at: u32, len: usize) -> usize {
    if len == 0 { 0 } else { at as usize % len }
}

/// Damages bytes at or after `from`, as a disk does. False if nothing was asked for.
pub fn damage(input: &mut Unstructured<'_>, bytes: &mut Vec<u8>, from: usize, lengths: bool) -> bool {
    let mut any = false;
    for _ in 0..EDITS_MAX {
        if input.is_empty() {
            break;
        }
        let Ok(edit) = Damage::arbitrary(input) else { break };
        let len = bytes.len().saturating_sub(from);
        if len == 0 {
            break;
        }
        any = true;
        match edit {
            Damage::Flip { at, mask } => bytes[from + within(at, len)] ^= mask,
            Damage::Zero { sector, sectors } => {
                let at = from + within(u32::from(sector) * SECTOR as u32, len);
                let end = (at + (1 + usize::from(sectors)) * SECTOR).min(bytes.len());
                bytes[at..end].fill(0);
            }
            Damage::CopySector { from: source, to } => copy(bytes, from, source.into(), to.into(), SECTOR),
            Damage::CopyBlock { from: source, to } => copy(bytes, from, source.into(), to.into(), BLOCK),
            Damage::Truncate { at } if lengths => bytes.truncate(from + within(at, len)),
            Damage::Lengthen { blocks } if lengths => bytes.resize(bytes.len() + usize::from(blocks) * BLOCK, 0),
            Damage::Truncate { .. } | Damage::Lengthen { .. } => {}
        }
    }
    any
}

fn copy(bytes: &mut [u8], from: usize, source: usize, to: usize, unit: usize) {
    let units = (bytes.len() - from) / unit;
    if units > 0 {
        let (source, to) = (from + source % units * unit, from + to % units * unit);
        bytes.copy_within(source..source + unit, to);
    }
}

#[derive(Arbitrary, Debug)]
enum Forgery {
    Byte {
        at: u32,
        value: u8,
    },
    Word {
        at: u32,
        value: u32,
    },
    Long {
        at: u32,
        value: u64,
    },
    /// A number near a bound.
    Odd {
        at: u32,
        wide: bool,
        which: u8,
    },
    Bytes {
        at: u32,
        value: [u8; 16],
    },
    /// Near the beginning of a block, where most of what is small stands.
    InBlock {
        block: u8,
        at: u16,
        value: u64,
    },
}

/// Writes what the input likes where it likes.
pub fn forge(input: &mut Unstructured<'_>, bytes: &mut [u8]) {
    for _ in 0..EDITS_MAX {
        if input.is_empty() || bytes.is_empty() {
            break;
        }
        let Ok(edit) = Forgery::arbitrary(input) else { break };
        let (at, value) = match edit {
            Forgery::Byte { at, value } => (at, vec![value]),
            Forgery::Word { at, value } => (at, value.to_le_bytes().to_vec()),
            Forgery::Long { at, value } => (at, value.to_le_bytes().to_vec()),
            Forgery::Bytes { at, value } => (at, value.to_vec()),
            Forgery::InBlock { block, at, value } => {
                let (blocks, at) = ((bytes.len() / BLOCK).max(1), usize::from(at) % SECTOR);
                let narrow = value < 256;
                let value = value.to_le_bytes();
                ((usize::from(block) % blocks * BLOCK + at) as u32, value[..if narrow { 1 } else { 8 }].to_vec())
            }
            Forgery::Odd { at, wide, which } => {
                let odd = [0, 1, u64::MAX, u64::MAX - 1, 1 << 63, u64::from(u32::MAX), 1 << 48, 1 << 32];
                let value = odd[usize::from(which) % odd.len()].to_le_bytes();
                (at, value[..if wide { 8 } else { 4 }].to_vec())
            }
        };
        let at = within(at, bytes.len());
        let len = value.len().min(bytes.len() - at);
        bytes[at..at + len].copy_from_slice(&value[..len]);
    }
}
