//! RocksDB, an LSM tree, with its default configuration: one column family, a key for each record.
//!
//! Invariant: a log's records are counted by its greatest key.

use crate::contender::{Contender, Outcome, Payload, key, record_of};
use ::rocksdb::{DB, Direction, IteratorMode, Options, WaitForCompactOptions, WriteBatch, WriteOptions};
use std::path::Path;
use std::time::Instant;

/// The version of the binding measured; Cargo.toml demands exactly it.
pub const VERSION: &str = "0.25.0 (RocksDB 11.8.1)";

/// What its users are told about the settings.
pub const SETTINGS: &str = "defaults, built without compressors; key = log and record, big-endian; each append is a \
     `WriteBatch` with `set_sync(true)`, which threads that wait share; its own allocator calls";

/// The database.
pub struct Rocksdb {
    database: DB,
}

impl Rocksdb {
    fn write(&self, log: u32, held: u64, payloads: &[Payload], sync: bool) -> Outcome<()> {
        let mut batch = WriteBatch::default();
        for (record, payload) in (held..).zip(payloads) {
            batch.put(key(log, record), payload);
        }
        let mut options = WriteOptions::default();
        options.set_sync(sync);
        self.database.write_opt(batch, &options).map_err(told)
    }
}

impl Contender for Rocksdb {
    type Session = ();
    type Pending = ();

    fn open(dir: &Path, _logs: u32, _bytes: u64) -> Outcome<Self> {
        let mut options = Options::default();
        options.create_if_missing(true);
        Ok(Self { database: DB::open(&options, dir).map_err(told)? })
    }

    fn session(&self) {}

    fn begin(&self, _session: &mut (), log: u32, held: u64, payloads: &[Payload], _waits: bool) -> Outcome<()> {
        self.write(log, held, payloads, true)
    }

    fn wait(&self, (): ()) -> Outcome<()> {
        Ok(())
    }

    fn load(&self, _session: &mut (), log: u32, held: u64, payloads: &[Payload]) -> Outcome<()> {
        self.write(log, held, payloads, false)
    }

    fn sync(&self, _session: &mut ()) -> Outcome<()> {
        self.database.flush_wal(true).map_err(told)
    }

    fn drain(&self) -> Outcome<Instant> {
        self.database.wait_for_compact(&WaitForCompactOptions::default()).map_err(told)?;
        Ok(Instant::now())
    }

    fn compact(&self) -> Outcome<()> {
        self.database.flush().map_err(told)?;
        self.database.compact_range::<&[u8], &[u8]>(None, None);
        self.drain().map(drop)
    }

    fn read(&self, log: u32, _records: u64) -> Outcome<(u64, u64)> {
        let (mut records, mut bytes) = (0, 0);
        for found in self.database.iterator(IteratorMode::From(&key(log, 0), Direction::Forward)) {
            let (found, value) = found.map_err(told)?;
            if !found.starts_with(&log.to_be_bytes()) {
                break;
            }
            bytes += value.len() as u64;
            records += 1;
        }
        Ok((records, bytes))
    }

    fn held(&self, log: u32) -> Outcome<u64> {
        let last = self.database.iterator(IteratorMode::From(&key(log, u64::MAX), Direction::Reverse)).next();
        match last {
            Some(last) => {
                let (last, _) = last.map_err(told)?;
                if last.starts_with(&log.to_be_bytes()) { Ok(record_of(&last)? + 1) } else { Ok(0) }
            }
            None => Ok(0),
        }
    }

    fn close(self) -> Outcome<()> {
        self.database.cancel_all_background_work(true);
        Ok(())
    }
}

fn told(error: ::rocksdb::Error) -> String {
    format!("RocksDB: {error}")
}
