//! A process that imports a folder is killed again and again, with appends under way; the oracle is this process.
//!
//! Every line that the import printed through its pipe is what "a client was told". After each kill, and at the end,
//! the store is compared with that: every acknowledged record is there, byte for byte, once and in order, and one that
//! was not acknowledged is there whole or not at all. A kill is counted only if at that moment an append was under way
//! that no earlier run had seen acknowledged. What this does not do: it kills the process and not the machine, so it
//! shows nothing about the disk's cache.
//!
//! The moments are drawn from a seed, printed at the start; EVERLOG_KILL_SEED sets it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use everlog::{ReadLimit, ReadOnly};
use everlog_tests::folders::{files, fixtures};
use everlog_tests::programs::{Program, target_dir};

/// Kills with an append under way.
const KILLS: usize = 40;
/// Runs, whatever became of them: a bound, so that a broken import ends in a failure.
const RUNS_MAX: usize = 400;
const PART_BYTES: usize = 256 << 10;

#[test]
fn what_was_acknowledged_survives_forty_kills() {
    let seed = match std::env::var("EVERLOG_KILL_SEED") {
        Ok(seed) => seed.parse().expect("EVERLOG_KILL_SEED is a number"),
        Err(_) => SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970").as_nanos() as u64,
    };
    eprintln!("EVERLOG_KILL_SEED={seed}");
    let scratch = tempfile::Builder::new().prefix("kill").tempdir_in(target_dir()).expect("room for a folder");
    let mut world = World {
        example: Program::Import.path(),
        data: scratch.path().join("store"),
        corpus: corpus(),
        told: BTreeMap::new(),
        random: seed,
    };

    let (mut kills, mut runs, mut round) = (0, 0, 0);
    while kills < KILLS {
        runs += 1;
        assert!(runs <= RUNS_MAX, "{kills} kills with an append under way in {runs} runs");
        let (status, in_flight) = world.run(round, true);
        if status.success() {
            world.check(round, true);
            round += 1;
        } else {
            assert_eq!(status.signal(), Some(9), "the import failed by itself: {status}");
            kills += usize::from(in_flight);
            world.check(round, false);
        }
    }
    let (status, _) = world.run(round, false);
    assert!(status.success(), "the last run is left alone: {status}");
    for round in 0..=round {
        world.check(round, true);
    }
    world.export(round + 1, scratch.path());
    eprintln!("{runs} runs, {kills} kills with an append under way, {} imports of the whole corpus", round + 1);
}

/// Killed between the steps of a creation, an import has left a directory without an identity.
#[test]
fn an_import_killed_while_it_created_its_store_goes_on() {
    let scratch = tempfile::Builder::new().prefix("kill").tempdir_in(target_dir()).expect("room for a folder");
    let data = scratch.path().join("store");
    fs::create_dir_all(data.join("segments")).expect("a new folder");
    fs::write(data.join("LOCK"), b"").expect("a new file");
    let import = || {
        let mut command = Command::new(Program::Import.path());
        command.args(["--init", "--data"]).arg(&data).arg(fixtures()).stdout(Stdio::null());
        command.status().expect("the example starts")
    };
    assert!(import().success(), "what was left is made anew");
    assert!(import().success(), "the store is opened");

    let other = scratch.path().join("other");
    fs::create_dir(&other).expect("a new folder");
    for name in ["letter.txt", "letter.tmp"] {
        fs::write(other.join(name), b"dear").expect("a new file");
        let mut command = Command::new(Program::Import.path());
        let status = command.args(["--init", "--data"]).arg(&other).arg(fixtures()).stderr(Stdio::null()).status();
        assert!(!status.expect("the example starts").success(), "somebody's folder becomes no store");
        assert_eq!(fs::read_dir(&other).expect("it is there").count(), 1, "and nothing is written or removed there");
        fs::remove_file(other.join(name)).expect("it is still there");
    }
}

/// The example, the store it works on, and all it ever said.
struct World {
    example: PathBuf,
    data: PathBuf,
    /// Content by path.
    corpus: BTreeMap<String, Vec<u8>>,
    /// By path, prefix included: the numbers of the records acknowledged.
    told: BTreeMap<String, BTreeSet<u32>>,
    random: u64,
}

impl World {
    /// One run, killed at a random moment if `kill`. Also says whether an append was under way that was never
    /// acknowledged before.
    fn run(&mut self, round: usize, kill: bool) -> (ExitStatus, bool) {
        let mut child = Command::new(&self.example)
            .args(["--init", "--trace", "--prefix", &format!("round{round}"), "--data"])
            .arg(&self.data)
            .arg(fixtures())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the example starts");
        let mut lines = BufReader::new(child.stdout.take().expect("it is piped"));
        // The moment: either some time after the start, which often is in the middle of recovery, or some time after
        // so many new appends were begun. Progress instead of time, so that slow and fast machines do the same.
        let early = self.draw(8) == 0;
        let news_wanted = if early { 0 } else { 1 + self.draw(200) };
        let pause = Duration::from_micros(self.draw(if early { 30_000 } else { 2_000 }));
        let (mut news, mut under_way) = (0, BTreeSet::new());
        if kill && early {
            std::thread::sleep(pause);
            kill_now(&mut child);
        }
        let mut line = String::new();
        // To the end of the pipe: what was written before the kill was told.
        while lines.read_line(&mut line).expect("the pipe can be read") > 0 {
            let Some(line) = std::mem::take(&mut line).strip_suffix('\n').map(str::to_owned) else {
                break; // A line cut by the kill was not told.
            };
            let words: Vec<_> = line.split(' ').collect();
            match words[..] {
                ["sent", path, number] => {
                    let number = number.parse().expect("a number");
                    if !self.told.get(path).is_some_and(|told| told.contains(&number)) {
                        under_way.insert((path.to_owned(), number));
                        news += 1;
                        if kill && news == news_wanted {
                            std::thread::sleep(pause);
                            kill_now(&mut child);
                        }
                    }
                }
                ["acked", path, number] => {
                    let number = number.parse().expect("a number");
                    under_way.remove(&(path.to_owned(), number));
                    self.told.entry(path.to_owned()).or_default().insert(number);
                }
                ["acked", path] => self.told_whole(path),
                _ => panic!("an unknown line: {line}"),
            }
        }
        let status = child.wait().expect("the child is ours");
        (status, !under_way.is_empty())
    }

