//! Server-sent events, read back by a reader of their specification (WHATWG HTML, "Server-sent events").
//!
//! Invariant: a reader gets the records' bytes, whatever they are and however they are cut, and cannot be given an event
//! that the server did not send.

use crate::mode;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use everlog::Record;
use everlog::types::{Lsn, TimeUs};
use everlog_server::protocol::content::Framing;
use everlog_server::protocol::sse::{Control, control, data, whole_characters};

/// The mode is the framing and the length of each record; the rest is what they hold.
pub fn events(input: &[u8]) {
    let (mode, rest) = mode(input);
    let step = usize::from(mode >> 2).max(1);
    let record = |payload: &[u8]| Record { seq: 0, lsn: Lsn(1), time: TimeUs(0), payload: payload.to_vec() };
    let records: Vec<Record> = rest.chunks(step).map(record).collect();
    if records.is_empty() {
        return;
    }
    characters(&records);
    let framing = if mode & 1 == 0 { Framing::Text } else { Framing::Binary };
    let Some(event) = data(framing, &records) else {
        assert!(framing == Framing::Text && std::str::from_utf8(rest).is_err(), "text can be sent");
        return;
    };
    let offset = String::from_utf8_lossy(rest).into_owned();
    let follows = Control {
        stream_next_offset: offset.clone(),
        stream_cursor: Some(offset.clone()),
        up_to_date: mode & 2 == 2,
        stream_closed: false,
        everlog_cold_offset: None,
    };
    let stream = event + &control(&follows);
    let read = read(&stream);
    assert_eq!(read.len(), 2, "two events were sent: {stream:?}");
    let (name, text) = &read[0];
    assert_eq!(name, "data");
    match framing {
        Framing::Binary => assert_eq!(STANDARD.decode(text).ok().as_deref(), Some(rest)),
        _ => assert_eq!(*text, with_line_feeds(std::str::from_utf8(rest).expect("it was sent"))),
    }
    let (name, text) = &read[1];
    let control: serde_json::Value = serde_json::from_str(text).expect("a control event is JSON");
    assert!(name == "control" && control["streamNextOffset"] == offset && control["streamCursor"] == offset);
    assert_eq!(control.get("upToDate").is_some(), follows.up_to_date);
}

/// A text as any reader of events gets it: each end of a line a line feed.
fn with_line_feeds(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n")
}

/// How many records make up whole characters, found by trying.
fn characters(records: &[Record]) {
    let upto = |n: usize| records[..n].iter().flat_map(|record| record.payload.clone()).collect::<Vec<u8>>();
    let all = upto(records.len());
    let broken = std::str::from_utf8(&all).is_err_and(|e| e.error_len().is_some());
    let found = whole_characters(records);
    assert_eq!(found.is_none(), broken, "text is told from what is none");
    if let Some(found) = found {
        let least = records.len().saturating_sub(8);
        let best = (least..=records.len()).rev().find(|n| std::str::from_utf8(&upto(*n)).is_ok());
        assert_eq!(Some(found), best.or(Some(found)), "as many records as make up whole characters");
        assert!(std::str::from_utf8(&upto(found)).is_ok());
    }
}

/// The events of a stream: name and data. Its fields are few here, and no event has an id or a comment.
fn read(stream: &str) -> Vec<(String, String)> {
    let mut events = Vec::new();
    let (mut name, mut text) = (String::new(), String::new());
    for line in with_line_feeds(stream).split_terminator('\n') {
        if line.is_empty() {
            if !text.is_empty() {
                text.pop();
                events.push((std::mem::take(&mut name), std::mem::take(&mut text)));
            }
            name.clear();
            continue;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => value.clone_into(&mut name),
            "data" => {
                text.push_str(value);
                text.push('\n');
            }
            other => panic!("a field that the server does not send: {other:?}"),
        }
    }
    events
}

pub fn seeds() -> Vec<Vec<u8>> {
    let texts: [&[u8]; 5] = [
        b"one\r\n two\rthree\n\nevent: control\ndata: {}\n\n",
        "grüße… 🙂 und mehr".as_bytes(),
        b"\xff\xfe\x00",
        b"\xe2\x82",
        b" \n \r:comment\nid: 7",
    ];
    let modes = [4, 5, 6, 12, 13, 252, 255];
    modes.iter().flat_map(|mode| texts.iter().map(move |text| [&[*mode], *text].concat())).collect()
}
