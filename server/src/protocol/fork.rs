//! What a creation asks for that makes it a fork: of which stream, and from where in it.
//!
//! Invariant: a fork's source is a name as any path's, so that nothing is reached by it that a path does not lead to.

use super::answer::Refusal;
use super::request::{text, whole_number};
use super::{headers, path};
use everlog::types::Cursor;
use hyper::header::HeaderMap;

/// A fork that is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForkAsked {
    /// The log that it begins as a copy of.
    pub source: String,
    /// Up to where; its end if that is not said.
    pub offset: Option<Cursor>,
    /// And how far behind that: messages of a JSON stream, bytes of others.
    pub sub_offset: u64,
}

impl ForkAsked {
    /// What the headers ask for.
    ///
    /// # Errors
    /// 400; 404 for a source that no path leads to.
    pub fn read(map: &HeaderMap) -> Result<Option<Self>, Refusal> {
        let (offset, sub_offset) = (text(map, headers::FORK_OFFSET)?, text(map, headers::FORK_SUB_OFFSET)?);
        let Some(source) = text(map, headers::FORKED_FROM)? else {
            return match (offset, sub_offset) {
                (None, None) => Ok(None),
                _ => Err(Refusal::bad_request("a place to fork at is given, and no Stream-Forked-From")),
            };
        };
        let parsed = offset.map(str::parse).transpose();
        let offset = parsed.map_err(|e| Refusal::bad_request(format!("Stream-Fork-Offset: {e}")))?;
        let sub_offset = match sub_offset.map(whole_number) {
            None => 0,
            Some(Some(number)) => number,
            Some(None) => {
                return Err(Refusal::bad_request("Stream-Fork-Sub-Offset is a whole number without leading zeros"));
            }
        };
        if sub_offset > 0 && offset.is_none() {
            return Err(Refusal::bad_request(
                "Stream-Fork-Sub-Offset leads past the end of the stream; say Stream-Fork-Offset",
            ));
        }
        Ok(Some(Self { source: path::log_name(source)?, offset, sub_offset }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::{HeaderName, HeaderValue};

    fn read(pairs: &[(&'static str, &str)]) -> Result<Option<ForkAsked>, u16> {
        let pair = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).expect("a value"))
        };
        ForkAsked::read(&pairs.iter().map(pair).collect()).map_err(|refusal| refusal.status().as_u16())
    }

    #[test]
    fn a_fork_has_a_source_and_may_have_a_place() {
        let from = (headers::FORKED_FROM, "/v1/stream/users/a%20b/x");
        let zero = "0000000000000000_0000000000000000";
        let asked = |offset, sub_offset| Ok(Some(ForkAsked { source: "users/a b/x".into(), offset, sub_offset }));
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&[from]), asked(None, 0));
        assert_eq!(read(&[from, (headers::FORK_SUB_OFFSET, "0")]), asked(None, 0));
        let place = [from, (headers::FORK_OFFSET, zero), (headers::FORK_SUB_OFFSET, "7")];
        assert_eq!(read(&place), asked(Some(Cursor::default()), 7));
    }

    #[test]
    fn what_is_malformed_or_leads_nowhere_is_refused() {
        let from = (headers::FORKED_FROM, "/v1/stream/x");
        let zero = (headers::FORK_OFFSET, "0000000000000000_0000000000000000");
        for bad in ["-1", "abc", "1.5", "05", "+1", ""] {
            assert_eq!(read(&[from, zero, (headers::FORK_SUB_OFFSET, bad)]), Err(400), "{bad}");
        }
        assert_eq!(read(&[from, (headers::FORK_OFFSET, "x")]), Err(400));
        assert_eq!(read(&[from, (headers::FORK_SUB_OFFSET, "1")]), Err(400), "past the end");
        assert_eq!(read(&[zero]), Err(400));
        assert_eq!(read(&[(headers::FORK_SUB_OFFSET, "0")]), Err(400));
        for (source, status) in [
            ("x", 404),
            ("/v1/stream/", 404),
            ("http://elsewhere/v1/stream/x", 404),
            ("/v1/stream/__ds/x", 404),
            ("/v1/stream/a/../b", 400),
            ("/v1/stream/a%2Fb", 400),
        ] {
            assert_eq!(read(&[(headers::FORKED_FROM, source)]), Err(status), "{source}");
        }
    }
}
