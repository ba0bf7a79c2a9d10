//! The settings of everlogd: flags, then EVERLOG_ variables, then a file, then the defaults.
//!
//! Invariant: a setting that cannot be honoured is refused before anything is opened, with the way to mend it; a key of
//! the file that is not known is refused too, since it may be a safety setting that was misspelled.

use crate::failure::Failure;
use clap::{Parser, ValueEnum};
use everlog::cold::standing::Bounds;
use everlog::{ColdConfig, Config, IoChoice, WhenFull};
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

const USAGE: u8 = 2;
/// More connections than any process has files for.
const CONNECTIONS_MAX: usize = 1_000_000;
/// The shortest time without a word from the cold store that a slow request does not take by itself.
const CONTACT_MS_MIN: u64 = 5_000;
const EXAMPLES: &str = "Examples:
  everlogd --init                                  a first start: creates ./everlog-data and serves it
  everlogd --data /var/lib/everlog --cold file:///mnt/other/cold --cold s3://bucket/prefix
                                                   ships what it stores to another disk and to a bucket
  everlogd --data /var/lib/everlog --cold none     this disk holds the only copy
  everlogd --config everlog.toml --check-config    says what would be in force

Settings are taken from the flags, else from EVERLOG_ variables (EVERLOG_DATA, EVERLOG_LISTEN, …), else from the file.
The file holds the same names with underscores, such as admin_listen = \"127.0.0.1:4438\", and these beside them:
  long_poll_ms = 30000         how long a long poll waits
  sse_ms = 60000               how long a stream of events goes on
  append_ms = 30000            how long an append waits to be durable before it is answered 503, outcome unknown
  connections_max = 10000      connections of devices at once
  cold_lag_max_ms = 0          appends wait while what is stored is not cold for longer than this; 0: never
  cold_contact_max_ms = 0      appends are refused once the first cold store did not answer for so long; 0: never
  cors_allow_origin = \"*\"      the pages that may read answers, as browsers ask
EVERLOG_LOG chooses the log lines: error, warn, info (the default), debug.

A bucket's address and credentials come from the usual variables (AWS_ENDPOINT_URL, AWS_REGION, AWS_ACCESS_KEY_ID, …) or
a profile.

Exit codes: 0 stopped as asked, 1 failed, 2 bad usage or configuration, 3 refused (no store here, locked, newer format,
another owner took the store over), 4 damage found, 5 stopped by an I/O error.";

/// Serves an everlog store to devices, over the Durable Streams protocol.
#[derive(Debug, Parser)]
#[command(name = "everlogd", version, after_help = EXAMPLES)]
pub struct Cli {
    /// The store's directory [default: ./everlog-data]
    #[arg(long, value_name = "DIR", env = "EVERLOG_DATA")]
    data: Option<PathBuf>,
    /// Where the store is shipped: file://PATH, s3://BUCKET/PREFIX, or `none`; may be repeated, and the first one decides
    /// who owns the store [default: file://./everlog-cold]
    #[arg(long, value_name = "URL", env = "EVERLOG_COLD", value_delimiter = ',')]
    cold: Vec<String>,
    /// A folder on the data's own device counts as cold, for tests and toys: it shares the data's fate
    #[arg(long, env = "EVERLOG_ALLOW_DEPENDENT_COLD")]
    allow_dependent_cold: bool,
    /// A cold store that this store was shipped to is empty since it was lost: fill it anew, this once
    #[arg(long)]
    pub cold_lost: bool,
    /// Where devices connect: a loopback address [default: 127.0.0.1:4437]
    #[arg(long, value_name = "ADDR", env = "EVERLOG_LISTEN")]
    listen: Option<SocketAddr>,
    /// Where metrics and health are read: a loopback address [default: 127.0.0.1:4438]
    #[arg(long, value_name = "ADDR", env = "EVERLOG_ADMIN_LISTEN")]
    admin_listen: Option<SocketAddr>,
    /// Create the store if there is none; for a first start by hand, not for a service, which would make an empty store
    /// of a disk that is not mounted
    #[arg(long)]
    pub init: bool,
    /// Who may connect; there is nothing but `off` yet
    #[arg(long, value_enum, env = "EVERLOG_AUTH")]
    auth: Option<Auth>,
    /// The backend that talks to the disk [default: auto]
    #[arg(long, value_enum, env = "EVERLOG_IO")]
    io: Option<Io>,
    /// What to do once a write or a sync of the store failed, after which no append can be acknowledged until the store is
    /// opened again [default: serve-reads]
    #[arg(long, value_enum, env = "EVERLOG_ON_FAILURE")]
    on_failure: Option<OnFailure>,
    /// A file with settings [default: ./everlog.toml, if it is there]
    #[arg(long, value_name = "FILE", env = "EVERLOG_CONFIG")]
    config: Option<PathBuf>,
    /// Print the settings in force, as a file would hold them, and stop
    #[arg(long)]
    pub check_config: bool,
    /// How log lines are written, on stderr [default: text]
    #[arg(long, value_enum, env = "EVERLOG_LOG_FORMAT")]
    log_format: Option<LogFormat>,
}

