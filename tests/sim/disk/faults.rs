//! What is to go wrong on the simulated disk, and when: crashes, failures, want of room, stalls, and lies.
//!
//! It only keeps the plans and carries out the lies; how an honest operation ends is said in [`super::ops`], and the
//! fault model at the top of [`super`]. Invariant: a plan happens once, at the operation it names or at the first after
//! it that it can happen to.

use super::file::{SECTOR, torn};
use super::names::Node;
use super::{Flight, SimDisk, State};
use everlog::io::AlignedBuf;
use everlog::types::BLOCK;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;
use std::path::Path;

/// What happens to the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Crash {
    /// The process ends; caches stay.
    Process,
    /// Everything ends; caches are lost.
    Power,
}

/// When, with respect to one operation, the machine crashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Nothing of it has happened.
    Before,
    /// Some of it has.
    Middle,
    /// All of it has, and its caller has not heard of it.
    After,
}

impl When {
    pub(super) fn name(self) -> &'static str {
        match self {
            When::Before => "before it",
            When::Middle => "in the middle of it",
            When::After => "after it",
        }
    }
}

/// What goes wrong with one operation while the machine runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It fails with `EIO`.
    Eio,
    /// It fails with `EIO`, and so does every later write or sync of the same file in this boot.
    EioSticky,
    /// If it is a write, only a prefix is written; else it fails with `EIO`.
    Short,
}

/// What a device calls a complete write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lie {
    /// Its sectors, or some of them, keep what they held.
    Lost,
    /// It lies at another place, and what was there is gone.
    Misdirected,
    /// It reads well until the next boot, and then the older bytes are back.
    Stale,
}

/// Where a bit is flipped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flip {
    /// In any block that is not all zeros; in a segment rather than elsewhere.
    Anything,
    /// In a block that a segment is looked up in: index, lookup, root, names, state or meta.
    LookUp,
}

/// The plans, and what has come of them.
#[derive(Default)]
pub(super) struct Faults {
    crash: Option<(u64, Crash, Option<When>)>,
    failures: BTreeMap<u64, Fault>,
    /// The operations that did, since the last boot.
    failed: Vec<String>,
    /// Files whose writes and syncs fail until the next boot.
    broken: BTreeSet<u64>,
    full: Option<Range<u64>>,
    no_descriptors: Option<Range<u64>>,
    /// What was refused for want of either: since there was plenty, and in all.
    refused: (u64, u64),
    stalled: bool,
    lie: Option<(u64, Lie)>,
    lied: bool,
    /// The files whose bytes are not what they were said to be.
    wrong: BTreeSet<u64>,
    /// Whether a segment's write was lost.
    segment_lost: bool,
    /// Places that get their older bytes back at the next boot: content, offset, the older bytes.
    stale: Vec<(u64, usize, Vec<u8>)>,
}

impl Faults {
    pub fn crash_due(&mut self, op: u64) -> Option<(Crash, Option<When>)> {
        let (_, kind, when) = self.crash.take_if(|(at, ..)| op >= *at)?;
        Some((kind, when))
    }

    pub fn no_crash(&mut self) {
        self.crash = None;
    }

    pub fn failure_due(&mut self, op: u64, what: &str) -> Option<Fault> {
        let due = self.failures.first_entry().filter(|entry| *entry.key() <= op)?;
        self.failed.push(what.to_owned());
        Some(due.remove())
    }

    pub fn lie_due(&mut self, op: u64) -> Option<Lie> {
        self.lie.take_if(|(at, _)| op >= *at).map(|(_, lie)| lie)
    }

    pub fn is_broken(&self, content: u64) -> bool {
        self.broken.contains(&content)
    }

    pub fn break_file(&mut self, content: u64) {
        self.broken.insert(content);
    }

    pub fn stalled(&self) -> bool {
        self.stalled
    }

    /// Refuses what needs room, with `ENOSPC`, while the disk is full.
    pub fn check_space(&mut self, op: u64) -> io::Result<()> {
        refuse(&self.full, op, 28, &mut self.refused)
    }

    /// Refuses what needs a descriptor, with `EMFILE`, while there is none.
    pub fn check_descriptors(&mut self, op: u64) -> io::Result<()> {
        refuse(&self.no_descriptors, op, 24, &mut self.refused)
    }

    pub fn reboot(&mut self) {
        self.broken.clear();
        self.failures.clear();
        self.failed.clear();
        self.stalled = false;
    }
}

fn refuse(window: &Option<Range<u64>>, op: u64, code: i32, refused: &mut (u64, u64)) -> io::Result<()> {
    if window.as_ref().is_some_and(|ops| ops.contains(&op)) {
        *refused = (refused.0 + 1, refused.1 + 1);
        return Err(io::Error::from_raw_os_error(code));
    }
    Ok(())
}

