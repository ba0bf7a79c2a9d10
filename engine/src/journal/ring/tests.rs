//! The ring on a disk that fails at one step of making a file.

use super::*;
use crate::io::mem::MemIo;
use crate::io::{Done, IoQueue, Op};
use crate::sync::{AtomicUsize, Ordering};
use crate::types::{BLOCK, StoreId, TimeUs};
use std::any::Any;
use std::collections::BTreeMap;

const DIR: &str = "/store";
const BYTES: u64 = limits::JOURNAL_FILE_BYTES_MIN;

/// The step that fails.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fail {
    Nothing = 0,
    Allocate,
    SyncDir,
    Open,
    /// It succeeds, and then another store's directory bears the name.
    Replaced,
}

#[derive(Default)]
struct Faulty {
    mem: MemIo,
    fail: AtomicUsize,
}

impl Faulty {
    fn set(&self, fail: Fail) {
        self.fail.store(fail as usize, Ordering::SeqCst);
    }

    fn journals(&self) -> Vec<String> {
        let files = self.mem.snapshot().into_keys();
        files.map(|path| path.file_name().expect("a file").to_string_lossy().into_owned()).collect()
    }
}

impl Io for Faulty {
    fn name(&self) -> &'static str {
        "faulty"
    }

    fn run(&self, op: Op) -> std::io::Result<Done> {
        let step = match &op {
            Op::Allocate { .. } => Fail::Allocate,
            Op::SyncDir { .. } => Fail::SyncDir,
            Op::Open { mode: OpenMode::WriteDirect, .. } => Fail::Open,
            _ => Fail::Nothing,
        };
        let fail = self.fail.load(Ordering::SeqCst);
        if step != Fail::Nothing && fail == step as usize {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        let done = self.mem.run(op)?;
        if step == Fail::Allocate && fail == Fail::Replaced as usize {
            self.mem.restore(&another_store());
        }
        Ok(done)
    }

    fn queue(&self, depth: usize) -> std::io::Result<Box<dyn IoQueue>> {
        self.mem.queue(depth)
    }

    fn lock(&self, path: &Path) -> std::io::Result<Option<Box<dyn Any + Send + Sync>>> {
        self.mem.lock(path)
    }

    fn is_in_place(&self, _file: &File) -> bool {
        self.mem.snapshot() != another_store()
    }
}

/// A finished file and one under way, both where the ring's second one would be.
fn another_store() -> BTreeMap<PathBuf, Vec<u8>> {
    let finished = names::path(Path::new(DIR), 1);
    BTreeMap::from([(finished.with_extension("tmp"), b"being made".to_vec()), (finished, b"frames".to_vec())])
}

fn ring(files_max: usize) -> (Arc<Faulty>, Ring) {
    ring_of(BYTES, files_max)
}

fn ring_of(bytes: u64, files_max: usize) -> (Arc<Faulty>, Ring) {
    let io = Arc::new(Faulty::default());
    let shared: Arc<dyn Io> = io.clone();
    shared.create_dir(Path::new(DIR)).expect("a new directory");
    let identity = Identity { features: Features::KNOWN, store: StoreId([1; 16]), key: [2; 32], created: TimeUs(0) };
    (io, Ring::new(shared, Path::new(DIR), identity, Arc::default(), bytes, files_max, JournalId(1)))
}

/// Puts a file of `bytes` zeros there and adopts it.
fn stray(io: &Faulty, ring: &Ring, slot: u16, bytes: u64, used: Option<FrameNo>) -> Result<Option<RingFile>> {
    let mut files = io.mem.snapshot();
    files.insert(names::path(Path::new(DIR), slot), vec![0; bytes as usize]);
    io.mem.restore(&files);
    ring.adopt(slot, bytes, JournalId(1), used)
}

#[test]
fn a_failed_attempt_to_make_a_file_uses_no_number_up_and_leaves_no_file() {
    for fail in [Fail::Allocate, Fail::SyncDir, Fail::Open] {
        let (io, ring) = ring(8);
        io.set(fail);
        for _ in 0..10 {
            ring.prepare(1, &mut |_| true).expect_err("the disk fails");
        }
        assert_eq!(io.journals(), [""; 0], "{fail:?}");
        io.set(Fail::Nothing);
        assert!(ring.prepare(1, &mut |_| true).expect("the disk is sound again"));
        assert_eq!(io.journals(), ["journal-0000"], "{fail:?}");
    }
}

