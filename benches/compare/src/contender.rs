//! What an engine must offer to take part: logs that take records, durably or to be made durable together, and give them
//! back.
//!
//! Nothing here measures. Invariant: [`Contender::wait`] returns only after the engine has said that the records are on
//! stable storage, and [`Contender::sync`] only after it has said so of everything loaded.

use std::path::Path;
use std::time::Instant;

/// What goes wrong is told in words; nothing here is handled, a run that fails is thrown away.
pub type Outcome<T> = Result<T, String>;

/// A slice of the pool of payloads, which lives as long as the process: no engine pays for a copy it does not make.
pub type Payload = &'static [u8];

/// An engine under test. A log is a number; its records are numbered from 0 without gaps.
pub trait Contender: Sync + Sized {
    /// What one thread keeps between its calls.
    type Session: Send;
    /// An append that is under way.
    type Pending: Send;

    /// Makes what the driver needs beside the engine, before anything is measured: at most `logs` logs will be used.
    fn prepare(_logs: u32) {}

    /// Opens the store in the directory `dir`, and makes it first if that is empty. At most `logs` logs will be in it, and
    /// about `bytes` bytes be written to it.
    fn open(dir: &Path, logs: u32, bytes: u64) -> Outcome<Self>;

    /// What one thread needs.
    fn session(&self) -> Self::Session;

    /// Begins to append `payloads` to `log` as one batch, which is created if it holds none. `held` is the number of records
    /// that it holds already; no other thread appends to it. An engine without such a call makes them durable at once, and one
    /// that can do so faster does if the caller `waits` for it next.
    fn begin(
        &self, session: &mut Self::Session, log: u32, held: u64, payloads: &[Payload], waits: bool,
    ) -> Outcome<Self::Pending>;

    /// Waits until what was begun is durable.
    fn wait(&self, pending: Self::Pending) -> Outcome<()>;

    /// Appends as [`Self::begin`] does, to be durable by the next [`Self::sync`] of this session.
    fn load(&self, session: &mut Self::Session, log: u32, held: u64, payloads: &[Payload]) -> Outcome<()>;

    /// Makes everything durable that the session loaded.
    fn sync(&self, session: &mut Self::Session) -> Outcome<()>;

    /// Waits until nothing is left to be done of what the appends gave rise to: flushes, merges, compactions. Gives since
    /// when that is so, which may be a little ago, where the engine must be watched for it.
    fn drain(&self) -> Outcome<Instant>;

    /// Puts everything into the form that is best to read, where the engine has a call for that.
    fn compact(&self) -> Outcome<()> {
        self.drain().map(drop)
    }

    /// Reads the whole log, which holds `records` records; gives how many it read, and their bytes.
    fn read(&self, log: u32, records: u64) -> Outcome<(u64, u64)>;

    /// How many records the engine says `log` holds.
    fn held(&self, log: u32) -> Outcome<u64>;

    /// What an operator would have running beside the appends; called about once a second.
    fn tend(&self) -> Outcome<()> {
        Ok(())
    }

    /// Writes of the engine's own log, and their bytes, since the store was opened, where it counts them.
    fn log_writes(&self) -> Option<(u64, u64)> {
        None
    }

    /// Bytes that an open after a crash at this moment would have to go through, if too few of them for this to be a test.
    fn wants_more_to_recover(&self) -> bool {
        false
    }

    /// Closes the store.
    fn close(self) -> Outcome<()>;
}

/// Logs and records as the keys of an ordered map: big-endian, so that a log's records follow one another.
pub fn key(log: u32, record: u64) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&log.to_be_bytes());
    key[4..].copy_from_slice(&record.to_be_bytes());
    key
}

/// The record of such a key.
pub fn record_of(key: &[u8]) -> Outcome<u64> {
    let number = key.get(4..).and_then(|number| number.try_into().ok()).ok_or("a key of 12 bytes was expected")?;
    Ok(u64::from_be_bytes(number))
}
