//! `--auth jwt`: tokens that another program signs, and whose keys this one knows.
//!
//! A token says who it is (`sub`), which device (`device`), what it reaches (`scope`, one name) and until when (`exp`).
//! Invariants: the algorithm is the one that was set, and never the token's choice; keys are replaced only by others that
//! were understood; a request waits for keys at most `source::PATIENCE`, and they are fetched for an unknown name at most
//! once in `FETCH_EVERY`.

mod keys;
mod signatures;
mod source;
#[cfg(test)]
mod tests;

pub use source::Source;

use super::{Caller, Pass, Scope};
use crate::failure::Failure;
use clap::ValueEnum;
use jsonwebtoken::{Algorithm, Validation, decode, decode_header};
use keys::Keys;
use serde::{Deserialize, Serialize};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// How often an unknown key has the keys fetched.
const FETCH_EVERY: Duration = Duration::from_secs(60);
/// By how much clocks may differ, in seconds.
const LEEWAY_S: u64 = 30;
/// An end further away than this is none that a request would meet.
const PASS_MAX_S: f64 = 1e6;

/// The longest name of a person or a device, in bytes: each that was seen lately is kept in memory.
const NAME_BYTES_MAX: usize = 128;

/// The algorithm of all signatures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub enum JwtAlgorithm {
    /// Ed25519.
    EdDSA,
    /// ECDSA with P-256 and SHA-256.
    ES256,
    /// RSA, PKCS #1 1.5, with SHA-256 and keys of 2048 bits or more.
    RS256,
}

impl From<JwtAlgorithm> for Algorithm {
    fn from(algorithm: JwtAlgorithm) -> Self {
        match algorithm {
            JwtAlgorithm::EdDSA => Self::EdDSA,
            JwtAlgorithm::ES256 => Self::ES256,
            JwtAlgorithm::RS256 => Self::RS256,
        }
    }
}

/// What a token says.
#[derive(Deserialize)]
struct Claims {
    sub: String,
    device: String,
    scope: String,
    exp: f64,
}

/// Checks signed tokens.
pub struct Jwt {
    source: Source,
    validation: Validation,
    keys: RwLock<Arc<Keys>>,
    /// When an unknown key had them fetched last.
    fetched: Mutex<Option<Instant>>,
}

impl std::fmt::Debug for Jwt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Jwt").field("source", &self.source).finish_non_exhaustive()
    }
}

impl Jwt {
    /// With the keys that are there now.
    ///
    /// # Errors
    /// They cannot be had: exit code 2 for a file, 1 for an address.
    pub async fn open(
        source: Source, algorithm: JwtAlgorithm, issuer: Option<&str>, audience: Option<&str>,
    ) -> Result<Self, Failure> {
        signatures::install();
        let algorithm = algorithm.into();
        let mut validation = Validation::new(algorithm);
        validation.leeway = LEEWAY_S;
        validation.validate_nbf = true;
        // A claim that is to have a value has to be there.
        let mut required = vec!["exp", "sub"];
        validation.validate_aud = audience.is_some();
        if let Some(audience) = audience {
            validation.set_audience(&[audience]);
            required.push("aud");
        }
        if let Some(issuer) = issuer {
            validation.set_issuer(&[issuer]);
            required.push("iss");
        }
        validation.set_required_spec_claims(&required);
        let text = source.fetch().await.map_err(|why| source.missing(&why))?;
        let keys = Keys::parse(&text, algorithm).map_err(|why| source.missing(&why))?;
        Ok(Self { source, validation, keys: RwLock::new(Arc::new(keys)), fetched: Mutex::new(None) })
    }

    /// Whom a token stands for, if it is good.
    pub async fn caller(self: &Arc<Self>, token: &str) -> Option<Caller> {
        let header = decode_header(token).ok().filter(|header| self.validation.algorithms.contains(&header.alg))?;
        let name = header.kid.as_deref();
        if self.keys().find(name).is_none() {
            self.meet_unknown(name?).await;
        }
        let keys = self.keys();
        let claims = decode::<Claims>(token, keys.find(name)?, &self.validation).ok()?.claims;
        let now = jsonwebtoken::get_current_timestamp() as f64;
        let left = (claims.exp + LEEWAY_S as f64 - now).clamp(0.0, PASS_MAX_S);
        let Claims { sub, device, scope, .. } = claims;
        let is_name = |name: &str| (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.contains(char::is_control);
        let scope = Scope::parse(&scope).ok().filter(|_| is_name(&sub) && is_name(&device))?;
        Some(Caller {
            actor: format!("{sub} ({device})"),
            // Of two persons who share streams, each may have a device of the same name.
            device: Some(format!("{sub}\0{device}")),
            scope,
            pass: Pass::Until(Instant::now() + Duration::from_secs_f64(left)),
        })
    }

    /// Reads the keys anew. Those that are there stay until others were understood.
    pub async fn refresh(&self) {
        let algorithm = self.validation.algorithms[0];
        let fetched = self.source.fetch().await.and_then(|text| Keys::parse(&text, algorithm));
        match fetched {
            Ok(keys) => {
                *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
                tracing::info!(source = ?self.source, "read the keys of tokens");
            }
            Err(why) => tracing::warn!(source = ?self.source, why, "the keys of tokens stay as they were"),
        }
    }

    /// Has the keys fetched for one that is unknown, unless that was done lately or a file has them, which SIGHUP has read
    /// again.
    async fn meet_unknown(self: &Arc<Self>, name: &str) {
        if matches!(self.source, Source::File(_)) {
            return;
        }
        // Whoever comes meanwhile waits for the same answer.
        let mut fetched = self.fetched.lock().await;
        let is_due = fetched.is_none_or(|last| last.elapsed() >= FETCH_EVERY);
        if is_due && self.keys().find(Some(name)).is_none() {
            *fetched = Some(Instant::now());
            let jwt = Arc::clone(self);
            // A client that goes meanwhile does not break it off: otherwise one could keep the keys from being renewed.
            let _ = tokio::spawn(async move { jwt.refresh().await }).await;
        }
    }

    fn keys(&self) -> Arc<Keys> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }
}
