//! Lookups by log: filter, then root (in memory), one fence block, one index block. docs/FORMAT.md, "Index".
//!
//! Reads no chunk. Invariant: "not here" is said only on the word of intact blocks; a filter block that cannot be
//! proved intact says "maybe", and any other that cannot is damage.

use super::filter;
use super::reader::Segment;
use super::view::{self, Body};
use crate::error::{Error, Result};
use crate::format::block::{self, Section};
use crate::format::segment::{ENTRIES_PER_BLOCK, INDEX_ENTRY_LEN, IndexEntry, KEY_LEN, KEYS_PER_BLOCK, Key};
use crate::mutants::{self, Mutant};
use crate::types::{LogId, Seq};

/// Chunks that one call gives at most.
const CHUNKS_MAX: usize = 64;

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
    /// The log's last chunk here: its next seq, and where its state is. None if the log is not in the segment.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Damaged`], [`crate::ErrorKind::Io`].
    pub fn head(&self, log: LogId) -> Result<Option<IndexEntry>> {
        if !self.may_hold(log) {
            return Ok(None);
        }
        let Some((n, block)) = self.find_block(Key { log, first_seq: Seq(u64::MAX) })? else { return Ok(None) };
        let after = block.partition_point(|key| key.log <= log);
        if after == 0 || block.key(after - 1).log != log {
            return Ok(None);
        }
        let entry = self.index_entry(n, &block, after - 1)?;
        if entry.is_last() { Ok(Some(entry)) } else { Err(self.bad_index(n, "a log without a last chunk")) }
    }

    /// The log's chunks that hold records at or after `from`, in order, at most 64 of them; empty if there are none.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Damaged`], [`crate::ErrorKind::Io`].
    pub fn chunks(&self, log: LogId, from: Seq) -> Result<Vec<IndexEntry>> {
        let mut chunks = Vec::new();
        if !self.may_hold(log) {
            return Ok(chunks);
        }
        let start = Key { log, first_seq: from };
        let (mut n, mut block) = match self.find_block(start)? {
            Some(found) => found,
            None => (0, self.index_block(0)?),
        };
        // The last chunk that begins at or before `from` may hold it; of several that begin there, only the last of
        // them has records.
        let mut i = block.partition_point(|key| *key <= start).saturating_sub(1);
        if block.key(i).log < log {
            i += 1;
        }
        loop {
            if i == block.len() {
                n += 1;
                if n == self.footer.places.index.blocks {
                    return Ok(chunks);
                }
                (block, i) = (self.index_block(n)?, 0);
            }
            let entry = self.index_entry(n, &block, i)?;
            if entry.log != log {
                return Ok(chunks);
            }
            if entry.records > 0 && entry.next_seq() > from {
                chunks.push(entry);
            }
            if entry.is_last() || chunks.len() == CHUNKS_MAX {
                return Ok(chunks);
            }
            i += 1;
        }
    }

    /// The last chunk of each log from `start` on, in the order of log ids, at most `limit` of them.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Damaged`], [`crate::ErrorKind::Io`].
    pub fn logs_from(&self, start: LogId, limit: usize) -> Result<Vec<IndexEntry>> {
        let mut logs = Vec::new();
        let first = self.find_block(Key { log: start, first_seq: Seq(0) })?.map_or(0, |(n, _)| n);
        for n in first..self.footer.places.index.blocks {
            let block = self.index_block(n)?;
            for i in block.partition_point(|key| key.log < start)..block.len() {
                if logs.len() == limit {
                    return Ok(logs);
                }
                let entry = self.index_entry(n, &block, i)?;
                if entry.is_last() {
                    logs.push(entry);
                }
            }
        }
        Ok(logs)
    }

    /// Whether the log may be in the segment; false only if it surely is not.
    pub(super) fn may_hold(&self, log: LogId) -> bool {
        let place = self.footer.places.filter;
        let key = filter::key_of(log);
        place.blocks > 0
            && match self.view.body(Section::Filter, place.first + filter::block_of(key, place.blocks)) {
                Ok(body) => filter::may_contain(&body, key),
                Err(e) => {
                    tracing::debug!(error = %e, "a filter block is taken for a maybe");
                    !mutants::makes(Mutant::FilterTrusted)
                }
            }
    }

    /// The index block, counted from 0, in which `key` would lie; None if it would lie before all of them.
    fn find_block(&self, key: Key) -> Result<Option<(u64, IndexBlock<'_>)>> {
        let Some(fence) = self.root.partition_point(|first| *first <= key).checked_sub(1) else { return Ok(None) };
        let body = self.fence_block(fence as u64)?;
        let after = partition_point(body.len() / KEY_LEN, |i| Key::get(&body[i * KEY_LEN..]) <= key);
        let i = after.checked_sub(1).expect("the block's first key is the root's");
        let n = (fence * KEYS_PER_BLOCK + i) as u64;
        let block = self.index_block(n)?;
        if block.key(0) != Key::get(&body[i * KEY_LEN..]) {
            return Err(self.bad_index(n, "a block that does not begin with its fence key"));
        }
        Ok(Some((n, block)))
    }

    /// A block of the fence, counted from 0: whole, and beginning with the root's key.
    fn fence_block(&self, fence: u64) -> Result<Body<'_>> {
        let places = &self.footer.places;
        let number = places.fence.first + fence;
        let body = self.view.body(Section::Fence, number)?;
        let keys = (places.index.blocks - fence * KEYS_PER_BLOCK as u64).min(KEYS_PER_BLOCK as u64) as usize;
        if body.len() != keys * KEY_LEN || Key::get(&body) != self.root[fence as usize] {
            return Err(self.view.damaged(Section::Fence, number, "other keys than the root and the index have"));
        }
        Ok(body)
    }

    /// The fence's key of an index block, counted from 0.
    pub(super) fn fence_key(&self, n: u64) -> Result<Key> {
        let body = self.fence_block(n / KEYS_PER_BLOCK as u64)?;
        Ok(Key::get(&body[n as usize % KEYS_PER_BLOCK * KEY_LEN..]))
    }

    /// The fence's key of the index block after block `n`; None if that is the last.
    pub(super) fn fence_key_after(&self, n: u64) -> Result<Option<Key>> {
        if n + 1 == self.footer.places.index.blocks { Ok(None) } else { self.fence_key(n + 1).map(Some) }
    }

    /// A block of the index, counted from 0.
    pub(super) fn index_block(&self, n: u64) -> Result<IndexBlock<'_>> {
        self.whole_block(n, self.view.body(Section::Index, self.footer.places.index.first + n)?)
    }

    /// A block of the index, counted from 0, as it is on the disk at this moment: `raw`, if that is the block, or what
    /// another read gives.
    pub(super) fn index_block_on_disk<'a>(&self, n: u64, raw: Option<&'a [u8]>) -> Result<IndexBlock<'a>> {
        let number = self.footer.places.index.first + n;
        let decoded = raw.and_then(|raw| block::decode(raw, Section::Index, self.meta.id, number).ok());
        let body = match decoded {
            Some(body) => Body::Borrowed(body),
            None => view::read(&*self.view.io, &self.view.file, Section::Index, self.meta.id, number)?,
        };
        self.whole_block(n, body)
    }

    /// An index block has entries, and all blocks but the last are full.
    fn whole_block<'a>(&self, n: u64, body: Body<'a>) -> Result<IndexBlock<'a>> {
        let place = self.footer.places.index;
        let full = body.len() == ENTRIES_PER_BLOCK * INDEX_ENTRY_LEN;
        let fits = full || (n + 1 == place.blocks && body.len().is_multiple_of(INDEX_ENTRY_LEN) && !body.is_empty());
        if fits { Ok(IndexBlock { body }) } else { Err(self.bad_index(n, "a block of another length")) }
    }

    pub(super) fn index_entry(&self, n: u64, block: &IndexBlock<'_>, i: usize) -> Result<IndexEntry> {
        IndexEntry::decode(block.bytes(i)).map_err(|m| self.bad_index(n, m.what))
    }

    fn bad_index(&self, n: u64, what: &str) -> Error {
        self.view.damaged(Section::Index, self.footer.places.index.first + n, what)
    }
}
