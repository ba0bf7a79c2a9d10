//! PUT: creates a stream, or finds that it is there as asked for.
//!
//! Invariant: of any number of creations at once one says 201, and its content alone is stored.

use super::{ATTEMPTS, Context, body, detached, fork};
use crate::auth::Caller;
use crate::protocol::answer::{Answer, Refusal, empty, put, set};
use crate::protocol::content::{DEFAULT_TYPE, StreamConfig, split};
use crate::protocol::fork::ForkAsked;
use crate::protocol::lifetime::Lifetime;
use crate::protocol::request::Durability;
use crate::protocol::{headers, path, request};
use crate::streams::{Owned, Request as Staged, Streams};
use bytes::Bytes;
use everlog::types::Cursor;
use everlog::{ErrorKind, LogInfo};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, LOCATION};
use hyper::http::uri::Authority;
use hyper::{Request, StatusCode};
use jiff::Timestamp;
use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

/// A longer content type is no media type that anybody knows.
const CONTENT_TYPE_BYTES_MAX: usize = 256;

/// What the headers ask for.
pub struct Asked {
    pub content_type: Option<String>,
    pub lifetime: Option<Lifetime>,
    pub fork: Option<ForkAsked>,
    pub closes: bool,
    pub durability: Durability,
}

impl Asked {
    fn read(map: &HeaderMap) -> Result<Self, Refusal> {
        let content_type = request::content_type(map)?.map(str::to_owned);
        let bytes = content_type.as_ref().map_or(0, String::len);
        if bytes > CONTENT_TYPE_BYTES_MAX {
            let told = format!("the content type has {bytes} bytes, at most {CONTENT_TYPE_BYTES_MAX} fit");
            return Err(Refusal::bad_request(told));
        }
        Ok(Self {
            content_type,
            lifetime: Lifetime::read(map)?,
            fork: ForkAsked::read(map)?,
            closes: request::closes(map)?,
            durability: request::durability(map)?,
        })
    }
}

/// What was created.
pub struct Created {
    pub config: StreamConfig,
    pub end: Cursor,
}

/// Why nothing was: it is there, or somebody else was quicker with something that counts.
pub enum Otherwise {
    Found(Box<LogInfo>),
    Again,
}

pub async fn create(
    context: Arc<Context>, caller: Caller, name: String, request: Request<Incoming>,
) -> Result<Answer, Refusal> {
    let context = &context;
    let asked = Arc::new(Asked::read(request.headers())?);
    if let Some(fork) = &asked.fork {
        caller.check(&fork.source)?;
    }
    let location = location(context, &request, &name);
    // With its share of the memory, which goes on with whoever carries the creation out.
    let body = Arc::new(caller.while_admitted(pin!(body(context, &caller, request))).await?);
    let begun = Instant::now();
    for _ in 0..ATTEMPTS {
        let made = match &asked.fork {
            Some(_) => {
                let (name, asked, body) = (name.clone(), Arc::clone(&asked), Arc::clone(&body));
                detached(context, async move |context| fork::create(&context, &name, &asked, &body.bytes).await).await?
            }
            None => plain(context, &name, &asked, &body.bytes).await?,
        };
        match made {
            Ok(Created { config, end }) => {
                context.metrics.acknowledged(asked.durability, begun.elapsed());
                let mut answer = described(StatusCode::CREATED, &config, asked.closes, end);
                put(&mut answer, LOCATION, &location);
                set(&mut answer, headers::DURABILITY, asked.durability.name());
                return Ok(answer);
            }
            Err(Otherwise::Found(info)) => {
                if asked.durability == Durability::Cold {
                    context.streams.cold(info.changed).await?;
                }
                return found(&asked, &info);
            }
            Err(Otherwise::Again) => {}
        }
    }
    Err(Refusal::conflict("the stream was created and deleted all the while"))
}

/// Creates a stream that is no fork.
async fn plain(
    context: &Context, name: &str, asked: &Asked, body: &Bytes,
) -> Result<Result<Created, Otherwise>, Refusal> {
    match context.streams.info(name).await {
        Ok(info) => return Ok(Err(Otherwise::Found(Box::new(info)))),
        Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Deleted) => {}
        Err(e) => return Err(e.into()),
    }
    let content_type = asked.content_type.as_deref().unwrap_or(DEFAULT_TYPE);
    let config = StreamConfig { lifetime: asked.lifetime.clone(), ..StreamConfig::new(content_type) };
    let more = Owned { logs: 1, bytes: body.len() as u64 };
    let staged = Staged {
        name: name.to_owned(),
        create: Some(config.metadata()),
        body: body.clone(),
        records: if body.is_empty() { Vec::new() } else { split(config.framing(), body)? },
        expires_in: asked.lifetime.as_ref().map(|lifetime| lifetime.first(Timestamp::now())),
        close: asked.closes,
        durability: asked.durability,
        booking: context.limits.book(&context.streams, name, more).await?,
        ..Staged::default()
    };
    match context.streams.append(staged).await {
        Ok(receipt) => Ok(Ok(Created { config, end: receipt.next() })),
        Err(e) if e.kind() == ErrorKind::Exists => Ok(Err(Otherwise::Again)),
        Err(e) => Err(e.into()),
    }
}

/// The stream's address as the client sees it: where it sent its request.
fn location(context: &Context, request: &Request<Incoming>, name: &str) -> String {
    let path = path::of_log(name);
    let scheme = if context.settings.tls_cert.is_some() { "https" } else { "http" };
    // HTTP/2 has it beside the path.
    let host = request.uri().authority().map(Authority::as_str);
    match host.or_else(|| request.headers().get(HOST).and_then(|host| host.to_str().ok())) {
        Some(host) => format!("{scheme}://{host}{path}"),
        None => path,
    }
}

/// The answer for a stream that is there.
fn found(asked: &Asked, info: &LogInfo) -> Result<Answer, Refusal> {
    let config = Streams::know(info).config;
    if config.gone {
        let told = "the stream was deleted, and its name is kept for the streams that were forked from it";
        return Err(Refusal::conflict(told).header(headers::ERROR, "deleted"));
    }
    let same_fork = match (&config.fork, &asked.fork) {
        (None, None) => true,
        (Some(fork), Some(asked)) => fork.is_as(asked),
        _ => false,
    };
    if !same_fork {
        return Err(Refusal::conflict("the stream exists, and is not the fork that was asked for"));
    }
    // A fork may be asked for without what it has from its source.
    let content_type = match (&asked.content_type, &config.fork) {
        (Some(content_type), _) => content_type,
        (None, Some(_)) => &config.content_type,
        (None, None) => DEFAULT_TYPE,
    };
    if !config.accepts(content_type) {
        return Err(Refusal::conflict(format!("the stream exists with content type {}", config.content_type)));
    }
    let inherits = config.fork.as_ref().is_some_and(|fork| fork.inherits);
    let same_lifetime = match (&asked.lifetime, &config.lifetime) {
        (None, None) => true,
        (None, Some(_)) => inherits,
        (Some(asked), Some(lifetime)) => asked.is_as(lifetime),
        (Some(_), None) => false,
    };
    if !same_lifetime {
        return Err(Refusal::conflict("the stream exists, and ends at another time than was asked for"));
    }
    if asked.closes != info.closed {
        let told = if info.closed { "the stream exists and is closed" } else { "the stream exists and is open" };
        let refusal = Refusal::conflict(told);
        return Err(if info.closed { refusal.closed_at(info.end()) } else { refusal });
    }
    Ok(described(StatusCode::OK, &config, asked.closes, info.end()))
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
