//! The flush: durable records from memory into a sealed segment, and what follows from it for the journal.
//!
//! The steps, and what a crash at each leaves:
//! 1. The segment is written under a new id, synced, its directory synced. A crash leaves a file that no manifest
//!    names; the next open takes it for a proof of what must be in the journal, and removes it. The journal still has
//!    everything.
//! 2. It is read back, past the page cache, by other code than wrote it; what was synced so far, while the rest is
//!    written. If that fails it is abandoned and written anew under another id. It proves each byte as it was read: a
//!    later write that the disk puts in the wrong place is found by `verify`, not here.
//! 3. A manifest version that names it, and the last frame it covers, is committed. From here on recovery begins behind
//!    that frame. A failure here poisons: what the disk holds is unknown. The one exception is a want of room or of
//!    descriptors while the version is written under its temporary name: nothing refers to that file, what is wanting is
//!    known, and the flush is tried again (docs/adr/0006-a-full-disk-does-not-poison.md).
//! 4. The new snapshot is installed, then the records are taken out of memory, so that a reader misses nothing.
//! 5. Journal files whose frames are all covered become spare.
//!
//! A flush that nobody waits for goes no faster than there is need ([`pace`]); what a crash leaves is the same.
//!
//! Invariant: nothing leaves memory or the journal before step 3 is durable.

mod pace;

use crate::catalog::Catalog;
use crate::clock::Clock;
use crate::error::{Error, ErrorKind, Result};
use crate::format::manifest::SegmentMeta;
use crate::format::state::LogState;
use crate::index::memory::MemEntry;
use crate::index::slot::{SLOT_BYTES, Slot, apply_mem, misfit};
use crate::index::{Index, older_producers};
use crate::io::Wake;
use crate::journal::{self, Journal};
#[cfg(feature = "mutants")]
use crate::mutants::{self, Mutant};
use crate::poison::Poison;
use crate::segment::{Name, Origin, ReadBack, SegmentWriter, StateRecord};
use crate::sync::{Arc, AtomicBool, Ordering};
use crate::types::{Lsn, SegmentId, TimeUs};
use pace::Pace;
use std::cell::Cell;
use std::ops::RangeInclusive;
use std::time::Duration;

/// How often a segment is written anew when it does not read back as written.
const ATTEMPTS: usize = 3;

/// How long it rests at a time.
const REST: Duration = Duration::from_millis(5);

/// A store at rest makes journal files up to so many: the present one, and two that are taken without a byte of zeros
/// written beside frames.
const FILES_AT_REST: usize = 3;

/// A store is at rest behind so long a time without an append.
const AT_REST: Duration = Duration::from_millis(500);

/// How much it writes before it looks whether it can rest, in bytes as the pool counts them.
const LOOK_BYTES: usize = 256 << 10;

/// Bytes of memory that are given back at once.
const GIVE_BYTES: usize = 1 << 20;

/// The flush.
pub struct Flusher {
    catalog: Arc<Catalog>,
    index: Arc<Index>,
    journal: Arc<Journal>,
    poison: Arc<Poison>,
    flush_bytes: usize,
    /// Somebody asks for a flush of everything. Set and cleared with SeqCst by callers and the flush.
    asked: Arc<AtomicBool>,
    rest: Option<Rest>,
    clock: Arc<dyn Clock>,
    /// The last record that a pass saw, and when one saw it first.
    seen: Cell<(Lsn, Duration)>,
}

/// Sleeps for that time, and says what is to be done then.
pub type Rest = Box<dyn Fn(Duration) -> Rested + Send>;

/// Behind a rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rested {
    /// There is still time.
    AtEase,
    /// Somebody waits for the flush.
    Hurried,
    /// The store ends.
    Ending,
}

/// What a flusher is made of.
pub struct FlusherParts {
    /// The segments.
    pub catalog: Arc<Catalog>,
    /// The logs.
    pub index: Arc<Index>,
    /// The journal's files.
    pub journal: Arc<Journal>,
    /// Closed by damage that no flush gets past.
    pub poison: Arc<Poison>,
    /// Durable bytes in memory that make a flush due.
    pub flush_bytes: usize,
    /// Set to have everything flushed.
    pub asked: Arc<AtomicBool>,
    /// How it rests between two pieces of what nobody waits for; None to go on at once.
    pub rest: Option<Rest>,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

impl Flusher {
    /// A flusher.
    #[must_use]
    pub fn new(parts: FlusherParts) -> Self {
        let FlusherParts { catalog, index, journal, poison, flush_bytes, asked, rest, clock } = parts;
        let seen = Cell::new((journal.published().0.last_lsn, clock.monotonic()));
        Self { catalog, index, journal, poison, flush_bytes, asked, rest, clock, seen }
    }

