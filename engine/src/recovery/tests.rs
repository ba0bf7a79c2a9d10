//! What a crash, a cut, a recycled file and a damaged byte leave, and what recovery must make of each.

mod evidence;
mod property;
mod ring;

use super::decide::Action;
use super::repair;
use super::replay::Extent;
use super::scan::{Anchor, HeaderFacts};
use super::torn;
use crate::error::ErrorKind;
use crate::format::frame::{FLAG_OPEN, FrameHeader, FrameRef, HEADER_LEN};
use crate::journal::names;
use crate::types::{BLOCK, FrameNo, JournalId, Lsn, ManifestVersion};
use ring::{DEPTH, Ring, path};
use std::path::Path;

const CUT: Action = Action::Cut { possibly_acknowledged: None };

fn possibly(from: u64, to: u64) -> Action {
    Action::Cut { possibly_acknowledged: Some((Lsn(from), Some(Lsn(to)))) }
}

/// A ring of three files with `frames` frames of one record in the first.
fn one_file(frames: usize) -> Ring {
    let mut ring = Ring::new(3, 64);
    ring.begin(0);
    for n in 0..frames {
        ring.frame(&[format!("record {n}").as_bytes()]);
    }
    ring
}

fn refused(action: &Action) -> (u64, u64) {
    match action {
        Action::Refuse { lsns, .. } => (lsns.start, lsns.end),
        other => panic!("this must be refused, not {other:?}"),
    }
}

#[test]
fn a_new_store_begins() {
    let ring = Ring::new(3, 64);
    let scanned = ring.scan();
    assert_eq!(scanned.action, Action::Begin);
    assert_eq!(scanned.facts.anchor, Anchor::Start);
    assert!(scanned.facts.files.iter().all(|f| f.spare && f.header == HeaderFacts::Blank && f.journal.is_none()));
}

#[test]
fn a_first_open_that_died_before_its_first_frame_begins_again() {
    let mut ring = Ring::new(3, 64);
    ring.begin(0);
    let scanned = ring.scan();
    assert_eq!(scanned.action, Action::Begin);
    assert_eq!(scanned.facts.journal_id_max, JournalId(1), "its id is not used again");
}

#[test]
fn a_directory_without_journal_files_is_refused() {
    let ring = Ring::new(0, 64);
    assert_eq!(refused(&ring.scan().action), (1, u64::MAX));
}

#[test]
fn a_file_that_is_missing_before_another_is_refused() {
    let mut ring = one_file(2);
    ring.begin(2);
    ring.frame(&[b"in the third"]);
    ring.close();
    assert_eq!(ring.scan().action, Action::GoOn);
    for slot in [1, 0] {
        let file = ring.io.files.lock().remove(&path(slot)).expect("a file of the ring");
        let Action::Refuse { why, .. } = ring.scan().action else { panic!("file {slot} is missing") };
        assert!(why.contains(&names::file_name(slot)), "{why}");
        ring.io.files.lock().insert(path(slot), file);
    }
}

#[test]
fn a_file_that_was_cut_short_is_refused_unless_all_it_held_is_flushed() {
    let mut ring = one_file(4);
    let flushed = ring.written[1].at;
    let cut = ring.written[2].header.position + 1000;
    ring.io.files.lock().get_mut(&path(0)).expect("a file of the ring").truncate(cut as usize);
    let Action::Refuse { why, lsns } = ring.scan_from(&flushed).action else { panic!("frames may be gone") };
    assert!(why.contains("was cut short"), "{why}");
    assert_eq!(lsns, flushed.last_lsn.0 + 1..u64::MAX);
    ring.begin(1);
    let flushed = ring.frame(&[b"later"]);
    assert_eq!(ring.scan_from(&flushed).facts.shortened, None);
}

#[test]
fn a_file_that_was_cut_short_and_lost_its_header_is_refused_as_well() {
    for cut in [0, 1000, 4096, 12_288 + 2000] {
        let ring = one_file(4);
        let mut files = ring.io.files.lock();
        let file = files.get_mut(&path(0)).expect("a file of the ring");
        file.truncate(cut);
        file.iter_mut().take(4096).for_each(|byte| *byte = 0);
        drop(files);
        let Action::Refuse { why, lsns } = ring.scan().action else { panic!("{cut} bytes are left of the first file") };
        assert!(why.contains("was cut short"), "{why}");
        assert_eq!(lsns, 1..u64::MAX);
    }
}

