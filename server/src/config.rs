//! The settings of everlogd: flags, then EVERLOG_ variables, then a file, then the defaults.
//!
//! Invariant: a setting that cannot be honoured is refused before anything is opened, with the way to mend it; a key of
//! the file that is not known is refused too, since it may be a safety setting that was misspelled.

use crate::auth::jwt::{JwtAlgorithm, Source};
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
  everlogd --data /var/lib/everlog --cold s3://bucket/prefix --listen 0.0.0.0:443 --tls-cert chain.pem --tls-key key.pem
                                                   serves devices elsewhere, encrypted
  everlogd --config everlog.toml --check-config    says what would be in force

Settings are taken from the flags, else from EVERLOG_ variables (EVERLOG_DATA, EVERLOG_LISTEN, …), else from the file.
The file holds the same names with underscores, such as admin_listen = \"127.0.0.1:4438\", and these beside them:
  long_poll_ms = 30000         how long a long poll waits
  sse_ms = 60000               how long a stream of events goes on
  append_ms = 30000            how long an append waits to be durable before it is answered 503, outcome unknown
  connections_max = 10000      connections of devices at once, and requests under way over HTTP/2; more are answered 503
  requests_per_second_max = 0  requests of one device a second, more are answered 429; 0: no limit
  logs_per_owner_max = 0       streams of one owner, which is the first two segments of their names; 0: no limit
  bytes_per_owner_max = 0      bytes that they take; 0: no limit
  cold_lag_max_ms = 0          appends wait while what is stored is not cold for longer than this; 0: never
  cold_contact_max_ms = 0      appends are refused once the first cold store did not answer for so long; 0: never
  cors_allow_origin = \"*\"      the pages that may read answers, as browsers ask
and for --auth jwt:
  jwks = \"keys.json\"           the signers' public keys, a JSON Web Key Set: a file, or an address at https://
  jwt_algorithm = \"EdDSA\"      the algorithm of all signatures: EdDSA, ES256 or RS256
  jwt_issuer = \"…\"             what iss must be, where it is set
  jwt_audience = \"…\"           what aud must be, where it is set
EVERLOG_LOG chooses the log lines: error, warn, info (the default), debug, which has a line for each request.
SIGHUP reads tls_cert, tls_key and jwks again; SIGTERM and SIGINT stop the server once requests under way are answered.

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
    /// Where devices connect: a loopback address, or any with TLS, authentication and an independent cold store
    /// [default: 127.0.0.1:4437]
    #[arg(long, value_name = "ADDR", env = "EVERLOG_LISTEN")]
    listen: Option<SocketAddr>,
    /// Where metrics and health are read: a loopback address [default: 127.0.0.1:4438]
    #[arg(long, value_name = "ADDR", env = "EVERLOG_ADMIN_LISTEN")]
    admin_listen: Option<SocketAddr>,
    /// The certificate that devices see, in PEM, followed by those that lead to an authority; read again on SIGHUP
    #[arg(long, value_name = "FILE", env = "EVERLOG_TLS_CERT")]
    tls_cert: Option<PathBuf>,
    /// The certificate's key, in PEM
    #[arg(long, value_name = "FILE", env = "EVERLOG_TLS_KEY")]
    tls_key: Option<PathBuf>,
    /// Create the store if there is none; for a first start by hand, not for a service, which would make an empty store
    /// of a disk that is not mounted
    #[arg(long)]
    pub init: bool,
    /// Who may connect [default: off]
    #[arg(long, value_enum, env = "EVERLOG_AUTH")]
    auth: Option<Auth>,
    /// Listen on an address that others reach although something is missing that keeps them out, or their data
    #[arg(long, env = "EVERLOG_INSECURE")]
    insecure: bool,
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
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    auth: Option<Auth>,
    insecure: Option<bool>,
    jwks: Option<String>,
    jwt_algorithm: Option<JwtAlgorithm>,
    jwt_issuer: Option<String>,
    jwt_audience: Option<String>,
    io: Option<Io>,
    log_format: Option<LogFormat>,
    on_failure: Option<OnFailure>,
    long_poll_ms: Option<u64>,
    sse_ms: Option<u64>,
    append_ms: Option<u64>,
    connections_max: Option<usize>,
    requests_per_second_max: Option<u32>,
    logs_per_owner_max: Option<u64>,
    bytes_per_owner_max: Option<u64>,
    cors_allow_origin: Option<String>,
}

