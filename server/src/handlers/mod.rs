//! From a request to its answer: which handler a request meets, and what stands on every answer.
//!
//! A handler decides and calls [`Streams`]; it waits for nothing else. Invariant: whatever the answer is, an error or a
//! stream that does not exist included, it bears the store's id and the headers that browsers need.

pub mod admin;
mod append;
mod compact;
pub mod control;
mod create;
mod delete;
mod encode;
mod feed;
mod fork;
mod head;
mod live;
mod page;
mod pair;
mod read;
mod snapshot;

use crate::auth::{Caller, Gate};
use crate::config::Settings;
use crate::connection::HEADERS_MAX;
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::protocol::answer::{Answer, Refusal, empty, set};
use crate::protocol::{headers, path, request};
use crate::snapshots::Snapshots;
use crate::streams::Streams;
use bytes::Bytes;
use everlog::types::StoreId;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ALLOW, CACHE_CONTROL, EXPECT, HOST, HeaderValue, ORIGIN,
    X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Request, StatusCode, Version};
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tracing::Instrument;

/// The largest body of a request: a record's limit.
pub const BODY_BYTES_MAX: usize = everlog::limits::RECORD_BYTES_MAX;
/// The longest path with its query, in bytes: a name of the greatest length, each byte encoded, and much beside it.
const TARGET_BYTES_MAX: usize = 8 << 10;
/// Bodies of at most so many bytes take no share of the memory below: there are not more of them than connections. Over
/// HTTP/2 there are, and all of them take it.
const SMALL_BODY_BYTES: usize = 64 << 10;
/// Bodies of at most so many bytes are sooner copied than they have a connection make another buffer.
const TINY_BODY_BYTES: usize = 1 << 10;
/// Memory for all larger bodies that are being received or stored, in KiB.
pub const BODIES_KIB: usize = 256 << 10;
/// Answers that are compressed at once, each by one processor and in some megabytes of memory; others wait.
pub const COMPRESSIONS_MAX: usize = 4;
/// Pairings under way at once over HTTP/2, where connections do not bound them; each is of whoever connects.
pub const PAIRINGS_MAX: usize = 64;
/// Looks through the names of an owner's streams at once, for feeds; others wait.
pub const WALKS_MAX: usize = 4;
/// How often a stream may be deleted and created again under one request before that is refused.
const ATTEMPTS: usize = 8;
/// How long a client may take to send one, and wait for the memory.
const BODY_PATIENCE: Duration = Duration::from_secs(60);
/// How long a client whose request is refused may go on sending it.
const REFUSED_PATIENCE: Duration = Duration::from_secs(10);
const METHODS: &str = "GET, HEAD, PUT, POST, DELETE, OPTIONS";

/// What every request is answered from.
#[derive(Debug)]
pub struct Context {
    /// The store.
    pub streams: Streams,
    /// Who is let in.
    pub gate: Gate,
    /// What streams come to.
    pub snapshots: Arc<Snapshots>,
    /// What answers say of this server.
    pub said: Said,
    /// The settings.
    pub settings: Settings,
    /// What is counted.
    pub metrics: Metrics,
    /// Memory for large bodies, in KiB: a body takes its share before it is read.
    pub bodies: Arc<Semaphore>,
    /// How much a device may ask, and an owner may store.
    pub limits: Limits,
    /// Answers that are being compressed.
    pub compressions: Semaphore,
    /// Requests under way over HTTP/2, of which a connection may have many.
    pub requests: Arc<Semaphore>,
    /// Pairings under way over HTTP/2.
    pub pairings: Semaphore,
    /// Looks through the names of owners' streams that are under way.
    pub walks: Arc<Semaphore>,
    /// Turns true when the server begins to stop: who waits for more is answered then.
    pub stopping: watch::Receiver<bool>,
}

/// What answers say of this server, as values of headers.
#[derive(Debug)]
pub struct Said {
    store: HeaderValue,
    origin: HeaderValue,
}

