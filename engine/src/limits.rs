//! Every limit of the engine, by name, checked against the others when it is compiled.

use crate::types::BLOCK;

/// A log's name, in bytes.
pub const NAME_BYTES_MAX: usize = 1024;
/// One record's payload, in bytes, in a store whose journal files have the default size.
/// A smaller journal file lowers it: see [`record_bytes_max`].
pub const RECORD_BYTES_MAX: usize = 8 << 20;
/// A log's metadata, in bytes.
pub const METADATA_BYTES_MAX: usize = 4096;
/// A log's opaque tag, in bytes.
pub const TAG_BYTES_MAX: usize = 256;
/// A producer's id, in bytes.
pub const PRODUCER_ID_BYTES_MAX: usize = 256;
/// Producers that one log remembers.
pub const PRODUCERS_PER_LOG_MAX: usize = 1024;
/// The numbers of a producer that keep their digest, so that a repeated one is told from a conflicting one.
pub const PRODUCER_WINDOW: usize = 64;
/// Timelines that one log remembers; the oldest go first and a cursor of theirs is then invalid.
pub const TIMELINES_PER_LOG_MAX: usize = 4096;
/// Entries (records and control operations) in one batch.
pub const BATCH_ENTRIES_MAX: usize = 65_536;
/// Room in a batch beside its largest record: headers, names, checksums, in bytes.
pub const BATCH_OVERHEAD_BYTES: usize = 8 << 10;

/// The default size of a journal file, in bytes.
pub const JOURNAL_FILE_BYTES_DEFAULT: u64 = 64 << 20;
/// The smallest journal file, in bytes.
pub const JOURNAL_FILE_BYTES_MIN: u64 = 64 << 10;
/// The largest journal file, in bytes: a frame is at most a quarter, and its length has 32 bits.
pub const JOURNAL_FILE_BYTES_MAX: u64 = 4 << 30;
/// The smallest number of files in the journal ring.
pub const JOURNAL_FILES_MIN: usize = 3;
/// A frame's header, in bytes. It stands here since limits are below the format, which asserts that it is so.
pub const FRAME_HEADER_BYTES: usize = 192;
/// The deepest queue of frames in flight.
pub const IN_FLIGHT_MAX: usize = 16;

/// What the scrub or a merge reads at once, and the least that either may be let read in a second, in bytes.
pub const STEP_BYTES: u64 = 1 << 20;

/// Whether a journal file is ever made with so many bytes.
#[must_use]
pub const fn is_journal_file_bytes(bytes: u64) -> bool {
    bytes.is_multiple_of(BLOCK as u64) && bytes >= JOURNAL_FILE_BYTES_MIN && bytes <= JOURNAL_FILE_BYTES_MAX
}

/// The largest frame in a journal of files of `journal_file_bytes`, header and padding included, in bytes.
#[must_use]
pub const fn frame_bytes_max(journal_file_bytes: u64) -> usize {
    (journal_file_bytes / 4) as usize / BLOCK * BLOCK
}

/// The largest encoded batch in a journal of files of `journal_file_bytes`, in bytes.
#[must_use]
pub const fn batch_bytes_max(journal_file_bytes: u64) -> usize {
    frame_bytes_max(journal_file_bytes) - FRAME_HEADER_BYTES
}

/// The largest record in a journal of files of `journal_file_bytes`, in bytes.
#[must_use]
pub const fn record_bytes_max(journal_file_bytes: u64) -> usize {
    let by_frame = batch_bytes_max(journal_file_bytes) - BATCH_OVERHEAD_BYTES;
    if by_frame < RECORD_BYTES_MAX { by_frame } else { RECORD_BYTES_MAX }
}

const _: () = {
    assert!(record_bytes_max(JOURNAL_FILE_BYTES_DEFAULT) == RECORD_BYTES_MAX);
    assert!(JOURNAL_FILE_BYTES_MIN.is_multiple_of(BLOCK as u64));
    assert!(frame_bytes_max(JOURNAL_FILE_BYTES_MIN) > BATCH_OVERHEAD_BYTES + BLOCK);
    assert!(frame_bytes_max(JOURNAL_FILE_BYTES_MAX) <= u32::MAX as usize);
    assert!(BATCH_OVERHEAD_BYTES >= NAME_BYTES_MAX + METADATA_BYTES_MAX + TAG_BYTES_MAX + PRODUCER_ID_BYTES_MAX + 512);
};
