//! Stores whose contents are known, as files that are checked in and as any number of random ones.
//!
//! Invariant: what a store must hold comes from the oracle ([`told`]), never from a reader.

pub mod cases;
pub mod fixture;
pub mod listing;
pub mod maker;
pub mod random;
pub mod seal;
pub mod stores;
pub mod told;

pub use listing::Listing;
