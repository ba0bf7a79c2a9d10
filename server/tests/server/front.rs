//! The front of the server, as clients meet it that are too many, too slow, too greedy, or malicious.

use crate::program::{Program, QUIET, ask, everlogd, send};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

const POLL: &str = "GET /v1/stream/a?offset=now&live=long-poll HTTP/1.1\r\nHost: test\r\n\r\n";
const APPEND: &str =
    "POST /v1/stream/a HTTP/1.1\r\nHost: test\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n\r\none";

/// A server with settings of its own.
pub struct Front {
    pub scratch: tempfile::TempDir,
    pub program: Program,
    pub address: String,
    pub admin: String,
}

impl Front {
    pub fn new(settings: &str) -> Self {
        // On the disk that the build is on, and not in a memory file system that refuses direct writes.
        let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("there is room for a folder");
        Self::within(scratch, settings)
    }

    pub fn within(scratch: tempfile::TempDir, settings: &str) -> Self {
        std::fs::write(scratch.path().join("everlog.toml"), settings).expect("written");
        let mut program = Program::start(everlogd(scratch.path()).args(QUIET).args(["--init", "--data", "store"]));
        let admin = program.line_with("metrics and health on http://");
        let ready = program.line_with("everlogd ready on http");
        let address = ready.split_once("://").expect("an address").1.to_owned();
        Self { scratch, program, address, admin }
    }

    /// With the stream `a`.
    fn with_stream(settings: &str, content_type: &str) -> Self {
        let front = Self::new(settings);
        let created = front.ask(format!("PUT /v1/stream/a HTTP/1.1\r\nContent-Type: {content_type}\r\n\r\n"));
        assert!(created.starts_with("HTTP/1.1 201 "), "{created}");
        front
    }

    fn ask(&self, request: impl AsRef<[u8]>) -> String {
        ask(&self.address, request)
    }

    fn append(&self, body: impl AsRef<[u8]>) -> String {
        let body = body.as_ref();
        let head = format!(
            "POST /v1/stream/a HTTP/1.1\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        self.ask([head.as_bytes(), body].concat())
    }

    /// Waits until the operators are told this; each look is a request, which takes its time.
    pub fn told(&self, path: &str, words: &str) {
        let looks = |_: &usize| ask(&self.admin, format!("GET {path} HTTP/1.1\r\n\r\n")).contains(words);
        assert!((0..10_000).find(looks).is_some(), "{path} says \"{words}\"");
    }
}

/// What comes until the other side has no more.
fn rest(mut stream: TcpStream) -> String {
    let mut all = Vec::new();
    // A connection that is reset has said what it had to say as well.
    let _ = stream.read_to_end(&mut all);
    String::from_utf8_lossy(&all).into_owned()
}

/// One answer without a body.
fn answer(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        assert_eq!(stream.read(&mut byte).expect("an answer"), 1, "{}", String::from_utf8_lossy(&head));
        head.push(byte[0]);
    }
    String::from_utf8_lossy(&head).into_owned()
}

/// The value of a header, which stands there once at most.
fn header<'a>(answer: &'a str, name: &str) -> &'a str {
    let head = answer.split("\r\n\r\n").next().unwrap_or_default();
    let values: Vec<_> = head.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(": ")).collect();
    assert!(values.len() <= 1, "{name} stands there once: {head}");
    values.first().copied().unwrap_or_default()
}

#[test]
fn who_comes_past_the_limit_is_told_so_and_nobody_else_notices() {
    let front = Front::with_stream("connections_max = 2", "text/plain");
    let polling = send(&front.address, POLL);
    front.told("/metrics", "everlog_live_readers 1\n");
    // The reader, and the operator who asks: the connection that created the stream is gone.
    front.told("/metrics", "everlog_http_connections 2\n");
    let mut second = send(&front.address, "HEAD /v1/stream/a HTTP/1.1\r\nHost: test\r\n\r\n");
    assert!(answer(&mut second).starts_with("HTTP/1.1 200 "));
    for _ in 0..20 {
        let refused = front.ask("GET /v1/stream/a HTTP/1.1\r\n\r\n");
        assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
        assert_eq!((header(&refused, "retry-after"), header(&refused, "everlog-error")), ("1", "overloaded"));
        assert_eq!(header(&refused, "everlog-store").len(), 32);
        assert!(refused.ends_with("come back later\n"), "{refused}");
    }
    front.told("/metrics", "everlog_http_connections_refused_total 20\n");
    front.told("/readyz", "HTTP/1.1 200 ");
    second.write_all(APPEND.as_bytes()).expect("it is still open");
    assert!(answer(&mut second).starts_with("HTTP/1.1 204 "));
    drop(second);
    let polled = (0..10_000).map(|_| front.ask("GET /v1/stream/a HTTP/1.1\r\n\r\n"));
    let read = polled.into_iter().find(|answer| answer.starts_with("HTTP/1.1 200 ")).expect("there is room again");
    assert!(read.ends_with("one"));
    let mut polling = polling;
    let head = answer(&mut polling);
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
}

