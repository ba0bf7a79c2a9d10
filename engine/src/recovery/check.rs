//! What is wrong with the journal, for `everlog verify`: everything that an open would refuse, and damaged headers that
//! an open does without.
//!
//! It only reads, and works beside a running store; the unproven tail of a live journal is no finding. Invariant:
//! whatever is proved durable, not flushed, and cannot be read gives a finding with its LSNs, and one for each log
//! that the damaged frame still names.

use super::decide::{Action, decide};
use super::disk::{Disk, Look};
use super::gather;
use super::scan::{Facts, HeaderFacts, Place, scan};
use crate::error::{Error, ErrorKind, Result};
use crate::finding::Finding;
use crate::format::Malformed;
use crate::format::bytes::Reader;
use crate::format::entry::{Create, Entry, ForkOf, Kind, split_payload};
use crate::format::frame::{FrameHeader, FrameRef, HEADER_LEN};
use crate::format::identity::Identity;
use crate::format::manifest::Manifest;
use crate::io::Io;
use crate::journal::names;
use crate::limits::frame_bytes_max;
use crate::types::{LogId, Lsn};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;

/// What a look at the journal found.
#[derive(Debug, Default)]
pub struct Checked {
    /// Damaged headers of files in use.
    pub headers: Vec<Finding>,
    /// Why an open would refuse, and what is affected.
    pub refusal: Vec<Finding>,
    /// What was read; None if a file could not be.
    pub facts: Option<Facts>,
}

/// Checks the journal files of `dir` as they are now, against `manifest`. `name_of` looks a log's name up in the
/// segments.
///
/// # Errors
/// [`ErrorKind::Io`] if the directory cannot be listed; [`ErrorKind::Refused`] as [`scan`]. A file that cannot be read
/// is a finding.
pub fn check(
    io: &dyn Io, dir: &Path, manifest: &Manifest, name_of: &mut dyn FnMut(LogId) -> Option<String>,
) -> Result<Checked> {
    let identity = &manifest.identity;
    let mut sink = |_: &FrameHeader, _| Ok(());
    let facts = match gather(io, dir, manifest, &mut sink) {
        Ok(facts) => facts,
        Err(e) if e.kind() != ErrorKind::Refused && e.path().is_some_and(names::is_journal) => {
            return Ok(Checked { refusal: vec![unreadable(&e, &manifest.flushed)], ..Checked::default() });
        }
        Err(e) => return Err(e),
    };
    let headers = headers(&facts);
    let mut refusal = Vec::new();
    let Action::Refuse { lsns, why } = decide(&facts, manifest.version) else {
        return Ok(Checked { headers, refusal, facts: Some(facts) });
    };
    let (file, offset) = match (&facts.contradiction, &facts.stop) {
        (Some(contradiction), _) => (contradiction.place.file.clone(), Some(contradiction.place.offset)),
        (None, Some((place, _))) => (place.file.clone(), Some(place.offset)),
        (None, None) => (dir.to_owned(), None),
    };
    refusal.push(Finding { offset, lsns: Some(lsns), ..Finding::new(file, why) });
    if let Some((place, _)) = &facts.stop {
        let groups = affected(io, identity, place, facts.end.last_lsn.next())?;
        let created = names_created(io, dir, identity, &manifest.flushed, &groups)?;
        let mut resolve = |log| created.get(&log).cloned().or_else(|| name_of(log));
        refusal.extend(groups.into_iter().map(|group| group.finding(place, &mut resolve)));
    }
    Ok(Checked { headers, refusal, facts: Some(facts) })
}

/// A file that the disk does not give: all that is not flushed may lie there.
fn unreadable(error: &Error, flushed: &FrameRef) -> Finding {
    let file = error.path().unwrap_or(Path::new("")).to_owned();
    let lsns = Some(flushed.last_lsn.0 + 1..u64::MAX);
    Finding { lsns, ..Finding::new(file, error.to_string()) }
}

/// Damaged headers of the files in use.
fn headers(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (n, file) in facts.files.iter().enumerate() {
        let what = match &file.header {
            _ if file.in_chain.is_none() && facts.end_file != Some(n) => continue,
            HeaderFacts::Damaged(why) => format!("the journal file's header is damaged: {why}"),
            HeaderFacts::Blank => "the journal file's header is blank, though frames are behind it".to_owned(),
            // A later one is what an open leaves that died before its first frame.
            HeaderFacts::Valid(header) if file.in_chain_of.is_some_and(|journal| header.journal < journal) => {
                format!("the journal file's header is that of another use ({}) than its frames", header.journal)
            }
            HeaderFacts::Valid(header) if header.file_bytes != file.bytes => {
                format!("the journal file has {} bytes, its header says {}", file.bytes, header.file_bytes)
            }
            HeaderFacts::Valid(_) => continue,
        };
        findings.push(Finding { offset: Some(0), ..Finding::new(&*file.path, what) });
    }
    findings
}

/// What a damaged frame still says of one log.
struct Group {
    log: LogId,
    seqs: Option<Range<u64>>,
    lsns: Range<u64>,
    /// Whether every entry of it is right by its own checksum.
    intact: bool,
}

impl Group {
    fn finding(self, place: &Place, resolve: &mut dyn FnMut(LogId) -> Option<String>) -> Finding {
        let what = match self.intact {
            true => "not served, since its frame is damaged; by its own checksum it is intact, and can be salvaged",
            false => "an entry of the journal is damaged",
        };
        // Where nothing but a damaged entry names the log, the id may be what is damaged.
        let certain = self.intact || self.seqs.is_some();
        let log = resolve(self.log).or_else(|| certain.then(|| self.log.to_string()));
        Finding {
            offset: Some(place.offset),
            log,
            seqs: self.seqs,
            lsns: Some(self.lsns),
            ..Finding::new(&*place.file, what)
        }
    }
}

