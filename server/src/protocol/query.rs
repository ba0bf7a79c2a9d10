//! What a read asks for in its query: where it begins, how it waits, and which cursor it was given.

use super::answer::Refusal;
use crate::snapshots::token::Wanted;
use everlog::types::{Cursor, Position};

/// How a read goes on once it has all there is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Live {
    /// It ends.
    No,
    /// It waits for one more answer.
    LongPoll,
    /// It stays, as server-sent events.
    Sse,
}

/// The parameters `wanted` of a query, each at most once; others are let be.
///
/// # Errors
/// 400.
pub fn parameters<const N: usize>(text: Option<&str>, wanted: [&str; N]) -> Result<[Option<String>; N], Refusal> {
    let mut found = [const { None }; N];
    for (name, value) in form_urlencoded::parse(text.unwrap_or_default().as_bytes()) {
        let Some(n) = wanted.iter().position(|wanted| *wanted == name) else { continue };
        if found[n].replace(value.into_owned()).is_some() {
            return Err(Refusal::bad_request(format!("{name} is given twice")));
        }
    }
    Ok(found)
}

impl Live {
    /// How a read with this parameter goes on; one that waits says from where.
    ///
    /// # Errors
    /// 400.
    pub fn parse(live: Option<&str>, offset: Option<&str>) -> Result<Self, Refusal> {
        let live = match live {
            None => Self::No,
            Some("long-poll") => Self::LongPoll,
            Some("sse") => Self::Sse,
            Some(_) => return Err(Refusal::bad_request("live is long-poll or sse")),
        };
        if live != Self::No && offset.is_none() {
            return Err(Refusal::bad_request("a live read needs an offset; -1 is the beginning, now the end"));
        }
        Ok(live)
    }
}

/// The query of a read.
#[derive(Debug)]
pub struct Query {
    /// Where to begin.
    pub from: Position,
    /// Whether that was `now`: nothing is to be read, whatever there is.
    pub now: bool,
    /// The page of a snapshot that is to be read instead.
    pub snapshot: Option<Wanted>,
    /// How to go on.
    pub live: Live,
    /// The cursor of the answer before.
    pub cursor: Option<u64>,
}

impl Query {
    /// Reads the query's text, still encoded.
    ///
    /// # Errors
    /// 400.
    pub fn parse(text: Option<&str>) -> Result<Self, Refusal> {
        let [offset, live, cursor] = parameters(text, ["offset", "live", "cursor"])?;
        let live = Live::parse(live.as_deref(), offset.as_deref())?;
        let snapshot = offset.as_deref().and_then(Wanted::parse);
        if live != Live::No && snapshot.is_some() {
            return Err(Refusal::bad_request(
                "a snapshot is not live; read on live from the offset behind its last page",
            ));
        }
        let now = offset.as_deref() == Some("now");
        let from = match offset.as_deref() {
            None | Some("-1") => Position::Start,
            Some(_) if snapshot.is_some() => Position::Start,
            Some("now") => Position::End,
            Some(text) => {
                let cursor: Cursor = text.parse().map_err(|e| Refusal::bad_request(format!("the offset: {e}")))?;
                cursor.into()
            }
        };
        // It was made by this server, as a number; whatever else comes is none.
        Ok(Self { from, now, snapshot, live, cursor: cursor.and_then(|text| text.parse().ok()) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_says_where_it_begins() {
        let query = |text| Query::parse(text).expect("well formed");
        assert_eq!(query(None).from, Position::Start);
        assert_eq!(query(Some("offset=-1")).from, Position::Start);
        assert!(query(Some("offset=now&live=sse")).now);
        let cursor = Cursor { seq: 10, ..Cursor::default() };
        let text = format!("live=long-poll&cursor=77&offset={cursor}");
        let query = query(Some(&text));
        assert_eq!((query.from, query.live, query.cursor), (Position::Cursor(cursor), Live::LongPoll, Some(77)));
    }

    #[test]
    fn what_is_malformed_is_refused() {
        for text in ["offset=", "offset=0", "offset=-1&offset=-1", "live=sse", "live=long-poll", "offset=now&live=x"] {
            assert!(Query::parse(Some(text)).is_err(), "{text}");
        }
        for text in ["offset=snapshot&live=sse", "offset=snapshot.", "offset=snapshots"] {
            assert!(Query::parse(Some(text)).is_err(), "{text}");
        }
        for text in ["offset=a,b", "offset=../../x", "offset=%00", "offset=0000000000000000_000000000000000G"] {
            assert!(Query::parse(Some(text)).is_err(), "{text}");
        }
    }
}
