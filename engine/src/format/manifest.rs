//! The manifest's layout: one whole file a version, saying which segments make up the store. docs/FORMAT.md,
//! "Manifest".
//!
//! Which version counts and how it gets to disk is `manifest/mod.rs`. Invariant: the digest at the end covers every
//! byte before it, so that a manifest is believed whole or not at all.

use super::bytes::{Reader, Sink};
use super::frame::FrameRef;
use super::identity::Identity;
use super::{Decoded, FORMAT_VERSION, Features, Malformed};
use crate::types::{Epoch, FrameNo, JournalId, Lsn, ManifestVersion, SegmentId, StoreId, TimeUs, Timeline};

const MAGIC: &[u8; 8] = b"EVLGMNFT";
const DIGEST_LEN: usize = 32;
const FIXED_LEN: usize = 8 + 8 + 24 + 16 + 32 + 8 + 8 + 8 + 8 + 16 + FRAME_REF_LEN + 8 + 16 + 4 + 4 + 4;
const FRAME_REF_LEN: usize = 8 + 8 + 4 + 8 + 8 + 16;

/// The length of a timeline in a manifest and in a segment's meta stream, in bytes.
pub const TIMELINE_LEN: usize = 8 + 8 + 8 + 8 + 1;
/// The length of a segment in a manifest, in bytes.
pub const SEGMENT_META_LEN: usize = 11 * 8 + 32;
/// The length of a mark in a manifest, in bytes.
const MARK_LEN: usize = 8 + 8;
/// The most marks in a manifest.
pub const MARKS_MAX: usize = 256;

/// Which segments make up the store, and where the journal goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Which store this is, as in the identity file.
    pub identity: Identity,
    /// The version, from 1, dense.
    pub version: ManifestVersion,
    /// The right to write to a cold store: 0 while there is none.
    pub epoch: Epoch,
    /// The time of the last frame flushed.
    pub time: TimeUs,
    /// No segment has this id or a higher one.
    pub next_segment: SegmentId,
    /// No use of a journal file had this id or a higher one when this version was written.
    pub next_journal: JournalId,
    /// The last frame flushed: everything up to it lies in segments.
    pub flushed: FrameRef,
    /// The steady clock when this version was written: see [`crate::clock::Steady`].
    pub steady: TimeUs,
    /// The greatest that a merge applied: what ended at or before it may be gone.
    pub cutoff: Mark,
    /// Points in time, ascending, by which entries were written: how old an LSN is at least.
    pub marks: Vec<Mark>,
    /// Every timeline of the store, oldest first.
    pub timelines: Vec<TimelineStart>,
    /// The segments, by first LSN; their LSNs do not overlap.
    pub segments: Vec<SegmentMeta>,
}

/// An LSN and a time of the steady clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// In a mark: everything up to it was written before [`Self::time`]. In a cutoff: deletions and trims up to it count.
    pub lsn: Lsn,
    /// In a cutoff: what expired at or before it counts.
    pub time: TimeUs,
}

/// Where a timeline began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimelineStart {
    /// The timeline.
    pub timeline: Timeline,
    /// The one it goes on from; zero for the first.
    pub parent: Timeline,
    /// The first LSN written on it.
    pub first_lsn: Lsn,
    /// When it began.
    pub began: TimeUs,
    /// Why.
    pub cause: TimelineCause,
}

/// Why a timeline began. The numbers are on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TimelineCause {
    /// The store was created.
    Creation = 0,
    /// The store was opened.
    Open = 1,
    /// The store was restored, and devices are to put back what is missing.
    Heal = 2,
    /// The store was restored as it was once, and devices are to set aside what is newer.
    Rewind = 3,
}

/// A segment, as the manifest knows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SegmentMeta {
    /// The segment.
    pub id: SegmentId,
    /// The file's length in bytes.
    pub bytes: u64,
    /// The first LSN that it covers.
    pub first_lsn: Lsn,
    /// The last LSN that it covers.
    pub last_lsn: Lsn,
    /// The time of its first entry; 0 if there are none.
    pub first_time: TimeUs,
    /// The time of its last entry; 0 if there are none.
    pub last_time: TimeUs,
    /// Logs.
    pub logs: u64,
    /// Records.
    pub records: u64,
    /// Records and control operations.
    pub entries: u64,
    /// Bytes of the bodies of all entries.
    pub payload_bytes: u64,
    /// Logs that are gone, or whose state record here says that they are deleted, trimmed or will expire.
    pub ends: u64,
    /// BLAKE3 of the whole file.
    pub digest: [u8; 32],
}

