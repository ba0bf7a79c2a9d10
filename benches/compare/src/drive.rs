//! Drives one engine through one workload, and measures it.
//!
//! Every log is created before the clock starts, then comes a time of warming up, then the window that counts. An
//! append counts if its acknowledgement came within the window.
//! Invariant: before a result is given out, the engine has been asked how many records the logs hold, and the answer
//! was what was acknowledged; and the device has taken at least as many writes as the appends need.

use crate::contender::{Contender, Outcome, Payload};
use crate::machine::{self, Device, Written};
use crate::workload::{CREATED_AT_ONCE, Pool, Random, Workload};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::Barrier;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Every how many logs the number of records is asked for at the end.
const ASKED_EVERY: usize = 97;
/// Free space that a run leaves; it stops when there is less.
pub const FREE_BYTES_MIN: u64 = 2 << 30;
/// Longer latencies are counted as this.
const LATENCY_NS_MAX: u64 = 60_000_000_000;

/// How long to measure.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// The window that counts.
    pub seconds: f64,
    /// What comes before it.
    pub warm_up: f64,
}

/// What one run measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Measured {
    /// Appends acknowledged a second.
    pub appends: f64,
    /// Records acknowledged a second.
    pub records: f64,
    /// The median latency, in µs.
    pub p50_us: f64,
    /// The latency that one append in a hundred exceeds, in µs.
    pub p99_us: f64,
    /// The longest latency, in µs.
    pub max_us: f64,
    /// Writes that the device completed a second.
    pub writes: f64,
    /// Flushes that the device completed a second.
    pub flushes: f64,
    /// Bytes that the device wrote, per byte of payload.
    pub device_bytes: f64,
    /// Bytes that the process caused to be written, per byte of payload.
    pub own_bytes: f64,
    /// Processors in use, on average.
    pub processors: f64,
    /// The most memory the process held, in bytes.
    pub memory_bytes: u64,
}

/// What one thread did.
struct Thread {
    latency: Histogram<u64>,
    /// Records in each of its logs.
    held: Vec<u64>,
}

struct Course<'a, E: Contender> {
    engine: &'a E,
    workload: Workload,
    pool: Pool,
    seed: u64,
    span: Span,
    barrier: Barrier,
    begun: OnceLock<Instant>,
    stop: AtomicBool,
}

/// Opens the engine in `dir`, drives it, checks it, closes it.
pub fn measure<E: Contender>(dir: &Path, workload: Workload, span: Span, seed: u64) -> Outcome<Measured> {
    let device = Device::under(dir)?;
    let pool = Pool::new(seed);
    let engine = E::open(dir, workload.logs)?;
    let course = Course {
        engine: &engine,
        workload,
        pool,
        seed,
        span,
        barrier: Barrier::new(workload.threads as usize + 1),
        begun: OnceLock::new(),
        stop: AtomicBool::new(false),
    };
    let (threads, written, processors) = course.run(dir, &device)?;
    check_held(&engine, &workload, &threads)?;
    engine.close()?;

    let mut latency = histogram();
    for thread in &threads {
        latency.add(&thread.latency).map_err(|e| format!("merging latencies: {e}"))?;
    }
    let count = latency.len();
    check_synced(count, &workload, written)?;
    let payload = (count * workload.append_bytes()) as f64;
    let us = |ns: u64| ns as f64 / 1000.0;
    let appends = count as f64 / span.seconds;
    Ok(Measured {
        appends,
        records: appends * workload.records as f64,
        p50_us: us(latency.value_at_quantile(0.5)),
        p99_us: us(latency.value_at_quantile(0.99)),
        max_us: us(latency.max()),
        writes: written.requests as f64 / span.seconds,
        flushes: written.flushes as f64 / span.seconds,
        device_bytes: written.bytes as f64 / payload,
        own_bytes: written.own_bytes as f64 / payload,
        processors,
        memory_bytes: machine::peak_memory_bytes(),
    })
}