#[test]
fn in_a_directory_that_took_the_stores_place_no_file_is_removed_or_replaced() {
    let (io, ring) = ring(8);
    assert!(ring.prepare(1, &mut |_| true).expect("a sound disk"));
    ring.begin(Timeline::default(), FrameRef::default()).expect("a sound disk").expect("a spare");
    io.set(Fail::Replaced);
    let error = ring.prepare(1, &mut |_| true).expect_err("the directory is another store's by now");
    assert!(error.message().contains("was removed, moved or replaced"), "{error}");
    assert_eq!(io.mem.snapshot(), another_store());
}

#[test]
fn the_highest_number_is_adopted_and_the_lowest_free_one_is_given() {
    let (io, ring) = ring(8);
    stray(&io, &ring, u16::MAX, BYTES, Some(FrameNo(1))).expect("adopted").expect("of the right size");
    stray(&io, &ring, 0, BYTES, Some(FrameNo(2))).expect("adopted").expect("of the right size");
    assert!(ring.prepare(1, &mut |_| true).expect("a sound disk"));
    assert_eq!(io.journals(), ["journal-0000", "journal-0001", "journal-ffff"]);
}

#[test]
fn a_file_that_the_ring_cannot_have_made_is_left_alone_unless_it_holds_frames() {
    for bytes in [0, BYTES - BLOCK as u64, BYTES + 1] {
        let (io, ring) = ring(8);
        assert!(stray(&io, &ring, 0, bytes, None).expect("left alone").is_none());
        assert_eq!((ring.files(), ring.has_spare(), ring.smallest()), (0, false, BYTES), "{bytes} bytes");
        assert!(ring.prepare(1, &mut |_| true).expect("a sound disk"));
        assert_eq!(io.mem.snapshot()[&names::path(Path::new(DIR), 0)].len() as u64, bytes, "it was written over");
        let error = stray(&io, &ring, 7, bytes, Some(FrameNo(3))).expect_err("it holds frames");
        assert_eq!(error.kind(), ErrorKind::Damaged);
        assert_eq!(error.path(), Some(&*names::path(Path::new(DIR), 7)));
    }
}

#[test]
fn a_flush_is_wanted_when_it_alone_can_free_a_file() {
    let (io, ring) = ring(8);
    let left = |frame| FrameRef { frame: FrameNo(frame), ..FrameRef::default() };
    for frame in 0..2 {
        assert!(ring.prepare(1, &mut |_| true).expect("a sound disk"));
        ring.begin(Timeline::default(), left(frame)).expect("a sound disk").expect("a spare");
    }
    assert!(!ring.wants_flush(), "one of eight files waits for a flush, and the ring may grow");
    io.set(Fail::Allocate);
    ring.prepare(1, &mut |_| true).expect_err("the disk is full");
    assert!(ring.wants_flush(), "the ring cannot grow");
    io.set(Fail::Nothing);
    assert!(ring.prepare(1, &mut |_| true).expect("there is room again"));
    assert!(!ring.wants_flush());
}

#[test]
fn a_file_is_filled_in_pieces_with_a_rest_between_them_and_bears_its_name_in_the_end() {
    let (io, ring) = ring_of(3 * FILL_BYTES as u64, 8);
    let mut rests = Vec::new();
    let grown = ring.prepare(1, &mut |filled| {
        rests.push((filled, io.journals()));
        true
    });
    assert!(grown.expect("a sound disk"));
    let temporary = || vec!["journal-0000.tmp".to_owned()];
    let expected = [1, 2].map(|pieces| (pieces * FILL_BYTES as u64, temporary()));
    assert_eq!(rests, expected, "and none behind the last");
    assert_eq!(io.journals(), ["journal-0000"]);
}

#[test]
fn a_file_that_is_given_up_leaves_nothing_behind() {
    let (io, ring) = ring_of(3 * FILL_BYTES as u64, 8);
    for _ in 0..3 {
        assert!(!ring.prepare(1, &mut |filled| filled < 2 * FILL_BYTES as u64).expect("a sound disk"));
        assert_eq!((io.journals(), ring.has_spare(), ring.wants_flush()), (Vec::new(), false, false));
    }
    assert!(ring.prepare(1, &mut |_| true).expect("a sound disk"));
    assert_eq!(io.journals(), ["journal-0000"]);
}