/// The file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    data: Option<PathBuf>,
    cold: Option<Vec<String>>,
    allow_dependent_cold: Option<bool>,
    cold_lag_max_ms: Option<u64>,
    cold_contact_max_ms: Option<u64>,
    listen: Option<SocketAddr>,
    admin_listen: Option<SocketAddr>,
    auth: Option<Auth>,
    io: Option<Io>,
    log_format: Option<LogFormat>,
    on_failure: Option<OnFailure>,
    long_poll_ms: Option<u64>,
    sse_ms: Option<u64>,
    append_ms: Option<u64>,
    connections_max: Option<usize>,
    cors_allow_origin: Option<String>,
}

/// Who may connect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Auth {
    /// Everybody on this machine.
    #[default]
    Off,
}

/// What to do once the store stopped acknowledging.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// Stay up: /readyz says why, appends are answered 503, and what is there is still read. The default, since a start
    /// on a disk that still fails would not succeed and end the reads too; somebody has to watch /readyz or
    /// everlog_poisoned
    #[default]
    ServeReads,
    /// Answer what is under way and exit with 5. For whatever starts a service again (systemd: Restart=on-failure with
    /// RestartPreventExitStatus=2 3 4): it watches the process and not /readyz, and a new start recovers by itself from
    /// a failure that has passed
    Stop,
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The backend that talks to the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Io {
    /// io_uring where the kernel grants it, else posix.
    #[default]
    Auto,
    /// io_uring alone.
    Uring,
    /// Blocking calls.
    Posix,
    /// Through the page cache, for file systems that refuse direct writes.
    Buffered,
}

/// The settings in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Settings {
    /// The store's directory.
    pub data: PathBuf,
    /// Where the store is shipped, the first one deciding who owns it; empty if nowhere.
    pub cold: Vec<String>,
    /// Whether a folder on the data's own device counts as cold.
    pub allow_dependent_cold: bool,
    /// Appends wait while what is durable is not cold for longer than this, in milliseconds; 0: never.
    pub cold_lag_max_ms: u64,
    /// Appends are refused once the first cold store did not answer for so long, in milliseconds; 0: never.
    pub cold_contact_max_ms: u64,
    /// Where devices connect.
    pub listen: SocketAddr,
    /// Where metrics and health are read.
    pub admin_listen: SocketAddr,
    /// Who may connect.
    pub auth: Auth,
    /// The backend that talks to the disk.
    pub io: Io,
    /// How log lines are written.
    pub log_format: LogFormat,
    /// What to do once the store stopped acknowledging.
    pub on_failure: OnFailure,
    /// How long a long poll waits, in milliseconds.
    pub long_poll_ms: u64,
    /// How long a stream of events goes on, in milliseconds.
    pub sse_ms: u64,
    /// How long an append waits to be durable, in milliseconds.
    pub append_ms: u64,
    /// Connections of devices at once.
    pub connections_max: usize,
    /// The pages that may read answers, as browsers ask; `*` for any.
    pub cors_allow_origin: String,
}

impl Cli {
    /// The settings in force.
    ///
    /// # Errors
    /// Exit code 2, with what to change.
    pub fn settings(&self) -> Result<Settings, Failure> {
        let file = read_file(self.config.as_deref())?;
        // A variable that is set to nothing is not set.
        let given: Vec<String> = self.cold.iter().filter(|url| !url.is_empty()).cloned().collect();
        let cold = if given.is_empty() { file.cold } else { Some(given) };
        let settings = Settings {
            data: self.data.clone().or(file.data).unwrap_or_else(|| "./everlog-data".into()),
            cold: cold_urls(cold.unwrap_or_else(|| vec!["file://./everlog-cold".to_owned()]))?,
            allow_dependent_cold: self.allow_dependent_cold || file.allow_dependent_cold.unwrap_or_default(),
            cold_lag_max_ms: file.cold_lag_max_ms.unwrap_or_default(),
            cold_contact_max_ms: file.cold_contact_max_ms.unwrap_or_default(),
            listen: self.listen.or(file.listen).unwrap_or_else(|| ([127, 0, 0, 1], 4437).into()),
            admin_listen: self.admin_listen.or(file.admin_listen).unwrap_or_else(|| ([127, 0, 0, 1], 4438).into()),
            auth: self.auth.or(file.auth).unwrap_or_default(),
            io: self.io.or(file.io).unwrap_or_default(),
            log_format: self.log_format.or(file.log_format).unwrap_or_default(),
            on_failure: self.on_failure.or(file.on_failure).unwrap_or_default(),
            long_poll_ms: file.long_poll_ms.unwrap_or(30_000),
            sse_ms: file.sse_ms.unwrap_or(60_000),
            append_ms: file.append_ms.unwrap_or(30_000),
            connections_max: file.connections_max.unwrap_or(10_000),
            cors_allow_origin: file.cors_allow_origin.unwrap_or_else(|| "*".to_owned()),
        };
        settings.check()?;
        Ok(settings)
    }
}

