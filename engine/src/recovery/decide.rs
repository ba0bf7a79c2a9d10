//! The second part of recovery: from facts to an action. A pure table; it reads and writes nothing.
//!
//! Invariant: every combination of what the table looks at meets exactly one row, which a test shows by trying all of
//! them.

use super::scan::Facts;
use crate::format::frame::FLAG_CLOSE;
use crate::journal::names;
use crate::mutants::{self, Mutant};
use crate::types::{Lsn, ManifestVersion};
use std::ops::Range;

/// What an open does with the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing was ever written: take any file and begin with frame 1, on a new timeline.
    Begin,
    /// The store was closed cleanly: go on behind the last frame, on a new timeline.
    GoOn,
    /// Go on in another file, on a new timeline, leaving the journal at the last accepted frame. Nothing that any
    /// proof covers is lost.
    Cut {
        /// What the bytes past the cut may have held: from this LSN to that one, which is None where it is unknown.
        possibly_acknowledged: Option<(Lsn, Option<Lsn>)>,
    },
    /// Open nothing: what is missing was acknowledged, or may have been for all that can be known here.
    Refuse {
        /// The LSNs concerned, the end excluded: `u64::MAX` where it is unknown, and no larger than the start where
        /// what is missing held no entry.
        lsns: Range<u64>,
        /// Why, without a full stop.
        why: String,
    },
}

/// What the chain ends in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// No frame was ever accepted or flushed.
    Nothing,
    /// A frame after which the process may have written more.
    Open,
    /// The frame of a clean close.
    Closed,
}

/// All that the table looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Situation {
    /// The files hold what no crash explains.
    contradiction: bool,
    /// A frame names a manifest version later than the one loaded.
    manifest_back: bool,
    /// Nothing ties the files to the manifest, or there are none, or one of them is missing, whole or in part.
    missing: bool,
    /// Something proves a frame durable that lies past the end.
    proven_past: bool,
    end: End,
    /// Frames or their headers stand past the end.
    beyond: bool,
}

/// What a row says to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    RefuseContradiction,
    RefuseManifestBack,
    RefuseMissing,
    RefuseProven,
    Begin,
    GoOn,
    Cut,
    CutPossiblyAcknowledged,
}

struct Row {
    when: fn(&Situation) -> bool,
    verdict: Verdict,
}

/// Whether nothing is wrong, so that only the journal's end matters.
fn sound(s: &Situation) -> bool {
    !s.contradiction && !s.manifest_back && !s.missing && !s.proven_past
}

/// The table. The rows that refuse stand in the order in which they explain: the first that holds is the cause of
/// those below it.
const TABLE: [Row; 8] = [
    Row { when: |s| s.contradiction, verdict: Verdict::RefuseContradiction },
    Row { when: |s| !s.contradiction && s.manifest_back, verdict: Verdict::RefuseManifestBack },
    Row { when: |s| !s.contradiction && !s.manifest_back && s.missing, verdict: Verdict::RefuseMissing },
    Row {
        when: |s| !s.contradiction && !s.manifest_back && !s.missing && s.proven_past,
        verdict: Verdict::RefuseProven,
    },
    Row { when: |s| sound(s) && !s.beyond && s.end == End::Nothing, verdict: Verdict::Begin },
    Row { when: |s| sound(s) && !s.beyond && s.end == End::Closed, verdict: Verdict::GoOn },
    Row { when: |s| sound(s) && !s.beyond && s.end == End::Open, verdict: Verdict::Cut },
    Row { when: |s| sound(s) && s.beyond, verdict: Verdict::CutPossiblyAcknowledged },
];

/// What to do, given the facts and the version of the manifest that was loaded.
#[must_use]
pub fn decide(facts: &Facts, manifest: ManifestVersion) -> Action {
    let situation = Situation {
        contradiction: facts.contradiction.is_some(),
        manifest_back: facts.manifest_seen > manifest,
        missing: facts.is_incomplete(),
        proven_past: !mutants::makes(Mutant::CutBelowProof)
            && (facts.watermark > facts.end.frame
                || facts.watermark_lsn > facts.end.last_lsn
                || facts.beyond.past_depth),
        end: match facts.end.frame.0 {
            0 => End::Nothing,
            _ if facts.end_flags & FLAG_CLOSE != 0 => End::Closed,
            _ => End::Open,
        },
        beyond: facts.beyond.present,
    };
    let row = TABLE.iter().find(|row| (row.when)(&situation)).expect("every situation meets a row, as a test shows");
    let action = match row.verdict {
        Verdict::RefuseContradiction => contradiction(facts),
        Verdict::RefuseManifestBack => manifest_back(facts, manifest),
        Verdict::RefuseMissing => missing(facts),
        Verdict::RefuseProven => proven(facts),
        Verdict::Begin => Action::Begin,
        Verdict::GoOn => Action::GoOn,
        Verdict::Cut => Action::Cut { possibly_acknowledged: None },
        Verdict::CutPossiblyAcknowledged => Action::Cut { possibly_acknowledged: possibly(facts) },
    };
    match (action, &facts.uncommitted) {
        (Action::Refuse { lsns, why }, Some(segment)) => {
            let (segment, lsn) = (segment.display(), facts.watermark_lsn);
            let kept = format!(
                "a segment that was never committed proves everything up to LSN {lsn} durable; keep that file, it may \
                 hold what the journal lost: {segment}"
            );
            Action::Refuse { lsns, why: format!("{why}; {kept}") }
        }
        (action, _) => action,
    }
}

