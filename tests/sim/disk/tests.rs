//! Each sentence of the fault model, shown over many seeds: what must survive always does, and what may be lost is
//! sometimes lost and sometimes not.

use super::*;
use everlog::io::Completion;
use everlog::io::File;
use everlog::types::BLOCK;
use std::collections::BTreeSet;
use std::time::Duration;

const SEEDS: u64 = 60;

fn disk(seed: u64) -> (SimDisk, Arc<dyn Io>) {
    let disk = SimDisk::new(seed);
    let io = disk.io();
    io.create_dir(Path::new("/d")).expect("the root is there");
    io.sync_dir(Path::new("/")).expect("the root is there");
    (disk, io)
}

fn block(byte: u8) -> AlignedBuf {
    AlignedBuf::from_slice(&[byte; BLOCK])
}

/// A file of two blocks of `a`, stable in content and name.
fn file(io: &Arc<dyn Io>, path: &str) -> File {
    let file = io.open(Path::new(path), OpenMode::CreateDirect).expect("a new file");
    io.write_at(&file, 0, AlignedBuf::from_slice(&[b'a'; 2 * BLOCK]), true).expect("written");
    io.sync(&file).expect("synced");
    io.sync_dir(Path::new("/d")).expect("synced");
    file
}

fn content(disk: &SimDisk, path: &str) -> Vec<u8> {
    disk.io().read_all(Path::new(path), 1 << 20).expect("it is there")
}

/// The distinct bytes that begin the sectors of `bytes`.
fn kinds(bytes: &[u8]) -> BTreeSet<u8> {
    bytes.chunks(SECTOR).inspect(|sector| assert!(sector.iter().all(|b| b == &sector[0]))).map(|s| s[0]).collect()
}

/// Runs `case` for many seeds and gives the set of its outcomes.
fn outcomes<T: Ord>(case: impl Fn(u64) -> T) -> BTreeSet<T> {
    (0..SEEDS).map(case).collect()
}

#[test]
fn a_durable_write_survives_everything_once_it_is_complete() {
    for (seed, kind) in (0..SEEDS).flat_map(|seed| [(seed, Crash::Process), (seed, Crash::Power)]) {
        let (disk, io) = disk(seed);
        let f = file(&io, "/d/f");
        // A cached write to the same place comes first and must not come back over the durable one.
        io.write_at(&f, 0, block(b'x'), false).expect("written");
        io.write_at(&f, 0, block(b'b'), true).expect("written");
        disk.crash(kind);
        disk.reboot();
        assert_eq!(content(&disk, "/d/f"), [[b'b'; BLOCK], [b'a'; BLOCK]].concat(), "seed {seed}");
    }
}

#[test]
fn a_durable_write_that_lengthens_a_file_keeps_its_length() {
    for seed in 0..SEEDS {
        let (disk, io) = disk(seed);
        let f = file(&io, "/d/f");
        io.write_at(&f, 3 * BLOCK as u64, block(b'b'), true).expect("written");
        disk.crash(Crash::Power);
        disk.reboot();
        let bytes = content(&disk, "/d/f");
        assert_eq!(bytes.len(), 4 * BLOCK);
        assert_eq!(kinds(&bytes[2 * BLOCK..3 * BLOCK]), [0].into());
    }
}

#[test]
fn a_cached_write_survives_the_process_and_any_part_of_it_the_power() {
    let with = |seed, kind, sync| {
        let (disk, io) = disk(seed);
        let f = file(&io, "/d/f");
        io.write_at(&f, 0, block(b'b'), false).expect("written");
        assert!(!disk.is_stable(Path::new("/d/f")));
        if sync {
            io.sync(&f).expect("synced");
            assert!(disk.is_stable(Path::new("/d/f")));
        }
        disk.crash(kind);
        disk.reboot();
        kinds(&content(&disk, "/d/f")[..BLOCK]).into_iter().collect::<Vec<u8>>()
    };
    assert_eq!(outcomes(|seed| with(seed, Crash::Process, false)), [vec![b'b']].into());
    assert_eq!(outcomes(|seed| with(seed, Crash::Power, true)), [vec![b'b']].into());
    let all = [vec![b'a'], vec![b'b'], vec![b'a', b'b']];
    assert_eq!(outcomes(|seed| with(seed, Crash::Power, false)), all.into());
}

