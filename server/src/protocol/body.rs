//! Bodies of answers: there at once, or event by event as whoever makes the events goes on.
//!
//! Invariant: no more than one event waits for a client that reads slowly, and the next is made only once there is room.
//! A connection takes whatever it is given, over HTTP/2 as soon as there is room for one byte. So a body that counts as a
//! request, or that takes its share of the memory for answers, is given in pieces, and the last byte of each answer and
//! event by itself: it is taken once there is room for all that came before it, and only then the body goes, or the next
//! event is made.

use crate::limits::Room;
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::sync::OwnedSemaphorePermit;

/// How much of a body is handed over at once where it counts for something until all of it was.
const PIECE: usize = 16 << 10;

/// What is done until the next event is there, or until something else is to be done for it. It is dropped when the client
/// has gone. Each step is a future of its own, so that one that waits is no larger than what it waits for.
pub struct Step(Pin<Box<dyn Future<Output = Done> + Send>>);

/// What came of a step.
#[derive(Default)]
pub struct Done {
    /// The event.
    pub event: Option<Bytes>,
    /// The memory that it takes, unless it is small.
    pub room: Option<Room>,
    /// What comes then; None at the end.
    pub next: Option<Step>,
}

impl Step {
    /// Does what `future` does.
    pub fn new(future: impl Future<Output = Done> + Send + 'static) -> Self {
        Self(Box::pin(future))
    }
}

/// The body of an answer.
pub struct Body {
    content: Content,
    /// What counts the request as one that is under way.
    held: Option<Held>,
    /// The memory that what is there takes.
    room: Option<Room>,
}

struct Held {
    _permit: OwnedSemaphorePermit,
    turn: Arc<Turn>,
}

/// Whose turn it is: since when an answer waits for room at its client; None while the client waits for the answer.
#[derive(Debug)]
pub struct Turn(Mutex<Option<Instant>>);

impl Turn {
    fn set(&self, since: Option<Instant>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    /// For how long its client has not made room for more.
    #[must_use]
    pub fn unread_for(&self) -> Duration {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).map_or(Duration::ZERO, |since| since.elapsed())
    }
}

enum Content {
    Whole(Bytes),
    Events { step: Option<Step>, ending: Option<Ending>, event: Bytes },
}

/// What ends events early once it is done, such as that their reader is not let in any more.
pub type Ending = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A body that is there.
#[must_use]
pub fn whole(bytes: impl Into<Bytes>) -> Body {
    Body { content: Content::Whole(bytes.into()), held: None, room: None }
}

/// A body of events that begins with `step` and ends with the last one, or before once `ending` is done.
#[must_use]
pub fn events(step: Step, ending: Option<Ending>) -> Body {
    Body { content: Content::Events { step: Some(step), ending, event: Bytes::new() }, held: None, room: None }
}

impl Body {
    /// Counts the request as under way until the body was handed over.
    pub fn hold(&mut self, permit: OwnedSemaphorePermit) {
        let turn = Arc::new(Turn(Mutex::new(Some(Instant::now()))));
        self.held = Some(Held { _permit: permit, turn });
    }

    /// Has the memory that it takes given back once it was handed over.
    pub fn take_up(&mut self, room: Option<Room>) {
        self.room = room;
    }

    /// The memory that it takes, for another body in its place.
    pub fn give_up(&mut self) -> Option<Room> {
        self.room.take()
    }

    /// Whose turn it is with a body that counts as a request.
    #[must_use]
    pub fn turn(&self) -> Option<&Arc<Turn>> {
        self.held.as_ref().map(|held| &held.turn)
    }

    /// The bytes of a body that is there.
    #[must_use]
    pub fn bytes(&self) -> Option<&Bytes> {
        match &self.content {
            Content::Whole(bytes) => Some(bytes),
            Content::Events { .. } => None,
        }
    }
}

