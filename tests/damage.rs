//! Each byte of a small store's segments, manifests, identity and proven journal is damaged in turn: `verify` reports
//! it, naming what it can, and no read gives anything wrong, shortened or absent: the truth, or an error that says
//! "damaged".
//!
//! One bit of each byte is flipped, another one from byte to byte. The places of things are read from the files as
//! docs/FORMAT.md has them, without the engine's code. The store is the smallest that has a bit of everything, since
//! the test costs its length squared.

use everlog::clock::Clock;
use everlog::io::Io;
use everlog::io::mem::MemIo;
use everlog::{Batch, Config, ErrorKind, LogInfo, Page, ReadLimit, ReadOnly, Steps, Store, WhenFull};
use everlog_tests::sim::SimClock;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

const DIR: &str = "/store";
const BLOCK: usize = 4096;
/// So many passes move whatever can be moved.
const PASSES_MAX: usize = 1000;
/// Every so many bytes the store is looked at without opening it, too.
const LOOK_EVERY: usize = 8;

const TEXT: &str = "a/text";
const NOISE: &str = "a/noise";
const GONE: &str = "b/gone";
const TRIMMED: &str = "b/trimmed";
const FORK: &str = "c/fork";
const NEW: &str = "c/new";
const NEVER: &str = "c/never";

type Files = BTreeMap<PathBuf, Vec<u8>>;

/// What is true of a log: what the store says of it beside its records, and these.
struct Log {
    info: LogInfo,
    records: Vec<Vec<u8>>,
}

type Truth = BTreeMap<&'static str, Log>;

/// Where a byte lies, for what must be said of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    /// A chunk of records: log and seqs are known.
    Data,
    /// Anything else of a segment.
    Segment,
    /// The manifest in force, or an older one.
    Manifest,
    /// The identity.
    Identity,
    /// The header of a journal file with proven frames that are not flushed.
    JournalHeader,
    /// A frame that a later frame's watermark covers: its LSNs are known, or its logs and seqs.
    Journal,
}

const PLACES: [Place; 6] =
    [Place::Data, Place::Segment, Place::Manifest, Place::Identity, Place::JournalHeader, Place::Journal];

fn config() -> Config {
    Config {
        journal_file_bytes: 64 << 10,
        journal_files_max: 3,
        memory_pool_bytes: 256 << 10,
        flush_bytes: 128 << 10,
        heads_max: 64,
        when_full: WhenFull::Reject,
        idle_frame_after: Duration::from_millis(10),
        ..Config::default()
    }
}

fn open(io: &MemIo, clock: &Arc<SimClock>) -> everlog::Result<(Store, Steps)> {
    let clock: Arc<dyn Clock> = clock.clone();
    Store::open_stepped(Arc::new(io.clone()), clock, Path::new(DIR), config())
}

fn verify(io: &MemIo) -> Vec<everlog::Finding> {
    everlog::verify(Arc::new(io.clone()), Path::new(DIR), &mut |_, _| ()).expect("the directory is listed")
}

/// Bytes that do not compress.
fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        (x >> 32) as u8
    };
    (0..len).map(|_| next()).collect()
}

/// A text that does.
fn text(n: usize) -> Vec<u8> {
    format!("record {n} of the log with the text, ").repeat(20).into_bytes()
}

/// A store under construction.
struct Building {
    io: MemIo,
    clock: Arc<SimClock>,
    open: Option<(Store, Steps)>,
    records: BTreeMap<&'static str, Vec<Vec<u8>>>,
}

impl Building {
    fn store(&self) -> &Store {
        &self.open.as_ref().expect("it is open").0
    }

    fn steps(&mut self) -> &mut Steps {
        &mut self.open.as_mut().expect("it is open").1
    }

    /// A process is killed, and another one goes on.
    fn reopen(&mut self) {
        self.open = None;
        self.open = Some(open(&self.io, &self.clock).expect("nothing is damaged"));
    }

