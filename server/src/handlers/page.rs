//! A page of a stream: reading it with the configuration of the very log that was read, and describing it.
//!
//! Invariant: `Stream-Up-To-Date` and `Stream-Closed` are said only of a page that reaches the stream's end, and what is
//! missing or damaged is an error and never a shorter page.

use super::{ATTEMPTS, Context};
use crate::limits::{Parts, Room};
use crate::protocol::answer::{Answer, Refusal, put, set, with};
use crate::protocol::body::whole;
use crate::protocol::content::join;
use crate::protocol::headers;
use crate::streams::{Known, Streams};
use everlog::types::{Cursor, Lsn, Position};
use everlog::{Error, ErrorKind, Page, Record};
use hyper::StatusCode;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE};

/// A page, and of which stream.
pub struct Found {
    pub page: Page,
    pub known: Known,
    /// Up to where the stream is verified in a cold store, if one counts.
    pub cold: Option<Cursor>,
    /// The memory that its content takes.
    pub room: Option<Room>,
}

/// How many bytes of content there are.
pub fn bytes(records: &[Record]) -> usize {
    records.iter().map(|record| record.payload.len()).sum()
}

/// Reads, with the configuration of the very log that was read, and tells a reader from another history where it stands.
pub async fn read(context: &Context, device: &Parts, name: &str, from: Position) -> Result<Found, Refusal> {
    for _ in 0..ATTEMPTS {
        let page = match context.streams.read(name, from).await {
            Ok(page) => page,
            Err(error) => {
                // A stream that is kept for its forks alone is gone, whatever else is wrong with the offset.
                if matches!(error.kind(), ErrorKind::Trimmed | ErrorKind::Rewound) {
                    Streams::know(&context.streams.info(name).await?).config.check_present()?;
                }
                return Err(refused(context, name, &error));
            }
        };
        let room = context.limits.room(device, bytes(&page.records))?;
        let known = context.streams.known_as(name, page.created).await;
        if let Some(known) = known.map_err(|error| refused(context, name, &error))? {
            known.config.check_present()?;
            context.streams.renew(name, &known).await.map_err(|error| refused(context, name, &error))?;
            let cold = context.streams.cold_end(name, page.created).await;
            return Ok(Found { page, known, cold, room });
        }
    }
    Err(Refusal::conflict("the stream was deleted and created again all the while"))
}

/// The refusal that a failed read becomes.
pub fn refused(context: &Context, name: &str, error: &Error) -> Refusal {
    let refusal = Refusal::from(error);
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::Deleted => context.streams.forget(name),
        ErrorKind::Rewound => return refusal.header(headers::TIMELINE, context.streams.timeline().to_string()),
        _ => {}
    }
    refusal
}

/// The answer with a page, which takes its memory over.
pub fn described(status: StatusCode, Found { page, known, cold, room }: &mut Found) -> Answer {
    let mut answer = with(status, whole(join(known.config.framing(), &page.records)));
    answer.body_mut().take_up(room.take());
    put(&mut answer, CONTENT_TYPE, &known.config.content_type);
    put(&mut answer, CACHE_CONTROL, "private, no-cache");
    set(&mut answer, headers::NEXT_OFFSET, page.next.to_string());
    set_stream(&mut answer, page.created);
    if let Some(cold) = cold {
        set(&mut answer, headers::COLD_OFFSET, cold.to_string());
    }
    if at_end(page) {
        set(&mut answer, headers::UP_TO_DATE, "true");
        if page.closed {
            set(&mut answer, headers::CLOSED, "true");
        }
    }
    answer
}

/// Says which of the streams that had its name this is, by when it was created.
pub fn set_stream(answer: &mut Answer, created: Lsn) {
    set(answer, headers::STREAM, format!("{:016x}", created.0));
}

/// Whether the page reaches the stream's end.
pub fn at_end(page: &Page) -> bool {
    page.next_seq == page.head
}
