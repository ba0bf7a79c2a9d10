//! Who is let in, as clients, operators and strangers see it: tokens, pairing, revocation, signed tokens, the socket in the
//! store's directory, and what is written down.

use crate::program::{Ended, Program, ask, everlogd, send};
use everlog::{ReadLimit, ReadOnly};
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

/// A server that ships nothing, and its store.
pub struct Served {
    program: Program,
    pub address: String,
    pub admin: String,
    store: PathBuf,
}

const QUIET: [&str; 6] = ["--data", "store", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];

fn serve_as(scratch: &Path, flags: &[&str], log: &str) -> Served {
    let mut command = everlogd(scratch);
    let mut program = Program::start(command.args(QUIET).arg("--init").args(flags).env("EVERLOG_LOG", log));
    let admin = program.line_with("metrics and health on http://");
    let address = program.line_with("everlogd ready on http://");
    Served { program, address, admin, store: scratch.join("store") }
}

pub fn serve(scratch: &Path) -> Served {
    serve_as(scratch, &["--cold", "none", "--auth", "tokens"], "info")
}

pub fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("there is room for a folder")
}

pub fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("an answer: {answer}"))
}

pub fn header<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let lines = answer.lines().take_while(|line| !line.is_empty());
    lines.filter_map(|line| line.split_once(": ")).find(|(found, _)| *found == name).map(|(_, value)| value)
}

fn body(answer: &str) -> Value {
    let (_, body) = answer.split_once("\r\n\r\n").expect("an answer has a head");
    serde_json::from_str(body).unwrap_or_else(|e| panic!("JSON ({e}): {answer}"))
}

impl Served {
    /// Asks for a stream with more headers.
    pub fn ask(&self, method: &str, stream: &str, headers: &str, body: &str) -> String {
        ask(&self.address, request(method, &format!("/v1/stream/{stream}"), headers, body))
    }

    /// The same, with a token.
    pub fn as_device(&self, token: &str, method: &str, stream: &str, body: &str) -> String {
        self.ask(method, stream, &bearer(token), body)
    }

    fn pair(&self, code: &str, device: Option<&str>) -> String {
        ask(&self.address, request("POST", "/v1/pair", "", &json!({"code": code, "device": device}).to_string()))
    }

