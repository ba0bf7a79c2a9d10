//! What a cold store has of its store: the newest version that counts, and the frames behind it.
//!
//! Everything is found by names that follow from numbers; a listing only says where to begin. Objects that are damaged are
//! passed over: an older version of the manifest has the same records, with more of them in the tail.

use crate::cold::{ColdStore, ends, fetch, keys, search};
use crate::error::{Error, ErrorKind, Result};
use crate::format::cold::{Claim, Home, Tail, TailEnd, Version};
use crate::format::frame::{FrameHeader, FrameRef};
use crate::types::{Epoch, TimeUs};

/// What there is.
#[derive(Clone, Debug)]
pub struct Found {
    /// Whose it is.
    pub home: Home,
    /// The newest claim.
    pub claim: (Epoch, [u8; 16]),
    /// The newest version that counts and can be read.
    pub base: Version,
    /// Where tails of epochs end, as far as their successors said so.
    ends: Vec<TailEnd>,
}

/// Takes the frames behind the version, in their order: the header, and all bytes of the frame.
pub type Sink<'a> = dyn FnMut(&FrameHeader, Vec<u8>) -> Result<()> + 'a;

/// Looks for what a cold store has.
///
/// # Errors
/// [`ErrorKind::Refused`] if no store lies there, or one of a later version of everlog; [`ErrorKind::Cold`];
/// [`ErrorKind::Damaged`] if its first object, or every version of the manifest, cannot be read.
pub fn look(cold: &dyn ColdStore) -> Result<Found> {
    let Some(home) = fetch::object(cold, keys::HOME, Home::decode)? else {
        return Err(Error::new(ErrorKind::Refused, format!("there is no store in {}", cold.url()))
            .remedy("check the URL: bucket, prefix and path"));
    };
    let home = home.map_err(|why| crate::cold::damaged(cold.url(), keys::HOME, why))?;
    let whose = home.whose();
    let claim_of = |number| keys::claim(Epoch(number));
    let begin = search::begin(cold, keys::CLAIMS, 1, &claim_of)?;
    let newest = Epoch(search::end(cold, begin, &claim_of)? - 1);
    let (mut claim, mut base) = (None, None);
    for epoch in (1..=newest.0).rev().map(Epoch) {
        if claim.is_none()
            && let Some(Ok(read)) = fetch::object(cold, &keys::claim(epoch), |bytes| Claim::decode(bytes, whose))?
        {
            claim = Some(read.claim);
        }
        if base.is_none() {
            base = version(cold, &home, epoch)?;
        }
        if claim.is_some() && base.is_some() {
            break;
        }
    }
    // A claim that cannot be read is nobody's, and the next epoch is open to anybody.
    let claim = (newest, claim.unwrap_or_default());
    let Some(base) = base else {
        return Err(Error::new(ErrorKind::Damaged, format!("there is no version of the manifest in {}", cold.url()))
            .remedy("another cold store may have one"));
    };
    let ends = ends::known(cold, whose, &base, newest)?;
    Ok(Found { home, claim, base, ends })
}

/// The epoch's newest version that can be read.
fn version(cold: &dyn ColdStore, home: &Home, epoch: Epoch) -> Result<Option<Version>> {
    let key = |number| keys::version(epoch, number);
    let begin = search::begin(cold, &keys::versions(epoch), 0, &key)?;
    for number in (0..search::end(cold, begin, &key)?).rev() {
        let decode = |bytes: &[u8]| Version::decode(bytes, home.whose());
        if let Some(Ok(version)) = fetch::object(cold, &key(number), decode)? {
            return Ok(Some(version));
        }
    }
    Ok(None)
}

impl Found {
    /// Whether both are of one version of one owner.
    #[must_use]
    pub fn is_as(&self, other: &Self) -> bool {
        (self.claim, self.base.epoch, self.base.number) == (other.claim, other.base.epoch, other.base.number)
    }

    /// Gives the frames behind the version to `sink`. Gives the last one, if there is one, and its time; what cannot be had
    /// is added to `lost`.
    ///
    /// # Errors
    /// [`ErrorKind::Cold`]; what `sink` says.
    pub fn frames(
        &self, cold: &dyn ColdStore, sink: &mut Sink<'_>, lost: &mut Vec<Error>,
    ) -> Result<Option<(FrameRef, TimeUs)>> {
        let identity = self.home.identity;
        let mut at = self.base.manifest.flushed;
        let mut end = None;
        let (first, from) = self.base.tail_from;
        for epoch in (first.0..=self.claim.0.0).map(Epoch) {
            let known = self.ends.iter().find(|end| end.epoch == epoch);
            let mut number = if epoch == first { from } else { 0 };
            'objects: while known.is_none_or(|known| number < known.objects) {
                let key = keys::tail(epoch, number);
                let tail = fetch::object(cold, &key, |bytes| Tail::decode(bytes, self.home.whose()))?;
                let Some(tail) = tail else { break };
                number += 1;
                let Ok(tail) = tail else { continue };
                let headers = match tail.headers(&identity) {
                    Ok(headers) => headers,
                    Err(why) => {
                        lost.push(crate::cold::damaged(cold.url(), &key, why).lsns(at.last_lsn.0 + 1..u64::MAX));
                        return Ok(end);
                    }
                };
                for ((header, frame), mut bytes) in headers.into_iter().zip(tail.frames) {
                    let is_past = known.is_some_and(|known| frame.frame > known.last.frame);
                    if frame.frame <= at.frame || is_past {
                        continue;
                    }
                    bytes.resize(header.frame_len as usize, 0);
                    let salt = identity.salt(header.journal);
                    if !header.continues(&at) || !header.payload_intact(&bytes, salt) {
                        // An owner that was fenced passed over what a version has that counts no more: nothing from there on
                        // was told to be cold.
                        if epoch < self.claim.0 && known.is_none() {
                            break 'objects;
                        }
                        let what = "what lies between it and what comes before is missing";
                        let lsns = at.last_lsn.0 + 1..header.first_lsn.0.max(at.last_lsn.0 + 2);
                        lost.push(crate::cold::damaged(cold.url(), &key, what).lsns(lsns));
                        return Ok(end);
                    }
                    sink(&header, bytes)?;
                    at = frame;
                    end = Some((frame, header.time));
                }
            }
        }
        Ok(end)
    }
}
