//! Who a request comes from, which streams it may reach, and for how long.
//!
//! [`Gate`] tells a request's caller; [`tokens`] and [`jwt`] are its two ways, [`bearer`] what both read, [`audit`] what is
//! written down of it.
//!
//! Invariant: a caller reaches the names under its scope alone, compared segment by segment; each handler that meets a
//! further name than the one in the path, as a fork's source, asks again for that one. A token stands in no answer but the
//! one that issues it, in no log line and in no error.

pub mod audit;
pub mod bearer;
mod gate;
pub mod jwt;
pub mod tokens;

pub use gate::Gate;

use crate::protocol::answer::Refusal;
use crate::protocol::body::Ending;
use crate::protocol::headers;
use hyper::StatusCode;
use std::sync::Arc;
use tokio::time::{Instant, sleep_until};

/// What a caller may reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Every stream.
    All,
    /// The stream of this name, and those below it.
    Under(String),
}

impl Scope {
    /// What a token or a claim says of it: a name, as an owner's, that is not one of the server's own.
    ///
    /// # Errors
    /// 400.
    pub fn parse(text: &str) -> Result<Self, Refusal> {
        everlog::names::check(text).map_err(|_| {
            Refusal::bad_request(
                "the scope is no name of an owner or of streams, such as users/alice, without a slash at its end",
            )
        })?;
        if crate::protocol::path::is_reserved(text) {
            return Err(Refusal::bad_request("the scope lies among the names that are kept for the server"));
        }
        Ok(Self::Under(text.to_owned()))
    }

