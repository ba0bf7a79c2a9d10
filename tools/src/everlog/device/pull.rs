//! Reading a collection's stream to its end, and merging what it says into the folder.
//!
//! It sends nothing but reads, and the creation of a stream that is missing. Only the last word on each key is merged,
//! so that old versions never appear in the folder. Invariant: the cursor advances, durably, after every file that it
//! stands for; merging the same words again after a crash changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde_json::value::RawValue;

use super::aside;
use super::digest::Digest;
use super::folder::{Done, Folder, Found};
use super::heal::{LastWord, Loss, NOTHING_KEPT, Reread, offset_before};
use super::history;
use super::item::{Change, Content, Element, decode};
use super::merge::{Decision, Version, decide, follow};
use super::photos::{self, Download};
use super::remote::{Page, START, Told};
use super::report::{NAMED_MAX, cause};
use super::session::Session;
use super::snapshot;
use super::state::{Intent, State, Wanted};
use super::word::{Heard, Last, Said, held};
use crate::progress::Progress;
use everlog_server::failure::Failure;

/// As much content is held until all has been read; what is beyond is read once more when its turn comes.
const HELD_BYTES_MAX: usize = 32 << 20;
/// So many pages without an element, one after the other, are the work of no server that means well.
const EMPTY_PAGES_MAX: u32 = 100;
/// How often the history may change under a read of it.
const REREADS_MAX: u32 = 8;
/// How often a file may change under a decision about it.
const DECISIONS_MAX: u32 = 10;

/// All last words from one offset to the end.
#[derive(Default)]
pub(super) struct Gathered {
    last: BTreeMap<String, Last>,
    /// Keys in the order of their pages, for those whose content has to be read again.
    pages: Vec<String>,
    cursor: String,
    /// What the last page said of the cold store, and of which stream it is.
    cold: Option<String>,
    stream: Option<String>,
    /// The ends of all pages.
    ends: Vec<String>,
    held_bytes: usize,
    /// What has no usable key: a name for it, and what is wrong.
    bad: Vec<(String, String)>,
    /// All of them, also those that are too many to be named.
    bad_count: usize,
}

pub(super) enum Gathering {
    Done(Gathered),
    /// A snapshot was merged, and the cursor leads on from it.
    Taken,
    /// The stream's history does not lead through the offset any more.
    Cut(Told, String),
    Trimmed,
    /// The stream was deleted and created again: what is agreed on says nothing of this one.
    Another,
    Missing {
        is_rewind: bool,
    },
}

/// One page that was read again for its contents.
#[derive(Default)]
struct Again {
    page: String,
    next: String,
    at_end: bool,
    contents: BTreeMap<(String, Digest), Vec<u8>>,
}

/// Content that is at hand.
enum Ready {
    Bytes(Vec<u8>),
    File(PathBuf),
}

/// Why content is not at hand.
enum NotHad {
    /// The server does not have it, or not as it should be.
    Damaged(String),
    /// There is no room for it here.
    Here(String),
}

