//! What must be said of golden stores that were damaged, and of stores that a later version wrote.
//!
//! A case is a store that is checked in, a few bytes that are changed, and the verdict. Invariant: the verdict is what the
//! documents promise, written down here by hand; nothing asks the engine for it.

use super::seal::{self, Field, Header, Part};
use super::stores::{Golden, noise};
use crate::reader::Files;
use serde::{Deserialize, Serialize};

/// A change to a store's files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Edit {
    /// Other bytes, in hexadecimal.
    Write {
        /// The file.
        file: String,
        /// Where.
        at: usize,
        /// What.
        hex: String,
    },
    /// A file is gone.
    Remove {
        /// The file.
        file: String,
    },
}

/// What becomes of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It succeeds.
    Opens,
    /// It says "damaged".
    Damaged,
    /// It says "refused".
    Refused,
}

/// Records of a log, both ends included.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seqs {
    /// The log.
    pub log: String,
    /// The first.
    pub first: u64,
    /// The last.
    pub last: u64,
}

/// What must be said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Opening it for writing.
    pub open: Outcome,
    /// Looking at it.
    pub look: Outcome,
    /// The second reader, which checks everything.
    pub reader: Outcome,
    /// The exit code of `everlog verify`.
    pub verify: i32,
    /// The exit code of `everlog inspect`.
    pub inspect: i32,
    /// Logs of which something cannot be had; all others are as they were.
    pub lost: Vec<String>,
    /// What `everlog verify` names, where logs and seqs can be known.
    pub named: Vec<Seqs>,
    /// The first LSN that verify and a failing open name, where they can.
    pub first_lsn: Option<u64>,
}

/// A store, a change, and the verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Case {
    /// Its name.
    pub name: String,
    /// The golden store.
    pub base: String,
    /// What is changed.
    pub edits: Vec<Edit>,
    /// What must be said.
    pub verdict: Verdict,
}

impl Case {
    /// The files of `base`, changed. Panics if they are not what the case was made for.
    #[must_use]
    pub fn apply(&self, base: &Files) -> Files {
        let mut files = base.clone();
        for edit in &self.edits {
            match edit {
                Edit::Remove { file } => drop(files.remove(file).expect("it is there to be removed")),
                Edit::Write { file, at, hex } => {
                    let digit = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal");
                    let bytes: Vec<u8> = (0..hex.len()).step_by(2).map(digit).collect();
                    let file = files.get_mut(file).expect("it is there to be changed");
                    file[*at..*at + bytes.len()].copy_from_slice(&bytes);
                }
            }
        }
        files
    }
}

/// The edits that make `after` of `before`.
fn edits(before: &Files, after: &Files) -> Vec<Edit> {
    /// So many equal bytes end a stretch.
    const GAP: usize = 16;
    let mut edits = Vec::new();
    for (file, old) in before {
        let Some(new) = after.get(file) else {
            edits.push(Edit::Remove { file: file.clone() });
            continue;
        };
        assert_eq!(old.len(), new.len(), "no case changes a length");
        let mut stretches: Vec<(usize, usize)> = Vec::new();
        for at in (0..old.len()).filter(|at| old[*at] != new[*at]) {
            match stretches.last_mut() {
                Some((_, end)) if at < *end + GAP => *end = at + 1,
                _ => stretches.push((at, at + 1)),
            }
        }
        for (at, end) in stretches {
            let hex = new[at..end].iter().map(|byte| format!("{byte:02x}")).collect();
            edits.push(Edit::Write { file: file.clone(), at, hex });
        }
    }
    edits
}

const ALICE: &str = "users/alice/contacts";
const NOTES: &str = "users/alice/notes";
const BOB: &str = "users/bob/contacts";

/// Everything can be read, and `everlog verify` finds damage.
fn noticed() -> Verdict {
    let (open, look, reader) = (Outcome::Opens, Outcome::Opens, Outcome::Damaged);
    Verdict { open, look, reader, verify: 4, inspect: 0, lost: Vec::new(), named: Vec::new(), first_lsn: None }
}

