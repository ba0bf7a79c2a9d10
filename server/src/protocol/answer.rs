//! Answers: how each is made, and which one each of the engine's errors becomes.
//!
//! Invariant: an error of the engine becomes exactly one status, chosen here and nowhere else; damage is 500 and never
//! looks like an empty or a missing stream.

use super::body::{Body, whole};
use super::headers;
use bytes::Bytes;
use everlog::types::Cursor;
use everlog::{Error, ErrorKind};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use std::time::Duration;

/// When a client of a store that stopped acknowledging should come back, in seconds: not before somebody, or whatever
/// starts services again, can have opened it anew.
const POISONED_RETRY_S: u64 = 10;

/// How many headers most answers have at most.
const HEADERS: usize = 12;

/// An answer.
pub type Answer = Response<Body>;

/// An answer without content.
#[must_use]
pub fn empty(status: StatusCode) -> Answer {
    with(status, whole(Bytes::new()))
}

/// An answer with `body`.
#[must_use]
pub fn with(status: StatusCode, body: Body) -> Answer {
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    // Room for what most answers have, at once.
    answer.headers_mut().reserve(HEADERS);
    answer
}

/// Puts a header whose value this program made.
pub fn set(answer: &mut Answer, name: &'static str, value: impl AsRef<str>) {
    put(answer, HeaderName::from_static(name), value);
}

/// As [`set`], for one of HTTP's own.
pub fn put(answer: &mut Answer, name: HeaderName, value: impl AsRef<str>) {
    // A content type came in as a header and offsets are digits; anything else would be a mistake that no client should
    // pay for with its connection.
    if let Ok(value) = HeaderValue::from_str(value.as_ref()) {
        answer.headers_mut().insert(name, value);
    }
}

/// A request that is not carried out, as the client is told.
#[derive(Debug)]
pub struct Refusal {
    status: StatusCode,
    told: String,
    extra: Vec<(&'static str, String)>,
    retry_after_s: Option<u64>,
}

impl Refusal {
    /// With any status.
    pub fn new(status: StatusCode, told: impl Into<String>) -> Self {
        Self { status, told: told.into(), extra: Vec::new(), retry_after_s: None }
    }

    /// The request is malformed.
    pub fn bad_request(told: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, told)
    }

    /// There is nothing there.
    pub fn not_found(told: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, told)
    }

    /// The server has as much to do as it takes.
    pub fn overloaded(told: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, told)
            .header(headers::ERROR, "overloaded")
            .retry_after(Duration::from_secs(1))
    }

    /// The server was to carry it out and ended amid that, so that nobody knows.
    pub fn unknown() -> Self {
        let what = "the server broke off amid the request, and whether it was carried out is not known";
        Self::from(&Error::new(ErrorKind::Unknown, what).remedy("send it again; an append with its number"))
    }

    /// It contradicts what is there.
    pub fn conflict(told: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, told)
    }

    /// With one more header.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.extra.push((name, value.into()));
        self
    }

    /// Told in other words.
    #[must_use]
    pub fn told(self, told: impl Into<String>) -> Self {
        Self { told: told.into(), ..self }
    }

    /// With the time after which it is worth to come back.
    #[must_use]
    pub fn retry_after(self, wait: Duration) -> Self {
        Self { retry_after_s: Some(wait.as_secs().max(1)), ..self }
    }

    /// As of a stream that is closed and ends there.
    #[must_use]
    pub fn closed_at(self, end: Cursor) -> Self {
        self.header(headers::CLOSED, "true").header(headers::NEXT_OFFSET, end.to_string())
    }

    /// The status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The answer.
    #[must_use]
    pub fn answer(self) -> Answer {
        let mut answer = with(self.status, whole(self.told + "\n"));
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        for (name, value) in self.extra {
            set(&mut answer, name, value);
        }
        if let Some(seconds) = self.retry_after_s {
            put(&mut answer, RETRY_AFTER, seconds.to_string());
        }
        answer
    }
}

