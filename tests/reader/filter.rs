//! The filter of a stripe, in ten parts. docs/FORMAT.md, "Lookup".

use super::Result;
use super::bytes::Bytes;
use super::heads::crc_from;

pub(super) const PARTS: usize = 10;

/// The parts' seeds and fingerprints.
pub(super) struct Filter(Vec<(u64, Vec<u16>)>);

impl Filter {
    /// Reads all parts, which end at `ends` and the last one where `bytes` do; they stand in this block of this segment.
    pub(super) fn read(mut bytes: Bytes<'_>, ends: [u16; PARTS], segment: u64, block: usize) -> Result<Self> {
        let (mut parts, mut begin) = (Vec::new(), 0);
        for (n, end) in ends.into_iter().enumerate() {
            let len =
                end.checked_sub(begin).ok_or_else(|| bytes.wrong("a part of a filter that ends before it begins"))?;
            let part = bytes.take(usize::from(len))?;
            begin = end;
            let [_, _, _, _, covered @ ..] = part else {
                return Err(bytes.wrong("a part of a filter without a checksum"));
            };
            let place = murmur_finaliser(segment ^ murmur_finaliser((block * PARTS + n) as u64)) as u32;
            if part[..4] != crc_from(place, covered).to_le_bytes() {
                return Err(bytes.wrong("a part of a filter whose checksum is wrong"));
            }
            let Some((seed, packed)) = covered.split_first_chunk() else {
                return Err(bytes.wrong("a part of a filter without a seed"));
            };
            let fingerprints = unpacked(packed);
            if !fingerprints.len().is_multiple_of(3) || (fingerprints.is_empty() && *seed != [0; 8]) {
                return Err(bytes.wrong("a part of a filter that contradicts itself"));
            }
            parts.push((u64::from_le_bytes(*seed), fingerprints));
        }
        bytes.end()?;
        Ok(Self(parts))
    }

    pub(super) fn may_hold(&self, key: u64) -> bool {
        let (seed, fingerprints) = &self.0[(key % PARTS as u64) as usize];
        let hash = murmur_finaliser(key.wrapping_add(*seed));
        let wanted = (hash ^ (hash >> 32)) & 0xfff;
        let third = fingerprints.len() / 3;
        let place =
            |i: usize| i * third + (((hash.rotate_left(21 * i as u32) & 0xffff_ffff) * third as u64) >> 32) as usize;
        !fingerprints.is_empty() && (0..3).fold(0, |xor, i| xor ^ u64::from(fingerprints[place(i)])) == wanted
    }
}

/// Numbers of 12 bits, as many as there are bytes for.
fn unpacked(bytes: &[u8]) -> Vec<u16> {
    let bit = |i: usize| u16::from((bytes[i / 8] >> (i % 8)) & 1);
    (0..bytes.len() * 8 / 12).map(|n| (0..12).map(|i| bit(n * 12 + i) << i).sum()).collect()
}

/// The end of MurmurHash3 for 64 bits (Appleby).
fn murmur_finaliser(mut h: u64) -> u64 {
    h ^= h >> 33;
    h = h.wrapping_mul(0xff51_afd7_ed55_8ccd);
    h ^= h >> 33;
    h = h.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^ (h >> 33)
}
