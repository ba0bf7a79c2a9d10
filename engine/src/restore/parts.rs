//! A segment fetched in parts, several of them at once: each is written to its place as it comes, and hashed in its turn.
//!
//! Who fetches is said by the caller ([`Together`]); each takes the next part, until none is left. One of them at a time hashes,
//! while others read and write. In memory lie the parts in hand and those whose turn has not come, [`AHEAD_MAX`] in all.
//! Invariants: nothing is called proved before all of it was hashed in its order; after the first failure no part is begun.

use crate::cold::{ColdStore, PART_BYTES, damaged, failed};
use crate::error::{Error, Result};
use crate::format::manifest::SegmentMeta;
use crate::io::{AlignedBuf, File, Io};
use crate::sync::{Condvar, Mutex, wait};
use std::collections::BTreeMap;

/// Has several threads do the same piece of work, or one, and returns once they are all through it.
pub type Together<'a> = dyn Fn(&(dyn Fn() + Sync)) + 'a;

/// The most parts that are in hand or wait for their turn.
const AHEAD_MAX: u64 = 8;

/// What became of it.
#[derive(Debug)]
pub enum Fetched {
    /// All of it is there, as it should be.
    Proved,
    /// There is no such object.
    Absent,
    /// It is another object; whether all of its bytes were written nevertheless.
    Damaged(Error, bool),
}

/// A segment to be fetched.
pub struct Wanted<'a> {
    /// The disk.
    pub io: &'a dyn Io,
    /// Where it comes from.
    pub cold: &'a dyn ColdStore,
    /// Under which key.
    pub key: &'a str,
    /// What it is.
    pub meta: &'a SegmentMeta,
    /// Where it goes to.
    pub file: &'a File,
}

struct State<'a> {
    /// The next part to be asked for.
    next: u64,
    /// Those before this one are hashed.
    hashed: u64,
    /// Those that came and whose turn has not come.
    early: BTreeMap<u64, Vec<u8>>,
    /// Away while somebody hashes.
    hasher: Option<blake3::Hasher>,
    /// Something was not there, or failed: the first of these.
    ended: Option<Ended>,
    progress: &'a mut (dyn FnMut(u64) + Send),
}

enum Ended {
    Absent,
    Damaged(Error),
    Failed(Error),
}

struct Fetch<'a> {
    wanted: &'a Wanted<'a>,
    state: Mutex<State<'a>>,
    /// Something was hashed, or it ended.
    moved: Condvar,
}

/// Fetches a segment; `progress` is told of bytes as they are hashed.
///
/// # Errors
/// [`crate::ErrorKind::Cold`], [`crate::ErrorKind::Io`].
pub fn fetch(wanted: &Wanted<'_>, together: &Together<'_>, progress: &mut (dyn FnMut(u64) + Send)) -> Result<Fetched> {
    wanted.io.allocate(wanted.file, wanted.meta.bytes)?;
    let state = State {
        next: 0,
        hashed: 0,
        early: BTreeMap::new(),
        hasher: Some(blake3::Hasher::new()),
        ended: None,
        progress,
    };
    let fetch = Fetch { wanted, state: Mutex::new(state), moved: Condvar::new() };
    together(&|| fetch.work());
    let mut state = fetch.state.lock();
    let hashed = state.hashed;
    match state.ended.take() {
        Some(Ended::Failed(error)) => return Err(error),
        Some(Ended::Damaged(error)) => return Ok(Fetched::Damaged(error, false)),
        Some(Ended::Absent) if hashed == 0 => return Ok(Fetched::Absent),
        Some(Ended::Absent) => {
            return Err(failed(wanted.cold.url(), format!("{} went while it was read", wanted.key)));
        }
        None => {}
    }
    assert_eq!(hashed, parts(wanted.meta), "all parts were hashed");
    if state.hasher.take().is_some_and(|hasher| hasher.finalize() == wanted.meta.digest) {
        return Ok(Fetched::Proved);
    }
    let what = "it has another digest than its name says";
    Ok(Fetched::Damaged(damaged(wanted.cold.url(), wanted.key, what), true))
}

fn parts(meta: &SegmentMeta) -> u64 {
    meta.bytes.div_ceil(PART_BYTES as u64)
}

/// Ends the others' work if a thread panics, so that none waits for its part.
struct EndsIfPanicking<'a, 'b>(&'a Fetch<'b>);

impl Drop for EndsIfPanicking<'_, '_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Wanted { cold, key, .. } = *self.0.wanted;
            let ended = Ended::Failed(failed(cold.url(), format!("a thread that fetched {key} panicked")));
            self.0.state.lock().ended.get_or_insert(ended);
            self.0.moved.notify_all();
        }
    }
}

