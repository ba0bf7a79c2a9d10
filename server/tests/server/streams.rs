//! Streams as a client sees them, where the protocol's own suite does not look: conditions on the end, positions of
//! another history, streams that are deleted and created again, characters in pieces, who closed a stream.

use crate::program::{Program, QUIET, ask, everlogd};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// A server over a new store.
struct Served {
    scratch: tempfile::TempDir,
    program: Option<Program>,
    address: String,
}

/// An answer in its parts.
#[derive(Debug)]
struct Answer {
    status: u16,
    headers: HashMap<String, String>,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

impl Served {
    fn new() -> Self {
        // On the disk that the build is on, and not in a memory file system that refuses direct writes.
        let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("there is room for a folder");
        std::fs::write(scratch.path().join("everlog.toml"), "sse_ms = 400\nlong_poll_ms = 400\n").expect("written");
        let mut served = Self { scratch, program: None, address: String::new() };
        served.start();
        served
    }

    fn start(&mut self) {
        let mut command = everlogd(self.scratch.path());
        let mut program = Program::start(command.args(QUIET).args(["--init", "--data", "store"]));
        self.address = program.line_with("everlogd ready on http://");
        self.program = Some(program);
    }

    fn stop(&mut self) {
        let program = self.program.take().expect("it runs");
        program.terminate();
        assert_eq!(program.ended().code, 0);
    }

    fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        ask_at(&self.address, method, path, headers, body)
    }

    /// Creates a stream; the content type is short.
    fn create(&self, path: &str, content_type: &str) -> Answer {
        self.ask("PUT", path, &[("Content-Type", content_type)], b"")
    }

    fn append(&self, path: &str, content_type: &str, more: &[(&str, &str)], body: &[u8]) -> Answer {
        self.ask("POST", path, &[&[("Content-Type", content_type)], more].concat(), body)
    }

    fn get(&self, path: &str, query: &str) -> Answer {
        self.ask("GET", &format!("{path}{query}"), &[], b"")
    }
}

fn ask_at(address: &str, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    let mut request = format!("{method} /v1/stream/{path} HTTP/1.1\r\nContent-Length: {}\r\n", body.len()).into_bytes();
    headers.iter().for_each(|(name, value)| request.extend(format!("{name}: {value}\r\n").bytes()));
    request.extend_from_slice(b"\r\n");
    request.extend_from_slice(body);
    let answer = ask(address, request);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("an answer: {answer}"));
    let mut lines = head.lines();
    let status = lines.next().and_then(|line| line.split(' ').nth(1)).and_then(|code| code.parse().ok());
    let headers =
        lines.filter_map(|line| line.split_once(": ")).map(|(name, value)| (name.to_owned(), value.to_owned()));
    Answer { status: status.expect("a status"), headers: headers.collect(), body: body.to_owned() }
}

#[test]
fn an_append_can_be_bound_to_the_end_it_expects() {
    let served = Served::new();
    let start = served.create("a", "text/plain").header("stream-next-offset").to_owned();
    let numbered = [("Producer-Id", "p"), ("Producer-Epoch", "0"), ("Producer-Seq", "0")];
    let bound = [&numbered[..], &[("Everlog-Expect-Offset", &start)]].concat();
    let first = served.append("a", "text/plain", &bound, b"one");
    assert_eq!((first.status, first.header("everlog-durability")), (200, "local"));
    let end = first.header("stream-next-offset").to_owned();
    assert_eq!(served.append("a", "text/plain", &bound, b"one").status, 204, "a repetition is told before the end is");
    let refused = served.append("a", "text/plain", &[("Everlog-Expect-Offset", &start)], b"two");
    assert_eq!((refused.status, refused.header("stream-next-offset")), (412, &*end));
    let conflict = served.append("a", "text/plain", &numbered, b"other");
    assert_eq!((conflict.status, conflict.header("everlog-error")), (409, "producer-conflict"));
    let next =
        [("Producer-Id", "p"), ("Producer-Epoch", "0"), ("Producer-Seq", "1"), ("Everlog-Expect-Offset", &*start)];
    assert_eq!(served.append("a", "text/plain", &next, b"two").status, 412);
    assert_eq!(served.append("a", "text/plain", &next[..3], b"two").status, 200, "the refusal took no number");
    assert_eq!(served.get("a", "").body, "onetwo");
}

