//! The first part of recovery: from the journal's bytes to facts. It only reads, and decides nothing.
//!
//! # The chain
//! Starting at the frame that the manifest names as flushed, each step has two possible successors: (a) the first
//! frame of another file whose use began later, which names the present frame as its predecessor, and (b) the frame
//! right behind in the same file. (a) prevails, because it is the record of a cut: an unclean open found nothing valid
//! behind the present frame and went on elsewhere, and whatever may since have appeared behind it (a write of the
//! killed process that landed late) was never acknowledged.
//!
//! Among several uses that name the same frame the latest one **that was begun** prevails, even if its first frame
//! cannot be read: the chain then ends here. Taking an older one instead could hide frames of the later one that were
//! acknowledged; ending here hides nothing, since what those frames prove is found by the second half of the scan
//! ([`super::past`]). A use is begun if its first frame's header is right, or if its file's header names the present
//! frame and a frame of that use stands anywhere in the file. A file's header alone means nothing: an open may have
//! died between writing it and the first frame, and the journal may have gone on behind the present frame instead.
//!
//! A frame is accepted if rules 1 to 11 of docs/FORMAT.md hold and its content is what it counts, each entry's own
//! checksum right.

use super::disk::{Disk, Look, STEP, content};
use super::past;
use crate::error::{Error, ErrorKind, Result};
use crate::format::frame::{FrameHeader, FrameRef};
use crate::format::identity::Identity;
use crate::format::journal::{FIRST_FRAME_AT, JournalHeader};
use crate::format::{FORMAT_VERSION, Malformed};
use crate::io::{AlignedBuf, Io};
use crate::journal::names;
use crate::limits;
use crate::mutants::{self, Mutant};
use crate::types::{FrameNo, JournalId, Lsn, ManifestVersion, TimeUs, Timeline};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Takes the accepted frames in their order: the header, and all bytes of the frame.
pub type Sink<'a> = dyn FnMut(&FrameHeader, AlignedBuf) -> Result<()> + 'a;

/// What block 0 of a journal file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderFacts {
    /// A header that is right by its own checksum; its use may be another than that of the frames behind it.
    Valid(JournalHeader),
    /// Zeros: the file was never used.
    Blank,
    /// Neither.
    Damaged(Malformed),
}

/// What is known of one journal file.
#[derive(Clone, Debug)]
pub struct FileFacts {
    /// Its slot in the ring.
    pub slot: u16,
    /// Where it is.
    pub path: PathBuf,
    /// Its length in bytes.
    pub bytes: u64,
    /// Its block 0.
    pub header: HeaderFacts,
    /// The newest use found in it, by its header or by any frame; None if it was never used.
    pub journal: Option<JournalId>,
    /// The bytes of the accepted frames in it.
    pub in_chain: Option<Range<u64>>,
    /// The use that these frames are of. It may be older than `journal`: where an open died while it wrote the first
    /// frame of a use, the one of the use before it may be whole again.
    pub in_chain_of: Option<JournalId>,
    /// The bytes past the cut that hold frames, or headers of frames, which no earlier cut left behind.
    pub torn: Option<Range<u64>>,
    /// Whether it holds nothing that is still needed: no accepted frame, not the end of the chain, nothing torn. (A
    /// file with something torn is free as well once that is kept, if the decision was a cut.)
    pub spare: bool,
}

/// How the manifest's last flushed frame is tied to the journal files that are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Anchor {
    /// Nothing was flushed yet: the chain begins with frame 1.
    Start,
    /// The frame, its successor, a header that names it, or at least its use of a file was found.
    Found,
    /// None of them, or no journal file at all: these are not the files that the manifest speaks of.
    Missing,
}

/// A place in a journal file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: PathBuf,
    /// The byte offset.
    pub offset: u64,
}

/// Something that an honest history cannot have left behind, whatever crash ended it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contradiction {
    /// The frame that contradicts the chain.
    pub place: Place,
    /// How.
    pub what: &'static str,
    /// The LSNs concerned, the end excluded; `u64::MAX` where it is unknown.
    pub lsns: Range<u64>,
}

