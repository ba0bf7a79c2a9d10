//! What a store knows of its logs beside their records: one by name, or many in the order of their names.

use crate::error::{Error, ErrorKind, Result};
use crate::format::state::{LogState, Phase};
use crate::index::as_of::{Cutoff, Past};
use crate::index::slot::{Slot, SlotInner};
use crate::index::{Index, history};
use crate::types::{AsOf, Cursor, Lsn, Seq, TimeUs, Timeline};
use std::collections::BTreeSet;
use std::time::Duration;

/// Names taken from a segment at a time.
const NAMES_AT_ONCE: usize = 256;

/// What is durable of a log beside its records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogInfo {
    /// Its name.
    pub name: String,
    /// The first seq that is kept.
    pub first_seq: u64,
    /// The seq that the next record gets.
    pub next_seq: u64,
    /// Whether it takes no more records.
    pub closed: bool,
    /// Whether it is deleted, or has expired.
    pub deleted: bool,
    /// What is left until it expires, if it is to expire; 0 once it has. See [`crate::LogBatch::expire`].
    pub expires_in: Option<Duration>,
    /// The caller's metadata.
    pub metadata: Vec<u8>,
    /// The opaque tag of the last batch that had one; empty if none had.
    pub tag: Vec<u8>,
    /// Which timelines wrote to it, each with its first seq there.
    pub timelines: Vec<(Timeline, Seq)>,
    /// The LSN of its creation.
    pub created: Lsn,
    /// The LSN of the last change beside its records: creation, tag, trim, close, deletion; of a log that was read from
    /// segments, of the last change of anything beside them. Of a closed log that is the close, unless it was changed
    /// since.
    pub changed: Lsn,
    /// An upper bound of the LSN of its last change, records included: exact while the log is in memory, else the last LSN
    /// of the segment that its state was read from.
    pub last: Lsn,
    /// The seq at which it was forked from its parent, if it was.
    pub forked_at: Option<u64>,
}

impl LogInfo {
    /// Where the log ends.
    #[must_use]
    pub fn end(&self) -> Cursor {
        self.cursor(self.next_seq)
    }

    /// The cursor at `seq`.
    #[must_use]
    pub fn cursor(&self, seq: u64) -> Cursor {
        history::cursor(&self.timelines, Seq(seq))
    }

    fn new(name: &str, state: &LogState, now: TimeUs) -> Self {
        let left = |expiry: TimeUs| Duration::from_micros(expiry.0.saturating_sub(now.0));
        Self {
            name: name.to_owned(),
            first_seq: state.life.trim.0,
            next_seq: state.next_seq.0,
            closed: state.life.closed,
            deleted: state.life.phase_at(now) == Phase::Deleted,
            expires_in: Some(state.life.expiry).filter(|expiry| *expiry > TimeUs(0)).map(left),
            metadata: state.metadata.clone(),
            tag: state.life.tag.clone(),
            timelines: state.timelines.to_vec(),
            created: state.life.created,
            changed: state.changed.life,
            last: state.last_lsn,
            forked_at: state.life.fork.filter(|(_, at)| *at >= state.life.trim).map(|(_, at)| at.0),
        }
    }
}

/// What is durable of the log `name`, at `now` of the steady clock.
pub(super) fn info(index: &Index, name: &str, now: TimeUs) -> Result<LogInfo> {
    crate::names::check(name)?;
    let slot = index.heads.get(index.log_id(name));
    let inner = index.resolve_visible(&slot, Some(name))?;
    durable_info(&slot, &inner, name, now)
}

/// As [`info`], without waiting for anything.
pub(super) fn try_info(index: &Index, name: &str, now: TimeUs) -> Result<LogInfo> {
    crate::names::check(name)?;
    let slot = index.heads.get(index.log_id(name));
    let inner = index.try_resolve_visible(&slot, name)?;
    durable_info(&slot, &inner, name, now)
}

fn durable_info(slot: &Slot, inner: &SlotInner, name: &str, now: TimeUs) -> Result<LogInfo> {
    if inner.visible.phase == Phase::Absent {
        return Err(Error::new(ErrorKind::NotFound, "the log does not exist").log(name));
    }
    let (staged, visible) = (&inner.staged, inner.visible);
    if staged.changed.life <= visible.lsn && staged.changed.metadata <= visible.lsn {
        // What is staged are records alone: they move the end, and add timelines behind it.
        let info = LogInfo::new(name, staged, now);
        let timelines = inner.durable_timelines(slot.id)?;
        return Ok(LogInfo { next_seq: visible.next_seq.0, last: visible.lsn, timelines, ..info });
    }
    Ok(LogInfo::new(name, &inner.durable(slot.id)?, now))
}

