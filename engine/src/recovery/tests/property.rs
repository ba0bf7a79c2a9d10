//! Random histories, randomly damaged: unproven bytes may cost the tail and never more; proven ones never pass.

use super::ring::{DEPTH, Ring};
use crate::format::frame::FrameRef;
use crate::recovery::decide::Action;
use crate::types::{FrameNo, Lsn};
use proptest::prelude::*;

/// One step of a history.
#[derive(Clone, Debug)]
enum Move {
    /// A frame with so many bytes in a record.
    Frame(usize),
    /// The file is left.
    Switch,
    /// The process dies with frames in flight, the first of which is lost; the next one cuts.
    Crash,
    /// All written so far is flushed.
    Flush,
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        8 => prop_oneof![Just(0), 1..300usize, 3000..9000usize].prop_map(Move::Frame),
        2 => Just(Move::Switch),
        1 => Just(Move::Crash),
        1 => Just(Move::Flush),
    ];
    prop::collection::vec(one, 1..40)
}

const FILES: u16 = 5;
const BLOCKS: usize = 48;

/// Plays a history on a ring. Returns the flushed frame.
fn play(ring: &mut Ring, moves: &[Move], lag: bool) -> FrameRef {
    let mut flushed = FrameRef::default();
    // Per slot the last frame in it, so that only flushed files are used again.
    let mut slots = [0u64; FILES as usize];
    ring.settled = !lag;
    ring.begin(0);
    let switch = |ring: &mut Ring, slots: &[u64; FILES as usize], flushed: &mut FrameRef| {
        let here = ring.slot;
        let free = |flushed: &FrameRef| (0..FILES).find(|s| *s != here && slots[usize::from(*s)] <= flushed.frame.0);
        free(flushed).unwrap_or_else(|| {
            *flushed = ring.last;
            free(flushed).expect("everything is flushed")
        })
    };
    for one in moves {
        match one {
            Move::Frame(bytes) => {
                if ring.next_at + *bytes as u64 + 3 * 8192 > ring.file_bytes {
                    let slot = switch(ring, &slots, &mut flushed);
                    ring.watermark = (ring.last.frame, ring.last.last_lsn);
                    ring.begin(slot);
                }
                ring.frame(&[&vec![*bytes as u8; *bytes]]);
                if lag {
                    durable(ring, DEPTH as usize - 1);
                }
            }
            Move::Switch if ring.next_at > 4096 => {
                let slot = switch(ring, &slots, &mut flushed);
                ring.watermark = (ring.last.frame, ring.last.last_lsn);
                ring.begin(slot);
            }
            Move::Crash if ring.next_at > 4096 && ring.next_at + 4 * 4096 < ring.file_bytes => {
                let end = ring.last;
                let settled = std::mem::replace(&mut ring.settled, false);
                let lost = ring.written.len();
                ring.frame(&[b"lost"]);
                ring.frame(&[b"cut off, though whole"]);
                slots[usize::from(ring.slot)] = end.frame.0;
                ring.erase(lost, 0);
                let slot = switch(ring, &slots, &mut flushed);
                // The switch may have flushed frames that the crash took away.
                flushed = if flushed.frame > end.frame { end } else { flushed };
                ring.cut_to(end, slot);
                ring.settled = settled;
                ring.frame(&[b"the first on the new timeline"]);
            }
            Move::Flush => flushed = ring.last,
            Move::Switch | Move::Crash => {}
        }
        slots[usize::from(ring.slot)] = ring.last.frame.0;
    }
    flushed
}

/// Lets the watermark follow all but the last `lag` frames.
fn durable(ring: &mut Ring, lag: usize) {
    if let Some(w) = ring.written.iter().rev().nth(lag) {
        let reached = (w.at.frame, w.at.last_lsn);
        ring.watermark = ring.watermark.max(reached);
    }
}

