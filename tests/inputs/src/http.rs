//! Paths, queries and headers of requests.
//!
//! Invariant: what is accepted means one thing, and the text that the program would write for it means the same.

use crate::{in_modes, mode};
use everlog::names;
use everlog::types::{Cursor, Position};
use everlog_server::protocol::fork::ForkAsked;
use everlog_server::protocol::lifetime::Lifetime;
use everlog_server::protocol::query::{Live, Query};
use everlog_server::protocol::{headers as header, path as stream_path, request};
use everlog_server::snapshots::token::Wanted;
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use percent_encoding::percent_decode_str;

/// A path (0), or a log's name (1).
pub fn path(data: &[u8]) {
    let (mode, rest) = mode(data);
    let Ok(text) = std::str::from_utf8(rest) else { return };
    if mode & 1 == 1 {
        let path = stream_path::of_log(text);
        assert!(path.is_ascii(), "a path is ASCII");
        let reserved = text.starts_with("__ds") || text.starts_with("__everlog");
        match stream_path::log_name(&path) {
            Ok(name) => assert!(name == text && names::check(text).is_ok(), "a name's path leads to it"),
            Err(_) => assert!(reserved || names::check(text).is_err(), "{text:?} has no path"),
        }
        return;
    }
    let Ok(name) = stream_path::log_name(text) else { return };
    names::check(&name).expect("a path leads to a name that the engine takes");
    let rest = text.strip_prefix(stream_path::STREAMS).expect("streams lie there");
    let segments: Vec<String> =
        rest.split('/').map(|s| percent_decode_str(s).decode_utf8().expect("accepted").into_owned()).collect();
    assert!(name.split('/').eq(segments.iter().map(String::as_str)), "each segment is decoded for itself");
    assert_eq!(stream_path::log_name(&stream_path::of_log(&name)).ok(), Some(name), "a name's path leads to it");
}

pub fn path_seeds() -> Vec<Vec<u8>> {
    let texts =
        ["/v1/stream/users/alice/contacts", "/v1/stream/a%2Fb/%ff", "users/a b/c%2Fd", "/v1/stream/__ds/x", "ü/…"];
    in_modes(2, texts.map(|text| text.as_bytes().to_vec()))
}

/// The query of a read.
pub fn query(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(query) = Query::parse(Some(text)) else { return };
    assert_eq!(query.now, query.from == Position::End, "now is the end");
    let offset = match query.from {
        Position::Start => match query.snapshot {
            None => "-1".to_owned(),
            Some(Wanted::First) => "snapshot".to_owned(),
            Some(Wanted::Next(token)) => token.to_string(),
        },
        Position::End => "now".to_owned(),
        Position::Cursor(cursor) => cursor.to_string(),
        Position::Seq(_) => unreachable!("a client knows no bare seqs"),
    };
    let live = match query.live {
        Live::No => "",
        Live::LongPoll => "&live=long-poll",
        Live::Sse => "&live=sse",
    };
    let cursor = query.cursor.map_or(String::new(), |cursor| format!("&cursor={cursor}"));
    let again = Query::parse(Some(&format!("offset={offset}{live}{cursor}"))).expect("as a client would write it");
    let meant = |query: &Query| (query.from, query.now, query.snapshot, query.live, query.cursor);
    assert_eq!(meant(&again), meant(&query), "the plainest text for it means the same");
}

pub fn query_seeds() -> Vec<Vec<u8>> {
    let cursor = Cursor { seq: 10, ..Cursor::default() };
    [
        format!("offset={cursor}&live=sse&cursor=7"),
        "offset=now&live=long-poll".to_owned(),
        "offset=-1&x=y&x=z".to_owned(),
        format!("offset=snapshot.{cursor}.0000000000000003.000000000000000a"),
        "offset=snapshot".to_owned(),
        "offset=%2D1+&offset=%00".to_owned(),
    ]
    .map(String::into_bytes)
    .to_vec()
}

