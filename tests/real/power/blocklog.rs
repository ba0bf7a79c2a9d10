//! The log of a block device, as qemu's `blklogwrites` and the kernel's dm-log-writes write it: every write and every
//! flush, in the order in which the device took them.
//!
//! It reads a log and knows nothing of what the writes mean. The superblock's count of entries is not used, because
//! qemu brings it up to date only now and then: the entries end where the file ends. Invariant: what is not an entry of
//! this format is an error, never the end of the log.

use std::fs;
use std::io;
use std::ops::Range;
use std::path::Path;

/// The unit of the log, and the smallest piece that the device writes whole.
pub const SECTOR: usize = 512;

/// `jsfwgsr` read as a number: see include/linux or drivers/md/dm-log-writes.c in the kernel.
const MAGIC: u64 = 0x006a_7366_7773_6872;
const VERSION: u64 = 1;
const FLAG_FLUSH: u64 = 1;
const FLAG_FUA: u64 = 2;
const FLAG_DISCARD: u64 = 4;
const FLAG_MARK: u64 = 8;

/// One thing that the device was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Everything that was complete before it is stable once it is complete.
    Flush,
    /// Bytes for the sectors from `sector` on.
    Write {
        /// The first sector.
        sector: u64,
        /// Where the bytes stand in the log.
        bytes: Range<usize>,
        /// Stable once it is complete.
        fua: bool,
    },
}

/// A request and its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// How long the log was with this entry as its last: what the length of the log's file is compared with.
    pub end: u64,
    /// What was asked for.
    pub request: Request,
}

/// A whole log in memory.
#[derive(Debug)]
pub struct BlockLog {
    bytes: Vec<u8>,
    /// In the order in which they were complete.
    pub entries: Vec<Entry>,
}

impl BlockLog {
    /// Reads the log in `path`, which nobody writes any more.
    ///
    /// # Errors
    /// Reading it failed, or it is no log of this format.
    pub fn read(path: &Path) -> io::Result<Self> {
        Self::parse(fs::read(path)?)
    }

    /// The log in `bytes`.
    ///
    /// # Errors
    /// It is no log of this format.
    pub fn parse(bytes: Vec<u8>) -> io::Result<Self> {
        let word = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"));
        if bytes.len() < SECTOR || word(0) != MAGIC || word(8) != VERSION {
            return Err(wrong("it does not begin as a log of a block device does", 0));
        }
        // The field is 32 bits wide, and nothing but zeroes follows it.
        if word(24) as u32 as usize != SECTOR {
            return Err(wrong("its sectors are not of 512 bytes", 24));
        }
        let mut entries = Vec::new();
        let mut at = SECTOR;
        while at < bytes.len() {
            if bytes.len() - at < SECTOR {
                return Err(wrong("it ends within the head of an entry", at));
            }
            let (sector, sectors, flags) = (word(at), word(at + 8), word(at + 16));
            if flags & !(FLAG_FLUSH | FLAG_FUA) != 0 {
                // Nothing here is mounted or made with discards, and qemu sets no marks.
                let what = if flags & (FLAG_DISCARD | FLAG_MARK) != 0 { "a discard or a mark" } else { "no entry" };
                return Err(wrong(&format!("{what} (flags {flags:#x})"), at));
            }
            at += SECTOR;
            let left = (bytes.len() - at) as u64;
            let length = sectors.checked_mul(SECTOR as u64).filter(|length| *length <= left);
            let length = length.ok_or_else(|| wrong("it ends within the bytes of an entry", at))? as usize;
            if flags & FLAG_FLUSH != 0 {
                entries.push(Entry { end: at as u64, request: Request::Flush });
            }
            if length > 0 {
                let request = Request::Write { sector, bytes: at..at + length, fua: flags & FLAG_FUA != 0 };
                at += length;
                entries.push(Entry { end: at as u64, request });
            }
        }
        Ok(Self { bytes, entries })
    }

    /// The bytes of a write.
    #[must_use]
    pub fn bytes(&self, range: &Range<usize>) -> &[u8] {
        &self.bytes[range.clone()]
    }

    /// How many entries were complete when the log was `length` bytes long.
    #[must_use]
    pub fn complete_at(&self, length: u64) -> usize {
        self.entries.partition_point(|entry| entry.end <= length)
    }
}

fn wrong(what: &str, at: usize) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the log of the block device, byte {at}: {what}"))
}

#[cfg(test)]
pub(super) mod testing {
    use super::*;

    /// A log of these requests: `None` is a flush, and a write has its bytes with it.
    pub fn log(requests: &[Option<(u64, Vec<u8>)>]) -> BlockLog {
        BlockLog::parse(encode(requests)).expect("it is a log")
    }

    pub fn encode(requests: &[Option<(u64, Vec<u8>)>]) -> Vec<u8> {
        let sector_of = |words: [u64; 4]| {
            let mut sector: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            sector.resize(SECTOR, 0);
            sector
        };
        let mut bytes = sector_of([MAGIC, VERSION, 0, SECTOR as u64]);
        for request in requests {
            match request {
                None => bytes.extend(sector_of([0, 0, FLAG_FLUSH, 0])),
                Some((sector, data)) => {
                    bytes.extend(sector_of([*sector, (data.len() / SECTOR) as u64, 0, 0]));
                    bytes.extend(data);
                }
            }
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::testing::encode;
    use super::*;

    #[test]
    fn the_entries_end_where_the_file_ends_and_not_where_the_superblock_says() {
        let log = BlockLog::parse(encode(&[Some((8, vec![7; 1024])), None, Some((0, vec![1; 512]))])).expect("a log");
        assert_eq!(log.entries.len(), 3, "the superblock says none");
        assert_eq!(log.entries[0].end, 512 + 512 + 1024);
        let Request::Write { sector: 8, bytes, fua: false } = &log.entries[0].request else { panic!("a write") };
        assert_eq!(log.bytes(bytes), &[7; 1024]);
        assert_eq!(log.entries[1].request, Request::Flush);
        assert_eq!(log.complete_at(2047), 0);
        assert_eq!(log.complete_at(2048), 1);
    }

    #[test]
    fn a_log_that_is_cut_or_foreign_is_an_error() {
        let bytes = encode(&[Some((8, vec![7; 1024]))]);
        BlockLog::parse(bytes[..bytes.len() - 512].to_vec()).expect_err("a piece of the bytes is missing");
        BlockLog::parse(bytes[..bytes.len() - 1100].to_vec()).expect_err("the head is cut");
        BlockLog::parse(vec![0; 4096]).expect_err("there is no superblock");
        let mut mark = encode(&[None]);
        mark[SECTOR + 16] = FLAG_MARK as u8;
        BlockLog::parse(mark).expect_err("nothing here sets marks");
    }
}
