//! The simulated machine: a disk that loses what it may lose, a clock that jumps, and their source of chance.

pub mod clock;
pub mod disk;
pub mod rng;
pub mod traffic;
pub mod world;

pub use clock::SimClock;
pub use disk::{Crash, Fault, SimDisk};
pub use rng::Rng;
