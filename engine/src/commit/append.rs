//! An append: from the caller's batch to a place in the next frame.
//!
//! In this order, so that nothing waits under a lock: room in the pool; the slots of all logs, their state looked up;
//! their locks, in the order of the LogIds; the plan of each; encoding, of a large batch; the lane's lock; encoding, of any
//! other; the locks go.

use super::ack::{Ack, LogReceipt, Pending, Receipt};
use super::batch::{Batch, LogBatch, LogOp};
use super::encoded::{self, Body, Encoded};
use super::lane::{Due, Group, Lane, LaneInner, StagedEntry};
use super::leader::Leader;
use super::plan::{Entries, Now, Parent, Planned, Verdict, first_asked, plan};
use super::throttle::{Behind, Throttle, Turn};
use crate::config::WhenFull;
use crate::error::{Error, ErrorKind, Result};
use crate::format::entry::{BATCH_HEADER_LEN, Kind, first_kept_payload};
use crate::format::frame::HEADER_LEN;
use crate::format::state::LogState;
use crate::index::apply::{Stamp, apply};
use crate::index::grace::Grace;
use crate::index::memory::ENTRY_OVERHEAD;
use crate::index::pool::Pool;
use crate::index::set::SegmentSet;
use crate::index::slot::{SLOT_BYTES, Slot, SlotInner, Visible};
use crate::index::{Index, history, would_block};
use crate::io::Wake;
use crate::journal::Journal;
use crate::mutants::{self, Mutant};
use crate::poison::Poison;
use crate::sync::{Arc, MutexGuard};
use crate::types::{LogId, Lsn, TimeUs, Timeline};
use smallvec::SmallVec;
use std::time::Duration;

/// Bytes that a parent's list of timelines may take in a fork's entry, per item.
const TIMELINE_BYTES: usize = 8 + 10;
/// A bound of a pin's bytes in a batch, and of what it takes of the pool beside them.
const PIN_BYTES: usize = 16 + 1 + 2 + 10 + 10 + 4;
const PIN_POOL_BYTES: usize = ENTRY_OVERHEAD + SLOT_BYTES;
/// When a caller whom the pool turned away should come back.
const RETRY_AFTER: Duration = Duration::from_millis(20);

/// Everything an append needs. Shared by all callers.
pub struct Appender {
    /// The logs.
    pub index: Arc<Index>,
    /// Where batches are staged.
    pub lane: Arc<Lane>,
    /// Checked before, and again under the lane's lock.
    pub poison: Arc<Poison>,
    /// The journal's files.
    pub journal: Arc<Journal>,
    /// Ends the committer's sleep, or commits in its place.
    pub leader: Leader,
    /// Asks for a flush, for want of room.
    pub pressure: Arc<dyn Wake>,
    /// The journal file size that the limits follow.
    pub journal_file_bytes: u64,
    /// Slows down what comes faster than it can be stored.
    pub throttle: Throttle,
    /// For how long a deletion can be taken back.
    pub grace: Arc<Grace>,
    /// What to do when the pool is full.
    pub when_full: WhenFull,
    /// The timeline of this open.
    pub timeline: Timeline,
}

/// Room in the pool that goes back unless it is used.
struct Room<'a> {
    pool: &'a Pool,
    bytes: usize,
}

impl Drop for Room<'_> {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.pool.give(self.bytes);
        }
    }
}

/// Whether a call may wait.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Patience {
    /// For the disk, for memory, for whoever holds a log.
    Block,
    /// As that, and for the acknowledgement next.
    BlockAndWait,
    /// For nothing but the lane, which nobody holds for longer than it takes to encode a small batch or to copy a large one.
    Now,
}

/// A batch with what was found of its logs.
struct Asked<'s, 'a> {
    batch: &'s Batch<'a>,
    slots: &'s [Arc<Slot>],
    parents: &'s [Option<Arc<Slot>>],
    /// Whether the caller waits for the acknowledgement next.
    waits: bool,
}

