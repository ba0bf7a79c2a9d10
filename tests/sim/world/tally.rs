//! What worlds have seen, to show that they were worth something.

/// Counts over one world, or over many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Batches that were acknowledged.
    pub acknowledged: u64,
    /// Batches that were refused or repeated.
    pub refused: u64,
    /// Batches turned away at once.
    pub turned_away: u64,
    /// Batches whose fate a recovery decided: they are there.
    pub kept: u64,
    /// Batches whose fate a recovery decided: they are gone.
    pub lost: u64,
    /// Crashes of the process.
    pub process_crashes: u64,
    /// Losses of power.
    pub power_losses: u64,
    /// Of these, while the store was being opened.
    pub in_recovery: u64,
    /// Recoveries that said "possibly acknowledged", as they had to.
    pub possibly: u64,
    /// Repetitions answered after a kill and before the power went.
    pub repeated: u64,
    /// Clean closes.
    pub clean_closes: u64,
    /// Flushes that moved something.
    pub flushes: u64,
    /// Merges that were committed.
    pub merges: u64,
    /// Times that a grace was waited for, and was over for certain.
    pub outwaited: u64,
    /// Logs that ended by themselves, in each state that counted.
    pub expired: u64,
    /// Forks that were asked for.
    pub forks: u64,
    /// Records that merges left out.
    pub dropped: u64,
    /// Times that a merge got the room that is kept for merges.
    pub loans: u64,
    /// Passes that the scrub ended.
    pub scrubs: u64,
    /// Times that a whole pass of it was asked for after bits had flipped, and found a segment that was damaged.
    pub flips_scrubbed: u64,
    /// Operations that were made to fail.
    pub failed: u64,
    /// Operations refused for want of room or descriptors.
    pub short: u64,
    /// Stores that were poisoned.
    pub poisoned: u64,
    /// Jumps of the wall clock.
    pub jumps: u64,
    /// Stalls of the device.
    pub stalls: u64,
    /// Worlds whose disk lied.
    pub lies: u64,
    /// Of these, those in which damage was named.
    pub named: u64,
    /// Acknowledged batches that a lie took, that nothing could prove, and whose loss every client is told.
    pub rolled_back: u64,
}

impl Tally {
    /// Adds another world's.
    pub fn add(&mut self, other: &Self) {
        let Self { acknowledged, refused, turned_away, kept, lost, process_crashes, power_losses, .. } = other;
        self.acknowledged += acknowledged;
        self.refused += refused;
        self.turned_away += turned_away;
        self.kept += kept;
        self.lost += lost;
        self.process_crashes += process_crashes;
        self.power_losses += power_losses;
        let Self { in_recovery, possibly, repeated, clean_closes, flushes, merges, failed, short, .. } = other;
        self.in_recovery += in_recovery;
        self.possibly += possibly;
        self.repeated += repeated;
        self.clean_closes += clean_closes;
        self.flushes += flushes;
        self.merges += merges;
        self.failed += failed;
        self.short += short;
        let Self { poisoned, jumps, stalls, lies, named, rolled_back, .. } = other;
        self.poisoned += poisoned;
        self.jumps += jumps;
        self.stalls += stalls;
        self.lies += lies;
        self.named += named;
        self.rolled_back += rolled_back;
        let Self { outwaited, expired, forks, dropped, loans, scrubs, flips_scrubbed, .. } = other;
        self.outwaited += outwaited;
        self.expired += expired;
        self.forks += forks;
        self.dropped += dropped;
        self.loans += loans;
        self.scrubs += scrubs;
        self.flips_scrubbed += flips_scrubbed;
    }
}