    /// One pass: makes a spare journal file if there is none, or one more in a store at rest, flushes if that is due or asked
    /// for, and wakes the committer, which may wait for a file. True if anything moved.
    ///
    /// # Errors
    /// Why the flush failed, or is not made while a merge has the last room on the disk; or why there is no journal file,
    /// if nothing else moved. It is tried again at the next pass, unless the store is poisoned.
    pub fn step(&mut self, committer: &dyn Wake) -> Result<bool> {
        self.poison.check()?;
        self.catalog.check_in_place()?;
        if self.index.is_room_lent() {
            return self.stand_back();
        }
        // On a full disk there may be no room for a journal file and yet enough for a segment, which frees one.
        let prepared = self.prepare();
        let mut moved = matches!(prepared, Ok(true));
        if moved {
            committer.wake();
        }
        // That may have taken seconds.
        if self.index.is_room_lent() {
            return self.stand_back();
        }
        let asked = self.asked.swap(false, Ordering::SeqCst);
        if asked || self.is_due() {
            let flushed = self.flush_at(if asked { Rested::Hurried } else { Rested::AtEase });
            if flushed.is_err() && asked {
                self.asked.store(true, Ordering::SeqCst);
            }
            moved |= flushed?;
            committer.wake();
        }
        if moved { Ok(true) } else { prepared }
    }

    /// Makes a journal file if there is no spare one, in pieces between which it rests until it is wanted. Gives it up where
    /// the store ends. The second file of a ring is made at once: an open after a crash needs one beside that of the end.
    /// The third one is made ahead once nobody appends, without a rest, and given up as soon as somebody does.
    fn prepare(&self) -> Result<bool> {
        let ring = &self.journal.ring;
        if ring.files() < 2 {
            return ring.prepare(1, &mut |_| true);
        }
        let ahead = self.is_at_rest() && ring.files() < FILES_AT_REST;
        let (began, bytes) = (self.clock.monotonic(), ring.file_bytes());
        let mut rested = Rested::AtEase;
        ring.prepare(if ahead { 2 } else { 1 }, &mut |filled| {
            if ahead {
                // Whoever comes must not wait for it: on a slow disk it takes a minute.
                rested = self.rest.as_ref().map_or(rested, |rest| rest(Duration::ZERO));
                let is_wanted = self.asked.load(Ordering::SeqCst) || self.is_due() || self.poison.is_set();
                return rested == Rested::AtEase && self.is_at_rest() && !is_wanted;
            }
            self.rest_while(&mut rested, || {
                let since = self.clock.monotonic().saturating_sub(began);
                !self.is_due() && journal::pace::can_wait(bytes, filled, self.journal.in_use(), since)
            });
            rested != Rested::Ending && !self.poison.is_set()
        })
    }

    /// Whether nothing was appended for a while. Never where nobody can rest: who drives a store by steps says himself when
    /// there is time.
    fn is_at_rest(&self) -> bool {
        let (now, last) = (self.clock.monotonic(), self.journal.published().0.last_lsn);
        let (seen, since) = self.seen.get();
        if last != seen {
            self.seen.set((last, now));
            return false;
        }
        self.rest.is_some() && now.saturating_sub(since) >= AT_REST
    }

    /// Rests as long as nobody asks for a flush, waits for a journal file or hurries it, and it can wait.
    fn rest_while(&self, rested: &mut Rested, can_wait: impl Fn() -> bool) {
        let Some(rest) = &self.rest else { return };
        let is_wanted = || self.asked.load(Ordering::SeqCst) || self.journal.ring.is_awaited() || self.poison.is_set();
        while *rested == Rested::AtEase && !is_wanted() && can_wait() {
            *rested = rest(REST);
        }
    }

