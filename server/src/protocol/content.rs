//! Content types, what a stream keeps of its configuration, and how a body becomes records and records a body.
//!
//! Invariant: a byte stream's records concatenated are the bytes that were appended, and a JSON stream's records are the
//! messages' own bytes, neither parsed further nor written anew.

use super::answer::Refusal;
use super::fork::ForkAsked;
use super::headers;
use super::lifetime::Lifetime;
use bytes::Bytes;
use everlog::Record;
use everlog::limits::BATCH_ENTRIES_MAX;
use hyper::StatusCode;
use serde::de::{Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::ops::{Not, Range};

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

/// What a stream is created with, and what its forks make of it; the log's metadata, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamConfig {
    /// As the creator gave it.
    pub content_type: String,
    /// When it ends, if it does by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifetime: Option<Lifetime>,
    /// Of what it is a fork, if it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fork: Option<ForkOf>,
    /// How many forks of it were made and not deleted.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub forks: u32,
    /// Whether it was deleted while there were forks of it, for which it is kept.
    #[serde(default, skip_serializing_if = "Not::not")]
    pub gone: bool,
}

/// Of what a stream is a fork.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForkOf {
    /// The log.
    pub source: String,
    /// The LSN of that log's creation, by which it is known from another one of its name.
    pub created: u64,
    /// The offset it was forked at.
    pub offset: String,
    /// Whether that was the source's end, since no offset was asked for.
    #[serde(default, skip_serializing_if = "Not::not")]
    pub at_end: bool,
    /// How far behind the offset.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub sub_offset: u64,
    /// Whether its lifetime is the source's, since none was asked for.
    #[serde(default, skip_serializing_if = "Not::not")]
    pub inherits: bool,
}

impl ForkOf {
    /// Whether it is the fork that is asked for.
    #[must_use]
    pub fn is_as(&self, asked: &ForkAsked) -> bool {
        let same_place = match asked.offset {
            Some(offset) => offset.to_string() == self.offset,
            None => self.at_end,
        };
        same_place && self.source == asked.source && self.sub_offset == asked.sub_offset
    }
}

fn is_zero<N: Default + PartialEq>(number: &N) -> bool {
    *number == N::default()
}

impl StreamConfig {
    /// Of a stream that is no fork and lives for ever.
    #[must_use]
    pub fn new(content_type: impl Into<String>) -> Self {
        Self { content_type: content_type.into(), lifetime: None, fork: None, forks: 0, gone: false }
    }

    /// Of the log's metadata. A log that was not created through the server has none, and is a stream of bytes.
    #[must_use]
    pub fn of_metadata(metadata: &[u8]) -> Self {
        serde_json::from_slice(metadata).unwrap_or_else(|_| Self::new(DEFAULT_TYPE))
    }

    /// The log's metadata.
    #[must_use]
    pub fn metadata(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("text and numbers are always JSON")
    }

    /// Fails for a stream that is kept for its forks alone.
    ///
    /// # Errors
    /// 410.
    pub fn check_present(&self) -> Result<(), Refusal> {
        if self.gone {
            let told = "the stream was deleted, and is kept for the streams that were forked from it";
            return Err(Refusal::new(StatusCode::GONE, told).header(headers::ERROR, "deleted"));
        }
        Ok(())
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

/// How deep a JSON body may be nested. Readers that build values of it often take a stack frame a level.
pub const DEPTH_MAX: usize = 128;

/// Whether a JSON text is nested deeper than is taken; in memory of a fixed size, and before anything parses it. Of a text
/// that is not JSON it may say either.
fn is_too_deep(text: &str) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            b'[' | b'{' if depth == DEPTH_MAX => return true,
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    false
}

/// The parts of `body` that become records.
///
/// # Errors
/// 400 for what is not JSON, or nested too deep; 413 for more messages than fit one batch.
pub fn split(framing: Framing, body: &Bytes) -> Result<Vec<Range<usize>>, Refusal> {
    if framing != Framing::Json {
        return Ok((!body.is_empty()).then_some(0..body.len()).into_iter().collect());
    }
    let malformed = |e: serde_json::Error| Refusal::bad_request(format!("the body is not JSON: {e}"));
    let text = std::str::from_utf8(body).map_err(|_| Refusal::bad_request("the body is not JSON: it is not UTF-8"))?;
    if is_too_deep(text) {
        return Err(Refusal::bad_request(format!("the body is nested deeper than {DEPTH_MAX} levels")));
    }
    let place = |value: &RawValue| {
        let start = value.get().as_ptr() as usize - text.as_ptr() as usize;
        start..start + value.get().len()
    };
    if !text.trim_start().starts_with('[') {
        let value: &RawValue = serde_json::from_str(text).map_err(malformed)?;
        return Ok(vec![place(value)]);
    }
    let Messages(messages, count) = serde_json::from_str(text).map_err(malformed)?;
    if count > messages.len() {
        let told = format!("{count} messages in one request, at most {} fit; send fewer", messages.len());
        return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, told));
    }
    Ok(messages.into_iter().map(place).collect())
}

/// The elements of an array, as many as fit one batch, and how many there are.
struct Messages<'a>(Vec<&'a RawValue>, usize);

impl<'de> Deserialize<'de> for Messages<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bounded;

        impl<'de> Visitor<'de> for Bounded {
            type Value = Messages<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an array of messages")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Self::Value, A::Error> {
                let (mut messages, mut count) = (Vec::new(), 0);
                while let Some(message) = array.next_element()? {
                    count += 1;
                    if messages.len() < BATCH_ENTRIES_MAX - 1 {
                        messages.push(message);
                    }
                }
                Ok(Messages(messages, count))
            }
        }
        deserializer.deserialize_seq(Bounded)
    }
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
        StreamConfig::new(content_type)
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
    fn what_is_nested_too_deep_is_refused_whatever_strings_hold() {
        let split = |body: String| split(Framing::Json, &body.into()).map(|ranges| ranges.len());
        let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert_eq!(split(nested(DEPTH_MAX)).ok(), Some(1));
        let refusal = split(nested(DEPTH_MAX + 1)).expect_err("too deep");
        assert!(refusal.answer().body().bytes().is_some_and(|told| told.starts_with(b"the body is nested deeper")));
        assert!(split("{\"a\":".repeat(129) + "1" + &"}".repeat(129)).is_err());
        assert!(split("[".repeat(8 << 20)).is_err(), "a body full of beginnings");
        let string = format!("[\"{} \\\\\\\"{}\"]", "[".repeat(500), "{".repeat(500));
        assert_eq!(split(string).ok(), Some(1));
        assert_eq!(
            split(format!("[{}1]", "[1],".repeat(1000))).ok(),
            Some(1001),
            "many beside one another are not deep"
        );
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
