//! Tokens with all programs as they are: an operator at the shell, a device that syncs, and a server that is lost and taken
//! back to an earlier moment, which brings no revoked token back.

use everlog_tests::net::{Server, ask, told};
use everlog_tests::programs::{Program, target_dir};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

struct World {
    scratch: TempDir,
}

impl World {
    fn new() -> Self {
        Self { scratch: tempfile::Builder::new().prefix("tokens").tempdir_in(target_dir()).expect("room for a folder") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    fn cold_url(&self) -> String {
        format!("file://{}", self.path("cold").display())
    }

    fn serve(&self, data: &str) -> Server {
        let flags = ["--cold", &self.cold_url(), "--allow-dependent-cold", "--auth", "tokens"];
        Server::start(&self.path(data), &flags)
    }

    fn everlog(&self, args: &[&str]) -> Output {
        let mut command = Command::new(Program::Everlog.path());
        command.args(args).current_dir(self.scratch.path()).env_remove("EVERLOG_TOKEN").env_remove("EVERLOG_DATA");
        command.output().expect("everlog starts")
    }

    /// What it prints, where it succeeds.
    fn done(&self, args: &[&str]) -> String {
        let output = self.everlog(args);
        assert!(output.status.success(), "{args:?}: {}", told(&output));
        String::from_utf8(output.stdout).expect("text")
    }

    fn json(&self, args: &[&str]) -> Value {
        serde_json::from_str(&self.done(args)).expect("one JSON object")
    }

    fn code(&self, args: &[&str]) -> i32 {
        let output = self.everlog(args);
        output.status.code().unwrap_or_else(|| panic!("{}", told(&output)))
    }

    /// A token and its id.
    fn issue(&self, data: &str, device: &str) -> (String, String) {
        let args = ["token", "issue", "--data", data, "--scope", "users/alice", "--device", device, "--json"];
        let given = self.json(&args);
        let text = |name: &str| given[name].as_str().expect("text").to_owned();
        (text("token"), text("id"))
    }

    fn restore(&self, to: &str, how: &[&str]) {
        self.done(&[&["restore", "--cold", &self.cold_url(), "--to", to], how].concat());
    }

    /// What the audit log says was done, in its order.
    fn audit(&self, data: &str) -> Vec<String> {
        let dumped = self.done(&["dump", data, "--log", "__everlog/audit", "--json"]);
        let record = |line: &str| -> Value {
            let dumped: Value = serde_json::from_str(line).expect("one JSON object a line");
            serde_json::from_str(dumped["data"].as_str().expect("text")).expect("an audit record")
        };
        dumped.lines().map(|line| record(line)["action"].as_str().expect("text").to_owned()).collect()
    }
}

/// The status of a read of alice's contacts.
fn read(server: &Server, token: &str) -> u16 {
    let headers = [("Authorization", format!("Bearer {token}"))];
    let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    ask(server.address(), "GET", "/v1/stream/users/alice/contacts", &headers, b"").status
}

#[test]
fn an_operator_pairs_lists_and_revokes_and_a_device_syncs() {
    let world = World::new();
    assert_eq!(world.code(&["token", "list", "--data", "store"]), 1, "nobody serves it");
    let server = world.serve("store");
    let code = world.done(&["token", "pair", "--data", "store", "--scope", "users/alice"]);
    let body = serde_json::json!({"code": code.trim(), "device": "phone"}).to_string();
    let paired = ask(server.address(), "POST", "/v1/pair", &[], body.as_bytes());
    assert_eq!(paired.status, 201, "{}", paired.text());
    let given: Value = serde_json::from_slice(&paired.body).expect("JSON");
    let token = given["token"].as_str().expect("text");

    let url = format!("http://{}", server.address());
    world.done(&["device", "init", "phone", "--server", &url, "--user", "alice", "--token", token]);
    let account = fs::metadata(world.path("phone/.everlog/account.json")).expect("it is there");
    assert_eq!(account.mode() & 0o777, 0o600);
    fs::write(world.path("phone/contacts/ada.vcf"), "BEGIN:VCARD\r\nEND:VCARD\r\n").expect("there is room");
    world.done(&["device", "sync", "phone"]);
    let laptop = world.done(&["token", "issue", "--data", "store", "--scope", "users/alice", "--device", "laptop"]);
    world.done(&["device", "init", "laptop", "--server", &url, "--user", "alice", "--token", laptop.trim()]);
    world.done(&["device", "sync", "laptop"]);
    assert!(world.path("laptop/contacts/ada.vcf").exists());
    world.done(&["device", "init", "bob", "--server", &url, "--user", "bob", "--token", token]);
    assert_eq!(world.code(&["device", "sync", "bob"]), 3, "the token is alice's");
    world.done(&["device", "init", "none", "--server", &url, "--user", "alice"]);
    assert_eq!(world.code(&["device", "sync", "none"]), 3, "there is none");

    let listed = world.json(&["token", "list", "--data", "store", "--json"]);
    let devices: Vec<_> =
        listed["tokens"].as_array().expect("a list").iter().map(|one| one["device"].clone()).collect();
    assert_eq!(devices, ["laptop", "phone"]);
    let shown = world.done(&["token", "list", "--data", "store"]);
    assert!(shown.contains("users/alice") && !shown.contains(token), "{shown}");
    let id = given["id"].as_str().expect("text");
    world.done(&["token", "revoke", "--data", "store", id]);
    assert_eq!(world.code(&["device", "sync", "phone"]), 3, "it was revoked");
    assert_eq!(world.code(&["token", "revoke", "--data", "store", id]), 1, "there is none");
    assert_eq!(world.code(&["token", "revoke", "--data", "store", "phone"]), 2);
    let again = ["token", "issue", "--data", "store", "--scope", "users/alice", "--device", "laptop"];
    assert_eq!(world.code(&again), 3, "it has one");
    assert_eq!(world.code(&["token", "issue", "--data", "store", "--scope", "/", "--device", "x"]), 2);
    let (status, log) = server.stop();
    assert!(status.success(), "{log}");
}

#[test]
fn a_store_that_is_taken_back_takes_no_revocation_back() {
    let world = World::new();
    let server = world.serve("store");
    let (revoked, id) = world.issue("store", "phone");
    let headers = [("Authorization", format!("Bearer {revoked}")), ("Everlog-Durability", "cold".to_owned())];
    let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let contacts = "/v1/stream/users/alice/contacts";
    assert_eq!(ask(server.address(), "PUT", contacts, &headers, b"one").status, 201);
    let moment = world.json(&["inspect", "store", "--json"])["end_lsn"].as_u64().expect("a number").to_string();
    assert_eq!(ask(server.address(), "DELETE", contacts, &headers, b"").status, 204, "somebody's mistake");
    world.done(&["token", "revoke", "--data", "store", &id]);
    let (issued, _) = world.issue("store", "laptop");
    server.kill();
    fs::remove_dir_all(world.path("store")).expect("it was there");

    let rewind = ["--as-of", &moment, "--mode", "rewind"];
    world.restore("restored", &rewind);
    let carried = world.path("restored/CARRIED");
    let bytes = fs::read(&carried).expect("it is there until the first open");
    // Begun again, a restore that was not opened does the same once more.
    world.restore("restored", &rewind);
    assert!(fs::read(&carried).expect("it is there").len() == bytes.len());
    // One that cannot be read whole lets nobody in.
    fs::write(&carried, &bytes[..bytes.len() - 70]).expect("it is ours");
    world.refused("restored");
    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2] ^= 1;
    fs::write(&carried, &flipped).expect("it is ours");
    world.refused("restored");
    fs::write(&carried, &bytes).expect("it is ours");

    let before = ["store.open", "token.issue"];
    let since = ["stream.delete", "token.revoke", "token.issue", "store.restore"];
    let mut expected = [&before[..], &since, &["store.open"]].concat();
    for start in 0..3 {
        let server = world.serve("restored");
        assert_eq!(read(&server, &revoked), 401, "start {start}");
        assert_eq!(read(&server, &issued), 200, "start {start}: the contacts are back, and who came since is known");
        assert!(!carried.exists(), "start {start}");
        let (status, log) = server.stop();
        assert!(status.success(), "{log}");
        assert_eq!(world.audit("restored"), expected, "start {start}");
        expected.push("store.open");
        // A crash may leave the file, or bring it back: each record is there once all the same.
        fs::write(&carried, &bytes).expect("there is room");
    }
    // The cold store has it all, so that the next loss does not bring the token back either.
    fs::remove_dir_all(world.path("restored")).expect("it was there");
    world.restore("again", &[]);
    assert!(!world.path("again/CARRIED").exists(), "nothing was taken back");
    let server = world.serve("again");
    assert_eq!((read(&server, &revoked), read(&server, &issued)), (401, 200));
    server.kill();
}

#[test]
fn tokens_are_taken_back_only_where_that_is_said() {
    let world = World::new();
    let server = world.serve("store");
    let (revoked, id) = world.issue("store", "phone");
    let moment = world.json(&["inspect", "store", "--json"])["end_lsn"].as_u64().expect("a number").to_string();
    world.done(&["token", "revoke", "--data", "store", &id]);
    server.kill();
    let rewind = ["--as-of", &moment, "--mode", "rewind", "--tokens-too"];
    world.restore("restored", &rewind);
    assert!(!world.path("restored/CARRIED").exists());
    let server = world.serve("restored");
    assert_eq!(read(&server, &revoked), 404, "it opens, and there are no contacts");
    server.kill();
}

impl World {
    /// A server on this directory ends with 4 before it serves anybody.
    fn refused(&self, data: &str) {
        let mut command = Command::new(Program::Everlogd.path());
        command.args(["--cold", &self.cold_url(), "--allow-dependent-cold", "--auth", "tokens", "--data", data]);
        let listen = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];
        let output = command.args(listen).current_dir(self.scratch.path()).output().expect("everlogd starts");
        assert_eq!(output.status.code(), Some(4), "{}", told(&output));
        assert!(Path::new(&self.path(data)).join("CARRIED").exists());
    }
}
