//! What a cold store has of its store: the newest version that counts, and the frames behind it; or, of a moment of the
//! past, the newest version that is not past it, and the frames behind it up to the moment.
//!
//! Everything is found by names that follow from numbers; a listing only says where to begin. Objects that are damaged are
//! passed over: an older version of the manifest has the same records, with more of them in the tail. Where no version can be
//! read, the newest one is made again from what describes itself (`cold/rebuild`).
//!
//! Invariant: a moment is had exactly or refused. What a version has that a frame's file was used again for lies in
//! segments alone, and those cannot be cut.

use super::RestoreMode;
use crate::cold::history::History;
use crate::cold::rebuild::{self, Rebuilt, rebuild};
use crate::cold::{ColdStore, damaged, ends, fetch, keys, newest, search};
use crate::error::{Error, ErrorKind, Result};
use crate::format::cold::{Home, TailEnd, Unsealed, Version};
use crate::format::frame::{FrameHeader, FrameRef};
use crate::format::manifest::Manifest;
use crate::types::{AsOf, Epoch, Lsn, TimeUs};

/// What there is.
#[derive(Clone, Debug)]
pub struct Found {
    /// Whose it is.
    pub home: Home,
    /// The newest claim.
    pub claim: (Epoch, [u8; 16]),
    /// What is to be restored.
    pub mode: RestoreMode,
    /// The newest version that counts, can be read, and is not past the moment, or what was made in its place.
    pub base: Version,
    /// Where no version can be read: up to which LSN there are segments that count, and those that cannot be read.
    made: Option<(Lsn, Vec<Error>)>,
    /// Where tails of epochs end, as far as their successors said so.
    ends: Vec<TailEnd>,
}

/// Takes the frames behind the version, in their order: the header, and all bytes of the frame.
pub type Sink<'a> = dyn FnMut(&FrameHeader, Vec<u8>) -> Result<()> + 'a;

/// The frames behind a version.
#[derive(Clone, Copy, Debug, Default)]
pub struct Frames {
    /// The last one that counts, and its time.
    pub last: Option<(FrameRef, TimeUs)>,
    /// The last LSN of the first frame past the moment.
    pub past: Option<Lsn>,
}

/// Looks for what a cold store has.
///
/// # Errors
/// [`ErrorKind::Refused`] if no store lies there, or one of a later version of everlog, or if the moment cannot be had;
/// [`ErrorKind::Cold`]; [`ErrorKind::Damaged`] if its first object cannot be read, or if there is neither a version of the
/// manifest nor a segment nor a tail.
pub fn look(cold: &dyn ColdStore, mode: RestoreMode) -> Result<Found> {
    let Some(home) = fetch::object(cold, keys::HOME, Home::decode)? else {
        return Err(Error::new(ErrorKind::Refused, format!("there is no store in {}", cold.url()))
            .remedy("check the URL: bucket, prefix and path"));
    };
    let home = home.map_err(|why| damaged(cold.url(), keys::HOME, why))?;
    let whose = home.whose();
    let claim_of = |number| keys::claim(Epoch(number));
    let begin = search::begin(cold, keys::CLAIMS, 1, &claim_of)?;
    let last = Epoch(search::end(cold, begin, &claim_of)? - 1);
    // A claim that cannot be read is nobody's, and the next epoch is open to anybody.
    let claim = newest::claim(cold, whose, last)?.map(|(_, claim)| claim).unwrap_or_default();
    let (base, made) = match newest::version(cold, whose, last, &mut |_| Ok(true))? {
        Some(base) => (base, None),
        None => {
            let Some(Rebuilt { version, reaches, unread }) = rebuild(cold, &home, last)? else {
                let what = format!("there is no version of the manifest in {}, no segment and no tail", cold.url());
                return Err(Error::new(ErrorKind::Damaged, what).remedy("another cold store may have one"));
            };
            tracing::warn!(cold = cold.url(), "no version of the manifest can be read; it is made again");
            (version, Some((reaches, unread)))
        }
    };
    let ends = ends::known(cold, whose, &base, last)?;
    let found = Found { home, claim: (last, claim), mode, base, made, ends };
    match mode.as_of() {
        Some(moment) => found.at(cold, moment),
        None => Ok(found),
    }
}

impl Found {
    /// Whether both are of one version of one owner.
    #[must_use]
    pub fn is_as(&self, other: &Self) -> bool {
        (self.claim, self.base.epoch, self.base.number) == (other.claim, other.base.epoch, other.base.number)
    }

    /// Whether no version of the manifest could be read.
    #[must_use]
    pub fn is_made(&self) -> bool {
        self.made.is_some()
    }

    /// What is lost beside what the tail lacks, if `last` is the last LSN that is back and no version could be read.
    pub fn unaccounted(&self, cold: &dyn ColdStore, last: Lsn) -> impl Iterator<Item = Error> {
        let made = self.made.iter();
        made.flat_map(move |(reaches, unread)| unread.iter().cloned().chain(rebuild::lost(cold, *reaches, last)))
    }

