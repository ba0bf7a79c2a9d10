//! The token that a request bears, and the refusal of one that bears none that is good.
//!
//! Invariant: a token comes in exactly one `Authorization` header and nowhere else; a refusal says nothing of the token that
//! was sent, nor why it is not good.

use crate::protocol::answer::Refusal;
use crate::protocol::headers;
use hyper::StatusCode;
use hyper::header::{AUTHORIZATION, HeaderMap};

/// What asks a client for a token.
const CHALLENGE: &str = "www-authenticate";

/// The token.
///
/// # Errors
/// 401 where there is none, more than one, or something else.
pub fn token(map: &HeaderMap) -> Result<&str, Refusal> {
    let mut values = map.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return Err(missing()) };
    let (scheme, token) = value.to_str().ok().and_then(|value| value.split_once(' ')).ok_or_else(missing)?;
    let token = token.trim_matches(' ');
    let is_token = !token.is_empty() && token.bytes().all(|b| b.is_ascii_graphic());
    if scheme.eq_ignore_ascii_case("bearer") && is_token { Ok(token) } else { Err(missing()) }
}

fn refusal(told: &str, challenge: &str) -> Refusal {
    Refusal::new(StatusCode::UNAUTHORIZED, told).header(headers::ERROR, "unauthorized").header(CHALLENGE, challenge)
}

fn missing() -> Refusal {
    refusal("a request has one token, in a header such as: Authorization: Bearer TOKEN", "Bearer")
}

/// The token is not, or no longer, one of this server's.
#[must_use]
pub fn invalid() -> Refusal {
    refusal("the token is not valid here: it is unknown, was revoked, or has expired", "Bearer error=\"invalid_token\"")
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    fn map(values: &[&str]) -> HeaderMap {
        values.iter().map(|value| (AUTHORIZATION, HeaderValue::from_str(value).expect("a value"))).collect()
    }

    #[test]
    fn one_header_holds_one_token() {
        for good in ["Bearer evl_x", "bearer evl_x", "BEARER  evl_x", "Bearer evl_x "] {
            assert_eq!(token(&map(&[good])).expect(good), "evl_x");
        }
        let two = ["Bearer evl_x", "Bearer evl_x"];
        for bad in [&[][..], &two, &["evl_x"], &["Bearer"], &["Bearer "], &["Basic evl_x"], &["Bearer a b"]] {
            let answer = token(&map(bad)).map(str::to_owned).expect_err("no token").answer();
            assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{bad:?}");
            assert_eq!(answer.headers()[CHALLENGE], "Bearer", "{bad:?}");
            assert_eq!(answer.headers()[headers::ERROR], "unauthorized", "{bad:?}");
        }
        assert_eq!(invalid().answer().headers()[CHALLENGE], "Bearer error=\"invalid_token\"");
    }
}
