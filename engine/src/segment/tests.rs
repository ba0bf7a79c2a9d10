//! Segments written from random logs and read back, and damaged in every byte.

mod ahead;
mod cached;
mod map;
mod model;
mod warm;

use self::model::{Model, ModelLog, Step, log_id, model, steps};
use super::testing::Disk;
use super::*;
use crate::error::Result;
use crate::format::Features;
use crate::format::block::{self, Section};
use crate::format::bytes::get_u64;
use crate::format::entry::{Entry, Kind};
use crate::format::identity::Identity;
use crate::format::manifest::{SegmentMeta, TimelineCause, TimelineStart};
use crate::format::segment::{Footer, KEY_LEN, Key, Stripe};
use crate::format::state::Changed;
use crate::io::{Io, OpenMode};
use crate::types::{BLOCK, LogId, Lsn, Seq, StoreId, TimeUs, Timeline};
use proptest::prelude::*;
use std::sync::Arc;

const FIRST_LSN: u64 = 1000;
const ID: SegmentId = SegmentId(7);

fn dir() -> &'static Path {
    Path::new("store")
}

fn file() -> PathBuf {
    path(dir(), ID)
}

fn identity() -> Identity {
    Identity { features: Features::KNOWN, store: StoreId([9; 16]), key: [3; 32], created: TimeUs(1) }
}

fn origin() -> Origin {
    let start = TimelineStart {
        timeline: Timeline { counter: 1, random: 2 },
        parent: Timeline::default(),
        first_lsn: Lsn(1),
        began: TimeUs(2),
        cause: TimelineCause::Creation,
    };
    Origin { ancestry: vec![start], merged: vec![SegmentId(3), SegmentId(5)] }
}

fn write(disk: &Disk, model: &Model) -> SegmentMeta {
    let io: Arc<dyn Io> = Arc::new(disk.clone());
    let last = model.values().map(|log| log.state.last_lsn.0).max().unwrap_or(FIRST_LSN);
    let mut writer = SegmentWriter::create(io, dir(), &identity(), ID, Lsn(FIRST_LSN)..=Lsn(last)).expect("a new file");
    for (id, log) in model {
        writer.begin_log(*id);
        for e in &log.entries {
            writer.entry(e.lsn, e.time, e.kind, e.seq, &e.body).expect("a disk without faults");
        }
        let changed = log.state.changed.last();
        let record = (changed >= Lsn(FIRST_LSN)).then(|| StateRecord::of(&log.state, Lsn(FIRST_LSN)));
        let ends = log.state.life.expiry > TimeUs(0) || record.as_ref().is_some_and(StateRecord::ends);
        let record = record.map(|record| record.encoded());
        writer.end_log(log.state.next_seq, changed, record.as_deref(), ends).expect("a disk without faults");
    }
    writer.end_logs().expect("a disk without faults");
    names(model).iter().try_for_each(|name| writer.name(name)).expect("a disk without faults");
    writer.finish(&origin()).expect("a disk without faults").0
}

fn names(model: &Model) -> Vec<Name> {
    let named = model.iter().filter_map(|(id, log)| Some((log.name.clone()?, *id, log.state.life.created)));
    let mut names: Vec<_> = named.collect();
    names.sort();
    names
}

fn open(disk: &Disk, meta: &SegmentMeta) -> Result<Arc<Segment>> {
    Segment::open(Arc::new(disk.clone()), dir(), identity().store, meta).map(Arc::new)
}

/// The log's records from `from` on, as a reader gathers them: LSN, time, body.
fn read_records(segment: &Segment, log: LogId, mut from: Seq) -> Result<Vec<(Lsn, TimeUs, Vec<u8>)>> {
    let mut out = Vec::new();
    loop {
        let chunks = segment.chunks(log, from)?;
        let Some(last) = chunks.last() else { return Ok(out) };
        for entry in &chunks {
            for raw in segment.chunk(entry)?.entries() {
                let raw = raw.expect("the digest was right");
                let body = Entry::decode(log, raw.body).expect("the digest was right");
                if body.kind == Kind::Record && body.seq >= from {
                    out.push((raw.lsn, raw.time, raw.body.to_vec()));
                }
            }
        }
        from = last.next_seq();
    }
}

