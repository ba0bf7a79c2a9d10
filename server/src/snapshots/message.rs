//! Messages of the State Protocol: what a record of a stream of changes says, and how it is said again.
//!
//! Invariant: type, key and value go out in the very bytes in which they came in, and what cannot be understood is
//! neither guessed nor dropped without a word.

use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// What a record says.
#[derive(Debug, PartialEq, Eq)]
pub enum Message {
    /// Something became of a key.
    Change {
        /// The type and the key.
        of: (String, String),
        /// It is there from now on, and not deleted.
        is_live: bool,
    },
    /// Nothing is there any more.
    Reset,
    /// A snapshot begins or ends, which changes nothing.
    Mark,
    /// It is no message of the protocol, or of a later one.
    Other,
}

#[derive(Deserialize)]
struct Parts<'a> {
    #[serde(borrow, default)]
    r#type: Option<&'a RawValue>,
    #[serde(borrow, default)]
    key: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "also_null")]
    value: Option<&'a RawValue>,
    #[serde(borrow)]
    headers: Headers<'a>,
}

#[derive(Deserialize)]
struct Headers<'a> {
    #[serde(default)]
    operation: Option<String>,
    #[serde(default)]
    control: Option<String>,
    #[serde(borrow, default)]
    txid: Option<&'a RawValue>,
    #[serde(borrow, default)]
    timestamp: Option<&'a RawValue>,
}

/// A value that is null is a value.
fn also_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// What `record` says. A change of a key that cannot be understood otherwise leaves something there, which its reader is to
/// see.
#[must_use]
pub fn parse(record: &[u8]) -> Message {
    let Ok(parts) = serde_json::from_slice::<Parts<'_>>(record) else { return Message::Other };
    match parts.headers.control.as_deref() {
        Some("reset") => return Message::Reset,
        Some("snapshot-start" | "snapshot-end") => return Message::Mark,
        Some(_) => return Message::Other,
        None => {}
    }
    let text = |raw: Option<&RawValue>| raw.and_then(|raw| serde_json::from_str::<String>(raw.get()).ok());
    match (text(parts.r#type), text(parts.key)) {
        (Some(kind), Some(key)) => {
            Message::Change { of: (kind, key), is_live: parts.headers.operation.as_deref() != Some("delete") }
        }
        _ => Message::Other,
    }
}

/// Appends to `out` the change that `record` is, as the insertion of its value, with the position behind it where one is
/// given. One without a value, or with an operation that the protocol does not have, is left as it is.
pub fn restate(record: &[u8], offset: Option<&str>, out: &mut Vec<u8>) {
    let parts = serde_json::from_slice::<Parts<'_>>(record).ok();
    let known = |operation: &str| matches!(operation, "insert" | "update" | "upsert");
    let parts = parts.filter(|parts| parts.headers.operation.as_deref().is_some_and(known));
    let Some(Parts { r#type: Some(kind), key: Some(key), value: Some(value), headers }) = parts else {
        out.extend_from_slice(record);
        return;
    };
    let mut put = |text: &str| out.extend_from_slice(text.as_bytes());
    for part in ["{\"type\":", kind.get(), ",\"key\":", key.get(), ",\"value\":", value.get()] {
        put(part);
    }
    put(",\"headers\":{\"operation\":\"insert\"");
    for (name, value) in [("txid", headers.txid), ("timestamp", headers.timestamp)] {
        if let Some(value) = value {
            put(&format!(",\"{name}\":{}", value.get()));
        }
    }
    if let Some(offset) = offset {
        put(&format!(",\"offset\":\"{offset}\""));
    }
    put("}}");
}

/// A mark of the protocol at a position of the stream.
#[must_use]
pub fn mark(control: &str, offset: &str) -> String {
    format!("{{\"headers\":{{\"control\":\"{control}\",\"offset\":\"{offset}\"}}}}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(kind: &str, key: &str, is_live: bool) -> Message {
        Message::Change { of: (kind.into(), key.into()), is_live }
    }

    #[test]
    fn each_message_is_told_apart() {
        for (record, expected) in [
            (r#"{"type":"a","key":"b","value":1,"headers":{"operation":"insert"}}"#, change("a", "b", true)),
            (r#"{"headers":{"operation":"upsert"},"value":null,"key":"\u0062","type":"a"}"#, change("a", "b", true)),
            (r#"{"type":"a","key":"b","headers":{"operation":"delete"}}"#, change("a", "b", false)),
            (r#"{"type":"a","key":"b","value":null,"headers":{"operation":"delete"}}"#, change("a", "b", false)),
            (r#"{"type":"a","key":"b","headers":{"operation":"explode"}}"#, change("a", "b", true)),
            (r#"{"headers":{"control":"reset","offset":"1"}}"#, Message::Reset),
            (r#"{"headers":{"control":"snapshot-start"}}"#, Message::Mark),
            (r#"{"headers":{"control":"snapshot-end"}}"#, Message::Mark),
            (r#"{"headers":{"control":"another"}}"#, Message::Other),
            (r#"{"type":"a","headers":{"operation":"insert"}}"#, Message::Other),
            (r#"{"type":"a","key":7,"headers":{"operation":"insert"}}"#, Message::Other),
            (r#"{"type":"a","key":"\ud800","headers":{"operation":"insert"}}"#, Message::Other),
            (r#"{"type":"a","key":"b","key":"c","headers":{"operation":"insert"}}"#, Message::Other),
            ("7", Message::Other),
            (r#"{"type":"a","key":"b"}"#, Message::Other),
        ] {
            assert_eq!(parse(record.as_bytes()), expected, "{record}");
        }
    }

    fn restated(record: &str, offset: Option<&str>) -> String {
        let mut out = Vec::new();
        restate(record.as_bytes(), offset, &mut out);
        String::from_utf8(out).expect("JSON")
    }

    #[test]
    fn what_came_in_goes_out_byte_for_byte_as_an_insertion() {
        let record = "{ \"headers\": {\"operation\":\"update\", \"timestamp\":\"t\",\"x\":1 }, \"old_value\":0,\n \
                      \"value\" :{ \"b\": 1.50,\"a\":\"\\u00fc\"} ,\"key\":\"\\u0062\",\"type\":\"a\"}";
        let expected = "{\"type\":\"a\",\"key\":\"\\u0062\",\"value\":{ \"b\": 1.50,\"a\":\"\\u00fc\"},\
                        \"headers\":{\"operation\":\"insert\",\"timestamp\":\"t\"";
        assert_eq!(restated(record, None), format!("{expected}}}}}"));
        assert_eq!(restated(record, Some("0_1")), format!("{expected},\"offset\":\"0_1\"}}}}"));
        let null = r#"{"type":"a","key":"b","value":null,"headers":{"operation":"insert"}}"#;
        assert_eq!(restated(null, None), null);
    }

    #[test]
    fn what_cannot_be_said_again_stays_as_it_is() {
        for record in [
            r#"{"type":"a","key":"b","headers":{"operation":"insert"}}"#,
            r#"{"type":"a","key":"b","value":1,"headers":{"operation":"explode"}}"#,
        ] {
            assert_eq!(restated(record, Some("0_1")), record);
        }
    }
}
