//! HEAD: what a stream is and where it ends, without its content.

use super::Context;
use crate::protocol::answer::{Answer, Refusal, empty, put, set};
use crate::protocol::headers;
use crate::streams::Streams;
use hyper::StatusCode;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE};

pub async fn head(context: &Context, name: &str) -> Result<Answer, Refusal> {
    let info = context.streams.info(name).await?;
    let cold = context.streams.cold_end(name, info.created).await;
    let mut answer = empty(StatusCode::OK);
    put(&mut answer, CONTENT_TYPE, &Streams::know(&info).config.content_type);
    put(&mut answer, CACHE_CONTROL, "no-store");
    set(&mut answer, headers::NEXT_OFFSET, info.end().to_string());
    if let Some(cold) = cold {
        set(&mut answer, headers::COLD_OFFSET, cold.to_string());
    }
    if info.closed {
        set(&mut answer, headers::CLOSED, "true");
    }
    Ok(answer)
}
