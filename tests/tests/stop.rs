//! everlogd on a disk that fails: what its clients and its operator see, and what is there afterwards.
//!
//! The failures are the kernel's answers, put in by strace, so that the server is the very program that is shipped. The
//! tests that trace are in a module of their own, since a process that is traced already cannot be traced again. What
//! this does not do: no disk really fails, so that nothing is shown of what the kernel does then.

use everlog::{Config, Store};
use everlog_tests::net::{Answer, Device, Proxy, Server, ask, try_ask};
use everlog_tests::programs::target_dir;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// After this long something that should come has not.
const PATIENCE: Duration = Duration::from_secs(60);

fn scratch(name: &str) -> (TempDir, PathBuf) {
    let dir = tempfile::Builder::new().prefix(name).tempdir_in(target_dir()).expect("room for a folder");
    let data = dir.path().join("store");
    Store::create(&data, &Config::small()).expect("a new folder");
    (dir, data)
}

/// The arguments of strace that answer `calls` with `what`, on the files of these paths alone if there are any.
fn strace(log: &Path, calls: &str, what: &str, paths: &[&Path]) -> Vec<String> {
    let mut args = vec!["strace".to_owned()];
    // -D: the server is this test's child, and the tracer nobody's.
    for arg in ["-D", "-f", "--seccomp-bpf", "-qqq", "-e", "signal=none", "-o"] {
        args.push(arg.to_owned());
    }
    args.push(log.display().to_string());
    for path in paths {
        args.extend(["-P".to_owned(), path.display().to_string()]);
    }
    args.extend(["-e".to_owned(), format!("trace={calls}"), "-e".to_owned(), format!("inject={calls}:{what}")]);
    args
}

fn start(through: &[String], data: &Path, flags: &[&str]) -> Server {
    let through: Vec<&str> = through.iter().map(String::as_str).collect();
    Server::start_under(&through, data, flags)
}

const STREAM: &str = "/v1/stream/users/a/notes";

fn create(address: SocketAddr) {
    let created = ask(address, "PUT", STREAM, &[("Content-Type", "application/octet-stream")], b"");
    assert!(matches!(created.status, 200 | 201), "{created:?}");
}

fn post(address: SocketAddr, body: &[u8]) -> Option<Answer> {
    try_ask(address, "POST", STREAM, &[("Content-Type", "application/octet-stream")], body)
}

/// A body that says which it is.
fn body(n: u32) -> Vec<u8> {
    n.to_le_bytes().repeat(25)
}

/// All of the stream, page by page.
fn read(address: SocketAddr) -> Vec<u8> {
    let (mut out, mut offset) = (Vec::new(), "-1".to_owned());
    loop {
        let page = ask(address, "GET", &format!("{STREAM}?offset={offset}"), &[], b"");
        assert_eq!(page.status, 200, "reads go on: {page:?}");
        out.extend_from_slice(&page.body);
        if page.header("stream-up-to-date") == "true" {
            return out;
        }
        offset = page.header("stream-next-offset").to_owned();
    }
}

/// Appends until one is not acknowledged; how many were, and what was answered to the one that was not.
fn until_it_fails(address: SocketAddr) -> (u32, Option<Answer>) {
    for n in 0..10_000 {
        match post(address, &body(n)) {
            Some(answer) if answer.status == 204 => {}
            other => return (n, other),
        }
    }
    panic!("no append failed");
}

fn expected(acknowledged: u32) -> Vec<u8> {
    (0..acknowledged).flat_map(body).collect()
}

/// What a server says and does that stopped acknowledging, and how it ends when it is asked to.
fn is_stopped(server: Server, cause: &str) -> (ExitStatus, String) {
    let ready = server.until_ready_says(503);
    for words in ["stopped acknowledging", cause, "start again"] {
        assert!(ready.text().contains(words), "\"{words}\" in: {}", ready.text());
    }
    for _ in 0..3 {
        let refused = post(server.address(), b"later").expect("it answers");
        assert_eq!((refused.status, refused.header("everlog-error")), (503, "poisoned"), "{refused:?}");
        assert_eq!(refused.header("retry-after"), "10");
        assert!(refused.text().contains("retry by producer number"), "{}", refused.text());
    }
    let other = ask(server.address(), "PUT", "/v1/stream/users/b/notes", &[("Content-Type", "text/plain")], b"");
    assert_eq!((other.status, other.header("everlog-error")), (503, "poisoned"));
    assert_eq!(ask(server.admin_address(), "GET", "/healthz", &[], b"").status, 200);
    assert!(ask(server.admin_address(), "GET", "/metrics", &[], b"").text().contains("everlog_poisoned 1\n"));
    server.stop()
}

