//! Checked blocks: what every section of a segment but its data is made of. docs/FORMAT.md, "Segment".
//!
//! A block carries its own checksum and says what it is, of which segment, and where it stands, so that a lost, stale
//! or misdirected write is told from the right one at each touch. What its body means is not this file's business.

use super::bytes::{get_u16, get_u32, get_u64, put_u16, put_u32, put_u64};
use super::{Decoded, Malformed};
use crate::types::{BLOCK, SegmentId};

const CRC_AT: usize = 0;
const SECTION_AT: usize = CRC_AT + 4;
const ZERO_AT: usize = SECTION_AT + 1;
const USED_AT: usize = ZERO_AT + 1;
const SEGMENT_AT: usize = USED_AT + 2;
const NUMBER_AT: usize = SEGMENT_AT + 8;
const RESERVED_AT: usize = NUMBER_AT + 8;
/// Where the body begins, in bytes from the block's start.
pub const BODY_AT: usize = RESERVED_AT + 8;
/// The body's length in bytes.
pub const BODY_LEN: usize = BLOCK - BODY_AT;

static ZEROS: [u8; BLOCK] = [0; BLOCK];

const _: () = assert!(BODY_AT == 32 && BODY_LEN == 4064);

/// What a block belongs to. The numbers are on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Section {
    /// The segment's first block.
    Header = 1,
    /// Which chunks there are.
    Index = 2,
    /// Which logs are surely not in a stripe, and the first key of each of its index blocks.
    Lookup = 3,
    /// The first key of each stripe, and where it lies.
    Root = 4,
    /// The names of the logs created here.
    Names = 6,
    /// The stream of state records.
    State = 7,
    /// Where the segment comes from.
    Meta = 8,
    /// The segment's last block.
    Footer = 9,
}

impl Section {
    /// The section's name, for messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Header => "header",
            Self::Index => "index",
            Self::Lookup => "lookup",
            Self::Root => "root",
            Self::Names => "names",
            Self::State => "state",
            Self::Meta => "meta",
            Self::Footer => "footer",
        }
    }
}

/// The block with this body. Panics if the body is longer than [`BODY_LEN`].
#[must_use]
pub fn encode(section: Section, segment: SegmentId, number: u64, body: &[u8]) -> [u8; BLOCK] {
    assert!(body.len() <= BODY_LEN, "a body fits its block");
    let mut out = [0; BLOCK];
    out[SECTION_AT] = section as u8;
    put_u16(&mut out, USED_AT, body.len() as u16);
    put_u64(&mut out, SEGMENT_AT, segment.0);
    put_u64(&mut out, NUMBER_AT, number);
    out[BODY_AT..BODY_AT + body.len()].copy_from_slice(body);
    let crc = crc32fast::hash(&out[SECTION_AT..]);
    put_u32(&mut out, CRC_AT, crc);
    out
}

/// The body of the block, if it is the one that should stand at block `number` of segment `segment`.
pub fn decode(block: &[u8], section: Section, segment: SegmentId, number: u64) -> Decoded<&[u8]> {
    let wrong = |what, at| Err(Malformed { what, at });
    if block.len() != BLOCK {
        return wrong("the block is not whole", block.len());
    }
    if get_u32(block, CRC_AT) != crc32fast::hash(&block[SECTION_AT..]) {
        return wrong("the block's checksum is wrong", CRC_AT);
    }
    if block[SECTION_AT] != section as u8 {
        return wrong("a block of another section", SECTION_AT);
    }
    if get_u64(block, SEGMENT_AT) != segment.0 {
        return wrong("a block of another segment", SEGMENT_AT);
    }
    if get_u64(block, NUMBER_AT) != number {
        return wrong("a block of another place", NUMBER_AT);
    }
    let used = usize::from(get_u16(block, USED_AT));
    if used > BODY_LEN {
        return wrong("a body longer than its block", USED_AT);
    }
    let (body, rest) = block[BODY_AT..].split_at(used);
    // Compared as a whole: most of a block may be zeros, and it is checked at each touch.
    let zeros = block[ZERO_AT] == 0 && block[RESERVED_AT..BODY_AT] == ZEROS[RESERVED_AT..BODY_AT];
    if !zeros || *rest != ZEROS[..rest.len()] {
        return wrong("bytes that should be zero are not", RESERVED_AT);
    }
    Ok(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_damaged_byte_and_each_wrong_place_is_noticed() {
        let good = encode(Section::Index, SegmentId(7), 9, b"body");
        assert_eq!(decode(&good, Section::Index, SegmentId(7), 9), Ok(&b"body"[..]));
        assert!(decode(&good, Section::Root, SegmentId(7), 9).is_err());
        assert!(decode(&good, Section::Index, SegmentId(8), 9).is_err());
        assert!(decode(&good, Section::Index, SegmentId(7), 8).is_err());
        assert!(decode(&good[1..], Section::Index, SegmentId(7), 9).is_err());
        for at in 0..BLOCK {
            let mut bad = good;
            bad[at] ^= 0x20;
            assert!(decode(&bad, Section::Index, SegmentId(7), 9).is_err(), "byte {at}");
        }
    }

    #[test]
    fn what_should_be_zero_is_checked_even_under_a_right_checksum() {
        let mut block = encode(Section::Names, SegmentId(1), 1, b"abc");
        block[BODY_AT + 3] = 1;
        let crc = crc32fast::hash(&block[SECTION_AT..]);
        put_u32(&mut block, CRC_AT, crc);
        assert!(decode(&block, Section::Names, SegmentId(1), 1).is_err());
    }
}
