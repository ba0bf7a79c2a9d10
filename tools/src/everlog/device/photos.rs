//! Photos' bytes: up into closed streams named by their hash, and down into files that are checked before they count.
//!
//! Which photos there are is the collection's business. A photo is never in memory as a whole. Invariant: only bytes of
//! the photo's hash go into its stream, and only a file of the wanted size and hash comes out of here.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::digest::Digest;
use super::disk::{self, failed};
use super::http::Place;
use super::remote::{Chunk, PhotoPage, Remote, START};
use crate::progress::Progress;
use everlog_server::failure::Failure;

const CHUNK_BYTES: usize = 1 << 20;
/// How often the server may be found to have lost what it had before it is left alone.
const SETBACKS_MAX: u32 = 16;
/// So many answers without a byte, one after the other, are the work of no server that means well.
const EMPTY_MAX: u32 = 100;
const OTHER_BYTES: &str = "its stream on the server holds other bytes than the photo's";
/// A download notes how far it is whenever so much has come.
const NOTE_BYTES: u64 = 8 << 20;

/// A photo as it was when it was looked at: its hash, and the hash of each chunk, so that a chunk that has changed
/// since is noticed before it is sent.
pub struct Print {
    pub hash: Digest,
    pub size: u64,
    chunks: Vec<Digest>,
}

pub enum Upload {
    /// It is complete on the server; so many bytes were sent for it.
    Complete(u64),
    /// The file is no longer what it was.
    Changed,
    /// The stream of this hash does not hold the photo's bytes, for the reason given.
    Conflict(String),
}

pub enum Download {
    /// A synced file with exactly the photo's bytes.
    Complete(PathBuf),
    /// Not all of it is on the server yet.
    Incomplete,
    /// The server's bytes are not those of the hash.
    Damaged(String),
}

impl Print {
    pub fn of(file: &File) -> io::Result<Self> {
        let mut whole = blake3::Hasher::new();
        let mut chunks = Vec::new();
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            let n = read_chunk(file, chunks.len() as u64, &mut buffer)?;
            if n > 0 {
                whole.update(&buffer[..n]);
                chunks.push(Digest::of(&buffer[..n]));
            }
            if n < CHUNK_BYTES {
                return Ok(Self { hash: Digest::finish(&whole), size: whole.count(), chunks });
            }
        }
    }
}

/// Fills the buffer from the chunk's place on, as far as the file goes.
fn read_chunk(file: &File, number: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], number * CHUNK_BYTES as u64 + filled as u64) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(filled)
}

/// Sees to it that the server has the photo. What this device has not sent all of itself, just now, is read back into
/// the folder of downloads once: a device that deletes its photo later must be able to count on it.
pub fn upload(
    remote: &Remote, file: &File, print: &Print, folder: &Path, fetched: &mut u64,
) -> Result<Upload, Failure> {
    let sent = match send(remote, file, print)? {
        Upload::Complete(sent) if sent < print.size || print.size == 0 => sent,
        done => return Ok(done),
    };
    match download(remote, folder, print.hash, print.size, fetched)? {
        Download::Complete(path) => disk::remove(&path).map(|()| Upload::Complete(sent)),
        Download::Incomplete => Ok(Upload::Conflict("it cannot be read back from the server".to_owned())),
        Download::Damaged(what) => Ok(Upload::Conflict(what)),
    }
}

