//! Golden stores, and random ones: both readers of the format read them, and find what the oracle says. Of golden stores
//! that are damaged, and of those that a later version wrote, the verdict is the one that is written down.
//!
//! `cargo xtask golden` makes the stores anew. Invariant: nothing is compared with what the engine says of itself.

use everlog::{Config, ErrorKind, ReadOnly, Store};
use everlog_tests::golden::cases::{Case, Outcome, Verdict};
use everlog_tests::golden::fixture::{self, Fixture};
use everlog_tests::golden::listing::{Reads, looked_at, opened_differs};
use everlog_tests::golden::maker::{DIR, in_memory, small};
use everlog_tests::golden::{Listing, random, stores};
use everlog_tests::programs::{Program, target_dir};
use everlog_tests::reader::{self, Fault, Files};
use everlog_tests::sim::SimClock;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, LazyLock};
use tempfile::TempDir;

fn seeds() -> std::ops::Range<u64> {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
    match number("EVERLOG_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("EVERLOG_SEEDS").unwrap_or(200),
    }
}

/// Where one of the readers differs from the oracle, or cannot read.
fn differs(files: &reader::Files, expected: &Listing) -> Result<Option<String>, String> {
    let contents = reader::read(files).map_err(|fault| format!("the second reader: {fault}"))?;
    if let Some(difference) = expected.difference(&Listing::from(&contents)) {
        return Ok(Some(format!("the second reader: {difference}")));
    }
    let io = in_memory(files);
    let look = ReadOnly::open_on(Arc::new(io.clone()), Path::new(DIR)).map_err(|e| format!("a look: {e}"))?;
    let found = looked_at(&look, expected).map_err(|e| format!("a look: {e}"))?;
    if let Some(difference) = expected.clone().without_producers().difference(&found) {
        return Ok(Some(format!("a look: {difference}")));
    }
    let clock = Arc::new(SimClock::default());
    let opened = Store::open_stepped(Arc::new(io), clock, Path::new(DIR), small());
    let (store, _steps) = opened.map_err(|e| format!("the open: {e}"))?;
    if store.recovery().clean != contents.clean {
        return Ok(Some(format!("clean: the second reader says {}, the open does not", contents.clean)));
    }
    let found = opened_differs(&store, expected).map_err(|e| format!("the open: {e}"))?;
    Ok(found.map(|difference| format!("the open: {difference}")))
}

#[test]
fn both_readers_find_in_random_stores_what_the_oracle_says() {
    for seed in seeds() {
        let (files, expected) = random::store(seed);
        if let Some(difference) = differs(&files, &expected).unwrap_or_else(Some) {
            let again = format!("EVERLOG_SEED={seed} cargo test -p everlog-tests --test golden");
            panic!("seed {seed}: {difference}\nto run it again: {again}");
        }
    }
}

/// A folder on a real disk, where O_DIRECT works.
fn scratch() -> TempDir {
    TempDir::new_in(target_dir()).expect("the target folder can be written")
}

fn unpacked(files: &Files) -> TempDir {
    let dir = scratch();
    fixture::unpack(files, dir.path()).expect("the folder can be written");
    dir
}

/// Runs `everlog {command} DIR --json`; its exit code and what it printed.
fn everlog(command: &str, dir: &Path) -> (i32, Value) {
    static PROGRAM: LazyLock<PathBuf> = LazyLock::new(|| Program::Everlog.path());
    let out = Command::new(&*PROGRAM).args([command, "--json"]).arg(dir).output().expect("it starts");
    let code = out.status.code().expect("no signal ended it");
    (code, serde_json::from_slice(&out.stdout).unwrap_or(Value::Null))
}

fn open_on_disk(dir: &Path) -> everlog::Result<Store> {
    Store::open(dir, Config { journal_file_bytes: 1 << 20, ..Config::small() })
}

#[test]
fn golden_stores_hold_what_is_written_down() {
    for Fixture { name, files, listing } in fixture::load() {
        if let Some(difference) = differs(&files, &listing).unwrap_or_else(Some) {
            panic!("{name}: {difference}");
        }
        let dir = unpacked(&files);
        let look = ReadOnly::open(dir.path()).unwrap_or_else(|e| panic!("{name}: {e}"));
        let found = looked_at(&look, &listing).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(listing.clone().without_producers().difference(&found), None, "{name}, looked at");
        for command in ["verify", "inspect"] {
            let (code, printed) = everlog(command, dir.path());
            assert_eq!(code, 0, "{name}: everlog {command} printed {printed}");
        }
        check_unchanged(dir.path(), &files);
        let store = open_on_disk(dir.path()).unwrap_or_else(|e| panic!("{name}: {e}"));
        let lost = store.recovery().possibly_acknowledged.is_some();
        assert_eq!(lost, name == "torn", "{name}: a frame that was half written may have been acknowledged");
        let difference = opened_differs(&store, &listing).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(difference, None, "{name}, open");
        store.close().unwrap_or_else(|e| panic!("{name}: {e}"));
        // What the open made of it is read by both, too.
        let files = reader::files_of(dir.path());
        let contents = reader::read(&files).unwrap_or_else(|fault| panic!("{name}, closed again: {fault}"));
        assert!(contents.clean, "{name} was closed cleanly");
        let mut expected = listing.clone();
        expected.timelines = contents.timelines.iter().map(|timeline| timeline.counter).collect();
        assert_eq!(expected.difference(&Listing::from(&contents)), None, "{name}, closed again");
    }
}

