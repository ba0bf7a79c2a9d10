//! How everlogd ends: a server that cannot serve says why, where, and what to do about it, in two sentences on stderr,
//! with the documented exit code, and leaves what it refused as it found it; one that is asked to stop does so soon.
//!
//! Exit codes: 2 wrong settings, 3 refused, 4 damage, 5 the disk. The full disk is a memory file system that the test
//! mounts for the server alone, which needs user namespaces or root.

use crate::program::{Ended, Program, QUIET, ask, everlogd, plain, send};
use everlog::{Batch, Config, Store};
use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

fn scratch() -> tempfile::TempDir {
    // On the disk that the build is on, and not in a memory file system that refuses direct writes.
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("there is room for a folder")
}

/// The nth record of a test's store.
fn note(n: u8) -> [u8; 100] {
    [n; 100]
}

/// A closed store, with records in a segment and behind it in the journal.
fn store(dir: &Path) -> PathBuf {
    let path = dir.join("store");
    Store::create(&path, &Config::small()).expect("the folder is new");
    let store = Store::open(&path, Config::small()).expect("the store is new");
    for n in 0..20_u8 {
        let note = note(n);
        let mut batch = Batch::new();
        batch.log("users/a/notes").create_if_missing().record(&note);
        store.append(batch).expect("it is staged").wait().expect("it is durable");
        if n == 9 {
            store.flush().expect("it goes into a segment");
        }
    }
    store.close().expect("nothing is under way");
    path
}

/// Every file below `dir` with its bytes; a folder has none.
fn contents(dir: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("the folder can be listed") {
            let path = entry.expect("the folder can be listed").path();
            let bytes = path.is_file().then(|| fs::read(&path).expect("the file can be read"));
            if bytes.is_none() {
                folders.push(path.clone());
            }
            found.insert(path, bytes);
        }
    }
    found
}

/// Changes bytes of a file.
fn patch(path: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).expect("the file is there");
    change(&mut bytes);
    fs::write(path, bytes).expect("the file can be written");
}

/// What the server said when it was started on `data`, with and without --init; nothing below `scratch` may change.
#[track_caller]
fn refused(scratch: &Path, data: &Path, code: i32, cause: &str, remedy: &str) {
    let before = contents(scratch);
    for init in [&[][..], &["--init"]] {
        let ended = Program::start(everlogd(scratch).args(QUIET).args(init).arg("--data").arg(data)).ended();
        says(&ended, code, cause, remedy);
        assert!(ended.stderr.contains(&data.display().to_string()), "the place is named: {}", ended.stderr);
        assert!(contents(scratch) == before, "{init:?}: what is refused stays as it is: {}", ended.stderr);
    }
}

/// The exit code, and two sentences at the end of stderr that hold these words.
#[track_caller]
fn says(ended: &Ended, code: i32, cause: &str, remedy: &str) {
    let told = &ended.stderr;
    assert_eq!(ended.code, code, "{told}");
    assert_eq!(ended.stdout, "", "stdout is for what was asked for");
    let lines: Vec<&str> = told.lines().collect();
    let [.., first, second] = lines[..] else { panic!("two sentences: {told}") };
    for (line, words) in [(first, cause), (second, remedy)] {
        assert!(line.ends_with('.') && !line.starts_with(char::is_lowercase), "a sentence: {line}");
        assert!(line.contains(words), "\"{words}\" in: {line}");
    }
    assert!(
        lines[..lines.len() - 2].iter().all(|line| line.contains(" INFO ") || line.contains(" WARN ")),
        "and no more than the log: {told}"
    );
}

#[test]
fn wrong_settings_are_bad_usage() {
    let dir = scratch();
    let file = dir.path().join("typo.toml");
    fs::write(&file, "io = \"posix\"\nlistne = \"127.0.0.1:4437\"").expect("a new file");
    let before = contents(dir.path());
    for (args, cause, remedy) in [
        (&["--listen", "0.0.0.0:4437"][..], "--listen 0.0.0.0:4437 is not a loopback address", "127.0.0.1"),
        (&["--admin-listen", "[::]:4438"], "--admin-listen [::]:4438 is not a loopback address", "127.0.0.1"),
        (&["--admin-listen", "127.0.0.1:4437"], "are both 127.0.0.1:4437", "another port"),
        (&["--cold", "/var/cold"], "--cold /var/cold", "file://PATH"),
        (&["--config", "missing.toml"], "missing.toml cannot be read", "--config"),
        (&["--config", "typo.toml"], "typo.toml, line 2, are wrong: unknown field `listne`", "everlogd --help"),
    ] {
        let ended = Program::start(everlogd(dir.path()).arg("--init").args(args)).ended();
        says(&ended, 2, cause, remedy);
    }
    let ended = Program::start(everlogd(dir.path()).args(["--init", "--io", "floppy"])).ended();
    assert_eq!(ended.code, 2, "{}", ended.stderr);
    assert!(contents(dir.path()) == before, "nothing was created");
}

