//! The tails of all epochs, looked into where they are needed: there may be years of them.
//!
//! In an epoch's objects the frames ascend, so that a place in them is found by halving. Frames without entries are left out:
//! what comes behind a cut begins with the same LSN as the empty frames of the history that was cut off.

use crate::cold::history::History;
use crate::cold::{ColdStore, ends, fetch, keys, search};
use crate::error::Result;
use crate::format::cold::{Home, TailEnd, Version};
use crate::format::frame::{FrameHeader, FrameRef};
use crate::format::journal::FIRST_FRAME_AT;
use crate::types::{BLOCK, Epoch, FrameNo, JournalId, Lsn};

/// The tails of a cold store.
pub struct Tails<'a> {
    cold: &'a dyn ColdStore,
    home: &'a Home,
    newest: Epoch,
    /// Where tails of epochs end, as far as their successors said so in tails of their own.
    pub ends: Vec<TailEnd>,
}

/// The frames with entries of one epoch's tail.
#[derive(Clone, Debug)]
pub struct Span {
    /// The epoch.
    pub epoch: Epoch,
    /// The first of them.
    pub first: FrameHeader,
    /// The first one of each timeline, newest first.
    pub turns: Vec<FrameHeader>,
    /// The last of them.
    pub last: FrameHeader,
}

/// Where the tail goes on behind what segments cover.
#[derive(Clone, Debug)]
pub struct Anchor {
    /// The last frame covered, or what stands for it where none of the tail tells.
    pub flushed: FrameRef,
    /// The epoch and the number of the tail object that holds it or what follows.
    pub from: (Epoch, u64),
    /// Whether it is known: it is there, or a frame that names it, or nothing comes behind it.
    pub is_known: bool,
}

type Frames = Vec<(FrameHeader, FrameRef)>;

impl<'a> Tails<'a> {
    /// The tails of the epochs up to `newest`.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Cold`], [`crate::ErrorKind::Refused`].
    pub fn new(cold: &'a dyn ColdStore, home: &'a Home, newest: Epoch, nothing: &Version) -> Result<Self> {
        let ends = ends::known(cold, home.whose(), nothing, newest)?;
        Ok(Self { cold, home, newest, ends })
    }

    /// The numbers of the objects of an epoch that may count.
    fn objects(&self, epoch: Epoch) -> Result<(u64, u64)> {
        let key = |number| keys::tail(epoch, number);
        let begin = search::begin(self.cold, &keys::tails(epoch), 0, &key)?;
        let mut end = search::end(self.cold, begin, &key)?;
        if let Some(known) = self.ends.iter().find(|end| end.epoch == epoch) {
            end = end.min(known.objects);
        }
        let mut first = 0;
        if end > 0 && self.cold.get(&key(0), 0..1)?.is_none() {
            // What is first in the listing, since the others may have been removed.
            let listed = self.cold.list(&keys::tails(epoch), "")?;
            first = listed.iter().find_map(|key| keys::number(key)).unwrap_or(end).min(end);
        }
        Ok((first, end))
    }

    /// The frames in an object that count; none if it cannot be read.
    fn all_frames(&self, epoch: Epoch, number: u64) -> Result<Frames> {
        let Some(Ok(tail)) = fetch::tail(self.cold, self.home.whose(), epoch, number)? else { return Ok(Vec::new()) };
        let mut frames = tail.headers(&self.home.identity).unwrap_or_default();
        if let Some(known) = self.ends.iter().find(|end| end.epoch == epoch) {
            frames.retain(|(_, frame)| frame.frame <= known.last.frame);
        }
        Ok(frames)
    }

    /// Those of them that have entries.
    fn frames(&self, epoch: Epoch, number: u64) -> Result<Frames> {
        let mut frames = self.all_frames(epoch, number)?;
        frames.retain(|(header, _)| header.entries > 0);
        Ok(frames)
    }

