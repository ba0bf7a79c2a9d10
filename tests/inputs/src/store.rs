//! A whole store at rest: its journal or any of its files damaged as by a disk, or forged with right checksums, and then
//! opened.
//!
//! Invariant: what an intact frame proves durable is read as it was or called damaged, never given as absent and never
//! cut off; what verification calls damage in a frame is refused by an open, and nothing else is. Of forged files
//! nothing is expected but an answer.

use crate::base::{self, Base, Files, Hands, bases, config, flushed, frames, is_journal};
use crate::edit;
use crate::files::reseal;
use crate::mode;
use arbitrary::Unstructured;
use everlog::format::bytes::put_u32;
use everlog::format::entry::split_payload;
use everlog::format::frame::{FLAG_CLOSE, FrameHeader, HEADER_LEN, header_hash};
use everlog::format::identity::FILE_NAME;
use everlog::io::Io;
use everlog::io::mem::MemIo;
use everlog::types::{BLOCK, Lsn, Position};
use everlog::{Batch, ErrorKind, Finding, ReadLimit, ReadOnly, Steps, Store};
use std::path::PathBuf;
use std::sync::Arc;

/// The mode says which store, and what is done to it.
pub fn store(data: &[u8]) {
    let (mode, rest) = mode(data);
    let base = &bases()[usize::from(mode / 4) % bases().len()];
    let mut input = Unstructured::new(rest);
    let mut files = base.files.clone();
    match mode % 4 {
        0 => {
            damage_frames(&mut input, &mut files);
            frames_damaged(base, &files);
        }
        1 => {
            damage_any(&mut input, &mut files);
            anything_damaged(base, &files);
        }
        2 => {
            forge_frames(&mut input, base, &mut files);
            ask(base, &files);
        }
        _ => {
            forge_any(&mut input, base, &mut files);
            ask(base, &files);
        }
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for mode in 0..12u8 {
        seeds.push(vec![mode]);
        for block in 1..8u32 {
            let at = (block * BLOCK as u32 + 60).to_le_bytes();
            seeds.push([&[mode, 1, 0, 0, 0, 0], &at[..], &[0x7f; 8]].concat());
        }
    }
    seeds
}

/// One of the files that `wanted` picks.
fn pick<'a>(
    input: &mut Unstructured<'_>, files: &'a mut Files, wanted: impl Fn(&PathBuf) -> bool,
) -> (&'a PathBuf, &'a mut Vec<u8>) {
    let mut files: Vec<_> = files.iter_mut().filter(|(path, _)| wanted(path)).collect();
    let at = usize::from(input.arbitrary::<u8>().unwrap_or_default()) % files.len();
    files.swap_remove(at)
}

/// Damages what lies behind the header of a journal file.
fn damage_frames(input: &mut Unstructured<'_>, files: &mut Files) {
    let (_, bytes) = pick(input, files, |path| is_journal(path));
    edit::damage(input, bytes, BLOCK, false);
}

fn damage_any(input: &mut Unstructured<'_>, files: &mut Files) {
    let lengths = input.arbitrary().unwrap_or_default();
    let (_, bytes) = pick(input, files, |path| !path.ends_with("LOCK"));
    edit::damage(input, bytes, 0, lengths);
}

struct Machine {
    io: Arc<dyn Io>,
    clock: Arc<Hands>,
}

impl Machine {
    fn new(files: &Files) -> Self {
        let disk = MemIo::new();
        disk.restore(files);
        Self { io: Arc::new(disk), clock: Arc::default() }
    }

    fn open(&self, base: &Base) -> everlog::Result<(Store, Steps)> {
        Store::open_stepped(self.io.clone(), self.clock.clone(), &base.dir, config())
    }
}

fn verify(base: &Base, files: &Files) -> everlog::Result<Vec<Finding>> {
    everlog::verify(Machine::new(files).io, &base.dir, &mut |_, _| ())
}

/// What the frame headers that are intact prove durable, as far as they stand where they stood.
fn proven(base: &Base, files: &Files) -> Lsn {
    let mut proven = flushed(base);
    for frame in frames(base) {
        let Some(header) = base::header(&base.identity, &files[&frame.path], frame.at) else { continue };
        let closed = header.flags & FLAG_CLOSE != 0;
        proven = proven.max(header.watermark).max(if closed { header.last_lsn() } else { Lsn(0) });
    }
    proven
}

