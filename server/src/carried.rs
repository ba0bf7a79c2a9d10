//! What a restore to an earlier moment does not take back: the server's own logs ([`system::PREFIX`]).
//!
//! `everlog restore --as-of` leaves the records past the moment in a file of the restored directory, written whole before the
//! directory is a store; the server appends them at its first open, before it listens. So a revocation that was told stays
//! one, and so does a token that was issued since. What a crash leaves at each step:
//!
//! | step | after a crash there |
//! |---|---|
//! | the restore brings the newest state, and gathers the records | no store; the same command begins again |
//! | it brings the moment, writes the file, then the identity | the same, up to the identity |
//! | the server reads the file | as before |
//! | it opens the store, which takes it over | the file is there: the next start does all that follows |
//! | it appends the records, each log's in batches from where the log ends | the next start goes on where the log ends |
//! | they are as safe as this server can make them | the next start finds every record there, and appends none |
//! | the file goes | they are there; should the file come back, nothing is appended |
//!
//! One loss is not made up for: a directory that is lost after the takeover, before the records are cold, which is about a
//! second in which nobody is served. Then the cold store has the moment without them, and what was revoked since is to be
//! revoked again; another cold store that was not reached meanwhile still has it.
//!
//! Invariant: no record is passed over. Records that would leave a gap, or a file that cannot be read whole, end the start.

use crate::auth::audit::{self, Action};
use crate::failure::Failure;
use crate::streams::{Request, Streams};
use crate::system;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use everlog::types::AsOf;
use everlog::{CARRIED_FILE_NAME, ErrorKind, ReadLimit, ReadOnly};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// As many records are read or appended at once.
const AT_ONCE: ReadLimit = ReadLimit { records: 1024, bytes: 1 << 20 };
/// Logs of the server's own that are looked for.
const LOGS_MAX: usize = 1024;
/// How a file begins that this version understands.
const VERSION: u32 = 1;

/// The first line of the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Head {
    version: u32,
    store: String,
    records: u64,
}

/// Each further line but the last, which is the BLAKE3 of all before it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Carried {
    log: String,
    seq: u64,
    payload: String,
}

/// The file for what the newest state has past the moment of the server's own logs; None if it has no such logs.
///
/// # Errors
/// What cannot be read of them.
pub fn gather(newest: &ReadOnly, as_of: AsOf) -> everlog::Result<Option<Vec<u8>>> {
    let prefix = format!("{}/", system::PREFIX);
    let logs = newest.list(&prefix, None, LOGS_MAX)?;
    let (mut lines, mut records) = (String::new(), 0);
    let mut add = |log: &str, seq: u64, payload: &[u8]| {
        let carried = Carried { log: log.to_owned(), seq, payload: BASE64_STANDARD.encode(payload) };
        lines += &(serde_json::to_string(&carried).expect("the fields are text and a number") + "\n");
        records += 1;
    };
    for log in &logs {
        // Where it is not known how far the log went by then, all of it is carried: what is there already is not appended.
        let was = newest.info_as_of(&log.name, as_of).map_or(0, |was| was.next_seq);
        let mut next = was.max(log.first_seq);
        while next < log.next_seq {
            let page = newest.read(&log.name, next, AT_ONCE)?;
            page.records.iter().for_each(|record| add(&log.name, record.seq, &record.payload));
            next = page.next_seq;
        }
        if log.name == system::AUDIT {
            let moment = format!("as of {as_of}");
            add(&log.name, next, &audit::record("operator", Action::StoreRestore, &moment, "rewind"));
        }
    }
    if logs.is_empty() {
        return Ok(None);
    }
    let head = Head { version: VERSION, store: newest.summary().id.to_string(), records };
    let text = serde_json::to_string(&head).expect("the fields are text and numbers") + "\n" + &lines;
    let sum = blake3::hash(text.as_bytes());
    Ok(Some(format!("{text}{}\n", sum.to_hex()).into_bytes()))
}

/// What a restore left to be carried over.
pub struct Left {
    path: PathBuf,
    store: String,
    records: Vec<Carried>,
}

