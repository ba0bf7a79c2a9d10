//! The right to write to a cold store: taking it, and asking whether it is still held.
//!
//! Epochs are dense, and whoever puts the object of one first holds it. The steps, and what a crash leaves at each:
//! 1. A random claim is synced in the file EPOCH. Nobody else knows of it.
//! 2. It is put as the next epoch. From here on the older owner finds it, and stops. If the answer is lost, the claim is put
//!    again, and knows itself; if the process dies, the next one draws another for the epoch behind, since a copy of the
//!    directory knows the first one as well.
//! 3. The newest version is looked for, and the older tails are read to their ends. What an older owner puts meanwhile
//!    it tells nobody, since it asks for a newer claim before that. Nothing is changed by this.
//! 4. A version of the new epoch is put, with what that newest one says and with those ends. From here on versions of
//!    older epochs do not count, and neither does what lies past the ends, so that whatever the older owner puts later
//!    changes nothing.
//! 5. EPOCH says that the epoch is held. Only now is anything else put.
//!
//! In the first cold store, the authority, everything that counts must be part of this store's history: a directory that
//! lacks some of it is an old one put back, or another node went on, and is refused. The right to the others follows from
//! that to the first, so that what they have beyond this history is left aside there.
//!
//! A directory that was restored to have devices set aside what is newer leaves it aside in the authority as well, at
//! its first open. The newest version that is part of its history takes the place of the newest of all, and each older
//! tail ends where this history does. It is step 4 that leaves things aside, by one object: a crash before it leaves
//! the store there as it was, one after it as it was restored, the tail up to the moment included. Until EPOCH says
//! that the store was opened, an open after such a crash does the same again, and finds its own version. In the others
//! the same happens when the right to them is taken; until then they have what they had, and whoever restores from one
//! of them gets that.
//!
//! A claim that is there and cannot be read is nobody's: its put was spoilt on the way, and whoever put it found that out.

use super::epochs::EpochFile;
use super::put::{There, put};
use super::tenure::Tenure;
use crate::clock::Clock;
use crate::cold::history::History;
use crate::cold::rebuild::rebuild;
use crate::cold::standing::Standing;
use crate::cold::{ColdStore, Put, damaged, failed, fetch, keys, newest, search};
use crate::error::{Error, ErrorKind, Result};
use crate::format::cold::{Claim, Home, Restored, Tenancy, Unsealed, Version, Whose};
use crate::format::frame::FrameRef;
use crate::format::identity::Identity;
use crate::format::manifest::Manifest;
use crate::io::Io;
use crate::manifest;
use crate::sync::{Arc, Mutex};
use crate::types::{ColdId, Epoch, Lsn, TimeUs};

/// Of so many claims that were not seen to be held it is remembered that they are this directory's.
const PENDING_MAX: usize = 64;

/// What the tenants of one store share, and what they are made of.
pub struct TenantParts {
    /// The disk, for random bytes.
    pub io: Arc<dyn Io>,
    /// The store's identity.
    pub identity: Identity,
    /// This store's history.
    pub history: History,
    /// Its claims.
    pub epochs: Arc<EpochFile>,
    /// Where levels are told.
    pub standing: Arc<Standing>,
    /// The cold stores, the authority first.
    pub colds: Vec<Arc<dyn ColdStore>>,
    /// Cold stores that were written to before may have been emptied: they are filled anew.
    pub may_be_lost: bool,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The wall clock at the open.
    pub time: TimeUs,
    /// What this process holds in each.
    pub claims: Vec<Mutex<Held>>,
}

/// What a process holds in a cold store.
#[derive(Clone, Copy, Debug, Default)]
pub struct Held {
    /// Which one it is; of zeros before it was looked at.
    cold: ColdId,
    /// The epoch, 0 before the right is taken, and its claim.
    claim: (Epoch, [u8; 16]),
}

/// One cold store, and the right to write to it once that is taken.
pub struct Tenant {
    pub(super) parts: Arc<TenantParts>,
    pub(super) n: usize,
    tenure: Mutex<Option<Tenure>>,
    /// The claim that this process put last, or is about to put.
    drawn: Mutex<Option<(Epoch, [u8; 16])>>,
    /// What was read back, and is to be told once the owner is known to be the owner still: the last frame and its time.
    owed: Mutex<Option<(FrameRef, TimeUs)>>,
}

impl Tenant {
    /// The tenant of the cold store `n`, without the right to write to it yet.
    #[must_use]
    pub fn new(parts: Arc<TenantParts>, n: usize) -> Self {
        Self { parts, n, tenure: Mutex::new(None), drawn: Mutex::new(None), owed: Mutex::new(None) }
    }

