//! The envelope of small whole files and objects: what they are, of which store, and a digest over all of it.
//!
//! docs/FORMAT.md, "The cold store". What stands inside is `format/cold.rs`. Invariant: the digest at the end covers
//! every byte before it, so that a sealed object is believed whole or not at all.

use super::bytes::{Reader, Sink};
use super::{Decoded, FORMAT_VERSION, Features, Malformed};
use crate::types::StoreId;

const DIGEST_LEN: usize = 32;
/// What stands in front of the body, in bytes.
const HEAD_LEN: usize = 8 + 2 + 6 + 24 + 16;

/// The bytes of an object of `store` that is called `magic` and holds `body`.
#[must_use]
pub fn seal(magic: &[u8; 8], store: StoreId, body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(HEAD_LEN + body.len() + DIGEST_LEN);
    out.put(magic);
    out.put(&FORMAT_VERSION.to_le_bytes());
    out.put(&[0; 6]);
    let features = Features::KNOWN;
    for bits in [features.compatible, features.read_only_compatible, features.incompatible] {
        out.put(&bits.to_le_bytes());
    }
    out.put(&store.0);
    out.put(body);
    let digest = blake3::hash(&out);
    out.put(digest.as_bytes());
    out
}

/// What is sealed in `bytes`.
pub struct Sealed<'a> {
    /// The format that it was written in.
    pub format: u16,
    /// Its feature bits.
    pub features: Features,
    /// Whose it is; to be believed if the format is known.
    pub store: StoreId,
    /// A reader of the body; to be used if the format is known.
    pub body: Reader<'a>,
}

impl Sealed<'_> {
    /// Whether this version may read what is inside.
    #[must_use]
    pub fn readable(&self) -> bool {
        self.format == FORMAT_VERSION && self.features.readable()
    }
}

/// Opens the envelope: magic and digest are checked. A format that this version does not know is no error here.
pub fn unseal<'a>(magic: &[u8; 8], bytes: &'a [u8]) -> Decoded<Sealed<'a>> {
    let Some(at) = bytes.len().checked_sub(DIGEST_LEN).filter(|at| *at >= HEAD_LEN) else {
        return Err(Malformed { what: "too short to be a sealed object", at: bytes.len() });
    };
    let (content, digest) = bytes.split_at(at);
    if !content.starts_with(magic) {
        return Err(Malformed { what: "another magic than that of such an object", at: 0 });
    }
    if blake3::hash(content).as_bytes() != digest {
        return Err(Malformed { what: "the object's digest is wrong", at });
    }
    let mut reader = Reader::new(content);
    reader.take(8)?;
    let format = reader.u16()?;
    if reader.array::<6>()? != [0; 6] {
        return Err(Malformed { what: "bytes that should be zero are not", at: 10 });
    }
    let features =
        Features { compatible: reader.u64()?, read_only_compatible: reader.u64()?, incompatible: reader.u64()? };
    let store = StoreId(reader.array()?);
    Ok(Sealed { format, features, store, body: reader })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sealed_comes_back_and_each_damaged_byte_is_noticed() {
        let store = StoreId([7; 16]);
        let mut bytes = seal(b"EVLGTEST", store, b"what it holds");
        let sealed = unseal(b"EVLGTEST", &bytes).expect("just sealed");
        assert!(sealed.readable());
        assert_eq!((sealed.store, sealed.features), (store, Features::KNOWN));
        let mut body = sealed.body;
        assert_eq!(body.take(body.left()), Ok(&b"what it holds"[..]));
        assert!(unseal(b"EVLGELSE", &bytes).is_err());
        for at in 0..bytes.len() {
            bytes[at] ^= 0x20;
            assert!(unseal(b"EVLGTEST", &bytes).is_err(), "byte {at}");
            bytes[at] ^= 0x20;
            assert!(unseal(b"EVLGTEST", &bytes[..at]).is_err(), "cut to {at}");
        }
    }
}
