//! DELETE: the stream is gone for every client once this is answered, and stays so after any crash. The bytes of its
//! records stay in their segments, which nothing merges yet.

use super::Context;
use crate::protocol::answer::{Answer, Refusal, empty, set};
use crate::protocol::{headers, request};
use crate::streams::Request;
use hyper::StatusCode;
use hyper::header::HeaderMap;
use std::sync::Arc;
use std::time::Instant;

pub async fn delete(context: &Arc<Context>, name: String, asked: &HeaderMap) -> Result<Answer, Refusal> {
    let durability = request::durability(asked)?;
    let deletion = Request { name: name.clone(), delete: true, durability, ..Request::default() };
    let begun = Instant::now();
    context.streams.append(deletion).await?;
    context.metrics.acknowledged(durability, begun.elapsed());
    context.streams.forget(&name);
    let mut answer = empty(StatusCode::NO_CONTENT);
    set(&mut answer, headers::DURABILITY, durability.name());
    Ok(answer)
}