#[test]
fn settings_can_be_checked_without_a_store() {
    let dir = scratch();
    let ended = Program::start(everlogd(dir.path()).args(["--check-config", "--data", "d", "--init"])).ended();
    assert_eq!((ended.code, ended.stderr.as_str()), (0, ""));
    for line in ["data = \"d\"", "listen = \"127.0.0.1:4437\"", "admin_listen = \"127.0.0.1:4438\"", "auth = \"off\""] {
        assert!(ended.stdout.lines().any(|found| found == line), "{line} in:\n{}", ended.stdout);
    }
    assert_eq!(contents(dir.path()).len(), 0, "nothing was created");
}

#[test]
fn a_missing_store_is_refused() {
    let dir = scratch();
    let empty = dir.path().join("empty");
    fs::create_dir(&empty).expect("a new folder");
    for data in ["missing", "empty"] {
        let ended = Program::start(everlogd(dir.path()).args(QUIET).args(["--data", data])).ended();
        says(&ended, 3, &format!("There is no store in {data}"), "--init");
    }
    assert_eq!(contents(dir.path()).len(), 1, "nothing was created");
    fs::write(empty.join("letter.txt"), b"dear").expect("a new file");
    let ended = Program::start(everlogd(dir.path()).args(QUIET).args(["--init", "--data", "empty"])).ended();
    says(&ended, 3, &format!("letter.txt is there, file {}", empty.display()), "another directory");
    refused(dir.path(), &empty, 3, "", "");
}

#[test]
fn a_store_that_another_process_has_open_is_refused() {
    let dir = scratch();
    let data = store(dir.path());
    let lock = fs::File::open(data.join("LOCK")).expect("a store has one");
    lock.lock().expect("nobody has the store open");
    refused(dir.path(), &data, 3, "LOCK", "Stop it");
}

#[test]
fn a_newer_format_is_refused() {
    let dir = scratch();
    let data = store(dir.path());
    // Places of docs/FORMAT.md, "Identity": the format, the feature bits that forbid to write and to read, the checksum.
    for (at, cause) in [(8, "has format 255"), (24, "features"), (32, "features")] {
        let identity = data.join("IDENTITY");
        let good = fs::read(&identity).expect("a store has one");
        patch(&identity, |bytes| {
            bytes[at] = 0xff;
            let checksum = crc32(&bytes[..4092]);
            bytes[4092..].copy_from_slice(&checksum.to_le_bytes());
        });
        refused(dir.path(), &data, 3, cause, "version that wrote it");
        fs::write(&identity, good).expect("the file can be written");
    }
}

/// CRC-32 (ISO-HDLC), bit by bit.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 })
    })
}

#[test]
fn damage_stops_the_start_and_is_named() {
    /// A place in a file's bytes.
    type Place = fn(&[u8]) -> usize;
    // The file whose path begins so, the last of them; where it is changed; what is said.
    let places: [(&str, Place, &str, &str); 4] = [
        ("IDENTITY", |_| 60, "The identity is damaged", "from a copy"),
        ("manifest-", |_| 100, "The manifest is damaged", "Restore the store"),
        ("journal-0000", |bytes| find(bytes, &note(15)), "The journal cannot be trusted", "from a copy"),
        ("segments/", |bytes| bytes.len() - 60, "segments/", "from a copy"),
    ];
    for (name, place, cause, remedy) in places {
        let dir = scratch();
        let data = store(dir.path());
        let start = data.join(name).display().to_string();
        let files =
            contents(&data).into_keys().filter(|path| path.is_file() && path.display().to_string().starts_with(&start));
        patch(&files.max().expect("a store has one"), |bytes| {
            let at = place(bytes);
            bytes[at..at + 4].iter_mut().for_each(|byte| *byte ^= 0x55);
        });
        refused(dir.path(), &data, 4, cause, remedy);
    }
}

fn find(bytes: &[u8], wanted: &[u8]) -> usize {
    bytes.windows(wanted.len()).position(|window| window == wanted).expect("the record is in the file")
}

#[test]
fn a_full_disk_is_named() {
    const NAMESPACE: [&str; 4] = ["--user", "--map-root-user", "--mount", "--"];
    let may = Command::new("unshare").args(NAMESPACE).arg("true").output();
    assert!(
        may.as_ref().is_ok_and(|output| output.status.success()),
        "this test mounts a small file system, for which it needs `unshare` and the right to make user namespaces (as \
         root, or with sysctl kernel.apparmor_restrict_unprivileged_userns=0 and in a container that allows it): {may:?}"
    );
    let dir = scratch();
    let disk = dir.path().join("disk");
    fs::create_dir(&disk).expect("a new folder");
    let mut command = Command::new("unshare");
    plain(&mut command, dir.path());
    command.args(NAMESPACE).args(["sh", "-c", "mount -t tmpfs -o size=1m tmpfs disk && exec \"$@\"", "sh"]);
    command.arg(env!("CARGO_BIN_EXE_everlogd")).args(QUIET).args([
        "--io",
        "buffered",
        "--init",
        "--data",
        "disk/store",
    ]);
    let ended = Program::start(&mut command).ended();
    says(&ended, 5, "disk/store/journal-0000", "Free space");
    assert!(ended.stderr.contains("No space left on device"), "{}", ended.stderr);
    assert_eq!(contents(&disk).len(), 0, "all of it was in the small file system");
}