/// What stands past the end of the chain and was not left behind by an earlier cut.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Beyond {
    /// A frame, or the header of one, stands there, or what no crash leaves where a first frame belongs: what it held was
    /// possibly acknowledged.
    pub present: bool,
    /// One of them is so damaged that its LSNs are unknown.
    pub unknown: bool,
    /// The last LSN that a readable header there names.
    pub last_lsn: Lsn,
    /// A header there has a number that lies past the in-flight depth, so that a frame past the end was durable.
    pub past_depth: bool,
}

/// What the journal's bytes say.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The files, by slot.
    pub files: Vec<FileFacts>,
    /// The frame that the manifest names as the last one flushed.
    pub flushed: FrameRef,
    /// Whether that frame's place was found.
    pub anchor: Anchor,
    /// The first slot of the ring whose file is missing, though one of a later slot was used: slots are given from 0 on,
    /// and files of the ring are never removed. (That the file of the last slot is missing cannot be seen by this.)
    pub gap: Option<u16>,
    /// A file, as an index into `files`, that is shorter than its header says and may hold frames past the flushed one; or
    /// whose header says nothing and whose size no file is made with.
    pub shortened: Option<usize>,
    /// The last frame of the chain; `flushed` if nothing continues it.
    pub end: FrameRef,
    /// The file that `end` lies in, as an index into `files`; None if that is unknown or nothing was written yet.
    pub end_file: Option<usize>,
    /// The flags of `end`; 0 if it cannot be read (which is no harm where it is flushed).
    pub end_flags: u16,
    /// The timeline of `end`; zero if it cannot be read.
    pub end_timeline: Timeline,
    /// The time of `end`; zero if it cannot be read.
    pub end_time: TimeUs,
    /// The steady clock when that frame was sealed.
    pub end_steady: TimeUs,
    /// The highest use of a journal file that is named anywhere.
    pub journal_id_max: JournalId,
    /// The highest frame that anything proves durable.
    pub watermark: FrameNo,
    /// The highest LSN that anything proves durable.
    pub watermark_lsn: Lsn,
    /// What proves it, if that lies past the end.
    pub witness: Option<Place>,
    /// A segment that was never committed, if it alone proves the highest LSN, past the end.
    pub uncommitted: Option<PathBuf>,
    /// The highest manifest version that a valid frame names.
    pub manifest_seen: ManifestVersion,
    /// The highest LSN of a valid frame.
    pub lsn_seen: Lsn,
    /// What stands past the end.
    pub beyond: Beyond,
    /// What no crash can explain.
    pub contradiction: Option<Contradiction>,
    /// Where the next frame of the chain would stand, and why there is none.
    pub stop: Option<(Place, Malformed)>,
}

impl Facts {
    /// Whether files are missing, whole or in part: nothing ties those that are there to the manifest, or there is a gap.
    #[must_use]
    pub fn is_incomplete(&self) -> bool {
        self.anchor == Anchor::Missing || self.gap.is_some() || self.shortened.is_some()
    }

    /// Takes note that the segment in `file`, which was never committed, proves everything up to `last_lsn` durable.
    pub(super) fn note_uncommitted(&mut self, file: PathBuf, last_lsn: Lsn) {
        if last_lsn > self.end.last_lsn.max(self.watermark_lsn) {
            self.uncommitted = Some(file);
        }
        self.watermark_lsn = self.watermark_lsn.max(last_lsn);
    }

    /// A place in the file with this index.
    pub(super) fn place(&self, file: usize, offset: u64) -> Place {
        Place { file: self.files[file].path.clone(), offset }
    }
}

/// A change of file in the chain.
pub(super) struct Link {
    /// The use that was begun.
    pub(super) journal: JournalId,
    /// The frame that it goes on from.
    pub(super) left: FrameRef,
}

/// A scan under way.
pub(super) struct Scan<'a> {
    pub(super) identity: &'a Identity,
    pub(super) disk: Disk<'a>,
    /// The header of the frame at [`FIRST_FRAME_AT`] of each file, if there is one, its payload right or not.
    pub(super) firsts: Vec<Option<FrameHeader>>,
    pub(super) links: Vec<Link>,
    pub(super) facts: Facts,
}

