//! A whole segment file: damaged as by a disk, forged with right checksums, or made of the input's bytes.
//!
//! Invariant: of a damaged segment every answer is the true one or "damaged", and verification notices it; of a forged
//! one nothing is expected but an answer.

use crate::base::{base, segment_file};
use crate::edit;
use crate::mode;
use arbitrary::Unstructured;
use everlog::ErrorKind;
use everlog::format::block::{self, BODY_AT, Section};
use everlog::format::bytes::put_u32;
use everlog::format::chunk;
use everlog::format::manifest::SegmentMeta;
use everlog::format::segment::{FOOTER_LEN, Footer, INDEX_ENTRY_LEN, IndexEntry};
use everlog::io::Io;
use everlog::io::mem::MemIo;
use everlog::names::log_id;
use everlog::segment::Segment;
use everlog::types::{BLOCK, LogId, Seq, StoreId};
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

/// Longer files say nothing new.
const FILE_BYTES_MAX: usize = 24 * BLOCK;
/// The digest in an index entry, and of the file in the footer.
const ENTRY_DIGEST_AT: usize = INDEX_ENTRY_LEN - 20;
const DIGEST_AT: usize = FOOTER_LEN - 32;

/// The file behind the mode is edits (0: damage, 1: forgery), or the file itself (2).
pub fn segment(data: &[u8]) {
    let (mode, rest) = mode(data);
    let (meta, bytes) = segment_file(base());
    match mode % 3 {
        0 => damaged(&meta, bytes, rest),
        1 => {
            let mut forged = bytes.to_vec();
            edit::forge(&mut Unstructured::new(rest), &mut forged);
            let meta = make_right(&meta, &mut forged);
            ask(base().identity.store, &meta, forged);
        }
        _ => {
            let mut bytes = rest[..rest.len().min(FILE_BYTES_MAX)].to_vec();
            bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
            let mut meta = SegmentMeta { bytes: bytes.len() as u64, ..meta };
            meta.digest = *blake3::hash(&bytes).as_bytes();
            if let Some(footer) = footer(&meta, &bytes) {
                meta = said(&footer, &meta);
            }
            ask(base().identity.store, &meta, bytes);
        }
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let (_, bytes) = segment_file(base());
    let mut seeds: Vec<Vec<u8>> = vec![[&[2], bytes].concat()];
    for mode in 0..2u8 {
        seeds.push(vec![mode]);
        for block in 0..(bytes.len() / BLOCK) as u32 {
            let at = (block * BLOCK as u32 + 40).to_le_bytes();
            seeds.push([&[mode, 0, 0, 0, 0], &at[..], &[0xff; 8]].concat());
        }
    }
    seeds
}

fn damaged(meta: &SegmentMeta, intact: &[u8], rest: &[u8]) {
    let mut bytes = intact.to_vec();
    edit::damage(&mut Unstructured::new(rest), &mut bytes, 0, true);
    let changed = bytes != intact;
    let truth = truth(meta, intact);
    let Some((answers, findings)) = answers(base().identity.store, meta, bytes) else {
        assert!(changed, "an intact segment opens");
        return;
    };
    assert_eq!(findings > 0, changed, "verification notices damage, and nothing else");
    assert_eq!(truth.len(), answers.len());
    for (question, answer) in answers {
        match answer {
            Ok(answer) => assert_eq!(truth[&question].as_ref(), Ok(&answer), "{question} is answered wrongly"),
            Err(ErrorKind::Damaged) => assert!(changed, "{question} is called damaged"),
            Err(other) => panic!("{question} is answered with {other:?}"),
        }
    }
}

/// Answers nothing is expected of.
fn ask(store: StoreId, meta: &SegmentMeta, bytes: Vec<u8>) {
    answers(store, meta, bytes);
}

type Answers = BTreeMap<String, Result<String, ErrorKind>>;

fn truth(meta: &SegmentMeta, intact: &[u8]) -> &'static Answers {
    static TRUTH: OnceLock<Answers> = OnceLock::new();
    TRUTH.get_or_init(|| {
        let (answers, findings) = answers(base().identity.store, meta, intact.to_vec()).expect("it is intact");
        assert!(findings == 0 && answers.values().all(Result::is_ok), "an intact segment answers everything");
        answers
    })
}

