//! The engine as a library. What follows is the project's README, whose example is compiled and run as a test.
#![doc = include_str!("../../README.md")]
#![deny(missing_docs)]
#![cfg_attr(test, allow(clippy::disallowed_methods, reason = "tests start threads and take times of their own"))]

mod catalog;
pub mod clock;
pub mod cold;
mod commit;
mod config;
mod error;
mod finding;
mod flush;
pub mod format;
mod index;
pub mod io;
mod journal;
pub mod limits;
mod manifest;
mod merge;
mod metrics;
#[cfg(not(feature = "mutants"))]
mod mutants;
#[cfg(feature = "mutants")]
pub mod mutants;
pub mod names;
mod poison;
mod read;
mod recovery;
mod restore;
mod scrub;
pub mod segment;
mod ship;
mod store;
mod sync;
pub mod types;
mod verify;
mod waiter;

pub use commit::{Ack, Batch, LogBatch, LogReceipt, Receipt};
pub use config::{Config, IoChoice, WhenFull};
pub use error::{Error, ErrorKind, Result};
pub use finding::Finding;
pub use poison::Failed;
pub use read::{Page, ReadLimit, Record};
pub use restore::{CARRIED_FILE_NAME, RestoreMode, RestoreReport};
pub use scrub::ScrubReport;
pub use store::{
    Carry, ColdAck, ColdConfig, LogInfo, ReadFuture, ReadOnly, RecoveryReport, Stats, Steps, Store, Subscription,
    Summary, restore, restore_carrying, restore_on,
};
pub use verify::{ColdReport, verify, verify_cold};