impl Manifest {
    /// The file. Panics if the segments are not in the order of their LSNs: that would be a mistake of the caller's.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        assert!(in_order(&self.segments), "a manifest's segments are in the order of their LSNs and do not overlap");
        assert!(self.marks.len() <= MARKS_MAX, "marks are thinned out");
        let lists =
            self.marks.len() * MARK_LEN + self.timelines.len() * TIMELINE_LEN + self.segments.len() * SEGMENT_META_LEN;
        let mut out = Vec::with_capacity(FIXED_LEN + lists + DIGEST_LEN);
        out.put(MAGIC);
        put(&mut out, u64::from(FORMAT_VERSION));
        let features = self.identity.features;
        put(&mut out, features.compatible);
        put(&mut out, features.read_only_compatible);
        put(&mut out, features.incompatible);
        out.put(&self.identity.store.0);
        out.put(&self.identity.key);
        put(&mut out, self.identity.created.0);
        put(&mut out, self.version.0);
        put(&mut out, self.epoch.0);
        put(&mut out, self.time.0);
        put(&mut out, self.next_segment.0);
        put(&mut out, self.next_journal.0);
        self.flushed.encode(&mut out);
        put(&mut out, self.steady.0);
        self.cutoff.encode(&mut out);
        out.put(&count(self.marks.len()));
        self.marks.iter().for_each(|mark| mark.encode(&mut out));
        out.put(&count(self.timelines.len()));
        self.timelines.iter().for_each(|t| t.encode(&mut out));
        out.put(&count(self.segments.len()));
        self.segments.iter().for_each(|s| s.encode(&mut out));
        let digest = blake3::hash(&out);
        out.put(digest.as_bytes());
        out
    }

    /// Reads only what every format begins and ends with, so that a newer one is told from a damaged one: the digest
    /// is checked, and the format and the feature bits are given.
    pub fn peek(bytes: &[u8]) -> Decoded<(u16, Features)> {
        let mut reader = checked(bytes)?;
        let format = reader.u16()?;
        if reader.array::<6>()? != [0; 6] {
            return Err(Malformed { what: "bytes that should be zero are not", at: 10 });
        }
        Ok((format, Features::read(&mut reader)?))
    }

    /// Reads the file, which is of this version's format.
    pub fn decode(bytes: &[u8]) -> Decoded<Self> {
        let (format, features) = Self::peek(bytes)?;
        if format != FORMAT_VERSION {
            return Err(Malformed { what: "a format that this version does not know", at: 8 });
        }
        let mut reader = checked(bytes)?;
        reader.take(8 + 24)?;
        let identity = Identity {
            features,
            store: StoreId(reader.array()?),
            key: reader.array()?,
            created: TimeUs(reader.u64()?),
        };
        let manifest = Self {
            identity,
            version: ManifestVersion(reader.u64()?),
            epoch: Epoch(reader.u64()?),
            time: TimeUs(reader.u64()?),
            next_segment: SegmentId(reader.u64()?),
            next_journal: JournalId(reader.u64()?),
            flushed: FrameRef::decode(&mut reader)?,
            steady: TimeUs(reader.u64()?),
            cutoff: Mark::decode(&mut reader)?,
            marks: list(&mut reader, MARK_LEN, Mark::decode)?,
            timelines: list(&mut reader, TIMELINE_LEN, TimelineStart::decode)?,
            segments: list(&mut reader, SEGMENT_META_LEN, SegmentMeta::decode)?,
        };
        reader.end()?;
        if !in_order(&manifest.segments) {
            return Err(reader.malformed("segments out of order"));
        }
        let ascend = |w: &[Mark]| w[0].lsn < w[1].lsn && w[0].time <= w[1].time;
        if manifest.marks.len() > MARKS_MAX || !manifest.marks.windows(2).all(ascend) {
            return Err(reader.malformed("marks out of order, or too many"));
        }
        // What counts on from them never overflows then.
        if manifest.flushed.last_lsn.0.max(manifest.flushed.frame.0) > NUMBER_MAX {
            return Err(reader.malformed("numbers that no store reaches"));
        }
        Ok(manifest)
    }
}

/// The largest number of a frame or an LSN that is believed: more than a million a second for as long as there are
/// computers.
const NUMBER_MAX: u64 = u64::MAX >> 1;

