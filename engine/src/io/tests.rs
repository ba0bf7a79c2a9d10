//! What every backend does alike, run on each of them: in memory, blocking, blocking through the page cache, and
//! io_uring. Where io_uring is refused its tests run on what [`choose`] gives instead, and say so.
//!
//! What this file does not do: it does not test what a power loss leaves; the simulated disk of the tests does.

use super::mem::MemIo;
use super::posix::PosixIo;
use super::*;
use std::process::{Command, Output};
use std::sync::mpsc;
use std::time::Instant;

/// Longer than any test's machine stalls; reaching half of it means that a poll was not ended.
const LONG: Duration = Duration::from_secs(60);

/// Runs `body` in a process of its own, which is this test once more: None in that process, after `body`; in the
/// first one, how the process ended. `test` is the calling test's whole name; the directory is empty and goes with it.
pub(super) fn in_child(test: &str, body: impl FnOnce(&Path)) -> Option<Output> {
    const DIR: &str = "EVERLOG_TEST_CHILD_DIR";
    if let Some(dir) = std::env::var_os(DIR) {
        body(Path::new(&dir));
        return None;
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let program = std::env::current_exe().expect("a running test has a program");
    let output = Command::new(program).args(["--exact", test, "--nocapture"]).env(DIR, dir.path()).output();
    let output = output.expect("the program runs once more");
    let ran = String::from_utf8_lossy(&output.stdout).contains("running 1 test");
    assert!(ran, "there is no test named {test}");
    Some(output)
}

/// A backend and an empty directory on it.
struct Bench {
    io: Arc<dyn Io>,
    dir: PathBuf,
    _removed_at_the_end: Option<tempfile::TempDir>,
}

impl Bench {
    fn in_memory() -> Self {
        let io: Arc<dyn Io> = Arc::new(MemIo::new());
        let dir = PathBuf::from("/store");
        io.create_dir(&dir).expect("an empty disk takes a directory");
        Self { io, dir, _removed_at_the_end: None }
    }

    fn on_disk(io: Arc<dyn Io>) -> Self {
        let temporary = tempfile::tempdir().expect("a temporary directory");
        Self { io, dir: temporary.path().to_owned(), _removed_at_the_end: Some(temporary) }
    }

    fn posix(buffered: bool) -> Self {
        Self::on_disk(Arc::new(PosixIo::new(buffered)))
    }

    fn uring() -> Self {
        Self::on_disk(choose(IoChoice::Uring).unwrap_or_else(|refused| {
            let other = choose(IoChoice::Auto).expect("another backend needs nothing");
            eprintln!("{refused}; this test runs on {} instead", other.name());
            assert_ne!(other.name(), "io_uring");
            other
        }))
    }

    fn create(&self, name: &str) -> File {
        self.io.open(&self.dir.join(name), OpenMode::CreateDirect).expect("a new file")
    }

    fn queue(&self, depth: usize) -> Box<dyn IoQueue> {
        self.io.queue(depth).expect("a queue")
    }
}

/// A block of one byte's repetition.
fn block(byte: u8) -> AlignedBuf {
    AlignedBuf::from_slice(&[byte; BLOCK])
}

fn write(file: &File, n_block: u64, byte: u8) -> Op {
    Op::Write { file: file.clone(), offset: n_block * BLOCK as u64, buf: block(byte), durable: true }
}

/// Polls until `n` operations completed.
fn reap(queue: &mut dyn IoQueue, n: usize) -> Vec<Completion> {
    let mut out = Vec::new();
    while out.len() < n {
        queue.poll(Some(LONG), &mut out).expect("the queue works");
    }
    assert_eq!(out.len(), n, "each operation completes once");
    out
}

fn os_error(error: &Error) -> io::ErrorKind {
    error.os_error().expect("the operating system refused").kind()
}

fn what_was_written_is_read_back(bench: &Bench) {
    let io = &bench.io;
    let file = bench.create("direct");
    io.allocate(&file, 4 * BLOCK as u64).expect("room for four blocks");
    assert_eq!(io.len(&file).expect("it is open"), 4 * BLOCK as u64);
    io.write_at(&file, BLOCK as u64, block(1), true).expect("room for it");
    io.write_at(&file, 2 * BLOCK as u64, block(2), false).expect("room for it");
    io.sync(&file).expect("a disk that works");
    let read = io.read_at(&file, 0, 4 * BLOCK).expect("a disk that works");
    let expected: Vec<u8> = [0, 1, 2, 0].iter().flat_map(|byte| [*byte; BLOCK]).collect();
    assert_eq!(&*read, expected);
    let again = io.open(&file.path, OpenMode::ReadDirect).expect("it exists");
    assert_eq!(&*io.read_at(&again, BLOCK as u64, BLOCK).expect("it is there"), [1; BLOCK]);
    io.allocate(&file, BLOCK as u64).expect("less than there is changes nothing");
    assert_eq!(io.len(&file).expect("it is open"), 4 * BLOCK as u64);

    let small = io.open(&bench.dir.join("small"), OpenMode::Create).expect("a new file");
    io.write_at(&small, 3, AlignedBuf::from_slice(b"defg"), true).expect("any length and place");
    io.write_at(&small, 0, AlignedBuf::from_slice(b"abc"), false).expect("any length and place");
    assert_eq!(io.read_all(&small.path, 7).expect("seven bytes"), b"abcdefg");
    if let Some(map) = io.map(&again) {
        assert_eq!(map.bytes(), expected);
    }
}

fn a_read_at_the_end_is_short(bench: &Bench) {
    let path = bench.dir.join("file");
    let file = bench.io.open(&path, OpenMode::Create).expect("a new file");
    bench.io.write_at(&file, 0, AlignedBuf::from_slice(&[5; 5000]), false).expect("room for it");
    bench.io.sync(&file).expect("a disk that works");
    for mode in [OpenMode::Read, OpenMode::ReadDirect, OpenMode::WriteDirect] {
        let file = bench.io.open(&path, mode).expect("it exists");
        for (offset, expected) in [(0, 5000), (4096, 904), (8192, 0), (1 << 40, 0)] {
            let read = bench.io.read_at(&file, offset, 4 * BLOCK).expect("the end is no error");
            assert_eq!(read.len(), expected, "{mode:?} at {offset}");
            let mut queue = bench.queue(1);
            queue.submit(1, Op::Read { file: file.clone(), offset, buf: AlignedBuf::with_capacity(4 * BLOCK) });
            match reap(&mut *queue, 1).pop() {
                Some(Completion { id: 1, result: Ok(Done::Buf(read)) }) => {
                    assert_eq!(&*read, vec![5; expected], "{mode:?} at {offset}, queued");
                }
                other => panic!("a read was expected, not {other:?}"),
            }
            // Of several pieces, of which the end cuts one amid a block.
            let read = bench.io.read_in_pieces(&file, offset, 1 << 20).expect("the end is no error");
            assert_eq!(read, vec![5; expected], "{mode:?} at {offset}, in pieces");
        }
    }
}

fn what_the_page_cache_has_is_given_without_a_wait(bench: &Bench) {
    let (io, path) = (&bench.io, bench.dir.join("file"));
    let file = io.open(&path, OpenMode::Create).expect("a new file");
    io.write_at(&file, 0, AlignedBuf::from_slice(&[5; 3 * BLOCK]), false).expect("room for it");
    io.sync(&file).expect("a disk that works");
    let file = io.open(&path, OpenMode::Read).expect("it exists");
    io.will_need(&file, 0, 3 * BLOCK);
    io.read_at(&file, 0, 3 * BLOCK).expect("a disk that works");
    let read = |offset: usize| io.read_resident(&file, offset as u64, AlignedBuf::with_capacity(2 * BLOCK));
    match read(BLOCK) {
        Ok(buf) => assert_eq!(&*buf, [5; 2 * BLOCK]),
        Err(_) => assert!(!io.reads_ahead(), "it was read just now"),
    }
    for offset in [2 * BLOCK, 3 * BLOCK, 100 * BLOCK] {
        let buf = read(offset).expect_err("the file has no two blocks there");
        assert_eq!(buf.capacity(), 2 * BLOCK, "to be read into");
    }
}

fn names_are_created_replaced_and_removed(bench: &Bench) {
    let (io, dir) = (&bench.io, &bench.dir);
    bench.create("b");
    for mode in [OpenMode::CreateDirect, OpenMode::Create] {
        let refused = io.open(&dir.join("b"), mode).expect_err("it exists");
        assert_eq!(os_error(&refused), io::ErrorKind::AlreadyExists);
    }
    for mode in [OpenMode::Read, OpenMode::ReadDirect, OpenMode::WriteDirect] {
        let refused = io.open(&dir.join("c"), mode).expect_err("it does not exist");
        assert_eq!(os_error(&refused), io::ErrorKind::NotFound);
    }
    io.create_dir(&dir.join("a")).expect("a new directory");
    io.create_dir(&dir.join("a")).expect("one that exists is no error");
    io.sync_dir(dir).expect("a disk that works");
    assert_eq!(io.list(dir).expect("it is a directory"), ["a", "b"]);
    assert_eq!(io.list(&dir.join("a")).expect("it is a directory"), [""; 0]);
    assert_eq!(os_error(&io.list(&dir.join("c")).expect_err("no such directory")), io::ErrorKind::NotFound);

    io.replace(&dir.join("b"), b"old").expect("room for it");
    io.replace(&dir.join("b"), b"new").expect("room for it");
    assert_eq!(io.read_all(&dir.join("b"), 3).expect("three bytes"), b"new");
    io.rename(&dir.join("b"), &dir.join("a/b")).expect("both directories exist");
    assert_eq!(io.list(dir).expect("it is a directory"), ["a"]);
    io.remove(&dir.join("a/b")).expect("it exists");
    assert_eq!(os_error(&io.remove(&dir.join("a/b")).expect_err("gone")), io::ErrorKind::NotFound);
    assert_eq!(os_error(&io.sync_dir(&dir.join("c")).expect_err("no such directory")), io::ErrorKind::NotFound);
}

fn queued_writes_complete_by_id_and_are_there(bench: &Bench) {
    let file = bench.create("file");
    bench.io.allocate(&file, 64 * BLOCK as u64).expect("room for it");
    let mut queue = bench.queue(4);
    for round in 0..16_u64 {
        let ids = [40, 7, u64::MAX, 1];
        for (n, id) in ids.into_iter().enumerate() {
            // Written from the back, so that neither ids nor offsets grow.
            queue.submit(id, write(&file, 63 - (round * 4 + n as u64), (round * 4) as u8 + n as u8));
        }
        let mut seen: Vec<u64> = Vec::new();
        for completion in reap(&mut *queue, 4) {
            match completion.result {
                Ok(Done::Buf(buf)) => {
                    let n = ids.iter().position(|id| *id == completion.id).expect("an id that was submitted");
                    assert_eq!(buf[0], (round * 4) as u8 + n as u8, "each gets its own buffer back");
                }
                other => panic!("a buffer was expected, not {other:?}"),
            }
            seen.push(completion.id);
        }
        seen.sort_unstable();
        assert_eq!(seen, [1, 7, 40, u64::MAX]);
    }
    let read = bench.io.read_at(&file, 0, 64 * BLOCK).expect("a disk that works");
    for (n, block) in read.chunks(BLOCK).enumerate() {
        assert_eq!(block, [63 - n as u8; BLOCK], "block {n}");
    }
    queue.submit(5, Op::Sync { file });
    assert!(matches!(reap(&mut *queue, 1)[..], [Completion { id: 5, result: Ok(Done::Nothing) }]));
}

fn a_refused_write_completes_with_its_error(bench: &Bench) {
    let path = bench.create("file").path;
    let file = bench.io.open(&path, OpenMode::ReadDirect).expect("it exists");
    let mut queue = bench.queue(2);
    queue.submit(8, write(&file, 0, 1));
    let completions = reap(&mut *queue, 1);
    assert!(matches!(completions[..], [Completion { id: 8, result: Err(_) }]), "{completions:?}");
    bench.io.write_at(&file, 0, block(1), true).expect_err("open for reading alone");
}

fn a_wake_ends_a_blocking_poll(bench: &Bench) {
    let mut queue = bench.queue(2);
    let waker = queue.waker();
    let (go, told) = mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            for () in told {
                waker.wake();
            }
        });
        let began = Instant::now();
        let mut out = Vec::new();
        // Many rounds, so that the wake meets the poll at each of its steps.
        for round in 0..2000 {
            go.send(()).expect("the waker listens");
            queue.poll(Some(LONG), &mut out).expect("the queue works");
            assert!(began.elapsed() < LONG / 2, "the wake of round {round} was lost");
        }
        assert!(out.is_empty());
        drop(go);
    });
}