/// Who may connect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Auth {
    /// Everybody on this machine.
    #[default]
    Off,
    /// Devices with a token of this server, from `everlog token`
    Tokens,
    /// Devices with a signed token of another program, by the settings jwks and jwt_algorithm
    Jwt,
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
    /// The certificate that devices see, with its chain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_cert: Option<PathBuf>,
    /// Its key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls_key: Option<PathBuf>,
    /// Whether others may reach a server that is not fit for it.
    pub insecure: bool,
    /// Who may connect.
    pub auth: Auth,
    /// Where the keys of signed tokens are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwks: Option<String>,
    /// The algorithm of their signatures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwt_algorithm: Option<JwtAlgorithm>,
    /// Who has to have signed them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwt_issuer: Option<String>,
    /// Whom they have to be meant for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jwt_audience: Option<String>,
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
    /// Connections of devices at once, and requests under way over HTTP/2.
    pub connections_max: usize,
    /// Requests of one device a second; 0: no limit.
    pub requests_per_second_max: u32,
    /// Streams of one owner; 0: no limit.
    pub logs_per_owner_max: u64,
    /// Bytes that the streams of one owner take; 0: no limit.
    pub bytes_per_owner_max: u64,
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
            tls_cert: self.tls_cert.clone().or(file.tls_cert),
            tls_key: self.tls_key.clone().or(file.tls_key),
            insecure: self.insecure || file.insecure.unwrap_or_default(),
            auth: self.auth.or(file.auth).unwrap_or_default(),
            jwks: file.jwks,
            jwt_algorithm: file.jwt_algorithm,
            jwt_issuer: file.jwt_issuer,
            jwt_audience: file.jwt_audience,
            io: self.io.or(file.io).unwrap_or_default(),
            log_format: self.log_format.or(file.log_format).unwrap_or_default(),
            on_failure: self.on_failure.or(file.on_failure).unwrap_or_default(),
            long_poll_ms: file.long_poll_ms.unwrap_or(30_000),
            sse_ms: file.sse_ms.unwrap_or(60_000),
            append_ms: file.append_ms.unwrap_or(30_000),
            connections_max: file.connections_max.unwrap_or(10_000),
            requests_per_second_max: file.requests_per_second_max.unwrap_or_default(),
            logs_per_owner_max: file.logs_per_owner_max.unwrap_or_default(),
            bytes_per_owner_max: file.bytes_per_owner_max.unwrap_or_default(),
            cors_allow_origin: file.cors_allow_origin.unwrap_or_else(|| "*".to_owned()),
        };
        settings.check()?;
        Ok(settings)
    }
}

