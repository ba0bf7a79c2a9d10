//! One bit of a store is flipped, and everything the store can be asked is asked: the truth or "damaged" comes back, and
//! nothing else.
//!
//! For each bit of a small store, and for random bits of random stores. What must be said depends on the place
//! ([`Place`]). Invariant: each question is put to a store that was opened after the bit was flipped and that has not
//! been asked of that log before in another way, so that nothing kept in memory hides the damage.

mod check;
mod subject;

pub use subject::{Place, Stretch, Subject};

use crate::golden::random;
use crate::oracle::Violation;
use crate::sim::Rng;
use everlog::io::mem::MemIo;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Random flips on one random store.
const FLIPS_PER_STORE: u64 = 500;

/// How many bits were flipped of each kind of place, and how many of them opening or asking met with.
pub type Counts = BTreeMap<Place, (u64, u64)>;

/// Adds what another run counted.
pub fn add(to: &mut Counts, other: &Counts) {
    for (place, (bits, met)) in other {
        let count = to.entry(*place).or_default();
        *count = (count.0 + bits, count.1 + met);
    }
}

/// Flips one bit and asks. `io` is a disk for scratch.
///
/// # Errors
/// What was wrong, missing or shortened, or not reported.
pub fn flip(subject: &Subject, io: &MemIo, stretch: &Stretch, at: usize, bit: u32) -> Result<bool, Violation> {
    io.restore(subject.files());
    io.flip(&stretch.file, at as u64, 1 << bit);
    let place = stretch.place;
    let turn = at * 8 + bit as usize;
    let answered = check::verify_says_enough(io, place).and_then(|()| check::ask(subject, io, place, turn));
    answered.map_err(|what| Violation(format!("{} byte {at} bit {bit} ({place:?}): {what}", stretch.file.display())))
}

/// Flips random bits of random stores, one after another, each undone before the next. All follows from `seed`.
/// `progress` is told how many were flipped so far.
///
/// # Errors
/// The first answer that was neither the truth nor "damaged", with the number of the store it was about.
pub fn run(seed: u64, count: u64, progress: &mut dyn FnMut(u64)) -> Result<Counts, Violation> {
    let (mut rng, io, mut counts) = (Rng::new(seed), MemIo::new(), Counts::new());
    let mut done = 0;
    while done < count {
        let store = rng.draw();
        let (files, listing) = random::store(store);
        let subject = Subject::new(&files, &listing);
        for _ in 0..FLIPS_PER_STORE.min(count - done) {
            // Each kind of place gets its share, however small it is.
            let places: Vec<Place> = subject.places().collect();
            let place = *rng.pick(&places);
            let of_place: Vec<&Stretch> = subject.stretches().iter().filter(|stretch| stretch.place == place).collect();
            let stretch = *rng.pick(&of_place);
            let at = rng.between(stretch.range.start as u64, stretch.range.end as u64) as usize;
            let met = flip(&subject, &io, stretch, at, rng.below(8) as u32)
                .map_err(|Violation(what)| Violation(format!("store {store} of seed {seed}: {what}")))?;
            add(&mut counts, &[(place, (1, u64::from(met)))].into());
            done += 1;
        }
        progress(done);
    }
    Ok(counts)
}

/// A path of a disk in memory.
fn on_disk(file: &str) -> PathBuf {
    std::path::Path::new(crate::golden::maker::DIR).join(file)
}
