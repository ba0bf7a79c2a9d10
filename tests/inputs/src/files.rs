//! The files that are read as a whole, and the journal's frames: identity, manifest, header of a journal file, frame.
//!
//! Invariant: what is accepted is written again as the very same bytes.

use crate::base::{base, frames};
use crate::{in_modes, mode};
use everlog::format::bytes::put_u32;
use everlog::format::entry::{self, Create, Entry, ForkOf, Kind};
use everlog::format::frame::{FrameHeader, HEADER_LEN, salted_crc};
use everlog::format::identity::{FILE_NAME, Identity};
use everlog::format::journal::JournalHeader;
use everlog::format::manifest::Manifest;
use everlog::types::{BLOCK, JournalId, StoreId};

const SALT: u32 = 0x5eed_0001;
const STORE: StoreId = StoreId(*b"the store's id..");
const JOURNAL: JournalId = JournalId(3);
const POSITION: u64 = 4096;
/// Longer inputs say nothing new.
const FRAME_BYTES_MAX: usize = 8 * BLOCK;

fn block(rest: &[u8]) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let len = rest.len().min(BLOCK);
    block[..len].copy_from_slice(&rest[..len]);
    block
}

/// The identity file.
pub fn identity(data: &[u8]) {
    let (mode, rest) = mode(data);
    if mode & 1 == 0 {
        if let Ok((0, identity)) = Identity::decode(rest) {
            assert_eq!(identity.encode()[..], *rest, "an identity comes back as it was");
        }
        return;
    }
    let mut bytes = block(rest);
    let crc = crc32fast::hash(&bytes[..BLOCK - 4]);
    put_u32(&mut bytes, BLOCK - 4, crc);
    if let Ok((0, identity)) = Identity::decode(&bytes) {
        assert_eq!(identity.encode(), bytes, "an identity comes back as it was");
    }
}

pub fn identity_seeds() -> Vec<Vec<u8>> {
    in_modes(2, [base().files[&base().dir.join(FILE_NAME)].clone()])
}

/// A manifest.
pub fn manifest(data: &[u8]) {
    let (mode, rest) = mode(data);
    let mut bytes = rest.to_vec();
    if mode & 1 == 1 {
        let content = bytes.len().saturating_sub(32);
        bytes.truncate(content);
        let digest = blake3::hash(&bytes);
        bytes.extend_from_slice(digest.as_bytes());
    }
    let peeked = Manifest::peek(&bytes);
    if let Ok(manifest) = Manifest::decode(&bytes) {
        assert!(peeked.is_ok(), "what is accepted can be peeked at");
        assert!(manifest.encode() == bytes, "a manifest comes back as it was");
    }
}

pub fn manifest_seeds() -> Vec<Vec<u8>> {
    let manifests = base().files.iter().filter(|(path, _)| path.to_string_lossy().contains("manifest-"));
    in_modes(2, manifests.map(|(_, bytes)| bytes.clone()))
}

/// The header of a journal file.
pub fn journal_header(data: &[u8]) {
    let (mode, rest) = mode(data);
    let salt_of = |journal: JournalId| SALT ^ journal.0 as u32;
    let mut bytes = block(rest);
    if mode & 1 == 1 {
        bytes[40..56].copy_from_slice(&STORE.0);
        let salt = salt_of(JournalId(everlog::format::bytes::get_u64(&bytes, 56)));
        let crc = salted_crc(salt, &bytes[..BLOCK - 4]);
        put_u32(&mut bytes, BLOCK - 4, crc);
    }
    assert!(JournalHeader::decode(&bytes[..BLOCK - 1], STORE, salt_of).is_err(), "a part is none");
    if let Ok(header) = JournalHeader::decode(&bytes, STORE, salt_of) {
        assert_eq!(header.encode(salt_of(header.journal)), bytes, "a header comes back as it was");
    }
}

pub fn journal_header_seeds() -> Vec<Vec<u8>> {
    let journals = base().files.iter().filter(|(path, _)| path.to_string_lossy().contains("journal-"));
    in_modes(2, journals.map(|(_, bytes)| bytes[..256].to_vec()))
}

/// A frame: header, payload, batches, entries.
pub fn frame(data: &[u8]) {
    let (mode, rest) = mode(data);
    let len = rest.len().clamp(HEADER_LEN, FRAME_BYTES_MAX).next_multiple_of(BLOCK);
    let mut bytes = vec![0; len];
    let given = rest.len().min(len);
    bytes[..given].copy_from_slice(&rest[..given]);
    if mode & 1 == 1 {
        // What a frame is known by is not what is looked for here.
        bytes[16..32].copy_from_slice(&STORE.0);
        bytes[32..40].copy_from_slice(&JOURNAL.0.to_le_bytes());
        bytes[40..48].copy_from_slice(&POSITION.to_le_bytes());
        if mode & 2 == 2 {
            put_u32(&mut bytes, 76, len as u32);
        }
        reseal(&mut bytes, SALT);
    }
    let _ = FrameHeader::claimed_place(&bytes);
    let alike = FrameHeader::resembles(&bytes, STORE, JOURNAL, POSITION);
    let Ok(header) = FrameHeader::decode(&bytes, STORE, JOURNAL, SALT, POSITION) else { return };
    assert!(alike, "a frame resembles a frame");
    let _ = header.as_ref([0; 16]);
    let Some(whole) = bytes.get(..header.frame_len as usize).filter(|frame| header.payload_intact(frame, SALT)) else {
        return;
    };
    let mut again = whole.to_vec();
    header.seal(&mut again, SALT);
    assert!(again == whole, "a frame is sealed as it was");
    payload(&whole[HEADER_LEN..HEADER_LEN + header.payload_len as usize]);
}

/// Makes both of a frame's checksums right.
pub fn reseal(frame: &mut [u8], salt: u32) {
    let crc = salted_crc(salt, &frame[HEADER_LEN..]);
    put_u32(frame, HEADER_LEN - 8, crc);
    let crc = salted_crc(salt, &frame[..HEADER_LEN - 4]);
    put_u32(frame, HEADER_LEN - 4, crc);
}

/// A frame's payload, which is written again as it was if all of it is accepted.
fn payload(payload: &[u8]) {
    let Ok(entries) = entry::split_payload(payload) else { return };
    let mut batches: Vec<(Vec<u8>, u32)> = Vec::new();
    for raw in &entries {
        assert_eq!(payload[raw.body_at..raw.body_at + raw.body.len()], *raw.body, "a body stands where it is said to");
        let Ok(entry) = Entry::decode_trusted(raw.body) else { return };
        match entry.kind {
            Kind::Create => drop(Create::decode(entry.payload)),
            Kind::Fork => drop(ForkOf::decode(entry.payload)),
            Kind::Trim => drop(entry::decode_first_kept(entry.payload)),
            _ => {}
        }
        while batches.len() <= raw.batch as usize {
            batches.push((Vec::new(), 0));
        }
        let (bytes, count) = &mut batches[raw.batch as usize];
        *count += 1;
        if Entry::decode(raw.log, raw.body).is_err() {
            return;
        }
        let before = bytes.len();
        entry.encode(raw.log, bytes);
        let cipher_named_without_one = raw.body[1] & 1 == 1 && entry.cipher == 0;
        assert!(cipher_named_without_one || bytes[before..].ends_with(raw.body), "an entry comes back as it was");
    }
}

pub fn frame_seeds() -> Vec<Vec<u8>> {
    in_modes(4, frames(base()).into_iter().take(12).map(|frame| frame.bytes))
}
