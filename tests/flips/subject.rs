//! A store whose bits are flipped: its bytes, what is true of it, and which places must be noticed.
//!
//! The places are found in the bytes as docs/FORMAT.md has them, without the engine's code. Invariant: what is called
//! true here was said by the oracle and by both readers of the store as it was made.

use super::on_disk;
use crate::golden::listing::{Listing, Reads, opened_differs};
use crate::golden::maker::{DIR, Maker, in_memory, small};
use crate::golden::seal::{self, Part};
use crate::golden::stores::noise;
use crate::golden::told::{Ask, Op};
use crate::reader::{self, Files, Framed};
use crate::sim::SimClock;
use everlog::{LogInfo, Store};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const BLOCK: usize = 4096;

/// Where a bit lies, for what must be said of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A chunk of records: log and seqs are known.
    Data,
    /// A segment's index.
    Index,
    /// A segment's lookup block: what is damaged is a maybe.
    Lookup,
    /// A segment's root.
    Root,
    /// A segment's names.
    Names,
    /// A segment's states.
    State,
    /// Anything else of a segment.
    Segment,
    /// The manifest in force.
    Manifest,
    /// An older manifest.
    OldManifest,
    /// The identity.
    Identity,
    /// The header of a journal file with proven frames that are not flushed.
    JournalHeader,
    /// A frame that is proven: its LSNs are known, or its logs and seqs.
    Journal,
}

impl Place {
    /// Whether an answer about a log ever rests on it.
    #[must_use]
    pub fn is_asked_for(self) -> bool {
        !matches!(self, Self::Segment | Self::OldManifest | Self::JournalHeader)
    }

    /// Whether logs are looked up there.
    #[must_use]
    pub fn is_for_heads(self) -> bool {
        (Self::Index..=Self::State).contains(&self)
    }
}

/// Bytes of one file that are of one kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// The file.
    pub file: PathBuf,
    /// The bytes.
    pub range: Range<usize>,
    /// Their kind.
    pub place: Place,
}

/// What is true of a log.
pub(super) struct Log {
    pub info: LogInfo,
    pub records: Vec<Vec<u8>>,
    /// The last batch of one of its producers: id, epoch, number, first seq, next seq.
    pub sent: Option<Sent>,
}

/// A batch that a producer sent.
pub(super) struct Sent {
    pub id: Vec<u8>,
    pub epoch: u64,
    pub number: u64,
    /// None where it is not known what it held.
    pub ask: Option<Ask>,
    pub seqs: (u64, u64),
}

/// See the module.
pub struct Subject {
    files: BTreeMap<PathBuf, Vec<u8>>,
    pub(super) logs: BTreeMap<String, Log>,
    stretches: Vec<Stretch>,
}

impl Subject {
    /// The store that `files` are. Panics if it does not hold what `expected` says.
    #[must_use]
    pub fn new(files: &Files, expected: &Listing) -> Self {
        let contents = reader::read(files).unwrap_or_else(|fault| panic!("an intact store: {fault}"));
        assert_eq!(expected.difference(&Listing::from(&contents)), None, "the second reader of an intact store");
        let (io, clock) = (Arc::new(in_memory(files)), Arc::new(SimClock::default()));
        let (store, _steps) = Store::open_stepped(io, clock, Path::new(DIR), small()).expect("an intact store");
        assert_eq!(opened_differs(&store, expected).expect("an intact store"), None, "an intact store");
        let log = |(name, log): (&String, &reader::Log)| {
            let info = Reads::info(&store, name).expect("an intact store");
            let sent = log.producers.iter().filter_map(|(id, producer)| {
                let last = producer.sent.last()?;
                let (epoch, number, seqs) = (producer.epoch, last.number, (last.first, last.next));
                Some((last.lsn, Sent { id: id.clone(), epoch, number, ask: None, seqs }))
            });
            let sent = sent.max_by_key(|(lsn, _)| *lsn).map(|(_, sent)| sent);
            let records = log.records.iter().map(|record| record.payload.clone()).collect();
            (name.clone(), Log { info, records, sent })
        };
        Self {
            files: files.iter().map(|(file, bytes)| (on_disk(file), bytes.clone())).collect(),
            logs: contents.logs.iter().map(log).collect(),
            stretches: stretches(files, &contents.frames),
        }
    }

    /// A small store that has a bit of everything in two segments and a journal behind them, as a killed process leaves
    /// it: compressed and not; metadata, tags, producers, a fork, a trim, a deletion and a creation anew.
    #[must_use]
    pub fn small() -> Self {
        let (maker, numbered) = make_small();
        let mut subject = Self::new(&maker.files(), &maker.listing());
        for ask in numbered {
            let sent = subject.logs.get_mut(&ask.log).and_then(|log| log.sent.as_mut()).expect("it was numbered");
            let (id, epoch, number) = ask.producer.clone().expect("it is numbered");
            assert_eq!((&sent.id, sent.epoch, sent.number), (&id, epoch, number), "the last of its producer");
            sent.ask = Some(ask);
        }
        subject
    }

