//! A server's life: settings, store, listeners, ready, stop.
//!
//! Invariant: the ready line is printed once, when both addresses take connections and the store takes appends; a clean
//! stop has answered or cut off every request before the store is closed.

use crate::auth::Gate;
use crate::auth::audit::{self, Action};
use crate::auth::jwt::{Jwt, Source};
use crate::auth::tokens::Tokens;
use crate::carried;
use crate::config::{Auth, Cli, LogFormat, OnFailure, Settings};
use crate::connection::Audience;
use crate::failure::Failure;
use crate::handlers::{BODIES_KIB, COMPRESSIONS_MAX, Context, PAIRINGS_MAX, Said, WALKS_MAX};
use crate::limits::Limits;
use crate::listener::{DRAIN_PATIENCE, OPERATORS_MAX, TURNED_AWAY_MAX, serve, serve_while_opening};
use crate::metrics::Metrics;
use crate::socket::Socket;
use crate::streams::{Request, Streams};
use crate::system;
use crate::tls::Tls;
use everlog::format::identity::FILE_NAME;
use everlog::{ColdConfig, ErrorKind, Store};
use rustix::process::{Resource, getrlimit, setrlimit};
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::JoinHandle;
use tracing_subscriber::EnvFilter;

/// Open files that are kept for the store: journal, segments, manifest, and the program's own; and for the connections
/// that no setting counts.
const FILES_KEPT: usize = 512 + OPERATORS_MAX + TURNED_AWAY_MAX;

/// Runs until the process is asked to stop.
///
/// # Errors
/// Why it did not start, or did not stop cleanly.
pub fn run(cli: &Cli) -> Result<(), Failure> {
    let mut settings = cli.settings()?;
    if cli.check_config {
        std::io::stdout().write_all(settings.to_toml().as_bytes())?;
        return Ok(());
    }
    start_logging(settings.log_format);
    share_open_files(&mut settings);
    let cold = settings.cold(cli.cold_lost)?;
    if cold.stores.is_empty() {
        tracing::warn!("nothing is shipped (--cold none): this machine's disk holds the only copy");
    }
    let left = carried::look(&settings.data)?;
    let tls = match (&settings.tls_cert, &settings.tls_key) {
        (Some(cert), Some(key)) => Some(Arc::new(Tls::load(cert.clone(), key.clone())?)),
        _ => None,
    };
    if settings.is_exposed() && !settings.insecure && !cold.counts_for(&settings.data)? {
        let cause = format!("--listen {} is not a loopback address, and no cold store is independent", settings.listen);
        let remedy = "give --cold a bucket or a folder on another disk; --insecure does without";
        return Err(Failure::new(2, cause, remedy));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime
        .map_err(|e| Failure::new(1, format!("the runtime cannot be started: {e}"), "raise the limit of threads"))?;
    // Opening may take long, as after a crash, or where a cold store does not answer: whoever watches is told.
    let opening = runtime.block_on(Opening::begin(settings.admin_listen))?;
    let store = open(&settings, &cold, cli.init)?;
    let served = runtime.block_on(serve_until_asked(settings, store.clone(), opening, left, tls));
    // Connections that were cut off end here, before the store does.
    runtime.shutdown_timeout(DRAIN_PATIENCE);
    let closed = store.close().map_err(closing);
    served?;
    closed?;
    tracing::info!("stopped");
    Ok(())
}

/// How a store that does not close cleanly ends the program.
fn closing(error: everlog::Error) -> Failure {
    if error.kind() != ErrorKind::Poisoned {
        return error.into();
    }
    let remedy = "see what the system's log says of that disk, mend it, and start again: what was acknowledged is kept, \
                  and clients send the rest again";
    Failure::new(Failure::from(error.clone()).code(), error.message(), remedy)
}

fn start_logging(format: LogFormat) {
    let filter = EnvFilter::try_from_env("EVERLOG_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    // Whoever reads the lines may have gone; that is no reason to stop, nor to say so to nobody.
    let lines = tracing_subscriber::fmt().with_env_filter(filter).log_internal_errors(false);
    let lines = lines.with_writer(std::io::stderr);
    match format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).with_target(false).init(),
        LogFormat::Json => lines.json().init(),
    }
}

