//! The write path: from a batch to a durable, acknowledged frame.
//!
//! `append` runs on the callers' threads, `committer` on one of its own; the `lane` between them is all they share.

pub mod ack;
pub mod append;
pub mod batch;
pub mod committer;
pub mod lane;
mod plan;
pub mod throttle;

#[cfg(all(test, everlog_loom))]
mod loom_tests;

pub use ack::{Ack, LogReceipt, Receipt};
pub use batch::{Batch, LogBatch};
