//! GET of an owner's feed: which of its streams changed, at once, after one wait, or as events.
//!
//! Whoever has been told up to a place of the owner's board is told what was written there since; everybody else has the
//! streams looked up, once. Invariants: the place is taken before the look, so that nothing falls between them; a reader
//! holds the owner's board and at most one answer.

use super::Context;
use super::live::cursor;
use crate::auth::Caller;
use crate::feeds::Board;
use crate::limits::Parts;
use crate::metrics::Counted;
use crate::protocol::answer::{Answer, Refusal, put, set, with};
use crate::protocol::body::{self, Done, Step, whole};
use crate::protocol::feed::{FeedQuery, From, Place, Told};
use crate::protocol::headers;
use crate::protocol::query::Live;
use crate::protocol::sse::{self, Control};
use crate::streams::Streams;
use everlog::types::Lsn;
use everlog::{ErrorKind, LogInfo, Store};
use hyper::body::Incoming;
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use hyper::{Method, Request, StatusCode};
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

/// Streams that one answer names at most.
const TOLD_MAX: usize = 10_000;
/// Names that are looked up at a time.
const NAMES: usize = 64;
/// Sorts behind every name that begins with a shorter text: no name is so long.
const BEHIND: &str = "\u{10ffff}";

/// What is asked for, without the request, which holds the buffer that it came in.
pub struct Asked {
    reads: bool,
    query: Option<String>,
}

impl Asked {
    /// Of a request.
    pub fn of(request: &Request<Incoming>) -> Self {
        Self { reads: request.method() == Method::GET, query: request.uri().query().map(str::to_owned) }
    }
}

pub async fn feed(context: Arc<Context>, caller: Caller, owner: String, asked: Asked) -> Result<Answer, Refusal> {
    if !asked.reads {
        let mut answer = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "a feed is only read").answer();
        put(&mut answer, ALLOW, "GET, OPTIONS");
        return Ok(answer);
    }
    let query = FeedQuery::parse(asked.query.as_deref())?;
    let board = context.streams.feeds().board(&owner);
    let device = context.limits.parts(&caller);
    let watcher = Watcher { context, device, owner, board, depth: query.depth, cursor: query.cursor };
    match query.live {
        Live::No => caller.while_admitted(pin!(watcher.look(query.from))).await.and_then(|look| watcher.page(&look)),
        Live::LongPoll => caller.while_admitted(pin!(watcher.long_poll(query.from))).await,
        Live::Sse => watcher.events(&caller, query.from).await,
    }
}

/// What a look found.
struct Look {
    told: Vec<Told>,
    place: Place,
}

/// Whoever wants to be told.
struct Watcher {
    context: Arc<Context>,
    device: Arc<Parts>,
    owner: String,
    board: Arc<Board>,
    depth: usize,
    cursor: Option<u64>,
}

impl Watcher {
    /// What changed since, and up to where that is all.
    async fn look(&self, from: From) -> Result<Look, Refusal> {
        let timeline = self.context.streams.timeline();
        if let From::Place(place) = from
            && (place.timeline, place.board) == (timeline, self.board.id)
            && let Some((news, number)) = self.board.since(place.number)
        {
            let news = news.into_iter().filter(|(stream, _)| self.is_near(stream));
            let told = news.map(|(stream, change)| Told {
                stream,
                head: change.head.to_string(),
                closed: change.closed,
                deleted: change.deleted,
            });
            return Ok(Look { told: told.collect(), place: Place { number, ..place } });
        }
        let (number, lsn) = (self.board.last(), self.context.streams.durable_level());
        let place = Place { timeline, lsn, board: self.board.id, number };
        let told = match from {
            From::Now => Vec::new(),
            From::Start => self.listed(None).await?,
            From::Place(since) => self.listed(Some(since)).await?,
        };
        Ok(Look { told, place })
    }

    /// Whether a stream lies no deeper than it is asked for.
    fn is_near(&self, stream: &str) -> bool {
        depth(&self.owner, stream) <= self.depth
    }

