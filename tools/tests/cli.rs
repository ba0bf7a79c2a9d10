//! The `everlog` program as a shell sees it: what it prints, and the exit codes that scripts rely on.
//!
//! The engine has its own tests; these show only that the program asks it for the right things.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use everlog::{Batch, Config, Store};
use serde_json::Value;

fn everlog(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_everlog")).args(args).output().expect("the program starts")
}

fn scratch() -> tempfile::TempDir {
    // On the disk that the build is on, and not in a memory file system that refuses direct writes.
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("there is room for a folder")
}

fn text(dir: &Path) -> &str {
    dir.to_str().expect("a plain path")
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("it was ended by a signal: {output:?}"))
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("it prints text")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("it prints text")
}

fn json(output: &Output) -> Value {
    assert_eq!(code(output), 0, "{}", stderr(output));
    serde_json::from_slice(&output.stdout).expect("one JSON object")
}

/// A closed store with two logs, partly in a segment.
fn sample(dir: &Path) -> PathBuf {
    let store_dir = dir.join("store");
    Store::create(&store_dir, &Config::small()).expect("the folder is new");
    let store = Store::open(&store_dir, Config::small()).expect("the store is new");
    for (log, payload) in [("users/a/notes", "one".as_bytes()), ("users/b/notes", b"\xff"), ("users/a/notes", b"two")] {
        let mut batch = Batch::new();
        batch.log(log).create_if_missing().record(payload);
        store.append(batch).expect("it is staged").wait().expect("it is durable");
        if payload == b"\xff" {
            store.flush().expect("it goes into a segment");
        }
    }
    store.close().expect("nothing is under way");
    store_dir
}

#[test]
fn init_creates_once() {
    let dir = scratch();
    let store = dir.path().join("store");
    let created = everlog(&["init", "--data", text(&store)]);
    assert_eq!(code(&created), 0, "{}", stderr(&created));
    let before = fs::read_dir(&store).expect("the store is there").count();

    let refused = everlog(&["init", "--data", text(&store)]);
    assert_eq!(code(&refused), 3);
    assert_eq!(stderr(&refused).lines().count(), 2, "cause and remedy: {}", stderr(&refused));
    assert_eq!(fs::read_dir(&store).expect("the store is there").count(), before, "a refusal writes nothing");
}

#[test]
fn a_store_that_is_not_there_is_refused() {
    let dir = scratch();
    let missing = dir.path().join("missing");
    for command in ["inspect", "dump", "verify"] {
        let refused = everlog(&[command, text(&missing)]);
        assert_eq!(code(&refused), 3, "{command}: {}", stderr(&refused));
        assert_eq!(stderr(&refused).lines().count(), 2, "{command}: {}", stderr(&refused));
        assert!(!missing.exists(), "{command} writes nothing");
    }
    assert_eq!(code(&everlog(&["bench", "open", "--data", text(&missing)])), 3);
}

#[test]
fn bad_usage_is_told_from_failure() {
    assert_eq!(code(&everlog(&["inspect"])), 2);
    assert_eq!(code(&everlog(&["bench", "append", "--threads", "0", "--data", "x"])), 2);
    let dir = scratch();
    let store = sample(dir.path());
    assert_eq!(code(&everlog(&["dump", text(&store), "--log", "users//notes"])), 2);
    assert_eq!(code(&everlog(&["dump", text(&store), "--log", "users/a/notes", "--from", "99"])), 2);
    assert_eq!(code(&everlog(&["dump", text(&store), "--log", "users/c/notes"])), 1);
}

#[test]
fn inspect_counts_what_is_there() {
    let dir = scratch();
    let store = sample(dir.path());
    let told = json(&everlog(&["inspect", text(&store), "--json"]));
    assert_eq!((told["owners"].as_u64(), told["logs"].as_u64(), told["records"].as_u64()), (Some(2), Some(2), Some(3)));
    assert_eq!(told["segments"].as_array().map(Vec::len), Some(1), "{told}");
    let table = stdout(&everlog(&["inspect", text(&store)]));
    assert!(table.lines().any(|line| line.split_whitespace().eq(["records", "3"])), "{table}");
}

