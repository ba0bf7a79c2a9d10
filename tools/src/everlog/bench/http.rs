//! `bench http`: connections that append to streams of a server chosen at random, and how long each waits for its
//! answer.
//!
//! What is measured is the server and this client together, on one machine as a rule; `client_cpus` says how much of it
//! the client took. Invariant: a request counts if it was begun after warming up and answered by a success, however
//! late; every failure is counted as one, those while warming up included.

pub mod connection;
mod tally;

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hyper::header::{HeaderMap, HeaderValue, SERVER};
use hyper::{Method, StatusCode, Uri};
use serde::Serialize;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout, timeout_at};

use self::connection::{Connection, Target};
use self::tally::{StatusCount, Tally};
use super::payload::{Payloads, Random};
use super::{process, quantile_us};
use crate::output;
use crate::progress::Progress;
use everlog_server::failure::Failure;
use everlog_server::protocol::headers;

pub const EXAMPLES: &str = "Examples:
  everlog bench http --server http://127.0.0.1:4437 --streams 10000 --connections 64 --record-bytes 256 --seconds 10
  everlog bench http --server http://127.0.0.1:4437 --connections 256 --json
  everlog bench http --server http://127.0.0.1:4437 --streams 1000000 --write-each --server-pid 4711

The streams are created first, as bench/RUN/N with a new RUN each time, and stay. created_per_s has the streams created a
second in each tenth of them, with an append to each of --write-each. Each connection sends its next request
once the one before is answered. Exits 1 if any request failed.";

/// What goes before the measurement and is not counted.
const WARM_UP: Duration = Duration::from_secs(1);
/// How long a creation, or a request under way at the end, may take to be answered.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long after a failure to connect the next attempt is made.
const PAUSE: Duration = Duration::from_millis(100);
/// The time between two looks at how far it got.
const TICK: Duration = Duration::from_millis(100);

#[derive(clap::Args)]
pub struct Args {
    /// The server: http://HOST:PORT, with the path that streams lie under if that is not /v1/stream
    #[arg(long, value_name = "URL")]
    server: String,
    /// Streams, created before the measurement
    #[arg(long, value_name = "L", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    streams: u64,
    /// Connections that append
    #[arg(long, value_name = "C", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=60_000))]
    connections: u64,
    /// Bytes of a record, which is one request's body
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = clap::value_parser!(u64).range(1..=1 << 30))]
    record_bytes: u64,
    /// How long to measure, after one second of warming up
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    seconds: u64,
    /// Append one record to each stream as soon as it is created
    #[arg(long)]
    write_each: bool,
    /// The server's process, whose memory and open files are looked at
    #[arg(long, value_name = "PID")]
    server_pid: Option<u32>,
    /// Threads of this client
    #[arg(long, value_name = "T", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: u16,
    /// One JSON object on stdout
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    bench: &'static str,
    server: String,
    server_version: Option<String>,
    store: Option<String>,
    run: String,
    streams: u64,
    connections: u64,
    record_bytes: u64,
    threads: u16,
    created_per_s: Vec<f64>,
    server_heap_bytes_max: Option<u64>,
    server_descriptors_max: Option<u64>,
    seconds: f64,
    requests: u64,
    requests_per_s: f64,
    p50_us: f64,
    p99_us: f64,
    p999_us: f64,
    client_cpus: f64,
    errors: u64,
    broken_connections: u64,
    unanswered: u64,
    errors_by_status: Vec<StatusCount>,
}

/// What the tasks of the connections share.
struct Shared {
    target: Target,
    streams: Vec<Uri>,
    content_type: HeaderValue,
    payloads: Payloads,
    /// How many creations were begun, which is also the next stream's place. It orders nothing.
    begun: AtomicU64,
    write_each: bool,
    created: Mutex<Created>,
    /// What the first answer said of the server.
    answered_by: OnceLock<HeaderMap>,
    tally: Mutex<Tally>,
}

/// How the creations went on.
struct Created {
    count: u64,
    /// When each tenth of the streams was there, the beginning first.
    tenths: Vec<Instant>,
    heap_bytes_max: Option<u64>,
    descriptors_max: Option<u64>,
}

impl Created {
    /// One more of `total`.
    fn one(&mut self, total: u64) {
        self.count += 1;
        if self.count == total * self.tenths.len() as u64 / 10 {
            self.tenths.push(Instant::now());
        }
    }

    /// Streams a second in each tenth of `total`.
    fn rates(&self, total: u64) -> Vec<f64> {
        let size = |n: u64| (total * (n + 1) / 10 - total * n / 10) as f64;
        (0..).zip(self.tenths.windows(2)).map(|(n, at)| size(n) / (at[1] - at[0]).as_secs_f64().max(1e-9)).collect()
    }

