//! Bodies of answers: there at once, or event by event as whoever makes the events goes on.
//!
//! Invariant: no more than a few events wait for a client that reads slowly; their maker waits instead.

use bytes::Bytes;
use http_body_util::{Either, Full};
use hyper::body::Frame;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// The body of an answer.
pub type Body = Either<Full<Bytes>, Events>;

/// A body that is there.
pub fn whole(bytes: impl Into<Bytes>) -> Body {
    Either::Left(Full::new(bytes.into()))
}

/// Events that may wait for a slow client; whoever makes them waits for room.
const QUEUE: usize = 1;

/// A body that ends when whoever makes the events does.
#[derive(Debug)]
pub struct Events(Receiver<Bytes>);

impl Events {
    /// The body, and where its events are put. The sender learns when the client has gone.
    #[must_use]
    pub fn channel() -> (Sender<Bytes>, Self) {
        let (sender, receiver) = channel(QUEUE);
        (sender, Self(receiver))
    }
}

impl hyper::body::Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>, context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|event| event.map(|bytes| Ok(Frame::data(bytes))))
    }
}
