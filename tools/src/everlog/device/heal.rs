//! What an item is measured by when a whole stream is read again, because the server has lost the history that this
//! device had followed.
//!
//! A server that was restored lacks what came after the cut. Devices still have it and put it back, or, where it was taken
//! back on purpose, set it aside. Invariant: nothing is deleted here merely because the server lost it, and what another
//! device has put back and edited since is no conflict with what it was before.

use super::merge::Version;
use super::state::State;

/// The cut of a server that lost everything.
pub const NOTHING_KEPT: &str = "0000000000000000_0000000000000000";

/// What the server no longer has.
#[derive(Debug)]
pub struct Loss {
    /// All past this offset.
    pub cut: String,
    /// It was taken back to there on purpose: what is newer is to be set aside, and not to be put back.
    pub is_rewind: bool,
}

/// How the stream stands beside what this device knew.
#[derive(Default)]
pub struct Reread {
    /// The server has lost all past this offset; None: it has lost nothing that is known of.
    pub cut: Option<String>,
    /// As [`Loss::is_rewind`].
    pub is_rewind: bool,
}

/// The last that the stream says of a key.
pub struct LastWord<'a> {
    pub version: Version,
    pub offset: &'a str,
    /// The version agreed on before stands in the stream past the cut: another device has put it back.
    pub was_put_back: bool,
}

/// The dense position in an offset of everlog, the part after the underscore. None where a server gives others.
pub fn position(offset: &str) -> Option<u64> {
    let (_, digits) = offset.split_once('_')?;
    if digits.len() != 16 { None } else { u64::from_str_radix(digits, 16).ok() }
}

/// The offset `count` records before `next`, where offsets can be counted; else `next`, which is never too little.
pub fn offset_before(next: &str, count: u64) -> String {
    match (next.split_once('_'), position(next).and_then(|position| position.checked_sub(count))) {
        (Some((timeline, _)), Some(position)) => format!("{timeline}_{position:016x}"),
        _ => next.to_owned(),
    }
}

/// The offset `count` records after `offset`, where offsets can be counted; else the offset itself. Its timeline is that
/// of the offset, which a restart of the server in between makes wrong: it is no cursor.
pub fn offset_after(offset: &str, count: u64) -> String {
    match (offset.split_once('_'), position(offset).and_then(|position| position.checked_add(count))) {
        (Some((timeline, _)), Some(position)) => format!("{timeline}_{position:016x}"),
        _ => offset.to_owned(),
    }
}

/// Whether the records before the offsets belong to one timeline. Offsets that name none belong to no common one.
pub fn is_same_timeline(one: &str, other: &str) -> bool {
    let timeline = |offset: &str| offset.split_once('_').map(|(timeline, _)| timeline.to_owned());
    timeline(one).is_some() && timeline(one) == timeline(other)
}

/// Whether one record lies before another in a history that they have in common. Past a cut, two that do not belong to
/// the same timeline cannot be compared.
fn is_surely_before(one: &str, other: &str) -> bool {
    is_same_timeline(one, other) && position(one).is_some() && position(one) < position(other)
}

impl Reread {
    /// After another loss, which came while the first was being healed. What is set aside for one too many is kept, and what
    /// is put back for one too many undoes a rewind.
    pub fn and_lost(self, loss: Loss) -> Self {
        let is_rewind = self.is_rewind || loss.is_rewind;
        let is_earlier =
            |cut: &String| position(cut).is_none_or(|earlier| position(&loss.cut).is_some_and(|c| earlier < c));
        Self { cut: Some(self.cut.filter(is_earlier).unwrap_or(loss.cut)), is_rewind }
    }

    /// The version agreed on, if the server cannot have lost it.
    pub fn kept_base(&self, state: &State, key: &str) -> Version {
        state.items.get(key).filter(|item| !self.is_beyond(&item.offset)).map(|item| item.hash)
    }

    /// Whether what both sides agreed on for the key, that it is there, was not lost: if the stream, whole as it is, says
    /// nothing of it, then it was deleted, and that was given up together with what it deleted.
    pub fn was_deleted(&self, state: &State, key: &str) -> bool {
        state.items.get(key).is_some_and(|item| !self.is_beyond(&item.offset))
    }

    /// Whether the change that ends at the offset is lost, or can only be thought so.
    fn is_beyond(&self, offset: &str) -> bool {
        let Some(cut) = &self.cut else { return false };
        match (position(offset), position(cut)) {
            (Some(offset), Some(cut)) => offset > cut,
            _ => true,
        }
    }

