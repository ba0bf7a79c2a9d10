//! Cold stores as clients and operators of the server see them: how safe an append is, up to where a stream is verified,
//! what is refused.

use crate::program::{Program, ask, everlogd};
use std::path::Path;

struct Served {
    program: Program,
    address: String,
    admin: String,
}

/// A server on `store`, shipping to the folder `cold`, both in `scratch`.
fn serve(scratch: &Path, flags: &[&str]) -> Served {
    let mut program = Program::start(everlogd(scratch).args(QUIET).args(flags));
    let admin = program.line_with("metrics and health on http://");
    let address = program.line_with("everlogd ready on http://");
    Served { program, address, admin }
}

const QUIET: [&str; 8] =
    ["--data", "store", "--cold", "file://cold", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"];

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("there is room for a folder")
}

impl Served {
    fn ask(&self, method: &str, query: &str, headers: &str, body: &str) -> String {
        let len = body.len();
        let head = format!("{method} /v1/stream/notes{query} HTTP/1.1\r\nContent-Type: text/plain\r\n");
        ask(&self.address, format!("{head}{headers}Content-Length: {len}\r\n\r\n{body}"))
    }

    fn stop(self) {
        self.program.terminate();
        let ended = self.program.ended();
        assert_eq!(ended.code, 0, "{}", ended.stderr);
    }
}

fn header<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let lines = answer.lines().take_while(|line| !line.is_empty());
    lines.filter_map(|line| line.split_once(": ")).find(|(found, _)| *found == name).map(|(_, value)| value)
}

const COLD: &str = "Everlog-Durability: cold\r\n";

#[test]
fn an_append_is_as_safe_as_was_asked_and_readers_are_told_up_to_where_the_stream_is() {
    let dir = scratch();
    let served = serve(dir.path(), &["--init", "--allow-dependent-cold"]);
    let created = served.ask("PUT", "", "", "one");
    assert_eq!(header(&created, "everlog-durability"), Some("local"), "{created}");
    let appended = served.ask("POST", "", COLD, "two");
    assert_eq!(header(&appended, "everlog-durability"), Some("cold"), "{appended}");
    let end = header(&appended, "stream-next-offset").expect("it says where the stream ends").to_owned();
    let live = "?offset=-1&live=long-poll";
    for (method, query) in [("HEAD", ""), ("GET", ""), ("GET", live)] {
        let answer = served.ask(method, query, "", "");
        assert_eq!(header(&answer, "everlog-cold-offset"), Some(end.as_str()), "{answer}");
    }
    let producer = "Producer-Id: me\r\nProducer-Epoch: 0\r\nProducer-Seq: 0\r\n";
    let numbered = served.ask("POST", "", producer, "three");
    assert!(numbered.starts_with("HTTP/1.1 200 "), "{numbered}");
    let again = served.ask("POST", "", &format!("{producer}{COLD}"), "three");
    assert!(again.starts_with("HTTP/1.1 204 "), "{again}");
    assert_eq!(header(&again, "everlog-durability"), Some("cold"), "a repetition is as safe as was asked: {again}");
    let closed = served.ask("POST", "", &format!("{COLD}Stream-Closed: true\r\n"), "four");
    assert!(closed.starts_with("HTTP/1.1 204 "), "{closed}");
    let late = served.ask("POST", "", COLD, "five");
    assert!(late.starts_with("HTTP/1.1 409 "), "{late}");
    let events = served.ask("GET", "?offset=-1&live=sse", "", "");
    let end = header(&closed, "stream-next-offset").expect("it says where the stream ends");
    assert!(events.contains(&format!("\"everlogColdOffset\":\"{end}\"")), "{events}");
    let deleted = served.ask("DELETE", "", COLD, "");
    assert_eq!(header(&deleted, "everlog-durability"), Some("cold"), "{deleted}");
    let odd = served.ask("POST", "", "Everlog-Durability: frozen\r\n", "two");
    assert!(odd.starts_with("HTTP/1.1 400 "), "{odd}");

    let metrics = ask(&served.admin, "GET /metrics HTTP/1.1\r\n\r\n");
    for name in ["everlog_cold_lag_seconds{store=\"file://", "everlog_ack_seconds_count{level=\"cold\"} 4"] {
        assert!(metrics.contains(name), "{name} in {metrics}");
    }
    served.stop();
}