fn a_wake_waits_for_the_next_blocking_poll(bench: &Bench) {
    let mut queue = bench.queue(1);
    let mut out = Vec::new();
    let began = Instant::now();
    queue.waker().wake();
    queue.waker().wake();
    queue.poll(None, &mut out).expect("the queue works");
    queue.poll(Some(LONG), &mut out).expect("the queue works");
    assert!(began.elapsed() < LONG / 2, "the wake was lost");
    // Two wakes are one.
    let began = Instant::now();
    let wait = Duration::from_millis(20);
    queue.poll(Some(wait), &mut out).expect("the queue works");
    assert!(began.elapsed() >= wait, "the wake was used twice");
    assert!(out.is_empty());
    let waker = queue.waker();
    drop(queue);
    waker.wake();
}

fn a_poll_ends_with_its_time(bench: &Bench) {
    let mut queue = bench.queue(1);
    let mut out = Vec::new();
    for wait in [Duration::ZERO, Duration::from_millis(25)] {
        let began = Instant::now();
        queue.poll(Some(wait), &mut out).expect("the queue works");
        assert!(began.elapsed() >= wait);
        assert!(began.elapsed() < LONG / 2);
    }
    assert!(out.is_empty(), "nothing was submitted");
}

fn a_queue_dropped_in_flight_ends_its_writes(bench: &Bench) {
    const LEN: usize = 1 << 20;
    let file = bench.create("file");
    for round in 1..=8_u8 {
        let mut queue = bench.queue(4);
        for n in 0..4 {
            let buf = AlignedBuf::from_slice(&vec![round; LEN]);
            queue.submit(n, Op::Write { file: file.clone(), offset: n * LEN as u64, buf, durable: true });
        }
        drop(queue);
        // What is freed too early is used for this and shows in the file.
        let noise: Vec<_> = (0..4).map(|_| AlignedBuf::from_slice(&vec![0xee; LEN])).collect();
        let read = bench.io.read_at(&file, 0, 4 * LEN).expect("a disk that works");
        assert_eq!(read.len(), 4 * LEN);
        assert!(read.iter().all(|byte| *byte == round), "round {round}");
        drop(noise);
    }
}