    /// The owner's streams; with a place those that changed since, also those that were deleted.
    async fn listed(&self, since: Option<Place>) -> Result<Vec<Told>, Refusal> {
        let (owner, deepest) = (self.owner.clone(), self.depth);
        let turn = Arc::clone(&self.context.walks).acquire_owned().await;
        let listed = self.context.streams.on_thread(move |store| {
            // It ends with the work, also where whoever asked has gone.
            let _turn = turn;
            let after = since.map(|since| since.lsn);
            let told = walk(store, &owner, deepest, after)?;
            if let Some(since) = since {
                // Behind the look, since deletions may be forgotten meanwhile.
                store.check_since(since.timeline, since.lsn).map_err(|error| too_old(error.kind(), error))?;
            }
            Ok(told)
        });
        let told = listed.await?;
        told.map_err(|refusal: Refusal| refusal.header(headers::TIMELINE, self.context.streams.timeline().to_string()))
    }

    fn page(&self, look: &Look) -> Result<Answer, Refusal> {
        let body = json(&look.told);
        let room = self.context.limits.room(&self.device, body.len())?;
        let mut answer = with(StatusCode::OK, whole(body));
        answer.body_mut().take_up(room);
        put(&mut answer, CONTENT_TYPE, "application/json");
        put(&mut answer, CACHE_CONTROL, "no-store");
        set(&mut answer, headers::NEXT_OFFSET, look.place.to_string());
        set(&mut answer, headers::UP_TO_DATE, "true");
        Ok(answer)
    }

    async fn long_poll(&self, from: From) -> Result<Answer, Refusal> {
        let until = Instant::now() + Duration::from_millis(self.context.settings.long_poll_ms);
        let _counted = Counted::new(&self.context.metrics.live_readers);
        let mut bell = self.board.watch();
        let mut look = self.look(from).await?;
        while look.told.is_empty() && self.rings(&mut bell, until).await {
            look = self.look(From::Place(look.place)).await?;
        }
        let mut answer = self.page(&look)?;
        if look.told.is_empty() {
            *answer.status_mut() = StatusCode::NO_CONTENT;
            *answer.body_mut() = whole("");
        }
        set(&mut answer, headers::CURSOR, cursor(self.cursor));
        Ok(answer)
    }

    /// Waits until something is written on the board. False once it is `until`, or the server stops.
    async fn rings(&self, bell: &mut watch::Receiver<u64>, until: Instant) -> bool {
        tokio::select! {
            // The board is held here, and the bell with it.
            rung = bell.changed() => rung.is_ok(),
            () = sleep_until(until) => false,
            () = self.context.stopped() => false,
        }
    }

    async fn events(self, caller: &Caller, from: From) -> Result<Answer, Refusal> {
        let until = Instant::now() + Duration::from_millis(self.context.settings.sse_ms);
        let bell = self.board.watch();
        // Before the answer begins, so that what is wrong still has a status of its own.
        let look = self.look(from).await?;
        let _counted = Counted::new(&self.context.metrics.live_readers);
        let reader = Box::new(Reader { watcher: self, bell, until, _counted });
        let mut answer = with(StatusCode::OK, body::events(reader.tell(look), caller.ending()));
        put(&mut answer, CONTENT_TYPE, "text/event-stream");
        put(&mut answer, CACHE_CONTROL, "private, no-cache");
        Ok(answer)
    }

    fn text(&self, look: &Look) -> String {
        let mut text = String::new();
        if !look.told.is_empty() {
            text = format!("event: data\ndata:{}\n\n", json(&look.told));
        }
        text + &sse::control(&Control {
            stream_next_offset: look.place.to_string(),
            stream_cursor: Some(cursor(self.cursor)),
            up_to_date: true,
            stream_closed: false,
            everlog_cold_offset: None,
        })
    }
}

/// Whoever makes the events of one connection.
struct Reader {
    watcher: Watcher,
    bell: watch::Receiver<u64>,
    until: Instant,
    _counted: Counted,
}

impl Reader {
    /// Tells what was found, and goes on behind it until the time is up.
    fn tell(self: Box<Self>, look: Look) -> Step {
        Step::new(async move {
            let event = self.watcher.text(&look);
            let Ok(room) = self.watcher.context.limits.room(&self.watcher.device, event.len()) else {
                return Done::default();
            };
            Done { event: Some(event.into()), next: Some(self.wait(look.place)), room }
        })
    }

