//! One connection of a client: what it speaks, and within which bounds.
//!
//! TLS or none, then HTTP/2 where ALPN chose it or the client begins with it, else HTTP/1.1. Invariant: whatever a client
//! sends or leaves unread, its connection takes bounded memory, and one that lies idle or reads nothing is closed in time.

use crate::handlers::{self, Context, admin};
use crate::protocol::answer::Answer;
use crate::protocol::body::{Turn, whole};
use crate::tls::{H2, Tls};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper::{Method, Request, Version};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::graceful::Watcher;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};

/// How long a client may take to send a request's head, a connection that lies idle included.
const HEAD_PATIENCE: Duration = Duration::from_secs(90);
/// The same for operators, whose tools must get through when there are many of them.
const HEAD_PATIENCE_OPERATORS: Duration = Duration::from_secs(5);
/// How long a client may take until TLS stands.
pub const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(10);
/// How long a client may leave what it was sent unread, and an answer that it leaves no room for unsent.
const UNREAD_PATIENCE: Duration = Duration::from_secs(60);
/// How often the latter, which happens within a connection of HTTP/2 and is not seen by the kernel, is looked at meanwhile.
const UNREAD_LOOKS: u32 = 12;
/// The largest head of a request, in bytes.
pub const HEAD_BYTES_MAX: usize = 16 << 10;
/// The most headers of one request.
pub const HEADERS_MAX: usize = 100;
/// Requests that one connection may have under way at once over HTTP/2.
const STREAMS_MAX: u32 = 100;
/// What a client may send ahead of the server's reading, over HTTP/2: for one request, and for all of a connection.
const STREAM_WINDOW: u32 = 64 << 10;
const CONNECTION_WINDOW: u32 = 256 << 10;
/// What is held of one answer for a client that reads slowly, over HTTP/2.
const SEND_BUFFER: usize = 64 << 10;
/// Requests that a client may take back before they were looked at, and mistakes of its that are answered by a reset.
/// More end the connection: that is how floods of resets look.
const RESETS_MAX: usize = 20;
const ERRORS_MAX: usize = 64;
/// How often a connection of HTTP/2 is asked whether its client is still there, and how long that may take.
const PING_EVERY: Duration = Duration::from_secs(30);
const PING_PATIENCE: Duration = Duration::from_secs(20);
/// What a client that speaks HTTP/2 without being asked begins with; no method of HTTP/1.1 begins so.
const PRIOR_KNOWLEDGE: &[u8; 4] = b"PRI ";

/// Who is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Devices: the protocol.
    Devices,
    /// Operators: health, metrics, status.
    Operators,
}

/// Why a connection ended before its client was done; most often that is the client's doing.
pub type Ended = Box<dyn std::error::Error + Send + Sync>;

/// Sets what every connection of either kind needs of its socket.
pub fn prepare(stream: &TcpStream) {
    // A client that reads no more would hold what it was sent, and its connection, for ever.
    let patience_ms = u32::try_from(UNREAD_PATIENCE.as_millis()).expect("a minute");
    if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(stream, patience_ms) {
        tracing::debug!(%error, "a connection may stay unread");
    }
    // An acknowledgement is one small packet, which is not to wait for another.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection delays small packets");
    }
}

/// Serves a connection to its end, or until `watcher` asks it to come to one.
///
/// # Errors
/// The client broke off, was too slow, or spoke something else.
pub async fn serve(
    stream: TcpStream, audience: Audience, context: Arc<Context>, tls: Option<Arc<Tls>>, watcher: Watcher,
) -> Result<(), Ended> {
    prepare(&stream);
    let Some(tls) = tls else {
        let begins_with_h2 = tokio::select! {
            begins = timeout(head_patience(audience), has_prior_knowledge(&stream)) => begins??,
            // Nothing was asked yet.
            () = asked_to_end(audience, &context) => return Ok(()),
        };
        return if begins_with_h2 {
            Box::pin(over_http2(stream, audience, context, watcher)).await
        } else {
            over_http1(stream, audience, context, watcher).await
        };
    };
    let shaken = tokio::select! {
        shaken = Box::pin(timeout(HANDSHAKE_PATIENCE, tls.acceptor().accept(stream))) => shaken??,
        () = asked_to_end(audience, &context) => return Ok(()),
    };
    drop(tls);
    // What TLS keeps of a connection is large beside all else, so that the task does not hold it itself, here and above.
    let stream = Box::new(shaken);
    if stream.get_ref().1.alpn_protocol() == Some(H2) {
        Box::pin(over_http2(stream, audience, context, watcher)).await
    } else {
        Box::pin(over_http1(stream, audience, context, watcher)).await
    }
}

