//! What can be measured of an engine, each in a file of its own.
//!
//! Invariant: before a result is given out, the engine has been asked how many records the logs hold, and the answer was
//! what was acknowledged.

pub mod burst;
pub mod idle;
pub mod read;
pub mod reopen;
pub mod window;

use crate::contender::{Contender, Outcome, Payload};
use crate::workload::{Appends, Pool, Random, Written};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::ops::RangeBounds;

/// Every how many logs the number of records is asked for at the end.
const ASKED_EVERY: usize = 97;
/// Longer latencies are counted as this.
pub const LATENCY_NS_MAX: u64 = 60_000_000_000;

/// One run's figures.
pub type Measured = BTreeMap<Figure, f64>;

/// What a run tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Figure {
    /// Appends acknowledged a second.
    Appends,
    /// Records acknowledged, or read, a second.
    Records,
    /// The same, with the time counted until nothing is left to be done of what they gave rise to.
    DrainedRecords,
    /// Payload bytes a second.
    PayloadRate,
    /// The same, with that time.
    DrainedPayloadRate,
    /// Latency that half of the appends do not exceed, in µs.
    P50,
    /// Nine in ten.
    P90,
    /// 99 in a hundred.
    P99,
    /// 999 in a thousand.
    P999,
    /// The longest.
    Max,
    /// Bytes of one write of the engine's own log, on average.
    WriteBytes,
    /// Writes in flight, where that is fixed.
    WritesInFlight,
    /// Writes that the device completed a second.
    DeviceWrites,
    /// Flushes that the device completed a second.
    DeviceFlushes,
    /// Bytes that the device wrote, per byte of payload.
    DeviceBytes,
    /// The same, with what was left to be done.
    DrainedDeviceBytes,
    /// Bytes that the process caused to be written, per byte of payload.
    OwnBytes,
    /// Seconds until nothing was left to be done.
    DrainSeconds,
    /// Processors in use, on average.
    Processors,
    /// The most memory the process held, in bytes.
    MemoryPeak,
    /// Seconds that an open took.
    OpenSeconds,
    /// Anonymous memory after it, less that before it, in bytes.
    OpenMemory,
    /// Bytes of the store's files.
    StoreBytes,
    /// Anonymous memory for each log in the process that wrote them, in bytes.
    WrittenLogMemory,
    /// The same after an open.
    OpenedLogMemory,
}

impl Figure {
    /// Its name, and how it is written.
    pub fn shown(self) -> (&'static str, fn(f64) -> String) {
        use crate::report::{hundredths, megabytes, micros, millis, whole};
        match self {
            Self::Appends => ("appends/s", whole),
            Self::Records => ("records/s", whole),
            Self::DrainedRecords => ("records/s, backlog drained and its time counted", whole),
            Self::PayloadRate => ("payload, MB/s", megabytes),
            Self::DrainedPayloadRate => ("payload, MB/s, backlog drained and its time counted", megabytes),
            Self::P50 => ("p50", micros),
            Self::P90 => ("p90", micros),
            Self::P99 => ("p99", micros),
            Self::P999 => ("p99.9", micros),
            Self::Max => ("longest", micros),
            Self::WriteBytes => ("bytes of a write to the log", whole),
            Self::WritesInFlight => ("writes in flight", whole),
            Self::DeviceWrites => ("device writes/s", whole),
            Self::DeviceFlushes => ("device flushes/s", whole),
            Self::DeviceBytes => ("bytes to the device per payload byte", hundredths),
            Self::DrainedDeviceBytes => ("bytes to the device per payload byte, backlog drained", hundredths),
            Self::OwnBytes => ("bytes of the process per payload byte", hundredths),
            Self::DrainSeconds => ("seconds to drain the backlog", hundredths),
            Self::Processors => ("processors in use", hundredths),
            Self::MemoryPeak => ("most memory, MB (67 of them payloads)", megabytes),
            Self::OpenSeconds => ("open", millis),
            Self::OpenMemory => ("memory after the open, MB", megabytes),
            Self::StoreBytes => ("the store's files, MB", megabytes),
            Self::WrittenLogMemory => ("memory a log where they were written, bytes", whole),
            Self::OpenedLogMemory => ("memory a log after an open, bytes", whole),
        }
    }

    /// Whether an engine is better the greater it is; of most others, the smaller.
    pub fn more_is_better(self) -> bool {
        matches!(
            self,
            Self::Appends | Self::Records | Self::DrainedRecords | Self::PayloadRate | Self::DrainedPayloadRate
        )
    }