    /// Which of the cold stores it is.
    #[must_use]
    pub fn number(&self) -> usize {
        self.n
    }

    /// The cold store.
    #[must_use]
    pub fn cold(&self) -> &dyn ColdStore {
        &*self.parts.colds[self.n]
    }

    /// The store's identity.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.parts.identity
    }

    /// Whose the objects in it are, once it was looked at.
    #[must_use]
    pub fn whose(&self) -> Whose {
        Whose { store: self.parts.identity.store, cold: self.parts.claims[self.n].lock().cold }
    }

    /// Where its level is told.
    #[must_use]
    pub fn standing(&self) -> &Standing {
        &self.parts.standing
    }

    /// What it knows, once it has the right.
    #[must_use]
    pub fn tenure(&self) -> Option<Tenure> {
        self.tenure.lock().clone()
    }

    /// Takes note of something that was done in `epoch`, if that is the one that is held still.
    pub fn note(&self, epoch: Epoch, change: impl FnOnce(&mut Tenure)) {
        if let Some(tenure) = self.tenure.lock().as_mut().filter(|tenure| tenure.epoch == epoch) {
            change(tenure);
        }
    }

    /// Everything up to the frame `last`, sealed at `time`, was read back: it is told once the owner is known to be the owner
    /// still.
    pub fn owe(&self, epoch: Epoch, last: FrameRef, time: TimeUs) {
        let tenure = self.tenure.lock();
        if tenure.as_ref().is_none_or(|tenure| tenure.epoch != epoch) {
            return;
        }
        let mut owed = self.owed.lock();
        let (before, before_time) = owed.unwrap_or_default();
        let last = if last.frame > before.frame { last } else { before };
        *owed = Some((last, time.max(before_time)));
    }

    /// Tells what is owed, if there is anything, once the owner is known to be the owner still.
    ///
    /// # Errors
    /// As [`Self::check_owner`]; it is owed still.
    pub fn settle(&self) -> Result<()> {
        // Taken before the question: what is owed since is told after the next one.
        let Some((last, time)) = *self.owed.lock() else { return Ok(()) };
        self.check_owner()?;
        let mut owed = self.owed.lock();
        if owed.is_some_and(|(now, _)| now.frame == last.frame) {
            *owed = None;
        }
        drop(owed);
        self.standing().verified(self.n, last.last_lsn);
        self.standing().note(self.n, |level| level.time = level.time.max(time));
        Ok(())
    }

    /// Whether this store still owns itself: the authority has no epoch after the one held there, and neither has this cold
    /// store.
    ///
    /// # Errors
    /// [`ErrorKind::Fenced`] if the authority has one; [`ErrorKind::Cold`] if that is not known, also because no epoch of the
    /// authority is held yet, or if somebody who does not own the store claimed an epoch here alone: it is claimed again.
    pub fn check_owner(&self) -> Result<()> {
        let authority = &*self.parts.colds[0];
        let held = *self.parts.claims[0].lock();
        if held.claim.0 == Epoch(0) {
            return Err(failed(authority.url(), "the right to write to it is not taken yet"));
        }
        let asked = self.parts.clock.monotonic();
        if let Some(epoch) = self.claim_after(authority, held)? {
            return Err(self.fenced(epoch));
        }
        self.standing().contacted(asked);
        let held = *self.parts.claims[self.n].lock();
        if self.n > 0
            && held.claim.0 > Epoch(0)
            && let Some(epoch) = self.claim_after(self.cold(), held)?
        {
            return Err(self.lost_right(epoch));
        }
        Ok(())
    }

    /// Somebody who does not own the store wrote to this cold store, which is not the authority: the right to it is taken again.
    fn lost_right(&self, epoch: Epoch) -> Error {
        *self.tenure.lock() = None;
        *self.owed.lock() = None;
        let what = format!("an older owner wrote to it in epoch {epoch}; the right to it is taken again");
        failed(self.cold().url(), what)
    }

    /// The error of another one's object where only this store's owner puts any.
    #[must_use]
    pub fn intruded(&self, epoch: Epoch) -> Error {
        if self.n == 0 { self.fenced(epoch) } else { self.lost_right(epoch) }
    }

    /// The first claim after `held`, which is there still, that can be read.
    fn claim_after(&self, cold: &dyn ColdStore, held: Held) -> Result<Option<Epoch>> {
        let Held { cold: id, claim: (epoch, claim) } = held;
        let whose = Whose { store: self.identity().store, cold: id };
        let mut next = epoch.next();
        let own = fetch::claim(cold, whose, epoch)?;
        if own.is_none_or(|own| own.is_ok_and(|own| own.claim != claim)) {
            let what = "what was put there is gone; if it was emptied, open the store again and say so (--cold-lost)";
            return Err(failed(cold.url(), what));
        }
        while let Some(claim) = fetch::claim(cold, whose, next)? {
            if claim.is_ok() {
                return Ok(Some(next));
            }
            next = next.next();
        }
        Ok(None)
    }

    /// The error of a store that was taken over.
    #[must_use]
    pub fn fenced(&self, epoch: Epoch) -> Error {
        self.standing().taken_over(epoch);
        let level = self.parts.standing.level();
        let what = format!("another owner took the store over in {}, epoch {epoch}", self.cold().url());
        Error::new(ErrorKind::Fenced, what)
            .lsns(level.0 + 1..u64::MAX)
            .remedy("what this one had not shipped is kept in its directory, and is no part of the store any more")
    }

    /// Takes the right to write, if it is not held yet.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] if another store's objects lie there, or it was emptied; [`ErrorKind::Fenced`] if the right is
    /// another's, or what counts there is no part of this history; [`ErrorKind::Cold`], [`ErrorKind::Io`] if it is to be
    /// tried again; [`ErrorKind::Damaged`].
    pub fn take(&self) -> Result<()> {
        if self.tenure.lock().is_some() {
            return Ok(());
        }
        if self.n > 0 {
            // Also whether the right that the others' follow from is still held.
            self.check_owner()?;
        }
        let mut tenancy = self.home()?;
        self.parts.claims[self.n].lock().cold = tenancy.cold;
        // A restored directory comes behind an owner that goes on until it finds the claim.
        if self.n == 0 && self.parts.epochs.get().restored.is_none() {
            self.check_level(&tenancy)?;
        }
        let epoch = self.claim(&mut tenancy)?;
        let tenure = self.begin(epoch)?;
        let drawn = self.drawn.lock().take().expect("an epoch that was claimed has a claim");
        self.parts.claims[self.n].lock().claim = drawn;
        tenancy.held = drawn;
        tenancy.pending.clear();
        self.parts.epochs.change_tenancy(&tenancy)?;
        let (last, time, version) = (tenure.last, tenure.base.manifest.time, tenure.base.number);
        *self.tenure.lock() = Some(tenure);
        self.owe(epoch, last, time);
        self.standing().note(self.n, |level| {
            level.epoch = epoch;
            level.version = version;
        });
        tracing::info!(cold = self.cold().url(), %epoch, "the right to write to the cold store is taken");
        self.settle()
    }

    /// Reads the older tails to their ends, and puts the first version of the epoch, with what the newest one that
    /// counts says, unless one is there.
    fn begin(&self, epoch: Epoch) -> Result<Tenure> {
        loop {
            let base = match self.newest_held(epoch)? {
                Some(newest) if newest.epoch == epoch => {
                    let next = newest.number + 1;
                    return self.read_tails(epoch, newest, next);
                }
                Some(newest) => newest,
                None => self.without_version(epoch)?,
            };
            let mut tenure = self.read_tails(epoch, base, 0)?;
            let Version { mut manifest, .. } = Version::clone(&tenure.base);
            // Why the present timeline began is to be known as soon as something of it is there.
            manifest.timelines = self.parts.history.timelines().to_vec();
            let (tail_from, ends) = (tenure.tail_from(manifest.flushed.frame), tenure.ends.clone());
            match self.put_version(Version { epoch, number: 0, tail_from, ends, manifest }) {
                Ok((base, next_version)) => {
                    (tenure.base, tenure.next_version) = (Arc::new(base), next_version);
                    return Ok(tenure);
                }
                // An attempt of before has come there late, with what was there then.
                Err(e)
                    if e.kind() == ErrorKind::Fenced && self.newest_held(epoch)?.is_some_and(|v| v.epoch == epoch) => {}
                Err(e) => return Err(e),
            }
        }
    }

    /// Whose cold store it is; this store's, from now on, if it is empty.
    fn home(&self) -> Result<Tenancy> {
        let (cold, identity) = (self.cold(), self.identity());
        let home = match fetch::object(cold, keys::HOME, Home::decode)? {
            Some(home) => home.map_err(|why| damaged(cold.url(), keys::HOME, why))?,
            None => {
                let before = self.parts.epochs.get();
                let lost = before.tenancies.iter().any(|t| t.url == cold.url() && t.held.0 > Epoch(0));
                if lost && !self.parts.may_be_lost {
                    let what = format!("the cold store {} is empty, and this store has written to it", cold.url());
                    let remedy =
                        "see that it is the right one; if it is lost, say so (--cold-lost), and it is filled anew";
                    return Err(Error::new(ErrorKind::Refused, what).remedy(remedy));
                }
                let home = Home { identity: *identity, cold: ColdId(self.parts.io.random_bytes()?) };
                match put(cold, keys::HOME, &home.encode())? {
                    There::This => {
                        // Everything rests on this: a store that replaces what is there gives an epoch to two owners. One
                        // answer may be wrong.
                        let replaces =
                            || cold.put(keys::HOME, &home.encode().as_slice()).map(|put| put == Put::Created);
                        if replaces()? && replaces()? {
                            let what = format!("the cold store {} replaces an object that is there", cold.url());
                            return Err(Error::new(ErrorKind::Refused, what)
                                .remedy("use one that heeds If-None-Match, as S3 and its present clones do"));
                        }
                        home
                    }
                    There::Other(other) => {
                        Home::decode(&other).map_err(|why| fetch::refused(cold, keys::HOME, &why))?
                    }
                }
            }
        };
        if !home.identity.is_of(identity) {
            let what = format!("the cold store {} holds another store, {}", cold.url(), home.identity.store);
            return Err(Error::new(ErrorKind::Refused, what).remedy("give each store a place of its own"));
        }
        let known = self.parts.epochs.tenancy(home.cold);
        if self.n == 0 && known.is_none() && self.parts.epochs.get().restored.is_some() && !self.parts.may_be_lost {
            let what = format!("the store was restored from another cold store than {}", cold.url());
            return Err(Error::new(ErrorKind::Refused, what).remedy(
                "open it with the one that it was restored from as the first; if that is lost, say so (--cold-lost)",
            ));
        }
        let none = (Epoch(0), [0; 16]);
        let new = Tenancy { url: String::new(), cold: home.cold, held: none, pending: Vec::new() };
        Ok(Tenancy { url: cold.url().to_owned(), ..known.unwrap_or(new) })
    }

    /// Refuses a directory that lacks what is in the authority, before anything is put there that stops the present owner. What
    /// comes there meanwhile is found once the claim is there.
    fn check_level(&self, tenancy: &Tenancy) -> Result<()> {
        let (cold, epoch) = (self.cold(), tenancy.held.0);
        if epoch == Epoch(0) {
            return Ok(());
        }
        self.newest_held(epoch)?;
        let key = |number| keys::tail(epoch, number);
        let begin = search::begin(cold, &keys::tails(epoch), 0, &key)?;
        for number in (0..search::end(cold, begin, &key)?).rev() {
            let Some(Ok(tail)) = fetch::tail(cold, self.whose(), epoch, number)? else { continue };
            let headers = tail.headers(self.identity()).map_err(|why| damaged(cold.url(), &key(number), why))?;
            let Some((header, last)) = headers.last() else { continue };
            if !self.parts.history.holds(header.timeline, last.last_lsn) {
                return Err(self.behind(last.last_lsn));
            }
            break;
        }
        Ok(())
    }

    /// Claims the next epoch, or finds that a claim of before is there.
    fn claim(&self, tenancy: &mut Tenancy) -> Result<Epoch> {
        let cold = self.cold();
        let key = |number| keys::claim(Epoch(number));
        let from = tenancy.held.0.0.max(1);
        loop {
            let end = search::end(cold, from, &key)?;
            if end <= tenancy.held.0.0 {
                let key = keys::claim(tenancy.held.0);
                return Err(damaged(cold.url(), &key, "it is gone, and this store had put it"));
            }
            let newest = Epoch(end - 1);
            if let Some((epoch, owner)) = newest::claim(cold, self.whose(), newest)? {
                if Some((epoch, owner)) == *self.drawn.lock() {
                    return Ok(epoch);
                }
                // One of an open before is this directory's, and as much its copy's: it stands, and gives no right.
                let is_before = tenancy.pending.contains(&(epoch, owner));
                // A lower one than that held: the object of that one is damaged by now.
                let is_others = epoch > tenancy.held.0 || epoch == tenancy.held.0 && owner != tenancy.held.1;
                if is_others && !is_before && self.n == 0 {
                    return Err(self.refused(epoch));
                }
            }
            // One whose put failed may still come there late, and is to know itself then.
            let drawn = self.drawn.lock().filter(|(epoch, _)| *epoch == newest.next());
            let (epoch, claim) = match drawn {
                Some(drawn) => drawn,
                None => {
                    let drawn = (newest.next(), self.parts.io.random_bytes()?);
                    let from = tenancy.pending.len().saturating_sub(PENDING_MAX - 1);
                    tenancy.pending.drain(..from);
                    tenancy.pending.push(drawn);
                    self.parts.epochs.change_tenancy(tenancy)?;
                    *self.drawn.lock() = Some(drawn);
                    drawn
                }
            };
            let object = Claim { epoch, claim, time: self.parts.time };
            if put(cold, &keys::claim(object.epoch), &object.encode(self.whose()))? == There::This {
                return Ok(object.epoch);
            }
        }
    }

    fn refused(&self, epoch: Epoch) -> Error {
        self.standing().taken_over(epoch);
        let what = format!("the store's owner is another one since epoch {epoch} of {}", self.cold().url());
        Error::new(ErrorKind::Fenced, what).remedy(
            "this directory is a copy, an old one put back, or was taken over; to go on from what is in the cold store, \
             restore it into an empty directory",
        )
    }

    /// Puts a version under its number, or under the next one where something damaged lies. Gives it, and the number after.
    ///
    /// # Errors
    /// [`ErrorKind::Fenced`] if another one's version lies there; [`ErrorKind::Cold`]: the same is to be put again.
    pub fn put_version(&self, mut version: Version) -> Result<(Version, u64)> {
        loop {
            let (cold, key) = (self.cold(), keys::version(version.epoch, version.number));
            match put(cold, &key, &version.encode(self.whose().cold))? {
                There::This => {
                    let next = version.number + 1;
                    return Ok((version, next));
                }
                There::Other(other) => match Version::decode(&other, self.whose()) {
                    Ok(_) => return Err(self.intruded(version.epoch)),
                    Err(Unsealed::Malformed(_) | Unsealed::Before) => version.number += 1,
                    Err(why) => return Err(fetch::refused(cold, &key, &why)),
                },
            }
        }
    }

    /// Whether what this history lacks there refuses the store: in the authority, unless it was restored to have that
    /// left aside.
    pub(super) fn must_hold_all(&self) -> bool {
        self.n == 0 && self.parts.epochs.get().restored != Some(Restored::Rewind)
    }

    /// The newest version of the epoch `epoch` or an older one that is part of this history. Where all must be, the
    /// newest of all has to.
    fn newest_held(&self, epoch: Epoch) -> Result<Option<Version>> {
        newest::version(self.cold(), self.whose(), epoch, &mut |version| {
            let is_held = self.parts.history.holds_all(&version.manifest);
            if !is_held && self.must_hold_all() {
                return Err(self.behind(version.manifest.flushed.last_lsn));
            }
            Ok(is_held)
        })
    }

    pub(super) fn behind(&self, lsn: Lsn) -> Error {
        let what = format!("the cold store {} has what this directory has not, up to LSN {lsn}", self.cold().url());
        Error::new(ErrorKind::Fenced, what).remedy(
            "this directory is an old one put back, or another owner went on; restore the store from the cold store, into \
             an empty directory or again into one that was restored and never opened",
        )
    }

    /// What a first version says where none counts. If none can be read, that is what is there all the same, so that nothing
    /// ceases to count; else nothing.
    fn without_version(&self, epoch: Epoch) -> Result<Version> {
        let (cold, whose) = (self.cold(), self.whose());
        if newest::version(cold, whose, epoch, &mut |_| Ok(true))?.is_none() {
            let home = Home { identity: *self.identity(), cold: whose.cold };
            let made = rebuild(cold, &home, Epoch(epoch.0 - 1))?;
            if made.as_ref().is_some_and(|made| !made.unread.is_empty()) && self.parts.epochs.get().restored.is_none() {
                // What is whole here and damaged there would count as being there.
                let what = "every version of the manifest is gone or damaged there, and so are segments; put what lies \
                            there aside, and have it filled anew (--cold-lost)";
                return Err(failed(cold.url(), what));
            }
            match made.map(|made| made.version) {
                Some(made) if self.parts.history.holds_all(&made.manifest) => return Ok(made),
                Some(made) if self.must_hold_all() => return Err(self.behind(made.manifest.flushed.last_lsn)),
                _ => {}
            }
        }
        let timelines = self.parts.history.timelines().first().copied().into_iter().collect();
        let manifest = Manifest { timelines, ..manifest::empty(self.identity()) };
        Ok(Version { epoch: Epoch(0), number: 0, tail_from: (Epoch(1), 0), ends: Vec::new(), manifest })
    }
}
