//! The streams of a client: what each request is answered, and what the streams then are.
//!
//! Like `stream.rs` it is written from the protocol and from docs/PROTOCOL-EXTENSIONS.md; it knows no process that could be
//! killed and no connection that could break. Where a stream may have ended by itself when the server saw a request, both
//! is looked at. Invariant: a state never changes; a request makes new ones, so that the client can keep several where it
//! was not told which of them is true.

use crate::ends::{End, Ended, Us, Window};
use crate::model::{Answer, Creation, Fork, Path, Request};
use crate::stream::{ForkOf, Stream};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What lies under a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Name {
    stream: Option<Arc<Stream>>,
    /// The number of the first record of the stream that will be created next.
    free: u64,
    /// How many streams were created under it.
    creations: u64,
}

/// All streams of a client.
#[derive(Clone, Debug, Default)]
pub struct State {
    names: BTreeMap<Path, Name>,
    /// Of the streams that end by themselves, when they do.
    ends: BTreeMap<Path, End>,
}

/// One way that a request can have gone.
#[derive(Debug)]
pub struct Outcome {
    pub answer: Answer,
    pub after: State,
    /// Whether the stream that was asked for had ended by itself.
    pub ended: bool,
    /// Whether it was there since it had been used.
    pub renewed: bool,
    /// Whether streams went with it that had been kept for it.
    pub released: bool,
}

/// A state as the server saw it at a request, which knows of each stream whether it had ended by then.
#[derive(Clone, Debug)]
struct Seen<'a> {
    window: &'a Window,
    /// How long a long poll waits that does so in vain.
    wait: Us,
    state: State,
    ended: Vec<Path>,
}

impl State {
    /// The stream under a path, which may have ended by itself.
    pub fn stream(&self, path: Path) -> Option<&Arc<Stream>> {
        self.names.get(&path)?.stream.as_ref()
    }

    /// The paths that ever had a stream.
    pub fn paths(&self) -> impl Iterator<Item = Path> + '_ {
        self.names.keys().copied()
    }

    fn count(&self) -> usize {
        self.names.values().filter(|name| name.stream.is_some()).count()
    }

    /// When the stream under a path ends, where that is soon.
    pub fn near_end(&self, path: Path, slow: Us) -> Option<&End> {
        self.ends.get(&path).filter(|end| end.is_near(slow))
    }

    /// The path that the offset with this number was given for first, of one of a path's stream.
    pub fn origin(&self, path: Path, number: u64) -> Path {
        let fork = self.stream(path).and_then(|stream| stream.fork.as_ref());
        match fork.filter(|fork| number <= fork.shared) {
            // Its source may be another stream by now.
            Some(fork) if self.is_source(fork) => self.origin(fork.source, number),
            Some(fork) => fork.source,
            None => path,
        }
    }

    fn is_source(&self, fork: &ForkOf) -> bool {
        self.names.get(&fork.source).is_some_and(|name| name.creations == fork.creation)
    }

    /// Whether both are the same but for when their streams end.
    pub fn is_like(&self, other: &Self) -> bool {
        self.names == other.names
    }

    /// This one or another one that is like it.
    pub fn or(&mut self, other: &Self) {
        for (path, end) in &mut self.ends {
            end.or(&other.ends[path]);
        }
    }

    /// Forgets the streams that have ended by themselves for good, and gives their paths.
    pub fn bury(&mut self, window: &Window) -> Vec<Path> {
        let over = self.ends.iter().filter(|(_, end)| end.is_over(window));
        let over: Vec<Path> = over.map(|(path, _)| *path).collect();
        over.iter().for_each(|path| self.remove(*path));
        over
    }

    /// The stream is gone, and its name is free. The number behind its end is never given, so that offsets there are known
    /// to be old ones.
    fn remove(&mut self, path: Path) {
        self.ends.remove(&path);
        let name = self.names.entry(path).or_default();
        if let Some(stream) = name.stream.take() {
            name.free = stream.end() + 1;
        }
    }

    /// Puts a changed stream in the place of the one under the path.
    fn put(&mut self, path: Path, stream: Stream) {
        self.names.entry(path).or_default().stream = Some(Arc::new(stream));
    }

    /// The streams that a request has to do with.
    fn involved(&self, path: Path, request: &Request) -> Vec<Path> {
        let mut paths = vec![path];
        match request {
            Request::Create(Creation { fork: Some(fork), .. }) => paths.push(fork.source),
            Request::Delete => {
                let mut above = self.stream(path).and_then(|stream| stream.fork.as_ref());
                while let Some(fork) = above {
                    paths.push(fork.source);
                    above = self.stream(fork.source).and_then(|stream| stream.fork.as_ref());
                }
            }
            _ => {}
        }
        paths
    }

    /// The ways that a request can go, by what had ended when the server saw it.
    pub fn ask(&self, path: Path, request: &Request, window: &Window, wait: Us) -> Vec<Outcome> {
        let mut seen = vec![Seen { window, wait, state: self.clone(), ended: Vec::new() }];
        for involved in self.involved(path, request) {
            let end = self.ends.get(&involved).map_or(Ended::No, |end| end.at(window));
            let mut others = if end == Ended::Maybe { seen.clone() } else { Vec::new() };
            match end {
                Ended::Maybe => others.iter_mut().for_each(|seen| seen.end(involved)),
                Ended::Yes => seen.iter_mut().for_each(|seen| seen.end(involved)),
                Ended::No => {}
            }
            seen.append(&mut others);
        }
        let outlives = self.ends.get(&path).is_some_and(|end| end.outlives(window));
        seen.into_iter()
            .map(|seen| {
                let (ended, is_there) = (seen.ended.contains(&path), seen.stream(path).is_some());
                let (answer, after) = seen.ask(path, request);
                let released = after.count() + 1 < self.count();
                Outcome { answer, after, ended, renewed: is_there && outlives, released }
            })
            .collect()
    }

    /// The request was not carried out, but may have been a use of what it has to do with.
    pub fn may_have_used(&mut self, path: Path, request: &Request, window: &Window) {
        for path in self.involved(path, request) {
            if let Some(end) = self.ends.get_mut(&path) {
                end.may_be_used(window);
            }
        }
    }
}

