//! everlog, with its default configuration.
//!
//! Invariant: a log's records are counted by its next seq, which begins at 0 and has no gaps.

use crate::contender::{Contender, Outcome, Payload};
use ::everlog::{Ack, Batch, Config, ReadLimit, Store};
use std::collections::VecDeque;
use std::path::Path;
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

/// What its users are told about the settings.
pub const SETTINGS: &str = "`Config::default()`; `append_and_wait` where a thread waits for each append, else `append` and its \
     `Ack`; both after an O_DIRECT write with DSYNC; flushes to segments and merges run beside the appends; system allocator";

/// Appends that a session has under way while it loads.
const LOADING: usize = 1024;
/// Merges look for work within a moment of a flush: whoever finds none for so long has waited for all.
const QUIET: Duration = Duration::from_millis(1500);
/// Bytes and records asked for at once.
const PAGE: ReadLimit = ReadLimit { records: 100_000, bytes: 4 << 20 };

/// The names of the logs, which are the driver's and not the engine's.
static NAMES: OnceLock<Vec<String>> = OnceLock::new();

/// A store.
pub struct Everlog {
    store: Store,
    names: &'static [String],
    ring_bytes: u64,
}

/// Frames that the journal may have in flight.
pub fn in_flight() -> usize {
    Config::default().in_flight
}

impl Everlog {
    fn name(&self, log: u32) -> &str {
        &self.names[log as usize]
    }
}

impl Contender for Everlog {
    type Session = VecDeque<Ack>;
    /// None where it is durable already.
    type Pending = Option<Ack>;

    fn prepare(logs: u32) {
        NAMES.get_or_init(|| (0..logs).map(|log| format!("users/{log:07}/contacts")).collect());
    }

    fn open(dir: &Path, logs: u32, _bytes: u64) -> Outcome<Self> {
        let config = Config::default();
        let ring_bytes = config.journal_files_max as u64 * config.journal_file_bytes;
        let empty = dir.read_dir().map_err(|e| format!("{}: {e}", dir.display()))?.next().is_none();
        if empty {
            Store::create(dir, &config).map_err(told)?;
        }
        let store = Store::open(dir, config).map_err(told)?;
        Self::prepare(logs);
        Ok(Self { store, names: NAMES.get().ok_or("the names were not prepared")?, ring_bytes })
    }

    fn session(&self) -> VecDeque<Ack> {
        VecDeque::with_capacity(LOADING)
    }

    fn begin(
        &self, _session: &mut VecDeque<Ack>, log: u32, held: u64, payloads: &[Payload], waits: bool,
    ) -> Outcome<Option<Ack>> {
        let mut batch = Batch::new();
        let to = batch.log(self.name(log));
        if held == 0 {
            to.create();
        }
        for payload in payloads {
            to.record(payload);
        }
        if waits {
            return self.store.append_and_wait(batch).map(|_| None).map_err(told);
        }
        self.store.append(batch).map(Some).map_err(told)
    }

    fn wait(&self, pending: Option<Ack>) -> Outcome<()> {
        pending.map_or(Ok(()), |ack| ack.wait().map(drop).map_err(told))
    }

    fn load(&self, session: &mut VecDeque<Ack>, log: u32, held: u64, payloads: &[Payload]) -> Outcome<()> {
        if session.len() == LOADING
            && let Some(oldest) = session.pop_front()
        {
            self.wait(Some(oldest))?;
        }
        let ack = self.begin(session, log, held, payloads, false)?;
        session.extend(ack);
        Ok(())
    }

    fn sync(&self, session: &mut VecDeque<Ack>) -> Outcome<()> {
        session.drain(..).try_for_each(|ack| self.wait(Some(ack)))
    }

    fn drain(&self) -> Outcome<Instant> {
        self.store.flush().map_err(told)?;
        let mut quiet_since = Instant::now();
        while quiet_since.elapsed() < QUIET {
            let stats = self.store.stats();
            if stats.due_segments > 0 || stats.merges_under_way > 0 {
                quiet_since = Instant::now();
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(quiet_since)
    }

    fn read(&self, log: u32, _records: u64) -> Outcome<(u64, u64)> {
        let (mut next, mut records, mut bytes) = (0, 0, 0);
        loop {
            let page = self.store.read(self.name(log), next, PAGE).map_err(told)?;
            records += page.records.len() as u64;
            bytes += page.records.iter().map(|record| record.payload.len() as u64).sum::<u64>();
            next = page.next_seq;
            if next >= page.head {
                return Ok((records, bytes));
            }
        }
    }

    fn held(&self, log: u32) -> Outcome<u64> {
        self.store.info(self.name(log)).map(|info| info.next_seq).map_err(told)
    }

    fn log_writes(&self) -> Option<(u64, u64)> {
        let stats = self.store.stats();
        Some((stats.frame_writes, stats.frame_bytes))
    }

    fn wants_more_to_recover(&self) -> bool {
        (self.store.stats().memtable_bytes as u64) < self.ring_bytes / 2
    }

    fn close(self) -> Outcome<()> {
        self.store.close().map_err(told)
    }
}

fn told(error: ::everlog::Error) -> String {
    format!("everlog: {error}")
}
