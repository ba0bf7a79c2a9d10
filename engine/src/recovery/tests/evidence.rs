//! What stands past the end of the chain, and what it proves.

use super::*;
use crate::recovery::settle::Proven;

#[test]
fn a_damaged_frame_header_at_the_end_is_noticed() {
    let ring = one_file(4);
    for at in 0..HEADER_LEN {
        ring.flip_in(3, at);
        let scanned = ring.scan();
        scanned.is(&ring, 0, 3);
        assert_eq!(scanned.action, Action::Cut { possibly_acknowledged: Some((Lsn(4), None)) }, "byte {at}");
        assert_eq!(scanned.facts.files[0].torn, Some(4 * 4096..20 * 4096), "as long as a frame may be");
        ring.flip_in(3, at);
    }
}

#[test]
fn what_no_crash_leaves_at_the_place_of_a_first_frame_is_noticed() {
    let unknown = Action::Cut { possibly_acknowledged: Some((Lsn(1), None)) };
    let ring = one_file(3);
    ring.patch(0, 4096, &[7; 3 * 4096]);
    let scanned = ring.scan();
    assert_eq!(scanned.action, unknown);
    assert_eq!(scanned.facts.files[0].torn, Some(4096..17 * 4096), "as long as a frame may be");
    // Zeros, or only a later sector of it: that is a first frame that was cut off.
    ring.patch(0, 4096, &[0; 3 * 4096]);
    assert_eq!(ring.scan().action, Action::Begin);
    ring.patch(0, 4096 + 512, &[7; 512]);
    assert_eq!(ring.scan().action, Action::Begin);
}

#[test]
fn a_valid_frame_behind_a_lost_one_is_possibly_acknowledged_within_the_depth() {
    let mut ring = one_file(4);
    ring.settled = false;
    for _ in 0..DEPTH {
        ring.frame(&[b"in flight", b"too"]);
    }
    ring.erase(4, 0);
    let scanned = ring.scan();
    scanned.is(&ring, 0, 4);
    assert_eq!(scanned.action, possibly(5, 8));
}

#[test]
fn a_valid_frame_past_the_depth_proves_the_lost_one() {
    let mut ring = one_file(4);
    ring.settled = false;
    for _ in 0..=DEPTH {
        ring.frame(&[b"in flight"]);
    }
    ring.erase(4, 0);
    let scanned = ring.scan();
    scanned.is(&ring, 0, 4);
    assert_eq!(refused(&scanned.action), (5, u64::MAX), "the depth does not say which LSNs");
}

#[test]
fn what_a_watermark_covers_is_never_cut() {
    for damaged in 0..5 {
        for at in [0, 50, 150, HEADER_LEN + 3, 4095] {
            let ring = one_file(6);
            ring.flip_in(damaged, at);
            let scanned = ring.scan();
            scanned.is(&ring, 0, damaged);
            assert_eq!(refused(&scanned.action), (damaged as u64 + 1, 6), "frame {damaged}, byte {at}");
            assert!(scanned.facts.stop.is_some() && scanned.facts.witness.is_some());
        }
    }
}

#[test]
fn a_clean_close_proves_all_before_it() {
    let mut ring = one_file(3);
    ring.settled = false;
    ring.watermark = Default::default();
    ring.close();
    ring.flip_in(2, HEADER_LEN);
    assert_eq!(refused(&ring.scan().action), (3, 4));
}

#[test]
fn a_torn_frames_header_proves_what_it_says() {
    let ring = one_file(4);
    ring.flip_in(2, HEADER_LEN);
    ring.flip_in(3, HEADER_LEN);
    assert_eq!(refused(&ring.scan().action), (3, 4));
}

#[test]
fn a_frame_that_went_astray_proves_what_it_says_and_no_more() {
    // It took the place of the last frame, which it says is durable.
    let mut ring = one_file(3);
    ring.begin(1);
    ring.frame(&[b"goes on"]);
    ring.erase(3, 0);
    ring.patch(0, ring.written[2].header.position, &ring.written[3].bytes);
    let scanned = ring.scan();
    scanned.is(&ring, 0, 2);
    assert_eq!(refused(&scanned.action), (3, 4));
    // It lies where nothing was, and was the last one: it may have been acknowledged, and all of it is kept.
    for at in [8 * 4096, 0] {
        let mut ring = one_file(2);
        ring.frame(&[&[b'x'; 5000]]);
        ring.erase(2, 0);
        let stray = &ring.written[2].bytes;
        ring.patch(1, at, stray);
        let scanned = ring.scan();
        assert_eq!(scanned.action, possibly(3, 3));
        let kept = torn::keep(&ring.io, Path::new("/s"), &scanned.facts).expect("this disk never fails");
        assert_eq!(kept, [Path::new("/s").join(names::torn_name(1, JournalId(1)))]);
        assert_eq!(&ring.io.files.lock()[&kept[0]], stray);
    }
    let ring = one_file(3);
    ring.erase(2, 0);
    ring.patch(1, 8 * 4096, &ring.written[2].bytes);
    // It says nothing that the chain does not hold, or its checksum is wrong.
    ring.patch(0, ring.written[2].header.position, &ring.written[2].bytes);
    assert_eq!(ring.scan().action, CUT);
    ring.erase(2, 0);
    ring.flip(1, 8 * 4096 + 100);
    assert_eq!(ring.scan().action, CUT);
    // A cut left it behind: what it says of that time is no news.
    let mut ring = one_file(3);
    ring.settled = false;
    let end = ring.last;
    ring.frame(&[b"lost"]);
    let stray = ring.frame(&[b"not durable"]);
    let bytes = ring.written[4].bytes.clone();
    ring.erase(3, 0);
    ring.erase(4, 0);
    ring.patch(0, stray.position + 4 * 4096, &bytes);
    assert_eq!(ring.scan().action, possibly(4, 5));
    ring.cut_to(end, 1);
    ring.frame(&[b"first"]);
    let scanned = ring.scan();
    scanned.is(&ring, 0, 4);
    assert_eq!(scanned.action, CUT);
}

#[test]
fn a_later_look_reaches_what_an_lsn_alone_proved() {
    let facts = one_file(3).scan().facts;
    let reached = |frame, lsn| {
        let proven = Proven { frame: FrameNo(frame), lsn: Lsn(lsn) };
        proven.is_reached(&facts, ManifestVersion(1))
    };
    assert!(reached(0, 3) && reached(3, 3));
    assert!(!reached(0, 4) && !reached(4, 3), "the chain does not hold it");
    assert!(!reached(0, 0), "nothing was proved");
}

#[test]
fn a_foreign_first_frame_is_noticed_in_the_file_that_holds_the_end_too() {
    let mut ring = one_file(3);
    let flushed = ring.last;
    ring.begin(0);
    ring.frame(&[b"lost"]);
    // The flushed frame stands further back, and is where the chain ends.
    ring.patch(0, 4096, &[7; 512]);
    let scanned = ring.scan_from(&flushed);
    assert_eq!(scanned.action, Action::Cut { possibly_acknowledged: Some((Lsn(4), None)) });
}
