//! The gate: whom a request comes from, by the way that `--auth` chose; and what it adds to answers.
//!
//! Invariant: where callers are told apart, no answer may be kept by a cache that others share.

use super::{Caller, bearer};
use crate::auth::jwt::Jwt;
use crate::auth::tokens::Tokens;
use crate::protocol::answer::{Answer, Refusal, put};
use hyper::header::{CACHE_CONTROL, HeaderMap, VARY};
use std::sync::Arc;

/// Who is let in.
#[derive(Clone, Debug)]
pub enum Gate {
    /// Everybody.
    Off,
    /// Devices with a token of this server.
    Tokens(Arc<Tokens>),
    /// Devices with a signed token of an issuer that is trusted.
    Jwt(Arc<Jwt>),
}

impl Gate {
    /// The caller that the headers name.
    ///
    /// # Errors
    /// 401.
    pub async fn caller(&self, headers: &HeaderMap) -> Result<Caller, Refusal> {
        match self {
            Self::Off => Ok(Caller::anybody()),
            Self::Tokens(tokens) => tokens.caller(bearer::token(headers)?).ok_or_else(bearer::invalid),
            Self::Jwt(jwt) => jwt.caller(bearer::token(headers)?).await.ok_or_else(bearer::invalid),
        }
    }

    /// The tokens, if those are what devices have.
    #[must_use]
    pub fn tokens(&self) -> Option<&Arc<Tokens>> {
        match self {
            Self::Tokens(tokens) => Some(tokens),
            Self::Off | Self::Jwt(_) => None,
        }
    }

    /// Whether callers are told apart, so that what they do is written down.
    #[must_use]
    pub fn tells_apart(&self) -> bool {
        !matches!(self, Self::Off)
    }

    /// Keeps the answer out of caches that others share.
    pub fn close(&self, answer: &mut Answer) {
        if !self.tells_apart() {
            return;
        }
        let kept = answer.headers().get(CACHE_CONTROL).and_then(|value| value.to_str().ok()).unwrap_or("no-store");
        let is_closed = kept.split(',').any(|word| matches!(word.trim(), "private" | "no-store"));
        let kept = if is_closed { kept.to_owned() } else { format!("private, {kept}") };
        put(answer, CACHE_CONTROL, kept);
        // Beside what the answer varies with already, as its coding.
        let varies = answer.headers().get(VARY).and_then(|value| value.to_str().ok());
        let varies = varies.map_or_else(String::new, |names| format!("{names}, "));
        put(answer, VARY, varies + "authorization");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::answer::empty;
    use hyper::StatusCode;

    #[test]
    fn no_answer_is_kept_for_others() {
        let gate = Gate::Tokens(Arc::new(Tokens::default()));
        for (before, after) in [
            (None, "no-store"),
            (Some("no-cache"), "private, no-cache"),
            (Some("private, no-cache"), "private, no-cache"),
            (Some("no-store"), "no-store"),
            (Some("max-age=60"), "private, max-age=60"),
        ] {
            let mut answer = empty(StatusCode::OK);
            if let Some(before) = before {
                put(&mut answer, CACHE_CONTROL, before);
            }
            gate.close(&mut answer);
            assert_eq!(answer.headers()[CACHE_CONTROL], after);
            assert_eq!(answer.headers()[VARY], "authorization");
        }
        let mut answer = empty(StatusCode::OK);
        put(&mut answer, VARY, "accept-encoding");
        gate.close(&mut answer);
        assert_eq!(answer.headers()[VARY], "accept-encoding, authorization");
        let mut answer = empty(StatusCode::OK);
        Gate::Off.close(&mut answer);
        assert!(answer.headers().is_empty());
    }
}
