//! Whole logs read that were written among many others, with nothing of them in memory.
//!
//! The records were appended one at a time, those of one log far apart. Then the engine puts them into the form that is best
//! to read, if it has one; the store is closed and opened again, and its files are dropped from the page cache.

use super::{Figure, Measured, histogram, quantiles, shuffle};
use crate::contender::{Contender, Outcome};
use crate::machine;
use crate::workload::{Pool, Random, Written};
use std::path::Path;
use std::time::Instant;

/// Fills the store in `dir`, and reads from it.
pub fn measure<E: Contender>(dir: &Path, written: Written, seed: u64) -> Outcome<Measured> {
    let (pool, mut random) = (Pool::new(seed), Random::new(seed, 0));
    let engine = E::open(dir, written.logs, written.payload_bytes())?;
    fill(&engine, pool, written, &mut random)?;
    engine.compact()?;
    engine.close()?;

    let engine = E::open(dir, written.logs, written.payload_bytes())?;
    let store_bytes = machine::forget(dir)?;
    let mut order: Vec<u32> = (0..written.long_logs).collect();
    shuffle(&mut order, &mut random);
    let mut latency = histogram();
    let before = Instant::now();
    for log in order {
        let began = Instant::now();
        let (records, bytes) = engine.read(log, written.long_records)?;
        latency.saturating_record(began.elapsed().as_nanos() as u64);
        let expected = (written.long_records, written.long_records * written.bytes as u64);
        if (records, bytes) != expected {
            return Err(format!("log {log} gave {records} records of {bytes} bytes; {expected:?} were appended"));
        }
    }
    let seconds = before.elapsed().as_secs_f64();
    engine.close()?;
    let records = u64::from(written.long_logs) * written.long_records;
    let mut measured = Measured::from([
        (Figure::Records, records as f64 / seconds),
        (Figure::PayloadRate, records as f64 * written.bytes as f64 / seconds),
        (Figure::StoreBytes, store_bytes as f64),
    ]);
    measured.extend(quantiles(&latency));
    Ok(measured)
}

/// In each round every long log gets a record, and so many of the others, in turn, that all have theirs at the end.
fn fill<E: Contender>(engine: &E, pool: Pool, written: Written, random: &mut Random) -> Outcome<()> {
    let mut session = engine.session();
    let others = u64::from(written.logs - written.long_logs);
    let mut order: Vec<u32> = (0..written.long_logs).collect();
    let mut other = 0;
    for round in 0..written.long_records {
        shuffle(&mut order, random);
        let until = others * written.records * (round + 1) / written.long_records;
        let each = (until - other).div_ceil(order.len().max(1) as u64);
        for log in &order {
            engine.load(&mut session, *log, round, &[pool.slice(random, written.bytes)])?;
            for n in other..until.min(other + each) {
                let log = written.long_logs + (n % others) as u32;
                engine.load(&mut session, log, n / others, &[pool.slice(random, written.bytes)])?;
            }
            other = until.min(other + each);
        }
    }
    engine.sync(&mut session)
}