impl SimDisk {
    /// Lets the machine crash at operation `op` (the first is 1) or at the first after it; chance says when.
    pub fn crash_at(&self, op: u64, kind: Crash) {
        self.state.lock().faults.crash = Some((op, kind, None));
    }

    /// As [`SimDisk::crash_at`], exactly so.
    pub fn crash_exactly(&self, op: u64, kind: Crash, when: When) {
        self.state.lock().faults.crash = Some((op, kind, Some(when)));
    }

    /// Takes back the crash that was planned.
    pub fn no_crash(&self) {
        self.state.lock().faults.no_crash();
    }

    /// Lets operation `op`, or the first after it, fail.
    pub fn fail_at(&self, op: u64, fault: Fault) {
        self.state.lock().faults.failures.insert(op, fault);
    }

    /// Operations that were made to fail since the last boot.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.state.lock().faults.failed.len() as u64
    }

    /// Which ones.
    #[must_use]
    pub fn failures(&self) -> Vec<String> {
        self.state.lock().faults.failed.clone()
    }

    /// Takes back the failures that have not happened.
    pub fn no_failures(&self) {
        self.state.lock().faults.failures.clear();
    }

    /// The disk is full from operation `ops.start` on and before `ops.end`.
    pub fn full_during(&self, ops: Range<u64>) {
        self.state.lock().faults.full = Some(ops);
    }

    /// No file can be opened from operation `ops.start` on and before `ops.end`.
    pub fn no_descriptors_during(&self, ops: Range<u64>) {
        self.state.lock().faults.no_descriptors = Some(ops);
    }

    /// There is room and there are descriptors, from now on.
    pub fn plenty(&self) {
        let faults = &mut self.state.lock().faults;
        (faults.full, faults.no_descriptors) = (None, None);
        faults.refused.0 = 0;
    }

    /// Whether something is refused now for want of room or of descriptors.
    #[must_use]
    pub fn is_short(&self) -> bool {
        let state = self.state.lock();
        let within = |window: &Option<Range<u64>>| window.as_ref().is_some_and(|ops| ops.contains(&state.ops));
        within(&state.faults.full) || within(&state.faults.no_descriptors)
    }

    /// What was refused for want of room or of descriptors since there was plenty, and in all.
    #[must_use]
    pub fn refused(&self) -> (u64, u64) {
        self.state.lock().faults.refused
    }

    /// Whether nothing in a queue completes.
    pub fn stall(&self, stalled: bool) {
        self.state.lock().faults.stalled = stalled;
    }

    /// Lets the device lie about the write that completes at operation `op`, or about the first after it.
    pub fn lie_at(&self, op: u64, lie: Lie) {
        self.state.lock().faults.lie = Some((op, lie));
    }

    /// Whether the device has lied, or a bit was flipped.
    #[must_use]
    pub fn lied(&self) -> bool {
        self.state.lock().faults.lied
    }

    /// Whether this file is one whose bytes are not what they were said to be.
    #[must_use]
    pub fn is_wrong(&self, path: &Path) -> bool {
        let state = self.state.lock();
        matches!(state.names.get(path), Some(Node::File(content)) if state.faults.wrong.contains(&content))
    }

    /// Whether the write that the device lost was a segment's: it is read back, and so the lie is found in time.
    #[must_use]
    pub fn lost_of_segment(&self) -> bool {
        self.state.lock().faults.segment_lost
    }

    /// Flips one bit of what is at rest. False if there is nothing to flip.
    pub fn flip(&self, place: Flip) -> bool {
        self.state.lock().flip(place)
    }
}

impl State {
    /// A write's end on a device that lies about it.
    pub(super) fn lie(&mut self, flight: Flight, lie: Lie) -> io::Result<AlignedBuf> {
        let end = flight.offset + flight.buf.len() as u64;
        self.grow(&flight.file, end)?;
        self.faults.lied = true;
        self.contents.get_mut(&flight.file.content).expect("an open file's content is kept").lengthen(end as usize);
        match lie {
            Lie::Lost => self.lose(&flight),
            Lie::Misdirected => self.misdirect(&flight),
            Lie::Stale => self.write_for_now(&flight),
        }
        Ok(flight.buf)
    }