const NAMES: [&str; 12] = [
    header::PRODUCER_ID,
    header::PRODUCER_EPOCH,
    header::PRODUCER_SEQ,
    header::SEQ,
    header::CLOSED,
    header::EXPECT_OFFSET,
    header::TTL,
    header::EXPIRES_AT,
    header::FORKED_FROM,
    header::FORK_OFFSET,
    "content-type",
    "content-length",
];

/// Headers, a line each: which one (a byte), and its value.
pub fn headers(data: &[u8]) {
    let mut map = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n').take(40) {
        let Some((which, value)) = line.split_first() else { continue };
        let name = HeaderName::from_static(NAMES[usize::from(*which) % NAMES.len()]);
        if let Ok(value) = HeaderValue::from_bytes(value) {
            map.append(name, value);
        }
    }
    let value = |name: &str| map.get(name).and_then(|value| std::str::from_utf8(value.as_bytes()).ok());
    let is_number = |name: &str, number: u64| value(name).and_then(|text| text.parse().ok()) == Some(number);
    for name in NAMES {
        let twice = map.get_all(name).iter().count() > 1;
        if let Ok(text) = request::text(&map, name) {
            assert!(!twice && text.map(str::as_bytes) == map.get(name).map(HeaderValue::as_bytes));
        }
    }
    if let Ok(Some(producer)) = request::producer(&map) {
        assert!(
            (1..=256).contains(&producer.id.len())
                && value(header::PRODUCER_ID).map(str::as_bytes) == Some(&producer.id)
        );
        for (name, number) in [(header::PRODUCER_EPOCH, producer.epoch), (header::PRODUCER_SEQ, producer.number)] {
            assert!(number < 1 << 53 && is_number(name, number), "{name} is what it says");
        }
    }
    if let Ok(Some(tag)) = request::tag(&map) {
        assert!((1..=256).contains(&tag.len()) && value(header::SEQ) == Some(&tag));
    }
    if let Ok(Some(end)) = request::expected_end(&map) {
        assert_eq!(value(header::EXPECT_OFFSET), Some(&*end.to_string()));
    }
    if let Ok(true) = request::closes(&map) {
        assert!(value(header::CLOSED).is_some_and(|text| text.eq_ignore_ascii_case("true")));
    }
    if let Ok(Some(content_type)) = request::content_type(&map) {
        assert_eq!(value(CONTENT_TYPE.as_str()), Some(content_type));
    }
    if let Some(length) = request::declared_length(&map) {
        assert!(value(CONTENT_LENGTH.as_str()).is_some_and(|text| text.trim_start_matches('+').parse() == Ok(length)));
    }
    if let Ok(lifetime) = Lifetime::read(&map) {
        match lifetime {
            None => assert!(!map.contains_key(header::TTL) && !map.contains_key(header::EXPIRES_AT)),
            Some(Lifetime::Ttl(seconds)) => assert_eq!(value(header::TTL), Some(&*seconds.to_string())),
            Some(Lifetime::ExpiresAt(moment)) => assert_eq!(value(header::EXPIRES_AT), Some(&*moment)),
        }
    }
    if let Ok(fork) = ForkAsked::read(&map) {
        let said =
            [header::FORKED_FROM, header::FORK_OFFSET, header::FORK_SUB_OFFSET].map(|name| map.contains_key(name));
        match fork {
            None => assert_eq!(said, [false; 3], "what a fork is asked for by is not ignored"),
            Some(fork) => {
                assert_eq!(stream_path::log_name(&stream_path::of_log(&fork.source)).ok().as_ref(), Some(&fork.source));
                assert_eq!(value(header::FORK_OFFSET), fork.offset.map(|offset| offset.to_string()).as_deref());
                assert!(fork.sub_offset == 0 || said[1]);
            }
        }
    }
}

pub fn headers_seeds() -> Vec<Vec<u8>> {
    [
        &b"\x00phone\n\x012\n\x0217\n\x04TRUE\n\x0aapplication/json\n\x0b12"[..],
        b"\x03tag\n\x050000000000000001_0000000000000002",
        b"\x0603\n\x072030-01-31T12:00:00.5Z",
        b"\x08/v1/stream/a\n\x09-1",
        b"\x012\n\x012",
    ]
    .map(<[u8]>::to_vec)
    .to_vec()
}
