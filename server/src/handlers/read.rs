//! GET: a page of a stream. What waits for more is in `live`.
//!
//! Invariant: `Stream-Up-To-Date` and `Stream-Closed` are said only of a page that reaches the stream's end, and what is
//! missing or damaged is an error and never a shorter page.

use super::{Context, live};
use crate::protocol::answer::{Answer, Refusal, put, set, whole, with};
use crate::protocol::content::join;
use crate::protocol::headers;
use crate::protocol::query::{Live, Query};
use crate::streams::Known;
use everlog::types::Position;
use everlog::{Error, ErrorKind, Page};
use hyper::body::Incoming;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use hyper::{Request, StatusCode};
use std::sync::Arc;

pub async fn read(context: &Arc<Context>, name: String, request: &Request<Incoming>) -> Result<Answer, Refusal> {
    let query = Query::parse(request.uri().query())?;
    match query.live {
        Live::LongPoll => return live::long_poll(context, &name, &query).await,
        Live::Sse => return live::events(context, name, &query).await,
        Live::No => {}
    }
    let (page, known) = page(context, &name, query.from).await?;
    if query.now {
        let mut answer = described(StatusCode::OK, &known, &page);
        put(&mut answer, CACHE_CONTROL, "no-store");
        return Ok(answer);
    }
    let tag = etag(&page);
    if request.headers().get(IF_NONE_MATCH).and_then(|value| value.to_str().ok()).is_some_and(|v| names(v, &tag)) {
        let mut answer = described(StatusCode::NOT_MODIFIED, &known, &page);
        answer.headers_mut().remove(CONTENT_TYPE);
        *answer.body_mut() = whole("");
        put(&mut answer, ETAG, &tag);
        return Ok(answer);
    }
    let mut answer = described(StatusCode::OK, &known, &page);
    put(&mut answer, ETAG, &tag);
    Ok(answer)
}

/// How often a stream may be deleted and created again under one read.
const ATTEMPTS: usize = 8;

/// Reads, with the configuration of the very log that was read, and tells a reader from another history where it stands.
pub(super) async fn page(context: &Context, name: &str, from: Position) -> Result<(Page, Known), Refusal> {
    for _ in 0..ATTEMPTS {
        let page = context.streams.read(name, from).await.map_err(|error| refused(context, name, &error))?;
        let known = context.streams.known_as(name, page.created).await;
        if let Some(known) = known.map_err(|error| refused(context, name, &error))? {
            return Ok((page, known));
        }
    }
    Err(Refusal::conflict("the stream was deleted and created again all the while"))
}

/// The refusal that a failed read becomes.
pub(super) fn refused(context: &Context, name: &str, error: &Error) -> Refusal {
    let refusal = Refusal::from(error);
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::Deleted => context.streams.forget(name),
        ErrorKind::Rewound => return refusal.header(headers::TIMELINE, context.streams.timeline().to_string()),
        _ => {}
    }
    refusal
}

/// The answer with a page.
pub(super) fn described(status: StatusCode, known: &Known, page: &Page) -> Answer {
    let mut answer = with(status, whole(join(known.config.framing(), &page.records)));
    put(&mut answer, CONTENT_TYPE, &known.config.content_type);
    put(&mut answer, CACHE_CONTROL, "private, no-cache");
    set(&mut answer, headers::NEXT_OFFSET, page.next.to_string());
    if at_end(page) {
        set(&mut answer, headers::UP_TO_DATE, "true");
        if page.closed {
            set(&mut answer, headers::CLOSED, "true");
        }
    }
    answer
}

/// Whether the page reaches the stream's end.
pub(super) fn at_end(page: &Page) -> bool {
    page.next_seq == page.head
}

/// Names the page's bytes: which log, from where to where, and whether it ends there.
fn etag(page: &Page) -> String {
    let closed = if at_end(page) && page.closed { ":c" } else { "" };
    format!("\"{:x}:{}:{}{closed}\"", page.created.0, page.start, page.next)
}

/// Whether a list of entity tags names `tag`.
fn names(list: &str, tag: &str) -> bool {
    list.split(',').map(|item| item.trim().trim_start_matches("W/")).any(|item| item == tag || item == "*")
}