/// What there is one of for each log of a batch, most often of one log.
type PerLog<T> = SmallVec<[T; 1]>;

/// The locked slots of a batch's logs and their parents, in the order of their LogIds.
struct Guards<'s>(PerLog<(LogId, MutexGuard<'s, SlotInner>)>);

impl<'s> Guards<'s> {
    /// Locks the slots, each by `lock`.
    fn lock(
        slots: impl Iterator<Item = &'s Arc<Slot>>, lock: impl Fn(&'s Slot) -> Result<MutexGuard<'s, SlotInner>>,
    ) -> Result<Self> {
        let mut order: PerLog<&Arc<Slot>> = slots.collect();
        order.sort_unstable_by_key(|slot| slot.id);
        order.dedup_by_key(|slot| slot.id);
        order.into_iter().map(|slot| Ok((slot.id, lock(slot)?))).collect::<Result<_>>().map(Self)
    }

    /// The one slot of a batch, locked by the look at its state.
    fn of_one(slot: &Slot, inner: MutexGuard<'s, SlotInner>) -> Self {
        Self(PerLog::from_buf([(slot.id, inner)]))
    }

    fn at(&self, id: LogId) -> usize {
        self.0.binary_search_by_key(&id, |(id, _)| *id).expect("the slot of every log and parent was locked")
    }

    fn of(&self, id: LogId) -> &SlotInner {
        &self.0[self.at(id)].1
    }

    fn of_mut(&mut self, id: LogId) -> &mut SlotInner {
        let at = self.at(id);
        &mut self.0[at].1
    }
}

impl Appender {
    /// Stages `batch`. The returned acknowledgement is answered once it is durable, or once what a refusal rests on is.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`], [`ErrorKind::Overloaded`], [`ErrorKind::Poisoned`], [`ErrorKind::Damaged`],
    /// [`ErrorKind::ShutDown`]: nothing was staged.
    pub fn append(&self, batch: &Batch<'_>) -> Result<Ack> {
        let (ack, due) = self.append_with(batch, Patience::Block)?;
        self.wake(due);
        Ok(ack)
    }

    /// As [`Self::append`], for a caller who waits for the answer next: where the committer would have to be woken, this
    /// commits in its place if it can.
    ///
    /// # Errors
    /// As there.
    pub fn append_and_lead(&self, batch: &Batch<'_>) -> Result<Ack> {
        let (ack, due) = self.append_with(batch, Patience::BlockAndWait)?;
        match due {
            Due::Nothing => {}
            Due::Begin => self.leader.commit(),
            Due::Tend(clients) => self.leader.tend(clients),
        }
        Ok(ack)
    }

    /// As [`Self::append`], without waiting for the disk, for memory or for another caller.
    ///
    /// # Errors
    /// As there, and [`ErrorKind::WouldBlock`] where it would have to wait: nothing was staged.
    pub fn try_append(&self, batch: &Batch<'_>) -> Result<Ack> {
        let (ack, due) = self.append_with(batch, Patience::Now)?;
        self.wake(due);
        Ok(ack)
    }

    fn wake(&self, due: Due) {
        if due != Due::Nothing {
            self.leader.waker.wake();
        }
    }