/// Fails unless everything that can be asked of the log is answered as the model says, or with an error.
fn check_log(segment: &Segment, id: LogId, log: &ModelLog) -> Result<()> {
    let head = segment.head(id)?.expect("a log of the segment is never absent");
    assert_eq!((head.log, head.next_seq(), head.state_lsn), (id, log.state.next_seq, log.state.changed.last()));
    assert_eq!(head.state_at.is_some(), log.state.changed.last() >= Lsn(FIRST_LSN));
    if let Some(at) = head.state_at {
        assert_eq!(segment.state(id, at)?, StateRecord::of(&log.state, Lsn(FIRST_LSN)));
    }
    let records: Vec<_> = log.entries.iter().filter(|e| e.kind == Kind::Record).collect();
    let middle = records.get(records.len() / 2).map_or(log.state.next_seq, |e| e.seq);
    for from in [Seq(0), middle, log.state.next_seq] {
        let read = read_records(segment, id, from)?;
        let want = records.iter().filter(|e| e.seq >= from);
        let want: Vec<_> = want.map(|e| (e.lsn, e.time, e.body.clone())).collect();
        assert!(read == want, "log {id} from {from}: {} records instead of {}", read.len(), want.len());
    }
    let all = read_all(segment, id)?;
    assert!(all.iter().eq(log.entries.iter().map(|e| &e.body)), "log {id}: {} of {}", all.len(), log.entries.len());
    Ok(())
}

/// The bodies of all entries of the log, those that are no records included.
fn read_all(segment: &Segment, log: LogId) -> Result<Vec<Vec<u8>>> {
    let (mut out, mut place) = (Vec::new(), None);
    loop {
        let (chunks, rest) = segment.all_chunks(log, place)?;
        assert!(chunks.len() <= 64);
        for entry in &chunks {
            let chunk = segment.chunk(entry)?;
            out.extend(chunk.entries().map(|raw| raw.expect("the digest was right").body.to_vec()));
        }
        place = rest;
        if place.is_none() {
            return Ok(out);
        }
    }
}

fn check_lists(segment: &Segment, model: &Model) -> Result<()> {
    let names = names(model);
    assert_eq!(segment.names_from("", usize::MAX)?, names);
    for (i, (name, id, _)) in names.iter().enumerate().step_by(9) {
        assert_eq!(segment.names_from(name, 5)?, names[i..(i + 5).min(names.len())]);
        assert_eq!(segment.name_of(*id)?.as_ref(), Some(name));
    }
    assert_eq!(segment.origin()?, origin());
    Ok(())
}

type Entries = Vec<(LogId, Lsn, TimeUs, Vec<u8>)>;
type Walked = (Entries, Vec<(LogId, StateRecord)>, Vec<Name>);

/// Every entry of the file, control entries included, and the logs' state records, in the order of the index, as a merge
/// goes through them; and the names.
fn walk(segment: Arc<Segment>) -> Result<Walked> {
    let mut cursor = Cursor::new(Arc::clone(&segment))?;
    let (mut entries, mut states) = (Vec::new(), Vec::new());
    while let Some(log) = cursor.log() {
        let (entry, state) = cursor.next(|e| {
            entries.push((log, e.lsn, e.time, e.body.to_vec()));
            Ok(())
        })?;
        assert_eq!(entry.log, log);
        states.extend(state.map(|state| (log, StateRecord::decode(&state).expect("as written"))));
    }
    Ok((entries, states, Names::new(segment).collect::<Result<_>>()?))
}

