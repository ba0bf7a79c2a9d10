//! What operators change, over the Unix socket in the store's directory: tokens.
//!
//! Whoever may open the socket may do all of it; nothing of this is served anywhere else. Invariant: what was begun goes on
//! when its client has gone.

use super::pair::{created, json, read};
use super::{Context, detached};
use crate::auth::tokens::{Tokens, pairing};
use crate::protocol::answer::{Answer, Refusal, put};
use crate::protocol::headers;
use hyper::body::Incoming;
use hyper::header::ALLOW;
use hyper::{Method, Request, StatusCode};
use serde::Deserialize;
use std::sync::Arc;

/// Where tokens are listed and issued; behind it and a slash, each by its id.
pub const TOKENS: &str = "/v1/tokens";
/// Where pairing codes are made.
pub const PAIRINGS: &str = "/v1/pairings";

#[derive(Deserialize)]
struct Wanted {
    scope: String,
    #[serde(default)]
    device: Option<String>,
}

/// Answers an operator, `actor`.
pub async fn answer(context: &Arc<Context>, request: Request<Incoming>, actor: String) -> Answer {
    route(context, request, actor).await.unwrap_or_else(Refusal::answer)
}

async fn route(context: &Arc<Context>, request: Request<Incoming>, actor: String) -> Result<Answer, Refusal> {
    let path = request.uri().path().to_owned();
    let method = request.method().clone();
    let id = path.strip_prefix(TOKENS).and_then(|rest| rest.strip_prefix('/')).map(str::to_owned);
    match (path.as_str(), id) {
        (PAIRINGS, _) if method == Method::POST => {
            let wanted: Wanted = read(request).await?;
            let code = tokens(context)?.offer(&wanted.scope, wanted.device.as_deref())?;
            tracing::info!(scope = wanted.scope, device = wanted.device, actor, "made a pairing code");
            let (scope, device) = (wanted.scope, wanted.device);
            let offer = serde_json::json!({
                "code": code, "scope": scope, "device": device, "expires_s": pairing::LIFE.as_secs(),
            });
            Ok(json(StatusCode::CREATED, &offer))
        }
        (TOKENS, _) if method == Method::GET => {
            Ok(json(StatusCode::OK, &serde_json::json!({ "tokens": tokens(context)?.list() })))
        }
        (TOKENS, _) if method == Method::POST => {
            let wanted: Wanted = read(request).await?;
            let device = wanted.device.ok_or_else(|| Refusal::bad_request("say which device the token is for"))?;
            let given = detached(context, async move |context| {
                tokens(&context)?.issue(&context.streams, &wanted.scope, &device, &actor).await
            });
            Ok(created(&given.await?))
        }
        (_, Some(id)) if method == Method::DELETE => {
            let told = || Refusal::bad_request("a token's id has 16 hexadecimal digits; everlog token list shows them");
            let id = id.parse().map_err(|()| told())?;
            let revoked =
                detached(context, async move |context| tokens(&context)?.revoke(&context.streams, id, &actor).await);
            Ok(json(StatusCode::OK, &revoked.await?))
        }
        (PAIRINGS, _) => Ok(other("POST")),
        (TOKENS, _) => Ok(other("GET, POST")),
        (_, Some(_)) => Ok(other("DELETE")),
        _ => Err(Refusal::not_found(format!("there is {TOKENS} and {PAIRINGS}"))),
    }
}

fn tokens(context: &Context) -> Result<&Arc<Tokens>, Refusal> {
    context.gate.tokens().ok_or_else(|| {
        let told = "the server runs without tokens of its own; start it with --auth tokens";
        Refusal::conflict(told).header(headers::ERROR, "auth")
    })
}

fn other(allowed: &str) -> Answer {
    let mut answer = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "there are other methods here").answer();
    put(&mut answer, ALLOW, allowed);
    answer
}