    /// What there is as of a moment, where this is what there is in all.
    fn at(self, cold: &dyn ColdStore, moment: AsOf) -> Result<Self> {
        let covers = |version: &Version| moment.covers(version.manifest.flushed.last_lsn, version.manifest.time);
        let (whose, newest) = (self.home.whose(), self.claim.0);
        let is_of_tail = covers(&self.base);
        // What the oldest version past the moment has.
        let mut past = None;
        let base = if is_of_tail {
            Some(self.base.clone())
        } else {
            let history = History::new(self.base.manifest.timelines.clone(), self.base.manifest.flushed);
            newest::version(cold, whose, newest, &mut |version| {
                let (is_held, is_covered) = (history.holds_all(&version.manifest), covers(version));
                if is_held && !is_covered {
                    past = Some(version.manifest.flushed.last_lsn);
                }
                Ok(is_held && is_covered)
            })?
        };
        let refused = |what: String, remedy: String| Err(Error::new(ErrorKind::Refused, what).remedy(remedy));
        let next =
            |past: Option<Lsn>| past.map_or_else(String::new, |lsn| format!(", or as of LSN {lsn} or a later moment"));
        let before = |past| {
            let what = format!("{moment} lies before everything that {} has", cold.url());
            refused(what, format!("restore the newest state{}", next(past)))
        };
        let Some(base) = base else { return before(past) };
        let ends = ends::known(cold, whose, &base, newest)?;
        let found = Self { base, ends, ..self };
        let frames = found.frames(cold, &mut |_, _| Ok(()), &mut Vec::new())?;
        let Manifest { flushed, time, .. } = found.base.manifest;
        let (last, time) = frames.last.unwrap_or((flushed, time));
        let past = frames.past.or(past);
        match moment {
            AsOf::Lsn(Lsn(0)) => before(past),
            _ if last.last_lsn == Lsn(0) && past.is_some() => before(past),
            AsOf::Lsn(lsn) if lsn == last.last_lsn => Ok(found),
            AsOf::Time(at) if is_of_tail && at == time => Ok(found),
            _ if frames.past.is_some() => Ok(found),
            _ if is_of_tail => {
                let Lsn(end) = last.last_lsn;
                let what = format!(
                    "{moment} lies past LSN {end} of {} µs, the last that can be read in {}",
                    time.0,
                    cold.url()
                );
                refused(what, format!("restore the newest state, or as of LSN {end} or an earlier moment"))
            }
            _ => {
                let Lsn(end) = last.last_lsn;
                let what = format!("what lies between LSN {end} and {moment} is in no tail object of {}", cold.url());
                refused(what, format!("restore as of LSN {end}{}", next(past)))
            }
        }
    }

    /// Gives the frames behind the version to `sink`, up to the moment. What cannot be had is added to `lost`.
    ///
    /// # Errors
    /// [`ErrorKind::Cold`]; what `sink` says.
    pub fn frames(&self, cold: &dyn ColdStore, sink: &mut Sink<'_>, lost: &mut Vec<Error>) -> Result<Frames> {
        let (identity, whose) = (self.home.identity, self.home.whose());
        let mut at = self.base.manifest.flushed;
        let (mut end, moment) = (Frames::default(), self.mode.as_of());
        // What comes behind an LSN is none of this one's business, be it missing or not.
        let is_there = |at: FrameRef| moment == Some(AsOf::Lsn(at.last_lsn));
        if is_there(at) {
            return Ok(end);
        }
        // An object that cannot be read, in front of none that goes on behind it yet.
        let mut unread = None;
        let (first, from) = self.base.tail_from;
        for epoch in (first.0..=self.claim.0.0).map(Epoch) {
            let known = self.ends.iter().find(|end| end.epoch == epoch);
            let mut number = if epoch == first { from } else { 0 };
            'objects: while known.is_none_or(|known| number < known.objects) {
                let key = keys::tail(epoch, number);
                let Some(tail) = fetch::tail(cold, whose, epoch, number)? else { break };
                number += 1;
                let headers = tail.and_then(|tail| Ok((tail.headers(&identity)?, tail)));
                let (headers, tail) = match headers {
                    Ok(headers) => headers,
                    Err(Unsealed::Before) => continue,
                    Err(why) => {
                        unread.get_or_insert((key, why));
                        continue;
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
                        lost.push(damaged(cold.url(), &key, what).lsns(lsns));
                        return Ok(end);
                    }
                    if moment.is_some_and(|moment| !moment.covers(header.last_lsn(), header.time)) {
                        end.past = Some(frame.last_lsn);
                        return Ok(end);
                    }
                    sink(&header, bytes)?;
                    at = frame;
                    end.last = Some((frame, header.time));
                    unread = None;
                    if is_there(at) {
                        return Ok(end);
                    }
                }
            }
            if let Some(known) = known {
                if at.last_lsn < known.last.last_lsn {
                    let what = "frames up to the end that its successor found are missing";
                    let lsns = at.last_lsn.0 + 1..(known.last.last_lsn.0 + 1).max(at.last_lsn.0 + 2);
                    lost.push(damaged(cold.url(), &keys::tails(epoch), what).lsns(lsns));
                    return Ok(end);
                }
                unread = None;
            } else if epoch == self.claim.0 && self.goes_on(cold, epoch, number)? {
                let what = "it is missing, and there are later ones";
                let key = keys::tail(epoch, number);
                lost.push(damaged(cold.url(), &key, what).lsns(at.last_lsn.0 + 1..u64::MAX));
                return Ok(end);
            }
        }
        // Its writer may have died before it could put it again, or told it to be cold before it was damaged.
        if let Some((key, why)) = unread {
            lost.push(damaged(cold.url(), &key, why).lsns(at.last_lsn.0 + 1..u64::MAX));
        }
        Ok(end)
    }

    /// Whether a tail object of the epoch lies behind one that does not. A listing cannot tell that all is there, but it can tell
    /// that something is not.
    fn goes_on(&self, cold: &dyn ColdStore, epoch: Epoch, missing: u64) -> Result<bool> {
        let listed = cold.list(&keys::tails(epoch), &keys::tail(epoch, missing))?;
        for number in listed.iter().filter_map(|key| keys::number(key)) {
            // What was there before this cold store was proves nothing.
            if matches!(fetch::tail(cold, self.home.whose(), epoch, number)?, Some(Ok(_))) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