#[test]
fn of_two_cached_writes_to_one_place_the_older_may_be_what_survives() {
    let all = outcomes(|seed| {
        let (disk, io) = disk(seed);
        let f = file(&io, "/d/f");
        io.write_at(&f, 0, block(b'b'), false).expect("written");
        io.write_at(&f, 0, block(b'c'), false).expect("written");
        disk.crash(Crash::Power);
        disk.reboot();
        kinds(&content(&disk, "/d/f")[..BLOCK]).into_iter().collect::<Vec<u8>>()
    });
    assert!(all.contains(&vec![b'a']) && all.contains(&vec![b'b']) && all.contains(&vec![b'c']), "{all:?}");
}

#[test]
fn a_length_is_not_stable_before_a_sync() {
    let lengths = |sync| {
        outcomes(|seed| {
            let (disk, io) = disk(seed);
            let f = file(&io, "/d/f");
            io.allocate(&f, 5 * BLOCK as u64).expect("there is room");
            if sync {
                io.sync(&f).expect("synced");
            }
            disk.crash(Crash::Power);
            disk.reboot();
            content(&disk, "/d/f").len() / BLOCK
        })
    };
    assert_eq!(lengths(false), [2, 5].into());
    assert_eq!(lengths(true), [5].into());
}

/// Puts two writes in flight, crashes before they complete, and says which bytes are found.
fn in_flight(seed: u64, kind: Crash, then_power: bool) -> Vec<u8> {
    let (disk, io) = disk(seed);
    let f = file(&io, "/d/f");
    let mut queue = io.queue(2).expect("a queue");
    for (id, offset) in [(1, 0), (2, BLOCK as u64)] {
        queue.submit(id, Op::Write { file: f.clone(), offset, buf: block(b'b'), durable: true });
    }
    disk.crash(kind);
    disk.reboot();
    let shown = content(&disk, "/d/f");
    if then_power {
        disk.crash(Crash::Power);
        disk.reboot();
        if content(&disk, "/d/f") == shown { vec![] } else { vec![1] }
    } else {
        kinds(&shown).into_iter().collect()
    }
}

#[test]
fn a_write_in_flight_lands_in_part_and_perhaps_in_the_devices_cache_alone() {
    let all: BTreeSet<_> = [vec![b'a'], vec![b'b'], vec![b'a', b'b']].into();
    assert_eq!(outcomes(|seed| in_flight(seed, Crash::Process, false)), all);
    assert_eq!(outcomes(|seed| in_flight(seed, Crash::Power, false)), all);
    // What the next process read may be gone after a loss of power, when the first crash was of the process alone.
    assert_eq!(outcomes(|seed| in_flight(seed, Crash::Process, true)), [vec![], vec![1]].into());
    assert_eq!(outcomes(|seed| in_flight(seed, Crash::Power, true)), [vec![]].into());
}

#[test]
fn a_queue_completes_in_any_order_and_a_waiting_poll_gives_something() {
    let orders = outcomes(|seed| {
        let (_, io) = disk(seed);
        let f = file(&io, "/d/f");
        let mut queue = io.queue(3).expect("a queue");
        for id in 0..3 {
            queue.submit(id, Op::Write { file: f.clone(), offset: id * BLOCK as u64, buf: block(b'b'), durable: true });
        }
        let mut done: Vec<Completion> = Vec::new();
        while done.len() < 3 {
            let before = done.len();
            queue.poll(Some(Duration::ZERO), &mut done).expect("no crash");
            assert!(done.len() > before);
        }
        queue.poll(Some(Duration::ZERO), &mut done).expect("nothing waits, and it returns");
        assert!(done.iter().all(|c| matches!(c.result, Ok(Done::Buf(_)))));
        done.iter().map(|c| c.id).collect::<Vec<_>>()
    });
    assert_eq!(orders.len(), 6, "all orders of three: {orders:?}");
}

