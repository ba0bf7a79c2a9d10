//! The second half of a scan: what stands in the journal files outside of the chain and in segments that were never
//! committed, and what it proves.
//!
//! It only reads, and continues no chain: a frame that is not in the chain is evidence, never content.
//!
//! # Which frames are evidence
//! Uses of journal files have ids that only grow, and a use begins only when the one before it was left for good:
//! because its file was full and all of its frames durable, or because an open found the end there and cut. So, for
//! a frame f of use J and the first use K > J in the chain (the chain starting with the use of the flushed frame),
//! which goes on from frame l:
//!
//! 1. f was sealed before K began. If the writer of K began it after a crash, its recovery saw f, or could have; it
//!    went on from l because nothing proved a later frame. So f's watermark is at most l, and f says nothing about
//!    what came after: it is not evidence about the present end.
//! 2. If f's watermark does claim more than l, no crash explains it: the recovery that cut at l did not see f, or the
//!    disk gave it other bytes. Frames that were durable were lost then. That is a [`Contradiction`], and the open
//!    fails rather than build upon it.
//!
//! With no such K (J is the use of the end, or a later one) f was left by the process that crashed last, and is
//! evidence: its watermark, the number of a clean close less one, and its own number less the in-flight depth are
//! proofs; the frame itself was possibly acknowledged. Its number must be higher than the end's: a later use holding
//! a number that the chain holds too means that the chain followed a branch which that use had cut.
//!
//! A header whose payload is not right counts like a whole frame here: the header's own checksum shows that the writer
//! sealed it with these words, and they were true then, whether or not the payload reached the disk. The same holds for
//! a header that stands elsewhere than it says: the disk wrote it there instead, or somebody copied it. It may have come
//! from anywhere, so that it is never a contradiction: it counts only if it lies past the end.

use super::disk::{Disk, Look, STEP};
use super::scan::{Contradiction, Facts, HeaderFacts, Link, Scan};
use crate::error::Result;
use crate::format::frame::{FLAG_CLOSE, FrameHeader, FrameRef};
use crate::format::journal::FIRST_FRAME_AT;
use crate::format::manifest::Manifest;
use crate::io::Io;
use crate::limits::frame_bytes_max;
use crate::segment;
use crate::types::{FrameNo, Lsn, SegmentId};
use std::collections::BTreeSet;
use std::ops::Range;
use std::path::Path;

/// What a device writes whole or not at all, in bytes.
const SECTOR: usize = 512;

/// How a frame's header was met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Met {
    /// With its payload.
    Whole,
    /// Its payload is not right.
    Torn,
    /// At this offset, which is not its own.
    Astray(u64),
}

/// Looks for frames at each block of `range` of a file, skipping the insides of valid ones: a payload may hold
/// anything, whole frames too.
pub(super) fn survey(
    disk: &mut Disk<'_>, file: usize, range: Range<u64>, seen: &mut dyn FnMut(&FrameHeader, Met),
) -> Result<()> {
    let mut at = range.start;
    while at < range.end {
        at += match disk.look(file, at)? {
            Look::Frame(header, ..) => {
                seen(&header, Met::Whole);
                u64::from(header.frame_len)
            }
            Look::HeaderOnly(header, _) => {
                seen(&header, Met::Torn);
                STEP
            }
            Look::Nothing(_) => {
                if let Some(header) = disk.astray(file, at)? {
                    seen(&header, Met::Astray(at));
                }
                STEP
            }
        };
    }
    Ok(())
}

/// Surveys every file outside of its accepted frames.
pub(super) fn survey_files(scan: &mut Scan<'_>) -> Result<()> {
    for n in 0..scan.facts.files.len() {
        let Scan { disk, facts, links, .. } = &mut *scan;
        let len = disk.len(n);
        let chain = facts.files[n].in_chain.clone().unwrap_or(FIRST_FRAME_AT..FIRST_FRAME_AT);
        // No frame's place is block 0, but one may have gone astray onto the file's header.
        for range in [0..chain.start, chain.end..len] {
            survey(disk, n, range, &mut |header, met| match met {
                Met::Whole | Met::Torn => classify(facts, links, n, header, met == Met::Whole),
                Met::Astray(at) => {
                    classify_astray(facts, links, n, header, at..len.min(at + u64::from(header.frame_len)))
                }
            })?;
        }
        damaged_header(scan, n)?;
    }
    Ok(())
}

