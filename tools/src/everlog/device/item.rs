//! Items as changes on the wire: the State Protocol's messages and the envelope around a file's bytes.
//!
//! It neither sends nor stores. Invariant: what `encode` makes of any bytes, `decode` turns into the same bytes; what
//! cannot be understood is an error with a reason, never a guess.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

use super::collection::{Collection, content_type};
use super::digest::Digest;

/// What an item is to become.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Content {
    Deleted,
    File(Vec<u8>),
    /// A photo's bytes are in the stream that is named by their hash.
    Photo {
        hash: Digest,
        size: u64,
    },
}

/// How the item came to be what it is, seen from the server's version.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    Insert,
    Update,
    /// Other clients' word for either of the two.
    Upsert,
    Delete,
}

/// A change that was read.
#[derive(PartialEq, Eq, Debug)]
pub struct Change {
    pub key: String,
    pub content: Content,
}

/// What one element of a stream says.
#[derive(PartialEq, Eq, Debug)]
pub enum Element {
    Change(Change),
    /// A mark of the protocol, which changes no item.
    Control,
    /// All items are gone that were there before.
    Reset,
    /// The key, where there is one, and what is wrong.
    Unreadable(Option<String>, String),
}

#[derive(Serialize)]
struct Outgoing<'a> {
    r#type: &'a str,
    key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Value<'a>>,
    headers: OutgoingHeaders<'a>,
}

