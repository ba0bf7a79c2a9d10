//! Lookups by name among the logs that were created in a segment. docs/FORMAT.md, "Names".
//!
//! Says nothing of logs that only have records here. Invariant: the names are sorted bytewise, over all blocks.

use super::reader::Segment;
use crate::error::Result;
use crate::format::block::Section;
use crate::format::bytes::Reader;
use crate::format::segment::NameEntry;
use crate::types::{LogId, Lsn};

impl Segment {
    /// The logs created here from the name `start` on, sorted by name, at most `limit` of them.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Damaged`], [`crate::ErrorKind::Io`].
    pub fn names_from(&self, start: &str, limit: usize) -> Result<Vec<(String, LogId, Lsn)>> {
        let mut out = Vec::new();
        let (mut low, mut high) = (0, self.footer.places.names.blocks);
        while low < high {
            let middle = low.midpoint(high);
            if self.first_name(middle)?.as_str() <= start {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        for n in low.saturating_sub(1)..self.footer.places.names.blocks {
            if out.len() == limit {
                break;
            }
            self.each_name(n, |entry| {
                if entry.name >= start && out.len() < limit {
                    out.push((entry.name.to_owned(), entry.log, entry.created));
                }
            })?;
        }
        Ok(out)
    }

    /// The name of a log that was created here. Reads all names: for reports of damage only.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Damaged`], [`crate::ErrorKind::Io`].
    pub fn name_of(&self, log: LogId) -> Result<Option<String>> {
        let mut found = None;
        for n in 0..self.footer.places.names.blocks {
            self.each_name(n, |entry| {
                if entry.log == log {
                    found = Some(entry.name.to_owned());
                }
            })?;
            if found.is_some() {
                break;
            }
        }
        Ok(found)
    }

    fn first_name(&self, n: u64) -> Result<String> {
        let number = self.footer.places.names.first + n;
        let body = self.view.body(Section::Names, number)?;
        let first = NameEntry::decode(&mut Reader::new(&body)).map_err(self.view.malformed(Section::Names, number))?;
        Ok(first.name.to_owned())
    }

    /// Calls `each` with the names of a block, counted from 0.
    pub(super) fn each_name(&self, n: u64, mut each: impl FnMut(NameEntry<'_>)) -> Result<()> {
        let number = self.footer.places.names.first + n;
        let body = self.view.body(Section::Names, number)?;
        let mut reader = Reader::new(&body);
        while reader.left() > 0 {
            each(NameEntry::decode(&mut reader).map_err(self.view.malformed(Section::Names, number))?);
        }
        Ok(())
    }
}
