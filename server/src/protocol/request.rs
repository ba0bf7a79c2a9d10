//! What the headers of a creation or an append ask for.
//!
//! Invariant: a header that is there and malformed is refused, never taken for absent; but for `Stream-Closed`, which
//! the protocol wants ignored unless it says `true`.

use super::answer::Refusal;
use super::headers;
use everlog::limits::{PRODUCER_ID_BYTES_MAX, TAG_BYTES_MAX};
use everlog::types::Cursor;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap};

/// The largest number that a JavaScript client can count to.
const NUMBER_MAX: u64 = (1 << 53) - 1;

/// A producer's numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Producer {
    /// Who sends.
    pub id: String,
    /// In which epoch.
    pub epoch: u64,
    /// As which request of it.
    pub number: u64,
}

/// How safe something is to be before it is answered, or is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// On this machine's stable storage.
    #[default]
    Local,
    /// Verified in a cold store as well.
    Cold,
}

impl Durability {
    /// As headers and metrics call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Cold => "cold",
        }
    }
}

/// A header as text.
///
/// # Errors
/// 400 if it is not, or is there more than once.
pub fn text<'a>(map: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Refusal> {
    let mut values = map.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Refusal::bad_request(format!("the header {name} is given twice")));
    }
    let text = std::str::from_utf8(value.as_bytes());
    text.map(Some).map_err(|_| Refusal::bad_request(format!("the header {name} is not UTF-8")))
}

/// The request's content type.
///
/// # Errors
/// As [`text`].
pub fn content_type(map: &HeaderMap) -> Result<Option<&str>, Refusal> {
    Ok(text(map, CONTENT_TYPE.as_str())?.filter(|value| !value.trim().is_empty()))
}

/// Whether the stream is to be closed.
///
/// # Errors
/// As [`text`].
pub fn closes(map: &HeaderMap) -> Result<bool, Refusal> {
    Ok(text(map, headers::CLOSED)?.is_some_and(|value| value.eq_ignore_ascii_case("true")))
}

