//! Sending what changed here: changes are planned, written to the outbox together with their number and the offset they
//! expect, and only then sent.
//!
//! It merges nothing: where the stream has gone on, the batch is refused whole, and a pull comes first. Invariant: a
//! request that may have left this device is in the saved outbox, word for word, until its fate is known.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::ErrorKind;

use super::clock;
use super::collection::Collection;
use super::digest::Digest;
use super::folder::{self, Bytes, Scan};
use super::heal::{Loss, NOTHING_KEPT, offset_after, offset_before};
use super::history;
use super::item::{Content, Operation, Stamp, encode};
use super::merge::Version;
use super::photos::{self, Print, Upload};
use super::remote::Append;
use super::report::cause;
use super::session::Session;
use super::state::{Batch, State};
use crate::progress::Progress;
use everlog_server::failure::Failure;

/// The most that the server takes in one request.
const BODY_BYTES_MAX: usize = 8 << 20;
/// A batch is closed when it would grow beyond this.
const BATCH_BYTES: usize = 1 << 20;

/// So few items may be deleted by hand and leave an empty folder. Where there were more, something else has happened
/// to them, as far as a device can tell.
pub const EMPTIED_MAX: usize = 2;

#[derive(PartialEq, Eq, Debug)]
pub enum Pushed {
    All,
    /// The server has other things to say first.
    Refused,
}

/// One change, ready to be sent.
struct Message {
    key: String,
    version: Version,
    json: String,
}

/// Repeats what an earlier sync sent, or was about to send, without learning its fate.
pub fn resend(session: &mut Session<'_>) -> Result<(), Failure> {
    while !session.state.outbox.is_empty() {
        send_first(session)?;
        session.save()?;
    }
    Ok(())
}

/// Sends every change that the folder has against what was agreed on.
pub fn push(session: &mut Session<'_>) -> Result<Pushed, Failure> {
    let scan = folder::scan(session.folder, session.state.items.keys())?;
    let known = session.state.items.len();
    if scan.items.is_empty() && scan.unknown.is_empty() && known > EMPTIED_MAX && !session.allow_empty {
        return Err(session.folder.emptied(known));
    }
    for (name, why) in &scan.odd {
        session.report.skip(session.collection, name, *why);
    }
    for (name, why) in &scan.others {
        session.report.note(session.collection, name, why);
    }
    for (key, why) in &scan.unknown {
        session.report.skip(session.collection, key, why.clone());
    }
    let mut keys = changed(&session.state, &scan);
    // What the server has in another version that could not be taken yet is left alone, and what is to be set aside.
    let state = &session.state;
    keys.retain(|key| {
        !session.too_large.contains(key) && !state.wanted.contains_key(key) && !state.newer.contains(key)
    });
    let total = keys.len();
    let mut progress = Progress::new("pushing", total as u64);
    let mut plan = Plan { keys: keys.into_iter(), carried: None };
    while let Some(batch) = plan.next_batch(session)? {
        session.state.outbox.push(batch);
        session.save()?;
        if send_first(session)? == Pushed::Refused {
            return Ok(Pushed::Refused);
        }
        progress.reached((total - plan.keys.len()) as u64);
    }
    Ok(Pushed::All)
}

/// Keys whose file is not what was agreed on. What cannot be read is no deletion.
pub fn changed(state: &State, scan: &Scan) -> Vec<String> {
    let keys: BTreeSet<&String> = scan.items.keys().chain(state.items.keys()).collect();
    let is_change =
        |key: &&String| scan.items.get(*key).copied() != state.base(key) && !scan.unknown.contains_key(*key);
    keys.into_iter().filter(is_change).cloned().collect()
}