/// Brings the folder up to what the server has.
pub fn pull(session: &mut Session<'_>) -> Result<(), Failure> {
    // Without a cursor the whole stream is read, against whatever was agreed on before; but for one whose snapshot was
    // begun, which is gone on with.
    let is_whole = session.state.cursor.is_none() && session.state.snapshot.is_none();
    let (cut, is_rewind) = (session.state.cut.clone(), session.state.is_rewind);
    let mut reread = is_whole.then_some(Reread { cut, is_rewind });
    // If nothing speaks of what is past the cursor, reading from it on will tell the same.
    if session.state.cursor != session.state.heard
        && let Some(loss) = history::find_loss(session)?
    {
        session.become_another()?;
        reread = Some(reread.unwrap_or_default().and_lost(loss));
    }
    for _ in 0..REREADS_MAX {
        let cursor = session.state.cursor.clone();
        let gathering = match (&reread, cursor.as_deref()) {
            (Some(reread), _) => gather(session, START, Some(reread))?,
            (None, Some(cursor)) => gather(session, cursor, None)?,
            (None, None) => snapshot::take(session)?,
        };
        let lost = match gathering {
            Gathering::Done(gathered) => return merge(session, gathered, reread.as_ref()),
            Gathering::Taken => continue,
            Gathering::Cut(told, at) => Some(history::find_cut(session, &at, told)?),
            Gathering::Missing { is_rewind } => {
                session.remote.create(session.collection)?;
                Some(Loss { cut: NOTHING_KEPT.into(), is_rewind })
            }
            Gathering::Another => None,
            Gathering::Trimmed if reread.is_none() => {
                session.state.cursor = None;
                session.state.snapshot = Some(snapshot::first());
                None
            }
            Gathering::Trimmed => {
                let cause = format!("the server cannot give {} from its beginning on", session.collection.name);
                return Err(Failure::new(4, cause, "look into the server's log; nothing was changed"));
            }
        };
        if lost.is_some() || session.state.snapshot.is_none() {
            let before = reread.unwrap_or_default();
            reread = Some(match lost {
                Some(loss) => before.and_lost(loss),
                None => before,
            });
        }
        // What was numbered in the lost history cannot be counted on.
        session.become_another()?;
    }
    let cause = format!("the server's history of {} goes on changing while it is read", session.collection.name);
    Err(Failure::new(1, cause, "sync again once the server has been restored"))
}

fn gather(session: &Session<'_>, from: &str, reread: Option<&Reread>) -> Result<Gathering, Failure> {
    let mut gathered = Gathered::default();
    let mut offset = from.to_owned();
    let mut empty = 0;
    loop {
        let (elements, next, at_end, cold, stream) = match session.remote.read(session.collection, &offset)? {
            Page::Content { elements, next, at_end, cold, stream } => (elements, next, at_end, cold, stream),
            Page::Cut(told) => return Ok(Gathering::Cut(told, offset)),
            Page::Trimmed => return Ok(Gathering::Trimmed),
            Page::Missing { is_rewind } => return Ok(Gathering::Missing { is_rewind }),
        };
        empty = if elements.is_empty() { empty + 1 } else { 0 };
        if !at_end && (next == offset || empty > EMPTY_PAGES_MAX) {
            let cause = format!("the server gives no more of {} and no end either", session.collection.name);
            return Err(Failure::new(1, cause, "look into the server's log; nothing was changed"));
        }
        for (i, element) in elements.iter().enumerate() {
            let after = offset_before(&next, (elements.len() - 1 - i) as u64);
            gathered.hear(session, element, after, &offset, reread);
        }
        offset = next;
        gathered.ends.push(offset.clone());
        if at_end {
            gathered.cursor = offset;
            gathered.cold = cold;
            gathered.stream = stream;
            return Ok(Gathering::Done(gathered));
        }
    }
}

impl Gathered {
    fn hear(&mut self, session: &Session<'_>, element: &RawValue, offset: String, page: &str, reread: Option<&Reread>) {
        let (key, said) = match Heard::of(session.collection, element, HELD_BYTES_MAX - self.held_bytes) {
            Ok(Heard::Of(key, said)) => (key, said),
            Ok(Heard::Nothing) => return,
            Ok(Heard::Reset) => {
                let mut gone: BTreeSet<String> = self.last.keys().cloned().collect();
                // Where the stream is read as a whole, what it says nothing of is looked at then.
                if reread.is_none() {
                    let state = &session.state;
                    gone.extend(state.items.keys().chain(state.wanted.keys()).chain(state.unreadable.keys()).cloned());
                }
                gone.into_iter().for_each(|key| self.note(session, key, Said::Deleted, &offset, page, reread));
                return;
            }
            Err(why) => return self.refuse(format!("(record before {offset})"), why),
        };
        if let Some(why) = session.collection.refuses(&key) {
            return self.refuse(key, why.to_owned());
        }
        self.note(session, key, said, &offset, page, reread);
    }