impl Content {
    /// What is there, or comes next, before it is cut into pieces; None at the end.
    fn poll(&mut self, room: &mut Option<Room>, context: &mut Context<'_>) -> Poll<Option<&mut Bytes>> {
        match self {
            Self::Whole(bytes) => Poll::Ready(if bytes.is_empty() { None } else { Some(bytes) }),
            Self::Events { step, ending, event } => {
                while event.is_empty() {
                    *room = None;
                    if ending.as_mut().is_some_and(|ending| ending.as_mut().poll(context).is_ready()) {
                        (*step, *ending) = (None, None);
                    }
                    let Some(Step(future)) = step else { return Poll::Ready(None) };
                    let done = ready!(future.as_mut().poll(context));
                    *step = done.next;
                    (*event, *room) = (done.event.unwrap_or_default(), done.room);
                }
                Poll::Ready(Some(event))
            }
        }
    }
}

/// The next piece of what is there.
fn piece(bytes: &mut Bytes) -> Bytes {
    let all_but_last = bytes.len().saturating_sub(1).max(1);
    bytes.split_to(all_but_last.min(PIECE))
}

impl hyper::body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>, context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Self { content, held, room } = &mut *self;
        if let Some(held) = held {
            held.turn.set(None);
        }
        let Some(bytes) = ready!(content.poll(room, context)) else { return Poll::Ready(None) };
        let given = if held.is_some() || room.is_some() { piece(bytes) } else { std::mem::take(bytes) };
        if let Some(held) = held {
            held.turn.set(Some(Instant::now()));
        }
        Poll::Ready(Some(Ok(Frame::data(given))))
    }

    fn is_end_stream(&self) -> bool {
        matches!(&self.content, Content::Whole(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Events { .. } => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;
    use hyper::body::Body as _;
    use std::future::pending;
    use tokio::sync::Semaphore;
    use tokio::time::{sleep, timeout};

    fn held(mut body: Body) -> (Body, Arc<Turn>, Arc<Semaphore>) {
        let permits = Arc::new(Semaphore::new(1));
        body.hold(Arc::clone(&permits).try_acquire_owned().expect("nobody else has it"));
        let turn = Arc::clone(body.turn().expect("it is held"));
        (body, turn, permits)
    }

    #[tokio::test]
    async fn a_client_that_makes_no_room_is_noticed_and_one_that_waits_is_not() {
        let a_while = Duration::from_millis(20);
        let (mut body, turn, permits) = held(whole(vec![7; PIECE + 1]));
        sleep(a_while).await;
        assert!(turn.unread_for() >= a_while, "nothing was asked for yet");
        for bytes in [PIECE, 1] {
            assert!(!body.is_end_stream(), "the last byte is not taken yet");
            let frame = body.frame().await.expect("there is more").expect("it cannot fail");
            assert_eq!(frame.into_data().expect("data").len(), bytes);
            sleep(a_while).await;
            assert!(turn.unread_for() >= a_while && permits.available_permits() == 0);
        }
        assert!(body.is_end_stream() && body.frame().await.is_none());
        drop(body);
        assert_eq!(permits.available_permits(), 1);

        let event = Some(vec![7; 2 * PIECE].into());
        let first = Done { event, next: Some(Step::new(pending())), ..Done::default() };
        let (mut body, turn, _permits) = held(events(Step::new(async { first }), None));
        for bytes in [PIECE, PIECE - 1, 1] {
            let frame = body.frame().await.expect("there is more").expect("it cannot fail");
            assert_eq!(frame.into_data().expect("data").len(), bytes, "an event is given in pieces as well");
        }
        let _ = timeout(a_while, body.frame()).await.expect_err("there is no event");
        assert_eq!(turn.unread_for(), Duration::ZERO, "it is the client who waits");
    }

    #[test]
    fn an_answer_without_a_body_ends_with_its_head() {
        assert!(held(whole("")).0.is_end_stream());
        assert!(whole("").is_end_stream());
    }
}
