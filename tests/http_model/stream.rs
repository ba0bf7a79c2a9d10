//! One stream as the protocol sees it: its records, its producers, what it is a fork of.
//!
//! It is written from the protocol and from docs/PROTOCOL-EXTENSIONS.md and shares no code with the server; of time it knows
//! nothing. Invariant: a stream never changes; what is accepted makes a new one.

use crate::ends::Lifetime;
use crate::model::{Answer, Append, Creation, Fork, From, Numbers, Part, Path};
use std::collections::{BTreeMap, VecDeque};

/// How many of a producer's numbers keep their content.
const WINDOW: usize = 64;
/// The content type of a stream that was created without one.
const DEFAULT_TYPE: &str = "application/octet-stream";

#[derive(Clone, Debug, PartialEq, Eq)]
struct Issued {
    number: u64,
    parts: Vec<Part>,
    close: bool,
    next: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Producer {
    pub epoch: u64,
    issued: VecDeque<Issued>,
}

impl Producer {
    /// Its last number.
    pub fn last(&self) -> u64 {
        self.issued.back().map_or(0, |issued| issued.number)
    }
}

/// A stream that is there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stream {
    pub content_type: &'static str,
    /// The number of its first record.
    pub first: u64,
    pub records: Vec<Part>,
    pub closed: bool,
    /// Whose request closed it.
    closed_by: Option<(&'static str, u64)>,
    pub stream_seq: String,
    pub producers: BTreeMap<&'static str, Producer>,
    pub lifetime: Option<Lifetime>,
    pub fork: Option<ForkOf>,
    /// How many forks of it there are that were not deleted.
    pub forks: u32,
    /// Whether it was deleted and is kept for its forks.
    pub is_gone: bool,
}

/// Of what a stream is a fork.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForkOf {
    pub source: Path,
    /// As the how manieth of its name the source was created.
    pub creation: u64,
    /// The number of the offset that it parted at.
    number: u64,
    /// Whether that was the source's end, since no offset was asked for.
    at_end: bool,
    sub_offset: u64,
    /// How many of the source's offsets are its own.
    pub shared: u64,
    /// Whether its lifetime is the source's, since none was asked for.
    inherits: bool,
}

impl ForkOf {
    /// Whether it is the fork that is asked for.
    fn is_as(&self, asked: &Fork) -> bool {
        let same_place = asked.offset.as_ref().map_or(self.at_end, |(_, number)| *number == self.number);
        same_place && self.source == asked.source && self.sub_offset == asked.sub_offset
    }
}

