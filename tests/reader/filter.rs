//! The filter of a stripe, in 64 parts. docs/FORMAT.md, "Lookup".

use super::Result;
use super::bytes::Bytes;
use super::heads::crc_from;

const PARTS: usize = 64;

/// The parts' fingerprints.
pub(super) struct Filter(Vec<Vec<u16>>);

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
            let (fingerprints, rest) = covered.as_chunks();
            if !rest.is_empty() {
                return Err(bytes.wrong("a part of a filter that ends within a fingerprint"));
            }
            let fingerprints: Vec<_> = fingerprints.iter().map(|two| u16::from_le_bytes(*two)).collect();
            if !fingerprints.is_sorted_by(|a, b| a < b) {
                return Err(bytes.wrong("a part of a filter that is not sorted"));
            }
            parts.push(fingerprints);
        }
        Ok(Self(parts))
    }

    pub(super) fn may_hold(&self, key: u64) -> bool {
        let (part, fingerprint) = ((key >> 58) as usize, (key >> 42 & 0xffff) as u16);
        self.0[part].contains(&fingerprint)
    }
}

/// The end of MurmurHash3 for 64 bits (Appleby).
fn murmur_finaliser(mut h: u64) -> u64 {
    h ^= h >> 33;
    h = h.wrapping_mul(0xff51_afd7_ed55_8ccd);
    h ^= h >> 33;
    h = h.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    h ^ (h >> 33)
}
