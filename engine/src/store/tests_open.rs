//! Openings that something happens to: the directory changes under them, a sector cannot be read, strange files lie about.

use super::testing::{DIR, EIO, Erring, Fate, append, clock, created, read, small, stepped};
use crate::io::{Io, Op};
use crate::journal::names::{self, is_journal};
use crate::segment;
use crate::sync::{Arc, Mutex, Ordering};
use crate::types::SegmentId;
use crate::verify::verify;
use crate::{ErrorKind, ReadLimit, ReadOnly, Store};
use std::path::{Path, PathBuf};

/// A disk with a store that was killed behind one acknowledged record that nothing proves durable.
fn killed() -> Erring {
    let io = created(&small());
    let (store, mut steps) = stepped(&io, &small());
    let ack = append(&store, b"kept").expect("staged");
    while steps.commit().expect("a sound disk") {}
    ack.wait().expect("durable");
    drop((store, steps));
    io
}

fn open(io: &Erring) -> crate::Result<Store> {
    Store::open_stepped(Arc::new(io.clone()), clock(), Path::new(DIR), small()).map(|(store, _)| store)
}

#[test]
fn a_directory_that_is_replaced_while_its_journal_is_read_is_not_written_to() {
    let io = killed();
    let (before, moved) = (io.mem.snapshot(), Arc::clone(&io.moved));
    io.set(move |op| {
        if matches!(op, Op::Read { file, .. } if is_journal(&file.path)) {
            moved.store(true, Ordering::SeqCst);
        }
        Fate::Well
    });
    let error = open(&io).expect_err("another store's directory bears the name");
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert!(io.mem.snapshot() == before, "nothing was written");
    io.heal();
    io.moved.store(false, Ordering::SeqCst);
    assert_eq!(read(&open(&io).expect("it is back")), [b"kept"]);
}

#[test]
fn a_sector_of_the_journal_that_cannot_be_read_is_damage() {
    let io = killed();
    // As ENODATA and EILSEQ Linux passes on what a medium and its checksums say, past the page cache.
    for code in [EIO, 61, 84] {
        io.set(move |op| match op {
            Op::Read { file, .. } if is_journal(&file.path) => Fate::Fails(code),
            _ => Fate::Well,
        });
        let looked = ReadOnly::open_on(Arc::new(io.clone()), Path::new(DIR)).map(drop);
        for error in [open(&io).map(drop).expect_err("unreadable"), looked.expect_err("unreadable")] {
            assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
            assert_eq!(error.lsn_range(), Some(1..u64::MAX), "{error}");
            assert!(error.path().is_some_and(is_journal), "{error}");
        }
    }
}

#[test]
fn the_file_that_was_written_to_last_is_the_last_to_be_used_again() {
    let io = created(&small());
    let (store, mut steps) = stepped(&io, &small());
    let _ack = append(&store, b"flushed").expect("staged");
    while steps.commit().expect("a sound disk") {}
    store.flush().expect("it only asks");
    while steps.flush().expect("a sound disk") {}
    let used = store.inner.core.journal.published().0.journal;
    drop((store, steps));
    let written_last = |io: &Erring| {
        let facts = ReadOnly::open_on(Arc::new(io.clone()), Path::new(DIR)).expect("sound").loaded.facts;
        facts.files.into_iter().filter_map(|file| Some((file.journal?, file.slot))).max().expect("one was used")
    };
    let last = written_last(&io);
    assert_eq!(last.0, used);
    let (_store, _steps) = stepped(&io, &small());
    let now = written_last(&io);
    assert!(now.0 > last.0 && now.1 != last.1, "{now:?} follows {last:?}");
}

#[test]
fn what_the_engine_did_not_make_is_left_alone() {
    let io = killed();
    let strange = [
        "segments/0000000000000003.seg.damaged",
        "segments/3.seg",
        "segments/+000000000000003.seg",
        "segments/000000000000000A.seg",
        "notes.tmp",
        "notes.torn.tmp",
        "journal-0000.copy.tmp",
    ];
    let own = [
        "segments/0000000000000003.seg",
        "IDENTITY.tmp",
        "journal-0007.tmp",
        "journal-0000-0000000000000001.torn.tmp",
        "manifest-0000000000000009.tmp",
    ];
    let mut files = io.mem.snapshot();
    files.extend(strange.iter().chain(&own).map(|name| (Path::new(DIR).join(name), b"x".to_vec())));
    io.mem.restore(&files);
    drop(open(&io).expect("sound"));
    let there = io.mem.snapshot();
    let is_there = |name: &&str| there.contains_key(&Path::new(DIR).join(name));
    assert!(strange.iter().all(is_there), "{:?}", there.keys());
    assert!(!own.iter().any(is_there), "{:?}", there.keys());
}

#[test]
fn a_look_at_a_store_that_is_opened_meanwhile_shows_only_what_is_proved() {
    let io = killed();
    let look = |io: &Erring| ReadOnly::open_on(Arc::new(io.clone()), Path::new(DIR)).expect("sound");
    let records = |look: ReadOnly| look.read("log", 0, ReadLimit::default()).map_or(0, |page| page.records.len());
    assert_eq!(records(look(&io)), 1, "nobody has it open");
    let (disk, held) = (io.mem.clone(), Arc::new(Mutex::new(None)));
    let holder = Arc::clone(&held);
    io.set(move |op| {
        if matches!(op, Op::Read { file, .. } if is_journal(&file.path)) {
            let lock = || disk.lock(&PathBuf::from(DIR).join("LOCK")).expect("it can be locked");
            holder.lock().get_or_insert_with(lock);
        }
        Fate::Well
    });
    assert_eq!(records(look(&io)), 0, "a process has it open by now, and nothing proves the record durable");
    assert!(held.lock().as_ref().is_some_and(Option::is_some));
}

