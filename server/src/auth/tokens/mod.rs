//! The tokens of `--auth tokens`: read from their log at the start, issued, given out for pairing codes, and revoked.
//!
//! Invariants: a token is given out only once its record is as safe as this server can make it, and a revocation holds in
//! memory before anything is written. What a crash leaves at each step:
//!
//! | step | after a crash there |
//! |---|---|
//! | a token is drawn and takes its place in memory | nothing was said; it never was |
//! | its record is appended | it may be in the log: a token that nobody has, which the list shows; it can be revoked |
//! | its record is durable, cold where that counts | the same |
//! | it opens, and is given out | it opens; whoever did not get the answer has it revoked, and asks anew |
//! | a revocation holds in memory | the token opens again, and nobody was told that it was revoked |
//! | the revocation is appended | it may hold or not, and nobody was told |
//! | the revocation is durable, cold where that counts, and told | it holds |
//!
//! An append that cannot become durable in time leaves an issue untold and a revocation in force: it is told that the latter
//! holds until the server stops, and it can be asked for again.

pub mod pairing;
pub mod record;
mod table;

pub use table::{State, TOKENS_MAX};

use super::audit::{self, Action};
use super::{Caller, Pass, Scope};
use crate::failure::Failure;
use crate::protocol::answer::Refusal;
use crate::protocol::headers;
use crate::streams::{Request, Streams};
use crate::system;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use blake3::Hash;
use hyper::StatusCode;
use pairing::{Denied, Pairings};
use record::{Change, Issued};
use serde::Serialize;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};
use table::{Full, Table};
use tokio::sync::watch;

/// What a token begins with, so that whoever finds one knows what it is.
const MARK: &str = "evl_";
/// Bytes of a device's name.
const DEVICE_BYTES_MAX: usize = 128;

/// Names a token without giving it away: the first 64 bits of its hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TokenId(u64);

impl TokenId {
    fn of(hash: &Hash) -> Self {
        Self(u64::from_be_bytes(*hash.as_bytes().first_chunk().expect("a hash has 32 bytes")))
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for TokenId {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let is_hex = text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        u64::from_str_radix(text, 16).ok().filter(|_| is_hex).map(Self).ok_or(())
    }
}

/// A token that was issued, as it is told once.
#[derive(Serialize)]
pub struct Given {
    /// The secret.
    pub token: String,
    /// Its name.
    pub id: String,
    /// The name that it reaches, and those below.
    pub scope: String,
    /// The device that it is for.
    pub device: String,
}

/// A token as operators see it.
#[derive(Clone, Debug, Serialize)]
pub struct Listed {
    /// Its name.
    pub id: String,
    /// The device that has it.
    pub device: String,
    /// The name that it reaches, and those below.
    pub scope: String,
    /// When it was issued.
    pub issued_us: u64,
    /// `live`; `revoking` while that is not durable.
    pub state: &'static str,
}

/// The tokens of a store.
#[derive(Debug)]
pub struct Tokens {
    table: RwLock<Table>,
    pairings: Mutex<Pairings>,
    /// Counts revocations, so that those who wait look again.
    revocations: watch::Sender<u64>,
}

impl Default for Tokens {
    fn default() -> Self {
        Self { table: RwLock::default(), pairings: Mutex::default(), revocations: watch::Sender::new(0) }
    }
}

impl Tokens {
    /// The tokens that the store's log tells of.
    ///
    /// # Errors
    /// What cannot be read; a record that is not understood, exit code 4.
    pub async fn open(streams: &Streams) -> Result<Self, Failure> {
        system::ensure(streams, system::TOKENS).await?;
        let mut table = Table::default();
        let take = |record: &everlog::Record| {
            let change = Change::decode(&record.payload).map_err(|why| {
                let cause = format!("record {} of {} is no change of a token: {why}", record.seq, system::TOKENS);
                Failure::new(4, cause, "use the version that wrote it, or a later one; it may be a revocation")
            })?;
            table.replay(change);
            Ok(())
        };
        system::read_all(streams, system::TOKENS, take).await?;
        tracing::info!(tokens = table.all().count(), "devices need a token");
        Ok(Self { table: RwLock::new(table), ..Self::default() })
    }