/// Sends what the server lacks of a photo. Any device may have begun, and this one goes on where that one stopped.
fn send(remote: &Remote, file: &File, print: &Print) -> Result<Upload, Failure> {
    let mut progress = Progress::new("uploading", print.size);
    let mut buffer = vec![0; CHUNK_BYTES];
    let (mut sent, mut setbacks) = (0, 0);
    if remote.begin_photo(print.hash, print.chunks.is_empty())? {
        return Ok(Upload::Complete(0));
    }
    let mut number = 0;
    while let Some(expected) = print.chunks.get(number) {
        let last = number + 1 == print.chunks.len();
        let Ok(n) = read_chunk(file, number as u64, &mut buffer) else { return Ok(Upload::Changed) };
        if Digest::of(&buffer[..n]) != *expected {
            return Ok(Upload::Changed);
        }
        let to = match remote.append_chunk(print.hash, number as u64, &buffer[..n], last)? {
            Chunk::Accepted => {
                sent += n as u64;
                number as u64 + 1
            }
            Chunk::Complete => return Ok(Upload::Complete(sent + if last { n as u64 } else { 0 })),
            Chunk::Duplicate(highest) => highest.max(number as u64) + 1,
            Chunk::Gap(expected) => {
                setbacks += 1;
                expected
            }
            Chunk::Missing => {
                setbacks += 1;
                if remote.begin_photo(print.hash, false)? {
                    return Ok(Upload::Complete(sent));
                }
                0
            }
            Chunk::Conflict => return Ok(Upload::Conflict(OTHER_BYTES.to_owned())),
        };
        if setbacks > SETBACKS_MAX {
            break;
        }
        number = usize::try_from(to).unwrap_or(usize::MAX);
        progress.reached(to.saturating_mul(CHUNK_BYTES as u64));
    }
    // The last chunk closes the stream. One that holds more chunks than the photo has, or goes on losing them, is not
    // this photo's.
    Ok(Upload::Conflict(OTHER_BYTES.to_owned()))
}

/// Removes a download of which nothing more can be had here.
pub fn discard(folder: &Path, hash: Digest) -> Result<(), Failure> {
    disk::remove(&folder.join(format!("{hash}.next")))?;
    disk::remove(&folder.join(hash.to_string()))
}

/// Removes downloads that nobody waits for any more.
pub fn discard_all_but(folder: &Path, wanted: &BTreeSet<String>) -> Result<(), Failure> {
    for entry in fs::read_dir(folder).map_err(failed("reading", folder))? {
        let entry = entry.map_err(failed("reading", folder))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let hash = name.split_once('.').map_or(name.as_str(), |(hash, _)| hash);
        if !wanted.contains(hash) {
            disk::remove(&entry.path())?;
        }
    }
    Ok(())
}

/// How far a download is: what is in the file up to there has been synced.
#[derive(Serialize, Deserialize)]
struct Note {
    next: String,
    bytes: u64,
}

/// A download under way: the bytes, and beside them the note.
struct Partial {
    file: File,
    path: PathBuf,
    note_path: PathBuf,
    next: String,
    bytes: u64,
    noted: u64,
}

impl Partial {
    fn open(folder: &Path, hash: Digest) -> Result<Self, Failure> {
        let path = folder.join(hash.to_string());
        let note_path = folder.join(format!("{hash}.next"));
        let open = File::options().read(true).write(true).create(true).truncate(false).open(&path);
        let file = open.map_err(failed("opening", &path))?;
        let length = file.metadata().map_err(failed("looking at", &path))?.len();
        // A note that is missing or says more than there is means nothing but to begin again.
        let note = fs::read(&note_path).ok().and_then(|bytes| serde_json::from_slice::<Note>(&bytes).ok());
        let note = note.filter(|note| note.bytes <= length).unwrap_or(Note { next: START.into(), bytes: 0 });
        Ok(Self { file, path, note_path, next: note.next, bytes: note.bytes, noted: note.bytes })
    }

    fn note(&mut self) -> Result<(), Failure> {
        self.file.sync_all().map_err(failed("syncing", &self.path))?;
        let note = Note { next: self.next.clone(), bytes: self.bytes };
        let bytes = serde_json::to_vec(&note).expect("the fields are a string and a number");
        self.noted = self.bytes;
        disk::replace(&self.note_path, &bytes)
    }

    fn begin_again(&mut self) {
        self.next = START.to_owned();
        self.bytes = 0;
        self.noted = 0;
    }

    fn discard(&self) -> Result<(), Failure> {
        disk::remove(&self.note_path)?;
        disk::remove(&self.path)
    }
}