    fn note(
        &mut self, session: &Session<'_>, key: String, said: Said, offset: &str, page: &str, reread: Option<&Reread>,
    ) {
        self.held_bytes += held(&said);
        let offset = offset.to_owned();
        let mut last = Last { said, offset, page: page.to_owned(), was_put_back: false };
        last.was_put_back = reread.is_some_and(|r| r.puts_back(&session.state, &key, last.version(), &last.offset));
        if self.pages.last().is_none_or(|last| last != page) {
            self.pages.push(page.to_owned());
        }
        if let Some(earlier) = self.last.get(&key) {
            self.held_bytes -= held(&earlier.said);
            last.was_put_back |= earlier.was_put_back;
        }
        self.last.insert(key, last);
    }

    fn refuse(&mut self, name: String, why: String) {
        self.bad_count += 1;
        if self.bad.len() < NAMED_MAX {
            self.bad.push((name, why));
        }
    }

    /// The words in the order of their pages, and after them what earlier syncs could not take.
    fn into_words(mut self, session: &Session<'_>) -> Vec<(String, Last)> {
        let mut waiting = Vec::new();
        for (key, wanted) in session.state.wanted.iter().filter(|(key, _)| !self.last.contains_key(*key)) {
            let said = match (wanted.hash, wanted.size) {
                (None, _) => Said::Deleted,
                (Some(hash), Some(size)) => Said::Photo { hash, size },
                (Some(hash), None) => Said::File { hash, bytes: None },
            };
            let (offset, page) = (wanted.offset.clone(), wanted.page.clone());
            waiting.push((key.clone(), Last { said, offset, page, was_put_back: false }));
        }
        let order: BTreeMap<String, usize> = self.pages.drain(..).zip(0..).collect();
        let mut words: Vec<_> = self.last.into_iter().collect();
        words.sort_by_key(|(_, last)| order.get(&last.page).copied());
        words.append(&mut waiting);
        words
    }
}

fn merge(session: &mut Session<'_>, mut gathered: Gathered, reread: Option<&Reread>) -> Result<(), Failure> {
    session.report.damaged_more(gathered.bad_count - gathered.bad.len());
    for (name, why) in std::mem::take(&mut gathered.bad) {
        session.report.damaged(session.collection, &name, why);
    }
    let (cursor, cold, stream) = (gathered.cursor.clone(), gathered.cold.take(), gathered.stream.clone());
    let ends = std::mem::take(&mut gathered.ends);
    let silent = match reread {
        Some(reread) => {
            // Everything is said anew.
            session.state.wanted.clear();
            session.state.unreadable.clear();
            silent(session, &mut gathered, reread)?
        }
        None => Vec::new(),
    };
    let words = gathered.into_words(session);
    match reread {
        None => session.state.hear(&cursor),
        // What is agreed on from here on speaks of the history that was read now. A crash lets all begin again.
        Some(reread) => {
            session.state.cursor = None;
            session.state.snapshot = None;
            session.state.cut = reread.cut.clone();
            session.state.is_rewind = reread.is_rewind;
            session.state.heard = Some(cursor.clone());
        }
    }
    settle(session, words, reread)?;
    // The server lost all trace of these: what is here of them is news to it.
    silent.iter().for_each(|key| session.state.forget(key));
    if reread.is_some() {
        session.state.marks.clear();
        session.state.cut = None;
        session.state.is_rewind = false;
    }
    ends.iter().for_each(|end| session.state.mark(end));
    session.state.cursor = Some(cursor);
    session.state.cold = cold;
    session.state.stream = stream;
    for (key, why) in &session.state.unreadable {
        session.report.damaged(session.collection, key, why.clone());
    }
    session.save()
}

/// Makes the files what `words` make of them. What is agreed on until one fails is kept.
pub(super) fn settle(
    session: &mut Session<'_>, words: Vec<(String, Last)>, reread: Option<&Reread>,
) -> Result<(), Failure> {
    intend(session, &words)?;
    let mut progress = Progress::new("pulling", words.len() as u64);
    let mut merger = Merger { session, reread, again: Again::default(), settled: BTreeSet::new() };
    for (done, (key, last)) in words.into_iter().enumerate() {
        let settled = merger.settle(&key, last);
        if settled.is_err() {
            // What is agreed on so far is kept also where the rest fails: the cursor stays, and all is heard again.
            merger.session.state.merging.clear();
            merger.session.save()?;
        }
        settled?;
        progress.reached(done as u64 + 1);
    }
    session.state.merging.clear();
    Ok(())
}