fn a_lock_is_exclusive(bench: &Bench) {
    let path = bench.dir.join("lock");
    let held = bench.io.lock(&path).expect("a file may be made").expect("nobody holds it");
    assert!(bench.io.lock(&path).expect("no error").is_none(), "it is held");
    drop(held);
    assert!(bench.io.lock(&path).expect("no error").is_some(), "it was let go");
}

fn a_misaligned_direct_transfer_is_a_programmers_error(bench: &Bench) {
    let file = bench.create("file");
    let panics = |body: &mut dyn FnMut()| {
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).expect_err("it must panic");
        let said = caught.downcast_ref::<String>().expect("a formatted message").clone();
        assert!(said.contains("multiples of 4096"), "{said}");
    };
    let mut queue = bench.queue(1);
    for (offset, len) in [(512, BLOCK), (0, 512)] {
        let op = || Op::Write { file: file.clone(), offset, buf: AlignedBuf::zeroed(len), durable: true };
        panics(&mut || drop(bench.io.run(op())));
        if bench.io.name() != "mem" {
            panics(&mut || queue.submit(1, op()));
        }
    }
    panics(&mut || drop(bench.io.run(Op::Read { file: file.clone(), offset: 100, buf: block(0) })));
}

macro_rules! suite {
    ($backend:ident = $bench:expr => $($behaviour:ident)*) => {
        mod $backend {
            $(
                #[test]
                fn $behaviour() {
                    super::$behaviour(&$bench);
                }
            )*
        }
    };
    ($($backend:ident = $bench:expr;)*) => {
        $(
            suite! { $backend = $bench =>
                what_was_written_is_read_back
                a_read_at_the_end_is_short
                what_the_page_cache_has_is_given_without_a_wait
                names_are_created_replaced_and_removed
                queued_writes_complete_by_id_and_are_there
                a_refused_write_completes_with_its_error
                a_wake_ends_a_blocking_poll
                a_wake_waits_for_the_next_blocking_poll
                a_poll_ends_with_its_time
                a_queue_dropped_in_flight_ends_its_writes
                a_lock_is_exclusive
                a_misaligned_direct_transfer_is_a_programmers_error
            }
        )*
    };
}

