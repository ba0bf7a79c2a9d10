//! Compressing an answer, for a client that wants it so.
//!
//! Invariant: what takes long is not done on the threads that run the connections, and no more of it at once than there is
//! memory for.

use super::Context;
use crate::protocol::answer::{Answer, Refusal, put};
use crate::protocol::body::whole;
use crate::protocol::encoding::{Accepted, Coding};
use crate::protocol::headers;
use hyper::StatusCode;
use hyper::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, VARY};

/// Up to so many bytes are compressed at once, which takes less time than to hand them over.
const AT_ONCE: usize = 16 << 10;

/// How the answer is to be coded, said in its headers.
pub fn choose(accepted: Accepted, answer: &mut Answer) -> Option<Coding> {
    put(answer, VARY, ACCEPT_ENCODING.as_str());
    let content_type = answer.headers().get(CONTENT_TYPE)?.to_str().ok()?;
    let coding = accepted.coding(content_type, answer.body().bytes()?.len());
    coding.inspect(|coding| put(answer, CONTENT_ENCODING, coding.name()))
}

/// Codes the answer's body.
///
/// # Errors
/// 500 for want of memory; 503 if the server breaks off amid it.
pub async fn encode(context: &Context, coding: Coding, answer: &mut Answer) -> Result<(), Refusal> {
    let Some(body) = answer.body().bytes().cloned() else { return Ok(()) };
    let coded = if body.len() <= AT_ONCE {
        coding.encode(&body)
    } else {
        let _permit = context.compressions.acquire().await.expect("the semaphore is never closed");
        let coded = tokio::task::spawn_blocking(move || coding.encode(&body)).await;
        coded.map_err(|_| Refusal::unknown())?
    };
    let coded = coded.map_err(|e| {
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, format!("the answer could not be compressed: {e}"))
            .header(headers::ERROR, "failed")
    })?;
    let room = answer.body_mut().give_up();
    *answer.body_mut() = whole(coded);
    answer.body_mut().take_up(room);
    Ok(())
}
