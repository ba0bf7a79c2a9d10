//! The ring of journal files: which are in use, which are spare, and how one becomes the other.
//!
//! A file is made once, filled with zeros and synced before its first use, so that a commit is one device write without
//! metadata; afterwards it is used again and again, each use under a new journal id.
//!
//! A crash while a file is made leaves `journal-….tmp`, which the next open removes, or a whole file of zeros, which is
//! a spare. A crash while a use is begun leaves the older use's header, a torn one or the new one; none of the three
//! has a frame of the new use behind it, and the file is a spare again.
//!
//! Invariant: a spare holds no frame past the last one flushed, so that nothing unflushed is ever overwritten.

use super::names;
use crate::error::{Error, ErrorKind, Result};
use crate::format::Features;
use crate::format::frame::FrameRef;
use crate::format::identity::Identity;
use crate::format::journal::{FIRST_FRAME_AT, JournalHeader};
use crate::io::{AlignedBuf, File, Io, OpenMode};
use crate::limits;
use crate::metrics::Metrics;
use crate::sync::{Arc, AtomicBool, Mutex, Ordering};
use crate::types::{FrameNo, JournalId, Timeline};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

#[cfg(test)]
mod tests;

/// Bytes of zeros written at a time: what a frame may have to wait for at the device.
const FILL_BYTES: usize = 256 << 10;

/// The ring.
pub struct Ring {
    io: Arc<dyn Io>,
    dir: PathBuf,
    identity: Identity,
    metrics: Arc<Metrics>,
    file_bytes: u64,
    files_max: usize,
    state: Mutex<State>,
    /// Whether the commit path found no spare when it last needed one. Orders nothing: it spares those who append a look at
    /// the state.
    awaited: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    spare: Vec<RingFile>,
    used: Vec<UsedFile>,
    next_journal: JournalId,
    /// The numbers of all files there are, those left alone and the one being made included.
    slots: BTreeSet<u16>,
    /// Whether the last attempt to make a file failed: the ring cannot grow at this moment.
    prepare_failed: bool,
    /// Whether the last flush failed: no file in use becomes spare at this moment.
    flush_failed: bool,
}

/// A file of the ring.
#[derive(Clone, Debug)]
pub struct RingFile {
    /// Its number in the ring, which its name bears.
    pub slot: u16,
    /// The file, open for direct writes.
    pub file: File,
    /// Its size in bytes.
    pub bytes: u64,
    /// Its present use, of a spare its last one; 0 before the first.
    pub journal: JournalId,
}

/// A file with frames that are not flushed; `last` is known once the file was left.
#[derive(Clone, Debug)]
struct UsedFile {
    file: RingFile,
    last: Option<FrameNo>,
}

/// Where frames are written.
#[derive(Clone, Debug)]
pub struct Place {
    /// The file.
    pub file: RingFile,
    /// This use of it.
    pub journal: JournalId,
    /// Its salt.
    pub salt: u32,
    /// The next frame's byte offset.
    pub position: u64,
}

impl Place {
    /// Bytes left for frames.
    #[must_use]
    pub fn left(&self) -> u64 {
        self.file.bytes - self.position
    }
}

impl std::fmt::Debug for Ring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ring").field("dir", &self.dir).field("state", &*self.state.lock()).finish_non_exhaustive()
    }
}

impl Ring {
    /// A ring without files; see [`Self::adopt`].
    #[must_use]
    pub fn new(
        io: Arc<dyn Io>, dir: &Path, identity: Identity, metrics: Arc<Metrics>, file_bytes: u64, files_max: usize,
        next_journal: JournalId,
    ) -> Self {
        let state = Mutex::new(State { next_journal, ..State::default() });
        Self {
            io,
            dir: dir.to_owned(),
            identity,
            metrics,
            file_bytes,
            files_max,
            state,
            awaited: AtomicBool::new(false),
        }
    }

    /// Takes over a file that was there at open, of that use. `used` names its last frame, if it holds frames that are not
    /// flushed. None if it is no file that the ring made, by its size, and holds nothing: it is left alone.
    ///
    /// # Errors
    /// [`ErrorKind::Io`]; [`ErrorKind::Damaged`] if a file of such a size holds frames, which the ring never wrote.
    pub fn adopt(&self, slot: u16, bytes: u64, journal: JournalId, used: Option<FrameNo>) -> Result<Option<RingFile>> {
        let path = names::path(&self.dir, slot);
        if !limits::is_journal_file_bytes(bytes) {
            if used.is_some() {
                let what = format!("a journal file with unflushed frames has {bytes} bytes, which none is made with");
                return Err(Error::new(ErrorKind::Damaged, what)
                    .file(&path)
                    .remedy("bring the file back whole from a copy"));
            }
            tracing::warn!(file = %path.display(), bytes, "no journal file has this size; it is left alone");
            self.state.lock().slots.insert(slot);
            return Ok(None);
        }
        let file = self.io.open(&path, OpenMode::WriteDirect)?;
        let file = RingFile { slot, file, bytes, journal };
        let mut state = self.state.lock();
        state.slots.insert(slot);
        match used {
            Some(last) => state.used.push(UsedFile { file: file.clone(), last: Some(last) }),
            None => state.spare.push(file.clone()),
        }
        Ok(Some(file))
    }

