//! Requests to the server, each repeated until it is answered or patience ends, and the check that it is still the same
//! store that answers.
//!
//! What a request means is the callers' business; every one of them can be repeated without harm. Invariant: no answer
//! of another store than the expected one gets past here.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::thread;
use std::time::{Duration, Instant};

use ureq::Agent;
use ureq::http::{self, HeaderMap};

use everlog_server::failure::Failure;

const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// How long a connection may stand still.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// More than this is no page of a stream.
const BODY_BYTES_MAX: u64 = 64 << 20;
/// What is passed on at a time from a connection to a file.
const COPY_BYTES: usize = 64 * 1024;

pub struct Http {
    agent: Agent,
    base: String,
    authorization: Option<String>,
    patience: Duration,
    /// None until the first answer.
    store: RefCell<Option<String>>,
    gave_up: Cell<bool>,
}

/// One request. It borrows what it sends, so that it can be sent again.
pub struct Request<'a> {
    pub method: http::Method,
    /// Percent-encoded, with the query.
    pub path: String,
    pub headers: Vec<(&'static str, String)>,
    pub body: Option<&'a [u8]>,
}

pub struct Answer {
    pub status: u16,
    headers: HeaderMap,
    pub body: Vec<u8>,
}

/// A place for a long answer: the file from `at` on, at most `most` bytes.
pub struct Place<'a> {
    pub file: &'a mut File,
    pub at: u64,
    pub most: u64,
}

/// Why an attempt did not lead to an answer.
enum Broken {
    /// The next attempt may succeed.
    Connection(String),
    /// No attempt would.
    Here(Failure),
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }

    pub fn number(&self, name: &str) -> Option<u64> {
        self.header(name).and_then(|value| value.parse().ok())
    }

    pub fn is_set(&self, name: &str) -> bool {
        self.header(name) == Some("true")
    }

    pub fn says(&self, error: &str) -> bool {
        self.header("everlog-error") == Some(error)
    }

    /// What nothing was expected to answer.
    pub fn unexpected(&self, what: &str) -> Failure {
        let text: String = String::from_utf8_lossy(&self.body).chars().filter(|c| !c.is_control()).take(200).collect();
        let told = if text.is_empty() { String::new() } else { format!(": {text}") };
        Failure::new(
            1,
            format!("the server answered {what} with status {}{told}", self.status),
            "look into the server's log; nothing here is lost, and the next sync goes on",
        )
    }

    /// A state of the server that may pass.
    fn passes(&self) -> bool {
        matches!(self.status, 408 | 429 | 502 | 503 | 504)
    }
}

impl Http {
    /// `store`: the one that is expected, if any is.
    pub fn new(server: &str, token: Option<&str>, patience: Duration, store: Option<String>) -> Self {
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            // A redirect could lead the token, or the user's data, to another server.
            .max_redirects(0)
            .max_redirects_will_error(false)
            .timeout_connect(Some(CONNECT_MAX))
            .timeout_per_read(Some(SILENCE_MAX))
            .timeout_per_write(Some(SILENCE_MAX))
            .user_agent(concat!("everlog-device/", env!("CARGO_PKG_VERSION")));
        if is_loopback(server) {
            config = config.proxy(None);
        }
        Self {
            agent: config.build().into(),
            base: format!("{server}/v1/stream/"),
            authorization: token.map(|token| format!("Bearer {token}")),
            patience,
            store: RefCell::new(store),
            gave_up: Cell::new(false),
        }
    }

    /// The store that answers, once it has.
    pub fn store(&self) -> Option<String> {
        self.store.borrow().clone()
    }

    /// Whether patience has ended with a request unanswered.
    pub fn gave_up(&self) -> bool {
        self.gave_up.get()
    }

    pub fn send(&self, request: &Request<'_>) -> Result<Answer, Failure> {
        self.send_to(request, None)
    }

