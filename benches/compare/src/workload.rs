//! The workloads, what everlog wants of each, and the pool of bytes that their payloads are cut from.
//!
//! Invariant: the same seed gives every engine the same logs and the same payloads in the same order on each thread.

use crate::contender::Payload;
use crate::engines::Engine;
use crate::measure::Figure;
use crate::report::Medians;
use std::ops::Range;

/// What one measurement does.
#[derive(Clone, Copy)]
pub struct Workload {
    /// The letter that selects it.
    pub id: char,
    /// In words.
    pub title: &'static str,
    /// What is done.
    pub kind: Kind,
    /// The figure that the plot shows.
    pub main: Figure,
    /// Who takes part, in the order of their turns.
    pub engines: &'static [Engine],
    /// What everlog is to reach.
    pub goals: &'static [Goal],
}

/// What is done.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// Threads that append, for a while.
    Window {
        /// How.
        appends: Appends,
        /// Whether it goes on for long, so that the backlog shows, which is then drained.
        sustained: bool,
    },
    /// The same, for so many bytes of payload that all of it stays in memory; again and again.
    Burst {
        /// How.
        appends: Appends,
        /// Payload of a burst: with what goes with it, less than what starts a flush of everlog's.
        bytes: u64,
    },
    /// Whole logs are read that were written among others.
    Read(Written),
    /// The process is killed, and the store is opened.
    Reopen(Written),
    /// Memory for logs in which nothing happens.
    Idle(Written),
}

/// How records are appended.
#[derive(Clone, Copy, Debug)]
pub struct Appends {
    /// Threads, each of which appends to logs of its own.
    pub threads: u32,
    /// Records in one append, all for one log.
    pub records: usize,
    /// Bytes of a record's payload.
    pub bytes: usize,
    /// Appends that a thread has under way.
    pub outstanding: usize,
    /// Appends a second of all threads, each begun at a time that is fixed beforehand; 0: each begins when the one before
    /// it is done.
    pub rate: u32,
    /// Logs, divided among the threads.
    pub logs: u32,
}

/// What is in the store before something is measured.
#[derive(Clone, Copy, Debug)]
pub struct Written {
    /// Logs.
    pub logs: u32,
    /// Records of each.
    pub records: u64,
    /// Of these logs, the first ones, which hold more,
    pub long_logs: u32,
    /// so many records each.
    pub long_records: u64,
    /// Bytes of a record.
    pub bytes: usize,
}

/// What everlog is to reach in a workload.
#[derive(Clone, Copy)]
pub struct Goal {
    /// In words.
    pub what: &'static str,
    /// The figure, if all that it needs was measured.
    pub value: fn(&Medians) -> Option<f64>,
    /// What it must be.
    pub bound: Bound,
}

/// What a figure must be.
#[derive(Clone, Copy, Debug)]
pub enum Bound {
    /// This or more.
    AtLeast(f64),
    /// This or less.
    AtMost(f64),
}

impl Bound {
    /// Whether `value` is within it.
    pub fn holds(self, value: f64) -> bool {
        match self {
            Self::AtLeast(bound) => value >= bound,
            Self::AtMost(bound) => value <= bound,
        }
    }
}

impl std::fmt::Display for Bound {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::AtLeast(bound) => write!(f, "≥ {bound}"),
            Self::AtMost(bound) => write!(f, "≤ {bound}"),
        }
    }
}

const LOGS: u32 = 100_000;
/// One record in one append by one thread.
const ONE: Appends = Appends { threads: 1, records: 1, bytes: 256, outstanding: 1, rate: 0, logs: LOGS };
const BATCHES: Appends = Appends { threads: 16, records: 64, bytes: 1024, ..ONE };
const RAFT: &[Engine] = &[Engine::Everlog, Engine::RaftEngine, Engine::RaftEngineTuned];
const ASYNC: &[Engine] = &[Engine::Everlog, Engine::Fio];
const ASYNC_BARE: &[Engine] = &[Engine::Everlog, Engine::Fio, Engine::Bare];
const RAFT_BARE: &[Engine] = &[Engine::Everlog, Engine::Bare, Engine::RaftEngine, Engine::RaftEngineTuned];

const fn appends_to_raft(least: f64) -> Goal {
    let value = |m: &Medians| m.to_raft(Figure::Appends);
    Goal { what: "appends/s ÷ raft-engine's", value, bound: Bound::AtLeast(least) }
}

const fn p99_to_raft(most: f64) -> Goal {
    Goal { what: "p99 ÷ raft-engine's", value: |m| m.to_raft(Figure::P99), bound: Bound::AtMost(most) }
}