#[test]
fn dump_prints_every_record_as_it_was() {
    let dir = scratch();
    let store = sample(dir.path());
    let dumped = everlog(&["dump", text(&store), "--json"]);
    assert_eq!(code(&dumped), 0, "{}", stderr(&dumped));
    let records: Vec<Value> =
        stdout(&dumped).lines().map(|line| serde_json::from_str(line).expect("an object a line")).collect();
    let told: Vec<_> = records
        .iter()
        .map(|r| (r["log"].as_str(), r["seq"].as_u64(), r["encoding"].as_str(), r["data"].as_str()))
        .collect();
    assert_eq!(
        told,
        [
            (Some("users/a/notes"), Some(0), Some("utf-8"), Some("one")),
            (Some("users/a/notes"), Some(1), Some("utf-8"), Some("two")),
            (Some("users/b/notes"), Some(0), Some("base64"), Some("/w==")),
        ]
    );
    let one = everlog(&["dump", text(&store), "--log", "users/a/notes", "--from", "1"]);
    assert_eq!(stdout(&one).lines().count(), 1);
    assert!(stdout(&one).contains("two"));
}

#[test]
fn dump_shows_the_store_as_it_was() {
    let dir = scratch();
    let store_dir = sample(dir.path());
    let (before, deleted) = {
        let store = Store::open(&store_dir, Config::small()).expect("it was closed");
        let mut batch = Batch::new();
        batch.log("users/a/notes").trim(2).delete();
        let receipt = store.append(batch).expect("it is staged").wait().expect("it is durable");
        let lsn = receipt.logs[0].lsn.0;
        store.flush().expect("it goes into a segment");
        store.close().expect("nothing is under way");
        (lsn - 2, lsn)
    };
    let dump = |args: &[&str]| everlog(&[&["dump", text(&store_dir)], args].concat());
    assert_eq!(stdout(&dump(&[])).lines().count(), 1);
    let as_it_was = dump(&["--as-of", &before.to_string()]);
    assert_eq!((code(&as_it_was), stdout(&as_it_was).lines().count()), (0, 3), "{}", stderr(&as_it_was));
    let one = dump(&["--as-of", &before.to_string(), "--log", "users/a/notes", "--from", "1"]);
    assert!(stdout(&one).contains("two") && !stdout(&one).contains("one"), "{}", stdout(&one));
    assert_eq!(stdout(&dump(&["--as-of", "1970-01-01T00:00:00Z"])), "", "there was nothing yet");
    assert_eq!(stdout(&dump(&["--as-of", "9990-12-31T23:59:59Z"])).lines().count(), 1, "a time to come is the present");
    let gone = dump(&["--as-of", &deleted.to_string(), "--log", "users/a/notes"]);
    assert!(code(&gone) == 1 && stderr(&gone).contains("was deleted"), "{}", stderr(&gone));
    let to_come = dump(&["--as-of", &(deleted + 1).to_string(), "--log", "users/a/notes"]);
    assert!(code(&to_come) == 2 && stderr(&to_come).contains("past what is durable"), "{}", stderr(&to_come));
    assert_eq!(code(&dump(&["--as-of", "yesterday"])), 2);
}

#[test]
fn reading_commands_work_beside_a_running_store() {
    let dir = scratch();
    let store_dir = sample(dir.path());
    let store = Store::open(&store_dir, Config::small()).expect("it was closed");
    let mut batch = Batch::new();
    batch.log("users/a/notes").record(b"three");
    store.append(batch).expect("it is staged").wait().expect("it is durable");

    // From outside it is seen once a later frame proves it, for which an idle store writes one.
    let began = std::time::Instant::now();
    while json(&everlog(&["inspect", text(&store_dir), "--json"]))["records"].as_u64() != Some(4) {
        assert!(began.elapsed() < std::time::Duration::from_secs(20), "what was acknowledged is not seen");
    }
    let dumped = everlog(&["dump", text(&store_dir), "--log", "users/a/notes", "--from", "2"]);
    assert!(stdout(&dumped).contains("three"), "{}", stderr(&dumped));
    assert_eq!(code(&everlog(&["verify", text(&store_dir)])), 0);
    // What writes is turned away.
    let refused = everlog(&["bench", "open", "--data", text(&store_dir)]);
    assert_eq!(code(&refused), 3, "{}", stderr(&refused));
    store.close().expect("nobody else wrote");
}