/// The media type alone counts, in any case.
fn essence(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

pub fn is_json(content_type: &str) -> bool {
    essence(content_type) == "application/json"
}

impl Stream {
    /// The stream that is asked for, where that is no fork.
    pub fn new(asked: &Creation) -> Result<Self, Box<Answer>> {
        Ok(Self {
            content_type: if asked.untyped { DEFAULT_TYPE } else { asked.content.content_type },
            records: asked.records()?,
            closed: asked.close,
            lifetime: asked.lifetime.clone(),
            ..Self::default()
        })
    }

    /// The same, with another number of forks.
    pub fn with_forks(&self, forks: u32) -> Self {
        Self { forks, ..self.clone() }
    }

    /// The same, deleted and kept for its forks.
    pub fn gone(&self) -> Self {
        Self { is_gone: true, ..self.clone() }
    }

    pub fn end(&self) -> u64 {
        self.first + self.records.len() as u64
    }

    pub fn bytes(&self) -> usize {
        self.records.iter().map(|part| part.len()).sum()
    }

    /// The page from a number on. No stream of a client grows so large that it would not fit one.
    fn page(&self, from: u64) -> Answer {
        let records = &self.records[(from - self.first) as usize..];
        let body = if is_json(self.content_type) {
            [b"[".as_slice(), &records.join(&b","[..]), b"]"].concat()
        } else {
            records.concat()
        };
        let answer = Answer { up_to_date: true, body: Some(body), ..self.described(200) };
        answer.next(self.end()).closed(self.closed)
    }

    pub fn described(&self, status: u16) -> Answer {
        Answer { content_type: self.content_type.to_owned(), ..Answer::of(status) }
    }

    fn refuses_since_closed(&self) -> Answer {
        Answer::of(409).closed(true).next(self.end())
    }

    /// What is found wrong with a producer's numbers, or that they were accepted before.
    fn judge(&self, append: &Append, parts: &[Part], numbers: &Numbers) -> Option<Answer> {
        let Numbers { id, epoch, number } = *numbers;
        let gap = |expected| {
            let (expected, received) = (Some(expected), Some(number));
            Answer { producer_expected: expected, producer_received: received, ..Answer::of(409) }
        };
        let Some(known) = self.producers.get(id) else {
            return (number != 0).then(|| gap(0));
        };
        let last = known.last();
        match epoch.cmp(&known.epoch) {
            std::cmp::Ordering::Less => Some(Answer { producer_epoch: Some(known.epoch), ..Answer::of(403) }),
            std::cmp::Ordering::Greater if number == 0 => None,
            std::cmp::Ordering::Greater => Some(Answer::of(400)),
            std::cmp::Ordering::Equal if number == last + 1 => None,
            std::cmp::Ordering::Equal if number > last => Some(gap(last + 1)),
            std::cmp::Ordering::Equal => {
                let issued = known.issued.iter().find(|issued| issued.number == number);
                let same = issued.is_none_or(|issued| issued.parts == parts && issued.close == append.close);
                let next = issued.map_or(self.end(), |issued| issued.next);
                let repeated = Answer::of(204).stored().next(next).closed(self.closed).numbered(epoch, last);
                let closed_it = append.close && number == last && self.closed_by == Some((id, number));
                Some(match (same, closed_it) {
                    (true, _) => repeated,
                    // It is the request that closed the stream, whatever else it brings.
                    (false, true) => Answer { durability: String::new(), ..repeated }.next(self.end()),
                    (false, false) => Answer { error: "producer-conflict".to_owned(), ..gap(last + 1) },
                })
            }
        }
    }

    /// What an append is answered, and what becomes of the stream if it is accepted.
    pub fn append(&self, append: &Append) -> (Answer, Option<Stream>) {
        let content = &append.content;
        let refused = |answer| (answer, None);
        let mut parts = Vec::new();
        if !content.bytes.is_empty() {
            if essence(content.content_type) != essence(self.content_type) {
                return refused(if self.closed { self.refuses_since_closed() } else { Answer::of(409) });
            }
            let Some(sent) = &content.parts else { return refused(Answer::of(400)) };
            parts.clone_from(sent);
        }
        if parts.is_empty() && !append.close {
            return refused(Answer::of(400));
        }
        if parts.is_empty() && append.producer.is_none() && self.closed {
            return refused(Answer::of(204).closed(true).next(self.end()));
        }
        if let Some(answer) = append.producer.as_ref().and_then(|numbers| self.judge(append, &parts, numbers)) {
            return refused(answer);
        }
        let elsewhere = append.end.as_ref().is_some_and(|(_, end)| *end != self.end());
        let not_greater = append.stream_seq.as_ref().is_some_and(|seq| *seq <= self.stream_seq);
        if self.closed && (elsewhere || not_greater || !parts.is_empty()) {
            return refused(self.refuses_since_closed());
        }
        if elsewhere {
            return refused(Answer::of(412).next(self.end()));
        }
        if not_greater {
            return refused(Answer::of(409));
        }
        let after = self.with(append, &parts);
        let status = if !parts.is_empty() && append.producer.is_some() { 200 } else { 204 };
        let answer = Answer::of(status).stored().next(after.end()).closed(append.close);
        let answer = match &append.producer {
            Some(numbers) => answer.numbered(numbers.epoch, numbers.number),
            None => answer,
        };
        (answer, Some(after))
    }

    /// The stream with what was accepted.
    fn with(&self, append: &Append, parts: &[Part]) -> Stream {
        let mut after = self.clone();
        after.records.extend_from_slice(parts);
        if let Some(seq) = &append.stream_seq {
            after.stream_seq.clone_from(seq);
        }
        if append.close {
            after.closed = true;
            after.closed_by = append.producer.as_ref().map(|numbers| (numbers.id, numbers.number));
        }
        if let Some(Numbers { id, epoch, number }) = append.producer {
            let next = after.end();
            let known = after.producers.entry(id).or_default();
            if known.epoch != epoch {
                *known = Producer { epoch, ..Producer::default() };
            }
            if known.issued.len() == WINDOW {
                known.issued.pop_front();
            }
            known.issued.push_back(Issued { number, parts: parts.to_vec(), close: append.close, next });
        }
        after
    }

    /// The answer to a creation of what is there.
    pub fn found(&self, asked: &Creation) -> Answer {
        if self.is_gone {
            return Answer::failed(409, "deleted");
        }
        let same_fork = match (&self.fork, &asked.fork) {
            (Some(fork), Some(asked)) => fork.is_as(asked),
            (fork, asked) => fork.is_none() && asked.is_none(),
        };
        let content_type = match (asked.untyped, &self.fork) {
            (false, _) => asked.content.content_type,
            (true, Some(_)) => self.content_type,
            (true, None) => DEFAULT_TYPE,
        };
        let same_lifetime = match (&self.lifetime, &asked.lifetime) {
            (Some(lifetime), Some(asked)) => lifetime.is_as(asked),
            (Some(_), None) => self.fork.as_ref().is_some_and(|fork| fork.inherits),
            (None, asked) => asked.is_none(),
        };
        if !same_fork || essence(self.content_type) != essence(content_type) || !same_lifetime {
            return Answer::of(409);
        }
        match (self.closed, asked.close) {
            (true, false) => self.refuses_since_closed(),
            (false, true) => Answer::of(409),
            _ => self.described(200).next(self.end()).closed(asked.close),
        }
    }

    pub fn head(&self) -> Answer {
        let (ttl, expires_at) = match &self.lifetime {
            Some(Lifetime::Ttl(seconds)) => (seconds.to_string(), String::new()),
            Some(Lifetime::Until { text, .. }) => (String::new(), text.clone()),
            None => Default::default(),
        };
        Answer { ttl, expires_at, ..self.described(200) }.next(self.end()).closed(self.closed)
    }

    pub fn read(&self, from: &From, live: bool) -> Answer {
        let number = match *from {
            From::Start => self.first,
            From::Now => self.end(),
            From::Offset(_, number) => number,
            From::Elsewhere(_) => return Answer::failed(410, "timeline"),
        };
        if number < self.first {
            return Answer::failed(410, "trimmed");
        }
        if number > self.end() {
            return Answer::failed(410, "timeline");
        }
        let page = self.page(number);
        if self.is_in_vain(from, live) { Answer { status: 204, body: None, ..page } } else { page }
    }

    /// Whether a reader waits in vain: nobody else appends to the stream. If that is closed it does not even wait.
    pub fn is_in_vain(&self, from: &From, live: bool) -> bool {
        live && match from {
            From::Start => self.records.is_empty(),
            From::Now => true,
            From::Offset(_, number) => *number == self.end(),
            From::Elsewhere(_) => false,
        }
    }

    /// The fork of the stream that is asked for, where it is the `creation`th of its name; else why there can be none.
    pub fn fork(&self, creation: u64, asked: &Creation, fork: &Fork) -> Result<Stream, Box<Answer>> {
        if self.is_gone || (!asked.untyped && essence(asked.content.content_type) != essence(self.content_type)) {
            return Err(Box::new(Answer::of(409)));
        }
        let number = fork.offset.as_ref().map_or(self.end(), |(_, number)| *number);
        if number > self.end() {
            return Err(Box::new(Answer::of(400)));
        }
        if number < self.first {
            return Err(Box::new(Answer::failed(410, "trimmed")));
        }
        let (shared, part) = self.place(fork, number).ok_or_else(|| Box::new(Answer::of(400)))?;
        let mut records = self.records[..(shared - self.first) as usize].to_vec();
        records.extend(part);
        records.extend(asked.records()?);
        let fork = ForkOf {
            source: fork.source,
            creation,
            number,
            at_end: fork.offset.is_none(),
            sub_offset: fork.sub_offset,
            shared,
            inherits: asked.lifetime.is_none(),
        };
        Ok(Stream {
            content_type: if asked.untyped { self.content_type } else { asked.content.content_type },
            first: self.first,
            records,
            closed: asked.close,
            lifetime: asked.lifetime.clone().or_else(|| self.lifetime.clone()),
            fork: Some(fork),
            ..Stream::default()
        })
    }

    /// Up to where a fork at an offset has the stream's records, and the part that it has of the one there.
    fn place(&self, fork: &Fork, number: u64) -> Option<(u64, Option<Part>)> {
        let sub_offset = fork.sub_offset;
        if sub_offset == 0 {
            return Some((number, None));
        }
        if is_json(self.content_type) {
            return Some(number.checked_add(sub_offset)?).filter(|at| *at <= self.end()).map(|at| (at, None));
        }
        let record = self.records.get((number - self.first) as usize)?;
        match sub_offset.cmp(&(record.len() as u64)) {
            std::cmp::Ordering::Less => Some((number, Some(record[..sub_offset as usize].into()))),
            std::cmp::Ordering::Equal => Some((number + 1, None)),
            std::cmp::Ordering::Greater => None,
        }
    }
}

impl Creation {
    /// The first records, unless they are malformed.
    fn records(&self) -> Result<Vec<Part>, Box<Answer>> {
        match &self.content.parts {
            _ if self.content.bytes.is_empty() => Ok(Vec::new()),
            Some(parts) => Ok(parts.clone()),
            None => Err(Box::new(Answer::of(400))),
        }
    }
}