    /// One batch, durable.
    fn append(&mut self, batch: Batch<'_>) {
        let ack = self.store().append(batch).expect("there is room");
        self.settle();
        assert!(matches!(ack.try_get(), Some(Ok(_))), "acknowledged");
    }

    fn settle(&mut self) {
        let steps = self.steps();
        let moved = (0..PASSES_MAX).find(|_| !steps.commit().expect("a sound disk"));
        assert!(moved.is_some(), "the commits come to an end");
    }

    /// One more segment.
    fn flush(&mut self) {
        let segments = self.store().stats().segments;
        self.store().flush().expect("a sound disk");
        for _ in 0..PASSES_MAX {
            if self.store().stats().segments > segments {
                return;
            }
            self.steps().flush().expect("a sound disk");
            self.steps().commit().expect("a sound disk");
        }
        panic!("a flush that was asked for is not done");
    }

    fn record(&mut self, log: &'static str, bytes: &[u8]) {
        self.records.entry(log).or_default().push(bytes.to_vec());
    }
}

/// Texts are compressed, the rest is not; metadata, tags, producers, a fork, a trim and a deletion; one process after
/// another, so that there are timelines. At the end a process was killed and left two segments, each with names, and
/// proven frames in two journal files, one of them longer than a block; an empty last frame proves them all.
fn build() -> (Files, Truth) {
    let (io, clock) = (MemIo::new(), Arc::new(SimClock::default()));
    let shared: Arc<dyn Io> = Arc::new(io.clone());
    Store::create_on(shared, clock.clone(), Path::new(DIR), &config()).expect("an empty disk");
    let open = open(&io, &clock).expect("a new store");
    let mut to = Building { io, clock, open: Some(open), records: BTreeMap::new() };
    let noises: Vec<Vec<u8>> = (0..12).map(|n| noise(40, n)).collect();
    let texts: Vec<Vec<u8>> = (0..4).map(text).collect();

    let mut batch = Batch::new();
    batch.log(TEXT).create_with(b"about texts").record(&texts[0]).record(&texts[1]);
    batch.log(NOISE).create().record(&noises[0]).producer(b"device", 1, 0).tag(b"tag 1");
    batch.log(GONE).create().record(&noises[1]);
    batch.log(TRIMMED).create().record(&noises[2]).record(&noises[3]).record(&noises[4]);
    to.append(batch);
    to.flush();
    to.reopen();

    let mut batch = Batch::new();
    batch.log(TEXT).record(&texts[2]).metadata(b"more about texts");
    batch.log(NOISE).record(&noises[5]).producer(b"device", 1, 1).tag(b"tag 2");
    batch.log(GONE).delete();
    batch.log(TRIMMED).trim(1);
    to.append(batch);
    let mut batch = Batch::new();
    batch.log(FORK).fork(NOISE, 1).record(&noises[6]);
    to.append(batch);
    to.flush();

    let mut batch = Batch::new();
    batch.log(TEXT).record(&texts[3]);
    batch.log(NOISE).record(&noises[7]).producer(b"device", 1, 2);
    to.append(batch);
    let mut batch = Batch::new();
    batch.log(NEW).create_with(b"in the journal alone").record(&noises[8]).record(&noises[9]);
    batch.log(TRIMMED).record(&noises[10]);
    to.append(batch);
    to.reopen();

    let long = noise(BLOCK, 99);
    let mut batch = Batch::new();
    batch.log(FORK).record(&long);
    batch.log(NEW).record(&noises[11]).close();
    to.append(batch);
    to.clock.advance(Duration::from_millis(50));
    to.settle();

    texts.iter().for_each(|bytes| to.record(TEXT, bytes));
    [0, 5, 7].iter().for_each(|n| to.record(NOISE, &noises[*n]));
    [3, 4, 10].iter().for_each(|n| to.record(TRIMMED, &noises[*n]));
    [&noises[0], &noises[6], &long].iter().for_each(|bytes| to.record(FORK, bytes));
    [8, 9, 11].iter().for_each(|n| to.record(NEW, &noises[*n]));
    to.records.insert(GONE, Vec::new());
    let files = to.io.snapshot();
    let truth = std::mem::take(&mut to.records).into_iter();
    let truth = truth.map(|(name, records)| (name, Log { info: to.store().info(name).expect("it is there"), records }));
    (files, truth.collect())
}

