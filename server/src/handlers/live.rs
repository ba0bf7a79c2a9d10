//! Live reads: a long poll that waits for one page, and a stream of events that goes on for about a minute.
//!
//! A reader is woken by its own log alone. Invariant: nobody waits at the end of a stream that is closed, and a reader
//! that has gone is noticed and forgotten.

use super::Context;
use super::page::{self, Found, at_end, described, refused};
use crate::metrics::Counted;
use crate::protocol::answer::{Answer, Refusal, put, set, with};
use crate::protocol::body::{Events, whole};
use crate::protocol::content::Framing;
use crate::protocol::headers;
use crate::protocol::query::Query;
use crate::protocol::sse::{self, Control};
use bytes::Bytes;
use everlog::types::{Cursor, Position};
use everlog::{Page, Subscription};
use http_body_util::Either;
use hyper::StatusCode;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::mpsc::Sender;
use tokio::time::{Instant, sleep_until};

/// 2024-10-09 00:00:00 UTC, from which the protocol counts cursors, in seconds.
const CURSOR_EPOCH_S: u64 = 1_728_432_000;
/// How long a cursor lasts.
const CURSOR_INTERVAL_S: u64 = 20;
/// The most seconds by which a cursor is moved on that did not change by itself.
const CURSOR_JITTER_S: u64 = 3600;

/// The next cursor: the number of the present interval, or, if the client had that, one further on by chance, so that no
/// cache gives the same answer for ever.
fn cursor(given: Option<u64>) -> String {
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

/// Waits until the stream's end is past `head`, it ends, the server stops, or it is `until`. False for the last two.
async fn more(context: &Context, subscription: &Subscription, head: u64, until: Instant) -> everlog::Result<bool> {
    tokio::select! {
        changed = subscription.changed(head) => changed.map(|_| true),
        () = sleep_until(until) => Ok(false),
        () = context.stopped() => Ok(false),
    }
}

pub async fn long_poll(context: &Context, name: &str, query: &Query) -> Result<Answer, Refusal> {
    let until = Instant::now() + Duration::from_millis(context.settings.long_poll_ms);
    let _counted = Counted::new(&context.metrics.live_readers);
    let mut found = page::read(context, name, query.from).await?;
    let page = &found.page;
    if page.records.is_empty() && !page.closed {
        let subscription = context.streams.subscribe(name).await?;
        let waited = more(context, &subscription, page.head, until).await;
        if waited.map_err(|error| refused(context, name, &error))? {
            found = page::read(context, name, Position::Cursor(page.next)).await?;
        }
    }
    let (mut answer, page) = (described(StatusCode::OK, &found), &found.page);
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

pub async fn events(context: &Arc<Context>, name: String, query: &Query) -> Result<Answer, Refusal> {
    // The first page is read before the answer begins, so that what is wrong still has a status of its own.
    let Found { page: first, known, .. } = page::read(context, &name, query.from).await?;
    let framing = known.config.framing();
    if framing == Framing::Text && never_text(&first) {
        let told = "what follows is not UTF-8, which events cannot carry; read it without live=sse";
        return Err(Refusal::new(StatusCode::NOT_ACCEPTABLE, told));
    }
    let (sender, body) = Events::channel();
    let reader = Reader {
        context: Arc::clone(context),
        name,
        framing,
        cursor: query.cursor,
        until: Instant::now() + Duration::from_millis(context.settings.sse_ms),
        sender,
    };
    tokio::spawn(reader.run(first));
    let mut answer = with(StatusCode::OK, Either::Right(body));
    put(&mut answer, CONTENT_TYPE, "text/event-stream");
    put(&mut answer, CACHE_CONTROL, "no-cache");
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

/// Whoever makes the events of one connection.
struct Reader {
    context: Arc<Context>,
    name: String,
    framing: Framing,
    cursor: Option<u64>,
    until: Instant,
    sender: Sender<Bytes>,
}

impl Reader {
    /// Sends `page` and what comes after it, until the stream ends, the client goes, or the time is up. Errors end the
    /// events: the client connects again and is told with a status.
    async fn run(self, mut page: Page) {
        let _counted = Counted::new(&self.context.metrics.live_readers);
        let Ok(subscription) = self.context.streams.subscribe(&self.name).await else { return };
        let created = page.created;
        loop {
            let (head, seen_all, closed) = (page.head, at_end(&page), page.closed);
            let Some(sent) = self.whole(page).await else { return };
            let cold = self.context.streams.cold_end(&self.name, created).await;
            let Some(text) = self.text(&sent, cold) else { return };
            if !self.send(text.into()).await || (seen_all && closed) {
                return;
            }
            if seen_all {
                tokio::select! {
                    waited = more(&self.context, &subscription, head, self.until) => {
                        if !matches!(waited, Ok(true)) { return }
                    }
                    () = self.sender.closed() => return,
                }
            } else if Instant::now() >= self.until {
                return;
            }
            let next = self.context.streams.read(&self.name, Position::Cursor(sent.next)).await;
            let Some(next) = next.ok().filter(|next| next.created == created) else { return };
            page = next;
        }
    }

    /// Whether the client took the event, or has room for it.
    async fn send(&self, event: Bytes) -> bool {
        tokio::select! {
            sent = self.sender.send(event) => sent.is_ok(),
            () = sleep_until(self.until) => false,
            () = self.context.stopped() => false,
        }
    }

    /// As much of a page as is whole characters, where it is to be text; the rest waits until the character is whole.
    /// None where nothing can be sent any more.
    async fn whole(&self, mut page: Page) -> Option<Page> {
        if self.framing != Framing::Text {
            return Some(page);
        }
        loop {
            match sse::whole_characters(&page.records)? {
                whole if whole == page.records.len() => return Some(page),
                0 if at_end(&page) => {
                    return Some(Page { records: Vec::new(), next: page.start, next_seq: page.start.seq, ..page });
                }
                // A record as large as a page may end within a character, which the next one goes on with.
                0 => {
                    let more = self.context.streams.read(&self.name, Position::Cursor(page.next)).await.ok()?;
                    let more = Some(more).filter(|more| more.created == page.created)?;
                    page.records.extend(more.records);
                    (page.next, page.next_seq, page.head, page.closed) =
                        (more.next, more.next_seq, more.head, more.closed);
                }
                whole => {
                    let (start, created) = (Position::Cursor(page.start), page.created);
                    let read = self.context.streams.read_some(&self.name, start, whole).await.ok();
                    return read.filter(|page| page.created == created);
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
