//! Requests to a server, each on a connection of its own, with nothing between the test and the bytes.
//!
//! It knows just enough of HTTP/1.1 for answers whose end is that of their connection. Invariant: an answer is given
//! whole or not at all.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long a server may take on a slow machine.
pub(super) const PATIENCE: Duration = Duration::from_secs(60);

/// An answer in its parts.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers' lines.
    head: String,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The value of a header; empty if there is none.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map_or("", |(_, value)| value)
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// Asks; None if the server is gone or breaks off.
#[must_use]
pub fn try_ask(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Option<Answer> {
    let mut stream = TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let mut request = format!("{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n");
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    request += &format!("Content-Length: {}\r\n\r\n", body.len());
    stream.write_all(&[request.as_bytes(), body].concat()).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(&answer[..end]).into_owned();
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let mut answer = Answer { status, head, body: answer.split_off(end + 4) };
    if answer.header("transfer-encoding").eq_ignore_ascii_case("chunked") {
        answer.body = unchunked(&answer.body)?;
    }
    let length = answer.header("content-length").parse().ok().filter(|_| method != "HEAD");
    length.is_none_or(|length: usize| length == answer.body.len()).then_some(answer)
}

/// Asks a server that has to answer.
#[must_use]
pub fn ask(address: SocketAddr, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
    try_ask(address, method, path, headers, body).unwrap_or_else(|| panic!("no answer to {method} {path}"))
}

fn unchunked(mut body: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    loop {
        let line = body.windows(2).position(|two| two == b"\r\n")?;
        let len = usize::from_str_radix(std::str::from_utf8(&body[..line]).ok()?, 16).ok()?;
        if len == 0 {
            return Some(out);
        }
        out.extend_from_slice(body.get(line + 2..line + 2 + len)?);
        body = body.get(line + 2 + len + 2..)?;
    }
}
