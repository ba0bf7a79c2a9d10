//! What a sync did, in one line or one JSON object, and which exit code that is.
//!
//! Invariant: whatever was left out is named with its reason, and then the exit code is not 0.

use std::io::{self, Write};

use serde::Serialize;

use super::collection::Collection;
use everlog_server::failure::Failure;

#[derive(Serialize, Default)]
pub struct Report {
    /// Files that went to the server.
    pub pushed: u64,
    /// Files that came from it.
    pub pulled: u64,
    /// Items of which both versions were kept.
    pub conflicts: u64,
    /// Deletions that went either way.
    pub deleted: u64,
    pub photo_bytes_uploaded: u64,
    pub photo_bytes_downloaded: u64,
    pub skipped: Vec<Skipped>,
}

#[derive(Serialize)]
pub struct Skipped {
    pub collection: &'static str,
    pub key: String,
    pub why: String,
    /// The record itself is bad or could not be had; else something here stands in its way.
    pub damaged: bool,
}

impl Report {
    /// Something here stands in the item's way.
    pub fn skip(&mut self, collection: Collection, key: &str, why: impl Into<String>) {
        self.add(collection, key, why.into(), false);
    }

    /// The record on the server is bad, or could not be had.
    pub fn damaged(&mut self, collection: Collection, key: &str, why: impl Into<String>) {
        self.add(collection, key, why.into(), true);
    }

    fn add(&mut self, collection: Collection, key: &str, why: String, damaged: bool) {
        let collection = collection.name;
        // Rounds repeat what they meet.
        if !self.skipped.iter().any(|other| (other.collection, other.key.as_str()) == (collection, key)) {
            self.skipped.push(Skipped { collection, key: key.to_owned(), why, damaged });
        }
    }

    pub fn print(&self, json: bool) -> io::Result<()> {
        let mut out = io::stdout().lock();
        if json {
            return writeln!(out, "{}", serde_json::to_value(self).map_err(io::Error::other)?);
        }
        writeln!(out, "{}", self.line())?;
        let mut errors = io::stderr().lock();
        self.skipped.iter().try_for_each(|item| {
            writeln!(errors, "Skipped {}/{}: {}.", item.collection, item.key.escape_debug(), item.why)
        })
    }

    fn line(&self) -> String {
        format!(
            "pushed {}, pulled {}, conflicts {}, deleted {}, photo bytes uploaded {}, downloaded {}, skipped {}",
            self.pushed,
            self.pulled,
            self.conflicts,
            self.deleted,
            self.photo_bytes_uploaded,
            self.photo_bytes_downloaded,
            self.skipped.len()
        )
    }

    /// Done, unless something was left out.
    pub fn verdict(&self) -> Result<(), Failure> {
        let damaged = self.skipped.iter().filter(|item| item.damaged).count();
        if damaged > 0 {
            let cause = format!("{} could not be had from the server; all others were synced", items(damaged));
            return Err(Failure::new(4, cause, "see above which and why, and sync again once that is mended"));
        }
        if self.skipped.is_empty() {
            return Ok(());
        }
        let cause = format!("{} skipped; all others were synced", items(self.skipped.len()));
        Err(Failure::new(1, cause, "see above which and why, and sync again once that is mended"))
    }
}

/// What a failure says of its cause, as a clause.
pub fn cause(failure: &Failure) -> String {
    failure.to_string().lines().next().unwrap_or_default().trim_end_matches('.').to_owned()
}

/// The same failure, with more to say about what it means.
pub fn and(failure: &Failure, more: &str) -> Failure {
    let told = failure.to_string();
    let remedy = told.lines().nth(1).unwrap_or_default();
    Failure::new(failure.code(), format!("{}; {more}", cause(failure)), remedy)
}

fn items(count: usize) -> String {
    if count == 1 { "one item".to_owned() } else { format!("{count} items") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::collection::ALL;

    #[test]
    fn a_failure_can_say_more() {
        let failure = and(&Failure::new(1, "it broke", "mend it"), "two wait");
        assert_eq!((failure.code(), failure.to_string()), (1, "It broke; two wait.\nMend it.".to_owned()));
    }

    #[test]
    fn what_is_left_out_decides_the_code() {
        let mut report = Report::default();
        assert!(report.verdict().is_ok());
        report.skip(ALL[0], "a", "it is odd");
        report.skip(ALL[0], "a", "it is odd");
        assert_eq!(report.skipped.len(), 1);
        assert_eq!(report.verdict().expect_err("one is left out").code(), 1);
        report.damaged(ALL[1], "a", "it is bad");
        assert_eq!(report.verdict().expect_err("one is bad").code(), 4);
    }
}
