//! POST with `Everlog-Compact: true`: a stream of changes is made to begin with its own snapshot, and what led there is
//! given up.
//!
//! The state at the stream's end is appended, between `snapshot-start` and `snapshot-end`, and the stream trimmed to the
//! former. Each batch holds only if the stream ends where the one before left it, so that nobody else's record is ever
//! among those of the snapshot; the last one has `snapshot-end` and the trim. What a crash leaves:
//!
//! | it comes | the stream then |
//! |---|---|
//! | before the first batch is durable | is as it was |
//! | between two batches | is as it was, and says some values once more, behind a `snapshot-start` that nothing ends |
//! | once the last batch is durable | begins with the whole snapshot, whether the client hears of it or not |
//!
//! The same is left where somebody else's append comes in between: the next attempt begins another snapshot behind it.
//! Whoever reads such a stream from its beginning comes to the same state at each of its ends as before. Invariant:
//! nothing is given up before, and unless, all of the state is durable behind it.

use super::snapshot::check_framing;
use super::{ATTEMPTS, Context, body, detached};
use crate::auth::Caller;
use crate::protocol::answer::{Answer, Refusal, empty, set};
use crate::protocol::headers;
use crate::protocol::request::{self, Durability};
use crate::snapshots::state::{Place, State};
use crate::snapshots::{Stretch, message};
use crate::streams::{Request as Staged, Streams};
use bytes::Bytes;
use everlog::types::Cursor;
use everlog::{ErrorKind, LogReceipt, ReadLimit};
use hyper::body::Incoming;
use hyper::header::HeaderMap;
use hyper::{Request, StatusCode};
use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

/// What one batch holds at most, unless a single record is larger.
const BATCH: ReadLimit = ReadLimit { records: 16_384, bytes: 4 << 20 };
/// Memory for one batch, in KiB: its bytes with a largest record, once as records and once as the request.
const BATCH_KIB: u32 = 2 * (12 << 10);

/// Whether a request wants a stream compacted.
///
/// # Errors
/// 400 for anything but `true`.
pub fn is_wanted(map: &HeaderMap) -> Result<bool, Refusal> {
    match request::text(map, headers::COMPACT)? {
        None => Ok(false),
        Some("true") => Ok(true),
        Some(_) => Err(Refusal::bad_request("Everlog-Compact is true, or not there")),
    }
}

pub async fn compact(
    context: Arc<Context>, caller: Caller, name: String, request: Request<Incoming>,
) -> Result<Answer, Refusal> {
    let map = request.headers();
    let (durability, expected) = (request::durability(map)?, request::expected_end(map)?);
    if request::producer(map)?.is_some() || request::tag(map)?.is_some() || request::closes(map)? {
        let told = "a compaction has no producer's number, no Stream-Seq and closes nothing; repeat it as it is";
        return Err(Refusal::bad_request(told));
    }
    let ready = async {
        if !body(&context, &caller, request).await?.bytes.is_empty() {
            return Err(Refusal::bad_request("a compaction has no body"));
        }
        context.snapshots.compaction(&context.limits.parts(&caller)).await
    };
    // Who is not let in any more by then has waited in vain.
    let turn = caller.while_admitted(pin!(ready)).await?;
    // A client that goes leaves no part of a snapshot behind.
    let work = detached(&context, async move |context| {
        let _turn = turn;
        compacted(&context, &name, durability, expected).await
    });
    work.await
}