    /// As `send`, but the body of an answer 200 goes to a file. A part that came over a connection that broke is
    /// overwritten by the next attempt.
    pub fn send_to(&self, request: &Request<'_>, mut place: Option<Place<'_>>) -> Result<Answer, Failure> {
        let begun = Instant::now();
        let mut pause = PAUSE_MIN;
        let mut attempts = 0_u64;
        loop {
            attempts += 1;
            let (why, wait) = match self.attempt(request, place.as_mut()) {
                Ok(answer) if answer.passes() => {
                    let wait = answer.number("retry-after").map(Duration::from_secs);
                    (format!("it answered with status {}", answer.status), wait.unwrap_or(pause).max(pause))
                }
                Ok(answer) => return self.check(answer),
                Err(Broken::Connection(why)) => (why, pause),
                Err(Broken::Here(failure)) => return Err(failure),
            };
            if begun.elapsed().saturating_add(wait) > self.patience {
                self.gave_up.set(true);
                return Err(Failure::new(
                    1,
                    format!("the server could not be reached: {why} (attempts: {attempts})"),
                    "run the sync again once it can be; nothing is lost",
                ));
            }
            thread::sleep(wait);
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    fn attempt(&self, request: &Request<'_>, place: Option<&mut Place<'_>>) -> Result<Answer, Broken> {
        let mut builder =
            http::Request::builder().method(request.method.clone()).uri(format!("{}{}", self.base, request.path));
        for (name, value) in &request.headers {
            builder = builder.header(*name, value);
        }
        if let Some(authorization) = &self.authorization {
            builder = builder.header("authorization", authorization);
        }
        let unfit = |e: http::Error| {
            let cause = format!("the request cannot be written: {e}");
            Broken::Here(Failure::new(2, cause, "look for odd characters in the server's address and the token"))
        };
        let answered = match request.body {
            Some(body) => self.agent.run(builder.body(body).map_err(unfit)?),
            None => self.agent.run(builder.body(()).map_err(unfit)?),
        };
        let broken = |e| match e {
            ureq::Error::Io(e) => Broken::Connection(e.to_string()),
            other => Broken::Connection(other.to_string()),
        };
        let (parts, body) = answered.map_err(broken)?.into_parts();
        let mut answer = Answer { status: parts.status.as_u16(), headers: parts.headers, body: Vec::new() };
        if request.method == http::Method::HEAD {
            return Ok(answer);
        }
        let mut reader = body.into_reader();
        match place {
            Some(place) if answer.status == 200 => copy(&mut reader, place)?,
            _ => {
                let read = reader.take(BODY_BYTES_MAX + 1).read_to_end(&mut answer.body);
                read.map_err(|e| Broken::Connection(e.to_string()))?;
                if answer.body.len() as u64 > BODY_BYTES_MAX {
                    let cause = "the server sent a page of more than 64 MiB";
                    return Err(Broken::Here(Failure::new(1, cause, "see whether the address leads to everlog")));
                }
            }
        }
        Ok(answer)
    }

    /// Whether the answer comes from whom it should, and is one that callers can make something of.
    fn check(&self, answer: Answer) -> Result<Answer, Failure> {
        if answer.status == 401 || (answer.status == 403 && answer.header("producer-epoch").is_none()) {
            let cause = format!("the server does not let this device in (status {})", answer.status);
            return Err(Failure::new(3, cause, "give a token that is valid for this user with --token"));
        }
        let found = answer.header("everlog-store");
        let expected = self.store();
        match (found, expected) {
            (Some(found), Some(expected)) if found != expected => {
                return Err(Failure::new(
                    3,
                    format!("the server holds the store {found}, but this device belongs to the store {expected}"),
                    "point --server at the right one, or merge the files here with that store's after \
                     `everlog device reset --keep-files`",
                ));
            }
            (Some(found), None) => *self.store.borrow_mut() = Some(found.to_owned()),
            // An intermediary may have answered in the server's place, with a failure and nothing else.
            (None, _) if answer.status < 500 => {
                let cause = format!("what answers there (status {}) does not say which store it is", answer.status);
                return Err(Failure::new(3, cause, "point --server at an everlog server"));
            }
            _ => {}
        }
        if answer.says("damaged") {
            let cause = "the server found records damaged and cannot give them";
            return Err(Failure::new(
                4,
                cause,
                "have them restored on the server, then sync again; nothing was changed",
            ));
        }
        Ok(answer)
    }
}

/// Passes the body on to the file, from the place's beginning.
fn copy(reader: &mut dyn Read, place: &mut Place<'_>) -> Result<(), Broken> {
    let here = |e: io::Error| {
        let cause = format!("writing a download failed: {e}");
        Broken::Here(Failure::new(5, cause, "make room on the disk or look after it, then sync again"))
    };
    place.file.set_len(place.at).map_err(here)?;
    place.file.seek(SeekFrom::Start(place.at)).map_err(here)?;
    let mut buffer = vec![0; COPY_BYTES];
    let mut left = place.most;
    loop {
        let n = match reader.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
            Err(e) => return Err(Broken::Connection(e.to_string())),
        };
        // One byte beyond what was promised is enough to show that the promise was wrong.
        let kept = (n as u64).min(left.saturating_add(1)) as usize;
        place.file.write_all(&buffer[..kept]).map_err(here)?;
        if n as u64 > left {
            return Ok(());
        }
        left -= n as u64;
    }
}

fn is_loopback(server: &str) -> bool {
    let uri: Option<http::Uri> = server.parse().ok();
    let host = uri.as_ref().and_then(http::Uri::host).unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback())
}

/// Text as one segment of a path or one value of a query.
pub fn percent_encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_becomes_one_segment() {
        assert_eq!(percent_encoded("a-b_c.~"), "a-b_c.~");
        assert_eq!(percent_encoded("a b/ä?%"), "a%20b%2F%C3%A4%3F%25");
    }

    #[test]
    fn loopback_is_known() {
        assert!(
            is_loopback("http://127.0.0.1:4437") && is_loopback("http://[::1]:1") && is_loopback("http://localhost")
        );
        assert!(!is_loopback("http://example.org") && !is_loopback("http://10.0.0.1:4437"));
    }
}
