//! What lies in a cold store beside segments: the store's home, claims, tails and versions; and what a directory keeps
//! of its claims. docs/FORMAT.md, "The cold store".
//!
//! What the objects are called is `cold/keys.rs`; who writes them when is `ship/`. Each is sealed as a whole
//! ([`super::sealed`]) and says which store, epoch and number it is, so that one under a wrong name is noticed.

use super::bytes::{Reader, Sink};
use super::frame::{FrameHeader, FrameRef, HEADER_LEN, header_hash};
use super::identity::Identity;
use super::manifest::Manifest;
use super::sealed::{Sealed, seal, unseal};
use super::{Decoded, FORMAT_VERSION, Features, Malformed};
use crate::types::{ColdId, Epoch, Lsn, StoreId, TimeUs};

const HOME: &[u8; 8] = b"EVLGHOME";
const CLAIM: &[u8; 8] = b"EVLGCLAM";
const TAIL: &[u8; 8] = b"EVLGTAIL";
const VERSION: &[u8; 8] = b"EVLGCVER";
const EPOCHS: &[u8; 8] = b"EVLGEPOC";

/// The file that says that a restore is under way: the [`Home`] of the cold store that it comes from.
pub const RESTORE_FILE_NAME: &str = "RESTORE";
/// The longest URL of a cold store, in bytes.
pub const URL_BYTES_MAX: usize = 4096;
const END_LEN: usize = 8 + 8 + 52;
/// The shortest tenancy in EPOCH, in bytes.
const TENANCY_LEN_MIN: usize = 1 + 16 + CLAIM_LEN + 4;
const CLAIM_LEN: usize = 8 + 16;

/// An object that cannot be taken for what it is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unsealed {
    /// It is damaged, or no such object.
    Malformed(Malformed),
    /// It is of another cold store, which was in this place before.
    Before,
    /// It was written in a format that this version does not know, or with features of one.
    Newer,
    /// It is of another store.
    Foreign(StoreId),
}

impl From<Malformed> for Unsealed {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

impl std::fmt::Display for Unsealed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Malformed(malformed) => malformed.fmt(f),
            Self::Before => f.write_str("it is of another cold store, which was in this place before"),
            Self::Newer => f.write_str("a format or features that this version does not know"),
            Self::Foreign(store) => write!(f, "it belongs to the store {store}"),
        }
    }
}

/// The result of opening such an object.
pub type Taken<T> = Result<T, Unsealed>;

/// Whose cold store this is: the first object in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Home {
    /// The store, with the key of its names and salts.
    pub identity: Identity,
    /// This cold store, drawn at random when it was begun, so that one that was emptied and begun anew is another.
    pub cold: ColdId,
}

/// Whose an object is: of a store, in one cold store. What is left in a place that was emptied and begun anew, or comes there
/// late, is of another one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Whose {
    /// The store.
    pub store: StoreId,
    /// The cold store.
    pub cold: ColdId,
}

/// The right to write to a cold store, taken by being the first to put this object under its epoch's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The epoch.
    pub epoch: Epoch,
    /// Drawn at random and synced locally before, so that a repeated attempt knows its own.
    pub claim: [u8; 16],
    /// When it was drawn, by the wall clock.
    pub time: TimeUs,
}

/// Where the tail of an older epoch ended, as its successor found it. What lies past it does not count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TailEnd {
    /// The older epoch.
    pub epoch: Epoch,
    /// The number of its tail objects that count.
    pub objects: u64,
    /// The last frame in them that counts; the zero frame if none does.
    pub last: FrameRef,
}

/// Some frames of the journal that follow one another, as they were shipped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tail {
    /// The epoch of its writer.
    pub epoch: Epoch,
    /// Its number in that epoch, from 0, dense.
    pub number: u64,
    /// Where the older epochs' tails ended.
    pub ends: Vec<TailEnd>,
    /// The frames: header and payload of each, without the zeros behind.
    pub frames: Vec<Vec<u8>>,
}

/// A version of the manifest all of whose segments were read back in this cold store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    /// The epoch of its writer.
    pub epoch: Epoch,
    /// Its number in that epoch, from 0, dense.
    pub number: u64,
    /// The epoch and the number of the first tail object that may hold frames past [`Manifest::flushed`].
    pub tail_from: (Epoch, u64),
    /// Where the older epochs' tails ended.
    pub ends: Vec<TailEnd>,
    /// The manifest.
    pub manifest: Manifest,
}

