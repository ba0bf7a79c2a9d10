//! The simulated machine: a disk that loses what it may lose, a clock that jumps, and their source of chance; cold
//! stores whose requests go wrong, and fleets of such machines.

pub mod campaign;
pub mod clock;
pub mod cold;
pub mod disk;
pub mod fleet;
pub mod rng;
pub mod row;
pub mod traffic;
pub mod world;

pub use clock::SimClock;
pub use disk::{Crash, Fault, Flip, Lie, SimDisk, When};
pub use rng::Rng;

/// Seeds of a scenario that each change to the project is put to.
#[must_use]
pub const fn seeds_in_ci(scenario: world::Scenario) -> u64 {
    match scenario {
        world::Scenario::Crash => 2000,
        _ => 1000,
    }
}

/// Worlds of a scenario that each change to the project is put to by disturbing every one of their operations; 0 where a
/// scenario has nothing that could happen at one operation.
#[must_use]
pub const fn disturbed_in_ci(scenario: world::Scenario) -> u64 {
    match scenario {
        world::Scenario::Crash => 30,
        world::Scenario::Errors | world::Scenario::Full => 10,
        world::Scenario::ErrorsBuffered => 3,
        _ => 0,
    }
}
