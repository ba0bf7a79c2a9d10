//! everlog: an append-only, log-structured storage engine.
#![deny(missing_docs)]

pub mod clock;
pub mod error;
pub mod finding;
pub mod format;
pub mod io;
pub mod journal;
pub mod limits;
pub mod manifest;
pub mod metrics;
pub mod names;
pub mod poison;
pub mod recovery;
pub mod segment;
pub mod sync;
pub mod types;

pub use error::{Error, ErrorKind, Result};
