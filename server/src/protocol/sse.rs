//! Server-sent events: how records become their text.
//!
//! Invariant: each data event is followed by a control event that says where to go on behind it, and a reader who puts
//! the data events' lines together again has the records' bytes.

use super::content::{Framing, join};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use everlog::Record;
use serde::Serialize;

/// What a control event says.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Control {
    /// Where to go on.
    pub stream_next_offset: String,
    /// To be sent back with the next request; none once the stream is closed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream_cursor: Option<String>,
    /// Whether the reader has all there is.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub up_to_date: bool,
    /// Whether nothing more will come.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub stream_closed: bool,
    /// Up to where the stream is verified in a cold store, if one counts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub everlog_cold_offset: Option<String>,
}

/// The text of a control event.
#[must_use]
pub fn control(control: &Control) -> String {
    let json = serde_json::to_string(control).expect("text and flags are always JSON");
    format!("event: control\ndata:{json}\n\n")
}

/// The text of a data event with `records`, of which there is at least one. None if they are to be text and are not.
#[must_use]
pub fn data(framing: Framing, records: &[Record]) -> Option<String> {
    let joined = join(framing, records);
    let text = match framing {
        Framing::Binary => STANDARD.encode(joined),
        Framing::Json | Framing::Text => String::from_utf8(joined).ok()?,
    };
    let mut event = String::with_capacity(text.len() + 64);
    event.push_str("event: data\n");
    for line in lines(&text) {
        // A reader takes one space behind the colon away; one is put there only where the line begins with another.
        event.push_str(if line.starts_with(' ') { "data: " } else { "data:" });
        event.push_str(line);
        event.push('\n');
    }
    event.push('\n');
    Some(event)
}

/// The lines of a text as a reader of events counts them: `\r\n`, `\r` and `\n` each end one.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let Some(end) = text.find(['\r', '\n']) else { return rest.take() };
        let width = if text[end..].starts_with("\r\n") { 2 } else { 1 };
        rest = Some(&text[end + width..]);
        Some(&text[..end])
    })
}

/// How many of `records` make up whole characters, if they are UTF-8 so far: a character may be appended in pieces, and
/// its beginning waits for its end. None if they are not UTF-8.
#[must_use]
pub fn whole_characters(records: &[Record]) -> Option<usize> {
    let (mut whole, mut open) = (0, Vec::new());
    for (n, record) in records.iter().enumerate() {
        open.extend_from_slice(&record.payload);
        match std::str::from_utf8(&open) {
            Ok(_) => {
                whole = n + 1;
                open.clear();
            }
            Err(e) if e.error_len().is_some() => return None,
            Err(e) => drop(open.drain(..e.valid_up_to())),
        }
    }
    Some(whole)
}

#[cfg(test)]
mod tests {
    use super::*;
    use everlog::types::{Lsn, TimeUs};

    fn records(payloads: &[&[u8]]) -> Vec<Record> {
        let record = |payload: &&[u8]| Record { seq: 0, lsn: Lsn(1), time: TimeUs(0), payload: payload.to_vec() };
        payloads.iter().map(record).collect()
    }

    #[test]
    fn each_line_of_a_text_is_a_line_of_data() {
        let event = data(Framing::Text, &records(&[b"one\r\n two\rthree\n", b"event: control"])).expect("text");
        assert_eq!(event, "event: data\ndata:one\ndata:  two\ndata:three\ndata:event: control\n\n");
    }

    #[test]
    fn bytes_are_base64_and_messages_an_array() {
        assert_eq!(data(Framing::Binary, &records(&[&[1, 2], &[3]])).expect("any"), "event: data\ndata:AQID\n\n");
        let event = data(Framing::Json, &records(&[b"1", b"{\"a\":\n2}"])).expect("JSON");
        assert_eq!(event, "event: data\ndata:[1,{\"a\":\ndata:2}]\n\n");
    }

    #[test]
    fn a_character_in_pieces_waits_for_its_end() {
        assert_eq!(whole_characters(&records(&["ü".as_bytes()])), Some(1));
        assert_eq!(whole_characters(&records(&[b"a", &[0xc3], &[0xbc], b"b", &[0xe2, 0x82]])), Some(4));
        assert_eq!(whole_characters(&records(&[b"a", &[0xff]])), None);
        assert_eq!(whole_characters(&records(&[&[0xc3], b"x"])), None);
        assert!(data(Framing::Text, &records(&[&[0xff]])).is_none());
    }

    #[test]
    fn a_control_event_leaves_out_what_does_not_hold() {
        let text = control(&Control {
            stream_next_offset: "0_1".into(),
            stream_cursor: Some("7".into()),
            up_to_date: false,
            stream_closed: false,
            everlog_cold_offset: None,
        });
        assert_eq!(text, "event: control\ndata:{\"streamNextOffset\":\"0_1\",\"streamCursor\":\"7\"}\n\n");
    }
}