/// Exit code 5, with the cause and the remedy as the last two lines.
fn says_why(status: ExitStatus, log: &str, cause: &str) {
    assert_eq!(status.code(), Some(5), "{log}");
    let lines: Vec<&str> = log.lines().collect();
    let [.., first, second] = lines[..] else { panic!("two sentences: {log}") };
    assert!(first.starts_with("The store stopped taking appends") && first.contains(cause), "{log}");
    assert!(second.contains("mend it, and start again"), "{log}");
}

/// Opens the store again, without failures: everything acknowledged is there, once, and nothing from nowhere.
fn is_whole(data: &Path, acknowledged: u32, unknown: u32) {
    let server = start(&[], data, &["--io", "posix"]);
    server.until_ready_says(200);
    let found = read(server.address());
    let least = expected(acknowledged);
    assert_eq!(found[..least.len()], least, "what was acknowledged");
    assert!(found.len() <= expected(acknowledged + unknown).len(), "an append twice, or one from nowhere");
    assert_eq!(post(server.address(), b"and on").expect("an answer").status, 204, "appends go on");
    assert_eq!(server.stop().0.code(), Some(0));
}

#[test]
fn a_directory_that_is_deleted_under_the_server_stops_it_and_is_not_made_anew() {
    let (dir, data) = scratch("deleted");
    let server = Server::start(&data, &[]);
    create(server.address());
    assert_eq!(post(server.address(), &body(0)).expect("an answer").status, 204);
    std::fs::remove_dir_all(&data).expect("it is there");
    let (status, log) = is_stopped(server, "removed, moved or replaced");
    says_why(status, &log, "removed, moved or replaced");
    assert!(!data.exists(), "nothing was made in its place");
    drop(dir);
}

#[test]
fn a_backup_put_in_the_place_of_the_directory_under_the_server_is_not_written_to() {
    let (dir, data) = scratch("replaced");
    let backup = dir.path().join("backup");
    let copied = std::process::Command::new("cp").arg("-a").args([&data, &backup]).status().expect("cp starts");
    assert!(copied.success());
    let before = everlog_tests::folders::files(&backup);
    let server = Server::start(&data, &[]);
    create(server.address());
    std::fs::rename(&data, dir.path().join("moved")).expect("renamed");
    std::fs::rename(&backup, &data).expect("renamed");
    let (status, log) = is_stopped(server, "removed, moved or replaced");
    says_why(status, &log, "removed, moved or replaced");
    assert!(everlog_tests::folders::files(&data) == before, "the backup is as it was");
}

mod traced {
    use super::*;

    fn lacks_strace() -> bool {
        !std::process::Command::new("strace").arg("-V").output().is_ok_and(|output| output.status.success())
    }

    /// A server whose calls fail as told.
    fn failing(data: &Path, calls: &str, what: &str, paths: &[&Path], flags: &[&str]) -> Server {
        assert!(!lacks_strace(), "this test needs strace: apt-get install --yes strace");
        let log = data.with_extension("strace");
        start(&strace(&log, calls, what, paths), data, flags)
    }

    #[test]
    fn after_a_failed_write_of_a_frame_nothing_is_acknowledged_and_reads_go_on() {
        for (io, calls) in [("posix", "pwritev2"), ("buffered", "fdatasync")] {
            let (_dir, data) = scratch("frame");
            let server = failing(&data, calls, "error=EIO:when=40+", &[], &["--io", io]);
            create(server.address());
            let (acknowledged, failed) = until_it_fails(server.address());
            let failed = failed.expect("the server answers");
            // An idle frame may have met the failure instead of the append.
            let error = failed.header("everlog-error").to_owned();
            assert_eq!(failed.status, 503, "{failed:?}");
            assert!(matches!(&*error, "unknown" | "poisoned"), "{failed:?}");
            assert!(failed.text().contains("Input/output error"), "{}", failed.text());
            assert!(acknowledged > 0);
            assert_eq!(read(server.address()), expected(acknowledged), "reads show what was acknowledged");
            let (status, log) = is_stopped(server, "writing a frame to the journal failed");
            says_why(status, &log, "journal-0000");
            is_whole(&data, acknowledged, 1);
        }
    }

