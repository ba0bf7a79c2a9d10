//! DELETE: the stream is gone for every client once this is answered, and stays so after any crash. The bytes of its
//! records stay in their segments, which nothing merges yet.

use super::Context;
use crate::protocol::answer::{Answer, Refusal, empty};
use crate::streams::Request;
use hyper::StatusCode;
use std::sync::Arc;
use std::time::Instant;

pub async fn delete(context: &Arc<Context>, name: String) -> Result<Answer, Refusal> {
    let deletion = Request { name: name.clone(), delete: true, ..Request::default() };
    let begun = Instant::now();
    context.streams.append(deletion).await?;
    context.metrics.acknowledged(begun.elapsed());
    context.streams.forget(&name);
    Ok(empty(StatusCode::NO_CONTENT))
}