/// Reads the journal files of `dir` and gives each frame past `flushed` that continues the chain to `sink`, in order.
/// Memory is bounded by a window of 1 MiB and two frames.
///
/// # Errors
/// [`crate::ErrorKind::Io`], and what `sink` returns; [`ErrorKind::Refused`] if a later version wrote to one of the
/// files what this one must not read, and must not take for torn. Damage is no error here but a fact.
pub fn scan(io: &dyn Io, dir: &Path, identity: &Identity, flushed: &FrameRef, sink: &mut Sink<'_>) -> Result<Facts> {
    let mut scan = Scan::open(io, dir, identity, flushed)?;
    scan.anchor()?;
    scan.walk(sink)?;
    past::survey_files(&mut scan)?;
    let end_file = scan.facts.end_file;
    for (n, file) in scan.facts.files.iter_mut().enumerate() {
        file.spare = file.in_chain.is_none() && file.torn.is_none() && end_file != Some(n);
    }
    Ok(scan.facts)
}

/// Why `header`, which names `end` as its predecessor, does not continue the chain after all: rules 9 and 11.
fn out_of_order(header: &FrameHeader, end: &FrameRef) -> Option<Malformed> {
    (!header.is_numbered_after(end))
        .then_some(Malformed { what: "a frame whose numbers do not follow its predecessor's", at: 0 })
}

/// The next step of the chain.
enum Step {
    /// This frame of that file continues it.
    Frame(usize, FrameHeader, [u8; 16], AlignedBuf),
    /// A later use goes on from here and its first frame cannot be read.
    Broken(usize, Malformed),
    /// Nothing continues it in the way asked for.
    None,
}

impl<'a> Scan<'a> {
    fn open(io: &'a dyn Io, dir: &Path, identity: &'a Identity, flushed: &FrameRef) -> Result<Self> {
        let mut disk = Disk::new(io, identity);
        let (mut files, mut firsts) = (Vec::new(), Vec::new());
        for name in io.list(dir)? {
            let Some(slot) = names::parse(&name) else { continue };
            let (n, path) = (files.len(), dir.join(&name));
            let bytes = disk.add(&path)?;
            let header = header_facts(&mut disk, n, &path, identity)?;
            let first = match disk.look(n, FIRST_FRAME_AT)? {
                Look::Frame(header, ..) | Look::HeaderOnly(header, _) => Some(header),
                Look::Nothing(_) => None,
            };
            let journal = match &header {
                HeaderFacts::Valid(header) => Some(header.journal),
                _ => None,
            };
            let journal = journal.max(first.as_ref().map(|f| f.journal));
            let (in_chain, in_chain_of, torn, spare) = (None, None, None, false);
            files.push(FileFacts { slot, path, bytes, header, journal, in_chain, in_chain_of, torn, spare });
            firsts.push(first);
        }
        let journal_id_max = files.iter().filter_map(|f| f.journal).max().unwrap_or_default().max(flushed.journal);
        let used = files.iter().filter(|file| file.journal.is_some()).map(|file| file.slot).max();
        let there = |slot| files.iter().any(|file: &FileFacts| file.slot == slot);
        let gap = used.and_then(|used| (0..used).find(|slot| !there(*slot)));
        let is_shorter = |file: &FileFacts| match &file.header {
            HeaderFacts::Valid(header) => file.bytes < header.file_bytes && header.journal >= flushed.journal,
            // A file bears its name only once it is whole. One that somebody else put there looks the same, and is to go before
            // the ring has files above it.
            HeaderFacts::Blank | HeaderFacts::Damaged(_) => !limits::is_journal_file_bytes(file.bytes),
        };
        let facts = Facts {
            gap,
            shortened: files.iter().position(is_shorter),
            anchor: if flushed.frame == FrameNo(0) && !files.is_empty() { Anchor::Start } else { Anchor::Missing },
            files,
            flushed: *flushed,
            end: *flushed,
            end_file: None,
            end_flags: 0,
            end_timeline: Timeline::default(),
            end_time: TimeUs::default(),
            end_steady: TimeUs::default(),
            journal_id_max,
            watermark: flushed.frame,
            watermark_lsn: flushed.last_lsn,
            witness: None,
            uncommitted: None,
            manifest_seen: ManifestVersion::default(),
            lsn_seen: flushed.last_lsn,
            beyond: Beyond::default(),
            contradiction: None,
            stop: None,
        };
        Ok(Self { identity, disk, firsts, links: Vec::new(), facts })
    }

