//! Threads that append for a while: an append counts if its acknowledgement came within the window.
//!
//! Every log is created before the clock starts, and what that gave rise to is done; then comes a time of warming up, then
//! the window. At a fixed rate each
//! append has a time at which it is to begin, and its latency counts from there, whenever the engine lets it begin: an
//! engine that stands still is not spared the appends that would have come meanwhile.
//! Invariant: the device has taken at least as many writes as the appends need.

use super::{Figure, LATENCY_NS_MAX, Measured, Share, histogram, quantiles};
use crate::contender::{Contender, Outcome};
use crate::machine::{self, Device, Written};
use crate::workload::{Appends, Pool};
use hdrhistogram::Histogram;
use std::collections::VecDeque;
use std::path::Path;
use std::sync::Barrier;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// Free space that a run leaves; it stops when there is less.
pub const FREE_BYTES_MIN: u64 = 2 << 30;

/// How long to measure, in seconds.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// The window that counts.
    pub seconds: f64,
    /// What comes before it.
    pub warm_up: f64,
}

struct Course<'a, E: Contender> {
    engine: &'a E,
    appends: Appends,
    pool: Pool,
    seed: u64,
    span: Span,
    barrier: Barrier,
    begun: OnceLock<Instant>,
    stop: AtomicBool,
}

/// What the watching thread saw.
struct Watched {
    /// In the window.
    written: Written,
    processors: f64,
    log_writes: Option<(u64, u64)>,
    /// When the window ended.
    ended: Instant,
    /// What the device had written before the first append.
    before: Written,
}

/// What one thread did.
struct Worked {
    /// Of the appends that count.
    latency: Histogram<u64>,
    /// All of them, those before and after the window too.
    appends: u64,
}

/// Drives the engine, checks it, and has it do what is left, if that is to be counted.
pub fn measure<E: Contender>(
    engine: &E, dir: &Path, appends: Appends, span: Span, seed: u64, drained: bool,
) -> Outcome<Measured> {
    let device = Device::under(dir)?;
    let course = Course {
        engine,
        appends,
        pool: Pool::new(seed),
        seed,
        span,
        barrier: Barrier::new(appends.threads as usize + 1),
        begun: OnceLock::new(),
        stop: AtomicBool::new(false),
    };
    let (threads, watched) = course.run(dir, &device)?;
    let Watched { written, processors, log_writes, ended, before } = watched;
    let (mut latency, mut appended) = (histogram(), 0);
    for thread in &threads {
        latency.add(&thread.latency).map_err(|e| format!("merging latencies: {e}"))?;
        appended += thread.appends;
    }
    let count = latency.len();
    check_synced(count, &appends, written)?;
    let payload = (count * appends.append_bytes()) as f64;
    let (per_s, records) = (count as f64 / span.seconds, appends.records as f64);
    let mut measured = Measured::from([
        (Figure::Appends, per_s),
        (Figure::Records, per_s * records),
        (Figure::PayloadRate, payload / span.seconds),
        (Figure::DeviceWrites, written.requests as f64 / span.seconds),
        (Figure::DeviceFlushes, written.flushes as f64 / span.seconds),
        (Figure::DeviceBytes, written.bytes as f64 / payload),
        (Figure::OwnBytes, written.own_bytes as f64 / payload),
        (Figure::Processors, processors),
    ]);
    measured.extend(quantiles(&latency));
    if let Some((writes, bytes)) = log_writes {
        measured.insert(Figure::WriteBytes, bytes as f64 / writes.max(1) as f64);
    }
    if drained {
        let seconds = engine.drain()?.saturating_duration_since(ended).as_secs_f64();
        let all = span.seconds + seconds;
        let bytes = device.written()?.since(before).bytes as f64;
        measured.extend([
            (Figure::DrainSeconds, seconds),
            (Figure::DrainedRecords, count as f64 * records / all),
            (Figure::DrainedPayloadRate, payload / all),
            // Of everything from the first append on, since nobody can tell whose backlog it was.
            (Figure::DrainedDeviceBytes, bytes / (appended * appends.append_bytes()) as f64),
        ]);
    }
    measured.insert(Figure::MemoryPeak, machine::peak_memory_bytes() as f64);
    Ok(measured)
}