    /// Has it rest in another way.
    #[cfg(test)]
    pub fn rest_by(&mut self, rest: Rest) {
        self.rest = Some(rest);
    }

    /// A merge has the last room on the disk, and gives some back in the end.
    fn stand_back(&self) -> Result<bool> {
        let is_due = self.asked.load(Ordering::SeqCst) || self.is_due();
        if is_due {
            // Until the flush that follows.
            self.journal.ring.set_flush_failed(true);
        } else if self.journal.ring.has_spare() {
            return Ok(false);
        }
        let what = "no flush is made while a merge has the last room on the disk, to give back what is dead";
        Err(Error::new(ErrorKind::Io, what).remedy("free space on that file system, or wait"))
    }

    /// Whether a flush is due by itself: enough is in memory, somebody waits for room there, or the journal runs out
    /// of files.
    fn is_due(&self) -> bool {
        self.index.mem_bytes() >= self.flush_bytes || self.is_pressed()
    }

    /// Whether somebody waits for room in memory, or the journal runs out of files.
    fn is_pressed(&self) -> bool {
        self.index.pool.is_short() || self.journal.ring.wants_flush()
    }

    /// Sees to it that a journal file is free: a new one if the ring may grow and the disk has room, else by a flush.
    ///
    /// # Errors
    /// As [`Self::flush`]; why no file could be made, if the flush freed none either.
    pub fn make_room(&mut self) -> Result<()> {
        let ring = &self.journal.ring;
        if ring.has_spare() {
            return Ok(());
        }
        let prepared = ring.prepare(1, &mut |_| true);
        if matches!(prepared, Ok(true)) {
            return Ok(());
        }
        self.flush()?;
        if self.journal.ring.has_spare() { Ok(()) } else { prepared.map(drop) }
    }

    /// Flushes everything that is durable. True if there was anything the manifest did not cover.
    ///
    /// # Errors
    /// [`ErrorKind::Io`], [`ErrorKind::Damaged`]. A failure to commit the manifest poisons as well, and so does a log
    /// whose older state is damaged: no flush would ever succeed again, and appends would stop without a word.
    pub fn flush(&mut self) -> Result<bool> {
        self.flush_at(Rested::Hurried)
    }

    /// As [`Self::flush`], with rests if it is at ease.
    fn flush_at(&mut self, rested: Rested) -> Result<bool> {
        let flushed = self.flush_published(rested);
        #[cfg(feature = "mutants")]
        if let (Err(error), true) = (&flushed, mutants::makes(Mutant::LatchLeftOpen)) {
            mutants::keep(Some(Box::new(error.clone())));
        }
        self.journal.ring.set_flush_failed(flushed.is_err());
        flushed
    }

    fn flush_published(&mut self, rested: Rested) -> Result<bool> {
        let (end, time) = self.journal.published();
        let set = self.index.set();
        if end.frame <= set.manifest.flushed.frame {
            // A file may have been left since, all of whose frames were flushed before that.
            self.journal.ring.release(set.manifest.flushed.frame);
            return Ok(false);
        }
        let pool = &self.index.pool;
        let (bytes, taken) = (self.index.mem_bytes(), pool.taken());
        let mut pace = Pace { bytes, taken, taken_max: pool.bytes_soft(), began: self.clock.monotonic(), rested };
        let slots = self.index.take_dirty();
        let result = if end.last_lsn > set.flushed() {
            self.write_verified(&slots, set.flushed().next()..=end.last_lsn, &mut pace).map(Some)
        } else {
            Ok(None)
        };
        let result = result.and_then(|meta| {
            let id = meta.as_ref().map(|meta| meta.id);
            self.catalog.commit_flush(meta, end, time).inspect_err(|_| self.abandon(id))
        });
        if let Err(error) = result {
            self.index.put_back_dirty(slots);
            return Err(error);
        }
        self.drain(&slots, end.last_lsn);
        self.journal.ring.release(end.frame);
        self.index.metrics.flushes.add(1);
        Ok(true)
    }

    fn abandon(&self, id: Option<SegmentId>) {
        if let Some(id) = id {
            self.catalog.abandon(id);
        }
    }

