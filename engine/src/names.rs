//! Log names: what is accepted, what the owner of a name is, and how a name becomes a [`LogId`].
//!
//! Invariant: a name that passed [`check`] is UTF-8 of 1 to 1024 bytes, its `/`-separated segments are none of them
//! empty, `.` or `..`, and it has no control character. Names are compared bytewise; nothing is normalised.

use crate::error::{Error, ErrorKind, Result};
use crate::limits::NAME_BYTES_MAX;
use crate::types::LogId;

/// Refuses a name that breaks the rules of this module, saying which rule.
///
/// # Errors
/// [`ErrorKind::Invalid`].
pub fn check(name: &str) -> Result<()> {
    let reason = if name.is_empty() {
        "it is empty"
    } else if name.len() > NAME_BYTES_MAX {
        &format!("it has {} bytes, at most {NAME_BYTES_MAX} fit", name.len())
    } else if !is_printable_ascii(name) && name.chars().any(char::is_control) {
        "it has a control character"
    } else if name.as_bytes().split(|b| *b == b'/').any(|s| matches!(s, b"" | b"." | b"..")) {
        "a segment between slashes is empty, \".\" or \"..\""
    } else {
        return Ok(());
    };
    let shown: String = name.chars().take(80).flat_map(char::escape_debug).collect();
    Err(Error::new(ErrorKind::Invalid, format!("the log name \"{shown}\" is refused: {reason}"))
        .remedy("use a name such as users/alice/contacts"))
}

/// Most names are, and are soon told.
fn is_printable_ascii(name: &str) -> bool {
    name.bytes().all(|b| matches!(b, b' '..=b'~'))
}

/// The unit of quota, listing and erasure: the first two segments of the name, or all of it if there are fewer.
#[must_use]
pub fn owner(name: &str) -> &str {
    match name.match_indices('/').nth(1) {
        Some((at, _)) => &name[..at],
        None => name,
    }
}

/// The log's key under the store's key: keyed BLAKE3, 64 bits of the owner then 64 of the whole name.
#[must_use]
pub fn log_id(key: &[u8; 32], name: &str) -> LogId {
    let mut id = [0; 16];
    id[..8].copy_from_slice(&blake3::keyed_hash(key, owner(name).as_bytes()).as_bytes()[..8]);
    id[8..].copy_from_slice(&blake3::keyed_hash(key, name.as_bytes()).as_bytes()[..8]);
    LogId(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_by_the_rules() {
        for good in ["a", "users/alice", "users/alice/contacts", "ü/…", &"x".repeat(1024)] {
            assert!(check(good).is_ok(), "{good}");
        }
        for bad in ["", "/", "a/", "/a", "a//b", ".", "a/../b", "a/./b", "a\nb", "\u{7f}", &"x".repeat(1025)] {
            assert_eq!(check(bad).expect_err(bad).kind(), ErrorKind::Invalid);
        }
    }

    #[test]
    fn an_owner_is_the_first_two_segments() {
        assert_eq!(owner("users/alice/contacts"), "users/alice");
        assert_eq!(owner("users/alice"), "users/alice");
        assert_eq!(owner("solo"), "solo");
    }

    #[test]
    fn logs_of_one_owner_share_the_upper_half() {
        let key = [7; 32];
        let (a, b) = (log_id(&key, "users/alice/contacts"), log_id(&key, "users/alice/notes"));
        assert_eq!(a.0[..8], b.0[..8]);
        assert_ne!(a.0[8..], b.0[8..]);
        assert_ne!(log_id(&[8; 32], "users/alice/contacts"), a, "the store's key counts");
    }
}