async fn compacted(
    context: &Context, name: &str, durability: Durability, expected: Option<Cursor>,
) -> Result<Answer, Refusal> {
    let begun = Instant::now();
    for _ in 0..ATTEMPTS {
        let info = context.streams.info(name).await?;
        check_framing(&info)?;
        context.streams.renew(name, &Streams::know(&info)).await?;
        if info.closed {
            return Err(Refusal::conflict("the stream is closed").closed_at(info.end()));
        }
        if expected.is_some_and(|expected| expected != info.end()) {
            return Err(moved(info.end()));
        }
        let stretch = Stretch { created: info.created, first: info.first_seq, end: info.end() };
        let state = match context.snapshots.at(&context.streams, name, stretch).await {
            // Somebody else was faster.
            Err(refusal) if refusal.status() == StatusCode::GONE => continue,
            state => state?,
        };
        state.check_whole()?;
        match write(context, name, &state, durability).await? {
            Some(receipt) => {
                context.metrics.acknowledged(durability, begun.elapsed());
                let mut answer = empty(StatusCode::NO_CONTENT);
                set(&mut answer, headers::NEXT_OFFSET, receipt.next().to_string());
                set(&mut answer, headers::DURABILITY, durability.name());
                return Ok(answer);
            }
            None => context.streams.forget(name),
        }
    }
    let told = "others appended to the stream all the while; it is as it was, and may be compacted when it is quiet";
    Err(Refusal::conflict(told))
}

fn moved(end: Cursor) -> Refusal {
    let told = "the stream's end is not the one that was expected; read what came in between";
    Refusal::new(StatusCode::PRECONDITION_FAILED, told).header(headers::NEXT_OFFSET, end.to_string())
}

/// Appends the snapshot and trims the stream to it. None if somebody else appended meanwhile, or it is another stream now.
async fn write(
    context: &Context, name: &str, state: &Arc<State>, durability: Durability,
) -> Result<Option<LogReceipt>, Refusal> {
    let (stretch, len) = (state.stretch, state.len());
    let (mut at, mut end) = (0, stretch.end);
    loop {
        let share = Arc::clone(&context.bodies).acquire_many_owned(BATCH_KIB).await;
        let _share = share.expect("the semaphore is never closed");
        let places = state.places(at, BATCH);
        let is_last = at + places.len() as u64 == len;
        let (is_first, count) = (at == 0, places.len() as u64);
        let (body, records) = restated(context, name, state, places, is_first, is_last).await?;
        let staged = Staged {
            name: name.to_owned(),
            created: Some(stretch.created),
            end: Some(end),
            body,
            records,
            trim: is_last.then_some(stretch.end.seq),
            // What a cold store has of the last one is behind all the others.
            durability: if is_last { durability } else { Durability::Local },
            ..Staged::default()
        };
        match context.streams.append(staged).await {
            Ok(receipt) if is_last => return Ok(Some(receipt)),
            Ok(receipt) => (at, end) = (at + count, receipt.next()),
            Err(error) if is_lost_race(error.kind()) => return Ok(None),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Whether somebody else's change came first; the next look at the stream tells which.
fn is_lost_race(kind: ErrorKind) -> bool {
    use ErrorKind::{Closed, Condition, Deleted, NotFound, Replaced};
    matches!(kind, Closed | Condition | Deleted | NotFound | Replaced)
}

/// The records at `places` as the insertions that a snapshot says, in one body.
async fn restated(
    context: &Context, name: &str, state: &Arc<State>, places: Vec<Place>, is_first: bool, is_last: bool,
) -> Result<(Bytes, Vec<std::ops::Range<usize>>), Refusal> {
    let (of, log) = (Arc::clone(state), name.to_owned());
    let records = context.streams.on_thread(move |store| of.records(store, &log, &places)).await??;
    let end = state.stretch.end.to_string();
    let (mut body, mut ranges) = (Vec::new(), Vec::with_capacity(records.len() + 2));
    let mut add = |make: &dyn Fn(&mut Vec<u8>)| {
        let start = body.len();
        make(&mut body);
        ranges.push(start..body.len());
    };
    if is_first {
        add(&|body| body.extend_from_slice(message::mark("snapshot-start", &end).as_bytes()));
    }
    for record in &records {
        add(&|body| message::restate(&record.payload, None, body));
    }
    if is_last {
        add(&|body| body.extend_from_slice(message::mark("snapshot-end", &end).as_bytes()));
    }
    Ok((body.into(), ranges))
}
