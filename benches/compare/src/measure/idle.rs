//! What a log takes of memory in which nothing happens, in the process that wrote it. What it takes in one that opens the
//! store is measured there: see `reopen`.

use super::{Figure, Measured, load_rounds};
use crate::contender::{Contender, Outcome};
use crate::machine;
use crate::workload::{Pool, Random, Written};
use std::path::Path;
use std::thread;
use std::time::Duration;

/// Nothing happens for so long before memory is measured.
const IDLE: Duration = Duration::from_secs(15);

/// Fills the store in `dir`.
pub fn fill<E: Contender>(dir: &Path, written: Written, seed: u64) -> Outcome<Measured> {
    let (pool, mut random) = (Pool::new(seed), Random::new(seed, 0));
    E::prepare(written.logs);
    let before = machine::anonymous_bytes()?;
    let engine = E::open(dir, written.logs, written.payload_bytes())?;
    load_rounds(&engine, pool, written, &mut random)?;
    engine.drain()?;
    thread::sleep(IDLE);
    let memory = machine::anonymous_bytes()?.saturating_sub(before) as f64;
    engine.close()?;
    Ok(Measured::from([
        (Figure::WrittenLogMemory, memory / f64::from(written.logs)),
        (Figure::StoreBytes, machine::bytes_of_files(dir)? as f64),
    ]))
}
