//! What a client asks for next: drawn from a seed, with an eye on what its streams probably are.
//!
//! Decides nothing about what is right. Streams that end soon are left alone from time to time, since what is used does not
//! end. Invariant: no two bodies are the same, so that one in the place of another is noticed; and no stream outgrows a page.

use crate::ends::{Lifetime, Us};
use crate::model::{Append, Content, Creation, Fork, From, Numbers, Part, Path, Request};
use crate::state::State;
use crate::stream::{Stream, is_json};
use crate::world::World;
use everlog_tests::sim::Rng;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The paths that are used again and again.
pub const COLLECTIONS: [Path; 3] =
    [Path::Collection("contacts"), Path::Collection("notes"), Path::Collection("photos")];
/// The same media types in more than one spelling.
const CONTENT_TYPES: [&str; 5] = [
    "application/json",
    "Application/JSON; charset=utf-8",
    "text/plain",
    "text/plain; charset=utf-8",
    "application/octet-stream",
];
const PRODUCERS: [&str; 2] = ["phone", "tablet"];
/// A stream that holds so much is deleted next.
const STREAM_BYTES_MAX: usize = 600 << 10;
/// A stream that holds so much is not forked: the fork has to stay within a page, too.
const SOURCE_BYTES_MAX: usize = 200 << 10;
/// Forks at a time.
const FORKS_MAX: usize = 4;
/// Requests that may be sent again.
const SENT_MAX: usize = 30;
/// The same moment, in which no test runs, in two spellings.
const FAR: [&str; 2] = ["2100-01-01T12:00:00Z", "2100-01-01T14:00:00.000+02:00"];

/// The source of requests, with its memory.
#[derive(Debug)]
pub struct Source {
    pub rng: Rng,
    /// The client's number, which stands in whatever it sends.
    client: usize,
    bodies: u64,
    seqs: u64,
    /// Forks that were asked for.
    forks: u32,
    /// Numbered appends, with the streams that they were sent to.
    sent: Vec<(Path, Append)>,
    /// The last creation for each path.
    creations: BTreeMap<Path, Creation>,
    /// Until when by the slow clock a stream is left alone, but for a look at it.
    left_alone: BTreeMap<Path, Us>,
    /// Offsets that were given: stream, text, number.
    offsets: Vec<(Path, String, u64)>,
}

impl Source {
    pub fn new(rng: Rng, client: usize) -> Self {
        Self {
            rng,
            client,
            bodies: 0,
            seqs: 0,
            forks: 0,
            sent: Vec::new(),
            creations: BTreeMap::new(),
            left_alone: BTreeMap::new(),
            offsets: Vec::new(),
        }
    }

    /// An offset was given, not for the first time maybe.
    pub fn give(&mut self, path: Path, text: &str, number: u64) {
        if self.offsets.len() > 400 {
            let old = self.rng.below(200) as usize;
            self.offsets.remove(old);
        }
        self.offsets.push((path, text.to_owned(), number));
    }

    /// Whether a stream is to end if it is not used.
    pub fn is_left_alone(&self, path: Path, world: &World) -> bool {
        self.left_alone.get(&path).is_some_and(|until| world.slow() < *until)
    }

    pub fn next(&mut self, state: &State, world: &World) -> (Path, Request) {
        let mut path = self.path(state);
        for again in [true, false, false] {
            let is_gone = again && state.stream(path).is_some_and(|stream| stream.is_gone);
            if is_gone || self.is_left_alone(path, world) {
                path = self.path(state);
            }
        }
        (path, self.next_to(path, state, world))
    }

    /// The path that is asked for next.
    fn path(&mut self, state: &State) -> Path {
        let forks: Vec<_> = state.paths().filter(|path| matches!(path, Path::Fork(_))).collect();
        let there: Vec<_> = forks.iter().copied().filter(|path| state.stream(*path).is_some()).collect();
        match self.rng.below(100) {
            0..6 if there.len() < FORKS_MAX => {
                // One that was asked for in vain is asked for again.
                let is_new = self.forks == 0 || self.rng.chance(80);
                self.forks += u32::from(is_new);
                Path::Fork(self.forks - 1)
            }
            6..37 if !there.is_empty() => *self.rng.pick(&there),
            37..39 if !forks.is_empty() => *self.rng.pick(&forks),
            _ => self.rng.pick(&COLLECTIONS).to_owned(),
        }
    }

