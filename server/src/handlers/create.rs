//! PUT: creates a stream, or finds that it is there as asked for.
//!
//! Invariant: of any number of creations at once one says 201, and its content alone is stored.

use super::{ATTEMPTS, Context, body};
use crate::protocol::answer::{Answer, Refusal, empty, put, set};
use crate::protocol::content::{DEFAULT_TYPE, StreamConfig, split};
use crate::protocol::request::Durability;
use crate::protocol::{headers, path, request};
use crate::streams::{Request as Staged, Streams};
use everlog::types::Cursor;
use everlog::{ErrorKind, LogInfo};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HOST, LOCATION};
use hyper::{Request, StatusCode};
use std::sync::Arc;
use std::time::Instant;

/// A longer content type is no media type that anybody knows.
const CONTENT_TYPE_BYTES_MAX: usize = 256;
pub async fn create(context: &Arc<Context>, name: String, request: Request<Incoming>) -> Result<Answer, Refusal> {
    request::unsupported(request.headers())?;
    let content_type = request::content_type(request.headers())?.unwrap_or(DEFAULT_TYPE).to_owned();
    let closes = request::closes(request.headers())?;
    let durability = request::durability(request.headers())?;
    let config = StreamConfig { content_type };
    let metadata = config.metadata();
    if config.content_type.len() > CONTENT_TYPE_BYTES_MAX {
        return Err(Refusal::bad_request(format!(
            "the content type has {} bytes, at most {CONTENT_TYPE_BYTES_MAX} fit",
            config.content_type.len()
        )));
    }
    let location = location(&request, &name);
    let body = body(context, request).await?;
    let body = &body.bytes;
    let begun = Instant::now();
    for _ in 0..ATTEMPTS {
        match context.streams.info(&name).await {
            Ok(info) => {
                if durability == Durability::Cold {
                    context.streams.cold(info.changed).await?;
                }
                return found(&config, closes, &info);
            }
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Deleted) => {}
            Err(e) => return Err(e.into()),
        }
        let records = if body.is_empty() { Vec::new() } else { split(config.framing(), body)? };
        let staged = Staged {
            name: name.clone(),
            create: Some(metadata.clone()),
            body: body.clone(),
            records,
            close: closes,
            durability,
            ..Staged::default()
        };
        match context.streams.append(staged).await {
            Ok(receipt) => {
                context.metrics.acknowledged(durability, begun.elapsed());
                let mut answer = described(StatusCode::CREATED, &config, closes, receipt.next());
                put(&mut answer, LOCATION, &location);
                set(&mut answer, headers::DURABILITY, durability.name());
                return Ok(answer);
            }
            Err(e) if e.kind() == ErrorKind::Exists => {}
            Err(e) => return Err(e.into()),
        }
    }
    Err(Refusal::conflict("the stream was created and deleted all the while"))
}

/// The stream's address as the client sees it: where it sent its request.
fn location(request: &Request<Incoming>, name: &str) -> String {
    let path = path::of_log(name);
    match request.headers().get(HOST).and_then(|host| host.to_str().ok()) {
        Some(host) => format!("http://{host}{path}"),
        None => path,
    }
}

/// The answer for a stream that is there.
fn found(config: &StreamConfig, closes: bool, info: &LogInfo) -> Result<Answer, Refusal> {
    let known = Streams::know(info);
    if !known.config.accepts(&config.content_type) {
        return Err(Refusal::conflict(format!("the stream exists with content type {}", known.config.content_type)));
    }
    if closes != info.closed {
        let told = if info.closed { "the stream exists and is closed" } else { "the stream exists and is open" };
        let refusal = Refusal::conflict(told);
        return Err(if info.closed { refusal.closed_at(info.end()) } else { refusal });
    }
    Ok(described(StatusCode::OK, &known.config, closes, info.end()))
}

fn described(status: StatusCode, config: &StreamConfig, closed: bool, end: Cursor) -> Answer {
    let mut answer = empty(status);
    put(&mut answer, CONTENT_TYPE, &config.content_type);
    set(&mut answer, headers::NEXT_OFFSET, end.to_string());
    if closed {
        set(&mut answer, headers::CLOSED, "true");
    }
    answer
}