impl<E: Contender> Course<'_, E> {
    fn run(&self, dir: &Path, device: &Device) -> Outcome<(Vec<Worked>, Watched)> {
        thread::scope(|scope| {
            let threads: Vec<_> =
                (0..self.appends.threads).map(|n| scope.spawn(move || self.stopping(self.work(n)))).collect();
            let tending = scope.spawn(|| self.stopping(self.tend()));
            let watched = self.stopping(self.watch(dir, device));
            self.stop.store(true, Ordering::Relaxed);
            let died = |_| "a thread panicked".to_string();
            tending.join().map_err(died)??;
            let threads = threads.into_iter().map(|t| t.join().map_err(died)?).collect::<Outcome<Vec<_>>>()?;
            Ok((threads, watched?))
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

    /// One thread: creates its logs, waits for the others, appends until the window ends, and checks its logs.
    fn work(&self, number: u32) -> Outcome<Worked> {
        let share = Share::created(self.engine, self.pool, self.appends, self.seed, number, || self.stopped());
        // The others wait here also for a thread that failed: until all logs are there, and until the engine is drained.
        self.barrier.wait();
        self.barrier.wait();
        let mut share = share?;
        let begun = *self.begun.get_or_init(Instant::now);
        let counts_from = begun + Duration::from_secs_f64(self.span.warm_up);
        let until = counts_from + Duration::from_secs_f64(self.span.seconds);
        let mut latency = histogram();
        let mut under_way: VecDeque<(Instant, E::Pending)> = VecDeque::with_capacity(self.appends.outstanding);
        let mut turn = 0;
        while !self.stopped() {
            if under_way.len() == self.appends.outstanding
                && let Some((before, pending)) = under_way.pop_front()
            {
                self.engine.wait(pending)?;
                let after = Instant::now();
                // At a fixed rate those count that were to begin in the window, however late they end.
                let counted = if self.appends.rate == 0 { after } else { before };
                if counted >= until {
                    break;
                }
                if counted >= counts_from {
                    let ns = u64::try_from((after - before).as_nanos()).unwrap_or(LATENCY_NS_MAX);
                    latency.saturating_record(ns);
                }
            }
            let at = share.choose();
            let before = self.turn(begun, number, turn);
            turn += 1;
            under_way.push_back((before, share.begin(at)?));
        }
        under_way.into_iter().try_for_each(|(_, pending)| self.engine.wait(pending))?;
        share.check()?;
        Ok(Worked { latency, appends: turn })
    }

    /// Waits for the time of a thread's append, and gives it.
    fn turn(&self, begun: Instant, thread: u32, turn: u64) -> Instant {
        if self.appends.rate == 0 {
            return Instant::now();
        }
        // The threads' times fall between one another's.
        let number = turn * u64::from(self.appends.threads) + u64::from(thread);
        let time = begun + Duration::from_secs_f64(number as f64 / f64::from(self.appends.rate));
        thread::sleep(time.saturating_duration_since(Instant::now()));
        time
    }

    fn tend(&self) -> Outcome<()> {
        while !self.stopped() {
            self.engine.tend()?;
            self.sleep_until(Instant::now() + Duration::from_secs(1));
        }
        Ok(())
    }

    /// Reads the counters at both ends of the window, and the free space all along.
    fn watch(&self, dir: &Path, device: &Device) -> Outcome<Watched> {
        self.barrier.wait();
        let drained = self.stopping(self.engine.drain().and_then(|_| machine::settle(dir)));
        let before = device.written();
        self.barrier.wait();
        drained?;
        let before = before?;
        let begun = *self.begun.get_or_init(Instant::now);
        let counts_from = begun + Duration::from_secs_f64(self.span.warm_up);
        self.sleep_until(counts_from);
        let (written, cpu, log) = (device.written()?, machine::cpu_seconds()?, self.engine.log_writes());
        let until = counts_from + Duration::from_secs_f64(self.span.seconds);
        while Instant::now() < until && !self.stopped() {
            let free = machine::free_bytes(dir)?;
            if free < FREE_BYTES_MIN {
                return Err(format!("only {free} bytes are left on the disk; free some, or measure for fewer seconds"));
            }
            self.sleep_until(until.min(Instant::now() + Duration::from_millis(100)));
        }
        let processors = (machine::cpu_seconds()? - cpu) / self.span.seconds;
        let log_writes = log.zip(self.engine.log_writes()).map(|(from, to)| (to.0 - from.0, to.1 - from.1));
        Ok(Watched { written: device.written()?.since(written), processors, log_writes, ended: Instant::now(), before })
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

/// One device write makes no more appends durable than are under way. Fewer writes than that mean that something was
/// acknowledged before it was on the disk.
fn check_synced(appends: u64, how: &Appends, written: Written) -> Outcome<()> {
    let payload = appends * how.append_bytes();
    // The counters are read a little after the window begins and ends; a twentieth covers that.
    let writes_min = appends / (u64::from(how.threads) * how.outstanding as u64) * 19 / 20;
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

    #[test]
    fn a_run_that_does_not_sync_is_refused() {
        let how = Appends { threads: 16, records: 1, bytes: 256, outstanding: 1, rate: 0, logs: 100 };
        let bytes = 16_000 * how.append_bytes();
        let written = Written { requests: 1000, bytes, ..Written::default() };
        assert!(check_synced(16_000, &how, written).is_ok());
        assert!(check_synced(16_000, &how, Written { requests: 900, ..written }).is_err());
        assert!(check_synced(16_000, &how, Written { bytes: bytes / 2, ..written }).is_err());
        assert!(check_synced(0, &how, Written::default()).is_err());
        let how = Appends { outstanding: 4096, ..how };
        assert!(check_synced(16_000, &how, Written { requests: 4, ..written }).is_ok());
    }
}