/// What the log's records and control operations take: in segments as they are stored, and in memory. While a flush ends what
/// it moves may count twice.
pub(super) fn stored_bytes(index: &Index, name: &str) -> Result<u64> {
    crate::names::check(name)?;
    let id = index.log_id(name);
    let slot = index.heads.get(id);
    let inner = index.resolve_visible(&slot, Some(name))?;
    if inner.visible.phase == Phase::Absent {
        return Err(Error::new(ErrorKind::NotFound, "the log does not exist").log(name));
    }
    let mut bytes: u64 = inner.mem.iter().map(|entry| u64::from(entry.len)).sum();
    // With the lock held, so that nothing is in neither.
    let set = index.set();
    drop(inner);
    for segment in &set.segments {
        let mut place = None;
        loop {
            let (chunks, next) = segment.all_chunks(id, place)?;
            bytes += chunks.iter().map(|chunk| u64::from(chunk.len)).sum::<u64>();
            match next {
                Some(next) => place = Some(next),
                None => break,
            }
        }
    }
    Ok(bytes)
}

/// What there was of the log `name` as of a moment.
pub(super) fn info_as_of(index: &Index, name: &str, as_of: AsOf, cutoff: Cutoff<'_>) -> Result<LogInfo> {
    crate::names::check(name)?;
    let slot = index.heads.get(index.log_id(name));
    let past = Past::look(index, &slot, name, as_of, cutoff)?;
    past.check_created(name)?;
    // Tags lie in records, and go with them. By which time a log had expired is not known of a moment.
    let info = LogInfo::new(name, &past.state, TimeUs(0));
    Ok(LogInfo { tag: Vec::new(), expires_in: None, ..info })
}

/// The logs with `prefix`, behind `after`, at most `limit`, of which `info` tells that they are there.
pub(super) fn list(
    index: &Index, prefix: &str, after: Option<&str>, limit: usize, info: &dyn Fn(&str) -> Result<LogInfo>,
) -> Result<Vec<LogInfo>> {
    list_which(index, prefix, after, limit, info, &|info| !info.deleted)
}

/// As [`list`], of those logs that `is_wanted`.
pub(super) fn list_which(
    index: &Index, prefix: &str, after: Option<&str>, limit: usize, info: &dyn Fn(&str) -> Result<LogInfo>,
    is_wanted: &dyn Fn(&LogInfo) -> bool,
) -> Result<Vec<LogInfo>> {
    let in_memory = created_in_memory(index, prefix)?;
    let set = index.set();
    let mut out = Vec::new();
    // The least string greater than `after`; or the prefix itself.
    let mut start = match after {
        Some(after) if after >= prefix => format!("{after}\0"),
        _ => prefix.to_owned(),
    };
    while out.len() < limit {
        // A source that gave as many names as it was asked for may have more behind its last one: the page is complete
        // up to the least of these.
        let mut names = BTreeSet::new();
        let mut complete_to: Option<String> = None;
        let mut add = |page: Vec<String>| {
            if page.len() == NAMES_AT_ONCE {
                let last = page[page.len() - 1].clone();
                complete_to = Some(complete_to.take().map_or(last.clone(), |least| least.min(last)));
            }
            names.extend(page);
        };
        add(in_memory.range(start.clone()..).take(NAMES_AT_ONCE).cloned().collect());
        for segment in &set.segments {
            let page = segment.names_from(&start, NAMES_AT_ONCE)?;
            add(page.into_iter().map(|(name, ..)| name).collect());
        }
        for name in names.iter().take_while(|name| complete_to.as_ref().is_none_or(|last| *name <= last)) {
            if !name.starts_with(prefix) || out.len() == limit {
                return Ok(out);
            }
            match info(name) {
                Ok(info) if is_wanted(&info) => out.push(info),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        match complete_to {
            Some(last) => start = format!("{last}\0"),
            None => return Ok(out),
        }
    }
    Ok(out)
}

/// The names of the logs whose creation is in no segment yet.
fn created_in_memory(index: &Index, prefix: &str) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for slot in index.heads.all() {
        if let Some(name) = slot.lock().created_in_memory(slot.id)?
            && name.starts_with(prefix)
        {
            names.insert(name);
        }
    }
    Ok(names)
}
