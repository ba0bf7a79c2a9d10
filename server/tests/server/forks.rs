//! Forks where the protocol's own suite does not look: counts that hold across kills and between many at once, names that
//! were used before.

use crate::streams::{Served, ask_at};
use std::sync::Barrier;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

impl Served {
    fn fork(&self, path: &str, source: &str, more: &[(&str, &str)]) -> u16 {
        let source = format!("/v1/stream/{source}");
        self.ask("PUT", path, &[&[("Stream-Forked-From", &*source)], more].concat(), b"").status
    }

    fn status(&self, path: &str) -> u16 {
        self.ask("HEAD", path, &[], b"").status
    }

    fn delete(&self, path: &str) -> u16 {
        self.ask("DELETE", path, &[], b"").status
    }
}

#[test]
fn what_is_kept_for_its_forks_stays_so_across_kills_and_goes_with_the_last() {
    let mut served = Served::new();
    assert_eq!(served.create("root", "text/plain").status, 201);
    assert_eq!(served.append("root", "text/plain", &[], b"one").status, 204);
    assert_eq!(served.fork("middle", "root", &[]), 201);
    assert_eq!(served.append("middle", "text/plain", &[], b"two").status, 204);
    assert_eq!(served.fork("leaf", "middle", &[]), 201);
    assert_eq!(served.fork("leaf", "middle", &[]), 200, "a repetition finds what it made");
    assert_eq!(served.fork("leaf", "root", &[]), 409);
    assert_eq!(served.create("leaf", "text/plain").status, 409, "it is a fork, which was not asked for");
    for path in ["root", "middle"] {
        assert_eq!((served.delete(path), served.status(path)), (204, 410));
    }
    served.kill();
    served.start();
    for path in ["root", "middle"] {
        assert_eq!((served.status(path), served.delete(path), served.get(path, "").status), (410, 410, 410));
        assert_eq!(served.append(path, "text/plain", &[], b"x").status, 410);
        assert_eq!((served.create(path, "text/plain").status, served.fork("new", path, &[])), (409, 409));
    }
    assert_eq!(served.get("leaf", "").body, "onetwo");
    assert_eq!(served.delete("leaf"), 204);
    served.kill();
    served.start();
    for path in ["root", "middle", "leaf"] {
        assert_eq!(served.status(path), 404, "{path}");
    }
    assert_eq!(served.create("root", "text/plain").status, 201);
    assert_eq!(served.get("root", "").body, "");
}

#[test]
fn forks_that_come_and_go_at_once_are_counted_right() {
    const FORKS: usize = 12;
    let served = Served::new();
    for round in 0..3 {
        let source = format!("source{round}");
        assert_eq!(served.create(&source, "text/plain").status, 201);
        // Each is made and half of them are deleted, while others are.
        let begin = Barrier::new(FORKS);
        let from = format!("/v1/stream/{source}");
        thread::scope(|scope| {
            for n in 0..FORKS {
                let (begin, from, address, path) = (&begin, &from, &served.address, format!("{source}/{n}"));
                scope.spawn(move || {
                    begin.wait();
                    let headers = [("Stream-Forked-From", from.as_str())];
                    assert_eq!(ask_at(address, "PUT", &path, &headers, b"").status, 201);
                    if n % 2 == 0 {
                        assert_eq!(ask_at(address, "DELETE", &path, &[], b"").status, 204);
                    }
                });
            }
        });
        assert_eq!((served.delete(&source), served.status(&source)), (204, 410));
        let begin = Barrier::new(FORKS / 2);
        thread::scope(|scope| {
            for n in (1..FORKS).step_by(2) {
                let (begin, address, path) = (&begin, &served.address, format!("{source}/{n}"));
                scope.spawn(move || {
                    begin.wait();
                    assert_eq!(ask_at(address, "DELETE", &path, &[], b"").status, 204);
                });
            }
        });
        assert_eq!(served.status(&source), 404, "nobody needs it any more");
    }
}