    /// Asks as an operator.
    fn operate(&self, method: &str, path: &str, body: &Value) -> String {
        let mut stream = UnixStream::connect(self.store.join("everlogd.sock")).expect("the socket is there");
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let (head, rest) = request(method, path, "", &body)
            .split_once("\r\n")
            .map(|(a, b)| (a.to_owned(), b.to_owned()))
            .expect("a head");
        let text = format!("{head}\r\nHost: x\r\nConnection: close\r\n{rest}");
        stream.write_all(text.as_bytes()).expect("the server reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer
    }

    /// A token, and its id.
    pub fn issue(&self, scope: &str, device: &str) -> (String, String) {
        let answer = self.operate("POST", "/v1/tokens", &json!({"scope": scope, "device": device}));
        assert_eq!(status(&answer), 201, "{answer}");
        let given = body(&answer);
        let text = |name: &str| given[name].as_str().expect("text").to_owned();
        (text("token"), text("id"))
    }

    fn revoke(&self, id: &str) -> String {
        self.operate("DELETE", &format!("/v1/tokens/{id}"), &Value::Null)
    }

    fn code(&self, scope: &str, device: Option<&str>) -> String {
        let answer = self.operate("POST", "/v1/pairings", &json!({"scope": scope, "device": device}));
        assert_eq!(status(&answer), 201, "{answer}");
        body(&answer)["code"].as_str().expect("text").to_owned()
    }

    fn stop(self) -> Ended {
        self.program.terminate();
        let ended = self.program.ended();
        assert_eq!(ended.code, 0, "{}", ended.stderr);
        ended
    }
}

pub fn request(method: &str, path: &str, headers: &str, body: &str) -> String {
    let head = format!("{method} {path} HTTP/1.1\r\nContent-Type: text/plain\r\n{headers}");
    format!("{head}Content-Length: {}\r\n\r\n{body}", body.len())
}

pub fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

#[test]
fn a_stranger_gets_nothing_and_a_device_what_is_its_owners() {
    let dir = scratch();
    let served = serve(dir.path());
    let (alice, _) = served.issue("users/alice", "phone");
    let (bob, _) = served.issue("users/bob", "phone");
    assert!(alice.starts_with("evl_") && alice.len() == 47, "{alice}");
    let created = served.as_device(&alice, "PUT", "users/alice/notes", "one");
    assert_eq!(status(&created), 201, "{created}");
    assert_eq!(header(&created, "cache-control"), Some("no-store"), "{created}");

    let unknown = format!("evl_{}", "A".repeat(43));
    for (headers, challenge) in [
        (String::new(), "Bearer"),
        (bearer(&alice) + &bearer(&alice), "Bearer"),
        (bearer(&alice) + &bearer(&bob), "Bearer"),
        (format!("Authorization: Basic {alice}\r\n"), "Bearer"),
        (format!("Authorization: {alice}\r\n"), "Bearer"),
        (bearer(&unknown), "Bearer error=\"invalid_token\""),
        (bearer(&alice.to_lowercase()), "Bearer error=\"invalid_token\""),
        (bearer(&alice[..alice.len() - 1]), "Bearer error=\"invalid_token\""),
    ] {
        for method in ["GET", "HEAD", "PUT", "POST", "DELETE", "PATCH"] {
            for stream in ["users/alice/notes", "users/alice/none", "__everlog/tokens"] {
                let answer = served.ask(method, stream, &headers, "x");
                assert_eq!(status(&answer), 401, "{method} {stream} {headers}: {answer}");
                assert_eq!(header(&answer, "www-authenticate"), Some(challenge), "{answer}");
                assert_eq!(header(&answer, "everlog-error"), Some("unauthorized"), "{answer}");
                assert_eq!(header(&answer, "vary"), Some("authorization"), "{answer}");
                assert!(header(&answer, "everlog-store").is_some(), "{answer}");
            }
        }
    }
    let in_query = served.ask("GET", &format!("users/alice/notes?token={alice}&access_token={alice}"), "", "");
    assert_eq!(status(&in_query), 401, "{in_query}");

    for stream in ["users/alice/notes", "users/alice", "users", "users/bob2", "other"] {
        for method in ["GET", "HEAD", "PUT", "POST", "DELETE"] {
            let answer = served.as_device(&bob, method, stream, "x");
            assert_eq!(status(&answer), 403, "{method} {stream}: {answer}");
        }
    }
    for stream in ["__everlog/tokens", "__everlog/audit", "__everlogx/y", "__everlog", "%5F_everlog/tokens"] {
        assert_eq!(status(&served.as_device(&alice, "GET", stream, "")), 404, "{stream}");
    }
    let read = served.as_device(&alice, "GET", "users/alice/notes", "");
    assert!(read.ends_with("\r\n\r\none"), "nothing was changed: {read}");
    assert!(header(&read, "cache-control").is_some_and(|kept| kept.contains("private")), "{read}");
    assert_eq!(header(&read, "vary"), Some("accept-encoding, authorization"), "{read}");

    let preflight = served.ask("OPTIONS", "users/alice/notes", "", "");
    assert_eq!(status(&preflight), 204, "{preflight}");
    let allowed = header(&preflight, "access-control-allow-headers").expect("they are named");
    assert!(allowed.split(", ").any(|name| name == "authorization"), "{preflight}");
    served.stop();
}

#[test]
fn a_code_is_good_for_one_token() {
    let dir = scratch();
    let served = serve(dir.path());
    let code = served.code("users/alice", None);
    let paired = served.pair(&code.to_lowercase(), Some("phone"));
    assert_eq!(status(&paired), 201, "{paired}");
    assert_eq!(header(&paired, "cache-control"), Some("no-store"), "{paired}");
    let given = body(&paired);
    assert_eq!((&given["scope"], &given["device"]), (&json!("users/alice"), &json!("phone")));
    let token = given["token"].as_str().expect("text");
    assert_eq!(status(&served.as_device(token, "PUT", "users/alice/notes", "")), 201);
    assert_eq!(status(&served.pair(&code, Some("laptop"))), 403, "it was used");

    let code = served.code("users/alice", Some("laptop"));
    assert_eq!(status(&served.pair(&code, Some("tablet"))), 409, "it is for another device");
    assert_eq!(status(&served.pair(&code, None)), 201, "and good still");

    let code = served.code("users/alice", None);
    assert_eq!(status(&served.pair(&code, None)), 400);
    let taken = served.pair(&code, Some("phone"));
    assert_eq!(status(&taken), 409, "another device of the owner has that name: {taken}");
    assert_eq!(status(&served.pair(&code, Some("watch"))), 201);

    for odd in ["", "{", "{\"code\":7}", "[]"] {
        assert_eq!(status(&ask(&served.address, request("POST", "/v1/pair", "", odd))), 400, "{odd}");
    }
    assert_eq!(status(&ask(&served.address, request("GET", "/v1/pair", "", ""))), 405);
    // Those who guess are told to wait, and so is who knows.
    let code = served.code("users/bob", None);
    let mut refused = served.pair("00000-00000", Some("x"));
    for _ in 0..50 {
        if status(&refused) == 429 {
            break;
        }
        assert_eq!(status(&refused), 403, "{refused}");
        refused = served.pair("00000-00000", Some("x"));
    }
    let known = served.pair(&code, Some("phone"));
    assert_eq!(status(&known), 429, "{known}");
    let wait: u64 = header(&known, "retry-after").and_then(|s| s.parse().ok()).expect("it is told how long");
    assert!((1..=61).contains(&wait), "{known}");
    served.stop();
}

/// The lines of a live read, up to the first with `what`.
fn until(reader: &mut BufReader<TcpStream>, what: &str) {
    let mut line = String::new();
    while !line.contains(what) {
        line.clear();
        assert!(reader.read_line(&mut line).expect("it goes on") > 0, "it ended before {what}");
    }
}

#[test]
fn what_is_revoked_opens_nothing_from_that_moment_on() {
    let dir = scratch();
    let served = serve(dir.path());
    let (token, id) = served.issue("users/alice", "phone");
    let (other, _) = served.issue("users/alice", "laptop");
    let created = served.as_device(&token, "PUT", "users/alice/notes", "one");
    let end = header(&created, "stream-next-offset").expect("it says where it ends").to_owned();
    let live = |token: &str, query: &str| {
        let path = format!("/v1/stream/users/alice/notes?{query}");
        BufReader::new(send(&served.address, format!("GET {path} HTTP/1.1\r\nHost: x\r\n{}\r\n", bearer(token))))
    };
    let (mut events, mut others) = (live(&token, "offset=-1&live=sse"), live(&other, "offset=-1&live=sse"));
    let mut poll = live(&token, &format!("offset={end}&live=long-poll"));
    for reader in [&mut events, &mut others] {
        until(reader, "upToDate");
    }
    let revoked = served.revoke(&id);
    assert_eq!(status(&revoked), 200, "{revoked}");
    // The patience of these reads is shorter than what a long poll or events would last by themselves.
    until(&mut events, "\r\n");
    let mut rest = String::new();
    loop {
        rest.clear();
        assert!(events.read_line(&mut rest).expect("it ends by itself") > 0);
        assert!(!rest.contains("data:"), "{rest}");
        if rest == "0\r\n" {
            break;
        }
    }
    let mut line = String::new();
    poll.read_line(&mut line).expect("it is answered");
    assert!(line.starts_with("HTTP/1.1 401 "), "{line}");
    assert_eq!(status(&served.as_device(&token, "GET", "users/alice/notes", "")), 401);
    assert_eq!(status(&served.revoke(&id)), 404, "it is gone");
    let appended = served.as_device(&other, "POST", "users/alice/notes", "two");
    assert_eq!(status(&appended), 204, "{appended}");
    until(&mut others, "two");
    drop((events, others, poll));
    served.stop();
}

#[test]
fn what_is_half_sent_when_its_token_is_revoked_is_not_carried_out() {
    let dir = scratch();
    let served = serve(dir.path());
    let (token, id) = served.issue("users/alice", "phone");
    let (other, _) = served.issue("users/alice", "tablet");
    assert_eq!(status(&served.as_device(&token, "PUT", "users/alice/notes", "one")), 201);
    let begin = |(method, stream): &(&str, &str)| {
        let headers = bearer(&token) + "Connection: close\r\n";
        let whole = request(method, &format!("/v1/stream/{stream}"), &headers, "two");
        let mut half = TcpStream::connect(&served.address).expect("it listens");
        half.write_all(&whole.as_bytes()[..whole.len() - 1]).expect("the server reads");
        half
    };
    let halves: Vec<TcpStream> =
        [("POST", "users/alice/notes"), ("PUT", "users/alice/more")].iter().map(begin).collect();
    // The server has let them in by now, or will not any more: either is right.
    assert_eq!(status(&served.revoke(&id)), 200);
    for mut half in halves {
        // It may have answered and closed before the rest comes.
        let _ = half.write_all(b"o");
        let mut answer = String::new();
        let _ = half.read_to_string(&mut answer);
        assert!(answer.is_empty() || status(&answer) == 401, "{answer}");
    }
    assert!(served.as_device(&other, "GET", "users/alice/notes", "").ends_with("\r\n\r\none"));
    assert_eq!(status(&served.as_device(&other, "HEAD", "users/alice/more", "")), 404);
}

#[test]
fn tokens_and_revocations_outlive_the_server() {
    let dir = scratch();
    let served = serve(dir.path());
    let (kept, _) = served.issue("users/alice", "phone");
    let (gone, id) = served.issue("users/alice", "laptop");
    assert_eq!(status(&served.as_device(&kept, "PUT", "users/alice/notes", "one")), 201);
    assert_eq!(status(&served.revoke(&id)), 200);
    let code = served.code("users/alice", None);
    // It is killed, and leaves its socket behind.
    drop(served);
    assert!(dir.path().join("store/everlogd.sock").exists());
    for _ in 0..2 {
        let served = serve(dir.path());
        assert_eq!(status(&served.as_device(&kept, "GET", "users/alice/notes", "")), 200);
        assert_eq!(status(&served.as_device(&gone, "GET", "users/alice/notes", "")), 401);
        assert_eq!(status(&served.pair(&code, Some("watch"))), 403, "codes do not");
        let listed = body(&served.operate("GET", "/v1/tokens", &Value::Null));
        assert_eq!(listed["tokens"].as_array().map(Vec::len), Some(1), "{listed}");
        assert_eq!(listed["tokens"][0]["device"], "phone");
        served.stop();
    }
}

#[test]
fn the_socket_is_the_owners_alone() {
    let dir = scratch();
    let served = serve(dir.path());
    let path = served.store.join("everlogd.sock");
    let there = std::fs::symlink_metadata(&path).expect("it is there");
    assert!(there.file_type().is_socket());
    assert_eq!(there.mode() & 0o777, 0o600);
    // Nothing of it is served anywhere else.
    for address in [&served.admin, &served.address] {
        for (method, path) in [("GET", "/v1/tokens"), ("POST", "/v1/tokens"), ("POST", "/v1/pairings")] {
            let answer = ask(address, request(method, path, "", "{\"scope\":\"users/alice\",\"device\":\"x\"}"));
            assert!(matches!(status(&answer), 401 | 404 | 405), "{method} {path}: {answer}");
        }
    }
    for (scope, device) in [("", "x"), ("__everlog", "x"), ("users/alice", ""), ("users/alice", "a\nb"), ("a//b", "x")]
    {
        let answer = served.operate("POST", "/v1/tokens", &json!({"scope": scope, "device": device}));
        assert_eq!(status(&answer), 400, "{scope:?} {device:?}: {answer}");
    }
    assert_eq!(status(&served.operate("DELETE", "/v1/tokens/x", &Value::Null)), 400);
    assert_eq!(status(&served.operate("PUT", "/v1/tokens", &Value::Null)), 405);
    served.stop();
    assert!(!path.exists(), "it goes at a clean end");

    // What is no socket is nobody's to replace.
    std::fs::write(&path, "mine").expect("nothing is there");
    let ended = Program::start(everlogd(dir.path()).args(QUIET).args(["--cold", "none"])).ended();
    assert_eq!(ended.code, 5, "{}", ended.stderr);
    assert_eq!(std::fs::read(&path).expect("it is there"), b"mine");
}

#[test]
fn without_auth_there_are_no_tokens_and_nothing_is_written_down() {
    let dir = scratch();
    let served = serve_as(dir.path(), &["--cold", "none"], "info");
    assert_eq!(status(&served.ask("PUT", "users/alice/notes", "", "one")), 201);
    assert_eq!(status(&served.ask("DELETE", "users/alice/notes", "", "")), 204);
    assert_eq!(status(&served.ask("PUT", "__everlog/tokens", "", "one")), 404);
    assert_eq!(status(&served.pair("00000-00000", Some("x"))), 404);
    let refused = served.operate("POST", "/v1/tokens", &json!({"scope": "users/alice", "device": "x"}));
    assert_eq!(status(&refused), 409, "{refused}");
    served.stop();
    let store = ReadOnly::open(dir.path().join("store")).expect("it was closed");
    assert!(store.list("__everlog", None, 10).expect("names").is_empty());
}

#[test]
fn no_secret_stands_in_the_log() {
    for format in ["text", "json"] {
        let dir = scratch();
        let flags = ["--cold", "none", "--auth", "tokens", "--log-format", format];
        let served = serve_as(dir.path(), &flags, "trace");
        let (token, id) = served.issue("users/alice", "phone");
        let code = served.code("users/alice", None);
        let paired = body(&served.pair(&code, Some("laptop")));
        let second = paired["token"].as_str().expect("text").to_owned();
        for token in [&token, &second] {
            served.as_device(token, "PUT", "users/alice/notes", "one");
            served.as_device(token, "GET", "users/alice/notes", "");
            served.as_device(token, "GET", "users/bob/notes", "");
            served.ask("GET", "users/alice/notes", &(bearer(token) + &bearer(token)), "");
        }
        served.pair(&code, Some("tablet"));
        served.revoke(&id);
        served.as_device(&token, "GET", "users/alice/notes", "");
        let told = served.stop().stderr;
        assert!(told.contains("issued a token") && told.contains(&id), "the log tells of it: {told}");
        for secret in [token.as_str(), &second, &token[4..], &code, &code.replace('-', "")] {
            assert!(!told.contains(secret), "{secret} in {told}");
        }
    }
}

#[test]
fn no_device_goes_on_with_or_fences_the_producer_of_another_but_for_uploads() {
    let dir = scratch();
    let served = serve(dir.path());
    let (phone, _) = served.issue("users/alice", "phone");
    let (laptop, _) = served.issue("users/alice", "laptop");
    let append = |token: &str, stream: &str, epoch: u64, seq: u64, content: &str| {
        let numbers = format!("Producer-Id: me\r\nProducer-Epoch: {epoch}\r\nProducer-Seq: {seq}\r\n");
        status(&served.ask("POST", stream, &(bearer(token) + &numbers), content))
    };
    for stream in ["users/alice/notes", "users/alice/photos/me"] {
        assert_eq!(status(&served.as_device(&phone, "PUT", stream, "")), 201);
    }
    let notes = "users/alice/notes";
    assert_eq!(append(&phone, notes, 0, 0, "one"), 200);
    assert_eq!(append(&laptop, notes, 0, 0, "two"), 200, "another one's number");
    assert_eq!(append(&laptop, notes, 7, 0, "three"), 200);
    assert_eq!(append(&phone, notes, 0, 1, "four"), 200, "it is not fenced");
    assert_eq!(append(&phone, notes, 0, 0, "one"), 204, "its own repetition");
    let photo = "users/alice/photos/me";
    assert_eq!(append(&phone, photo, 0, 0, "half"), 200);
    assert_eq!(append(&laptop, photo, 0, 0, "half"), 204, "an upload is the owner's");
    assert_eq!(append(&laptop, photo, 0, 1, "rest"), 200);
    served.stop();
}

#[test]
fn who_did_what_is_written_down() {
    let dir = scratch();
    let served = serve(dir.path());
    let (token, id) = served.issue("users/alice", "phone");
    assert_eq!(status(&served.as_device(&token, "PUT", "users/alice/notes", "one")), 201);
    assert_eq!(status(&served.as_device(&token, "DELETE", "users/alice/notes", "")), 204);
    assert_eq!(status(&served.as_device(&token, "DELETE", "users/alice/notes", "")), 404);
    assert_eq!(status(&served.revoke(&id)), 200);
    served.stop();
    let store = ReadOnly::open(dir.path().join("store")).expect("it was closed");
    let page = store.read("__everlog/audit", 0, ReadLimit::default()).expect("it is there");
    let records: Vec<Value> =
        page.records.iter().map(|record| serde_json::from_slice(&record.payload).expect("JSON")).collect();
    let told: Vec<_> = records.iter().map(|record| (record["action"].as_str(), record["outcome"].as_str())).collect();
    let done = Some("done");
    let expected = [
        (Some("store.open"), Some("clean")),
        (Some("token.issue"), done),
        (Some("stream.delete"), done),
        (Some("token.revoke"), done),
    ];
    assert_eq!(told, expected, "{records:?}");
    assert_eq!(records[2]["actor"], format!("token {id} (phone)"));
    assert_eq!(records[2]["target"], "users/alice/notes");
    assert!(records[3]["actor"].as_str().is_some_and(|actor| actor.starts_with("operator (uid ")), "{records:?}");
    assert!(records.iter().all(|record| record["time_us"].as_u64() > Some(0)));
    let all =
        page.records.iter().map(|record| String::from_utf8_lossy(&record.payload).into_owned()).collect::<String>();
    assert!(!all.contains(&token[4..]), "{all}");
}

#[test]
fn what_cannot_become_cold_is_not_given_out_and_a_revocation_holds_all_the_same() {
    let dir = scratch();
    std::fs::write(dir.path().join("everlog.toml"), "append_ms = 700").expect("there is room");
    let flags = ["--cold", "file://cold", "--allow-dependent-cold", "--auth", "tokens"];
    let served = serve_as(dir.path(), &flags, "info");
    let (token, id) = served.issue("users/alice", "phone");
    assert_eq!(status(&served.as_device(&token, "PUT", "users/alice/notes", "one")), 201);
    // The cold store is out of reach.
    let (cold, away) = (dir.path().join("cold"), dir.path().join("away"));
    std::fs::rename(&cold, &away).expect("it is there");
    std::fs::write(&cold, "").expect("nothing is there");
    let issued = served.operate("POST", "/v1/tokens", &json!({"scope": "users/alice", "device": "laptop"}));
    assert_eq!(status(&issued), 503, "{issued}");
    assert!(!issued.contains("evl_"), "{issued}");
    let code = served.code("users/bob", None);
    let paired = served.pair(&code, Some("phone"));
    assert_eq!(status(&paired), 503, "{paired}");
    let revoked = served.revoke(&id);
    assert_eq!(status(&revoked), 503, "{revoked}");
    assert!(revoked.contains("a restart may bring it back"), "{revoked}");
    assert_eq!(status(&served.as_device(&token, "GET", "users/alice/notes", "")), 401, "at once");
    let listed = body(&served.operate("GET", "/v1/tokens", &Value::Null));
    assert_eq!(listed["tokens"].as_array().map(Vec::len), Some(1), "{listed}");
    assert_eq!((&listed["tokens"][0]["id"], &listed["tokens"][0]["state"]), (&json!(id), &json!("revoking")));
    std::fs::remove_file(&cold).expect("it is ours");
    std::fs::rename(&away, &cold).expect("it is ours");
    // The code leads to a token still, and the revocation can be asked for again. The cold store is tried again by itself.
    let mut paired = served.pair(&code, Some("phone"));
    while status(&paired) == 503 {
        paired = served.pair(&code, Some("phone"));
    }
    assert_eq!(status(&paired), 201, "{paired}");
    assert_eq!(status(&served.revoke(&id)), 200);
    served.stop();
}

/// A token that a test signs.
fn signed(key: &Ed25519KeyPair, kid: &str, scope: &str, exp: u64) -> String {
    use base64::Engine;
    let encode = |text: &[u8]| base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(text);
    let header = encode(json!({"alg": "EdDSA", "kid": kid}).to_string().as_bytes());
    let claims = json!({"sub": "alice", "device": "phone", "scope": scope, "exp": exp});
    let message = format!("{header}.{}", encode(claims.to_string().as_bytes()));
    let signature = encode(key.sign(message.as_bytes()).as_ref());
    format!("{message}.{signature}")
}

/// A key, and the set that holds it alone.
fn key(kid: &str) -> (Ed25519KeyPair, String) {
    use base64::Engine;
    let random = ring::rand::SystemRandom::new();
    let bytes = Ed25519KeyPair::generate_pkcs8(&random).expect("random numbers");
    let key = Ed25519KeyPair::from_pkcs8(bytes.as_ref()).expect("just made");
    let x = base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(key.public_key());
    let set = json!({"keys": [{"kty": "OKP", "crv": "Ed25519", "kid": kid, "x": x}]}).to_string();
    (key, set)
}

#[test]
fn signed_tokens_are_let_in_until_they_end() {
    let dir = scratch();
    let (old, set) = key("old");
    std::fs::write(dir.path().join("keys.json"), set).expect("there is room");
    let settings = "auth = \"jwt\"\njwks = \"keys.json\"\njwt_algorithm = \"EdDSA\"";
    std::fs::write(dir.path().join("everlog.toml"), settings).expect("there is room");
    let mut served = serve_as(dir.path(), &["--cold", "none"], "info");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("it is later").as_secs();
    let token = signed(&old, "old", "users/alice", now + 600);
    assert_eq!(status(&served.as_device(&token, "PUT", "users/alice/notes", "one")), 201);
    assert_eq!(status(&served.as_device(&token, "GET", "users/bob/notes", "")), 403);
    let expired = served.as_device(&signed(&old, "old", "users/alice", now - 60), "GET", "users/alice/notes", "");
    assert_eq!(status(&expired), 401);
    assert_eq!(header(&expired, "www-authenticate"), Some("Bearer error=\"invalid_token\""), "{expired}");
    assert_eq!(status(&served.ask("GET", "users/alice/notes", "", "")), 401);
    // One that ends in the midst of events ends them.
    let ending = signed(&old, "old", "users/alice", now - 27);
    let path = "/v1/stream/users/alice/notes?offset=-1&live=sse";
    let live = send(&served.address, format!("GET {path} HTTP/1.1\r\nHost: x\r\n{}\r\n", bearer(&ending)));
    let mut events = BufReader::new(live);
    until(&mut events, "upToDate");
    until(&mut events, "0\r\n");

    let (new, set) = key("new");
    std::fs::write(dir.path().join("keys.json"), set).expect("it is ours");
    let token = signed(&new, "new", "users/alice", now + 600);
    assert_eq!(status(&served.as_device(&token, "GET", "users/alice/notes", "")), 401, "an unknown key");
    served.program.hang_up();
    served.program.line_with("read the keys of tokens");
    assert_eq!(status(&served.as_device(&token, "GET", "users/alice/notes", "")), 200);
    served.stop();

    for (file, code) in [("{", 2), ("{\"keys\":[]}", 2)] {
        std::fs::write(dir.path().join("keys.json"), file).expect("it is ours");
        let ended = Program::start(everlogd(dir.path()).args(QUIET).args(["--cold", "none"])).ended();
        assert_eq!(ended.code, code, "{file}: {}", ended.stderr);
    }
}