suite! {
    mem = super::Bench::in_memory();
    posix = super::Bench::posix(false);
    buffered = super::Bench::posix(true);
    uring = super::Bench::uring();
}

#[test]
fn a_choice_is_kept_or_refused() {
    assert_eq!(choose(IoChoice::Posix).expect("it needs nothing").name(), "posix");
    let buffered = choose(IoChoice::Buffered).expect("it needs nothing");
    assert!(buffered.buffered());
    match choose(IoChoice::Uring) {
        Ok(io) => {
            assert_eq!(io.name(), "io_uring");
            assert_eq!(choose(IoChoice::Auto).expect("as above").name(), "io_uring");
        }
        Err(refused) => {
            assert!(refused.to_string().contains("`posix` setting"), "{refused}");
            assert_eq!(choose(IoChoice::Auto).expect("it falls back").name(), "posix");
        }
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_file_system_without_o_direct_is_named_as_such() {
    // procfs is one.
    let refused = Bench::posix(false).io.open(Path::new("/proc/version"), OpenMode::ReadDirect);
    let told = refused.expect_err("procfs takes no O_DIRECT").to_string();
    assert!(told.contains("refuses O_DIRECT") && told.contains("`buffered` setting"), "{told}");
    let io = Bench::posix(true).io;
    let file = io.open(Path::new("/proc/version"), OpenMode::ReadDirect).expect("the page cache will do");
    assert!(io.read_at(&file, 0, BLOCK).expect("it has a text").starts_with(b"Linux"));
}

#[test]
#[cfg(target_os = "linux")]
fn a_durable_write_that_ends_short_is_an_error() {
    // The kernel shortens a write that passes the process's limit of a file's size, so a process of its own has one.
    let output = in_child("io::tests::a_durable_write_that_ends_short_is_an_error", |dir| {
        use rustix::process::{Resource, Rlimit, setrlimit};
        let limit = Some(2 * BLOCK as u64);
        setrlimit(Resource::Fsize, Rlimit { current: limit, maximum: limit }).expect("a limit may be lowered");
        for (n, io) in [Bench::posix(false).io, Bench::uring().io].into_iter().enumerate() {
            let file = io.open(&dir.join(n.to_string()), OpenMode::CreateDirect).expect("a new file");
            let op = || Op::Write { file: file.clone(), offset: 0, buf: AlignedBuf::zeroed(4 * BLOCK), durable: true };
            let mut queue = io.queue(1).expect("a queue");
            queue.submit(1, op());
            let queued = reap(&mut *queue, 1).pop().expect("one completion").result;
            for result in [io.run(op()), queued] {
                let short = result.expect_err("half of it is beyond the limit");
                assert_eq!(short.kind(), io::ErrorKind::WriteZero, "{short}");
                assert!(short.to_string().contains("8192 of 16384"), "{short}");
            }
        }
    });
    let Some(output) = output else { return };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