/// What a walk gives of the model.
fn walked(model: &Model) -> Walked {
    let entries =
        model.iter().flat_map(|(id, log)| log.entries.iter().map(move |e| (*id, e.lsn, e.time, e.body.clone())));
    let changed = model.iter().filter(|(_, log)| log.state.changed.last() >= Lsn(FIRST_LSN));
    let states = changed.map(|(id, log)| (*id, StateRecord::of(&log.state, Lsn(FIRST_LSN))));
    (entries.collect(), states.collect(), names(model))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn random_logs_come_back(
        logs in proptest::collection::btree_map(0u64..100_000, (prop_oneof![Just(0), 1u64..1 << 40], steps()), 0..200),
        salt: u64, maps: bool, warm: bool,
    ) {
        let logs: Vec<_> = logs.into_iter().map(|(n, (base, steps))| (n, base, steps)).collect();
        let model = model(&logs, salt);
        let mut disk = Disk::default();
        disk.maps = maps;
        let meta = write(&disk, &model);
        prop_assert_eq!(meta.bytes, disk.content(&file()).len() as u64);
        let (entries, ..) = walked(&model);
        let counts = (meta.logs, meta.entries, meta.payload_bytes);
        let payload_bytes: usize = entries.iter().map(|e| e.3.len()).sum();
        prop_assert_eq!(counts, (model.len() as u64, entries.len() as u64, payload_bytes as u64));
        read_back(&disk, &meta).expect("just written");
        let mut segment = open(&disk, &meta).expect("just written");
        if warm {
            Arc::get_mut(&mut segment).expect("nobody else's").warm();
        }
        for (id, log) in &model {
            check_log(&segment, *id, log).expect("intact");
        }
        check_lists(&segment, &model).expect("intact");
        prop_assert!(walk(open(&disk, &meta).expect("just written")).expect("intact") == walked(&model));
        for n in 200_000..200_200 {
            prop_assert_eq!(segment.head(log_id(n)).expect("intact"), None);
            prop_assert!(segment.chunks(log_id(n), Seq(0)).expect("intact").is_empty());
        }
        let mut bytes = 0;
        prop_assert_eq!(segment.verify(&mut |n| bytes += n), vec![]);
        prop_assert_eq!(bytes, meta.bytes);
    }
}

fn read_back(disk: &Disk, meta: &SegmentMeta) -> Result<()> {
    ReadBack::begin(disk, dir(), ID)?.finish(meta)
}

fn small() -> (Disk, Model, SegmentMeta) {
    let record = |len| Step::Record { len, noise: true };
    let logs = [
        (1, 0, vec![record(10), Step::Control, record(700)]),
        (2, 0, vec![Step::Record { len: 3000, noise: false }, record(0)]),
        (3, 50, vec![record(100), Step::Recreate, record(20)]),
        (4, 0, vec![Step::Control]),
        (5, 8, vec![record(30)]),
    ];
    let model = model(&logs, 11);
    let disk = Disk::default();
    let meta = write(&disk, &model);
    (disk, model, meta)
}

#[test]
fn each_damaged_byte_is_found_and_nothing_wrong_is_ever_read() {
    let (disk, model, meta) = small();
    let opened = open(&disk, &meta).expect("intact");
    let chunks: Vec<_> = model.keys().flat_map(|id| opened.chunks(*id, Seq(0)).expect("intact")).collect();
    for at in 0..meta.bytes {
        disk.flip(&file(), at, 1 << (at % 8));
        let findings = opened.verify(&mut |_| {});
        assert!(!findings.is_empty(), "byte {at}");
        if let Some(hit) = chunks.iter().find(|c| (c.offset..c.offset + u64::from(c.len)).contains(&at)) {
            let seqs = hit.first_seq.0..hit.next_seq().0;
            assert_eq!((findings.len(), &findings[0].seqs), (1, &Some(seqs)), "byte {at}: {findings:?}");
            assert_eq!(findings[0].log, Some(hit.log.to_string()));
        }
        assert_eq!(read_back(&disk, &meta).expect_err("one byte is wrong").kind(), ErrorKind::Damaged);
        let damaged =
            |e: Error| assert_eq!((e.kind(), e.path()), (ErrorKind::Damaged, Some(&*file())), "byte {at}: {e}");
        match open(&disk, &meta) {
            Ok(segment) => {
                for (id, log) in &model {
                    check_log(&segment, *id, log).unwrap_or_else(damaged);
                }
                check_lists(&segment, &model).unwrap_or_else(damaged);
            }
            Err(e) => damaged(e),
        }
        match open(&disk, &meta).and_then(walk) {
            Ok(found) => assert!(found == walked(&model), "byte {at}"),
            Err(e) => damaged(e),
        }
        disk.flip(&file(), at, 1 << (at % 8));
    }
    assert_eq!(opened.verify(&mut |_| {}), []);
}

