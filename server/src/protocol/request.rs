//! What the headers of a creation or an append ask for.
//!
//! Invariant: a header that is there and malformed is refused, never taken for absent; but for `Stream-Closed`, which
//! the protocol wants ignored unless it says `true`.

use super::answer::Refusal;
use super::headers;
use everlog::limits::{PRODUCER_ID_BYTES_MAX, TAG_BYTES_MAX};
use everlog::types::Cursor;
use hyper::StatusCode;
use hyper::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue};

/// The largest number that a JavaScript client can count to.
const NUMBER_MAX: u64 = (1 << 53) - 1;
/// The longest name of a request that is taken over.
const ID_BYTES_MAX: usize = 64;

/// A producer's numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Producer {
    /// Who sends, as the engine knows it.
    pub id: Vec<u8>,
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

/// Refuses a body in a coding: what is stored is what was sent, and nothing is unpacked whose size nobody knows.
///
/// # Errors
/// 415.
pub fn coding(map: &HeaderMap) -> Result<(), Refusal> {
    let is_plain = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity");
    if map.get_all(CONTENT_ENCODING).iter().all(is_plain) {
        return Ok(());
    }
    let told = "the body is in a content coding; send it without Content-Encoding";
    Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, told))
}

/// What the client calls the request, if that is a name that can stand in logs and headers as it is.
#[must_use]
pub fn id(map: &HeaderMap) -> Option<&str> {
    let id = text(map, headers::REQUEST_ID).ok()??;
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    ((1..=ID_BYTES_MAX).contains(&id.len()) && id.bytes().all(is_plain)).then_some(id)
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
        digits(value)
            .filter(|n| *n <= NUMBER_MAX)
            .ok_or_else(|| Refusal::bad_request(format!("{name} is a whole number from 0 to 2^53-1")))
    };
    let (epoch, number) = (number_of("Producer-Epoch", epoch)?, number_of("Producer-Seq", number)?);
    Ok(Some(Producer { id: id.into(), epoch, number }))
}

/// Digits alone.
fn digits(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// A number in its canonical form: digits alone, without leading zeros.
#[must_use]
pub fn whole_number(text: &str) -> Option<u64> {
    digits(text).filter(|_| text == "0" || !text.starts_with('0'))
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

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderName;

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
    fn a_request_keeps_its_name_if_that_is_one() {
        let id = |value: &str| id(&map(&[(headers::REQUEST_ID, value)])).map(str::to_owned);
        for name in ["a", "7f3b-11ec.x_Y", &"x".repeat(64)] {
            assert_eq!(id(name).as_deref(), Some(name));
        }
        for strange in ["", "a b", "a\"", "a=b", "ü", "a\tb", &"x".repeat(65)] {
            assert_eq!(id(strange), None, "{strange}");
        }
    }

    #[test]
    fn a_coded_body_is_refused() {
        let status = |value: &str| coding(&map(&[("content-encoding", value)])).map_err(|refusal| refusal.status());
        assert_eq!(status("identity"), Ok(()));
        for coding in ["gzip", "zstd", "identity, gzip", ""] {
            assert_eq!(status(coding), Err(StatusCode::UNSUPPORTED_MEDIA_TYPE), "{coding}");
        }
    }

    #[test]
    fn only_true_closes() {
        for (value, closes_it) in [("true", true), ("TRUE", true), ("false", false), ("1", false), ("", false)] {
            assert_eq!(closes(&map(&[(headers::CLOSED, value)])).expect("text"), closes_it, "{value}");
        }
    }
}