impl Settings {
    fn check(&self) -> Result<(), Failure> {
        for (flag, address) in [("--listen", self.listen), ("--admin-listen", self.admin_listen)] {
            if !address.ip().is_loopback() {
                let cause = format!("{flag} {address} is not a loopback address");
                let remedy = "there is neither authentication nor encryption yet: listen on 127.0.0.1, and reach it from \
                              elsewhere through a proxy that has both";
                return Err(Failure::new(USAGE, cause, remedy));
            }
        }
        if self.listen == self.admin_listen && self.listen.port() != 0 {
            let cause = format!("--listen and --admin-listen are both {}", self.listen);
            return Err(Failure::new(USAGE, cause, "give one of them another port"));
        }
        if self.long_poll_ms == 0 || self.sse_ms == 0 || self.append_ms == 0 || self.connections_max == 0 {
            return Err(Failure::new(
                USAGE,
                "a limit is 0",
                "set long_poll_ms, sse_ms, append_ms and connections_max to 1 or more",
            ));
        }
        if self.connections_max > CONNECTIONS_MAX {
            let cause = format!("connections_max is {}", self.connections_max);
            return Err(Failure::new(USAGE, cause, format!("set it to {CONNECTIONS_MAX} at most")));
        }
        if (1..CONTACT_MS_MIN).contains(&self.cold_contact_max_ms) {
            let cause = format!("cold_contact_max_ms is {}", self.cold_contact_max_ms);
            let remedy = format!("set it to 0, which is no bound, or to {CONTACT_MS_MIN} or more");
            return Err(Failure::new(USAGE, cause, remedy));
        }
        if self.data.to_str().is_none() {
            let cause = format!("the path {} is not UTF-8", self.data.display());
            return Err(Failure::new(USAGE, cause, "give the store another directory"));
        }
        if hyper::header::HeaderValue::from_str(&self.cors_allow_origin).is_err() {
            return Err(Failure::new(USAGE, "cors_allow_origin is no header's value", "give one origin, or *"));
        }
        Ok(())
    }

    /// The settings as a file would hold them.
    #[must_use]
    pub fn to_toml(&self) -> String {
        let mut shown = self.clone();
        if shown.cold.is_empty() {
            shown.cold.push("none".to_owned());
        }
        toml::to_string(&shown).expect("names, numbers and paths are always TOML")
    }

    /// The engine's settings.
    #[must_use]
    pub fn engine(&self) -> Config {
        let io = match self.io {
            Io::Auto => IoChoice::Auto,
            Io::Uring => IoChoice::Uring,
            Io::Posix => IoChoice::Posix,
            Io::Buffered => IoChoice::Buffered,
        };
        // An append that finds memory full waits as a task, and not on one of the threads that others need.
        Config { io, when_full: WhenFull::Reject, ..Config::default() }
    }

    /// Where and how the engine ships. Nothing is asked of a cold store yet.
    ///
    /// # Errors
    /// Exit code 2 for a place that names no cold store, or whose surroundings say what cannot be.
    pub fn cold(&self, may_be_lost: bool) -> Result<ColdConfig, Failure> {
        let here = std::env::current_dir()?;
        let stores = self.cold.iter().map(|url| everlog::cold::connect(url, &here)).collect::<Result<_, _>>()?;
        let bound = |ms: u64| (ms > 0).then(|| Duration::from_millis(ms));
        let bounds = Bounds { lag_max: bound(self.cold_lag_max_ms), contact_max: bound(self.cold_contact_max_ms) };
        Ok(ColdConfig { stores, allow_dependent: self.allow_dependent_cold, may_be_lost, bounds })
    }
}