fn frames_damaged(base: &Base, files: &Files) {
    let opened = Machine::new(files);
    let store = opened.open(base);
    let findings = verify(base, files).expect("all but the journal is intact");
    match store {
        Ok((store, steps)) => {
            assert!(findings.is_empty(), "an open accepts what verification calls damage: {findings:?}");
            check(base, &store, proven(base, files), true);
            go_on(&opened, base, store, steps);
        }
        Err(e) => {
            assert_eq!(e.kind(), ErrorKind::Damaged, "{e}");
            assert!(!findings.is_empty(), "an open refuses what verification has nothing to say of: {e}");
        }
    }
}

fn anything_damaged(base: &Base, files: &Files) {
    let opened = Machine::new(files);
    match opened.open(base) {
        Ok((store, steps)) => {
            check(base, &store, proven(base, files), false);
            drop(steps);
        }
        Err(e) => {
            let refused = matches!(e.kind(), ErrorKind::Damaged | ErrorKind::Refused | ErrorKind::Io);
            assert!(refused, "{e}");
            assert!(*files != base.files, "an intact store opens: {e}");
        }
    }
    if let Ok(findings) = verify(base, files) {
        assert!(*files != base.files || findings.is_empty(), "{findings:?}");
    }
}

/// Reads everything: all that is proven must be there or be called damaged, and nothing else may be there than was.
/// With `intact` segments there is no damage left once the store is open.
fn check(base: &Base, store: &Store, proven: Lsn, intact: bool) {
    for (name, truth) in &base.truth {
        let owed = truth.iter().filter(|record| record.lsn <= proven).count();
        let page = store.read(name, Position::Start, ReadLimit { records: 1000, bytes: 1 << 20 });
        let page = match page {
            Ok(page) => page,
            Err(e) if e.kind() == ErrorKind::Damaged && !intact => continue,
            Err(e) if e.kind() == ErrorKind::NotFound && owed == 0 => continue,
            Err(e) => panic!("{owed} records of {name} are proven, and it answers {e}"),
        };
        assert!(page.records.len() >= owed, "{} of {owed} proven records of {name}", page.records.len());
        assert!(page.records.len() <= truth.len(), "{name} has grown");
        for (record, truth) in page.records.iter().zip(truth) {
            let (got, kept) = ((record.seq, record.lsn, &record.payload), (truth.seq, truth.lsn, &truth.payload));
            assert_eq!(got, kept, "a record of {name}");
        }
    }
}

/// The store goes on, is closed, and opens again with what it got.
fn go_on(opened: &Machine, base: &Base, store: Store, mut steps: Steps) {
    let mut batch = Batch::new();
    batch.log("new").create().record(b"after the damage");
    let ack = store.append(batch).expect("a store that is open takes appends");
    for _ in 0..100 {
        steps.commit().expect("a sound disk");
        steps.flush().expect("a sound disk");
    }
    ack.try_get().expect("a hundred passes are enough").expect("the log is new");
    steps.close().expect("a sound disk");
    drop(store);
    let (store, _) = opened.open(base).expect("it was closed cleanly");
    // Damage may look like the header of the frame that would come next: nobody can know what that held.
    let unknown = |(_, last): (Lsn, Option<Lsn>)| last.is_none();
    let report = store.recovery();
    assert!(report.clean || report.possibly_acknowledged.is_some_and(unknown), "it was closed cleanly: {report:?}");
    assert_eq!(store.read("new", 0, ReadLimit::default()).expect("acknowledged").records.len(), 1);
}

/// Asks for everything; nothing is expected but an answer. Nothing is written: what is written is asserted to be what the
/// engine writes, and a forgery need not be.
fn ask(base: &Base, files: &Files) {
    let everything = ReadLimit { records: 1000, bytes: 1 << 20 };
    if let Ok((store, _steps)) = Machine::new(files).open(base) {
        for name in base.truth.keys() {
            let _ = store.info(name);
            let _ = store.read(name, Position::Start, everything);
        }
        let _ = store.list("", None, 100);
    }
    if let Ok(shown) = ReadOnly::open_on(Machine::new(files).io, &base.dir) {
        let _ = shown.summary();
        let _ = shown.list("", None, 100);
    }
    let _ = verify(base, files);
}

