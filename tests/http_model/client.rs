//! A client with streams of its own, which nobody else writes to: every answer is compared with the model's.
//!
//! Where it was not told what became of a request, both states are possible from then on, and each answer rules out
//! those in which it would have been another. Invariant: at least one state is possible, or the server broke a promise.

use crate::LONG_POLL_MS;
use crate::draw::{COLLECTIONS, Source};
use crate::ends::{Us, Window};
use crate::model::{Answer, Append, From, Path, Request};
use crate::state::State;
use crate::wire::{in_http, in_short, kinds, number, shown, understood};
use crate::world::{Told, Way};
use everlog_tests::net::{self, Appends};
use everlog_tests::sim::Rng;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Write;

/// How long a long poll waits.
const WAIT: Us = LONG_POLL_MS as Us * 1000;
/// Requests that are shown where something is wrong.
const TRACE: usize = 40;

/// With more states than these, all streams are read.
const POSSIBLE_MAX: usize = 16;

/// What the requests came to.
#[derive(Debug, Default)]
pub struct Tally {
    pub answers: BTreeMap<String, u64>,
    pub unanswered: u64,
    /// Numbered appends without an answer that were sent again: how many had been stored, how many not.
    pub repeated: u64,
    pub stored_now: u64,
    /// Requests to streams that would have ended if nobody had used them.
    pub renewed: u64,
    /// Deletions of the last stream that others were kept for.
    pub released: u64,
    pub possible_max: usize,
}

pub struct Client<'a> {
    way: Way<'a>,
    number: usize,
    source: Source,
    possible: Vec<State>,
    /// The one text of each offset that was given, by path and number.
    offsets: BTreeMap<(Path, u64), String>,
    /// Where a stream has ended by itself, and none was created since.
    ended: BTreeSet<Path>,
    store: Option<String>,
    starts: u64,
    trace: VecDeque<String>,
    pub tally: Tally,
}

impl<'a> Client<'a> {
    pub fn new(way: Way<'a>, number: usize, mut rng: Rng) -> Self {
        let source = Source::new(rng.split(), number);
        Self {
            starts: way.world().starts(),
            way,
            number,
            source,
            possible: vec![State::default()],
            offsets: BTreeMap::new(),
            ended: BTreeSet::new(),
            store: None,
            trace: VecDeque::new(),
            tally: Tally::default(),
        }
    }

    /// One more request, after a look at everything where the server was started meanwhile.
    pub fn step(&mut self) {
        let starts = self.way.world().starts();
        if starts != self.starts {
            self.starts = starts;
            self.check(false);
        }
        if self.possible.len() > POSSIBLE_MAX {
            self.check(true);
        }
        let world = self.way.world();
        let (path, request) = self.source.next(&self.possible[0], world);
        // Some requests are lost on their way, and some answers.
        let lost = match self.source.rng.below(100) {
            0..4 => Appends::Unanswered,
            4..6 => Appends::Refused,
            _ => Appends::Pass,
        };
        let unanswered = self.ask(path, &request, lost).is_none();
        // What is numbered can be asked for again; what is not, the next reads will tell.
        if let (true, Request::Append(append)) = (unanswered, &request)
            && append.producer.is_some()
            && self.source.rng.chance(70)
        {
            self.repeat(path, append);
        }
    }

    /// Sends what was not answered until it is.
    fn repeat(&mut self, path: Path, append: &Append) {
        let request = Request::Append(append.clone());
        loop {
            if let Some(answer) = self.ask(path, &request, Appends::Pass) {
                self.tally.repeated += u64::from(answer.status == 204);
                self.tally.stored_now += u64::from(answer.status == 200);
                return;
            }
        }
    }

    /// Reads every stream whole, and from some of the offsets that were given for it; those that are to be left alone only
    /// if it is wanted, since that puts their ends off.
    pub fn check(&mut self, all: bool) {
        for path in self.paths() {
            self.ask(path, &Request::Head, Appends::Pass);
            if !all && self.source.is_left_alone(path, self.way.world()) {
                continue;
            }
            self.ask(path, &Request::Read { from: From::Start, live: false }, Appends::Pass);
            for _ in 0..2 {
                let read = self.source.read(path);
                self.ask(path, &read, Appends::Pass);
            }
        }
    }

    /// The paths where there may be a stream, those that are used again and again, and one that no longer is.
    fn paths(&mut self) -> Vec<Path> {
        let mut paths = BTreeSet::from(COLLECTIONS);
        let used: BTreeSet<Path> = self.possible.iter().flat_map(State::paths).collect();
        let used = Vec::from_iter(used);
        let is_there = |path: &&Path| self.possible.iter().any(|state| state.stream(**path).is_some());
        paths.extend(used.iter().filter(is_there));
        if !used.is_empty() {
            paths.insert(*self.source.rng.pick(&used));
        }
        Vec::from_iter(paths)
    }