#[test]
fn the_stores_clock_catches_up_when_that_is_confirmed_and_not_beside_a_running_store() {
    let dir = scratch();
    let store_dir = sample(dir.path());
    let before = json(&everlog(&["clock", text(&store_dir), "--json"]));
    std::thread::sleep(std::time::Duration::from_millis(1100));
    let after = json(&everlog(&["clock", text(&store_dir), "--json"]));
    assert_eq!((&after["store_us"], &after["moved"]), (&before["store_us"], &Value::Bool(false)), "it stands still");
    assert!(after["behind_seconds"].as_u64() > Some(0), "{after}");
    let running = Store::open(&store_dir, Config::small()).expect("nobody has it open");
    let refused = everlog(&["clock", text(&store_dir), "--confirm"]);
    assert_eq!(code(&refused), 3, "{}", stderr(&refused));
    running.close().expect("nothing is under way");
    let moved = json(&everlog(&["clock", text(&store_dir), "--confirm", "--json"]));
    assert_eq!((&moved["behind_seconds"], &moved["moved"]), (&Value::from(0), &Value::Bool(true)));
    let kept = json(&everlog(&["clock", text(&store_dir), "--json"]));
    assert!(kept["store_us"].as_u64() >= moved["store_us"].as_u64(), "{kept} after {moved}");
}

#[test]
fn damage_is_found_named_and_told_by_the_exit_code() {
    let dir = scratch();
    let store = sample(dir.path());
    assert_eq!(code(&everlog(&["verify", text(&store)])), 0);
    let segments = fs::read_dir(store.join("segments")).expect("there is a folder of segments");
    let segment = segments.map(|entry| entry.expect("it can be listed").path()).next().expect("there is a segment");
    // The first chunk begins behind the header's block.
    let mut bytes = fs::read(&segment).expect("it can be read");
    bytes[4096 + 8] ^= 1;
    fs::write(&segment, bytes).expect("it can be written");

    let verified = everlog(&["verify", text(&store), "--json"]);
    assert_eq!(code(&verified), 4, "{}", stderr(&verified));
    let told: Value = serde_json::from_slice(&verified.stdout).expect("one JSON object");
    let damaged = told["damaged"].as_array().expect("a list of what is damaged");
    assert!(damaged.iter().any(|place| place["log"].as_str().is_some_and(|log| log.starts_with("users/"))), "{told}");
    let dumped = everlog(&["dump", text(&store), "--json"]);
    assert_eq!(code(&dumped), 4, "{}", stdout(&dumped));
    assert!(stdout(&dumped).contains("damaged"), "what could not be had is told: {}", stdout(&dumped));
}

#[test]
fn benches_report_their_numbers() {
    let dir = scratch();
    let store = dir.path().join("append");
    let args = ["--data", text(&store), "--json"];
    let told =
        json(&everlog(&[&["bench", "append", "--seconds", "1", "--threads", "2", "--logs", "10"], &args[..]].concat()));
    for key in
        "appends_per_s records_per_s bytes_per_s p50_us p99_us p999_us syncs_per_s rss_bytes heap_bytes".split(' ')
    {
        assert!(told[key].as_f64().is_some_and(|n| n > 0.0), "{key}: {told}");
    }
    assert!(told["device_bytes_per_payload_byte"].as_f64().is_some_and(|n| n >= 1.0), "{told}");
    assert_eq!(told["config"].as_str(), Some("default"));

    let store = dir.path().join("fill");
    let args = ["--data", text(&store), "--json"];
    let told = json(&everlog(&[&["bench", "fill", "--logs", "100", "--records-per-log", "3"], &args[..]].concat()));
    assert_eq!(told["logs_created_per_s"].as_array().map(Vec::len), Some(10), "{told}");
    assert!(told["data_bytes"].as_u64().is_some_and(|n| n > 30_000), "{told}");

    let told = json(&everlog(&[&["bench", "open"], &args[..]].concat()));
    for key in ["open_ms", "first_read_ms", "first_append_ms", "rss_bytes", "heap_bytes"] {
        assert!(told[key].as_f64().is_some_and(|n| n > 0.0), "{key}: {told}");
    }
    assert!(told["journal_bytes_replayed"].is_u64(), "{told}");

    let told = json(&everlog(&[&["bench", "read", "--sample", "20"], &args[..]].concat()));
    assert!(told["p50_us"].as_f64().is_some_and(|n| n > 0.0), "{told}");
    assert!(told["records"].as_u64().is_some_and(|n| n >= 20), "{told}");
}