/// The known keys of which the stream, read as a whole, says nothing. Where it was taken back on purpose, it says of them
/// and of every other file here that it has no such item.
fn silent(session: &Session<'_>, gathered: &mut Gathered, reread: &Reread) -> Result<Vec<String>, Failure> {
    let state = &session.state;
    let mut silent: BTreeSet<String> = state.items.keys().chain(state.deleted.keys()).cloned().collect();
    let mut gone = state.newer.clone();
    if reread.is_rewind {
        gone.append(&mut silent);
        gone.extend(session.folder.names()?.items);
    }
    for key in gone {
        let (offset, page) = (gathered.cursor.clone(), gathered.cursor.clone());
        silent.remove(&key);
        gathered.last.entry(key).or_insert(Last { said: Said::Deleted, offset, page, was_put_back: false });
    }
    silent.retain(|key| !gathered.last.contains_key(key));
    // A stream that was cut short and is the one that was followed had deleted them.
    if gathered.stream.is_some() && gathered.stream == state.stream {
        for key in silent.extract_if(.., |key| reread.was_deleted(state, key)) {
            let (offset, page) = (gathered.cursor.clone(), gathered.cursor.clone());
            gathered.last.insert(key, Last { said: Said::Deleted, offset, page, was_put_back: false });
        }
    }
    Ok(silent.into_iter().collect())
}

/// Writes down what the merge is about to make of the files. Without it, a crash before the state is saved would leave
/// files that look as if the user had edited them, or had deleted what an old version said to delete.
fn intend(session: &mut Session<'_>, words: &[(String, Last)]) -> Result<(), Failure> {
    let state = &mut session.state;
    for (key, last) in words.iter().filter(|(_, last)| !matches!(last.said, Said::Unreadable(_))) {
        if last.version() != state.base(key) {
            let intent = Intent { hash: last.version(), offset: last.offset.clone() };
            state.merging.insert(key.clone(), intent);
        }
    }
    if session.state.merging.is_empty() && !session.state.is_rewind { Ok(()) } else { session.save() }
}

/// Finds out how far a merge came that a crash ended. To be done before anything is decided about the files.
pub fn recover(folder: &Folder, state: &mut State) -> Result<(), Failure> {
    for (key, intent) in std::mem::take(&mut state.merging) {
        let done = match folder.find(&key)? {
            Found::Nothing => intent.hash.is_none(),
            Found::File(hash) => intent.hash == Some(hash),
            Found::Unknown(_) => false,
        };
        if done {
            state.agree(&key, intent.hash, &intent.offset);
        }
    }
    Ok(())
}

struct Merger<'s, 'a> {
    session: &'s mut Session<'a>,
    reread: Option<&'s Reread>,
    again: Again,
    /// Keys whose words were heard and merged by now.
    settled: BTreeSet<String>,
}

