//! Lookups by log: root (in memory), one lookup block, one index block. docs/FORMAT.md, "Lookup" and "Index". Of a small
//! segment, memory holds what its lookup blocks say, and may say "not here" for them.
//!
//! Reads no chunk. Invariant: "not here" is said only on the word of what is proved intact, or was when it was read; a part of a lookup block that
//! cannot be says "maybe", and the index blocks are searched instead; an index block that cannot is damage.

use super::filter;
use super::members::Members;
use super::reader::Segment;
use super::view::{self, Body};
use crate::error::{Error, Result};
use crate::format::block::{self, Section};
use crate::format::segment::{ENTRIES_PER_BLOCK, INDEX_ENTRY_LEN, IndexEntry, KEY_LEN, Key, Stripe};
use crate::mutants::{self, Mutant};
use crate::types::{LogId, Seq};

/// Chunks that one call gives at most.
const CHUNKS_MAX: usize = 64;

/// Stripes to each side of where an owner's is thought to be.
const NEAR: usize = 3;

/// A segment with so many logs at most has what its filters keep in memory, in 0.8 MB.
const MEMBERS_MAX: u64 = 1 << 19;

/// An index block, and where it lies.
type Found<'a> = (IndexAt, IndexBlock<'a>);

/// Where an index block lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct IndexAt {
    /// Its stripe.
    pub(super) stripe: usize,
    /// Which of the stripe's blocks it is, counted from 0.
    pub(super) n: usize,
}

/// The stripe in which a log would lie.
#[derive(Clone, Copy, Debug)]
pub struct StripeAt(usize);

/// A place in the index: a block, and which of its entries.
#[derive(Clone, Copy, Debug)]
pub struct IndexPlace {
    at: IndexAt,
    i: usize,
}

/// A stripe's lookup block.
struct Lookup<'a> {
    body: Body<'a>,
    index_blocks: usize,
}

impl Lookup<'_> {
    /// The first key of an index block of the stripe.
    fn key(&self, n: usize) -> Key {
        Key::get(&self.body[self.filter().len() + n * KEY_LEN..])
    }

    /// Which of the stripe's index blocks a key would lie in.
    fn index_block_of(&self, key: Key) -> usize {
        partition_point(self.index_blocks, |n| self.key(n) <= key).saturating_sub(1)
    }

    fn filter(&self) -> &[u8] {
        &self.body[..self.body.len() - self.index_blocks * KEY_LEN]
    }
}

/// What a stripe's lookup block says of a log.
enum Look<'a> {
    Absent,
    Maybe(Lookup<'a>),
    /// It cannot be proved intact.
    Unknown,
}

/// One block of the index.
pub(super) struct IndexBlock<'a> {
    body: Body<'a>,
}

impl IndexBlock<'_> {
    pub(super) fn len(&self) -> usize {
        self.body.len() / INDEX_ENTRY_LEN
    }

    fn bytes(&self, i: usize) -> &[u8] {
        &self.body[i * INDEX_ENTRY_LEN..(i + 1) * INDEX_ENTRY_LEN]
    }

    pub(super) fn key(&self, i: usize) -> Key {
        Key::get(self.bytes(i))
    }

    /// The first entry whose key `before` does not hold for.
    fn partition_point(&self, before: impl Fn(&Key) -> bool) -> usize {
        partition_point(self.len(), |i| before(&self.key(i)))
    }
}

/// What is in a segment's [`Members`] for a log of a stripe, by its key in the filter.
fn member(stripe: usize, key: u64) -> u64 {
    member_of(stripe, filter::kept_of(key))
}

/// As [`member`], by what the filter keeps of the key.
fn member_of(stripe: usize, kept: u64) -> u64 {
    (stripe as u64) << 32 | kept
}

