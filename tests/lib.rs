//! What the tests of everlog share: a simulated machine to run the engine on, an oracle that knows what each client was
//! told, and the real programs for tests that kill them.
//!
//! Nothing here is part of the product, and the product knows nothing of it: the simulation enters through the engine's
//! `Io` and `Clock` alone. Invariant: in the simulation everything follows from a seed, so that a failure can be run
//! again.
#![deny(missing_docs)]

pub mod flips;
pub mod folders;
pub mod fuzzed;
pub mod golden;
pub mod net;
pub mod oracle;
pub mod programs;
pub mod reader;
pub mod real;
pub mod sim;
