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
    /// The right to write to a cold store. Reserved: always 0 while there is none.
    Epoch
}

/// A log's 128-bit key: 64 bits of the keyed BLAKE3 of its owner, then 64 of the keyed BLAKE3 of its whole name,
/// so that an owner's logs lie together. Ordered bytewise.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct LogId(pub [u8; 16]);

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

/// A stretch of history: a counter and 32 random bits. A restore, and an open that does not follow a clean close,
/// starts one. The zero timeline is that of the position before the first record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timeline {
    /// Grows by one with every new timeline of the store.
    pub counter: u32,
    /// Random, so that two histories that began at the same counter are told apart.
    pub random: u32,
}

impl fmt::Display for Timeline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}{:08x}", self.counter, self.random)
    }
}

/// Wall-clock time in microseconds since 1970-01-01 UTC; advisory, since order is [`Lsn`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimeUs(pub u64);
