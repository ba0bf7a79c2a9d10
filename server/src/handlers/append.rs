//! POST: appends to a stream, closes it, or both at once.
//!
//! Invariant: 200 and 204 are said only of what is as safe as was asked for, on this node at least.

use super::{ATTEMPTS, Context, body};
use crate::auth::Caller;
use crate::limits::Booking;
use crate::protocol::answer::{Answer, Refusal, empty, set};
use crate::protocol::content::StreamConfig;
use crate::protocol::request::{self, Durability, Producer};
use crate::protocol::{content, headers};
use crate::streams::{self, Known, Owned};
use bytes::Bytes;
use everlog::types::Cursor;
use everlog::{Error, ErrorKind, LogReceipt};
use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

/// What the headers ask for.
struct Asked {
    content_type: Option<String>,
    closes: bool,
    producer: Option<Producer>,
    tag: Option<String>,
    end: Option<Cursor>,
    durability: Durability,
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
            durability: request::durability(map)?,
        })
    }
}

pub async fn append(
    context: Arc<Context>, caller: Caller, name: String, request: Request<Incoming>,
) -> Result<Answer, Refusal> {
    let context = &*context;
    let mut asked = Asked::read(&request)?;
    if let Some(producer) = &mut asked.producer {
        producer.id = caller.producer_id(&name, &producer.id);
    }
    // Who is not let in any more once the body is whole has sent it in vain.
    let body = caller.while_admitted(pin!(body(context, &caller, request))).await?;
    drop(caller);
    let begun = Instant::now();
    let body = &body.bytes;
    if body.is_empty() && !asked.closes {
        return Err(Refusal::bad_request("the body is empty; only a request that closes the stream may be"));
    }
    if !body.is_empty() && asked.content_type.is_none() {
        return Err(Refusal::bad_request("the request has no Content-Type"));
    }
    for _ in 0..ATTEMPTS {
        if let Some(answer) = attempt(context, &name, &asked, body).await? {
            context.metrics.acknowledged(asked.durability, begun.elapsed());
            return Ok(answer);
        }
        // Looked up anew: it may be another stream by now, or none.
        context.streams.forget(&name);
    }
    Err(Refusal::conflict("the stream was deleted and created again all the while"))
}

/// Appends to the stream that is known by this name; None if it is another one by now, or none.
async fn attempt(context: &Context, name: &str, asked: &Asked, body: &Bytes) -> Result<Option<Answer>, Refusal> {
    let known = context.streams.known(name).await?;
    if let Err(refusal) = known.config.check_present() {
        return objected(context, name, &known, refusal).await;
    }
    context.streams.renew(name, &known).await?;
    let records = match records(&known.config, asked, body) {
        Ok(records) => records,
        Err(refusal) => return objected(context, name, &known, refusal).await,
    };
    let has_records = !records.is_empty();
    if !has_records
        && asked.producer.is_none()
        && let Some(answer) = closed_before(context, name, asked.durability).await?
    {
        return Ok(Some(answer));
    }
    let more = Owned { logs: 0, bytes: if has_records { body.len() as u64 } else { 0 } };
    let (booking, full) = match context.limits.book(&context.streams, name, more).await {
        Ok(booking) => (booking, None),
        // A repetition stores nothing more, and is to be told so.
        Err(refusal) if asked.producer.is_some() => (Booking::default(), Some(refusal)),
        Err(refusal) => return Err(refusal),
    };
    let staged = streams::Request {
        name: name.to_owned(),
        created: Some(known.created),
        end: asked.end,
        // Whether it is a repetition is looked at first; what is none meets this, which nothing fulfils.
        expect_next: full.is_some().then_some(u64::MAX),
        body: body.clone(),
        records,
        producer: asked.producer.clone(),
        tag: asked.tag.clone(),
        close: asked.closes,
        durability: asked.durability,
        booking,
        ..streams::Request::default()
    };
    let error = match context.streams.append(staged).await {
        Ok(receipt) => return done(context, name, asked, &receipt, has_records).await.map(Some),
        Err(error) => error,
    };
    if matches!(error.kind(), ErrorKind::Replaced | ErrorKind::NotFound | ErrorKind::Deleted) {
        return Ok(None);
    }
    if let (ErrorKind::Condition, Some(full)) = (error.kind(), full) {
        let info = context.streams.info(name).await?;
        return Err(if info.closed { closed(info.end()) } else { full });
    }
    match closed_by(context, name, asked, &error).await {
        Some(answer) => Ok(Some(answer)),
        None => Err(refused(context, name, asked, &error).await),
    }
}

