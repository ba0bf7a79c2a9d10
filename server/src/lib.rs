//! everlogd: a minimal server for device sync, speaking the Durable Streams protocol over the everlog engine.
//!
//! The program is `main.rs`; this library is what it is made of, and what the `everlog` program shares with it: the
//! names of the protocol's headers and how a program fails. It stores nothing by itself and keeps no state that the
//! engine does not have, but a bounded cache.
//!
//! Invariant: no disk is waited for, and no lock held across an await, on the threads that run the connections: what
//! may wait goes to the engine's readers or to the runtime's blocking threads (`streams`).
#![forbid(unsafe_code)]

pub mod auth;
pub mod carried;
pub mod config;
pub mod connection;
pub mod failure;
pub mod feeds;
pub mod handlers;
pub mod limits;
pub mod listener;
pub mod metrics;
pub mod protocol;
pub mod run;
pub mod snapshots;
pub mod socket;
pub mod streams;
pub mod system;
pub mod tls;
