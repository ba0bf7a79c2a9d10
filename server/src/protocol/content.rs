//! Content types, what a stream keeps of its configuration, and how a body becomes records and records a body.
//!
//! Invariant: a byte stream's records concatenated are the bytes that were appended, and a JSON stream's records are the
//! messages' own bytes, neither parsed further nor written anew.

use super::answer::Refusal;
use bytes::Bytes;
use everlog::Record;
use everlog::limits::BATCH_ENTRIES_MAX;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::ops::Range;

/// The content type of a stream that was created without one.
pub const DEFAULT_TYPE: &str = "application/octet-stream";

/// What a stream's records are to their reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Messages, read as an array.
    Json,
    /// UTF-8.
    Text,
    /// Bytes.
    Binary,
}

/// What a stream is created with; the log's metadata, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamConfig {
    /// As the creator gave it.
    pub content_type: String,
}

impl StreamConfig {
    /// Of the log's metadata. A log that was not created through the server has none, and is a stream of bytes.
    #[must_use]
    pub fn of_metadata(metadata: &[u8]) -> Self {
        serde_json::from_slice(metadata).unwrap_or_else(|_| Self { content_type: DEFAULT_TYPE.to_owned() })
    }

    /// The log's metadata.
    #[must_use]
    pub fn metadata(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("text is always JSON")
    }

    /// How its records are framed.
    #[must_use]
    pub fn framing(&self) -> Framing {
        let essence = essence(&self.content_type);
        if essence == "application/json" {
            Framing::Json
        } else if essence.starts_with("text/") {
            Framing::Text
        } else {
            Framing::Binary
        }
    }

    /// Whether a request's content type is the stream's: the media type alone counts, in any case.
    #[must_use]
    pub fn accepts(&self, content_type: &str) -> bool {
        essence(&self.content_type) == essence(content_type)
    }
}

/// The media type without parameters, in lower case.
fn essence(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// The parts of `body` that become records.
///
/// # Errors
/// 400 for what is not JSON; 413 for more messages than fit one batch.
pub fn split(framing: Framing, body: &Bytes) -> Result<Vec<Range<usize>>, Refusal> {
    if framing != Framing::Json {
        return Ok((!body.is_empty()).then_some(0..body.len()).into_iter().collect());
    }
    let malformed = |e: serde_json::Error| Refusal::bad_request(format!("the body is not JSON: {e}"));
    let text = std::str::from_utf8(body).map_err(|_| Refusal::bad_request("the body is not JSON: it is not UTF-8"))?;
    let place = |value: &RawValue| {
        let start = value.get().as_ptr() as usize - text.as_ptr() as usize;
        start..start + value.get().len()
    };
    if !text.trim_start().starts_with('[') {
        let value: &RawValue = serde_json::from_str(text).map_err(malformed)?;
        return Ok(vec![place(value)]);
    }
    let values: Vec<&RawValue> = serde_json::from_str(text).map_err(malformed)?;
    if values.len() >= BATCH_ENTRIES_MAX {
        let told =
            format!("{} messages in one request, at most {} fit; send fewer", values.len(), BATCH_ENTRIES_MAX - 1);
        return Err(Refusal::new(hyper::StatusCode::PAYLOAD_TOO_LARGE, told));
    }
    Ok(values.into_iter().map(place).collect())
}

/// The body that `records` are read as.
#[must_use]
pub fn join(framing: Framing, records: &[Record]) -> Vec<u8> {
    let bytes: usize = records.iter().map(|record| record.payload.len() + 1).sum();
    let mut body = Vec::with_capacity(bytes + 2);
    if framing != Framing::Json {
        records.iter().for_each(|record| body.extend_from_slice(&record.payload));
        return body;
    }
    body.push(b'[');
    for (n, record) in records.iter().enumerate() {
        if n > 0 {
            body.push(b',');
        }
        body.extend_from_slice(&record.payload);
    }
    body.push(b']');
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(content_type: &str) -> StreamConfig {
        StreamConfig { content_type: content_type.to_owned() }
    }

    fn records(payloads: &[&str]) -> Vec<Record> {
        let record = |payload: &&str| Record {
            seq: 0,
            lsn: everlog::types::Lsn(1),
            time: everlog::types::TimeUs(0),
            payload: payload.as_bytes().to_vec(),
        };
        payloads.iter().map(record).collect()
    }

    fn messages(body: &str) -> Vec<String> {
        let body = Bytes::copy_from_slice(body.as_bytes());
        split(Framing::Json, &body)
            .expect("JSON")
            .into_iter()
            .map(|r| String::from_utf8_lossy(&body[r]).into())
            .collect()
    }

    #[test]
    fn an_array_is_flattened_by_one_level_and_its_messages_keep_their_bytes() {
        assert_eq!(messages(r#"{"a" : 1.0}"#), [r#"{"a" : 1.0}"#]);
        assert_eq!(messages(" [ {\"a\":1} ,\n[2, 3],\"x\" ] "), ["{\"a\":1}", "[2, 3]", "\"x\""]);
        assert_eq!(messages("[]"), Vec::<String>::new());
        assert_eq!(messages("7"), ["7"]);
        for bad in ["", "[", "[1,]", "{\"a\":}", "nul", "1 2", "\u{feff}1"] {
            assert!(split(Framing::Json, &Bytes::copy_from_slice(bad.as_bytes())).is_err(), "{bad}");
        }
        assert!(split(Framing::Json, &Bytes::from_static(b"\"\xff\"")).is_err());
    }

    #[test]
    fn what_was_split_is_joined_again() {
        assert_eq!(join(Framing::Json, &records(&["1", "{\"a\": 2}"])), b"[1,{\"a\": 2}]");
        assert_eq!(join(Framing::Json, &[]), b"[]");
        assert_eq!(join(Framing::Text, &records(&["one", "two"])), b"onetwo");
        assert_eq!(join(Framing::Binary, &[]), b"");
    }

    #[test]
    fn the_media_type_alone_counts() {
        assert!(config("text/plain").accepts("Text/Plain; charset=utf-8"));
        assert!(!config("text/plain").accepts("text/html"));
        assert_eq!(config("application/JSON; charset=utf-8").framing(), Framing::Json);
        assert_eq!(config("text/csv").framing(), Framing::Text);
        assert_eq!(config("image/png").framing(), Framing::Binary);
    }

    #[test]
    fn a_configuration_is_the_logs_metadata() {
        let config = config("text/plain");
        assert_eq!(StreamConfig::of_metadata(&config.metadata()), config);
        assert_eq!(StreamConfig::of_metadata(b"").content_type, DEFAULT_TYPE);
        assert_eq!(StreamConfig::of_metadata(b"made by hand").content_type, DEFAULT_TYPE);
    }
}