/// Every workload.
pub const ALL: [Workload; 11] = [
    Workload {
        id: 'a',
        title: "1 thread × 256 B",
        kind: Kind::Window { appends: ONE, sustained: false },
        main: Figure::Appends,
        engines: Engine::ALL,
        goals: &[
            Goal {
                what: "p50 ÷ fio's, writes of 4 KiB one at a time",
                value: |m| m.ratio(Figure::P50, Engine::Fio),
                bound: Bound::AtMost(1.15),
            },
            appends_to_raft(1.0),
        ],
    },
    Workload {
        id: 'b',
        title: "16 threads × 256 B",
        kind: Kind::Window { appends: Appends { threads: 16, ..ONE }, sustained: false },
        main: Figure::Appends,
        engines: Engine::ALL,
        goals: &[appends_to_raft(2.3), p99_to_raft(0.5)],
    },
    Workload {
        id: 'c',
        title: "256 threads × 256 B",
        kind: Kind::Window { appends: Appends { threads: 256, ..ONE }, sustained: false },
        main: Figure::Appends,
        engines: Engine::ALL,
        goals: &[appends_to_raft(2.0), p99_to_raft(0.25)],
    },
    Workload {
        id: 'd',
        title: "1 thread × 256 B, 4,096 under way, bursts",
        // Each log that is touched takes 768 bytes of the memtable beside its records.
        kind: Kind::Burst { appends: Appends { outstanding: 4096, ..ONE }, bytes: 14 << 20 },
        main: Figure::PayloadRate,
        engines: ASYNC_BARE,
        goals: &[Goal {
            what: "payload bytes/s ÷ fio's, in writes as large as everlog's",
            value: |m| m.ratio(Figure::PayloadRate, Engine::Fio),
            bound: Bound::AtLeast(0.6),
        }],
    },
    Workload {
        id: 'e',
        title: "1 thread × 256 B, 4,096 under way, sustained",
        kind: Kind::Window { appends: Appends { outstanding: 4096, ..ONE }, sustained: true },
        main: Figure::PayloadRate,
        engines: ASYNC,
        goals: &[Goal {
            what: "payload bytes/s × bytes to the device per payload byte, backlog drained and its time counted ÷ fio's bytes/s",
            value: |m| {
                let of = |figure| m.of(Engine::Everlog, figure);
                let device = of(Figure::DrainedPayloadRate)? * of(Figure::DrainedDeviceBytes)?;
                Some(device / m.of(Engine::Fio, Figure::PayloadRate)?)
            },
            bound: Bound::AtLeast(0.6),
        }],
    },
    Workload {
        id: 'f',
        title: "16 threads × batches of 64 × 1 KiB, bursts",
        kind: Kind::Burst { appends: BATCHES, bytes: 32 << 20 },
        main: Figure::Records,
        engines: RAFT_BARE,
        goals: &[Goal {
            what: "records/s ÷ raft-engine's",
            value: |m| m.to_raft(Figure::Records),
            bound: Bound::AtLeast(3.0),
        }],
    },
    Workload {
        id: 'g',
        title: "16 threads × batches of 64 × 1 KiB, sustained",
        kind: Kind::Window { appends: BATCHES, sustained: true },
        main: Figure::DrainedRecords,
        engines: RAFT,
        goals: &[Goal {
            what: "records/s, the drained backlog's time counted ÷ raft-engine's",
            value: |m| m.to_raft(Figure::DrainedRecords),
            bound: Bound::AtLeast(2.0),
        }],
    },
    Workload {
        id: 'h',
        title: "whole logs of 1,000 × 256 B read, page cache dropped",
        kind: Kind::Read(Written { logs: 101_000, records: 10, long_logs: 1000, long_records: 1000, bytes: 256 }),
        main: Figure::Records,
        engines: &[Engine::Everlog, Engine::RaftEngine, Engine::Fjall],
        goals: &[
            Goal {
                what: "records/s ÷ raft-engine's",
                value: |m| m.to_raft(Figure::Records),
                bound: Bound::AtLeast(5.0),
            },
            Goal {
                what: "records/s ÷ fjall's, which is compacted",
                value: |m| m.ratio(Figure::Records, Engine::Fjall),
                bound: Bound::AtLeast(2.0),
            },
        ],
    },
    Workload {
        id: 'i',
        title: "open after SIGKILL, 10 GB in 1,000,000 logs",
        kind: Kind::Reopen(Written { logs: 1_000_000, records: 10, long_logs: 0, long_records: 0, bytes: 1000 }),
        main: Figure::OpenSeconds,
        engines: &[Engine::Everlog, Engine::RaftEngine],
        goals: &[Goal {
            what: "raft-engine's time ÷ everlog's",
            value: |m| m.to_raft(Figure::OpenSeconds).map(|ratio| 1.0 / ratio),
            bound: Bound::AtLeast(10.0),
        }],
    },
    Workload {
        id: 'j',
        title: "memory for 1,000,000 idle logs of 10 × 100 B",
        kind: Kind::Idle(Written { logs: 1_000_000, records: 10, long_logs: 0, long_records: 0, bytes: 100 }),
        main: Figure::OpenedLogMemory,
        engines: &[Engine::Everlog, Engine::RaftEngine],
        goals: &[
            Goal {
                what: "memory a log after an open ÷ raft-engine's",
                value: |m| m.to_raft(Figure::OpenedLogMemory),
                bound: Bound::AtMost(0.05),
            },
            Goal {
                what: "memory a log where they were written ÷ raft-engine's",
                value: |m| m.to_raft(Figure::WrittenLogMemory),
                bound: Bound::AtMost(0.05),
            },
        ],
    },
    Workload {
        id: 'k',
        title: "16 threads × 256 B, 20,000 a second at fixed times",
        kind: Kind::Window { appends: Appends { threads: 16, rate: 20_000, ..ONE }, sustained: false },
        main: Figure::P99,
        engines: RAFT,
        goals: &[],
    },
];

