//! One file's bytes on the simulated disk: what is shown, what is stable, and what lies in a cache in between.
//!
//! It knows neither names nor operations nor crashes' causes; [`super`] states the fault model. Invariant: `stable`
//! only ever takes bytes that were written to their place, sector by sector, and `shown` never goes back but by a loss
//! of power.

use super::Rng;
use std::collections::BTreeMap;

/// The unit that a device writes whole or not at all, in bytes.
pub const SECTOR: usize = 512;

/// One sector as one write left it, in a cache.
struct Version {
    /// Which write, so that the sectors of one write can share their fate.
    write: u64,
    bytes: [u8; SECTOR],
}

/// The content of a file.
#[derive(Default)]
pub struct Content {
    shown: Vec<u8>,
    stable: Vec<u8>,
    /// By sector, the versions written since it was last stable, in order.
    cached: BTreeMap<usize, Vec<Version>>,
    /// Lengths the file was given that are not stable yet, in order.
    lengths: Vec<usize>,
}

/// How likely what is cached survives a loss of power, drawn once for each loss.
#[derive(Clone, Copy)]
pub struct Mood(u64);

impl Mood {
    /// Draws one: nothing survives, everything, or something in between.
    pub fn draw(rng: &mut Rng) -> Self {
        Self(*rng.pick(&[0, 10, 50, 90, 100]))
    }

    /// Whether one thing survives.
    pub fn spares(self, rng: &mut Rng) -> bool {
        rng.chance(self.0)
    }

    /// Whether the sectors of one write survive together, or are lost together; None: each for itself.
    fn fate(self, rng: &mut Rng) -> Option<bool> {
        match self.0 {
            1..100 if rng.chance(33) => None,
            _ => Some(self.spares(rng)),
        }
    }
}

/// Which sectors of a write that was cut off have landed.
pub fn torn(rng: &mut Rng, sectors: usize) -> Vec<bool> {
    let cut = rng.below(sectors as u64 + 1) as usize;
    match rng.below(5) {
        0 => vec![true; sectors],
        1 => vec![false; sectors],
        2 => (0..sectors).map(|i| i < cut).collect(),
        3 => (0..sectors).map(|i| i >= cut).collect(),
        _ => (0..sectors).map(|_| rng.chance(50)).collect(),
    }
}

impl Content {
    /// What a process reads.
    pub fn shown(&self) -> &[u8] {
        &self.shown
    }

    /// Gives the file at least `len` bytes; zeros are new.
    pub fn lengthen(&mut self, len: usize) {
        if len > self.shown.len() {
            self.shown.resize(len, 0);
            self.lengths.push(len);
        }
    }

    /// Writes into the cache: shown at once, stable after [`Content::sync`].
    pub fn write(&mut self, write: u64, offset: usize, bytes: &[u8]) {
        self.show(offset, bytes);
        for sector in sectors(offset, bytes.len()) {
            let bytes = self.sector(sector);
            self.cached.entry(sector).or_default().push(Version { write, bytes });
        }
    }

    /// Writes to the platter: what of these sectors was cached before is superseded, and the file is long enough to
    /// hold them even after a loss of power.
    pub fn write_stable(&mut self, offset: usize, bytes: &[u8]) {
        self.show(offset, bytes);
        for sector in sectors(offset, bytes.len()) {
            self.cached.remove(&sector);
            let (at, whole) = (sector * SECTOR, self.sector(sector));
            let end = (at + SECTOR).min(self.shown.len());
            if self.stable.len() < end {
                self.stable.resize(end, 0);
            }
            self.stable[at..end].copy_from_slice(&whole[..end - at]);
        }
    }

    /// Of a write that was cut off, the sectors for which `landed` holds: on the platter, or in the device's cache.
    pub fn write_torn(&mut self, write: u64, offset: usize, bytes: &[u8], landed: &[bool], stable: bool) {
        for (i, part) in bytes.chunks(SECTOR).enumerate().filter(|(i, _)| landed[*i]) {
            match stable {
                true => self.write_stable(offset + i * SECTOR, part),
                false => self.write(write, offset + i * SECTOR, part),
            }
        }
    }

    /// Makes content and length stable.
    pub fn sync(&mut self) {
        self.stable.resize(self.shown.len(), 0);
        for (sector, versions) in std::mem::take(&mut self.cached) {
            let newest = versions.last().expect("a sector is listed with a version");
            put_sector(&mut self.stable, sector, &newest.bytes);
        }
        self.lengths.clear();
    }

    /// A sync that failed, as Linux has it: the cache counts as clean, so that the next sync succeeds over lost data,
    /// while every process goes on reading it.
    pub fn fail_sync(&mut self) {
        self.cached.clear();
        self.lengths.clear();
    }

    /// The power is gone: of what was cached some survives.
    pub fn lose_power(&mut self, rng: &mut Rng, mood: Mood) {
        let mut fates: BTreeMap<u64, Option<bool>> = BTreeMap::new();
        for len in std::mem::take(&mut self.lengths) {
            if mood.spares(rng) && len > self.stable.len() {
                self.stable.resize(len, 0);
            }
        }
        for (sector, versions) in std::mem::take(&mut self.cached) {
            for version in versions {
                let fate = *fates.entry(version.write).or_insert_with(|| mood.fate(rng));
                if fate.unwrap_or_else(|| rng.chance(50)) {
                    put_sector(&mut self.stable, sector, &version.bytes);
                }
            }
        }
        self.shown.clone_from(&self.stable);
    }

    /// Flips one bit, on the platter and in every cache.
    pub fn flip(&mut self, at: usize, bit: u32) {
        self.shown[at] ^= 1 << bit;
        if let Some(byte) = self.stable.get_mut(at) {
            *byte ^= 1 << bit;
        }
        for version in self.cached.get_mut(&(at / SECTOR)).into_iter().flatten() {
            version.bytes[at % SECTOR] ^= 1 << bit;
        }
    }

    /// Whether everything shown would survive a loss of power.
    pub fn is_stable(&self) -> bool {
        self.cached.is_empty() && self.lengths.is_empty()
    }

    fn show(&mut self, offset: usize, bytes: &[u8]) {
        self.lengthen(offset + bytes.len());
        self.shown[offset..offset + bytes.len()].copy_from_slice(bytes);
    }

    /// A sector as it is shown, zeros behind the end of the file.
    fn sector(&self, sector: usize) -> [u8; SECTOR] {
        let (at, mut bytes) = (sector * SECTOR, [0; SECTOR]);
        let end = (at + SECTOR).min(self.shown.len());
        bytes[..end - at].copy_from_slice(&self.shown[at..end]);
        bytes
    }
}

/// The sectors that `len` bytes at `offset` touch.
fn sectors(offset: usize, len: usize) -> std::ops::Range<usize> {
    offset / SECTOR..(offset + len).div_ceil(SECTOR)
}

/// Puts a sector where the file is long enough to have it: bytes behind the end are out of reach.
fn put_sector(file: &mut [u8], sector: usize, bytes: &[u8; SECTOR]) {
    let at = (sector * SECTOR).min(file.len());
    let end = (at + SECTOR).min(file.len());
    file[at..end].copy_from_slice(&bytes[..end - at]);
}
