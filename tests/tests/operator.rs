//! What operators do to a directory, by mistake or in an emergency: the wrong identity, an older copy, files that are
//! missing, of another store or of a newer version. The programs are run as a shell runs them.
//!
//! Invariant: what is refused is refused with the documented code, a cause and a remedy, and no byte of the directory
//! changes; what the files cannot tell by themselves starts a timeline, so that whoever had seen more is told.

use everlog::format::block::{Section, decode, encode};
use everlog::format::identity::Identity;
use everlog::types::{JournalId, SegmentId};
use everlog::{Batch, Config, Store};
use everlog_tests::folders::files;
use everlog_tests::net::{Server, ask};
use everlog_tests::programs::{Program, target_dir};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use tempfile::TempDir;

const BLOCK: usize = 4096;
const MANIFEST: &str = "manifest-0000000000000002";
const SEGMENT: &str = "segments/0000000000000001.seg";
const JOURNAL: &str = "journal-0000";

fn scratch(name: &str) -> TempDir {
    tempfile::Builder::new().prefix(name).tempdir_in(target_dir()).expect("room for a folder")
}

fn append(store: &Store, payload: &[u8]) {
    let mut batch = Batch::new();
    batch.log("users/a/notes").create_if_missing().record(payload);
    store.append(batch).expect("staged").wait().expect("durable");
}

/// A closed store with records in a segment, which manifest 2 names, and behind it in the journal.
fn store(dir: &Path, name: &str) -> PathBuf {
    let data = dir.join(name);
    Store::create(&data, &Config::small()).expect("a new folder");
    let store = Store::open(&data, Config::small()).expect("a new store");
    append(&store, b"in a segment");
    store.flush().expect("a sound disk");
    append(&store, b"in the journal");
    store.close().expect("clean");
    for file in ["IDENTITY", MANIFEST, SEGMENT, JOURNAL] {
        assert!(data.join(file).is_file(), "{file}");
    }
    data
}

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp starts");
    assert!(copied.success());
}