/// That the store has what [`build`] says.
fn check_built(files: &Files, truth: &Truth, places: &[(PathBuf, usize, Place)]) {
    let live = |name: &str, first, next| {
        let info = &truth[name].info;
        assert_eq!((info.deleted, info.first_seq, info.next_seq), (false, first, next), "{name}");
        info.clone()
    };
    assert_eq!(live(TEXT, 0, 4).metadata, b"more about texts");
    assert_eq!(live(NOISE, 0, 3).tag, b"tag 2");
    assert_eq!(live(NOISE, 0, 3).timelines.len(), 2);
    live(TRIMMED, 1, 4);
    assert_eq!(live(FORK, 0, 3).forked_at, Some(1));
    assert!(live(NEW, 0, 3).closed && truth[GONE].info.deleted);
    let data: Vec<u8> = places.iter().filter(|p| p.2 == Place::Data).map(|(path, at, _)| files[path][*at]).collect();
    let somewhere = |what: &[u8]| data.windows(what.len()).any(|w| w == what);
    assert!(somewhere(&truth[NOISE].records[0]), "a chunk is stored as it is");
    assert!(truth[TEXT].records[..3].iter().all(|text| !somewhere(text)), "a chunk is compressed");
    let files_of = |place| {
        let mut files: Vec<&PathBuf> = places.iter().filter(|p| p.2 == place).map(|p| &p.0).collect();
        files.dedup();
        files.len()
    };
    assert_eq!(PLACES.map(files_of), [2, 2, 2, 1, 2, 2], "the files of each kind of place");
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

fn u32_at(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes")) as usize
}

fn file_name(path: &Path) -> std::borrow::Cow<'_, str> {
    path.file_name().expect("a file has a name").to_string_lossy()
}

fn is_segment(path: &Path) -> bool {
    path.extension().is_some_and(|e| e == "seg")
}

/// All places where damage must be found, file by file.
fn places(files: &Files) -> Vec<(PathBuf, usize, Place)> {
    let mut out = Vec::new();
    let named = |prefix: &'static str| files.iter().filter(move |(path, _)| file_name(path).starts_with(prefix));
    let mut add = |path: &PathBuf, range: std::ops::Range<usize>, place: &dyn Fn(usize) -> Place| {
        out.extend(range.map(|at| (path.clone(), at, place(at))));
    };
    named("IDENTITY").for_each(|(path, bytes)| add(path, 0..bytes.len(), &|_| Place::Identity));
    named("manifest-").for_each(|(path, bytes)| add(path, 0..bytes.len(), &|_| Place::Manifest));
    // Header: magic 8, format 8, features 24, store and key 48, created 8, version, epoch, time, two lower bounds;
    // then the frame reference: journal id, offset, length (u32), frame number.
    let (_, manifest) = named("manifest-").max_by_key(|(path, _)| *path).expect("a manifest");
    let flushed = u64_at(manifest, 8 + 8 + 24 + 48 + 8 + 5 * 8 + 20);
    for (path, bytes) in files.iter().filter(|(path, _)| is_segment(path)) {
        // In the footer's body, behind 128 bytes, the sections' first blocks and numbers of blocks, data first; behind
        // the eight of them the bytes of data.
        let footer = bytes.len() - BLOCK + 32;
        let data = u64_at(bytes, footer + 128) as usize * BLOCK;
        let data = data..data + u64_at(bytes, footer + 128 + 8 * 16) as usize;
        add(path, 0..bytes.len(), &|at| if data.contains(&at) { Place::Data } else { Place::Segment });
    }
    let mut frames = Vec::new();
    for (path, bytes) in named("journal-") {
        let starts = (BLOCK..bytes.len()).step_by(BLOCK).filter(|at| bytes[*at..].starts_with(b"EVLGFRAM"));
        frames.extend(starts.map(|at| (u64_at(bytes, at + 48), path, at, u32_at(bytes, at + 76))));
    }
    let last = frames.iter().max().expect("a frame").0;
    frames.retain(|frame| flushed < frame.0 && frame.0 < last);
    frames.sort_by_key(|(_, path, at, _)| (*path, *at));
    let mut headers: Vec<&PathBuf> = frames.iter().map(|(_, path, ..)| *path).collect();
    headers.dedup();
    headers.into_iter().for_each(|path| add(path, 0..BLOCK, &|_| Place::JournalHeader));
    frames.into_iter().for_each(|(_, path, at, len)| add(path, at..at + len, &|_| Place::Journal));
    out
}

