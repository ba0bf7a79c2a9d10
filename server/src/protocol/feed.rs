//! The query of a feed, the place that its offsets stand for, and how a change is told.
//!
//! Invariant: an offset is a place of one history of the store, and is told apart from those of any other.

use super::answer::Refusal;
use super::query::{Live, parameters};
use everlog::types::{Cursor, Lsn, Timeline};
use serde::Serialize;

/// How far below its owner a stream may lie to be told of, unless the client says otherwise.
const DEPTH: usize = 1;

/// Up to where a client has been told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Of which open of the store the rest speaks.
    pub timeline: Timeline,
    /// Everything up to there has been told.
    pub lsn: Lsn,
    /// The owner's board.
    pub board: u64,
    /// Everything up to this number of it has been told, too.
    pub number: u64,
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { timeline, lsn, board, number } = self;
        write!(f, "{}_{board:016x}_{number:016x}", Cursor { timeline: *timeline, seq: lsn.0 })
    }
}

impl Place {
    fn parse(text: &str) -> Option<Self> {
        const CURSOR: usize = 33;
        let (cursor, rest) = text.split_at_checked(CURSOR)?;
        let (board, number) = rest.strip_prefix('_')?.split_once('_')?;
        let Cursor { timeline, seq } = cursor.parse().ok()?;
        let place = Self { timeline, lsn: Lsn(seq), board: hex(board)?, number: hex(number)? };
        Some(place)
    }
}

fn hex(text: &str) -> Option<u64> {
    let is_ours = text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    is_ours.then(|| u64::from_str_radix(text, 16).ok())?
}

/// From where on a client wants to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum From {
    /// All there is.
    Start,
    /// What comes.
    Now,
    /// What changed since.
    Place(Place),
}

/// The query of a feed.
#[derive(Debug)]
pub struct FeedQuery {
    /// From where on.
    pub from: From,
    /// How to go on.
    pub live: Live,
    /// The cursor of the answer before.
    pub cursor: Option<u64>,
    /// How many segments a stream's name may have beyond its owner's.
    pub depth: usize,
}

impl FeedQuery {
    /// Reads the query's text, still encoded.
    ///
    /// # Errors
    /// 400.
    pub fn parse(text: Option<&str>) -> Result<Self, Refusal> {
        let [offset, live, cursor, depth] = parameters(text, ["offset", "live", "cursor", "depth"])?;
        let live = Live::parse(live.as_deref(), offset.as_deref())?;
        let from = match offset.as_deref() {
            None | Some("-1") => From::Start,
            Some("now") => From::Now,
            Some(text) => {
                let place = Place::parse(text);
                From::Place(place.ok_or_else(|| Refusal::bad_request("the offset is none that a feed gave"))?)
            }
        };
        let depth = match depth.as_deref() {
            None => DEPTH,
            Some("all") => usize::MAX,
            Some(text) => text.parse().map_err(|_| Refusal::bad_request("depth is a whole number, or the word all"))?,
        };
        Ok(Self { from, live, cursor: cursor.and_then(|text| text.parse().ok()), depth })
    }
}

/// A stream that changed, as its owner's devices are told.
#[derive(Debug, Serialize)]
pub struct Told {
    /// Its name.
    pub stream: String,
    /// Where it ends.
    pub head: String,
    /// It takes no more.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub closed: bool,
    /// It is gone.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub deleted: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_comes_back_as_it_was_and_nothing_else_is_one() {
        let timeline = Timeline { counter: 3, random: 0xff };
        let place = Place { timeline, lsn: Lsn(77), board: 5, number: u64::MAX };
        let text = place.to_string();
        assert_eq!(Place::parse(&text), Some(place));
        assert!(text.len() < 256 && !text.contains([',', '&', '=', '?', '/']));
        for bad in ["", "-1", "0", &text[1..], &text[..text.len() - 1], &format!("{text}0"), &text[..33]] {
            assert_eq!(Place::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_feed_says_from_where_and_how_deep() {
        let query = |text| FeedQuery::parse(text).expect("well formed");
        assert_eq!((query(None).from, query(None).depth), (From::Start, 1));
        assert_eq!(query(Some("offset=now&live=sse&depth=all")).depth, usize::MAX);
        assert_eq!(query(Some("depth=0")).depth, 0);
        for text in ["offset=0", "depth=-1", "depth=", "live=sse", "depth=1&depth=2", "offset=snapshot"] {
            assert!(FeedQuery::parse(Some(text)).is_err(), "{text}");
        }
    }
}
