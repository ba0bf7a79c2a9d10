//! GET: a page of a stream, or of what a client has already, which it is told. What waits for more is in `live`.
//!
//! Invariant: an entity tag names the same bytes and the same end for ever.

use super::page::{at_end, described};
use super::{Context, encode, live, page, snapshot};
use crate::auth::Caller;
use crate::protocol::answer::{Answer, Refusal, put};
use crate::protocol::body::whole;
use crate::protocol::encoding::{Accepted, Coding};
use crate::protocol::query::{Live, Query};
use everlog::Page;
use hyper::body::Incoming;
use hyper::header::{CACHE_CONTROL, CONTENT_ENCODING, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use hyper::{Request, StatusCode};
use std::pin::pin;
use std::sync::Arc;

/// What a read asks for.
pub struct Asked {
    query: Query,
    accepted: Accepted,
    /// The entity tags of what the client has.
    has: Option<String>,
}

impl Asked {
    /// Of a request.
    ///
    /// # Errors
    /// 400.
    pub fn of(request: &Request<Incoming>) -> Result<Self, Refusal> {
        let query = Query::parse(request.uri().query())?;
        let map = request.headers();
        let has = map.get(IF_NONE_MATCH).and_then(|value| value.to_str().ok()).map(str::to_owned);
        Ok(Self { query, accepted: Accepted::of(map), has })
    }
}

pub async fn read(context: Arc<Context>, caller: Caller, name: String, asked: Asked) -> Result<Answer, Refusal> {
    let query = asked.query;
    if let Some(wanted) = query.snapshot {
        let made = Box::pin(snapshot::snapshot(&context, &caller, &name, wanted));
        let mut answer = caller.while_admitted(made).await?;
        if let Some(coding) = encode::choose(asked.accepted, &mut answer) {
            encode::encode(&context, coding, &mut answer).await?;
        }
        return Ok(answer);
    }
    match query.live {
        Live::LongPoll => {
            let polled = pin!(live::long_poll(&context, &caller, &name, &query));
            let mut answer = caller.while_admitted(polled).await?;
            if let Some(coding) = encode::choose(asked.accepted, &mut answer) {
                Box::pin(encode::encode(&context, coding, &mut answer)).await?;
            }
            return Ok(answer);
        }
        Live::Sse => return Box::pin(live::events(&context, &caller, name, &query)).await,
        Live::No => {}
    }
    let mut found = Box::pin(page::read(&context, &context.limits.parts(&caller), &name, query.from)).await?;
    let mut answer = described(StatusCode::OK, &mut found);
    if query.now {
        put(&mut answer, CACHE_CONTROL, "no-store");
        return Ok(answer);
    }
    let coding = encode::choose(asked.accepted, &mut answer);
    let tag = etag(&found.page, coding);
    drop(found);
    put(&mut answer, ETAG, &tag);
    if asked.has.is_some_and(|has| names(&has, &tag)) {
        *answer.status_mut() = StatusCode::NOT_MODIFIED;
        answer.headers_mut().remove(CONTENT_TYPE);
        answer.headers_mut().remove(CONTENT_ENCODING);
        *answer.body_mut() = whole("");
    } else if let Some(coding) = coding {
        Box::pin(encode::encode(&context, coding, &mut answer)).await?;
    }
    Ok(answer)
}

/// Names the page's bytes: which log, from where to where, whether it ends there, and how it is coded.
fn etag(page: &Page, coding: Option<Coding>) -> String {
    let closed = if at_end(page) && page.closed { ":c" } else { "" };
    let coded = coding.map_or_else(String::new, |coding| format!(":{}", coding.name()));
    format!("\"{:x}:{}:{}{closed}{coded}\"", page.created.0, page.start, page.next)
}

/// Whether a list of entity tags names `tag`.
fn names(list: &str, tag: &str) -> bool {
    list.split(',').map(|item| item.trim().trim_start_matches("W/")).any(|item| item == tag || item == "*")
}