    /// A file may be called acknowledged only after each of its records was.
    fn told_whole(&self, path: &str) {
        let (_, item) = path.split_once('/').expect("paths begin with the round");
        let content = &self.corpus[item];
        let records = 1 + content.len().div_ceil(PART_BYTES);
        assert_eq!(self.told.get(path).map_or(0, BTreeSet::len), records, "{path} was called acknowledged too early");
    }

    /// Compares the store with what was told about a round, without opening it for writing: recovery is left to the
    /// run that follows.
    fn check(&self, round: usize, complete: bool) {
        let prefix = format!("round{round}/");
        let told: BTreeMap<_, _> = self.told.iter().filter(|(path, _)| path.starts_with(&prefix)).collect();
        if told.is_empty() && !complete {
            return; // Killed before the first acknowledgement, maybe before there was a store.
        }
        let store = ReadOnly::open(&self.data).expect("what a kill leaves behind can be read");
        let mut found: BTreeMap<String, u32> = BTreeMap::new();
        for log in store.list(&format!("import/round{round}"), None, 1000).expect("the logs are known") {
            if !format!("{}/", log.name).starts_with(&format!("import/{prefix}")) {
                continue; // Of round 10, where round 1 is looked at.
            }
            let mut paths = BTreeMap::new();
            let mut next = 0;
            loop {
                let page = store.read(&log.name, next, ReadLimit::default()).expect("the records are intact");
                for record in &page.records {
                    assert_eq!(record.seq, next, "seqs are dense in {}", log.name);
                    next += 1;
                    self.take(&log.name, &record.payload, &mut paths, &mut found);
                }
                if next == page.head {
                    break;
                }
            }
        }
        for (path, numbers) in told {
            let there = found.get(path).copied().unwrap_or(0);
            let last = numbers.last().expect("a path is known by its first acknowledgement");
            assert!(*last < there, "{path}: record {last} was acknowledged, {there} are there");
        }
        if complete {
            let whole: BTreeMap<_, _> = self
                .corpus
                .iter()
                .map(|(path, content)| (format!("{prefix}{path}"), 1 + content.len().div_ceil(PART_BYTES) as u32))
                .collect();
            assert_eq!(found, whole);
        }
    }

    /// Checks one record against the corpus. The layout is the one that the example states, written down once more.
    fn take(
        &self, log: &str, record: &[u8], paths: &mut BTreeMap<[u8; 16], String>, found: &mut BTreeMap<String, u32>,
    ) {
        let key: [u8; 16] = record[1..17].try_into().expect("16 bytes");
        let number = |at: usize| u32::from_le_bytes(record[at..at + 4].try_into().expect("4 bytes"));
        let (path, index) = if record[0] == 0 {
            let path = String::from_utf8(record[61..].to_vec()).expect("the corpus has plain names");
            assert!(paths.insert(key, path.clone()).is_none(), "{path} begins twice in {log}");
            (path, 0)
        } else {
            (paths.get(&key).expect("a header comes before its parts").clone(), number(17))
        };
        let next = found.entry(path.clone()).or_default();
        assert_eq!(index, *next, "records of {path} come once and in order");
        *next += 1;
        let (_, item) = path.split_once('/').expect("paths begin with the round");
        let content = &self.corpus[item];
        if index == 0 {
            assert_eq!(record[17..25], (content.len() as u64).to_le_bytes(), "{path}");
            assert_eq!(number(25) as usize, content.len().div_ceil(PART_BYTES), "{path}");
        } else {
            let from = (index as usize - 1) * PART_BYTES;
            assert!(record[21..] == content[from..content.len().min(from + PART_BYTES)], "{path}, part {index}");
        }
        let folder = Path::new(&path).parent().expect("paths begin with the round").to_string_lossy().into_owned();
        assert_eq!(log, format!("import/{folder}"));
    }

    /// Has the example give everything back and compares the folders.
    fn export(&self, rounds: usize, scratch: &Path) {
        let out = scratch.join("out");
        let mut command = Command::new(&self.example);
        command.arg("--data").arg(&self.data).arg("--out").arg(&out).stdout(Stdio::null());
        let status = command.status().expect("the example starts");
        assert!(status.success(), "the export failed: {status}");
        for round in 0..rounds {
            let restored = files(&out.join(format!("round{round}")));
            assert!(restored == self.corpus, "round {round} came back with other content");
        }
    }

    /// A number below `bound` (splitmix64).
    fn draw(&mut self, bound: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// SIGKILL. A child that has ended already is not waited for yet, so that its number is still its own.
fn kill_now(child: &mut Child) {
    child.kill().expect("a child that was not waited for can be killed");
}

fn corpus() -> BTreeMap<String, Vec<u8>> {
    let corpus = files(&fixtures());
    assert!(corpus.len() > 300, "the corpus is there: {}", corpus.len());
    corpus
}