    /// Waits for news. An error ends the events: the client connects again and is told with a status.
    fn wait(mut self: Box<Self>, mut place: Place) -> Step {
        Step::new(async move {
            while self.watcher.rings(&mut self.bell, self.until).await {
                let Ok(look) = self.watcher.look(From::Place(place)).await else { break };
                // What lies deeper than this client asked for wakes it, and is not told.
                if !look.told.is_empty() {
                    return Done { next: Some(self.tell(look)), ..Done::default() };
                }
                place = look.place;
            }
            Done::default()
        })
    }
}

fn json(told: &[Told]) -> String {
    serde_json::to_string(told).expect("text and flags are always JSON")
}

/// How many segments the name has beyond its owner's.
fn depth(owner: &str, stream: &str) -> usize {
    stream[owner.len()..].matches('/').count()
}

/// Why a place cannot be gone on from: the client begins with all there is.
fn too_old(kind: ErrorKind, error: everlog::Error) -> Refusal {
    let cause = match kind {
        ErrorKind::Rewound => "timeline",
        ErrorKind::Forgotten => "trimmed",
        _ => return error.into(),
    };
    let told = format!("{error}; begin with offset=-1, and take for deleted what is not there");
    Refusal::new(StatusCode::GONE, told).header(headers::ERROR, cause)
}

/// The streams of `owner` that lie no deeper than `deepest`: all that are there, or with `after` those that may have changed
/// since, also if they were deleted. What lies deeper is passed over as a whole. Blocks for the disk.
fn walk(store: &Store, owner: &str, deepest: usize, after: Option<Lsn>) -> Result<Vec<Told>, Refusal> {
    let mut told = Vec::new();
    let mut take = |info: LogInfo| {
        let deleted = info.deleted || Streams::know(&info).config.gone;
        let is_news = after.map_or(!deleted, |after| info.last > after);
        if is_news {
            let (head, closed) = (info.end().to_string(), info.closed);
            told.push(Told { stream: info.name, head, closed: closed && !deleted, deleted });
        }
        if told.len() <= TOLD_MAX { Ok(()) } else { Err(too_many()) }
    };
    match store.info(owner) {
        Ok(info) => take(info)?,
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(error.into()),
    }
    // Of an owner of one segment there is nothing but the stream of its name.
    if !owner.contains('/') {
        return Ok(told);
    }
    let prefix = format!("{owner}/");
    let mut last: Option<String> = None;
    loop {
        let page = store.list_with_deleted(&prefix, last.as_deref(), NAMES)?;
        let is_end = page.len() < NAMES;
        last = page.last().map(|info| info.name.clone());
        let mut passed_over = None;
        for info in page {
            if depth(owner, &info.name) <= deepest {
                take(info)?;
            } else {
                passed_over = Some(info.name);
                break;
            }
        }
        match passed_over {
            Some(name) => last = Some(behind(owner, &name, deepest)),
            None if is_end => return Ok(told),
            None => {}
        }
    }
}

/// Behind every name that lies below the same stream, which is no deeper than `deepest`, as `name`.
fn behind(owner: &str, name: &str, deepest: usize) -> String {
    let below = &name[owner.len()..];
    let (end, _) = below.match_indices('/').nth(deepest).expect("the name lies deeper");
    let within = &name[..=owner.len() + end];
    let room = everlog::limits::NAME_BYTES_MAX / BEHIND.len() + 1;
    format!("{within}{}", BEHIND.repeat(room))
}

fn too_many() -> Refusal {
    let told = format!("more than {TOLD_MAX} streams are to be told of; ask for a smaller depth");
    Refusal::new(StatusCode::UNPROCESSABLE_ENTITY, told).header(headers::ERROR, "feed-too-large")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_deeper_is_passed_over_and_nothing_else() {
        let behind = behind("users/a", "users/a/photos/x/y", 1);
        assert!(behind.as_str() > "users/a/photos/\u{10ffff}\u{10ffff}" && behind.as_str() < "users/a/photos0");
        assert_eq!([depth("a", "a"), depth("u/a", "u/a/x"), depth("u/a", "u/a/x/y")], [0, 1, 2]);
    }
}
