//! `bench live`: readers that wait at the ends of streams, half of them as event streams and half as long polls, what
//! each costs the server in memory, and how long an append takes to reach those who wait for it.
//!
//! Each record says when it was sent, so that its reader knows how old it is; server and client share the machine's
//! clock. Invariant: a delivery counts if it was sent after the readers were all connected; every failure is counted.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use tokio::net::TcpStream;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio::sync::{Barrier, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until, timeout};

use super::http::connection::Target;
use super::payload::Random;
use super::{histogram, process, quantile_us};
use crate::output;
use everlog_server::failure::Failure;
use everlog_server::protocol::headers;

pub const EXAMPLES: &str = "Examples:
  everlog bench live --server http://127.0.0.1:4437 --connections 1000 --seconds 20
  everlog bench live --server http://127.0.0.1:4437 --connections 18000 --streams 1000 --reconnect 10 --server-pid 4711 --json

The streams are created first, as bench/RUN/N with a new RUN each time, and stay. Reader N waits on stream N modulo the
number of streams; even ones hold an event stream, odd ones ask by long poll again and again. Every reader is one
connection, so both sides need as many open files (ulimit -n), the server connections_max as well.

rss_per_connection is what the server's resident memory grew by while the readers connected, divided by them, taken once
they have been idle for --settle seconds; it needs --server-pid. delivery_p50_us and delivery_p99_us go from the moment
before an append is sent to the moment its reader has it. refused counts answers 503 and 429, errors all other failures.
Exits 1 if there were any.";

/// Connections that are made at once.
const CONNECTING: usize = 128;
/// How long an answer that does not wait for anything may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long after the last append a reader may still get it.
const LAST: Duration = Duration::from_secs(2);
/// Longer than any bench.
const FOREVER: Duration = Duration::from_secs(1 << 30);

#[derive(clap::Args)]
pub struct Args {
    /// The server: http://HOST:PORT, with the path that streams lie under if that is not /v1/stream
    #[arg(long, value_name = "URL")]
    server: String,
    /// Readers, each a connection of its own
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    connections: u64,
    /// Streams that they wait on
    #[arg(long, value_name = "L", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    streams: u64,
    /// Appends a second, to streams chosen at random
    #[arg(long, value_name = "R", default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    rate: u64,
    /// How long to append
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    seconds: u64,
    /// How long the readers lie idle before that
    #[arg(long, value_name = "S", default_value_t = 3)]
    settle: u64,
    /// How many of a hundred readers connect anew each minute
    #[arg(long, value_name = "P", default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=6000))]
    reconnect: u64,
    /// The server's process, whose memory is looked at
    #[arg(long, value_name = "PID")]
    server_pid: Option<u32>,
    /// One JSON object on stdout
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    bench: &'static str,
    server: String,
    connections: u64,
    streams: u64,
    rate: u64,
    seconds: u64,
    connect_seconds: f64,
    rss_before_bytes: Option<u64>,
    rss_idle_bytes: Option<u64>,
    rss_end_bytes: Option<u64>,
    rss_per_connection: Option<i64>,
    appends: u64,
    reconnects: u64,
    deliveries: u64,
    delivery_p50_us: f64,
    delivery_p99_us: f64,
    delivery_max_us: f64,
    refused: u64,
    errors: u64,
}

/// What all tasks share.
struct Shared {
    target: Target,
    run: String,
    streams: u64,
    begun: Instant,
    connecting: Semaphore,
    connected: Barrier,
    /// After how long a reader connects anew.
    reconnect: Option<Duration>,
    reconnects: AtomicU64,
    refused: AtomicU64,
    errors: AtomicU64,
    /// Set once nothing more is to be waited for.
    over: AtomicBool,
}

type Sender = SendRequest<Full<Bytes>>;