    /// Looks at what the server takes.
    fn look(&mut self, pid: Option<u32>) {
        let Some(pid) = pid else { return };
        self.heap_bytes_max = self.heap_bytes_max.max(process::heap_bytes_of(pid));
        self.descriptors_max = self.descriptors_max.max(process::descriptors_of(pid));
    }
}

/// When the measurement begins and ends.
#[derive(Clone, Copy)]
struct Window {
    start: Instant,
    end: Instant,
}

pub fn run(args: &Args) -> Result<(), Failure> {
    let target = Target::parse(&args.server)?;
    let run = getrandom::u64().map_err(|e| Failure::new(1, format!("there are no random bytes: {e}"), "try again"))?;
    let run = format!("{run:016x}");
    let streams = (0..args.streams).map(|n| target.stream(&format!("bench/{run}/{n}"))).collect();
    let shared = Arc::new(Shared {
        target,
        streams,
        content_type: HeaderValue::from_static("application/octet-stream"),
        payloads: Payloads::new(usize::try_from(args.record_bytes).expect("the range of the flag is below 2^32")),
        begun: AtomicU64::new(0),
        write_each: args.write_each,
        created: Mutex::new(Created {
            count: 0,
            tenths: vec![Instant::now()],
            heap_bytes_max: None,
            descriptors_max: None,
        }),
        answered_by: OnceLock::new(),
        tally: Mutex::new(Tally::new()),
    });
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(args.threads.into()).enable_all().build()?;
    let (seconds, client_cpus) = runtime.block_on(async {
        let connections = create_streams(&shared, args).await?;
        Ok::<_, Failure>(measure(&shared, connections, Duration::from_secs(args.seconds)).await)
    })?;
    drop(runtime);

    let report = report(args, run, &shared, seconds, client_cpus);
    output::print(&report, args.json)?;
    if report.errors > 0 {
        let cause = format!("{} requests or connections failed", report.errors);
        return Err(Failure::new(1, cause, "take no figure above for the server's: see its log, and ask it for less"));
    }
    Ok(())
}

fn report(args: &Args, run: String, shared: &Shared, seconds: f64, client_cpus: f64) -> Report {
    let tally = shared.tally.lock().unwrap_or_else(PoisonError::into_inner);
    let said = |name: &str| Some(shared.answered_by.get()?.get(name)?.to_str().ok()?.to_owned());
    let requests = tally.latencies.len();
    let created = shared.created.lock().unwrap_or_else(PoisonError::into_inner);
    Report {
        bench: "http",
        server: args.server.clone(),
        server_version: said(SERVER.as_str()),
        store: said(headers::STORE),
        run,
        streams: args.streams,
        connections: args.connections,
        record_bytes: args.record_bytes,
        threads: args.threads,
        created_per_s: created.rates(args.streams),
        server_heap_bytes_max: created.heap_bytes_max,
        server_descriptors_max: created.descriptors_max,
        seconds,
        requests,
        requests_per_s: requests as f64 / seconds,
        p50_us: quantile_us(&tally.latencies, 0.5),
        p99_us: quantile_us(&tally.latencies, 0.99),
        p999_us: quantile_us(&tally.latencies, 0.999),
        client_cpus,
        errors: tally.errors(),
        broken_connections: tally.broken_connections,
        unanswered: tally.unanswered,
        errors_by_status: tally.by_status(),
    }
}

/// Connects as often as is asked for, and creates the streams over all those connections.
async fn create_streams(shared: &Arc<Shared>, args: &Args) -> Result<Vec<Connection>, Failure> {
    let created = || shared.created.lock().unwrap_or_else(PoisonError::into_inner);
    created().tenths = vec![Instant::now()];
    let mut tasks = JoinSet::new();
    for _ in 0..args.connections {
        tasks.spawn(create(Arc::clone(shared)));
    }
    let total = shared.streams.len() as u64;
    let mut progress = Progress::new("creating streams", total);
    let mut open = Vec::with_capacity(tasks.len());
    let gather = async {
        while let Some(task) = tasks.join_next().await {
            open.push(task.expect("a task of the bench does not panic")?);
        }
        Ok::<_, Failure>(())
    };
    let look = || {
        progress.reached(shared.begun.load(Ordering::Relaxed).min(total));
        created().look(args.server_pid);
    };
    watched(gather, look).await?;
    created().look(args.server_pid);
    Ok(open)
}