#[derive(Serialize)]
struct OutgoingHeaders<'a> {
    operation: Operation,
    txid: &'a str,
    timestamp: &'a str,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Value<'a> {
    File { content_type: &'a str, encoding: &'a str, data: &'a str },
    Photo { blake3: Digest, size: u64, content_type: &'a str },
}

#[derive(Deserialize)]
struct Incoming {
    r#type: Option<String>,
    key: Option<String>,
    value: Option<serde_json::Value>,
    headers: IncomingHeaders,
}

#[derive(Deserialize)]
struct IncomingHeaders {
    operation: Option<Operation>,
    control: Option<String>,
}

#[derive(Deserialize)]
struct Envelope {
    encoding: String,
    data: String,
}

#[derive(Deserialize)]
struct Photo {
    blake3: Digest,
    size: u64,
}

/// Who writes a change, and when.
pub struct Stamp<'a> {
    pub txid: &'a str,
    pub timestamp: &'a str,
}

/// The change as one JSON object.
pub fn encode(collection: Collection, key: &str, content: &Content, op: Operation, stamp: &Stamp<'_>) -> String {
    let content_type = content_type(key);
    let in_base64;
    let value = match content {
        Content::Deleted => None,
        Content::File(bytes) => Some(match std::str::from_utf8(bytes) {
            Ok(data) => Value::File { content_type, encoding: "utf-8", data },
            Err(_) => {
                in_base64 = STANDARD.encode(bytes);
                Value::File { content_type, encoding: "base64", data: &in_base64 }
            }
        }),
        Content::Photo { hash, size } => Some(Value::Photo { blake3: *hash, size: *size, content_type }),
    };
    let headers = OutgoingHeaders { operation: op, txid: stamp.txid, timestamp: stamp.timestamp };
    let message = Outgoing { r#type: collection.kind, key, value, headers };
    serde_json::to_string(&message).expect("the fields are strings and numbers, which JSON can hold")
}

/// What an element of the collection's stream says.
pub fn decode(collection: Collection, json: &str) -> Element {
    let message: Incoming = match serde_json::from_str(json) {
        Ok(message) => message,
        Err(e) => return Element::Unreadable(None, format!("this is no change message: {e}")),
    };
    match message.headers.control.as_deref() {
        Some("reset") => return Element::Reset,
        Some(_) => return Element::Control,
        None => {}
    }
    let Some(key) = message.key else { return Element::Unreadable(None, "the change has no key".into()) };
    if message.r#type.as_deref() != Some(collection.kind) {
        let found = message.r#type.unwrap_or_else(|| "none".into());
        return Element::Unreadable(Some(key), format!("its type is {found} instead of {}", collection.kind));
    }
    let content = match message.headers.operation {
        None => Err("it has no operation".to_owned()),
        Some(Operation::Delete) => Ok(Content::Deleted),
        Some(_) => message.value.ok_or("it has no value".to_owned()).and_then(|value| read(collection, value)),
    };
    match content {
        Ok(content) => Element::Change(Change { key, content }),
        Err(why) => Element::Unreadable(Some(key), why),
    }
}

fn read(collection: Collection, value: serde_json::Value) -> Result<Content, String> {
    if collection.is_photos() {
        let photo: Photo = serde_json::from_value(value).map_err(|e| format!("its value is no photo's: {e}"))?;
        return Ok(Content::Photo { hash: photo.blake3, size: photo.size });
    }
    let envelope: Envelope = serde_json::from_value(value).map_err(|e| format!("its value is no file's: {e}"))?;
    match envelope.encoding.as_str() {
        "utf-8" => Ok(Content::File(envelope.data.into_bytes())),
        "base64" => {
            STANDARD.decode(envelope.data).map(Content::File).map_err(|e| format!("its data is no base64: {e}"))
        }
        other => Err(format!("its encoding {other} is not known")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::collection::ALL;

    const STAMP: Stamp<'_> = Stamp { txid: "d-1", timestamp: "2009-10-10T00:00:00Z" };
    const CONTACTS: Collection = ALL[0];
    const PHOTOS: Collection = ALL[4];

    fn there_and_back(collection: Collection, key: &str, content: Content) {
        let op = if content == Content::Deleted { Operation::Delete } else { Operation::Update };
        let json = encode(collection, key, &content, op, &STAMP);
        assert_eq!(decode(collection, &json), Element::Change(Change { key: key.into(), content }), "{json}");
    }

    #[test]
    fn any_bytes_come_back_the_same() {
        let every: Vec<u8> = (0..=255).collect();
        let ascii: Vec<u8> = (0..128).collect();
        let odd = "\u{0}\r\n\t\"\\\u{7f}\u{2028}\u{feff}ä🙂\u{10ffff}".as_bytes().to_vec();
        let surrogate = vec![0xed, 0xa0, 0x80];
        for bytes in [Vec::new(), every, ascii, odd, surrogate, vec![0xff], b"a\xc3".to_vec()] {
            there_and_back(CONTACTS, "a \"b\".vcf", Content::File(bytes));
        }
        // Some pseudo-random bytes of each length.
        let mut x = 1_u32;
        for length in 0..200 {
            let step = |_| {
                x = x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (x >> 24) as u8
            };
            there_and_back(CONTACTS, "ä.vcf", Content::File((0..length).map(step).collect()));
        }
    }

    #[test]
    fn deletions_and_photos_come_back_the_same() {
        there_and_back(CONTACTS, "a.vcf", Content::Deleted);
        there_and_back(PHOTOS, "a.jpg", Content::Photo { hash: Digest::of(b"x"), size: u64::MAX });
    }

    #[test]
    fn the_message_is_the_protocols() {
        let json = encode(CONTACTS, "a.vcf", &Content::File(b"x".to_vec()), Operation::Insert, &STAMP);
        let expected = r#"{"type":"contact","key":"a.vcf","value":{"content_type":"text/vcard","encoding":"utf-8","data":"x"},"headers":{"operation":"insert","txid":"d-1","timestamp":"2009-10-10T00:00:00Z"}}"#;
        assert_eq!(json, expected);
        let json = encode(CONTACTS, "a.vcf", &Content::Deleted, Operation::Delete, &STAMP);
        assert!(!json.contains("value"), "{json}");
    }

    #[test]
    fn what_is_not_understood_is_told_and_not_guessed() {
        let unreadable = [
            "1",
            "{}",
            r#"{"type":"contact","headers":{"operation":"delete"}}"#,
            r#"{"type":"note","key":"a.vcf","headers":{"operation":"delete"}}"#,
            r#"{"type":"contact","key":"a.vcf","headers":{}}"#,
            r#"{"type":"contact","key":"a.vcf","headers":{"operation":"explode"}}"#,
            r#"{"type":"contact","key":"a.vcf","headers":{"operation":"insert"}}"#,
            r#"{"type":"contact","key":"a.vcf","value":"x","headers":{"operation":"insert"}}"#,
            r#"{"type":"contact","key":"a.vcf","value":{"encoding":"rot13","data":"x"},"headers":{"operation":"insert"}}"#,
            r#"{"type":"contact","key":"a.vcf","value":{"encoding":"base64","data":"x"},"headers":{"operation":"insert"}}"#,
            r#"{"type":"contact","key":"a.vcf","value":{"encoding":"utf-8","data":"\ud800"},"headers":{"operation":"insert"}}"#,
        ];
        for json in unreadable {
            assert!(matches!(decode(CONTACTS, json), Element::Unreadable(..)), "{json}");
        }
        let control = r#"{"headers":{"control":"snapshot-start","offset":"1"}}"#;
        assert_eq!(decode(CONTACTS, control), Element::Control);
        assert_eq!(decode(CONTACTS, r#"{"headers":{"control":"reset"}}"#), Element::Reset);
    }
}