/// Reads what a restore left in `data`, if it did. That is done before the store is opened: the open takes the store over, and
/// from then on a further restore does not find what is past the moment.
///
/// # Errors
/// Exit code 4 for a file that cannot be understood.
pub fn look(data: &Path) -> Result<Option<Left>, Failure> {
    let path = data.join(CARRIED_FILE_NAME);
    let text = match std::fs::read_to_string(&path) {
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(None),
        text => text.map_err(|e| unreadable(&path, &e.to_string()))?,
    };
    let (store, records) = parse(&text).map_err(|why| unreadable(&path, &why))?;
    Ok(Some(Left { path, store, records }))
}

/// Appends what a restore left to be carried over; comes back once that is as safe as this server can make it.
///
/// # Errors
/// Exit code 4 if it does not fit the store; those of an append. The next start goes on with it.
pub async fn bring_in(streams: &Streams, left: &Left) -> Result<(), Failure> {
    let Left { path, store, records } = left;
    if *store != streams.store_id().to_string() {
        return Err(unreadable(path, &format!("it is of the store {store}")));
    }
    let mut appended = 0;
    for one in records.chunk_by(|a, b| a.log == b.log) {
        appended += bring_in_log(streams, one, path).await?;
    }
    // What an earlier start appended may not be cold yet.
    if streams.has_cold() {
        streams.cold(streams.stats().watermark).await?;
    }
    let dir = path.parent().unwrap_or(Path::new("."));
    std::fs::remove_file(path).and_then(|()| File::open(dir)?.sync_all())?;
    tracing::info!(records = appended, "carried over what the restore did not take back");
    Ok(())
}

/// The records of one log, in the order of their seqs.
async fn bring_in_log(streams: &Streams, carried: &[Carried], path: &Path) -> Result<u64, Failure> {
    let name = &carried[0].log;
    let mut next = match streams.info(name).await {
        Ok(info) => info.next_seq,
        Err(e) if e.kind() == ErrorKind::NotFound => {
            system::ensure(streams, name).await?;
            0
        }
        Err(e) => return Err(e.into()),
    };
    if next < carried[0].seq {
        let why = format!("{name} ends at {next}, and what is carried over begins at {}", carried[0].seq);
        return Err(unreadable(path, &why));
    }
    let left = carried.iter().filter(|record| record.seq >= next).collect::<Vec<_>>();
    for some in left.chunks(AT_ONCE.records) {
        let (mut body, mut records) = (Vec::new(), Vec::new());
        for record in some {
            let payload = BASE64_STANDARD.decode(&record.payload).map_err(|e| unreadable(path, &e.to_string()))?;
            let begin = body.len();
            body.extend_from_slice(&payload);
            records.push(begin..body.len());
        }
        let (name, body, expect_next) = (name.clone(), Bytes::from(body), Some(next));
        next += some.len() as u64;
        streams.append(Request { name, body, records, expect_next, ..Request::default() }).await?;
    }
    Ok(left.len() as u64)
}

/// The store, and the records.
fn parse(text: &str) -> Result<(String, Vec<Carried>), String> {
    let end = text.trim_end_matches('\n').rfind('\n').ok_or("it has no end")? + 1;
    let (lines, sum) = text.split_at(end);
    if blake3::hash(lines.as_bytes()).to_hex().as_str() != sum.trim_end() {
        return Err("its checksum is not that of its content".to_owned());
    }
    let mut lines = lines.lines();
    let head: Head = serde_json::from_str(lines.next().unwrap_or_default()).map_err(|e| e.to_string())?;
    if head.version != VERSION {
        return Err(format!("it has version {}, which this program does not know", head.version));
    }
    let carried: Vec<Carried> = lines.map(serde_json::from_str).collect::<Result<_, _>>().map_err(|e| e.to_string())?;
    let is_ours = |name: &str| name.starts_with(&format!("{}/", system::PREFIX));
    let is_dense = carried.windows(2).all(|two| two[0].log != two[1].log || two[0].seq + 1 == two[1].seq);
    if carried.len() as u64 != head.records || !carried.iter().all(|one| is_ours(&one.log)) || !is_dense {
        return Err("its records are not those that it says".to_owned());
    }
    Ok((head.store, carried))
}

