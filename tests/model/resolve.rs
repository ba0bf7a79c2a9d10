//! From the words of `ops.rs` to what they come to for the map as it stands.
//!
//! Decides nothing about what is right. Invariant: the same words on the same map come to the same, so that a case
//! can be run again.

use crate::map::{Do, Log, Map, Part, Payload, Phase};
use crate::ops::{Draft, Ending, From, LOGS, Number, Opening, PREFIXES, Piece, Place, Remembered, Sender};
use everlog::types::{Cursor, Position};
use std::collections::BTreeMap;
use std::rc::Rc;

/// Names that are one another's prefixes, share owners, or sort close together.
pub const NAMES: [&str; LOGS] = [
    "users/alice/contacts",
    "users/alice/notes",
    "users/alice/photos",
    "users/alice",
    "users/b",
    "users/bob/notes",
    "a",
    "a/b",
    "a/b/c",
    "a/b/d",
    "ab",
    "ab/c",
    "z/~",
    "ü/…",
];
pub const NAMES_PREFIXES: [&str; PREFIXES] = ["", "a", "a/", "users/alice/", "users/b", "nobody"];
const PRODUCERS: [&[u8]; 2] = [b"phone", b"tablet"];

/// What was sent and given so far.
#[derive(Default)]
pub struct Memory {
    /// Each producer's batches of its present epoch, by log and id.
    sent: BTreeMap<(&'static str, &'static [u8]), Vec<Vec<Do>>>,
    /// Cursors that were given, with the log they were given for.
    given: Vec<(&'static str, Cursor)>,
    records: u64,
}

impl Memory {
    pub fn give(&mut self, log: &'static str, cursor: Cursor) {
        if !self.given.contains(&(log, cursor)) {
            self.given.push((log, cursor));
        }
    }

    /// A part was accepted as new.
    pub fn note(&mut self, part: &Part) {
        let Some((id, _, number)) = part.producer else { return };
        let sent = self.sent.entry((part.log, id)).or_default();
        sent.truncate(number as usize);
        sent.push(part.does.clone());
    }

    pub fn parts(&mut self, map: &Map, drafts: &[Draft]) -> Vec<Part> {
        let mut parts: Vec<Part> = Vec::new();
        for draft in drafts {
            // A batch has one part for a log.
            if parts.iter().all(|part| part.log != NAMES[draft.log]) {
                parts.push(self.part(map, draft));
            }
        }
        parts
    }

    fn part(&mut self, map: &Map, draft: &Draft) -> Part {
        let name = NAMES[draft.log];
        let log = map.log(name);
        let (producer, again) = match draft.producer {
            Some(sender) => self.numbered(name, &log, sender),
            None => (None, None),
        };
        if let Some(does) = again {
            return Part { log: name, does, producer, ..Part::default() };
        }
        Part {
            log: name,
            does: self.does(map, name, &log, draft),
            expect_next: draft.expect_next.map(|place| place_of(&log, place)),
            expect_at: draft.expect_at.map(|cursor| self.cursor(name, &log, cursor)),
            expect_created: draft.expect_created.map(|holds| if holds { log.created } else { log.created + 1 }),
            tag: draft.tag.clone().filter(|tag| !tag.is_empty()),
            producer,
        }
    }

    fn does(&mut self, map: &Map, name: &'static str, log: &Log, draft: &Draft) -> Vec<Do> {
        let mut does = Vec::new();
        match &draft.opening {
            Opening::Needed if log.phase == Phase::Live => {}
            Opening::Needed => does.push(Do::Create(Vec::new())),
            Opening::Nothing => {}
            Opening::IfMissing => does.push(Do::CreateIfMissing),
            Opening::Create(metadata) => does.push(Do::Create(metadata.clone())),
            Opening::Fork { .. } if log.phase == Phase::Live => {}
            Opening::Fork { parent, at } => {
                let live: Vec<_> = map.logs.iter().filter(|(_, log)| log.phase == Phase::Live).collect();
                match live.is_empty() || log.phase == Phase::Deleted {
                    true => does.push(Do::Create(Vec::new())),
                    false => {
                        let (parent, of) = parent.get(&live);
                        does.push(Do::Fork { parent, at: place_of(of, *at) });
                    }
                }
            }
            Opening::ForkAnyway { parent, at } => {
                let parent = NAMES[*parent];
                does.push(Do::Fork { parent, at: place_of(&map.log(parent), *at) });
            }
            Opening::Undelete => does.push(Do::Undelete),
            Opening::Revive if log.phase == Phase::Deleted => does.push(Do::Undelete),
            Opening::Revive => {}
        }
        for piece in &draft.body {
            does.push(match piece {
                Piece::Record(bytes) => self.record(name, *bytes),
                Piece::Trim(place) => Do::Trim(place_of(log, *place)),
                Piece::Metadata(metadata) => Do::Metadata(metadata.clone()),
                Piece::Close => Do::Close,
                Piece::Misplaced(true) => Do::Undelete,
                Piece::Misplaced(false) => Do::Delete,
            });
        }
        match draft.ending {
            Ending::Nothing => {}
            Ending::Close => does.push(Do::Close),
            Ending::Delete => does.push(Do::Delete),
            Ending::CloseAndDelete => does.extend([Do::Close, Do::Delete]),
        }
        if does.is_empty() {
            does.push(self.record(name, 0));
        }
        does
    }

