//! fjall 3, an LSM tree, with its default configuration: one keyspace, a key for each record.
//!
//! Invariant: a log's records are counted by its greatest key.

use crate::contender::{Contender, Outcome, Payload, key, record_of};
use ::fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// The version measured; Cargo.toml demands exactly it.
pub const VERSION: &str = "3.1.13";

/// What its users are told about the settings.
pub const SETTINGS: &str = "defaults; one keyspace, key = log and record, big-endian; each append is a `WriteBatch` of \
     `PersistMode::SyncData`, that is fdatasync before the acknowledgement; system allocator";

/// Whoever finds nothing under way for so long has waited for all.
const QUIET: Duration = Duration::from_millis(500);
/// No compaction takes longer than this.
const PATIENCE: Duration = Duration::from_secs(120);

/// The database and its one keyspace.
pub struct Fjall {
    database: Database,
    records: Keyspace,
}

impl Fjall {
    fn write(&self, log: u32, held: u64, payloads: &[Payload], mode: Option<PersistMode>) -> Outcome<()> {
        let mut batch = self.database.batch().durability(mode);
        for (record, payload) in (held..).zip(payloads) {
            batch.insert(&self.records, key(log, record), *payload);
        }
        batch.commit().map_err(told)
    }
}

impl Contender for Fjall {
    type Session = ();
    type Pending = ();

    fn open(dir: &Path, _logs: u32, _bytes: u64) -> Outcome<Self> {
        let database = Database::builder(dir).open().map_err(told)?;
        let records = database.keyspace("records", KeyspaceCreateOptions::default).map_err(told)?;
        Ok(Self { database, records })
    }

    fn session(&self) {}

    fn begin(&self, _session: &mut (), log: u32, held: u64, payloads: &[Payload], _waits: bool) -> Outcome<()> {
        self.write(log, held, payloads, Some(PersistMode::SyncData))
    }

    fn wait(&self, (): ()) -> Outcome<()> {
        Ok(())
    }

    fn load(&self, _session: &mut (), log: u32, held: u64, payloads: &[Payload]) -> Outcome<()> {
        self.write(log, held, payloads, None)
    }

    fn sync(&self, _session: &mut ()) -> Outcome<()> {
        self.database.persist(PersistMode::SyncData).map_err(told)
    }

    fn drain(&self) -> Outcome<Instant> {
        let (began, mut quiet_since) = (Instant::now(), Instant::now());
        while quiet_since.elapsed() < QUIET {
            if self.database.outstanding_flushes() > 0 || self.database.active_compactions() > 0 {
                quiet_since = Instant::now();
            }
            if began.elapsed() > PATIENCE {
                return Err(format!("fjall: compactions did not end within {PATIENCE:?}"));
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(quiet_since)
    }

    fn compact(&self) -> Outcome<()> {
        self.records.rotate_memtable_and_wait().map_err(told)?;
        self.drain()?;
        self.records.major_compact().map_err(told)
    }

    fn read(&self, log: u32, _records: u64) -> Outcome<(u64, u64)> {
        let (mut records, mut bytes) = (0, 0);
        for found in self.records.prefix(log.to_be_bytes()) {
            bytes += found.value().map_err(told)?.len() as u64;
            records += 1;
        }
        Ok((records, bytes))
    }

    fn held(&self, log: u32) -> Outcome<u64> {
        match self.records.prefix(log.to_be_bytes()).next_back() {
            Some(last) => Ok(record_of(&last.key().map_err(told)?)? + 1),
            None => Ok(0),
        }
    }

    fn close(self) -> Outcome<()> {
        self.database.persist(PersistMode::SyncAll).map_err(told)
    }
}

fn told(error: ::fjall::Error) -> String {
    format!("fjall: {error}")
}