    /// The answer, if there was one; by then it was found right.
    fn ask(&mut self, path: Path, request: &Request, lost: Appends) -> Option<Answer> {
        let folder = format!("/v1/stream/model/client{}", self.number);
        let (method, query, headers, body) = in_http(request, &folder);
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        self.note(format!("{method} {path}{query} {headers:?} {}", shown(body)));
        let (told, window) = self.way.ask_within(method, &format!("{folder}/{path}{query}"), &headers, body, lost);
        self.note(match &told {
            Told::Answer(answer) => format!("    {} {} {window:?}", answer.status, shown(&answer.body)),
            other => format!("    {other:?} {window:?}"),
        });
        let answer = match told {
            Told::Answer(answer) => {
                let understood = understood(request, &answer);
                self.look(&answer);
                self.compare(path, request, &understood, &window);
                self.look_at_offset(path, answer.header("stream-next-offset"));
                Some(understood)
            }
            Told::NotStored => {
                self.possible.iter_mut().for_each(|state| state.may_have_used(path, request, &window));
                None
            }
            Told::Nothing => {
                self.tally.unanswered += 1;
                let outcomes = self.possible.iter().flat_map(|state| state.ask(path, request, &window, WAIT));
                let after: Vec<_> = outcomes.map(|outcome| outcome.after).collect();
                after.into_iter().for_each(|state| self.may_be(state));
                None
            }
        };
        self.bury(&window);
        answer
    }

    /// What is true from now on may be this, too.
    fn may_be(&mut self, state: State) {
        match self.possible.iter_mut().find(|known| known.is_like(&state)) {
            Some(known) => known.or(&state),
            None => self.possible.push(state),
        }
        self.tally.possible_max = self.tally.possible_max.max(self.possible.len());
    }

    /// Forgets what has ended by itself for good; states that differed in that alone are one then.
    fn bury(&mut self, window: &Window) {
        for mut state in std::mem::take(&mut self.possible) {
            self.ended.extend(state.bury(window));
            self.may_be(state);
        }
    }

    /// Finds that the store is the one that answered before.
    fn look(&mut self, answer: &net::Answer) {
        let store = answer.header("everlog-store");
        let known = self.store.get_or_insert_with(|| store.to_owned()).clone();
        assert_eq!(store, known, "another store answers\n{}", self.told());
    }

    /// Finds that an offset of a path's stream is the one that was given before for this place, also for what it was
    /// forked from.
    fn look_at_offset(&mut self, path: Path, offset: &str) {
        if offset.is_empty() {
            return;
        }
        let number = number(offset);
        let origin = self.possible[0].origin(path, number);
        let is_sure = self.possible.iter().all(|state| state.origin(path, number) == origin);
        for path in [path].into_iter().chain((is_sure && origin != path).then_some(origin)) {
            let known = self.offsets.entry((path, number)).or_insert_with(|| offset.to_owned()).clone();
            assert_eq!(known, offset, "the same place in {path} has two offsets\n{}", self.told());
        }
        self.source.give(path, offset, number);
    }

    /// Keeps the states in which this would have been the answer.
    fn compare(&mut self, path: Path, request: &Request, answer: &Answer, window: &Window) {
        let (mut wanted, mut ended, mut renewed, mut released) = (Vec::new(), true, true, true);
        for state in std::mem::take(&mut self.possible) {
            for outcome in state.ask(path, request, window, WAIT) {
                if outcome.answer == *answer {
                    ended &= outcome.ended;
                    renewed &= outcome.renewed;
                    released &= outcome.released;
                    self.may_be(outcome.after);
                } else {
                    wanted.push(outcome.answer);
                }
            }
        }
        if self.possible.is_empty() {
            let wanted: String = wanted.iter().map(|answer| format!("\n    {}", in_short(answer))).collect();
            panic!(
                "client {}, {path}: the answer\n    {}\nshould be one of{wanted}\n{}",
                self.number,
                in_short(answer),
                self.told()
            );
        }
        let ended = ended || self.ended.contains(&path);
        if answer.status == 201 {
            self.ended.remove(&path);
        }
        self.tally.renewed += u64::from(renewed && answer.status < 300);
        self.tally.released += u64::from(released);
        let ended = if ended { " ended" } else { "" };
        for kind in kinds(request) {
            let kind = format!("{kind} {} {}", answer.status, answer.error);
            *self.tally.answers.entry(kind.trim_end().to_owned() + ended).or_default() += 1;
        }
    }

    fn note(&mut self, line: String) {
        if self.trace.len() == TRACE {
            self.trace.pop_front();
        }
        self.trace.push_back(line);
    }

    /// The last requests, for whoever looks for the cause.
    fn told(&self) -> String {
        self.trace.iter().fold("the last requests:".to_owned(), |mut text, line| {
            // To a text this cannot fail.
            let _ = write!(text, "\n  {line}");
            text
        })
    }
}
