//! Live reads: a long poll that waits for one page, and a stream of events that goes on for about a minute.
//!
//! A reader is woken by its own log alone. Invariant: nobody waits at the end of a stream that is closed, and a reader
//! that has gone is noticed and forgotten.

use super::Context;
use super::page::{self, Found, at_end, described, refused, set_stream};
use crate::auth::Caller;
use crate::limits::{Parts, Room};
use crate::metrics::Counted;
use crate::protocol::answer::{Answer, Refusal, put, set, with};
use crate::protocol::body::{self, Done, Step, whole};
use crate::protocol::content::Framing;
use crate::protocol::headers;
use crate::protocol::lifetime::Lifetime;
use crate::protocol::query::Query;
use crate::protocol::sse::{self, Control};
use crate::streams::{Known, PAGE};
use everlog::limits::RECORD_BYTES_MAX;
use everlog::types::{Cursor, Lsn, Position};
use everlog::{Page, Subscription};
use hyper::StatusCode;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::{Instant, sleep_until};

/// 2024-10-09 00:00:00 UTC, from which the protocol counts cursors, in seconds.
const CURSOR_EPOCH_S: u64 = 1_728_432_000;
/// How long a cursor lasts.
const CURSOR_INTERVAL_S: u64 = 20;
/// The most seconds by which a cursor is moved on that did not change by itself.
const CURSOR_JITTER_S: u64 = 3600;

/// The next cursor: the number of the present interval, or, if the client had that, one further on by chance, so that no
/// cache gives the same answer for ever.
pub(super) fn cursor(given: Option<u64>) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let interval = now.saturating_sub(CURSOR_EPOCH_S) / CURSOR_INTERVAL_S;
    next_cursor(interval, given, || {
        let mut random = [0; 8];
        // Without random bytes it still moves on.
        let _ = getrandom::fill(&mut random);
        u64::from_le_bytes(random)
    })
    .to_string()
}

fn next_cursor(interval: u64, given: Option<u64>, random: impl FnOnce() -> u64) -> u64 {
    match given {
        Some(given) if given >= interval => {
            let seconds = 1 + random() % CURSOR_JITTER_S;
            given.saturating_add(seconds.div_ceil(CURSOR_INTERVAL_S))
        }
        _ => interval,
    }
}

/// What is waited for: the end of a stream to be past `head`.
struct Wait<'a> {
    name: &'a str,
    known: &'a Known,
    subscription: &'a Subscription,
    head: u64,
    until: Instant,
}

/// Waits until the stream's end is past what is known of it, it ends, the server stops, or the time is up. False for the last
/// two. A stream that lives for as long as it is used does so while somebody waits for it, up to the end of the wait.
async fn more(context: &Context, wait: &Wait<'_>) -> everlog::Result<bool> {
    let renew_every = match wait.known.config.lifetime {
        Some(Lifetime::Ttl(seconds)) => Duration::from_secs(seconds) / 2,
        _ => Duration::MAX,
    };
    loop {
        let renewal = Instant::now().checked_add(renew_every).map_or(wait.until, |at| at.min(wait.until));
        tokio::select! {
            changed = wait.subscription.changed(wait.head) => return changed.map(|_| true),
            () = sleep_until(renewal) => {}
            () = context.stopped() => return Ok(false),
        }
        context.streams.renew(wait.name, wait.known).await?;
        if renewal >= wait.until {
            return Ok(false);
        }
    }
}