/// Asks for as many open files as the system grants: each connection takes one. Connections get what the store's files
/// leave, so that they never keep a flush from its segment.
fn share_open_files(settings: &mut Settings) {
    let mut limit = getrlimit(Resource::Nofile);
    let current = limit.current;
    limit.current = limit.maximum;
    let granted = match setrlimit(Resource::Nofile, limit) {
        Ok(()) => limit.maximum,
        Err(_) => current,
    };
    let Some(granted) = granted.and_then(|files| usize::try_from(files).ok()) else { return };
    let left = granted.saturating_sub(FILES_KEPT).max(granted / 4).max(1);
    if left < settings.connections_max {
        tracing::warn!(
            connections_max = left,
            "the limit of open files, {granted}, allows no more connections; raise it (ulimit -n, LimitNOFILE) for more"
        );
        settings.connections_max = left;
    }
}

/// Opens the store; with `init` it is created if there is none. Only creating tells what a creation that was cut short
/// left, which it makes anew, from anything else in the directory, which it refuses.
fn open(settings: &Settings, cold: &ColdConfig, init: bool) -> Result<Store, Failure> {
    let refused = match Store::open_shipping(&settings.data, settings.engine(), cold) {
        Err(e) if init && e.kind() == ErrorKind::Refused => e,
        Err(e) if e.kind() == ErrorKind::Refused && is_missing(settings) => {
            let cause = format!("there is no store in {}", settings.data.display());
            let remedy = "check that the disk is mounted and --data is right; for a first start, say --init; if the disk is \
                          lost, bring the store back with everlog restore";
            return Err(Failure::new(3, cause, remedy));
        }
        opened => return Ok(opened?),
    };
    if has_identity(settings) {
        // There is a store, and opening it told why it cannot be had.
        return Err(refused.into());
    }
    match Store::create_shipping(&settings.data, &settings.engine(), cold) {
        Ok(id) => {
            tracing::info!(store = %id, data = %settings.data.display(), "created a store");
            Ok(Store::open_shipping(&settings.data, settings.engine(), cold)?)
        }
        Err(e) => Err(e.into()),
    }
}

fn has_identity(settings: &Settings) -> bool {
    settings.data.join(FILE_NAME).exists()
}

/// Whether there is nothing at all where the store should be.
fn is_missing(settings: &Settings) -> bool {
    match std::fs::read_dir(&settings.data) {
        Ok(mut entries) => entries.next().is_none(),
        Err(e) => e.kind() == std::io::ErrorKind::NotFound,
    }
}

async fn listen(flag: &str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), Failure> {
    let failed = |e: std::io::Error| {
        let cause = format!("{flag} {address} cannot be listened on: {e}");
        Failure::new(1, cause, "stop what uses the port, or choose another one")
    };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let local = listener.local_addr().map_err(failed)?;
    Ok((listener, local))
}

/// The operators' listener until there is something to be told of the store.
struct Opening {
    listener: JoinHandle<TcpListener>,
    ends: oneshot::Sender<()>,
}

impl Opening {
    async fn begin(address: SocketAddr) -> Result<Self, Failure> {
        let (listener, address) = listen("--admin-listen", address).await?;
        tracing::info!("metrics and health on http://{address}");
        let (ends, is_open) = oneshot::channel();
        Ok(Self { listener: tokio::spawn(serve_while_opening(listener, is_open)), ends })
    }

    async fn end(self) -> Result<TcpListener, Failure> {
        // It waits for this, and ends with nothing else.
        let _ = self.ends.send(());
        self.listener.await.map_err(|e| ended_early(Err(e)))
    }
}

