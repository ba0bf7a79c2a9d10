//! Taking connections and serving each on a task of its own.
//!
//! Bounded: connections by a semaphore, headers in time and size, bodies where they are read. Invariant: at the end
//! every connection has finished its request or the time for that is up, and none was taken since the stop.

use crate::handlers::{self, Context};
use crate::metrics::Counted;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulConnection, GracefulShutdown};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// How long a client may take to send a request's head, a connection that lies idle included.
const HEAD_PATIENCE: Duration = Duration::from_secs(90);
/// The same for operators, whose tools must get through when there are many of them.
const HEAD_PATIENCE_OPERATORS: Duration = Duration::from_secs(5);
/// How long a client may leave what it was sent unread, in milliseconds.
const UNREAD_PATIENCE_MS: u32 = 60_000;
/// How often the log says that no more connections are taken.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// The largest head of a request, in bytes.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// How long after a failure to take a connection the next attempt is made.
const PAUSE: Duration = Duration::from_millis(50);
/// How long requests under way may take once the server stops.
pub const DRAIN_PATIENCE: Duration = Duration::from_secs(10);

/// Who is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Devices: the protocol.
    Devices,
    /// Operators: health, metrics, status.
    Operators,
}

/// Takes connections until the server begins to stop, then waits for those that are open.
pub async fn serve(listener: TcpListener, audience: Audience, context: Arc<Context>) {
    let permits = match audience {
        Audience::Devices => context.settings.connections_max,
        Audience::Operators => 64,
    };
    let permits = Arc::new(Semaphore::new(permits));
    let mut told = Told::default();
    let graceful = GracefulShutdown::new();
    loop {
        if permits.available_permits() == 0 {
            told.now("connections_max is reached; further clients wait");
        }
        let permit = tokio::select! {
            permit = Arc::clone(&permits).acquire_owned() => permit.expect("the semaphore is never closed"),
            () = context.stopped() => break,
        };
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Most likely too many open files: those that are there go on, and a later attempt may succeed.
                    told.now(&format!("a connection could not be taken: {error}; raise the limit of open files"));
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            },
            () = context.stopped() => break,
        };
        let connection = connect(stream, audience, Arc::clone(&context));
        let watched = graceful.watch(connection);
        let open = Counted::new(&context.metrics.connections);
        tokio::spawn(async move {
            // An error is the client's: it broke off, was too slow, or did not speak HTTP.
            if let Err(error) = watched.await {
                tracing::debug!(%error, "a connection ended");
            }
            drop((permit, open));
        });
    }
    drop(listener);
    if tokio::time::timeout(DRAIN_PATIENCE, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests were still under way after {} s and are cut off", DRAIN_PATIENCE.as_secs());
    }
}

fn connect(
    stream: TcpStream, audience: Audience, context: Arc<Context>,
) -> impl GracefulConnection<Error = hyper::Error> + Send {
    // A client that reads no more would hold what it was sent, and its connection, for ever.
    if let Err(error) = rustix::net::sockopt::set_tcp_user_timeout(&stream, UNREAD_PATIENCE_MS) {
        tracing::debug!(%error, "a connection may stay unread");
    }
    let head_patience = match audience {
        Audience::Devices => HEAD_PATIENCE,
        Audience::Operators => HEAD_PATIENCE_OPERATORS,
    };
    // An acknowledgement is one small packet, which is not to wait for another.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "a connection delays small packets");
    }
    let service = service_fn(move |request: Request<Incoming>| {
        let context = Arc::clone(&context);
        async move {
            Ok::<_, Infallible>(match audience {
                Audience::Devices => handlers::answer(&context, request).await,
                Audience::Operators => handlers::admin::answer(&context, &request),
            })
        }
    });
    http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head_patience)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), service)
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
