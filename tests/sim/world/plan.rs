//! What a world is to be: its scenario, its seed, and what is left out of it or fixed in advance.
//!
//! Each step of a world draws from a source of its own, made of the seed and the step's place, so that a step can be left
//! out and the others stay what they were: that is how a failing world shrinks. Invariant: equal plans give equal traces.

use crate::sim::{Crash, Fault, Rng, When};
use std::collections::BTreeSet;
use std::ops::Range;

/// What goes wrong in a world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scenario {
    /// The process dies or the power goes, at any operation, also within a recovery.
    Crash,
    /// The same, through the page cache.
    Buffered,
    /// The process dies; what is recovered is answered and repeated; then the power goes.
    KillThenPower,
    /// Several frames in flight, completing in any order, when the power goes.
    InFlight,
    /// Writes and syncs fail, once or for good, or are cut short.
    Errors,
    /// The same, through the page cache, where a failed sync loses what the next one calls clean.
    ErrorsBuffered,
    /// The disk is full, or there are no descriptors, for a while.
    Full,
    /// The device stands still for a while.
    Stall,
    /// The wall clock jumps by ten years, or stands still.
    Clock,
    /// The device loses a write that it called complete.
    Lost,
    /// The device writes to another place.
    Misdirected,
    /// Older bytes come back at the next boot.
    Stale,
    /// A bit flips at rest.
    Flipped,
    /// Bits flip where segments are looked up in: filters, indexes, names, states.
    LookUp,
}

impl Scenario {
    /// All of them.
    pub const ALL: [Self; 14] = [
        Self::Crash,
        Self::Buffered,
        Self::KillThenPower,
        Self::InFlight,
        Self::Errors,
        Self::ErrorsBuffered,
        Self::Full,
        Self::Stall,
        Self::Clock,
        Self::Lost,
        Self::Misdirected,
        Self::Stale,
        Self::Flipped,
        Self::LookUp,
    ];

    /// Its name on a command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::Buffered => "buffered",
            Self::KillThenPower => "kill-then-power",
            Self::InFlight => "in-flight",
            Self::Errors => "errors",
            Self::ErrorsBuffered => "errors-buffered",
            Self::Full => "full",
            Self::Stall => "stall",
            Self::Clock => "clock",
            Self::Lost => "lost",
            Self::Misdirected => "misdirected",
            Self::Stale => "stale",
            Self::Flipped => "flipped",
            Self::LookUp => "look-up",
        }
    }

    /// The scenario of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scenario| scenario.name() == name)
    }

    /// Whether operations fail in it.
    #[must_use]
    pub fn fails(self) -> bool {
        matches!(self, Self::Errors | Self::ErrorsBuffered)
    }

    /// Whether the store is reached through the page cache.
    #[must_use]
    pub fn is_buffered(self) -> bool {
        matches!(self, Self::Buffered | Self::ErrorsBuffered)
    }
}

/// A step's place: the generation, and its number in that; [`Step::OPEN`] and [`Step::END`] are the generation's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Step {
    /// Which generation, from 0.
    pub generation: u32,
    /// Which step of it, from 1.
    pub number: u32,
}

impl Step {
    /// The opening of a generation.
    pub const OPEN: u32 = 0;
    /// How a generation ends.
    pub const END: u32 = u32::MAX;
}

/// Which part of a world something happens in, exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// The creation of the store.
    Creation,
    /// The first generation.
    First,
    /// The second: it opens what a crash has left.
    Second,
}

impl Stage {
    /// All of them, in their order.
    pub const ALL: [Self; 3] = [Self::Creation, Self::First, Self::Second];

    /// Its name on a command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Creation => "creation",
            Self::First => "first",
            Self::Second => "second",
        }
    }

    /// The stage of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<&'static Self> {
        Self::ALL.iter().find(|stage| stage.name() == name)
    }
}

/// What happens at one operation of a stage, exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The machine crashes.
    Crash(Crash, When),
    /// The operation fails.
    Fault(Fault),
    /// The disk is full for so many operations.
    Full(u64),
    /// Nothing can be opened for so many operations.
    NoDescriptors(u64),
}

/// What a world is to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// What goes wrong.
    pub scenario: Scenario,
    /// Where its chances come from.
    pub seed: u64,
    /// How many generations it lives.
    pub generations: Range<u64>,
    /// How many steps a generation has.
    pub steps: Range<u64>,
    /// Steps that are left out.
    pub skipped: BTreeSet<Step>,
    /// What happens at an operation of a stage, counted from 1 at its beginning; chance does nothing to that stage then.
    pub event: Option<(Stage, u64, Event)>,
}

impl Plan {
    /// A world as chance makes it.
    #[must_use]
    pub fn random(scenario: Scenario, seed: u64) -> Self {
        Self { scenario, seed, generations: 3..7, steps: 10..160, skipped: BTreeSet::new(), event: None }
    }

    /// A short world in which something happens at one operation of a stage; without it, the world to be disturbed.
    #[must_use]
    pub fn exact(scenario: Scenario, seed: u64, stage: Stage, event: Option<(u64, Event)>) -> Self {
        let (op, event) = event.unwrap_or((u64::MAX, Event::Full(0)));
        let event = Some((stage, op, event));
        Self { scenario, seed, generations: 2..3, steps: 40..100, skipped: BTreeSet::new(), event }
    }

    /// The source of a step's chances.
    #[must_use]
    pub fn chances(&self, step: Step) -> Rng {
        let place = u64::from(step.generation) << 32 | u64::from(step.number);
        Rng::new(Rng::new(self.seed).draw() ^ place.wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }
}