    fn lose(&mut self, flight: &Flight) {
        let sectors = flight.buf.len().div_ceil(SECTOR);
        let mut landed = vec![false; sectors];
        if self.rng.chance(30) {
            landed = torn(&mut self.rng, sectors);
        }
        if landed.iter().all(|landed| *landed) {
            landed[0] = false;
        }
        self.trace.push(format!("  LOST, of {}", flight.describe("write")));
        let place = flight.offset..flight.offset + flight.buf.len() as u64;
        self.frames.overwritten(flight.file.content, place);
        self.faults.segment_lost = flight.file.path.to_string_lossy().contains("/segments/");
        self.faults.wrong.insert(flight.file.content);
        self.land_torn(flight, &landed, flight.durable);
    }

    fn misdirect(&mut self, flight: &Flight) {
        let len = flight.buf.len();
        let fits = |content: u64| (self.contents[&content].shown().len() / BLOCK).checked_sub(len / BLOCK);
        let files: Vec<_> = self.names.files().into_iter().filter(|(_, content)| fits(*content).is_some()).collect();
        if files.is_empty() || !len.is_multiple_of(BLOCK) {
            return self.lose(flight);
        }
        let (path, content) = self.rng.pick(&files).clone();
        let last = fits(content).expect("it was asked before") as u64;
        let mut offset = self.rng.below(last + 1) as usize * BLOCK;
        if (content, offset as u64) == (flight.file.content, flight.offset) {
            offset = if offset == 0 { last as usize * BLOCK } else { 0 };
        }
        self.trace.push(format!("  MISDIRECTED to {} {offset}, {}", path.display(), flight.describe("write")));
        self.frames.overwritten(content, offset as u64..(offset + len) as u64);
        self.faults.wrong.extend([content, flight.file.content]);
        self.contents.get_mut(&content).expect("a named file has content").write_stable(offset, &flight.buf);
    }

    fn write_for_now(&mut self, flight: &Flight) {
        self.trace.push(format!("  STALE from the next boot on, {}", flight.describe("write")));
        let (content, offset) = (flight.file.content, flight.offset as usize);
        self.frames.overwritten(content, flight.offset..flight.offset + flight.buf.len() as u64);
        self.faults.wrong.insert(flight.file.content);
        let older = self.contents[&content].shown()[offset..offset + flight.buf.len()].to_vec();
        self.faults.stale.push((content, offset, older));
        self.contents.get_mut(&content).expect("it was just read").write_stable(offset, &flight.buf);
    }

    /// The older bytes come back, unless something else was written there since.
    pub(super) fn bring_back_stale(&mut self) {
        for (number, offset, older) in std::mem::take(&mut self.faults.stale) {
            let kept = self.frames.whole_at(number, offset as u64..(offset + older.len()) as u64);
            if let Some(content) = self.contents.get_mut(&number)
                && !kept
            {
                self.trace.push(format!("  the older bytes at {offset} are back"));
                content.write_stable(offset, &older);
            }
        }
    }

    fn flip(&mut self, place: Flip) -> bool {
        let mut places = Vec::new();
        for (path, content) in self.names.files() {
            let sealed = path.extension().is_some_and(|extension| extension == "seg");
            let blocks = self.contents[&content].shown().chunks(BLOCK).enumerate();
            let wanted = |block: &[u8]| match place {
                Flip::Anything => block.iter().any(|b| *b != 0),
                Flip::LookUp => sealed && is_look_up(block),
            };
            let wanted = blocks.filter(|(_, block)| wanted(block)).map(|(n, block)| (n, block.len()));
            places.extend(wanted.map(|(n, len)| (sealed, path.clone(), content, n * BLOCK, len)));
        }
        // Segments are what rots on a real disk, being most of it.
        if places.iter().any(|(sealed, ..)| *sealed) && self.rng.chance(60) {
            places.retain(|(sealed, ..)| *sealed);
        }
        if places.is_empty() {
            return false;
        }
        let (_, path, content, block, len) = self.rng.pick(&places).clone();
        let (at, bit) = (block + self.rng.below(len as u64) as usize, self.rng.below(8));
        self.trace.push(format!("  FLIPPED bit {bit} of byte {at} of {}", path.display()));
        self.frames.overwritten(content, at as u64..at as u64 + 1);
        self.faults.wrong.insert(content);
        self.contents.get_mut(&content).expect("a named file has content").flip(at, bit as u32);
        self.faults.lied = true;
        true
    }
}

/// Whether this is a checked block of one of the sections that segments are looked up in, by docs/FORMAT.md.
fn is_look_up(block: &[u8]) -> bool {
    const SECTION_AT: usize = 4;
    const ZERO_AT: usize = 5;
    const FROM_INDEX_TO_META: std::ops::RangeInclusive<u8> = 2..=8;
    block.len() == BLOCK && FROM_INDEX_TO_META.contains(&block[SECTION_AT]) && block[ZERO_AT] == 0
}