    /// Whether the stream `name`, and all below it, lie in it.
    #[must_use]
    pub fn holds(&self, name: &str) -> bool {
        match self {
            Self::All => true,
            Self::Under(prefix) => {
                name.strip_prefix(prefix.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
        }
    }
}

/// How long a caller is let in, where that ends before its request does.
#[derive(Clone, Debug)]
enum Pass {
    /// For good.
    Endless,
    /// Until its token is revoked.
    Token(Arc<tokens::Tokens>, tokens::TokenId),
    /// Until then.
    Until(Instant),
}

/// Who sends a request.
#[derive(Clone, Debug)]
pub struct Caller {
    /// Who it is, for logs and audits.
    pub actor: String,
    /// The device that producers' ids belong to; None where everybody is trusted.
    pub device: Option<String>,
    /// What it may reach.
    pub scope: Scope,
    pass: Pass,
}

impl Caller {
    /// Whoever connects, where nobody has to say who it is.
    #[must_use]
    pub fn anybody() -> Self {
        Self { actor: "anybody".to_owned(), device: None, scope: Scope::All, pass: Pass::Endless }
    }

    /// What its requests are counted under: no two devices' are the same.
    #[must_use]
    pub fn counted_as(&self) -> &str {
        match &self.pass {
            // By the token's id, since devices of several owners may have one name.
            Pass::Token(..) => &self.actor,
            _ => self.device.as_deref().unwrap_or(&self.actor),
        }
    }

    /// Whether the caller may reach the stream `name`, or all streams below that name.
    ///
    /// # Errors
    /// 403, whether there is such a stream or not.
    pub fn check(&self, name: &str) -> Result<(), Refusal> {
        if self.scope.holds(name) {
            return Ok(());
        }
        let told = "the token does not reach this stream";
        Err(Refusal::new(StatusCode::FORBIDDEN, told).header(headers::ERROR, "scope"))
    }

    /// [`Self::ended`] by itself, for a caller for whom that may come.
    #[must_use]
    pub fn ending(&self) -> Option<Ending> {
        if matches!(self.pass, Pass::Endless) {
            return None;
        }
        let caller = self.clone();
        Some(Box::pin(async move { caller.ended().await }))
    }

    /// Comes back once the caller would not be let in any more: who waits for more is sent away then.
    pub async fn ended(&self) {
        match &self.pass {
            Pass::Endless => std::future::pending().await,
            Pass::Token(tokens, id) => tokens.revoked(*id).await,
            Pass::Until(end) => sleep_until(*end).await,
        }
    }

    /// Does `work` for as long as the caller is let in.
    ///
    /// # Errors
    /// Its own; 401 once the caller would not be let in any more.
    pub async fn while_admitted<T>(
        &self, work: impl Future<Output = Result<T, Refusal>> + Unpin,
    ) -> Result<T, Refusal> {
        tokio::select! {
            biased;
            () = self.ended() => Err(bearer::invalid()),
            done = work => done,
        }
    }

    /// The id under which the engine knows the caller's producer `id` in the stream `name`: bound to the device, so that none
    /// goes on with or fences another one's; for the upload of a photo's bytes to the owner, any of whose devices may go on
    /// with it. As it is where everybody is trusted.
    #[must_use]
    pub fn producer_id(&self, name: &str, id: &[u8]) -> Vec<u8> {
        let Some(device) = &self.device else { return id.to_owned() };
        let segments: Vec<&str> = name.split('/').collect();
        let is_upload = matches!(segments[..], [_, _, "photos", photo] if photo.as_bytes() == id);
        let whose = if is_upload { everlog::names::owner(name) } else { device };
        let mut hasher = blake3::Hasher::new();
        hasher.update(whose.as_bytes()).update(&[0]).update(id);
        hasher.finalize().as_bytes().to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_ends_with_its_segment() {
        let caller = Caller { scope: Scope::Under("users/alice".into()), ..Caller::anybody() };
        for name in ["users/alice", "users/alice/contacts", "users/alice/photos/0"] {
            caller.check(name).expect(name);
        }
        for name in ["users/alice2", "users/alicE/contacts", "users", "users/bob/contacts", "alice"] {
            assert_eq!(caller.check(name).expect_err(name).status(), StatusCode::FORBIDDEN, "{name}");
        }
        Caller::anybody().check("users/bob").expect("nobody is kept from anything");
    }

    #[test]
    fn a_scope_is_a_name_that_devices_may_have() {
        assert!(Scope::parse("users/alice").is_ok());
        for bad in ["", "/", "users/", "users//a", "..", "__everlog", "__everlog/tokens", "__ds/x", "*\n"] {
            assert_eq!(Scope::parse(bad).expect_err(bad).status(), StatusCode::BAD_REQUEST, "{bad:?}");
        }
    }

    #[test]
    fn no_two_devices_are_counted_as_one() {
        let signed = |sub: &str, device: &str| Caller {
            actor: format!("{sub} ({device})"),
            device: Some(format!("{sub}\0{device}")),
            ..Caller::anybody()
        };
        let (one, other) = (signed("ann (a)", "b"), signed("ann", "a) (b"));
        assert_eq!(one.actor, other.actor, "what logs call them is no key");
        assert_ne!(one.counted_as(), other.counted_as());
        assert_eq!(Caller::anybody().counted_as(), "anybody");
    }

    #[test]
    fn a_producer_is_its_devices_and_an_upload_its_owners() {
        let of = |device: &str| Caller { device: Some(device.to_owned()), ..Caller::anybody() };
        let (phone, laptop) = (of("phone"), of("laptop"));
        let id = |caller: &Caller, name: &str| caller.producer_id(name, b"p");
        assert_eq!(id(&Caller::anybody(), "users/alice/notes"), b"p");
        assert_eq!(id(&phone, "users/alice/notes"), id(&phone, "users/alice/notes"));
        assert_ne!(id(&phone, "users/alice/notes"), id(&laptop, "users/alice/notes"));
        assert_eq!(id(&phone, "users/alice/photos/p"), id(&laptop, "users/alice/photos/p"));
        assert_ne!(id(&phone, "users/alice/photos/p"), id(&phone, "users/bob/photos/p"), "another owner's");
        for name in ["users/alice/photos", "users/alice/photos/q", "users/alice/photos/p/x", "x/users/alice/photos/p"] {
            assert_ne!(id(&phone, name), id(&laptop, name), "{name} is no upload of p");
        }
        assert_ne!(of("a").producer_id("x", b"bc"), of("ab").producer_id("x", b"c"), "where one ends is told");
    }
}
