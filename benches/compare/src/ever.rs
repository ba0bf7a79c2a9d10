//! everlog, with its default configuration.
//!
//! Invariant: a log's records are counted by its next seq, which begins at 0 and has no gaps.

use crate::contender::{Contender, Outcome, Payload};
use everlog::{Batch, Config, Store};
use std::ops::Range;
use std::path::Path;

/// What its users are told about the settings.
pub const SETTINGS: &str = "`Config::default()`; each append waits for its `Ack`, which is given after an O_DIRECT \
     write with DSYNC; flushes to segments run beside the appends; system allocator";

/// A store and the names of its logs.
pub struct Ever {
    store: Store,
    names: Vec<String>,
}

impl Ever {
    fn name(&self, log: u32) -> &str {
        &self.names[log as usize]
    }

    fn commit(&self, batch: Batch<'_>) -> Outcome<()> {
        self.store.append(batch).and_then(everlog::Ack::wait).map(drop).map_err(told)
    }
}

impl Contender for Ever {
    type Session = ();

    fn open(dir: &Path, logs: u32) -> Outcome<Self> {
        let config = Config::default();
        Store::create(dir, &config).map_err(told)?;
        let store = Store::open(dir, config).map_err(told)?;
        Ok(Self { store, names: (0..logs).map(|log| format!("users/{log:07}/contacts")).collect() })
    }

    fn session(&self) {}

    fn create(&self, _session: &mut (), logs: Range<u32>, payload: Payload) -> Outcome<()> {
        let mut batch = Batch::new();
        for log in logs {
            batch.log(self.name(log)).create().record(payload);
        }
        self.commit(batch)
    }

    fn append(&self, _session: &mut (), log: u32, _held: u64, payloads: &[Payload]) -> Outcome<()> {
        let mut batch = Batch::new();
        let to = batch.log(self.name(log));
        for payload in payloads {
            to.record(payload);
        }
        self.commit(batch)
    }

    fn held(&self, log: u32) -> Outcome<u64> {
        self.store.info(self.name(log)).map(|info| info.next_seq).map_err(told)
    }

    fn tend(&self) -> Outcome<()> {
        Ok(())
    }

    fn close(self) -> Outcome<()> {
        self.store.close().map_err(told)
    }
}

fn told(error: everlog::Error) -> String {
    format!("everlog: {error}")
}
