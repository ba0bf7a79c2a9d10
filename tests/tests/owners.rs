//! Two processes that come to one directory: at most one of them acknowledges, whatever name the directory is reached
//! by, whatever happens to the file of the lock, and also while the first one stands still.
//!
//! Invariant: a second process is refused with 3, names the holder, and changes nothing.

use everlog_tests::folders::files;
use everlog_tests::net::{Server, ask, told, try_ask};
use everlog_tests::programs::{Program, target_dir};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

const STREAM: &str = "/v1/stream/users/a/notes";

fn served(name: &str) -> (TempDir, PathBuf, Server) {
    let dir = tempfile::Builder::new().prefix(name).tempdir_in(target_dir()).expect("room for a folder");
    let data = dir.path().join("store");
    let server = Server::start(&data, &[]);
    let created = ask(server.address(), "PUT", STREAM, &[("Content-Type", "text/plain")], b"");
    assert_eq!(created.status, 201, "{created:?}");
    (dir, data, server)
}

/// A second server on `data`, through these words of a shell if there are any; it has to end by itself.
fn second(through: &[&str], data: &Path, flags: &[&str]) -> Output {
    let everlogd = Program::Everlogd.path();
    // One that is not refused would serve for ever.
    let mut command = Command::new("timeout");
    command.arg("60").args(through).arg(everlogd);
    command.args(["--cold", "none", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--data"]);
    command.arg(data).args(flags).current_dir(target_dir()).output().expect("it starts")
}

/// That a second process was refused, and by whom.
#[track_caller]
fn refused(output: &Output, first: &Server) {
    let told = told(output);
    assert_eq!(output.status.code(), Some(3), "{told}");
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let lines: Vec<&str> = stderr.lines().collect();
    let [.., cause, remedy] = lines[..] else { panic!("two sentences: {told}") };
    assert!(
        cause.starts_with(&format!("Another process (process {}, everlogd) has the store open", first.pid())),
        "{told}"
    );
    assert!(remedy.starts_with("Stop it"), "{told}");
}

/// The first server still acknowledges, and ends as it should.
fn goes_on(server: Server) {
    let answer = ask(server.address(), "POST", STREAM, &[("Content-Type", "text/plain")], b"still");
    assert_eq!(answer.status, 204, "{answer:?}");
    let (status, log) = server.stop();
    assert_eq!(status.code(), Some(0), "{log}");
}

#[test]
fn a_second_server_is_refused_with_the_holders_name_and_writes_nothing() {
    let (_dir, data, server) = served("second");
    // What the first one is about to write by itself is written by then.
    assert_eq!(ask(server.address(), "POST", STREAM, &[("Content-Type", "text/plain")], b"one").status, 204);
    server.signal("STOP");
    let before = files(&data);
    for flags in [&[][..], &["--init"], &["--io", "posix"]] {
        refused(&second(&[], &data, flags), &server);
    }
    let everlog = |args: &[&str]| Command::new(Program::Everlog.path()).args(args).output().expect("everlog starts");
    let path = data.to_str().expect("a plain path");
    for args in [&["init", "--data", path][..], &["bench", "open", "--data", path]] {
        let output = everlog(args);
        assert_eq!(output.status.code(), Some(3), "{args:?}: {}", told(&output));
    }
    for command in ["inspect", "dump", "verify"] {
        let output = everlog(&[command, path]);
        assert_eq!(output.status.code(), Some(0), "{command}: {}", told(&output));
    }
    assert!(files(&data) == before, "nothing was written");
    server.signal("CONT");
    goes_on(server);
}

#[test]
fn a_server_that_stood_still_goes_on_as_the_only_one_and_stores_nothing_twice() {
    let (_dir, data, server) = served("paused");
    let address = server.address();
    let numbered = move |number: u64| {
        let number = number.to_string();
        let producer = [("Producer-Id", "phone"), ("Producer-Epoch", "0"), ("Producer-Seq", &*number)];
        let headers = [&[("Content-Type", "text/plain")], &producer[..]].concat();
        try_ask(address, "POST", STREAM, &headers, format!("<{number}>").as_bytes())
    };
    assert_eq!(numbered(0).expect("an answer").status, 200);
    server.signal("STOP");
    // It is taken by the kernel for the process that stands still.
    let waiting = std::thread::spawn(move || numbered(1));
    refused(&second(&[], &data, &[]), &server);
    refused(&second(&[], &data, &["--init"]), &server);
    server.signal("CONT");
    assert_eq!(waiting.join().expect("no panic").expect("an answer").status, 200);
    for number in [0, 1] {
        assert_eq!(numbered(number).expect("an answer").status, 204, "a repetition");
    }
    let read = ask(address, "GET", &format!("{STREAM}?offset=-1"), &[], b"");
    assert_eq!(read.text(), "<0><1>");
    goes_on(server);
}

#[test]
fn the_lock_holds_though_its_file_is_deleted() {
    let (_dir, data, server) = served("unlocked");
    for round in 0..2 {
        std::fs::remove_file(data.join("LOCK")).expect("it is there");
        refused(&second(&[], &data, &[]), &server);
        assert!(!data.join("LOCK").exists(), "who is refused makes none");
        let inspected = Command::new(Program::Everlog.path()).arg("inspect").arg(&data).output().expect("it starts");
        assert_eq!(inspected.status.code(), Some(0), "{}", told(&inspected));
        // Nor is one that somebody else puts there a lock.
        std::fs::write(data.join("LOCK"), b"").expect("written");
        refused(&second(&[], &data, &["--init"]), &server);
        assert!(round == 1 || data.join("LOCK").exists());
    }
    goes_on(server);
    let again = Server::start(&data, &[]);
    goes_on(again);
}

#[test]
fn the_lock_holds_under_every_name_of_the_directory() {
    let (dir, data, server) = served("names");
    let link = dir.path().join("link");
    symlink(&data, &link).expect("a new name");
    refused(&second(&[], &link, &[]), &server);
    refused(&second(&[], &link.join("..").join("store"), &[]), &server);

    // Mounted elsewhere as well, for the second process alone.
    let other = dir.path().join("other");
    std::fs::create_dir(&other).expect("a new folder");
    let mount = format!("mount --bind '{}' '{}' && exec \"$@\"", data.display(), other.display());
    let through = ["unshare", "--user", "--map-root-user", "--mount", "--", "sh", "-c", &mount, "sh"];
    refused(&second(&through, &other, &[]), &server);
    goes_on(server);
}

#[test]
fn the_lock_moves_with_the_directory() {
    let (dir, data, server) = served("moved");
    let moved = dir.path().join("moved");
    std::fs::rename(&data, &moved).expect("renamed");
    std::fs::remove_file(moved.join("LOCK")).expect("it is there");
    refused(&second(&[], &moved, &[]), &server);
    // The first one finds its files no more, says so, and ends without a word in the directory.
    let (status, log) = server.stop();
    assert_eq!(status.code(), Some(5), "{log}");
    let again = Server::start(&moved, &[]);
    goes_on(again);
}
