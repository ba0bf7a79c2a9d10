//! Mistakes that the engine makes when it is told to, so that the tests of the harness can show that they would notice.
//!
//! With the feature `mutants` alone, which no program of the project is built with; without it nothing here costs
//! anything or can be reached. A mutant is a mistake that another storage engine made, or that this one is built not to
//! make, at one place in the code. Invariant: a thread that was told nothing makes none.

/// A mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(not(feature = "mutants"), allow(dead_code, reason = "nobody can name them"))]
pub enum Mutant {
    /// A segment is not synced before the manifest names it.
    SegmentUnsynced,
    /// The directory is not synced after a manifest was renamed into its place.
    ManifestNameUnsynced,
    /// A frame counts as durable once its write was submitted.
    WatermarkEarly,
    /// After a recovery, a log's next record gets a seq that a recovered one has.
    SeqReused,
    /// A journal's end is cut though something proves what lies past it.
    CutBelowProof,
    /// A sync that failed is tried again.
    SyncRetried,
    /// What was recovered is shown before it is synced.
    RecoveredUnsynced,
    /// What was recovered is synced and not written again.
    RecoveredNotRewritten,
    /// A frame of an older use of a journal file is taken for the next one.
    StaleFrame,
    /// A head is looked up in the segments as they were before the last flush.
    StaleHead,
    /// A repetition or a refusal is answered before what it rests on is durable.
    AnsweredEarly,
    /// A key is absent if the block of the filter that would tell cannot be read.
    FilterTrusted,
    /// A failed write of the journal is taken for done.
    FailureIgnored,
    /// Once a flush has failed, appends are answered that their outcome is unknown, and the latch stays open.
    LatchLeftOpen,
    /// A merge leaves out what was deleted or trimmed, whether its grace is over or not.
    DroppedEarly,
    /// A deletion is taken back after its grace.
    GraceForgotten,
    /// A fork does not pin its parent.
    PinForgotten,
    /// The steady clock is an hour ahead.
    ClockAhead,
}

impl Mutant {
    /// All of them.
    #[cfg(feature = "mutants")]
    pub const ALL: [Self; 18] = [
        Self::SegmentUnsynced,
        Self::ManifestNameUnsynced,
        Self::WatermarkEarly,
        Self::SeqReused,
        Self::CutBelowProof,
        Self::SyncRetried,
        Self::RecoveredUnsynced,
        Self::RecoveredNotRewritten,
        Self::StaleFrame,
        Self::StaleHead,
        Self::AnsweredEarly,
        Self::FilterTrusted,
        Self::FailureIgnored,
        Self::LatchLeftOpen,
        Self::DroppedEarly,
        Self::GraceForgotten,
        Self::PinForgotten,
        Self::ClockAhead,
    ];
}

#[cfg(not(feature = "mutants"))]
mod none {
    use super::Mutant;

    #[inline(always)]
    pub const fn makes(_: Mutant) -> bool {
        false
    }
}

#[cfg(feature = "mutants")]
mod told {
    use super::Mutant;
    use std::any::Any;
    use std::cell::{Cell, RefCell};

    thread_local! {
        static TOLD: Cell<Option<Mutant>> = const { Cell::new(None) };
        static KEPT: RefCell<Option<Box<dyn Any>>> = const { RefCell::new(None) };
    }

    /// Tells this thread which mistake to make from here on.
    pub fn tell(mutant: Option<Mutant>) {
        TOLD.set(mutant);
        KEPT.take();
    }

    pub fn makes(mutant: Mutant) -> bool {
        TOLD.get() == Some(mutant)
    }

    /// Keeps what [`kept`] gives from here on.
    pub fn keep(what: Option<Box<dyn Any>>) {
        KEPT.replace(what);
    }

    pub fn kept<T: Clone + 'static>() -> Option<T> {
        KEPT.with_borrow(|kept| kept.as_ref().and_then(|kept| kept.downcast_ref::<T>()).cloned())
    }
}

#[cfg(not(feature = "mutants"))]
pub(crate) use none::makes;
#[cfg(feature = "mutants")]
pub use told::tell;
#[cfg(feature = "mutants")]
pub(crate) use told::{keep, kept, makes};