#[test]
fn a_shorter_a_longer_and_anothers_file_are_damage() {
    let (disk, _, meta) = small();
    let good = disk.content(&file());
    let opened = open(&disk, &meta).expect("intact");
    let refused = |disk: &Disk| {
        assert_eq!(open(disk, &meta).expect_err("another length").kind(), ErrorKind::Damaged);
        assert_eq!(read_back(disk, &meta).expect_err("another length").kind(), ErrorKind::Damaged);
    };
    disk.truncate(&file(), good.len() - BLOCK);
    refused(&disk);
    assert!(!opened.verify(&mut |_| {}).is_empty());
    disk.put(&file(), &[&*good, &[0; BLOCK]].concat());
    refused(&disk);

    disk.put(&file(), &good);
    let other = Segment::open(Arc::new(disk.clone()), dir(), StoreId([1; 16]), &meta);
    assert_eq!(other.expect_err("another store's").kind(), ErrorKind::Damaged);
    let otherwise = SegmentMeta { records: meta.records + 1, ..meta.clone() };
    assert_eq!(open(&disk, &otherwise).expect_err("the manifest differs").kind(), ErrorKind::Damaged);
    let digest = SegmentMeta { digest: [0; 32], ..meta.clone() };
    assert_eq!(open(&disk, &digest).expect("not read as a whole").verify(&mut |_| {}).len(), 1);
}

#[test]
fn a_missing_segment_is_damage_that_names_its_lsns() {
    let (disk, _, meta) = small();
    (&disk as &dyn Io).remove(&file()).expect("it is there");
    let error = open(&disk, &meta).expect_err("it is gone");
    assert_eq!((error.kind(), error.lsn_range()), (ErrorKind::Damaged, Some(FIRST_LSN..meta.last_lsn.0 + 1)));
}

#[test]
fn a_segment_is_shared_by_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Segment>();
}

#[test]
fn a_newer_format_is_refused_and_not_called_damage() {
    let (disk, _, meta) = small();
    let segment = open(&disk, &meta).expect("intact");
    let number = meta.bytes / BLOCK as u64 - 1;
    for at in [8, 32] {
        let mut body = segment.footer.encode();
        body[at] = 1;
        let block = block::encode(Section::Footer, ID, number, &body);
        let mut bytes = disk.content(&file());
        let end = bytes.len() - BLOCK;
        bytes[end..].copy_from_slice(&block);
        disk.put(&file(), &bytes);
        assert_eq!(open(&disk, &meta).expect_err("not known").kind(), ErrorKind::Refused, "byte {at}");
    }
}

#[test]
fn a_lookup_touches_two_blocks_first_on_the_disk_and_then_in_the_map() {
    let logs: Vec<_> = (0..2000).map(|n| (n, 5, vec![Step::Record { len: 10, noise: true }])).collect();
    let model = model(&logs, 1);
    for maps in [false, true] {
        let mut disk = Disk::default();
        disk.maps = maps;
        let meta = write(&disk, &model);
        let segment = open(&disk, &meta).expect("intact");
        disk.take_reads();
        for first in [true, false] {
            let head = segment.head(log_id(77)).expect("intact").expect("there");
            let reads = disk.take_reads();
            assert_eq!(
                reads.len(),
                match (first, maps) {
                    (true, _) | (false, false) => 2,
                    (false, true) => 0,
                },
                "maps {maps}, first {first}"
            );
            assert!(reads.iter().all(|(_, len)| *len == BLOCK));
            segment.chunk(&head).expect("intact");
            assert_eq!(disk.take_reads().len(), 1, "a chunk is one read");
        }
    }
}