#[test]
fn a_clean_chain_over_several_files_goes_on() {
    let mut ring = Ring::new(4, 16);
    for slot in 0..3 {
        ring.begin(slot);
        for n in 0..4 {
            ring.frame(&[&vec![n; 5000], b"", &[n]]);
        }
    }
    ring.close();
    let scanned = ring.scan();
    scanned.is(&ring, 0, 13);
    assert_eq!(scanned.action, Action::GoOn);
    assert_eq!(scanned.facts.end_file, Some(2));
    assert_eq!(scanned.facts.end.last_lsn, Lsn(36));
    assert_eq!(scanned.facts.files.iter().map(|f| f.spare).collect::<Vec<_>>(), [false, false, false, true]);
    assert_eq!(scanned.facts.files[1].in_chain, Some(4096..4096 + 4 * 8192));
}

#[test]
fn the_chain_begins_behind_the_flushed_frame() {
    let ring = one_file(6);
    let flushed = ring.written[3].at;
    let scanned = ring.scan_from(&flushed);
    scanned.is(&ring, 4, 2);
    assert_eq!(scanned.action, CUT);
    // The frame that is flushed may rot: nothing of it is needed.
    ring.flip_in(3, HEADER_LEN + 1);
    ring.flip_in(3, 20);
    ring.scan_from(&flushed).is(&ring, 4, 2);
}

#[test]
fn a_file_whose_frames_are_all_flushed_is_spare() {
    let mut ring = one_file(3);
    ring.begin(1);
    let flushed = ring.frame(&[b"x"]);
    let end = ring.frame(&[b"y"]);
    let scanned = ring.scan_from(&flushed);
    assert_eq!(scanned.facts.end, end);
    assert_eq!(scanned.facts.files.iter().map(|f| f.spare).collect::<Vec<_>>(), [true, false, true]);
    assert_eq!(scanned.facts.files[0].journal, Some(JournalId(1)));
}

#[test]
fn a_recycled_files_old_frames_are_never_accepted() {
    let mut ring = Ring::new(3, 16);
    for round in 0..6u8 {
        for slot in 0..3 {
            ring.begin(slot);
            for n in 0..4 {
                ring.frame(&[&[round, slot as u8, n]]);
            }
        }
    }
    // The seventh round has reached the second file; the frames behind are the sixth round's, whole and valid.
    let flushed = ring.last;
    for slot in 0..2 {
        ring.begin(slot);
        ring.frame(&[b"new"]);
    }
    let all = ring.written.len();
    let scanned = ring.scan_from(&flushed);
    scanned.is(&ring, all - 2, 2);
    assert_eq!(scanned.action, CUT, "old frames are no evidence");
    assert!(scanned.facts.contradiction.is_none());
}

#[test]
fn a_tail_torn_anywhere_is_cut_and_reported() {
    let mut ring = one_file(4);
    ring.settled = false;
    ring.frame(&[&[0xaa; 9000], &[1]]);
    let written = ring.written[4].clone();
    for keep in (0..written.bytes.len()).step_by(512) {
        ring.patch(0, written.header.position, &written.bytes);
        ring.erase(4, keep);
        let scanned = ring.scan();
        scanned.is(&ring, 0, if keep >= HEADER_LEN + 9100 { 5 } else { 4 });
        let want = match keep {
            0 => CUT,
            _ if keep >= HEADER_LEN + 9100 => CUT,
            _ => possibly(5, 6),
        };
        assert_eq!(scanned.action, want, "torn at {keep}");
    }
}

#[test]
fn a_damaged_file_header_loses_nothing() {
    let mut ring = one_file(3);
    ring.begin(1);
    ring.frame(&[b"x"]);
    ring.close();
    for slot in 0..2 {
        for at in [0, 60, 90, 4095] {
            ring.flip(slot, at);
            let scanned = ring.scan();
            scanned.is(&ring, 0, 5);
            assert_eq!(scanned.action, Action::GoOn);
            let file = &scanned.facts.files[usize::from(slot)];
            assert!(matches!(file.header, HeaderFacts::Damaged(_)));
            assert_eq!(file.journal, Some(JournalId(u64::from(slot) + 1)));
            ring.flip(slot, at);
        }
    }
}

#[test]
fn an_older_header_over_newer_frames_is_a_fact_and_no_more() {
    let mut ring = one_file(3);
    let old = ring.io.files.lock()[&path(0)][..BLOCK].to_vec();
    let flushed = ring.last;
    ring.begin(1);
    ring.begin(0);
    ring.frame(&[b"newer"]);
    ring.patch(0, 0, &old);
    let scanned = ring.scan_from(&flushed);
    scanned.is(&ring, 3, 1);
    assert_eq!(scanned.facts.files[0].journal, Some(JournalId(3)));
    assert!(matches!(&scanned.facts.files[0].header, HeaderFacts::Valid(h) if h.journal == JournalId(1)));
}