    /// Goes on in a file that holds the journal's end: the place right behind `end`. A file whose frames are all
    /// flushed was adopted as a spare and is used again from there on.
    #[must_use]
    pub fn resume(&self, file: &RingFile, end: &FrameRef) -> Place {
        let mut state = self.state.lock();
        state.spare.retain(|spare| spare.slot != file.slot);
        state.used.retain(|used| used.file.slot != file.slot);
        let file = RingFile { journal: end.journal, ..file.clone() };
        state.used.push(UsedFile { file: file.clone(), last: None });
        Place {
            file,
            journal: end.journal,
            salt: self.identity.salt(end.journal),
            position: end.position + u64::from(end.frame_len),
        }
    }

    /// Begins a new use of a spare file: its header, durable. None if there is no spare. `left` is the frame after
    /// which the journal goes on there; everything up to it is durable.
    ///
    /// # Errors
    /// [`ErrorKind::Io`]: the caller poisons.
    pub fn begin(&self, timeline: Timeline, left: FrameRef) -> Result<Option<Place>> {
        let (file, journal) = {
            let mut state = self.state.lock();
            self.awaited.store(state.spare.is_empty(), Ordering::Relaxed);
            if state.spare.is_empty() {
                return Ok(None);
            }
            let journal = state.next_journal;
            let file = RingFile { journal, ..state.spare.remove(0) };
            state.next_journal = journal.next();
            for used in &mut state.used {
                used.last.get_or_insert(left.frame);
            }
            state.used.push(UsedFile { file: file.clone(), last: None });
            (file, journal)
        };
        self.in_place(&file.file)?;
        let salt = self.identity.salt(journal);
        let header = JournalHeader {
            features: Features::KNOWN,
            store: self.identity.store,
            journal,
            file_bytes: file.bytes,
            timeline,
            left,
        };
        self.io.write_at(&file.file, 0, AlignedBuf::from_slice(&header.encode(salt)), true)?;
        self.metrics.journal_headers.add(1);
        Ok(Some(Place { file, journal, salt, position: FIRST_FRAME_AT }))
    }

    /// Fails if a file is no longer what its path names: somebody removed, moved or replaced it, or the whole directory,
    /// under this process. What is written to it from then on is found by nobody, and what is written beside it may
    /// land among the files of another store.
    ///
    /// # Errors
    /// [`ErrorKind::Io`]: the caller poisons.
    pub fn check_in_place(&self) -> Result<()> {
        let files: Vec<File> = {
            let state = self.state.lock();
            state.used.iter().map(|used| &used.file).chain(&state.spare).map(|ring| ring.file.clone()).collect()
        };
        files.iter().try_for_each(|file| self.in_place(file))
    }

    fn in_place(&self, file: &File) -> Result<()> {
        if self.io.is_in_place(file) {
            return Ok(());
        }
        let what = "a journal file is not where it was: it, or the store's directory, was removed, moved or replaced \
                    while the store was open";
        Err(Error::new(ErrorKind::Io, what)
            .file(&file.path)
            .remedy("put the directory back where it was, and open the store again"))
    }

    /// Makes files spare whose frames are all flushed.
    pub fn release(&self, flushed: FrameNo) {
        let mut state = self.state.lock();
        let (free, used) = state.used.drain(..).partition(|u| u.last.is_some_and(|last| last <= flushed));
        state.used = used;
        let free: Vec<UsedFile> = free;
        state.spare.extend(free.into_iter().map(|u| u.file));
    }

    /// Makes one more file if there are fewer than `spares` spare ones and the ring may grow. True if it did. It gets the
    /// lowest number that is free, which a failed attempt gives back: attempts on a full disk use no numbers up. Between the
    /// pieces that it fills it calls `rest` with the bytes filled so far, which may take its time, and gives the file up if
    /// that says false.
    ///
    /// # Errors
    /// [`ErrorKind::Io`]: nothing refers to the file yet, so this does not poison.
    pub fn prepare(&self, spares: usize, rest: &mut dyn FnMut(u64) -> bool) -> Result<bool> {
        let slot = {
            let mut state = self.state.lock();
            if state.spare.len() >= spares || state.spare.len() + state.used.len() >= self.files_max {
                return Ok(false);
            }
            let free = (0..=u16::MAX).find(|slot| !state.slots.contains(slot));
            let slot = free.ok_or_else(|| {
                Error::new(ErrorKind::Io, "the numbers of journal files are used up")
                    .file(&self.dir)
                    .remedy("remove journal files that are no part of the store")
            })?;
            state.slots.insert(slot);
            slot
        };
        let made = self.make(slot, rest);
        let mut state = self.state.lock();
        state.prepare_failed = made.is_err();
        match made {
            Ok(Some(file)) => {
                state.spare.push(file);
                Ok(true)
            }
            given_up => {
                state.slots.remove(&slot);
                given_up.map(|_| false)
            }
        }
    }