    /// Takes what was flushed out of memory. Room is given back in pieces, since each wakes all who wait for some.
    fn drain(&self, slots: &[Arc<Slot>], last: Lsn) {
        let mut freed = 0;
        for slot in slots {
            freed += self.index.drain(slot, last);
            if freed >= GIVE_BYTES {
                self.index.pool.give(std::mem::take(&mut freed));
            }
        }
        self.index.pool.give(freed);
    }

    fn write_verified(&self, slots: &[Arc<Slot>], lsns: RangeInclusive<Lsn>, pace: &mut Pace) -> Result<SegmentMeta> {
        let mut attempt = 1;
        loop {
            self.catalog.check_in_place()?;
            let id = self.catalog.take_id();
            let written = self.write(id, slots, &lsns, pace).inspect_err(|error| {
                if error.kind() == ErrorKind::Damaged {
                    self.poison.set(error.clone());
                }
            });
            let verified = written.and_then(|(meta, back)| {
                back.finish(&meta)?;
                Ok(meta)
            });
            match verified {
                Ok(meta) => return Ok(meta),
                Err(error) => {
                    self.abandon(Some(id));
                    if attempt == ATTEMPTS || error.kind() != ErrorKind::Damaged || self.poison.is_set() {
                        return Err(error);
                    }
                    tracing::warn!(%error, "a segment did not read back as written; it is written anew");
                    self.index.metrics.segment_rewrites.add(1);
                    attempt += 1;
                }
            }
        }
    }

    fn write(
        &self, id: SegmentId, slots: &[Arc<Slot>], lsns: &RangeInclusive<Lsn>, pace: &mut Pace,
    ) -> Result<(SegmentMeta, ReadBack)> {
        let (first, last) = (*lsns.start(), *lsns.end());
        let io = Arc::clone(self.catalog.io());
        let mut writer = SegmentWriter::create(io, self.catalog.dir(), self.catalog.identity(), id, first..=last)?;
        let (mut names, mut record): (Vec<Name>, Vec<u8>) = (Vec::new(), Vec::new());
        let (mut written, mut looked) = (0, 0);
        for slot in slots {
            let (entries, before) = self.entries(slot, last)?;
            if entries.is_empty() {
                continue;
            }
            let mut state = before.clone();
            writer.begin_log(slot.id);
            written += SLOT_BYTES;
            for entry in &entries {
                apply_mem(&mut state, entry).map_err(|e| misfit(slot.id, entry, &e))?;
                writer.entry(entry.lsn, entry.frame.time, entry.kind, entry.seq, entry.body())?;
                written += entry.pool_bytes();
                if written - looked >= LOOK_BYTES {
                    looked = written;
                    self.rest(pace, written);
                }
            }
            state.set_older_producers(older_producers(&state, before.life.created, before.changed.producers));
            let changed = state.changed.last();
            let is_new = changed >= first;
            record.clear();
            let mut ends = state.life.expiry > TimeUs(0);
            if is_new {
                let new = StateRecord::of(&state, first);
                ends |= new.ends();
                new.encode(&mut record);
            }
            writer.end_log(state.next_seq, changed, is_new.then_some(&*record), ends)?;
            if state.life.created >= first {
                names.push((state.name.to_string(), slot.id, state.life.created));
            }
        }
        writer.end_logs()?;
        names.sort_unstable();
        names.iter().try_for_each(|name| writer.name(name))?;
        let origin = Origin { ancestry: self.catalog.timelines().to_vec(), merged: Vec::new() };
        writer.finish(&origin)
    }

    /// Rests while a flush of which so many bytes are written is ahead of its pace.
    fn rest(&self, pace: &mut Pace, written: usize) {
        let mut rested = pace.rested;
        self.rest_while(&mut rested, || {
            let taken = self.index.pool.taken_about();
            !self.is_pressed() && !self.index.is_room_lent() && pace.can_wait(written, taken, self.clock.monotonic())
        });
        pace.rested = rested;
    }

    /// The slot's entries up to `last`, and the state before them.
    fn entries(&self, slot: &Slot, last: Lsn) -> Result<(Vec<MemEntry>, LogState)> {
        let inner = self.index.resolve(slot, None)?;
        let base = inner.base.as_ref().expect("the state was looked up just now");
        let entries = inner.mem.iter().take_while(|e| e.lsn <= last).cloned().collect();
        Ok((entries, base.clone()))
    }
}