/// Everything that can be asked of a segment, and how many findings its verification has; None if it does not open.
fn answers(store: StoreId, meta: &SegmentMeta, bytes: Vec<u8>) -> Option<(Answers, usize)> {
    let disk = MemIo::new();
    let dir = &base().dir;
    disk.restore(&[(everlog::segment::path(dir, meta.id), bytes)].into());
    let io: Arc<dyn Io> = Arc::new(disk);
    let segment = match Segment::open(io, dir, store, meta).map(Arc::new) {
        Ok(segment) => segment,
        Err(e) => {
            assert!(matches!(e.kind(), ErrorKind::Damaged | ErrorKind::Refused), "{e}");
            return None;
        }
    };
    let mut answers = Answers::new();
    let mut answer = |question: String, answer: everlog::Result<String>| {
        answers.insert(question, answer.map_err(|e| e.kind()));
    };
    let names = base().truth.keys().map(String::as_str).chain(["users/bob/gone", "nobody", ""]);
    for name in names {
        let log = log_id(&base().identity.key, name);
        answer(format!("head of {name}"), segment.head(log).map(|head| format!("{head:?}")));
        answer(format!("state of {name}"), state(&segment, log));
        for from in [0, 1, 2, u64::MAX] {
            answer(format!("records of {name} from {from}"), records(&segment, log, Seq(from)));
        }
        answer(format!("name of {name}"), segment.name_of(log).map(|found| format!("{found:?}")));
        answer(format!("names from {name}"), segment.names_from(name, 3).map(|found| format!("{found:?}")));
    }
    answer("origin".to_owned(), segment.origin().map(|origin| format!("{origin:?}")));
    let findings = segment.verify(&mut |_| ());
    Some((answers, findings.len()))
}

fn state(segment: &Segment, log: LogId) -> everlog::Result<String> {
    match segment.head(log)?.and_then(|head| head.state_at) {
        Some(at) => segment.state(log, at).map(|record| format!("{record:?}")),
        None => Ok("none".to_owned()),
    }
}

fn records(segment: &Segment, log: LogId, from: Seq) -> everlog::Result<String> {
    let mut out = String::new();
    for at in segment.chunks(log, from)? {
        let chunk = segment.chunk(&at)?;
        for entry in chunk.entries() {
            // A chunk is what its digest says; what is in it must be well formed unless that is forged.
            match entry {
                Ok(entry) => out += &format!("{} {} {:?}\n", entry.lsn, entry.time.0, entry.body),
                Err(e) => out += &format!("{e}\n"),
            }
        }
    }
    Ok(out)
}

fn footer(meta: &SegmentMeta, bytes: &[u8]) -> Option<Footer> {
    let number = (bytes.len() / BLOCK).checked_sub(1)?;
    let block = bytes.get(number * BLOCK..(number + 1) * BLOCK)?;
    let body = block::decode(block, Section::Footer, meta.id, number as u64).ok()?;
    Footer::decode(body, number as u64).ok()
}

/// What a manifest would say of the file, taken from its footer.
fn said(footer: &Footer, meta: &SegmentMeta) -> SegmentMeta {
    SegmentMeta {
        first_lsn: footer.header.first_lsn,
        last_lsn: footer.header.last_lsn,
        first_time: footer.first_time,
        last_time: footer.last_time,
        logs: footer.logs,
        records: footer.records,
        entries: footer.entries,
        payload_bytes: footer.payload_bytes,
        ..meta.clone()
    }
}

/// Makes all checksums and digests of a forged file right, and gives the manifest's word for it.
fn make_right(meta: &SegmentMeta, bytes: &mut [u8]) -> SegmentMeta {
    let (_, intact) = segment_file(base());
    let checked = |number: usize, section| {
        let block = &intact[number * BLOCK..(number + 1) * BLOCK];
        block::decode(block, section, meta.id, number as u64).is_ok()
    };
    let last = bytes.len() / BLOCK - 1;
    for number in (0..last).filter(|number| checked(*number, Section::Index)) {
        let at = number * BLOCK + BODY_AT;
        for entry_at in (at..at + BLOCK - BODY_AT - INDEX_ENTRY_LEN).step_by(INDEX_ENTRY_LEN) {
            let Ok(entry) = IndexEntry::decode(&bytes[entry_at..]) else { continue };
            let stored = (entry.offset as usize).checked_add(entry.len as usize);
            let Some(stored) = stored.and_then(|end| bytes.get(entry.offset as usize..end)) else { continue };
            let digest = chunk::digest(stored).to_le_bytes();
            if entry.len > 0 {
                bytes[entry_at + ENTRY_DIGEST_AT..][..8].copy_from_slice(&digest);
            }
        }
    }
    let sections = [
        Section::Header,
        Section::Index,
        Section::State,
        Section::Lookup,
        Section::Root,
        Section::Names,
        Section::Meta,
    ];
    let blocks = (0..last).filter(|number| sections.iter().any(|section| checked(*number, *section)));
    blocks.for_each(|number| right_block(&mut bytes[number * BLOCK..(number + 1) * BLOCK]));
    let digest = blake3::hash(&bytes[..last * BLOCK]);
    bytes[last * BLOCK + BODY_AT + DIGEST_AT..][..32].copy_from_slice(digest.as_bytes());
    right_block(&mut bytes[last * BLOCK..]);
    let meta = SegmentMeta { digest: *blake3::hash(bytes).as_bytes(), ..meta.clone() };
    match footer(&meta, bytes) {
        Some(footer) => said(&footer, &meta),
        None => meta,
    }
}

fn right_block(block: &mut [u8]) {
    let crc = crc32fast::hash(&block[4..]);
    put_u32(block, 0, crc);
}