/// Forges within the frames, and makes the checksums of entries, frames and their chain right.
fn forge_frames(input: &mut Unstructured<'_>, base: &Base, files: &mut Files) {
    let chained = input.arbitrary().unwrap_or(true);
    let mut frames = frames(base);
    let at = usize::from(input.arbitrary::<u8>().unwrap_or_default()) % frames.len();
    let whole = input.arbitrary().unwrap_or_default();
    let frame = &mut frames[at].bytes;
    let len = if whole { frame.len() } else { HEADER_LEN };
    edit::forge(input, &mut frame[..len]);
    let mut previous: Option<[u8; 16]> = None;
    for (n, frame) in frames.iter_mut().enumerate() {
        let payload_len = frame.header.payload_len as usize;
        right_entries(&mut frame.bytes[HEADER_LEN..HEADER_LEN + payload_len]);
        if let Some(hash) = previous.filter(|_| chained && n > at) {
            frame.bytes[144..160].copy_from_slice(&hash);
        }
        if n >= at {
            let claimed = FrameHeader::claimed_place(&frame.bytes);
            let journal = claimed.map_or(frame.header.journal, |(journal, _)| journal);
            reseal(&mut frame.bytes, base.identity.salt(journal));
        }
        previous = Some(header_hash(&frame.bytes[..HEADER_LEN]));
        if let Some(file) = files.get_mut(&frame.path) {
            file[frame.at..frame.at + frame.bytes.len()].copy_from_slice(&frame.bytes);
        }
    }
}

/// Makes the checksum of each entry right, as far as the payload can be split.
fn right_entries(payload: &mut [u8]) {
    let Ok(entries) = split_payload(payload) else { return };
    let places: Vec<_> = entries.iter().map(|raw| (raw.log, raw.body_at, raw.body.len())).collect();
    for (log, at, len) in places {
        let Some(content) = len.checked_sub(4) else { continue };
        let mut crc = crc32fast::Hasher::new();
        crc.update(&log.0);
        crc.update(&payload[at..at + content]);
        let crc = crc.finalize();
        put_u32(payload, at + content, crc);
    }
}

/// Forges any of the small files, and adds files of any name.
fn forge_any(input: &mut Unstructured<'_>, base: &Base, files: &mut Files) {
    let which = input.arbitrary::<u8>().unwrap_or_default();
    let (path, bytes) = pick(input, files, |path| match which % 3 {
        0 => path.ends_with(FILE_NAME),
        1 => path.to_string_lossy().contains("/manifest-"),
        _ => is_journal(path),
    });
    match which % 3 {
        0 => {
            edit::forge(input, &mut bytes[..128]);
            let at = bytes.len() - 4;
            let crc = crc32fast::hash(&bytes[..at]);
            put_u32(bytes, at, crc);
        }
        1 => {
            let content = bytes.len() - 32;
            bytes.truncate(content);
            edit::forge(input, bytes);
            let digest = blake3::hash(bytes);
            bytes.extend_from_slice(digest.as_bytes());
        }
        _ => {
            edit::forge(input, &mut bytes[..160]);
            let journal = everlog::types::JournalId(everlog::format::bytes::get_u64(bytes, 56));
            let salt = base.identity.salt(journal);
            let crc = everlog::format::frame::salted_crc(salt, &bytes[..BLOCK - 4]);
            put_u32(bytes, BLOCK - 4, crc);
        }
    }
    let (path, bytes) = (path.clone(), bytes.clone());
    if let Ok(name) = input.arbitrary::<&str>()
        && !name.is_empty()
        && name.len() < 100
        && !name.contains(['/', '\0'])
        && !matches!(name, "." | "..")
    {
        let folder = path.parent().unwrap_or(&base.dir);
        files.entry(folder.join(name)).or_insert(bytes);
    }
}
