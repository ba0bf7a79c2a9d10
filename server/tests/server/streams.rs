//! Streams as a client sees them, where the protocol's own suite does not look: conditions on the end, positions of
//! another history, streams that are deleted and created again, characters in pieces, who closed a stream.

use crate::program::send;
use crate::served::{self, Answer};
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// A server over a new store, asked for streams of any content.
pub struct Served(served::Served);

impl Deref for Served {
    type Target = served::Served;

    fn deref(&self) -> &served::Served {
        &self.0
    }
}

impl DerefMut for Served {
    fn deref_mut(&mut self) -> &mut served::Served {
        &mut self.0
    }
}

impl Served {
    pub fn new() -> Self {
        Self::with("sse_ms = 400\nlong_poll_ms = 400\n")
    }

    /// With other settings.
    pub fn with(settings: &str) -> Self {
        Self(served::Served::new(settings))
    }

    pub fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        ask_at(&self.address, method, path, headers, body)
    }

    /// Creates a stream; the content type is short.
    pub fn create(&self, path: &str, content_type: &str) -> Answer {
        self.ask("PUT", path, &[("Content-Type", content_type)], b"")
    }

    pub fn append(&self, path: &str, content_type: &str, more: &[(&str, &str)], body: &[u8]) -> Answer {
        self.ask("POST", path, &[&[("Content-Type", content_type)], more].concat(), body)
    }

    pub fn get(&self, path: &str, query: &str) -> Answer {
        self.ask("GET", &format!("{path}{query}"), &[], b"")
    }
}

/// Asks for a stream.
pub fn ask_at(address: &str, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    served::ask_at(address, method, &format!("stream/{path}"), headers, body)
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
    assert_eq!((conflict.header("producer-expected-seq"), conflict.header("producer-received-seq")), ("1", "0"));
    let next =
        [("Producer-Id", "p"), ("Producer-Epoch", "0"), ("Producer-Seq", "1"), ("Everlog-Expect-Offset", &*start)];
    assert_eq!(served.append("a", "text/plain", &next, b"two").status, 412);
    assert_eq!(served.append("a", "text/plain", &next[..3], b"two").status, 200, "the refusal took no number");
    assert_eq!(served.get("a", "").body, "onetwo");
}

#[test]
fn whoever_saw_more_than_a_store_put_back_is_told_also_once_it_was_overtaken() {
    let mut served = Served::new();
    let created = served.create("a", "text/plain");
    let (store, start) = (created.header("everlog-store").to_owned(), created.header("stream-next-offset").to_owned());
    let kept = served.append("a", "text/plain", &[], b"1").header("stream-next-offset").to_owned();
    served.stop();
    let (data, copy) = (served.data(), served.data().with_file_name("copy"));
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
        // The store has nothing of that history, so it cannot tell where it parted from its own.
        assert_eq!((answer.header("everlog-cut"), answer.header("everlog-store")), (&*start, &*store));
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
fn a_client_that_is_gone_before_its_answer_leaves_no_stale_knowledge() {
    let served = Served::new();
    // Sent by a client that is gone at once; a server that noticed that first has not carried it out, and is asked again.
    let gone = |method: &str, status: u16| {
        let request = format!("{method} /v1/stream/a HTTP/1.1\r\nHost: test\r\nContent-Type: text/plain\r\n\r\n");
        drop(send(&served.address, request));
        let carried_out = || served.ask("HEAD", "a", &[], b"").status == status;
        if !(0..100).any(|_| carried_out()) {
            served.ask(method, "a", &[("Content-Type", "text/plain")], b"");
        }
    };
    for round in 0..40 {
        assert_eq!(served.create("a", "application/json").status, 201);
        assert_eq!(served.append("a", "application/json", &[], b"1").status, 204);
        gone("DELETE", 404);
        gone("PUT", 200);
        assert_eq!(served.append("a", "text/plain", &[], b"text").status, 204, "round {round}");
        let read = served.get("a", "");
        assert_eq!((read.header("content-type"), &*read.body), ("text/plain", "text"));
        assert_eq!(served.ask("DELETE", "a", &[], b"").status, 204);
    }
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
    let which = served.ask("HEAD", "a", &[], b"").header("everlog-stream").to_owned();
    assert_eq!(which.len(), 16, "it says which of the streams of its name it is");
    for answer in [&waiting, &served.get("a", ""), &served.get("a", "?offset=now&live=long-poll")] {
        assert_eq!(answer.header("everlog-stream"), which);
    }
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
