//! What a read asks for in its query: where it begins, how it waits, and which cursor it was given.

use super::answer::Refusal;
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

/// The query of a read.
#[derive(Debug)]
pub struct Query {
    /// Where to begin.
    pub from: Position,
    /// Whether that was `now`: nothing is to be read, whatever there is.
    pub now: bool,
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
        let (mut offset, mut live, mut cursor) = (None, None, None);
        for (name, value) in form_urlencoded::parse(text.unwrap_or_default().as_bytes()) {
            let slot = match &*name {
                "offset" => &mut offset,
                "live" => &mut live,
                "cursor" => &mut cursor,
                _ => continue,
            };
            if slot.replace(value.into_owned()).is_some() {
                return Err(Refusal::bad_request(format!("{name} is given twice")));
            }
        }
        let live = match live.as_deref() {
            None => Live::No,
            Some("long-poll") => Live::LongPoll,
            Some("sse") => Live::Sse,
            Some(_) => return Err(Refusal::bad_request("live is long-poll or sse")),
        };
        if live != Live::No && offset.is_none() {
            return Err(Refusal::bad_request("a live read needs an offset; -1 is the beginning, now the end"));
        }
        let now = offset.as_deref() == Some("now");
        let from = match offset.as_deref() {
            None | Some("-1") => Position::Start,
            Some("now") => Position::End,
            Some(text) => {
                let cursor: Cursor = text.parse().map_err(|e| Refusal::bad_request(format!("the offset: {e}")))?;
                cursor.into()
            }
        };
        // It was made by this server, as a number; whatever else comes is none.
        Ok(Self { from, now, live, cursor: cursor.and_then(|text| text.parse().ok()) })
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
        for text in ["offset=a,b", "offset=../../x", "offset=%00", "offset=0000000000000000_000000000000000G"] {
            assert!(Query::parse(Some(text)).is_err(), "{text}");
        }
    }
}
