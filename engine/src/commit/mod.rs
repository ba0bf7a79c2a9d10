//! The write path: from a batch to a durable, acknowledged frame.
//!
//! `append` runs on the callers' threads, `committer` on one of its own. The `lane` between them and the `frames` that are
//! written are all they share; a caller who waits may commit in the committer's place (`leader`).

pub mod ack;
pub mod append;
pub mod batch;
pub mod committer;
mod encoded;
pub mod frames;
pub mod lane;
pub mod leader;
mod plan;
mod publish;
pub mod throttle;

#[cfg(all(test, everlog_loom))]
mod loom_tests;

pub use ack::{Ack, LogReceipt, Receipt};
pub use batch::{Batch, LogBatch};