#[test]
fn a_segment_that_was_never_committed_proves_what_a_wiped_journal_held() {
    let io = created(&small());
    let (store, mut steps) = stepped(&io, &small());
    let ack = append(&store, b"kept").expect("staged");
    while steps.commit().expect("a sound disk") {}
    let last = ack.wait().expect("durable").logs[0].lsn;
    io.set(|op| match op {
        Op::Rename { to, .. } if to.to_string_lossy().contains("manifest-") => Fate::Fails(EIO),
        _ => Fate::Well,
    });
    assert!(store.flush().is_ok() && steps.flush().is_err(), "it is not committed");
    drop((store, steps));
    io.heal();
    assert_eq!(io.segments(), 1, "it is whole");
    let sound = io.mem.snapshot();

    // Nothing but the journal's header is left, or not even that; the segment is whole, or no more than begun.
    let path = segment::path(Path::new(DIR), SegmentId(1));
    let wiped = |from: usize, len: usize| {
        let mut files = sound.clone();
        files.iter_mut().filter(|(path, _)| is_journal(path)).for_each(|(_, bytes)| bytes[from..].fill(0));
        files.get_mut(&path).expect("the segment").truncate(len);
        files
    };
    for files in [wiped(4096, usize::MAX), wiped(0, usize::MAX), wiped(0, 4096)] {
        io.mem.restore(&files);
        let looked = ReadOnly::open_on(Arc::new(io.clone()), Path::new(DIR)).map(drop);
        for error in [open(&io).map(drop).expect_err("lost"), looked.expect_err("lost")] {
            assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
            assert_eq!(error.lsn_range(), Some(1..last.0 + 1), "{error}");
            assert!(error.to_string().contains(&path.display().to_string()), "{error}");
        }
        let found = verify(Arc::new(io.clone()), Path::new(DIR), &mut |_, _| {}).expect("it is looked at");
        assert!(found.iter().any(|finding| finding.lsns == Some(1..last.0 + 1)), "{found:?}");
        assert!(io.mem.snapshot() == files, "and what proves it is still there");
    }
    // A segment without its header proves nothing.
    io.mem.restore(&wiped(0, 0));
    assert!(open(&io).is_ok());
    // As long as the journal holds it too, nothing is amiss. What cannot be asked is neither believed nor removed.
    io.mem.restore(&sound);
    let is_segment = |path: &Path| path.extension().is_some_and(|e| e == "seg");
    for reads in [false, true] {
        io.set(move |op| match op {
            Op::Open { path, .. } if !reads && is_segment(path) => Fate::Fails(24),
            Op::Read { file, .. } if reads && is_segment(&file.path) => Fate::Fails(EIO),
            _ => Fate::Well,
        });
        assert_eq!(open(&io).map(drop).expect_err("it cannot be asked").kind(), ErrorKind::Io);
        io.heal();
    }
    assert_eq!(io.segments(), 1);
    assert_eq!(read(&open(&io).expect("sound")), [b"kept"]);
    assert_eq!(io.segments(), 0, "it was never committed");
}

/// A directory that nobody writes does not get better by being looked at again.
#[test]
fn no_look_excuses_a_journal_file_that_is_missing_or_was_cut_short() {
    const USE_AT: usize = 56;
    let io = created(&small());
    let (store, mut steps) = stepped(&io, &small());
    let first = Path::new(DIR).join(names::file_name(0));
    // Until the first file is in its second use, and some frames stand in that: then nothing in the other files proves
    // what the first one holds.
    let mut frames_in_it = 0;
    while frames_in_it < 3 {
        let ack = append(&store, &[b'x'; 7000]).expect("staged");
        while steps.commit().expect("a sound disk") {}
        steps.flush().expect("a sound disk");
        while steps.commit().expect("a sound disk") {}
        assert!(matches!(ack.try_get(), Some(Ok(_))), "acknowledged");
        frames_in_it += u32::from(io.mem.snapshot()[&first][USE_AT] > 1);
    }
    drop((store, steps));
    let sound = io.mem.snapshot();
    let mut missing = sound.clone();
    missing.remove(&first);
    let mut short = sound;
    short.get_mut(&first).expect("it is there").truncate(2 * 4096);
    for (files, what) in [(missing, "is missing"), (short, "was cut short")] {
        io.mem.restore(&files);
        let error = open(&io).map(drop).expect_err("incomplete");
        assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
        assert!(error.to_string().contains(what), "{error}");
        let looked = ReadOnly::open_on(Arc::new(io.clone()), Path::new(DIR)).map(drop).expect_err("incomplete");
        assert_eq!(looked.to_string(), error.to_string());
        let found = verify(Arc::new(io.clone()), Path::new(DIR), &mut |_, _| {}).expect("it is looked at");
        assert!(
            found.iter().any(|finding| finding.lsns == error.lsn_range() && finding.what.contains(what)),
            "{found:?}"
        );
    }
}
