//! The layout of every byte on disk, as docs/FORMAT.md states it: pure functions between bytes and values.
//!
//! Nothing here opens a file, keeps state or decides what to do about bytes that are wrong; a decoder says what is
//! wrong and at which offset. Every layout is a chain of `const` offsets, each made from the one before; numbers are
//! little-endian. Each length is bounded by what is left before anything is allocated.

pub mod block;
pub mod bytes;
pub mod chunk;
pub mod cold;
pub mod entry;
pub mod frame;
pub mod identity;
pub mod journal;
pub mod manifest;
pub mod sealed;
pub mod segment;
pub mod state;

/// The version of the format, in every file. Version 0 is unstable: a store of it is not promised to open later.
pub const FORMAT_VERSION: u16 = 0;

/// Feature bits, in the header of every file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// Unknown bits here may be ignored.
    pub compatible: u64,
    /// With an unknown bit here the file may be read and must not be written.
    pub read_only_compatible: u64,
    /// With an unknown bit here the file must not be read.
    pub incompatible: u64,
}

impl Features {
    /// The bits this version knows: none yet.
    pub const KNOWN: Self = Self { compatible: 0, read_only_compatible: 0, incompatible: 0 };

    /// Whether this version may write a store with these bits.
    #[must_use]
    pub fn writable(self) -> bool {
        self.readable() && self.read_only_compatible & !Self::KNOWN.read_only_compatible == 0
    }

    /// Whether this version may read a store with these bits.
    #[must_use]
    pub fn readable(self) -> bool {
        self.incompatible & !Self::KNOWN.incompatible == 0
    }
}

/// Why bytes are not what they should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// What is wrong.
    pub what: &'static str,
    /// Where, in bytes from the start of what was decoded.
    pub at: usize,
}

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} at byte {}", self.what, self.at)
    }
}

/// The result of a decoder.
pub type Decoded<T> = Result<T, Malformed>;
