//! One HTTP/1.1 connection to a server, which carries one request after another.
//!
//! The task that asks also drives the connection, so that nothing is handed from one task to another. There is neither a
//! pool nor a second attempt: whatever breaks is the caller's to count. Invariant: an answer is one that was read to its
//! end.

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, Response, Uri};
use hyper_util::rt::TokioIo;
use std::fmt;
use std::io;
use std::pin::pin;
use tokio::net::TcpStream;

use everlog_server::failure::Failure;

/// Where streams lie on a server whose address has no path.
const STREAMS: &str = "/v1/stream";

/// A server's address.
#[derive(Debug)]
pub struct Target {
    address: String,
    host: HeaderValue,
    base: String,
}

impl Target {
    /// Reads `http://HOST[:PORT][/PATH]`.
    ///
    /// # Errors
    /// Exit code 2.
    pub fn parse(url: &str) -> Result<Self, Failure> {
        let wrong =
            |cause: String| Failure::new(2, cause, "give the address of a server, such as http://127.0.0.1:4437");
        let uri: Uri = url.parse().map_err(|e| wrong(format!("--server {url} is no address: {e}")))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => {
                return Err(wrong(format!("--server {url} asks for https, which this client does not speak")));
            }
            _ => return Err(wrong(format!("--server {url} does not begin with http://"))),
        }
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'));
        let (Some(authority), None) = (authority, uri.query()) else {
            return Err(wrong(format!("--server {url} has a user or a query")));
        };
        let host = HeaderValue::from_str(authority.as_str()).map_err(|e| wrong(format!("--server {url}: {e}")))?;
        let address = format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80));
        let base = match uri.path().trim_end_matches('/') {
            "" => STREAMS.to_owned(),
            path => path.to_owned(),
        };
        Ok(Self { address, host, base })
    }

    /// What to connect to.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// What requests name as their host.
    pub fn host(&self) -> &HeaderValue {
        &self.host
    }

    /// The target of requests for a stream whose name needs no encoding.
    pub fn stream(&self, name: &str) -> Uri {
        let path = format!("{}/{name}", self.base);
        path.parse().expect("the path of an address, with plain names behind it, is a path")
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.address)
    }
}

/// A connection, kept alive for as long as the server does.
pub struct Connection {
    host: HeaderValue,
    sender: http1::SendRequest<Full<Bytes>>,
    driver: http1::Connection<TokioIo<TcpStream>, Full<Bytes>>,
    ended: bool,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// Why not.
    pub async fn open(target: &Target) -> io::Result<Self> {
        let stream = TcpStream::connect(&target.address).await?;
        // A request is one small packet, which is not to wait for another.
        stream.set_nodelay(true)?;
        let (sender, driver) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
        Ok(Self { host: target.host.clone(), sender, driver, ended: false })
    }

    /// Whether the server ended it; nothing is to be sent any more.
    pub fn is_over(&self) -> bool {
        self.ended || self.sender.is_closed()
    }

    /// Sends a request with `body` and waits for the whole answer.
    ///
    /// # Errors
    /// The connection broke before that; what became of the request is unknown.
    pub async fn ask(
        &mut self, method: Method, stream: Uri, content_type: &HeaderValue, body: Bytes,
    ) -> hyper::Result<Response<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = stream;
        request.headers_mut().insert(HOST, self.host.clone());
        request.headers_mut().insert(CONTENT_TYPE, content_type.clone());
        let sender = &mut self.sender;
        let mut answer = pin!(async move {
            let (head, body): (_, Incoming) = sender.send_request(request).await?.into_parts();
            Ok(Response::from_parts(head, body.collect().await?.to_bytes()))
        });
        if !self.ended {
            tokio::select! {
                biased;
                // Its own error is told to whoever waits for the answer.
                _ = &mut self.driver => self.ended = true,
                answer = &mut answer => return answer,
            }
        }
        // The server may have ended the connection with this very answer.
        answer.await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_says_where_streams_lie() {
        for (url, address, stream) in [
            ("http://127.0.0.1:4437", "127.0.0.1:4437", "/v1/stream/a/0"),
            ("http://localhost/", "localhost:80", "/v1/stream/a/0"),
            ("http://[::1]:7/streams/", "[::1]:7", "/streams/a/0"),
        ] {
            let target = Target::parse(url).expect(url);
            assert_eq!((target.address.as_str(), target.stream("a/0").to_string().as_str()), (address, stream));
        }
    }

    #[test]
    fn what_is_no_address_of_a_plain_server_is_bad_usage() {
        for url in ["https://127.0.0.1:4437", "127.0.0.1:4437", "", "http://", "http://a@b/", "http://b/?c", "ftp://b"]
        {
            assert_eq!(Target::parse(url).expect_err(url).code(), 2, "{url}");
        }
    }
}
