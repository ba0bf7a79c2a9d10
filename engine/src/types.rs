//! The numbers and names that cross modules, each a type of its own.
//!
//! What this file does not do: it knows no file, no thread and no layout but the width of a number.

use std::fmt;

/// One block: the unit of alignment on disk, of the journal's frames and of index checksums, in bytes.
pub const BLOCK: usize = 4096;

macro_rules! number {
    ($(#[$meta:meta])* $name:ident) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub u64);

        impl $name {
            /// The number after this one. Panics on overflow, which 2^64 operations would need.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0.checked_add(1).expect("a 64-bit counter cannot be used up"))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// A record's position in the order of all records and control operations of the store; the first is 1,
    /// and 0 means "none yet".
    Lsn
}
number! {
    /// A record's dense position in its log, from 0.
    Seq
}
number! {
    /// The number of a frame; the first is 1, and 0 means "none yet".
    FrameNo
}
number! {
    /// One use of one journal file. Never used again, so that no older use's frame is ever valid.
    JournalId
}
number! {
    /// A segment. Never used again.
    SegmentId
}
number! {
    /// A version of the manifest, counted from 1.
    ManifestVersion
}
number! {
    /// The right to write to a cold store; 0 without one.
    Epoch
}

/// A log's 128-bit key: 64 bits of the keyed BLAKE3 of its owner, then 64 of the keyed BLAKE3 of its whole name,
/// so that an owner's logs lie together. Ordered bytewise.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LogId(pub [u8; 16]);

impl LogId {
    /// Its first half, which is the owner's, as a number that is ordered as LogIds are.
    #[must_use]
    pub fn owner(&self) -> u64 {
        (u128::from_be_bytes(self.0) >> 64) as u64
    }
}

impl fmt::Debug for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// The store's identity: 128 random bits drawn when it was created.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct StoreId(pub [u8; 16]);

impl fmt::Debug for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// A cold store's identity: 128 random bits drawn when the first store wrote to it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ColdId(pub [u8; 16]);

impl fmt::Debug for ColdId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl fmt::Display for ColdId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

/// A stretch of history: a counter and 32 random bits. Each open of a store starts one, that of a restored one too.
/// The zero timeline is that of the position before the first record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timeline {
    /// Grows by one with every new timeline of the store.
    pub counter: u32,
    /// Random, so that two histories that began at the same counter are told apart.
    pub random: u32,
}

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(text(&hex(u64::from(self.counter) << 32 | u64::from(self.random))))
    }
}

/// The 16 hexadecimal digits of a number, in lower case.
fn hex(number: u64) -> [u8; 16] {
    let mut digits = [0; 16];
    for (n, digit) in digits.iter_mut().enumerate() {
        *digit = b"0123456789abcdef"[(number >> (60 - 4 * n) & 15) as usize];
    }
    digits
}

fn text(digits: &[u8]) -> &str {
    std::str::from_utf8(digits).expect("digits are ASCII")
}

/// A position in a log that knows which history it belongs to: the timeline of the record before it, and the seq of the
/// record behind it. Written `{timeline}_{seq:016x}`, so that cursors of one log sort as text in the order of its
/// history.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cursor {
    /// The timeline of the record before; zero at position 0.
    pub timeline: Timeline,
    /// The seq of the next record.
    pub seq: u64,
}

impl Cursor {
    /// The length of its text, in bytes.
    pub const TEXT_LEN: usize = 16 + 1 + 16;
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // By hand: a server writes one of these into each of its answers.
        let mut all = [b'_'; 33];
        all[..16].copy_from_slice(&hex(u64::from(self.timeline.counter) << 32 | u64::from(self.timeline.random)));
        all[17..].copy_from_slice(&hex(self.seq));
        f.write_str(text(&all))
    }
}

/// The text is no cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a position is written as 16 hexadecimal digits, an underscore, and 16 more, in lower case")]
pub struct NoCursor;

impl std::str::FromStr for Cursor {
    type Err = NoCursor;

    fn from_str(text: &str) -> Result<Self, NoCursor> {
        let bytes = text.as_bytes();
        let digits = |part: &[u8]| part.iter().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if bytes.len() != Self::TEXT_LEN || bytes[16] != b'_' || !digits(&bytes[..16]) || !digits(&bytes[17..]) {
            return Err(NoCursor);
        }
        let number = |part: &str| u64::from_str_radix(part, 16).map_err(|_| NoCursor);
        let timeline = number(&text[..16])?;
        let timeline = Timeline { counter: (timeline >> 32) as u32, random: timeline as u32 };
        Ok(Self { timeline, seq: number(&text[17..])? })
    }
}

/// Where a read begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Position {
    /// The first record that is kept.
    Start,
    /// A seq, whatever history it belongs to.
    Seq(u64),
    /// A cursor, if the log's history still leads through it.
    Cursor(Cursor),
    /// The log's end at that moment.
    End,
}

impl From<u64> for Position {
    fn from(seq: u64) -> Self {
        Self::Seq(seq)
    }
}

impl From<Cursor> for Position {
    fn from(cursor: Cursor) -> Self {
        Self::Cursor(cursor)
    }
}

/// Wall-clock time in microseconds since 1970-01-01 UTC; advisory, since order is [`Lsn`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimeUs(pub u64);

/// A moment of the past.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AsOf {
    /// After the entry with this LSN, and before the next one.
    Lsn(Lsn),
    /// After the last entry whose frame was sealed at or before this time. Times are advisory: they are those of the wall
    /// clock, but never decrease from one frame to the next.
    Time(TimeUs),
}

impl AsOf {
    /// Whether an entry with this LSN and time had been made by then.
    #[must_use]
    pub fn covers(self, lsn: Lsn, time: TimeUs) -> bool {
        match self {
            Self::Lsn(last) => lsn <= last,
            Self::Time(last) => time <= last,
        }
    }
}

impl fmt::Display for AsOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lsn(lsn) => write!(f, "LSN {lsn}"),
            Self::Time(time) => write!(f, "the time {} µs", time.0),
        }
    }
}