/// The answer to a request that only closes, if the stream is closed already.
async fn closed_before(context: &Context, name: &str, durability: Durability) -> Result<Option<Answer>, Refusal> {
    let info = context.streams.info(name).await?;
    if !info.closed {
        return Ok(None);
    }
    if durability == Durability::Cold {
        context.streams.cold(info.changed).await?;
    }
    Ok(Some(closed_answer(info.end())))
}

/// The answer to a repetition of the very request that closed the stream, with other content: the protocol wants it
/// taken for the repetition that it is, since the stream is closed for good and nothing can be lost.
async fn closed_by(context: &Context, name: &str, asked: &Asked, error: &Error) -> Option<Answer> {
    let producer = asked.producer.as_ref().filter(|_| asked.closes && error.kind() == ErrorKind::ProducerConflict)?;
    let info = context.streams.info(name).await.ok()?;
    // The stream's last change is its close; that is the request's if its content ends there.
    let issued = error.lsn_range().map(|lsns| lsns.start);
    if !info.closed || error.expected() != Some(producer.number + 1) || issued != Some(info.changed.0) {
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
    set(&mut answer, headers::DURABILITY, asked.durability.name());
    if let Some(producer) = &asked.producer {
        set(&mut answer, headers::PRODUCER_EPOCH, producer.epoch.to_string());
        set(&mut answer, headers::PRODUCER_SEQ, receipt.producer_highest.unwrap_or(producer.number).to_string());
    }
    // A repetition closes nothing: what it repeats may have.
    let closed = if receipt.duplicate { context.streams.info(name).await?.closed } else { asked.closes };
    if closed {
        set(&mut answer, headers::CLOSED, "true");
    }
    Ok(answer)
}

/// The parts of the body that become records of a stream of this configuration.
fn records(config: &StreamConfig, asked: &Asked, body: &Bytes) -> Result<Vec<Range<usize>>, Refusal> {
    if body.is_empty() {
        return Ok(Vec::new());
    }
    if !asked.content_type.as_deref().is_some_and(|content_type| config.accepts(content_type)) {
        return Err(Refusal::conflict(format!("the stream's content type is {}", config.content_type)));
    }
    let records = content::split(config.framing(), body)?;
    if records.is_empty() && !asked.closes {
        return Err(Refusal::bad_request("an empty array appends nothing"));
    }
    Ok(records)
}

/// Refuses an append that a stream objects to; that the stream is closed, or has ended meanwhile, counts for more. None if
/// it is another stream by now than the one that objected.
async fn objected(context: &Context, name: &str, known: &Known, refusal: Refusal) -> Result<Option<Answer>, Refusal> {
    let info = context.streams.info(name).await?;
    if info.created != known.created {
        return Ok(None);
    }
    let conflicts = refusal.status() == StatusCode::CONFLICT;
    Err(if info.closed && conflicts { closed(info.end()) } else { refusal })
}

fn closed(end: Cursor) -> Refusal {
    Refusal::conflict("the stream is closed").closed_at(end)
}

/// The refusal that the engine's error becomes here.
async fn refused(context: &Context, name: &str, asked: &Asked, error: &Error) -> Refusal {
    let plain = Refusal::from(error);
    match (error.kind(), &asked.producer, error.expected()) {
        (ErrorKind::ProducerFenced, _, Some(epoch)) => plain.header(headers::PRODUCER_EPOCH, epoch.to_string()),
        // Of a conflict as well: a client that finds no number in a 409 may take it that all of its appends are
        // missing, and wait for them for ever.
        (ErrorKind::ProducerGap | ErrorKind::ProducerConflict, Some(producer), Some(expected)) => plain
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
