//! What a disk may hold after its power failed, made from its first content and the log of its requests.
//!
//! The model: a write that was complete before a flush began, and the flush complete, is on the disk. A write with
//! FUA is on it once complete. Of every other write each piece ([`Pieces`]) may or may not be on it, in any
//! combination; a piece is written whole. Nothing that was not written changes. What this does not model: a disk that
//! damages what is stable, or that lies about a flush. Invariant: the same log, cut and seed make the same state.
//!
//! A state is made forward: `stable` is what the disk holds for certain at the last flush before the cut, and moves
//! from cut to cut, so that cuts are taken in ascending order and each costs no more than the bytes between.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::blocklog::{BlockLog, Request, SECTOR};
use crate::real::disk::FileSystem;
use crate::sim::rng::Rng;

/// The grain in which it is remembered what was ever written.
const BLOCK: usize = 4096;
/// What is on a disk as a whole or not at all. A file system that takes less of a disk than it gives would only show
/// its own limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pieces {
    /// Sectors of 512 bytes, but for the superblock of ext4: it has one checksum over two sectors, no journal behind
    /// it, and no second chance at mount.
    SectorsOfExt4,
    /// Blocks of 4 KiB, as disks of today have them. XFS sees by the beginning of a block whether its log is ahead of
    /// it, so that it takes a block with a new beginning and an old end for up to date, and then for damaged.
    Blocks,
}

impl Pieces {
    /// What a file system can take.
    #[must_use]
    pub fn of(system: FileSystem) -> Self {
        match system {
            FileSystem::Ext4 => Self::SectorsOfExt4,
            FileSystem::Xfs => Self::Blocks,
        }
    }

    /// Which piece a sector belongs to.
    fn piece(self, sector: u64) -> u64 {
        match (self, sector) {
            (Self::SectorsOfExt4, 3) => 2,
            (Self::SectorsOfExt4, _) => sector,
            (Self::Blocks, _) => sector / (BLOCK / SECTOR) as u64,
        }
    }
}

/// The contents of a disk in memory.
#[derive(Clone)]
pub struct Image {
    bytes: Vec<u8>,
    /// By block: whether it may be something else than zeroes.
    used: Vec<bool>,
}

impl Image {
    /// What the file in `path` holds; its length is a multiple of 4096.
    ///
    /// # Errors
    /// Reading it failed.
    pub fn load(path: &Path) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let length = file.metadata()?.len() as usize;
        assert!(length.is_multiple_of(BLOCK), "images are made of whole blocks");
        let mut image = Self { bytes: vec![0; length], used: vec![false; length / BLOCK] };
        let mut buffer = vec![0; 1 << 20];
        let mut at = 0;
        while at < length {
            let count = file.read(&mut buffer)?;
            assert!(count > 0 && count.is_multiple_of(BLOCK), "the file is as long as it was");
            for (n, block) in buffer[..count].chunks(BLOCK).enumerate() {
                // Memory that stays untouched costs nothing, and most of an image is empty.
                if block.iter().any(|byte| *byte != 0) {
                    image.write((at + n * BLOCK) as u64, block);
                }
            }
            at += count;
        }
        Ok(image)
    }

    fn write(&mut self, at: u64, bytes: &[u8]) {
        let at = at as usize;
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        self.used[at / BLOCK..(at + bytes.len()).div_ceil(BLOCK)].fill(true);
    }

    /// Makes `file` hold this and nothing else, without the bytes that were never written.
    ///
    /// # Errors
    /// Writing it failed.
    pub fn store(&self, file: &File) -> io::Result<()> {
        file.set_len(0)?;
        file.set_len(self.bytes.len() as u64)?;
        let mut from = 0;
        for run in self.used.chunk_by(|a, b| a == b) {
            let to = from + run.len() * BLOCK;
            if run[0] {
                file.write_all_at(&self.bytes[from..to], from as u64)?;
            }
            from = to;
        }
        Ok(())
    }
}

/// What became of the writes that no flush covered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fate {
    /// Writes since the last flush.
    pub open: usize,
    /// Of them: not on the disk at all.
    pub lost: usize,
    /// Of them: on the disk in part.
    pub torn: usize,
}

/// The states of one disk.
pub struct States<'a> {
    log: &'a BlockLog,
    pieces: Pieces,
    /// What is on the disk for certain after the entries before `flushed`.
    stable: Image,
    flushed: usize,
}

impl<'a> States<'a> {
    /// Of a disk that held `first` before the first entry of `log`.
    #[must_use]
    pub fn new(first: Image, log: &'a BlockLog, pieces: Pieces) -> Self {
        Self { log, pieces, stable: first, flushed: 0 }
    }

    /// Puts into `file` one of the states that the disk may be in if the power failed after `cut` entries. `cut` is
    /// not smaller than at the last call.
    ///
    /// # Errors
    /// Writing the file failed.
    pub fn make(&mut self, cut: usize, rng: &mut Rng, file: &File) -> io::Result<Fate> {
        self.advance(cut);
        self.stable.store(file)?;
        let mut fate = Fate::default();
        // Some states lose nearly nothing, some nearly everything, some are mixed; one coin for all would make the
        // extremes, which are what most disks do, too rare.
        let lost_percent = *rng.pick(&[0, 10, 50, 90, 100]);
        for entry in &self.log.entries[self.flushed..cut] {
            let Request::Write { sector, bytes, fua } = &entry.request else { continue };
            let bytes = self.log.bytes(bytes);
            fate.open += 1;
            let torn = rng.chance(20);
            if *fua || (!torn && !rng.chance(lost_percent)) {
                file.write_all_at(bytes, sector * SECTOR as u64)?;
            } else if torn && self.tear(file, *sector, bytes, rng)? {
                fate.torn += 1;
            } else {
                fate.lost += 1;
            }
        }
        Ok(fate)
    }