/// A reader of what stands between magic and digest, if both are right.
fn checked(bytes: &[u8]) -> Decoded<Reader<'_>> {
    let Some(at) = bytes.len().checked_sub(DIGEST_LEN) else {
        return Err(Malformed { what: "the file is too short to be a manifest", at: bytes.len() });
    };
    let (content, digest) = bytes.split_at(at);
    let mut reader = Reader::new(content);
    if reader.take(8)? != MAGIC {
        return Err(Malformed { what: "no manifest's magic", at: 0 });
    }
    if blake3::hash(content).as_bytes() != digest {
        return Err(Malformed { what: "the manifest's digest is wrong", at });
    }
    Ok(reader)
}

fn in_order(segments: &[SegmentMeta]) -> bool {
    segments.iter().all(|s| s.first_lsn <= s.last_lsn) && segments.windows(2).all(|w| w[0].last_lsn < w[1].first_lsn)
}

fn put(out: &mut impl Sink, value: u64) {
    out.put(&value.to_le_bytes());
}

fn count(len: usize) -> [u8; 4] {
    u32::try_from(len).expect("a list in memory has fewer than 2^32 items").to_le_bytes()
}

/// A `u32` count of items of `item_len` bytes each, then the items; the count is bounded by the bytes left.
fn list<T>(reader: &mut Reader<'_>, item_len: usize, item: impl Fn(&mut Reader<'_>) -> Decoded<T>) -> Decoded<Vec<T>> {
    let count = reader.u32()? as usize;
    if count > reader.left() / item_len {
        return Err(reader.malformed("a list longer than the file"));
    }
    (0..count).map(|_| item(reader)).collect()
}

impl Features {
    fn read(reader: &mut Reader<'_>) -> Decoded<Self> {
        Ok(Self { compatible: reader.u64()?, read_only_compatible: reader.u64()?, incompatible: reader.u64()? })
    }
}

impl Mark {
    fn encode(&self, out: &mut impl Sink) {
        put(out, self.lsn.0);
        put(out, self.time.0);
    }

    fn decode(reader: &mut Reader<'_>) -> Decoded<Self> {
        Ok(Self { lsn: Lsn(reader.u64()?), time: TimeUs(reader.u64()?) })
    }
}

impl FrameRef {
    /// Appends its bytes.
    pub(super) fn encode(&self, out: &mut impl Sink) {
        put(out, self.journal.0);
        put(out, self.position);
        out.put(&self.frame_len.to_le_bytes());
        put(out, self.frame.0);
        put(out, self.last_lsn.0);
        out.put(&self.hash);
    }

    /// Reads the next one.
    pub(super) fn decode(reader: &mut Reader<'_>) -> Decoded<Self> {
        Ok(Self {
            journal: JournalId(reader.u64()?),
            position: reader.u64()?,
            frame_len: reader.u32()?,
            frame: FrameNo(reader.u64()?),
            last_lsn: Lsn(reader.u64()?),
            hash: reader.array()?,
        })
    }
}

pub(super) fn put_timeline(out: &mut impl Sink, timeline: Timeline) {
    out.put(&timeline.counter.to_le_bytes());
    out.put(&timeline.random.to_le_bytes());
}

pub(super) fn get_timeline(reader: &mut Reader<'_>) -> Decoded<Timeline> {
    Ok(Timeline { counter: reader.u32()?, random: reader.u32()? })
}

impl TimelineStart {
    /// Appends its [`TIMELINE_LEN`] bytes.
    pub fn encode(&self, out: &mut impl Sink) {
        put_timeline(out, self.timeline);
        put_timeline(out, self.parent);
        put(out, self.first_lsn.0);
        put(out, self.began.0);
        out.put(&[self.cause as u8]);
    }

    /// Reads the next one.
    pub fn decode(reader: &mut Reader<'_>) -> Decoded<Self> {
        Ok(Self {
            timeline: get_timeline(reader)?,
            parent: get_timeline(reader)?,
            first_lsn: Lsn(reader.u64()?),
            began: TimeUs(reader.u64()?),
            cause: match reader.u8()? {
                0 => TimelineCause::Creation,
                1 => TimelineCause::Open,
                2 => TimelineCause::Heal,
                3 => TimelineCause::Rewind,
                _ => return Err(reader.malformed("an unknown cause of a timeline")),
            },
        })
    }
}

