//! Servers and the cold stores that they ship to: the first server stands still, another one is restored and takes the
//! store over, the first goes on. No acknowledgement as cold by either is lost or stands twice, and the first one stops.
//! And cold stores that are destroyed, alone or with the disk.
//!
//! The oracle is this process, which numbers what it appends. What simulated nodes do to one another, at any moment, is in
//! the target `cold`.

use everlog_tests::net::{Answer, Server, ask, told, try_ask};
use everlog_tests::programs::Program;
use everlog_tests::real::leftovers::folder_on_disk;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How often it is done.
const ROUNDS: usize = 5;
const STREAM: &str = "/v1/stream/users/a/notes";
const TEXT: (&str, &str) = ("Content-Type", "text/plain");
const AS_COLD: (&str, &str) = ("Everlog-Durability", "cold");
/// For how long a server that is no owner any more may take to notice.
const PATIENCE: Duration = Duration::from_secs(60);

/// A place for servers' stores and the cold stores of all.
struct Place {
    dir: TempDir,
    /// Their URLs.
    colds: Vec<String>,
    /// What was acknowledged as cold, by number.
    promised: Vec<u64>,
    /// What was sent, in that order: the number of the next is its length.
    sent: u64,
}

impl Place {
    fn new(name: &str, colds: usize) -> Self {
        let dir = folder_on_disk(name).expect("room for a folder");
        let colds = (0..colds).map(|n| format!("file://{}", dir.path().join(format!("cold-{n}")).display())).collect();
        Self { dir, colds, promised: Vec::new(), sent: 0 }
    }

