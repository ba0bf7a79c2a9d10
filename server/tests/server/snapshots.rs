//! Snapshots against a plain model: what a stream of changes comes to, page by page, over restarts, compactions and
//! crashes amid them.

use crate::program::send;
use crate::served::{Answer, Random, Served, ask_at};
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

const STREAM: &str = "stream/users/alice/contacts";
const COMPACT: (&str, &str) = ("Everlog-Compact", "true");

/// What is there: by type and key the value's text.
type Model = BTreeMap<(String, String), String>;

#[derive(serde::Deserialize)]
struct Message<'a> {
    r#type: Option<String>,
    key: Option<String>,
    #[serde(borrow)]
    value: Option<&'a RawValue>,
    headers: Headers,
}

#[derive(serde::Deserialize)]
struct Headers {
    operation: Option<String>,
    control: Option<String>,
    offset: Option<String>,
}

/// Takes what a page says.
fn take(model: &mut Model, page: &str) -> Vec<Headers> {
    let messages: Vec<Message<'_>> = serde_json::from_str(page).expect("a list of messages");
    let mut all = Vec::new();
    for Message { r#type, key, value, headers } in messages {
        match (headers.control.as_deref(), headers.operation.as_deref()) {
            (Some("reset"), _) => model.clear(),
            (Some(_), _) => {}
            (None, Some("delete")) => drop(model.remove(&(r#type.expect("a type"), key.expect("a key")))),
            (None, _) => {
                let value = value.expect("a value").get().to_owned();
                model.insert((r#type.expect("a type"), key.expect("a key")), value);
            }
        }
        all.push(headers);
    }
    all
}

/// Reads the stream from `offset` to its end.
fn read(served: &Served, offset: &str) -> (Model, Vec<Headers>) {
    let (mut model, mut headers, mut offset) = (Model::new(), Vec::new(), offset.to_owned());
    loop {
        let page = served.get(&format!("{STREAM}?offset={offset}"));
        assert_eq!(page.status, 200, "{page:?}");
        headers.extend(take(&mut model, &page.body));
        if page.header("stream-up-to-date") == "true" {
            return (model, headers);
        }
        offset = page.next();
    }
}

fn page(served: &Served, offset: &str) -> Answer {
    let page = served.get(&format!("{STREAM}?offset={offset}"));
    assert_eq!(page.status, 200, "{page:?}");
    page
}

/// All pages of a snapshot from `offset` on, each with the offset it was had by.
fn pages(served: &Served, offset: &str) -> Vec<(String, Answer)> {
    let (mut pages, mut offset) = (Vec::new(), offset.to_owned());
    while offset.starts_with("snapshot") {
        let page = page(served, &offset);
        let next = page.next();
        pages.push((offset, page));
        offset = next;
    }
    pages
}

/// Checks that a snapshot is what the model says, in order and between its marks, and that each offset is one.
fn check(served: &Served, expected: &Model) {
    let pages = pages(served, "snapshot");
    let (mut model, mut headers, mut order) = (Model::new(), Vec::new(), Vec::new());
    for (_, page) in &pages {
        let messages: Vec<Message<'_>> = serde_json::from_str(&page.body).expect("a list of messages");
        order.extend(messages.into_iter().filter_map(|message| Some((message.r#type?, message.key?))));
        headers.extend(take(&mut model, &page.body));
    }
    assert!(model == *expected, "{} keys, expected {}", model.len(), expected.len());
    assert!(order.iter().eq(expected.keys()), "in order, each once");
    let end = pages.last().expect("one page at least").1.next();
    let marks: Vec<_> = headers.iter().filter_map(|headers| headers.control.as_deref()).collect();
    assert_eq!(marks, ["snapshot-start", "snapshot-end"]);
    let (first, last) = (headers.first().expect("a mark"), headers.last().expect("a mark"));
    assert_eq!((first.control.as_deref(), last.control.as_deref()), (Some("snapshot-start"), Some("snapshot-end")));
    assert_eq!((first.offset.as_deref(), last.offset.as_deref()), (Some(&*end), Some(&*end)));
    let tail = page(served, &end);
    assert_eq!((tail.header("stream-up-to-date"), &*tail.body), ("true", "[]"), "it leads to where the stream ends");
    for headers in headers.iter().filter(|headers| headers.control.is_none()).step_by(7) {
        assert_eq!(headers.operation.as_deref(), Some("insert"));
        page(served, headers.offset.as_deref().expect("each says where it stands"));
    }
}

/// A change of the model, as the message that says so.
fn change(random: &mut Random, model: &mut Model, bytes_max: u64) -> String {
    let kind = ["contact", "a", "\u{fc}"][random.below(3) as usize].to_owned();
    let key = format!("{} \"k\" {}\\", ["", "\u{fc}", "z"][random.below(3) as usize], random.below(12));
    let json = |text: &str| serde_json::to_string(text).expect("text");
    let named = format!("\"type\":{},\"key\":{}", json(&kind), json(&key));
    match random.below(40) {
        0 => {
            model.clear();
            r#"{"headers":{"control":"reset"}}"#.to_owned()
        }
        1 => r#"{"headers":{"control":"snapshot-start","offset":"x"}}"#.to_owned(),
        2..12 => {
            model.remove(&(kind, key));
            format!("{{{named},\"headers\":{{\"operation\":\"delete\"}}}}")
        }
        n => {
            let operation = ["insert", "update", "upsert"][n as usize % 3];
            let value = format!("{{ \"n\": 1.50,\"x\":\"{}\"}}", "v".repeat(random.below(bytes_max) as usize));
            model.insert((kind, key), value.clone());
            format!("{{\"headers\":{{\"operation\":\"{operation}\",\"txid\":\"t\"}}, {named},\"value\" : {value} }}")
        }
    }
}

fn append_some(served: &Served, random: &mut Random, model: &mut Model, bytes_max: u64) {
    let changes: Vec<_> = (0..=random.below(20)).map(|_| change(random, model, bytes_max)).collect();
    assert_eq!(served.append(STREAM, &format!("[{}]", changes.join(","))).status, 204);
}

#[test]
fn a_snapshot_is_what_the_changes_come_to() {
    let mut served = Served::new("");
    served.create(STREAM);
    check(&served, &Model::new());
    let (mut random, mut model) = (Random::new(7), Model::new());
    for round in 0..60 {
        append_some(&served, &mut random, &mut model, 60_000);
        match random.below(12) {
            0 => served.restart(),
            1 => {
                assert_eq!(served.ask("DELETE", STREAM, &[], "").status, 204);
                assert_eq!(served.create(STREAM).status, 201);
                model.clear();
            }
            2 => assert_eq!(served.ask("POST", STREAM, &[COMPACT], "").status, 204),
            3 => {
                served.kill();
                served.start();
            }
            _ => {}
        }
        check(&served, &model);
        if round % 10 == 9 {
            assert!(read(&served, "-1").0 == model, "and so are the changes themselves");
        }
    }
}

/// A stream whose snapshot has several pages.
fn fill(served: &Served, keys: u64) -> Model {
    let mut model = Model::new();
    for key in 0..keys {
        let value = format!("\"{key}{}\"", "v".repeat(150_000));
        let message = format!(
            r#"{{"type":"contact","key":"{key:04}","value":{value},"headers":{{"operation":"insert","timestamp":"2009-10-10T00:00:00Z"}}}}"#
        );
        model.insert(("contact".into(), format!("{key:04}")), value);
        assert_eq!(served.append(STREAM, &message).status, 204);
    }
    model
}

#[test]
fn the_pages_of_a_snapshot_are_the_same_whoever_makes_them_and_whatever_came_since() {
    let mut served = Served::new("");
    served.create(STREAM);
    fill(&served, 40);
    let before = pages(&served, "snapshot");
    assert!(before.len() > 4, "{} pages", before.len());
    let mut offset = "snapshot".to_owned();
    for (n, (told, expected)) in before.iter().enumerate() {
        assert_eq!(offset, *told);
        assert!(told.len() < 256 && !told.contains([',', '&', '=', '?', '/']), "{told}");
        let page = page(&served, &offset);
        assert_eq!((&page.body, page.next()), (&expected.body, expected.next()), "page {n}");
        offset = page.next();
        // The client is cut off here, the server starts anew, and others write.
        if n % 2 == 0 {
            served.restart()
        } else {
            served.kill()
        }
        if n % 2 == 1 {
            served.start();
        }
        let other = format!(r#"{{"type":"contact","key":"{n:04}","headers":{{"operation":"delete"}}}}"#);
        assert_eq!(served.append(STREAM, &other).status, 204);
    }
    assert!(!offset.starts_with("snapshot"));
    assert_eq!(read(&served, &offset).1.len(), before.len(), "what came since follows, and nothing else");
    let (token, _) = &before[2];
    let out = format!("{}{:016x}", &token[..token.len() - 16], 1000);
    assert_eq!(served.get(&format!("{STREAM}?offset={out}")).status, 400);

    // What a compaction has given up is not had by a token from before it.
    assert_eq!(served.ask("POST", STREAM, &[COMPACT], "").status, 204);
    let refused = served.get(&format!("{STREAM}?offset={token}"));
    assert_eq!((refused.status, refused.header("everlog-error")), (410, "trimmed"));
    let token = pages(&served, "snapshot")[1].0.clone();
    assert_eq!(served.ask("DELETE", STREAM, &[], "").status, 204);
    assert_eq!(served.get(&format!("{STREAM}?offset={token}")).status, 404);
    served.create(STREAM);
    let refused = served.get(&format!("{STREAM}?offset={token}"));
    assert_eq!((refused.status, refused.header("everlog-error")), (410, "trimmed"));
}

#[test]
fn a_page_of_a_lost_history_is_refused_as_any_offset_of_it() {
    let mut served = Served::new("");
    served.create(STREAM);
    fill(&served, 10);
    let kept = pages(&served, "snapshot")[1].0.clone();
    served.stop();
    let copy = served.data().with_file_name("copy");
    let copied = |from: &std::path::Path, to: &std::path::Path| {
        let status = std::process::Command::new("cp").arg("-r").arg(from).arg(to).status();
        assert!(status.expect("cp is there").success());
    };
    copied(&served.data(), &copy);
    served.start();
    fill(&served, 10);
    let lost = pages(&served, "snapshot")[1].0.clone();
    served.stop();
    std::fs::remove_dir_all(served.data()).expect("it is there");
    copied(&copy, &served.data());
    served.start();
    fill(&served, 20);
    let refused = served.get(&format!("{STREAM}?offset={lost}"));
    assert_eq!((refused.status, refused.header("everlog-error")), (410, "timeline"));
    assert_eq!(refused.header("everlog-timeline-cause"), "heal");
    page(&served, &kept);
}

#[test]
fn what_is_no_stream_of_changes_has_no_snapshot() {
    let served = Served::new("");
    served.ask("PUT", "stream/text", &[("Content-Type", "text/plain")], "a");
    assert_eq!(served.get("stream/text?offset=snapshot").status, 400);
    assert_eq!(served.ask("POST", "stream/text", &[COMPACT], "").status, 400);
    assert_eq!(served.get("stream/none?offset=snapshot").status, 404);
    served.create(STREAM);
    for live in ["sse", "long-poll"] {
        assert_eq!(served.get(&format!("{STREAM}?offset=snapshot&live={live}")).status, 400);
    }
    served.append(STREAM, "[1,2]");
    let refused = served.get(&format!("{STREAM}?offset=snapshot"));
    assert_eq!((refused.status, refused.header("everlog-error")), (409, "no-state"));
    // Among changes it is no key's, and not to be thrown away.
    let odd = r#"{"type":"a","key":"b","value":1,"headers":{"operation":"explode"}}"#;
    served.append(STREAM, odd);
    let shown = page(&served, "snapshot");
    assert!(shown.body.contains(odd), "what cannot be understood is shown as it is: {}", shown.body);
    let refused = served.ask("POST", STREAM, &[COMPACT], "");
    assert_eq!((refused.status, refused.header("everlog-error")), (409, "no-state"));
    assert!(read_raw(&served).starts_with("[1,2,"));
}

fn read_raw(served: &Served) -> String {
    page(served, "-1").body
}

#[test]
fn a_compaction_holds_only_where_it_was_meant() {
    let served = Served::new("");
    let begin = served.create(STREAM).next();
    let model = fill(&served, 3);
    let number = [("Producer-Id", "p"), ("Producer-Epoch", "0"), ("Producer-Seq", "0")];
    let numbered = [&[("Content-Type", "application/json")], &number[..]].concat();
    let message = r#"{"type":"contact","key":"0000","value":1,"headers":{"operation":"update"}}"#;
    assert_eq!(served.ask("POST", STREAM, &numbered, message).status, 200);
    let end = served.ask("HEAD", STREAM, &[], "").next();
    let refused = served.ask("POST", STREAM, &[COMPACT, ("Everlog-Expect-Offset", &begin)], "");
    assert_eq!((refused.status, refused.next()), (412, end.clone()));
    for more in [("Stream-Closed", "true"), ("Stream-Seq", "1")] {
        assert_eq!(served.ask("POST", STREAM, &[COMPACT, more], "").status, 400, "{more:?}");
    }
    assert_eq!(served.ask("POST", STREAM, &[COMPACT], "[]").status, 400);
    assert_eq!(served.ask("POST", STREAM, &[("Everlog-Compact", "yes")], "").status, 400);

    let before = page(&served, "-1").header("everlog-stream").to_owned();
    let done = served.ask("POST", STREAM, &[COMPACT, ("Everlog-Expect-Offset", &end)], "");
    assert_eq!((done.status, done.header("everlog-durability")), (204, "local"));
    assert_eq!(served.get(&format!("{STREAM}?offset={begin}")).header("everlog-error"), "trimmed");
    let (read, headers) = read(&served, "-1");
    let mut expected = model;
    expected.insert(("contact".into(), "0000".into()), "1".into());
    assert!(read == expected && headers.len() == 5);
    assert_eq!(headers[0].control.as_deref(), Some("snapshot-start"));
    assert_eq!(headers[4].control.as_deref(), Some("snapshot-end"));
    assert_eq!(page(&served, "-1").header("everlog-stream"), before, "it is the same stream");
    assert_eq!(served.ask("POST", STREAM, &numbered, message).status, 204, "producers are known still");
    assert_eq!(served.ask("POST", STREAM, &[("Stream-Closed", "true")], "").status, 204);
    let closed = served.ask("POST", STREAM, &[COMPACT], "");
    assert_eq!((closed.status, closed.header("stream-closed")), (409, "true"));
}

#[test]
fn a_compaction_amid_others_appends_loses_none_of_them() {
    let served = Served::new("");
    served.create(STREAM);
    let mut expected = fill(&served, 8);
    let stop = AtomicBool::new(false);
    let address = &served.address;
    let counts: Vec<u64> = thread::scope(|scope| {
        let writers: Vec<_> = (0..2)
            .map(|writer| {
                let stop = &stop;
                scope.spawn(move || {
                    let mut count = 0;
                    while !stop.load(Ordering::SeqCst) {
                        let message = format!(
                            r#"{{"type":"n","key":"{writer}-{}","value":{count},"headers":{{"operation":"insert"}}}}"#,
                            count % 50
                        );
                        let headers = [("Content-Type", "application/json")];
                        assert_eq!(ask_at(address, "POST", STREAM, &headers, &message).status, 204);
                        count += 1;
                    }
                    count
                })
            })
            .collect();
        let mut done = 0;
        for _ in 0..60 {
            let answer = ask_at(address, "POST", STREAM, &[COMPACT], "");
            assert!(matches!(answer.status, 204 | 409), "{answer:?}");
            done += u32::from(answer.status == 204);
        }
        stop.store(true, Ordering::SeqCst);
        eprintln!("{done} compactions of 60 found a quiet moment");
        writers.into_iter().map(|writer| writer.join().expect("it wrote")).collect()
    });
    for (writer, count) in counts.iter().enumerate() {
        for n in 0..*count {
            expected.insert(("n".into(), format!("{writer}-{}", n % 50)), n.to_string());
        }
    }
    check(&served, &expected);
    assert!(read(&served, "-1").0 == expected);
    assert_eq!(served.ask("POST", STREAM, &[COMPACT], "").status, 204);
    assert!(read(&served, "-1").0 == expected);
}

#[test]
fn a_crash_amid_a_compaction_leaves_what_the_stream_came_to() {
    let mut served = Served::new("");
    served.create(STREAM);
    // More than two batches.
    let expected = fill(&served, 70);
    let (mut amid, mut whole) = (0, 0);
    for round in 0..8_u32 {
        let before = served.ask("HEAD", STREAM, &[], "").next();
        let waiting = send(
            &served.address,
            format!("POST /v1/{STREAM} HTTP/1.1\r\nHost: test\r\nEverlog-Compact: true\r\nContent-Length: 0\r\n\r\n"),
        );
        // The first batch is durable, or more than that.
        while served.ask("HEAD", STREAM, &[], "").next() == before {}
        served.kill();
        drop(waiting);
        served.start();
        check(&served, &expected);
        let (read, headers) = read(&served, "-1");
        assert!(read == expected, "round {round}");
        let marks: Vec<_> = headers.iter().filter_map(|headers| headers.control.as_deref()).collect();
        match (headers[0].control.as_deref(), marks.last()) {
            (Some("snapshot-start"), _) if headers.len() == expected.len() + 2 => whole += 1,
            (_, Some(&"snapshot-start")) => amid += 1,
            other => panic!("{other:?}"),
        }
        assert_eq!(served.ask("POST", STREAM, &[COMPACT], "").status, 204);
    }
    eprintln!("{amid} crashes between two batches, {whole} behind the last");
    assert!(amid > 0, "none of them came in between");
}