    /// Also what is to be seen to for what was staged.
    fn append_with(&self, batch: &Batch<'_>, patience: Patience) -> Result<(Ack, Due)> {
        self.poison.check()?;
        batch.check(self.journal_file_bytes)?;
        let slots: PerLog<Arc<Slot>> =
            batch.logs.iter().map(|log| self.index.heads.get(self.index.log_id(log.name))).collect();
        let parents: PerLog<Option<Arc<Slot>>> = batch.logs.iter().map(|log| self.parent(log)).collect();
        for (n, parent) in parents.iter().enumerate() {
            let Some(parent) = parent else { continue };
            // A fork is of what its parent was before the batch, which other metadata does not change.
            let changes = |log: &LogBatch<'_>| !log.ops.iter().all(|op| matches!(op, LogOp::Metadata(_)));
            let mut others = slots.iter().zip(&batch.logs).enumerate().filter(|(other, _)| *other != n);
            if others.any(|(_, (slot, log))| slot.id == parent.id && changes(log)) {
                let what = "the batch forks a log that it has something else for than metadata";
                return Err(Error::new(ErrorKind::Invalid, what).log(batch.logs[n].name).remedy("use two batches"));
            }
        }
        loop {
            if patience == Patience::Now && parents.iter().any(Option::is_some) {
                return Err(would_block());
            }
            let forks = self.fork_bytes(batch, &parents)?;
            let mut room = self.room(batch, forks, patience)?;
            let mut guards = if let ([slot], [None]) = (&slots[..], &parents[..]) {
                Guards::of_one(slot, self.resolve(slot, batch.logs[0].name, patience)?)
            } else {
                for (slot, log) in slots.iter().zip(&batch.logs) {
                    drop(self.resolve(slot, log.name, patience)?);
                }
                Guards::lock(slots.iter().chain(parents.iter().flatten()), |slot| match patience {
                    Patience::Block | Patience::BlockAndWait => Ok(slot.lock()),
                    Patience::Now => slot.try_lock().ok_or_else(would_block),
                })?
            };
            // Only what was told of a producer long ago is looked up while the locks are held.
            let looks_up = patience != Patience::Now && batch.logs.iter().any(|log| log.producer.is_some());
            let set = looks_up.then(|| self.index.set());
            let waits = patience == Patience::BlockAndWait;
            let asked = Asked { batch, slots: &slots, parents: &parents, waits };
            let plans = self.plan(&asked, &mut guards, set.as_deref())?;
            let (entries, bytes) = sizes(&plans);
            let pinned = parents.iter().flatten().count() * PIN_POOL_BYTES;
            let needed = bytes + entries * ENTRY_OVERHEAD + slots.len() * SLOT_BYTES + pinned;
            if needed > room.bytes {
                // A parent of a fork was written by another timeline in between.
                continue;
            }
            return self.stage(&asked, plans, &mut guards, &mut room);
        }
    }

