//! TLS and HTTP/2: what a client is offered, which certificate it sees, and how connections end.

use crate::front::Front;
use crate::program::{Program, QUIET, everlogd, send};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame};
use hyper::client::conn::{http1, http2};
use hyper::header::{CONTENT_TYPE, LOCATION};
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustix::process::Signal;
use std::convert::Infallible;
use std::io::Read;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring::default_provider;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

const SETTINGS: &str = "tls_cert = \"cert.pem\"\ntls_key = \"key.pem\"\n";

/// Puts a new certificate and its key where the server looks for them.
fn certify(dir: &Path) -> CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a name");
    std::fs::write(dir.join("cert.pem"), made.cert.pem()).expect("written");
    std::fs::write(dir.join("key.pem"), made.signing_key.serialize_pem()).expect("written");
    made.cert.der().clone()
}

fn scratch() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("there is room for a folder")
}

async fn connect(
    address: &str, trusted: &CertificateDer<'static>, offers: &[&[u8]],
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).expect("a certificate");
    let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider has them");
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = offers.iter().map(|offer| offer.to_vec()).collect();
    let name = ServerName::try_from("localhost").expect("a name");
    TlsConnector::from(Arc::new(config)).connect(name, TcpStream::connect(address).await?).await
}

fn chosen(stream: &TlsStream<TcpStream>) -> Option<&[u8]> {
    stream.get_ref().1.alpn_protocol()
}

fn request(method: Method, uri: &str, body: &'static str) -> Request<Full<Bytes>> {
    let request = Request::builder().method(method).uri(uri).header(CONTENT_TYPE, "text/plain");
    request.body(Full::new(body.into())).expect("well formed")
}

type H2 = http2::SendRequest<Full<Bytes>>;

