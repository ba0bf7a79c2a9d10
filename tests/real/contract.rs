//! What every cold store owes the engine, asked of a real one: of a folder, and of a bucket.
//!
//! Whoever asks is a process of its own (`victim contract`, `victim out-of-reach`), since credentials come to a bucket by
//! the environment. What it leaves out: that what was put survives the machine, which no cold store can be asked.

use everlog::cold::{ColdStore, PART_BYTES, Part, Put};
use everlog::{Error, ErrorKind};
use std::ops::Range;
use std::sync::Barrier;

/// Keys that are listed: more than a page of a store's own.
const LISTED: usize = 2100;
/// Keys that two put at once.
const CONTESTED: usize = 20;
/// Threads that put what is listed.
const THREADS: usize = 8;

/// Asks a cold store, in which nothing lies yet, for all that it owes.
///
/// # Errors
/// What it does not do, in words.
pub fn check(cold: &dyn ColdStore) -> Result<(), String> {
    put_once(cold)?;
    ranges(cold)?;
    long_segments(cold)?;
    at_once(cold)?;
    listed(cold)
}

/// Asks a cold store that cannot be had for everything. Each request has to fail as one that may be made again; none may
/// say that there is nothing.
///
/// # Errors
/// What was answered instead.
pub fn check_out_of_reach(cold: &dyn ColdStore, failed: &mut dyn FnMut(&str, &Error)) -> Result<(), String> {
    let long = vec![1; PART_BYTES + 1];
    let answers = [
        ("a put", cold.put("tail/1", &&b"bytes"[..]).map(|put| format!("{put:?}"))),
        ("a put in parts", cold.put("segment/1", &&long[..]).map(|put| format!("{put:?}"))),
        ("a get", cold.get("tail/1", 0..9).map(|part| format!("{part:?}"))),
        ("a get of nothing", cold.get("tail/1", 0..0).map(|part| format!("{part:?}"))),
        ("a listing", cold.list("tail/", "").map(|keys| format!("{keys:?}"))),
    ];
    for (what, answer) in answers {
        match answer {
            Err(error) if error.kind() == ErrorKind::Cold => failed(what, &error),
            other => return Err(format!("{what} of what is out of reach gave {other:?}")),
        }
    }
    Ok(())
}

fn bytes(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&len.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn put(cold: &dyn ColdStore, key: &str, bytes: &[u8]) -> Result<Put, String> {
    cold.put(key, &bytes).map_err(|e| format!("the put of {key}: {e}"))
}

fn get(cold: &dyn ColdStore, key: &str, range: Range<u64>) -> Result<Option<Part>, String> {
    cold.get(key, range.clone()).map_err(|e| format!("the get of {key}, {range:?}: {e}"))
}

fn expect<T: PartialEq + std::fmt::Debug>(what: &str, found: T, expected: T) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("{what}: {found:?} instead of {expected:?}")) }
}

/// The bytes of an object in `range` are those of `bytes`, and as long as it is said to be.
fn expect_part(cold: &dyn ColdStore, key: &str, bytes: &[u8], range: Range<u64>) -> Result<(), String> {
    let found = get(cold, key, range.clone())?;
    let len = bytes.len() as u64;
    let (start, end) = (range.start.min(len) as usize, range.end.min(len) as usize);
    let expected = &bytes[start..end.min(start + PART_BYTES).max(start)];
    match found {
        Some(part) if part.len == len && part.bytes == expected => Ok(()),
        Some(part) => Err(format!(
            "{key}, {range:?} of {len} bytes: {} bytes came, of {}, or other ones",
            part.bytes.len(),
            part.len
        )),
        None => Err(format!("{key}, {range:?}: it is missing")),
    }
}

fn put_once(cold: &dyn ColdStore) -> Result<(), String> {
    expect("the get of what is missing", get(cold, "epoch/1", 0..9)?, None)?;
    expect("the get of no byte of what is missing", get(cold, "epoch/1", 0..0)?, None)?;
    expect("a listing of nothing", cold.list("epoch/", "").map_err(|e| e.to_string())?, Vec::new())?;
    expect("the first put", put(cold, "epoch/1", b"the first")?, Put::Created)?;
    expect("the second put", put(cold, "epoch/1", b"the second")?, Put::Exists)?;
    expect("a shorter put", put(cold, "epoch/1", b"")?, Put::Exists)?;
    expect_part(cold, "epoch/1", b"the first", 0..99)?;
    expect("an empty put", put(cold, "epoch/2", b"")?, Put::Created)?;
    expect("a put on an empty object", put(cold, "epoch/2", b"x")?, Put::Exists)?;
    expect_part(cold, "epoch/2", b"", 0..9)
}