impl From<&Error> for Refusal {
    fn from(error: &Error) -> Self {
        let (status, cause) = match error.kind() {
            ErrorKind::Invalid if error.limit().is_some() => (StatusCode::PAYLOAD_TOO_LARGE, None),
            ErrorKind::Invalid => (StatusCode::BAD_REQUEST, None),
            ErrorKind::NotFound | ErrorKind::Deleted => (StatusCode::NOT_FOUND, None),
            ErrorKind::Trimmed => (StatusCode::GONE, Some("trimmed")),
            ErrorKind::Rewound => (StatusCode::GONE, Some("timeline")),
            ErrorKind::Exists
            | ErrorKind::Replaced
            | ErrorKind::Closed
            | ErrorKind::Condition
            | ErrorKind::ProducerGap => (StatusCode::CONFLICT, None),
            ErrorKind::ProducerConflict => (StatusCode::CONFLICT, Some("producer-conflict")),
            ErrorKind::ProducerFenced => (StatusCode::FORBIDDEN, None),
            ErrorKind::Overloaded => (StatusCode::TOO_MANY_REQUESTS, Some("overloaded")),
            ErrorKind::Cold => (StatusCode::SERVICE_UNAVAILABLE, Some("cold")),
            ErrorKind::Unknown => (StatusCode::SERVICE_UNAVAILABLE, Some("unknown")),
            ErrorKind::Poisoned => (StatusCode::SERVICE_UNAVAILABLE, Some("poisoned")),
            ErrorKind::Fenced => (StatusCode::SERVICE_UNAVAILABLE, Some("fenced")),
            ErrorKind::ShutDown => (StatusCode::SERVICE_UNAVAILABLE, Some("shutting-down")),
            ErrorKind::Damaged => (StatusCode::INTERNAL_SERVER_ERROR, Some("damaged")),
            _ => (StatusCode::INTERNAL_SERVER_ERROR, Some("failed")),
        };
        let mut refusal = Self::new(status, error.to_string());
        if let Some(cause) = cause {
            refusal = refusal.header(headers::ERROR, cause);
        }
        if let Some(cut) = error.cut() {
            refusal = refusal.header(headers::CUT, cut.to_string());
        }
        if error.is_taken_back() {
            refusal = refusal.header(headers::TIMELINE_CAUSE, "rewind");
        } else if error.kind() == ErrorKind::Rewound {
            refusal = refusal.header(headers::TIMELINE_CAUSE, "heal");
        }
        if matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE) {
            let wait = match (error.retry_after(), error.kind()) {
                (Some(wait), _) => wait.as_secs().max(1),
                (None, ErrorKind::Poisoned) => POISONED_RETRY_S,
                (None, _) => 1,
            };
            refusal.retry_after_s = Some(wait);
        }
        refusal
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Self::from(&error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_looks_like_nothing_else() {
        let answer =
            Refusal::from(Error::new(ErrorKind::Damaged, "a record is damaged").log("log").seqs(3..5)).answer();
        assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(answer.headers()[headers::ERROR], "damaged");
        assert!(!answer.headers().contains_key(headers::UP_TO_DATE));
    }

    #[test]
    fn a_rewound_cursor_gets_the_cut() {
        let cut = Cursor { seq: 7, ..Cursor::default() };
        let answer = Refusal::from(Error::new(ErrorKind::Rewound, "another history").cut_at(cut)).answer();
        assert_eq!(answer.status(), StatusCode::GONE);
        assert_eq!(answer.headers()[headers::ERROR], "timeline");
        assert_eq!(answer.headers()[headers::CUT], "0000000000000000_0000000000000007");
        assert_eq!(answer.headers()[headers::TIMELINE_CAUSE], "heal");
    }

    #[test]
    fn who_is_to_set_something_aside_is_told_so_also_of_a_stream_that_is_not_there() {
        let cause = |kind, is_taken_back| {
            let error = Error::new(kind, "another history");
            let answer = Refusal::from(if is_taken_back { error.taken_back() } else { error }).answer();
            answer.headers().get(headers::TIMELINE_CAUSE).map(|value| value.to_str().expect("text").to_owned())
        };
        assert_eq!(cause(ErrorKind::Rewound, true).as_deref(), Some("rewind"));
        assert_eq!(cause(ErrorKind::NotFound, true).as_deref(), Some("rewind"));
        assert_eq!(cause(ErrorKind::NotFound, false), None);
    }

    #[test]
    fn who_should_come_back_is_told_when() {
        for (kind, seconds) in [
            (ErrorKind::Overloaded, "1"),
            (ErrorKind::Poisoned, "10"),
            (ErrorKind::Unknown, "1"),
            (ErrorKind::ShutDown, "1"),
        ] {
            assert_eq!(Refusal::from(Error::new(kind, "not now")).answer().headers()[RETRY_AFTER], seconds);
        }
    }
}