#[test]
fn what_the_system_refuses_has_a_remedy() {
    let dir = scratch();
    fs::write(dir.path().join("file"), b"").expect("a new file");
    let ended = Program::start(everlogd(dir.path()).args(QUIET).args(["--init", "--data", "file"])).ended();
    says(&ended, 5, &format!("file {}", dir.path().join("file").display()), "Name a directory");

    let taken = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    let address = taken.local_addr().expect("it is bound").to_string();
    let args = ["--cold", "none", "--init", "--data", "store", "--admin-listen", "127.0.0.1:0", "--listen", &address];
    let ended = Program::start(everlogd(dir.path()).args(args)).ended();
    says(&ended, 1, &format!("--listen {address} cannot be listened on"), "another one");
}

#[test]
fn while_the_store_is_opened_operators_are_told_so() {
    let dir = scratch();
    let store = store(dir.path());
    // A bucket that takes connections and never answers: the open asks it who owns the store.
    let silent = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    let endpoint = format!("http://{}", silent.local_addr().expect("it is bound"));
    let mut command = everlogd(dir.path());
    let bucket = [("AWS_ENDPOINT_URL", &*endpoint), ("AWS_ALLOW_HTTP", "true"), ("AWS_REGION", "us-east-1")];
    command.envs(bucket).envs([("AWS_ACCESS_KEY_ID", "a"), ("AWS_SECRET_ACCESS_KEY", "b")]);
    command.arg("--data").arg(&store).args(["--cold", "s3://bucket/store"]);
    let mut server = Program::start(command.args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]));
    let admin = server.line_with("metrics and health on http://");
    let get = |path: &str| ask(&admin, format!("GET {path} HTTP/1.1\r\n\r\n"));
    assert!(get("/healthz").starts_with("HTTP/1.1 200 "), "{}", get("/healthz"));
    for path in ["/readyz", "/metrics", "/status"] {
        let answer = get(path);
        assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("is being opened"), "{answer}");
    }
    // Nobody who holds a connection open keeps others from being told.
    let _idle: Vec<_> = (0..100).map(|_| std::net::TcpStream::connect(&admin).expect("it listens")).collect();
    assert!(get("/readyz").starts_with("HTTP/1.1 503 "));
}

#[test]
fn a_server_that_is_asked_to_stop_does_so_while_readers_wait() {
    let dir = scratch();
    let start = |init: &[&str]| {
        let mut server = Program::start(everlogd(dir.path()).args(QUIET).args(["--data", "store"]).args(init));
        let admin = server.line_with("metrics and health on http://");
        let opened = server.line_with("INFO opened ");
        let address = server.line_with("everlogd ready on http://");
        (server, opened, admin, address)
    };
    let (server, _, admin, address) = start(&["--init"]);
    let created =
        ask(&address, "PUT /v1/stream/notes HTTP/1.1\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n\r\none");
    assert!(created.starts_with("HTTP/1.1 201 "), "{created}");

    let mut poll = send(&address, "GET /v1/stream/notes?offset=now&live=long-poll HTTP/1.1\r\nHost: test\r\n\r\n");
    let mut events = send(&address, "GET /v1/stream/notes?offset=-1&live=sse HTTP/1.1\r\nHost: test\r\n\r\n");
    // Both are waiting once the server counts them; each look is a request, which takes its time.
    let waiting = |_: &usize| ask(&admin, "GET /metrics HTTP/1.1\r\n\r\n").contains("everlog_live_readers 2\n");
    assert!((0..10_000).find(waiting).is_some(), "two readers wait");

    // It reads its files again where it has any, and goes on.
    server.hang_up();
    server.terminate();
    let ended = server.ended_within(Duration::from_secs(5));
    assert_eq!((ended.code, ended.stdout.as_str()), (0, ""), "{}", ended.stderr);
    let (mut polled, mut told) = (String::new(), String::new());
    poll.read_to_string(&mut polled).expect("an answer");
    events.read_to_string(&mut told).expect("events");
    assert!(polled.starts_with("HTTP/1.1 204 "), "a wait that is cut short is a wait without news: {polled}");
    assert!(told.contains("data:one") && told.ends_with("0\r\n\r\n"), "the events end as they should: {told}");

    let (server, opened, _, address) = start(&[]);
    assert!(opened.contains("clean=true"), "the store was closed: {opened}");
    let read = ask(&address, "GET /v1/stream/notes HTTP/1.1\r\n\r\n");
    assert!(read.ends_with("\r\n\r\none"), "{read}");
    server.terminate();
    assert_eq!(server.ended().code, 0);
}