    /// Whom a token stands for, if it opens.
    #[must_use]
    pub fn caller(self: &Arc<Self>, token: &str) -> Option<Caller> {
        let hash = blake3::hash(token.as_bytes());
        let id = TokenId::of(&hash);
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        // Hashes are compared in constant time.
        let issued = table.live(id).filter(|issued| issued.hash == hash)?;
        Some(Caller {
            actor: format!("token {id} ({})", issued.device),
            device: Some(issued.device.clone()),
            scope: Scope::Under(issued.scope.clone()),
            pass: Pass::Token(Arc::clone(self), id),
        })
    }

    /// Comes back once the token opens nothing.
    pub async fn revoked(&self, id: TokenId) {
        let mut revocations = self.revocations.subscribe();
        while self.table.read().unwrap_or_else(PoisonError::into_inner).live(id).is_some() {
            // The other half lives as long as this one.
            let _ = revocations.changed().await;
        }
    }

    /// Issues a token; comes back once its record is as safe as this server can make it.
    ///
    /// # Errors
    /// 400, 409, and those of an append. No token was given out then.
    pub async fn issue(&self, streams: &Streams, scope: &str, device: &str, actor: &str) -> Result<Given, Refusal> {
        Scope::parse(scope)?;
        check_device(device)?;
        let (token, id, issued) = self.reserve(scope, device)?;
        let change = Change::Issued(id, issued);
        let target = format!("{id} {device} {scope}");
        match write(streams, &change, audit::record(actor, Action::TokenIssue, &target, "done")).await {
            Ok(()) => {
                self.table().came(id);
                tracing::info!(%id, device, scope, actor, "issued a token");
                Ok(Given { token, id: id.to_string(), scope: scope.to_owned(), device: device.to_owned() })
            }
            Err(error) => {
                self.table().forget(id);
                Err(error.into())
            }
        }
    }

    fn reserve(&self, scope: &str, device: &str) -> Result<(String, TokenId, Issued), Refusal> {
        let refused = |what: String| Refusal::conflict(what).header(headers::ERROR, "token");
        loop {
            let mut secret = [0; 32];
            getrandom::fill(&mut secret).map_err(|e| no_random(&e))?;
            let token = format!("{MARK}{}", BASE64_URL_SAFE_NO_PAD.encode(secret));
            let hash = blake3::hash(token.as_bytes());
            let id = TokenId::of(&hash);
            let (scope, device) = (scope.to_owned(), device.to_owned());
            let issued = Issued { hash, device, scope, issued_us: audit::now_us() };
            return match self.table().add(id, issued.clone()) {
                Ok(()) => Ok((token, id, issued)),
                // One in 2^64 of them, for each that there is.
                Err(Full::Id) => continue,
                Err(Full::Tokens) => {
                    Err(refused(format!("there are {TOKENS_MAX} tokens; revoke those that nobody uses")))
                }
                Err(Full::Device(id)) => {
                    let device = issued.device;
                    Err(refused(format!(
                        "the device {device} has the token {id} there; revoke that, or take another name"
                    )))
                }
            };
        }
    }

    /// Revokes a token: at once, and for good once this comes back.
    ///
    /// # Errors
    /// 404 if there is none; those of an append: it is revoked until the server stops, and not for good.
    pub async fn revoke(&self, streams: &Streams, id: TokenId, actor: &str) -> Result<Listed, Refusal> {
        let Some(issued) = self.table().revoke(id) else {
            return Err(Refusal::not_found(format!("there is no token {id}; it may have been revoked before")));
        };
        self.revocations.send_modify(|count| *count += 1);
        let target = format!("{id} {} {}", issued.device, issued.scope);
        let record = audit::record(actor, Action::TokenRevoke, &target, "done");
        write(streams, &Change::Revoked(id), record).await.map_err(|error| {
            let told = format!(
                "the token {id} is refused from now on, but a restart may bring it back: its revocation is not as safe as \
                 it must be ({error}); ask again"
            );
            Refusal::from(&error).told(told)
        })?;
        self.table().forget(id);
        tracing::info!(%id, device = issued.device, scope = issued.scope, actor, "revoked a token");
        Ok(listed(id, State::Leaving, &issued))
    }