/// Fetches a photo into the folder of downloads, from where an earlier attempt ended.
pub fn download(
    remote: &Remote, folder: &Path, hash: Digest, size: u64, fetched: &mut u64,
) -> Result<Download, Failure> {
    let mut progress = Progress::new("downloading", size);
    let mut partial = Partial::open(folder, hash)?;
    let (mut restarts, mut empty) = (0, 0);
    loop {
        let most = size.saturating_sub(partial.bytes);
        let place = Place { file: &mut partial.file, at: partial.bytes, most };
        let piece = match remote.read_photo(hash, &partial.next, place)? {
            PhotoPage::Piece(piece) => piece,
            PhotoPage::Missing => return Ok(Download::Incomplete),
            PhotoPage::Invalid if restarts < SETBACKS_MAX => {
                restarts += 1;
                partial.begin_again();
                continue;
            }
            PhotoPage::Invalid => return Ok(Download::Incomplete),
        };
        let length = partial.file.metadata().map_err(failed("looking at", &partial.path))?.len();
        let brought = length.saturating_sub(partial.bytes);
        *fetched += brought;
        let stands_still = length == partial.bytes && piece.next == partial.next;
        partial.bytes = length;
        partial.next = piece.next;
        progress.reached(length);
        if length > size {
            partial.discard()?;
            return Ok(Download::Damaged(format!("its stream holds more than its {size} bytes")));
        }
        if piece.at_end && piece.closed {
            return finish(&partial, hash, size);
        }
        empty = if brought > 0 { 0 } else { empty + 1 };
        // The end of a stream that is still open.
        if stands_still || empty > EMPTY_MAX {
            partial.note()?;
            return Ok(Download::Incomplete);
        }
        if partial.bytes - partial.noted >= NOTE_BYTES {
            partial.note()?;
        }
    }
}

/// Checks what came against what was wanted, reading it from the file and not trusting what was received.
fn finish(partial: &Partial, hash: Digest, size: u64) -> Result<Download, Failure> {
    let path = &partial.path;
    partial.file.sync_all().map_err(failed("syncing", path))?;
    let mut file = File::open(path).map_err(failed("opening", path))?;
    let (found, length) = Digest::of_reader(&mut file as &mut dyn Read).map_err(failed("reading", path))?;
    if (found, length) != (hash, size) {
        partial.discard()?;
        let what = format!("its stream holds {length} bytes of hash {found} instead of {size} bytes of hash {hash}");
        return Ok(Download::Damaged(what));
    }
    disk::remove(&partial.note_path)?;
    Ok(Download::Complete(path.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().expect("there is room");
        file.write_all(bytes).expect("there is room");
        file
    }

    #[test]
    fn chunks_are_of_one_mib_and_cover_all() {
        for (size, chunks) in [(0, 0), (1, 1), (CHUNK_BYTES, 1), (CHUNK_BYTES + 1, 2), (3 * CHUNK_BYTES, 3)] {
            let bytes = vec![9; size];
            let print = Print::of(&file(&bytes)).expect("it can be read");
            assert_eq!((print.chunks.len(), print.size), (chunks, size as u64));
            assert_eq!(print.hash, Digest::of(&bytes));
        }
    }

    #[test]
    fn a_download_goes_on_only_where_the_bytes_are() {
        let dir = tempfile::tempdir().expect("there is room");
        let hash = Digest::of(b"x");
        let mut partial = Partial::open(dir.path(), hash).expect("there is room");
        assert_eq!((partial.next.as_str(), partial.bytes), (START, 0));
        partial.file.write_all(b"12345").expect("there is room");
        (partial.next, partial.bytes) = ("0_5".into(), 5);
        partial.note().expect("there is room");
        let again = Partial::open(dir.path(), hash).expect("there is room");
        assert_eq!((again.next.as_str(), again.bytes), ("0_5", 5));
        // The file lost bytes that the note speaks of.
        again.file.set_len(4).expect("it can be cut");
        let cut = Partial::open(dir.path(), hash).expect("there is room");
        assert_eq!((cut.next.as_str(), cut.bytes), (START, 0));
        let count = || fs::read_dir(dir.path()).expect("it is there").count();
        discard_all_but(dir.path(), &BTreeSet::from([hash.to_string()])).expect("it can be written");
        assert_eq!(count(), 2);
        discard_all_but(dir.path(), &BTreeSet::new()).expect("it can be written");
        assert_eq!(count(), 0);
    }
}