    /// Whether it says what a workload is about; the others say what it took.
    pub fn is_result(self) -> bool {
        !matches!(
            self,
            Self::WriteBytes
                | Self::WritesInFlight
                | Self::DeviceWrites
                | Self::DeviceFlushes
                | Self::DeviceBytes
                | Self::OwnBytes
                | Self::Processors
                | Self::MemoryPeak
                | Self::StoreBytes
                | Self::P90
                | Self::P999
                | Self::Max
        )
    }
}

/// A histogram of latencies in ns.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_NS_MAX, 3).expect("bounds and digits that the histogram takes")
}

/// Its quantiles.
fn quantiles(latency: &Histogram<u64>) -> [(Figure, f64); 5] {
    let us = |ns: u64| ns as f64 / 1000.0;
    let at = |quantile| us(latency.value_at_quantile(quantile));
    [
        (Figure::P50, at(0.5)),
        (Figure::P90, at(0.9)),
        (Figure::P99, at(0.99)),
        (Figure::P999, at(0.999)),
        (Figure::Max, us(latency.max())),
    ]
}

/// One thread's part of the logs, and what it chooses.
pub struct Share<'a, E: Contender> {
    engine: &'a E,
    session: E::Session,
    random: Random,
    pool: Pool,
    first: u32,
    /// Records in each of its logs.
    held: Vec<u64>,
    payloads: Vec<Payload>,
    appends: Appends,
}

impl<'a, E: Contender> Share<'a, E> {
    /// The share of thread `number`, its logs created with one record each unless `stop` says so.
    pub fn created(
        engine: &'a E, pool: Pool, appends: Appends, seed: u64, number: u32, stop: impl Fn() -> bool,
    ) -> Outcome<Self> {
        let logs = appends.logs_of(number);
        let mut session = engine.session();
        let mut random = Random::new(seed, u64::from(number));
        for log in logs.clone() {
            if stop() {
                return Err("stopped".into());
            }
            let payload = pool.slice(&mut random, appends.bytes);
            engine.load(&mut session, log, 0, &[payload])?;
        }
        engine.sync(&mut session)?;
        let payloads = Vec::with_capacity(appends.records);
        Ok(Self { engine, session, random, pool, first: logs.start, held: vec![1; logs.len()], payloads, appends })
    }

    /// Chooses a log and payloads for the next append.
    fn choose(&mut self) -> usize {
        let at = self.random.below(self.held.len() as u64) as usize;
        self.payloads.clear();
        let (random, pool, bytes) = (&mut self.random, self.pool, self.appends.bytes);
        self.payloads.extend((0..self.appends.records).map(|_| pool.slice(random, bytes)));
        at
    }

    /// Begins the append that was chosen.
    fn begin(&mut self, at: usize) -> Outcome<E::Pending> {
        let log = self.first + at as u32;
        let waits = self.appends.outstanding == 1;
        let pending = self.engine.begin(&mut self.session, log, self.held[at], &self.payloads, waits)?;
        self.held[at] += self.payloads.len() as u64;
        Ok(pending)
    }

    /// The engine must hold what it acknowledged, in each log that is asked for.
    fn check(&self) -> Outcome<()> {
        check_held(self.engine, (self.first..).zip(self.held.iter().map(|held| *held..=*held)))
    }
}

/// Some of these logs must hold as many records as is said beside them.
fn check_held<E: Contender, R: RangeBounds<u64> + Debug>(
    engine: &E, logs: impl Iterator<Item = (u32, R)>,
) -> Outcome<()> {
    for (log, expected) in logs.step_by(ASKED_EVERY) {
        let held = engine.held(log)?;
        if !expected.contains(&held) {
            return Err(format!("log {log} holds {held} records, and not {expected:?} as was acknowledged"));
        }
    }
    Ok(())
}

/// Records of one log that are loaded in one append where a store is filled.
const LOADED_AT_ONCE: u64 = 5;

/// Loads the records of all logs in rounds, of each log a few in every round, the logs in another order each time, and makes
/// them durable.
fn load_rounds<E: Contender>(engine: &E, pool: Pool, written: Written, random: &mut Random) -> Outcome<()> {
    let mut session = engine.session();
    let mut order: Vec<u32> = (0..written.logs).collect();
    let mut payloads = Vec::new();
    for held in (0..written.records).step_by(LOADED_AT_ONCE as usize) {
        shuffle(&mut order, random);
        for log in &order {
            let count = LOADED_AT_ONCE.min(written.records - held);
            payloads.clear();
            payloads.extend((0..count).map(|_| pool.slice(random, written.bytes)));
            engine.load(&mut session, *log, held, &payloads)?;
        }
    }
    engine.sync(&mut session)
}

/// Fisher and Yates.
fn shuffle(order: &mut [u32], random: &mut Random) {
    for at in (1..order.len()).rev() {
        order.swap(at, random.below(at as u64 + 1) as usize);
    }
}