/// What a directory knows of its right to write to cold stores: the file EPOCH.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Epochs {
    /// The directory was restored and never opened since.
    pub restored: Option<Restored>,
    /// Another owner took the store over: in which epoch of the first cold store, and the last LSN that was known to be cold
    /// then.
    pub fenced: Option<(Epoch, Lsn)>,
    /// One for each cold store it ever wrote to.
    pub tenancies: Vec<Tenancy>,
}

/// How a directory was restored. The numbers are on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Restored {
    /// Devices are to put back what is missing.
    Heal = 1,
    /// Devices are to set aside what is newer, and so are cold stores.
    Rewind = 2,
}

/// A directory's claims on one cold store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenancy {
    /// Where it was last reached.
    pub url: String,
    /// Which one it is.
    pub cold: ColdId,
    /// The last epoch that is known to be this directory's, and its claim; epoch 0 before the first.
    pub held: (Epoch, [u8; 16]),
    /// Claims that may have been put since, or may come to be there late.
    pub pending: Vec<(Epoch, [u8; 16])>,
}

/// Opens the envelope of one of `store`'s objects; any store's if None.
fn opened<'a>(magic: &[u8; 8], bytes: &'a [u8], store: Option<StoreId>) -> Taken<Sealed<'a>> {
    let sealed = unseal(magic, bytes)?;
    if !sealed.readable() {
        return Err(Unsealed::Newer);
    }
    match store {
        Some(store) if store != sealed.store => Err(Unsealed::Foreign(sealed.store)),
        _ => Ok(sealed),
    }
}

/// Opens the envelope of an object of `whose`, up to what says so.
fn opened_in<'a>(magic: &[u8; 8], bytes: &'a [u8], whose: Whose) -> Taken<Reader<'a>> {
    let Sealed { mut body, .. } = opened(magic, bytes, Some(whose.store))?;
    if body.array()? != whose.cold.0 {
        return Err(Unsealed::Before);
    }
    Ok(body)
}

fn put(out: &mut impl Sink, value: u64) {
    out.put(&value.to_le_bytes());
}

fn put_count(out: &mut impl Sink, len: usize) {
    out.put(&u32::try_from(len).expect("a list in memory has fewer than 2^32 items").to_le_bytes());
}

/// A count of items of at least `item_len` bytes each, bounded by the bytes left.
fn count(body: &mut Reader<'_>, item_len: usize) -> Decoded<usize> {
    let count = body.u32()? as usize;
    if count > body.left() / item_len {
        return Err(body.malformed("a list longer than the object"));
    }
    Ok(count)
}

fn put_claim(out: &mut impl Sink, (epoch, claim): (Epoch, [u8; 16])) {
    put(out, epoch.0);
    out.put(&claim);
}

fn claim(body: &mut Reader<'_>) -> Decoded<(Epoch, [u8; 16])> {
    Ok((Epoch(body.u64()?), body.array()?))
}

fn put_ends(out: &mut impl Sink, ends: &[TailEnd]) {
    put_count(out, ends.len());
    for end in ends {
        put(out, end.epoch.0);
        put(out, end.objects);
        end.last.encode(out);
    }
}

fn ends(body: &mut Reader<'_>) -> Decoded<Vec<TailEnd>> {
    let ends: Vec<TailEnd> = (0..count(body, END_LEN)?)
        .map(|_| Ok(TailEnd { epoch: Epoch(body.u64()?), objects: body.u64()?, last: FrameRef::decode(body)? }))
        .collect::<Decoded<_>>()?;
    if ends.windows(2).any(|w| w[0].epoch >= w[1].epoch) {
        return Err(body.malformed("ends of tails out of order"));
    }
    Ok(ends)
}

impl Home {
    /// Whose the objects in it are.
    #[must_use]
    pub fn whose(&self) -> Whose {
        Whose { store: self.identity.store, cold: self.cold }
    }

    /// The object.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut body = Vec::new();
        body.put(&self.cold.0);
        body.put(&self.identity.key);
        put(&mut body, self.identity.created.0);
        seal(HOME, self.identity.store, &body)
    }

    /// Reads the object, whichever store's it is.
    pub fn decode(bytes: &[u8]) -> Taken<Self> {
        let Sealed { store, mut body, .. } = opened(HOME, bytes, None)?;
        let cold = ColdId(body.array()?);
        let identity = Identity { features: Features::KNOWN, store, key: body.array()?, created: TimeUs(body.u64()?) };
        body.end()?;
        Ok(Self { identity, cold })
    }
}