    #[test]
    fn a_server_that_is_told_to_stop_ends_by_itself_with_5_and_answers_before() {
        let (_dir, data) = scratch("stop");
        let flags = ["--io", "posix", "--on-failure", "stop"];
        let server = failing(&data, "pwritev2", "error=EIO:when=40+", &[], &flags);
        create(server.address());
        let (acknowledged, failed) = until_it_fails(server.address());
        if let Some(failed) = failed {
            assert_eq!(failed.status, 503, "{failed:?}");
        }
        let (status, log) = server.ended();
        says_why(status, &log, "journal-0000");
        is_whole(&data, acknowledged, 1);
    }

    /// Appends more than a flush waits for.
    fn much(server: &Server) -> u32 {
        let large = vec![7; 1 << 20];
        let mut bytes = 0;
        for _ in 0..72 {
            let answer = post(server.address(), &large).expect("it answers");
            match answer.status {
                204 => bytes += large.len(),
                503 => break,
                _ => panic!("{answer:?}"),
            }
        }
        u32::try_from(bytes).expect("it is less than 4 GiB")
    }

    fn holds(data: &Path, bytes: u32) {
        let server = start(&[], data, &["--io", "posix"]);
        let found = read(server.address());
        assert!(found.len() >= bytes as usize && found.iter().all(|byte| *byte == 7), "{} of {bytes}", found.len());
        assert_eq!(server.stop().0.code(), Some(0));
    }

    #[test]
    fn after_a_failed_sync_of_a_manifest_nothing_is_acknowledged() {
        // Of the file itself, and of the directory after the file has its name.
        for (calls, what, path) in
            [("fdatasync", "syncing failed", "manifest-0000000000000002.tmp"), ("fsync", "syncing failed", "")]
        {
            let (_dir, data) = scratch("manifest");
            // The directory is synced at the open and for the spare journal file before.
            let when = if calls == "fsync" { "error=EIO:when=3+" } else { "error=EIO" };
            let server = failing(&data, calls, when, &[&data.join(path)], &["--io", "posix"]);
            create(server.address());
            let bytes = much(&server);
            let (status, log) = is_stopped(server, what);
            says_why(status, &log, what);
            holds(&data, bytes);
        }
    }

    #[test]
    fn a_failed_sync_of_a_segment_is_made_up_for_and_nobody_notices() {
        let (_dir, data) = scratch("segment");
        let segment = data.join("segments/0000000000000001.seg");
        let server = failing(&data, "fdatasync", "error=EIO", &[&segment], &["--io", "posix"]);
        create(server.address());
        let bytes = much(&server);
        assert_eq!(bytes, 72 << 20, "all were acknowledged");
        let began = Instant::now();
        let metrics = loop {
            let metrics = ask(server.admin_address(), "GET", "/metrics", &[], b"").text();
            if metrics.contains("everlog_segments 1\n") {
                break metrics;
            }
            assert!(began.elapsed() < PATIENCE, "{metrics}");
        };
        assert!(metrics.contains("everlog_poisoned 0\n") && !metrics.contains("everlog_flush_failures_total 0\n"));
        assert!(!segment.exists(), "what nothing refers to is removed");
        server.until_ready_says(200);
        assert_eq!(server.stop().0.code(), Some(0));
        holds(&data, bytes);
    }

    #[test]
    fn a_device_keeps_its_changes_and_says_what_to_do_while_the_server_acknowledges_nothing() {
        let (dir, data) = scratch("device");
        let server = failing(&data, "pwritev2", "error=EIO:when=40+", &[], &["--io", "posix"]);
        create(server.address());
        let proxy = Proxy::start();
        proxy.lead_to(Some(server.address()));
        let device = Device::init(dir.path().join("phone"), &proxy.url(), "alice");
        device.write("notes/one", "before");
        device.sync();
        until_it_fails(server.address());
        server.until_ready_says(503);
        device.write("notes/two", "after");
        let output = device.command("sync").args(["--retry-seconds", "1"]).output().expect("everlog starts");
        let told = everlog_tests::net::told(&output);
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(told.contains("status 503") && told.contains("nothing is lost"), "{told}");
        assert_eq!(server.stop().0.code(), Some(5));

        let server = start(&[], &data, &[]);
        proxy.lead_to(Some(server.address()));
        device.sync();
        let other = Device::init(dir.path().join("tablet"), &proxy.url(), "alice");
        other.sync();
        assert_eq!(other.items(), device.items());
        assert_eq!(other.items().keys().collect::<Vec<_>>(), ["notes/one", "notes/two"]);
    }
}