impl Said {
    /// Of the server of this store.
    ///
    /// # Panics
    /// If the settings were not checked.
    #[must_use]
    pub fn new(store: StoreId, settings: &Settings) -> Self {
        let value = |text: &str| HeaderValue::from_str(text).expect("an id is digits, and settings are checked");
        Self { store: value(&store.to_string()), origin: value(&settings.cors_allow_origin) }
    }
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
    let id = request::id(request.headers()).map_or_else(new_id, str::to_owned);
    let (method, begun) = (method_name(request.method()), Instant::now());
    let is_of_page = bears_origin(&request);
    // Neither the query nor a header: those may hold what is secret.
    let span = tracing::debug_span!("request", id, method, owner = path::owner(request.uri().path()));
    let is_counted = request.version() >= Version::HTTP_2 && request.uri().path() != pair::PATH;
    let routed = route(context, request);
    let routed = async {
        // What finds out who asks, and for what, is gone when that is waited for: most connections only wait.
        let handled = routed?.await?;
        if !is_counted {
            return handled.await;
        }
        // Once it is known who asks: strangers take nobody's place.
        let permit = Arc::clone(&context.requests).try_acquire_owned().map_err(|_| too_many())?;
        let mut answer = handled.await.unwrap_or_else(Refusal::answer);
        answer.body_mut().hold(permit);
        Ok(answer)
    };
    let routed = routed.instrument(span.clone()).await;
    let mut answer = match routed {
        Ok(answer) => answer,
        Err(refusal) => refusal.answer(),
    };
    let map = answer.headers_mut();
    map.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    map.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    map.insert("cross-origin-resource-policy", HeaderValue::from_static("cross-origin"));
    if is_of_page {
        map.insert(ACCESS_CONTROL_ALLOW_ORIGIN, context.said.origin.clone());
        map.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(headers::EXPOSED));
    }
    map.insert(headers::STORE, context.said.store.clone());
    context.gate.close(&mut answer);
    set(&mut answer, headers::REQUEST_ID, id);
    let status = answer.status().as_u16();
    context.metrics.answered(method, status);
    let took_us = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
    tracing::debug!(parent: &span, status, took_us, "answered");
    answer
}

/// Whether the answer is to say which pages may read it: where one asks, and where the answer may be kept and given to one.
fn bears_origin(request: &Request<Incoming>) -> bool {
    matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS) || request.headers().contains_key(ORIGIN)
}

/// A name for a request whose client gave it none.
fn new_id() -> String {
    // Without random bytes it has a name that one of another run may have as well.
    static NEXT: LazyLock<AtomicU64> = LazyLock::new(|| AtomicU64::new(getrandom::u64().unwrap_or_default()));
    format!("{:016x}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Refuses what no handler is to see.
fn check(request: &Request<Incoming>) -> Result<(), Refusal> {
    let target_bytes = request.uri().path_and_query().map_or(0, |target| target.as_str().len());
    if target_bytes > TARGET_BYTES_MAX {
        let told = format!("the path and the query have {target_bytes} bytes, at most {TARGET_BYTES_MAX} are taken");
        return Err(Refusal::new(StatusCode::URI_TOO_LONG, told));
    }
    let map = request.headers();
    if map.len() > HEADERS_MAX {
        let told = format!("the request has {} headers, at most {HEADERS_MAX} are taken", map.len());
        return Err(Refusal::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, told));
    }
    // Two servers may choose two different ones of them.
    if map.get_all(HOST).iter().count() > 1 {
        return Err(Refusal::bad_request("the header Host is given twice"));
    }
    Ok(())
}

/// An answer that is being made, in a box of its own: every connection has room for what holds this, and most of them only
/// wait.
type Handled = Pin<Box<dyn Future<Output = Result<Answer, Refusal>> + Send>>;

/// Comes to who answers, in a box of its own as well.
type Routed = Pin<Box<dyn Future<Output = Result<Handled, Refusal>> + Send>>;

/// Who answers the request.
fn route(context: &Arc<Context>, request: Request<Incoming>) -> Result<Routed, Refusal> {
    check(&request)?;
    Ok(Box::pin(handle(Arc::clone(context), request)))
}

/// The refusal of a request where connections do not bound how many there are: of those over HTTP/2 and of pairings each is
/// counted.
fn too_many() -> Refusal {
    Refusal::overloaded("the server has as many requests under way as it takes; come back later")
}

/// What a request is for.
enum Meant {
    /// The stream of this name.
    Stream(String),
    /// The feed of this owner.
    Feed(String),
}

/// Who sends the request, and what it is for, if that may be.
async fn meant(context: &Context, request: &Request<Incoming>) -> Result<(Caller, Meant), Refusal> {
    let caller = context.gate.caller(request.headers()).await?;
    context.limits.request(&caller)?;
    let path = request.uri().path();
    let meant = match path::feed_owner(path)? {
        Some(owner) => Meant::Feed(owner),
        None => Meant::Stream(path::log_name(path)?),
    };
    let (Meant::Stream(name) | Meant::Feed(name)) = &meant;
    caller.check(name)?;
    Ok((caller, meant))
}

/// Who answers the request, once it is known who sends it.
async fn handle(context: Arc<Context>, request: Request<Incoming>) -> Result<Handled, Refusal> {
    if request.method() == Method::OPTIONS {
        return Ok(Box::pin(std::future::ready(Ok(preflight()))));
    }
    if request.uri().path() == pair::PATH {
        return Ok(Box::pin(pair::pair(context, request)));
    }
    let (caller, meant) = match meant(&context, &request).await {
        Ok(found) => found,
        Err(refusal) => {
            // Who asks first has sent nothing yet, and over HTTP/2 an answer does not need the body to be read.
            if request.version() < Version::HTTP_2 && !request.headers().contains_key(EXPECT) {
                let _ = tokio::time::timeout(REFUSED_PATIENCE, discard(&mut request.into_body())).await;
            }
            return Err(refusal);
        }
    };
    let name = match meant {
        Meant::Stream(name) => name,
        Meant::Feed(owner) => return Ok(Box::pin(feed::feed(context, caller, owner, feed::Asked::of(&request)))),
    };
    Ok(match *request.method() {
        Method::POST if compact::is_wanted(request.headers())? => {
            Box::pin(compact::compact(context, caller, name, request))
        }
        Method::POST => Box::pin(append::append(context, caller, name, request)),
        Method::GET => {
            // Without the request, which holds the buffer that it came in: the connection makes another one meanwhile.
            let asked = read::Asked::of(&request)?;
            Box::pin(read::read(context, caller, name, asked))
        }
        Method::PUT => Box::pin(create::create(context, caller, name, request)),
        Method::HEAD => Box::pin(head::head(context, name)),
        Method::DELETE => Box::pin(delete::delete(context, caller, name, request.into_parts().0.headers)),
        _ => {
            let mut answer = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "a stream takes other methods").answer();
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static(METHODS));
            Box::pin(std::future::ready(Ok(answer)))
        }
    })
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

