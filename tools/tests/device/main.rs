//! `everlog device` from its user's side: folders, the program, and a server.
//!
//! The faults are shown against a stand-in that fails on demand. Invariant: after any of them, syncing once more leaves
//! every folder with every edit.

mod device;
mod faults;
mod stand_in;