impl Shared {
    fn now_us(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn failed(&self, status: Option<StatusCode>) {
        if self.over.load(Ordering::Relaxed) {
            return;
        }
        let refused = matches!(status, Some(StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS));
        let counter = if refused { &self.refused } else { &self.errors };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    async fn connect(&self) -> Option<Sender> {
        let stream = TcpStream::connect(self.target.address()).await.ok()?;
        stream.set_nodelay(true).ok()?;
        let (sender, driver) = http1::handshake(TokioIo::new(stream)).await.ok()?;
        // Its own error is told to whoever waits for the answer.
        tokio::spawn(async move { drop(driver.await) });
        Some(sender)
    }

    fn request(&self, method: Method, stream: u64, query: &str, body: Bytes) -> Request<Full<Bytes>> {
        let uri = self.target.stream(&format!("bench/{}/{stream}{query}", self.run));
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        request.headers_mut().insert(HOST, self.target.host().clone());
        request.headers_mut().insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static("text/plain"));
        request
    }
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let target = Target::parse(&args.server)?;
    let run = getrandom::u64().map_err(|e| Failure::new(1, format!("there are no random bytes: {e}"), "try again"))?;
    let readers = usize::try_from(args.connections).expect("the range of the flag is below 2^32");
    let shared = Arc::new(Shared {
        target,
        run: format!("{run:016x}"),
        streams: args.streams,
        begun: Instant::now(),
        connecting: Semaphore::new(CONNECTING),
        connected: Barrier::new(readers + 1),
        reconnect: (args.reconnect > 0).then(|| Duration::from_secs(60) * 100 / args.reconnect as u32),
        reconnects: AtomicU64::new(0),
        refused: AtomicU64::new(0),
        errors: AtomicU64::new(0),
        over: AtomicBool::new(false),
    });
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    let report = runtime.block_on(measure(args, &shared))?;
    runtime.shutdown_background();
    output::print(&report, args.json)?;
    if report.errors + report.refused > 0 {
        let cause = format!("{} requests failed and {} were refused", report.errors, report.refused);
        return Err(Failure::new(1, cause, "see the server's log, connections_max and the limits of open files"));
    }
    Ok(())
}

async fn measure(args: &Args, shared: &Arc<Shared>) -> Result<Report, Failure> {
    let rss = || args.server_pid.and_then(process::rss_bytes_of);
    create_streams(shared).await?;
    let rss_before_bytes = rss();
    let (ages, mut told) = unbounded_channel();
    let begun = Instant::now();
    let mut readers = JoinSet::new();
    for n in 0..args.connections {
        let (shared, ages) = (Arc::clone(shared), ages.clone());
        readers.spawn(read(shared, n, ages));
    }
    drop(ages);
    shared.connected.wait().await;
    let connect_seconds = begun.elapsed().as_secs_f64();
    sleep(Duration::from_secs(args.settle)).await;
    let rss_idle_bytes = rss();
    let appends = append(args, shared).await?;
    sleep(LAST).await;
    let rss_end_bytes = rss();
    shared.over.store(true, Ordering::Relaxed);
    readers.shutdown().await;
    let mut latencies = histogram();
    while let Ok(age_us) = told.try_recv() {
        latencies.saturating_record(age_us * 1000);
    }
    let grown = |idle: u64, before: u64| (i64::try_from(idle).ok()?).checked_sub(i64::try_from(before).ok()?);
    let grown = rss_idle_bytes.zip(rss_before_bytes).and_then(|(idle, before)| grown(idle, before));
    Ok(Report {
        bench: "live",
        server: args.server.clone(),
        connections: args.connections,
        streams: args.streams,
        rate: args.rate,
        seconds: args.seconds,
        connect_seconds,
        rss_before_bytes,
        rss_idle_bytes,
        rss_end_bytes,
        rss_per_connection: grown.map(|grown| grown / i64::try_from(args.connections).unwrap_or(i64::MAX)),
        appends,
        reconnects: shared.reconnects.load(Ordering::Relaxed),
        deliveries: latencies.len(),
        delivery_p50_us: quantile_us(&latencies, 0.5),
        delivery_p99_us: quantile_us(&latencies, 0.99),
        delivery_max_us: quantile_us(&latencies, 1.0),
        refused: shared.refused.load(Ordering::Relaxed),
        errors: shared.errors.load(Ordering::Relaxed),
    })
}

fn unreachable(shared: &Shared, told: &str) -> Failure {
    let cause = format!("the server {} cannot be asked: {told}", shared.target);
    Failure::new(1, cause, "check that the server runs and takes so many connections")
}

async fn create_streams(shared: &Shared) -> Result<(), Failure> {
    let mut sender = shared.connect().await.ok_or_else(|| unreachable(shared, "no connection"))?;
    for n in 0..shared.streams {
        let request = shared.request(Method::PUT, n, "", Bytes::new());
        let answer = whole(&mut sender, request).await.map_err(|e| unreachable(shared, &e))?;
        if answer.status() != StatusCode::CREATED {
            return Err(unreachable(shared, &format!("a creation was answered {}", answer.status())));
        }
    }
    Ok(())
}

async fn whole(sender: &mut Sender, request: Request<Full<Bytes>>) -> Result<Response<Bytes>, String> {
    sender.ready().await.map_err(|e| e.to_string())?;
    let (head, body) = sender.send_request(request).await.map_err(|e| e.to_string())?.into_parts();
    let body = body.collect().await.map_err(|e| e.to_string())?.to_bytes();
    Ok(Response::from_parts(head, body))
}

/// Appends at the rate that is asked for, however long each takes.
async fn append(args: &Args, shared: &Arc<Shared>) -> Result<u64, Failure> {
    let mut random = Random::new(7);
    let total = args.rate * args.seconds;
    let workers = 8.min(total);
    let mut tasks = JoinSet::new();
    let start = Instant::now();
    for worker in 0..workers {
        let mut sender = shared.connect().await.ok_or_else(|| unreachable(shared, "no connection"))?;
        let (shared, rate, seed) = (Arc::clone(shared), args.rate, random.below(u64::MAX));
        tasks.spawn(async move {
            let mut random = Random::new(seed);
            for n in (worker..total).step_by(usize::try_from(workers).expect("there are a few")) {
                sleep_until((start + Duration::from_micros(n * 1_000_000 / rate)).into()).await;
                let body = format!("{}\n", shared.now_us());
                let request = shared.request(Method::POST, random.below(shared.streams), "", body.into());
                match timeout(PATIENCE, whole(&mut sender, request)).await {
                    Ok(Ok(answer)) if answer.status() == StatusCode::NO_CONTENT => {}
                    Ok(Ok(answer)) => shared.failed(Some(answer.status())),
                    _ => return shared.failed(None),
                }
            }
        });
    }
    while tasks.join_next().await.is_some() {}
    Ok(total)
}

/// One reader, for as long as the bench goes on.
async fn read(shared: Arc<Shared>, n: u64, ages: UnboundedSender<u64>) {
    let live = if n.is_multiple_of(2) { "sse" } else { "long-poll" };
    // The streams are new and empty: this is their end as well, and a reader that comes late misses nothing.
    let mut offset = "-1".to_owned();
    let mut is_first = true;
    let mut sender = None;
    // Spread evenly over the time in which each does so once.
    let mut reconnect_at =
        shared.reconnect.map(|every| Instant::now() + every.mul_f64(Random::new(n).below(1000) as f64 / 1000.0));
    loop {
        let permit = if is_first { shared.connecting.acquire().await.ok() } else { None };
        let open = match sender.take().filter(|open: &Sender| !open.is_closed()) {
            Some(open) => Some(open),
            None => shared.connect().await,
        };
        let Some(mut open) = open else {
            shared.failed(None);
            if std::mem::take(&mut is_first) {
                shared.connected.wait().await;
            }
            sleep(Duration::from_secs(1)).await;
            continue;
        };
        let query = format!("?offset={offset}&live={live}");
        let request = shared.request(Method::GET, n % shared.streams, &query, Bytes::new());
        let sent = async {
            open.ready().await.ok()?;
            Some(open.send_request(request))
        };
        let answer = sent.await;
        drop(permit);
        // A long poll is not answered before there is news, so that asking is all that can be waited for.
        if answer.is_some() && std::mem::take(&mut is_first) {
            shared.connected.wait().await;
        }
        let followed = async {
            match answer?.await.ok() {
                Some(answer) if answer.status().is_success() => {
                    return follow(&shared, answer, live == "sse", &mut offset, &ages).await;
                }
                other => shared.failed(other.map(|answer| answer.status())),
            }
            None
        };
        let done = tokio::select! {
            done = followed => done,
            () = sleep_until(reconnect_at.unwrap_or_else(|| Instant::now() + FOREVER).into()) => {
                reconnect_at = shared.reconnect.map(|every| Instant::now() + every);
                shared.reconnects.fetch_add(1, Ordering::Relaxed);
                continue;
            }
        };
        match done {
            Some(()) => sender = Some(open),
            None => sleep(Duration::from_secs(1)).await,
        }
    }
}

/// Reads an answer to its end, notes how old each record is, and where to go on.
async fn follow(
    shared: &Shared, mut answer: Response<Incoming>, is_events: bool, offset: &mut String, ages: &UnboundedSender<u64>,
) -> Option<()> {
    if !is_events {
        *offset = answer.headers().get(headers::NEXT_OFFSET)?.to_str().ok()?.to_owned();
    }
    let mut text = String::new();
    while let Some(frame) = answer.body_mut().frame().await {
        let now = shared.now_us();
        text += std::str::from_utf8(&frame.ok()?.into_data().ok()?).ok()?;
        while let Some((line, rest)) = text.split_once('\n') {
            let line = line.strip_prefix("data:").unwrap_or(line);
            if let Ok(sent) = line.parse::<u64>() {
                // The receiver is there for as long as the bench is.
                let _ = ages.send(now.saturating_sub(sent));
            } else if let Some((_, next)) = line.split_once("\"streamNextOffset\":\"") {
                *offset = next.split('"').next()?.to_owned();
            }
            text = rest.to_owned();
        }
    }
    Some(())
}
