//! What an engine must offer to take part: open, create logs, append durably, count what it holds, close.
//!
//! Nothing here measures. Invariant: [`Contender::append`] returns only after the engine has said that the records are
//! on stable storage.

use std::ops::Range;
use std::path::Path;

/// What goes wrong is told in words; nothing here is handled, a run that fails is thrown away.
pub type Outcome<T> = Result<T, String>;

/// A slice of the pool of payloads, which lives as long as the process: no engine pays for a copy it does not make.
pub type Payload = &'static [u8];

/// An engine under test.
pub trait Contender: Sync + Sized {
    /// What one thread keeps between its appends.
    type Session: Send;

    /// Opens a new store in the empty directory `dir`, for `logs` logs.
    fn open(dir: &Path, logs: u32) -> Outcome<Self>;

    /// What one thread needs.
    fn session(&self) -> Self::Session;

    /// Creates the logs with one record each, in one durable batch.
    fn create(&self, session: &mut Self::Session, logs: Range<u32>, payload: Payload) -> Outcome<()>;

    /// Appends `payloads` to `log` as one batch and waits until they are durable. `held` is the number of records that
    /// the log holds already; no other thread appends to it.
    fn append(&self, session: &mut Self::Session, log: u32, held: u64, payloads: &[Payload]) -> Outcome<()>;

    /// How many records the engine says `log` holds.
    fn held(&self, log: u32) -> Outcome<u64>;

    /// What an operator would have running beside the appends; called about once a second.
    fn tend(&self) -> Outcome<()>;

    /// Closes the store.
    fn close(self) -> Outcome<()>;
}