    /// Finds the file that holds `flushed`: by the frame itself, by the frame behind it, or by its use.
    fn anchor(&mut self) -> Result<()> {
        let flushed = self.facts.flushed;
        let behind = flushed.position.saturating_add(u64::from(flushed.frame_len));
        if flushed.frame == FrameNo(0) || !flushed.position.is_multiple_of(STEP) || !behind.is_multiple_of(STEP) {
            return Ok(());
        }
        let mut found = None;
        for n in 0..self.facts.files.len() {
            if let Look::Frame(header, hash, _) | Look::HeaderOnly(header, hash) =
                self.disk.look(n, flushed.position)?
                && header.journal == flushed.journal
                && hash == flushed.hash
            {
                self.note_end(&header);
                found = Some(n);
                break;
            }
            if let Look::Frame(header, ..) | Look::HeaderOnly(header, _) = self.disk.look(n, behind)?
                && header.journal == flushed.journal
                && header.names_as_predecessor(&flushed)
            {
                found = Some(n);
                break;
            }
        }
        let of_use = |f: &FileFacts| f.journal == Some(flushed.journal);
        self.facts.end_file = found.or_else(|| self.facts.files.iter().position(of_use));
        let named = |f: &FileFacts| matches!(&f.header, HeaderFacts::Valid(h) if h.left == flushed);
        if self.facts.end_file.is_some() || self.facts.files.iter().any(named) {
            self.facts.anchor = Anchor::Found;
        }
        Ok(())
    }

    /// Follows the chain to its end.
    fn walk(&mut self, sink: &mut Sink<'_>) -> Result<()> {
        loop {
            let step = match self.in_another_file()? {
                Step::None => self.right_behind()?,
                step => step,
            };
            match step {
                Step::Frame(n, header, hash, frame) => self.accept(n, &header, hash, frame, sink)?,
                Step::Broken(n, why) => {
                    self.facts.anchor = Anchor::Found;
                    self.facts.stop = Some((self.facts.place(n, FIRST_FRAME_AT), why));
                    return Ok(());
                }
                Step::None => return Ok(()),
            }
        }
    }

    fn note_end(&mut self, header: &FrameHeader) {
        self.facts.end_flags = header.flags;
        self.facts.end_timeline = header.timeline;
        self.facts.end_time = header.time;
        self.facts.end_steady = self.facts.end_steady.max(header.steady);
    }

    fn accept(
        &mut self, n: usize, header: &FrameHeader, hash: [u8; 16], frame: AlignedBuf, sink: &mut Sink<'_>,
    ) -> Result<()> {
        if header.position == FIRST_FRAME_AT && header.journal != self.facts.end.journal {
            self.links.push(Link { journal: header.journal, left: self.facts.end });
        }
        past::note_valid(&mut self.facts, n, header);
        let file = &mut self.facts.files[n];
        let begin = file.in_chain.as_ref().map_or(header.position, |range| range.start);
        file.in_chain = Some(begin..header.position + u64::from(header.frame_len));
        file.in_chain_of = Some(header.journal);
        self.facts.anchor = if self.facts.anchor == Anchor::Start { Anchor::Start } else { Anchor::Found };
        self.facts.end = header.as_ref(hash);
        self.facts.end_file = Some(n);
        self.note_end(header);
        sink(header, frame)
    }

    /// The latest use in another file that goes on from the end. A file with accepted frames is none: a file is
    /// begun anew only when nothing in it is needed any more.
    fn in_another_file(&mut self) -> Result<Step> {
        let end = self.facts.end;
        let mut latest: Option<(JournalId, usize)> = None;
        for n in 0..self.facts.files.len() {
            if self.facts.files[n].in_chain.is_none()
                && let Some(journal) = self.begun_at(n, &end)?
                && journal > end.journal
                && latest.is_none_or(|(other, _)| journal > other)
            {
                latest = Some((journal, n));
            }
        }
        let Some((journal, n)) = latest else { return Ok(Step::None) };
        let (header, hash, frame) = match self.disk.look(n, FIRST_FRAME_AT)? {
            Look::Frame(header, hash, frame) if header.journal == journal => (header, hash, frame),
            Look::HeaderOnly(..) => return Ok(Step::Broken(n, PAYLOAD_WRONG)),
            Look::Frame(..) => return Ok(Step::Broken(n, FIRST_FRAME_LOST)),
            Look::Nothing(why) => return Ok(Step::Broken(n, why)),
        };
        if !header.names_as_predecessor(&end) {
            return Ok(Step::Broken(n, FIRST_FRAME_LOST));
        }
        if let Some(why) = out_of_order(&header, &end).or_else(|| content(&header, &frame).err()) {
            return Ok(Step::Broken(n, why));
        }
        Ok(Step::Frame(n, header, hash, frame))
    }