fn run(program: Program, args: &[&str]) -> (Option<i32>, String) {
    // A server that is not refused would serve for ever.
    let mut command = Command::new("timeout");
    let output =
        command.arg("60").arg(program.path()).args(args).current_dir(target_dir()).output().expect("it starts");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

fn path(data: &Path) -> &str {
    data.to_str().expect("a plain path")
}

/// That everlogd refuses the directory, with and without --init, and leaves it as it is.
#[track_caller]
fn refused(data: &Path, code: i32, cause: &str) {
    let before = files(data);
    let (data, quiet) = (path(data), ["--cold", "none", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
    for init in [&[][..], &["--init"]] {
        let (got, told) = run(Program::Everlogd, &[&["--data", data], &quiet[..], init].concat());
        assert_eq!(got, Some(code), "{init:?}: {told}");
        let lines: Vec<&str> = told.lines().collect();
        let [.., first, second] = lines[..] else { panic!("two sentences: {told}") };
        assert!(first.contains(cause), "\"{cause}\" in: {told}");
        for line in [first, second] {
            assert!(line.ends_with('.') && !line.starts_with(char::is_lowercase), "a sentence: {line}");
        }
    }
    let (got, told) = run(Program::Everlog, &["bench", "open", "--data", data]);
    assert_eq!(got, Some(code), "bench open: {told}");
    let (got, told) = run(Program::Everlog, &["init", "--data", data]);
    assert_eq!(got, Some(3), "init: {told}");
    assert!(files(Path::new(data)) == before, "what is refused stays as it is");
}

/// That the read-only commands end so, and change nothing either.
#[track_caller]
fn looked_at(data: &Path, code: i32) {
    let before = files(data);
    for command in ["inspect", "dump", "verify"] {
        let (got, told) = run(Program::Everlog, &[command, path(data)]);
        assert_eq!(got, Some(code), "{command}: {told}");
        assert!(code == 0 || !told.is_empty(), "{command} says why");
    }
    assert!(files(data) == before, "nothing is written");
}

/// That everlogd serves the directory, with everything in it.
fn serves(data: &Path, content: &str) {
    let server = Server::start_under(&[], data, &[]);
    let read = ask(server.address(), "GET", "/v1/stream/users/a/notes", &[], b"");
    assert_eq!((read.status, &*read.text()), (200, content));
    assert_eq!(server.stop().0.code(), Some(0));
}

const CONTENT: &str = "in a segmentin the journal";

#[test]
fn files_of_another_store_are_refused() {
    let dir = scratch("mixed");
    let (one, other) = (store(dir.path(), "one"), store(dir.path(), "other"));
    // What is taken from the other store; the code; what is said.
    for (taken, code, cause) in [
        (&["IDENTITY"][..], 3, "different stores"),
        (&[MANIFEST], 3, "different stores"),
        (&[SEGMENT], 4, SEGMENT),
        (&[JOURNAL], 4, "journal cannot be trusted"),
        (&["IDENTITY", MANIFEST], 4, SEGMENT),
        (&["IDENTITY", MANIFEST, SEGMENT], 4, "journal cannot be trusted"),
    ] {
        let mixed = dir.path().join("mixed");
        copy(&one, &mixed);
        for file in taken {
            fs::copy(other.join(file), mixed.join(file)).expect("copied");
        }
        refused(&mixed, code, cause);
        let looks = if code == 3 { [3, 3, 4] } else { [4; 3] };
        for (command, code) in ["inspect", "dump", "verify"].into_iter().zip(looks) {
            let (got, told) = run(Program::Everlog, &[command, path(&mixed)]);
            assert_eq!(got, Some(code), "{command} with {taken:?} of another store: {told}");
        }
        fs::remove_dir_all(&mixed).expect("removed");
    }
    serves(&one, CONTENT);
}

#[test]
fn what_was_deleted_is_missed_by_name() {
    let dir = scratch("deleted");
    let whole = store(dir.path(), "whole");
    for (removed, code, cause) in [
        ("IDENTITY", 3, "no store"),
        (MANIFEST, 4, "journal cannot be trusted"),
        (JOURNAL, 4, "journal cannot be trusted"),
        (SEGMENT, 4, SEGMENT),
    ] {
        let data = dir.path().join("less");
        copy(&whole, &data);
        fs::remove_file(data.join(removed)).expect("it was there");
        let cause_with_init = cause;
        let before = files(&data);
        if removed == "IDENTITY" {
            // With --init it says what stands in the way of a new store; nothing is made anew either way.
            let quiet = ["--cold", "none", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
            for (init, words) in [(&[][..], "no store"), (&["--init"], "no identity and is not empty")] {
                let args = [&["--data", path(&data)], &quiet[..], init].concat();
                let (got, told) = run(Program::Everlogd, &args);
                assert_eq!(got, Some(code), "{told}");
                assert!(told.contains(words), "{told}");
            }
            let (got, told) = run(Program::Everlog, &["verify", path(&data)]);
            assert_eq!(got, Some(4), "{told}");
        } else {
            refused(&data, code, cause_with_init);
            looked_at(&data, 4);
        }
        assert!(files(&data) == before, "without {removed} nothing is written");
        fs::remove_dir_all(&data).expect("removed");
    }
    // All manifests.
    let data = dir.path().join("none");
    copy(&whole, &data);
    for name in files(&data).keys().filter(|name| name.starts_with("manifest-")) {
        fs::remove_file(data.join(name)).expect("it was there");
    }
    refused(&data, 4, "No manifest");
    looked_at(&data, 4);
}

#[test]
fn what_the_segments_hold_is_dumped_where_the_journal_is_refused() {
    let dir = scratch("salvage");
    let data = store(dir.path(), "store");
    fs::remove_file(data.join(JOURNAL)).expect("it was there");
    let before = files(&data);
    let output = Command::new(Program::Everlog.path()).args(["dump", path(&data)]).output().expect("it starts");
    let (out, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(out.contains("in a segment") && !out.contains("in the journal"), "{out}");
    assert_eq!(output.status.code(), Some(4), "{told}");
    assert!(told.contains("journal cannot be trusted"), "{told}");
    // A log that only the journal held is not "no such log".
    let (got, told) = run(Program::Everlog, &["dump", path(&data), "--log", "users/a/todos"]);
    assert_eq!(got, Some(4), "{told}");
    assert!(told.contains("journal cannot be trusted"), "{told}");
    assert!(files(&data) == before, "nothing is written");
}

#[test]
fn an_older_manifest_beside_a_newer_journal_is_refused() {
    let dir = scratch("older");
    let data = dir.path().join("store");
    Store::create(&data, &Config::small()).expect("a new folder");
    let kept = dir.path().join("kept");
    copy(&data, &kept);
    let store = Store::open(&data, Config::small()).expect("a new store");
    for n in 0..3_u8 {
        append(&store, &[n]);
        store.flush().expect("a sound disk");
    }
    append(&store, b"behind");
    store.close().expect("clean");
    let old = "manifest-0000000000000001";
    for name in files(&data).keys().filter(|name| name.starts_with("manifest-")) {
        fs::remove_file(data.join(name)).expect("it was there");
    }
    fs::copy(kept.join(old), data.join(old)).expect("copied");
    refused(&data, 4, "journal cannot be trusted");
    looked_at(&data, 4);
}

#[test]
fn an_older_copy_that_is_put_back_is_noticed_by_whoever_had_seen_more() {
    let dir = scratch("backup");
    let data = dir.path().join("store");
    let stream = "/v1/stream/users/a/notes";
    let text = [("Content-Type", "text/plain")];
    let end = |server: &Server, body: &[u8]| {
        let answer = ask(server.address(), "POST", stream, &text, body);
        assert_eq!(answer.status, 204);
        answer.header("stream-next-offset").to_owned()
    };
    let server = Server::start(&data, &[]);
    assert_eq!(ask(server.address(), "PUT", stream, &text, b"").status, 201);
    let before = end(&server, b"before");
    assert_eq!(server.stop().0.code(), Some(0));
    let backup = dir.path().join("backup");
    copy(&data, &backup);

    let server = Server::start(&data, &[]);
    let after = end(&server, b"after");
    drop(server.kill());
    fs::remove_dir_all(&data).expect("removed");
    fs::rename(&backup, &data).expect("put back");

    let server = Server::start(&data, &[]);
    let read = |offset: &str| ask(server.address(), "GET", &format!("{stream}?offset={offset}"), &[], b"");
    for _ in 0..2 {
        let refused = read(&after);
        assert_eq!((refused.status, refused.header("everlog-error")), (410, "timeline"), "{refused:?}");
        // The copy knows nothing of the history that went on behind it, so that nothing in common is taken for granted.
        assert_eq!(refused.header("everlog-cut"), "0000000000000000_0000000000000000");
        // As many records as there were before: the seqs are the same, and the history is another.
        end(&server, b"other");
    }
    let known = read(&before);
    assert_eq!((known.status, &*known.text()), (200, "otherother"));
    assert_eq!(server.stop().0.code(), Some(0));
}

/// CRC-32 (ISO-HDLC), bit by bit, begun at `init`.
fn crc32(init: u32, bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!init, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 })
    })
}

/// Changes one byte of the header of a file, of what every format has in its place, and makes its checksum right.
fn newer(data: &Path, file: &str, at: usize) {
    let file_path = data.join(file);
    let mut bytes = fs::read(&file_path).expect("it is there");
    let len = bytes.len();
    match file {
        "IDENTITY" => {
            bytes[at] = 0x40;
            let crc = crc32(0, &bytes[..BLOCK - 4]);
            bytes[BLOCK - 4..].copy_from_slice(&crc.to_le_bytes());
        }
        MANIFEST => {
            bytes[at] = 0x40;
            let digest = *blake3::hash(&bytes[..len - 32]).as_bytes();
            bytes[len - 32..].copy_from_slice(&digest);
        }
        JOURNAL => {
            bytes[at] = 0x40;
            let (_, identity) = Identity::decode(&fs::read(data.join("IDENTITY")).expect("there")).expect("intact");
            let journal = u64::from_le_bytes(bytes[56..64].try_into().expect("eight bytes"));
            let crc = crc32(identity.salt(JournalId(journal)), &bytes[..BLOCK - 4]);
            bytes[BLOCK - 4..BLOCK].copy_from_slice(&crc.to_le_bytes());
        }
        _ => {
            let number = (len / BLOCK - 1) as u64;
            let footer = &bytes[len - BLOCK..];
            let mut body = decode(footer, Section::Footer, SegmentId(1), number).expect("intact").to_vec();
            body[at] = 0x40;
            let block = encode(Section::Footer, SegmentId(1), number, &body);
            bytes[len - BLOCK..].copy_from_slice(&block);
        }
    }
    fs::write(file_path, bytes).expect("written");
}

/// Where each header has them: docs/FORMAT.md.
const FORMAT_AT: usize = 8;
const COMPATIBLE_AT: usize = 16;
const READ_ONLY_AT: usize = 24;
const INCOMPATIBLE_AT: usize = 32;

#[test]
fn files_of_a_newer_version_are_refused_and_named() {
    let dir = scratch("newer");
    let whole = store(dir.path(), "whole");
    for file in ["IDENTITY", MANIFEST, JOURNAL, SEGMENT] {
        for at in [FORMAT_AT, INCOMPATIBLE_AT] {
            let data = dir.path().join("newer");
            copy(&whole, &data);
            newer(&data, file, at);
            refused(&data, 3, file);
            looked_at(&data, 3);
            fs::remove_dir_all(&data).expect("removed");
        }
    }
}

#[test]
fn features_that_forbid_writing_leave_a_store_that_can_be_read() {
    let dir = scratch("readonly");
    let whole = store(dir.path(), "whole");
    for file in ["IDENTITY", MANIFEST, JOURNAL, SEGMENT] {
        let data = dir.path().join("newer");
        copy(&whole, &data);
        newer(&data, file, READ_ONLY_AT);
        refused(&data, 3, file);
        if file == SEGMENT {
            // Its bytes were changed behind the manifest's digest of them, which verify compares.
            let (got, told) = run(Program::Everlog, &["verify", path(&data)]);
            assert_eq!(got, Some(4), "{told}");
            let (got, told) = run(Program::Everlog, &["inspect", path(&data)]);
            assert_eq!(got, Some(0), "{told}");
        } else {
            looked_at(&data, 0);
        }
        fs::remove_dir_all(&data).expect("removed");
    }
}

#[test]
fn features_that_may_be_ignored_are() {
    let dir = scratch("compatible");
    let whole = store(dir.path(), "whole");
    for file in ["IDENTITY", MANIFEST, JOURNAL, SEGMENT] {
        let data = dir.path().join("newer");
        copy(&whole, &data);
        newer(&data, file, COMPATIBLE_AT);
        serves(&data, CONTENT);
        serves(&data, CONTENT);
        fs::remove_dir_all(&data).expect("removed");
    }
}

#[test]
fn a_server_is_asked_what_it_knows_of_its_store() {
    let dir = scratch("asked");
    let data = store(dir.path(), "store");
    let server = Server::start_under(&[], &data, &[]);
    let inspect = |args: &[&str]| {
        let output = Command::new(Program::Everlog.path()).arg("inspect").args(args).output().expect("everlog starts");
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let address = server.admin_address().to_string();
    let (code, told, why) = inspect(&["--server", &format!("http://{address}/"), "--json"]);
    assert_eq!(code, Some(0), "{why}");
    let told: serde_json::Value = serde_json::from_str(&told).expect("one object");
    let (_, on_disk, _) = inspect(&[path(&data), "--json"]);
    let on_disk: serde_json::Value = serde_json::from_str(&on_disk).expect("one object");
    assert_eq!((&told["store"], &told["ready"]), (&on_disk["store"], &true.into()));
    let (_, table, _) = inspect(&["--server", &address]);
    assert!(table.lines().any(|line| line.split_whitespace().eq(["opened.clean", "true"])), "{table}");

    assert_eq!(inspect(&["--server", &address, path(&data)]).0, Some(2), "one of the two");
    let (code, _, why) = inspect(&["--server", &server.address().to_string()]);
    assert!(code == Some(1) && why.contains("404") && why.contains("metrics and health"), "the devices' port: {why}");
    assert_eq!(server.stop().0.code(), Some(0));
    let (code, _, why) = inspect(&["--server", &address]);
    assert!(code == Some(1) && why.lines().count() == 2, "{why}");
}