    fn resolve<'s>(&self, slot: &'s Slot, name: &str, patience: Patience) -> Result<MutexGuard<'s, SlotInner>> {
        match patience {
            Patience::Block | Patience::BlockAndWait => self.index.resolve(slot, Some(name)),
            Patience::Now => self.index.try_resolve(slot, name),
        }
    }

    fn parent(&self, log: &LogBatch<'_>) -> Option<Arc<Slot>> {
        match log.ops[0] {
            LogOp::Fork { parent, .. } => Some(self.index.heads.get(self.index.log_id(parent))),
            _ => None,
        }
    }

    /// What the parents' lists of timelines take, checked against the frame's limit.
    fn fork_bytes(&self, batch: &Batch<'_>, parents: &[Option<Arc<Slot>>]) -> Result<usize> {
        let mut bytes = 0;
        for (log, parent) in batch.logs.iter().zip(parents) {
            if let (Some(parent), LogOp::Fork { parent: name, .. }) = (parent, log.ops[0]) {
                let inner = self.index.resolve(parent, Some(name))?;
                bytes +=
                    (inner.staged.timelines.len() + 1) * TIMELINE_BYTES + inner.staged.metadata.len() + 4 + PIN_BYTES;
            }
        }
        let batch_bytes: usize = batch.logs.iter().map(LogBatch::encoded_max).sum();
        let (needed, max) = (HEADER_LEN + batch_bytes + bytes, self.lane.frame_max());
        if needed > max {
            let what = format!("the batch takes {needed} bytes of a frame, which has at most {max}");
            return Err(Error::new(ErrorKind::Invalid, what)
                .beyond_limit(needed as u64, max as u64)
                .remedy("split it, or create the store with larger journal files"));
        }
        Ok(bytes)
    }

    fn room(&self, batch: &Batch<'_>, forks: usize, patience: Patience) -> Result<Room<'_>> {
        let entries: usize = batch.logs.iter().map(|log| log.ops.len()).sum();
        let bytes: usize = batch.logs.iter().map(LogBatch::encoded_max).sum();
        let pins = batch.logs.iter().filter(|log| matches!(log.ops[0], LogOp::Fork { .. })).count() * PIN_POOL_BYTES;
        // In the place of a log that expired, a deletion goes first.
        let creations = batch.logs.iter().filter(|log| matches!(log.ops[0], LogOp::Create { .. })).count();
        let overhead = (entries + creations) * ENTRY_OVERHEAD;
        let bytes = bytes + forks + overhead + batch.logs.len() * SLOT_BYTES + pins;
        let pool = &self.index.pool;
        if bytes > pool.bytes_max() {
            let max = pool.bytes_max();
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("the batch takes {bytes} bytes of memory, of {max} in all"),
            )
            .beyond_limit(bytes as u64, max as u64)
            .remedy("split it, or raise memory_pool_bytes"));
        }
        self.await_turn(bytes, patience)?;
        // Memory may have room for long after the journal has none: what is staged then is not answered before it has.
        let journal_full = self.when_full == WhenFull::Reject && self.journal.ring.is_full();
        let taken = match self.when_full {
            _ if journal_full => false,
            WhenFull::Wait if patience == Patience::Now => {
                return if pool.try_take(bytes) { Ok(Room { pool, bytes }) } else { Err(would_block()) };
            }
            WhenFull::Reject => pool.try_take(bytes),
            WhenFull::Wait => pool.take(bytes, || self.pressure.wake()),
        };
        if taken {
            return Ok(Room { pool, bytes });
        }
        // A store that stopped says so: no retry would ever find room.
        self.poison.check()?;
        drop(self.lane.lock()?);
        // Less may be durable than makes a flush due by itself.
        self.pressure.wake();
        self.index.metrics.overloads.add(1);
        let (what, remedy) = if journal_full {
            let what = "the journal is full, and none of its files can be made or freed";
            (what.to_owned(), "free space on the disk, and retry later")
        } else {
            let (taken, max) = (pool.taken(), pool.bytes_max());
            let what = format!(
                "the memory for records that are not in a segment yet is full: {taken} of {max} bytes are taken, {bytes} \
                 more were asked for"
            );
            (what, "retry later, or raise memory_pool_bytes")
        };
        Err(Error::new(ErrorKind::Overloaded, what).retry_in(RETRY_AFTER).remedy(remedy))
    }

    /// Why no append is taken at this moment, where it is not for want of memory or of the journal.
    pub fn held_back(&self) -> Option<Error> {
        self.throttle.check_contact().err().or_else(|| self.throttle.behind().map(too_far))
    }

    /// Waits for the batch's turn, where appends are slowed down. Who does not wait for memory does not wait for it either,
    /// and is turned away when nothing can be taken at all.
    fn await_turn(&self, bytes: usize, patience: Patience) -> Result<()> {
        loop {
            self.throttle.check_contact()?;
            let (pause, behind) = match self.throttle.turn(bytes) {
                Turn::Now => return Ok(()),
                Turn::After(pause) => (pause, None),
                Turn::Full(pause, behind) => (pause, Some(behind)),
            };
            match (self.when_full, behind) {
                (WhenFull::Reject, None) => return Ok(()),
                (WhenFull::Reject, Some(behind)) => {
                    self.poison.check()?;
                    self.index.metrics.overloads.add(1);
                    return Err(too_far(behind));
                }
                (WhenFull::Wait, _) if patience == Patience::Now => return Err(would_block()),
                (WhenFull::Wait, _) => {
                    self.index.metrics.slowed.add(1);
                    if !self.index.pool.pause(pause) || behind.is_none() {
                        return Ok(());
                    }
                    self.poison.check()?;
                }
            }
        }
    }

    fn plan<'a>(
        &self, asked: &Asked<'_, 'a>, guards: &mut Guards<'_>, set: Option<&SegmentSet>,
    ) -> Result<PerLog<Verdict<'a>>> {
        let Asked { batch, slots, parents, .. } = *asked;
        let over = || self.grace.cutoff(&self.index.set().manifest);
        let now = Now { time: self.grace.now(), over: &over };
        let mut plans = PerLog::with_capacity(slots.len());
        for ((slot, log), parent) in slots.iter().zip(&batch.logs).zip(parents) {
            let parent = parent.as_ref().map(|parent| {
                let state = guards.of(parent.id).staged.clone();
                Parent { id: parent.id, state }
            });
            let inner = guards.of_mut(slot.id);
            plans.push(plan(slot.id, inner, log, parent.as_ref(), set, &now)?);
        }
        Ok(plans)
    }

    fn stage(
        &self, asked: &Asked<'_, '_>, plans: PerLog<Verdict<'_>>, guards: &mut Guards<'_>, room: &mut Room<'_>,
    ) -> Result<(Ack, Due)> {
        let Asked { batch, slots, .. } = *asked;
        // A refusal of a fork rests on its parent as well: every log that was locked counts.
        let rests_on = guards.0.iter().map(|(_, inner)| inner.staged.last_lsn).max().unwrap_or_default();
        if plans.iter().any(|verdict| matches!(verdict, Verdict::Duplicate(..))) {
            return self.settle(rests_on, repeated(batch, slots, plans, guards));
        }
        let mut groups = PerLog::with_capacity(plans.len());
        for verdict in plans {
            match verdict {
                Verdict::Go(entries) => groups.push(entries),
                Verdict::Refuse(error) => return self.settle(rests_on, Err(error)),
                Verdict::Duplicate(..) => unreachable!("looked for just now"),
            }
        }
        if groups.iter().all(Entries::is_empty) {
            let logs = slots.iter().map(|slot| at_present(&guards.of(slot.id).staged, false)).collect();
            return self.settle(rests_on, Ok(Receipt { logs }));
        }
        debug_assert_eq!(groups.len(), batch.logs.len());
        self.encode(asked, &groups, guards, room)
    }

    /// Has an answer given that stores nothing, once what it rests on is durable.
    fn settle(&self, lsn: Lsn, answer: Result<Receipt>) -> Result<(Ack, Due)> {
        let (pending, ack) = Pending::new(answer);
        let lsn = if mutants::makes(Mutant::AnsweredEarly) { Lsn(0) } else { lsn };
        let due = self.lane.lock()?.settle_at(lsn, pending, self.index.watermark());
        if let Some(pending) = due {
            self.poison.unless_set(|| pending.give()).ok_or_else(|| self.poison.error())?;
        }
        Ok((ack, Due::Nothing))
    }

    fn encode(
        &self, asked: &Asked<'_, '_>, groups: &[Entries<'_>], guards: &mut Guards<'_>, room: &mut Room<'_>,
    ) -> Result<(Ack, Due)> {
        let Asked { batch, slots, parents, waits } = *asked;
        let pins = pins(parents, groups, guards);
        let all = || groups.iter().flatten().chain(pins.iter().map(|(_, pin)| pin));
        let count = all().count();
        let len = BATCH_HEADER_LEN + all().map(|planned| planned.entry().encoded_len()).sum::<usize>();
        let parts = slots.iter().zip(groups).flat_map(|(slot, planned)| planned.iter().map(|entry| (slot.id, entry)));
        let parts = parts.chain(pins.iter().map(|(slot, pin)| (slot.id, pin)));
        // Freed behind the lock.
        let encoded = (len >= encoded::FROM_BYTES).then(|| Encoded::new(parts, len, count));
        let mut receipt = Receipt { logs: Vec::with_capacity(slots.len()) };
        let mut used = 0;
        let mut lane = self.lane.lock()?;
        lane.room(len, self.lane.frame_max(), self.lane.buffers());
        lane.begin_batch(len, count);
        let mut bodies = encoded.as_ref().map(|encoded| encoded.put(lane.open()));
        for ((slot, planned), log) in slots.iter().zip(groups).zip(&batch.logs) {
            let inner = guards.of_mut(slot.id);
            if planned.is_empty() {
                let producer_highest = log.producer.map(|producer| producer.number);
                receipt.logs.push(LogReceipt { producer_highest, ..at_present(&inner.staged, false) });
                continue;
            }
            let first_seq = planned[first_asked(planned)].seq;
            used += self.put(&mut lane, slot, inner, planned, &mut bodies);
            receipt.logs.push(LogReceipt {
                first_seq: first_seq.0,
                producer_highest: log.producer.map(|producer| producer.number),
                ..at_present(&inner.staged, false)
            });
        }
        for (slot, pin) in &pins {
            let inner = guards.of_mut(slot.id);
            used += self.put(&mut lane, slot, inner, std::slice::from_ref(pin), &mut bodies);
        }
        let (pending, ack) = Pending::with_others(Ok(receipt), &lane.open().event);
        lane.open().waiting.push(pending);
        lane.open().callers += usize::from(waits);
        let due = lane.due();
        drop(lane);
        let spare = room.bytes.checked_sub(used).expect("room was taken for the whole batch");
        room.bytes = spare;
        Ok((ack, due))
    }

    /// Puts what a batch holds for a log into the open frame, unless it is there already, where the next of `bodies` say, and
    /// carries it out. Gives the bytes of the pool that it takes.
    fn put(
        &self, lane: &mut LaneInner, slot: &Arc<Slot>, inner: &mut SlotInner, planned: &[Planned<'_>],
        bodies: &mut Option<impl Iterator<Item = Body>>,
    ) -> usize {
        let mut used = if std::mem::replace(&mut inner.pooled, true) { 0 } else { SLOT_BYTES };
        let state = &mut inner.staged;
        let first = lane.open().entries.len();
        for planned in planned {
            let entry = planned.entry();
            let open = lane.open();
            let body = match bodies {
                Some(bodies) => bodies.next().expect("every entry was encoded"),
                None => Body::encoded(slot.id, planned, &mut open.buf, HEADER_LEN),
            };
            if entry.kind == Kind::Record {
                open.records += 1;
                open.payload_bytes += entry.payload.len() as u64;
            }
            used += body.len as usize + ENTRY_OVERHEAD;
            let lsn = lane.note(StagedEntry {
                at: body.at,
                len: body.len,
                seq: entry.seq,
                kind: entry.kind,
                plain: entry.is_plain(),
            });
            let stamp = Stamp { lsn, time: TimeUs(0), timeline: self.timeline };
            apply(state, &entry, stamp).expect("planned on this very state");
        }
        let entries = first..lane.open().entries.len();
        let group = Group { slot: Arc::clone(slot), entries, visible: Visible::of(state) };
        lane.open().groups.push(group);
        used
    }
}

/// What pins the parents of forks, each from the first seq on that it keeps, unless it is pinned from there already. A fork
/// below the point where its parent is a fork reads the grandparent, which the parent pinned.
fn pins(
    parents: &[Option<Arc<Slot>>], groups: &[Entries<'_>], guards: &Guards<'_>,
) -> Vec<(Arc<Slot>, Planned<'static>)> {
    let mut pins: Vec<(Arc<Slot>, Planned<'static>)> = Vec::new();
    for (parent, fork) in parents.iter().zip(groups) {
        let (Some(parent), Some(fork)) = (parent, fork.first()) else { continue };
        let state = &guards.of(parent.id).staged;
        let (kept, life) = (state.life.trim, &state.life);
        let reads_it = life.fork.is_none_or(|(_, forked_at)| forked_at < fork.seq);
        let is_pinned =
            life.pinned.is_some_and(|from| from <= kept) || pins.iter().any(|(slot, _)| slot.id == parent.id);
        if reads_it && !is_pinned && !mutants::makes(Mutant::PinForgotten) {
            let payload = first_kept_payload(kept).into();
            let pin = Planned { kind: Kind::Pin, seq: state.next_seq, payload, producer: None, tag: None };
            pins.push((Arc::clone(parent), pin));
        }
    }
    pins
}

/// The answer to a batch of which a numbered part was appended before: the old receipts, if nothing of it is new. The
/// creation of a log that exists is nothing new; anything else that is, or is refused, makes it another batch than the
/// one that was appended.
fn repeated(
    batch: &Batch<'_>, slots: &[Arc<Slot>], plans: PerLog<Verdict<'_>>, guards: &Guards<'_>,
) -> Result<Receipt> {
    let mut logs = Vec::with_capacity(plans.len());
    for ((verdict, slot), log) in plans.into_iter().zip(slots).zip(&batch.logs) {
        let only_creates = matches!(log.ops[..], [LogOp::Create { .. }]);
        logs.push(match verdict {
            Verdict::Duplicate(issued, highest) => LogReceipt {
                first_seq: issued.first_seq.0,
                next_seq: issued.next_seq.0,
                lsn: issued.lsn,
                duplicate: true,
                timeline: history::cursor(&guards.of(slot.id).staged.timelines, issued.next_seq).timeline,
                producer_highest: Some(highest),
            },
            Verdict::Go(entries) if entries.is_empty() => at_present(&guards.of(slot.id).staged, true),
            Verdict::Refuse(error) if only_creates && error.kind() == ErrorKind::Exists => {
                at_present(&guards.of(slot.id).staged, true)
            }
            Verdict::Refuse(error) => return Err(error),
            Verdict::Go(_) => {
                let what = "a part of the batch was appended before, a part was not";
                let error = Error::new(ErrorKind::ProducerConflict, what).log(log.name);
                return Err(error.remedy("repeat a batch as it was, and number every log's part of it"));
            }
        });
    }
    Ok(Receipt { logs })
}

/// The error of an append that is not taken before something has caught up.
fn too_far(behind: Behind) -> Error {
    let (what, remedy) = match behind {
        Behind::Merges(due) => (
            format!("merges are behind: {due} segments are due to be merged"),
            "retry later; if it stays so, see why merges fail or give the store a faster disk",
        ),
        Behind::Cold(lag) => (
            format!("the cold store is {} s behind, which is more than cold_lag_max", lag.as_secs()),
            "retry later; if it stays so, see that the cold store can be reached and is fast enough",
        ),
    };
    Error::new(ErrorKind::Overloaded, what).retry_in(RETRY_AFTER).remedy(remedy)
}

/// The receipt of a part that stores nothing.
fn at_present(state: &LogState, duplicate: bool) -> LogReceipt {
    LogReceipt {
        first_seq: state.next_seq.0,
        next_seq: state.next_seq.0,
        lsn: state.last_lsn,
        duplicate,
        timeline: history::cursor(&state.timelines, state.next_seq).timeline,
        producer_highest: None,
    }
}

/// Entries and encoded bytes of what is to be appended.
fn sizes(plans: &[Verdict<'_>]) -> (usize, usize) {
    let mut total = (0, BATCH_HEADER_LEN);
    for verdict in plans {
        if let Verdict::Go(entries) = verdict {
            total.0 += entries.len();
            total.1 += entries.iter().map(|planned| planned.entry().encoded_len()).sum::<usize>();
        }
    }
    total
}