impl Merger<'_, '_> {
    /// Makes the file what the last word on it, what is here, and what was agreed on make of it together.
    fn settle(&mut self, key: &str, mut last: Last) -> Result<(), Failure> {
        let (base, must_be_said_again) = self.base(key, &last);
        if let Said::Unreadable(why) = last.said {
            self.session.state.wanted.remove(key);
            self.session.state.unreadable.insert(key.to_owned(), why);
            let is_agreed = |found| matches!((found, base), (Found::File(hash), Some(base)) if hash == base);
            if self.follows(key) && !is_agreed(self.session.folder.find(key)?) {
                self.session.state.newer.insert(key.to_owned());
            }
            return Ok(());
        }
        let remote = last.version();
        let decide = if self.follows(key) { follow } else { decide };
        let mut ready = None;
        for _ in 0..DECISIONS_MAX {
            let local = match self.session.folder.find(key)? {
                Found::Nothing => None,
                Found::File(hash) => Some(hash),
                Found::Unknown(why) => return self.leave(key, &last, why),
            };
            let decision = decide(base, local, remote);
            let takes_place = matches!(decision, Decision::Write | Decision::Conflict | Decision::SetAside);
            if takes_place && remote.is_some() && ready.is_none() {
                match self.fetch(key, &mut last)? {
                    Ok(content) => ready = Some(content),
                    Err(NotHad::Damaged(why)) => return self.miss(key, &last, why),
                    Err(NotHad::Here(why)) => return self.leave(key, &last, why),
                }
            }
            let done = match (decision, local) {
                (Decision::Settled | Decision::Keep, _) => Done::Yes,
                (Decision::Delete, _) => self.session.folder.remove(key, local)?,
                (Decision::Conflict, Some(hash)) => match self.keep_both(key, hash)? {
                    Done::Yes => self.put(key, ready.as_ref(), local)?,
                    not => not,
                },
                (Decision::SetAside, _) => match (self.set_aside(key)?, remote) {
                    (Done::Yes, Some(_)) => self.put(key, ready.as_ref(), None)?,
                    (done, _) => done,
                },
                (Decision::Write | Decision::Conflict, _) => self.put(key, ready.as_ref(), local)?,
            };
            match done {
                Done::Changed => {}
                Done::Refused(why) => return self.leave(key, &last, why),
                Done::Yes => {
                    self.count(decision);
                    self.session.state.agree(key, remote, &last.offset);
                    self.settled.insert(key.to_owned());
                    if must_be_said_again {
                        self.session.state.forget(key);
                    }
                    return Ok(());
                }
            }
        }
        self.leave(key, &last, "the file goes on changing".into())
    }

    /// Whether the server is followed, and what is newer here set aside: it was taken back on purpose.
    fn follows(&self, key: &str) -> bool {
        self.reread.is_some_and(|reread| reread.is_rewind) || self.session.state.newer.contains(key)
    }

    /// What the changes are measured by, and whether what is agreed on has to be said again.
    fn base(&self, key: &str, last: &Last) -> (Version, bool) {
        let state = &self.session.state;
        if state.newer.contains(key) {
            return (None, false);
        }
        let Some(reread) = self.reread else { return (state.base(key), false) };
        if reread.is_rewind {
            return (reread.kept_base(state, key), false);
        }
        let word = LastWord { version: last.version(), offset: &last.offset, was_put_back: last.was_put_back };
        (reread.base(state, key, &word), reread.must_be_said_again(state, key, &word))
    }

    /// Keeps the file's version under another name before the server's takes its own.
    fn keep_both(&mut self, key: &str, hash: Digest) -> Result<Done, Failure> {
        let name = match self.session.folder.keep_both(key, hash)? {
            Ok(name) => name,
            Err(not) => return Ok(not),
        };
        // Another device has kept the same, as this very pull has heard: it need not be said again.
        if self.settled.contains(&name) && self.session.state.base(&name) == Some(hash) {
            return Ok(Done::Yes);
        }
        // A copy that was there already, agreed on with the server, may be what the same pull is about to delete. From
        // now on it is an edit of this device, also after a crash that comes before its turn.
        let state = &mut self.session.state;
        let (item, intent) = (state.items.remove(&name), state.merging.remove(&name));
        if item.is_some() || intent.is_some() {
            self.session.save()?;
        }
        Ok(Done::Yes)
    }

    /// Takes what is here out of the server's way.
    fn set_aside(&mut self, key: &str) -> Result<Done, Failure> {
        let report = &mut self.session.report;
        let to = report.set_aside_in.get_or_insert_with(|| aside::place(self.session.home));
        let done = aside::put(self.session.folder, key, to)?;
        report.set_aside += u64::from(done == Done::Yes);
        Ok(done)
    }

    fn put(&self, key: &str, content: Option<&Ready>, local: Version) -> Result<Done, Failure> {
        match content.expect("what is to be written was fetched before") {
            Ready::Bytes(bytes) => self.session.folder.write(key, bytes, local),
            Ready::File(path) => self.session.folder.adopt(path, key, local),
        }
    }

