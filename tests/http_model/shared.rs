//! A stream that all clients append to at once, each as a producer of its own.
//!
//! Who appends is told where its messages end, so that what stands at a place is known whoever wrote it. Invariant:
//! what a place was said or seen to hold it holds for ever, and each client's messages stand there once and in its
//! order.

use crate::world::{Told, Way};
use everlog_tests::net::{Answer, Appends};
use everlog_tests::sim::Rng;
use parking_lot::Mutex;
use serde_json::{Value, json};
use std::collections::BTreeMap;

const PATH: &str = "/v1/stream/model/shared";
const JSON: (&str, &str) = ("Content-Type", "application/json");

/// What is known of the stream.
#[derive(Debug, Default)]
pub struct Shared {
    /// Each known place's message: who sent it, and as its how manieth.
    places: Mutex<BTreeMap<u64, (u64, u64)>>,
}

/// A client's part in it.
pub struct Member<'a> {
    shared: &'a Shared,
    client: u64,
    /// Appends and messages that were acknowledged.
    appends: u64,
    messages: u64,
    /// Offsets that were given.
    offsets: Vec<String>,
    pub appended: u64,
    pub repeated: u64,
}

impl Shared {
    /// What stands at a place, said or seen.
    fn hold(&self, place: u64, message: (u64, u64)) {
        let known = *self.places.lock().entry(place).or_insert(message);
        assert_eq!(known, message, "place {place} of the shared stream changed: client and message");
    }

    /// Creates the stream.
    pub fn create(&self, way: &Way<'_>) {
        let told = way.ask("PUT", PATH, &[JSON], b"", Appends::Pass);
        assert!(matches!(&told, Told::Answer(answer) if answer.status == 201), "{told:?}");
    }

    /// Compares a whole read with all that is known, and with what each client was told.
    pub fn check(&self, way: &Way<'_>, members: &[Member<'_>]) {
        let (mut path, mut end) = (PATH.to_owned(), 0);
        loop {
            let Told::Answer(answer) = way.ask("GET", &path, &[], b"", Appends::Pass) else {
                panic!("a server answers")
            };
            end = self.page(end, &answer);
            if answer.header("stream-up-to-date") == "true" {
                break;
            }
            path = format!("{PATH}?offset={}", answer.header("stream-next-offset"));
        }
        assert!(self.places.lock().keys().all(|place| *place < end), "the shared stream ends too early, at {end}");
        let acknowledged: u64 = members.iter().map(|member| member.messages).sum();
        assert_eq!(end, acknowledged, "every client went on until it knew what became of its messages");
    }

    /// Takes a page from a place on to the end; gives where it ends.
    fn page(&self, from: u64, answer: &Answer) -> u64 {
        assert_eq!(answer.status, 200, "{answer:?}");
        let messages: Vec<Value> = serde_json::from_slice(&answer.body).expect("a page of a JSON stream is JSON");
        let mut last: BTreeMap<u64, u64> = BTreeMap::new();
        for (place, message) in (from..).zip(&messages) {
            let message = (message["client"].as_u64().expect("sent so"), message["n"].as_u64().expect("sent so"));
            self.hold(place, message);
            let before = last.insert(message.0, message.1);
            let expected = before.map_or(if from == 0 { 0 } else { message.1 }, |before| before + 1);
            assert_eq!(message.1, expected, "a message of client {} is missing, double or out of order", message.0);
        }
        let end = from + messages.len() as u64;
        assert_eq!(number(answer.header("stream-next-offset")), end, "the page ends where it says");
        end
    }
}

impl<'a> Member<'a> {
    pub fn new(shared: &'a Shared, client: usize) -> Self {
        Self { shared, client: client as u64, appends: 0, messages: 0, offsets: Vec::new(), appended: 0, repeated: 0 }
    }

    pub fn step(&mut self, way: &Way<'_>, rng: &mut Rng) {
        if rng.chance(20) && !self.offsets.is_empty() {
            return self.read(way, rng);
        }
        let count = rng.between(1, 5);
        let messages = self.messages..self.messages + count;
        let bodies: Vec<_> = messages.clone().map(|n| json!({ "client": self.client, "n": n })).collect();
        let body = Value::from(bodies).to_string();
        let (id, seq) = (format!("client{}", self.client), self.appends.to_string());
        let headers = [JSON, ("Producer-Id", &id), ("Producer-Epoch", "0"), ("Producer-Seq", &seq)];
        let mut lost = if rng.chance(5) { Appends::Unanswered } else { Appends::Pass };
        let answer = loop {
            match way.ask("POST", PATH, &headers, body.as_bytes(), lost) {
                Told::Answer(answer) => break answer,
                // It goes on with the very same.
                Told::NotStored | Told::Nothing => lost = Appends::Pass,
            }
        };
        assert!([200, 204].contains(&answer.status), "{answer:?}");
        assert_eq!(answer.header("producer-seq"), seq, "this number is the last");
        self.appended += u64::from(answer.status == 200);
        self.repeated += u64::from(answer.status == 204);
        let end = number(answer.header("stream-next-offset"));
        let first = end.checked_sub(count).expect("the messages lie before their end");
        (first..end).zip(messages).for_each(|(place, n)| self.shared.hold(place, (self.client, n)));
        (self.appends, self.messages) = (self.appends + 1, self.messages + count);
        self.offsets.push(answer.header("stream-next-offset").to_owned());
    }

    /// From an offset that it was given, which is an end of its own messages.
    fn read(&self, way: &Way<'_>, rng: &mut Rng) {
        let offset = rng.pick(&self.offsets);
        if let Told::Answer(answer) = way.ask("GET", &format!("{PATH}?offset={offset}"), &[], b"", Appends::Pass) {
            self.shared.page(number(offset), &answer);
        }
    }
}

/// The place that an offset names.
fn number(offset: &str) -> u64 {
    let digits = offset.split_once('_').expect("an offset is two numbers").1;
    u64::from_str_radix(digits, 16).expect("an offset is two numbers")
}