#[test]
fn a_bad_lookup_block_is_a_maybe_and_a_bad_index_block_is_not() {
    let logs: Vec<_> = (0..3000).map(|n| (n, 5, vec![Step::Record { len: 10, noise: true }])).collect();
    let model = model(&logs, 1);
    let disk = Disk::default();
    let meta = write(&disk, &model);
    let segment = open(&disk, &meta).expect("intact");
    assert_eq!(segment.stripes.len(), 2);
    for stripe in &segment.stripes {
        disk.flip(&file(), stripe.lookup * BLOCK as u64 + 100, 1);
    }
    for (id, log) in &model {
        check_log(&segment, *id, log).expect("no lookup block is needed");
    }
    assert_eq!(segment.head(log_id(9999)).expect("the index is intact"), None);
    let stripe = segment.stripe_of(Key::last_of(log_id(9999))).expect("among the others");
    for number in segment.stripes[stripe].index().first..segment.stripes[stripe].index().end() {
        disk.flip(&file(), number * BLOCK as u64 + 100, 1);
    }
    let error = segment.head(log_id(9999)).expect_err("the index is damaged");
    assert_eq!(error.kind(), ErrorKind::Damaged);
    assert_eq!(error.lsn_range(), Some(meta.first_lsn.0..meta.last_lsn.0 + 1));
}

#[test]
fn a_block_that_cannot_be_read_is_named_with_the_logs_it_holds() {
    let record = Step::Record { len: 20_000, noise: true };
    let model = model(&[(1, 0, vec![record.clone(); 9]), (2, 0, vec![record; 2])], 4);
    let disk = Disk::default();
    let meta = write(&disk, &model);
    let segment = open(&disk, &meta).expect("intact");
    let chunk = segment.chunks(log_id(1), Seq(4)).expect("intact")[0];
    let bad = chunk.offset / BLOCK as u64 + 2;
    disk.bad.lock().expect("no panic").push(bad);

    let error = segment.chunk(&chunk).expect_err("it cannot be read");
    assert_eq!((error.kind(), error.log_name()), (ErrorKind::Io, Some(&*log_id(1).to_string())));
    assert_eq!(error.seq_range(), Some(chunk.first_seq.0..chunk.next_seq().0));
    let findings = segment.verify(&mut |_| {});
    assert_eq!(findings.len(), 2, "{findings:?}");
    assert_eq!(findings[0].offset, Some(bad * BLOCK as u64));
    assert_eq!(findings[1].seqs, Some(chunk.first_seq.0..chunk.next_seq().0));
}

#[test]
fn an_index_entry_that_lies_is_damage() {
    let (disk, model, meta) = small();
    let segment = open(&disk, &meta).expect("intact");
    let id = *model.keys().next().expect("some");
    let good = segment.head(id).expect("intact").expect("there");
    for bad in [
        IndexEntry { offset: 0, ..good },
        IndexEntry { offset: meta.bytes, ..good },
        IndexEntry { len: 0, ..good },
        IndexEntry { len: u32::MAX, ..good },
        IndexEntry { digest: !good.digest, ..good },
    ] {
        let error = segment.chunk(&bad).expect_err("it is not so");
        assert_eq!((error.kind(), error.log_name()), (ErrorKind::Damaged, Some(&*id.to_string())));
    }
    assert_eq!(segment.state(id, u32::MAX - 1).expect_err("beyond the stream").kind(), ErrorKind::Damaged);
}

/// Changes the body of a block, and makes its checksum right again.
fn forge(disk: &Disk, section: Section, number: u64, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = disk.content(&file());
    let at = number as usize * BLOCK;
    let block = &mut bytes[at..at + BLOCK];
    let mut body = block::decode(block, section, ID, number).expect("intact").to_vec();
    change(&mut body);
    block.copy_from_slice(&block::encode(section, ID, number, &body));
    disk.put(&file(), &bytes);
}