    /// Up to which LSN frames follow one another behind `anchor`.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Cold`], [`crate::ErrorKind::Refused`].
    pub fn reach(&self, anchor: &Anchor) -> Result<Lsn> {
        let (mut at, (begin, from)) = (anchor.flushed, anchor.from);
        for epoch in (begin.0..=self.newest.0).map(Epoch) {
            let (first, end) = self.objects(epoch)?;
            let first = if epoch == begin { from } else { first };
            'objects: for number in first..end {
                for (header, frame) in self.all_frames(epoch, number)? {
                    if frame.frame <= at.frame {
                        continue;
                    }
                    if !header.continues(&at) {
                        break 'objects;
                    }
                    at = frame;
                }
            }
        }
        Ok(at.last_lsn)
    }

    /// What an epoch's tail holds.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Cold`], [`crate::ErrorKind::Refused`].
    pub fn span(&self, epoch: Epoch) -> Result<Option<Span>> {
        let (from, end) = self.objects(epoch)?;
        let mut first = None;
        for number in from..end {
            first = self.frames(epoch, number)?.into_iter().next();
            if first.is_some() {
                break;
            }
        }
        let Some((first, _)) = first else { return Ok(None) };
        let mut last = first.clone();
        for number in (from..end).rev() {
            if let Some((header, _)) = self.frames(epoch, number)?.pop() {
                last = header;
                break;
            }
        }
        let mut turns = vec![last.clone()];
        loop {
            let turn = turns.last_mut().expect("never empty");
            let timeline = turn.timeline;
            let has_come = |frames: &Frames| {
                // They do not come back to one, so that what is not on it lies before it.
                let is_later = |header: &FrameHeader| header.first_lsn >= turn.first_lsn;
                frames.last().map(|(last, _)| last.timeline == timeline || is_later(last))
            };
            let Some(number) = self.find(epoch, from, end, &has_come)? else { break };
            let frames = self.frames(epoch, number)?;
            *turn = frames.into_iter().find(|(header, _)| header.timeline == timeline).map_or(turn.clone(), |(h, _)| h);
            match self.before(epoch, from, number, turn.first_lsn)? {
                Some(before) if before.timeline != timeline => turns.push(before),
                _ => break,
            }
        }
        Ok(Some(Span { epoch, first, turns, last }))
    }

    /// The last frame before `lsn` in the objects of an epoch up to `number`.
    fn before(&self, epoch: Epoch, from: u64, number: u64, lsn: Lsn) -> Result<Option<FrameHeader>> {
        for number in (from..=number).rev() {
            let frames = self.frames(epoch, number)?;
            let before = frames.into_iter().map(|(header, _)| header).rfind(|header| header.first_lsn < lsn);
            if before.is_some() {
                return Ok(before);
            }
        }
        Ok(None)
    }

    /// The first object from `from` on, below `end`, that `has_come` says yes to, where it says so of all behind it too. It
    /// is not asked for those that hold nothing.
    fn find(
        &self, epoch: Epoch, from: u64, end: u64, has_come: &dyn Fn(&Frames) -> Option<bool>,
    ) -> Result<Option<u64>> {
        let (mut low, mut high) = (from, end);
        while low < high {
            let middle = low + (high - low) / 2;
            let (mut at, mut answer) = (middle, None);
            while at < high && answer.is_none() {
                answer = has_come(&self.frames(epoch, at)?);
                at += 1;
            }
            if answer == Some(false) {
                low = at;
            } else {
                high = middle;
            }
        }
        Ok((low < end).then_some(low))
    }

    /// Where the tail goes on behind `lsn`, the last one that segments of `history` cover. `spans` are those of the newest
    /// epochs, newest first.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Cold`], [`crate::ErrorKind::Refused`].
    pub fn anchor(&self, lsn: Lsn, history: &History, spans: &[Span]) -> Result<Anchor> {
        if lsn == Lsn(0) {
            return Ok(Anchor { flushed: FrameRef::default(), from: (Epoch(1), 0), is_known: true });
        }
        let begin = self.epoch_before(lsn.next(), spans)?;
        // Empty frames behind it may have been passed over, so that what follows tells better what it follows.
        let mut found = None;
        for epoch in (begin.0..=self.newest.0).map(Epoch) {
            let (from, end) = self.objects(epoch)?;
            let reaches = |frames: &Frames| frames.last().map(|(header, _)| header.last_lsn() >= lsn);
            let Some(first) = self.find(epoch, from, end, &reaches)? else { continue };
            for number in first..end {
                let from = (epoch, number);
                for (header, frame) in self.frames(epoch, number)? {
                    if !history.holds(header.timeline, header.last_lsn()) {
                        continue;
                    }
                    if header.last_lsn() == lsn {
                        found = Some(Anchor { flushed: frame, from, is_known: true });
                    }
                    if header.last_lsn() > lsn {
                        let is_known = header.first_lsn == lsn.next();
                        return Ok(Anchor { flushed: before(&header, lsn, is_known), from, is_known });
                    }
                }
            }
        }
        if let Some(found) = found {
            return Ok(found);
        }
        let last = spans.iter().map(|span| &span.last);
        let frame = FrameNo(last.clone().map(|header| header.frame.0).max().unwrap_or_default() + 1);
        let journal = JournalId(last.map(|header| header.journal.0).max().unwrap_or_default() + 1);
        let flushed = FrameRef { journal, frame, last_lsn: lsn, ..stand_in() };
        // Nobody puts a tail of this epoch before a version of it.
        Ok(Anchor { flushed, from: (self.newest.next(), 0), is_known: true })
    }

    /// The newest epoch whose tail reaches back to `lsn`, else the first.
    fn epoch_before(&self, lsn: Lsn, spans: &[Span]) -> Result<Epoch> {
        for epoch in (1..=self.newest.0).rev().map(Epoch) {
            let span = match spans.iter().find(|span| span.epoch == epoch) {
                Some(span) => Some(span.clone()),
                // Those that have none are not among them.
                None if spans.last().is_some_and(|oldest| oldest.epoch < epoch) => None,
                None => self.span(epoch)?,
            };
            if span.is_some_and(|span| span.first.first_lsn <= lsn) {
                return Ok(epoch);
            }
        }
        Ok(Epoch(1))
    }
}

/// What stands for a frame of which nothing is known: a hash that no header has.
fn stand_in() -> FrameRef {
    FrameRef { position: FIRST_FRAME_AT, frame_len: BLOCK as u32, ..FrameRef::default() }
}

/// The frame in front of the one with this header, which ends at `lsn`. Its length is known only if it lies in the same file,
/// and asked for only then. Where something is missing in between, it is one that nothing goes on from.
fn before(header: &FrameHeader, lsn: Lsn, is_known: bool) -> FrameRef {
    let frame = FrameNo(header.frame.0.saturating_sub(1));
    if !is_known {
        return FrameRef { frame, last_lsn: lsn, journal: header.prev_journal, ..stand_in() };
    }
    let len = header.position.checked_sub(header.prev_position).filter(|_| header.prev_journal == header.journal);
    FrameRef {
        journal: header.prev_journal,
        position: header.prev_position,
        frame_len: len.and_then(|len| u32::try_from(len).ok()).unwrap_or(BLOCK as u32),
        frame,
        last_lsn: lsn,
        hash: header.prev_hash,
    }
}