impl Settings {
    fn check(&self) -> Result<(), Failure> {
        self.check_auth()?;
        self.check_exposure()?;
        if self.tls_cert.is_some() != self.tls_key.is_some() {
            let cause = "one of tls_cert and tls_key is given without the other";
            return Err(Failure::new(USAGE, cause, "give both, or neither for connections in the clear"));
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

    /// Who is let in, where signed tokens say it, is set wholly or not at all.
    fn check_auth(&self) -> Result<(), Failure> {
        let wrong = |cause: &str, remedy: &str| Err(Failure::new(USAGE, cause, remedy));
        match (self.auth, &self.jwks, self.jwt_algorithm) {
            (Auth::Jwt, Some(jwks), Some(_)) => match Source::parse(jwks) {
                Ok(_) => Ok(()),
                Err(why) => {
                    wrong(&format!("jwks is {jwks:?}: {why}"), "name a file, or an address that begins with https://")
                }
            },
            (Auth::Jwt, _, _) => wrong(
                "--auth jwt does not know which tokens are good",
                "set jwks to a file or an address, and jwt_algorithm to EdDSA, ES256 or RS256, in the file of settings",
            ),
            (_, None, None) if self.jwt_issuer.is_none() && self.jwt_audience.is_none() => Ok(()),
            _ => wrong(
                "jwks or another setting of signed tokens stands there without --auth jwt",
                "add it, or take them away",
            ),
        }
    }

    /// Refuses to be reached by others without what keeps them, and whoever listens between, from the data, and the data
    /// from being lost with this machine. Whether a cold store is independent is known once it is open (`run.rs`).
    fn check_exposure(&self) -> Result<(), Failure> {
        if !self.admin_listen.ip().is_loopback() {
            let cause = format!("--admin-listen {} is not a loopback address", self.admin_listen);
            let remedy =
                "it is for this machine alone: listen on 127.0.0.1, and reach it from elsewhere through a proxy";
            return Err(Failure::new(USAGE, cause, remedy));
        }
        if self.insecure {
            return Ok(());
        }
        let refused = |flag: &str, address: SocketAddr, missing: &str| {
            let cause = format!("{flag} {address} is not a loopback address, and {missing}");
            let remedy = "listen on 127.0.0.1, or give what is missing; --insecure does without";
            Err(Failure::new(USAGE, cause, remedy))
        };
        if !self.is_exposed() {
            return Ok(());
        }
        if self.tls_cert.is_none() {
            return refused("--listen", self.listen, "there is no TLS (--tls-cert, --tls-key)");
        }
        if self.cold.is_empty() || self.allow_dependent_cold {
            return refused("--listen", self.listen, "there is no independent cold store (--cold)");
        }
        if self.auth == Auth::Off {
            return refused("--listen", self.listen, "there is no authentication (--auth)");
        }
        Ok(())
    }

    /// Whether devices reach it from other machines.
    #[must_use]
    pub fn is_exposed(&self) -> bool {
        !self.listen.ip().is_loopback()
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
    use clap::CommandFactory;

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

    /// The file that comes with the documentation.
    const EXAMPLE: &str = include_str!("../../docs/deploy/everlog.toml");

    #[test]
    fn the_example_holds_every_setting_and_its_default() {
        let defaults = with_file("", &[]).expect("well formed");
        assert_eq!(with_file(EXAMPLE, &[]).expect("well formed"), defaults);
        let uncommented = EXAMPLE.replace("# tls_", "tls_");
        let example: toml::Table = uncommented.parse().expect("TOML");
        let with_tls = with_file(&uncommented, &[]).expect("well formed");
        let shown: toml::Table = with_tls.to_toml().parse().expect("TOML");
        let keys = |table: &toml::Table| table.keys().cloned().collect::<std::collections::BTreeSet<_>>();
        assert_eq!(keys(&example), keys(&shown));
    }

    #[test]
    fn the_help_names_every_setting() {
        let help = Cli::command().render_long_help().to_string();
        let uncommented = EXAMPLE.replace("# tls_", "tls_").replace("# jw", "jw");
        let example: toml::Table = uncommented.parse().expect("TOML");
        for key in example.keys() {
            let (flag, line) = (format!("--{}", key.replace('_', "-")), format!("\n  {key} = "));
            assert!(help.contains(&flag) || help.contains(&line), "{key}");
        }
    }

    #[test]
    fn who_is_let_in_is_set() {
        let keys = "jwks = \"keys.json\"\njwt_algorithm = \"ES256\"\njwt_issuer = \"me\"";
        let settings = with_file(keys, &["--auth", "jwt"]).expect("well formed");
        assert_eq!(settings.jwt_algorithm, Some(JwtAlgorithm::ES256));
        assert_eq!(with_file(&settings.to_toml(), &[]).expect("as printed"), settings);
        let open = with_file("", &["--insecure", "--listen", "0.0.0.0:4437"]).expect("it was said");
        assert_eq!((open.auth, open.is_exposed()), (Auth::Off, true));
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
            ("", &["--listen", "0.0.0.0:4437", "--tls-cert", "c.pem", "--tls-key", "k.pem"]),
            ("", &["--tls-cert", "c.pem"]),
            ("tls_key = \"k.pem\"", &[]),
            ("", &["--cold", "none", "--cold", "file://x"]),
            ("", &["--cold", "/var/cold"]),
            ("", &["--cold", "file://"]),
            ("", &["--cold", "s3:///prefix"]),
            ("on_failure = \"panic\"", &[]),
            ("long_poll_ms = 0", &[]),
            ("append_ms = 0", &[]),
            ("cold_contact_max_ms = 100", &[]),
            ("cors_allow_origin = \"a\\nb\"", &[]),
            ("", &["--auth", "tokens", "--listen", "0.0.0.0:4437"]),
            ("", &["--insecure", "--admin-listen", "0.0.0.0:4438"]),
            ("", &["--auth", "jwt"]),
            ("jwks = \"keys.json\"", &["--auth", "jwt"]),
            ("jwt_algorithm = \"EdDSA\"", &["--auth", "jwt"]),
            ("jwks = \"keys.json\"\njwt_algorithm = \"HS256\"", &["--auth", "jwt"]),
            ("jwks = \"http://id.example/keys\"\njwt_algorithm = \"EdDSA\"", &["--auth", "jwt"]),
            ("jwks = \"keys.json\"\njwt_algorithm = \"EdDSA\"", &["--auth", "tokens"]),
            ("jwt_issuer = \"me\"", &[]),
        ] {
            let failure = with_file(text, args).expect_err(text);
            assert_eq!(failure.code(), USAGE, "{text} {args:?}");
        }
        assert!(Cli::try_parse_from(["everlogd", "--auth", "basic"]).is_err());
        assert!(cli(&["--config", "/nonexistent/everlog.toml"]).settings().is_err());
    }
}