#[test]
fn what_holds_every_append_back_is_why_the_server_is_not_ready() {
    let dir = scratch();
    std::fs::write(dir.path().join("everlog.toml"), "cold_lag_max_ms = 1\n").expect("a new file");
    let served = serve(dir.path(), &["--init", "--allow-dependent-cold"]);
    let ready = || ask(&served.admin, "GET /readyz HTTP/1.1\r\n\r\n");
    let until = |word: &str| {
        let told = (0..10_000).map(|_| ready()).find(|told| told.contains(word));
        told.unwrap_or_else(|| panic!("{word}: {}", ready()))
    };
    until("appends are taken");
    let (cold, away) = (dir.path().join("cold"), dir.path().join("away"));
    std::fs::rename(&cold, &away).expect("it is there");
    std::fs::write(&cold, "no folder").expect("a new file");
    assert!(served.ask("PUT", "", "", "one").starts_with("HTTP/1.1 201 "), "nothing waited to be shipped");
    let told = until("the cold store is");
    assert!(told.starts_with("HTTP/1.1 503 ") && told.contains("behind"), "{told}");
    assert!(ask(&served.admin, "GET /status HTTP/1.1\r\n\r\n").contains("\"ready\": false"));
    std::fs::remove_file(&cold).expect("it is there");
    std::fs::rename(&away, &cold).expect("nothing is there");
    until("appends are taken");
    served.stop();
}

#[test]
fn a_folder_beside_the_data_counts_only_where_that_is_said() {
    let dir = scratch();
    let served = serve(dir.path(), &["--init"]);
    let created = served.ask("PUT", "", "", "one");
    assert_eq!(header(&created, "everlog-durability"), Some("local"), "{created}");
    let refused = served.ask("POST", "", COLD, "two");
    assert!(refused.starts_with("HTTP/1.1 400 "), "{refused}");
    let read = served.ask("GET", "", "", "");
    assert!(read.ends_with("\r\n\r\none"), "nothing was stored: {read}");
    assert_eq!(header(&read, "everlog-cold-offset"), None, "{read}");
    let status = ask(&served.admin, "GET /status HTTP/1.1\r\n\r\n");
    assert!(status.contains("\"counts\": false"), "{status}");
    served.stop();
}

#[test]
fn a_lost_directory_or_cold_store_is_not_begun_anew_unasked() {
    let dir = scratch();
    let served = serve(dir.path(), &["--init"]);
    let _ = served.ask("PUT", "", "", "one");
    served.stop();
    let refused = |flags: &[&str], words: &str| {
        let ended = Program::start(everlogd(dir.path()).args(QUIET).args(flags)).ended();
        assert_eq!(ended.code, 3, "{}", ended.stderr);
        assert!(ended.stderr.contains(words), "{words} in {}", ended.stderr);
    };
    let (store, cold) = (dir.path().join("store"), dir.path().join("cold"));
    std::fs::rename(&store, dir.path().join("away")).expect("nobody has it open");
    refused(&["--init"], "everlog restore --cold file://");
    refused(&[], "everlog restore");
    assert!(!store.exists(), "nothing was created");

    std::fs::rename(dir.path().join("away"), &store).expect("nothing is there");
    std::fs::remove_dir_all(&cold).expect("it is there");
    refused(&[], "--cold-lost");
    assert!(!cold.exists(), "nothing was put there");
    serve(dir.path(), &["--cold-lost"]).stop();
    serve(dir.path(), &[]).stop();
}