#[test]
fn what_is_too_long_or_too_much_has_its_status() {
    let front = Front::with_stream("", "application/json");
    for (request, status) in [
        (format!("GET /v1/stream/{} HTTP/1.1\r\n\r\n", "x".repeat(9000)), 414),
        (format!("GET /v1/stream/a?offset={} HTTP/1.1\r\n\r\n", "0".repeat(9000)), 414),
        (format!("GET /v1/stream/a HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(120)), 431),
        (format!("GET /v1/stream/a HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(20_000)), 431),
        ("GET /v1/stream/a HTTP/1.1\r\nHost: other\r\n\r\n".to_owned(), 400),
        ("PUT /v1/stream/b HTTP/1.1\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx".to_owned(), 415),
    ] {
        let answer = front.ask(&request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{status}: {answer}");
    }
    let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    assert!(front.append(nested(128)).starts_with("HTTP/1.1 204 "));
    let refused = front.append(nested(129));
    assert!(refused.starts_with("HTTP/1.1 400 ") && refused.contains("deeper than 128"), "{refused}");
}

#[test]
fn no_request_hides_in_another() {
    let front = Front::with_stream("", "text/plain");
    let hidden = "DELETE /v1/stream/a HTTP/1.1\r\nHost: test\r\n\r\n";
    let post = "POST /v1/stream/a HTTP/1.1\r\nHost: test\r\nContent-Type: text/plain\r\n";
    // Refused, each before anything is done.
    for head in [
        "Content-Length: 3\r\nContent-Length: 5\r\n",
        "Content-Length: 3, 5\r\n",
        "Content-Length: +3\r\n",
        "Content-Length: 0x3\r\n",
        "Content-Length: -1\r\n",
        "Transfer-Encoding: gzip\r\n",
        "Transfer-Encoding: chunked, gzip\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "X: one\r\n two\r\nContent-Length: 3\r\n",
        "X: one\rtwo\r\nContent-Length: 3\r\n",
        "X : one\r\nContent-Length: 3\r\n",
        "Content-Length : 3\r\n",
        "X: a\0b\r\nContent-Length: 3\r\n",
    ] {
        let answers = rest(send(&front.address, format!("{post}{head}\r\none{hidden}")));
        assert!(answers.starts_with("HTTP/1.1 400 "), "{head:?}: {answers}");
        assert_eq!(answers.matches("HTTP/1.1 ").count(), 1, "{head:?}: the connection ends: {answers}");
    }
    for chunks in [
        "g\r\none\r\n0\r\n\r\n",
        "-3\r\none\r\n0\r\n\r\n",
        "3\none\n0\n\n",
        "ffffffffffffffff3\r\none\r\n0\r\n\r\n",
        "3\r\nonexx0\r\n\r\n",
    ] {
        let request = format!("{post}Transfer-Encoding: chunked\r\n\r\n{chunks}{hidden}");
        let answers = rest(send(&front.address, request));
        assert!(answers.is_empty() || answers.starts_with("HTTP/1.1 400 "), "{chunks:?}: {answers}");
        assert!(answers.matches("HTTP/1.1 ").count() <= 1, "{chunks:?}: {answers}");
    }
    assert!(front.ask("GET /v1/stream/a HTTP/1.1\r\n\r\n").ends_with("\r\n\r\n"), "nothing was appended");
    // Both lengths: the chunks count, as HTTP wants it, and whatever a proxy took for the next request is not read.
    for both in
        ["Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n"]
    {
        let answers = rest(send(&front.address, format!("{post}{both}\r\n3\r\none\r\n0\r\n\r\n{hidden}")));
        assert!(answers.starts_with("HTTP/1.1 204 "), "{both:?}: {answers}");
        assert_eq!(answers.matches("HTTP/1.1 ").count(), 1, "{both:?}: the connection ends: {answers}");
    }
    assert!(front.ask("GET /v1/stream/a HTTP/1.1\r\n\r\n").ends_with("oneone"), "the stream is there");
}

#[test]
fn an_endless_body_takes_bounded_memory() {
    let front = Front::with_stream("", "text/plain");
    let before = front.program.peak_bytes();
    let head =
        "POST /v1/stream/a HTTP/1.1\r\nHost: test\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n\r\n";
    let mut stream = send(&front.address, head);
    let chunk = [b"10000\r\n", &[b'x'; 0x1_0000][..], b"\r\n"].concat();
    // The server reads on for a while, so that the client learns why; then it closes the connection.
    let sent = (0..8192).take_while(|_| stream.write_all(&chunk).is_ok()).count();
    assert!(sent < 8192, "half a gigabyte was taken");
    let grown = front.program.peak_bytes() - before;
    assert!(grown < 48 << 20, "{grown} bytes for one body of 8 MiB at most");
    assert!(front.ask("GET /v1/stream/a HTTP/1.1\r\n\r\n").ends_with("\r\n\r\n"), "nothing was appended");
}

#[test]
fn answers_that_nobody_reads_take_bounded_memory() {
    let front = Front::with_stream("", "text/plain");
    let large = "x".repeat(8 << 20);
    let post = |body: &str| {
        let head = "POST /v1/stream/a HTTP/1.1\r\nContent-Type: text/plain\r\nContent-Length:";
        front.ask(format!("{head} {}\r\n\r\n{body}", body.len()))
    };
    assert!(post(&large).starts_with("HTTP/1.1 204 "));
    // 256 MiB in all, and no more than the kernel takes of each is handed over.
    let unread: Vec<_> = (0..33)
        .map(|_| {
            let mut stream = send(&front.address, "GET /v1/stream/a HTTP/1.1\r\nHost: test\r\n\r\n");
            let mut begun = [0; 12];
            stream.read_exact(&mut begun).expect("an answer begins");
            (stream, String::from_utf8_lossy(&begun).into_owned())
        })
        .collect();
    let statuses: Vec<_> = unread.iter().map(|(_, begun)| &begun[9..]).collect();
    assert!(statuses[..32].iter().all(|status| *status == "200") && statuses[32] == "503", "{statuses:?}");
    let refused = front.ask("GET /v1/stream/a HTTP/1.1\r\n\r\n");
    assert_eq!((header(&refused, "everlog-error"), header(&refused, "retry-after")), ("overloaded", "1"));
    assert!(front.ask("HEAD /v1/stream/a HTTP/1.1\r\n\r\n").starts_with("HTTP/1.1 200 "), "what is small is answered");
    drop(unread);
    let mut answer = refused;
    while answer.starts_with("HTTP/1.1 503 ") {
        answer = front.ask("GET /v1/stream/a HTTP/1.1\r\n\r\n");
    }
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with(&format!("\r\n\r\n{large}")), "it is whole");
}

#[test]
fn a_reader_of_a_text_that_breaks_off_within_a_character_waits() {
    let front = Front::with_stream("", "text/plain");
    let post = |body: &[u8]| {
        let head = "POST /v1/stream/a HTTP/1.1\r\nContent-Type: text/plain\r\nContent-Length:";
        let answer = front.ask([format!("{head} {}\r\n\r\n", body.len()).as_bytes(), body].concat());
        assert!(answer.starts_with("HTTP/1.1 204 "), "{answer}");
    };
    // Two pages, each piece of which ends within a character, which the next one goes on with.
    let piece = [&[b'x'; 700_000][..], b"\xc3"].concat();
    post(&piece);
    (0..3).for_each(|_| post(&[b"\xbc", &piece[..]].concat()));
    let get = "GET /v1/stream/a?offset=-1&live=sse HTTP/1.1\r\nHost: test\r\n\r\n";
    let mut events = BufReader::new(send(&front.address, get));
    let mut next = || {
        let mut line = Vec::new();
        while !line.starts_with(b"event: ") {
            line.clear();
            assert!(events.read_until(b'\n', &mut line).expect("the events go on") > 0, "the events ended");
        }
        String::from_utf8(line).expect("text")
    };
    assert_eq!(next(), "event: control\n", "there is no whole character yet");
    post(b"\xbc");
    assert_eq!(next(), "event: data\n", "nothing was said meanwhile");
}

#[test]
fn a_head_that_never_ends_is_waited_for_in_vain() {
    let front = Front::new("");
    let mut slow = send(&front.admin, "GET /healthz HTTP/1.1\r\nHost: te");
    let mut all = Vec::new();
    // The patience with operators is the shorter one; reading waits for the end of the connection.
    slow.read_to_end(&mut all).expect("the connection is closed");
    let told = String::from_utf8_lossy(&all);
    assert!(told.is_empty() || told.starts_with("HTTP/1.1 408 "), "{told}");
}

#[test]
fn a_device_that_asks_too_often_is_held_back() {
    let front = Front::new("requests_per_second_max = 5");
    let answers: Vec<_> = (0..50).map(|_| front.ask("HEAD /v1/stream/none HTTP/1.1\r\n\r\n")).collect();
    assert!(answers[..5].iter().all(|answer| answer.starts_with("HTTP/1.1 404 ")), "{}", answers[0]);
    let refused = answers.iter().find(|answer| answer.starts_with("HTTP/1.1 429 ")).expect("one too many");
    assert_eq!((header(refused, "retry-after"), header(refused, "everlog-error")), ("1", "rate"));
}

#[test]
fn an_owner_has_so_many_streams_and_no_more() {
    let front = Front::new("logs_per_owner_max = 3");
    let create = |name: &str| front.ask(format!("PUT /v1/stream/{name} HTTP/1.1\r\nContent-Length: 0\r\n\r\n"));
    for name in ["users/a", "users/a/1", "users/a/2", "users/ab/1"] {
        assert!(create(name).starts_with("HTTP/1.1 201 "), "{name}");
    }
    let refused = create("users/a/3");
    assert!(refused.starts_with("HTTP/1.1 507 "), "{refused}");
    assert_eq!(header(&refused, "everlog-error"), "quota");
    assert!(create("users/a/2").starts_with("HTTP/1.1 200 "), "what is there is no creation");
    let deleted = front.ask("DELETE /v1/stream/users/a/1 HTTP/1.1\r\n\r\n");
    assert!(deleted.starts_with("HTTP/1.1 204 "), "{deleted}");
    // It is counted again after a second; each look is a request, which takes its time.
    let again = (0..100_000).map(|_| create("users/a/3")).find(|answer| !answer.starts_with("HTTP/1.1 507 "));
    assert!(again.is_some_and(|answer| answer.starts_with("HTTP/1.1 201 ")), "there is room for one again");
}

#[test]
fn an_owner_has_so_many_bytes_and_no_more() {
    let front = Front::new("bytes_per_owner_max = 1000");
    let send = |method: &str, name: &str, bytes: usize| {
        let body = "x".repeat(bytes);
        let head = format!("{method} /v1/stream/{name} HTTP/1.1\r\nContent-Type: text/plain\r\n");
        front.ask(format!("{head}Content-Length: {bytes}\r\n\r\n{body}"))
    };
    for (method, name, bytes, expected) in [
        ("PUT", "users/a/1", 0, "201"),
        ("POST", "users/a/1", 400, "204"),
        ("PUT", "users/a/2", 300, "201"),
        ("POST", "users/a/2", 400, "507"),
        ("PUT", "users/a/3", 400, "507"),
        ("PUT", "users/b/1", 900, "201"),
    ] {
        let answer = send(method, name, bytes);
        assert!(answer.starts_with(&format!("HTTP/1.1 {expected} ")), "{method} {name}: {answer}");
    }
    let numbered = |seq: u64| {
        let numbers = format!("Producer-Id: phone\r\nProducer-Epoch: 0\r\nProducer-Seq: {seq}\r\n");
        let head = format!("POST /v1/stream/users/a/2 HTTP/1.1\r\nContent-Type: text/plain\r\n{numbers}");
        front.ask(format!("{head}Content-Length: 140\r\n\r\n{}", "x".repeat(140)))
    };
    for (seq, expected) in [(0, "200"), (1, "200"), (2, "507"), (1, "204"), (0, "204"), (5, "409"), (2, "507")] {
        let answer = numbered(seq);
        assert!(answer.starts_with(&format!("HTTP/1.1 {expected} ")), "a repetition stores nothing; {seq}: {answer}");
    }
    let deleted = front.ask("DELETE /v1/stream/users/a/1 HTTP/1.1\r\n\r\n");
    assert!(deleted.starts_with("HTTP/1.1 204 "), "{deleted}");
    let again = (0..100_000).map(|_| send("POST", "users/a/2", 200)).find(|a| !a.starts_with("HTTP/1.1 507 "));
    assert!(again.is_some_and(|answer| answer.starts_with("HTTP/1.1 204 ")), "there is room again");
}

#[test]
fn a_large_page_is_compressed_for_who_can_read_that() {
    let front = Front::with_stream("", "application/json");
    let body = format!("[{}\"end\"]", "{\"name\":\"the same again\"},".repeat(4000));
    assert!(front.append(&body).starts_with("HTTP/1.1 204 "));
    let get = |more: &str| {
        let mut stream =
            send(&front.address, format!("GET /v1/stream/a HTTP/1.1\r\nHost: test\r\nConnection: close\r\n{more}\r\n"));
        let mut all = Vec::new();
        stream.read_to_end(&mut all).expect("an answer");
        let end = all.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("a head") + 4;
        let bytes = all.split_off(end);
        (String::from_utf8(all).expect("text"), bytes)
    };
    let (plain, bytes) = get("");
    assert!(bytes == body.as_bytes() && header(&plain, "content-encoding").is_empty());
    let (zstd, coded) = get("Accept-Encoding: gzip, zstd\r\n");
    assert!(coded.len() < body.len() / 10, "{}", coded.len());
    assert!(zstd::bulk::decompress(&coded, body.len()).expect("zstd") == body.as_bytes());
    let (gzip, coded) = get("Accept-Encoding: gzip\r\n");
    let mut decoded = String::new();
    flate2::read::GzDecoder::new(&*coded).read_to_string(&mut decoded).expect("gzip");
    assert!(decoded == body);
    for (head, coding) in [(&plain, ""), (&zstd, "zstd"), (&gzip, "gzip")] {
        assert_eq!((header(head, "content-encoding"), header(head, "vary")), (coding, "accept-encoding"));
        assert!(header(head, "cache-control").contains("private"));
    }
    let tags = [&plain, &zstd, &gzip].map(|head| header(head, "etag").to_owned());
    assert!(tags[0] != tags[1] && tags[1] != tags[2] && tags[0] != tags[2], "{tags:?}");
    let has = |tag: &str, accepted: &str| get(&format!("If-None-Match: {tag}\r\nAccept-Encoding: {accepted}\r\n"));
    let (unchanged, none) = has(&tags[1], "zstd");
    assert!(unchanged.starts_with("HTTP/1.1 304 ") && none.is_empty(), "{unchanged}");
    assert_eq!((header(&unchanged, "etag"), header(&unchanged, "vary")), (&*tags[1], "accept-encoding"));
    assert!(has(&tags[1], "gzip").0.starts_with("HTTP/1.1 200 "), "it is another one's");
    assert!(has(&tags[0], "identity").0.starts_with("HTTP/1.1 304 "));
}

#[test]
fn each_request_has_a_name_and_the_log_no_secrets() {
    let scratch = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("there is room for a folder");
    let mut command = everlogd(scratch.path());
    command.env("EVERLOG_LOG", "debug");
    let mut program = Program::start(command.args(QUIET).args(["--init", "--data", "store"]));
    let address = program.line_with("everlogd ready on http://");
    let get = |more: &str| {
        ask(&address, format!("GET /v1/stream/users/alice/notes?offset=-1&token=s3cret HTTP/1.1\r\n{more}\r\n"))
    };
    assert_eq!(header(&get("X-Request-Id: phone-17.a_B\r\n"), "x-request-id"), "phone-17.a_B");
    for strange in ["", "X-Request-Id: a b\r\n", "X-Request-Id: a\r\nX-Request-Id: b\r\n"] {
        let id = header(&get(strange), "x-request-id").to_owned();
        assert!(id.len() == 16 && id.bytes().all(|b| b.is_ascii_hexdigit()), "{id}");
    }
    program.terminate();
    let ended = program.ended();
    let line = ended.stderr.lines().find(|line| line.contains("phone-17.a_B")).expect("a line of the request");
    for part in ["answered", "users/alice", "GET", "404", "took_us"] {
        assert!(line.contains(part), "{part} in {line}");
    }
    assert!(!ended.stderr.contains("s3cret"), "{}", ended.stderr);
}

#[test]
fn operators_see_that_the_server_stops_until_it_has() {
    let front = Front::with_stream("", "text/plain");
    // A request is under way whose body the server has asked for.
    let asking = APPEND.replace("Host: test", "Host: test\r\nExpect: 100-continue");
    let mut slow = send(&front.address, asking.strip_suffix("one").expect("it ends so"));
    assert!(answer(&mut slow).starts_with("HTTP/1.1 100 "));
    front.program.terminate();
    front.told("/readyz", "the server is stopping");
    slow.write_all(b"one").expect("it is still open");
    let told = answer(&mut slow);
    assert!(told.starts_with("HTTP/1.1 204 "), "{told}");
    assert_eq!(front.program.ended().code, 0);
}