/// The frames behind `flushed`, as a range of indexes into `written`.
fn unflushed(ring: &Ring, flushed: &FrameRef) -> usize {
    ring.written.iter().take_while(|w| w.at.frame <= flushed.frame).count()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn an_undamaged_history_comes_back_whole(moves in moves(), lag: bool) {
        let mut ring = Ring::new(FILES, BLOCKS);
        let flushed = play(&mut ring, &moves, lag);
        let from = unflushed(&ring, &flushed);
        let scanned = ring.scan_from(&flushed);
        scanned.is(&ring, from, ring.written.len() - from);
        let begins = ring.written.is_empty();
        let want = if begins { Action::Begin } else { Action::Cut { possibly_acknowledged: None } };
        prop_assert_eq!(scanned.action, want);
    }

    #[test]
    fn damage_of_unproven_bytes_leaves_a_prefix(
        moves in moves(),
        lag: bool,
        hits in prop::collection::vec(
            (any::<prop::sample::Index>(), any::<prop::sample::Index>(), 1..5000usize),
            1..4,
        ),
    ) {
        let mut ring = Ring::new(FILES, BLOCKS);
        let flushed = play(&mut ring, &moves, lag);
        let from = unflushed(&ring, &flushed);
        let proven = ring.claimed.max(flushed.frame);
        let open: Vec<_> = (0..ring.written.len()).filter(|n| ring.written[*n].at.frame > proven).collect();
        if open.is_empty() {
            return Ok(());
        }
        let mut first = ring.written.len();
        for (frame, at, len) in hits {
            let n = *frame.get(&open);
            let bytes = ring.written[n].bytes.len();
            let at = at.index(bytes);
            let len = len.min(bytes - at);
            let zeros: Vec<u8> = ring.written[n].bytes[at..at + len].iter().map(|b| !b).collect();
            ring.patch(ring.written[n].slot, ring.written[n].header.position + at as u64, &zeros);
            first = first.min(n);
        }
        let scanned = ring.scan_from(&flushed);
        let proven_frames = unflushed(&ring, &FrameRef { frame: proven, ..flushed }) - from;
        prop_assert!(scanned.accepted.len() >= proven_frames);
        // Hitting one byte twice may have mended it; in any case it is a prefix.
        scanned.is(&ring, from, scanned.accepted.len());
        prop_assert!(from + scanned.accepted.len() >= first);
        prop_assert!(matches!(scanned.action, Action::Cut { .. } | Action::Begin), "{:?}", scanned.action);
    }

    #[test]
    fn damage_of_proven_bytes_is_refused(
        moves in moves(), lag: bool, which: prop::sample::Index, at: prop::sample::Index, bit in 0..8u32,
    ) {
        let mut ring = Ring::new(FILES, BLOCKS);
        let flushed = play(&mut ring, &moves, lag);
        let from = unflushed(&ring, &flushed);
        let witness = ring.written.iter().map(|w| w.header.watermark_frame).max().unwrap_or_default();
        let proven: Vec<_> = (from..ring.written.len())
            .filter(|n| ring.written[*n].at.frame <= witness)
            .collect();
        if proven.is_empty() {
            return Ok(());
        }
        let n = *which.get(&proven);
        let frame = &ring.written[n];
        let at = at.index(frame.bytes.len());
        ring.patch(frame.slot, frame.header.position + at as u64, &[frame.bytes[at] ^ (1 << bit)]);
        let scanned = ring.scan_from(&flushed);
        scanned.is(&ring, from, n - from);
        let last = ring.written.iter().find(|w| w.at.frame == witness).map(|w| w.at.last_lsn);
        match scanned.action {
            Action::Refuse { lsns, .. } => {
                prop_assert_eq!(Lsn(lsns.start), frame.header.first_lsn);
                prop_assert!(last.is_none_or(|last| lsns.end == u64::MAX || lsns.end > last.0));
            }
            other => prop_assert!(false, "byte {at} of frame {} must be refused, not {other:?}", frame.at.frame),
        }
    }

    #[test]
    fn any_bytes_at_all_are_scanned_without_a_panic(
        moves in moves(), holes in prop::collection::vec((0..FILES, 0..BLOCKS, 0..BLOCKS, 0..FILES), 0..6),
    ) {
        let mut ring = Ring::new(FILES, BLOCKS);
        let flushed = play(&mut ring, &moves, true);
        let from = unflushed(&ring, &flushed);
        // Blocks copied from anywhere to anywhere: well-formed bytes at wrong places.
        for (slot, a, b, to) in holes {
            let block = ring.io.files.lock()[&super::ring::path(slot)][a * 4096..(a + 1) * 4096].to_vec();
            ring.patch(to, b as u64 * 4096, &block);
        }
        let scanned = ring.scan_from(&flushed);
        scanned.is(&ring, from, scanned.accepted.len());
        let witness = ring.written.iter().map(|w| w.header.watermark_frame).max().unwrap_or(FrameNo(0));
        prop_assert!(scanned.facts.end.frame.0 <= ring.last.frame.0 && witness <= ring.last.frame);
    }
}
