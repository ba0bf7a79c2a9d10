//! The server at its limits: what is too large, too long or too much is answered with a status, both numbers and what to
//! do; a full disk and too many connections take nothing down, and service resumes when the cause goes.

use everlog::{Config, Store};
use everlog_tests::net::{Answer, Server, ask, try_ask};
use everlog_tests::programs::target_dir;
use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tempfile::TempDir;

const STREAM: &str = "/v1/stream/users/a/notes";
const BYTES: (&str, &str) = ("Content-Type", "application/octet-stream");
const PATIENCE: Duration = Duration::from_secs(60);

/// A store whose journal files are small, so that its records are.
fn small(name: &str) -> (TempDir, PathBuf) {
    let dir = tempfile::Builder::new().prefix(name).tempdir_in(target_dir()).expect("room for a folder");
    let data = dir.path().join("store");
    Store::create(&data, &Config::small()).expect("a new folder");
    (dir, data)
}

fn post(server: &Server, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    ask(server.address(), "POST", STREAM, &[&[BYTES], headers].concat(), body)
}

#[track_caller]
fn told(answer: &Answer, status: u16, numbers: &[usize]) {
    assert_eq!(answer.status, status, "{}", answer.text());
    for number in numbers {
        assert!(answer.text().contains(&number.to_string()), "{number} in: {}", answer.text());
    }
}

#[test]
fn what_is_too_large_is_answered_with_both_numbers_and_the_next_request_is_taken() {
    let (_dir, data) = small("large");
    let server = Server::start(&data, &[]);
    assert_eq!(ask(server.address(), "PUT", STREAM, &[BYTES], b"").status, 201);
    // More than any server takes, more than this store's journal files take.
    let record = everlog::limits::record_bytes_max(8 << 20);
    told(&post(&server, &[], &vec![1; (8 << 20) + 1]), 413, &[(8 << 20) + 1, 8 << 20]);
    told(&post(&server, &[], &vec![1; record + 1]), 413, &[record + 1, record]);
    assert_eq!(post(&server, &[], &vec![1; record]).status, 204, "what just fits");

    let many = format!("[{}]", vec!["1"; 65_537].join(","));
    let json = "/v1/stream/users/a/json";
    assert_eq!(ask(server.address(), "PUT", json, &[("Content-Type", "application/json")], b"").status, 201);
    let answer = ask(server.address(), "POST", json, &[("Content-Type", "application/json")], many.as_bytes());
    told(&answer, 413, &[65_535]);

    let name = |len: usize| format!("/v1/stream/{}", "n".repeat(len));
    told(&ask(server.address(), "PUT", &name(1025), &[BYTES], b""), 400, &[1025, 1024]);
    assert_eq!(ask(server.address(), "PUT", &name(1024), &[BYTES], b"").status, 201);
    let long = "p".repeat(257);
    let numbers = [("Producer-Id", &*long), ("Producer-Epoch", "0"), ("Producer-Seq", "0")];
    told(&post(&server, &numbers, b"x"), 400, &[256]);
    told(&post(&server, &[("Stream-Seq", &long)], b"x"), 400, &[256]);
    let content_type = format!("text/plain; p={}", "x".repeat(5000));
    let answer = ask(server.address(), "PUT", "/v1/stream/typed", &[("Content-Type", &content_type)], b"");
    told(&answer, 400, &[content_type.len(), 256]);
    assert_eq!(server.stop().0.code(), Some(0));
}

#[test]
fn a_stream_takes_so_many_producers_and_those_it_knows_go_on() {
    let (_dir, data) = small("producers");
    let server = Server::start(&data, &[]);
    assert_eq!(ask(server.address(), "PUT", STREAM, &[BYTES], b"").status, 201);
    let numbered = |producer: usize, number: &str| {
        let id = format!("device-{producer}");
        post(&server, &[("Producer-Id", &id), ("Producer-Epoch", "0"), ("Producer-Seq", number)], b"x")
    };
    for producer in 0..1024 {
        assert_eq!(numbered(producer, "0").status, 200);
    }
    let refused = numbered(1024, "0");
    told(&refused, 400, &[1024]);
    assert!(refused.text().contains("ids of devices"), "{}", refused.text());
    assert_eq!(numbered(7, "1").status, 200, "one that is known");
    assert_eq!(post(&server, &[], b"x").status, 204, "and one without a number");
}

