//! `everlog token`: asks the server that has a store open for tokens, through the Unix socket in the store's directory.
//!
//! Whoever may open the socket is an operator. Invariant: a token is printed once, on stdout, and kept nowhere here.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use clap::Subcommand;
use everlog_server::failure::Failure;
use everlog_server::handlers::control::{PAIRINGS, TOKENS};
use everlog_server::socket::{FILE_NAME, near};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::UnixStream;

use crate::output;

pub const EXAMPLES: &str = "Examples:
  everlog token pair --scope users/alice --device phone
  everlog token issue --data /var/lib/everlog --scope users/alice --device laptop
  everlog token list --json
  everlog token revoke 0123456789abcdef

The server runs with --auth tokens, and has the store in --data open. Exits 1 if it cannot be asked, does not know the token, or
cannot make it durable; 2 for a name that cannot be one; 3 if it refuses, as for a device that has a token already.";

/// A list of as many tokens as there can be, with the longest names.
const BODY_BYTES_MAX: usize = 256 << 20;
/// Longer than the server waits for its disk and its cold store.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Subcommand)]
pub enum Command {
    /// Print a code that a device gives in for its token, once and within ten minutes
    #[command(
        after_help = "Example:\n  everlog token pair --scope users/alice --device phone\n\nThe device sends it: POST \
                            /v1/pair {\"code\": \"…\", \"device\": \"phone\"}"
    )]
    Pair {
        #[command(flatten)]
        place: Place,
        /// What the device may reach: an owner, such as users/alice, or another name and all below it
        #[arg(long, value_name = "NAME")]
        scope: String,
        /// The device that it is for; left out, the device names itself
        #[arg(long, value_name = "NAME")]
        device: Option<String>,
    },
    /// Issue a token, and print it; it is shown this once
    #[command(after_help = "Example:\n  everlog token issue --scope users/alice --device laptop")]
    Issue {
        #[command(flatten)]
        place: Place,
        /// What the device may reach: an owner, such as users/alice, or another name and all below it
        #[arg(long, value_name = "NAME")]
        scope: String,
        /// The device that it is for
        #[arg(long, value_name = "NAME")]
        device: String,
    },
    /// List the tokens, without their secrets
    #[command(after_help = "Examples:\n  everlog token list\n  everlog token list --data /var/lib/everlog --json")]
    List {
        #[command(flatten)]
        place: Place,
    },
    /// Revoke a token: what it has open ends at once
    #[command(after_help = "Example:\n  everlog token revoke 0123456789abcdef")]
    Revoke {
        #[command(flatten)]
        place: Place,
        /// The token's id, as list shows it
        id: String,
    },
}

/// Where the server is, and how it is told.
#[derive(clap::Args)]
pub struct Place {
    /// The store's directory
    #[arg(long, value_name = "DIR", env = "EVERLOG_DATA", default_value = "./everlog-data")]
    data: PathBuf,
    /// One JSON object on stdout
    #[arg(long)]
    json: bool,
}

pub fn run(command: &Command) -> Result<(), Failure> {
    match command {
        Command::Pair { place, scope, device } => {
            let offer = place.ask(Method::POST, PAIRINGS, Some(&json!({ "scope": scope, "device": device })))?;
            place.print(&offer, "code")
        }
        Command::Issue { place, scope, device } => {
            let given = place.ask(Method::POST, TOKENS, Some(&json!({ "scope": scope, "device": device })))?;
            place.print(&given, "token")
        }
        Command::List { place } => Ok(output::print(&place.ask(Method::GET, TOKENS, None)?, place.json)?),
        Command::Revoke { place, id } => {
            if id.len() != 16 || !id.bytes().all(|b| b.is_ascii_hexdigit()) {
                let cause = format!("{id:?} is no token's id");
                return Err(Failure::new(2, cause, "name one that everlog token list shows"));
            }
            place.ask(Method::DELETE, &format!("{TOKENS}/{}", id.to_ascii_lowercase()), None)?;
            if place.json {
                return Ok(output::print(&json!({ "revoked": id }), true)?);
            }
            Ok(writeln!(std::io::stdout(), "revoked {id}")?)
        }
    }
}

impl Place {
    /// The secret alone, for people and pipes, or all of it.
    fn print(&self, answer: &Value, secret: &str) -> Result<(), Failure> {
        if self.json {
            return Ok(output::print(answer, true)?);
        }
        Ok(writeln!(std::io::stdout(), "{}", answer[secret].as_str().unwrap_or_default())?)
    }

    fn ask(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        let socket = self.data.join(FILE_NAME);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| unreachable(&socket, &e.to_string()))?;
        let asked = async { tokio::time::timeout(PATIENCE, exchange(&socket, method, path, body)).await };
        let answered = runtime.block_on(asked).map_err(|_| "it did not answer".to_owned());
        let (status, bytes) = answered.and_then(|answer| answer).map_err(|why| unreachable(&socket, &why))?;
        if (200..300).contains(&status) {
            return serde_json::from_slice(&bytes)
                .map_err(|e| unreachable(&socket, &format!("its answer is odd: {e}")));
        }
        let told = String::from_utf8_lossy(&bytes).trim().to_owned();
        let (code, remedy) = match status {
            400 => (2, "everlog token --help names what is wanted"),
            409 => (3, "everlog token list shows what there is"),
            404 => (1, "everlog token list shows what there is"),
            _ => (1, "see the server's log, and ask again"),
        };
        Err(Failure::new(code, told, remedy))
    }
}

fn unreachable(socket: &Path, why: &str) -> Failure {
    let cause = format!("the server cannot be asked through {}: {why}", socket.display());
    Failure::new(
        1,
        cause,
        "start everlogd on that store, name its directory with --data, and be the user that it runs as",
    )
}

async fn exchange(socket: &Path, method: Method, path: &str, body: Option<&Value>) -> Result<(u16, Bytes), String> {
    let (short, _dir) = near(socket).map_err(|e| e.to_string())?;
    let stream = UnixStream::connect(&short).await.map_err(|e| e.to_string())?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    tokio::spawn(connection);
    let body = body.map_or_else(Bytes::new, |body| body.to_string().into());
    let request = Request::builder().method(method).uri(path).header("host", "everlogd").body(Full::new(body));
    let answer = sender.send_request(request.map_err(|e| e.to_string())?).await.map_err(|e| e.to_string())?;
    let status = answer.status().as_u16();
    let body = Limited::new(answer.into_body(), BODY_BYTES_MAX).collect().await.map_err(|e| e.to_string())?;
    Ok((status, body.to_bytes()))
}