/// The text of what is found when a block was changed and has a right checksum.
fn found(section: Section, change: impl FnOnce(&mut Vec<u8>)) -> String {
    let (disk, _, meta) = small();
    let segment = open(&disk, &meta).expect("intact");
    let (stripe, places) = (segment.stripes[0], segment.footer.places);
    let number = match section {
        Section::Index => stripe.index().first,
        Section::Lookup => stripe.lookup,
        _ => (stripe.lookup + 1..).find(|n| places.section_of(*n) == section).expect("some"),
    };
    forge(&disk, section, number, change);
    let findings = open(&disk, &meta).expect("footer and root are intact").verify(&mut |_| {});
    findings.iter().map(|f| format!("{f}\n")).collect()
}

#[test]
fn parts_that_contradict_each_other_are_found_under_right_checksums() {
    let entry = crate::format::segment::INDEX_ENTRY_LEN;
    let (disk, model, meta) = small();
    let lookup = open(&disk, &meta).expect("intact").stripes[0].lookup;
    let others = model.keys().map(|log| filter::key_of(*log).wrapping_add(1 << 45)).collect::<Vec<_>>();
    let cases: [(&str, String); 10] = [
        (
            "not where the one before ends",
            found(Section::Index, |body| {
                let with_state = body.chunks_mut(entry).find(|e| e[48..52] != [0xff; 4] && e[48..52] != [0; 4]);
                with_state.expect("a second state record")[48] += 1;
            }),
        ),
        ("another number of records", found(Section::Index, |body| body[24] += 1)),
        ("does not follow the chunk before", found(Section::Index, |body| body[entry + 30] += 1)),
        ("the zeros behind the data are not zero", found(Section::Index, |body| body.truncate(body.len() - entry))),
        ("a state on a chunk that is not the log's last", found(Section::Index, |body| body[28] &= !2)),
        ("logs that do not follow one another", found(Section::Index, |body| body[entry] = 0)),
        ("other keys than the root", found(Section::Lookup, |body| *body.last_mut().expect("a key") ^= 1)),
        ("a part of the filter cannot be proved", found(Section::Lookup, |body| body[0] ^= 1)),
        (
            "the filter denies",
            found(Section::Lookup, |body| {
                let filter = filter::build(&others, (ID, lookup));
                body.splice(..body.len() - KEY_LEN, filter);
            }),
        ),
        ("names out of order", found(Section::Names, |body| body[1] = b'z')),
    ];
    for (want, found) in cases {
        assert!(found.contains(want), "{want}: {found}");
    }
}

#[test]
fn a_cursor_notices_what_does_not_follow_across_stripes_and_at_the_end() {
    let large = Step::Record { len: 40_000, noise: false };
    let mut model = model(&[(1, 3, vec![Step::Control]), (2, 3, vec![large; 2200]), (3, 3, vec![Step::Control])], 2);
    for log in model.values_mut() {
        log.state.changed = Changed { life: Lsn(5), ..Changed::default() };
    }
    let disk = Disk::default();
    let meta = write(&disk, &model);
    let good = disk.content(&file());
    let stripes = open(&disk, &meta).expect("intact").stripes.clone();
    let entry = crate::format::segment::INDEX_ENTRY_LEN;
    // Not the log's last chunk any more, and no state there; or the last one, with a state.
    let change = |at: &mut [u8], last: bool| {
        at[28] = if last { at[28] | 2 } else { at[28] & !2 };
        at[52..60].copy_from_slice(&u64::from(last).to_le_bytes());
    };
    let end_of = |stripe: &Stripe| stripe.index().end() - 1;
    for (number, last) in [(end_of(&stripes[0]), true), (end_of(&stripes[1]), false)] {
        forge(&disk, Section::Index, number, |body| {
            let at = body.len() - entry;
            change(&mut body[at..], last);
        });
        let error = open(&disk, &meta).and_then(walk).expect_err("a lie").kind();
        assert_eq!(error, ErrorKind::Damaged, "block {number}");
        disk.put(&file(), &good);
    }
    assert!(open(&disk, &meta).and_then(walk).expect("intact") == walked(&model));
}