/// Sends the outbox's first batch and writes its fate into the state, which is not saved here.
fn send_first(session: &mut Session<'_>) -> Result<Pushed, Failure> {
    let state = &mut session.state;
    let Some(batch) = state.outbox.first() else { return Ok(Pushed::All) };
    match session.remote.append(session.collection, &state.producer, state.epoch, batch)? {
        Append::Accepted { next, level } => {
            let batch = state.outbox.remove(0);
            state.hear(&next);
            arrived(session, &batch, &next, level);
            // Nothing came between what has been read and this batch.
            if session.state.cursor.as_ref() == Some(&batch.expect) {
                session.state.mark(&next);
                session.state.cursor = Some(next);
            }
            Ok(Pushed::All)
        }
        Append::Duplicate { next, level } => {
            let batch = state.outbox.remove(0);
            session.state.number = batch.number + 1;
            // Others may have written since it arrived: it is read like any other change. How far the stream goes by
            // now says nothing of where the batch lies in it, but what the batch expected does.
            if let Some(next) = next {
                session.state.hear(&next);
                let end = offset_after(&batch.expect, batch.changes.len() as u64);
                arrived(session, &batch, &end, level);
            }
            Ok(Pushed::All)
        }
        Append::Moved => {
            // Its number was not used up.
            state.outbox.clear();
            Ok(Pushed::Refused)
        }
        Append::Estranged => read_all_anew(session, None),
        Append::Forgotten => {
            // If it does not say what it has lost, it may be anything.
            let nothing_kept = || Loss { cut: NOTHING_KEPT.to_owned(), is_rewind: false };
            let loss = history::find_loss(session)?.unwrap_or_else(nothing_kept);
            read_all_anew(session, Some(loss))
        }
        Append::TooLarge => {
            let batch = state.outbox.remove(0);
            match batch.changes.as_slice() {
                [(key, _)] => {
                    session.report.skip(session.collection, key, "the server takes no change of this size");
                    session.too_large.insert(key.clone());
                }
                changes => session.batch_changes_max = (changes.len() / 2).max(1),
            }
            Ok(Pushed::Refused)
        }
    }
}

/// Has the next pull read the whole stream, also after a crash, and goes on under another name.
fn read_all_anew(session: &mut Session<'_>, loss: Option<Loss>) -> Result<Pushed, Failure> {
    session.become_another()?;
    session.state.cursor = None;
    session.state.snapshot = None;
    // A loss that is not healed yet stays one.
    if let Some(Loss { cut, is_rewind }) = loss {
        session.state.cut = Some(cut);
        session.state.is_rewind |= is_rewind;
    }
    session.save()?;
    Ok(Pushed::Refused)
}

/// The server has the batch: its versions are what both sides agree on.
fn arrived(session: &mut Session<'_>, batch: &Batch, next: &str, level: Option<String>) {
    for (i, (key, version)) in batch.changes.iter().enumerate() {
        let offset = offset_before(next, (batch.changes.len() - 1 - i) as u64);
        session.state.agree(key, *version, &offset);
        match version {
            Some(_) => session.report.pushed += 1,
            None => session.report.deleted += 1,
        }
    }
    session.state.number = batch.number + 1;
    session.state.level = level;
}

/// The changes that are still to be sent.
struct Plan {
    keys: std::vec::IntoIter<String>,
    /// Made, but too much for the batch before.
    carried: Option<Message>,
}

impl Plan {
    fn next_batch(&mut self, session: &mut Session<'_>) -> Result<Option<Batch>, Failure> {
        let stamp = (format!("{}-{}", session.state.producer, session.state.number), clock::now());
        let stamp = Stamp { txid: &stamp.0, timestamp: &stamp.1 };
        let mut body = String::from("[");
        let mut changes = Vec::new();
        while let Some(message) = self.next_message(session, &stamp)? {
            let too_long = body.len() + message.json.len() > BATCH_BYTES;
            if !changes.is_empty() && (too_long || changes.len() >= session.batch_changes_max) {
                self.carried = Some(message);
                break;
            }
            if !changes.is_empty() {
                body.push(',');
            }
            body.push_str(&message.json);
            changes.push((message.key, message.version));
        }
        if changes.is_empty() {
            return Ok(None);
        }
        body.push(']');
        let expect = session.state.cursor.clone().expect("the stream was read to its end before");
        Ok(Some(Batch { number: session.state.number, expect, body, changes }))
    }

