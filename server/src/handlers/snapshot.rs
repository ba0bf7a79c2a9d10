//! GET with `offset=snapshot`: what a stream of changes comes to, page by page, instead of how it came about.
//!
//! Invariants: the pages of one snapshot show the stream at one of its ends, and a page is the same bytes whoever makes
//! it, also after a restart of the server; where that cannot be had any more the page is refused, and never another.

use super::page::{bytes, refused, set_stream};
use super::{ATTEMPTS, Context, detached};
use crate::auth::Caller;
use crate::limits::Parts;
use crate::protocol::answer::{Answer, Refusal, put, set, with};
use crate::protocol::body::whole;
use crate::protocol::content::Framing;
use crate::protocol::headers;
use crate::snapshots::state::State;
use crate::snapshots::token::{Token, Wanted};
use crate::snapshots::{Stretch, message};
use crate::streams::{PAGE, Streams};
use everlog::types::Position;
use everlog::{LogInfo, Record};
use hyper::StatusCode;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE};
use std::sync::Arc;

pub async fn snapshot(context: &Arc<Context>, caller: &Caller, name: &str, wanted: Wanted) -> Result<Answer, Refusal> {
    for _ in 0..ATTEMPTS {
        let info = context.streams.info(name).await.map_err(|error| refused(context, name, &error))?;
        check_framing(&info)?;
        context.streams.renew(name, &Streams::know(&info)).await.map_err(|error| refused(context, name, &error))?;
        let token = match wanted {
            Wanted::First => Token { end: info.end(), first: info.first_seq, at: 0 },
            Wanted::Next(token) => {
                // The stream's history has to lead through the end. That it still has what it began with shows when it is
                // read.
                let read = context.streams.read_some(name, Position::Cursor(token.end), 1).await;
                let page = read.map_err(|error| refused(context, name, &error))?;
                if page.created != info.created {
                    continue;
                }
                token
            }
        };
        // The leave to hold a state goes with the work, also where whoever asked for it has gone.
        let device = context.limits.parts(caller);
        let (leave, log) = (context.snapshots.page(&device).await?, name.to_owned());
        let made = detached(context, async move |context| {
            let _leave = leave;
            page(&context, &device, &log, &info, token).await
        });
        match made.await {
            // The stream was cut short while it was looked at, and is looked at anew.
            Err(refusal) if refusal.status() == StatusCode::GONE && wanted == Wanted::First => {}
            answer => return answer,
        }
    }
    Err(Refusal::conflict("the stream was cut short or created again all the while"))
}

/// Refuses a stream that is none of messages, or is kept for its forks alone.
///
/// # Errors
/// 400, 410.
pub fn check_framing(info: &LogInfo) -> Result<(), Refusal> {
    let config = Streams::know(info).config;
    config.check_present()?;
    if config.framing() == Framing::Json {
        return Ok(());
    }
    let told = format!("a stream of {} has no snapshot; only streams of application/json do", config.content_type);
    Err(Refusal::bad_request(told))
}

async fn page(context: &Context, device: &Parts, name: &str, info: &LogInfo, token: Token) -> Result<Answer, Refusal> {
    let stretch = Stretch { created: info.created, first: token.first, end: token.end };
    let state = context.snapshots.at(&context.streams, name, stretch).await?;
    state.check()?;
    let len = state.len();
    if token.at > len {
        return Err(Refusal::bad_request(format!("the snapshot has {len} keys, and no page at {}", token.at)));
    }
    let (of, log) = (Arc::clone(&state), name.to_owned());
    let records = context.streams.on_thread(move |store| {
        let places = of.places(token.at, PAGE);
        of.records(store, &log, &places)
    });
    let records = records.await??;
    let room = context.limits.room(device, bytes(&records))?;
    let next = token.at + records.len() as u64;
    let body = render(&state, info, token.at == 0, &records, next == len);
    let mut answer = with(StatusCode::OK, whole(body));
    answer.body_mut().take_up(room);
    put(&mut answer, CONTENT_TYPE, &Streams::know(info).config.content_type);
    put(&mut answer, CACHE_CONTROL, "no-store");
    let next = if next == len { token.end.to_string() } else { Token { at: next, ..token }.to_string() };
    set(&mut answer, headers::NEXT_OFFSET, next);
    set_stream(&mut answer, info.created);
    if let Some(cold) = context.streams.cold_end(name, info.created).await {
        set(&mut answer, headers::COLD_OFFSET, cold.to_string());
    }
    Ok(answer)
}

fn render(state: &State, info: &LogInfo, is_first: bool, records: &[Record], is_last: bool) -> Vec<u8> {
    let end = state.stretch.end.to_string();
    let mut body = vec![b'['];
    let separate = |body: &mut Vec<u8>| {
        if body.len() > 1 {
            body.push(b',');
        }
    };
    if is_first {
        body.extend_from_slice(message::mark("snapshot-start", &end).as_bytes());
    }
    for record in records {
        separate(&mut body);
        message::restate(&record.payload, Some(&info.cursor(record.seq + 1).to_string()), &mut body);
    }
    if is_last {
        separate(&mut body);
        body.extend_from_slice(message::mark("snapshot-end", &end).as_bytes());
    }
    body.push(b']');
    body
}
