//! A server's life: settings, store, listeners, ready, stop.
//!
//! Invariant: the ready line is printed once, when both addresses take connections and the store takes appends; a clean
//! stop has answered or cut off every request before the store is closed.

use crate::config::{Cli, LogFormat, Settings};
use crate::failure::Failure;
use crate::handlers::Context;
use crate::listener::{Audience, DRAIN_PATIENCE, serve};
use crate::metrics::Metrics;
use crate::streams::Streams;
use everlog::format::identity::FILE_NAME;
use everlog::{ErrorKind, Store};
use rustix::process::{Resource, getrlimit, setrlimit};
use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

/// Runs until the process is asked to stop.
///
/// # Errors
/// Why it did not start, or did not stop cleanly.
pub fn run(cli: &Cli) -> Result<(), Failure> {
    let settings = cli.settings()?;
    if cli.check_config {
        std::io::stdout().write_all(settings.to_toml().as_bytes())?;
        return Ok(());
    }
    start_logging(settings.log_format);
    raise_open_files();
    let store = open(&settings, cli.init)?;
    if !settings.cold.is_empty() {
        tracing::warn!(
            cold = settings.cold.join(","),
            "nothing is shipped to a cold store yet: this machine's disk holds the only copy"
        );
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime
        .map_err(|e| Failure::new(1, format!("the runtime cannot be started: {e}"), "raise the limit of threads"))?;
    let served = runtime.block_on(serve_until_asked(settings, store.clone()));
    // Connections that were cut off end here, before the store does.
    runtime.shutdown_timeout(DRAIN_PATIENCE);
    let closed = store.close().map_err(Failure::from);
    served?;
    closed?;
    tracing::info!("stopped");
    Ok(())
}

fn start_logging(format: LogFormat) {
    let filter = EnvFilter::try_from_env("EVERLOG_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).with_target(false).init(),
        LogFormat::Json => lines.json().init(),
    }
}

/// As many open files as the system grants without being asked for more: each connection takes one.
fn raise_open_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::debug!(%error, "the limit of open files stays");
    }
}

/// Opens the store; with `init` it is created if there is none. Only creating tells what a creation that was cut short
/// left, which it makes anew, from anything else in the directory, which it refuses.
fn open(settings: &Settings, init: bool) -> Result<Store, Failure> {
    let refused = match Store::open(&settings.data, settings.engine()) {
        Err(e) if init && e.kind() == ErrorKind::Refused => e,
        Err(e) if e.kind() == ErrorKind::Refused && is_missing(settings) => {
            let cause = format!("there is no store in {}", settings.data.display());
            let remedy = "check that the disk is mounted and --data is right; for a first start, say --init";
            return Err(Failure::new(3, cause, remedy));
        }
        opened => return Ok(opened?),
    };
    match Store::create(&settings.data, &settings.engine()) {
        Ok(id) => {
            tracing::info!(store = %id, data = %settings.data.display(), "created a store");
            Ok(Store::open(&settings.data, settings.engine())?)
        }
        // A store that is there was refused for a reason of its own.
        Err(e) if e.kind() == ErrorKind::Refused && settings.data.join(FILE_NAME).exists() => Err(refused.into()),
        Err(e) => Err(e.into()),
    }
}

/// Whether there is nothing at all where the store should be.
fn is_missing(settings: &Settings) -> bool {
    std::fs::read_dir(&settings.data).map_or(true, |mut entries| entries.next().is_none())
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

async fn serve_until_asked(settings: Settings, store: Store) -> Result<(), Failure> {
    let unheard =
        |e: std::io::Error| Failure::new(1, format!("signals cannot be received: {e}"), "see the system's log");
    let mut terminate = signal(SignalKind::terminate()).map_err(unheard)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(unheard)?;
    let (devices, address) = listen("--listen", settings.listen).await?;
    let (operators, admin_address) = listen("--admin-listen", settings.admin_listen).await?;
    let (stop, stopping) = watch::channel(false);
    let metrics = Metrics::new(&store);
    let context = Arc::new(Context { streams: Streams::new(store), settings, metrics, stopping });
    let devices = tokio::spawn(serve(devices, Audience::Devices, Arc::clone(&context)));
    let operators = tokio::spawn(serve(operators, Audience::Operators, context));
    tracing::info!("metrics and health on http://{admin_address}");
    // Whoever started this program may have closed its standard error; it serves all the same.
    let _ = writeln!(std::io::stderr(), "everlogd ready on http://{address}");
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping");
    // Nobody may be listening any more, which is the aim.
    let _ = stop.send(true);
    let (devices, operators) = tokio::join!(devices, operators);
    match devices.and(operators) {
        Ok(()) => Ok(()),
        Err(e) => Err(Failure::new(1, format!("a listener stopped: {e}"), "report this as a defect")),
    }
}