#[test]
fn names_survive_by_prefix_and_a_renames_halves_together() {
    let all = outcomes(|seed| {
        let (disk, io) = disk(seed);
        io.replace(Path::new("/d/m"), b"old").expect("replaced");
        let tmp = io.open(Path::new("/d/m.tmp"), OpenMode::Create).expect("a new file");
        io.write_at(&tmp, 0, AlignedBuf::from_slice(b"new"), false).expect("written");
        io.sync(&tmp).expect("synced");
        io.rename(Path::new("/d/m.tmp"), Path::new("/d/m")).expect("renamed");
        io.remove(Path::new("/d/m")).expect("removed");
        disk.crash(Crash::Power);
        disk.reboot();
        let names = disk.io().list(Path::new("/d")).expect("the directory was synced");
        let m = names.contains(&"m".to_owned()).then(|| content(&disk, "/d/m"));
        (names, m)
    });
    let is = |names: &[&str], m: Option<&str>| {
        (names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>(), m.map(|m| m.as_bytes().to_vec()))
    };
    let expected = [is(&["m"], Some("old")), is(&["m", "m.tmp"], Some("old")), is(&["m"], Some("new")), is(&[], None)];
    assert_eq!(all, expected.into());
}

#[test]
fn a_directory_not_synced_takes_its_files_with_it() {
    let all = outcomes(|seed| {
        let (disk, io) = disk(seed);
        io.create_dir(Path::new("/d/e")).expect("created");
        io.replace(Path::new("/d/e/f"), b"content").expect("replaced");
        disk.crash(Crash::Power);
        disk.reboot();
        disk.io().list(Path::new("/d/e")).map_err(|e| e.kind() == everlog::ErrorKind::Io)
    });
    assert_eq!(all, [Err(true), Ok(vec!["f".to_owned()])].into());
}

#[test]
fn a_crash_comes_before_in_the_middle_and_after_and_ends_everything() {
    let all = outcomes(|seed| {
        let (disk, io) = disk(seed);
        let f = file(&io, "/d/f");
        disk.crash_at(disk.ops() + 1, Crash::Process);
        assert!(io.write_at(&f, 0, block(b'b'), true).is_err());
        assert_eq!(disk.crashed(), Some(Crash::Process));
        assert!(io.len(&f).is_err() && io.open(Path::new("/d/f"), OpenMode::Read).is_err());
        disk.reboot();
        assert!(io.len(&f).is_err() && io.lock(Path::new("/d/l")).is_err(), "an older boot's handles stay dead");
        kinds(&content(&disk, "/d/f")[..BLOCK]).into_iter().collect::<Vec<_>>()
    });
    assert_eq!(all, [vec![b'a'], vec![b'b'], vec![b'a', b'b']].into());
}

#[test]
fn a_lock_has_one_holder_and_ends_with_it() {
    let (disk, io) = disk(1);
    let path = Path::new("/d/LOCK");
    let held = io.lock(path).expect("no crash").expect("free");
    assert!(io.lock(path).expect("no crash").is_none());
    drop(held);
    let held = io.lock(path).expect("no crash").expect("free again");
    disk.crash(Crash::Process);
    disk.reboot();
    let again = disk.io().lock(path).expect("no crash").expect("freed by the crash");
    drop(held);
    assert!(disk.io().lock(path).expect("no crash").is_none(), "the dead process frees nothing");
    drop(again);
}

#[test]
fn faults_come_once_stick_or_cut_a_write_short() {
    let (disk, io) = disk(3);
    let f = file(&io, "/d/f");
    disk.fail_at(disk.ops() + 1, Fault::Short);
    assert!(io.write_at(&f, 0, block(b'b'), true).is_err());
    let sectors: Vec<u8> = content(&disk, "/d/f").chunks(SECTOR).map(|s| s[0]).collect();
    assert!(sectors.is_sorted_by(|a, b| a >= b) && sectors[7] == b'a', "a prefix, and not all: {sectors:?}");
    disk.fail_at(disk.ops() + 1, Fault::Eio);
    assert!(io.write_at(&f, 0, block(b'c'), true).is_err());
    io.write_at(&f, 0, block(b'd'), true).expect("it failed once");
    disk.fail_at(disk.ops() + 1, Fault::EioSticky);
    assert!(io.sync(&f).is_err());
    assert!(io.sync(&f).is_err() && io.write_at(&f, 0, block(b'e'), true).is_err());
}