    /// Its files, on a disk in memory.
    #[must_use]
    pub fn files(&self) -> &BTreeMap<PathBuf, Vec<u8>> {
        &self.files
    }

    /// All bytes whose damage must be noticed.
    #[must_use]
    pub fn stretches(&self) -> &[Stretch] {
        &self.stretches
    }

    /// The kinds of place that it has.
    pub fn places(&self) -> impl Iterator<Item = Place> {
        self.stretches.iter().map(|stretch| stretch.place).collect::<BTreeSet<_>>().into_iter()
    }
}

/// The store, and the last numbered batch of each log that has one.
fn make_small() -> (Maker, Vec<Ask>) {
    let record = |seed| Op::Record(noise(30, seed));
    let text = |n: u64| Op::Record(format!("record {n}, a text, ").repeat(8).into_bytes());
    let create = |metadata: &str| Op::Create(metadata.as_bytes().to_vec());
    let mut maker = Maker::new(small());
    maker.open();
    maker.append(&[
        Ask::of("a/text", [create("texts"), text(0), text(1)]),
        Ask::of("a/noise", [create(""), record(1)]).by("device", 1, 0).tagged("tag 1"),
        Ask::of("b/idle", [create("in the first segment alone"), record(2)]).by("phone", 0, 0),
        Ask::of("b/gone", [create(""), record(3)]),
        Ask::of("b/anew", [create(""), record(4), Op::Delete]),
        Ask::of("b/trimmed", [create(""), record(5), record(6)]),
    ]);
    let idle = Ask::of("b/idle", [create("in the first segment alone"), record(2)]).by("phone", 0, 0);
    maker.flush();
    let noise_2 = Ask::of("a/noise", [record(7)]).by("device", 1, 1).tagged("tag 2");
    maker.append(&[
        Ask::of("a/text", [record(12), Op::Metadata(b"more about texts".to_vec())]),
        noise_2.clone(),
        Ask::of("b/gone", [Op::Delete]),
        Ask::of("b/anew", [create("anew"), record(8)]),
        Ask::of("b/trimmed", [Op::Trim(1)]),
    ]);
    maker.append(&[Ask::of("c/fork", [Op::Fork("a/noise".to_owned(), 1), record(9)])]);
    maker.flush();
    maker.kill();
    maker.open();
    maker.append(&[
        Ask::of("b/trimmed", [record(10)]),
        Ask::of("c/new", [create("in the journal alone"), record(11), Op::Close]),
    ]);
    maker.idle();
    maker.kill();
    (maker, vec![idle, noise_2])
}

/// All places where damage must be found, file by file.
fn stretches(files: &Files, frames: &[Framed]) -> Vec<Stretch> {
    let mut out = Vec::new();
    let mut add = |file: &str, range: Range<usize>, place| {
        if !range.is_empty() {
            out.push(Stretch { file: on_disk(file), range, place });
        }
    };
    let in_force = seal::manifest(files);
    for (file, bytes) in files {
        match file.as_str() {
            "IDENTITY" => add(file, 0..bytes.len(), Place::Identity),
            _ if *file == in_force => add(file, 0..bytes.len(), Place::Manifest),
            _ if file.starts_with("manifest-") => add(file, 0..bytes.len(), Place::OldManifest),
            _ if file.ends_with(".seg") => {
                add(file, 0..BLOCK, Place::Segment);
                for (part, range) in seal::parts(bytes) {
                    let place = match part {
                        Part::Data => Place::Data,
                        Part::Index => Place::Index,
                        Part::State => Place::State,
                        Part::Lookup => Place::Lookup,
                        Part::Root => Place::Root,
                        Part::Names => Place::Names,
                        Part::Zeros | Part::Meta => Place::Segment,
                    };
                    add(file, range, place);
                }
                add(file, bytes.len() - BLOCK..bytes.len(), Place::Segment);
            }
            _ => {}
        }
    }
    let mut in_use = BTreeSet::new();
    for frame in frames {
        // The proof must be another frame's: a bit that is flipped in a frame takes its own proof away.
        let proven = |other: &Framed| other.number != frame.number && other.proves >= frame.number;
        if frames.iter().any(proven) {
            if in_use.insert(&frame.file) {
                add(&frame.file, 0..BLOCK, Place::JournalHeader);
            }
            add(&frame.file, frame.at..frame.at + frame.len, Place::Journal);
        }
    }
    out
}
