//! HEAD: what a stream is and where it ends, without its content.

use super::{Context, page};
use crate::protocol::answer::{Answer, Refusal, empty, put, set};
use crate::protocol::headers;
use crate::protocol::lifetime::Lifetime;
use crate::streams::Streams;
use hyper::StatusCode;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE};
use std::sync::Arc;

pub async fn head(context: Arc<Context>, name: String) -> Result<Answer, Refusal> {
    let name = &*name;
    let info = context.streams.info(name).await?;
    let config = Streams::know(&info).config;
    config.check_present()?;
    let cold = context.streams.cold_end(name, info.created).await;
    let mut answer = empty(StatusCode::OK);
    put(&mut answer, CONTENT_TYPE, &config.content_type);
    put(&mut answer, CACHE_CONTROL, "no-store");
    set(&mut answer, headers::NEXT_OFFSET, info.end().to_string());
    page::set_stream(&mut answer, info.created);
    if let Some(cold) = cold {
        set(&mut answer, headers::COLD_OFFSET, cold.to_string());
    }
    match &config.lifetime {
        Some(Lifetime::Ttl(seconds)) => set(&mut answer, headers::TTL, seconds.to_string()),
        Some(Lifetime::ExpiresAt(moment)) => set(&mut answer, headers::EXPIRES_AT, moment),
        None => {}
    }
    if info.closed {
        set(&mut answer, headers::CLOSED, "true");
    }
    Ok(answer)
}
