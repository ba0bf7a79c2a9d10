//! POST: appends to a stream, closes it, or both at once.
//!
//! Invariant: 200 and 204 are said only of what is durable on this node.

use super::{Context, body};
use crate::protocol::answer::{Answer, Refusal, empty, set};
use crate::protocol::request::{self, Producer};
use crate::protocol::{content, headers};
use crate::streams;
use everlog::types::Cursor;
use everlog::{Error, ErrorKind, LogReceipt};
use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use std::sync::Arc;
use std::time::Instant;

/// How often a stream may be deleted and created again under one append.
const ATTEMPTS: usize = 8;

/// What the headers ask for.
struct Asked {
    content_type: Option<String>,
    closes: bool,
    producer: Option<Producer>,
    tag: Option<String>,
    end: Option<Cursor>,
}

impl Asked {
    fn read(request: &Request<Incoming>) -> Result<Self, Refusal> {
        let map = request.headers();
        Ok(Self {
            content_type: request::content_type(map)?.map(str::to_owned),
            closes: request::closes(map)?,
            producer: request::producer(map)?,
            tag: request::tag(map)?,
            end: request::expected_end(map)?,
        })
    }
}

pub async fn append(context: &Arc<Context>, name: String, request: Request<Incoming>) -> Result<Answer, Refusal> {
    let asked = Asked::read(&request)?;
    let body = body(request).await?;
    let begun = Instant::now();
    if body.is_empty() && !asked.closes {
        return Err(Refusal::bad_request("the body is empty; only a request that closes the stream may be"));
    }
    if !body.is_empty() && asked.content_type.is_none() {
        return Err(Refusal::bad_request("the request has no Content-Type"));
    }
    for _ in 0..ATTEMPTS {
        let known = context.streams.known(&name).await?;
        if let Some(content_type) = asked.content_type.as_deref()
            && !body.is_empty()
            && !known.config.accepts(content_type)
        {
            return Err(mismatch(context, &name, &known.config.content_type).await);
        }
        let records = if body.is_empty() { Vec::new() } else { content::split(known.config.framing(), &body)? };
        if records.is_empty() && !asked.closes {
            return Err(Refusal::bad_request("an empty array appends nothing"));
        }
        let staged = streams::Request {
            name: name.clone(),
            created: Some(known.created),
            end: asked.end,
            body: body.clone(),
            records,
            producer: asked.producer.clone(),
            tag: asked.tag.clone(),
            close: asked.closes,
            ..streams::Request::default()
        };
        let has_records = !staged.records.is_empty();
        if !has_records
            && asked.producer.is_none()
            && let Some(answer) = closed_before(context, &name).await?
        {
            return Ok(answer);
        }
        match context.streams.append(staged).await {
            Ok(receipt) => {
                context.metrics.acknowledged(begun.elapsed());
                return done(context, &name, &asked, &receipt, has_records).await;
            }
            Err(error) if matches!(error.kind(), ErrorKind::Replaced | ErrorKind::NotFound | ErrorKind::Deleted) => {
                // Looked up anew: it may be another stream by now, or none.
                context.streams.forget(&name);
            }
            Err(error) => {
                return match closed_by(context, &name, &asked, &error).await {
                    Some(answer) => Ok(answer),
                    None => Err(refused(context, &name, &asked, &error).await),
                };
            }
        }
    }
    Err(Refusal::conflict("the stream was deleted and created again all the while"))
}

/// The answer to a request that only closes, if the stream is closed already.
async fn closed_before(context: &Context, name: &str) -> Result<Option<Answer>, Refusal> {
    let info = context.streams.info(name).await?;
    Ok(info.closed.then(|| closed_answer(info.end())))
}

/// The answer to a repetition of the very request that closed the stream, with other content: the protocol wants it
/// taken for the repetition that it is, since the stream is closed for good and nothing can be lost.
async fn closed_by(context: &Context, name: &str, asked: &Asked, error: &Error) -> Option<Answer> {
    let producer = asked.producer.as_ref().filter(|_| asked.closes && error.kind() == ErrorKind::ProducerConflict)?;
    let info = context.streams.info(name).await.ok()?;
    if !info.closed || error.expected() != Some(producer.number + 1) {
        return None;
    }
    let mut answer = closed_answer(info.end());
    set(&mut answer, headers::PRODUCER_EPOCH, producer.epoch.to_string());
    set(&mut answer, headers::PRODUCER_SEQ, producer.number.to_string());
    Some(answer)
}

fn closed_answer(end: Cursor) -> Answer {
    let mut answer = empty(StatusCode::NO_CONTENT);
    set(&mut answer, headers::NEXT_OFFSET, end.to_string());
    set(&mut answer, headers::CLOSED, "true");
    answer
}

async fn done(
    context: &Context, name: &str, asked: &Asked, receipt: &LogReceipt, has_records: bool,
) -> Result<Answer, Refusal> {
    let fresh = has_records && asked.producer.is_some() && !receipt.duplicate;
    let mut answer = empty(if fresh { StatusCode::OK } else { StatusCode::NO_CONTENT });
    set(&mut answer, headers::NEXT_OFFSET, receipt.next().to_string());
    set(&mut answer, headers::DURABILITY, "local");
    if let Some(producer) = &asked.producer {
        set(&mut answer, headers::PRODUCER_EPOCH, producer.epoch.to_string());
        set(&mut answer, headers::PRODUCER_SEQ, receipt.producer_highest.unwrap_or(producer.number).to_string());
    }
    if asked.closes || (receipt.duplicate && context.streams.info(name).await?.closed) {
        set(&mut answer, headers::CLOSED, "true");
    }
    Ok(answer)
}

/// The refusal for another content type; that the stream is closed counts for more.
async fn mismatch(context: &Context, name: &str, content_type: &str) -> Refusal {
    match context.streams.info(name).await {
        Ok(info) if info.closed => closed(info.end()),
        Ok(_) => Refusal::conflict(format!("the stream's content type is {content_type}")),
        Err(error) => error.into(),
    }
}

fn closed(end: Cursor) -> Refusal {
    Refusal::conflict("the stream is closed").closed_at(end)
}

/// The refusal that the engine's error becomes here.
async fn refused(context: &Context, name: &str, asked: &Asked, error: &Error) -> Refusal {
    let plain = Refusal::from(error);
    match (error.kind(), &asked.producer, error.expected()) {
        (ErrorKind::ProducerFenced, _, Some(epoch)) => plain.header(headers::PRODUCER_EPOCH, epoch.to_string()),
        (ErrorKind::ProducerGap, Some(producer), Some(expected)) => plain
            .header(headers::PRODUCER_EXPECTED_SEQ, expected.to_string())
            .header(headers::PRODUCER_RECEIVED_SEQ, producer.number.to_string()),
        (ErrorKind::Closed | ErrorKind::Condition, _, _) => match context.streams.info(name).await {
            Ok(info) if info.closed => closed(info.end()),
            Ok(info) if error.expected().is_some() && asked.end.is_some() => {
                let told = "the stream's end is not the one that was expected; read what came in between";
                Refusal::new(StatusCode::PRECONDITION_FAILED, told).header(headers::NEXT_OFFSET, info.end().to_string())
            }
            Ok(_) => plain,
            Err(error) => error.into(),
        },
        _ => plain,
    }
}