#[test]
fn whoever_saw_more_than_a_store_put_back_is_told_also_once_it_was_overtaken() {
    let mut served = Served::new();
    let store = served.create("a", "text/plain").header("everlog-store").to_owned();
    let kept = served.append("a", "text/plain", &[], b"1").header("stream-next-offset").to_owned();
    served.stop();
    let (data, copy) = (served.scratch.path().join("store"), served.scratch.path().join("copy"));
    let copied = |from: &std::path::Path, to: &std::path::Path| {
        let status = std::process::Command::new("cp").arg("-r").arg(from).arg(to).status();
        assert!(status.expect("cp is there").success());
    };
    copied(&data, &copy);
    served.start();
    let lost = served.append("a", "text/plain", &[], b"2").header("stream-next-offset").to_owned();
    assert_eq!(served.get("a", &format!("?offset={kept}")).body, "2", "a restart leaves offsets valid");
    served.stop();
    std::fs::remove_dir_all(&data).expect("removed");
    copied(&copy, &data);
    served.start();
    for record in [b"x", b"y", b"z"] {
        assert_eq!(served.append("a", "text/plain", &[], record).status, 204);
    }
    for live in ["", "&live=long-poll", "&live=sse"] {
        let answer = served.get("a", &format!("?offset={lost}{live}"));
        assert_eq!((answer.status, answer.header("everlog-error")), (410, "timeline"), "{live}");
        assert_eq!((answer.header("everlog-cut"), answer.header("everlog-store")), (&*kept, &*store));
    }
    assert_eq!(served.get("a", &format!("?offset={kept}")).body, "xyz");
    let bound = served.append("a", "text/plain", &[("Everlog-Expect-Offset", &lost)], b"3");
    assert_eq!(bound.status, 412, "the same number on another history is another end");
}

#[test]
fn a_stream_created_again_is_never_taken_for_the_one_before() {
    let served = Served::new();
    let (stop, address) = (AtomicBool::new(false), served.address.clone());
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::SeqCst) {
                    let answer = ask_at(&address, "GET", "a", &[], b"");
                    let framed = answer.body.starts_with('[') && answer.body.ends_with(']');
                    let json = answer.header("content-type") == "application/json";
                    assert!(answer.status == 404 || json == framed, "{answer:?}");
                }
            });
        }
        for round in 0..150 {
            let (content_type, other, body) = match round % 2 {
                0 => ("application/json", "text/plain", &b"{\"n\":1}"[..]),
                _ => ("text/plain", "application/json", &b"text"[..]),
            };
            let created = served.create("a", content_type);
            assert_eq!(created.status, 201, "{created:?}");
            assert_eq!(served.append("a", other, &[], body).status, 409);
            assert_eq!(served.append("a", content_type, &[], body).status, 204, "round {round}");
            assert_eq!(served.ask("DELETE", "a", &[], b"").status, 204);
        }
        stop.store(true, Ordering::SeqCst);
    });
}

#[test]
fn a_character_in_two_records_reaches_a_reader_of_events_whole() {
    let served = Served::new();
    served.create("a", "text/plain");
    // As large as a page of its own, and ending within a character.
    let mut large = vec![b'a'; (1 << 20) - 1];
    large.push(0xc3);
    assert_eq!(served.append("a", "text/plain", &[], &large).status, 204);
    let waiting = served.get("a", "?offset=-1&live=sse");
    assert!(waiting.body.contains("event: control") && !waiting.body.contains("event: data"), "it waits for the rest");
    assert_eq!(served.append("a", "text/plain", &[], &[0xbc, b'!']).status, 204);
    let read = served.get("a", "?offset=-1&live=sse");
    assert!(read.body.contains("a\u{fc}!\n"), "{} bytes", read.body.len());
    assert!(read.body.contains("\"upToDate\":true"));
    // A stream that is closed within a character can never be told as text, and says so instead of nothing for ever.
    let closed = served.append("a", "text/plain", &[("Stream-Closed", "true")], &[0xc3]);
    let end = served.get("a", "?offset=-1&live=sse");
    assert!(!end.body.contains("streamClosed"));
    let next = end.body.rsplit("streamNextOffset\":\"").next().expect("one part at least")[..33].to_owned();
    assert_ne!(next, closed.header("stream-next-offset"));
    assert_eq!(served.get("a", &format!("?offset={next}&live=sse")).status, 406);
    assert_eq!(served.get("a", &format!("?offset={next}")).header("stream-closed"), "true");
}

#[test]
fn only_the_request_that_closed_a_stream_is_answered_as_such() {
    let served = Served::new();
    served.create("a", "text/plain");
    let number = [("Producer-Id", "p"), ("Producer-Epoch", "0"), ("Producer-Seq", "0")];
    let closing = [&number[..], &[("Stream-Closed", "true")]].concat();
    assert_eq!(served.append("a", "text/plain", &number, b"A0").status, 200);
    let repeated = served.append("a", "text/plain", &closing, b"A0");
    assert_eq!((repeated.status, repeated.header("stream-closed")), (409, ""), "another request than the first");
    assert_eq!(served.ask("POST", "a", &[("Stream-Closed", "true")], b"").status, 204, "somebody else closes it");
    assert_eq!(served.append("a", "text/plain", &closing, b"other").status, 409, "its content is not there");

    served.create("b", "text/plain");
    assert_eq!(served.append("b", "text/plain", &closing, b"last").status, 200);
    let again = served.append("b", "text/plain", &closing, b"other");
    assert_eq!((again.status, again.header("stream-closed")), (204, "true"), "the protocol wants it so");
    assert_eq!(served.get("b", "").body, "last");
}
