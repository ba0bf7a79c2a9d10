//! Streams that end by themselves: never early, also when the server is killed, and what puts the end off.

use crate::streams::Served;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// One use of a stream, and the status that it gets.
type Use = fn(&Served) -> u16;

const TTL: Duration = Duration::from_secs(4);

impl Served {
    fn create_for_a_while(&self, path: &str) {
        let headers = [("Content-Type", "text/plain"), ("Stream-TTL", "4")];
        assert_eq!(self.ask("PUT", path, &headers, b"here").status, 201);
    }

    /// Waits until the stream has ended, and says since when it was not used at least.
    fn ended(&self, path: &str, used: Instant) -> Duration {
        loop {
            let asked = used.elapsed();
            match self.ask("HEAD", path, &[], b"").status {
                404 => return used.elapsed(),
                200 => assert!(asked < Duration::from_secs(30), "{path} does not end"),
                other => panic!("{path}: {other}"),
            }
            sleep(Duration::from_millis(20));
        }
    }
}

#[test]
fn each_use_puts_the_end_off_and_a_look_does_not() {
    let served = Served::new();
    let uses: [(&str, Use); 4] = [
        ("read", |served| served.get("read", "").status),
        ("polled", |served| served.get("polled", "?offset=-1&live=long-poll").status),
        ("events", |served| served.get("events", "?offset=-1&live=sse").status),
        ("appended", |served| served.append("appended", "text/plain", &[], b".").status),
    ];
    let begun = Instant::now();
    for (path, _) in uses {
        served.create_for_a_while(path);
    }
    served.create_for_a_while("looked");
    // Well past the first end, and always before the next one.
    while begun.elapsed() < 2 * TTL {
        let round = Instant::now();
        for (path, used) in uses {
            let status = used(&served);
            assert!(matches!(status, 200 | 204), "{path}: {status}");
        }
        sleep(TTL / 8);
        assert!(round.elapsed() < TTL, "the machine is too slow for this test");
    }
    assert_eq!(served.ask("HEAD", "looked", &[], b"").status, 404);
    let used = Instant::now();
    let head = served.ask("HEAD", "read", &[], b"");
    assert_eq!((head.status, head.header("stream-ttl")), (200, "4"));
    let end = served.ended("read", used);
    assert!(end >= TTL - TTL / 8 && end < 2 * TTL, "{end:?}");
    assert_eq!(served.append("read", "text/plain", &[], b"late").status, 404);
    assert_eq!(served.get("read", "").status, 404);
    // The name is free.
    served.create_for_a_while("read");
    assert_eq!(served.get("read", "").body, "here");
}

#[test]
fn who_waits_keeps_a_stream_alive() {
    let served = Served::with("sse_ms = 6000\nlong_poll_ms = 6000\n");
    for live in ["long-poll", "sse"] {
        let (path, query) = (format!("waited-{live}"), format!("?offset=now&live={live}"));
        let headers = [("Content-Type", "text/plain"), ("Stream-TTL", "1")];
        assert_eq!(served.ask("PUT", &path, &headers, b"here").status, 201);
        assert!(matches!(served.get(&path, &query).status, 200 | 204));
        assert_eq!(served.ask("HEAD", &path, &[], b"").status, 200, "{live}");
    }
}

#[test]
fn a_stream_lives_for_its_whole_time_after_somebody_waited_for_it() {
    // Less than half of the time, so that nothing has put the end off while it was waited for.
    let served = Served::with("sse_ms = 1900\nlong_poll_ms = 1900\n");
    for live in ["long-poll", "sse"] {
        served.create_for_a_while(live);
        assert!(matches!(served.get(live, &format!("?offset=now&live={live}")).status, 200 | 204));
        let used = Instant::now();
        assert!(served.ended(live, used) >= TTL, "{live}");
    }
}

#[test]
fn no_kill_ends_a_stream_early() {
    let mut served = Served::new();
    served.create_for_a_while("stream");
    assert_eq!(served.create("other", "text/plain").status, 201);
    sleep(TTL / 8 * 7);
    let used = Instant::now();
    assert_eq!(served.get("stream", "").body, "here");
    // The clock is on disk with whatever is appended, and goes back to that when the server is killed.
    assert_eq!(served.append("other", "text/plain", &[], b"x").status, 204);
    served.kill();
    served.start();
    assert!(served.ended("stream", used) >= TTL, "it was used after that");
    served.stop();
    served.start();
    assert_eq!(served.ask("HEAD", "stream", &[], b"").status, 404, "a clean stop leaves it ended");
}

#[test]
fn an_end_is_part_of_what_is_asked_for() {
    let served = Served::new();
    let put = |path: &str, more: &[(&str, &str)]| {
        served.ask("PUT", path, &[&[("Content-Type", "text/plain")], more].concat(), b"").status
    };
    let (noon, same) = ("2100-01-01T12:00:00Z", "2100-01-01T14:00:00.0+02:00");
    assert_eq!(put("a", &[("Stream-Expires-At", noon)]), 201);
    assert_eq!(put("a", &[("Stream-Expires-At", same)]), 200);
    assert_eq!(put("a", &[("Stream-Expires-At", "2100-01-01T12:00:01Z")]), 409);
    assert_eq!((put("a", &[]), put("a", &[("Stream-TTL", "60")])), (409, 409));
    assert_eq!(served.ask("HEAD", "a", &[], b"").header("stream-expires-at"), noon);
    assert_eq!((put("b", &[("Stream-TTL", "60")]), put("b", &[("Stream-TTL", "60")])), (201, 200));
    assert_eq!((put("b", &[("Stream-TTL", "61")]), put("b", &[])), (409, 409));
    assert_eq!(put("c", &[("Stream-Expires-At", "2000-01-01T00:00:00Z")]), 201);
    assert_eq!(served.ask("HEAD", "c", &[], b"").status, 404);
}

#[test]
fn nothing_is_said_of_an_append_to_a_stream_that_has_ended_but_that() {
    let served = Served::new();
    let in_a_second = (jiff::Timestamp::now() + Duration::from_secs(1)).to_string();
    let headers = [("Content-Type", "application/json"), ("Stream-Expires-At", &*in_a_second)];
    assert_eq!(served.ask("PUT", "stream", &headers, b"").status, 201);
    assert_eq!(served.append("stream", "application/json", &[], b"1").status, 204);
    let numbers = [("Producer-Id", "phone"), ("Producer-Epoch", "0"), ("Producer-Seq", "0")];
    assert_eq!(served.append("stream", "application/json", &numbers, b"2").status, 200);
    served.ended("stream", Instant::now());
    assert_eq!(served.append("stream", "application/json", &[], b"[]").status, 404);
    assert_eq!(served.append("stream", "text/plain", &[], b"3").status, 404);
    // Neither that it was stored before nor that it is other content than was.
    for content in [b"2", b"3"] {
        assert_eq!(served.append("stream", "application/json", &numbers, content).status, 404);
    }
}