    /// The tokens, those of one owner beside one another.
    #[must_use]
    pub fn list(&self) -> Vec<Listed> {
        let table = self.table.read().unwrap_or_else(PoisonError::into_inner);
        let there = table.all().filter(|(_, state, _)| *state != State::Coming);
        let mut all: Vec<_> = there.map(|(id, state, issued)| listed(id, state, issued)).collect();
        all.sort_by(|a, b| (&a.scope, &a.device, &a.id).cmp(&(&b.scope, &b.device, &b.id)));
        all
    }

    /// A code that is good for a token, once, for [`pairing::LIFE`].
    ///
    /// # Errors
    /// 400; 409 if too many are good.
    pub fn offer(&self, scope: &str, device: Option<&str>) -> Result<String, Refusal> {
        Scope::parse(scope)?;
        device.map_or(Ok(()), check_device)?;
        let code = pairing::draw().map_err(|e| no_random(&e))?;
        let device = device.map(str::to_owned);
        if self.pairings().offer(&code, scope.to_owned(), device, Instant::now()) {
            return Ok(code);
        }
        let told = format!("{} pairing codes are waiting; each ends after ten minutes", pairing::CODES_MAX);
        Err(Refusal::conflict(told).header(headers::ERROR, "token"))
    }

    /// Issues a token for a code. `device` is the name that the device gives itself, which may be left out where the code
    /// names one.
    ///
    /// # Errors
    /// 403 for a code that is not good; 429; those of [`Self::issue`], after which the code is good as before.
    pub async fn pair(&self, streams: &Streams, code: &str, device: Option<&str>) -> Result<Given, Refusal> {
        let taken = self.pairings().take(code, Instant::now());
        let offer = taken.map_err(|denied| match denied {
            Denied::Wrong => {
                Refusal::new(StatusCode::FORBIDDEN, "the code is not good: it was used, has ended, or is mistyped")
                    .header(headers::ERROR, "pairing")
            }
            Denied::TooMany(left) => {
                tracing::warn!("many wrong pairing codes are given in; pairing waits");
                Refusal::new(StatusCode::TOO_MANY_REQUESTS, "too many wrong codes were given in; wait")
                    .header(headers::ERROR, "pairing")
                    .retry_after(left + Duration::from_secs(1))
            }
        })?;
        let issued = match (offer.device.as_deref(), device) {
            (Some(meant), Some(device)) if meant != device => {
                let told = format!("the code is for the device {meant}");
                Err(Refusal::conflict(told).header(headers::ERROR, "pairing"))
            }
            (None, None) => Err(Refusal::bad_request("the code is for any device: say which this one is")),
            (Some(device), _) | (None, Some(device)) => self.issue(streams, &offer.scope, device, "pairing").await,
        };
        issued.inspect_err(|_| self.pairings().put_back(code, offer.clone()))
    }

    fn table(&self) -> std::sync::RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn pairings(&self) -> MutexGuard<'_, Pairings> {
        self.pairings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Appends a change with its audit record, and waits until both are as safe as this server can make them.
async fn write(streams: &Streams, change: &Change, audit: Vec<u8>) -> everlog::Result<()> {
    let body = bytes::Bytes::from(change.encode());
    let request = Request {
        name: system::TOKENS.to_owned(),
        records: std::iter::once(0..body.len()).collect(),
        body,
        audit: Some(audit),
        durability: system::durability(streams),
        ..Request::default()
    };
    streams.append(request).await.map(|_| ())
}

fn listed(id: TokenId, state: State, issued: &Issued) -> Listed {
    Listed {
        id: id.to_string(),
        device: issued.device.clone(),
        scope: issued.scope.clone(),
        issued_us: issued.issued_us,
        state: if state == State::Live { "live" } else { "revoking" },
    }
}

/// The name stands in lists and in the log.
fn check_device(device: &str) -> Result<(), Refusal> {
    if device.is_empty() || device.len() > DEVICE_BYTES_MAX || device.chars().any(char::is_control) {
        let told = format!("a device's name has 1 to {DEVICE_BYTES_MAX} bytes and no control character");
        return Err(Refusal::bad_request(told));
    }
    Ok(())
}

fn no_random(error: &getrandom::Error) -> Refusal {
    let told = format!("the system gives no random numbers: {error}");
    Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, told).header(headers::ERROR, "failed")
}