impl Claim {
    /// The object.
    #[must_use]
    pub fn encode(&self, whose: Whose) -> Vec<u8> {
        let mut body = Vec::new();
        body.put(&whose.cold.0);
        put(&mut body, self.epoch.0);
        body.put(&self.claim);
        put(&mut body, self.time.0);
        seal(CLAIM, whose.store, &body)
    }

    /// Reads the object.
    pub fn decode(bytes: &[u8], whose: Whose) -> Taken<Self> {
        let mut body = opened_in(CLAIM, bytes, whose)?;
        let claim = Self { epoch: Epoch(body.u64()?), claim: body.array()?, time: TimeUs(body.u64()?) };
        body.end()?;
        Ok(claim)
    }
}

impl Tail {
    /// The object.
    #[must_use]
    pub fn encode(&self, whose: Whose) -> Vec<u8> {
        let mut body = Vec::with_capacity(64 + self.frames.iter().map(|frame| frame.len() + 4).sum::<usize>());
        body.put(&whose.cold.0);
        put(&mut body, self.epoch.0);
        put(&mut body, self.number);
        put_ends(&mut body, &self.ends);
        put_count(&mut body, self.frames.len());
        for frame in &self.frames {
            put_count(&mut body, frame.len());
            body.put(frame);
        }
        seal(TAIL, whose.store, &body)
    }

    /// Reads the object. What its frames hold is not looked at; see [`Self::headers`].
    pub fn decode(bytes: &[u8], whose: Whose) -> Taken<Self> {
        let mut body = opened_in(TAIL, bytes, whose)?;
        let (epoch, number, ends) = (Epoch(body.u64()?), body.u64()?, ends(&mut body)?);
        let frames = (0..count(&mut body, 4 + HEADER_LEN)?)
            .map(|_| {
                let len = body.u32()? as usize;
                Ok(body.take(len)?.to_vec())
            })
            .collect::<Decoded<_>>()?;
        body.end()?;
        Ok(Self { epoch, number, ends, frames })
    }

    /// The headers of its frames, each right by its own checksum, with their names for a successor, one after the other in
    /// one chain.
    pub fn headers(&self, identity: &Identity) -> Decoded<Vec<(FrameHeader, FrameRef)>> {
        let mut headers: Vec<(FrameHeader, FrameRef)> = Vec::with_capacity(self.frames.len());
        for frame in &self.frames {
            let wrong = |what| Malformed { what, at: 0 };
            let (journal, position) =
                FrameHeader::claimed_place(frame).ok_or(wrong("a frame of a tail without a frame's magic"))?;
            let header = FrameHeader::decode(frame, identity.store, journal, identity.salt(journal), position)?;
            if frame.len() != HEADER_LEN + header.payload_len as usize {
                return Err(wrong("a frame of a tail that is longer or shorter than its header says"));
            }
            let this = header.as_ref(header_hash(frame));
            if let Some((_, before)) = headers.last()
                && !header.continues(before)
            {
                return Err(wrong("frames of a tail that do not follow one another"));
            }
            headers.push((header, this));
        }
        Ok(headers)
    }
}

impl Version {
    /// The object.
    #[must_use]
    pub fn encode(&self, cold: ColdId) -> Vec<u8> {
        let manifest = self.manifest.encode();
        let mut body = Vec::with_capacity(64 + manifest.len());
        body.put(&cold.0);
        put(&mut body, self.epoch.0);
        put(&mut body, self.number);
        put(&mut body, self.tail_from.0.0);
        put(&mut body, self.tail_from.1);
        put_ends(&mut body, &self.ends);
        put(&mut body, manifest.len() as u64);
        body.put(&manifest);
        seal(VERSION, self.manifest.identity.store, &body)
    }