/// What `verify` says is enough for this place.
fn check_verify(io: &MemIo, place: Place) -> Result<(), String> {
    let findings = verify(io);
    let named = |f: &everlog::Finding| f.log.is_some() && f.seqs.is_some();
    let enough = match place {
        Place::Data => findings.iter().any(named),
        Place::Journal => findings.iter().any(|f| named(f) || f.lsns.is_some()),
        Place::Segment | Place::Manifest | Place::Identity | Place::JournalHeader => !findings.is_empty(),
    };
    if enough { Ok(()) } else { Err(format!("verify says too little: {findings:?}")) }
}

/// A store open for reading, in one way or the other.
trait Reads {
    fn info(&self, log: &str) -> everlog::Result<LogInfo>;
    fn page(&self, log: &str, from: u64) -> everlog::Result<Page>;
    fn list(&self) -> everlog::Result<Vec<LogInfo>>;
}

macro_rules! reads {
    ($store:ty) => {
        impl Reads for $store {
            fn info(&self, log: &str) -> everlog::Result<LogInfo> {
                <$store>::info(self, log)
            }

            fn page(&self, log: &str, from: u64) -> everlog::Result<Page> {
                self.read(log, from, ReadLimit::default())
            }

            fn list(&self) -> everlog::Result<Vec<LogInfo>> {
                <$store>::list(self, "", None, 100)
            }
        }
    };
}
reads!(Store);
reads!(ReadOnly);

/// Opens the store and reads everything: the truth or "damaged". True if it was that at least once. With `look` the
/// same is first required of a look at the store without opening it.
fn check_reads(io: &MemIo, truth: &Truth, look: bool) -> Result<bool, String> {
    if look {
        let looked = ReadOnly::open_on(Arc::new(io.clone()), Path::new(DIR));
        check_opened(looked, truth).map_err(|what| format!("a look: {what}"))?;
    }
    let opened = open(io, &Arc::new(SimClock::default()));
    check_opened(opened.map(|(store, _steps)| store), truth)
}

fn check_opened(opened: everlog::Result<impl Reads>, truth: &Truth) -> Result<bool, String> {
    let store = match opened {
        Ok(store) => store,
        Err(e) if matches!(e.kind(), ErrorKind::Damaged | ErrorKind::Refused) => return Ok(true),
        Err(e) => return Err(format!("the open says {:?}: {e}", e.kind())),
    };
    let mut damaged = false;
    for (name, log) in truth {
        match check_log(&store, name, log) {
            Ok(()) => {}
            Err(Some(e)) if e.kind() == ErrorKind::Damaged => damaged = true,
            Err(Some(e)) => return Err(format!("log {name}: {:?}: {e}", e.kind())),
            Err(None) => return Err(format!("log {name} is not what was written")),
        }
    }
    match store.info(NEVER) {
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        Err(e) if e.kind() == ErrorKind::Damaged => damaged = true,
        other => return Err(format!("of a log that never was: {other:?}")),
    }
    match store.list() {
        Ok(listed) => {
            if !listed.iter().eq(truth.values().map(|log| &log.info).filter(|info| !info.deleted)) {
                return Err(format!("listed are {listed:?}"));
            }
        }
        Err(e) if e.kind() == ErrorKind::Damaged => damaged = true,
        Err(e) => return Err(format!("the list: {:?}: {e}", e.kind())),
    }
    Ok(damaged)
}