async fn h2(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> H2 {
    watched_h2(io).await.0
}

/// The same, and how the connection ends.
async fn watched_h2(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> (H2, tokio::task::JoinHandle<hyper::Result<()>>) {
    let (sender, driver) = http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await.expect("HTTP/2");
    (sender, tokio::spawn(driver))
}

async fn ask(sender: &mut H2, request: Request<Full<Bytes>>) -> Response<Bytes> {
    sender.ready().await.expect("it takes requests");
    let (head, body) = sender.send_request(request).await.expect("an answer").into_parts();
    Response::from_parts(head, body.collect().await.expect("a whole answer").to_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_chooses_its_http_over_tls() {
    let dir = scratch();
    let cert = certify(dir.path());
    let front = Front::within(dir, SETTINGS);
    let stream = connect(&front.address, &cert, &[b"h2", b"http/1.1"]).await.expect("TLS");
    assert_eq!(chosen(&stream), Some(&b"h2"[..]));
    let mut sender = h2(stream).await;
    let created = ask(&mut sender, request(Method::PUT, "https://localhost:7/v1/stream/a", "one")).await;
    assert_eq!((created.status(), created.version()), (StatusCode::CREATED, Version::HTTP_2));
    assert_eq!(created.headers()[LOCATION], "https://localhost:7/v1/stream/a");
    for offers in [&[&b"http/1.1"[..]][..], &[]] {
        let stream = connect(&front.address, &cert, offers).await.expect("TLS");
        assert_eq!(chosen(&stream), offers.first().copied());
        let (mut sender, driver) = http1::handshake(TokioIo::new(stream)).await.expect("HTTP/1.1");
        tokio::spawn(driver);
        let answer = sender.send_request(request(Method::GET, "/v1/stream/a", "")).await.expect("an answer");
        assert_eq!((answer.status(), answer.version()), (StatusCode::OK, Version::HTTP_11));
        assert_eq!(answer.into_body().collect().await.expect("a body").to_bytes(), "one");
    }
    assert!(connect(&front.address, &cert, &[b"spdy/3"]).await.is_err(), "there is nothing in common");
    // Who speaks in the clear is not answered, and nothing else suffers.
    let clear = crate::program::ask(&front.address, "GET /v1/stream/a HTTP/1.1\r\n\r\n");
    assert!(!clear.contains("HTTP/1.1"), "{clear}");
    assert_eq!(ask(&mut sender, request(Method::GET, "https://localhost/v1/stream/a", "")).await.body(), "one");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_certificate_is_taken_and_a_bad_one_is_not() {
    let dir = scratch();
    let old = certify(dir.path());
    let mut front = Front::within(dir, SETTINGS);
    let mut open = h2(connect(&front.address, &old, &[b"h2"]).await.expect("TLS")).await;
    let new = certify(front.scratch.path());
    front.program.signal(Signal::HUP);
    front.program.line_with("the certificate was read again");
    assert!(connect(&front.address, &old, &[]).await.is_err(), "the old one is not shown any more");
    connect(&front.address, &new, &[]).await.expect("the new one is");
    // The key of another certificate, and then no certificate at all.
    let other = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).expect("a name");
    std::fs::write(front.scratch.path().join("key.pem"), other.signing_key.serialize_pem()).expect("written");
    front.program.signal(Signal::HUP);
    let told = front.program.line_with("the certificate in use stays");
    assert!(told.contains("do not go together"), "{told}");
    std::fs::write(front.scratch.path().join("cert.pem"), "").expect("written");
    front.program.signal(Signal::HUP);
    let told = front.program.line_with("the certificate in use stays");
    assert!(told.contains("holds no certificate"), "{told}");
    connect(&front.address, &new, &[]).await.expect("the one in use is still shown");
    let answer = ask(&mut open, request(Method::HEAD, "https://localhost/v1/stream/none", "")).await;
    assert_eq!(answer.status(), StatusCode::NOT_FOUND, "an open connection goes on");
}

#[test]
fn a_handshake_that_never_comes_is_waited_for_in_vain() {
    let dir = scratch();
    certify(dir.path());
    let front = Front::within(dir, SETTINGS);
    // The first bytes of a handshake, and no more; reading waits for the end of the connection.
    let mut all = Vec::new();
    send(&front.address, [22, 3, 1, 2, 0]).read_to_end(&mut all).expect("the connection is closed");
    assert!(all.is_empty(), "{all:?}");
}

#[test]
fn a_server_that_cannot_have_its_certificate_does_not_start() {
    let dir = scratch();
    certify(dir.path());
    std::fs::write(dir.path().join("key.pem"), "no key").expect("written");
    std::fs::write(dir.path().join("everlog.toml"), SETTINGS).expect("written");
    let ended = Program::start(everlogd(dir.path()).args(QUIET).args(["--init", "--data", "store"])).ended();
    assert_eq!(ended.code, 2, "{}", ended.stderr);
    assert!(ended.stderr.contains("key.pem cannot be read as PEM"), "{}", ended.stderr);
    assert!(!dir.path().join("store").exists(), "nothing was created");
}

#[test]
fn an_address_that_others_reach_wants_a_cold_store_that_does_not_share_the_datas_fate() {
    let dir = scratch();
    certify(dir.path());
    let more = "auth = \"tokens\"\ncold = [\"file://cold\"]\nlisten = \"0.0.0.0:0\"\nadmin_listen = \"127.0.0.1:0\"\n";
    std::fs::write(dir.path().join("everlog.toml"), SETTINGS.to_owned() + more).expect("written");
    let ended = Program::start(everlogd(dir.path()).args(["--init", "--data", "store"])).ended();
    assert_eq!(ended.code, 2, "{}", ended.stderr);
    assert!(ended.stderr.contains("no cold store is independent"), "{}", ended.stderr);
    // Neither a store nor who owns it.
    assert!(!dir.path().join("store").exists() && !dir.path().join("cold").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_in_the_clear_has_its_limits() {
    let front = Front::new("connections_max = 3");
    let (mut sender, driver) = watched_h2(TcpStream::connect(&front.address).await.expect("it listens")).await;
    let uri = |path: &str| format!("http://localhost/v1/stream/{path}");
    let created = ask(&mut sender, request(Method::PUT, &uri("a"), "one")).await;
    assert_eq!(created.headers()[LOCATION], "http://localhost/v1/stream/a");
    let mut many = request(Method::GET, &uri("a"), "");
    for n in 0..110 {
        many.headers_mut().append("x-n", n.into());
    }
    assert_eq!(ask(&mut sender, many).await.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    assert_eq!(
        ask(&mut sender, request(Method::GET, &uri(&"x".repeat(9000)), "")).await.status(),
        StatusCode::URI_TOO_LONG
    );
    // Three requests that wait are as many as there may be; the connection itself lives on.
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..3 {
        let mut sender = sender.clone();
        let poll = request(Method::GET, &uri("a?offset=now&live=long-poll"), "");
        waiting.spawn(async move { ask(&mut sender, poll).await });
    }
    tokio::task::block_in_place(|| front.told("/metrics", "everlog_live_readers 3\n"));
    let refused = ask(&mut sender, request(Method::GET, &uri("a"), "")).await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.headers()["everlog-error"], "overloaded");
    assert_eq!(refused.headers()["retry-after"], "1");
    // Asked to stop, the server answers those and says that it takes no more.
    front.program.terminate();
    while let Some(answer) = waiting.join_next().await {
        assert_eq!(answer.expect("no panic").status(), StatusCode::NO_CONTENT);
    }
    driver.await.expect("no panic").expect("the connection ends without an error");
    assert_eq!(front.program.ended().code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_over_http2_end_as_they_should() {
    let dir = scratch();
    let cert = certify(dir.path());
    let front = Front::within(dir, SETTINGS);
    let mut sender = h2(connect(&front.address, &cert, &[b"h2"]).await.expect("TLS")).await;
    ask(&mut sender, request(Method::PUT, "https://localhost/v1/stream/a", "one")).await;
    let get = request(Method::GET, "https://localhost/v1/stream/a?offset=-1&live=sse", "");
    let mut events = sender.send_request(get).await.expect("events").into_body();
    let first = events.frame().await.expect("an event").expect("no error").into_data().expect("data");
    assert!(first.starts_with(b"event: data\ndata:one"), "{first:?}");
    front.program.terminate();
    let rest = events.collect().await.expect("the end is an end and no error").to_bytes();
    assert_eq!(rest, "\n", "the last byte of an event comes by itself");
    assert_eq!(front.program.ended().code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_over_http2_counts_until_its_client_has_room_for_all_of_it() {
    let front = Front::new("connections_max = 1");
    let io = TokioIo::new(TcpStream::connect(&front.address).await.expect("it listens"));
    let narrow = http2::Builder::new(TokioExecutor::new()).initial_stream_window_size(1).handshake(io);
    let (mut sender, driver) = narrow.await.expect("HTTP/2");
    tokio::spawn(driver);
    let uri = format!("http://{}/v1/stream/a", front.address);
    let created = ask(&mut sender, request(Method::PUT, &uri, "what is read byte by byte")).await;
    assert_eq!(created.status(), 201);
    let unread = sender.send_request(request(Method::GET, &uri, "")).await.expect("a head");
    assert_eq!(unread.status(), 200);
    let refused = ask(&mut sender, request(Method::HEAD, &uri, "")).await;
    assert_eq!(refused.status(), 503, "the page still takes its place");
    assert_eq!(unread.into_body().collect().await.expect("whole").to_bytes(), "what is read byte by byte");
    let head = async { while ask(&mut sender, request(Method::HEAD, &uri, "")).await.status() != 200 {} };
    tokio::time::timeout(Duration::from_secs(10), head).await.expect("the place is free again");
}

/// A body of which nothing ever comes.
struct Endless;

impl Body for Endless {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Pending
    }
}

/// As many requests over one connection that send nothing of their bodies, and what comes of them.
async fn endless(address: &str, path: &str, count: usize) -> JoinSet<StatusCode> {
    let io = TokioIo::new(TcpStream::connect(address).await.expect("it listens"));
    let (sender, driver) = http2::handshake(TokioExecutor::new(), io).await.expect("HTTP/2");
    tokio::spawn(driver);
    let mut all = JoinSet::new();
    for _ in 0..count {
        let request = Request::post(format!("http://{address}{path}")).header(CONTENT_TYPE, "text/plain");
        let (mut sender, request) = (sender.clone(), request.body(Endless).expect("well formed"));
        all.spawn(async move {
            sender.ready().await.expect("it takes requests");
            sender.send_request(request).await.expect("an answer").status()
        });
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_http2_that_finds_no_room_is_refused_and_keeps_no_other_waiting() {
    let front = Front::new("");
    let uri = format!("http://{}/v1/stream/a", front.address);
    let mut sender = h2(TcpStream::connect(&front.address).await.expect("it listens")).await;
    assert_eq!(ask(&mut sender, request(Method::PUT, &uri, "one")).await.status(), StatusCode::CREATED);
    // Of no declared length, each counts as 8 MiB, of 256 in all.
    let mut bodies = endless(&front.address, "/v1/stream/a", 33).await;
    let refused = tokio::time::timeout(Duration::from_secs(30), bodies.join_next()).await;
    let refused = refused.expect("it is not waited for").expect("one of them").expect("no panic");
    assert_eq!(refused, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(ask(&mut sender, request(Method::POST, &uri, "two")).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    drop(bodies);
    while ask(&mut sender, request(Method::POST, &uri, "two")).await.status() != StatusCode::NO_CONTENT {}
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_who_pair_for_ever_take_no_devices_place() {
    let front = Front::new("auth = \"tokens\"\nconnections_max = 10");
    let mut sender = h2(TcpStream::connect(&front.address).await.expect("it listens")).await;
    let uri = |path: &str| format!("http://{}{path}", front.address);
    let pairing = || request(Method::POST, &uri("/v1/pair"), "{\"code\":\"00000-00000\",\"device\":\"x\"}");
    let mut strangers = endless(&front.address, "/v1/pair", 65).await;
    let one_too_many = tokio::time::timeout(Duration::from_secs(9), strangers.join_next()).await;
    let one_too_many = one_too_many.expect("it is not waited for").expect("one of them").expect("no panic");
    assert_eq!(one_too_many, StatusCode::SERVICE_UNAVAILABLE);
    let mut refused = ask(&mut sender, pairing()).await;
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(refused.headers()["everlog-error"], "overloaded");
    assert_eq!(refused.headers()["retry-after"], "1");
    let stranger = ask(&mut sender, request(Method::GET, &uri("/v1/stream/a"), "")).await;
    assert_eq!(stranger.status(), StatusCode::UNAUTHORIZED, "requests have their own places");
    drop(strangers);
    while refused.status() == StatusCode::SERVICE_UNAVAILABLE {
        refused = ask(&mut sender, pairing()).await;
    }
    assert!(matches!(refused.status().as_u16(), 403 | 429), "{refused:?}");
}

#[test]
fn a_flood_of_resets_ends_its_connection() {
    /// A frame of HTTP/2: its type, its flags, its stream, what it holds.
    fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).expect("it is short").to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
    }
    let front = Front::new("");
    // GET, http, the path /, and the authority a, as HPACK numbers them.
    let asked = [0x82, 0x86, 0x84, 0x41, 0x01, b'a'];
    let mut flood = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(4, 0, 0, &[])].concat();
    for n in 0..1000 {
        flood.extend(frame(1, 5, 2 * n + 1, &asked));
        flood.extend(frame(3, 0, 2 * n + 1, &8_u32.to_be_bytes()));
    }
    let mut all = Vec::new();
    // A connection that is reset has said what it had to say as well.
    let _ = send(&front.address, flood).read_to_end(&mut all);
    let goaway = all.windows(6).position(|bytes| bytes == [7, 0, 0, 0, 0, 0]).expect("the connection is ended");
    let code = u32::from_be_bytes(all[goaway + 10..goaway + 14].try_into().expect("four bytes"));
    assert_eq!(code, 0xb, "ENHANCE_YOUR_CALM");
}