    /// Whether the version, written past the cut, is the one that was agreed on: then it was put back.
    pub fn puts_back(&self, state: &State, key: &str, version: Version, offset: &str) -> bool {
        version.is_some() && version == state.base(key) && self.is_beyond(offset)
    }

    /// Whether the agreed version, though the server has the same, has to be said again: it was agreed on once more in
    /// the lost history, and a device that followed that history only halfway would take its own version for a newer.
    pub fn must_be_said_again(&self, state: &State, key: &str, last: &LastWord<'_>) -> bool {
        let known = state.items.get(key);
        known.is_some_and(|item| Some(item.hash) == last.version && self.is_beyond(&item.offset))
            && !self.is_beyond(last.offset)
    }

    /// The version that both sides' changes are measured by.
    pub fn base(&self, state: &State, key: &str, last: &LastWord<'_>) -> Version {
        let known = state.base(key);
        let offset = state.items.get(key).map(|item| &item.offset).or_else(|| state.deleted.get(key));
        let lost = offset.is_some_and(|offset| self.is_beyond(offset));
        let came_later = || offset.is_none_or(|offset| !is_surely_before(last.offset, offset));
        if !lost || last.was_put_back || (known.is_some() && known == last.version) {
            known
        } else if self.is_beyond(last.offset) && came_later() {
            // Somebody has written since the cut without knowing what was lost. Nothing is agreed on any more.
            None
        } else {
            // The server stands where it stood before the lost change: what is here is an edit of that.
            last.version
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::digest::Digest;
    use crate::device::merge::{Decision, decide};

    fn offset(position: u64) -> String {
        format!("00000001000000ff_{position:016x}")
    }

    fn version(name: &str) -> Version {
        (name != "-").then(|| Digest::of(name.as_bytes()))
    }

    /// What becomes of an item that was agreed on as `known` at `at`, is `local` here, and of which the stream, cut at
    /// 50, says last `remote` at `last_at`.
    fn healed(known: &str, at: u64, local: &str, remote: &str, last_at: u64, was_put_back: bool) -> Decision {
        let mut state = State::new("d".into());
        state.agree("k", version(known), &offset(at));
        // What was written after the loss belongs to another timeline.
        let last_at = if last_at > 50 { format!("0000000200000001_{last_at:016x}") } else { offset(last_at) };
        let last = LastWord { version: version(remote), offset: &last_at, was_put_back };
        let base = Reread { cut: Some(offset(50)), is_rewind: false }.base(&state, "k", &last);
        decide(base, version(local), version(remote))
    }

    #[test]
    fn what_the_server_lost_is_put_back() {
        assert_eq!(healed("v2", 60, "v2", "v1", 5, false), Decision::Keep);
        assert_eq!(healed("v2", 60, "v3", "v1", 5, false), Decision::Keep);
        assert_eq!(healed("v2", 60, "v2", "-", 5, false), Decision::Keep);
        // A lost deletion too, and one that was not pushed yet.
        assert_eq!(healed("-", 60, "-", "v1", 5, false), Decision::Keep);
        assert_eq!(healed("v2", 60, "-", "v1", 5, false), Decision::Keep);
    }

    #[test]
    fn what_stands_before_what_was_agreed_on_is_older_wherever_the_cut_may_be() {
        let base = |last_at: &str| {
            let mut state = State::new("d".into());
            state.agree("k", version("v2"), &offset(60));
            let last = LastWord { version: version("v1"), offset: last_at, was_put_back: false };
            Reread { cut: Some(NOTHING_KEPT.to_owned()), is_rewind: false }.base(&state, "k", &last)
        };
        assert_eq!(base(&offset(59)), version("v1"), "what is here is put back");
        assert_eq!(base(&offset(61)), None, "both are kept");
        assert_eq!(base("0000000200000001_000000000000003b"), None, "it may be an edit");
    }

    #[test]
    fn what_another_device_put_back_settles() {
        assert_eq!(healed("v2", 60, "v2", "v2", 55, true), Decision::Settled);
        assert_eq!(healed("v2", 60, "v3", "v2", 55, true), Decision::Keep);
        assert_eq!(healed("-", 60, "-", "-", 55, false), Decision::Settled);
    }

    #[test]
    fn what_was_put_back_and_edited_since_is_followed() {
        assert_eq!(healed("v2", 60, "v2", "v3", 55, true), Decision::Write);
        assert_eq!(healed("v2", 60, "v2", "-", 55, true), Decision::Delete);
        assert_eq!(healed("v2", 60, "v4", "v3", 55, true), Decision::Conflict);
    }

    #[test]
    fn what_was_edited_in_ignorance_of_the_loss_is_a_conflict() {
        assert_eq!(healed("v2", 60, "v2", "v3", 55, false), Decision::Conflict);
        assert_eq!(healed("v2", 60, "v2", "-", 55, false), Decision::Keep);
        assert_eq!(healed("-", 60, "-", "v3", 55, false), Decision::Write);
    }

    #[test]
    fn what_was_not_lost_follows_the_server() {
        assert_eq!(healed("v1", 5, "v1", "v3", 55, false), Decision::Write);
        assert_eq!(healed("v1", 50, "v1", "-", 55, false), Decision::Delete);
        assert_eq!(healed("v1", 5, "v2", "v1", 5, false), Decision::Keep);
        assert_eq!(healed("-", 5, "-", "v3", 55, false), Decision::Write);
    }

    #[test]
    fn what_became_again_what_the_server_went_back_to_is_said_again() {
        let says_again = |at, last_at, remote| {
            let mut state = State::new("d".into());
            state.agree("k", version("v1"), &offset(at));
            let last = LastWord { version: version(remote), offset: &offset(last_at), was_put_back: false };
            Reread { cut: Some(offset(50)), is_rewind: false }.must_be_said_again(&state, "k", &last)
        };
        assert!(says_again(60, 5, "v1"));
        assert!(!says_again(60, 55, "v1"), "somebody did");
        assert!(!says_again(5, 5, "v1"), "nothing was lost");
        assert!(!says_again(60, 5, "v0"), "it is put back in any case");
    }

    #[test]
    fn what_is_not_spoken_of_was_deleted_unless_it_was_lost() {
        let mut state = State::new("d".into());
        state.agree("kept", version("v1"), &offset(50));
        state.agree("lost", version("v1"), &offset(51));
        state.agree("gone", None, &offset(5));
        let deleted = |cut: Option<u64>| {
            let reread = Reread { cut: cut.map(offset), is_rewind: false };
            ["kept", "lost", "gone", "never"].map(|key| reread.was_deleted(&state, key))
        };
        assert_eq!(deleted(Some(50)), [true, false, false, false]);
        assert_eq!(deleted(None), [true, true, false, false]);
        assert_eq!(deleted(Some(0)), [false; 4]);
    }

    #[test]
    fn timelines_are_told_apart() {
        assert!(is_same_timeline("1_2", "1_9"));
        assert!(!is_same_timeline("1_2", "2_2") && !is_same_timeline("7", "7"));
    }

    #[test]
    fn of_two_losses_the_earlier_place_counts() {
        let loss = |cut, is_rewind| Loss { cut: offset(cut), is_rewind };
        let both = |one: Option<u64>, other| {
            Reread { cut: one.map(offset), is_rewind: false }.and_lost(loss(other, false)).cut
        };
        assert_eq!(both(None, 7), Some(offset(7)));
        assert_eq!(both(Some(9), 7), Some(offset(7)));
        assert_eq!(both(Some(5), 7), Some(offset(5)));
        for (first, second) in [(false, true), (true, false)] {
            assert!(Reread::default().and_lost(loss(5, first)).and_lost(loss(7, second)).is_rewind);
        }
    }

    #[test]
    fn what_a_rewind_cannot_have_taken_back_is_still_agreed_on() {
        let mut state = State::new("d".into());
        state.agree("old", version("v1"), &offset(50));
        state.agree("new", version("v1"), &offset(51));
        let kept = |cut: &str, key| Reread { cut: Some(cut.to_owned()), is_rewind: true }.kept_base(&state, key);
        assert_eq!((kept(&offset(50), "old"), kept(&offset(50), "new")), (version("v1"), None));
        assert_eq!((kept(NOTHING_KEPT, "old"), kept("odd", "old"), kept(&offset(50), "other")), (None, None, None));
    }

    #[test]
    fn offsets_are_counted_where_they_can_be() {
        assert_eq!(position(&offset(17)), Some(17));
        assert_eq!(offset_before(&offset(17), 3), offset(14));
        assert_eq!(offset_before(&offset(2), 3), offset(2));
        assert_eq!(offset_after(&offset(15), 2), offset(17));
        for other in ["-1", "17", "a_b", "0000_11"] {
            assert_eq!(position(other), None);
            assert_eq!(offset_before(other, 1), other);
            assert_eq!(offset_after(other, 1), other);
        }
    }
}