/// Takes note of what the segments prove that `manifest` does not name: a flush took what was durable, wrote it, and died
/// before it committed the segment. What it took is in the journal too, unless that lost it.
pub(super) fn survey_segments(io: &dyn Io, dir: &Path, manifest: &Manifest, facts: &mut Facts) -> Result<()> {
    let named: BTreeSet<SegmentId> = manifest.segments.iter().map(|meta| meta.id).collect();
    let names = match io.list(&segment::directory(dir)) {
        Ok(names) => names,
        Err(e) if e.os_error().is_some_and(|e| e.kind() == std::io::ErrorKind::NotFound) => return Ok(()),
        Err(e) => return Err(e),
    };
    for id in names.iter().filter_map(|name| segment::id_of(name)).filter(|id| !named.contains(id)) {
        if let Some(last_lsn) = segment::last_lsn(io, dir, manifest.identity.store, id)? {
            facts.note_uncommitted(segment::path(dir, id), last_lsn);
        }
    }
    Ok(())
}

/// Takes note of what a valid frame names, wherever it stands.
pub(super) fn note_valid(facts: &mut Facts, n: usize, header: &FrameHeader) {
    note_use(facts, n, header);
    facts.manifest_seen = facts.manifest_seen.max(header.manifest);
    facts.lsn_seen = facts.lsn_seen.max(header.last_lsn());
    let (frame, lsn) = proven_by(header);
    facts.watermark = facts.watermark.max(frame);
    facts.watermark_lsn = facts.watermark_lsn.max(lsn);
}

fn note_use(facts: &mut Facts, n: usize, header: &FrameHeader) {
    facts.journal_id_max = facts.journal_id_max.max(header.journal);
    facts.files[n].journal = facts.files[n].journal.max(Some(header.journal));
}

/// The frame and the LSN that the words of this header prove durable. A clean close is written when all else is.
fn proven_by(header: &FrameHeader) -> (FrameNo, Lsn) {
    if header.flags & FLAG_CLOSE == 0 {
        return (header.watermark_frame, header.watermark);
    }
    let all_before = (FrameNo(header.frame.0 - 1), Lsn(header.first_lsn.0 - 1));
    (header.watermark_frame.max(all_before.0), header.watermark.max(all_before.1))
}

/// The frame at which the chain left this frame's use behind; None if it did not, so that the frame is evidence about
/// the present end.
fn left_behind_at(facts: &Facts, links: &[Link], header: &FrameHeader) -> Option<FrameRef> {
    let before_flushed = header.journal == facts.flushed.journal && header.position <= facts.flushed.position;
    if header.journal < facts.flushed.journal || before_flushed {
        return Some(facts.flushed);
    }
    links.iter().find(|link| link.journal > header.journal).map(|link| link.left)
}

fn classify(facts: &mut Facts, links: &[Link], n: usize, header: &FrameHeader, valid: bool) {
    if valid {
        facts.manifest_seen = facts.manifest_seen.max(header.manifest);
        facts.lsn_seen = facts.lsn_seen.max(header.last_lsn());
    }
    note_use(facts, n, header);
    let (frame, lsn) = proven_by(header);
    if let Some(left) = left_behind_at(facts, links, header) {
        if frame > left.frame || lsn > left.last_lsn {
            let lsns = left.last_lsn.0 + 1..(lsn.0 + 1).max(left.last_lsn.0 + 1);
            contradict(facts, n, header, "it proves frames that an earlier cut left out", lsns);
        }
        return;
    }
    let end = facts.end;
    // A frame that is not the first of a later use has a predecessor in that use, whose number is higher than the end
    // as well.
    let behind_its_first = header.journal > end.journal && header.position > FIRST_FRAME_AT;
    let lowest = end.frame.0 + 1 + u64::from(behind_its_first);
    if header.frame.0 < lowest {
        let lsns = header.first_lsn.0.min(end.last_lsn.0 + 1)..u64::MAX;
        contradict(facts, n, header, "it has the number of a frame that stands elsewhere in the journal", lsns);
    }
    take_evidence(facts, n, header, header.position..header.position + u64::from(header.frame_len));
}