#[test]
fn a_fork_knows_its_source_from_another_of_its_name() {
    let served = Served::new();
    assert_eq!(served.ask("PUT", "source", &[("Content-Type", "text/plain"), ("Stream-TTL", "0")], b"old").status, 201);
    assert_eq!(served.status("source"), 404, "it has ended at once");
    assert_eq!(served.create("source", "text/plain").status, 201);
    assert_eq!(served.append("source", "text/plain", &[], b"new").status, 204);
    let moment = [("Stream-Expires-At", "2000-01-01T00:00:00Z")];
    assert_eq!(served.fork("gone", "source", &moment), 201);
    assert_eq!(served.fork("fork", "source", &[]), 201);
    assert_eq!(served.get("fork", "").body, "new");
    // The name of a stream that has ended is no fork's: an offset of the one could be taken for one of the other.
    assert_eq!(served.fork("gone", "source", &[]), 409);
    assert_eq!(served.create("gone", "text/plain").status, 201);
    assert_eq!(served.delete("gone"), 204);
    assert_eq!(served.delete("fork"), 204);
    assert_eq!(served.get("source", "").body, "new");
}

#[test]
fn a_fork_begins_where_history_leads_and_nowhere_else() {
    let served = Served::new();
    let start = served.create("source", "application/json").header("stream-next-offset").to_owned();
    assert_eq!(served.append("source", "application/json", &[], b"[1,2,3,4]").status, 204);
    let end = served.get("source", "").header("stream-next-offset").to_owned();
    let at = |path: &str, offset: &str, sub: &str| {
        served.fork(path, "source", &[("Stream-Fork-Offset", offset), ("Stream-Fork-Sub-Offset", sub)])
    };
    assert_eq!(at("two", &start, "2"), 201);
    assert_eq!(served.get("two", "").body, "[1,2]");
    assert_eq!((at("two", &start, "2"), at("two", &start, "3")), (200, 409));
    assert_eq!(at("past", &end, "1"), 400);
    assert_eq!(at("past", &start, "18446744073709551615"), 400);
    // The same number in another history.
    let other = format!("0000000177777777{}", &end[16..]);
    let refused =
        served.ask("PUT", "other", &[("Stream-Forked-From", "/v1/stream/source"), ("Stream-Fork-Offset", &other)], b"");
    assert_eq!((refused.status, refused.header("everlog-error")), (410, "timeline"));
    assert_eq!(served.status("other"), 404);
}

#[test]
fn what_is_kept_for_its_forks_is_gone_whatever_offset_it_is_read_from() {
    let served = Served::new();
    let old = served.create("source", "text/plain").header("stream-next-offset").to_owned();
    assert_eq!(served.delete("source"), 204);
    assert_eq!(served.create("source", "text/plain").status, 201);
    let refused = served.get("source", &format!("?offset={old}"));
    assert_eq!((refused.status, refused.header("everlog-error")), (410, "trimmed"));
    assert_eq!((served.fork("fork", "source", &[]), served.delete("source")), (201, 204));
    let elsewhere = "0000000177777777_0000000000000001";
    for query in [format!("?offset={old}"), format!("?offset={old}&live=long-poll"), format!("?offset={elsewhere}")] {
        let refused = served.get("source", &query);
        assert_eq!((refused.status, refused.header("everlog-error")), (410, "deleted"), "{query}");
    }
}

#[test]
fn what_was_kept_for_its_forks_and_has_ended_takes_appends_again_once_it_is_created() {
    let served = Served::new();
    let text = ("Content-Type", "text/plain");
    assert_eq!(served.ask("PUT", "source", &[text, ("Stream-TTL", "1")], b"").status, 201);
    assert_eq!((served.fork("fork", "source", &[]), served.delete("source")), (201, 204));
    assert_eq!(served.append("source", "text/plain", &[], b"x").status, 410);
    let begun = Instant::now();
    while served.status("source") == 410 {
        assert!(begun.elapsed() < Duration::from_secs(30), "it does not end");
        sleep(Duration::from_millis(20));
    }
    assert_eq!(served.append("source", "text/plain", &[], b"x").status, 404);
    assert_eq!(served.create("source", "text/plain").status, 201);
    assert_eq!(served.append("source", "text/plain", &[], b"x").status, 204);
}