    fn next_to(&mut self, path: Path, state: &State, world: &World) -> Request {
        if self.is_left_alone(path, world) {
            return Request::Head;
        }
        self.left_alone.remove(&path);
        let Some(stream) = state.stream(path).cloned() else {
            return if self.rng.chance(70) {
                self.creation(path, state, world)
            } else {
                self.anything(path, &Stream::default(), state, world)
            };
        };
        if let Some(end) = state.near_end(path, world.slow())
            && self.rng.chance(3)
        {
            self.leave_alone(path, end.latest(), world);
            return Request::Head;
        }
        let is_kept = |path| state.stream(path).is_some_and(|stream| stream.is_gone);
        let deleted = match &stream.fork {
            _ if stream.forks > 0 => 3,
            // So that its source goes as well.
            Some(fork) if is_kept(fork.source) => 12,
            Some(_) => 2,
            None => 0,
        };
        if stream.bytes() > STREAM_BYTES_MAX
            || (stream.closed && self.rng.chance(8))
            || self.rng.chance(if stream.is_gone { 15 } else { deleted })
        {
            return Request::Delete;
        }
        self.anything(path, &stream, state, world)
    }

    /// Leaves a stream alone until a moment about that of its end.
    fn leave_alone(&mut self, path: Path, latest: Us, world: &World) {
        let more = self.rng.below(600_000) as Us - 200_000;
        self.left_alone.insert(path, latest.max(world.slow()) + more);
    }

    fn anything(&mut self, path: Path, stream: &Stream, state: &State, world: &World) -> Request {
        match self.rng.below(100) {
            0..70 => Request::Append(self.append(path, stream)),
            70..74 => self.creation(path, state, world),
            74 if self.rng.chance(25) => Request::Delete,
            74..80 => Request::Head,
            80..82 => Request::Read { from: From::Start, live: false },
            82..84 => Request::Read { from: From::Now, live: self.rng.chance(20) },
            84 => self.read_elsewhere(path, stream),
            _ => self.read(path),
        }
    }

    /// A read from an offset that was given for the stream, if there is one.
    pub fn read(&mut self, path: Path) -> Request {
        let of_stream: Vec<_> = self.offsets.iter().filter(|(of, ..)| *of == path).collect();
        // Most of them of the stream as it is now.
        let first = if self.rng.chance(70) { of_stream.len().saturating_sub(12) } else { 0 };
        let of_stream = &of_stream[first..];
        if of_stream.is_empty() {
            return Request::Read { from: From::Start, live: false };
        }
        let (_, text, number) = self.rng.pick(of_stream);
        Request::Read { from: From::Offset(text.clone(), *number), live: self.rng.chance(20) }
    }

    /// A read of a fork from an offset that was given for its source.
    fn read_elsewhere(&mut self, path: Path, stream: &Stream) -> Request {
        let Some(fork) = &stream.fork else { return self.read(path) };
        let of = |path| self.offsets.iter().filter(move |(of, ..)| *of == path);
        let own: BTreeMap<u64, &str> = of(path).map(|(_, text, number)| (*number, &**text)).collect();
        let known = of(fork.source).filter_map(|(_, text, number)| match own.get(number) {
            _ if *number <= fork.shared => Some(From::Offset(text.clone(), *number)),
            // In one run of the server both may have the same.
            Some(own) if own != text => Some(From::Elsewhere(text.clone())),
            _ => None,
        });
        let known: Vec<_> = known.collect();
        match known.is_empty() {
            true => self.read(path),
            false => Request::Read { from: self.rng.pick(&known).clone(), live: false },
        }
    }

    fn creation(&mut self, path: Path, state: &State, world: &World) -> Request {
        let before = self.creations.get(&path).cloned();
        let creation = match (before, path) {
            (Some(before), _) if self.rng.chance(if state.stream(path).is_some() { 60 } else { 10 }) => before,
            (_, Path::Fork(_)) if self.rng.chance(85) => self.fork(path, state, world),
            _ if self.rng.chance(5) => self.fork(path, state, world),
            _ => self.plain(world),
        };
        self.creations.insert(path, creation.clone());
        Request::Create(creation)
    }

    fn plain(&mut self, world: &World) -> Creation {
        let content_type = self.rng.pick(&CONTENT_TYPES);
        let content = match self.rng.below(10) {
            0..5 => Content { content_type, ..Content::default() },
            _ => self.content(content_type),
        };
        let untyped = content.bytes.is_empty() && self.rng.chance(5);
        Creation { content, untyped, close: self.rng.chance(8), lifetime: self.lifetime(world), fork: None }
    }

