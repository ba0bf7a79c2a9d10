//! The checked blocks of a segment and what stands in them: index entries, keys, names, header, footer, stripes, origin, state.
//!
//! Invariant: what is accepted is written again as the very same bytes; a state record and an origin, which have more
//! than one form, come back as the same values.

use crate::base::{base, segment_file};
use crate::{in_modes, mode};
use everlog::format::block::{self, BODY_LEN, Section};
use everlog::format::bytes::{Reader, put_u32};
use everlog::format::segment::{
    Footer, Header, INDEX_ENTRY_LEN, IndexEntry, KEY_LEN, Key, NameEntry, Origin, STRIPE_LEN, Stripe,
};
use everlog::format::state::StateRecord;
use everlog::types::{BLOCK, SegmentId};

const ID: SegmentId = SegmentId(5);
const NUMBER: u64 = 9;
const SECTIONS: [Section; 8] = [
    Section::Header,
    Section::Index,
    Section::Lookup,
    Section::Root,
    Section::Names,
    Section::State,
    Section::Meta,
    Section::Footer,
];

/// A checked block: as it is, with its checksum made right, or made of a body.
pub fn block(data: &[u8]) {
    let (mode, rest) = mode(data);
    let section = SECTIONS[usize::from(mode / 3) % SECTIONS.len()];
    let mut bytes = [0; BLOCK];
    match mode % 3 {
        2 => {
            let body = &rest[..rest.len().min(BODY_LEN)];
            bytes = block::encode(section, ID, NUMBER, body);
            assert_eq!(block::decode(&bytes, section, ID, NUMBER), Ok(body), "a body comes back");
        }
        fix => {
            let len = rest.len().min(BLOCK);
            bytes[..len].copy_from_slice(&rest[..len]);
            if fix == 1 {
                let crc = crc32fast::hash(&bytes[4..]);
                put_u32(&mut bytes, 0, crc);
            }
        }
    }
    if let Ok(body) = block::decode(&bytes, section, ID, NUMBER) {
        assert_eq!(block::encode(section, ID, NUMBER, body), bytes, "a block comes back as it was");
        within(section, body);
    }
}

fn within(section: Section, body: &[u8]) {
    match section {
        Section::Header => {
            if let Ok(header) = Header::decode(body) {
                assert_eq!(header.encode()[..], *body, "a header comes back as it was");
            }
        }
        Section::Footer => {
            let header = Footer::decode_header(body);
            for number in [NUMBER, 1, u64::MAX] {
                if let Ok(footer) = Footer::decode(body, number) {
                    assert_eq!(header, Ok(footer.header));
                    assert_eq!(footer.encode()[..], *body, "a footer comes back as it was");
                    assert_eq!(footer.places.meta.end(), number, "the sections fill the file");
                    let _ = footer.places.section_of(number);
                }
            }
        }
        Section::Index => {
            for bytes in body.chunks_exact(INDEX_ENTRY_LEN) {
                if let Ok(entry) = IndexEntry::decode(bytes) {
                    assert_eq!(entry.encode()[..], *bytes, "an index entry comes back as it was");
                    assert!(entry.next_seq() >= entry.first_seq && entry.key() == Key::get(bytes));
                }
            }
        }
        Section::Lookup => {
            let keys: Vec<Key> = body.chunks_exact(KEY_LEN).map(Key::get).collect();
            let again = keys.iter().flat_map(Key::encode);
            assert!(again.eq(body[..keys.len() * KEY_LEN].iter().copied()), "keys come back as they were");
        }
        Section::Root => {
            for (bytes, begin) in body.chunks_exact(STRIPE_LEN).zip(1..) {
                if let Ok(stripe) = Stripe::decode(bytes, begin) {
                    assert_eq!(stripe.encode()[..], *bytes, "a stripe comes back as it was");
                    assert!(begin <= stripe.index().first && stripe.state().end() == stripe.lookup);
                }
            }
        }
        Section::Names => {
            let mut reader = Reader::new(body);
            let mut again = Vec::new();
            while reader.left() > 0 {
                let Ok(name) = NameEntry::decode(&mut reader) else { return };
                let before = again.len();
                name.encode(&mut again);
                assert_eq!(name.encoded_len(), again.len() - before);
            }
            assert_eq!(again, body, "names come back as they were");
        }
        Section::Meta => {
            if let Ok(origin) = Origin::decode(body) {
                assert_eq!(Origin::decode(&origin.encode()), Ok(origin), "an origin comes back");
            }
        }
        Section::State => record(body),
    }
}

/// A state record.
pub fn state(data: &[u8]) {
    record(data);
}

fn record(bytes: &[u8]) {
    if let Ok(record) = StateRecord::decode(bytes) {
        let mut again = Vec::new();
        record.encode(&mut again);
        assert_eq!(StateRecord::decode(&again), Ok(record), "a state record comes back");
        // Producers are sorted and never named twice, and everything else has one form.
        assert_eq!(again.len(), bytes.len(), "a state record has one length");
    }
}

/// The bodies of a real segment's blocks, with their sections.
fn bodies() -> Vec<(Section, Vec<u8>)> {
    let (meta, bytes) = segment_file(base());
    let last = bytes.len() / BLOCK - 1;
    let body = |number: usize, section| {
        let block = &bytes[number * BLOCK..(number + 1) * BLOCK];
        block::decode(block, section, meta.id, number as u64).map(|body| (section, body.to_vec()))
    };
    (0..=last).flat_map(|number| SECTIONS.into_iter().filter_map(move |section| body(number, section).ok())).collect()
}

pub fn block_seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (section, body) in bodies() {
        let mode = (section as u8 - 1) * 3;
        seeds.push([&[mode + 2], &body[..]].concat());
        seeds.push([&[mode + 1], &block::encode(section, ID, NUMBER, &body)[..]].concat());
    }
    seeds
}

pub fn state_seeds() -> Vec<Vec<u8>> {
    let mut seeds = in_modes(0, []);
    for (_, body) in bodies().into_iter().filter(|(section, _)| *section == Section::State) {
        let mut reader = Reader::new(&body);
        while let Ok(record) = reader.bytes(BODY_LEN) {
            seeds.push(record.to_vec());
            if reader.left() == 0 {
                break;
            }
        }
    }
    seeds
}