    fn data(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn flags(&self) -> Vec<&str> {
        let colds = self.colds.iter().flat_map(|cold| ["--cold", cold]);
        colds.chain(["--allow-dependent-cold"]).collect()
    }

    /// Destroys a cold store.
    fn destroy(&self, cold: usize) {
        let folder = self.colds[cold].strip_prefix("file://").expect("it is a folder");
        fs::remove_dir_all(folder).expect("it is there");
    }

    /// Restores the store there, from a cold store.
    fn restored(&self, name: &str, cold: usize) -> PathBuf {
        let data = self.data(name);
        let mut command = Command::new(Program::Everlog.path());
        let output = command.args(["restore", "--json", "--cold", &self.colds[cold], "--to"]).arg(&data).output();
        let output = output.expect("everlog starts");
        assert!(output.status.success(), "{}", told(&output));
        data
    }

    /// The next thing to append.
    fn next(&mut self) -> (u64, Vec<u8>) {
        self.sent += 1;
        (self.sent, format!("<{}>", self.sent).into_bytes())
    }

    /// Has the next thing made cold by a server that owns the store.
    fn append_as_cold(&mut self, server: &Server) {
        let (number, body) = self.next();
        let answer = ask(server.address(), "POST", STREAM, &[TEXT, AS_COLD], &body);
        assert!(is_cold(&answer), "{answer:?}");
        self.promised.push(number);
    }

    /// Has the next thing made durable there alone.
    fn append(&mut self, server: &Server) {
        let (_, body) = self.next();
        let answer = ask(server.address(), "POST", STREAM, &[TEXT], &body);
        assert_eq!((answer.status, answer.header("Everlog-Durability")), (204, "local"), "{answer:?}");
    }
}

fn is_cold(answer: &Answer) -> bool {
    matches!(answer.status, 200 | 204) && answer.header("Everlog-Durability") == "cold"
}

/// The numbers that a server has, in their order.
fn numbers(address: SocketAddr) -> Vec<u64> {
    let text = ask(address, "GET", &format!("{STREAM}?offset=-1"), &[], b"").text();
    let numbers = text.split_terminator('>').map(|number| number.trim_start_matches('<').parse());
    numbers.map(|number| number.unwrap_or_else(|e| panic!("{e}: {text}"))).collect()
}

/// An owner that others took the store from, and that goes on: it acknowledges nothing as cold, and ends with 3.
fn goes_on_until_it_is_told(place: &mut Place, old: Server) -> String {
    let address = old.address();
    old.signal("CONT");
    let began = Instant::now();
    // One client waits for what is cold, one for what is local: until the server stops taking anything.
    while let Some(answer) = try_ask(address, "POST", STREAM, &[TEXT, AS_COLD], &place.next().1) {
        assert!(!is_cold(&answer), "it is not the owner: {answer:?}");
        assert!(began.elapsed() < PATIENCE, "it still answers: {answer:?}");
    }
    let (status, log) = old.ended();
    assert_eq!(status.code(), Some(3), "{log}");
    log
}

fn round(n: usize) {
    let mut place = Place::new("takeover", 1);
    let old = Server::start(&place.data("first"), &place.flags());
    assert_eq!(ask(old.address(), "PUT", STREAM, &[TEXT], b"").status, 201);
    for _ in 0..=n {
        place.append_as_cold(&old);
    }
    // Of these none need be shipped: the tail goes up about every second.
    for _ in 0..3 {
        place.append(&old);
    }
    old.signal("STOP");
    // It is taken by the kernel for the process that stands still.
    let (_, body) = place.next();
    let address = old.address();
    let waiting = std::thread::spawn(move || try_ask(address, "POST", STREAM, &[TEXT, AS_COLD], &body));
    let new = Server::start_under(&[], &place.restored("second", 0), &place.flags());
    let inherited = numbers(new.address());
    assert!(place.promised.iter().all(|number| inherited.contains(number)), "{:?} of {inherited:?}", place.promised);
    place.append_as_cold(&new);
    let log = goes_on_until_it_is_told(&mut place, old);
    let answer = waiting.join().expect("it does not panic");
    assert!(answer.as_ref().is_none_or(|answer| !is_cold(answer)), "it was asked of no owner: {answer:?}");
    assert!(log.contains("orphaned"), "it says what it had not shipped: {log}");
    orphans_are_listed(&place.data("first"), n as u64 + 1);
    place.append_as_cold(&new);
    let held = numbers(new.address());
    let (status, log) = new.stop();
    assert_eq!(status.code(), Some(0), "{log}");
    all_is_there_once(&place, &held);
}

/// The directory that is no owner's lists what it alone has: nothing of the first `cold` records, which it told to be cold.
fn orphans_are_listed(data: &Path, cold: u64) {
    let output = Command::new(Program::Everlog.path()).arg("inspect").arg(data).arg("--json").output();
    let output = output.expect("everlog starts");
    let report: serde_json::Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", told(&output)));
    assert!(report["taken_over_in_epoch"].as_u64().is_some_and(|epoch| epoch > 1), "{report}");
    let [orphan] = &report["orphans"].as_array().expect("a list")[..] else { panic!("one log has some: {report}") };
    let seqs = [&orphan["first_seq"], &orphan["next_seq"]].map(|seq| seq.as_u64().expect("a number"));
    assert!(orphan["log"] == "users/a/notes" && cold <= seqs[0] && seqs[0] < seqs[1], "{report}");
}

/// What comes back in the end is what the last owner held, with all that was ever told to be cold, once.
fn all_is_there_once(place: &Place, held: &[u64]) {
    let last = Server::start_under(&[], &place.restored("third", 0), &place.flags());
    let found = numbers(last.address());
    assert_eq!(found, held, "the last owner shipped all that it had before it ended");
    assert!(found.is_sorted_by(|a, b| a < b), "each stands once, in order: {found:?}");
    for number in &place.promised {
        assert!(found.contains(number), "{number} was told to be cold, and there are {found:?}");
    }
}

#[test]
fn an_owner_that_stood_still_while_another_one_took_over_acknowledges_nothing_as_cold_and_stops() {
    (0..ROUNDS).for_each(round);
}

/// Where a stream ends, and up to where it is cold.
fn ends(server: &Server) -> [String; 2] {
    let answer = ask(server.address(), "HEAD", STREAM, &[], b"");
    ["Stream-Next-Offset", "Everlog-Cold-Offset"].map(|name| answer.header(name).to_owned())
}

#[test]
fn what_is_durable_here_alone_is_not_called_cold() {
    let mut place = Place::new("offsets", 1);
    let server = Server::start(&place.data("first"), &place.flags());
    assert_eq!(ask(server.address(), "PUT", STREAM, &[TEXT], b"").status, 201);
    place.append_as_cold(&server);
    let [cold, told] = ends(&server);
    assert_eq!(cold, told, "all of it is cold");
    // It goes up about every second, and no question is as slow as that each time.
    let began = Instant::now();
    let behind = loop {
        place.append(&server);
        let [end, told] = ends(&server);
        assert!(cold <= told && told <= end, "{told} lies between {cold} and {end}");
        if told < end {
            break end;
        }
        assert!(began.elapsed() < PATIENCE, "what was just appended is always called cold");
    };
    while ends(&server)[1] < behind {
        assert!(began.elapsed() < PATIENCE, "it does not come to be cold");
        std::thread::yield_now();
    }
}

/// A directory that was not stopped but ended, and then taken over, is refused.
#[test]
fn a_directory_whose_store_was_taken_over_is_refused_and_nothing_is_written() {
    let mut place = Place::new("refused", 1);
    let old = Server::start(&place.data("first"), &place.flags());
    assert_eq!(ask(old.address(), "PUT", STREAM, &[TEXT], b"").status, 201);
    place.append_as_cold(&old);
    old.kill();
    let new = Server::start_under(&[], &place.restored("second", 0), &place.flags());
    place.append_as_cold(&new);
    let output = refused(&place.data("first"), &place.flags());
    assert!(output.contains("another"), "{output}");
    place.append_as_cold(&new);
    let held = numbers(new.address());
    new.stop();
    all_is_there_once(&place, &held);
}

/// What a server says that is to be refused.
fn refused(data: &Path, flags: &[&str]) -> String {
    let mut command = Command::new("timeout");
    command.arg("60").arg(Program::Everlogd.path()).args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
    let output = command.arg("--data").arg(data).args(flags).output().expect("it starts");
    let told = told(&output);
    assert_eq!(output.status.code(), Some(3), "{told}");
    told
}

#[test]
fn a_cold_store_that_was_destroyed_is_filled_anew_once_that_is_said() {
    let mut place = Place::new("destroyed", 1);
    let server = Server::start(&place.data("first"), &place.flags());
    assert_eq!(ask(server.address(), "PUT", STREAM, &[TEXT], b"").status, 201);
    for _ in 0..3 {
        place.append_as_cold(&server);
    }
    server.stop();
    place.destroy(0);
    let told = refused(&place.data("first"), &place.flags());
    assert!(told.contains("--cold-lost"), "{told}");
    let server = Server::start_under(&[], &place.data("first"), &[&place.flags()[..], &["--cold-lost"]].concat());
    place.append_as_cold(&server);
    let held = numbers(server.address());
    server.stop();
    fs::remove_dir_all(place.data("first")).expect("it is there");
    all_is_there_once(&place, &held);
}

#[test]
fn with_the_disk_and_one_of_two_cold_stores_destroyed_all_is_back_from_the_other() {
    for lost in [0, 1] {
        let mut place = Place::new("both", 2);
        let server = Server::start(&place.data("first"), &place.flags());
        assert_eq!(ask(server.address(), "PUT", STREAM, &[TEXT], b"").status, 201);
        for _ in 0..3 {
            place.append_as_cold(&server);
        }
        place.append(&server);
        let held = numbers(server.address());
        // What is told to be cold is in the first of them; a close ships the rest to both.
        server.stop();
        place.destroy(lost);
        fs::remove_dir_all(place.data("first")).expect("it is there");
        place.colds.remove(lost);
        all_is_there_once(&place, &held);
    }
}