impl<E: Contender> Course<'_, E> {
    fn run(&self, dir: &Path, device: &Device) -> Outcome<(Vec<Thread>, Written, f64)> {
        thread::scope(|scope| {
            let threads: Vec<_> =
                (0..self.workload.threads).map(|n| scope.spawn(move || self.stopping(self.work(n)))).collect();
            let tending = scope.spawn(|| self.stopping(self.tend()));
            let watched = self.stopping(self.watch(dir, device));
            self.stop.store(true, Ordering::Relaxed);
            let died = |_| "a thread panicked".to_string();
            tending.join().map_err(died)??;
            let threads = threads.into_iter().map(|t| t.join().map_err(died)?).collect::<Outcome<Vec<_>>>()?;
            let (written, processors) = watched?;
            Ok((threads, written, processors))
        })
    }

    /// An error anywhere ends the run everywhere.
    fn stopping<T>(&self, outcome: Outcome<T>) -> Outcome<T> {
        if outcome.is_err() {
            self.stop.store(true, Ordering::Relaxed);
        }
        outcome
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// One thread: creates its logs, waits for the others, appends until the window ends.
    fn work(&self, number: u32) -> Outcome<Thread> {
        let mut random = Random::new(self.seed, u64::from(number));
        let mut session = self.engine.session();
        let created = self.create(number, &mut session, &mut random);
        // The others wait here also for a thread that failed.
        self.barrier.wait();
        created?;
        let begun = *self.begun.get_or_init(Instant::now);
        let counts_from = begun + Duration::from_secs_f64(self.span.warm_up);
        let until = counts_from + Duration::from_secs_f64(self.span.seconds);

        let logs = self.workload.logs_of(number);
        let mut held = vec![1; logs.len()];
        let mut latency = histogram();
        let mut payloads: Vec<Payload> = Vec::with_capacity(self.workload.records);
        while !self.stopped() {
            let at = random.below(held.len() as u64) as usize;
            payloads.clear();
            payloads.extend((0..self.workload.records).map(|_| self.pool.slice(&mut random, self.workload.bytes)));
            let before = Instant::now();
            self.engine.append(&mut session, logs.start + at as u32, held[at], &payloads)?;
            let after = Instant::now();
            held[at] += payloads.len() as u64;
            if after >= until {
                break;
            }
            if after >= counts_from {
                let ns = u64::try_from((after - before).as_nanos()).unwrap_or(LATENCY_NS_MAX);
                latency.saturating_record(ns);
            }
        }
        Ok(Thread { latency, held })
    }

    fn create(&self, number: u32, session: &mut E::Session, random: &mut Random) -> Outcome<()> {
        let logs = self.workload.logs_of(number);
        for first in logs.clone().step_by(CREATED_AT_ONCE as usize) {
            if self.stopped() {
                break;
            }
            let payload = self.pool.slice(random, self.workload.bytes);
            self.engine.create(session, first..logs.end.min(first + CREATED_AT_ONCE), payload)?;
        }
        Ok(())
    }

    fn tend(&self) -> Outcome<()> {
        while !self.stopped() {
            self.engine.tend()?;
            self.sleep_until(Instant::now() + Duration::from_secs(1));
        }
        Ok(())
    }

    /// Reads the counters at both ends of the window, and the free space all along.
    fn watch(&self, dir: &Path, device: &Device) -> Outcome<(Written, f64)> {
        self.barrier.wait();
        let begun = *self.begun.get_or_init(Instant::now);
        let counts_from = begun + Duration::from_secs_f64(self.span.warm_up);
        self.sleep_until(counts_from);
        let (written, cpu) = (device.written()?, machine::cpu_seconds()?);
        let until = counts_from + Duration::from_secs_f64(self.span.seconds);
        while Instant::now() < until && !self.stopped() {
            let free = machine::free_bytes(dir)?;
            if free < FREE_BYTES_MIN {
                return Err(format!("only {free} bytes are left on the disk; free some, or measure for fewer seconds"));
            }
            self.sleep_until(until.min(Instant::now() + Duration::from_millis(100)));
        }
        let cpu = machine::cpu_seconds()? - cpu;
        Ok((device.written()?.since(written), cpu / self.span.seconds))
    }

    /// Sleeps in short steps, so that an error elsewhere is noticed soon.
    fn sleep_until(&self, moment: Instant) {
        while !self.stopped() {
            let left = moment.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            thread::sleep(left.min(Duration::from_millis(50)));
        }
    }
}

fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("bounds and digits that the histogram takes")
}

/// The engine must hold what it acknowledged, in each log that is asked for.
fn check_held<E: Contender>(engine: &E, workload: &Workload, threads: &[Thread]) -> Outcome<()> {
    for (number, thread) in (0..).zip(threads) {
        for (log, &expected) in workload.logs_of(number).zip(&thread.held).step_by(ASKED_EVERY) {
            let held = engine.held(log)?;
            if held != expected {
                return Err(format!("log {log} holds {held} records, but {expected} were acknowledged"));
            }
        }
    }
    Ok(())
}

/// Each thread waits for its append, so one device write makes at most one append a thread durable. Fewer writes than
/// that mean that something was acknowledged before it was on the disk.
fn check_synced(appends: u64, workload: &Workload, written: Written) -> Outcome<()> {
    let payload = appends * workload.append_bytes();
    // The counters are read a little after the window begins and ends; a twentieth covers that.
    let writes_min = appends / u64::from(workload.threads) * 19 / 20;
    if written.requests < writes_min || written.bytes < payload * 19 / 20 {
        return Err(format!(
            "{appends} appends of {payload} bytes were acknowledged, but the device took only {} writes of {} bytes in \
             that time: they were not synced, or the file system's device is not the one counted",
            written.requests, written.bytes
        ));
    }
    if appends == 0 {
        return Err("no append was acknowledged within the window; measure for more seconds".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::workload::ALL;

    #[test]
    fn a_run_that_does_not_sync_is_refused() {
        let workload = ALL[0];
        let bytes = 16_000 * workload.append_bytes();
        let written = Written { requests: 1000, bytes, ..Written::default() };
        assert!(check_synced(16_000, &workload, written).is_ok());
        assert!(check_synced(16_000, &workload, Written { requests: 900, ..written }).is_err());
        assert!(check_synced(16_000, &workload, Written { bytes: bytes / 2, ..written }).is_err());
        assert!(check_synced(0, &workload, Written::default()).is_err());
    }
}
