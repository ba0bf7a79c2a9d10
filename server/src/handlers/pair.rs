//! POST /v1/pair: a device gives a pairing code in, and gets its token.
//!
//! Whoever asks has no token yet; what is allowed is what the code says. Invariant: the answer that holds a token is in no
//! cache, and the issue goes on when its client has gone, so that no token is left half issued.

use super::{Context, detached, too_many};
use crate::auth::tokens::Given;
use crate::protocol::answer::{Answer, Refusal, put, with};
use crate::protocol::body::whole;
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use hyper::{Method, Request, StatusCode, Version};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::Duration;

/// Where codes are given in.
pub const PATH: &str = "/v1/pair";
/// More than a request has.
pub const JSON_BYTES_MAX: usize = 16 << 10;
/// How long a client, who may be a stranger, may take to send it.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Deserialize)]
struct Asked {
    code: String,
    #[serde(default)]
    device: Option<String>,
}

pub async fn pair(context: Arc<Context>, request: Request<Incoming>) -> Result<Answer, Refusal> {
    if context.gate.tokens().is_none() {
        return Err(Refusal::not_found("this server gives out no tokens"));
    }
    if request.method() != Method::POST {
        let mut answer = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "a code is given in by POST").answer();
        put(&mut answer, ALLOW, "POST, OPTIONS");
        return Ok(answer);
    }
    // Strangers' requests are counted apart from those of devices, whose place they would take.
    let over_http2 = request.version() >= Version::HTTP_2;
    let turn = if over_http2 { Some(context.pairings.try_acquire().map_err(|_| too_many())?) } else { None };
    let asked: Asked = read(request).await?;
    drop(turn);
    let given = detached(&context, async move |context| {
        let tokens = context.gate.tokens().ok_or_else(|| Refusal::not_found("this server gives out no tokens"))?;
        tokens.pair(&context.streams, &asked.code, asked.device.as_deref()).await
    });
    Ok(created(&given.await?))
}

/// The request's body, which is JSON.
pub async fn read<T: for<'a> Deserialize<'a>>(request: Request<Incoming>) -> Result<T, Refusal> {
    let slow = |_| Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body took longer than ten seconds");
    let body = Limited::new(request.into_body(), JSON_BYTES_MAX).collect();
    let body = tokio::time::timeout(PATIENCE, body).await.map_err(slow)?.map_err(|_| {
        let told = format!("the body broke off, or has more than {JSON_BYTES_MAX} bytes");
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, told)
    })?;
    // What was sent may be a secret, and is not repeated.
    serde_json::from_slice(&body.to_bytes()).map_err(|e| {
        let at = format!("line {}, column {}", e.line(), e.column());
        Refusal::bad_request(format!("the body is not the JSON object that is wanted: see {at}"))
    })
}

/// The answer with a token.
pub fn created(given: &Given) -> Answer {
    json(StatusCode::CREATED, given)
}

/// An answer of JSON.
pub fn json(status: StatusCode, value: &impl Serialize) -> Answer {
    let mut answer = with(status, whole(serde_json::to_vec(value).expect("text and numbers are always JSON")));
    put(&mut answer, CONTENT_TYPE, "application/json");
    put(&mut answer, CACHE_CONTROL, "no-store");
    answer
}
