//! `everlog bench http`: what it reports is what happened, and a failure is never among the requests it counts.
//!
//! The oracles are the store of a real everlogd, and a server that counts how it misbehaves.

use everlog::{ReadLimit, ReadOnly};
use everlog_tests::net::Server;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

fn bench(server: &str, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_everlog"));
    command.args(["bench", "http", "--json", "--seconds", "1", "--server", server]).args(args);
    command.output().expect("the program starts")
}

#[track_caller]
fn report(output: &Output, code: i32) -> Value {
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{told}");
    // A success says nothing on stderr; a failure its cause and the remedy.
    assert_eq!(told.lines().count(), if code == 0 { 0 } else { 2 }, "{told}");
    serde_json::from_slice(&output.stdout).expect("one JSON object")
}

fn count(report: &Value, field: &str) -> u64 {
    report[field].as_u64().unwrap_or_else(|| panic!("{field} is a count: {report}"))
}

fn figure(report: &Value, field: &str) -> f64 {
    report[field].as_f64().unwrap_or_else(|| panic!("{field} is a figure: {report}"))
}

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("there is room for a folder")
}

/// The records of each log of a bench, all of which must have `record_bytes`.
fn records(data: &Path, record_bytes: usize) -> Vec<u64> {
    let store = ReadOnly::open(data).expect("a store that was closed can be read");
    let logs = store.list("bench/", None, 1000).expect("the logs are known");
    let of_log = |name: &str| {
        let mut next = 0;
        loop {
            let page = store.read(name, next, ReadLimit::default()).expect("the records are intact");
            assert!(page.records.iter().all(|record| record.payload.len() == record_bytes), "as long as was asked for");
            next = page.next_seq;
            if next == page.head {
                return next;
            }
        }
    };
    logs.iter().map(|log| of_log(&log.name)).collect()
}

#[test]
fn every_reader_that_waits_gets_what_is_appended() {
    let dir = scratch();
    let server = Server::start(&dir.path().join("store"), &[]);
    let live = |connections: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_everlog"));
        command.args(["bench", "live", "--json", "--seconds", "1", "--settle", "0", "--rate", "50", "--streams", "10"]);
        command.args(["--connections", connections, "--server-pid", &server.pid().to_string()]);
        command.args(["--server", &format!("http://{}", server.address())]).output().expect("the program starts")
    };
    let waited = report(&live("40"), 0);
    assert_eq!(count(&waited, "appends"), 50, "{waited}");
    // Four readers wait on each stream. A long poll that is being sent again while more comes gets both at once.
    assert_eq!(count(&waited, "deliveries"), 200, "{waited}");
    let quantiles = ["delivery_p50_us", "delivery_p99_us", "delivery_max_us"].map(|field| figure(&waited, field));
    assert!(quantiles[0] > 0.0 && quantiles.is_sorted(), "{waited}");
    assert!(count(&waited, "rss_before_bytes") > 1 << 20, "{waited}");
}

#[test]
fn what_is_counted_is_in_the_store() {
    let dir = scratch();
    let data = dir.path().join("store");
    let server = Server::start(&data, &[]);
    let url = format!("http://{}", server.address());
    let args = ["--streams", "20", "--connections", "8", "--record-bytes", "300"];
    let report = report(&bench(&url, &args), 0);
    let (status, log) = server.stop();
    assert!(status.success(), "{log}");

    let (requests, errors) = (count(&report, "requests"), count(&report, "errors"));
    assert!(requests > 0 && errors == 0, "{report}");
    let stored = records(&data, 300);
    assert_eq!(stored.len(), 20, "each stream was created");
    assert!(stored.iter().all(|records| *records > 0), "they are chosen at random: {stored:?}");
    assert!(stored.iter().sum::<u64>() > requests, "all that was counted is there, and what warmed up");
    let (rate, seconds) = (figure(&report, "requests_per_s"), figure(&report, "seconds"));
    assert!((rate * seconds - requests as f64).abs() < 1.0 && seconds >= 1.0, "{report}");
    let quantiles = ["p50_us", "p99_us", "p999_us"].map(|field| figure(&report, field));
    assert!(quantiles[0] > 0.0 && quantiles.is_sorted(), "{report}");
    // Where docs/FORMAT.md has the store's id.
    let identity = std::fs::read(data.join("IDENTITY")).expect("a store has one");
    let store: String = identity[40..56].iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(report["store"], Value::String(store));
}