    /// A record like no other, so that one in the place of another is noticed.
    pub fn record(&mut self, log: &str, bytes: usize) -> Do {
        self.records += 1;
        let mut payload = format!("{log} {} ", self.records).into_bytes();
        // Long ones are half text that compresses and half what does not.
        let mut x = self.records;
        payload.extend((0..bytes).map(|n| {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            if self.records.is_multiple_of(2) { (x >> 56) as u8 } else { b'a' + (n % 7) as u8 }
        }));
        Do::Record(Payload(payload.into()))
    }

    /// The producer's number, and its old batch if it is to be sent again.
    #[allow(clippy::type_complexity)]
    fn numbered(
        &self, name: &'static str, log: &Rc<Log>, sender: Sender,
    ) -> (Option<(&'static [u8], u64, u64)>, Option<Vec<Do>>) {
        let id = PRODUCERS[sender.id];
        let known = log.producers.get(id);
        let (epoch, next) = known.map_or((0, 0), |known| (known.epoch, known.last() + 1));
        let number = match sender.number {
            Number::Next => (epoch, next),
            Number::Again(back) => {
                let sent = self.sent.get(&(name, id)).map(Vec::as_slice).unwrap_or_default();
                match back.checked_rem(sent.len()).map(|back| sent.len() - 1 - back) {
                    Some(number) => return (Some((id, epoch, number as u64)), Some(sent[number].clone())),
                    None => (epoch, next),
                }
            }
            Number::Conflict(back) => (epoch, next.saturating_sub(back + 1)),
            Number::Gap(gap) => (epoch, next + gap),
            Number::NewEpoch => (epoch + 1, 0),
            Number::NewEpochLater => (epoch + 1, 1),
            Number::OldEpoch => (epoch.saturating_sub(1), next),
        };
        (Some((id, number.0, number.1)), None)
    }

    pub fn cursor(&self, name: &str, log: &Log, cursor: Remembered) -> Cursor {
        let (own, index) = match cursor {
            Remembered::End => return log.cursor(log.next),
            Remembered::Given(index) => (true, index),
            Remembered::Other(index) => (false, index),
        };
        let given: Vec<_> = self.given.iter().filter(|(of, _)| !own || *of == name).collect();
        if given.is_empty() { Cursor::default() } else { index.get(&given).1 }
    }

    pub fn position(&self, name: &str, log: &Log, from: From) -> Position {
        match from {
            From::Start => Position::Start,
            From::End => Position::End,
            From::Seq(place) => Position::Seq(place_of(log, place)),
            From::Cursor(cursor) => Position::Cursor(self.cursor(name, log, cursor)),
        }
    }

    /// A batch of one record with the next number of the producer.
    pub fn burst(&mut self, log: usize, map: &Map, producer: usize) -> Part {
        let (name, id) = (NAMES[log], PRODUCERS[producer]);
        let log = map.log(name);
        let (epoch, next) = log.producers.get(id).map_or((0, 0), |known| (known.epoch, known.last() + 1));
        let mut does = if log.phase == Phase::Live { Vec::new() } else { vec![Do::Create(Vec::new())] };
        does.push(self.record(name, 0));
        // A deleted log's producers begin anew with its creation.
        let number = if log.phase == Phase::Live { next } else { 0 };
        Part { log: name, does, producer: Some((id, epoch, number)), ..Part::default() }
    }
}

pub fn place_of(log: &Log, place: Place) -> u64 {
    match place {
        Place::AfterTrim(n) => log.trim + n,
        Place::BeforeEnd(n) => log.next.saturating_sub(n),
        Place::BeforeTrim(n) => log.trim.saturating_sub(n),
        Place::AroundFork(n) => (log.forked_at.unwrap_or(log.next) + 1).saturating_sub(n),
        Place::PastEnd(n) => log.next + n,
    }
}