async fn serve_until_asked(
    settings: Settings, store: Store, opening: Opening, left: Option<carried::Left>, tls: Option<Arc<Tls>>,
) -> Result<(), Failure> {
    let unheard =
        |e: std::io::Error| Failure::new(1, format!("signals cannot be received: {e}"), "see the system's log");
    let mut terminate = signal(SignalKind::terminate()).map_err(unheard)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(unheard)?;
    let streams = Streams::new(store.clone(), Duration::from_millis(settings.append_ms));
    if let Some(left) = left {
        carried::bring_in(&streams, &left).await?;
    }
    let gate = gate(&streams, &settings).await?;
    let socket = Socket::open(&settings.data)?;
    let (devices, address) = listen("--listen", settings.listen).await?;
    let (stop, stopping) = watch::channel(false);
    let metrics = Metrics::new(&store);
    let stops = settings.on_failure == OnFailure::Stop;
    let failed = store.failed();
    let ends = async {
        // Whom another one took the store over from has nothing to serve any more.
        let error = failed.await;
        if !stops && error.kind() != ErrorKind::Fenced {
            std::future::pending::<()>().await;
        }
    };
    // Also where there is nothing to be read again: the signal would end the server otherwise.
    let hangups = signal(SignalKind::hangup()).map_err(unheard)?;
    tokio::spawn(reload_when_asked(hangups, tls.clone()));
    let scheme = if tls.is_some() { "https" } else { "http" };
    let said = Said::new(streams.store_id(), &settings);
    let context = Arc::new(Context {
        streams,
        gate,
        snapshots: Arc::default(),
        limits: Limits::new(&settings),
        compressions: Semaphore::new(COMPRESSIONS_MAX),
        pairings: Semaphore::new(PAIRINGS_MAX),
        walks: Arc::new(Semaphore::new(WALKS_MAX)),
        requests: Arc::new(Semaphore::new(settings.connections_max)),
        said,
        settings,
        metrics,
        bodies: Arc::new(Semaphore::new(BODIES_KIB)),
        stopping,
    });
    let mut devices = tokio::spawn(serve(devices, Audience::Devices, Arc::clone(&context), tls));
    let socket = tokio::spawn(socket.serve(Arc::clone(&context)));
    let operators = opening.end().await?;
    let mut operators = tokio::spawn(serve(operators, Audience::Operators, context, None));
    // Whoever started this program may have closed its standard error; it serves all the same.
    let _ = writeln!(std::io::stderr(), "everlogd ready on {scheme}://{address}");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        // Why is told by the log, and once more by the close.
        () = ends => {}
        // Neither ends before it is asked to: without one of them this process would only look alive.
        ended = &mut devices => return Err(ended_early(ended)),
        ended = &mut operators => return Err(ended_early(ended)),
    }
    tracing::info!("stopping");
    // Nobody may be listening any more, which is the aim.
    let _ = stop.send(true);
    let (drained, socket) = tokio::join!(devices, socket);
    operators.abort();
    drained.and(socket).map_err(|e| ended_early(Err(e)))
}

/// Who is let in, as the settings say; where callers are told apart, the open is written down.
async fn gate(streams: &Streams, settings: &Settings) -> Result<Gate, Failure> {
    let gate = match settings.auth {
        Auth::Off => return Ok(Gate::Off),
        Auth::Tokens => Gate::Tokens(Arc::new(Tokens::open(streams).await?)),
        Auth::Jwt => {
            let incomplete = || Failure::new(2, "--auth jwt has no keys", "set jwks and jwt_algorithm");
            let source = settings.jwks.as_deref().and_then(|jwks| Source::parse(jwks).ok()).ok_or_else(incomplete)?;
            let algorithm = settings.jwt_algorithm.ok_or_else(incomplete)?;
            let (issuer, audience) = (settings.jwt_issuer.as_deref(), settings.jwt_audience.as_deref());
            let jwt = Arc::new(Jwt::open(source, algorithm, issuer, audience).await?);
            refresh_when_asked(Arc::clone(&jwt))?;
            Gate::Jwt(jwt)
        }
    };
    system::ensure(streams, system::AUDIT).await?;
    let outcome = if streams.recovery().clean { "clean" } else { "recovered" };
    let body = audit::record("everlogd", Action::StoreOpen, &streams.timeline().to_string(), outcome);
    let records = std::iter::once(0..body.len()).collect();
    let body = body.into();
    streams.append(Request { name: system::AUDIT.to_owned(), body, records, ..Request::default() }).await?;
    Ok(gate)
}

/// Has the keys of tokens read again at each SIGHUP.
fn refresh_when_asked(jwt: Arc<Jwt>) -> Result<(), Failure> {
    let mut asked = signal(SignalKind::hangup())
        .map_err(|e| Failure::new(1, format!("signals cannot be received: {e}"), "see the system's log"))?;
    tokio::spawn(async move {
        while asked.recv().await.is_some() {
            jwt.refresh().await;
        }
    });
    Ok(())
}

/// Reads the certificate again whenever SIGHUP comes, if there is one, on a thread that may wait for a disk.
async fn reload_when_asked(mut hangups: Signal, tls: Option<Arc<Tls>>) {
    while hangups.recv().await.is_some() {
        if let Some(tls) = tls.clone() {
            // It fails only if the server stops meanwhile.
            let _ = tokio::task::spawn_blocking(move || tls.reload()).await;
        }
    }
}

fn ended_early(ended: Result<(), tokio::task::JoinError>) -> Failure {
    let why = ended.map_or_else(|e| e.to_string(), |()| "nobody asked it to".to_owned());
    Failure::new(1, format!("a listener stopped: {why}"), "start the server again, and report this as a defect")
}
