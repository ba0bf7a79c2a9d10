//! What becomes of one item that changed there, here, or on both sides: a pure function of three versions.
//!
//! It touches no file and asks no server. Invariant: no edit is ever lost. Where both sides edited, both versions stay;
//! where one edited what the other deleted, the edit stays.

use super::digest::Digest;

/// A version of an item; None: it is not there.
pub type Version = Option<Digest>;

/// What to do with the file here, after which the server's version is the one that the next change is measured by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// Both sides agree.
    Settled,
    /// The server's version replaces the file, or takes a place where none is.
    Write,
    /// The server's deletion takes an unchanged file away.
    Delete,
    /// The file stays as it is, or stays away, and differs from the server's version: a change to be pushed.
    Keep,
    /// Both edited: the server's version takes the name, the file's goes on under another.
    Conflict,
    /// The file is newer than what the server was taken back to: it is set aside, and the server is followed.
    SetAside,
}

/// `base` is what both sides last agreed on.
pub fn decide(base: Version, local: Version, remote: Version) -> Decision {
    if local == remote {
        return Decision::Settled;
    }
    match (local == base, remote == base, local, remote) {
        // Only the server has a change.
        (true, _, _, Some(_)) => Decision::Write,
        (true, _, _, None) => Decision::Delete,
        // Only this device has one.
        (false, true, _, _) => Decision::Keep,
        // Both have one. An edit wins over a deletion; of two edits both are kept.
        (false, false, Some(_), Some(_)) => Decision::Conflict,
        (false, false, Some(_), None) => Decision::Keep,
        (false, false, None, _) => Decision::Write,
    }
}

/// The same after the server was taken back on purpose. `base` is what both sides last agreed on, if the server still has
/// that; a change here of anything else, or of nothing, is newer than what was taken back to.
pub fn follow(base: Version, local: Version, remote: Version) -> Decision {
    match (local, remote) {
        _ if local == remote => Decision::Settled,
        (None, _) => Decision::Write,
        (Some(_), Some(_)) if local == base => Decision::Write,
        (Some(_), None) if local == base => Decision::Delete,
        (Some(_), _) => Decision::SetAside,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(name: char) -> Version {
        (name != '-').then(|| Digest::of(&[name as u8]))
    }

    /// Every combination of three versions up to renaming: with a version missing or one of three contents, in the
    /// order base, local, remote.
    const TABLE: [(&str, Decision); 15] = [
        ("---", Decision::Settled),
        ("--b", Decision::Write),
        ("-b-", Decision::Keep),
        ("-bb", Decision::Settled),
        ("-bc", Decision::Conflict),
        ("a--", Decision::Settled),
        ("a-a", Decision::Keep),
        ("a-b", Decision::Write),
        ("aa-", Decision::Delete),
        ("aaa", Decision::Settled),
        ("aab", Decision::Write),
        ("ab-", Decision::Keep),
        ("aba", Decision::Keep),
        ("abb", Decision::Settled),
        ("abc", Decision::Conflict),
    ];

    /// Contents renamed in the order in which they first occur, a base being `a` and others beginning with `b`.
    fn named(row: [char; 3]) -> String {
        let mut seen: Vec<char> = Vec::new();
        let first = if row[0] == '-' { b'b' } else { b'a' };
        let mut name = |c: char| match seen.iter().position(|s| *s == c) {
            _ if c == '-' => '-',
            Some(at) => char::from(first + at as u8),
            None => {
                seen.push(c);
                char::from(first + seen.len() as u8 - 1)
            }
        };
        row.map(&mut name).iter().collect()
    }

    #[test]
    fn every_combination_meets_its_row() {
        let mut met = std::collections::BTreeSet::new();
        for base in "-abc".chars() {
            for local in "-abc".chars() {
                for remote in "-abc".chars() {
                    let name = named([base, local, remote]);
                    let row = TABLE.iter().find(|(row, _)| *row == name).unwrap_or_else(|| panic!("no row {name}"));
                    let decided = decide(version(base), version(local), version(remote));
                    assert_eq!(decided, row.1, "base {base}, local {local}, remote {remote}");
                    met.insert(row.0);
                }
            }
        }
        assert_eq!(met.len(), TABLE.len(), "a row that no combination meets");
    }

    #[test]
    fn no_edit_is_lost() {
        for (row, decision) in TABLE {
            let [base, local, remote] = [0, 1, 2].map(|i| row.as_bytes()[i] as char);
            let edited_here = local != '-' && local != base && local != remote;
            if edited_here {
                assert!(matches!(decision, Decision::Keep | Decision::Conflict), "{row}");
            }
            let edited_there = remote != '-' && remote != base && remote != local;
            if edited_there {
                assert!(matches!(decision, Decision::Write | Decision::Conflict), "{row}");
            }
        }
    }

    #[test]
    fn after_a_rewind_the_server_is_followed_and_what_is_newer_set_aside() {
        use Decision::{Delete, SetAside, Settled, Write};
        // In the order of the table.
        let expected = [
            Settled, Write, SetAside, Settled, SetAside, Settled, Write, Write, Delete, Settled, Write, SetAside,
            SetAside, Settled, SetAside,
        ];
        for ((row, _), expected) in TABLE.into_iter().zip(expected) {
            let [base, local, remote] = [0, 1, 2].map(|i| version(row.as_bytes()[i] as char));
            assert_eq!(follow(base, local, remote), expected, "{row}");
        }
    }
}