/// Carries out what has to come to its end although its client may go meanwhile.
async fn detached<T: Send + 'static, W>(
    context: &Arc<Context>, work: impl FnOnce(Arc<Context>) -> W + Send + 'static,
) -> Result<T, Refusal>
where
    W: Future<Output = Result<T, Refusal>> + Send + 'static,
{
    let ended = tokio::spawn(work(Arc::clone(context))).await;
    // It panicked, or the server stopped without it.
    ended.map_err(|_| Refusal::unknown())?
}

/// A body, and its share of the memory for bodies, which goes back with it.
struct Body {
    bytes: Bytes,
    _share: Option<Share>,
}

/// What a body takes of its device's part of the memory, and of all.
type Share = (OwnedSemaphorePermit, OwnedSemaphorePermit);

/// The request's whole body.
async fn body(context: &Context, caller: &Caller, request: Request<Incoming>) -> Result<Body, Refusal> {
    request::coding(request.headers())?;
    let declared = request::declared_length(request.headers());
    let over_http2 = request.version() >= Version::HTTP_2;
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
        let share = share(context, caller, declared, over_http2).await?;
        match Limited::new(&mut incoming, BODY_BYTES_MAX).collect().await {
            Ok(collected) => Ok(Body { bytes: own(collected.to_bytes()), _share: share }),
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

/// A small body apart from the buffer that it came in, which the connection then uses again instead of making another.
fn own(bytes: Bytes) -> Bytes {
    if bytes.len() <= TINY_BODY_BYTES { Bytes::copy_from_slice(&bytes) } else { bytes }
}

/// The memory that a body of the declared length takes, unless it is small; one of no declared length may be the largest.
/// Over HTTP/2 it is not waited for: what a connection has received of bodies that wait leaves no room for the others of it,
/// so that those who have their share could not end.
async fn share(
    context: &Context, caller: &Caller, declared: Option<u64>, over_http2: bool,
) -> Result<Option<Share>, Refusal> {
    let bytes = declared.and_then(|len| usize::try_from(len).ok()).unwrap_or(BODY_BYTES_MAX);
    if bytes <= SMALL_BODY_BYTES && !over_http2 {
        return Ok(None);
    }
    let kib = u32::try_from(bytes.div_ceil(1 << 10)).expect("a body is bounded");
    let part = Arc::clone(&context.limits.parts(caller).bodies);
    if over_http2 {
        let own = part.try_acquire_many_owned(kib).map_err(|_| too_many())?;
        let share = Arc::clone(&context.bodies).try_acquire_many_owned(kib).map_err(|_| too_many())?;
        return Ok(Some((own, share)));
    }
    let own = part.acquire_many_owned(kib).await.expect("the semaphore is never closed");
    let share = Arc::clone(&context.bodies).acquire_many_owned(kib).await.expect("the semaphore is never closed");
    Ok(Some((own, share)))
}

/// Reads what is left of a body that is not wanted, within reason: a client that is still sending when the connection is
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