impl Workload {
    /// The workload called `id`.
    pub fn named(id: char) -> Option<Self> {
        ALL.into_iter().find(|w| w.id == id)
    }
}

impl Appends {
    /// The logs that belong to one thread alone.
    pub fn logs_of(&self, thread: u32) -> Range<u32> {
        let bound = |n: u32| (u64::from(self.logs) * u64::from(n) / u64::from(self.threads)) as u32;
        bound(thread)..bound(thread + 1)
    }

    /// Payload bytes of one append.
    pub fn append_bytes(&self) -> u64 {
        (self.records * self.bytes) as u64
    }
}

impl Written {
    /// A `scale`th of the logs.
    pub fn scaled(self, scale: u32) -> Self {
        Self { logs: self.logs / scale, long_logs: self.long_logs / scale, ..self }
    }

    /// Bytes of payload in all.
    pub fn payload_bytes(&self) -> u64 {
        let others = u64::from(self.logs - self.long_logs) * self.records;
        (others + u64::from(self.long_logs) * self.long_records) * self.bytes as u64
    }
}

/// SplitMix64: no secret, only bytes that do not compress and choices that can be repeated.
pub struct Random(u64);

impl Random {
    /// A stream of numbers of its own for each (seed, stream).
    pub fn new(seed: u64, stream: u64) -> Self {
        let mut random = Self(seed ^ stream.wrapping_mul(0xd134_2543_de82_ef95));
        random.bits();
        random
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, uniform but for a bias of bound / 2^64.
    pub fn below(&mut self, bound: u64) -> u64 {
        ((u128::from(self.bits()) * u128::from(bound)) >> 64) as u64
    }
}

/// Random bytes, made once; payloads are slices of them at random places.
#[derive(Clone, Copy)]
pub struct Pool(Payload);

impl Pool {
    /// Far more than a compressor's window, so that two slices that overlap rarely meet in it.
    const BYTES: usize = 64 << 20;

    /// Fills the pool. It is never freed: the process measures once and ends.
    pub fn new(seed: u64) -> Self {
        let mut random = Random::new(seed, u64::MAX);
        let mut bytes = Vec::with_capacity(Self::BYTES);
        while bytes.len() < Self::BYTES {
            bytes.extend_from_slice(&random.bits().to_le_bytes());
        }
        Self(bytes.leak())
    }

    /// A slice of `len` bytes.
    pub fn slice(&self, random: &mut Random, len: usize) -> Payload {
        let at = random.below((Self::BYTES - len) as u64) as usize;
        &self.0[at..at + len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_log_belongs_to_exactly_one_thread() {
        for workload in ALL {
            let (Kind::Window { appends, .. } | Kind::Burst { appends, .. }) = workload.kind else { continue };
            let mut next = 0;
            for thread in 0..appends.threads {
                let logs = appends.logs_of(thread);
                assert_eq!(logs.start, next);
                assert!(!logs.is_empty());
                next = logs.end;
            }
            assert_eq!(next, appends.logs);
        }
    }

    #[test]
    fn workloads_have_letters_of_their_own() {
        for (n, workload) in ALL.iter().enumerate() {
            assert!(ALL[..n].iter().all(|other| other.id != workload.id));
            assert_eq!(workload.engines[0], Engine::Everlog, "its writes say how large fio's are to be");
        }
    }

    #[test]
    fn random_numbers_stay_below_their_bound_and_repeat() {
        let (mut a, mut b) = (Random::new(1, 2), Random::new(1, 2));
        for _ in 0..1000 {
            let n = a.below(10);
            assert!(n < 10);
            assert_eq!(n, b.below(10));
        }
        assert_ne!(Random::new(1, 2).bits(), Random::new(1, 3).bits());
    }
}