impl Fetch<'_> {
    fn work(&self) {
        let _ends = EndsIfPanicking(self);
        while let Some(n) = self.take() {
            match self.part(n) {
                Ok(bytes) => self.hash(n, bytes),
                Err(ended) => {
                    self.state.lock().ended.get_or_insert(ended);
                    self.moved.notify_all();
                }
            }
        }
    }

    /// The next part to be fetched, once there is room for it.
    fn take(&self) -> Option<u64> {
        let mut state = self.state.lock();
        loop {
            if state.ended.is_some() || state.next == parts(self.wanted.meta) {
                return None;
            }
            if state.next < state.hashed + AHEAD_MAX {
                state.next += 1;
                return Some(state.next - 1);
            }
            wait(&self.moved, &mut state);
        }
    }

    /// Fetches a part, and writes it to its place.
    fn part(&self, n: u64) -> Result<Vec<u8>, Ended> {
        let Wanted { io, cold, key, meta, file } = *self.wanted;
        let at = n * PART_BYTES as u64;
        let range = at..meta.bytes.min(at + PART_BYTES as u64);
        let Some(part) = cold.get(key, range.clone()).map_err(Ended::Failed)? else { return Err(Ended::Absent) };
        if part.len != meta.bytes {
            let what = format!("it has {} bytes instead of {}", part.len, meta.bytes);
            return Err(Ended::Damaged(damaged(cold.url(), key, what)));
        }
        if part.bytes.len() as u64 != range.end - range.start {
            return Err(Ended::Failed(failed(cold.url(), format!("{key} came truncated"))));
        }
        io.write_at(file, at, AlignedBuf::from_slice(&part.bytes), false).map_err(Ended::Failed)?;
        Ok(part.bytes)
    }

    /// Hashes a part that came, if it is its turn, and those behind it that came before; else leaves it to whoever does.
    fn hash(&self, n: u64, bytes: Vec<u8>) {
        let mut state = self.state.lock();
        state.early.insert(n, bytes);
        while let Some(mut hasher) = state.hasher.take() {
            let hashed = state.hashed;
            let Some(bytes) = state.early.remove(&hashed) else {
                state.hasher = Some(hasher);
                return;
            };
            drop(state);
            hasher.update(&bytes);
            state = self.state.lock();
            state.hasher = Some(hasher);
            state.hashed += 1;
            (state.progress)(bytes.len() as u64);
            self.moved.notify_all();
        }
    }
}

#[cfg(all(test, not(everlog_loom)))]
mod tests {
    use super::*;
    use crate::cold::testing::{Fate, MemCold};
    use crate::error::ErrorKind;
    use crate::io::OpenMode;
    use crate::io::mem::MemIo;
    use crate::types::BLOCK;
    use std::path::Path;

    const KEY: &str = "segment/1";

    /// Fetches what `meta` says by so many threads; gives what was written as well.
    fn fetched(cold: &MemCold, meta: &SegmentMeta, threads: usize) -> (Result<Fetched>, Vec<u8>, u64) {
        let (io, mut hashed) = (MemIo::new(), 0);
        let io: &dyn Io = &io;
        let file = io.open(Path::new("segment"), OpenMode::CreateDirect).expect("an empty disk");
        let wanted = Wanted { io, cold, key: KEY, meta, file: &file };
        let together = |work: &(dyn Fn() + Sync)| {
            std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
        };
        let fetched = fetch(&wanted, &together, &mut |bytes| hashed += bytes);
        (fetched, io.read_at(&file, 0, meta.bytes as usize).expect("it is there").to_vec(), hashed)
    }

    #[test]
    fn parts_that_come_in_any_order_are_proved_in_their_own() {
        let content: Vec<u8> = (0..11 * PART_BYTES + 3 * BLOCK).map(|at| (at / 4093 + at / 7) as u8).collect();
        let meta = SegmentMeta {
            bytes: content.len() as u64,
            digest: *blake3::hash(&content).as_bytes(),
            ..SegmentMeta::default()
        };
        let cold = MemCold::new("cold");
        for threads in [1, 3, 12] {
            cold.objects.lock().insert(KEY.to_owned(), content.clone());
            let (fetched_all, written, hashed) = fetched(&cold, &meta, threads);
            assert!(matches!(fetched_all, Ok(Fetched::Proved)) && written == content && hashed == meta.bytes);
            for at in [0, 5 * PART_BYTES + 7, content.len() - 1] {
                cold.objects.lock().get_mut(KEY).expect("just put")[at] ^= 1;
                assert!(matches!(fetched(&cold, &meta, threads).0, Ok(Fetched::Damaged(_, true))), "byte {at}");
                cold.objects.lock().get_mut(KEY).expect("just put")[at] ^= 1;
            }
            let mut asked = 0;
            cold.set(move |_, _| {
                asked += 1;
                if asked == 7 { Fate::Fails } else { Fate::Well }
            });
            assert_eq!(fetched(&cold, &meta, threads).0.expect_err("out of reach").kind(), ErrorKind::Cold);
            cold.heal();
            cold.objects.lock().get_mut(KEY).expect("just put").truncate(BLOCK);
            assert!(matches!(fetched(&cold, &meta, threads).0, Ok(Fetched::Damaged(_, false))));
            cold.objects.lock().clear();
            assert!(matches!(fetched(&cold, &meta, threads).0, Ok(Fetched::Absent)));
        }
    }
}