#[test]
fn a_cut_is_followed_again_and_again() {
    let mut ring = one_file(3);
    let mut end = ring.last;
    for slot in [1, 2, 1, 2] {
        // Two frames in flight, the first of them lost, the second whole: left behind by the cut that follows.
        ring.settled = false;
        let lost = ring.written.len();
        ring.frame(&[b"lost"]);
        ring.frame(&[b"landed"]);
        ring.erase(lost, 0);
        let scanned = ring.scan_from(&end);
        scanned.is(&ring, lost, 0);
        let lsn = end.last_lsn.0;
        assert_eq!(scanned.action, possibly(lsn + 1, lsn + 2));
        ring.settled = true;
        ring.cut_to(end, slot);
        let before = ring.written.len();
        ring.frame(&[b"on the new timeline"]);
        end = ring.frame(&[b"and another"]);
        let flushed = ring.written[before - 1].at;
        let scanned = ring.scan_from(&flushed);
        scanned.is(&ring, before, 2);
        assert_eq!(scanned.action, CUT, "what an earlier cut left behind is decided");
    }
}

#[test]
fn a_frame_that_lands_after_the_cut_is_not_followed() {
    let mut ring = one_file(3);
    let end = ring.last;
    ring.frame(&[b"late"]);
    ring.frame(&[b"later"]);
    let late = ring.written[3].clone();
    ring.erase(3, 0);
    ring.erase(4, 0);
    ring.cut_to(end, 1);
    ring.frame(&[b"a"]);
    ring.patch(0, late.header.position, &late.bytes);
    let scanned = ring.scan();
    scanned.is(&ring, 0, 4);
    assert_eq!(scanned.action, CUT);
    // The first frame behind the cut rots: the branch that was cut must not be taken for the journal.
    ring.flip_in(3, HEADER_LEN);
    let scanned = ring.scan();
    scanned.is(&ring, 0, 3);
    assert_eq!(scanned.action, possibly(4, 4));
    // Its header is gone as well, but the file's header still tells of the cut, and the next frame that it was begun.
    ring.frame(&[b"b"]);
    ring.erase(3, 0);
    let scanned = ring.scan();
    scanned.is(&ring, 0, 3);
    assert_eq!(refused(&scanned.action), (4, 5));
    // Nothing tells of the cut any more but a frame of a later use with a number that the chain has.
    ring.flip(1, 100);
    let scanned = ring.scan();
    assert_eq!(scanned.accepted.len(), 4, "the branch was taken");
    assert!(scanned.facts.contradiction.is_some());
    assert_eq!(refused(&scanned.action), (5, u64::MAX));
}

#[test]
fn an_open_that_died_between_its_header_and_its_first_frame_changes_nothing() {
    let mut ring = one_file(3);
    let end = ring.last;
    for slot in [1, 2, 1] {
        ring.cut_to(end, slot);
        let scanned = ring.scan();
        scanned.is(&ring, 0, 3);
        assert_eq!(scanned.action, CUT);
        assert_eq!(scanned.facts.journal_id_max, ring.journal);
    }
    ring.frame(&[b"x"]);
    ring.scan().is(&ring, 0, 4);
}

/// Two opens die while they write their first frame into one file: the first leaves its header and the second the rest,
/// which together are the first one's frame. The file holds the journal's end then, though its newest use has nothing in
/// it, and must not be taken for spare.
#[test]
fn a_first_frame_made_whole_by_the_next_use_belongs_to_its_own() {
    let mut ring = one_file(3);
    let end = ring.last;
    ring.cut_to(end, 1);
    ring.frame_with(&[], FLAG_OPEN);
    let first = ring.written[3].clone();
    ring.cut_to(end, 1);
    ring.frame_with(&[], FLAG_OPEN);
    ring.patch(1, first.header.position, &first.bytes[..512]);
    let scanned = ring.scan();
    assert_eq!(scanned.facts.end, first.at, "the older use's frame is right in every byte");
    let file = &scanned.facts.files[1];
    assert_eq!((file.in_chain_of, file.journal), (Some(JournalId(2)), Some(JournalId(3))));
    assert!(!file.spare);
    assert_eq!(scanned.action, CUT);
}