#[test]
fn a_full_disk_and_a_want_of_descriptors_refuse_and_end_again() {
    let (disk, io) = disk(3);
    let f = file(&io, "/d/f");
    let code = |e: everlog::Error| e.os_error().and_then(io::Error::raw_os_error);
    disk.full_during(disk.ops() + 1..disk.ops() + 4);
    assert_eq!(io.open(Path::new("/d/g"), OpenMode::Create).map(drop).map_err(code), Err(Some(28)));
    assert_eq!(io.allocate(&f, 9 * BLOCK as u64).map_err(code), Err(Some(28)));
    io.write_at(&f, 0, block(b'b'), true).expect("it needs no room");
    io.allocate(&f, 9 * BLOCK as u64).expect("there is room again");
    disk.no_descriptors_during(0..u64::MAX);
    assert_eq!(io.open(Path::new("/d/f"), OpenMode::Read).map(drop).map_err(code), Err(Some(24)));
    io.write_at(&f, 0, block(b'c'), true).expect("what is open stays open");
    assert_eq!((disk.refused(), disk.is_short()), ((3, 3), true));
    disk.plenty();
    io.open(Path::new("/d/f"), OpenMode::Read).expect("there are descriptors again");
}

#[test]
fn a_lie_is_heard_by_nobody_and_takes_what_it_says() {
    let mut elsewhere = BTreeSet::new();
    for (seed, lie) in (0..SEEDS).flat_map(|seed| [Lie::Lost, Lie::Misdirected, Lie::Stale].map(|lie| (seed, lie))) {
        let (disk, io) = disk(seed);
        let f = file(&io, "/d/f");
        let _other = file(&io, "/d/g");
        disk.lie_at(disk.ops() + 1, lie);
        io.write_at(&f, 0, block(b'b'), true).expect("so it says");
        assert!(disk.lied());
        let now = kinds(&content(&disk, "/d/f")[..BLOCK]);
        disk.crash(Crash::Process);
        disk.reboot();
        let then = kinds(&content(&disk, "/d/f")[..BLOCK]);
        match lie {
            Lie::Lost => assert!(now.contains(&b'a') || then == [b'b'].into(), "{now:?}"),
            Lie::Stale => assert_eq!((now, then), ([b'b'].into(), [b'a'].into())),
            Lie::Misdirected => {
                assert_eq!((now, then), ([b'a'].into(), [b'a'].into()));
                let all = [content(&disk, "/d/f"), content(&disk, "/d/g")].concat();
                assert_eq!(all.iter().filter(|b| **b == b'b').count(), BLOCK, "one place has it");
                elsewhere.insert(all.iter().position(|b| *b == b'b'));
            }
        }
    }
    assert_eq!(elsewhere.len(), 3, "each other place, now and then: {elsewhere:?}");
}

#[test]
fn a_flipped_bit_is_one_bit_and_stays() {
    let (disk, io) = disk(9);
    let _f = file(&io, "/d/f");
    assert!(disk.flip(Flip::Anything));
    disk.crash(Crash::Power);
    disk.reboot();
    let wrong: u32 = content(&disk, "/d/f").iter().map(|b| (b ^ b'a').count_ones()).sum();
    assert_eq!(wrong, 1);
}

#[test]
fn while_the_device_stalls_nothing_completes() {
    let (disk, io) = disk(11);
    let f = file(&io, "/d/f");
    let mut queue = io.queue(2).expect("a queue");
    queue.submit(1, Op::Write { file: f, offset: 0, buf: block(b'b'), durable: true });
    disk.stall(true);
    let mut done = Vec::new();
    for _ in 0..50 {
        queue.poll(None, &mut done).expect("it only takes long");
    }
    assert!(done.is_empty());
    disk.stall(false);
    while done.is_empty() {
        queue.poll(None, &mut done).expect("it goes on");
    }
}

