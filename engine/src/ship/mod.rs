//! Shipping: what is durable here is brought into cold stores, proved there by reading it back, and told to be cold.
//!
//! For each cold store there is a [`Tenant`], which holds the right to write to it ([`tenant`]); what it found there and
//! put there is its [`tenure::Tenure`]. Two things are shipped side by side: the journal's frames as tail objects
//! ([`tail`]), about every second, and segments with the versions of the manifest that name them ([`segments`]).
//!
//! The order in which something becomes cold, and what a crash at each step leaves:
//! 1. It is put. It may be there or not, in part in the eyes of nobody: objects are whole or absent.
//! 2. It is read back and compared with what was put. It is there; nobody was told.
//! 3. The first cold store, whose epochs decide who owns the store, is asked for the next epoch, and has none. Whoever takes
//!    the store over from now on finds what was put before, since it looks for the end of the tail after its claim.
//! 4. The level rises, and acknowledgements are given.
//!
//! Invariants: nothing is told to be cold before step 3; an object that is not what was put is never counted; a failure of a
//! cold store never stops the store, only a newer owner does.

mod epochs;
mod put;
mod segments;
mod tail;
mod tenant;
mod tenure;

pub use epochs::EpochFile;
pub use segments::SegmentShipper;
pub use tail::TailShipper;
pub use tenant::{Tenant, TenantParts};
