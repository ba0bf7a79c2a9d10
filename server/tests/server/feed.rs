//! The feed of an owner: nothing that changed is missed, nobody is woken for nothing, and what lies deep is left aside.

use crate::program::{ask, send};
use crate::served::{Answer, Random, Served, ask_at};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

const FEED: &str = "feed/users/alice";
const NAMES: [&str; 5] = ["contacts", "calendar", "todos", "notes", "photos"];
const SETTINGS: &str = "sse_ms = 400\nlong_poll_ms = 400\n";

fn stream(name: &str) -> String {
    format!("stream/users/alice/{name}")
}

/// The streams that an answer names, each with its end; None for one that is gone.
fn told(body: &str) -> BTreeMap<String, Option<String>> {
    let told: Vec<Value> = serde_json::from_str(body).expect("a list");
    let end = |value: &Value| (value["deleted"] != true).then(|| value["head"].as_str().expect("text").to_owned());
    told.iter().map(|value| (value["stream"].as_str().expect("text").to_owned(), end(value))).collect()
}

/// What a device knows of its owner's streams by the feed alone.
#[derive(Default)]
struct Phone {
    known: BTreeMap<String, String>,
    offset: Option<String>,
}

impl Phone {
    /// Asks once, and takes what it is told.
    fn ask(&mut self, address: &str, more: &str) -> Answer {
        let offset = self.offset.clone().unwrap_or("-1".into());
        let answer = ask_at(address, "GET", &format!("{FEED}?offset={offset}&depth=all{more}"), &[], "");
        match answer.status {
            200 => {
                if self.offset.is_none() {
                    self.known.clear();
                }
                for (stream, end) in told(&answer.body) {
                    match end {
                        Some(end) => drop(self.known.insert(stream, end)),
                        None => drop(self.known.remove(&stream)),
                    }
                }
                self.offset = Some(answer.next());
            }
            204 => self.offset = Some(answer.next()),
            410 => self.offset = None,
            _ => panic!("{answer:?}"),
        }
        answer
    }
}

/// What there is.
fn heads(served: &Served) -> BTreeMap<String, String> {
    let names = NAMES.iter().map(|name| (*name).to_owned()).chain((0..20).map(|n| format!("photos/{n}")));
    let head = |name: String| {
        let answer = served.ask("HEAD", &stream(&name), &[], "");
        (answer.status == 200).then(|| (format!("users/alice/{name}"), answer.next()))
    };
    names.filter_map(head).collect()
}

/// Creates, appends to, closes and deletes streams, some of them another owner's.
fn write(address: &str, seed: u64, rounds: u64) {
    let mut random = Random::new(seed);
    for _ in 0..rounds {
        let owner = if random.below(4) == 0 { "bob" } else { "alice" };
        let name = match random.below(3) {
            0 => format!("photos/{}", random.below(20)),
            _ => NAMES[random.below(5) as usize].to_owned(),
        };
        let (path, kind) = (format!("stream/users/{owner}/{name}"), [("Content-Type", "application/json")]);
        match random.below(12) {
            0 => ask_at(address, "DELETE", &path, &[], ""),
            1..4 => ask_at(address, "PUT", &path, &kind, ""),
            4 if name.contains('/') => ask_at(address, "POST", &path, &[("Stream-Closed", "true")], ""),
            _ => ask_at(address, "POST", &path, &kind, "1"),
        };
    }
}

#[test]
fn no_change_is_missed_whatever_comes_in_between() {
    let mut served = Served::new(SETTINGS);
    let (mut always, mut seldom) = (Phone::default(), Phone::default());
    for phase in 0..4 {
        let (address, stop) = (served.address.clone(), AtomicBool::new(false));
        thread::scope(|scope| {
            let writers: Vec<_> = (0..3)
                .map(|n| {
                    scope.spawn({
                        let address = &address;
                        move || write(address, phase * 10 + n, 120)
                    })
                })
                .collect();
            let reader = scope.spawn(|| {
                let mut polls = 0;
                while !stop.load(Ordering::SeqCst) {
                    always.ask(&address, "&live=long-poll");
                    polls += 1;
                }
                polls
            });
            writers.into_iter().for_each(|writer: thread::ScopedJoinHandle<'_, ()>| {
                writer.join().expect("it wrote");
            });
            stop.store(true, Ordering::SeqCst);
            eprintln!("{} polls", reader.join().expect("it read"));
        });
        let expected = heads(&served);
        while always.ask(&served.address, "&live=long-poll").status != 204 {}
        assert_eq!(always.known, expected, "who listened all the time, phase {phase}");
        if phase % 2 == 0 {
            // From before one or two starts of the server, and on a board that it never saw.
            while seldom.ask(&served.address, "").status == 410 {}
            assert_eq!(seldom.known, expected, "who was away, phase {phase}");
        }
        if phase == 1 {
            served.kill()
        } else {
            served.stop()
        }
        served.start();
        while always.ask(&served.address, "").status == 410 {}
        assert_eq!(always.known, expected, "the same after a start");
    }
}