/// Of a frame that stands in `range`, which is not its place: what it proves of the present end.
fn classify_astray(facts: &mut Facts, links: &[Link], n: usize, header: &FrameHeader, range: Range<u64>) {
    if header.frame > facts.end.frame && left_behind_at(facts, links, header).is_none() {
        note_use(facts, n, header);
        take_evidence(facts, n, header, range);
    }
}

/// Of a header past the end, which stands in `range`: what it proves, and that it was possibly acknowledged.
fn take_evidence(facts: &mut Facts, n: usize, header: &FrameHeader, range: Range<u64>) {
    let end = facts.end;
    let (frame, lsn) = proven_by(header);
    let begun_after = FrameNo(header.frame.0.saturating_sub(u64::from(header.depth)));
    if begun_after > end.frame {
        facts.beyond.past_depth = true;
    }
    if frame > end.frame || lsn > end.last_lsn || begun_after > end.frame {
        let place = facts.place(n, range.start);
        facts.witness.get_or_insert(place);
    }
    facts.watermark = facts.watermark.max(frame).max(begun_after);
    facts.watermark_lsn = facts.watermark_lsn.max(lsn);
    facts.beyond.present = true;
    facts.beyond.last_lsn = facts.beyond.last_lsn.max(header.last_lsn());
    note_torn(facts, n, range);
}

fn contradict(facts: &mut Facts, n: usize, header: &FrameHeader, what: &'static str, lsns: Range<u64>) {
    let place = facts.place(n, header.position);
    facts.contradiction.get_or_insert(Contradiction { place, what, lsns });
}

fn note_torn(facts: &mut Facts, n: usize, range: Range<u64>) {
    let torn = facts.files[n].torn.get_or_insert(range.clone());
    *torn = torn.start.min(range.start)..torn.end.max(range.end);
}

/// Looks for the damaged header of a frame where the next one would stand: right behind the end, and first in a file
/// whose header says that a later use was begun, where anything counts that no crash leaves. Elsewhere an older use's
/// frame may have been half overwritten.
fn damaged_header(scan: &mut Scan<'_>, n: usize) -> Result<()> {
    let end = scan.facts.end;
    let behind = (scan.facts.end_file == Some(n) && end.frame.0 > 0)
        .then(|| (end.journal, end.position + u64::from(end.frame_len)));
    let begun = match &scan.facts.files[n].header {
        HeaderFacts::Valid(header) if header.journal > end.journal => Some((header.journal, FIRST_FRAME_AT)),
        _ => None,
    };
    let store = scan.identity.store;
    for (journal, at) in behind.into_iter().chain(begun) {
        if !matches!(scan.disk.look(n, at)?, Look::Nothing(_)) {
            continue;
        }
        // Each use begins with its first frame, whose header lies in one sector: zeros or the header of some use are all
        // that a crash leaves there.
        let foreign = |block: &[u8]| at == FIRST_FRAME_AT && block[..SECTOR].iter().any(|b| *b != 0);
        let damaged = |block: &[u8]| FrameHeader::resembles(block, store, journal, at) || foreign(block);
        if scan.disk.block(n, at)?.is_some_and(damaged) {
            scan.facts.beyond.present = true;
            scan.facts.beyond.unknown = true;
            let frame = frame_bytes_max(scan.facts.files[n].bytes) as u64;
            let to = scan.disk.len(n).min(at + frame);
            note_torn(&mut scan.facts, n, at..to);
        }
    }
    Ok(())
}