fn read_file(path: Option<&Path>) -> Result<File, Failure> {
    let (path, asked_for) = match path {
        Some(path) => (path, true),
        None => (Path::new("everlog.toml"), false),
    };
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound && !asked_for => return Ok(File::default()),
        Err(e) => {
            let cause = format!("the settings in {} cannot be read: {e}", path.display());
            return Err(Failure::new(USAGE, cause, "name a file that can, or leave --config out"));
        }
    };
    toml::from_str(&text).map_err(|e| {
        let line = 1 + e.span().map_or(0, |span| text[..span.start].matches('\n').count());
        let cause = format!("the settings in {}, line {line}, are wrong: {}", path.display(), e.message());
        Failure::new(USAGE, cause, "mend the file; everlogd --help names the settings")
    })
}

/// The places that were given, checked for their form; none for `none`.
fn cold_urls(urls: Vec<String>) -> Result<Vec<String>, Failure> {
    let wrong = |cause: String| {
        Err(Failure::new(USAGE, cause, "give file://PATH, s3://BUCKET/PREFIX, gs://…, az://…, or `none` alone"))
    };
    if urls.iter().any(|url| url == "none") {
        return if urls.len() == 1 {
            Ok(Vec::new())
        } else {
            wrong("--cold none stands beside another place".to_owned())
        };
    }
    for url in &urls {
        let well_formed = match url.split_once("://") {
            Some(("file", path)) => !path.is_empty(),
            Some(("s3" | "gs" | "az", place)) => !place.is_empty() && !place.starts_with('/'),
            _ => false,
        };
        if !well_formed {
            return wrong(format!("--cold {url} is not the address of a cold store"));
        }
    }
    Ok(urls)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cli(args: &[&str]) -> Cli {
        Cli::try_parse_from(std::iter::once(&"everlogd").chain(args)).expect("well formed")
    }

    fn with_file(text: &str, args: &[&str]) -> Result<Settings, Failure> {
        let dir = tempfile::TempDir::new().expect("a temporary directory");
        let path = dir.path().join("everlog.toml");
        std::fs::write(&path, text).expect("written");
        let path = path.to_str().expect("UTF-8");
        cli(&[&["--config", path], args].concat()).settings()
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        assert_eq!(with_file("", &[]).expect("well formed").on_failure, OnFailure::ServeReads);
        let stop = with_file("on_failure = \"stop\"", &[]).expect("well formed");
        assert_eq!(stop.on_failure, OnFailure::Stop);
        assert_eq!(
            with_file(&stop.to_toml(), &["--on-failure", "serve-reads"]).map(|s| s.on_failure).ok(),
            Some(OnFailure::ServeReads)
        );
        let text = "listen = \"127.0.0.1:1\"\nadmin_listen = \"127.0.0.1:2\"\nlong_poll_ms = 500\ncold = [\"none\"]";
        let settings = with_file(text, &["--listen", "127.0.0.1:3"]).expect("well formed");
        assert_eq!((settings.listen.port(), settings.admin_listen.port()), (3, 2));
        assert_eq!((settings.long_poll_ms, settings.sse_ms), (500, 60_000));
        assert!(settings.cold.is_empty());
    }

    #[test]
    fn the_settings_in_force_can_be_read_back() {
        let settings = with_file("", &["--cold", "s3://bucket/prefix"]).expect("well formed");
        assert_eq!(with_file(&settings.to_toml(), &[]).expect("as printed"), settings);
    }

    #[test]
    fn what_is_unsafe_or_unknown_is_refused() {
        for (text, args) in [
            ("listne = \"127.0.0.1:1\"", &[][..]),
            ("listen = 7", &[]),
            ("", &["--listen", "0.0.0.0:4437"]),
            ("", &["--listen", "192.168.0.7:4437"]),
            ("", &["--admin-listen", "[::]:4438"]),
            ("", &["--admin-listen", "127.0.0.1:4437"]),
            ("", &["--cold", "none", "--cold", "file://x"]),
            ("", &["--cold", "/var/cold"]),
            ("", &["--cold", "file://"]),
            ("", &["--cold", "s3:///prefix"]),
            ("on_failure = \"panic\"", &[]),
            ("long_poll_ms = 0", &[]),
            ("append_ms = 0", &[]),
            ("cold_contact_max_ms = 100", &[]),
            ("cors_allow_origin = \"a\\nb\"", &[]),
        ] {
            let failure = with_file(text, args).expect_err(text);
            assert_eq!(failure.code(), USAGE, "{text} {args:?}");
        }
        assert!(Cli::try_parse_from(["everlogd", "--auth", "tokens"]).is_err(), "there is none yet");
        assert!(cli(&["--config", "/nonexistent/everlog.toml"]).settings().is_err());
    }
}
