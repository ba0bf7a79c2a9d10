//! How long a stream lives: for ever, until a moment, or for as long as it is used.
//!
//! A stream with a time to live is put off at each read and write. So that a read is not a write each time, the end on disk
//! lies an eighth further than what was asked for, and is moved only once less than that is left ([`Lifetime::renewed`]).
//! Invariant: a stream never ends before its time, and at most an eighth of its time to live after it.

use super::answer::Refusal;
use super::headers;
use super::request::{text, whole_number};
use hyper::header::HeaderMap;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// When a stream ends.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lifetime {
    /// Once it was neither read nor written for so many seconds.
    Ttl(u64),
    /// At this moment, in RFC 3339, as the creator wrote it.
    ExpiresAt(String),
}

impl Lifetime {
    /// What a creation asks for.
    ///
    /// # Errors
    /// 400.
    pub fn read(map: &HeaderMap) -> Result<Option<Self>, Refusal> {
        match (text(map, headers::TTL)?, text(map, headers::EXPIRES_AT)?) {
            (None, None) => Ok(None),
            (Some(_), Some(_)) => Err(Refusal::bad_request("Stream-TTL and Stream-Expires-At exclude one another")),
            (Some(ttl), None) => match whole_number(ttl) {
                Some(seconds) => Ok(Some(Self::Ttl(seconds))),
                None => Err(Refusal::bad_request("Stream-TTL is a whole number of seconds without leading zeros")),
            },
            (None, Some(moment)) if moment.parse::<Timestamp>().is_ok() => Ok(Some(Self::ExpiresAt(moment.to_owned()))),
            (None, Some(_)) => Err(Refusal::bad_request("Stream-Expires-At is a time such as 2026-01-31T12:00:00Z")),
        }
    }

    /// Whether both mean the same.
    #[must_use]
    pub fn is_as(&self, other: &Self) -> bool {
        let moment = |text: &str| text.parse::<Timestamp>().ok();
        match (self, other) {
            (Self::ExpiresAt(a), Self::ExpiresAt(b)) => moment(a) == moment(b),
            (a, b) => a == b,
        }
    }

    /// In how long a stream ends that begins at `now`, by the engine's clock.
    #[must_use]
    pub fn first(&self, now: Timestamp) -> Duration {
        match self {
            Self::Ttl(seconds) => put_off(Duration::from_secs(*seconds)),
            Self::ExpiresAt(moment) => {
                let moment = moment.parse::<Timestamp>().unwrap_or(Timestamp::MAX);
                Duration::try_from(moment.duration_since(now)).unwrap_or_default()
            }
        }
    }

    /// In how long it is to end instead, where it is used with `left` to go and that is too little.
    #[must_use]
    pub fn renewed(&self, left: Duration) -> Option<Duration> {
        let Self::Ttl(seconds) = self else { return None };
        let ttl = Duration::from_secs(*seconds);
        (left < ttl).then(|| put_off(ttl))
    }
}

/// The end on disk of a stream that is to live for `ttl`.
fn put_off(ttl: Duration) -> Duration {
    ttl.saturating_add(ttl / 8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::{HeaderName, HeaderValue};

    fn read(pairs: &[(&'static str, &str)]) -> Result<Option<Lifetime>, u16> {
        let pair = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), HeaderValue::from_str(value).expect("a value"))
        };
        Lifetime::read(&pairs.iter().map(pair).collect()).map_err(|refusal| refusal.status().as_u16())
    }

    #[test]
    fn what_is_malformed_is_refused() {
        assert_eq!(read(&[]), Ok(None));
        assert_eq!(read(&[(headers::TTL, "0")]), Ok(Some(Lifetime::Ttl(0))));
        assert_eq!(read(&[(headers::TTL, "3600")]), Ok(Some(Lifetime::Ttl(3600))));
        for ttl in ["", "03600", "+1", "-1", "3.5", "3.6e3", "1h", "18446744073709551616"] {
            assert_eq!(read(&[(headers::TTL, ttl)]), Err(400), "{ttl}");
        }
        for moment in ["2030-01-31T12:00:00Z", "2030-01-31T12:00:00.123+02:00", "1999-01-31T12:00:00Z"] {
            assert_eq!(read(&[(headers::EXPIRES_AT, moment)]), Ok(Some(Lifetime::ExpiresAt(moment.into()))));
        }
        for moment in ["", "tomorrow", "2030-01-31", "2030-01-31T12:00:00", "2030-02-31T12:00:00Z", "1700000000"] {
            assert_eq!(read(&[(headers::EXPIRES_AT, moment)]), Err(400), "{moment}");
        }
        assert_eq!(read(&[(headers::TTL, "1"), (headers::EXPIRES_AT, "2030-01-31T12:00:00Z")]), Err(400));
    }

    #[test]
    fn a_moment_is_the_same_however_it_is_written() {
        let at = |text: &str| Lifetime::ExpiresAt(text.to_owned());
        assert!(at("2030-01-31T12:00:00Z").is_as(&at("2030-01-31T14:00:00.000+02:00")));
        assert!(!at("2030-01-31T12:00:00Z").is_as(&at("2030-01-31T12:00:01Z")));
        assert!(!Lifetime::Ttl(5).is_as(&Lifetime::Ttl(6)));
        assert!(!Lifetime::Ttl(5).is_as(&at("2030-01-31T12:00:00Z")));
    }

    #[test]
    fn a_stream_ends_at_most_an_eighth_late_and_never_early() {
        let now = Timestamp::UNIX_EPOCH;
        let seconds = Duration::from_secs;
        let ttl = Lifetime::Ttl(80);
        assert_eq!(ttl.first(now), seconds(90));
        // It is used ten seconds later: what is left is just enough.
        assert_eq!(ttl.renewed(seconds(80)), None);
        assert_eq!(ttl.renewed(seconds(79)), Some(seconds(90)));
        assert_eq!(
            Lifetime::Ttl(u64::MAX).first(now),
            Duration::from_secs(u64::MAX).saturating_add(seconds(u64::MAX / 8))
        );
        let moment = Lifetime::ExpiresAt("1970-01-01T00:01:00Z".into());
        assert_eq!((moment.first(now), moment.renewed(seconds(1))), (seconds(60), None));
        assert_eq!(Lifetime::ExpiresAt("1969-01-01T00:01:00Z".into()).first(now), Duration::ZERO);
    }
}