/// From the first LSN past the end to the last one that a header there names, if all of them could be read. None if
/// they all say that they held no entry: LSNs are dense, so the last header speaks for the frames before it as well.
fn possibly(facts: &Facts) -> Option<(Lsn, Option<Lsn>)> {
    let from = facts.end.last_lsn.next();
    if facts.beyond.unknown {
        return Some((from, None));
    }
    (facts.beyond.last_lsn >= from).then_some((from, Some(facts.beyond.last_lsn)))
}

fn contradiction(facts: &Facts) -> Action {
    let found = facts.contradiction.as_ref().expect("this row holds only with a contradiction");
    let why = format!(
        "the journal contradicts itself: the frame at byte {} of {} cannot belong to this history: {}",
        found.place.offset,
        found.place.file.display(),
        found.what
    );
    Action::Refuse { lsns: found.lsns.clone(), why }
}

fn manifest_back(facts: &Facts, manifest: ManifestVersion) -> Action {
    let from = facts.end.last_lsn.0 + 1;
    let to = if facts.watermark_lsn > facts.end.last_lsn { facts.watermark_lsn.0 + 1 } else { u64::MAX };
    let why = format!(
        "the newest manifest here is version {manifest}, but the journal was written under version {}: the manifest \
         went back, or later versions were removed",
        facts.manifest_seen
    );
    Action::Refuse { lsns: from..to, why }
}

fn missing(facts: &Facts) -> Action {
    let shortened = facts.shortened.map(|n| &facts.files[n]);
    let why = match (facts.gap, shortened) {
        _ if facts.files.is_empty() => "there is no journal file here".to_owned(),
        (Some(slot), _) => format!("{} is missing, and what it held cannot be known", names::file_name(slot)),
        (None, Some(file)) => format!(
            "{} was cut short, to {} bytes, and what stood behind them cannot be known",
            names::file_name(file.slot),
            file.bytes
        ),
        (None, None) => format!(
            "no journal file here holds, or goes on from, the last flushed frame (number {}, byte {} of use {}): these \
             are not the journal files that belong to the manifest",
            facts.flushed.frame, facts.flushed.position, facts.flushed.journal
        ),
    };
    Action::Refuse { lsns: facts.flushed.last_lsn.0 + 1..u64::MAX, why }
}

fn proven(facts: &Facts) -> Action {
    let from = facts.end.last_lsn.0 + 1;
    // The in-flight depth alone proves a frame durable without saying which LSNs it held.
    let known = facts.watermark_lsn > facts.end.last_lsn || !facts.beyond.past_depth;
    let to = if known { (facts.watermark_lsn.0 + 1).max(from) } else { u64::MAX };
    // A segment proves LSNs and no frame.
    let proved = match &facts.witness {
        Some(_) => format!("frame {}", facts.watermark.max(facts.end.frame.next())),
        None => format!("LSN {}", facts.watermark_lsn),
    };
    let mut why =
        format!("the journal can be read up to frame {} only, though {proved} is proved durable", facts.end.frame);
    if let Some(witness) = &facts.witness {
        why += &format!(" by the frame at byte {} of {}", witness.offset, witness.file.display());
    }
    if let Some((place, what)) = &facts.stop {
        why += &format!("; where it stops, at byte {} of {}: {what}", place.offset, place.file.display());
    }
    Action::Refuse { lsns: from..to, why }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_situation() -> impl Iterator<Item = Situation> {
        (0..32u32).flat_map(|bits| {
            [End::Nothing, End::Open, End::Closed].map(|end| Situation {
                contradiction: bits & 1 != 0,
                manifest_back: bits & 2 != 0,
                missing: bits & 4 != 0,
                proven_past: bits & 8 != 0,
                end,
                beyond: bits & 16 != 0,
            })
        })
    }

    #[test]
    fn every_situation_meets_exactly_one_row_and_every_row_is_met() {
        let mut met = [0; TABLE.len()];
        for situation in every_situation() {
            let rows: Vec<_> = (0..TABLE.len()).filter(|n| (TABLE[*n].when)(&situation)).collect();
            assert_eq!(rows.len(), 1, "{situation:?} meets rows {rows:?}");
            met[rows[0]] += 1;
        }
        assert_eq!(met.iter().sum::<i32>(), 96);
        assert!(met.iter().all(|n| *n > 0), "a row that nothing meets: {met:?}");
    }

    #[test]
    fn whatever_is_proved_or_contradicted_is_never_cut() {
        for situation in every_situation() {
            let row = TABLE.iter().find(|row| (row.when)(&situation)).expect("the test above");
            let refuses = matches!(
                row.verdict,
                Verdict::RefuseContradiction
                    | Verdict::RefuseManifestBack
                    | Verdict::RefuseMissing
                    | Verdict::RefuseProven
            );
            let wrong =
                situation.contradiction || situation.manifest_back || situation.missing || situation.proven_past;
            assert_eq!(refuses, wrong, "{situation:?}");
        }
    }
}