impl SegmentMeta {
    fn encode(&self, out: &mut impl Sink) {
        let lsns = [self.first_lsn.0, self.last_lsn.0];
        let times = [self.first_time.0, self.last_time.0];
        let counts = [self.logs, self.records, self.entries, self.payload_bytes, self.ends];
        let all = [self.id.0, self.bytes].into_iter().chain(lsns).chain(times).chain(counts);
        all.for_each(|value| put(out, value));
        out.put(&self.digest);
    }

    fn decode(reader: &mut Reader<'_>) -> Decoded<Self> {
        Ok(Self {
            id: SegmentId(reader.u64()?),
            bytes: reader.u64()?,
            first_lsn: Lsn(reader.u64()?),
            last_lsn: Lsn(reader.u64()?),
            first_time: TimeUs(reader.u64()?),
            last_time: TimeUs(reader.u64()?),
            logs: reader.u64()?,
            records: reader.u64()?,
            entries: reader.u64()?,
            payload_bytes: reader.u64()?,
            ends: reader.u64()?,
            digest: reader.array()?,
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A manifest with something in every field.
    pub(crate) fn sample() -> Manifest {
        let timeline = |counter| Timeline { counter, random: 77 + counter };
        let start = |counter, cause| TimelineStart {
            timeline: timeline(counter),
            parent: if counter == 1 { Timeline::default() } else { timeline(counter - 1) },
            first_lsn: Lsn(u64::from(counter) * 10),
            began: TimeUs(5),
            cause,
        };
        let segment = |n: u64| SegmentMeta {
            id: SegmentId(n),
            bytes: 8192,
            first_lsn: Lsn(n * 10),
            last_lsn: Lsn(n * 10 + 9),
            first_time: TimeUs(6),
            last_time: TimeUs(7),
            logs: 8,
            records: 9,
            entries: 10,
            payload_bytes: 11,
            ends: 4,
            digest: [n as u8; 32],
        };
        Manifest {
            identity: Identity { features: Features::KNOWN, store: StoreId([1; 16]), key: [2; 32], created: TimeUs(3) },
            version: ManifestVersion(4),
            epoch: Epoch(0),
            time: TimeUs(12),
            next_segment: SegmentId(13),
            next_journal: JournalId(14),
            flushed: FrameRef {
                journal: JournalId(15),
                position: 4096,
                frame_len: 8192,
                frame: FrameNo(16),
                last_lsn: Lsn(17),
                hash: [18; 16],
            },
            steady: TimeUs(19),
            cutoff: Mark { lsn: Lsn(5), time: TimeUs(6) },
            marks: vec![Mark { lsn: Lsn(7), time: TimeUs(8) }, Mark { lsn: Lsn(9), time: TimeUs(8) }],
            timelines: vec![start(1, TimelineCause::Creation), start(2, TimelineCause::Open)],
            segments: vec![segment(1), segment(2), segment(3)],
        }
    }

    #[test]
    fn a_manifest_comes_back_and_each_damaged_byte_is_noticed() {
        let good = sample().encode();
        assert_eq!(good.len(), FIXED_LEN + 2 * MARK_LEN + 2 * TIMELINE_LEN + 3 * SEGMENT_META_LEN + DIGEST_LEN);
        assert_eq!(Manifest::decode(&good), Ok(sample()));
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 8;
            assert!(Manifest::decode(&bad).is_err(), "byte {at}");
            assert!(Manifest::peek(&bad).is_err(), "byte {at}");
            assert!(Manifest::decode(&good[..at]).is_err(), "cut at {at}");
        }
    }

    #[test]
    fn segments_that_overlap_are_refused() {
        let mut bytes = sample().encode();
        let second = bytes.len() - DIGEST_LEN - 2 * SEGMENT_META_LEN;
        bytes[second + 16..second + 24].copy_from_slice(&19u64.to_le_bytes());
        let at = bytes.len() - DIGEST_LEN;
        let digest = *blake3::hash(&bytes[..at]).as_bytes();
        bytes[at..].copy_from_slice(&digest);
        assert_eq!(Manifest::decode(&bytes).expect_err("an overlap").what, "segments out of order");
    }

    proptest! {
        #[test]
        fn a_decoder_never_panics(bytes: Vec<u8>) {
            let mut bytes = [MAGIC.as_slice(), &bytes].concat();
            let digest = *blake3::hash(&bytes).as_bytes();
            bytes.extend_from_slice(&digest);
            let _ = Manifest::decode(&bytes);
        }
    }
}