#[test]
fn what_the_server_turns_away_is_no_request() {
    let dir = scratch();
    let server = Server::start(&dir.path().join("store"), &[]);
    let url = format!("http://{}", server.address());
    let report = report(&bench(&url, &["--streams", "2", "--connections", "2", "--record-bytes", "8388609"]), 1);
    assert_eq!((count(&report, "requests"), figure(&report, "requests_per_s")), (0, 0.0), "{report}");
    let errors = count(&report, "errors");
    assert!(errors > 0);
    assert_eq!(report["errors_by_status"], serde_json::json!([{"status": 413, "count": errors}]));
}

/// A server that answers every third append as it should, every third with 503, and breaks the connection instead of
/// answering the rest.
#[derive(Default)]
struct Unreliable {
    appends: AtomicU64,
}

impl Unreliable {
    fn start() -> (SocketAddr, Arc<Self>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
        let address = listener.local_addr().expect("it is bound");
        let server = Arc::new(Self::default());
        let of_thread = Arc::clone(&server);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let server = Arc::clone(&of_thread);
                std::thread::spawn(move || server.serve(&stream));
            }
        });
        (address, server)
    }

    fn serve(&self, mut stream: &TcpStream) {
        let mut requests = BufReader::new(stream);
        loop {
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                if requests.read_line(&mut head).expect("a request is text") == 0 {
                    return;
                }
            }
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or("0");
            let mut body = vec![0; length.parse().expect("a length")];
            requests.read_exact(&mut body).expect("the body is whole");
            let answer = match (head.starts_with("PUT "), self.appends.load(Ordering::Relaxed) % 3) {
                (true, _) => "HTTP/1.1 201 Created\r\nServer: unreliable\r\nContent-Length: 0\r\n\r\n",
                (_, 0) => "HTTP/1.1 204 No Content\r\n\r\n",
                (_, 1) => "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nbusy",
                _ => "",
            };
            if !head.starts_with("PUT ") {
                self.appends.fetch_add(1, Ordering::Relaxed);
            }
            if answer.is_empty() {
                return;
            }
            stream.write_all(answer.as_bytes()).expect("the client reads");
        }
    }
}

#[test]
fn every_failure_is_counted_as_what_it_was() {
    let (address, server) = Unreliable::start();
    let args = ["--streams", "3", "--connections", "1", "--record-bytes", "10"];
    let report = report(&bench(&format!("http://{address}"), &args), 1);
    let appends = server.appends.load(Ordering::Relaxed);
    // The appends take turns: answered, refused, broken off.
    let (refused, broken) = ((appends + 1) / 3, appends / 3);
    assert_eq!(report["errors_by_status"], serde_json::json!([{"status": 503, "count": refused}]));
    assert_eq!(count(&report, "broken_connections"), broken, "{report}");
    assert_eq!(count(&report, "errors"), refused + broken, "{report}");
    let requests = count(&report, "requests");
    assert!(requests > 0 && requests < appends.div_ceil(3), "without what warmed up: {report}, {appends} appends");
    assert_eq!((&report["server_version"], &report["store"]), (&Value::from("unreliable"), &Value::Null));
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let https = bench("https://127.0.0.1:4437", &[]);
    assert_eq!((https.status.code(), https.stdout.len()), (Some(2), 0));
    let listener = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    let address = listener.local_addr().expect("it is bound");
    drop(listener);
    let nobody = bench(&format!("http://{address}"), &[]);
    assert_eq!((nobody.status.code(), nobody.stdout.len()), (Some(1), 0));
    for output in [https, nobody] {
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(told.lines().count(), 2, "cause and remedy: {told}");
    }
}
