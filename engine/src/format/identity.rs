//! The identity file: which store this directory is, and the key its log ids and journal salts are made with.
//!
//! Written once, when the store is created, under a temporary name. docs/FORMAT.md, "Identity".

use super::bytes::{get_array, get_u16, get_u32, get_u64, put_u16, put_u32, put_u64};
use super::{Decoded, FORMAT_VERSION, Features, Malformed};
use crate::types::{BLOCK, JournalId, StoreId, TimeUs};

/// The file's name.
pub const FILE_NAME: &str = "IDENTITY";

const MAGIC_AT: usize = 0;
const FORMAT_AT: usize = MAGIC_AT + 8;
const FORMAT_ZEROS_AT: usize = FORMAT_AT + 2;
const FEATURES_AT: usize = FORMAT_ZEROS_AT + 6;
const STORE_AT: usize = FEATURES_AT + 24;
const KEY_AT: usize = STORE_AT + 16;
const CREATED_AT: usize = KEY_AT + 32;
const ZEROS_AT: usize = CREATED_AT + 8;
const CRC_AT: usize = BLOCK - 4;

const MAGIC: &[u8; 8] = b"EVLGIDEN";

/// What the identity file says.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Identity {
    /// Feature bits of the store.
    pub features: Features,
    /// The store's id.
    pub store: StoreId,
    /// The store's key, for log ids and salts. Not a secret against somebody who reads the directory.
    pub key: [u8; 32],
    /// When the store was created.
    pub created: TimeUs,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("store", &self.store).field("created", &self.created).finish_non_exhaustive()
    }
}

impl Identity {
    /// Whether both are of one store, whatever features its files have.
    #[must_use]
    pub fn is_of(&self, other: &Self) -> bool {
        (self.store, self.key, self.created) == (other.store, other.key, other.created)
    }

    /// The salt of one use of a journal file: the first 32 bits of the keyed BLAKE3 of its id.
    #[must_use]
    pub fn salt(&self, id: JournalId) -> u32 {
        get_u32(blake3::keyed_hash(&self.key, &id.0.to_le_bytes()).as_bytes(), 0)
    }

    /// The file's one block.
    #[must_use]
    pub fn encode(&self) -> [u8; BLOCK] {
        let mut out = [0; BLOCK];
        out[MAGIC_AT..MAGIC_AT + 8].copy_from_slice(MAGIC);
        put_u16(&mut out, FORMAT_AT, FORMAT_VERSION);
        self.features.put(&mut out, FEATURES_AT);
        out[STORE_AT..STORE_AT + 16].copy_from_slice(&self.store.0);
        out[KEY_AT..KEY_AT + 32].copy_from_slice(&self.key);
        put_u64(&mut out, CREATED_AT, self.created.0);
        let crc = crc32fast::hash(&out[..CRC_AT]);
        put_u32(&mut out, CRC_AT, crc);
        out
    }

    /// Reads the file's one block. A format or feature that this version
    /// does not know is not an error here: the caller gets the format and decides.
    pub fn decode(buf: &[u8]) -> Decoded<(u16, Self)> {
        if buf.len() != BLOCK {
            return Err(Malformed { what: "the identity is not one block long", at: buf.len() });
        }
        if &buf[MAGIC_AT..MAGIC_AT + 8] != MAGIC {
            return Err(Malformed { what: "no identity's magic", at: MAGIC_AT });
        }
        if get_u32(buf, CRC_AT) != crc32fast::hash(&buf[..CRC_AT]) {
            return Err(Malformed { what: "the identity's checksum is wrong", at: CRC_AT });
        }
        let format = get_u16(buf, FORMAT_AT);
        let zeros = [&buf[FORMAT_ZEROS_AT..FEATURES_AT], &buf[ZEROS_AT..CRC_AT]];
        if format == FORMAT_VERSION && zeros.into_iter().flatten().any(|b| *b != 0) {
            return Err(Malformed { what: "bytes that should be zero are not", at: ZEROS_AT });
        }
        let identity = Self {
            features: Features::get(buf, FEATURES_AT),
            store: StoreId(get_array(buf, STORE_AT)),
            key: get_array(buf, KEY_AT),
            created: TimeUs(get_u64(buf, CREATED_AT)),
        };
        Ok((format, identity))
    }
}

impl Features {
    pub(super) fn put(self, buf: &mut [u8], at: usize) {
        put_u64(buf, at, self.compatible);
        put_u64(buf, at + 8, self.read_only_compatible);
        put_u64(buf, at + 16, self.incompatible);
    }

    pub(super) fn get(buf: &[u8], at: usize) -> Self {
        Self {
            compatible: get_u64(buf, at),
            read_only_compatible: get_u64(buf, at + 8),
            incompatible: get_u64(buf, at + 16),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_damaged_byte_is_noticed() {
        let identity =
            Identity { features: Features::KNOWN, store: StoreId([3; 16]), key: [9; 32], created: TimeUs(12) };
        let good = identity.encode();
        assert_eq!(Identity::decode(&good), Ok((FORMAT_VERSION, identity)));
        for at in 0..good.len() {
            let mut bad = good;
            bad[at] ^= 0x10;
            assert!(Identity::decode(&bad).is_err(), "byte {at}");
        }
    }

    #[test]
    fn what_should_be_zero_is_checked_even_under_a_right_checksum() {
        let identity =
            Identity { features: Features::KNOWN, store: StoreId([3; 16]), key: [9; 32], created: TimeUs(12) };
        for at in (FORMAT_ZEROS_AT..FEATURES_AT).chain([ZEROS_AT, CRC_AT - 1]) {
            let mut bad = identity.encode();
            bad[at] = 1;
            let crc = crc32fast::hash(&bad[..CRC_AT]);
            put_u32(&mut bad, CRC_AT, crc);
            assert!(Identity::decode(&bad).is_err(), "byte {at}");
        }
    }

    #[test]
    fn salts_differ_by_use_and_by_store() {
        let identity = |key| Identity { features: Features::KNOWN, store: StoreId([3; 16]), key, created: TimeUs(0) };
        let a = identity([1; 32]);
        assert_ne!(a.salt(JournalId(1)), a.salt(JournalId(2)));
        assert_ne!(a.salt(JournalId(1)), identity([2; 32]).salt(JournalId(1)));
    }
}