/// An error as it came, or None where the store gave something wrong. What the store says of a log and what it gives
/// of its records are asked for on their own: damage of the one does not excuse the other.
fn check_log(store: &impl Reads, name: &str, truth: &Log) -> Result<(), Option<everlog::Error>> {
    let info = match store.info(name) {
        Ok(info) if info != truth.info => return Err(None),
        other => other.map(drop).map_err(Some),
    };
    let (first, next) = (truth.info.first_seq, truth.info.next_seq);
    // From each seq to the end.
    for from in first..next {
        let mut at = from;
        while at < next {
            let page = match store.page(name, at) {
                Ok(page) => page,
                Err(e) if truth.info.deleted && e.kind() == ErrorKind::Deleted => return info,
                Err(e) => return Err(Some(e)),
            };
            if truth.info.deleted {
                return Err(None);
            }
            for record in &page.records {
                let expected = truth.records.get((record.seq - first) as usize);
                if record.seq != at || expected.is_none_or(|expected| *expected != *record.payload) {
                    return Err(None);
                }
                at += 1;
            }
            if page.records.is_empty() || page.head != next || page.closed != truth.info.closed {
                return Err(None);
            }
        }
    }
    info
}

/// How many bytes there were of each kind of place, and how many of them opening or reading met with.
type Counts = BTreeMap<Place, (u64, u64)>;

fn run<'a>(
    files: &Files, truth: &Truth, places: impl Iterator<Item = (usize, &'a (PathBuf, usize, Place))>,
) -> (Counts, Vec<String>) {
    let (io, mut counts, mut failures) = (MemIo::new(), Counts::new(), Vec::new());
    for (n, (path, at, place)) in places {
        io.restore(files);
        // Another bit from byte to byte, and from block to block.
        io.flip(path, *at as u64, 1 << ((at + at / BLOCK) % 8));
        let outcome = check_verify(&io, *place).and_then(|()| check_reads(&io, truth, n.is_multiple_of(LOOK_EVERY)));
        let count = counts.entry(*place).or_insert((0, 0));
        count.0 += 1;
        match outcome {
            Ok(damaged) => count.1 += u64::from(damaged),
            Err(what) => failures.push(format!("{} byte {at} ({place:?}): {what}", path.display())),
        }
        if failures.len() >= 10 {
            break;
        }
    }
    (counts, failures)
}

#[test]
#[allow(clippy::disallowed_methods, reason = "how long it took is told to who runs it")]
fn each_damaged_byte_is_found_and_none_is_served() {
    let began = Instant::now();
    let (files, truth) = build();
    let places = places(&files);
    check_built(&files, &truth, &places);
    let intact = MemIo::new();
    intact.restore(&files);
    let findings = verify(&intact);
    assert!(findings.is_empty(), "an intact store: {findings:?}");
    assert_eq!(check_reads(&intact, &truth, true), Ok(false), "an intact store is read");

    let threads = std::thread::available_parallelism().map_or(2, |n| n.get().max(2));
    let results = std::thread::scope(|scope| {
        let (files, truth, places) = (&files, &truth, &places);
        let threads: Vec<_> = (0..threads)
            .map(|first| {
                // In turns, and shifted from turn to turn, so that each thread gets the same work.
                let part = places.iter().enumerate().filter(move |(n, _)| (n + n / LOOK_EVERY) % threads == first);
                scope.spawn(move || run(files, truth, part))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("its panics are printed")).collect::<Vec<_>>()
    });
    let mut counts = Counts::new();
    let mut failures = Vec::new();
    for (part, failed) in results {
        for (place, (bytes, noticed)) in part {
            let count = counts.entry(place).or_default();
            *count = (count.0 + bytes, count.1 + noticed);
        }
        failures.extend(failed);
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    for (place, (bytes, noticed)) in counts {
        eprintln!("{place:?}: {bytes} bytes, all reported by verify; {noticed} met by opening or reading");
    }
    eprintln!("{} bytes in {:.1} seconds", places.len(), began.elapsed().as_secs_f64());
}
