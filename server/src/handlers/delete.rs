//! DELETE: the stream is gone for every client once this is answered, and stays so after any crash. The bytes of its
//! records are given back once the grace is over.
//!
//! A stream that others were forked from is kept for them, and is answered 410; it goes with the last of them, in the same
//! batch, and so does what it was itself forked from, if that was kept for it alone. Invariant: how many forks a stream has
//! is changed in the batch that makes or deletes the fork, and under `Streams::change_forks`: a crash leaves both or
//! neither, and no two changes count from the same number. Neither a client that goes nor a disk that is slow lets go of that
//! lock too early.

use super::{ATTEMPTS, Context, detached};
use crate::auth::Caller;
use crate::auth::audit::{self, Action};
use crate::protocol::answer::{Answer, Refusal, empty, set};
use crate::protocol::content::ForkOf;
use crate::protocol::request::Durability;
use crate::protocol::{headers, request};
use crate::streams::{Other, Request, Streams};
use everlog::{ErrorKind, LogReceipt};
use hyper::StatusCode;
use hyper::header::HeaderMap;
use std::sync::Arc;
use std::time::Instant;

pub async fn delete(context: Arc<Context>, caller: Caller, name: String, asked: HeaderMap) -> Result<Answer, Refusal> {
    let durability = request::durability(&asked)?;
    let audited = context.gate.tells_apart();
    let audit = audited.then(|| audit::record(&caller.actor, Action::StreamDelete, &name, "done"));
    let begun = Instant::now();
    let receipt = detached(&context, async move |context| {
        let streams = &context.streams;
        match alone(streams, &name, audit.as_ref()).await? {
            Some(receipt) => Ok(receipt),
            None => with_forks(streams, &name, audit.as_ref()).await,
        }
    });
    let receipt = receipt.await?;
    if durability == Durability::Cold {
        context.streams.cold(receipt.lsn).await?;
    }
    context.metrics.acknowledged(durability, begun.elapsed());
    let mut answer = empty(StatusCode::NO_CONTENT);
    set(&mut answer, headers::DURABILITY, durability.name());
    Ok(answer)
}

/// Deletes a stream that is no fork and has none; None if it is or has.
async fn alone(streams: &Streams, name: &str, audit: Option<&Vec<u8>>) -> Result<Option<LogReceipt>, Refusal> {
    let _held = streams.hold_forks().await?;
    let info = streams.info(name).await?;
    let config = Streams::know(&info).config;
    if config.fork.is_some() || config.forks > 0 {
        return Ok(None);
    }
    let (name, created) = (name.to_owned(), Some(info.created));
    let request = Request { name, created, delete: true, audit: audit.cloned(), ..Request::default() };
    match streams.append(request).await {
        Ok(receipt) => Ok(Some(receipt)),
        // It is another one by now, which is looked at anew.
        Err(e) if e.kind() == ErrorKind::Replaced => Ok(None),
        Err(e) => Err(e.into()),
    }
}

/// Deletes a stream that is a fork, or has forks.
async fn with_forks(streams: &Streams, name: &str, audit: Option<&Vec<u8>>) -> Result<LogReceipt, Refusal> {
    for _ in 0..ATTEMPTS {
        let held = Some(streams.change_forks().await?);
        let info = streams.info(name).await?;
        let mut config = (*Streams::know(&info).config).clone();
        config.check_present()?;
        let mut request = Request {
            name: name.to_owned(),
            created: Some(info.created),
            audit: audit.cloned(),
            held,
            ..Request::default()
        };
        if config.forks > 0 {
            config.gone = true;
            request.metadata = Some(config.metadata());
        } else {
            request.delete = true;
            request.others = released(streams, config.fork).await?;
        }
        match streams.append(request).await {
            Ok(receipt) => return Ok(receipt),
            // One of them has ended by itself meanwhile.
            Err(e) if matches!(e.kind(), ErrorKind::Replaced | ErrorKind::Deleted) => {}
            Err(e) => return Err(e.into()),
        }
    }
    Err(Refusal::conflict("the stream was deleted and created again all the while"))
}

/// What becomes of the streams above a fork that goes: each counts one less, and goes as well if it was kept for that one
/// alone.
async fn released(streams: &Streams, fork: Option<ForkOf>) -> Result<Vec<Other>, Refusal> {
    let (mut others, mut above) = (Vec::new(), fork);
    while let Some(fork) = above.take() {
        let info = match streams.info(&fork.source).await {
            Ok(info) if info.created.0 == fork.created => info,
            // It has ended by itself, and there may be another one of its name.
            Ok(_) => break,
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Deleted) => break,
            Err(e) => return Err(e.into()),
        };
        let mut config = (*Streams::know(&info).config).clone();
        config.forks = config.forks.saturating_sub(1);
        let goes = config.gone && config.forks == 0;
        let metadata = (!goes).then(|| config.metadata());
        others.push(Other { name: fork.source, created: info.created, metadata });
        if goes {
            above = config.fork;
        }
    }
    Ok(others)
}
