//! The check of a whole segment, step by step: every byte is read again past the page cache, and what is wrong is named
//! by log and seqs as far as that can be known.
//!
//! Heals nothing and stops at no damage. Stripe by stripe the index is read first and walked in its order, which is that
//! of the data in the file, so that one pass over the file serves digests, chunks and entries (`parts.rs`). Index blocks,
//! state records and lookup blocks are read twice, and count twice.
//!
//! Invariants: any byte that is not what was written gives a finding; one that names a log names it rightly; an error that
//! says nothing of the bytes on the device gives none. Memory is bounded by the longest chunk, the index of a stripe, and
//! the findings that are listed.

mod parts;

use super::PIECE_BYTES;
use super::index::IndexAt;
use super::reader::Segment;
use super::stream::Stream;
use super::view::message;
use crate::error::{ErrorKind, Result};
use crate::finding::Finding;
use crate::format::block::Section;
use crate::format::segment::{IndexEntry, Key};
use crate::io::AlignedBuf;
use crate::types::{BLOCK, Lsn};
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

/// [`Segment::verify`] counts more findings than these, and does not list them.
const FINDINGS_MAX: usize = 100_000;

impl Segment {
    /// Checks all of the segment at once, as [`Check`] does. `on_bytes` is told of the file's bytes as they are read. What
    /// could not be read for another reason than damage is a finding that says so.
    pub fn verify(&self, on_bytes: &mut dyn FnMut(u64)) -> Vec<Finding> {
        let mut check = Check::new(self, FINDINGS_MAX);
        while !check.is_done() {
            let before = check.done();
            let stepped = check.step(PIECE_BYTES as u64);
            on_bytes(check.done() - before);
            if let Err(e) = stepped {
                let finding = check.finding(check.done(), format!("the segment could not be read further: {e}"));
                check.report(finding);
                break;
            }
        }
        if check.left_out > 0 {
            let what = format!("{} more findings are not listed", check.left_out);
            check.findings.push(Finding::new(&*self.view.file.path, what));
        }
        check.findings
    }
}

/// The check of a segment, as far as it has come. It compares digests, blocks, chunks, every entry's checksum, and the
/// parts with each other.
pub struct Check {
    segment: Arc<Segment>,
    stream: Stream,
    next: Next,
    /// Bytes read from the device.
    read: u64,
    findings: Vec<Finding>,
    findings_max: usize,
    left_out: u64,
    damaged_records: u64,
    /// Blocks of the part in hand that have a finding already.
    reported: BTreeSet<u64>,
    /// The index of the stripe in hand as one read gave it.
    index: Option<AlignedBuf>,
    /// The entries of the index block in hand that are still to be checked.
    entries: std::vec::IntoIter<IndexEntry>,
    /// The first keys of the stripe's index blocks so far, but of those that are damaged.
    first_keys: Vec<Key>,
    /// The index entry before; None at the start and after damage.
    previous: Option<IndexEntry>,
    /// The last LSN of the log in hand.
    previous_lsn: Lsn,
    /// Where the stripe's next chunk must begin; None after damage.
    next_offset: Option<u64>,
    /// Where the next record in the stripe's state must begin; None after damage.
    next_state: Option<u32>,
    /// Blocks of the stripe's state that were read for its records.
    state_blocks: u64,
    /// The name before.
    previous_name: String,
    counted: Counted,
    /// Whether all entries were seen, so that the counts must be right.
    complete: bool,
}

/// What is checked next, in the order of the file but for the index, which goes before its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Header,
    /// Reads the index of a stripe.
    Stripe(usize),
    Index(IndexAt),
    /// The first of the entries in hand, if there is one, with its chunk.
    Entry(IndexAt),
    /// What stands between a stripe's chunks and its index.
    Padding(usize),
    /// A block of a stripe's index, state or lookup, by its number in the file.
    Block(usize, u64),
    /// A block behind the stripes.
    Tail(u64),
    Whole,
    Done,
}

#[derive(Default, PartialEq, Eq)]
struct Counted {
    logs: u64,
    records: u64,
    entries: u64,
    payload_bytes: u64,
    data_bytes: u64,
    ends: u64,
}

impl Check {
    /// The check of `segment` from its beginning. It lists at most `findings_max` findings and counts the others.
    #[must_use]
    pub fn new(segment: &Segment, findings_max: usize) -> Self {
        // In the map, a sector that went bad would end the process.
        let segment = Arc::new(segment.reading());
        let stream = Stream::new(segment.meta.bytes);
        Self {
            segment,
            stream,
            next: Next::Header,
            read: 0,
            findings: Vec::new(),
            findings_max,
            left_out: 0,
            damaged_records: 0,
            reported: BTreeSet::new(),
            index: None,
            entries: Vec::new().into_iter(),
            first_keys: Vec::new(),
            previous: None,
            previous_lsn: Lsn(0),
            next_offset: None,
            next_state: None,
            state_blocks: 0,
            previous_name: String::new(),
            counted: Counted::default(),
            complete: true,
        }
    }

    /// Goes on with the check until about `bytes` were read from the device, at least one piece of 512 KiB; beyond that it
    /// reads one state record at most. Ends early where the segment does.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] where reading failed for another reason than damage. Nothing is lost: the next step tries again.
    pub fn step(&mut self, bytes: u64) -> Result<()> {
        let before = self.read;
        while self.next != Next::Done {
            if self.read > before && self.read - before + PIECE_BYTES as u64 > bytes {
                break;
            }
            let needed = self.needed();
            if self.stream.reached() < needed.end {
                self.read_piece(needed.start)?;
            } else {
                self.next = self.check(self.next)?;
            }
        }
        Ok(())
    }