/// Nothing was written into `dir`, where `files` were put; the lock's file, which has no bytes, is none of them.
fn check_unchanged(dir: &Path, files: &Files) {
    let found = reader::files_of(dir);
    let names = files.keys().chain(found.keys()).filter(|name| *name != "LOCK");
    let changed: Vec<&String> = names.filter(|name| files.get(*name) != found.get(*name)).collect();
    assert!(changed.is_empty(), "{changed:?} were written, added or removed");
}

#[test]
fn golden_stores_that_are_made_anew_hold_what_is_written_down() {
    let fixtures = fixture::load();
    let made = stores::all();
    let names = |name: &dyn Fn(usize) -> String, count| (0..count).map(name).collect::<std::collections::BTreeSet<_>>();
    assert_eq!(
        names(&|n| made[n].name.to_owned(), made.len()),
        names(&|n| fixtures[n].name.clone(), fixtures.len()),
        "cargo xtask golden was run"
    );
    for golden in made {
        let fixture = fixtures.iter().find(|fixture| fixture.name == golden.name).expect("the names are the same");
        assert_eq!(fixture.listing.difference(&golden.listing), None, "{}: cargo xtask golden was run", golden.name);
    }
}

fn outcome(kind: Option<ErrorKind>) -> Option<Outcome> {
    match kind {
        None => Some(Outcome::Opens),
        Some(ErrorKind::Damaged) => Some(Outcome::Damaged),
        Some(ErrorKind::Refused) => Some(Outcome::Refused),
        Some(_) => None,
    }
}

/// Each log is as it was, or "damaged" if it is one of those that are lost.
fn check_logs(store: &impl Reads, expected: &Listing, lost: &[String]) {
    for (name, log) in &expected.logs {
        let alone = Listing { logs: [(name.clone(), log.clone())].into(), ..Listing::default() }.without_producers();
        let found = everlog_tests::golden::listing::log(store, name);
        if lost.contains(name) {
            let kind = found.map(|_| ()).map_err(|e| e.kind());
            assert_eq!(kind, Err(ErrorKind::Damaged), "log {name}");
        } else {
            let found = found.unwrap_or_else(|e| panic!("log {name}: {e}"));
            assert_eq!(found.as_ref(), alone.logs.get(name), "log {name}");
        }
    }
}

fn check_case(case: &Case, base: &Fixture) {
    let files = case.apply(&base.files);
    let Verdict { open, look, reader, verify, inspect, lost, named, first_lsn } = &case.verdict;
    let read = match reader::read(&files) {
        Ok(contents) => {
            assert_eq!(contents.writable, *open == Outcome::Opens, "whether the second reader may write");
            assert_eq!(base.listing.difference(&Listing::from(&contents)), None, "the second reader");
            Outcome::Opens
        }
        Err(Fault::Damaged { .. }) => Outcome::Damaged,
        Err(Fault::Refused { .. }) => Outcome::Refused,
    };
    assert_eq!(read, *reader, "the second reader");

    let dir = unpacked(&files);
    let looked = ReadOnly::open(dir.path());
    assert_eq!(outcome(looked.as_ref().err().map(everlog::Error::kind)), Some(*look), "a look: {looked:?}");
    if let Ok(store) = &looked {
        check_logs(store, &base.listing, lost);
    }
    let (code, printed) = everlog("verify", dir.path());
    assert_eq!(code, *verify, "everlog verify printed {printed}");
    let found: Vec<Value> = printed["damaged"].as_array().cloned().unwrap_or_default();
    for seqs in named {
        let is = |f: &Value| f["log"] == seqs.log && f["first_seq"] == seqs.first && f["last_seq"] == seqs.last;
        assert!(found.iter().any(is), "everlog verify names {seqs:?} in {printed}");
    }
    if let Some(lsn) = first_lsn {
        let least = found.iter().filter_map(|f| f["first_lsn"].as_u64()).min();
        assert_eq!(least, Some(*lsn), "everlog verify names the first LSN in {printed}");
    }
    let (code, printed) = everlog("inspect", dir.path());
    assert_eq!(code, *inspect, "everlog inspect printed {printed}");
    check_unchanged(dir.path(), &files);

    let opened = open_on_disk(dir.path());
    assert_eq!(outcome(opened.as_ref().err().map(everlog::Error::kind)), Some(*open), "the open: {opened:?}");
    match &opened {
        Ok(store) => check_logs(store, &base.listing, lost),
        Err(e) => {
            assert!(
                first_lsn.is_none() || e.lsn_range().map(|lsns| lsns.start) == *first_lsn,
                "the open names LSNs: {e}"
            );
            check_unchanged(dir.path(), &files);
        }
    }
}

#[test]
fn the_verdict_on_golden_stores_that_are_damaged_or_newer_is_the_one_that_is_written_down() {
    let fixtures = fixture::load();
    let mut failed = Vec::new();
    for case in fixture::load_cases() {
        let base = fixtures.iter().find(|fixture| fixture.name == case.base).expect("a case is of a golden store");
        if std::panic::catch_unwind(|| check_case(&case, base)).is_err() {
            failed.push(format!("{} ({})", case.name, case.base));
        }
    }
    assert!(failed.is_empty(), "wrong verdicts, told above: {failed:#?}");
}
