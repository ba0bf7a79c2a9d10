//! Taking connections, each served on a task of its own, and turning away those that are too many.
//!
//! Bounded: connections by a semaphore, those that are turned away by another. Invariant: taking connections never waits
//! for one that is there; at the end every connection has finished its request or the time for that is up, and none was
//! taken since the stop.

use crate::connection::{self, Audience, HANDSHAKE_PATIENCE, asked_to_end, prepare};
use crate::handlers::Context;
use crate::metrics::Counted;
use crate::protocol::headers;
use crate::tls::Tls;
use hyper_util::server::graceful::GracefulShutdown;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;

/// How often the log says that no more connections are taken.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// How long after a failure to take a connection the next attempt is made.
const PAUSE: Duration = Duration::from_millis(50);
/// How long requests under way may take once the server stops.
pub const DRAIN_PATIENCE: Duration = Duration::from_secs(10);
/// Connections of operators at once; further ones wait, which no device can bring about.
pub const OPERATORS_MAX: usize = 64;
/// Connections that are being told at once that there are too many; further ones are closed without a word. Where files are
/// few they are fewer, an eighth of the connections, though not less than the second number.
pub const TURNED_AWAY_MAX: usize = 256;
const TURNED_AWAY_MIN: usize = 8;
/// How long a client that is turned away may take to ask, and to read why.
const TURNED_AWAY_PATIENCE: Duration = Duration::from_secs(2);

/// Takes connections until the server begins to stop, then waits for those that are open. For operators it goes on until it
/// is dropped, so that they see why nothing else is answered.
pub async fn serve(listener: TcpListener, audience: Audience, context: Arc<Context>, tls: Option<Arc<Tls>>) {
    let permits = Arc::new(Semaphore::new(match audience {
        Audience::Devices => context.settings.connections_max,
        Audience::Operators => OPERATORS_MAX,
    }));
    let turned_away = TurnedAway::new(&context, tls.clone());
    let mut told = Told::default();
    let graceful = GracefulShutdown::new();
    loop {
        let taken = tokio::select! {
            taken = listener.accept() => taken,
            () = asked_to_end(audience, &context) => break,
        };
        let stream = match taken {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Most likely too many open files: those that are there go on, and a later attempt may succeed.
                told.now(&format!("a connection could not be taken: {error}; raise the limit of open files"));
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let permit = match (Arc::clone(&permits).try_acquire_owned(), audience) {
            (Ok(permit), _) => permit,
            (Err(_), Audience::Devices) => {
                told.now("connections_max is reached; further clients are answered 503");
                context.metrics.connections_refused.inc();
                turned_away.tell(stream);
                continue;
            }
            (Err(_), Audience::Operators) => tokio::select! {
                permit = Arc::clone(&permits).acquire_owned() => permit.expect("the semaphore is never closed"),
                () = asked_to_end(audience, &context) => break,
            },
        };
        let open = Counted::new(&context.metrics.connections);
        let served = connection::serve(stream, audience, Arc::clone(&context), tls.clone(), graceful.watcher());
        tokio::spawn(async move {
            // An error is the client's: it broke off, was too slow, or did not speak HTTP.
            if let Err(error) = served.await {
                tracing::debug!(%error, "a connection ended");
            }
            drop((permit, open));
        });
    }
    drop(listener);
    if timeout(DRAIN_PATIENCE, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests were still under way after {} s and are cut off", DRAIN_PATIENCE.as_secs());
    }
}

/// Answers operators while the store is being opened, each connection once. Gives the listener back once it is open.
pub async fn serve_while_opening(listener: TcpListener, mut is_open: oneshot::Receiver<()>) -> TcpListener {
    let mut told = Told::default();
    let mut answered = JoinSet::new();
    loop {
        let taken = tokio::select! {
            taken = listener.accept(), if answered.len() < OPERATORS_MAX => taken,
            Some(_) = answered.join_next() => continue,
            _ = &mut is_open => break,
        };
        match taken {
            Ok((stream, _)) => drop(answered.spawn(connection::answer_while_opening(stream))),
            Err(error) => {
                told.now(&format!("a connection could not be taken: {error}"));
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
    listener
}

/// Tells clients that there are too many, within bounds of its own.
struct TurnedAway {
    permits: Arc<Semaphore>,
    tls: Option<Arc<Tls>>,
    answer: Arc<str>,
}

impl TurnedAway {
    fn new(context: &Context, tls: Option<Arc<Tls>>) -> Self {
        let told = "the server has as many connections as it takes; come back later\n";
        let answer = format!(
            "HTTP/1.1 503 Service Unavailable\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\n\
             connection: close\r\nretry-after: 1\r\ncache-control: no-store\r\n{}: overloaded\r\n{}: {}\r\n\
             access-control-allow-origin: {}\r\naccess-control-expose-headers: {}\r\n\r\n{told}",
            told.len(),
            headers::ERROR,
            headers::STORE,
            context.streams.store_id(),
            context.settings.cors_allow_origin,
            headers::EXPOSED,
        );
        let at_once = (context.settings.connections_max / 8).clamp(TURNED_AWAY_MIN, TURNED_AWAY_MAX);
        Self { permits: Arc::new(Semaphore::new(at_once)), tls, answer: answer.into() }
    }

    fn tell(&self, stream: TcpStream) {
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else { return };
        let (tls, answer) = (self.tls.clone(), Arc::clone(&self.answer));
        tokio::spawn(async move {
            prepare(&stream);
            let told = match tls {
                None => tell(stream, &answer).await,
                Some(tls) => match timeout(HANDSHAKE_PATIENCE, tls.refusing().accept(stream)).await {
                    Ok(Ok(stream)) => tell(stream, &answer).await,
                    Ok(Err(error)) => Err(error),
                    Err(late) => Err(late.into()),
                },
            };
            if let Err(error) = told {
                tracing::debug!(%error, "a client that was turned away was not told why");
            }
            drop(permit);
        });
    }
}

/// Waits for the beginning of a request, since some clients take an answer to nothing for a mistake, answers it, and
/// takes what else is sent until the client has read: a connection that is closed with bytes unread loses the answer.
async fn tell(mut stream: impl AsyncRead + AsyncWrite + Unpin, answer: &str) -> io::Result<()> {
    let mut scrap = [0; 1024];
    let first = timeout(TURNED_AWAY_PATIENCE, stream.read(&mut scrap)).await??;
    if first == 0 {
        return Ok(());
    }
    let rest = async {
        stream.write_all(answer.as_bytes()).await?;
        stream.shutdown().await?;
        while stream.read(&mut scrap).await? > 0 {}
        Ok(())
    };
    timeout(TURNED_AWAY_PATIENCE, rest).await?
}

/// When the log was last told of a trouble that may come a thousand times a second.
#[derive(Default)]
struct Told(Option<Instant>);

impl Told {
    fn now(&mut self, trouble: &str) {
        if self.0.is_none_or(|last| last.elapsed() >= TELL_EVERY) {
            self.0 = Some(Instant::now());
            tracing::warn!("{trouble}");
        }
    }
}
