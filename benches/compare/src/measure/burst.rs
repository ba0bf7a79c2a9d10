//! Bursts that an engine can keep in memory: how fast appends are acknowledged while the second copy waits.
//!
//! Before each burst the engine has nothing left to do. A burst counts from its first append to its last acknowledgement.

use super::{Figure, Measured, Share, histogram, quantiles};
use crate::contender::{Contender, Outcome};
use crate::machine::{self, Device};
use crate::report::median;
use crate::workload::{Appends, Pool};
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

/// Bursts of a run; the first does not count.
const BURSTS: usize = 9;

/// Drives the engine through some bursts of so many payload bytes, of which the figures are medians.
pub fn measure<E: Contender>(engine: &E, dir: &Path, appends: Appends, bytes: u64, seed: u64) -> Outcome<Measured> {
    let (device, pool) = (Device::under(dir)?, Pool::new(seed));
    let each = bytes / appends.append_bytes() / u64::from(appends.threads);
    let (barrier, stop) = (Barrier::new(appends.threads as usize + 1), AtomicBool::new(false));
    let work = |number: u32| -> Outcome<_> {
        let share = Share::created(engine, pool, appends, seed, number, || false);
        let (mut failed, mut share) = match share {
            Ok(share) => (None, Some(share)),
            Err(e) => (Some(e), None),
        };
        let mut latency = histogram();
        for burst in 0..BURSTS {
            // All are there; the engine is drained; below, all are done. Nobody leaves in between.
            barrier.wait();
            barrier.wait();
            if let Some(share) = &mut share
                && failed.is_none()
                && !stop.load(Ordering::Relaxed)
            {
                let counts = if burst > 0 { &mut latency } else { &mut histogram() };
                failed = one(share, each, counts).err();
            }
            barrier.wait();
        }
        match (failed, share) {
            (None, Some(share)) => share.check().map(|()| latency),
            (failed, _) => Err(failed.unwrap_or_else(|| "stopped".into())),
        }
    };
    let payload = (each * u64::from(appends.threads) * appends.append_bytes()) as f64;
    let (mut rates, mut writes) = (Vec::new(), (0, 0));
    let mut device_bytes = 0;
    let latencies = thread::scope(|scope| {
        let threads: Vec<_> = (0..appends.threads).map(|number| scope.spawn(move || work(number))).collect();
        let mut outcome = Ok(());
        for burst in 0..BURSTS {
            barrier.wait();
            outcome = outcome.and_then(|()| engine.drain()).and_then(|_| machine::settle(dir));
            stop.store(outcome.is_err(), Ordering::Relaxed);
            let (log, before) = (engine.log_writes(), device.written());
            barrier.wait();
            let began = Instant::now();
            barrier.wait();
            let seconds = began.elapsed().as_secs_f64();
            if burst > 0 {
                rates.push(payload / seconds);
                // An error must not leave the threads at the barrier.
                let more = before.and_then(|before| Ok(device.written()?.since(before).bytes));
                device_bytes += *more.as_ref().unwrap_or(&0);
                outcome = outcome.and(more.map(drop));
                if let Some((from, to)) = log.zip(engine.log_writes()) {
                    writes = (writes.0 + to.0 - from.0, writes.1 + to.1 - from.1);
                }
            }
        }
        let threads: Outcome<Vec<_>> =
            threads.into_iter().map(|t| t.join().map_err(|_| "a thread panicked".to_string())?).collect();
        outcome.and(threads)
    })?;
    // The counters are read a little before and after; a twentieth covers that.
    if device_bytes < payload as u64 * (BURSTS as u64 - 1) * 19 / 20 {
        return Err("within the bursts the device took fewer bytes than were acknowledged: they were not synced".into());
    }
    let mut latency = histogram();
    for thread in &latencies {
        latency.add(thread).map_err(|e| format!("merging latencies: {e}"))?;
    }
    let rate = median(rates.into_iter());
    let per_append = appends.append_bytes() as f64;
    let mut measured = Measured::from([
        (Figure::PayloadRate, rate),
        (Figure::Appends, rate / per_append),
        (Figure::Records, rate / per_append * appends.records as f64),
        (Figure::MemoryPeak, machine::peak_memory_bytes() as f64),
    ]);
    measured.extend(quantiles(&latency));
    if writes.0 > 0 {
        measured.insert(Figure::WriteBytes, writes.1 as f64 / writes.0 as f64);
    }
    Ok(measured)
}

/// One thread's part of a burst.
fn one<E: Contender>(
    share: &mut Share<'_, E>, appends: u64, latency: &mut hdrhistogram::Histogram<u64>,
) -> Outcome<()> {
    let outstanding = share.appends.outstanding;
    let mut under_way: VecDeque<(Instant, E::Pending)> = VecDeque::with_capacity(outstanding);
    let mut wait = |engine: &E, under_way: &mut VecDeque<(Instant, E::Pending)>| -> Outcome<()> {
        if let Some((before, pending)) = under_way.pop_front() {
            engine.wait(pending)?;
            latency.saturating_record(before.elapsed().as_nanos() as u64);
        }
        Ok(())
    };
    for _ in 0..appends {
        if under_way.len() == outstanding {
            wait(share.engine, &mut under_way)?;
        }
        let at = share.choose();
        under_way.push_back((Instant::now(), share.begin(at)?));
    }
    while !under_way.is_empty() {
        wait(share.engine, &mut under_way)?;
    }
    Ok(())
}