    /// Reads the object.
    pub fn decode(bytes: &[u8], whose: Whose) -> Taken<Self> {
        let mut body = opened_in(VERSION, bytes, whose)?;
        let (epoch, number) = (Epoch(body.u64()?), body.u64()?);
        let tail_from = (Epoch(body.u64()?), body.u64()?);
        let ends = ends(&mut body)?;
        let len = body.u64()?;
        let manifest = body.take(usize::try_from(len).unwrap_or(usize::MAX))?;
        body.end()?;
        let (format, features) = Manifest::peek(manifest)?;
        if format != FORMAT_VERSION || !features.readable() {
            return Err(Unsealed::Newer);
        }
        let manifest = Manifest::decode(manifest)?;
        if manifest.identity.store != whose.store {
            return Err(Unsealed::Foreign(manifest.identity.store));
        }
        Ok(Self { epoch, number, tail_from, ends, manifest })
    }
}

impl Epochs {
    /// The file's name.
    pub const FILE_NAME: &'static str = "EPOCH";

    /// The file.
    #[must_use]
    pub fn encode(&self, store: StoreId) -> Vec<u8> {
        let mut body = vec![self.restored.map_or(0, |restored| restored as u8)];
        let (epoch, cold) = self.fenced.unwrap_or_default();
        put(&mut body, epoch.0);
        put(&mut body, cold.0);
        put_count(&mut body, self.tenancies.len());
        for tenancy in &self.tenancies {
            body.put_bytes(tenancy.url.as_bytes());
            body.put(&tenancy.cold.0);
            put_claim(&mut body, tenancy.held);
            put_count(&mut body, tenancy.pending.len());
            tenancy.pending.iter().for_each(|claim| put_claim(&mut body, *claim));
        }
        seal(EPOCHS, store, &body)
    }

    /// Reads the file.
    pub fn decode(bytes: &[u8], store: StoreId) -> Taken<Self> {
        let Sealed { mut body, .. } = opened(EPOCHS, bytes, Some(store))?;
        let restored = match body.u8()? {
            0 => None,
            1 => Some(Restored::Heal),
            2 => Some(Restored::Rewind),
            _ => return Err(body.malformed("an unknown kind of restore").into()),
        };
        let fenced = Some((Epoch(body.u64()?), Lsn(body.u64()?))).filter(|(epoch, _)| *epoch > Epoch(0));
        let count = count(&mut body, TENANCY_LEN_MIN)?;
        let tenancies = (0..count).map(|_| Tenancy::decode(&mut body)).collect::<Decoded<_>>()?;
        body.end()?;
        Ok(Self { restored, fenced, tenancies })
    }
}