    fn count(&mut self, decision: Decision) {
        let report = &mut self.session.report;
        match decision {
            // What was set aside is counted where that is done.
            Decision::Settled | Decision::Keep | Decision::SetAside => {}
            Decision::Write => report.pulled += 1,
            Decision::Delete => report.deleted += 1,
            Decision::Conflict => {
                report.pulled += 1;
                report.conflicts += 1;
            }
        }
    }

    /// Something here is in the way. The next sync tries again.
    fn leave(&mut self, key: &str, last: &Last, why: String) -> Result<(), Failure> {
        self.session.report.skip(self.session.collection, key, why);
        self.want(key, last);
        Ok(())
    }

    /// The server does not give it. The next sync tries again.
    fn miss(&mut self, key: &str, last: &Last, why: String) -> Result<(), Failure> {
        self.session.report.damaged(self.session.collection, key, why);
        self.want(key, last);
        Ok(())
    }

    fn want(&mut self, key: &str, last: &Last) {
        let size = if let Said::Photo { size, .. } = last.said { Some(size) } else { None };
        let (offset, page) = (last.offset.clone(), last.page.clone());
        if self.follows(key) {
            self.session.state.newer.insert(key.to_owned());
        }
        self.session.state.wanted.insert(key.to_owned(), Wanted { hash: last.version(), size, offset, page });
    }

    /// The content of the last word, or why it cannot be had.
    fn fetch(&mut self, key: &str, last: &mut Last) -> Result<Result<Ready, NotHad>, Failure> {
        match &mut last.said {
            Said::File { hash, bytes } => match bytes.take() {
                Some(bytes) => Ok(Ok(Ready::Bytes(bytes))),
                None => Ok(self.read_again(key, *hash, &last.page)?.map_err(NotHad::Damaged)),
            },
            Said::Photo { hash, size } => {
                let partial = self.session.home.join("partial");
                let fetched = &mut self.session.report.photo_bytes_downloaded;
                match photos::download(self.session.remote, &partial, *hash, *size, fetched) {
                    Ok(Download::Complete(path)) => Ok(Ok(Ready::File(path))),
                    Ok(Download::Incomplete) => {
                        Ok(Err(NotHad::Damaged("its bytes are not complete on the server yet".into())))
                    }
                    Ok(Download::Damaged(what)) => Ok(Err(NotHad::Damaged(what))),
                    // One photo that the server cannot read, or for which there is no room, is no reason to keep the
                    // others away.
                    Err(failure) if failure.code() == 4 => Ok(Err(NotHad::Damaged(cause(&failure)))),
                    Err(failure) if failure.code() == 5 => {
                        photos::discard(&partial, *hash)?;
                        Ok(Err(NotHad::Here(cause(&failure))))
                    }
                    Err(failure) => Err(failure),
                }
            }
            Said::Deleted | Said::Unreadable(_) => Ok(Err(NotHad::Damaged("there is nothing to be had".into()))),
        }
    }

    /// Reads from the page on until the change is found that was heard there.
    fn read_again(&mut self, key: &str, hash: Digest, page: &str) -> Result<Result<Ready, String>, Failure> {
        let wanted = (key.to_owned(), hash);
        let mut page = page.to_owned();
        loop {
            if self.again.page != page && !self.load(&page)? {
                break;
            }
            if let Some(bytes) = self.again.contents.remove(&wanted) {
                return Ok(Ok(Ready::Bytes(bytes)));
            }
            if self.again.at_end || self.again.next == page {
                break;
            }
            page = self.again.next.clone();
        }
        Ok(Err("its record is no longer where it was".into()))
    }

    fn load(&mut self, page: &str) -> Result<bool, Failure> {
        let collection = self.session.collection;
        let Page::Content { elements, next, at_end, .. } = self.session.remote.read(collection, page)? else {
            return Ok(false);
        };
        let mut contents = BTreeMap::new();
        for element in &elements {
            if let Element::Change(Change { key, content: Content::File(bytes) }) = decode(collection, element.get()) {
                contents.insert((key, Digest::of(&bytes)), bytes);
            }
        }
        self.again = Again { page: page.to_owned(), next, at_end, contents };
        Ok(true)
    }
}
