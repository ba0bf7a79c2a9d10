//! redb 4, a copy-on-write B-tree, with its default configuration: one table, a key for each record.
//!
//! Invariant: a log's records are counted by its greatest key.

use crate::contender::{Contender, Outcome, Payload};
use ::redb::{Database, ReadableDatabase, TableDefinition};
use std::path::Path;
use std::time::Instant;

/// The version measured; Cargo.toml demands exactly it.
pub const VERSION: &str = "4.6.0";

/// What its users are told about the settings.
pub const SETTINGS: &str = "defaults; one table, key = (log, record); each append is a write transaction of \
     `Durability::Immediate`, of which there is one at a time; loads are transactions of 10,000 records; system allocator";

const RECORDS: TableDefinition<'static, (u32, u64), &[u8]> = TableDefinition::new("records");
/// Records of one transaction while loading.
const LOADING: usize = 10_000;

/// The database.
pub struct Redb {
    database: Database,
}

/// A record to be: its log, its number, its bytes.
type Loaded = (u32, u64, Payload);

impl Redb {
    fn write(&self, records: impl IntoIterator<Item = Loaded>) -> Outcome<()> {
        let transaction = self.database.begin_write().map_err(told)?;
        {
            let mut table = transaction.open_table(RECORDS).map_err(told)?;
            for (log, record, payload) in records {
                table.insert((log, record), payload).map_err(told)?;
            }
        }
        transaction.commit().map_err(told)
    }
}

impl Contender for Redb {
    type Session = Vec<Loaded>;
    type Pending = ();

    fn open(dir: &Path, _logs: u32, _bytes: u64) -> Outcome<Self> {
        let redb = Self { database: Database::create(dir.join("records.redb")).map_err(told)? };
        redb.write([])?;
        Ok(redb)
    }

    fn session(&self) -> Vec<Loaded> {
        Vec::with_capacity(LOADING)
    }

    fn begin(
        &self, _session: &mut Vec<Loaded>, log: u32, held: u64, payloads: &[Payload], _waits: bool,
    ) -> Outcome<()> {
        self.write((held..).zip(payloads).map(|(record, payload)| (log, record, *payload)))
    }

    fn wait(&self, (): ()) -> Outcome<()> {
        Ok(())
    }

    fn load(&self, session: &mut Vec<Loaded>, log: u32, held: u64, payloads: &[Payload]) -> Outcome<()> {
        session.extend((held..).zip(payloads).map(|(record, payload)| (log, record, *payload)));
        if session.len() >= LOADING { self.sync(session) } else { Ok(()) }
    }

    fn sync(&self, session: &mut Vec<Loaded>) -> Outcome<()> {
        self.write(session.drain(..))
    }

    fn drain(&self) -> Outcome<Instant> {
        Ok(Instant::now())
    }

    fn read(&self, log: u32, _records: u64) -> Outcome<(u64, u64)> {
        let transaction = self.database.begin_read().map_err(told)?;
        let table = transaction.open_table(RECORDS).map_err(told)?;
        let (mut records, mut bytes) = (0, 0);
        for found in table.range((log, 0)..=(log, u64::MAX)).map_err(told)? {
            bytes += found.map_err(told)?.1.value().len() as u64;
            records += 1;
        }
        Ok((records, bytes))
    }

    fn held(&self, log: u32) -> Outcome<u64> {
        let transaction = self.database.begin_read().map_err(told)?;
        let table = transaction.open_table(RECORDS).map_err(told)?;
        let mut range = table.range((log, 0)..=(log, u64::MAX)).map_err(told)?;
        match range.next_back() {
            Some(last) => Ok(last.map_err(told)?.0.value().1 + 1),
            None => Ok(0),
        }
    }

    fn close(self) -> Outcome<()> {
        drop(self.database);
        Ok(())
    }
}

fn told(error: impl Into<::redb::Error>) -> String {
    format!("redb: {}", error.into())
}
