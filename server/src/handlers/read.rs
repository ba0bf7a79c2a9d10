//! GET: a page of a stream, or of what a client has already, which it is told. What waits for more is in `live`.
//!
//! Invariant: an entity tag names the same bytes and the same end for ever.

use super::page::{at_end, described};
use super::{Context, live, page};
use crate::protocol::answer::{Answer, Refusal, put};
use crate::protocol::body::whole;
use crate::protocol::query::{Live, Query};
use everlog::Page;
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
    let found = page::read(context, &name, query.from).await?;
    if query.now {
        let mut answer = described(StatusCode::OK, &found);
        put(&mut answer, CACHE_CONTROL, "no-store");
        return Ok(answer);
    }
    let tag = etag(&found.page);
    if request.headers().get(IF_NONE_MATCH).and_then(|value| value.to_str().ok()).is_some_and(|v| names(v, &tag)) {
        let mut answer = described(StatusCode::NOT_MODIFIED, &found);
        answer.headers_mut().remove(CONTENT_TYPE);
        *answer.body_mut() = whole("");
        put(&mut answer, ETAG, &tag);
        return Ok(answer);
    }
    let mut answer = described(StatusCode::OK, &found);
    put(&mut answer, ETAG, &tag);
    Ok(answer)
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