    fn fork(&mut self, path: Path, state: &State, world: &World) -> Creation {
        let sources: Vec<_> = state.paths().filter(|source| *source != path).collect();
        let there = sources.iter().copied().filter(|path| state.stream(*path).is_some());
        let there: Vec<_> = there.collect();
        let alone: Vec<_> = there.iter().copied().filter(|path| self.is_left_alone(*path, world)).collect();
        let source = match (sources.is_empty(), there.is_empty()) {
            (true, _) => COLLECTIONS[0],
            _ if !alone.is_empty() && self.rng.chance(30) => *self.rng.pick(&alone),
            (_, false) if self.rng.chance(82) => *self.rng.pick(&there),
            _ => *self.rng.pick(&sources),
        };
        let nothing = Arc::default();
        let stream = state.stream(source).unwrap_or(&nothing);
        if stream.bytes() > SOURCE_BYTES_MAX {
            return self.plain(world);
        }
        let given = self.offsets.iter().filter(|(of, ..)| *of == source).map(|(_, text, number)| (text, *number));
        let given: Vec<_> = given.collect();
        // Most of them of the stream as it is now.
        let first = if self.rng.chance(80) { given.len().saturating_sub(30) } else { 0 };
        let offset = match given[first..].is_empty() || self.rng.chance(35) {
            true => None,
            false => Some(*self.rng.pick(&given[first..])).map(|(text, number)| (text.clone(), number)),
        };
        let sub_offset = match &offset {
            Some((_, number)) if self.rng.chance(70) => self.sub_offset(stream, *number),
            None if self.rng.chance(8) => 1,
            _ => 0,
        };
        let content_type = match self.rng.chance(90) {
            true if !stream.content_type.is_empty() => stream.content_type,
            _ => self.rng.pick(&CONTENT_TYPES),
        };
        // A fork is a use of its source, which shows in one that is not used otherwise.
        if let Some(end) = state.near_end(source, world.slow())
            && self.rng.chance(70)
        {
            self.leave_alone(source, end.latest_if_used(world.slow()), world);
        }
        let has_content = self.rng.chance(40);
        let content =
            if has_content { self.content(content_type) } else { Content { content_type, ..Content::default() } };
        Creation {
            untyped: !has_content && self.rng.chance(50),
            content,
            close: self.rng.chance(4),
            lifetime: if self.rng.chance(50) { None } else { self.lifetime(world) },
            fork: Some(Fork { source, offset, sub_offset }),
        }
    }

    /// How far behind an offset a fork begins.
    fn sub_offset(&mut self, stream: &Stream, number: u64) -> u64 {
        let at = number.checked_sub(stream.first).map(|at| at as usize);
        let len = at.and_then(|at| stream.records.get(at)).map_or(1, |record| record.len() as u64);
        match self.rng.below(10) {
            _ if is_json(stream.content_type) => self.rng.between(1, 5),
            0 => len,
            1 => len + 1,
            _ => self.rng.between(1, len.max(2)),
        }
    }

    fn lifetime(&mut self, world: &World) -> Option<Lifetime> {
        let far = |text: &str| Lifetime::Until {
            text: text.to_owned(),
            at: world.moment(text.parse().expect("it is a moment")),
        };
        Some(match self.rng.below(100) {
            0..16 => Lifetime::Ttl(1),
            16..19 => Lifetime::Ttl(2),
            19..23 => Lifetime::Ttl(self.rng.between(1000, 1002)),
            23..31 => {
                let at = world.now() + self.rng.between(200_000, 2_000_000) as Us;
                Lifetime::Until { text: world.wall(at).to_string(), at }
            }
            31..35 => far(FAR[self.rng.below(2) as usize]),
            35..37 => Lifetime::Ttl(0),
            37..39 => far("2000-01-01T00:00:00Z"),
            _ => return None,
        })
    }

    fn append(&mut self, path: Path, stream: &Stream) -> Append {
        if let Some(again) = self.repetition(path) {
            return again;
        }
        let content_type = match self.rng.chance(95) {
            true if !stream.content_type.is_empty() => stream.content_type,
            _ => self.rng.pick(&CONTENT_TYPES),
        };
        let close = self.rng.below(200) < 3;
        let has_content = self.rng.chance(if close { 50 } else { 98 });
        let content =
            if has_content { self.content(content_type) } else { Content { content_type, ..Content::default() } };
        let producer = self.rng.chance(60).then(|| self.numbers(stream));
        let append =
            Append { content, close, producer, stream_seq: self.stream_seq(stream), end: self.end(path, stream) };
        if append.producer.is_some() {
            if self.sent.len() == SENT_MAX {
                self.sent.remove(0);
            }
            self.sent.push((path, append.clone()));
        }
        append
    }

