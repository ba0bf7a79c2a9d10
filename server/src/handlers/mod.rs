//! From a request to its answer: which handler a request meets, and what stands on every answer.
//!
//! A handler decides and calls [`Streams`]; it waits for nothing else. Invariant: whatever the answer is, an error or a
//! stream that does not exist included, it bears the store's id and the headers that browsers need.

pub mod admin;
mod append;
mod create;
mod delete;
mod head;
mod live;
mod page;
mod read;

use crate::config::Settings;
use crate::metrics::Metrics;
use crate::protocol::answer::{Answer, Refusal, empty, put, set};
use crate::protocol::{headers, path};
use crate::streams::Streams;
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ALLOW, EXPECT, HeaderValue, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Request, StatusCode};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// The largest body of a request: a record's limit.
pub const BODY_BYTES_MAX: usize = everlog::limits::RECORD_BYTES_MAX;
/// Bodies of at most so many bytes take no share of the memory below: there are not more of them than connections.
const SMALL_BODY_BYTES: usize = 64 << 10;
/// Memory for all larger bodies that are being received or stored, in KiB.
pub const BODIES_KIB: usize = 256 << 10;
/// How often a stream may be deleted and created again under one request before that is refused.
const ATTEMPTS: usize = 8;
/// How long a client may take to send one, and wait for the memory.
const BODY_PATIENCE: Duration = Duration::from_secs(60);
const METHODS: &str = "GET, HEAD, PUT, POST, DELETE, OPTIONS";

/// What every request is answered from.
#[derive(Debug)]
pub struct Context {
    /// The store.
    pub streams: Streams,
    /// The settings.
    pub settings: Settings,
    /// What is counted.
    pub metrics: Metrics,
    /// Memory for large bodies, in KiB: a body takes its share before it is read.
    pub bodies: Arc<Semaphore>,
    /// Turns true when the server begins to stop: who waits for more is answered then.
    pub stopping: watch::Receiver<bool>,
}

impl Context {
    /// Comes back once the server begins to stop.
    pub async fn stopped(&self) {
        let mut stopping = self.stopping.clone();
        // An error says that the other half is gone, which it is only after that.
        let _ = stopping.wait_for(|stopping| *stopping).await;
    }
}

/// Answers a device.
pub async fn answer(context: &Arc<Context>, request: Request<Incoming>) -> Answer {
    let method = method_name(request.method());
    let mut answer = match route(context, request).await {
        Ok(answer) => answer,
        Err(refusal) => refusal.answer(),
    };
    let map = answer.headers_mut();
    map.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    map.insert("cross-origin-resource-policy", HeaderValue::from_static("cross-origin"));
    put(&mut answer, ACCESS_CONTROL_ALLOW_ORIGIN, &context.settings.cors_allow_origin);
    answer.headers_mut().insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(headers::EXPOSED));
    set(&mut answer, headers::STORE, context.streams.store_id().to_string());
    context.metrics.answered(method, answer.status().as_u16());
    answer
}

async fn route(context: &Arc<Context>, request: Request<Incoming>) -> Result<Answer, Refusal> {
    if request.method() == Method::OPTIONS {
        return Ok(preflight());
    }
    let name = path::log_name(request.uri().path())?;
    match *request.method() {
        Method::POST => append::append(context, name, request).await,
        Method::GET => read::read(context, name, &request).await,
        Method::PUT => create::create(context, name, request).await,
        Method::HEAD => head::head(context, &name).await,
        Method::DELETE => delete::delete(context, name, request.headers()).await,
        _ => {
            let mut answer = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "a stream takes other methods").answer();
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static(METHODS));
            Ok(answer)
        }
    }
}

/// What a browser asks before it sends a request to another origin.
fn preflight() -> Answer {
    let mut answer = empty(StatusCode::NO_CONTENT);
    let map = answer.headers_mut();
    map.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(METHODS));
    map.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(headers::ALLOWED));
    map.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
    answer
}

/// A body, and its share of the memory for bodies, which goes back with it.
struct Body {
    bytes: Bytes,
    _share: Option<OwnedSemaphorePermit>,
}

/// The request's whole body.
async fn body(context: &Context, request: Request<Incoming>) -> Result<Body, Refusal> {
    let declared = crate::protocol::request::declared_length(request.headers());
    let too_large = || {
        let asked = declared.map_or_else(String::new, |len| format!("has {len} bytes and "));
        let told = format!("the body {asked}is larger than {BODY_BYTES_MAX} bytes; send it in several requests");
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, told)
    };
    // Who asks first has sent nothing yet.
    let asks_first = request.headers().contains_key(EXPECT);
    let mut incoming = request.into_body();
    let whole = async {
        if declared.is_some_and(|len| len > BODY_BYTES_MAX as u64) {
            if !asks_first {
                discard(&mut incoming).await;
            }
            return Err(too_large());
        }
        let share = share(context, declared).await?;
        match Limited::new(&mut incoming, BODY_BYTES_MAX).collect().await {
            Ok(collected) => Ok(Body { bytes: collected.to_bytes(), _share: share }),
            Err(e) if e.is::<LengthLimitError>() => {
                discard(&mut incoming).await;
                Err(too_large())
            }
            Err(e) => Err(Refusal::bad_request(format!("the body broke off: {e}"))),
        }
    };
    let slow = || Refusal::new(StatusCode::REQUEST_TIMEOUT, "the body took longer than a minute");
    tokio::time::timeout(BODY_PATIENCE, whole).await.map_err(|_| slow())?
}

/// The memory that a body of the declared length takes; one of no declared length may be the largest.
async fn share(context: &Context, declared: Option<u64>) -> Result<Option<OwnedSemaphorePermit>, Refusal> {
    let bytes = declared.and_then(|len| usize::try_from(len).ok()).unwrap_or(BODY_BYTES_MAX);
    if bytes <= SMALL_BODY_BYTES {
        return Ok(None);
    }
    let kib = u32::try_from(bytes.div_ceil(1 << 10)).expect("a body is bounded");
    let share = Arc::clone(&context.bodies).acquire_many_owned(kib).await;
    share.map(Some).map_err(|_| Refusal::new(StatusCode::SERVICE_UNAVAILABLE, "the server is stopping"))
}

/// Reads what is left of a body that is too large, within reason: a client that is still sending when the connection is
/// closed never reads why.
async fn discard(body: &mut Incoming) {
    let mut left = 8 * BODY_BYTES_MAX;
    while let Some(Ok(frame)) = body.frame().await {
        left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
        if left == 0 {
            return;
        }
    }
}

fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::PUT => "PUT",
        Method::HEAD => "HEAD",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        _ => "other",
    }
}
