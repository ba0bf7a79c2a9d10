//! The settings of an open store.

use crate::error::{Error, ErrorKind, Result};
use crate::limits;
use std::time::Duration;

/// Which backend a store's disk is reached through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IoChoice {
    /// io_uring where the system allows it, else blocking system calls; both write past the page cache.
    #[default]
    Auto,
    /// io_uring alone; an error where the system refuses it.
    Uring,
    /// Blocking system calls on threads, writing past the page cache.
    Posix,
    /// Blocking system calls through the page cache, with a sync after each durable write. Slower, and weaker: after a
    /// failed sync the page cache may show bytes that the disk does not have. For file systems without O_DIRECT.
    Buffered,
}

/// What an append does when memory or the journal is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// It waits.
    #[default]
    Wait,
    /// It fails with [`ErrorKind::Overloaded`].
    Reject,
}

/// The settings of an open store. The defaults take under 256 MiB of disk for a new store.
#[derive(Clone, Debug)]
pub struct Config {
    /// The size of a new journal file in bytes, a multiple of 4096. A frame is at most a quarter of it, and the limits
    /// of batch and record follow. Files of another size that are there already are used on.
    pub journal_file_bytes: u64,
    /// The most files in the journal ring.
    pub journal_files_max: usize,
    /// The bound of all records in memory, with their logs, in bytes: those staged, in flight, and durable but not yet in
    /// a segment.
    /// Buffers are up to twice as long as what they hold, and half as many bytes of them may be kept for later use.
    pub memory_pool_bytes: usize,
    /// Durable bytes in memory that start a flush.
    pub flush_bytes: usize,
    /// Neighbouring segments of one size class that are merged into one of the next class. The more, the less is written
    /// and the more segments a log may lie in.
    pub merge_width: usize,
    /// How many bytes of chunks and index a merge takes over in a second at most while appends come in and no further merge is
    /// due, at least 1 MiB, and so many more for each larger one that waits for it; it writes about as many, and reads those
    /// back. 0: as many as it can.
    pub merge_bytes_per_second: u64,
    /// Bytes of the disk that are kept for merges, once the segments take four times as much: on a full disk one segment
    /// after the other is rewritten in it without what is dead. One of which more than this is alive finds no room. 0: none.
    pub merge_reserve_bytes: u64,
    /// For how long what is deleted or trimmed can be taken back; afterwards merges give its space back. It is measured by a
    /// clock that stands still while the store is closed: it may be longer, and is never shorter.
    pub grace: Duration,
    /// How many bytes of segments the scrub reads in a second at most, at least 1 MiB; 0: there is no scrub.
    pub scrub_bytes_per_second: u64,
    /// How long after the beginning of a pass over all segments the scrub begins the next one at the earliest. An open
    /// begins a pass.
    pub scrub_interval: Duration,
    /// Frames in flight.
    pub in_flight: usize,
    /// Log heads kept in memory beside those in use and those with records in no segment yet.
    pub heads_max: usize,
    /// Which backend talks to the disk.
    pub io: IoChoice,
    /// What an append does when memory or the journal is full.
    pub when_full: WhenFull,
    /// How long after the last append an empty frame carries the watermark to disk.
    pub idle_frame_after: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            journal_file_bytes: limits::JOURNAL_FILE_BYTES_DEFAULT,
            journal_files_max: 4,
            memory_pool_bytes: 192 << 20,
            flush_bytes: 64 << 20,
            merge_width: 8,
            merge_bytes_per_second: 64 << 20,
            merge_reserve_bytes: 256 << 20,
            grace: Duration::from_secs(30 * 24 * 3600),
            scrub_bytes_per_second: 4 << 20,
            scrub_interval: Duration::from_secs(24 * 3600),
            in_flight: 2,
            heads_max: 65_536,
            io: IoChoice::Auto,
            when_full: WhenFull::Wait,
            idle_frame_after: Duration::from_millis(10),
        }
    }
}

impl Config {
    /// Settings for a store that starts under 32 MiB of disk.
    #[must_use]
    pub fn small() -> Self {
        Self {
            journal_file_bytes: 8 << 20,
            journal_files_max: 3,
            memory_pool_bytes: 16 << 20,
            flush_bytes: 5 << 20,
            merge_reserve_bytes: 8 << 20,
            heads_max: 4096,
            ..Self::default()
        }
    }

    /// Refuses settings that contradict each other, naming the one to change.
    ///
    /// # Errors
    /// [`ErrorKind::Invalid`].
    pub fn check(&self) -> Result<()> {
        let frame = limits::frame_bytes_max(self.journal_file_bytes);
        let wrong = if !limits::is_journal_file_bytes(self.journal_file_bytes) {
            "journal_file_bytes must be a multiple of 4096 from 64 KiB to 4 GiB"
        } else if self.journal_files_max < limits::JOURNAL_FILES_MIN {
            "journal_files_max must be at least 3"
        } else if self.in_flight == 0 || self.in_flight > limits::IN_FLIGHT_MAX {
            "in_flight must be from 1 to 16"
        } else if self.memory_pool_bytes < 2 * frame {
            "memory_pool_bytes must hold two frames, half of journal_file_bytes"
        } else if self.flush_bytes == 0 || self.flush_bytes > self.memory_pool_bytes / 2 {
            "flush_bytes must be from 1 to half of memory_pool_bytes"
        } else if self.merge_width < 2 {
            "merge_width must be at least 2"
        } else if (1..limits::STEP_BYTES).contains(&self.merge_bytes_per_second) {
            "merge_bytes_per_second must be 0 or at least 1048576"
        } else if (1..limits::STEP_BYTES).contains(&self.scrub_bytes_per_second) {
            "scrub_bytes_per_second must be 0 or at least 1048576"
        } else if self.heads_max == 0 {
            "heads_max must be at least 1"
        } else {
            return Ok(());
        };
        Err(Error::new(ErrorKind::Invalid, "the settings contradict each other").remedy(wrong))
    }
}