/// Answers once there is something, or the time is up. Reading is in boxes of its own, which are gone while this waits.
pub async fn long_poll(context: &Context, caller: &Caller, name: &str, query: &Query) -> Result<Answer, Refusal> {
    let until = Instant::now() + Duration::from_millis(context.settings.long_poll_ms);
    let _counted = Counted::new(&context.metrics.live_readers);
    let device = context.limits.parts(caller);
    let mut found = Box::pin(page::read(context, &device, name, query.from)).await?;
    let page = &found.page;
    if page.records.is_empty() && !page.closed {
        let subscription = context.streams.subscribe(name).await?;
        let wait = Wait { name, known: &found.known, subscription: &subscription, head: page.head, until };
        let waited = more(context, &wait).await;
        if waited.map_err(|error| refused(context, name, &error))? {
            found = Box::pin(page::read(context, &device, name, Position::Cursor(page.next))).await?;
        }
    }
    let mut answer = described(StatusCode::OK, &mut found);
    let page = &found.page;
    if page.records.is_empty() {
        *answer.status_mut() = StatusCode::NO_CONTENT;
        *answer.body_mut() = whole("");
        put(&mut answer, CACHE_CONTROL, "no-store");
    }
    if !(page.closed && at_end(page)) {
        set(&mut answer, headers::CURSOR, cursor(query.cursor));
    }
    Ok(answer)
}

pub async fn events(context: &Arc<Context>, caller: &Caller, name: String, query: &Query) -> Result<Answer, Refusal> {
    // The first page is read before the answer begins, so that what is wrong still has a status of its own.
    let device = context.limits.parts(caller);
    let Found { page: first, known, room, .. } = page::read(context, &device, &name, query.from).await?;
    let framing = known.config.framing();
    if framing == Framing::Text && never_text(&first) {
        let told = "what follows is not UTF-8, which events cannot carry; read it without live=sse";
        return Err(Refusal::new(StatusCode::NOT_ACCEPTABLE, told));
    }
    let subscription = context.streams.subscribe(&name).await.map_err(|error| refused(context, &name, &error))?;
    let reader = Box::new(Reader {
        context: Arc::clone(context),
        device,
        name,
        framing,
        known,
        cursor: query.cursor,
        created: first.created,
        until: Instant::now() + Duration::from_millis(context.settings.sse_ms),
        subscription,
        _counted: Counted::new(&context.metrics.live_readers),
    });
    let created = first.created;
    let body = body::events(reader.tell(first, room), caller.ending());
    let mut answer = with(StatusCode::OK, body);
    set_stream(&mut answer, created);
    put(&mut answer, CONTENT_TYPE, "text/event-stream");
    put(&mut answer, CACHE_CONTROL, "private, no-cache");
    if framing == Framing::Binary {
        set(&mut answer, headers::SSE_ENCODING, "base64");
    }
    Ok(answer)
}

/// Whether what follows can be no text: it is not UTF-8, or the stream was closed within a character.
fn never_text(page: &Page) -> bool {
    match sse::whole_characters(&page.records) {
        None => true,
        Some(whole) => whole == 0 && !page.records.is_empty() && at_end(page) && page.closed,
    }
}

/// Whoever makes the events of one answer: what they need and nothing that one of them alone needs, since there are as
/// many as readers that wait.
struct Reader {
    context: Arc<Context>,
    device: Arc<Parts>,
    name: String,
    framing: Framing,
    known: Known,
    cursor: Option<u64>,
    created: Lsn,
    until: Instant,
    subscription: Subscription,
    _counted: Counted,
}

/// What is gathered at most until a character is whole.
const GATHERED_BYTES_MAX: usize = PAGE.bytes + RECORD_BYTES_MAX;

/// How far a stream was looked at, which may be further than what is told of it.
struct Seen {
    head: u64,
    all: bool,
    closed: bool,
}

impl Seen {
    fn of(page: &Page) -> Self {
        Self { head: page.head, all: at_end(page), closed: page.closed }
    }
}

const OVER: Done = Done { event: None, next: None, room: None };

impl Reader {
    /// Tells `page`, and goes on behind it until the stream ends or the time is up. Errors end the events: the client
    /// connects again and is told with a status.
    fn tell(self: Box<Self>, page: Page, mut room: Option<Room>) -> Step {
        Step::new(async move {
            let Some((sent, seen)) = self.whole(page, &mut room).await else { return OVER };
            let Seen { head, all, closed } = seen;
            let cold = self.context.streams.cold_end(&self.name, self.created).await;
            let Some(text) = self.text(&sent, cold) else { return OVER };
            let next = match all {
                true if closed => None,
                true => Some(self.wait(head, sent.next)),
                false if Instant::now() >= self.until => None,
                false => Some(self.read(sent.next)),
            };
            Done { event: Some(text.into()), next, room }
        })
    }

