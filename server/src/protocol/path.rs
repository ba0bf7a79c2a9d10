//! The path of a request, and the name of the log behind it.
//!
//! Invariant: two paths lead to one log only if they are the same text once each segment is decoded; a slash cannot be
//! smuggled into a segment.

use super::answer::Refusal;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

/// Where streams lie.
pub const STREAMS: &str = "/v1/stream/";
/// Where owners' feeds lie.
const FEEDS: &str = "/v1/feed/";
/// How first segments begin that the protocol keeps for itself, and that the server keeps for its own logs.
const RESERVED: [&str; 2] = ["__ds", crate::system::PREFIX];
/// What is encoded in a segment: all but the characters that RFC 3986 calls unreserved.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The log that the path names.
///
/// # Errors
/// 404 for a path that is no stream's or is reserved, 400 for a name that the engine does not take.
pub fn log_name(path: &str) -> Result<String, Refusal> {
    let Some(rest) = path.strip_prefix(STREAMS).filter(|rest| !rest.is_empty()) else {
        return Err(Refusal::not_found(format!("there is nothing at {path}; streams lie under {STREAMS}")));
    };
    decoded(rest)
}

/// The owner whose feed the path names; None if it is no feed's.
///
/// # Errors
/// As [`log_name`]; 404 for a name that is longer than an owner's.
pub fn feed_owner(path: &str) -> Result<Option<String>, Refusal> {
    let Some(rest) = path.strip_prefix(FEEDS).filter(|rest| !rest.is_empty()) else { return Ok(None) };
    let name = decoded(rest)?;
    if everlog::names::owner(&name) != name {
        return Err(Refusal::not_found("an owner is the first two segments of its streams' names"));
    }
    Ok(Some(name))
}

/// The name that the segments spell.
fn decoded(rest: &str) -> Result<String, Refusal> {
    let mut name = String::with_capacity(rest.len());
    for (n, segment) in rest.split('/').enumerate() {
        let decoded = percent_decode_str(segment)
            .decode_utf8()
            .map_err(|_| Refusal::bad_request("the path is not UTF-8 once it is decoded"))?;
        if decoded.contains('/') {
            return Err(Refusal::bad_request("a segment of the path holds an encoded slash"));
        }
        if n > 0 {
            name.push('/');
        }
        name.push_str(&decoded);
    }
    if is_reserved(&name) {
        let told = format!("names that begin with {} are kept for the protocol and the server", RESERVED.join(" or "));
        return Err(Refusal::not_found(told));
    }
    everlog::names::check(&name).map_err(|e| Refusal::from(&e))?;
    Ok(name)
}

/// Whether no device reaches the name, whatever it may do.
#[must_use]
pub fn is_reserved(name: &str) -> bool {
    RESERVED.iter().any(|reserved| name.starts_with(reserved))
}

/// The part of a path that tells whose stream it is, as it was sent; for the log.
#[must_use]
pub fn owner(path: &str) -> &str {
    path.strip_prefix(STREAMS).map_or("", everlog::names::owner)
}

/// The path of the log's stream.
#[must_use]
pub fn of_log(name: &str) -> String {
    let segments: Vec<String> =
        name.split('/').map(|segment| utf8_percent_encode(segment, SEGMENT).to_string()).collect();
    format!("{STREAMS}{}", segments.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::StatusCode;

    #[test]
    fn a_path_and_its_name_lead_to_one_another() {
        for name in ["a", "users/alice/contacts", "users/ü/…", "users/a b/c%2Fd", "x?y/#z"] {
            assert_eq!(log_name(&of_log(name)).expect("a stream's"), name);
        }
    }

    #[test]
    fn a_feed_is_an_owner_s() {
        for (path, owner) in [("/v1/feed/a", "a"), ("/v1/feed/users/%C3%BC", "users/ü")] {
            assert_eq!(feed_owner(path).expect("an owner's"), Some(owner.to_owned()));
        }
        for path in ["/v1/stream/a", "/v1/feed", "/v1/feed/"] {
            assert_eq!(feed_owner(path).expect("no feed's"), None);
        }
        for (path, status) in [
            ("/v1/feed/users/alice/contacts", StatusCode::NOT_FOUND),
            ("/v1/feed/__ds", StatusCode::NOT_FOUND),
            ("/v1/feed/__everlog/x", StatusCode::NOT_FOUND),
            ("/v1/feed/users//", StatusCode::BAD_REQUEST),
        ] {
            assert_eq!(feed_owner(path).expect_err(path).status(), status, "{path}");
        }
    }

    #[test]
    fn what_is_no_stream_is_refused() {
        for (path, status) in [
            ("/", StatusCode::NOT_FOUND),
            ("/v1/stream", StatusCode::NOT_FOUND),
            ("/v1/stream/", StatusCode::NOT_FOUND),
            ("/v1/stream/__ds/jwks.json", StatusCode::NOT_FOUND),
            ("/v1/stream/%5F_ds", StatusCode::NOT_FOUND),
            ("/v1/stream/__everlog/tokens", StatusCode::NOT_FOUND),
            ("/v1/stream/%5F%5Feverlog%2D/x", StatusCode::NOT_FOUND),
            ("/v1/stream/a%2Fb", StatusCode::BAD_REQUEST),
            ("/v1/stream/a//b", StatusCode::BAD_REQUEST),
            ("/v1/stream/a/", StatusCode::BAD_REQUEST),
            ("/v1/stream//a", StatusCode::BAD_REQUEST),
            ("/v1/stream/a/../b", StatusCode::BAD_REQUEST),
            ("/v1/stream/%2e%2e/b", StatusCode::BAD_REQUEST),
            ("/v1/stream/%00", StatusCode::BAD_REQUEST),
            ("/v1/stream/%ff", StatusCode::BAD_REQUEST),
        ] {
            assert_eq!(log_name(path).expect_err(path).status(), status, "{path}");
        }
    }
}