/// The first of `0..len` for which `before` does not hold.
fn partition_point(len: usize, before: impl Fn(usize) -> bool) -> usize {
    let (mut low, mut high) = (0, len);
    while low < high {
        let middle = low.midpoint(high);
        if before(middle) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

impl Segment {
    /// Looks at each lookup block once, so that the first who looks for a log need not wait for the disk. What cannot be
    /// read is told to whoever needs it. Of a small segment, what the filters keep stays in memory: most segments are small,
    /// and a log that is created is looked for in each.
    pub fn warm(&mut self) {
        let mut members = Some(Members::default()).filter(|_| self.meta.logs <= MEMBERS_MAX);
        for stripe in 0..self.stripes.len() {
            let lookup = self.lookup(stripe).ok();
            let Some(all) = &mut members else { continue };
            match lookup.and_then(|lookup| filter::kept(lookup.filter(), self.filter_at(stripe))) {
                Some(kept) => kept.into_iter().for_each(|kept| all.add_key(member_of(stripe, kept))),
                None => members = None,
            }
        }
        members.iter_mut().for_each(Members::seal);
        self.members = members;
    }

    fn filter_at(&self, stripe: usize) -> filter::At {
        (self.meta.id, self.stripes[stripe].lookup)
    }

    /// Whether the log is not in the stripe, as far as memory tells.
    pub(super) fn is_absent(&self, stripe: usize, key: u64) -> bool {
        self.members.as_ref().is_some_and(|members| !members.may_hold_key(member(stripe, key)))
    }

    /// Where the log would lie here, for [`Self::look_closer`]; None if it surely does not. What that will look at is on its
    /// way out of memory then, so that several segments can be asked in the time of one.
    #[must_use]
    pub fn look_ahead(&self, log: LogId) -> Option<StripeAt> {
        let (stripe, key) = (self.stripe_of(Key::last_of(log))?, filter::key_of(log));
        match &self.members {
            Some(members) => members.prefetch(member(stripe, key)),
            None => self.view.prefetch(self.stripes[stripe].lookup, filter::bounds_of(key)),
        }
        Some(StripeAt(stripe))
    }

    /// `place`, for [`Self::head_at`]; None if memory tells that the log is not there. What that will look at is on its way.
    #[must_use]
    pub fn look_closer(&self, place: StripeAt, log: LogId) -> Option<StripeAt> {
        let (number, key) = (self.stripes[place.0].lookup, filter::key_of(log));
        if self.is_absent(place.0, key) {
            return None;
        }
        let part = |body: &[u8]| filter::place_of(body, key).filter(|part| part.end <= body.len());
        if let Some(part) = self.view.unchecked(number).and_then(part) {
            self.view.prefetch(number, part);
        }
        Some(place)
    }

    /// The log's last chunk here: its next seq, and where its state is. None if the log is not in the segment.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Damaged`], [`crate::ErrorKind::Io`].
    pub fn head(&self, log: LogId) -> Result<Option<IndexEntry>> {
        self.stripe_of(Key::last_of(log)).map_or(Ok(None), |stripe| self.head_at(StripeAt(stripe), log))
    }

    /// As [`Self::head`], of a log that would lie at `stripe`.
    ///
    /// # Errors
    /// As there.
    pub fn head_at(&self, StripeAt(stripe): StripeAt, log: LogId) -> Result<Option<IndexEntry>> {
        let Some((at, block)) = self.find_in(stripe, log)? else { return Ok(None) };
        let after = block.partition_point(|key| key.log <= log);
        if after == 0 || block.key(after - 1).log != log {
            return Ok(None);
        }
        let entry = self.index_entry(at, &block, after - 1)?;
        if entry.is_last() { Ok(Some(entry)) } else { Err(self.bad_index(at, "a log without a last chunk")) }
    }

    /// The log's chunks that hold records at or after `from`, in order, at most 64 of them; empty if there are none.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Damaged`], [`crate::ErrorKind::Io`].
    pub fn chunks(&self, log: LogId, from: Seq) -> Result<Vec<IndexEntry>> {
        if self.find_last(log)?.is_none() {
            return Ok(Vec::new());
        }
        let start = Key { log, first_seq: from };
        let (at, block) = match self.find(start)? {
            Some(found) => found,
            None => (IndexAt::default(), self.index_block(IndexAt::default())?),
        };
        // The last chunk that begins at or before `from` may hold it; of several that begin there, only the last of
        // them has records.
        let mut i = block.partition_point(|key| *key <= start).saturating_sub(1);
        if block.key(i).log < log {
            i += 1;
        }
        let wanted = |entry: &IndexEntry| entry.records > 0 && entry.next_seq() > from;
        Ok(self.gather(log, IndexPlace { at, i }, wanted)?.0)
    }

    /// All chunks of the log, those without records included, in order, from `place` on or from the first, at most 64 of
    /// them; and where it goes on, None behind the last.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Damaged`], [`crate::ErrorKind::Io`].
    pub fn all_chunks(&self, log: LogId, place: Option<IndexPlace>) -> Result<(Vec<IndexEntry>, Option<IndexPlace>)> {
        let place = match place {
            Some(place) => place,
            None if self.find_last(log)?.is_none() => return Ok((Vec::new(), None)),
            None => self.first_of(log)?,
        };
        self.gather(log, place, |entry| !entry.is_hollow())
    }

    /// Where the log's first entry lies, or would.
    fn first_of(&self, log: LogId) -> Result<IndexPlace> {
        // Several entries may have the first key, in more than one block: what is looked for is the last key before it.
        let before = Key::last_of(LogId((u128::from_be_bytes(log.0).saturating_sub(1)).to_be_bytes()));
        let (at, block) = match self.find(before)?.filter(|_| before.log < log) {
            Some(found) => found,
            None => (IndexAt::default(), self.index_block(IndexAt::default())?),
        };
        Ok(IndexPlace { at, i: block.partition_point(|key| key.log < log) })
    }

    /// The log's entries from `place` on that are wanted, at most 64 of them; and where it goes on, None behind the last.
    fn gather(
        &self, log: LogId, place: IndexPlace, wanted: impl Fn(&IndexEntry) -> bool,
    ) -> Result<(Vec<IndexEntry>, Option<IndexPlace>)> {
        let (mut chunks, IndexPlace { mut at, mut i }) = (Vec::new(), place);
        let mut block = self.index_block(at)?;
        loop {
            if i == block.len() {
                let Some(next) = self.index_after(at) else { return Ok((chunks, None)) };
                (block, at, i) = (self.index_block(next)?, next, 0);
            }
            let entry = self.index_entry(at, &block, i)?;
            if entry.log != log {
                return Ok((chunks, None));
            }
            i += 1;
            if wanted(&entry) {
                chunks.push(entry);
            }
            if entry.is_last() {
                return Ok((chunks, None));
            }
            if chunks.len() == CHUNKS_MAX {
                return Ok((chunks, Some(IndexPlace { at, i })));
            }
        }
    }

    /// Whether the log may be in the segment; false only if it surely is not.
    pub(super) fn may_hold(&self, log: LogId) -> bool {
        self.stripe_of(Key::last_of(log)).is_some_and(|stripe| !matches!(self.look_for(stripe, log), Look::Absent))
    }

    /// Asks a stripe's lookup block for a log. A part of the block suffices if that is in the map and the log is not there.
    fn look_for(&self, stripe: usize, log: LogId) -> Look<'_> {
        let (number, key) = (self.stripes[stripe].lookup, filter::key_of(log));
        if self.is_absent(stripe, key) {
            return Look::Absent;
        }
        let ask = |body: &[u8]| filter::may_contain(body, key, self.filter_at(stripe));
        let answer = self.view.unchecked(number).and_then(ask);
        if answer == Some(false) {
            return Look::Absent;
        }
        match self.lookup(stripe) {
            Ok(lookup) if answer.is_none() && ask(&lookup.body) == Some(false) => Look::Absent,
            Ok(lookup) => Look::Maybe(lookup),
            Err(_) if mutants::makes(Mutant::FilterTrusted) => Look::Absent,
            Err(_) => Look::Unknown,
        }
    }

    /// The stripe in which `key` would lie; None if it would lie before all of them.
    pub(super) fn stripe_of(&self, key: Key) -> Option<usize> {
        let owner = key.log.owner();
        let after = self.owners_up_to(owner);
        match after.checked_sub(1) {
            Some(last) if self.owners[last] == owner => {
                self.stripes[..after].partition_point(|stripe| stripe.first <= key).checked_sub(1)
            }
            last => last,
        }
    }

    /// How many stripes begin with an owner that is not behind `owner`. Of many owners, that is about where a hash of its size
    /// would be.
    fn owners_up_to(&self, owner: u64) -> usize {
        let len = self.owners.len();
        let guess = ((u128::from(owner) * len as u128) >> 64) as usize;
        let (low, high) = (guess.saturating_sub(NEAR), len.min(guess + NEAR));
        let is_near = (low == 0 || self.owners[low - 1] <= owner) && (high == len || owner < self.owners[high]);
        let (low, high) = if is_near { (low, high) } else { (0, len) };
        low + self.owners[low..high].partition_point(|first| *first <= owner)
    }

    /// The index block in which the log's last chunk would lie; None if the log surely has none here.
    fn find_last(&self, log: LogId) -> Result<Option<Found<'_>>> {
        self.stripe_of(Key::last_of(log)).map_or(Ok(None), |stripe| self.find_in(stripe, log))
    }

    /// As [`Self::find_last`], of a log that would lie in `stripe`.
    fn find_in(&self, stripe: usize, log: LogId) -> Result<Option<Found<'_>>> {
        let key = Key::last_of(log);
        match self.look_for(stripe, log) {
            Look::Absent => Ok(None),
            Look::Maybe(lookup) => self.find_by(stripe, &lookup, key).map(Some),
            Look::Unknown => self.search(stripe, key).map(Some),
        }
    }

    /// The index block in which `key` would lie; None if it would lie before all of them.
    fn find(&self, key: Key) -> Result<Option<Found<'_>>> {
        let Some(stripe) = self.stripe_of(key) else { return Ok(None) };
        match self.lookup(stripe) {
            Ok(lookup) => self.find_by(stripe, &lookup, key),
            Err(_) => self.search(stripe, key),
        }
        .map(Some)
    }

    /// The block of the stripe in which `key` would lie, by the keys of its lookup block.
    fn find_by(&self, stripe: usize, lookup: &Lookup<'_>, key: Key) -> Result<Found<'_>> {
        let n = lookup.index_block_of(key);
        let at = IndexAt { stripe, n };
        let block = self.index_block(at)?;
        if block.key(0) == lookup.key(n) {
            return Ok((at, block));
        }
        Err(self.bad_index(at, "a block that does not begin with the key that its stripe's lookup block has"))
    }

    /// Which index block of the stripe `key` would lie in, by its lookup block; None if its log is not in the stripe, or that
    /// cannot be told.
    pub(super) fn index_block_of(&self, stripe: usize, key: Key) -> Option<usize> {
        match self.look_for(stripe, key.log) {
            Look::Maybe(lookup) => Some(lookup.index_block_of(key)),
            Look::Absent | Look::Unknown => None,
        }
    }

    /// The block of the stripe in which `key` would lie, by the index blocks themselves.
    fn search(&self, stripe: usize, key: Key) -> Result<Found<'_>> {
        let (mut low, mut high) = (0, usize::from(self.stripes[stripe].index_blocks));
        while low < high {
            let middle = low.midpoint(high);
            if self.index_block(IndexAt { stripe, n: middle })?.key(0) <= key {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let at = IndexAt { stripe, n: low.saturating_sub(1) };
        Ok((at, self.index_block(at)?))
    }

    /// A stripe's lookup block.
    fn lookup(&self, stripe: usize) -> Result<Lookup<'_>> {
        let Stripe { first, lookup: number, index_blocks, .. } = self.stripes[stripe];
        let index_blocks = usize::from(index_blocks);
        let lookup = self.view.body(Section::Lookup, number).and_then(|body| {
            let lookup = Some(Lookup { body, index_blocks }).filter(|l| l.body.len() >= index_blocks * KEY_LEN);
            let lookup = lookup.filter(|lookup| lookup.key(0) == first);
            lookup.ok_or_else(|| self.view.damaged(Section::Lookup, number, "other keys than the root has"))
        });
        lookup.inspect_err(|error| tracing::debug!(%error, "a lookup block is taken for a maybe"))
    }

    /// The index block after `at`; None if that is the last.
    fn index_after(&self, at: IndexAt) -> Option<IndexAt> {
        if at.n + 1 < usize::from(self.stripes[at.stripe].index_blocks) {
            Some(IndexAt { n: at.n + 1, ..at })
        } else {
            (at.stripe + 1 < self.stripes.len()).then_some(IndexAt { stripe: at.stripe + 1, n: 0 })
        }
    }

    /// The number of an index block in the file.
    pub(super) fn index_number(&self, at: IndexAt) -> u64 {
        self.stripes[at.stripe].index().first + at.n as u64
    }

    /// An index block.
    fn index_block(&self, at: IndexAt) -> Result<IndexBlock<'_>> {
        self.whole_block(at, self.view.body(Section::Index, self.index_number(at))?)
    }

    /// An index block as it is on the disk at this moment: `raw`, if that is the block, or what another read gives.
    pub(super) fn index_block_on_disk<'a>(&self, at: IndexAt, raw: Option<&'a [u8]>) -> Result<IndexBlock<'a>> {
        let number = self.index_number(at);
        let decoded = raw.and_then(|raw| block::decode(raw, Section::Index, self.meta.id, number).ok());
        let body = match decoded {
            Some(body) => Body::Borrowed(body),
            None => view::read(&*self.view.io, &self.view.file, Section::Index, self.meta.id, number)?,
        };
        self.whole_block(at, body)
    }

    /// An index block has entries, and all blocks of a stripe but its last are full.
    fn whole_block<'a>(&self, at: IndexAt, body: Body<'a>) -> Result<IndexBlock<'a>> {
        let stripe = &self.stripes[at.stripe];
        let full = body.len() == ENTRIES_PER_BLOCK * INDEX_ENTRY_LEN;
        let last = at.n + 1 == usize::from(stripe.index_blocks);
        let fits = full || (last && body.len().is_multiple_of(INDEX_ENTRY_LEN) && !body.is_empty());
        if !fits {
            return Err(self.bad_index(at, "a block of another length"));
        }
        if at.n == 0 && Key::get(&body) != stripe.first {
            return Err(self.bad_index(at, "a block that does not begin with its stripe's key in the root"));
        }
        Ok(IndexBlock { body })
    }

    pub(super) fn index_entry(&self, at: IndexAt, block: &IndexBlock<'_>, i: usize) -> Result<IndexEntry> {
        IndexEntry::decode(block.bytes(i)).map_err(|m| self.bad_index(at, m.what))
    }

    pub(super) fn bad_index(&self, at: IndexAt, what: &str) -> Error {
        self.view.damaged(Section::Index, self.index_number(at), what)
    }

    /// What is known of an index block without itself: its first key, and the key of the one after it; None if the
    /// lookup block does not tell, or there is none after it.
    pub(super) fn keys_around(&self, at: IndexAt) -> (Option<Key>, Option<Key>) {
        let lookup = self.lookup(at.stripe).ok();
        let key = |at: IndexAt| match at.n {
            0 => Some(self.stripes[at.stripe].first),
            n => lookup.as_ref().map(|lookup| lookup.key(n)),
        };
        (key(at), self.index_after(at).and_then(key))
    }

    /// Whether the stripe's lookup block has the keys of its index blocks, `first_keys`, and a filter of which each part can
    /// be proved intact.
    pub(super) fn check_lookup(&self, stripe: usize, first_keys: &[Key]) -> Result<()> {
        let (lookup, known) = (self.lookup(stripe)?, &self.stripes[stripe]);
        let wrong = |what| self.view.damaged(Section::Lookup, known.lookup, what);
        if !(0..lookup.index_blocks).all(|n| first_keys.get(n) == Some(&lookup.key(n))) {
            return Err(wrong("other keys than the index blocks have"));
        }
        if !filter::is_intact(lookup.filter(), self.filter_at(stripe)) {
            return Err(wrong("a part of the filter cannot be proved intact"));
        }
        Ok(())
    }
}
