//! Small stores as the program writes them, which seeds are made of and inputs damage.
//!
//! Each has two timelines, a segment and a journal behind it, forks, producers, and what was trimmed, deleted and
//! created again. Invariant: `truth` is what a reader of the store saw; all of it was acknowledged.

use everlog::clock::Clock;
use everlog::format::entry::split_payload;
use everlog::format::frame::{FrameHeader, HEADER_LEN};
use everlog::format::identity::{FILE_NAME, Identity};
use everlog::format::manifest::{Manifest, SegmentMeta};
use everlog::io::Io;
use everlog::io::mem::MemIo;
use everlog::types::{BLOCK, LogId, Lsn, Position, TimeUs};
use everlog::{Batch, Config, ReadLimit, Record, Steps, Store};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// All files of a store, by path.
pub type Files = BTreeMap<PathBuf, Vec<u8>>;

/// A store at rest.
pub struct Base {
    pub dir: PathBuf,
    pub files: Files,
    pub identity: Identity,
    /// The records of each live log, and where they begin.
    pub truth: BTreeMap<String, Vec<Record>>,
}

/// A clock that is moved by hand, so that a store's bytes do not follow the time of day. Relaxed: it is a number.
#[derive(Debug, Default)]
pub struct Hands(AtomicU64);

impl Hands {
    fn advance(&self, time: Duration) {
        self.0.fetch_add(time.as_micros() as u64, Ordering::Relaxed);
    }
}

impl Clock for Hands {
    fn wall(&self) -> TimeUs {
        TimeUs(1_795_000_000_000_000 + self.0.load(Ordering::Relaxed))
    }

    fn monotonic(&self) -> Duration {
        Duration::from_micros(1_000_000 + self.0.load(Ordering::Relaxed))
    }
}

/// How a store came to rest.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Killed,
    Closed,
    /// It was killed, opened again, and killed.
    KilledTwice,
}

/// The settings of these stores.
pub fn config() -> Config {
    Config {
        journal_file_bytes: 64 << 10,
        journal_files_max: 4,
        memory_pool_bytes: 512 << 10,
        flush_bytes: 64 << 10,
        in_flight: 2,
        heads_max: 4,
        ..Config::default()
    }
}

/// The store that was killed.
pub fn base() -> &'static Base {
    &bases()[0]
}

/// One for each way to come to rest.
pub fn bases() -> &'static [Base] {
    static BASES: OnceLock<Vec<Base>> = OnceLock::new();
    BASES.get_or_init(|| [End::Killed, End::Closed, End::KilledTwice].map(build).into())
}

/// A store under construction.
struct Site {
    io: Arc<dyn Io>,
    clock: Arc<Hands>,
    dir: PathBuf,
    open: Option<(Store, Steps)>,
}

impl Site {
    fn open(&mut self) {
        let opened = Store::open_stepped(self.io.clone(), self.clock.clone(), &self.dir, config());
        self.open = Some(opened.expect("a sound store opens"));
    }

    fn append<'a>(&mut self, ask: impl FnOnce(&mut Batch<'a>)) {
        let mut batch = Batch::new();
        ask(&mut batch);
        let (store, steps) = self.open.as_mut().expect("it is open");
        let ack = store.append(batch).expect("there is room");
        let answer = loop {
            if let Some(answer) = ack.try_get() {
                break answer;
            }
            steps.commit().expect("a sound disk");
        };
        answer.expect("a batch that the log takes");
    }

    /// The frame of a quiet moment, which proves what is before it.
    fn idle(&mut self) {
        self.clock.advance(Duration::from_millis(50));
        let (_, steps) = self.open.as_mut().expect("it is open");
        for _ in 0..4 {
            steps.commit().expect("a sound disk");
        }
    }

    fn flush(&mut self) {
        let (store, steps) = self.open.as_mut().expect("it is open");
        store.flush().expect("a sound store");
        while steps.flush().expect("a sound disk") {}
    }

    fn first_life(&mut self) {
        let text = "BEGIN:VCARD and so on ".repeat(60);
        self.append(|batch| {
            let contacts = batch.log("users/alice/contacts").create_with(b"{\"content_type\":\"application/json\"}");
            contacts.producer(b"phone", 0, 0).record(text.as_bytes()).record(b"two").tag(b"t1");
            batch.log("users/bob/notes").create().record(b"first").record(b"second").record(b"third");
        });
        self.append(|batch| {
            batch.log("users/alice/copy").fork("users/alice/contacts", 1);
            batch.log("users/bob/notes").trim(1).metadata(b"new metadata");
        });
        self.append(|batch| {
            batch.log("users/alice/copy").record(b"its own");
            batch.log("users/bob/gone").create().record(b"soon deleted").delete();
        });
        self.append(|batch| {
            batch.log("users/bob/gone").create().record(b"of the second life");
            batch.log("a").create().close();
        });
        self.idle();
    }

    fn second_life(&mut self) {
        for n in 1..6u64 {
            let payload = format!("record {n} of the second life");
            self.append(|batch| {
                let payload: &[u8] = payload.as_bytes().to_vec().leak();
                batch.log("users/alice/contacts").producer(b"phone", 0, n).record(payload);
                if n == 3 {
                    batch.log("users/bob/later").create().record(payload).record(b"");
                }
            });
        }
        self.append(|batch| {
            batch.log("users/carol/fork").fork("users/alice/copy", 2).record(b"deep");
        });
        self.idle();
    }

    fn truth(&self) -> BTreeMap<String, Vec<Record>> {
        let (store, _) = self.open.as_ref().expect("it is open");
        let logs = store.list("", None, 100).expect("a sound store");
        let read = |name: &str| store.read(name, Position::Start, ReadLimit::default()).expect("a live log").records;
        logs.into_iter().map(|log| (log.name.clone(), read(&log.name))).collect()
    }
}

