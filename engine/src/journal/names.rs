//! The names of the journal's files. docs/FORMAT.md, "The directory".
//!
//! A name says which slot of the ring a file is, never which use of it: that stands in the file's frames.

use crate::types::JournalId;
use std::path::{Path, PathBuf};

/// The name of the file in `slot` of the ring.
#[must_use]
pub fn file_name(slot: u16) -> String {
    format!("journal-{slot:04x}")
}

/// The journal file in `slot` of the store's directory `dir`.
#[must_use]
pub fn path(dir: &Path, slot: u16) -> PathBuf {
    dir.join(file_name(slot))
}

/// The slot that a file's name stands for; None if it is not the name of a journal file.
#[must_use]
pub fn parse(name: &str) -> Option<u16> {
    let digits = name.strip_prefix("journal-")?;
    let slot = u16::from_str_radix(digits, 16).ok()?;
    (file_name(slot) == name).then_some(slot)
}

/// Whether this is the path of a journal file.
#[must_use]
pub fn is_journal(path: &Path) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| parse(name).is_some())
}

/// The name under which the bytes past a cut of this use of the file in `slot` are kept.
#[must_use]
pub fn torn_name(slot: u16, journal: JournalId) -> String {
    format!("journal-{slot:04x}-{:016x}.torn", journal.0)
}

/// Whether a file of this name holds the bytes past a cut.
#[must_use]
pub fn is_torn(name: &str) -> bool {
    let parts = name.strip_suffix(".torn").and_then(|stem| stem.rsplit_once('-'));
    let parsed = parts.and_then(|(file, id)| Some((parse(file)?, u64::from_str_radix(id, 16).ok()?)));
    parsed.is_some_and(|(slot, id)| torn_name(slot, JournalId(id)) == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back_and_their_like_does_not() {
        for slot in [0, 9, 0xab, u16::MAX] {
            assert_eq!(parse(&file_name(slot)), Some(slot));
            assert_eq!(parse(&torn_name(slot, JournalId(77))), None, "a kept tail is not a file of the ring");
            assert_eq!(parse(&format!("{}.tmp", file_name(slot))), None);
            assert!(is_torn(&torn_name(slot, JournalId(77))) && !is_torn(&file_name(slot)));
        }
        for name in ["notes.torn", "journal-0001.torn", "journal-0001-4d.torn", "journal-1-000000000000004d.torn"] {
            assert!(!is_torn(name), "{name}");
        }
        for name in ["journal-1", "journal-00AB", "journal-+00a", "journal-00000", "journal-", "manifest-0001", ""] {
            assert_eq!(parse(name), None, "{name}");
        }
    }
}