/// The store does not open.
fn closed_off() -> Verdict {
    Verdict { open: Outcome::Damaged, look: Outcome::Damaged, inspect: 4, ..noticed() }
}

/// The store opens, and nothing can be had of these logs.
fn lost(logs: &[&str]) -> Verdict {
    Verdict { lost: logs.iter().map(|log| (*log).to_owned()).collect(), inspect: 4, ..noticed() }
}

fn refused() -> Verdict {
    let no = Outcome::Refused;
    Verdict { open: no, look: no, reader: no, verify: 3, inspect: 3, ..noticed() }
}

fn intact() -> Verdict {
    Verdict { reader: Outcome::Opens, verify: 0, ..noticed() }
}

/// All cases, for stores that were just made.
#[must_use]
pub fn all(stores: &[Golden]) -> Vec<Case> {
    let mut making = Making { stores, cases: Vec::new() };
    making.journal();
    making.segments();
    making.heads();
    making.later_versions();
    making.cases
}

struct Making<'a> {
    stores: &'a [Golden],
    cases: Vec<Case>,
}

impl Making<'_> {
    fn add(&mut self, base: &str, name: &str, verdict: Verdict, change: impl FnOnce(&mut Files)) {
        let golden = self.stores.iter().find(|golden| golden.name == base).expect("a golden store");
        let mut files = golden.files.clone();
        change(&mut files);
        let edits = edits(&golden.files, &files);
        assert!(!edits.is_empty(), "{name}: something is changed");
        self.cases.push(Case { name: name.to_owned(), base: base.to_owned(), edits, verdict });
    }

    fn journal(&mut self) {
        // The first batch has the LSNs 1 to 6, the second one 7 to 9.
        let from = |first_lsn| Verdict { first_lsn: Some(first_lsn), ..closed_off() };
        self.add("journal", "a record in a frame that is proved", from(1), |files| {
            flip(files, "journal-", &noise(60, 1))
        });
        self.add("journal", "the header of a frame that is proved", from(7), |files| {
            let frame = seal::frames(files).into_iter().find(|frame| frame.first_lsn == 7).expect("the second batch");
            files.get_mut(&frame.file).expect("it is there")[frame.at + 100] ^= 1;
        });
        self.add("journal", "the padding of a frame that is proved", from(1), |files| {
            // The byte before the second batch's frame is the last one of the first batch's.
            let second = seal::frames(files).into_iter().find(|frame| frame.first_lsn == 7).expect("the second batch");
            files.get_mut(&second.file).expect("it is there")[second.at - 1] ^= 0x80;
        });
        self.add("journal", "the header of a journal file", noticed(), |files| {
            let file = seal::frames(files)[0].file.clone();
            files.get_mut(&file).expect("it is there")[2000] ^= 4;
        });
        // After three processes the journal lies in more than one file, and a later file proves an earlier one.
        self.add("killed", "a journal file as it was before its last frames", closed_off(), |files| {
            let frames = seal::frames(files);
            let first = frames[0].file.clone();
            let of_first: Vec<_> = frames.iter().filter(|frame| frame.file == first).collect();
            let kept = of_first.iter().position(|frame| frame.first_lsn > 9).expect("a frame behind the flush");
            files.get_mut(&first).expect("it is there")[of_first[kept].at..].fill(0);
        });
        self.add("killed", "a journal file that is missing", closed_off(), |files| {
            let first = seal::frames(files)[0].file.clone();
            files.remove(&first);
        });
    }

    fn segments(&mut self) {
        let everything = [ALICE, NOTES, BOB];
        let data =
            Verdict { named: vec![Seqs { log: ALICE.to_owned(), first: 0, last: 2 }], inspect: 0, ..lost(&[ALICE]) };
        self.add("flushed", "a record in a segment", data, |files| flip(files, "segments/", &noise(60, 2)));
        self.add("flushed", "the zeros behind a segment's data", noticed(), |files| {
            let at = |bytes: &[u8]| seal::part(bytes, Part::Zeros).end - 1;
            flip_segment(files, at);
        });
        let of_part = |part| move |bytes: &[u8]| seal::part(bytes, part).start + 40;
        self.add("flushed", "the header of a segment", noticed(), |files| flip_segment(files, |_| 40));
        self.add("flushed", "the index", lost(&everything), |files| flip_segment(files, of_part(Part::Index)));
        self.add("flushed", "a lookup block", noticed(), |files| flip_segment(files, of_part(Part::Lookup)));
        self.add("flushed", "the root", closed_off(), |files| flip_segment(files, of_part(Part::Root)));
        let unlisted = Verdict { inspect: 4, ..noticed() };
        self.add("flushed", "the names", unlisted, |files| flip_segment(files, of_part(Part::Names)));
        self.add("flushed", "the states", lost(&everything), |files| flip_segment(files, of_part(Part::State)));
        self.add("flushed", "the meta section", noticed(), |files| flip_segment(files, of_part(Part::Meta)));
        self.add("flushed", "the footer", closed_off(), |files| flip_segment(files, |bytes| bytes.len() - 4000));
        // The second segment has the LSNs 10 to 13.
        let missing = Verdict { first_lsn: Some(10), ..closed_off() };
        self.add("segments", "a segment that is missing", missing, |files| {
            let second = seal::segments(files)[1].clone();
            files.remove(&second);
        });
    }

    fn heads(&mut self) {
        self.add("segments", "the manifest in force", closed_off(), |files| {
            let name = seal::manifest(files);
            files.get_mut(&name).expect("it is there")[100] ^= 0x10;
        });
        self.add("segments", "the manifest before the one in force", noticed(), |files| {
            let newest = seal::manifest(files);
            let older = files.keys().find(|name| name.starts_with("manifest-") && **name != newest);
            let older = older.expect("two are kept").clone();
            files.get_mut(&older).expect("it is there")[100] ^= 0x10;
        });
        self.add("segments", "no manifest at all", closed_off(), |files| {
            files.retain(|name, _| !name.starts_with("manifest-"));
        });
        self.add("segments", "the identity", closed_off(), |files| {
            files.get_mut("IDENTITY").expect("it is there")[60] ^= 2;
        });
        // Nothing can be checked by the second reader without the key.
        let missing = Verdict {
            open: Outcome::Refused,
            look: Outcome::Refused,
            reader: Outcome::Refused,
            inspect: 3,
            ..noticed()
        };
        self.add("segments", "no identity", missing, |files| drop(files.remove("IDENTITY")));
    }

    /// Each header with something that no version has written yet.
    fn later_versions(&mut self) {
        for header in [Header::Identity, Header::Manifest, Header::Segment, Header::Journal] {
            for field in [Field::Format, Field::Incompatible, Field::ReadOnly, Field::Compatible] {
                let verdict = match field {
                    Field::Format | Field::Incompatible => refused(),
                    Field::ReadOnly => Verdict { open: Outcome::Refused, ..intact() },
                    Field::Compatible => intact(),
                };
                let name = format!("{header:?}: {field:?}").to_lowercase();
                self.add("segments", &name, verdict, |files| seal::set(files, header, field));
            }
        }
    }
}

/// Flips a bit within the one place below `prefix` where `what` stands.
fn flip(files: &mut Files, prefix: &str, what: &[u8]) {
    let mut found = 0;
    for (_, bytes) in files.iter_mut().filter(|(name, _)| name.starts_with(prefix)) {
        let places: Vec<usize> = (0..=bytes.len() - what.len()).filter(|at| bytes[*at..].starts_with(what)).collect();
        found += places.len();
        places.iter().for_each(|at| bytes[at + what.len() / 2] ^= 1);
    }
    assert_eq!(found, 1, "it stands in one place");
}

/// Flips a bit of the only segment.
fn flip_segment(files: &mut Files, place: impl Fn(&[u8]) -> usize) {
    let name = seal::segments(files).pop().expect("a segment");
    let bytes = files.get_mut(&name).expect("it is there");
    let at = place(bytes);
    bytes[at] ^= 8;
}