/// An entry of a damaged frame.
struct Seen {
    log: LogId,
    lsn: u64,
    /// Its seq and kind, if its checksum is right.
    entry: Option<(u64, Kind)>,
}

/// The entries that stand in the frame at `place`, which does not continue the chain, by log: the intact ones, and
/// each damaged one. Neither the frame's header nor its payload is trusted, only each entry's own checksum.
fn affected(io: &dyn Io, identity: &Identity, place: &Place, first: Lsn) -> Result<Vec<Group>> {
    let mut disk = Disk::new(io, identity);
    let file_bytes = disk.add(&place.file)?;
    let left = disk.len(0).saturating_sub(place.offset);
    let len = match disk.look(0, place.offset)? {
        // Another use's frame, or one that belongs elsewhere: what stood here is gone.
        Look::Frame(header, ..) | Look::HeaderOnly(header, _) if header.first_lsn != first => return Ok(Vec::new()),
        Look::Frame(header, ..) | Look::HeaderOnly(header, _) => u64::from(header.frame_len),
        Look::Nothing(_) => left.min(frame_bytes_max(file_bytes) as u64),
    };
    let frame = disk.bytes(0, place.offset, len as usize)?;
    let seen = walk(frame.get(HEADER_LEN..).unwrap_or_default(), first);
    let mut by_log: BTreeMap<LogId, Vec<&Seen>> = BTreeMap::new();
    seen.iter().for_each(|seen| by_log.entry(seen.log).or_default().push(seen));
    let mut groups = Vec::new();
    for (log, seen) in by_log {
        let intact: Vec<_> = seen.iter().filter_map(|s| Some((s.lsn, s.entry?))).collect();
        if let (Some((first, _)), Some((last, _))) = (intact.first(), intact.last()) {
            let seqs = intact.iter().filter(|(_, (_, kind))| *kind == Kind::Record).map(|(_, (seq, _))| *seq);
            let seqs = seqs.clone().min().map(|min| min..seqs.max().unwrap_or(min) + 1);
            groups.push(Group { log, seqs, lsns: *first..*last + 1, intact: true });
        }
        for (at, damaged) in seen.iter().enumerate().filter(|(_, s)| s.entry.is_none()) {
            let seqs = neighbours_seq(&seen, at).map(|seq| seq..seq + 1);
            groups.push(Group { log, seqs, lsns: damaged.lsn..damaged.lsn + 1, intact: false });
        }
    }
    Ok(groups)
}

/// The seq of a damaged entry, from the intact one next to it in its log: seqs are dense.
fn neighbours_seq(seen: &[&Seen], at: usize) -> Option<u64> {
    let before = at.checked_sub(1).and_then(|n| seen[n].entry);
    let behind = seen.get(at + 1).and_then(|s| s.entry);
    match (before, behind) {
        (Some((seq, kind)), _) => seq.checked_add(u64::from(kind == Kind::Record)),
        (None, Some((seq, _))) => seq.checked_sub(1),
        (None, None) => None,
    }
}

/// Follows batches and their entries as long as their lengths make sense.
fn walk(payload: &[u8], first: Lsn) -> Vec<Seen> {
    let (mut seen, mut batches) = (Vec::new(), Reader::new(payload));
    let mut lsn = first.0;
    while let Ok((len, count)) = batches.u32().and_then(|len| Ok((len, batches.u32()?))) {
        let Ok(bytes) = batches.take(len as usize) else { break };
        if len == 0 || count == 0 {
            break;
        }
        let mut reader = Reader::new(bytes);
        for n in 0..count {
            let Ok((log, body)) = entry(&mut reader) else {
                // The rest of this batch has no boundaries, but it says how many entries it has.
                lsn += u64::from(count - n);
                break;
            };
            let entry = Entry::decode(log, body).ok().map(|entry| (entry.seq.0, entry.kind));
            seen.push(Seen { log, lsn, entry });
            lsn += 1;
        }
    }
    seen
}

fn entry<'a>(reader: &mut Reader<'a>) -> std::result::Result<(LogId, &'a [u8]), Malformed> {
    Ok((LogId(reader.array()?), reader.bytes(usize::MAX)?))
}

/// The names of the logs in `groups` that are created in intact frames of the journal.
fn names_created(
    io: &dyn Io, dir: &Path, identity: &Identity, flushed: &FrameRef, groups: &[Group],
) -> Result<BTreeMap<LogId, String>> {
    let wanted: BTreeSet<LogId> = groups.iter().map(|group| group.log).collect();
    let mut names = BTreeMap::new();
    if wanted.is_empty() {
        return Ok(names);
    }
    let mut sink = |header: &FrameHeader, frame: crate::io::AlignedBuf| {
        let payload = &frame[HEADER_LEN..HEADER_LEN + header.payload_len as usize];
        for raw in split_payload(payload).unwrap_or_default() {
            if wanted.contains(&raw.log)
                && let Ok(entry) = Entry::decode(raw.log, raw.body)
                && let Some(name) = created_name(&entry)
            {
                names.insert(raw.log, name);
            }
        }
        Ok(())
    };
    scan(io, dir, identity, flushed, &mut sink)?;
    Ok(names)
}

fn created_name(entry: &Entry<'_>) -> Option<String> {
    match entry.kind {
        Kind::Create => Create::decode(entry.payload).ok().map(|create| create.name.to_owned()),
        Kind::Fork => ForkOf::decode(entry.payload).ok().map(|fork| fork.create.name.to_owned()),
        _ => None,
    }
}