fn ranges(cold: &dyn ColdStore) -> Result<(), String> {
    // A tail object is put whole, however long it is.
    let bytes = bytes(PART_BYTES + 10_000);
    expect("a long put", put(cold, "tail/1/1", &bytes)?, Put::Created)?;
    let (len, part) = (bytes.len() as u64, PART_BYTES as u64);
    for range in [0..1, 0..0, 5000..5001, 4095..8193, 0..part, part - 1..part + 1, part..2 * part, 7..len] {
        expect_part(cold, "tail/1/1", &bytes, range)?;
    }
    for range in [len - 1..len + 5, len..len + 1, len..len, len + 9..len + 10, 3 * len..4 * len, 0..u64::MAX] {
        expect_part(cold, "tail/1/1", &bytes, range)?;
    }
    Ok(())
}

fn long_segments(cold: &dyn ColdStore) -> Result<(), String> {
    let bytes = bytes(2 * PART_BYTES + 5);
    expect("a put in parts", put(cold, "segment/1", &bytes)?, Put::Created)?;
    expect("another one", put(cold, "segment/1", &bytes)?, Put::Exists)?;
    let part = PART_BYTES as u64;
    for range in [0..part, part..2 * part, 2 * part..3 * part, part - 3..part + 3, 2 * part + 5..2 * part + 6] {
        expect_part(cold, "segment/1", &bytes, range)?;
    }
    Ok(())
}

/// Two put at once under one key: one creates, and what it put is there.
fn at_once(cold: &dyn ColdStore) -> Result<(), String> {
    for n in 0..CONTESTED {
        let (key, barrier) = (format!("epoch/{:016x}", 100 + n), Barrier::new(2));
        let claims: [&[u8]; 2] = [b"one of two", b"the other one"];
        let outcomes = std::thread::scope(|scope| {
            let putting = claims.map(|claim| {
                let (key, barrier) = (&key, &barrier);
                scope.spawn(move || {
                    barrier.wait();
                    cold.put(key, &claim)
                })
            });
            putting.map(|thread| thread.join().expect("a put does not panic"))
        });
        if let Some(Err(e)) = outcomes.iter().find(|put| put.as_ref().is_err_and(|e| e.kind() != ErrorKind::Cold)) {
            return Err(format!("two puts of {key} at once: {e}"));
        }
        let created: Vec<usize> = (0..2).filter(|put| matches!(outcomes[*put], Ok(Put::Created))).collect();
        match created[..] {
            [winner] => expect_part(cold, &key, claims[winner], 0..99)?,
            // Neither need know how it ended, but then no other may have.
            [] if outcomes.iter().any(Result::is_err) => {}
            _ => return Err(format!("two puts of {key} at once: {outcomes:?}")),
        }
    }
    Ok(())
}

fn listed(cold: &dyn ColdStore) -> Result<(), String> {
    let keys: Vec<String> = (0..LISTED).map(|n| format!("tail/2/{n:016x}")).collect();
    std::thread::scope(|scope| {
        let putting: Vec<_> = (0..THREADS)
            .map(|thread| {
                let own = keys.iter().rev().skip(thread).step_by(THREADS);
                scope.spawn(move || own.into_iter().try_for_each(|key| put(cold, key, b"x").map(drop)))
            })
            .collect();
        putting.into_iter().try_for_each(|thread| thread.join().expect("a put does not panic"))
    })?;
    // Beside it, and sorted behind it.
    expect("a put beside them", put(cold, "tail/20", b"x")?, Put::Created)?;
    for from in [0, 1, 999, 1000, LISTED - 1] {
        let mut after = if from == 0 { String::new() } else { keys[from - 1].clone() };
        let mut found = Vec::new();
        loop {
            let page = cold.list("tail/2/", &after).map_err(|e| format!("a listing after {after:?}: {e}"))?;
            let Some(last) = page.last() else { break };
            after.clone_from(last);
            found.extend(page);
        }
        if found != keys[from..] {
            let at = found.iter().zip(&keys[from..]).position(|(found, key)| found != key);
            return Err(format!("listed from {from} on: {} keys, the first other one is {at:?}", found.len()));
        }
    }
    expect("what is sorted behind all", cold.list("tail/2/", "tail/2/z").map_err(|e| e.to_string())?, Vec::new())
}
