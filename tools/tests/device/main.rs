//! `everlog device` from its user's side: folders, the program, and a server.
//!
//! What devices do with each other is shown against everlogd, the faults also against a stand-in that fails on demand.
//! Invariant: after any of them, syncing once more leaves
//! every folder with every edit.

mod device;
mod everlogd;
mod faults;
mod hostile;
mod losses;
mod resets;
mod rewinds;
mod snapshots;
mod stand_in;