/// Answers one request of an operator while the store is being opened.
pub async fn answer_while_opening(stream: TcpStream) {
    prepare(&stream);
    let service = service_fn(async |request| Ok::<_, Infallible>(admin::answer_while_opening(&request)));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_PATIENCE_OPERATORS)
        .max_buf_size(HEAD_BYTES_MAX)
        // The next request is to meet what the store is by then.
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a connection ended");
    }
}

/// Comes back once no more is to be taken. Operators are told that the server stops for as long as it does.
pub async fn asked_to_end(audience: Audience, context: &Context) {
    match audience {
        Audience::Devices => context.stopped().await,
        Audience::Operators => std::future::pending().await,
    }
}

fn head_patience(audience: Audience) -> Duration {
    match audience {
        Audience::Devices => HEAD_PATIENCE,
        Audience::Operators => HEAD_PATIENCE_OPERATORS,
    }
}

/// Looks at a connection's first bytes and leaves them there. A client whose first packet has fewer bytes than the look
/// needs is taken to speak HTTP/1.1; those that speak HTTP/2 begin with 24 bytes.
async fn has_prior_knowledge(stream: &TcpStream) -> std::io::Result<bool> {
    let mut first = [0; PRIOR_KNOWLEDGE.len()];
    let seen = stream.peek(&mut first).await?;
    Ok(seen == first.len() && first == *PRIOR_KNOWLEDGE)
}

async fn over_http1(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, audience: Audience, context: Arc<Context>,
    watcher: Watcher,
) -> Result<(), Ended> {
    let service = service_fn(move |request| answer(Arc::clone(&context), audience, request));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head_patience(audience))
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service);
    Ok(watcher.watch(connection).await?)
}

async fn over_http2(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, audience: Audience, context: Arc<Context>,
    watcher: Watcher,
) -> Result<(), Ended> {
    let unread = Arc::new(Unread::default());
    let answers = Arc::clone(&unread);
    let service = service_fn(move |request| {
        let (context, answers) = (Arc::clone(&context), Arc::clone(&answers));
        async move {
            let answer = answer(context, audience, request).await?;
            answers.note(answer.body().turn());
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING_EVERY)
        .keep_alive_timeout(PING_PATIENCE)
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(u32::try_from(HEAD_BYTES_MAX).expect("a head is small"))
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_send_buf_size(SEND_BUFFER)
        .max_pending_accept_reset_streams(RESETS_MAX)
        .max_local_error_reset_streams(ERRORS_MAX)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        ended = watcher.watch(connection) => Ok(ended?),
        () = unread.for_too_long(UNREAD_PATIENCE) => Err("the client leaves an answer unread".into()),
    }
}

/// The answers of one connection of HTTP/2, as long as any of them is there.
#[derive(Default)]
struct Unread(Mutex<Vec<Weak<Turn>>>);

impl Unread {
    fn note(&self, turn: Option<&Arc<Turn>>) {
        let Some(turn) = turn else { return };
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if turns.len() >= 2 * STREAMS_MAX as usize {
            turns.retain(|turn| turn.strong_count() > 0);
        }
        turns.push(Arc::downgrade(turn));
    }

    /// Comes back once the client has left no room for one of them for longer than is borne.
    async fn for_too_long(&self, patience: Duration) {
        let is_late = |turn: &Weak<Turn>| turn.upgrade().is_some_and(|turn| turn.unread_for() > patience);
        while !self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().any(is_late) {
            sleep(patience / UNREAD_LOOKS).await;
        }
    }
}

async fn answer(context: Arc<Context>, audience: Audience, request: Request<Incoming>) -> Result<Answer, Infallible> {
    let is_head = request.method() == Method::HEAD && request.version() == Version::HTTP_2;
    let mut answer = match audience {
        Audience::Devices => handlers::answer(&context, request).await,
        Audience::Operators => handlers::admin::answer(&context, &request),
    };
    if is_head {
        // HTTP/1.1 leaves it out by itself; over HTTP/2 it would be the stream's end in an error.
        *answer.body_mut() = whole("");
    }
    Ok(answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;
    use tokio::sync::Semaphore;

    #[tokio::test]
    async fn a_connection_ends_with_the_first_answer_that_is_left_unread() {
        let unread = Unread::default();
        let body = || {
            let mut body = whole("what nobody reads");
            body.hold(Arc::new(Semaphore::new(1)).try_acquire_owned().expect("nobody else has it"));
            unread.note(body.turn());
            body
        };
        (0..5 * STREAMS_MAX).for_each(|_| drop(body()));
        assert!(unread.0.lock().expect("nobody panicked").len() <= 2 * STREAMS_MAX as usize);
        let patience = Duration::from_millis(60);
        timeout(3 * patience, unread.for_too_long(patience)).await.expect_err("none is there any more");
        let (left, since) = (body(), Instant::now());
        unread.for_too_long(patience).await;
        assert!(since.elapsed() > patience);
        drop(left);
    }
}