    /// A numbered append as it was sent before, with all it asked for.
    fn repetition(&mut self, path: Path) -> Option<Append> {
        if !self.rng.chance(12) {
            return None;
        }
        let to_stream: Vec<_> = self.sent.iter().filter(|(to, _)| *to == path).collect();
        (!to_stream.is_empty()).then(|| self.rng.pick(&to_stream).1.clone())
    }

    fn numbers(&mut self, stream: &Stream) -> Numbers {
        let id = self.rng.pick(&PRODUCERS);
        let Some(known) = stream.producers.get(id) else {
            return Numbers { id, epoch: self.rng.below(3), number: if self.rng.chance(85) { 0 } else { 3 } };
        };
        let (epoch, last) = (known.epoch, known.last());
        let (epoch, number) = match self.rng.below(100) {
            0..70 => (epoch, last + 1),
            // With other content than before, or so long ago that nobody knows.
            70..80 => (epoch, last.saturating_sub(self.rng.below(80))),
            80..87 => (epoch, last + self.rng.between(2, 6)),
            87..92 => (epoch.saturating_sub(1), last + 1),
            92..97 => (epoch + self.rng.between(1, 3), 0),
            _ => (epoch + 1, 1),
        };
        Numbers { id, epoch, number }
    }

    fn stream_seq(&mut self, stream: &Stream) -> Option<String> {
        if !self.rng.chance(20) {
            return None;
        }
        self.seqs += 1;
        // Greater than those before as text is compared, and not as numbers are.
        let fresh = format!("{}{:06}", if self.rng.chance(50) { "9" } else { "" }, self.seqs);
        Some(match self.rng.below(10) {
            0 if !stream.stream_seq.is_empty() => stream.stream_seq.clone(),
            _ => fresh,
        })
    }

    fn end(&mut self, path: Path, stream: &Stream) -> Option<(String, u64)> {
        if !self.rng.chance(15) {
            return None;
        }
        let at_end = self.rng.chance(70);
        let fits = |(of, _, number): &&(Path, String, u64)| *of == path && (!at_end || *number == stream.end());
        let known: Vec<_> = self.offsets.iter().filter(fits).collect();
        (!known.is_empty()).then(|| self.rng.pick(&known)).map(|(_, text, number)| (text.clone(), *number))
    }

    fn content(&mut self, content_type: &'static str) -> Content {
        if !is_json(content_type) {
            let bytes = self.body();
            return Content { content_type, parts: Some(vec![bytes.as_slice().into()]), bytes };
        }
        let messages = match self.rng.below(20) {
            0 => 0,
            1..13 => 1,
            13..19 => self.rng.between(2, 5),
            // Nothing that JSON is.
            _ => return Content { content_type, bytes: b"[{\"a\":1},".to_vec(), parts: None },
        };
        let parts: Vec<Part> = (0..messages).map(|_| self.message()).collect();
        let bytes = match parts.as_slice() {
            [only] if self.rng.chance(50) => [b" ", &only[..], b"\n"].concat(),
            _ => [b"[ ".as_slice(), &parts.join(&b" ,\n"[..]), b" ]"].concat(),
        };
        Content { content_type, bytes, parts: Some(parts) }
    }

    /// A JSON object whose own white space has to be kept.
    fn message(&mut self) -> Part {
        let text: String = self.body().iter().map(|b| char::from(b'a' + b % 26)).collect();
        let bodies = self.bodies;
        Arc::from(format!("{{\"n\" :{bodies}, \"client\":{}, \"text\": \"{text}\"}}", self.client).into_bytes())
    }

    fn body(&mut self) -> Vec<u8> {
        self.bodies += 1;
        let len = match self.rng.below(100) {
            0..80 => self.rng.below(100),
            80..98 => self.rng.below(4000),
            _ => self.rng.between(20_000, 150_000),
        };
        let mut body = format!("{}.{} ", self.client, self.bodies).into_bytes();
        // UTF-8 whatever the content type is.
        body.extend((0..len).map(|_| b' ' + (self.rng.draw() % 90) as u8));
        body
    }
}