#[test]
fn an_append_whose_client_has_gone_is_told() {
    let served = Served::new(SETTINGS);
    served.create(&stream("notes"));
    let mut phone = Phone::default();
    phone.ask(&served.address, "");
    for round in 0..60 {
        let request = "POST /v1/stream/users/alice/notes HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n";
        drop(send(&served.address, format!("{request}Content-Length: 1\r\n\r\n1")));
        // It may be carried out before this one, after it, or never.
        served.append(&stream("notes"), "2");
        let end = served.ask("HEAD", &stream("notes"), &[], "").next();
        while phone.known["users/alice/notes"] < end {
            let answer = phone.ask(&served.address, "&live=long-poll");
            let known = &phone.known["users/alice/notes"];
            assert!(answer.status == 200 || *known >= end, "round {round}: {known} instead of {end}");
        }
    }
}

#[test]
fn who_waits_is_told_at_once_and_by_one_answer() {
    let served = Served::new("sse_ms = 60000\nlong_poll_ms = 60000\n");
    for name in ["contacts", "notes", "photos/x"] {
        served.create(&stream(name));
    }
    let all = served.get(FEED);
    assert_eq!((all.status, all.header("stream-up-to-date")), (200, "true"));
    assert_eq!(told(&all.body).into_keys().collect::<Vec<_>>(), ["users/alice/contacts", "users/alice/notes"]);
    let deep = served.get(&format!("{FEED}?depth=all"));
    assert_eq!(told(&deep.body).len(), 3);
    let now = served.get(&format!("{FEED}?offset=now"));
    assert_eq!(now.body, "[]");
    assert_eq!(served.get(&format!("{FEED}?offset={}", now.next())).body, "[]");

    let address = served.address.clone();
    let offset = now.next();
    let poll = format!("{FEED}?offset={offset}&live=long-poll");
    let waiting = thread::spawn({
        let address = address.clone();
        move || ask_at(&address, "GET", &poll, &[], "")
    });
    // Another owner's and a deep stream are nothing to it.
    served.create("stream/users/bob/notes");
    served.append(&stream("photos/x"), "1");
    let end = served.append(&stream("notes"), "1").next();
    let answer = waiting.join().expect("an answer");
    assert_eq!((answer.status, told(&answer.body)["users/alice/notes"].as_deref()), (200, Some(&*end)));
    assert!(!answer.header("stream-cursor").is_empty());

    // Several changes of a stream are one.
    for _ in 0..20 {
        served.append(&stream("notes"), "1");
    }
    served.ask("DELETE", &stream("contacts"), &[], "");
    let news = served.get(&format!("{FEED}?offset={}", answer.next()));
    assert_eq!(told(&news.body).len(), 2, "{}", news.body);
    assert!(news.body.contains(r#""deleted":true"#), "{}", news.body);

    // Whoever comes with an offset from before the server's start is told of deletions too.
    let mut served = served;
    served.restart();
    let news = served.get(&format!("{FEED}?offset={offset}"));
    assert_eq!(told(&news.body).get("users/alice/contacts"), Some(&None), "{}", news.body);
}

#[test]
fn events_bear_a_place_to_go_on_from() {
    let served = Served::new(SETTINGS);
    let end = served.create(&stream("notes")).next();
    let events = ask(&served.address, format!("GET /v1/{FEED}?offset=-1&live=sse HTTP/1.1\r\n\r\n"));
    assert!(events.contains("content-type: text/event-stream"), "{events}");
    let data = format!("event: data\ndata:[{{\"stream\":\"users/alice/notes\",\"head\":\"{end}\"}}]\n\n");
    assert!(events.contains(&data), "{events}");
    assert_eq!(events.matches("event: control").count(), 1, "nothing else came: {events}");
    let offset = events.split("streamNextOffset\":\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a place");
    assert_eq!(served.get(&format!("{FEED}?offset={offset}")).body, "[]");
    let waiting = send(
        &served.address,
        format!("GET /v1/{FEED}?offset={offset}&live=sse HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n"),
    );
    let end = served.append(&stream("notes"), "1").next();
    let mut events = String::new();
    std::io::Read::read_to_string(&mut { waiting }, &mut events).expect("text");
    assert!(events.contains(&format!("\"head\":\"{end}\"")), "{events}");
}

#[test]
fn what_is_no_place_of_this_store_begins_anew() {
    let served = Served::new(SETTINGS);
    let other = Served::new(SETTINGS);
    let offset = other.get(&format!("{FEED}?offset=now")).next();
    let refused = served.get(&format!("{FEED}?offset={offset}"));
    assert_eq!((refused.status, refused.header("everlog-error")), (410, "timeline"));
    for (path, status) in [
        (&*format!("{FEED}/notes"), 404),
        ("feed/__ds", 404),
        ("feed/__everlog/x", 404),
        ("feed/users/..", 400),
        (&format!("{FEED}?offset=x"), 400),
        (&format!("{FEED}?live=sse"), 400),
    ] {
        assert_eq!(served.get(path).status, status, "{path}");
    }
    assert_eq!(served.ask("DELETE", FEED, &[], "").status, 405);
    let preflight = served.ask("OPTIONS", FEED, &[], "");
    assert_eq!(preflight.status, 204);
}