    /// None if it was given up.
    fn make(&self, slot: u16, rest: &mut dyn FnMut(u64) -> bool) -> Result<Option<RingFile>> {
        let path = names::path(&self.dir, slot);
        let temporary = path.with_extension("tmp");
        self.io.remove_if_there(&temporary)?;
        // Seconds may pass while it is filled, and the directory may be replaced meanwhile: what bears these names there
        // is another store's.
        let named = self.fill(&temporary, rest).and_then(|filled| {
            self.check_in_place()?;
            if filled {
                self.io.rename(&temporary, &path)?;
            }
            Ok(filled)
        });
        if !matches!(named, Ok(true)) {
            self.discard(&temporary);
            return named.map(|_| None);
        }
        let opened = self.io.sync_dir(&self.dir).and_then(|()| self.io.open(&path, OpenMode::WriteDirect));
        if opened.is_err() {
            self.discard(&path);
        }
        Ok(Some(RingFile { slot, file: opened?, bytes: self.file_bytes, journal: JournalId(0) }))
    }

    /// Removes a file of zeros that nothing refers to. Where it cannot be removed, the next attempt has the same number
    /// and replaces it.
    fn discard(&self, path: &Path) {
        if self.check_in_place().is_ok() {
            let _ = self.io.remove(path);
        }
    }

    /// False if it was given up.
    fn fill(&self, path: &Path, rest: &mut dyn FnMut(u64) -> bool) -> Result<bool> {
        let file = self.io.open(path, OpenMode::CreateDirect)?;
        self.io.allocate(&file, self.file_bytes)?;
        let mut zeros = AlignedBuf::zeroed(FILL_BYTES.min(self.file_bytes as usize));
        let mut at = 0;
        while at < self.file_bytes {
            zeros.resize((self.file_bytes - at).min(FILL_BYTES as u64) as usize);
            zeros = self.io.write_at(&file, at, zeros, false)?;
            at += zeros.len() as u64;
            if at < self.file_bytes && !rest(at) {
                return Ok(false);
            }
        }
        self.metrics.journal_fill_bytes.add(self.file_bytes);
        self.io.sync(&file).map(|()| true)
    }

    /// The files whose present or last use is `journal` or a later one, in the order of their uses. A spare one among them
    /// may be used again at any moment.
    #[must_use]
    pub fn files_from(&self, journal: JournalId) -> Vec<RingFile> {
        let state = self.state.lock();
        let all = state.used.iter().map(|used| &used.file).chain(&state.spare);
        let mut files: Vec<_> = all.filter(|f| f.journal >= journal && f.journal > JournalId(0)).cloned().collect();
        files.sort_unstable_by_key(|file| file.journal);
        files
    }

    /// The size of new files.
    #[must_use]
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// The size of the file that is written.
    #[must_use]
    pub fn present_bytes(&self) -> u64 {
        self.state.lock().used.last().map_or(self.file_bytes, |used| used.file.bytes)
    }

    /// The size of the smallest file, new ones included, in bytes: what the largest frame follows.
    #[must_use]
    pub fn smallest(&self) -> u64 {
        let state = self.state.lock();
        let used = state.used.iter().map(|u| u.file.bytes);
        state.spare.iter().map(|f| f.bytes).chain(used).fold(self.file_bytes, u64::min)
    }

    /// Whether a file is free.
    #[must_use]
    pub fn has_spare(&self) -> bool {
        !self.state.lock().spare.is_empty()
    }

    /// Whether so many files wait for a flush that one is due, or the commit path would find no spare and only a flush
    /// can free one.
    #[must_use]
    pub fn wants_flush(&self) -> bool {
        let state = self.state.lock();
        let left = state.used.iter().filter(|u| u.last.is_some()).count();
        let cannot_grow = state.used.len() >= self.files_max || state.prepare_failed;
        left * 2 >= self.files_max || (state.spare.is_empty() && left > 0 && cannot_grow)
    }

    /// A number that no use of a file had.
    #[must_use]
    pub fn next_journal(&self) -> JournalId {
        self.state.lock().next_journal
    }

    /// Takes note of whether a flush failed.
    pub fn set_flush_failed(&self, failed: bool) {
        self.state.lock().flush_failed = failed;
    }

    /// Whether the last flush failed.
    #[must_use]
    pub fn is_flush_failing(&self) -> bool {
        self.state.lock().flush_failed
    }

    /// Whether the commit path needs a file, and the last attempts to make or to free one failed: what is appended now
    /// would wait for as long as they do.
    #[must_use]
    pub fn is_full(&self) -> bool {
        if !self.awaited.load(Ordering::Relaxed) {
            return false;
        }
        let state = self.state.lock();
        state.spare.is_empty() && (state.prepare_failed || state.flush_failed)
    }

    /// Whether the commit path found no spare when it last needed one.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        self.awaited.load(Ordering::Relaxed)
    }

    /// Files in the ring, spare ones included.
    #[must_use]
    pub fn files(&self) -> usize {
        let state = self.state.lock();
        state.spare.len() + state.used.len()
    }
}
