//! The filter of a stripe, in 16 parts. docs/FORMAT.md, "Lookup".

use super::Result;
use super::bytes::Bytes;
use super::heads::crc_from;

const PARTS: usize = 16;

/// The parts' fingerprints.
pub(super) struct Filter(Vec<Vec<u32>>);

impl Filter {
    /// Reads the filter that a lookup block begins with: this block of this segment.
    pub(super) fn read(bytes: &mut Bytes<'_>, segment: u64, block: usize) -> Result<Self> {
        let ends: Vec<_> = (0..PARTS).map(|_| bytes.u16()).collect::<Result<_>>()?;
        let (mut parts, mut begin) = (Vec::new(), 2 * PARTS as u16);
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
            let Some(fingerprints) = fingerprints(covered) else {
                return Err(bytes.wrong("a part of a filter that has no whole number of fingerprints"));
            };
            if !fingerprints.is_sorted_by(|a, b| a < b) {
                return Err(bytes.wrong("a part of a filter that is not sorted"));
            }
            parts.push(fingerprints);
        }
        Ok(Self(parts))
    }

    pub(super) fn may_hold(&self, key: u64) -> bool {
        let (part, fingerprint) = ((key >> 60) as usize, (key >> 39 & 0x1f_ffff) as u32);
        self.0[part].contains(&fingerprint)
    }
}

/// The fingerprints of a part: the bits in unary, then two bytes each.
fn fingerprints(bytes: &[u8]) -> Option<Vec<u32>> {
    let count = (0..bytes.len()).find(|n| (n + 32).div_ceil(8) + 2 * n == bytes.len())?;
    let (unary, lowers) = bytes.split_at(bytes.len() - 2 * count);
    let (mut upper, mut uppers) = (0, Vec::new());
    for bit in unary.iter().flat_map(|byte| (0..8).map(move |n| byte >> n & 1)).take(count + 32) {
        if bit == 1 {
            uppers.push(upper)
        } else {
            upper += 1
        }
        if bit == 1 && upper > 31 {
            return None;
        }
    }
    let ones: u32 = unary.iter().map(|byte| byte.count_ones()).sum();
    if upper != 32 || ones as usize != count {
        return None;
    }
    let lowers = lowers.as_chunks().0.iter().map(|two| u32::from(u16::from_le_bytes(*two)));
    Some(uppers.into_iter().zip(lowers).map(|(upper, lower)| upper << 16 | lower).collect())
}

/// The end of MurmurHash3 for 64 bits (Appleby).
fn murmur_finaliser(mut h: u64) -> u64 {
    h ^= h >> 33;
    h = h.wrapping_mul(0xff51_afd7_ed55_8ccd);
    h ^= h >> 33;
    h = h.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^ (h >> 33)
}