    /// Whether all of the segment was checked.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.next == Next::Done
    }

    /// The segment.
    #[must_use]
    pub fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// How far the file was read, in bytes.
    #[must_use]
    pub fn done(&self) -> u64 {
        self.stream.reached()
    }

    /// Bytes read from the device so far, those that were read twice counted twice.
    #[must_use]
    pub fn read(&self) -> u64 {
        self.read
    }

    /// What was found so far, in the order of the file.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// How many findings there were beside those that are listed.
    #[must_use]
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// The records of damaged chunks so far. Where an index block is damaged nobody knows how many it lists.
    #[must_use]
    pub fn damaged_records(&self) -> u64 {
        self.damaged_records
    }

    fn read_piece(&mut self, from: u64) -> Result<()> {
        let (view, before, mut unreadable) = (&self.segment.view, self.stream.reached(), Vec::new());
        self.stream.read_piece(&*view.io, &view.file, from, &mut unreadable)?;
        self.read += self.stream.reached() - before;
        for (offset, what) in unreadable {
            let finding = self.finding(offset, what);
            self.report(finding);
        }
        Ok(())
    }

    /// The bytes of the file that must be in hand for what is checked next.
    fn needed(&self) -> Range<u64> {
        let block = BLOCK as u64;
        let nothing = self.stream.start()..self.stream.start();
        match self.next {
            Next::Header => 0..block,
            Next::Entry(at) => match self.entries.as_slice().first() {
                Some(entry) => self.place(at.stripe, entry).unwrap_or(nothing),
                None => nothing,
            },
            Next::Padding(stripe) => self.padding(stripe).unwrap_or(nothing),
            Next::Block(_, number) | Next::Tail(number) => number * block..(number + 1) * block,
            Next::Stripe(_) | Next::Index(_) | Next::Whole | Next::Done => nothing,
        }
    }

    /// Checks one part, and gives the next one. An error leaves all as it was.
    fn check(&mut self, part: Next) -> Result<Next> {
        let segment = Arc::clone(&self.segment);
        let places = &segment.footer.places;
        let stripe_or_tail = |stripe| match stripe < segment.stripes.len() {
            true => Next::Stripe(stripe),
            false => Next::Tail(places.root.first),
        };
        Ok(match part {
            Next::Header => {
                self.header();
                stripe_or_tail(0)
            }
            Next::Stripe(stripe) => {
                self.stripe(stripe)?;
                Next::Index(IndexAt { stripe, n: 0 })
            }
            Next::Index(at) => {
                self.index_block(at)?;
                Next::Entry(at)
            }
            Next::Entry(at) => match self.entries.as_slice().first().copied() {
                Some(entry) => {
                    self.entry(at, &entry)?;
                    self.entries.next();
                    part
                }
                None if at.n + 1 < usize::from(segment.stripes[at.stripe].index_blocks) => {
                    Next::Index(IndexAt { n: at.n + 1, ..at })
                }
                None => Next::Padding(at.stripe),
            },
            Next::Padding(stripe) => {
                self.end_of_entries(stripe);
                Next::Block(stripe, segment.stripes[stripe].index().first)
            }
            Next::Block(stripe, number) if number < segment.stripes[stripe].lookup => {
                self.stripe_block(stripe, number);
                Next::Block(stripe, number + 1)
            }
            Next::Block(stripe, number) => {
                self.lookup_block(stripe, number)?;
                stripe_or_tail(stripe + 1)
            }
            Next::Tail(number) => {
                self.tail_block(number);
                if number < places.meta.end() { Next::Tail(number + 1) } else { Next::Whole }
            }
            Next::Whole => {
                self.whole()?;
                Next::Done
            }
            Next::Done => Next::Done,
        })
    }

    fn report(&mut self, finding: Finding) {
        if self.findings.len() < self.findings_max {
            self.findings.push(finding);
        } else {
            self.left_out += 1;
        }
    }

    fn finding(&self, offset: u64, what: impl Into<String>) -> Finding {
        Finding { offset: Some(offset), ..Finding::new(&*self.segment.view.file.path, what) }
    }

    fn report_block(&mut self, section: Section, number: u64, what: &str) {
        self.report_once(number, message(section, number, what));
    }

    fn report_once(&mut self, number: u64, what: String) {
        if self.reported.insert(number) {
            let mut finding = self.finding(number * BLOCK as u64, what);
            finding.lsns = Some(self.segment.view.lsns.clone());
            self.report(finding);
        }
    }

    fn report_chunk(&mut self, entry: &IndexEntry, what: &str) {
        let mut finding = self.finding(entry.offset, format!("a chunk of the segment is damaged: {what}"));
        finding.log = Some(entry.log.to_string());
        finding.seqs = Some(entry.first_seq.0..entry.next_seq().0);
        self.report(finding);
        self.damaged_records += u64::from(entry.records);
        self.complete = false;
    }
}

/// What a failed read says of the bytes on the device: that they are damaged, and how.
///
/// # Errors
/// That which says nothing of them.
fn verdict<T>(read: Result<T>) -> Result<Result<T, String>> {
    match read {
        Ok(value) => Ok(Ok(value)),
        Err(e) if e.kind() == ErrorKind::Damaged => Ok(Err(e.message().to_owned())),
        Err(e) if e.is_bad_sector() => Ok(Err(format!("it cannot be read: {e}"))),
        Err(e) => Err(e),
    }
}