impl Tenancy {
    fn decode(body: &mut Reader<'_>) -> Decoded<Self> {
        let malformed = body.malformed("a URL that is no text");
        let url = std::str::from_utf8(body.bytes(URL_BYTES_MAX)?).map_err(|_| malformed)?.to_owned();
        let cold = ColdId(body.array()?);
        let held = claim(body)?;
        let pending = (0..count(body, CLAIM_LEN)?).map(|_| claim(body)).collect::<Decoded<_>>()?;
        Ok(Self { url, cold, held, pending })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::format::manifest::tests::sample;
    use crate::types::{BLOCK, FrameNo, JournalId};

    const STORE: StoreId = StoreId([5; 16]);
    const WHOSE: Whose = Whose { store: STORE, cold: ColdId([8; 16]) };

    fn identity() -> Identity {
        Identity { features: Features::KNOWN, store: STORE, key: [6; 32], created: TimeUs(1) }
    }

    fn end(epoch: u64) -> TailEnd {
        TailEnd { epoch: Epoch(epoch), objects: 9, last: FrameRef { frame: FrameNo(3), ..FrameRef::default() } }
    }

    /// Sealed frames from `first` on, `n` of them, without the zeros behind.
    fn frames(first: u64, n: u64) -> Vec<Vec<u8>> {
        let salt = identity().salt(JournalId(2));
        let mut prev = FrameRef::default();
        (first..first + n)
            .map(|number| {
                let mut frame = vec![0; BLOCK];
                frame[HEADER_LEN..HEADER_LEN + 10].fill(number as u8);
                let header = FrameHeader {
                    depth: 1,
                    store: STORE,
                    journal: JournalId(2),
                    position: number * BLOCK as u64,
                    frame: FrameNo(number),
                    first_lsn: Lsn(number * 2),
                    entries: 2,
                    payload_len: 10,
                    frame_len: BLOCK as u32,
                    prev_journal: prev.journal,
                    prev_position: prev.position,
                    prev_hash: prev.hash,
                    ..FrameHeader::default()
                };
                prev = header.seal(&mut frame, salt);
                frame.truncate(HEADER_LEN + 10);
                frame
            })
            .collect()
    }

    fn each_byte_counts<T: std::fmt::Debug>(mut bytes: Vec<u8>, decode: impl Fn(&[u8]) -> Taken<T>) {
        for at in 0..bytes.len() {
            bytes[at] ^= 2;
            decode(&bytes).expect_err("one byte is wrong");
            bytes[at] ^= 2;
        }
    }

    #[test]
    fn objects_come_back_and_each_damaged_byte_is_noticed() {
        let home = Home { identity: identity(), cold: ColdId([8; 16]) };
        assert_eq!(Home::decode(&home.encode()), Ok(home));
        each_byte_counts(home.encode(), Home::decode);

        let claim = Claim { epoch: Epoch(4), claim: [3; 16], time: TimeUs(99) };
        assert_eq!(Claim::decode(&claim.encode(WHOSE), WHOSE), Ok(claim));
        each_byte_counts(claim.encode(WHOSE), |bytes| Claim::decode(bytes, WHOSE));

        let tail = Tail { epoch: Epoch(4), number: 7, ends: vec![end(2), end(3)], frames: frames(5, 3) };
        assert_eq!(Tail::decode(&tail.encode(WHOSE), WHOSE), Ok(tail.clone()));
        each_byte_counts(tail.encode(WHOSE), |bytes| Tail::decode(bytes, WHOSE));

        let manifest = sample();
        let of = Whose { store: manifest.identity.store, ..WHOSE };
        let version = Version { epoch: Epoch(4), number: 11, tail_from: (Epoch(3), 2), ends: vec![end(3)], manifest };
        assert_eq!(Version::decode(&version.encode(WHOSE.cold), of), Ok(version.clone()));
        each_byte_counts(version.encode(WHOSE.cold), |bytes| Version::decode(bytes, of));

        let tenancy = Tenancy {
            url: "s3://bucket/prefix".into(),
            cold: ColdId([8; 16]),
            held: (Epoch(3), [1; 16]),
            pending: vec![(Epoch(4), [2; 16]), (Epoch(5), [3; 16])],
        };
        let restored = Some(Restored::Rewind);
        let epochs = Epochs { restored, fenced: Some((Epoch(4), Lsn(77))), tenancies: vec![tenancy] };
        assert_eq!(Epochs::decode(&epochs.encode(STORE), STORE), Ok(epochs.clone()));
        each_byte_counts(epochs.encode(STORE), |bytes| Epochs::decode(bytes, STORE));
    }

    #[test]
    fn an_object_of_another_store_or_format_is_told_from_a_damaged_one() {
        let claim = Claim { epoch: Epoch(1), claim: [3; 16], time: TimeUs(0) };
        let mut bytes = claim.encode(WHOSE);
        let other = Whose { store: StoreId([6; 16]), ..WHOSE };
        assert_eq!(Claim::decode(&bytes, other), Err(Unsealed::Foreign(STORE)));
        let before = Whose { cold: ColdId([9; 16]), ..WHOSE };
        assert_eq!(Claim::decode(&bytes, before), Err(Unsealed::Before));
        bytes[8] = 1;
        let len = bytes.len() - 32;
        let digest = *blake3::hash(&bytes[..len]).as_bytes();
        bytes[len..].copy_from_slice(&digest);
        assert_eq!(Claim::decode(&bytes, WHOSE), Err(Unsealed::Newer));
    }

    #[test]
    fn frames_of_a_tail_are_one_chain() {
        let tail = |frames| Tail { epoch: Epoch(1), number: 0, ends: Vec::new(), frames };
        let good = tail(frames(5, 3));
        let headers = good.headers(&identity()).expect("a chain");
        assert_eq!(headers.iter().map(|(header, _)| header.frame.0).collect::<Vec<_>>(), [5, 6, 7]);
        let mut gap = frames(5, 3);
        gap.remove(1);
        assert!(tail(gap).headers(&identity()).is_err());
        let mut long = frames(5, 1);
        long[0].push(0);
        assert!(tail(long).headers(&identity()).is_err());
        assert!(tail(vec![vec![0; HEADER_LEN]]).headers(&identity()).is_err());
    }
}