#[test]
fn many_chunks_come_in_bounded_portions() {
    let model = model(&[(1, 3, vec![Step::Record { len: 50_000, noise: true }; 150]), (2, 0, vec![Step::Control])], 2);
    let disk = Disk::default();
    let meta = write(&disk, &model);
    let segment = open(&disk, &meta).expect("intact");
    assert_eq!(segment.chunks(log_id(1), Seq(0)).expect("intact").len(), 64);
    check_log(&segment, log_id(1), &model[&log_id(1)]).expect("intact");
    assert!(segment.stripes[0].index_blocks > 2, "the log's chunks cross index blocks");
}

#[test]
fn a_logs_chunks_go_on_in_the_next_stripe() {
    let large = Step::Record { len: 40_000, noise: false };
    let model = model(&[(1, 0, vec![Step::Control]), (2, 3, vec![large; 2200]), (3, 0, vec![Step::Control])], 2);
    let disk = Disk::default();
    let meta = write(&disk, &model);
    let mut segment = open(&disk, &meta).expect("intact");
    assert_eq!(segment.stripes.len(), 2);
    for _ in 0..2 {
        for (id, log) in &model {
            check_log(&segment, *id, log).expect("intact");
        }
        assert_eq!(read_records(&segment, log_id(2), Seq(2190)).expect("intact").len(), 13);
        // Then again with what memory says.
        Arc::get_mut(&mut segment).expect("nobody else's").warm();
    }
    assert_eq!(segment.verify(&mut |_| {}), []);
}

#[test]
fn an_idle_logs_single_record_costs_at_most_64_bytes_of_index_and_state() {
    let logs: Vec<_> = (0..50_000).map(|n| (n, 5, vec![Step::Record { len: 100, noise: true }])).collect();
    let mut model = model(&logs, 1);
    for log in model.values_mut() {
        log.state.changed = Changed { life: Lsn(5), timelines: Lsn(7), ..Changed::default() };
    }
    let disk = Disk::default();
    let meta = write(&disk, &model);
    let segment = open(&disk, &meta).expect("intact");
    let places = segment.footer.places;
    let of_stripe = |stripe: &Stripe| u64::from(stripe.index_blocks) + stripe.state_blocks() + 1;
    let bytes = BLOCK as u64 * (places.root.blocks + segment.stripes.iter().map(of_stripe).sum::<u64>());
    assert!(bytes <= 64 * 50_000, "{} bytes a log", bytes / 50_000);
    assert!(places.root.blocks == 1 && places.names.blocks == 0);
    let passed = (100_000..120_000).filter(|n| segment.may_hold(log_id(*n))).count();
    assert!(passed < 20, "{passed} of 20000 absent logs were let through");
    for (id, log) in model.iter().step_by(997) {
        check_log(&segment, *id, log).expect("intact");
    }
}

#[test]
fn a_segment_without_logs_has_none() {
    let disk = Disk::default();
    let meta = write(&disk, &Model::new());
    let segment = open(&disk, &meta).expect("intact");
    assert_eq!(segment.head(log_id(1)).expect("intact"), None);
    assert_eq!(segment.stripes, []);
    assert_eq!(segment.verify(&mut |_| {}), []);
}

#[test]
fn a_writer_does_not_write_over_a_file() {
    let (disk, ..) = small();
    let lsns = Lsn(1)..=Lsn(2);
    let again = SegmentWriter::create(Arc::new(disk.clone()), dir(), &identity(), ID, lsns);
    assert_eq!(again.err().expect("the file exists").kind(), ErrorKind::Io);
}

#[test]
fn the_footers_digest_is_of_all_before_it() {
    let (disk, _, meta) = small();
    let bytes = disk.content(&file());
    let end = bytes.len() - BLOCK;
    let number = end as u64 / BLOCK as u64;
    let body = block::decode(&bytes[end..], Section::Footer, ID, number).expect("intact");
    let footer = Footer::decode(body, number).expect("intact");
    assert_eq!(footer.digest, *blake3::hash(&bytes[..end]).as_bytes());
    assert_eq!(meta.digest, *blake3::hash(&bytes).as_bytes());
    assert_eq!(get_u64(&bytes, 8), ID.0, "the header is a checked block of this segment");
}
