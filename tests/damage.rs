//! Each bit of a small store's segments, manifests, identity and proven journal is flipped in turn: `verify` reports it,
//! naming what it can, and no answer is wrong, shortened or "absent": it is the truth, or an error that says "damaged".
//! Where logs are looked up, appends are asked as well: no log is taken for missing, no head for an older one, no
//! repetition for something new. Random bits of random stores follow.
//!
//! What is asked is `flips/`. Invariant: the number of bits that were flipped is the number that there are.

use everlog::io::mem::MemIo;
use everlog_tests::flips::{self, Counts, Place, Stretch, Subject};
use everlog_tests::oracle::Violation;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// Bytes that a thread takes at a time.
const BYTES_AT_ONCE: usize = 64;
/// Failures that are told.
const FAILURES_MAX: usize = 10;
const RANDOM_FLIPS: u64 = 2_000;

/// Stretches of at most [`BYTES_AT_ONCE`], so that threads share the work evenly.
fn pieces(subject: &Subject) -> Vec<Stretch> {
    let piece = |stretch: &Stretch, at: usize| {
        let end = stretch.range.end.min(at + BYTES_AT_ONCE);
        Stretch { range: at..end, ..stretch.clone() }
    };
    let of = |stretch: &Stretch| -> Vec<Stretch> {
        stretch.range.clone().step_by(BYTES_AT_ONCE).map(|at| piece(stretch, at)).collect()
    };
    subject.stretches().iter().flat_map(of).collect()
}

fn flip_all(subject: &Subject, pieces: &[Stretch]) -> (Counts, Vec<String>) {
    let (next, total) = (AtomicUsize::new(0), Mutex::new((Counts::new(), Vec::new())));
    std::thread::scope(|scope| {
        // Twice as many as there are processors: a look at a journal that seems to be damaged pauses before the next look.
        for _ in 0..2 * std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                let io = MemIo::new();
                while let Some(piece) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (mut counts, mut failures) = (Counts::new(), Vec::new());
                    for (at, bit) in piece.range.clone().flat_map(|at| (0..8).map(move |bit| (at, bit))) {
                        match flips::flip(subject, &io, piece, at, bit) {
                            Ok(met) => flips::add(&mut counts, &[(piece.place, (1, u64::from(met)))].into()),
                            Err(Violation(what)) => failures.push(what),
                        }
                    }
                    let mut total = total.lock().expect("nobody panics with it");
                    flips::add(&mut total.0, &counts);
                    total.1.extend(failures);
                    if total.1.len() >= FAILURES_MAX {
                        return;
                    }
                }
            });
        }
    });
    total.into_inner().expect("nobody panics with it")
}

mod simulated {
    use super::*;

    #[test]
    #[allow(clippy::disallowed_methods, reason = "how long it took is told to who runs it")]
    fn each_flipped_bit_is_found_and_none_is_served_or_hides_a_log() {
        let began = Instant::now();
        let subject = Subject::small();
        let (counts, failures) = flip_all(&subject, &pieces(&subject));
        assert!(failures.is_empty(), "{}", failures[..failures.len().min(FAILURES_MAX)].join("\n"));
        let bits = |of: Option<Place>| {
            let stretches = subject.stretches().iter().filter(|stretch| of.is_none_or(|place| stretch.place == place));
            stretches.map(|stretch| stretch.range.len() as u64 * 8).sum::<u64>()
        };
        for (place, (flipped, met)) in &counts {
            eprintln!("{place:?}: {flipped} bits, all reported by verify; {met} met by opening or asking");
            assert_eq!(*flipped, bits(Some(*place)), "each bit of {place:?} was flipped");
            // The rest is not read by any of the questions, or need not be believed.
            let matters = matches!(place, Place::Manifest | Place::Identity | Place::Journal)
                || (place.is_for_heads() && *place != Place::Lookup);
            assert!(!matters || met == flipped, "each bit of {place:?} matters to whoever asks everything");
        }
        let total: u64 = counts.values().map(|(flipped, _)| flipped).sum();
        assert_eq!(total, bits(None), "each bit was flipped");
        eprintln!("{total} bits in {:.1} seconds", began.elapsed().as_secs_f64());
    }

    #[test]
    fn flipped_bits_of_random_stores_are_found_and_none_is_served_or_hides_a_log() {
        let seed = std::env::var("EVERLOG_SEED").map_or(1, |seed| seed.parse().expect("a number"));
        let counts = flips::run(seed, RANDOM_FLIPS, &mut |_| ()).unwrap_or_else(|Violation(what)| panic!("{what}"));
        eprintln!("seed {seed}: {counts:?}");
    }
}