/// The sample, shipped to a folder: its directory, the folder's URL, the open store.
fn shipping(dir: &Path) -> (std::path::PathBuf, String, Store) {
    let (store_dir, url) = (sample(dir), format!("file://{}", dir.join("cold").display()));
    let cold = everlog::ColdConfig {
        stores: vec![everlog::cold::connect(&url, dir).expect("a folder")],
        allow_dependent: true,
        ..Default::default()
    };
    let store = Store::open_shipping(&store_dir, Config::small(), &cold).expect("it is sound");
    (store_dir, url, store)
}

#[test]
fn a_store_comes_back_from_its_cold_store() {
    let dir = scratch();
    let (store_dir, url, store) = shipping(dir.path());
    let mut batch = Batch::new();
    batch.log("users/a/notes").record(b"three");
    let lsn = store.append(batch).expect("it is staged").wait().expect("it is durable").logs[0].lsn;
    store.cold(lsn).wait().expect("it is shipped");
    store.close().expect("nothing is under way");
    fs::remove_dir_all(&store_dir).expect("it is lost");

    let verified = json(&everlog(&["verify", "--cold", &url, "--json"]));
    assert_eq!((verified["intact"].as_bool(), verified["last_lsn"].as_u64()), (Some(true), Some(lsn.0)));
    assert_eq!(code(&everlog(&["verify"])), 2, "one of both is to be named");
    let report = json(&everlog(&["restore", "--cold", &url, "--to", text(&store_dir), "--json"]));
    assert_eq!((report["last_lsn"].as_u64(), report["lost"].as_array().map(Vec::len)), (Some(lsn.0), Some(0)));
    let dump = everlog(&["dump", text(&store_dir), "--log", "users/a/notes"]);
    assert!(stdout(&dump).contains("three"), "{}", stdout(&dump));

    let nothing = format!("file://{}", dir.path().join("nothing").display());
    let refused = everlog(&["restore", "--cold", &nothing, "--to", text(&dir.path().join("elsewhere"))]);
    assert_eq!((code(&refused), stderr(&refused).lines().count()), (3, 2), "{}", stderr(&refused));
    let tails = dir.path().join("cold/tail/0000000000000001");
    fs::write(tails.join(format!("{:016x}", 0)), b"rotten").expect("it is there");
    let verified = everlog(&["verify", "--cold", &url, "--json"]);
    assert_eq!(code(&verified), 4, "{}", stderr(&verified));
    let damage: Value = serde_json::from_slice(&verified.stdout).expect("one JSON object");
    assert!(damage["damaged"][0]["file"].as_str().is_some_and(|file| file.starts_with("tail/")), "{damage}");

    let bad = everlog(&["restore", "--cold", "nowhere", "--to", text(&dir.path().join("elsewhere"))]);
    assert_eq!(code(&bad), 2, "{}", stderr(&bad));
}

