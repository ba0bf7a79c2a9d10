//! Which segments are merged: neighbours of one size class, once there are enough of them.
//!
//! Pure. Size classes are as in size-tiered compaction (Cassandra, and RocksDB's "universal" style), but only neighbours
//! in time are merged, so that each segment covers one range of LSNs. Each byte is written about once a class, and a
//! class holds fewer than `width` segments when merges keep up: with segments of 40 MB and a width of 8, a store of 20 GB has four
//! classes.

use std::ops::Range;

/// What size classes are made by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// So many segments of a class are merged; each class is so many times the one below.
    pub(super) width: usize,
    /// About the size of what a flush writes, in bytes.
    pub(super) flushed: u64,
}

impl Sizes {
    /// The class of a segment. What flushes write lies well within one.
    pub(super) fn level(self, bytes: u64) -> u32 {
        let (width, bytes) = (self.width as u64, bytes.max(1));
        let mut least = (self.flushed / 3).max(1);
        let mut level = 8;
        while bytes < least && level > 0 {
            least = (least / width).max(1);
            level -= 1;
        }
        while let Some(next) = least.checked_mul(width).filter(|next| *next <= bytes) {
            least = next;
            level += 1;
        }
        level
    }
}

/// Neighbours that are due to be merged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Due {
    /// Their class.
    pub(super) level: u32,
    /// Which of the segments they are, those of lower classes between them included.
    pub(super) range: Range<usize>,
    /// How many they are.
    pub(super) members: usize,
}

/// All neighbours that are due, the lowest class first. `bytes` are the sizes of all segments, oldest first; None for one
/// that cannot be merged now.
///
/// What lies between two of them and is smaller is merged with them; what is larger, or cannot be merged, parts them.
pub(super) fn due(sizes: &Sizes, bytes: &[Option<u64>]) -> Vec<Due> {
    let levels: Vec<Option<u32>> = bytes.iter().map(|bytes| bytes.map(|bytes| sizes.level(bytes))).collect();
    let mut classes: Vec<u32> = levels.iter().flatten().copied().collect();
    classes.sort_unstable();
    classes.dedup();
    let mut out = Vec::new();
    for class in classes {
        let mut members: Vec<usize> = Vec::new();
        for (n, level) in levels.iter().copied().chain([None]).enumerate() {
            match level {
                Some(level) if level == class => members.push(n),
                Some(level) if level < class => {}
                _ => {
                    if let (true, Some(last)) = (members.len() >= sizes.width, members.last()) {
                        out.push(Due { level: class, range: members[0]..last + 1, members: members.len() });
                    }
                    members.clear();
                }
            }
            // What came together while a larger merge went on is merged at once; within bounds, since each input is held
            // open and takes memory.
            let long = members.first().is_some_and(|first| n + 1 - first >= 4 * sizes.width);
            if members.len() == 2 * sizes.width || (long && members.len() >= sizes.width) {
                out.push(Due { level: class, range: members[0]..n + 1, members: members.len() });
                members.clear();
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: Sizes = Sizes { width: 4, flushed: 300 };

    fn picked(bytes: &[u64]) -> Option<Range<usize>> {
        let bytes: Vec<_> = bytes.iter().map(|bytes| (*bytes != 0).then_some(*bytes)).collect();
        due(&SIZES, &bytes).into_iter().next().map(|due| due.range)
    }

    #[test]
    fn enough_neighbours_of_one_class_are_merged_and_the_lowest_class_first() {
        assert_eq!(picked(&[]), None);
        assert_eq!(picked(&[300, 280, 310]), None);
        assert_eq!(picked(&[300, 280, 310, 290]), Some(0..4));
        assert_eq!(picked(&[1300, 300, 280, 310, 290, 300]), Some(1..6));
        assert_eq!(picked(&[1300, 1200, 1250, 1300, 300, 280, 310, 290]), Some(4..8));
        assert_eq!(picked(&[1300, 1200, 1250, 1300, 300, 280, 310]), Some(0..4));
        assert_eq!(picked(&[300; 30]), Some(0..8), "no more than twice the width at once");
    }

    #[test]
    fn smaller_ones_between_come_along_and_others_part() {
        assert_eq!(picked(&[300, 5, 300, 5, 300, 300]), Some(0..6));
        assert_eq!(picked(&[300, 300, 5000, 300, 300]), None);
        assert_eq!(picked(&[300, 300, 0, 300, 300]), None, "one that cannot be merged parts them");
        assert_eq!(picked(&[300, 300, 5000, 300, 300, 300, 300]), Some(3..7));
    }

    #[test]
    fn each_byte_is_written_about_once_a_class() {
        let (mut set, mut written, mut most) = (Vec::new(), 0, 0);
        const FLUSHES: u64 = 4096;
        for _ in 0..FLUSHES {
            set.push(300);
            while let Some(range) = picked(&set) {
                let merged: u64 = set[range.clone()].iter().sum();
                written += merged;
                set.splice(range, [merged]);
            }
            most = most.max(set.len());
        }
        assert_eq!(written, 6 * FLUSHES * 300, "4^6 flushes are six classes");
        assert!(most <= 18, "{most} segments");
    }
}