fn build(end: End) -> Base {
    let disk = MemIo::new();
    let dir = PathBuf::from("/store");
    let io: Arc<dyn Io> = Arc::new(disk.clone());
    let clock = Arc::new(Hands::default());
    Store::create_on(io.clone(), clock.clone(), &dir, &config()).expect("an empty directory");
    let mut site = Site { io, clock, dir: dir.clone(), open: None };
    site.open();
    site.first_life();
    site.flush();
    let (_, steps) = site.open.take().expect("it is open");
    steps.close().expect("a sound disk");
    site.open();
    site.second_life();
    if end == End::KilledTwice {
        drop(site.open.take());
        site.open();
        site.append(|batch| {
            batch.log("users/bob/later").record(b"of the third life");
        });
        site.idle();
    }
    // One more, that no later frame proves.
    site.append(|batch| {
        batch.log("users/bob/later").record(b"the last");
    });
    let truth = site.truth();
    let (store, steps) = site.open.take().expect("it is open");
    if end == End::Closed {
        steps.close().expect("a sound disk");
    } else {
        drop(steps);
    }
    drop(store);
    let files = disk.snapshot();
    let (_, identity) = Identity::decode(&files[&dir.join(FILE_NAME)]).expect("just written");
    Base { dir, files, identity, truth }
}

/// A frame where it stands.
pub struct Framed {
    pub path: PathBuf,
    pub at: usize,
    pub header: FrameHeader,
    pub bytes: Vec<u8>,
}

pub fn is_journal(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    name.starts_with("journal-") && name.len() == "journal-0000".len()
}

/// The frames of the store, in their order.
pub fn frames(base: &Base) -> Vec<Framed> {
    let mut frames = Vec::new();
    for (path, bytes) in base.files.iter().filter(|(path, _)| is_journal(path)) {
        let mut at = BLOCK;
        while at < bytes.len() {
            let found = header(&base.identity, bytes, at);
            let len = found.as_ref().map_or(BLOCK, |header| header.frame_len as usize);
            if let Some(header) = found {
                frames.push(Framed { path: path.clone(), at, header, bytes: bytes[at..at + len].to_vec() });
            }
            at += len;
        }
    }
    frames.sort_by_key(|frame| (frame.header.frame, frame.header.journal));
    frames
}

/// The header that stands at `at`, if it is intact.
pub fn header(identity: &Identity, bytes: &[u8], at: usize) -> Option<FrameHeader> {
    let bytes = bytes.get(at..)?;
    let (journal, _) = FrameHeader::claimed_place(bytes)?;
    FrameHeader::decode(bytes, identity.store, journal, identity.salt(journal), at as u64).ok()
}

/// The bodies of all entries in the journal.
pub fn entries(base: &Base) -> Vec<(LogId, Vec<u8>)> {
    let mut all = Vec::new();
    for frame in frames(base) {
        let payload = &frame.bytes[HEADER_LEN..HEADER_LEN + frame.header.payload_len as usize];
        let split = split_payload(payload).expect("just written");
        all.extend(split.iter().map(|raw| (raw.log, raw.body.to_vec())));
    }
    all
}

/// The newest manifest.
pub fn newest_manifest(base: &Base) -> (PathBuf, Manifest) {
    let mut manifests = base.files.iter().filter(|(path, _)| path.to_string_lossy().contains("/manifest-"));
    let (path, bytes) = manifests.next_back().expect("a store has a manifest");
    (path.clone(), Manifest::decode(bytes).expect("just written"))
}

/// The store's first segment.
pub fn segment_file(base: &Base) -> (SegmentMeta, &[u8]) {
    let (_, manifest) = newest_manifest(base);
    let meta = manifest.segments.into_iter().next().expect("it was flushed");
    let path = everlog::segment::path(&base.dir, meta.id);
    (meta, &base.files[&path])
}

/// The last LSN that is in segments.
pub fn flushed(base: &Base) -> Lsn {
    newest_manifest(base).1.flushed.last_lsn
}