#[test]
fn a_sync_after_one_that_failed_succeeds_over_lost_bytes() {
    let (disk, io) = disk(4);
    let f = file(&io, "/d/f");
    io.write_at(&f, 0, block(b'b'), false).expect("written");
    disk.fail_at(disk.ops() + 1, Fault::Eio);
    assert!(io.sync(&f).is_err());
    io.sync(&f).expect("which is the trap");
    assert_eq!(kinds(&content(&disk, "/d/f")[..BLOCK]), [b'b'].into(), "every process still reads it");
    disk.crash(Crash::Power);
    disk.reboot();
    assert_eq!(kinds(&content(&disk, "/d/f")), [b'a'].into());
}

#[test]
fn a_buffered_durable_write_that_failed_may_be_shown_clean_and_lost() {
    // What is shown after the failure, and what the power leaves of it though a later sync went well.
    let after = |seed, buffered| {
        let (disk, io) = disk(seed);
        let path = Path::new("/d/f");
        drop(file(&io, "/d/f"));
        let io = if buffered { disk.io_buffered() } else { io };
        let f = io.open(path, OpenMode::WriteDirect).expect("it is there");
        disk.fail_at(disk.ops() + 1, Fault::Eio);
        assert!(io.write_at(&f, 0, block(b'b'), true).is_err());
        let shown = content(&disk, "/d/f");
        let clean = disk.is_stable(path);
        io.sync(&f).expect("it failed once");
        assert_eq!(content(&disk, "/d/f"), shown, "seed {seed}");
        disk.crash(Crash::Power);
        disk.reboot();
        let left = content(&disk, "/d/f");
        assert!(clean || left == shown, "seed {seed}: what is dirty is made stable by a sync");
        (kinds(&shown[..BLOCK]).into_iter().collect::<Vec<_>>(), kinds(&left[..BLOCK]).into_iter().collect::<Vec<_>>())
    };
    let (a, b, both) = (vec![b'a'], vec![b'b'], vec![b'a', b'b']);
    let kept = [(a.clone(), a.clone()), (b.clone(), b.clone()), (both.clone(), both.clone())];
    let lost = [(b.clone(), a), (b, both)];
    assert_eq!(outcomes(|seed| after(seed, false)), kept.clone().into());
    assert_eq!(outcomes(|seed| after(seed, true)), kept.into_iter().chain(lost).collect());
}

#[test]
fn what_the_kernel_refuses_is_refused() {
    let (_, io) = disk(5);
    let f = file(&io, "/d/f");
    assert!(io.write_at(&f, 1, block(b'b'), true).is_err());
    assert!(io.write_at(&f, 0, AlignedBuf::from_slice(b"short"), true).is_err());
    let reader = io.open(Path::new("/d/f"), OpenMode::Read).expect("it is there");
    assert!(io.write_at(&reader, 0, block(b'b'), true).is_err());
    assert!(io.open(Path::new("/d/f"), OpenMode::Create).is_err());
    assert!(io.open(Path::new("/d/none"), OpenMode::WriteDirect).is_err());
    assert!(io.open(Path::new("/none/f"), OpenMode::Create).is_err());
    assert_eq!(io.read_at(&f, BLOCK as u64, 4 * BLOCK).expect("a read").len(), BLOCK, "fewer at the end of the file");
}

#[test]
fn the_same_seed_gives_the_same_trace_and_another_one_another() {
    let run = |seed| for_trace(&disk(seed), seed);
    fn for_trace((disk, io): &(SimDisk, Arc<dyn Io>), seed: u64) -> Vec<String> {
        let f = file(io, "/d/f");
        let mut queue = io.queue(8).expect("a queue");
        disk.crash_at(disk.ops() + 5 + seed % 8, Crash::Power);
        for id in 0..8 {
            queue.submit(id, Op::Write { file: f.clone(), offset: id * BLOCK as u64, buf: block(b'b'), durable: true });
        }
        while disk.crashed().is_none() {
            let _ends_with_the_crash = queue.poll(Some(Duration::ZERO), &mut Vec::new());
        }
        disk.reboot();
        disk.trace()
    }
    assert_eq!(run(7), run(7));
    assert_ne!(run(7), run(15));
}