    /// The use in file `n` that goes on from `end`, if one does and was begun.
    fn begun_at(&mut self, n: usize, end: &FrameRef) -> Result<Option<JournalId>> {
        if let Some(first) = &self.firsts[n]
            && first.names_as_predecessor(end)
        {
            return Ok(Some(first.journal));
        }
        let HeaderFacts::Valid(header) = &self.facts.files[n].header else { return Ok(None) };
        let (journal, left) = (header.journal, header.left);
        let named = left.frame == end.frame && left.journal == end.journal && left.hash == end.hash;
        if !named || journal <= end.journal {
            return Ok(None);
        }
        let identity = self.identity;
        let damaged_first = self
            .disk
            .block(n, FIRST_FRAME_AT)?
            .is_some_and(|block| FrameHeader::resembles(block, identity.store, journal, FIRST_FRAME_AT));
        let mut begun = damaged_first;
        let all = FIRST_FRAME_AT..self.disk.len(n);
        past::survey(&mut self.disk, n, all, &mut |header, _| begun |= header.journal == journal)?;
        Ok(begun.then_some(journal))
    }

    /// The frame right behind the end, in the same file.
    fn right_behind(&mut self) -> Result<Step> {
        let end = self.facts.end;
        let Some(n) = self.facts.end_file else { return Ok(Step::None) };
        let at = end.position + u64::from(end.frame_len);
        let why = match self.disk.look(n, at)? {
            Look::Frame(header, hash, frame)
                if mutants::makes(Mutant::StaleFrame) && header.journal < end.journal && header.entries > 0 =>
            {
                return Ok(Step::Frame(n, header, hash, frame));
            }
            Look::Frame(header, hash, frame) if header.journal == end.journal => {
                let why = match header.names_as_predecessor(&end) {
                    true => out_of_order(&header, &end).or_else(|| content(&header, &frame).err()),
                    false => Some(Malformed { what: "a frame that names another predecessor", at: 0 }),
                };
                match why {
                    None => return Ok(Step::Frame(n, header, hash, frame)),
                    Some(why) => why,
                }
            }
            Look::HeaderOnly(header, _) if header.journal == end.journal => PAYLOAD_WRONG,
            Look::Frame(..) | Look::HeaderOnly(..) => OLDER_USE,
            Look::Nothing(why) => why,
        };
        self.facts.stop = Some((self.facts.place(n, at), why));
        Ok(Step::None)
    }
}

const PAYLOAD_WRONG: Malformed = Malformed { what: "the payload's checksum is wrong", at: 0 };
const FIRST_FRAME_LOST: Malformed = Malformed { what: "the first frame of this use of the file is not there", at: 0 };
const OLDER_USE: Malformed = Malformed { what: "a frame of another use of the file", at: 0 };

fn header_facts(disk: &mut Disk<'_>, file: usize, path: &Path, identity: &Identity) -> Result<HeaderFacts> {
    let Some(block) = disk.block(file, 0)? else {
        return Ok(HeaderFacts::Damaged(Malformed { what: "the file is shorter than a block", at: 0 }));
    };
    if block.iter().all(|b| *b == 0) {
        return Ok(HeaderFacts::Blank);
    }
    if let Some((format, features)) = JournalHeader::peek(block, |journal| identity.salt(journal))
        && (format != FORMAT_VERSION || !features.readable())
    {
        let message = format!("the journal file has format {format} or features that this version does not know");
        return Err(Error::new(ErrorKind::Refused, message)
            .file(path)
            .remedy("open the store with the version of everlog that wrote it, or a later one"));
    }
    Ok(match JournalHeader::decode(block, identity.store, |journal| identity.salt(journal)) {
        Ok(header) => HeaderFacts::Valid(header),
        Err(why) => HeaderFacts::Damaged(why),
    })
}