    fn advance(&mut self, cut: usize) {
        assert!(cut >= self.flushed, "cuts are taken in ascending order");
        let entries = &self.log.entries[self.flushed..cut];
        let Some(last) = entries.iter().rposition(|entry| entry.request == Request::Flush) else { return };
        for entry in &entries[..last] {
            if let Request::Write { sector, bytes, .. } = &entry.request {
                self.stable.write(sector * SECTOR as u64, self.log.bytes(bytes));
            }
        }
        self.flushed += last + 1;
    }

    /// Writes some of the pieces: the first ones, the last ones, or any. False, and nothing is written, if there is
    /// only one.
    fn tear(&self, file: &File, sector: u64, bytes: &[u8], rng: &mut Rng) -> io::Result<bool> {
        let sectors: Vec<(u64, &[u8])> = (sector..).zip(bytes.chunks(SECTOR)).collect();
        let pieces: Vec<_> =
            sectors.chunk_by(|(a, _), (b, _)| self.pieces.piece(*a) == self.pieces.piece(*b)).collect();
        if pieces.len() < 2 {
            return Ok(false);
        }
        let (way, middle) = (rng.below(3), rng.between(1, pieces.len() as u64));
        for (n, piece) in pieces.into_iter().enumerate() {
            let kept = match way {
                0 => (n as u64) < middle,
                1 => (n as u64) >= middle,
                _ => rng.chance(50),
            };
            if kept {
                piece.iter().try_for_each(|(at, sector)| file.write_all_at(sector, at * SECTOR as u64))?;
            }
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::blocklog::testing::log;
    use super::*;

    fn empty() -> Image {
        Image { bytes: vec![0; 4 * BLOCK], used: vec![false; 4] }
    }

    /// All states that many seeds make of a cut.
    fn states(log: &BlockLog, cut: usize, pieces: Pieces) -> BTreeSet<Vec<u8>> {
        let file = tempfile::NamedTempFile::new().expect("room for a file");
        let state = |seed| {
            States::new(empty(), log, pieces)
                .make(cut, &mut Rng::new(seed), file.as_file())
                .expect("it can be written");
            std::fs::read(file.path()).expect("it was just written")
        };
        (0..400).map(state).collect()
    }

    #[test]
    fn what_a_flush_covered_is_in_every_state_and_each_open_sector_in_some() {
        let log = log(&[Some((0, vec![1; 1024])), None, Some((0, vec![2; 1024])), Some((9, vec![3; 512]))]);
        let first_of = |state: &Vec<u8>, sector: usize| state[sector * SECTOR];
        let all = states(&log, 4, Pieces::SectorsOfExt4);
        assert!(all.iter().all(|state| [1, 2].contains(&first_of(state, 0)) && state.len() == 4 * BLOCK));
        let seen: BTreeSet<_> = all.iter().map(|s| [first_of(s, 0), first_of(s, 1), first_of(s, 9)]).collect();
        assert_eq!(seen.len(), 8, "any combination of the three sectors");
        assert_eq!(states(&log, 2, Pieces::SectorsOfExt4).len(), 1, "at the flush nothing is open");
        assert!(states(&log, 1, Pieces::SectorsOfExt4).len() > 1, "before the flush the first write is open");
    }

    #[test]
    fn no_more_is_torn_than_the_file_system_can_take() {
        let log = log(&[Some((0, vec![5; 8192]))]);
        let (ext4, xfs) = (states(&log, 1, Pieces::SectorsOfExt4), states(&log, 1, Pieces::Blocks));
        let torn_at = |states: &BTreeSet<Vec<u8>>, sector: usize| {
            states.iter().any(|state| state[sector * SECTOR - 1] != state[sector * SECTOR])
        };
        assert!(torn_at(&ext4, 2) && torn_at(&ext4, 4));
        assert!(!torn_at(&ext4, 3), "the superblock of ext4 is whole");
        assert!(torn_at(&xfs, 8));
        assert!((1..8).all(|sector| !torn_at(&xfs, sector)));
    }

    #[test]
    fn the_same_seed_makes_the_same_state_also_by_way_of_earlier_cuts() {
        let writes: Vec<_> = (0..24).map(|n| (n % 5 != 4).then(|| (n % 7, vec![n as u8 + 1; 2048]))).collect();
        let log = log(&writes);
        let (one, two) = (tempfile::tempfile().expect("a file"), tempfile::tempfile().expect("a file"));
        let mut forward = States::new(empty(), &log, Pieces::SectorsOfExt4);
        for cut in 0..=log.entries.len() {
            let fate = forward.make(cut, &mut Rng::new(cut as u64), &one).expect("it can be written");
            let direct = States::new(empty(), &log, Pieces::SectorsOfExt4)
                .make(cut, &mut Rng::new(cut as u64), &two)
                .expect("the same");
            assert_eq!(fate, direct);
            let read = |file: &File| {
                let mut bytes = vec![0; 4 * BLOCK];
                file.read_exact_at(&mut bytes, 0).expect("it was just written");
                bytes
            };
            assert_eq!(read(&one), read(&two), "cut {cut}");
        }
    }
}
