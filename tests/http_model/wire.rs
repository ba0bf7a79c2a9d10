//! Requests as HTTP, and answers as what the model compares.
//!
//! Invariant: whatever an answer says that a client could rely on is compared, but for offsets' texts, which the client
//! looks at itself.

use crate::ends::Lifetime;
use crate::model::{Answer, Content, Creation, From, Path, Request};
use everlog_tests::net;

type Headers = Vec<(&'static str, String)>;
type InHttp<'a> = (&'static str, String, Headers, &'a [u8]);

/// Method, query, headers, body; `folder` is where the streams lie.
pub fn in_http<'a>(request: &'a Request, folder: &str) -> InHttp<'a> {
    match request {
        Request::Create(creation) => ("PUT", String::new(), of_creation(creation, folder), &creation.content.bytes),
        Request::Append(append) => {
            let mut headers = vec![("Content-Type", append.content.content_type.to_owned())];
            headers.extend(append.close.then(|| ("Stream-Closed", "true".to_owned())));
            headers.extend(append.stream_seq.clone().map(|seq| ("Stream-Seq", seq)));
            headers.extend(append.end.clone().map(|(text, _)| ("Everlog-Expect-Offset", text)));
            if let Some(numbers) = &append.producer {
                headers.push(("Producer-Id", numbers.id.to_owned()));
                headers.push(("Producer-Epoch", numbers.epoch.to_string()));
                headers.push(("Producer-Seq", numbers.number.to_string()));
            }
            ("POST", String::new(), headers, &append.content.bytes)
        }
        Request::Delete => ("DELETE", String::new(), Vec::new(), b""),
        Request::Head => ("HEAD", String::new(), Vec::new(), b""),
        Request::Read { from, live } => {
            let offset = match from {
                From::Start => "-1",
                From::Now => "now",
                From::Offset(text, _) | From::Elsewhere(text) => text,
            };
            ("GET", format!("?offset={offset}{}", if *live { "&live=long-poll" } else { "" }), Vec::new(), b"")
        }
    }
}

fn of_creation(creation: &Creation, folder: &str) -> Headers {
    let Creation { content: Content { content_type, .. }, untyped, close, lifetime, fork } = creation;
    let mut headers = Headers::new();
    headers.extend((!untyped).then(|| ("Content-Type", (*content_type).to_owned())));
    headers.extend(close.then(|| ("Stream-Closed", "true".to_owned())));
    headers.extend(lifetime.as_ref().map(|lifetime| match lifetime {
        Lifetime::Ttl(seconds) => ("Stream-TTL", seconds.to_string()),
        Lifetime::Until { text, .. } => ("Stream-Expires-At", text.clone()),
    }));
    if let Some(fork) = fork {
        headers.push(("Stream-Forked-From", format!("{folder}/{}", fork.source)));
        headers.extend(fork.offset.clone().map(|(text, _)| ("Stream-Fork-Offset", text)));
        if fork.sub_offset > 0 {
            headers.push(("Stream-Fork-Sub-Offset", fork.sub_offset.to_string()));
        }
    }
    headers
}

/// The number that an offset ends with.
pub fn number(offset: &str) -> u64 {
    let digits = offset.split_once('_').map(|(_, digits)| digits).filter(|digits| digits.len() == 16);
    digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()).expect("an offset is two numbers")
}

/// What an answer to a request says.
pub fn understood(request: &Request, answer: &net::Answer) -> Answer {
    let text = |name| answer.header(name).to_owned();
    let number_in = |name| answer.header(name).parse().ok();
    let offset = answer.header("stream-next-offset");
    let tells_of_stream = answer.status < 300 && !matches!(request, Request::Append(_) | Request::Delete);
    let is_page = answer.status == 200 && matches!(request, Request::Read { .. });
    Answer {
        status: answer.status,
        error: text("everlog-error"),
        content_type: if tells_of_stream { text("content-type") } else { String::new() },
        next: (!offset.is_empty()).then(|| number(offset)),
        up_to_date: answer.header("stream-up-to-date") == "true",
        closed: answer.header("stream-closed") == "true",
        durability: text("everlog-durability"),
        ttl: text("stream-ttl"),
        expires_at: text("stream-expires-at"),
        producer_epoch: number_in("producer-epoch"),
        producer_seq: number_in("producer-seq"),
        producer_expected: number_in("producer-expected-seq"),
        producer_received: number_in("producer-received-seq"),
        body: is_page.then(|| answer.body.clone()),
    }
}

pub fn shown(body: &[u8]) -> String {
    let start = String::from_utf8_lossy(&body[..body.len().min(60)]);
    if body.is_empty() { String::new() } else { format!("{start:?} of {} bytes", body.len()) }
}

pub fn in_short(answer: &Answer) -> String {
    let body = answer.body.as_deref().map(|body| format!("{}, digest {:.8}", shown(body), blake3::hash(body).to_hex()));
    format!("{:?} {}", Answer { body: None, ..answer.clone() }, body.unwrap_or_default())
}

/// What kinds of request it is of.
pub fn kinds(request: &Request) -> Vec<&'static str> {
    let Request::Create(Creation { fork: Some(fork), .. }) = request else { return vec![in_http(request, "").0] };
    let of_fork = matches!(fork.source, Path::Fork(_)).then_some("FORK of fork");
    let within = (fork.sub_offset > 0).then_some("FORK at sub-offset");
    ["FORK"].into_iter().chain(of_fork).chain(within).collect()
}
