//! DELETE: the stream is gone once this is answered, and stays so after any crash. Its records keep their bytes on disk
//! for now.

use super::Context;
use crate::protocol::answer::{Answer, Refusal, empty};
use crate::streams::Request;
use hyper::StatusCode;
use std::sync::Arc;

pub async fn delete(context: &Arc<Context>, name: String) -> Result<Answer, Refusal> {
    let deletion = Request { name: name.clone(), delete: true, ..Request::default() };
    context.streams.append(deletion).await?;
    context.streams.forget(&name);
    Ok(empty(StatusCode::NO_CONTENT))
}