impl Seen<'_> {
    fn end(&mut self, path: Path) {
        self.ended.push(path);
        self.state.ends.get_mut(&path).expect("it ends by itself").is_seen(self.window);
    }

    fn stream(&self, path: Path) -> Option<&Arc<Stream>> {
        self.state.stream(path).filter(|_| !self.ended.contains(&path))
    }

    /// What a request is answered, and what the streams then are.
    fn ask(mut self, path: Path, request: &Request) -> (Answer, State) {
        let answer = match (request, self.stream(path).cloned()) {
            // Behind a stream's end there is nothing, whatever the request is sent to.
            (Request::Create(Creation { fork: Some(Fork { offset: None, sub_offset: 1.., .. }), .. }), _) => {
                Answer::of(400)
            }
            (Request::Create(asked), None) => self.create(path, asked).unwrap_or_else(|refusal| *refusal),
            (Request::Create(asked), Some(stream)) => stream.found(asked),
            // It is malformed, whatever it is sent to.
            (Request::Append(append), _) if append.content.bytes.is_empty() && !append.close => Answer::of(400),
            (_, None) => Answer::of(404),
            (_, Some(stream)) if stream.is_gone => Answer::failed(410, "deleted"),
            (Request::Append(append), Some(stream)) => {
                let (answer, after) = stream.append(append);
                after.into_iter().for_each(|after| self.state.put(path, after));
                self.use_it(path, answer.status < 300, 0);
                answer
            }
            (Request::Delete, Some(stream)) => {
                self.delete(path, &stream);
                Answer::of(204).stored()
            }
            (Request::Head, Some(stream)) => stream.head(),
            (Request::Read { from, live }, Some(stream)) => {
                let answer = stream.read(from, *live);
                let waited = if stream.is_in_vain(from, *live) && !stream.closed { self.wait } else { 0 };
                self.use_it(path, answer.status < 300, waited);
                answer
            }
        };
        (answer, self.state)
    }

    /// A stream was used, or, where that was refused, may have been: of that the documents say nothing.
    fn use_it(&mut self, path: Path, certainly: bool, waited: Us) {
        match self.state.ends.get_mut(&path) {
            Some(end) if certainly => end.is_used(self.window, waited),
            Some(end) => end.may_be_used(self.window),
            None => {}
        }
    }

    /// A creation where there is no stream, or no longer.
    fn create(&mut self, path: Path, asked: &Creation) -> Result<Answer, Box<Answer>> {
        let mut stream = match &asked.fork {
            Some(fork) => self.fork(path, asked, fork)?,
            None => Stream::new(asked)?,
        };
        // What ended by itself does so for good now.
        self.state.remove(path);
        if asked.fork.is_none() {
            stream.first = self.state.names[&path].free;
        }
        let answer = stream.described(201).stored().next(stream.end()).closed(asked.close);
        if let Some(lifetime) = &stream.lifetime {
            self.state.ends.insert(path, End::new(lifetime, self.window));
        }
        self.state.put(path, stream);
        self.state.names.entry(path).or_default().creations += 1;
        Ok(answer)
    }

    /// The fork that is asked for; its source counts it.
    fn fork(&mut self, path: Path, asked: &Creation, fork: &Fork) -> Result<Stream, Box<Answer>> {
        if self.state.names.get(&path).is_some_and(|name| name.creations > 0) {
            return Err(Box::new(Answer::of(409)));
        }
        let source = Arc::clone(self.stream(fork.source).ok_or_else(|| Box::new(Answer::of(404)))?);
        let creations = self.state.names[&fork.source].creations;
        let stream = source.fork(creations, asked, fork);
        // Looking for the place is a read.
        self.use_it(fork.source, stream.is_ok(), 0);
        let stream = stream?;
        self.state.put(fork.source, source.with_forks(source.forks + 1));
        Ok(stream)
    }

    fn delete(&mut self, path: Path, stream: &Arc<Stream>) {
        if stream.forks > 0 {
            self.state.put(path, stream.gone());
            return;
        }
        self.state.remove(path);
        // What it was forked from counts one less, and goes as well if it was kept for that alone.
        let mut above = stream.fork.clone();
        while let Some(fork) = above.take().filter(|fork| self.state.is_source(fork)) {
            let Some(source) = self.stream(fork.source).cloned() else { return };
            if source.is_gone && source.forks == 1 {
                self.state.remove(fork.source);
                above.clone_from(&source.fork);
            } else {
                self.state.put(fork.source, source.with_forks(source.forks - 1));
            }
        }
    }
}
