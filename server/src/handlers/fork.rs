//! A PUT that creates a fork: a stream that begins with another one's content up to a place in it.
//!
//! The engine forks at a record. A place within a record, in a stream of bytes, is reached by a record of the fork's own
//! with the bytes before it. Invariant: the fork, its first content and the source's count of forks are one batch.

use super::Context;
use super::create::{Asked, Created, Otherwise};
use crate::protocol::answer::Refusal;
use crate::protocol::content::{ForkOf, Framing, StreamConfig, split};
use crate::protocol::fork::ForkAsked;
use crate::protocol::request::Durability;
use crate::streams::{Other, Owned, Request as Staged, Streams};
use bytes::Bytes;
use everlog::limits::RECORD_BYTES_MAX;
use everlog::types::{Cursor, Position};
use everlog::{ErrorKind, LogInfo};
use jiff::Timestamp;

/// Where a fork parts from its source.
struct Place {
    /// The offset that was meant, before what lies behind it.
    offset: Cursor,
    /// The seq that the engine forks at.
    seq: u64,
    /// The bytes of the record there that belong to the fork.
    part: Bytes,
}

/// To be carried out to its end, since the count of forks is this caller's for as long.
pub async fn create(
    context: &Context, name: &str, asked: &Asked, body: &Bytes,
) -> Result<Result<Created, Otherwise>, Refusal> {
    if let Ok(info) = context.streams.info(name).await {
        return Ok(Err(Otherwise::Found(Box::new(info))));
    }
    // Before the lock: to count what an owner has may take long. A part of a record has as many bytes as are asked for.
    let part = asked.fork.as_ref().map_or(0, |fork| fork.sub_offset).min(RECORD_BYTES_MAX as u64);
    let more = Owned { logs: 1, bytes: body.len() as u64 + part };
    let booking = context.limits.book(&context.streams, name, more).await?;
    let fork = asked.fork.as_ref().expect("a fork is asked for");
    let streams = &context.streams;
    let changes = streams.change_forks().await?;
    match streams.info(name).await {
        Ok(info) => return Ok(Err(Otherwise::Found(Box::new(info)))),
        Err(e) if e.kind() == ErrorKind::NotFound => {}
        Err(e) if e.kind() == ErrorKind::Deleted => {
            return Err(Refusal::conflict("a fork cannot take the place of a deleted stream; give it another name"));
        }
        Err(e) => return Err(e.into()),
    }
    let source = streams.info(&fork.source).await?;
    let source_config = Streams::know(&source).config;
    if source_config.gone {
        return Err(Refusal::conflict("the stream to fork was deleted"));
    }
    if asked.content_type.as_deref().is_some_and(|content_type| !source_config.accepts(content_type)) {
        let told = format!("the stream to fork has content type {}", source_config.content_type);
        return Err(Refusal::conflict(told));
    }
    let place = place(streams, fork, &source, source_config.framing()).await?;
    let config = config(asked, fork, &source, &source_config, &place);
    let staged = staged(name, asked, &config, &place, body)?;
    let counted = StreamConfig { forks: source_config.forks + 1, ..(*source_config).clone() };
    let other = Other { name: fork.source.clone(), created: source.created, metadata: Some(counted.metadata()) };
    let (parent, at) = (fork.source.clone(), place.seq);
    let held = Some(changes);
    let staged = Staged { fork: Some((parent, at)), others: vec![other], held, booking, ..staged };
    let receipt = match streams.append(staged).await {
        Ok(receipt) => receipt,
        Err(e) if matches!(e.kind(), ErrorKind::Exists | ErrorKind::Replaced) => return Ok(Err(Otherwise::Again)),
        Err(e) => return Err(e.into()),
    };
    if asked.durability == Durability::Cold {
        streams.cold(receipt.lsn).await?;
    }
    Ok(Ok(Created { config, end: receipt.next() }))
}

/// Finds the place in the source, which is a read of it.
async fn place(streams: &Streams, fork: &ForkAsked, source: &LogInfo, framing: Framing) -> Result<Place, Refusal> {
    streams.renew(&fork.source, &Streams::know(source)).await?;
    let offset = fork.offset.unwrap_or_else(|| source.end());
    if offset.seq > source.next_seq {
        return Err(Refusal::bad_request("Stream-Fork-Offset lies behind the end of the stream to fork"));
    }
    // Says whether the stream's history leads there.
    let page = streams.read_some(&fork.source, Position::Cursor(offset), 1).await?;
    let at = |seq, part| Ok(Place { offset, seq, part });
    if fork.sub_offset == 0 {
        return at(offset.seq, Bytes::new());
    }
    let too_far = || {
        let told = "Stream-Fork-Sub-Offset leads further than what was appended behind Stream-Fork-Offset";
        Err(Refusal::bad_request(told))
    };
    if framing == Framing::Json {
        return match offset.seq.checked_add(fork.sub_offset) {
            Some(seq) if seq <= page.head => at(seq, Bytes::new()),
            _ => too_far(),
        };
    }
    let Some(record) = page.records.into_iter().next() else { return too_far() };
    let len = record.payload.len() as u64;
    match fork.sub_offset {
        sub if sub > len => too_far(),
        sub if sub == len => at(offset.seq + 1, Bytes::new()),
        sub => {
            let mut part = record.payload;
            part.truncate(usize::try_from(sub).expect("it is less than a record's length"));
            at(offset.seq, part.into())
        }
    }
}

/// What the fork is created with: its own, and what it has from its source where nothing is asked for.
fn config(
    asked: &Asked, fork: &ForkAsked, source: &LogInfo, source_config: &StreamConfig, place: &Place,
) -> StreamConfig {
    let of = ForkOf {
        source: fork.source.clone(),
        created: source.created.0,
        offset: place.offset.to_string(),
        at_end: fork.offset.is_none(),
        sub_offset: fork.sub_offset,
        inherits: asked.lifetime.is_none(),
    };
    StreamConfig {
        lifetime: asked.lifetime.clone().or_else(|| source_config.lifetime.clone()),
        fork: Some(of),
        ..StreamConfig::new(asked.content_type.clone().unwrap_or_else(|| source_config.content_type.clone()))
    }
}

/// The batch's part for the fork itself.
fn staged(name: &str, asked: &Asked, config: &StreamConfig, place: &Place, body: &Bytes) -> Result<Staged, Refusal> {
    let mut records = if body.is_empty() { Vec::new() } else { split(config.framing(), body)? };
    let mut content = body.clone();
    if !place.part.is_empty() {
        let before = place.part.len();
        records.iter_mut().for_each(|range| *range = range.start + before..range.end + before);
        records.insert(0, 0..before);
        content = [&place.part[..], body].concat().into();
    }
    Ok(Staged {
        name: name.to_owned(),
        metadata: Some(config.metadata()),
        body: content,
        records,
        expires_in: config.lifetime.as_ref().map(|lifetime| lifetime.first(Timestamp::now())),
        close: asked.closes,
        ..Staged::default()
    })
}