#[test]
fn more_connections_than_files_are_turned_away_until_others_are_gone() {
    let (_dir, data) = small("files");
    let few = ["sh", "-c", "ulimit -n 64 && exec \"$@\"", "sh"];
    let server = Server::start_under(&few, &data, &[]);
    assert_eq!(ask(server.address(), "PUT", STREAM, &[BYTES], b"").status, 201);
    let connections: Vec<TcpStream> =
        (0..100).map(|_| TcpStream::connect(server.address()).expect("the system queues it")).collect();
    assert_eq!(ask(server.admin_address(), "GET", "/readyz", &[], b"").status, 200, "operators get through");
    drop(connections);
    // The server notices one after the other that they are gone; each look is a request, which takes its time.
    let post = || try_ask(server.address(), "POST", STREAM, &[BYTES], b"after");
    let answers = (0..10_000).filter_map(|_| post()).find(|answer| answer.status != 503);
    assert_eq!(answers.expect("there is room again").status, 204);
    let (status, log) = server.stop();
    assert_eq!(status.code(), Some(0), "the store had the files that it needs: {log}");
    assert!(log.contains("allows no more connections"), "{log}");
}

#[test]
fn a_disk_that_fills_up_and_is_freed_again_costs_no_acknowledged_append_and_no_read() {
    let (dir, data) = small("full");
    let disk = dir.path().join("disk");
    fs::create_dir(&disk).expect("a new folder");
    fs::write(dir.path().join("everlog.toml"), "append_ms = 1000\n").expect("written");
    // A memory file system of the server alone; room for two journal files, and for segments beside them.
    let mount = format!(
        "mount -t tmpfs -o size=120m tmpfs '{disk}' && cp -a '{data}' '{disk}' && exec \"$@\"",
        disk = disk.display(),
        data = data.display()
    );
    let through = ["unshare", "--user", "--map-root-user", "--mount", "--", "sh", "-c", &mount, "sh"];
    let config = dir.path().join("everlog.toml");
    let flags = ["--io", "buffered", "--config", config.to_str().expect("a plain path")];
    let server = Server::start_under(&through, &disk.join("store"), &flags);
    assert_eq!(ask(server.address(), "PUT", STREAM, &[BYTES], b"").status, 201);
    let inside = PathBuf::from(format!("/proc/{}/root{}", server.pid(), disk.display()));
    let began = Instant::now();
    while !inside.join("store/journal-0001").exists() {
        assert!(began.elapsed() < PATIENCE, "the second journal file is made");
        std::thread::yield_now();
    }
    let filler = inside.join("filler");
    let mut file = fs::File::create(&filler).expect("a new file");
    while file.write_all(&[0; 64 << 10]).is_ok() {}
    drop(file);

    let body = vec![7; 1 << 20];
    let mut acknowledged = 0;
    let refused = loop {
        let answer = post(&server, &[], &body);
        if answer.status != 204 {
            break answer;
        }
        acknowledged += 1;
        assert!(acknowledged < 200, "the journal has no room for so much");
    };
    assert!(acknowledged > 0);
    // The one that found the journal full waits for a while; those behind it are turned away.
    assert_eq!((refused.status, refused.header("everlog-error")), (503, "unknown"), "{refused:?}");
    for words in ["No space left on device", "free space", "same producer number"] {
        assert!(refused.text().contains(words), "\"{words}\" in: {}", refused.text());
    }
    let turned_away = post(&server, &[], &body);
    assert_eq!((turned_away.status, turned_away.header("everlog-error")), (429, "overloaded"), "{turned_away:?}");
    assert!(turned_away.text().contains("the journal is full"), "{}", turned_away.text());
    let ready = server.until_ready_says(503);
    assert!(ready.text().contains("no journal file is free") && ready.text().contains("No space left"), "{ready:?}");
    let metrics = ask(server.admin_address(), "GET", "/metrics", &[], b"").text();
    assert!(metrics.contains("everlog_poisoned 0\n"), "a full disk stops nothing for good");
    let read = ask(server.address(), "GET", STREAM, &[], b"");
    assert_eq!(read.status, 200, "reads go on");

    fs::remove_file(&filler).expect("it is there");
    server.until_ready_says(200);
    assert_eq!(post(&server, &[], b"and on").status, 204, "appends go on by themselves");
    let (mut bytes, mut offset) = (0, "-1".to_owned());
    loop {
        let page = ask(server.address(), "GET", &format!("{STREAM}?offset={offset}"), &[], b"");
        assert_eq!(page.status, 200);
        bytes += page.body.len();
        if page.header("stream-up-to-date") == "true" {
            break;
        }
        offset = page.header("stream-next-offset").to_owned();
    }
    let least = acknowledged * body.len() + b"and on".len();
    assert!(bytes == least || bytes == least + body.len(), "{acknowledged} and the unknown one: {bytes} bytes");
    assert_eq!(server.stop().0.code(), Some(0));
}