#[test]
fn of_two_uses_that_go_on_from_one_frame_the_later_one_prevails() {
    let mut ring = one_file(3);
    let end = ring.last;
    ring.cut_to(end, 1);
    ring.frame(&[b"died"]);
    ring.cut_to(end, 2);
    ring.frame(&[b"lives"]);
    let scanned = ring.scan();
    scanned.is(&ring, 0, 4);
    assert_eq!(scanned.action, CUT);
    // The later one's first frame is torn: it was begun, so the older one does not come back to life.
    ring.flip_in(3, HEADER_LEN);
    let scanned = ring.scan();
    scanned.is(&ring, 0, 3);
    assert!(matches!(scanned.action, Action::Cut { possibly_acknowledged: Some(_) }));
}

#[test]
fn a_cut_frame_that_claims_more_than_its_cut_is_refused() {
    let mut ring = one_file(5);
    ring.cut_to(ring.written[2].at, 1);
    ring.frame(&[b"x"]);
    ring.frame(&[b"y"]);
    let scanned = ring.scan();
    scanned.is(&ring, 0, 5);
    assert_eq!(refused(&scanned.action), (4, 5), "frame 5 of the first use says that frame 4 was durable");
}

#[test]
fn frames_inside_a_payload_are_not_frames() {
    let mut ring = Ring::new(3, 64);
    ring.begin(0);
    ring.frame(&[b"x"]);
    // A forged successor, with the right salt, store, use and place, inside of an intact frame.
    let forged = FrameHeader {
        depth: DEPTH,
        store: ring.identity.store,
        journal: ring.journal,
        position: 4 * 4096,
        frame: FrameNo(90),
        first_lsn: Lsn(900),
        frame_len: 4096,
        watermark: Lsn(899),
        watermark_frame: FrameNo(89),
        manifest: ManifestVersion(50),
        ..FrameHeader::default()
    };
    let mut inner = vec![0; 4096];
    forged.seal(&mut inner, ring.identity.salt(ring.journal));
    // The record begins behind the frame's header, the batch's (8) and the entry's (16 + 3 + 3): the forged frame
    // must start on a block of the file.
    let mut record = vec![0; 2 * 4096 - HEADER_LEN - 8 - 16 - 3 - 3];
    record.extend_from_slice(&inner);
    record.resize(5 * 4096, 0);
    ring.frame(&[&record]);
    let at = ring.written[1].header.position;
    assert_eq!(at, 2 * 4096);
    let bytes = ring.io.files.lock()[&path(0)][4 * 4096..5 * 4096].to_vec();
    assert!(bytes == inner, "the forged frame stands where it says");
    let scanned = ring.scan();
    scanned.is(&ring, 0, 2);
    assert_eq!(scanned.action, CUT);
    // Also not in a frame that is whole but cannot be reached.
    ring.erase(0, 0);
    let scanned = ring.scan();
    assert_eq!(scanned.facts.manifest_seen, ManifestVersion(1));
    assert_eq!(refused(&scanned.action), (1, 2));
}

/// A later version went on in the same file, whose header is the older one's, and acknowledged what this one cannot read.
#[test]
fn frames_of_a_later_version_are_refused_and_never_cut() {
    const NEWER: u16 = 4;
    for older in [0, 3] {
        let mut ring = one_file(older);
        for _ in 0..3 {
            ring.frame_with(&[b"newer"], NEWER);
        }
        let mut sink = |_: &FrameHeader, _| Ok(());
        let flushed = FrameRef::default();
        let refused = super::scan::scan(&ring.io, Path::new("/s"), &ring.identity, &flushed, &mut sink);
        let error = refused.expect_err("they are neither torn nor damaged");
        assert_eq!(error.kind(), crate::error::ErrorKind::Refused, "{error}");
        assert!(error.path().is_some_and(|file| file == path(0)), "{error}");
    }
}

#[test]
fn a_misdirected_frame_is_not_followed() {
    let mut ring = one_file(3);
    let right = ring.written[2].clone();
    ring.erase(2, 0);
    // One block further, and at the same offset of another file.
    ring.patch(0, right.header.position + 4096, &right.bytes);
    ring.patch(1, right.header.position, &right.bytes);
    let scanned = ring.scan();
    scanned.is(&ring, 0, 2);
    assert!(scanned.accepted.len() == 2 && scanned.action != Action::GoOn);
    // It overwrote a frame that is proved: refused.
    ring.patch(0, right.header.position, &right.bytes);
    ring.next_at = right.header.position + 4096;
    ring.frame(&[b"x"]);
    ring.patch(0, ring.written[1].header.position, &right.bytes);
    assert_eq!(refused(&ring.scan().action), (2, 4));
}