#[test]
fn single_logs_come_back_in_a_store_of_their_own() {
    let dir = scratch();
    let (_, url, store) = shipping(dir.path());
    let write = |change: &dyn for<'a, 'b> Fn(&'b mut everlog::LogBatch<'a>) -> &'b mut everlog::LogBatch<'a>| {
        let mut batch = Batch::new();
        change(batch.log("users/a/notes"));
        let lsn = store.append(batch).expect("it is staged").wait().expect("it is durable").logs[0].lsn;
        store.cold(lsn).wait().expect("it is shipped");
        lsn
    };
    write(&|log| log.record(b"three").metadata(b"of a").trim(1));
    let moment = write(&|log| log.record(b"four").tag(b"tag").close()).0.to_string();
    let before = store.info("users/a/notes").expect("it is there");
    // One that is open, and empty but for a tag.
    let mut batch = Batch::new();
    batch.log("users/c/notes").create().tag(b"high");
    store.append(batch).expect("it is staged").wait().expect("it is durable");
    write(&|log| log.delete());
    let id = store.id();
    store.close().expect("nothing is under way");

    let to = dir.path().join("alone");
    let restore = |rest: &[&str]| everlog(&[&["restore", "--cold", &url, "--to", text(&to)], rest].concat());
    for log in ["users/a/notes", "users/nobody"] {
        let gone = restore(&["--log", log]);
        assert_eq!((code(&gone), stderr(&gone).lines().count(), to.exists()), (1, 2, false), "{}", stderr(&gone));
    }
    assert!(dir.path().join("alone.partial/whole").exists(), "what was restored is there for the next attempt");
    let asked = ["--log", "users/a/notes", "--log", "users/a/notes", "--as-of", &moment];
    let report = json(&restore(&[&asked[..], &["--json"]].concat()));
    assert_eq!((report["logs"].as_array().map(Vec::len), report["last_lsn"].to_string()), (Some(1), moment.clone()));
    let there: Vec<_> = fs::read_dir(dir.path()).expect("it is there").map(|e| e.expect("read").file_name()).collect();
    assert!(!there.iter().any(|name| name == "alone.partial"), "{there:?}");

    let alone = everlog::Store::open(&to, Config::small()).expect("it has no cold store, and needs none");
    assert!(alone.id() != id && report["store"] == alone.id().to_string() && report["of"] == id.to_string());
    assert_eq!(alone.list("", None, 10).expect("sound").len(), 1);
    let info = alone.info("users/a/notes").expect("it is there");
    let facts = |info: &everlog::LogInfo| {
        (info.first_seq, info.next_seq, info.closed, info.metadata.clone(), info.tag.clone(), info.deleted)
    };
    assert_eq!(facts(&info), facts(&before));
    let page = alone.read("users/a/notes", 1, everlog::ReadLimit::default()).expect("sound");
    let payloads: Vec<_> = page.records.iter().map(|record| String::from_utf8_lossy(&record.payload)).collect();
    assert_eq!(payloads[payloads.len() - 2..], ["three", "four"]);
    alone.close().expect("nothing is under way");
    let again = restore(&asked);
    assert_eq!((code(&again), stderr(&again).lines().count()), (3, 2), "{}", stderr(&again));

    let to = dir.path().join("open");
    let restore = |log: &str| everlog(&["restore", "--cold", &url, "--to", text(&to), "--log", log]);
    let partial = dir.path().join("open.partial");
    for (log, exit) in [("/", 2), ("users/c/notes", 3)] {
        fs::create_dir_all(&partial).expect("there is room");
        fs::write(partial.join("store"), b"somebody's").expect("there is room");
        let refused = restore(log);
        assert_eq!((code(&refused), stderr(&refused).lines().count()), (exit, 2), "{}", stderr(&refused));
        assert_eq!(fs::read(partial.join("store")).expect("it is left alone"), b"somebody's");
    }
    fs::remove_dir_all(&partial).expect("it is there");
    let restored = restore("users/c/notes");
    assert_eq!(code(&restored), 0, "{}", stderr(&restored));
    let open = Store::open(&to, Config::small()).expect("sound");
    assert_eq!(open.info("users/c/notes").expect("it is there").tag, b"high");
}