fn unreadable(path: &Path, why: &str) -> Failure {
    let remedy =
        "restore again, into another directory; without it, what was revoked since that moment would be let in";
    Failure::new(4, format!("{}, which a restore left, cannot be carried over: {why}", path.display()), remedy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use everlog::{Batch, Config, IoChoice, Store};
    use std::time::Duration;

    fn store(dir: &Path) -> Store {
        let config = || Config { io: IoChoice::Buffered, ..Config::small() };
        Store::create(dir, &config()).expect("the folder is new");
        Store::open(dir, config()).expect("the store is new")
    }

    fn append(store: &Store, log: &str, records: &[&str]) {
        let mut batch = Batch::new();
        let log = batch.log(log).create_if_missing();
        for record in records {
            log.record(record.as_bytes());
        }
        store.append_and_wait(batch).expect("it is durable");
    }

    fn contents(store: &Store, log: &str) -> Vec<String> {
        let page = store.read(log, 0, ReadLimit::default()).expect("it is there");
        page.records.iter().map(|record| String::from_utf8_lossy(&record.payload).into_owned()).collect()
    }

    fn file(store: &Store, records: &[(&str, u64, &str)]) -> String {
        let head = Head { version: VERSION, store: store.id().to_string(), records: records.len() as u64 };
        let mut text = serde_json::to_string(&head).expect("text") + "\n";
        for (log, seq, payload) in records {
            let one = Carried { log: (*log).to_owned(), seq: *seq, payload: BASE64_STANDARD.encode(payload) };
            text += &(serde_json::to_string(&one).expect("text") + "\n");
        }
        let sum = blake3::hash(text.as_bytes());
        format!("{text}{}\n", sum.to_hex())
    }

    /// What becomes of a file; the code of the failure, if there is one.
    async fn bring(store: &Store, dir: &Path, text: &str) -> Result<(), u8> {
        std::fs::write(dir.join(CARRIED_FILE_NAME), text).expect("there is room");
        let left = look(dir).map_err(|failure| failure.code())?.expect("it is there");
        let streams = Streams::new(store.clone(), Duration::from_secs(30));
        bring_in(&streams, &left).await.map_err(|failure| failure.code())
    }

    #[tokio::test]
    async fn each_record_is_there_once_wherever_an_earlier_start_ended() {
        let carried =
            [(system::TOKENS, 2, "c"), (system::TOKENS, 3, "d"), (system::AUDIT, 0, "x"), (system::AUDIT, 1, "y")];
        for (tokens, audit) in [(2, 0), (3, 0), (4, 0), (4, 1), (4, 2)] {
            let dir = tempfile::TempDir::new().expect("there is room");
            let store = store(&dir.path().join("store"));
            append(&store, system::TOKENS, &["a", "b", "c", "d"][..tokens]);
            if audit > 0 {
                append(&store, system::AUDIT, &["x", "y"][..audit]);
            }
            let text = file(&store, &carried);
            for _ in 0..2 {
                assert_eq!(bring(&store, dir.path(), &text).await, Ok(()), "{tokens} {audit}");
                assert_eq!(contents(&store, system::TOKENS), ["a", "b", "c", "d"]);
                assert_eq!(contents(&store, system::AUDIT), ["x", "y"]);
                assert!(look(dir.path()).expect("nothing is wrong").is_none(), "it is gone");
            }
        }
    }

    #[tokio::test]
    async fn what_does_not_fit_is_refused_and_left() {
        let dir = tempfile::TempDir::new().expect("there is room");
        let store = store(&dir.path().join("store"));
        append(&store, system::TOKENS, &["a"]);
        let good = file(&store, &[(system::TOKENS, 1, "b")]);
        let of_another = {
            let text = good.replacen(&store.id().to_string(), &"0".repeat(32), 1);
            let (lines, _) = text.trim_end().rsplit_once('\n').expect("an end");
            format!("{lines}\n{}\n", blake3::hash(format!("{lines}\n").as_bytes()).to_hex())
        };
        let cases = [
            file(&store, &[(system::TOKENS, 2, "c")]),
            file(&store, &[(system::TOKENS, 1, "b"), (system::TOKENS, 3, "d")]),
            file(&store, &[("users/alice/notes", 0, "b")]),
            good.replacen("\"records\":1", "\"records\":2", 1),
            good[..good.len() - 5].to_owned(),
            good.lines().take(2).collect(),
            String::new(),
            of_another,
        ];
        for text in cases {
            assert_eq!(bring(&store, dir.path(), &text).await, Err(4), "{text}");
            assert!(dir.path().join(CARRIED_FILE_NAME).exists());
        }
        assert_eq!(contents(&store, system::TOKENS), ["a"]);
    }
}
