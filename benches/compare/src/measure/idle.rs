//! What a log takes of memory in which nothing happens: in the process that wrote it, and in one that opens the store.
//!
//! The two are processes of their own, so that nothing counts that the first one's allocator keeps.

use super::{ASKED_EVERY, Figure, Measured, load_rounds};
use crate::contender::{Contender, Outcome};
use crate::machine;
use crate::workload::{Pool, Random, Written};
use std::path::Path;

/// Fills the store in `dir`.
pub fn fill<E: Contender>(dir: &Path, written: Written, seed: u64) -> Outcome<Measured> {
    let (pool, mut random) = (Pool::new(seed), Random::new(seed, 0));
    E::prepare(written.logs);
    let before = machine::anonymous_bytes()?;
    let engine = E::open(dir, written.logs, written.payload_bytes())?;
    load_rounds(&engine, pool, written.logs, written.records, written.bytes, &mut random)?;
    engine.drain()?;
    let there = a_log(before, written)?;
    engine.close()?;
    Ok(Measured::from([(Figure::WrittenLogMemory, there), (Figure::StoreBytes, machine::bytes_of_files(dir)? as f64)]))
}

/// Opens it.
pub fn open<E: Contender>(dir: &Path, written: Written) -> Outcome<Measured> {
    E::prepare(written.logs);
    let before = machine::anonymous_bytes()?;
    let engine = E::open(dir, written.logs, 0)?;
    let opened = a_log(before, written)?;
    for log in (0..written.logs).step_by(ASKED_EVERY) {
        let held = engine.held(log)?;
        if held != written.records {
            return Err(format!("log {log} holds {held} records, but {} were acknowledged", written.records));
        }
    }
    engine.close()?;
    Ok(Measured::from([(Figure::OpenedLogMemory, opened)]))
}

fn a_log(before: u64, written: Written) -> Outcome<f64> {
    Ok(machine::anonymous_bytes()?.saturating_sub(before) as f64 / f64::from(written.logs))
}