#[test]
fn a_log_of_which_something_is_damaged_comes_back_up_to_there_and_the_rest_is_named() {
    let dir = scratch();
    let (_, url, store) = shipping(dir.path());
    let noise =
        |n: u32| -> Vec<u8> { (0..64u32).flat_map(|k| (n * 64 + k).wrapping_mul(0x9e37_79b9).to_le_bytes()).collect() };
    for n in 0..2000 {
        let (mut batch, payload) = (Batch::new(), noise(n));
        batch.log("users/d/notes").create_if_missing().record(&payload);
        let ack = store.append(batch).expect("it is staged");
        if n % 500 == 499 {
            ack.wait().expect("it is durable");
        }
    }
    let end = store.info("users/d/notes").expect("it is there").next_seq;
    store.flush().expect("it goes into a segment");
    let last = store.durable_level();
    store.cold(last).wait().expect("it is shipped");
    let until = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while json(&everlog(&["verify", "--cold", &url, "--json"]))["segment_bytes"].as_u64() < Some(2000 * 256) {
        assert!(std::time::Instant::now() < until, "the segment is not shipped");
    }
    store.close().expect("nothing is under way");
    let files = fs::read_dir(dir.path().join("cold/segment")).expect("it is there").map(|e| e.expect("read").path());
    let path = files.max_by_key(|path| fs::metadata(path).expect("it is there").len()).expect("there is one");
    let mut bytes = fs::read(&path).expect("it is there");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).expect("it is there");

    let to = dir.path().join("alone");
    let restored = everlog(&["restore", "--cold", &url, "--to", text(&to), "--log", "users/d/notes", "--json"]);
    assert_eq!(code(&restored), 4, "{}", stderr(&restored));
    let report: Value = serde_json::from_slice(&restored.stdout).expect("one JSON object");
    let log = &report["logs"][0];
    let next = log["next_seq"].as_u64().expect("a number");
    assert!((100..end - 100).contains(&next), "{report}");
    assert_eq!((log["missing_from"].as_u64(), log["missing_to"].as_u64()), (Some(next), Some(end - 1)));
    assert!(report["lost"].as_array().is_some_and(|lost| !lost.is_empty()), "{report}");
    let whole = everlog::ReadOnly::open(&to).expect("sound");
    let limit = everlog::ReadLimit { records: usize::MAX, bytes: usize::MAX };
    let page = whole.read("users/d/notes", 0, limit).expect("sound");
    assert!(page.head == next && page.records.iter().zip(0..).all(|(record, n)| record.payload == noise(n)));
}

#[test]
fn a_store_comes_back_as_it_was_if_devices_are_to_set_aside_what_is_newer() {
    let dir = scratch();
    let (_, url, store) = shipping(dir.path());
    let lsns = [b"good", b"evil"].map(|payload| {
        let mut batch = Batch::new();
        batch.log("users/a/notes").record(payload);
        let lsn = store.append(batch).expect("it is staged").wait().expect("it is durable").logs[0].lsn;
        store.cold(lsn).wait().expect("it is shipped");
        lsn
    });
    store.close().expect("nothing is under way");

    let to = dir.path().join("as-it-was");
    let (moment, past) = (lsns[0].0.to_string(), (lsns[1].0 + 1).to_string());
    let restore = |rest: &[&str]| everlog(&[&["restore", "--cold", &url, "--to", text(&to)], rest].concat());
    let unsaid = restore(&["--as-of", &moment]);
    assert_eq!((code(&unsaid), stderr(&unsaid).lines().count()), (2, 2), "{}", stderr(&unsaid));
    assert!(stderr(&unsaid).contains("devices") && !to.exists(), "{}", stderr(&unsaid));
    let later = restore(&["--as-of", &past, "--mode", "rewind"]);
    assert_eq!((code(&later), to.exists()), (3, false), "{}", stderr(&later));
    assert!(stderr(&later).contains(&format!("as of LSN {} or an earlier moment", lsns[1])), "{}", stderr(&later));

    let report = json(&restore(&["--as-of", &moment, "--mode", "rewind", "--json"]));
    assert_eq!((report["mode"].as_str(), report["last_lsn"].as_u64()), (Some("rewind"), Some(lsns[0].0)));
    assert!(report["time_us"].is_u64() && report.get("local_unknown_after_us").is_none(), "{report}");
    let dump = stdout(&everlog(&["dump", text(&to), "--log", "users/a/notes"]));
    assert!(dump.contains("good") && !dump.contains("evil"), "{dump}");
}