    fn next_message(&mut self, session: &mut Session<'_>, stamp: &Stamp<'_>) -> Result<Option<Message>, Failure> {
        if let Some(message) = self.carried.take() {
            return Ok(Some(message));
        }
        for key in self.keys.by_ref() {
            let Some((content, version)) = content(session, &key)? else { continue };
            let base = session.state.base(&key);
            if version == base {
                continue;
            }
            let operation = match (version, base) {
                (None, _) => Operation::Delete,
                (Some(_), None) => Operation::Insert,
                (Some(_), Some(_)) => Operation::Update,
            };
            let json = encode(session.collection, &key, &content, operation, stamp);
            if json.len() + "[]".len() > BODY_BYTES_MAX {
                let is_text = matches!(&content, Content::File(bytes) if std::str::from_utf8(bytes).is_ok());
                skip_large(session, &key, is_text);
                continue;
            }
            return Ok(Some(Message { key, version, json }));
        }
        Ok(None)
    }
}

fn skip_large(session: &mut Session<'_>, key: &str, is_text: bool) {
    let more = if is_text { "" } else { ", in which its bytes take a third more, as base64" };
    session.report.skip(session.collection, key, format!("it does not fit into one record of 8 MiB{more}"));
}

/// What the item is now, the bytes of a photo being on the server. None if it cannot be told, which is in the report.
fn content(session: &mut Session<'_>, key: &str) -> Result<Option<(Content, Version)>, Failure> {
    if session.collection.is_photos() {
        return photo(session, key);
    }
    match session.folder.read(key, BODY_BYTES_MAX as u64)? {
        Bytes::Nothing => Ok(Some((Content::Deleted, None))),
        Bytes::Read(bytes) => {
            let hash = Digest::of(&bytes);
            Ok(Some((Content::File(bytes), Some(hash))))
        }
        Bytes::TooLarge => {
            skip_large(session, key, true);
            Ok(None)
        }
        Bytes::Unknown(why) => {
            session.report.skip(session.collection, key, why);
            Ok(None)
        }
    }
}

fn photo(session: &mut Session<'_>, key: &str) -> Result<Option<(Content, Version)>, Failure> {
    let collection: Collection = session.collection;
    let file = match session.folder.open(key) {
        Ok(Some(file)) => file,
        Ok(None) => {
            session.report.skip(collection, key, "something that is no file has its name");
            return Ok(None);
        }
        Err(e) if e.kind() == ErrorKind::NotFound && session.folder.exists() => {
            return Ok(Some((Content::Deleted, None)));
        }
        Err(e) if e.kind() == ErrorKind::NotFound => return Err(session.folder.missing()),
        Err(e) => {
            session.report.skip(collection, key, format!("the file cannot be read: {e}"));
            return Ok(None);
        }
    };
    let print = match Print::of(&file) {
        Ok(print) => print,
        Err(e) => {
            session.report.skip(collection, key, format!("the file cannot be read: {e}"));
            return Ok(None);
        }
    };
    if Some(print.hash) == session.state.base(key) {
        return Ok(None);
    }
    match upload(session, &file, &print) {
        Ok(Upload::Complete(bytes)) => {
            session.report.photo_bytes_uploaded += bytes;
            session.verified.insert(print.hash);
            Ok(Some((Content::Photo { hash: print.hash, size: print.size }, Some(print.hash))))
        }
        Ok(Upload::Changed) => {
            session.report.skip(collection, key, "it changed while it was uploaded");
            Ok(None)
        }
        Ok(Upload::Conflict(why)) => {
            session.report.damaged(collection, key, why);
            Ok(None)
        }
        // One photo that the server cannot read back, or that has no room to be read back to, is no reason to keep the
        // others away.
        Err(failure) if failure.code() == 4 => {
            session.report.damaged(collection, key, cause(&failure));
            Ok(None)
        }
        Err(failure) if failure.code() == 5 => {
            photos::discard(&session.home.join("partial"), print.hash)?;
            session.report.skip(collection, key, cause(&failure));
            Ok(None)
        }
        Err(failure) => Err(failure),
    }
}

/// Uploads a photo, unless it is known that the server has it: it may only have a new name.
fn upload(session: &mut Session<'_>, file: &File, print: &Print) -> Result<Upload, Failure> {
    let is_agreed = session.state.items.values().any(|item| item.hash == print.hash);
    if is_agreed || session.verified.contains(&print.hash) {
        return Ok(Upload::Complete(0));
    }
    let fetched = &mut session.report.photo_bytes_downloaded;
    photos::upload(session.remote, file, print, &session.home.join("partial"), fetched)
}
