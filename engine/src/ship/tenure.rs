//! What the holder of an epoch knows of a cold store, and how it comes to know that: by reading the tails of older epochs to
//! their ends.
//!
//! What is not part of this store's history is left aside; in the authority it refuses the store, unless that was
//! restored to have it left aside. A tail ends where a frame does not go on from the one before.

use super::tenant::Tenant;
use crate::cold::history::timeline_at;
use crate::cold::{damaged, ends, fetch, keys};
use crate::error::Result;
use crate::format::cold::{TailEnd, Version};
use crate::format::frame::FrameRef;
use crate::sync::Arc;
use crate::types::{Epoch, FrameNo};
use std::collections::VecDeque;

/// What the holder of an epoch knows of a cold store.
#[derive(Clone, Debug)]
pub struct Tenure {
    /// The epoch.
    pub epoch: Epoch,
    /// Where older epochs' tails ended.
    pub ends: Vec<TailEnd>,
    /// The newest version that counts.
    pub base: Arc<Version>,
    /// Tail objects that hold frames past what `base` says is flushed, or may: the epoch, the number, the last frame.
    pub tails: VecDeque<(Epoch, u64, FrameNo)>,
    /// The last frame that lies in a tail object that counts, or that `base` covers.
    pub last: FrameRef,
    /// Whether that is a frame of this store's journal, so that the tail can go on behind it. An empty frame need not be: what
    /// comes behind a cut begins with the same LSN. The next version is this store's own.
    pub is_anchored: bool,
    /// The number of the next tail object.
    pub next_tail: u64,
    /// The number of the next version.
    pub next_version: u64,
}

impl Tenure {
    /// Where to begin to read tails for frames past `flushed`.
    #[must_use]
    pub fn tail_from(&self, flushed: FrameNo) -> (Epoch, u64) {
        let first = self.tails.iter().find(|(.., last)| *last > flushed);
        first.map_or((self.epoch, self.next_tail), |(epoch, number, _)| (*epoch, *number))
    }

    /// A version of this store's own was committed.
    pub fn rebase(&mut self, base: Version) {
        let flushed = base.manifest.flushed;
        while self.tails.front().is_some_and(|(.., last)| *last <= flushed.frame) {
            self.tails.pop_front();
        }
        if !self.is_anchored {
            // None of them goes on from here.
            self.tails.clear();
        }
        if flushed.frame > self.last.frame || !self.is_anchored {
            self.last = flushed;
        }
        self.is_anchored = true;
        self.next_version = base.number + 1;
        self.base = Arc::new(base);
    }
}

impl Tenant {
    /// Reads the tails behind `base` to their ends, those of epochs before `epoch`. The older owner may go on putting
    /// objects until it finds the claim of that epoch, and tells nobody that they are cold.
    pub(super) fn read_tails(&self, epoch: Epoch, base: Version, next_version: u64) -> Result<Tenure> {
        let (first, from) = base.tail_from;
        // A version of this epoch names them for good.
        let ends = if base.epoch == epoch {
            base.ends.clone()
        } else {
            ends::known(self.cold(), self.whose(), &base, Epoch(epoch.0 - 1))?
        };
        let mut tenure = Tenure {
            epoch,
            ends,
            tails: VecDeque::new(),
            last: base.manifest.flushed,
            is_anchored: base.manifest.flushed == self.parts.history.flushed(),
            next_tail: 0,
            next_version,
            base: Arc::new(base),
        };
        let (mut at, manifest) = (tenure.last, &tenure.base.manifest);
        let timeline = timeline_at(&manifest.timelines, at.last_lsn);
        // Where nothing is behind the base, its last frame is the end: who begins with an older version comes that far.
        let mut end = TailEnd { epoch: first, objects: from, timeline, last: at };
        for older in (first.0..epoch.0).map(Epoch) {
            let known = tenure.ends.iter().find(|end| end.epoch == older).copied();
            let objects = if older == first { from } else { 0 };
            end = self.read_tail(&mut tenure, &mut at, TailEnd { epoch: older, objects, ..end }, known)?;
            tenure.ends.retain(|end| end.epoch != older);
            tenure.ends.push(end);
        }
        tenure.ends.sort_unstable_by_key(|end| end.epoch);
        Ok(tenure)
    }

    /// Reads the tail of an older epoch, as far as it counts, to its end, which is `known` if a successor of it has found
    /// it before; from behind `end` on, which is the end if there is nothing.
    fn read_tail(
        &self, tenure: &mut Tenure, at: &mut FrameRef, mut end: TailEnd, known: Option<TailEnd>,
    ) -> Result<TailEnd> {
        let (cold, older, history) = (self.cold(), end.epoch, &self.parts.history);
        // One that a successor found which went on elsewhere is none here.
        let known = known.filter(|known| history.holds(known.timeline, known.last.last_lsn));
        let mut number = end.objects;
        while known.is_none_or(|known| number < known.objects) {
            let key = keys::tail(older, number);
            let Some(tail) = fetch::tail(cold, self.whose(), older, number)? else { break };
            number += 1;
            // The writer of one that is damaged found that out, and put the frames again under the next number.
            let Ok(tail) = tail else { continue };
            let headers = tail.headers(self.identity()).map_err(|why| damaged(cold.url(), &key, why))?;
            let (mut last, mut is_over) = (None, false);
            for (header, frame) in &headers {
                if known.is_some_and(|known| frame.frame > known.last.frame) {
                    break;
                }
                let is_before = frame.frame <= at.frame;
                if !is_before && !header.continues(at) {
                    tracing::warn!(cold = cold.url(), key, "what lies in front of this tail object is missing");
                    is_over = true;
                    break;
                }
                if !history.holds(header.timeline, frame.last_lsn) {
                    if self.must_hold_all() {
                        return Err(self.behind(frame.last_lsn));
                    }
                    let lsn = frame.last_lsn;
                    tracing::warn!(cold = cold.url(), %lsn, "what lies there is no part of this history; it is left aside");
                    is_over = true;
                    break;
                }
                if !is_before {
                    *at = *frame;
                    last = Some(frame.frame);
                }
                if header.entries == 0 {
                    continue;
                }
                end.objects = number;
                if !is_before {
                    (tenure.last, tenure.is_anchored) = (*frame, true);
                    (end.timeline, end.last) = (header.timeline, *frame);
                }
            }
            tenure.tails.extend(last.map(|last| (older, number - 1, last)));
            if is_over {
                return Ok(known.unwrap_or(end));
            }
        }
        Ok(known.unwrap_or(TailEnd { objects: number, ..end }))
    }
}