/// The length the request declares, if it does.
#[must_use]
pub fn declared_length(map: &HeaderMap) -> Option<u64> {
    map.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The producer's numbers: all three or none.
///
/// # Errors
/// 400.
pub fn producer(map: &HeaderMap) -> Result<Option<Producer>, Refusal> {
    let id = text(map, headers::PRODUCER_ID)?;
    let (epoch, number) = (text(map, headers::PRODUCER_EPOCH)?, text(map, headers::PRODUCER_SEQ)?);
    let (id, epoch, number) = match (id, epoch, number) {
        (None, None, None) => return Ok(None),
        (Some(id), Some(epoch), Some(number)) => (id, epoch, number),
        _ => {
            return Err(Refusal::bad_request(
                "Producer-Id, Producer-Epoch and Producer-Seq come together or not at all",
            ));
        }
    };
    if id.is_empty() || id.len() > PRODUCER_ID_BYTES_MAX {
        return Err(Refusal::bad_request(format!("Producer-Id has 1 to {PRODUCER_ID_BYTES_MAX} bytes")));
    }
    let number_of = |name: &str, value: &str| {
        whole_number(value)
            .filter(|n| *n <= NUMBER_MAX)
            .ok_or_else(|| Refusal::bad_request(format!("{name} is a whole number from 0 to 2^53-1")))
    };
    let (epoch, number) = (number_of("Producer-Epoch", epoch)?, number_of("Producer-Seq", number)?);
    Ok(Some(Producer { id: id.to_owned(), epoch, number }))
}

/// Digits alone.
fn whole_number(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// The writer's opaque number.
///
/// # Errors
/// 400.
pub fn tag(map: &HeaderMap) -> Result<Option<String>, Refusal> {
    let Some(tag) = text(map, headers::SEQ)? else { return Ok(None) };
    if tag.is_empty() || tag.len() > TAG_BYTES_MAX {
        return Err(Refusal::bad_request(format!("Stream-Seq has 1 to {TAG_BYTES_MAX} bytes")));
    }
    Ok(Some(tag.to_owned()))
}

/// How safe an append is to be before it is answered.
///
/// # Errors
/// 400.
pub fn durability(map: &HeaderMap) -> Result<Durability, Refusal> {
    match text(map, headers::DURABILITY)? {
        None | Some("local") => Ok(Durability::Local),
        Some("cold") => Ok(Durability::Cold),
        Some(_) => Err(Refusal::bad_request("Everlog-Durability is local or cold")),
    }
}

/// The end that the stream must have.
///
/// # Errors
/// 400.
pub fn expected_end(map: &HeaderMap) -> Result<Option<Cursor>, Refusal> {
    let Some(value) = text(map, headers::EXPECT_OFFSET)? else { return Ok(None) };
    value.parse().map(Some).map_err(|e| Refusal::bad_request(format!("Everlog-Expect-Offset: {e}")))
}

/// Refuses what a creation may ask for one day and cannot have today, once it is well formed.
///
/// # Errors
/// 400 for what is malformed or contradicts itself, 501 for the rest.
pub fn unsupported(map: &HeaderMap) -> Result<(), Refusal> {
    let (ttl, expires) = (text(map, headers::TTL)?, text(map, headers::EXPIRES_AT)?);
    if ttl.is_some() && expires.is_some() {
        return Err(Refusal::bad_request("Stream-TTL and Stream-Expires-At exclude one another"));
    }
    if let Some(ttl) = ttl
        && (whole_number(ttl).is_none() || (ttl.len() > 1 && ttl.starts_with('0')))
    {
        return Err(Refusal::bad_request("Stream-TTL is a whole number of seconds without leading zeros"));
    }
    if let Some(expires) = expires
        && !is_timestamp(expires)
    {
        return Err(Refusal::bad_request("Stream-Expires-At is a time such as 2026-01-31T12:00:00Z"));
    }
    let missing = |what: &str| {
        let told = format!("{what} not there yet; create the stream without");
        Err(Refusal::new(hyper::StatusCode::NOT_IMPLEMENTED, told).header(headers::ERROR, "not-implemented"))
    };
    if ttl.is_some() || expires.is_some() {
        return missing("streams that expire are");
    }
    if [headers::FORKED_FROM, headers::FORK_OFFSET, headers::FORK_SUB_OFFSET].iter().any(|name| map.contains_key(*name))
    {
        return missing("forks are");
    }
    Ok(())
}

/// Whether the text has the form of an RFC 3339 time; whether the day exists is not looked at.
fn is_timestamp(text: &str) -> bool {
    let shape = |text: &[u8], shape: &[u8]| {
        text.len() == shape.len()
            && text
                .iter()
                .zip(shape)
                .all(|(b, s)| if *s == b'0' { b.is_ascii_digit() } else { b.eq_ignore_ascii_case(s) })
    };
    let bytes = text.as_bytes();
    let Some((time, mut rest)) = bytes.split_at_checked(19) else { return false };
    if rest.first() == Some(&b'.') {
        let digits = rest[1..].iter().take_while(|b| b.is_ascii_digit()).count();
        if digits == 0 {
            return false;
        }
        rest = &rest[1 + digits..];
    }
    shape(time, b"0000-00-00T00:00:00") && (shape(rest, b"Z") || shape(rest, b"+00:00") || shape(rest, b"-00:00"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::{HeaderName, HeaderValue};

    fn map(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).expect("a value"))
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn a_producer_gives_all_three_or_none() {
        let numbers = [(headers::PRODUCER_ID, "phone"), (headers::PRODUCER_EPOCH, "2"), (headers::PRODUCER_SEQ, "7")];
        let expected = Producer { id: "phone".into(), epoch: 2, number: 7 };
        assert_eq!(producer(&map(&numbers)).expect("well formed"), Some(expected));
        assert_eq!(producer(&map(&[])).expect("none"), None);
        for missing in 0..3 {
            let rest: Vec<_> = numbers.iter().enumerate().filter(|(n, _)| *n != missing).map(|(_, p)| *p).collect();
            assert!(producer(&map(&rest)).is_err());
        }
        for bad in ["", "-1", "1e3", "0x1", "1abc", " 1", "9007199254740992", "18446744073709551616"] {
            let numbers =
                [(headers::PRODUCER_ID, "phone"), (headers::PRODUCER_EPOCH, "2"), (headers::PRODUCER_SEQ, bad)];
            assert!(producer(&map(&numbers)).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_true_closes() {
        for (value, closes_it) in [("true", true), ("TRUE", true), ("false", false), ("1", false), ("", false)] {
            assert_eq!(closes(&map(&[(headers::CLOSED, value)])).expect("text"), closes_it, "{value}");
        }
    }

    #[test]
    fn what_is_not_there_yet_says_so_and_what_is_malformed_is_told_first() {
        let status =
            |pairs: &[(&'static str, &str)]| unsupported(&map(pairs)).map_err(|refusal| refusal.status().as_u16());
        assert_eq!(status(&[]), Ok(()));
        for (name, value, expected) in [
            (headers::TTL, "3600", 501),
            (headers::TTL, "0", 501),
            (headers::TTL, "03600", 400),
            (headers::TTL, "+1", 400),
            (headers::TTL, "3.5", 400),
            (headers::EXPIRES_AT, "2030-01-31T12:00:00Z", 501),
            (headers::EXPIRES_AT, "2030-01-31T12:00:00.123+02:00", 501),
            (headers::EXPIRES_AT, "tomorrow", 400),
            (headers::EXPIRES_AT, "2030-01-31T12:00:00", 400),
            (headers::FORKED_FROM, "/v1/stream/a", 501),
        ] {
            assert_eq!(status(&[(name, value)]), Err(expected), "{name}: {value}");
        }
        assert_eq!(status(&[(headers::TTL, "1"), (headers::EXPIRES_AT, "2030-01-31T12:00:00Z")]), Err(400));
    }
}
