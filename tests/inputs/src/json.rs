//! The bodies of appends to JSON streams, beside serde_json as a judge.
//!
//! Invariant: a body is taken if and only if it is JSON, and its elements, as the bytes received, are the elements that
//! the judge sees, in their order; between them stand commas, brackets and white space alone.

use bytes::Bytes;
use everlog::Record;
use everlog::limits::BATCH_ENTRIES_MAX;
use everlog::types::{Lsn, TimeUs};
use everlog_server::protocol::content::{DEFAULT_TYPE, Framing, StreamConfig, join, split};
use serde_json::Value;

/// A body.
pub fn body(data: &[u8]) {
    let body = Bytes::copy_from_slice(data);
    for framing in [Framing::Text, Framing::Binary] {
        let parts = split(framing, &body).expect("bytes are bytes");
        let whole: Vec<u8> = parts.iter().flat_map(|range| body[range.clone()].to_vec()).collect();
        assert!(whole == data && parts.len() == usize::from(!data.is_empty()), "bytes come back as they were");
    }
    let judged: Result<Value, _> = serde_json::from_slice(data);
    match (split(Framing::Json, &body), judged) {
        (Ok(parts), Ok(value)) => same(&body, &parts, &value),
        (Err(_), Err(_)) => {}
        (Ok(_), Err(e)) => assert!(beyond_the_judge(&e.to_string()), "it is taken, though {e}"),
        (Err(refusal), Ok(value)) => {
            let many = value.as_array().is_some_and(|all| all.len() >= BATCH_ENTRIES_MAX);
            assert!(many && refusal.status() == 413, "it is JSON, and refused as {}", refusal.status());
        }
    }
    metadata(data);
}

/// What JSON allows and serde_json cannot hold as a value.
fn beyond_the_judge(why: &str) -> bool {
    ["recursion limit", "number out of range", "surrogate", "unexpected end of hex escape"]
        .iter()
        .any(|limit| why.contains(limit))
}

fn same(body: &Bytes, parts: &[std::ops::Range<usize>], value: &Value) {
    let one = [value.clone()];
    let elements = value.as_array().map_or(&one[..], Vec::as_slice);
    assert_eq!(parts.len(), elements.len(), "as many elements");
    let mut at = 0;
    for (part, element) in parts.iter().zip(elements) {
        between(&body[at..part.start]);
        let read: Value = serde_json::from_slice(&body[part.clone()]).expect("an element is JSON");
        assert_eq!(read, *element);
        let text = &body[part.clone()];
        assert!(text.trim_ascii() == text, "an element has no white space around it");
        at = part.end;
    }
    between(&body[at..]);
    let record = |part: &std::ops::Range<usize>| Record {
        seq: 0,
        lsn: Lsn(1),
        time: TimeUs(0),
        payload: body[part.clone()].to_vec(),
    };
    let records: Vec<Record> = parts.iter().map(record).collect();
    let joined: Value = serde_json::from_slice(&join(Framing::Json, &records)).expect("what is read is JSON");
    assert_eq!(joined.as_array().map(Vec::as_slice), Some(elements), "what is read is what was appended");
}

fn between(bytes: &[u8]) {
    assert!(bytes.iter().all(|b| b",[] \n\r\t".contains(b)), "an element was left out: {bytes:?}");
}

/// What a stream was created with, of any bytes that a log has as its metadata.
fn metadata(data: &[u8]) {
    let config = StreamConfig::of_metadata(data);
    assert_eq!(StreamConfig::of_metadata(&config.metadata()), config, "a stream's configuration comes back");
    assert!(config.accepts(&config.content_type), "a stream accepts its own content type");
    let _ = config.framing();
    if let Ok(content_type) = std::str::from_utf8(data) {
        let config = StreamConfig::new(content_type);
        assert!(config.accepts(&content_type.to_ascii_uppercase()), "in any case");
        assert_eq!(StreamConfig::of_metadata(&config.metadata()), config);
        let _ = config.framing();
    }
}

pub fn seeds() -> Vec<Vec<u8>> {
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    let texts = [
        r#" [ {"a" : 1.0, "b":[null,true]} ,"#.to_owned() + "\n[2, -3e5],\"x\\u00e9\\n\" ] ",
        r#"{"type":"contact","key":"a.vcf","value":{"data":"…"}}"#.to_owned(),
        r#"[1,2,"]"#.to_owned(),
        r#"["\ud800", 1e999, 0.1e-5]"#.to_owned(),
        StreamConfig::new(DEFAULT_TYPE).content_type,
        String::from_utf8(StreamConfig::new("text/plain; x=y").metadata()).unwrap_or_default(),
        deep,
    ];
    texts.into_iter().map(String::into_bytes).collect()
}
