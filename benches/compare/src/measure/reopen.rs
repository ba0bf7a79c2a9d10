//! A process that is killed while it appends; and how long a process takes to open a store, and how much memory.
//!
//! The two are processes of their own; the page cache is as the first one left it.

use super::{Figure, Measured, check_held, load_rounds};
use crate::contender::{Contender, Outcome};
use crate::machine;
use crate::workload::{Pool, Random, Written};
use std::fmt::Debug;
use std::ops::RangeBounds;
use std::path::Path;
use std::time::Instant;

/// A record of what is appended until enough is left to be recovered.
const RECORD_BYTES: usize = 16 << 10;
/// Bytes of it after which that is given up.
const BYTES_MAX: u64 = 4 << 30;
/// Appends between two looks.
const LOOK_EVERY: u64 = 64;

/// Fills the store in `dir`, and gives the bytes of its files to `killed`, which ends the process.
pub fn fill<E: Contender>(dir: &Path, written: Written, seed: u64, killed: fn(&Measured) -> !) -> Outcome<Measured> {
    let (pool, mut random) = (Pool::new(seed), Random::new(seed, 0));
    let engine = E::open(dir, written.logs, written.payload_bytes())?;
    load_rounds(&engine, pool, written, &mut random)?;
    let mut session = engine.session();
    let mut held = vec![written.records; written.logs as usize];
    for n in 0..BYTES_MAX / RECORD_BYTES as u64 {
        if n % LOOK_EVERY == 0 && !engine.wants_more_to_recover() {
            killed(&Measured::from([(Figure::StoreBytes, machine::bytes_of_files(dir)? as f64)]));
        }
        let log = random.below(u64::from(written.logs)) as usize;
        engine.load(&mut session, log as u32, held[log], &[pool.slice(&mut random, RECORD_BYTES)])?;
        held[log] += 1;
    }
    Err("the engine kept up with what was appended, so that there was never enough to recover".into())
}

/// Opens the store that was left, in which each log is to hold as many records as `expected` says.
pub fn open<E: Contender>(
    dir: &Path, written: Written, expected: impl RangeBounds<u64> + Clone + Debug,
) -> Outcome<Measured> {
    E::prepare(written.logs);
    let memory = machine::anonymous_bytes()?;
    let began = Instant::now();
    let engine = E::open(dir, written.logs, 0)?;
    let seconds = began.elapsed().as_secs_f64();
    let memory = machine::anonymous_bytes()?.saturating_sub(memory) as f64;
    check_held(&engine, (0..written.logs).map(|log| (log, expected.clone())))?;
    engine.close()?;
    Ok(Measured::from([
        (Figure::OpenSeconds, seconds),
        (Figure::OpenMemory, memory),
        (Figure::OpenedLogMemory, memory / f64::from(written.logs)),
    ]))
}