/// One connection's part of the creations.
async fn create(shared: Arc<Shared>) -> Result<Connection, Failure> {
    let server = &shared.target;
    let unreachable = |e: &dyn std::fmt::Display| {
        let cause = format!("the server {server} cannot be reached: {e}");
        Failure::new(1, cause, "check that the server runs and takes so many connections")
    };
    let mut connection = Connection::open(server).await.map_err(|e| unreachable(&e))?;
    let mut random = Random::new(shared.begun.load(Ordering::Relaxed));
    loop {
        let n = shared.begun.fetch_add(1, Ordering::Relaxed);
        let Some(stream) = usize::try_from(n).ok().and_then(|n| shared.streams.get(n)) else { return Ok(connection) };
        let writes = shared.write_each.then(|| (Method::POST, shared.payloads.shared_record(&mut random)));
        for (method, body) in std::iter::once((Method::PUT, Bytes::new())).chain(writes) {
            let asked = connection.ask(method, stream.clone(), &shared.content_type, body);
            let answer = match timeout(PATIENCE, asked).await {
                Ok(answer) => answer.map_err(|e| unreachable(&e))?,
                Err(_) => return Err(unreachable(&format!("no answer in {} s", PATIENCE.as_secs()))),
            };
            if !matches!(answer.status(), StatusCode::CREATED | StatusCode::NO_CONTENT) {
                let told = String::from_utf8_lossy(answer.body());
                let cause =
                    format!("the server {server} did not create {stream}: {}, {}", answer.status(), told.trim_end());
                return Err(Failure::new(1, cause, "see the server's log, and check the path that streams lie under"));
            }
            shared.answered_by.get_or_init(|| answer.headers().clone());
        }
        shared.created.lock().unwrap_or_else(PoisonError::into_inner).one(shared.streams.len() as u64);
    }
}

/// Appends over all connections. Seconds from the end of warming up to the last answer, but not less than `length`, and the processors that this
/// process kept busy meanwhile.
async fn measure(shared: &Arc<Shared>, connections: Vec<Connection>, length: Duration) -> (f64, f64) {
    let start = Instant::now() + WARM_UP;
    let window = Window { start, end: start + length };
    let mut tasks = JoinSet::new();
    for (connection, n) in connections.into_iter().zip(0_u64..) {
        tasks.spawn(append_in_time(Arc::clone(shared), connection, n << 32, window));
    }
    tokio::time::sleep_until(window.start.into()).await;
    let cpu_before = process::cpu_time();
    let mut progress = Progress::new("appending", length.as_millis() as u64);
    let gather = async {
        while let Some(task) = tasks.join_next().await {
            task.expect("a task of the bench does not panic");
        }
    };
    watched(gather, || progress.reached(window.start.elapsed().as_millis() as u64)).await;
    let cpu = process::cpu_time() - cpu_before;
    let elapsed = window.start.elapsed().as_secs_f64();
    let last = shared.tally.lock().unwrap_or_else(PoisonError::into_inner).last_answer;
    let end = last.map_or(window.end, |last| last.max(window.end));
    ((end - window.start).as_secs_f64(), cpu.as_secs_f64() / elapsed)
}

/// Awaits `work`, and has a look taken now and then.
async fn watched<T>(work: impl Future<Output = T>, mut look: impl FnMut()) -> T {
    let mut work = std::pin::pin!(work);
    loop {
        match timeout(TICK, &mut work).await {
            Ok(done) => return done,
            Err(_) => look(),
        }
    }
}

/// One connection's appends, given up if the last of them is not answered.
async fn append_in_time(shared: Arc<Shared>, connection: Connection, seed: u64, window: Window) {
    let appends = append(&shared, connection, seed, window);
    if timeout_at((window.end + PATIENCE).into(), appends).await.is_err() {
        shared.tally.lock().unwrap_or_else(PoisonError::into_inner).unanswered += 1;
    }
}

/// One connection's appends until the end of the window.
async fn append(shared: &Shared, mut connection: Connection, seed: u64, window: Window) {
    let mut random = Random::new(seed);
    let tally = || shared.tally.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        let begun = Instant::now();
        if begun >= window.end {
            return;
        }
        if connection.is_over() {
            match Connection::open(&shared.target).await {
                Ok(new) => connection = new,
                Err(_) => {
                    tally().broken_connections += 1;
                    sleep(PAUSE).await;
                }
            }
            continue;
        }
        let stream = &shared.streams[random.below(shared.streams.len() as u64) as usize];
        let record = shared.payloads.shared_record(&mut random);
        match connection.ask(Method::POST, stream.clone(), &shared.content_type, record).await {
            Ok(answer) if matches!(answer.status(), StatusCode::OK | StatusCode::NO_CONTENT) => {
                if begun >= window.start {
                    tally().answered(begun);
                }
            }
            Ok(answer) => tally().failed(answer.status().as_u16()),
            Err(_) => tally().broken_connections += 1,
        }
    }
}
