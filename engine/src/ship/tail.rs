//! The tail: the journal's frames, brought into a cold store as they become proved durable.
//!
//! One object at a time is put, with all that has come by then; each names where the tails of older epochs ended. A tail
//! object whose put failed is put again, the same bytes under the same number, since the one before may be there, or come to
//! be there. What segments cover need not lie in the tail: frames whose journal file is used again are passed over, and are
//! cold once the version is that covers them.
//!
//! Invariant: the frames of the tail objects that count follow one another without a gap, from what the newest version says
//! is flushed.

use super::put::{There, put};
use super::tenant::Tenant;
use super::tenure::Tenure;
use crate::cold::{fetch, keys};
use crate::error::{ErrorKind, Result};
use crate::format::cold::{Tail, Unsealed};
use crate::format::frame::FrameRef;
use crate::index::Index;
use crate::io::Io;
use crate::journal::Journal;
use crate::journal::follow::{Followed, FollowedFrame, Follower};
use crate::sync::{Arc, AtomicBool, Ordering};
use crate::types::{Epoch, FrameNo, TimeUs};

/// About how many bytes of frames an object holds at most.
const TAIL_BYTES: usize = 4 << 20;
/// Tail objects past the newest version at which a flush is asked for, so that a restore has not many to read.
const TAILS_MAX: usize = 256;

/// What ships the tail to one cold store.
pub struct TailShipper {
    tenant: Arc<Tenant>,
    io: Arc<dyn Io>,
    journal: Arc<Journal>,
    /// The epoch of what follows.
    epoch: Epoch,
    /// None before the right to write is taken.
    follower: Option<Follower>,
    /// Frames read and not put yet.
    frames: Vec<FollowedFrame>,
    /// The object that is being put.
    open: Option<Open>,
    /// Whether the one that was begun last was full, so that there was more.
    was_full: bool,
    /// Set to have everything flushed.
    flush_asked: Arc<AtomicBool>,
    /// What is flushed.
    index: Arc<Index>,
}

struct Open {
    number: u64,
    tail: Tail,
    last: FrameRef,
    time: TimeUs,
}

impl TailShipper {
    /// What ships the journal of a store to the cold store of `tenant`.
    #[must_use]
    pub fn new(
        tenant: Arc<Tenant>, io: Arc<dyn Io>, journal: Arc<Journal>, index: Arc<Index>, flush_asked: Arc<AtomicBool>,
    ) -> Self {
        Self {
            tenant,
            io,
            journal,
            epoch: Epoch(0),
            follower: None,
            frames: Vec::new(),
            open: None,
            was_full: false,
            flush_asked,
            index,
        }
    }

    /// One step: takes the right to write, or puts one object. True if anything moved.
    ///
    /// # Errors
    /// As [`Tenant::take`]; [`crate::ErrorKind::Fenced`] if the store is another's by now.
    pub fn step(&mut self) -> Result<bool> {
        let shipped = self.ship();
        // An owner that is not known for certain to be one holds back what is told, not what is shipped.
        match (self.tenant.settle(), shipped) {
            (Err(error), Ok(false)) => Err(error),
            (Err(error), _) if error.kind() == ErrorKind::Fenced => Err(error),
            (_, shipped) => shipped,
        }
    }

    fn ship(&mut self) -> Result<bool> {
        let Some(tenure) = self.tenant.tenure() else {
            self.tenant.take()?;
            return Ok(true);
        };
        if self.epoch != tenure.epoch {
            self.epoch = tenure.epoch;
            (self.follower, self.open) = (None, None);
            self.frames.clear();
        }
        if !tenure.is_anchored {
            return Ok(false);
        }
        let identity = *self.tenant.identity();
        let follower = self.follower.get_or_insert_with(|| {
            Follower::new(Arc::clone(&self.io), Arc::clone(&self.journal), identity, tenure.last)
        });
        if self.open.is_none() {
            let flushed = tenure.base.manifest.flushed;
            if flushed.frame > follower.at().frame {
                // What was read lies in segments that are there.
                follower.pass_over(flushed);
                self.frames.clear();
            }
            match follower.next(TAIL_BYTES)? {
                Followed::Frames(frames) => self.frames.extend(frames),
                Followed::Nothing => {}
                // Covered by a flush that is not shipped yet; if its place is damaged, by the next one.
                Followed::Gone => {
                    if self.index.set().manifest.flushed.frame <= follower.at().frame {
                        self.flush_asked.store(true, Ordering::SeqCst);
                    }
                    return Ok(false);
                }
            }
            // An empty frame alone is nothing to ship.
            if !self.frames.iter().any(|frame| frame.header.entries > 0) {
                return Ok(false);
            }
            self.begin(&tenure);
        }
        self.put(&tenure)?;
        Ok(true)
    }

    fn begin(&mut self, tenure: &Tenure) {
        let frames = std::mem::take(&mut self.frames);
        let last = frames.last().expect("there is something to ship");
        let (last, time) = (last.frame, last.header.time);
        self.was_full = frames.iter().map(|frame| frame.bytes.len()).sum::<usize>() >= TAIL_BYTES;
        let tail = Tail {
            epoch: tenure.epoch,
            number: tenure.next_tail,
            ends: tenure.ends.clone(),
            frames: frames.into_iter().map(|frame| frame.bytes).collect(),
        };
        self.open = Some(Open { number: tenure.next_tail, tail, last, time });
    }

    fn put(&mut self, tenure: &Tenure) -> Result<()> {
        let tenant = &self.tenant;
        let Some(open) = &mut self.open else { return Ok(()) };
        let (whose, cold) = (tenant.whose(), tenant.cold());
        loop {
            open.tail.number = open.number;
            let key = keys::tail(tenure.epoch, open.number);
            match put(cold, &key, &open.tail.encode(whose))? {
                There::This => break,
                There::Other(other) => match Tail::decode(&other, whose) {
                    Ok(_) => return Err(tenant.intruded(tenure.epoch)),
                    // It was spoilt on its way, and is passed over.
                    Err(Unsealed::Malformed(_) | Unsealed::Before) => open.number += 1,
                    Err(why) => return Err(fetch::refused(cold, &key, &why)),
                },
            }
        }
        let (number, last, time) = (open.number, open.last, open.time);
        self.open = None;
        tenant.note(tenure.epoch, |tenure| {
            tenure.next_tail = number + 1;
            tenure.tails.push_back((tenure.epoch, number, last.frame));
            if last.frame > tenure.last.frame {
                tenure.last = last;
            }
            let flushed = self.index.set().manifest.flushed.frame;
            if tenure.tails.iter().filter(|(.., last)| *last > flushed).count() > TAILS_MAX {
                self.flush_asked.store(true, Ordering::SeqCst);
            }
        });
        tenant.owe(tenure.epoch, last, time);
        Ok(())
    }

    /// Asks whether this owner still is the owner, also where there is nothing to ship.
    ///
    /// # Errors
    /// As [`Tenant::check_owner`].
    pub fn check_owner(&self) -> Result<()> {
        self.tenant.check_owner()
    }

    /// Whether so much is left to be shipped that waiting for more gains nothing.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        self.was_full && !self.is_level()
    }

    /// Whether everything that is proved durable is shipped.
    #[must_use]
    pub fn is_level(&self) -> bool {
        let at = self.follower.as_ref().map_or(FrameNo(0), |follower| follower.at().frame);
        self.open.is_none() && at >= self.journal.proven()
    }
}