#[test]
fn a_manifest_that_went_back_is_refused() {
    let mut ring = one_file(3);
    ring.manifest = ManifestVersion(5);
    ring.frame(&[b"x"]);
    ring.manifest = ManifestVersion(4);
    let scanned = ring.scan();
    scanned.is(&ring, 0, 4);
    assert_eq!(scanned.facts.manifest_seen, ManifestVersion(5));
    assert_eq!(refused(&scanned.action).0, 5);
}

#[test]
fn other_journal_files_than_the_manifests_are_refused() {
    let ring = one_file(3);
    let elsewhere =
        FrameRef { journal: JournalId(9), position: 8192, frame_len: 4096, frame: FrameNo(70), ..ring.last };
    let scanned = ring.scan_from(&elsewhere);
    assert_eq!(scanned.facts.anchor, Anchor::Missing);
    assert_eq!(refused(&scanned.action), (4, u64::MAX));
}

#[test]
fn an_interrupted_use_of_the_flushed_frames_own_file_is_no_loss() {
    let mut ring = one_file(1);
    let flushed = ring.last;
    ring.begin(0);
    ring.frame(&[b"torn away"]);
    ring.erase(1, 0);
    let scanned = ring.scan_from(&flushed);
    assert_eq!(scanned.facts.anchor, Anchor::Found, "the header names it");
    assert_eq!(scanned.action, CUT);
}

#[test]
fn a_frame_whose_content_is_not_what_it_counts_is_not_accepted() {
    for (payload, entries) in [(&[1u8, 0, 0, 0, 0, 0, 0, 0, 9][..], 1), (&[0; 8], 1), (&[], 2), (&[7; 30], 1)] {
        let mut ring = one_file(2);
        ring.frame_of(payload, entries, 0);
        let scanned = ring.scan();
        scanned.is(&ring, 0, 2);
        assert!(matches!(scanned.action, Action::Cut { possibly_acknowledged: Some(_) }), "{:?}", scanned.action);
        ring.frame(&[b"x"]);
        assert_eq!(refused(&ring.scan().action).0, 3);
    }
}

#[test]
fn torn_bytes_are_kept_once_and_again() {
    let mut ring = one_file(2);
    ring.settled = false;
    ring.frame(&[&[1; 3 << 20][..100_000]]);
    ring.flip_in(2, 90_000);
    let scanned = ring.scan();
    let range = ring.written[2].range();
    assert_eq!(scanned.facts.files[0].torn, Some(range.start as u64..range.end as u64));
    let want = ring.io.files.lock()[&path(0)][range].to_vec();
    for _ in 0..2 {
        let kept = torn::keep(&ring.io, Path::new("/s"), &scanned.facts).expect("this disk fails never");
        assert_eq!(kept, [Path::new("/s").join(names::torn_name(0, JournalId(1)))]);
        assert!(ring.io.files.lock()[&kept[0]] == want);
        assert!(ring.io.files.lock().keys().all(|path| path.extension().is_none_or(|e| e != "tmp")));
    }
    assert_eq!(ring.scan().action, scanned.action, "a kept tail is no journal file");
}

#[test]
fn a_frame_that_reads_differently_when_it_is_made_durable_is_not_written_over_what_was_accepted() {
    let mut ring = one_file(2);
    ring.settled = false;
    ring.frame(&[b"not proved"]);
    let scanned = ring.scan();
    let FrameHeader { journal, position, frame, frame_len: len, .. } = ring.written[2].header;
    let extents = [Extent { journal, position, len, frame }];
    let make_durable = || repair::make_durable(&ring.io, Path::new("/s"), &ring.identity, &scanned.facts, &extents);
    make_durable().expect("it is what was accepted");
    for at in [20, HEADER_LEN + 1] {
        ring.flip_in(2, at);
        let before = ring.io.files.lock().clone();
        let error = make_durable().expect_err("another byte");
        assert_eq!((error.kind(), error.path()), (ErrorKind::Damaged, Some(&*path(0))), "{error}");
        assert_eq!(*ring.io.files.lock(), before);
        ring.flip_in(2, at);
    }
}

#[test]
fn memory_is_bounded_however_large_the_files_are() {
    let mut ring = Ring::new(2, 2048);
    ring.begin(0);
    ring.frame(&[&vec![5; 3 << 20]]);
    ring.frame(&[&vec![6; 1 << 20]]);
    ring.scan().is(&ring, 0, 2);
    assert!(*ring.io.largest_read.lock() <= 1 << 20);
}