    /// Waits until there is more than `head`, which is what most readers do most of the time.
    fn wait(self: Box<Self>, head: u64, from: Cursor) -> Step {
        Step::new(async move {
            let (name, known, until) = (&*self.name, &self.known, self.until);
            let wait = Wait { name, known, subscription: &self.subscription, head, until };
            match more(&self.context, &wait).await {
                Ok(true) => Done { next: Some(self.read(from)), ..Done::default() },
                _ => OVER,
            }
        })
    }

    /// Reads the next page, and tells it.
    fn read(self: Box<Self>, from: Cursor) -> Step {
        Step::new(async move {
            let next = self.context.streams.read(&self.name, Position::Cursor(from)).await;
            let next = next.ok().filter(|next| next.created == self.created);
            // A stream that is kept for its forks alone is gone for its readers.
            let known = self.context.streams.known_as(&self.name, self.created).await.ok().flatten();
            let is_there = known.is_some_and(|known| known.config.check_present().is_ok());
            let Some(page) = next.filter(|_| is_there) else { return OVER };
            match self.context.limits.room(&self.device, page::bytes(&page.records)) {
                Ok(room) => Done { next: Some(self.tell(page, room)), ..Done::default() },
                Err(_) => OVER,
            }
        })
    }

    /// As much of a page as is whole characters, where it is to be text; the rest waits until the character is whole.
    /// None where nothing can be sent any more. `room` is the memory that it takes.
    async fn whole(&self, mut page: Page, room: &mut Option<Room>) -> Option<(Page, Seen)> {
        if self.framing != Framing::Text {
            let seen = Seen::of(&page);
            return Some((page, seen));
        }
        let mut gathers = false;
        loop {
            let seen = Seen::of(&page);
            match sse::whole_characters(&page.records)? {
                whole if whole == page.records.len() => return Some((page, seen)),
                0 if seen.all => {
                    let none = Page { records: Vec::new(), next: page.start, next_seq: page.start.seq, ..page };
                    return Some((none, seen));
                }
                // A record as large as a page may end within a character, which the next one goes on with.
                0 => {
                    if page::bytes(&page.records) > GATHERED_BYTES_MAX {
                        return None;
                    }
                    if !std::mem::replace(&mut gathers, true) {
                        *room = self.context.limits.room(&self.device, GATHERED_BYTES_MAX).ok()?;
                    }
                    let more = self.context.streams.read(&self.name, Position::Cursor(page.next)).await.ok()?;
                    let more = Some(more).filter(|more| more.created == page.created)?;
                    page.records.extend(more.records);
                    (page.next, page.next_seq, page.head, page.closed) =
                        (more.next, more.next_seq, more.head, more.closed);
                }
                whole => {
                    let (start, created) = (Position::Cursor(page.start), page.created);
                    let read = self.context.streams.read_some(&self.name, start, whole).await.ok();
                    return read.filter(|page| page.created == created).map(|page| (page, seen));
                }
            }
        }
    }

    /// The events of a page.
    fn text(&self, page: &Page, cold: Option<Cursor>) -> Option<String> {
        let closed = at_end(page) && page.closed;
        let mut text = String::new();
        if !page.records.is_empty() {
            text = sse::data(self.framing, &page.records)?;
        }
        text += &sse::control(&Control {
            stream_next_offset: page.next.to_string(),
            stream_cursor: (!closed).then(|| cursor(self.cursor)),
            up_to_date: at_end(page),
            stream_closed: closed,
            everlog_cold_offset: cold.map(|cold| cold.to_string()),
        });
        Some(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_never_comes_back() {
        assert_eq!(next_cursor(1000, None, || 5), 1000);
        assert_eq!(next_cursor(1000, Some(999), || 5), 1000);
        for random in [0, 19, 20, 3599, u64::MAX] {
            let next = next_cursor(1000, Some(1000), || random);
            assert!((1001..=1180).contains(&next), "{next}");
            assert!(next_cursor(1000, Some(next), || random) > next);
        }
    }
}
